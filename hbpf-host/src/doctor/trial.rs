//! Attaching each group of probes for a moment: what really works.

use std::time::Instant;

use aya::sys::{Stats, enable_stats};

use super::{Check, Outcome};
use crate::btf::Places;
use crate::discover::Library;
use crate::probes::Probes;
use crate::protocol::Group;

/// What probes need of a kernel.
const KERNEL: &str = "the kernel needs CONFIG_BPF_SYSCALL, CONFIG_CGROUP_BPF, CONFIG_BPF_EVENTS and \
    CONFIG_UPROBE_EVENTS, and must not be locked down";

/// Attaches and detaches one group after the other. Where programs of others keep ours out, that is what to mend.
pub(super) fn probes(libraries: Vec<Library>, groups: &[Group], root_is_taken: bool) -> Vec<Check> {
    let mut probes = Probes::new();
    let count = libraries.len();
    libraries.into_iter().for_each(|library| probes.add_library(library));
    let mut checks = Vec::new();
    for group in groups.iter().copied() {
        let check = try_out(&mut probes, group, count);
        checks.push(match check.outcome {
            Outcome::Fail if root_is_taken && matches!(group, Group::LlmPlain | Group::Net | Group::Device) => {
                check.advise("see `other programs`")
            }
            Outcome::Fail => check.advise(KERNEL),
            Outcome::Ok | Outcome::Warn => check,
        });
        probes.detach(group);
    }
    checks.push(owners());
    checks.push(statistics());
    checks
}

/// How it is known which process serves an accepted connection.
fn owners() -> Check {
    let detail = match Places::read().socket_owned_at {
        Some(_) => "the packets of a plain connection say whose they are",
        None => {
            "plain connections are looked for in /proc/PID/fd: only Linux 6.10 and later with BTF says whose a packet is"
        }
    };
    Check::new("servers", Outcome::Ok, detail)
}

fn try_out(probes: &mut Probes, group: Group, libraries: usize) -> Check {
    let name = group.name();
    let began = Instant::now();
    if let Err(error) = probes.attach(group) {
        return Check::new(name, Outcome::Fail, error.to_string());
    }
    let took = began.elapsed().as_millis();
    let errors = probes.take_library_errors();
    let places = probes.status().iter().filter(|probe| probe.group == group && probe.off_because.is_none()).count();
    let of_libraries = match (group, libraries) {
        (Group::LlmPlain | Group::Tools | Group::Block | Group::Net | Group::Device, _) => String::new(),
        (Group::LlmTls, 0) => ", no TLS library to put more into".into(),
        (Group::LlmTls, 1) => ", 1 TLS library".into(),
        (Group::LlmTls, libraries) => format!(", {libraries} TLS libraries"),
    };
    let detail = format!("tried and taken out again: {places} probes{of_libraries}, in place within {took} ms");
    if errors.is_empty() {
        return Check::new(name, Outcome::Ok, detail);
    }
    let errors: Vec<String> = errors.iter().map(ToString::to_string).collect();
    Check::new(name, Outcome::Warn, format!("{detail}; not in all: {}", errors.join("; ")))
}

fn statistics() -> Check {
    const NAME: &str = "own cost";
    match enable_stats(Stats::RunTime) {
        Ok(_) => Check::new(NAME, Outcome::Ok, "the kernel can say what probes cost; `hbpf top` shows it"),
        Err(error) => Check::new(NAME, Outcome::Warn, format!("what probes cost is not known: {}", error.io_error))
            .advise("CAP_SYS_ADMIN lets the kernel be asked"),
    }
}
