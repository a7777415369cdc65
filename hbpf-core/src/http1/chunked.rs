//! Chunked transfer coding (RFC 9112, 7.1).

/// Bytes of one chunk's extensions. They carry nothing we want; a longer run means that this is no chunk header.
const MAX_EXTENSION: u32 = 16 * 1024;

/// Where we are in a chunked body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Chunked {
    /// A chunk's size must begin.
    SizeStart,
    /// In a chunk's size.
    Size { value: u64 },
    /// Behind the size, before the line's end.
    Extension { value: u64, seen: u32 },
    /// Between CR and LF of the size's line.
    SizeLineFeed { value: u64 },
    /// In a chunk's data.
    Data { left: u64 },
    /// Behind a chunk's data.
    DataEnd,
    /// Between CR and LF behind a chunk's data.
    DataLineFeed,
    /// In the trailer behind the last chunk.
    Trailer { line_is_empty: bool },
}

/// What the next bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step<'a> {
    /// Bytes of the body.
    Data(&'a [u8]),
    /// Nothing but framing, and no bytes are left.
    Partial,
    /// The body has ended.
    End,
    /// This is no chunked coding.
    Broken,
}

impl Chunked {
    /// Goes on to the next step; gives it and the bytes that it took.
    pub(super) fn next<'a>(&mut self, bytes: &'a [u8]) -> (Step<'a>, usize) {
        let mut used = 0;
        while let Some(&byte) = bytes.get(used) {
            if let Self::Data { left } = *self {
                let rest = &bytes[used..];
                let take = usize::try_from(left).unwrap_or(usize::MAX).min(rest.len());
                self.skip(take as u64);
                return (Step::Data(&rest[..take]), used + take);
            }
            let next = match *self {
                Self::SizeStart => size_digit(0, byte),
                Self::Size { value } => size_digit(value, byte).or_else(|| size_end(value, byte)),
                Self::Extension { value, seen } => in_extension(value, seen, byte),
                Self::SizeLineFeed { value } => (byte == b'\n').then(|| after_size(value)),
                Self::DataEnd => match byte {
                    b'\r' => Some(Self::DataLineFeed),
                    b'\n' => Some(Self::SizeStart),
                    _ => None,
                },
                Self::DataLineFeed => (byte == b'\n').then_some(Self::SizeStart),
                Self::Trailer { line_is_empty } => match byte {
                    b'\n' if line_is_empty => return (Step::End, used + 1),
                    b'\n' => Some(Self::Trailer { line_is_empty: true }),
                    b'\r' => Some(Self::Trailer { line_is_empty }),
                    _ => Some(Self::Trailer { line_is_empty: false }),
                },
                Self::Data { .. } => None, // handled above
            };
            let Some(next) = next else { return (Step::Broken, used) };
            *self = next;
            used += 1;
        }
        (Step::Partial, used)
    }

    /// Passes over `len` bytes of which only the number is known; false where the framing is lost by that.
    pub(super) fn skip(&mut self, len: u64) -> bool {
        match *self {
            Self::Data { left } if len < left => *self = Self::Data { left: left - len },
            Self::Data { left } if len == left => *self = Self::DataEnd,
            _ => return false,
        }
        true
    }
}

fn size_digit(value: u64, byte: u8) -> Option<Chunked> {
    let digit = char::from(byte).to_digit(16)?;
    let value = value.checked_mul(16)? + u64::from(digit);
    Some(Chunked::Size { value })
}

fn size_end(value: u64, byte: u8) -> Option<Chunked> {
    match byte {
        b'\r' => Some(Chunked::SizeLineFeed { value }),
        b'\n' => Some(after_size(value)),
        b';' | b' ' | b'\t' => Some(Chunked::Extension { value, seen: 0 }),
        _ => None,
    }
}

fn in_extension(value: u64, seen: u32, byte: u8) -> Option<Chunked> {
    match byte {
        b'\n' => Some(after_size(value)),
        _ if seen >= MAX_EXTENSION => None,
        _ => Some(Chunked::Extension { value, seen: seen + 1 }),
    }
}

fn after_size(value: u64) -> Chunked {
    if value == 0 { Chunked::Trailer { line_is_empty: true } } else { Chunked::Data { left: value } }
}

/// Looks for the end of a chunked body whose framing was lost: an empty chunk without trailer.
///
/// Body bytes that happen to read `CR LF 0 CR LF CR LF` would end it early; JSON and event streams do not contain them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Terminator {
    matched: usize,
}

impl Terminator {
    const PATTERN: &'static [u8] = b"\r\n0\r\n\r\n";
    /// How much of the pattern still matches when the byte behind that many matching bytes does not (Knuth, Morris, Pratt).
    const FALLBACK: [usize; 7] = [0, 0, 0, 0, 1, 2, 1];

    /// To look for it in the middle of something.
    pub(super) fn new() -> Self {
        Self { matched: 0 }
    }

    /// To look for it behind a gap, which may have swallowed the line end before it.
    pub(super) fn behind_gap() -> Self {
        Self { matched: 2 }
    }

    /// The length of `bytes` up to the end of the terminator, if that is in them.
    pub(super) fn find(&mut self, bytes: &[u8]) -> Option<usize> {
        for (index, &byte) in bytes.iter().enumerate() {
            while self.matched > 0 && Self::PATTERN[self.matched] != byte {
                self.matched = Self::FALLBACK[self.matched];
            }
            if Self::PATTERN[self.matched] == byte {
                self.matched += 1;
            }
            if self.matched == Self::PATTERN.len() {
                return Some(index + 1);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::{Chunked, Step, Terminator};

    fn decode(mut bytes: &[u8]) -> (Vec<u8>, Step<'_>) {
        let mut chunked = Chunked::SizeStart;
        let mut body = Vec::new();
        loop {
            let (step, used) = chunked.next(bytes);
            bytes = &bytes[used..];
            match step {
                Step::Data(data) => body.extend_from_slice(data),
                other => return (body, other),
            }
        }
    }

    #[test]
    fn framing_is_removed() {
        let cases: [(&[u8], &[u8], Step<'_>); 10] = [
            (b"3\r\nabc\r\n0\r\n\r\n", b"abc", Step::End),
            (b"3\nabc\n0\n\n", b"abc", Step::End),
            (b"3;name=\"v\"\r\nabc\r\n00\r\n\r\n", b"abc", Step::End),
            (b"3 \r\nabc\r\n0\r\nTrailer: x\r\nOther: y\r\n\r\n", b"abc", Step::End),
            (b"0A\r\n0123456789\r\n0\r\n\r\n", b"0123456789", Step::End),
            (b"3\r\nab", b"ab", Step::Partial),
            (b"3\r\nabcd\r\n", b"abc", Step::Broken),
            (b"\r\nabc", b"", Step::Broken),
            (b"g\r\n", b"", Step::Broken),
            (b"11111111111111111\r\n", b"", Step::Broken),
        ];
        for (bytes, body, end) in cases {
            assert_eq!(decode(bytes), (body.to_vec(), end), "{:?}", String::from_utf8_lossy(bytes));
        }
    }

    #[test]
    fn endless_extension_is_refused() {
        let mut bytes = b"3;".to_vec();
        bytes.resize(100_000, b'x');
        assert_eq!(decode(&bytes).1, Step::Broken);
    }

    #[test]
    fn terminator_is_found_wherever_it_is_cut() {
        let text = b"data\r\n0\r\n0\r\n\r\nnext";
        for cut in 0..text.len() {
            let mut terminator = Terminator::new();
            let first = terminator.find(&text[..cut]);
            let end = first.or_else(|| terminator.find(&text[cut..]).map(|end| end + cut));
            assert_eq!(end, Some(14), "cut at {cut}");
        }
        assert_eq!(Terminator::behind_gap().find(b"0\r\n\r\n"), Some(5));
        assert_eq!(Terminator::new().find(b"0\r\n\r\n"), None);
        assert_eq!(Terminator::new().find(b"\r\n10\r\n\r\n"), None);
    }
}
