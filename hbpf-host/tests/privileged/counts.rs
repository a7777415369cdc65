//! What is counted in the kernel, of processes that know themselves what they have done.

use std::collections::HashMap;

use crate::driver::Talker;
use crate::tests::{Test, attached};

pub(crate) const ALL: &[Test] = &[
    ("requests_to_a_disk_are_counted_and_timed", requests_to_a_disk_are_counted_and_timed),
    ("connections_are_counted_and_timed", connections_are_counted_and_timed),
    ("groups_share_what_they_need", groups_share_what_they_need),
];

/// Sectors of a disk in which the places that are read lie.
const MIN_SECTORS: u64 = 16 * 1024 * 1024 / 512;

/// How often, how long together in nanoseconds, and bytes.
type Sum = (u64, u64, u64);

/// What was counted of a process since the probes came, by event and device.
fn counted(subject: &mut Talker, pid: u32, mut is_enough: impl FnMut(&HashMap<(String, String), Sum>) -> bool) {
    let mut sums: HashMap<(String, String), Sum> = HashMap::new();
    for sample in 100.. {
        subject.tell(&format!("sample {sample}"));
        loop {
            let end = format!("sample-end {sample}");
            let line = subject.expect("counts", |line| line.starts_with("counted ") || line == end);
            let Some(rest) = line.strip_prefix("counted ") else { break };
            let fields: Vec<&str> = rest.split(' ').collect();
            let [of, event, device, count, nanoseconds, bytes] = fields[..] else { panic!("{line}") };
            if of == pid.to_string() {
                let sum = sums.entry((event.to_owned(), device.to_owned())).or_default();
                sum.0 += count.parse::<u64>().unwrap();
                sum.1 += nanoseconds.parse::<u64>().unwrap();
                sum.2 += bytes.parse::<u64>().unwrap();
            }
        }
        if is_enough(&sums) {
            return;
        }
        assert!(sample < 110, "{sums:?}");
    }
}

/// A block device that can be read from.
fn disk() -> Option<String> {
    let names = std::fs::read_dir("/sys/block").ok()?.flatten().map(|entry| entry.file_name());
    let mut names = names.filter_map(|name| name.into_string().ok()).collect::<Vec<_>>();
    names.sort();
    let size = |name: &str| std::fs::read_to_string(format!("/sys/block/{name}/size")).ok()?.trim().parse::<u64>().ok();
    // Not those whose requests are another's, or that take none.
    let is_disk =
        |name: &String| !["loop", "ram", "zram", "dm-", "md", "sr"].iter().any(|start| name.starts_with(start));
    names.into_iter().filter(is_disk).find(|name| size(name) > Some(MIN_SECTORS))
}

fn requests_to_a_disk_are_counted_and_timed() {
    let Some(disk) = disk() else {
        println!("skipped: there is no disk to read from");
        return;
    };
    let mut reader = Talker::python("count.py", &[]);
    reader.expect_start("ready");
    let (mut subject, _) = attached("block");
    reader.tell(&format!("read /dev/{disk} 200 16384"));
    let told = reader.expect_start("read ");
    let all_nanoseconds: u64 = told.parse().unwrap();
    counted(&mut subject, reader.pid(), |sums| {
        let Some(&(count, nanoseconds, bytes)) = sums.get(&("DiskRead".to_owned(), disk.clone())) else { return false };
        assert!((count, bytes) == (200, 200 * 16384), "{sums:?}");
        // The device's part of what the process has waited for.
        assert!(nanoseconds > 0 && nanoseconds < all_nanoseconds, "{nanoseconds} of {all_nanoseconds}");
        assert_eq!(sums.len(), 1, "and nothing else: {sums:?}");
        true
    });
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
    let key = |event: &str| (event.to_owned(), "-".to_owned());
    counted(&mut subject, client.pid(), |sums| {
        let Some(&(count, nanoseconds, 0)) = sums.get(&key("Connected")) else { return false };
        // Over loopback one takes microseconds; what stalls a busy machine is far from a second each.
        assert!(count == 102 && (102_000..102_000_000_000).contains(&nanoseconds), "{sums:?}");
        assert_eq!(sums.get(&key("ConnectFailed")).map(|sum| sum.0), Some(14), "{sums:?}");
        assert_eq!(sums.get(&key("Reset")).map(|sum| sum.0), Some(2), "{sums:?}");
        true
    });
    // The other ends, which have been reset, are of the process that listened.
    counted(&mut subject, server.pid(), |sums| sums.get(&key("Reset")).map(|sum| sum.0) == Some(2));
}

fn groups_share_what_they_need() {
    let mut client = Talker::python("count.py", &[]);
    client.expect_start("ready");
    let (mut subject, _) = attached("all");
    client.tell("connect 127.0.0.1 1 3");
    client.expect_start("refused 3");
    let failed = ("ConnectFailed".to_owned(), "-".to_owned());
    counted(&mut subject, client.pid(), |sums| sums.get(&failed).map(|sum| sum.0) == Some(3));
    // What tells whose socket it is goes on when the other group goes that needs it.
    subject.tell("detach plain");
    subject.expect("status", |line| line.starts_with("status "));
    client.tell("connect 127.0.0.1 1 3");
    client.expect_start("refused 3");
    counted(&mut subject, client.pid(), |sums| sums.get(&failed).map(|sum| sum.0) == Some(3));
}
