//! Numbers to compare: what the server wrote down, and what hbpf says.

use std::collections::BTreeMap;

use hbpf_core::exchange::Phase;
use hbpf_core::snapshot::{LlmStats, Request, Snapshot, TokensSource};
use serde::Deserialize;

/// One exchange, as the stand-in server wrote it down. Times are CLOCK_MONOTONIC nanoseconds.
#[derive(Clone, Debug, Deserialize)]
pub struct Entry {
    /// Its number; the answer's request id ends with it.
    pub id: u64,
    /// Number of its connection.
    pub connection: u64,
    /// Inside TLS.
    pub tls: bool,
    /// Whether it was a call to a model.
    pub model_call: bool,
    /// HTTP status.
    pub status: u16,
    /// How it ended.
    pub outcome: Outcome,
    /// The last byte of the request was read.
    pub request_end_ns: u64,
    /// When each output event was written.
    pub token_ns: Vec<u64>,
    /// The answer was complete, or given up.
    pub end_ns: u64,
    /// Whether the numbers below went over the wire.
    pub usage_sent: bool,
    /// All prompt tokens.
    pub input: u64,
    /// Of those, read from a cache.
    pub cached_input: u64,
    /// Of those, written to a cache.
    pub cache_creation_input: u64,
    /// Generated tokens.
    pub output: u64,
    /// Of those, reasoning.
    pub reasoning: u64,
    /// The answer was compressed.
    #[serde(default)]
    pub gzip: bool,
    /// Bytes of the request's body.
    pub request_body_bytes: u64,
    /// Bytes of the answer's body.
    pub response_body_bytes: u64,
}

/// How an exchange ended, in the server's eyes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Answered wholly.
    Done,
    /// An HTTP error.
    Error,
    /// An error event in the stream.
    StreamError,
    /// The server broke the connection.
    Cut,
    /// The client went away.
    ClientGone,
}

/// Totals that must be equal.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sums {
    /// All exchanges.
    pub requests: u64,
    /// Ended as they should.
    pub completed: u64,
    /// Ended with an error.
    pub failed: u64,
    /// Left by the client.
    pub abandoned: u64,
    /// By HTTP status.
    pub status: BTreeMap<String, u64>,
    /// Prompt tokens.
    pub input: u64,
    /// Generated tokens.
    pub output: u64,
    /// Prompt tokens from a cache.
    pub cached: u64,
    /// Prompt tokens written to a cache.
    pub cache_written: u64,
    /// Reasoning tokens.
    pub reasoning: u64,
    /// Tokens that were not reported but estimated.
    pub estimated: u64,
}

impl Sums {
    /// Of the server's record.
    pub fn of_record(entries: &[Entry]) -> Self {
        let mut sums = Self::default();
        for entry in entries {
            sums.requests += 1;
            match entry.outcome {
                Outcome::Done => sums.completed += 1,
                Outcome::Error | Outcome::StreamError | Outcome::Cut => sums.failed += 1,
                Outcome::ClientGone => sums.abandoned += 1,
            }
            *sums.status.entry(entry.status.to_string()).or_default() += 1;
            if entry.usage_sent {
                sums.input += entry.input;
                sums.output += entry.output;
                sums.cached += entry.cached_input;
                sums.cache_written += entry.cache_creation_input;
                sums.reasoning += entry.reasoning;
            }
        }
        sums
    }

    /// Of the serving end at this port, each exchange once.
    pub fn at_port(snapshot: &Snapshot, port: u16) -> Self {
        let endpoints = snapshot.endpoints.iter().filter(|endpoint| endpoint.port == Some(port));
        Self::of_stats(endpoints.map(|endpoint| &endpoint.stats))
    }

    /// Of one process's view as a client.
    pub fn of_client(snapshot: &Snapshot, pid: u32) -> Self {
        let process = snapshot.processes.iter().filter(|process| process.pid == pid);
        Self::of_stats(process.filter_map(|process| process.as_client.as_ref()))
    }

    /// Of one process's view as a server.
    pub fn of_server(snapshot: &Snapshot, pid: u32) -> Self {
        let process = snapshot.processes.iter().filter(|process| process.pid == pid);
        Self::of_stats(process.filter_map(|process| process.as_server.as_ref()))
    }

    /// How many have ended.
    pub fn ended(&self) -> u64 {
        self.completed + self.failed + self.abandoned
    }

    fn of_stats<'a>(all: impl Iterator<Item = &'a LlmStats>) -> Self {
        let mut sums = Self::default();
        for stats in all {
            sums.requests += stats.requests_total;
            sums.completed += stats.completed_total;
            sums.failed += stats.failed_total;
            sums.abandoned += stats.abandoned_total;
            for (status, count) in &stats.status {
                *sums.status.entry(status.to_string()).or_default() += count;
            }
            sums.input += stats.tokens.input.unwrap_or(0);
            sums.output += stats.tokens.output.unwrap_or(0);
            sums.cached += stats.tokens.cached_input.unwrap_or(0);
            sums.cache_written += stats.tokens.cache_creation_input.unwrap_or(0);
            sums.reasoning += stats.tokens.reasoning.unwrap_or(0);
            sums.estimated += stats.tokens_estimated.input + stats.tokens_estimated.output;
        }
        sums
    }
}

/// Holds what one end saw against the record: each exchange either tells what the server wrote down, or says that bytes
/// of it were missed and tells no more than that. Returns how many tell it all; panics where that does not hold.
pub fn exact_or_marked(rows: &[&Request], record: &[Entry]) -> usize {
    assert_eq!(rows.len(), record.len(), "as many exchanges as there were");
    let mut exact = 0;
    for row in rows {
        let id = row.request_id.as_ref().map(hbpf_core::label::Label::as_str);
        let entry = record.iter().find(|entry| id == Some(&format!("req_demo{:08}", entry.id)));
        let truth = entry.map(|entry| {
            let sent = entry.usage_sent;
            (sent.then_some(entry.input), sent.then_some(entry.output), entry.status)
        });
        let seen = (row.tokens.input, row.tokens.output, row.status.unwrap_or(0));
        if row.tokens_source == TokensSource::Reported && truth == Some(seen) && row.phase == Phase::Done {
            exact += 1;
            continue;
        }
        assert!(row.bytes_missed > 0, "neither exact nor marked: {row:?}\n{entry:?}");
        if let Some(entry) = entry {
            assert!(row.tokens.input.unwrap_or(0) <= entry.input, "too much: {row:?}\n{entry:?}");
            assert!(row.tokens.output.unwrap_or(0) <= entry.output, "too much: {row:?}\n{entry:?}");
        }
    }
    let (input, output) =
        (|row: &&Request| row.tokens.input.unwrap_or(0), |row: &&Request| row.tokens.output.unwrap_or(0));
    assert!(rows.iter().map(input).sum::<u64>() <= record.iter().map(|entry| entry.input).sum());
    assert!(rows.iter().map(output).sum::<u64>() <= record.iter().map(|entry| entry.output).sum());
    exact
}

/// The value below which `percent` of all lie (nearest rank).
pub fn percentile(values: &mut [f64], percent: f64) -> f64 {
    assert!(!values.is_empty(), "there is nothing to take a percentile of");
    values.sort_by(f64::total_cmp);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a rank is a small positive number")]
    let rank = (percent / 100.0 * values.len() as f64).ceil() as usize;
    values[rank.clamp(1, values.len()) - 1]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_that_occurred() {
        let mut values: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        assert_eq!(percentile(&mut values, 50.0), 50.0);
        assert_eq!(percentile(&mut values, 99.0), 99.0);
        assert_eq!(percentile(&mut [3.0], 99.0), 3.0);
    }

    #[test]
    fn only_what_went_over_the_wire_counts() {
        let entry = |outcome: &str, sent: bool| -> Entry {
            let line = serde_json::json!({
                "id": 0, "connection": 0, "tls": true, "model_call": true, "status": 200, "outcome": outcome, "request_end_ns": 0,
                "token_ns": [], "end_ns": 0, "usage_sent": sent, "input": 10, "cached_input": 4, "cache_creation_input": 0,
                "output": 3, "reasoning": 0, "request_body_bytes": 0, "response_body_bytes": 0,
            });
            serde_json::from_value(line).unwrap()
        };
        let sums = Sums::of_record(&[entry("done", true), entry("cut", false), entry("client_gone", false)]);
        assert_eq!((sums.requests, sums.completed, sums.failed, sums.abandoned), (3, 1, 1, 1));
        assert_eq!((sums.input, sums.cached, sums.output), (10, 4, 3));
    }
}
