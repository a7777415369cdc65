//! `/proc/PID/stat`.
//!
//! Parsed here rather than by `procfs`, which indexes around the parentheses unchecked and so panics on odd contents.

use std::path::Path;
use std::time::Duration;

use super::files;

/// Longest line: 52 numbers of at most 20 digits and a name of at most 64 bytes.
const MAX_BYTES: usize = 2048;

/// The last field that is looked at, as proc(5) counts them.
const MAX_FIELD: usize = 28;

/// The kernel's own threads have this in `flags`.
const PF_KTHREAD: u32 = 0x0020_0000;

/// What is read of a process's line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stat {
    /// Name of the program, at most 15 bytes of anything, or of a kernel thread.
    pub(crate) comm: Vec<u8>,
    pub(crate) parent_pid: u32,
    pub(crate) kernel_thread: bool,
    /// Faults of children that have ended and been waited for: it grows with each.
    pub(crate) child_faults: u64,
    /// Faults that had to wait for a disk, of all its threads.
    pub(crate) major_faults: u64,
    /// CPU time of all its threads; of a thread, its own.
    pub(crate) cpu_ticks: u64,
    pub(crate) threads: u32,
    pub(crate) start_ticks: u64,
    /// Changes with every mapping that comes or goes.
    pub(crate) virtual_bytes: u64,
    pub(crate) resident_pages: u64,
    pub(crate) image: Image,
}

/// Where the program and its stack begin in memory: as good as certain to differ after an exec.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Image {
    start_code: u64,
    start_stack: u64,
}

impl Stat {
    pub(crate) fn read(root: &Path, pid: u32) -> Option<Self> {
        Self::read_in(&files::process(root, pid))
    }

    /// Of the process or thread with this directory.
    pub(crate) fn read_in(directory: &Path) -> Option<Self> {
        Self::parse(files::read_at_once(&directory.join("stat"), &mut [0; MAX_BYTES]).ok()?)
    }

    pub(crate) fn parse(line: &[u8]) -> Option<Self> {
        // The name may itself hold spaces and parentheses; nothing behind it does.
        let open = line.iter().position(|byte| *byte == b'(')?;
        let close = line.iter().rposition(|byte| *byte == b')')?;
        let comm = line.get(open + 1..close)?.to_vec();
        let rest = line[close + 1..].trim_ascii();
        // Fields are counted from 1 in proc(5), and the third is the first here.
        let mut fields = [&b""[..]; MAX_FIELD - 2];
        fields.iter_mut().zip(files::fields(rest)).for_each(|(room, field)| *room = field);
        let field = |number: usize| fields.get(number - 3).copied().and_then(files::number::<u64>);
        Some(Self {
            comm,
            parent_pid: field(4)?.try_into().ok()?,
            kernel_thread: field(9)? & u64::from(PF_KTHREAD) != 0,
            child_faults: field(11)?,
            major_faults: field(12)?,
            cpu_ticks: field(14)?.saturating_add(field(15)?),
            threads: field(20)?.try_into().ok()?,
            start_ticks: field(22)?,
            virtual_bytes: field(23)?,
            resident_pages: field(24)?,
            image: Image { start_code: field(26)?, start_stack: field(28)? },
        })
    }

    /// Start, in nanoseconds since boot.
    pub(crate) fn start_time_ns(&self) -> u64 {
        nanos(self.start_ticks)
    }

    /// CPU time, in nanoseconds.
    pub(crate) fn cpu_ns(&self) -> u64 {
        nanos(self.cpu_ticks)
    }

    /// Time since its start.
    pub(crate) fn age(&self) -> Duration {
        files::boot_time().saturating_sub(Duration::from_nanos(self.start_time_ns()))
    }
}

/// Of clock ticks.
pub(super) fn nanos(ticks: u64) -> u64 {
    let nanos = u128::from(ticks) * 1_000_000_000 / u128::from(procfs::ticks_per_second().max(1));
    nanos.try_into().unwrap_or(u64::MAX)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A line with these values and others in between.
    pub(crate) fn line(pid: u32, comm: &str, parent: u32, flags: u32, start: u64, virtual_bytes: u64) -> String {
        format!(
            "{pid} ({comm}) S {parent} 1 1 0 -1 {flags} 9 9 6 9 30 12 5 5 20 0 3 0 {start} {virtual_bytes} 250 \
             18446744073709551615 4096 8192 12288 0 0 0 0 4096 17475 0 0 0 17 0 0 0 0 0 0 1 2 3 4 5 6 7 0\n"
        )
    }

    #[test]
    fn names_hold_spaces_parentheses_and_newlines() {
        for comm in ["a b", ") S 1 (", "x)\n2 (y", "", "((", "))", "\u{1b}[2J"] {
            let stat = Stat::parse(line(7, comm, 3, 0x40_0000, 1000, 5000).as_bytes()).unwrap();
            assert_eq!(stat.comm, comm.as_bytes());
            assert_eq!((stat.parent_pid, stat.start_ticks, stat.cpu_ticks), (3, 1000, 42));
            assert_eq!(stat.major_faults, 6);
            assert_eq!((stat.threads, stat.virtual_bytes, stat.resident_pages), (3, 5000, 250));
            assert_eq!(stat.image, Image { start_code: 4096, start_stack: 12288 });
            assert!(!stat.kernel_thread);
        }
        assert!(Stat::parse(line(7, "kthreadd", 3, PF_KTHREAD | 0x40, 1000, 0).as_bytes()).unwrap().kernel_thread);
    }

    #[test]
    fn what_is_no_stat_line_is_none() {
        let good = line(7, "x", 3, 0, 1000, 5000);
        let cut: Vec<&[u8]> = (0..good.len() / 2).map(|length| &good.as_bytes()[..length]).collect();
        let odd: [&[u8]; 7] = [b"", b"(", b")", b")(", b"()", b"1 (x) S -1 1 1", &[0xff; 5000]];
        for junk in cut.iter().chain(&odd) {
            assert_eq!(Stat::parse(junk), None, "{}", String::from_utf8_lossy(junk));
        }
    }

    #[test]
    fn this_process_is_read() {
        let stat = Stat::read(Path::new("/proc"), std::process::id()).unwrap();
        assert_eq!(stat.parent_pid, nix::unistd::getppid().as_raw() as u32);
        assert!(stat.resident_pages > 0 && stat.threads > 0 && !stat.kernel_thread);
        assert!(
            Stat::read(Path::new("/proc"), 2).is_none_or(|kthreadd| kthreadd.kernel_thread || kthreadd.parent_pid != 0)
        );
    }
}
