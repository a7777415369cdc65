//! Frames of HTTP/2 (RFC 9113, 4.1 and 6).

/// Bytes before a frame's payload.
pub(super) const HEADER_BYTES: usize = 9;

/// The longest frame that is sent without being asked to (`SETTINGS_MAX_FRAME_SIZE`).
const USUAL_BYTES: u32 = 16 * 1024;

/// The largest step between numbers of streams that are opened one after the other, where one is looked for in the dark.
const LARGEST_STEP: u32 = 1 << 16;

/// What a frame is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Data,
    Headers,
    ResetStream,
    PushPromise,
    Continuation,
    /// One that says nothing of heads and bodies.
    Other(u8),
}

/// `END_STREAM` of `DATA` and `HEADERS`.
const END_STREAM: u8 = 0x1;
/// `END_HEADERS` of `HEADERS`, `PUSH_PROMISE` and `CONTINUATION`.
const END_HEADERS: u8 = 0x4;
/// `PADDED` of `DATA`, `HEADERS` and `PUSH_PROMISE`.
const PADDED: u8 = 0x8;
/// `PRIORITY` of `HEADERS`.
const PRIORITY: u8 = 0x20;

/// What stands before a payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) kind: Kind,
    flags: u8,
    pub(super) stream: u32,
    /// Bytes of payload.
    pub(super) length: u32,
}

impl Header {
    pub(super) fn parse(bytes: &[u8; HEADER_BYTES]) -> Self {
        let [a, b, c, kind, flags, d, e, f, g] = *bytes;
        let kind = match kind {
            0 => Kind::Data,
            1 => Kind::Headers,
            3 => Kind::ResetStream,
            5 => Kind::PushPromise,
            9 => Kind::Continuation,
            other => Kind::Other(other),
        };
        Self {
            kind,
            flags,
            stream: u32::from_be_bytes([d, e, f, g]) & 0x7fff_ffff,
            length: u32::from_be_bytes([0, a, b, c]),
        }
    }

    pub(super) fn ends_stream(&self) -> bool {
        matches!(self.kind, Kind::Data | Kind::Headers) && self.flags & END_STREAM != 0
    }

    pub(super) fn ends_headers(&self) -> bool {
        self.flags & END_HEADERS != 0
    }

    pub(super) fn is_padded(&self) -> bool {
        matches!(self.kind, Kind::Data | Kind::Headers | Kind::PushPromise) && self.flags & PADDED != 0
    }

    /// Bytes between the length of the padding and what is of interest: priority, or the number of a promised stream.
    pub(super) fn preamble(&self) -> u32 {
        match self.kind {
            Kind::Headers if self.flags & PRIORITY != 0 => 5,
            Kind::PushPromise => 4,
            _ => 0,
        }
    }

    /// Whether bytes met in the dark may be this header: nothing that is not as the specification has it, or larger than
    /// is usual.
    fn is_plausible(&self, reserved: u8, newest: u32) -> bool {
        let (length, flags) = (self.length, self.flags);
        let of_connection = self.stream == 0;
        let is_near = !of_connection && (newest == 0 || self.stream <= newest.saturating_add(LARGEST_STEP));
        let is_form = match self.kind {
            Kind::Data => is_near && flags & !(END_STREAM | PADDED) == 0,
            Kind::Headers => {
                let known = END_STREAM | END_HEADERS | PADDED | PRIORITY;
                is_near && self.stream % 2 == 1 && flags & !known == 0 && length > 0
            }
            Kind::ResetStream => is_near && flags == 0 && length == 4,
            // Priority, settings, ping, goaway, window update.
            Kind::Other(2) => is_near && flags == 0 && length == 5,
            Kind::Other(4) => of_connection && (flags == 0 && length % 6 == 0 || flags == 1 && length == 0),
            Kind::Other(6) => of_connection && flags & !1 == 0 && length == 8,
            Kind::Other(7) => of_connection && flags == 0 && length >= 8,
            Kind::Other(8) => (of_connection || is_near) && flags == 0 && length == 4,
            Kind::PushPromise | Kind::Continuation | Kind::Other(_) => false,
        };
        is_form && reserved & 0x80 == 0 && length <= USUAL_BYTES
    }
}

/// Whether a piece that is met in the dark begins with a frame: all frames that begin in it must be plausible, and at
/// least one does. `newest` is the highest number of a stream known so far, 0 where none is.
pub(super) fn begins_with_frame(piece: &[u8], newest: u32) -> bool {
    let mut rest = piece;
    let mut seen = false;
    while let Some(bytes) = rest.first_chunk() {
        let header = Header::parse(bytes);
        if !header.is_plausible(bytes[5], newest) {
            return false;
        }
        seen = true;
        let end = HEADER_BYTES + header.length as usize;
        let Some(behind) = rest.get(end..) else { return true };
        rest = behind;
    }
    seen
}
