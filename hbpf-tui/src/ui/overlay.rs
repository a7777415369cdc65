//! What is shown over a page: the keys, and the problems in full.

use hbpf_host::protocol::Group;
use ratatui::layout::Rect;
use ratatui::widgets::{Clear, Widget};

use super::keys::{Command, KEYS_WIDTH};
use super::layout;
use super::paint::{Painter, Piece};
use super::save::Document;
use super::state::{Overlay, State};
use crate::table::Tone;

/// Signs and columns, and what they say; an empty name continues the line above.
const LEGEND: &[(&str, &str)] = &[
    ("-", "not known: never the same as 0"),
    ("~", "estimated, at least in part"),
    ("≥", "a sum over GPUs some of which do not tell their part"),
    ("ROLE", "cli sends requests, srv answers them; with + it does both,"),
    ("", "and the numbers are those of the busier role, never the sum;"),
    ("", "gate: passed on, and what it became counts in the totals;"),
    ("", "back: what Ollama asks of its own server, which does not"),
    ("REQ/S FLY", "requests a second, requests in flight"),
    ("TOK/S", "output tokens a second, as they flow"),
    ("TOK IN, TOKOUT", "tokens of ended requests since the start"),
    ("TTFT50 ITL50 ITL99", "first token, gaps between tokens: median, 99th percentile"),
    ("ERR", "requests that failed"),
    ("CPU%", "100 is one core"),
    ("CPUs/k TOK/J", "CPU seconds per thousand output tokens, output tokens per"),
    ("", "joule of GPU energy, at the pace of now"),
    ("GPU$/H $/Mtok", "what a table of prices says that its GPUs cost, in US"),
    ("", "dollars an hour and per million output tokens"),
    ("GPU% UTIL% SM%", "100 is one GPU; GPUMEM, MEM: its memory"),
    ("MBW% PCIERX PCIETX", "use of a GPU's memory bus; bytes a second to and from it"),
    ("DISK50 CONN50", "waiting times of disks and for connections since the group"),
    ("", "of probes was put in; FAIL RETR RST: failed connections,"),
    ("", "segments sent again, connections reset"),
    ("RUN WAIT SWAP", "requests that an inference server computes, lets wait, has"),
    ("", "moved out; KV% HIT%: cache in use, prompts found in it;"),
    ("", "PREEMPT: requests that had to begin again; IN/S OUT/S:"),
    ("", "tokens; TTFT95 and so on: its own times, last minute;"),
    ("", "RUN LATELY: RUN in the latest frames, scaled to the most"),
    ("TRUST", "hbpf's count of its tokens against its own; 100% is equal"),
    ("ECC XID PART", "uncorrected memory errors, errors that were told; MIG"),
    ("TLS", "no lib: nothing that does TLS was found in it"),
    ("", "seen: its traffic can be read; partial, BLIND: not all, or"),
    ("", "none; the details say why"),
    ("SHARE", "of the requests that ended at that endpoint; a call that was"),
    ("", "passed on counts at both. RETRY: wait that long still"),
    ("TRY", "which try of one call it was, where the SDK says so"),
    ("LEFT", "what an endpoint's quota leaves: tokens, requests (r) or %"),
    ("CACHE", "the part of the prompt tokens that came from a cache"),
    ("COST $, $/H", "US dollars since the start, and an hour at this pace; ~ by"),
    ("", "list prices"),
    ("IDLE", "time since the latest token of a running answer"),
    ("END", "error, or why the answer ended"),
];

pub(crate) fn draw(painter: &mut Painter<'_>, area: Rect, state: &State, overlay: Overlay) {
    let height = usize::from(area.height.saturating_sub(1));
    let (title, lines, top) = match overlay {
        Overlay::Help => ("Keys and columns".to_owned(), help(painter, state), state.scroll),
        Overlay::Save => ("Hand on".to_owned(), documents(painter, state), 0),
        Overlay::Commands => ("Commands".to_owned(), commands(painter, state), state.chosen.saturating_sub(height / 2)),
        Overlay::Columns => {
            let name = state.focused().map_or("", |shown| shown.id.name());
            // The selected one in the middle, as far as there are others below.
            (format!("Columns of {name}"), columns(painter, state), state.chosen.saturating_sub(height / 2))
        }
    };
    Clear.render(area.intersection(painter.buffer.area), painter.buffer);
    painter.rule(layout::line(area, 0), &title, &state.keymap.words("{back} closes"), true);
    let top = top.min(lines.len().saturating_sub(height));
    for (line, pieces) in (1_u16..).zip(lines.iter().skip(top).take(height)) {
        painter.pieces(layout::line(area, line), pieces);
    }
}

/// All that keys do, as far as it was looked for.
fn commands(painter: &Painter<'_>, state: &State) -> Vec<Vec<Piece>> {
    let line = |(at, command): (usize, &Command<'_>)| {
        let style = if at == state.chosen { painter.theme.selected() } else { painter.theme.tone(Tone::Plain) };
        vec![
            Piece { text: format!(" {:<16} ", command.name), style },
            Piece { text: format!(" {:<12} ", command.keys), style: painter.theme.key() },
            painter.piece(command.help, Tone::Dim),
        ]
    };
    let found = state.commands();
    match found.is_empty() {
        true => vec![vec![painter.piece(" nothing is called so, or does that", Tone::Dim)]],
        false => found.iter().enumerate().map(line).collect(),
    }
}

/// What can be handed on.
fn documents(painter: &Painter<'_>, state: &State) -> Vec<Vec<Piece>> {
    let line = |(at, document): (usize, &Document)| {
        let style = if at == state.chosen { painter.theme.selected() } else { painter.theme.tone(Tone::Plain) };
        vec![Piece { text: format!(" {:<40} ", document.name()), style }]
    };
    let privacy = state.keymap.words(match state.privacy {
        Some(_) => " Hosts, users, workloads and command lines have made-up names ({privacy}).",
        None => " Names of hosts, users and command lines are in it; {privacy} has them made up.",
    });
    let hint = vec![painter.piece(privacy, Tone::Dim)];
    Document::ALL.iter().enumerate().map(line).chain([Vec::new(), hint]).collect()
}

/// All columns of a list, those that are shown first and in their order, with what they are called in a filter.
fn columns(painter: &Painter<'_>, state: &State) -> Vec<Vec<Piece>> {
    let Some(shown) = state.focused() else { return Vec::new() };
    let (titles, count) = state.choice();
    let line = |(at, title): (usize, &&str)| {
        let field = shown.list.column(title).map(|index| shown.list.columns[index].field()).unwrap_or_default();
        let mark = if at < count { "[x]" } else { "[ ]" };
        let text = format!(" {mark} {title:<12} ");
        let style = if at == state.chosen { painter.theme.selected() } else { painter.theme.tone(Tone::Plain) };
        vec![Piece { text, style }, painter.piece(format!("  /{field}"), Tone::Dim)]
    };
    titles.iter().enumerate().map(line).collect()
}

fn help(painter: &Painter<'_>, state: &State) -> Vec<Vec<Piece>> {
    let keys = state.keymap.help(Group::ALL.len());
    let line = |(key, text): (&str, &str)| {
        let key = key.replace('≥', painter.theme.symbols.at_least);
        vec![
            Piece { text: format!(" {key:<KEYS_WIDTH$}"), style: painter.theme.key() },
            painter.piece(text, Tone::Plain),
        ]
    };
    keys.iter()
        .map(|(key, text)| line((key, text)))
        .chain([Vec::new()])
        .chain(LEGEND.iter().map(|(key, text)| line((key, text))))
        .collect()
}

/// How far an overlay can be scrolled.
pub(crate) fn scroll(area: Rect, state: &State, overlay: Overlay) -> usize {
    let lines = match overlay {
        Overlay::Help => state.keymap.help(Group::ALL.len()).len() + 1 + LEGEND.len(),
        Overlay::Columns | Overlay::Save | Overlay::Commands => 0,
    };
    lines.saturating_sub(usize::from(area.height.saturating_sub(1)))
}

#[cfg(test)]
mod tests {
    use super::LEGEND;

    #[test]
    fn the_legend_fits_80_columns() {
        assert!(LEGEND.iter().all(|(key, text)| key.len() <= 19 && text.len() <= 60), "{LEGEND:?}");
    }
}
