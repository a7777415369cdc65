//! What header and plain text say of the observation itself: probe groups, losses, problems.

use hbpf_core::snapshot::{Capture, Finding, Lost, Probe, ProbeState, Severity, Snapshot};
use hbpf_host::protocol::Group;

use crate::format;
use crate::gpus;

/// State of a group of probes as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum GroupState {
    /// Nothing was said of it yet.
    Waiting,
    /// All its probes that are wanted are on.
    On {
        /// How many.
        probes: usize,
    },
    /// Some are on, some failed.
    Partial { on: usize, failed: usize },
    /// Switched off.
    Off,
    /// None could be attached.
    Failed,
}

impl GroupState {
    /// Whether none of its probes is on, or ought to be.
    pub(crate) fn is_off(self) -> bool {
        matches!(self, Self::Waiting | Self::Off)
    }
}

/// State of a group.
pub(crate) fn group_state(capture: &Capture, group: Group) -> GroupState {
    let count = |state| capture.probes.iter().filter(|p| p.group == group.name() && p.state == state).count();
    let (on, off, failed) = (count(ProbeState::On), count(ProbeState::Off), count(ProbeState::Failed));
    match (on, off, failed) {
        (0, 0, 0) => GroupState::Waiting,
        (0, _, 0) => GroupState::Off,
        (0, _, _) => GroupState::Failed,
        (probes, _, 0) => GroupState::On { probes },
        (on, _, failed) => GroupState::Partial { on, failed },
    }
}

/// Whether anything can be said of model traffic: without probes, having seen none means nothing.
pub(crate) fn sees_traffic(snapshot: &Snapshot) -> bool {
    snapshot.totals.requests_total > 0 || of_traffic(&snapshot.capture).any(|probe| probe.state == ProbeState::On)
}

/// Whether it is settled that nothing will be seen of model traffic, unlike at the start.
pub(crate) fn is_blind(snapshot: &Snapshot) -> bool {
    of_traffic(&snapshot.capture).next().is_some() && !sees_traffic(snapshot)
}

/// The probes that show model traffic.
fn of_traffic(capture: &Capture) -> impl Iterator<Item = &Probe> {
    capture.probes.iter().filter(|probe| Group::LLM.iter().any(|group| probe.group == group.name()))
}

/// Every cause of loss that has happened: its name in the snapshot and how much.
pub(crate) fn losses(lost: &Lost) -> Vec<String> {
    let mut out = Vec::new();
    if lost.ring_full.chunks > 0 {
        let (chunks, bytes) = (format::count(lost.ring_full.chunks), format::bytes(lost.ring_full.bytes));
        out.push(format!("ring_full {chunks} ({bytes})"));
    }
    let counted = [
        ("read_fault", lost.read_fault),
        ("map_full", lost.map_full),
        ("missed_runs", lost.missed_runs),
        ("parse_gap", lost.parse_gap),
        ("desync", lost.desync),
        ("reports", lost.reports),
    ];
    if lost.over_budget > 0 {
        let (times, bytes) = (format::count(lost.over_budget), lost.over_budget_bytes);
        let bytes = if bytes > 0 { format!(" ({})", format::bytes(bytes)) } else { String::new() };
        out.push(format!("over_budget {times}{bytes}"));
    }
    let counted = counted.into_iter().filter(|(_, times)| *times > 0);
    out.extend(counted.map(|(cause, times)| format!("{cause} {}", format::count(times))));
    out
}

/// What could not be collected and why, each thing once, the most important first.
pub(crate) fn problems(snapshot: &Snapshot) -> Vec<String> {
    let errors = snapshot.errors.iter().map(|error| format!("{}: {}", error.source, error.message));
    let probes = snapshot.capture.probes.iter().filter(|probe| probe.state == ProbeState::Failed).map(|probe| {
        let place = probe.attached_to.as_str();
        let reason = probe.reason.as_deref().unwrap_or("failed");
        if place.is_empty() {
            format!("{}: {reason}", probe.group)
        } else {
            format!("{} at {place}: {reason}", probe.group)
        }
    });
    let gpus = snapshot.gpus.iter().filter(|gpu| gpu.problem.is_some() || gpu.stale_seconds.is_some()).map(|gpu| {
        let xid = gpu.last_xid.map_or_else(String::new, |xid| format!(" (its last Xid: {xid})"));
        format!("GPU {}: {}{xid}", gpu.index, gpus::state(gpu).0)
    });
    let mut out: Vec<String> = Vec::new();
    let engines = snapshot.engines.iter().filter_map(|engine| {
        let problem = engine.problem.as_ref()?;
        Some(format!("{} (pid {}) at {}: {problem}", engine.kind, engine.pid, engine.endpoint))
    });
    for line in errors.chain(probes).chain(gpus).chain(engines) {
        if !out.contains(&line) {
            out.push(line);
        }
    }
    out
}

/// What the header says first: what was given up, then problems. Findings that are good to know are listed with the rest.
pub(crate) fn notices(snapshot: &Snapshot) -> Vec<String> {
    let findings = snapshot.findings.iter().filter(|finding| finding.severity > Severity::Info);
    findings.map(|finding| finding.title.to_string()).chain(problems(snapshot)).collect()
}

/// What a finding is about and says; not its subject twice.
pub(crate) fn finding(finding: &Finding) -> String {
    let (subject, title) = (finding.subject.as_str(), finding.title.as_str());
    if title.starts_with(subject) { title.to_owned() } else { format!("{subject}: {title}") }
}

/// What observing costs and may cost, as `~0.4%, limit 2%`; empty where it is not known.
pub(crate) fn overhead(capture: &Capture) -> String {
    let overhead = &capture.overhead;
    let budget = overhead.budget_percent.map_or_else(String::new, |budget| format!(", limit {budget}%"));
    overhead.percent.map_or_else(String::new, |percent| format!("~{}%{budget}", format::percent(percent)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;

    #[test]
    fn a_group_is_what_its_probes_are() {
        let mut capture = fixture::rich().capture;
        assert_eq!(group_state(&capture, Group::LlmTls), GroupState::On { probes: 2 });
        capture.probes[0].state = ProbeState::Failed;
        assert_eq!(group_state(&capture, Group::LlmTls), GroupState::Partial { on: 1, failed: 1 });
        capture.probes[1].state = ProbeState::Off;
        assert_eq!(group_state(&capture, Group::LlmTls), GroupState::Failed);
        capture.probes[0].state = ProbeState::Off;
        assert_eq!(group_state(&capture, Group::LlmTls), GroupState::Off);
        assert_eq!(group_state(&fixture::empty().capture, Group::LlmPlain), GroupState::Waiting);
    }

    #[test]
    fn every_loss_is_named_and_none_is_invented() {
        assert_eq!(losses(&fixture::rich().capture.lost), ["ring_full 12 (47.0K)", "desync 2"]);
        assert!(losses(&Lost::default()).is_empty());
    }

    #[test]
    fn problems_are_told_once_and_control_nothing() {
        let mut snapshot = fixture::unprivileged();
        snapshot.errors.push(snapshot.errors[0].clone());
        snapshot.errors.push(hbpf_core::snapshot::CollectionError {
            source: "x".into(),
            message: "a\n\x1b[2Jb".into(),
            last_at: None,
        });
        assert_eq!(
            problems(&snapshot),
            [
                "probes: probes need CAP_BPF and CAP_PERFMON, which this process lacks; run `sudo hbpf top`",
                "x: a\u{fffd}\u{fffd}[2Jb",
                "llm-tls: loading BPF programs needs root",
                "llm-plain: loading BPF programs needs root",
            ]
        );
    }
}
