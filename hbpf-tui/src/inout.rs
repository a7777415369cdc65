//! What the tables show of disks, connections and accelerators' devices, by process.

use hbpf_core::snapshot::{DeviceUse, Disk, DiskDevice, Distribution, Network, Process, Snapshot};

use crate::format;
use crate::list::{Key, List, Row};
use crate::rows;
use crate::table::{Align, Cell, Column, Tone};

/// What there is of a kind: columns stand only where something of theirs was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Process,
    Disk,
    Network,
    Device,
}

/// A column, what it is about, and its cell of a process.
type Part = (Kind, Column, fn(&Process) -> Cell);

/// Where width runs out tails go before medians, and both before the counts that they are to be judged by.
const PARTS: [Part; 17] = {
    use Align::Right;
    use Kind::{Device, Disk, Network, Process};
    [
        (Process, Column::fixed("PID", Right, 7, 100), |process| {
            Cell::number(Some(process.pid), |pid| pid.to_string())
        }),
        (Process, Column::flexible("PROGRAM", 10, 40, 99), rows::command),
        (Process, Column::fixed("READ/s", Right, 6, 95).bytes(), |process| {
            disk_rate(process, |disk| disk.read_bytes_per_second)
        }),
        (Process, Column::fixed("WRIT/s", Right, 6, 94).bytes(), |process| {
            disk_rate(process, |disk| disk.write_bytes_per_second)
        }),
        (Disk, Column::flexible("DISK", 6, 16, 60), |process| Cell::new(disk_names(process), Tone::Dim)),
        (Disk, Column::fixed("REQS", Right, 6, 93), |process| {
            Cell::number(disk_latency(process).map(|all| all.count), count)
        }),
        (Disk, Column::fixed("DISK50", Right, 6, 88).seconds(), |process| {
            seconds(disk_latency(process).map(|all| all.p50))
        }),
        (Disk, Column::fixed("DISK99", Right, 6, 86).seconds(), |process| {
            seconds(disk_latency(process).map(|all| all.p99))
        }),
        (Network, Column::fixed("CONNS", Right, 5, 92), |process| {
            let connected = process.network.as_ref().map(|_| connects(process).map_or(0, |all| all.count));
            Cell::number(connected, count)
        }),
        (Network, Column::fixed("CONN50", Right, 6, 87).seconds(), |process| {
            seconds(connects(process).map(|all| all.p50))
        }),
        (Network, Column::fixed("CONN99", Right, 6, 85).seconds(), |process| {
            seconds(connects(process).map(|all| all.p99))
        }),
        (Network, Column::fixed("FAIL", Right, 4, 91), |process| {
            trouble(process, |net| Some(net.connects_failed_total))
        }),
        (Network, Column::fixed("RETR", Right, 5, 90), |process| trouble(process, |net| net.retransmits_total)),
        (Network, Column::fixed("RST", Right, 4, 89), |process| trouble(process, |net| net.resets_total)),
        (Device, Column::fixed("OPEN", Right, 4, 84), |process| devices(process, |device| device.open.map(u64::from))),
        (Device, Column::fixed("OPENS", Right, 5, 83), |process| devices(process, |device| Some(device.opens_total))),
        (Device, Column::flexible("DEVICES", 10, 40, 65), device_names),
    ]
};

/// Processes that use disks, connect or have accelerators' devices, the busiest first.
pub(crate) fn list(snapshot: &Snapshot) -> List {
    let mut shown: Vec<&Process> = snapshot.processes.iter().filter(|process| !kinds(process).is_empty()).collect();
    shown.sort_by(|a, b| bytes_per_second(b).total_cmp(&bytes_per_second(a)).then(events(b).cmp(&events(a))));
    let seen: Vec<Kind> = shown.iter().flat_map(|process| kinds(process)).chain([Kind::Process]).collect();
    let row = |process: &&Process| {
        let cells = PARTS.iter().map(|(_, _, cell)| cell(process)).collect();
        Row { also: process.pid.to_string(), ..Row::new(Key::Process(rows::identity(process)), cells) }
    };
    List {
        columns: PARTS.iter().map(|(kind, column, _)| column.if_any(seen.contains(kind))).collect(),
        rows: shown.iter().map(row).collect(),
    }
}

/// Each disk, all processes together.
pub(crate) fn disks(snapshot: &Snapshot) -> List {
    use Align::Right;
    // They give way in the same order.
    let columns = vec![
        Column::flexible("DISK", 8, 24, 100),
        Column::fixed("READS", Right, 6, 99),
        Column::fixed("READ", Right, 6, 93).bytes(),
        Column::fixed("READ50", Right, 6, 97).seconds(),
        Column::fixed("READ99", Right, 6, 95).seconds(),
        Column::fixed("WRITES", Right, 6, 98),
        Column::fixed("WRITE", Right, 6, 92).bytes(),
        Column::fixed("WRIT50", Right, 6, 96).seconds(),
        Column::fixed("WRIT99", Right, 6, 94).seconds(),
    ];
    let row = |disk: &DiskDevice| {
        let (reads, writes) = (disk.read_latency_seconds.as_ref(), disk.write_latency_seconds.as_ref());
        let cells = vec![
            Cell::new(disk.device.as_str(), Tone::Strong),
            Cell::number(Some(disk.reads_total), count),
            Cell::number(Some(disk.read_bytes_total), format::bytes),
            seconds(reads.map(|all| all.p50)),
            seconds(reads.map(|all| all.p99)),
            Cell::number(Some(disk.writes_total), count),
            Cell::number(Some(disk.written_bytes_total), format::bytes),
            seconds(writes.map(|all| all.p50)),
            seconds(writes.map(|all| all.p99)),
        ];
        Row::new(Key::Row(disk.device.to_string()), cells)
    };
    List { columns, rows: snapshot.host.disks.iter().map(row).collect() }
}

/// What is told of a process beside itself.
fn kinds(process: &Process) -> Vec<Kind> {
    let has_disks = process.disk.as_ref().is_some_and(|disk| !disk.devices.is_empty());
    let mut kinds = Vec::new();
    kinds.extend(has_disks.then_some(Kind::Disk));
    kinds.extend(process.network.is_some().then_some(Kind::Network));
    kinds.extend((!process.devices.is_empty()).then_some(Kind::Device));
    if kinds.is_empty() && bytes_per_second(process) > 0.0 {
        kinds.push(Kind::Process);
    }
    kinds
}

fn bytes_per_second(process: &Process) -> f64 {
    let sum = |disk: &Disk| disk.read_bytes_per_second.unwrap_or(0.0) + disk.write_bytes_per_second.unwrap_or(0.0);
    process.disk.as_ref().map_or(0.0, sum)
}

/// How much was seen of it since the groups were put in.
fn events(process: &Process) -> u64 {
    let network = process.network.as_ref();
    let counted = |net: &Network| {
        [Some(net.connects_failed_total), net.retransmits_total, net.resets_total].into_iter().flatten().sum::<u64>()
    };
    let timed = [disk_latency(process), connects(process)].into_iter().flatten().map(|all| all.count);
    let opened = process.devices.iter().map(|device| device.opens_total);
    timed.chain(opened).chain(network.map(counted)).fold(0, u64::saturating_add)
}

fn disk_rate(process: &Process, of: fn(&Disk) -> Option<f64>) -> Cell {
    Cell::number(process.disk.as_ref().and_then(of), |rate| format::bytes(rate as u64))
}

fn disk_latency(process: &Process) -> Option<&Distribution> {
    process.disk.as_ref()?.latency_seconds.as_ref()
}

fn connects(process: &Process) -> Option<&Distribution> {
    process.network.as_ref()?.connect_seconds.as_ref()
}

fn count(value: u64) -> String {
    format::short_count(value)
}

fn seconds(value: Option<f64>) -> Cell {
    Cell::number(value, format::seconds)
}

fn disk_names(process: &Process) -> String {
    let names = process.disk.iter().flat_map(|disk| &disk.devices).map(|disk| disk.device.as_str());
    names.collect::<Vec<_>>().join(" ")
}

/// What is better at none.
fn trouble(process: &Process, of: fn(&Network) -> Option<u64>) -> Cell {
    Cell::alarming(process.network.as_ref().and_then(of), count, Tone::Warn)
}

/// The sum over a process's devices; unknown where it is of one of them.
fn devices(process: &Process, of: fn(&DeviceUse) -> Option<u64>) -> Cell {
    let sum = || process.devices.iter().map(of).sum::<Option<u64>>();
    Cell::number((!process.devices.is_empty()).then(sum).flatten(), count)
}

fn device_names(process: &Process) -> Cell {
    let names: Vec<&str> = process.devices.iter().map(|device| device.device.as_str()).collect();
    Cell::new(names.join(" "), Tone::Plain)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;
    use crate::format::UNKNOWN;

    fn titles(snapshot: &Snapshot) -> Vec<&'static str> {
        list(snapshot).columns.iter().filter(|column| !column.is_extra).map(|column| column.title).collect()
    }

    #[test]
    fn only_what_was_seen_has_columns() {
        let mut snapshot = fixture::rich();
        assert_eq!(titles(&snapshot), ["PID", "PROGRAM", "READ/s", "WRIT/s"]);
        snapshot.processes[0].network = Some(Network::default());
        assert_eq!(titles(&snapshot).len(), 10);
        let snapshot = fixture::counted();
        assert_eq!(titles(&snapshot).len(), PARTS.len());
        let List { columns, rows } = list(&snapshot);
        assert!(!rows.is_empty() && rows.iter().all(|row| row.cells.len() == columns.len()));
    }

    #[test]
    fn the_busiest_stand_first_and_the_rest_is_not_listed() {
        let list = list(&fixture::counted());
        let pids: Vec<&str> = list.rows.iter().map(|row| row.cells[0].text.as_str()).collect();
        assert_eq!(pids, ["1291", "901", "41822"]);
    }

    #[test]
    fn what_is_unknown_of_one_device_is_unknown_of_all() {
        let mut process = Process { devices: vec![DeviceUse::default(), DeviceUse::default()], ..Process::default() };
        assert_eq!(devices(&process, |device| device.open.map(u64::from)).text, UNKNOWN);
        process.devices.iter_mut().for_each(|device| device.open = Some(2));
        assert_eq!(devices(&process, |device| device.open.map(u64::from)).text, "4");
    }
}
