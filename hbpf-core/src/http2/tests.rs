//! Connections made by independent encoders, whole, split, cut and with holes.

use std::collections::BTreeMap;

use httlib_hpack::Encoder;
use proptest::prelude::*;

use super::{Http2, PREFACE};
use crate::http1::{HttpSink, RequestHead, ResponseHead, Side};
use crate::time::Nanos;

/// What was reported of one stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Seen {
    /// Method, target and host.
    request: Option<[String; 3]>,
    asked: Vec<u8>,
    request_ended: bool,
    status: Option<Option<u16>>,
    answered: Vec<u8>,
    ended: bool,
    reset_by: Option<Side>,
    gaps: usize,
}

#[derive(Default)]
struct Log {
    streams: BTreeMap<u64, Seen>,
    desyncs: usize,
}

impl Log {
    fn at(&mut self, stream: u64) -> &mut Seen {
        self.streams.entry(stream).or_default()
    }
}

impl HttpSink for Log {
    fn request_head(&mut self, exchange: u64, _: Nanos, _: Nanos, head: &RequestHead<'_>) {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let host = head.header("host").map(text).unwrap_or_default();
        let seen = self.at(exchange);
        assert_eq!(seen.request, None, "once");
        seen.request = Some([head.method.to_owned(), text(head.target), host]);
    }
    fn request_body(&mut self, exchange: u64, _: Nanos, bytes: &[u8]) {
        self.at(exchange).asked.extend_from_slice(bytes);
    }
    fn request_body_gap(&mut self, exchange: u64, _: Option<u64>) {
        self.at(exchange).gaps += 1;
    }
    fn request_end(&mut self, exchange: u64, _: Nanos, complete: bool) {
        assert!(complete);
        self.at(exchange).request_ended = true;
    }
    fn response_head(&mut self, exchange: u64, _: Nanos, head: &ResponseHead<'_>) {
        self.at(exchange).status = Some(head.status);
    }
    fn response_body(&mut self, exchange: u64, _: Nanos, bytes: &[u8]) {
        self.at(exchange).answered.extend_from_slice(bytes);
    }
    fn response_body_gap(&mut self, exchange: u64, _: Option<u64>) {
        self.at(exchange).gaps += 1;
    }
    fn response_end(&mut self, exchange: u64, _: Nanos, complete: bool) {
        self.at(exchange).ended = complete;
    }
    fn reset(&mut self, exchange: u64, _: Nanos, by: Side) {
        self.at(exchange).reset_by = Some(by);
    }
    fn upgraded(&mut self, _: u64, _: Nanos, _: &ResponseHead<'_>) {
        panic!("there is nothing to upgrade to");
    }
    fn desync(&mut self, _: Side) {
        self.desyncs += 1;
    }
}

const NOW: Nanos = Nanos(1);

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RESET: u8 = 3;
const SETTINGS: u8 = 4;
const PUSH_PROMISE: u8 = 5;
const PING: u8 = 6;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;
const PRIORITY: u8 = 0x20;

/// Two encoders that have nothing in common.
enum Blocks {
    Httlib(Encoder<'static>),
    Loona(loona_hpack::Encoder<'static>),
}

impl Blocks {
    fn encode(&mut self, fields: &[(String, String)]) -> Vec<u8> {
        let mut block = Vec::new();
        match self {
            Self::Httlib(encoder) => {
                let huffman = Encoder::HUFFMAN_VALUE | Encoder::HUFFMAN_NAME;
                let format = Encoder::BEST_FORMAT | Encoder::WITH_INDEXING | huffman;
                for (name, value) in fields {
                    encoder
                        .encode((name.clone().into_bytes(), value.clone().into_bytes(), format), &mut block)
                        .unwrap();
                }
            }
            Self::Loona(encoder) => {
                let fields = fields.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes()));
                block = encoder.encode(fields);
            }
        }
        block
    }
}

fn request_fields(path: &str) -> Vec<(String, String)> {
    let fields = [
        (":method", "POST"),
        (":scheme", "https"),
        (":authority", "api.example.com"),
        (":path", path),
        ("authorization", "Bearer canary"),
        ("content-type", "application/json"),
        ("x-stainless-retry-count", "0"),
    ];
    fields.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec()
}

fn response_fields(status: u16) -> Vec<(String, String)> {
    let fields = [(":status", status.to_string()), ("x-request-id", format!("req_{status}"))];
    fields.map(|(name, value)| (name.to_owned(), value)).to_vec()
}

fn path(number: u32) -> String {
    // Some come again and again, some once.
    match number % 3 {
        0 => "/v1/chat/completions".to_owned(),
        1 => "/v1/messages?beta=true".to_owned(),
        _ => format!("/v1/models/{number}:generate?key=canary"),
    }
}

fn status(number: u32) -> u16 {
    [200, 429, 200, 404, 503][number as usize % 5]
}

/// Both sides of a connection with so many exchanges, in frames.
fn connection(blocks: fn() -> Blocks, exchanges: u32) -> [Vec<Vec<u8>>; 2] {
    let (mut client, mut server) = (blocks(), blocks());
    let mut sent = vec![PREFACE.to_vec(), frame(SETTINGS, 0, 0, &[0; 6]), frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 9])];
    let mut answered = vec![frame(SETTINGS, 0, 0, &[]), frame(SETTINGS, 1, 0, &[])];
    for number in 0..exchanges {
        let stream = number * 2 + 1;
        sent.push(frame(HEADERS, END_HEADERS, stream, &client.encode(&request_fields(&path(number)))));
        sent.push(frame(DATA, 0, stream, format!("asked {number} ").as_bytes()));
        sent.push(frame(DATA, END_STREAM, stream, b"all"));
        answered.push(frame(HEADERS, END_HEADERS, stream, &server.encode(&response_fields(status(number)))));
        answered.push(frame(DATA, 0, stream, format!("answer {number} ").as_bytes()));
        answered.push(frame(PING, 0, 0, &[0; 8]));
        answered.push(frame(DATA, END_STREAM, stream, b"all"));
    }
    [sent, answered]
}

fn httlib() -> Blocks {
    Blocks::Httlib(Encoder::default())
}

fn loona() -> Blocks {
    Blocks::Loona(loona_hpack::Encoder::new())
}

fn truth(number: u32) -> Seen {
    let path = path(number);
    let target = path.split('?').next().unwrap_or_default().to_owned();
    Seen {
        request: Some(["POST".to_owned(), target, "api.example.com".to_owned()]),
        asked: format!("asked {number} all").into_bytes(),
        request_ended: true,
        status: Some(Some(status(number))),
        answered: format!("answer {number} all").into_bytes(),
        ended: true,
        ..Seen::default()
    }
}

/// Whatever was seen of an exchange is as it was, or unknown.
fn assert_right_or_unknown(seen: &Seen, truth: &Seen) {
    if let (Some([method, target, host]), Some(expected)) = (&seen.request, &truth.request) {
        assert_eq!(method, &expected[0], "what has a body is presumed to be a POST");
        assert!(target == &expected[1] || target == "*", "{target} for {}", expected[1]);
        assert!(host == &expected[2] || host.is_empty(), "{host}");
    }
    if let Some(Some(status)) = seen.status {
        assert_eq!(Some(Some(status)), truth.status);
    }
    assert!(truth.asked.ends_with(&seen.asked) || seen.gaps > 0 || truth.asked.starts_with(&seen.asked));
}

#[test]
fn a_whole_connection_is_read_however_it_is_split() {
    for blocks in [httlib, loona] {
        let sides = connection(blocks, 12).map(|frames| frames.concat());
        for length in [1, 2, 3, 7, 9, 10, 64, 1000, usize::MAX] {
            let (mut http, mut log) = (Http2::new(), Log::default());
            for (side, bytes) in [Side::Request, Side::Response].into_iter().zip(&sides) {
                for piece in bytes.chunks(length.min(bytes.len())) {
                    http.push(side, NOW, piece, &mut log);
                }
            }
            assert_eq!((log.desyncs, log.streams.len()), (0, 12));
            for (stream, seen) in log.streams {
                assert_eq!(seen, truth((stream as u32 - 1) / 2), "in pieces of {length}");
            }
            assert!(http.streams.is_empty() && http.memory() < 40_000);
        }
    }
}

#[test]
fn requests_that_are_under_way_together_are_told_apart() {
    let (mut http, mut log) = (Http2::new(), Log::default());
    let [sent, answered] = connection(loona, 3);
    http.push(Side::Request, NOW, &sent.concat(), &mut log);
    // Heads in order, as the table wants it, and bodies in any.
    for place in [0, 1, 2, 6, 10, 7, 3, 11, 4, 8, 5, 13, 9, 12] {
        http.push(Side::Response, NOW, &answered[place], &mut log);
    }
    for (number, seen) in (0..).zip(log.streams.into_values()) {
        assert_eq!(seen, truth(number));
    }
}

#[test]
fn padding_priorities_continuations_and_what_is_unknown() {
    let (mut http, mut log) = (Http2::new(), Log::default());
    let mut blocks = loona();
    let block = blocks.encode(&request_fields("/v1/chat/completions"));
    let (first, rest) = block.split_at(5);
    let padded = |bytes: &[u8]| [&[3], &[0, 0, 0, 0, 16][..], bytes, &[0xee; 3]].concat();
    let sent = [
        PREFACE.to_vec(),
        frame(HEADERS, PADDED | PRIORITY, 1, &padded(first)),
        frame(CONTINUATION, 0, 1, &rest[..2]),
        frame(CONTINUATION, END_HEADERS, 1, &rest[2..]),
        frame(0x10, 0xff, 0, b"priority update"),
        frame(DATA, PADDED, 1, b"\x04body....."),
        frame(DATA, PADDED | END_STREAM, 1, b"\x02.."),
    ];
    for piece in sent.concat().chunks(4) {
        http.push(Side::Request, NOW, piece, &mut log);
    }
    let mut server = loona();
    let interim = server.encode(&[(":status".to_owned(), "103".to_owned())]);
    let promised = [&[0, 0, 0, 2][..], &server.encode(&request_fields("/style.css"))].concat();
    let head = server.encode(&response_fields(200));
    let trailers = server.encode(&[("grpc-status".to_owned(), "0".to_owned())]);
    let answered = [
        frame(SETTINGS, 0, 0, &[]),
        frame(HEADERS, END_HEADERS, 1, &interim),
        frame(PUSH_PROMISE, END_HEADERS, 1, &promised),
        frame(HEADERS, END_HEADERS, 1, &head),
        frame(DATA, 0, 1, b"answer"),
        frame(HEADERS, END_HEADERS | END_STREAM, 1, &trailers),
    ];
    http.push(Side::Response, NOW, &answered.concat(), &mut log);
    let seen = &log.streams[&1];
    assert_eq!((seen.asked.as_slice(), seen.answered.as_slice()), (&b"body."[..], &b"answer"[..]));
    assert_eq!((seen.status, seen.request_ended, seen.ended), (Some(Some(200)), true, true));
    assert_eq!((log.streams.len(), log.desyncs), (1, 0));
}

#[test]
fn an_exchange_that_is_given_up_is_told_by_whom() {
    for (side, name) in [(Side::Request, "client"), (Side::Response, "server")] {
        let (mut http, mut log) = (Http2::new(), Log::default());
        let [sent, answered] = connection(httlib, 1);
        http.push(Side::Request, NOW, &sent[..5].concat(), &mut log);
        http.push(Side::Response, NOW, &answered[..4].concat(), &mut log);
        http.push(side, NOW, &frame(RESET, 0, 1, &[0, 0, 0, 8]), &mut log);
        assert_eq!(log.streams[&1].reset_by, Some(side), "{name}");
        // What was under way comes too late.
        http.push(Side::Response, NOW, &answered[5], &mut log);
        assert!(!log.streams[&1].ended);
    }
}

#[test]
fn what_is_no_http2_is_told_and_the_next_frame_is_found_again() {
    let (mut http, mut log) = (Http2::new(), Log::default());
    let [sent, _] = connection(httlib, 4);
    http.push(Side::Request, NOW, &sent[..6].concat(), &mut log);
    // A continuation of nothing.
    http.push(Side::Request, NOW, &frame(CONTINUATION, 0, 1, b"xx"), &mut log);
    assert_eq!(log.desyncs, 1);
    http.push(Side::Request, NOW, b"nonsense that goes on and on", &mut log);
    http.push(Side::Request, NOW, &sent[6..].concat(), &mut log);
    assert_eq!(log.streams.keys().copied().collect::<Vec<_>>(), [1, 3, 5, 7]);
    for (number, seen) in (0..).zip(log.streams.values()) {
        assert_right_or_unknown(seen, &truth(number));
    }
    let targets: Vec<&str> = log.streams.values().map(|seen| seen.request.as_ref().unwrap()[1].as_str()).collect();
    assert_eq!(targets[3], "*", "what it refers to was entered before");
    assert_eq!(targets[2], "/v1/models/2:generate", "what is spelled out is known");
}

#[test]
fn secrets_are_not_kept() {
    let (mut http, mut log) = (Http2::new(), Log::default());
    let [sent, answered] = connection(loona, 30);
    http.push(Side::Request, NOW, &sent.concat(), &mut log);
    http.push(Side::Response, NOW, &answered.concat(), &mut log);
    assert!(!http.request.table.values().any(|value| memchr::memmem::find(value, b"canary").is_some()));
    assert!(!format!("{http:?}").contains("canary"));
}

#[test]
fn memory_is_bounded() {
    let (mut http, mut log) = (Http2::new(), Log::default());
    let mut blocks = loona();
    http.push(Side::Request, NOW, PREFACE, &mut log);
    for number in 0..5000_u32 {
        let mut fields = request_fields(&format!("/{number}/{}", "x".repeat(3000)));
        fields.push(("x-request-id".to_owned(), number.to_string().repeat(100)));
        http.push(Side::Request, NOW, &frame(HEADERS, END_HEADERS, number * 2 + 1, &blocks.encode(&fields)), &mut log);
    }
    assert!(http.memory() < 200_000, "{}", http.memory());
    let endless = frame(CONTINUATION, 0, 10_001, &[0x41; 16_000]);
    http.push(Side::Request, NOW, &frame(HEADERS, 0, 10_001, &[0x82]), &mut log);
    for _ in 0..1000 {
        http.push(Side::Request, NOW, &endless, &mut log);
    }
    assert!(http.memory() < 200_000, "{}", http.memory());
    http.shed();
    assert!(http.memory() < 120_000, "{}", http.memory());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    /// Attached anywhere, with holes anywhere: what is told is right or unknown.
    #[test]
    fn what_is_cut_anywhere_is_right_or_unknown(
        starts in (0.0..1.0_f64, 0.0..1.0_f64),
        holes in prop::collection::vec((0.0..1.0_f64, 1..200_usize, any::<bool>()), 0..4),
        length in 1..400_usize,
        by_frames in any::<bool>(),
        with_loona in any::<bool>(),
    ) {
        let sides = connection(if with_loona { loona } else { httlib }, 40);
        let (mut http, mut log) = (Http2::new(), Log::default());
        for (side, frames, start) in [(Side::Request, &sides[0], starts.0), (Side::Response, &sides[1], starts.1)] {
            let bytes = frames.concat();
            let start = (bytes.len() as f64 * start) as usize;
            let mut ends: Vec<usize> = frames.iter().scan(0, |at, frame| { *at += frame.len(); Some(*at) }).collect();
            if !by_frames {
                ends = (start..bytes.len()).step_by(length).skip(1).chain([bytes.len()]).collect();
            }
            let missing: Vec<(usize, usize)> = holes.iter()
                .filter(|(.., of_request)| *of_request == (side == Side::Request))
                .map(|(at, len, _)| { let at = (bytes.len() as f64 * at) as usize; (at, at + len) })
                .collect();
            let is_missing = |at: usize| missing.iter().any(|(from, to)| (*from..*to).contains(&at));
            let mut at = start;
            for end in ends.into_iter().filter(|end| *end > start) {
                while at < end {
                    let gap = (at..end).take_while(|place| is_missing(*place)).count();
                    http.gap(side, NOW, gap as u64, &mut log);
                    at += gap;
                    let seen = (at..end).take_while(|place| !is_missing(*place)).count();
                    http.push(side, NOW, &bytes[at..at + seen], &mut log);
                    at += seen;
                }
            }
        }
        for (stream, seen) in &log.streams {
            assert_right_or_unknown(seen, &truth((*stream as u32 - 1) / 2));
        }
    }

    /// No bytes do harm.
    #[test]
    fn any_bytes_are_read_without_harm(
        pieces in prop::collection::vec((any::<bool>(), prop::collection::vec(any::<u8>(), 0..60), 0..9_u64), 0..30),
        begins in any::<bool>(),
    ) {
        let (mut http, mut log) = (Http2::new(), Log::default());
        if begins {
            http.push(Side::Request, NOW, PREFACE, &mut log);
        }
        for (is_request, bytes, gap) in pieces {
            let side = if is_request { Side::Request } else { Side::Response };
            http.gap(side, NOW, gap, &mut log);
            http.push(side, NOW, &bytes, &mut log);
        }
    }
}
