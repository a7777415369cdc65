//! One direction of a connection.

use std::collections::VecDeque;

use super::Reassembler;
use crate::chunk::{Capture, Chunk, ConnectionKey, Direction, Origin, Segment};
use crate::time::Nanos;

/// Bytes held for want of what lies before them. Reordering on a path spans a few dozen segments of 1.4 KB, and GRO
/// makes pieces of up to 64 KB of them.
const MAX_HELD_BYTES: usize = 256 * 1024;

/// Segments held; bounds the bookkeeping where segments are tiny.
const MAX_HELD_SEGMENTS: usize = 64;

/// How far ahead a segment can plausibly lie: more than the largest receive window that Linux gives by default (6 MB).
const PLAUSIBLE_AHEAD: u64 = 16 * 1024 * 1024;

/// How far behind a retransmission can plausibly lie. Beyond that, a sequence number means bytes ahead, not behind.
const PLAUSIBLE_BEHIND: u64 = 64 * 1024 * 1024;

/// Where offsets begin, so that what lies before the first segment still has one.
const ORIGIN_OF_OFFSETS: u64 = 1 << 32;

/// The number of times that a segment turned out to contradict what was seen, or not to belong to the stream.
type Desyncs = u64;

#[derive(Debug, Default)]
pub(super) struct OneWay {
    /// The next offset to hand over; `None` before the first segment.
    next: Option<u64>,
    /// What the other side has acknowledged.
    acknowledged: u64,
    /// An acknowledgement from before the first segment.
    early_acknowledgement: Option<u32>,
    /// Pieces ahead of `next`, in order, not overlapping.
    held: VecDeque<Held>,
    held_bytes: usize,
    /// The end of the stream, without bytes.
    fin: Option<Held>,
    has_ended: bool,
    /// When bytes last came at the expected position.
    progressed: Nanos,
    /// The time of the latest chunk.
    last: Nanos,
}

/// Part of a segment, with its unwrapped offset.
#[derive(Clone, Copy)]
struct Piece<'a> {
    when: Nanos,
    connection: ConnectionKey,
    origin: &'a Origin,
    direction: Direction,
    offset: u64,
    original_len: u64,
    bytes: &'a [u8],
    message: u32,
    begins_message: bool,
    capture: Capture,
    follows_thinning: bool,
}

struct Held {
    when: Nanos,
    connection: ConnectionKey,
    origin: Origin,
    direction: Direction,
    offset: u64,
    original_len: u64,
    bytes: Vec<u8>,
    message: u32,
    begins_message: bool,
    capture: Capture,
    follows_thinning: bool,
}

impl OneWay {
    /// Takes a segment of this direction.
    pub(super) fn push(&mut self, segment: &Segment<'_>, out: &mut dyn FnMut(Chunk<'_>)) -> Desyncs {
        let next = self.start(segment);
        if self.has_ended {
            return 0;
        }
        let piece = Piece::new(segment, self.unwrap(segment.sequence, segment.begins_message));
        if segment.rst {
            return self.reset(piece, out);
        }
        if segment.fin && self.fin.is_none() && piece.end() >= next && self.is_plausible(segment) {
            self.fin = Some(piece.part(piece.end(), piece.end()).hold());
        }
        let mut desyncs = Desyncs::from(self.contradicts(&piece));
        if piece.offset > next && self.may_skip_to(segment, &piece, next) {
            desyncs += self.skip_to(piece.offset, out);
        }
        if piece.offset <= self.position() {
            if piece.end() > self.position() {
                self.progressed = piece.when;
            }
            self.deliver(piece, out);
        } else if piece.original_len > 0 {
            desyncs += self.hold(piece, out);
        }
        if segment.direction == Direction::Sent {
            // Nothing is on its way any more that was sent before.
            desyncs += self.give_up_all(out);
        }
        desyncs
    }

    /// Whether the segment lies where one of this stream can lie.
    pub(super) fn is_plausible(&self, segment: &Segment<'_>) -> bool {
        let Some(next) = self.next else { return true };
        let offset = self.unwrap(segment.sequence, segment.begins_message);
        segment.begins_message
            || segment.direction == Direction::Sent
            || (next.saturating_sub(PLAUSIBLE_BEHIND)..=next.max(self.acknowledged) + PLAUSIBLE_AHEAD).contains(&offset)
    }

    /// Takes the acknowledgement that a segment of the *other* direction carries.
    pub(super) fn acknowledge(&mut self, segment: &Segment<'_>, out: &mut dyn FnMut(Chunk<'_>)) -> Desyncs {
        if self.next.is_none() {
            self.early_acknowledgement = Some(segment.acknowledgement);
            return 0;
        }
        let acknowledged = self.unwrap(segment.acknowledgement, segment.begins_message);
        self.acknowledged = self.acknowledged.max(acknowledged);
        let mut desyncs = 0;
        while self.held.front().is_some_and(|held| held.offset <= self.acknowledged) {
            desyncs += self.give_up_hole(out);
        }
        if self.fin.as_ref().is_some_and(|fin| fin.offset <= self.acknowledged) {
            desyncs += self.give_up_all(out);
        }
        desyncs
    }

    /// Gives up holes that have been waited for too long.
    pub(super) fn expire(&mut self, now: Nanos, out: &mut dyn FnMut(Chunk<'_>)) -> Desyncs {
        let mut desyncs = 0;
        while self.oldest().is_some_and(|oldest| now.since(oldest) >= Reassembler::MAX_AGE) {
            desyncs += self.give_up_hole(out);
        }
        desyncs
    }

    /// Hands over all that is held.
    pub(super) fn give_up_all(&mut self, out: &mut dyn FnMut(Chunk<'_>)) -> Desyncs {
        let mut desyncs = 0;
        while self.oldest().is_some() {
            desyncs += self.give_up_hole(out);
        }
        desyncs
    }

    /// When the piece came that waits longest.
    pub(super) fn oldest(&self) -> Option<Nanos> {
        self.held.iter().chain(&self.fin).map(|held| held.when).min()
    }

    /// Memory for what is held.
    pub(super) fn memory(&self) -> usize {
        self.held_bytes + self.held.capacity() * size_of::<Held>()
    }

    /// Bytes and pieces held.
    #[cfg(test)]
    pub(super) fn held(&self) -> (usize, usize) {
        assert_eq!(self.held_bytes, self.held.iter().map(|held| held.bytes.len()).sum::<usize>());
        (self.held_bytes, self.held.len())
    }

    /// Settles where the stream starts, and says what is expected next.
    fn start(&mut self, segment: &Segment<'_>) -> u64 {
        *self.next.get_or_insert_with(|| {
            let first = ORIGIN_OF_OFFSETS + u64::from(segment.sequence);
            // The other side has told where it expects this stream to go on: the first segment may be out of order.
            let behind = self.early_acknowledgement.map_or(0, |expected| segment.sequence.wrapping_sub(expected));
            let is_near = (behind as usize) < MAX_HELD_BYTES && segment.direction == Direction::Received;
            if is_near { first - u64::from(behind) } else { first }
        })
    }

    fn position(&self) -> u64 {
        self.next.unwrap_or(ORIGIN_OF_OFFSETS)
    }

    /// The 64-bit offset of a sequence number.
    ///
    /// What belongs to the beginning of a message may follow gigabytes that were of no interest; so there nearly all
    /// of the number space lies ahead.
    fn unwrap(&self, sequence: u32, begins_message: bool) -> u64 {
        let near = self.position().max(self.acknowledged);
        let ahead = u64::from(sequence.wrapping_sub(near as u32));
        let reach = if begins_message { (1 << 32) - PLAUSIBLE_BEHIND } else { 1 << 31 };
        if ahead < reach { near + ahead } else { (near + ahead).saturating_sub(1 << 32) }
    }

    /// Whether the hole before a piece need not be waited for.
    fn may_skip_to(&self, segment: &Segment<'_>, piece: &Piece<'_>, next: u64) -> bool {
        segment.direction == Direction::Sent
            || segment.begins_message
            || piece.offset <= self.acknowledged
            || (segment.follows_thinning && piece.offset - next <= PLAUSIBLE_AHEAD)
    }

    /// Goes on at `offset`, handing over what is held before it.
    fn skip_to(&mut self, offset: u64, out: &mut dyn FnMut(Chunk<'_>)) -> Desyncs {
        let mut desyncs = 0;
        while self.held.front().is_some_and(|held| held.offset < offset) {
            desyncs += self.give_up_hole(out);
        }
        if offset > self.position() {
            self.next = Some(offset);
        }
        desyncs
    }

    /// The sender has given up the connection.
    fn reset(&mut self, piece: Piece<'_>, out: &mut dyn FnMut(Chunk<'_>)) -> Desyncs {
        let limit = self.position().max(self.acknowledged) + PLAUSIBLE_AHEAD;
        if !(self.position()..=limit).contains(&piece.offset) {
            return 1;
        }
        let desyncs = self.skip_to(piece.offset, out);
        if !self.has_ended {
            let end = self.position();
            self.fin = Some(piece.part(piece.offset, piece.offset).at(end).hold());
            self.end_if_reached(piece.when, out);
        }
        desyncs
    }

    /// Hands over a piece that begins at or before the expected position, and whatever it connects to.
    fn deliver(&mut self, piece: Piece<'_>, out: &mut dyn FnMut(Chunk<'_>)) {
        while piece.end() > self.position() && !self.has_ended {
            let position = self.position();
            // What was held came first and so counts where the two overlap.
            let until = self.held.front().map_or(u64::MAX, |held| held.offset);
            if until <= position {
                self.deliver_held(Some(piece.when), out);
            } else {
                self.emit(piece.part(position, piece.end().min(until)), out);
            }
        }
        while self.held.front().is_some_and(|held| held.offset <= self.position()) && !self.has_ended {
            self.deliver_held(Some(piece.when), out);
        }
        self.end_if_reached(piece.when, out);
    }

    /// Hands over the first piece held, which begins at the expected position.
    fn deliver_held(&mut self, filled: Option<Nanos>, out: &mut dyn FnMut(Chunk<'_>)) {
        let Some(held) = self.held.pop_front() else { return };
        self.held_bytes -= held.bytes.len();
        let mut piece = held.piece();
        piece.when = piece.when.max(filled.unwrap_or_default());
        self.emit(piece, out);
    }

    fn emit(&mut self, piece: Piece<'_>, out: &mut dyn FnMut(Chunk<'_>)) {
        self.next = Some(piece.end());
        self.last = self.last.max(piece.when);
        let ends_stream = self.fin.as_ref().is_some_and(|fin| fin.offset == piece.end());
        if ends_stream {
            self.finish();
        }
        out(piece.chunk(self.last, ends_stream));
    }

    /// Hands over the end of the stream if nothing is missing before it.
    fn end_if_reached(&mut self, when: Nanos, out: &mut dyn FnMut(Chunk<'_>)) {
        let position = self.position();
        match self.fin.take() {
            Some(fin) if fin.offset == position => {
                self.finish();
                self.last = self.last.max(when);
                out(fin.piece().chunk(self.last, true));
            }
            // Bytes came from beyond it: it was no end.
            Some(fin) if fin.offset < position => {}
            fin => self.fin = fin,
        }
    }

    fn finish(&mut self) {
        self.has_ended = true;
        self.fin = None;
        self.held = VecDeque::new();
        self.held_bytes = 0;
    }

    /// Keeps the parts of a piece that are not held yet.
    fn hold(&mut self, piece: Piece<'_>, out: &mut dyn FnMut(Chunk<'_>)) -> Desyncs {
        let mut from = piece.offset;
        let mut index = 0;
        while from < piece.end() {
            let (start, end) = self.held.get(index).map_or((u64::MAX, u64::MAX), |held| (held.offset, held.end()));
            if from < start {
                let part = piece.part(from, piece.end().min(start));
                self.held_bytes += part.bytes.len();
                self.held.insert(index, part.hold());
                index += 1;
            }
            from = from.max(end);
            index += 1;
        }
        let mut desyncs = 0;
        while self.held.len() > MAX_HELD_SEGMENTS || self.held_bytes > MAX_HELD_BYTES {
            desyncs += self.give_up_hole(out);
        }
        desyncs
    }

    /// Gives up the first hole: hands over what is held up to the next one, unless it cannot belong to the stream.
    fn give_up_hole(&mut self, out: &mut dyn FnMut(Chunk<'_>)) -> Desyncs {
        let position = self.position();
        let Some(first) = self.held.front() else {
            let Some(fin) = &self.fin else { return 0 };
            let (offset, when) = (fin.offset, fin.when);
            if offset > self.acknowledged && self.progressed > when {
                self.fin = None;
                return 1;
            }
            self.next = Some(offset.max(position));
            self.end_if_reached(when, out);
            return 0;
        };
        let reach = position.max(self.acknowledged) + PLAUSIBLE_AHEAD;
        if first.offset > reach && self.progressed > first.when {
            if let Some(dropped) = self.held.pop_front() {
                self.held_bytes -= dropped.bytes.len();
            }
            return 1;
        }
        self.next = Some(first.offset.max(position));
        while self.held.front().is_some_and(|held| held.offset <= self.position()) && !self.has_ended {
            self.deliver_held(None, out);
        }
        self.end_if_reached(self.last, out);
        0
    }

    /// Whether bytes of the piece differ from those held for the same place.
    fn contradicts(&self, piece: &Piece<'_>) -> bool {
        self.held.iter().any(|held| {
            let from = held.offset.max(piece.offset);
            let to = held.end().min(piece.end());
            if from >= to {
                return false;
            }
            let (mine, theirs) = (piece.part(from, to).bytes, held.piece().part(from, to).bytes);
            let both = mine.len().min(theirs.len());
            mine[..both] != theirs[..both]
        })
    }
}

impl<'a> Piece<'a> {
    fn new(segment: &Segment<'a>, offset: u64) -> Self {
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
        }
    }

    fn end(&self) -> u64 {
        self.offset + self.original_len
    }

    /// What lies between two offsets within the piece.
    fn part(&self, from: u64, to: u64) -> Self {
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

    fn at(self, offset: u64) -> Self {
        Self { offset, ..self }
    }

    fn hold(&self) -> Held {
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
        }
    }

    fn chunk(self, when: Nanos, ends_stream: bool) -> Chunk<'a> {
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
            ends_stream,
        }
    }
}

impl Held {
    fn end(&self) -> u64 {
        self.offset + self.original_len
    }

    fn piece(&self) -> Piece<'_> {
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
        }
    }
}

impl std::fmt::Debug for Held {
    /// The bytes are somebody's text.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Held").field("offset", &self.offset).field("len", &self.original_len).finish_non_exhaustive()
    }
}
