//! What each key does: one table, from which the keys are read, the help is drawn, and what a user changes is checked.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use hbpf_host::protocol::Group;
use jiff::SignedDuration;
use serde::{Deserialize, Serialize};

use super::state::{Action, Motion, Overlay};
use super::time::Jump;

/// A long step through time.
const A_MINUTE: SignedDuration = SignedDuration::from_mins(1);

/// Most groups of probes that have a key.
const GROUPS: u8 = 9;

/// Something that keys can do.
pub(crate) struct Binding {
    /// As the configuration calls it.
    pub(crate) name: &'static str,
    /// As they are written there.
    pub(crate) keys: &'static [&'static str],
    action: Action,
    /// What it does, in a line or two of the help. Nothing: the binding before says it as well.
    pub(crate) help: &'static [&'static str],
}

const fn binding(
    name: &'static str,
    keys: &'static [&'static str],
    action: Action,
    help: &'static [&'static str],
) -> Binding {
    Binding { name, keys, action, help }
}

/// All of them, in the order of the help.
pub(crate) static BINDINGS: [Binding; 47] = {
    use Action as A;
    [
        binding("up", &["Up", "k"], A::Move(Motion::Up), &["move the selection"]),
        binding("down", &["Down", "j"], A::Move(Motion::Down), &[]),
        binding(
            "page-up",
            &["PgUp"],
            A::Move(Motion::PageUp),
            &["by a page, to an end; the top follows whatever is there"],
        ),
        binding("page-down", &["PgDn"], A::Move(Motion::PageDown), &[]),
        binding("home", &["Home", "g"], A::Move(Motion::Home), &[]),
        binding("end", &["End", "G"], A::Move(Motion::End), &[]),
        binding(
            "open",
            &["Enter"],
            A::Open,
            &[
                "details of what is selected: a process, request, model,",
                "endpoint, workload, GPU, or what a finding is about",
            ],
        ),
        binding("back", &["Esc", "Backspace"], A::Back, &["back"]),
        binding("focus", &["Tab", "Shift-Tab"], A::SwitchFocus, &["the page's other list"]),
        binding("sort-left", &["<", ",", "Left"], A::SortLeft, &["sort by the column to the left or right"]),
        binding("sort-right", &[">", ".", "Right"], A::SortRight, &[]),
        binding("reverse", &["r", "I"], A::SortInvert, &["reverse the order"]),
        binding(
            "filter",
            &["/"],
            A::Filter,
            &[
                "only rows of the list with the focus that fit: text, or",
                "model:qwen ttft>500ms !pid:41; requests by status:5xx, too",
            ],
        ),
        binding("search", &["F3", "b"], A::Search, &["find a row that fits, and hide none; again: the next one"]),
        binding("columns", &["o"], A::Show(Overlay::Columns), &["which columns are shown, and in what order"]),
        binding("idle", &["a"], A::ToggleIdle, &["show or hide processes without model traffic"]),
        binding("arrange", &["y"], A::Arrange, &["processes as a tree, by workload, or each for itself"]),
        binding("compare", &["M"], A::Compare, &["mark what is selected; on another, or later: compare both"]),
        binding("charts", &["v"], A::ToggleCharts, &["over time: tokens, requests, failures, waiting times, load"]),
        binding("span", &["w"], A::ToggleSpan, &["latencies over the window or since the start"]),
        binding("role", &["s"], A::ToggleRole, &["in a process's details: its other role"]),
        binding("workloads", &["t"], A::ToggleWorkloads, &["workloads: pods, containers, units, trees of processes"]),
        binding("models", &["m"], A::ToggleModels, &["models and endpoints"]),
        binding("failures", &["f"], A::ToggleErrors, &["failures: which errors where, quotas, the latest requests"]),
        binding("gpus", &["u"], A::ToggleGpus, &["GPUs, and the processes on them"]),
        binding("inference", &["i"], A::ToggleEngines, &["inference servers: what vLLM, Ollama and others say"]),
        binding("tools", &["c"], A::ToggleTools, &["calls of tools: what MCP servers are asked"]),
        binding("disks", &["d"], A::ToggleInOut, &["disks, connections and GPU devices by process"]),
        binding("probes", &["p"], A::ToggleProbes, &["probes, and what each costs"]),
        binding("findings", &["e"], A::ToggleFindings, &["findings and problems, each with what to do"]),
        binding("freeze", &["Space"], A::TogglePause, &["freeze the view, collection goes on; stop and play a replay"]),
        binding("frame-back", &["["], A::Jump(Jump::Frames(-1)), &["a frame back or on, a minute back or on"]),
        binding("frame-on", &["]"], A::Jump(Jump::Frames(1)), &[]),
        binding("minute-back", &["{"], A::Jump(Jump::By(SignedDuration::from_mins(-1))), &[]),
        binding("minute-on", &["}"], A::Jump(Jump::By(A_MINUTE)), &[]),
        binding(
            "next-event",
            &["n"],
            A::Jump(Jump::Event { on: true }),
            &["on, or back, to where something failed or was found"],
        ),
        binding("previous-event", &["N"], A::Jump(Jump::Event { on: false }), &[]),
        binding("time", &["@"], A::AskTime, &["to a time"]),
        binding("live", &["l"], A::Jump(Jump::Live), &["live again; to the end of a replay"]),
        binding("faster", &["+", "="], A::Speed(1), &["a replay faster or slower"]),
        binding("slower", &["-"], A::Speed(-1), &[]),
        binding("save", &["x"], A::Show(Overlay::Save), &["hand on: snapshot, list, screen as files; the row copied"]),
        binding("privacy", &["P"], A::TogglePrivacy, &["names of hosts, users and command lines made up, or real"]),
        binding("commands", &[":"], A::Show(Overlay::Commands), &["all that keys do, found by its name"]),
        binding("help", &["?", "h", "F1"], A::Show(Overlay::Help), &["this help"]),
        binding("suspend", &["Ctrl-Z"], A::Suspend, &["suspend; the shell's fg brings it back"]),
        binding("quit", &["q", "F10", "Ctrl-C"], A::Quit, &["quit"]),
    ]
};

/// Something that keys do, for those who look for it.
#[derive(Clone, Debug)]
pub(crate) struct Command<'a> {
    pub(crate) name: Cow<'a, str>,
    pub(crate) keys: String,
    pub(crate) help: &'a str,
    pub(crate) action: Action,
}

/// Keys for something, as the configuration has them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub(crate) enum Keys {
    One(String),
    Many(Vec<String>),
}

impl Keys {
    fn all(&self) -> &[String] {
        match self {
            Self::One(key) => std::slice::from_ref(key),
            Self::Many(keys) => keys,
        }
    }
}

/// What keys do, as the user has them.
#[derive(Clone, Debug)]
pub(crate) struct Keymap {
    actions: HashMap<(KeyCode, KeyModifiers), Action>,
    /// By the binding's name, as they are shown.
    shown: BTreeMap<&'static str, Vec<String>>,
}

impl Default for Keymap {
    fn default() -> Self {
        Self::new(&BTreeMap::new()).expect("no two bindings have the same key")
    }
}

impl Keymap {
    /// The usual keys, but for what is bound otherwise.
    ///
    /// # Errors
    ///
    /// What is wrong with it, in one line.
    pub(crate) fn new(changes: &BTreeMap<String, Keys>) -> Result<Self, String> {
        let named = || BINDINGS.iter();
        if let Some(unknown) = changes.keys().find(|name| named().all(|binding| binding.name != name.as_str())) {
            let names: Vec<&str> = named().map(|binding| binding.name).collect();
            return Err(format!("keys: there is no {unknown:?}; there are {}", names.join(" ")));
        }
        let mut keymap = Self { actions: HashMap::new(), shown: BTreeMap::new() };
        let mut taken: HashMap<(KeyCode, KeyModifiers), &str> = HashMap::new();
        for binding in named() {
            let keys: Vec<String> = match changes.get(binding.name) {
                Some(keys) => keys.all().to_vec(),
                None => binding.keys.iter().map(|key| (*key).to_owned()).collect(),
            };
            for text in &keys {
                let key = parse(text).ok_or_else(|| {
                    format!("keys: {text:?} of {} is no key, such as x, X, Space, F2, Up or Ctrl-X", binding.name)
                })?;
                if let Some(other) = taken.insert(key, binding.name) {
                    return Err(format!(
                        "keys: {text:?} is both {other} and {}; give one of them another",
                        binding.name
                    ));
                }
                keymap.actions.insert(key, binding.action.clone());
            }
            keymap.shown.insert(binding.name, keys);
        }
        if keymap.shown["quit"].is_empty() {
            return Err("keys: quit needs a key".to_owned());
        }
        Ok(keymap)
    }

    /// What a key asks for.
    pub(crate) fn action(&self, key: &KeyEvent) -> Option<Action> {
        let modifiers = key.modifiers & (KeyModifiers::CONTROL | KeyModifiers::ALT);
        let bound = self.actions.get(&(key.code, modifiers)).cloned();
        let of_group = || match key.code {
            KeyCode::Char(digit @ '1'..='9') if modifiers.is_empty() => {
                Some(Action::ToggleGroup(digit as usize - '1' as usize))
            }
            _ => None,
        };
        bound.or_else(of_group)
    }

    /// The digit that switches a group of probes; empty where it does something else.
    fn group_key(&self, index: usize) -> String {
        let digit = (index + 1).to_string();
        let is_taken = digit.chars().any(|c| self.actions.contains_key(&(KeyCode::Char(c), KeyModifiers::NONE)));
        if is_taken || index >= usize::from(GROUPS) { String::new() } else { digit }
    }

    /// The first key of something, as it is written; empty where it has none.
    pub(crate) fn first(&self, name: &str) -> &str {
        self.shown.get(name).and_then(|keys| keys.first()).map_or("", String::as_str)
    }

    /// A text in which names of bindings in braces stand for their first keys.
    pub(crate) fn words(&self, text: &str) -> String {
        let mut words = String::new();
        let mut rest = text;
        while let Some((before, (name, behind))) =
            rest.split_once('{').and_then(|(before, rest)| Some((before, rest.split_once('}')?)))
        {
            words.push_str(before);
            words.push_str(match self.first(name) {
                "" => "(no key)",
                key => key,
            });
            rest = behind;
        }
        words + rest
    }

    /// What a text is about: all that keys do, by name or by what the help says; those whose name begins with it first.
    pub(crate) fn commands(&self, text: &str) -> Vec<Command<'_>> {
        let wanted: Vec<String> = text.split_whitespace().map(str::to_lowercase).collect();
        let mut help = "";
        let bound = BINDINGS.iter().map(|binding| {
            // Of those that the same words are about, the first has them.
            help = binding.help.first().copied().unwrap_or(help);
            let keys = self.shown.get(binding.name).map(|keys| keys.join(" ")).unwrap_or_default();
            Command { name: binding.name.into(), keys, help, action: binding.action.clone() }
        });
        let groups = Group::ALL.iter().enumerate().map(|(index, group)| Command {
            name: format!("probes {}", group.name()).into(),
            keys: self.group_key(index),
            help: "switch this group of probes on or off",
            action: Action::ToggleGroup(index),
        });
        let fits = |command: &Command<'_>| {
            wanted.iter().all(|word| command.name.contains(word) || command.help.to_lowercase().contains(word))
        };
        let mut found: Vec<Command<'_>> = bound.chain(groups).filter(fits).collect();
        let begins = |command: &Command<'_>| wanted.first().is_some_and(|word| command.name.starts_with(word.as_str()));
        let is_named = |command: &Command<'_>| wanted.iter().all(|word| command.name.contains(word.as_str()));
        found.sort_by_key(|command| (!begins(command), !is_named(command)));
        found
    }

    /// Keys and what they do, in lines of the help: a line without keys continues the one above.
    pub(crate) fn help(&self, groups: usize) -> Vec<(String, &'static str)> {
        let mut lines: Vec<(String, &'static str)> = Vec::new();
        // A binding and those that the same words are about.
        for group in BINDINGS.chunk_by(|_, next| next.help.is_empty()) {
            let keys = match group {
                [alone] => self.shown.get(alone.name).map(|keys| keys.join(" ")).unwrap_or_default(),
                // The first of each, then the second, as far as there is room.
                all => {
                    let most = all.iter().filter_map(|binding| self.shown.get(binding.name)).map(Vec::len).max();
                    let keys = (0..most.unwrap_or(0))
                        .flat_map(|nth| all.iter().filter_map(move |binding| self.shown.get(binding.name)?.get(nth)));
                    keys.fold(String::new(), |shown, key| {
                        let longer = format!("{shown} {key}").trim().to_owned();
                        if longer.chars().count() <= KEYS_WIDTH { longer } else { shown }
                    })
                }
            };
            let names = std::iter::once(keys).chain(std::iter::repeat(String::new()));
            lines.extend(
                group.iter().flat_map(|binding| binding.help).copied().zip(names).map(|(text, keys)| (keys, text)),
            );
            if group.iter().any(|binding| binding.name == "probes") {
                let digits: Vec<String> =
                    (0..groups).map(|index| self.group_key(index)).filter(|key| !key.is_empty()).collect();
                lines.push((digits.join(" "), "switch a group of probes on or off: model traffic over TLS"));
                lines.push((String::new(), "and plain, tools, disks, connections, uses of GPU devices"));
            }
        }
        lines
    }
}

/// Width of the keys in the help.
pub(crate) const KEYS_WIDTH: usize = 19;

/// A key as people write it.
fn parse(text: &str) -> Option<(KeyCode, KeyModifiers)> {
    let lower = text.to_ascii_lowercase();
    if let Some(rest) = lower.strip_prefix("ctrl-").filter(|rest| !rest.is_empty()) {
        let (code, _) = parse(rest)?;
        return Some((code, KeyModifiers::CONTROL));
    }
    if let Some(rest) = text.get(4..).filter(|rest| lower.starts_with("alt-") && !rest.is_empty()) {
        let (code, _) = parse(rest)?;
        return Some((code, KeyModifiers::ALT));
    }
    let mut chars = text.chars();
    let code = match (chars.next()?, chars.next()) {
        (single, None) if !single.is_control() && !single.is_whitespace() => KeyCode::Char(single),
        _ => match lower.as_str() {
            "space" => KeyCode::Char(' '),
            "enter" => KeyCode::Enter,
            "esc" => KeyCode::Esc,
            "tab" => KeyCode::Tab,
            "shift-tab" => KeyCode::BackTab,
            "backspace" => KeyCode::Backspace,
            "delete" => KeyCode::Delete,
            "insert" => KeyCode::Insert,
            "up" => KeyCode::Up,
            "down" => KeyCode::Down,
            "left" => KeyCode::Left,
            "right" => KeyCode::Right,
            "home" => KeyCode::Home,
            "end" => KeyCode::End,
            "pgup" => KeyCode::PageUp,
            "pgdn" => KeyCode::PageDown,
            _ => KeyCode::F(lower.strip_prefix('f')?.parse().ok().filter(|number| (1..=24).contains(number))?),
        },
    };
    Some((code, KeyModifiers::NONE))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changed(changes: &[(&str, &[&str])]) -> Result<Keymap, String> {
        let keys = |keys: &[&str]| Keys::Many(keys.iter().map(|key| (*key).to_owned()).collect());
        Keymap::new(&changes.iter().map(|(name, all)| ((*name).to_owned(), keys(all))).collect())
    }

    fn press(keymap: &Keymap, code: KeyCode, modifiers: KeyModifiers) -> Option<Action> {
        keymap.action(&KeyEvent::new(code, modifiers))
    }

    #[test]
    fn keys_can_be_bound_otherwise() {
        let keymap = changed(&[("charts", &["Ctrl-G", "F5"]), ("quit", &["Q"])]).unwrap();
        assert!(matches!(press(&keymap, KeyCode::Char('g'), KeyModifiers::CONTROL), Some(Action::ToggleCharts)));
        assert!(matches!(press(&keymap, KeyCode::F(5), KeyModifiers::NONE), Some(Action::ToggleCharts)));
        assert!(press(&keymap, KeyCode::Char('v'), KeyModifiers::NONE).is_none());
        // A capital comes with the shift key's modifier from some terminals.
        assert!(matches!(press(&keymap, KeyCode::Char('Q'), KeyModifiers::SHIFT), Some(Action::Quit)));
        assert!(press(&keymap, KeyCode::Char('q'), KeyModifiers::NONE).is_none());
        assert_eq!((keymap.first("charts"), keymap.first("none")), ("Ctrl-G", ""));
        assert!(keymap.help(6).iter().any(|(keys, text)| keys == "Ctrl-G F5" && text.starts_with("over time")));
    }

    #[test]
    fn mistakes_are_told() {
        let wrong = |changes: &[(&str, &[&str])]| changed(changes).unwrap_err();
        assert!(wrong(&[("chart", &["x"])]).starts_with("keys: there is no \"chart\"; there are up down"));
        assert!(wrong(&[("charts", &["xy"])]).contains("\"xy\" of charts is no key"));
        assert!(wrong(&[("charts", &["q"])]).contains("is both charts and quit"));
        assert!(wrong(&[("quit", &[])]).contains("quit needs a key"));
        for wrong in ["", " ", "f0", "f25", "ctrl-", "\u{1b}", "hyper-x"] {
            assert_eq!(parse(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn the_help_fits_80_columns() {
        for (keys, text) in Keymap::default().help(6) {
            assert!(keys.chars().count() <= KEYS_WIDTH && text.len() <= 60, "{keys}: {text}");
        }
    }
}
