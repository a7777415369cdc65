//! The process that reads GPUs.

use std::os::fd::{AsFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use hbpf_core::label::Text;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nvml_wrapper::Nvml;

use super::nvidia::{self, Nvidia};
use super::{INTERVAL, Sources, Word};
use crate::socket::{Socket, SocketError};

/// How soon a library that could not be used is tried again: its driver may be loaded meanwhile.
const RETRY: Duration = Duration::from_secs(30);

/// Readings of which nothing came until the library is opened anew.
const MAX_FAILED: u32 = 10;

/// Reads until nobody listens any more. The caller has given up all privileges.
pub(crate) fn main(socket: OwnedFd, sources: &Sources) -> ! {
    watch(&socket);
    let mut helper = Socket::new(socket);
    let ended = catch_unwind(AssertUnwindSafe(|| {
        // Ends when the helper has gone.
        while read(&mut helper, sources).is_ok() {}
    }));
    // SAFETY: this process has nothing to clean up that the kernel does not clean up; the driver's library may have put
    // in functions for the end of a process that hang.
    unsafe { libc::_exit(i32::from(ended.is_err())) }
}

/// Ends this process with the helper, also while a call of a driver's library hangs. (A signal at the death of the parent
/// would not come: Landlock keeps the front end from signalling anybody.)
fn watch(socket: &OwnedFd) {
    let Ok(socket) = socket.try_clone() else { return };
    let (started, has_started) = mpsc::channel();
    // Without it a call that hangs outlives hbpf, and nothing else is amiss.
    let _ = std::thread::Builder::new().name("watch".into()).spawn(move || {
        let _ = started.send(());
        drop(started);
        // The end of the other side is told whether or not it is asked for.
        let mut ends = [PollFd::new(socket.as_fd(), PollFlags::empty())];
        while poll(&mut ends, PollTimeout::NONE).is_err() {}
        // SAFETY: as in `main`.
        unsafe { libc::_exit(0) }
    });
    // What a thread needs from the dynamic loader it must have before a library is loaded: that may hang, and holds the
    // loader's lock.
    let _ = has_started.recv();
}

/// Reads until NVIDIA's library is to be tried again.
fn read(helper: &mut Socket, sources: &Sources) -> Result<(), SocketError> {
    let nvml = match &sources.library {
        Some(library) => open(library, helper)?,
        None => None,
    };
    let mut nvidia = nvml.as_ref().map(Nvidia::new);
    let try_again = (sources.library.is_some() && nvml.is_none()).then(|| Instant::now() + RETRY);
    let mut failed = 0;
    while try_again.is_none_or(|when| Instant::now() < when) && failed < MAX_FAILED {
        let began = Instant::now();
        let count = nvidia.as_ref().map_or(0, Nvidia::count);
        let mut dead = 0;
        if let Some(nvidia) = &mut nvidia {
            for index in 0..count {
                // Told at once: the next one may hang.
                let gpu = nvidia.read_one(index);
                dead += u32::from(gpu.utilization_percent.is_none() && gpu.problem.is_some());
                helper.send(&Word::Gpu(Box::new(gpu)), None)?;
            }
        }
        // After its driver was loaded anew a library answers nothing until it is opened anew.
        failed = if count > 0 && dead == count { failed + 1 } else { 0 };
        for (index, card) in (count..).zip(&sources.cards) {
            helper.send(&Word::Gpu(Box::new(card.read(index))), None)?;
        }
        helper.send(&Word::Complete, None)?;
        wait(helper, INTERVAL.saturating_sub(began.elapsed()))?;
    }
    Ok(())
}

/// The library, if it can be used; otherwise says why not.
fn open(library: &Path, helper: &mut Socket) -> Result<Option<Nvml>, SocketError> {
    match Nvml::builder().lib_path(library.as_os_str()).init() {
        Ok(nvml) => Ok(Some(nvml)),
        Err(error) => {
            helper.send(&Word::Problem(Text::new(&nvidia::describe(&error))), None)?;
            Ok(None)
        }
    }
}

/// Waits, but not for a helper that has gone. It says nothing, so anything that comes is its end.
fn wait(helper: &Socket, time: Duration) -> Result<(), SocketError> {
    let timeout = PollTimeout::try_from(time).unwrap_or(PollTimeout::MAX);
    let mut ready = [PollFd::new(helper.as_fd(), PollFlags::POLLIN)];
    match poll(&mut ready, timeout) {
        Ok(count) if count > 0 => Err(SocketError::Closed),
        _ => Ok(()),
    }
}
