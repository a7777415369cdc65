//! Reads the messages of a connection that carries many exchanges, one after the other or side by side: Responses and
//! Realtime over WebSocket.
//!
//! A message is one JSON document. What a client's message asks for, and what a server's says of which answer, is known at
//! its end; nothing else of it is kept.

use std::sync::LazyLock;

use super::definition::{Definition, EventKind, Slot};
use super::reading::{Event, Finder, Found, number_of, set_label};
use super::{Facts, definition};
use crate::exchange::Dialect;
use crate::json::{Outcome, PathSet, Scanner, Value, Visitor, Want};
use crate::label::Label;

/// What a client's message that asks for an answer says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// The model asked for.
    pub model: Option<Label>,
    /// A number that stands for the conversation, where a connection has several.
    pub stream: Option<u64>,
    /// A number that stands for the message itself, where it has an id.
    pub message: Option<u64>,
}

/// What a server's message is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    /// An answer begins.
    Begins,
    /// An answer goes on, or nothing of the kind.
    GoesOn,
    /// An answer has ended.
    Ends,
    /// An error: of an answer, of a message that asked for one, or of another.
    Error,
}

/// What a server's message says.
pub struct Said<'a> {
    event: Event,
    facts: &'a Facts,
}

impl Said<'_> {
    /// What it is about.
    pub fn subject(&self) -> Subject {
        match self.event.kind {
            EventKind::Created => Subject::Begins,
            EventKind::Ended | EventKind::Failed => Subject::Ends,
            EventKind::Error => Subject::Error,
            EventKind::Output | EventKind::Reasoning | EventKind::Other => Subject::GoesOn,
        }
    }

    /// A number that stands for the answer, where it says which.
    pub fn response(&self) -> Option<u64> {
        self.event.response
    }

    /// A number that stands for the conversation, where a connection has several.
    pub fn stream(&self) -> Option<u64> {
        self.event.stream
    }

    /// The client's message that has caused the error, as [`Asked::message`].
    pub fn cause(&self) -> Option<u64> {
        self.event.cause
    }

    /// The model that it names.
    pub fn model(&self) -> Option<&Label> {
        self.facts.response_model.as_ref()
    }

    /// Whether it says that an answer is over, or is an error.
    pub fn is_over(&self) -> bool {
        self.event.is_over()
    }

    pub(super) fn event(&self) -> Event {
        self.event
    }

    /// Takes over the names that it says.
    pub(super) fn tell(&self, facts: &mut Facts) {
        let take = |known: &mut Option<Label>, said: &Option<Label>| {
            if said.is_some() {
                known.clone_from(said);
            }
        };
        take(&mut facts.response_model, &self.facts.response_model);
        take(&mut facts.finish_reason, &self.facts.finish_reason);
        take(&mut facts.error_type, &self.facts.error_type);
        if self.event.response.is_some() && facts.response_id.is_none() {
            facts.response_id.clone_from(&self.facts.response_id);
        }
    }
}

/// The reader of one connection's messages.
pub struct Session {
    client: Scanner<ClientSlot>,
    asked: ClientMessage,
    server: ServerMessages,
}

/// The reader of a server's messages.
pub(super) struct ServerMessages {
    scanner: Scanner<Slot>,
    found: Found,
    /// Of the current message; of one before it what stays.
    facts: Facts,
}

impl ServerMessages {
    pub(super) fn new(paths: &'static PathSet<Slot>, definition: &'static Definition) -> Self {
        Self { scanner: Scanner::new(paths), found: Found::new(definition), facts: Facts::default() }
    }

    pub(super) fn memory(&self) -> usize {
        self.scanner.memory()
    }

    pub(super) fn shed(&mut self) {
        self.scanner.shed();
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        self.scanner.push(bytes, &mut Finder { facts: &mut self.facts, found: &mut self.found });
    }

    pub(super) fn end(&mut self) -> Option<Said<'_>> {
        let outcome = self.scanner.end(&mut Finder { facts: &mut self.facts, found: &mut self.found });
        let event = self.found.event;
        (outcome == Outcome::Complete).then_some(Said { event, facts: &self.facts })
    }

    /// What it is called, as far as it has said so.
    pub(super) fn model(&self) -> Option<&Label> {
        self.facts.response_model.as_ref()
    }

    /// Which answer the current message is about, likewise.
    pub(super) fn response(&self) -> Option<u64> {
        self.found.event.response
    }

    /// The id stays: it is that of the next message, too, most of the time.
    fn begin_keeping_id(&mut self) {
        let response_id = self.facts.response_id.take();
        self.begin(Facts { response_id, ..Facts::default() });
    }

    /// The model's name stays: who says it says it once.
    pub(super) fn begin_keeping_model(&mut self) {
        let response_model = self.facts.response_model.take();
        self.begin(Facts { response_model, ..Facts::default() });
    }

    fn begin(&mut self, facts: Facts) {
        self.scanner.begin();
        self.found = Found::new(self.found.definition());
        self.facts = facts;
    }
}

#[derive(Default)]
struct ClientMessage {
    asks: bool,
    said: Asked,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ClientSlot {
    Type,
    Model,
    Stream,
    Message,
}

static CLIENT: LazyLock<PathSet<ClientSlot>> = LazyLock::new(|| {
    PathSet::new(&[
        ("type", Want::Scalar, ClientSlot::Type),
        ("model", Want::Scalar, ClientSlot::Model),
        ("stream_id", Want::Scalar, ClientSlot::Stream),
        ("event_id", Want::Scalar, ClientSlot::Message),
    ])
});

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("facts", &self.server.facts).finish_non_exhaustive()
    }
}

impl Session {
    /// Of a connection in that dialect.
    pub fn new(dialect: Dialect) -> Self {
        let definition = definition(dialect);
        Self {
            client: Scanner::new(&CLIENT),
            asked: ClientMessage::default(),
            server: ServerMessages::new(definition.response.get(), definition),
        }
    }

    /// Memory that it holds beyond its own size, in bytes.
    pub fn memory(&self) -> usize {
        self.client.memory() + self.server.memory()
    }

    /// Gives up what costs memory and is missed by nobody.
    pub fn shed(&mut self) {
        self.client.shed();
        self.server.shed();
    }

    /// The next bytes of a client's message.
    pub fn client_bytes(&mut self, bytes: &[u8]) {
        self.client.push(bytes, &mut self.asked);
    }

    /// The client's message is over. Gives what it asks for, if it asks for an answer.
    pub fn client_ends(&mut self) -> Option<Asked> {
        let outcome = self.client.end(&mut self.asked);
        let asked = std::mem::take(&mut self.asked);
        (outcome == Outcome::Complete && asked.asks).then_some(asked.said)
    }

    /// The rest of the client's message will not be seen.
    pub fn client_aborts(&mut self) {
        self.client.begin();
        self.asked = ClientMessage::default();
    }

    /// The next bytes of a server's message.
    pub fn server_bytes(&mut self, bytes: &[u8]) {
        self.server.bytes(bytes);
    }

    /// The server's message is over. Gives what it says, if it is a whole document.
    pub fn server_ends(&mut self) -> Option<Said<'_>> {
        self.server.end()
    }

    /// Before a server's message begins, and where the rest of one will not be seen.
    pub fn server_begins(&mut self) {
        self.server.begin_keeping_id();
    }
}

impl Visitor<ClientSlot> for ClientMessage {
    fn value(&mut self, slot: ClientSlot, value: Value<'_>) {
        let Value::Text(text) = value else { return };
        match slot {
            ClientSlot::Type => self.asks = text == b"response.create",
            ClientSlot::Model => set_label(&mut self.said.model, text),
            ClientSlot::Stream => self.said.stream = Some(number_of(text)),
            ClientSlot::Message => self.said.message = Some(number_of(text)),
        }
    }
}
