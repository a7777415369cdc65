//! Plaintext at the AEAD functions of aws-lc, by which rustls seals and opens its records.
//!
//! rustls' own functions have no names that stay; the library below it is in C. Its functions are given the header of each
//! record as data that is to be authenticated, so records are told from whatever else a program encrypts: by their type,
//! their version, and a length that must be the plaintext's (RFC 8446, 5.2; RFC 5246, 6.2.3.3).
//!
//! A connection has a context for each direction, and others after its handshake. Nothing in them says which belong together,
//! but rustls makes them in an order that does:
//!
//! - one that opens is made, and directly behind it, by the same thread, one that seals: so begin clients, and all of TLS 1.2. A
//!   server of TLS 1.3 makes one that seals before, which it gives up before any data of the application;
//! - one that takes the place of another is made, and directly behind it, by the same thread, the other is freed.
//!
//! What comes otherwise, as the contexts of a connection that is older than the probes, is told by the wire ([`crate::wire`]): both
//! directions' ciphertext is seen at one socket. Until then the records that pass are counted as not read. Nothing is guessed.

use aya_ebpf::{
    helpers::{bpf_get_current_pid_tgid, bpf_get_smp_processor_id, bpf_ktime_get_ns, generated::bpf_probe_read_user},
    macros::{uprobe, uretprobe},
    programs::{ProbeContext, RetProbeContext},
};
use hbpf_ebpf::{counter, direction};

use crate::{
    emit,
    maps::{AEAD_CONTEXTS, AEAD_RECEIVED, AEAD_SENT, AEAD_SOCKETS, AEAD_THREADS},
    tls, wire,
};

/// `enum evp_aead_direction_t`: what a context can do.
const OPENS: u32 = 0;
const SEALS: u32 = 1;
/// It can do both.
const EITHER: u32 = 2;

/// What is made longer after another does not belong to it: rustls makes both within microseconds, but its thread may have to wait
/// for a CPU in between.
const TOGETHER_NS: u64 = 100_000_000;

/// Records of a context for which its other direction is looked for, at the most: packets are looked at meanwhile.
const MOST_SOUGHT: u32 = 1000;

/// The type of records with data of the application, and its length (RFC 8446, 5.1).
const APPLICATION_DATA: u8 = 23;
pub const HEADER_BYTES: u32 = 5;
/// What such records begin with: the version is what they have said since TLS 1.2.
pub const BEGINNING: [u8; 3] = [APPLICATION_DATA, 3, 3];

/// Where a record's true type is: in its header, as in TLS 1.2, or the last byte of what is sealed.
const OUTER: u64 = 1;
const INNER: u64 = 2;

/// In TLS 1.2 a number precedes the header in what is authenticated.
const NUMBER_BYTES: u64 = 8;

/// What every algorithm that TLS uses adds to the plaintext.
const TAG_BYTES: u64 = 16;

/// How many of a function's arguments are in registers, and what is on the stack before the others.
const CONVENTION: (usize, u64) = match env!("AYA_BPF_TARGET_ARCH").as_bytes() {
    b"x86_64" => (6, 8),
    b"aarch64" => (8, 0),
    _ => panic!("no such architecture"),
};

/// One `EVP_AEAD_CTX *` of one process.
#[repr(C)]
pub struct ContextKey {
    context: u64,
    pid: u32,
    zero: u32,
}

/// What is remembered of it.
#[repr(C)]
pub struct Context {
    /// Names the connection. Never used again for another one, as an address would be.
    connection: u64,
    algorithm: u64,
    direction: u32,
    /// The connection's other direction is known.
    is_paired: u32,
    /// For how many records that was looked for.
    sought: u32,
    zero: u32,
}

/// The context that seals what a socket sends, as it was called then.
#[repr(C)]
pub struct Sealer {
    key: ContextKey,
    connection: u64,
}

/// What a thread has done, and does.
#[repr(C)]
pub struct Thread {
    /// The context that it has made last, unless it has freed one since; else 0. With the name that it had then, and when.
    latest: u64,
    latest_connection: u64,
    latest_ns: u64,
    opening: Opening,
    sealing: Sealing,
}

/// A record that is being opened; none where its length is 0.
#[repr(C)]
struct Opening {
    context: u64,
    plaintext: u64,
    len: u64,
    /// [`OUTER`] or [`INNER`].
    version: u64,
}

/// A call that seals; none where the context is 0.
#[repr(C)]
struct Sealing {
    context: u64,
    /// No two calls that a thread is in at a time have the same.
    stack_pointer: u64,
    /// Where the ciphertext of a record will be, if the context is alone; else 0.
    ciphertext: u64,
}

/// Templates to insert, as in [`tls`].
static NEW_CONTEXT: Context = Context { connection: 0, algorithm: 0, direction: 0, is_paired: 0, sought: 0, zero: 0 };
static NEW_THREAD: Thread = Thread {
    latest: 0,
    latest_connection: 0,
    latest_ns: 0,
    opening: Opening { context: 0, plaintext: 0, len: 0, version: 0 },
    sealing: Sealing { context: 0, stack_pointer: 0, ciphertext: 0 },
};

/// `int EVP_AEAD_CTX_init(EVP_AEAD_CTX *ctx, const EVP_AEAD *aead, const uint8_t *key, size_t key_len, size_t tag_len,
/// ENGINE *impl)`. It may call the next.
#[uprobe]
pub fn aead_init(ctx: ProbeContext) -> u32 {
    made(argument(&ctx, 0), argument(&ctx, 1), EITHER)
}

/// `int EVP_AEAD_CTX_init_with_direction(EVP_AEAD_CTX *ctx, const EVP_AEAD *aead, const uint8_t *key, size_t key_len,
/// size_t tag_len, enum evp_aead_direction_t dir)`
#[uprobe]
pub fn aead_init_with_direction(ctx: ProbeContext) -> u32 {
    made(argument(&ctx, 0), argument(&ctx, 1), argument(&ctx, 5) as u32)
}

/// `void EVP_AEAD_CTX_cleanup(EVP_AEAD_CTX *ctx)`, `void EVP_AEAD_CTX_free(EVP_AEAD_CTX *ctx)`. One may call the other.
#[uprobe]
pub fn aead_cleanup(ctx: ProbeContext) -> u32 {
    freed(argument(&ctx, 0))
}

/// `int EVP_AEAD_CTX_seal(const EVP_AEAD_CTX *ctx, uint8_t *out, size_t *out_len, size_t max_out_len, const uint8_t *nonce,
/// size_t nonce_len, const uint8_t *in, size_t in_len, const uint8_t *ad, size_t ad_len)`
#[uprobe]
pub fn aead_seal(ctx: ProbeContext) -> u32 {
    seals(&ctx, 6, 8).unwrap_or_default()
}

/// `int EVP_AEAD_CTX_seal_scatter(const EVP_AEAD_CTX *ctx, uint8_t *out, uint8_t *out_tag, size_t *out_tag_len, size_t
/// max_out_tag_len, const uint8_t *nonce, size_t nonce_len, const uint8_t *in, size_t in_len, const uint8_t *extra_in, size_t
/// extra_in_len, const uint8_t *ad, size_t ad_len)`. rustls has nothing extra.
#[uprobe]
pub fn aead_seal_scatter(ctx: ProbeContext) -> u32 {
    seals(&ctx, 7, 11).unwrap_or_default()
}

/// Return of both: 1 for success.
#[uretprobe]
pub fn aead_seal_return(ctx: RetProbeContext) -> u32 {
    let returned: i32 = ctx.ret();
    sealed((returned == 1).into())
}

/// `int EVP_AEAD_CTX_open(const EVP_AEAD_CTX *ctx, uint8_t *out, size_t *out_len, size_t max_out_len, const uint8_t *nonce,
/// size_t nonce_len, const uint8_t *in, size_t in_len, const uint8_t *ad, size_t ad_len)`. It may call the next.
#[uprobe]
pub fn aead_open(ctx: ProbeContext) -> u32 {
    opens(&ctx, 6, argument(&ctx, 7).wrapping_sub(TAG_BYTES)).unwrap_or_default()
}

/// `int EVP_AEAD_CTX_open_gather(const EVP_AEAD_CTX *ctx, uint8_t *out, const uint8_t *nonce, size_t nonce_len, const uint8_t
/// *in, size_t in_len, const uint8_t *in_tag, size_t in_tag_len, const uint8_t *ad, size_t ad_len)`
#[uprobe]
pub fn aead_open_gather(ctx: ProbeContext) -> u32 {
    opens(&ctx, 4, argument(&ctx, 5)).unwrap_or_default()
}

/// Return of both: 1 for success.
#[uretprobe]
pub fn aead_open_return(ctx: RetProbeContext) -> u32 {
    let returned: i32 = ctx.ret();
    opened(returned == 1).unwrap_or_default()
}

/// An argument of the function that is called, by its number.
#[inline(always)]
fn argument(ctx: &ProbeContext, number: usize) -> u64 {
    if number < CONVENTION.0 {
        return ctx.arg(number).unwrap_or_default();
    }
    let place = (number - CONVENTION.0) * size_of::<u64>();
    tls::word_at(tls::stack_pointer(ctx.regs) + CONVENTION.1 + place as u64)
}

/// What is remembered of this thread, new if that is nothing.
#[inline(always)]
fn thread<'a>() -> Option<&'a mut Thread> {
    let id = bpf_get_current_pid_tgid();
    if AEAD_THREADS.get_ptr_mut(&id).is_none() && AEAD_THREADS.insert(&id, &NEW_THREAD, 0).is_err() {
        emit::count(counter::MAP_FULL, 1);
    }
    // SAFETY: only this thread uses the entry.
    Some(unsafe { &mut *AEAD_THREADS.get_ptr_mut(&id)? })
}

/// This process's context at an address.
#[inline(always)]
fn key(context: u64) -> ContextKey {
    ContextKey { context, pid: (bpf_get_current_pid_tgid() >> 32) as u32, zero: 0 }
}

/// What is remembered of a context.
#[inline(always)]
fn known<'a>(key: &ContextKey) -> Option<&'a mut Context> {
    // SAFETY: a context is used by one thread at a time; what else looks at it compares its name.
    AEAD_CONTEXTS.get_ptr_mut(key).map(|found| unsafe { &mut *found })
}

/// What will be remembered of a context of which nothing is, or nothing that holds.
#[inline(always)]
fn renewed<'a>(key: &ContextKey) -> Option<&'a mut Context> {
    if AEAD_CONTEXTS.insert(key, &NEW_CONTEXT, 0).is_err() {
        emit::count(counter::MAP_FULL, 1);
    }
    known(key)
}

/// A name for a connection that no other has: no two are given on one CPU at one time.
#[inline(always)]
fn unique() -> u64 {
    // SAFETY: helpers without arguments.
    unsafe { bpf_ktime_get_ns() << 8 ^ u64::from(bpf_get_smp_processor_id()) }
}

/// A context is made: one that seals belongs to what opens and was made just before.
#[inline(never)]
fn made(context: u64, algorithm: u64, direction: u32) -> u32 {
    let Some(thread) = thread() else { return 0 };
    let latest = thread.latest;
    let mut key = key(latest);
    let other = known(&key).filter(|other| latest != 0 && other.connection == thread.latest_connection);
    if latest == context && other.is_some() {
        // By a function that was seen to be called for it, or by two probes at one place.
        return 0;
    }
    // SAFETY: a helper without arguments.
    let now = unsafe { bpf_ktime_get_ns() };
    let (mut connection, mut is_paired) = (unique(), 0);
    if let Some(other) = other
        && other.is_paired == 0
        && now.wrapping_sub(thread.latest_ns) < TOGETHER_NS
    {
        // Of TLS 1.2 rustls has each direction by another algorithm.
        let are_two = other.direction == OPENS && direction == SEALS;
        if are_two || other.direction & direction == EITHER && other.algorithm == algorithm {
            (connection, is_paired) = (other.connection, 1);
            other.is_paired = 1;
        }
    }
    key.context = context;
    thread.latest = context;
    thread.latest_connection = connection;
    thread.latest_ns = now;
    if let Some(new) = renewed(&key) {
        (new.connection, new.algorithm) = (connection, algorithm);
        (new.direction, new.is_paired) = (direction, is_paired);
    }
    0
}

/// A context is freed: its connection goes on with the one that was made directly before, or is over.
#[inline(never)]
fn freed(context: u64) -> u32 {
    let Some(thread) = thread() else { return 0 };
    let latest = core::mem::take(&mut thread.latest);
    let mut key = key(context);
    let Some(old) = known(&key) else { return 0 };
    let (connection, algorithm, direction) = (old.connection, old.algorithm, old.direction);
    let is_paired = old.is_paired;
    // Failure means that the entry is gone already.
    let _ = AEAD_CONTEXTS.remove(&key);
    key.context = latest;
    if latest != 0
        && latest != context
        && let Some(new) = known(&key)
        && new.connection == thread.latest_connection
        && new.is_paired == 0
        && new.algorithm == algorithm
        && (new.direction == direction || (new.direction | direction) & EITHER != 0)
    {
        (new.connection, new.is_paired) = (connection, is_paired);
    } else if is_paired != 0 {
        tls::forget(connection);
    }
    0
}

/// Looks at what is about to be sealed, if it is a record. `input` and `header` are the numbers of the arguments.
#[inline(always)]
fn seals(ctx: &ProbeContext, input: usize, header: usize) -> Option<u32> {
    let (context, stack_pointer) = (argument(ctx, 0), tls::stack_pointer(ctx.regs));
    let thread = thread()?;
    if thread.sealing.context == context && thread.sealing.stack_pointer == stack_pointer {
        // A second probe at the same place.
        return None;
    }
    thread.sealing.context = context;
    thread.sealing.stack_pointer = stack_pointer;
    thread.sealing.ciphertext = 0;
    let (plaintext, len) = (argument(ctx, input), argument(ctx, input + 1));
    let version = record(argument(ctx, header), argument(ctx, header + 1), len);
    let len = content(context, plaintext, len, version);
    if len == 0 {
        return None;
    }
    let connection = connection(context, SEALS);
    if connection == 0 {
        thread.sealing.ciphertext = argument(ctx, 1);
        return None;
    }
    tls::look_at_moved(direction::SENT, connection, plaintext, len);
    None
}

/// Remembers whose ciphertext that is which will be seen on the wire.
#[inline(never)]
fn sealed(has_succeeded: u32) -> u32 {
    // SAFETY: only this thread uses the entry.
    let Some(thread) = AEAD_THREADS.get_ptr_mut(&bpf_get_current_pid_tgid()).map(|thread| unsafe { &mut *thread })
    else {
        return 0;
    };
    let context = core::mem::take(&mut thread.sealing.context);
    if context == 0 || thread.sealing.ciphertext == 0 || has_succeeded == 0 {
        return 0;
    }
    let mut sealer = Sealer { key: key(context), connection: 0 };
    let Some(found) = known(&sealer.key) else { return 0 };
    sealer.connection = found.connection;
    let first = tls::word_at(thread.sealing.ciphertext);
    // Failure means that there are too many: another record will tell.
    let _ = AEAD_SENT.insert(&first, &sealer, 0);
    0
}

/// Remembers what is about to be opened, if it is a record. `input` is the number of an argument.
#[inline(always)]
fn opens(ctx: &ProbeContext, input: usize, len: u64) -> Option<u32> {
    let thread = thread()?;
    thread.opening.len = 0;
    let version = record(argument(ctx, 8), argument(ctx, 9), len);
    if version == 0 {
        return None;
    }
    let context = argument(ctx, 0);
    find_pair(context, argument(ctx, input));
    thread.opening.context = context;
    thread.opening.plaintext = argument(ctx, 1);
    thread.opening.len = len;
    thread.opening.version = version;
    None
}

/// Looks at what was opened.
#[inline(always)]
fn opened(has_succeeded: bool) -> Option<u32> {
    // SAFETY: only this thread uses the entry.
    let Some(thread) = AEAD_THREADS.get_ptr_mut(&bpf_get_current_pid_tgid()).map(|thread| unsafe { &mut *thread })
    else {
        // It began before there were probes, or too many threads do the same.
        emit::count(counter::READ_FAULT, 1);
        return None;
    };
    let len = core::mem::take(&mut thread.opening.len);
    if len == 0 || !has_succeeded {
        return None;
    }
    let (context, plaintext) = (thread.opening.context, thread.opening.plaintext);
    let len = content(context, plaintext, len, thread.opening.version);
    if len == 0 {
        return None;
    }
    let connection = connection(context, OPENS);
    if connection != 0 {
        tls::look_at_moved(direction::RECEIVED, connection, plaintext, len);
    }
    None
}

/// Looks whether this ciphertext, which the context is about to open, has come to a socket of which it is known whose ciphertext it
/// sends.
#[inline(never)]
fn find_pair(context: u64, ciphertext: u64) -> u32 {
    let key = key(context);
    if known(&key).is_some_and(|found| found.is_paired != 0) {
        return 0;
    }
    let first = tls::word_at(ciphertext);
    // SAFETY: what is replaced while it is read is about another record, and found out by the next.
    let Some(sealer) = (unsafe { AEAD_RECEIVED.get(&first).and_then(|cookie| AEAD_SOCKETS.get(cookie)) }) else {
        return 0;
    };
    if sealer.key.pid != key.pid {
        return 0;
    }
    let Some(other) = known(&sealer.key) else { return 0 };
    if other.connection != sealer.connection || other.is_paired != 0 || other.direction == OPENS {
        return 0;
    }
    other.is_paired = 1;
    let (connection, algorithm) = (other.connection, other.algorithm);
    if let Some(new) = renewed(&key) {
        (new.connection, new.algorithm) = (connection, algorithm);
        (new.direction, new.is_paired) = (OPENS, 1);
    }
    0
}

/// How the record with this header has its true type: 0 if it is no record, or one of another type. `len` is how much is
/// encrypted.
#[inline(never)]
fn record(authenticated: u64, authenticated_len: u64, len: u64) -> u64 {
    let (at, told, version) = if authenticated_len == u64::from(HEADER_BYTES) {
        (authenticated, len.wrapping_add(TAG_BYTES), INNER)
    } else if authenticated_len == NUMBER_BYTES + u64::from(HEADER_BYTES) {
        (authenticated.wrapping_add(NUMBER_BYTES), len, OUTER)
    } else {
        return 0;
    };
    let mut header = [0_u8; 8];
    // SAFETY: the helper checks the address; the destination is longer than that.
    if unsafe { bpf_probe_read_user(header.as_mut_ptr().cast(), HEADER_BYTES, at as *const _) } != 0 {
        return 0;
    }
    let [kind, major, minor, high, low, ..] = header;
    let is_it = [kind, major, minor] == BEGINNING && u64::from(u16::from_be_bytes([high, low])) == told && len > 0;
    if is_it { version } else { 0 }
}

/// How much of a record's plaintext is data of the application; 0 for none.
#[inline(never)]
fn content(context: u64, plaintext: u64, len: u64, version: u64) -> u64 {
    if version == OUTER {
        return len;
    }
    if version != INNER {
        return 0;
    }
    let mut kind = 0_u8;
    let at = plaintext.wrapping_add(len).wrapping_sub(1);
    // SAFETY: the helper checks the address; the destination is as long.
    let read = unsafe { bpf_probe_read_user((&raw mut kind).cast(), 1, at as *const _) };
    if kind == APPLICATION_DATA {
        return len.wrapping_sub(1);
    }
    if read != 0 || kind == 0 {
        // What ends in zeros is padded, which nobody is known to do. Nothing may follow it as if it had not been.
        emit::count(counter::READ_FAULT, 1);
        if let Some(found) = known(&key(context)) {
            tls::forget(found.connection);
        }
    }
    0
}

/// The connection of a context, where both directions are known; else 0, and they are looked for.
#[inline(never)]
fn connection(context: u64, direction: u32) -> u64 {
    let key = key(context);
    if let Some(found) = known(&key) {
        if found.is_paired != 0 {
            return found.connection;
        }
        found.sought = found.sought.saturating_add(1);
        if found.sought < MOST_SOUGHT {
            wire::seek();
        }
    } else if let Some(new) = renewed(&key) {
        // `EVP_AEAD_CTX` begins with its algorithm.
        (new.connection, new.algorithm) = (unique(), tls::word_at(context));
        new.direction = direction;
        wire::seek();
    }
    emit::count(counter::READ_FAULT, 1);
    0
}
