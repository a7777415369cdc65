//! A server's standard input and output: what is asked of an MCP server by who has started it. Each call is an exchange.

use std::hash::{DefaultHasher, Hasher};

use crate::body::Coding;
use crate::chunk::{Action, Verdict};
use crate::dialect::{Interpreter, StdioSession, Told};
use crate::exchange::{Protocol, ToolCall};
use crate::http1::Side;
use crate::label::Label;
use crate::time::Nanos;

use super::messages::{Opening, Sink, State, Template};
use super::tracked::Outcome;

/// Calls that are under way at a time. Agents have a few; who asks for more and gets no answers is not served by remembering it.
const MAX_CALLS: usize = 64;

/// Whoever has said so much without a word of MCP speaks something else. An answer to what was asked before it was seen may
/// come first, and be long.
const MAX_UNPROVEN_BYTES: u64 = 256 * 1024;

/// The same in messages, of either side: what a client says first to an MCP server is a call, and what a server prints beside
/// answers is not much.
const MAX_UNPROVEN_MESSAGES: u32 = 16;

/// What is known of such a pair of pipes.
pub(super) struct Stdio {
    session: StdioSession,
    calls: Calls,
}

struct Calls {
    template: Template,
    /// Those under way, in the order in which they were asked for.
    under_way: Vec<Call>,
    next_number: u64,
    client: Line,
    server: Line,
    proof: Proof,
}

/// A message under way, of either side.
#[derive(Clone, Copy, Default)]
struct Line {
    started: Nanos,
    len: u64,
    is_broken: bool,
    /// Of a server's that is broken: the call that it is about, as far as it was seen.
    about: Option<u64>,
}

struct Call {
    id: u64,
    number: u64,
}

/// Whether they speak MCP.
#[derive(Default)]
struct Proof {
    is_mcp: bool,
    is_foreign: bool,
    bytes: u64,
    messages: u32,
}

impl Proof {
    fn has_failed(&self) -> bool {
        let is_unlikely = self.bytes > MAX_UNPROVEN_BYTES || self.messages > MAX_UNPROVEN_MESSAGES;
        !self.is_mcp && (self.is_foreign || is_unlikely)
    }
}

impl Default for Stdio {
    fn default() -> Self {
        Self {
            session: StdioSession::default(),
            calls: Calls {
                template: Template::without_head(StdioSession::recognised()),
                under_way: Vec::new(),
                next_number: 0,
                client: Line::default(),
                server: Line::default(),
                proof: Proof::default(),
            },
        }
    }
}

impl Stdio {
    /// Memory that it holds, in bytes.
    pub(super) fn memory(&self) -> usize {
        size_of::<Self>() + self.session.memory() + self.calls.under_way.capacity() * size_of::<Call>()
    }

    /// Lets go of what it holds.
    pub(super) fn shed(&mut self) {
        self.session.shed();
    }

    /// The next bytes of one side, behind `gap` others and before `left_out` that were not seen. Once it is known that they speak
    /// something else, the connection is left alone.
    pub(super) fn push(&mut self, side: Side, when: Nanos, gap: u64, bytes: &[u8], left_out: u64, sink: &mut Sink<'_>) {
        if gap > 0 {
            self.miss(side, gap, sink);
        }
        let mut rest = bytes;
        while !rest.is_empty() {
            let end = memchr::memchr(b'\n', rest);
            let (part, behind) = rest.split_at(end.map_or(rest.len(), |end| end + 1));
            self.part(side, when, part);
            if end.is_some() {
                self.end(side, when, sink);
            }
            rest = behind;
        }
        if left_out > 0 {
            self.miss(side, left_out, sink);
        }
        let proof = &mut self.calls.proof;
        proof.bytes = proof.bytes.saturating_add(bytes.len() as u64);
        if proof.has_failed() {
            let message = sink.messages.current;
            sink.observer.verdict(Verdict { connection: sink.key, message, action: Action::Opaque });
            sink.messages.state = State::Opaque;
        }
    }

    fn part(&mut self, side: Side, when: Nanos, bytes: &[u8]) {
        let line = self.calls.line(side);
        if line.len == 0 {
            line.started = when;
        }
        line.len = line.len.saturating_add(bytes.len() as u64);
        if line.is_broken {
            return;
        }
        match side {
            Side::Request => self.session.client_bytes(bytes),
            Side::Response => self.session.server_bytes(bytes),
        }
    }

    fn end(&mut self, side: Side, when: Nanos, sink: &mut Sink<'_>) {
        let line = std::mem::take(self.calls.line(side));
        let Self { session, calls } = self;
        if line.is_broken {
            if side == Side::Response {
                calls.answered_in_part(line.about, when, sink);
            }
            return;
        }
        match side {
            Side::Request => {
                let told = session.client_ends(calls.proof.is_mcp);
                calls.told(told, session.server_name(), line, when, sink);
            }
            Side::Response => {
                calls.proof.messages = calls.proof.messages.saturating_add(1);
                if let Some(said) = session.server_ends().filter(|said| said.is_over())
                    && let Some(at) = calls.under_way.iter().position(|call| Some(call.id) == said.response())
                {
                    let call = calls.under_way.remove(at);
                    if let Some(tracked) = sink.messages.find(call.number) {
                        tracked.said(when, &said, line.len, sink.observer);
                    }
                    sink.end(call.number, when, Outcome::Complete);
                }
                session.server_begins();
            }
        }
    }

    /// So many bytes of a side are not known, and with them the message that they were in. Of which calls an answer was there is
    /// not either.
    fn miss(&mut self, side: Side, len: u64, sink: &mut Sink<'_>) {
        let about = if side == Side::Response { self.session.server_cut() } else { None };
        let line = self.calls.line(side);
        line.about = line.about.or(about);
        line.is_broken = true;
        line.len = line.len.saturating_add(len);
        sink.shared.counters.parse_gaps += 1;
        match side {
            Side::Request => self.session.client_aborts(),
            Side::Response => {
                self.session.server_begins();
                for call in &self.calls.under_way {
                    if let Some(tracked) = sink.messages.find(call.number) {
                        tracked.message_missed(len);
                    }
                }
            }
        }
    }
}

impl Calls {
    fn line(&mut self, side: Side) -> &mut Line {
        match side {
            Side::Request => &mut self.client,
            Side::Response => &mut self.server,
        }
    }

    /// A client's message is over.
    fn told(&mut self, told: Option<Told>, server: Option<&Label>, line: Line, when: Nanos, sink: &mut Sink<'_>) {
        self.proof.messages = self.proof.messages.saturating_add(u32::from(told.is_some()));
        match told {
            Some(Told::Call { id, call }) => {
                if !std::mem::replace(&mut self.proof.is_mcp, true) {
                    let message = sink.messages.current;
                    sink.observer.verdict(Verdict { connection: sink.key, message, action: Action::Capture });
                }
                self.open(id, call, server, line, when, sink);
            }
            Some(Told::Cancelled(id)) => {
                if let Some(at) = self.under_way.iter().position(|call| call.id == id) {
                    let call = self.under_way.remove(at);
                    sink.end(call.number, when, Outcome::ClientLeft("client_cancelled"));
                }
            }
            Some(Told::Foreign) => self.proof.is_foreign = true,
            Some(Told::Other) | None => {}
        }
    }

    /// A server's message is over of which not all was seen: a long one is an answer, to this call, or to the only one.
    fn answered_in_part(&mut self, about: Option<u64>, when: Nanos, sink: &mut Sink<'_>) {
        let is_only = self.under_way.len() == 1;
        let found = self.under_way.iter().position(|call| about.map_or(is_only, |about| call.id == about));
        if let Some(at) = found {
            let call = self.under_way.remove(at);
            if let Some(tracked) = sink.messages.find(call.number) {
                tracked.answered(when);
            }
            sink.end(call.number, when, Outcome::Complete);
        }
    }

    fn open(&mut self, id: u64, call: ToolCall, server: Option<&Label>, line: Line, when: Nanos, sink: &mut Sink<'_>) {
        // Of calls that the engine has ended by itself nothing is expected.
        self.under_way.retain(|call| sink.messages.find(call.number).is_some());
        // An id is used once: who uses it again has its answer.
        let repeated = self.under_way.iter().position(|call| call.id == id);
        if let Some(at) = repeated.or((self.under_way.len() >= MAX_CALLS).then_some(0)) {
            let lost = self.under_way.remove(at);
            sink.messages.mark_missed_of(lost.number, sink.shared);
            sink.end(lost.number, when, Outcome::OutOfSight(when));
        }
        let number = self.next_number;
        self.next_number += 1;
        let opening = Opening {
            number,
            started: line.started,
            when,
            fingerprint: fingerprint(sink, number),
            protocol: Protocol::Stdio,
            interpreter: Interpreter::for_call(&self.template.recognised),
            coding: Coding::Identity,
            bytes_seen: 0,
        };
        sink.begin(&self.template, opening);
        if let Some(tracked) = sink.messages.find(number) {
            tracked.called(when, call, server, line.len, sink.observer);
        }
        self.under_way.push(Call { id, number });
    }
}

/// It is seen at one end only: nothing else has this one.
fn fingerprint(sink: &Sink<'_>, number: u64) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write_u32(sink.key.pid);
    hasher.write_u64(sink.key.generation);
    hasher.write_u64(number);
    hasher.finish()
}
