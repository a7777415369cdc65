//! The host's totals with their recent history.

use hbpf_core::snapshot::LlmStats;
use ratatui::layout::Rect;

use super::chart;
use super::layout;
use super::paint::Painter;
use super::state::State;
use crate::format::{self, estimated, known};
use crate::recording::Sample;
use crate::rows;
use crate::summary;
use crate::table::{Cell, Tone};

/// Name of a line and its first value.
const NAME: usize = 12;
const VALUE: usize = 8;
/// A further value with its name, and the gap before it.
const FACT_NAME: usize = 8;
const FACT_VALUE: usize = 6;
const FACT: usize = FACT_NAME + FACT_VALUE;
const FACT_GAP: usize = 2;
/// A shorter sparkline shows nothing.
const MIN_SPARK: usize = 8;
/// With more room than this per further value, sparklines take the rest.
const SPARK_SHARE: usize = 3;

struct Line {
    name: &'static str,
    value: String,
    /// The last of these go first when width runs out.
    facts: Vec<(&'static str, Cell)>,
    history: fn(&Sample) -> Option<f64>,
    scale: fn(f64) -> String,
}

pub(crate) fn draw(painter: &mut Painter<'_>, area: Rect, state: &State) {
    let window = state
        .snapshot()
        .map_or_else(String::new, |s| format!("rates over {}", format::chosen_seconds(s.window_seconds)));
    painter.rule(layout::line(area, 0), "Totals", &window, false);
    let empty = LlmStats::default();
    let seen = state.snapshot().filter(|snapshot| summary::sees_traffic(snapshot));
    let lines = lines(seen.map_or(&empty, |snapshot| &snapshot.totals), seen.is_some());
    let height = (area.height.saturating_sub(1) / lines.len() as u16).max(1);
    let width = usize::from(area.width);
    let facts = facts_shown(width);
    let right = facts * (FACT + FACT_GAP);
    let spark = width.saturating_sub(NAME + VALUE + 2 + right + 1);
    for (index, line) in (0_u16..).zip(&lines) {
        let row = |part: u16| layout::line(area, 1 + index * height + part);
        let first = row(0);
        painter.text(first, 1, line.name, painter.theme.tone(Tone::Plain));
        let value = format!("{:>VALUE$}", line.value);
        painter.text(first, NAME, &value, painter.theme.tone(Tone::Strong));
        if spark >= MIN_SPARK {
            let values = state.history().last(spark, line.history);
            let bars = chart::bars(&values, usize::from(height), &painter.theme.symbols.bars);
            // The newest is at the right edge, where the eye expects now.
            let x = NAME + VALUE + 2 + spark - values.len();
            for (part, text) in (0..height).zip(&bars) {
                painter.text(row(part), x, text, painter.theme.spark());
            }
            if height > 1 {
                let max = values.iter().flatten().copied().fold(0.0, f64::max);
                if max > 0.0 {
                    let text = format!("max {}", (line.scale)(max));
                    painter.text(row(1), NAME, &format!("{text:>VALUE$}"), painter.theme.tone(Tone::Dim));
                }
            }
        }
        for (i, (name, cell)) in line.facts.iter().take(facts).enumerate() {
            let x = width - right - 1 + FACT_GAP + i * (FACT + FACT_GAP);
            painter.text(first, x, &format!("{name:<FACT_NAME$}"), painter.theme.tone(Tone::Dim));
            let value = format!("{:>FACT_VALUE$}", cell.text);
            painter.text(first, x + FACT_NAME, &value, painter.theme.tone(cell.tone));
        }
    }
}

/// How many further values a line has room for.
fn facts_shown(width: usize) -> usize {
    let spare = width.saturating_sub(NAME + VALUE + 3);
    let with_spark = spare.saturating_sub(MIN_SPARK) / (FACT + FACT_GAP);
    let wide = spare / (FACT + FACT_GAP) * 2 / SPARK_SHARE;
    if width >= 100 { wide } else { with_spark }
}

fn lines(totals: &LlmStats, known_at_all: bool) -> [Line; 4] {
    let seen = |value: u64| known_at_all.then_some(value);
    let count = |value: u64| Cell::number(seen(value), format::count);
    let bad = |value: u64| Cell::alarming(seen(value), format::count, Tone::Bad);
    let warn = |value: u64| Cell::alarming(seen(value), format::count, Tone::Warn);
    let per_second = |value: Option<f64>| known(value, |rate| format::rate(rate) + "/s");
    let if_known = |value: Option<u64>| Cell::number(value, format::count);
    let seconds = |value: Option<f64>| Cell::number(value, format::seconds);
    let rate = &totals.tokens_per_second;
    let window = &totals.latency.window;
    let (first, inter, whole) = (rows::first_token(window), rows::inter_token(window), rows::duration(window));
    let progress = totals.tokens_in_progress.output.filter(|_| known_at_all);
    // Recordings of earlier versions have the status only.
    let quota = totals.rate_limited_total.max(totals.status.get("429").copied().unwrap_or(0));
    [
        Line {
            name: "requests",
            value: per_second(totals.requests_per_second),
            facts: vec![
                ("inflight", if_known(totals.requests_in_flight.filter(|_| known_at_all))),
                ("failed", bad(totals.failed_total)),
                ("429", bad(quota)),
                ("done", count(totals.completed_total)),
                ("abandon", warn(totals.abandoned_total)),
                ("retries", warn(totals.retries_total)),
            ],
            history: |sample| sample.requests_per_second,
            scale: format::rate,
        },
        Line {
            name: "tokens out",
            value: estimated(per_second(rate.output), rate.estimated_share.is_some_and(|share| share > 0.0)),
            facts: vec![
                ("total", rows::output_total(Some(totals))),
                ("running", Cell::number(progress, |tokens| estimated(format::count(tokens), tokens > 0))),
                ("est.", Cell::number(rate.estimated_share, format::share)),
                ("reason.", if_known(totals.tokens.reasoning)),
                ("stalls", warn(totals.stalls_total)),
            ],
            history: |sample| sample.output,
            scale: format::rate,
        },
        Line {
            name: "tokens in",
            value: per_second(rate.input),
            facts: vec![
                ("total", rows::input_total(Some(totals))),
                ("cached", Cell::number(rows::cached_share(totals), format::share)),
                ("$/h", rows::cost_rate(Some(totals))),
                ("cost $", rows::cost(Some(totals))),
                ("no usage", warn(totals.requests_without_usage)),
            ],
            history: |sample| sample.input,
            scale: format::rate,
        },
        Line {
            name: "first token",
            value: known(first.map(|d| d.p50), format::seconds),
            facts: vec![
                ("p99", seconds(first.map(|d| d.p99))),
                ("itl p50", seconds(inter.map(|d| d.p50))),
                ("itl p99", seconds(inter.map(|d| d.p99))),
                ("req p50", seconds(whole.map(|d| d.p50))),
                ("req p99", seconds(whole.map(|d| d.p99))),
            ],
            history: |sample| sample.ttft_p50,
            scale: format::seconds,
        },
    ]
}
