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
    /// The first record in the ring is still being written: what wakes would do so again and again.
    is_blocked: bool,
    /// The latest time that the records read so far carry, where there are more.
    behind_since: Option<Nanos>,
}

impl Records {
    /// Everything has been loaded anew.
    pub(super) fn set_ring(&mut self, ring: EventRing) {
        self.ring = Some(ring);
        self.bell = None;
        self.behind_since = None;
    }

    pub(super) fn set_bell(&mut self, bell: Bell) {
        self.bell = Some(bell);
    }

    /// What to poll: the ring or, while records gather in it, the bell.
    pub(super) fn awaited(&self) -> Option<BorrowedFd<'_>> {
        match self.gathering_until {
            None => self.ring.as_ref().map(AsFd::as_fd),
            Some(_) if self.is_blocked => None,
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
        self.is_blocked = batch.records == 0 && self.is_ready;
        let gathers = !batch.more && (batch.records > 0 || self.is_blocked);
        self.gathering_until = gathers.then(|| now.after(GATHER));
    }

    /// Hands over what is in the ring, a batch at most.
    pub(super) fn read(&mut self, f: &mut dyn FnMut(&RecordHeader, &[u8])) -> Batch {
        if let Some(bell) = &self.bell {
            bell.answer();
        }
        let Some(ring) = &mut self.ring else { return Batch::default() };
        let mut latest = self.behind_since.map_or(0, |latest| latest.0);
        let batch = ring.read(&mut |header, bytes| {
            latest = latest.max(header.timestamp_ns);
            f(header, bytes);
        });
        self.behind_since = batch.more.then_some(Nanos(latest));
        batch
    }

    /// Until when all that has happened was read, at `now`: what waits for a record must not be given up while that may be in
    /// the ring.
    pub(super) fn read_until(&self, now: Nanos) -> Nanos {
        self.behind_since.map_or(now, |latest| latest.min(now))
    }

    /// Records that made no sense and were skipped.
    pub(super) fn malformed(&self) -> u64 {
        self.ring.as_ref().map_or(0, EventRing::malformed)
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::FileExt;

    use nix::sys::memfd::{MFdFlags, memfd_create};

    use super::*;

    const NOTHING: Batch = Batch { records: 0, more: false };
    const SOME: Batch = Batch { records: 3, more: false };
    const FULL: Batch = Batch { records: 512, more: true };

    /// Memory as long as a ring with its positions, in which nothing is.
    fn empty() -> File {
        let file = File::from(memfd_create(c"ring", MFdFlags::empty()).unwrap());
        file.set_len(1 << 20).unwrap();
        file
    }

    /// A ring that holds two batches of records, a microsecond apart.
    fn busy() -> File {
        let ring = empty();
        let page = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).unwrap().unwrap() as u64;
        let length = size_of::<RecordHeader>();
        let mut at = 0_u64;
        for number in 1..=1024_u64 {
            let mut record = vec![0; 8 + length];
            record[..4].copy_from_slice(&(length as u32).to_ne_bytes());
            let stamp = 8 + std::mem::offset_of!(RecordHeader, timestamp_ns);
            record[stamp..stamp + 8].copy_from_slice(&(1000 * number).to_ne_bytes());
            ring.write_all_at(&record, 2 * page + at).unwrap();
            at += record.len().next_multiple_of(8) as u64;
        }
        ring.write_all_at(&at.to_ne_bytes(), page).unwrap();
        ring
    }

    #[test]
    fn time_stands_still_while_records_wait_to_be_read() {
        let mut records = Records::default();
        records.set_ring(EventRing::from_fd(busy().into(), 256 * 1024).unwrap());
        let now = Nanos(9_000_000_000);
        assert_eq!(records.read_until(now), now);
        let mut seen = 0;
        assert!(records.read(&mut |_, _| seen += 1).more);
        assert_eq!((seen, records.read_until(now)), (512, Nanos(512_000)));
        while records.read(&mut |_, _| seen += 1).more {}
        assert_eq!((seen, records.read_until(now)), (1024, now));
    }

    #[test]
    fn when_the_ring_is_read_and_what_is_waited_for() {
        let (ring, bell) = (empty(), empty());
        let (ring_fd, bell_fd) = (ring.as_raw_fd(), bell.as_raw_fd());
        let mut records = Records::default();
        let awaited = |records: &Records| records.awaited().map(|fd| fd.as_raw_fd());
        assert_eq!((awaited(&records), records.is_due(Nanos(0))), (None, false));
        records.set_ring(EventRing::from_fd(ring.into(), 64 * 1024).unwrap());
        records.set_bell(Bell::from_fd(bell.into()).unwrap());
        let at = |millis: u64| Nanos(millis * 1_000_000);
        assert_eq!((awaited(&records), records.due_at(), records.is_due(at(0))), (Some(ring_fd), None, false));

        // The first records: what follows gathers, and the bell ends that.
        records.polled(true);
        assert!(records.is_due(at(0)));
        records.gather(SOME, at(0));
        records.polled(false);
        assert_eq!((awaited(&records), records.due_at(), records.is_due(at(19))), (Some(bell_fd), Some(at(20)), false));
        assert!(records.is_due(at(20)));
        records.polled(true);
        assert!(records.is_due(at(19)));

        // Where there is more, at once.
        records.gather(FULL, at(19));
        assert_eq!((awaited(&records), records.due_at()), (Some(ring_fd), None));

        // One that is being written: not before its time, whatever wakes.
        records.gather(NOTHING, at(30));
        assert_eq!((awaited(&records), records.due_at()), (None, Some(at(50))));

        // Nothing came while records could gather: back to the ring.
        records.polled(false);
        records.gather(NOTHING, at(50));
        assert_eq!((awaited(&records), records.due_at()), (Some(ring_fd), None));
    }
}
