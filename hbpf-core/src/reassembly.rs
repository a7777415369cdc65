//! TCP segments put in order.

mod piece;
mod received;
mod sent;
#[cfg(test)]
mod tests;

use std::time::Duration;

use crate::chunk::{Chunk, Direction, Segment};
use crate::time::Nanos;
use received::Received;
use sent::Sent;

/// Where offsets begin, so that what lies before the first segment still has one.
const ORIGIN_OF_OFFSETS: u64 = 1 << 32;

/// How far behind a sequence number of a socket's own can lie: it has been sent again, or its record comes late. What is
/// further behind lies ahead, beyond gigabytes that were of no interest.
const PLAUSIBLE_BEHIND: u32 = 64 * 1024 * 1024;

/// Puts the segments of one connection in order, both directions, in bounded memory.
///
/// The offset of a chunk is its sequence number unwrapped to 64 bits; the low 32 bits are the sequence number. The time
/// of a chunk is that of its in-order delivery: a segment that waited for a hole to be filled carries the time of the
/// segment that filled it.
///
/// What a socket sends is in order, but for what it sends again. What it receives is seen before TCP has checked it:
/// in any order, broken, forged. But every segment tells what the socket has taken so far
/// ([`Segment::acknowledgement`]), and that is the truth:
///
/// - a segment waits until it is taken, or until it is known not to be;
/// - a hole that is taken will not be filled any more: its bytes were there, and we did not see them;
/// - of two segments that contradict each other the second counts if the first had its turn and was not taken. Where
///   that cannot be told, neither counts: what is taken there is missing.
#[derive(Debug, Default)]
pub struct Reassembler {
    sent: Sent,
    received: Received,
}

impl Reassembler {
    /// How long a segment is kept that TCP does not take. The bytes before it may be on their way for so long: a sender
    /// tries again after 0.2 s and more, twice as long each time, up to this (`TCP_RTO_MAX` of Linux).
    pub const MAX_AGE: Duration = Duration::from_secs(120);

    /// A connection of which nothing has been seen yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes a segment and hands over what has become ready. `false` if it cannot belong to the connection.
    pub fn push(&mut self, segment: &Segment<'_>, out: &mut dyn FnMut(Chunk<'_>)) -> bool {
        // What had been received before this was sent, or came, goes first.
        self.received.acknowledge(segment, out);
        let belongs = match segment.direction {
            Direction::Sent => {
                self.sent.push(segment, out);
                true
            }
            Direction::Received => self.received.push(segment, out),
        };
        self.tick(segment.when);
        belongs
    }

    /// Forgets what TCP has not taken for too long.
    pub fn tick(&mut self, now: Nanos) {
        self.received.expire(now);
    }

    /// Lets go of all that is held, since nothing more will come or it takes too much memory: it is missing.
    pub fn close(&mut self, out: &mut dyn FnMut(Chunk<'_>)) {
        self.received.close(out);
    }

    /// Segments that contradicted what was already seen, lay where no segment could, or were never taken.
    pub fn desyncs(&self) -> u64 {
        self.received.desyncs()
    }

    /// Memory that it holds beyond its own size, in bytes.
    pub fn memory(&self) -> usize {
        self.received.memory()
    }

    /// Whether it waits for something that may never come.
    pub fn is_waiting(&self) -> bool {
        self.received.is_waiting()
    }

    /// How much is held: bytes and pieces.
    #[cfg(test)]
    fn held(&self) -> (usize, usize) {
        self.received.held()
    }
}

/// The 64-bit form of a sequence number of a socket's own, which only grow; `near` is the latest before it.
fn unwrap_growing(sequence: u32, near: u64) -> u64 {
    let ahead = sequence.wrapping_sub(near as u32);
    if ahead < u32::MAX - PLAUSIBLE_BEHIND {
        near + u64::from(ahead)
    } else {
        near.saturating_sub(u64::from(ahead.wrapping_neg()))
    }
}
