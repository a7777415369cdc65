//! One exchange while it lasts: its bodies go through decoder and dialect, its facts into the [`Exchange`].

use std::time::Duration;

use crate::body::{BodyDecoder, BodyError, Coding, GapEffect};
use crate::chunk::Pid;
use crate::dialect::{Facts, Interpreter, Output, ResponseHeaderFacts, Said, is_named_by_user, response_facts};
use crate::exchange::{Exchange, ExchangeEvent, Phase, ToolCall};
use crate::http1::ResponseHead;
use crate::label::Label;
use crate::time::Nanos;

use super::Observer;

/// Most events held back while the owner is looked up; an exchange that produces more in that time is reported with
/// the presumed owner.
const MAX_HELD_EVENTS: usize = 1024;

/// How an exchange came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Its answer is complete.
    Complete,
    /// Its answer stopped before its framing said so.
    Cut,
    /// The client went away.
    ClientLeft(&'static str),
    /// The server went away.
    ServerLeft(&'static str),
    /// Nothing more was or will be seen of it; the last was heard of its connection then.
    OutOfSight(Nanos),
}

/// An exchange in flight.
pub(super) struct Tracked {
    /// Its number on the connection.
    pub(super) number: u64,
    /// The message that it belongs to, by the kernel side's count.
    pub(super) message: u32,
    pub(super) exchange: Exchange,
    interpreter: Interpreter,
    request_body: BodyDecoder,
    /// The end of the request was seen.
    request_is_whole: bool,
    response_body: BodyDecoder,
    /// Part of a body could not be decoded.
    is_unreadable: bool,
    /// Events held back until the owner is known.
    held: Option<Vec<(Nanos, ExchangeEvent)>>,
}

impl Tracked {
    pub(super) fn new(
        number: u64,
        message: u32,
        exchange: Exchange,
        interpreter: Interpreter,
        request_coding: Coding,
        owner_is_certain: bool,
    ) -> Self {
        Self {
            number,
            message,
            interpreter,
            request_body: BodyDecoder::new(request_coding),
            response_body: BodyDecoder::new(Coding::Identity),
            request_is_whole: false,
            is_unreadable: false,
            held: (!owner_is_certain).then(Vec::new),
            exchange,
        }
    }

    pub(super) fn emit(&mut self, when: Nanos, event: ExchangeEvent, observer: &mut dyn Observer) {
        match &mut self.held {
            Some(held) if held.len() < MAX_HELD_EVENTS => held.push((when, event)),
            Some(_) => {
                self.settle(None, observer);
                observer.exchange(when, &self.exchange, event);
            }
            None => observer.exchange(when, &self.exchange, event),
        }
    }

    /// Takes the owner, if one was found, and reports what was held back. What was reported as somebody's stays so.
    pub(super) fn settle(&mut self, pid: Option<Pid>, observer: &mut dyn Observer) {
        let held = self.held.take();
        if pid.is_some() && (held.is_some() || self.exchange.pid.is_none()) {
            self.exchange.pid = pid;
        }
        for (when, event) in held.into_iter().flatten() {
            observer.exchange(when, &self.exchange, event);
        }
    }

    /// The same without what reads its bodies: it has ended.
    pub(super) fn without_readers(mut self) -> Self {
        self.request_body = BodyDecoder::new(Coding::Identity);
        self.response_body = BodyDecoder::new(Coding::Identity);
        self
    }

    pub(super) fn is_held(&self) -> bool {
        self.held.is_some()
    }

    /// Memory that it takes, in bytes.
    pub(super) fn memory(&self) -> usize {
        let held = self.held.as_ref().map_or(0, Vec::capacity) * size_of::<(Nanos, ExchangeEvent)>();
        size_of::<Self>() + self.request_body.memory() + self.response_body.memory() + self.interpreter.memory() + held
    }

    /// Lets go of decoders, held events and what readers remember: what follows in a compressed body is unknown. Returns whether it is.
    pub(super) fn shed(&mut self, observer: &mut dyn Observer) -> bool {
        self.settle(None, observer);
        let [lost_of_request, lost_of_answer] = self.interpreter.shed();
        let (request, response) = (self.request_body.memory() > 0, self.response_body.memory() > 0);
        let mut has_lost = lost_of_request || lost_of_answer;
        if lost_of_answer {
            self.note_output_missed();
        }
        if request && self.request_body.gap() == GapEffect::Undecodable {
            self.interpreter.request_gap();
            has_lost = true;
        }
        if response && self.response_body.gap() == GapEffect::Undecodable {
            self.interpreter.response_gap();
            self.note_output_missed();
            has_lost = true;
        }
        self.exchange.bytes_missed += u64::from(has_lost);
        has_lost
    }

    /// Returns whether this is the first of its body that cannot be decoded.
    pub(super) fn request_body(&mut self, bytes: &[u8]) -> bool {
        self.exchange.bytes_seen += bytes.len() as u64;
        let interpreter = &mut self.interpreter;
        let result = self.request_body.push(bytes, &mut |decoded| interpreter.request_bytes(decoded));
        let is_new = self.is_unreadable(result, bytes.len());
        if is_new {
            self.interpreter.request_gap();
        }
        is_new
    }

    /// Notes bytes that cannot be decoded; `true` for the first of them.
    fn is_unreadable(&mut self, result: Result<(), BodyError>, len: usize) -> bool {
        // A gap was noted when it was met.
        if matches!(result, Ok(()) | Err(BodyError::Gap)) {
            return false;
        }
        self.exchange.bytes_missed += len as u64;
        !std::mem::replace(&mut self.is_unreadable, true)
    }

    /// Whether the dialect's own end was seen.
    pub(super) fn has_finished(&self) -> bool {
        self.interpreter.facts().finished
    }

    /// Whether the dialect's own end was seen, or an error, whatever has become of the connection.
    pub(super) fn has_told_its_end(&self) -> bool {
        let facts = self.interpreter.facts();
        facts.finished || facts.is_error
    }

    pub(super) fn note_end_of_request(&mut self, complete: bool) {
        self.request_is_whole |= complete;
    }

    /// Marks the exchange, which has an answer, if the end of its request must have been lost: only a refused request is
    /// answered before it is complete. Returns whether that is news.
    pub(super) fn mark_lost_end_of_request(&mut self) -> bool {
        let is_lost = !self.request_is_whole && self.exchange.status.is_none_or(|status| status < 400);
        let is_news = is_lost && self.exchange.bytes_missed == 0;
        if is_news {
            // One byte at the least, more cannot be told.
            self.exchange.bytes_missed = 1;
        }
        is_news
    }

    /// So many bytes are missing, if that is known.
    pub(super) fn request_gap(&mut self, len: Option<u64>) {
        self.request_body.gap();
        self.interpreter.request_gap_of(len);
    }

    pub(super) fn request_end(&mut self, when: Nanos, observer: &mut dyn Observer) {
        let interpreter = &mut self.interpreter;
        let _ = self.request_body.end(&mut |decoded| interpreter.request_bytes(decoded));
        self.interpreter.request_end();
        let facts = self.interpreter.facts();
        self.exchange.model = facts.model.clone().or(self.exchange.model.take());
        self.exchange.stream = facts.stream.or(self.exchange.stream);
        self.exchange.tool_call.clone_from(&facts.tool_call);
        self.exchange.request_sent_at = Some(when);
        if self.exchange.phase == Phase::Sending {
            self.exchange.phase = Phase::Waiting;
        }
        self.emit(when, ExchangeEvent::RequestSent, observer);
    }

    /// It was asked for in one message of so many bytes, which is whole.
    pub(super) fn asked(&mut self, when: Nanos, model: Option<&Label>, len: u64, observer: &mut dyn Observer) {
        self.exchange.bytes_seen = self.exchange.bytes_seen.saturating_add(len);
        self.request_is_whole = true;
        self.interpreter.asked(model);
        self.request_end(when, observer);
    }

    /// A tool of a server of that name was called in one message of so many bytes, which is whole.
    pub(super) fn called(
        &mut self,
        when: Nanos,
        call: ToolCall,
        server: Option<&Label>,
        len: u64,
        observer: &mut dyn Observer,
    ) {
        self.exchange.bytes_seen = self.exchange.bytes_seen.saturating_add(len);
        self.request_is_whole = true;
        self.interpreter.called(call, server);
        self.request_end(when, observer);
    }

    /// Its answer begins, and when it was asked for, if it was, is not known.
    pub(super) fn begun_unasked(&mut self, when: Nanos, model: Option<&Label>, observer: &mut dyn Observer) {
        self.exchange.output_missed.before_first = true;
        self.exchange.output_missed.before_first_visible = true;
        self.asked(when, model, 0, observer);
    }

    /// What it was asked for in comes to light, of so many bytes, and its answer has begun.
    pub(super) fn asked_late(&mut self, model: Option<&Label>, len: u64) {
        self.exchange.bytes_seen = self.exchange.bytes_seen.saturating_add(len);
        self.exchange.model = model.cloned().or(self.exchange.model.take());
    }

    /// What a message of so many bytes says of it.
    pub(super) fn said(&mut self, when: Nanos, said: &Said<'_>, len: u64, observer: &mut dyn Observer) {
        self.exchange.bytes_seen = self.exchange.bytes_seen.saturating_add(len);
        if !self.exchange.output_missed.before_first {
            self.exchange.headers_at.get_or_insert(when);
        }
        let Self { interpreter, exchange, held, .. } = self;
        let mut outputs = Outputs { exchange, held, observer };
        interpreter.said(when, said, &mut |output| outputs.add(output));
    }

    /// It was answered in a message of which not all was seen.
    pub(super) fn answered(&mut self, when: Nanos) {
        self.exchange.headers_at.get_or_insert(when);
    }

    /// So many bytes of messages that may have been about it are missing, or could not be read.
    pub(super) fn message_missed(&mut self, len: u64) {
        self.answer_missed(len);
        self.interpreter.message_missed();
    }

    pub(super) fn response_head(&mut self, when: Nanos, head: &ResponseHead<'_>, observer: &mut dyn Observer) {
        if self.exchange.request_sent_at.is_none() {
            // The server answers before the request is complete: it will not wait for the rest.
            self.request_end(when, observer);
        }
        let ResponseHeaderFacts { request_id, rate_limit, provider, tier, cost_usd, queue_seconds } =
            response_facts(head);
        let exchange = &mut self.exchange;
        exchange.status = head.status;
        exchange.headers_at = Some(when);
        exchange.request_id = request_id;
        exchange.rate_limit = rate_limit;
        exchange.tier = tier;
        exchange.cost_reported_usd = cost_usd;
        exchange.queue_seconds = queue_seconds;
        if let Some(provider) = provider.filter(|_| !is_named_by_user(&exchange.provider)) {
            exchange.provider = provider;
        }
        self.response_body = BodyDecoder::new(head.content_coding());
        self.interpreter.response_head(head);
        self.exchange.stream = self.interpreter.facts().stream.or(self.exchange.stream);
        self.emit(when, ExchangeEvent::Headers, observer);
    }

    /// Returns whether this is the first of its body that cannot be decoded.
    pub(super) fn response_body(&mut self, when: Nanos, bytes: &[u8], observer: &mut dyn Observer) -> bool {
        self.exchange.bytes_seen += bytes.len() as u64;
        let before = self.interpreter.unreadable_messages();
        let Self { interpreter, response_body, exchange, held, .. } = self;
        let mut outputs = Outputs { exchange, held, observer };
        let result = response_body.push(bytes, &mut |decoded| {
            interpreter.response_bytes(when, decoded, &mut |output| outputs.add(output));
        });
        let mut is_new = self.is_unreadable(result, bytes.len());
        match result {
            Ok(()) if self.interpreter.unreadable_messages() > before => {
                self.exchange.bytes_missed += bytes.len() as u64;
                self.note_output_missed();
                is_new = !std::mem::replace(&mut self.is_unreadable, true);
            }
            Err(BodyError::Malformed(_)) if is_new => self.interpreter.response_is_corrupt(),
            _ if is_new => self.interpreter.response_gap(),
            _ => {}
        }
        if is_new {
            self.note_output_missed();
        }
        is_new
    }

    /// Bytes of the answer are missing that were wanted: they have come, whatever they said.
    pub(super) fn answer_missed(&mut self, len: u64) {
        self.exchange.bytes_missed = self.exchange.bytes_missed.saturating_add(len);
        if matches!(self.exchange.phase, Phase::Sending | Phase::Waiting) {
            self.exchange.phase = Phase::Streaming;
        }
        self.note_output_missed();
    }

    /// From here on output may be missing, and with it the answer's end.
    pub(super) fn note_output_missed(&mut self) {
        let exchange = &mut self.exchange;
        let missed = &mut exchange.output_missed;
        missed.before_first |= exchange.first_token_at.is_none();
        missed.before_first_visible |= exchange.first_visible_token_at.is_none();
        missed.since_latest = true;
    }

    /// So many bytes are missing, if that is known.
    pub(super) fn response_gap(&mut self, len: Option<u64>) {
        self.response_body.gap();
        self.interpreter.response_gap_of(len);
    }

    /// What stands behind the answer.
    pub(super) fn response_trailers(&mut self, trailers: &ResponseHead<'_>) {
        self.interpreter.response_trailers(trailers);
    }

    /// Reads what is left of the answer.
    pub(super) fn response_end(&mut self, when: Nanos, observer: &mut dyn Observer) {
        let missed = self.exchange.output_missed.since_latest;
        let Self { interpreter, response_body, exchange, held, .. } = self;
        let mut outputs = Outputs { exchange, held, observer };
        let _ = response_body.end(&mut |decoded| {
            interpreter.response_bytes(when, decoded, &mut |output| outputs.add(output));
        });
        interpreter.response_end(when, &mut |output| outputs.add(output));
        // Output that comes to light now came before what was missed last.
        self.exchange.output_missed.since_latest |= missed;
    }

    /// Reaches the final phase.
    pub(super) fn end(&mut self, when: Nanos, outcome: Outcome, observer: &mut dyn Observer) {
        if self.exchange.request_sent_at.is_none() && !matches!(outcome, Outcome::ClientLeft(_)) {
            self.request_end(when, observer);
        }
        let facts = self.interpreter.facts();
        let exchange = &mut self.exchange;
        exchange.usage = facts.usage;
        exchange.tier = exchange.tier.or(facts.tier);
        // A gateway's word, in the head, is nearer to who pays.
        exchange.cost_reported_usd = exchange.cost_reported_usd.or(facts.cost_usd);
        exchange.queue_seconds = exchange.queue_seconds.or(facts.queue_seconds);
        if facts.usage_is_partial
            && let Some(output) = exchange.usage.output.take()
        {
            exchange.estimated_output = exchange.estimated_output.max(output);
        }
        exchange.model = exchange.model.take().or(facts.model.clone());
        exchange.response_model = facts.response_model.clone();
        // Of a form only the answer's body may tell.
        exchange.stream = facts.stream.or(exchange.stream);
        exchange.finish_reason = facts.finish_reason.clone();
        if let Some(provider) = &facts.provider
            && exchange.provider.as_str() == "unknown"
        {
            exchange.provider = provider.clone();
        }
        let (phase, error_type) = verdict(exchange, facts, outcome);
        exchange.phase = phase;
        exchange.error_type = error_type;
        exchange.ended_at = Some(if let Outcome::OutOfSight(last_heard) = outcome { last_heard } else { when });
        // What comes behind the dialect's own end is nobody's waiting.
        let is_known = !self.interpreter.facts().finished
            && !exchange.output_missed.since_latest
            && !matches!(outcome, Outcome::OutOfSight(_));
        let silence = exchange.last_token_at.filter(|_| is_known).map(|last| when.since(last));
        if let Some(stalled) = silence.and_then(|silence| note_gap(exchange, silence)) {
            self.emit(when, stalled, observer);
        }
        self.emit(when, ExchangeEvent::Ended, observer);
    }
}

/// The final phase and, unless it is [`Phase::Done`], the error type.
fn verdict(exchange: &Exchange, facts: &Facts, outcome: Outcome) -> (Phase, Option<Label>) {
    let status_error = exchange.status.filter(|status| *status >= 400);
    let failed = |fallback: &str| (Phase::Failed, Some(facts.error_type.clone().unwrap_or_else(|| fallback.into())));
    if let Some(status) = status_error {
        return failed(&status.to_string());
    }
    if facts.is_error {
        return failed("error");
    }
    match outcome {
        // Unknown is no failure; the missing bytes say that there was more.
        Outcome::Complete | Outcome::OutOfSight(_) => (Phase::Done, None),
        // SDKs close as soon as they have read the dialect's own end.
        _ if facts.finished => (Phase::Done, None),
        // The end was among the bytes that were lost: nothing says that the answer itself was cut, or not waited for.
        Outcome::Cut | Outcome::ClientLeft(_) if exchange.output_missed.since_latest => (Phase::Done, None),
        Outcome::Cut => failed("incomplete_response"),
        Outcome::ClientLeft(reason) => (Phase::Abandoned, Some(reason.into())),
        Outcome::ServerLeft(reason) => failed(reason),
    }
}

/// Notes for how long nothing has come, and gives an event if that was too long.
fn note_gap(exchange: &mut Exchange, gap: Duration) -> Option<ExchangeEvent> {
    let seconds = gap.as_secs_f64();
    exchange.longest_gap_seconds = Some(exchange.longest_gap_seconds.map_or(seconds, |longest| longest.max(seconds)));
    (gap > Exchange::STALL).then(|| {
        exchange.stalls += 1;
        ExchangeEvent::Stalled { seconds }
    })
}

/// Adds output to an exchange and reports it.
struct Outputs<'a> {
    exchange: &'a mut Exchange,
    held: &'a mut Option<Vec<(Nanos, ExchangeEvent)>>,
    observer: &'a mut dyn Observer,
}

impl Outputs<'_> {
    fn add(&mut self, output: Output) {
        let Output { when, tokens, visible } = output;
        let exchange = &mut *self.exchange;
        // With output missing in between, the time since the one before is no gap between two.
        let gap_is_known = !std::mem::take(&mut exchange.output_missed.since_latest);
        let gap = exchange.last_token_at.filter(|_| gap_is_known).map(|last| when.since(last));
        let stalled = gap.and_then(|gap| note_gap(exchange, gap));
        exchange.phase = Phase::Streaming;
        let first = *exchange.first_token_at.get_or_insert(when);
        exchange.pace.add(when.since(first), tokens);
        if visible {
            exchange.first_visible_token_at.get_or_insert(when);
        }
        exchange.last_token_at = Some(when);
        exchange.output_events += 1;
        exchange.estimated_output += tokens;
        let event = ExchangeEvent::Output { tokens, gap_seconds: gap.map(|gap| gap.as_secs_f64()) };
        for event in stalled.into_iter().chain([event]) {
            match self.held {
                // Beyond the limit an output stays in the estimate and is only missing from the rates.
                Some(held) if held.len() < MAX_HELD_EVENTS => held.push((when, event)),
                Some(_) => {}
                None => self.observer.exchange(when, exchange, event),
            }
        }
    }
}
