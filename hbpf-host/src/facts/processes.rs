//! Which processes there are, what they are and what they use, by the latest word of the helper.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use hbpf_core::aggregate::WorkloadFacts;
use hbpf_core::label::Label;
use hbpf_core::snapshot::{Disk, DiskDevice, Process, TlsVisibility, Visibility};
use jiff::Timestamp;

use super::counts::Counts;
use crate::protocol::{Counted, Held, MAX_PROCESSES, ProcessDetail, ProcessInfo, ProcessSample};

/// Processes shown besides those that talk to models: the ones that use the machine most. A screen holds fewer.
const MAX_BYSTANDERS: usize = 200;

/// Those of them that are looked at closely: the ones that use most CPU, and as many again of which most was counted.
const MAX_CLOSE_BYSTANDERS: usize = 16;

/// Most process descriptions kept; as many processes as anyone has seen on one host talking to models, and bystanders.
const MAX_INFOS: usize = 8192;

/// Most descriptions of ended processes kept until the next frame. Beyond it a row shows the process's name alone.
const MAX_DEPARTED: usize = 4096;

/// The frame in which one that has ended is told with all that was counted of it: some of that comes after the news of its end.
const LAST_FRAME: u32 = 2;

/// How long the numbers stand that were counted of a process which has ended: long enough to be read.
const ENDED_STAY: Duration = Duration::from_secs(10);

/// Most such rows. A shell script may start hundreds of processes a second.
const MAX_ENDED: usize = 64;

/// How old a description may be of a process that is shown: the news that it has executed another program may be lost, and
/// is not told at all while no probes are in place.
const DESCRIPTION_HOLDS: Duration = Duration::from_secs(10);

/// A process that is in none of so many rounds through all of them has ended, and news of that was lost. Of one round a
/// part may not have been sent.
const MISSED_ROUNDS: u64 = 3;

/// All that is known of processes.
#[derive(Debug, Default)]
pub(super) struct Processes {
    infos: HashMap<u32, ProcessInfo>,
    described_at: HashMap<u32, Instant>,
    samples: HashMap<u32, Sampled>,
    details: HashMap<u32, ProcessDetail>,
    /// How often all processes have been gone through.
    rounds: u64,
    /// Of the sample that is under way.
    incoming: Vec<ProcessSample>,
    /// Processes that have ended lately, and of which something is still to be told.
    departed: Vec<Departed>,
    counts: Counts,
    /// Rows of processes that have ended and of which something was counted, and when that was.
    ended: Vec<(Instant, Process)>,
}

/// A process that has ended.
#[derive(Debug)]
struct Departed {
    pid: u32,
    /// As the kernel had it.
    name: Label,
    info: Option<ProcessInfo>,
    talked: bool,
    /// Frames since.
    frames: u32,
}

#[derive(Debug)]
struct Sampled {
    sample: ProcessSample,
    /// Rounds that were complete when it was taken.
    rounds: u64,
}

impl Processes {
    pub(super) fn describe(&mut self, processes: Vec<ProcessInfo>) {
        for info in processes {
            if self.infos.len() >= MAX_INFOS {
                // The news of their end was lost.
                self.infos.retain(|pid, _| self.samples.contains_key(pid));
            }
            if self.infos.len() < MAX_INFOS || self.infos.contains_key(&info.pid) {
                self.described_at.insert(info.pid, Instant::now());
                self.infos.insert(info.pid, info);
            }
        }
        let infos = &self.infos;
        self.described_at.retain(|pid, _| infos.contains_key(pid));
    }

    pub(super) fn begin_sample(&mut self) {
        self.incoming.clear();
    }

    pub(super) fn sample(&mut self, samples: Vec<ProcessSample>) {
        self.incoming.extend(samples);
    }

    pub(super) fn detail(&mut self, details: Vec<ProcessDetail>) {
        self.details.extend(details.into_iter().map(|detail| (detail.pid, detail)));
    }

    pub(super) fn count(&mut self, counted: Vec<Counted>) {
        let Self { counts, samples, .. } = self;
        counts.count(counted, |pid| samples.contains_key(&pid));
    }

    pub(super) fn hold(&mut self, held: Vec<Held>) {
        let Self { counts, samples, .. } = self;
        counts.hold(held, |pid| samples.contains_key(&pid));
    }

    /// The sample under way is complete; so many times all processes have been gone through. Gives those that have ended
    /// without news of it.
    pub(super) fn sample_complete(&mut self, rounds: u64) -> Vec<u32> {
        for sample in self.incoming.drain(..) {
            self.samples.insert(sample.pid, Sampled { sample, rounds });
        }
        let samples = &self.samples;
        self.counts.reconcile(|pid| samples.get(&pid).map(|sampled| sampled.sample.start_time_ns));
        self.rounds = rounds;
        let gone = self.samples.extract_if(|_, sampled| sampled.rounds + MISSED_ROUNDS <= rounds).map(|(pid, _)| pid);
        gone.collect()
    }

    /// The process of this name has ended. If it has talked to models it has a row, which may still lack what it is; what was
    /// counted of it stands for a while.
    pub(super) fn exited(&mut self, pid: u32, name: Label, talked: bool) {
        self.samples.remove(&pid);
        self.details.remove(&pid);
        let info = self.infos.remove(&pid);
        if self.departed.len() < MAX_DEPARTED {
            self.departed.push(Departed { pid, name, info, talked, frames: 0 });
        }
    }

    /// The latest sample of a process.
    pub(super) fn latest(&self, pid: u32) -> Option<&ProcessSample> {
        self.samples.get(&pid).map(|sampled| &sampled.sample)
    }

    /// How many there are, once all were gone through.
    pub(super) fn total(&self) -> Option<u64> {
        (self.rounds > 0).then_some(self.samples.len() as u64)
    }

    /// Processes that will be shown and are not described yet.
    pub(super) fn unknown(&self, talking: impl Iterator<Item = u32>) -> Vec<u32> {
        let mut wanted: HashSet<u32> = talking.collect();
        wanted.extend(self.bystanders(MAX_BYSTANDERS).map(|sample| sample.pid));
        wanted.extend(self.counted(MAX_BYSTANDERS));
        let is_old = |pid: &u32| self.described_at.get(pid).is_none_or(|when| when.elapsed() >= DESCRIPTION_HOLDS);
        wanted.retain(|pid| self.infos.get(pid).is_none_or(|info| self.is_stale(info)) || is_old(pid));
        wanted.into_iter().collect()
    }

    /// Whom to look at closely from now on: these, those that are `talking` to models, those of which most was counted, and
    /// the busiest bystanders. What was found out of others is dropped.
    pub(super) fn choose_closely(&mut self, these: &[u32], talking: impl Iterator<Item = u32>) -> Vec<u32> {
        let mut talking: Vec<u32> = talking.collect();
        let cpu = |pid: &u32| self.latest(*pid).and_then(|sample| sample.cpu_percent).unwrap_or(0.0);
        talking.sort_by(|a, b| cpu(b).total_cmp(&cpu(a)));
        let counted = self.counted(MAX_CLOSE_BYSTANDERS);
        let bystanders = self.bystanders(MAX_CLOSE_BYSTANDERS).map(|sample| sample.pid);
        let mut chosen = Vec::new();
        for pid in these.iter().copied().chain(talking).chain(counted).chain(bystanders) {
            if chosen.len() < MAX_PROCESSES && !chosen.contains(&pid) {
                chosen.push(pid);
            }
        }
        self.details.retain(|pid, _| chosen.contains(pid));
        chosen
    }

    /// Those that a frame has: who is `talking` to models, who uses TLS, bystanders, and who has ended since the one
    /// before. Start times count from `boot`.
    pub(super) fn frame(&mut self, boot: Timestamp, talking: impl Iterator<Item = u32>) -> Vec<Process> {
        let mut shown: HashSet<u32> = self.bystanders(MAX_BYSTANDERS).map(|sample| sample.pid).chain(talking).collect();
        // Whoever uses TLS may be blind, and a user looks for them.
        shown.extend(self.infos.values().filter(|info| info.tls != TlsVisibility::None).map(|info| info.pid));
        shown.extend(self.counted(MAX_BYSTANDERS));
        let living = shown.into_iter().filter_map(|pid| self.infos.get(&pid)).filter(|info| !self.is_stale(info));
        let living = living.map(|info| {
            let detail = self.details.get(&info.pid).filter(|detail| detail.start_time_ns == info.start_time_ns);
            process(info, self.latest(info.pid), detail, boot)
        });
        let mut processes: Vec<_> = living.collect();
        processes.iter_mut().for_each(|process| self.counts.describe(process));
        // A pid may be in new hands already: the living one is shown.
        let mut pids: HashSet<u32> = processes.iter().map(|process| process.pid).collect();
        self.ended.retain(|(when, _)| when.elapsed() < ENDED_STAY);
        for departed in &mut self.departed {
            departed.frames += 1;
            let is_counted = self.counts.has(departed.pid);
            if !(is_counted || departed.talked && departed.frames == 1) || !pids.insert(departed.pid) {
                continue;
            }
            let mut row = match &departed.info {
                Some(info) => process(info, None, None, boot),
                None => Process { pid: departed.pid, command: departed.name.clone(), ..Process::default() },
            };
            row.exited = true;
            self.counts.describe(&mut row);
            if is_counted && departed.frames == LAST_FRAME {
                self.counts.forget(departed.pid);
                self.ended.push((Instant::now(), row.clone()));
            }
            processes.push(row);
        }
        self.departed.retain(|departed| departed.frames < LAST_FRAME);
        self.ended.drain(..self.ended.len().saturating_sub(MAX_ENDED));
        processes.extend(self.ended.iter().map(|(_, row)| row.clone()).filter(|row| pids.insert(row.pid)));
        processes
    }

    /// What was counted of each disk.
    pub(super) fn disks(&self) -> Vec<DiskDevice> {
        self.counts.disks()
    }

    /// The workloads of all that are described.
    pub(super) fn workloads(&self) -> Vec<WorkloadFacts> {
        let mut seen = HashSet::new();
        let all = self.infos.values().map(|info| &info.workload);
        all.filter(|workload| seen.insert(&workload.key)).cloned().collect()
    }

    /// A description of an earlier process with the same number.
    fn is_stale(&self, info: &ProcessInfo) -> bool {
        self.latest(info.pid).is_some_and(|sample| sample.start_time_ns != info.start_time_ns)
    }

    /// Those that run and of which the most was counted.
    fn counted(&self, most: usize) -> impl Iterator<Item = u32> {
        self.counts.processes().into_iter().filter(|pid| self.samples.contains_key(pid)).take(most)
    }

    /// Those that use the machine most.
    fn bystanders(&self, most: usize) -> impl Iterator<Item = &ProcessSample> {
        let mut by_use: Vec<_> = self.samples.values().map(|sampled| &sampled.sample).collect();
        by_use.sort_by(|a, b| {
            let cpu = |sample: &ProcessSample| sample.cpu_percent.unwrap_or(0.0);
            cpu(b).total_cmp(&cpu(a)).then(b.resident_bytes.cmp(&a.resident_bytes))
        });
        by_use.truncate(most);
        by_use.into_iter()
    }
}

fn process(
    info: &ProcessInfo,
    sample: Option<&ProcessSample>,
    detail: Option<&ProcessDetail>,
    boot: Timestamp,
) -> Process {
    let voluntary = detail.and_then(|detail| detail.voluntary_switches_per_second);
    let involuntary = detail.and_then(|detail| detail.involuntary_switches_per_second);
    Process {
        pid: info.pid,
        start_time: boot.checked_add(Duration::from_nanos(info.start_time_ns)).ok(),
        parent_pid: Some(info.parent_pid),
        command: info.command.clone(),
        executable: info.executable.clone(),
        user: info.user.clone(),
        uid: Some(info.uid),
        workload: Some(info.workload.key.clone()),
        unit: info.unit.clone(),
        container: info.container.clone(),
        cpu_percent: sample.and_then(|sample| sample.cpu_percent),
        threads: sample.map(|sample| sample.threads),
        hottest_thread: detail.and_then(|detail| detail.hottest_thread.clone()),
        run_queue_seconds_per_second: detail.and_then(|detail| detail.run_queue_seconds_per_second),
        context_switches_per_second: voluntary.zip(involuntary).map(|(voluntary, involuntary)| voluntary + involuntary),
        involuntary_context_switches_per_second: involuntary,
        resident_bytes: detail.and_then(|detail| detail.resident_bytes).or(sample.map(|sample| sample.resident_bytes)),
        shared_bytes: detail.and_then(|detail| detail.shared_bytes),
        swap_bytes: detail.and_then(|detail| detail.swap_bytes),
        major_faults_per_second: sample.and_then(|sample| sample.major_faults_per_second),
        disk: detail.and_then(disk),
        cgroup: detail.and_then(|detail| detail.cgroup.clone()),
        visibility: Visibility {
            tls: info.tls,
            reason: info.tls_reason.clone(),
            library: info.tls_library.clone(),
            ..Visibility::default()
        },
        ..Process::default()
    }
}

/// `None` where nothing of it is known.
fn disk(detail: &ProcessDetail) -> Option<Disk> {
    let ProcessDetail { disk_read_bytes_per_second: read, disk_write_bytes_per_second: write, .. } = *detail;
    (read.is_some() || write.is_some()).then_some(Disk {
        read_bytes_per_second: read,
        write_bytes_per_second: write,
        ..Disk::default()
    })
}

#[cfg(test)]
pub(super) mod tests {
    use hbpf_core::snapshot::WorkloadKind;

    use super::*;
    use crate::protocol::Event;

    pub(crate) fn info(pid: u32, tls: TlsVisibility) -> ProcessInfo {
        ProcessInfo {
            pid,
            start_time_ns: 1,
            parent_pid: 1,
            command: Label::new("x"),
            executable: None,
            uid: 0,
            user: None,
            container: None,
            unit: None,
            workload: WorkloadFacts { key: "tree/1".into(), name: "x".into(), kind: WorkloadKind::Tree },
            tls,
            tls_reason: None,
            tls_library: None,
        }
    }

    pub(crate) fn sample(pid: u32, start_time_ns: u64, cpu_percent: Option<f64>) -> ProcessSample {
        ProcessSample { pid, start_time_ns, cpu_percent, threads: 1, major_faults_per_second: None, resident_bytes: 1 }
    }

    fn detail(pid: u32) -> ProcessDetail {
        ProcessDetail {
            pid,
            start_time_ns: 1,
            hottest_thread: None,
            run_queue_seconds_per_second: Some(0.5),
            voluntary_switches_per_second: Some(3.0),
            involuntary_switches_per_second: Some(1.0),
            resident_bytes: Some(8192),
            shared_bytes: Some(4096),
            swap_bytes: None,
            disk_read_bytes_per_second: None,
            disk_write_bytes_per_second: None,
            cgroup: None,
        }
    }

    #[test]
    fn who_is_missing_in_three_rounds_has_ended() {
        let mut processes = Processes::default();
        let mut sampled = |pids: &[u32], rounds| {
            processes.sample(pids.iter().map(|pid| sample(*pid, 1, None)).collect());
            processes.sample_complete(rounds)
        };
        assert!(sampled(&[1, 2, 3], 1).is_empty());
        assert!(sampled(&[1], 2).is_empty());
        assert!(sampled(&[1], 2).is_empty(), "the round takes several samples");
        assert!(sampled(&[1, 3], 3).is_empty());
        assert_eq!(sampled(&[1, 3], 4), [2]);
        assert!(sampled(&[1, 3], 5).is_empty(), "and is told once");
        processes.exited(3, "x".into(), false);
        assert!((6..9).all(|rounds| !processes.sample_complete(rounds).contains(&3)), "its end was told");
    }

    #[test]
    fn a_reused_pid_is_described_anew() {
        let mut processes = Processes::default();
        processes.sample(vec![sample(7, 1, None)]);
        processes.sample_complete(1);
        assert_eq!(processes.unknown(std::iter::empty()), [7]);
        processes.describe(vec![info(7, TlsVisibility::None)]);
        assert!(processes.unknown(std::iter::empty()).is_empty());
        processes.described_at.insert(7, Instant::now() - DESCRIPTION_HOLDS);
        assert_eq!(processes.unknown(std::iter::empty()), [7], "it may have executed another program");
        processes.sample(vec![sample(7, 2, None)]);
        processes.sample_complete(2);
        assert_eq!(processes.unknown(std::iter::empty()), [7]);
    }

    #[test]
    fn who_talks_is_looked_at_closely_before_who_is_busy() {
        let mut processes = Processes::default();
        processes.sample((1..=400).map(|pid| sample(pid, 1, Some(f64::from(pid)))).collect());
        processes.sample_complete(1);
        let chosen = processes.choose_closely(&[1000], [5, 7, 400].into_iter());
        assert_eq!(chosen[..6], [1000, 400, 7, 5, 399, 398]);
        assert_eq!(chosen.len(), 4 + MAX_CLOSE_BYSTANDERS - 1, "of the bystanders one talks");
        let many = processes.choose_closely(&[1000], 1..=300);
        assert_eq!(
            (many.len(), many[1], many[MAX_PROCESSES - 1]),
            (MAX_PROCESSES, 300, 300 - 126),
            "the busiest first"
        );
    }

    #[test]
    fn details_are_of_whom_is_looked_at_now() {
        let mut processes = Processes::default();
        processes.sample(vec![sample(1, 1, None), sample(2, 2, None)]);
        processes.sample_complete(1);
        processes.describe(vec![
            info(1, TlsVisibility::None),
            ProcessInfo { start_time_ns: 2, ..info(2, TlsVisibility::None) },
        ]);
        processes.detail(vec![detail(1), detail(2)]);
        let mut switches = || {
            let mut frame = processes.frame(Timestamp::UNIX_EPOCH, std::iter::empty());
            frame.sort_by_key(|process| process.pid);
            frame.iter().map(|process| process.context_switches_per_second).collect::<Vec<_>>()
        };
        assert_eq!(switches(), [Some(4.0), None], "the second is another process's of that number");
        processes.samples.clear();
        processes.choose_closely(&[2], std::iter::empty());
        assert!(!processes.details.contains_key(&1));
    }

    #[test]
    fn of_those_that_have_ended_only_who_talked_is_told_and_once() {
        let mut processes = Processes::default();
        processes.describe(vec![info(1, TlsVisibility::None), info(2, TlsVisibility::None)]);
        processes.exited(1, "x".into(), true);
        processes.exited(2, "x".into(), false);
        let mut told = || {
            let frame = processes.frame(Timestamp::UNIX_EPOCH, std::iter::empty());
            frame.iter().map(|process| (process.pid, process.exited)).collect::<Vec<_>>()
        };
        assert_eq!((told(), told()), (vec![(1, true)], vec![]));
    }

    #[test]
    fn what_was_counted_of_one_that_has_ended_stands_for_a_while() {
        let mut processes = Processes::default();
        let opened = |pid| Counted {
            pid,
            event: Event::Opened,
            device: "nvidia0".into(),
            slot: 0,
            count: 1,
            nanoseconds: 0,
            bytes: 0,
        };
        processes.sample(vec![sample(1, 1, None), sample(2, 1, None)]);
        processes.sample_complete(1);
        processes.describe(vec![info(1, TlsVisibility::None), info(2, TlsVisibility::None)]);
        processes.count(vec![opened(1)]);
        processes.exited(1, "x".into(), false);
        processes.exited(2, "x".into(), false);
        // One that nobody has seen alive.
        processes.exited(3, "curl".into(), false);
        let told = |processes: &mut Processes| {
            let frame = processes.frame(Timestamp::UNIX_EPOCH, std::iter::empty());
            let opens = |process: &Process| process.devices.first().map(|device| device.opens_total);
            frame.iter().map(|process| (process.pid, process.exited, opens(process))).collect::<Vec<_>>()
        };
        assert_eq!(told(&mut processes), [(1, true, Some(1))]);
        // The last of it comes after the news of its end.
        processes.count(vec![opened(1), opened(3)]);
        for _ in 0..2 {
            assert_eq!(told(&mut processes), [(1, true, Some(2)), (3, true, Some(1))], "long enough to be read");
        }
        assert_eq!(processes.ended[1].1.command.as_str(), "curl");
        // Its number is another's.
        processes.sample(vec![sample(1, 1, None)]);
        processes.sample_complete(2);
        processes.describe(vec![info(1, TlsVisibility::None)]);
        assert_eq!(told(&mut processes), [(1, false, None), (3, true, Some(1))]);
        processes.exited(1, "x".into(), false);
        processes.ended.iter_mut().for_each(|(when, _)| *when -= ENDED_STAY);
        assert_eq!(told(&mut processes), []);
    }
}
