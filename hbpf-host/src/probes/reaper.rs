//! Takes probes out, many at a time or beside everything else. The kernel waits for all that may be running when it takes out a
//! uprobe, which can be a tenth of a second for each, and whoever waits for that sees no process start meanwhile.

use std::sync::mpsc::{Sender, channel};
use std::thread;

use super::user::Link;

/// Probes with the names of their programs. Dropping them takes them out.
pub(super) type Links = Vec<(&'static str, Link)>;

/// Stack of a thread that does nothing but close descriptors, or have others do so.
const STACK_BYTES: usize = 64 * 1024;

/// Threads that wait for the kernel side by side.
const AT_A_TIME: usize = 32;

/// Takes probes out here and now. The kernel's waits for each of them are over at about the same time.
pub(super) fn take_out(links: Links) {
    let each = links.len().div_ceil(AT_A_TIME);
    let mut links = links.into_iter();
    thread::scope(|threads| {
        loop {
            let part: Links = links.by_ref().take(each).collect();
            if part.is_empty() {
                break;
            }
            // What cannot have a thread is let go of here.
            let _ = thread::Builder::new().stack_size(STACK_BYTES).spawn_scoped(threads, move || drop(part));
        }
    });
}

/// Hands probes to the thread that takes them out, which there is once there are any.
#[derive(Default)]
pub(super) struct Reaper(Option<Sender<Links>>);

impl Reaper {
    /// Takes these out soon. Until then they may still be hit.
    pub(super) fn take_out(&mut self, links: Links) {
        if links.is_empty() {
            return;
        }
        if self.0.is_none() {
            let (sender, receiver) = channel::<Links>();
            let run = move || receiver.into_iter().for_each(take_out);
            let started = thread::Builder::new().name("reaper".into()).stack_size(STACK_BYTES).spawn(run);
            self.0 = started.ok().map(|_| sender);
        }
        match &self.0 {
            Some(sender) => drop(sender.send(links)),
            None => take_out(links),
        }
    }
}
