//! The messages of one connection: requests are judged, model calls are opened as exchanges and followed to their end.

use crate::body::Coding;
use crate::chunk::{Action, ConnectionKey, Direction, Origin, Source, Verdict};
use crate::dialect::{Extent, Interpreter, JUDGE_BYTES, Judgement, Recognised, judge, request_facts};
use crate::exchange::{Endpoint, Exchange, ExchangeEvent, OutputMissed, Pace, Phase, Protocol, RateLimit, Role, Usage};
use crate::http1::{HttpSink, RequestHead, ResponseHead, Side};
use crate::label::Label;
use crate::time::Nanos;

use super::socket::Socket;
use super::tracked::{Outcome, Tracked};
use super::{Observer, Shared};

/// From this length on only the tails of an answer's pieces are copied: far above what a chat answer takes, and more
/// than is under way in the kernel before it learns of it.
const LONG_DOCUMENT_BYTES: u64 = 256 * 1024;

/// Requests of one HTTP/2 connection that wait for more of their bodies to be judged by. Who has more is not served by it.
const MAX_JUDGED: usize = 64;

/// The state of the connection's messages, apart from the HTTP parser that drives it.
pub(super) struct Messages {
    pub(super) state: State,
    /// The message that `state` is about, by the kernel side's count.
    pub(super) current: u32,
    /// The kernel side waits for a verdict on it.
    pub(super) awaited: bool,
    /// Exchanges in flight, by ascending number. The HTTP parser ends the oldest of more than it lets wait for their answers.
    pub(super) active: Vec<Tracked>,
    /// What comes next is another protocol.
    pub(super) upgraded: Option<Upgrade>,
    /// A WebSocket was asked for. While [`State::Upgrading`].
    socket: Option<Box<Wanted>>,
    /// While [`State::Multiplexed`]: requests whose heads say neither yes nor no.
    judged: Vec<Judged>,
}

/// What a connection becomes.
pub(super) enum Upgrade {
    /// HTTP/2, which begins with the answer to this exchange.
    Http2(u64),
    /// A WebSocket over which models are called.
    WebSocket(Box<Socket>),
}

/// A WebSocket that was asked for.
struct Wanted {
    number: u64,
    template: Template,
}

/// What the calls of one connection have in common, or all that the head of a single one has told.
pub(super) struct Template {
    pub(super) recognised: Recognised,
    pub(super) fingerprint: u64,
    endpoint: Endpoint,
    trace_id: Option<Label>,
    attempt: Option<u32>,
}

impl Template {
    /// Of calls that have no heads.
    pub(super) fn without_head(recognised: Recognised) -> Self {
        Self { recognised, fingerprint: 0, endpoint: Endpoint::default(), trace_id: None, attempt: None }
    }
}

/// What is a call's own when it begins.
pub(super) struct Opening {
    pub(super) number: u64,
    pub(super) started: Nanos,
    pub(super) when: Nanos,
    /// Tells it from others, the same at both ends.
    pub(super) fingerprint: u64,
    pub(super) protocol: Protocol,
    /// What reads its bodies.
    pub(super) interpreter: Interpreter,
    /// How the request's body is compressed.
    pub(super) coding: Coding,
    pub(super) bytes_seen: u64,
}

/// How the client's current message stands.
pub(super) enum State {
    /// No message has begun since the connection is followed.
    BetweenMessages,
    /// Its head or the beginning of its body is awaited.
    Judging(Option<Judged>),
    /// A model call, or several.
    ModelCall,
    /// No model call: everything is dropped until the next message begins.
    Ignored,
    /// It asks for a WebSocket over which models are called, and is not answered yet.
    Upgrading,
    /// HTTP/2: each request is judged by itself, whatever becomes of the others.
    Multiplexed,
    /// A WebSocket over which models are called.
    Socket,
    /// Nothing on this connection will be understood.
    Opaque,
}

/// A request whose head says neither yes nor no.
pub(super) struct Judged {
    number: u64,
    started: Nanos,
    head: Vec<u8>,
    body: Vec<u8>,
}

impl Judged {
    fn memory(&self) -> usize {
        self.head.capacity() + self.body.capacity()
    }
}

pub(super) fn role_of(request_direction: Direction) -> Role {
    match request_direction {
        Direction::Sent => Role::Client,
        Direction::Received => Role::Server,
    }
}

impl Messages {
    /// Nothing has begun yet.
    pub(super) fn new() -> Self {
        Self {
            state: State::BetweenMessages,
            current: 0,
            awaited: false,
            active: Vec::new(),
            upgraded: None,
            socket: None,
            judged: Vec::new(),
        }
    }

    pub(super) fn is_followed(&self) -> bool {
        match self.state {
            State::Judging(_) | State::ModelCall | State::Upgrading | State::Multiplexed | State::Socket => true,
            // Answers to pipelined requests before the one that is ignored.
            State::Ignored => !self.active.is_empty(),
            State::BetweenMessages | State::Opaque => false,
        }
    }

    fn place_of(&self, number: u64) -> Result<usize, usize> {
        self.active.binary_search_by_key(&number, |tracked| tracked.number)
    }

    pub(super) fn find(&mut self, number: u64) -> Option<&mut Tracked> {
        let place = self.place_of(number).ok()?;
        Some(&mut self.active[place])
    }

    /// Whether there are exchanges in flight, and nothing was seen of their answers.
    pub(super) fn is_unanswered(&self) -> bool {
        !self.active.is_empty() && self.active.iter().all(|tracked| tracked.exchange.status.is_none())
    }

    /// Whether there are exchanges in flight of messages before that one.
    pub(super) fn has_before(&self, message: u32) -> bool {
        self.active.first().is_some_and(|tracked| tracked.message < message)
    }

    /// The ends of the answers to all exchanges in flight but the last few are missing: one byte at the least, more cannot
    /// be told.
    pub(super) fn mark_missed(&mut self, but_last: usize, shared: &mut Shared) {
        let count = self.active.len().saturating_sub(but_last);
        for tracked in &mut self.active[..count] {
            mark_missed(tracked, shared);
        }
    }

    /// Likewise of that exchange alone.
    pub(super) fn mark_missed_of(&mut self, number: u64, shared: &mut Shared) {
        if let Some(tracked) = self.find(number) {
            mark_missed(tracked, shared);
        }
    }

    /// Bytes came that could not be read, where the answer to the oldest request was to begin.
    pub(super) fn mark_unread_answer(&mut self, shared: &mut Shared) {
        if self.active.first().is_some_and(|tracked| tracked.exchange.status.is_none()) {
            self.mark_missed(self.active.len() - 1, shared);
        }
    }

    /// Whether the head of a request with a known target is under way, with nothing else on the connection.
    pub(super) fn has_half_a_head(&self, side: Side) -> bool {
        let is_in_head = matches!(self.state, State::Judging(None)) && !self.awaited;
        side == Side::Request && is_in_head && self.active.is_empty()
    }

    /// The exchange whose bytes are missing: requests are written last to first, answers come first to last.
    pub(super) fn affected_by_gap(&mut self, side: Side) -> Option<&mut Tracked> {
        match side {
            Side::Request => self.active.last_mut().filter(|tracked| tracked.exchange.request_sent_at.is_none()),
            Side::Response => self.active.first_mut(),
        }
    }

    /// Memory that the messages hold, in bytes.
    pub(super) fn memory(&self) -> usize {
        let of_state = if let State::Judging(judged) = &self.state { judged.as_ref() } else { None };
        let judged = of_state.iter().copied().chain(&self.judged).map(Judged::memory).sum::<usize>();
        let spare = (self.active.capacity() - self.active.len()) * size_of::<Tracked>();
        let socket = self.socket.as_ref().map_or(0, |_| size_of::<Wanted>());
        judged + socket + spare + self.active.iter().map(Tracked::memory).sum::<usize>()
    }

    /// Requests that cannot be judged any more are none.
    pub(super) fn forget_judged(&mut self) {
        if matches!(self.state, State::Judging(Some(_)) | State::Upgrading) {
            self.state = State::Ignored;
        }
        self.socket = None;
        self.judged = Vec::new();
    }

    fn take_judged(&mut self, number: u64) -> Option<Judged> {
        match &mut self.state {
            State::Judging(judged) => judged.take_if(|judged| judged.number == number),
            _ => {
                let at = self.judged.iter().position(|judged| judged.number == number)?;
                Some(self.judged.swap_remove(at))
            }
        }
    }

    /// The message waits for more of its body. Returns whether there is room for that.
    fn keep_judged(&mut self, judged: Judged) -> bool {
        if !matches!(self.state, State::Multiplexed) {
            self.state = State::Judging(Some(judged));
            return true;
        }
        let has_room = self.judged.len() < MAX_JUDGED;
        if has_room {
            self.judged.push(judged);
        }
        has_room
    }

    pub(super) fn end_active(
        &mut self,
        key: ConnectionKey,
        when: Nanos,
        outcome: Outcome,
        shared: &mut Shared,
        observer: &mut dyn Observer,
    ) {
        for mut tracked in std::mem::take(&mut self.active) {
            if matches!(outcome, Outcome::OutOfSight(_)) && !tracked.has_told_its_end() {
                // One byte at the least, more cannot be told.
                tracked.exchange.bytes_missed = tracked.exchange.bytes_missed.max(1);
            }
            let is_lost = tracked.exchange.status.is_some() && tracked.mark_lost_end_of_request();
            shared.counters.parse_gaps += u64::from(is_lost);
            tracked.response_end(when, observer);
            tracked.end(when, outcome, observer);
            keep_if_held(tracked, key, shared);
        }
    }
}

fn mark_missed(tracked: &mut Tracked, shared: &mut Shared) {
    shared.counters.parse_gaps += u64::from(tracked.exchange.bytes_missed == 0);
    tracked.exchange.bytes_missed = tracked.exchange.bytes_missed.max(1);
    tracked.note_output_missed();
}

/// An exchange that ends before its owner is known waits for it apart from its connection.
fn keep_if_held(tracked: Tracked, key: ConnectionKey, shared: &mut Shared) {
    if tracked.is_held() {
        shared.unsettled.keep(key, tracked);
    }
}

/// What the HTTP parser reports to.
pub(super) struct Sink<'a> {
    pub(super) key: ConnectionKey,
    pub(super) origin: &'a Origin,
    pub(super) request_direction: Direction,
    pub(super) messages: &'a mut Messages,
    pub(super) shared: &'a mut Shared,
    pub(super) observer: &'a mut dyn Observer,
}

impl Sink<'_> {
    fn ignore(&mut self) {
        // Other requests of an HTTP/2 connection may be calls.
        if !self.is_multiplexed() {
            self.messages.state = State::Ignored;
            self.tell_kernel(Action::Ignore);
        }
    }

    fn is_multiplexed(&self) -> bool {
        matches!(self.messages.state, State::Multiplexed)
    }

    fn tell_kernel(&mut self, action: Action) {
        self.observer.verdict(Verdict { connection: self.key, message: self.messages.current, action });
    }

    /// Acts on a judgement; `body` is what of the body has been decoded so far.
    fn decide(
        &mut self,
        judgement: Judgement,
        number: u64,
        started: Nanos,
        when: Nanos,
        head: &RequestHead<'_>,
        body: &[u8],
    ) {
        match judgement {
            Judgement::ModelCall(recognised) => {
                // What the kernel side captured by itself it knows already.
                if self.messages.awaited {
                    self.tell_kernel(Action::Capture);
                    if !recognised.known_target {
                        self.learn(head);
                    }
                    // What is said of an HTTP/2 connection is said of all of it.
                    self.messages.awaited = !self.is_multiplexed();
                }
                self.open(recognised, number, started, when, head);
                if !body.is_empty() {
                    self.body_of_request(number, body);
                }
            }
            Judgement::ModelSocket(recognised) => self.await_socket(recognised, number, head),
            Judgement::NotModel => self.ignore(),
            Judgement::NeedBody => {
                let judged = Judged { number, started, head: head.as_bytes().to_vec(), body: body.to_vec() };
                if !self.messages.keep_judged(judged) {
                    self.shared.counters.parse_gaps += 1;
                }
            }
        }
    }

    /// The kernel side is to know this path, if it is known here.
    fn learn(&mut self, head: &RequestHead<'_>) {
        if let Ok(path) = std::str::from_utf8(head.path())
            && path.starts_with('/')
        {
            self.observer.learned(path);
        }
    }

    fn open(&mut self, recognised: Recognised, number: u64, started: Nanos, when: Nanos, head: &RequestHead<'_>) {
        if !self.is_multiplexed() {
            self.messages.state = State::ModelCall;
        }
        let template = self.template(recognised, head);
        let mut interpreter = Interpreter::for_call(&template.recognised);
        interpreter.request_head(head);
        let opening = Opening {
            number,
            started,
            when,
            fingerprint: template.fingerprint,
            protocol: match (self.is_multiplexed(), interpreter.is_grpc()) {
                (true, true) => Protocol::Grpc,
                (true, false) => Protocol::H2,
                (false, _) => Protocol::Http1,
            },
            interpreter,
            coding: head.content_coding(),
            bytes_seen: head.as_bytes().len() as u64,
        };
        self.begin(&template, opening);
    }

    /// The connection is to become one over which models are called, if the server agrees.
    fn await_socket(&mut self, recognised: Recognised, number: u64, head: &RequestHead<'_>) {
        if self.messages.awaited || self.is_multiplexed() {
            // Its beginning would be missed. The next one there is not.
            self.learn(head);
            return self.ignore();
        }
        let template = self.template(recognised, head);
        self.messages.socket = Some(Box::new(Wanted { number, template }));
        self.messages.state = State::Upgrading;
    }

    fn template(&self, recognised: Recognised, head: &RequestHead<'_>) -> Template {
        let role = role_of(self.request_direction);
        let facts = request_facts(head);
        Template {
            recognised,
            fingerprint: head.fingerprint(),
            endpoint: endpoint(facts.host, head.header("host"), self.key.source, role, self.origin),
            trace_id: facts.trace_id,
            attempt: facts.attempt,
        }
    }

    /// Begins an exchange.
    pub(super) fn begin(&mut self, template: &Template, opening: Opening) {
        let Opening { number, started, when, fingerprint, protocol, interpreter, coding, bytes_seen } = opening;
        let role = role_of(self.request_direction);
        let recognised = &template.recognised;
        let id = self.shared.next_id();
        let other_end = self.shared.pairing.other_end(fingerprint, role, when, id);
        let exchange = Exchange {
            id,
            pid: self.origin.pid,
            comm: comm_label(&self.origin.comm),
            role,
            is_mirror: other_end.is_some(),
            other_end,
            provider: recognised.provider.clone(),
            api: recognised.api,
            dialect: recognised.dialect,
            model: recognised.model.clone(),
            response_model: None,
            tool_call: None,
            endpoint: template.endpoint.clone(),
            tls: self.key.source == Source::Tls,
            protocol,
            stream: None,
            phase: Phase::Sending,
            opened_at: started,
            request_sent_at: None,
            headers_at: None,
            first_token_at: None,
            first_visible_token_at: None,
            last_token_at: None,
            output_missed: OutputMissed::default(),
            ended_at: None,
            status: None,
            error_type: None,
            finish_reason: None,
            request_id: None,
            trace_id: template.trace_id.clone(),
            attempt: template.attempt,
            usage: Usage::default(),
            estimated_output: 0,
            output_events: 0,
            pace: Pace::default(),
            stalls: 0,
            longest_gap_seconds: None,
            tier: None,
            cost_reported_usd: None,
            queue_seconds: None,
            rate_limit: RateLimit::default(),
            bytes_seen,
            bytes_missed: 0,
        };
        let message = self.messages.current;
        let mut tracked = Tracked::new(number, message, exchange, interpreter, coding, self.origin.owner_is_certain);
        if tracked.is_held() {
            self.shared.unsettled.begin(self.key, when);
        }
        tracked.emit(started, ExchangeEvent::Opened, self.observer);
        let (Ok(place) | Err(place)) = self.messages.place_of(number);
        self.messages.active.insert(place, tracked);
    }

    /// Judges again with more of the body; `extent` says how much of it that makes.
    fn judge_body(&mut self, number: u64, when: Nanos, bytes: &[u8], extent: Extent) {
        let Some(mut judged) = self.messages.take_judged(number) else { return };
        // What is not needed for the decision is not kept for it either.
        let (kept, rest) = bytes.split_at(bytes.len().min(JUDGE_BYTES.saturating_sub(judged.body.len())));
        judged.body.extend_from_slice(kept);
        let Judged { started, head, body, .. } = judged;
        // So much is all that the kernel side copies of a message that it does not know, head included.
        let is_spent = self.messages.awaited && head.len() + body.len() >= JUDGE_BYTES;
        let extent = if is_spent && extent == Extent::Beginning { Extent::Cut } else { extent };
        let Ok(Some((head, _))) = RequestHead::parse(&head) else { return self.ignore() };
        let judgement = judge(&head, self.server_port(), &body, extent);
        self.decide(judgement, number, started, when, &head, &body);
        self.body_of_request(number, rest);
    }

    /// Returns whether there is such an exchange.
    fn body_of_request(&mut self, number: u64, bytes: &[u8]) -> bool {
        let Some(tracked) = self.messages.find(number) else { return false };
        self.shared.counters.parse_gaps += u64::from(tracked.request_body(bytes));
        true
    }

    /// Judges by a head of which no more is seen: it is longer than what the kernel side copies of a message that it does
    /// not know. A call that begins so is lost; if its path says what it is, the next one there is not.
    pub(super) fn judge_cut_head(&mut self, seen: &[u8]) {
        let whole_lines = memchr::memmem::rfind(seen, b"\r\n").map_or(0, |end| end + 2);
        let cut = [&seen[..whole_lines], b"\r\n"].concat();
        let may_be_call = match RequestHead::parse(&cut) {
            Ok(Some((head, _))) => match judge(&head, self.server_port(), &[], Extent::Beginning) {
                Judgement::NotModel => false,
                Judgement::NeedBody => true,
                Judgement::ModelCall(_) | Judgement::ModelSocket(_) => {
                    self.learn(&head);
                    true
                }
            },
            // Not even its target is whole.
            _ => seen.starts_with(b"POST "),
        };
        if may_be_call {
            self.shared.counters.parse_gaps += 1;
        }
        self.ignore();
    }

    /// Judges by what there is, if that message still awaits it: its body has a gap.
    fn judge_cut(&mut self, number: u64) -> bool {
        let Some(judged) = self.messages.take_judged(number) else { return false };
        let started = judged.started;
        self.messages.keep_judged(judged);
        self.judge_body(number, started, &[], Extent::Cut);
        true
    }

    /// An exchange is over, if there is one.
    pub(super) fn end(&mut self, exchange: u64, when: Nanos, outcome: Outcome) {
        let Ok(index) = self.messages.place_of(exchange) else { return };
        let mut tracked = self.messages.active.remove(index);
        let was_cut = matches!(outcome, Outcome::ClientLeft(_) | Outcome::ServerLeft(_));
        if !was_cut {
            self.shared.counters.parse_gaps += u64::from(tracked.mark_lost_end_of_request());
        }
        tracked.response_end(when, self.observer);
        tracked.end(when, outcome, self.observer);
        keep_if_held(tracked, self.key, self.shared);
        if self.messages.active.is_empty() {
            // An idle connection holds nothing.
            self.messages.active = Vec::new();
            if matches!(self.messages.state, State::ModelCall) {
                self.messages.state = State::BetweenMessages;
            }
        }
    }

    fn server_port(&self) -> Option<u16> {
        let end = match role_of(self.request_direction) {
            Role::Client => self.origin.remote,
            Role::Server => self.origin.local,
        };
        end.map(|(_, port)| port)
    }
}

impl HttpSink for Sink<'_> {
    fn request_head(&mut self, exchange: u64, when: Nanos, started: Nanos, head: &RequestHead<'_>) {
        let judgement = judge(head, self.server_port(), &[], Extent::Beginning);
        self.decide(judgement, exchange, started, when, head, &[]);
    }

    fn request_body(&mut self, exchange: u64, when: Nanos, bytes: &[u8]) {
        if !self.body_of_request(exchange, bytes) {
            self.judge_body(exchange, when, bytes, Extent::Beginning);
        }
    }

    fn request_body_gap(&mut self, exchange: u64, len: Option<u64>) {
        if self.judge_cut(exchange)
            && let Some(tracked) = self.messages.find(exchange)
        {
            // What the kernel side kept back until there was a verdict.
            tracked.exchange.bytes_missed += len.unwrap_or(1);
            self.shared.counters.parse_gaps += 1;
        }
        let is_missed = self.is_multiplexed();
        if let Some(tracked) = self.messages.find(exchange) {
            tracked.request_gap(len);
            if is_missed {
                tracked.exchange.bytes_missed += len.unwrap_or(1);
                self.shared.counters.parse_gaps += 1;
            }
        }
    }

    fn request_end(&mut self, exchange: u64, when: Nanos, complete: bool) {
        self.judge_body(exchange, when, &[], Extent::Whole);
        if let Some(tracked) = self.messages.find(exchange) {
            tracked.note_end_of_request(complete);
        }
        if let Some(tracked) = self.messages.find(exchange)
            && tracked.exchange.request_sent_at.is_none()
        {
            tracked.request_end(when, self.observer);
        }
    }

    fn response_head(&mut self, exchange: u64, when: Nanos, head: &ResponseHead<'_>) {
        // Calls that were asked for before are answered before.
        let is_wanted = self.messages.socket.as_ref().is_some_and(|wanted| wanted.number == exchange);
        if is_wanted && matches!(self.messages.state, State::Upgrading) {
            // The server does not agree.
            self.messages.socket = None;
            return self.ignore();
        }
        if let Some(tracked) = self.messages.find(exchange) {
            tracked.response_head(when, head, self.observer);
            if is_long_document(head) {
                self.tell_kernel(Action::ThinResponse);
            }
        }
    }

    fn response_body(&mut self, exchange: u64, when: Nanos, bytes: &[u8]) {
        let Some(tracked) = self.messages.find(exchange) else { return };
        self.shared.counters.parse_gaps += u64::from(tracked.response_body(when, bytes, self.observer));
        // SDKs read no further than this. The stream's own end comes with what the connection carries next, if anything.
        if tracked.has_finished() && self.is_multiplexed() {
            self.end(exchange, when, Outcome::Complete);
        }
    }

    fn response_body_gap(&mut self, exchange: u64, len: Option<u64>) {
        let is_missed = self.is_multiplexed();
        if let Some(tracked) = self.messages.find(exchange) {
            tracked.response_gap(len);
            if is_missed {
                tracked.answer_missed(len.unwrap_or(1));
                self.shared.counters.parse_gaps += 1;
            } else if len.is_none() {
                // Nothing says how far it goes.
                tracked.note_output_missed();
            }
        }
    }

    fn response_trailers(&mut self, exchange: u64, _when: Nanos, trailers: &ResponseHead<'_>) {
        if let Some(tracked) = self.messages.find(exchange) {
            tracked.response_trailers(trailers);
        }
    }

    fn response_end(&mut self, exchange: u64, when: Nanos, complete: bool) {
        self.end(exchange, when, if complete { Outcome::Complete } else { Outcome::Cut });
    }

    fn reset(&mut self, exchange: u64, when: Nanos, by: Side) {
        let outcome = match by {
            Side::Request => Outcome::ClientLeft("client_cancelled"),
            Side::Response => Outcome::ServerLeft("stream_reset"),
        };
        self.messages.take_judged(exchange);
        self.end(exchange, when, outcome);
    }

    fn upgraded(&mut self, exchange: u64, when: Nanos, head: &ResponseHead<'_>) {
        let to = head.header("upgrade").unwrap_or_default();
        // There is one upgrade only.
        let wanted = self.messages.socket.take().filter(|wanted| wanted.number == exchange);
        if to.eq_ignore_ascii_case(b"h2c") {
            self.messages.upgraded = Some(Upgrade::Http2(exchange));
            return;
        }
        if let Some(wanted) = wanted
            && to.eq_ignore_ascii_case(b"websocket")
        {
            self.messages.upgraded = Some(Upgrade::WebSocket(Box::new(Socket::new(wanted.template, head))));
            self.tell_kernel(Action::Stream);
            return;
        }
        self.messages.end_active(self.key, when, Outcome::Complete, self.shared, self.observer);
        self.messages.state = State::Opaque;
        self.tell_kernel(Action::Opaque);
    }

    fn response_cut(&mut self, exchange: u64) {
        if let Some(tracked) = self.messages.find(exchange) {
            // One byte at the least, more cannot be told.
            tracked.answer_missed(1);
        }
    }

    fn desync(&mut self, side: Side) {
        self.shared.counters.desyncs += 1;
        if let Some(tracked) = self.messages.affected_by_gap(side) {
            // What is not understood is not seen: one byte at the least, more cannot be told.
            tracked.exchange.bytes_missed = tracked.exchange.bytes_missed.max(1);
            if side == Side::Response {
                tracked.note_output_missed();
            }
        }
        if self.messages.active.is_empty() {
            self.ignore();
        }
    }
}

/// Whether the answer is one plain JSON document so long that its middle, vectors or images, need not be copied.
fn is_long_document(head: &ResponseHead<'_>) -> bool {
    let is_json = head.header("content-type").is_some_and(|kind| kind.starts_with(b"application/json"));
    is_json
        && head.status == Some(200)
        && head.content_coding() == Coding::Identity
        && head.content_length().is_some_and(|length| length >= LONG_DOCUMENT_BYTES)
}

fn comm_label(comm: &[u8; 16]) -> Label {
    let len = comm.iter().position(|byte| *byte == 0).unwrap_or(comm.len());
    Label::from_bytes(&comm[..len])
}

/// The serving end: its name from the `Host` header, its address from the socket.
fn endpoint(name: Option<Label>, header: Option<&[u8]>, source: Source, role: Role, origin: &Origin) -> Endpoint {
    let socket = match role {
        Role::Client => origin.remote,
        Role::Server => origin.local,
    };
    // A `Host` header leaves out the scheme's own port.
    let implied = (source == Source::Tls && name.is_some()).then_some(443);
    Endpoint {
        host: name,
        address: socket.map(|(address, _)| address),
        port: socket.map(|(_, port)| port).or_else(|| port_of(header?)).or(implied),
    }
}

/// The port in `name:port` and `[v6]:port`.
fn port_of(host: &[u8]) -> Option<u16> {
    let host = std::str::from_utf8(host).ok()?;
    let behind_address = host.rsplit(']').next()?;
    behind_address.rsplit_once(':')?.1.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::port_of;

    #[test]
    fn the_port_of_a_host_header() {
        assert_eq!(port_of(b"api.openai.com"), None);
        assert_eq!(port_of(b"localhost:8443"), Some(8443));
        assert_eq!(port_of(b"[::1]:80"), Some(80));
        assert_eq!(port_of(b"[::1]"), None);
        assert_eq!(port_of(b"a:b"), None);
        assert_eq!(port_of(b""), None);
    }
}
