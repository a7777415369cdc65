//! What a process pays that neither networks nor speaks TLS.

use std::io::{PipeReader, PipeWriter, Read, Write, pipe};
use std::process::{Command, Stdio};
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use super::{Context, Outcome};
use crate::compare::{Arm, Better, Rounds, in_turns};
use crate::hbpf::Hbpf;
use crate::report::{Section, Table};

/// Bytes between two looks at the clock.
const BATCH: u32 = 256;

pub(super) fn run(context: &Context) -> Result<Outcome> {
    let duration = Duration::from_secs_f64(context.effort.seconds);
    let (mut reader, mut writer) = pipe()?;
    // With hbpf there is a thread that reads what it says, and a process with more than one thread pays more for each look at its
    // descriptors. So there always is one more.
    let (_end, waits_for_end) = channel::<()>();
    thread::spawn(move || waits_for_end.recv());
    let [bytes, starts] = in_turns(context.effort.rounds, &[Arm::Without, Arm::With], |arm| {
        let _hbpf = (arm == Arm::With).then(Hbpf::start).transpose()?;
        Ok([bytes_per_second(&mut reader, &mut writer, duration)?, starts_per_second(duration)?])
    })?;
    let mut section = Section::default();
    let mut table = Table::new(&["per second", "without hbpf", "with", "cost (middle half)", "noise"]);
    for (what, rounds) in [("1-byte write and read of a pipe", &bytes), ("fork, exec and wait for true", &starts)] {
        table.row([
            what.to_owned(),
            format!("{:.0}", rounds.median(Arm::Without)),
            format!("{:.0}", rounds.median(Arm::With)),
            rounds.cost(Arm::With, Better::More).to_string(),
            format!("{:.1} %", rounds.noise()),
        ]);
    }
    section.table(
        "One process, without and with `hbpf snapshot --interval 1s` beside it; noise is what neighbouring rounds without \
         hbpf differ by.",
        table,
    );
    aim(&mut section, "pipe: no difference beyond noise", &bytes);
    aim(&mut section, "fork and exec: no difference beyond noise", &starts);
    Ok(Outcome::Done(section))
}

fn aim(section: &mut Section, what: &str, rounds: &Rounds) {
    let cost = rounds.cost(Arm::With, Better::More);
    section.aim(what, cost.to_string(), rounds.is_noise(Arm::With, Better::More));
}

fn bytes_per_second(reader: &mut PipeReader, writer: &mut PipeWriter, duration: Duration) -> Result<f64> {
    let started = Instant::now();
    let mut count = 0_u32;
    let mut byte = [0];
    while started.elapsed() < duration {
        for _ in 0..BATCH {
            writer.write_all(&[1])?;
            reader.read_exact(&mut byte)?;
        }
        count += BATCH;
    }
    Ok(f64::from(count) / started.elapsed().as_secs_f64())
}

fn starts_per_second(duration: Duration) -> Result<f64> {
    let started = Instant::now();
    let mut count = 0_u32;
    while started.elapsed() < duration {
        let status = Command::new("true").stdin(Stdio::null()).status().context("cannot run true")?;
        ensure!(status.success(), "true ended with {status}");
        count += 1;
    }
    Ok(f64::from(count) / started.elapsed().as_secs_f64())
}
