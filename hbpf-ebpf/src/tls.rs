//! Plaintext at OpenSSL's calls.
//!
//! Every call is looked at when it returns: only then is it known how many bytes it has moved (a write that has to be
//! repeated moves none). A call made inside another (SSL_write_ex calls SSL_write_ex2) takes its place, and a probe
//! that hits twice finds nothing the second time, so no byte counts twice.

use aya_ebpf::{
    helpers::{
        bpf_get_current_pid_tgid, bpf_ktime_get_ns,
        generated::{bpf_probe_read_kernel, bpf_probe_read_user},
    },
    macros::{uprobe, uretprobe},
    programs::{ProbeContext, RetProbeContext},
};
use hbpf_ebpf::{FlowKey, HEAD_BYTES, RecordHeader, counter, direction, flags, source};

use crate::{
    emit,
    flow::{self, Flow, Piece, Source, State},
    maps::{TLS_CALLS, TLS_FLOWS},
};

/// More than any call moves; keeps sums of lengths within 32 bits.
const LARGEST_CALL: u64 = 1 << 30;

/// One `SSL *` of one process.
#[repr(C)]
pub struct ConnectionKey {
    ssl: u64,
    pid: u32,
    zero: u32,
}

/// What is remembered of a TLS connection.
#[repr(C)]
pub struct Connection {
    flow: Flow,
    /// Bytes seen so far in each direction.
    offsets: [u64; 2],
    /// Twice the size: see [`State::head`].
    head: [u8; 2 * HEAD_BYTES],
}

/// What is remembered of a call while it lasts, and room to work in when it returns.
#[repr(C)]
pub struct Call {
    connection: ConnectionKey,
    buffer: u64,
    /// Where the call will store how many bytes it has moved; 0 where it returns that.
    moved_at: u64,
    moved: u64,
    piece: Piece,
}

/// Templates to insert: on the stack they would exceed the frame that a uprobe program may have.
static NEW_CALL: Call = zeroed();
static NEW_CONNECTION: Connection = zeroed();

/// A value of all zeros, for types made of integers.
const fn zeroed<T>() -> T {
    // SAFETY: used for the two types above only, which are integers throughout.
    unsafe { core::mem::zeroed() }
}

/// `int SSL_write(SSL *ssl, const void *buf, int num)` (OpenSSL 1.1, 3.x)
#[uprobe]
pub fn ssl_write(ctx: ProbeContext) -> u32 {
    try_enter(&ctx, 0).unwrap_or_default()
}

/// Return of `SSL_write`: bytes written, or not positive.
#[uretprobe]
pub fn ssl_write_return(ctx: RetProbeContext) -> u32 {
    try_leave(&ctx, direction::SENT, Outcome::Length).unwrap_or_default()
}

/// `int SSL_write_ex(SSL *s, const void *buf, size_t num, size_t *written)` (OpenSSL 1.1.1, 3.x)
#[uprobe]
pub fn ssl_write_ex(ctx: ProbeContext) -> u32 {
    try_enter(&ctx, ctx.arg(3).unwrap_or_default()).unwrap_or_default()
}

/// `int SSL_write_ex2(SSL *s, const void *buf, size_t num, uint64_t flags, size_t *written)` (OpenSSL 3.3)
#[uprobe]
pub fn ssl_write_ex2(ctx: ProbeContext) -> u32 {
    try_enter(&ctx, ctx.arg(4).unwrap_or_default()).unwrap_or_default()
}

/// Return of `SSL_write_ex` and `SSL_write_ex2`: 1 for success.
#[uretprobe]
pub fn ssl_write_ex_return(ctx: RetProbeContext) -> u32 {
    try_leave(&ctx, direction::SENT, Outcome::Success).unwrap_or_default()
}

/// `int SSL_read(SSL *ssl, void *buf, int num)` (OpenSSL 1.1, 3.x)
#[uprobe]
pub fn ssl_read(ctx: ProbeContext) -> u32 {
    try_enter(&ctx, 0).unwrap_or_default()
}

/// Return of `SSL_read`: bytes read, or not positive.
#[uretprobe]
pub fn ssl_read_return(ctx: RetProbeContext) -> u32 {
    try_leave(&ctx, direction::RECEIVED, Outcome::Length).unwrap_or_default()
}

/// `int SSL_read_ex(SSL *ssl, void *buf, size_t num, size_t *readbytes)` (OpenSSL 1.1.1, 3.x)
#[uprobe]
pub fn ssl_read_ex(ctx: ProbeContext) -> u32 {
    try_enter(&ctx, ctx.arg(3).unwrap_or_default()).unwrap_or_default()
}

/// Return of `SSL_read_ex`: 1 for success.
#[uretprobe]
pub fn ssl_read_ex_return(ctx: RetProbeContext) -> u32 {
    try_leave(&ctx, direction::RECEIVED, Outcome::Success).unwrap_or_default()
}

/// `void SSL_free(SSL *ssl)` (OpenSSL 1.1, 3.x)
#[uprobe]
pub fn ssl_free(ctx: ProbeContext) -> u32 {
    forget(ctx.arg(0).unwrap_or_default());
    0
}

/// Return of `SSL *SSL_new(SSL_CTX *ctx)` (OpenSSL 1.1, 3.x): a pointer that was used before is another connection.
#[uretprobe]
pub fn ssl_new_return(ctx: RetProbeContext) -> u32 {
    forget(ctx.ret());
    0
}

/// What a call's return value says.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// Bytes moved.
    Length,
    /// Whether it succeeded; the length is where the caller wanted it.
    Success,
}

/// Remembers the call's arguments.
#[inline(always)]
fn try_enter(ctx: &ProbeContext, moved_at: u64) -> Option<u32> {
    let ssl = ctx.arg(0)?;
    let buffer = ctx.arg(1)?;
    let thread = bpf_get_current_pid_tgid();
    if TLS_CALLS.insert(&thread, &NEW_CALL, 0).is_err() {
        emit::count(counter::MAP_FULL, 1);
        return None;
    }
    // SAFETY: only this thread uses the entry.
    let call = unsafe { &mut *TLS_CALLS.get_ptr_mut(&thread)? };
    call.connection.ssl = ssl;
    call.connection.pid = (thread >> 32) as u32;
    call.buffer = buffer;
    call.moved_at = moved_at;
    Some(0)
}

/// Looks at the bytes that the call has moved.
#[inline(always)]
fn try_leave(ctx: &RetProbeContext, direction: u8, outcome: Outcome) -> Option<u32> {
    let thread = bpf_get_current_pid_tgid();
    // SAFETY: only this thread uses the entry.
    let call = unsafe { &mut *TLS_CALLS.get_ptr_mut(&thread)? };
    let returned: i32 = ctx.ret();
    call.piece.direction = direction;
    match outcome {
        Outcome::Length if returned > 0 => {
            call.moved = returned as u64;
            look_at(call);
        }
        Outcome::Length if returned == 0 && direction == direction::RECEIVED => look_at_end(call),
        Outcome::Success if returned == 1 => {
            // SAFETY: the helper checks the address; the destination is a field of the entry.
            let copied = unsafe { bpf_probe_read_user((&raw mut call.moved).cast(), 8, call.moved_at as *const _) };
            if copied == 0 {
                look_at(call);
            } else {
                emit::count(counter::READ_FAULT, 1);
            }
        }
        _ => {}
    }
    // Failure means that the entry is gone already.
    let _ = TLS_CALLS.remove(&thread);
    Some(0)
}

#[inline(never)]
fn look_at(call: &mut Call) {
    if call.moved == 0 {
        return;
    }
    // SAFETY: a connection is used by one call at a time; OpenSSL asks that of its callers.
    let Some(connection) = (unsafe { connection(&call.connection) }) else { return };
    let moved = call.moved.min(LARGEST_CALL);
    let piece = &mut call.piece;
    piece.timestamp_ns = unsafe { bpf_ktime_get_ns() };
    piece.len = moved as u32;
    let offset = &mut connection.offsets[usize::from(piece.direction & 1)];
    piece.offset = *offset;
    *offset += moved;
    flow::observe(UserBuffer(call.buffer), connection, piece, false);
}

/// The peer has ended its stream.
#[inline(never)]
fn look_at_end(call: &mut Call) {
    // SAFETY: as in `look_at`.
    let Some(connection) = TLS_FLOWS.get_ptr_mut(&call.connection).map(|found| unsafe { &mut *found }) else { return };
    if connection.flow.mode != flow::CAPTURE {
        return;
    }
    let offset = connection.offsets[usize::from(direction::RECEIVED)];
    emit::emit_end(UserBuffer(0), connection, flags::FIN | flags::CAPTURE, direction::RECEIVED, offset);
}

/// The connection's state, new if it has none.
#[inline(always)]
unsafe fn connection<'a>(key: &ConnectionKey) -> Option<&'a mut Connection> {
    if let Some(found) = TLS_FLOWS.get_ptr_mut(key) {
        return Some(unsafe { &mut *found });
    }
    if TLS_FLOWS.insert(key, &NEW_CONNECTION, 0).is_err() {
        emit::count(counter::MAP_FULL, 1);
        return None;
    }
    let new = unsafe { &mut *TLS_FLOWS.get_ptr_mut(key)? };
    let generation = unsafe { bpf_ktime_get_ns() };
    new.flow.key = FlowKey { handle: key.ssl, generation, pid: key.pid, source: source::TLS.into() };
    Some(new)
}

/// The connection has ended, or its pointer means another one from now on.
#[inline(always)]
fn forget(ssl: u64) {
    let key = ConnectionKey { ssl, pid: (bpf_get_current_pid_tgid() >> 32) as u32, zero: 0 };
    let Some(connection) = TLS_FLOWS.get_ptr_mut(&key) else { return };
    // SAFETY: as in `look_at`.
    let connection = unsafe { &mut *connection };
    if connection.flow.marks & flow::EMITTED != 0 {
        emit::emit_close(UserBuffer(0), connection);
    }
    // Failure means that the entry is gone already.
    let _ = TLS_FLOWS.remove(&key);
}

/// Memory of the process that makes the call.
#[derive(Clone, Copy)]
struct UserBuffer(u64);

/// The bytes that a connection has held back.
#[derive(Clone, Copy)]
struct Held(*const u8);

impl State for Connection {
    #[inline(always)]
    fn flow(&mut self) -> &mut Flow {
        &mut self.flow
    }

    #[inline(always)]
    fn head(&mut self) -> *mut u8 {
        self.head.as_mut_ptr()
    }
}

impl Source for UserBuffer {
    type State = Connection;
    type Held = Held;
    const TCP: bool = false;
    const MOST_RECORDS: u32 = 2 * flow::RECORDS_PER_PIECE;

    #[inline(always)]
    fn read(self, _piece: &Piece, from: u32, to: *mut u8, len: u64) -> bool {
        let address = self.0.wrapping_add(u64::from(from));
        // SAFETY: the helper checks the address; the caller has room for `len` bytes.
        unsafe { bpf_probe_read_user(to.cast(), len as u32, address as *const _) == 0 }
    }

    #[inline(always)]
    fn held(state: &mut Connection) -> Held {
        Held(state.head())
    }

    #[inline(always)]
    fn describe(self, state: &mut Connection, header: &mut RecordHeader) {
        describe(state, header);
    }
}

impl Source for Held {
    type State = Connection;
    type Held = Held;
    const TCP: bool = false;
    const MOST_RECORDS: u32 = 2 * flow::RECORDS_PER_PIECE;

    #[inline(always)]
    fn read(self, _piece: &Piece, from: u32, to: *mut u8, len: u64) -> bool {
        let address = self.0.wrapping_add(from as usize);
        // SAFETY: the helper checks the address; the caller has room for `len` bytes.
        unsafe { bpf_probe_read_kernel(to.cast(), len as u32, address.cast()) == 0 }
    }

    #[inline(always)]
    fn held(state: &mut Connection) -> Held {
        Held(state.head())
    }

    #[inline(always)]
    fn describe(self, state: &mut Connection, header: &mut RecordHeader) {
        describe(state, header);
    }
}

#[inline(always)]
fn describe(state: &Connection, header: &mut RecordHeader) {
    header.pid = state.flow.key.pid;
    header.address_family = 0;
    header.local_port = 0;
    header.remote_port = 0;
    header.local_address = [0; 16];
    header.remote_address = [0; 16];
    emit::write_comm(&mut header.comm);
}
