//! What works on this machine, found out by trying, and what mends the rest.
//!
//! It reads files under /proc and /sys and attaches probes for a moment, all of which the helper does too, and nothing
//! that probes have captured. So it runs in the privileged process itself.

mod gpu;
mod machine;
mod root;
mod trial;

use std::path::PathBuf;

use hbpf_core::label::{Label, Text};
use hbpf_core::snapshot::TlsVisibility;
use serde::Serialize;

use crate::discover::{Libraries, Library, LibraryId, Place, system_directories};
use crate::privsep::{self, Capabilities, ConfineError, Confinement, HoldError, Landlock, SplitError, SplitOptions};
use crate::process::Table;
use crate::protocol::Group;

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
    pub detail: Text,
    /// What mends it.
    pub advice: Option<Text>,
}

impl Check {
    fn new(name: &'static str, outcome: Outcome, detail: impl Into<Text>) -> Self {
        Self { name, outcome, detail: detail.into(), advice: None }
    }

    fn advise(mut self, advice: impl Into<Text>) -> Self {
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

/// A TLS library into which probes can be put.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LibraryUse {
    /// Its path as its first user sees it.
    pub path: Label,
    /// Its version, where it is known.
    pub version: Option<Label>,
    /// Functions in which probes can be put.
    pub functions: usize,
    /// Who uses it. An installed library is probed without users too: the next command may be one.
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
    pub reason: Text,
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

/// Looks into everything, and for a moment attaches each group of probes; then gives up all privileges and confines this
/// process. Needs the privileges that the helper needs; without them it says so, and finds out what it can.
///
/// To be called before any thread starts.
pub fn run() -> Result<Doctor, DoctorError> {
    privsep::hold_doctor()?;
    let mut found = examine();
    privsep::renounce(&SplitOptions::default())?;
    found.checks.push(confinement(privsep::confine()?));
    Ok(found)
}

/// What can be seen of one process, and why not the rest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Explained {
    /// Which.
    #[serde(flatten)]
    pub process: Named,
    /// Path of its program.
    pub executable: Option<Label>,
    /// Its user.
    pub user: Option<Label>,
    /// The container that it runs in: runtime and id.
    pub container: Option<Label>,
    /// What can be seen of its TLS traffic. Plain traffic is seen of every process.
    pub tls: TlsVisibility,
    /// Why not all of it.
    pub reason: Option<Text>,
    /// The TLS libraries that it has loaded and that can be probed.
    pub libraries: Vec<ExplainedLibrary>,
}

/// A TLS library of a process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ExplainedLibrary {
    /// Its path as the process sees it.
    pub path: Label,
    /// Its version, where it is known.
    pub version: Option<Label>,
    /// Where probes go.
    pub places: Vec<ExplainedPlace>,
}

/// A place for probes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ExplainedPlace {
    /// The function whose arguments are read there.
    pub function: &'static str,
    /// Where in the file.
    pub offset: u64,
    /// It is not the function itself but the one that does its work and that of its like.
    pub internal: bool,
    /// The kernel emulates the instruction there, which costs a fraction of stepping over it.
    pub emulated: bool,
}

/// Looks into one process, as [`run`] looks into all; `None` where there is none with this id, or a kernel thread.
///
/// To be called before any thread starts.
pub fn explain(pid: u32) -> Result<Option<Explained>, DoctorError> {
    privsep::hold_doctor()?;
    let mut examiner = Examiner::new();
    let explained = examiner.explain(pid);
    privsep::renounce(&SplitOptions::default())?;
    privsep::confine()?;
    Ok(explained)
}

/// Why nothing was found out.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub enum DoctorError {
    /// This process could not be held to what it needs.
    Hold(#[from] HoldError),
    /// Privileges could not be given up.
    Split(#[from] SplitError),
    /// This process could not be confined.
    Confine(#[from] ConfineError),
}

fn examine() -> Doctor {
    let capabilities = Capabilities::held().ok();
    let groups: Vec<Group> = Group::ALL.into_iter().filter(|group| privsep::lack(*group).is_none()).collect();
    let may_probe = !groups.is_empty();
    let mut examiner = Examiner::new();
    let found = examiner.scan();
    let libraries = examiner.libraries(&found);
    let blind = examiner.blind();

    let mut checks = vec![machine::kernel(&machine::Disk), machine::privileges(capabilities)];
    checks.extend(machine::checks(&machine::Disk));
    checks.push(root::reach(may_probe));
    if may_probe {
        let others = root::others();
        checks.extend(trial::probes(found, &groups, others.outcome == Outcome::Fail));
        checks.push(others);
    }
    checks.push(visibility(&libraries, &blind));
    checks.push(gpu::library());
    checks.extend(gpu::cards());
    Doctor { checks, libraries, blind }
}

/// What holds the process that parses, found out by being held. The filter is there, or nothing would have come so far.
fn confinement(held: Confinement) -> Check {
    const NAME: &str = "confinement";
    match held.landlock {
        Landlock::Whole => Check::new(NAME, Outcome::Ok, "a system-call filter, and Landlock"),
        Landlock::Part => Check::new(NAME, Outcome::Ok, "a system-call filter, and what this kernel has of Landlock"),
        Landlock::Absent => {
            Check::new(NAME, Outcome::Ok, "a system-call filter; this kernel has no Landlock, or it is off")
        }
    }
}

fn visibility(libraries: &[LibraryUse], blind: &[Blind]) -> Check {
    const NAME: &str = "TLS traffic";
    let mut users: Vec<u32> = libraries.iter().flat_map(|library| &library.users).map(|user| user.pid).collect();
    users.sort_unstable();
    users.dedup();
    let seen = match users.len().saturating_sub(blind.iter().filter(|blind| !blind.wholly).count()) {
        1 => "1 process uses a TLS library that can be probed".to_owned(),
        seen => format!("{seen} processes use a TLS library that can be probed"),
    };
    match blind.len() {
        0 => Check::new(NAME, Outcome::Ok, seen),
        blind => {
            Check::new(NAME, Outcome::Warn, format!("{seen}, {blind} cannot be seen into or in part only (below)"))
        }
    }
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

    /// All libraries, installed or in use.
    fn scan(&mut self) -> Vec<Library> {
        let mut found = self.libraries.scan_installed(&system_directories()).added;
        for _ in 0..MAX_SCANS {
            let changes = self.libraries.scan();
            found.retain(|library: &Library| !changes.removed.contains(&library.id));
            found.extend(changes.added);
            if !self.libraries.is_midway() {
                break;
            }
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
            list.push(Blind { process, wholly: visibility == TlsVisibility::Blind, reason: reason.into() });
        }
        list
    }

    fn explain(&mut self, pid: u32) -> Option<Explained> {
        let about = self.processes.describe(pid)?;
        let found = self.libraries.scan_pid(pid).added;
        let (tls, reason, _) = self.libraries.visibility(pid);
        let place = |place: &Place| ExplainedPlace {
            function: place.symbol.name(),
            offset: place.offset,
            internal: place.internal,
            emulated: place.emulated,
        };
        let library = |library: Library| ExplainedLibrary {
            places: library.places.iter().map(place).collect(),
            path: library.path,
            version: library.version,
        };
        Some(Explained {
            process: Named { pid, command: about.command },
            executable: about.executable,
            user: about.user,
            container: about.container.map(|container| Label::new(&format!("{} {}", container.runtime, container.id))),
            tls,
            reason: reason.map(Text::from),
            libraries: found.into_iter().map(library).collect(),
        })
    }

    fn name(&mut self, pid: u32) -> Option<Named> {
        self.processes.describe(pid).map(|info| Named { pid, command: info.command })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(pid: u32) -> Named {
        Named { pid, command: "x".into() }
    }

    #[test]
    fn a_process_counts_once_and_as_seen_only_if_wholly() {
        let library = |users: &[u32]| LibraryUse {
            path: "/lib/libssl.so.3".into(),
            version: None,
            functions: 7,
            users: users.iter().copied().map(named).collect(),
        };
        let libraries = [library(&[7, 8]), library(&[8, 9])];
        let check = visibility(&libraries, &[]);
        assert_eq!(check.outcome, Outcome::Ok);
        assert_eq!(check.detail, "3 processes use a TLS library that can be probed");
        let blind = |pid, wholly| Blind { process: named(pid), wholly, reason: "NSS".into() };
        let check = visibility(&libraries, &[blind(9, false), blind(10, true)]);
        assert_eq!(check.outcome, Outcome::Warn);
        assert!(check.detail.starts_with("2 processes use ") && check.detail.contains(", 2 cannot be"), "{check:?}");
        assert!(visibility(&[library(&[1])], &[]).detail.starts_with("1 process uses"));
    }
}
