//! How fast one core gets through recorded traffic: from pieces of plaintext to the aggregator, as the collector has it.
//!
//! Items are output events, bytes are those of the answer, without compression.

use std::io::Write;

use divan::Bencher;
use divan::counter::{BytesCount, ItemsCount};
use flate2::Compression;
use flate2::write::GzEncoder;
use hbpf_core::aggregate::{Aggregator, AggregatorConfig};
use hbpf_core::chunk::{Capture, Chunk, Close, ConnectionKey, Direction, Origin, Pid, Source, Verdict};
use hbpf_core::engine::{Engine, Observer};
use hbpf_core::exchange::{Exchange, ExchangeEvent};
use hbpf_core::time::Nanos;

fn main() {
    divan::main();
}

/// Output events of one answer.
const EVENTS: usize = 1000;
/// Bytes of a piece where many events come in one.
const PIECE: usize = 16 * 1024;
/// Text of a body most of which is skipped.
const SKIPPED: usize = 1 << 20;
/// Between two pieces.
const GAP_NANOS: u64 = 1_000_000;

/// An answer as it comes over the wire, piece by piece.
struct Recorded {
    path: &'static str,
    pieces: Vec<Vec<u8>>,
    events: usize,
    /// Without compression.
    bytes: usize,
}

impl Recorded {
    /// A streamed answer, an event a piece, or many.
    fn stream(name: &str, in_large_pieces: bool) -> Self {
        let (path, content_type, events) = match name {
            "openai_chat" => ("/v1/chat/completions", SSE, openai()),
            "anthropic_messages" => ("/v1/messages", SSE, anthropic()),
            "ollama" => ("/api/chat", "application/x-ndjson", ollama()),
            "bedrock_converse" => ("/model/m-1/converse-stream", "application/vnd.amazon.eventstream", Vec::new()),
            other => {
                let simple = SIMPLE.iter().find(|simple| simple.name == other).expect("it is in the table");
                (simple.path, SSE, simple.events())
            }
        };
        let events: Vec<Vec<u8>> =
            if events.is_empty() { bedrock() } else { events.into_iter().map(String::into_bytes).collect() };
        let head = format!("HTTP/1.1 200 OK\r\ncontent-type: {content_type}\r\ntransfer-encoding: chunked\r\n\r\n");
        let mut pieces = vec![head.into_bytes()];
        pieces
            .extend(events.iter().map(|event| [format!("{:x}\r\n", event.len()).as_bytes(), event, b"\r\n"].concat()));
        pieces.push(b"0\r\n\r\n".to_vec());
        if in_large_pieces {
            pieces = pieces.concat().chunks(PIECE).map(<[u8]>::to_vec).collect();
        }
        let bytes = pieces.iter().map(Vec::len).sum();
        Self { path, pieces, events: EVENTS, bytes }
    }

    /// One JSON document with a long text in it, in pieces as a TLS library hands them out.
    fn document() -> Self {
        let text = "honey ".repeat(SKIPPED / 6);
        let body = format!(
            r#"{{"object":"chat.completion","model":"m-1","choices":[{{"index":0,"message":{{"role":"assistant","content":"{text}"}},"finish_reason":"stop"}}],"usage":{USAGE}}}"#
        );
        Self::whole("application/json", "", body.as_bytes(), body.len(), 1)
    }

    fn gzip() -> Self {
        let events = openai().concat();
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(events.as_bytes()).expect("a vector takes all");
        let body = encoder.finish().expect("a vector takes all");
        Self::whole("text/event-stream", "content-encoding: gzip\r\n", &body, events.len(), EVENTS)
    }

    fn whole(content_type: &str, more_headers: &str, body: &[u8], bytes: usize, events: usize) -> Self {
        let head = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: {content_type}\r\n{more_headers}content-length: {}\r\n\r\n",
            body.len()
        );
        let mut pieces = vec![head.into_bytes()];
        pieces.extend(body.chunks(PIECE).map(<[u8]>::to_vec));
        Self { path: "/v1/chat/completions", pieces, events, bytes }
    }

    fn bench(&self, bencher: Bencher<'_, '_>) {
        let mut host = Host::new();
        // A bench of something that is not recognised would be a fast one.
        host.exchange(self);
        assert_eq!(host.sink.output, Some(EVENTS as u64), "the answer was not understood");
        bencher
            .counter(BytesCount::new(self.bytes))
            .counter(ItemsCount::new(self.events))
            .bench_local(|| host.exchange(self));
    }
}

const SSE: &str = "text/event-stream";

/// Streams as the tests have them.
const STREAMS: [&str; 14] = [
    "openai_chat",
    "openai_completions",
    "openai_responses",
    "anthropic_messages",
    "ollama",
    "bedrock_converse",
    "gemini_generate",
    "gemini_interactions",
    "cohere_chat",
    "mistral_conversations",
    "tgi",
    "sglang",
    "llama_cpp",
    "lm_studio",
];

/// A stream of events that differ in a word and their number.
struct Simple {
    name: &'static str,
    path: &'static str,
    /// `WORD` stands for the word, `NUMBER` for the number.
    event: &'static str,
    last: &'static str,
}

#[rustfmt::skip]
const SIMPLE: [Simple; 10] = [
    Simple {
        name: "openai_completions",
        path: "/v1/completions",
        event: r#"{"id":"cmpl-1","object":"text_completion","created":1790000000,"model":"m-1","choices":[{"index":0,"text":"WORD","logprobs":null,"finish_reason":null}]}"#,
        last: r#"{"id":"cmpl-1","object":"text_completion","model":"m-1","choices":[],"usage":{"prompt_tokens":9,"completion_tokens":1000,"total_tokens":1009}}"#,
    },
    Simple {
        name: "openai_responses",
        path: "/v1/responses",
        event: r#"{"type":"response.output_text.delta","sequence_number":NUMBER,"item_id":"msg_1","output_index":0,"content_index":0,"delta":"WORD","logprobs":[],"obfuscation":"x8Qa1"}"#,
        last: r#"{"type":"response.completed","sequence_number":1001,"response":{"id":"resp_1","object":"response","status":"completed","model":"m-2026","usage":{"input_tokens":9,"output_tokens":1000,"total_tokens":1009}}}"#,
    },
    Simple {
        name: "gemini_generate",
        path: "/v1beta/models/m-1:streamGenerateContent",
        event: r#"{"candidates":[{"content":{"parts":[{"text":"WORD"}],"role":"model"},"index":0}],"usageMetadata":{"promptTokenCount":9,"candidatesTokenCount":NUMBER,"totalTokenCount":1NUMBER},"modelVersion":"gemini-x","responseId":"r1"}"#,
        last: r#"{"candidates":[{"content":{"parts":[],"role":"model"},"finishReason":"STOP","index":0}],"usageMetadata":{"promptTokenCount":9,"candidatesTokenCount":1000,"totalTokenCount":1009},"modelVersion":"gemini-x","responseId":"r1"}"#,
    },
    Simple {
        name: "gemini_interactions",
        path: "/v1beta/interactions",
        event: r#"{"event_type":"step.delta","index":0,"delta":{"type":"text","text":"WORD"},"event_id":"e-NUMBER"}"#,
        last: r#"{"event_type":"interaction.completed","interaction":{"id":"int_1","status":"completed","model":"gemini-x","usage":{"total_input_tokens":9,"total_output_tokens":1000,"total_tokens":1009}}}"#,
    },
    Simple {
        name: "cohere_chat",
        path: "/v2/chat",
        event: r#"{"type":"content-delta","index":0,"delta":{"message":{"content":{"text":"WORD"}}}}"#,
        last: r#"{"type":"message-end","delta":{"finish_reason":"COMPLETE","usage":{"tokens":{"input_tokens":9,"output_tokens":1000}}}}"#,
    },
    Simple {
        name: "mistral_conversations",
        path: "/v1/conversations",
        event: r#"{"type":"message.output.delta","id":"msg_1","output_index":0,"content_index":0,"model":"mistral-x","role":"assistant","content":"WORD"}"#,
        last: r#"{"type":"conversation.response.done","usage":{"prompt_tokens":9,"completion_tokens":1000,"total_tokens":1009}}"#,
    },
    Simple {
        name: "tgi",
        path: "/generate_stream",
        event: r#"{"index":NUMBER,"token":{"id":NUMBER,"text":"WORD","logprob":-0.1,"special":false},"generated_text":null,"details":null}"#,
        last: r#"{"index":1000,"token":{"id":2,"text":"","logprob":-0.1,"special":true},"generated_text":"all","details":{"finish_reason":"eos_token","generated_tokens":1000,"input_length":9,"seed":null}}"#,
    },
    Simple {
        name: "sglang",
        path: "/generate",
        event: r#"{"text":"all so far WORD","meta_info":{"id":"r1","finish_reason":null,"prompt_tokens":9,"completion_tokens":NUMBER,"cached_tokens":0}}"#,
        last: r#"{"text":"all so far","meta_info":{"id":"r1","finish_reason":{"type":"stop"},"prompt_tokens":9,"completion_tokens":1000,"cached_tokens":0}}"#,
    },
    Simple {
        name: "llama_cpp",
        path: "/completion",
        event: r#"{"index":0,"content":"WORD","tokens":[NUMBER],"stop":false,"id_slot":0,"tokens_predicted":NUMBER,"tokens_evaluated":9}"#,
        last: r#"{"index":0,"content":"","tokens":[],"id_slot":0,"stop":true,"model":"m-1","tokens_predicted":1000,"tokens_evaluated":9,"stop_type":"eos"}"#,
    },
    Simple {
        name: "lm_studio",
        path: "/api/v1/chat",
        event: r#"{"type":"message.delta","content":"WORD"}"#,
        last: r#"{"type":"chat.end","result":{"model_instance_id":"m-1","output":[],"stats":{"input_tokens":9,"total_output_tokens":1000}}}"#,
    },
];

impl Simple {
    fn events(&self) -> Vec<String> {
        let event = |(number, word): (usize, &str)| {
            format!("data: {}\n\n", self.event.replace("WORD", word).replace("NUMBER", &(number + 1).to_string()))
        };
        words().enumerate().map(event).chain([format!("data: {}\n\n", self.last)]).collect()
    }
}

/// AWS's event stream.
fn bedrock() -> Vec<Vec<u8>> {
    let message = |name: &str, payload: &str| {
        let mut headers = Vec::new();
        for (name, value) in [(":event-type", name), (":content-type", "application/json"), (":message-type", "event")]
        {
            headers
                .extend([&[name.len() as u8], name.as_bytes(), &[7, 0, value.len() as u8], value.as_bytes()].concat());
        }
        let lengths =
            [(16 + headers.len() + payload.len()) as u32, headers.len() as u32].map(u32::to_be_bytes).concat();
        let prelude = [&lengths[..], &crc32fast::hash(&lengths).to_be_bytes()].concat();
        let message = [&prelude[..], &headers, payload.as_bytes()].concat();
        [&message[..], &crc32fast::hash(&message).to_be_bytes()].concat()
    };
    let token = |word: &str| {
        message("contentBlockDelta", &format!(r#"{{"contentBlockIndex":0,"delta":{{"text":"{word}"}},"p":"abc"}}"#))
    };
    let end = [
        message("messageStop", r#"{"stopReason":"end_turn"}"#),
        message(
            "metadata",
            r#"{"usage":{"inputTokens":9,"outputTokens":1000,"totalTokens":1009},"metrics":{"latencyMs":321}}"#,
        ),
    ];
    words().map(token).chain(end).collect()
}

const USAGE: &str = r#"{"prompt_tokens":9,"completion_tokens":1000,"total_tokens":1009}"#;

fn openai() -> Vec<String> {
    let chunk = |choices: &str, usage: &str| {
        format!(
            "data: {{\"id\":\"chatcmpl-B9MBs8CjcvOU2jLn4n570S5qMJKcT\",\"object\":\"chat.completion.chunk\",\"created\":1790000000,\
             \"model\":\"gpt-4o-mini\",\"service_tier\":\"default\",\"system_fingerprint\":\"fp_44709d6fcb\",\
             \"choices\":[{choices}],\"usage\":{usage}}}\n\n"
        )
    };
    let token = |word: &str| {
        chunk(&format!(r#"{{"index":0,"delta":{{"content":"{word}"}},"logprobs":null,"finish_reason":null}}"#), "null")
    };
    let mut events = words().map(token).collect::<Vec<_>>();
    events.push(chunk(r#"{"index":0,"delta":{},"logprobs":null,"finish_reason":"stop"}"#, "null"));
    events.push(chunk("", USAGE));
    events.push("data: [DONE]\n\n".to_owned());
    events
}

fn anthropic() -> Vec<String> {
    let event = |kind: &str, rest: &str| format!("event: {kind}\ndata: {{\"type\":\"{kind}\",{rest}}}\n\n");
    let mut events = vec![
        event(
            "message_start",
            r#""message":{"id":"msg_1","type":"message","role":"assistant","model":"claude","content":[],"stop_reason":null,"usage":{"input_tokens":9,"output_tokens":1}}"#,
        ),
        event("content_block_start", r#""index":0,"content_block":{"type":"text","text":""}"#),
    ];
    events.extend(words().map(|word| {
        event("content_block_delta", &format!(r#""index":0,"delta":{{"type":"text_delta","text":"{word}"}}"#))
    }));
    events.push(event("content_block_stop", r#""index":0"#));
    events.push(event("message_delta", r#""delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":1000}"#));
    events.push("event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n".to_owned());
    events
}

fn ollama() -> Vec<String> {
    // Each line has a time of its own before all that matters.
    let line = |at: usize, rest: &str| {
        format!("{{\"model\":\"llama\",\"created_at\":\"2026-09-21T14:13:20.{at:06}Z\",{rest}}}\n")
    };
    let token = |(at, word): (usize, &str)| {
        line(at, &format!(r#""message":{{"role":"assistant","content":"{word}"}},"done":false"#))
    };
    let mut lines = words().enumerate().map(token).collect::<Vec<_>>();
    lines.push(line(
        EVENTS,
        r#""message":{"role":"assistant","content":""},"done":true,"done_reason":"stop","total_duration":5,"prompt_eval_count":9,"eval_count":1000"#,
    ));
    lines
}

fn words() -> impl Iterator<Item = &'static str> {
    [" honey", " bees", " keep", " the", " hive", " warm", " all", " winter"].into_iter().cycle().take(EVENTS)
}

/// What the collector has: an engine that tells an aggregator.
struct Host {
    engine: Engine,
    sink: Sink,
    origin: Origin,
    connections: u64,
    now: u64,
}

struct Sink {
    aggregator: Aggregator,
    /// Output tokens of the last exchange that ended.
    output: Option<u64>,
}

impl Observer for Sink {
    fn exchange(&mut self, when: Nanos, exchange: &Exchange, event: ExchangeEvent) {
        if event == ExchangeEvent::Ended {
            self.output = exchange.usage.output;
        }
        self.aggregator.observe(when, exchange, event);
    }
    fn verdict(&mut self, _: Verdict) {}
    fn learned(&mut self, _: &str) {}
    fn owner_wanted(&mut self, _: ConnectionKey, _: &Origin) {}
}

impl Host {
    fn new() -> Self {
        let origin = Origin { pid: Some(Pid(7)), owner_is_certain: true, ..Origin::default() };
        let sink = Sink { aggregator: Aggregator::new(AggregatorConfig::default(), Nanos(0)), output: None };
        Self { engine: Engine::new(), sink, origin, connections: 0, now: 0 }
    }

    /// One request and its answer, on a connection of their own.
    fn exchange(&mut self, recorded: &Recorded) {
        self.connections += 1;
        // What each of the APIs is told by.
        let body = match recorded.path {
            "/generate_stream" | "/v1/conversations" => r#"{"model":"m-1","stream":true,"inputs":"hello"}"#,
            "/generate" => r#"{"model":"m-1","stream":true,"input_ids":[1]}"#,
            "/completion" => r#"{"model":"m-1","stream":true,"prompt":"hello"}"#,
            "/v1beta/interactions" | "/api/v1/chat" => r#"{"model":"m-1","stream":true,"input":"hello"}"#,
            _ => r#"{"model":"m-1","stream":true,"messages":[{"role":"user","content":"hello"}]}"#,
        };
        let request = format!(
            "POST {} HTTP/1.1\r\nhost: llm.example\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            recorded.path,
            body.len()
        );
        self.piece(Direction::Sent, 0, request.as_bytes());
        let mut offset = 0;
        for piece in &recorded.pieces {
            self.piece(Direction::Received, offset, piece);
            offset += piece.len() as u64;
        }
        self.engine.close(self.key(), Close::Released, Nanos(self.now), &mut self.sink);
        self.engine.tick(Nanos(self.now), &mut self.sink);
    }

    fn key(&self) -> ConnectionKey {
        ConnectionKey { source: Source::Tls, pid: 7, handle: 0x7000, generation: self.connections }
    }

    fn piece(&mut self, direction: Direction, offset: u64, bytes: &[u8]) {
        self.now += GAP_NANOS;
        let chunk = Chunk {
            when: Nanos(self.now),
            connection: self.key(),
            origin: &self.origin,
            direction,
            offset,
            original_len: bytes.len() as u64,
            bytes,
            message: 1,
            begins_message: direction == Direction::Sent,
            capture: Capture::Positive,
            follows_thinning: false,
            ends_stream: false,
        };
        self.engine.chunk(&chunk, &mut self.sink);
    }
}

/// A stream with an event in each piece, as servers write it.
#[divan::bench(args = STREAMS)]
fn event_a_piece(bencher: Bencher<'_, '_>, dialect: &str) {
    Recorded::stream(dialect, false).bench(bencher);
}

/// A stream in pieces of 16 KiB, as it comes where a network or a proxy gathers it.
#[divan::bench(args = STREAMS)]
fn large_pieces(bencher: Bencher<'_, '_>, dialect: &str) {
    Recorded::stream(dialect, true).bench(bencher);
}

/// A JSON document with 1 MiB of text between what is looked for.
#[divan::bench]
fn json_mostly_skipped(bencher: Bencher<'_, '_>) {
    Recorded::document().bench(bencher);
}

/// An event stream inside gzip.
#[divan::bench]
fn gzip_stream(bencher: Bencher<'_, '_>) {
    Recorded::gzip().bench(bencher);
}
