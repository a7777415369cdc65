//! Documents that travel in base64 within another: `{"bytes":"eyJ0eXBlIjoi...","p":"abcd"}`.

use super::{Documents, MessageKind};

/// The member whose value is the document.
const MEMBER: &[u8] = b"bytes";

/// Bytes that are decoded at a time: enough that the work per call does not show.
const OUTPUT_BYTES: usize = 192;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Between the parts of the outer document.
    Between,
    /// In a string of it. How much of it is the member's name, if all of it so far is.
    Text { matched: Option<usize> },
    /// In the document.
    Inside,
    /// It ended, or is no base64: of the outer one nothing more is of interest.
    Over,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Escape {
    None,
    Backslash,
    Unicode { digits: u8, code: u16 },
}

/// Takes the documents out of those that they are embedded in, as they come.
///
/// Only a string that is a member of the outer object itself, and has the member's name before it, is one. Of the outer
/// document nothing is kept.
#[derive(Clone)]
pub struct Embedded {
    state: State,
    escape: Escape,
    depth: u64,
    /// The string that has just ended is the member's name.
    is_named: bool,
    /// So it is, and a colon has followed.
    is_expected: bool,
    /// Bits that do not make a byte yet, and how many they are.
    bits: u32,
    bit_count: u32,
    is_broken: bool,
    has_padding: bool,
}

impl std::fmt::Debug for Embedded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Without the bits, which are a part of the text.
        f.debug_struct("Embedded").field("state", &self.state).finish_non_exhaustive()
    }
}

impl Default for Embedded {
    fn default() -> Self {
        Self {
            state: State::Between,
            escape: Escape::None,
            depth: 0,
            is_named: false,
            is_expected: false,
            bits: 0,
            bit_count: 0,
            is_broken: false,
            has_padding: false,
        }
    }
}

impl Embedded {
    /// A receiver of outer documents that hands on the inner ones.
    pub fn within<'a, D: Documents>(&'a mut self, out: &'a mut D) -> impl Documents + use<'a, D> {
        Within { embedded: self, out }
    }

    fn push(&mut self, bytes: &[u8], out: &mut impl Documents) {
        let mut decoded = [0; OUTPUT_BYTES];
        let mut length = 0;
        for byte in bytes {
            if self.state == State::Over {
                break;
            }
            if let Some(byte) = self.take(*byte) {
                decoded[length] = byte;
                length += 1;
                if length == OUTPUT_BYTES {
                    out.bytes(&decoded);
                    length = 0;
                }
            }
        }
        if length > 0 {
            out.bytes(&decoded[..length]);
        }
    }

    /// Takes a byte of the outer document. Gives the one of the inner one that is complete with it.
    fn take(&mut self, byte: u8) -> Option<u8> {
        match self.state {
            State::Between => self.between(byte),
            State::Text { .. } | State::Inside => {
                let (byte, is_escaped) = self.unescaped(byte)?;
                return self.text(byte, is_escaped);
            }
            State::Over => {}
        }
        None
    }

    fn between(&mut self, byte: u8) {
        match byte {
            b' ' | b'\t' | b'\r' | b'\n' => return,
            b':' => self.is_expected = self.is_named,
            b'"' if self.is_expected => self.state = State::Inside,
            b'"' => self.state = State::Text { matched: (self.depth == 1).then_some(0) },
            b'{' | b'[' => self.depth += 1,
            b'}' | b']' => self.depth = self.depth.saturating_sub(1),
            _ => {}
        }
        self.is_named = false;
        self.is_expected &= byte == b':';
    }

    /// The character that this byte of a string completes, and whether it was written as an escape.
    fn unescaped(&mut self, byte: u8) -> Option<(u8, bool)> {
        match self.escape {
            Escape::None if byte == b'\\' => {
                self.escape = Escape::Backslash;
                None
            }
            Escape::None => Some((byte, false)),
            Escape::Backslash if byte == b'u' => {
                self.escape = Escape::Unicode { digits: 0, code: 0 };
                None
            }
            Escape::Backslash => {
                self.escape = Escape::None;
                // The others stand for control characters, which are in no name that matters, and no base64.
                let is_itself = matches!(byte, b'"' | b'\\' | b'/');
                Some((if is_itself { byte } else { 0 }, true))
            }
            Escape::Unicode { digits, code } => {
                // What is no digit is in no name that matters, and no base64.
                let code = code << 4 | char::from(byte).to_digit(16).unwrap_or(0xf) as u16;
                self.escape = if digits < 3 { Escape::Unicode { digits: digits + 1, code } } else { Escape::None };
                (digits == 3).then(|| (u8::try_from(code).unwrap_or(0xff), true))
            }
        }
    }

    fn text(&mut self, byte: u8, is_escaped: bool) -> Option<u8> {
        match &mut self.state {
            State::Text { matched } => {
                if byte == b'"' && !is_escaped {
                    self.is_named = *matched == Some(MEMBER.len());
                    self.state = State::Between;
                } else {
                    *matched = matched.filter(|at| MEMBER.get(*at) == Some(&byte)).map(|at| at + 1);
                }
                None
            }
            State::Inside if byte == b'"' && !is_escaped => {
                // What a last group of one character would say is not even a byte.
                self.is_broken |= self.bit_count == 6;
                self.state = State::Over;
                None
            }
            State::Inside => self.decode(byte),
            State::Between | State::Over => None,
        }
    }

    /// RFC 4648, both of its alphabets.
    fn decode(&mut self, byte: u8) -> Option<u8> {
        let value = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' | b'-' => 62,
            b'/' | b'_' => 63,
            b'=' => {
                self.has_padding = true;
                return None;
            }
            _ => return self.give_up(),
        };
        if self.has_padding {
            return self.give_up();
        }
        self.bits = self.bits << 6 | u32::from(value);
        self.bit_count += 6;
        if self.bit_count < 8 {
            return None;
        }
        self.bit_count -= 8;
        let decoded = (self.bits >> self.bit_count) as u8;
        self.bits &= (1 << self.bit_count) - 1;
        Some(decoded)
    }

    fn give_up(&mut self) -> Option<u8> {
        self.is_broken = true;
        self.state = State::Over;
        None
    }
}

struct Within<'a, D> {
    embedded: &'a mut Embedded,
    out: &'a mut D,
}

impl<D: Documents> Documents for Within<'_, D> {
    fn bytes(&mut self, bytes: &[u8]) {
        self.embedded.push(bytes, self.out);
    }

    fn named(&mut self, kind: MessageKind, name: &[u8]) {
        self.out.named(kind, name);
    }

    fn end(&mut self) {
        let was = std::mem::take(self.embedded);
        // One that is cut within the outer document was not sent whole.
        if was.is_broken || was.state == State::Inside {
            self.out.abort();
        } else {
            self.out.end();
        }
    }

    fn abort(&mut self) {
        *self.embedded = Embedded::default();
        self.out.abort();
    }
}
