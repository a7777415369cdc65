//! All that the view depends on, and the one function that changes it.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use hbpf_core::exchange::Role;
use hbpf_core::label::Label;
use hbpf_core::snapshot::{Request, Snapshot};
use hbpf_host::protocol::Group;
use jiff::Timestamp;

use super::draw;
use super::layout::{self, MainAreas};
use super::time::{History, Jump, Jumped, Source, Time};
use super::when;
use crate::filter::{Filter, FilterError};
use crate::recording::Timeline;
use crate::rows::{self, Identity, Picked, ProcessColumn, ProcessRow, Span};
use crate::summary::{self, GroupState};

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
    Process(Identity),
    Request(Label),
}

/// What lies over the page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Overlay {
    Help,
    Problems,
}

/// Which table has the keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Focus {
    Processes,
    Requests,
}

/// A move of the selection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Motion {
    Up,
    Down,
    PageUp,
    PageDown,
    Home,
    End,
}

/// What can happen.
#[derive(Clone, Debug)]
pub(crate) enum Action {
    /// There are new frames.
    News,
    /// Nothing more will come, and why.
    Ended(String),
    /// Time has passed while a recording plays.
    Elapsed(Duration),
    /// What time it is, once nothing newer comes that would tell.
    Clock(Timestamp),
    Resize(u16, u16),
    Quit,
    Suspend,
    TogglePause,
    Jump(Jump),
    /// Plays faster or slower, by a power of two.
    Speed(i32),
    /// By place in [`Group::ALL`].
    ToggleGroup(usize),
    Move(Motion),
    SwitchFocus,
    /// Rows are to be picked: what is typed from now on says which.
    Filter,
    /// A time is to be typed, to be jumped to.
    AskTime,
    Typed(char),
    Pasted(String),
    Erase,
    EraseAll,
    Open,
    Back,
    SortRight,
    SortLeft,
    SortInvert,
    ToggleSpan,
    ToggleRole,
    ToggleIdle,
    ToggleModels,
    ToggleWorkloads,
    ToggleGpus,
    ToggleEngines,
    ToggleErrors,
    ToggleTools,
    ToggleInOut,
    ToggleProbes,
    Show(Overlay),
}

/// What is to be done outside of the state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    None,
    Quit,
    /// Give the terminal back and stop until told to go on.
    Suspend,
    SetGroup(Group, bool),
}

/// A selection that follows its row, and the first row shown.
#[derive(Clone, Debug)]
pub(crate) struct Cursor<K> {
    /// None: the top row, whichever that is.
    pub(crate) selected: Option<K>,
    /// Row of the selection.
    pub(crate) row: usize,
    /// First row shown.
    pub(crate) top: usize,
}

impl<K> Default for Cursor<K> {
    fn default() -> Self {
        Self { selected: None, row: 0, top: 0 }
    }
}

impl<K: Clone + PartialEq> Cursor<K> {
    fn move_by(&mut self, motion: Motion, keys: &[K], page: usize) {
        let last = keys.len().saturating_sub(1);
        let page = page.max(1);
        let row = match motion {
            Motion::Up => self.row.saturating_sub(1),
            Motion::Down => self.row.saturating_add(1),
            Motion::PageUp => self.row.saturating_sub(page),
            Motion::PageDown => self.row.saturating_add(page),
            Motion::Home => 0,
            Motion::End => last,
        };
        self.row = row.min(last);
        // At the top the selection stays at the top, as before the first move.
        self.selected = if motion == Motion::Home { None } else { keys.get(self.row).cloned() };
    }

    /// Finds the selection in its new place and scrolls it into view. A selected row that is gone leaves the
    /// selection where it was.
    fn settle(&mut self, keys: &[K], height: usize) {
        if let Some(selected) = &self.selected {
            match keys.iter().position(|key| key == selected) {
                Some(row) => self.row = row,
                None => {
                    self.row = self.row.min(keys.len().saturating_sub(1));
                    self.selected = keys.get(self.row).cloned();
                }
            }
        } else {
            self.row = 0;
        }
        self.top = self.top.min(self.row).max((self.row + 1).saturating_sub(height.max(1)));
        self.top = self.top.min(keys.len().saturating_sub(height));
    }
}

/// The state of the view.
pub(crate) struct State {
    pub(crate) size: (u16, u16),
    pub(crate) source: Source,
    pub(crate) time: Time,
    /// The newest frame.
    newest: Option<Arc<Snapshot>>,
    /// Why nothing more will come.
    pub(crate) ended: Option<String>,
    /// When that was first looked at, and when last.
    since_end: Option<(Timestamp, Timestamp)>,
    /// Group switches whose effect no snapshot has shown yet.
    pub(crate) wanted: [Option<bool>; Group::ALL.len()],
    pub(crate) page: Page,
    pub(crate) overlay: Option<Overlay>,
    /// First line shown of what is longer than the screen: overlays and the lists of a page.
    pub(crate) scroll: usize,
    pub(crate) focus: Focus,
    pub(crate) sort: ProcessColumn,
    pub(crate) descending: bool,
    /// Whether processes without model traffic are listed.
    pub(crate) show_idle: bool,
    pub(crate) span: Span,
    /// In the detail of a process with both roles: show the other one.
    pub(crate) other_role: bool,
    /// The shown processes: indices into the snapshot's, in order.
    pub(crate) order: Vec<usize>,
    pub(crate) processes: Cursor<Identity>,
    pub(crate) requests: Cursor<Label>,
    /// By place in [`Focus`]: which rows are shown of a table.
    filters: [Option<Filter>; 2],
    pub(crate) typing: Option<Typing>,
    /// What is said of the last key, until the next.
    pub(crate) notice: Option<&'static str>,
}

/// What is typed.
#[derive(Clone, Debug)]
pub(crate) struct Typing {
    pub(crate) text: String,
    pub(crate) error: Option<FilterError>,
    pub(crate) what: Typed,
}

#[derive(Clone, Debug)]
pub(crate) enum Typed {
    /// Which rows are shown. What of it can be read holds already.
    Filter {
        before: Option<Filter>,
        /// The selections.
        cursors: (Cursor<Identity>, Cursor<Label>),
    },
    /// A time to jump to.
    Time,
}

/// Most characters that are typed.
const MAX_TYPED: usize = 200;

fn add(text: &mut String, typed: impl Iterator<Item = char>) {
    let room = MAX_TYPED.saturating_sub(text.chars().count());
    text.extend(typed.filter(|c| !c.is_control()).take(room));
}

impl State {
    pub(crate) fn new(source: Source, timeline: Arc<Mutex<Timeline>>, size: (u16, u16)) -> Self {
        Self {
            size,
            source,
            time: Time::new(source, timeline),
            newest: None,
            ended: None,
            since_end: None,
            wanted: [None; Group::ALL.len()],
            page: Page::Main,
            overlay: None,
            scroll: 0,
            focus: Focus::Processes,
            sort: ProcessColumn::OutputRate,
            descending: ProcessColumn::OutputRate.descends_by_default(),
            show_idle: true,
            span: Span::default(),
            other_role: false,
            order: Vec::new(),
            processes: Cursor::default(),
            requests: Cursor::default(),
            filters: [None, None],
            typing: None,
            notice: None,
        }
    }

    /// What the rows of a table are picked by.
    pub(crate) fn filter(&self, of: Focus) -> Option<&Filter> {
        self.filters[of as usize].as_ref()
    }

    /// Whether keys are text.
    pub(crate) fn is_typing(&self) -> bool {
        self.typing.is_some()
    }

    fn begin_typing(&mut self) {
        if self.overlay.is_none() && self.page == Page::Main {
            let before = self.filter(self.focus).cloned();
            let text = before.as_ref().map(Filter::to_string).unwrap_or_default();
            let cursors = (self.processes.clone(), self.requests.clone());
            self.typing = Some(Typing { text, error: None, what: Typed::Filter { before, cursors } });
        }
    }

    fn edit(&mut self, change: impl FnOnce(&mut String)) {
        let Some(typing) = &mut self.typing else { return };
        change(&mut typing.text);
        typing.error = None;
        if matches!(typing.what, Typed::Time) {
            return;
        }
        let fields = match self.focus {
            Focus::Processes => rows::PROCESS_FIELDS,
            Focus::Requests => rows::REQUEST_FIELDS,
        };
        match Filter::parse(&typing.text, fields) {
            Ok(filter) => self.filters[self.focus as usize] = filter,
            Err(error) => typing.error = Some(error),
        }
    }

    /// What cannot be read stays to be mended.
    fn accept(&mut self) {
        let Some(typing) = self.typing.take_if(|typing| typing.error.is_none()) else { return };
        if let (Typed::Time, Some(extent)) = (&typing.what, self.time.extent()) {
            match when::parse(&typing.text, extent) {
                Ok(jump) => self.jump(jump),
                Err(what) => self.typing = Some(Typing { error: Some(FilterError { at: 0, what }), ..typing }),
            }
        }
    }

    fn jump(&mut self, jump: Jump) {
        self.notice = match self.time.jump(jump) {
            Jumped::Yes => None,
            Jumped::Nowhere => Some("nothing failed or was found there"),
        };
    }

    /// Takes back what was typed, or, where nothing is, the filter.
    fn give_up(&mut self) {
        match self.typing.take().map(|typing| typing.what) {
            None => self.filters[self.focus as usize] = None,
            Some(Typed::Filter { before, cursors }) => {
                self.filters[self.focus as usize] = before;
                (self.processes, self.requests) = cursors;
            }
            Some(Typed::Time) => {}
        }
    }

    /// Whether the collection has ended: its probes are gone.
    pub(crate) fn is_over(&self) -> bool {
        self.source == Source::Live && self.ended.is_some()
    }

    /// What charts are drawn from.
    pub(crate) fn history(&self) -> History<'_> {
        self.time.history()
    }

    pub(crate) fn snapshot(&self) -> Option<&Snapshot> {
        self.time.snapshot()
    }

    /// How long ago the collection ended.
    pub(crate) fn ended_seconds(&self) -> Option<f64> {
        self.since_end.map(|(end, now)| seconds_between(end, now))
    }

    /// How old the frame is at which the view was frozen; None while it is the newest that comes.
    pub(crate) fn frozen_seconds(&self) -> Option<f64> {
        let (Some(shown), Some(newest), true) = (self.snapshot(), &self.newest, self.time.is_frozen()) else {
            return None;
        };
        // The newest frame is of now, until there are no more of them: then it is all that could be frozen.
        if self.is_over() && shown.captured_at == newest.captured_at {
            return None;
        }
        let now = self.since_end.map_or(newest.captured_at, |(_, now)| now);
        Some(seconds_between(shown.captured_at, now))
    }

    /// All requests: in flight, then ended ones.
    pub(crate) fn all_requests(&self) -> impl Iterator<Item = &Request> {
        let requests = self.snapshot().map(|snapshot| &snapshot.requests);
        requests.into_iter().flat_map(|requests| requests.in_flight.iter().chain(&requests.recent))
    }

    /// The request with that id, wherever it is listed.
    pub(crate) fn request(&self, id: &str) -> Option<&Request> {
        let failed = self.snapshot().into_iter().flat_map(|snapshot| &snapshot.requests.failed);
        self.all_requests().chain(failed).find(|request| request.id == id)
    }

    /// Those that the filter picks, in the order of their table.
    pub(crate) fn requests(&self) -> impl Iterator<Item = &Request> {
        let all = self.all_requests();
        let filter = self.filter(Focus::Requests);
        all.filter(move |request| filter.is_none_or(|filter| filter.picks(*request)))
    }

    /// Changes the state; what is to be done elsewhere is returned.
    pub(crate) fn apply(&mut self, action: Action) -> Effect {
        let mut effect = Effect::None;
        if !matches!(action, Action::News | Action::Elapsed(_) | Action::Clock(_)) {
            self.notice = None;
        }
        match action {
            Action::News => self.take_news(),
            Action::Ended(why) => self.ended = Some(why),
            Action::Elapsed(time) => self.time.elapsed(time),
            Action::Clock(now) => self.since_end = Some((self.since_end.map_or(now, |(end, _)| end), now)),
            Action::Resize(width, height) => self.size = (width, height),
            Action::Quit => return Effect::Quit,
            Action::Suspend => return Effect::Suspend,
            Action::TogglePause => self.time.toggle(),
            Action::Jump(jump) => self.jump(jump),
            Action::Speed(by) => self.time.change_speed(by),
            Action::ToggleGroup(index) => effect = self.toggle_group(index),
            Action::Move(motion) => self.move_selection(motion),
            Action::SwitchFocus => {
                self.focus = match self.focus {
                    Focus::Processes => Focus::Requests,
                    Focus::Requests => Focus::Processes,
                };
            }
            Action::Filter => self.begin_typing(),
            Action::AskTime => self.typing = Some(Typing { text: String::new(), error: None, what: Typed::Time }),
            Action::Typed(typed) => self.edit(|text| add(text, std::iter::once(typed))),
            Action::Pasted(pasted) => self.edit(|text| add(text, pasted.chars())),
            Action::Erase => self.edit(|text| {
                text.pop();
            }),
            Action::EraseAll => self.edit(String::clear),
            Action::Open if self.is_typing() => self.accept(),
            Action::Open => self.open(),
            Action::Back if self.is_typing() => self.give_up(),
            Action::Back => {
                if self.overlay.take().is_none() && std::mem::replace(&mut self.page, Page::Main) == Page::Main {
                    self.give_up();
                }
                self.scroll = 0;
            }
            Action::SortRight => self.sort_by(1),
            Action::SortLeft => self.sort_by(ProcessColumn::ALL.len() - 1),
            Action::SortInvert => {
                let (column, descending) = self.order_by();
                (self.sort, self.descending) = (column, !descending);
            }
            Action::ToggleSpan => self.span = self.span.other(),
            Action::ToggleRole => self.other_role = !self.other_role,
            Action::ToggleIdle => self.show_idle = !self.show_idle,
            Action::ToggleModels => self.toggle_page(Page::Models),
            Action::ToggleWorkloads => self.toggle_page(Page::Workloads),
            Action::ToggleEngines => self.toggle_page(Page::Engines),
            Action::ToggleErrors => self.toggle_page(Page::Errors),
            Action::ToggleTools => self.toggle_page(Page::Tools),
            Action::ToggleInOut => self.toggle_page(Page::InOut),
            Action::ToggleGpus => self.toggle_page(Page::Gpus),
            Action::ToggleProbes => self.toggle_page(Page::Probes),
            Action::Show(overlay) => {
                self.overlay = if self.overlay == Some(overlay) { None } else { Some(overlay) };
                self.scroll = 0;
            }
        }
        self.settle();
        effect
    }

    fn toggle_page(&mut self, page: Page) {
        // What lies under an overlay is not seen, so that nobody asks to leave it.
        let is_seen = self.overlay.take().is_none();
        self.page = if is_seen && self.page == page { Page::Main } else { page };
        self.scroll = 0;
    }

    fn take_news(&mut self) {
        let newest = self.time.timeline().newest();
        let Some(snapshot) = newest else { return };
        for (group, wanted) in Group::ALL.into_iter().zip(&mut self.wanted) {
            // A failed attempt has been answered as well.
            let settled = match summary::group_state(&snapshot.capture, group) {
                GroupState::On { .. } => *wanted == Some(true),
                GroupState::Off => *wanted == Some(false),
                GroupState::Partial { .. } | GroupState::Failed => true,
                GroupState::Waiting => false,
            };
            if settled {
                *wanted = None;
            }
        }
        self.newest = Some(snapshot);
    }

    fn toggle_group(&mut self, index: usize) -> Effect {
        let Some(&group) = Group::ALL.get(index) else { return Effect::None };
        if self.source != Source::Live || self.is_over() {
            return Effect::None;
        }
        // Toggled is the newest state, also while an older one is shown.
        let capture = self.newest.as_deref().map(|snapshot| summary::group_state(&snapshot.capture, group));
        let is_on = matches!(capture, Some(GroupState::On { .. } | GroupState::Partial { .. }));
        let on = !self.wanted[index].unwrap_or(is_on);
        self.wanted[index] = Some(on);
        Effect::SetGroup(group, on)
    }

    fn move_selection(&mut self, motion: Motion) {
        if self.overlay.is_some() || self.page != Page::Main {
            let page = usize::from(self.size.1).saturating_sub(layout::PAGE_OVERLAP).max(1);
            self.scroll = match motion {
                Motion::Up => self.scroll.saturating_sub(1),
                Motion::Down => self.scroll.saturating_add(1),
                Motion::PageUp => self.scroll.saturating_sub(page),
                Motion::PageDown => self.scroll.saturating_add(page),
                Motion::Home => 0,
                Motion::End => usize::MAX,
            };
            return;
        }
        let areas = self.main_areas();
        match self.focus {
            Focus::Processes => {
                let keys = self.process_keys();
                self.processes.move_by(motion, &keys, areas.process_rows());
            }
            Focus::Requests => {
                let keys = self.request_keys();
                self.requests.move_by(motion, &keys, areas.request_rows());
            }
        }
    }

    fn open(&mut self) {
        if self.overlay.is_some() || self.page != Page::Main {
            return;
        }
        let page = match self.focus {
            Focus::Processes => self.process_keys().get(self.processes.row).copied().map(Page::Process),
            Focus::Requests => self.request_keys().get(self.requests.row).cloned().map(Page::Request),
        };
        if let Some(page) = page {
            self.page = page;
            self.scroll = 0;
            self.other_role = false;
        }
    }

    /// Moves the sort column by `steps` to the right, around the end, among the columns that are shown.
    fn sort_by(&mut self, steps: usize) {
        let shown =
            layout::process_columns(usize::from(self.size.0), &ProcessColumn::of(self.snapshot(), self.is_blind()));
        let shown: Vec<ProcessColumn> = shown.iter().map(|placed| ProcessColumn::ALL[placed.index]).collect();
        let position = shown.iter().position(|column| *column == self.order_by().0).unwrap_or(0);
        // Backwards is forwards all but one way around.
        let steps = if steps == 1 { 1 } else { shown.len().saturating_sub(1) };
        if let Some(column) = shown.get((position + steps) % shown.len().max(1)) {
            self.sort = *column;
            self.descending = column.descends_by_default();
        }
    }

    pub(crate) fn is_blind(&self) -> bool {
        self.snapshot().is_some_and(summary::is_blind)
    }

    /// The column that orders the processes, and whether from the largest down. By traffic that cannot be seen nothing
    /// can be ordered.
    pub(crate) fn order_by(&self) -> (ProcessColumn, bool) {
        if self.is_blind() && !self.sort.is_of_machine() {
            (ProcessColumn::Cpu, true)
        } else {
            (self.sort, self.descending)
        }
    }

    pub(crate) fn main_areas(&self) -> MainAreas {
        layout::main(layout::page(self.size, super::header::height(self)).body, self.focus)
    }

    fn process_keys(&self) -> Vec<Identity> {
        let Some(snapshot) = self.snapshot() else { return Vec::new() };
        self.order.iter().filter_map(|&i| snapshot.processes.get(i)).map(rows::identity).collect()
    }

    fn request_keys(&self) -> Vec<Label> {
        self.requests().map(|request| request.id.clone()).collect()
    }

    /// Brings what follows from the rest up to date: order of rows, places of the selections.
    fn settle(&mut self) {
        self.time.look();
        self.order = match self.snapshot() {
            None => Vec::new(),
            Some(snapshot) => {
                let mut all = ProcessRow::all(snapshot);
                all.retain(|row| self.show_idle || row.matters());
                if let Some(filter) = self.filter(Focus::Processes) {
                    all.retain(|row| filter.picks(&Picked(row, self.span)));
                }
                let (column, descending) = self.order_by();
                rows::sort(&mut all, column, descending, self.span);
                all.iter().map(|row| row.index).collect()
            }
        };
        self.scroll = self.scroll.min(draw::scroll_limit(self));
        let areas = self.main_areas();
        let keys = self.process_keys();
        self.processes.settle(&keys, areas.process_rows());
        let keys = self.request_keys();
        self.requests.settle(&keys, areas.request_rows());
    }

    /// The role shown of a process: the busier, or the other where the user asked for it.
    pub(crate) fn shown_role(&self, row: &ProcessRow<'_>) -> Option<Role> {
        let other = match row.role? {
            Role::Client => Role::Server,
            Role::Server => Role::Client,
        };
        let has_other = rows::stats(row.process, other).is_some();
        if self.other_role && has_other { Some(other) } else { row.role }
    }
}

/// None are negative: the clock may have been set back.
fn seconds_between(earlier: Timestamp, later: Timestamp) -> f64 {
    later.duration_since(earlier).as_secs_f64().max(0.0)
}
