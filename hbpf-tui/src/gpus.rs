//! What the tables show of GPUs and of who uses them.

use hbpf_core::label::Label;
use hbpf_core::snapshot::{Gpu, GpuInstance, GpuProcess, Snapshot};

use crate::format::{self, UNKNOWN, known};
use crate::list::{Key, List, Row};
use crate::rows;
use crate::table::{Align, Cell, Column, Tone};

/// From this temperature on a GPU is near where it slows itself down.
const HOT_CELSIUS: f64 = 85.0;

/// What it says of clocks that are low because there is nothing to do.
const IDLE: &str = "gpu_idle";

/// A row for each GPU, and below it one for each of its parts.
pub(crate) fn list(gpus: &[Gpu]) -> List {
    use Align::Right;
    let columns = vec![
        Column::fixed("GPU", Right, 3, 100),
        Column::flexible("NAME", 10, 30, 60),
        Column::fixed("UTIL%", Right, 5, 99),
        Column::fixed("MEM", Right, 11, 95).bytes(),
        Column::fixed("WATT", Right, 7, 90),
        Column::fixed("TEMP", Right, 4, 80),
        Column::fixed("MHZ", Right, 4, 50),
        Column::fixed("MBW%", Right, 5, 40),
        Column::fixed("PCIERX", Right, 6, 45).bytes(),
        Column::fixed("PCIETX", Right, 6, 44).bytes(),
        Column::fixed("ECC", Right, 4, 55),
        Column::fixed("XID", Right, 4, 56),
        Column::flexible("STATE", 14, 44, 70),
    ];
    let of = |gpu: &Gpu| {
        let whole = Row::new(Key::Gpu(gpu.index), cells(gpu));
        let parts: Vec<Row> = gpu.instances.iter().map(|part| part_row(gpu, part)).collect();
        std::iter::once(whole).chain(parts)
    };
    List { columns, rows: gpus.iter().flat_map(of).collect() }
}

/// What a part of a GPU (MIG) has of its own.
fn part_row(gpu: &Gpu, part: &GpuInstance) -> Row {
    let mut cells = cells(&Gpu {
        memory_used_bytes: part.memory_used_bytes,
        memory_total_bytes: part.memory_total_bytes,
        ..Gpu::default()
    });
    cells[0] = Cell::default();
    cells[1] = Cell::new(format!("part {} {}", part.id, part.profile), Tone::Dim);
    Row { is_part: true, ..Row::new(Key::Row(format!("{} {}", gpu.index, part.id)), cells) }
}

/// A GPU's row.
fn cells(gpu: &Gpu) -> Vec<Cell> {
    let of = |value: Option<String>, whole: Option<String>| match (value, whole) {
        (None, None) => UNKNOWN.to_owned(),
        (value, whole) => format!("{}/{}", known(value, |text| text), known(whole, |text| text)),
    };
    let watts = |watts: f64| format!("{watts:.0}");
    let memory = of(gpu.memory_used_bytes.map(format::bytes), gpu.memory_total_bytes.map(format::bytes));
    let temperature = Cell::number(gpu.temperature_celsius, |celsius| format!("{celsius:.0}C"));
    let is_hot = gpu.temperature_celsius.is_some_and(|celsius| celsius >= HOT_CELSIUS);
    let rate = |rate: f64| format::bytes(rate as u64);
    let (state, tone) = state(gpu);
    vec![
        Cell::number(Some(gpu.index), |index| index.to_string()).with_tone(Tone::Plain),
        Cell::new(gpu.name.trim_start_matches("NVIDIA "), Tone::Strong),
        Cell::number(gpu.utilization_percent, format::percent),
        Cell::written(gpu.memory_used_bytes, memory),
        Cell::written(gpu.power_watts, of(gpu.power_watts.map(watts), gpu.power_limit_watts.map(watts))),
        if is_hot { temperature.with_tone(Tone::Warn) } else { temperature },
        Cell::number(gpu.sm_clock_mhz, |mhz| mhz.to_string()),
        Cell::number(gpu.memory_utilization_percent, format::percent),
        Cell::number(gpu.pcie_rx_bytes_per_second, rate),
        Cell::number(gpu.pcie_tx_bytes_per_second, rate),
        Cell::alarming(gpu.ecc_uncorrected_total, format::short_count, Tone::Bad),
        Cell::alarming(gpu.xid_errors_total, format::short_count, Tone::Bad),
        Cell::new(state, tone),
    ]
}

/// What keeps it from its best, the worst first.
pub(crate) fn state(gpu: &Gpu) -> (String, Tone) {
    let throttled: Vec<&str> =
        gpu.throttle_reasons.iter().map(Label::as_str).filter(|reason| *reason != IDLE).collect();
    match (&gpu.problem, gpu.stale_seconds, throttled.is_empty()) {
        (Some(problem), ..) => (problem.to_string(), Tone::Bad),
        (None, Some(age), _) => (format!("stale: not read for {}", format::seconds(age.round())), Tone::Bad),
        (None, None, false) => (throttled.join(" "), Tone::Warn),
        (None, None, true) if gpu.throttle_reasons.is_empty() => (UNKNOWN.to_owned(), Tone::Dim),
        (None, None, true) => ("idle".to_owned(), Tone::Dim),
    }
}

/// All that use a GPU, or one of them, part by part of each.
pub(crate) fn users(snapshot: &Snapshot, index: Option<u32>) -> List {
    use Align::Right;
    let columns = vec![
        Column::fixed("GPU", Right, 3, 100),
        Column::fixed("PART", Right, 4, 50).names(),
        Column::fixed("PID", Right, 7, 99),
        Column::flexible("USER", 8, 10, 40),
        Column::flexible("COMMAND", 12, 60, 98),
        Column::fixed("SM%", Right, 5, 97),
        Column::fixed("GPUMEM", Right, 6, 96).bytes(),
        Column::fixed("CPU%", Right, 5, 90),
    ];
    let row = |gpu: &Gpu, user: &GpuProcess| {
        let process = snapshot.processes.iter().find(|process| process.pid == user.pid && !process.exited);
        let part = user.instance.as_ref().map(Label::as_str);
        let cells = vec![
            Cell::number(Some(gpu.index), |index| index.to_string()).with_tone(Tone::Plain),
            Cell::name(part, Tone::Plain),
            Cell::number(Some(user.pid), |pid| pid.to_string()),
            Cell::name(process.map(rows::user_text), Tone::Dim),
            Cell::name(process.map(|process| process.command.as_str()), Tone::Strong),
            Cell::number(user.sm_percent, format::percent),
            Cell::number(user.memory_bytes, format::bytes),
            Cell::number(process.and_then(|process| process.cpu_percent), format::percent),
        ];
        let opens = process.map(|process| Key::Process(rows::identity(process)));
        Row { opens, ..Row::new(Key::Row(format!("{} {part:?} {}", gpu.index, user.pid)), cells) }
    };
    let gpus = snapshot.gpus.iter().filter(|gpu| index.is_none_or(|index| gpu.index == index));
    let rows = gpus.flat_map(|gpu| gpu.processes.iter().map(move |user| row(gpu, user))).collect();
    List { columns, rows }
}

/// All GPUs of a machine in one line.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Summary {
    /// How many and which.
    pub(crate) name: String,
    /// On average over those that tell it.
    pub(crate) utilization_percent: Option<f64>,
    /// Of those that tell both.
    pub(crate) memory_used_bytes: Option<u64>,
    pub(crate) memory_total_bytes: Option<u64>,
    /// Whether some do not: all together have more.
    pub(crate) is_memory_partial: bool,
    /// Of those that tell it.
    pub(crate) power_watts: Option<f64>,
    pub(crate) is_power_partial: bool,
    /// GPUs that have a problem or do not answer.
    pub(crate) troubled: usize,
}

impl Summary {
    /// `None` where there is no GPU.
    pub(crate) fn of(gpus: &[Gpu]) -> Option<Self> {
        // One that was lost from the beginning has no name.
        let mut names = gpus.iter().map(|gpu| &gpu.name).filter(|name| !name.is_empty());
        let first = names.next().unwrap_or(&gpus.first()?.name);
        let alike = names.all(|name| name == first);
        let name = first.trim_start_matches("NVIDIA ");
        let known: Vec<f64> = gpus.iter().filter_map(|gpu| gpu.utilization_percent).collect();
        let memory = || gpus.iter().filter_map(|gpu| gpu.memory_used_bytes.zip(gpu.memory_total_bytes));
        let sum = |of: fn((u64, u64)) -> u64| memory().map(of).reduce(u64::saturating_add);
        Some(Self {
            name: match (gpus.len(), alike) {
                (1, _) => name.to_owned(),
                (count, true) => format!("{count}x {name}"),
                (count, false) => format!("{count} GPUs"),
            },
            utilization_percent: (!known.is_empty()).then(|| known.iter().sum::<f64>() / known.len() as f64),
            memory_used_bytes: sum(|(used, _)| used),
            memory_total_bytes: sum(|(_, total)| total),
            is_memory_partial: memory().count() < gpus.len(),
            power_watts: gpus.iter().filter_map(|gpu| gpu.power_watts).reduce(|a, b| a + b),
            is_power_partial: gpus.iter().any(|gpu| gpu.power_watts.is_none()),
            troubled: gpus.iter().filter(|gpu| gpu.problem.is_some() || gpu.stale_seconds.is_some()).count(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;

    #[test]
    fn many_gpus_are_one_line() {
        let gpus = fixture::gpus();
        assert_eq!(Summary::of(&[]), None);
        let summary = Summary::of(&gpus).unwrap();
        assert_eq!((summary.name.as_str(), summary.utilization_percent), ("2x H100 80GB HBM3", Some(88.0)));
        assert_eq!(
            (summary.memory_used_bytes, summary.power_watts, summary.troubled),
            (Some(71 << 30), Some(512.0), 1)
        );
        assert!(summary.is_memory_partial && summary.is_power_partial, "the other may use some as well");
        let whole = Summary::of(&gpus[..1]).unwrap();
        assert!(!whole.is_memory_partial && !whole.is_power_partial);
        assert_eq!(Summary::of(&[Gpu::default(), gpus[0].clone()]).unwrap().name, summary.name);
        let one = Gpu { name: "Other".into(), ..Gpu::default() };
        let mixed = Summary::of(&[gpus[0].clone(), one]).unwrap();
        assert_eq!((mixed.name.as_str(), mixed.power_watts), ("2 GPUs", Some(512.0)));
    }

    #[test]
    fn the_worst_is_told_first() {
        let gpu = |reasons: &[&str]| Gpu {
            throttle_reasons: reasons.iter().map(|reason| Label::new(reason)).collect(),
            ..Gpu::default()
        };
        assert_eq!(state(&gpu(&[])).0, "-");
        assert_eq!(state(&gpu(&["gpu_idle"])).0, "idle");
        let slow = gpu(&["gpu_idle", "sw_power_cap", "hw_thermal_slowdown"]);
        assert_eq!(state(&slow).0, "sw_power_cap hw_thermal_slowdown");
        let stale = Gpu { stale_seconds: Some(5.2), ..slow.clone() };
        assert_eq!(state(&stale).0, "stale: not read for 5.00s");
        assert_eq!(state(&Gpu { problem: Some("gone".into()), ..stale }), ("gone".to_owned(), Tone::Bad));
    }
}
