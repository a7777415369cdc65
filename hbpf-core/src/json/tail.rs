//! The end of a document whose middle was not seen.

use std::fmt;

use super::paths::PathSet;
use super::scanner::Scanner;
use super::value::{Outcome, Visitor};

/// Bytes kept of a document's end. The kernel side copies no more than this of a piece that it thins.
const TAIL_BYTES: usize = 4096;

/// The last bytes since the last gap.
#[derive(Default)]
pub struct Tail {
    /// Up to twice [`TAIL_BYTES`], so that bytes move rarely.
    bytes: Vec<u8>,
}

impl fmt::Debug for Tail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tail").field("len", &self.bytes.len()).finish()
    }
}

impl Tail {
    /// The next bytes.
    pub fn push(&mut self, bytes: &[u8]) {
        let bytes = &bytes[bytes.len().saturating_sub(TAIL_BYTES)..];
        if self.bytes.len() + bytes.len() > 2 * TAIL_BYTES {
            let keep = TAIL_BYTES - bytes.len();
            let from = self.bytes.len().saturating_sub(keep);
            self.bytes.copy_within(from.., 0);
            let kept = self.bytes.len() - from;
            self.bytes[kept..].fill(0);
            self.bytes.truncate(kept);
        }
        if self.bytes.capacity() == 0 {
            self.bytes.reserve_exact(2 * TAIL_BYTES);
        }
        self.bytes.extend_from_slice(bytes);
    }

    /// Forgets what it holds: it may be prompt text.
    pub fn clear(&mut self) {
        self.bytes.fill(0);
        self.bytes.clear();
    }

    /// Memory that it holds, in bytes.
    pub fn memory(&self) -> usize {
        self.bytes.capacity()
    }

    /// What it holds, of which the last `TAIL_BYTES` are sure to be there if there were as many.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Tail {
    fn drop(&mut self) {
        self.clear();
    }
}

/// Reads the top-level members at the end of a document backwards from its closing brace, and reports those that
/// `paths` wants. Returns whether the bytes end like a document.
///
/// Backwards because the beginning of the bytes may lie inside a string: what follows it cannot be told from structure,
/// while behind the last brace of a document there is structure only. A string is left through the first quote that
/// no odd number of backslashes precedes. Text in a prompt that imitates members cannot mislead: its quotes are escaped.
pub fn scan_tail<S: Copy>(bytes: &[u8], paths: &'static PathSet<S>, visitor: &mut impl Visitor<S>) -> bool {
    let bytes = trim_end(bytes);
    let Some((b'}', mut left)) = bytes.split_last() else { return false };
    // Members are found last to first; a repeated key must still be won by its last one, so forward order is restored.
    // No API puts more than this many members behind the long one.
    const MOST_MEMBERS: usize = 64;
    let mut members = Vec::new();
    while members.len() < MOST_MEMBERS {
        match take_member(left) {
            Step::Member { key, value, rest } => {
                members.push((key, value));
                left = rest;
            }
            Step::End => break,
            Step::Nonsense => return false,
        }
    }
    let mut scanner = Scanner::new(paths);
    for (key, value) in members.into_iter().rev() {
        scanner.begin_member(key);
        scanner.push(value, visitor);
        if scanner.end(visitor) == Outcome::Malformed {
            return false;
        }
    }
    true
}

enum Step<'a> {
    Member {
        key: &'a [u8],
        value: &'a [u8],
        rest: &'a [u8],
    },
    /// The document's beginning, or the beginning of what was seen.
    End,
    /// This is not the end of a document.
    Nonsense,
}

/// Takes the last member off `bytes`, which end where a `,` or `}` stood.
fn take_member(bytes: &[u8]) -> Step<'_> {
    let bytes = bytes.trim_ascii_end();
    let start = match bytes.last() {
        None => return Step::End,
        Some(b'{') => return begins_document(&bytes[..bytes.len() - 1]),
        Some(b'"') => text_start(bytes),
        Some(b'}' | b']') => container_start(bytes),
        Some(_) => bare_start(bytes),
    };
    let start = match start {
        Start::At(start) => start,
        Start::OutOfSight => return Step::End,
        Start::Nonsense => return Step::Nonsense,
    };
    let (before, value) = bytes.split_at(start);
    let before = before.trim_ascii_end();
    let before = match before.split_last() {
        None => return Step::End,
        Some((b':', before)) => before.trim_ascii_end(),
        Some(_) => return Step::Nonsense,
    };
    let start = match before.last() {
        None => return Step::End,
        Some(b'"') => text_start(before),
        Some(_) => return Step::Nonsense,
    };
    let start = match start {
        Start::At(start) => start,
        Start::OutOfSight => return Step::End,
        Start::Nonsense => return Step::Nonsense,
    };
    let key = &before[start + 1..before.len() - 1];
    match before[..start].trim_ascii_end().split_last() {
        None => Step::Member { key, value, rest: &[] },
        Some((b',', rest)) => Step::Member { key, value, rest },
        Some((b'{', rest)) => match begins_document(rest) {
            Step::End => Step::Member { key, value, rest: &[] },
            other => other,
        },
        Some(_) => Step::Nonsense,
    }
}

/// A brace that opens the outermost object has nothing before it.
fn begins_document(before: &[u8]) -> Step<'_> {
    if before.trim_ascii_end().is_empty() { Step::End } else { Step::Nonsense }
}

enum Start {
    At(usize),
    /// It lies before the bytes.
    OutOfSight,
    Nonsense,
}

/// Where the string begins that `bytes` end with.
fn text_start(bytes: &[u8]) -> Start {
    let end = bytes.len() - 1;
    match is_escaped(bytes, end) {
        Some(false) => {}
        Some(true) => return Start::Nonsense,
        None => return Start::OutOfSight,
    }
    let mut at = end;
    while let Some(quote) = memchr::memrchr(b'"', &bytes[..at]) {
        match is_escaped(bytes, quote) {
            Some(false) => return Start::At(quote),
            Some(true) => at = quote,
            None => return Start::OutOfSight,
        }
    }
    Start::OutOfSight
}

/// Whether an odd number of backslashes precedes the byte at `at`; `None` if they may begin before the bytes.
fn is_escaped(bytes: &[u8], at: usize) -> Option<bool> {
    let before = bytes[..at].iter().rposition(|byte| *byte != b'\\')?;
    Some((at - before - 1) % 2 == 1)
}

/// Where the object or array begins that `bytes` end with.
fn container_start(bytes: &[u8]) -> Start {
    let mut depth = 0_usize;
    let mut at = bytes.len();
    while at > 0 {
        at -= 1;
        match bytes[at] {
            b'"' => match text_start(&bytes[..=at]) {
                Start::At(start) => at = start,
                other => return other,
            },
            b'}' | b']' => depth += 1,
            b'{' | b'[' => {
                depth -= 1;
                if depth == 0 {
                    return Start::At(at);
                }
            }
            _ => {}
        }
    }
    Start::OutOfSight
}

/// Where the number or literal begins that `bytes` end with.
fn bare_start(bytes: &[u8]) -> Start {
    let is_bare = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'+' | b'.');
    match bytes.iter().rposition(|byte| !is_bare(byte)) {
        None => Start::OutOfSight,
        Some(before) if before + 1 == bytes.len() => Start::Nonsense,
        Some(before) => Start::At(before + 1),
    }
}

/// Without what may follow a document: white space, and the last chunk's framing where it was not told apart.
fn trim_end(bytes: &[u8]) -> &[u8] {
    let bytes = bytes.trim_ascii_end();
    bytes.strip_suffix(b"\r\n0").unwrap_or(bytes).trim_ascii_end()
}
