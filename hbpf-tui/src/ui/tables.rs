//! The process table and the request table.

use hbpf_core::snapshot::{Engine, EngineReplica, Request, Snapshot};
use hbpf_host::protocol::Group;
use ratatui::layout::Rect;

use super::chart;
use super::layout::{self, Stack};
use super::paint::Painter;
use super::state::{Focus, State};
use crate::engines;
use crate::filter::Filter;
use crate::format;
use crate::gpus;
use crate::inout;
use crate::probes;
use crate::recording::engine_key;
use crate::rows::{ProcessColumn, ProcessRow, RequestColumn, Span};
use crate::sets;
use crate::summary;
use crate::table::{self, Cell, Column, Placed, Tone};
use crate::workloads;

/// What an empty table of requests says.
const NOTHING_YET: &str = "no requests to models seen yet";
/// What an empty table of processes says.
const NO_SAMPLE: &str = "no processes sampled yet";
/// The same while those without model traffic are hidden.
const NO_PROCESS: &str = "no process has talked to a model yet; a shows the others";
/// What an empty table of GPUs says.
const NO_GPU: &str = "no GPU is read: there is no driver, or `hbpf doctor` says what is missing";
/// More GPUs than this have no line of history each: their processes need the room.
const MAX_HISTORIES: usize = 8;
/// What an empty table of inference servers says.
const NO_ENGINE: &str = "no inference server on this machine tells of itself";
/// What an empty table of disks, connections and devices says.
const NO_USE: &str = "no use of disks, connections or GPU devices was seen yet";
/// Where nobody has asked an MCP server anything.
const NO_TOOL: &str = "no MCP server was asked for anything yet";
/// Where nothing has gone wrong.
const NO_ERROR: &str = "no request has failed, and no client has given one up";

/// What an empty table of workloads says.
const NO_WORKLOAD: &str = "nothing has talked to a model or used a GPU yet";
/// What a table says of which a filter leaves nothing.
const NOTHING_PICKED: &str =
    "no row that is shown fits the filter: / changes it, Esc takes it away (after Tab, if need be)";
/// What an empty table of requests says where none can be seen.
const NOTHING_SEEN: &str = "requests to models are not seen: no probes are on";

/// How many processes there are without model traffic, of which the snapshot has the busiest.
fn others(snapshot: &Snapshot, rows: &[ProcessRow<'_>]) -> usize {
    let busy = rows.iter().filter(|row| row.has_traffic() && !row.process.exited).count();
    let all = snapshot.host.processes_total.map_or(0, |all| usize::try_from(all).unwrap_or(usize::MAX));
    all.saturating_sub(busy).max(rows.iter().filter(|row| !row.has_traffic()).count())
}

/// A table's title, with what its rows are picked by and how many these are.
fn picked(title: String, rows: usize, filter: Option<&Filter>) -> String {
    match filter {
        // First, for there may be no room for more.
        Some(filter) => format!("{rows} of /{filter}: {title}"),
        None => title,
    }
}

pub(crate) fn processes(painter: &mut Painter<'_>, area: Rect, state: &State) {
    let rows = state.snapshot().map(ProcessRow::all).unwrap_or_default();
    let busy = rows.iter().filter(|row| row.has_traffic()).count();
    let focused = state.focus == Focus::Processes;
    let symbols = &painter.theme.symbols;
    let (sort, descending) = state.order_by();
    let arrow = if descending { symbols.descending } else { symbols.ascending };
    let latency = match state.span {
        Span::Window => "latency over the window",
        Span::SinceStart => "latency since start",
    };
    let blind = state.is_blind();
    let order = format!("{} {arrow}", sort.column().title);
    let idle = rows.len() - busy;
    let others = state.snapshot().map_or(idle, |snapshot| others(snapshot, &rows));
    let of_all = if others > idle { format!(" of {others}") } else { String::new() };
    let title = match (idle, state.show_idle) {
        (all, _) if blind => format!("Processes {all}{of_all}"),
        (0, _) => format!("Processes {busy}"),
        (idle, true) => format!("Processes {busy} with model traffic, {idle}{of_all} without"),
        (_, false) => format!("Processes {busy} with model traffic ({others} hidden)"),
    };
    let title = picked(title, state.order.len(), state.filter(Focus::Processes));
    let notes = if blind { order } else { format!("{order}{}{latency}", symbols.separator) };
    painter.rule(layout::line(area, 0), &title, &notes, focused);
    let columns = ProcessColumn::columns();
    let placed = layout::process_columns(usize::from(area.width), &ProcessColumn::of(state.snapshot(), blind));
    let sorted = ProcessColumn::ALL.iter().position(|column| *column == sort);
    head(painter, layout::line(area, 1), &columns, &placed, sorted);
    if state.order.is_empty() && state.snapshot().is_some() {
        let style = painter.theme.tone(Tone::Dim);
        let text = match (state.filter(Focus::Processes), state.show_idle) {
            (Some(_), _) => NOTHING_PICKED,
            (None, true) => NO_SAMPLE,
            (None, false) => NO_PROCESS,
        };
        painter.text(layout::line(area, 2), 1, text, style);
    }
    let cursor = &state.processes;
    let height = usize::from(area.height.saturating_sub(2));
    let shown = state.order.iter().enumerate().skip(cursor.top).take(height);
    for (line, (position, &index)) in (2_u16..).zip(shown) {
        let Some(row) = rows.get(index) else { continue };
        let style = (focused && position == cursor.row).then(|| painter.theme.selected());
        let line = layout::line(area, line);
        for place in &placed {
            let cell = ProcessColumn::ALL[place.index].cell(row, state.span);
            // What has no model traffic stands back.
            let cell = if row.has_traffic() { cell } else { Cell { tone: faded(cell.tone), ..cell } };
            body_cell(painter, line, &columns, place, &cell, style);
        }
    }
}

fn faded(tone: Tone) -> Tone {
    match tone {
        Tone::Bad | Tone::Warn => tone,
        _ => Tone::Dim,
    }
}

pub(crate) fn requests(painter: &mut Painter<'_>, area: Rect, state: &State) {
    let requests: Vec<&Request> = state.requests().collect();
    let focused = state.focus == Focus::Requests;
    let listed = state.snapshot().map(|snapshot| &snapshot.requests);
    let (in_flight, omitted) = listed.map_or((0, 0), |r| (r.in_flight.len(), r.in_flight_omitted));
    let omitted = if omitted > 0 { format!(" (+{omitted} not listed)") } else { String::new() };
    let recent = listed.map_or(0, |requests| requests.recent.len());
    // None are listed while nothing is watched, which says nothing of how many there are.
    let is_known = state.snapshot().is_none_or(|snapshot| snapshot.totals.requests_in_flight.is_some());
    let in_flight = if is_known { in_flight.to_string() } else { format::UNKNOWN.to_owned() };
    let title = format!("Requests {in_flight} in flight{omitted}, {recent} recent");
    let title = picked(title, requests.len(), state.filter(Focus::Requests));
    painter.rule(layout::line(area, 0), &title, "", focused);
    request_rows(painter, area, &requests, state.requests.top, focused.then_some(state.requests.row));
    if requests.is_empty() {
        let style = painter.theme.tone(Tone::Dim);
        let text = match state.snapshot() {
            Some(snapshot) if !summary::sees_traffic(snapshot) => NOTHING_SEEN,
            _ if state.filter(Focus::Requests).is_some() => NOTHING_PICKED,
            _ => NOTHING_YET,
        };
        painter.text(layout::line(area, 2), 1, text, style);
    }
}

/// Column names on the area's second line and rows below.
pub(crate) fn request_rows(
    painter: &mut Painter<'_>,
    area: Rect,
    requests: &[&Request],
    top: usize,
    selected: Option<usize>,
) {
    let columns = RequestColumn::columns();
    let placed = table::fit(&columns, usize::from(area.width));
    head(painter, layout::line(area, 1), &columns, &placed, None);
    let height = usize::from(area.height.saturating_sub(2));
    let shown = requests.iter().enumerate().skip(top).take(height);
    for (line, (position, request)) in (2_u16..).zip(shown) {
        let style = (selected == Some(position)).then(|| painter.theme.selected());
        for place in &placed {
            let cell = RequestColumn::ALL[place.index].cell(request);
            let cell = if request.phase.is_final() { Cell { tone: faded(cell.tone), ..cell } } else { cell };
            body_cell(painter, layout::line(area, line), &columns, place, &cell, style);
        }
    }
}

/// Models, and below them endpoints; both scroll.
pub(crate) fn models(painter: &mut Painter<'_>, area: Rect, state: &State) {
    let Some(snapshot) = state.snapshot() else { return };
    let models = snapshot.models.iter().map(sets::model_cells).collect::<Vec<_>>();
    let endpoints = snapshot.endpoints.iter().map(sets::endpoint_cells).collect::<Vec<_>>();
    let [upper, lower] = models_stack(area, snapshot).at(state.scroll);
    set(painter, upper, &format!("Models {}", models.len()), &sets::model_columns(), &models);
    set(painter, lower, &format!("Endpoints {}", endpoints.len()), &sets::endpoint_columns(), &endpoints);
}

fn models_stack(area: Rect, snapshot: &Snapshot) -> Stack {
    Stack::new(area, snapshot.models.len(), Some(snapshot.endpoints.len()))
}

/// How far the models page can be scrolled.
pub(crate) fn models_scroll(area: Rect, state: &State) -> usize {
    state.snapshot().map_or(0, |snapshot| models_stack(area, snapshot).limit())
}

/// Processes that belong together.
pub(crate) fn workloads(painter: &mut Painter<'_>, area: Rect, state: &State) {
    let Some(snapshot) = state.snapshot() else { return };
    let (columns, rows) = workloads::table(snapshot);
    let title = format!("Workloads {} with model traffic or a GPU", rows.len());
    set(painter, (area, state.scroll), &title, &columns, &rows);
    if rows.is_empty() {
        let style = painter.theme.tone(Tone::Dim);
        painter.text(layout::line(area, 2), 1, NO_WORKLOAD, style);
    }
}

/// How far the page of workloads can be scrolled.
pub(crate) fn workloads_scroll(area: Rect, state: &State) -> usize {
    let rows = state.snapshot().map_or(0, |snapshot| snapshot.workloads.len());
    rows.saturating_sub(usize::from(area.height.saturating_sub(2)))
}

/// What went wrong and where, and below that the latest requests that did not end well.
pub(crate) fn errors(painter: &mut Painter<'_>, area: Rect, state: &State) {
    let Some(snapshot) = state.snapshot() else { return };
    let rows = sets::error_rows(snapshot);
    let latest = sets::failed_rows(snapshot);
    let [upper, lower] = errors_stack(area, rows.len(), latest.len()).at(state.scroll);
    let totals = &snapshot.totals;
    let sees = summary::sees_traffic(snapshot);
    let title = match sees {
        true => format!("Errors {} failed, {} given up", totals.failed_total, totals.abandoned_total),
        false => "Errors".to_owned(),
    };
    set(painter, upper, &title, &sets::error_columns(), &rows);
    if rows.is_empty() {
        let style = painter.theme.tone(Tone::Dim);
        let is_none = totals.failed_total + totals.abandoned_total == 0;
        let text = match (sees, is_none) {
            (false, _) => NOTHING_SEEN,
            (true, true) => NO_ERROR,
            (true, false) => "of which endpoints these were is not known",
        };
        painter.text(layout::line(upper.0, 2), 1, text, style);
    }
    if !latest.is_empty() {
        set(painter, lower, &format!("The latest {}", latest.len()), &sets::failed_columns(), &latest);
    }
}

fn errors_stack(area: Rect, rows: usize, latest: usize) -> Stack {
    Stack::new(area, rows, (latest > 0).then_some(latest))
}

/// How far the page of errors can be scrolled.
pub(crate) fn errors_scroll(area: Rect, state: &State) -> usize {
    state.snapshot().map_or(0, |snapshot| {
        errors_stack(area, sets::error_rows(snapshot).len(), sets::failed_rows(snapshot).len()).limit()
    })
}

/// What is asked of MCP servers.
pub(crate) fn tools(painter: &mut Painter<'_>, area: Rect, state: &State) {
    let Some(snapshot) = state.snapshot() else { return };
    let rows = snapshot.tools.iter().map(sets::tool_cells).collect::<Vec<_>>();
    set(painter, (area, state.scroll), &format!("Tools {}", rows.len()), &sets::tool_columns(), &rows);
    if rows.is_empty() {
        let style = painter.theme.tone(Tone::Dim);
        painter.text(layout::line(area, 2), 1, NO_TOOL, style);
    }
}

/// How far the page of tools can be scrolled.
pub(crate) fn tools_scroll(area: Rect, state: &State) -> usize {
    let rows = state.snapshot().map_or(0, |snapshot| snapshot.tools.len());
    rows.saturating_sub(usize::from(area.height.saturating_sub(2)))
}

/// Who uses disks, connects, and opens accelerators' devices.
pub(crate) fn inout(painter: &mut Painter<'_>, area: Rect, state: &State) {
    let Some(snapshot) = state.snapshot() else { return };
    let (columns, rows) = inout::table(snapshot);
    let off = Group::ALL.iter().enumerate().filter(|(_, group)| {
        !Group::DEFAULT.contains(group) && summary::group_state(&snapshot.capture, **group).is_off()
    });
    let off: Vec<String> = off.map(|(index, group)| format!("{} {}", index + 1, group.name())).collect();
    let notes = if off.is_empty() { String::new() } else { format!("off: {}", off.join("  ")) };
    let [upper, lower] = inout_stack(area, rows.len(), snapshot).at(state.scroll);
    let title = format!("Disks, connections, devices: {} processes", rows.len());
    set_with_notes(painter, upper, [&title, &notes], &columns, &rows);
    if rows.is_empty() {
        let style = painter.theme.tone(Tone::Dim);
        painter.text(layout::line(upper.0, 2), 1, NO_USE, style);
    }
    let disks = inout::disk_rows(snapshot);
    if !disks.is_empty() {
        set(painter, lower, &format!("Disks {}", disks.len()), &inout::disk_columns(), &disks);
    }
}

/// Processes, and below them disks where there are any.
fn inout_stack(area: Rect, processes: usize, snapshot: &Snapshot) -> Stack {
    let disks = snapshot.host.disks.len();
    // That there are none has a line as well.
    Stack::new(area, processes.max(1), (disks > 0).then_some(disks))
}

/// How far the page of disks, connections and devices can be scrolled.
pub(crate) fn inout_scroll(area: Rect, state: &State) -> usize {
    state.snapshot().map_or(0, |snapshot| inout_stack(area, inout::table(snapshot).1.len(), snapshot).limit())
}

/// GPUs, with what they have been doing lately, and below them who uses them; both scroll.
pub(crate) fn gpus(painter: &mut Painter<'_>, area: Rect, state: &State) {
    let Some(snapshot) = state.snapshot() else { return };
    let rows = gpus::rows(&snapshot.gpus);
    let users = gpus::users(snapshot);
    let [upper, (mut rest, first_user)] = Stack::new(area, rows.len(), Some(users.len())).at(state.scroll);
    set(painter, upper, &format!("GPUs {}", snapshot.gpus.len()), &gpus::columns(), &rows);
    if rows.is_empty() {
        let style = painter.theme.tone(Tone::Dim);
        painter.text(layout::line(upper.0, 2), 1, NO_GPU, style);
    }
    // What both tables leave; a blank line follows.
    let spare = usize::from(rest.height).saturating_sub(users.len() + 3);
    let histories = snapshot.gpus.len();
    if (1..=MAX_HISTORIES).contains(&histories) && histories < spare {
        let below = layout::split_top(&mut rest, histories as u16 + 1);
        gpu_history(painter, below, state, snapshot);
    }
    let title = format!("Processes on GPUs {}", users.len());
    set(painter, (rest, first_user), &title, &gpus::user_columns(), &users);
}

/// A line for each GPU's utilization lately.
fn gpu_history(painter: &mut Painter<'_>, area: Rect, state: &State, snapshot: &Snapshot) {
    const NAME: usize = 12;
    let width = usize::from(area.width).saturating_sub(NAME + 1);
    for (line, gpu) in (0..area.height).zip(&snapshot.gpus) {
        let values = state.history().gpu(gpu.index, width);
        // In percent, so that a GPU that does little does not look busy.
        let bars = chart::bars_up_to(&values, 100.0, 1, &painter.theme.symbols.bars);
        let name = format!("GPU {} util", gpu.index);
        painter.text(layout::line(area, line), 1, &name, painter.theme.tone(Tone::Dim));
        let x = NAME + 1 + width - values.len();
        painter.text(layout::line(area, line), x, &bars[0], painter.theme.spark());
    }
}

/// How far the page of GPUs can be scrolled.
pub(crate) fn gpus_scroll(area: Rect, state: &State) -> usize {
    let Some(snapshot) = state.snapshot() else { return 0 };
    Stack::new(area, gpus::rows(&snapshot.gpus).len(), Some(gpus::users(snapshot).len())).limit()
}

/// What inference servers say, and below it what they have loaded; both scroll.
pub(crate) fn engines(painter: &mut Painter<'_>, area: Rect, state: &State) {
    let Some(snapshot) = state.snapshot() else { return };
    let bars = painter.theme.symbols.bars;
    let trend = |engine: &Engine, replica: Option<&EngineReplica>| {
        let values = state.history().engine(&engine_key(engine, replica), engines::TREND);
        let bars = chart::bars(&values, 1, &bars).remove(0);
        // The latest stands at the right.
        format!("{bars:>width$}", width = engines::TREND)
    };
    let (columns, rows) = engines::table(&snapshot.engines, Some(usize::from(area.width)), Some(&trend));
    let loaded = engines::model_rows(&snapshot.engines);
    let [upper, lower] = engines_stack(area, rows.len(), loaded.len()).at(state.scroll);
    let title = format!("Inference servers {}", snapshot.engines.len());
    set(painter, upper, &title, &columns, &rows);
    if rows.is_empty() {
        let style = painter.theme.tone(Tone::Dim);
        painter.text(layout::line(upper.0, 2), 1, NO_ENGINE, style);
    }
    if !loaded.is_empty() {
        set(painter, lower, &format!("Loaded models {}", loaded.len()), &engines::model_columns(), &loaded);
    }
}

/// The second table has room where there is one.
fn engines_stack(area: Rect, rows: usize, loaded: usize) -> Stack {
    Stack::new(area, rows, (loaded > 0).then_some(loaded))
}

/// How far the page of inference servers can be scrolled.
pub(crate) fn engines_scroll(area: Rect, state: &State) -> usize {
    let Some(snapshot) = state.snapshot() else { return 0 };
    let rows = engines::table(&snapshot.engines, None, None).1.len();
    engines_stack(area, rows, engines::model_rows(&snapshot.engines).len()).limit()
}

/// What each group of probes costs, and below each probe.
pub(crate) fn probes(painter: &mut Painter<'_>, area: Rect, state: &State) {
    let Some(snapshot) = state.snapshot() else { return };
    let is_over = state.is_over();
    let costs = probes::costs(&snapshot.capture, is_over);
    let places = snapshot.capture.probes.iter().map(|probe| probes::place_cells(probe, is_over)).collect::<Vec<_>>();
    let [upper, lower] = Stack::new(area, costs.len(), Some(places.len())).at(state.scroll);
    set(painter, upper, &probes::title(&snapshot.capture), &probes::cost_columns(), &costs);
    set(painter, lower, &format!("Probes {}", places.len()), &probes::place_columns(), &places);
}

/// How far the probes page can be scrolled.
pub(crate) fn probes_scroll(area: Rect, state: &State) -> usize {
    let Some(capture) = state.snapshot().map(|snapshot| &snapshot.capture) else { return 0 };
    Stack::new(area, probes::costs(capture, false).len(), Some(capture.probes.len())).limit()
}

/// A table in an area, from this row on.
fn set(painter: &mut Painter<'_>, place: (Rect, usize), title: &str, columns: &[Column], rows: &[Vec<Cell>]) {
    set_with_notes(painter, place, [title, ""], columns, rows);
}

fn set_with_notes(
    painter: &mut Painter<'_>,
    (area, top): (Rect, usize),
    [title, notes]: [&str; 2],
    columns: &[Column],
    rows: &[Vec<Cell>],
) {
    let height = usize::from(area.height.saturating_sub(2));
    let top = top.min(rows.len().saturating_sub(height));
    // That there is more than what is seen.
    let part = match rows.len() > height {
        true if height > 0 => format!("{}-{} of {}", top + 1, top + height, rows.len()),
        _ => String::new(),
    };
    let notes = [notes, part.as_str()].into_iter().filter(|note| !note.is_empty()).collect::<Vec<_>>();
    painter.rule(layout::line(area, 0), title, &notes.join(painter.theme.symbols.separator), true);
    let placed = table::fit(columns, usize::from(area.width));
    head(painter, layout::line(area, 1), columns, &placed, None);
    for (line, row) in (2_u16..).zip(rows.iter().skip(top).take(height)) {
        for place in &placed {
            body_cell(painter, layout::line(area, line), columns, place, &row[place.index], None);
        }
    }
}

fn head(painter: &mut Painter<'_>, area: Rect, columns: &[Column], placed: &[Placed], sorted: Option<usize>) {
    for place in placed {
        let column = columns[place.index];
        let style = painter.theme.table_head(sorted == Some(place.index));
        let text = table::fill(column.title, place.width, column.align, painter.theme.symbols.ellipsis);
        painter.text(area, place.x, &text, style);
    }
}

fn body_cell(
    painter: &mut Painter<'_>,
    area: Rect,
    columns: &[Column],
    place: &Placed,
    cell: &Cell,
    selected: Option<ratatui::style::Style>,
) {
    painter.cell(area, place.x, place.width, columns[place.index].align, cell, selected);
    if let Some(style) = selected {
        // A selected row is one bar: its gaps, and what lies behind its last column, belong to it.
        painter.text(area, place.x + place.width, " ", style);
    }
}
