//! NVIDIA's GPUs, by its management library (NVML), which is loaded at run time.
//!
//! Any of its functions can be missing from an old driver, unsupported by a GPU, or fail: then that field is unknown, and
//! all others stand.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

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

use super::{MAX_INSTANCES, MAX_PROCESSES};

/// Most GPUs of one machine; the largest have 16.
const MAX_GPUS: u32 = 64;

/// How long a process's latest sample says what it does. The driver takes one of each process about once a second, at times
/// of its own; of one that does nothing it takes none.
const SAMPLE_HOLDS: Duration = Duration::from_secs(3);

/// The driver's stamps are in microseconds. Asked for what is newer than the newest sample, it would keep those of other
/// processes to itself that were taken a little before.
const STAMPS_APART: u64 = 2_000_000;

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
    /// The driver's latest sample of each process that has used it lately.
    samples: BTreeMap<u32, Sample>,
    /// Its newest stamp.
    newest_stamp: u64,
    /// Since when samples are taken; of who has none by then it is not known what it did before.
    sampling_since: Instant,
}

/// What a process used of a GPU, by the driver.
struct Sample {
    stamp: u64,
    seen_at: Instant,
    percent: f64,
}

impl<'nvml> Nvidia<'nvml> {
    pub(super) fn new(nvml: &'nvml Nvml) -> Self {
        let driver = nvml.sys_driver_version().ok().map(|version| Label::new(&version));
        Self { nvml, driver, known: BTreeMap::new() }
    }

    /// How many there are.
    pub(super) fn count(&self) -> u32 {
        match self.nvml.device_count() {
            Ok(count) => count.min(MAX_GPUS),
            // Those that were there are told with what is wrong with them.
            Err(_) => self.known.len() as u32,
        }
    }

    pub(super) fn read_one(&mut self, index: u32) -> Gpu {
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
        // What has happened to it may be told all the same.
        self.known.get_mut(&index).into_iter().for_each(Known::take_events);
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
        Self {
            identity,
            events,
            xid_errors: 0,
            last_xid: None,
            samples: BTreeMap::new(),
            newest_stamp: 0,
            sampling_since: Instant::now(),
        }
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
        let instances = if has_instances { instances(device) } else { Vec::new() };
        let processes = self.processes(device, has_instances.then_some(&instances));
        let unknown_users =
            processes.as_ref().err().map(|error| Text::new(&format!("who uses it is not told: {}", describe(error))));
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
            instances: instances.iter().map(|instance| instance.facts.clone()).collect(),
            processes: processes.unwrap_or_default(),
            problem: unknown_users,
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

    /// Who uses it, on the whole or, with `instances`, in parts. A list of which a part cannot be had is not known.
    fn processes(
        &mut self,
        device: &Device<'_>,
        instances: Option<&Vec<Instance<'_>>>,
    ) -> Result<Vec<GpuProcess>, NvmlError> {
        let used = if instances.is_some() { None } else { self.used_by_processes(device) };
        let mut processes: BTreeMap<u32, GpuProcess> = BTreeMap::new();
        let mut add = |info: ProcessInfo, instance: Option<&Label>| {
            let process = processes.entry(info.pid).or_insert_with(|| GpuProcess {
                pid: info.pid,
                instance: instance.cloned(),
                sm_percent: used.as_ref().and_then(|used| used.of(info.pid)),
                memory_bytes: None,
            });
            if let UsedGpuMemory::Used(bytes) = info.used_gpu_memory {
                // One that computes and draws is in both lists, each time with all that it holds.
                process.memory_bytes = process.memory_bytes.max(Some(bytes));
            }
        };
        match instances {
            None => users(device)?.into_iter().for_each(|info| add(info, None)),
            // Of the whole an ordinary user is told nothing then.
            Some(instances) => {
                for instance in instances {
                    users(&instance.device)?.into_iter().for_each(|info| add(info, Some(&instance.facts.id)));
                }
            }
        }
        let mut processes: Vec<GpuProcess> = processes.into_values().collect();
        processes.sort_by_key(|process| std::cmp::Reverse(process.memory_bytes));
        processes.truncate(MAX_PROCESSES);
        processes.sort_by_key(|process| process.pid);
        Ok(processes)
    }

    /// What processes use of the GPU; `None` where it is not told.
    fn used_by_processes(&mut self, device: &Device<'_>) -> Option<Used<'_>> {
        let samples = match device.process_utilization_stats(self.newest_stamp.saturating_sub(STAMPS_APART)) {
            Ok(samples) => samples,
            // There is none: nobody used it.
            Err(NvmlError::NotFound) => Vec::new(),
            Err(_) => return None,
        };
        let newest = samples.iter().map(|sample| sample.timestamp).max();
        self.newest_stamp = self.newest_stamp.max(newest.unwrap_or(0));
        let now = Instant::now();
        for sample in samples {
            // Some drivers hand out slots that they have not filled. The first time they hand out what is long past.
            let age = Duration::from_micros(self.newest_stamp.saturating_sub(sample.timestamp));
            if sample.pid == 0 || sample.sm_util > 100 || age > SAMPLE_HOLDS {
                continue;
            }
            let known = self.samples.get(&sample.pid).is_some_and(|known| known.stamp >= sample.timestamp);
            if !known {
                let percent = f64::from(sample.sm_util);
                self.samples.insert(sample.pid, Sample { stamp: sample.timestamp, seen_at: now, percent });
            }
        }
        self.samples.retain(|_, sample| now.duration_since(sample.seen_at) <= SAMPLE_HOLDS);
        let is_settled = now.duration_since(self.sampling_since) > SAMPLE_HOLDS;
        Some(Used { samples: &self.samples, is_settled })
    }
}

/// What processes use of a GPU.
struct Used<'a> {
    samples: &'a BTreeMap<u32, Sample>,
    /// Samples have been taken for so long that who has none does nothing.
    is_settled: bool,
}

impl Used<'_> {
    fn of(&self, pid: u32) -> Option<f64> {
        self.samples.get(&pid).map(|sample| sample.percent).or(self.is_settled.then_some(0.0))
    }
}

/// Who computes or draws on a GPU or a part of it.
fn users(device: &Device<'_>) -> Result<Vec<ProcessInfo>, NvmlError> {
    let is_older = |error: &NvmlError| matches!(error, NvmlError::FailedToLoadSymbol(_) | NvmlError::FunctionNotFound);
    let mut users = match device.running_compute_processes() {
        Err(error) if is_older(&error) => device.running_compute_processes_v2()?,
        other => other?,
    };
    let drawing = match device.running_graphics_processes() {
        Err(error) if is_older(&error) => device.running_graphics_processes_v2(),
        other => other,
    };
    match drawing {
        Ok(drawing) => users.extend(drawing),
        // It cannot draw.
        Err(NvmlError::NotSupported) => {}
        Err(error) => return Err(error),
    }
    Ok(users)
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

/// A part of a GPU (MIG).
struct Instance<'nvml> {
    device: Device<'nvml>,
    facts: GpuInstance,
}

fn instances<'nvml>(device: &Device<'nvml>) -> Vec<Instance<'nvml>> {
    let count = device.mig_device_count().unwrap_or(0).min(MAX_INSTANCES as u32);
    // Places without an instance answer with an error.
    let instances = (0..count).filter_map(|index| device.mig_device_by_index(index).ok());
    let instance = |device: Device<'nvml>| {
        let memory = Memory::of(&device);
        let name = device.name().unwrap_or_default();
        let facts = GpuInstance {
            id: instance_id(&device).map_or_else(Label::default, |id| id.to_string().into()),
            // `NVIDIA H100 80GB HBM3 MIG 1g.10gb`
            profile: Label::new(name.rsplit_once("MIG ").map_or(name.as_str(), |(_, profile)| profile)),
            memory_used_bytes: memory.as_ref().map(|memory| memory.used),
            memory_total_bytes: memory.as_ref().map(|memory| memory.total),
        };
        Instance { device, facts }
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

/// As nvidia-smi calls them, those first that tell of trouble.
fn throttle_names(reasons: ThrottleReasons) -> Vec<Label> {
    let harmless = ThrottleReasons::GPU_IDLE
        | ThrottleReasons::APPLICATIONS_CLOCKS_SETTING
        | ThrottleReasons::SYNC_BOOST
        | ThrottleReasons::DISPLAY_CLOCK_SETTING;
    let rank = |reason: ThrottleReasons| match reason {
        reason if harmless.contains(reason) => 2,
        // A limit that is meant to be kept.
        ThrottleReasons::SW_POWER_CAP => 1,
        _ => 0,
    };
    let mut names: Vec<_> = reasons.iter_names().filter(|(name, _)| *name != "NONE").collect();
    names.sort_by_key(|(_, reason)| rank(*reason));
    names.into_iter().map(|(name, _)| name.to_lowercase().into()).collect()
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
        NvmlError::LibloadingError(error) => {
            format!("the NVIDIA library cannot be loaded: {error}")
        }
        NvmlError::FailedToLoadSymbol(error) => format!("that is not NVIDIA's management library, or a very old one: {error}"),
        other => format!("the NVIDIA library says: {other}"),
    }
}
