//! A stand-in for NVIDIA's management library: the C interface of `libnvidia-ml.so.1`, as far as hbpf and nvidia-smi's Python
//! binding call it, over GPUs that the file in `HBPF_DEMO_NVML` describes. See `profiles/` for what such files look like.
//!
//! Handles are numbers: of a GPU its index and 1, of a part of it those and 256 times the part's place and 1.

#![allow(non_snake_case, reason = "names of the C interface")]
#![allow(missing_docs, clippy::missing_safety_doc, reason = "described in NVIDIA's nvml.h")]

mod profile;

use std::ffi::{c_char, c_uint, c_ulonglong};
use std::time::Duration;

use nvml_wrapper_sys::bindings::{
    nvmlDevice_t, nvmlEventData_t, nvmlEventSet_t, nvmlMemory_t, nvmlMemory_v2_t, nvmlPciInfo_t, nvmlProcessInfo_v2_t,
    nvmlProcessUtilizationSample_t, nvmlReturn_t, nvmlUtilization_t,
};
use profile::{Gpu, Instance, Process};

const SUCCESS: nvmlReturn_t = 0;
const INVALID_ARGUMENT: nvmlReturn_t = 2;
const NOT_SUPPORTED: nvmlReturn_t = 3;
const NO_PERMISSION: nvmlReturn_t = 4;
const NOT_FOUND: nvmlReturn_t = 6;
const INSUFFICIENT_SIZE: nvmlReturn_t = 7;
const TIMEOUT: nvmlReturn_t = 10;
const GPU_IS_LOST: nvmlReturn_t = 15;

/// What a GPU without parts says of a process.
const NO_INSTANCE: c_uint = c_uint::MAX;
/// `nvmlEventTypeXidCriticalError`
const XID_EVENT: c_ulonglong = 8;
/// Of `nvmlClockType_t`.
const SM_CLOCK: c_uint = 1;
const MEMORY_CLOCK: c_uint = 2;
/// Of `nvmlPcieUtilCounter_t`; the other is what is received.
const PCIE_SENT: c_uint = 0;

fn result<T>(value: Result<T, nvmlReturn_t>) -> nvmlReturn_t {
    value.err().unwrap_or(SUCCESS)
}

fn index(device: nvmlDevice_t) -> (usize, usize) {
    (device as usize & 0xff, device as usize >> 8)
}

fn handle(gpu: usize, instance: usize) -> nvmlDevice_t {
    (instance << 8 | (gpu + 1)) as nvmlDevice_t
}

/// What `f` finds of a GPU.
fn of_gpu<T>(
    device: nvmlDevice_t,
    f: impl FnOnce(&Gpu, Option<&Instance>) -> Result<T, nvmlReturn_t>,
) -> Result<T, nvmlReturn_t> {
    let (gpu, instance) = index(device);
    let hang =
        profile::with(|profile| gpu.checked_sub(1).and_then(|gpu| profile.gpus.get(gpu)).map(|gpu| gpu.hang_seconds));
    std::thread::sleep(Duration::from_secs_f64(hang.unwrap_or(0.0)));
    profile::with(|profile| {
        let gpu = gpu.checked_sub(1).and_then(|gpu| profile.gpus.get(gpu)).ok_or(INVALID_ARGUMENT)?;
        if gpu.lost {
            return Err(GPU_IS_LOST);
        }
        let instance = match instance {
            0 => None,
            place => Some(gpu.instances.get(place - 1).ok_or(INVALID_ARGUMENT)?),
        };
        f(gpu, instance)
    })
}

/// Writes a number that only whole GPUs have, and only those that support it.
unsafe fn number<T>(device: nvmlDevice_t, to: *mut T, value: impl FnOnce(&Gpu) -> Option<T>) -> nvmlReturn_t {
    result(of_gpu(device, |gpu, instance| {
        let value = value(gpu).filter(|_| instance.is_none()).ok_or(NOT_SUPPORTED)?;
        unsafe { to.write(value) };
        Ok(())
    }))
}

/// Writes a string with its end, if there is room.
unsafe fn string(text: &str, to: *mut c_char, room: c_uint) -> Result<(), nvmlReturn_t> {
    if text.len() >= room as usize {
        return Err(INSUFFICIENT_SIZE);
    }
    unsafe {
        to.cast::<u8>().copy_from_nonoverlapping(text.as_ptr(), text.len());
        to.add(text.len()).write(0);
    }
    Ok(())
}

/// Writes a list the way NVIDIA does: where there is no room for all it says how many there are.
unsafe fn list<T>(items: Vec<T>, count: *mut c_uint, to: *mut T) -> Result<(), nvmlReturn_t> {
    let room = unsafe { count.read() } as usize;
    unsafe { count.write(items.len() as c_uint) };
    if items.len() > room || (to.is_null() && !items.is_empty()) {
        return Err(INSUFFICIENT_SIZE);
    }
    for (place, item) in items.into_iter().enumerate() {
        unsafe { to.add(place).write(item) };
    }
    Ok(())
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlInit_v2() -> nvmlReturn_t {
    SUCCESS
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlInitWithFlags(_flags: c_uint) -> nvmlReturn_t {
    SUCCESS
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlShutdown() -> nvmlReturn_t {
    SUCCESS
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlErrorString(_result: nvmlReturn_t) -> *const c_char {
    c"an error of the stand-in".as_ptr()
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlSystemGetDriverVersion(version: *mut c_char, length: c_uint) -> nvmlReturn_t {
    result(profile::with(|profile| unsafe { string(&profile.driver, version, length) }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetCount_v2(count: *mut c_uint) -> nvmlReturn_t {
    unsafe { count.write(profile::with(|profile| profile.gpus.len() as c_uint)) };
    SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetHandleByIndex_v2(index: c_uint, device: *mut nvmlDevice_t) -> nvmlReturn_t {
    result(of_gpu(handle(index as usize, 0), |_, _| {
        unsafe { device.write(handle(index as usize, 0)) };
        Ok(())
    }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetIndex(device: nvmlDevice_t, to: *mut c_uint) -> nvmlReturn_t {
    unsafe { number(device, to, |_| Some(index(device).0 as c_uint - 1)) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetUUID(device: nvmlDevice_t, uuid: *mut c_char, length: c_uint) -> nvmlReturn_t {
    result(of_gpu(device, |gpu, instance| unsafe {
        string(instance.map_or(&gpu.uuid, |instance| &instance.uuid), uuid, length)
    }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetName(device: nvmlDevice_t, name: *mut c_char, length: c_uint) -> nvmlReturn_t {
    result(of_gpu(device, |gpu, instance| {
        let text = match instance {
            None => gpu.name.clone(),
            Some(instance) => format!("{} MIG {}", gpu.name, instance.profile),
        };
        unsafe { string(&text, name, length) }
    }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetPciInfo_v3(device: nvmlDevice_t, to: *mut nvmlPciInfo_t) -> nvmlReturn_t {
    result(of_gpu(device, |gpu, _| {
        let mut pci: nvmlPciInfo_t = unsafe { std::mem::zeroed() };
        unsafe {
            string(&gpu.pci_bus_id, pci.busId.as_mut_ptr(), pci.busId.len() as c_uint)?;
            to.write(pci);
        }
        Ok(())
    }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetUtilizationRates(
    device: nvmlDevice_t,
    to: *mut nvmlUtilization_t,
) -> nvmlReturn_t {
    unsafe {
        number(device, to, |gpu| Some(nvmlUtilization_t { gpu: gpu.utilization?, memory: gpu.memory_utilization? }))
    }
}

/// Total and used.
fn memory(device: nvmlDevice_t) -> Result<(u64, u64), nvmlReturn_t> {
    of_gpu(device, |gpu, instance| match instance {
        Some(instance) => Ok((instance.memory_total, instance.memory_used)),
        None => gpu.memory_total.zip(gpu.memory_used).ok_or(NOT_SUPPORTED),
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetMemoryInfo(device: nvmlDevice_t, to: *mut nvmlMemory_t) -> nvmlReturn_t {
    result(memory(device).map(|(total, used)| unsafe {
        to.write(nvmlMemory_t { total, free: total.saturating_sub(used), used });
    }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetMemoryInfo_v2(device: nvmlDevice_t, to: *mut nvmlMemory_v2_t) -> nvmlReturn_t {
    result(memory(device).map(|(total, used)| unsafe {
        let version = (*to).version;
        to.write(nvmlMemory_v2_t { version, total, reserved: 0, free: total.saturating_sub(used), used });
    }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetPowerUsage(device: nvmlDevice_t, to: *mut c_uint) -> nvmlReturn_t {
    unsafe { number(device, to, |gpu| gpu.power_mw) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetEnforcedPowerLimit(device: nvmlDevice_t, to: *mut c_uint) -> nvmlReturn_t {
    unsafe { number(device, to, |gpu| gpu.power_limit_mw) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetTotalEnergyConsumption(
    device: nvmlDevice_t,
    to: *mut c_ulonglong,
) -> nvmlReturn_t {
    let seconds = profile::seconds();
    unsafe { number(device, to, |gpu| Some(gpu.energy_mj? + (seconds * f64::from(gpu.power_mw.unwrap_or(0))) as u64)) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetTemperature(
    device: nvmlDevice_t,
    _sensor: c_uint,
    to: *mut c_uint,
) -> nvmlReturn_t {
    unsafe { number(device, to, |gpu| gpu.temperature) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetClockInfo(device: nvmlDevice_t, clock: c_uint, to: *mut c_uint) -> nvmlReturn_t {
    unsafe {
        number(device, to, |gpu| match clock {
            SM_CLOCK => gpu.sm_mhz,
            MEMORY_CLOCK => gpu.memory_mhz,
            _ => None,
        })
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetCurrentClocksThrottleReasons(
    device: nvmlDevice_t,
    to: *mut c_ulonglong,
) -> nvmlReturn_t {
    unsafe { number(device, to, |gpu| Some(gpu.throttle)) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetPcieThroughput(
    device: nvmlDevice_t,
    counter: c_uint,
    to: *mut c_uint,
) -> nvmlReturn_t {
    unsafe { number(device, to, |gpu| if counter == PCIE_SENT { gpu.pcie_tx_kb } else { gpu.pcie_rx_kb }) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetTotalEccErrors(
    device: nvmlDevice_t,
    _kind: c_uint,
    _counter: c_uint,
    to: *mut c_ulonglong,
) -> nvmlReturn_t {
    unsafe { number(device, to, |gpu| gpu.ecc_uncorrected) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetMigMode(
    device: nvmlDevice_t,
    current: *mut c_uint,
    pending: *mut c_uint,
) -> nvmlReturn_t {
    result(of_gpu(device, |gpu, _| {
        let mode = c_uint::from(!gpu.instances.is_empty());
        unsafe {
            current.write(mode);
            pending.write(mode);
        }
        Ok(())
    }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetMaxMigDeviceCount(device: nvmlDevice_t, to: *mut c_uint) -> nvmlReturn_t {
    unsafe { number(device, to, |gpu| Some(if gpu.instances.is_empty() { 0 } else { 7 })) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetMigDeviceHandleByIndex(
    device: nvmlDevice_t,
    place: c_uint,
    to: *mut nvmlDevice_t,
) -> nvmlReturn_t {
    result(of_gpu(device, |gpu, _| {
        gpu.instances.get(place as usize).ok_or(NOT_FOUND)?;
        unsafe { to.write(handle(index(device).0 - 1, place as usize + 1)) };
        Ok(())
    }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetGpuInstanceId(device: nvmlDevice_t, to: *mut c_uint) -> nvmlReturn_t {
    result(of_gpu(device, |_, instance| {
        unsafe { to.write(instance.ok_or(NOT_SUPPORTED)?.id) };
        Ok(())
    }))
}

unsafe fn processes(
    device: nvmlDevice_t,
    count: *mut c_uint,
    to: *mut nvmlProcessInfo_v2_t,
    graphics: bool,
) -> nvmlReturn_t {
    result(of_gpu(device, |gpu, instance| {
        // Of a GPU in parts an ordinary user is told by part only.
        if instance.is_none() && !gpu.instances.is_empty() {
            return Err(NO_PERMISSION);
        }
        let info = |process: &Process| nvmlProcessInfo_v2_t {
            pid: process.pid,
            usedGpuMemory: process.memory,
            gpuInstanceId: process.instance.unwrap_or(NO_INSTANCE),
            computeInstanceId: process.instance.map_or(NO_INSTANCE, |_| 0),
        };
        let is_here = |process: &&Process| instance.is_none_or(|instance| process.instance == Some(instance.id));
        let all =
            gpu.processes.iter().filter(is_here).filter(|process| process.graphics == graphics).map(info).collect();
        unsafe { list(all, count, to) }
    }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetComputeRunningProcesses_v3(
    device: nvmlDevice_t,
    count: *mut c_uint,
    to: *mut nvmlProcessInfo_v2_t,
) -> nvmlReturn_t {
    unsafe { processes(device, count, to, false) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetComputeRunningProcesses_v2(
    device: nvmlDevice_t,
    count: *mut c_uint,
    to: *mut nvmlProcessInfo_v2_t,
) -> nvmlReturn_t {
    unsafe { processes(device, count, to, false) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetGraphicsRunningProcesses_v3(
    device: nvmlDevice_t,
    count: *mut c_uint,
    to: *mut nvmlProcessInfo_v2_t,
) -> nvmlReturn_t {
    unsafe { processes(device, count, to, true) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetGraphicsRunningProcesses_v2(
    device: nvmlDevice_t,
    count: *mut c_uint,
    to: *mut nvmlProcessInfo_v2_t,
) -> nvmlReturn_t {
    unsafe { processes(device, count, to, true) }
}

/// A sample a second of each process that uses the GPU, each at a time of its own, stamped in microseconds since the library
/// was first used.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetProcessUtilization(
    device: nvmlDevice_t,
    to: *mut nvmlProcessUtilizationSample_t,
    count: *mut c_uint,
    since: c_ulonglong,
) -> nvmlReturn_t {
    const SECOND: c_ulonglong = 1_000_000;
    let now = (profile::seconds() * 1e6) as c_ulonglong + SECOND;
    result(of_gpu(device, |gpu, _| {
        let sample = |process: &Process| {
            let phase = c_ulonglong::from(process.pid) * 300_000 % SECOND;
            let timeStamp = (now - phase) / SECOND * SECOND + phase;
            let smUtil = process.sm.filter(|_| timeStamp > since)?;
            let used = nvmlProcessUtilizationSample_t {
                pid: process.pid,
                timeStamp,
                smUtil,
                memUtil: 0,
                encUtil: 0,
                decUtil: 0,
            };
            Some(used)
        };
        let samples: Vec<_> = gpu.processes.iter().filter_map(sample).collect();
        if samples.is_empty() {
            return Err(NOT_FOUND);
        }
        unsafe { list(samples, count, to) }
    }))
}

/// A set is one for one GPU here, and its handle that of the GPU.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlEventSetCreate(to: *mut nvmlEventSet_t) -> nvmlReturn_t {
    unsafe { to.write(Box::into_raw(Box::new(0_usize)).cast()) };
    SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceRegisterEvents(
    device: nvmlDevice_t,
    _events: c_ulonglong,
    set: nvmlEventSet_t,
) -> nvmlReturn_t {
    unsafe { set.cast::<usize>().write(device as usize) };
    SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlEventSetWait_v2(
    set: nvmlEventSet_t,
    to: *mut nvmlEventData_t,
    _milliseconds: c_uint,
) -> nvmlReturn_t {
    let device = unsafe { set.cast::<usize>().read() };
    match device.checked_sub(1).and_then(profile::next_xid) {
        None => TIMEOUT,
        Some(xid) => {
            let event = nvmlEventData_t {
                device: device as nvmlDevice_t,
                eventType: XID_EVENT,
                eventData: xid,
                gpuInstanceId: NO_INSTANCE,
                computeInstanceId: NO_INSTANCE,
            };
            unsafe { to.write(event) };
            SUCCESS
        }
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlEventSetFree(set: nvmlEventSet_t) -> nvmlReturn_t {
    drop(unsafe { Box::from_raw(set.cast::<usize>()) });
    SUCCESS
}
