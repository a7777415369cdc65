//! Records into the ring, each of the smallest class that holds its bytes, and the counters.

use aya_ebpf::helpers::{bpf_ktime_get_ns, generated::bpf_get_current_comm};
use hbpf_ebpf::{LARGEST_RECORD, RECORD_CLASSES, RecordHeader, TAIL_BYTES, counter, flags, kind};

use crate::{
    budget,
    flow::{EMITTED, LOST, Piece, Source, State},
    maps::{COUNTERS, EVENTS},
    number::{add_atomically, bounded, forgotten},
};

#[repr(C)]
struct Record<const N: usize> {
    header: RecordHeader,
    payload: [u8; N],
}

/// Emits of the piece what has been decided on, in as few records as that needs.
#[inline(never)]
pub fn emit<S: Source>(source: S, state: &mut S::State, piece: &mut Piece) {
    const LARGEST: u32 = LARGEST_RECORD as u32;
    piece.forget();
    let pressure = budget::pressure(piece.now(), piece.whole + piece.tail);
    if pressure != budget::FREE {
        return emit_ends(source, state, piece, pressure);
    }
    budget::pay(piece.now(), piece.whole + piece.tail);
    let unknown = piece.timestamp_ns;
    let (whole, tail) = (piece.whole, piece.tail);
    if whole == 0 {
        piece.begin_is_past();
    }
    let mut at = 0;
    for _ in 1..S::MOST_RECORDS {
        if whole.wrapping_sub(at) <= LARGEST {
            break;
        }
        emit_record::<S, LARGEST_RECORD>(source, state, piece, at, LARGEST);
        at = forgotten(at + LARGEST, unknown);
    }
    let left = whole.saturating_sub(at);
    if left > RECORD_CLASSES[5] as u32 {
        emit_record::<S, LARGEST_RECORD>(source, state, piece, at, left);
    } else if left > RECORD_CLASSES[4] as u32 {
        emit_record::<S, { RECORD_CLASSES[5] }>(source, state, piece, at, left);
    } else if left > RECORD_CLASSES[3] as u32 {
        emit_record::<S, { RECORD_CLASSES[4] }>(source, state, piece, at, left);
    } else if left > RECORD_CLASSES[2] as u32 {
        emit_record::<S, { RECORD_CLASSES[3] }>(source, state, piece, at, left);
    } else if left > RECORD_CLASSES[1] as u32 {
        emit_record::<S, { RECORD_CLASSES[2] }>(source, state, piece, at, left);
    } else if left > RECORD_CLASSES[0] as u32 {
        emit_record::<S, { RECORD_CLASSES[1] }>(source, state, piece, at, left);
    } else if left > 0 {
        emit_record::<S, { RECORD_CLASSES[0] }>(source, state, piece, at, left);
    }
    if tail > 0 {
        let at = piece.len.wrapping_sub(tail);
        if at > whole && piece.is_cut == 0 {
            piece.flags |= flags::THINNED;
        } else if at > whole {
            count(counter::TIMING_ONLY_CHUNKS, 1);
            count(counter::TIMING_ONLY_BYTES, at - whole);
        }
        emit_record::<S, { TAIL_BYTES as usize }>(source, state, piece, at, tail);
    }
}

/// Emits the bytes that a flow has held back, at most as many as the smallest class holds.
#[inline(always)]
pub fn emit_held<S: Source>(source: S, state: &mut S::State, piece: &mut Piece) {
    emit_record::<S, { RECORD_CLASSES[0] }>(source, state, piece, 0, piece.held);
}

/// Emits a record without bytes: by its flags, how a direction has ended, and what the socket has taken.
#[inline(never)]
pub fn emit_end<S: Source>(source: S, state: &mut S::State, flags: u16, direction: u8, offset: u64) {
    let Some(mut entry) = EVENTS.reserve::<RecordHeader>(0) else { return count(counter::RING_FULL_CHUNKS, 1) };
    // SAFETY: the entry is memory for a header, every field of which is written.
    let header = unsafe { &mut *entry.as_mut_ptr() };
    describe_mark(source, state, header, kind::DATA);
    header.direction = direction;
    header.flags |= flags;
    header.offset = offset;
    entry.submit(0);
}

/// Emits the record of the flow's end.
#[inline(never)]
pub fn emit_close<S: Source>(source: S, state: &mut S::State) {
    emit_bare(source, state, kind::CLOSE);
}

/// Emits the record that says that what was seen at a listener has become a connection.
#[inline(never)]
pub fn emit_accepted<S: Source>(source: S, state: &mut S::State) {
    emit_bare(source, state, kind::ACCEPTED);
}

#[inline(always)]
fn emit_bare<S: Source>(source: S, state: &mut S::State, kind: u8) {
    let Some(mut entry) = EVENTS.reserve::<RecordHeader>(0) else { return count(counter::RING_FULL_CHUNKS, 1) };
    // SAFETY: the entry is memory for a header, every field of which is written.
    describe_mark(source, state, unsafe { &mut *entry.as_mut_ptr() }, kind);
    entry.submit(0);
}

/// Emits what the byte budget has left of a piece: its first bytes, how many follow, and its last.
#[inline(never)]
fn emit_ends<S: Source>(source: S, state: &mut S::State, piece: &mut Piece, pressure: u64) {
    let is_first = state.flow().opens != 0
        || state.flow().is_request_within(piece, budget::FIRST_BYTES)
        || piece.held > 0
        || piece.flags & flags::BEGIN != 0;
    if !budget::cut(piece, pressure, is_first) {
        state.flow().marks |= LOST;
        return;
    }
    budget::pay(piece.now(), piece.whole + piece.tail);
    piece.forget();
    let (whole, tail) = (piece.whole, piece.tail);
    let at = piece.len.wrapping_sub(tail);
    if whole > 0 {
        emit_record::<S, { budget::FIRST_BYTES as usize }>(source, state, piece, 0, whole);
    } else {
        piece.begin_is_past();
        if tail == 0 {
            emit_mark(source, state, piece);
        }
    }
    if tail == 0 {
        return;
    }
    if whole == 0 && piece.left_out > 0 {
        piece.flags |= flags::LAST;
    } else {
        piece.left_out = 0;
    }
    if tail > budget::END_BYTES {
        emit_record::<S, { RECORD_CLASSES[0] }>(source, state, piece, at, tail);
    } else {
        emit_record::<S, { budget::END_BYTES as usize }>(source, state, piece, at, tail);
    }
}

/// Emits the record of a piece of which no bytes are copied from its beginning on, only how many there are.
#[inline(never)]
fn emit_mark<S: Source>(source: S, state: &mut S::State, piece: &mut Piece) {
    let Some(mut entry) = EVENTS.reserve::<RecordHeader>(0) else {
        state.flow().marks |= LOST;
        return count(counter::RING_FULL_CHUNKS, 1);
    };
    // SAFETY: the entry is memory for a header, every field of which is written.
    let header = unsafe { &mut *entry.as_mut_ptr() };
    describe_piece(source, state, piece, header);
    header.offset = piece.offset;
    header.original_len = piece.left_out;
    header.captured_len = 0;
    entry.submit(0);
    piece.flags &= !(flags::BEGIN | flags::TIMING_ONLY);
}

#[inline(never)]
fn emit_record<S: Source, const N: usize>(source: S, state: &mut S::State, piece: &mut Piece, from: u32, len: u32) {
    let Some(mut entry) = EVENTS.reserve::<Record<N>>(0) else {
        state.flow().marks |= LOST;
        count(counter::RING_FULL_CHUNKS, 1);
        count(counter::RING_FULL_BYTES, len);
        return;
    };
    // SAFETY: the entry is memory for a record; every field of its header is written, and as much of the payload as
    // the header says.
    let record = unsafe { &mut *entry.as_mut_ptr() };
    describe_piece(source, state, piece, &mut record.header);
    record.header.offset = piece.offset;
    if piece.flags & flags::LAST == 0 {
        record.header.offset += u64::from(from);
    }
    record.header.original_len = len + piece.left_out;
    if source.read(piece, from, record.payload.as_mut_ptr(), bounded::<N>(len)) {
        record.header.captured_len = len;
        count(counter::BYTES, len);
    } else {
        record.header.captured_len = 0;
        count(counter::READ_FAULT, 1);
    }
    entry.submit(0);
    count(counter::CHUNKS, 1);
    // Only the first record of a message begins it, and only the first of a piece is followed by what was not copied.
    piece.flags &= !(flags::BEGIN | flags::TIMING_ONLY);
    piece.begin_is_past();
}

/// Writes the fields of a header that all records of a piece have in common.
#[inline(always)]
fn describe_piece<S: Source>(source: S, state: &mut S::State, piece: &Piece, header: &mut RecordHeader) {
    header.flags = piece.flags;
    describe(source, state, header);
    header.kind = kind::DATA;
    header.direction = piece.direction;
    header.timestamp_ns = piece.timestamp_ns;
    header.ack = piece.ack;
}

/// Writes the fields of a header that no bytes follow.
#[inline(always)]
pub fn describe_mark<S: Source>(source: S, state: &mut S::State, header: &mut RecordHeader, kind: u8) {
    header.kind = kind;
    header.direction = 0;
    header.offset = 0;
    header.flags = 0;
    // SAFETY: a helper without arguments.
    header.timestamp_ns = unsafe { bpf_ktime_get_ns() };
    header.original_len = 0;
    header.captured_len = 0;
    header.ack = state.taken();
    describe(source, state, header);
}

/// Writes the fields of the header that do not depend on the piece. The source may add to its flags.
#[inline(always)]
fn describe<S: Source>(source: S, state: &mut S::State, header: &mut RecordHeader) {
    let flow = state.flow();
    flow.marks |= EMITTED;
    header.source = flow.key.source as u8;
    header.reserved = 0;
    header.handle = flow.key.handle;
    header.generation = flow.key.generation;
    header.message = flow.message;
    source.describe(state, header);
}

/// Adds to one of [`counter`]'s counters.
#[inline(always)]
pub fn count(which: u32, value: u32) {
    if let Some(number) = COUNTERS.get_ptr_mut(which) {
        add_atomically(number, u64::from(value));
    }
}

/// Writes the name of the thread that is running.
#[inline(always)]
pub fn write_comm(comm: &mut [u8; 16]) {
    // SAFETY: the destination is as long as the helper is told; where there is no name the helper writes zeros.
    unsafe { bpf_get_current_comm(comm.as_mut_ptr().cast(), 16) };
}
