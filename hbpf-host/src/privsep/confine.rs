//! What the unprivileged side may still do: read the ring, compute, draw.

use landlock::{
    ABI, Access, AccessFs, AccessNet, LandlockStatus, Ruleset, RulesetAttr, RulesetError, RulesetStatus, Scope,
};
use nix::libc;

use super::filter::{Argument, ConfineError, Filter};

/// The newest Landlock that is asked for. An older kernel gives what it has.
pub(super) const LANDLOCK: ABI = ABI::V6;

/// What holds the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Confinement {
    /// The second lock on files and network; the system-call filter is the first, and is always there.
    pub landlock: Landlock,
}

/// How far Landlock could be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Landlock {
    /// Files, TCP, abstract sockets and signals.
    Whole,
    /// What an older kernel has of it.
    Part,
    /// Not in this kernel, or switched off at boot.
    Absent,
}

/// Confines all threads of this process, present and future, to what reading the ring, computing and drawing need.
///
/// From here on no file can be opened and no program run; no socket but a pair of unix ones can be made. What needs files
/// (configuration, time zone, terminal description, output files) must be open or read before. To be called before any
/// thread starts: older kernels put Landlock on the calling thread only.
pub fn confine() -> Result<Confinement, ConfineError> {
    let landlock = restrict().map_err(|error| ConfineError::new(&error))?;
    filter().install()?;
    Ok(Confinement { landlock })
}

/// No file, no TCP, no abstract socket and no signal to others: there are no rules that allow any.
fn restrict() -> Result<Landlock, RulesetError> {
    let rules = Ruleset::default()
        .handle_access(AccessFs::from_all(LANDLOCK))?
        .handle_access(AccessNet::from_all(LANDLOCK))?
        .scope(Scope::from_all(LANDLOCK))?;
    let status = rules.create()?.restrict_self()?;
    Ok(match (status.landlock, status.ruleset) {
        (LandlockStatus::NotEnabled | LandlockStatus::NotImplemented, _) => Landlock::Absent,
        (_, RulesetStatus::FullyEnforced) => Landlock::Whole,
        (_, RulesetStatus::PartiallyEnforced) => Landlock::Part,
        (_, RulesetStatus::NotEnforced) => Landlock::Absent,
    })
}

fn filter() -> Filter {
    let mut filter = Filter::common();
    // Reading and setting the terminal's modes and size; not TIOCSTI, which would type into the user's shell.
    // rustix, and new C libraries, use the second form of the calls and do not fall back from EPERM.
    filter.allow_values(libc::SYS_ioctl, 1, &[libc::TCGETS, libc::TCSETS, libc::TCSETSW, libc::TCSETSF]);
    filter.allow_values(libc::SYS_ioctl, 1, &[libc::TCGETS2, libc::TCSETS2, libc::TCSETSW2, libc::TCSETSF2]);
    filter.allow_values(libc::SYS_ioctl, 1, &[libc::TIOCGWINSZ, libc::FIONBIO, libc::FIONREAD]);
    // How threads wake each other. Streams only: datagrams could be sent to any address.
    let stream = Argument::Masked(1, 0xf, libc::SOCK_STREAM as u64);
    filter.allow_if(libc::SYS_socketpair, &[Argument::Is(0, libc::AF_UNIX as u64), stream]);
    filter
}
