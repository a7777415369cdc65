//! Processes below those that have started them, or below what they belong to.

use std::collections::{BTreeMap, HashMap, HashSet};

use hbpf_core::label::Label;
use hbpf_core::snapshot::{Process, Snapshot};

use crate::list::{Key, List, Row};
use crate::rows;
use crate::table::{Cell, Tone};

/// How processes stand in their list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Arrangement {
    /// Each for itself.
    #[default]
    Flat,
    /// Below the process that has started them.
    Tree,
    /// Below the workload that they belong to.
    Workloads,
}

impl Arrangement {
    pub(crate) fn next(self) -> Self {
        match self {
            Self::Flat => Self::Tree,
            Self::Tree => Self::Workloads,
            Self::Workloads => Self::Flat,
        }
    }

    /// What is said of it beside the list's title.
    pub(crate) fn name(self) -> Option<&'static str> {
        match self {
            Self::Flat => None,
            Self::Tree => Some("tree"),
            Self::Workloads => Some("by workload"),
        }
    }
}

/// The column that says what a row is of.
const COMMAND: &str = "COMMAND";

/// Deepest level that is drawn as such: what is below stands beside it.
const MAX_DEPTH: usize = 12;

/// Puts the rows of a list of processes in that arrangement; beside each other they stay in their order.
pub(crate) fn arrange(list: &mut List, snapshot: &Snapshot, arrangement: Arrangement) {
    let Some(command) = list.column(COMMAND) else { return };
    match arrangement {
        Arrangement::Flat => {}
        Arrangement::Tree => tree(list, snapshot, command),
        Arrangement::Workloads => by_workload(list, snapshot, command),
    }
}

fn tree(list: &mut List, snapshot: &Snapshot, command: usize) {
    let running = |process: &&Process| !process.exited;
    let parents: HashMap<u32, Option<u32>> =
        snapshot.processes.iter().filter(running).map(|process| (process.pid, process.parent_pid)).collect();
    let pid = |row: &Row| match row.key {
        Key::Process((pid, _)) => Some(pid),
        _ => None,
    };
    let listed: HashSet<u32> = list.rows.iter().filter_map(pid).collect();
    // A parent that is not listed is passed over for its own; numbers that are used again must not lead in a circle.
    let parent = |of: u32| {
        let mut seen = HashSet::from([of]);
        let mut next = parents.get(&of).copied().flatten();
        while let Some(pid) = next.filter(|pid| seen.insert(*pid)) {
            if listed.contains(&pid) {
                return Some(pid);
            }
            next = parents.get(&pid).copied().flatten();
        }
        None
    };
    let mut below: BTreeMap<Option<u32>, Vec<Row>> = BTreeMap::new();
    for row in std::mem::take(&mut list.rows) {
        // What has ended has no place any more.
        let parent = pid(&row).filter(|pid| parents.contains_key(pid)).and_then(parent);
        below.entry(parent).or_default().push(row);
    }
    let mut waiting: Vec<(Row, usize)> = Vec::new();
    let take = |below: &mut BTreeMap<Option<u32>, Vec<Row>>, of, depth, waiting: &mut Vec<(Row, usize)>| {
        let rows = below.remove(&of).unwrap_or_default();
        waiting.extend(rows.into_iter().rev().map(|row| (row, depth)));
    };
    take(&mut below, None, 0, &mut waiting);
    loop {
        while let Some((mut row, depth)) = waiting.pop() {
            indent(&mut row.cells[command], depth);
            let of = pid(&row);
            list.rows.push(row);
            if of.is_some() {
                take(&mut below, of, (depth + 1).min(MAX_DEPTH), &mut waiting);
            }
        }
        // Those that are each other's children.
        let Some(rest) = below.keys().next().copied() else { return };
        take(&mut below, rest, 0, &mut waiting);
    }
}

fn indent(cell: &mut Cell, depth: usize) {
    if depth > 0 {
        cell.text = format!("{}- {}", "  ".repeat(depth - 1), cell.text);
    }
}

fn by_workload(list: &mut List, snapshot: &Snapshot, command: usize) {
    let workload = |row: &Row| match &row.key {
        Key::Process(identity) => {
            let process = snapshot.processes.iter().find(|process| rows::identity(process) == *identity);
            process.and_then(|process| process.workload.clone())
        }
        _ => None,
    };
    // In the order of the first of each.
    let mut groups: Vec<(Option<Label>, Vec<Row>)> = Vec::new();
    for row in std::mem::take(&mut list.rows) {
        let of = workload(&row);
        match groups.iter_mut().find(|(known, _)| *known == of) {
            Some((_, rows)) => rows.push(row),
            None => groups.push((of, vec![row])),
        }
    }
    groups.sort_by_key(|(of, _)| of.is_none());
    for (of, rows) in groups {
        let known = of.as_ref().and_then(|key| snapshot.workloads.iter().find(|workload| workload.key == *key));
        // Of those without model traffic or a GPU the snapshot has no more than this.
        let short = |key: &Label| key.split_once('/').map_or(key.as_str(), |(_, name)| name).to_owned();
        let title = match (&of, known) {
            (_, Some(workload)) => workload.name.to_string(),
            (Some(key), None) => short(key),
            (None, None) => "no workload".to_owned(),
        };
        let mut cells = vec![Cell::default(); list.columns.len()];
        cells[command] = Cell::new(title.as_str(), Tone::Accent);
        let key = match known {
            Some(workload) => Key::Workload(workload.key.clone(), workload.name.clone()),
            None => Key::Row(format!("workload {of:?}")),
        };
        list.rows.push(Row::new(key, cells));
        list.rows.extend(rows.into_iter().map(|mut row| {
            indent(&mut row.cells[command], 1);
            row
        }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;
    use crate::rows::Span;

    fn commands(snapshot: &Snapshot, arrangement: Arrangement) -> Vec<String> {
        let mut list = rows::processes(snapshot, Span::SinceStart);
        arrange(&mut list, snapshot, arrangement);
        let at = list.column(COMMAND).unwrap();
        list.rows.iter().map(|row| row.cells[at].text.clone()).collect()
    }

    fn family(pids: &[(u32, u32)]) -> Snapshot {
        let mut snapshot = fixture::rich();
        let one = snapshot.processes[0].clone();
        let process = |(pid, parent): &(u32, u32)| Process {
            pid: *pid,
            parent_pid: Some(*parent),
            command: format!("p{pid}").as_str().into(),
            workload: (*pid > 2).then(|| format!("w{}", pid % 2).as_str().into()),
            ..one.clone()
        };
        snapshot.processes = pids.iter().map(process).collect();
        snapshot
    }

    #[test]
    fn children_stand_below_their_parents() {
        let snapshot = family(&[(1, 0), (5, 4), (4, 1), (3, 1), (7, 99)]);
        assert_eq!(commands(&snapshot, Arrangement::Tree), ["p1", "- p3", "- p4", "  - p5", "p7"]);
    }

    #[test]
    fn no_circle_of_numbers_keeps_us() {
        let all = commands(&family(&[(1, 2), (2, 1), (3, 3)]), Arrangement::Tree);
        assert_eq!(all.len(), 3, "{all:?}");
        let long: Vec<(u32, u32)> = (1..400).map(|pid| (pid, pid - 1)).collect();
        assert_eq!(commands(&family(&long), Arrangement::Tree).len(), 399);
    }

    #[test]
    fn processes_stand_below_their_workloads() {
        let all = commands(&family(&[(1, 0), (3, 1), (4, 1), (5, 1)]), Arrangement::Workloads);
        assert_eq!(all, ["w1", "- p3", "- p5", "w0", "- p4", "no workload", "- p1"]);
    }
}
