//! HTTP/1 seen passively: both sides of a connection, whole or with gaps.
//!
//! Each side is one state machine. Bodies are handed over as slices of the input; only a head that is spread over
//! several pieces is copied, and no more of it than `MAX_HEAD`.
//!
//! What happens at a gap depends on where it falls:
//!
//! - In a body of known length, in a chunk of known size, or in a body that lasts until the end of the stream: its
//!   length is reported and counting goes on.
//! - Across chunk framing: from there on body bytes are reported *raw*, with chunk sizes and line ends among them, until
//!   the last chunk is recognised or the next message begins. Readers of such bodies must cope with that: an event
//!   stream has its own line structure, and in a request only the tail is looked at.
//! - In a head or between messages: nothing can be said of what follows until the next message begins. For requests
//!   the kernel side tells ([`Http1::message_begins`]); a response is looked for at the beginning of each piece.
//!
//! Which request a response found behind a gap answers is not visible. Clients do not pipeline, so it is taken for the
//! answer to the newest request, and older ones without an answer are ended as incomplete.

mod chunked;
mod head;
mod scan;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::mem;

use crate::time::Nanos;
use chunked::{Chunked, Step, Terminator};
use head::Framing;
pub use head::{NotHttp, RequestHead, ResponseHead};
use scan::HeadEnd;

/// The longest head that is put together. Servers refuse more than 8 to 64 KiB.
const MAX_HEAD: usize = 64 * 1024;

/// Requests that can wait for their answers. Without pipelining it is one; a client that never gets any must not fill memory.
const MAX_WAITING: usize = 64;

/// A side of a connection by role: who sends requests and who answers them, whichever of them is observed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Side {
    /// What the client sends.
    Request,
    /// What the server sends.
    Response,
}

/// What happens on a connection, in stream order per side.
///
/// `exchange` numbers the requests of the connection 0, 1, 2 and so on; a response carries the number of the request
/// that it answers. A response may end before its request does (a refused upload).
pub trait HttpSink {
    /// A request's head is complete; `started` is when its first byte came.
    fn request_head(&mut self, exchange: u64, when: Nanos, started: Nanos, head: &RequestHead<'_>);
    /// Bytes of a request's body, freed from chunk framing (but see [`self`]), still compressed.
    fn request_body(&mut self, exchange: u64, when: Nanos, bytes: &[u8]);
    /// Bytes of a request's body are missing. `None`: unknown how many, and the body goes on raw.
    fn request_body_gap(&mut self, exchange: u64, len: Option<u64>);
    /// The request has ended. `complete` is false where it was cut short.
    fn request_end(&mut self, exchange: u64, when: Nanos, complete: bool);
    /// A final response's head is complete. Interim responses (1xx) are not reported.
    fn response_head(&mut self, exchange: u64, when: Nanos, head: &ResponseHead<'_>);
    /// Bytes of a response's body, freed from chunk framing (but see [`self`]), still compressed.
    fn response_body(&mut self, exchange: u64, when: Nanos, bytes: &[u8]);
    /// Bytes of a response's body are missing. `None`: unknown how many, and the body goes on raw.
    fn response_body_gap(&mut self, exchange: u64, len: Option<u64>);
    /// Fields behind a response's body, which ends next.
    fn response_trailers(&mut self, _exchange: u64, _when: Nanos, _trailers: &ResponseHead<'_>) {}
    /// The response has ended, or will never come. `complete` is false where it did not end as its framing said.
    fn response_end(&mut self, exchange: u64, when: Nanos, complete: bool);
    /// A side has given the exchange up, which alone is over: HTTP/2 can do that.
    fn reset(&mut self, _exchange: u64, _when: Nanos, _by: Side) {}
    /// The connection speaks another protocol from here on (101, or CONNECT accepted), which this head may name. Nothing more
    /// is reported.
    fn upgraded(&mut self, exchange: u64, when: Nanos, head: &ResponseHead<'_>);
    /// The connection's first answer, to this exchange, begins with what is no HTTP: whoever came amid it knows why.
    fn response_cut(&mut self, _exchange: u64) {
        self.desync(Side::Response);
    }
    /// Bytes that are no HTTP where a message should begin, or framing that contradicts itself.
    fn desync(&mut self, side: Side);
}

/// One HTTP/1 connection.
#[derive(Debug, Default)]
pub struct Http1 {
    request: Half,
    response: Half,
    /// Requests whose final response has not begun, oldest first.
    waiting: VecDeque<Waiting>,
    next_exchange: u64,
    /// Whether an answer has been understood.
    is_answered: bool,
    is_upgraded: bool,
}

/// One side of the connection.
#[derive(Debug, Default)]
struct Half {
    state: State,
    /// The exchange whose message is being read; `None` between messages and for answers to requests never seen.
    exchange: Option<u64>,
    /// When the latest bytes before those at hand came.
    last_seen: Nanos,
}

#[derive(Debug)]
enum State {
    /// Between messages or in a head.
    Head(PartialHead),
    /// In a body of known length.
    Length { left: u64 },
    /// In a chunked body.
    Chunked(Chunked),
    /// In a body that lasts until the end of the stream.
    UntilClose,
    /// In a chunked body whose framing is lost.
    Raw(Terminator),
    /// Nothing is known until a message begins.
    Lost,
    /// The stream has ended.
    Ended,
}

#[derive(Default)]
struct PartialHead {
    buffered: Vec<u8>,
    end: HeadEnd,
    started: Nanos,
    /// Looked for in the dark: what turns out to be no head is no surprise.
    is_guess: bool,
}

#[derive(Clone, Copy, Debug)]
struct Waiting {
    exchange: u64,
    answer: Answer,
}

/// How a request's method bears upon its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    Ordinary,
    /// `HEAD`: never a body, whatever the head says.
    WithoutBody,
    /// `CONNECT`: success makes the connection a tunnel.
    Tunnel,
}

impl Default for State {
    fn default() -> Self {
        Self::Head(PartialHead::default())
    }
}

impl Half {
    fn buffered(&self) -> &Vec<u8> {
        const NOTHING: &Vec<u8> = &Vec::new();
        if let State::Head(head) = &self.state { &head.buffered } else { NOTHING }
    }
}

impl Http1 {
    /// A connection of which nothing has been seen yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Memory that it holds beyond its own size, in bytes.
    pub fn memory(&self) -> usize {
        let buffered = [&self.request, &self.response].map(|half| half.buffered().capacity());
        buffered.iter().sum::<usize>() + self.waiting.capacity() * size_of::<Waiting>()
    }

    /// Whether part of a head waits for the rest of it.
    pub fn has_partial_head(&self, side: Side) -> bool {
        let half = if side == Side::Request { &self.request } else { &self.response };
        !half.buffered().is_empty()
    }

    /// Whether bytes of an answer came last that were no head where one was looked for.
    pub fn has_lost_answers(&self) -> bool {
        matches!(self.response.state, State::Lost)
    }

    /// The next bytes of one side.
    pub fn push(&mut self, side: Side, when: Nanos, bytes: &[u8], sink: &mut dyn HttpSink) {
        self.push_until_upgraded(side, when, bytes, sink);
    }

    /// The same. Gives how many of the bytes were read: those behind an upgrade are not.
    pub fn push_until_upgraded(&mut self, side: Side, when: Nanos, bytes: &[u8], sink: &mut dyn HttpSink) -> usize {
        let mut rest = bytes;
        if side == Side::Response && matches!(self.response.state, State::Lost) {
            self.response.state = State::Head(PartialHead { is_guess: true, ..PartialHead::default() });
        }
        while !rest.is_empty() && !self.is_upgraded {
            // Each function sets the state that follows; `Lost` stands in meanwhile.
            let used = match mem::replace(&mut self.half(side).state, State::Lost) {
                State::Head(head) => self.read_head(side, when, head, rest, sink),
                State::Length { left } => self.read_length(side, when, left, rest, sink),
                State::Chunked(chunked) => self.read_chunked(side, when, chunked, rest, sink),
                State::UntilClose => self.read_until_close(side, when, rest, sink),
                State::Raw(terminator) => self.read_raw(side, when, terminator, rest, sink),
                State::Lost => rest.len(),
                State::Ended => {
                    self.half(side).state = State::Ended;
                    rest.len()
                }
            };
            rest = &rest[used..];
        }
        self.half(side).last_seen = when;
        bytes.len() - rest.len()
    }

    /// What there is of a request's head that is not complete.
    pub fn partial_request_head(&self) -> &[u8] {
        match &self.request.state {
            State::Head(head) => &head.buffered,
            _ => &[],
        }
    }

    /// `len` bytes of one side were not seen.
    pub fn gap(&mut self, side: Side, when: Nanos, len: u64, sink: &mut dyn HttpSink) {
        if len == 0 || self.is_upgraded {
            return;
        }
        let half = self.half(side);
        let exchange = half.exchange;
        // A message that ended within the gap ended after its last byte seen and before the bytes behind the gap,
        // which may come much later: on a kept-alive connection with the next message.
        let ended = half.last_seen;
        match mem::replace(&mut half.state, State::Lost) {
            State::Head(head) => {
                if side == Side::Response
                    && !head.is_guess
                    && !head.buffered.is_empty()
                    && let Some(waiting) = self.waiting.pop_front()
                {
                    sink.response_end(waiting.exchange, when, false);
                }
            }
            State::Length { left } => {
                report_gap(side, exchange, Some(len.min(left)), sink);
                if len < left {
                    half.state = State::Length { left: left - len };
                } else {
                    self.finish(side, ended, true, sink);
                    if len > left {
                        self.half(side).state = State::Lost;
                    }
                }
            }
            // The body is over, and whether the message is cannot be seen.
            State::Chunked(Chunked::Trailer { .. }) => {
                self.finish(side, ended, true, sink);
                self.half(side).state = State::Lost;
            }
            State::Chunked(mut chunked) => {
                let is_known = chunked.skip(len);
                report_gap(side, exchange, is_known.then_some(len), sink);
                half.state = if is_known { State::Chunked(chunked) } else { State::Raw(Terminator::behind_gap()) };
            }
            State::UntilClose => {
                report_gap(side, exchange, Some(len), sink);
                half.state = State::UntilClose;
            }
            State::Raw(_) => {
                report_gap(side, exchange, None, sink);
                half.state = State::Raw(Terminator::behind_gap());
            }
            State::Lost => {}
            State::Ended => half.state = State::Ended,
        }
    }

    /// The side's sender has ended its stream: completes a body that lasts until then, cuts any other.
    pub fn end(&mut self, side: Side, when: Nanos, sink: &mut dyn HttpSink) {
        if self.is_upgraded {
            return;
        }
        match self.half(side).state {
            State::UntilClose => self.finish(side, when, true, sink),
            State::Length { .. } | State::Chunked(_) | State::Raw(_) => self.finish(side, when, false, sink),
            State::Head(_) | State::Lost | State::Ended => {}
        }
        self.half(side).state = State::Ended;
        if side == Side::Response {
            self.give_up_waiting(0, when, sink);
        }
    }

    /// The kernel side holds the next bytes of [`Side::Request`] for the beginning of a message.
    ///
    /// Believed where nothing better is known: not amid a message whose framing is intact, unless that has been
    /// answered in full and so will hardly go on (a refused upload, a client told not to continue).
    pub fn message_begins(&mut self, when: Nanos, sink: &mut dyn HttpSink) {
        if self.is_upgraded {
            return;
        }
        let last_seen = self.request.last_seen;
        match &self.request.state {
            State::Head(head) if head.buffered.is_empty() => {}
            State::Lost => self.request.state = State::default(),
            // A client begins no message before the one before is out.
            State::Raw(_) => self.finish(Side::Request, last_seen, true, sink),
            State::Length { .. } | State::Chunked(_) if self.is_answered() => {
                self.finish(Side::Request, last_seen, false, sink);
            }
            State::Head(_) | State::Length { .. } | State::Chunked(_) | State::UntilClose | State::Ended => return,
        }
        self.resynchronise_response(when, sink);
    }

    /// All answers are over but those to the newest `keep` requests, and an answer may begin here: bytes were lost.
    pub fn answers_are_over(&mut self, when: Nanos, keep: usize, sink: &mut dyn HttpSink) {
        if self.is_upgraded || matches!(self.response.state, State::Ended) {
            return;
        }
        self.finish(Side::Response, self.response.last_seen, false, sink);
        self.give_up_waiting(keep, when, sink);
    }

    /// Whether the request being read has its whole response already.
    fn is_answered(&self) -> bool {
        self.request.exchange.is_some_and(|exchange| {
            self.response.exchange != Some(exchange) && self.waiting.iter().all(|waiting| waiting.exchange != exchange)
        })
    }

    /// A request begins: what the response side has lost track of will not be found any more.
    fn resynchronise_response(&mut self, when: Nanos, sink: &mut dyn HttpSink) {
        let last_seen = self.response.last_seen;
        match self.response.state {
            State::Lost => {}
            // It has gone on to its end, which was not seen.
            State::Raw(_) => {
                report_gap(Side::Response, self.response.exchange, None, sink);
                self.finish(Side::Response, last_seen, false, sink);
            }
            // The answer to a request never seen. It should be over; its method may have meant that it has no body.
            State::Length { .. } | State::Chunked(_) | State::UntilClose if self.response.exchange.is_none() => {}
            // Intact: the client pipelines.
            _ => return,
        }
        self.response.state = State::Lost;
        self.give_up_waiting(0, when, sink);
    }

    fn read_head(
        &mut self,
        side: Side,
        when: Nanos,
        mut head: PartialHead,
        bytes: &[u8],
        sink: &mut dyn HttpSink,
    ) -> usize {
        let mut blank = 0;
        if head.buffered.is_empty() {
            // Some senders put an empty line behind a body.
            blank = bytes.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
            head.started = when;
        }
        let rest = &bytes[blank..];
        let end = head.end.find(rest);
        let part = &rest[..end.unwrap_or(rest.len())];
        let begins_well = !head.buffered.is_empty() || part.starts_with(b"HTTP/");
        if !head.can_go_on(side, part) {
            self.not_http(side, head.is_guess, begins_well, sink);
            return bytes.len();
        }
        if end.is_none() {
            head.buffered.extend_from_slice(part);
            self.half(side).state = State::Head(head);
            return bytes.len();
        }
        let mut joined = mem::take(&mut head.buffered);
        let whole = if joined.is_empty() {
            part
        } else {
            joined.extend_from_slice(part);
            &joined
        };
        let is_head = match side {
            Side::Request => self.request_head(when, head.started, whole, sink),
            Side::Response => self.response_head(when, head.is_guess, whole, sink),
        };
        if is_head.is_err() {
            self.not_http(side, head.is_guess, begins_well, sink);
            return bytes.len();
        }
        blank + part.len()
    }

    fn request_head(
        &mut self,
        when: Nanos,
        started: Nanos,
        bytes: &[u8],
        sink: &mut dyn HttpSink,
    ) -> Result<(), NotHttp> {
        let head = whole_head(RequestHead::parse(bytes), bytes)?;
        let exchange = self.next_exchange;
        self.next_exchange += 1;
        self.request.exchange = Some(exchange);
        sink.request_head(exchange, when, started, &head);
        if matches!(self.response.state, State::Ended) {
            sink.response_end(exchange, when, false);
        } else {
            let answer = match head.method {
                "HEAD" => Answer::WithoutBody,
                "CONNECT" => Answer::Tunnel,
                _ => Answer::Ordinary,
            };
            self.waiting.push_back(Waiting { exchange, answer });
            self.bound_waiting(when, sink);
        }
        if head.contradicts_itself() {
            sink.desync(Side::Request);
        }
        self.start_body(Side::Request, when, head.framing(), sink);
        Ok(())
    }

    fn response_head(
        &mut self,
        when: Nanos,
        is_guess: bool,
        bytes: &[u8],
        sink: &mut dyn HttpSink,
    ) -> Result<(), NotHttp> {
        let head = whole_head(ResponseHead::parse(bytes), bytes)?;
        self.is_answered = true;
        if is_guess {
            self.give_up_waiting(1, when, sink);
        }
        let waiting = self.waiting.front().copied();
        let answer = waiting.map_or(Answer::Ordinary, |waiting| waiting.answer);
        match head.status {
            Some(101) => self.upgrade(when, &head, sink),
            Some(100..=199) => self.response.state = State::default(),
            Some(200..=299) if answer == Answer::Tunnel => {
                if let Some(waiting) = waiting {
                    sink.response_head(waiting.exchange, when, &head);
                }
                self.upgrade(when, &head, sink);
            }
            _ => {
                self.waiting.pop_front();
                self.response.exchange = waiting.map(|waiting| waiting.exchange);
                self.request_is_answered(sink);
                if let Some(exchange) = self.response.exchange {
                    sink.response_head(exchange, when, &head);
                }
                if head.contradicts_itself() {
                    sink.desync(Side::Response);
                }
                let framing = if answer == Answer::WithoutBody { Ok(Framing::Empty) } else { head.framing() };
                self.start_body(Side::Response, when, framing, sink);
            }
        }
        Ok(())
    }

    /// An answer begins: a request whose end could not be seen has ended.
    fn request_is_answered(&mut self, sink: &mut dyn HttpSink) {
        let is_raw = matches!(self.request.state, State::Raw(_));
        if is_raw && self.request.exchange.is_some() && self.request.exchange == self.response.exchange {
            self.finish(Side::Request, self.request.last_seen, true, sink);
            self.request.state = State::Lost;
        }
    }

    fn start_body(&mut self, side: Side, when: Nanos, framing: Result<Framing, NotHttp>, sink: &mut dyn HttpSink) {
        self.half(side).state = match framing {
            Ok(Framing::Empty) => return self.finish(side, when, true, sink),
            Ok(Framing::Length(left)) => State::Length { left },
            Ok(Framing::Chunked) => State::Chunked(Chunked::SizeStart),
            Ok(Framing::UntilClose) => State::UntilClose,
            Err(NotHttp) => {
                self.finish(side, when, false, sink);
                self.half(side).state = State::Lost;
                return sink.desync(side);
            }
        };
    }

    fn read_length(&mut self, side: Side, when: Nanos, left: u64, bytes: &[u8], sink: &mut dyn HttpSink) -> usize {
        let used = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
        report_body(side, self.half(side).exchange, when, &bytes[..used], sink);
        let left = left - used as u64;
        if left == 0 {
            self.finish(side, when, true, sink);
        } else {
            self.half(side).state = State::Length { left };
        }
        used
    }

    fn read_chunked(
        &mut self,
        side: Side,
        when: Nanos,
        mut chunked: Chunked,
        bytes: &[u8],
        sink: &mut dyn HttpSink,
    ) -> usize {
        let exchange = self.half(side).exchange;
        let (step, used) = chunked.next(bytes);
        match step {
            Step::Data(data) => report_body(side, exchange, when, data, sink),
            Step::Partial => {}
            Step::End => {
                self.finish(side, when, true, sink);
                return used;
            }
            Step::Broken => {
                sink.desync(side);
                report_gap(side, exchange, None, sink);
                self.half(side).state = State::Raw(Terminator::new());
                return used;
            }
        }
        self.half(side).state = State::Chunked(chunked);
        used
    }

    fn read_until_close(&mut self, side: Side, when: Nanos, bytes: &[u8], sink: &mut dyn HttpSink) -> usize {
        let half = self.half(side);
        half.state = State::UntilClose;
        report_body(side, half.exchange, when, bytes, sink);
        bytes.len()
    }

    fn read_raw(
        &mut self,
        side: Side,
        when: Nanos,
        mut terminator: Terminator,
        bytes: &[u8],
        sink: &mut dyn HttpSink,
    ) -> usize {
        // The end of this answer fell into the gap, for the next one begins: its request was not held for pipelined.
        if side == Side::Response && !self.waiting.is_empty() && bytes.starts_with(b"HTTP/1.") {
            report_gap(side, self.response.exchange, None, sink);
            self.finish(side, self.response.last_seen, false, sink);
            self.response.state = State::Head(PartialHead { is_guess: true, ..PartialHead::default() });
            return 0;
        }
        let end = terminator.find(bytes);
        let used = end.unwrap_or(bytes.len());
        report_body(side, self.half(side).exchange, when, &bytes[..used], sink);
        if end.is_some() {
            self.finish(side, when, true, sink);
        } else {
            self.half(side).state = State::Raw(terminator);
        }
        used
    }

    /// The message of that side is over; the next one may begin.
    fn finish(&mut self, side: Side, when: Nanos, complete: bool, sink: &mut dyn HttpSink) {
        let half = self.half(side);
        half.state = State::default();
        let Some(exchange) = half.exchange.take() else { return };
        match side {
            Side::Request => sink.request_end(exchange, when, complete),
            Side::Response => sink.response_end(exchange, when, complete),
        }
    }

    fn not_http(&mut self, side: Side, was_guess: bool, begins_well: bool, sink: &mut dyn HttpSink) {
        self.half(side).state = State::Lost;
        if was_guess {
            return;
        }
        match (side, self.waiting.front()) {
            // An answer that nobody waits for may have been cut anywhere: we came too late for its beginning.
            (Side::Response, None) => {}
            // So may a connection's first, for what is sent and what is received is not seen from the same instant on.
            (Side::Response, Some(waiting)) if !self.is_answered && !begins_well => sink.response_cut(waiting.exchange),
            _ => sink.desync(side),
        }
    }

    fn upgrade(&mut self, when: Nanos, head: &ResponseHead<'_>, sink: &mut dyn HttpSink) {
        // An upgrade that nobody asked for can come amid a request's body.
        self.finish(Side::Request, when, false, sink);
        self.is_upgraded = true;
        if let Some(waiting) = self.waiting.pop_front() {
            sink.upgraded(waiting.exchange, when, head);
        }
        self.give_up_waiting(0, when, sink);
    }

    /// Ends as unanswered all waiting exchanges but the newest `keep`.
    fn give_up_waiting(&mut self, keep: usize, when: Nanos, sink: &mut dyn HttpSink) {
        while self.waiting.len() > keep {
            if let Some(waiting) = self.waiting.pop_front() {
                sink.response_end(waiting.exchange, when, false);
            }
        }
    }

    fn bound_waiting(&mut self, when: Nanos, sink: &mut dyn HttpSink) {
        if self.waiting.len() > MAX_WAITING {
            self.give_up_waiting(1, when, sink);
            // The next response would be taken for the wrong one's.
            if matches!(&self.response.state, State::Head(head) if head.buffered.is_empty()) {
                self.response.state = State::Lost;
            }
        }
    }

    fn half(&mut self, side: Side) -> &mut Half {
        match side {
            Side::Request => &mut self.request,
            Side::Response => &mut self.response,
        }
    }
}

impl PartialHead {
    /// Whether this can still become a head, with `part` behind what there is.
    fn can_go_on(&self, side: Side, part: &[u8]) -> bool {
        if self.buffered.len() + part.len() > MAX_HEAD {
            return false;
        }
        if self.buffered.len() >= scan::DECISIVE {
            return true;
        }
        let mut beginning = [0; scan::DECISIVE];
        let mut length = 0;
        for (slot, byte) in beginning.iter_mut().zip(self.buffered.iter().chain(part)) {
            *slot = *byte;
            length += 1;
        }
        scan::can_begin(side, &beginning[..length])
    }
}

impl std::fmt::Debug for PartialHead {
    /// What is buffered may be a key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PartialHead").field("buffered", &self.buffered.len()).finish_non_exhaustive()
    }
}

/// The head that takes up all of `bytes`.
fn whole_head<T>(parsed: Result<Option<(T, usize)>, NotHttp>, bytes: &[u8]) -> Result<T, NotHttp> {
    match parsed? {
        Some((head, length)) if length == bytes.len() => Ok(head),
        _ => Err(NotHttp),
    }
}

fn report_body(side: Side, exchange: Option<u64>, when: Nanos, bytes: &[u8], sink: &mut dyn HttpSink) {
    match (side, exchange) {
        (Side::Request, Some(exchange)) => sink.request_body(exchange, when, bytes),
        (Side::Response, Some(exchange)) => sink.response_body(exchange, when, bytes),
        (_, None) => {}
    }
}

fn report_gap(side: Side, exchange: Option<u64>, len: Option<u64>, sink: &mut dyn HttpSink) {
    match (side, exchange) {
        (Side::Request, Some(exchange)) => sink.request_body_gap(exchange, len),
        (Side::Response, Some(exchange)) => sink.response_body_gap(exchange, len),
        (_, None) => {}
    }
}
