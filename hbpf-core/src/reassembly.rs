//! TCP segments put in order.

mod one_way;
#[cfg(test)]
mod tests;

use std::time::Duration;

use crate::chunk::{Chunk, Direction, Segment};
use crate::time::Nanos;
use one_way::OneWay;

/// Puts the segments of one connection in order, both directions, in bounded memory.
///
/// The offset of a chunk is its sequence number unwrapped to 64 bits; the low 32 bits are the sequence number. Where
/// segments overlap, the byte seen first counts. The time of a chunk is that of its in-order delivery: a segment that
/// waited for a hole to be filled carries the time of the segment that filled it, one whose hole was given up its own.
///
/// A segment beyond the expected position waits until something says that the hole before it will not be filled:
///
/// - it fills up after all (reordering, or loss on the way);
/// - the other side acknowledges what lies in it (the bytes were there, and we did not see them);
/// - the kernel side calls the segment the beginning of a message, which it does only in sequence, or says that it
///   left out what lies between;
/// - it was sent, not received: a socket sends in order, so what lies between was not captured;
/// - it has waited for [`Reassembler::MAX_AGE`], or too much is held.
///
/// Segments from the network are seen before TCP has checked them. One that lies far ahead and unacknowledged while
/// the stream goes on at its old position is no part of it: it is dropped and counted.
#[derive(Debug, Default)]
pub struct Reassembler {
    sent: OneWay,
    received: OneWay,
    desyncs: u64,
}

impl Reassembler {
    /// How long a hole is waited for: a few retransmission timeouts (200 ms and more each) of a nearby peer, and still
    /// soon enough for a live view.
    pub const MAX_AGE: Duration = Duration::from_secs(1);

    /// A connection of which nothing has been seen yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes a segment and hands over what has become ready.
    pub fn push(&mut self, segment: &Segment<'_>, out: &mut dyn FnMut(Chunk<'_>)) {
        let (way, other) = match segment.direction {
            Direction::Sent => (&mut self.sent, &mut self.received),
            Direction::Received => (&mut self.received, &mut self.sent),
        };
        // What comes from nowhere proves nothing; a reset may carry no acknowledgement at all, nor do the kernel side's
        // marks of an end. (A genuine 0 is one of 2^32, and others follow it.)
        if !segment.rst && segment.acknowledgement != 0 && way.is_plausible(segment) {
            // What the other side had to see before it sent this comes first.
            self.desyncs += other.acknowledge(segment, out);
        }
        self.desyncs += way.push(segment, out);
        self.tick(segment.when, out);
    }

    /// Gives up waiting for holes older than the limit.
    pub fn tick(&mut self, now: Nanos, out: &mut dyn FnMut(Chunk<'_>)) {
        self.desyncs += self.sent.expire(now, out) + self.received.expire(now, out);
    }

    /// Hands over all that is held.
    pub fn close(&mut self, _now: Nanos, out: &mut dyn FnMut(Chunk<'_>)) {
        // What has waited longer comes first: a request before its response.
        let (first, second) = match (self.sent.oldest(), self.received.oldest()) {
            (Some(sent), Some(received)) if received < sent => (&mut self.received, &mut self.sent),
            _ => (&mut self.sent, &mut self.received),
        };
        self.desyncs += first.give_up_all(out) + second.give_up_all(out);
    }

    /// Segments that contradicted what was already seen, or lay where no segment could.
    pub fn desyncs(&self) -> u64 {
        self.desyncs
    }

    /// Memory that it holds beyond its own size, in bytes.
    pub fn memory(&self) -> usize {
        self.sent.memory() + self.received.memory()
    }

    /// Whether it waits for something that may never come.
    pub fn is_waiting(&self) -> bool {
        self.sent.oldest().is_some() || self.received.oldest().is_some()
    }

    /// The most that either direction holds: bytes and pieces.
    #[cfg(test)]
    fn held(&self) -> (usize, usize) {
        let (sent, received) = (self.sent.held(), self.received.held());
        (sent.0.max(received.0), sent.1.max(received.1))
    }
}
