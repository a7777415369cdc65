//! Network namespaces of others.

use std::fs::{File, Metadata};
use std::io;
use std::os::linux::fs::MetadataExt;

use nix::sched::{CloneFlags, setns};

/// Whether it is the one that this thread is in.
pub(crate) fn is_own_network(namespace: &File) -> bool {
    let place = |metadata: io::Result<Metadata>| metadata.map(|metadata| (metadata.st_dev(), metadata.st_ino())).ok();
    let theirs = place(namespace.metadata());
    theirs.is_some() && theirs == place(std::fs::metadata("/proc/thread-self/ns/net"))
}

/// Takes this thread there, and no other.
pub(crate) fn enter_network(namespace: &File) -> io::Result<()> {
    if is_own_network(namespace) {
        return Ok(());
    }
    Ok(setns(namespace, CloneFlags::CLONE_NEWNET)?)
}
