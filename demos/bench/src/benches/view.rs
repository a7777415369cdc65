//! The live view beside other process viewers, as their users run them.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use hbpf_e2e::{DEADLINE, Server, Terminal, children, without_sequences};

use super::{Context, Outcome};
use crate::compare::quantile;
use crate::hbpf::usage_of;
use crate::load::Children;
use crate::report::{Section, Table};
use crate::tool;

/// The terminal: rows and columns.
const SIZE: (u16, u16) = (40, 120);
/// Processes that each have a row.
const ROWS: usize = 1000;
/// How many begin at once.
const AT_ONCE: usize = 50;
/// Tokens a second of each.
const RATE: &str = "1";
/// Characters of a first frame that are no blanks: more than a message, and less than any tool's full screen.
const FIRST_FRAME: usize = 200;
/// Measurements' worth of looking: what is done every second is to happen many times.
const MEASUREMENTS: f64 = 10.0;
/// What a terminal over a bad line takes at rest.
const AT_REST: f64 = 10_000.0;

/// A viewer.
struct Viewer {
    name: &'static str,
    program: PathBuf,
    arguments: Vec<String>,
    /// Its settings, where no option has them: file below its configuration's directory, and what is in it.
    settings: Option<(&'static str, &'static str)>,
}

impl Viewer {
    /// Those that are installed, hbpf first; each draws once a second.
    fn all() -> Vec<Self> {
        let other = |name, program: &str, arguments: &[&str], settings| {
            let arguments = arguments.iter().map(|argument| (*argument).to_owned()).collect();
            tool::find(program).map(|program| Self { name, program, arguments, settings })
        };
        let own = Self {
            name: "hbpf",
            program: hbpf_e2e::programs().hbpf.clone(),
            arguments: vec!["top".to_owned()],
            settings: None,
        };
        let others = [
            other("htop", "htop", &["-d", "10"], None),
            other("btop", "btop", &[], Some(("btop/btop.conf", "update_ms = 1000\n"))),
            other("bottom", "btm", &["--rate", "1000"], None),
        ];
        std::iter::once(own).chain(others.into_iter().flatten()).collect()
    }

    fn start(&self, home: &Path) -> Result<Terminal> {
        if let Some((file, content)) = self.settings {
            let path = home.join(file);
            fs::create_dir_all(path.parent().context("a file lies in a directory")?)?;
            fs::write(path, content)?;
        }
        let mut command = Command::new(&self.program);
        command.args(&self.arguments).env("HOME", home).env("XDG_CONFIG_HOME", home);
        command.env("TERM", "xterm-256color").env("LC_ALL", "C.UTF-8").env("COLORTERM", "truecolor");
        Ok(Terminal::start(&mut command, SIZE))
    }
}

/// What a viewer takes.
#[derive(Clone, Debug, Default)]
struct Cost {
    /// Seconds.
    first_frame: f64,
    /// Of a core.
    percent: f64,
    bytes_per_second: f64,
    /// Pages that are shared count for each by its part.
    memory_bytes: f64,
}

fn measure(context: &Context, viewer: &Viewer) -> Result<Cost> {
    let home = tempfile::tempdir()?;
    let mut starts = Vec::new();
    for _ in 1..context.effort.rounds / 2 {
        let (mut terminal, first) = first_frame(viewer, home.path())?;
        starts.push(first);
        terminal.press("q");
        terminal.read_for(Duration::from_millis(500));
    }
    let (mut terminal, first) = first_frame(viewer, home.path())?;
    starts.push(first);
    // What hbpf gets ready once is behind it by then.
    terminal.read_for(Duration::from_secs_f64(context.effort.settling * 2.0));
    let pids: Vec<u32> = std::iter::once(terminal.pid()).chain(children(terminal.pid())).collect();
    let used = || pids.iter().map(|pid| Ok(usage_of(*pid)?.cpu_seconds)).sum::<Result<f64>>();
    let (began, before) = (Instant::now(), used()?);
    let bytes = terminal.read_for(Duration::from_secs_f64(context.effort.seconds * MEASUREMENTS));
    let (seconds, after) = (began.elapsed().as_secs_f64(), used()?);
    let memory = pids.iter().map(|pid| memory(*pid)).sum::<Result<u64>>()?;
    terminal.press("q");
    terminal.read_for(Duration::from_millis(500));
    Ok(Cost {
        first_frame: quantile(&starts, 0.5),
        percent: (after - before) / seconds * 100.0,
        bytes_per_second: bytes as f64 / seconds,
        memory_bytes: memory as f64,
    })
}

fn first_frame(viewer: &Viewer, home: &Path) -> Result<(Terminal, f64)> {
    let began = Instant::now();
    let mut terminal = viewer.start(home)?;
    while without_sequences(&terminal.raw).chars().filter(|c| !c.is_whitespace()).count() < FIRST_FRAME {
        anyhow::ensure!(began.elapsed() < DEADLINE, "{} draws nothing", viewer.name);
        terminal.step();
    }
    Ok((terminal, began.elapsed().as_secs_f64()))
}

fn memory(pid: u32) -> Result<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:")).context("the kernel says what is shared")?;
    let kilobytes: u64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kilobytes * 1024)
}

pub(super) fn run(context: &Context) -> Result<Outcome> {
    let viewers = Viewer::all();
    if viewers.len() == 1 {
        return Ok(Outcome::Skipped(
            "none of htop, btop (Debian's packages) and bottom (cargo install bottom) is there".to_owned(),
        ));
    }
    let mut section = Section::default();
    let idle = costs(context, &viewers)?;
    table(&mut section, "On a machine that has little to do.", &viewers, &idle);
    let rows = if context.effort.rounds < 4 { ROWS / 10 } else { ROWS };
    let server = Server::start(&["--rate", RATE, "--tokens", "100000"]);
    let own = std::env::current_exe()?;
    let mut load = Children::default();
    for started in 1..=rows {
        load.spawn(Command::new(&own).arg("stream").arg(server.plain.to_string()))?;
        // Whoever finds no room in the queue of those that connect tries again after seconds.
        let give_up = Instant::now() + DEADLINE;
        while started % AT_ONCE == 0 && connections(server.plain)? < started {
            anyhow::ensure!(Instant::now() < give_up, "the processes do not begin to read");
            thread::sleep(Duration::from_millis(10));
        }
    }
    let busy = costs(context, &viewers)?;
    drop(load);
    let about = format!("While {rows} processes read an answer of a model each, a token a second.");
    table(&mut section, &about, &viewers, &busy);
    let number = |value: f64| format!("{value:.1}");
    let mut aim = |what: &str, of: fn(&Cost) -> f64, costs: &[Cost], text: &dyn Fn(f64) -> String| {
        let best = costs[1..].iter().map(of).fold(f64::INFINITY, f64::min);
        let own = of(&costs[0]);
        section.aim(what, format!("{} to {}", text(own), text(best)), own <= best);
    };
    let (percent, kilobytes) = (|value: f64| number(value) + " %", |value: f64| number(value / 1e3) + " KB/s");
    let (megabytes, milliseconds) =
        (|value: f64| number(value / 1e6) + " MB", |value: f64| number(value * 1e3) + " ms");
    aim("at rest: CPU like the best of them", |cost| cost.percent, &idle, &percent);
    aim("at rest: bytes to the terminal like the best of them", |cost| cost.bytes_per_second, &idle, &kilobytes);
    aim("at rest: memory like the best of them", |cost| cost.memory_bytes, &idle, &megabytes);
    aim("first frame like the best of them", |cost| cost.first_frame, &idle, &milliseconds);
    aim("1,000 rows: CPU like the best of them", |cost| cost.percent, &busy, &percent);
    aim("1,000 rows: bytes to the terminal like the best of them", |cost| cost.bytes_per_second, &busy, &kilobytes);
    aim("1,000 rows: memory like the best of them", |cost| cost.memory_bytes, &busy, &megabytes);
    let rest = idle[0].bytes_per_second;
    section.aim("at rest: below 10 KB/s", kilobytes(rest), rest < AT_REST);
    section
        .note("hbpf has its probes in meanwhile and reads what models are asked; the others look at processes alone.");
    section.note("CPU is in percent of a core, of all of a viewer's processes. Memory is what they have for themselves and their part of what they share (PSS). First frame: until 200 characters that are no blanks were drawn, the median of several starts.");
    Ok(Outcome::Done(section))
}

fn costs(context: &Context, viewers: &[Viewer]) -> Result<Vec<Cost>> {
    viewers.iter().map(|viewer| measure(context, viewer).with_context(|| viewer.name)).collect()
}

fn table(section: &mut Section, about: &str, viewers: &[Viewer], costs: &[Cost]) {
    let mut table = Table::new(&["", "CPU %", "KB/s to the terminal", "memory, MB", "first frame, ms"]);
    for (viewer, cost) in viewers.iter().zip(costs) {
        table.row([
            viewer.name.to_owned(),
            format!("{:.1}", cost.percent),
            format!("{:.2}", cost.bytes_per_second / 1e3),
            format!("{:.1}", cost.memory_bytes / 1e6),
            format!("{:.0}", cost.first_frame * 1e3),
        ]);
    }
    section.table(about, table);
}

/// Connections of a server.
fn connections(address: SocketAddr) -> Result<usize> {
    let all = procfs::net::tcp()?;
    let is_its = |entry: &&procfs::net::TcpNetEntry| {
        entry.local_address == address && entry.state == procfs::net::TcpState::Established
    };
    Ok(all.iter().filter(is_its).count())
}

/// A process that reads an answer after the other, until standard input ends.
pub(crate) fn stream(address: SocketAddr) -> Result<()> {
    thread::spawn(|| {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        std::process::exit(0);
    });
    let body = r#"{"model":"demo","stream":true,"messages":[{"role":"user","content":"on and on"}]}"#;
    let request = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\nConnection: close\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut buffer = [0; 4096];
    let mut read = || -> std::io::Result<()> {
        let mut connection = TcpStream::connect(address)?;
        connection.write_all(request.as_bytes())?;
        while connection.read(&mut buffer)? > 0 {}
        Ok(())
    };
    loop {
        if read().is_err() {
            // With so many at once there is no room for all of them at first.
            thread::sleep(Duration::from_millis(100));
        }
    }
}
