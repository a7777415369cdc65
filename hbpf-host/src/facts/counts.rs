//! What the programs have counted of each process.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use hbpf_core::label::Label;
use hbpf_core::snapshot::{DeviceUse, Disk, DiskDevice, Network, Process};
use hbpf_core::timings::Timings;

use crate::protocol::{Counted, Event, Held};

/// Most processes that are counted apart: as many as are described, and kernel threads.
const MAX_PROCESSES: usize = 8192;

/// How long what was counted stays of which nobody is known. A new process is sampled sooner.
const UNKNOWN_STAYS: Duration = Duration::from_secs(30);

/// Most devices of one process, of either kind.
const MAX_DEVICES: usize = 256;

/// By process.
#[derive(Debug, Default)]
pub(super) struct Counts {
    processes: HashMap<u32, Count>,
    /// All processes together, those that are counted apart no more, too.
    disks: BTreeMap<Label, OnDisk>,
}

#[derive(Debug, Default)]
struct Count {
    /// When the process started, and since when nothing is known of any with its number.
    start_time_ns: Option<u64>,
    unknown_since: Option<Instant>,
    /// Of all kinds.
    events: u64,
    disks: BTreeMap<Label, OnDisk>,
    has_network: bool,
    connects: Timings,
    connects_failed: u64,
    retransmits: u64,
    resets: u64,
    devices: BTreeMap<Label, OnDevice>,
}

#[derive(Debug, Default)]
struct OnDisk {
    reads: Requests,
    writes: Requests,
    others: Requests,
}

#[derive(Debug, Default)]
struct Requests {
    count: u64,
    bytes: u64,
    timings: Timings,
}

#[derive(Debug, Default)]
struct OnDevice {
    opens: u64,
    closed: Option<u64>,
    open: Option<u32>,
}

impl Counts {
    /// Adds what was counted. `is_known` tells processes that run.
    pub(super) fn count(&mut self, counted: Vec<Counted>, is_known: impl Fn(u32) -> bool) {
        for counted in counted {
            if let Some(disk) = counted.event.is_of_disk().then(|| entry(&mut self.disks, &counted.device)).flatten() {
                disk.add(&counted);
            }
            if self.make_room(counted.pid, &is_known) {
                self.processes.entry(counted.pid).or_default().add(&counted);
            }
        }
    }

    /// Takes what processes hold of devices now.
    pub(super) fn hold(&mut self, held: Vec<Held>, is_known: impl Fn(u32) -> bool) {
        for Held { pid, device, open, closed } in held {
            if self.make_room(pid, &is_known)
                && let Some(found) = entry(&mut self.processes.entry(pid).or_default().devices, &device)
            {
                (found.open, found.closed) = (open, closed);
            }
        }
    }

    /// Whether anything was counted of this process.
    pub(super) fn has(&self, pid: u32) -> bool {
        self.processes.contains_key(&pid)
    }

    /// All of it has been told.
    pub(super) fn forget(&mut self, pid: u32) {
        self.processes.remove(&pid);
    }

    /// Compares with who runs: `started` tells when a process did. What was counted of one whose number is in new hands goes, and
    /// by and by what belongs to nobody that is known, such as the kernel's threads.
    pub(super) fn reconcile(&mut self, started: impl Fn(u32) -> Option<u64>) {
        self.processes.retain(|pid, count| match started(*pid) {
            Some(now) if count.start_time_ns.is_some_and(|before| before != now) => false,
            Some(now) => {
                (count.start_time_ns, count.unknown_since) = (Some(now), None);
                true
            }
            None => count.unknown_since.get_or_insert_with(Instant::now).elapsed() < UNKNOWN_STAYS,
        });
    }

    /// Processes of which anything was counted, those with most first.
    pub(super) fn processes(&self) -> Vec<u32> {
        let mut processes: Vec<(u64, u32)> = self.processes.iter().map(|(pid, count)| (count.events, *pid)).collect();
        processes.sort_unstable_by(|a, b| b.cmp(a));
        processes.into_iter().map(|(_, pid)| pid).collect()
    }

    /// What was counted of each disk.
    pub(super) fn disks(&self) -> Vec<DiskDevice> {
        self.disks.iter().map(|(device, disk)| disk.told(device)).collect()
    }

    /// Puts what was counted of a process beside what else is known of it.
    pub(super) fn describe(&self, process: &mut Process) {
        let Some(count) = self.processes.get(&process.pid) else { return };
        if !count.disks.is_empty() {
            let mut all = Timings::default();
            count.disks.values().flat_map(OnDisk::all).for_each(|requests| all.extend(&requests.timings));
            let disk = process.disk.get_or_insert_with(Disk::default);
            disk.latency_seconds = all.distribution();
            disk.devices = count.disks.iter().map(|(device, disk)| disk.told(device)).collect();
        }
        if count.has_network {
            process.network = Some(Network {
                connect_seconds: count.connects.distribution(),
                connects_failed_total: count.connects_failed,
                retransmits_total: Some(count.retransmits),
                resets_total: Some(count.resets),
            });
        }
        let devices = count.devices.iter().map(|(device, used)| DeviceUse {
            device: device.clone(),
            opens_total: used.opens,
            closes_total: used.closed,
            open: used.open,
        });
        process.devices = devices.collect();
    }

    /// Whether there is room for numbers of this process.
    fn make_room(&mut self, pid: u32, is_known: &impl Fn(u32) -> bool) -> bool {
        if self.processes.contains_key(&pid) || self.processes.len() < MAX_PROCESSES {
            return true;
        }
        // The news of their end was lost, or they are kernel threads.
        self.processes.retain(|pid, _| is_known(*pid));
        self.processes.len() < MAX_PROCESSES
    }
}

impl Count {
    fn add(&mut self, counted: &Counted) {
        let Counted { event, slot, count, nanoseconds, .. } = *counted;
        self.events = self.events.saturating_add(count);
        match event {
            Event::DiskRead | Event::DiskWrite | Event::DiskOther => {
                if let Some(disk) = entry(&mut self.disks, &counted.device) {
                    disk.add(counted);
                }
            }
            Event::Connected => self.connects.add(slot, count, nanoseconds),
            Event::ConnectFailed => self.connects_failed = self.connects_failed.saturating_add(count),
            Event::Retransmitted => self.retransmits = self.retransmits.saturating_add(count),
            Event::Reset => self.resets = self.resets.saturating_add(count),
            Event::Opened => {
                if let Some(found) = entry(&mut self.devices, &counted.device) {
                    found.opens = found.opens.saturating_add(count);
                }
            }
        }
        self.has_network |=
            matches!(event, Event::Connected | Event::ConnectFailed | Event::Retransmitted | Event::Reset);
    }
}

impl OnDisk {
    fn add(&mut self, counted: &Counted) {
        let requests = match counted.event {
            Event::DiskRead => &mut self.reads,
            Event::DiskWrite => &mut self.writes,
            _ => &mut self.others,
        };
        requests.count = requests.count.saturating_add(counted.count);
        requests.bytes = requests.bytes.saturating_add(counted.bytes);
        requests.timings.add(counted.slot, counted.count, counted.nanoseconds);
    }

    fn all(&self) -> [&Requests; 3] {
        [&self.reads, &self.writes, &self.others]
    }

    fn told(&self, device: &Label) -> DiskDevice {
        DiskDevice {
            device: device.clone(),
            reads_total: self.reads.count,
            read_bytes_total: self.reads.bytes,
            writes_total: self.writes.count,
            written_bytes_total: self.writes.bytes,
            read_latency_seconds: self.reads.timings.distribution(),
            write_latency_seconds: self.writes.timings.distribution(),
        }
    }
}

fn entry<'a, T: Default>(devices: &'a mut BTreeMap<Label, T>, device: &Label) -> Option<&'a mut T> {
    let fits = devices.len() < MAX_DEVICES || devices.contains_key(device);
    fits.then(|| devices.entry(device.clone()).or_default())
}

#[cfg(test)]
mod tests {
    use hbpf_core::snapshot::Distribution;

    use super::*;

    fn counted(pid: u32, event: Event, device: &str, count: u64) -> Counted {
        Counted {
            pid,
            event,
            device: device.into(),
            slot: 320,
            count,
            nanoseconds: count * 1_000_000,
            bytes: count * 4096,
        }
    }

    fn of(counts: &Counts, pid: u32) -> Process {
        let mut process = Process { pid, ..Process::default() };
        counts.describe(&mut process);
        process
    }

    #[test]
    fn what_was_counted_stands_beside_the_process() {
        let mut counts = Counts::default();
        let events = [
            counted(7, Event::DiskRead, "vda", 3),
            counted(7, Event::DiskWrite, "vda", 2),
            counted(7, Event::DiskOther, "vdb", 1),
            counted(7, Event::Connected, "", 4),
            counted(7, Event::ConnectFailed, "", 1),
            counted(7, Event::Retransmitted, "", 9),
            counted(8, Event::Opened, "nvidia0", 2),
        ];
        counts.count(events.to_vec(), |_| true);
        counts.count(vec![counted(7, Event::DiskRead, "vda", 1)], |_| true);
        counts.hold(vec![Held { pid: 8, device: "nvidia0".into(), open: Some(1), closed: Some(1) }], |_| true);
        let seven = of(&counts, 7);
        let disk = seven.disk.unwrap();
        assert_eq!(disk.latency_seconds.unwrap().count, 7);
        let [vda, vdb] = &disk.devices[..] else { panic!("{:?}", disk.devices) };
        assert_eq!((vda.reads_total, vda.read_bytes_total), (4, 4 * 4096));
        assert_eq!((vda.writes_total, vda.written_bytes_total), (2, 2 * 4096));
        let timed = |latency: &Option<Distribution>| latency.as_ref().map(|all| all.count);
        assert_eq!((timed(&vda.read_latency_seconds), timed(&vda.write_latency_seconds)), (Some(4), Some(2)));
        assert_eq!((vdb.reads_total, vdb.writes_total, timed(&vdb.read_latency_seconds)), (0, 0, None));
        let network = seven.network.unwrap();
        assert_eq!((network.connect_seconds.unwrap().p50, network.connects_failed_total), (0.001, 1));
        assert_eq!((network.retransmits_total, network.resets_total), (Some(9), Some(0)));
        counts.count(vec![counted(0, Event::DiskWrite, "vdb", 5)], |_| true);
        let disks: Vec<_> = counts.disks().iter().map(|disk| (disk.reads_total, disk.writes_total)).collect();
        assert_eq!(disks, [(4, 2), (0, 5)], "of all processes");
        let eight = of(&counts, 8);
        assert!(eight.network.is_none() && eight.disk.is_none(), "nothing was seen of either");
        let device = &eight.devices[0];
        assert_eq!((device.opens_total, device.closes_total, device.open), (2, Some(1), Some(1)));
    }

    #[test]
    fn a_number_in_new_hands_begins_anew_and_what_is_nobodys_goes() {
        let mut counts = Counts::default();
        counts.count(vec![counted(7, Event::Connected, "", 1), counted(8, Event::Connected, "", 1)], |_| true);
        let started = |seven, eight| move |pid| if pid == 7 { seven } else { eight };
        counts.reconcile(started(Some(1), None));
        counts.reconcile(started(Some(1), None));
        assert!(counts.has(7) && counts.has(8));
        counts.reconcile(started(Some(2), None));
        assert!(!counts.has(7) && counts.has(8));
        counts.processes.get_mut(&8).unwrap().unknown_since = Some(Instant::now() - UNKNOWN_STAYS);
        counts.reconcile(started(None, None));
        assert!(!counts.has(8));
    }

    #[test]
    fn processes_and_devices_are_bounded() {
        let mut counts = Counts::default();
        let many = (0..2 * MAX_PROCESSES as u32).map(|pid| counted(pid, Event::Reset, "", 1));
        counts.count(many.collect(), |pid| pid < 100);
        assert!(counts.processes.len() <= MAX_PROCESSES && counts.processes.contains_key(&50));
        let disks = (0..2 * MAX_DEVICES).map(|disk| counted(50, Event::DiskRead, &format!("sd{disk}"), 1));
        counts.count(disks.collect(), |_| true);
        assert_eq!(of(&counts, 50).disk.unwrap().devices.len(), MAX_DEVICES);
    }
}
