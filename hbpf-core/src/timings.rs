//! Times that were counted in steps where they arose.
//!
//! The kernel side does not record single times: it counts how many fell into each of many narrow steps, and how long those took
//! together. So numbers and sums are exact, and percentiles as fine as the steps.

use std::collections::BTreeMap;

use crate::aggregate::exponential;
use crate::snapshot::Distribution;

const SECONDS: f64 = 1e-9;

/// Times by step. There are at most as many entries as there are steps.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Timings(BTreeMap<u16, Step>);

#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Step {
    count: u64,
    nanoseconds: u64,
}

impl Step {
    /// The mean of its times, which is less than a step away from each of them.
    fn seconds(self) -> f64 {
        self.nanoseconds as f64 / self.count as f64 * SECONDS
    }
}

impl Timings {
    /// Adds `count` times that fell into a step and took so long together. Longer times are in steps of higher numbers.
    pub fn add(&mut self, step: u16, count: u64, nanoseconds: u64) {
        if count > 0 {
            let found = self.0.entry(step).or_default();
            found.count = found.count.saturating_add(count);
            found.nanoseconds = found.nanoseconds.saturating_add(nanoseconds);
        }
    }

    /// Adds all of another's.
    pub fn extend(&mut self, other: &Self) {
        for (step, times) in &other.0 {
            self.add(*step, times.count, times.nanoseconds);
        }
    }

    /// In seconds. The least and the greatest are the means of the first and the last step; `None` where there are none.
    pub fn distribution(&self) -> Option<Distribution> {
        let count = self.0.values().fold(0_u64, |sum, step| sum.saturating_add(step.count));
        let (first, last) = (self.0.values().next()?, self.0.values().next_back()?);
        let sum = self.0.values().map(|step| step.nanoseconds as f64 * SECONDS).sum::<f64>();
        let mut buckets: BTreeMap<i32, u64> = BTreeMap::new();
        for step in self.0.values() {
            let bucket = buckets.entry(exponential::index_of(step.seconds())).or_default();
            *bucket = bucket.saturating_add(step.count);
        }
        Some(Distribution {
            count,
            sum,
            min: first.seconds(),
            mean: sum / count as f64,
            p50: self.quantile(0.5, count)?,
            p90: self.quantile(0.9, count)?,
            p95: self.quantile(0.95, count)?,
            p99: self.quantile(0.99, count)?,
            max: last.seconds(),
            scale: exponential::SCALE,
            buckets: buckets.into_iter().collect(),
        })
    }

    fn quantile(&self, share: f64, count: u64) -> Option<f64> {
        let rank = ((share * count as f64).ceil() as u64).max(1);
        let mut below = 0_u64;
        let reaches = |step: &&Step| {
            below = below.saturating_add(step.count);
            below >= rank
        };
        self.0.values().find(reaches).map(|step| step.seconds())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_sums_are_exact_and_percentiles_means_of_steps() {
        let mut timings = Timings::default();
        assert_eq!(timings.distribution(), None);
        timings.add(7, 0, 5);
        assert_eq!(timings.distribution(), None, "nothing was counted");
        // Ninety-eight of a millisecond or so, two of a second.
        timings.add(320, 90, 90 * 1_000_000);
        timings.add(321, 8, 8 * 1_050_000);
        timings.add(480, 2, 2_000_000_000);
        let found = timings.distribution().unwrap();
        assert_eq!((found.count, found.sum), (100, 2.0984));
        assert_eq!((found.min, found.p50, found.p90), (0.001, 0.001, 0.001));
        assert!((found.p95 - 0.00105).abs() < 1e-9, "{}", found.p95);
        assert_eq!((found.p99, found.max, found.mean), (1.0, 1.0, 0.020984));
        assert_eq!(found.buckets.iter().map(|(_, count)| count).sum::<u64>(), 100);
    }

    #[test]
    fn sums_of_two_are_those_of_all() {
        let (mut one, mut other, mut both) = (Timings::default(), Timings::default(), Timings::default());
        for (step, count, nanoseconds) in [(1, 2, 3), (4, 5, 60), (1, 7, 9)] {
            if step == 1 { &mut one } else { &mut other }.add(step, count, nanoseconds);
            both.add(step, count, nanoseconds);
        }
        one.extend(&other);
        assert_eq!(one, both);
    }

    #[test]
    fn what_overflows_stays_at_the_most() {
        let mut timings = Timings::default();
        for _ in 0..3 {
            timings.add(0, u64::MAX, u64::MAX);
            timings.add(u16::MAX, u64::MAX, u64::MAX);
        }
        assert_eq!(timings.distribution().unwrap().count, u64::MAX);
    }
}
