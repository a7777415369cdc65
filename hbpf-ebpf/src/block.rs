//! Requests to block devices, from when a process asks to when the device has done it.
//!
//! The programs sit on tracepoints whose records differ between kernels, in what they have and where: user space reads
//! the kernel's description of them and fills `BLOCK_LAYOUTS`.

use aya_ebpf::{
    helpers::{bpf_get_current_pid_tgid, bpf_ktime_get_ns},
    macros::tracepoint,
    programs::TracePointContext,
};
use hbpf_ebpf::{BlockLayout, Tally, TallyKey, block_record, slot, tally};

use crate::{
    count,
    maps::{BLOCK_LAYOUTS, BLOCK_STARTED, PARTITIONS},
};

/// What the kernel counts sectors in, whatever the device does.
const SECTOR_BYTES: u64 = 512;

/// Where a request goes. Only one is under way for a place at a time; should another come, the former is not counted.
#[repr(C)]
pub struct Place {
    sector: u64,
    device: u32,
    zero: u32,
}

/// A request under way.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Started {
    when_ns: u64,
    bytes: u64,
    pid: u32,
    kind: u32,
}

/// `block:block_io_start` (Linux 6.5), or `block:block_getrq`: a request is made, by whom it is for. (What was written to
/// the page cache is written to the device by a kernel thread. What is merged into another's request is the other's.)
#[tracepoint]
pub fn block_started(ctx: TracePointContext) -> u32 {
    try_started(&ctx);
    0
}

/// `block:block_io_done` (Linux 6.5), or `block:block_rq_complete`: the device has done it.
#[tracepoint]
pub fn block_done(ctx: TracePointContext) -> u32 {
    try_done(&ctx);
    0
}

#[inline(always)]
fn try_started(ctx: &TracePointContext) -> Option<()> {
    let layout = BLOCK_LAYOUTS.get(block_record::STARTED)?;
    // SAFETY: the helper reads any kernel memory or fails.
    let sectors: u32 = unsafe { ctx.read_at(layout.sectors as usize).ok()? };
    // Flushes and the like have no place.
    if sectors == 0 {
        return None;
    }
    let started = Started {
        // SAFETY: a helper without arguments.
        when_ns: unsafe { bpf_ktime_get_ns() },
        bytes: u64::from(sectors) * SECTOR_BYTES,
        pid: (bpf_get_current_pid_tgid() >> 32) as u32,
        kind: kind(ctx, layout)?.into(),
    };
    // Where there is no room, the request that was used longest ago goes.
    let _ = BLOCK_STARTED.insert(&place(ctx, layout)?, &started, 0);
    Some(())
}

#[inline(always)]
fn try_done(ctx: &TracePointContext) -> Option<()> {
    let (device, started) = take_started(ctx)?;
    // SAFETY: a helper without arguments.
    let took = unsafe { bpf_ktime_get_ns() }.saturating_sub(started.when_ns);
    let key = TallyKey { pid: started.pid, device, slot: slot::of(took), kind: started.kind as u16 };
    count::add(&key, &Tally { count: 1, nanoseconds: took, bytes: started.bytes });
    Some(())
}

/// The request that is done, which is under way no more, and its device.
#[inline(always)]
fn take_started(ctx: &TracePointContext) -> Option<(u32, Started)> {
    let place = place(ctx, BLOCK_LAYOUTS.get(block_record::DONE)?)?;
    // SAFETY: only one request is under way for a place.
    let started = unsafe { *BLOCK_STARTED.get(&place)? };
    let _ = BLOCK_STARTED.remove(&place);
    Some((place.device, started))
}

#[inline(always)]
fn place(ctx: &TracePointContext, layout: &BlockLayout) -> Option<Place> {
    // SAFETY: the helper reads any kernel memory or fails.
    let (named, sector): (u32, u64) =
        unsafe { (ctx.read_at(layout.device as usize).ok()?, ctx.read_at(layout.sector as usize).ok()?) };
    // SAFETY: written before the programs are attached.
    let device = unsafe { PARTITIONS.get(&named) }.copied().unwrap_or(named);
    Some(Place { sector, device, zero: 0 })
}

/// By the letters that `blk_fill_rwbs` writes: what is asked for, behind an F where a flush goes before it.
#[inline(always)]
fn kind(ctx: &TracePointContext, layout: &BlockLayout) -> Option<u16> {
    // SAFETY: the helper reads any kernel memory or fails.
    let [first, second]: [u8; 2] = unsafe { ctx.read_at(layout.letters as usize).ok()? };
    Some(match if first == b'F' { second } else { first } {
        b'R' => tally::DISK_READ,
        b'W' => tally::DISK_WRITE,
        _ => tally::DISK_OTHER,
    })
}
