//! What came of attaching everything: where probes are, who is blind, what it costs.

use std::collections::{BTreeMap, BTreeSet};

use hbpf_core::snapshot::{ProbeState, Process, Snapshot, TlsVisibility};
use hbpf_host::protocol::Group;

use super::{Check, Status};
use crate::format::{self, known};
use crate::summary::{self, GroupState};

/// Most processes named that cannot be seen into; the rest are counted.
const MAX_NAMED: usize = 12;

/// All checks of a snapshot taken with every group on.
pub(super) fn checks(snapshot: &Snapshot) -> Vec<Check> {
    let mut checks: Vec<Check> = Group::ALL.into_iter().map(|group| probes(snapshot, group)).collect();
    for error in &snapshot.errors {
        let detail = error.message.replace(char::is_control, " ");
        // A group that failed has said why.
        if !checks.iter().any(|check| check.detail.contains(&detail)) {
            checks.push(Check { name: error.source.clone(), status: Status::Warn, detail, advice: None });
        }
    }
    checks.extend(visibility(snapshot));
    let losses = summary::losses(&snapshot.capture.lost);
    if !losses.is_empty() {
        let advice = "numbers are incomplete; `hbpf top --no-tls` or a longer look tells which traffic it is";
        checks.push(Check::bad(Status::Warn, "losses", losses.join(", "), advice));
    }
    let own = &snapshot.capture.self_cost;
    let percent = |value| known(value, |p| format::percent(p) + "%");
    let memory = known(own.resident_bytes, format::bytes);
    let cost = format!("cpu {} bpf {} memory {memory}", percent(own.cpu_percent), percent(own.kernel_cpu_percent));
    checks.push(Check::ok("own cost", cost));
    checks
}

/// One group: every place with its programs, and what failed.
fn probes(snapshot: &Snapshot, group: Group) -> Check {
    let of_group = || snapshot.capture.probes.iter().filter(|probe| probe.group == group.name());
    let mut places: BTreeMap<&str, usize> = BTreeMap::new();
    for probe in of_group().filter(|probe| probe.state == ProbeState::On) {
        *places.entry(probe.attached_to.as_str()).or_default() += 1;
    }
    let reasons = of_group().filter(|probe| probe.state != ProbeState::On).filter_map(|probe| probe.reason.as_deref());
    // Programs of a group often fail for one reason.
    let reasons: BTreeSet<String> = reasons.map(|reason| reason.replace(char::is_control, " ")).collect();
    let reasons = reasons.into_iter().collect::<Vec<_>>().join("; ");
    let on = places.iter().map(|(place, programs)| format!("{programs} at {place}")).collect::<Vec<_>>().join(", ");
    match (places.is_empty(), reasons.is_empty()) {
        (false, true) => Check::ok(group.name(), on),
        (false, false) => Check {
            name: group.name().to_owned(),
            status: Status::Warn,
            detail: format!("{on}; not all: {reasons}"),
            advice: None,
        },
        (true, false) => Check { name: group.name().to_owned(), status: Status::Fail, detail: reasons, advice: None },
        // Nobody uses a library that could be probed.
        (true, true) => Check::ok(group.name(), "nothing to attach to now"),
    }
}

/// Processes that speak TLS: how many are seen, and who is not and why.
fn visibility(snapshot: &Snapshot) -> Vec<Check> {
    let with = |tls: TlsVisibility| move |process: &&Process| process.visibility.tls == tls && !process.exited;
    let seen = snapshot.processes.iter().filter(with(TlsVisibility::Attached)).count();
    let not_seen: Vec<&Process> = [TlsVisibility::Blind, TlsVisibility::Partial]
        .into_iter()
        .flat_map(|tls| snapshot.processes.iter().filter(with(tls)))
        .collect();
    let probed = matches!(
        summary::group_state(&snapshot.capture, Group::LlmTls),
        GroupState::On { .. } | GroupState::Partial { .. }
    );
    let can = if probed { "are seen" } else { "could be seen" };
    let detail = format!("{seen} processes with TLS {can}, {} cannot or in part only", not_seen.len());
    let mut checks = vec![Check::ok("tls", detail)];
    checks.extend(not_seen.iter().take(MAX_NAMED).map(|process| {
        let word = if process.visibility.tls == TlsVisibility::Blind { "blind" } else { "partial" };
        let reason = process.visibility.reason.as_deref().unwrap_or("the reason is not known");
        Check {
            name: word.to_owned(),
            status: Status::Warn,
            detail: format!("{} {}: {}", process.pid, process.command, reason.replace(char::is_control, " ")),
            advice: None,
        }
    }));
    if not_seen.len() > MAX_NAMED {
        let detail = format!("{} more; `hbpf top` lists all", not_seen.len() - MAX_NAMED);
        checks.push(Check { name: "blind".to_owned(), status: Status::Warn, detail, advice: None });
    }
    checks
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;

    fn named<'a>(checks: &'a [Check], name: &str) -> &'a Check {
        checks.iter().find(|check| check.name == name).unwrap_or_else(|| panic!("no {name} in {checks:?}"))
    }

    #[test]
    fn what_is_attached_and_who_is_blind() {
        let checks = checks(&fixture::rich());
        let tls = named(&checks, "llm-tls");
        assert_eq!((tls.status, tls.detail.as_str()), (Status::Ok, "2 at /usr/lib/x86_64-linux-gnu/libssl.so.3"));
        let blind = named(&checks, "blind");
        assert_eq!(blind.status, Status::Warn);
        assert_eq!(blind.detail, "61100 deno run bot.ts: deno carries rustls, which has no stable symbols");
        assert!(named(&checks, "partial").detail.starts_with("3310 litellm"));
        assert_eq!(named(&checks, "losses").status, Status::Warn);
    }

    #[test]
    fn what_failed_says_why_once() {
        let checks = checks(&fixture::unprivileged());
        let tls = named(&checks, "llm-tls");
        assert_eq!((tls.status, tls.detail.as_str()), (Status::Fail, "loading BPF programs needs root"));
        assert_eq!(named(&checks, "probes").status, Status::Warn);
    }

    #[test]
    fn many_blind_processes_are_counted() {
        let mut snapshot = fixture::rich();
        let blind = snapshot.processes.iter().find(|p| p.visibility.tls == TlsVisibility::Blind).unwrap().clone();
        snapshot.processes.extend(vec![blind; 20]);
        let checks = checks(&snapshot);
        assert_eq!(checks.iter().filter(|check| check.name == "blind").count(), MAX_NAMED + 1);
        assert!(checks.iter().any(|check| check.detail.starts_with("10 more")));
    }
}
