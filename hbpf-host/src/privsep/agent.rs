//! The processes of an agent: one that looks after the others, one that collects, one that speaks with the network.

use std::io;
use std::os::fd::RawFd;

use landlock::{Access, AccessFs, PathBeneath, PathFd, Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetError, Scope};
use nix::libc;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use nix::unistd::{ForkResult, Pid, fork};

use super::confine::LANDLOCK;
use super::filter::{Argument, ConfineError, Filter};
use super::{SplitError, SplitOptions, credentials, require_one_thread};
use crate::helper;

/// Where the C library reads how names are resolved: `/etc/resolv.conf` may lead to the second.
const RESOLVER_FILES: [&str; 2] = ["/etc", "/run"];

/// Signals that only the process which looks after the others answers to.
const FOR_THE_FIRST: [Signal; 4] = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGPIPE];

/// Starts a process that runs `run` and ends with what it gives. Of what is open it has standard input, output and error, and what
/// is named. It is to end when what connects it to this one is closed.
///
/// # Errors
///
/// If the operating system refuses, or there are other threads.
pub fn start_process(keep: &[RawFd], run: impl FnOnce() -> u8) -> Result<Pid, SplitError> {
    require_one_thread()?;
    // SAFETY: this is the only thread, so the child's memory is as consistent as ours.
    match unsafe { fork() }.map_err(io::Error::from)? {
        ForkResult::Parent { child } => Ok(child),
        ForkResult::Child => {
            let ignored = FOR_THE_FIRST.map(|signal| (signal, SigHandler::SigIgn));
            for (signal, handler) in ignored.into_iter().chain([(Signal::SIGCHLD, SigHandler::SigDfl)]) {
                let action = SigAction::new(handler, SaFlags::empty(), SigSet::empty());
                // SAFETY: neither runs any code of ours.
                let _ = unsafe { sigaction(signal, &action) };
            }
            helper::close_others(keep);
            let code = run();
            // SAFETY: what this process has to clean up it has.
            unsafe { libc::_exit(i32::from(code)) }
        }
    }
}

/// Gives up all privileges and confines this process to what speaking with the network needs: sockets of the internet that listen
/// already, connections to others, and reading how names are resolved. To be called before any thread starts.
///
/// # Errors
///
/// If privileges cannot be given up, or the filter not be installed.
pub fn hold_publisher(options: &SplitOptions) -> Result<(), super::HoldError> {
    credentials::give_up(options.account)?;
    restrict().map_err(|error| ConfineError::new(&error))?;
    Ok(filter().install()?)
}

/// No file but those may be read, and none written. Landlock is the second lock; an old kernel has the first alone.
fn restrict() -> Result<(), RulesetError> {
    let mut rules =
        Ruleset::default().handle_access(AccessFs::from_all(LANDLOCK))?.scope(Scope::from_all(LANDLOCK))?.create()?;
    for path in RESOLVER_FILES {
        // What is not there need not be read.
        let Ok(directory) = PathFd::new(path) else { continue };
        rules = rules.add_rule(PathBeneath::new(directory, AccessFs::ReadFile | AccessFs::ReadDir))?;
    }
    rules.restrict_self().map(|_| ())
}

fn filter() -> Filter {
    use Argument::{Is, Masked, Without};
    let mut filter = Filter::common();
    let writing = (libc::O_WRONLY | libc::O_RDWR | libc::O_CREAT | libc::O_TRUNC | libc::O_PATH) as u64;
    filter.allow_if(libc::SYS_openat, &[Without(2, writing)]);
    // The resolver looks whether its files have changed.
    filter.allow(&[libc::SYS_newfstatat, libc::SYS_statx]);
    for family in [libc::AF_INET, libc::AF_INET6] {
        for kind in [libc::SOCK_STREAM, libc::SOCK_DGRAM] {
            filter.allow_if(libc::SYS_socket, &[Is(0, family as u64), Masked(1, 0xf, kind as u64)]);
        }
    }
    filter.allow(&[
        libc::SYS_connect,
        libc::SYS_accept4,
        libc::SYS_getsockname,
        libc::SYS_getpeername,
        libc::SYS_setsockopt,
        libc::SYS_sendmmsg,
        libc::SYS_sendto,
    ]);
    filter.allow_values(libc::SYS_ioctl, 1, &[libc::FIONBIO, libc::FIONREAD]);
    filter
}
