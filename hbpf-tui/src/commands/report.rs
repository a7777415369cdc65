//! `hbpf report`: a recording as a page for a ticket or a meeting.

use std::fmt::Write as _;
use std::io::Write as _;
use std::process::ExitCode;

use anyhow::{Context, Result};
use hbpf_core::label::Label;
use hbpf_host::privsep;

use super::diff::moment;
use super::{open_recordings, print};
use crate::cli::{ReportArgs, ReportFormat};
use crate::format::{self, known};
use crate::list::List;
use crate::over_time::{Axis, Reach, lines};
use crate::period::{self, Period, Times, Work};
use crate::recording::Sample;
use crate::sets;
use crate::summary;
use crate::table;

pub(crate) fn run(arguments: &ReportArgs) -> Result<ExitCode> {
    // A file that was made for nothing would stand in the way of the next try.
    std::fs::metadata(&arguments.recording)
        .with_context(|| format!("cannot open {}", arguments.recording.display()))?;
    let output = arguments.output.as_deref().map(privsep::create_output).transpose()?;
    let file = open_recordings(&[&arguments.recording])?.pop().context("it is not open")?;
    let mut timeline = period::read(file)?;
    let time = |text: &Option<String>| text.as_deref().map(|text| moment(&timeline, text)).transpose();
    let (from, to) = (time(&arguments.from)?, time(&arguments.to)?);
    let period = Period::of(&mut timeline, from, to)?;
    let text = match arguments.format() {
        ReportFormat::Html => html(&period),
        ReportFormat::Md => markdown(&period),
    };
    match output {
        Some(mut file) => file.write_all(text.as_bytes()).context("cannot write")?,
        None => print(&text)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// A table of text: titles, and cells of which all but the first few lean right.
struct Table {
    title: String,
    columns: Vec<&'static str>,
    rows: Vec<Vec<String>>,
}

impl Table {
    fn new(title: impl Into<String>, columns: &[&'static str], rows: Vec<Vec<String>>) -> Self {
        Self { title: title.into(), columns: columns.to_vec(), rows }
    }

    fn of_list(title: &str, list: &List) -> Self {
        let shown = table::usual(&list.columns);
        let rows = list.rows.iter().map(|row| {
            shown.iter().map(|index| format!("{}{}", row.cells[*index].text, row.cells[*index].mark)).collect()
        });
        Self {
            title: title.to_owned(),
            columns: shown.iter().map(|index| list.columns[*index].title).collect(),
            rows: rows.collect(),
        }
    }
}

fn title(period: &Period) -> String {
    format!("{}: {:.0} to {:.0}", period.last.host.hostname, period.from, period.to)
}

/// What is said below the title.
fn about(period: &Period) -> Vec<String> {
    let host = &period.last.host;
    let mut lines = vec![format!(
        "{} of {}, {} snapshots, recorded by hbpf {} on {} ({}, {} CPUs{}).",
        format::chosen_seconds(period.seconds().round()),
        host.hostname,
        period.samples.len(),
        period.last.hbpf_version,
        host.kernel,
        host.arch,
        host.cpu_count,
        crate::gpus::Summary::of(&period.last.gpus).map(|gpus| format!(", {}", gpus.name)).unwrap_or_default()
    )];
    if period.began_anew {
        lines.push("hbpf was started anew in that time: counts are those since then.".to_owned());
    }
    if !summary::sees_traffic(&period.last) {
        lines.push("Requests to models were not seen: no probes were on.".to_owned());
    }
    let lost = summary::losses(&period.lost);
    if !lost.is_empty() {
        lines.push(format!("Not all was seen in that time: {}.", lost.join(", ")));
    }
    lines
}

fn times(times: &Option<Times>, of: fn(&Times) -> f64) -> String {
    known(times.as_ref().map(of), format::seconds)
}

fn totals(period: &Period) -> Table {
    let work = &period.totals;
    let rate = |count: Option<u64>| known(period.rate(count), |rate| format::rate(rate) + "/s");
    let pair = |name: &str, count: Option<u64>| vec![name.to_owned(), known(count, format::count), rate(count)];
    let marked = |mut row: Vec<String>, is_estimate| {
        row[1..].iter_mut().for_each(|cell| *cell = format::estimated(std::mem::take(cell), is_estimate));
        row
    };
    let cost = work.cost_usd.map(|cost| (cost, cost * 3600.0 / period.seconds()));
    let dollars = |usd: f64| format::estimated(format!("${}", format::dollars(usd)), work.cost_is_estimate);
    let rows = vec![
        pair("requests", Some(work.requests)),
        pair("failed", Some(work.failed)),
        pair("refused for quotas", Some(work.rate_limited)),
        pair("given up by clients", Some(work.abandoned)),
        pair("retries", Some(work.retries)),
        pair("stalls", Some(work.stalls)),
        marked(pair("tokens out", work.output), work.output_is_estimate),
        marked(pair("tokens in", work.input), work.input_is_estimate),
        vec!["cost".to_owned(), known(cost, |(usd, _)| dollars(usd)), known(cost, |(_, hour)| dollars(hour) + "/h")],
    ];
    Table::new("Totals", &["", "TOTAL", "RATE"], rows)
}

fn latencies(period: &Period) -> Table {
    let work = &period.totals;
    let row = |name: &str, all: &Option<Times>| {
        let count = known(all.as_ref().map(|times| times.count), format::count);
        let [p50, p90, p99] = [|t: &Times| t.p50, |t: &Times| t.p90, |t: &Times| t.p99].map(|of| times(all, of));
        vec![name.to_owned(), count, p50, p90, p99]
    };
    let rows = vec![
        row("first token", &work.first_token),
        row("between tokens", &work.inter_token),
        row("whole request", &work.duration),
    ];
    Table::new("Times", &["", "COUNT", "P50", "P90", "P99"], rows)
}

fn sets(period: &Period, title: &str, column: &'static str, all: &[(String, Work)]) -> Table {
    let row = |(name, work): &(String, Work)| {
        vec![
            name.clone(),
            format::count(work.requests),
            format::count(work.failed),
            known(work.failed_percent(), |percent| format::percent(percent) + "%"),
            format::estimated(known(period.rate(work.output), format::rate), work.output_is_estimate),
            times(&work.first_token, |times| times.p50),
            times(&work.first_token, |times| times.p99),
            times(&work.duration, |times| times.p99),
            known(work.cost_usd, |usd| format::estimated(format::dollars(usd), work.cost_is_estimate)),
        ]
    };
    let columns = [column, "REQUESTS", "FAILED", "FAILED%", "TOK/S", "TTFT50", "TTFT99", "REQ99", "COST $"];
    Table::new(title, &columns, all.iter().map(row).collect())
}

/// A title, and that not all are named.
fn titled(title: &str, omitted: u64) -> String {
    match omitted {
        0 => title.to_owned(),
        more => format!("{title} ({} more are not listed)", format::count(more)),
    }
}

fn findings(period: &Period) -> Table {
    let row = |finding: &hbpf_core::snapshot::Finding| {
        let severity = format!("{:?}", finding.severity).to_lowercase();
        vec![format!("{:.0}", finding.since), severity, summary::finding(finding), finding.advice.to_string()]
    };
    let title = titled("Findings", period.listed.findings_omitted);
    let rows = period.listed.findings.iter().map(row).collect();
    Table::new(title, &["SINCE", "SEVERITY", "WHAT", "WHAT TO DO"], rows)
}

fn errors(period: &Period) -> Table {
    let mut all: Vec<(&Label, u64)> = period.totals.errors.iter().map(|(error, count)| (error, *count)).collect();
    all.sort_by_key(|(error, count)| (std::cmp::Reverse(*count), (*error).clone()));
    let rows = all.into_iter().map(|(error, count)| vec![error.to_string(), format::count(count)]).collect();
    Table::new("Errors", &["ERROR", "COUNT"], rows)
}

/// The tables in their order, those without rows left out.
fn tables(period: &Period) -> Vec<Table> {
    let snapshot = &period.last;
    let mut failed = (**snapshot).clone();
    let omitted =
        period.totals.failed.saturating_add(period.totals.abandoned).saturating_sub(period.listed.failed.len() as u64);
    failed.requests.failed = period.listed.failed.clone();
    failed.requests.recent.clear();
    let sees = summary::sees_traffic(snapshot);
    let counted = if sees { vec![totals(period), latencies(period)] } else { Vec::new() };
    let others = vec![
        findings(period),
        sets(period, "Models", "MODEL", &period.models),
        sets(period, "Endpoints", "ENDPOINT", &period.endpoints),
        errors(period),
        Table::of_list(&titled("Requests that failed", omitted), &sets::failed(&failed)),
        Table::of_list("Processes at the end, since hbpf was started", &busy_processes(period)),
        Table::of_list("GPUs at the end", &crate::gpus::list(&snapshot.gpus)),
        Table::of_list("Inference servers at the end", &crate::engines::list(&snapshot.engines, None, None)),
    ];
    counted.into_iter().chain(others).filter(|table| !table.rows.is_empty()).collect()
}

fn busy_processes(period: &Period) -> List {
    let mut list = crate::rows::processes(&period.last, crate::rows::Span::SinceStart);
    list.rows.retain(|row| !row.stands_back);
    list
}

pub(crate) fn markdown(period: &Period) -> String {
    let about: Vec<String> = about(period).iter().map(|line| escaped(line)).collect();
    let mut out = format!("# {}\n\n{}\n", escaped(&title(period)), about.join("\n"));
    for table in tables(period) {
        let _ = write!(out, "\n## {}\n\n| {} |\n|", table.title, table.columns.join(" | "));
        for column in 0..table.columns.len() {
            out.push_str(if column == 0 { "---|" } else { "---:|" });
        }
        out.push('\n');
        for row in &table.rows {
            let cells: Vec<String> = row.iter().map(|cell| escaped(cell)).collect();
            let _ = writeln!(out, "| {} |", cells.join(" | "));
        }
    }
    out
}

/// Names are others' and may be anything: nothing in them is Markdown, or HTML within it.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            '\\' | '|' | '[' | ']' | '!' | '*' | '_' | '`' | '#' | '~' => {
                out.push('\\');
                out.push(c);
            }
            c if c.is_control() => out.push(' '),
            c => out.push(c),
        }
    }
    out
}

const STYLE: &str = "body{font:14px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:72rem;padding:0 1rem;color:#1c2230;\
background:#fff}h1{font-size:1.4rem}h2{font-size:1.05rem;margin:2rem 0 .5rem}table{border-collapse:collapse;display:block;\
overflow-x:auto}th,td{padding:.2rem .7rem;text-align:right;border-bottom:1px solid #e3e6ee;font-variant-numeric:tabular-nums}\
th{font-size:.75rem;color:#5b6478;text-align:right}th:first-child,td:first-child{text-align:left}td.t{text-align:left}\
svg{width:100%;height:auto;display:block}figure{margin:.6rem 0}figcaption{font-size:.8rem;color:#5b6478}\
@media(prefers-color-scheme:dark){body{background:#14171e;color:#dde2ec}th,td{border-color:#2b303c}th,figcaption{color:#99a2b6}}";

/// Columns of a chart, its width and height in pixels.
const CHART: (usize, f64, f64) = (430, 860.0, 60.0);

/// Lines of the heat map, and the height of one.
const HEAT: (usize, f64) = (14, 10.0);

pub(crate) fn html(period: &Period) -> String {
    let title = escape(&title(period));
    let mut out = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" \
         content=\"width=device-width\"><title>{title}</title><style>{STYLE}</style></head><body>\n<h1>{title}</h1>\n"
    );
    for line in about(period) {
        let _ = writeln!(out, "<p>{}</p>", escape(&line));
    }
    charts(&mut out, period);
    for table in tables(period) {
        let _ = write!(out, "<h2>{}</h2>\n<table><tr>", escape(&table.title));
        for column in &table.columns {
            let _ = write!(out, "<th>{}</th>", escape(column));
        }
        out.push_str("</tr>\n");
        for row in &table.rows {
            out.push_str("<tr>");
            for cell in row {
                // What is no number leans left.
                let is_text =
                    cell.chars().any(char::is_whitespace) || cell.chars().filter(|c| c.is_alphabetic()).count() > 4;
                let _ = write!(out, "<td{}>{}</td>", if is_text { " class=\"t\"" } else { "" }, escape(cell));
            }
            out.push_str("</tr>\n");
        }
        out.push_str("</table>\n");
    }
    out + "</body></html>\n"
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

fn charts(out: &mut String, period: &Period) {
    let samples: Vec<&Sample> = period.samples.iter().map(AsRef::as_ref).collect();
    let (columns, width, height) = CHART;
    let Some(axis) = Axis::new(&samples, Reach::All, columns) else { return };
    let _ = writeln!(out, "<h2>Over time, {:.0} to {:.0}</h2>", axis.from, axis.to);
    let step = width / axis.columns.max(1) as f64;
    for line in lines(&samples) {
        let values = axis.values(&samples, &line);
        let Some(peak) = values.iter().flatten().copied().reduce(f64::max) else { continue };
        let full = line.full.unwrap_or(peak).max(f64::MIN_POSITIVE);
        let caption = format!("{}, at most {}", line.name, (line.text)(peak));
        let _ = write!(
            out,
            "<figure><figcaption>{}</figcaption><svg viewBox=\"0 0 {width} {height}\" role=\"img\" aria-label=\"{}\">",
            escape(&caption),
            escape(&caption)
        );
        let _ = write!(
            out,
            "<line x1=\"0\" x2=\"{width}\" y1=\"{height}\" y2=\"{height}\" stroke=\"#8892a6\"/><path fill=\"#3b7dd8\" d=\""
        );
        // Gaps are gaps.
        for (column, value) in values.iter().enumerate().filter_map(|(column, value)| Some((column, (*value)?))) {
            let (x, bar) = (column as f64 * step, (value / full * height).clamp(0.0, height));
            if bar > 0.0 {
                let _ = write!(out, "M{x:.1} {height}v-{bar:.1}h{step:.2}V{height}z");
            }
        }
        out.push_str("\"/></svg></figure>\n");
    }
    heat_map(out, &axis, &samples, step);
}

fn heat_map(out: &mut String, axis: &Axis, samples: &[&Sample], step: f64) {
    let (rows, height) = HEAT;
    let grid = axis.heat(samples, rows);
    let Some(most) = grid.iter().flat_map(|(_, cells)| cells).copied().max().filter(|most| *most > 0) else { return };
    let (whole, width) = (height * grid.len() as f64, CHART.1);
    let bounds =
        grid.first().zip(grid.last()).map(|((high, _), (low, _))| (format::seconds(*low), format::seconds(*high)));
    let (low, high) = bounds.unwrap_or_default();
    let caption = escape(&format!("time to first token: the lowest line from {low}, the highest from {high}"));
    let _ = write!(
        out,
        "<figure><figcaption>{caption}</figcaption><svg viewBox=\"0 0 {width} {whole}\" role=\"img\" aria-label=\"{caption}\">"
    );
    for (line, (_, cells)) in grid.iter().enumerate() {
        for (column, count) in cells.iter().enumerate().filter(|(_, count)| **count > 0) {
            let _ = write!(
                out,
                "<rect x=\"{:.1}\" y=\"{:.0}\" width=\"{step:.2}\" height=\"{height:.0}\" fill=\"#d8503b\" fill-opacity=\"{:.2}\"/>",
                column as f64 * step,
                line as f64 * height,
                0.15 + 0.85 * (*count as f64 / most as f64)
            );
        }
    }
    out.push_str("</svg></figure>\n");
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use jiff::SignedDuration;

    use super::*;
    use crate::fixture;
    use crate::recording::{Keep, Timeline};

    fn period() -> Period {
        let mut timeline = Timeline::new(Keep::STREAM).unwrap();
        for second in 0..30_u64 {
            let mut snapshot = fixture::rich();
            snapshot.gpus = fixture::gpus();
            snapshot.findings = fixture::findings();
            snapshot.captured_at += SignedDuration::from_secs(second as i64);
            snapshot.totals.requests_total += second;
            snapshot.totals.failed_total += second / 10;
            snapshot.models[0].stats.requests_total += second;
            snapshot.processes[0].command = "<script>alert(1)</script> | x".into();
            timeline.push(Arc::new(snapshot)).unwrap();
        }
        Period::of(&mut timeline, None, None).unwrap()
    }

    #[test]
    fn markdown_is_tables() {
        insta::assert_snapshot!(markdown(&period()));
    }

    #[test]
    fn a_page_loads_nothing_and_runs_nothing() {
        let page = html(&period());
        assert!(page.starts_with("<!doctype html>") && page.ends_with("</body></html>\n"));
        for nothing in ["<script", "src=", "href=", "url(", "http://", "https://", "@import"] {
            assert!(!page.contains(nothing), "{nothing}");
        }
        assert!(page.contains("&lt;script&gt;alert(1)&lt;/script&gt;"));
        assert!(page.matches("<svg ").count() >= 5, "charts");
        for tag in ["table", "tr", "td", "th", "svg", "figure", "h2"] {
            let opened = page.matches(&format!("<{tag}>")).count() + page.matches(&format!("<{tag} ")).count();
            assert_eq!(opened, page.matches(&format!("</{tag}>")).count(), "{tag}");
        }
    }
}
