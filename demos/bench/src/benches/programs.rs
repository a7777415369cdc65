//! What each BPF program takes per run, by the kernel's own count.

use std::collections::BTreeMap;
use std::thread;
use std::time::Duration;

use anyhow::Result;
use hbpf_core::snapshot::Snapshot;
use hbpf_e2e::Server;

use super::{Context, Outcome};
use crate::hbpf::Hbpf;
use crate::report::{Section, Table};
use crate::{load, tool};

/// Measurements' worth of load: some programs run a few times a second.
const MEASUREMENTS: f64 = 15.0;

/// Runs and seconds of a program.
type Totals = BTreeMap<String, (u64, f64)>;

pub(super) fn run(context: &Context) -> Result<Outcome> {
    let Some(python) = tool::python_with("ssl") else {
        return Ok(Outcome::Skipped("python3 with its module ssl is the client".into()));
    };
    let server = Server::start(&["--ttft", "100", "--rate", "50"]);
    let hbpf = Hbpf::start_unbounded()?;
    let _clients = load::demo_clients(&python, &server)?;
    thread::sleep(Duration::from_secs_f64(context.effort.settling));
    let before = hbpf.frame()?;
    thread::sleep(Duration::from_secs_f64(context.effort.seconds * MEASUREMENTS));
    let after = hbpf.frame()?;
    let seconds = after.observed_seconds - before.observed_seconds;

    let (before, after) = (totals(&before), totals(&after));
    let mut table = Table::new(&["program", "group", "runs/s", "ns per run", "share of a core"]);
    for (name, (runs, time)) in &after {
        let (runs_before, time_before) = before.get(name).copied().unwrap_or_default();
        let (runs, time) = (runs - runs_before, time - time_before);
        let (group, program) = name.split_once(' ').unwrap_or(("", name));
        let nanoseconds = if runs == 0 { "-".to_owned() } else { format!("{:.0}", time / runs as f64 * 1e9) };
        let share = format!("{:.3} %", time / seconds * 100.0);
        table.row([program, group, &format!("{:.0}", runs as f64 / seconds), &nanoseconds, &share]);
    }
    let mut section = Section::default();
    section.table("Nine connections of Python clients, health checks and static files between the calls.", table);
    section.note("Time inside the programs (BPF_ENABLE_STATS), without the trap or the hook that leads to them.");
    Ok(Outcome::Done(section))
}

/// A program's numbers are those of all its places, and each place repeats them.
fn totals(frame: &Snapshot) -> Totals {
    let known = frame.capture.probes.iter().filter_map(|probe| {
        Some((format!("{} {}", probe.group, probe.program), (probe.runs_total?, probe.run_seconds_total?)))
    });
    known.collect()
}
