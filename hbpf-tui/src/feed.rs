//! Where the views get their snapshots from: the collector, or a recording.

use std::sync::Arc;

use hbpf_core::snapshot::Snapshot;
use hbpf_host::protocol::Group;

/// What a source of snapshots says.
#[derive(Clone, Debug)]
pub(crate) enum Update {
    /// A new frame.
    Snapshot(Arc<Snapshot>),
    /// Nothing more will come, and why.
    Ended(String),
}

/// What can be asked of a source while it runs.
pub(crate) trait Control {
    /// Switches a group of probes on or off; the next snapshots tell what came of it.
    fn set_group(&self, group: Group, on: bool);

    /// Asks for a snapshot at once.
    fn take_now(&self);
}
