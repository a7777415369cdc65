//! hbpf's two processes without a view: groups are switched by lines on standard input, frames go to standard output.
//!
//! What switches groups in `hbpf top` is a key; here whoever measures does it, and learns when it is done.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use hbpf_core::prices::Prices;
use hbpf_core::snapshot::Snapshot;
use hbpf_host::collector::{Collector, Options, Update};
use hbpf_host::privsep::{self, SplitOptions};
use hbpf_host::protocol::Group;

/// What rates are over, as in the live view.
const WINDOW: Duration = Duration::from_secs(5);
/// Between two frames.
const INTERVAL: Duration = Duration::from_secs(1);
/// How long switching a group may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// Asks for a frame at once.
const NOW: &str = "now";
/// Whoever started us has let go of us.
static ENDING: AtomicBool = AtomicBool::new(false);

/// Runs as the two processes, until standard input ends.
pub(crate) fn main() -> Result<()> {
    let helper = privsep::split(&SplitOptions { engines: true, ..SplitOptions::default() }).context("cannot start")?;
    privsep::confine().context("cannot start")?;
    let options = Options {
        groups: Vec::new(),
        window: WINDOW,
        interval: Some(INTERVAL),
        max_overhead: None,
        max_bytes_per_second: 0,
        engines: true,
        prices: Prices::built_in().clone(),
        series: false,
    };
    let collector = Collector::start(helper, options, |update| match update {
        Update::Snapshot(snapshot) => print(&snapshot),
        // The end that we ask for is no news.
        Update::Ended(why) if !ENDING.load(Ordering::Relaxed) => eprintln!("{why}"),
        Update::Ended(_) => {}
    })?;
    for line in std::io::stdin().lines() {
        let line = line?;
        match line.split_once(' ') {
            _ if line == NOW => collector.take_now(),
            Some((name, state)) => {
                let group = Group::ALL.into_iter().find(|group| group.name() == name);
                collector.set_group(group.with_context(|| format!("there is no group {name}"))?, state == "on");
            }
            None => bail!("{line:?} is no command"),
        }
    }
    ENDING.store(true, Ordering::Relaxed);
    Ok(())
}

fn print(snapshot: &Snapshot) {
    let mut line = serde_json::to_vec(snapshot).expect("snapshots can be written");
    line.push(b'\n');
    // Whoever started us may have gone; standard input tells.
    let _ = std::io::stdout().lock().write_all(&line);
}

/// The two processes, seen from outside.
pub(crate) struct Subject {
    child: Child,
    input: Option<ChildStdin>,
    frames: Receiver<Snapshot>,
}

impl Subject {
    /// Starts them, with all groups off, and waits for the first frame.
    pub(crate) fn start() -> Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg("subject")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start hbpf's processes")?;
        let input = child.stdin.take();
        let output = BufReader::new(child.stdout.take().context("its output is piped")?);
        let (sender, frames) = channel();
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                let Ok(frame) = serde_json::from_str(&line) else { break };
                if sender.send(frame).is_err() {
                    break;
                }
            }
        });
        let mut subject = Self { child, input, frames };
        subject.next(PATIENCE)?;
        Ok(subject)
    }

    /// The unprivileged process and the helper.
    pub(crate) fn pids(&self) -> Result<[u32; 2]> {
        let own = self.child.id();
        let helper = hbpf_e2e::children(own).first().copied().context("the helper has gone")?;
        Ok([own, helper])
    }

    /// Asks for a group to be switched.
    pub(crate) fn switch(&mut self, group: Group, on: bool) -> Result<()> {
        let state = if on { "on" } else { "off" };
        self.say(&format!("{} {state}\n{NOW}", group.name()))
    }

    /// Frames that have come; none is a frame too few.
    pub(crate) fn next(&mut self, patience: Duration) -> Result<Snapshot> {
        match self.frames.recv_timeout(patience) {
            Ok(frame) => Ok(frame),
            Err(RecvTimeoutError::Timeout) => bail!("hbpf's processes give no frame"),
            Err(RecvTimeoutError::Disconnected) => bail!("hbpf's processes have ended"),
        }
    }

    /// Takes frames until one is as it should be; all go to `see`.
    pub(crate) fn until(
        &mut self,
        what: &str,
        mut see: impl FnMut(&Snapshot),
        holds: impl Fn(&Snapshot) -> bool,
    ) -> Result<()> {
        let give_up = Instant::now() + PATIENCE;
        loop {
            let left = give_up.saturating_duration_since(Instant::now());
            let frame = self.next(left).with_context(|| format!("waiting until {what}"))?;
            see(&frame);
            if holds(&frame) {
                return Ok(());
            }
        }
    }

    fn say(&mut self, line: &str) -> Result<()> {
        let input = self.input.as_mut().context("it is there until we end it")?;
        writeln!(input, "{line}").context("hbpf's processes have ended")
    }
}

impl Drop for Subject {
    fn drop(&mut self) {
        self.input = None;
        let _ = self.child.wait();
    }
}
