//! The lines on top: where this is, how it is watched, what is missing.

use hbpf_core::snapshot::{Capture, CpuUse, Host, OverheadLevel, ProbeState, Snapshot};
use hbpf_host::protocol::Group;
use ratatui::layout::Rect;
use unicode_width::UnicodeWidthStr;

use super::paint::{Painter, Piece};
use super::state::State;
use super::time::Source;
use super::{chart, layout, paint};
use crate::format::{self, known};
use crate::gpus::Summary;
use crate::summary::{self, GroupState};
use crate::table::{self, Tone};

/// Identity, probes and cost, machine.
const FIXED_LINES: u16 = 3;

/// From this width on each core is shown.
const WIDE: u16 = 100;

/// From this width on the kinds of CPU time are shown.
const WIDEST: u16 = 160;

/// Most bars for cores.
const MAX_CORE_BARS: usize = 32;

/// Most lines that a problem gets: enough for any finding on a screen of 80 columns, with both tables below.
const PROBLEM_LINES: usize = 3;

/// On a screen of less lines a problem gets one: rows of tables are worth more.
const LOW: u16 = 20;

/// Lines that the header needs now.
pub(crate) fn height(state: &State) -> u16 {
    let of_snapshot = state.snapshot().map_or(0, |snapshot| {
        let lost = !summary::losses(&snapshot.capture.lost).is_empty();
        let problem = problem_lines(snapshot, state).map_or(0, |(lines, _)| lines.len());
        u16::from(lost) + problem as u16 + u16::from(!snapshot.gpus.is_empty())
    });
    FIXED_LINES + u16::from(ended(state).is_some()) + of_snapshot
}

pub(crate) fn draw(painter: &mut Painter<'_>, area: Rect, state: &State) {
    let snapshot = state.snapshot();
    identity(painter, layout::line(area, 0), state);
    let capture = snapshot.map(|snapshot| &snapshot.capture);
    probes(painter, layout::line(area, 1), state, capture);
    machine(painter, layout::line(area, 2), snapshot.map(|snapshot| &snapshot.host));
    let mut next = FIXED_LINES;
    if let Some(gpus) = snapshot.and_then(|snapshot| Summary::of(&snapshot.gpus)) {
        gpu(painter, layout::line(area, next), &gpus);
        next += 1;
    }
    if let Some((text, tone)) = ended(state) {
        let piece = painter.piece(format!(" {text}"), tone);
        painter.pieces(layout::line(area, next), &[piece]);
        next += 1;
    }
    if let Some(snapshot) = snapshot {
        let losses = summary::losses(&snapshot.capture.lost);
        if !losses.is_empty() {
            let piece = painter.piece(format!(" LOST {}", losses.join(", ")), Tone::Bad);
            painter.pieces(layout::line(area, next), &[piece]);
            next += 1;
        }
        let mut rest = area;
        layout::split_top(&mut rest, next);
        problem(painter, rest, snapshot, state);
    }
}

/// Why nothing more will come, if so.
pub(crate) fn ended(state: &State) -> Option<(String, Tone)> {
    if let Some(trouble) = &state.time.trouble {
        return Some((trouble.clone(), Tone::Bad));
    }
    let why = state.ended.as_ref()?;
    Some(match state.source {
        Source::Replay if state.time.newer() > 0 => return None,
        Source::Replay => (why.clone(), Tone::Warn),
        Source::Live | Source::Remote | Source::Fleet => (why.clone(), Tone::Bad),
    })
}

fn identity(painter: &mut Painter<'_>, area: Rect, state: &State) {
    let snapshot = state.snapshot();
    let ago = |word: &str, age: f64| format!("{word} {} ago", format::chosen_seconds(age.round()));
    let ended = || state.ended_seconds().map_or_else(|| "ENDED".to_owned(), |age| ago("ENDED", age));
    let (mode, tone) = match (state.frozen_seconds(), state.source) {
        (None, _) if state.is_over() => (ended(), Tone::Bad),
        (Some(age), _) if state.is_over() => (format!("{}, {}", ended(), ago("FROZEN", age)), Tone::Bad),
        (Some(age), _) => (ago("FROZEN", age), Tone::Warn),
        (None, Source::Replay) => replay(state),
        (None, Source::Live) => ("LIVE".to_owned(), Tone::Good),
        (None, Source::Remote) => ("REMOTE".to_owned(), Tone::Good),
        (None, Source::Fleet) => ("FLEET".to_owned(), Tone::Good),
    };
    let mode = Piece { text: format!(" {mode} "), style: painter.theme.mode(tone) };
    let mut left = vec![painter.piece(format!(" hbpf {}  ", env!("CARGO_PKG_VERSION")), Tone::Strong)];
    if let Some(snapshot) = snapshot {
        left.push(painter.piece(format!("{}  ", snapshot.host.hostname), Tone::Accent));
    }
    left.push(mode);
    let right = match snapshot {
        None => Vec::new(),
        Some(snapshot) => {
            let observed = format!("observed {}  ", format::seconds(snapshot.observed_seconds.floor()));
            let time = snapshot.captured_at.strftime("%H:%M:%S UTC ").to_string();
            vec![painter.piece(observed, Tone::Dim), painter.piece(time, Tone::Plain)]
        }
    };
    if state.frozen_seconds().is_some() {
        left.push(painter.piece(format!("  {} newer", format::count(state.time.newer())), Tone::Dim));
    }
    painter.both_ends(area, &left, &right);
}

/// How fast a recording plays, and how far it has come.
fn replay(state: &State) -> (String, Tone) {
    let speed = match state.time.speed() {
        // Nothing is left to be played.
        Some(_) if state.ended.is_some() && state.time.newer() == 0 => "END".to_owned(),
        Some(speed) => format!("REPLAY {speed}x"),
        None => "REPLAY paused".to_owned(),
    };
    let (Some(snapshot), Some((first, last))) = (state.snapshot(), state.time.extent()) else {
        return (speed, Tone::Accent);
    };
    let [at, whole] = [snapshot.captured_at, last].map(|time| time.duration_since(first).as_secs_f64().max(0.0));
    let [at, whole] = [at, whole].map(|seconds| format::chosen_seconds(seconds.round()));
    (format!("{speed}  {at} of {whole}"), Tone::Accent)
}

fn probes(painter: &mut Painter<'_>, area: Rect, state: &State, capture: Option<&Capture>) {
    let mut pieces = vec![painter.piece(" ", Tone::Plain)];
    let is_over = state.is_over();
    let symbols = &painter.theme.symbols;
    for (index, group) in Group::ALL.into_iter().enumerate() {
        let state_now = capture.map_or(GroupState::Waiting, |capture| summary::group_state(capture, group));
        // What shows model traffic is missed where it is off; the others are there for who wants them.
        let off = if Group::LLM.contains(&group) { ("off", Tone::Warn) } else { ("", Tone::Dim) };
        let (mark, text, tone) = match (state.wanted[index], state_now) {
            (_, GroupState::On { .. } | GroupState::Partial { .. }) if is_over => (symbols.off, "gone", Tone::Bad),
            (Some(true), _) => (symbols.off, "starting", Tone::Warn),
            (Some(false), _) => (symbols.on, "stopping", Tone::Warn),
            (None, GroupState::On { .. }) => (symbols.on, "", Tone::Good),
            (None, GroupState::Partial { .. }) => (symbols.on, "in part", Tone::Warn),
            (None, GroupState::Waiting) => (symbols.off, "", Tone::Dim),
            (None, GroupState::Off) => (symbols.off, off.0, off.1),
            (None, GroupState::Failed) => (symbols.off, "FAILED", Tone::Bad),
        };
        pieces.push(Piece { text: (index + 1).to_string(), style: painter.theme.key() });
        pieces.push(painter.piece(mark.to_string(), tone));
        let is_quiet = text.is_empty() && tone == Tone::Dim;
        pieces.push(painter.piece(format!("{} ", group.name()), if is_quiet { Tone::Dim } else { Tone::Plain }));
        if !text.is_empty() {
            pieces.push(painter.piece(format!("{text} "), tone));
        }
    }
    if let Some(capture) = capture {
        // What was lost has a line of its own.
        if capture.probes.iter().any(|probe| probe.state == ProbeState::On) && summary::losses(&capture.lost).is_empty()
        {
            pieces.push(painter.piece(" lost 0", Tone::Dim));
        }
    }
    let room = usize::from(area.width).saturating_sub(paint::width(&pieces) + 1);
    let costs = capture.map(|capture| own_cost(painter, capture)).unwrap_or_default();
    let right = costs.into_iter().find(|cost| paint::width(cost) <= room).unwrap_or_default();
    painter.both_ends(area, &pieces, &right);
}

/// In full, and ever shorter for where there is less room.
fn own_cost(painter: &Painter<'_>, capture: &Capture) -> Vec<Vec<Piece>> {
    let own = &capture.self_cost;
    let percent = |value| known(value, |p| format::percent(p) + "%");
    let cpu = percent(own.cpu_percent);
    let kernel = percent(own.kernel_cpu_percent);
    let memory = known(own.resident_bytes, format::bytes);
    let overhead = summary::overhead(capture);
    let cost = if overhead.is_empty() { overhead } else { format!("cost {overhead}  ") };
    let tone = if capture.overhead.level == OverheadLevel::Full { Tone::Dim } else { Tone::Warn };
    let cost = painter.piece(cost, tone);
    let rests = [format!("own cpu {cpu} bpf {kernel} mem {memory} "), format!("mem {memory} "), String::new()];
    rests.into_iter().map(|rest| vec![cost.clone(), painter.piece(rest, Tone::Dim)]).collect()
}

fn machine(painter: &mut Painter<'_>, area: Rect, host: Option<&Host>) {
    let Some(host) = host else {
        let text = " waiting for the first sample; probes are being attached";
        let piece = painter.piece(text, Tone::Dim);
        painter.pieces(area, &[piece]);
        return;
    };
    let memory_percent = match (host.memory_used_bytes, host.memory_total_bytes) {
        (Some(used), Some(total)) if total > 0 => Some(used as f64 * 100.0 / total as f64),
        _ => None,
    };
    let cpu = known(host.cpu_percent, |p| format!("{p:.0}%"));
    let memory =
        format!("{}/{}", known(host.memory_used_bytes, format::bytes), known(host.memory_total_bytes, format::bytes));
    let load = known(host.load_1m, |load| format!("{load:.2}"));
    let texts =
        [format!(" cpu {cpu:>4} "), format!("  mem {memory} "), format!("  load {load}  {} cpus", host.cpu_count)];
    let cores = if area.width < WIDE { String::new() } else { cores(painter, host) };
    let kinds = if area.width < WIDEST { String::new() } else { host.cpu_use.as_ref().map(kinds).unwrap_or_default() };
    // What the words leave is shared by the two meters.
    let words: usize = texts.iter().chain([&cores, &kinds]).map(|text| text.chars().count()).sum();
    let meter_width = usize::from(area.width).saturating_sub(words + 2).min(80) / 2;
    let [cpu, memory, load] = texts;
    let mut pieces = vec![painter.piece(cpu, Tone::Plain)];
    pieces.extend(meter(painter, host.cpu_percent, meter_width));
    pieces.push(Piece { text: cores, style: painter.theme.spark() });
    pieces.push(painter.piece(kinds, Tone::Dim));
    pieces.push(painter.piece(memory, Tone::Plain));
    pieces.extend(meter(painter, memory_percent, meter_width));
    pieces.push(painter.piece(load, Tone::Plain));
    painter.pieces(area, &pieces);
}

/// A bar for each core, or for some together where there are many; with a gap before and behind.
fn cores(painter: &Painter<'_>, host: &Host) -> String {
    let together = host.cores_percent.len().div_ceil(MAX_CORE_BARS).max(1);
    let mean = |cores: &[f64]| Some(cores.iter().sum::<f64>() / cores.len() as f64);
    let bars: Vec<Option<f64>> = host.cores_percent.chunks(together).map(mean).collect();
    if bars.is_empty() {
        return String::new();
    }
    format!(" {}", chart::bars_up_to(&bars, 100.0, 1, &painter.theme.symbols.bars)[0])
}

/// What takes the cores' time, as far as it takes any.
fn kinds(cpu: &CpuUse) -> String {
    let all = [
        ("user", cpu.user_percent),
        ("nice", cpu.nice_percent),
        ("sys", cpu.system_percent),
        ("irq", cpu.irq_percent),
        ("io", cpu.iowait_percent),
        ("steal", cpu.steal_percent),
    ];
    all.iter().filter(|(_, percent)| *percent >= 0.5).map(|(name, percent)| format!("  {name} {percent:.0}")).collect()
}

/// All GPUs in a line like that of the machine.
fn gpu(painter: &mut Painter<'_>, area: Rect, gpus: &Summary) {
    let memory_percent = match (gpus.memory_used_bytes, gpus.memory_total_bytes) {
        (Some(used), Some(total)) if total > 0 => Some(used as f64 * 100.0 / total as f64),
        _ => None,
    };
    let utilization = known(gpus.utilization_percent, |p| format!("{p:.0}%"));
    let at_least = |is_partial: bool| if is_partial { painter.theme.symbols.at_least } else { "" };
    let mark = at_least(gpus.is_memory_partial);
    let bytes = |bytes: Option<u64>| known(bytes, |bytes| format!("{mark}{}", format::bytes(bytes)));
    let memory = format!("{}/{}", bytes(gpus.memory_used_bytes), bytes(gpus.memory_total_bytes));
    let watts = known(gpus.power_watts, |watts| format!("{}{watts:.0} W", at_least(gpus.is_power_partial)));
    let texts = [format!(" gpu {utilization:>4} "), format!("  mem {memory} "), format!("  {watts}  {}", gpus.name)];
    let trouble = match gpus.troubled {
        0 => String::new(),
        count => format!("  {count} in trouble"),
    };
    let words: usize = texts.iter().chain([&trouble]).map(|text| text.chars().count()).sum();
    let meter_width = usize::from(area.width).saturating_sub(words + 2).min(80) / 2;
    let [utilization, memory, power] = texts;
    // A GPU is there to be busy, and its memory to be full: neither is bad.
    let mut pieces = vec![painter.piece(utilization, Tone::Plain)];
    pieces.extend(plain_meter(painter, gpus.utilization_percent, meter_width, Tone::Good));
    pieces.push(painter.piece(memory, Tone::Plain));
    pieces.extend(plain_meter(painter, memory_percent, meter_width, Tone::Accent));
    pieces.push(painter.piece(power, Tone::Plain));
    pieces.push(painter.piece(trouble, Tone::Bad));
    painter.pieces(area, &pieces);
}

/// A meter, red from 90 % on; nothing where it would be too short to read.
fn meter(painter: &Painter<'_>, percent: Option<f64>, cells: usize) -> Vec<Piece> {
    let tone = match percent {
        Some(90.0..) => Tone::Bad,
        Some(70.0..) => Tone::Warn,
        _ => Tone::Good,
    };
    plain_meter(painter, percent, cells, tone)
}

/// A meter of one colour.
fn plain_meter(painter: &Painter<'_>, percent: Option<f64>, cells: usize, tone: Tone) -> Vec<Piece> {
    if cells < 4 {
        return Vec::new();
    }
    let [full, free] = painter.theme.symbols.meter.map(String::from);
    let percent = percent.filter(|p| p.is_finite()).unwrap_or(0.0).clamp(0.0, 100.0);
    let used = (percent / 100.0 * cells as f64).round() as usize;
    vec![painter.piece(full.repeat(used), tone), painter.piece(free.repeat(cells - used), Tone::Dim)]
}

/// The most important problem, with what mends it, on as many lines as it needs up to [`PROBLEM_LINES`], and behind its
/// end, where it interrupts nothing, the key that shows the rest.
fn problem(painter: &mut Painter<'_>, area: Rect, snapshot: &Snapshot, state: &State) {
    let Some((lines, more)) = problem_lines(snapshot, state) else { return };
    let key = state.keymap.first("findings");
    let last = lines.len() - 1;
    for (index, line) in lines.iter().enumerate() {
        let mark = if index == 0 { " ! " } else { "   " };
        let area = layout::line(area, index as u16);
        if index < last {
            let left = [painter.piece(format!("{mark}{line}"), Tone::Warn)];
            painter.pieces(area, &left);
        } else {
            let text = table::cut(line, beside(&more, key, state.size.0), painter.theme.symbols.ellipsis);
            let left = [painter.piece(format!("{mark}{text}"), Tone::Warn)];
            let key = Piece { text: key.to_owned(), style: painter.theme.key() };
            let right = [key, painter.piece(more.as_str(), Tone::Dim)];
            painter.both_ends(area, &left, &right);
        }
    }
}

/// In front of the lines of a problem.
const MARK: usize = 3;

/// How much of a problem's last line fits beside what is said of the others, with a gap that tells them apart.
fn beside(more: &str, key: &str, width: u16) -> usize {
    const GAP: usize = 2;
    usize::from(width).saturating_sub(MARK + GAP + key.len() + more.len()).max(1)
}

/// The lines of the most important problem, at least one, and what to say of the others.
fn problem_lines(snapshot: &Snapshot, state: &State) -> Option<(Vec<String>, String)> {
    let problems = summary::notices(snapshot);
    let first = problems.first()?;
    let more = match problems.len() - 1 {
        0 => " details ".to_owned(),
        more => format!(" +{more} more "),
    };
    let (width, height) = state.size;
    let most = if height < LOW { 1 } else { PROBLEM_LINES };
    let (room, beside) =
        (usize::from(width).saturating_sub(MARK).max(1), beside(&more, state.keymap.first("findings"), width));
    let fits = |lines: &Vec<String>| {
        lines.len() <= most && lines.last().is_some_and(|last| UnicodeWidthStr::width(last.as_str()) <= beside)
    };
    let lines = [room, beside].into_iter().map(|room| table::wrap(first, room)).find(fits).unwrap_or_else(|| {
        let mut lines = table::wrap(first, room);
        // The last line is cut.
        let rest = lines.split_off(lines.len().min(most) - 1).join(" ");
        lines.push(rest);
        lines
    });
    Some((lines, more))
}
