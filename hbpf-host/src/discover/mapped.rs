//! Opens the files that processes have mapped.
//!
//! A file seen through an overlay is opened in the layer where it truly lies, if that can be found: there it has numbers
//! of its own, the same for all containers of an image, and probes in it do not keep a container's mounts busy.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2};
use nix::sys::stat::Mode;
use nix::sys::statfs::{OVERLAYFS_SUPER_MAGIC, fstatfs};

use super::maps::Mapping;
use super::mounts::{Kind, Mounts};
use super::pages::{self, Shown};
use crate::process::files;

/// Longest text that the kernel has about a descriptor.
const MAX_FDINFO_BYTES: usize = 4096;

/// In whose root directory the layers of overlays are looked for, and whose mount table that is: the host's, which is the
/// first process's, and ours.
const VIEWS: [(&str, &str); 2] = [("1", "/proc/1/root"), ("thread-self", "/")];

/// `RESOLVE_CACHED`, since Linux 5.12: do not ask file systems for what is not in memory, but fail.
const RESOLVE_CACHED: u64 = 0x20;

/// The file itself, and what tells it from others.
pub(super) struct Mapped {
    pub(super) file: File,
    pub(super) key: FileKey,
    pub(super) stamp: Stamp,
    /// Whether the file is seen through an overlay, and so its key and stamp are the overlay's inventions.
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
    /// Of files in overlays only, where it tells a copy from its original. Elsewhere it changes with a file's name.
    changed: (i64, i64),
}

/// Why a mapped file is not looked into.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    #[error("lies on a FUSE file system, whose owner could stop hbpf")]
    Fuse,
    #[error("lies on a file system that cannot be told")]
    UnknownFileSystem,
    #[error("lies on an overlay that its user may have mounted, in a layer that hbpf cannot find")]
    UsersOverlay,
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
    mounts: Mounts<'a>,
}

impl<'a> Opener<'a> {
    pub(super) fn new(root: &'a Path) -> Self {
        Self { root, mounts: Mounts::new(root) }
    }

    pub(super) fn open(&mut self, pid: u32, mapping: &Mapping) -> Result<Mapped, Refusal> {
        let process = pid.to_string();
        let kind = self.check_file_system(&process, mapping.device)?;
        let name = format!("{:x}-{:x}", mapping.start, mapping.end);
        let place = open_place(&self.root.join(&process).join("map_files").join(name))?;
        if kind == Kind::Overlay && self.is_users_own(&process) {
            // Anything may lie beneath, so it is not touched.
            return self.beneath(pid, mapping, &place, None).ok_or(Refusal::UsersOverlay);
        }
        let mapped = reopen(&place)?;
        // Older kernels show the device beneath in the map.
        if !mapped.overlay {
            return Ok(mapped);
        }
        Ok(self.beneath(pid, mapping, &place, Some(&mapped)).unwrap_or(mapped))
    }

    /// Refuses what a FUSE server, which any user may run, would answer for: it could keep the helper waiting for ever
    /// in any system call on the file. So this must be known before the file is touched, from the mount tables.
    fn check_file_system(&mut self, process: &str, device: (u32, u32)) -> Result<Kind, Refusal> {
        // Only devices without a disk of their own are of interest; FUSE on a disk is mounted by root alone.
        if device.0 != 0 {
            return Ok(Kind::Plain);
        }
        match self.mounts.of_device(device, process) {
            Some(Kind::Fuse) => Err(Refusal::Fuse),
            Some(kind) => Ok(kind),
            None => Err(Refusal::UnknownFileSystem),
        }
    }

    /// Whether the process lives in a user namespace of its own, where any user may mount overlays.
    fn is_users_own(&self, process: &str) -> bool {
        let namespace = |process: &str| {
            let metadata = std::fs::metadata(self.root.join(process).join("ns/user")).ok()?;
            Some((metadata.dev(), metadata.ino()))
        };
        namespace(process).is_none_or(|of_process| namespace("thread-self") != Some(of_process))
    }

    /// The layer's file that the process has mapped when it maps `place` in an overlay, if that can be found and proven.
    /// `seen` is the overlay's file, opened, where that may be done.
    fn beneath(&mut self, pid: u32, mapping: &Mapping, place: &File, seen: Option<&Mapped>) -> Option<Mapped> {
        let candidates = self.mounts.overlay(mount_id(place)?, &pid.to_string())?.candidates(&mapping.path);
        let shown = Shown::find(self.root, pid, mapping);
        let is_it = |candidate: &Mapped| match (&shown, seen) {
            (Some(shown), _) => shown.is_of(&candidate.file, self.root, pid),
            (None, Some(seen)) => {
                pages::are_one(&candidate.file, &seen.file).unwrap_or_else(|| candidate.has_times_of(seen))
            }
            (None, None) => false,
        };
        for (process, root) in VIEWS {
            let Ok(root) = open_place(Path::new(root)) else { continue };
            for candidate in &candidates {
                let Some(place) = look_up_cached(&root, candidate) else { continue };
                let kind = mount_id(&place).and_then(|id| self.mounts.of_mount(id, process));
                if kind != Some(Kind::Plain) {
                    continue;
                }
                if let Some(found) = reopen(&place).ok().filter(is_it) {
                    return Some(found);
                }
            }
        }
        None
    }
}

impl Mapped {
    /// Whether size and times are those of a file in an overlay. The last of them no copy has in common with another.
    fn has_times_of(&self, seen: &Mapped) -> bool {
        self.file.metadata().is_ok_and(|metadata| Stamp::new(&metadata, true) == seen.stamp)
    }
}

impl Stamp {
    fn new(metadata: &std::fs::Metadata, overlay: bool) -> Self {
        let changed = if overlay { (metadata.ctime(), metadata.ctime_nsec()) } else { (0, 0) };
        Self { size: metadata.size(), modified: (metadata.mtime(), metadata.mtime_nsec()), changed }
    }
}

/// Opens a regular file for reading, and nothing else.
pub(super) fn open_regular(path: &Path) -> Result<Mapped, Refusal> {
    reopen(&open_place(path)?)
}

/// Finds a file without opening it: opening a device or a FIFO may do things.
fn open_place(path: &Path) -> Result<File, Refusal> {
    open(path, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty()).map(File::from).map_err(Refusal::Open)
}

fn reopen(place: &File) -> Result<Mapped, Refusal> {
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
        stamp: Stamp::new(&metadata, overlay),
        overlay,
    })
}

/// Finds a file below `root` if that takes nothing but memory. A layer of a mounted overlay is always found so; and a path
/// by which a user leads us to a FUSE file system does not make us wait.
fn look_up_cached(root: &File, path: &Path) -> Option<File> {
    let resolve = ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS;
    let resolve = resolve | ResolveFlag::from_bits_retain(RESOLVE_CACHED);
    let how = OpenHow::new().flags(OFlag::O_PATH | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW).resolve(resolve);
    openat2(root.as_fd(), path, how).ok().map(File::from)
}

/// The number of the mount through which a descriptor sees its file, without asking the file system.
fn mount_id(file: &File) -> Option<u64> {
    let contents = files::read(&PathBuf::from(format!("/proc/self/fdinfo/{}", file.as_raw_fd())), MAX_FDINFO_BYTES);
    let contents = contents.ok()?;
    let line = files::lines(&contents.bytes).find_map(|line| line.strip_prefix(b"mnt_id:"))?;
    files::number(line.trim_ascii())
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
        Mapped { file, key: key(1, inode), stamp: Stamp { size: 1, modified: (1, 1), changed: (0, 0) }, overlay: false }
    }

    fn process(dir: &Path, mounts: &str) {
        std::fs::create_dir_all(dir.join("5/map_files")).unwrap();
        std::fs::create_dir_all(dir.join("thread-self")).unwrap();
        std::fs::write(dir.join("thread-self/mountinfo"), "1 1 0:20 / / rw shared:1 - tmpfs tmpfs rw\n").unwrap();
        std::fs::write(dir.join("5/mountinfo"), mounts).unwrap();
    }

    fn mapping(device: (u32, u32)) -> Mapping {
        Mapping {
            start: 0x1000,
            end: 0x2000,
            offset: 0,
            device,
            inode: 1,
            path: b"/libssl.so.3".to_vec(),
            deleted: false,
        }
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
        let socket = dir.path().join("socket");
        let _socket = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        for target in [fifo.as_path(), Path::new("/dev/zero"), dir.path(), &socket] {
            std::os::unix::fs::symlink(target, &link).unwrap();
            assert_eq!(refusal(dir.path(), (8, 1)), Some(Refusal::NotRegular), "{}", target.display());
            std::fs::remove_file(&link).unwrap();
        }
        std::os::unix::fs::symlink(&link, &link).unwrap();
        assert_eq!(refusal(dir.path(), (8, 1)), Some(Refusal::Open(nix::errno::Errno::ELOOP)));
    }
}
