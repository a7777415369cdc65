//! Reads the bodies of one exchange.

use std::fmt;

use super::definition::{Definition, RequestSlot};
use super::form::Form;
use super::grpc::{self, AnswerMessages, RequestMessages};
use super::reading::{Events, Reading, set_label};
use super::recognise::is_form;
use super::{Facts, Output, Recognised, Said, bedrock, definition, mcp};
use crate::exchange::{Api, Dialect, ToolCall, Usage};
use crate::framing::{Array, Documents, Embedded, EventStream, Ndjson, Sse};
use crate::http1::{RequestHead, ResponseHead};
use crate::json::{Outcome, Scanner, Tail, Value, Visitor, scan_tail};
use crate::label::Label;
use crate::time::Nanos;

/// Reads the decoded bodies of one request and its answer, as they come.
///
/// It stores nothing of them but the [`Facts`]; up to 8 KiB of the end of a document whose middle was not seen, until that
/// document ends; and of a stream the half KiB, names of members and values that are wanted, that its events repeat.
pub struct Interpreter {
    facts: Facts,
    request: RequestReader,
    reading: Reading,
    body: Body,
    status: Option<u16>,
    /// When the last bytes of the answer came.
    last_bytes: Option<Nanos>,
}

struct RequestReader {
    scanner: Scanner<RequestSlot>,
    /// There once a gap was met: from then on only the end can be read.
    tail: Option<Tail>,
    stream_default: bool,
    /// Instead of the scanner where the dialect is gRPC's.
    messages: Option<Box<RequestMessages>>,
    /// Instead of the scanner where the body is a form.
    form: Option<Form>,
}

/// Types of content that no reader is for.
const OPAQUE_TYPES: [&[u8]; 4] = [b"audio/", b"image/", b"octet-stream", b"text/plain"];

/// How the answer's body is cut into documents.
enum Body {
    /// The first byte will tell. Whether the head calls it JSON is known, if there was a head.
    Undecided {
        is_json: bool,
    },
    Events(Sse),
    Lines(Ndjson),
    Elements(Array),
    Messages(Box<Messages>),
    Grpc(Box<AnswerMessages>),
    Whole,
    /// One document with a hole in it.
    WholeTail(Tail),
    /// Nothing that can be read.
    Opaque,
}

/// AWS's event stream. In some dialects its messages hold other documents.
struct Messages {
    stream: EventStream,
    embedded: Option<Embedded>,
}

impl Messages {
    fn new(dialect: Dialect) -> Self {
        let embedded = (dialect == Dialect::BedrockInvoke).then(Embedded::default);
        Self { stream: EventStream::new(), embedded }
    }

    fn push(&mut self, bytes: &[u8], out: &mut impl Documents) {
        match &mut self.embedded {
            Some(embedded) => self.stream.push(bytes, &mut embedded.within(out)),
            None => self.stream.push(bytes, out),
        }
    }

    fn gap(&mut self, out: &mut impl Documents) {
        match &mut self.embedded {
            Some(embedded) => self.stream.gap(&mut embedded.within(out)),
            None => self.stream.gap(out),
        }
    }

    fn end(&mut self, out: &mut impl Documents) {
        match &mut self.embedded {
            Some(embedded) => self.stream.end(&mut embedded.within(out)),
            None => self.stream.end(out),
        }
    }
}

impl fmt::Debug for Interpreter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Interpreter")
            .field("dialect", &self.reading.definition().dialect)
            .field("facts", &self.facts)
            .finish_non_exhaustive()
    }
}

impl Interpreter {
    /// For an exchange in that dialect.
    pub fn new(dialect: Dialect) -> Self {
        Self::of(definition(dialect))
    }

    fn of(definition: &'static Definition) -> Self {
        Self {
            facts: Facts::default(),
            request: RequestReader {
                scanner: Scanner::new(definition.request.get()),
                tail: None,
                stream_default: definition.stream_default,
                messages: grpc::service(definition.dialect).map(|service| Box::new(RequestMessages::new(service))),
                form: None,
            },
            reading: Reading::new(definition),
            body: Body::Undecided { is_json: false },
            status: None,
            last_bytes: None,
        }
    }

    /// For an exchange that was recognised: knows what the path has told, too.
    pub fn for_call(call: &Recognised) -> Self {
        let mut interpreter = Self::of(call.definition);
        interpreter.facts.model.clone_from(&call.model);
        interpreter.facts.stream = call.stream;
        if call.api == Api::Embeddings {
            interpreter.request.stream_default = false;
        }
        interpreter
    }

    /// What is known so far.
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// Memory that it holds beyond its own size, in bytes.
    pub fn memory(&self) -> usize {
        let answer = match &self.body {
            Body::WholeTail(tail) => tail.memory(),
            Body::Messages(_) => size_of::<Messages>(),
            Body::Grpc(messages) => messages.memory(),
            _ => 0,
        };
        let messages = self.request.messages.as_ref().map_or(0, |messages| messages.memory());
        let request = messages + self.request.form.as_ref().map_or(0, Form::memory);
        request + self.request.tail.as_ref().map_or(0, Tail::memory) + self.reading.memory() + answer
    }

    /// Gives up what costs memory. Returns whether anybody misses it: a message of the request, or of the answer.
    pub fn shed(&mut self) -> [bool; 2] {
        let Self { facts, request, reading, body, .. } = self;
        reading.shed();
        let request = request.messages.as_mut();
        let request = request.is_some_and(|messages| messages.shed(&mut RequestFinder { facts: &mut *facts }));
        let answer = if let Body::Grpc(messages) = body { messages.shed(reading, facts) } else { false };
        [request, answer]
    }

    /// Whether its bodies are gRPC's.
    pub fn is_grpc(&self) -> bool {
        self.request.messages.is_some()
    }

    /// Messages of the answer that came and could not be read, where its framing says what is one.
    pub fn unreadable_messages(&self) -> u64 {
        match self.body {
            Body::Messages(_) | Body::Grpc(_) => self.facts.missed_events,
            _ => 0,
        }
    }

    /// The request's head.
    pub fn request_head(&mut self, head: &RequestHead<'_>) {
        if let Some(messages) = &mut self.request.messages {
            messages.head(head);
        }
        if is_form(head) {
            self.request.form = Some(Form::default());
        }
    }

    /// What came of the answer's body so far was not what the server sent: its counts are not believed, nor what
    /// follows.
    pub fn response_is_corrupt(&mut self) {
        self.facts.usage = Usage::default();
        self.facts.finished = false;
        self.facts.missed_events += 1;
        self.body = Body::Opaque;
    }

    /// The next bytes of the request's body.
    pub fn request_bytes(&mut self, bytes: &[u8]) {
        if let Some(messages) = &mut self.request.messages {
            return messages.push(bytes, &mut RequestFinder { facts: &mut self.facts });
        }
        if let Some(form) = &mut self.request.form {
            return form.push(bytes, &mut self.facts.model);
        }
        match &mut self.request.tail {
            None => self.request.scanner.push(bytes, &mut RequestFinder { facts: &mut self.facts }),
            Some(tail) => tail.push(bytes),
        }
    }

    /// Bytes of the request's body were not seen. From now on only its end is looked at.
    pub fn request_gap(&mut self) {
        self.request_gap_of(None);
    }

    /// The same where it may be known how many they are.
    pub fn request_gap_of(&mut self, len: Option<u64>) {
        if let Some(messages) = &mut self.request.messages {
            return messages.gap(len, &mut RequestFinder { facts: &mut self.facts });
        }
        if let Some(form) = &mut self.request.form {
            return form.gap();
        }
        self.request.tail.get_or_insert_default().clear();
    }

    /// The request's body is over: model and stream flag are known now if they ever will be.
    pub fn request_end(&mut self) {
        let mut finder = RequestFinder { facts: &mut self.facts };
        if let Some(messages) = &mut self.request.messages {
            // Whether an answer is streamed is what the method says.
            messages.end(&mut finder);
            return;
        }
        // Whether an answer is streamed is seen when it comes.
        if self.request.form.is_some() {
            return;
        }
        let outcome = self.request.scanner.end(&mut finder);
        match self.request.tail.take() {
            // The default holds only where it is sure that nothing was said.
            None if outcome == Outcome::Complete => {
                self.facts.stream.get_or_insert(self.request.stream_default);
            }
            None => {}
            Some(tail) => {
                scan_tail(tail.bytes(), self.reading.definition().request.get(), &mut finder);
            }
        }
        // The method may stand behind a name, which is another thing's then, and somebody's perhaps.
        if let Some(call) = self.facts.tool_call.as_deref_mut().filter(|call| !mcp::has_name(&call.method)) {
            call.name = None;
        }
    }

    /// The call was asked for in a message of a [`Session`](super::Session), which names this model.
    pub fn asked(&mut self, model: Option<&Label>) {
        self.facts.stream = Some(true);
        if let Some(model) = model {
            self.facts.model = Some(model.clone());
        }
    }

    /// A tool was called in a message of a [`StdioSession`](super::StdioSession), of a server that is called so.
    pub fn called(&mut self, call: ToolCall, server: Option<&Label>) {
        self.facts.tool_call = Some(Box::new(call));
        self.facts.response_model = server.cloned();
    }

    /// What a message of a [`Session`](super::Session) says of this exchange.
    pub fn said(&mut self, when: Nanos, said: &Said<'_>, out: &mut dyn FnMut(Output)) {
        said.tell(&mut self.facts);
        if let Some(output) = self.reading.keep_event(&mut self.facts, said.event(), when) {
            out(output);
        }
    }

    /// A message that may have been about this exchange could not be read.
    pub fn message_missed(&mut self) {
        self.reading.miss_event(&mut self.facts);
    }

    /// The answer's head.
    pub fn response_head(&mut self, head: &ResponseHead<'_>) {
        self.response_begins(head.status, head.header("content-type"));
        if let Some(name) = head.header("x-amzn-errortype").filter(|_| self.facts.is_error) {
            self.reading.name_error(&mut self.facts, &bedrock::error_type(name));
        }
        if let Body::Grpc(messages) = &mut self.body {
            messages.head(head);
            // There may be nothing but a head.
            self.response_trailers(head);
        }
        if let Some(counts) = (self.reading.definition().head_counts)(head) {
            self.reading.set_counts(&mut self.facts, &counts);
        }
    }

    /// What follows the answer's body.
    pub fn response_trailers(&mut self, head: &ResponseHead<'_>) {
        if !self.is_grpc() {
            return;
        }
        match grpc::outcome(head) {
            Some(Ok(())) => self.facts.finished = true,
            Some(Err(name)) => {
                self.facts.is_error = true;
                self.reading.name_error(&mut self.facts, name);
            }
            None => {}
        }
    }

    /// The answer begins, with this status, if that is known, and content type.
    pub fn response_begins(&mut self, status: Option<u16>, content_type: Option<&[u8]>) {
        self.status = status;
        if status.is_some_and(|status| status >= 400) {
            self.facts.is_error = true;
            self.reading.set_error_answer();
        }
        if let Some(service) = grpc::service(self.reading.definition().dialect)
            && content_type.is_none_or(grpc::is_grpc)
        {
            let is_stream = self.facts.stream.unwrap_or(true);
            self.body = Body::Grpc(Box::new(AnswerMessages::new(service, is_stream)));
            return;
        }
        let content_type = content_type.unwrap_or_default().to_ascii_lowercase();
        let says = |name: &[u8]| memchr::memmem::find(&content_type, name).is_some();
        if says(b"event-stream") {
            self.decide(Body::Events(Sse::new()));
        } else if says(b"ndjson") || says(b"jsonl") || says(b"json-lines") {
            self.decide(Body::Lines(Ndjson::new()));
        } else if says(b"vnd.amazon.eventstream") {
            self.decide(self.messages());
        } else if self.reading.definition().may_be_opaque && OPAQUE_TYPES.iter().any(|kind| says(kind)) {
            self.body = Body::Opaque;
        } else {
            self.body = Body::Undecided { is_json: says(b"json") };
        }
    }

    /// The next bytes of the answer's body.
    pub fn response_bytes(&mut self, when: Nanos, bytes: &[u8], out: &mut dyn FnMut(Output)) {
        self.last_bytes = Some(when);
        let bytes = match self.body {
            Body::Undecided { is_json } => {
                // White space says nothing; some servers send it to keep the connection open. Nor does a byte order mark.
                let says_nothing = |byte: &u8| byte.is_ascii_whitespace() || matches!(byte, 0xef | 0xbb | 0xbf);
                let Some(start) = bytes.iter().position(|byte| !says_nothing(byte)) else { return };
                self.sniff(is_json, bytes[start]);
                &bytes[start..]
            }
            _ => bytes,
        };
        let Self { reading, facts, body, .. } = self;
        match body {
            Body::Events(sse) => sse.push(bytes, &mut Events { reading, facts, when, out }),
            Body::Lines(lines) => lines.push(bytes, &mut Events { reading, facts, when, out }),
            Body::Elements(array) => array.push(bytes, &mut Events { reading, facts, when, out }),
            Body::Messages(messages) => messages.push(bytes, &mut Events { reading, facts, when, out }),
            Body::Grpc(messages) => messages.push(bytes, Events { reading, facts, when, out }),
            Body::Whole => reading.push(facts, bytes),
            Body::WholeTail(tail) => tail.push(bytes),
            Body::Undecided { .. } | Body::Opaque => {}
        }
    }

    /// Bytes of the answer's body were not seen.
    pub fn response_gap(&mut self) {
        self.response_gap_of(None);
    }

    /// The same where it may be known how many they are.
    pub fn response_gap_of(&mut self, len: Option<u64>) {
        if let Body::Undecided { is_json } = self.body {
            // What comes next may be the middle of anything: only what was asked for can tell.
            let body = match self.facts.stream {
                Some(true) if self.reading.definition().streams_lines => Body::Lines(Ndjson::new()),
                Some(true) if self.streams_messages() => self.messages(),
                Some(true) => Body::Events(Sse::new()),
                None if !is_json && !self.reading.definition().streams_lines => Body::Events(Sse::new()),
                _ => Body::Whole,
            };
            self.decide(body);
        }
        let Self { reading, facts, body, .. } = self;
        let mut events = Events { reading, facts, when: Nanos::default(), out: &mut |_| {} };
        match body {
            Body::Events(sse) => sse.gap(&mut events),
            Body::Lines(lines) => lines.gap(&mut events),
            Body::Elements(array) => array.gap(&mut events),
            Body::Messages(messages) => messages.gap(&mut events),
            Body::Grpc(messages) => messages.gap(len, events.reading, events.facts),
            Body::Whole => {
                events.reading.whole_gap(events.facts);
                *body = Body::WholeTail(Tail::default());
            }
            Body::WholeTail(tail) => tail.clear(),
            Body::Undecided { .. } | Body::Opaque => {}
        }
    }

    /// The answer's body is over, or was cut.
    pub fn response_end(&mut self, when: Nanos, out: &mut dyn FnMut(Output)) {
        let when = self.last_bytes.unwrap_or(when);
        let Self { reading, facts, body, .. } = self;
        match std::mem::replace(body, Body::Opaque) {
            Body::Events(mut sse) => sse.end(&mut Events { reading, facts, when, out }),
            Body::Lines(mut lines) => lines.end(&mut Events { reading, facts, when, out }),
            Body::Elements(mut array) => array.end(&mut Events { reading, facts, when, out }),
            Body::Messages(mut messages) => messages.end(&mut Events { reading, facts, when, out }),
            Body::Grpc(mut messages) => messages.end(Events { reading, facts, when, out }),
            Body::Whole => reading.whole_end(facts),
            Body::WholeTail(tail) => reading.whole_tail(facts, tail.bytes()),
            Body::Undecided { .. } | Body::Opaque => {}
        }
    }

    /// Decides by the first byte of the body.
    fn sniff(&mut self, is_json: bool, first: u8) {
        let is_error = self.status.is_some_and(|status| status >= 400);
        let body = match first {
            b'{' if !is_json && !is_error && self.streams_lines() => Body::Lines(Ndjson::new()),
            b'[' if !is_error && self.streams_elements() => Body::Elements(Array::new()),
            b'{' | b'[' => Body::Whole,
            // The length of the first message: none is so long that this byte would be another.
            0 | 1 if self.streams_messages() => self.messages(),
            // A field's name, or a comment.
            b'd' | b'e' | b'i' | b'r' | b':' => Body::Events(Sse::new()),
            _ => {
                self.facts.missed_events += u64::from(!self.reading.definition().may_be_opaque);
                Body::Opaque
            }
        };
        self.decide(body);
    }

    fn streams_lines(&self) -> bool {
        self.reading.definition().streams_lines && self.facts.stream != Some(false)
    }

    fn streams_elements(&self) -> bool {
        self.reading.definition().dialect == Dialect::GeminiGenerate && self.facts.stream != Some(false)
    }

    fn streams_messages(&self) -> bool {
        matches!(self.reading.definition().dialect, Dialect::BedrockConverse | Dialect::BedrockInvoke)
    }

    fn messages(&self) -> Body {
        Body::Messages(Box::new(Messages::new(self.reading.definition().dialect)))
    }

    fn decide(&mut self, body: Body) {
        match body {
            Body::Events(_) | Body::Lines(_) | Body::Elements(_) | Body::Messages(_) => self.facts.stream = Some(true),
            // An error is one document even where a stream was asked for.
            Body::Whole if self.status.is_some_and(|status| (200..300).contains(&status)) => {
                self.facts.stream = Some(false);
            }
            _ => {}
        }
        self.body = body;
    }
}

struct RequestFinder<'a> {
    facts: &'a mut Facts,
}

impl RequestFinder<'_> {
    fn tool_call(&mut self) -> &mut ToolCall {
        self.facts.tool_call.get_or_insert_with(|| Box::new(ToolCall { method: "unknown".into(), name: None }))
    }
}

impl Visitor<RequestSlot> for RequestFinder<'_> {
    fn value(&mut self, slot: RequestSlot, value: Value<'_>) {
        match (slot, value) {
            (RequestSlot::Model, Value::Text(text)) => set_label(&mut self.facts.model, text),
            (RequestSlot::Stream, Value::Bool(stream)) => self.facts.stream = Some(stream),
            (RequestSlot::Method, Value::Text(text)) => self.tool_call().method = Label::from_bytes(text),
            (RequestSlot::Name, Value::Text(text)) => self.tool_call().name = Some(Label::from_bytes(text)),
            (RequestSlot::Prompt, Value::Length(_) | Value::Container { .. }) => self.facts.asks_for_several = true,
            (RequestSlot::Answers, value) => {
                self.facts.asks_for_several |= value.as_count().is_some_and(|count| count > 1);
            }
            (RequestSlot::IncludeUsage, Value::Bool(wanted)) => self.facts.usage_requested = Some(wanted),
            _ => {}
        }
    }
}
