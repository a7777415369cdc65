//! Plaintext at the calls of OpenSSL, BoringSSL, GnuTLS and NSS, and of what else ([`crate::go`], [`crate::stdio`]) is read in the same way.
//!
//! Every call is looked at when it returns: only then is it known how many bytes it has moved (a write that has to be
//! repeated moves none). Calls of one thread nest: a BIO may do TLS itself, and SSL_write_ex calls SSL_write_ex2. They
//! are told apart by where their return addresses lie on the stack, so a probe that hits twice finds nothing the second
//! time; and of calls that do one thing for each other only the innermost counts. No byte counts twice.

use core::ptr;

use aya_ebpf::{
    bindings::pt_regs,
    helpers::{
        bpf_get_current_pid_tgid, bpf_ktime_get_ns,
        generated::{bpf_probe_read_kernel, bpf_probe_read_user},
    },
    macros::{uprobe, uretprobe},
    programs::{ProbeContext, RetProbeContext},
};
use hbpf_ebpf::{FlowKey, HEAD_BYTES, RecordHeader, STDIO_HANDLE, counter, direction, flags, source};

use crate::{
    emit,
    flow::{self, Flow, Piece, Source, State},
    maps::{TLS_CALLS, TLS_FLOWS, TLS_USERS},
    number::{add_atomically, bounded, masked},
};

/// More than any call moves; keeps sums of lengths within 32 bits.
const LARGEST_CALL: u64 = 1 << 30;

/// A write of more than this is looked at when it begins, too: it waits for a reader that is slow, and what leaves first has
/// left long before it is through. One record of TLS.
const LONG_WRITE: u64 = 16 * 1024;

/// Calls that one thread can be in, one within the other: TLS within TLS is two deep. A power of two.
const DEPTH: usize = 4;

/// Pieces up to this size wait for more. Servers that read heads a byte at a time would otherwise cause hundreds of
/// records a request; pieces that mean something by themselves are longer, or end a line.
const SMALL_BYTES: u32 = 4;

/// Where in a connection's head small pieces are gathered: behind what looking for a message's beginning uses.
const GATHERED_AT: usize = 16;

/// Gathered bytes that are emitted whatever they are. They fit the smallest class of records.
const MOST_GATHERED: u32 = HEAD_BYTES as u32 - GATHERED_AT as u32 - SMALL_BYTES;

/// `PR_MSG_PEEK`: what is read stays to be read.
const PR_MSG_PEEK: u64 = 2;

/// `PR_DESC_LAYERED`: a descriptor that is laid over another.
const PR_DESC_LAYERED: u32 = 4;

/// In the place of where a call stores its length: its bytes are in several places.
const VECTORS: u64 = u64::MAX;

/// Of so many places the bytes are read. Who writes has one for a message, and several messages at once where the reader is
/// slow; each takes the verifier as long as a program of its own.
const MOST_VECTORS: u64 = 2;

/// Size of a `struct iovec`: an address and a length.
const VECTOR_BYTES: u64 = 16;

/// The stack pointer's place among the registers, in words.
const STACK_POINTER: usize = match env!("AYA_BPF_TARGET_ARCH").as_bytes() {
    b"x86_64" => 19,
    b"aarch64" => 31,
    _ => panic!("no such architecture"),
};

/// How many words of registers every architecture's verifier lets a program read directly. What is behind is read by a
/// helper, so that any kernel can check all objects.
const REGISTERS_EVERYWHERE: usize = 21;

/// The most by which a return moves the stack pointer: on x86_64 the return address leaves the stack.
const RETURN_ADDRESS_BYTES: u64 = 8;

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
    stream: Stream,
    /// Small pieces that wait for more: what `stream.head` holds from [`GATHERED_AT`] on.
    gathered: Piece,
}

/// The part of a [`Connection`] that records are made from.
#[repr(C)]
pub struct Stream {
    flow: Flow,
    /// Bytes seen so far in each direction.
    offsets: [u64; 2],
    /// Twice the size: see [`State::head`].
    head: [u8; 2 * HEAD_BYTES],
    /// The last message that was counted as a model call.
    counted: u32,
    zero: u32,
}

/// The calls that a thread is in, and room to work in when one returns.
#[repr(C)]
pub struct Calls {
    stack: [Call; DEPTH],
    depth: u32,
    /// The connection's other direction may be used at the same time.
    is_shared: u32,
    connection: ConnectionKey,
    buffer: u64,
    moved: u64,
    /// When a long write began; else 0.
    began_ns: u64,
    piece: Piece,
}

/// What is remembered of a call while it lasts.
#[repr(C)]
struct Call {
    ssl: u64,
    buffer: u64,
    /// Where the call will store how many bytes it has moved; 0 where it returns that.
    moved_at: u64,
    /// Of the entry: no two calls that a thread is in at a time have the same.
    stack_pointer: u64,
    /// How many bytes the caller has room for, or has.
    asked_for: u64,
    /// When a long write began; else 0.
    began_ns: u64,
    direction: u64,
}

/// What a process has made of TLS.
#[repr(C)]
pub struct Use {
    calls: u64,
    model_messages: u64,
}

/// Templates to insert: on the stack they would exceed the frame that a uprobe program may have.
static NEW_CALLS: Calls = zeroed();
static NEW_CONNECTION: Connection = zeroed();

/// A value of all zeros, for types made of integers.
const fn zeroed<T>() -> T {
    // SAFETY: used for the two types above only, which are integers throughout.
    unsafe { core::mem::zeroed() }
}

/// `int SSL_write(SSL *ssl, const void *buf, int num)` (OpenSSL 1.1, 3.x)
#[uprobe]
pub fn ssl_write(ctx: ProbeContext) -> u32 {
    try_enter(&ctx, direction::SENT, 0).unwrap_or_default()
}

/// Return of `SSL_write`: bytes written, or not positive.
#[uretprobe]
pub fn ssl_write_return(ctx: RetProbeContext) -> u32 {
    try_leave(&ctx, direction::SENT, Outcome::Length).unwrap_or_default()
}

/// `int SSL_write_ex(SSL *s, const void *buf, size_t num, size_t *written)` (OpenSSL 1.1.1, 3.x), and what it and
/// `SSL_write` are made of up to 3.2: `int ssl_write_internal(SSL *s, const void *buf, size_t num, size_t *written)`
#[uprobe]
pub fn ssl_write_ex(ctx: ProbeContext) -> u32 {
    try_enter(&ctx, direction::SENT, ctx.arg(3).unwrap_or_default()).unwrap_or_default()
}

/// `int SSL_write_ex2(SSL *s, const void *buf, size_t num, uint64_t flags, size_t *written)` (OpenSSL 3.3), and from
/// then on `ssl_write_internal` with the same arguments
#[uprobe]
pub fn ssl_write_ex2(ctx: ProbeContext) -> u32 {
    try_enter(&ctx, direction::SENT, ctx.arg(4).unwrap_or_default()).unwrap_or_default()
}

/// Return of `SSL_write_ex`, `SSL_write_ex2` and `ssl_write_internal`: 1 for success.
#[uretprobe]
pub fn ssl_write_ex_return(ctx: RetProbeContext) -> u32 {
    try_leave(&ctx, direction::SENT, Outcome::Success).unwrap_or_default()
}

/// `int SSL_read(SSL *ssl, void *buf, int num)` (OpenSSL 1.1, 3.x)
#[uprobe]
pub fn ssl_read(ctx: ProbeContext) -> u32 {
    try_enter(&ctx, direction::RECEIVED, 0).unwrap_or_default()
}

/// Return of `SSL_read`: bytes read, or not positive.
#[uretprobe]
pub fn ssl_read_return(ctx: RetProbeContext) -> u32 {
    try_leave(&ctx, direction::RECEIVED, Outcome::Length).unwrap_or_default()
}

/// `int SSL_read_ex(SSL *ssl, void *buf, size_t num, size_t *readbytes)` (OpenSSL 1.1.1, 3.x), and with the same
/// arguments `ssl_read_internal`, which it and `SSL_read` are made of
#[uprobe]
pub fn ssl_read_ex(ctx: ProbeContext) -> u32 {
    try_enter(&ctx, direction::RECEIVED, ctx.arg(3).unwrap_or_default()).unwrap_or_default()
}

/// Return of `SSL_read_ex`: 1 for success.
#[uretprobe]
pub fn ssl_read_ex_return(ctx: RetProbeContext) -> u32 {
    try_leave(&ctx, direction::RECEIVED, Outcome::Success).unwrap_or_default()
}

/// Return of `ssl_read_internal`: 1 for success, 0 at the end of the stream, else negative.
#[uretprobe]
pub fn ssl_read_internal_return(ctx: RetProbeContext) -> u32 {
    try_leave(&ctx, direction::RECEIVED, Outcome::SuccessOrEnd).unwrap_or_default()
}

/// `PRInt32 PR_Read(PRFileDesc *fd, void *buf, PRInt32 amount)` of NSPR 4: bytes read, 0 at the end of the stream, or
/// negative; so its return is that of `SSL_read`.
#[uprobe]
pub fn nspr_read(ctx: ProbeContext) -> u32 {
    try_enter_nspr(&ctx, direction::RECEIVED).unwrap_or_default()
}

/// `PRInt32 PR_Recv(PRFileDesc *fd, void *buf, PRInt32 amount, PRIntn flags, PRIntervalTime timeout)`, likewise
#[uprobe]
pub fn nspr_recv(ctx: ProbeContext) -> u32 {
    if ctx.arg(3).unwrap_or(0_u64) & PR_MSG_PEEK != 0 {
        return 0;
    }
    try_enter_nspr(&ctx, direction::RECEIVED).unwrap_or_default()
}

/// `PRInt32 PR_Write(PRFileDesc *fd, const void *buf, PRInt32 amount)` and, with two more arguments, `PR_Send`
#[uprobe]
pub fn nspr_write(ctx: ProbeContext) -> u32 {
    try_enter_nspr(&ctx, direction::SENT).unwrap_or_default()
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
    /// Bytes moved, 0 at the end of the stream.
    Length,
    /// Whether it succeeded; the length is where the caller wanted it.
    Success,
    /// The same, and 0 at the end of the stream.
    SuccessOrEnd,
}

/// What a call has come to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Came {
    Through,
    ToTheEnd,
    ToNothing,
}

/// A number of the process; 0 where it cannot be read.
#[inline(always)]
pub fn word_at(address: u64) -> u64 {
    let mut value = 0_u64;
    // SAFETY: the helper checks the address; the destination is a number of that size.
    if unsafe { bpf_probe_read_user((&raw mut value).cast(), 8, address as *const _) } != 0 {
        emit::count(counter::READ_FAULT, 1);
    }
    value
}

#[inline(always)]
pub fn stack_pointer(registers: *mut pt_regs) -> u64 {
    let place = registers.cast::<u64>().wrapping_add(STACK_POINTER);
    if STACK_POINTER < REGISTERS_EVERYWHERE {
        // SAFETY: the context of a probe is the registers, which the verifier knows.
        return unsafe { place.read() };
    }
    let mut value = 0_u64;
    // SAFETY: the helper checks the address; the destination is a number of that size.
    unsafe { bpf_probe_read_kernel((&raw mut value).cast(), 8, place.cast()) };
    value
}

/// What is remembered of a thread's calls, new if it has made none.
#[inline(always)]
fn calls<'a>(thread: u64) -> Option<&'a mut Calls> {
    // SAFETY: only this thread uses the entry.
    if let Some(found) = TLS_CALLS.get_ptr_mut(&thread) {
        return Some(unsafe { &mut *found });
    }
    if TLS_CALLS.insert(&thread, &NEW_CALLS, 0).is_err() {
        emit::count(counter::MAP_FULL, 1);
        return None;
    }
    // SAFETY: as above.
    Some(unsafe { &mut *TLS_CALLS.get_ptr_mut(&thread)? })
}

impl Calls {
    /// The innermost call that is remembered.
    #[inline(always)]
    fn innermost(&mut self) -> Option<&mut Call> {
        let outer = self.depth.checked_sub(1)?;
        Some(self.at(outer))
    }

    #[inline(always)]
    fn at(&mut self, depth: u32) -> &mut Call {
        // SAFETY: the index is less than the array's length.
        unsafe { &mut *self.stack.as_mut_ptr().add(masked::<DEPTH>(depth) as usize) }
    }
}

/// Remembers the call's arguments.
#[inline(always)]
fn try_enter(ctx: &ProbeContext, direction: u8, moved_at: u64) -> Option<u32> {
    enter(ctx, ctx.arg(0)?, direction, moved_at)
}

/// The same where the first argument is not what the connection is known by.
#[inline(always)]
pub fn enter_as(ctx: &ProbeContext, handle: u64, direction: u8) -> Option<u32> {
    enter(ctx, handle, direction, 0)
}

/// The same of a call that takes its bytes from several places: second and third argument are a `struct iovec *` and how many.
#[inline(always)]
pub fn enter_vectors(ctx: &ProbeContext, handle: u64, direction: u8) -> Option<u32> {
    enter(ctx, handle, direction, VECTORS)
}

#[inline(always)]
fn enter(ctx: &ProbeContext, ssl: u64, direction: u8, moved_at: u64) -> Option<u32> {
    let stack_pointer = stack_pointer(ctx.regs);
    let calls = calls(bpf_get_current_pid_tgid())?;
    // A call whose return address lies no higher than this one's has returned unseen, or never will. One that does the
    // same for the same connection has only made this one to do its work.
    for _ in 0..DEPTH {
        let Some(outer) = calls.innermost() else { break };
        let is_over = outer.stack_pointer <= stack_pointer;
        let is_same = outer.ssl == ssl && outer.direction == u64::from(direction);
        if !is_over && !is_same {
            break;
        }
        calls.depth -= 1;
    }
    if calls.depth as usize >= DEPTH {
        emit::count(counter::MAP_FULL, 1);
        return None;
    }
    let call = calls.at(calls.depth);
    call.ssl = ssl;
    call.buffer = ctx.arg(1)?;
    call.asked_for = ctx.arg(2)?;
    call.moved_at = moved_at;
    call.began_ns = if direction == direction::SENT && call.asked_for > LONG_WRITE {
        // SAFETY: a helper without arguments.
        unsafe { bpf_ktime_get_ns() }
    } else {
        0
    };
    call.stack_pointer = stack_pointer;
    call.direction = direction.into();
    calls.depth += 1;
    Some(0)
}

/// The same for NSPR, whose calls are the same for files, sockets and what NSS lays over a socket. A descriptor begins with
/// where its methods are, and those begin with its kind (`prio.h`).
#[inline(always)]
fn try_enter_nspr(ctx: &ProbeContext, direction: u8) -> Option<u32> {
    if word_at(word_at(ctx.arg(0)?)) as u32 != PR_DESC_LAYERED {
        return None;
    }
    try_enter(ctx, direction, 0)
}

/// Looks at the bytes that the call has moved.
#[inline(always)]
fn try_leave(ctx: &RetProbeContext, direction: u8, outcome: Outcome) -> Option<u32> {
    let thread = bpf_get_current_pid_tgid();
    // SAFETY: only this thread uses the entry.
    let calls = unsafe { &mut *TLS_CALLS.get_ptr_mut(&thread)? };
    let moved_at = leave(calls, stack_pointer(ctx.regs))?;
    calls.connection.pid = (thread >> 32) as u32;
    calls.piece.direction = direction;
    let usage = usage(&calls.connection.pid);
    if !usage.is_null() {
        // SAFETY: the entry's numbers are only ever added to, atomically.
        add_atomically(unsafe { &raw mut (*usage).calls }, 1);
    }
    match outcome.judge(ctx.ret(), calls, moved_at) {
        Came::Through => look_at(calls, usage),
        Came::ToTheEnd if direction == direction::RECEIVED && calls.moved > 0 => look_at_end(calls),
        _ => look_at_nothing(calls),
    }
    Some(0)
}

/// Looks at the bytes that a call on standard input or output has moved.
#[inline(always)]
pub fn leave_as(ctx: &RetProbeContext, direction: u8) -> Option<u32> {
    let thread = bpf_get_current_pid_tgid();
    // SAFETY: only this thread uses the entry.
    let calls = unsafe { &mut *TLS_CALLS.get_ptr_mut(&thread)? };
    let moved_at = leave(calls, stack_pointer(ctx.regs))?;
    calls.connection.pid = (thread >> 32) as u32;
    calls.piece.direction = direction;
    // One thread may read while another writes.
    calls.is_shared = 1;
    match Outcome::Length.judge(ctx.ret(), calls, moved_at) {
        Came::Through if moved_at == VECTORS => look_at_vectors(calls),
        Came::Through => look_at(calls, ptr::null_mut()),
        Came::ToTheEnd if direction == direction::RECEIVED && calls.moved > 0 => look_at_end(calls),
        Came::ToTheEnd | Came::ToNothing => {}
    }
    Some(0)
}

/// The same where they were in several places. What is in more of them than are read is missing from the stream.
#[inline(always)]
fn look_at_vectors(calls: &mut Calls) {
    let (vectors, mut left) = (calls.buffer, calls.moved);
    for at in 0..MOST_VECTORS {
        let vector = vectors.wrapping_add(at * VECTOR_BYTES);
        calls.buffer = word_at(vector);
        calls.moved = word_at(vector.wrapping_add(8)).min(left);
        left -= calls.moved;
        look_at(calls, ptr::null_mut());
        if left == 0 {
            return;
        }
    }
    // SAFETY: as in `look_at`.
    if let Some(connection) = unsafe { connection(&calls.connection) } {
        connection.stream.offsets[usize::from(calls.piece.direction & 1)] += left;
    }
}

/// Finds the call that returns, by where the stack pointer is after it, and takes it out. Gives where the call has stored
/// its length; `moved` is what was asked for.
#[inline(always)]
fn leave(calls: &mut Calls, stack_pointer: u64) -> Option<u64> {
    for _ in 0..DEPTH {
        let call = calls.innermost()?;
        let (ssl, buffer, asked_for, moved_at) = (call.ssl, call.buffer, call.asked_for, call.moved_at);
        let began_ns = call.began_ns;
        let above = stack_pointer.wrapping_sub(call.stack_pointer);
        if above > u64::MAX / 2 {
            // The innermost call lasts: this one was seen to return before.
            return None;
        }
        calls.depth -= 1;
        if above <= RETURN_ADDRESS_BYTES {
            calls.connection.ssl = ssl;
            calls.buffer = buffer;
            calls.moved = asked_for;
            calls.began_ns = began_ns;
            calls.is_shared = 0;
            return Some(moved_at);
        }
    }
    None
}

impl Outcome {
    /// What the call has come to; `moved` is how many bytes it has moved if it came through.
    #[inline(always)]
    fn judge(self, returned: i32, calls: &mut Calls, moved_at: u64) -> Came {
        match self {
            Self::Length if returned > 0 => {
                calls.moved = returned as u64;
                Came::Through
            }
            Self::Success | Self::SuccessOrEnd if returned == 1 => {
                // SAFETY: the helper checks the address; the destination is a field of the entry.
                let copied = unsafe { bpf_probe_read_user((&raw mut calls.moved).cast(), 8, moved_at as *const _) };
                if copied == 0 {
                    return Came::Through;
                }
                emit::count(counter::READ_FAULT, 1);
                Came::ToNothing
            }
            Self::Length | Self::SuccessOrEnd if returned == 0 => Came::ToTheEnd,
            _ => Came::ToNothing,
        }
    }
}

/// The process's own count of calls, new if it has none; null where there is no room for it.
#[inline(always)]
fn usage(pid: &u32) -> *mut Use {
    let found = TLS_USERS.get_ptr_mut(pid).or_else(|| {
        // Failure means that another thread has been quicker, or that there is no room: then there is nothing to find.
        let _ = TLS_USERS.insert(pid, &Use { calls: 0, model_messages: 0 }, 0);
        TLS_USERS.get_ptr_mut(pid)
    });
    found.unwrap_or(ptr::null_mut())
}

/// Looks at bytes that a call has moved of which nothing was remembered.
#[inline(always)]
pub fn look_at_moved(direction: u8, ssl: u64, buffer: u64, moved: u64) -> Option<()> {
    let thread = bpf_get_current_pid_tgid();
    let calls = calls(thread)?;
    calls.connection.pid = (thread >> 32) as u32;
    calls.connection.ssl = ssl;
    calls.buffer = buffer;
    calls.moved = moved;
    calls.began_ns = 0;
    calls.is_shared = 1;
    calls.piece.direction = direction;
    let usage = usage(&calls.connection.pid);
    if !usage.is_null() {
        // SAFETY: as in `try_leave`.
        add_atomically(unsafe { &raw mut (*usage).calls }, 1);
    }
    look_at(calls, usage);
    Some(())
}

#[inline(never)]
fn look_at(calls: &mut Calls, usage: *mut Use) {
    if calls.moved == 0 {
        return;
    }
    // SAFETY: a connection is used by one call at a time; OpenSSL asks that of its callers. Go and GnuTLS let one read while
    // another writes: see `crate::go`.
    let Some(connection) = (unsafe { connection(&calls.connection) }) else { return };
    let moved = calls.moved.min(LARGEST_CALL);
    let piece = &mut calls.piece;
    let offset = &mut connection.stream.offsets[usize::from(piece.direction & 1)];
    // SAFETY: a helper without arguments.
    piece.renew(unsafe { bpf_ktime_get_ns() }, *offset, moved as u32);
    if calls.began_ns != 0 {
        piece.written_ns = piece.timestamp_ns;
        piece.timestamp_ns = calls.began_ns;
    }
    *offset += moved;
    let source = UserBuffer(calls.buffer);
    if connection.gathered.len > 0 && connection.gathered.direction != piece.direction {
        hand_out_gathered(connection);
    }
    flow::decide(source, &mut connection.stream, piece);
    if !usage.is_null() {
        count_message(&mut connection.stream, usage);
    }
    if calls.is_shared != 0 || !gather(source, connection, piece) {
        hand_out_gathered(connection);
        flow::hand_out(source, &mut connection.stream, piece);
    }
}

/// Counts the message under way if it is a model call and was not counted.
#[inline(always)]
fn count_message(stream: &mut Stream, usage: *mut Use) {
    if stream.flow.mode == flow::CAPTURE && stream.counted != stream.flow.message {
        stream.counted = stream.flow.message;
        // SAFETY: as in `try_leave`.
        add_atomically(unsafe { &raw mut (*usage).model_messages }, 1);
    }
}

/// Keeps a small piece until more has come; whether it is one.
#[inline(always)]
fn gather(source: UserBuffer, connection: &mut Connection, piece: &Piece) -> bool {
    let gathered = &mut connection.gathered;
    let len = piece.len;
    let is_small = len <= SMALL_BYTES && piece.whole == len && piece.tail == 0 && piece.held == 0;
    let continues = gathered.len == 0 || gathered.flags == piece.flags;
    if !is_small || !continues || piece.flags & flags::BEGIN != 0 || gathered.len >= MOST_GATHERED {
        return false;
    }
    let held = gathered.len;
    // SAFETY: `held` is less than HEAD_BYTES, and behind it is room for as much again.
    let place = unsafe { connection.stream.head.as_mut_ptr().add(GATHERED_AT + masked::<HEAD_BYTES>(held) as usize) };
    if !source.read(piece, 0, place, bounded::<{ SMALL_BYTES as usize }>(len)) {
        return false;
    }
    if held == 0 {
        gathered.offset = piece.offset;
        gathered.direction = piece.direction;
        gathered.flags = piece.flags;
    }
    gathered.timestamp_ns = piece.timestamp_ns;
    gathered.len = held + len;
    // SAFETY: as above; the piece is not empty.
    let last = unsafe { *place.add(masked::<{ SMALL_BYTES as usize }>(len - 1) as usize) };
    // A line's end, or one of a document's: after it there may be nothing more to come.
    if matches!(last, b'\n' | b'}' | b']') || gathered.len >= MOST_GATHERED {
        hand_out_gathered(connection);
    }
    true
}

/// Emits the small pieces that have been kept, stamped with the time of the last.
#[inline(never)]
fn hand_out_gathered(connection: &mut Connection) {
    let gathered = &mut connection.gathered;
    if gathered.len == 0 {
        return;
    }
    gathered.held = gathered.len;
    gathered.len = 0;
    let bytes = Held(connection.stream.head.as_ptr().wrapping_add(GATHERED_AT));
    emit::emit_held(bytes, &mut connection.stream, gathered);
}

/// The call has moved nothing: nothing more is there now.
#[inline(always)]
fn look_at_nothing(calls: &mut Calls) {
    if calls.piece.direction != direction::RECEIVED {
        return;
    }
    // SAFETY: as in `look_at`.
    let Some(connection) = TLS_FLOWS.get_ptr_mut(&calls.connection).map(|found| unsafe { &mut *found }) else { return };
    hand_out_gathered(connection);
}

/// The peer has ended its stream.
#[inline(never)]
fn look_at_end(calls: &mut Calls) {
    // SAFETY: as in `look_at`.
    let Some(connection) = TLS_FLOWS.get_ptr_mut(&calls.connection).map(|found| unsafe { &mut *found }) else { return };
    hand_out_gathered(connection);
    let stream = &mut connection.stream;
    if stream.flow.mode != flow::CAPTURE {
        return;
    }
    let offset = stream.offsets[usize::from(direction::RECEIVED)];
    emit::emit_end(UserBuffer(0), stream, flags::FIN | flags::CAPTURE, direction::RECEIVED, offset);
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
    let flow = &mut new.stream.flow;
    flow.key = FlowKey { handle: key.ssl, generation, pid: key.pid, source: source::TLS.into() };
    if key.ssl == STDIO_HANDLE {
        // Who it is has been looked at already.
        flow.key.source = source::STDIO.into();
        flow.mode = flow::CAPTURE;
        flow.marks = flow::WHOLE;
    }
    Some(new)
}

/// The connection has ended, or its pointer means another one from now on.
#[inline(always)]
pub fn forget(ssl: u64) {
    let key = ConnectionKey { ssl, pid: (bpf_get_current_pid_tgid() >> 32) as u32, zero: 0 };
    let Some(connection) = TLS_FLOWS.get_ptr_mut(&key) else { return };
    // SAFETY: as in `look_at`.
    let connection = unsafe { &mut *connection };
    hand_out_gathered(connection);
    let stream = &mut connection.stream;
    if stream.flow.marks & flow::LOST != 0 {
        tell_ends(stream);
    }
    if stream.flow.marks & flow::EMITTED != 0 {
        emit::emit_close(UserBuffer(0), stream);
    }
    // Failure means that the entry is gone already.
    let _ = TLS_FLOWS.remove(&key);
}

/// Tells where both directions have come to: what was lost last, nothing that follows would show. (A socket's FIN does.)
#[inline(never)]
fn tell_ends(stream: &mut Stream) {
    let [sent, received] = stream.offsets;
    emit::emit_end(UserBuffer(0), stream, flags::CAPTURE, direction::SENT, sent);
    emit::emit_end(UserBuffer(0), stream, flags::CAPTURE, direction::RECEIVED, received);
}

/// Memory of the process that makes the call.
#[derive(Clone, Copy)]
struct UserBuffer(u64);

/// The bytes that a connection has held back.
#[derive(Clone, Copy)]
struct Held(*const u8);

impl State for Stream {
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
    type State = Stream;
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
    fn held(state: &mut Stream) -> Held {
        Held(state.head())
    }

    #[inline(always)]
    fn describe(self, state: &mut Stream, header: &mut RecordHeader) {
        describe(state, header);
    }
}

impl Source for Held {
    type State = Stream;
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
    fn held(state: &mut Stream) -> Held {
        Held(state.head())
    }

    #[inline(always)]
    fn describe(self, state: &mut Stream, header: &mut RecordHeader) {
        describe(state, header);
    }
}

#[inline(always)]
fn describe(state: &Stream, header: &mut RecordHeader) {
    header.pid = state.flow.key.pid;
    header.address_family = 0;
    header.local_port = 0;
    header.remote_port = 0;
    header.local_address = [0; 16];
    header.remote_address = [0; 16];
    emit::write_comm(&mut header.comm);
}
