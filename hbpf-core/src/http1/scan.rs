//! Finding a message's head among bytes.

use super::Side;

/// The longest method that a beginning may have; the longest registered one has 17 letters.
const MAX_METHOD: usize = 24;

/// Bytes of a beginning that decide whether it can be HTTP at all.
pub(super) const DECISIVE: usize = MAX_METHOD + 1;

/// Looks for the empty line that ends a head, over any number of pieces.
#[derive(Clone, Copy, Debug, Default)]
pub(super) enum HeadEnd {
    /// Amid a line.
    #[default]
    InLine,
    /// Behind a line feed.
    LineFeed,
    /// Behind a line feed and a carriage return.
    CarriageReturn,
}

impl HeadEnd {
    /// The length of `bytes` up to the end of the head, if that is in them.
    pub(super) fn find(&mut self, bytes: &[u8]) -> Option<usize> {
        for (index, &byte) in bytes.iter().enumerate() {
            *self = match (*self, byte) {
                (Self::LineFeed | Self::CarriageReturn, b'\n') => return Some(index + 1),
                (_, b'\n') => Self::LineFeed,
                (Self::LineFeed, b'\r') => Self::CarriageReturn,
                _ => Self::InLine,
            };
        }
        None
    }
}

/// Whether a message can begin like this. Says no as soon as that is certain, so that other protocols are not buffered.
pub(super) fn can_begin(side: Side, bytes: &[u8]) -> bool {
    match side {
        Side::Response => {
            const VERSION: &[u8] = b"HTTP/1.";
            let length = bytes.len().min(VERSION.len());
            bytes[..length] == VERSION[..length]
        }
        Side::Request => {
            let in_method = |byte: &u8| byte.is_ascii_uppercase() || matches!(byte, b'-' | b'_');
            match bytes.iter().position(|byte| !in_method(byte)) {
                Some(end) => end > 0 && end <= MAX_METHOD && bytes[end] == b' ',
                None => bytes.len() <= MAX_METHOD,
            }
        }
    }
}
