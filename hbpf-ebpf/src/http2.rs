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
const FRAMES: u32 = 5;

/// Fields of a head that are looked at: clients put those first that say what is asked for.
const FIELDS: u32 = 8;

/// Bytes of a head that are looked at, and characters of a path.
const BLOCK_BYTES: usize = HEAD_BYTES / 2;

/// `HEADERS`, and what its flags say of where the fields begin.
const HEADERS: u8 = 1;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;

/// `:path` in the table that everybody has: `/`, and `/index.html`.
const PATH: u8 = 4;
const INDEX_PATH: u8 = 5;

/// Whether a piece that begins with `word` may begin with a request of an HTTP/2 connection.
#[inline(always)]
pub fn is_headers(word: u64, len: u32) -> bool {
    // Less than 64 KiB of payload, and some; only flags that there are; no reserved bit.
    let bytes = word.to_le_bytes();
    len >= 8
        && bytes[0] == 0
        && (bytes[1] | bytes[2]) != 0
        && bytes[3] == HEADERS
        && bytes[4] & !0x2d == 0
        && bytes[5] & 0x80 == 0
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
    for _ in 0..FRAMES {
        if at.wrapping_add(FRAME_HEADER_BYTES) > piece.len || at > piece.len {
            return false;
        }
        let head = state.head();
        if !source.read(piece, at, head, u64::from(FRAME_HEADER_BYTES)) {
            return false;
        }
        // SAFETY: the head is room for that much and lies at a multiple of eight.
        let bytes = unsafe { head.cast::<u64>().read() }.to_le_bytes();
        let payload = at + FRAME_HEADER_BYTES;
        if bytes[3] == HEADERS {
            let padding = u32::from(bytes[4] & PADDED != 0);
            let priority = if bytes[4] & PRIORITY != 0 { 5 } else { 0 };
            return names_path(source, state, piece, payload + padding + priority);
        }
        at = forgotten(payload + u32::from_be_bytes([0, bytes[0], bytes[1], bytes[2]]), piece.offset);
    }
    false
}

/// Whether the fields that begin there spell out a path that fits a pattern.
#[inline(never)]
fn names_path<S: Source>(source: S, state: &mut S::State, piece: &Piece, from: u32) -> bool {
    let head = state.head();
    let len = piece.len.wrapping_sub(from).min(BLOCK_BYTES as u32);
    if from >= piece.len || !source.read(piece, from, head, bounded::<BLOCK_BYTES>(len)) {
        return false;
    }
    let len = forgotten(len, piece.offset);
    // SAFETY: the index is less than BLOCK_BYTES.
    let byte = |index: u32| unsafe { *head.add(masked::<BLOCK_BYTES>(index) as usize) };
    let mut at = 0;
    for _ in 0..FIELDS {
        if at >= len {
            return false;
        }
        let first = byte(at);
        at = forgotten(at + 1, piece.offset);
        let (index, most) = match first {
            // A reference, to what was said before: of the first request only what everybody has.
            0x80.. => {
                if first & 0x7f == 0x7f {
                    return false;
                }
                continue;
            }
            0x40.. => (first & 0x3f, 0x3f),
            // A new size of the table, in up to five bytes.
            0x20.. => {
                let mut is_open = first & 0x1f == 0x1f;
                for _ in 0..4 {
                    if is_open {
                        is_open = byte(at) & 0x80 != 0;
                        at = forgotten(at + 1, piece.offset);
                    }
                }
                continue;
            }
            _ => (first & 0x0f, 0x0f),
        };
        if index == most {
            return false;
        }
        if index == 0 {
            // Its name is spelled out.
            at = forgotten(at + 1 + u32::from(byte(at) & 0x7f), piece.offset);
        }
        let length = byte(at);
        at = forgotten(at + 1, piece.offset);
        if length & 0x7f == 0x7f {
            return false;
        }
        let end = at + u32::from(length & 0x7f);
        if index == PATH || index == INDEX_PATH {
            return end <= len && fits(head, at, end, length & 0x80 != 0, piece.offset);
        }
        at = forgotten(end, piece.offset);
    }
    false
}

/// Whether the path between these places of the head fits a pattern.
#[inline(never)]
fn fits(head: *mut u8, start: u32, end: u32, is_coded: bool, unknown: u64) -> bool {
    let (start, end) = if is_coded { decode(head, start, end, unknown) } else { (start, end) };
    target::fits(head, start, end)
}

/// Decodes the string between these places into the head's second half, up to a character that is in no path. Gives where it
/// lies then.
#[inline(always)]
fn decode(head: *mut u8, start: u32, end: u32, unknown: u64) -> (u32, u32) {
    // SAFETY: the index is less than HEAD_BYTES.
    let byte = |index: u32| u32::from(unsafe { *head.add(masked::<HEAD_BYTES>(index) as usize) });
    let (mut bit, end) = (start * 8, end * 8);
    let mut written = 0;
    for _ in 0..BLOCK_BYTES {
        let index = bit >> 3;
        let both = byte(index) << 8 | byte(index + 1);
        let window = (both >> (8 - (bit & 7))) & 0xff;
        let entry = SYMBOLS[masked::<256>(window) as usize];
        let length = u32::from(entry >> 8);
        // What is left at the end is no whole code.
        if length == 0 || bit + length > end {
            break;
        }
        // SAFETY: less than HEAD_BYTES in all.
        unsafe { *head.add(BLOCK_BYTES + masked::<BLOCK_BYTES>(written) as usize) = entry as u8 };
        written = forgotten(written + 1, unknown);
        bit = forgotten(bit + length, unknown);
    }
    (BLOCK_BYTES as u32, BLOCK_BYTES as u32 + written)
}
