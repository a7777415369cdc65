//! What it costs to look for TLS libraries on a host with many processes.

use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use hbpf_host::discover::Libraries;

use super::{Context, Outcome};
use crate::compare::quantile;
use crate::hbpf::Hbpf;
use crate::idle::Idle;
use crate::report::{Section, Table};

/// A busy host.
const PROCESSES: usize = 2000;
/// Scans until all have been looked at; each looks at a bounded number of new ones.
const FIRST_SCANS: usize = 24;
/// Scans like those that hbpf makes every few seconds.
const LATER_SCANS: usize = 20;
/// Measurements' worth of waiting: what hbpf does every few seconds is to happen several times.
const MEASUREMENTS: f64 = 10.0;

pub(super) fn run(context: &Context) -> Result<Outcome> {
    let at_rest = hbpf_percent(context)?;
    let idle = Idle::start(PROCESSES)?;
    let crowded = hbpf_percent(context)?;
    let mut libraries = Libraries::new(PathBuf::from("/proc"));
    let mut first = Vec::new();
    for _ in 0..FIRST_SCANS {
        first.push(milliseconds(|| drop(libraries.scan()))?);
    }
    let mut later = Vec::new();
    for _ in 0..LATER_SCANS {
        later.push(milliseconds(|| drop(libraries.scan()))?);
    }
    drop(idle);

    let mut section = Section::default();
    let mut table = Table::new(&["scan of the memory maps", "median ms of CPU", "longest"]);
    for (what, values) in [(format!("each of the first {FIRST_SCANS}"), &first), ("each later one".to_owned(), &later)]
    {
        table.row([what, format!("{:.1}", quantile(values, 0.5)), format!("{:.1}", quantile(values, 1.0))]);
    }
    section.table(&format!("{PROCESSES} idle processes beside those of the machine."), table);
    let mut table = Table::new(&["hbpf at rest, one frame a second", "percent of a core"]);
    table.row(["as the machine is".to_owned(), format!("{at_rest:.2} %")]);
    table.row([format!("with {PROCESSES} idle processes more"), format!("{crowded:.2} %")]);
    section.table("Both processes of hbpf, all groups on, no traffic.", table);
    Ok(Outcome::Done(section))
}

/// How many times as long as other measurements need hbpf takes to come to rest.
const LATER: f64 = 4.0;

fn hbpf_percent(context: &Context) -> Result<f64> {
    let hbpf = Hbpf::start()?;
    // What is prepared for later comes when nobody waits for anything any more, half a minute from here.
    thread::sleep(Duration::from_secs_f64(context.effort.settling * LATER));
    let (started, before) = (Instant::now(), hbpf.usage()?);
    thread::sleep(Duration::from_secs_f64(context.effort.seconds * MEASUREMENTS));
    let used = hbpf.usage()?.cpu_seconds - before.cpu_seconds;
    Ok(used / started.elapsed().as_secs_f64() * 100.0)
}

/// Wall time is that of a machine with other things to do; the scan has one thread.
fn milliseconds(mut scan: impl FnMut()) -> Result<f64> {
    let before = own_nanoseconds()?;
    scan();
    Ok((own_nanoseconds()? - before) as f64 / 1e6)
}

fn own_nanoseconds() -> Result<u64> {
    let time = nix::time::clock_gettime(nix::time::ClockId::CLOCK_PROCESS_CPUTIME_ID)?;
    Ok(u64::try_from(Duration::from(time).as_nanos())?)
}
