//! The root of the cgroup v2 hierarchy, wherever and whether it is mounted.

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use hbpf_core::label::Label;
use nix::errno::Errno;
use nix::fcntl::{OFlag, open, openat};
use nix::sched::{CloneFlags, setns};
use nix::sys::stat::Mode;

use super::mount;
use crate::process::files;
use crate::process::mountinfo::{Mount, unescape};

/// The root, open.
#[derive(Debug)]
pub(crate) struct Root {
    pub(crate) fd: OwnedFd,
    /// Where it is, for the user to see.
    pub(crate) place: Label,
}

/// Why the root cannot be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CgroupError {
    #[error("cgroup v2: {0}; the kernel may be built or booted without it")]
    Unavailable(#[source] io::Error),
    #[error(
        "cgroup v2: only the part of this container is in sight, not the host's root; \
         run hbpf on the host, or in a container with the host's cgroup and PID namespaces"
    )]
    NotRoot,
}

/// Opens the host's root of cgroup v2: a mount of it, else a mount of our own that nobody else sees.
///
/// A control group other than the root has a file `cgroup.events`, and the root has none: that tells the host's root from
/// the root of a cgroup namespace, which calls itself `/` as well.
pub(crate) fn open_root() -> Result<Root, CgroupError> {
    for path in mounts() {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        if let Ok(fd) = open(&path, flags, Mode::empty())
            && is_host_root(fd.as_fd())
        {
            return Ok(Root { fd, place: Label::from_bytes(path.as_os_str().as_encoded_bytes()) });
        }
    }
    let place = || Label::new("root of cgroup v2 (not mounted visibly)");
    let fd = mount::detached(c"cgroup2").map_err(|error| CgroupError::Unavailable(error.into()))?;
    if is_host_root(fd.as_fd()) {
        return Ok(Root { fd, place: place() });
    }
    // We are in a cgroup namespace. With the host's /proc in sight, its first process is in the host's.
    let host = File::open("/proc/1/ns/cgroup").map_err(|_| CgroupError::NotRoot)?;
    setns(&host, CloneFlags::CLONE_NEWCGROUP).map_err(|_| CgroupError::NotRoot)?;
    let fd = mount::detached(c"cgroup2").map_err(|error| CgroupError::Unavailable(error.into()))?;
    if is_host_root(fd.as_fd()) { Ok(Root { fd, place: place() }) } else { Err(CgroupError::NotRoot) }
}

fn is_host_root(group: BorrowedFd<'_>) -> bool {
    let exists = |name: &CStr| openat(group, name, OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty()).map(drop);
    exists(c"cgroup.procs").is_ok() && exists(c"cgroup.events") == Err(Errno::ENOENT)
}

/// Mount points that show the root of a cgroup v2 hierarchy as far as our namespace knows.
fn mounts() -> Vec<PathBuf> {
    parse_mounts(&std::fs::read("/proc/self/mountinfo").unwrap_or_default())
}

fn parse_mounts(mountinfo: &[u8]) -> Vec<PathBuf> {
    let mounts = files::lines(mountinfo).filter_map(Mount::parse);
    let roots = mounts.filter(|mount| mount.file_system == b"cgroup2" && mount.root == b"/");
    roots.map(|mount| std::ffi::OsString::from_vec(unescape(mount.point)).into()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_of_the_root_are_found_whatever_they_are_called() {
        let text = b"31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
            40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime shared:3 - cgroup cgroup rw,name=systemd\n\
            41 31 0:38 / /sys/fs/cgroup/unified\\040two rw,relatime shared:4 master:1 - cgroup2 cgroup2 rw\n\
            42 31 0:38 /kubepods/a /run/part rw - cgroup2 cgroup2 rw\n\
            43 31 0:38 /.. /run/above rw - cgroup2 cgroup2 rw\n\
            broken line\n";
        assert_eq!(parse_mounts(text), [PathBuf::from("/sys/fs/cgroup/unified two")]);
    }
}
