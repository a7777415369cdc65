//! Draws the state. Reads nothing else and changes nothing.

use hbpf_core::snapshot::Snapshot;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use unicode_width::UnicodeWidthStr;

use super::paint::{Painter, Piece, width};
use super::state::{Overlay, State, Typed, Typing};
use super::theme::Theme;
use super::time::Source;
use super::views::Page;
use super::{charts, compare, detail, header, layout, overlay, tables, totals};
use crate::list::Key;
use crate::table::Tone;

/// One frame.
pub(crate) fn draw(buffer: &mut Buffer, state: &State, theme: &Theme) {
    let mut painter = Painter { buffer, theme };
    let size = (painter.buffer.area.width, painter.buffer.area.height);
    let areas = layout::page(size, header::height(state));
    header::draw(&mut painter, areas.header, state);
    match &state.overlay {
        Some(overlay) => overlay::draw(&mut painter, areas.body, state, *overlay),
        None => page(&mut painter, areas.body, state),
    }
    // Whoever types sees what.
    let footer_area = match (state.is_typing(), areas.footer.height) {
        (true, 0) => Rect { y: size.1.saturating_sub(1), height: size.1.min(1), ..painter.buffer.area },
        _ => areas.footer,
    };
    footer(&mut painter, footer_area, state);
}

/// Header and page, with nothing over them and no keys below.
pub(crate) fn page_alone(buffer: &mut Buffer, state: &State, theme: &Theme) {
    let mut painter = Painter { buffer, theme };
    let size = (painter.buffer.area.width, painter.buffer.area.height);
    let areas = layout::page(size, header::height(state));
    header::draw(&mut painter, areas.header, state);
    page(&mut painter, areas.body, state);
}

fn page(painter: &mut Painter<'_>, body: Rect, state: &State) {
    let areas = layout::areas(body, state);
    match &state.page {
        Page::Main => totals::draw(painter, areas.top, state),
        Page::Gpus => tables::gpu_histories(painter, areas.middle, state),
        Page::Charts => charts::draw(painter, areas.top, state),
        Page::Findings => detail::advice(painter, areas.middle, state),
        Page::Compared(_) => compare::draw(painter, areas.middle, state),
        Page::Of(Key::Request(id)) => detail::request(painter, areas.top, state, id),
        Page::Of(key) => detail::draw(painter, &areas, state, key),
        _ => {}
    }
    for (area, shown) in areas.lists.iter().zip(&state.shown) {
        tables::list(painter, *area, state, shown);
    }
}

/// How far what is shown can be scrolled, apart from lists.
pub(crate) fn scroll_limit(state: &State) -> usize {
    let area = layout::page(state.size, header::height(state)).body;
    match (&state.overlay, &state.page) {
        (Some(overlay), _) => overlay::scroll(area, state, *overlay),
        (None, Page::Of(Key::Request(id))) => detail::request_scroll(area, state, id),
        (None, _) => 0,
    }
}

/// The keys that make sense here, the most useful first, as many as fit.
fn footer(painter: &mut Painter<'_>, area: Rect, state: &State) {
    if let Some(typing) = &state.typing {
        return typed(painter, area, typing);
    }
    if let Some(notice) = &state.notice {
        let piece = painter.piece(format!(" {notice}"), Tone::Warn);
        return painter.pieces(area, &[piece]);
    }
    let has = |some: fn(&Snapshot) -> bool| state.snapshot().is_some_and(some);
    let makes_sense = |name: &str| match name {
        "inference" => has(|snapshot| !snapshot.engines.is_empty()),
        "tools" => has(|snapshot| !snapshot.tools.is_empty()),
        "role" => matches!(state.page, Page::Of(Key::Process(_))),
        "focus" => state.shown.len() > 1,
        "open" if state.overlay.is_none() => {
            state.focused().is_some_and(|shown| shown.list.rows.iter().any(|row| row.opens.is_some()))
        }
        _ => true,
    };
    let mut pieces = vec![painter.piece(" ", Tone::Plain)];
    for (names, text) in hints(state).into_iter().filter(|(names, _)| names.iter().all(|name| makes_sense(name))) {
        let keys: Vec<&str> = names.iter().map(|name| key(state, name)).filter(|key| !key.is_empty()).collect();
        if keys.is_empty() {
            continue;
        }
        let next = [
            Piece { text: keys.join(" "), style: painter.theme.key() },
            painter.piece(format!(" {text}  "), Tone::Plain),
        ];
        if width(&pieces) + width(&next) > usize::from(area.width) + 2 {
            break;
        }
        pieces.extend(next);
    }
    painter.pieces(area, &pieces);
}

/// The key of something that keys can do.
fn key<'a>(state: &'a State, name: &'a str) -> &'a str {
    match name {
        "groups" => "1-6",
        name => state.keymap.first(name),
    }
}

/// What makes sense on the page, the most useful first: the names of one or two bindings, and what they do.
type Hint = (&'static [&'static str], &'static str);

/// Those that are of use anywhere.
const ALWAYS: [Hint; 2] = [(&["help"], "help"), (&["quit"], "quit")];

/// The way out of a page.
const BACK: Hint = (&["back"], "back");

/// Those on a page with lists.
const OF_LISTS: [Hint; 4] =
    [(&["open"], "details"), (&["focus"], "focus"), (&["sort-left", "sort-right"], "sort"), (&["filter"], "filter")];

/// Those while an earlier frame is looked at.
const OF_TIME: [Hint; 5] = [
    (&["frame-back", "frame-on"], "step"),
    (&["minute-back", "minute-on"], "minute"),
    (&["next-event", "previous-event"], "failure, finding"),
    (&["time"], "time"),
    (&["live"], "newest"),
];

fn hints(state: &State) -> Vec<Hint> {
    let lists = |more: &[Hint]| [&ALWAYS[..], &[BACK], more, &OF_LISTS[..]].concat();
    let page: Vec<Hint> = match (&state.overlay, &state.page) {
        (Some(Overlay::Columns), _) => vec![
            (&["freeze"], "show or not"),
            (&["sort-left", "sort-right"], "move"),
            (&["reverse"], "as they were"),
            (&["open"], "close"),
            (&["quit"], "quit"),
        ],
        (Some(Overlay::Save), _) => {
            vec![(&["open"], "do it"), (&["up", "down"], "choose"), (&["privacy"], "privacy"), (&["back"], "close")]
        }
        // What is typed stands here.
        (Some(Overlay::Commands), _) => Vec::new(),
        (Some(Overlay::Help), _) => vec![(&["back"], "close"), (&["up", "down"], "scroll"), (&["quit"], "quit")],
        (None, Page::Main) => {
            const MAIN: [Hint; 24] = [
                (&["open"], "details"),
                (&["focus"], "focus"),
                (&["sort-left", "sort-right"], "sort"),
                (&["filter"], "filter"),
                (&["columns"], "columns"),
                (&["commands"], "commands"),
                (&["charts"], "over time"),
                (&["workloads"], "workloads"),
                (&["models"], "models"),
                (&["failures"], "failures"),
                (&["gpus"], "GPUs"),
                (&["inference"], "inference"),
                (&["tools"], "tools"),
                (&["disks"], "disks, net"),
                (&["freeze"], "freeze"),
                (&["span"], "window"),
                (&["search"], "find"),
                (&["compare"], "compare"),
                (&["reverse"], "reverse"),
                (&["idle"], "idle"),
                (&["probes"], "probes"),
                (&["groups"], "switch"),
                (&["findings"], "findings"),
                (&["save"], "hand on"),
            ];
            [&ALWAYS[..], &MAIN[..]].concat()
        }
        (None, Page::Charts) => {
            let more: [Hint; 3] = [BACK, (&["span"], "more or less time"), (&["freeze"], "freeze")];
            [&ALWAYS[..], &more[..]].concat()
        }
        (None, Page::Of(Key::Request(_))) => {
            let more: [Hint; 3] = [BACK, (&["up", "down"], "scroll"), (&["freeze"], "freeze")];
            [&ALWAYS[..], &more[..]].concat()
        }
        (None, Page::Compared(_)) => lists(&[(&["span"], "window or since start"), (&["compare"], "compare no more")]),
        (None, Page::Of(Key::Gpu(_))) => lists(&[]),
        (None, Page::Of(_)) => lists(&[(&["span"], "window or since start"), (&["role"], "other role")]),
        (None, Page::Probes | Page::InOut) => lists(&[(&["groups"], "switch a group")]),
        (None, _) => lists(&[]),
    };
    let looks_back = state.overlay.is_none() && (state.time.is_frozen() || state.source == Source::Replay);
    if !looks_back {
        return page;
    }
    // On the way through time one goes into and out of pages as always.
    let moves = |hint: &Hint| matches!(hint.0, ["open"] | ["back"]);
    let rest = page.into_iter().filter(|hint| !ALWAYS.contains(hint));
    let (first, rest): (Vec<Hint>, Vec<Hint>) = rest.partition(moves);
    [&ALWAYS[..], &first[..], &OF_TIME[..], &rest[..]].concat()
}

/// A filter while it is typed, its end first where there is no room for all, and what is wrong with it.
fn typed(painter: &mut Painter<'_>, area: Rect, typing: &Typing) {
    const ROWS: &str = "a word, model:qwen, ttft>500ms, status:5xx, !pid:41";
    let (sign, hint, keys) = match typing.what {
        Typed::Filter { .. } => ("/", ROWS, "Enter keeps it, Esc does not"),
        Typed::Search { .. } => ("find ", ROWS, "Down, Up: next, before; Enter stays there, Esc goes back"),
        Typed::Time => ("@", "14:05, -5m, +30s, 50%, a date and time; times are UTC", "Enter goes there"),
        Typed::Command => (":", "a word of what it does; Down, Up", "Enter does it, Esc does not"),
    };
    let hint = match &typing.error {
        Some(error) => (format!("  {}", error.what), Tone::Bad),
        None if typing.text.is_empty() => (format!("  {hint}"), Tone::Dim),
        None => (format!("  {keys}"), Tone::Dim),
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
