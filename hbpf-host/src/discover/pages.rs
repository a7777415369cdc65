//! Whether two open files are one and the same underneath.
//!
//! An overlay shows a file of another file system under numbers of its own making, and a copy that it has made upon a
//! write under the very same ones. What it cannot disguise is the memory: two files whose cached page is the same page
//! frame are one. Frames are shown to holders of CAP_SYS_ADMIN only; without it nothing is proven here.

use std::fs::File;
use std::num::NonZeroUsize;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::ptr::NonNull;

use nix::libc::{self, c_void, off_t};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

use super::maps::Mapping;
use crate::process::files;

/// A page of a file's code that a process has in use.
#[derive(Clone, Copy)]
pub(super) struct Shown {
    /// Where in the file.
    pub(super) offset: u64,
    pid_page: u64,
    frame: u64,
}

/// Pages of a mapping looked at for one that is in use; the code of libssl has 100.
const MAX_PAGES: usize = 1024;

/// In an entry of `pagemap`: the page is in memory; it is of a file, not a copy of the process's own.
const PRESENT: u64 = 1 << 63;
const OF_FILE: u64 = 1 << 61;
const FRAME: u64 = (1 << 55) - 1;

impl Shown {
    /// Looks for one. `None` also where frames are not shown to us.
    pub(super) fn find(root: &Path, pid: u32, mapping: &Mapping) -> Option<Self> {
        let pagemap = pagemap(&files::process(root, pid))?;
        let first = mapping.start / procfs::page_size();
        let pages = usize::try_from(mapping.end.checked_sub(mapping.start)? / procfs::page_size()).ok()?;
        let mut entries = vec![0; pages.min(MAX_PAGES) * size_of::<u64>()];
        pagemap.read_exact_at(&mut entries, first.checked_mul(size_of::<u64>() as u64)?).ok()?;
        let (entries, _) = entries.as_chunks();
        let frames = entries.iter().map(|entry| frame(u64::from_ne_bytes(*entry)));
        let (at, frame) = (0..).zip(frames).find_map(|(at, frame)| Some((at, frame?)))?;
        Some(Self { offset: mapping.offset.checked_add(at * procfs::page_size())?, pid_page: first + at, frame })
    }

    /// Whether it is still the same frame, which so cannot have become another file's in between.
    fn still_stands(&self, root: &Path, pid: u32) -> bool {
        pagemap(&files::process(root, pid)).and_then(|pagemap| entry(&pagemap, self.pid_page)) == Some(self.frame)
    }

    /// Whether it is a page of this file; its number must be that of the process it was found in.
    pub(super) fn is_of(&self, file: &File, root: &Path, pid: u32) -> bool {
        let is_same = Page::map(file, self.offset).is_some_and(|page| page.frame() == Some(self.frame));
        is_same && self.still_stands(root, pid)
    }
}

/// Whether two files are one; `None` where it cannot be told.
pub(super) fn are_one(one: &File, other: &File) -> Option<bool> {
    let (one, other) = (Page::map(one, 0)?, Page::map(other, 0)?);
    let before = one.frame()?;
    let same = other.frame()? == before;
    // Had the kernel moved it meanwhile, the comparison would mean nothing.
    Some(same && one.frame()? == before)
}

/// A page of a file in our own memory. It is never read: a file that has shrunk would kill us.
struct Page(NonNull<c_void>);

impl Page {
    fn map(file: &File, offset: u64) -> Option<Self> {
        let length = NonZeroUsize::new(usize::try_from(procfs::page_size()).ok()?)?;
        let flags = MapFlags::MAP_SHARED | MapFlags::MAP_POPULATE;
        // SAFETY: the kernel chooses the place, and nobody reads what is there.
        let place = unsafe { mmap(None, length, ProtFlags::PROT_READ, flags, file, off_t::try_from(offset).ok()?) };
        place.ok().map(Self)
    }

    fn frame(&self) -> Option<u64> {
        entry(&pagemap(Path::new("/proc/self"))?, self.0.as_ptr() as u64 / procfs::page_size())
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        // SAFETY: it was mapped with this length, and there are no references into it.
        let _ = unsafe { munmap(self.0, procfs::page_size() as libc::size_t) };
    }
}

fn pagemap(process: &Path) -> Option<File> {
    File::open(process.join("pagemap")).ok()
}

fn entry(pagemap: &File, page: u64) -> Option<u64> {
    let mut entry = [0; size_of::<u64>()];
    pagemap.read_exact_at(&mut entry, page.checked_mul(size_of::<u64>() as u64)?).ok()?;
    frame(u64::from_ne_bytes(entry))
}

/// The frame of a file's page that is in memory and shown to us.
fn frame(entry: u64) -> Option<u64> {
    let frame = entry & FRAME;
    (entry & (PRESENT | OF_FILE) == PRESENT | OF_FILE && frame != 0).then_some(frame)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_one_only_with_themselves() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name| dir.path().join(name);
        for name in ["a", "b"] {
            std::fs::write(path(name), vec![1; 8192]).unwrap();
        }
        std::fs::hard_link(path("a"), path("c")).unwrap();
        let open = |name| File::open(path(name)).unwrap();
        let Some(same) = are_one(&open("a"), &open("c")) else {
            return println!("skipped: page frames are not shown without CAP_SYS_ADMIN");
        };
        assert!(same);
        assert_eq!(are_one(&open("a"), &open("b")), Some(false));
    }

    #[test]
    fn what_has_no_pages_proves_nothing_and_harms_nobody() {
        let empty = tempfile::tempfile().unwrap();
        assert_eq!(are_one(&empty, &empty), None);
        let null = File::open("/dev/null").unwrap();
        assert_eq!(are_one(&null, &null), None);
        // A page of its own that the process has written to; one that has gone; one that is not of a file.
        for entry in [PRESENT | 7, OF_FILE | 7, PRESENT | OF_FILE] {
            assert_eq!(frame(entry), None);
        }
        assert_eq!(frame(PRESENT | OF_FILE | 7), Some(7));
    }
}
