//! Parts of segments.

use crate::chunk::{Capture, Chunk, ConnectionKey, Direction, Origin, Segment};
use crate::time::Nanos;

/// Part of a segment, with its unwrapped offset.
#[derive(Clone, Copy)]
pub(super) struct Piece<'a> {
    pub(super) when: Nanos,
    connection: ConnectionKey,
    origin: &'a Origin,
    direction: Direction,
    pub(super) offset: u64,
    original_len: u64,
    pub(super) bytes: &'a [u8],
    message: u32,
    begins_message: bool,
    pub(super) capture: Capture,
    follows_thinning: bool,
    ends_stream: bool,
}

/// A [`Piece`] with its own bytes.
pub(super) struct Held {
    pub(super) when: Nanos,
    connection: ConnectionKey,
    origin: Origin,
    direction: Direction,
    pub(super) offset: u64,
    original_len: u64,
    pub(super) bytes: Vec<u8>,
    message: u32,
    begins_message: bool,
    capture: Capture,
    follows_thinning: bool,
    ends_stream: bool,
}

impl<'a> Piece<'a> {
    /// All of a segment.
    pub(super) fn new(segment: &Segment<'a>, offset: u64) -> Self {
        let bytes = &segment.bytes[..segment.bytes.len().min(segment.original_len as usize)];
        Self {
            when: segment.when,
            connection: segment.connection,
            origin: segment.origin,
            direction: segment.direction,
            offset,
            original_len: u64::from(segment.original_len),
            bytes,
            message: segment.message,
            begins_message: segment.begins_message,
            capture: segment.capture,
            follows_thinning: segment.follows_thinning,
            ends_stream: false,
        }
    }

    /// A place in the stream that this segment's socket receives. Of which message it is nobody knows.
    pub(super) fn nothing_at(offset: u64, segment: &Segment<'a>) -> Self {
        let nothing = Self { original_len: 0, bytes: &[], begins_message: false, ..Self::new(segment, offset) };
        Self { direction: Direction::Received, message: 0, ..nothing }
    }

    /// The offset behind it.
    pub(super) fn end(&self) -> u64 {
        self.offset + self.original_len
    }

    /// What lies between two offsets within the piece.
    pub(super) fn part(&self, from: u64, to: u64) -> Self {
        let captured = self.bytes.len();
        let index = |offset: u64| usize::try_from(offset - self.offset).unwrap_or(usize::MAX).min(captured);
        Self {
            offset: from,
            original_len: to - from,
            bytes: &self.bytes[index(from)..index(to)],
            begins_message: self.begins_message && from == self.offset,
            follows_thinning: self.follows_thinning && from == self.offset,
            ..*self
        }
    }

    /// The end of the stream at this offset, without bytes.
    pub(super) fn ending_at(&self, offset: u64) -> Self {
        let nothing = Self { original_len: 0, bytes: &[], begins_message: false, follows_thinning: false, ..*self };
        Self { offset, ends_stream: true, ..nothing }
    }

    /// Whether it is the end of the stream.
    pub(super) fn is_end(&self) -> bool {
        self.ends_stream
    }

    /// The same stretch of the stream, without knowing what is in it.
    pub(super) fn blank(&self) -> Self {
        Self { bytes: &[], begins_message: false, ..*self }
    }

    /// Whether the bytes that both know of the same place differ.
    pub(super) fn contradicts(&self, other: &Piece<'_>) -> bool {
        let from = self.offset.max(other.offset);
        let to = self.end().min(other.end());
        if from >= to {
            return false;
        }
        let (mine, theirs) = (self.part(from, to).bytes, other.part(from, to).bytes);
        let both = mine.len().min(theirs.len());
        mine[..both] != theirs[..both]
    }

    /// As it is handed over.
    pub(super) fn chunk(self, when: Nanos) -> Chunk<'a> {
        Chunk {
            when,
            connection: self.connection,
            origin: self.origin,
            direction: self.direction,
            offset: self.offset,
            original_len: self.original_len,
            bytes: self.bytes,
            message: self.message,
            begins_message: self.begins_message,
            capture: self.capture,
            follows_thinning: self.follows_thinning,
            ends_stream: self.ends_stream,
        }
    }

    /// Keeps it.
    pub(super) fn hold(&self) -> Held {
        Held {
            when: self.when,
            connection: self.connection,
            origin: *self.origin,
            direction: self.direction,
            offset: self.offset,
            original_len: self.original_len,
            bytes: self.bytes.to_vec(),
            message: self.message,
            begins_message: self.begins_message,
            capture: self.capture,
            follows_thinning: self.follows_thinning,
            ends_stream: self.ends_stream,
        }
    }
}

impl Held {
    /// The offset behind it.
    pub(super) fn end(&self) -> u64 {
        self.offset + self.original_len
    }

    /// Itself, to look at.
    pub(super) fn piece(&self) -> Piece<'_> {
        Piece {
            when: self.when,
            connection: self.connection,
            origin: &self.origin,
            direction: self.direction,
            offset: self.offset,
            original_len: self.original_len,
            bytes: &self.bytes,
            message: self.message,
            begins_message: self.begins_message,
            capture: self.capture,
            follows_thinning: self.follows_thinning,
            ends_stream: self.ends_stream,
        }
    }
}

impl std::fmt::Debug for Held {
    /// The bytes are somebody's text.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Held").field("offset", &self.offset).field("len", &self.original_len).finish_non_exhaustive()
    }
}
