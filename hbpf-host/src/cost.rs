//! What observing costs: time in eBPF programs, in the traps that lead to them, and in hbpf's own processes, apart from
//! the rest the part of it that reads what the programs have captured.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use hbpf_core::time::Nanos;

use crate::protocol::{Group, Status, TlsUser, Trap};

/// What shares are over: long enough that one busy moment is not taken for the rule.
const WINDOW: Duration = Duration::from_secs(5);

/// Readings closer to each other than this say nothing.
const CLOSE: Duration = Duration::from_millis(700);

/// Times that only grow, in nanoseconds; `None` where they are not known.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct GroupTimes {
    pub(crate) kernel: Option<f64>,
    pub(crate) trap: Option<f64>,
}

/// A group's part of one core, in percent, over the last seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct GroupShare {
    pub(crate) kernel_percent: Option<f64>,
    pub(crate) trap_percent: Option<f64>,
    /// In hbpf's own process, for what was captured.
    pub(crate) reading_percent: f64,
}

impl GroupShare {
    /// Programs and traps, as far as that is known.
    pub(crate) fn outside_percent(&self) -> f64 {
        self.kernel_percent.unwrap_or_default() + self.trap_percent.unwrap_or_default()
    }
}

/// CPU time that hbpf's processes have used so far.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct OwnTime {
    /// All of it.
    pub(crate) total: Duration,
    /// What reading each group's records has taken of it.
    pub(crate) reading: [Duration; Group::ALL.len()],
}

/// Where things stood at one moment.
#[derive(Clone, Debug)]
struct Reading {
    at: Nanos,
    groups: [GroupTimes; Group::ALL.len()],
    own: OwnTime,
    bytes: u64,
    users: Vec<TlsUser>,
}

/// Adds up what the helper tells of each program, also across programs that were taken out and loaded again.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    /// Runs and time of each program, as last told.
    programs: HashMap<String, (u64, u64)>,
    times: [Option<GroupTimes>; Group::ALL.len()],
    readings: VecDeque<Reading>,
}

impl Meter {
    /// Takes a status and the CPU time of hbpf's processes until then.
    pub(crate) fn read(&mut self, status: &Status, own: OwnTime, at: Nanos) {
        self.add(status);
        let groups = self.times.map(Option::unwrap_or_default);
        // Statuses can come often; those close to each other are made one, up to the latest.
        let is_short = |last: &[&Reading]| last[1].at.since(last[0].at) < CLOSE;
        let last: Vec<&Reading> = self.readings.iter().rev().take(2).rev().collect();
        if last.len() == 2 && is_short(&last) {
            self.readings.pop_back();
        }
        let bytes = status.counters.map_or(0, |counters| counters[hbpf_ebpf::counter::BYTES as usize]);
        self.readings.push_back(Reading { at, groups, own, bytes, users: status.tls_users.clone() });
        while self.readings.get(1).is_some_and(|second| at.since(second.at) >= WINDOW) {
            self.readings.pop_front();
        }
    }

    /// Forgets what lies behind: it was of another set of probes.
    pub(crate) fn start_over(&mut self) {
        self.readings.drain(..self.readings.len().saturating_sub(1));
    }

    fn add(&mut self, status: &Status) {
        // The numbers of one program stand at each of its places. Of places with different traps it cannot be told how
        // often each was run into: the dearest is taken.
        let mut told: HashMap<&str, (Group, u64, u64, Option<f64>)> = HashMap::new();
        for probe in &status.probes {
            let (Some(runs), Some(time)) = (probe.runs, probe.run_time_ns) else { continue };
            let trap = trap_ns(status, probe.trap);
            let entry = told.entry(&probe.program).or_insert((probe.group, runs, time, trap));
            entry.3 = entry.3.zip(trap).map(|(a, b)| a.max(b));
        }
        for (program, (group, runs, time, trap)) in told {
            let before = self.programs.insert(program.to_owned(), (runs, time)).unwrap_or_default();
            // Fewer than before: it has been loaded anew.
            let (runs, time) =
                if runs < before.0 || time < before.1 { (runs, time) } else { (runs - before.0, time - before.1) };
            let index = index(group);
            let sums = self.times[index].get_or_insert(GroupTimes { kernel: Some(0.0), trap: Some(0.0) });
            sums.kernel = sums.kernel.map(|sum| sum + time as f64);
            sums.trap = sums.trap.zip(trap).map(|(sum, each)| sum + each * runs as f64);
        }
    }

    fn span(&self) -> Option<(&Reading, &Reading, f64)> {
        let (first, last) = (self.readings.front()?, self.readings.back()?);
        // Right after a start, or a change of probes, there is no share yet.
        (last.at.since(first.at) >= CLOSE).then(|| (first, last, last.at.seconds_since(first.at)))
    }

    /// A group's share of one core.
    pub(crate) fn share(&self, group: Group) -> GroupShare {
        let Some((first, last, seconds)) = self.span() else { return GroupShare::default() };
        let index = index(group);
        let (before, after) = (first.groups[index], last.groups[index]);
        let percent = |before: Option<f64>, after: Option<f64>| {
            after.map(|after| (after - before.unwrap_or_default()).max(0.0) / 1e7 / seconds)
        };
        let reading = last.own.reading[index].saturating_sub(first.own.reading[index]);
        GroupShare {
            kernel_percent: percent(before.kernel, after.kernel),
            trap_percent: percent(before.trap, after.trap),
            reading_percent: reading.as_secs_f64() * 100.0 / seconds,
        }
    }

    /// Part of one core that all programs take; `None` where it is not known.
    pub(crate) fn kernel_percent(&self) -> Option<f64> {
        Group::ALL.into_iter().filter_map(|group| self.share(group).kernel_percent).reduce(|a, b| a + b)
    }

    /// Part of one core that hbpf's processes take.
    pub(crate) fn own_percent(&self) -> Option<f64> {
        let (first, last, seconds) = self.span()?;
        Some(last.own.total.saturating_sub(first.own.total).as_secs_f64() / seconds * 100.0)
    }

    /// Programs, traps and processes, as a part of one core.
    pub(crate) fn percent(&self) -> Option<f64> {
        Some(self.own_percent()? + Group::ALL.into_iter().map(|group| self.share(group).outside_percent()).sum::<f64>())
    }

    /// The same since the reading before the latest; `None` where that is a moment ago.
    pub(crate) fn latest_percent(&self) -> Option<f64> {
        let latest = self.readings.range(self.readings.len().checked_sub(2)?..).cloned().collect();
        Self { readings: latest, times: self.times, ..Self::default() }.percent()
    }

    /// Payload bytes copied per second.
    pub(crate) fn bytes_per_second(&self) -> f64 {
        self.span().map_or(0.0, |(first, last, seconds)| last.bytes.saturating_sub(first.bytes) as f64 / seconds)
    }

    /// Calls per second of processes that use TLS libraries and have made no model call, those with most first, and what
    /// all processes make together.
    pub(crate) fn idle_callers(&self) -> (Vec<(u32, f64)>, f64) {
        let Some((first, last, seconds)) = self.span() else { return (Vec::new(), 0.0) };
        let before = |pid| first.users.iter().find(|user| user.pid == pid).map_or(0, |user: &TlsUser| user.calls);
        let rate = |user: &TlsUser| user.calls.saturating_sub(before(user.pid)) as f64 / seconds;
        let all = last.users.iter().map(rate).sum();
        let idle = last.users.iter().filter(|user| user.model_messages == 0);
        let mut idle: Vec<(u32, f64)> = idle.map(|user| (user.pid, rate(user))).collect();
        idle.sort_by(|a, b| b.1.total_cmp(&a.1));
        (idle, all)
    }
}

/// A group's place in [`Group::ALL`].
pub(crate) fn index(group: Group) -> usize {
    Group::ALL.iter().position(|other| *other == group).unwrap_or_default()
}

/// Nanoseconds in the trap per run of a program; 0 where there is none, `None` where it is not known.
pub(crate) fn trap_ns(status: &Status, trap: Option<Trap>) -> Option<f64> {
    match trap {
        None => Some(0.0),
        Some(trap) => status.trap_cost.and_then(|cost| cost.of(trap)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{ProbeStatus, TrapCost, TrapKind, TrapTimes};

    const SECOND: u64 = 1_000_000_000;

    fn probe(group: Group, program: &str, place: &str, runs: u64, ns: u64, trap: Option<TrapKind>) -> ProbeStatus {
        ProbeStatus {
            group,
            program: program.into(),
            attached_to: place.into(),
            off_because: None,
            failed: false,
            runs: Some(runs),
            run_time_ns: Some(ns),
            missed: None,
            trap: trap.map(|kind| Trap { kind, stepped: false }),
        }
    }

    fn status(runs: u64) -> Status {
        let tls = |program, place, kind| probe(Group::LlmTls, program, place, runs, runs * 1000, Some(kind));
        Status {
            probes: vec![
                tls("ssl_read", "a", TrapKind::Entry),
                tls("ssl_read", "b", TrapKind::Entry),
                tls("ssl_read_return", "a", TrapKind::ReturnBesideEntry),
                tls("ssl_new_return", "a", TrapKind::Return),
                probe(Group::LlmPlain, "tcp_egress", "/", runs, runs * 500, None),
            ],
            trap_cost: Some(TrapCost { emulated: TrapTimes { entry_ns: 1000.0, return_ns: 3000.0 }, stepped: None }),
            ..Status::default()
        }
    }

    fn close(a: Option<f64>, b: f64) -> bool {
        a.is_some_and(|a| (a - b).abs() < 1e-9)
    }

    #[test]
    fn a_programs_time_counts_once_for_all_its_places_and_a_trap_once_for_all_its_programs() {
        let mut meter = Meter::default();
        meter.read(&status(0), OwnTime::default(), Nanos(0));
        assert_eq!(meter.percent(), None);
        let mut own = OwnTime { total: Duration::from_millis(20), ..OwnTime::default() };
        own.reading[index(Group::LlmTls)] = Duration::from_millis(5);
        meter.read(&status(10_000), own, Nanos(SECOND));
        let tls = meter.share(Group::LlmTls);
        // Three programs with 10,000 runs of 1 µs in a second; traps of 1, 2 and 3 µs.
        assert!(close(tls.kernel_percent, 3.0) && close(tls.trap_percent, 6.0), "{tls:?}");
        let plain = meter.share(Group::LlmPlain);
        assert!(close(plain.kernel_percent, 0.5) && close(plain.trap_percent, 0.0), "{plain:?}");
        assert_eq!((tls.reading_percent, plain.reading_percent), (0.5, 0.0));
        assert!(close(meter.percent(), 3.0 + 6.0 + 0.5 + 2.0) && close(meter.kernel_percent(), 3.5));
    }

    #[test]
    fn what_is_not_known_is_no_number() {
        let mut meter = Meter::default();
        let unmeasured = |runs| Status { trap_cost: None, ..status(runs) };
        meter.read(&unmeasured(0), OwnTime::default(), Nanos(0));
        meter.read(&unmeasured(10), OwnTime::default(), Nanos(SECOND));
        assert_eq!(meter.share(Group::LlmTls).trap_percent, None);
        assert!(close(meter.share(Group::LlmPlain).trap_percent, 0.0), "there is no trap");
        let mut uncounted = Meter::default();
        uncounted.read(&Status::default(), OwnTime::default(), Nanos(0));
        uncounted.read(&Status::default(), OwnTime::default(), Nanos(SECOND));
        assert_eq!(uncounted.share(Group::LlmTls), GroupShare::default());
    }

    #[test]
    fn programs_loaded_again_count_from_nothing() {
        let mut meter = Meter::default();
        for (second, runs) in [(0, 0), (1, 10_000), (2, 5_000)] {
            meter.read(&status(runs), OwnTime::default(), Nanos(second * SECOND));
        }
        assert!(close(meter.share(Group::LlmPlain).kernel_percent, 15_000.0 * 500.0 / 1e7 / 2.0));
    }

    #[test]
    fn readings_in_quick_succession_still_make_a_latest_share_about_once_a_second() {
        let mut meter = Meter::default();
        let mut latest = 0;
        for tick in 0..50 {
            meter.read(&status(tick * 100), OwnTime::default(), Nanos(tick * SECOND / 5));
            latest += usize::from(meter.latest_percent().is_some());
        }
        assert!((8..=15).contains(&latest), "{latest} in ten seconds");
    }

    #[test]
    fn a_moment_has_no_share() {
        let mut meter = Meter::default();
        meter.read(&status(0), OwnTime::default(), Nanos(0));
        let own = OwnTime { total: Duration::from_secs(1), ..OwnTime::default() };
        meter.read(&status(10_000), own, Nanos(SECOND / 100));
        assert_eq!((meter.percent(), meter.share(Group::LlmTls)), (None, GroupShare::default()));
    }

    #[test]
    fn shares_are_over_the_last_seconds() {
        let mut meter = Meter::default();
        for second in 0..100 {
            meter.read(&status(if second < 50 { 0 } else { 1000 }), OwnTime::default(), Nanos(second * SECOND));
        }
        assert!(close(meter.percent(), 0.0) && close(meter.latest_percent(), 0.0));
    }
}
