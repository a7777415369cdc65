//! Compressed messages of one side (RFC 7692, 7.2.2).

use flate2::{Decompress, FlushDecompress, Status};

use crate::body::DEFLATE_STATE_BYTES;

/// What a message decompresses to at the most: more than any real one, little enough to bound the work that a bomb causes.
const MAX_MESSAGE_BYTES: u64 = 64 * 1024 * 1024;

/// What the messages of one side decompress to without more being asked: as much as one may, so that many small bombs are no
/// better than a large one.
const FREE_BYTES: u64 = MAX_MESSAGE_BYTES;

/// Beyond that, for each compressed byte so many decompressed ones at the most. Events in JSON come to some 20, and a history
/// that is said again and again to 140: a match has 258 bytes at the most, and takes 15 bits where it lies far back. What is
/// beyond that for long is runs of one byte, of which DEFLATE makes 1032 for each.
const MAX_RATIO: u64 = 150;

/// What senders leave out at the end of each message.
const TAIL: &[u8] = &[0x00, 0x00, 0xff, 0xff];

/// Bytes that are decompressed at a time.
const SLICE: usize = 4096;

/// The message cannot be decompressed any further.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Unreadable;

/// Decompresses the messages of one side.
#[derive(Debug)]
pub(super) struct Inflater {
    /// Later messages may refer to what those before them have said.
    has_context: bool,
    /// There while it is needed: amid a message and, where messages refer to each other, between them.
    decompress: Option<Box<Decompress>>,
    /// What messages may refer to is not known any more. It never will be: nothing says when they refer to what comes later only.
    /// Or it is not worth the work.
    is_lost: bool,
    /// Compressed and decompressed bytes of all messages.
    all_read: u64,
    all_written: u64,
    /// Decompressed bytes of the current message.
    written: u64,
    /// The sender has ended its compressed data with this message (RFC 7692, 7.2.3.4).
    has_ended: bool,
}

impl Inflater {
    pub(super) fn new(has_context: bool) -> Self {
        Self {
            has_context,
            decompress: None,
            is_lost: false,
            all_read: 0,
            all_written: 0,
            written: 0,
            has_ended: false,
        }
    }

    /// Memory that it holds beyond its own size, in bytes.
    pub(super) fn memory(&self) -> usize {
        if self.decompress.is_some() { DEFLATE_STATE_BYTES } else { 0 }
    }

    /// A message begins. Returns whether it can be read.
    pub(super) fn begin(&mut self) -> bool {
        self.written = 0;
        // What it has said before may still be referred to, and the decompressor has forgotten it.
        self.is_lost |= std::mem::take(&mut self.has_ended) && self.has_context;
        if !self.has_context {
            self.decompress = None;
        }
        !self.is_lost
    }

    /// The next bytes of the message.
    pub(super) fn push(&mut self, bytes: &[u8], out: &mut dyn FnMut(&[u8])) -> Result<(), Unreadable> {
        if self.is_lost {
            return Err(Unreadable);
        }
        if self.has_ended {
            // What makes the message end at a whole byte.
            return Ok(());
        }
        let result = self.inflate(bytes, out);
        if result.is_err() {
            self.lose();
        }
        result
    }

    fn inflate(&mut self, bytes: &[u8], out: &mut dyn FnMut(&[u8])) -> Result<(), Unreadable> {
        let decompress = self.decompress.get_or_insert_with(|| Box::new(Decompress::new(false)));
        let mut slice = [0; SLICE];
        let mut rest = bytes;
        loop {
            let (read, written) = (decompress.total_in(), decompress.total_out());
            let status = decompress.decompress(rest, &mut slice, FlushDecompress::None).map_err(|_| Unreadable)?;
            // Both differences are bounded by the lengths of the slices.
            let (read, written) =
                ((decompress.total_in() - read) as usize, (decompress.total_out() - written) as usize);
            rest = &rest[read..];
            self.written += written as u64;
            self.all_read = self.all_read.saturating_add(read as u64);
            self.all_written = self.all_written.saturating_add(written as u64);
            // Messages that are small themselves may make more work than any real ones.
            let most = self.all_read.saturating_mul(MAX_RATIO).saturating_add(FREE_BYTES);
            self.is_lost |= self.all_written > most;
            if self.is_lost || self.written > MAX_MESSAGE_BYTES {
                return Err(Unreadable);
            }
            if written > 0 {
                out(&slice[..written]);
            }
            if status == Status::StreamEnd {
                self.has_ended = true;
                self.decompress = None;
                return Ok(());
            }
            if read == 0 && written == 0 {
                return Ok(());
            }
        }
    }

    /// All of the message has come.
    pub(super) fn end(&mut self, out: &mut dyn FnMut(&[u8])) -> Result<(), Unreadable> {
        let result = if self.decompress.is_some() { self.push(TAIL, out) } else { Ok(()) };
        if !self.has_context {
            self.decompress = None;
        }
        result
    }

    /// Bytes of a message were not seen.
    pub(super) fn lose(&mut self) {
        self.is_lost |= self.has_context;
        self.decompress = None;
    }
}
