//! Time as the core knows it: nanoseconds of the kernel's monotonic clock, handed in by the caller.

use std::ops::Sub;
use std::time::Duration;

/// A moment on CLOCK_MONOTONIC, in nanoseconds, as the kernel stamps records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Nanos(pub u64);

impl Nanos {
    /// Time from `earlier` to `self`; zero if `earlier` is in fact later.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// Seconds from `earlier` to `self`; zero if `earlier` is in fact later.
    pub fn seconds_since(self, earlier: Self) -> f64 {
        self.since(earlier).as_secs_f64()
    }

    /// The moment `duration` after this one.
    pub fn after(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)))
    }
}

impl Sub for Nanos {
    type Output = Duration;

    fn sub(self, earlier: Self) -> Duration {
        self.since(earlier)
    }
}

/// Relates the monotonic clock to the wall clock: both read at the same moment by the host.
#[derive(Clone, Copy, Debug)]
pub struct WallClock {
    /// The monotonic clock at that moment.
    pub monotonic: Nanos,
    /// The wall clock at that moment.
    pub wall: jiff::Timestamp,
}

impl WallClock {
    /// The wall-clock time of a monotonic moment, before or after the reading.
    pub fn at(&self, moment: Nanos) -> jiff::Timestamp {
        let offset = i128::from(moment.0) - i128::from(self.monotonic.0);
        jiff::Timestamp::from_nanosecond(self.wall.as_nanosecond() + offset).unwrap_or(self.wall)
    }
}
