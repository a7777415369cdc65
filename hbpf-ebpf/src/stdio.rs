//! What a server reads from its standard input and writes to its standard output, at the functions of the C library.
//!
//! They are looked at in few processes, and there by descriptor: user space says which are the ends of the pipes to who has
//! started the process, and from then on they are followed wherever it moves them.

use aya_ebpf::{
    helpers::bpf_get_current_pid_tgid,
    macros::{uprobe, uretprobe},
    programs::{ProbeContext, RetProbeContext},
};
use hbpf_ebpf::{STDIO_HANDLE, counter, direction};

use crate::{
    emit,
    maps::{STDIO, STDIO_DUPLICATED},
    tls,
};

/// `F_DUPFD` and `F_DUPFD_CLOEXEC` of `fcntl`.
const DUPLICATES: [u64; 2] = [0, 1030];

/// The key of a descriptor of the running process in [`STDIO`].
#[inline(always)]
fn key(descriptor: u64) -> u64 {
    bpf_get_current_pid_tgid() >> 32 << 32 | descriptor & 0xffff_ffff
}

/// Which ways are looked at that bytes can go through a descriptor of the running process.
#[inline(always)]
fn directions(descriptor: u64) -> Option<u8> {
    // SAFETY: the value is one byte, which is read at once.
    unsafe { STDIO.get(&key(descriptor)) }.copied()
}

#[inline(always)]
fn is_looked_at(ctx: &ProbeContext, direction: u8) -> bool {
    ctx.arg(0).and_then(directions).is_some_and(|directions| directions >> direction & 1 != 0)
}

/// `ssize_t read(int fd, void *buf, size_t count)`
#[uprobe]
pub fn stdio_read(ctx: ProbeContext) -> u32 {
    if !is_looked_at(&ctx, direction::RECEIVED) {
        return 0;
    }
    tls::enter_as(&ctx, STDIO_HANDLE, direction::RECEIVED).unwrap_or_default()
}

/// Return of `read`: bytes read, 0 at the end, or negative.
#[uretprobe]
pub fn stdio_read_return(ctx: RetProbeContext) -> u32 {
    tls::leave_as(&ctx, direction::RECEIVED).unwrap_or_default()
}

/// `ssize_t write(int fd, const void *buf, size_t count)`
#[uprobe]
pub fn stdio_write(ctx: ProbeContext) -> u32 {
    if !is_looked_at(&ctx, direction::SENT) {
        return 0;
    }
    tls::enter_as(&ctx, STDIO_HANDLE, direction::SENT).unwrap_or_default()
}

/// `ssize_t writev(int fd, const struct iovec *iov, int iovcnt)`, of which the first buffer is read.
#[uprobe]
pub fn stdio_writev(ctx: ProbeContext) -> u32 {
    if !is_looked_at(&ctx, direction::SENT) {
        return 0;
    }
    tls::enter_vectors(&ctx, STDIO_HANDLE, direction::SENT).unwrap_or_default()
}

/// Return of `write` and `writev`: bytes written, or negative.
#[uretprobe]
pub fn stdio_write_return(ctx: RetProbeContext) -> u32 {
    tls::leave_as(&ctx, direction::SENT).unwrap_or_default()
}

/// `int fcntl(int fd, int op, ...)`, where that makes a second descriptor for the same.
#[uprobe]
pub fn stdio_fcntl(ctx: ProbeContext) -> u32 {
    let operation = ctx.arg(1).unwrap_or(u64::MAX) & 0xffff_ffff;
    if operation != DUPLICATES[0] && operation != DUPLICATES[1] {
        return 0;
    }
    if let Some(directions) = ctx.arg(0).and_then(directions)
        && STDIO_DUPLICATED.insert(&bpf_get_current_pid_tgid(), &directions, 0).is_err()
    {
        emit::count(counter::MAP_FULL, 1);
    }
    0
}

/// Return of `fcntl`: the new descriptor, or negative.
#[uretprobe]
pub fn stdio_fcntl_return(ctx: RetProbeContext) -> u32 {
    let thread = bpf_get_current_pid_tgid();
    // SAFETY: only this thread uses the entry.
    let Some(directions) = unsafe { STDIO_DUPLICATED.get(&thread) }.copied() else { return 0 };
    // Failure means that the entry is gone already.
    let _ = STDIO_DUPLICATED.remove(&thread);
    let descriptor: i32 = ctx.ret();
    if descriptor >= 0 && STDIO.insert(&key(descriptor as u64), &directions, 0).is_err() {
        emit::count(counter::MAP_FULL, 1);
    }
    0
}

/// `int close(int fd)`: its number may soon be another's.
#[uprobe]
pub fn stdio_close(ctx: ProbeContext) -> u32 {
    if let Some(descriptor) = ctx.arg(0) {
        // Failure means that it was not looked at.
        let _ = STDIO.remove(&key(descriptor));
    }
    0
}

/// `int dup2(int oldfd, int newfd)` and `dup3`: the new one is what the old one is from now on. (That it may fail is passed over.)
#[uprobe]
pub fn stdio_dup2(ctx: ProbeContext) -> u32 {
    let (Some(old), Some(new)) = (ctx.arg(0), ctx.arg(1)) else { return 0 };
    match directions(old) {
        Some(directions) => {
            if STDIO.insert(&key(new), &directions, 0).is_err() {
                emit::count(counter::MAP_FULL, 1);
            }
        }
        None => {
            // Failure means that it was not looked at.
            let _ = STDIO.remove(&key(new));
        }
    }
    0
}
