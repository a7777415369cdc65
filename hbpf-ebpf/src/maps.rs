//! The maps, by the names that the loader knows them by.

use core::ptr;

use aya_ebpf::{
    bindings::{BPF_F_CLONE, BPF_F_NO_PREALLOC, BPF_SK_STORAGE_GET_F_CREATE, bpf_map_type, bpf_sock},
    helpers::bpf_sk_storage_get,
    macros::{btf_map, map},
    maps::{Array, HashMap, LruHashMap, PerCpuArray, RingBuf},
};
use hbpf_ebpf::{
    BELL_RING_BYTES, BlockLayout, EVENTS_RING_BYTES, FlowKey, LIFECYCLE_RING_BYTES, RequestLayout, STDIO_DESCRIPTORS,
    Tally, TallyKey, Verdict, block_record, counter, limit,
};

use crate::{
    aead::{Context, ContextKey, Sealer, Thread},
    block::{Place, Started},
    deferred::DeferredKey,
    go::{Read, ReadKey},
    tcp::Socket,
    tls::{Calls, Connection, ConnectionKey, Use},
};

/// Flows that can await or hold a verdict at once. One that is evicted keeps awaiting: at most a look-up per packet.
const VERDICTS: u32 = 16_384;

/// TLS connections that can be followed at once; the one idle longest makes room for a new one.
const TLS_CONNECTIONS: u32 = 16_384;

/// Threads that make TLS calls. Each keeps its entry until it ends: making one for each call would cost more than the
/// rest of the entry program.
const TLS_THREADS: u32 = 16_384;

/// Processes whose TLS calls are counted; one that has made none for long makes room for another.
const TLS_PROCESSES: u32 = 4096;

/// Goroutines that wait for something to read: as many as there are connections. Those of a process that ends leave their entries,
/// which make room for others; a read whose entry had to is counted where it returns.
const GO_READERS: u32 = 65_536;

/// Contexts of rustls' connections, two for each.
const AEAD_USED: u32 = 2 * TLS_CONNECTIONS;

/// Records that pass between a call that seals or opens them and the wire, and sockets that are found so.
const AEAD_SOUGHT: u32 = 4096;

/// Connections that have sent something and are not accepted yet. Most are accepted at once; this many is room for some
/// hundred thousand forged ones a second.
const DEFERRED_CONNECTIONS: u32 = 2048;

/// Request-target patterns.
const TARGET_PATTERNS: u32 = 4096;

/// What is counted between two readings, a second or so: a busy process has some forty different times.
const TALLIES_BETWEEN_READINGS: u32 = 16_384;

/// Requests to block devices under way at once. A large host's disks have queues for more, and never fill them.
const REQUESTS: u32 = 16_384;

/// Partitions, and numbers of drivers whose devices are watched.
const FEW: u32 = 1024;

#[map]
pub static EVENTS: RingBuf = RingBuf::with_byte_size(EVENTS_RING_BYTES, 0);

/// See [`hbpf_ebpf::EVENTS_URGENT_BYTES`].
#[map]
pub static BELL: RingBuf = RingBuf::with_byte_size(BELL_RING_BYTES, 0);

#[map]
pub static LIFECYCLE: RingBuf = RingBuf::with_byte_size(LIFECYCLE_RING_BYTES, 0);

#[map(name = "VERDICTS")]
pub static VERDICTS_BY_FLOW: LruHashMap<FlowKey, Verdict> = LruHashMap::with_max_entries(VERDICTS, 0);

#[map]
pub static TARGETS: HashMap<u64, u8> = HashMap::with_max_entries(TARGET_PATTERNS, 0);

#[map]
pub static COUNTERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(counter::COUNT, 0);

#[map]
pub static LIMITS: Array<u64> = Array::with_max_entries(limit::COUNT, 0);

/// See [`crate::budget`].
#[map]
pub static PAID_UNTIL: Array<u64> = Array::with_max_entries(1, 0);

#[map]
pub static TLS_FLOWS: LruHashMap<ConnectionKey, Connection> = LruHashMap::with_max_entries(TLS_CONNECTIONS, 0);

#[map]
pub static TLS_CALLS: HashMap<u64, Calls> = HashMap::with_max_entries(TLS_THREADS, 0);

#[map]
pub static TLS_USERS: LruHashMap<u32, Use> = LruHashMap::with_max_entries(TLS_PROCESSES, 0);

#[map]
pub static GO_READS: LruHashMap<ReadKey, Read> = LruHashMap::with_max_entries(GO_READERS, 0);

/// Which ways bytes may go through a descriptor, as bits `1 << direction`, by process (upper half) and descriptor.
#[map]
pub static STDIO: HashMap<u64, u8> = HashMap::with_max_entries(STDIO_DESCRIPTORS, 0);

/// The same of descriptors that a thread is about to have twice.
#[map]
pub static STDIO_DUPLICATED: LruHashMap<u64, u8> = LruHashMap::with_max_entries(STDIO_DESCRIPTORS, 0);

#[map]
pub static AEAD_CONTEXTS: LruHashMap<ContextKey, Context> = LruHashMap::with_max_entries(AEAD_USED, 0);

#[map]
pub static AEAD_THREADS: LruHashMap<u64, Thread> = LruHashMap::with_max_entries(TLS_THREADS, 0);

/// Until when packets are looked at: see [`crate::wire`].
#[map]
pub static AEAD_SEEKING: Array<u64> = Array::with_max_entries(1, 0);

/// Contexts by ciphertext that they have sealed.
#[map]
pub static AEAD_SENT: LruHashMap<u64, Sealer> = LruHashMap::with_max_entries(AEAD_SOUGHT, 0);

/// Cookies of sockets by ciphertext that they have received.
#[map]
pub static AEAD_RECEIVED: LruHashMap<u64, u64> = LruHashMap::with_max_entries(AEAD_SOUGHT, 0);

/// Who seals what a socket sends, by its cookie.
#[map]
pub static AEAD_SOCKETS: LruHashMap<u64, Sealer> = LruHashMap::with_max_entries(AEAD_SOUGHT, 0);

#[map]
pub static DEFERRED: LruHashMap<DeferredKey, Socket> = LruHashMap::with_max_entries(DEFERRED_CONNECTIONS, 0);

#[map]
pub static TALLIES: HashMap<TallyKey, Tally> = HashMap::with_max_entries(TALLIES_BETWEEN_READINGS, 0);

#[map]
pub static BLOCK_LAYOUTS: Array<BlockLayout> = Array::with_max_entries(block_record::COUNT, 0);

#[map]
pub static BLOCK_REQUEST: Array<RequestLayout> = Array::with_max_entries(1, 0);

/// By their addresses.
#[map]
pub static BLOCK_REQUESTS: HashMap<u64, Started> = HashMap::with_max_entries(REQUESTS, 0);

/// By the place that they go to, which may change before they end: an entry that is left over makes room for another.
#[map]
pub static BLOCK_PLACES: LruHashMap<Place, Started> = LruHashMap::with_max_entries(REQUESTS, 0);

/// The disk of each partition: a request may begin under the one name and end under the other.
#[map]
pub static PARTITIONS: HashMap<u32, u32> = HashMap::with_max_entries(FEW, 0);

/// Major numbers of the devices that are watched.
#[map]
pub static DEVICES: HashMap<u32, u8> = HashMap::with_max_entries(FEW, 0);

#[btf_map]
pub static SOCKETS: SocketStorage<Socket> = SocketStorage::new();

/// A `BPF_MAP_TYPE_SK_STORAGE` map whose values accepted sockets inherit from their listener.
///
/// aya-ebpf's own type offers neither the clone flag nor access from programs other than `cgroup/connect`. The fields
/// are never read: their types are what the loader finds in BTF.
#[repr(C)]
pub struct SocketStorage<T> {
    r#type: *const [i32; bpf_map_type::BPF_MAP_TYPE_SK_STORAGE as usize],
    key: *const i32,
    value: *const T,
    max_entries: *const [i32; 0],
    map_flags: *const [i32; (BPF_F_NO_PREALLOC | BPF_F_CLONE) as usize],
}

// SAFETY: the pointers are placeholders that nothing dereferences; the kernel serialises access to the map itself.
unsafe impl<T> Sync for SocketStorage<T> {}

impl<T> SocketStorage<T> {
    const fn new() -> Self {
        Self {
            r#type: ptr::null(),
            key: ptr::null(),
            value: ptr::null(),
            max_entries: ptr::null(),
            map_flags: ptr::null(),
        }
    }

    /// The socket's value, if it has one.
    #[inline(always)]
    pub fn get(&self, socket: *mut bpf_sock) -> Option<*mut T> {
        self.look_up(socket, 0)
    }

    /// The socket's value, created as zeros where it has none.
    #[inline(always)]
    pub fn get_or_create(&self, socket: *mut bpf_sock) -> Option<*mut T> {
        self.look_up(socket, u64::from(BPF_SK_STORAGE_GET_F_CREATE))
    }

    #[inline(always)]
    fn look_up(&self, socket: *mut bpf_sock, flags: u64) -> Option<*mut T> {
        let map = ptr::from_ref(self).cast_mut().cast();
        // SAFETY: the verifier has checked that `socket` is a socket; a null initial value means zeros.
        let value = unsafe { bpf_sk_storage_get(map, socket.cast(), ptr::null_mut(), flags) };
        (!value.is_null()).then_some(value.cast())
    }
}
