//! hbpf as its users run it, while something else is measured.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use hbpf_core::snapshot::{ProbeState, Snapshot};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use procfs::process::Process;

/// How long hbpf may take to put its probes in place.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running `hbpf snapshot --json --interval 1s`.
///
/// Its frames are not parsed until somebody asks: that would cost the machine that is being measured.
pub(crate) struct Hbpf {
    child: Child,
    latest: Arc<Latest>,
    errors: tempfile::NamedTempFile,
}

/// The line that came last, and how many have come.
#[derive(Default)]
struct Latest {
    line: Mutex<Line>,
    came: Condvar,
}

#[derive(Default)]
struct Line {
    text: String,
    number: u64,
    ended: bool,
}

/// What the processes of one program have used so far.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Usage {
    /// CPU time in user and kernel mode.
    pub(crate) cpu_seconds: f64,
    /// Resident memory.
    pub(crate) resident_bytes: u64,
}

impl Hbpf {
    /// Starts it as users do and waits until plain traffic and at least one TLS library are probed. It may thin or take
    /// out what costs more than its default bound.
    pub(crate) fn start() -> Result<Self> {
        Self::start_with(&[])
    }

    /// The same, but it goes on observing whatever that costs.
    pub(crate) fn start_unbounded() -> Result<Self> {
        Self::start_with(&["--max-overhead", "off"])
    }

    fn start_with(arguments: &[&str]) -> Result<Self> {
        let hbpf = Self::spawn(arguments, &[])?;
        for group in ["llm-tls", "llm-plain"] {
            hbpf.until(&format!("{group} is on"), |frame| is_on(frame, group))?;
        }
        Ok(hbpf)
    }

    /// Starts it with these groups alone and waits until they are on.
    pub(crate) fn start_counting(groups: &[&str]) -> Result<Self> {
        let hbpf = Self::spawn(&["--max-overhead", "off", "--groups", &groups.join(",")], &[])?;
        for group in groups {
            hbpf.until(&format!("{group} is on"), |frame| is_on(frame, group))?;
        }
        Ok(hbpf)
    }

    /// Starts it without any probes, with these variables in its environment, and waits for its first frame.
    pub(crate) fn start_unprobed(arguments: &[&str], environment: &[(&str, &Path)]) -> Result<Self> {
        let hbpf = Self::spawn(&[&["--no-tls", "--no-plain"], arguments].concat(), environment)?;
        hbpf.frame()?;
        Ok(hbpf)
    }

    fn spawn(arguments: &[&str], environment: &[(&str, &Path)]) -> Result<Self> {
        let errors = tempfile::NamedTempFile::new()?;
        let mut child = Command::new(&hbpf_e2e::programs().hbpf)
            .args(["snapshot", "--json", "--interval", "1s"])
            .args(arguments)
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(File::create(errors.path())?)
            .spawn()
            .context("hbpf does not start")?;
        let output = child.stdout.take().context("its output is piped")?;
        let latest = Arc::new(Latest::default());
        let shared = Arc::clone(&latest);
        thread::spawn(move || shared.read(BufReader::new(output)));
        Ok(Self { child, latest, errors })
    }

    /// The first frame from now on that is as it should be.
    pub(crate) fn until(&self, what: &str, holds: impl Fn(&Snapshot) -> bool) -> Result<Snapshot> {
        let give_up = Instant::now() + PATIENCE;
        let mut seen = 0;
        loop {
            let (frame, number) = self.after(seen, give_up).with_context(|| format!("waiting until {what}"))?;
            if holds(&frame) {
                return Ok(frame);
            }
            seen = number;
        }
    }

    /// A frame all of which was taken after this call.
    pub(crate) fn frame(&self) -> Result<Snapshot> {
        // The next one may be under way already.
        let seen = self.latest.lock().number + 1;
        Ok(self.after(seen, Instant::now() + PATIENCE)?.0)
    }

    /// The next frames, as many as this, without a gap.
    pub(crate) fn frames(&self, count: usize) -> Result<Vec<Snapshot>> {
        let mut seen = self.latest.lock().number;
        let mut frames = Vec::with_capacity(count);
        while frames.len() < count {
            let (frame, number) = self.after(seen, Instant::now() + PATIENCE)?;
            ensure!(frames.is_empty() || number == seen + 1, "a frame was missed");
            frames.push(frame);
            seen = number;
        }
        Ok(frames)
    }

    fn after(&self, seen: u64, give_up: Instant) -> Result<(Snapshot, u64)> {
        let mut line = self.latest.lock();
        while line.number <= seen {
            let errors = || std::fs::read_to_string(self.errors.path()).unwrap_or_default();
            ensure!(!line.ended, "hbpf has ended: {}", errors());
            let left = give_up.saturating_duration_since(Instant::now());
            if left.is_zero() {
                bail!("no frame came in time: {}", errors());
            }
            line = self.latest.came.wait_timeout(line, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        Ok((serde_json::from_str(&line.text).context("hbpf writes snapshots")?, line.number))
    }

    /// What all its processes have used.
    pub(crate) fn usage(&self) -> Result<Usage> {
        let own = self.child.id();
        let mut sum = Usage::default();
        for pid in std::iter::once(own).chain(hbpf_e2e::children(own)) {
            let usage = usage_of(pid)?;
            sum.cpu_seconds += usage.cpu_seconds;
            sum.resident_bytes += usage.resident_bytes;
        }
        Ok(sum)
    }
}

impl Drop for Hbpf {
    fn drop(&mut self) {
        if let Ok(pid) = i32::try_from(self.child.id()) {
            // An error means that it has ended already.
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
        let _ = self.child.wait();
    }
}

impl Latest {
    fn read(&self, lines: impl BufRead) {
        for text in lines.lines().map_while(Result::ok) {
            let mut line = self.lock();
            (line.text, line.number) = (text, line.number + 1);
            self.came.notify_all();
        }
        self.lock().ended = true;
        self.came.notify_all();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Line> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a group's probes are in place.
pub(crate) fn is_on(frame: &Snapshot, group: &str) -> bool {
    frame.capture.probes.iter().any(|probe| probe.group == group && probe.state == ProbeState::On)
}

/// What one process has used.
pub(crate) fn usage_of(pid: u32) -> Result<Usage> {
    let process = Process::new(i32::try_from(pid)?).with_context(|| format!("process {pid} has gone"))?;
    let stat = process.stat()?;
    let ticks = stat.utime + stat.stime;
    Ok(Usage {
        cpu_seconds: ticks as f64 / procfs::ticks_per_second() as f64,
        resident_bytes: stat.rss * procfs::page_size(),
    })
}
