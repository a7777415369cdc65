//! The server's own record: what it truly did, one JSON line per exchange, to hold hbpf's numbers against.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::Mutex;

use anyhow::Context;
use nix::time::{ClockId, clock_gettime};
use serde::Serialize;

/// CLOCK_MONOTONIC in nanoseconds: the clock that the kernel's probes stamp with.
pub(crate) fn now() -> u64 {
    // The call fails for clocks that do not exist only.
    let time = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("the monotonic clock exists");
    u64::try_from(time.tv_sec()).unwrap_or(0) * 1_000_000_000 + u64::try_from(time.tv_nsec()).unwrap_or(0)
}

/// How an exchange ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Outcome {
    /// Answered wholly.
    Done,
    /// Answered with an HTTP error, as asked for.
    Error,
    /// An error event ended the stream, as asked for.
    StreamError,
    /// The connection was broken, as asked for.
    Cut,
    /// The client went away.
    ClientGone,
}

/// One exchange. Times are CLOCK_MONOTONIC nanoseconds.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Entry {
    /// Number of the exchange.
    pub id: u64,
    /// Number of its connection.
    pub connection: u64,
    /// Inside TLS.
    pub tls: bool,
    /// Request target without query.
    pub path: String,
    /// Whether it was a call to a model.
    pub model_call: bool,
    /// Asked for.
    pub model: Option<String>,
    /// Streamed.
    pub stream: bool,
    /// Which try, as SDKs number them.
    pub attempt: u32,
    /// HTTP status.
    pub status: u16,
    /// How it ended.
    pub outcome: Outcome,
    /// The last byte of the request was read.
    pub request_end_ns: u64,
    /// The answer's head was written.
    pub response_head_ns: u64,
    /// When each output event was written.
    pub token_ns: Vec<u64>,
    /// The answer was complete.
    pub end_ns: u64,
    /// Whether the numbers below went over the wire.
    pub usage_sent: bool,
    /// All prompt tokens.
    pub input: u32,
    /// Of those, read from a cache.
    pub cached_input: u32,
    /// Of those, written to a cache.
    pub cache_creation_input: u32,
    /// Tokens that were generated and sent.
    pub output: u32,
    /// Of those, reasoning.
    pub reasoning: u32,
    /// The answer was compressed.
    pub gzip: bool,
    /// Bytes of the request's body.
    pub request_body_bytes: usize,
    /// Bytes of the answer's body, before content coding.
    pub response_body_bytes: usize,
}

/// Where entries go.
pub(crate) struct Record(Option<Mutex<File>>);

impl Record {
    /// Writes to this file, or nowhere.
    pub(crate) fn create(path: Option<&Path>) -> anyhow::Result<Self> {
        let Some(path) = path else { return Ok(Self(None)) };
        let file = File::create(path).with_context(|| format!("cannot write the record {}", path.display()))?;
        Ok(Self(Some(Mutex::new(file))))
    }

    /// Adds a line. One write per line: a reader never sees half of an entry's beginning under another's.
    pub(crate) fn add(&self, entry: &Entry) -> anyhow::Result<()> {
        let Some(file) = &self.0 else { return Ok(()) };
        let mut line = serde_json::to_vec(entry)?;
        line.push(b'\n');
        let mut file = file.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        file.write_all(&line).context("cannot write the record")
    }
}
