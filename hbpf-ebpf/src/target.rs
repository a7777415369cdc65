//! What the first bytes of a message say.

use hbpf_ebpf::{HEAD_BYTES, target};

use crate::{
    maps::TARGETS,
    number::{forgotten, masked},
};

/// What begins a client's message.
const METHODS: [&[u8]; 9] =
    [b"GET ", b"POST ", b"PUT ", b"PATCH ", b"DELETE ", b"HEAD ", b"OPTIONS ", b"CONNECT ", b"TRACE "];

/// The longest of [`METHODS`].
const METHOD_BYTES: u32 = 8;

/// What a message's beginning says of its request-target.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Found {
    /// The end of the path has not been seen.
    Incomplete,
    /// No pattern fits.
    None,
    /// A pattern fits.
    Match,
}

/// Whether a message begins with `word` (its first bytes, `len` of them), as far as can be seen.
#[inline(always)]
pub fn is_request(word: u64, len: u32) -> bool {
    is(METHODS[0], word, len)
        || is(METHODS[1], word, len)
        || is(METHODS[2], word, len)
        || is(METHODS[3], word, len)
        || is(METHODS[4], word, len)
        || is(METHODS[5], word, len)
        || is(METHODS[6], word, len)
        || is(METHODS[7], word, len)
        || is(METHODS[8], word, len)
}

/// Whether a message that begins so may be a model call: models are called with POST.
#[inline(always)]
pub fn may_be_call(word: u64, len: u32) -> bool {
    is(METHODS[1], word, len)
}

#[inline(always)]
fn is(method: &[u8], word: u64, len: u32) -> bool {
    let mut bytes = [0; 8];
    bytes[..method.len()].copy_from_slice(method);
    let shown = (method.len() as u32).min(len);
    let beyond = 64 - 8 * shown;
    ((word ^ u64::from_le_bytes(bytes)) << beyond) == 0
}

/// Whether these are the first bytes of a TLS record that holds a ClientHello.
#[inline(always)]
pub fn is_client_hello(word: u64, len: u32) -> bool {
    // Record type handshake, version 3.x, two bytes of length between, message type ClientHello.
    len >= 6 && word & 0x0000_ff00_0000_ffff == 0x0000_0100_0000_0316
}

/// Whether a body that begins so is compressed: gzip or Zstandard.
#[inline(always)]
pub fn is_compressed(magic: u32) -> bool {
    magic & 0x00ff_ffff == 0x0008_8b1f || magic == 0xfd2f_b528
}

/// Looks for the request-target in the first `len` bytes of a message and for patterns at its end.
#[inline(never)]
pub fn find(head: *const u8, len: u32) -> Found {
    // SAFETY: the head is longer than that and lies at a multiple of eight.
    let unknown = unsafe { head.cast::<u64>().read() };
    let len = forgotten(len, unknown);
    // SAFETY: the index is less than HEAD_BYTES.
    let byte = |index: u32| unsafe { *head.add(masked::<HEAD_BYTES>(index) as usize) };
    let mut start = 0;
    loop {
        if start >= len {
            return Found::Incomplete;
        }
        start += 1;
        if byte(start - 1) == b' ' {
            break;
        }
        if start > METHOD_BYTES {
            return Found::None;
        }
    }
    let start = forgotten(start, unknown);
    let mut end = start;
    let mut complete = false;
    for _ in 0..HEAD_BYTES {
        if end >= len {
            return Found::Incomplete;
        }
        if matches!(byte(end), b' ' | b'?' | b'\r' | b'\n') {
            complete = true;
            break;
        }
        end += 1;
    }
    if !complete {
        return Found::None;
    }
    let fits = fits::<HEAD_BYTES>(head, forgotten(start, unknown), forgotten(end, unknown));
    if fits { Found::Match } else { Found::None }
}

/// Whether a pattern of `MOST` bytes at the most fits the end of the path that lies between these places of a head.
#[inline(never)]
pub fn fits<const MOST: usize>(head: *const u8, start: u32, end: u32) -> bool {
    // SAFETY: the head is longer than that and lies at a multiple of eight.
    let unknown = unsafe { head.cast::<u64>().read() };
    let (start, mut end) = (forgotten(start, unknown), forgotten(end, unknown));
    let mut hash = target::SEED;
    for _ in 0..MOST {
        if end <= start {
            break;
        }
        end -= 1;
        // SAFETY: the index is less than HEAD_BYTES.
        let byte = unsafe { *head.add(masked::<HEAD_BYTES>(end) as usize) };
        hash = target::step(hash, byte);
        // SAFETY: only whether there is an entry is asked.
        if target::is_boundary(byte) && unsafe { TARGETS.get(&hash) }.is_some() {
            return true;
        }
    }
    false
}
