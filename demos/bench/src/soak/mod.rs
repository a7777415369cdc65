//! `soak`: the demo's load with clients that come and go, while probe groups are switched on and off, for as long as wanted.
//!
//! What must hold: memory, descriptors and what is in the kernel stay as they are, and every exchange that lies wholly
//! within a time in which its probes were in place is told as the server wrote it down.

mod check;
mod clients;
mod kernel;
mod verdict;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use hbpf_core::snapshot::Snapshot;
use hbpf_e2e::Server;
use hbpf_host::protocol::Group;

use crate::hbpf::{is_on, usage_of};
use crate::load::clock;
use crate::subject::Subject;
use check::{Attached, Seen};
use clients::Clients;
use kernel::Held;
use verdict::Sample;

/// How long groups stay as they are, in a run of an hour.
const PHASE: Duration = Duration::from_secs(60);
/// The same in short runs: time for exchanges to lie within.
const SHORTEST_PHASE: Duration = Duration::from_secs(10);
/// Times that each phase comes at the least, warm-up included.
const CYCLES: u32 = 2;
/// After each of them all groups are on again.
const OFF: [&[Group]; 3] = [&[Group::LlmTls], &[Group::LlmPlain], &[Group::LlmTls, Group::LlmPlain]];
/// Between two samples of memory.
const SAMPLE: Duration = Duration::from_secs(2);
/// How long answers may take that are under way at the end.
const LAST_ANSWERS: Duration = Duration::from_secs(10);
/// As in the demo.
const SERVER: [&str; 6] = ["--ttft", "300", "--rate", "40", "--fault-share", "0.03"];

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// How long, such as 2m or 1h
    #[arg(long = "for", value_name = "DURATION", default_value = "1h", value_parser = humantime::parse_duration)]
    duration: Duration,
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    ensure!(nix::unistd::geteuid().is_root(), "loading probes needs root: run it with sudo");
    crate::use_programs_beside_us()?;
    let phases = u32::try_from(OFF.len())? * 2;
    let phase = (arguments.duration / phases / (CYCLES + 1)).clamp(SHORTEST_PHASE, PHASE);
    let mut soak = Soak::start()?;
    println!("{}", verdict::HEAD);
    let until = Instant::now() + arguments.duration;
    for off in OFF.into_iter().cycle() {
        soak.phase(&[], phase)?;
        soak.phase(off, phase)?;
        if Instant::now() >= until {
            break;
        }
    }
    soak.end()
}

/// A soak under way.
struct Soak {
    server: Server,
    clients: Clients,
    subject: Subject,
    pids: [u32; 2],
    started: Instant,
    /// When each group's probes were in place.
    attached: Attached,
    seen: Seen,
    samples: Vec<Sample>,
    held: Held,
}

impl Soak {
    fn start() -> Result<Self> {
        let server = Server::start(&SERVER);
        let clients = Clients::start(&server)?;
        let subject = Subject::start()?;
        let pids = subject.pids()?;
        let seen = Seen::at_ports([server.plain.port(), server.tls.port()]);
        let (started, attached) = (Instant::now(), Attached::default());
        Ok(Self { server, clients, subject, pids, started, attached, seen, samples: Vec::new(), held: Held::default() })
    }

    /// Switches these groups off and all others on, and lets that be for a while.
    fn phase(&mut self, off: &'static [Group], length: Duration) -> Result<()> {
        for group in Group::ALL {
            self.switch(group, !off.contains(&group))?;
        }
        let (end, mut next_sample) = (Instant::now() + length, Instant::now() + SAMPLE);
        while Instant::now() < end {
            self.clients.churn(&self.server)?;
            let frame = self.subject.next(length)?;
            self.seen.take(&frame)?;
            if Instant::now() >= next_sample {
                next_sample += SAMPLE;
                self.sample(off, &frame)?;
            }
        }
        self.held.note(self.pids[1])?;
        let sample = self.samples.last_mut().context("phases are longer than what lies between two samples")?;
        sample.ends_phase = true;
        println!("{}", sample.line(self.seen.count(), self.server.record().len()));
        Ok(())
    }

    fn switch(&mut self, group: Group, on: bool) -> Result<()> {
        if !on {
            self.attached.ends(group, clock());
        }
        self.subject.switch(group, on)?;
        let (name, seen) = (group.name(), &mut self.seen);
        let mut all = Ok(());
        let see = |frame: &Snapshot| {
            if all.is_ok() {
                all = seen.take(frame);
            }
        };
        self.subject.until(&format!("{name} is switched"), see, |frame| is_on(frame, name) == on)?;
        all?;
        if on {
            self.attached.begins(group, clock());
        }
        Ok(())
    }

    fn sample(&mut self, off: &'static [Group], frame: &Snapshot) -> Result<()> {
        let [own, helper] = self.pids;
        let lost = &frame.capture.lost;
        self.samples.push(Sample {
            seconds: self.started.elapsed().as_secs_f64(),
            off,
            resident_bytes: [usage_of(own)?.resident_bytes, usage_of(helper)?.resident_bytes],
            descriptors: [kernel::descriptors(own)?, kernel::descriptors(helper)?],
            in_kernel: kernel::in_kernel(helper)?,
            libraries: libraries(frame),
            lost: lost.ring_full.chunks + lost.read_fault + lost.map_full + lost.over_budget,
            ends_phase: false,
        });
        Ok(())
    }

    /// Waits for what is under way, ends everything, and judges.
    fn end(mut self) -> Result<ExitCode> {
        let deserters = self.clients.deserters();
        ensure!(
            deserters == 0,
            "{deserters} clients have ended by themselves: this was not the load that it should be"
        );
        self.clients.end();
        let end = Instant::now() + LAST_ANSWERS;
        while Instant::now() < end {
            let frame = self.subject.next(LAST_ANSWERS)?;
            self.seen.take(&frame)?;
        }
        Group::ALL.into_iter().for_each(|group| self.attached.ends(group, clock()));
        drop(self.subject);
        let left = self.held.left_in_kernel()?;
        let exchanges = check::compare(&self.server.record(), &self.seen, &self.attached, self.clients.killed());
        let problems = verdict::problems(&self.samples, &exchanges, &left);
        println!("\n{exchanges}");
        for problem in &problems {
            println!("FAILED: {problem}");
        }
        if exchanges.compared == 0 {
            bail!("no exchange lay wholly within a time in which its probes were in place: the run was too short");
        }
        println!(
            "{}",
            if problems.is_empty() { "flat, and equal to the server's record" } else { "not as it should be" }
        );
        Ok(if problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

/// How many TLS libraries are probed: each is a descriptor and some links.
fn libraries(frame: &Snapshot) -> usize {
    let tls = frame.capture.probes.iter().filter(|probe| probe.group == Group::LlmTls.name());
    // The programs on starts and ends of processes are shown with the first group that is on.
    let files = tls.filter(|probe| probe.attached_to.as_str().starts_with('/'));
    files.map(|probe| &probe.attached_to).collect::<std::collections::BTreeSet<_>>().len()
}
