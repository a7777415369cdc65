//! Bad input: whatever comes, nothing panics, memory is bounded, and what is not understood is counted.
//!
//! Memory is what was allocated, by an allocator that counts; zstd's own is in [`Engine::memory`].

use std::io::Write;

use allocation_counter::{AllocationInfo, measure};
use flate2::Compression;
use flate2::write::GzEncoder;
use hbpf_core::chunk::{Capture, Chunk, Close, ConnectionKey, Direction, Origin, Pid, Source, Verdict};
use hbpf_core::engine::{Engine, Observer};
use hbpf_core::exchange::{Exchange, ExchangeEvent, Phase};
use hbpf_core::time::Nanos;

const MIB: u64 = 1024 * 1024;
const PIECE: usize = 16 * 1024;

/// Keeps nothing but counts and the last exchange that ended.
#[derive(Default)]
struct Tally {
    opened: u64,
    ended: u64,
    outputs: u64,
    last: Option<Box<Exchange>>,
}

impl Observer for Tally {
    fn exchange(&mut self, _: Nanos, exchange: &Exchange, event: ExchangeEvent) {
        match event {
            ExchangeEvent::Opened => self.opened += 1,
            ExchangeEvent::Output { .. } => self.outputs += 1,
            ExchangeEvent::Ended => {
                self.ended += 1;
                self.last = Some(Box::new(exchange.clone()));
            }
            ExchangeEvent::RequestSent | ExchangeEvent::Headers | ExchangeEvent::Stalled { .. } => {}
        }
    }
    fn verdict(&mut self, _: Verdict) {}
    fn learned(&mut self, _: &str) {}
    fn owner_wanted(&mut self, _: ConnectionKey, _: &Origin) {}
}

/// A connection of one process, seen at its TLS library.
struct Wire {
    key: ConnectionKey,
    origin: Origin,
    offsets: [u64; 2],
    message: u32,
    now: u64,
}

impl Wire {
    fn new(handle: u64) -> Self {
        let key = ConnectionKey { source: Source::Tls, pid: 7, handle, generation: 1 };
        let origin = Origin { pid: Some(Pid(7)), owner_is_certain: true, ..Origin::default() };
        Self { key, origin, offsets: [0; 2], message: 0, now: 1_000_000 }
    }

    fn send(&mut self, engine: &mut Engine, tally: &mut Tally, direction: Direction, bytes: &[u8], begins: bool) {
        self.now += 1000;
        self.message += u32::from(begins);
        let chunk = Chunk {
            when: Nanos(self.now),
            connection: self.key,
            origin: &self.origin,
            direction,
            offset: self.offsets[direction.index()],
            original_len: bytes.len() as u64,
            bytes,
            message: self.message,
            begins_message: begins,
            capture: Capture::Positive,
            follows_thinning: false,
            ends_stream: false,
        };
        engine.chunk(&chunk, tally);
        self.offsets[direction.index()] += bytes.len() as u64;
    }

    fn request(&mut self, engine: &mut Engine, tally: &mut Tally, bytes: &[u8]) {
        self.send(engine, tally, Direction::Sent, bytes, true);
    }

    fn answer(&mut self, engine: &mut Engine, tally: &mut Tally, bytes: &[u8]) {
        for piece in bytes.chunks(PIECE) {
            self.send(engine, tally, Direction::Received, piece, false);
        }
    }

    fn close(&mut self, engine: &mut Engine, tally: &mut Tally) {
        engine.close(self.key, Close::Released, Nanos(self.now), tally);
    }
}

fn call(body: &str) -> Vec<u8> {
    let length = body.len();
    format!("POST /v1/chat/completions HTTP/1.1\r\nHost: llm\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}")
        .into_bytes()
}

fn chat() -> Vec<u8> {
    call(r#"{"model":"m","stream":true,"messages":[]}"#)
}

const SSE_HEAD: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";

/// Runs a conversation and gives what it allocated.
fn memory_of(talk: impl FnOnce(&mut Engine, &mut Tally)) -> (Engine, Tally, AllocationInfo) {
    let (mut engine, mut tally) = (Engine::new(), Tally::default());
    let info = measure(|| talk(&mut engine, &mut tally));
    assert!(engine.memory() as u64 <= 64 * MIB);
    (engine, tally, info)
}

#[test]
fn header_lines_of_ten_megabytes_are_no_heads() {
    let line = vec![b'x'; PIECE];
    for direction in [Direction::Sent, Direction::Received] {
        let (engine, tally, info) = memory_of(|engine, tally| {
            let mut wire = Wire::new(1);
            wire.request(engine, tally, &chat());
            if direction == Direction::Sent {
                wire.answer(engine, tally, b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
                wire.request(engine, tally, b"POST /v1/chat/completions HTTP/1.1\r\nX: ");
            } else {
                wire.answer(engine, tally, b"HTTP/1.1 200 OK\r\nX: ");
            }
            for _ in 0..10 * MIB as usize / PIECE {
                wire.send(engine, tally, direction, &line, false);
            }
            wire.close(engine, tally);
        });
        assert!(info.bytes_max < MIB, "{direction:?}: {info:?}");
        assert_eq!((tally.opened, tally.ended), (1, 1));
        assert!(engine.counters().desyncs > 0, "{direction:?} is counted");
    }
}

#[test]
fn bombs_are_cut_off_and_marked() {
    let zeros = vec![b' '; PIECE];
    let pieces = 80 * MIB as usize / PIECE;
    let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
    let mut zstd = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
    let mut brotli = brotli::CompressorWriter::new(Vec::new(), PIECE, 1, 22);
    for _ in 0..pieces {
        gzip.write_all(&zeros).unwrap();
        zstd.write_all(&zeros).unwrap();
        brotli.write_all(&zeros).unwrap();
    }
    for (coding, bomb) in
        [("gzip", gzip.finish().unwrap()), ("zstd", zstd.finish().unwrap()), ("br", brotli.into_inner())]
    {
        let (engine, tally, info) = memory_of(|engine, tally| {
            let mut wire = Wire::new(1);
            wire.request(engine, tally, &chat());
            let head = format!(
                "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Encoding: {coding}\r\nContent-Length: {}\r\n\r\n",
                bomb.len()
            );
            wire.answer(engine, tally, head.as_bytes());
            wire.answer(engine, tally, &bomb);
        });
        assert!(info.bytes_max < 16 * MIB, "{coding}: {info:?}");
        let exchange = tally.last.unwrap();
        assert!(exchange.bytes_missed > 0 && engine.counters().parse_gaps == 1, "{coding}: {exchange:?}");
        assert_eq!(exchange.usage.output, None);
    }
}

#[test]
fn event_streams_of_nonsense_hold_no_memory() {
    let prelude = |all: u32, headers: u32| {
        let lengths = [all.to_be_bytes(), headers.to_be_bytes()].concat();
        [&lengths[..], &crc32fast::hash(&lengths).to_be_bytes()].concat()
    };
    let cases = [
        ("nothing like it", vec![]),
        ("a payload that never ends", prelude(24 << 20, 0)),
        ("headers without end", prelude(1 << 20, 128 << 10)),
        ("a text in base64 that never ends", [&prelude(24 << 20, 0)[..], br#"{"bytes":""#].concat()),
    ];
    for filler in [b'A', 0] {
        for (name, begins) in &cases {
            let body = [&begins[..], &vec![filler; 2 * MIB as usize]].concat();
            let (engine, tally, info) = memory_of(|engine, tally| {
                let mut wire = Wire::new(1);
                let request = String::from_utf8(call("{}")).unwrap();
                let path = "/model/anthropic.x/invoke-with-response-stream";
                wire.request(engine, tally, request.replace("/v1/chat/completions", path).as_bytes());
                let head = "HTTP/1.1 200 OK\r\nContent-Type: application/vnd.amazon.eventstream\r\n\r\n";
                wire.answer(engine, tally, head.as_bytes());
                wire.answer(engine, tally, &body);
                wire.close(engine, tally);
            });
            assert!(info.bytes_max < MIB, "{name}: {info:?}");
            let exchange = tally.last.unwrap();
            assert_eq!((exchange.output_events, exchange.usage.output), (0, None), "{name}");
            // What is only cut is no loss of ours.
            let is_marked = exchange.bytes_missed > 0 && engine.counters().parse_gaps == 1;
            assert_eq!(is_marked, begins.is_empty() || name.starts_with("headers"), "{name}");
        }
    }
}

#[test]
fn json_nested_a_hundred_thousand_deep_is_read_without_a_stack() {
    const DEPTH: usize = 100_000;
    for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
        let nested = format!("{}1{}", open.repeat(DEPTH), close.repeat(DEPTH));
        let (_, tally, info) = memory_of(|engine, tally| {
            let mut wire = Wire::new(1);
            wire.request(engine, tally, &call(&format!(r#"{{"messages":{nested},"model":"m"}}"#)));
            let body = format!(r#"{{"choices":{nested},"usage":{{"prompt_tokens":1,"completion_tokens":2}}}}"#);
            let head =
                format!("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n", body.len());
            wire.answer(engine, tally, head.as_bytes());
            wire.answer(engine, tally, body.as_bytes());
        });
        let exchange = tally.last.unwrap();
        assert_eq!((exchange.usage.output, exchange.phase), (Some(2), Phase::Done));
        // Texts of the conversation are among it.
        assert!(info.bytes_max < 8 * MIB, "{info:?}");
    }
}

#[test]
fn invalid_utf8_is_replaced() {
    let (_, tally, _) = memory_of(|engine, tally| {
        let mut wire = Wire::new(1);
        let mut request = call(r#"{"model":"mm","messages":[]}"#);
        let at = request.windows(2).rposition(|pair| pair == b"mm").unwrap();
        request[at] = 0xff;
        wire.request(engine, tally, &request);
        wire.answer(engine, tally, b"HTTP/1.1 200 \xff\xfe\r\nX-Request-Id: \xc3\x28\r\nContent-Length: 2\r\n\r\n{}");
    });
    let exchange = tally.last.unwrap();
    assert_eq!(exchange.model.unwrap().as_str(), "\u{fffd}m");
    assert_eq!(exchange.request_id, None);
}

#[test]
fn a_request_that_never_ends_takes_no_memory() {
    let body = vec![b'a'; PIECE];
    let (engine, tally, info) = memory_of(|engine, tally| {
        let mut wire = Wire::new(1);
        let head = b"POST /v1/chat/completions HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffff\r\n{\"messages\":\"";
        wire.request(engine, tally, head);
        for _ in 0..100 * MIB as usize / PIECE {
            wire.send(engine, tally, Direction::Sent, &body, false);
        }
    });
    assert!(info.bytes_max < MIB, "{info:?}");
    assert_eq!((tally.opened, tally.ended, engine.in_flight().count()), (1, 0, 1));
}

#[test]
fn random_bytes_take_no_memory() {
    let mut seed = 1_u64;
    let mut noise = vec![0; PIECE];
    let (engine, tally, info) = memory_of(|engine, tally| {
        let mut wire = Wire::new(1);
        for round in 0..2000 {
            for byte in &mut noise {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                *byte = (seed >> 56) as u8;
            }
            let direction = if round % 3 == 0 { Direction::Sent } else { Direction::Received };
            wire.send(engine, tally, direction, &noise, round % 3 == 0);
        }
        wire.close(engine, tally);
    });
    assert!(info.bytes_max < MIB, "{info:?}");
    assert_eq!(tally.opened, 0);
    assert!(engine.counters().desyncs > 0);
}

#[test]
fn fifty_thousand_idle_connections_take_what_is_stated() {
    let (engine, _, info) = memory_of(|engine, tally| {
        for handle in 0..50_000 {
            let mut wire = Wire::new(handle);
            wire.request(engine, tally, &chat());
            wire.answer(engine, tally, b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}");
        }
        engine.tick(Nanos(2_000_000), tally);
    });
    assert!(info.bytes_current < 100 * MIB as i64, "{info:?}");
    assert!(engine.memory() < 50_000 * 128, "an idle connection holds next to nothing: {}", engine.memory());
}

#[test]
fn ten_thousand_short_connections_a_second_leave_nothing_behind() {
    let (mut engine, mut tally) = (Engine::new(), Tally::default());
    let mut second = |engine: &mut Engine, start: u64| {
        for number in 0..10_000 {
            let mut wire = Wire::new(number);
            wire.now = start + number * 100_000;
            wire.request(engine, &mut tally, &chat());
            wire.answer(engine, &mut tally, b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}");
            wire.close(engine, &mut tally);
            if number % 1000 == 0 {
                engine.tick(Nanos(wire.now), &mut tally);
            }
        }
        // Heads are remembered for some seconds, to be paired with their other ends.
        engine.tick(Nanos(start + 60_000_000_000), &mut tally);
    };
    second(&mut engine, 0);
    let info = measure(|| second(&mut engine, 100_000_000_000));
    assert!(info.bytes_current.unsigned_abs() < MIB / 8, "{info:?}");
    assert!(engine.is_idle() && engine.memory() == 0);
    assert_eq!((tally.opened, tally.ended), (20_000, 20_000));
}

#[test]
fn all_together_stay_below_the_budget_and_what_is_dropped_is_counted() {
    const BUDGET: usize = 4 * MIB as usize;
    let (mut engine, mut tally) = (Engine::with_memory(BUDGET), Tally::default());
    let half_a_head = [b"HTTP/1.1 200 OK\r\nX: ".to_vec(), vec![b'x'; PIECE]].concat();
    let mut wires: Vec<_> = (0..2000).map(Wire::new).collect();
    let info = measure(|| {
        for wire in &mut wires {
            wire.request(&mut engine, &mut tally, &chat());
            wire.answer(&mut engine, &mut tally, &half_a_head);
            assert!(engine.memory() <= BUDGET);
        }
    });
    assert!(info.bytes_max < 2 * BUDGET as u64 + 8 * MIB, "bookkeeping of connections comes to it: {info:?}");
    let counters = engine.counters();
    assert!(counters.over_budget > 0 && counters.parse_gaps > 0, "{counters:?}");
    // Those that lost their buffers say so, and the next message of each is read.
    for wire in &mut wires {
        wire.answer(&mut engine, &mut tally, b"\r\nContent-Length: 0\r\n\r\n");
        wire.request(&mut engine, &mut tally, &chat());
        wire.answer(&mut engine, &mut tally, b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}");
        let last = tally.last.as_ref().unwrap();
        assert_eq!((last.status, last.bytes_missed), (Some(200), 0));
    }
    assert_eq!(tally.opened, tally.ended);
}

#[test]
fn a_steady_stream_allocates_nothing() {
    let event = b"data: {\"id\":\"x\",\"model\":\"m\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"hi\"}}]}\n\n";
    let chunked = [format!("{:x}\r\n", event.len()).as_bytes(), event, b"\r\n"].concat();
    let line = b"{\"model\":\"m\",\"message\":{\"role\":\"assistant\",\"content\":\"hi\"},\"done\":false}\n".to_vec();
    let json = [b"{\"choices\":[{\"message\":{\"content\":\"".to_vec(), vec![b'a'; 4000]].concat();
    let plain = |kind: &str| format!("HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\n\r\n").into_bytes();
    let cases = [
        ("chunked events", SSE_HEAD.to_vec(), chunked),
        ("events until the end", plain("text/event-stream"), event.to_vec()),
        ("lines", plain("application/x-ndjson"), line),
        ("a long document", plain("application/json"), json),
    ];
    for (name, head, piece) in cases {
        let (mut engine, mut tally) = (Engine::new(), Tally::default());
        let mut wire = Wire::new(1);
        wire.request(&mut engine, &mut tally, &chat());
        wire.answer(&mut engine, &mut tally, &head);
        let mut run = |count| (0..count).for_each(|_| wire.answer(&mut engine, &mut tally, &piece));
        run(10);
        let info = measure(|| run(1000));
        assert_eq!(info.count_total, 0, "{name}: {info:?}");
        assert!(name == "a long document" || name == "lines" || tally.outputs > 1000, "{name}");
    }
}

#[test]
fn a_steady_compressed_stream_allocates_nothing() {
    let event = "data: {\"id\":\"x\",\"model\":\"m\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"hi\"}}]}\n\n";
    for coding in ["gzip", "zstd"] {
        let mut pieces: Vec<Vec<u8>> = Vec::new();
        let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
        let mut zstd = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
        for _ in 0..1010 {
            let written = if coding == "gzip" {
                gzip.write_all(event.as_bytes()).unwrap();
                gzip.flush().unwrap();
                std::mem::take(gzip.get_mut())
            } else {
                zstd.write_all(event.as_bytes()).unwrap();
                zstd.flush().unwrap();
                std::mem::take(zstd.get_mut())
            };
            pieces.push(written);
        }
        let (mut engine, mut tally) = (Engine::new(), Tally::default());
        let mut wire = Wire::new(1);
        wire.request(&mut engine, &mut tally, &chat());
        let head = format!("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Encoding: {coding}\r\n\r\n");
        wire.answer(&mut engine, &mut tally, head.as_bytes());
        let mut run = |pieces: &[Vec<u8>]| pieces.iter().for_each(|piece| wire.answer(&mut engine, &mut tally, piece));
        run(&pieces[..10]);
        let info = measure(|| run(&pieces[10..]));
        assert_eq!((info.count_total, tally.outputs), (0, 1010), "{coding}: {info:?}");
    }
}
