//! Who opens devices.

use aya_ebpf::{
    bindings::{BPF_DEVCG_ACC_READ, BPF_DEVCG_ACC_WRITE, BPF_DEVCG_DEV_CHAR},
    helpers::generated::{bpf_get_current_task, bpf_probe_read_kernel},
    macros::cgroup_device,
    programs::DeviceContext,
};
use hbpf_ebpf::{Tally, TallyKey, device_number, tally};

use crate::{count, maps::DEVICES};

/// What lets a device be opened. No program here ever keeps a process from a device.
const PASS: i32 = 1;

/// Bits of a kind of device in what is asked for; those of what for follow them.
const KIND_BITS: u32 = 16;

/// See [`hbpf_ebpf::TASK_TGID_AT`].
#[unsafe(no_mangle)]
static TASK_TGID_AT: u32 = 0;

/// `devcgroup_check_permission`: a process may open a device node, as far as the node itself goes.
#[cgroup_device]
pub fn device_opened(ctx: DeviceContext) -> i32 {
    try_opened(&ctx);
    PASS
}

#[inline(always)]
fn try_opened(ctx: &DeviceContext) -> Option<()> {
    // SAFETY: the context of this kind of program.
    let (asked, major, minor) = unsafe { ((*ctx.device).access_type, (*ctx.device).major, (*ctx.device).minor) };
    let opens = asked >> KIND_BITS & (BPF_DEVCG_ACC_READ | BPF_DEVCG_ACC_WRITE) != 0;
    if asked & ((1 << KIND_BITS) - 1) != BPF_DEVCG_DEV_CHAR || !opens {
        return None;
    }
    // SAFETY: written before the program is attached.
    unsafe { DEVICES.get(&major)? };
    let key = TallyKey { pid: process()?, device: device_number(major, minor), slot: 0, kind: tally::OPENED };
    count::add(&key, &Tally { count: 1, nanoseconds: 0, bytes: 0 });
    Some(())
}

#[inline(always)]
fn process() -> Option<u32> {
    // SAFETY: a static; volatile, since its value here is not what it will be.
    let at = unsafe { core::ptr::read_volatile(&raw const TASK_TGID_AT) };
    let mut pid = 0_u32;
    // SAFETY: the first helper has no arguments; the second reads any kernel memory or fails.
    let result = unsafe {
        let task = bpf_get_current_task() + u64::from(at);
        bpf_probe_read_kernel((&raw mut pid).cast(), size_of::<u32>() as u32, task as *const core::ffi::c_void)
    };
    (result == 0).then_some(pid)
}
