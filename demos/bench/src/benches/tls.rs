//! Bulk TLS of a process that has nothing to do with models.

use std::process::Command;

use anyhow::{Context as _, Result};
use hbpf_e2e::{Client, Server};
use serde_json::Value;

use super::{Context, Outcome};
use crate::compare::{Arm, Better, in_turns};
use crate::empty::Empty;
use crate::hbpf::Hbpf;
use crate::report::{Section, Table};
use crate::tool;

/// What bulk TLS may lose, in percent.
const AIM_PERCENT: f64 = 5.0;

/// Of one measurement: speed, and nanoseconds per call.
const MEASURED: [&str; 3] = ["mb_per_second", "write_ns", "read_ns"];

pub(super) fn run(context: &Context) -> Result<Outcome> {
    let Some(python) = tool::python_with("ssl") else {
        return Ok(Outcome::Skipped("needs python3 with its module ssl".into()));
    };
    // Only its certificates are needed.
    let server = Server::start(&[]);
    let certificates = ["server.pem", "server-key.pem", "ca.pem"].map(|name| server.certificate(name));
    let mut mover = Client::start(Command::new(python).arg(hbpf_e2e::script("clients/tls_bulk.py")).args(certificates));
    let effort = context.effort;
    let [speed, write, read] = in_turns(effort.rounds, &[Arm::Without, Arm::With, Arm::Empty], |arm| {
        let _hbpf = (arm == Arm::With).then(Hbpf::start).transpose()?;
        let _empty = (arm == Arm::Empty).then(Empty::in_libraries).transpose()?;
        // hbpf is to judge what it sees, and to act on it, while the process works as it does.
        mover.tell(&effort.settling.to_string());
        values(&mover.tell(&effort.seconds.to_string()))
    })?;
    let mut section = Section::default();
    let mut table = Table::new(&["", "without hbpf", "with", "cost (middle half)", "empty programs", "noise"]);
    let rows = [
        ("MB/s, written and read", &speed, Better::More),
        ("ns per write of 16 KiB", &write, Better::Less),
        ("ns per read of 16 KiB", &read, Better::Less),
    ];
    for (what, rounds, better) in rows {
        table.row([
            what.to_owned(),
            format!("{:.0}", rounds.median(Arm::Without)),
            format!("{:.0}", rounds.median(Arm::With)),
            rounds.cost(Arm::With, better).to_string(),
            rounds.cost(Arm::Empty, better).to_string(),
            format!("{:.1} %", rounds.noise()),
        ]);
    }
    section.table(
        &format!(
            "A download over TLS in one Python process, both ends in it, joined by memory; measured {:.0} s after hbpf \
             has begun to see it. The same probes with empty programs are the floor for probes in this process.",
            effort.settling
        ),
        table,
    );
    let added = |rounds: &crate::compare::Rounds, arm| rounds.median(arm) - rounds.median(Arm::Without);
    section.note(format!(
        "Added per call by hbpf: {:.0} ns (write), {:.0} ns (read); by the same probes with empty programs: {:.0} ns, \
         {:.0} ns.",
        added(&write, Arm::With),
        added(&read, Arm::With),
        added(&write, Arm::Empty),
        added(&read, Arm::Empty),
    ));
    let cost = speed.cost(Arm::With, Better::More);
    let verdict = speed.verdict(Arm::With, Better::More, AIM_PERCENT);
    section.aim(&format!("bulk TLS: below {AIM_PERCENT} %"), cost.to_string(), verdict);
    Ok(Outcome::Done(section))
}

fn values(said: &Value) -> Result<[f64; 3]> {
    let mut values = [0.0; 3];
    for (value, name) in values.iter_mut().zip(MEASURED) {
        *value = said[name].as_f64().with_context(|| format!("the client says no {name}"))?;
    }
    Ok(values)
}
