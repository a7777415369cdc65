//! Frames of WebSocket (RFC 6455, 5.2).

use crate::http1::Side;

/// The longest header: two bytes, a length of eight and a mask of four.
pub(super) const MAX_HEADER_BYTES: usize = 14;

/// The longest payload of a control frame (5.5).
const MAX_CONTROL_BYTES: u64 = 125;

/// Values of the length's seven bits that say that it follows in two bytes, and in eight.
const LENGTH_IN_TWO: u8 = 126;
const LENGTH_IN_EIGHT: u8 = 127;

const FIN: u8 = 0x80;
const DEFLATED: u8 = 0x40;
const RESERVED: u8 = 0x30;
const MASKED: u8 = 0x80;

/// What a frame is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Opcode {
    Continuation,
    Text,
    Binary,
    Close,
    Ping,
    Pong,
}

impl Opcode {
    /// Whether it may stand between the frames of a message, and is none of them.
    pub(super) fn is_control(self) -> bool {
        matches!(self, Self::Close | Self::Ping | Self::Pong)
    }
}

/// What stands before a payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) opcode: Opcode,
    /// It is the last of its message.
    pub(super) is_last: bool,
    /// The message that it begins is compressed.
    pub(super) is_deflated: bool,
    /// `None` for no mask.
    pub(super) mask: Option<[u8; 4]>,
    /// Bytes of payload.
    pub(super) length: u64,
    /// The length is told in as few bytes as it takes.
    is_minimal: bool,
}

/// No sender has such a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Invalid;

impl Header {
    /// Reads a header at the beginning of `bytes`; gives it and its length, or `None` if it is not complete yet.
    pub(super) fn parse(bytes: &[u8]) -> Result<Option<(Self, usize)>, Invalid> {
        let [first, second, rest @ ..] = bytes else { return Ok(None) };
        let opcode = match first & 0x0f {
            0 => Opcode::Continuation,
            1 => Opcode::Text,
            2 => Opcode::Binary,
            8 => Opcode::Close,
            9 => Opcode::Ping,
            10 => Opcode::Pong,
            _ => return Err(Invalid),
        };
        let (is_last, is_deflated) = (first & FIN != 0, first & DEFLATED != 0);
        let (length, rest, is_minimal) = match second & !MASKED {
            LENGTH_IN_TWO => {
                let Some((bytes, rest)) = rest.split_first_chunk() else { return Ok(None) };
                let length = u64::from(u16::from_be_bytes(*bytes));
                (length, rest, length >= LENGTH_IN_TWO.into())
            }
            LENGTH_IN_EIGHT => {
                let Some((bytes, rest)) = rest.split_first_chunk() else { return Ok(None) };
                let length = u64::from_be_bytes(*bytes);
                (length, rest, length > u16::MAX.into())
            }
            short => (short.into(), rest, true),
        };
        let is_control = opcode.is_control() && (!is_last || is_deflated || length > MAX_CONTROL_BYTES);
        let is_continuation = opcode == Opcode::Continuation && is_deflated;
        if first & RESERVED != 0 || is_control || is_continuation || length > i64::MAX as u64 {
            return Err(Invalid);
        }
        let (mask, rest) = if second & MASKED != 0 {
            let Some((mask, rest)) = rest.split_first_chunk() else { return Ok(None) };
            (Some(*mask), rest)
        } else {
            (None, rest)
        };
        let header = Self { opcode, is_last, is_deflated, mask, length, is_minimal };
        Ok(Some((header, bytes.len() - rest.len())))
    }

    /// Whether that side may send it: clients mask, servers do not (5.1).
    pub(super) fn may_be_of(&self, side: Side, deflates: bool) -> bool {
        self.mask.is_some() == (side == Side::Request) && (deflates || !self.is_deflated)
    }
}

/// Whether a piece consists of whole frames and of nothing else, and the first of them is a whole message or a control
/// frame: so, and only so, a frame is believed to begin where bytes before were missed. What is amid a text is none: a first
/// byte that has its highest bit is not of ASCII.
pub(super) fn consists_of_frames(piece: &[u8], side: Side, deflates: bool) -> bool {
    let mut rest = piece;
    let mut is_first = true;
    while !rest.is_empty() {
        let Ok(Some((header, length))) = Header::parse(rest) else { return false };
        let begins = header.is_last && header.opcode != Opcode::Continuation;
        if !header.may_be_of(side, deflates) || !header.is_minimal || (is_first && !begins) {
            return false;
        }
        is_first = false;
        let whole = usize::try_from(header.length).ok().and_then(|payload| payload.checked_add(length));
        let Some(behind) = whole.and_then(|whole| rest.get(whole..)) else { return false };
        rest = behind;
    }
    !is_first
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_in_all_lengths() {
        let mask = [1, 2, 3, 4];
        // Bytes; opcode, last, deflated, masked, payload and header length.
        type Row<'a> = (&'a [u8], (Opcode, bool, bool, bool, u64, usize));
        let cases: &[Row<'_>] = &[
            (&[0x81, 0x05], (Opcode::Text, true, false, false, 5, 2)),
            (&[0x02, 0x00], (Opcode::Binary, false, false, false, 0, 2)),
            (&[0xc1, 0x7e, 0x01, 0x00], (Opcode::Text, true, true, false, 256, 4)),
            (&[0x80, 0x7f, 0, 0, 0, 0, 0, 1, 0, 0], (Opcode::Continuation, true, false, false, 65_536, 10)),
            (&[0x89, 0x84, 1, 2, 3, 4], (Opcode::Ping, true, false, true, 4, 6)),
            (&[0x41, 0xfe, 0x00, 0x80, 1, 2, 3, 4], (Opcode::Text, false, true, true, 128, 8)),
            (&[0x81, 0xff, 0, 0, 0, 1, 0, 0, 0, 0, 1, 2, 3, 4], (Opcode::Text, true, false, true, 1 << 32, 14)),
        ];
        for (bytes, expected) in cases {
            for length in 0..bytes.len() {
                assert_eq!(Header::parse(&bytes[..length]), Ok(None), "{bytes:?} cut at {length}");
            }
            let (header, length) = Header::parse(&[bytes, &b"payload"[..]].concat()).unwrap().unwrap();
            assert!(length <= MAX_HEADER_BYTES && header.mask.is_none_or(|key| key == mask));
            let found =
                (header.opcode, header.is_last, header.is_deflated, header.mask.is_some(), header.length, length);
            assert_eq!(found, *expected);
        }
    }

    #[test]
    fn what_no_sender_has() {
        let cases: &[&[u8]] = &[
            &[0x83, 0],                               // an opcode that is reserved
            &[0xa1, 0],                               // bits that are reserved
            &[0x91, 0],                               //
            &[0x09, 0],                               // a control frame in parts
            &[0xc9, 0],                               // or compressed
            &[0x89, 0x7e, 0, 126],                    // or long
            &[0xc0, 0],                               // a continuation that says that it is compressed
            &[0x81, 0x7f, 0x80, 0, 0, 0, 0, 0, 0, 0], // a length beyond 63 bits
            b"{\"type\"",
            b"GET / HT",
        ];
        for bytes in cases {
            assert_eq!(Header::parse(bytes), Err(Invalid), "{bytes:?}");
        }
    }

    #[test]
    fn pieces_that_consist_of_frames() {
        let text = [&[0x81, 5][..], b"hello"].concat();
        let masked = [&[0x81, 0x85, 1, 2, 3, 4][..], b"hello"].concat();
        let part = [&[0x01, 5][..], b"hello", &[0x80, 0]].concat();
        for (piece, side, expected) in [
            (&text, Side::Response, true),
            (&text, Side::Request, false),
            (&masked, Side::Request, true),
            (&masked, Side::Response, false),
            (&part, Side::Response, false),
            (&[&text[..], &part].concat(), Side::Response, true),
            (&[&text[..], b"x"].concat(), Side::Response, false),
            (&text[..6].to_vec(), Side::Response, false),
            (&[&[0x81, 0x7e, 0, 5][..], b"hello"].concat(), Side::Response, false),
            (&[&[0xc1, 5][..], b"hello"].concat(), Side::Response, false),
            (&Vec::new(), Side::Response, false),
        ] {
            assert_eq!(consists_of_frames(piece, side, false), expected, "{piece:?}");
        }
        assert!(consists_of_frames(&[&[0xc1, 5][..], b"hello"].concat(), Side::Response, true));
    }
}
