//! AWS's event streams, by AWS's own encoder.

use aws_smithy_eventstream::frame::write_message_to;
use aws_smithy_types::event_stream::{Header, HeaderValue, Message};
use hbpf_core::chunk::{Close, Direction};
use hbpf_core::engine::Engine;
use hbpf_core::exchange::{Exchange, Phase};

use crate::wire::{CANARY, Log, Wire, post};

const HEAD: &str = "HTTP/1.1 200 OK\r\nContent-Type: application/vnd.amazon.eventstream\r\n\
    x-amzn-RequestId: 1234-5678\r\nTransfer-Encoding: chunked\r\n\r\n";

fn message(kind: &str, header: &str, name: &str, payload: &str) -> Vec<u8> {
    let text = |value: &str| HeaderValue::String(value.to_owned().into());
    let message = Message::new(payload.as_bytes().to_vec())
        .add_header(Header::new(header.to_owned(), text(name)))
        .add_header(Header::new(":message-type".to_owned(), text(kind)));
    let mut bytes = Vec::new();
    write_message_to(&message, &mut bytes).unwrap();
    bytes
}

fn event(name: &str, payload: &str) -> Vec<u8> {
    message("event", ":event-type", name, payload)
}

fn chunked(bytes: &[u8]) -> Vec<u8> {
    [format!("{:x}\r\n", bytes.len()).as_bytes(), bytes, b"\r\n"].concat()
}

fn token() -> Vec<u8> {
    event("contentBlockDelta", &format!(r#"{{"contentBlockIndex":0,"delta":{{"text":"{CANARY}"}}}}"#))
}

const USAGE: &str = r#"{"usage":{"inputTokens":9,"outputTokens":4,"totalTokens":13}}"#;

/// What becomes of a streamed answer of these messages.
fn answered(messages: &[Vec<u8>]) -> (Exchange, u64) {
    let (mut engine, mut log) = (Engine::new(), Log::default());
    let mut wire = Wire::tls(7, Direction::Sent);
    let body = format!(r#"{{"messages":[{{"role":"user","content":[{{"text":"{CANARY}"}}]}}]}}"#);
    wire.request(&mut engine, &mut log, &post("/model/us.anthropic.x-v1%3A0/converse-stream", &body));
    wire.answer(&mut engine, &mut log, HEAD);
    for message in messages {
        wire.send(&mut engine, &mut log, Direction::Received, &chunked(message), false);
    }
    wire.answer(&mut engine, &mut log, "0\r\n\r\n");
    wire.close(&mut engine, &mut log, Close::Released);
    assert!(!format!("{:?}", log.events).contains(CANARY));
    assert_eq!((log.ended().len(), engine.in_flight().count(), engine.memory()), (1, 0, 0));
    (log.ended()[0].clone(), engine.counters().parse_gaps)
}

#[test]
fn a_stream_tells_its_tokens_as_they_come_and_its_usage_at_the_end() {
    let (exchange, gaps) = answered(&[event("messageStart", "{}"), token(), token(), event("metadata", USAGE)]);
    assert_eq!((exchange.phase, exchange.usage.input, exchange.usage.output), (Phase::Done, Some(9), Some(4)));
    assert_eq!((exchange.output_events, exchange.stream, gaps, exchange.bytes_missed), (2, Some(true), 0, 0));
    assert_eq!(exchange.model.as_ref().map(|model| model.as_str()), Some("us.anthropic.x-v1:0"));
    assert_eq!(exchange.request_id.as_ref().map(|id| id.as_str()), Some("1234-5678"));
    assert!(exchange.first_token_at.is_some() && !exchange.is_rate_limited());
}

#[test]
fn a_message_whose_checksum_is_wrong_is_marked_and_the_rest_is_read() {
    let mut broken = token();
    let at = broken.len() / 2;
    broken[at] ^= 1;
    let length = broken.len() as u64;
    let (exchange, gaps) = answered(&[token(), broken, token(), event("metadata", USAGE)]);
    assert_eq!((exchange.phase, exchange.usage.output, exchange.output_events), (Phase::Done, Some(4), 2));
    assert_eq!((gaps, exchange.bytes_missed), (1, length));
}

#[test]
fn an_exception_within_the_stream_fails_the_call() {
    let says = format!(r#"{{"message":"{CANARY}"}}"#);
    let throttled = message("exception", ":exception-type", "throttlingException", &says);
    let (exchange, _) = answered(&[token(), throttled]);
    assert_eq!((exchange.phase, exchange.status, exchange.output_events), (Phase::Failed, Some(200), 1));
    assert_eq!(exchange.error_type.as_ref().map(|error| error.as_str()), Some("ThrottlingException"));
    assert!(exchange.is_rate_limited());
    let error = message("error", ":error-code", "InternalFailure", "");
    let (exchange, _) = answered(&[error]);
    assert_eq!(exchange.error_type.as_ref().map(|error| error.as_str()), Some("InternalFailure"));
    assert!(!exchange.is_rate_limited());
}

#[test]
fn a_message_that_never_comes_to_its_end_is_none() {
    let (exchange, gaps) = answered(&[token(), token()[..40].to_vec()]);
    assert_eq!((exchange.phase, exchange.output_events, exchange.usage.output, gaps), (Phase::Done, 1, None, 0));
}
