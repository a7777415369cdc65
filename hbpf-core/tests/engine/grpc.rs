//! Calls over gRPC, their messages by another encoder.

use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;
use hbpf_core::chunk::{Capture, Direction};
use hbpf_core::exchange::{Exchange, Phase, Protocol};
use prost::Message;

use crate::http2::{DATA, END_HEADERS, END_STREAM, H2, HEADERS, RESET, frame};
use crate::wire::CANARY;

/// As much of xAI's protocol as is needed.
#[derive(Clone, PartialEq, Message)]
struct Request {
    #[prost(message, repeated, tag = "1")]
    messages: Vec<Content>,
    #[prost(string, tag = "2")]
    model: String,
}

#[derive(Clone, PartialEq, Message)]
struct Content {
    #[prost(string, tag = "1")]
    text: String,
}

#[derive(Clone, PartialEq, Message)]
struct Output {
    #[prost(message, tag = "1")]
    delta: Option<Content>,
    #[prost(int32, tag = "3")]
    finish_reason: i32,
}

#[derive(Clone, PartialEq, Message)]
struct Usage {
    #[prost(int32, tag = "1")]
    completion: i32,
    #[prost(int32, tag = "2")]
    prompt: i32,
}

#[derive(Clone, PartialEq, Message)]
struct Chunk {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(message, repeated, tag = "2")]
    outputs: Vec<Output>,
    #[prost(string, tag = "4")]
    model: String,
    #[prost(message, tag = "6")]
    usage: Option<Usage>,
}

const CHUNKED: &str = "/xai_api.Chat/GetCompletionChunk";

fn plain(message: &impl Message) -> Vec<u8> {
    let bytes = message.encode_to_vec();
    [&[0], &(bytes.len() as u32).to_be_bytes()[..], &bytes].concat()
}

fn gzip(message: &impl Message) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(&message.encode_to_vec()).unwrap();
    let bytes = encoder.finish().unwrap();
    [&[1], &(bytes.len() as u32).to_be_bytes()[..], &bytes].concat()
}

fn request(model: &str) -> Request {
    Request { messages: vec![Content { text: CANARY.repeat(50) }], model: model.into() }
}

fn token() -> Chunk {
    let output = Output { delta: Some(Content { text: CANARY.into() }), finish_reason: 0 };
    Chunk { id: "r".into(), outputs: vec![output], model: "grok-1".into(), usage: None }
}

fn last(completion: i32) -> Chunk {
    let outputs = vec![Output { delta: None, finish_reason: 3 }];
    Chunk { id: "r".into(), outputs, model: "grok-1".into(), usage: Some(Usage { completion, prompt: 9 }) }
}

impl H2 {
    fn call(&mut self, stream: u32, path: &str, coding: &str, message: &[u8]) {
        let fields = [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", path),
            (":authority", "llm.example:443"),
            ("te", "trailers"),
            ("content-type", "application/grpc"),
            ("grpc-encoding", coding),
            ("authorization", CANARY),
        ];
        let head = frame(HEADERS, END_HEADERS, stream, &Self::block(&mut self.client, &fields));
        self.sent(&head, true);
        self.sent(&frame(DATA, END_STREAM, stream, message), false);
    }

    fn begin_answer(&mut self, stream: u32, coding: &str) {
        let fields = [(":status", "200"), ("content-type", "application/grpc"), ("grpc-encoding", coding)];
        let block = Self::block(&mut self.server, &fields);
        self.received(&frame(HEADERS, END_HEADERS, stream, &block));
    }

    fn data(&mut self, stream: u32, bytes: &[u8]) {
        self.received(&frame(DATA, 0, stream, bytes));
    }

    fn trailers(&mut self, stream: u32, status: &str) {
        let block = Self::block(&mut self.server, &[("grpc-status", status), ("grpc-message", CANARY)]);
        self.received(&frame(HEADERS, END_HEADERS | END_STREAM, stream, &block));
    }
}

fn error(exchange: &Exchange) -> &str {
    exchange.error_type.as_ref().map_or("", |error| error.as_str())
}

#[test]
fn messages_are_told_apart_and_the_trailers_say_how_it_went() {
    for coding in ["identity", "gzip"] {
        let mut h2 = H2::opened(Capture::Positive);
        let encode = |chunk: &Chunk| if coding == "gzip" { gzip(chunk) } else { plain(chunk) };
        for (stream, model) in [(1, "one"), (3, "two")] {
            let message = if coding == "gzip" { gzip(&request(model)) } else { plain(&request(model)) };
            h2.call(stream, CHUNKED, coding, &message);
            h2.begin_answer(stream, coding);
        }
        // In one frame, and each byte in a frame of its own.
        h2.data(1, &[encode(&token()), encode(&token())].concat());
        for byte in encode(&token()) {
            h2.data(3, &[byte]);
        }
        assert_eq!(h2.engine.in_flight().map(|exchange| exchange.output_events).sum::<u64>(), 3);
        for (stream, completion) in [(3, 1), (1, 2)] {
            h2.data(stream, &encode(&last(completion)));
            assert_eq!(h2.ended().len(), usize::from(stream == 1), "without a status it has not ended");
            h2.trailers(stream, "0");
        }
        let seen: Vec<_> = h2
            .ended()
            .iter()
            .map(|exchange| {
                let model = exchange.model.as_ref().unwrap().to_string();
                let counts = (exchange.usage.input, exchange.usage.output, exchange.output_events);
                (model, exchange.phase, counts, exchange.protocol, exchange.stream, exchange.bytes_missed)
            })
            .collect();
        let row = |model: &str, output: u64| {
            let counts = (Some(9), Some(output), output);
            (model.to_owned(), Phase::Done, counts, Protocol::Grpc, Some(true), 0)
        };
        assert_eq!(seen, [row("two", 1), row("one", 2)], "{coding}");
        let exchange = h2.ended()[0];
        assert_eq!((exchange.provider.as_str(), exchange.endpoint.port), ("x_ai", Some(443)));
        assert!(!format!("{:?}", h2.log.events).contains(CANARY));
        assert_eq!((h2.engine.in_flight().count(), h2.engine.counters().parse_gaps), (0, 0));
    }
}

#[test]
fn a_status_that_is_not_ok_fails_the_call() {
    let mut h2 = H2::opened(Capture::Positive);
    for stream in [1, 3, 5, 7] {
        h2.call(stream, CHUNKED, "identity", &plain(&request("m")));
    }
    h2.begin_answer(1, "identity");
    h2.data(1, &plain(&token()));
    h2.trailers(1, "8");
    // With nothing but a head.
    let fields = [(":status", "200"), ("content-type", "application/grpc"), ("grpc-status", "14")];
    let block = H2::block(&mut h2.server, &fields);
    h2.received(&frame(HEADERS, END_HEADERS | END_STREAM, 3, &block));
    h2.begin_answer(5, "identity");
    h2.data(5, &plain(&token()));
    h2.sent(&frame(RESET, 0, 5, &[0, 0, 0, 8]), true);
    // Of a proxy that knows no gRPC.
    h2.answer_head(7, "502", "text/html");
    h2.received(&frame(DATA, END_STREAM, 7, b"<html>"));
    let seen: Vec<_> =
        h2.ended().iter().map(|exchange| (exchange.phase, error(exchange), exchange.is_rate_limited())).collect();
    let expected = [
        (Phase::Failed, "RESOURCE_EXHAUSTED", true),
        (Phase::Failed, "UNAVAILABLE", false),
        (Phase::Abandoned, "client_cancelled", false),
        (Phase::Failed, "502", false),
    ];
    assert_eq!(seen, expected);
}

#[test]
fn bytes_that_are_missing_cost_the_message_they_are_of() {
    let mut h2 = H2::opened(Capture::Positive);
    // Of the prompt, behind which the model stands.
    let fields = [(":method", "POST"), (":scheme", "http"), (":path", CHUNKED), ("content-type", "application/grpc")];
    let head = frame(HEADERS, END_HEADERS, 1, &H2::block(&mut h2.client, &fields));
    h2.sent(&head, true);
    let message = plain(&request("behind"));
    let (before, behind) = message.split_at(100);
    h2.wire.send_part(&mut h2.engine, &mut h2.log, Direction::Sent, &frame(DATA, 0, 1, before), 60, false);
    h2.sent(&frame(DATA, END_STREAM, 1, behind), false);
    h2.begin_answer(1, "identity");
    h2.data(1, &plain(&token()));
    // Of the answer's second message.
    let hurt = frame(DATA, 0, 1, &plain(&token()));
    h2.wire.send_part(&mut h2.engine, &mut h2.log, Direction::Received, &hurt, hurt.len() - 12, false);
    h2.data(1, &plain(&last(5)));
    h2.trailers(1, "0");
    let exchange = h2.ended()[0];
    assert_eq!(exchange.model.as_ref().map(|model| model.as_str()), Some("behind"));
    assert_eq!((exchange.phase, exchange.usage.output), (Phase::Done, Some(5)));
    assert_eq!(exchange.bytes_missed, (before.len() + 9 - 60) as u64 + 12);
    assert_eq!(h2.engine.counters().parse_gaps, 2);
}

#[test]
fn messages_that_cannot_be_read_are_marked() {
    let mut h2 = H2::opened(Capture::Positive);
    h2.call(1, CHUNKED, "identity", &plain(&request("m")));
    h2.begin_answer(1, "snappy");
    let unreadable = [&[1][..], &[0, 0, 0, 3], b"xyz"].concat();
    h2.data(1, &unreadable);
    h2.data(1, &unreadable);
    h2.data(1, &plain(&last(5)));
    h2.trailers(1, "0");
    let exchange = h2.ended()[0];
    assert_eq!((exchange.phase, exchange.usage.output, exchange.bytes_missed), (Phase::Done, Some(5), 16));
    assert_eq!((h2.engine.counters().parse_gaps, exchange.output_missed.before_first), (1, true));
}
