//! Which capabilities there are, what each is needed for, and keeping no others.

use nix::errno::Errno;
use nix::libc;

use crate::probes::{links_have_many_places, raw};
use crate::protocol::Group;

/// No kernel knows this many capabilities (two words of 32).
const MAX_CAPABILITIES: u64 = 64;

/// `_LINUX_CAPABILITY_VERSION_3`: sets of 64 bits in two words.
const CAPABILITY_VERSION: u32 = 0x2008_0522;

/// The capabilities that hbpf has a use for; see docs/security.md.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Capability {
    /// Files and directories of other users: libraries in containers, `/proc/PID/fd`.
    DacReadSearch = 2,
    /// Giving up root's group and user: of the doctor, which does so late.
    Setgid = 6,
    /// See [`Self::Setgid`].
    Setuid = 7,
    /// Programs on control groups.
    NetAdmin = 12,
    /// Memory maps, descriptors and roots of other users' processes.
    SysPtrace = 19,
    /// Uprobes on kernels that ask for it and have no links of many places, run times of programs, a mount of cgroup v2 of our
    /// own; and what stood for BPF and PERFMON before Linux 5.8, and still does.
    SysAdmin = 21,
    /// Tracing programs and perf events.
    Perfmon = 38,
    /// Loading programs at all.
    Bpf = 39,
    /// Files that are mapped, also those that have been deleted or replaced.
    CheckpointRestore = 40,
}

use Capability::{Bpf, CheckpointRestore, DacReadSearch, NetAdmin, Perfmon, Setgid, Setuid, SysAdmin, SysPtrace};

/// What the helper keeps, as far as it was given it. Everything else goes before it does anything.
const KEPT: [Capability; 7] = [DacReadSearch, NetAdmin, SysPtrace, SysAdmin, Perfmon, Bpf, CheckpointRestore];

/// What giving up the rest takes.
const LEAVING: [Capability; 2] = [Setgid, Setuid];

impl Capability {
    fn name(self) -> &'static str {
        match self {
            DacReadSearch => "CAP_DAC_READ_SEARCH",
            Setgid => "CAP_SETGID",
            Setuid => "CAP_SETUID",
            NetAdmin => "CAP_NET_ADMIN",
            SysPtrace => "CAP_SYS_PTRACE",
            SysAdmin => "CAP_SYS_ADMIN",
            Perfmon => "CAP_PERFMON",
            Bpf => "CAP_BPF",
            CheckpointRestore => "CAP_CHECKPOINT_RESTORE",
        }
    }

    fn mask(self) -> u64 {
        1 << self as u32
    }
}

/// What capabilities are needed for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// A group of probes.
    Probes(Group),
    /// Seeing which libraries and sockets processes of other users hold.
    OtherUsers,
    /// Asking inference servers that have a network of their own, as in containers.
    OtherNetworks,
    /// Having the kernel count runs and run times of programs.
    RunTimes,
}

impl Purpose {
    /// Of each list one is enough; the first is the one to name.
    fn needs(self, uprobes_need_admin: bool) -> Vec<&'static [Capability]> {
        match self {
            Self::Probes(Group::LlmPlain | Group::Net | Group::Device) => {
                vec![&[Bpf, SysAdmin], &[Perfmon, SysAdmin], &[NetAdmin]]
            }
            Self::Probes(Group::LlmTls | Group::Tools) if uprobes_need_admin => {
                vec![&[Bpf, SysAdmin], &[Perfmon, SysAdmin], &[SysAdmin]]
            }
            Self::Probes(Group::LlmTls | Group::Tools | Group::Block) => vec![&[Bpf, SysAdmin], &[Perfmon, SysAdmin]],
            Self::OtherUsers => vec![&[SysPtrace], &[DacReadSearch], &[CheckpointRestore, SysAdmin]],
            Self::OtherNetworks | Self::RunTimes => vec![&[SysAdmin]],
        }
    }
}

/// The capability sets of this process, as bit masks, and what this kernel asks of them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Capabilities {
    pub(crate) effective: u64,
    permitted: u64,
    inheritable: u64,
    uprobes_need_admin: bool,
}

impl Capabilities {
    /// What this process may do.
    pub(crate) fn held() -> Result<Self, Errno> {
        let [low, high] = get()?;
        let join = |low: u32, high: u32| u64::from(high) << 32 | u64::from(low);
        let held = Self {
            effective: join(low.effective, high.effective),
            permitted: join(low.permitted, high.permitted),
            inheritable: join(low.inheritable, high.inheritable),
            uprobes_need_admin: false,
        };
        // Links of many places are refused to nobody who may load the programs.
        let uprobes_need_admin =
            || held.has(Bpf) && held.has(Perfmon) && raw::uprobes_are_refused() && !links_have_many_places();
        Ok(Self { uprobes_need_admin: !held.has(SysAdmin) && uprobes_need_admin(), ..held })
    }

    pub(super) fn any(self) -> bool {
        self.effective | self.permitted | self.inheritable != 0
    }

    fn has(self, capability: Capability) -> bool {
        self.effective & capability.mask() != 0
    }

    /// Names of the capabilities that this needs and this process lacks.
    pub(crate) fn missing(self, purpose: Purpose) -> Vec<&'static str> {
        let needs = purpose.needs(self.uprobes_need_admin);
        let lacks = needs.into_iter().filter(|any_of| !any_of.iter().any(|capability| self.has(*capability)));
        lacks.map(|any_of| any_of[0].name()).collect()
    }

    #[cfg(test)]
    pub(crate) fn with(effective: &[Capability], uprobes_need_admin: bool) -> Self {
        let effective = effective.iter().map(|capability| capability.mask()).sum();
        Self { effective, permitted: 0, inheritable: 0, uprobes_need_admin }
    }

    #[cfg(test)]
    pub(crate) fn all() -> Self {
        Self::with(&KEPT, true)
    }
}

/// Gives up all capabilities but those that the helper needs, and the way to others; with `leaving` also not those that
/// giving up the rest later takes.
pub(super) fn keep_needed(leaving: bool) -> Result<(), Errno> {
    let leaving = if leaving { &LEAVING[..] } else { &[] };
    let kept: u64 = KEPT.iter().chain(leaving).map(|capability| capability.mask()).sum();
    clear_ambient_set();
    let mut sets = get()?;
    for (word, kept) in sets.iter_mut().zip([kept as u32, (kept >> 32) as u32]) {
        word.permitted &= kept;
        word.effective = word.permitted;
        word.inheritable = 0;
    }
    set(&sets)
}

/// Gives up all capabilities.
pub(super) fn keep_none() -> Result<(), Errno> {
    clear_ambient_set();
    set(&[Sets::default(); 2])
}

/// Without CAP_SETPCAP the bounding set stays; with no_new_privs it then limits nothing that we could gain.
pub(super) fn empty_bounding_set() {
    for capability in 0..MAX_CAPABILITIES {
        // SAFETY: PR_CAPBSET_DROP takes a number; one that the kernel does not know is refused.
        unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) };
    }
}

fn clear_ambient_set() {
    // SAFETY: PR_CAP_AMBIENT_CLEAR_ALL takes no further arguments. Kernels without ambient capabilities refuse it.
    unsafe { libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) };
}

#[repr(C)]
struct Header {
    version: u32,
    pid: i32,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Sets {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

fn get() -> Result<[Sets; 2], Errno> {
    let mut header = Header { version: CAPABILITY_VERSION, pid: 0 };
    let mut sets = [Sets::default(); 2];
    // SAFETY: header and data have the layout of version 3 and live for the call.
    Errno::result(unsafe { libc::syscall(libc::SYS_capget, &raw mut header, sets.as_mut_ptr()) })?;
    Ok(sets)
}

fn set(sets: &[Sets; 2]) -> Result<(), Errno> {
    let mut header = Header { version: CAPABILITY_VERSION, pid: 0 };
    // SAFETY: header and data have the layout of version 3 and live for the call.
    Errno::result(unsafe { libc::syscall(libc::SYS_capset, &raw mut header, sets.as_ptr()) }).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named_for_each_purpose() {
        let missing = |effective: &[Capability], purpose| Capabilities::with(effective, true).missing(purpose);
        let (tls, plain) = (Purpose::Probes(Group::LlmTls), Purpose::Probes(Group::LlmPlain));
        assert_eq!(missing(&[], plain), ["CAP_BPF", "CAP_PERFMON", "CAP_NET_ADMIN"]);
        assert_eq!(missing(&[Bpf, NetAdmin], plain), ["CAP_PERFMON"]);
        assert!(missing(&[Bpf, Perfmon, NetAdmin], plain).is_empty());
        assert_eq!(missing(&[Bpf, Perfmon, NetAdmin], tls), ["CAP_SYS_ADMIN"]);
        // It stands for the two that came after it, and not for CAP_NET_ADMIN.
        assert!(missing(&[SysAdmin], tls).is_empty());
        assert_eq!(missing(&[SysAdmin], plain), ["CAP_NET_ADMIN"]);
        let others = ["CAP_SYS_PTRACE", "CAP_DAC_READ_SEARCH", "CAP_CHECKPOINT_RESTORE"];
        assert_eq!(missing(&[], Purpose::OtherUsers), others);
        assert_eq!(missing(&[Bpf], Purpose::RunTimes), ["CAP_SYS_ADMIN"]);
        let older = Capabilities::with(&[Bpf, Perfmon], false);
        assert!(older.missing(tls).is_empty());
    }

    #[test]
    fn reading_our_own_capabilities_agrees_with_proc() {
        let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap();
        assert_eq!(Capabilities::held().unwrap().effective, u64::from_str_radix(line.trim(), 16).unwrap());
    }
}
