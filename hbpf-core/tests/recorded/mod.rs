//! Connections made of recorded streams, and an engine that sees them with whatever loss a test wants.

use std::io::Write;

use flate2::Compression;
use flate2::write::{GzEncoder, ZlibEncoder};
use hbpf_core::chunk::{Capture, Chunk, Close, ConnectionKey, Direction, Origin, Pid, Source, Verdict};
use hbpf_core::engine::{Counters, Engine, Observer};
use hbpf_core::exchange::{Dialect, Exchange, ExchangeEvent};
use hbpf_core::time::Nanos;

use super::streams::Case;

/// How an answer's end is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    /// In chunks of so many bytes.
    Chunked(usize),
    /// By its length.
    Length,
}

/// How an answer is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Coding {
    Identity,
    Gzip,
    Deflate,
    Brotli,
    Zstd,
}

/// One request and its answer.
#[derive(Clone, Debug)]
pub(super) struct Message {
    pub(super) request: Vec<u8>,
    pub(super) answer: Vec<u8>,
}

pub(super) fn path(case: &Case, model: &str) -> String {
    let path = match case.dialect {
        Dialect::OpenaiChat => "/v1/chat/completions",
        Dialect::OpenaiCompletions => "/v1/completions",
        Dialect::OpenaiEmbeddings => "/v1/embeddings",
        Dialect::AnthropicMessages => "/v1/messages",
        Dialect::Ollama => "/api/chat",
        Dialect::OpenaiResponses => "/v1/responses",
        Dialect::OpenaiRealtime => unreachable!("it is not asked over HTTP"),
        Dialect::BedrockConverse if case.expected.stream == Some(true) => "/model/MODEL/converse-stream",
        Dialect::BedrockConverse => "/model/MODEL/converse",
        Dialect::BedrockInvoke if case.expected.stream == Some(true) => "/model/MODEL/invoke-with-response-stream",
        Dialect::BedrockInvoke => "/model/MODEL/invoke",
        Dialect::XaiGrpc => "/xai_api.Chat/GetCompletionChunk",
        Dialect::GeminiGenerate if case.expected.stream == Some(true) => "/v1beta/models/MODEL:streamGenerateContent",
        Dialect::CohereChat => "/v2/chat",
        Dialect::GeminiInteractions => "/v1beta/interactions",
        Dialect::OpenaiImages => "/v1/images/generations",
        Dialect::OpenaiAudio => "/v1/audio/speech",
        Dialect::MistralConversations => "/v1/conversations",
        Dialect::Triton if case.expected.stream == Some(true) => "/v2/models/MODEL/generate_stream",
        Dialect::Triton => "/v2/models/MODEL/infer",
        Dialect::Tgi if case.expected.stream == Some(true) => "/generate_stream",
        Dialect::Tgi | Dialect::Sglang => "/generate",
        Dialect::LlamaCpp => "/completion",
        Dialect::LmStudio => "/api/v1/chat",
        Dialect::Mcp => "/mcp",
        Dialect::Custom => unreachable!("it is described in a test of its own"),
        Dialect::GeminiGenerate => "/v1beta/models/MODEL:generateContent",
    };
    path.replace("MODEL", model)
}

/// A case as it travels, its request naming a model of its own.
pub(super) fn message(case: &Case, model: &str, framing: Framing, coding: Coding) -> Message {
    let body = case.request.replace(r#""model":"m""#, &format!(r#""model":"{model}""#));
    let request = format!(
        "POST {} HTTP/1.1\r\nHost: llm\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        path(case, model),
        body.len()
    );
    let body = compress(&case.bytes(), coding);
    let coding = match coding {
        Coding::Identity => "",
        Coding::Gzip => "Content-Encoding: gzip\r\n",
        Coding::Deflate => "Content-Encoding: deflate\r\n",
        Coding::Brotli => "Content-Encoding: br\r\n",
        Coding::Zstd => "Content-Encoding: zstd\r\n",
    };
    let kind = case.content_type.unwrap_or("text/plain");
    let (framing, body) = match framing {
        Framing::Length => (format!("Content-Length: {}", body.len()), body),
        Framing::Chunked(size) => ("Transfer-Encoding: chunked".to_owned(), chunks(&body, size)),
    };
    let mut answer =
        format!("HTTP/1.1 {} X\r\nContent-Type: {kind}\r\n{coding}{framing}\r\n\r\n", case.status).into_bytes();
    answer.extend(body);
    Message { request: request.into_bytes(), answer }
}

fn chunks(body: &[u8], size: usize) -> Vec<u8> {
    let mut all = Vec::new();
    for part in body.chunks(size) {
        all.extend_from_slice(format!("{:x}\r\n", part.len()).as_bytes());
        all.extend_from_slice(part);
        all.extend_from_slice(b"\r\n");
    }
    all.extend_from_slice(b"0\r\n\r\n");
    all
}

/// As servers do it: flushed behind each event.
pub(super) fn compress(text: &[u8], coding: Coding) -> Vec<u8> {
    fn write(mut encoder: impl Write, text: &[u8]) {
        for line in text.split_inclusive(|byte| *byte == b'\n') {
            encoder.write_all(line).unwrap();
            encoder.flush().unwrap();
        }
    }
    let mut out = Vec::new();
    match coding {
        Coding::Identity => out.extend_from_slice(text),
        Coding::Gzip => write(GzEncoder::new(&mut out, Compression::default()), text),
        Coding::Deflate => write(ZlibEncoder::new(&mut out, Compression::default()), text),
        Coding::Brotli => write(brotli::CompressorWriter::new(&mut out, 4096, 4, 20), text),
        Coding::Zstd => write(zstd::stream::write::Encoder::new(&mut out, 3).unwrap().auto_finish(), text),
    }
    out
}

/// A piece of one message, as the kernel side would hand it over.
#[derive(Clone, Debug)]
pub(super) struct Piece {
    pub(super) direction: Direction,
    pub(super) offset: u64,
    pub(super) bytes: Vec<u8>,
    /// The number of its message, from 0.
    pub(super) of: usize,
    /// The same as the kernel side counts: messages behind each other without an answer in between are one.
    pub(super) message: u32,
    pub(super) begins: bool,
}

/// The pieces of the messages of one connection, as the client sees them. `sizes` are those of the pieces, over and over.
pub(super) fn connection(messages: &[Message], sizes: &[usize], pipelined: bool) -> Vec<Piece> {
    let mut sizes = sizes.iter().copied().cycle();
    let mut offsets = [0; 2];
    let mut cut = |direction: Direction, message: usize, bytes: &[u8]| {
        let mut pieces = Vec::new();
        let mut rest = bytes;
        while !rest.is_empty() {
            let (bytes, more) = rest.split_at(sizes.next().unwrap_or(rest.len()).clamp(1, rest.len()));
            let begins = direction == Direction::Sent && pieces.is_empty();
            let offset = offsets[direction.index()];
            let begins = begins && !(pipelined && message > 0);
            let kernel_count = if pipelined { 1 } else { message as u32 + 1 };
            pieces.push(Piece { direction, offset, bytes: bytes.to_vec(), of: message, message: kernel_count, begins });
            offsets[direction.index()] += bytes.len() as u64;
            rest = more;
        }
        pieces
    };
    let mut pieces = Vec::new();
    if pipelined {
        for (number, message) in messages.iter().enumerate() {
            pieces.extend(cut(Direction::Sent, number, &message.request));
        }
        for (number, message) in messages.iter().enumerate() {
            pieces.extend(cut(Direction::Received, number, &message.answer));
        }
    } else {
        for (number, message) in messages.iter().enumerate() {
            pieces.extend(cut(Direction::Sent, number, &message.request));
            pieces.extend(cut(Direction::Received, number, &message.answer));
        }
    }
    pieces
}

/// What an engine has reported in the end.
#[derive(Default)]
pub(super) struct Seen {
    pub(super) ended: Vec<Exchange>,
    pub(super) opened: usize,
    pub(super) counters: Counters,
}

impl Observer for Seen {
    fn exchange(&mut self, _: Nanos, exchange: &Exchange, event: ExchangeEvent) {
        match event {
            ExchangeEvent::Opened => self.opened += 1,
            ExchangeEvent::Ended => self.ended.push(exchange.clone()),
            _ => {}
        }
    }
    fn verdict(&mut self, _: Verdict) {}
    fn learned(&mut self, _: &str) {}
    fn owner_wanted(&mut self, _: ConnectionKey, _: &Origin) {}
}

impl Seen {
    pub(super) fn by_model(&self, model: &str) -> Option<&Exchange> {
        self.ended.iter().find(|exchange| exchange.model.as_ref().is_some_and(|label| label.as_str() == model))
    }
}

/// An engine that sees these pieces of one connection, which is closed in the end.
pub(super) fn observe<'a>(pieces: impl IntoIterator<Item = &'a Piece>) -> Seen {
    let (mut engine, mut seen) = (Engine::new(), Seen::default());
    let connection = ConnectionKey { source: Source::Tls, pid: 7, handle: 1, generation: 1 };
    let origin = Origin { pid: Some(Pid(7)), owner_is_certain: true, ..Origin::default() };
    let mut now = 0;
    for piece in pieces {
        now += 1_000_000;
        let chunk = Chunk {
            when: Nanos(now),
            connection,
            origin: &origin,
            direction: piece.direction,
            offset: piece.offset,
            original_len: piece.bytes.len() as u64,
            bytes: &piece.bytes,
            message: piece.message,
            begins_message: piece.begins,
            capture: Capture::Positive,
            follows_thinning: false,
            ends_stream: false,
        };
        engine.chunk(&chunk, &mut seen);
    }
    engine.close(connection, Close::Released, Nanos(now + 1_000_000), &mut seen);
    assert_eq!(engine.in_flight().count(), 0);
    seen.counters = engine.counters();
    seen
}
