//! Where the views get their snapshots from: the collector, or a recording.

use hbpf_host::protocol::Group;

pub(crate) use hbpf_host::collector::Update;

/// What can be asked of a source while it runs.
pub(crate) trait Control {
    /// Switches a group of probes on or off; the next snapshots tell what came of it.
    fn set_group(&self, group: Group, on: bool);

    /// Asks for a snapshot at once.
    fn take_now(&self);
}
