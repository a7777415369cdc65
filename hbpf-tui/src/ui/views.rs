//! Which lists a page has, and what stands in them.

use hbpf_core::snapshot::{Engine, EngineReplica, Request, Snapshot};
use hbpf_host::protocol::Group;

use super::chart;
use super::compare;
use super::header;
use super::state::{Cursor, State};
use super::theme::UNICODE;
use crate::arrange::arrange;
use crate::engines;
use crate::filter::{Filter, Kind};
use crate::findings;
use crate::format;
use crate::gpus;
use crate::inout;
use crate::list::{Key, List};
use crate::probes;
use crate::recording::engine_key;
use crate::rows::{self, Span};
use crate::sets;
use crate::summary;
use crate::table::{self, Column, Placed};
use crate::workloads;

/// Where what is compared is not there.
const NOT_COMPARED: &str = "one of the two is gone, and its numbers with it";
/// What every list says before there is a first frame.
const WAITING: &str = "waiting for the first sample";
/// What an empty list of requests says.
const NOTHING_YET: &str = "no requests to models seen yet";
/// What an empty list of processes says.
const NO_SAMPLE: &str = "no processes sampled yet";
/// The same while those without model traffic are hidden.
const NO_PROCESS: &str = "no process has talked to a model yet; {idle} shows the others";
/// What an empty list of GPUs says.
const NO_GPU: &str = "no GPU is read: there is no driver, or `hbpf doctor` says what is missing";
/// What an empty list of those who use GPUs says.
const NO_GPU_USER: &str = "no process uses a GPU";
/// The same of one GPU.
const NO_USER_OF_IT: &str = "no process uses this GPU";
/// What an empty list of inference servers says.
const NO_ENGINE: &str = "no inference server on this machine tells of itself";
/// What an empty list of disks, connections and devices says.
const NO_USE: &str = "no use of disks, connections or GPU devices was seen yet";
/// Where nobody has asked an MCP server anything.
const NO_TOOL: &str = "no MCP server was asked for anything yet";
/// Where nothing has gone wrong.
const NO_ERROR: &str = "no request has failed, and no client has given one up";
/// Where something has, at no endpoint.
const NO_ENDPOINT: &str = "of which endpoints these were is not known";
/// Where nothing deserves attention.
const NOTHING_FOUND: &str = "nothing was found, and there are no problems";
/// What an empty list of workloads says.
const NO_WORKLOAD: &str = "nothing has talked to a model or used a GPU yet";
/// What a list says of which a filter leaves nothing.
const NOTHING_PICKED: &str = "no row fits the filter: {filter} changes it, {back} takes it away";
/// What an empty list of requests says where none can be seen.
const NOTHING_SEEN: &str = "requests to models are not seen: no probes are on";

/// A list that there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ListId {
    Processes,
    Requests,
    Models,
    Endpoints,
    Workloads,
    Gpus,
    GpuUsers,
    Engines,
    LoadedModels,
    Errors,
    Failed,
    Tools,
    InOut,
    Disks,
    Costs,
    Places,
    Findings,
    /// What is compared.
    Comparison,
    /// The requests of what a page is of.
    Its,
}

impl ListId {
    pub(crate) const ALL: [Self; 19] = [
        Self::Processes,
        Self::Requests,
        Self::Models,
        Self::Endpoints,
        Self::Workloads,
        Self::Gpus,
        Self::GpuUsers,
        Self::Engines,
        Self::LoadedModels,
        Self::Errors,
        Self::Failed,
        Self::Tools,
        Self::InOut,
        Self::Disks,
        Self::Costs,
        Self::Places,
        Self::Findings,
        Self::Comparison,
        Self::Its,
    ];

    /// What it is called, also before there is anything in it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Processes => "Processes",
            Self::Requests => "Requests",
            Self::Models => "Models",
            Self::Endpoints => "Endpoints",
            Self::Workloads => "Workloads",
            Self::Gpus => "GPUs",
            Self::GpuUsers => "Processes on GPUs",
            Self::Engines => "Inference servers",
            Self::LoadedModels => "Loaded models",
            Self::Errors => "Errors",
            Self::Failed => "The latest",
            Self::Tools => "Tools",
            Self::InOut => "Disks, connections, devices",
            Self::Disks => "Disks",
            Self::Costs => "Cost",
            Self::Places => "Probes",
            Self::Findings => "Findings and problems",
            Self::Comparison => "Comparison",
            Self::Its => "Its requests",
        }
    }

    /// What it is called in the configuration.
    pub(super) fn field(self) -> String {
        let words = self.name().split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
        words.collect::<Vec<_>>().join("-").to_lowercase()
    }

    /// Whether there is always room for it, also when there is nothing in it.
    fn is_kept_empty(self) -> bool {
        !matches!(self, Self::Failed | Self::LoadedModels | Self::Disks)
    }
}

/// What fills the screen below the header.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Page {
    Main,
    Models,
    Workloads,
    Gpus,
    /// Inference servers, in their own words.
    Engines,
    /// What went wrong.
    Errors,
    /// Calls of tools.
    Tools,
    /// Disks, connections and accelerators' devices.
    InOut,
    Probes,
    /// What deserves attention.
    Findings,
    /// What was over time.
    Charts,
    /// One process, request, model, endpoint, workload or GPU.
    Of(Key),
    /// What is marked, and beside it this.
    Compared(compare::Subject),
}

impl Page {
    /// Its lists, from the top.
    pub(crate) fn lists(&self) -> &'static [ListId] {
        match self {
            Self::Main => &[ListId::Processes, ListId::Requests],
            Self::Models => &[ListId::Models, ListId::Endpoints],
            Self::Workloads => &[ListId::Workloads],
            Self::Gpus => &[ListId::Gpus, ListId::GpuUsers],
            Self::Engines => &[ListId::Engines, ListId::LoadedModels],
            Self::Errors => &[ListId::Errors, ListId::Failed],
            Self::Tools => &[ListId::Tools],
            Self::InOut => &[ListId::InOut, ListId::Disks],
            Self::Probes => &[ListId::Costs, ListId::Places],
            Self::Findings => &[ListId::Findings],
            Self::Charts => &[],
            Self::Compared(_) => &[ListId::Comparison],
            Self::Of(Key::Request(_) | Key::Row(_)) => &[],
            Self::Of(Key::Gpu(_)) => &[ListId::GpuUsers],
            Self::Of(_) => &[ListId::Its],
        }
    }

    /// In a word or two.
    pub(crate) fn name(&self) -> String {
        match self {
            Self::Main => "Overview".to_owned(),
            Self::Models => "Models".to_owned(),
            Self::Workloads => "Workloads".to_owned(),
            Self::Gpus => "GPUs".to_owned(),
            Self::Engines => "Inference".to_owned(),
            Self::Errors => "Failures".to_owned(),
            Self::Tools => "Tools".to_owned(),
            Self::InOut => "Disks, net".to_owned(),
            Self::Probes => "Probes".to_owned(),
            Self::Findings => "Findings".to_owned(),
            Self::Charts => "Over time".to_owned(),
            Self::Of(key) => key_name(key),
            Self::Compared(_) => "Comparison".to_owned(),
        }
    }
}

/// What something is called, in short.
pub(crate) fn key_name(key: &Key) -> String {
    match key {
        Key::Process((pid, _)) => pid.to_string(),
        Key::Request(id) => id.to_string(),
        Key::Model(_, model) => format::known(model.as_ref(), ToString::to_string),
        Key::Endpoint(name, _) | Key::Row(name) => name.clone(),
        Key::Workload(_, name) => name.to_string(),
        Key::Gpu(index) => format!("GPU {index}"),
    }
}

/// How a list is looked at.
#[derive(Clone, Debug, Default)]
pub(crate) struct Look {
    pub(crate) cursor: Cursor<Key>,
    /// A column's title, and whether from the largest down; None: as it comes.
    pub(crate) sort: Option<(&'static str, bool)>,
    pub(crate) filter: Option<Filter>,
    /// Titles of the columns that are shown, in their order; None: the usual ones.
    pub(crate) columns: Option<Vec<&'static str>>,
}

impl Look {
    /// How a list is looked at to begin with.
    pub(super) fn usual(id: ListId) -> Self {
        let sort = (id == ListId::Processes).then_some(("TOK/S", true));
        Self { sort, ..Self::default() }
    }
}

/// A list as it is shown: what is picked of it, in its order.
#[derive(Clone, Debug)]
pub(crate) struct Shown {
    pub(crate) id: ListId,
    pub(crate) title: String,
    /// What is said beside the title.
    pub(crate) notes: Option<String>,
    /// What it says when there is nothing in it.
    pub(crate) empty: String,
    pub(crate) list: List,
    /// The columns that are wanted, by their places.
    pub(crate) wanted: Vec<usize>,
    /// The column by which it is sorted, and whether from the largest down.
    pub(crate) sorted: Option<(usize, bool)>,
}

impl Shown {
    /// One before there is a first frame.
    fn waiting(id: ListId, state: &State) -> Self {
        let list = match id {
            ListId::Findings => findings::list(None, header::ended(state)),
            _ => List::default(),
        };
        let (wanted, title) = (table::usual(&list.columns), id.name().to_owned());
        Self { id, title, notes: None, empty: WAITING.to_owned(), list, wanted, sorted: None }
    }

    /// Those of the wanted columns that there is room for.
    pub(crate) fn placed(&self, width: u16) -> Vec<Placed> {
        table::fit(&self.list.columns, &self.wanted, usize::from(width))
    }

    pub(crate) fn keys(&self) -> Vec<Key> {
        self.list.rows.iter().map(|row| row.key.clone()).collect()
    }
}

/// Numbers are wanted from the largest down, names and what counts as such from the smallest up.
pub(crate) fn descends(column: &Column) -> bool {
    column.kind != Kind::Text && !matches!(column.title, "PID" | "GPU")
}

/// The lists of the page that is looked at.
pub(crate) fn of_page(state: &State) -> Vec<Shown> {
    let Some(snapshot) = state.snapshot() else {
        return state.page.lists().iter().map(|id| Shown::waiting(*id, state)).collect();
    };
    let shown = state.page.lists().iter().map(|id| of(*id, state, snapshot));
    shown
        .filter(|shown| {
            shown.id.is_kept_empty() || !shown.list.rows.is_empty() || state.look(shown.id).filter.is_some()
        })
        .collect()
}

fn of(id: ListId, state: &State, snapshot: &Snapshot) -> Shown {
    let look = state.look(id);
    let mut list = list(id, state, snapshot);
    let (title, notes) = title(id, state, snapshot, &list);
    let all = list.rows.len();
    if let Some(filter) = &look.filter {
        list.pick(filter);
    }
    let sorted = sorted(id, look, &list);
    if let Some((column, descending)) = sorted {
        list.sort(column, descending);
    }
    let picked = list.rows.len();
    if id == ListId::Processes {
        arrange(&mut list, snapshot, state.arrangement);
    }
    let chosen = look.columns.as_ref().map(|titles| titles.iter().filter_map(|title| list.column(title)).collect());
    let wanted = chosen.unwrap_or_else(|| table::usual(&list.columns));
    let empty = state.keymap.words(if all > 0 { NOTHING_PICKED } else { empty(id, state, snapshot) });
    let title = match &look.filter {
        // First, for there may be no room for more.
        Some(filter) => format!("{picked} of /{filter}: {title}"),
        None => title,
    };
    Shown { id, title, notes, empty, list, wanted, sorted }
}

/// The column by which a list is sorted. By what says nothing there is no order.
fn sorted(id: ListId, look: &Look, list: &List) -> Option<(usize, bool)> {
    let (title, descending) = look.sort?;
    let column = list.column(title)?;
    let is_chosen = look.columns.as_ref().is_some_and(|titles| titles.contains(&title));
    match list.columns[column].is_extra && !is_chosen {
        // Processes of which only the machine's side is seen are in the order of what they use of it.
        true if id == ListId::Processes => list.column("CPU%").map(|column| (column, true)),
        true => None,
        false => Some((column, descending)),
    }
}

/// All columns of a list.
pub(super) fn columns(id: ListId, state: &State, snapshot: &Snapshot) -> Vec<Column> {
    list(id, state, snapshot).columns
}

fn list(id: ListId, state: &State, snapshot: &Snapshot) -> List {
    match id {
        ListId::Processes => {
            let mut list = rows::processes(snapshot, state.span);
            list.rows.retain(|row| state.show_idle || !row.stands_back);
            list
        }
        ListId::Requests => rows::requests(state.all_requests()),
        ListId::Models => sets::models(snapshot),
        ListId::Endpoints => sets::endpoints(snapshot),
        ListId::Workloads => workloads::list(snapshot),
        ListId::Gpus => gpus::list(&snapshot.gpus),
        ListId::GpuUsers => {
            let of = match state.page {
                Page::Of(Key::Gpu(index)) => Some(index),
                _ => None,
            };
            gpus::users(snapshot, of)
        }
        ListId::Engines => engines(state, snapshot),
        ListId::LoadedModels => engines::loaded_models(&snapshot.engines),
        ListId::Errors => sets::errors(snapshot),
        ListId::Failed => sets::failed(snapshot),
        ListId::Tools => sets::tools(snapshot),
        ListId::InOut => inout::list(snapshot),
        ListId::Disks => inout::disks(snapshot),
        ListId::Costs => probes::costs(&snapshot.capture, state.is_over()),
        ListId::Places => probes::places(&snapshot.capture, state.is_over()),
        ListId::Findings => findings::list(Some(snapshot), header::ended(state)),
        ListId::Comparison => compare::list(state),
        ListId::Its => rows::requests(its_requests(state, snapshot)),
    }
}

/// The requests of what the page is of.
fn its_requests<'a>(state: &'a State, snapshot: &'a Snapshot) -> impl Iterator<Item = &'a Request> {
    let key = match &state.page {
        Page::Of(key) => Some(key),
        _ => None,
    };
    state.all_requests().filter(move |request| key.is_some_and(|key| sets::is_of(snapshot, request, key)))
}

fn engines(state: &State, snapshot: &Snapshot) -> List {
    // What was is under its real name.
    let real = state.time.snapshot().map_or(&snapshot.engines, |snapshot| &snapshot.engines);
    let trend = |engine: &Engine, replica: Option<&EngineReplica>| {
        let place = snapshot.engines.iter().position(|other| std::ptr::eq(other, engine));
        let engine = place.and_then(|place| real.get(place)).unwrap_or(engine);
        let values = state.history().engine(&engine_key(engine, replica), engines::TREND);
        let bars = chart::bars(&values, 1, &UNICODE.bars).remove(0);
        // The latest stands at the right.
        format!("{bars:>width$}", width = engines::TREND)
    };
    engines::list(&snapshot.engines, Some(usize::from(state.size.0)), Some(&trend))
}

/// How many processes there are without model traffic, of which the snapshot has the busiest.
fn others(snapshot: &Snapshot, busy: usize, without: usize) -> usize {
    let all = snapshot.host.processes_total.map_or(0, |all| usize::try_from(all).unwrap_or(usize::MAX));
    all.saturating_sub(busy).max(without)
}

fn processes_title(state: &State, snapshot: &Snapshot) -> String {
    let has_traffic =
        |process: &&hbpf_core::snapshot::Process| process.as_client.is_some() || process.as_server.is_some();
    let all = snapshot.processes.len();
    let busy = snapshot.processes.iter().filter(has_traffic).count();
    let running = snapshot.processes.iter().filter(has_traffic).filter(|process| !process.exited).count();
    let idle = all - busy;
    let others = others(snapshot, running, idle);
    let of_all = if others > idle { format!(" of {others}") } else { String::new() };
    match (idle, state.show_idle) {
        _ if summary::is_blind(snapshot) => format!("Processes {all}{of_all}"),
        (0, _) => format!("Processes {busy}"),
        (idle, true) => format!("Processes {busy} with model traffic, {idle}{of_all} without"),
        (_, false) => format!("Processes {busy} with model traffic ({others} hidden)"),
    }
}

fn requests_title(snapshot: &Snapshot) -> String {
    let listed = &snapshot.requests;
    let omitted = listed.in_flight_omitted;
    let omitted = if omitted > 0 { format!(" (+{omitted} not listed)") } else { String::new() };
    // None are listed while nothing is watched, which says nothing of how many there are.
    let is_known = snapshot.totals.requests_in_flight.is_some();
    let in_flight = if is_known { listed.in_flight.len().to_string() } else { format::UNKNOWN.to_owned() };
    format!("Requests {in_flight} in flight{omitted}, {} recent", listed.recent.len())
}

/// What stands above a list, and beside that.
fn title(id: ListId, state: &State, snapshot: &Snapshot, list: &List) -> (String, Option<String>) {
    let rows = list.rows.len();
    let totals = &snapshot.totals;
    let title = match id {
        ListId::Processes => {
            let span = match state.span {
                Span::Window => "latency over the window",
                Span::SinceStart => "latency since start",
            };
            let span = (!summary::is_blind(snapshot)).then_some(span);
            let notes: Vec<&str> = state.arrangement.name().into_iter().chain(span).collect();
            return (processes_title(state, snapshot), (!notes.is_empty()).then(|| notes.join(", ")));
        }
        ListId::InOut => {
            let off = Group::ALL.iter().enumerate().filter(|(_, group)| {
                !Group::DEFAULT.contains(group) && summary::group_state(&snapshot.capture, **group).is_off()
            });
            let off: Vec<String> = off.map(|(index, group)| format!("{} {}", index + 1, group.name())).collect();
            let notes = (!off.is_empty()).then(|| format!("off: {}", off.join("  ")));
            return (format!("{}: {rows} processes", id.name()), notes);
        }
        ListId::Requests => requests_title(snapshot),
        ListId::Workloads => format!("Workloads {rows} with model traffic or a GPU"),
        // Their parts have rows as well.
        ListId::Gpus => format!("GPUs {}", snapshot.gpus.len()),
        ListId::GpuUsers if matches!(state.page, Page::Of(_)) => format!("Processes on it {rows}"),
        ListId::Engines => format!("Inference servers {}", snapshot.engines.len()),
        ListId::Errors if summary::sees_traffic(snapshot) => {
            format!("Errors {} failed, {} given up", totals.failed_total, totals.abandoned_total)
        }
        ListId::Errors => id.name().to_owned(),
        ListId::Costs => probes::title(&snapshot.capture),
        ListId::Comparison => compare::title(state),
        _ => format!("{} {rows}", id.name()),
    };
    (title, None)
}

fn empty(id: ListId, state: &State, snapshot: &Snapshot) -> &'static str {
    let sees = summary::sees_traffic(snapshot);
    match id {
        ListId::Processes if state.show_idle => NO_SAMPLE,
        ListId::Processes => NO_PROCESS,
        ListId::Requests | ListId::Errors if !sees => NOTHING_SEEN,
        ListId::Requests | ListId::Models | ListId::Endpoints => NOTHING_YET,
        ListId::Workloads => NO_WORKLOAD,
        ListId::Gpus => NO_GPU,
        ListId::GpuUsers if matches!(state.page, Page::Of(_)) => NO_USER_OF_IT,
        ListId::GpuUsers => NO_GPU_USER,
        ListId::Engines => NO_ENGINE,
        ListId::Tools => NO_TOOL,
        ListId::InOut => NO_USE,
        ListId::Errors if snapshot.totals.failed_total + snapshot.totals.abandoned_total == 0 => NO_ERROR,
        ListId::Errors => NO_ENDPOINT,
        ListId::Comparison => NOT_COMPARED,
        ListId::Findings => NOTHING_FOUND,
        ListId::Costs | ListId::Places | ListId::Disks | ListId::LoadedModels | ListId::Failed | ListId::Its => "",
    }
}
