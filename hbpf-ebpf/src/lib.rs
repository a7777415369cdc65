//! The ABI between the eBPF programs and user space.
//!
//! Every type here is inert: `repr(C)`, fixed-width integers, explicit padding, no enums with data. User space reads
//! the integers and converts them with `TryFrom`; it never transmutes bytes into an enum.
//!
//! A *flow* is one direction-pair of plaintext bytes at one endpoint: an OpenSSL connection object in one process
//! ([`source::TLS`]), one TCP socket ([`source::TCP`]), or the standard input and output of a process that may serve tools
//! ([`source::STDIO`]), which is captured as a whole. The programs look for the beginning of a client's message on each flow. What begins like a model call is captured from its first byte; of any other beginning at most
//! [`BEGINNING_BYTES`] leave the kernel, and user space answers with a [`Verdict`].
#![cfg_attr(target_arch = "bpf", no_std)]

pub mod huffman;

/// Bytes of a message that no pattern recognised which may leave the kernel for user space to judge.
pub const BEGINNING_BYTES: u32 = 1024;

/// Bytes of a TLS ClientHello that are copied. It has some 500, or 1,700 with a key for an exchange that is safe from quantum
/// computers.
pub const HELLO_BYTES: u32 = 2048;

/// Bytes of a request message that are copied whole before thinning starts: only the tail of each later piece is copied.
///
/// SDKs write `model` and `stream` before or after the prompt, never amid it, so head and tail are enough.
pub const REQUEST_HEAD_BYTES: u32 = 16 * 1024;

/// Bytes copied from the end of a piece that is not copied whole.
pub const TAIL_BYTES: u32 = 4096;

/// Bytes of a compressed request that are copied whole: it cannot be thinned, since no later byte decodes without it.
pub const COMPRESSED_REQUEST_BYTES: u32 = 1024 * 1024;

/// The longest prefix of a message that is kept per flow to find its request-target in.
pub const HEAD_BYTES: usize = 256;

/// Payload sizes of the record classes, ascending. A record takes the smallest class that holds its bytes, so that at most half
/// of it is empty: an event of a stream is a few hundred bytes, a short answer some thousand.
pub const RECORD_CLASSES: [usize; 7] = [256, 512, 1024, 2048, 4096, 8192, LARGEST_RECORD];

/// The largest of [`RECORD_CLASSES`].
pub const LARGEST_RECORD: usize = 16384;

/// Size of the ring of [`RecordHeader`] records, in bytes.
pub const EVENTS_RING_BYTES: u32 = 8 * 1024 * 1024;

/// When so many bytes of the `EVENTS` ring are full, its reader is woken by the `BELL` ring, whatever it waits for: what
/// fills the ring within milliseconds is bulk, most of which a verdict keeps out, and room for it is short.
pub const EVENTS_URGENT_BYTES: u32 = EVENTS_RING_BYTES / 8;

/// Size of the ring whose only purpose is to wake, in bytes: the largest page there is.
pub const BELL_RING_BYTES: u32 = 64 * 1024;

/// Size of the ring of [`LifecycleEvent`] records, in bytes.
pub const LIFECYCLE_RING_BYTES: u32 = 256 * 1024;

/// Name of the variable that says where in a `struct sock` of the kernel its `sk_lock.owned` lies: `u32`, in bytes, that
/// user space writes before it loads. 0: a program at a packet may not look there, or not ask which process is running, as
/// it may since Linux 6.10.
pub const SOCKET_OWNED_AT: &str = "SOCKET_OWNED_AT";

/// Name of the variable that says where in a `struct task_struct` its `tgid` lies, likewise: which process opens a device
/// is not told to programs there before Linux 6.10 in another way. 0: not known.
pub const TASK_TGID_AT: &str = "TASK_TGID_AT";

/// Set in the `handle` of a TCP flow that began before its connection was accepted, where there is no socket yet whose
/// cookie it could be. No cookie is that large.
pub const DEFERRED_HANDLE: u64 = 1 << 63;

/// The `handle` of standard input and output. No connection object lies there.
pub const STDIO_HANDLE: u64 = 1;

/// Descriptors that are looked at for [`source::STDIO`] at a time: a few hundred servers.
pub const STDIO_DESCRIPTORS: u32 = 1024;

/// Where a record's bytes were seen: values of [`RecordHeader::source`] and [`FlowKey::source`].
pub mod source {
    /// Plaintext at an OpenSSL call. `handle` is the `SSL *`, `offset` counts from the first byte seen.
    pub const TLS: u8 = 1;
    /// What a server reads from its standard input and writes to its standard output. `handle` is
    /// [`STDIO_HANDLE`](super::STDIO_HANDLE), `offset` counts from the first byte seen.
    pub const STDIO: u8 = 3;
    /// TCP payload at `cgroup_skb`. `handle` is the socket cookie or has
    /// [`DEFERRED_HANDLE`](super::DEFERRED_HANDLE) set, `offset` is the TCP sequence number (32 bits).
    pub const TCP: u8 = 2;
}

/// Values of [`RecordHeader::direction`].
pub mod direction {
    /// Written by the process that owns the flow.
    pub const SENT: u8 = 0;
    /// Read by the process that owns the flow.
    pub const RECEIVED: u8 = 1;
}

/// Values of [`RecordHeader::kind`].
pub mod kind {
    /// Stream bytes.
    pub const DATA: u8 = 1;
    /// The flow has ended: `SSL_free`, a re-used `SSL *`, or the socket was released.
    pub const CLOSE: u8 = 2;
    /// The connection that [`flags::LISTENER`](super::flags::LISTENER) records of this handle were about has been accepted.
    pub const ACCEPTED: u8 = 3;
    /// How a TLS connection over TCP is used that cannot be read: the payload is a [`SealedReport`](super::SealedReport). There
    /// is one for each answer that begins, when a direction ends, and while bytes pass one a second.
    pub const SEALED: u8 = 4;
}

/// Bits of [`RecordHeader::flags`].
pub mod flags {
    /// The first piece of a client's message (HTTP request, HTTP/2 preface or TLS ClientHello).
    pub const BEGIN: u16 = 1 << 0;
    /// Captured on a positive match; without it the record is a beginning that awaits a verdict.
    pub const CAPTURE: u16 = 1 << 1;
    /// The piece begins a TLS handshake; the rest of this flow cannot be read (see [`SEALED`](super::kind::SEALED)).
    pub const TLS_HELLO: u16 = 1 << 2;
    /// TCP: the segment carries FIN. TLS: the read returned end of stream.
    pub const FIN: u16 = 1 << 3;
    /// TCP: the segment carries RST.
    pub const RST: u16 = 1 << 4;
    /// TCP: seen at a listening socket, for a connection that is not accepted yet (see
    /// [`DEFERRED_HANDLE`](super::DEFERRED_HANDLE)). Anyone can send that: it counts for nothing before the
    /// [`ACCEPTED`](super::kind::ACCEPTED) record of its handle.
    pub const LISTENER: u16 = 1 << 5;
    /// TCP: `pid` is that of the process which created the *listener*, inherited by the accepted socket.
    pub const INHERITED_OWNER: u16 = 1 << 6;
    /// The bytes between the record before and this one were left out on purpose: this is the tail of a thinned piece.
    pub const THINNED: u16 = 1 << 7;
    /// Over the byte budget ([`limit`](super::limit)): the bytes between `captured_len` and `original_len` stayed in the
    /// kernel although they were wanted. What is known of them is when they passed, and how many they were.
    pub const TIMING_ONLY: u16 = 1 << 8;
    /// TCP: `pid` is that of the process which has closed the socket, since who else owns it is not known for certain.
    pub const CLOSER: u16 = 1 << 9;
    /// The payload is the last of the bytes that the record stands for, not the first: those before it are the gap.
    pub const LAST: u16 = 1 << 10;
    /// TCP: a request that comes in on a socket which more than one process has worked with. `pid` is the last that did; who
    /// answers is whose request it is.
    pub const PASSED_ON: u16 = 1 << 11;
}

/// One record of the `EVENTS` ring: this header, then `captured_len` bytes of payload (and unused space of its class).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordHeader {
    /// See [`kind`].
    pub kind: u8,
    /// See [`source`].
    pub source: u8,
    /// See [`direction`].
    pub direction: u8,
    /// 4 or 6 where addresses are known (TCP), else 0.
    pub address_family: u8,
    /// See [`flags`].
    pub flags: u16,
    /// TCP, host byte order; 0 where unknown.
    pub local_port: u16,
    /// TCP, host byte order; 0 where unknown.
    pub remote_port: u16,
    /// Zero.
    pub reserved: u16,
    /// Thread-group id in the initial PID namespace; 0 where unknown.
    pub pid: u32,
    /// `bpf_ktime_get_ns` (CLOCK_MONOTONIC) when the call returned or the segment passed.
    pub timestamp_ns: u64,
    /// `SSL *`, socket cookie, or a number of its own with [`DEFERRED_HANDLE`].
    pub handle: u64,
    /// Tells re-uses of one `SSL *` apart (time of first sight, nanoseconds); 0 for TCP.
    pub generation: u64,
    /// Stream offset of the first byte. See [`source`].
    pub offset: u64,
    /// Bytes of the stream, from `offset` on, that this record stands for; those beyond `captured_len` are a gap (or those
    /// before, see [`flags::LAST`]).
    pub original_len: u32,
    /// Bytes of payload that follow, at most the largest of [`RECORD_CLASSES`].
    pub captured_len: u32,
    /// How many client messages have begun on this flow. A verdict names the message that it judges.
    pub message: u32,
    /// TCP: the sequence number up to which the socket has received everything, when the segment passed; 0 where that is
    /// not known, and for TLS.
    pub ack: u32,
    /// Addresses as the socket has them; IPv4 in the first four bytes.
    pub local_address: [u8; 16],
    /// See `local_address`.
    pub remote_address: [u8; 16],
    /// `comm` of the thread (TLS) or of the socket's creator (TCP), NUL-padded.
    pub comm: [u8; 16],
}

/// Payload of a [`kind::SEALED`] record.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SealedReport {
    /// Bytes that the socket has sent so far, TLS's own included.
    pub sent: u64,
    /// Bytes that it has received before the segment with which the record was made.
    pub received: u64,
    /// An answer begins, to a request of which the last bytes passed then (`bpf_ktime_get_ns`); 0 where none does.
    pub asked_ns: u64,
}

/// Key of the `VERDICTS` map: one flow.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FlowKey {
    /// As [`RecordHeader::handle`].
    pub handle: u64,
    /// As [`RecordHeader::generation`].
    pub generation: u64,
    /// TLS and standard input and output: as [`RecordHeader::pid`], since one `SSL *` means different things in different
    /// processes. TCP: 0.
    pub pid: u32,
    /// As [`RecordHeader::source`], widened.
    pub source: u32,
}

/// Value of the `VERDICTS` map, written by user space and consulted while a flow awaits judgement or is captured.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// The message judged, as [`RecordHeader::message`]; a verdict about another message is void.
    pub message: u32,
    /// See [`action`].
    pub action: u32,
}

/// Values of [`Verdict::action`].
pub mod action {
    /// Not a model call: copy nothing more of this message and its answer. Of a TLS connection: tell nothing more.
    pub const IGNORE: u32 = 1;
    /// A model call: copy the rest. Of a TLS connection: go on telling how it is used.
    pub const CAPTURE: u32 = 2;
    /// A model call with a long plain body in its answer: of each further piece of the answer copy only the tail.
    pub const THIN_RESPONSE: u32 = 3;
    /// Never look at this flow again (upgraded to something that is not understood).
    pub const OPAQUE: u32 = 4;
    /// The flow carries model calls until its end, and is no longer made up of requests and answers in turns (upgraded to
    /// WebSocket): copy both directions, and look for no beginning of a message.
    pub const STREAM: u32 = 5;
}

/// Kinds of [`LifecycleEvent`].
pub mod lifecycle {
    /// A process has executed a new program.
    pub const EXEC: u32 = 1;
    /// The last thread of a process has ended.
    pub const EXIT: u32 = 2;
    /// A process has started another by `fork`; `pid` is the parent.
    pub const FORK: u32 = 3;
}

/// One record of the `LIFECYCLE` ring.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LifecycleEvent {
    /// See [`lifecycle`].
    pub kind: u32,
    /// Thread-group id in the initial PID namespace.
    pub pid: u32,
    /// `bpf_ktime_get_ns`.
    pub timestamp_ns: u64,
    /// `comm` at that moment, NUL-padded.
    pub comm: [u8; 16],
}

/// Indices of the `COUNTERS` per-CPU array of `u64`. They only grow.
pub mod counter {
    /// Data records submitted.
    pub const CHUNKS: u32 = 0;
    /// Payload bytes submitted.
    pub const BYTES: u32 = 1;
    /// Client messages judged not to be model calls.
    pub const MESSAGES_IGNORED: u32 = 2;
    /// Records that found the ring full.
    pub const RING_FULL_CHUNKS: u32 = 3;
    /// Stream bytes of those records.
    pub const RING_FULL_BYTES: u32 = 4;
    /// Reads of user memory or of a packet that failed.
    pub const READ_FAULT: u32 = 5;
    /// Flows or calls that found their map full.
    pub const MAP_FULL: u32 = 6;
    /// Stream bytes of captured messages left in the kernel on purpose (thinning).
    pub const THINNED_BYTES: u32 = 7;
    /// Pieces that were over the byte budget or longer than what may be copied of one, and so are known by their times and
    /// lengths only, in part or as a whole.
    pub const TIMING_ONLY_CHUNKS: u32 = 8;
    /// Stream bytes of those pieces that were wanted and not copied.
    pub const TIMING_ONLY_BYTES: u32 = 9;
    /// How many counters there are.
    pub const COUNT: u32 = 10;
}

/// Indices of the `LIMITS` array of `u64`, which user space writes at any time.
pub mod limit {
    /// Payload bytes that may be copied per second, over all flows; 0 for as many as come.
    pub const BYTES_PER_SECOND: u32 = 0;
    /// How many limits there are.
    pub const COUNT: u32 = 1;
}

/// Key of the `TALLIES` map: what is counted, of which process, and for times how long it took.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TallyKey {
    /// Thread-group id in the initial PID namespace. A kernel thread's own, where that is who asked; 0 where unknown.
    pub pid: u32,
    /// The device as the kernel counts them, `major << 20 | minor`; 0 where it is about none.
    pub device: u32,
    /// [`slot::of`] what it took, in nanoseconds; 0 where nothing was timed.
    pub slot: u16,
    /// See [`tally`].
    pub kind: u16,
}

/// Value of the `TALLIES` map. User space takes entries out as it reads them.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// How often.
    pub count: u64,
    /// How long, all together.
    pub nanoseconds: u64,
    /// Bytes, all together; 0 where it is not about bytes.
    pub bytes: u64,
}

/// Values of [`TallyKey::kind`].
pub mod tally {
    /// A read from a block device, from its request to its completion.
    pub const DISK_READ: u16 = 1;
    /// A write to a block device, likewise.
    pub const DISK_WRITE: u16 = 2;
    /// Anything else that a block device was asked for with a place, such as a discard.
    pub const DISK_OTHER: u16 = 3;
    /// A TCP connection from its SYN to its establishment.
    pub const CONNECTED: u16 = 4;
    /// One that never was established, from its SYN to when it was given up.
    pub const CONNECT_FAILED: u16 = 5;
    /// TCP segments sent again.
    pub const RETRANSMITTED: u16 = 6;
    /// An established connection that ended without a FIN of either side: reset, or given up.
    pub const RESET: u16 = 7;
    /// A device was opened, or asked for in the same way (`access`), whether or not it was there.
    pub const OPENED: u16 = 8;
}

/// Times in steps of a sixteenth of their power of two: about 6 percent apart.
pub mod slot {
    /// Steps of each power of two, as a power of two.
    const STEPS: u32 = 4;

    /// The slot of a number. Greater numbers have greater slots, or the same.
    #[inline(always)]
    pub const fn of(number: u64) -> u16 {
        // Below the first whole power the steps are of one.
        if number < 1 << STEPS {
            return number as u16;
        }
        let power = 63 - number.leading_zeros();
        let step = (number >> (power - STEPS)) as u32 & ((1 << STEPS) - 1);
        (((power - STEPS + 1) << STEPS) + step) as u16
    }

    /// The smallest number of a slot; of one that no number has, the largest that there is.
    pub const fn lowest(slot: u16) -> u64 {
        let (power, step) = (slot as u32 >> STEPS, slot as u64 & ((1 << STEPS) - 1));
        match power {
            0 => step,
            1..=60 => ((1 << STEPS) + step) << (power - 1),
            _ => u64::MAX,
        }
    }
}

/// The kernel's own number of a device (`MKDEV`).
pub const fn device_number(major: u32, minor: u32) -> u32 {
    major << DEVICE_MINOR_BITS | minor & DEVICE_MINOR_MASK
}

/// Bits of the minor number in it (`MINORBITS`).
pub const DEVICE_MINOR_BITS: u32 = 20;

/// The minor number in it.
pub const DEVICE_MINOR_MASK: u32 = (1 << DEVICE_MINOR_BITS) - 1;

/// Where the record of a tracepoint has what is wanted of it, in bytes: from the kernel's own description of the record.
/// Value of the `BLOCK_LAYOUTS` array.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BlockLayout {
    /// `dev`: `u32`.
    pub device: u32,
    /// `sector`: `u64`.
    pub sector: u32,
    /// `nr_sector`: `u32`.
    pub sectors: u32,
    /// `rwbs`: letters that say what was asked for.
    pub letters: u32,
}

/// Where the kernel's structures have what is wanted of a request to a block device, in bytes: from the types that the
/// kernel describes. Value of the `BLOCK_REQUEST` array.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RequestLayout {
    /// `struct request`, `__data_len`: `u32`.
    pub bytes: u32,
    /// `struct request`, `cmd_flags`: `u32`.
    pub flags: u32,
    /// `struct request`, `q`: a pointer.
    pub queue: u32,
    /// `struct request_queue`, `disk`: a pointer.
    pub disk: u32,
    /// `struct gendisk`, `major`: `u32`.
    pub major: u32,
    /// `struct gendisk`, `first_minor`: `u32`.
    pub minor: u32,
}

/// Indices of the `BLOCK_LAYOUTS` array.
pub mod block_record {
    /// Of a request's beginning.
    pub const STARTED: u32 = 0;
    /// Of its end.
    pub const DONE: u32 = 1;
    /// How many there are.
    pub const COUNT: u32 = 2;
}

/// Request-target patterns, matched as suffixes of the path.
///
/// A pattern begins with `/` or `:`, and so can begin at any such character of a path: `/litellm/v1/chat/completions`
/// matches `/v1/chat/completions`. The kernel hashes the path from its end towards its beginning and looks the hash up
/// in the `TARGETS` map at every such character: the cost does not depend on how many patterns there are.
pub mod target {
    /// The state to start from (FNV-1a, 64 bit).
    pub const SEED: u64 = 0xcbf2_9ce4_8422_2325;

    /// Adds the next byte, going from the end of the path to its beginning.
    #[inline(always)]
    pub const fn step(hash: u64, byte: u8) -> u64 {
        (hash ^ byte as u64).wrapping_mul(0x0000_0100_0000_01b3)
    }

    /// Whether a pattern can begin at this byte.
    #[inline(always)]
    pub const fn is_boundary(byte: u8) -> bool {
        byte == b'/' || byte == b':'
    }

    /// The key of a pattern in the `TARGETS` map.
    pub const fn hash(pattern: &[u8]) -> u64 {
        let mut hash = SEED;
        let mut left = pattern.len();
        while left > 0 {
            left -= 1;
            hash = step(hash, pattern[left]);
        }
        hash
    }
}

const _: () = {
    assert!(size_of::<RecordHeader>() == 112);
    assert!(align_of::<RecordHeader>() == 8);
    assert!(size_of::<SealedReport>() == 24);
    assert!(size_of::<FlowKey>() == 24);
    assert!(size_of::<Verdict>() == 8);
    assert!(size_of::<LifecycleEvent>() == 32);
    assert!(size_of::<TallyKey>() == 12);
    assert!(size_of::<Tally>() == 24);
    assert!(size_of::<BlockLayout>() == 16);
    assert!(size_of::<RequestLayout>() == 24);
};

#[cfg(test)]
mod tests {
    use super::{huffman, slot, target};

    #[test]
    fn slots_are_in_order_and_a_sixteenth_apart() {
        let mut before = 0;
        for number in (0..4096).chain((12..64).flat_map(|power| [(1 << power) - 1, 1 << power, 3 << (power - 1)])) {
            let found = slot::of(number);
            assert!(slot::lowest(found) <= number, "{number}");
            assert!(slot::lowest(found + 1) > number || number == u64::MAX, "{number}");
            assert!(number < 16 || (slot::lowest(found + 1) - slot::lowest(found)) * 16 <= number, "{number}");
            if number < 4096 {
                assert!(found >= before);
                before = found;
            }
        }
        assert_eq!((slot::of(u64::MAX), slot::lowest(u16::MAX)), (975, u64::MAX));
    }

    #[test]
    fn symbols_are_those_of_the_specification() {
        let encode = |text: &[u8]| {
            let mut code = Vec::new();
            httlib_huffman::encode(text, &mut code).unwrap();
            code
        };
        for symbol in 0..=u8::MAX {
            // Of eight of them every bit is used: so many bytes as one has bits.
            let code = encode(&[symbol; 8]);
            let entry = huffman::SYMBOLS[usize::from(code[0])];
            let expected = if code.len() <= 8 { (code.len() as u16) << 8 | u16::from(symbol) } else { 0 };
            assert_eq!(entry, expected, "{symbol}");
        }
    }

    #[test]
    fn target_hash_is_that_of_the_reversed_bytes() {
        assert_eq!(target::hash(b""), target::SEED);
        let forward = b"/v1/m".iter().rev().fold(target::SEED, |hash, byte| target::step(hash, *byte));
        assert_eq!(target::hash(b"/v1/m"), forward);
        assert_ne!(target::hash(b"/v1/m"), target::hash(b"m/1v/"));
    }
}
