//! The few `bpf()` calls that the loader library does not offer.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use aya::maps::{Map, MapData};
use nix::errno::Errno;
use nix::libc;

const BPF_MAP_DELETE_ELEM: i32 = 3;
const BPF_MAP_GET_NEXT_KEY: i32 = 4;
const BPF_PROG_QUERY: i32 = 16;

/// Longest key of a map that [`clear`] clears.
const MAX_KEY_BYTES: usize = 64;

/// Most elements that [`clear`] removes, so that it ends even where programs go on inserting.
const MAX_CLEARED: usize = 1 << 20;

/// Most programs that [`attached`] reports; the kernel allows 64 at one hook.
const MAX_PROGRAMS: usize = 64;

/// `attach_flags`: others may be attached beside.
const BPF_F_ALLOW_MULTI: u32 = 2;

#[repr(C)]
struct ElementAttr {
    map_fd: u32,
    padding: u32,
    key: u64,
    next_key: u64,
    flags: u64,
}

/// Removes all elements of a hash map, whatever its types.
pub(super) fn clear(map: &Map) {
    let (Map::HashMap(data) | Map::LruHashMap(data)) = map else { return };
    if data.info().is_ok_and(|info| info.key_size() as usize <= MAX_KEY_BYTES) {
        clear_data(data);
    }
}

fn clear_data(data: &MapData) {
    let mut key = [0u8; MAX_KEY_BYTES];
    let mut attr = ElementAttr {
        map_fd: data.fd().as_fd().as_raw_fd().unsigned_abs(),
        padding: 0,
        key: 0,
        next_key: key.as_mut_ptr().addr() as u64,
        flags: 0,
    };
    for _ in 0..MAX_CLEARED {
        // A null key asks for the first one, which is gone in the next round.
        attr.key = 0;
        attr.next_key = key.as_mut_ptr().addr() as u64;
        // SAFETY: the kernel writes a key of the map, at most MAX_KEY_BYTES, to `key`.
        if unsafe { bpf(BPF_MAP_GET_NEXT_KEY, &mut attr) }.is_err() {
            return;
        }
        attr.key = attr.next_key;
        attr.next_key = 0;
        // SAFETY: the kernel reads a key of the map from `key`.
        let _ = unsafe { bpf(BPF_MAP_DELETE_ELEM, &mut attr) };
    }
}

/// `PERF_ATTR_SIZE_VER0`, as 64-bit words: type and size, five of no matter here, flags, and `uprobe_path`.
const PERF_ATTR_WORDS: usize = 8;

/// Whether this kernel wants more for an uprobe than this process has: since 2025 many ask for CAP_SYS_ADMIN instead of
/// CAP_PERFMON. It looks at privileges before it looks at which file is meant, so none is named and nothing is made.
pub(crate) fn uprobes_are_refused() -> bool {
    let kind = std::fs::read_to_string("/sys/bus/event_source/devices/uprobe/type").unwrap_or_default();
    let Ok(kind) = kind.trim().parse::<u32>() else { return false };
    let mut attr = [0_u64; PERF_ATTR_WORDS];
    let (kind, size) = (kind.to_ne_bytes(), (size_of_val(&attr) as u32).to_ne_bytes());
    let mut first = [0; 8];
    first[..4].copy_from_slice(&kind);
    first[4..].copy_from_slice(&size);
    attr[0] = u64::from_ne_bytes(first);
    // SAFETY: the attributes are as long as they say and live for the call; the rest are integers.
    let result = unsafe { libc::syscall(libc::SYS_perf_event_open, attr.as_ptr(), -1, 0, -1, 0) };
    matches!(Errno::result(result), Err(Errno::EACCES | Errno::EPERM))
}

#[repr(C)]
#[derive(Default)]
struct QueryAttr {
    target_fd: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    prog_ids: u64,
    prog_count: u32,
    padding: u32,
}

/// Programs attached at one hook of a control group.
pub(crate) struct Attached {
    /// Their ids.
    pub(crate) programs: Vec<u32>,
    /// Whether they let others be attached beside them.
    pub(crate) shared: bool,
}

/// Asks which programs are attached at a hook (`enum bpf_attach_type`) of a control group.
pub(crate) fn attached(cgroup: BorrowedFd<'_>, hook: u32) -> Result<Attached, Errno> {
    let mut ids = [0u32; MAX_PROGRAMS];
    let mut attr = QueryAttr {
        target_fd: cgroup.as_raw_fd().unsigned_abs(),
        attach_type: hook,
        prog_ids: ids.as_mut_ptr().addr() as u64,
        prog_count: MAX_PROGRAMS as u32,
        ..QueryAttr::default()
    };
    // SAFETY: the kernel writes at most `prog_count` ids to `ids`, and the rest of its answer into `attr`.
    unsafe { bpf(BPF_PROG_QUERY, &mut attr) }?;
    let programs = ids.into_iter().take(attr.prog_count as usize).collect();
    Ok(Attached { programs, shared: attr.attach_flags & BPF_F_ALLOW_MULTI != 0 })
}

/// # Safety
///
/// `attr` must be what the command takes, and its pointers valid for what the command does with them.
unsafe fn bpf<T>(command: i32, attr: &mut T) -> Result<(), Errno> {
    // SAFETY: the caller's promise; size and pointer agree.
    Errno::result(unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size_of::<T>()) }).map(drop)
}
