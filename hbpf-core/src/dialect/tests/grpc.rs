//! Calls over gRPC.

use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;

use super::super::*;
use super::streams::{XAI_CHUNKS, XAI_REQUEST, XAI_WHOLE, from_hex};
use crate::http1::{RequestHead, ResponseHead};

fn call(method: &str) -> Recognised {
    let head =
        format!("POST /xai_api.Chat/{method} HTTP/1.1\r\nhost: api.x.ai\r\ncontent-type: application/grpc\r\n\r\n");
    let (head, _) = RequestHead::parse(head.as_bytes()).unwrap().unwrap();
    match judge(&head, None, &[], Extent::Beginning) {
        Judgement::ModelCall(call) => call,
        other => panic!("{other:?}"),
    }
}

fn request_head(coding: &str, act: impl FnOnce(&RequestHead<'_>)) {
    let head = format!("POST /x HTTP/1.1\r\ncontent-type: application/grpc\r\n{coding}\r\n\r\n");
    act(&RequestHead::parse(head.as_bytes()).unwrap().unwrap().0);
}

fn answer_head(lines: &str, act: impl FnOnce(&ResponseHead<'_>)) {
    let head = format!("HTTP/1.1 200\r\n{}\r\n\r\n", lines.replace('\n', "\r\n"));
    act(&ResponseHead::parse(head.as_bytes()).unwrap().unwrap().0);
}

/// The same messages, each compressed.
fn gzip(messages: &[u8]) -> Vec<u8> {
    let mut rest = messages;
    let mut all = Vec::new();
    while let Some((prefix, behind)) = rest.split_first_chunk::<5>() {
        let length = u32::from_be_bytes([prefix[1], prefix[2], prefix[3], prefix[4]]) as usize;
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(&behind[..length]).unwrap();
        let message = encoder.finish().unwrap();
        all.extend([&[1], &(message.len() as u32).to_be_bytes()[..], &message].concat());
        rest = &behind[length..];
    }
    all
}

const PLAIN: &str = "content-type: application/grpc";
const GZIP: &str = "content-type: application/grpc+proto\ngrpc-encoding: gzip";

/// What is said in the end, and the outputs.
fn read(method: &str, head: &str, request: &[&[u8]], answer: &[&[u8]], trailers: &str) -> (Facts, Vec<(u64, bool)>) {
    let mut interpreter = Interpreter::for_call(&call(method));
    let coding = if head == GZIP { "grpc-encoding: gzip" } else { "grpc-encoding: identity" };
    request_head(coding, |head| interpreter.request_head(head));
    request.iter().for_each(|piece| interpreter.request_bytes(piece));
    interpreter.request_end();
    answer_head(head, |head| interpreter.response_head(head));
    let mut outputs = Vec::new();
    for piece in answer {
        interpreter.response_bytes(Nanos(1), piece, &mut |output| outputs.push((output.tokens, output.visible)));
        assert!(!format!("{interpreter:?}").contains("CANARY"));
    }
    if !trailers.is_empty() {
        answer_head(trailers, |trailers| interpreter.response_trailers(trailers));
    }
    interpreter.response_end(Nanos(2), &mut |_| panic!("every message has an end of its own"));
    (interpreter.facts().clone(), outputs)
}

fn chunks() -> Vec<u8> {
    XAI_CHUNKS.iter().flat_map(|chunk| from_hex(chunk)).collect()
}

fn text(label: &Option<Label>) -> &str {
    label.as_ref().map_or("", Label::as_str)
}

#[test]
fn a_streamed_answer_at_every_split() {
    let request = from_hex(XAI_REQUEST);
    for (head, request, answer) in [(PLAIN, request.clone(), chunks()), (GZIP, gzip(&request), gzip(&chunks()))] {
        for at in 0..=answer.len() {
            let (facts, outputs) =
                read("GetCompletionChunk", head, &[&request], &[&answer[..at], &answer[at..]], "grpc-status: 0");
            let usage = facts.usage;
            // Reasoning is counted beside what it led to.
            assert_eq!(
                (usage.input, usage.output, usage.cached_input, usage.reasoning),
                (Some(9), Some(7), Some(4), Some(2))
            );
            assert_eq!(usage.cache_creation_input, None);
            assert_eq!(outputs, [(1, false), (2, true), (1, true)], "split at {at}");
            let names = [&facts.model, &facts.response_model, &facts.response_id, &facts.finish_reason].map(text);
            assert_eq!(names, ["grok-x", "grok-x-1", "r-1", "REASON_STOP"]);
            assert_eq!(
                (facts.stream, facts.finished, facts.is_error, facts.missed_events),
                (Some(true), true, false, 0)
            );
        }
        for at in 0..=request.len() {
            let (facts, _) = read("GetCompletionChunk", head, &[&request[..at], &request[at..]], &[], "");
            assert_eq!((text(&facts.model), facts.finished), ("grok-x", false), "split at {at}");
        }
    }
}

#[test]
fn an_answer_in_one_message() {
    let request = from_hex(XAI_REQUEST);
    let (facts, outputs) = read("GetCompletion", PLAIN, &[&request], &[&from_hex(XAI_WHOLE)], "grpc-status: 0");
    let usage = facts.usage;
    // What is not written is 0 where anything is.
    assert_eq!((usage.input, usage.output, usage.cached_input, usage.reasoning), (Some(12), Some(7), Some(0), Some(0)));
    assert_eq!((facts.stream, facts.finished, outputs.len()), (Some(false), true, 0));
    assert_eq!([&facts.response_model, &facts.finish_reason].map(text), ["grok-x-1", "REASON_MAX_LEN"]);
    let (facts, _) = read("GetCompletion", PLAIN, &[&request], &[&from_hex(XAI_CHUNKS[0])], "grpc-status: 0");
    assert_eq!(facts.usage, Usage::default(), "nothing is said of counts");
}

#[test]
fn the_status_behind_an_answer_is_its_outcome() {
    let request = from_hex(XAI_REQUEST);
    let cases = [
        ("grpc-status: 8\ngrpc-message: CANARY", "RESOURCE_EXHAUSTED"),
        ("grpc-status: 14", "UNAVAILABLE"),
        ("grpc-status: 16", "UNAUTHENTICATED"),
        ("grpc-status: 99", "99"),
        ("grpc-status: x", "UNKNOWN"),
    ];
    for (trailers, name) in cases {
        let (behind, outputs) = read("GetCompletionChunk", PLAIN, &[&request], &[&from_hex(XAI_CHUNKS[2])], trailers);
        assert_eq!((text(&behind.error_type), behind.is_error, behind.finished), (name, true, false));
        assert_eq!(outputs, [(2, true)]);
        let alone = read("GetCompletionChunk", &format!("{PLAIN}\n{trailers}"), &[&request], &[], "").0;
        assert_eq!((text(&alone.error_type), alone.is_error), (name, true));
        assert!(!format!("{behind:?}").contains("CANARY"));
    }
    let unknown = read("GetCompletionChunk", PLAIN, &[&request], &[], "x: y").0;
    assert_eq!((unknown.is_error, unknown.finished), (false, false));
    let refused = read("GetCompletion", "content-type: text/html", &[&request], &[b"<html>CANARY"], "").0;
    assert_eq!((refused.is_error, refused.missed_events), (false, 1));
}

#[test]
fn prompts_that_were_not_seen_do_not_hide_the_model() {
    let request = from_hex(XAI_REQUEST);
    let prompt = request.windows(6).position(|window| window == b"CANARY").unwrap();
    let model = |len: Option<u64>, request: &[u8], gap: usize| {
        let mut interpreter = Interpreter::for_call(&call("GetCompletion"));
        interpreter.request_bytes(&request[..prompt]);
        interpreter.request_gap_of(len);
        interpreter.request_bytes(&request[prompt + gap..]);
        interpreter.request_end();
        text(&interpreter.facts().model).to_owned()
    };
    assert_eq!(model(Some(6), &request, 6), "grok-x");
    assert_eq!(model(None, &request, 6), "");
    assert_eq!(model(Some(u64::MAX), &request, 6), "");
}

#[test]
fn only_what_says_so_is_grpc() {
    let judged = |path: &str, kind: &str| {
        let head = format!("POST {path} HTTP/1.1\r\nhost: x\r\n{kind}\r\n\r\n");
        let (head, _) = RequestHead::parse(head.as_bytes()).unwrap().unwrap();
        match judge(&head, None, b"{}", Extent::Whole) {
            Judgement::ModelCall(call) => format!("{} {:?} {}", call.provider, call.stream, call.known_target),
            _ => "no".to_owned(),
        }
    };
    let path = "/xai_api.Chat/GetCompletion";
    for (kind, expected) in [
        ("content-type: application/grpc", "x_ai Some(false) true"),
        ("content-type: application/grpc+proto", "x_ai Some(false) true"),
        ("content-type: APPLICATION/GRPC; x=y", "x_ai Some(false) true"),
        ("x: y", "x_ai Some(false) true"),
        ("content-type: application/grpc-web+proto", "no"),
        ("content-type: application/json", "no"),
    ] {
        assert_eq!(judged(path, kind), expected, "{kind}");
    }
    let kind = "content-type: application/grpc";
    assert_eq!(judged("/xai_api.Chat/GetCompletionChunk", kind), "x_ai Some(true) true");
    assert_eq!(judged("/xai_api.Chat/GetStoredCompletion", kind), "no");
    assert_eq!(judged("/inference.GRPCInferenceService/ModelInfer", kind), "no");
}
