//! `/proc/PID/status`, and `/proc/PID/task/TID/status`, which has the same form.

use std::path::Path;

use super::files;

/// Longest part that is read. The masks of CPUs and memory nodes before the last lines take some 3 KB where the kernel is
/// built for 8,192 CPUs.
const MAX_BYTES: usize = 16 * 1024;

/// What is read of it; `None` where a line is missing, as those of memory are of a process that has ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Status {
    pub(super) effective_uid: Option<u32>,
    /// Exact, which that of `/proc/PID/stat` is not: there the kernel leaves out what its CPUs have yet to add up.
    pub(super) resident_bytes: Option<u64>,
    /// Resident memory that is files or shared.
    pub(super) shared_bytes: Option<u64>,
    pub(super) swap_bytes: Option<u64>,
    /// Of this one thread; of the main thread, in the file of a process.
    pub(super) voluntary_switches: Option<u64>,
    pub(super) involuntary_switches: Option<u64>,
}

impl Status {
    /// `None` where there is no such process or thread.
    pub(super) fn read(directory: &Path) -> Option<Self> {
        Some(Self::parse(&files::read(&directory.join("status"), MAX_BYTES).ok()?.bytes))
    }

    pub(super) fn parse(bytes: &[u8]) -> Self {
        let mut status = Self::default();
        let (mut files, mut shared_memory) = (None, None);
        for line in files::lines(bytes) {
            let Some(colon) = line.iter().position(|byte| *byte == b':') else { continue };
            let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
            let number = || files::fields(value).next().and_then(files::number::<u64>);
            let bytes = || number().and_then(|kibibytes| kibibytes.checked_mul(1024));
            match name {
                // REAL EFFECTIVE SAVED FILE-SYSTEM
                b"Uid" => status.effective_uid = files::fields(value).nth(1).and_then(files::number),
                b"VmRSS" => status.resident_bytes = bytes(),
                b"RssFile" => files = bytes(),
                b"RssShmem" => shared_memory = bytes(),
                b"VmSwap" => status.swap_bytes = bytes(),
                b"voluntary_ctxt_switches" => status.voluntary_switches = number(),
                b"nonvoluntary_ctxt_switches" => status.involuntary_switches = number(),
                _ => {}
            }
        }
        status.shared_bytes = files.zip(shared_memory).map(|(files, shared): (u64, u64)| files.saturating_add(shared));
        status
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_found_wherever_they_stand() {
        let status = Status::parse(
            b"Name:\tasyncio_0\nUmask:\t0022\nUid:\t1000\t1001\t1002\t1003\nVmRSS:\t   16 kB\nVmSwap:\t     12 kB\nRssFile:\t 8 kB\nRssShmem:\t4 kB\n\
            voluntary_ctxt_switches:\t150\nnonvoluntary_ctxt_switches:\t545\n",
        );
        let expected = Status {
            effective_uid: Some(1001),
            resident_bytes: Some(16 * 1024),
            shared_bytes: Some(12 * 1024),
            swap_bytes: Some(12 * 1024),
            voluntary_switches: Some(150),
            involuntary_switches: Some(545),
        };
        assert_eq!(status, expected);
    }

    #[test]
    fn what_is_missing_or_odd_is_unknown() {
        let odd = b"Name:\nUid:\t1\nVmSwap:\t18446744073709551615 kB\nRssFile:\t-1 kB\nRssShmem:\t4 kB\nvoluntary_ctxt_switches\n\xff\n::\n";
        assert_eq!(Status::parse(odd), Status::default());
        assert_eq!(Status::parse(b""), Status::default());
        assert_eq!(Status::read(Path::new("/nonexistent")), None);
    }

    #[test]
    fn this_process_is_read() {
        let status = Status::read(Path::new("/proc/self")).unwrap();
        assert_eq!(status.effective_uid, Some(nix::unistd::geteuid().as_raw()));
        assert!(status.shared_bytes.unwrap() > 0 && status.swap_bytes.is_some());
        assert!(status.voluntary_switches.is_some() && status.involuntary_switches.is_some());
    }
}
