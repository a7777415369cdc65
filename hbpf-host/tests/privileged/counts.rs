//! What is counted in the kernel, of processes that know themselves what they have done.

use std::collections::HashMap;
use std::io::Write as _;
use std::os::unix::fs::MetadataExt;
use std::time::Instant;

use nix::sys::stat;

use crate::driver::{PATIENCE, Talker};
use crate::tests::{Test, attach, attached};

pub(crate) const ALL: &[Test] = &[
    ("requests_to_a_disk_are_counted_and_timed", requests_to_a_disk_are_counted_and_timed),
    ("requests_are_counted_by_the_records_of_tracepoints_too", requests_are_counted_by_the_records_of_tracepoints_too),
    (
        "requests_are_counted_by_the_tracepoints_of_old_kernels_too",
        requests_are_counted_by_the_tracepoints_of_old_kernels_too,
    ),
    ("connections_are_counted_and_timed", connections_are_counted_and_timed),
    ("openings_of_devices_are_counted_and_their_ends_seen", openings_of_devices_are_counted_and_their_ends_seen),
    ("groups_share_what_they_need", groups_share_what_they_need),
];

/// How often, how long together in nanoseconds, and bytes.
type Sum = (u64, u64, u64);

/// What was counted since the probes came, by process, event and device, and how often a program was to run and did not.
#[derive(Debug, Default)]
struct Counts {
    sums: HashMap<(u32, String, String), Sum>,
    missed: u64,
}

impl Counts {
    fn of(&self, pid: u32, event: &str, device: &str) -> Sum {
        self.sums.get(&(pid, event.to_owned(), device.to_owned())).copied().unwrap_or_default()
    }

    /// How often it has happened to a process that is about no device.
    fn times(&self, pid: u32, event: &str) -> u64 {
        self.of(pid, event, "-").0
    }

    /// Takes samples until it is enough. All that was done before is in the first, but what is told by the kernel later.
    fn until(&mut self, subject: &mut Talker, is_enough: impl Fn(&Self) -> bool) {
        for sample in 100..110 {
            subject.tell(&format!("sample {sample}"));
            let end = format!("sample-end {sample}");
            loop {
                let is_told = |line: &str| line.starts_with("counted ") || line.starts_with("status ");
                let line = subject.expect("counts", |line| is_told(line) || line == end);
                if line.starts_with("status ") {
                    let missed = line.rsplit("missed=").next().and_then(|missed| missed.parse().ok());
                    self.missed = missed.unwrap_or_else(|| panic!("{line}"));
                    continue;
                }
                let Some(rest) = line.strip_prefix("counted ") else { break };
                let fields: Vec<&str> = rest.split(' ').collect();
                let [pid, event, device, count, nanoseconds, bytes] = fields[..] else { panic!("{line}") };
                let number = |text: &str| text.parse::<u64>().unwrap();
                let sum = self.sums.entry((pid.parse().unwrap(), event.to_owned(), device.to_owned())).or_default();
                let all = (sum.0 + number(count), sum.1 + number(nanoseconds), sum.2 + number(bytes));
                *sum = all;
            }
            if is_enough(self) {
                return;
            }
        }
        panic!("not enough: {self:#?}");
    }
}

/// What is read of a disk at once, and how often.
const PIECE: u64 = 16 * 1024;
const PIECES: u64 = 200;

/// A file on a disk, and the disk's name. Its pieces that are read lie apart, or the kernel would join them.
fn file_on_disk() -> Option<(tempfile::NamedTempFile, String)> {
    let mut file = tempfile::NamedTempFile::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let random: Vec<u8> = (0..PIECE * 4 * PIECES).map(|i| (i ^ i >> 7).to_le_bytes()[0]).collect();
    file.write_all(&random).unwrap();
    file.as_file().sync_all().unwrap();
    let device = file.as_file().metadata().unwrap().dev();
    // Not there where the directory is on no disk of its own, as in a container.
    let link = format!("/sys/dev/block/{}:{}", stat::major(device), stat::minor(device));
    let mut place = std::fs::canonicalize(link).ok()?;
    if place.join("partition").exists() {
        place.pop();
    }
    Some((file, place.file_name()?.to_str()?.to_owned()))
}

fn requests_to_a_disk_are_counted_and_timed() {
    counts_requests(Talker::subject(&[]), "block_request_started block_io_start");
}

/// Hides the types of the kernel.
const WITHOUT_TYPES: &str = "--bind /dev/null /sys/kernel/btf/vmlinux";

fn requests_are_counted_by_the_records_of_tracepoints_too() {
    counts_requests(Talker::subject_with_mounts(&[WITHOUT_TYPES]), "block_started block:block_io_start");
}

fn requests_are_counted_by_the_tracepoints_of_old_kernels_too() {
    // Hides the new ones.
    let mounts = [
        WITHOUT_TYPES,
        "-t tracefs tracefs /sys/kernel/tracing",
        "-t tmpfs none /sys/kernel/tracing/events/block/block_io_start",
    ];
    counts_requests(Talker::subject_with_mounts(&mounts), "block_started block:block_getrq");
}

fn counts_requests(subject: Talker, tracepoint: &str) {
    let Some((file, disk)) = file_on_disk() else {
        println!("skipped: this directory is on no disk");
        return;
    };
    let mut reader = Talker::python("count.py", &[]);
    reader.expect_start("ready");
    let (mut subject, _) = attach(subject, "block");
    assert!(subject.said().iter().any(|line| *line == format!("place {tracepoint}")), "{:#?}", subject.said());
    reader.tell(&format!("read {} {PIECES} {PIECE}", file.path().display()));
    let waited: u64 = reader.expect_start("read ").parse().unwrap();
    let mut counts = Counts::default();
    let pid = reader.pid();
    // On the tracepoints' records a program does not run while another one does, or a map is read: the kernel says how often.
    let read = |counts: &Counts| counts.of(pid, "DiskRead", &disk).2 / PIECE;
    counts.until(&mut subject, |counts| read(counts) + counts.missed >= PIECES);
    let (count, nanoseconds, bytes) = counts.of(pid, "DiskRead", &disk);
    assert!(counts.missed == 0 || tracepoint.starts_with("block_started "), "{counts:#?}");
    // A file may be in two places where a piece ends in one.
    let least = PIECES.saturating_sub(counts.missed);
    assert!((least..PIECES * 5 / 4).contains(&count) && bytes <= PIECES * PIECE, "{count} with {bytes}: {counts:#?}");
    // The device's part of what the process has waited for.
    assert!(nanoseconds > waited / 10 && nanoseconds < waited, "{nanoseconds} of {waited}");
    assert_eq!(counts.of(pid, "DiskWrite", &disk), (0, 0, 0));
}

fn connections_are_counted_and_timed() {
    let mut client = Talker::python("count.py", &[]);
    client.expect_start("ready");
    let mut server = Talker::python("count.py", &[]);
    server.expect_start("ready");
    let (mut subject, _) = attached("net");
    for (family, address) in [("4", "127.0.0.1"), ("6", "::1")] {
        server.tell(&format!("listen {address}"));
        let port = server.expect_start("port ");
        client.tell(&format!("connect {address} {port} 50"));
        client.expect_start(&format!("connected 50 {family}"));
        client.tell(&format!("reset {address} {port}"));
        client.expect_start("was reset");
        server.tell("close");
        server.expect_start("closed");
        client.tell(&format!("connect {address} {port} 7"));
        client.expect_start(&format!("refused 7 {family}"));
    }
    let (client, server) = (client.pid(), server.pid());
    let mut counts = Counts::default();
    counts.until(&mut subject, |counts| counts.times(client, "Connected") >= 102 && counts.times(server, "Reset") >= 2);
    let (count, nanoseconds, bytes) = counts.of(client, "Connected", "-");
    // Over loopback one takes microseconds; what stalls a busy machine is far from a second each.
    assert!((count, bytes) == (102, 0) && (102_000..102_000_000_000).contains(&nanoseconds), "{counts:#?}");
    let of = |pid, event| counts.times(pid, event);
    assert_eq!((of(client, "ConnectFailed"), of(client, "Reset"), of(client, "Retransmitted")), (14, 2, 0));
    // The other ends are of the process that listened, which has connected to nobody.
    assert_eq!((of(server, "Reset"), of(server, "Connected"), of(server, "ConnectFailed")), (2, 0, 0));
}

fn openings_of_devices_are_counted_and_their_ends_seen() {
    // The driver of `/dev/zero` stands in for an accelerator's.
    let mut devices = tempfile::NamedTempFile::new().unwrap();
    devices.write_all(b"Character devices:\n  1 drm\n\nBlock devices:\n").unwrap();
    let mut user = Talker::python("count.py", &[]);
    user.expect_start("ready");
    user.tell("open /dev/zero 2");
    user.expect_start("open 2");
    let mounted = Talker::subject_with_mounts(&[&format!("--bind {} /proc/devices", devices.path().display())]);
    let (mut subject, _) = attach(mounted, "device");
    let pid = user.pid();
    let mut counts = Counts::default();
    let mut does = |what: &str, opens, held: &str| {
        user.tell(what);
        user.expect_start(what.split(' ').next().unwrap());
        counts.until(&mut subject, |counts| counts.of(pid, "Opened", "zero").0 == opens);
        until_held(&mut subject, pid, held, what);
    };
    // Three more, and how many are held and are over.
    does("open /dev/zero 3", 3, "5 Some(0)");
    // Copies of a descriptor, another process that has all of them, and its end are no openings and no ends of any.
    does("copy 4", 3, "5 Some(0)");
    does("fork", 3, "5 Some(0)");
    does("close-copies", 3, "5 Some(0)");
    does("close 1", 3, "4 Some(1)");
    // What another process opens is its own.
    does("child-opens /dev/zero", 3, "4 Some(1)");
    user.finish();
    until_held(&mut subject, pid, "0 Some(5)", "the end of all");
}

/// Where many processes hold such devices, each has its turn.
fn until_held(subject: &mut Talker, pid: u32, held: &str, what: &str) {
    let of_pid = format!("held {pid} zero ");
    let wanted = format!("{of_pid}{held}");
    let give_up = Instant::now() + PATIENCE;
    let mut last = String::new();
    for sample in 1000.. {
        subject.tell(&format!("sample {sample}"));
        let end = format!("sample-end {sample}");
        loop {
            let line = subject.expect(what, |line| line.starts_with(&of_pid) || line == end);
            if line == wanted {
                return;
            }
            if line == end {
                break;
            }
            last = line;
        }
        assert!(Instant::now() < give_up, "{wanted} did not come after {what}, but {last:?}");
    }
}

fn groups_share_what_they_need() {
    let mut client = Talker::python("count.py", &[]);
    client.expect_start("ready");
    let (mut subject, _) = attached("all");
    let mut counts = Counts::default();
    let mut refused = |subject: &mut Talker, expected| {
        client.tell("connect 127.0.0.1 1 3");
        client.expect_start("refused 3");
        let pid = client.pid();
        counts.until(subject, |counts| counts.times(pid, "ConnectFailed") == expected);
    };
    refused(&mut subject, 3);
    // What tells whose socket it is goes on when another group goes that needs it.
    subject.tell("detach plain");
    subject.expect_start("status ");
    refused(&mut subject, 6);
}
