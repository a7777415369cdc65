//! The GPUs that there are, as a file describes them.

use std::path::PathBuf;
use std::sync::Mutex;
use std::time::{Instant, SystemTime};

use serde::Deserialize;

/// The environment variable that names the file.
const FILE: &str = "HBPF_DEMO_NVML";

/// What the file says. It is read again whenever it has changed: GPUs get lost and come back.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Profile {
    /// Version of the driver.
    pub(crate) driver: String,
    #[serde(default)]
    pub(crate) gpus: Vec<Gpu>,
}

/// A GPU. What is left out it does not support.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Gpu {
    pub(crate) uuid: String,
    pub(crate) name: String,
    pub(crate) pci_bus_id: String,
    pub(crate) utilization: Option<u32>,
    pub(crate) memory_utilization: Option<u32>,
    pub(crate) memory_total: Option<u64>,
    pub(crate) memory_used: Option<u64>,
    pub(crate) power_mw: Option<u32>,
    pub(crate) power_limit_mw: Option<u32>,
    /// At the start; from then on it grows with the power.
    pub(crate) energy_mj: Option<u64>,
    pub(crate) temperature: Option<u32>,
    pub(crate) sm_mhz: Option<u32>,
    pub(crate) memory_mhz: Option<u32>,
    #[serde(default)]
    pub(crate) throttle: u64,
    pub(crate) pcie_rx_kb: Option<u32>,
    pub(crate) pcie_tx_kb: Option<u32>,
    pub(crate) ecc_uncorrected: Option<u64>,
    /// Critical errors that are told once each.
    #[serde(default)]
    pub(crate) xid: Vec<u64>,
    #[serde(default)]
    pub(crate) instances: Vec<Instance>,
    #[serde(default)]
    pub(crate) processes: Vec<Process>,
    /// It has fallen off the bus.
    #[serde(default)]
    pub(crate) lost: bool,
    /// Every call takes so long.
    #[serde(default)]
    pub(crate) hang_seconds: f64,
}

/// A part of a GPU (MIG).
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Instance {
    pub(crate) id: u32,
    pub(crate) uuid: String,
    pub(crate) profile: String,
    pub(crate) memory_total: u64,
    pub(crate) memory_used: u64,
}

/// A process on a GPU.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Process {
    pub(crate) pid: u32,
    pub(crate) memory: u64,
    pub(crate) sm: Option<u32>,
    pub(crate) instance: Option<u32>,
    /// It draws rather than computes.
    #[serde(default)]
    pub(crate) graphics: bool,
}

struct State {
    profile: Profile,
    modified: Option<SystemTime>,
    started: Instant,
    /// Critical errors of each GPU that have been told.
    told: Vec<usize>,
}

static STATE: Mutex<Option<State>> = Mutex::new(None);

/// Gives what there is now to `f`.
pub(crate) fn with<T>(f: impl FnOnce(&Profile) -> T) -> T {
    with_state(|state| f(&state.profile))
}

/// Seconds since the library was first used.
pub(crate) fn seconds() -> f64 {
    with_state(|state| state.started.elapsed().as_secs_f64())
}

/// A critical error of this GPU that has not been told yet.
pub(crate) fn next_xid(gpu: usize) -> Option<u64> {
    with_state(|state| {
        if state.told.len() <= gpu {
            state.told.resize(gpu + 1, 0);
        }
        let xid = state.profile.gpus.get(gpu)?.xid.get(state.told[gpu]).copied()?;
        state.told[gpu] += 1;
        Some(xid)
    })
}

fn with_state<T>(f: impl FnOnce(&mut State) -> T) -> T {
    let mut guard = STATE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let state = guard.get_or_insert_with(|| State {
        profile: Profile::default(),
        modified: None,
        started: Instant::now(),
        told: Vec::new(),
    });
    let path = PathBuf::from(std::env::var_os(FILE).unwrap_or_default());
    let modified = std::fs::metadata(&path).and_then(|metadata| metadata.modified()).ok();
    if modified != state.modified {
        let text = std::fs::read(&path).unwrap_or_default();
        // One that is being written is read when it is whole.
        if let Ok(profile) = serde_json::from_slice(&text) {
            (state.profile, state.modified) = (profile, modified);
        }
    }
    f(state)
}
