//! TCP segments put in order.

use crate::chunk::{Chunk, Segment};
use crate::time::Nanos;

/// Puts the segments of one connection in order, both directions, in bounded memory.
///
/// Offsets of the chunks are sequence numbers unwrapped to 64 bits: their low 32 bits are the sequence number.
#[derive(Debug, Default)]
pub struct Reassembler {
    desyncs: u64,
}

impl Reassembler {
    /// A connection of which nothing has been seen yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes a segment and hands over what has become ready.
    pub fn push(&mut self, segment: &Segment<'_>, out: &mut dyn FnMut(Chunk<'_>)) {
        let _ = (segment, out);
    }

    /// Gives up waiting for holes older than the limit.
    pub fn tick(&mut self, now: Nanos, out: &mut dyn FnMut(Chunk<'_>)) {
        let _ = (now, out);
    }

    /// Hands over all that is held.
    pub fn close(&mut self, now: Nanos, out: &mut dyn FnMut(Chunk<'_>)) {
        let _ = (now, out);
    }

    /// Segments that contradicted what was already seen, or lay where no segment could.
    pub fn desyncs(&self) -> u64 {
        self.desyncs
    }
}
