//! Requests to block devices, from when a process asks to when the device has done it.
//!
//! Where the kernel describes its types, and has the tracepoints that it has had since 6.5, the programs look at the
//! request itself. Else they sit on tracepoints in the way that has a record made, whose layout user space reads from the
//! kernel's description. Such a program does not run while another one does on that CPU, or while a map is read there by a
//! thread that may be kept from going on: on a busy machine that is one request in twenty.

use aya_ebpf::{
    helpers::{bpf_get_current_pid_tgid, bpf_ktime_get_ns, generated::bpf_probe_read_kernel},
    macros::{raw_tracepoint, tracepoint},
    programs::{RawTracePointContext, TracePointContext},
};
use hbpf_ebpf::{BlockLayout, RequestLayout, Tally, TallyKey, block_record, counter, device_number, slot, tally};

use crate::{
    count, emit,
    maps::{BLOCK_LAYOUTS, BLOCK_PLACES, BLOCK_REQUEST, BLOCK_REQUESTS, PARTITIONS},
};

/// What the kernel counts sectors in, whatever the device does.
const SECTOR_BYTES: u64 = 512;

/// `enum req_op`
const REQ_OP_READ: u32 = 0;
const REQ_OP_WRITE: u32 = 1;
const REQ_OP_ZONE_APPEND: u32 = 7;
const REQ_OP_MASK: u32 = 0xff;

/// Where a request goes. Only one is under way for a place at a time; should another come, the former is not counted.
#[repr(C)]
pub struct Place {
    sector: u64,
    device: u32,
    zero: u32,
}

/// What is known of it.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Started {
    when_ns: u64,
    bytes: u64,
    /// What it will be counted under, but for how long it takes. As it is, for the programs' stack is small.
    key: TallyKey,
    zero: u32,
}

/// `block_io_start(struct request *rq)`, Linux 6.5: a request is made, by whom it is for. (What was written to the page
/// cache is written to the device by a kernel thread. What is merged into another's request is the other's.)
#[raw_tracepoint(tracepoint = "block_io_start")]
pub fn block_request_started(ctx: RawTracePointContext) -> i32 {
    try_request_started(&ctx);
    0
}

/// `block_rq_issue(struct request *rq)`, Linux 5.11: the device is told. Until then other requests may have been merged into
/// this one.
#[raw_tracepoint(tracepoint = "block_rq_issue")]
pub fn block_request_issued(ctx: RawTracePointContext) -> i32 {
    try_request_issued(&ctx);
    0
}

/// `block_rq_complete(struct request *rq, blk_status_t error, unsigned int nr_bytes)`, Linux 5.16: the device has done it, or
/// a part of it. (`block_io_done` is not met where a device is set to keep no statistics.)
#[raw_tracepoint(tracepoint = "block_rq_complete")]
pub fn block_request_done(ctx: RawTracePointContext) -> i32 {
    try_request_done(&ctx);
    0
}

/// `block:block_io_start`, or before Linux 6.5 `block:block_getrq`, by its record.
#[tracepoint]
pub fn block_started(ctx: TracePointContext) -> u32 {
    try_started(&ctx);
    0
}

/// `block:block_io_done`, or before Linux 6.5 `block:block_rq_complete`, by its record.
#[tracepoint]
pub fn block_done(ctx: TracePointContext) -> u32 {
    try_done(&ctx);
    0
}

#[inline(always)]
fn try_request_started(ctx: &RawTracePointContext) -> Option<()> {
    let layout = BLOCK_REQUEST.get(0)?;
    let request: u64 = ctx.arg(0);
    let bytes = word(request, layout.bytes) as u32;
    // Flushes and the like move nothing. One may have the place in memory of a request that was merged into another and so
    // never ended.
    if bytes == 0 {
        let _ = BLOCK_REQUESTS.remove(&request);
        return None;
    }
    let kind = match word(request, layout.flags) as u32 & REQ_OP_MASK {
        REQ_OP_READ => tally::DISK_READ,
        REQ_OP_WRITE | REQ_OP_ZONE_APPEND => tally::DISK_WRITE,
        _ => tally::DISK_OTHER,
    };
    let started = begun(device_of(request, layout), kind, bytes.into());
    if BLOCK_REQUESTS.insert(&request, &started, 0).is_err() {
        emit::count(counter::MAP_FULL, 1);
    }
    Some(())
}

#[inline(always)]
fn try_request_done(ctx: &RawTracePointContext) -> Option<()> {
    let layout = BLOCK_REQUEST.get(0)?;
    let request: u64 = ctx.arg(0);
    let done: u32 = ctx.arg(2);
    if done < word(request, layout.bytes) as u32 {
        return None;
    }
    // SAFETY: nothing else uses what is known of a request that has ended.
    let started = unsafe { *BLOCK_REQUESTS.get(&request)? };
    let _ = BLOCK_REQUESTS.remove(&request);
    ended(started.when_ns, started.bytes, started.key);
    Some(())
}

#[inline(always)]
fn try_request_issued(ctx: &RawTracePointContext) -> Option<()> {
    let layout = BLOCK_REQUEST.get(0)?;
    let request: u64 = ctx.arg(0);
    let started = BLOCK_REQUESTS.get_ptr_mut(&request)?;
    // SAFETY: nothing else uses what is known of a request that is not issued yet.
    unsafe { (*started).bytes = u64::from(word(request, layout.bytes) as u32) };
    Some(())
}

/// The device that a request goes to. Not inlined, for the programs' stack is small.
#[inline(never)]
fn device_of(request: u64, layout: &RequestLayout) -> u32 {
    let disk = word(word(request, layout.queue), layout.disk);
    device_number(word(disk, layout.major) as u32, word(disk, layout.minor) as u32)
}

/// A field of a structure, and what follows it up to 64 bits; 0 where it cannot be read.
#[inline(always)]
fn word(structure: u64, offset: u32) -> u64 {
    let mut value = 0_u64;
    let source = structure.wrapping_add(offset.into()) as *const core::ffi::c_void;
    // SAFETY: the helper reads any kernel memory or fails.
    let result = unsafe { bpf_probe_read_kernel((&raw mut value).cast(), size_of::<u64>() as u32, source) };
    if result == 0 { value } else { 0 }
}

#[inline(always)]
fn try_started(ctx: &TracePointContext) -> Option<()> {
    let layout = BLOCK_LAYOUTS.get(block_record::STARTED)?;
    // SAFETY: the helper reads any kernel memory or fails.
    let sectors: u32 = unsafe { ctx.read_at(layout.sectors as usize).ok()? };
    if sectors == 0 {
        return None;
    }
    let kind = kind(ctx, layout)?;
    let place = place(ctx, layout)?;
    let started = begun(place.device, kind, u64::from(sectors) * SECTOR_BYTES);
    // Where there is no room, the place that was used longest ago goes.
    let _ = BLOCK_PLACES.insert(&place, &started, 0);
    Some(())
}

#[inline(always)]
fn try_done(ctx: &TracePointContext) -> Option<()> {
    let place = place(ctx, BLOCK_LAYOUTS.get(block_record::DONE)?)?;
    // SAFETY: nothing else uses what is known of a request that has ended.
    let started = unsafe { *BLOCK_PLACES.get(&place)? };
    let _ = BLOCK_PLACES.remove(&place);
    ended(started.when_ns, started.bytes, started.key);
    Some(())
}

/// What is known of a request when it is made.
#[inline(always)]
fn begun(device: u32, kind: u16, bytes: u64) -> Started {
    Started {
        // SAFETY: a helper without arguments.
        when_ns: unsafe { bpf_ktime_get_ns() },
        bytes,
        key: TallyKey { pid: (bpf_get_current_pid_tgid() >> 32) as u32, device, slot: 0, kind },
        zero: 0,
    }
}

/// Not inlined, likewise.
#[inline(never)]
fn ended(when_ns: u64, bytes: u64, key: TallyKey) {
    // SAFETY: a helper without arguments.
    let took = unsafe { bpf_ktime_get_ns() }.saturating_sub(when_ns);
    let key = TallyKey { slot: slot::of(took), ..key };
    count::add(&key, &Tally { count: 1, nanoseconds: took, bytes });
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
