//! Bounds on what reading `/proc` costs.

use std::time::{Duration, Instant};

use super::files;

/// CPU time of this thread in stock: a share of all time, and so much of it at once. CPU time, so that a busy machine
/// shortens nothing.
#[derive(Debug)]
pub(super) struct Budget {
    share: f64,
    burst: Duration,
    /// In seconds. Below zero is what was taken too much, as by one thing that took long; as much as fits in, and no more:
    /// else who makes one thing long would stop all others for as long as they like.
    left: f64,
    filled: Instant,
    began: Duration,
}

impl Budget {
    /// Full.
    pub(super) fn new(share: f64, burst: Duration) -> Self {
        Self { share, burst, left: burst.as_secs_f64(), filled: Instant::now(), began: Duration::ZERO }
    }

    /// What is done from now on counts, until [`Self::end`].
    pub(super) fn begin(&mut self) {
        self.left = (self.left + self.filled.elapsed().as_secs_f64() * self.share).min(self.burst.as_secs_f64());
        self.filled = Instant::now();
        self.began = files::cpu_time();
    }

    pub(super) fn is_left(&self) -> bool {
        self.used().as_secs_f64() < self.left
    }

    pub(super) fn end(&mut self) {
        self.left = (self.left - self.used().as_secs_f64()).max(-self.burst.as_secs_f64());
    }

    /// Takes all that is in stock.
    #[cfg(test)]
    pub(super) fn spend(&mut self) {
        self.left = 0.0;
        self.filled = Instant::now();
    }

    fn used(&self) -> Duration {
        files::cpu_time().saturating_sub(self.began)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_thing_that_takes_long_stops_the_others_for_a_bounded_time() {
        let mut budget = Budget::new(0.0, Duration::from_millis(1));
        budget.begin();
        while budget.used() < Duration::from_millis(20) {}
        budget.end();
        assert!((-0.001..0.0).contains(&budget.left), "{}", budget.left);
    }
}
