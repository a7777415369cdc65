//! What hbpf itself uses, at three rates of tokens.

use std::collections::BTreeMap;
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::Result;
use hbpf_core::snapshot::Snapshot;
use hbpf_e2e::Server;

use super::{Context, Outcome};
use crate::hbpf::Hbpf;
use crate::load::{Children, clock};
use crate::report::{Section, Table};
use crate::tool;

/// Measurements' worth of load.
const MEASUREMENTS: f64 = 10.0;
/// Seconds that one answer takes: short enough that the stand-in server, which makes an answer before it sends it, keeps
/// little.
const ANSWER_SECONDS: u32 = 2;
/// Resident memory that both processes together are to stay below.
const AIM_BYTES: u64 = 60_000_000;

/// A rate of tokens.
struct Load {
    streams: u32,
    /// Of each stream.
    rate: u32,
    /// Events of one write of the server.
    at_once: u32,
    /// Percent of a core that hbpf is to stay below, where something is aimed at.
    aim: Option<f64>,
}

const LOADS: [Load; 4] = [
    Load { streams: 10, rate: 50, at_once: 1, aim: None },
    Load { streams: 50, rate: 100, at_once: 1, aim: Some(5.0) },
    Load { streams: 50, rate: 1000, at_once: 10, aim: Some(10.0) },
    Load { streams: 50, rate: 1000, at_once: 1, aim: None },
];

/// What was measured.
struct Measured {
    tokens_per_second: f64,
    /// Percent of a core: both processes.
    own: f64,
    /// Percent of a core: the programs in the kernel.
    kernel: f64,
    /// Percent of a core: the traps that lead to them, estimated, where hbpf says so.
    traps: f64,
    resident_bytes: u64,
    lost: u64,
}

pub(super) fn run(context: &Context) -> Result<Outcome> {
    if tool::find("curl").is_none() {
        return Ok(Outcome::Skipped("needs curl".into()));
    }
    let mut section = Section::default();
    let heads = [
        "tokens/s",
        "events a write",
        "reached",
        "hbpf",
        "in the kernel",
        "traps (estimate)",
        "memory",
        "records lost",
    ];
    let mut memory = 0;
    for (carrier, tls) in [("over TLS, seen at the client", true), ("plain, seen at both ends", false)] {
        let mut table = Table::new(&heads);
        for load in LOADS.iter().take(context.effort.loads) {
            let measured = measure(context, load, tls)?;
            let asked = f64::from(load.streams * load.rate);
            let percent = |value: f64| format!("{value:.1} %");
            table.row([
                format!("{asked:.0}"),
                load.at_once.to_string(),
                format!("{:.0}", measured.tokens_per_second),
                percent(measured.own),
                percent(measured.kernel),
                percent(measured.traps),
                format!("{:.0} MB", measured.resident_bytes as f64 / 1e6),
                measured.lost.to_string(),
            ]);
            memory = memory.max(measured.resident_bytes);
            if let Some(aim) = load.aim {
                let used = measured.own + measured.kernel;
                section.aim(
                    &format!("{asked:.0} tokens/s {carrier}: below {aim} % of a core"),
                    percent(used),
                    used < aim,
                );
            }
        }
        section.table(&format!("Tokens {carrier}; percent of one core."), table);
    }
    let megabytes = format!("{:.0} MB", memory as f64 / 1e6);
    section.aim(
        &format!("memory of both processes: below {} MB", AIM_BYTES / 1_000_000),
        megabytes,
        memory < AIM_BYTES,
    );
    section.note("Each stream is a curl; the stand-in server paces them and says what was reached.");
    section.note("Aims count hbpf's two processes and its programs in the kernel; traps are paid by the clients.");
    Ok(Outcome::Done(section))
}

fn measure(context: &Context, load: &Load, tls: bool) -> Result<Measured> {
    let server = Server::start(&["--ttft", "0"]);
    let hbpf = Hbpf::start_unbounded()?;
    let url = if tls { server.tls_url() } else { server.plain_url() };
    let model = format!("demo-{}tps-{}tok-{}atonce", load.rate, load.rate * ANSWER_SECONDS, load.at_once);
    let body = format!(
        r#"{{"model":"{model}","stream":true,"stream_options":{{"include_usage":true}},"messages":[{{"role":"user","content":"Say something about bees."}}]}}"#
    );
    let mut clients = Children::default();
    for _ in 0..load.streams {
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--no-buffer", "--data", &body, "--cacert"]).arg(server.certificate("ca.pem"));
        // One after the other on one connection, for ever.
        clients.spawn(curl.arg(format!("{url}/v1/chat/completions?n=[1-1000000]")))?;
    }
    thread::sleep(Duration::from_secs_f64(context.effort.settling));

    let frame_before = hbpf.frame()?;
    let (from, usage_before) = (clock(), hbpf.usage()?);
    thread::sleep(Duration::from_secs_f64(context.effort.seconds * MEASUREMENTS));
    let (to, usage) = (clock(), hbpf.usage()?);
    let frame = hbpf.frame()?;
    // Answers that were under way are in the record when they have ended.
    thread::sleep(Duration::from_secs(u64::from(ANSWER_SECONDS) + 1));
    drop(clients);

    let sent = server.record().iter().flat_map(|entry| &entry.token_ns).filter(|at| (from..to).contains(*at)).count();
    let seconds = (to - from) as f64 / 1e9;
    let framed = frame.observed_seconds - frame_before.observed_seconds;
    let share = |of: fn(&Snapshot) -> f64| (of(&frame) - of(&frame_before)) / framed * 100.0;
    Ok(Measured {
        tokens_per_second: sent as f64 / seconds,
        own: (usage.cpu_seconds - usage_before.cpu_seconds) / seconds * 100.0,
        kernel: share(program_seconds),
        traps: share(trap_seconds),
        resident_bytes: usage.resident_bytes,
        lost: frame.capture.lost.ring_full.chunks - frame_before.capture.lost.ring_full.chunks,
    })
}

/// A program's numbers are those of all its places, and each place repeats them.
fn program_seconds(frame: &Snapshot) -> f64 {
    let probes = frame.capture.probes.iter();
    let programs: BTreeMap<_, _> =
        probes.map(|probe| (&probe.program, probe.run_seconds_total.unwrap_or(0.0))).collect();
    programs.values().sum()
}

fn trap_seconds(frame: &Snapshot) -> f64 {
    let probes = frame.capture.probes.iter();
    let programs: BTreeMap<_, _> =
        probes.map(|probe| (&probe.program, probe.trap_seconds_estimated.unwrap_or(0.0))).collect();
    programs.values().sum()
}
