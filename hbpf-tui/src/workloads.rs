//! What the tables show of workloads: what they serve or call, and the machine behind it, in one row.

use std::ops::Range;

use hbpf_core::snapshot::{LlmStats, Snapshot, Workload, WorkloadKind};

use crate::engines;
use crate::format::{self, UNKNOWN};
use crate::rows;
use crate::table::{Align, Cell, Column, Tone};

/// The workloads of a snapshot as a table: its columns and rows. Where there is no GPU nothing is said of any.
pub(crate) fn table(snapshot: &Snapshot) -> (Vec<Column>, Vec<Vec<Cell>>) {
    let has_gpus = !snapshot.gpus.is_empty() || snapshot.workloads.iter().any(|row| row.gpu_memory_bytes.is_some());
    let has_engines = !snapshot.engines.is_empty();
    let has_prices = snapshot.workloads.iter().any(|row| row.gpu_cost_usd_per_hour.is_some());
    let is_shown = |index: &usize| {
        let of_what = [(has_gpus, OF_GPUS), (has_engines, OF_ENGINES), (has_prices, OF_PRICES)];
        of_what.iter().all(|(there_is, columns)| *there_is || !columns.contains(index))
    };
    let shown: Vec<usize> = (0..columns().len()).filter(is_shown).collect();
    let row = |workload: &Workload| {
        let mut cells = cells(workload, snapshot);
        shown.iter().map(|index| std::mem::take(&mut cells[*index])).collect()
    };
    (shown.iter().map(|index| columns()[*index]).collect(), snapshot.workloads.iter().map(row).collect())
}

/// The columns about what inference servers say of themselves.
const OF_ENGINES: Range<usize> = 10..12;

/// The columns about GPUs.
const OF_GPUS: Range<usize> = 15..19;

/// The columns about what GPUs cost, which few tables of prices have.
const OF_PRICES: Range<usize> = 19..21;

fn columns() -> [Column; 21] {
    use Align::{Left, Right};
    [
        Column::flexible("WORKLOAD", 14, 44, 100),
        Column::fixed("KIND", Left, 9, 40),
        Column::fixed("PROCS", Right, 5, 60),
        Column::fixed("ROLE", Left, 6, 74),
        Column::fixed("TOK/S", Right, 6, 99),
        Column::fixed("REQ/S", Right, 5, 70),
        Column::fixed("FLY", Right, 4, 72),
        Column::fixed("TTFT50", Right, 6, 90),
        Column::fixed("ITL50", Right, 6, 65),
        Column::fixed("ERR", Right, 4, 80),
        Column::fixed("RUN+W", Right, 6, 66),
        Column::fixed("KV%", Right, 5, 64),
        Column::fixed("CPU%", Right, 5, 95),
        Column::fixed("MEM", Right, 5, 85),
        Column::fixed("CPUs/k", Right, 6, 50),
        Column::fixed("GPU%", Right, 5, 94),
        Column::fixed("GPUMEM", Right, 6, 84),
        Column::fixed("WATT", Right, 5, 62),
        Column::fixed("TOK/J", Right, 6, 68),
        Column::fixed("GPU$/H", Right, 6, 52),
        Column::fixed("$/Mtok", Right, 6, 51),
    ]
}

fn cells(workload: &Workload, snapshot: &Snapshot) -> Vec<Cell> {
    let engines = snapshot.engines.iter().filter(|engine| workload.pids.contains(&engine.pid)).collect::<Vec<_>>();
    let side = shown_side(workload);
    let stats = side.map(|(_, stats)| stats);
    let latency = stats.map(|stats| &stats.latency.since_start);
    let number = |text: Option<String>| Cell::number(text.unwrap_or_else(|| UNKNOWN.to_owned()));
    let errors = stats.map(|stats| stats.failed_total);
    vec![
        Cell::new(workload.name.as_str(), Tone::Strong),
        Cell::new(kind_text(workload.kind), Tone::Dim),
        Cell::number(workload.pids.len().to_string()),
        Cell::new(side.map_or(UNKNOWN, |(name, _)| name), Tone::Dim),
        number(stats.map(rows::output_rate)),
        number(stats.and_then(|stats| stats.requests_per_second).map(format::rate)),
        number(stats.and_then(|stats| stats.requests_in_flight).map(format::short_count)),
        number(latency.and_then(rows::first_token).map(|d| format::seconds(d.p50))),
        number(latency.and_then(rows::inter_token).map(|d| format::seconds(d.p50))),
        match errors {
            Some(errors) if errors > 0 => Cell::new(format::short_count(errors), Tone::Bad),
            errors => number(errors.map(format::short_count)),
        },
        Cell::number(engines::queue(&engines)),
        engines::fullest(&engines),
        number(workload.cpu_percent.map(format::percent)),
        number(workload.resident_bytes.map(format::bytes)),
        number(workload.cpu_seconds_per_1k_tokens.map(format::rate)),
        number(workload.gpu_percent.map(format::percent)),
        number(workload.gpu_memory_bytes.map(format::bytes)),
        number(workload.gpu_power_watts.map(format::rate)),
        number(workload.tokens_per_joule.map(format::rate)),
        number(workload.gpu_cost_usd_per_hour.map(format::dollars)),
        number(workload.gpu_cost_usd_per_million_tokens.map(format::dollars)),
    ]
}

/// What it does in the first place, and how much of it: what it serves to others, else what its processes say to each
/// other, else what it calls. Their sum would count one request twice.
fn shown_side(workload: &Workload) -> Option<(&'static str, &LlmStats)> {
    let serves = workload.as_server.as_ref().map(|stats| ("serves", stats));
    let within = workload.within.as_ref().map(|stats| ("within", stats));
    let calls = workload.as_client.as_ref().map(|stats| ("calls", stats));
    serves.or(within).or(calls)
}

/// What holds it together, in a word.
fn kind_text(kind: WorkloadKind) -> &'static str {
    match kind {
        WorkloadKind::Pod => "pod",
        WorkloadKind::Container => "container",
        WorkloadKind::Unit => "unit",
        WorkloadKind::Tree => "tree",
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
            let (columns, rows) = table(snapshot);
            assert!(rows.iter().all(|row| row.len() == columns.len()));
            (columns.len(), columns.last().map(|column| column.title))
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
