//! Giving up privileges.

use std::io;

use nix::errno::Errno;
use nix::libc::RLIM_INFINITY;
use nix::sys::prctl;
use nix::sys::resource::{Resource, setrlimit};
use nix::unistd::{Gid, Uid, geteuid, getresgid, getresuid, setgroups, setresgid, setresuid};

use super::capabilities::{self, Capabilities};

/// The user and group that own nothing, by convention the same on all distributions.
const NOBODY: Account = Account { uid: 65534, gid: 65534 };

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
    pub(super) fn of_sudo() -> Option<Self> {
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
    capabilities::empty_bounding_set();
    stop_being_root(account)?;
    keep_nothing()
}

/// Gives up all that the user who has started hbpf does not have: under sudo that is who has called it, and without it who it is
/// already, root included, but without its capabilities.
pub(super) fn be_the_user() -> Result<(), DropError> {
    capabilities::empty_bounding_set();
    if let Some(account) = Account::of_sudo() {
        stop_being_root(Some(account))?;
    }
    keep_nothing()
}

fn keep_nothing() -> Result<(), DropError> {
    let failed = |step: &'static str| move |error: Errno| DropError { step, error: error.into() };
    capabilities::keep_none().map_err(failed("capabilities"))?;
    prctl::set_no_new_privs().map_err(failed("no_new_privs"))?;
    hide_memory()?;
    if Capabilities::held().map_err(failed("capabilities"))?.any() {
        return Err(failed("capabilities")(Errno::EPERM));
    }
    Ok(())
}

/// Becomes an ordinary user if this process is root's: those who read need not own what is root's.
fn stop_being_root(account: Option<Account>) -> Result<(), DropError> {
    if !geteuid().is_root() {
        return Ok(());
    }
    let failed = |step: &'static str| move |error: Errno| DropError { step, error: error.into() };
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
    Ok(())
}

/// Who keeps privileges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Keeper {
    /// The helper, which is to be an ordinary user with some capabilities.
    Helper(Option<Account>),
    /// The doctor, which is going to give up all of it.
    Doctor,
}

/// Keeps what is needed to look and to probe, and no way to more.
pub(super) fn keep_needed(keeper: Keeper) -> Result<(), DropError> {
    let failed = |step: &'static str| move |error: Errno| DropError { step, error: error.into() };
    // Before Linux 5.11 this limit counts for BPF, and what raises it is about to go.
    let _ = setrlimit(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY);
    capabilities::empty_bounding_set();
    if let Keeper::Helper(account) = keeper {
        prctl::set_keepcaps(true).map_err(failed("keeping capabilities"))?;
        stop_being_root(account)?;
    }
    capabilities::keep_needed(keeper == Keeper::Doctor).map_err(failed("capabilities"))?;
    prctl::set_no_new_privs().map_err(failed("no_new_privs"))?;
    hide_memory()
}

/// Other processes of this user must not read captured bytes or the ring from us, nor speak in our name; and what we have
/// in memory must not be written to a core file.
fn hide_memory() -> Result<(), DropError> {
    let failed = |step: &'static str| move |error: Errno| DropError { step, error: error.into() };
    prctl::set_dumpable(false).map_err(failed("dumpable"))?;
    setrlimit(Resource::RLIMIT_CORE, 0, 0).map_err(failed("core files"))
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
}
