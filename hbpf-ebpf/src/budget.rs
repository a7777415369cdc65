//! How much of a piece is copied when there is more to copy than there may be.
//!
//! Two things run short: the bytes that may be copied per second, and the ring, which a burst on a fast link fills within
//! milliseconds. Bulk gives way first, and what it leaves is for small pieces, of which streams of tokens are made, and for
//! beginnings and ends of messages, which say what all the rest is. What gives way is still known by its time and length.

use aya_ebpf::bindings::{BPF_RB_AVAIL_DATA, BPF_RB_FORCE_WAKEUP};
use hbpf_ebpf::{EVENTS_RING_BYTES, EVENTS_URGENT_BYTES, counter, flags, limit};

use crate::{
    emit::count,
    flow::Piece,
    maps::{BELL, EVENTS, LIMITS, PAID_UNTIL},
    number::add_atomically,
};

const SECOND_NS: u64 = 1_000_000_000;

/// How far ahead of the time bytes may be paid for: a second's worth may come at once, of which bulk may take half.
const MOST_AHEAD_NS: u64 = SECOND_NS;
const MOST_AHEAD_OF_BULK_NS: u64 = SECOND_NS / 2;

/// What the ring may hold of bulk. The other half is room for ten thousand events of streams.
const RING_FOR_BULK: u64 = EVENTS_RING_BYTES as u64 / 2;

/// When so much of the ring is full, the last eighth is for beginnings and for ends: what they say of all the rest, and of
/// what is lost, nothing else can say.
const RING_FOR_MARKS: u64 = EVENTS_RING_BYTES as u64 / 8 * 7;

/// Pieces up to this size are no bulk. Events of a stream are a few hundred bytes.
const SMALL_BYTES: u32 = 1024;

/// Bytes that are copied of a message's first piece, and of a request's beginning, whatever the pressure: most heads are shorter.
pub const FIRST_BYTES: u32 = 1024;

/// Bytes that are copied from the end of a piece of bulk: a document's last words say what it has cost.
const LAST_BYTES: u32 = 256;

/// Bytes that are copied from the end of any piece when nothing is left: a chunked body's own end, which says that a message
/// is over, and a line end before it.
pub const END_BYTES: u32 = 8;

/// There is room for all of it.
pub const FREE: u64 = 0;
/// Bulk makes do with its ends.
const SCARCE: u64 = 1;
/// Nothing is left for this second but what messages begin and end with.
const SPENT: u64 = 2;
/// The ring is nearly full.
const FULL: u64 = 3;

/// How scarce room is for a piece of which so many bytes are wanted: [`FREE`] or what [`cut`] takes. Wakes the ring's reader
/// where much has gathered.
#[inline(never)]
pub fn pressure(now: u64, wanted: u32) -> u64 {
    let ahead = ahead(now);
    let filled = EVENTS.query(BPF_RB_AVAIL_DATA.into());
    if filled >= EVENTS_URGENT_BYTES.into() {
        wake_reader();
    }
    if filled >= RING_FOR_MARKS {
        FULL
    } else if ahead >= MOST_AHEAD_NS {
        SPENT
    } else if wanted > SMALL_BYTES && (ahead >= MOST_AHEAD_OF_BULK_NS || filled >= RING_FOR_BULK) {
        SCARCE
    } else {
        FREE
    }
}

/// Wakes the reader of the ring, unless it has not heard the last time yet.
#[inline(always)]
fn wake_reader() {
    if BELL.query(BPF_RB_AVAIL_DATA.into()) == 0
        && let Some(mut entry) = BELL.reserve::<u64>(0)
    {
        entry.write(0);
        entry.submit(BPF_RB_FORCE_WAKEUP.into());
    }
}

/// How far ahead of the time bytes have been paid for.
#[inline(always)]
fn ahead(now: u64) -> u64 {
    match (rate(), PAID_UNTIL.get(0)) {
        (0, _) | (_, None) => 0,
        (_, Some(paid)) => paid.saturating_sub(now),
    }
}

#[inline(always)]
fn rate() -> u64 {
    LIMITS.get(limit::BYTES_PER_SECOND).copied().unwrap_or_default()
}

/// Pays for bytes that are copied.
#[inline(never)]
pub fn pay(now: u64, bytes: u32) {
    let rate = rate();
    // Beyond a second ahead nothing is paid for any more: the next one shall not be spent on this one's beginnings.
    if rate == 0 || ahead(now) >= MOST_AHEAD_NS {
        return;
    }
    let Some(paid_until) = PAID_UNTIL.get_ptr_mut(0) else { return };
    // SAFETY: a number in map memory. One that is replaced while it is read lets a little more through, or less.
    unsafe {
        if *paid_until < now {
            *paid_until = now;
        }
    }
    add_atomically(paid_until, (u64::from(bytes) * SECOND_NS / rate).min(MOST_AHEAD_NS));
}

/// Leaves of the piece its first and last bytes, and what lies between as a number. Returns whether anything of it is to
/// be emitted. `is_first` where a message begins with it.
#[inline(never)]
pub fn cut(piece: &mut Piece, pressure: u64, is_first: bool) -> bool {
    let wanted = if piece.is_cut != 0 { piece.len } else { piece.whole + piece.tail };
    if pressure == FULL && !is_first {
        count(counter::RING_FULL_CHUNKS, 1);
        count(counter::RING_FULL_BYTES, wanted);
        return false;
    }
    piece.whole = if is_first { piece.whole.min(FIRST_BYTES) } else { 0 };
    let rest = piece.len - piece.whole;
    let last = match pressure {
        SCARCE => LAST_BYTES,
        SPENT => END_BYTES,
        _ => 0,
    };
    // A request that is not known to be a call is copied from its beginning only.
    piece.tail = if piece.left_out == 0 { rest.min(last) } else { 0 };
    piece.left_out = rest - piece.tail;
    let kept = piece.whole + piece.tail;
    if kept < wanted {
        piece.flags |= flags::TIMING_ONLY;
        count(counter::TIMING_ONLY_CHUNKS, 1);
        count(counter::TIMING_ONLY_BYTES, wanted - kept);
    }
    true
}
