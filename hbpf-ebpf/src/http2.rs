//! HTTP/2 as far as it takes to see that a request calls a model: the path of a connection's first requests.
//!
//! What a client says for the first time it spells out, and later refers to. So a path that fits a pattern is seen once, with
//! the first call, and then the connection is captured; of others user space judges by what it is shown.

use hbpf_ebpf::{HEAD_BYTES, huffman::SYMBOLS};

use crate::{
    flow::{Piece, Source, State},
    number::{bounded, forgotten, masked},
    target,
};

/// What a client sends first.
pub const PREFACE_BYTES: u32 = 24;

/// Bytes before a frame's payload.
const FRAME_HEADER_BYTES: u32 = 9;

/// Frames of a piece that are looked at: settings and the like come before a connection's first request.
const FRAMES: u32 = 4;

/// Fields of a head that are looked at: the four that say what is asked for come first, behind new sizes of the table.
const FIELDS: u32 = 6;

/// Bytes of a head that are looked at, and characters of a path.
const BLOCK_BYTES: usize = HEAD_BYTES / 2;

/// Characters from a path's end on that are compared: no pattern but learned ones is longer.
const PATTERN_BYTES: usize = 64;

/// `HEADERS`, and what its flags say of where the fields begin.
const HEADERS: u64 = 1;
const PADDED: u64 = 0x8;
const PRIORITY: u64 = 0x20;

/// `:path` in the table that everybody has: `/`, and `/index.html` behind it, which differs in the lowest bit.
const PATH: u32 = 4;
const INDEX_MASK: u32 = !1;

/// Its name, which gRPC's own library spells out.
const PATH_NAME: &[u8; 5] = b":path";

/// Whether a piece that begins with `word` may begin with a request of an HTTP/2 connection.
#[inline(always)]
pub fn is_headers(word: u64, len: u32) -> bool {
    // Less than 64 KiB of payload, and some; the type; only flags that there are; no reserved bit.
    len >= 8 && word & 0x0000_80d2_ff00_00ff == HEADERS << 24 && word & 0x00ff_ff00 != 0
}

/// Whether a piece that begins with `word` begins an HTTP/2 connection.
#[inline(always)]
pub fn is_preface(word: u64, len: u32) -> bool {
    len >= 8 && word == u64::from_le_bytes(*b"PRI * HT")
}

/// Whether one of the first frames of the piece is the head of a request whose path fits a pattern.
#[inline(never)]
pub fn calls_model<S: Source>(source: S, state: &mut S::State, piece: &Piece, from: u32) -> bool {
    let mut at = forgotten(from, piece.offset);
    let mut fields = 0;
    for _ in 0..FRAMES {
        if at.wrapping_add(FRAME_HEADER_BYTES) > piece.len || at > piece.len {
            return false;
        }
        let head = state.head();
        if !source.read(piece, at, head, u64::from(FRAME_HEADER_BYTES)) {
            return false;
        }
        // SAFETY: the head is room for that much and lies at a multiple of eight.
        let word = unsafe { head.cast::<u64>().read() };
        at += FRAME_HEADER_BYTES;
        if word >> 24 & 0xff == HEADERS {
            let flags = word >> 32;
            fields = at + u32::from(flags & PADDED != 0) + if flags & PRIORITY != 0 { 5 } else { 0 };
            break;
        }
        at = forgotten(at + ((word as u32).swap_bytes() >> 8), piece.offset);
    }
    fields != 0 && names_path(source, state, piece, forgotten(fields, piece.offset))
}

/// Whether the fields that begin there spell out a path that fits a pattern.
#[inline(never)]
fn names_path<S: Source>(source: S, state: &mut S::State, piece: &Piece, from: u32) -> bool {
    let head = state.head();
    let len = piece.len.wrapping_sub(from).min(BLOCK_BYTES as u32);
    if from >= piece.len || !source.read(piece, from, head, bounded::<BLOCK_BYTES>(len)) {
        return false;
    }
    let unknown = piece.offset;
    let path = forgotten(find_path(head, forgotten(len, unknown), unknown), unknown);
    path != NO_PATH && fits(head, path, unknown)
}

/// No path was found.
const NO_PATH: u32 = 0;

/// The path is coded.
const CODED: u32 = 1 << 16;

/// Where the first `len` bytes of a head's fields spell out the path: its beginning in the lowest byte, its end in the next,
/// and [`CODED`].
#[inline(never)]
fn find_path(head: *const u8, len: u32, unknown: u64) -> u32 {
    // SAFETY: the index is less than BLOCK_BYTES.
    let byte = |index: u32| u32::from(unsafe { *head.add(masked::<BLOCK_BYTES>(index) as usize) });
    let mut at = forgotten(0, unknown);
    for _ in 0..FIELDS {
        if at >= len {
            break;
        }
        let first = byte(at);
        at += 1;
        // A reference, to what was said before; of the first request, only to what everybody has.
        if first >= 0x80 {
            at = forgotten(at, unknown);
            continue;
        }
        // A new size of the table, in up to three bytes.
        if first & 0xe0 == 0x20 {
            if first == 0x3f {
                at += 1 + (byte(at) >> 7) + (byte(at) >> 7 & byte(at + 1) >> 7);
            }
            at = forgotten(at, unknown);
            continue;
        }
        let index = if first & 0x40 != 0 { first & 0x3f } else { first & 0x0f };
        // 0 where the field is the path.
        let mut other = (index & INDEX_MASK) ^ PATH;
        if index == 0 {
            other = byte(at) ^ PATH_NAME.len() as u32;
            for (place, expected) in PATH_NAME.iter().enumerate() {
                other |= byte(at + 1 + place as u32) ^ u32::from(*expected);
            }
            at += 1 + (byte(at) & 0x7f);
        }
        // Which of the ways led here is not to be followed through the rest.
        let other = forgotten(other, unknown);
        at = forgotten(at, unknown);
        let length = byte(at);
        let end = at + 1 + (length & 0x7f);
        if other == 0 {
            // One as long as this, or longer, is told in more than a byte, and is none that we know.
            let is_whole = length & 0x7f != 0x7f && end <= len;
            return if is_whole { at + 1 | end << 8 | (length & 0x80) << 9 } else { NO_PATH };
        }
        at = forgotten(end, unknown);
    }
    NO_PATH
}

/// Whether the path that lies there, as [`find_path`] has it, fits a pattern.
#[inline(never)]
fn fits(head: *mut u8, path: u32, unknown: u64) -> bool {
    let (mut start, mut end) = (path & 0xff, path >> 8 & 0xff);
    if path & CODED != 0 {
        end = decode(head, start * 8, end * 8, unknown);
        start = BLOCK_BYTES as u32;
    }
    target::fits::<PATTERN_BYTES>(head, forgotten(start, unknown), forgotten(end, unknown))
}

/// Decodes the string between these bits into the head's second half, up to a character that is in no path. Gives where it
/// ends there.
#[inline(never)]
fn decode(head: *mut u8, start: u32, end: u32, unknown: u64) -> u32 {
    // SAFETY: the index is less than HEAD_BYTES.
    let byte = |index: u32| u32::from(unsafe { *head.add(masked::<HEAD_BYTES>(index) as usize) });
    let mut bit = forgotten(start, unknown);
    let mut written = forgotten(BLOCK_BYTES as u32, unknown);
    for _ in 0..BLOCK_BYTES {
        let index = bit >> 3;
        let both = byte(index) << 8 | byte(index + 1);
        let window = (both >> (8 - (bit & 7))) & 0xff;
        // SAFETY: the index is less than the table's length.
        let entry = unsafe { *SYMBOLS.as_ptr().add(masked::<256>(window) as usize) };
        let length = u32::from(entry >> 8);
        // What is left at the end is no whole code.
        if length == 0 || bit + length > end {
            break;
        }
        // SAFETY: the index is less than HEAD_BYTES.
        unsafe { *head.add(masked::<HEAD_BYTES>(written) as usize) = entry as u8 };
        written = forgotten(written + 1, unknown);
        bit = forgotten(bit + length, unknown);
    }
    written
}
