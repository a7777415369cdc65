//! One endpoint of a connection as the kernel side would tell of it, and what comes of it.

use hbpf_core::chunk::{Action, Capture, Chunk, Close, ConnectionKey, Direction, Origin, Pid, Source, Verdict};
use hbpf_core::engine::{Engine, Observer};
use hbpf_core::exchange::{Exchange, ExchangeEvent};
use hbpf_core::time::Nanos;

pub(crate) const MS: u64 = 1_000_000;

pub(crate) const CANARY: &str = "xyzzy-canary-text";

#[derive(Default)]
pub(crate) struct Log {
    pub(crate) events: Vec<(Nanos, Exchange, ExchangeEvent)>,
    pub(crate) verdicts: Vec<Verdict>,
    pub(crate) learned: Vec<String>,
    pub(crate) owners_wanted: Vec<ConnectionKey>,
}

impl Observer for Log {
    fn exchange(&mut self, when: Nanos, exchange: &Exchange, event: ExchangeEvent) {
        self.events.push((when, exchange.clone(), event));
    }
    fn verdict(&mut self, verdict: Verdict) {
        self.verdicts.push(verdict);
    }
    fn learned(&mut self, path: &str) {
        self.learned.push(path.to_owned());
    }
    fn owner_wanted(&mut self, connection: ConnectionKey, _: &Origin) {
        self.owners_wanted.push(connection);
    }
}

impl Log {
    pub(crate) fn ended(&self) -> Vec<&Exchange> {
        self.events
            .iter()
            .filter(|(_, _, event)| *event == ExchangeEvent::Ended)
            .map(|(_, exchange, _)| exchange)
            .collect()
    }

    pub(crate) fn actions(&self) -> Vec<Action> {
        self.verdicts.iter().map(|verdict| verdict.action).collect()
    }
}

/// One endpoint that feeds the engine as the kernel side would.
pub(crate) struct Wire {
    pub(crate) key: ConnectionKey,
    pub(crate) origin: Origin,
    pub(crate) request: Direction,
    pub(crate) offsets: [u64; 2],
    pub(crate) message: u32,
    pub(crate) capture: Capture,
    pub(crate) now: u64,
}

impl Wire {
    pub(crate) fn tls(pid: u32, request: Direction) -> Self {
        let key = ConnectionKey { source: Source::Tls, pid, handle: 0x7000, generation: 1 };
        let origin = Origin {
            pid: Some(Pid(pid)),
            owner_is_certain: true,
            comm: *b"python3\0\0\0\0\0\0\0\0\0",
            ..Origin::default()
        };
        Self { key, origin, request, offsets: [0; 2], message: 0, capture: Capture::Positive, now: 1000 * MS }
    }

    pub(crate) fn send(
        &mut self,
        engine: &mut Engine,
        log: &mut Log,
        direction: Direction,
        bytes: &[u8],
        begins: bool,
    ) {
        self.send_part(engine, log, direction, bytes, bytes.len(), begins);
    }

    /// Sends `bytes`, of which only the first `copied` are seen.
    pub(crate) fn send_part(
        &mut self,
        engine: &mut Engine,
        log: &mut Log,
        direction: Direction,
        bytes: &[u8],
        copied: usize,
        begins: bool,
    ) {
        self.now += MS;
        if begins {
            self.message += 1;
        }
        let chunk = Chunk {
            when: Nanos(self.now),
            connection: self.key,
            origin: &self.origin,
            direction,
            offset: self.offsets[direction.index()],
            original_len: bytes.len() as u64,
            bytes: &bytes[..copied],
            message: self.message,
            begins_message: begins,
            capture: self.capture,
            follows_thinning: false,
            ends_stream: false,
        };
        engine.chunk(&chunk, log);
        self.offsets[direction.index()] += bytes.len() as u64;
    }

    pub(crate) fn request(&mut self, engine: &mut Engine, log: &mut Log, text: &str) {
        self.send(engine, log, self.request, text.as_bytes(), true);
    }

    pub(crate) fn answer(&mut self, engine: &mut Engine, log: &mut Log, text: &str) {
        self.send(engine, log, self.request.opposite(), text.as_bytes(), false);
    }

    pub(crate) fn answer_of_length(&mut self, engine: &mut Engine, log: &mut Log, text: &str, copied: usize) {
        let copied = copied.min(text.len());
        self.send_part(engine, log, self.request.opposite(), text.as_bytes(), copied, false);
    }

    /// The stream of that direction is over.
    pub(crate) fn end(&mut self, engine: &mut Engine, log: &mut Log, direction: Direction) {
        self.now += MS;
        let chunk = Chunk {
            when: Nanos(self.now),
            connection: self.key,
            origin: &self.origin,
            direction,
            offset: self.offsets[direction.index()],
            original_len: 0,
            bytes: &[],
            message: self.message,
            begins_message: false,
            capture: self.capture,
            follows_thinning: false,
            ends_stream: true,
        };
        engine.chunk(&chunk, log);
    }

    pub(crate) fn close(&mut self, engine: &mut Engine, log: &mut Log, how: Close) {
        self.now += MS;
        engine.close(self.key, how, Nanos(self.now), log);
    }
}

pub(crate) fn post(path: &str, body: &str) -> String {
    format!(
        "POST {path} HTTP/1.1\r\nHost: llm.example:8443\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

pub(crate) fn chat(stream: bool) -> String {
    let body = format!(r#"{{"model":"m-1","messages":[{{"role":"user","content":"{CANARY}"}}],"stream":{stream}}}"#);
    post("/v1/chat/completions", &body)
}

pub(crate) fn json(status: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

pub(crate) fn chunked(text: &str) -> String {
    format!("{:x}\r\n{text}\r\n", text.len())
}

pub(crate) const SSE_HEAD: &str =
    "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";

pub(crate) fn token(text: &str) -> String {
    chunked(&format!(
        "data: {{\"object\":\"chat.completion.chunk\",\"model\":\"m-1-x\",\"choices\":[{{\"index\":0,\"delta\":{{\"content\":\"{text}\"}}}}]}}\n\n"
    ))
}

pub(crate) const DONE_JSON: &str = r#"{"object":"chat.completion","model":"m-1-x","choices":[{"index":0,"message":{"role":"assistant","content":"hello"},"finish_reason":"stop"}],"usage":{"prompt_tokens":9,"completion_tokens":3,"total_tokens":12,"prompt_tokens_details":{"cached_tokens":4}}}"#;
