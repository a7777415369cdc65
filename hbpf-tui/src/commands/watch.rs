//! What keeps a run from seeing everything: said once, and remembered for those who judge by what was seen.

use std::collections::VecDeque;
use std::time::Duration;

use hbpf_core::snapshot::{Finding, Lost, LostRecords, Probe, ProbeState, Snapshot};
use hbpf_host::protocol::Group;

use crate::summary::{self, GroupState};

/// How often it is told that more was lost: what goes on for long is not told with every look.
pub(super) const LOSSES_PACE: Duration = Duration::from_secs(10);

/// Errors that are remembered as told. More than a snapshot can have, so that what goes on stays among them; and few enough for
/// a run of months.
const MAX_TOLD: usize = 512;

/// Looks at the snapshots of a run, one after the other.
pub(super) struct Watch {
    sights: Vec<(Group, Sight)>,
    told: Told,
    /// Those of the snapshot before.
    findings: Vec<String>,
    lost: Lost,
    lost_as_told: Lost,
    lost_told_at: Option<f64>,
    has_missed: bool,
}

/// What is seen of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sight {
    /// Nothing yet: its probes are being put in.
    Awaited,
    Whole,
    Partial,
    /// Nothing: its probes cannot be put in.
    Failed,
    /// Nothing: its probes have been taken out again, to keep within what observing may cost.
    GivenUp,
}

impl Watch {
    /// Watches over these groups of probes.
    pub(super) fn new(groups: &[Group]) -> Self {
        Self {
            sights: groups.iter().map(|group| (*group, Sight::Awaited)).collect(),
            told: Told::default(),
            findings: Vec::new(),
            lost: Lost::default(),
            lost_as_told: Lost::default(),
            lost_told_at: None,
            has_missed: false,
        }
    }

    /// What is new since the snapshot before, a line each; but for losses.
    pub(super) fn look(&mut self, snapshot: &Snapshot) -> Vec<String> {
        let mut lines = Vec::new();
        for (group, sight) in &mut self.sights {
            let before = std::mem::replace(sight, sight_of(snapshot, *group, *sight));
            let reason = why(snapshot, *group);
            if let Some(line) = change(*group, before, *sight, reason.as_deref()) {
                lines.push(line);
                // The helper tells it as an error, too.
                self.told.is_new(format!("{}: {}", group.name(), reason.unwrap_or_default()));
            }
            self.has_missed |= is_of_traffic(*group) && !matches!(*sight, Sight::Awaited | Sight::Whole);
        }
        for error in &snapshot.errors {
            let line = format!("{}: {}", error.source, error.message);
            if self.told.is_new(line.clone()) {
                lines.push(line);
            }
        }
        // What has gone meanwhile and comes again is told again.
        let before = std::mem::replace(&mut self.findings, snapshot.findings.iter().map(step).collect());
        let is_new = |finding: &&Finding| !before.contains(&step(finding));
        let told = |finding: &Finding| format!("{}; {}", summary::finding(finding), finding.advice);
        lines.extend(snapshot.findings.iter().filter(is_new).map(told));
        self.lost = snapshot.capture.lost.clone();
        // Without reports processes may lack their names, which changes no number of an exchange.
        self.has_missed |= Lost { reports: 0, ..self.lost.clone() } != Lost::default();
        self.has_missed |= snapshot.capture.overhead.excluded_processes > 0;
        lines
    }

    /// What was lost since that was told last, if it is time to.
    pub(super) fn losses(&mut self, snapshot: &Snapshot) -> Option<String> {
        let now = snapshot.observed_seconds;
        let is_due = self.lost_told_at.is_none_or(|told| now - told >= LOSSES_PACE.as_secs_f64());
        let line = if is_due { self.rest_of_losses() } else { None };
        if line.is_some() {
            self.lost_told_at = Some(now);
        }
        line
    }

    /// The same, time or not.
    pub(super) fn rest_of_losses(&mut self) -> Option<String> {
        let before = std::mem::replace(&mut self.lost_as_told, self.lost.clone());
        let lost = summary::losses(&growth(&self.lost, &before));
        (!lost.is_empty()).then(|| format!("lost: {}; exchanges may be missing, or parts of them", lost.join(", ")))
    }

    /// Whether the probes of all groups are in, or what stands in their way is known.
    pub(super) fn is_settled(&self) -> bool {
        !self.sights.iter().any(|(_, sight)| *sight == Sight::Awaited)
    }

    /// Says so.
    pub(super) fn in_place(&self) -> String {
        let lacking = self.sights.iter().filter(|(_, sight)| *sight != Sight::Whole);
        let lacking: Vec<_> = lacking.map(|(group, _)| group.name()).collect();
        let but = if lacking.is_empty() { String::new() } else { format!(", but for {}", lacking.join(" and ")) };
        format!("the probes are in place{but}")
    }

    /// Whether all model traffic of these groups was seen, as far as can be told, from when the probes were in place.
    pub(super) fn is_whole(&self) -> bool {
        !self.has_missed && self.is_settled()
    }
}

/// Whether a group shows model traffic.
fn is_of_traffic(group: Group) -> bool {
    Group::LLM.contains(&group)
}

fn sight_of(snapshot: &Snapshot, group: Group, before: Sight) -> Sight {
    match summary::group_state(&snapshot.capture, group) {
        GroupState::On { .. } => Sight::Whole,
        GroupState::Partial { .. } => Sight::Partial,
        GroupState::Failed => Sight::Failed,
        // Nobody but the governor switches a group off here, and what is off at first is yet to come.
        GroupState::Off | GroupState::Waiting if before == Sight::Awaited => Sight::Awaited,
        GroupState::Off | GroupState::Waiting => Sight::GivenUp,
    }
}

/// Why a group, or a part of it, has failed.
fn why(snapshot: &Snapshot, group: Group) -> Option<String> {
    let is_failed = |probe: &&Probe| probe.group == group.name() && probe.state == ProbeState::Failed;
    snapshot.capture.probes.iter().find(is_failed)?.reason.as_ref().map(ToString::to_string)
}

fn change(group: Group, before: Sight, now: Sight, reason: Option<&str>) -> Option<String> {
    let reason = reason.map_or_else(String::new, |reason| format!(": {reason}"));
    let what = match (before, now) {
        (before, now) if before == now => return None,
        (Sight::Awaited, Sight::Whole) | (_, Sight::Awaited) => return None,
        (_, Sight::Whole) => "is seen again, all of it".to_owned(),
        (_, Sight::Partial) => format!("is seen in part only{reason}"),
        (_, Sight::Failed) => format!("is not seen{reason}"),
        (_, Sight::GivenUp) => "has been switched off: nothing of it is seen until it is on again".to_owned(),
    };
    Some(format!("{} {what}", group.name()))
}

fn growth(now: &Lost, before: &Lost) -> Lost {
    Lost {
        ring_full: LostRecords {
            chunks: now.ring_full.chunks.saturating_sub(before.ring_full.chunks),
            bytes: now.ring_full.bytes.saturating_sub(before.ring_full.bytes),
        },
        read_fault: now.read_fault.saturating_sub(before.read_fault),
        map_full: now.map_full.saturating_sub(before.map_full),
        over_budget: now.over_budget.saturating_sub(before.over_budget),
        over_budget_bytes: now.over_budget_bytes.saturating_sub(before.over_budget_bytes),
        parse_gap: now.parse_gap.saturating_sub(before.parse_gap),
        missed_runs: now.missed_runs.saturating_sub(before.missed_runs),
        reports: now.reports.saturating_sub(before.reports),
        desync: now.desync.saturating_sub(before.desync),
    }
}

/// The errors that were told or came up last.
#[derive(Default)]
struct Told(VecDeque<String>);

impl Told {
    /// Whether this was not told yet; it is from now on.
    fn is_new(&mut self, line: String) -> bool {
        let known = self.0.iter().position(|told| *told == line);
        if let Some(known) = known {
            // What goes on is the last to be forgotten.
            self.0.remove(known);
        }
        self.0.push_back(line);
        if self.0.len() > MAX_TOLD {
            self.0.pop_front();
        }
        known.is_none()
    }
}

/// What of a finding is worth another line when it changes: of what is counted in it each frame has other numbers.
fn step(finding: &Finding) -> String {
    let limits = finding.evidence.iter().filter(|(name, _)| name.ends_with("_limit"));
    let limits = limits.map(|(_, limit)| limit.to_string()).collect::<String>();
    format!("{} {} {:?} {limits}", finding.id, finding.subject, finding.severity)
}

#[cfg(test)]
mod tests {
    use hbpf_core::snapshot::CollectionError;

    use super::*;
    use crate::fixture;

    /// Nothing lost, all on.
    fn whole() -> Snapshot {
        let mut snapshot = fixture::rich();
        snapshot.capture.lost = Lost::default();
        snapshot
    }

    fn with_tls(state: ProbeState, reason: Option<&str>) -> Snapshot {
        let mut snapshot = whole();
        for probe in snapshot.capture.probes.iter_mut().filter(|probe| probe.group == "llm-tls") {
            (probe.state, probe.reason) = (state, reason.map(Into::into));
        }
        snapshot
    }

    #[test]
    fn a_group_that_is_off_at_first_is_yet_to_come_and_later_it_has_been_given_up() {
        let mut watch = Watch::new(&Group::LLM);
        assert!(watch.look(&fixture::empty()).is_empty() && !watch.is_settled());
        assert!(watch.look(&with_tls(ProbeState::Off, Some("off"))).is_empty() && !watch.is_settled());
        assert!(watch.look(&whole()).is_empty() && watch.is_settled() && watch.is_whole());
        assert_eq!(watch.in_place(), "the probes are in place");
        assert_eq!(
            watch.look(&with_tls(ProbeState::Off, Some("off"))),
            ["llm-tls has been switched off: nothing of it is seen until it is on again"]
        );
        assert!(watch.look(&with_tls(ProbeState::Off, Some("off"))).is_empty(), "it is told once");
        assert_eq!(watch.look(&whole()), ["llm-tls is seen again, all of it"]);
        assert!(!watch.is_whole(), "it was off in between");
    }

    #[test]
    fn one_group_that_has_failed_is_told_once_although_it_is_an_error_too() {
        let mut snapshot = with_tls(ProbeState::Failed, Some("no right to"));
        snapshot.errors.push(CollectionError {
            source: "llm-tls".into(),
            message: "no right to".into(),
            last_at: None,
        });
        let mut watch = Watch::new(&Group::LLM);
        assert_eq!(watch.look(&snapshot), ["llm-tls is not seen: no right to"]);
        assert!(watch.look(&snapshot).is_empty());
        assert!(watch.is_settled() && !watch.is_whole());
        assert_eq!(watch.in_place(), "the probes are in place, but for llm-tls");
        snapshot.capture.probes[0].state = ProbeState::On;
        assert_eq!(watch.look(&snapshot), ["llm-tls is seen in part only: no right to"]);
        // Who has not asked for it misses nothing.
        let mut watch = Watch::new(&[Group::LlmPlain]);
        watch.look(&with_tls(ProbeState::Failed, None));
        assert!(watch.is_whole());
    }

    #[test]
    fn findings_are_told_when_they_begin() {
        let mut watch = Watch::new(&Group::LLM);
        let mut snapshot = whole();
        snapshot.findings = fixture::findings();
        let lines = watch.look(&snapshot);
        assert_eq!(lines.len(), snapshot.findings.len());
        assert!(lines[1].starts_with("llm-tls was switched off") && lines[1].contains("--max-overhead"), "{lines:?}");
        // It is reckoned from another clock for each snapshot.
        snapshot.findings[0].since = snapshot.captured_at;
        assert!(watch.look(&snapshot).is_empty(), "it goes on");
        snapshot.findings[0].title = "at most 32768 bytes a second are copied (2.3 % of all CPUs)".into();
        assert!(watch.look(&snapshot).is_empty(), "and its numbers change");
        snapshot.findings[0].evidence.insert("bytes_per_second_limit".into(), 32_768.0);
        assert_eq!(watch.look(&snapshot).len(), 1, "another step");
        let gone = snapshot.findings.pop().unwrap();
        assert!(watch.look(&snapshot).is_empty());
        snapshot.findings.push(gone);
        assert_eq!(watch.look(&snapshot).len(), 1, "it is back");
        assert!(watch.is_whole(), "they are words; what was missed says so itself");
        snapshot.capture.overhead.excluded_processes = 2;
        watch.look(&snapshot);
        assert!(!watch.is_whole());
    }

    #[test]
    fn losses_are_told_by_how_much_they_have_grown_and_not_with_every_look() {
        let mut watch = Watch::new(&Group::LLM);
        let mut told = |parse_gap, observed_seconds| {
            let mut snapshot = Snapshot { observed_seconds, ..whole() };
            snapshot.capture.lost.parse_gap = parse_gap;
            watch.look(&snapshot);
            watch.losses(&snapshot)
        };
        assert_eq!(told(0, 1.0), None);
        assert_eq!(told(3, 1.5).unwrap(), "lost: parse_gap 3; exchanges may be missing, or parts of them");
        assert_eq!([told(4, 2.0), told(9, 5.0)], [None, None]);
        assert!(told(10, 11.5).unwrap().starts_with("lost: parse_gap 7;"));
        assert_eq!([told(10, 30.0), told(11, 31.0).filter(|line| !line.contains("parse_gap 1;"))], [None, None]);
        told(12, 32.0);
        assert!(watch.rest_of_losses().unwrap().starts_with("lost: parse_gap 1;"));
        assert_eq!((watch.rest_of_losses(), watch.is_whole()), (None, false));
    }

    #[test]
    fn what_is_remembered_as_told_is_bounded_and_what_goes_on_stays() {
        let mut told = Told::default();
        for number in 0..10 * MAX_TOLD {
            assert!(told.is_new(format!("{number}")));
            assert_eq!(told.is_new("goes on".to_owned()), number == 0);
        }
        assert_eq!(told.0.len(), MAX_TOLD);
    }
}
