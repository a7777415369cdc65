//! This machine as a source of snapshots.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use hbpf_host::privsep::{self, HelperClient, SplitOptions};
use hbpf_host::protocol::Group;

use crate::feed::{Control, Update};

/// How to collect.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) groups: Vec<Group>,
    pub(crate) window: Duration,
    pub(crate) interval: Option<Duration>,
}

/// The privileged helper, split off, and this process without privileges.
pub(crate) struct Session {
    helper: HelperClient,
}

impl Session {
    /// Splits the process. Must come before any thread; from here on no file can be opened.
    pub(crate) fn begin() -> Result<Self> {
        let helper = privsep::split(&SplitOptions::default()).context("cannot start")?;
        privsep::confine().context("cannot start")?;
        Ok(Self { helper })
    }

    /// Starts the collection; `deliver` is called on a thread of its own. It ends when the control is dropped.
    pub(crate) fn start(
        self,
        options: Options,
        _deliver: impl FnMut(Update) + Send + 'static,
    ) -> Result<Box<dyn Control>> {
        bail!("the collector is not part of this build ({} {options:?})", self.helper.helper_pid())
    }
}
