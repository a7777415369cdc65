//! When to look at which process again.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

/// When a new process is looked at, counted from its start: the loader maps libraries within milliseconds, interpreters
/// load theirs when they are imported. Whatever comes later is found by the scan of all processes.
const DELAYS: [Duration; 6] = [
    Duration::from_millis(3),
    Duration::from_millis(12),
    Duration::from_millis(50),
    Duration::from_millis(250),
    Duration::from_secs(1),
    Duration::from_secs(3),
];

/// The first of them that is needed when new processes have their probes by themselves.
const UNHURRIED: usize = 2;

/// Most processes that wait to be looked at: a storm of short-lived ones must not take our memory.
const MAX_WAITING: usize = 4096;

/// Which process is to be looked at when.
#[derive(Default)]
pub(super) struct Rescans {
    /// By time, with the number of looks taken.
    waiting: BTreeMap<(Instant, u32), usize>,
    started: HashMap<u32, Instant>,
}

impl Rescans {
    /// A process has executed a program. `hurried`: until it is looked at, it is not probed.
    pub(super) fn started(&mut self, pid: u32, now: Instant, hurried: bool) {
        if self.started.len() >= MAX_WAITING && !self.started.contains_key(&pid) {
            return;
        }
        self.ended(pid);
        self.started.insert(pid, now);
        let first = if hurried { 0 } else { UNHURRIED };
        self.waiting.insert((now + DELAYS[first], pid), first);
    }

    /// A process has ended.
    pub(super) fn ended(&mut self, pid: u32) {
        if let Some(start) = self.started.remove(&pid) {
            for delay in DELAYS {
                self.waiting.remove(&(start + delay, pid));
            }
        }
    }

    /// When the next process is to be looked at.
    pub(super) fn next(&self) -> Option<Instant> {
        self.waiting.first_key_value().map(|((when, _), _)| *when)
    }

    /// Processes to look at now.
    pub(super) fn due(&mut self, now: Instant) -> Vec<u32> {
        let mut pids = Vec::new();
        while let Some(entry) = self.waiting.first_entry()
            && entry.key().0 <= now
        {
            let ((_, pid), looks) = entry.remove_entry();
            pids.push(pid);
            match (DELAYS.get(looks + 1), self.started.get(&pid)) {
                (Some(delay), Some(start)) => {
                    self.waiting.insert((*start + *delay, pid), looks + 1);
                }
                _ => {
                    self.started.remove(&pid);
                }
            }
        }
        // After a pause several looks at one process are due at once; one is enough.
        pids.sort_unstable();
        pids.dedup();
        pids
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_looked_at_several_times() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut rescans = Rescans::default();
        rescans.started(7, start, false);
        rescans.started(9, at(10), false);
        assert_eq!(rescans.next(), Some(at(50)));
        assert!(rescans.due(at(49)).is_empty());
        assert_eq!(rescans.due(at(60)), [7, 9]);
        assert_eq!(rescans.due(at(255)), [7]);
        rescans.ended(9);
        assert_eq!(rescans.due(at(60_000)), [7], "two looks are due, one is enough");
        assert_eq!(rescans.next(), None);
        assert!(rescans.started.is_empty() && rescans.waiting.is_empty());
    }

    #[test]
    fn in_a_hurry_a_process_is_looked_at_sooner() {
        let start = Instant::now();
        let mut rescans = Rescans::default();
        rescans.started(7, start, true);
        let mut looks = Vec::new();
        while let Some(next) = rescans.next() {
            looks.push(next - start);
            assert_eq!(rescans.due(next), [7]);
        }
        assert_eq!(looks, DELAYS);
    }

    #[test]
    fn executing_again_starts_over() {
        let start = Instant::now();
        let mut rescans = Rescans::default();
        rescans.started(7, start, false);
        rescans.due(start + DELAYS[UNHURRIED]);
        let again = start + Duration::from_millis(100);
        rescans.started(7, again, false);
        assert_eq!(rescans.waiting.len(), 1);
        assert_eq!(rescans.next(), Some(again + DELAYS[UNHURRIED]));
    }

    #[test]
    fn waiting_processes_are_bounded() {
        let mut rescans = Rescans::default();
        let now = Instant::now();
        for pid in 0..10_000 {
            rescans.started(pid, now, false);
        }
        assert_eq!((rescans.started.len(), rescans.waiting.len()), (MAX_WAITING, MAX_WAITING));
    }
}
