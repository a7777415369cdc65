//! Keeps the cost of observing within its budget: gives up a little at a time, dearest first, and takes it back when there
//! is room. It decides; others do.
//!
//! What hbpf's own processes take for what nobody's traffic causes, samples and frames, is part of the overhead, but no
//! blindness would save it: for that nothing is given up, and because of it nothing is kept back.

use std::collections::VecDeque;
use std::time::Duration;

use hbpf_core::findings::{self, TooDear};
use hbpf_core::snapshot::{Finding, OverheadLevel};
use hbpf_core::time::{Nanos, WallClock};

use crate::cost::index;
use crate::protocol::{Group, MAX_PROCESSES};

/// Seconds that are looked at. The middle one in size counts: two busy seconds among five are no rule.
const SECONDS: usize = 5;

/// How long is waited after probes have been put in or taken out, which has its own, passing cost (the verifier's work
/// is seconds), before anything is judged.
const SETTLING: Duration = Duration::from_secs(3);

/// How long there must have been room before something is taken back; twice as long each time that it did not last.
const PATIENCE: Duration = Duration::from_secs(60);
const MOST_PATIENCE: Duration = Duration::from_secs(15 * 60);

/// There is room for a group, or for processes that were left out, when what the probes cause is below this part of the
/// budget. For more bytes there is when twice the reading would do.
const ROOM: f64 = 0.5;

/// Fewer calls a second than these are not worth a blind spot.
const MANY_CALLS: f64 = 50.0;

/// By how much the limit on copying is lowered in one step at the most, and raised.
const STEP_DOWN: f64 = 4.0;
const STEP_UP: u64 = 2;

/// What copying less is to save more than is too much: it shows late, and never all of it is saved.
const MARGIN: f64 = 1.5;

/// Less than this per second is not worth copying less: beginnings of messages alone come to more.
const LEAST_BYTES_PER_SECOND: u64 = 64 * 1024;

/// Leaving processes out helps where TLS costs those who are observed at least this part of what is allowed.
const WORTH_EXCLUDING: f64 = 0.1;

/// Copying less helps where reading what is copied is at least this part of what is allowed.
const WORTH_THINNING: f64 = 0.25;

/// A group is switched off where all of them, with the reading of what they capture, are at least this part of what is
/// allowed. Otherwise it is hbpf's own processes that take the time, with samples taken too often for instance.
const WORTH_DETACHING: f64 = 0.5;

/// Where hbpf's own processes alone take more than is allowed, what the probes cause must be this part of the whole for
/// anything to be given up.
const WORTH_BLINDNESS: f64 = 0.5;

/// What is allowed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Budget {
    /// In percent of all CPUs; `None` for as much as it takes.
    pub(crate) percent: Option<f64>,
    /// Payload bytes that may be copied per second; 0 for as many as come.
    pub(crate) bytes_per_second: u64,
}

/// How things stand, about once a second.
#[derive(Clone, Debug, Default)]
pub(crate) struct Observation {
    /// The overhead since the observation before, in percent of all CPUs.
    pub(crate) percent: f64,
    /// The part of it that each group causes; `None` for one that is off.
    pub(crate) groups: [Option<Share>; Group::ALL.len()],
    /// Payload bytes copied per second.
    pub(crate) bytes_per_second: f64,
    /// Processes that make TLS calls and no model calls, with calls per second, most first.
    pub(crate) idle_callers: Vec<(u32, f64)>,
    /// TLS calls per second of all processes.
    pub(crate) calls_per_second: f64,
}

impl Observation {
    /// What reading all that is captured takes.
    fn reading(&self) -> f64 {
        self.groups.iter().flatten().map(|share| share.reading).sum()
    }

    /// What the probes cause: programs, traps, and the reading of what they capture.
    fn caused(&self) -> f64 {
        self.groups.iter().flatten().map(|share| share.sum()).sum()
    }
}

/// What a group causes, in percent of all CPUs.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Share {
    /// In programs and traps: those who are observed pay for it.
    pub(crate) outside: f64,
    /// In hbpf's own process, which reads what is captured.
    pub(crate) reading: f64,
}

impl Share {
    fn sum(self) -> f64 {
        self.outside + self.reading
    }
}

/// Something to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Take the TLS probes out of these processes, and put them into all others.
    Exclude(Vec<u32>),
    /// Copy no more bytes a second than this; 0 for as many as come.
    Limit(u64),
    /// Take a group of probes out.
    Detach(Group),
    /// Put it in again.
    Attach(Group),
}

/// Why and when something was given up.
#[derive(Clone, Copy, Debug)]
struct Reason {
    since: Nanos,
    percent: f64,
}

/// Decides. See the module's documentation.
#[derive(Debug)]
pub(crate) struct Governor {
    budget: Budget,
    seconds: VecDeque<f64>,
    settling_until: Nanos,
    excluded: Vec<u32>,
    excluded_for: Option<(Reason, f64)>,
    rate: u64,
    thinned_for: Option<Reason>,
    detached: Vec<(Group, Reason, f64)>,
    /// It is too much, and nothing that could be given up would change that.
    helpless: Option<Reason>,
    room_since: Option<Nanos>,
    patience: Duration,
    /// Something was taken back, and nothing given up since.
    has_taken_back: bool,
}

impl Governor {
    pub(crate) fn new(budget: Budget) -> Self {
        Self {
            budget,
            seconds: VecDeque::new(),
            settling_until: Nanos(0),
            excluded: Vec::new(),
            excluded_for: None,
            rate: budget.bytes_per_second,
            thinned_for: None,
            detached: Vec::new(),
            helpless: None,
            room_since: None,
            patience: PATIENCE,
            has_taken_back: false,
        }
    }

    /// Probes have been put in or taken out.
    pub(crate) fn probes_changed(&mut self, now: Nanos) {
        self.settling_until = now.after(SETTLING);
        self.seconds.clear();
        self.room_since = None;
    }

    /// The user has switched a group: what was decided about it is void.
    pub(crate) fn switched(&mut self, group: Group, now: Nanos) -> Option<Step> {
        self.detached.retain(|(other, ..)| *other != group);
        (self.patience, self.has_taken_back) = (PATIENCE, false);
        self.probes_changed(now);
        if group == Group::LlmTls && !self.excluded.is_empty() {
            return Some(self.include_all());
        }
        None
    }

    /// Takes an observation; says what is to be done, if anything.
    pub(crate) fn observe(&mut self, now: Nanos, seen: &Observation) -> Option<Step> {
        let budget = self.budget.percent?;
        if now < self.settling_until {
            return None;
        }
        self.seconds.push_back(seen.percent);
        if self.seconds.len() > SECONDS {
            self.seconds.pop_front();
        }
        if self.seconds.len() < SECONDS {
            return None;
        }
        let mut sorted: Vec<f64> = self.seconds.iter().copied().collect();
        sorted.sort_by(f64::total_cmp);
        let percent = sorted[SECONDS / 2];
        if percent > budget {
            self.room_since = None;
            let reason = Reason { since: now, percent };
            let step = self.give_up(reason, budget, seen);
            self.helpless = step.is_none().then_some(self.helpless.unwrap_or(reason));
            return step;
        }
        self.helpless = None;
        let is_room = if self.detached.is_empty() && self.thinned_for.is_some() {
            percent + seen.reading() <= budget
        } else {
            seen.caused() <= budget * ROOM
        };
        if !is_room {
            self.room_since = None;
            return None;
        }
        let since = *self.room_since.get_or_insert(now);
        (now.since(since) >= self.patience).then(|| self.take_back(seen)).flatten()
    }

    fn give_up(&mut self, reason: Reason, budget: f64, seen: &Observation) -> Option<Step> {
        // Blindness would not bring the rest within what is allowed, nor is it most of it.
        let caused = seen.caused();
        if reason.percent - caused > budget && caused < reason.percent * WORTH_BLINDNESS {
            return None;
        }
        let step = self
            .exclude(reason, budget, seen)
            .or_else(|| self.thin(reason, budget, seen))
            .or_else(|| self.detach(reason, budget, seen))?;
        if std::mem::take(&mut self.has_taken_back) {
            self.patience = (self.patience * 2).min(MOST_PATIENCE);
        }
        // What has been done must show before the next is judged.
        self.seconds.clear();
        Some(step)
    }

    /// Takes the probes out of as many processes as are needed, dearest first.
    fn exclude(&mut self, reason: Reason, budget: f64, seen: &Observation) -> Option<Step> {
        let tls = seen.groups[index(Group::LlmTls)].filter(|tls| tls.outside >= budget * WORTH_EXCLUDING)?;
        let per_call = tls.outside / seen.calls_per_second.max(1.0);
        let mut left = reason.percent - budget;
        let mut calls = 0.0;
        for (pid, rate) in &seen.idle_callers {
            if left <= 0.0 || *rate < MANY_CALLS || self.excluded.len() >= MAX_PROCESSES {
                break;
            }
            if !self.excluded.contains(pid) {
                self.excluded.push(*pid);
                calls += rate;
                left -= rate * per_call;
            }
        }
        if calls == 0.0 {
            return None;
        }
        let before = self.excluded_for.map_or(0.0, |(_, before)| before);
        self.excluded_for = Some((reason, before + calls));
        Some(Step::Exclude(self.excluded.clone()))
    }

    fn thin(&mut self, reason: Reason, budget: f64, seen: &Observation) -> Option<Step> {
        let copied = seen.bytes_per_second as u64;
        let now = if self.rate == 0 { copied } else { copied.min(self.rate) };
        let reading = seen.reading();
        let kept = 1.0 - (reason.percent - budget) * MARGIN / reading;
        let rate = (now as f64 * kept.max(1.0 / STEP_DOWN)) as u64;
        if reading < budget * WORTH_THINNING || rate < LEAST_BYTES_PER_SECOND {
            return None;
        }
        self.rate = rate;
        self.thinned_for = Some(reason);
        Some(Step::Limit(self.rate))
    }

    fn detach(&mut self, reason: Reason, budget: f64, seen: &Observation) -> Option<Step> {
        let on = Group::ALL.into_iter().filter_map(|group| Some((group, seen.groups[index(group)]?.sum())));
        if seen.caused() < budget * WORTH_DETACHING {
            return None;
        }
        let (group, percent) = on.max_by(|a, b| a.1.total_cmp(&b.1))?;
        self.detached.retain(|(other, ..)| *other != group);
        self.detached.push((group, reason, percent));
        Some(Step::Detach(group))
    }

    /// Takes something back: groups first, then bytes, then processes.
    fn take_back(&mut self, seen: &Observation) -> Option<Step> {
        self.room_since = None;
        self.seconds.clear();
        let had_taken_back = std::mem::replace(&mut self.has_taken_back, true);
        if let Some((group, ..)) = self.detached.pop() {
            return Some(Step::Attach(group));
        }
        if self.thinned_for.is_some() {
            let more = self.rate.saturating_mul(STEP_UP);
            let full = self.budget.bytes_per_second;
            // A limit far above what comes is none.
            let is_idle = (seen.bytes_per_second as u64) < self.rate / STEP_UP;
            let is_full = is_idle || if full == 0 { more >= 1 << 30 } else { more >= full };
            self.rate = if is_full { full } else { more };
            if is_full {
                self.thinned_for = None;
            }
            return Some(Step::Limit(self.rate));
        }
        if self.excluded.is_empty() {
            if had_taken_back {
                // All of it is back, and has lasted.
                self.patience = PATIENCE;
            }
            self.has_taken_back = false;
            return None;
        }
        Some(self.include_all())
    }

    fn include_all(&mut self) -> Step {
        self.excluded.clear();
        self.excluded_for = None;
        Step::Exclude(Vec::new())
    }

    /// Processes that have ended need no exclusion, and their numbers may come to mean others.
    pub(crate) fn exited(&mut self, pid: u32) -> Option<Step> {
        let before = self.excluded.len();
        self.excluded.retain(|other| *other != pid);
        if self.excluded.len() == before {
            return None;
        }
        if self.excluded.is_empty() {
            self.excluded_for = None;
        }
        Some(Step::Exclude(self.excluded.clone()))
    }

    /// What has been given up.
    pub(crate) fn level(&self) -> OverheadLevel {
        if !self.detached.is_empty() {
            OverheadLevel::Detached
        } else if self.thinned_for.is_some() {
            OverheadLevel::Thinned
        } else if !self.excluded.is_empty() {
            OverheadLevel::Excluded
        } else {
            OverheadLevel::Full
        }
    }

    /// Whether a group may be switched on again, once there is room.
    pub(crate) fn may_attach(&self) -> bool {
        !self.detached.is_empty()
    }

    /// Payload bytes that may be copied per second now; 0 for as many as come.
    pub(crate) fn bytes_per_second(&self) -> u64 {
        self.rate
    }

    pub(crate) fn budget_percent(&self) -> Option<f64> {
        self.budget.percent
    }

    pub(crate) fn excluded(&self) -> usize {
        self.excluded.len()
    }

    /// What has been given up, for the user to see.
    pub(crate) fn findings(&self, clock: &WallClock) -> Vec<Finding> {
        let budget_percent = self.budget.percent.unwrap_or_default();
        let dear = |reason: &Reason| TooDear { since: clock.at(reason.since), percent: reason.percent, budget_percent };
        let detached = self.detached.iter().map(|(group, reason, percent)| {
            findings::group_detached(dear(reason), group.name(), index(*group) + 1, *percent)
        });
        let thinned = self.thinned_for.iter().map(|reason| findings::copying_thinned(dear(reason), self.rate));
        let excluded = self
            .excluded_for
            .iter()
            .map(|(reason, calls)| findings::processes_excluded(dear(reason), self.excluded.len(), *calls));
        let helpless = self.helpless.iter().map(|reason| findings::own_processes_dear(dear(reason)));
        detached.chain(thinned).chain(excluded).chain(helpless).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MB: f64 = 1e6;

    struct Bench {
        governor: Governor,
        now: Nanos,
        steps: Vec<Step>,
    }

    impl Bench {
        fn new(percent: f64) -> Self {
            let governor = Governor::new(Budget { percent: Some(percent), bytes_per_second: 64_000_000 });
            Self { governor, now: Nanos(1), steps: Vec::new() }
        }

        fn pass(&mut self, seconds: usize, seen: &Observation) -> Vec<Step> {
            let mut steps = Vec::new();
            for _ in 0..seconds {
                self.now = self.now.after(Duration::from_secs(1));
                steps.extend(self.governor.observe(self.now, seen));
            }
            self.steps.extend(steps.iter().cloned());
            steps
        }

        fn findings(&self) -> Vec<String> {
            let clock = WallClock { monotonic: self.now, wall: jiff::Timestamp::UNIX_EPOCH };
            self.governor.findings(&clock).into_iter().map(|finding| finding.id.to_string()).collect()
        }
    }

    fn share(outside: f64) -> Option<Share> {
        Some(Share { outside, reading: 0.0 })
    }

    /// What the groups take that show model traffic, while the others are off.
    fn of(tls: Option<Share>, plain: Option<Share>) -> [Option<Share>; Group::ALL.len()] {
        let mut groups = [None; Group::ALL.len()];
        groups[..2].copy_from_slice(&[tls, plain]);
        groups
    }

    fn seen(percent: f64) -> Observation {
        Observation {
            percent,
            groups: of(Some(Share { outside: percent / 3.0, reading: percent / 3.0 }), share(0.1)),
            ..Observation::default()
        }
    }

    #[test]
    fn first_processes_without_model_traffic_then_bytes_then_the_dearest_group() {
        let mut bench = Bench::new(2.0);
        let dear = Observation {
            bytes_per_second: 1.6 * MB,
            idle_callers: vec![(7, 900.0), (8, 40.0)],
            calls_per_second: 1000.0,
            ..seen(9.0)
        };
        assert_eq!(bench.pass(SECONDS, &dear), [Step::Exclude(vec![7])]);
        assert_eq!(bench.governor.level(), OverheadLevel::Excluded);
        assert_eq!(bench.pass(SECONDS, &dear), [Step::Limit(400_000)]);
        let less = Observation { bytes_per_second: 0.4 * MB, ..dear.clone() };
        assert_eq!(bench.pass(SECONDS, &less), [Step::Limit(100_000)]);
        let least = Observation { bytes_per_second: 0.1 * MB, ..dear.clone() };
        assert_eq!(bench.pass(SECONDS, &least), [Step::Detach(Group::LlmTls)]);
        assert_eq!(bench.findings(), ["overhead_detached", "overhead_thinned", "overhead_excluded"]);
        let without = Observation { groups: of(None, share(5.0)), ..least };
        assert_eq!(bench.pass(SECONDS, &without), [Step::Detach(Group::LlmPlain)]);
        assert_eq!(
            bench.pass(100, &Observation { groups: of(None, None), ..seen(9.0) }),
            [],
            "nothing is left to give up"
        );
    }

    #[test]
    fn where_hbpf_itself_takes_the_time_it_does_not_blind_itself_and_says_so() {
        let mut bench = Bench::new(2.0);
        // A small host, on which the view alone is more than is allowed.
        let reading = Some(Share { outside: 0.2, reading: 0.4 });
        let idle_callers = vec![(7, 900.0)];
        let own = Observation { groups: of(share(0.1), reading), idle_callers, calls_per_second: 900.0, ..seen(2.6) };
        assert_eq!(bench.pass(100, &own), []);
        assert_eq!(bench.findings(), ["overhead_own"]);
        bench.pass(SECONDS, &Observation { percent: 1.5, ..own });
        assert!(bench.findings().is_empty(), "it has passed");
    }

    #[test]
    fn where_blindness_would_not_be_enough_nothing_is_given_up_unless_it_is_most_of_the_cost() {
        let mut bench = Bench::new(2.0);
        // Thousands of processes start, each of which is looked at; all the traffic takes little.
        let seen = Observation { groups: of(share(0.6), share(0.6)), bytes_per_second: MB, ..seen(9.8) };
        assert_eq!(bench.pass(100, &seen), []);
        assert_eq!(bench.findings(), ["overhead_own"]);
        let caused = Observation { groups: of(share(3.0), share(3.0)), ..seen };
        assert_eq!(bench.pass(1, &caused), [Step::Detach(Group::LlmPlain)]);
    }

    #[test]
    fn busy_moments_and_the_verifiers_work_are_no_reason() {
        let mut bench = Bench::new(2.0);
        bench.governor.probes_changed(bench.now);
        assert_eq!(bench.pass(2, &seen(80.0)), []);
        for _ in 0..100 {
            bench.pass(2, &seen(50.0));
            bench.pass(3, &seen(1.5));
        }
        assert_eq!(bench.steps, []);
        assert!(bench.findings().is_empty());
    }

    #[test]
    fn groups_come_back_first_then_bytes_by_and_by_then_processes() {
        let mut bench = Bench::new(2.0);
        let dear = Observation { bytes_per_second: 20.0 * MB, ..seen(9.0) };
        let callers = Observation { idle_callers: vec![(7, 900.0)], calls_per_second: 900.0, ..seen(3.0) };
        bench.pass(SECONDS, &callers);
        bench.pass(SECONDS, &dear);
        bench.governor.detached.push((Group::LlmPlain, Reason { since: bench.now, percent: 3.0 }, 3.0));
        bench.steps.clear();
        bench.pass(2000, &Observation { bytes_per_second: 100.0 * MB, ..seen(0.1) });
        let back = [
            Step::Attach(Group::LlmPlain),
            Step::Limit(10_000_000),
            Step::Limit(20_000_000),
            Step::Limit(40_000_000),
            Step::Limit(64_000_000),
            Step::Exclude(vec![]),
        ];
        assert_eq!(bench.steps, back);
        assert!(bench.findings().is_empty());
    }

    #[test]
    fn what_was_switched_off_is_the_users_to_switch_on() {
        let mut bench = Bench::new(2.0);
        let dear = Observation { groups: of(None, share(5.0)), ..seen(9.0) };
        assert_eq!(bench.pass(SECONDS, &dear), [Step::Detach(Group::LlmPlain)]);
        assert_eq!(
            (bench.findings(), bench.governor.level()),
            (vec!["overhead_detached".into()], OverheadLevel::Detached)
        );
        assert_eq!(bench.governor.switched(Group::LlmPlain, bench.now), None);
        assert!(bench.findings().is_empty());
    }

    #[test]
    fn what_hbpf_itself_takes_keeps_no_group_out() {
        let mut bench = Bench::new(2.0);
        let dear = Observation { groups: of(None, share(1.0)), ..seen(2.5) };
        assert_eq!(bench.pass(SECONDS, &dear), [Step::Detach(Group::LlmPlain)]);
        let without = Observation { groups: of(None, None), ..seen(1.5) };
        assert_eq!(bench.pass(2 * PATIENCE.as_secs() as usize, &without), [Step::Attach(Group::LlmPlain)]);
    }

    #[test]
    fn a_group_that_stays_too_dear_is_tried_less_and_less_often() {
        let mut bench = Bench::new(2.0);
        let mut is_on = true;
        let mut times = Vec::new();
        for second in 0..7200 {
            let now = Observation {
                groups: of(None, is_on.then_some(Share { outside: 5.0, reading: 1.0 })),
                ..seen(if is_on { 9.0 } else { 0.5 })
            };
            for step in bench.pass(1, &now) {
                is_on = step == Step::Attach(Group::LlmPlain);
                times.push(second);
                bench.governor.probes_changed(bench.now);
            }
        }
        let gaps: Vec<usize> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert!(times.len() < 30 && gaps.iter().max() > Some(&600), "{gaps:?}");
    }

    #[test]
    fn what_is_taken_back_and_proves_too_dear_again_is_waited_for_longer_and_longer() {
        let mut bench = Bench::new(2.0);
        let mut times = Vec::new();
        let mut full = true;
        for second in 0..7200 {
            // The more is copied, the dearer.
            let now = Observation { bytes_per_second: 4.0 * MB, ..seen(if full { 9.0 } else { 0.5 }) };
            for step in bench.pass(1, &now) {
                let Step::Limit(rate) = step else { panic!("{step:?}") };
                full = rate >= 4_000_000;
                times.push(second);
            }
        }
        let gaps: Vec<usize> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert!(times.len() < 40, "{gaps:?}");
        assert!(gaps.iter().max() > Some(&600), "{gaps:?}");
    }

    #[test]
    fn between_room_and_budget_nothing_moves() {
        let mut bench = Bench::new(2.0);
        bench.pass(SECONDS, &Observation { bytes_per_second: 4.0 * MB, ..seen(9.0) });
        bench.steps.clear();
        bench.pass(1000, &Observation { bytes_per_second: 1.0 * MB, ..seen(1.9) });
        assert_eq!(bench.steps, []);
    }

    #[test]
    fn no_more_is_left_out_than_has_to_be_and_bytes_come_back_though_hbpf_itself_takes_most() {
        let mut bench = Bench::new(2.0);
        let share = Some(Share { outside: 0.2, reading: 1.0 });
        let dear = Observation { groups: of(None, share), bytes_per_second: 1.0 * MB, ..seen(2.3) };
        assert_eq!(bench.pass(SECONDS, &dear), [Step::Limit(550_000)]);
        let less = Some(Share { outside: 0.2, reading: 0.4 });
        let near = Observation { groups: of(None, less), bytes_per_second: 0.5 * MB, ..seen(1.6) };
        assert_eq!(bench.pass(100, &near), [Step::Limit(1_100_000)]);
        // Nothing like that comes any more.
        let idle = Observation { bytes_per_second: 0.01 * MB, ..near };
        assert_eq!(bench.pass(100, &idle), [Step::Limit(64_000_000)]);
    }

    #[test]
    fn without_a_budget_nothing_is_given_up() {
        let mut bench = Bench::new(2.0);
        bench.governor.budget.percent = None;
        assert_eq!(bench.pass(100, &seen(90.0)), []);
    }

    #[test]
    fn an_excluded_process_that_has_ended_is_excluded_no_more() {
        let mut bench = Bench::new(2.0);
        bench.pass(SECONDS, &Observation { idle_callers: vec![(7, 900.0)], calls_per_second: 900.0, ..seen(3.0) });
        assert_eq!(bench.governor.exited(8), None);
        assert_eq!(bench.governor.exited(7), Some(Step::Exclude(vec![])));
        assert!(bench.findings().is_empty());
    }
}
