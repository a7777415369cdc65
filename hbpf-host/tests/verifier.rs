//! The committed object against this kernel's verifier.
//!
//! aya shows the verifier's words only when it refuses a program, so the programs are put together with aya's parser and
//! loaded with a system call of our own.

mod support;

use std::{
    collections::HashSet,
    ffi::CString,
    os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd},
};

use aya::{Ebpf, maps::MapData, programs::Program};
use aya_obj::{
    Object, ProgramSection,
    generated::{bpf_attach_type, bpf_attr, bpf_cmd, bpf_insn, bpf_prog_type},
};

/// From this frame size on, a program of the kprobe type may get a per-CPU private stack (Linux 6.13), which two
/// preempted uprobes would share.
const PRIVATE_STACK_BYTES: u32 = 64;

/// `BPF_LOG_STATS`: only the numbers, and also when the program is accepted.
const LOG_STATS: u32 = 4;

/// Loading must not take long: the verifier's work is what delays the first record. The kernel's own limit is a million.
const MOST_INSTRUCTIONS: u32 = 225_000;

#[test]
fn every_program_loads_within_its_stack() {
    if !support::can_load() {
        return;
    }
    // The objects for other architectures differ in where they find a function's arguments: what this kernel's verifier
    // says of them says almost all.
    for architecture in ["x86_64", "aarch64"] {
        let bytes = support::object(architecture);
        let mut loaded = support::create_maps(&bytes);
        check_stacks(&bytes, &loaded);
        if architecture == std::env::consts::ARCH {
            load_as_the_loader_does(&mut loaded);
        }
    }
}

fn check_stacks(bytes: &[u8], loaded: &Ebpf) {
    let maps: Vec<(String, i32)> =
        loaded.maps().map(|(name, map)| (name.to_owned(), descriptor(map).as_fd().as_raw_fd())).collect();
    let mut object = Object::parse(bytes).expect("the object is one");
    let text: HashSet<usize> = object.functions.keys().map(|(section, _)| *section).collect();
    let definitions = object.maps.clone();
    object
        .relocate_maps(maps.iter().map(|(name, fd)| (name.as_str(), *fd, &definitions[name])), &text)
        .expect("the maps are where they are used");
    object.relocate_calls(&text).expect("the functions are where they are called");

    for (name, program) in &object.programs {
        let instructions = &object.functions[&program.function_key()].instructions;
        let log = load(&program.section, instructions, &program.license);
        let frames = frames(&log);
        let processed: u32 = number_after(&log, "processed ");
        println!("{name}: frames {frames:?}, {processed} instructions verified");
        assert!(processed < MOST_INSTRUCTIONS, "{name} takes the verifier {processed} instructions");
        let may_be_private = matches!(
            program.section,
            ProgramSection::UProbe { .. }
                | ProgramSection::URetProbe { .. }
                | ProgramSection::TracePoint
                | ProgramSection::RawTracePoint
        );
        if may_be_private {
            let largest = frames.iter().copied().max().unwrap_or_default();
            assert!(largest < PRIVATE_STACK_BYTES, "{name} has a frame of {largest} bytes: {log}");
        }
    }
}

fn load_as_the_loader_does(loaded: &mut Ebpf) {
    for (name, program) in loaded.programs_mut() {
        let loaded = match program {
            Program::UProbe(program) => program.load(),
            Program::CgroupSkb(program) => program.load(),
            Program::CgroupSock(program) => program.load(),
            Program::CgroupSockAddr(program) => program.load(),
            Program::SockOps(program) => program.load(),
            Program::CgroupDevice(program) => program.load(),
            Program::TracePoint(program) => program.load(),
            Program::RawTracePoint(program) => program.load(),
            other => panic!("{name} is of an unexpected type: {other:?}"),
        };
        loaded.unwrap_or_else(|error| panic!("{name}: {error}"));
    }
}

fn descriptor(map: &aya::maps::Map) -> &aya::maps::MapFd {
    use aya::maps::Map;
    let data: &MapData = match map {
        Map::Array(data)
        | Map::HashMap(data)
        | Map::LruHashMap(data)
        | Map::PerCpuArray(data)
        | Map::RingBuf(data)
        | Map::SkStorage(data) => data,
        other => panic!("a map of an unexpected type: {other:?}"),
    };
    data.fd()
}

/// Loads the program and returns what the verifier says.
fn load(section: &ProgramSection, instructions: &[bpf_insn], license: &CString) -> String {
    use bpf_prog_type::*;
    let (kind, attach) = match section {
        ProgramSection::UProbe { .. } | ProgramSection::URetProbe { .. } => (BPF_PROG_TYPE_KPROBE, 0),
        ProgramSection::TracePoint => (BPF_PROG_TYPE_TRACEPOINT, 0),
        ProgramSection::CgroupDevice => (BPF_PROG_TYPE_CGROUP_DEVICE, bpf_attach_type::BPF_CGROUP_DEVICE as u32),
        ProgramSection::RawTracePoint => (BPF_PROG_TYPE_RAW_TRACEPOINT, 0),
        ProgramSection::CgroupSkb { .. } => (BPF_PROG_TYPE_CGROUP_SKB, 0),
        ProgramSection::CgroupSock { attach_type } => {
            (BPF_PROG_TYPE_CGROUP_SOCK, bpf_attach_type::from(*attach_type) as u32)
        }
        ProgramSection::SockOps => (BPF_PROG_TYPE_SOCK_OPS, bpf_attach_type::BPF_CGROUP_SOCK_OPS as u32),
        ProgramSection::CgroupSockAddr { attach_type } => {
            (BPF_PROG_TYPE_CGROUP_SOCK_ADDR, bpf_attach_type::from(*attach_type) as u32)
        }
        other => panic!("a program of an unexpected type: {other:?}"),
    };
    let mut log = vec![0_u8; 1 << 20];
    // SAFETY: the attributes are integers and addresses, for which zeros are valid.
    let mut attributes: bpf_attr = unsafe { std::mem::zeroed() };
    // SAFETY: plain integers, all of one member of the union.
    let of_load = unsafe { &mut attributes.__bindgen_anon_3 };
    of_load.prog_type = kind as u32;
    of_load.expected_attach_type = attach;
    of_load.insns = instructions.as_ptr() as u64;
    of_load.insn_cnt = u32::try_from(instructions.len()).expect("a program is short");
    of_load.license = license.as_ptr() as u64;
    of_load.log_buf = log.as_mut_ptr() as u64;
    of_load.log_size = u32::try_from(log.len()).expect("a megabyte");
    of_load.log_level = LOG_STATS;
    // SAFETY: the addresses in the attributes are those of live values, and the log is as long as is said.
    let fd = unsafe {
        nix::libc::syscall(
            nix::libc::SYS_bpf,
            bpf_cmd::BPF_PROG_LOAD as i32,
            &raw mut attributes,
            size_of::<bpf_attr>(),
        )
    };
    let end = log.iter().position(|byte| *byte == 0).unwrap_or(log.len());
    let log = String::from_utf8_lossy(&log[..end]).into_owned();
    assert!(fd >= 0, "{}: {log}", std::io::Error::last_os_error());
    // SAFETY: the descriptor is ours and used by nothing else.
    drop(unsafe { OwnedFd::from_raw_fd(fd as i32) });
    log
}

/// The frame sizes of the program and its functions, as the verifier reports them.
fn frames(log: &str) -> Vec<u32> {
    let line = log.lines().find_map(|line| line.strip_prefix("stack depth ")).expect("the verifier reports the stack");
    line.split('+').map(|frame| frame.trim().parse().expect("a number of bytes")).collect()
}

fn number_after(log: &str, what: &str) -> u32 {
    let at = log.find(what).unwrap_or_else(|| panic!("no {what:?} in the log")) + what.len();
    log[at..].split(' ').next().and_then(|number| number.parse().ok()).expect("a number")
}
