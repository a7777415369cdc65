//! A snapshot as plain text, for `hbpf snapshot` and `hbpf top --batch`.

use std::fmt::Write as _;

use hbpf_core::snapshot::{Distribution, GroupCost, Latency, LlmStats, Snapshot};
use hbpf_host::protocol::Group;

use crate::engines;
use crate::format::{self, UNKNOWN, known};
use crate::gpus;
use crate::inout;
use crate::list::List;
use crate::probes;
use crate::rows::{self, Span};
use crate::sets;
use crate::summary::{self, GroupState};
use crate::table;
use crate::workloads;

/// Most processes without model traffic that are listed: those that use most CPU.
const IDLE_PROCESSES: usize = 10;

/// Width of the names at the beginning of lines.
const NAME: usize = 10;

/// The column that processes are sorted by.
const SORTED_BY: &str = "TOK/S";

/// Columns of the terminal that standard output is; None where it is none, and nothing needs to be cut.
pub(crate) fn terminal_width() -> Option<usize> {
    use std::io::IsTerminal;
    if !std::io::stdout().is_terminal() {
        return None;
    }
    crossterm::terminal::size().ok().map(|(width, _)| usize::from(width)).filter(|width| *width > 0)
}

/// The snapshot as lines, ending with a line break. `width`: columns to keep to; None writes every column in full.
pub(crate) fn render(snapshot: &Snapshot, width: Option<usize>) -> String {
    let mut out = String::new();
    head(&mut out, snapshot, width);
    processes(&mut out, snapshot, width);
    section(&mut out, "Workloads", &workloads::list(snapshot), width);
    section(&mut out, "GPUs", &gpus::list(&snapshot.gpus), width);
    section(&mut out, "Processes on GPUs", &gpus::users(snapshot, None), width);
    section(&mut out, "Inference servers", &engines::list(&snapshot.engines, width, None), width);
    section(&mut out, "Loaded models", &engines::loaded_models(&snapshot.engines), width);
    section(&mut out, "Disks", &inout::disks(snapshot), width);
    section(&mut out, "Disks, connections and devices", &inout::list(snapshot), width);
    section(&mut out, "Models", &sets::models(snapshot), width);
    section(&mut out, "Endpoints", &sets::endpoints(snapshot), width);
    section(&mut out, "Tools", &sets::tools(snapshot), width);
    let requests = &snapshot.requests;
    let more = if requests.in_flight_omitted > 0 {
        format!(" ({} more not listed)", requests.in_flight_omitted)
    } else {
        String::new()
    };
    section(&mut out, &format!("Requests in flight{more}"), &rows::requests(requests.in_flight.iter()), width);
    section(&mut out, "Recent requests", &rows::requests(requests.recent.iter()), width);
    out
}

fn head(out: &mut String, snapshot: &Snapshot, width: Option<usize>) {
    let host = &snapshot.host;
    let window = format::chosen_seconds(snapshot.window_seconds);
    let mut line = |name: &str, parts: &[String]| {
        let parts: Vec<&str> = parts.iter().map(String::as_str).filter(|part| !part.is_empty()).collect();
        // Writing to a String cannot fail.
        let _ = writeln!(out, "{name:<NAME$}{}", parts.join("  "));
    };
    line(
        "hbpf",
        &[
            snapshot.hbpf_version.to_string(),
            format!("{} ({}, {}, {} CPUs)", host.hostname, host.kernel, host.arch, host.cpu_count),
            format!("{:.0}", snapshot.captured_at),
            format!("observed {}", format::seconds(snapshot.observed_seconds)),
            format!("window {window}"),
        ],
    );
    line(
        "host",
        &[
            format!("cpu {}", known(host.cpu_percent, |p| format::percent(p) + "%")),
            format!("load {}", known(host.load_1m, |l| format!("{l:.2}"))),
            format!(
                "memory {} of {}",
                known(host.memory_used_bytes, format::bytes),
                known(host.memory_total_bytes, format::bytes)
            ),
        ],
    );
    let totals = &snapshot.totals;
    if summary::sees_traffic(snapshot) {
        line("requests", &request_counts(totals));
        line("tokens", &token_counts(totals));
        for (name, span) in [(format!("last {window}"), Span::Window), ("since start".to_owned(), Span::SinceStart)] {
            line("latency", &latencies(&name, span.of(totals)));
        }
    } else {
        line("requests", &["unknown: no probes are on".to_owned()]);
    }
    let groups = Group::ALL.map(|group| {
        let state = match summary::group_state(&snapshot.capture, group) {
            GroupState::Waiting => "waiting".to_owned(),
            GroupState::On { probes } => format!("on ({probes})"),
            GroupState::Partial { on, failed } => format!("on ({on}), {failed} failed"),
            GroupState::Off => "off".to_owned(),
            GroupState::Failed => "failed".to_owned(),
        };
        format!("{} {state}", group.name())
    });
    line("probes", &groups);
    let mut losses = summary::losses(&snapshot.capture.lost);
    if losses.is_empty() {
        losses.push("nothing".to_owned());
    }
    line("lost", &losses);
    let own = &snapshot.capture.self_cost;
    line(
        "own cost",
        &[
            format!("cpu {}", known(own.cpu_percent, |p| format::percent(p) + "%")),
            format!("kernel {}", known(own.kernel_cpu_percent, |p| format::percent(p) + "%")),
            format!("memory {}", known(own.resident_bytes, format::bytes)),
        ],
    );
    if !snapshot.capture.groups.is_empty() {
        let of_group = |cost: &GroupCost| {
            let percent = |value| known(value, |p| format::percent(p) + "%");
            let traps =
                known(cost.trap_cpu_percent_estimated, |p| format::estimated(format::percent(p) + "%", p > 0.0));
            format!("{} kernel {} traps {traps}", cost.group, percent(cost.kernel_cpu_percent))
        };
        let groups: Vec<String> = snapshot.capture.groups.iter().map(of_group).collect();
        line("per group", &groups);
        line("overhead", &[probes::title(&snapshot.capture).replacen("Cost ", "", 1)]);
    }
    for problem in summary::problems(snapshot) {
        sentences(out, &[("problem", &problem)], width);
    }
    for finding in &snapshot.findings {
        sentences(out, &[("finding", &summary::finding(finding)), ("advice", finding.advice.as_str())], width);
    }
}

/// Sentences, each behind its name and broken between words where the width is known; otherwise on one line behind the
/// first name, for programs that look for it.
fn sentences(out: &mut String, named: &[(&'static str, &str)], width: Option<usize>) {
    let lines: Vec<(&str, String)> = match width {
        Some(width) => {
            let room = width.saturating_sub(NAME).max(1);
            let lines = |(name, text): &(&'static str, &str)| {
                let names = std::iter::once(*name).chain(std::iter::repeat(""));
                names.zip(table::wrap(text, room)).collect::<Vec<_>>()
            };
            named.iter().flat_map(lines).collect()
        }
        None => {
            let texts: Vec<&str> = named.iter().map(|(_, text)| *text).collect();
            vec![(named.first().map_or("", |(name, _)| name), texts.join("  "))]
        }
    };
    for (name, text) in lines {
        let _ = writeln!(out, "{name:<NAME$}{text}");
    }
}

fn request_counts(totals: &LlmStats) -> Vec<String> {
    let status = totals.status.iter().map(|(status, n)| format!("{status}:{}", format::count(*n)));
    let status = status.collect::<Vec<_>>().join(" ");
    vec![
        format!("{}/s", known(totals.requests_per_second, format::rate)),
        format!("in flight {}", known(totals.requests_in_flight, format::count)),
        format!("total {}", totals.requests_total),
        format!("done {}", totals.completed_total),
        format!("failed {}", totals.failed_total),
        format!("abandoned {}", totals.abandoned_total),
        format!("retries {}", totals.retries_total),
        if status.is_empty() { status } else { format!("http {status}") },
    ]
}

fn token_counts(totals: &LlmStats) -> Vec<String> {
    let tokens = &totals.tokens;
    let part =
        |name: &str, value: Option<u64>| value.map_or_else(String::new, |v| format!("{name} {}", format::count(v)));
    vec![
        format!("out {}/s", rows::output_rate(Some(totals)).text),
        format!("in {}/s", known(totals.tokens_per_second.input, format::rate)),
        format!("total out {}", rows::output_total(Some(totals)).text),
        format!("total in {}", rows::input_total(Some(totals)).text),
        part("cached", tokens.cached_input),
        part("reasoning", tokens.reasoning),
        part("in progress ~", totals.tokens_in_progress.output.filter(|n| *n > 0)).replace("~ ", "~"),
        if totals.requests_without_usage > 0 {
            format!("{} requests never reported", totals.requests_without_usage)
        } else {
            String::new()
        },
    ]
}

fn latencies(name: &str, latency: &Latency) -> Vec<String> {
    let one = |name: &str, distribution: Option<&Distribution>| match distribution {
        None => format!("{name} {UNKNOWN}"),
        Some(d) => {
            let [p50, p90, p99] = [d.p50, d.p90, d.p99].map(format::seconds);
            format!("{name} p50 {p50} p90 {p90} p99 {p99}")
        }
    };
    vec![
        format!("{name:<11}"),
        one("first token", rows::first_token(latency)),
        one("| inter-token", rows::inter_token(latency)),
        one("| request", rows::duration(latency)),
    ]
}

fn section(out: &mut String, title: &str, list: &List, width: Option<usize>) {
    if list.rows.is_empty() {
        return;
    }
    let _ = write!(out, "\n{title}\n");
    for line in table::plain(list, width) {
        out.push_str(&line);
        out.push('\n');
    }
}

fn processes(out: &mut String, snapshot: &Snapshot, width: Option<usize>) {
    let mut list = rows::processes(snapshot, Span::SinceStart);
    if let Some(column) = list.column(SORTED_BY) {
        list.sort(column, true);
    }
    let busy = list.rows.iter().filter(|row| !row.stands_back).count();
    let shown = list.rows.len().min(busy + IDLE_PROCESSES);
    let title = match list.rows.len() - shown {
        0 => "Processes".to_owned(),
        rest => format!("Processes ({rest} without model traffic not listed)"),
    };
    list.rows.truncate(shown);
    section(out, &title, &list, width);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;

    #[test]
    fn rich() {
        insta::assert_snapshot!(render(&fixture::rich(), None));
    }

    #[test]
    fn rich_in_80_columns() {
        let text = render(&fixture::rich(), Some(80));
        let tables = text.split_once("\n\n").expect("a head and tables").1;
        assert!(tables.lines().all(|line| line.chars().count() <= 80), "{tables}");
        insta::assert_snapshot!(tables);
    }

    #[test]
    fn inference_servers() {
        let snapshot = Snapshot { engines: fixture::engines(), ..fixture::rich() };
        let text = render(&snapshot, None);
        let (_, tables) = text.split_once("\nInference servers\n").expect("a table");
        insta::assert_snapshot!(tables.split("\nModels\n").next().unwrap_or_default());
    }

    #[test]
    fn findings_are_broken_between_words_where_the_width_is_known() {
        let snapshot = Snapshot { findings: fixture::findings(), ..fixture::rich() };
        let found = |width| -> Vec<String> {
            let text = render(&snapshot, width);
            let lines = text.lines().skip_while(|line| !line.starts_with("finding"));
            lines.take_while(|line| !line.is_empty()).map(str::to_owned).collect()
        };
        assert_eq!(found(None).len(), snapshot.findings.len());
        insta::assert_snapshot!(found(Some(80)).join("\n"));
    }

    #[test]
    fn unprivileged() {
        insta::assert_snapshot!(render(&fixture::unprivileged(), None));
    }

    #[test]
    fn what_is_unknown_is_not_shown_as_zero() {
        let mut snapshot = fixture::empty();
        assert!(render(&snapshot, None).contains("requests  unknown: no probes are on"));
        snapshot.capture = fixture::rich().capture;
        snapshot.capture.self_cost = Default::default();
        let text = render(&snapshot, None);
        assert!(text.contains("host      cpu -  "), "{text}");
        assert!(text.contains("requests  -/s  in flight -"), "{text}");
        assert!(text.contains("tokens    out -/s  in -/s  total out -  total in -\n"), "{text}");
        assert!(text.contains("own cost  cpu -  kernel -  memory -"), "{text}");
    }
}
