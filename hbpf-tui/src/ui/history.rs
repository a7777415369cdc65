//! What the sparklines are drawn from: a few numbers of each frame, for as long as a wide terminal can show.

use std::collections::VecDeque;

use hbpf_core::snapshot::Snapshot;

/// Frames kept: one column each, more than any terminal is wide.
const CAPACITY: usize = 512;

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
}

impl History {
    /// Adds a frame, dropping the oldest if there is no room.
    pub(crate) fn push(&mut self, snapshot: &Snapshot) {
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

    /// The last `count` values of one of the numbers, oldest first.
    pub(crate) fn last(&self, count: usize, of: fn(&Point) -> Option<f64>) -> Vec<Option<f64>> {
        self.points.iter().skip(self.points.len().saturating_sub(count)).map(of).collect()
    }
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
}
