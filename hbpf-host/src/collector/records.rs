//! When the ring is read.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use hbpf_core::time::Nanos;
use hbpf_ebpf::RecordHeader;

use crate::ring::{Batch, Bell, EventRing};

/// How long records may gather before they are read: one wake-up then serves many, and most of what it costs is cold caches.
/// A call to an unknown path may have to wait so long until its answer is captured. The bell ends it sooner where many gather.
const GATHER: Duration = Duration::from_millis(20);

/// The ring, and what is known of when to read it. Without traffic nothing is read, and nothing wakes us.
#[derive(Default)]
pub(super) struct Records {
    ring: Option<EventRing>,
    bell: Option<Bell>,
    /// Records gather until then. `None`: the ring was found empty, and is waited for.
    gathering_until: Option<Nanos>,
    /// What is waited for has come.
    is_ready: bool,
}

impl Records {
    /// Everything has been loaded anew.
    pub(super) fn set_ring(&mut self, ring: EventRing) {
        self.ring = Some(ring);
        self.bell = None;
    }

    pub(super) fn set_bell(&mut self, bell: Bell) {
        self.bell = Some(bell);
    }

    /// What to poll: the ring or, while records gather in it, the bell.
    pub(super) fn awaited(&self) -> Option<BorrowedFd<'_>> {
        match self.gathering_until {
            None => self.ring.as_ref().map(AsFd::as_fd),
            Some(_) => self.bell.as_ref().map(AsFd::as_fd),
        }
    }

    /// Whether polling has found it readable.
    pub(super) fn polled(&mut self, is_ready: bool) {
        self.is_ready = is_ready;
    }

    /// When to read at the latest.
    pub(super) fn due_at(&self) -> Option<Nanos> {
        self.gathering_until
    }

    /// Whether it is time to read.
    pub(super) fn is_due(&self, now: Nanos) -> bool {
        self.ring.is_some() && (self.is_ready || self.gathering_until.is_some_and(|until| now >= until))
    }

    /// A batch has been read because it was due: the next one gathers, unless there is more already.
    pub(super) fn gather(&mut self, batch: Batch, now: Nanos) {
        // A ring that is ready and gives nothing holds a record that is being written: polling would turn in circles.
        let gathers = !batch.more && (batch.records > 0 || self.is_ready);
        self.gathering_until = gathers.then(|| now.after(GATHER));
    }

    /// Hands over what is in the ring, a batch at most.
    pub(super) fn read(&mut self, f: &mut dyn FnMut(&RecordHeader, &[u8])) -> Batch {
        if let Some(bell) = &self.bell {
            bell.answer();
        }
        self.ring.as_mut().map_or_else(Batch::default, |ring| ring.read(f))
    }

    /// Records that made no sense and were skipped.
    pub(super) fn malformed(&self) -> u64 {
        self.ring.as_ref().map_or(0, EventRing::malformed)
    }
}
