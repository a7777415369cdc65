//! GPUs, and who uses them.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::label::{Label, Text};

/// One GPU.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Gpu {
    /// Index.
    pub index: u32,
    /// Identity.
    pub uuid: Label,
    /// Product.
    pub name: Label,
    /// nvidia, amd, intel.
    pub vendor: Label,
    /// Driver version.
    pub driver: Option<Label>,
    /// Where it is on the PCI bus, such as `00000000:65:00.0`.
    #[serde(default)]
    pub pci_bus_id: Option<Label>,
    /// 100 is one GPU.
    pub utilization_percent: Option<f64>,
    /// Memory bus.
    pub memory_utilization_percent: Option<f64>,
    /// Memory in use.
    pub memory_used_bytes: Option<u64>,
    /// Memory.
    pub memory_total_bytes: Option<u64>,
    /// Power.
    pub power_watts: Option<f64>,
    /// Limit.
    pub power_limit_watts: Option<f64>,
    /// Energy counter.
    pub energy_joules_total: Option<f64>,
    /// Temperature.
    pub temperature_celsius: Option<f64>,
    /// Clock.
    pub sm_clock_mhz: Option<u32>,
    /// Memory clock.
    pub memory_clock_mhz: Option<u32>,
    /// Why clocks are not as high as they could be, such as `sw_power_cap`, `hw_thermal_slowdown` or just `gpu_idle`.
    pub throttle_reasons: Vec<Label>,
    /// To the GPU.
    pub pcie_rx_bytes_per_second: Option<f64>,
    /// From the GPU.
    pub pcie_tx_bytes_per_second: Option<f64>,
    /// Uncorrected memory errors in the GPU's life.
    pub ecc_uncorrected_total: Option<u64>,
    /// Critical errors that the driver has told of (NVIDIA's Xid) since hbpf began to look.
    #[serde(default)]
    pub xid_errors_total: Option<u64>,
    /// Number of the latest of them.
    #[serde(default)]
    pub last_xid: Option<u64>,
    /// MIG instances.
    pub instances: Vec<GpuInstance>,
    /// Who uses it.
    pub processes: Vec<GpuProcess>,
    /// Age of the numbers where the driver does not answer; null while they are of now.
    pub stale_seconds: Option<f64>,
    /// What the driver says instead of numbers, as of a GPU that has fallen off the bus.
    #[serde(default)]
    pub problem: Option<Text>,
}

/// A MIG instance.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct GpuInstance {
    /// Identity.
    pub id: Label,
    /// For example 1g.10gb.
    pub profile: Label,
    /// Memory in use.
    pub memory_used_bytes: Option<u64>,
    /// Memory.
    pub memory_total_bytes: Option<u64>,
}

/// A process on a GPU.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct GpuProcess {
    /// Process.
    pub pid: u32,
    /// MIG instance.
    pub instance: Option<Label>,
    /// 100 is one GPU.
    pub sm_percent: Option<f64>,
    /// GPU memory.
    pub memory_bytes: Option<u64>,
}

/// A process's share of one GPU.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ProcessGpu {
    /// The GPU.
    pub index: u32,
    /// The GPU.
    pub uuid: Label,
    /// MIG instance.
    pub instance: Option<Label>,
    /// 100 is one GPU.
    pub sm_percent: Option<f64>,
    /// GPU memory.
    pub memory_bytes: Option<u64>,
}
