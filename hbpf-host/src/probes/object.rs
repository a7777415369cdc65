//! The built object for this architecture, and what is loaded of it.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use aya::maps::{Map, MapData};
use aya::programs::Program;
use aya::{Ebpf, EbpfLoader, VerifierLogLevel};
use hbpf_ebpf::{SOCKET_OWNED_AT, TASK_TGID_AT};

use super::ProbeError;
use super::user::UserPrograms;
use crate::btf::Places;

#[cfg(target_arch = "x86_64")]
pub(super) static BYTES: &[u8] =
    aya::include_bytes_aligned!(concat!(env!("CARGO_MANIFEST_DIR"), "/../hbpf-ebpf/dist/hbpf.x86_64.o"));

#[cfg(target_arch = "aarch64")]
pub(super) static BYTES: &[u8] =
    aya::include_bytes_aligned!(concat!(env!("CARGO_MANIFEST_DIR"), "/../hbpf-ebpf/dist/hbpf.aarch64.o"));

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
compile_error!("the eBPF programs are built for x86_64 and aarch64 only");

/// Maps in the kernel, and programs that are there or ready to be loaded.
pub(super) struct Object {
    pub(super) ebpf: Ebpf,
    pub(super) user: UserPrograms,
}

impl Object {
    /// Creates the maps, and makes the programs ready to be loaded.
    pub(super) fn load(places: &Places) -> Result<Self, ProbeError> {
        let mut loader = EbpfLoader::new();
        loader.verifier_log_level(VerifierLogLevel::STATS).allow_unsupported_maps();
        // Where it is not known, sockets are looked for in the processes that hold them.
        let socket_owned_at = places.socket_owned_at.unwrap_or(0);
        loader.override_global(SOCKET_OWNED_AT, &socket_owned_at, true);
        let task_tgid_at = places.task_tgid_at.unwrap_or(0);
        loader.override_global(TASK_TGID_AT, &task_tgid_at, true);
        let ebpf = loader.load(BYTES).map_err(|error| ProbeError::new("loading the object", &error))?;
        let maps = ebpf.maps().filter_map(|(name, map)| Some((name, data(map)?.fd().as_fd().as_raw_fd())));
        let user = UserPrograms::new(&maps.collect())?;
        Ok(Self { ebpf, user })
    }

    /// A program that is in the kernel.
    pub(super) fn program(&self, name: &str) -> Option<BorrowedFd<'_>> {
        self.user.program(name).or_else(|| Some(self.ebpf.program(name)?.fd().ok()?.as_fd()))
    }

    /// Takes a program out of the kernel, with all its links but those that are held elsewhere.
    pub(super) fn unload(&mut self, name: &str) {
        self.user.unload(name);
        // A program that is not loaded says so; it is what was wanted.
        let _ = match self.ebpf.program_mut(name) {
            Some(Program::UProbe(program)) => program.unload(),
            Some(Program::RawTracePoint(program)) => program.unload(),
            Some(Program::CgroupSkb(program)) => program.unload(),
            Some(Program::CgroupSock(program)) => program.unload(),
            Some(Program::CgroupSockAddr(program)) => program.unload(),
            Some(Program::SockOps(program)) => program.unload(),
            Some(Program::CgroupDevice(program)) => program.unload(),
            Some(Program::TracePoint(program)) => program.unload(),
            _ => Ok(()),
        };
    }
}

/// Of a map that the object has.
fn data(map: &Map) -> Option<&MapData> {
    match map {
        Map::Array(data)
        | Map::HashMap(data)
        | Map::LruHashMap(data)
        | Map::PerCpuArray(data)
        | Map::RingBuf(data)
        | Map::SkStorage(data)
        | Map::Unsupported(data) => Some(data),
        _ => None,
    }
}
