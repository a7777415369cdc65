//! Use of the machine by processes, sample by sample: little of all of them, more of those that matter, within bounds.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::budget::Budget;
use super::cgroup::Cgroups;
use super::cgroup_path::{self, Paths};
use super::files;
use super::io::Io;
use super::machine::SHORTEST;
use super::stat::Stat;
use super::status::Status;
use super::threads::{ThreadUse, Threads};
use crate::protocol::{MAX_PROCESSES, Others, ProcessDetail, ProcessSample};

/// Processes remembered at a time.
const MAX_REMEMBERED: usize = 32_768;

/// What processes cost that are sampled in turn. One takes some 10 us: hosts with up to a thousand are gone through every
/// second.
const IN_TURN_SHARE: f64 = 0.01;
const IN_TURN_BURST: Duration = Duration::from_millis(20);

/// What the close looks cost, as a part of all cores, and as a part of one core at the least and at the most. A process takes
/// some 40 us, and each further thread 15: on two cores 60 processes with a thread each are always of now, on 20 cores or more
/// one with 2,000 threads.
const CLOSELY_SHARE_OF_MACHINE: f64 = 0.0015;
const CLOSELY_SHARE: std::ops::RangeInclusive<f64> = 0.003..=0.03;
const CLOSELY_BURST: Duration = Duration::from_millis(50);

/// Takes samples.
#[derive(Debug)]
pub(super) struct Sampler {
    proc_root: PathBuf,
    cgroups: Cgroups,
    known: HashMap<u32, Known>,
    round: Round,
    in_turn: Budget,
    closely: Budget,
    /// Where the next close looks begin.
    next_close: u32,
}

/// One way through all processes, in several samples where there are many.
#[derive(Debug, Default)]
struct Round {
    /// Still to be sampled, the next one last.
    left: Vec<u32>,
    /// Sampled in it.
    seen: HashSet<u32>,
    /// Those that are complete.
    completed: u64,
}

/// A process at the sample before.
#[derive(Debug)]
struct Known {
    start_ticks: u64,
    when: Instant,
    cpu_ticks: u64,
    major_faults: u64,
    child_faults: u64,
    cpu_percent: Option<f64>,
    major_faults_per_second: Option<f64>,
    /// At the last close look, if that was one sample ago or so.
    threads: Option<Threads>,
    /// Likewise, with what had come of its children then.
    io: Option<(Io, u64)>,
}

/// A sample.
#[derive(Debug, Default)]
pub struct Samples {
    /// Ascending by pid.
    pub processes: Vec<ProcessSample>,
    /// Of those looked at closely, as far as the budget went; the others have their turn next.
    pub details: Vec<ProcessDetail>,
    /// How often all processes have been gone through.
    pub rounds: u64,
}

impl Sampler {
    pub(super) fn new(proc_root: PathBuf) -> Self {
        Self {
            cgroups: Cgroups::new(proc_root.join("self/mountinfo")),
            proc_root,
            known: HashMap::new(),
            round: Round::default(),
            in_turn: Budget::new(IN_TURN_SHARE, IN_TURN_BURST),
            closely: Budget::new(closely_share(), CLOSELY_BURST),
            next_close: 0,
        }
    }

    /// The process has ended.
    pub(super) fn note_exit(&mut self, pid: u32) {
        self.known.remove(&pid);
    }

    pub(super) fn sample(&mut self, closely: &[u32], others: Others) -> Samples {
        let closely: BTreeSet<u32> = closely.iter().copied().take(MAX_PROCESSES).collect();
        let mut processes: Vec<_> = closely.iter().filter_map(|pid| self.sample_one(*pid)).collect();
        processes.extend(self.sample_others(&closely, others));
        processes.sort_unstable_by_key(|sample| sample.pid);
        Samples { processes, details: self.look_closely(&closely), rounds: self.round.completed }
    }

    fn sample_others(&mut self, closely: &BTreeSet<u32>, others: Others) -> Vec<ProcessSample> {
        let whole = others == Others::All || self.round.completed == 0;
        if whole || self.round.left.is_empty() {
            self.round.left = files::pids(&self.proc_root);
            self.round.left.truncate(MAX_REMEMBERED);
            self.round.left.reverse();
            self.round.seen.clear();
        }
        let mut samples = Vec::new();
        self.in_turn.begin();
        while whole || self.in_turn.is_left() {
            let Some(pid) = self.round.left.pop() else { break };
            self.round.seen.insert(pid);
            if !closely.contains(&pid) {
                samples.extend(self.sample_one(pid));
            }
        }
        self.in_turn.end();
        if self.round.left.is_empty() {
            self.round.completed += 1;
            let seen = &self.round.seen;
            self.known.retain(|pid, _| seen.contains(pid) || closely.contains(pid));
        }
        samples
    }

    fn sample_one(&mut self, pid: u32) -> Option<ProcessSample> {
        let stat = Stat::read(&self.proc_root, pid).filter(|stat| !stat.kernel_thread)?;
        let now = Instant::now();
        let known = self.known.entry(pid).or_insert_with(|| Known::new(&stat, now));
        if known.start_ticks != stat.start_ticks {
            *known = Known::new(&stat, now);
        }
        known.update(&stat, now);
        Some(ProcessSample {
            pid,
            start_time_ns: stat.start_time_ns(),
            cpu_percent: known.cpu_percent,
            threads: stat.threads,
            major_faults_per_second: known.major_faults_per_second,
            resident_bytes: stat.resident_pages.saturating_mul(procfs::page_size()),
        })
    }

    /// As many as the budget suffices for, beginning where it ended the time before.
    fn look_closely(&mut self, pids: &BTreeSet<u32>) -> Vec<ProcessDetail> {
        // What is no longer looked at is too old for a difference when it is looked at again.
        self.known
            .iter_mut()
            .filter(|(pid, _)| !pids.contains(pid))
            .for_each(|(_, known)| (known.threads, known.io) = (None, None));
        let mut details = Vec::new();
        self.closely.begin();
        for pid in pids.range(self.next_close..).chain(pids.range(..self.next_close)) {
            if !self.closely.is_left() {
                self.next_close = *pid;
                break;
            }
            details.extend(self.look_at(*pid));
        }
        self.closely.end();
        details
    }

    fn look_at(&mut self, pid: u32) -> Option<ProcessDetail> {
        let directory = files::process(&self.proc_root, pid);
        let known = self.known.get_mut(&pid)?;
        if known.threads.as_ref().is_some_and(|before| !before.is_old_enough()) {
            return None;
        }
        let threads = Threads::look(&directory)?;
        let used = known.threads.as_ref().map(|before| threads.since(before, &directory)).unwrap_or_default();
        known.threads = Some(threads);
        let io = Io::read(&directory);
        let of_now = io.map(|io| (io, known.child_faults));
        let io_rates = of_now.zip(known.io).and_then(|((now, children), (before, children_before))| {
            // What a child has done in all its life is not of this moment, and was told beside the child.
            now.since(&before).filter(|_| children == children_before)
        });
        known.io = of_now;
        let status = Status::read(&directory)?;
        let groups = files::read(&directory.join("cgroup"), cgroup_path::MAX_BYTES).map(|file| file.bytes);
        let ThreadUse {
            hottest,
            run_queue_seconds_per_second,
            voluntary_switches_per_second,
            involuntary_switches_per_second,
        } = used;
        Some(ProcessDetail {
            pid,
            start_time_ns: super::stat::nanos(known.start_ticks),
            hottest_thread: hottest,
            run_queue_seconds_per_second,
            voluntary_switches_per_second,
            involuntary_switches_per_second,
            resident_bytes: status.resident_bytes,
            shared_bytes: status.shared_bytes,
            swap_bytes: status.swap_bytes,
            disk_read_bytes_per_second: io_rates.map(|(read, _)| read),
            disk_write_bytes_per_second: io_rates.map(|(_, written)| written),
            cgroup: self.cgroups.sample(&Paths::parse(&groups.unwrap_or_default())),
        })
    }
}

fn closely_share() -> f64 {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    (cores as f64 * CLOSELY_SHARE_OF_MACHINE).clamp(*CLOSELY_SHARE.start(), *CLOSELY_SHARE.end())
}

impl Known {
    fn new(stat: &Stat, now: Instant) -> Self {
        Self {
            start_ticks: stat.start_ticks,
            when: now,
            cpu_ticks: stat.cpu_ticks,
            major_faults: stat.major_faults,
            child_faults: stat.child_faults,
            cpu_percent: None,
            major_faults_per_second: None,
            threads: None,
            io: None,
        }
    }

    /// Takes the numbers of now. Until some time has passed the rates stay as they are.
    fn update(&mut self, stat: &Stat, now: Instant) {
        self.child_faults = stat.child_faults;
        let elapsed = now.duration_since(self.when);
        if elapsed < SHORTEST {
            return;
        }
        let ticks = stat.cpu_ticks.saturating_sub(self.cpu_ticks);
        let cpu_seconds = ticks as f64 / procfs::ticks_per_second().max(1) as f64;
        let faults = stat.major_faults.saturating_sub(self.major_faults);
        self.cpu_percent = Some(100.0 * cpu_seconds / elapsed.as_secs_f64());
        self.major_faults_per_second = Some(faults as f64 / elapsed.as_secs_f64());
        (self.when, self.cpu_ticks, self.major_faults) = (now, stat.cpu_ticks, stat.major_faults);
    }
}
