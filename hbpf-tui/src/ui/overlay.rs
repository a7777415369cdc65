//! What is shown over a page: the keys, and the problems in full.

use ratatui::layout::Rect;
use ratatui::widgets::{Clear, Widget};

use super::layout;
use super::paint::{Painter, Piece};
use super::save::Document;
use super::state::{Overlay, State};
use crate::table::Tone;

/// Keys and what they do; an empty key continues the line above or explains.
const HELP: [(&str, &str); 78] = [
    ("Up Down PgUp PgDn", "move the selection (also k j); Home follows the top row"),
    ("Enter", "details of what is selected: a process, request, model,"),
    ("", "endpoint, workload, or what a finding is about"),
    ("Esc", "back"),
    ("Tab", "switch between the two lists of a page"),
    ("< >", "sort by the column to the left or right"),
    ("r", "reverse the order"),
    ("/", "only rows of the list with the focus that fit: text, or"),
    ("", "model:qwen ttft>500ms !pid:41; requests by status:5xx, too"),
    ("o", "which columns are shown, and in what order"),
    ("a", "show or hide processes without model traffic"),
    ("v", "over time: tokens, requests, failures, waiting times, load"),
    ("w", "latencies over the window or since the start"),
    ("s", "in a process's details: its other role"),
    ("t", "workloads: pods, containers, units, trees of processes"),
    ("m", "models and endpoints"),
    ("f", "failures: which errors where, quotas, the latest requests"),
    ("u", "GPUs, and the processes on them"),
    ("i", "inference servers: what vLLM, Ollama and others say"),
    ("c", "calls of tools: what MCP servers are asked"),
    ("d", "disks, connections and GPU devices by process"),
    ("1 2 3 4 5 6", "switch a group of probes on or off: model traffic over TLS"),
    ("", "and plain, tools, disks, connections, uses of GPU devices"),
    ("p", "probes, and what each costs"),
    ("Space", "freeze the view, collection goes on; stop and play a replay"),
    ("[ ] { }", "a frame back or on, a minute back or on"),
    ("n N", "on, or back, to where something failed or was found"),
    ("@", "to a time"),
    ("l", "live again; to the end of a replay"),
    ("+ -", "a replay faster or slower"),
    ("x", "hand on: snapshot, list, screen as files; the row copied"),
    ("P", "names of hosts, users and command lines made up, or real"),
    ("e", "findings and problems, each with what to do"),
    ("? h F1", "this help"),
    ("Ctrl-Z", "suspend; the shell's fg brings it back"),
    ("q F10 Ctrl-C", "quit"),
    ("", ""),
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
        Overlay::Help => ("Keys and columns".to_owned(), help(painter), state.scroll),
        Overlay::Save => ("Hand on".to_owned(), documents(painter, state), 0),
        Overlay::Columns => {
            let name = state.focused().map_or("", |shown| shown.id.name());
            // The selected one in the middle, as far as there are others below.
            (format!("Columns of {name}"), columns(painter, state), state.chosen.saturating_sub(height / 2))
        }
    };
    Clear.render(area.intersection(painter.buffer.area), painter.buffer);
    painter.rule(layout::line(area, 0), &title, "Esc closes", true);
    let top = top.min(lines.len().saturating_sub(height));
    for (line, pieces) in (1_u16..).zip(lines.iter().skip(top).take(height)) {
        painter.pieces(layout::line(area, line), pieces);
    }
}

/// What can be handed on.
fn documents(painter: &Painter<'_>, state: &State) -> Vec<Vec<Piece>> {
    let line = |(at, document): (usize, &Document)| {
        let style = if at == state.chosen { painter.theme.selected() } else { painter.theme.tone(Tone::Plain) };
        vec![Piece { text: format!(" {:<40} ", document.name()), style }]
    };
    let privacy = match state.privacy {
        Some(_) => " Hosts, users, workloads and command lines have made-up names (P).",
        None => " Names of hosts, users and command lines are in it; P has them made up.",
    };
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

fn help(painter: &Painter<'_>) -> Vec<Vec<Piece>> {
    let line = |(key, text): &(&str, &str)| {
        let key = key.replace('≥', painter.theme.symbols.at_least);
        vec![Piece { text: format!(" {key:<19}"), style: painter.theme.key() }, painter.piece(*text, Tone::Plain)]
    };
    HELP.iter().map(line).collect()
}

/// How far an overlay can be scrolled.
pub(crate) fn scroll(area: Rect, overlay: Overlay) -> usize {
    let lines = match overlay {
        Overlay::Help => HELP.len(),
        Overlay::Columns | Overlay::Save => 0,
    };
    lines.saturating_sub(usize::from(area.height.saturating_sub(1)))
}

#[cfg(test)]
mod tests {
    use super::HELP;

    #[test]
    fn the_help_fits_80_columns() {
        assert!(HELP.iter().all(|(key, text)| key.len() <= 19 && text.len() <= 60), "{HELP:?}");
    }
}
