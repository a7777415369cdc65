//! All that the view depends on, and the one function that changes it.

mod typing;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use hbpf_core::exchange::Role;
use hbpf_core::snapshot::{Request, Snapshot};
use hbpf_host::protocol::Group;
use jiff::Timestamp;
use ratatui::layout::Position;

use self::typing::{Seek, add};
pub(crate) use self::typing::{Typed, Typing};
use super::compare::{self, Marked};
use super::draw;
use super::keys::{Command, Keymap};
use super::layout::{self, Areas};
use super::save::Document;
use super::settings::Settings;
use super::time::{History, Jump, Jumped, Source, Time};
use super::views::{self, ListId, Look, Page, Shown};
use crate::arrange::Arrangement;
use crate::list::Row;
use crate::over_time::Reach;
use crate::privacy::Privacy;
use crate::recording::Timeline;
use crate::rows::{self, ProcessRow, Span};
use crate::summary::{self, GroupState};

/// What lies over the page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Overlay {
    Help,
    /// Which columns the list with the keys shows, and in what order.
    Columns,
    /// What is to be handed on.
    Save,
    /// All that keys do, for those who look for it.
    Commands,
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
    /// Column and row of the screen.
    Click(u16, u16),
    SwitchFocus,
    /// Rows are to be picked: what is typed from now on says which.
    Filter,
    /// A row is to be found, and none hidden: what is typed from now on says which.
    Search,
    /// A time is to be typed, to be jumped to.
    AskTime,
    /// Marks what is selected, or compares it with what is marked.
    Compare,
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
    ToggleFindings,
    ToggleCharts,
    Arrange,
    Show(Overlay),
    /// Names of hosts, users and the like are made up, or real again.
    TogglePrivacy,
    /// What the user is to be told.
    Said(String),
}

/// What is to be done outside of the state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    None,
    Quit,
    /// Give the terminal back and stop until told to go on.
    Suspend,
    SetGroup(Group, bool),
    Save(Document),
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
            // Where several rows are of the same, it is the one that it was.
            let same = Some(self.row).filter(|row| keys.get(*row) == Some(selected));
            match same.or_else(|| keys.iter().position(|key| key == selected)) {
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
    pub(crate) keymap: Keymap,
    /// How it began.
    pub(super) settings: Settings,
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
    /// The pages that led here, each with its list that had the keys.
    behind: Vec<(Page, usize)>,
    pub(crate) overlay: Option<Overlay>,
    /// First line shown of what is longer than the screen, and no list.
    pub(crate) scroll: usize,
    /// Which of the page's lists has the keys.
    focus: usize,
    /// The column that is selected where columns are chosen.
    pub(crate) chosen: usize,
    /// By place in [`ListId::ALL`].
    looks: [Look; ListId::ALL.len()],
    /// The page's lists.
    pub(crate) shown: Vec<Shown>,
    /// Whether processes without model traffic are listed.
    pub(crate) show_idle: bool,
    /// How processes stand in their list.
    pub(crate) arrangement: Arrangement,
    pub(crate) span: Span,
    /// How much time charts show.
    pub(crate) reach: Reach,
    /// In the detail of a process with both roles: show the other one.
    pub(crate) other_role: bool,
    pub(crate) typing: Option<Typing>,
    /// What was looked for last.
    sought: String,
    /// What is compared with.
    pub(crate) marked: Option<Marked>,
    /// What is said of the last key, until the next.
    pub(crate) notice: Option<String>,
    /// Makes up names, while they are made up.
    pub(crate) privacy: Option<Privacy>,
    /// The shown frame with made-up names.
    masked: Option<(Timestamp, Arc<Snapshot>)>,
}

/// Where a choice goes among so many.
fn moved(at: usize, motion: Motion, count: usize) -> usize {
    let mut cursor = Cursor { row: at, ..Cursor::default() };
    cursor.move_by(motion, &(0..count).collect::<Vec<_>>(), layout::CHOICE_PAGE);
    cursor.row
}

impl State {
    pub(crate) fn new(source: Source, timeline: Arc<Mutex<Timeline>>, size: (u16, u16)) -> Self {
        let mut state = Self {
            size,
            keymap: Keymap::default(),
            settings: Settings::default(),
            source,
            time: Time::new(source, timeline),
            newest: None,
            ended: None,
            since_end: None,
            wanted: [None; Group::ALL.len()],
            // Processes are not told of.
            page: if source == Source::Fleet { Page::Workloads } else { Page::Main },
            behind: Vec::new(),
            overlay: None,
            scroll: 0,
            focus: 0,
            chosen: 0,
            looks: ListId::ALL.map(Look::usual),
            shown: Vec::new(),
            show_idle: true,
            arrangement: Arrangement::default(),
            span: Span::default(),
            reach: Reach::default(),
            other_role: false,
            typing: None,
            sought: String::new(),
            marked: None,
            notice: None,
            privacy: None,
            masked: None,
        };
        state.settle();
        state
    }

    /// How a list is looked at.
    pub(crate) fn look(&self, id: ListId) -> &Look {
        &self.looks[id as usize]
    }

    pub(super) fn look_mut(&mut self, id: ListId) -> &mut Look {
        &mut self.looks[id as usize]
    }

    /// The list that has the keys.
    pub(crate) fn focused(&self) -> Option<&Shown> {
        self.shown.get(self.focus).or(self.shown.last())
    }

    /// Whether that is this one.
    pub(crate) fn has_focus(&self, id: ListId) -> bool {
        self.focused().is_some_and(|shown| shown.id == id)
    }

    /// Whether keys are text.
    pub(crate) fn is_typing(&self) -> bool {
        self.typing.is_some()
    }

    fn jump(&mut self, jump: Jump) {
        self.notice = match self.time.jump(jump) {
            Jumped::Yes => None,
            Jumped::Nowhere => Some("nothing failed or was found there".to_owned()),
        };
    }

    /// Goes to where one came from: from an overlay to what lies under it, from some rows of a list to all, from a page to the one
    /// that led to it.
    fn back(&mut self) {
        self.scroll = 0;
        if self.overlay.take().is_some() {
            return;
        }
        if let Some(id) = self.focused().map(|shown| shown.id)
            && self.look_mut(id).filter.take().is_some()
        {
            return;
        }
        self.leave();
    }

    /// Goes to the page that led to this one.
    fn leave(&mut self) {
        (self.page, self.focus) =
            self.behind.pop().unwrap_or((Page::Main, if self.page == Page::Main { self.focus } else { 0 }));
    }

    /// Whether the collection has ended: its probes are gone.
    pub(crate) fn is_over(&self) -> bool {
        self.source.is_live() && self.ended.is_some()
    }

    /// What charts are drawn from.
    pub(crate) fn history(&self) -> History<'_> {
        self.time.history()
    }

    pub(crate) fn snapshot(&self) -> Option<&Snapshot> {
        match &self.masked {
            Some((_, masked)) => Some(masked),
            None => self.time.snapshot(),
        }
    }

    /// Has names made up as long as that is wanted.
    fn mask(&mut self) {
        let (Some(privacy), Some(snapshot)) = (&mut self.privacy, self.time.snapshot()) else {
            self.masked = None;
            return;
        };
        if self.masked.as_ref().is_none_or(|(of, _)| *of != snapshot.captured_at) {
            self.masked = Some((snapshot.captured_at, Arc::new(privacy.mask(snapshot))));
        }
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

    /// The pages that led here and this one, by their names, without the one that all begins with.
    pub(crate) fn trail(&self) -> Vec<String> {
        let behind = self.behind.iter().map(|(page, _)| page);
        behind.chain([&self.page]).filter(|page| **page != Page::Main).map(Page::name).collect()
    }

    /// Changes the state; what is to be done elsewhere is returned.
    pub(crate) fn apply(&mut self, action: Action) -> Effect {
        let mut effect = Effect::None;
        if !matches!(action, Action::News | Action::Elapsed(_) | Action::Clock(_)) {
            self.notice = None;
        }
        let action = match self.overlay {
            Some(Overlay::Commands) => match action {
                Action::Move(motion) => {
                    self.chosen = moved(self.chosen, motion, self.commands().len());
                    return Effect::None;
                }
                Action::Open => {
                    let action = self.commands().get(self.chosen).map(|command| command.action.clone());
                    let Some(action) = action else { return Effect::None };
                    self.give_up();
                    return self.apply(action);
                }
                other => other,
            },
            Some(Overlay::Save) => match action {
                Action::Move(motion) => {
                    self.chosen = moved(self.chosen, motion, Document::ALL.len());
                    return Effect::None;
                }
                Action::Open => {
                    self.overlay = None;
                    return Document::ALL.get(self.chosen).map_or(Effect::None, |document| Effect::Save(*document));
                }
                other => other,
            },
            Some(Overlay::Columns) => match self.choose(action) {
                Some(action) => action,
                None => {
                    self.settle();
                    return Effect::None;
                }
            },
            _ => action,
        };
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
            Action::Move(motion) if matches!(self.typing, Some(Typing { what: Typed::Search { .. }, .. })) => {
                self.seek(if motion == Motion::Up { Seek::Back } else { Seek::On })
            }
            Action::Move(motion) => self.move_selection(motion),
            Action::Click(x, y) => self.click(x, y),
            Action::SwitchFocus => self.focus = usize::from(self.focus == 0 && self.page.lists().len() > 1),
            Action::Filter => self.begin_typing(),
            Action::Search => self.begin_search(),
            Action::Compare => self.compare(),
            Action::AskTime if self.overlay.is_some() => {}
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
            Action::Back => self.back(),
            Action::SortRight => self.sort_by(true),
            Action::SortLeft => self.sort_by(false),
            Action::SortInvert => self.invert(),
            Action::ToggleSpan if self.page == Page::Charts => self.reach = self.reach.next(),
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
            Action::Arrange => self.arrangement = self.arrangement.next(),
            Action::ToggleCharts => self.toggle_page(Page::Charts),
            Action::ToggleFindings => self.toggle_page(Page::Findings),
            Action::TogglePrivacy => {
                self.privacy = if self.privacy.is_some() { None } else { Some(Privacy::default()) };
                self.masked = None;
                self.marked = None;
                self.sought.clear();
                // What led here, and what rows were picked by, has the other names.
                (self.page, self.focus) = (Page::Main, 0);
                self.behind.clear();
                for look in &mut self.looks {
                    look.filter = None;
                    look.cursor = Cursor::default();
                }
            }
            Action::Said(text) => self.notice = Some(text),
            Action::Show(Overlay::Columns) if self.focused().is_none() => {}
            Action::Show(overlay) => {
                self.chosen = 0;
                self.overlay = if self.overlay == Some(overlay) { None } else { Some(overlay) };
                self.scroll = 0;
                if self.overlay == Some(Overlay::Commands) {
                    self.typing = Some(Typing { text: String::new(), error: None, what: Typed::Command });
                }
            }
        }
        self.settle();
        effect
    }

    /// What is looked for among all that keys do.
    pub(crate) fn commands(&self) -> Vec<Command<'_>> {
        self.keymap.commands(self.typing.as_ref().map_or("", |typing| &typing.text))
    }

    /// The row that is selected of the list that has the keys.
    pub(crate) fn selected_row(&self) -> Option<&Row> {
        let shown = self.focused()?;
        shown.list.rows.get(self.look(shown.id).cursor.row)
    }

    /// Marks what is selected, or goes to where it stands beside what is marked.
    fn compare(&mut self) {
        if self.overlay.is_some() {
            return;
        }
        if matches!(self.page, Page::Compared(_)) {
            self.marked = None;
            return self.leave();
        }
        let Some(other) = compare::candidate(self) else {
            self.notice = Some("select what has had model traffic: a process, model, endpoint or workload".to_owned());
            return;
        };
        match &self.marked {
            Some(marked) if !marked.is_same(&other) => self.go_to(Page::Compared(other.subject)),
            _ => {
                self.notice = Some(other.said(&self.keymap));
                self.marked = Some(other);
            }
        }
    }

    /// The columns of the list that has the keys, those that are shown first, and how many these are.
    pub(crate) fn choice(&self) -> (Vec<&'static str>, usize) {
        let Some(shown) = self.focused() else { return (Vec::new(), 0) };
        let title = |index: usize| shown.list.columns[index].title;
        let others = (0..shown.list.columns.len()).filter(|index| !shown.wanted.contains(index));
        (shown.wanted.iter().copied().chain(others).map(title).collect(), shown.wanted.len())
    }

    /// Takes the keys while columns are chosen; gives back what is none of that.
    fn choose(&mut self, action: Action) -> Option<Action> {
        let (mut titles, shown) = self.choice();
        let at = self.chosen.min(titles.len().saturating_sub(1));
        let is_shown = at < shown;
        let (to, now_shown) = match action {
            Action::TogglePause if is_shown && shown > 1 => (shown - 1, shown - 1),
            Action::TogglePause if !is_shown && !titles.is_empty() => (shown, shown + 1),
            Action::SortLeft if is_shown && at > 0 => (at - 1, shown),
            Action::SortRight if at + 1 < shown => (at + 1, shown),
            Action::TogglePause | Action::SortLeft | Action::SortRight => return None,
            Action::SortInvert => {
                let id = self.focused()?.id;
                self.look_mut(id).columns = None;
                return None;
            }
            Action::Move(motion) => {
                self.chosen = moved(at, motion, titles.len());
                return None;
            }
            Action::Open => {
                self.overlay = None;
                return None;
            }
            other => return Some(other),
        };
        let title = titles.remove(at);
        titles.insert(to, title);
        titles.truncate(now_shown);
        let id = self.focused()?.id;
        self.look_mut(id).columns = Some(titles);
        if matches!(action, Action::SortLeft | Action::SortRight) {
            self.chosen = to;
        }
        None
    }

    fn toggle_page(&mut self, page: Page) {
        // What lies under an overlay is not seen, so that nobody asks to leave it.
        let is_seen = self.overlay.take().is_none();
        let is_left = is_seen && self.page == page;
        let first = self.behind.first().map_or(self.focus, |(_, focus)| *focus);
        self.behind = if is_left { Vec::new() } else { vec![(Page::Main, first)] };
        (self.page, self.focus) = if is_left { (Page::Main, first) } else { (page, 0) };
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
        if matches!(self.source, Source::Remote | Source::Fleet) {
            self.notice = Some("the agents decide what is probed".to_owned());
        }
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
        let focused = self.focused().map(|shown| (shown.id, shown.keys()));
        let Some((id, keys)) = focused.filter(|_| self.overlay.is_none()) else {
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
        };
        let height = self.areas().rows(self.shown.iter().position(|shown| shown.id == id).unwrap_or(0));
        self.look_mut(id).cursor.move_by(motion, &keys, height);
    }

    /// Selects the row there, or opens it where it is selected already; sorts by the column whose name is there, or inverts the
    /// order where it is sorted by that already.
    fn click(&mut self, x: u16, y: u16) {
        let areas = self.areas();
        let at = Position::new(x, y);
        let place = areas.lists.iter().take(self.shown.len()).position(|area| area.contains(at));
        let Some(place) = place.filter(|_| self.overlay.is_none()) else { return };
        let (area, shown) = (areas.lists[place], &self.shown[place]);
        let (id, line) = (shown.id, y - area.y);
        let was_focused = self.has_focus(id);
        self.focus = place;
        let Some(row) = line.checked_sub(layout::TABLE_HEAD) else {
            let column = shown.placed(area.width).into_iter().find(|placed| {
                (placed.x..placed.x + placed.width).contains(&usize::from(x - area.x)) && line + 1 == layout::TABLE_HEAD
            });
            if let Some(index) = column.map(|placed| placed.index) {
                let column = shown.list.columns[index];
                let descending = match shown.sorted {
                    Some((sorted, descending)) if sorted == index => !descending,
                    _ => views::descends(&column),
                };
                self.look_mut(id).sort = Some((column.title, descending));
            }
            return;
        };
        let row = self.look(id).cursor.top + usize::from(row);
        let Some(key) = shown.list.rows.get(row).map(|row| row.key.clone()) else { return };
        let cursor = &mut self.look_mut(id).cursor;
        let was_selected = was_focused && cursor.row == row;
        *cursor = Cursor { selected: Some(key), row, top: cursor.top };
        if was_selected {
            self.open();
        }
    }

    /// Goes to what the selected row leads to.
    fn open(&mut self) {
        if self.overlay.is_some() {
            return;
        }
        let Some(key) = self.selected_row().and_then(|row| row.opens.clone()) else { return };
        self.go_to(Page::Of(key));
    }

    /// Goes to a page from which one comes back to this one.
    fn go_to(&mut self, page: Page) {
        self.behind.push((std::mem::replace(&mut self.page, page), self.focus));
        self.focus = 0;
        self.scroll = 0;
        self.other_role = false;
        // Of another thing they were other rows.
        for id in [ListId::Its, ListId::GpuUsers, ListId::Comparison] {
            if self.page.lists().contains(&id) {
                let look = self.look_mut(id);
                (look.cursor, look.filter) = (Cursor::default(), None);
            }
        }
    }

    /// Moves the order to the next column that is shown, around the end.
    fn sort_by(&mut self, is_right: bool) {
        let width = self.size.0;
        let Some(shown) = self.focused() else { return };
        let placed: Vec<usize> = shown.placed(width).iter().map(|placed| placed.index).collect();
        let at = shown.sorted.and_then(|(sorted, _)| placed.iter().position(|index| *index == sorted));
        let next = match (at, is_right) {
            (None, true) => 0,
            (None, false) => placed.len().saturating_sub(1),
            (Some(at), true) => (at + 1) % placed.len(),
            (Some(at), false) => at.checked_sub(1).unwrap_or(placed.len() - 1),
        };
        let Some(column) = placed.get(next).map(|index| shown.list.columns[*index]) else { return };
        let id = shown.id;
        self.look_mut(id).sort = Some((column.title, views::descends(&column)));
    }

    fn invert(&mut self) {
        let Some(shown) = self.focused() else { return };
        let Some((column, descending)) = shown.sorted else { return };
        let (id, title) = (shown.id, shown.list.columns[column].title);
        self.look_mut(id).sort = Some((title, !descending));
    }

    /// Where everything stands on the page.
    pub(crate) fn areas(&self) -> Areas {
        let body = layout::page(self.size, super::header::height(self)).body;
        layout::areas(body, self)
    }

    /// The place of the list that has the keys among those of the page.
    pub(crate) fn focused_place(&self) -> usize {
        self.focus.min(self.shown.len().saturating_sub(1))
    }

    /// Brings what follows from the rest up to date: order of rows, places of the selections.
    fn settle(&mut self) {
        self.time.look();
        self.mask();
        self.shown = views::of_page(self);
        self.scroll = self.scroll.min(draw::scroll_limit(self));
        let areas = self.areas();
        for place in 0..self.shown.len() {
            let (id, keys) = (self.shown[place].id, self.shown[place].keys());
            self.look_mut(id).cursor.settle(&keys, areas.rows(place));
        }
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
