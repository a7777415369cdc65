//! Draws the state. Reads nothing else and changes nothing.

use hbpf_core::snapshot::Snapshot;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use unicode_width::UnicodeWidthStr;

use super::paint::{Painter, Piece, width};
use super::state::{Overlay, Page, State, Typed, Typing};
use super::theme::Theme;
use super::{detail, header, layout, overlay, tables, totals};
use crate::table::Tone;

/// One frame.
pub(crate) fn draw(buffer: &mut Buffer, state: &State, theme: &Theme) {
    let mut painter = Painter { buffer, theme };
    let size = (painter.buffer.area.width, painter.buffer.area.height);
    let areas = layout::page(size, header::height(state));
    header::draw(&mut painter, areas.header, state);
    match (&state.overlay, &state.page) {
        (Some(overlay), _) => overlay::draw(&mut painter, areas.body, state, *overlay),
        (None, Page::Main) => {
            let main = layout::main(areas.body, state.focus);
            totals::draw(&mut painter, main.totals, state);
            tables::processes(&mut painter, main.processes, state);
            tables::requests(&mut painter, main.requests, state);
        }
        (None, Page::Models) => tables::models(&mut painter, areas.body, state),
        (None, Page::Workloads) => tables::workloads(&mut painter, areas.body, state),
        (None, Page::Engines) => tables::engines(&mut painter, areas.body, state),
        (None, Page::Errors) => tables::errors(&mut painter, areas.body, state),
        (None, Page::Tools) => tables::tools(&mut painter, areas.body, state),
        (None, Page::InOut) => tables::inout(&mut painter, areas.body, state),
        (None, Page::Gpus) => tables::gpus(&mut painter, areas.body, state),
        (None, Page::Probes) => tables::probes(&mut painter, areas.body, state),
        (None, Page::Process(identity)) => detail::process(&mut painter, areas.body, state, identity),
        (None, Page::Request(id)) => detail::request(&mut painter, areas.body, state, id),
    }
    // Whoever types sees what.
    let footer_area = match (state.is_typing(), areas.footer.height) {
        (true, 0) => Rect { y: size.1.saturating_sub(1), height: size.1.min(1), ..painter.buffer.area },
        _ => areas.footer,
    };
    footer(&mut painter, footer_area, state);
}

/// How far what is shown can be scrolled.
pub(crate) fn scroll_limit(state: &State) -> usize {
    let area = layout::page(state.size, header::height(state)).body;
    match (&state.overlay, &state.page) {
        (Some(overlay), _) => overlay::scroll(area, state, *overlay),
        (None, Page::Main) => 0,
        (None, Page::Models) => tables::models_scroll(area, state),
        (None, Page::Workloads) => tables::workloads_scroll(area, state),
        (None, Page::Engines) => tables::engines_scroll(area, state),
        (None, Page::Errors) => tables::errors_scroll(area, state),
        (None, Page::Tools) => tables::tools_scroll(area, state),
        (None, Page::InOut) => tables::inout_scroll(area, state),
        (None, Page::Gpus) => tables::gpus_scroll(area, state),
        (None, Page::Probes) => tables::probes_scroll(area, state),
        (None, Page::Process(identity)) => detail::process_scroll(area, state, identity),
        (None, Page::Request(id)) => detail::request_scroll(area, state, id),
    }
}

/// The keys that make sense here, the most useful first, as many as fit.
fn footer(painter: &mut Painter<'_>, area: Rect, state: &State) {
    if let Some(typing) = &state.typing {
        return typed(painter, area, typing);
    }
    if let Some(notice) = state.notice {
        let piece = painter.piece(format!(" {notice}"), Tone::Warn);
        return painter.pieces(area, &[piece]);
    }
    let keys: &[(&str, &str)] = match (&state.overlay, &state.page) {
        (Some(Overlay::Help | Overlay::Problems), _) => &[("Esc", "close"), ("Up Down", "scroll"), ("q", "quit")],
        (None, Page::Main) => &[
            ("?", "help"),
            ("q", "quit"),
            ("Enter", "details"),
            ("Tab", "focus"),
            ("< >", "sort"),
            ("/", "filter"),
            ("t", "workloads"),
            ("m", "models"),
            ("f", "failures"),
            ("u", "GPUs"),
            ("i", "inference"),
            ("c", "tools"),
            ("d", "disks, net"),
            ("Space", "pause"),
            ("w", "window"),
            ("r", "reverse"),
            ("a", "idle"),
            ("p", "probes"),
            ("1-6", "switch"),
            ("e", "problems"),
        ],
        (None, Page::Process(_)) => &[
            ("?", "help"),
            ("q", "quit"),
            ("Esc", "back"),
            ("w", "window or since start"),
            ("s", "other role"),
            ("Space", "pause"),
            ("Up Down", "scroll"),
        ],
        (None, Page::Probes | Page::InOut) => {
            &[("?", "help"), ("q", "quit"), ("Esc", "back"), ("1-6", "switch a group"), ("Up Down", "scroll")]
        }
        (
            None,
            Page::Models | Page::Workloads | Page::Gpus | Page::Engines | Page::Errors | Page::Tools | Page::Request(_),
        ) => &[("?", "help"), ("q", "quit"), ("Esc", "back"), ("Up Down", "scroll")],
    };
    let has = |some: fn(&Snapshot) -> bool| state.snapshot().is_some_and(some);
    let has_engines = has(|snapshot| !snapshot.engines.is_empty());
    let has_tools = has(|snapshot| !snapshot.tools.is_empty());
    let mut pieces = vec![painter.piece(" ", Tone::Plain)];
    for (key, text) in keys.iter().filter(|(key, _)| (has_engines || *key != "i") && (has_tools || *key != "c")) {
        let next = [
            Piece { text: (*key).to_owned(), style: painter.theme.key() },
            painter.piece(format!(" {text}  "), Tone::Plain),
        ];
        if width(&pieces) + width(&next) > usize::from(area.width) + 2 {
            break;
        }
        pieces.extend(next);
    }
    painter.pieces(area, &pieces);
}

/// A filter while it is typed, its end first where there is no room for all, and what is wrong with it.
fn typed(painter: &mut Painter<'_>, area: Rect, typing: &Typing) {
    let (sign, hint) = match typing.what {
        Typed::Filter { .. } => ('/', "a word, model:qwen, ttft>500ms, status:5xx, !pid:41"),
        Typed::Time => ('@', "14:05, -5m, +30s, 50%, a date and time; times are UTC"),
    };
    let hint = match &typing.error {
        Some(error) => (format!("  {}", error.what), Tone::Bad),
        None if typing.text.is_empty() => (format!("  {hint}"), Tone::Dim),
        None => ("  Enter keeps it, Esc does not".to_owned(), Tone::Dim),
    };
    // Half of the line is for what is wrong.
    let room = match &typing.error {
        Some(_) => usize::from(area.width / 2),
        None => usize::from(area.width).saturating_sub(4),
    };
    let mut shown = typing.text.as_str();
    while shown.width() > room {
        shown = shown.char_indices().nth(1).map_or("", |(at, _)| &shown[at..]);
    }
    let hidden = typing.text.chars().count() - shown.chars().count();
    let wrong = typing.error.as_ref().and_then(|error| error.at.checked_sub(hidden));
    let mut pieces = vec![Piece { text: format!(" {sign}"), style: painter.theme.key() }];
    pieces.extend(shown.chars().enumerate().map(|(at, c)| {
        let tone = if Some(at) == wrong { Tone::Bad } else { Tone::Strong };
        painter.piece(c, tone)
    }));
    pieces.push(Piece { text: " ".to_owned(), style: painter.theme.selected() });
    pieces.push(painter.piece(hint.0, hint.1));
    painter.pieces(area, &pieces);
}

/// Draws into a whole frame.
pub(crate) fn frame(frame: &mut ratatui::Frame<'_>, state: &State, theme: &Theme) {
    let area: Rect = frame.area();
    debug_assert_eq!((area.x, area.y), (0, 0));
    draw(frame.buffer_mut(), state, theme);
}
