//! Every eBPF program by itself.

use hbpf_host::btf::Places;
use hbpf_host::probes::every::{Tried, try_every};

use crate::machine;
use crate::report::{Outcome, Report};

/// Programs whose tracepoint came with a later kernel than the oldest that is supported, or tells what they need only from
/// then on. Each has others that stand in for it before.
const LATER: [(&str, (u32, u32)); 2] = [
    // Whether the thread that ends is its process's last.
    ("process_end", (6, 16)),
    // Where a request begins, as it is.
    ("block_request_started", (6, 5)),
];

pub(crate) fn check(report: &mut Report) {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut numbers = release.split(['.', '-']).map_while(|number| number.parse().ok());
    let kernel: (u32, u32) = (numbers.next().unwrap_or_default(), numbers.next().unwrap_or_default());
    places(report, kernel);
    if machine::is_locked_down() {
        return;
    }
    match try_every() {
        Ok(all) => all.iter().for_each(|tried| one(report, tried, kernel)),
        Err(error) => report.line(Outcome::Failed, "programs", &error.to_string()),
    }
}

/// What the programs have to know of the kernel's types.
fn places(report: &mut Report, kernel: (u32, u32)) {
    let places = Places::read();
    let found = [
        ("who opens a device", places.task_tgid_at.is_some(), (0, 0)),
        ("whose a packet is", places.socket_owned_at.is_some(), (6, 10)),
        ("requests to disks", places.request.is_some(), (6, 5)),
    ];
    for (what, is_known, since) in found {
        let (outcome, detail) = match is_known {
            true => (Outcome::Passed, ""),
            false if kernel < since => (Outcome::Absent, "not before a later kernel"),
            false => (Outcome::Failed, "not found in the kernel's types, or it may not be looked at"),
        };
        report.line(outcome, &format!("type {what}"), detail);
    }
}

fn one(report: &mut Report, tried: &Tried, kernel: (u32, u32)) {
    let Tried { program, loaded, attached } = tried;
    let need_not = LATER.iter().any(|(name, since)| name == program && kernel < *since);
    let outcome = |result: &Result<(), String>| match result {
        Ok(()) => Outcome::Passed,
        Err(_) if need_not => Outcome::Absent,
        Err(_) => Outcome::Failed,
    };
    let why = |result: &Result<(), String>| result.as_ref().err().cloned().unwrap_or_default();
    report.line(outcome(loaded), &format!("load {program}"), &why(loaded));
    if loaded.is_ok() {
        report.line(outcome(attached), &format!("attach {program}"), &why(attached));
    }
}
