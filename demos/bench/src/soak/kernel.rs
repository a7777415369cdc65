//! What the two processes hold: descriptors, and through them programs, maps and links in the kernel.

use std::collections::BTreeSet;
use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use aya::maps::loaded_maps;
use aya::programs::{loaded_links, loaded_programs};

/// How long the kernel may take to free what nobody holds any more.
const PATIENCE: Duration = Duration::from_secs(30);

/// Numbers of programs, maps and links.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct InKernel {
    /// Programs.
    pub(super) programs: usize,
    /// Maps.
    pub(super) maps: usize,
    /// Links.
    pub(super) links: usize,
}

/// Everything that was ever seen to be held, by its id.
#[derive(Debug, Default)]
pub(super) struct Held {
    programs: BTreeSet<u32>,
    maps: BTreeSet<u32>,
    links: BTreeSet<u32>,
}

/// Open descriptors of a process.
pub(super) fn descriptors(pid: u32) -> Result<usize> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).with_context(|| format!("process {pid} has gone"))?;
    Ok(entries.count())
}

/// What a process holds in the kernel.
pub(super) fn in_kernel(pid: u32) -> Result<InKernel> {
    let mut held = Held::default();
    held.note(pid)?;
    Ok(InKernel { programs: held.programs.len(), maps: held.maps.len(), links: held.links.len() })
}

impl Held {
    /// Adds what a process holds now. Only its descriptors are asked: other programs on this machine have theirs.
    pub(super) fn note(&mut self, pid: u32) -> Result<()> {
        for entry in fs::read_dir(format!("/proc/{pid}/fdinfo")).with_context(|| format!("process {pid} has gone"))? {
            // A descriptor that has been closed meanwhile is none.
            let Ok(info) = fs::read_to_string(entry?.path()) else { continue };
            for (name, ids) in
                [("prog_id", &mut self.programs), ("map_id", &mut self.maps), ("link_id", &mut self.links)]
            {
                ids.extend(id(&info, name));
            }
            // A link names its program, too; one that is held by its link alone is held.
        }
        Ok(())
    }

    /// What is still in the kernel when all that held it has gone.
    pub(super) fn left_in_kernel(&self) -> Result<Vec<String>> {
        let give_up = Instant::now() + PATIENCE;
        loop {
            let left = self.left();
            if left.is_empty() || Instant::now() >= give_up {
                return Ok(left);
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    fn left(&self) -> Vec<String> {
        // One that goes away while it is asked for is an error, and not there.
        let programs = loaded_programs().flatten().map(|program| program.id()).filter(|id| self.programs.contains(id));
        let maps = loaded_maps().flatten().map(|map| map.id()).filter(|id| self.maps.contains(id));
        let links = loaded_links().flatten().map(|link| link.id()).filter(|id| self.links.contains(id));
        let named = |kind: &'static str| move |id| format!("{kind} {id}");
        programs.map(named("program")).chain(maps.map(named("map"))).chain(links.map(named("link"))).collect()
    }
}

fn id(info: &str, name: &str) -> Option<u32> {
    let line = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    line.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::id;

    #[test]
    fn ids_are_read_from_descriptors() {
        let info = "pos:\t0\nflags:\t02000002\nprog_type:\t2\nlink_id:\t17\nprog_id:\t42\n";
        assert_eq!((id(info, "prog_id"), id(info, "link_id"), id(info, "map_id")), (Some(42), Some(17), None));
    }
}
