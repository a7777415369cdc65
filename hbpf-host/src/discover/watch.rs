//! Tells at once when a library is written over, and when the system's libraries are upgraded.
//!
//! The kernel remembers the instruction that a probe stands on. A process that maps a file after it has been written over
//! would execute the old instruction in the place of the new: such a probe must go, and soon.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::{Path, PathBuf};

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, InotifyEvent, WatchDescriptor};

use super::LibraryId;

/// Times that events are read at once: with 4 KiB each more than a thousand. The rest is read by the next call.
const MAX_READS: usize = 16;

/// A file in a directory is there, whole, or has gone.
const DIRECTORY_CHANGES: AddWatchFlags = AddWatchFlags::IN_CLOSE_WRITE
    .union(AddWatchFlags::IN_MOVED_TO)
    .union(AddWatchFlags::IN_MOVED_FROM)
    .union(AddWatchFlags::IN_CREATE)
    .union(AddWatchFlags::IN_DELETE);

/// What has happened to what is watched.
#[derive(Debug, Default)]
pub(super) struct Happened {
    pub(super) written: Vec<LibraryId>,
    /// A file that has to do with one of the directories may be another.
    pub(super) directories: bool,
}

/// Watches files and directories. Where the kernel has no more watches to give it watches none; then what has happened
/// is found out when a process is looked at.
#[derive(Debug)]
pub(super) struct Watch {
    inotify: Option<Inotify>,
    files: HashMap<WatchDescriptor, LibraryId>,
    directories: HashSet<WatchDescriptor>,
}

impl Watch {
    pub(super) fn new() -> Self {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC).ok();
        Self { inotify, files: HashMap::new(), directories: HashSet::new() }
    }

    /// Becomes readable when something has happened.
    pub(super) fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.inotify.as_ref().map(AsFd::as_fd)
    }

    pub(super) fn file(&mut self, file: &File, library: LibraryId) {
        // Its path may lead to another file by now.
        let path = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
        if let Some(watch) = self.add(&path, AddWatchFlags::IN_MODIFY) {
            self.files.insert(watch, library);
        }
    }

    pub(super) fn directory(&mut self, path: &Path) {
        self.directories.extend(self.add(path, DIRECTORY_CHANGES | AddWatchFlags::IN_ONLYDIR));
    }

    pub(super) fn forget(&mut self, library: LibraryId) {
        let Some(watch) = self.files.iter().find(|(_, id)| **id == library).map(|(watch, _)| *watch) else { return };
        self.files.remove(&watch);
        // It may have ended with its file.
        let _ = self.inotify.as_ref().map(|inotify| inotify.rm_watch(watch));
    }

    /// What has happened since the last call, as far as it has to do with files of these names.
    pub(super) fn take(&self, concerns: impl Fn(&OsStr) -> bool) -> Happened {
        let mut happened = Happened::default();
        let Some(inotify) = &self.inotify else { return happened };
        for _ in 0..MAX_READS {
            let Ok(events) = inotify.read_events() else { break };
            for event in events {
                self.sort(&event, &concerns, &mut happened);
            }
        }
        happened
    }

    fn sort(&self, event: &InotifyEvent, concerns: impl Fn(&OsStr) -> bool, happened: &mut Happened) {
        if event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW) {
            happened.written = self.files.values().copied().collect();
            happened.directories = true;
        } else if let Some(library) =
            self.files.get(&event.wd).filter(|_| event.mask.contains(AddWatchFlags::IN_MODIFY))
        {
            if !happened.written.contains(library) {
                happened.written.push(*library);
            }
        } else if self.directories.contains(&event.wd) {
            happened.directories |= event.name.as_deref().is_some_and(concerns);
        }
    }

    fn add(&self, path: &Path, what: AddWatchFlags) -> Option<WatchDescriptor> {
        self.inotify.as_ref()?.add_watch(path, what).ok()
    }
}
