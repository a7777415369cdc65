//! What the helper tells about the machine, its processes and the probes, put into the snapshot's form.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use hbpf_core::aggregate::HostFacts;
use hbpf_core::engine::Counters;
use hbpf_core::snapshot::{
    Capture, CollectionError, Finding, GroupCost, Host, Lost, LostRecords, Overhead, Probe, ProbeState, Process,
    SelfCost, TlsVisibility, Visibility,
};
use hbpf_core::time::{Nanos, WallClock};
use hbpf_ebpf::counter;
use jiff::{SignedDuration, Timestamp};
use nix::time::{ClockId, clock_gettime};

use crate::cost::{Meter, OwnTime, trap_ns};
use crate::protocol::{Group, ProbeStatus, ProcessInfo, ProcessSample, Status};

/// Processes shown besides those that talk to models: the ones that use the machine most. A screen holds fewer.
const MAX_BYSTANDERS: usize = 200;

/// Most process descriptions kept; as many processes as anyone has seen on one host talking to models, and bystanders.
const MAX_INFOS: usize = 8192;

/// Most descriptions of ended processes kept until the next frame. Beyond it a row shows the process's name alone.
const MAX_DEPARTED: usize = 4096;

/// How much two readings of the boot time may differ, read as it is from two clocks that are adjusted apart. Beyond it the
/// wall clock has been set.
const CLOCK_JITTER: SignedDuration = SignedDuration::from_millis(500);

/// Latest word on everything that is not model traffic.
pub(crate) struct Facts {
    helper_pid: u32,
    pub(crate) host: Option<Host>,
    infos: HashMap<u32, ProcessInfo>,
    samples: HashMap<u32, ProcessSample>,
    /// Of the sample that is under way.
    incoming: HashMap<u32, ProcessSample>,
    /// Processes that the latest sample lacked, and whose end was not told.
    absent: HashSet<u32>,
    /// Descriptions of processes that have ended since the frame before: their rows may still lack a name.
    departed: Vec<ProcessInfo>,
    status: Status,
    /// Since when probes of any group are in place.
    watching_since: Option<Nanos>,
    /// What the kernel side had counted each time before everything of it was taken out.
    counted: [u64; counter::COUNT as usize],
    pub(crate) meter: Meter,
    /// What all of it costs and may cost; by whoever keeps it so.
    pub(crate) overhead: Overhead,
    pub(crate) findings: Vec<Finding>,
    /// When the machine was booted.
    booted_at: Option<Timestamp>,
}

impl Facts {
    pub(crate) fn new(helper_pid: u32) -> Self {
        Self {
            helper_pid,
            host: None,
            infos: HashMap::new(),
            samples: HashMap::new(),
            incoming: HashMap::new(),
            absent: HashSet::new(),
            counted: [0; counter::COUNT as usize],
            departed: Vec::new(),
            status: Status::default(),
            watching_since: None,
            meter: Meter::default(),
            overhead: Overhead::default(),
            findings: Vec::new(),
            booted_at: None,
        }
    }

    pub(crate) fn describe(&mut self, processes: Vec<ProcessInfo>) {
        for info in processes {
            if self.infos.len() >= MAX_INFOS {
                // The news of their end was lost.
                self.infos.retain(|pid, _| self.samples.contains_key(pid));
            }
            if self.infos.len() < MAX_INFOS || self.infos.contains_key(&info.pid) {
                self.infos.insert(info.pid, info);
            }
        }
    }

    pub(crate) fn sample(&mut self, samples: Vec<ProcessSample>) {
        self.incoming.extend(samples.into_iter().map(|sample| (sample.pid, sample)));
    }

    /// The sample under way is complete. Gives the processes that are in neither it nor the one before: they have ended,
    /// and news of that was lost.
    pub(crate) fn sample_complete(&mut self) -> Vec<u32> {
        let before = std::mem::replace(&mut self.samples, std::mem::take(&mut self.incoming));
        let is_absent = |pid: &u32| !self.samples.contains_key(pid);
        // Once may be a part of a sample that was not sent.
        let gone = self.absent.drain().filter(is_absent).collect();
        self.absent = before.into_keys().filter(is_absent).collect();
        gone
    }

    /// Takes the state of the kernel side, with the CPU time of this process.
    pub(crate) fn status(&mut self, status: Status, own: OwnTime, now: Nanos) {
        let helper = Duration::try_from_secs_f64(status.helper_cpu_seconds).unwrap_or_default();
        self.meter.read(&status, OwnTime { total: own.total + helper, ..own }, now);
        // With the last group the kernel's counters go, and with the next they begin anew.
        let before = self.status.counters.unwrap_or_default();
        let after = status.counters.unwrap_or_default();
        if after.iter().zip(before).any(|(after, before)| *after < before) {
            self.counted.iter_mut().zip(before).for_each(|(sum, before)| *sum += before);
        }
        self.status = status;
        let is_watching = Group::ALL.into_iter().any(|group| self.is_on(group));
        self.watching_since = is_watching.then(|| self.watching_since.unwrap_or(now));
    }

    /// How many CPUs the machine has; `None` until it has been told.
    pub(crate) fn cpus(&self) -> Option<f64> {
        self.host.as_ref().map(|host| f64::from(host.cpu_count)).filter(|cpus| *cpus > 0.0)
    }

    /// Whether a group's probes are in place, by the latest word of the helper.
    pub(crate) fn is_on(&self, group: Group) -> bool {
        self.status.probes.iter().any(|probe| probe.group == group && probe.off_because.is_none())
    }

    /// Whether all its probes are in place.
    pub(crate) fn is_whole(&self, group: Group) -> bool {
        self.is_on(group) && !self.status.probes.iter().any(|probe| probe.group == group && probe.failed)
    }

    fn why_off(&self, group: Group) -> String {
        let failure = self.status.probes.iter().find(|probe| probe.group == group && probe.failed);
        match failure.and_then(|probe| probe.off_because.as_ref()) {
            Some(why) => format!("{} failed: {why}", group.name()),
            None => format!("{} is off", group.name()),
        }
    }

    /// The process has ended.
    pub(crate) fn exited(&mut self, pid: u32) {
        self.samples.remove(&pid);
        self.absent.remove(&pid);
        if let Some(info) = self.infos.remove(&pid)
            && self.departed.len() < MAX_DEPARTED
        {
            self.departed.push(info);
        }
    }

    /// Processes that will be shown and are not described yet.
    pub(crate) fn unknown(&self, talking: impl Iterator<Item = u32>) -> Vec<u32> {
        let mut wanted: HashSet<u32> = talking.collect();
        wanted.extend(self.bystanders().map(|sample| sample.pid));
        wanted.retain(|pid| self.infos.get(pid).is_none_or(|info| self.is_stale(info)));
        wanted.into_iter().collect()
    }

    /// A description of an earlier process with the same number.
    fn is_stale(&self, info: &ProcessInfo) -> bool {
        self.samples.get(&info.pid).is_some_and(|sample| sample.start_time_ns != info.start_time_ns)
    }

    fn bystanders(&self) -> impl Iterator<Item = &ProcessSample> {
        let mut by_use: Vec<_> = self.samples.values().collect();
        by_use.sort_by(|a, b| {
            let cpu = |sample: &ProcessSample| sample.cpu_percent.unwrap_or(0.0);
            cpu(b).total_cmp(&cpu(a)).then(b.resident_bytes.cmp(&a.resident_bytes))
        });
        by_use.truncate(MAX_BYSTANDERS);
        by_use.into_iter()
    }

    /// When the machine was booted, the same from frame to frame: a process's start time is part of its identity.
    fn booted_at(&mut self, clock: &WallClock) -> Timestamp {
        let boot = boot_time(clock);
        let is_same = |known: &Timestamp| boot.duration_since(*known).abs() <= CLOCK_JITTER;
        *self.booted_at.insert(self.booted_at.filter(is_same).unwrap_or(boot))
    }

    /// Everything that a frame needs besides the traffic. Of the processes it has those that are `talking` to models,
    /// those that use TLS, and bystanders.
    pub(crate) fn host_facts(
        &mut self,
        clock: &WallClock,
        talking: impl Iterator<Item = u32>,
        engine: Counters,
        malformed_records: u64,
        errors: Vec<CollectionError>,
    ) -> HostFacts {
        let boot = self.booted_at(clock);
        let mut shown: HashSet<u32> = self.bystanders().map(|sample| sample.pid).chain(talking).collect();
        // Whoever uses TLS may be blind, and a user looks for them.
        shown.extend(self.infos.values().filter(|info| info.tls != TlsVisibility::None).map(|info| info.pid));
        let living = shown.into_iter().filter_map(|pid| self.infos.get(&pid)).filter(|info| !self.is_stale(info));
        let mut processes: Vec<_> = living.map(|info| process(info, self.samples.get(&info.pid), boot)).collect();
        if !self.is_on(Group::LlmTls) {
            let why = self.why_off(Group::LlmTls);
            processes.iter_mut().for_each(|process| make_blind(&mut process.visibility, &why));
        }
        let departed = self.departed.drain(..).map(|info| Process { exited: true, ..process(&info, None, boot) });
        // A pid may be in new hands already: the living one is shown.
        let pids: HashSet<u32> = processes.iter().map(|process| process.pid).collect();
        processes.extend(departed.filter(|process| !pids.contains(&process.pid)));
        HostFacts {
            host: self.host.clone().unwrap_or_default(),
            processes,
            watching_since: self.watching_since,
            capture: self.capture(engine, malformed_records),
            findings: self.findings.clone(),
            errors,
        }
    }

    fn capture(&self, engine: Counters, malformed_records: u64) -> Capture {
        let counters = self.status.counters.unwrap_or_default();
        let count = |index: u32| self.counted[index as usize] + counters[index as usize];
        Capture {
            probes: self.status.probes.iter().map(|probe| self.probe(probe)).collect(),
            chunks_total: count(counter::CHUNKS),
            bytes_total: count(counter::BYTES),
            messages_ignored_total: count(counter::MESSAGES_IGNORED),
            lost: Lost {
                ring_full: LostRecords {
                    chunks: count(counter::RING_FULL_CHUNKS),
                    bytes: count(counter::RING_FULL_BYTES),
                },
                read_fault: count(counter::READ_FAULT) + malformed_records,
                map_full: count(counter::MAP_FULL) + engine.connections_refused,
                over_budget: count(counter::TIMING_ONLY_CHUNKS) + engine.over_budget,
                over_budget_bytes: count(counter::TIMING_ONLY_BYTES),
                parse_gap: engine.parse_gaps,
                desync: engine.desyncs,
            },
            groups: self.groups(),
            overhead: self.overhead.clone(),
            self_cost: self.self_cost(),
        }
    }

    fn groups(&self) -> Vec<GroupCost> {
        let of = |group: Group| {
            let mut probes = self.status.probes.iter().filter(|probe| probe.group == group).peekable();
            probes.peek()?;
            let share = self.meter.share(group);
            let state = match (self.is_on(group), probes.any(|probe| probe.failed)) {
                (true, _) => ProbeState::On,
                (false, true) => ProbeState::Failed,
                (false, false) => ProbeState::Off,
            };
            Some(GroupCost {
                group: group.name().into(),
                state,
                kernel_cpu_percent: share.kernel_percent,
                trap_cpu_percent_estimated: share.trap_percent,
            })
        };
        Group::ALL.into_iter().filter_map(of).collect()
    }

    fn probe(&self, status: &ProbeStatus) -> Probe {
        let state = match (&status.off_because, status.failed) {
            (None, _) => ProbeState::On,
            (Some(_), false) => ProbeState::Off,
            (Some(_), true) => ProbeState::Failed,
        };
        Probe {
            group: status.group.name().into(),
            program: status.program.clone(),
            attached_to: status.attached_to.clone(),
            state,
            reason: status.off_because.clone(),
            runs_total: status.runs,
            run_seconds_total: status.run_time_ns.map(|ns| Duration::from_nanos(ns).as_secs_f64()),
            trap_seconds_estimated: status
                .runs
                .zip(trap_ns(&self.status, status.trap))
                .map(|(runs, ns)| runs as f64 * ns / 1e9),
        }
    }

    fn self_cost(&self) -> SelfCost {
        let ours = [std::process::id(), self.helper_pid].map(|pid| self.samples.get(&pid));
        let cpu = ours.iter().flatten().filter_map(|sample| sample.cpu_percent).reduce(|a, b| a + b);
        let resident = ours.iter().flatten().map(|sample| sample.resident_bytes).reduce(|a, b| a + b);
        SelfCost { cpu_percent: cpu, kernel_cpu_percent: self.meter.kernel_percent(), resident_bytes: resident }
    }
}

fn process(info: &ProcessInfo, sample: Option<&ProcessSample>, boot: Timestamp) -> Process {
    Process {
        pid: info.pid,
        start_time: boot.checked_add(Duration::from_nanos(info.start_time_ns)).ok(),
        parent_pid: Some(info.parent_pid),
        command: info.command.clone(),
        executable: info.executable.clone(),
        user: info.user.clone(),
        uid: Some(info.uid),
        cpu_percent: sample.and_then(|sample| sample.cpu_percent),
        threads: sample.map(|sample| sample.threads),
        resident_bytes: sample.map(|sample| sample.resident_bytes),
        visibility: Visibility {
            tls: info.tls,
            reason: info.tls_reason.clone(),
            library: info.tls_library.clone(),
            ..Visibility::default()
        },
        ..Process::default()
    }
}

/// A library that could be read is not while the probes are out.
fn make_blind(visibility: &mut Visibility, why: &str) {
    if matches!(visibility.tls, TlsVisibility::Attached | TlsVisibility::Partial) {
        visibility.tls = TlsVisibility::Blind;
        visibility.reason = Some(why.into());
    }
}

/// The wall-clock time at which the boot-time clock stood at zero.
fn boot_time(clock: &WallClock) -> Timestamp {
    let since_boot = clock_gettime(ClockId::CLOCK_BOOTTIME).map(Duration::from).unwrap_or_default();
    let since_boot = SignedDuration::try_from(since_boot).unwrap_or_default();
    clock.wall.checked_sub(since_boot).unwrap_or(clock.wall)
}

#[cfg(test)]
mod tests {
    use super::*;
    use hbpf_core::label::Label;

    fn status(run_time_ns: u64) -> Status {
        let probe = |place: &str| ProbeStatus {
            group: Group::LlmTls,
            program: "ssl_read".into(),
            attached_to: place.into(),
            off_because: None,
            failed: false,
            runs: Some(1),
            run_time_ns: Some(run_time_ns),
            trap: None,
        };
        Status { probes: vec![probe("a"), probe("b")], ..Status::default() }
    }

    #[test]
    fn a_frame_says_what_each_group_costs() {
        let mut facts = Facts::new(1);
        assert!(facts.capture(Counters::default(), 0).groups.is_empty(), "nothing was told yet");
        facts.status(status(0), OwnTime::default(), Nanos(0));
        facts.status(status(10_000_000), OwnTime::default(), Nanos(1_000_000_000));
        let capture = facts.capture(Counters::default(), 0);
        assert_eq!(capture.groups.len(), 1, "of the other group nothing was told");
        assert_eq!(capture.groups[0].state, ProbeState::On);
        assert!((capture.groups[0].kernel_cpu_percent.unwrap() - 1.0).abs() < 1e-9);
        assert_eq!(capture.self_cost.kernel_cpu_percent, capture.groups[0].kernel_cpu_percent);
        assert_eq!(capture.probes[0].trap_seconds_estimated, Some(0.0), "no trap leads there");
    }

    fn info(pid: u32, tls: TlsVisibility) -> ProcessInfo {
        ProcessInfo {
            pid,
            start_time_ns: 1,
            parent_pid: 1,
            command: Label::new("x"),
            executable: None,
            uid: 0,
            user: None,
            tls,
            tls_reason: None,
            tls_library: None,
        }
    }

    #[test]
    fn a_frame_has_who_talks_who_uses_tls_and_bystanders_and_the_same_start_times_as_the_one_before() {
        let mut facts = Facts::new(1);
        let bystander =
            ProcessSample { pid: 1, start_time_ns: 1, cpu_percent: Some(1.0), threads: 1, resident_bytes: 1 };
        facts.sample(vec![bystander]);
        facts.sample_complete();
        let none = TlsVisibility::None;
        facts.describe(vec![info(1, none), info(2, none), info(3, TlsVisibility::Blind), info(4, none)]);
        let mut frame = |wall: &str| {
            let clock = WallClock { monotonic: Nanos(0), wall: wall.parse().unwrap() };
            let talking = std::iter::once(2);
            let mut processes = facts.host_facts(&clock, talking, Counters::default(), 0, Vec::new()).processes;
            processes.sort_by_key(|process| process.pid);
            processes
        };
        let first = frame("2026-01-01T00:00:00Z");
        assert_eq!(first.iter().map(|process| process.pid).collect::<Vec<_>>(), [1, 2, 3]);
        // The boot-time clock has gone on by next to nothing.
        let second = frame("2026-01-01T00:00:00.1Z");
        assert_eq!(first[0].start_time, second[0].start_time);
        let after_setting = frame("2026-01-02T00:00:00Z");
        assert_ne!(first[0].start_time, after_setting[0].start_time);
    }

    #[test]
    fn totals_outlive_the_probes() {
        let mut facts = Facts::new(1);
        let mut chunks = |counters: Option<u64>| {
            let of = |chunks| {
                let mut counters = [0; counter::COUNT as usize];
                counters[counter::CHUNKS as usize] = chunks;
                counters
            };
            facts.status(Status { counters: counters.map(of), ..status(0) }, OwnTime::default(), Nanos(0));
            facts.capture(Counters::default(), 0).chunks_total
        };
        let totals = [None, Some(3), Some(5), None, None, Some(1), Some(4), Some(2)].map(&mut chunks);
        assert_eq!(totals, [0, 3, 5, 5, 5, 6, 9, 11]);
    }

    #[test]
    fn who_is_missing_twice_has_ended() {
        let mut facts = Facts::new(1);
        let mut sampled = |pids: &[u32]| {
            let of = |pid| ProcessSample { pid, start_time_ns: 1, cpu_percent: None, threads: 1, resident_bytes: 1 };
            facts.sample(pids.iter().copied().map(of).collect());
            facts.sample_complete()
        };
        assert!(sampled(&[1, 2, 3]).is_empty());
        assert!(sampled(&[1]).is_empty());
        assert_eq!(sampled(&[1, 3]), [2]);
        assert!(sampled(&[1, 3]).is_empty(), "and is told once");
        facts.exited(3);
        facts.sample_complete();
        assert!(!facts.sample_complete().contains(&3), "its end was told");
    }

    #[test]
    fn without_the_probes_nobody_is_seen_through() {
        let mut facts = Facts::new(1);
        facts.describe(vec![info(3, TlsVisibility::Attached)]);
        let clock = WallClock { monotonic: Nanos(0), wall: Timestamp::UNIX_EPOCH };
        let visibility = |facts: &mut Facts| {
            let frame = facts.host_facts(&clock, std::iter::empty(), Counters::default(), 0, Vec::new());
            let Visibility { tls, reason, .. } = frame.processes[0].visibility.clone();
            (tls, reason)
        };
        assert_eq!(visibility(&mut facts), (TlsVisibility::Blind, Some("llm-tls is off".into())));
        facts.status(status(0), OwnTime::default(), Nanos(0));
        assert_eq!(visibility(&mut facts), (TlsVisibility::Attached, None));
        let mut failed = status(0);
        for probe in &mut failed.probes {
            (probe.off_because, probe.failed) = (Some("no memory".into()), true);
        }
        facts.status(failed, OwnTime::default(), Nanos(1));
        assert_eq!(visibility(&mut facts).1.unwrap(), "llm-tls failed: no memory");
    }

    #[test]
    fn a_reused_pid_is_described_anew() {
        let mut facts = Facts::new(1);
        let sample =
            |start| ProcessSample { pid: 7, start_time_ns: start, cpu_percent: None, threads: 1, resident_bytes: 1 };
        facts.sample(vec![sample(1)]);
        facts.sample_complete();
        assert_eq!(facts.unknown(std::iter::empty()), [7]);
        facts.describe(vec![info(7, TlsVisibility::None)]);
        assert!(facts.unknown(std::iter::empty()).is_empty());
        facts.sample(vec![sample(2)]);
        facts.sample_complete();
        assert_eq!(facts.unknown(std::iter::empty()), [7]);
    }
}
