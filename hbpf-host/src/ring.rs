//! Reading the kernel's ring of records, in place, in a process without privileges.

use std::io;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

use hbpf_ebpf::{LARGEST_RECORD, RecordHeader};
use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap, munmap};

/// Length of the kernel's own header before each record: length with two flag bits, and a page offset.
const RECORD_PREFIX_BYTES: u64 = 8;

/// Set while a program still writes the record.
const BUSY: u32 = 1 << 31;

/// Set where a program has thrown the record away.
const DISCARDED: u32 = 1 << 30;

/// Records handed over in one [`EventRing::read`], so that a flood does not keep the caller from its other work.
const BATCH_RECORDS: usize = 512;

/// Longest record that a program may reserve.
const MAX_RECORD_BYTES: usize = size_of::<RecordHeader>() + LARGEST_RECORD;

/// Why a ring cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum RingError {
    /// No power of two, or no whole number of pages.
    #[error("a ring of {0} bytes cannot be")]
    Size(u32),
    /// The descriptor could not be mapped.
    #[error("mapping the ring: {0}")]
    Map(#[source] io::Error),
}

/// What one [`EventRing::read`] has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// Records handed over.
    pub records: usize,
    /// The batch was full: there may be more at once.
    pub more: bool,
}

/// The reading end of a BPF ring buffer of [`RecordHeader`] records. There must be only one reader of a ring.
pub struct EventRing {
    fd: OwnedFd,
    consumer: Mapping,
    /// One page with the producer's position, then the data twice, so that no record is ever split.
    producer: Mapping,
    page: usize,
    mask: u64,
    position: u64,
    malformed: u64,
}

impl EventRing {
    /// Maps the ring whose descriptor the helper has sent; `data_bytes` is the size that came with it.
    pub fn from_fd(fd: OwnedFd, data_bytes: u32) -> Result<Self, RingError> {
        let page = page_bytes();
        let data = data_bytes as usize;
        if !data_bytes.is_power_of_two() || !data.is_multiple_of(page) {
            return Err(RingError::Size(data_bytes));
        }
        let consumer = Mapping::new(fd.as_fd(), page, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, 0)?;
        let producer = Mapping::new(fd.as_fd(), page + 2 * data, ProtFlags::PROT_READ, page)?;
        let mask = u64::from(data_bytes) - 1;
        let mut ring = Self { fd, consumer, producer, page, mask, position: 0, malformed: 0 };
        ring.position = ring.consumer_position().load(Ordering::Acquire);
        Ok(ring)
    }

    /// Hands over the records that are there, each with its payload in place, at most a batch of them.
    ///
    /// The integers of a header are as the kernel wrote them: lengths have been checked, nothing else.
    pub fn read(&mut self, f: &mut dyn FnMut(&RecordHeader, &[u8])) -> Batch {
        let mut batch = Batch::default();
        while batch.records < BATCH_RECORDS {
            let Some((length, discarded)) = self.next_length() else { return batch };
            let end = self.position.wrapping_add((RECORD_PREFIX_BYTES + length).next_multiple_of(8));
            let produced = self.producer_position().load(Ordering::Acquire);
            if length > self.mask + 1 - RECORD_PREFIX_BYTES || end > produced {
                // The kernel never writes such a length; where the next record begins cannot be known.
                self.malformed += 1;
                self.position = produced;
                self.consumer_position().store(self.position, Ordering::Release);
                return batch;
            }
            if !discarded {
                match self.record(length as usize) {
                    Some((header, payload)) => f(&header, payload),
                    None => self.malformed += 1,
                }
                batch.records += 1;
            }
            self.position = end;
            // Release: the kernel may write over the record only after we have read it.
            self.consumer_position().store(self.position, Ordering::Release);
        }
        batch.more = true;
        batch
    }

    /// Records whose lengths contradicted each other; they were skipped.
    pub fn malformed(&self) -> u64 {
        self.malformed
    }

    /// Length and fate of the record at our position, once it is complete.
    fn next_length(&self) -> Option<(u64, bool)> {
        // The kernel wakes a reader only if, after committing a record, it finds that the reader had read all before it.
        // So our stored position must be visible before we look for the last time; the second look is that one.
        self.peek_length().or_else(|| {
            fence(Ordering::SeqCst);
            self.peek_length()
        })
    }

    fn peek_length(&self) -> Option<(u64, bool)> {
        if self.producer_position().load(Ordering::Acquire) == self.position {
            return None;
        }
        let offset = (self.position & self.mask) as usize;
        // SAFETY: `offset` is below the data size and a multiple of 8, as are all lengths added to the position, so the
        // prefix lies in the mapping, aligned. The kernel writes it with an atomic exchange.
        let prefix = unsafe { &*self.data().add(offset).cast::<AtomicU32>() }.load(Ordering::Acquire);
        (prefix & BUSY == 0).then(|| (u64::from(prefix & !(BUSY | DISCARDED)), prefix & DISCARDED != 0))
    }

    /// The record at our position, if its lengths agree.
    fn record(&self, length: usize) -> Option<(RecordHeader, &[u8])> {
        if length > MAX_RECORD_BYTES || length < size_of::<RecordHeader>() {
            return None;
        }
        let offset = (self.position & self.mask) as usize + RECORD_PREFIX_BYTES as usize;
        // SAFETY: `offset` is at most the data size plus the prefix and `length` less than the data size, so the range lies
        // in the data, which is mapped twice. The kernel does not write to it before our position has moved beyond it.
        let bytes = unsafe { std::slice::from_raw_parts(self.data().add(offset), length) };
        // SAFETY: at least a header's bytes are there, and every bit pattern is a valid header.
        let header = unsafe { bytes.as_ptr().cast::<RecordHeader>().read_unaligned() };
        let payload = bytes[size_of::<RecordHeader>()..].get(..header.captured_len as usize)?;
        Some((header, payload))
    }

    fn data(&self) -> *const u8 {
        // SAFETY: the mapping is longer than one page.
        unsafe { self.producer.start.as_ptr().cast_const().add(self.page) }
    }

    fn consumer_position(&self) -> &AtomicU64 {
        self.consumer.first_word()
    }

    fn producer_position(&self) -> &AtomicU64 {
        self.producer.first_word()
    }
}

impl AsFd for EventRing {
    /// To poll for records.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// The reading end of the `BELL` ring, which holds a record while it rings.
pub struct Bell {
    fd: OwnedFd,
    consumer: Mapping,
    producer: Mapping,
}

impl Bell {
    /// Maps the positions of the ring whose descriptor the helper has sent.
    pub fn from_fd(fd: OwnedFd) -> Result<Self, RingError> {
        let page = page_bytes();
        let consumer = Mapping::new(fd.as_fd(), page, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, 0)?;
        let producer = Mapping::new(fd.as_fd(), page, ProtFlags::PROT_READ, page)?;
        Ok(Self { fd, consumer, producer })
    }

    /// Makes it stop. It rings for what is in the `EVENTS` ring already, which is to be read after this.
    pub fn answer(&self) {
        let produced = self.producer.first_word().load(Ordering::Acquire);
        self.consumer.first_word().store(produced, Ordering::Release);
    }
}

impl AsFd for Bell {
    /// Readable while it rings.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// The kernel's positions are `unsigned long`, which is 64 bits wide wherever we run.
const _: () = assert!(size_of::<usize>() == size_of::<u64>());

/// Memory shared with the kernel.
struct Mapping {
    start: NonNull<u8>,
    length: usize,
}

impl Mapping {
    fn new(fd: BorrowedFd<'_>, length: usize, protection: ProtFlags, offset: usize) -> Result<Self, RingError> {
        let nonzero = NonZeroUsize::new(length).ok_or(RingError::Size(0))?;
        // SAFETY: a fresh mapping at an address of the kernel's choice touches no memory of ours.
        let start = unsafe { mmap(None, nonzero, protection, MapFlags::MAP_SHARED, fd, offset as i64) }
            .map_err(|error| RingError::Map(error.into()))?;
        for advice in [MmapAdvise::MADV_DONTFORK, MmapAdvise::MADV_DONTDUMP] {
            // SAFETY: neither changes what we see of the mapping. A kernel that refuses leaves it as any other memory.
            let _ = unsafe { madvise(start, length, advice) };
        }
        Ok(Self { start: start.cast(), length })
    }

    fn first_word(&self) -> &AtomicU64 {
        // SAFETY: the mapping is page-aligned, at least a page long, lives as long as `self`, and this word is only ever
        // accessed atomically.
        unsafe { self.start.cast::<AtomicU64>().as_ref() }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours alone, and no reference into it outlives `self`.
        let _ = unsafe { munmap(self.start.cast(), self.length) };
    }
}

// SAFETY: a mapping belongs to the process, not to a thread; all shared words are accessed atomically.
unsafe impl Send for Mapping {}

/// Size of a page of memory.
fn page_bytes() -> usize {
    nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok().flatten().map_or(4096, |bytes| bytes as usize)
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::memfd::{MFdFlags, memfd_create};
    use std::fs::File;
    use std::os::unix::fs::FileExt;

    /// A file laid out as the kernel lays out a ring: our page, the producer's, and the data twice.
    struct Fake {
        file: File,
        data: usize,
        produced: u64,
    }

    impl Fake {
        fn new() -> (Self, EventRing) {
            let data = 64 * 1024;
            let file = File::from(memfd_create(c"ring", MFdFlags::empty()).unwrap());
            file.set_len((2 * page_bytes() + 2 * data) as u64).unwrap();
            let ring = EventRing::from_fd(file.try_clone().unwrap().into(), data as u32).unwrap();
            (Self { file, data, produced: 0 }, ring)
        }

        fn write(&self, position: u64, bytes: &[u8]) {
            for (index, byte) in bytes.iter().enumerate() {
                let offset = (position as usize + index) % self.data;
                for copy in [0, self.data] {
                    self.file.write_at(&[*byte], (2 * page_bytes() + copy + offset) as u64).unwrap();
                }
            }
        }

        fn publish(&self) {
            self.file.write_at(&self.produced.to_ne_bytes(), page_bytes() as u64).unwrap();
        }

        /// Adds a record and returns its position.
        fn push(&mut self, prefix: u32, body: &[u8]) -> u64 {
            let position = self.produced;
            self.write(position, &prefix.to_ne_bytes());
            self.write(position + RECORD_PREFIX_BYTES, body);
            let length = u64::from(prefix & !(BUSY | DISCARDED));
            self.produced += (RECORD_PREFIX_BYTES + length).next_multiple_of(8);
            self.publish();
            position
        }

        fn record(&mut self, payload: &[u8]) -> u64 {
            let body = record(payload.len() as u32, payload);
            self.push(body.len() as u32, &body)
        }

        fn consumed(&self) -> u64 {
            let mut bytes = [0; 8];
            self.file.read_exact_at(&mut bytes, 0).unwrap();
            u64::from_ne_bytes(bytes)
        }
    }

    /// A record of the smallest class that claims this many bytes of payload.
    fn record(captured: u32, payload: &[u8]) -> Vec<u8> {
        let class = hbpf_ebpf::RECORD_CLASSES.into_iter().find(|class| *class >= payload.len()).unwrap();
        let mut bytes = vec![0; size_of::<RecordHeader>() + class];
        bytes[0] = hbpf_ebpf::kind::DATA;
        bytes[std::mem::offset_of!(RecordHeader, captured_len)..][..4].copy_from_slice(&captured.to_ne_bytes());
        bytes[size_of::<RecordHeader>()..][..payload.len()].copy_from_slice(payload);
        bytes
    }

    fn payloads(ring: &mut EventRing) -> Vec<Vec<u8>> {
        let mut seen = Vec::new();
        ring.read(&mut |header, payload| {
            assert_eq!(header.kind, hbpf_ebpf::kind::DATA);
            seen.push(payload.to_vec());
        });
        seen
    }

    #[test]
    fn records_are_read_in_place_across_the_end_of_the_ring() {
        let (mut fake, mut ring) = Fake::new();
        for round in 0..100u32 {
            let payload = vec![round as u8; 5000];
            fake.record(&payload);
            assert_eq!(payloads(&mut ring), [payload]);
            assert_eq!(fake.consumed(), fake.produced);
        }
        assert!(fake.produced > 10 * fake.data as u64);
        assert_eq!(ring.malformed(), 0);
    }

    #[test]
    fn a_busy_record_holds_back_those_behind_it() {
        let (mut fake, mut ring) = Fake::new();
        fake.record(b"first");
        let body = record(6, b"second");
        let busy = fake.push(body.len() as u32 | BUSY, &body);
        fake.record(b"third");
        assert_eq!(payloads(&mut ring), [b"first"]);
        assert_eq!(fake.consumed(), busy);
        fake.write(busy, &(body.len() as u32).to_ne_bytes());
        assert_eq!(payloads(&mut ring), [&b"second"[..], b"third"]);
    }

    #[test]
    fn discarded_records_are_passed_over() {
        let (mut fake, mut ring) = Fake::new();
        fake.push(368 | DISCARDED, &record(4, b"none"));
        fake.record(b"some");
        assert_eq!(payloads(&mut ring), [b"some"]);
        assert_eq!((fake.consumed(), ring.malformed()), (fake.produced, 0));
    }

    #[test]
    fn lengths_that_contradict_each_other_are_counted_not_believed() {
        let (mut fake, mut ring) = Fake::new();
        // More captured than the record holds; a record shorter than a header; one longer than the largest class.
        let lying = record(257, b"lie");
        fake.push(lying.len() as u32, &lying);
        fake.push(16, &[1; 16]);
        fake.push(MAX_RECORD_BYTES as u32 + 8, &[1; 8]);
        fake.record(b"true");
        assert_eq!(payloads(&mut ring), [b"true"]);
        assert_eq!(ring.malformed(), 3);
        // A length beyond the ring: what follows cannot be found, so all that is there is given up.
        fake.push(BUSY >> 2, &[]);
        fake.produced = fake.consumed() + 4096;
        fake.publish();
        assert!(payloads(&mut ring).is_empty());
        assert_eq!((ring.malformed(), fake.consumed()), (4, fake.produced));
        fake.record(b"after");
        assert_eq!(payloads(&mut ring), [b"after"]);
        // One that ends behind all that was written: likewise, and reading does not go on for ever.
        fake.push(4096, &[]);
        fake.produced -= 8;
        fake.publish();
        assert_eq!(ring.read(&mut |_, _| panic!("a record that is not there")), Batch { records: 0, more: false });
        assert_eq!((ring.malformed(), fake.consumed()), (5, fake.produced));
    }

    #[test]
    fn a_batch_is_bounded() {
        let (mut fake, mut ring) = Fake::new();
        let body = [0u8; 8];
        for _ in 0..BATCH_RECORDS + 10 {
            fake.push(8, &body);
        }
        assert_eq!(ring.read(&mut |_, _| {}), Batch { records: BATCH_RECORDS, more: true });
        assert_eq!(ring.read(&mut |_, _| {}), Batch { records: 10, more: false });
    }

    #[test]
    fn sizes_that_no_ring_has_are_refused() {
        for size in [0, 1, 4095, 4096 * 3, u32::MAX] {
            let file = File::from(memfd_create(c"ring", MFdFlags::empty()).unwrap());
            assert!(matches!(EventRing::from_fd(file.into(), size), Err(RingError::Size(_))), "{size}");
        }
    }
}
