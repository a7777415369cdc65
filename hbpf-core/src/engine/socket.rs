//! A connection that has become a WebSocket over which models are called: each answer is an exchange.
//!
//! A client asks with one message, and the server answers with several, which say of which answer they are. Where a client's
//! message was not seen, or none was needed (a server that hears somebody stop speaking), the exchange begins with the answer.

use std::hash::{DefaultHasher, Hasher};
use std::time::Duration;

use crate::body::Coding;
use crate::dialect::{Asked, Interpreter, Said, Session, Subject};
use crate::exchange::{Dialect, Protocol};
use crate::http1::{ResponseHead, Side};
use crate::label::Label;
use crate::time::Nanos;
use crate::websocket::{Extensions, SocketSink, WebSocket};

use super::messages::{Opening, Sink, Template};
use super::tracked::Outcome;

/// Calls of one connection that are under way at a time. Servers let a connection have one, or one in each of a few
/// conversations; who asks for more and gets no answers is not served by remembering it.
const MAX_CALLS: usize = 64;

/// So much later than the answer a question may be heard of: a thread that writes may be kept from coming back from it while
/// another one reads.
const LATE_QUESTION: Duration = Duration::from_secs(1);

/// What is known of such a connection.
pub(super) struct Socket {
    frames: WebSocket,
    session: Session,
    calls: Calls,
}

struct Calls {
    template: Template,
    /// Those under way, in the order in which they were asked for.
    under_way: Vec<Call>,
    next_number: u64,
    /// The answer that has ended last: some servers say so twice.
    ended: Option<u64>,
    /// When the answer began that has ended last, where no question was heard of.
    ended_unasked: Option<Nanos>,
    client: Message,
    server: Message,
    /// One side has closed, and with that all calls have ended. What of the other is still on its way is of no other call.
    is_over: bool,
}

/// A message under way, of either side.
#[derive(Clone, Copy, Default)]
struct Message {
    started: Nanos,
    is_broken: bool,
}

/// Whose exchange it is by the numbers that messages name.
struct Call {
    number: u64,
    /// The answer, once it has begun.
    response: Option<u64>,
    stream: Option<u64>,
    /// The client's message.
    message: Option<u64>,
    /// Messages of the server were missed since: its end may have been among them.
    may_have_ended: bool,
    /// When its answer began, where no question was heard of before.
    unasked: Option<Nanos>,
}

impl Socket {
    /// From where the server has agreed with this head.
    pub(super) fn new(template: Template, head: &ResponseHead<'_>) -> Self {
        Self {
            frames: WebSocket::new(head.websocket_extensions()),
            session: Session::new(template.recognised.dialect),
            calls: Calls {
                template,
                under_way: Vec::new(),
                next_number: 0,
                ended: None,
                ended_unasked: None,
                client: Message::default(),
                server: Message::default(),
                is_over: false,
            },
        }
    }

    /// Memory that it holds, in bytes.
    pub(super) fn memory(&self) -> usize {
        let calls = self.calls.under_way.capacity() * size_of::<Call>();
        size_of::<Self>() + self.frames.memory() + self.session.memory() + calls
    }

    /// Lets go of what it holds, as if that had not been seen.
    pub(super) fn shed(&mut self, sink: &mut Sink<'_>) {
        self.session.shed();
        let Self { frames, session, calls } = self;
        frames.shed(&mut Reader { session, calls, sink });
    }

    /// The next bytes of one side, behind `gap` others and before `left_out` that were not seen.
    pub(super) fn push(&mut self, side: Side, when: Nanos, gap: u64, bytes: &[u8], left_out: u64, sink: &mut Sink<'_>) {
        let Self { frames, session, calls } = self;
        if calls.is_over {
            return;
        }
        let mut reader = Reader { session, calls, sink };
        frames.gap(side, when, gap, &mut reader);
        frames.push(side, when, bytes, &mut reader);
        frames.gap(side, when, left_out, &mut reader);
        if calls.is_over {
            // Nothing more is read, so nothing is held for it.
            *frames = WebSocket::new(Extensions::default());
            session.shed();
        }
    }
}

/// What the frames report to.
struct Reader<'a, 'b> {
    session: &'a mut Session,
    calls: &'a mut Calls,
    sink: &'a mut Sink<'b>,
}

impl SocketSink for Reader<'_, '_> {
    fn message_begins(&mut self, side: Side, started: Nanos) {
        *self.calls.message(side) = Message { started, is_broken: false };
        self.forget_message(side);
    }

    fn message_bytes(&mut self, side: Side, bytes: &[u8]) {
        match side {
            Side::Request => self.session.client_bytes(bytes),
            Side::Response => self.session.server_bytes(bytes),
        }
    }

    fn message_broken(&mut self, side: Side, len: u64, is_news: bool) {
        self.calls.message(side).is_broken = true;
        self.forget_message(side);
        self.miss(side, len, is_news);
    }

    fn message_ends(&mut self, side: Side, when: Nanos, len: u64) {
        let Message { started, is_broken } = *self.calls.message(side);
        if is_broken {
            return;
        }
        let mut answers = Answers { calls: self.calls, sink: self.sink, when };
        match side {
            Side::Request => {
                if let Some(asked) = self.session.client_ends() {
                    answers.ask(&asked, started, len);
                }
            }
            Side::Response => {
                if let Some(said) = self.session.server_ends() {
                    answers.say(&said, len);
                }
            }
        }
    }

    fn lost(&mut self, side: Side, len: u64) {
        self.forget_message(side);
        self.miss(side, len, true);
    }

    fn closed(&mut self, side: Side, when: Nanos) {
        let outcome = match side {
            Side::Request => Outcome::ClientLeft("client_cancelled"),
            Side::Response => Outcome::ServerLeft("connection_closed"),
        };
        let Sink { key, messages, shared, observer, .. } = &mut *self.sink;
        for number in self.calls.superseded() {
            messages.mark_missed_of(number, shared);
        }
        messages.end_active(*key, when, outcome, shared, *observer);
        self.calls.under_way = Vec::new();
        self.calls.is_over = true;
    }

    fn desync(&mut self, side: Side) {
        self.sink.shared.counters.desyncs += 1;
        self.forget_message(side);
        // What is not understood is not seen: one byte at the least, more cannot be told.
        self.miss(side, 1, false);
    }
}

impl Reader<'_, '_> {
    fn forget_message(&mut self, side: Side) {
        match side {
            Side::Request => self.session.client_aborts(),
            Side::Response => self.session.server_begins(),
        }
    }

    /// So many bytes of a side are not known. Of which call they are is not, either, where there are several.
    fn miss(&mut self, side: Side, len: u64, is_news: bool) {
        self.sink.shared.counters.parse_gaps += u64::from(is_news);
        if side == Side::Request {
            return;
        }
        for call in &mut self.calls.under_way {
            call.may_have_ended = true;
            if let Some(tracked) = self.sink.messages.find(call.number) {
                tracked.message_missed(len);
            }
        }
    }
}

impl Calls {
    fn message(&mut self, side: Side) -> &mut Message {
        match side {
            Side::Request => &mut self.client,
            Side::Response => &mut self.server,
        }
    }

    fn is_realtime(&self) -> bool {
        self.template.recognised.dialect == Dialect::OpenaiRealtime
    }

    /// The oldest call of that conversation whose answer has not begun, or has.
    fn first(&self, stream: Option<u64>, has_begun: bool) -> Option<usize> {
        self.under_way.iter().position(|call| call.stream == stream && call.response.is_some() == has_begun)
    }

    /// The call whose answer that is.
    fn of_response(&self, response: u64) -> Option<usize> {
        self.under_way.iter().position(|call| call.response == Some(response))
    }

    /// The numbers of calls behind which the client has asked again in the same conversation: it had its answers to those.
    /// Conversations side by side say nothing of each other. Where bytes were missed, that is marked already.
    fn superseded(&self) -> impl Iterator<Item = u64> {
        let calls = &self.under_way;
        let is_superseded =
            |at: usize| calls[at + 1..].iter().any(|later| later.stream == calls[at].stream && later.unasked.is_none());
        (0..calls.len()).filter(move |at| is_superseded(*at)).map(|at| calls[at].number)
    }

    /// A hash of what tells a call from all others, the same at both ends: the connection, and how many calls were before.
    fn fingerprint(&self, number: u64) -> u64 {
        let mut hasher = DefaultHasher::new();
        hasher.write_u64(self.template.fingerprint);
        hasher.write_u64(number);
        hasher.finish()
    }
}

/// Acts on what whole messages say, of which the last byte came at `when`.
struct Answers<'a, 'b> {
    calls: &'a mut Calls,
    sink: &'a mut Sink<'b>,
    when: Nanos,
}

impl Answers<'_, '_> {
    /// The client asks for an answer.
    fn ask(&mut self, asked: &Asked, started: Nanos, len: u64) {
        self.forget_ended();
        let model = asked.model.clone().or_else(|| self.calls.template.recognised.model.clone());
        if self.is_late(asked, model.as_ref(), len) {
            return;
        }
        self.give_up_missed(asked.stream);
        let number = self.open(started, asked.stream);
        if let Some(call) = self.calls.under_way.last_mut() {
            call.message = asked.message;
        }
        if let Some(tracked) = self.sink.messages.find(number) {
            tracked.asked(self.when, model.as_ref(), len, self.sink.observer);
        }
    }

    /// Whether the answer is there already: the question was heard of too late. When it was asked is not known then.
    fn is_late(&mut self, asked: &Asked, model: Option<&Label>, len: u64) -> bool {
        let is_answer = |begun: Option<Nanos>| begun.is_some_and(|begun| self.when.since(begun) < LATE_QUESTION);
        let mut calls = self.calls.under_way.iter_mut();
        if let Some(call) = calls.find(|call| call.stream == asked.stream && is_answer(call.unasked)) {
            call.unasked = None;
            call.message = asked.message;
            if let Some(tracked) = self.sink.messages.find(call.number) {
                tracked.asked_late(model, len);
            }
            return true;
        }
        // In Realtime the next question follows at once, as often as not.
        !self.calls.is_realtime() && is_answer(self.calls.ended_unasked.take())
    }

    /// The server says something.
    fn say(&mut self, said: &Said<'_>, len: u64) {
        self.forget_ended();
        if self.calls.is_realtime() && said.response().is_none() && said.model().is_some() {
            // What the session is about.
            self.calls.template.recognised.model = said.model().cloned();
            return;
        }
        let subject = said.subject();
        let found = match subject {
            Subject::Begins => Some(self.begun(said)),
            Subject::GoesOn => self.going_on(said),
            Subject::Ends => self.ending(said),
            Subject::Error => self.failing(said),
        };
        let Some(index) = found else { return };
        let call = &mut self.calls.under_way[index];
        let number = call.number;
        call.response = call.response.or(said.response());
        if let Some(tracked) = self.sink.messages.find(number) {
            tracked.said(self.when, said, len, self.sink.observer);
        }
        if matches!(subject, Subject::Ends | Subject::Error) {
            let call = self.calls.under_way.remove(index);
            (self.calls.ended, self.calls.ended_unasked) = (call.response, call.unasked);
            self.sink.end(number, self.when, Outcome::Complete);
        }
    }

    /// The call whose answer begins: one that was asked for, or a new one.
    fn begun(&mut self, said: &Said<'_>) -> usize {
        if let Some(index) = said.response().and_then(|response| self.calls.of_response(response)) {
            return index;
        }
        self.give_up_missed_answers(said.stream());
        self.calls.first(said.stream(), false).unwrap_or_else(|| self.open_unasked(said))
    }

    /// The call that a message is about that need not say so. It may be the next one's where the end of one was missed.
    fn going_on(&self, said: &Said<'_>) -> Option<usize> {
        if let Some(response) = said.response() {
            return self.calls.of_response(response);
        }
        let (begun, waiting) = (self.calls.first(said.stream(), true), self.calls.first(said.stream(), false));
        let is_unclear = begun.is_some_and(|index| self.calls.under_way[index].may_have_ended) && waiting.is_some();
        begun.or(waiting).filter(|_| !is_unclear)
    }

    /// The call whose answer ends. Whose beginning was not seen has still cost what it has.
    fn ending(&mut self, said: &Said<'_>) -> Option<usize> {
        let Some(response) = said.response() else { return self.going_on(said) };
        if let Some(index) = self.calls.of_response(response) {
            return Some(index);
        }
        if self.calls.ended == Some(response) {
            return None;
        }
        Some(self.begun(said))
    }

    /// The call that an error ends. Realtime has errors that end none: they are about some other message, which they name. In
    /// Responses a conversation's requests are served one after the other.
    fn failing(&self, said: &Said<'_>) -> Option<usize> {
        if !self.calls.is_realtime() {
            return self.going_on(said);
        }
        let is_it = |call: &Call| call.response.is_none() && call.message == said.cause();
        self.calls.under_way.iter().position(is_it)
    }

    /// Begins a call whose request was not seen, if there was one: the time to its first output is not known.
    fn open_unasked(&mut self, said: &Said<'_>) -> usize {
        let number = self.open(self.calls.server.started, said.stream());
        if let Some(call) = self.calls.under_way.last_mut() {
            call.unasked = Some(self.when);
        }
        let model: Option<&Label> = self.calls.template.recognised.model.as_ref();
        if let Some(tracked) = self.sink.messages.find(number) {
            tracked.begun_unasked(self.when, model, self.sink.observer);
        }
        self.calls.under_way.len() - 1
    }

    /// Begins a call, as the last of those under way; gives its number.
    fn open(&mut self, started: Nanos, stream: Option<u64>) -> u64 {
        if self.calls.under_way.len() >= MAX_CALLS {
            self.give_up(0);
        }
        let number = self.calls.next_number;
        self.calls.next_number += 1;
        let opening = Opening {
            number,
            started,
            when: self.when,
            fingerprint: self.calls.fingerprint(number),
            protocol: Protocol::Websocket,
            interpreter: Interpreter::for_call(&self.calls.template.recognised),
            coding: Coding::Identity,
            bytes_seen: 0,
        };
        self.sink.begin(&self.calls.template, opening);
        let call = Call { number, response: None, stream, message: None, may_have_ended: false, unasked: None };
        self.calls.under_way.push(call);
        number
    }

    /// Of calls that the engine has ended by itself nothing is expected.
    fn forget_ended(&mut self) {
        self.calls.under_way.retain(|call| self.sink.messages.find(call.number).is_some());
    }

    /// A client that asks again has its answer, where the end of that may have been missed.
    fn give_up_missed(&mut self, stream: Option<u64>) {
        while let Some(index) =
            self.calls.under_way.iter().position(|call| call.stream == stream && call.may_have_ended)
        {
            self.give_up(index);
        }
    }

    /// Likewise a server that begins another one.
    fn give_up_missed_answers(&mut self, stream: Option<u64>) {
        let is_over = |call: &Call| call.stream == stream && call.may_have_ended && call.response.is_some();
        while let Some(index) = self.calls.under_way.iter().position(is_over) {
            self.give_up(index);
        }
    }

    /// The end of a call was not seen.
    fn give_up(&mut self, index: usize) {
        let call = self.calls.under_way.remove(index);
        if let Some(tracked) = self.sink.messages.find(call.number) {
            // One byte at the least, more cannot be told.
            tracked.exchange.bytes_missed = tracked.exchange.bytes_missed.max(1);
        }
        self.sink.end(call.number, self.when, Outcome::OutOfSight(self.when));
    }
}
