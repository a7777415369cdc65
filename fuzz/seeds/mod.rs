//! What fuzzing starts from: real streams, taken from the tables that the parsers' own tests use.

use std::io::Write;

use flate2::Compression;
use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};
use hbpf_core::inference::Place;
use hbpf_ebpf::{RecordHeader, direction, flags, kind, source};
use hbpf_fuzz::with_controls;
use hbpf_host::protocol::{Group, Others, Question, Request, Suspect};

use super::streams::{ALL, Case, XAI_CHUNKS, XAI_REQUEST, XAI_WHOLE, from_hex};

/// Control bytes that cut the payload into pieces of all sizes.
const PIECES: &[u8] = &[1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 144, 233, 1, 1, 1, 7, 64];

/// A number of the controls, as small as a byte.
const fn small(value: u8) -> [u8; 5] {
    [0, value, 0, 0, 0]
}

/// A number of the controls of 16 bits.
fn number(value: usize) -> [u8; 5] {
    let [low, high] = u16::try_from(value).unwrap_or(u16::MAX).to_le_bytes();
    [0, low, high, 0, 0]
}

/// The seeds of a target.
///
/// # Panics
///
/// If there is no such target.
pub(super) fn seeds(target: &str) -> Vec<Vec<u8>> {
    let each = |seed: &dyn Fn(&Case) -> Vec<u8>| ALL.iter().map(seed).collect::<Vec<_>>();
    match target {
        "body" => bodies(),
        "chunked" => each(&|case| with_controls(PIECES, &chunks(&case.bytes()))),
        "dialect" => each(&dialect).into_iter().chain([xai()]).collect(),
        "durations" => {
            texts(&["2s", "500ms", "2", "0.25", "1m 30s", "1h", "-1", "NaN", "1e300", "99999999999999999999s"])
        }
        "elf" => own_binary(),
        "engine" => each(&engine).into_iter().chain([engine_with_socket(), engine_with_stdio()]).collect(),
        "grpc" => grpc(),
        "head" => each(&|case| [request_head(case), answer_head(case, true)].concat())
            .into_iter()
            .chain(each(&|case| answer_head(case, false)))
            .chain(texts(&HEADS))
            .collect(),
        "http1" => each(&|case| http1(case, 0)).into_iter().chain(each(&|case| http1(case, 1))).collect(),
        "http2" => each(&|case| http2(case, 0)).into_iter().chain(each(&|case| http2(case, 1))).collect(),
        "inference" => ANSWERS
            .iter()
            .map(|(choice, text)| with_controls(&[&[*choice], PIECES].concat(), text.as_bytes()))
            .collect(),
        "json" => each(&|case| {
            with_controls(&[&number(case.request.len() / 2)[..], PIECES].concat(), case.request.as_bytes())
        })
        .into_iter()
        .chain(each(&|case| with_controls(&number(case.bytes().len() / 2), &case.bytes())))
        .chain(texts(&DOCUMENTS).into_iter().map(|text| with_controls(&small(9), &text)))
        .collect(),
        "judge" => each(&request).into_iter().chain([socket_head().into_bytes()]).collect(),
        "label" => texts(&["gpt-4o", "\u{1b}]52;c;x\u{7}", "\u{202e}\u{2066}\u{200b}é", "<script>alert(1)</script>"]),
        "eventstream" | "ndjson" | "sse" => each(&|case| {
            with_controls(&[&number(case.bytes().len() / 3)[..], &small(40), PIECES].concat(), &case.bytes())
        }),
        "proc" => texts(&FILES),
        "protocol" => protocol(),
        "reassembly" => each(&|case| with_controls(SEGMENTS, &[&case.bytes(), case.request.as_bytes()].concat())),
        "fleet" => {
            // The same to every query, which each takes from it what it knows; and some that are none.
            let labels = |number: usize| {
                format!(
                    r#"{{"instance":"host-{number}","role":"client","provider":"openai","model":"m{number}","workload":"w","namespace":"n","pod":"p","endpoint":"api.openai.com:443","api":"chat","rule":"blind","severity":"critical","gpu":"0","uuid":"GPU-1","name":"H\u001b[2J200","engine":"vllm","group":"llm-tls","cause":"ring_full","state":"on","resource":"cpu","type":"output","outcome":"completed","status":"200","part":"count","le":"0.5","hbpf":"x","__name__":"hbpf_llm_requests_total"}}"#
                )
            };
            let row = |number| format!(r#"{{"metric":{},"value":[1796079121.4,"{number}.5"]}}"#, labels(number));
            let rows = (0..3).map(row).collect::<Vec<_>>().join(",");
            let vector = format!(r#"{{"status":"success","data":{{"resultType":"vector","result":[{rows}]}}}}"#);
            let refused = r#"{"status":"error","errorType":"bad_data","error":"parse error"}"#;
            vec![
                vec![vector.as_str(); 40].join("\n").into_bytes(),
                [refused, &vector, "<html>"].join("\n").into_bytes(),
            ]
        }
        "recording" => {
            let lines: Vec<&str> = include_str!("../../demos/recording.ndjson").lines().step_by(9).collect();
            // Two of them are what can be reported.
            lines.iter().map(|line| (*line).into()).chain([lines[..2].join("\n").into_bytes()]).collect()
        }
        "records" => each(&records),
        "websocket" => (0..16).map(websocket).collect(),
        _ => panic!("no seeds for {target}"),
    }
}

fn texts(texts: &[&str]) -> Vec<Vec<u8>> {
    texts.iter().map(|text| text.as_bytes().to_vec()).collect()
}

const HEADS: [&str; 5] = [
    "POST /v1/messages?beta=true HTTP/1.1\r\nHost: [::1]:8080\r\nanthropic-version: 2026-10-21\r\ntraceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\nx-stainless-retry-count: 2\r\nExpect: 100-continue\r\n\r\n",
    "HTTP/1.1 429 Too Many Requests\r\nretry-after: Sun, 06 Nov 1994 08:49:37 GMT\r\nDate: Sun, 06 Nov 1994 08:49:07 GMT\r\nretry-after-ms: 1500\r\n\r\n",
    "HTTP/1.1 200 OK\r\nx-request-id: req_1\r\nx-ratelimit-remaining-tokens: 9\r\nx-ratelimit-reset-tokens: 1h2m3.5s\r\nanthropic-ratelimit-requests-reset: 2026-11-22T20:00:00Z\r\n\r\n",
    "HTTP/1.1 200 \r\nServer: llama.cpp\r\nX:\r\n folded\r\nContent-Length: 5, 5\r\n\r\n",
    "CONNECT host:443 HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\nContent-Length: 3\r\n\r\n",
];

const DOCUMENTS: [&str; 4] = [
    r#"{"model":"a\"b\\","a":[[{"b":1e3}],[{"b":null}]],"eval_count":-0.5,"done":true}"#,
    r#"{"choices":[{"delta":{"content":"\ud83d\ude00\u0000"},"finish_reason":"stop"}],"usage":{"prompt_tokens":9}}"#,
    r#"{"x":"\",\"eval_count\":7}","y":[[[[[[[[[[[[[[{}]]]]]]]]]]]]]],"usage":{}}"#,
    "\u{feff} [1, 2, {\"model\": \"m\"}] ",
];

/// Which place was asked (`Place::ALL`), from 128 on with a head of its own, and the answer.
const ANSWERS: [(u8, &str); 6] = [
    (0, include_str!("../../hbpf-core/src/inference/answers/llama_cpp_metrics.txt")),
    (1, include_str!("../../hbpf-core/src/inference/answers/litellm_metrics.txt")),
    (3, include_str!("../../hbpf-core/src/inference/answers/llama_cpp_slots.json")),
    (4, include_str!("../../hbpf-core/src/inference/answers/llama_cpp_props.json")),
    (
        2,
        r#"{"models":[{"name":"m","size":5,"size_vram":3,"expires_at":"2026-11-29T10:12:35.5-07:00","context_length":9}]}"#,
    ),
    (
        130,
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n30\r\nvllm:prompt_tokens_total{engine=\"0\"} 5\nvllm:x 1\n\r\n0\r\n\r\n",
    ),
];

const FILES: [&str; 10] = [
    "7 (a) b (x) S 3 1 1 0 -1 4194304 9 9 9 9 30 12 5 5 20 0 3 0 1000 5000 250 18446744073709551615 4096 8192 12288 0 0\n",
    "Name:\tx\nUmask:\t0022\nUid:\t1000\t1000\t1000\t1000\nGid:\t1\t1\t1\t1\n",
    "7f1c2a000000-7f1c2a0a0000 r-xp 00020000 fe:1f 4711                       /lib/a b\\012c/libssl.so.3 (deleted)\n",
    "36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - fuse.sshfs /dev/root rw,errors=continue\n",
    "   3: 0100007F:1F90 0200000A:C350 01 00000000:00000000 00:00000000 00000000  1000        0 4711 1 0 20 4\n",
    "1: 0000000000000000FFFF00000100007F:1F90 0000000000000000FFFF00000200000A:C350 0A 0:0 0:0 0 0 0 4712 1\n",
    "root:x:0:0:root:/root:/bin/sh\n#a:x:5:\n",
    "cpu  1 2 3 4 5 6 7 8 9 10\ncpu0 1 2 3 4 5 6 7 8 9 10\nMemTotal: 100 kB\nMemAvailable: 50 kB\n",
    "some avg10=0.12 avg60=0.00 avg300=0.00 total=1\n",
    "python3\0\0\0\0\0\0\0\0\0/usr/bin/python3\0-m\0vllm.entrypoints\0--api-key\0sk-abcdefghijklmnopqrstuvwxyz\0",
];

/// A stream of 8 KiB or less: segments one after the other, twice, out of order, with an end.
const SEGMENTS: &[u8] = &[
    8, 1, 2, 3, 4, 31, 1, 0, 0, 0, // first sequence numbers
    0x45, 1, 0, 0, 0, 0, 0, 0, 100, 0, 0, 0, 0, 0, 0, 0, 0, // first bytes
    0x45, 1, 0, 200, 0, 0, 0, 0, 100, 0, 0, 0, 0, 0, 0, 0, 0, // behind a hole
    0x45, 1, 0, 100, 0, 0, 0, 0, 100, 0, 0, 0, 0, 0, 0, 0, 0, // the hole
    0x45, 1, 0, 50, 0, 0, 0, 0, 200, 0, 0, 0, 0, 0, 0, 0, 0, // again
    0x55, 1, 0, 0, 0, 0, 0, 0, 80, 0, 0, 0, 0, 30, 0, 0, 0, // the other direction
    0xd5, 1, 0, 80, 0, 0, 0, 0, 255, 255, 0, 0, 0, 30, 0, 0, 0, // and its end
    0x05, 255, 0, 255, 3, 0, 0, 0, 255, 255, 0, 0, 0, 0, 0, 0, 0, // the rest
];

fn request_head(case: &Case) -> Vec<u8> {
    use hbpf_core::exchange::Dialect;
    let path = match case.dialect {
        Dialect::OpenaiChat => "/v1/chat/completions",
        Dialect::OpenaiCompletions => "/v1/completions",
        Dialect::OpenaiEmbeddings => "/v1/embeddings",
        Dialect::AnthropicMessages => "/v1/messages",
        Dialect::Ollama => "/api/chat",
        Dialect::OpenaiResponses => "/v1/responses",
        Dialect::OpenaiRealtime => "/v1/realtime",
        Dialect::BedrockConverse => "/model/m.x-v1%3A0/converse-stream",
        Dialect::BedrockInvoke => "/model/m.x-v1%3A0/invoke-with-response-stream",
        Dialect::XaiGrpc => "/xai_api.Chat/GetCompletionChunk",
        Dialect::CohereChat => "/v2/chat",
        Dialect::GeminiGenerate => "/v1beta/models/m:streamGenerateContent",
        Dialect::GeminiInteractions => "/v1beta/interactions",
        Dialect::OpenaiImages => "/v1/images/generations",
        Dialect::OpenaiAudio => "/v1/audio/speech",
        Dialect::MistralConversations => "/v1/conversations",
        Dialect::Triton => "/v2/models/m/versions/1/generate_stream",
        Dialect::Tgi => "/generate_stream",
        Dialect::Sglang => "/generate",
        Dialect::LlamaCpp => "/completion",
        Dialect::LmStudio => "/api/v1/chat",
        Dialect::Mcp => "/mcp",
        Dialect::Custom => unreachable!("a user describes it"),
    };
    let length = case.request.len();
    format!("POST {path} HTTP/1.1\r\nHost: localhost:8000\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n")
        .into_bytes()
}

fn request(case: &Case) -> Vec<u8> {
    [&request_head(case)[..], case.request.as_bytes()].concat()
}

fn answer_head(case: &Case, chunked: bool) -> Vec<u8> {
    let framing = if chunked {
        "Transfer-Encoding: chunked".to_owned()
    } else {
        format!("Content-Length: {}", case.bytes().len())
    };
    let kind = case.content_type.unwrap_or("text/plain");
    format!("HTTP/1.1 {} OK\r\nContent-Type: {kind}\r\n{framing}\r\n\r\n", case.status).into_bytes()
}

fn chunks(body: &[u8]) -> Vec<u8> {
    let mut all: Vec<u8> =
        body.chunks(61).flat_map(|part| [format!("{:x}\r\n", part.len()).as_bytes(), part, b"\r\n"].concat()).collect();
    all.extend_from_slice(b"0\r\n\r\n");
    all
}

fn answer(case: &Case) -> Vec<u8> {
    [answer_head(case, true), chunks(&case.bytes())].concat()
}

fn http1(case: &Case, kind: u8) -> Vec<u8> {
    let (request, answer) = (request(case), answer(case));
    let controls = if kind == 0 {
        [&[0][..], &number(request.len()), PIECES].concat()
    } else {
        let half = number(request.len() / 2);
        [&[1, 4][..], &[8], &half, &[8], &half, &[9], &number(answer.len() / 2), &[1], &small(20), &[9], &number(4000)]
            .concat()
    };
    with_controls(&controls, &[request, answer].concat())
}

/// One stream: `POST` to `/v1/chat/completions`, and an answer with status 200.
fn http2(case: &Case, kind: u8) -> Vec<u8> {
    let frame = |frame_kind: u8, flags: u8, payload: &[u8]| {
        let length = (payload.len() as u32).to_be_bytes();
        [&length[1..], &[frame_kind, flags, 0, 0, 0, 1], payload].concat()
    };
    let path = b"/v1/chat/completions";
    let head = [&[0x83, 0x87, 0x44, path.len() as u8][..], path, &[0x5f, 16], b"application/json"].concat();
    let request = [frame(1, 4, &head), frame(0, 1, case.request.as_bytes())].concat();
    let answer = [frame(1, 4, &[0x88, 0x5f, 4, b't', b'e', b'x', b't']), frame(0, 1, &case.bytes())].concat();
    let controls = if kind == 0 {
        [&[0][..], &number(request.len()), PIECES].concat()
    } else {
        [&[1, 6][..], &[8], &number(request.len()), &[9], &number(answer.len() / 2), &[1], &small(20)].concat()
    };
    with_controls(&controls, &[request, answer].concat())
}

fn dialect(case: &Case) -> Vec<u8> {
    let place = hbpf_core::dialect::all().position(|dialect| dialect == case.dialect);
    let dialect = place.expect("every dialect is fuzzed") as u8;
    let kind = match case.content_type {
        Some("text/event-stream") => 1,
        Some("application/json") => 2,
        Some("application/x-ndjson") => 3,
        Some("application/vnd.amazon.eventstream") => 4,
        _ => 0,
    };
    let status = if case.status >= 400 { 3 } else { 0 };
    let controls =
        [&[dialect, kind, status][..], &number(case.request.len()), &[255, 200, 9, 255, 255, 60, 255]].concat();
    with_controls(&controls, &[case.request.as_bytes(), &case.bytes()].concat())
}

/// Messages of gRPC.
fn xai() -> Vec<u8> {
    let (request, answer) = (from_hex(XAI_REQUEST), from_hex(&XAI_CHUNKS.concat()));
    let controls = [&[7, 5, 0][..], &number(request.len()), &[255, 200, 9, 255, 255, 60, 255]].concat();
    with_controls(&controls, &[request, answer].concat())
}

/// The same messages, plain and compressed in each way.
fn grpc() -> Vec<Vec<u8>> {
    let level = Compression::default();
    let write = "memory takes all bytes";
    let compress = |coding: u8, bytes: &[u8]| -> Vec<u8> {
        match coding {
            1 => {
                let mut gzip = GzEncoder::new(Vec::new(), level);
                gzip.write_all(bytes).expect(write);
                gzip.finish().expect(write)
            }
            2 => {
                let mut zlib = ZlibEncoder::new(Vec::new(), level);
                zlib.write_all(bytes).expect(write);
                zlib.finish().expect(write)
            }
            3 => zstd::stream::encode_all(bytes, 3).expect(write),
            _ => bytes.to_vec(),
        }
    };
    let messages = [&[XAI_REQUEST, XAI_WHOLE], &XAI_CHUNKS[..]].map(|messages| messages.to_vec()).concat();
    let seed = |coding: u8, where_from: usize| {
        let frames = messages.iter().map(|message| {
            let message = compress(coding, &from_hex(message)[5..]);
            [&[u8::from(coding > 0)][..], &(message.len() as u32).to_be_bytes(), &message].concat()
        });
        let controls = [&[coding][..], &number(where_from), &small(12), &[0], PIECES].concat();
        with_controls(&controls, &frames.collect::<Vec<_>>().concat())
    };
    (0..4).flat_map(|coding| [10, 60, 200].map(|from| seed(coding, from))).collect()
}

fn engine(case: &Case) -> Vec<u8> {
    let (request, answer) = (request(case), answer(case));
    // A TLS connection and a TCP one; then the answers, in two pieces, of which one has a hole before it.
    let piece = |index: u8, flags: u8, length: usize| [&[20 + index, 1, flags][..], &number(length)].concat();
    let half = answer.len() / 2;
    let controls = [
        piece(0, 2, request.len()),
        piece(0, 1, half),
        piece(0, 1, answer.len() - half),
        piece(1, 2 | 16, request.len()),
        piece(1, 1, half),
        piece(1, 1 | 4, answer.len() - half),
        small(30).to_vec(),
        vec![4, 0, 12, 255, 0, 1],
    ]
    .concat();
    with_controls(&controls, &[&request[..], &answer, &request, &answer].concat())
}

/// What a client and a server say of one call.
const ASKS: &str = r#"{"type":"response.create","model":"m","input":[{"role":"user","content":"text text text"}]}"#;
const SAYS: [&str; 3] = [
    r#"{"type":"response.created","response":{"id":"r","status":"in_progress","model":"m-1","usage":null}}"#,
    r#"{"type":"response.output_text.delta","item_id":"i","delta":"text"}"#,
    r#"{"type":"response.completed","response":{"id":"r","status":"completed","usage":{"input_tokens":9,"output_tokens":1}}}"#,
];

/// A message in one frame, or in two with a ping between; compressed, where there is a compressor.
fn frames(text: &str, masked: bool, in_parts: bool, deflate: Option<&mut flate2::Compress>) -> Vec<u8> {
    let mut payload = text.as_bytes().to_vec();
    let first = if let Some(deflate) = deflate {
        payload = Vec::with_capacity(text.len() + 64);
        deflate.compress_vec(text.as_bytes(), &mut payload, flate2::FlushCompress::Sync).expect("there is room");
        payload.truncate(payload.len() - 4);
        0x41
    } else {
        0x01
    };
    let frame = |first: u8, payload: &[u8]| {
        let mut frame = vec![first, payload.len().min(126) as u8 | u8::from(masked) << 7];
        if payload.len() >= 126 {
            frame.extend((payload.len() as u16).to_be_bytes());
        }
        let mask = if masked { [1, 2, 3, 4] } else { [0; 4] };
        if masked {
            frame.extend(mask);
        }
        frame.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
        frame
    };
    if in_parts {
        let (one, other) = payload.split_at(payload.len() / 2);
        [frame(first, one), frame(0x89, b"ping"), frame(0x80, other)].concat()
    } else {
        frame(first | 0x80, &payload)
    }
}

/// Two calls; the bits say as the target does what is tried and agreed on.
fn websocket(kind: u8) -> Vec<u8> {
    let mut deflate = [(); 2].map(|()| flate2::Compress::new(Compression::default(), false));
    let (mut client, mut server) = (Vec::new(), Vec::new());
    for in_parts in [false, true] {
        let mut say = |side: usize, text: &str| {
            if kind & (4 << side) != 0 {
                deflate[side].reset();
            }
            frames(text, side == 0, in_parts, (kind & 2 == 0).then_some(&mut deflate[side]))
        };
        client.extend(say(0, ASKS));
        SAYS.iter().for_each(|text| server.extend(say(1, text)));
    }
    server.extend([0x88, 2, 3, 232]);
    let controls = if kind & 1 == 0 {
        [&[kind][..], &number(client.len()), PIECES].concat()
    } else {
        [&[kind, 6][..], &number(client.len()), &[7], &number(server.len() / 2), &[1], &small(20)].concat()
    };
    with_controls(&controls, &[client, server].concat())
}

fn socket_head() -> String {
    "GET /v1/responses?model=m HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nSec-WebSocket-Key: k\r\n\r\n".to_owned()
}

/// A TLS connection that becomes a WebSocket.
fn engine_with_socket() -> Vec<u8> {
    let head = socket_head().into_bytes();
    let switch = b"HTTP/1.1 101 \r\nUpgrade: websocket\r\n\r\n".to_vec();
    let asks = frames(ASKS, true, false, None);
    let says: Vec<Vec<u8>> = SAYS.iter().map(|text| frames(text, false, false, None)).collect();
    let piece = |flags: u8, length: usize| [&[20, 1, flags][..], &number(length)].concat();
    let mut controls = [piece(2, head.len()), piece(1, switch.len()), piece(0, asks.len())].concat();
    says.iter().for_each(|text| controls.extend(piece(1, text.len())));
    with_controls(&controls, &[head, switch, asks, says.concat()].concat())
}

/// An MCP server's standard input and output.
fn engine_with_stdio() -> Vec<u8> {
    let lines: [(u8, &[u8]); 5] = [
        (1, b"{\"jsonrpc\":\"2.0\",\"id\":0,\"method\":\"initialize\",\"params\":{\"protocolVersion\":\"x\"}}\n"),
        (0, b"{\"jsonrpc\":\"2.0\",\"id\":0,\"result\":{\"serverInfo\":{\"name\":\"s\"}}}\n"),
        (1, b"{\"method\":\"tools/call\",\"params\":{\"name\":\"t\"},\"jsonrpc\":\"2.0\",\"id\":1}\n"),
        (1, b"{\"jsonrpc\":\"2.0\",\"method\":\"notifications/cancelled\",\"params\":{\"requestId\":1}}\n"),
        (0, b"{\"jsonrpc\":\"2.0\",\"id\":1,\"error\":{\"code\":-1}}\n"),
    ];
    // 24 is the connection with the number 4.
    let piece = |(flags, line): &(u8, &[u8])| [&[24, 1, *flags][..], &number(line.len())].concat();
    let controls: Vec<u8> = lines.iter().flat_map(piece).collect();
    with_controls(&controls, &lines.map(|(_, line)| line).concat())
}

fn bodies() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for case in ALL {
        let text = &case.bytes()[..];
        let level = Compression::default();
        let write = "memory takes all bytes";
        let mut gzip = GzEncoder::new(Vec::new(), level);
        gzip.write_all(text).expect(write);
        let mut zlib = ZlibEncoder::new(Vec::new(), level);
        zlib.write_all(text).expect(write);
        let mut deflate = DeflateEncoder::new(Vec::new(), level);
        deflate.write_all(text).expect(write);
        let mut brotli = Vec::new();
        brotli::CompressorWriter::new(&mut brotli, 4096, 4, 20).write_all(text).expect(write);
        let zstd = zstd::stream::encode_all(text, 3).expect(write);
        let coded = [
            (0, text.to_vec()),
            (1, gzip.finish().expect(write)),
            (2, zlib.finish().expect(write)),
            (2, deflate.finish().expect(write)),
            (3, brotli),
            (4, zstd),
        ];
        seeds.extend(coded.into_iter().map(|(coding, bytes)| with_controls(&[&[coding], PIECES].concat(), &bytes)));
    }
    seeds
}

/// The smallest real ELF files at hand are libraries that the tests' own process has loaded; a part is enough.
fn own_binary() -> Vec<Vec<u8>> {
    const BYTES: usize = 64 * 1024;
    ["/proc/self/exe", "/bin/true"]
        .iter()
        .filter_map(|path| std::fs::read(path).ok())
        .map(|mut bytes| {
            bytes.truncate(BYTES);
            bytes
        })
        .collect()
}

fn protocol() -> Vec<Vec<u8>> {
    let requests = [
        Request::Attach(vec![Group::LlmTls, Group::LlmPlain]),
        Request::Servers(vec![(7, true), (8, false)]),
        Request::Learn("/internal/llm".into()),
        Request::Sample { sequence: 9, closely: vec![1, 2, 3], others: Others::All },
        Request::FindServers(vec![Suspect { pid: 7, serves: true }; 3]),
        Request::Ask(Question {
            ticket: 1,
            pid: 7,
            start_time_ns: 5,
            address: ([127, 0, 0, 1], 8000).into(),
            place: Place::Metrics,
        }),
        Request::Shutdown,
    ];
    requests.iter().map(|request| postcard::to_stdvec(request).expect("it can be written")).collect()
}

/// The records of one call at a TLS library.
fn records(case: &Case) -> Vec<u8> {
    let (request, answer) = (request(case), answer(case));
    let mut ring = Vec::new();
    let mut offset = 0;
    for (number, part) in answer.chunks(700).enumerate() {
        if number == 0 {
            record(&mut ring, source::TLS, direction::SENT, flags::BEGIN | flags::CAPTURE, 0, &request);
        }
        record(&mut ring, source::TLS, direction::RECEIVED, flags::CAPTURE, offset, part);
        offset += part.len() as u64;
    }
    record(&mut ring, source::TCP, direction::RECEIVED, flags::BEGIN | flags::CAPTURE, 1, &request);
    record(&mut ring, source::TCP, direction::SENT, flags::CAPTURE | flags::FIN, 1, &answer);
    ring
}

fn record(ring: &mut Vec<u8>, source: u8, direction: u8, flags: u16, offset: u64, payload: &[u8]) {
    use std::mem::offset_of;
    let length = size_of::<RecordHeader>() + payload.len();
    ring.extend_from_slice(&(length as u64).to_le_bytes());
    let at = ring.len();
    ring.resize(at + size_of::<RecordHeader>(), 0);
    let mut put = |field: usize, bytes: &[u8]| ring[at + field..][..bytes.len()].copy_from_slice(bytes);
    put(offset_of!(RecordHeader, kind), &[kind::DATA, source, direction, 4]);
    put(offset_of!(RecordHeader, flags), &flags.to_ne_bytes());
    put(offset_of!(RecordHeader, pid), &7_u32.to_ne_bytes());
    put(offset_of!(RecordHeader, handle), &9_u64.to_ne_bytes());
    put(offset_of!(RecordHeader, offset), &offset.to_ne_bytes());
    put(offset_of!(RecordHeader, original_len), &(payload.len() as u32).to_ne_bytes());
    put(offset_of!(RecordHeader, captured_len), &(payload.len() as u32).to_ne_bytes());
    put(offset_of!(RecordHeader, message), &1_u32.to_ne_bytes());
    ring.extend_from_slice(payload);
    ring.resize(ring.len().next_multiple_of(8), 0);
}
