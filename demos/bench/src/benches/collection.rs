//! What it costs to look at processes and at GPUs.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::mpsc::{self, TryRecvError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use hbpf_core::snapshot::Snapshot;
use hbpf_host::process::Table as Processes;
use hbpf_host::protocol::{MAX_PROCESSES, Others};
use serde_json::Value;

use super::{Context, Outcome};
use crate::compare::quantile;
use crate::hbpf::Hbpf;
use crate::idle::Idle;
use crate::report::{Section, Table};

/// Hosts, by their processes.
const PROCESSES: [usize; 3] = [200, 2000, 10_000];
/// Samples like those that hbpf takes, a second apart.
const SAMPLES: usize = 5;
const INTERVAL: Duration = Duration::from_secs(1);
/// Measurements' worth of waiting: what is done every second is to happen several times.
const MEASUREMENTS: f64 = 10.0;

/// Frames in which the machine is to be seen busy.
const BUSY_FRAMES: usize = 3;

/// Frames that are looked at.
const FRAMES: usize = 10;
/// How long a call of the driver hangs.
const HANG_SECONDS: f64 = 5.0;

pub(super) fn run(context: &Context) -> Result<Outcome> {
    let mut section = Section::default();
    let mut table = Table::new(&[
        "idle processes",
        "first sample, all of them, ms of CPU",
        "median of the next",
        "longest",
        "the same, 127 of them closely",
        "longest",
    ]);
    for processes in PROCESSES {
        let idle = Idle::start(processes)?;
        let mut glance = Processes::new(PathBuf::from("/proc"));
        let first = milliseconds(|| drop(glance.sample(&[], Others::InTurn)))?;
        let others = samples(&mut glance, &[])?;
        let closely: Vec<u32> = idle.pids().take(MAX_PROCESSES - 1).collect();
        let close = samples(&mut glance, &closely)?;
        let number = |value: f64| format!("{value:.1}");
        table.row([
            processes.to_string(),
            number(first),
            number(quantile(&others, 0.5)),
            number(quantile(&others, 1.0)),
            number(quantile(&close, 0.5)),
            number(quantile(&close, 1.0)),
        ]);
    }
    section.table("A sample a second, by one thread: 10 ms are one percent of a core.", table);

    let mut table =
        Table::new(&["hbpf with a frame a second, no probes", "percent of a core", "longest time between frames"]);
    let row = |what: &str, hbpf: &Hbpf| -> Result<[String; 3]> {
        let percent = percent(context, hbpf)?;
        let longest = longest_gap(&hbpf.frames(FRAMES)?);
        Ok([what.to_owned(), format!("{percent:.2} %"), format!("{:.0} ms", longest.as_secs_f64() * 1e3)])
    };
    table.row(row("no GPU", &Hbpf::start_unprobed(&[], &[])?)?);
    let directory = tempfile::tempdir()?;
    let profile = directory.path().join("gpus.json");
    fs::copy(hbpf_e2e::script("nvml/profiles/h200x8.json"), &profile)?;
    // hbpf reads it as an ordinary user.
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755))?;
    let library = hbpf_e2e::programs().nvml.display().to_string();
    let hbpf = Hbpf::start_unprobed(&["--nvml-library", &library], &[("HBPF_DEMO_NVML", &profile)])?;
    hbpf.until("eight GPUs are read", |frame| frame.gpus.len() == 8)?;
    table.row(row("eight H200 (a stand-in for NVIDIA's library)", &hbpf)?);
    let mut gpus: Value = serde_json::from_slice(&fs::read(&profile)?)?;
    gpus["gpus"][0]["hang_seconds"] = HANG_SECONDS.into();
    fs::write(&profile, gpus.to_string())?;
    hbpf.until("the driver hangs", |frame| frame.gpus.iter().any(|gpu| gpu.stale_seconds.is_some()))?;
    table.row(row("the same, and a call of the driver that hangs for 5 s", &hbpf)?);
    section.table("All its processes. A real driver's calls cost what they cost.", table);
    let half_a_core = 50.0 / thread::available_parallelism()?.get() as f64;
    let idle = hbpf.frame()?.host.cpu_percent;
    let (ended, end) = mpsc::channel::<()>();
    let busy = thread::spawn(move || while end.try_recv() == Err(TryRecvError::Empty) {});
    let frames = hbpf.frames(BUSY_FRAMES);
    drop(ended);
    let _ = busy.join();
    let frames = frames?;
    let are_stale = frames.iter().all(|frame| frame.gpus.iter().all(|gpu| gpu.stale_seconds.is_some()));
    let busiest = frames.iter().filter_map(|frame| frame.host.cpu_percent).reduce(f64::max);
    let go_on = idle.zip(busiest).is_some_and(|(idle, busiest)| busiest > idle + half_a_core);
    let reached = format!("GPUs say stale: {are_stale}; the machine's CPU is of now: {go_on}");
    section.aim("a driver that hangs changes nothing but its own fields", reached, are_stale && go_on);
    Ok(Outcome::Done(section))
}

/// Between two frames that follow each other.
fn longest_gap(frames: &[Snapshot]) -> Duration {
    let gaps = frames.windows(2).map(|two| two[1].captured_at.duration_since(two[0].captured_at).unsigned_abs());
    gaps.max().unwrap_or_default()
}

fn samples(processes: &mut Processes, closely: &[u32]) -> Result<Vec<f64>> {
    // The first close look finds nothing to compare with.
    drop(processes.sample(closely, Others::InTurn));
    let mut taken = Vec::new();
    for _ in 0..SAMPLES {
        thread::sleep(INTERVAL);
        taken.push(milliseconds(|| drop(processes.sample(closely, Others::InTurn)))?);
    }
    Ok(taken)
}

fn percent(context: &Context, hbpf: &Hbpf) -> Result<f64> {
    thread::sleep(Duration::from_secs_f64(context.effort.settling));
    let (started, before) = (Instant::now(), hbpf.usage()?);
    thread::sleep(Duration::from_secs_f64(context.effort.seconds * MEASUREMENTS));
    let used = hbpf.usage()?.cpu_seconds - before.cpu_seconds;
    Ok(used / started.elapsed().as_secs_f64() * 100.0)
}

/// CPU time of this thread: that of a machine with other things to do is the same.
fn milliseconds(sample: impl FnOnce()) -> Result<f64> {
    let now = || nix::time::clock_gettime(nix::time::ClockId::CLOCK_THREAD_CPUTIME_ID).map(Duration::from);
    let before = now()?;
    sample();
    Ok((now()? - before).as_secs_f64() * 1e3)
}
