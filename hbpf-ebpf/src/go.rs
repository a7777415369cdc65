//! Plaintext at the calls of Go's `crypto/tls`.
//!
//! A goroutine moves between threads, and its stack in memory, while it is in a call; it is known by the address of its
//! `g`, and the call by how deep it lies in the stack, which a move leaves as it is. Where arguments are in registers (Go's
//! internal ABI, from 1.17 on) these are RAX, RBX, RCX and so on, for results as well, and R14 is `g`. Before that they
//! are above the return address, and there still when the function returns.
//!
//! Unlike OpenSSL's, a write here moves all that it is given, or the connection is lost. So it is looked at when it
//! begins: the answer may have come before the goroutine that has written the request goes on.
//!
//! A connection's two directions are used by goroutines of their own, which may run at once. In HTTP/2, where they do, the
//! state of its flow does not change any more once it is captured; clients and servers of HTTP/1 take turns. What could mix
//! both directions' bytes, the gathering of small pieces, is left out.

use aya_ebpf::{helpers::bpf_get_current_pid_tgid, macros::uprobe, programs::ProbeContext};
use hbpf_ebpf::{counter, direction};

use crate::{
    emit,
    maps::GO_READS,
    tls::{self, word_at},
};

/// Places of registers among those that a probe is shown, in words (x86_64: `struct pt_regs`).
const R14: usize = 1;
const RBX: usize = 5;
const RAX: usize = 10;
const RCX: usize = 11;
const RSP: usize = 19;

/// Where a `g` has the upper end of its stack (`runtime.g`: `stack.hi`).
const STACK_END_AT: u64 = 8;

/// Arguments and results on the stack, behind the return address: connection, the slice's address, length and capacity, and
/// how many bytes were moved.
const CONNECTION_AT: u64 = 8;
const BUFFER_AT: u64 = 16;
const LENGTH_AT: u64 = 24;
const MOVED_AT: u64 = 40;

/// A read that has begun.
#[repr(C)]
pub struct ReadKey {
    g: u64,
    /// How far below the stack's upper end.
    depth: u32,
    pid: u32,
}

/// What is remembered of it.
#[repr(C)]
pub struct Read {
    connection: u64,
    buffer: u64,
}

/// `func (c *Conn) Write(b []byte) (int, error)`, once it has room on its stack
#[uprobe]
pub fn go_tls_write(ctx: ProbeContext) -> u32 {
    look_at(direction::SENT, register(&ctx, RAX), register(&ctx, RBX), register(&ctx, RCX));
    0
}

/// The same with arguments on the stack.
#[uprobe]
pub fn go_tls_write_on_stack(ctx: ProbeContext) -> u32 {
    let top = register(&ctx, RSP);
    look_at(direction::SENT, word_at(top + CONNECTION_AT), word_at(top + BUFFER_AT), word_at(top + LENGTH_AT));
    0
}

/// `func (c *Conn) Read(b []byte) (int, error)`, once it has room on its stack
#[uprobe]
pub fn go_tls_read(ctx: ProbeContext) -> u32 {
    let read = Read { connection: register(&ctx, RAX), buffer: register(&ctx, RBX) };
    if GO_READS.insert(&key(&ctx), &read, 0).is_err() {
        emit::count(counter::MAP_FULL, 1);
    }
    0
}

/// A return of it.
#[uprobe]
pub fn go_tls_read_return(ctx: ProbeContext) -> u32 {
    let key = key(&ctx);
    // SAFETY: the entry belongs to this goroutine's call; what is made of one that is replaced meanwhile is checked.
    let Some(read) = (unsafe { GO_READS.get(&key) }) else {
        // It began before there were probes, or there were too many: what it has read is not seen.
        if register(&ctx, RAX) as i64 > 0 {
            emit::count(counter::READ_FAULT, 1);
        }
        return 0;
    };
    let (connection, buffer) = (read.connection, read.buffer);
    // Failure means that the entry is gone already.
    let _ = GO_READS.remove(&key);
    look_at(direction::RECEIVED, connection, buffer, register(&ctx, RAX));
    0
}

/// The same with arguments on the stack.
#[uprobe]
pub fn go_tls_read_return_on_stack(ctx: ProbeContext) -> u32 {
    let top = register(&ctx, RSP);
    look_at(direction::RECEIVED, word_at(top + CONNECTION_AT), word_at(top + BUFFER_AT), word_at(top + MOVED_AT));
    0
}

/// `func (c *Conn) Close() error`, and what a connection runs once, when it begins: `clientHandshake`, `serverHandshake`
#[uprobe]
pub fn go_tls_forget(ctx: ProbeContext) -> u32 {
    tls::forget(register(&ctx, RAX));
    0
}

/// The same with arguments on the stack.
#[uprobe]
pub fn go_tls_forget_on_stack(ctx: ProbeContext) -> u32 {
    tls::forget(word_at(register(&ctx, RSP) + CONNECTION_AT));
    0
}

#[inline(always)]
fn register(ctx: &ProbeContext, place: usize) -> u64 {
    // SAFETY: the context of a probe is the registers; the verifier knows them up to here on every architecture.
    unsafe { ctx.regs.cast::<u64>().wrapping_add(place).read() }
}

/// The call that the goroutine is in.
#[inline(always)]
fn key(ctx: &ProbeContext) -> ReadKey {
    let g = register(ctx, R14);
    let depth = word_at(g + STACK_END_AT).wrapping_sub(register(ctx, RSP)) as u32;
    ReadKey { g, depth, pid: (bpf_get_current_pid_tgid() >> 32) as u32 }
}

/// Looks at bytes that a call has moved, or will.
#[inline(always)]
fn look_at(direction: u8, connection: u64, buffer: u64, moved: u64) {
    // A failure moves none.
    if connection != 0 && (moved as i64) > 0 {
        tls::look_at_moved(direction, connection, buffer, moved);
    }
}
