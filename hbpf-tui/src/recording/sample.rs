//! What charts are drawn from: a few numbers of each frame, kept for all frames of a recording.

use hbpf_core::label::Label;
use hbpf_core::snapshot::{Distribution, Engine, EngineReplica, Snapshot};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// GPUs of which something is kept.
const MAX_GPUS: usize = 64;

/// Inference servers and replicas of which something is kept.
const MAX_ENGINES: usize = 256;

/// Rows of a heat map for each doubling of the time.
const PER_DOUBLING: f64 = 2.0;

/// The numbers kept of one frame. What a later version adds is unknown of earlier recordings.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Sample {
    pub(crate) at: Timestamp,
    pub(crate) requests_per_second: Option<f64>,
    /// Output tokens per second.
    pub(crate) output: Option<f64>,
    /// Input tokens per second.
    pub(crate) input: Option<f64>,
    /// Time to first token in the window, in seconds.
    pub(crate) ttft_p50: Option<f64>,
    pub(crate) ttft_p99: Option<f64>,
    pub(crate) in_flight: Option<u64>,
    /// Requests that failed or were given up, since the observation began.
    pub(crate) failed: u64,
    /// When the newest of the findings began.
    pub(crate) found: Option<Timestamp>,
    pub(crate) cpu_percent: Option<f64>,
    /// Times to the first token in the window: row of a heat map (see [`row_of`]) and how many.
    pub(crate) heat: Vec<(i32, u64)>,
    /// Index and utilization in percent.
    pub(crate) gpus: Vec<(u32, Option<f64>)>,
    /// Requests that run on inference servers and on their replicas.
    pub(crate) engines: Vec<(EngineKey, Option<f64>)>,
}

/// An inference server, or one of its replicas.
pub(crate) type EngineKey = (u32, Label, Option<Label>);

impl Default for Sample {
    fn default() -> Self {
        Self {
            at: Timestamp::UNIX_EPOCH,
            requests_per_second: None,
            output: None,
            input: None,
            ttft_p50: None,
            ttft_p99: None,
            in_flight: None,
            failed: 0,
            found: None,
            cpu_percent: None,
            heat: Vec::new(),
            gpus: Vec::new(),
            engines: Vec::new(),
        }
    }
}

impl Sample {
    pub(crate) fn of(snapshot: &Snapshot) -> Self {
        let totals = &snapshot.totals;
        let first_token = totals.latency.window.time_to_first_token_seconds.as_ref();
        let gpus = snapshot.gpus.iter().take(MAX_GPUS);
        let engines = snapshot.engines.iter().flat_map(|engine| {
            let whole = (engine_key(engine, None), engine.requests_running);
            let of_replica = |replica| (engine_key(engine, Some(replica)), replica.requests_running);
            std::iter::once(whole).chain(engine.replicas.iter().map(of_replica)).collect::<Vec<_>>()
        });
        Self {
            at: snapshot.captured_at,
            requests_per_second: totals.requests_per_second,
            output: totals.tokens_per_second.output,
            input: totals.tokens_per_second.input,
            ttft_p50: first_token.map(|all| all.p50),
            ttft_p99: first_token.map(|all| all.p99),
            in_flight: totals.requests_in_flight,
            failed: totals.failed_total.saturating_add(totals.abandoned_total),
            found: snapshot.findings.iter().map(|finding| finding.since).max(),
            cpu_percent: snapshot.host.cpu_percent,
            heat: first_token.map(heat).unwrap_or_default(),
            gpus: gpus
                .map(|gpu| (gpu.index, gpu.utilization_percent.filter(|_| gpu.stale_seconds.is_none())))
                .collect(),
            engines: engines.take(MAX_ENGINES).collect(),
        }
    }

    /// A GPU's utilization, in percent.
    pub(crate) fn gpu(&self, index: u32) -> Option<f64> {
        self.gpus.iter().find(|(of, _)| *of == index).and_then(|(_, value)| *value)
    }

    /// Requests that run on a server, or on one of its replicas.
    pub(crate) fn engine(&self, wanted: &EngineKey) -> Option<f64> {
        self.engines.iter().find(|(key, _)| key == wanted).and_then(|(_, value)| *value)
    }
}

pub(crate) fn engine_key(engine: &Engine, replica: Option<&EngineReplica>) -> EngineKey {
    (engine.pid, engine.endpoint.clone(), replica.map(|replica| replica.label.clone()))
}

/// The row of a heat map that a time in seconds belongs to: row 0 begins at a second.
pub(crate) fn row_of(seconds: f64) -> i32 {
    // What is none of a finite number saturates.
    (seconds.log2() * PER_DOUBLING).floor() as i32
}

/// Where a row begins, in seconds.
pub(crate) fn row_begins(row: i32) -> f64 {
    (f64::from(row) / PER_DOUBLING).exp2()
}

fn heat(times: &Distribution) -> Vec<(i32, u64)> {
    let base = (-f64::from(times.scale)).exp2();
    let mut rows: Vec<(i32, u64)> = Vec::new();
    for (index, count) in &times.buckets {
        // In the middle of its bucket, for its bounds may be those of a row.
        let row = row_of(((f64::from(*index) + 0.5) * base).exp2());
        match rows.last_mut() {
            Some((last, sum)) if *last == row => *sum = sum.saturating_add(*count),
            _ => rows.push((row, *count)),
        }
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;

    #[test]
    fn a_stale_gpu_has_a_hole_and_one_that_is_gone_has_none() {
        let mut snapshot = fixture::rich();
        snapshot.gpus = fixture::gpus();
        snapshot.gpus[0].utilization_percent = Some(50.0);
        snapshot.gpus[0].stale_seconds = None;
        let index = snapshot.gpus[0].index;
        assert_eq!(Sample::of(&snapshot).gpu(index), Some(50.0));
        snapshot.gpus[0].stale_seconds = Some(3.0);
        assert_eq!(Sample::of(&snapshot).gpu(index), None);
        snapshot.gpus.clear();
        assert!(Sample::of(&snapshot).gpus.is_empty());
    }

    #[test]
    fn every_time_of_a_heat_map_is_in_its_row() {
        for seconds in [0.001, 0.35, 0.5, 1.0, 1.3, 60.0] {
            let row = row_of(seconds);
            assert!(row_begins(row) <= seconds && seconds < row_begins(row + 1), "{seconds} in {row}");
        }
        let snapshot = fixture::rich();
        let times = snapshot.totals.latency.window.time_to_first_token_seconds.as_ref().unwrap();
        let heat = Sample::of(&snapshot).heat;
        assert_eq!(heat.iter().map(|(_, count)| count).sum::<u64>(), times.buckets.iter().map(|(_, n)| n).sum::<u64>());
        let (first, last) = (heat[0].0, heat.last().unwrap().0);
        assert!(row_begins(first) <= times.p50 && times.p50 <= row_begins(last + 1), "{heat:?}");
    }
}
