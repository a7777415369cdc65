//! Processes whose first thread has ended, where the kernel does not say whether others go on.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use hbpf_ebpf::LifecycleEvent;

use crate::process::stat::Stat;

/// Time between two looks at such a process: the threads of one that is killed end within milliseconds, and nobody sees a
/// tenth of a second.
const INTERVAL: Duration = Duration::from_millis(100);

/// Most processes that wait for their last thread. Programs whose first thread ends before the others are rare; beyond
/// this many, a process counts as ended with its first.
const MAX_WAITING: usize = 256;

/// Ends that may not be ends yet.
#[derive(Default)]
pub(super) struct Endings {
    waiting: BTreeMap<u32, (Instant, LifecycleEvent)>,
}

impl Endings {
    /// Takes the end of a process's first thread. Gives it back if the process has ended with it.
    pub(super) fn first_thread(&mut self, event: LifecycleEvent, now: Instant, root: &Path) -> Option<LifecycleEvent> {
        if self.waiting.len() >= MAX_WAITING || is_over(root, event.pid) {
            return Some(event);
        }
        self.waiting.insert(event.pid, (now + INTERVAL, event));
        None
    }

    /// When the next process is to be looked at.
    pub(super) fn next(&self) -> Option<Instant> {
        self.waiting.values().map(|(when, _)| *when).min()
    }

    /// Processes that have ended by now.
    pub(super) fn due(&mut self, now: Instant, root: &Path) -> Vec<LifecycleEvent> {
        let mut over = Vec::new();
        self.waiting.retain(|pid, (when, event)| {
            if *when > now {
                return true;
            }
            *when = now + INTERVAL;
            let ended = is_over(root, *pid);
            if ended {
                over.push(*event);
            }
            !ended
        });
        over
    }
}

/// A first thread that has ended stays in the count until the others have as well.
fn is_over(root: &Path, pid: u32) -> bool {
    Stat::read(root, pid).is_none_or(|stat| stat.threads <= 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::stat::tests::line;

    fn threads(root: &Path, pid: u32, threads: u32) {
        let dir = root.join(pid.to_string());
        std::fs::create_dir_all(&dir).unwrap();
        let stat = line(pid, "x", 1, 0, 100, 1).replace(" 20 0 3 0 ", &format!(" 20 0 {threads} 0 "));
        std::fs::write(dir.join("stat"), stat).unwrap();
    }

    fn end(pid: u32) -> LifecycleEvent {
        LifecycleEvent { kind: hbpf_ebpf::lifecycle::EXIT, pid, timestamp_ns: 5, comm: [0; 16] }
    }

    #[test]
    fn a_process_ends_with_its_last_thread() {
        let root = tempfile::tempdir().unwrap();
        let now = Instant::now();
        let mut endings = Endings::default();
        assert_eq!(endings.first_thread(end(4), now, root.path()), Some(end(4)), "it has gone already");
        threads(root.path(), 5, 1);
        assert_eq!(endings.first_thread(end(5), now, root.path()), Some(end(5)), "nobody has waited for it yet");
        threads(root.path(), 6, 3);
        assert_eq!(endings.first_thread(end(6), now, root.path()), None);
        assert_eq!(endings.next(), Some(now + INTERVAL));
        assert_eq!(endings.due(now, root.path()), []);
        assert_eq!(endings.due(now + INTERVAL, root.path()), []);
        threads(root.path(), 6, 1);
        assert_eq!(endings.due(now + INTERVAL, root.path()), [], "it is looked at now and then");
        assert_eq!(endings.due(now + 2 * INTERVAL, root.path()), [end(6)]);
        assert_eq!(endings.next(), None);
    }

    #[test]
    fn those_that_wait_are_bounded() {
        let root = tempfile::tempdir().unwrap();
        let mut endings = Endings::default();
        let told = (1..=MAX_WAITING as u32 + 1).filter_map(|pid| {
            threads(root.path(), pid, 2);
            endings.first_thread(end(pid), Instant::now(), root.path())
        });
        assert_eq!(told.map(|event| event.pid).collect::<Vec<_>>(), [MAX_WAITING as u32 + 1]);
    }
}
