//! How the user wants the view to begin, and how it was left.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use anyhow::Context as _;
use hbpf_core::snapshot::Snapshot;
use serde::{Deserialize, Serialize};

use super::keys::{Keymap, Keys};
use super::state::State;
use super::theme::{Environment, Palette};
use super::time::Source;
use super::views::{self, ListId, Look};
use crate::format::Units;
use crate::recording::{Keep, Timeline};
use crate::table::Column;

/// From options and the configuration file.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Settings {
    /// Colours.
    pub(crate) theme: Palette,
    /// Only characters that every terminal has, whatever its locale says.
    pub(crate) ascii: bool,
    /// What sizes are counted in.
    pub(crate) units: Units,
    /// Processes without model traffic are not listed.
    pub(crate) hide_idle: bool,
    /// Names of hosts, users and command lines are made up.
    pub(crate) made_up_names: bool,
    /// Whether clicks are taken; without, only where the view does not run over SSH.
    #[serde(skip_serializing_if = "Option::is_none")]
    mouse: Option<bool>,
    /// Keys for what they do, in place of the usual ones.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    keys: BTreeMap<String, Keys>,
    /// How lists are looked at, by their names.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    lists: BTreeMap<String, ListSettings>,
}

/// How a list is looked at.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct ListSettings {
    /// Titles of the columns that are shown, in their order.
    #[serde(skip_serializing_if = "Option::is_none")]
    columns: Option<Vec<String>>,
    /// The column by which it is sorted; with a `-` in front, from the largest down.
    #[serde(skip_serializing_if = "Option::is_none")]
    sort: Option<String>,
}

impl ListSettings {
    fn of(look: &Look) -> Self {
        Self {
            columns: look.columns.as_ref().map(|titles| titles.iter().map(|title| (*title).to_owned()).collect()),
            sort: look.sort.map(|(title, descending)| format!("{}{title}", if descending { "-" } else { "" })),
        }
    }

    /// How a list of these columns is looked at that is looked at in some way to begin with.
    fn look(&self, name: &str, columns: &[Column], usual: &Look) -> Result<Look, String> {
        let find = |wanted: &str| {
            let titles = || columns.iter().map(|column| column.title);
            titles().find(|title| title.eq_ignore_ascii_case(wanted)).ok_or_else(|| {
                let all = titles().map(|title| format!("{title:?}")).collect::<Vec<_>>().join(" ");
                format!("lists.{name}: there is no column {wanted:?}; there are {all}")
            })
        };
        let mut look = usual.clone();
        if let Some(wanted) = &self.columns {
            let mut titles = Vec::new();
            for wanted in wanted {
                let title = find(wanted)?;
                if titles.contains(&title) {
                    return Err(format!("lists.{name}: column {title:?} is there twice"));
                }
                titles.push(title);
            }
            if titles.is_empty() {
                return Err(format!("lists.{name}: columns needs one at least"));
            }
            look.columns = Some(titles);
        }
        if let Some(sort) = &self.sort {
            let (wanted, descending) = sort.strip_prefix('-').map_or((sort.as_str(), false), |rest| (rest, true));
            look.sort = Some((find(wanted)?, descending));
        }
        Ok(look)
    }
}

impl Settings {
    /// Over SSH the terminal's own marking of text is what people miss when it is gone.
    pub(super) fn has_mouse(&self, is_set: impl Fn(&str) -> bool) -> bool {
        self.mouse.unwrap_or_else(|| !["SSH_CONNECTION", "SSH_TTY", "SSH_CLIENT"].into_iter().any(is_set))
    }

    pub(super) fn environment(&self, environment: Environment) -> Environment {
        Environment { palette: self.theme, utf8: environment.utf8 && !self.ascii, ..environment }
    }

    /// Looks for mistakes.
    ///
    /// # Errors
    ///
    /// The first, in one line.
    pub(crate) fn check(&self) -> anyhow::Result<()> {
        let timeline = Timeline::new(Keep::WATCHED).context("cannot begin")?;
        let mut state = State::new(Source::Replay, Arc::new(Mutex::new(timeline)), (0, 0));
        self.apply(&mut state).map_err(anyhow::Error::msg)
    }

    /// Has a view begin so.
    ///
    /// # Errors
    ///
    /// What is wrong with them, in one line.
    pub(super) fn apply(&self, state: &mut State) -> Result<(), String> {
        state.keymap = Keymap::new(&self.keys)?;
        let nothing = Snapshot::default();
        for (name, settings) in &self.lists {
            let Some(id) = ListId::ALL.into_iter().find(|id| id.field() == *name) else {
                let names: Vec<String> = ListId::ALL.into_iter().map(ListId::field).collect();
                return Err(format!("lists: there is no {name:?}; there are {}", names.join(" ")));
            };
            let columns = views::columns(id, state, &nothing);
            let look = settings.look(name, &columns, &Look::usual(id))?;
            *state.look_mut(id) = look;
        }
        state.settings = self.clone();
        Ok(())
    }

    /// How a view would begin that is to be as this one is.
    pub(super) fn of(state: &State) -> Self {
        let lists = ListId::ALL.into_iter().filter_map(|id| {
            let is_usual = ListSettings::of(state.look(id)) == ListSettings::of(&Look::usual(id));
            (!is_usual).then(|| (id.field(), ListSettings::of(state.look(id))))
        });
        Self {
            hide_idle: !state.show_idle,
            made_up_names: state.privacy.is_some(),
            lists: lists.collect(),
            ..state.settings.clone()
        }
    }

    /// As the configuration file has them.
    pub(super) fn to_toml(&self) -> String {
        #[derive(Serialize)]
        struct File<'a> {
            view: &'a Settings,
        }
        // All of them can be written so.
        let text = toml::to_string(&File { view: self }).unwrap_or_default();
        format!(
            "# A view of hbpf as it was left: for `hbpf --config FILE top`, or in place of [view] in what `hbpf config path` names.\n{text}"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::super::state::{Action, Overlay};
    use super::super::tests::watched;
    use super::*;

    fn read(text: &str) -> Settings {
        toml::from_str(text).unwrap()
    }

    #[test]
    fn a_view_begins_as_another_was_left() {
        let mut left = watched((120, 40));
        left.apply(Action::SortInvert);
        left.apply(Action::ToggleIdle);
        left.apply(Action::Show(Overlay::Columns));
        left.apply(Action::TogglePause);
        left.apply(Action::Open);
        left.apply(Action::ToggleModels);
        left.apply(Action::SortRight);
        let text = Settings::of(&left).to_toml();
        assert!(text.contains("[view.lists.processes]") && text.contains("[view.lists.models]"), "{text}");
        let settings = text.split_once("\n[view]").map(|(_, rest)| rest.replace("[view.", "[")).unwrap();
        let mut next = watched((120, 40));
        read(&settings).apply(&mut next).unwrap();
        for id in [ListId::Processes, ListId::Models, ListId::Requests] {
            assert_eq!(ListSettings::of(left.look(id)), ListSettings::of(next.look(id)), "{id:?}");
        }
        assert!(read(&settings).hide_idle);
        // What nobody has changed is not written.
        assert!(!Settings::of(&watched((80, 24))).to_toml().contains("lists"));
    }

    #[test]
    fn mistakes_are_told() {
        let wrong = |text: &str| read(text).check().unwrap_err().to_string();
        assert!(wrong("[lists.process]\n").starts_with("lists: there is no \"process\"; there are processes requests"));
        let unknown = wrong("[lists.processes]\nsort = \"-CPU\"");
        assert!(unknown.starts_with("lists.processes: there is no column \"CPU\"; there are \"PID\""), "{unknown}");
        assert!(wrong("[lists.requests]\ncolumns = [\"PID\", \"pid\"]").ends_with("column \"PID\" is there twice"));
        assert!(wrong("[lists.requests]\ncolumns = []").ends_with("needs one at least"));
        assert!(wrong("keys = { charts = \"q\" }").contains("is both charts and quit"));
    }

    #[test]
    fn every_list_has_columns_and_a_name_of_its_own() {
        let state = watched((80, 24));
        let mut names: Vec<String> = ListId::ALL.into_iter().map(ListId::field).collect();
        assert!(ListId::ALL.into_iter().all(|id| !views::columns(id, &state, &Snapshot::default()).is_empty()));
        names.sort();
        names.dedup();
        assert_eq!(names.len(), ListId::ALL.len());
    }
}
