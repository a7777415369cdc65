//! Reads the documents of one answer.

use std::hash::Hasher;

use super::definition::{Choice, Count, Counts, Definition, Estimate, EventKind, Slot};
use super::{Facts, Output, bedrock, responses};
use crate::exchange::{ServiceTier, Usage};
use crate::framing::{Documents, MessageKind};
use crate::json::{Outcome, Scanner, Value, Visitor, scan_tail};
use crate::label::Label;
use crate::protobuf;
use crate::time::Nanos;

/// Bytes of text to a token, for dialects whose events hold several: about what English and code have with today's
/// vocabularies. An estimate is an estimate; reported counts replace it.
const BYTES_PER_TOKEN: u64 = 4;

/// Most tokens that a running count is believed to have grown by in one event: gateways merge events, and a gap hides
/// some, but a number that leaps farther is no running count.
const MAX_TOKENS_PER_EVENT: u64 = 16 * 1024;

/// No recording is as long as that: a year.
const MAX_AUDIO_SECONDS: f64 = 366.0 * 86_400.0;

/// No error has a number as large as that.
const MAX_ERROR_CODE: f64 = 1e9;

/// `usage.cost_in_usd_ticks` of xAI.
const TICKS_PER_DOLLAR: f64 = 1e10;

/// The state that the documents of one answer share.
pub(super) struct Reading {
    scanner: Scanner<Slot>,
    marker: DoneMarker,
    found: Found,
    counts: Counts,
    output_events: u64,
    output_bytes: u64,
    estimated_tokens: u64,
    /// The counts came with an event that has output: more may follow.
    counts_are_running: bool,
    /// The server's running count of output tokens, as of the last event with output.
    running_count: Option<u64>,
}

/// What the current document says, until it is known to be whole: half a document counts for nothing.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Event {
    pub(super) kind: EventKind,
    /// Bytes of what the event, or a part of it, adds to something.
    delta: u64,
    part_is_reasoning: bool,
    /// How it stands with the answer, where that is its end.
    status: Option<&'static str>,
    /// Numbers that stand for which answer, conversation and message of the client it is about; `None` where it does not say.
    pub(super) response: Option<u64>,
    pub(super) stream: Option<u64>,
    pub(super) cause: Option<u64>,
    counts: Counts,
    has_counts: bool,
    cache_detail: CacheDetail,
    tier: Option<ServiceTier>,
    is_fast: bool,
    charge: Charge,
    /// The sum over those answers in the document that are over.
    answers: Option<Counts>,
    choice: Choice,
    visible_choices: u32,
    reasoning_choices: u32,
    bytes: u64,
    is_final: bool,
    is_error: bool,
}

/// A part of what was written to a cache.
#[derive(Clone, Copy, Debug, Default)]
struct CacheDetail {
    count: Option<Count>,
    tokens: u64,
}

/// What an answer says that it has cost, in US dollars.
#[derive(Clone, Copy, Debug, Default)]
struct Charge {
    dollars: Option<f64>,
    is_own_key: bool,
    upstream: Option<f64>,
}

impl Charge {
    /// All of it. With a key of the caller's own it is known only together with what that pays.
    fn total(&self) -> Option<f64> {
        let dollars = self.dollars?;
        if self.is_own_key { Some(dollars + self.upstream?) } else { Some(dollars) }
    }
}

/// Where a scanner's findings go.
pub(super) struct Found {
    definition: &'static Definition,
    pub(super) event: Event,
    error_rank: ErrorRank,
    /// The status says that the answer is an error.
    is_error_answer: bool,
    /// The stream is several answers, each with counts of its own, of which the last that was seen is no sum.
    is_several: bool,
}

impl Found {
    /// Nothing yet.
    pub(super) fn new(definition: &'static Definition) -> Self {
        let (event, error_rank) = (Event::default(), ErrorRank::default());
        Self { definition, event, error_rank, is_error_answer: false, is_several: false }
    }

    pub(super) fn definition(&self) -> &'static Definition {
        self.definition
    }
}

/// How well an error is named.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
enum ErrorRank {
    #[default]
    Unnamed,
    /// There is nothing but a text.
    Text,
    /// A type that says of what there was too much, not that there was.
    Quota,
    Code,
    /// A type beside other things, not in an error object.
    Beside,
    Type,
}

impl ErrorRank {
    fn of_type(name: &[u8]) -> Self {
        // OpenAI and Groq, where a limit by the minute or the day is reached; the code says so.
        if matches!(name, b"tokens" | b"requests") { Self::Quota } else { Self::Type }
    }
}

impl Reading {
    pub(super) fn new(definition: &'static Definition) -> Self {
        Self {
            scanner: Scanner::new(definition.response.get()),
            marker: DoneMarker::default(),
            found: Found::new(definition),
            counts: Counts::default(),
            output_events: 0,
            output_bytes: 0,
            estimated_tokens: 0,
            counts_are_running: false,
            running_count: None,
        }
    }

    /// Memory that it holds beyond its own size, in bytes.
    pub(super) fn memory(&self) -> usize {
        self.scanner.memory()
    }

    /// Gives up what costs memory and is missed by nobody.
    pub(super) fn shed(&mut self) {
        self.scanner.shed();
    }

    pub(super) fn definition(&self) -> &'static Definition {
        self.found.definition
    }

    /// The status says that the answer is an error.
    pub(super) fn set_error_answer(&mut self) {
        self.found.is_error_answer = true;
    }

    /// The answer's head names an error.
    pub(super) fn name_error(&mut self, facts: &mut Facts, name: &[u8]) {
        Finder { facts, found: &mut self.found }.name_error(ErrorRank::Type, name);
    }

    /// The answer's head has counts: those of the body, where it has some, replace them.
    pub(super) fn set_counts(&mut self, facts: &mut Facts, counts: &Counts) {
        self.counts.update(counts);
        facts.usage = (self.definition().usage)(&self.counts);
    }

    /// The next bytes of the current document.
    pub(super) fn push(&mut self, facts: &mut Facts, bytes: &[u8]) {
        self.scanner.push(bytes, &mut Finder { facts, found: &mut self.found });
    }

    /// An answer that is one document has a hole from here on. What stood before it stands.
    pub(super) fn whole_gap(&mut self, facts: &mut Facts) {
        self.scanner.begin();
        // Of images in the hole nothing is known, nor how many there are.
        self.found.event.counts.forget(Count::Images);
        self.keep(facts);
    }

    /// An answer that is one document is over. Counts that were complete before it was cut are as good as any.
    pub(super) fn whole_end(&mut self, facts: &mut Facts) {
        match self.end_document(facts) {
            Outcome::Complete => {
                self.keep(facts);
                facts.finished = true;
            }
            Outcome::Incomplete => {
                self.keep(facts);
            }
            Outcome::Malformed => self.miss(facts),
            Outcome::Empty => {}
        }
    }

    /// The end of an answer that is one document, whose middle was not seen.
    pub(super) fn whole_tail(&mut self, facts: &mut Facts, tail: &[u8]) {
        let paths = self.definition().response.get();
        if scan_tail(tail, paths, &mut Finder { facts: &mut *facts, found: &mut self.found }) {
            self.keep(facts);
            facts.finished = true;
        } else {
            self.miss(facts);
        }
    }

    fn end_document(&mut self, facts: &mut Facts) -> Outcome {
        self.scanner.end(&mut Finder { facts, found: &mut self.found })
    }

    /// Takes over what the current document said, and gives it for its output.
    fn keep(&mut self, facts: &mut Facts) -> Event {
        let definition = self.definition();
        let mut event = std::mem::take(&mut self.found.event);
        event.end_choice(definition);
        if let Some(answers) = event.answers {
            event.counts = answers;
        } else if self.found.is_several || facts.asks_for_several {
            (event.counts, event.has_counts) = (Counts::default(), false);
            facts.usage = Usage::default();
        }
        if event.has_counts {
            self.counts.update(&event.counts);
            facts.usage = (definition.usage)(&self.counts);
            facts.usage_is_partial = false;
            self.counts_are_running = event.choices_with_output() > 0;
        }
        if event.is_fast {
            facts.tier = Some(ServiceTier::Fast);
        } else if facts.tier != Some(ServiceTier::Fast) {
            facts.tier = event.tier.or(facts.tier);
        }
        if event.charge.dollars.is_some() {
            facts.cost_usd = event.charge.total();
        }
        facts.is_error |= event.is_error;
        facts.finished |= event.is_final;
        if let Some(status) = event.status
            && facts.finish_reason.is_none()
        {
            set_label(&mut facts.finish_reason, status.as_bytes());
        }
        event
    }

    /// Takes over what a document said that was read elsewhere, and gives its output.
    pub(super) fn keep_event(&mut self, facts: &mut Facts, event: Event, when: Nanos) -> Option<Output> {
        self.found.event = event;
        let event = self.keep(facts);
        self.output(&event, when)
    }

    fn output(&mut self, event: &Event, when: Nanos) -> Option<Output> {
        (event.choices_with_output() > 0).then(|| {
            let tokens = self.tokens(event);
            Output { when, tokens, visible: event.visible_choices > 0 }
        })
    }

    /// A document that may have been about this answer could not be read.
    pub(super) fn miss_event(&mut self, facts: &mut Facts) {
        self.miss(facts);
    }

    fn miss(&mut self, facts: &mut Facts) {
        self.found.event = Event::default();
        facts.missed_events += 1;
        facts.usage_is_partial |= self.counts_are_running;
    }

    /// Tokens of an event with output.
    fn tokens(&mut self, event: &Event) -> u64 {
        self.output_events += 1;
        self.output_bytes = self.output_bytes.saturating_add(event.bytes);
        let estimate = match self.definition().estimate {
            Estimate::PerChoice => u64::from(event.choices_with_output()),
            Estimate::FromBytes => {
                let total = self.output_events.max(self.output_bytes / BYTES_PER_TOKEN);
                total.saturating_sub(self.estimated_tokens)
            }
        };
        self.estimated_tokens += estimate;
        // A server that counts along in every event is exact; a count that comes with the last event alone is not
        // that event's own.
        let count = event.counts.get(Count::Output);
        let before = std::mem::replace(&mut self.running_count, count);
        let grown = match (count, before) {
            (Some(count), Some(before)) => count.checked_sub(before),
            (Some(count), None) if self.output_events == 1 => Some(count),
            _ => None,
        };
        grown.filter(|grown| (1..=MAX_TOKENS_PER_EVENT).contains(grown)).unwrap_or(estimate)
    }
}

impl Event {
    /// Whether it says that the answer is over, or an error.
    pub(super) fn is_over(&self) -> bool {
        self.is_final || self.is_error
    }

    fn end_choice(&mut self, definition: &Definition) {
        // What the event is may have come behind what it adds.
        if self.delta > 0 && matches!(self.kind, EventKind::Output | EventKind::Reasoning) {
            self.bytes = self.bytes.saturating_add(std::mem::take(&mut self.delta));
            self.choice.visible |= self.kind == EventKind::Output;
            self.choice.reasoning |= self.kind == EventKind::Reasoning;
        }
        let choice = std::mem::take(&mut self.choice);
        if choice.visible || (choice.blank && !choice.reasoning && (definition.blank_is_output)(&choice)) {
            self.visible_choices += 1;
        } else if choice.reasoning {
            self.reasoning_choices += 1;
        }
    }

    fn choices_with_output(&self) -> u32 {
        self.visible_choices.saturating_add(self.reasoning_choices)
    }
}

/// A stream's documents on their way into a [`Reading`].
pub(super) struct Events<'a> {
    pub(super) reading: &'a mut Reading,
    pub(super) facts: &'a mut Facts,
    pub(super) when: Nanos,
    pub(super) out: &'a mut dyn FnMut(Output),
}

impl Events<'_> {
    /// The current document is an event.
    fn keep(&mut self) {
        let event = self.reading.keep(self.facts);
        if let Some(output) = self.reading.output(&event, self.when) {
            (self.out)(output);
        }
    }
}

/// Protobuf messages on their way into a [`Reading`].
pub(super) struct Fields<'a> {
    pub(super) scanner: &'a mut protobuf::Scanner<Slot>,
    /// Each message is an event, rather than the whole answer.
    pub(super) is_stream: bool,
    pub(super) events: Events<'a>,
}

impl Documents for Fields<'_> {
    fn bytes(&mut self, bytes: &[u8]) {
        let Events { reading, facts, .. } = &mut self.events;
        self.scanner.push(bytes, &mut Finder { facts, found: &mut reading.found });
    }

    fn missing(&mut self, len: u64) -> bool {
        self.scanner.missing(len)
    }

    fn end(&mut self) {
        let Events { reading, facts, .. } = &mut self.events;
        match self.scanner.end() {
            Outcome::Complete if self.is_stream => self.events.keep(),
            Outcome::Complete => {
                reading.keep(facts);
            }
            Outcome::Empty | Outcome::Incomplete | Outcome::Malformed => reading.miss(facts),
        }
    }

    fn abort(&mut self) {
        self.scanner.begin();
        self.events.reading.miss(self.events.facts);
    }
}

impl Documents for Events<'_> {
    fn bytes(&mut self, bytes: &[u8]) {
        self.reading.marker.push(bytes);
        self.reading.push(self.facts, bytes);
    }

    fn named(&mut self, kind: MessageKind, name: &[u8]) {
        match kind {
            MessageKind::Event => {
                let last = self.reading.definition().final_type;
                self.reading.found.event.is_final |= last.is_some_and(|last| last.as_bytes() == name);
            }
            MessageKind::Exception | MessageKind::Error => {
                self.facts.is_error = true;
                self.reading.name_error(self.facts, &bedrock::error_type(name));
            }
        }
    }

    fn end(&mut self) {
        let outcome = self.reading.end_document(self.facts);
        let is_marker = std::mem::take(&mut self.reading.marker).is_match();
        match outcome {
            Outcome::Complete => self.keep(),
            _ if is_marker => self.facts.finished = true,
            Outcome::Empty => {}
            Outcome::Incomplete | Outcome::Malformed => self.reading.miss(self.facts),
        }
    }

    fn abort(&mut self) {
        self.reading.marker = DoneMarker::default();
        self.reading.scanner.begin();
        self.reading.miss(self.facts);
    }
}

/// Recognises the data `[DONE]`, which is no JSON.
#[derive(Clone, Copy, Debug, Default)]
struct DoneMarker {
    seen: usize,
    differs: bool,
}

impl DoneMarker {
    const TEXT: &'static [u8] = b"[DONE]";

    fn push(&mut self, bytes: &[u8]) {
        for byte in bytes {
            if self.differs {
                return;
            }
            match Self::TEXT.get(self.seen) {
                Some(expected) => {
                    self.differs = byte != expected;
                    self.seen += 1;
                }
                None => self.differs = !byte.is_ascii_whitespace(),
            }
        }
    }

    fn is_match(self) -> bool {
        !self.differs && self.seen == Self::TEXT.len()
    }
}

/// Puts values where they belong.
pub(super) struct Finder<'a> {
    pub(super) facts: &'a mut Facts,
    pub(super) found: &'a mut Found,
}

impl Visitor<Slot> for Finder<'_> {
    fn value(&mut self, slot: Slot, value: Value<'_>) {
        let event = &mut self.found.event;
        match (slot, value) {
            (Slot::Model, Value::Text(text)) => set_label(&mut self.facts.response_model, text),
            (Slot::ResponseId, Value::Text(text)) => set_label(&mut self.facts.response_id, text),
            (Slot::FinishReason, Value::Text(text)) => {
                event.choice.has_finish_reason |= !text.is_empty();
                set_label(&mut self.facts.finish_reason, text);
            }
            (Slot::LastReason, Value::Text(text)) => {
                event.is_final |= !text.is_empty();
                set_label(&mut self.facts.finish_reason, text);
            }
            (Slot::Type, Value::Text(text)) => self.kind(text),
            (Slot::EventType, Value::Text(text)) => {
                event.kind = (self.found.definition.event_kind)(text);
                event.is_final |= matches!(event.kind, EventKind::Ended | EventKind::Failed);
                event.is_error |= matches!(event.kind, EventKind::Failed | EventKind::Error);
                self.kind(text);
            }
            (Slot::Delta, Value::Length(length)) => event.delta = length,
            (Slot::IsReasoning, Value::Bool(is_reasoning)) => event.part_is_reasoning = is_reasoning,
            (Slot::Part, Value::Container { .. }) => event.end_part(),
            (Slot::Status, Value::Text(text)) => {
                event.status = responses::final_status(text);
                event.is_error |= event.status == Some(responses::FAILED);
            }
            (Slot::Response, Value::Text(text)) => {
                event.response = Some(number_of(text));
                set_label(&mut self.facts.response_id, text);
            }
            (Slot::Response, Value::Number(number)) => event.response = Some(number_of_number(number)),
            (Slot::Stream, Value::Text(text)) => event.stream = Some(number_of(text)),
            (Slot::Cause, Value::Text(text)) => event.cause = Some(number_of(text)),
            (Slot::Done, Value::Bool(true))
            | (Slot::Last, Value::Container { .. })
            | (Slot::LastText, Value::Length(_)) => {
                event.is_final = true;
            }
            (Slot::Choice, Value::Container { .. }) => event.end_choice(self.found.definition),
            (Slot::Answer, Value::Container { .. }) => event.end_answer(),
            (Slot::AnswerIndex, index) => self.found.is_several |= index.as_count().is_some_and(|index| index > 0),
            (Slot::Role, Value::Text(_)) => event.choice.has_role = true,
            (Slot::Visible | Slot::Content, Value::Length(0)) => event.choice.blank = true,
            (Slot::Content, Value::Container { .. }) => {}
            (Slot::Visible | Slot::Content, value) => event.choice.visible |= event.add_output(value),
            (Slot::Reasoning, value) => event.choice.reasoning |= event.add_output(value),
            (Slot::Count(count), value) => {
                if let Some(value) = value.as_count() {
                    event.counts.set(count, value);
                    event.has_counts = true;
                }
            }
            (Slot::Image, Value::Container { .. }) => event.count_image(),
            (Slot::AudioSeconds, Value::Number(seconds)) => event.set_audio(seconds),
            (Slot::Counts(counts), Value::Container { is_empty: false }) => event.fill_counts(counts),
            (Slot::ToolFailed, Value::Bool(true)) => {
                event.is_error = true;
                // As OpenTelemetry calls it.
                self.name_error(ErrorRank::Type, b"tool_error");
            }
            (Slot::Error, Value::Length(1..)) => {
                event.is_error = true;
                self.name_error(ErrorRank::Text, b"error");
            }
            (Slot::Error, Value::Container { is_empty: false }) => event.is_error = true,
            (Slot::ErrorType, Value::Text(text)) => self.name_error(ErrorRank::of_type(text), text),
            (Slot::ErrorCode, value) => self.error_code(value),
            (Slot::TopCode, value) if self.found.is_error_answer => self.error_code(value),
            (Slot::Vendor(_), Value::Null) => {}
            (Slot::Vendor(name), _) => set_label(&mut self.facts.provider, name.as_bytes()),
            (Slot::QueueSeconds, Value::Number(seconds)) => self.queue(seconds),
            (Slot::QueueMilliseconds, Value::Number(milliseconds)) => self.queue(milliseconds / 1000.0),
            (Slot::CacheTime, Value::Text(b"5m")) => event.cache_detail.count = Some(Count::CacheWriteShort),
            (Slot::CacheTime, Value::Text(b"1h")) => event.cache_detail.count = Some(Count::CacheWriteLong),
            (Slot::CacheTokens, value) => event.cache_detail.tokens = value.as_count().unwrap_or(0),
            (Slot::CacheDetail, Value::Container { .. }) => event.end_cache_detail(),
            (Slot::Tier, Value::Text(text)) => event.tier = ServiceTier::of(text).or(event.tier),
            (Slot::Speed, Value::Text(text)) => event.is_fast = text == b"fast",
            (Slot::Dollars, Value::Number(dollars)) => event.charge.dollars = amount(dollars),
            (Slot::OwnKey, Value::Bool(is_own_key)) => event.charge.is_own_key = is_own_key,
            (Slot::UpstreamDollars, Value::Number(dollars)) => event.charge.upstream = amount(dollars),
            (Slot::Ticks, Value::Number(ticks)) => {
                set_label(&mut self.facts.provider, b"x_ai");
                event.charge.dollars = amount(ticks / TICKS_PER_DOLLAR);
            }
            (Slot::Fingerprint, Value::Text(b"fp_ollama")) => set_label(&mut self.facts.provider, b"ollama"),
            _ => {}
        }
    }
}

impl Event {
    /// What says what a part is may stand before or behind what it adds.
    fn end_part(&mut self) {
        let bytes = std::mem::take(&mut self.delta);
        let is_reasoning = std::mem::take(&mut self.part_is_reasoning);
        self.bytes = self.bytes.saturating_add(bytes);
        self.choice.visible |= bytes > 0 && !is_reasoning;
        self.choice.reasoning |= bytes > 0 && is_reasoning;
    }

    fn end_answer(&mut self) {
        let counts = std::mem::take(&mut self.counts);
        self.answers.get_or_insert_default().add(&counts);
    }

    fn end_cache_detail(&mut self) {
        let CacheDetail { count, tokens } = std::mem::take(&mut self.cache_detail);
        if let Some(count) = count {
            let before = self.counts.get(count).unwrap_or(0);
            self.counts.set(count, before.saturating_add(tokens));
            self.has_counts = true;
        }
    }

    fn count_image(&mut self) {
        let images = self.counts.get(Count::Images).unwrap_or(0);
        self.counts.set(Count::Images, images.saturating_add(1));
        self.has_counts = true;
    }

    fn set_audio(&mut self, seconds: f64) {
        if (0.0..=MAX_AUDIO_SECONDS).contains(&seconds) {
            self.counts.set(Count::AudioMilliseconds, (seconds * 1000.0).round() as u64);
            self.has_counts = true;
        }
    }

    fn fill_counts(&mut self, counts: &[Count]) {
        for count in counts {
            if self.counts.get(*count).is_none() {
                self.counts.set(*count, 0);
            }
        }
        self.has_counts = true;
    }

    /// Whether a value is output: text of some length, tool calls, or text in parts.
    fn add_output(&mut self, value: Value<'_>) -> bool {
        match value {
            Value::Length(length) => {
                self.bytes = self.bytes.saturating_add(length);
                length > 0
            }
            Value::Container { is_empty } => !is_empty,
            _ => false,
        }
    }
}

impl Finder<'_> {
    fn queue(&mut self, seconds: f64) {
        if seconds.is_finite() && seconds >= 0.0 {
            self.facts.queue_seconds = Some(seconds);
        }
    }

    fn kind(&mut self, kind: &[u8]) {
        if self.found.definition.final_type.is_some_and(|last| last.as_bytes() == kind) {
            self.found.event.is_final = true;
        }
        if self.found.is_error_answer && kind != b"error" {
            self.name_error(ErrorRank::Beside, kind);
        }
    }

    fn error_code(&mut self, code: Value<'_>) {
        match code {
            Value::Text(text) => self.name_error(ErrorRank::Code, text),
            // JSON-RPC's are negative.
            Value::Number(number) if number.fract() == 0.0 && number.abs() < MAX_ERROR_CODE => {
                self.name_error(ErrorRank::Code, (number as i64).to_string().as_bytes());
            }
            _ => {}
        }
    }

    fn name_error(&mut self, rank: ErrorRank, name: &[u8]) {
        if rank >= self.found.error_rank && !name.is_empty() {
            self.found.error_rank = rank;
            set_label(&mut self.facts.error_type, name);
        }
    }
}

fn amount(dollars: f64) -> Option<f64> {
    (dollars.is_finite() && dollars >= 0.0).then_some(dollars)
}

/// A number that stands for an id that is one.
pub(super) fn number_of_number(id: f64) -> u64 {
    number_of(&id.to_bits().to_ne_bytes())
}

/// A number that stands for an id.
pub(super) fn number_of(id: &[u8]) -> u64 {
    let mut hasher = std::hash::DefaultHasher::new();
    hasher.write(id);
    hasher.finish()
}

/// Sets a label, without allocating where it says so already: streams repeat id and model in every event.
pub(super) fn set_label(label: &mut Option<Label>, text: &[u8]) {
    let is_same = label.as_ref().is_some_and(|label| label.as_str().as_bytes() == text);
    if !is_same && !text.is_empty() {
        *label = Some(Label::from_bytes(text));
    }
}
