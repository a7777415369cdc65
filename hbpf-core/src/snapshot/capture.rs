//! Probes, losses, and what observing costs.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::label::{Label, Text};

/// Probes, losses and own cost.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Capture {
    /// Each program and where it is attached.
    pub probes: Vec<Probe>,
    /// Pieces of streams that reached user space.
    pub chunks_total: u64,
    /// Their bytes.
    pub bytes_total: u64,
    /// Client messages judged not to be model calls.
    pub messages_ignored_total: u64,
    /// What was lost, by cause.
    pub lost: Lost,
    /// What each group of probes costs.
    #[serde(default)]
    pub groups: Vec<GroupCost>,
    /// What all of it costs, and what it may.
    #[serde(default)]
    pub overhead: Overhead,
    /// What hbpf itself uses.
    #[serde(rename = "self")]
    pub self_cost: SelfCost,
}

/// What a group of probes costs, over the last seconds; null where it is not known.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct GroupCost {
    /// llm-tls, llm-plain, ...
    pub group: Label,
    /// On where any of its probes is.
    pub state: ProbeState,
    /// Its eBPF programs; 100 is one core.
    pub kernel_cpu_percent: Option<f64>,
    /// The traps that lead to them, estimated; 100 is one core. 0 where there are none.
    pub trap_cpu_percent_estimated: Option<f64>,
}

/// The cost of observing: eBPF programs, the traps that lead to them (estimated), and hbpf's own processes, over the last
/// seconds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Overhead {
    /// 100 is all cores of the machine; null until it is known.
    pub percent: Option<f64>,
    /// What it may be; null where nothing was set.
    pub budget_percent: Option<f64>,
    /// What was given up for it.
    pub level: OverheadLevel,
    /// Payload bytes that may be copied per second; null where as many are copied as come.
    pub bytes_per_second_limit: Option<u64>,
    /// Processes without model traffic that TLS probes were taken out of.
    pub excluded_processes: u32,
}

/// What is given up to keep the overhead within its budget; each includes what comes before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OverheadLevel {
    /// Nothing.
    #[default]
    Full,
    /// TLS probes in processes that make many calls and no model calls.
    Excluded,
    /// Bytes: what is beyond a lowered limit is known by time and length only.
    Thinned,
    /// A group of probes.
    Detached,
}

/// One eBPF program at one place.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Probe {
    /// llm-tls, llm-plain, ...
    pub group: Label,
    /// Program name.
    pub program: Label,
    /// File, cgroup or hook.
    pub attached_to: Label,
    /// On, off or failed.
    pub state: ProbeState,
    /// Why it is off or failed.
    pub reason: Option<Text>,
    /// Runs, where the kernel counts them.
    pub runs_total: Option<u64>,
    /// Time in the program.
    pub run_seconds_total: Option<f64>,
    /// How often it was to run and did not, since another program ran on that CPU or one of its maps was being read.
    #[serde(default)]
    pub missed_total: Option<u64>,
    /// Time in the trap that leads to it, estimated; 0 where there is none. Like the two numbers above it is that of the
    /// program at all its places, and stands at each of them.
    pub trap_seconds_estimated: Option<f64>,
}

/// State of a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ProbeState {
    /// Attached.
    On,
    /// Switched off.
    Off,
    /// Could not be loaded or attached.
    Failed,
}

/// Losses by cause. Each counts occurrences, unless it says otherwise.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Lost {
    /// The ring was full.
    pub ring_full: LostRecords,
    /// Memory or packet could not be read.
    pub read_fault: u64,
    /// A kernel map was full.
    pub map_full: u64,
    /// More than may be copied, of one call or per second.
    pub over_budget: u64,
    /// Bytes that were not copied for that reason: of them only times and lengths are known.
    #[serde(default)]
    pub over_budget_bytes: u64,
    /// Gaps that the parsers met, whatever has made them: what counts above may count here, too.
    pub parse_gap: u64,
    /// How often a program was to run and did not: the sum of [`Probe::missed_total`], of those that are out by now, too.
    #[serde(default)]
    pub missed_runs: u64,
    /// Samples, starts and descriptions of processes that hbpf's helper had to leave unsaid, since the rest of hbpf did not keep
    /// up.
    #[serde(default)]
    pub reports: u64,
    /// Segments that contradict what was seen, lie where no segment can, were never taken, or had no room while they waited
    /// for one that was lost.
    pub desync: u64,
}

/// Lost records.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct LostRecords {
    /// Records.
    pub chunks: u64,
    /// Stream bytes.
    pub bytes: u64,
}

/// What hbpf itself uses.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SelfCost {
    /// All its processes; 100 is one core.
    pub cpu_percent: Option<f64>,
    /// Its eBPF programs.
    pub kernel_cpu_percent: Option<f64>,
    /// All its processes.
    pub resident_bytes: Option<u64>,
}
