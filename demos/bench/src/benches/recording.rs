//! Recordings: what they take, and how fast they are opened and looked through.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use hbpf_core::snapshot::Snapshot;
use hbpf_e2e::{Server, Terminal};

use super::{Context, Outcome};
use crate::compare::quantile;
use crate::load::demo_clients;
use crate::report::{Section, Table};
use crate::tool;

/// Frames of an hour, a second apart.
const FRAMES: u32 = 3600;
/// They are taken faster, for the bench not to take an hour.
const FAST: Duration = Duration::from_millis(100);
/// Frames a second apart.
const SLOW_FRAMES: u32 = 60;
/// Where is jumped to, in percent: on and back, near and far.
const PLACES: [u32; 12] = [50, 10, 90, 11, 89, 37, 63, 1, 99, 25, 75, 51];
/// Until a view has drawn what a key has asked for, and nothing more comes.
const QUIET: Duration = Duration::from_millis(300);

const OPEN_SECONDS: f64 = 0.2;
const SEEK_SECONDS: f64 = 0.05;
const ROW_BYTES: f64 = 50.0;

pub(super) fn run(context: &Context) -> Result<Outcome> {
    let Some(python) = tool::python_with("ssl") else {
        return Ok(Outcome::Skipped("there is no Python: `cargo xtask setup` makes an environment".to_owned()));
    };
    let is_quick = context.effort.rounds < 4;
    let server = Server::start(&["--fault-share", "0.03"]);
    let load = demo_clients(&python, &server)?;
    let directory = tempfile::tempdir()?;
    let (slow, fast) = (directory.path().join("slow.hbpf"), directory.path().join("fast.hbpf"));
    record(&slow, Duration::from_secs(1), if is_quick { 5 } else { SLOW_FRAMES })?;
    record(&fast, FAST, if is_quick { 50 } else { FRAMES })?;
    drop(load);
    let mut section = Section::default();
    let mut table = Table::new(&["frames", "rows in each", "bytes", "bytes per row and frame"]);
    let mut per_row = Vec::new();
    for path in [&slow, &fast] {
        let (frames, rows) = rows(path)?;
        let bytes = std::fs::metadata(path)?.len() as f64;
        per_row.push(bytes / rows);
        let each = rows / frames as f64;
        table.row([frames.to_string(), format!("{each:.0}"), format!("{bytes:.0}"), format!("{:.1}", bytes / rows)]);
    }
    section.table("Demo load; frames a second apart, and as many as an hour has, taken ten times as fast.", table);
    let mut opened = Vec::new();
    let mut sought = Vec::new();
    for _ in 0..context.effort.rounds {
        let began = Instant::now();
        let mut terminal = replay(&fast);
        terminal.until_seen(" of ");
        opened.push(began.elapsed().as_secs_f64());
        terminal.press(" ");
        terminal.read_for(QUIET);
        for place in PLACES {
            terminal.press(&format!("@{place}%"));
            terminal.read_for(QUIET);
            let began = Instant::now();
            terminal.press("\r");
            terminal.step();
            sought.push(began.elapsed().as_secs_f64());
            terminal.read_for(QUIET);
        }
        terminal.press("q");
        ensure!(terminal.finish().success(), "the view did not end well");
    }
    let mut table = Table::new(&["as many frames as an hour has", "median, ms", "longest, ms"]);
    for (what, times) in
        [("from the command to the first frame", &opened), ("from the key to the frame that was sought", &sought)]
    {
        let milliseconds = |share| format!("{:.0}", quantile(times, share) * 1e3);
        table.row([what.to_owned(), milliseconds(0.5), milliseconds(1.0)]);
    }
    section.table("`hbpf top --replay`, in a terminal.", table);
    let [open, seek] = [&opened, &sought].map(|times| quantile(times, 1.0));
    section.aim("an hour opens in under 200 ms", format!("{:.0} ms", open * 1e3), open < OPEN_SECONDS);
    section.aim("is sought through in under 50 ms", format!("{:.0} ms", seek * 1e3), seek < SEEK_SECONDS);
    section.aim("takes under 50 bytes per row and second", format!("{:.1}", per_row[0]), per_row[0] < ROW_BYTES);
    section.note("Rows are processes, requests, models, endpoints and workloads of a frame.");
    Ok(Outcome::Done(section))
}

fn record(path: &Path, interval: Duration, frames: u32) -> Result<()> {
    let mut hbpf = Command::new(&hbpf_e2e::programs().hbpf);
    hbpf.arg("record").arg("-o").arg(path).args(["--max-overhead", "off"]);
    hbpf.arg("--interval").arg(format!("{}ms", interval.as_millis()));
    hbpf.arg("--for").arg(format!("{}ms", (interval * frames).as_millis()));
    let output = hbpf.stdout(Stdio::null()).output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// Frames of a recording, and the rows of all of them.
fn rows(path: &Path) -> Result<(usize, f64)> {
    let text = zstd::decode_all(std::fs::File::open(path)?)?;
    let (mut frames, mut rows) = (0, 0);
    for line in text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        let frame: Snapshot = serde_json::from_slice(line).context("a recording has snapshots")?;
        let requests = frame.requests.in_flight.len() + frame.requests.recent.len();
        rows += frame.processes.len() + frame.models.len() + frame.endpoints.len() + frame.workloads.len() + requests;
        frames += 1;
    }
    Ok((frames, rows as f64))
}

fn replay(path: &Path) -> Terminal {
    let mut top = Command::new(&hbpf_e2e::programs().hbpf);
    top.args(["top", "--replay"]).arg(path).env("TERM", "xterm-256color").env("LC_ALL", "C.UTF-8");
    Terminal::start(&mut top, (40, 120))
}
