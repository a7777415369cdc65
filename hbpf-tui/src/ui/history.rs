//! What the sparklines are drawn from: a few numbers of each frame, for as long as a wide terminal can show.

use std::collections::{BTreeMap, VecDeque};

use hbpf_core::label::Label;
use hbpf_core::snapshot::{Engine, EngineReplica, Snapshot};

/// Frames kept: one column each, more than any terminal is wide.
const CAPACITY: usize = 512;

/// GPUs of which it is kept.
const MAX_GPUS: usize = 64;

/// Inference servers and replicas of which it is kept.
const MAX_ENGINES: usize = 256;

/// An inference server, or one of its replicas.
type EngineKey = (u32, Label, Option<Label>);

/// The numbers kept of one frame.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Point {
    pub(crate) requests_per_second: Option<f64>,
    pub(crate) output_per_second: Option<f64>,
    pub(crate) input_per_second: Option<f64>,
    pub(crate) first_token_p50: Option<f64>,
}

/// The latest frames' numbers, oldest first.
#[derive(Clone, Debug, Default)]
pub(crate) struct History {
    points: VecDeque<Point>,
    /// Utilization of each GPU, by its index, in the same frames.
    gpus: BTreeMap<u32, VecDeque<Option<f64>>>,
    /// Running requests of inference servers and replicas, likewise.
    engines: BTreeMap<EngineKey, VecDeque<Option<f64>>>,
}

impl History {
    /// Adds a frame, dropping the oldest if there is no room.
    pub(crate) fn push(&mut self, snapshot: &Snapshot) {
        for gpu in snapshot.gpus.iter().take(MAX_GPUS) {
            let value = gpu.utilization_percent.filter(|_| gpu.stale_seconds.is_none());
            push(self.gpus.entry(gpu.index).or_default(), value);
        }
        let of = |engine: &Engine| {
            let whole = (engine_key(engine, None), engine.requests_running);
            let of_replica = |replica| (engine_key(engine, Some(replica)), replica.requests_running);
            std::iter::once(whole).chain(engine.replicas.iter().map(of_replica)).collect::<Vec<_>>()
        };
        let engines: BTreeMap<EngineKey, Option<f64>> =
            snapshot.engines.iter().flat_map(of).take(MAX_ENGINES).collect();
        self.engines.retain(|key, _| engines.contains_key(key));
        for (key, running) in engines {
            push(self.engines.entry(key).or_default(), running);
        }
        // Those that are no longer there, and whatever a recording may make up.
        self.gpus.retain(|index, _| snapshot.gpus.iter().any(|gpu| gpu.index == *index));
        let totals = &snapshot.totals;
        if self.points.len() == CAPACITY {
            self.points.pop_front();
        }
        self.points.push_back(Point {
            requests_per_second: totals.requests_per_second,
            output_per_second: totals.tokens_per_second.output,
            input_per_second: totals.tokens_per_second.input,
            first_token_p50: totals.latency.window.time_to_first_token_seconds.as_ref().map(|d| d.p50),
        });
    }

    /// The last `count` numbers of requests that ran on a server, or on one of its replicas, oldest first.
    pub(crate) fn engine(&self, engine: &Engine, replica: Option<&EngineReplica>, count: usize) -> Vec<Option<f64>> {
        last(self.engines.get(&engine_key(engine, replica)), count)
    }

    /// The last `count` values of a GPU's utilization in percent, oldest first.
    pub(crate) fn gpu(&self, index: u32, count: usize) -> Vec<Option<f64>> {
        last(self.gpus.get(&index), count)
    }

    /// The last `count` values of one of the numbers, oldest first.
    pub(crate) fn last(&self, count: usize, of: fn(&Point) -> Option<f64>) -> Vec<Option<f64>> {
        self.points.iter().skip(self.points.len().saturating_sub(count)).map(of).collect()
    }
}

fn engine_key(engine: &Engine, replica: Option<&EngineReplica>) -> EngineKey {
    (engine.pid, engine.endpoint.clone(), replica.map(|replica| replica.label.clone()))
}

fn push(values: &mut VecDeque<Option<f64>>, value: Option<f64>) {
    if values.len() == CAPACITY {
        values.pop_front();
    }
    values.push_back(value);
}

fn last(values: Option<&VecDeque<Option<f64>>>, count: usize) -> Vec<Option<f64>> {
    let skipped = values.map_or(0, |values| values.len().saturating_sub(count));
    values.into_iter().flatten().skip(skipped).copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;

    #[test]
    fn history_is_bounded_and_keeps_the_latest() {
        let mut history = History::default();
        let mut snapshot = fixture::rich();
        for i in 0..CAPACITY + 3 {
            snapshot.totals.requests_per_second = Some(i as f64);
            history.push(&snapshot);
        }
        assert_eq!(history.points.len(), CAPACITY);
        assert_eq!(history.last(2, |p| p.requests_per_second), [Some(513.0), Some(514.0)]);
    }

    #[test]
    fn a_stale_gpu_has_a_hole_in_its_history_and_one_that_is_gone_has_none() {
        let mut history = History::default();
        let mut snapshot = fixture::rich();
        snapshot.gpus = fixture::gpus();
        for i in 0..CAPACITY + 3 {
            snapshot.gpus[0].utilization_percent = Some(i as f64);
            snapshot.gpus[0].stale_seconds = (i == CAPACITY + 1).then_some(3.0);
            history.push(&snapshot);
        }
        assert_eq!(history.gpu(0, 3), [Some(512.0), None, Some(514.0)]);
        assert_eq!(history.gpu(0, 1000).len(), CAPACITY);
        snapshot.gpus.clear();
        history.push(&snapshot);
        assert!(history.gpu(0, 3).is_empty());
    }
}
