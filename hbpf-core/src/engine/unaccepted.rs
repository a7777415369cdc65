//! Segments of connections that their servers have not accepted yet.
//!
//! Whoever can send packets to a listening port can send such segments, with any address on them. So none counts before
//! the kernel side has said that its connection was accepted, and what is kept until then is bounded.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use crate::chunk::{Capture, ConnectionKey, Direction, Origin, Segment};
use crate::time::Nanos;

/// Connections kept. Nearly all are accepted at once; a server whose queue is full makes some hundred wait.
const MAX_CONNECTIONS: usize = 1024;

/// Memory for the segments of all of them.
const MAX_BYTES: usize = 4 * 1024 * 1024;

/// How long one is kept: a client that gets no answer gives up after some minutes, but few servers are that late.
const PATIENCE: Duration = Duration::from_secs(60);

/// The segments of connections not accepted yet.
#[derive(Default)]
pub(super) struct Unaccepted {
    connections: HashMap<ConnectionKey, Connection>,
    /// In the order in which they came; some are accepted or forgotten already.
    order: VecDeque<(Nanos, ConnectionKey)>,
    bytes: usize,
}

struct Connection {
    since: Nanos,
    segments: Vec<Held>,
}

/// A segment that owns its bytes.
pub(super) struct Held {
    when: Nanos,
    origin: Origin,
    direction: Direction,
    sequence: u32,
    acknowledgement: u32,
    original_len: u32,
    bytes: Vec<u8>,
    message: u32,
    begins_message: bool,
    capture: Capture,
    follows_thinning: bool,
}

impl Unaccepted {
    /// Keeps a segment; those that have waited longest make room for it.
    pub(super) fn keep(&mut self, segment: &Segment<'_>) {
        let held = Held::new(segment);
        while self.bytes + held.memory() > MAX_BYTES || self.connections.len() >= MAX_CONNECTIONS {
            // Room for one connection more is made even if this is none.
            if !self.forget_oldest(|_| true) {
                return;
            }
        }
        if self.order.len() >= 2 * MAX_CONNECTIONS {
            let connections = &self.connections;
            self.order.retain(|(since, key)| connections.get(key).is_some_and(|found| found.since == *since));
        }
        let connection = self.connections.entry(segment.connection).or_insert_with(|| {
            self.order.push_back((segment.when, segment.connection));
            Connection { since: segment.when, segments: Vec::new() }
        });
        self.bytes += held.memory();
        connection.segments.push(held);
    }

    /// Forgets the connection that has waited longest, if that may be forgotten; whether there was one.
    fn forget_oldest(&mut self, may: impl Fn(Nanos) -> bool) -> bool {
        while let Some((since, key)) = self.order.front().copied() {
            let waits = self.connections.get(&key).is_some_and(|connection| connection.since == since);
            if waits && !may(since) {
                return false;
            }
            self.order.pop_front();
            if waits {
                self.take(key);
                return true;
            }
        }
        false
    }

    /// Memory for what is kept, in bytes.
    pub(super) fn memory(&self) -> usize {
        self.bytes
    }

    /// The segments of a connection that has been accepted; `None` where there are none any more.
    pub(super) fn take(&mut self, key: ConnectionKey) -> Option<Vec<Held>> {
        let mut segments = self.connections.remove(&key)?.segments;
        self.bytes -= segments.iter().map(Held::memory).sum::<usize>();
        // No socket could say what TCP had taken of them: all of them wait for the connection's own to say so.
        let any = segments.first()?.sequence;
        let first = segments.iter().map(|held| held.sequence.wrapping_sub(any) as i32).min()?;
        for held in &mut segments {
            held.acknowledgement = any.wrapping_add_signed(first);
        }
        Some(segments)
    }

    pub(super) fn expire(&mut self, now: Nanos) {
        while self.forget_oldest(|since| now.since(since) >= PATIENCE) {}
    }

    pub(super) fn is_empty(&self) -> bool {
        self.connections.is_empty()
    }
}

impl Held {
    fn memory(&self) -> usize {
        size_of::<Self>() + self.bytes.capacity()
    }

    fn new(segment: &Segment<'_>) -> Self {
        Self {
            when: segment.when,
            origin: *segment.origin,
            direction: segment.direction,
            sequence: segment.sequence,
            acknowledgement: segment.acknowledgement,
            original_len: segment.original_len,
            bytes: segment.bytes.to_vec(),
            message: segment.message,
            begins_message: segment.begins_message,
            capture: segment.capture,
            follows_thinning: segment.follows_thinning,
        }
    }

    /// The endpoint, now that the connection has one: `accepted` knows its process.
    pub(super) fn origin(&self, accepted: &Origin) -> Origin {
        Origin { pid: accepted.pid, owner_is_certain: accepted.owner_is_certain, comm: accepted.comm, ..self.origin }
    }

    pub(super) fn segment<'a>(&'a self, connection: ConnectionKey, origin: &'a Origin) -> Segment<'a> {
        Segment {
            when: self.when,
            connection,
            origin,
            direction: self.direction,
            sequence: self.sequence,
            acknowledgement: self.acknowledgement,
            original_len: self.original_len,
            bytes: &self.bytes,
            message: self.message,
            begins_message: self.begins_message,
            capture: self.capture,
            follows_thinning: self.follows_thinning,
            fin: false,
            rst: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chunk::Source;

    fn keep(waiting: &mut Unaccepted, handle: u64, when: u64, bytes: &[u8]) -> ConnectionKey {
        let connection = ConnectionKey { source: Source::Tcp, pid: 0, handle, generation: 0 };
        waiting.keep(&Segment {
            when: Nanos(when),
            connection,
            origin: &Origin::default(),
            direction: Direction::Received,
            sequence: 1,
            acknowledgement: 1,
            original_len: u32::try_from(bytes.len()).unwrap(),
            bytes,
            message: 1,
            begins_message: true,
            capture: Capture::Positive,
            follows_thinning: false,
            fin: false,
            rst: false,
        });
        connection
    }

    #[test]
    fn a_flood_of_connections_that_nobody_accepts_takes_bounded_memory() {
        let mut waiting = Unaccepted::default();
        for handle in 0..100_000 {
            keep(&mut waiting, handle, handle, &[0; 100]);
        }
        assert!(waiting.connections.len() <= MAX_CONNECTIONS && waiting.order.len() <= 2 * MAX_CONNECTIONS);
        let last = keep(&mut waiting, 99_999, 100_000, &[0; 100]);
        assert_eq!(waiting.take(last).map(|segments| segments.len()), Some(2), "the latest are kept");
        for handle in 0..10_000 {
            keep(&mut waiting, handle, 200_000, &[0; 16_384]);
            assert!(waiting.bytes <= MAX_BYTES);
        }
        for _ in 0..100_000 {
            keep(&mut waiting, 1, 200_000, &[]);
            assert!(waiting.bytes <= MAX_BYTES);
        }
        let segments: usize = waiting.connections.values().map(|connection| connection.segments.len()).sum();
        assert!(segments * size_of::<Held>() <= MAX_BYTES, "segments without bytes take room, too");
        waiting.expire(Nanos(200_000).after(PATIENCE));
        assert!(waiting.is_empty());
        assert_eq!(waiting.bytes, 0);
    }
}
