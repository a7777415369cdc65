//! What the tables show of probes: what each group costs, and what is known of each program and place.

use hbpf_core::snapshot::{Capture, GroupCost, OverheadLevel, Probe, ProbeState};

use crate::format::{self, known};
use crate::list::{Key, List, Row};
use crate::table::{Align, Cell, Column, Tone};

/// What observing costs as a whole, and what was given up for it.
pub(crate) fn title(capture: &Capture) -> String {
    let overhead = &capture.overhead;
    let cost = known(overhead.percent, |percent| format!("~{}%", format::percent(percent)));
    let budget = overhead.budget_percent.map_or_else(String::new, |budget| format!(", allowed {budget}%"));
    let given_up = match overhead.level {
        OverheadLevel::Full => String::new(),
        OverheadLevel::Excluded => format!(", {} processes left out", overhead.excluded_processes),
        OverheadLevel::Thinned => {
            let limit = known(overhead.bytes_per_second_limit, format::bytes);
            format!(", copying at most {limit}/s")
        }
        OverheadLevel::Detached => ", a group was switched off".to_owned(),
    };
    format!("Cost {cost} of all CPUs{budget}{given_up}")
}

/// What each group costs, and hbpf's own processes; 100 % is one core. When the collection is over its probes are gone.
pub(crate) fn costs(capture: &Capture, is_over: bool) -> List {
    use Align::{Left, Right};
    let columns = vec![
        Column::flexible("WHAT", 10, 16, 100),
        Column::fixed("STATE", Left, 8, 80),
        Column::fixed("CPU%", Right, 6, 90),
        Column::fixed("TRAPS%", Right, 7, 85),
        Column::fixed("MEMORY", Right, 7, 70).bytes(),
    ];
    let percent = |value: Option<f64>| Cell::number(value, format::percent);
    let group = |cost: &GroupCost| {
        let cells = vec![
            Cell::new(cost.group.as_str(), Tone::Accent),
            state_cell(cost.state, is_over),
            percent(cost.kernel_cpu_percent),
            Cell::number(cost.trap_cpu_percent_estimated, traps),
            Cell::default(),
        ];
        Row::new(Key::Row(cost.group.to_string()), cells)
    };
    let own = &capture.self_cost;
    let processes = vec![
        Cell::new("hbpf itself", Tone::Accent),
        Cell::default(),
        percent(own.cpu_percent),
        Cell::default(),
        Cell::number(own.resident_bytes, format::bytes),
    ];
    let processes = Row::new(Key::Row("hbpf itself".to_owned()), processes);
    List { columns, rows: capture.groups.iter().map(group).chain([processes]).collect() }
}

/// An estimate is marked; that there are no traps is none.
fn traps(percent: f64) -> String {
    format::estimated(format::percent(percent), percent > 0.0)
}

fn state_cell(state: ProbeState, is_over: bool) -> Cell {
    match state {
        ProbeState::On if is_over => Cell::new("gone", Tone::Bad),
        ProbeState::On => Cell::new("on", Tone::Good),
        ProbeState::Off => Cell::new("off", Tone::Dim),
        ProbeState::Failed => Cell::new("FAILED", Tone::Bad),
    }
}

/// Each program at each of its places. Its numbers are those of all its places.
pub(crate) fn places(capture: &Capture, is_over: bool) -> List {
    use Align::{Left, Right};
    let columns = vec![
        Column::fixed("GROUP", Left, 9, 80),
        Column::flexible("PROGRAM", 14, 20, 100),
        Column::fixed("STATE", Left, 6, 90),
        Column::fixed("RUNS", Right, 6, 85),
        Column::fixed("PER RUN", Right, 7, 75).seconds(),
        Column::fixed("TIME", Right, 7, 70).seconds(),
        Column::fixed("TRAPS", Right, 7, 65).seconds(),
        Column::flexible("WHERE", 12, 60, 95),
    ];
    List { columns, rows: capture.probes.iter().map(|probe| place_row(probe, is_over)).collect() }
}

fn place_row(probe: &Probe, is_over: bool) -> Row {
    let runs = probe.runs_total.filter(|runs| *runs > 0);
    let per_run = probe.run_seconds_total.zip(runs).map(|(seconds, runs)| seconds / runs as f64);
    let place = match &probe.reason {
        Some(reason) if probe.attached_to.is_empty() => Cell::new(reason.as_str(), Tone::Dim),
        Some(reason) => Cell::new(format!("{}: {reason}", probe.attached_to), Tone::Warn),
        None => Cell::new(probe.attached_to.as_str(), Tone::Plain),
    };
    let traps = |seconds: f64| format::estimated(format::seconds(seconds), seconds > 0.0);
    let cells = vec![
        Cell::new(probe.group.as_str(), Tone::Plain),
        Cell::new(probe.program.as_str(), Tone::Accent),
        state_cell(probe.state, is_over),
        Cell::number(probe.runs_total, format::count),
        Cell::number(per_run, |seconds| format!("{:.0}ns", seconds * 1e9)),
        Cell::number(probe.run_seconds_total, format::seconds),
        Cell::number(probe.trap_seconds_estimated, traps),
        place,
    ];
    Row::new(Key::Row(format!("{} {}", probe.program, probe.attached_to)), cells)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;

    fn texts(row: &Row) -> Vec<&str> {
        row.cells.iter().map(|cell| cell.text.as_str()).collect()
    }

    #[test]
    fn estimates_are_marked_and_what_is_unknown_is_no_number() {
        let mut capture = fixture::rich().capture;
        let rows = costs(&capture, false).rows;
        assert_eq!(texts(&rows[0]), ["llm-tls", "on", "0.2", "~1.1", ""]);
        assert_eq!(texts(&rows[1]), ["llm-plain", "on", "0.1", "0.0", ""]);
        assert_eq!(texts(&rows[2]), ["tools", "on", "0.0", "0.0", ""]);
        assert_eq!(texts(&rows[3]), ["hbpf itself", "", "1.2", "", "38.0M"]);
        assert_eq!(texts(&costs(&capture, true).rows[0])[1], "gone");
        capture.groups[0].trap_cpu_percent_estimated = None;
        assert_eq!(costs(&capture, false).rows[0].cells[3].text, "-");
        let probe = Probe { runs_total: Some(0), trap_seconds_estimated: None, ..capture.probes[0].clone() };
        assert_eq!(
            texts(&place_row(&probe, false))[3..7],
            ["0", "-", "310ms", "-"],
            "nothing has run, nothing per run"
        );
    }

    #[test]
    fn what_was_given_up_is_said() {
        let mut capture = fixture::rich().capture;
        assert_eq!(title(&capture), "Cost ~1.4% of all CPUs, allowed 2%");
        capture.overhead.level = OverheadLevel::Thinned;
        capture.overhead.bytes_per_second_limit = Some(1 << 20);
        assert_eq!(title(&capture), "Cost ~1.4% of all CPUs, allowed 2%, copying at most 1.00M/s");
        capture.overhead.percent = None;
        assert!(title(&capture).starts_with("Cost - of all CPUs"));
    }
}
