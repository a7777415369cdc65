//! What the tables show of disks, connections and accelerators' devices, by process.

use hbpf_core::snapshot::{DeviceUse, Disk, DiskDevice, Distribution, Network, Process, Snapshot};

use crate::format::{self, UNKNOWN};
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
    use Align::{Left, Right};
    use Kind::{Device, Disk, Network, Process};
    [
        (Process, Column::fixed("PID", Right, 7, 100), |process| Cell::number(process.pid.to_string())),
        (Process, Column::flexible("PROGRAM", 10, 40, 99), rows::command),
        (Process, Column::fixed("READ/s", Right, 6, 95), |process| {
            disk(process, |disk| rate(disk.read_bytes_per_second))
        }),
        (Process, Column::fixed("WRIT/s", Right, 6, 94), |process| {
            disk(process, |disk| rate(disk.write_bytes_per_second))
        }),
        (Disk, Column::flexible("DISK", 6, 16, 60), |process| Cell::new(disks(process), Tone::Dim)),
        (Disk, Column::fixed("REQS", Right, 6, 93), |process| latency(disk_latency(process), |all| count(all.count))),
        (Disk, Column::fixed("DISK50", Right, 6, 88), |process| latency(disk_latency(process), |all| seconds(all.p50))),
        (Disk, Column::fixed("DISK99", Right, 6, 86), |process| latency(disk_latency(process), |all| seconds(all.p99))),
        (Network, Column::fixed("CONNS", Right, 5, 92), |process| {
            let connected = process.network.as_ref().map(|_| connects(process).map_or(0, |all| all.count));
            number(connected.map(count))
        }),
        (Network, Column::fixed("CONN50", Right, 6, 87), |process| latency(connects(process), |all| seconds(all.p50))),
        (Network, Column::fixed("CONN99", Right, 6, 85), |process| latency(connects(process), |all| seconds(all.p99))),
        (Network, Column::fixed("FAIL", Right, 4, 91), |process| {
            trouble(process, |net| Some(net.connects_failed_total))
        }),
        (Network, Column::fixed("RETR", Right, 5, 90), |process| trouble(process, |net| net.retransmits_total)),
        (Network, Column::fixed("RST", Right, 4, 89), |process| trouble(process, |net| net.resets_total)),
        (Device, Column::fixed("OPEN", Right, 4, 84), |process| devices(process, |device| device.open.map(u64::from))),
        (Device, Column::fixed("OPENS", Right, 5, 83), |process| devices(process, |device| Some(device.opens_total))),
        (Device, Column { align: Left, ..Column::flexible("DEVICES", 10, 40, 65) }, device_names),
    ]
};

/// Processes that use disks, connect or have accelerators' devices, the busiest first: columns and rows.
pub(crate) fn table(snapshot: &Snapshot) -> (Vec<Column>, Vec<Vec<Cell>>) {
    let mut shown: Vec<&Process> = snapshot.processes.iter().filter(|process| !kinds(process).is_empty()).collect();
    shown.sort_by(|a, b| bytes_per_second(b).total_cmp(&bytes_per_second(a)).then(events(b).cmp(&events(a))));
    let seen: Vec<Kind> = shown.iter().flat_map(|process| kinds(process)).chain([Kind::Process]).collect();
    let parts: Vec<&Part> = PARTS.iter().filter(|(kind, ..)| seen.contains(kind)).collect();
    let rows = shown.iter().map(|process| parts.iter().map(|(_, _, cell)| cell(process)).collect()).collect();
    (parts.iter().map(|(_, column, _)| *column).collect(), rows)
}

/// Columns of [`disk_rows`]; they give way in the same order.
pub(crate) fn disk_columns() -> [Column; 9] {
    use Align::{Left, Right};
    [
        Column { align: Left, ..Column::flexible("DISK", 8, 24, 100) },
        Column::fixed("READS", Right, 6, 99),
        Column::fixed("READ", Right, 6, 93),
        Column::fixed("READ50", Right, 6, 97),
        Column::fixed("READ99", Right, 6, 95),
        Column::fixed("WRITES", Right, 6, 98),
        Column::fixed("WRITE", Right, 6, 92),
        Column::fixed("WRIT50", Right, 6, 96),
        Column::fixed("WRIT99", Right, 6, 94),
    ]
}

/// Each disk, all processes together.
pub(crate) fn disk_rows(snapshot: &Snapshot) -> Vec<Vec<Cell>> {
    let row = |disk: &DiskDevice| {
        let (reads, writes) = (disk.read_latency_seconds.as_ref(), disk.write_latency_seconds.as_ref());
        vec![
            Cell::new(disk.device.as_str(), Tone::Strong),
            Cell::number(count(disk.reads_total)),
            Cell::number(format::bytes(disk.read_bytes_total)),
            latency(reads, |all| seconds(all.p50)),
            latency(reads, |all| seconds(all.p99)),
            Cell::number(count(disk.writes_total)),
            Cell::number(format::bytes(disk.written_bytes_total)),
            latency(writes, |all| seconds(all.p50)),
            latency(writes, |all| seconds(all.p99)),
        ]
    };
    snapshot.host.disks.iter().map(row).collect()
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

fn number(text: Option<String>) -> Cell {
    Cell::number(text.unwrap_or_else(|| UNKNOWN.to_owned()))
}

fn disk(process: &Process, of: fn(&Disk) -> Option<String>) -> Cell {
    number(process.disk.as_ref().and_then(of))
}

fn rate(bytes_per_second: Option<f64>) -> Option<String> {
    bytes_per_second.map(|rate| format::bytes(rate as u64))
}

fn disk_latency(process: &Process) -> Option<&Distribution> {
    process.disk.as_ref()?.latency_seconds.as_ref()
}

fn connects(process: &Process) -> Option<&Distribution> {
    process.network.as_ref()?.connect_seconds.as_ref()
}

fn latency(all: Option<&Distribution>, of: fn(&Distribution) -> String) -> Cell {
    number(all.map(of))
}

fn count(value: u64) -> String {
    format::short_count(value)
}

fn seconds(value: f64) -> String {
    format::seconds(value)
}

fn disks(process: &Process) -> String {
    let names = process.disk.iter().flat_map(|disk| &disk.devices).map(|disk| disk.device.as_str());
    names.collect::<Vec<_>>().join(" ")
}

/// What is better at none.
fn trouble(process: &Process, of: fn(&Network) -> Option<u64>) -> Cell {
    match process.network.as_ref().and_then(of) {
        Some(times) if times > 0 => Cell::new(count(times), Tone::Warn),
        times => number(times.map(count)),
    }
}

/// The sum over a process's devices; unknown where it is of one of them.
fn devices(process: &Process, of: fn(&DeviceUse) -> Option<u64>) -> Cell {
    let sum = || process.devices.iter().map(of).sum::<Option<u64>>();
    number((!process.devices.is_empty()).then(sum).flatten().map(count))
}

fn device_names(process: &Process) -> Cell {
    let names: Vec<&str> = process.devices.iter().map(|device| device.device.as_str()).collect();
    Cell::new(names.join(" "), Tone::Plain)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;

    fn titles(snapshot: &Snapshot) -> Vec<&'static str> {
        table(snapshot).0.iter().map(|column| column.title).collect()
    }

    #[test]
    fn only_what_was_seen_has_columns() {
        let mut snapshot = fixture::rich();
        assert_eq!(titles(&snapshot), ["PID", "PROGRAM", "READ/s", "WRIT/s"]);
        snapshot.processes[0].network = Some(Network::default());
        assert_eq!(titles(&snapshot).len(), 10);
        let snapshot = fixture::counted();
        let (columns, rows) = table(&snapshot);
        assert_eq!(columns.len(), PARTS.len());
        assert!(!rows.is_empty() && rows.iter().all(|row| row.len() == columns.len()));
    }

    #[test]
    fn the_busiest_stand_first_and_the_rest_is_not_listed() {
        let (_, rows) = table(&fixture::counted());
        let pids: Vec<&str> = rows.iter().map(|row| row[0].text.as_str()).collect();
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
