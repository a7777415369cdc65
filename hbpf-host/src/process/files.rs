//! Bounded reading under `/proc`, or under what stands for it in a test.
//!
//! The helper looks with one thread and all privileges, and others choose much of what stands in these files. So nothing here
//! waits (a FIFO in the place of a file is refused), reads more than its caller asked for, or panics on what it reads.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::libc;
use nix::time::{ClockId, clock_gettime};

/// Most processes that are looked at: the largest number that Linux gives by default on a host with many cores, eight
/// times over.
const MAX_PROCESSES: usize = 262_144;

/// Room for what is read at first. Most of these files fit, and the kernel makes up their text anew for each call.
const USUAL_BYTES: usize = 1024;

/// The beginning of a file.
pub(crate) struct Contents {
    pub(crate) bytes: Vec<u8>,
    /// Whether there is more than `bytes`.
    pub(crate) truncated: bool,
}

/// Reads a regular file up to a limit.
pub(crate) fn read(path: &Path, limit: usize) -> io::Result<Contents> {
    read_open(&open(path)?, limit)
}

/// Reads what one call gives, which is all of a file that the kernel makes up at once. Of a FIFO that is what is in it.
pub(crate) fn read_at_once<'a>(path: &Path, room: &'a mut [u8]) -> io::Result<&'a [u8]> {
    let len = open_any(path)?.read(room)?;
    Ok(&room[..len])
}

fn open_any(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_CLOEXEC | libc::O_NONBLOCK | libc::O_NOFOLLOW | libc::O_NOCTTY)
        .open(path)
}

/// Opens a regular file.
pub(crate) fn open(path: &Path) -> io::Result<File> {
    let file = open_any(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    Ok(file)
}

fn read_open(file: &File, limit: usize) -> io::Result<Contents> {
    let mut bytes = Vec::with_capacity(USUAL_BYTES.min(limit + 1));
    // One byte more than the limit tells whether the file ends there.
    file.take(limit as u64 + 1).read_to_end(&mut bytes)?;
    let truncated = bytes.len() > limit;
    bytes.truncate(limit);
    Ok(Contents { bytes, truncated })
}

/// The directory of a process.
pub(crate) fn process(root: &Path, pid: u32) -> PathBuf {
    root.join(pid.to_string())
}

/// All processes, ascending.
pub(crate) fn pids(root: &Path) -> Vec<u32> {
    let Ok(entries) = fs::read_dir(root) else {
        return Vec::new();
    };
    let number = |entry: io::Result<fs::DirEntry>| number(entry.ok()?.file_name().as_encoded_bytes());
    let mut pids: Vec<u32> = entries.filter_map(number).take(MAX_PROCESSES).collect();
    pids.sort_unstable();
    pids
}

/// A decimal number that fills the whole field.
pub(crate) fn number<T: std::str::FromStr>(field: &[u8]) -> Option<T> {
    // `parse` accepts a sign, the kernel writes none in front of a positive number.
    if field.first() == Some(&b'+') {
        return None;
    }
    std::str::from_utf8(field).ok()?.parse().ok()
}

/// The fields of a line, as the kernel separates them.
pub(crate) fn fields(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    line.split(|byte| matches!(byte, b' ' | b'\t')).filter(|field| !field.is_empty())
}

/// The lines of a file.
pub(crate) fn lines(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty())
}

/// CPU time that this thread has used: budgets are in it, so that a busy machine does not shorten them.
pub(crate) fn cpu_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
}

/// Time since boot, as the start times of processes count it.
pub(crate) fn boot_time() -> Duration {
    clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(Duration::ZERO, Duration::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fifo_is_refused_without_waiting_for_a_writer() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("stat");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert_eq!(read(&path, 10).err().unwrap().kind(), io::ErrorKind::InvalidInput);
        assert_eq!(read_at_once(&path, &mut [0; 10]).unwrap(), b"");
    }

    #[test]
    fn a_link_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/etc/passwd", dir.path().join("stat")).unwrap();
        assert!(read(&dir.path().join("stat"), 10).is_err());
    }

    #[test]
    fn no_more_than_the_limit_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("maps");
        fs::write(&path, "0123456789").unwrap();
        let (all, cut) = (read(&path, 10).unwrap(), read(&path, 9).unwrap());
        assert_eq!((all.bytes.as_slice(), all.truncated), (&b"0123456789"[..], false));
        assert_eq!((cut.bytes.as_slice(), cut.truncated), (&b"012345678"[..], true));
    }

    #[test]
    fn only_whole_decimal_numbers_are_processes() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["12", "3", "self", "4294967296", "+7", "-1", "1x", ""] {
            let _ = fs::create_dir(dir.path().join(name));
        }
        assert_eq!(pids(dir.path()), [3, 12]);
        assert_eq!(pids(Path::new("/nonexistent")), [0u32; 0]);
    }
}
