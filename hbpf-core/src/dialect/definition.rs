//! What makes up a dialect.

use std::fmt;
use std::sync::LazyLock;

use super::shape::Shape;
use crate::exchange::{Api, Dialect, Usage};
use crate::http1::ResponseHead;
use crate::json::{PathSet, Want};

/// A dialect.
pub(super) struct Definition {
    pub(super) dialect: Dialect,
    /// Where it is served.
    pub(super) targets: &'static [Target],
    /// What matters in requests.
    pub(super) request: Paths<RequestSlot>,
    /// What matters in answers: whole ones, events of streams, and errors.
    pub(super) response: Paths<Slot>,
    /// Whether an answer is streamed when the request does not say.
    pub(super) stream_default: bool,
    /// Streams are one document a line, not server-sent events.
    pub(super) streams_lines: bool,
    /// The [`Slot::Type`] of the event that ends a stream, where there is one.
    pub(super) final_type: Option<&'static str>,
    /// Whether a choice whose text is present but empty counts as a token that decodes to nothing.
    pub(super) blank_is_output: fn(&Choice) -> bool,
    pub(super) estimate: Estimate,
    /// Brings the counts into normal form.
    pub(super) usage: fn(&Counts) -> Usage,
    /// What an event of that name is, where a [`Slot::EventType`] tells it.
    pub(super) event_kind: fn(&[u8]) -> EventKind,
    /// The counts that an answer's head has.
    pub(super) head_counts: fn(&ResponseHead<'_>) -> Option<Counts>,
    /// Answers may be something that is not read: speech, images, tensors.
    pub(super) may_be_opaque: bool,
}

/// Places in documents: of a dialect that is built in, or of one that a user has described.
#[derive(Clone, Copy)]
pub(super) enum Paths<S: 'static> {
    Lazy(&'static LazyLock<PathSet<S>>),
    Ready(&'static PathSet<S>),
}

impl fmt::Debug for Definition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Definition").field(&self.dialect).finish()
    }
}

/// There is one of each.
impl PartialEq for Definition {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self, other)
    }
}

impl<S> Paths<S> {
    pub(super) fn get(&self) -> &'static PathSet<S> {
        match self {
            Self::Lazy(paths) => paths,
            Self::Ready(paths) => paths,
        }
    }
}

/// What most dialects have in common. A dialect of its own says at least which it is, where it is served and what its answers
/// look like.
pub(super) const DEFAULT: Definition = Definition {
    dialect: Dialect::OpenaiChat,
    targets: &[],
    request: Paths::Lazy(&COMMON_REQUEST),
    response: Paths::Lazy(&NOTHING),
    stream_default: false,
    streams_lines: false,
    final_type: None,
    blank_is_output: |_| false,
    estimate: Estimate::PerChoice,
    usage: totals,
    event_kind: |_| EventKind::Other,
    head_counts: |_| None,
    may_be_opaque: false,
};

/// Of a user's API of which nothing more is known.
pub(super) static NOT_BUILT_IN: Definition = Definition { dialect: Dialect::Custom, ..DEFAULT };

static NOTHING: LazyLock<PathSet<Slot>> = LazyLock::new(|| PathSet::new(&[]));

/// The path says all.
pub(super) static NO_REQUEST: LazyLock<PathSet<RequestSlot>> = LazyLock::new(|| PathSet::new(&[]));

/// Counts that are in normal form already: both totals include what was cached and what was reasoning.
pub(super) fn totals(counts: &Counts) -> Usage {
    Usage {
        input: counts.get(Count::Input),
        output: counts.get(Count::Output),
        cached_input: counts.get(Count::CacheRead),
        cache_creation_input: counts.get(Count::CacheWrite),
        cache_creation_long: counts.get(Count::CacheWriteLong),
        reasoning: counts.get(Count::Reasoning),
        audio_input: counts.get(Count::AudioInput),
        audio_output: counts.get(Count::AudioOutput),
        image_input: counts.get(Count::ImageInput),
        image_output: counts.get(Count::ImageOutput),
        images: counts.get(Count::Images),
        audio_milliseconds: counts.get(Count::AudioMilliseconds),
        ..Usage::default()
    }
}

/// Places in answers by servers that take several prompts at once: an answer is as these say, of several a document is an array,
/// and events are about one each.
pub(super) fn one_or_several(answer: &[(&'static str, Want, Slot)]) -> PathSet<Slot> {
    let of_events = [
        ("index", Want::Scalar, Slot::AnswerIndex),
        ("error", Want::Length, Slot::Error),
        ("error.type", Want::Scalar, Slot::ErrorType),
        ("error.code", Want::Scalar, Slot::ErrorCode),
    ];
    let answers = PathSet::new(answer).and_within("", &of_events).and_within("[]", answer);
    answers.and_within("[]", &[("", Want::Length, Slot::Answer)])
}

/// Reads counts from the headers of these names.
pub(super) fn counts_of_headers(head: &ResponseHead<'_>, names: &[(&str, Count)]) -> Option<Counts> {
    let number = |name| std::str::from_utf8(head.header(name)?).ok()?.trim().parse().ok();
    let mut counts = Counts::default();
    for (name, count) in names {
        if let Some(number) = number(name) {
            counts.set(*count, number);
        }
    }
    (counts != Counts::default()).then_some(counts)
}

/// The end of a path at which a dialect is served, whatever stands before it.
pub(super) struct Target {
    /// Begins with `/` or `:`, which is where the kernel side looks for it.
    pub(super) suffix: &'static str,
    pub(super) api: Api,
    pub(super) proof: Proof,
}

/// What it takes, beside the path, to hold a request for a model call.
#[derive(Clone, Copy, Debug)]
pub(super) enum Proof {
    /// Nothing: nobody else uses such a path.
    Path,
    /// A body that names a model: other services use such paths too.
    Model,
    /// A path that names a model: one of these and its name stand before the suffix.
    ModelBehind(&'static [&'static str]),
    /// Bodies that are gRPC's, by their content type.
    Grpc,
    /// A body that has what only this API's have.
    Body(fn(&Shape) -> bool),
}

/// How tokens are estimated from events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Estimate {
    /// One for each choice with output.
    PerChoice,
    /// Events hold several tokens.
    FromBytes,
}

/// What a place in a request means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RequestSlot {
    Model,
    Stream,
    IncludeUsage,
    /// One of several prompts: text, or tokens. A number is a token of one prompt.
    Prompt,
    /// How many answers there shall be.
    Answers,
    /// JSON-RPC's method.
    Method,
    /// What the method is about.
    Name,
}

/// The places in requests that nearly all dialects have.
pub(super) static COMMON_REQUEST: LazyLock<PathSet<RequestSlot>> = LazyLock::new(|| {
    PathSet::new(&[
        ("model", Want::Scalar, RequestSlot::Model),
        ("stream", Want::Scalar, RequestSlot::Stream),
        ("stream_options.include_usage", Want::Scalar, RequestSlot::IncludeUsage),
    ])
});

/// What a place in an answer means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Slot {
    Model,
    ResponseId,
    FinishReason,
    /// Likewise, and only the last event has it.
    LastReason,
    /// The kind of event or document.
    Type,
    /// Likewise, where it says what the event is: see [`EventKind`].
    EventType,
    /// What an event adds to something, output or not: its kind says.
    Delta,
    /// A part of the output is reasoning.
    IsReasoning,
    /// The end of a part: what it adds is output.
    Part,
    /// How it stands with an answer.
    Status,
    /// Which answer an event is about, on connections that carry several.
    Response,
    /// Which of several conversations on one connection an event is about.
    Stream,
    /// Which message of the client has caused an error.
    Cause,
    Done,
    /// Only the last event has this place.
    Last,
    /// Likewise, and it holds text.
    LastText,
    /// An error's type.
    ErrorType,
    /// An error's code, where there is no type.
    ErrorCode,
    /// A code beside the answer itself: an error's if the answer is one.
    TopCode,
    /// A tool has failed.
    ToolFailed,
    /// An error, as an object or as text.
    Error,
    /// The end of one of several alternative outputs.
    Choice,
    /// The end of one of several answers in one document, whose counts add up.
    Answer,
    /// Which of several answers, from 0, an event of the stream is about.
    AnswerIndex,
    Role,
    /// Output that people or programs see: text by its length, tool calls by their presence.
    Visible,
    /// The same, but where it is no text its parts say what they are.
    Content,
    /// Output that is reasoning.
    Reasoning,
    Count(Count),
    /// One of several images.
    Image,
    /// For how long sound was listened to.
    AudioSeconds,
    /// What holds these counts, of which those are left out that are 0. Where all are, nothing is said.
    Counts(&'static [Count]),
    /// Only this provider has this place.
    Vendor(&'static str),
    Fingerprint,
    /// For how long it has waited inside the server.
    QueueSeconds,
    QueueMilliseconds,
    /// How long what was written to a cache is kept there, and how much it is: parts of a [`Slot::CacheDetail`].
    CacheTime,
    CacheTokens,
    /// The end of one of several that add up.
    CacheDetail,
    /// In which tier it was served.
    Tier,
    /// Anthropic's word for whether it was served fast, beside the tier.
    Speed,
    /// What it has cost, in US dollars.
    Dollars,
    /// Whether that is a gateway's fee only, for the rest is paid by the caller's own key, and what the rest is.
    OwnKey,
    UpstreamDollars,
    /// The same in ten thousand millionths of a dollar, by which xAI is known.
    Ticks,
}

/// What an event of an API is that names its events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum EventKind {
    /// The server has begun to answer.
    Created,
    /// Output that people or programs see.
    Output,
    /// Output that is reasoning.
    Reasoning,
    /// The answer is over.
    Ended,
    /// It has failed.
    Failed,
    /// An error, of an answer or of what was asked.
    Error,
    #[default]
    Other,
}

/// The counts that servers report. What they mean together, [`Definition::usage`] knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Count {
    Input,
    ToolInput,
    BilledInput,
    Output,
    BilledOutput,
    Total,
    Reasoning,
    CacheRead,
    CacheWrite,
    CacheWriteShort,
    CacheWriteLong,
    CacheHit,
    CacheMiss,
    TimingsCached,
    TimingsPrompt,
    TimingsOutput,
    AudioInput,
    AudioOutput,
    ImageInput,
    ImageOutput,
    Images,
    AudioMilliseconds,
    Searches,
}

const COUNTS: usize = Count::Searches as usize + 1;

/// The last value seen of each count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts([Option<u64>; COUNTS]);

impl Counts {
    pub(super) fn get(&self, count: Count) -> Option<u64> {
        self.0[count as usize]
    }

    pub(super) fn set(&mut self, count: Count, value: u64) {
        self.0[count as usize] = Some(value);
    }

    pub(super) fn forget(&mut self, count: Count) {
        self.0[count as usize] = None;
    }

    /// Takes over what `later` knows.
    pub(super) fn update(&mut self, later: &Self) {
        for (mine, theirs) in self.0.iter_mut().zip(later.0) {
            *mine = theirs.or(*mine);
        }
    }

    /// Adds what `other` knows.
    pub(super) fn add(&mut self, other: &Self) {
        for (mine, theirs) in self.0.iter_mut().zip(other.0) {
            *mine = theirs.map(|theirs| mine.unwrap_or(0).saturating_add(theirs)).or(*mine);
        }
    }

    /// The sum of those that are known; none if none is.
    pub(super) fn sum(&self, counts: &[Count]) -> Option<u64> {
        let known = counts.iter().filter_map(|count| self.get(*count));
        known.reduce(u64::saturating_add)
    }
}

/// One of several alternative outputs within one event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Choice {
    pub(super) visible: bool,
    pub(super) reasoning: bool,
    /// Text is present but empty.
    pub(super) blank: bool,
    pub(super) has_role: bool,
    pub(super) has_finish_reason: bool,
}
