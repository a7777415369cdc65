//! What a socket receives, seen before TCP has looked at it.

use std::collections::VecDeque;
use std::time::Duration;

use super::piece::{Held, Piece};
use super::{ORIGIN_OF_OFFSETS, Reassembler, unwrap_growing};
use crate::chunk::{Capture, Chunk, Segment};
use crate::time::Nanos;

/// Bytes held until TCP takes them. Reordering on a path spans a few dozen segments of 1.4 KB, and what waits for a lost one
/// that is lost again all that comes in seconds; pieces of up to 64 KB wait while a process works with its socket.
pub(super) const MAX_HELD_BYTES: usize = 512 * 1024;

/// Pieces held; bounds the bookkeeping where segments are tiny: ten seconds of a fast stream.
pub(super) const MAX_HELD_PIECES: usize = 1024;

/// Pieces that room is kept for while none are held.
const USUALLY_HELD: usize = 16;

/// Ends of the stream that are considered: all but one are forged.
const MAX_ENDS: usize = 4;

/// A segment waits for its socket as long as a process works with that, some microseconds, and a busy machine may make some
/// hundred of it. Between a segment and its repetition lies a round trip and more.
pub(super) const REFUSED_AFTER: Duration = Duration::from_millis(2);

/// Pieces that are considered where one contradicts the other: all but one are broken or forged.
const MAX_RIVALS: usize = 16;

/// Pieces that are weighed against each other at once; of more, what contradicts another is missing. What it takes grows
/// with the square of this and more.
const MAX_WEIGHED: usize = 64;

/// How far from what TCP has taken a segment can plausibly lie: more than the largest receive window that Linux gives by
/// default (6 MB).
const PLAUSIBLE: u64 = 16 * 1024 * 1024;

#[derive(Debug, Default)]
pub(super) struct Received {
    /// What TCP has taken; `None` while nothing says so.
    taken: Option<u64>,
    /// The next offset to hand over, never before `taken`; `None` before the first segment.
    next: Option<u64>,
    /// Pieces from `next` on, in order, not overlapping.
    held: VecDeque<Held>,
    /// Pieces that contradict others, held or rivals: which one TCP takes shows by how far that brings it.
    rivals: Vec<Held>,
    held_bytes: usize,
    /// Where the stream may end, without bytes: which of them is true, what TCP takes will tell.
    ends: Vec<Held>,
    has_ended: bool,
    /// What waits has come at this time or later.
    oldest: Nanos,
    /// The time of the latest chunk.
    last: Nanos,
    desyncs: u64,
}

impl Received {
    /// TCP had taken all before the segment's acknowledgement when that passed, whichever way; 0 says nothing. (A genuine
    /// 0 is one of 2^32, and others follow it.)
    pub(super) fn acknowledge(&mut self, segment: &Segment<'_>, out: &mut dyn FnMut(Chunk<'_>)) {
        let acknowledgement = segment.acknowledgement;
        if acknowledgement == 0 || self.has_ended {
            return;
        }
        let first = ORIGIN_OF_OFFSETS + u64::from(acknowledgement);
        let taken = self.taken.or(self.next).map_or(first, |near| unwrap_growing(acknowledgement, near).max(near));
        self.taken = Some(taken);
        self.hand_over(taken, out);
        if !self.has_ended && self.next.is_none_or(|next| next < taken) {
            self.next = Some(taken);
            // Where the stream is, or that there is a hole: nothing may follow that would show it.
            out(Piece::nothing_at(taken, segment).chunk(self.last));
        }
    }

    /// Takes a segment. `false` if it lies where none of this stream can lie.
    pub(super) fn push(&mut self, segment: &Segment<'_>, out: &mut dyn FnMut(Chunk<'_>)) -> bool {
        if self.has_ended {
            return true;
        }
        let piece = Piece::new(segment, self.unwrap(segment));
        let near = self.taken.or(self.next).unwrap_or(piece.offset);
        let is_beginning = segment.begins_message && self.taken.is_none();
        if !is_beginning && (piece.offset > near + PLAUSIBLE || piece.end() + PLAUSIBLE < near) {
            self.desyncs += 1;
            return false;
        }
        let next = *self.next.get_or_insert(near.min(piece.offset));
        if segment.rst {
            return self.reset(piece, out);
        }
        if segment.fin && piece.end() >= next {
            self.note_end(piece.ending_at(piece.end()));
        }
        let has_turn = piece.offset <= next || is_beginning;
        if self.taken.is_some() && piece.capture == Capture::Positive || !has_turn {
            self.hold(piece, out);
        } else {
            // Nothing will say when it is taken: the rest of it is not copied before there is a verdict.
            self.emit(piece.part(piece.offset.max(next).min(piece.end()), piece.end()), out);
        }
        if self.taken.is_none() {
            self.hand_over_in_order(out);
        }
        true
    }

    /// Forgets what TCP has not taken for too long.
    pub(super) fn expire(&mut self, now: Nanos) {
        let is_fresh = |when: Nanos| now.since(when) < Reassembler::MAX_AGE;
        if !self.is_waiting() || is_fresh(self.oldest) {
            return;
        }
        let before = self.held.len();
        self.held.retain(|held| is_fresh(held.when));
        self.held_bytes = self.held.iter().map(|held| held.bytes.len()).sum();
        self.ends.retain(|held| is_fresh(held.when));
        self.rivals.retain(|held| is_fresh(held.when));
        self.desyncs += (before - self.held.len()) as u64;
        self.give_back_room();
        let waiting = self.held.iter().chain(&self.ends).chain(&self.rivals);
        self.oldest = waiting.map(|held| held.when).min().unwrap_or(now);
    }

    /// Lets go of everything: what would have been next is missing, the rest is forgotten.
    pub(super) fn close(&mut self, out: &mut dyn FnMut(Chunk<'_>)) {
        while let Some(held) = self.pop_in_order() {
            self.emit(held.piece().blank(), out);
        }
        self.hand_over_end(self.next.unwrap_or_default(), out);
        self.desyncs += self.held.len() as u64;
        self.forget();
    }

    /// What contradicted other segments, lay where it could not, or was never taken.
    pub(super) fn desyncs(&self) -> u64 {
        self.desyncs
    }

    /// Memory for what is held.
    pub(super) fn memory(&self) -> usize {
        let pieces = self.held.capacity() + self.ends.capacity() + self.rivals.capacity();
        self.held_bytes + self.rivals.iter().map(|rival| rival.bytes.len()).sum::<usize>() + pieces * size_of::<Held>()
    }

    /// Whether anything is held that TCP may never take.
    pub(super) fn is_waiting(&self) -> bool {
        !self.held.is_empty() || !self.ends.is_empty() || !self.rivals.is_empty()
    }

    /// Bytes and pieces held.
    #[cfg(test)]
    pub(super) fn held(&self) -> (usize, usize) {
        assert_eq!(self.held_bytes, self.held.iter().map(|held| held.bytes.len()).sum::<usize>());
        assert!(self.held.iter().zip(self.held.iter().skip(1)).all(|(one, next)| one.end() <= next.offset));
        (self.held_bytes, self.held.len())
    }

    /// The 64-bit offset of a segment: near what TCP has taken.
    fn unwrap(&self, segment: &Segment<'_>) -> u64 {
        match self.taken.or(self.next) {
            None => ORIGIN_OF_OFFSETS + u64::from(segment.sequence),
            Some(next) if self.taken.is_none() && segment.begins_message => unwrap_growing(segment.sequence, next),
            Some(near) => near.saturating_add_signed(i64::from(segment.sequence.wrapping_sub(near as u32) as i32)),
        }
    }

    /// Hands over what lies before this offset. What of it is not held will not come any more.
    fn hand_over(&mut self, until: u64, out: &mut dyn FnMut(Chunk<'_>)) {
        if self.next.is_some_and(|next| next < until) {
            self.choose(until);
        }
        while self.held.front().is_some_and(|held| held.offset < until) {
            let Some(held) = self.pop() else { break };
            let piece = held.piece();
            let from = piece.offset.max(self.next.unwrap_or_default());
            if piece.end() > until {
                self.insert(0, piece.part(until, piece.end()));
            }
            if from < piece.end().min(until) {
                self.emit(piece.part(from, piece.end().min(until)), out);
            }
        }
        self.give_back_room();
        self.hand_over_end(until, out);
    }

    /// Frees what a long hole has taken, once nothing is held any more.
    fn give_back_room(&mut self) {
        if self.held.is_empty() && self.held.capacity() > USUALLY_HELD {
            self.held = VecDeque::new();
        }
    }

    /// Hands over what follows without a hole.
    fn hand_over_in_order(&mut self, out: &mut dyn FnMut(Chunk<'_>)) {
        while let Some(held) = self.pop_in_order() {
            self.emit(held.piece(), out);
        }
        self.hand_over_end(self.next.unwrap_or_default(), out);
    }

    /// Hands over the end of the stream if it lies before this offset, or there and nothing can say that it is taken.
    fn hand_over_end(&mut self, until: u64, out: &mut dyn FnMut(Chunk<'_>)) {
        // The end has a sequence number itself.
        let room = u64::from(self.taken.is_some());
        while let Some(index) = self.ends.iter().position(|end| end.offset + room <= until) {
            let end = self.ends.swap_remove(index);
            // Where the stream goes on behind it, somebody made it up.
            if end.offset + room == until && self.next.is_none_or(|next| next <= end.offset) {
                self.emit(end.piece(), out);
                return self.finish();
            }
            self.desyncs += 1;
        }
    }

    fn note_end(&mut self, piece: Piece<'_>) {
        if self.ends.iter().any(|end| end.offset == piece.offset) {
            return;
        }
        if self.ends.len() >= MAX_ENDS {
            self.ends.remove(0);
            self.desyncs += 1;
        }
        self.note_waiting(piece.when);
        self.ends.push(piece.hold());
    }

    /// Something that came then begins to wait.
    fn note_waiting(&mut self, when: Nanos) {
        self.oldest = if self.is_waiting() { self.oldest.min(when) } else { when };
    }

    /// Decides between pieces that contradict each other, now that TCP has taken all before `until`: only the genuine ones
    /// add up to that. What does not is forgotten, and what may be either is missing.
    fn choose(&mut self, until: u64) {
        let next = self.next.unwrap_or_default();
        let (rivals, later): (Vec<_>, _) = self.rivals.drain(..).partition(|rival| rival.offset < until);
        self.rivals = later;
        if rivals.is_empty() {
            return;
        }
        let before = self.held.partition_point(|held| held.offset < until);
        let is_needed = |piece: &Held| piece.end() > next;
        let mut pieces: Vec<Held> = rivals.into_iter().filter(is_needed).collect();
        let rivals = pieces.len();
        pieces.extend(self.held.drain(..before).filter(is_needed));
        // Of two that contradict each other one is a rival.
        let others = |index: usize| if index < rivals { &pieces[..] } else { &pieces[..rivals] };
        let contradicts = |one: &Held, other: &Held| one.piece().contradicts(&other.piece());
        let is_contradicted: Vec<bool> = (pieces.iter().enumerate())
            .map(|(index, piece)| others(index).iter().any(|other| contradicts(piece, other)))
            .collect();
        let are_weighed = pieces.len() <= MAX_WEIGHED;
        let may_be_genuine: Vec<bool> = (pieces.iter().zip(&is_contradicted))
            .map(|(piece, is_contradicted)| !is_contradicted || !are_weighed || adds_up(piece, &pieces, next, until))
            .collect();
        // What TCP had not taken by the time that it was sent again, it has refused.
        let is_rival =
            |piece: &Held, rival: &Held| contradicts(piece, rival) && piece.when.since(rival.when) < REFUSED_AFTER;
        let has_rival = |index: usize| {
            let mut rivals = others(index).iter().zip(&may_be_genuine).filter(|(_, may_be)| **may_be);
            is_contradicted[index] && (!are_weighed || rivals.any(|(rival, _)| is_rival(&pieces[index], rival)))
        };
        // What may be either is missing, and comes last: a genuine piece may cover it.
        let (unknown, genuine): (Vec<usize>, Vec<usize>) =
            (0..pieces.len()).filter(|index| may_be_genuine[*index]).partition(|index| has_rival(*index));
        genuine.into_iter().for_each(|index| self.insert_new(pieces[index].piece()));
        unknown.into_iter().for_each(|index| self.insert_new(pieces[index].piece().blank()));
        self.held_bytes = self.held.iter().map(|held| held.bytes.len()).sum();
    }

    fn emit(&mut self, piece: Piece<'_>, out: &mut dyn FnMut(Chunk<'_>)) {
        self.next = Some(self.next.unwrap_or_default().max(piece.end()));
        self.last = self.last.max(piece.when);
        if piece.end() > piece.offset || piece.is_end() {
            out(piece.chunk(self.last));
        }
    }

    fn finish(&mut self) {
        self.has_ended = true;
        self.forget();
    }

    fn forget(&mut self) {
        self.ends = Vec::new();
        self.rivals = Vec::new();
        self.held = VecDeque::new();
        self.held_bytes = 0;
    }

    /// The sender has given up the connection. TCP believes that at the place where it is only.
    fn reset(&mut self, piece: Piece<'_>, out: &mut dyn FnMut(Chunk<'_>)) -> bool {
        // One before: the sender of a FIN may reset with the number of that.
        let place = self.taken.or(self.next).unwrap_or(piece.offset);
        if !(place.saturating_sub(1)..=place).contains(&piece.offset) {
            self.desyncs += 1;
            return false;
        }
        self.hand_over(piece.offset, out);
        if !self.has_ended {
            self.emit(piece.ending_at(self.next.unwrap_or_default().max(piece.offset)), out);
            self.finish();
        }
        true
    }

    /// Keeps what of a piece is new.
    ///
    /// Where the first is at its turn there is twice the room: it may have filled the hole that all the rest waits behind, and
    /// TCP takes it any moment.
    fn hold(&mut self, piece: Piece<'_>, out: &mut dyn FnMut(Chunk<'_>)) {
        self.note_waiting(piece.when);
        self.settle_contradictions(&piece);
        self.insert_new(piece);
        loop {
            let is_at_turn = self.next.zip(self.held.front()).is_some_and(|(next, front)| front.offset <= next);
            let room = if is_at_turn { 2 } else { 1 };
            if self.held.len() <= room * MAX_HELD_PIECES && self.held_bytes <= room * MAX_HELD_BYTES {
                return;
            }
            if let Some(held) = self.pop_in_order() {
                // There is no room for it, and nothing says whether TCP takes it, or something else in its place.
                let is_taken = self.taken.is_none_or(|taken| held.end() <= taken);
                self.emit(if is_taken { held.piece() } else { held.piece().blank() }, out);
            } else if let Some(last) = self.held.pop_back() {
                self.held_bytes -= last.bytes.len();
                self.desyncs += 1;
            }
        }
    }

    /// Inserts what of a piece is not held.
    fn insert_new(&mut self, piece: Piece<'_>) {
        let mut from = piece.offset.max(self.next.unwrap_or_default());
        let mut index = self.held.partition_point(|held| held.end() <= from);
        while from < piece.end() {
            let (start, end) = self.held.get(index).map_or((u64::MAX, u64::MAX), |held| (held.offset, held.end()));
            if from < start {
                self.insert(index, piece.part(from, piece.end().min(start)));
                index += 1;
            }
            from = from.max(end);
            index += 1;
        }
    }

    /// Decides between the piece and those that are held where they differ, if that can be decided already.
    fn settle_contradictions(&mut self, piece: &Piece<'_>) {
        let next = self.next.unwrap_or_default();
        let will_be_known = self.taken.is_some();
        let last = self.last;
        // It had its turn, and TCP has not taken it since.
        let is_refused = |held: &Held| held.offset <= next && piece.when.since(last.max(held.when)) >= REFUSED_AFTER;
        let rivals = &mut self.rivals;
        rivals.retain(|rival| !is_refused(rival));
        let mut differs = false;
        let mut index = self.held.partition_point(|held| held.end() <= piece.offset);
        while let Some(held) = self.held.get_mut(index).filter(|held| held.offset < piece.end()) {
            if !held.piece().contradicts(piece) {
                index += 1;
                continue;
            }
            differs = true;
            if !is_refused(held) {
                let unknown = held.piece().blank().hold();
                let bytes: usize = rivals.iter().map(|rival| rival.bytes.len()).sum();
                if !will_be_known || rivals.len() >= MAX_RIVALS || bytes + held.bytes.len() > MAX_HELD_BYTES {
                    *held = unknown;
                    index += 1;
                    continue;
                }
                rivals.push(std::mem::replace(held, unknown));
            }
            self.held.remove(index);
        }
        if differs {
            self.held_bytes = self.held.iter().map(|held| held.bytes.len()).sum();
            self.desyncs += 1;
        }
    }

    fn insert(&mut self, index: usize, piece: Piece<'_>) {
        self.held_bytes += piece.bytes.len();
        self.held.insert(index, piece.hold());
    }

    fn pop(&mut self) -> Option<Held> {
        let held = self.held.pop_front()?;
        self.held_bytes -= held.bytes.len();
        Some(held)
    }

    /// The first piece, if nothing is missing before it. What a beginning has left behind is forgotten.
    fn pop_in_order(&mut self) -> Option<Held> {
        let next = self.next?;
        while self.held.front()?.end() <= next {
            self.pop();
            self.desyncs += 1;
        }
        let is_next = self.held.front()?.offset <= next;
        let held = if is_next { self.pop()? } else { return None };
        if held.offset == next { Some(held) } else { Some(held.piece().part(next, held.end()).hold()) }
    }
}

/// Whether the piece and others that do not contradict it can have brought TCP from one place to the other.
fn adds_up(piece: &Held, pieces: &[Held], from: u64, to: u64) -> bool {
    let agrees = |other: &&Held| !other.piece().contradicts(&piece.piece());
    let covers = |piece: &Held, place: u64| (piece.offset..piece.end()).contains(&place);
    // Where TCP may have been on its way, and from which of these places it may have come to where it is.
    let mut places = vec![from];
    let mut index = 0;
    while let Some(place) = places.get(index).copied() {
        for other in pieces.iter().filter(agrees).filter(|other| covers(other, place) && other.end() <= to) {
            if !places.contains(&other.end()) {
                places.push(other.end());
            }
        }
        index += 1;
    }
    places.sort_unstable();
    let mut good = vec![to];
    for place in places.iter().rev() {
        if pieces.iter().filter(agrees).any(|other| covers(other, *place) && good.contains(&other.end())) {
            good.push(*place);
        }
    }
    good.contains(&piece.end()) && places.iter().any(|place| covers(piece, *place))
}
