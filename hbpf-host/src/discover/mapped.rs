//! Opens the files that processes have mapped.

use std::collections::HashSet;
use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use nix::sys::statfs::{OVERLAYFS_SUPER_MAGIC, fstatfs};

use super::maps::Mapping;
use crate::process::files;

/// Longest mount table that is read: 8,000 mounts at 500 bytes each.
const MAX_MOUNTS_BYTES: usize = 4 * 1024 * 1024;

/// The file itself, and what tells it from others.
pub(super) struct Mapped {
    pub(super) file: File,
    pub(super) key: FileKey,
    pub(super) stamp: Stamp,
    /// Whether the file is seen through an overlay.
    pub(super) overlay: bool,
}

/// What `stat` calls the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct FileKey {
    device: u64,
    pub(super) inode: u64,
}

/// Changes when the file is written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    pub(super) size: u64,
    modified: (i64, i64),
}

/// Why a mapped file is not looked into.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    #[error("lies on a FUSE file system, whose owner could stop hbpf")]
    Fuse,
    #[error("lies on a file system that cannot be told")]
    UnknownFileSystem,
    #[error("cannot be opened ({0})")]
    Open(nix::errno::Errno),
    #[error("is no regular file")]
    NotRegular,
}

/// Opens mapped files of processes.
///
/// The path of a mapped file proves nothing: it is the process's, in the process's mount namespace, and may have been
/// replaced. `map_files` leads to the mapped inode itself.
pub(super) struct Opener<'a> {
    root: &'a Path,
    /// Devices of the mounts of this process and of whichever others were needed.
    plain: HashSet<(u32, u32)>,
    fuse: HashSet<(u32, u32)>,
    own_read: bool,
}

impl<'a> Opener<'a> {
    pub(super) fn new(root: &'a Path) -> Self {
        Self { root, plain: HashSet::new(), fuse: HashSet::new(), own_read: false }
    }

    pub(super) fn open(&mut self, pid: u32, mapping: &Mapping) -> Result<Mapped, Refusal> {
        self.check_file_system(pid, mapping.device)?;
        let path =
            files::process(self.root, pid).join("map_files").join(format!("{:x}-{:x}", mapping.start, mapping.end));
        open_regular(&path)
    }

    /// Refuses what a FUSE server, which any user may run, would answer for: it could keep the helper waiting for ever
    /// in any system call on the file. So this must be known before the file is touched, from the mount tables.
    fn check_file_system(&mut self, pid: u32, device: (u32, u32)) -> Result<(), Refusal> {
        // Only devices without a disk of their own are of interest; FUSE on a disk is mounted by root alone.
        if device.0 != 0 {
            return Ok(());
        }
        if !self.own_read {
            self.own_read = true;
            self.read_mounts("self");
        }
        if !self.plain.contains(&device) && !self.fuse.contains(&device) {
            self.read_mounts(&pid.to_string());
        }
        if self.fuse.contains(&device) {
            return Err(Refusal::Fuse);
        }
        if self.plain.contains(&device) { Ok(()) } else { Err(Refusal::UnknownFileSystem) }
    }

    fn read_mounts(&mut self, process: &str) {
        let Ok(contents) = files::read(&self.root.join(process).join("mountinfo"), MAX_MOUNTS_BYTES) else {
            return;
        };
        for line in files::lines(&contents.bytes) {
            let Some((device, is_fuse)) = mount(line) else { continue };
            if is_fuse { &mut self.fuse } else { &mut self.plain }.insert(device);
        }
    }
}

/// Opens a regular file for reading, and nothing else.
pub(super) fn open_regular(path: &Path) -> Result<Mapped, Refusal> {
    // First without opening the file itself: opening a device or a FIFO may do things.
    let place = open(path, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty()).map_err(Refusal::Open)?;
    let place = File::from(place);
    let metadata = place.metadata().map_err(|_| Refusal::NotRegular)?;
    if !metadata.is_file() {
        return Err(Refusal::NotRegular);
    }
    let again = PathBuf::from(format!("/proc/self/fd/{}", place.as_raw_fd()));
    let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    let file: OwnedFd = open(&again, flags, Mode::empty()).map_err(Refusal::Open)?;
    let overlay = fstatfs(&file).is_ok_and(|stat| stat.filesystem_type() == OVERLAYFS_SUPER_MAGIC);
    Ok(Mapped {
        file: file.into(),
        key: FileKey { device: metadata.dev(), inode: metadata.ino() },
        stamp: Stamp { size: metadata.size(), modified: (metadata.mtime(), metadata.mtime_nsec()) },
        overlay,
    })
}

/// Device of a line of a mount table, and whether it is FUSE.
///
/// `ID PARENT MAJOR:MINOR ROOT POINT OPTIONS [OPTIONAL..] - TYPE SOURCE OPTIONS`
fn mount(line: &[u8]) -> Option<((u32, u32), bool)> {
    let mut fields = files::fields(line);
    let device = fields.nth(2)?;
    let colon = device.iter().position(|byte| *byte == b':')?;
    let device = (files::number(&device[..colon])?, files::number(&device[colon + 1..])?);
    let kind = fields.skip_while(|field| *field != b"-").nth(1)?;
    Some((device, kind.starts_with(b"fuse")))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in super::super) fn key(device: u64, inode: u64) -> FileKey {
        FileKey { device, inode }
    }

    /// Some file that pretends to have this inode number.
    pub(in super::super) fn mapped(dir: &Path, inode: u64) -> Mapped {
        let file = File::open(dir).unwrap();
        Mapped { file, key: key(1, inode), stamp: Stamp { size: 1, modified: (1, 1) }, overlay: false }
    }

    fn process(dir: &Path, mounts: &str) {
        std::fs::create_dir_all(dir.join("5/map_files")).unwrap();
        std::fs::create_dir_all(dir.join("self")).unwrap();
        std::fs::write(dir.join("self/mountinfo"), "1 1 0:20 / / rw shared:1 - tmpfs tmpfs rw\n").unwrap();
        std::fs::write(dir.join("5/mountinfo"), mounts).unwrap();
    }

    fn mapping(device: (u32, u32)) -> Mapping {
        Mapping { start: 0x1000, end: 0x2000, device, inode: 1, path: b"/libssl.so.3".to_vec(), deleted: false }
    }

    fn refusal(dir: &Path, device: (u32, u32)) -> Option<Refusal> {
        Opener::new(dir).open(5, &mapping(device)).err()
    }

    #[test]
    fn nothing_on_fuse_is_touched() {
        let dir = tempfile::tempdir().unwrap();
        process(
            dir.path(),
            "junk\n40 1 0:44 / /mnt/a rw,nosuid shared:2 master:3 - fuse.sshfs me@there rw\n41 1 0:45 / /b rw - xfs x rw\n",
        );
        std::fs::write(dir.path().join("library"), "x").unwrap();
        std::os::unix::fs::symlink("../../library", dir.path().join("5/map_files/1000-2000")).unwrap();
        assert_eq!(refusal(dir.path(), (0, 44)), Some(Refusal::Fuse));
        assert_eq!(refusal(dir.path(), (0, 46)), Some(Refusal::UnknownFileSystem));
        for known in [(0, 20), (0, 45), (8, 1)] {
            assert_eq!(refusal(dir.path(), known), None);
        }
    }

    #[test]
    fn only_regular_files_are_opened() {
        let dir = tempfile::tempdir().unwrap();
        process(dir.path(), "");
        let link = dir.path().join("5/map_files/1000-2000");
        assert_eq!(refusal(dir.path(), (8, 1)), Some(Refusal::Open(nix::errno::Errno::ENOENT)));
        let fifo = dir.path().join("fifo");
        nix::unistd::mkfifo(&fifo, Mode::S_IRWXU).unwrap();
        for target in [fifo.as_path(), Path::new("/dev/zero"), dir.path()] {
            std::os::unix::fs::symlink(target, &link).unwrap();
            assert_eq!(refusal(dir.path(), (8, 1)), Some(Refusal::NotRegular), "{}", target.display());
            std::fs::remove_file(&link).unwrap();
        }
    }
}
