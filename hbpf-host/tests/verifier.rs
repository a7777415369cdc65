//! The committed object against this kernel's verifier.

use aya::{Ebpf, programs::Program};

/// The object for the machine that runs the test.
fn object() -> Vec<u8> {
    let name = format!("{}/../hbpf-ebpf/dist/hbpf.{}.o", env!("CARGO_MANIFEST_DIR"), std::env::consts::ARCH);
    std::fs::read(&name).unwrap_or_else(|error| panic!("reading {name}: {error}"))
}

/// Whether programs can be loaded at all; says why not, unless the run insists.
fn can_load() -> bool {
    if nix::unistd::geteuid().is_root() {
        return true;
    }
    assert!(std::env::var_os("HBPF_REQUIRE_BPF").is_none(), "loading eBPF programs needs root");
    eprintln!("skipped: loading eBPF programs needs root");
    false
}

#[test]
fn every_program_loads() {
    if !can_load() {
        return;
    }
    let mut object = Ebpf::load(&object()).expect("the maps are created");
    for (name, program) in object.programs_mut() {
        let loaded = match program {
            Program::UProbe(program) => program.load(),
            Program::CgroupSkb(program) => program.load(),
            Program::CgroupSock(program) => program.load(),
            Program::CgroupSockAddr(program) => program.load(),
            Program::RawTracePoint(program) => program.load(),
            other => panic!("{name} is of an unexpected type: {other:?}"),
        };
        loaded.unwrap_or_else(|error| panic!("{name}: {error}"));
    }
}
