//! Calls over HTTP/2.

use hbpf_core::chunk::{Action, Capture, Close, Direction};
use hbpf_core::engine::Engine;
use hbpf_core::exchange::{Exchange, Phase, Protocol};
use hbpf_core::http2::PREFACE;
use httlib_hpack::Encoder;

use crate::wire::{CANARY, DONE_JSON, Log, Wire};

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const RESET: u8 = 3;
pub(crate) const END_STREAM: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;

pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// Both ends of a connection, seen from one.
pub(crate) struct H2 {
    pub(crate) wire: Wire,
    pub(crate) engine: Engine,
    pub(crate) log: Log,
    pub(crate) client: Encoder<'static>,
    pub(crate) server: Encoder<'static>,
}

impl H2 {
    /// A connection of which nothing has been said.
    fn new(capture: Capture) -> Self {
        let wire = Wire { capture, ..Wire::tls(7, Direction::Sent) };
        let (client, server) = (Encoder::default(), Encoder::default());
        Self { wire, engine: Engine::new(), log: Log::default(), client, server }
    }

    pub(crate) fn opened(capture: Capture) -> Self {
        let mut h2 = Self::new(capture);
        h2.sent(&[PREFACE, &frame(4, 0, 0, &[])].concat(), true);
        h2.received(&frame(4, 0, 0, &[]));
        h2
    }

    pub(crate) fn sent(&mut self, bytes: &[u8], begins: bool) {
        self.wire.send(&mut self.engine, &mut self.log, Direction::Sent, bytes, begins);
    }

    pub(crate) fn received(&mut self, bytes: &[u8]) {
        self.wire.send(&mut self.engine, &mut self.log, Direction::Received, bytes, false);
    }

    pub(crate) fn block(encoder: &mut Encoder<'_>, fields: &[(&str, &str)]) -> Vec<u8> {
        let mut block = Vec::new();
        let format = Encoder::BEST_FORMAT | Encoder::WITH_INDEXING | Encoder::HUFFMAN_VALUE;
        for (name, value) in fields {
            encoder.encode((name.as_bytes().to_vec(), value.as_bytes().to_vec(), format), &mut block).unwrap();
        }
        block
    }

    fn head(&mut self, stream: u32, path: &str) -> Vec<u8> {
        let fields = [
            (":method", "POST"),
            (":scheme", "https"),
            (":authority", "llm.example:8443"),
            (":path", path),
            ("authorization", CANARY),
            ("content-type", "application/json"),
        ];
        frame(HEADERS, END_HEADERS, stream, &Self::block(&mut self.client, &fields))
    }

    fn ask(&mut self, stream: u32, path: &str, body: &str) {
        let head = self.head(stream, path);
        self.sent(&head, true);
        self.sent(&frame(DATA, END_STREAM, stream, body.as_bytes()), false);
    }

    pub(crate) fn answer_head(&mut self, stream: u32, status: &str, kind: &str) {
        let block = Self::block(&mut self.server, &[(":status", status), ("content-type", kind)]);
        self.received(&frame(HEADERS, END_HEADERS, stream, &block));
    }

    fn answer(&mut self, stream: u32, flags: u8, body: &str) {
        self.received(&frame(DATA, flags, stream, body.as_bytes()));
    }

    pub(crate) fn ended(&self) -> Vec<&Exchange> {
        self.log.ended()
    }
}

fn chat(model: &str) -> String {
    format!(r#"{{"model":"{model}","messages":[{{"role":"user","content":"{CANARY}"}}],"stream":true}}"#)
}

fn token(text: &str) -> String {
    format!("data: {{\"object\":\"chat.completion.chunk\",\"choices\":[{{\"delta\":{{\"content\":\"{text}\"}}}}]}}\n\n")
}

fn usage(output: u32) -> String {
    format!(
        "data: {{\"choices\":[],\"usage\":{{\"prompt_tokens\":9,\"completion_tokens\":{output}}}}}\n\ndata: [DONE]\n\n"
    )
}

const CHAT: &str = "/v1/chat/completions";

#[test]
fn calls_on_one_connection_are_told_apart() {
    let mut h2 = H2::opened(Capture::Positive);
    for (stream, model) in [(1, "one"), (3, "two"), (5, "three")] {
        h2.ask(stream, CHAT, &chat(model));
    }
    for stream in [5, 1, 3] {
        h2.answer_head(stream, "200", "text/event-stream");
    }
    assert_eq!(h2.engine.in_flight().count(), 3);
    for (stream, tokens) in [(1, 1), (3, 2), (1, 3), (5, 1), (3, 1)] {
        (0..tokens).for_each(|_| h2.answer(stream, 0, &token("x")));
    }
    for (stream, output) in [(3, 3), (1, 4), (5, 1)] {
        h2.answer(stream, 0, &usage(output));
        h2.answer(stream, END_STREAM, "");
    }
    let seen: Vec<_> = h2
        .ended()
        .iter()
        .map(|exchange| {
            let model = exchange.model.as_ref().unwrap().to_string();
            (model, exchange.phase, exchange.usage.output, exchange.output_events, exchange.protocol)
        })
        .collect();
    let row = |model: &str, output: u64| (model.to_owned(), Phase::Done, Some(output), output, Protocol::H2);
    assert_eq!(seen, [row("two", 3), row("one", 4), row("three", 1)]);
    let exchange = h2.ended()[0];
    assert_eq!(exchange.endpoint.host.as_ref().unwrap().as_str(), "llm.example");
    assert_eq!((exchange.endpoint.port, exchange.bytes_missed, exchange.stream), (Some(8443), 0, Some(true)));
    assert!(!format!("{:?}", h2.log.events).contains(CANARY));
    assert_eq!((h2.engine.in_flight().count(), h2.engine.counters().parse_gaps), (0, 0));
}

#[test]
fn what_is_given_up_is_over_and_the_rest_goes_on() {
    let mut h2 = H2::opened(Capture::Positive);
    for (stream, model) in [(1, "one"), (3, "two"), (5, "three"), (7, "four")] {
        h2.ask(stream, CHAT, &chat(model));
    }
    h2.answer_head(1, "200", "text/event-stream");
    h2.answer(1, 0, &token("x"));
    h2.sent(&frame(RESET, 0, 1, &[0, 0, 0, 8]), true);
    h2.received(&frame(RESET, 0, 3, &[0, 0, 0, 7]));
    h2.answer_head(5, "429", "application/json");
    h2.answer(5, END_STREAM, r#"{"error":{"type":"rate_limit_exceeded"}}"#);
    h2.wire.close(&mut h2.engine, &mut h2.log, Close::Reset(Direction::Received));
    let seen: Vec<_> = h2
        .ended()
        .iter()
        .map(|exchange| (exchange.phase, exchange.error_type.as_ref().map(ToString::to_string), exchange.status))
        .collect();
    let row = |phase, error: &str, status| (phase, Some(error.to_owned()), status);
    let expected = [
        row(Phase::Abandoned, "client_cancelled", Some(200)),
        row(Phase::Failed, "stream_reset", None),
        row(Phase::Failed, "rate_limit_exceeded", Some(429)),
        row(Phase::Failed, "connection_reset", None),
    ];
    assert_eq!(seen, expected);
}

#[test]
fn of_calls_side_by_side_nothing_is_missing_when_their_connection_goes() {
    let mut h2 = H2::opened(Capture::Positive);
    for (stream, model) in [(1, "one"), (3, "two"), (5, "three")] {
        h2.ask(stream, CHAT, &chat(model));
    }
    h2.answer_head(3, "200", "text/event-stream");
    h2.answer(3, 0, &token("x"));
    h2.wire.close(&mut h2.engine, &mut h2.log, Close::Released);
    let ended = h2.log.ended();
    assert_eq!(ended.len(), 3);
    assert!(ended.iter().all(|exchange| (exchange.bytes_missed, exchange.phase) == (0, Phase::Abandoned)), "{ended:?}");
    assert_eq!(h2.engine.counters().parse_gaps, 0);
}

#[test]
fn what_is_no_call_is_let_go_and_a_call_has_the_connection_captured() {
    let mut h2 = H2::opened(Capture::Awaiting);
    h2.ask(1, "/grpc.health.v1.Health/Check", "x");
    h2.ask(3, "/metrics", "{}");
    assert!(h2.log.verdicts.is_empty() && h2.log.events.is_empty());
    // Its body tells, in several pieces.
    let head = h2.head(5, "/ask/me");
    h2.sent(&head, true);
    let body = chat("m-1");
    let (first, rest) = body.split_at(20);
    h2.sent(&frame(DATA, 0, 5, first.as_bytes()), false);
    assert!(h2.log.events.is_empty());
    h2.ask(7, CHAT, &chat("m-2"));
    h2.sent(&frame(DATA, END_STREAM, 5, rest.as_bytes()), false);
    assert!(h2.log.actions().iter().all(|action| *action == Action::Capture) && !h2.log.actions().is_empty());
    assert_eq!(h2.log.learned, ["/ask/me"]);
    for stream in [7, 5] {
        h2.answer_head(stream, "200", "application/json");
        h2.answer(stream, END_STREAM, DONE_JSON);
    }
    let models: Vec<_> = h2.ended().iter().map(|exchange| exchange.model.as_ref().unwrap().to_string()).collect();
    assert_eq!(models, ["m-2", "m-1"]);
}

#[test]
fn a_connection_that_is_older_is_known_by_bodies_and_heals() {
    let mut h2 = H2::new(Capture::Awaiting);
    // What was said before.
    let before = h2.head(1, CHAT);
    H2::block(&mut h2.server, &[(":status", "200"), ("content-type", "text/event-stream")]);
    h2.wire.offsets = [before.len() as u64, 1000];
    h2.ask(3, CHAT, &chat("m-1"));
    h2.answer_head(3, "200", "text/event-stream");
    h2.answer(3, 0, &token("x"));
    h2.answer(3, END_STREAM, &usage(1));
    let exchange = h2.ended()[0];
    assert_eq!((exchange.phase, exchange.usage.output, exchange.status), (Phase::Done, Some(1), Some(200)));
    assert_eq!((exchange.endpoint.host.as_ref(), exchange.model.as_ref().unwrap().as_str()), (None, "m-1"));
    assert!(h2.log.learned.is_empty(), "its path is not known");
    // A path that was not asked for before is spelled out.
    h2.ask(5, "/v1/messages", r#"{"model":"claude","max_tokens":9,"messages":[]}"#);
    h2.answer_head(5, "503", "application/json");
    h2.answer(5, END_STREAM, "{}");
    let exchange = h2.ended()[1];
    assert_eq!((exchange.phase, exchange.status), (Phase::Failed, Some(503)));
    assert_eq!(exchange.model.as_ref().unwrap().as_str(), "claude");
}

#[test]
fn an_answer_is_not_taken_for_a_request() {
    let mut h2 = H2::new(Capture::Awaiting);
    let block = H2::block(&mut h2.server, &[(":status", "200"), ("content-type", "text/event-stream")]);
    // The kernel side cannot tell which way a connection goes that it has not seen begin.
    h2.wire.send(&mut h2.engine, &mut h2.log, Direction::Received, &frame(HEADERS, END_HEADERS, 1, &block), true);
    assert_eq!(h2.log.actions(), [Action::Ignore]);
    assert!(h2.log.events.is_empty());
    h2.ask(3, CHAT, &chat("m-1"));
    assert_eq!(h2.engine.in_flight().count(), 1);
}

#[test]
fn a_connection_that_is_upgraded_goes_on_with_the_answer() {
    let mut h2 = H2::new(Capture::Positive);
    let asked = crate::wire::chat(true).replacen(
        "Host:",
        "Connection: Upgrade\r\nUpgrade: h2c\r\nHTTP2-Settings: x\r\nHost:",
        1,
    );
    h2.sent(asked.as_bytes(), true);
    let switching = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n";
    h2.received(&[switching.as_bytes(), &frame(4, 0, 0, &[])].concat());
    h2.answer_head(1, "200", "text/event-stream");
    h2.sent(&[PREFACE, &frame(4, 0, 0, &[])].concat(), true);
    h2.answer(1, 0, &token("x"));
    h2.ask(3, CHAT, &chat("m-2"));
    h2.answer(1, END_STREAM, &usage(1));
    h2.answer_head(3, "200", "application/json");
    h2.answer(3, END_STREAM, DONE_JSON);
    let seen: Vec<_> = h2
        .ended()
        .iter()
        .map(|exchange| (exchange.model.as_ref().unwrap().to_string(), exchange.usage.output, exchange.protocol))
        .collect();
    assert_eq!(seen, [("m-1".into(), Some(1), Protocol::H2), ("m-2".into(), Some(3), Protocol::H2)]);
    assert_eq!((h2.engine.in_flight().count(), h2.engine.counters().desyncs), (0, 0));
}

#[test]
fn bytes_that_are_missing_are_marked_where_they_are() {
    let mut h2 = H2::opened(Capture::Positive);
    h2.ask(1, CHAT, &chat("one"));
    h2.ask(3, CHAT, &chat("two"));
    h2.answer_head(1, "200", "text/event-stream");
    h2.answer_head(3, "200", "text/event-stream");
    // Within a frame: of one call.
    let body = token("x").repeat(10);
    let data = frame(DATA, 0, 1, body.as_bytes());
    h2.wire.send_part(&mut h2.engine, &mut h2.log, Direction::Received, &data, 100, false);
    h2.answer(3, 0, &token("x"));
    // Where an event begins is known again behind the next one's end.
    h2.answer(1, 0, &token("x"));
    h2.answer(1, END_STREAM, &usage(10));
    h2.answer(3, END_STREAM, &usage(1));
    let missed: Vec<_> = h2.ended().iter().map(|exchange| (exchange.usage.output, exchange.bytes_missed)).collect();
    assert_eq!(missed, [(Some(10), data.len() as u64 - 100), (Some(1), 0)]);
    assert_eq!(h2.engine.counters().parse_gaps, 1);
    // Across frames: of all that are under way.
    h2.ask(5, CHAT, &chat("three"));
    h2.answer_head(5, "200", "text/event-stream");
    h2.wire.offsets[Direction::Received.index()] += 50;
    h2.answer(5, 0, &token("x"));
    h2.answer(5, END_STREAM, &usage(7));
    let exchange = h2.ended()[2];
    assert!(exchange.bytes_missed > 0 && exchange.usage.output == Some(7), "{exchange:?}");
}
