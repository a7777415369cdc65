//! The page of what was over time: numbers as bars below each other, and waiting times as a heat map, along one axis of time.

use ratatui::layout::Rect;

use super::chart;
use super::layout;
use super::paint::Painter;
use super::state::State;
use super::theme::Theme;
use crate::format;
use crate::over_time::{self, Axis, Line, Reach};
use crate::recording::Sample;
use crate::table::Tone;

/// Width of the names and of what the bars are scaled to, with a gap behind.
const LABEL: usize = 24;

/// Lines of one chart at most.
const MAX_HEIGHT: usize = 5;

/// Lines below the charts, for the axis and the heat map's title.
const BETWEEN: usize = 2;

/// Fewer lines and a heat map says nothing.
const MIN_HEAT: usize = 3;

pub(crate) fn draw(painter: &mut Painter<'_>, area: Rect, state: &State) {
    let shared = state.time.samples(state.reach.time());
    let samples: Vec<&Sample> = shared.iter().map(AsRef::as_ref).collect();
    let width = usize::from(area.width).saturating_sub(LABEL + 1);
    let Some(axis) = Axis::new(&samples, state.reach, width) else {
        let style = painter.theme.tone(Tone::Dim);
        painter.text(layout::line(area, 0), 1, "waiting for the first sample", style);
        return;
    };
    let lines = over_time::lines(&samples);
    let room = usize::from(area.height).saturating_sub(1 + BETWEEN);
    // A bit more than half for the charts, one line each before all else.
    let height = (room * 3 / 5 / lines.len()).clamp(1, MAX_HEIGHT);
    let heat = room.saturating_sub(height * lines.len());
    let from = axis.from.strftime("%H:%M:%S");
    painter.rule(
        layout::line(area, 0),
        &format!("Over time, {from} to {} UTC", axis.to.strftime("%H:%M:%S")),
        &state.keymap.words(reach_text(state.reach)),
        true,
    );
    let mut below = 1;
    // Newest at the right edge, where the eye expects now.
    let x = LABEL + width.saturating_sub(axis.columns);
    for line in &lines {
        let values = axis.values(&samples, line);
        draw_line(
            painter,
            Rect { y: area.y + below, height: area.height.saturating_sub(below).min(height as u16), ..area },
            x,
            height,
            line,
            &values,
        );
        below += height as u16;
    }
    if heat >= MIN_HEAT {
        let rest = Rect { y: area.y + below, height: area.height.saturating_sub(below), ..area };
        draw_heat(painter, rest, x, &axis.heat(&samples, heat));
    }
}

fn reach_text(reach: Reach) -> &'static str {
    match reach {
        Reach::Minute => "{span}: the last minute",
        Reach::FiveMinutes => "{span}: the last 5 minutes",
        Reach::HalfHour => "{span}: the last 30 minutes",
        Reach::All => "{span}: all there is",
    }
}

fn draw_line(painter: &mut Painter<'_>, area: Rect, x: usize, height: usize, line: &Line, values: &[Option<f64>]) {
    let peak = values.iter().flatten().copied().reduce(f64::max);
    let dim = painter.theme.tone(Tone::Dim);
    painter.text(layout::line(area, 0), 1, &line.name, painter.theme.tone(Tone::Plain));
    let text = peak.map_or_else(|| format::UNKNOWN.to_owned(), |peak| (line.text)(peak));
    painter.text(layout::line(area, 0), (LABEL - 1).saturating_sub(text.len()), &text, dim);
    let full = line.full.or(peak).unwrap_or_default();
    let bars = chart::bars_up_to(values, full, height, &painter.theme.symbols.bars);
    for (row, text) in (0..area.height).zip(&bars) {
        painter.text(layout::line(area, row), x, text, painter.theme.spark());
    }
}

fn draw_heat(painter: &mut Painter<'_>, area: Rect, x: usize, rows: &[(f64, Vec<u64>)]) {
    painter.rule(layout::line(area, 0), "Time to first token", "", false);
    let most = rows.iter().flat_map(|(_, cells)| cells).copied().max().unwrap_or(0);
    for (line, (begins, cells)) in (1_u16..area.height).zip(rows) {
        let label = format!("from {}", format::seconds(*begins));
        painter.text(layout::line(area, line), 1, &label, painter.theme.tone(Tone::Dim));
        let shades: String = cells.iter().map(|count| shade(painter.theme, *count, most)).collect();
        painter.text(layout::line(area, line), x, &shades, painter.theme.bar());
    }
    if rows.is_empty() {
        painter.text(layout::line(area, 1), 1, "nothing measured", painter.theme.tone(Tone::Dim));
    }
}

/// What there is at all is seen.
fn shade(theme: &Theme, count: u64, most: u64) -> char {
    let shades = &theme.symbols.shades;
    let last = shades.len() - 1;
    match count {
        0 => shades[0],
        count => shades[((count as f64 / most.max(1) as f64 * last as f64).ceil() as usize).clamp(1, last)],
    }
}
