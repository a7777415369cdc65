//! What makes up a dialect.

use std::sync::LazyLock;

use crate::exchange::{Api, Dialect, Usage};
use crate::json::{PathSet, Want};

/// A dialect.
pub(super) struct Definition {
    pub(super) dialect: Dialect,
    /// Where it is served.
    pub(super) targets: &'static [Target],
    /// What matters in requests.
    pub(super) request: &'static LazyLock<PathSet<RequestSlot>>,
    /// What matters in answers: whole ones, events of streams, and errors.
    pub(super) response: &'static LazyLock<PathSet<Slot>>,
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
}

/// The end of a path at which a dialect is served, whatever stands before it.
pub(super) struct Target {
    /// Begins with `/` or `:`, which is where the kernel side looks for it.
    pub(super) suffix: &'static str,
    pub(super) api: Api,
    pub(super) proof: Proof,
}

/// What it takes, beside the path, to hold a request for a model call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Proof {
    /// Nothing: nobody else uses such a path.
    Path,
    /// A body that names a model: other services use such paths too.
    Model,
    /// A path that names a model: `/model/`, `/models/` or `/tunedModels/` and its name stand before the suffix.
    ModelInPath,
    /// Bodies that are gRPC's, by their content type.
    Grpc,
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
    /// An error's type.
    ErrorType,
    /// An error's code, where there is no type.
    ErrorCode,
    /// A code beside the answer itself: an error's if the answer is one.
    TopCode,
    /// An error, as an object or as text.
    Error,
    /// The end of one of several alternative outputs.
    Choice,
    Role,
    /// Output that people or programs see: text by its length, tool calls by their presence.
    Visible,
    /// Output that is reasoning.
    Reasoning,
    Count(Count),
    /// What holds these counts, of which those are left out that are 0. Where all are, nothing is said.
    Counts(&'static [Count]),
    /// Only this provider has this place.
    Vendor(&'static str),
    Fingerprint,
    /// What it has cost, in US dollars.
    Dollars,
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
    Billed,
    Output,
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
}

const COUNTS: usize = Count::TimingsOutput as usize + 1;

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

    /// Takes over what `later` knows.
    pub(super) fn update(&mut self, later: &Self) {
        for (mine, theirs) in self.0.iter_mut().zip(later.0) {
            *mine = theirs.or(*mine);
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
