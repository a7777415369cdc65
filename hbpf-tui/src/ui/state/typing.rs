//! What is typed: a filter, what is sought, a time, a command.

use super::{Cursor, State};
use crate::filter::{Filter, FilterError};
use crate::list::Key;
use crate::ui::time::Jump;
use crate::ui::views::{ListId, Look};
use crate::when::{self, When};

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
        list: ListId,
        /// How the list was looked at.
        before: Box<Look>,
    },
    /// Which row is selected.
    Search {
        list: ListId,
        /// The selection before.
        before: Box<Cursor<Key>>,
    },
    /// A time to jump to.
    Time,
    /// What is looked for among all that keys do.
    Command,
}

/// Which of the rows that fit is selected.
#[derive(Clone, Copy)]
pub(super) enum Seek {
    /// The first from where the search began.
    FromHere,
    On,
    Back,
}

/// Most characters that are typed.
const MAX_TYPED: usize = 200;

pub(super) fn add(text: &mut String, typed: impl Iterator<Item = char>) {
    let room = MAX_TYPED.saturating_sub(text.chars().count());
    text.extend(typed.filter(|c| !c.is_control()).take(room));
}

impl State {
    pub(super) fn begin_typing(&mut self) {
        let Some(list) = self.focused().map(|shown| shown.id).filter(|_| self.overlay.is_none()) else { return };
        let before = Box::new(self.look(list).clone());
        let text = before.filter.as_ref().map(Filter::to_string).unwrap_or_default();
        self.typing = Some(Typing { text, error: None, what: Typed::Filter { list, before } });
    }

    pub(super) fn begin_search(&mut self) {
        let Some(list) = self.focused().map(|shown| shown.id).filter(|_| self.overlay.is_none()) else { return };
        let before = Box::new(self.look(list).cursor.clone());
        self.typing = Some(Typing { text: self.sought.clone(), error: None, what: Typed::Search { list, before } });
        self.seek(Seek::FromHere);
    }

    pub(super) fn edit(&mut self, change: impl FnOnce(&mut String)) {
        let Some(typing) = &mut self.typing else { return };
        change(&mut typing.text);
        typing.error = None;
        match typing.what {
            Typed::Filter { list, .. } => match self.read_filter(list) {
                Ok(filter) => self.looks[list as usize].filter = filter,
                Err(error) => self.complain(error),
            },
            Typed::Search { .. } => self.seek(Seek::FromHere),
            Typed::Command => self.chosen = 0,
            Typed::Time => {}
        }
    }

    /// What is typed, as a filter of a list.
    fn read_filter(&self, list: ListId) -> Result<Option<Filter>, FilterError> {
        let fields = self.shown.iter().find(|shown| shown.id == list).map(|shown| shown.list.fields());
        let text = self.typing.as_ref().map_or("", |typing| &typing.text);
        Filter::parse(text, &fields.unwrap_or_default())
    }

    /// Says what is wrong with what is typed.
    fn complain(&mut self, error: FilterError) {
        if let Some(typing) = &mut self.typing {
            typing.error = Some(error);
        }
    }

    /// Selects the next row that fits what is typed, around the end.
    pub(super) fn seek(&mut self, seek: Seek) {
        let Some(Typing { text, what: Typed::Search { list, before }, .. }) = &self.typing else { return };
        let (list, begins_at, text) = (*list, before.row, text.clone());
        self.sought = text;
        let Some(shown) = self.shown.iter().find(|shown| shown.id == list) else { return };
        let filter = match self.read_filter(list) {
            Ok(Some(filter)) => filter,
            Ok(None) => return,
            Err(error) => return self.complain(error),
        };
        let fits = shown.list.fitting(&filter);
        let row = self.look(list).cursor.row;
        let found = match seek {
            Seek::FromHere => fits.iter().find(|at| **at >= begins_at).or(fits.first()),
            Seek::On => fits.iter().find(|at| **at > row).or(fits.first()),
            Seek::Back => fits.iter().rfind(|at| **at < row).or(fits.last()),
        };
        match found.map(|row| (*row, shown.list.rows[*row].key.clone())) {
            Some((row, key)) => {
                let cursor = &mut self.look_mut(list).cursor;
                (cursor.row, cursor.selected) = (row, Some(key));
                if let Some(typing) = &mut self.typing {
                    typing.error = None;
                }
            }
            None => self.complain(FilterError { at: 0, what: "no row fits that".to_owned() }),
        }
    }

    /// What cannot be read stays to be mended.
    pub(super) fn accept(&mut self) {
        let Some(typing) = self.typing.take_if(|typing| typing.error.is_none()) else { return };
        if let (Typed::Time, Some(extent)) = (&typing.what, self.time.extent()) {
            match when::parse(&typing.text, extent) {
                Ok(When::At(time)) => self.jump(Jump::To(time)),
                Ok(When::By(time)) => self.jump(Jump::By(time)),
                Ok(When::Part(part)) => self.jump(Jump::Part(part)),
                Err(what) => self.typing = Some(Typing { error: Some(FilterError { at: 0, what }), ..typing }),
            }
        }
    }

    /// Takes back what was typed.
    pub(super) fn give_up(&mut self) {
        match self.typing.take().map(|typing| typing.what) {
            Some(Typed::Filter { list, before }) => *self.look_mut(list) = *before,
            Some(Typed::Search { list, before }) => self.look_mut(list).cursor = *before,
            Some(Typed::Command) => self.overlay = None,
            Some(Typed::Time) | None => {}
        }
    }
}
