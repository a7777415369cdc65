//! Reading the kernel's ring of records, in place, in a process without privileges.

use std::io;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

use hbpf_ebpf::{RECORD_CLASSES, RecordHeader};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

/// Length of the kernel's own header before each record: length with two flag bits, and a page offset.
const RECORD_PREFIX_BYTES: u64 = 8;

/// Set while a program still writes the record.
const BUSY: u32 = 1 << 31;

/// Set where a program has thrown the record away.
const DISCARDED: u32 = 1 << 30;

/// Records handed over in one [`EventRing::read`], so that a flood does not keep the caller from its other work.
const BATCH_RECORDS: usize = 512;

/// Longest record that a program may reserve.
const MAX_RECORD_BYTES: usize = size_of::<RecordHeader>() + RECORD_CLASSES[RECORD_CLASSES.len() - 1];

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
            if length > self.mask + 1 - RECORD_PREFIX_BYTES {
                // The kernel never writes such a length; where the next record begins cannot be known.
                self.malformed += 1;
                self.position = self.producer_position().load(Ordering::Acquire);
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
            self.position += (RECORD_PREFIX_BYTES + length).next_multiple_of(8);
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
