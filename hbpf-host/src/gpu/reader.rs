//! The process that reads GPUs.

use std::os::fd::{AsFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::{Duration, Instant};

use hbpf_core::label::Text;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nvml_wrapper::Nvml;

use super::nvidia::{self, Nvidia};
use super::{INTERVAL, Reading, Word};
use crate::socket::{Socket, SocketError};

/// How soon a library that could not be used is tried again: its driver may be loaded meanwhile.
const RETRY: Duration = Duration::from_secs(30);

/// Reads until nobody listens any more. The caller has given up all privileges.
pub(crate) fn main(socket: OwnedFd, library: &Path) -> ! {
    let mut helper = Socket::new(socket);
    let ended = catch_unwind(AssertUnwindSafe(|| {
        // Ends when the helper has gone.
        while let Ok(wait) = read(&mut helper, library) {
            if is_over(&helper, wait) {
                break;
            }
        }
    }));
    // SAFETY: this process has nothing to clean up that the kernel does not clean up; the driver's library may have put
    // in functions for the end of a process that hang.
    unsafe { libc::_exit(i32::from(ended.is_err())) }
}

/// Reads as long as the library can be used. Gives how long to wait until it is tried again.
fn read(helper: &mut Socket, library: &Path) -> Result<Duration, SocketError> {
    let nvml = match Nvml::builder().lib_path(library.as_os_str()).init() {
        Ok(nvml) => nvml,
        Err(error) => {
            helper.send(&Word::Problem(Text::new(&nvidia::describe(&error))), None)?;
            return Ok(RETRY);
        }
    };
    let mut nvidia = Nvidia::new(&nvml);
    loop {
        let began = Instant::now();
        let Reading { gpus } = nvidia.read();
        for gpu in gpus {
            helper.send(&Word::Gpu(Box::new(gpu)), None)?;
        }
        helper.send(&Word::Complete, None)?;
        if is_over(helper, INTERVAL.saturating_sub(began.elapsed())) {
            return Err(SocketError::Closed);
        }
    }
}

/// Waits; whether the helper has gone meanwhile. It says nothing, so anything that comes is its end.
fn is_over(helper: &Socket, wait: Duration) -> bool {
    let timeout = PollTimeout::try_from(wait).unwrap_or(PollTimeout::MAX);
    let mut ready = [PollFd::new(helper.as_fd(), PollFlags::POLLIN)];
    poll(&mut ready, timeout).is_ok_and(|count| count > 0)
}
