//! One connection: its pieces are put in order and given to the HTTP parser, and its end is told apart.

use crate::chunk::{Capture, Chunk, Close, ConnectionKey, Direction, Origin, Pid, Segment, Source};
use crate::dialect::JUDGE_BYTES;
use crate::exchange::{Exchange, Protocol, Role};
use crate::http1::{Http1, HttpSink, Side};
use crate::http2::{self, Http2};
use crate::reassembly::Reassembler;
use crate::time::Nanos;

use super::messages::{Messages, Sink, State, Upgrade, role_of};
use super::socket::Socket;
use super::stdio::Stdio;
use super::tracked::Outcome;
use super::{Observer, Shared};

/// One endpoint of one connection.
pub(super) struct Connection {
    key: ConnectionKey,
    origin: Origin,
    /// TCP only.
    reassembler: Option<Box<Reassembler>>,
    http: Http1,
    /// Instead of `http`, once the connection was recognised as HTTP/2.
    http2: Option<Box<Http2>>,
    /// Instead of `http`, once it has become a WebSocket over which models are called.
    socket: Option<Box<Socket>>,
    /// Instead of `http`, where it is a server's standard input and output.
    stdio: Option<Box<Stdio>>,
    /// Answers on it are copied.
    has_answers: bool,
    messages: Messages,
    /// The client's direction, once a message has begun.
    request_direction: Option<Direction>,
    /// The stream offset behind the last byte taken, by direction.
    expected: [Option<u64>; 2],
    last_heard: Nanos,
    /// What the engine keeps of it.
    pub(super) noted: Noted,
    /// Who has ended their stream, by direction.
    ended: [bool; 2],
}

/// How the engine's books stand with a connection.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Noted {
    /// Memory it is charged with.
    pub(super) memory: usize,
    /// When it is to be looked at next.
    pub(super) due: Nanos,
    /// It is among those that wait for what may never come.
    pub(super) is_waiting: bool,
}

/// [`MAX_CONNECTIONS`](super::MAX_CONNECTIONS) of them, idle, shall take no more than 100 MB.
const _: () = assert!((size_of::<Connection>() + size_of::<Reassembler>()) * super::MAX_CONNECTIONS <= 100_000_000);

impl Connection {
    pub(super) fn new(key: ConnectionKey, now: Nanos) -> Self {
        Self {
            key,
            origin: Origin::default(),
            reassembler: (key.source == Source::Tcp).then(Box::default),
            http: Http1::new(),
            http2: None,
            socket: None,
            stdio: (key.source == Source::Stdio).then(Box::default),
            has_answers: false,
            messages: Messages::new(),
            // What is seen of standard input and output is the server's end.
            request_direction: (key.source == Source::Stdio).then_some(Direction::Received),
            expected: [None; 2],
            last_heard: now,
            noted: Noted::default(),
            ended: [false; 2],
        }
    }

    pub(super) fn last_heard(&self) -> Nanos {
        self.last_heard
    }

    pub(super) fn origin(&self) -> &Origin {
        &self.origin
    }

    /// Whether a request follows the answer to the one before it.
    fn is_in_turns(&self) -> bool {
        self.http2.is_none() && self.socket.is_none() && self.stdio.is_none()
    }

    fn is_client(&self) -> bool {
        self.request_direction == Some(Direction::Sent)
    }

    pub(super) fn is_busy(&self) -> bool {
        !self.messages.active.is_empty()
    }

    /// Whether it stays for long without a word between two calls.
    pub(super) fn is_patient(&self) -> bool {
        self.socket.is_some() || self.stdio.is_some()
    }

    /// Memory that it holds beyond its own size, in bytes.
    pub(super) fn memory(&self) -> usize {
        self.reassembler.as_ref().map_or(0, |reassembler| reassembler.memory())
            + self.http.memory()
            + self.http2.as_ref().map_or(0, |http2| size_of::<Http2>() + http2.memory())
            + self.socket.as_ref().map_or(0, |socket| socket.memory())
            + self.stdio.as_ref().map_or(0, |stdio| stdio.memory())
            + self.messages.memory()
    }

    /// Whether time alone may make something come out of it.
    pub(super) fn is_waiting(&self) -> bool {
        self.reassembler.as_ref().is_some_and(|reassembler| reassembler.is_waiting())
    }

    pub(super) fn in_flight(&self) -> impl Iterator<Item = &Exchange> {
        self.messages.active.iter().map(|tracked| &tracked.exchange)
    }

    pub(super) fn segment(&mut self, segment: &Segment<'_>, shared: &mut Shared, observer: &mut dyn Observer) {
        let belongs = self.through_reassembler(shared, |reassembler, out| reassembler.push(segment, out), observer);
        if segment.rst && belongs == Some(true) {
            self.reset(segment.direction, segment.when, shared, observer);
        }
    }

    pub(super) fn tick(&mut self, now: Nanos, shared: &mut Shared, observer: &mut dyn Observer) {
        self.through_reassembler(shared, |reassembler, _| reassembler.tick(now), observer);
    }

    fn through_reassembler<T>(
        &mut self,
        shared: &mut Shared,
        act: impl FnOnce(&mut Reassembler, &mut dyn FnMut(Chunk<'_>)) -> T,
        observer: &mut dyn Observer,
    ) -> Option<T> {
        // Taken out so that the pieces can be handed to the rest of the connection.
        let mut reassembler = self.reassembler.take()?;
        let before = reassembler.desyncs();
        let result = act(&mut reassembler, &mut |chunk| self.chunk(&chunk, shared, observer));
        shared.counters.desyncs += reassembler.desyncs() - before;
        self.reassembler = Some(reassembler);
        Some(result)
    }

    /// Takes a piece in stream order.
    pub(super) fn chunk(&mut self, chunk: &Chunk<'_>, shared: &mut Shared, observer: &mut dyn Observer) {
        self.last_heard = chunk.when;
        self.note_origin(chunk.origin, shared, observer);
        if matches!(self.messages.state, State::Opaque) {
            return;
        }
        let Some((bytes, gap)) = self.place(chunk) else { return };
        if self.stdio.is_some() {
            return self.chunk_of_stdio(chunk, bytes, gap, shared, observer);
        }
        if self.socket.is_some() {
            return self.chunk_of_socket(chunk, bytes, gap, shared, observer);
        }
        if chunk.begins_message && self.http2.is_none() && http2::begins_connection(chunk.bytes) {
            self.begin_http2(chunk, shared, observer);
        }
        if self.http2.is_some() {
            return self.chunk_of_http2(chunk, bytes, gap, shared, observer);
        }
        let begins = chunk.begins_message && self.request_direction.is_none_or(|known| known == chunk.direction);
        // The kernel side counts what a socket receives before TCP has taken it: an answer may come with a count that is
        // taken back.
        let is_certain = self.key.source == Source::Tls || chunk.direction == Direction::Received || self.is_client();
        if chunk.message > self.messages.current && !begins && is_certain {
            self.miss_beginning(chunk, shared, observer);
        }
        if begins {
            self.request_direction = Some(chunk.direction);
        }
        let Some(request_direction) = self.request_direction else { return };
        let side = if chunk.direction == request_direction { Side::Request } else { Side::Response };
        if begins {
            self.begin_message(chunk, gap, shared, observer);
            if matches!(self.messages.state, State::Opaque) {
                return;
            }
        } else {
            if !self.messages.is_followed() {
                return;
            }
            let of_later = side == Side::Response && self.messages.has_before(chunk.message);
            if gap > 0 && of_later && !chunk.follows_thinning {
                self.miss_end_of_answers(chunk, gap, shared, observer);
            } else if gap > 0 {
                self.gap(side, chunk.when, gap, chunk.follows_thinning, shared, observer);
            }
        }
        if chunk.capture == Capture::Positive && matches!(self.messages.state, State::Judging(_)) {
            // The kernel side has recognised a target that came in pieces.
            self.messages.awaited = false;
        }
        let mut used = 0;
        self.feed(shared, observer, |http, sink| used = http.push_until_upgraded(side, chunk.when, bytes, sink));
        match self.messages.upgraded.take() {
            None => {}
            Some(Upgrade::Http2(exchange)) => {
                self.upgrade_to_http2(exchange);
                return self.feed_http2(shared, observer, |http2, sink| {
                    http2.push(side, chunk.when, &bytes[used..], sink);
                });
            }
            Some(Upgrade::WebSocket(socket)) => {
                self.http = Http1::new();
                self.socket = Some(socket);
                self.messages.state = State::Socket;
                return self.chunk_of_socket(chunk, &bytes[used..], 0, shared, observer);
            }
        }
        if side == Side::Response && self.http.has_lost_answers() {
            self.messages.mark_unread_answer(shared);
        }
        self.judge_long_head(side, shared, observer);
        let left_out = chunk.original_len.saturating_sub(chunk.bytes.len() as u64);
        if left_out > 0 && self.messages.is_followed() {
            self.gap(side, chunk.when, left_out, false, shared, observer);
        }
        if chunk.ends_stream {
            self.ended[chunk.direction.index()] = true;
            // The client may only have closed its half: the answer can still come.
            if side == Side::Response {
                self.feed(shared, observer, |http, sink| http.end(side, chunk.when, sink));
            }
        }
    }

    /// What of a piece is new, and how many bytes are missing before it.
    fn place<'a>(&mut self, chunk: &Chunk<'a>) -> Option<(&'a [u8], u64)> {
        let expected = &mut self.expected[chunk.direction.index()];
        let end = chunk.offset.saturating_add(chunk.original_len.max(chunk.bytes.len() as u64));
        let (repeated, gap) = match *expected {
            Some(expected) if chunk.offset < expected => (expected - chunk.offset, 0),
            Some(expected) => (0, chunk.offset - expected),
            None => (0, 0),
        };
        if repeated > 0 && repeated >= end - chunk.offset {
            return None;
        }
        *expected = Some(end);
        let repeated = usize::try_from(repeated).unwrap_or(usize::MAX).min(chunk.bytes.len());
        Some((&chunk.bytes[repeated..], gap))
    }

    fn note_origin(&mut self, origin: &Origin, shared: &mut Shared, observer: &mut dyn Observer) {
        // Where it was given up and nobody was known, it is never too late.
        if origin.owner_is_certain && (!self.origin.owner_is_certain || self.origin.pid.is_none()) {
            shared.settle_ended(self.key, origin.pid, observer);
            self.settle(origin.pid, observer);
        }
        let known = &mut self.origin;
        known.owner_is_certain &= !origin.is_passed_on;
        // The name is that of its process: another's is none.
        let is_anothers = origin.pid.is_some() && origin.pid != known.pid;
        if origin.comm[0] != 0 || is_anothers {
            known.comm = origin.comm;
        }
        if origin.owner_is_certain || !known.owner_is_certain {
            known.pid = origin.pid.or(known.pid);
        }
        known.local = origin.local.or(known.local);
        known.remote = origin.remote.or(known.remote);
    }

    /// The piece belongs to a message whose beginning was lost. The answers to those before it are over.
    fn miss_beginning(&mut self, chunk: &Chunk<'_>, shared: &mut Shared, observer: &mut dyn Observer) {
        self.messages.mark_missed(0, shared);
        self.messages.end_active(self.key, chunk.when, Outcome::Cut, shared, observer);
        self.messages.state = State::Ignored;
        self.messages.current = chunk.message;
    }

    /// The client had gone on to a later message before this piece came, and what lies before it was lost: the ends of
    /// the answers to the earlier ones, and perhaps the beginning of this one.
    fn miss_end_of_answers(&mut self, chunk: &Chunk<'_>, gap: u64, shared: &mut Shared, observer: &mut dyn Observer) {
        if let Some(tracked) = self.messages.affected_by_gap(Side::Response) {
            tracked.exchange.bytes_missed += gap;
            shared.counters.parse_gaps += 1;
        }
        let later = self.messages.active.iter().filter(|tracked| tracked.message == chunk.message).count();
        self.messages.mark_missed(later, shared);
        self.feed(shared, observer, |http, sink| http.answers_are_over(chunk.when, later, sink));
    }

    fn begin_message(&mut self, chunk: &Chunk<'_>, gap: u64, shared: &mut Shared, observer: &mut dyn Observer) {
        // The kernel side takes bytes for a beginning after the other side has spoken: where nothing was heard of that,
        // it was the answer.
        if self.messages.is_unanswered() && !self.http.has_partial_head(Side::Response) {
            self.messages.mark_missed(0, shared);
            self.messages.end_active(self.key, chunk.when, Outcome::Cut, shared, observer);
        }
        if self.is_busy() {
            // Either the client pipelines, or the end of an earlier exchange was lost: the parser can tell.
            if gap > 0 {
                self.gap(Side::Request, chunk.when, gap, chunk.follows_thinning, shared, observer);
            }
            self.feed(shared, observer, |http, sink| http.message_begins(chunk.when, sink));
            if !self.is_busy() {
                // What comes next answers this message, wherever the answers before it ended.
                self.expected[chunk.direction.opposite().index()] = None;
            }
        } else {
            // What came before may not have been followed to its end: the parser starts afresh.
            self.http = Http1::new();
            let is_next = chunk.message == self.messages.current.wrapping_add(1);
            if !is_next || !matches!(self.messages.state, State::BetweenMessages) {
                // Answers that were not copied, or to messages that were lost whole, are no gap of this one.
                self.expected[chunk.direction.opposite().index()] = None;
            }
        }
        self.messages.current = chunk.message;
        self.messages.awaited = chunk.capture == Capture::Awaiting;
        if self.messages.awaited || !self.is_busy() {
            self.messages.state = State::Judging(None);
        }
    }

    /// From here on the connection is HTTP/2. What was under way is lost from sight.
    fn begin_http2(&mut self, chunk: &Chunk<'_>, shared: &mut Shared, observer: &mut dyn Observer) {
        self.messages.mark_missed(0, shared);
        self.messages.end_active(self.key, chunk.when, Outcome::Cut, shared, observer);
        self.http = Http1::new();
        self.http2 = Some(Box::default());
        self.request_direction = Some(chunk.direction);
        self.messages.state = State::Multiplexed;
    }

    /// The server has agreed to go on with HTTP/2 (RFC 7540, 3.2), where the request that asked for it is the first stream's.
    fn upgrade_to_http2(&mut self, exchange: u64) {
        if let Some(tracked) = self.messages.find(exchange) {
            tracked.number = http2::UPGRADED_STREAM;
            tracked.exchange.protocol = Protocol::H2;
        }
        self.http = Http1::new();
        self.http2 = Some(Box::new(Http2::upgraded()));
        self.messages.state = State::Multiplexed;
    }

    fn side_of(&self, direction: Direction) -> Side {
        if Some(direction) == self.request_direction { Side::Request } else { Side::Response }
    }

    /// Takes a piece of an HTTP/2 connection.
    fn chunk_of_http2(
        &mut self,
        chunk: &Chunk<'_>,
        bytes: &[u8],
        gap: u64,
        shared: &mut Shared,
        observer: &mut dyn Observer,
    ) {
        let side = self.side_of(chunk.direction);
        self.messages.current = chunk.message;
        if side == Side::Request {
            self.messages.awaited = chunk.capture == Capture::Awaiting;
        }
        let left_out = chunk.original_len.saturating_sub(chunk.bytes.len() as u64);
        // What the server said before it was known that there are calls was nothing of theirs.
        let begins = side == Side::Response
            && chunk.capture == Capture::Positive
            && !std::mem::replace(&mut self.has_answers, true);
        self.feed_http2(shared, observer, |http2, sink| {
            if begins && gap > 0 {
                http2.lose(side);
            } else {
                http2.gap(side, chunk.when, gap, sink);
            }
            http2.push(side, chunk.when, bytes, sink);
            http2.gap(side, chunk.when, left_out, sink);
        });
        self.ended[chunk.direction.index()] |= chunk.ends_stream;
    }

    /// Takes a piece of a WebSocket.
    fn chunk_of_socket(
        &mut self,
        chunk: &Chunk<'_>,
        bytes: &[u8],
        gap: u64,
        shared: &mut Shared,
        observer: &mut dyn Observer,
    ) {
        let side = self.side_of(chunk.direction);
        let left_out = chunk.original_len.saturating_sub(chunk.bytes.len() as u64);
        self.feed_socket(shared, observer, |socket, sink| {
            socket.push(side, chunk.when, gap, bytes, left_out, sink);
        });
        self.ended[chunk.direction.index()] |= chunk.ends_stream;
    }

    /// Takes a piece of standard input or output.
    fn chunk_of_stdio(
        &mut self,
        chunk: &Chunk<'_>,
        bytes: &[u8],
        gap: u64,
        shared: &mut Shared,
        observer: &mut dyn Observer,
    ) {
        let side = self.side_of(chunk.direction);
        let left_out = chunk.original_len.saturating_sub(chunk.bytes.len() as u64);
        let (Some(request_direction), Some(stdio)) = (self.request_direction, &mut self.stdio) else { return };
        let messages = &mut self.messages;
        let mut sink = Sink { key: self.key, origin: &self.origin, request_direction, messages, shared, observer };
        stdio.push(side, chunk.when, gap, bytes, left_out, &mut sink);
    }

    fn feed_socket(
        &mut self,
        shared: &mut Shared,
        observer: &mut dyn Observer,
        act: impl FnOnce(&mut Socket, &mut Sink<'_>),
    ) {
        let (Some(request_direction), Some(socket)) = (self.request_direction, &mut self.socket) else { return };
        let messages = &mut self.messages;
        act(socket, &mut Sink { key: self.key, origin: &self.origin, request_direction, messages, shared, observer });
    }

    fn feed_http2(
        &mut self,
        shared: &mut Shared,
        observer: &mut dyn Observer,
        act: impl FnOnce(&mut Http2, &mut dyn HttpSink),
    ) {
        let (Some(request_direction), Some(http2)) = (self.request_direction, &mut self.http2) else { return };
        let messages = &mut self.messages;
        act(http2, &mut Sink { key: self.key, origin: &self.origin, request_direction, messages, shared, observer });
    }

    fn gap(
        &mut self,
        side: Side,
        when: Nanos,
        len: u64,
        on_purpose: bool,
        shared: &mut Shared,
        observer: &mut dyn Observer,
    ) {
        if self.messages.has_half_a_head(side) {
            // The kernel side knows its target, so a model call is lost here: its head is longer than what is copied.
            shared.counters.parse_gaps += 1;
            self.messages.state = State::Ignored;
        } else if side == Side::Response && !on_purpose && self.messages.active.len() > 1 {
            return self.lose_order(when, len, shared, observer);
        } else if !on_purpose && let Some(tracked) = self.messages.affected_by_gap(side) {
            match side {
                Side::Request => tracked.exchange.bytes_missed += len,
                Side::Response => tracked.answer_missed(len),
            }
            shared.counters.parse_gaps += 1;
        }
        self.feed(shared, observer, |http, sink| http.gap(side, when, len, sink));
    }

    /// Several requests await their answers, and where one ends and the next begins may have been lost: what comes now
    /// could be taken for the answer to another request.
    fn lose_order(&mut self, when: Nanos, len: u64, shared: &mut Shared, observer: &mut dyn Observer) {
        if let Some(tracked) = self.messages.affected_by_gap(Side::Response) {
            tracked.answer_missed(len);
            shared.counters.parse_gaps += 1;
        }
        self.messages.mark_missed(0, shared);
        self.messages.end_active(self.key, when, Outcome::Cut, shared, observer);
        self.messages.state = State::Ignored;
        self.http = Http1::new();
    }

    /// Decides on a message whose head is longer than what the kernel side copies of it.
    fn judge_long_head(&mut self, side: Side, shared: &mut Shared, observer: &mut dyn Observer) {
        let is_in_head = matches!(self.messages.state, State::Judging(None)) && self.messages.awaited;
        if side == Side::Request && is_in_head && self.http.partial_request_head().len() >= JUDGE_BYTES {
            let seen = self.http.partial_request_head().to_vec();
            self.feed(shared, observer, |_, sink| sink.judge_cut_head(&seen));
        }
    }

    /// Lets the parser act, with this connection's messages and the engine behind its sink.
    fn feed(&mut self, shared: &mut Shared, observer: &mut dyn Observer, act: impl FnOnce(&mut Http1, &mut Sink<'_>)) {
        let Some(request_direction) = self.request_direction else { return };
        let (http, messages) = (&mut self.http, &mut self.messages);
        let mut sink = Sink { key: self.key, origin: &self.origin, request_direction, messages, shared, observer };
        act(http, &mut sink);
    }

    pub(super) fn settle(&mut self, pid: Option<Pid>, observer: &mut dyn Observer) {
        self.origin.owner_is_certain = true;
        self.origin.pid = pid.or(self.origin.pid);
        for tracked in &mut self.messages.active {
            tracked.settle(pid, observer);
        }
    }

    fn reset(&mut self, by: Direction, when: Nanos, shared: &mut Shared, observer: &mut dyn Observer) {
        self.end_all(Close::Reset(by), when, shared, observer);
    }

    pub(super) fn close(&mut self, how: Close, now: Nanos, shared: &mut Shared, observer: &mut dyn Observer) {
        self.through_reassembler(shared, |reassembler, out| reassembler.close(out), observer);
        self.end_all(how, now, shared, observer);
    }

    /// Nothing more is expected of its exchanges.
    pub(super) fn give_up(&mut self, now: Nanos, shared: &mut Shared, observer: &mut dyn Observer) {
        let count = self.look_away(now, shared, observer);
        shared.counters.exchanges_given_up += count;
        shared.counters.parse_gaps += count;
    }

    /// Ends its exchanges where they are last known to have been. Returns how many these are.
    pub(super) fn look_away(&mut self, now: Nanos, shared: &mut Shared, observer: &mut dyn Observer) -> u64 {
        let count = self.messages.active.len() as u64;
        let outcome = Outcome::OutOfSight(self.last_heard);
        self.messages.end_active(self.key, now, outcome, shared, observer);
        self.messages.forget_judged();
        if self.is_in_turns() {
            self.messages.state = State::Ignored;
        }
        self.http = Http1::new();
        count
    }

    /// Lets go of what it holds, as if that had not been seen.
    pub(super) fn shed(&mut self, now: Nanos, shared: &mut Shared, observer: &mut dyn Observer) {
        self.through_reassembler(shared, |reassembler, out| reassembler.close(out), observer);
        for side in [Side::Request, Side::Response] {
            if self.http.has_partial_head(side) {
                self.gap(side, now, 1, false, shared, observer);
            }
        }
        self.messages.forget_judged();
        if let Some(http2) = &mut self.http2 {
            http2.shed();
        }
        self.feed_socket(shared, observer, Socket::shed);
        if let Some(stdio) = &mut self.stdio {
            stdio.shed();
        }
        for tracked in &mut self.messages.active {
            shared.counters.parse_gaps += u64::from(tracked.shed(observer));
        }
    }

    fn end_all(&mut self, how: Close, now: Nanos, shared: &mut Shared, observer: &mut dyn Observer) {
        let Some(request_direction) = self.request_direction else { return };
        if self.http.has_partial_head(Side::Response)
            && let Some(answered) = self.messages.active.first_mut()
        {
            shared.counters.parse_gaps += u64::from(answered.mark_lost_end_of_request());
            if answered.message != self.messages.current {
                // The client had gone on, most likely because there was more of the answer.
                self.messages.mark_missed(self.messages.active.len() - 1, shared);
            }
        }
        let client_ended = self.ended[request_direction.index()];
        let server_ended = self.ended[request_direction.opposite().index()];
        let outcome = match (how, role_of(request_direction)) {
            (Close::Reset(by), _) if by == request_direction => Outcome::ClientLeft("client_cancelled"),
            (Close::Reset(_), _) => Outcome::ServerLeft("connection_reset"),
            (Close::ProcessExited, Role::Client) => Outcome::ClientLeft("client_exited"),
            (Close::ProcessExited, Role::Server) => Outcome::ServerLeft("server_exited"),
            (Close::Released, _) if server_ended && !client_ended => Outcome::Cut,
            (Close::Released, Role::Client) => Outcome::ClientLeft("client_cancelled"),
            // A server lets go of a connection amid an answer when its client has gone. On TCP the client's FIN was
            // seen in that case; a TLS library does not tell, so there it is presumed.
            (Close::Released, Role::Server) if client_ended || self.key.source == Source::Tls => {
                Outcome::ClientLeft("client_cancelled")
            }
            (Close::Released, Role::Server) => Outcome::ServerLeft("connection_closed"),
        };
        // Ends of a TCP stream are told while it is copied, and only then.
        let was_copied = client_ended || server_ended || matches!(how, Close::Reset(_));
        // An answer that came before the kernel side knew that it was wanted.
        let unheard = !was_copied && self.messages.awaited && self.messages.is_unanswered();
        // A client that has gone on to a later message had its answers to those before it, unless they are side by side.
        if unheard || self.is_in_turns() {
            self.messages.mark_missed(usize::from(!unheard), shared);
        }
        let outcome = if unheard { Outcome::Cut } else { outcome };
        self.messages.end_active(self.key, now, outcome, shared, observer);
        self.messages.forget_judged();
        self.http2 = None;
        self.socket = None;
        self.messages.state = State::BetweenMessages;
    }
}
