//! A place to mount in.

use std::fs;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};

/// A memory file system that only this thread and the processes that it starts see, gone with this value.
///
/// Nothing is ever deleted in it: whatever is mounted within, be it a part of the host, is let go of and not entered.
pub(crate) struct Place(PathBuf);

impl Place {
    /// Takes the thread into a mount namespace of its own. Needs root.
    pub(crate) fn new() -> Self {
        unshare(CloneFlags::CLONE_NEWNS).expect("root may have a mount namespace");
        mount::<str, str, str, str>(None, "/", None, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None)
            .expect("made private");
        let point = tempfile::tempdir().expect("a temporary directory").keep();
        mount(Some("tmpfs"), &point, Some("tmpfs"), MsFlags::empty(), None::<&str>)
            .expect("a memory file system mounts");
        Self(point)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if umount2(&self.0, MntFlags::MNT_DETACH).is_ok() {
            // Not what is in it: there is nothing, and if there is, it is not ours.
            let _ = fs::remove_dir(&self.0);
        }
    }
}
