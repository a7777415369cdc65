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
use hbpf_ebpf::{BlockLayout, RequestLayout, Tally, TallyKey, block_record, slot, tally};

use crate::{
    count,
    maps::{BLOCK_LAYOUTS, BLOCK_REQUEST, BLOCK_STARTED, PARTITIONS},
};

/// What the kernel counts sectors in, whatever the device does.
const SECTOR_BYTES: u64 = 512;

/// Bits of a minor number in the kernel's own count of devices.
const MINOR_BITS: u32 = 20;

/// `enum req_op`
const REQ_OP_READ: u32 = 0;
const REQ_OP_WRITE: u32 = 1;
const REQ_OP_ZONE_APPEND: u32 = 7;
const REQ_OP_MASK: u32 = 0xff;

/// A request under way: its address, or the device and the place on it that it goes to. Only one is under way for a place
/// at a time; should another come, the former is not counted.
#[repr(C)]
pub struct Request {
    place: u64,
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

/// `block_io_done(struct request *rq)`, Linux 6.5: the device has done it.
#[raw_tracepoint(tracepoint = "block_io_done")]
pub fn block_request_done(ctx: RawTracePointContext) -> i32 {
    ended(&Request { place: ctx.arg(0), device: 0, zero: 0 });
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
    // Flushes and the like move nothing.
    if bytes == 0 {
        return None;
    }
    let kind = match word(request, layout.flags) as u32 & REQ_OP_MASK {
        REQ_OP_READ => tally::DISK_READ,
        REQ_OP_WRITE | REQ_OP_ZONE_APPEND => tally::DISK_WRITE,
        _ => tally::DISK_OTHER,
    };
    let device = device_of(request, layout);
    begun(&Request { place: request, device: 0, zero: 0 }, device, kind, bytes.into());
    Some(())
}

#[inline(always)]
fn try_request_issued(ctx: &RawTracePointContext) -> Option<()> {
    let layout = BLOCK_REQUEST.get(0)?;
    let request: u64 = ctx.arg(0);
    let started = BLOCK_STARTED.get_ptr_mut(&Request { place: request, device: 0, zero: 0 })?;
    // SAFETY: nothing else uses what is known of a request that is not issued yet.
    unsafe { (*started).bytes = u64::from(word(request, layout.bytes) as u32) };
    Some(())
}

/// The device that a request goes to. Not inlined, for the programs' stack is small.
#[inline(never)]
fn device_of(request: u64, layout: &RequestLayout) -> u32 {
    let disk = word(word(request, layout.queue), layout.disk);
    (word(disk, layout.major) as u32) << MINOR_BITS | word(disk, layout.minor) as u32
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
    let request = place(ctx, layout)?;
    begun(&request, request.device, kind(ctx, layout)?, u64::from(sectors) * SECTOR_BYTES);
    Some(())
}

#[inline(always)]
fn try_done(ctx: &TracePointContext) -> Option<()> {
    ended(&place(ctx, BLOCK_LAYOUTS.get(block_record::DONE)?)?);
    Some(())
}

#[inline(always)]
fn begun(request: &Request, device: u32, kind: u16, bytes: u64) {
    let started = Started {
        // SAFETY: a helper without arguments.
        when_ns: unsafe { bpf_ktime_get_ns() },
        bytes,
        key: TallyKey { pid: (bpf_get_current_pid_tgid() >> 32) as u32, device, slot: 0, kind },
        zero: 0,
    };
    // Where there is no room, the request that was used longest ago goes.
    let _ = BLOCK_STARTED.insert(request, &started, 0);
}

/// Not inlined, likewise.
#[inline(never)]
fn ended(request: &Request) {
    // SAFETY: nothing else uses what is known of a request that has ended.
    let Some(started) = (unsafe { BLOCK_STARTED.get(request) }) else { return };
    let Started { when_ns, bytes, mut key, .. } = *started;
    let _ = BLOCK_STARTED.remove(request);
    // SAFETY: a helper without arguments.
    let took = unsafe { bpf_ktime_get_ns() }.saturating_sub(when_ns);
    key.slot = slot::of(took);
    count::add(&key, &Tally { count: 1, nanoseconds: took, bytes });
}

#[inline(always)]
fn place(ctx: &TracePointContext, layout: &BlockLayout) -> Option<Request> {
    // SAFETY: the helper reads any kernel memory or fails.
    let (named, sector): (u32, u64) =
        unsafe { (ctx.read_at(layout.device as usize).ok()?, ctx.read_at(layout.sector as usize).ok()?) };
    // SAFETY: written before the programs are attached.
    let device = unsafe { PARTITIONS.get(&named) }.copied().unwrap_or(named);
    Some(Request { place: sector, device, zero: 0 })
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
