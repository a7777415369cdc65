//! How an input is made up: a few control bytes, then what is parsed.
//!
//! So a seed is a real stream with a short prefix, and the fuzzer can change either part by itself.

/// An input on its way through a target.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Input<'a> {
    controls: &'a [u8],
    pub(crate) payload: &'a [u8],
}

impl<'a> Input<'a> {
    /// The first two bytes say how many control bytes follow.
    pub(crate) fn new(data: &'a [u8]) -> Self {
        let Some((length, rest)) = data.split_first_chunk() else { return Self { controls: &[], payload: data } };
        let length = usize::from(u16::from_le_bytes(*length)).min(rest.len());
        let (controls, payload) = rest.split_at(length);
        Self { controls, payload }
    }

    /// The next control byte; `None` when there are no more.
    pub(crate) fn control(&mut self) -> Option<u8> {
        let (byte, rest) = self.controls.split_first()?;
        self.controls = rest;
        Some(*byte)
    }

    /// The next control byte, or 0.
    pub(crate) fn byte(&mut self) -> u8 {
        self.control().unwrap_or(0)
    }

    /// A number of up to four control bytes whose size is spread over all orders of magnitude.
    pub(crate) fn number(&mut self) -> u32 {
        let (size, bytes) = (self.byte(), [self.byte(), self.byte(), self.byte(), self.byte()]);
        u32::from_le_bytes(bytes) >> (size % 32)
    }

    /// The next `length` bytes of the payload, or what is left of it.
    pub(crate) fn take(&mut self, length: usize) -> &'a [u8] {
        let (taken, rest) = self.payload.split_at(length.min(self.payload.len()));
        self.payload = rest;
        taken
    }

    /// The same controls over other bytes.
    pub(crate) fn with_payload(self, payload: &'a [u8]) -> Self {
        Self { payload, ..self }
    }

    /// The payload in pieces whose lengths the control bytes say, the last one as long as it may be.
    pub(crate) fn pieces(mut self) -> impl Iterator<Item = &'a [u8]> {
        std::iter::from_fn(move || {
            let length = self.control().map_or(usize::MAX, |byte| usize::from(byte).max(1));
            let piece = self.take(length);
            (!piece.is_empty()).then_some(piece)
        })
    }
}

/// An input of these two parts.
pub fn with_controls(controls: &[u8], payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(controls.len()).unwrap_or(u16::MAX);
    [&length.to_le_bytes(), &controls[..usize::from(length)], payload].concat()
}
