//! `/proc/PID/mountinfo`: on what kind of file system a file lies, known before the file is touched.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use super::overlay::Overlay;
use crate::process::{files, mountinfo};

/// Longest mount table that is read: 8,000 mounts at 500 bytes each.
const MAX_TABLE_BYTES: usize = 4 * 1024 * 1024;

/// Mounts remembered at a time, over all mount tables: some hundred containers with some hundred mounts each.
const MAX_MOUNTS: usize = 65_536;

/// Who answers for the files of a mount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// The kernel.
    Plain,
    /// Another process, for as long as it likes.
    Fuse,
    /// Other mounts, which may be of any kind.
    Overlay,
}

/// A line of a mount table.
struct Mount {
    id: u64,
    device: (u32, u32),
    kind: Kind,
    overlay: Option<Overlay>,
}

/// The mounts of those processes whose tables have been read. Numbers of mounts and devices are the same for all of them.
pub(super) struct Mounts<'a> {
    root: &'a Path,
    read: HashSet<String>,
    devices: HashMap<(u32, u32), Kind>,
    mounts: HashMap<u64, Kind>,
    overlays: HashMap<u64, Overlay>,
}

impl<'a> Mounts<'a> {
    pub(super) fn new(root: &'a Path) -> Self {
        let (read, devices) = (HashSet::new(), HashMap::new());
        Self { root, read, devices, mounts: HashMap::new(), overlays: HashMap::new() }
    }

    /// The kind of a device, looked up in our own table and, if need be, in that of `process`.
    pub(super) fn of_device(&mut self, device: (u32, u32), process: &str) -> Option<Kind> {
        for table in ["thread-self", process] {
            if !self.devices.contains_key(&device) {
                self.read(table);
            }
        }
        self.devices.get(&device).copied()
    }

    /// The kind of a mount, looked up in the same way.
    pub(super) fn of_mount(&mut self, id: u64, process: &str) -> Option<Kind> {
        for table in ["thread-self", process] {
            if !self.mounts.contains_key(&id) {
                self.read(table);
            }
        }
        self.mounts.get(&id).copied()
    }

    /// The overlay that this mount shows.
    pub(super) fn overlay(&mut self, id: u64, process: &str) -> Option<&Overlay> {
        self.of_mount(id, process);
        self.overlays.get(&id)
    }

    fn read(&mut self, process: &str) {
        if !self.read.insert(process.to_owned()) {
            return;
        }
        let Ok(contents) = files::read(&self.root.join(process).join("mountinfo"), MAX_TABLE_BYTES) else {
            return;
        };
        // A line that is cut could make a plain file system of FUSE.
        let end = contents.bytes.iter().rposition(|byte| *byte == b'\n').filter(|_| contents.truncated);
        let whole = &contents.bytes[..end.unwrap_or(contents.bytes.len())];
        for mount in files::lines(whole).filter_map(parse) {
            if self.mounts.len() >= MAX_MOUNTS {
                return;
            }
            self.devices.entry(mount.device).or_insert(mount.kind);
            // Of a mount in two tables the first one's view is kept: ours, if it is among them.
            if self.mounts.insert(mount.id, mount.kind).is_none()
                && let Some(overlay) = mount.overlay
            {
                self.overlays.insert(mount.id, overlay);
            }
        }
    }
}

fn parse(line: &[u8]) -> Option<Mount> {
    let mount = mountinfo::Mount::parse(line)?;
    let kind = match mount.file_system {
        b"overlay" => Kind::Overlay,
        // FUSE on a disk (`fuseblk`) is mounted by root alone, yet answered for by a process all the same.
        kind if kind.starts_with(b"fuse") => Kind::Fuse,
        _ => Kind::Plain,
    };
    let overlay = (kind == Kind::Overlay).then(|| Overlay::parse(mount.root, mount.point, mount.options));
    Some(Mount { id: mount.id, device: mount.device, kind, overlay: overlay.flatten() })
}

/// Reads the bytes as a table of mounts.
#[cfg(feature = "fuzzing")]
pub(super) fn parse_as_all(bytes: &[u8]) {
    let _ = files::lines(bytes).filter_map(parse).count();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(text: &str) -> (tempfile::TempDir, String) {
        let dir = tempfile::tempdir().unwrap();
        for (process, text) in [("thread-self", "1 1 0:20 / / rw shared:1 - tmpfs tmpfs rw\n"), ("5", text)] {
            std::fs::create_dir(dir.path().join(process)).unwrap();
            std::fs::write(dir.path().join(process).join("mountinfo"), text).unwrap();
        }
        (dir, "5".to_owned())
    }

    #[test]
    fn kinds_are_told_by_device_and_by_mount() {
        let (dir, five) = table(
            "junk\n40 1 0:44 / /mnt/a rw,nosuid shared:2 master:3 - fuse.sshfs me@there rw\n41 1 0:45 / /b rw - xfs x rw\n\
             42 1 0:46 / /c rw - overlay o rw,lowerdir=/l\n43 x 0:47\n44 1 0:48 / /d rw - \n",
        );
        let mut mounts = Mounts::new(dir.path());
        assert_eq!(mounts.of_device((0, 20), &five), Some(Kind::Plain));
        assert!(!mounts.read.contains("5"), "our own table was enough");
        for (device, kind) in [(44, Kind::Fuse), (45, Kind::Plain), (46, Kind::Overlay)] {
            assert_eq!(mounts.of_device((0, device), &five), Some(kind));
            assert_eq!(mounts.of_mount(u64::from(device) - 4, &five), Some(kind));
        }
        assert!(mounts.overlay(42, &five).is_some() && mounts.overlay(41, &five).is_none());
        for unknown in [47, 48, 99] {
            assert_eq!(mounts.of_device((0, unknown), &five), None);
        }
        assert_eq!(mounts.of_mount(7, "no such process"), None);
    }

    #[test]
    fn a_line_cut_by_the_limit_is_not_taken() {
        let line = "40 1 0:44 / /a rw - fuse.sshfs me@there rw\n";
        let filler = "x".repeat(MAX_TABLE_BYTES - 1 - line.find("e.sshfs").unwrap());
        let (dir, five) = table(&format!("{filler}\n{line}"));
        assert_eq!(Mounts::new(dir.path()).of_device((0, 44), &five), None);
    }

    #[test]
    fn memory_of_mounts_is_bounded() {
        let lines: String = (0..80_000).map(|id| format!("{id} 1 0:{id} / /a rw - xfs x rw\n")).collect();
        assert!(lines.len() < MAX_TABLE_BYTES);
        let (dir, five) = table(&lines);
        let mut mounts = Mounts::new(dir.path());
        mounts.of_mount(u64::MAX, &five);
        assert_eq!(mounts.mounts.len(), MAX_MOUNTS);
    }
}
