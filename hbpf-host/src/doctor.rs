//! What works on this machine, found out by trying, and what mends the rest.

mod gpu;
mod machine;

use std::path::PathBuf;

use hbpf_core::label::Label;
use hbpf_core::snapshot::TlsVisibility;
use serde::Serialize;

use crate::discover::{Libraries, Library, LibraryId};
use crate::helper::missing_privileges;
use crate::probes::{Probes, cgroup};
use crate::process::Table;
use crate::protocol::Group;

/// Processes that one scan of all gets through at least; see [`Libraries::scan`].
const PROCESSES_PER_SCAN: usize = 128;

/// Most scans: beyond that the rest is not worth the wait.
const MAX_SCANS: usize = 256;

/// How a check came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// As it should be.
    Ok,
    /// Something is missing, but hbpf is of use without it.
    Warn,
    /// A group of probes cannot work.
    Fail,
}

/// One thing that was looked into.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What, in a word or two.
    pub name: &'static str,
    /// How it came out.
    pub outcome: Outcome,
    /// What was found.
    pub detail: String,
    /// What mends it.
    pub advice: Option<String>,
}

impl Check {
    fn new(name: &'static str, outcome: Outcome, detail: impl Into<String>) -> Self {
        Self { name, outcome, detail: detail.into(), advice: None }
    }

    fn advise(mut self, advice: impl Into<String>) -> Self {
        self.advice = Some(advice.into());
        self
    }
}

/// A process, as the lists name it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Named {
    /// Its id.
    pub pid: u32,
    /// Name and redacted first arguments.
    pub command: Label,
}

/// A TLS library in use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LibraryUse {
    /// Its path as its first user sees it.
    pub path: Label,
    /// Its version, where it is known.
    pub version: Option<Label>,
    /// Functions in which probes can be put.
    pub functions: usize,
    /// Who uses it.
    pub users: Vec<Named>,
}

/// A process whose TLS traffic cannot be seen, or not all of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Blind {
    /// Which.
    #[serde(flatten)]
    pub process: Named,
    /// None of its traffic can be seen, not just a part.
    pub wholly: bool,
    /// Why.
    pub reason: String,
}

/// All that was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Doctor {
    /// In the order in which to read them.
    pub checks: Vec<Check>,
    /// TLS libraries that can be probed.
    pub libraries: Vec<LibraryUse>,
    /// Who cannot be seen.
    pub blind: Vec<Blind>,
}

impl Doctor {
    /// The worst outcome, for the exit code.
    pub fn worst(&self) -> Outcome {
        self.checks.iter().map(|check| check.outcome).max().unwrap_or(Outcome::Ok)
    }
}

/// Looks into everything, and for a moment attaches each group of probes. Needs the privileges that the helper needs, and
/// says so where they are missing.
pub fn examine() -> Doctor {
    let mut examiner = Examiner::new();
    let mut checks =
        vec![machine::kernel(), privileges(), machine::btf(), machine::unprivileged_bpf(), machine::tracefs()];
    checks.push(cgroup_root());
    let found = examiner.scan();
    let libraries = examiner.libraries(&found);
    if missing_privileges().is_none() {
        checks.extend(try_probes(found));
        checks.push(machine::others_at_the_root());
    }
    checks.push(gpu::library());
    Doctor { checks, libraries, blind: examiner.blind() }
}

fn privileges() -> Check {
    match missing_privileges() {
        None => Check::new("privileges", Outcome::Ok, "all capabilities that probes need"),
        Some(missing) => Check::new("privileges", Outcome::Fail, missing).advise("sudo hbpf doctor"),
    }
}

fn cgroup_root() -> Check {
    match cgroup::open_root() {
        Ok(root) => Check::new("cgroup v2", Outcome::Ok, format!("the host's root: {}", root.place)),
        Err(error) => Check::new("cgroup v2", Outcome::Fail, error.to_string())
            .advise("plain HTTP is not seen without it; run hbpf on the host, with systemd.unified_cgroup_hierarchy=1 if need be"),
    }
}

/// Attaches each group for a moment.
fn try_probes(libraries: Vec<Library>) -> Vec<Check> {
    let mut probes = Probes::new();
    let count = libraries.len();
    libraries.into_iter().for_each(|library| probes.add_library(library));
    let mut checks = Vec::new();
    for group in Group::ALL {
        let name = group.name();
        let result = probes.attach(group).map(drop);
        let errors = probes.take_library_errors();
        checks.push(match result {
            Err(error) => Check::new(name, Outcome::Fail, error.to_string()).advise(
                "the kernel must have BPF, BPF_SYSCALL, CGROUP_BPF, PERF_EVENTS and UPROBES built in, not locked down",
            ),
            Ok(()) if !errors.is_empty() => {
                let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
                Check::new(name, Outcome::Warn, texts.join("; "))
            }
            Ok(()) => {
                let places =
                    probes.status().iter().filter(|probe| probe.group == group && probe.off_because.is_none()).count();
                let detail = match group {
                    Group::LlmTls => format!("attached and detached again: {places} programs, {count} TLS libraries"),
                    Group::LlmPlain => format!("attached and detached again: {places} programs"),
                };
                Check::new(name, Outcome::Ok, detail)
            }
        });
        if group == Group::LlmPlain {
            checks.push(machine::statistics());
        }
        probes.detach(group);
    }
    checks
}

/// Looks at processes.
struct Examiner {
    libraries: Libraries,
    processes: Table,
    pids: Vec<u32>,
}

impl Examiner {
    fn new() -> Self {
        let proc_root = PathBuf::from("/proc");
        Self {
            libraries: Libraries::new(proc_root.clone()),
            pids: crate::process::files::pids(&proc_root),
            processes: Table::new(proc_root),
        }
    }

    /// All libraries in use.
    fn scan(&mut self) -> Vec<Library> {
        let mut found = Vec::new();
        for _ in 0..(self.pids.len().div_ceil(PROCESSES_PER_SCAN) + 1).min(MAX_SCANS) {
            let changes = self.libraries.scan();
            found.retain(|library: &Library| !changes.removed.contains(&library.id));
            found.extend(changes.added);
        }
        found
    }

    fn libraries(&mut self, found: &[Library]) -> Vec<LibraryUse> {
        let describe = |library: &Library, users| LibraryUse {
            path: library.path.clone(),
            version: library.version.clone(),
            functions: library.symbols.len(),
            users,
        };
        found.iter().map(|library| describe(library, self.users(library.id))).collect()
    }

    fn users(&mut self, id: LibraryId) -> Vec<Named> {
        let pids: Vec<u32> = self.libraries.users(&id).collect();
        pids.into_iter().filter_map(|pid| self.name(pid)).collect()
    }

    fn blind(&mut self) -> Vec<Blind> {
        let mut list = Vec::new();
        for pid in self.pids.clone() {
            let (visibility, reason, _) = self.libraries.visibility(pid);
            let (Some(reason), Some(process)) = (reason, self.name(pid)) else { continue };
            list.push(Blind { process, wholly: visibility == TlsVisibility::Blind, reason });
        }
        list
    }

    fn name(&mut self, pid: u32) -> Option<Named> {
        self.processes.describe(pid).map(|info| Named { pid, command: info.command })
    }
}
