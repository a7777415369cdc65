//! NVIDIA's GPUs, by its management library (NVML), which is loaded at run time.
//!
//! Any of its functions can be missing from an old driver, unsupported by a GPU, or fail: then that field is unknown, and
//! all others stand.

use std::collections::BTreeMap;

use hbpf_core::label::{Label, Text};
use hbpf_core::snapshot::{Gpu, GpuInstance, GpuProcess};
use nvml_wrapper::bitmasks::device::ThrottleReasons;
use nvml_wrapper::bitmasks::event::EventTypes;
use nvml_wrapper::enum_wrappers::device::{Clock, EccCounter, MemoryError, PcieUtilCounter, TemperatureSensor};
use nvml_wrapper::enums::device::UsedGpuMemory;
use nvml_wrapper::enums::event::XidError;
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::struct_wrappers::device::ProcessInfo;
use nvml_wrapper::{Device, EventSet, Nvml};

/// Most GPUs of one machine; the largest have 16.
const MAX_GPUS: u32 = 64;

/// Most parts of one GPU (MIG). Seven is what there is.
const MAX_INSTANCES: u32 = 16;

/// Most processes of one GPU that are told: a message has room for so many.
const MAX_PROCESSES: usize = 256;

/// Most errors of one GPU that are taken at a time: one that is broken tells of the same again and again.
const MAX_EVENTS: usize = 16;

/// All GPUs of the library.
pub(super) struct Nvidia<'nvml> {
    nvml: &'nvml Nvml,
    driver: Option<Label>,
    /// By index. One that falls off the bus keeps its name.
    known: BTreeMap<u32, Known<'nvml>>,
}

/// What is known of a GPU between readings.
struct Known<'nvml> {
    /// Name and place, without numbers.
    identity: Gpu,
    /// Where the library tells critical errors.
    events: Option<EventSet<'nvml>>,
    xid_errors: u64,
    last_xid: Option<u64>,
    /// Stamp of the latest sample of what processes use.
    last_sample: u64,
}

impl<'nvml> Nvidia<'nvml> {
    pub(super) fn new(nvml: &'nvml Nvml) -> Self {
        let driver = nvml.sys_driver_version().ok().map(|version| Label::new(&version));
        Self { nvml, driver, known: BTreeMap::new() }
    }

    pub(super) fn read(&mut self) -> Vec<Gpu> {
        let count = match self.nvml.device_count() {
            Ok(count) => count.min(MAX_GPUS),
            // Those that were there are told with what is wrong with them.
            Err(_) => self.known.len() as u32,
        };
        (0..count).map(|index| self.read_one(index)).collect()
    }

    fn read_one(&mut self, index: u32) -> Gpu {
        let device = match self.nvml.device_by_index(index) {
            Ok(device) => device,
            Err(error) => return self.without_numbers(index, &error),
        };
        let known = self.known.entry(index).or_insert_with(|| Known::new(index, &device, self.driver.clone()));
        // The first question tells whether it answers at all.
        match device.uuid() {
            Ok(uuid) if known.identity.uuid.as_str() != uuid => {
                *known = Known::new(index, &device, self.driver.clone());
            }
            Ok(_) => {}
            Err(error) => return self.without_numbers(index, &error),
        }
        known.read(&device)
    }

    fn without_numbers(&mut self, index: u32, error: &NvmlError) -> Gpu {
        let identity = self.known.get(&index).map(|known| Gpu {
            xid_errors_total: known.events.is_some().then_some(known.xid_errors),
            last_xid: known.last_xid,
            ..known.identity.clone()
        });
        let unknown = || Gpu { index, vendor: "nvidia".into(), driver: self.driver.clone(), ..Gpu::default() };
        Gpu { problem: Some(Text::new(&describe(error))), ..identity.unwrap_or_else(unknown) }
    }
}

impl<'nvml> Known<'nvml> {
    fn new(index: u32, device: &Device<'nvml>, driver: Option<Label>) -> Self {
        let label = |text: Result<String, NvmlError>| text.map(|text| Label::new(&text)).unwrap_or_default();
        let identity = Gpu {
            index,
            uuid: label(device.uuid()),
            name: label(device.name()),
            vendor: "nvidia".into(),
            driver,
            pci_bus_id: device.pci_info().ok().map(|pci| Label::new(&pci.bus_id)),
            ..Gpu::default()
        };
        let events = device.nvml().create_event_set().ok();
        let events = events.and_then(|set| device.register_events(EventTypes::CRITICAL_XID_ERROR, set).ok());
        Self { identity, events, xid_errors: 0, last_xid: None, last_sample: 0 }
    }

    fn read(&mut self, device: &Device<'_>) -> Gpu {
        self.take_events();
        let utilization = device.utilization_rates().ok();
        let memory = Memory::of(device);
        // The library counts in thousandths.
        let thousandth = |value: u32| f64::from(value) / 1e3;
        let clock = |which| device.clock_info(which).ok();
        // In KB, which it means as 1,000 bytes, over 20 ms that the call takes.
        let pcie = |which| device.pcie_throughput(which).ok().map(|kilobytes| f64::from(kilobytes) * 1e3);
        let has_instances = device.mig_mode().is_ok_and(|mode| mode.current == MIG_ON);
        Gpu {
            utilization_percent: utilization.as_ref().map(|rates| f64::from(rates.gpu)),
            memory_utilization_percent: utilization.as_ref().map(|rates| f64::from(rates.memory)),
            memory_used_bytes: memory.as_ref().map(|memory| memory.used),
            memory_total_bytes: memory.as_ref().map(|memory| memory.total),
            power_watts: device.power_usage().ok().map(thousandth),
            power_limit_watts: device.enforced_power_limit().ok().map(thousandth),
            energy_joules_total: device.total_energy_consumption().ok().map(|millijoules| millijoules as f64 / 1e3),
            temperature_celsius: device.temperature(TemperatureSensor::Gpu).ok().map(f64::from),
            sm_clock_mhz: clock(Clock::SM),
            memory_clock_mhz: clock(Clock::Memory),
            throttle_reasons: device.current_throttle_reasons().map(throttle_names).unwrap_or_default(),
            pcie_rx_bytes_per_second: pcie(PcieUtilCounter::Receive),
            pcie_tx_bytes_per_second: pcie(PcieUtilCounter::Send),
            ecc_uncorrected_total: device.total_ecc_errors(MemoryError::Uncorrected, EccCounter::Aggregate).ok(),
            xid_errors_total: self.events.is_some().then_some(self.xid_errors),
            last_xid: self.last_xid,
            instances: if has_instances { instances(device) } else { Vec::new() },
            processes: self.processes(device, has_instances),
            ..self.identity.clone()
        }
    }

    fn take_events(&mut self) {
        let Some(events) = &self.events else { return };
        for _ in 0..MAX_EVENTS {
            // Nothing is waited for: what is there is taken.
            let Ok(event) = events.wait(0) else { return };
            if event.event_type.contains(EventTypes::CRITICAL_XID_ERROR) {
                self.xid_errors += 1;
                self.last_xid = match event.event_data {
                    Some(XidError::Value(number)) => Some(number),
                    Some(XidError::Unknown) | None => None,
                };
            }
        }
    }

    fn processes(&mut self, device: &Device<'_>, has_instances: bool) -> Vec<GpuProcess> {
        let compute = device.running_compute_processes().or_else(|error| match error {
            NvmlError::FailedToLoadSymbol(_) | NvmlError::FunctionNotFound => device.running_compute_processes_v2(),
            other => Err(other),
        });
        let graphics = device.running_graphics_processes().or_else(|error| match error {
            NvmlError::FailedToLoadSymbol(_) | NvmlError::FunctionNotFound => device.running_graphics_processes_v2(),
            other => Err(other),
        });
        let used = if has_instances { None } else { self.used_by_processes(device) };
        let mut processes: BTreeMap<u32, GpuProcess> = BTreeMap::new();
        for info in compute.into_iter().chain(graphics).flatten() {
            let ProcessInfo { pid, used_gpu_memory, gpu_instance_id, .. } = info;
            let process = processes.entry(pid).or_insert_with(|| GpuProcess {
                pid,
                instance: gpu_instance_id.filter(|_| has_instances).map(|id| id.to_string().into()),
                // Of whom no sample is there nothing was computed.
                sm_percent: used.as_ref().map(|used| used.get(&pid).copied().unwrap_or(0.0)),
                memory_bytes: None,
            });
            if let UsedGpuMemory::Used(bytes) = used_gpu_memory {
                // One that computes and draws is in both lists, each time with all that it holds.
                process.memory_bytes = process.memory_bytes.max(Some(bytes));
            }
        }
        processes.into_values().take(MAX_PROCESSES).collect()
    }

    /// What processes have used of the GPU since the reading before, on average; `None` where it is not told.
    fn used_by_processes(&mut self, device: &Device<'_>) -> Option<BTreeMap<u32, f64>> {
        let samples = match device.process_utilization_stats(self.last_sample) {
            Ok(samples) => samples,
            // There is none: nobody used it.
            Err(NvmlError::NotFound) => Vec::new(),
            Err(_) => return None,
        };
        let mut sums: BTreeMap<u32, (f64, f64)> = BTreeMap::new();
        for sample in samples {
            self.last_sample = self.last_sample.max(sample.timestamp);
            // Some drivers hand out slots that they have not filled.
            if sample.pid != 0 && sample.sm_util <= 100 {
                let (sum, count) = sums.entry(sample.pid).or_default();
                (*sum, *count) = (*sum + f64::from(sample.sm_util), *count + 1.0);
            }
        }
        Some(sums.into_iter().map(|(pid, (sum, count))| (pid, sum / count)).collect())
    }
}

/// `NVML_DEVICE_MIG_ENABLE`
const MIG_ON: u32 = 1;

struct Memory {
    used: u64,
    total: u64,
}

impl Memory {
    /// Of what is used the driver's own reserve is no part, where the library tells them apart.
    fn of(device: &Device<'_>) -> Option<Self> {
        match device.memory_info() {
            Ok(memory) => Some(Self { used: memory.used, total: memory.total }),
            Err(NvmlError::FailedToLoadSymbol(_) | NvmlError::FunctionNotFound) => Self::first_version(device),
            Err(_) => None,
        }
    }

    /// Before driver 510 there was no other.
    fn first_version(device: &Device<'_>) -> Option<Self> {
        let mut memory = nvml_wrapper_sys::bindings::nvmlMemory_t { total: 0, free: 0, used: 0 };
        let function = device.nvml().lib().nvmlDeviceGetMemoryInfo.as_ref().ok()?;
        // SAFETY: the handle is that of a device of this library, and the structure lives for the call.
        let result = unsafe { function(device.handle(), &raw mut memory) };
        (result == 0).then_some(Self { used: memory.used, total: memory.total })
    }
}

fn instances(device: &Device<'_>) -> Vec<GpuInstance> {
    let count = device.mig_device_count().unwrap_or(0).min(MAX_INSTANCES);
    // Places without an instance answer with an error.
    let instances = (0..count).filter_map(|index| device.mig_device_by_index(index).ok());
    let instance = |instance: Device<'_>| {
        let memory = Memory::of(&instance);
        let name = instance.name().unwrap_or_default();
        GpuInstance {
            id: instance_id(&instance).map_or_else(Label::default, |id| id.to_string().into()),
            // `NVIDIA H100 80GB HBM3 MIG 1g.10gb`
            profile: Label::new(name.rsplit_once("MIG ").map_or(name.as_str(), |(_, profile)| profile)),
            memory_used_bytes: memory.as_ref().map(|memory| memory.used),
            memory_total_bytes: memory.as_ref().map(|memory| memory.total),
        }
    };
    instances.map(instance).collect()
}

/// The number of a GPU instance, by which processes name it.
fn instance_id(instance: &Device<'_>) -> Option<u32> {
    let mut id = 0;
    let function = instance.nvml().lib().nvmlDeviceGetGpuInstanceId.as_ref().ok()?;
    // SAFETY: the handle is that of a device of this library, and the number lives for the call.
    let result = unsafe { function(instance.handle(), &raw mut id) };
    (result == 0).then_some(id)
}

/// As nvidia-smi calls them.
fn throttle_names(reasons: ThrottleReasons) -> Vec<Label> {
    reasons.iter_names().filter(|(name, _)| *name != "NONE").map(|(name, _)| name.to_lowercase().into()).collect()
}

/// In words that say what to do.
pub(super) fn describe(error: &NvmlError) -> String {
    match error {
        NvmlError::GpuLost => "it has fallen off the bus or does not answer: see the kernel's log; it takes a reset".into(),
        NvmlError::ResetRequired => "it must be reset before it can be used again".into(),
        NvmlError::DriverNotLoaded => "the NVIDIA driver is not loaded".into(),
        NvmlError::LibRmVersionMismatch => {
            "the NVIDIA driver and its library are of different versions, as after an upgrade: reload the driver or reboot".into()
        }
        NvmlError::NoPermission => "the NVIDIA driver refuses access: its devices may be for a group only".into(),
        NvmlError::LibloadingError(error) => format!("the NVIDIA library cannot be loaded: {error}"),
        NvmlError::FailedToLoadSymbol(name) => format!("the NVIDIA library is too old: it has no {name}"),
        other => format!("the NVIDIA library says: {other}"),
    }
}
