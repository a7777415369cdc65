//! The threads of a process: which uses most CPU, how long they wait for one, how often they are switched.

use std::collections::HashMap;
use std::path::Path;
use std::time::{Duration, Instant};

use hbpf_core::label::Label;
use hbpf_core::snapshot::HottestThread;

use super::files;
use super::machine::SHORTEST;
use super::stat::Stat;
use super::status::Status;

/// Most threads looked at, each with two small files: of what has more, those with the lowest numbers, commonly the oldest.
const MAX_THREADS: usize = 1024;

/// How coarse CPU time is where the kernel counts it in ticks.
const CLOCK_TICK: Duration = Duration::from_millis(10);

/// In the directory of a process.
const TASKS: &str = "task";

/// Longest `schedstat`, of three numbers, and longest name.
const MAX_LINE_BYTES: usize = 64;

/// What the threads did since the time before.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct ThreadUse {
    /// The one that used most CPU; `None` where none used any.
    pub(super) hottest: Option<HottestThread>,
    /// Time spent ready to run without a CPU, all threads together; `None` where the kernel does not count it.
    pub(super) run_queue_seconds_per_second: Option<f64>,
    /// A thread waited for something.
    pub(super) voluntary_switches_per_second: Option<f64>,
    /// A thread had to make way.
    pub(super) involuntary_switches_per_second: Option<f64>,
}

/// The threads of one process, as they were when they were last looked at.
#[derive(Debug)]
pub(super) struct Threads {
    when: Instant,
    counters: HashMap<u32, Counters>,
    /// Whether there were others.
    truncated: bool,
}

/// Of one thread since its start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Counters {
    cpu_ns: u64,
    /// Where the kernel counts it (`CONFIG_SCHED_INFO`).
    run_delay_ns: Option<u64>,
    voluntary: u64,
    involuntary: u64,
}

impl Threads {
    /// Looks at the threads in this directory of a process; `None` if there are none any more.
    pub(super) fn look(directory: &Path) -> Option<Self> {
        let tasks = directory.join(TASKS);
        let mut ids = files::pids(&tasks);
        let truncated = ids.len() > MAX_THREADS;
        ids.truncate(MAX_THREADS);
        // Some may have ended meanwhile.
        let read = |id| Some((id, Counters::read(&files::process(&tasks, id))?));
        let counters: HashMap<u32, Counters> = ids.into_iter().filter_map(read).collect();
        (!counters.is_empty()).then(|| Self { when: Instant::now(), counters, truncated })
    }

    /// Whether a second look says anything yet.
    pub(super) fn is_old_enough(&self) -> bool {
        self.when.elapsed() >= SHORTEST
    }

    /// What happened since `before`. Threads that have ended meanwhile take what they did with them.
    pub(super) fn since(&self, before: &Self, directory: &Path) -> ThreadUse {
        let seconds = self.when.saturating_duration_since(before.when).as_secs_f64();
        if seconds == 0.0 {
            return ThreadUse::default();
        }
        let longest = self.when.saturating_duration_since(before.when) + CLOCK_TICK;
        let steps: Vec<(u32, Counters)> =
            self.counters.iter().filter_map(|(id, now)| Some((*id, before.step(*id, now, longest)?))).collect();
        let sum = |of: fn(&Counters) -> u64| steps.iter().fold(0u64, |sum, (_, step)| sum.saturating_add(of(step)));
        let delays: Option<Vec<u64>> = steps.iter().map(|(_, step)| step.run_delay_ns).collect();
        let delay_ns = delays.map(|delays| delays.iter().fold(0u64, |sum, delay| sum.saturating_add(*delay)));
        let hottest = steps.iter().max_by_key(|(id, step)| (step.cpu_ns, std::cmp::Reverse(*id)));
        let hottest = hottest.filter(|(_, step)| step.cpu_ns > 0).map(|(id, step)| HottestThread {
            name: name(&files::process(&directory.join(TASKS), *id)),
            cpu_percent: 100.0 * Duration::from_nanos(step.cpu_ns).as_secs_f64() / seconds,
        });
        ThreadUse {
            hottest,
            run_queue_seconds_per_second: delay_ns.map(|ns| Duration::from_nanos(ns).as_secs_f64() / seconds),
            voluntary_switches_per_second: Some(sum(|step| step.voluntary) as f64 / seconds),
            involuntary_switches_per_second: Some(sum(|step| step.involuntary) as f64 / seconds),
        }
    }

    /// What a thread did since this look, which was so long ago at the most.
    fn step(&self, id: u32, now: &Counters, most: Duration) -> Option<Counters> {
        match self.counters.get(&id).and_then(|before| now.since(before)) {
            Some(step) => Some(step),
            // It has started since, also where it has the number of one that has ended. One that has worked for longer
            // was there: a list of threads can lack some while others end.
            None => (!self.truncated && Duration::from_nanos(now.cpu_ns) <= most).then(|| now.clone()),
        }
    }
}

impl Counters {
    fn read(directory: &Path) -> Option<Self> {
        let status = Status::read(directory)?;
        let schedstat = files::read(&directory.join("schedstat"), MAX_LINE_BYTES).ok();
        let schedstat = schedstat.and_then(|file| parse_schedstat(&file.bytes));
        Some(Self {
            cpu_ns: match schedstat {
                Some((cpu_ns, _)) => cpu_ns,
                None => Stat::read_in(directory)?.cpu_ns(),
            },
            run_delay_ns: schedstat.map(|(_, run_delay_ns)| run_delay_ns),
            voluntary: status.voluntary_switches?,
            involuntary: status.involuntary_switches?,
        })
    }

    /// `None` if these are of another thread.
    fn since(&self, before: &Self) -> Option<Self> {
        Some(Self {
            cpu_ns: self.cpu_ns.checked_sub(before.cpu_ns)?,
            run_delay_ns: self.run_delay_ns.zip(before.run_delay_ns).map(|(now, before)| now.saturating_sub(before)),
            voluntary: self.voluntary.checked_sub(before.voluntary)?,
            involuntary: self.involuntary.checked_sub(before.involuntary)?,
        })
    }
}

/// `CPU-NS RUN-DELAY-NS TIMESLICES`
fn parse_schedstat(bytes: &[u8]) -> Option<(u64, u64)> {
    let mut fields = files::fields(bytes.trim_ascii());
    Some((files::number(fields.next()?)?, files::number(fields.next()?)?))
}

/// Reads the bytes as the file that is read here alone.
#[cfg(feature = "fuzzing")]
pub(super) fn parse_as_all(bytes: &[u8]) {
    parse_schedstat(bytes);
}

/// Of a thread; empty where it has just ended.
fn name(directory: &Path) -> Label {
    let bytes = files::read(&directory.join("comm"), MAX_LINE_BYTES).map(|file| file.bytes).unwrap_or_default();
    Label::from_bytes(bytes.strip_suffix(b"\n").unwrap_or(&bytes))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// A directory of a process with these threads: number, CPU and delay in milliseconds, switches of both kinds.
    fn process(threads: &[(u32, u64, u64, u64, u64)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (id, cpu, delay, voluntary, involuntary) in threads {
            let task = dir.path().join("task").join(id.to_string());
            fs::create_dir_all(&task).unwrap();
            fs::write(task.join("schedstat"), format!("{} {} 7\n", cpu * 1_000_000, delay * 1_000_000)).unwrap();
            let switches =
                format!("voluntary_ctxt_switches:\t{voluntary}\nnonvoluntary_ctxt_switches:\t{involuntary}\n");
            fs::write(task.join("status"), switches).unwrap();
            fs::write(task.join("comm"), format!("thread {id}\n")).unwrap();
        }
        dir
    }

    /// What happened between two looks that were so many seconds apart.
    fn between(before: &tempfile::TempDir, now: &tempfile::TempDir, seconds: u64) -> ThreadUse {
        let (mut before, mut after) = (Threads::look(before.path()).unwrap(), Threads::look(now.path()).unwrap());
        after.when = Instant::now() + Duration::from_secs(10);
        before.when = after.when - Duration::from_secs(seconds);
        after.since(&before, now.path())
    }

    #[test]
    fn the_hottest_is_named_and_the_rest_is_summed() {
        let before = process(&[(7, 1000, 100, 10, 1), (8, 0, 0, 0, 0)]);
        let now = process(&[(7, 1200, 300, 20, 1), (8, 2000, 1800, 0, 500), (9, 100, 0, 1, 1)]);
        let used = between(&before, &now, 2);
        let expected = ThreadUse {
            hottest: Some(HottestThread { name: "thread 8".into(), cpu_percent: 100.0 }),
            run_queue_seconds_per_second: Some(1.0),
            voluntary_switches_per_second: Some(5.5),
            involuntary_switches_per_second: Some(250.5),
        };
        assert_eq!(used, expected, "one that has just started did all it did within that time");
    }

    #[test]
    fn a_number_that_is_in_new_hands_counts_from_zero() {
        let used = between(&process(&[(7, 5000, 5000, 500, 500)]), &process(&[(7, 1000, 0, 3, 0)]), 1);
        assert_eq!(used.hottest.unwrap().cpu_percent, 100.0);
        assert_eq!(used.voluntary_switches_per_second, Some(3.0));
    }

    #[test]
    fn a_thread_that_a_look_has_missed_did_not_do_all_of_it_just_now() {
        let used = between(&process(&[(7, 0, 0, 0, 0)]), &process(&[(7, 10, 0, 0, 0), (8, 3_600_000, 0, 9, 9)]), 1);
        assert_eq!(used.hottest.unwrap().name.as_str(), "thread 7");
        assert_eq!(used.voluntary_switches_per_second, Some(0.0));
    }

    #[test]
    fn of_an_idle_process_no_thread_is_hot() {
        let same = process(&[(7, 5000, 5000, 500, 500)]);
        assert_eq!(between(&same, &same, 1).hottest, None);
        assert_eq!(between(&same, &same, 0), ThreadUse::default());
    }

    #[test]
    fn what_the_kernel_does_not_count_is_unknown() {
        let (before, now) = (process(&[(7, 1, 1, 1, 1)]), process(&[(7, 9, 9, 9, 9)]));
        for dir in [&before, &now] {
            fs::write(dir.path().join("task/7/schedstat"), "").unwrap();
            fs::write(dir.path().join("task/7/stat"), super::super::stat::tests::line(7, "x", 1, 0, 1, 1)).unwrap();
        }
        let used = between(&before, &now, 1);
        assert_eq!((used.run_queue_seconds_per_second, used.voluntary_switches_per_second), (None, Some(8.0)));
        assert!(Threads::look(Path::new("/nonexistent")).is_none());
    }

    #[test]
    fn threads_are_bounded() {
        let many: Vec<_> = (1..=MAX_THREADS as u32 + 5).map(|id| (id, 0, 0, 0, 0)).collect();
        let threads = Threads::look(process(&many).path()).unwrap();
        assert_eq!((threads.counters.len(), threads.truncated), (MAX_THREADS, true));
        // One that was left out before has not started since.
        let other = Counters::default();
        assert_eq!(threads.step(MAX_THREADS as u32 + 1, &other, Duration::MAX), None);
    }
}
