//! The few `bpf()` calls that the loader library does not offer.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use aya::maps::{Map, MapData};
use aya::programs::ProgramFd;
use aya_obj::generated::bpf_insn;
use hbpf_ebpf::{Tally, TallyKey};
use nix::errno::Errno;
use nix::libc;

const BPF_MAP_DELETE_ELEM: i32 = 3;
const BPF_MAP_GET_NEXT_KEY: i32 = 4;
const BPF_PROG_LOAD: i32 = 5;
const BPF_OBJ_GET_INFO_BY_FD: i32 = 15;
const BPF_PROG_QUERY: i32 = 16;
const BPF_MAP_LOOKUP_AND_DELETE_BATCH: i32 = 25;
const BPF_LINK_CREATE: i32 = 28;

/// Elements that [`take_tallies`] takes out at once. No bucket of a map of this many places holds as many.
const TAKEN_AT_ONCE: usize = 1024;

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
        next_key: key.as_mut_ptr().expose_provenance() as u64,
        flags: 0,
    };
    for _ in 0..MAX_CLEARED {
        // A null key asks for the first one, which is gone in the next round.
        attr.key = 0;
        attr.next_key = key.as_mut_ptr().expose_provenance() as u64;
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

/// Removes an entry from a map with keys of that size.
pub(super) fn remove(map: &Map, key: &[u64; 2]) {
    let (Map::HashMap(data) | Map::LruHashMap(data)) = map else { return };
    if !data.info().is_ok_and(|info| info.key_size() as usize == size_of_val(key)) {
        return;
    }
    let mut attr = ElementAttr {
        map_fd: data.fd().as_fd().as_raw_fd().unsigned_abs(),
        padding: 0,
        key: key.as_ptr().expose_provenance() as u64,
        next_key: 0,
        flags: 0,
    };
    // SAFETY: the kernel reads a key of the map's size from `key`.
    let _ = unsafe { bpf(BPF_MAP_DELETE_ELEM, &mut attr) };
}

#[repr(C)]
struct BatchAttr {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    element_flags: u64,
    flags: u64,
}

/// Takes all elements out of the map `TALLIES` (Linux 5.6). Should that fail half-way, those that are out by then come with the
/// error.
pub(super) fn take_tallies(map: &Map) -> (Vec<(TallyKey, Tally)>, Result<(), Errno>) {
    let mut taken = Vec::new();
    let result = take_into(map, &mut taken);
    (taken, result)
}

fn take_into(map: &Map, taken: &mut Vec<(TallyKey, Tally)>) -> Result<(), Errno> {
    let Map::HashMap(data) = map else { return Err(Errno::EINVAL) };
    let fits = |info: aya::maps::MapInfo| {
        info.key_size() as usize == size_of::<TallyKey>() && info.value_size() as usize == size_of::<Tally>()
    };
    if !data.info().is_ok_and(fits) {
        return Err(Errno::EINVAL);
    }
    let mut keys = vec![TallyKey { pid: 0, device: 0, slot: 0, kind: 0 }; TAKEN_AT_ONCE];
    let mut values = vec![Tally::default(); TAKEN_AT_ONCE];
    // Where the kernel has come to, in its own terms.
    let mut position = 0_u32;
    let mut is_first = true;
    loop {
        let mut attr = BatchAttr {
            in_batch: if is_first { 0 } else { (&raw const position).expose_provenance() as u64 },
            out_batch: (&raw mut position).expose_provenance() as u64,
            keys: keys.as_mut_ptr().expose_provenance() as u64,
            values: values.as_mut_ptr().expose_provenance() as u64,
            count: TAKEN_AT_ONCE as u32,
            map_fd: data.fd().as_fd().as_raw_fd().unsigned_abs(),
            element_flags: 0,
            flags: 0,
        };
        is_first = false;
        // SAFETY: keys and values have room for as many elements as are asked for and are of the map's sizes, as was
        // checked, without padding; the position of a hash map is 32 bits.
        let result = unsafe { bpf(BPF_MAP_LOOKUP_AND_DELETE_BATCH, &mut attr) };
        let count = (attr.count as usize).min(TAKEN_AT_ONCE);
        match result {
            Ok(_) => taken.extend(keys.iter().copied().zip(values.iter().copied()).take(count)),
            // That was the rest.
            Err(Errno::ENOENT) => {
                taken.extend(keys.iter().copied().zip(values.iter().copied()).take(count));
                return Ok(());
            }
            Err(error) => return Err(error),
        }
    }
}

#[repr(C)]
struct InfoAttr {
    fd: u32,
    info_len: u32,
    info: u64,
}

/// Where `struct bpf_prog_info` has `run_time_ns` and `run_cnt` (Linux 5.1), and `recursion_misses` (Linux 5.12), in 64-bit words.
const RUN_TIME: usize = 192 / 8;
const RUN_COUNT: usize = 200 / 8;
const RECURSION_MISSES: usize = 208 / 8;

/// What the kernel has counted of a program's runs.
pub(super) struct Runs {
    pub(super) count: u64,
    pub(super) time_ns: u64,
    /// How often it was to run and did not, since another one ran on that CPU.
    pub(super) missed: Option<u64>,
}

/// Asks what has been counted of a program's runs.
pub(super) fn runs(program: BorrowedFd<'_>) -> Option<Runs> {
    let mut info = [0_u64; RECURSION_MISSES + 1];
    let mut attr = InfoAttr {
        fd: program.as_raw_fd().unsigned_abs(),
        info_len: size_of_val(&info) as u32,
        info: info.as_mut_ptr().expose_provenance() as u64,
    };
    // SAFETY: the kernel writes at most `info_len` bytes to `info`, whose zeros ask for none of the lists.
    unsafe { bpf(BPF_OBJ_GET_INFO_BY_FD, &mut attr) }.ok()?;
    let is_whole = attr.info_len as usize == size_of_val(&info);
    Some(Runs { count: info[RUN_COUNT], time_ns: info[RUN_TIME], missed: is_whole.then_some(info[RECURSION_MISSES]) })
}

/// `BPF_PROG_TYPE_KPROBE` and `BPF_TRACE_UPROBE_MULTI`: a program at functions of processes.
const PROG_TYPE_KPROBE: u32 = 2;
const TRACE_UPROBE_MULTI: u32 = 48;

/// `BPF_F_UPROBE_MULTI_RETURN`: at the functions' returns.
const MULTI_RETURN: u32 = 1;

/// Longest name of a program that the kernel takes, but for the zero at its end.
const MAX_NAME_BYTES: usize = 15;

#[repr(C)]
#[derive(Default)]
struct LoadAttr {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
    prog_name: [u8; MAX_NAME_BYTES + 1],
    prog_ifindex: u32,
    expected_attach_type: u32,
}

/// Loads a program that is for links of many places of a file.
pub(super) fn load_for_many(name: &str, instructions: &[bpf_insn], license: &CStr) -> Result<OwnedFd, Errno> {
    let mut attr = LoadAttr {
        prog_type: PROG_TYPE_KPROBE,
        insn_cnt: instructions.len() as u32,
        insns: instructions.as_ptr().expose_provenance() as u64,
        license: license.as_ptr().expose_provenance() as u64,
        expected_attach_type: TRACE_UPROBE_MULTI,
        ..LoadAttr::default()
    };
    attr.prog_name.iter_mut().zip(name.bytes().take(MAX_NAME_BYTES)).for_each(|(to, byte)| *to = byte);
    // SAFETY: the kernel reads so many instructions and the license's text, and writes nothing.
    unsafe { bpf_for_descriptor(BPF_PROG_LOAD, &mut attr) }
}

#[repr(C)]
#[derive(Default)]
struct LinkAttr {
    prog_fd: u32,
    target_fd: u32,
    attach_type: u32,
    flags: u32,
    path: u64,
    offsets: u64,
    ref_ctr_offsets: u64,
    cookies: u64,
    count: u32,
    multi_flags: u32,
    pid: u32,
    padding: u32,
}

/// Puts a program at these places of a file, in one process or (0) all, for as long as the descriptor is open.
pub(super) fn attach_to_many(
    program: BorrowedFd<'_>,
    path: &str,
    offsets: &[u64],
    pid: u32,
    at_return: bool,
) -> Result<OwnedFd, Errno> {
    let path = CString::new(path).map_err(|_| Errno::EINVAL)?;
    let mut attr = LinkAttr {
        prog_fd: program.as_raw_fd().unsigned_abs(),
        attach_type: TRACE_UPROBE_MULTI,
        path: path.as_ptr().expose_provenance() as u64,
        offsets: offsets.as_ptr().expose_provenance() as u64,
        count: offsets.len() as u32,
        multi_flags: if at_return { MULTI_RETURN } else { 0 },
        pid,
        ..LinkAttr::default()
    };
    // SAFETY: the kernel reads the path and so many offsets, and writes nothing.
    unsafe { bpf_for_descriptor(BPF_LINK_CREATE, &mut attr) }
}

/// `PERF_TYPE_TRACEPOINT`
const PERF_TYPE_TRACEPOINT: u32 = 2;
const PERF_FLAG_FD_CLOEXEC: libc::c_ulong = 8;
const PERF_EVENT_IOC_ENABLE: libc::c_ulong = 0x2400;
const PERF_EVENT_IOC_SET_BPF: libc::c_ulong = 0x4004_2408;

/// Puts a program at a tracepoint, for as long as the descriptor is open. The loader library does so too, but looks the
/// tracepoint's number up in a mount of tracefs that need not be there.
pub(super) fn attach_to_tracepoint(program: &ProgramFd, id: u64) -> Result<OwnedFd, Errno> {
    let mut attr = perf_attr(PERF_TYPE_TRACEPOINT);
    attr[1] = id;
    // One CPU stands for all: the kernel calls the program wherever the tracepoint is met.
    // SAFETY: the attributes are as long as they say and live for the call; the rest are integers.
    let fd = Errno::result(unsafe {
        libc::syscall(libc::SYS_perf_event_open, attr.as_ptr(), -1, 0, -1, PERF_FLAG_FD_CLOEXEC)
    })?;
    // SAFETY: the system call has just made this descriptor for us.
    let event = unsafe { OwnedFd::from_raw_fd(fd as i32) };
    // SAFETY: this request takes a descriptor.
    Errno::result(unsafe { libc::ioctl(event.as_raw_fd(), PERF_EVENT_IOC_SET_BPF as _, program.as_fd().as_raw_fd()) })?;
    // SAFETY: this request takes an integer.
    Errno::result(unsafe { libc::ioctl(event.as_raw_fd(), PERF_EVENT_IOC_ENABLE as _, 0) })?;
    Ok(event)
}

/// Attributes of this kind, of their oldest and shortest form.
fn perf_attr(kind: u32) -> [u64; PERF_ATTR_WORDS] {
    let mut attr = [0_u64; PERF_ATTR_WORDS];
    let (kind, size) = (kind.to_ne_bytes(), (size_of_val(&attr) as u32).to_ne_bytes());
    let mut first = [0; 8];
    first[..4].copy_from_slice(&kind);
    first[4..].copy_from_slice(&size);
    attr[0] = u64::from_ne_bytes(first);
    attr
}

/// `PERF_ATTR_SIZE_VER0`, as 64-bit words: type and size, five of no matter here, flags, and `uprobe_path`.
const PERF_ATTR_WORDS: usize = 8;

/// Whether this kernel wants more for an uprobe than this process has: since 2025 many ask for CAP_SYS_ADMIN instead of
/// CAP_PERFMON. It looks at privileges before it looks at which file is meant, so none is named and nothing is made.
pub(crate) fn uprobes_are_refused() -> bool {
    let kind = std::fs::read_to_string("/sys/bus/event_source/devices/uprobe/type").unwrap_or_default();
    let Ok(kind) = kind.trim().parse::<u32>() else { return false };
    let attr = perf_attr(kind);
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
        prog_ids: ids.as_mut_ptr().expose_provenance() as u64,
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
unsafe fn bpf<T>(command: i32, attr: &mut T) -> Result<libc::c_long, Errno> {
    // SAFETY: the caller's promise; size and pointer agree.
    Errno::result(unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size_of::<T>()) })
}

/// The same where the answer is a new descriptor.
///
/// # Safety
///
/// As above, and `command` makes a descriptor.
unsafe fn bpf_for_descriptor<T>(command: i32, attr: &mut T) -> Result<OwnedFd, Errno> {
    // SAFETY: the caller's promise.
    let fd = unsafe { bpf(command, attr) }?;
    // SAFETY: the system call has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}
