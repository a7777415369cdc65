//! One process becomes two: a helper that keeps the privileges, and the rest, which gives them up for good.

mod agent;
mod capabilities;
mod client;
mod confine;
mod credentials;
mod filter;
mod guard;
mod output;
mod scribe;

use std::io;
use std::os::fd::AsRawFd;
use std::path::PathBuf;

use nix::libc;
use nix::unistd::{ForkResult, fork};

pub use crate::socket::SocketError;
pub use agent::{hold_publisher, start_process};
#[cfg(test)]
pub(crate) use capabilities::Capability;
pub(crate) use capabilities::{Capabilities, Purpose};
pub use client::HelperClient;
pub use confine::{Confinement, Landlock, confine};
use credentials::Keeper;
pub use credentials::{Account, DropError};
pub use filter::ConfineError;
pub use output::{OutputError, create_output};
pub use scribe::{Refusal, Scribe};

use crate::gpu::GpuReader;
use crate::protocol::Group;
use crate::{gpu, helper, socket};

/// How to split.
#[derive(Clone, Debug, Default)]
pub struct SplitOptions {
    /// Whom the unprivileged side runs as when it was started as root; `None`: the user who called sudo, or nobody.
    pub account: Option<Account>,
    /// NVIDIA's management library (`libnvidia-ml.so.1`); `None`: the system's, where a driver is loaded.
    pub nvml_library: Option<PathBuf>,
    /// Whether the helper may ask inference servers on this machine about themselves.
    pub engines: bool,
}

/// Why the process could not be split, or its privileges not be given up.
#[derive(Debug, thiserror::Error)]
pub enum SplitError {
    /// Fork copies only the calling thread: whatever another one holds stays locked for ever. Nor do others give up
    /// capabilities with it.
    #[error("the process has {0} threads already")]
    Threads(usize),
    /// The operating system refused.
    #[error("starting the helper process: {0}")]
    Io(#[from] io::Error),
    /// Running on with privileges would defeat the purpose.
    #[error("giving up privileges: {0}")]
    Drop(#[from] DropError),
}

/// Forks the privileged helper and gives up all privileges of the calling process.
///
/// To be called before any thread starts and before anything is opened or printed. The helper never returns from here.
pub fn split(options: &SplitOptions) -> Result<HelperClient, SplitError> {
    require_one_thread()?;
    let gpus = fork_gpu_reader(options)?;
    let ((ours, theirs), (our_lane, their_lane)) = (socket::pair()?, socket::pair()?);
    // SAFETY: this is the only thread, so the child's memory is as consistent as ours.
    match unsafe { fork() }.map_err(io::Error::from)? {
        ForkResult::Child => {
            drop((ours, our_lane));
            helper::main(theirs, their_lane, gpus, options)
        }
        ForkResult::Parent { child } => {
            drop((theirs, their_lane, gpus));
            take_precedence();
            let client = HelperClient::new(ours, our_lane, child);
            credentials::give_up(options.account)?;
            Ok(client)
        }
    }
}

/// Forks the process that reads GPUs, if there are any to read.
fn fork_gpu_reader(options: &SplitOptions) -> Result<Option<GpuReader>, SplitError> {
    let Some(sources) = gpu::Sources::find(options.nvml_library.as_deref()) else { return Ok(None) };
    let (ours, theirs) = socket::pair()?;
    // SAFETY: this is the only thread, so the child's memory is as consistent as ours.
    match unsafe { fork() }.map_err(io::Error::from)? {
        ForkResult::Child => {
            drop(ours);
            helper::detach_from_terminal();
            helper::close_others(&[theirs.as_raw_fd()]);
            if credentials::give_up(options.account).is_ok() {
                gpu::read_for_ever(theirs, &sources);
            }
            // SAFETY: this process has one thread and nothing to clean up.
            unsafe { libc::_exit(1) }
        }
        ForkResult::Parent { child } => Ok(Some(GpuReader { socket: ours, pid: child.as_raw().cast_unsigned() })),
    }
}

/// Has the scheduler prefer this process to others of its session and control group. On a machine with more to do than it has
/// cores, records would be lost while a fair share is waited for, and the view would stand still just when it is needed.
///
/// The helper is left as it is: putting probes in is work that can wait. Whoever has set a niceness or a policy is obeyed, and
/// without CAP_SYS_NICE nothing changes.
fn take_precedence() {
    /// Some ten times the share of an ordinary process, of which reading takes but a small part.
    const NICENESS: libc::c_int = -10;
    // SAFETY: neither call touches memory. Zero is what a process has of which nothing was asked; it may also mean an error.
    let is_ordinary =
        unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) == 0 && libc::sched_getscheduler(0) == libc::SCHED_OTHER };
    if is_ordinary {
        // SAFETY: as above.
        unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, NICENESS) };
    }
}

/// Gives up all privileges of the calling process without a helper, for what needs them in its beginning only.
///
/// To be called before any thread starts.
pub fn renounce(options: &SplitOptions) -> Result<(), SplitError> {
    require_one_thread()?;
    Ok(credentials::give_up(options.account)?)
}

/// Keeps the privileges that the helper needs and nothing else, and holds this process to the helper's list of calls.
///
/// The helper does this first of all.
pub fn hold_helper(options: &SplitOptions) -> Result<(), HoldError> {
    credentials::keep_needed(Keeper::Helper(options.account))?;
    Ok(guard::guard(options.engines)?)
}

/// Why a privileged process could not be held to what it needs.
#[derive(Debug, thiserror::Error)]
pub enum HoldError {
    /// Privileges that are not needed could not be given up.
    #[error("giving up privileges: {0}")]
    Drop(#[from] DropError),
    /// The filter could not be installed.
    #[error(transparent)]
    Confine(#[from] ConfineError),
}

/// What a doctor may do before it renounces: what the helper may, and renouncing.
pub(crate) fn hold_doctor() -> Result<(), HoldError> {
    credentials::keep_needed(Keeper::Doctor)?;
    Ok(guard::guard_leaving()?)
}

/// What this process lacks to attach a group of probes, and what mends it; `None` if it lacks nothing.
pub(crate) fn lack(group: Group) -> Option<String> {
    let missing =
        Capabilities::held().map_or_else(|_| vec!["capabilities"], |held| held.missing(Purpose::Probes(group)));
    if missing.is_empty() {
        return None;
    }
    Some(format!("probes need {}, which this process lacks; run `sudo hbpf top`", missing.join(", ")))
}

fn require_one_thread() -> Result<(), SplitError> {
    let threads = std::fs::read_dir("/proc/self/task").map_or(1, Iterator::count);
    if threads > 1 { Err(SplitError::Threads(threads)) } else { Ok(()) }
}
