//! `/proc/PID/io`: what a process has had read from and written to disks.

use std::path::Path;
use std::time::Instant;

use super::files;

/// Longest file: seven lines.
const MAX_BYTES: usize = 1024;

/// Bytes since the start of the process. With the end of a child all that it ever did is added to them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Io {
    when: Instant,
    read: u64,
    /// When pages are made dirty, not when they reach the disk.
    written: u64,
}

impl Io {
    /// `None` where there is no such process, or the kernel does not count it.
    pub(super) fn read(directory: &Path) -> Option<Self> {
        Self::parse(&files::read(&directory.join("io"), MAX_BYTES).ok()?.bytes)
    }

    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        let value = |name: &[u8]| {
            let line = files::lines(bytes).find_map(|line| line.strip_prefix(name))?;
            files::number(line.trim_ascii())
        };
        Some(Self { when: Instant::now(), read: value(b"read_bytes:")?, written: value(b"write_bytes:")? })
    }

    /// Bytes per second read and written since `before`.
    pub(super) fn since(&self, before: &Self) -> Option<(f64, f64)> {
        let seconds = self.when.saturating_duration_since(before.when).as_secs_f64();
        let per_second = |now: u64, before: u64| now.saturating_sub(before) as f64 / seconds;
        (seconds > 0.0).then(|| (per_second(self.read, before.read), per_second(self.written, before.written)))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn rates_are_of_bytes_that_went_to_and_from_disks() {
        let parse = |read: u64| {
            Io::parse(format!("rchar: 9\nwchar: 9\nsyscr: 9\nsyscw: 9\nread_bytes: {read}\nwrite_bytes: 4096\ncancelled_write_bytes: 0\n").as_bytes())
        };
        let (mut before, now) = (parse(1000).unwrap(), parse(9000).unwrap());
        before.when = now.when - Duration::from_secs(2);
        assert_eq!(now.since(&before), Some((4000.0, 0.0)));
        assert_eq!(before.since(&before), None, "no time has passed");
        assert_eq!(parse(0).unwrap().since(&before).map(|(read, _)| read), Some(0.0), "another process's numbers");
    }

    #[test]
    fn what_is_missing_or_odd_is_none() {
        for odd in ["", "read_bytes: 1\n", "read_bytes: -1\nwrite_bytes: 1\n", "read_bytes:\nwrite_bytes: 1\n"] {
            assert_eq!(Io::parse(odd.as_bytes()), None, "{odd}");
        }
    }
}
