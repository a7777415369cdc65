//! What the helper tells about the machine, its processes and the probes, put into the snapshot's form.

mod counts;
mod processes;

use std::collections::HashMap;
use std::time::Duration;

use hbpf_core::aggregate::{HostFacts, Unwatched};
use hbpf_core::engine::Counters;
use hbpf_core::findings;
use hbpf_core::label::Label;
use hbpf_core::snapshot::{
    Capture, CollectionError, Engine, Finding, Gpu, GroupCost, Host, Lost, LostRecords, Overhead, Probe, ProbeState,
    ProcessGpu, SelfCost, TlsVisibility, Visibility,
};
use hbpf_core::time::{Nanos, WallClock};
use hbpf_ebpf::counter;
use jiff::{SignedDuration, Timestamp};
use nix::time::{ClockId, clock_gettime};

use crate::cost::{Meter, OwnTime, trap_ns};
use crate::protocol::{Counted, Group, Held, ProbeStatus, ProcessDetail, ProcessInfo, ProcessSample, Status};
use processes::Processes;

/// How much two readings of the boot time may differ, read as it is from two clocks that are adjusted apart. Beyond it the
/// wall clock has been set.
const CLOCK_JITTER: SignedDuration = SignedDuration::from_millis(500);

/// Latest word on everything that is not model traffic.
pub(crate) struct Facts {
    helper_pid: u32,
    pub(crate) host: Option<Host>,
    processes: Processes,
    gpus: Vec<Gpu>,
    /// What inference servers say of themselves.
    pub(crate) engines: Vec<Engine>,
    samples_taken: u64,
    /// Of the sample that is under way.
    incoming_gpus: Vec<Gpu>,
    status: Status,
    /// Since when probes of any group are in place.
    watching_since: Option<Nanos>,
    /// What the kernel side had counted each time before everything of it was taken out.
    counted: [u64; counter::COUNT as usize],
    /// Runs that programs in place have missed, and what those had missed that are in place no more.
    missed: HashMap<Label, u64>,
    missed_before: u64,
    pub(crate) meter: Meter,
    /// What all of it costs and may cost; by whoever keeps it so.
    pub(crate) overhead: Overhead,
    pub(crate) findings: Vec<Finding>,
    /// Since when GPUs, by their identity, have told of critical errors.
    gpu_errors_since: HashMap<Label, Timestamp>,
    /// When the machine was booted.
    booted_at: Option<Timestamp>,
}

impl Facts {
    pub(crate) fn new(helper_pid: u32) -> Self {
        Self {
            helper_pid,
            host: None,
            processes: Processes::default(),
            gpus: Vec::new(),
            engines: Vec::new(),
            samples_taken: 0,
            incoming_gpus: Vec::new(),
            counted: [0; counter::COUNT as usize],
            missed: HashMap::new(),
            missed_before: 0,
            status: Status::default(),
            watching_since: None,
            meter: Meter::default(),
            overhead: Overhead::default(),
            findings: Vec::new(),
            gpu_errors_since: HashMap::new(),
            booted_at: None,
        }
    }

    pub(crate) fn describe(&mut self, processes: Vec<ProcessInfo>) {
        self.processes.describe(processes);
    }

    pub(crate) fn sample(&mut self, samples: Vec<ProcessSample>) {
        self.processes.sample(samples);
    }

    pub(crate) fn detail(&mut self, details: Vec<ProcessDetail>) {
        self.processes.detail(details);
    }

    /// Takes what the programs have counted since the time before.
    pub(crate) fn count(&mut self, counted: Vec<Counted>) {
        self.processes.count(counted);
    }

    /// Takes what processes hold of devices.
    pub(crate) fn hold(&mut self, held: Vec<Held>) {
        self.processes.hold(held);
    }

    /// A sample begins, whether or not the one before was complete, or was still waited for.
    pub(crate) fn begin_sample(&mut self, host: Host) {
        self.host = Some(host);
        self.processes.begin_sample();
        self.incoming_gpus.clear();
    }

    pub(crate) fn gpu(&mut self, gpu: Gpu) {
        self.incoming_gpus.push(gpu);
    }

    /// The sample under way is complete. Gives the processes that have ended without news of it.
    pub(crate) fn sample_complete(&mut self, rounds: u64) -> Vec<u32> {
        self.gpus = std::mem::take(&mut self.incoming_gpus);
        self.samples_taken += 1;
        self.processes.sample_complete(rounds)
    }

    /// The process of this name has ended, and may have talked to models.
    pub(crate) fn exited(&mut self, pid: u32, name: Label, talked: bool) {
        self.processes.exited(pid, name, talked);
    }

    /// Processes that will be shown and are not described yet.
    pub(crate) fn unknown(&self, talking: impl Iterator<Item = u32>) -> Vec<u32> {
        self.processes.unknown(talking.chain(self.gpu_users()))
    }

    /// Whether there are GPUs to read that have not been read yet, which takes a moment in any case.
    pub(crate) fn gpus_are_awaited(&self) -> bool {
        self.status.gpus_awaited && self.samples_taken > 1
    }

    fn gpu_users(&self) -> impl Iterator<Item = u32> {
        self.gpus.iter().flat_map(|gpu| &gpu.processes).map(|process| process.pid)
    }

    /// Whom the next sample looks at closely: hbpf itself, those that are `talking` to models or use a GPU, and the
    /// busiest others.
    pub(crate) fn choose_closely(&mut self, talking: impl Iterator<Item = u32>) -> Vec<u32> {
        let talking: Vec<u32> = talking.chain(self.gpu_users()).collect();
        let own: Vec<u32> = self.own_pids().collect();
        self.processes.choose_closely(&own, talking.into_iter())
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
        let missed = status.probes.iter().filter_map(|probe| Some((probe.program.clone(), probe.missed?)));
        for (program, before) in std::mem::replace(&mut self.missed, missed.collect()) {
            let is_anew = self.missed.get(&program).is_none_or(|after| *after < before);
            self.missed_before += if is_anew { before } else { 0 };
        }
        self.status = status;
        let is_watching = Group::LLM.into_iter().any(|group| self.is_on(group));
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

    /// When the machine was booted, the same from frame to frame: a process's start time is part of its identity.
    pub(crate) fn booted_at(&mut self, clock: &WallClock) -> Timestamp {
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
        let talking: Vec<u32> = talking.chain(self.gpu_users()).collect();
        let mut processes = self.processes.frame(boot, talking.into_iter());
        for process in processes.iter_mut().filter(|process| !process.exited) {
            process.gpu = self.gpus_of(process.pid);
        }
        if !self.is_on(Group::LlmTls) {
            let why = self.why_off(Group::LlmTls);
            let living = processes.iter_mut().filter(|process| !process.exited);
            living.for_each(|process| make_blind(&mut process.visibility, &why));
        }
        let gpu_errors = self.gpu_errors(clock);
        HostFacts {
            host: Host {
                disks: self.processes.disks(),
                processes_total: self.processes.total(),
                ..self.host.clone().unwrap_or_default()
            },
            processes,
            workloads: self.processes.workloads(),
            gpus: self.gpus.clone(),
            engines: std::mem::take(&mut self.engines),
            watching_since: self.watching_since,
            unwatched: Unwatched { tls: !self.is_on(Group::LlmTls), plain: !self.is_on(Group::LlmPlain) },
            capture: self.capture(engine, malformed_records),
            findings: self.findings.iter().cloned().chain(gpu_errors).collect(),
            errors,
        }
    }

    fn gpus_of(&self, pid: u32) -> Vec<ProcessGpu> {
        let of = |gpu: &Gpu| {
            let own = gpu.processes.iter().find(|process| process.pid == pid)?;
            // What is of before is not of now.
            let is_of_now = gpu.stale_seconds.is_none();
            Some(ProcessGpu {
                index: gpu.index,
                uuid: gpu.uuid.clone(),
                instance: own.instance.clone(),
                sm_percent: own.sm_percent.filter(|_| is_of_now),
                memory_bytes: own.memory_bytes.filter(|_| is_of_now),
            })
        };
        self.gpus.iter().filter_map(of).collect()
    }

    /// GPUs that have told of critical errors.
    fn gpu_errors(&mut self, clock: &WallClock) -> Vec<Finding> {
        let now = clock.at(clock.monotonic);
        let Self { gpus, gpu_errors_since, .. } = self;
        let of = |gpu: &Gpu| {
            let errors = gpu.xid_errors_total.filter(|errors| *errors > 0)?;
            let since = *gpu_errors_since.entry(gpu.uuid.clone()).or_insert(now);
            Some(findings::gpu_errors(since, gpu.index, errors, gpu.last_xid))
        };
        let found: Vec<Finding> = gpus.iter().filter_map(of).collect();
        gpu_errors_since.retain(|uuid, _| gpus.iter().any(|gpu| gpu.uuid == *uuid));
        found
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
                reports: self.status.unsaid,
                missed_runs: self.missed_before + self.missed.values().sum::<u64>(),
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
            missed_total: status.missed,
            trap_seconds_estimated: status
                .runs
                .zip(trap_ns(&self.status, status.trap))
                .map(|(runs, ns)| runs as f64 * ns / 1e9),
        }
    }

    /// hbpf's processes.
    fn own_pids(&self) -> impl Iterator<Item = u32> + use<> {
        [Some(std::process::id()), Some(self.helper_pid), self.status.gpu_reader_pid].into_iter().flatten()
    }

    fn self_cost(&self) -> SelfCost {
        let ours = self.own_pids().map(|pid| self.processes.latest(pid)).collect::<Vec<_>>();
        let cpu = ours.iter().flatten().filter_map(|sample| sample.cpu_percent).reduce(|a, b| a + b);
        let resident = ours.iter().flatten().map(|sample| sample.resident_bytes).reduce(|a, b| a + b);
        SelfCost { cpu_percent: cpu, kernel_cpu_percent: self.meter.kernel_percent(), resident_bytes: resident }
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
    use super::processes::tests::{info, sample};
    use super::*;

    fn status(run_time_ns: u64) -> Status {
        let probe = |place: &str| ProbeStatus {
            group: Group::LlmTls,
            program: "ssl_read".into(),
            attached_to: place.into(),
            off_because: None,
            failed: false,
            runs: Some(1),
            run_time_ns: Some(run_time_ns),
            missed: None,
            trap: None,
        };
        Status { probes: vec![probe("a"), probe("b")], ..Status::default() }
    }

    #[test]
    fn missed_runs_count_once_for_a_program_and_go_on_when_it_is_loaded_anew() {
        let mut facts = Facts::new(1);
        let missed = |missed: Option<u64>| {
            let mut status = status(1);
            status.probes.iter_mut().for_each(|probe| probe.missed = missed);
            status
        };
        let mut lost = |missed_now| {
            facts.status(missed(missed_now), OwnTime::default(), Nanos(1));
            facts.capture(Counters::default(), 0).lost.missed_runs
        };
        assert_eq!([lost(Some(3)), lost(Some(5)), lost(None), lost(Some(2)), lost(Some(1))], [3, 5, 5, 7, 8]);
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

    #[test]
    fn a_frame_has_who_talks_who_uses_tls_and_bystanders_and_the_same_start_times_as_the_one_before() {
        let mut facts = Facts::new(1);
        facts.sample(vec![sample(1, 1, Some(1.0))]);
        facts.sample_complete(1);
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
    fn a_sample_that_nobody_waited_for_leaves_nothing_in_the_next() {
        let mut facts = Facts::new(1);
        for _ in 0..2 {
            facts.begin_sample(Host::default());
            facts.sample(vec![sample(7, 1, None)]);
            facts.gpu(Gpu::default());
        }
        facts.sample_complete(1);
        assert_eq!(facts.gpus.len(), 1);
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
}
