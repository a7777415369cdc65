//! What the kernel holds of the processes under test.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

/// Programs and links in the kernel that belong to one process.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) programs: BTreeSet<u32>,
    pub(crate) links: usize,
}

/// Programs and links that a process has open, by what /proc says of its descriptors.
pub(crate) fn held_by(pid: u32) -> Held {
    let mut held = Held::default();
    for entry in fs::read_dir(format!("/proc/{pid}/fdinfo")).into_iter().flatten().flatten() {
        // A descriptor can be closed meanwhile.
        let Ok(text) = fs::read_to_string(entry.path()) else { continue };
        let number = |key: &str| text.lines().find_map(|line| line.strip_prefix(key)?.trim().parse::<u32>().ok());
        held.programs.extend(number("prog_id:"));
        held.links += usize::from(number("link_id:").is_some());
    }
    held
}

/// Which of these programs the kernel still has. Ids are not used again for a long time.
pub(crate) fn still_loaded(programs: &BTreeSet<u32>) -> BTreeSet<u32> {
    let loaded = aya::programs::loaded_programs().flatten().map(|program| program.id());
    loaded.filter(|id| programs.contains(id)).collect()
}

/// A field of `/proc/PID/status`.
pub(crate) fn status(pid: u32, key: &str) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).expect("status");
    let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
    line.expect(key).split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Whether the process is gone, or dead and only waits for its parent.
pub(crate) fn is_dead(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat"))
        .map_or(true, |text| text.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with(['Z', 'X'])))
}

/// Why these tests cannot run here, if they cannot.
pub(crate) fn cannot_test() -> Option<String> {
    if !nix::unistd::geteuid().is_root() {
        return Some("these tests need root".into());
    }
    if let Some(error) = aya::programs::loaded_programs().find_map(Result::err) {
        return Some(format!("these tests need CAP_BPF and CAP_SYS_ADMIN: {error}"));
    }
    let programs = ["python3", "openssl"];
    let path = std::env::var_os("PATH").unwrap_or_default();
    let is_there = |name: &str| std::env::split_paths(&path).any(|folder: PathBuf| folder.join(name).is_file());
    programs.into_iter().find(|name| !is_there(name)).map(|name| format!("these tests need {name}"))
}
