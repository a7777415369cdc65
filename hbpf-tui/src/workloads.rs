//! What the tables show of workloads: what they serve or call, and the machine behind it, in one row.

use hbpf_core::snapshot::{LlmStats, Snapshot, Workload, WorkloadKind};

use crate::engines;
use crate::format;
use crate::list::{Key, List, Row};
use crate::rows;
use crate::table::{Align, Cell, Column, Tone};

/// The workloads of a snapshot. Where there is no GPU, server or price nothing is said of any.
pub(crate) fn list(snapshot: &Snapshot) -> List {
    use Align::{Left, Right};
    let has_gpus = !snapshot.gpus.is_empty() || snapshot.workloads.iter().any(|row| row.gpu_memory_bytes.is_some());
    let has_engines = !snapshot.engines.is_empty();
    // Few tables of prices have GPUs.
    let has_prices = snapshot.workloads.iter().any(|row| row.gpu_cost_usd_per_hour.is_some());
    let columns = vec![
        Column::flexible("WORKLOAD", 14, 44, 100),
        Column::fixed("KIND", Left, 9, 40),
        Column::fixed("PROCS", Right, 5, 60),
        Column::fixed("ROLE", Left, 6, 74),
        Column::fixed("TOK/S", Right, 6, 99),
        Column::fixed("REQ/S", Right, 5, 70),
        Column::fixed("FLY", Right, 4, 72).called("inflight"),
        Column::fixed("TTFT50", Right, 6, 90).seconds().called("ttft"),
        Column::fixed("ITL50", Right, 6, 65).seconds().called("itl"),
        Column::fixed("ERR", Right, 4, 80).called("errors"),
        Column::fixed("RUN+W", Right, 6, 66).if_any(has_engines),
        Column::fixed("KV%", Right, 5, 64).if_any(has_engines),
        Column::fixed("CPU%", Right, 5, 95),
        Column::fixed("MEM", Right, 5, 85).bytes(),
        Column::fixed("CPUs/k", Right, 6, 50),
        Column::fixed("GPU%", Right, 5, 94).if_any(has_gpus),
        Column::fixed("GPUMEM", Right, 6, 84).bytes().if_any(has_gpus),
        Column::fixed("WATT", Right, 5, 62).if_any(has_gpus),
        Column::fixed("TOK/J", Right, 6, 68).if_any(has_gpus),
        Column::fixed("GPU$/H", Right, 6, 52).if_any(has_prices),
        Column::fixed("$/Mtok", Right, 6, 51).if_any(has_prices),
    ];
    let row = |workload: &Workload| {
        Row::new(Key::Workload(workload.key.clone(), workload.name.clone()), cells(workload, snapshot))
    };
    List { columns, rows: snapshot.workloads.iter().map(row).collect() }
}

fn cells(workload: &Workload, snapshot: &Snapshot) -> Vec<Cell> {
    let engines = snapshot.engines.iter().filter(|engine| workload.pids.contains(&engine.pid)).collect::<Vec<_>>();
    let side = shown_side(workload);
    let stats = side.map(|(_, stats)| stats);
    let latency = stats.map(|stats| &stats.latency.since_start);
    let seconds = |value: Option<f64>| Cell::number(value, format::seconds);
    vec![
        Cell::new(workload.name.as_str(), Tone::Strong),
        Cell::new(kind_text(workload.kind), Tone::Dim),
        // Of other hosts nobody says which they are.
        Cell::number(Some(workload.pids.len()).filter(|count| *count > 0), |count| count.to_string()),
        Cell::name(side.map(|(name, _)| name), Tone::Dim),
        rows::output_rate(stats),
        Cell::number(stats.and_then(|stats| stats.requests_per_second), format::rate),
        Cell::number(stats.and_then(|stats| stats.requests_in_flight), format::short_count),
        seconds(latency.and_then(rows::first_token).map(|d| d.p50)),
        seconds(latency.and_then(rows::inter_token).map(|d| d.p50)),
        Cell::alarming(stats.map(|stats| stats.failed_total), format::short_count, Tone::Bad),
        engines::queue(&engines),
        engines::fullest(&engines),
        Cell::number(workload.cpu_percent, format::percent),
        Cell::number(workload.resident_bytes, format::bytes),
        Cell::number(workload.cpu_seconds_per_1k_tokens, format::rate),
        Cell::number(workload.gpu_percent, format::percent),
        Cell::number(workload.gpu_memory_bytes, format::bytes),
        Cell::number(workload.gpu_power_watts, format::rate),
        Cell::number(workload.tokens_per_joule, format::rate),
        Cell::number(workload.gpu_cost_usd_per_hour, format::dollars),
        Cell::number(workload.gpu_cost_usd_per_million_tokens, format::dollars),
    ]
}

/// What it does in the first place, and how much of it: what it serves to others, else what its processes say to each
/// other, else what it calls. Their sum would count one request twice.
pub(crate) fn shown_side(workload: &Workload) -> Option<(&'static str, &LlmStats)> {
    let serves = workload.as_server.as_ref().map(|stats| ("serves", stats));
    let within = workload.within.as_ref().map(|stats| ("within", stats));
    let calls = workload.as_client.as_ref().map(|stats| ("calls", stats));
    serves.or(within).or(calls)
}

/// What holds it together, in a word.
pub(crate) fn kind_text(kind: WorkloadKind) -> &'static str {
    match kind {
        WorkloadKind::Pod => "pod",
        WorkloadKind::Container => "container",
        WorkloadKind::Unit => "unit",
        WorkloadKind::Tree => "tree",
        WorkloadKind::Host => "host",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;

    #[test]
    fn what_is_served_stands_before_what_is_called() {
        let rows = fixture::rich().workloads;
        let roles: Vec<_> = rows.iter().map(|row| shown_side(row).map(|(name, _)| name)).collect();
        assert_eq!(roles, [Some("serves"), Some("calls"), None]);
    }

    #[test]
    fn without_gpus_and_servers_there_are_no_columns_of_them() {
        let mut snapshot = fixture::rich();
        let widths = |snapshot: &Snapshot| {
            let list = list(snapshot);
            assert!(list.rows.iter().all(|row| row.cells.len() == list.columns.len()));
            let shown: Vec<_> = list.columns.iter().filter(|column| !column.is_extra).collect();
            (shown.len(), shown.last().map(|column| column.title))
        };
        assert_eq!(widths(&snapshot), (19, Some("$/Mtok")));
        snapshot.workloads[0].gpu_cost_usd_per_hour = None;
        assert_eq!(widths(&snapshot), (17, Some("TOK/J")));
        snapshot.workloads = vec![snapshot.workloads.remove(1)];
        assert_eq!(widths(&snapshot), (13, Some("CPUs/k")));
        snapshot.engines = fixture::engines();
        assert_eq!(widths(&snapshot).0, 15);
    }
}
