//! What the live view shows of findings, and of what could not be collected.

use std::cmp::Reverse;

use hbpf_core::snapshot::{Finding, Severity, Snapshot};
use jiff::Timestamp;

use crate::format;
use crate::list::{Key, List, Row};
use crate::rows;
use crate::sets;
use crate::summary;
use crate::table::{Align, Cell, Column, Tone};

/// Findings, the worst first, and then problems; before all that nothing more will come, and why.
pub(crate) fn list(snapshot: Option<&Snapshot>, ended: Option<(String, Tone)>) -> List {
    let columns = vec![
        Column::fixed("SEVERITY", Align::Left, 8, 99),
        Column::fixed("SINCE", Align::Right, 6, 90).seconds(),
        Column::flexible("WHAT", 30, 160, 100),
        Column::flexible("RULE", 12, 16, 50).extra(),
    ];
    let problem = |(text, tone): (String, Tone)| {
        let cells = vec![
            Cell::new("problem", tone),
            Cell::number(None::<f64>, format::seconds),
            Cell::new(text.as_str(), tone),
            Cell::name(None::<&str>, Tone::Dim),
        ];
        Row::new(Key::Row(text), cells)
    };
    let ended = ended.map(problem);
    let mut findings: Vec<&Finding> = snapshot.into_iter().flat_map(|snapshot| &snapshot.findings).collect();
    findings.sort_by_key(|finding| Reverse(finding.severity));
    let findings = findings.into_iter().zip(snapshot.into_iter().cycle());
    let findings = findings.map(|(finding, snapshot)| finding_row(finding, snapshot));
    let problems = snapshot.map(summary::problems).unwrap_or_default();
    let problems = problems.into_iter().map(|text| problem((text, Tone::Warn)));
    List { columns, rows: ended.into_iter().chain(findings).chain(problems).collect() }
}

fn finding_row(finding: &Finding, snapshot: &Snapshot) -> Row {
    let (severity, tone) = match finding.severity {
        Severity::Info => ("info", Tone::Accent),
        Severity::Warning => ("warning", Tone::Warn),
        Severity::Critical => ("critical", Tone::Bad),
    };
    let cells = vec![
        Cell::new(severity, tone),
        Cell::number(Some(age(finding, snapshot.captured_at)), |seconds| format::seconds(seconds.round())),
        Cell::new(summary::finding(finding), tone),
        Cell::new(finding.id.as_str(), Tone::Dim),
    ];
    Row { opens: target(finding, snapshot), ..Row::new(key(finding), cells) }
}

fn age(finding: &Finding, now: Timestamp) -> f64 {
    now.duration_since(finding.since).as_secs_f64().max(0.0)
}

fn key(finding: &Finding) -> Key {
    Key::Row(format!("{} {} {}", finding.id, finding.subject, finding.since))
}

/// The process, endpoint or model that it is about.
fn target(finding: &Finding, snapshot: &Snapshot) -> Option<Key> {
    let subject = finding.subject.as_str();
    let process = || {
        // As in `curl (4711)`.
        let pid = subject.strip_suffix(')')?.rsplit_once('(')?.1.parse::<u32>().ok()?;
        let process = snapshot.processes.iter().find(|process| process.pid == pid)?;
        Some(Key::Process(rows::identity(process)))
    };
    let endpoint = || {
        let endpoint = snapshot.endpoints.iter().find(|endpoint| endpoint.name() == finding.subject)?;
        Some(sets::endpoint_key(endpoint))
    };
    let model = || {
        let (name, provider) = subject.rsplit_once(" at ")?;
        let is_it = |model: &&hbpf_core::snapshot::Model| {
            model.provider.as_str() == provider && model.model.as_ref().is_some_and(|model| model.as_str() == name)
        };
        let model = snapshot.models.iter().find(is_it)?;
        Some(Key::Model(model.provider.clone(), model.model.clone()))
    };
    process().or_else(endpoint).or_else(model)
}

/// What there is to say of a row beyond what stands in it: what to do, and the numbers behind it.
pub(crate) fn advice(snapshot: &Snapshot, row: &Row) -> Option<(String, String)> {
    let finding = snapshot.findings.iter().find(|finding| key(finding) == row.key)?;
    let numbers: Vec<String> =
        finding.evidence.iter().map(|(name, value)| format!("{name} {}", number(*value))).collect();
    Some((finding.advice.to_string(), numbers.join(", ")))
}

fn number(value: f64) -> String {
    if value.fract() == 0.0 { format!("{value:.0}") } else { format!("{value:.2}") }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::fixture;

    fn finding(subject: &str) -> Finding {
        Finding {
            id: "rule".into(),
            severity: Severity::Warning,
            subject: subject.into(),
            title: "something".into(),
            evidence: BTreeMap::new(),
            advice: "do this".into(),
            since: Timestamp::UNIX_EPOCH,
        }
    }

    #[test]
    fn what_a_finding_is_about_is_found() {
        let snapshot = fixture::rich();
        let process = &snapshot.processes[0];
        let of_process = target(&finding(&format!("{} ({})", process.command, process.pid)), &snapshot);
        assert_eq!(of_process, Some(Key::Process(rows::identity(process))));
        let endpoint = &snapshot.endpoints[0];
        let of_endpoint = target(&finding(endpoint.name().as_str()), &snapshot);
        assert_eq!(of_endpoint, Some(sets::endpoint_key(endpoint)));
        let model = &snapshot.models[0];
        let name = format!("{} at {}", model.model.as_ref().unwrap(), model.provider);
        assert_eq!(target(&finding(&name), &snapshot), Some(Key::Model(model.provider.clone(), model.model.clone())));
        assert_eq!(target(&finding("gpu 0"), &snapshot), None);
    }

    #[test]
    fn the_worst_stands_first_and_problems_behind() {
        let mut snapshot = fixture::unprivileged();
        snapshot.findings = vec![finding("a"), Finding { severity: Severity::Critical, ..finding("b") }];
        let list = list(Some(&snapshot), None);
        let severities: Vec<&str> = list.rows.iter().map(|row| row.cells[0].text.as_str()).collect();
        assert_eq!(severities[..3], ["critical", "warning", "problem"]);
        assert_eq!(advice(&snapshot, &list.rows[0]), Some(("do this".to_owned(), String::new())));
        assert_eq!(advice(&snapshot, &list.rows[2]), None);
    }
}
