//! How long it takes to put probes in place, and how much of that is the kernel's verifier.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use aya::programs::Program;
use hbpf_core::snapshot::Snapshot;
use hbpf_host::protocol::Group;

use super::{Context, Outcome};
use crate::compare::quantile;
use crate::hbpf::is_on;
use crate::report::{Section, Table};
use crate::{empty, subject::Subject};

/// Programs of a group, and where they are.
#[derive(Default)]
struct Places {
    programs: BTreeSet<String>,
    count: usize,
}

pub(super) fn run(context: &Context) -> Result<Outcome> {
    let mut section = Section::default();
    let verified = verify(context)?;
    let mut subject = Subject::start()?;
    let mut table = Table::new(&["group", "programs", "places", "attach", "verifying", "detach"]);
    for group in Group::ALL {
        let (mut on, mut off, mut places) = (Vec::new(), Vec::new(), Places::default());
        for _ in 0..context.effort.rounds {
            on.push(switch(&mut subject, group, true, &mut places)?.as_secs_f64());
            off.push(switch(&mut subject, group, false, &mut Places::default())?.as_secs_f64());
        }
        let verifying: f64 = places.programs.iter().filter_map(|name| verified.get(name)).sum();
        table.row([
            group.name().to_owned(),
            places.programs.len().to_string(),
            places.count.to_string(),
            format!("{:.0} ms", quantile(&on, 0.5) * 1e3),
            format!("{:.0} ms", verifying * 1e3),
            format!("{:.0} ms", quantile(&off, 0.5) * 1e3),
        ]);
    }
    section.table(
        "From the request to the first frame that says so, each group alone: maps are made, programs loaded and, for TLS, \
         processes looked through. Medians. Verifying: what loading the group's programs takes one \
         after the other; they are loaded some at a time.",
        table,
    );
    let mut table = Table::new(&["program", "ms to load"]);
    for (name, seconds) in &verified {
        table.row([name.clone(), format!("{:.1}", seconds * 1e3)]);
    }
    section.table("Loading one program: verifier and translation to machine code.", table);
    Ok(Outcome::Done(section))
}

fn switch(subject: &mut Subject, group: Group, on: bool, places: &mut Places) -> Result<Duration> {
    let started = Instant::now();
    subject.switch(group, on)?;
    let see = |frame: &Snapshot| {
        let of_group: Vec<_> = frame.capture.probes.iter().filter(|probe| probe.group == group.name()).collect();
        places.programs = of_group.iter().map(|probe| probe.program.to_string()).collect();
        places.count = of_group.len();
    };
    let name = group.name();
    subject.until(&format!("{name} is switched"), see, |frame| is_on(frame, name) == on)?;
    Ok(started.elapsed())
}

/// Seconds that the kernel takes to load each program: medians.
fn verify(context: &Context) -> Result<BTreeMap<String, f64>> {
    let mut all: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    for _ in 0..context.effort.rounds {
        let mut ebpf = empty::load_object()?;
        for (name, program) in ebpf.programs_mut() {
            let started = Instant::now();
            load(program).with_context(|| format!("cannot load {name}"))?;
            all.entry(name.to_owned()).or_default().push(started.elapsed().as_secs_f64());
        }
    }
    Ok(all.into_iter().map(|(name, values)| (name, quantile(&values, 0.5))).collect())
}

fn load(program: &mut Program) -> Result<()> {
    match program {
        Program::UProbe(program) => program.load()?,
        Program::CgroupSkb(program) => program.load()?,
        Program::CgroupSock(program) => program.load()?,
        Program::CgroupSockAddr(program) => program.load()?,
        Program::RawTracePoint(program) => program.load()?,
        Program::SockOps(program) => program.load()?,
        Program::CgroupDevice(program) => program.load()?,
        Program::TracePoint(program) => program.load()?,
        other => anyhow::bail!("{:?} programs are new here", other.prog_type()),
    }
    Ok(())
}
