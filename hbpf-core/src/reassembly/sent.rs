//! What a socket sends: in order, some of it more than once.

use super::piece::Piece;
use super::{ORIGIN_OF_OFFSETS, unwrap_growing};
use crate::chunk::{Chunk, Segment};
use crate::time::Nanos;

#[derive(Debug, Default)]
pub(super) struct Sent {
    /// The next offset to hand over; `None` before the first segment.
    next: Option<u64>,
    has_ended: bool,
    /// The time of the latest chunk.
    last: Nanos,
}

impl Sent {
    /// Takes a segment. What lies between it and the one before was sent, and not captured.
    pub(super) fn push(&mut self, segment: &Segment<'_>, out: &mut dyn FnMut(Chunk<'_>)) {
        let next = self.next.unwrap_or(ORIGIN_OF_OFFSETS + u64::from(segment.sequence));
        if self.has_ended {
            return;
        }
        let piece = Piece::new(segment, unwrap_growing(segment.sequence, next));
        self.last = self.last.max(segment.when);
        self.next = Some(piece.end().max(next));
        if piece.end() > next {
            out(piece.part(piece.offset.max(next), piece.end()).chunk(self.last));
        }
        if segment.fin || segment.rst {
            self.has_ended = true;
            out(piece.ending_at(piece.end().max(next)).chunk(self.last));
        }
    }
}
