//! The machine.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::DiskDevice;
use crate::label::Label;

/// The machine.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Host {
    /// Name.
    pub hostname: Label,
    /// Kernel release.
    pub kernel: Label,
    /// Architecture.
    pub arch: Label,
    /// Online CPUs.
    pub cpu_count: u32,
    /// All cores together, 100 is all of them busy; null until two samples exist.
    pub cpu_percent: Option<f64>,
    /// Per core.
    pub cores_percent: Vec<f64>,
    /// What the time of all cores goes into; null until two samples exist.
    #[serde(default)]
    pub cpu_use: Option<CpuUse>,
    /// Processes that there are, without the kernel's own threads; null until all were gone through once. The snapshot has those
    /// that talk to models, use TLS or a GPU, or were counted, and the busiest others.
    #[serde(default)]
    pub processes_total: Option<u64>,
    /// Load average.
    pub load_1m: Option<f64>,
    /// Load average.
    #[serde(default)]
    pub load_5m: Option<f64>,
    /// Load average.
    #[serde(default)]
    pub load_15m: Option<f64>,
    /// Memory.
    pub memory_total_bytes: Option<u64>,
    /// Total minus available.
    pub memory_used_bytes: Option<u64>,
    /// Swap.
    pub swap_used_bytes: Option<u64>,
    /// PSI.
    pub pressure: Pressure,
    /// Disks, as far as the group `block` has seen requests to them: those of all processes together, and of the kernel's own
    /// threads, which write what was written to the page cache.
    #[serde(default)]
    pub disks: Vec<DiskDevice>,
}

/// Time of all cores together by kind; with idle time they make 100.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CpuUse {
    /// Programs, also those of guests.
    pub user_percent: f64,
    /// Programs of lowered priority.
    pub nice_percent: f64,
    /// The kernel.
    pub system_percent: f64,
    /// Interrupts, soft ones included.
    pub irq_percent: f64,
    /// Idle, waiting for a disk.
    pub iowait_percent: f64,
    /// Taken by the hypervisor.
    pub steal_percent: f64,
}

/// Pressure stall information, percent over 10 s.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Pressure {
    /// CPU.
    pub cpu_some_percent: Option<f64>,
    /// I/O.
    pub io_some_percent: Option<f64>,
    /// I/O, with nothing else to do.
    #[serde(default)]
    pub io_full_percent: Option<f64>,
    /// Memory.
    pub memory_some_percent: Option<f64>,
    /// Memory, with nothing else to do.
    #[serde(default)]
    pub memory_full_percent: Option<f64>,
}
