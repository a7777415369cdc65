//! Giving up privileges, and finding out which ones there are.

use std::io;

use nix::errno::Errno;
use nix::libc;
use nix::sys::prctl;
use nix::unistd::{Gid, Uid, geteuid, getresgid, getresuid, setgroups, setresgid, setresuid};

/// The user and group that own nothing, by convention the same on all distributions.
const NOBODY: Account = Account { uid: 65534, gid: 65534 };

/// No kernel knows this many capabilities (two words of 32).
const MAX_CAPABILITIES: u64 = 64;

/// `_LINUX_CAPABILITY_VERSION_3`: sets of 64 bits in two words.
const CAPABILITY_VERSION: u32 = 0x2008_0522;

/// A user and a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Account {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

impl Account {
    /// The user who called sudo, if one did and is not root.
    fn of_sudo() -> Option<Self> {
        Self::parse(&std::env::var("SUDO_UID").ok()?, &std::env::var("SUDO_GID").ok()?)
    }

    /// Reads an account; root and the two "no change" values are none.
    fn parse(uid: &str, gid: &str) -> Option<Self> {
        let number = |text: &str| text.parse::<u32>().ok().filter(|id| (1..u32::MAX).contains(id));
        Some(Self { uid: number(uid)?, gid: number(gid)? })
    }
}

/// Which step of giving up privileges failed.
#[derive(Debug, thiserror::Error)]
#[error("{step}: {error}")]
pub struct DropError {
    step: &'static str,
    error: io::Error,
}

/// Gives up everything: user, groups, capabilities, and the chance to get any of them back.
pub(super) fn give_up(account: Option<Account>) -> Result<(), DropError> {
    let failed = |step: &'static str| move |error: Errno| DropError { step, error: error.into() };
    empty_bounding_set();
    if geteuid().is_root() {
        let account = account.or_else(Account::of_sudo).unwrap_or(NOBODY);
        let (uid, gid) = (Uid::from_raw(account.uid), Gid::from_raw(account.gid));
        setgroups(&[]).map_err(failed("supplementary groups"))?;
        setresgid(gid, gid, gid).map_err(failed("group"))?;
        setresuid(uid, uid, uid).map_err(failed("user"))?;
        let (users, groups) = (getresuid().map_err(failed("user"))?, getresgid().map_err(failed("group"))?);
        if [users.real, users.effective, users.saved] != [uid; 3]
            || [groups.real, groups.effective, groups.saved] != [gid; 3]
        {
            return Err(failed("user and group")(Errno::EPERM));
        }
    }
    clear_capabilities().map_err(failed("capabilities"))?;
    prctl::set_no_new_privs().map_err(failed("no_new_privs"))?;
    // Other processes of this user must not read captured bytes or the ring from us, nor speak in our name.
    prctl::set_dumpable(false).map_err(failed("dumpable"))?;
    if capabilities().map_err(failed("capabilities"))?.any() {
        return Err(failed("capabilities")(Errno::EPERM));
    }
    Ok(())
}

/// Without CAP_SETPCAP the bounding set stays; with no_new_privs it then limits nothing that we could gain.
fn empty_bounding_set() {
    for capability in 0..MAX_CAPABILITIES {
        // SAFETY: PR_CAPBSET_DROP takes a number; one that the kernel does not know is refused.
        unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) };
    }
}

fn clear_capabilities() -> Result<(), Errno> {
    // SAFETY: PR_CAP_AMBIENT_CLEAR_ALL takes no further arguments. Kernels without ambient capabilities refuse it.
    unsafe { libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) };
    let mut header = Header { version: CAPABILITY_VERSION, pid: 0 };
    let none = [Sets::default(); 2];
    // SAFETY: header and data have the layout of version 3 and live for the call.
    Errno::result(unsafe { libc::syscall(libc::SYS_capset, &raw mut header, none.as_ptr()) }).map(drop)
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

/// The capability sets of this process, as bit masks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Capabilities {
    pub(crate) effective: u64,
    permitted: u64,
    inheritable: u64,
}

impl Capabilities {
    /// Loading programs at all.
    const BPF: u32 = 39;
    /// Tracing programs and perf events.
    const PERFMON: u32 = 38;
    /// Programs on control groups.
    const NET_ADMIN: u32 = 12;
    /// What stood for the first two before Linux 5.8, and still does.
    const SYS_ADMIN: u32 = 21;
    /// Memory maps of processes of other users.
    const SYS_PTRACE: u32 = 19;

    fn any(self) -> bool {
        self.effective | self.permitted | self.inheritable != 0
    }

    fn has(self, capability: u32) -> bool {
        self.effective >> capability & 1 == 1
    }

    /// Whether it may be found out which libraries processes of other users have loaded.
    pub(crate) fn may_look_into_others(self) -> bool {
        self.has(Self::SYS_PTRACE)
    }

    /// Names of the capabilities that probes need and this process lacks.
    pub(crate) fn missing_for_probes(self) -> Vec<&'static str> {
        let admin = self.has(Self::SYS_ADMIN);
        let needed = [
            ("CAP_BPF", admin || self.has(Self::BPF)),
            ("CAP_PERFMON", admin || self.has(Self::PERFMON)),
            ("CAP_NET_ADMIN", self.has(Self::NET_ADMIN)),
        ];
        needed.into_iter().filter(|(_, held)| !held).map(|(name, _)| name).collect()
    }

    #[cfg(test)]
    pub(crate) fn with_effective(effective: u64) -> Self {
        Self { effective, permitted: 0, inheritable: 0 }
    }
}

/// What this process may do.
pub(crate) fn capabilities() -> Result<Capabilities, Errno> {
    let mut header = Header { version: CAPABILITY_VERSION, pid: 0 };
    let mut sets = [Sets::default(); 2];
    // SAFETY: header and data have the layout of version 3 and live for the call.
    Errno::result(unsafe { libc::syscall(libc::SYS_capget, &raw mut header, sets.as_mut_ptr()) })?;
    let [low, high] = sets;
    let join = |low: u32, high: u32| u64::from(high) << 32 | u64::from(low);
    Ok(Capabilities {
        effective: join(low.effective, high.effective),
        permitted: join(low.permitted, high.permitted),
        inheritable: join(low.inheritable, high.inheritable),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_ordinary_account_is_taken_from_sudo() {
        assert_eq!(Account::parse("1000", "100"), Some(Account { uid: 1000, gid: 100 }));
        for (uid, gid) in [("0", "1000"), ("1000", "0"), ("-1", "1"), ("4294967295", "1"), ("", "1"), ("1 ", "1")] {
            assert_eq!(Account::parse(uid, gid), None, "{uid:?} {gid:?}");
        }
    }

    #[test]
    fn missing_capabilities_are_named() {
        let with = |effective| Capabilities::with_effective(effective).missing_for_probes();
        assert_eq!(with(0), ["CAP_BPF", "CAP_PERFMON", "CAP_NET_ADMIN"]);
        assert_eq!(with(1 << 39 | 1 << 12), ["CAP_PERFMON"]);
        assert!(with(1 << 21 | 1 << 12).is_empty());
        assert!(with(1 << 38 | 1 << 39 | 1 << 12).is_empty());
    }

    #[test]
    fn reading_our_own_capabilities_agrees_with_proc() {
        let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap();
        assert_eq!(capabilities().unwrap().effective, u64::from_str_radix(line.trim(), 16).unwrap());
    }
}
