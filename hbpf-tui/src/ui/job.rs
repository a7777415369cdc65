//! Stopping and going on, as the shell's job control has it.

use std::thread;

use anyhow::{Context, Result};
use nix::sys::signal::{SigSet, Signal, raise};

/// SIGTSTP in our hands until dropped: whoever sends it is to have the terminal back before we stop.
pub(crate) struct JobControl {
    stop: SigSet,
}

impl JobControl {
    /// Calls `asked` for each SIGTSTP from here on, until it returns false. Must come before any other thread, which would
    /// stop us all.
    pub(crate) fn take(mut asked: impl FnMut() -> bool + Send + 'static) -> Result<Self> {
        let stop = SigSet::from_iter([Signal::SIGTSTP]);
        // Blocked and waited for rather than handled: its default is what stops us in the end.
        stop.thread_block().context("cannot block a signal")?;
        thread::Builder::new().name("job control".to_owned()).spawn(move || while stop.wait().is_ok() && asked() {})?;
        Ok(Self { stop })
    }

    /// Stops this process, and returns when it goes on. Where nobody could have it go on (no shell with job control waits
    /// for it) the kernel does not let this signal stop it, unlike SIGSTOP; this returns at once then.
    pub(crate) fn stop(&self) -> nix::Result<()> {
        raise(Signal::SIGTSTP)?;
        self.stop.thread_unblock()?;
        self.stop.thread_block()
    }
}

impl Drop for JobControl {
    fn drop(&mut self) {
        let _ = self.stop.thread_unblock();
    }
}
