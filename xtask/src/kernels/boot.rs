//! A virtual machine's run, and what it has said on its console.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::Architecture;

/// How long a machine may run. An emulated one takes about a minute on an idle host.
const LIMIT: Duration = Duration::from_secs(600);

/// How often it is looked at whether it has ended.
const LOOK: Duration = Duration::from_millis(200);

/// Longest part of what a check says that is shown; all of it is in the log.
const MAX_DETAIL_CHARS: usize = 300;

/// Begins the lines of `demos/kernels` on the console.
const MARK: &str = "hbpf-kernels: ";

/// What must have been seen on every kernel.
const REQUIRED: [&str; 6] =
    ["kernel", "doctor", "plain as client", "plain as server", "connection counted", "nothing left behind"];

/// What must have been seen, too, where the kernel is not locked down.
const REQUIRED_UNLOCKED: [&str; 1] = ["tls as client"];

/// A machine to be started.
pub(super) struct Machine<'a> {
    pub(super) architecture: Architecture,
    pub(super) kernel: &'a Path,
    pub(super) image: &'a Path,
    pub(super) locked: bool,
}

impl Machine<'_> {
    /// Runs the machine until it switches itself off. What it writes to its console is kept in `log`.
    pub(super) fn run(&self, log: &Path) -> Result<Report> {
        let (machine, processor, console, emulation) = match self.architecture {
            // Its processors take turns: at the same time one was seen to run what the other had just patched (an `int3` that
            // was gone by then), and the kernel to die of it.
            Architecture::X86_64 => ("q35", "max", "ttyS0", "tcg,thread=single"),
            // The algorithm that authenticates pointers is slow to emulate; another one will do.
            Architecture::Aarch64 => ("virt", "max,pauth-impdef=on", "ttyAMA0", "tcg,thread=multi"),
        };
        let locked = if self.locked { " lockdown=confidentiality" } else { "" };
        let output = File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
        let child = Command::new(self.architecture.qemu())
            .args(["-accel", emulation, "-machine", machine, "-cpu", processor, "-smp", "2", "-m", "1024"])
            .args(["-nodefaults", "-nographic", "-no-reboot", "-net", "none", "-serial", "stdio"])
            .arg("-kernel")
            .arg(self.kernel)
            .arg("-initrd")
            .arg(self.image)
            // A panic ends the machine instead of keeping it.
            .args(["-append", &format!("console={console} panic=-1 quiet loglevel=1{locked}")])
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
            .with_context(|| format!("cannot start {}", self.architecture.qemu()))?;
        wait(child).with_context(|| format!("its console is in {}", log.display()))?;
        let console = fs::read(log)?;
        Ok(Report::of_console(&String::from_utf8_lossy(&console), log))
    }
}

fn wait(mut child: Child) -> Result<()> {
    let begun = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            ensure!(status.success(), "the machine ended with {status}");
            return Ok(());
        }
        if begun.elapsed() > LIMIT {
            child.kill()?;
            child.wait()?;
            bail!("the machine did not end within {} s", LIMIT.as_secs());
        }
        sleep(LOOK);
    }
}

/// What a machine has said.
pub(super) struct Report {
    lines: Vec<Line>,
    /// How many lines it says there were.
    said: Option<usize>,
    /// Where the rest can be read.
    log: String,
}

#[derive(Debug, PartialEq)]
struct Line {
    outcome: String,
    check: String,
    detail: String,
}

impl Report {
    fn of_console(console: &str, log: &Path) -> Self {
        let mut report = Self { lines: Vec::new(), said: None, log: log.display().to_string() };
        // The kernel may have written something in front.
        for said in console.lines().filter_map(|line| line.split_once(MARK)).map(|(_, said)| said.trim_end()) {
            let Some((outcome, rest)) = said.split_once(' ') else { continue };
            if outcome == "end" {
                report.said = rest.parse().ok();
                continue;
            }
            let (check, detail) = rest.split_once(':').unwrap_or((rest, ""));
            let [outcome, check, detail] = [outcome, check, detail].map(|part| part.trim().to_owned());
            report.lines.push(Line { outcome, check, detail });
        }
        report
    }

    fn of<'a>(&'a self, outcome: &'a str) -> impl Iterator<Item = &'a Line> {
        self.lines.iter().filter(move |line| line.outcome == outcome)
    }

    /// What came of it, in a line; an error where anything failed, or is missing.
    pub(super) fn judge(&self, series: Option<&str>, locked: bool) -> Result<String> {
        let log = &self.log;
        let cut = |line: &Line| format!("{}: {:.*}", line.check, MAX_DETAIL_CHARS, line.detail);
        let failed: Vec<String> = self.of("failed").map(cut).collect();
        ensure!(failed.is_empty(), "{} ({log})", failed.join("; "));
        ensure!(self.said == Some(self.lines.len()), "the machine ended early, or its console lost lines ({log})");
        let unlocked = REQUIRED_UNLOCKED.iter().filter(|_| !locked);
        for check in REQUIRED.iter().chain(unlocked) {
            ensure!(self.of("passed").any(|line| line.check == *check), "it says nothing of: {check} ({log})");
        }
        let kernel = self.lines.iter().find(|line| line.check == "kernel").map_or("", |line| &line.detail);
        let is_asked_for = series.is_none_or(|series| kernel.starts_with(&format!("{series}.")));
        ensure!(is_asked_for, "another kernel was booted: {kernel} ({log})");
        let count = |what: &str| self.of("passed").filter(|line| line.check.starts_with(what)).count();
        let absent: Vec<&str> = self.of("absent").map(|line| line.check.as_str()).collect();
        let (loaded, attached, groups) = (count("load "), count("attach "), count("group "));
        ensure!((locked || loaded > 0) && groups > 0, "no program was tried ({log})");
        let absent = if absent.is_empty() { "none".to_owned() } else { absent.join(", ") };
        let (programs, calls) = match locked {
            true => ("locked down".to_owned(), "a plain call"),
            false => (format!("{loaded} programs loaded, {attached} attached"), "a plain and a TLS call"),
        };
        Ok(format!("{kernel}: {programs} (not on this kernel: {absent}), {groups} groups on, {calls} counted right"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONSOLE: &str = "SeaBIOS\r\n\r\nhbpf-kernels: passed kernel: 6.1.0-50-cloud-amd64 x86_64\r\n\
        [   12.3] noise hbpf-kernels: passed load a: \r\n\
        hbpf-kernels: absent attach b: b: bpf_raw_tracepoint_open failed\r\n\
        hbpf-kernels: passed group llm-tls: ssl_read\r\n\
        hbpf-kernels: passed plain as client: x\r\nhbpf-kernels: passed plain as server: x\r\n\
        hbpf-kernels: passed tls as client: x\r\nhbpf-kernels: passed doctor: x\r\n\
        hbpf-kernels: passed connection counted: \r\nhbpf-kernels: passed nothing left behind: 0\r\n";

    fn judged(console: &str, series: Option<&str>) -> Result<String, String> {
        Report::of_console(console, Path::new("log")).judge(series, false).map_err(|error| error.to_string())
    }

    #[test]
    fn a_whole_console_without_failures_passes() {
        let summary = judged(&format!("{CONSOLE}hbpf-kernels: end 10\r\n"), Some("6.1")).unwrap();
        let expected = "6.1.0-50-cloud-amd64 x86_64: 1 programs loaded, 0 attached (not on this kernel: attach b)";
        assert!(summary.starts_with(expected), "{summary}");
    }

    #[test]
    fn whatever_is_missing_or_failed_does_not() {
        let whole = format!("{CONSOLE}hbpf-kernels: end 10\r\n");
        assert!(judged(CONSOLE, None).unwrap_err().contains("ended early"));
        assert!(judged(&whole.replace("passed load a", "noise"), None).unwrap_err().contains("lost lines"));
        assert!(judged(&whole, Some("6.12")).unwrap_err().contains("another kernel was booted: 6.1.0"));
        assert!(judged(&whole, Some("6")).is_ok());
        let error = judged(&whole.replace("passed load a: ", "failed load a: why: not"), None).unwrap_err();
        assert_eq!(error, "load a: why: not (log)");
        let error = judged(&whole.replace("tls as client", "tls as nobody"), None).unwrap_err();
        assert!(error.contains("nothing of: tls as client"), "{error}");
        assert!(judged("", None).is_err());
    }
}
