//! Two selections beside each other: what was marked, and what is compared with it.

use hbpf_core::exchange::Role;
use hbpf_core::snapshot::{Distribution, Latency, LlmStats};
use jiff::Timestamp;
use ratatui::layout::Rect;

use super::chart::{self, Histogram};
use super::detail;
use super::keys::Keymap;
use super::layout;
use super::paint::Painter;
use super::state::State;
use super::views::Page;
use crate::compare;
use crate::format;
use crate::list::{Key, List};
use crate::rows;
use crate::table::Tone;

/// Lines of the histograms below which they say nothing: title, two rows of bars for each, bounds.
const MIN_HEIGHT: u16 = 6;

/// Between two histograms.
const GAP: u16 = 2;

/// What can be compared: of a process, the side that was looked at.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Subject {
    pub(crate) key: Key,
    pub(crate) role: Option<Role>,
}

/// What was marked, to be compared with.
#[derive(Clone, Debug)]
pub(crate) struct Marked {
    pub(crate) subject: Subject,
    name: String,
    at: Timestamp,
    /// As it was then.
    stats: LlmStats,
}

/// The two that are compared.
struct Both<'a> {
    names: [String; 2],
    stats: [&'a LlmStats; 2],
}

/// What can be compared: the subject of the page, or what the selected row leads to.
pub(crate) fn candidate(state: &State) -> Option<Marked> {
    let at = state.snapshot()?.captured_at;
    let of = |key: &Key| {
        let subject = Subject { key: key.clone(), role: detail::shown_role(state, key) };
        let (name, stats) = detail::stats(state, &subject)?;
        Some(Marked { subject, name, at, stats: stats.clone() })
    };
    let page = match &state.page {
        Page::Of(key) => of(key),
        _ => None,
    };
    page.or_else(|| of(state.selected_row()?.opens.as_ref()?))
}

impl Marked {
    /// Whether it is the same thing at the same time.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        self.subject == other.subject && self.at == other.at
    }

    /// What the user is told of it.
    pub(crate) fn said(&self, keymap: &Keymap) -> String {
        let how = keymap.words("{compare} on another, or on it at another time, compares");
        format!("A is {}; {how}", self.name)
    }
}

/// What was marked and this. A thing that is compared with itself is taken as it was when it was marked; another goes with the time.
fn both<'a>(state: &'a State, subject: &Subject) -> Option<Both<'a>> {
    let marked = state.marked.as_ref()?;
    let (name, stats) = detail::stats(state, subject)?;
    let time = |at: Timestamp| at.strftime("%H:%M:%S").to_string();
    let now = state.snapshot()?.captured_at;
    let live = detail::stats(state, &marked.subject).filter(|_| marked.subject != *subject);
    Some(match live {
        Some((marked_name, marked_stats)) => Both { names: [marked_name, name], stats: [marked_stats, stats] },
        None => Both {
            names: [(&marked.name, marked.at), (&name, now)].map(|(name, at)| format!("{name} at {}", time(at))),
            stats: [&marked.stats, stats],
        },
    })
}

fn of_page(state: &State) -> Option<Both<'_>> {
    match &state.page {
        Page::Compared(subject) => both(state, subject),
        _ => None,
    }
}

/// The numbers of both.
pub(crate) fn list(state: &State) -> List {
    compare::list(of_page(state).map(|both| both.stats), state.span)
}

/// Which is which.
pub(crate) fn title(state: &State) -> String {
    of_page(state).map_or_else(|| "Comparison".to_owned(), |Both { names: [a, b], .. }| format!("A {a} | B {b}"))
}

/// Waiting times of both, those of one kind on one axis.
pub(crate) fn draw(painter: &mut Painter<'_>, area: Rect, state: &State) {
    let Some(both) = of_page(state).filter(|_| area.height >= MIN_HEIGHT) else { return };
    // What says that nothing was measured has nothing to be drawn.
    let of = |get: fn(&Latency) -> Option<&Distribution>| {
        both.stats.map(|stats| get(state.span.of(stats)).filter(|all| all.count > 0))
    };
    let panels = [
        ("First token", of(rows::first_token)),
        ("Inter-token", of(rows::inter_token)),
        ("Whole request", of(rows::duration)),
    ];
    let count = panels.len() as u16;
    let width = area.width.saturating_sub(GAP * (count - 1)) / count;
    for (index, (title, pair)) in (0_u16..).zip(panels) {
        let x = area.x + index * (width + GAP);
        panel(painter, Rect { x, width, ..area }, title, pair);
    }
}

fn panel(painter: &mut Painter<'_>, area: Rect, title: &str, pair: [Option<&Distribution>; 2]) {
    painter.rule(layout::line(area, 0), title, "", false);
    let dim = painter.theme.tone(Tone::Dim);
    // Behind the letter that says whose they are.
    const LETTER: usize = 3;
    let width = usize::from(area.width).saturating_sub(LETTER + 1);
    let Some(axis) = Histogram::axis(&pair, width) else {
        let text = match pair {
            [None, None] => "nothing measured",
            [Some(a), Some(b)] if a.scale != b.scale => "measured in other buckets",
            _ => "percentiles alone are known",
        };
        painter.text(layout::line(area, 1), 1, text, dim);
        return;
    };
    let height = area.height.saturating_sub(2) / 2;
    let mut line = 1;
    for (letter, distribution) in ["A", "B"].into_iter().zip(pair) {
        painter.text(layout::line(area, line), 1, letter, painter.theme.tone(Tone::Strong));
        match distribution.and_then(|distribution| axis.histogram(distribution)) {
            Some(histogram) => {
                let rows = chart::bars(&histogram.values(), usize::from(height), &painter.theme.symbols.bars);
                for (line, row) in (line..).zip(&rows) {
                    painter.text(layout::line(area, line), LETTER, row, painter.theme.bar());
                }
            }
            None => {
                painter.text(layout::line(area, line), LETTER, "nothing measured", dim);
            }
        }
        line += height;
    }
    let (low, high) = axis.bounds();
    let (low, high) = (format::seconds(low), format::seconds(high));
    painter.text(layout::line(area, line), LETTER, &low, dim);
    let high_at = axis.width().saturating_sub(high.len());
    if high_at > low.len() {
        painter.text(layout::line(area, line), LETTER + high_at, &high, dim);
    }
}
