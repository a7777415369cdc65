//! Programs at the root of cgroup v2.

use std::os::fd::OwnedFd;

use aya::Ebpf;
use aya::programs::{
    CgroupAttachMode, CgroupDevice, CgroupSkb, CgroupSkbAttachType, CgroupSock, CgroupSockAddr, Program, ProgramError,
    SockOps,
};
use hbpf_core::label::Label;

use super::{ProbeError, cgroup, missing, side_by_side};

/// Those of plain traffic. The last two see the payload; the others say whose socket it is, and so come first when
/// attaching.
pub(crate) const PLAIN: [&str; 7] =
    ["sock_create", "sock_release", "connect4", "connect6", "tcp_accepted", "tcp_egress", "tcp_ingress"];

/// Those of how connections fare, likewise: all but the last say whose socket it is, and are the same ones.
pub(crate) const NET: [&str; 4] = ["sock_create", "connect4", "connect6", "net_connection"];

/// Those that tell contexts of rustls' connections that belong together.
pub(crate) const AEAD: [&str; 2] = ["aead_egress", "aead_ingress"];

/// Whether a program of this name is one of ours.
pub(crate) fn is_ours(name: &str) -> bool {
    PLAIN.iter().chain(&NET).chain(&AEAD).chain(&super::device::PROGRAMS).any(|ours| *ours == name)
}

/// Puts these programs in place, and says where that is. Those that another group has put there stay as they are.
pub(super) fn attach(ebpf: &mut Ebpf, programs: &[&'static str]) -> Result<Label, ProbeError> {
    let root = cgroup::open_root().map_err(|error| ProbeError(error.to_string()))?;
    // All are loaded before the first is attached: a request seen without its answer would be taken for one that waits.
    let absent = programs.iter().find(|name| ebpf.program(name).is_none());
    absent.map_or(Ok(()), |name| Err(missing(name)))?;
    let is_new = |name: &&&str| ebpf.program(name).is_some_and(|program| program.fd().is_err());
    let new: Vec<&'static str> = programs.iter().filter(is_new).copied().collect();
    let loading = ebpf.programs_mut().filter(|(name, _)| new.contains(name));
    let loaded =
        side_by_side(loading.collect(), |(name, program)| load(program).map_err(|error| ProbeError::new(name, &error)));
    loaded.into_iter().collect::<Result<(), _>>()?;
    for name in new {
        let program = ebpf.program_mut(name).ok_or_else(|| missing(name))?;
        attach_one(program, name, &root.fd).map_err(|error| {
            if is_refused(&error) {
                let text = format!(
                    "{name}: the root of cgroup v2 refuses another program, for one is attached to it exclusively; \
                     `sudo hbpf doctor` names it"
                );
                return ProbeError(text);
            }
            ProbeError::new(name, &error)
        })?;
    }
    Ok(root.place)
}

pub(super) fn load(program: &mut Program) -> Result<(), ProgramError> {
    match program {
        Program::CgroupSkb(program) => program.load(),
        Program::CgroupSock(program) => program.load(),
        Program::CgroupSockAddr(program) => program.load(),
        Program::SockOps(program) => program.load(),
        Program::CgroupDevice(program) => program.load(),
        _ => Err(ProgramError::UnexpectedProgramType),
    }
}

pub(super) fn attach_one(program: &mut Program, name: &str, root: &OwnedFd) -> Result<(), ProgramError> {
    // The kernel treats every link as one that allows others beside it.
    let mode = CgroupAttachMode::Single;
    match program {
        Program::CgroupSkb(program) => {
            let hook =
                if name.ends_with("_ingress") { CgroupSkbAttachType::Ingress } else { CgroupSkbAttachType::Egress };
            CgroupSkb::attach(program, root, hook, mode).map(drop)
        }
        Program::CgroupSock(program) => CgroupSock::attach(program, root, mode).map(drop),
        Program::CgroupSockAddr(program) => CgroupSockAddr::attach(program, root, mode).map(drop),
        Program::SockOps(program) => SockOps::attach(program, root, mode).map(drop),
        Program::CgroupDevice(program) => CgroupDevice::attach(program, root, mode).map(drop),
        _ => Err(ProgramError::UnexpectedProgramType),
    }
}

/// Whether attaching (not loading) was not permitted.
fn is_refused(error: &ProgramError) -> bool {
    let ProgramError::SyscallError(error) = error else { return false };
    error.call == "bpf_link_create" && error.io_error.raw_os_error() == Some(nix::libc::EPERM)
}
