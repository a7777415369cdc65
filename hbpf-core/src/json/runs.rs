//! How far bytes go on without one that matters.

use memchr::memchr2;

/// Bytes of a string before the next quote or backslash.
pub(super) fn text_run(bytes: &[u8]) -> usize {
    // Most strings end within a few bytes, where a look is cheaper than calling something made for long ones.
    const NEAR: usize = 32;
    let near = short_run(&bytes[..bytes.len().min(NEAR)], |word| matches_byte(word, b'"') | matches_byte(word, b'\\'));
    if near < NEAR || bytes.len() <= NEAR {
        return near;
    }
    memchr2(b'"', b'\\', &bytes[NEAR..]).map_or(bytes.len(), |more| NEAR + more)
}

/// The same of a name or an identifier, which a control character ends, too.
pub(super) fn name_run(bytes: &[u8]) -> usize {
    short_run(bytes, |word| matches_byte(word, b'"') | matches_byte(word, b'\\') | below_space(word))
}

/// Bytes before the first one that is marked. `marks` sets the highest bit of such bytes in eight of them at once; what it
/// says of bytes behind the first one does not matter.
fn short_run(bytes: &[u8], marks: impl Fn(u64) -> u64) -> usize {
    const HIGHEST_BITS: u64 = 0x8080_8080_8080_8080;
    let first = |marked: u64| (marked.trailing_zeros() / 8) as usize;
    let (words, rest) = bytes.as_chunks::<8>();
    for (index, word) in words.iter().enumerate() {
        let marked = marks(u64::from_le_bytes(*word)) & HIGHEST_BITS;
        if marked != 0 {
            return index * 8 + first(marked);
        }
    }
    // Nothing looks for a byte of all ones.
    let mut last = [u8::MAX; 8];
    last[..rest.len()].copy_from_slice(rest);
    let marked = marks(u64::from_le_bytes(last)) & HIGHEST_BITS;
    if marked == 0 { bytes.len() } else { words.len() * 8 + first(marked) }
}

/// Marks the bytes of a word that are `byte`: the first one rightly.
fn matches_byte(word: u64, byte: u8) -> u64 {
    let differing = word ^ u64::from_ne_bytes([byte; 8]);
    differing.wrapping_sub(u64::from_ne_bytes([1; 8])) & !differing
}

/// Marks the bytes of a word that are control characters: the first one rightly.
fn below_space(word: u64) -> u64 {
    word.wrapping_sub(u64::from_ne_bytes([b' '; 8])) & !word
}

/// Bytes before the next one that matters between strings: a quote, a brace or a bracket.
pub(super) fn quiet_run(bytes: &[u8]) -> usize {
    // `[` and `{`, `]` and `}` differ in one bit; blocks let the compiler compare many bytes at once.
    const BLOCK: usize = 32;
    let loud = |byte: u8| (byte == b'"') | (byte | 0x20 == b'{') | (byte | 0x20 == b'}');
    let mut at = 0;
    for block in bytes.chunks_exact(BLOCK) {
        if block.iter().fold(false, |any, byte| any | loud(*byte)) {
            break;
        }
        at += BLOCK;
    }
    bytes[at..].iter().position(|byte| loud(*byte)).map_or(bytes.len(), |more| at + more)
}
