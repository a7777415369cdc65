//! Zstandard.

use zstd::stream::raw::{DParameter, Decoder, Operation};

use super::{BodyError, Coding, Output};

/// The largest window accepted, as a power of two: 8 MiB, what RFC 9659 allows on the web.
const MAX_WINDOW_LOG: u32 = 23;

pub(super) struct Zstd {
    decoder: Decoder<'static>,
    is_between_frames: bool,
}

impl Zstd {
    pub(super) fn new() -> Result<Self, BodyError> {
        let malformed = |_| BodyError::Malformed(Coding::Zstd);
        let mut decoder = Decoder::new().map_err(malformed)?;
        decoder.set_parameter(DParameter::WindowLogMax(MAX_WINDOW_LOG)).map_err(malformed)?;
        Ok(Self { decoder, is_between_frames: true })
    }

    pub(super) fn push(
        &mut self,
        bytes: &[u8],
        output: &mut Output,
        out: &mut dyn FnMut(&[u8]),
    ) -> Result<(), BodyError> {
        let mut rest = bytes;
        loop {
            let space = output.space();
            let room = space.len();
            let status = self.decoder.run_on_buffers(rest, space).map_err(|_| BodyError::Malformed(Coding::Zstd))?;
            rest = &rest[status.bytes_read..];
            output.give(status.bytes_written, out)?;
            if status.bytes_read > 0 || status.bytes_written > 0 {
                self.is_between_frames = status.remaining == 0;
            }
            // A full buffer may mean that more output waits although there is no input left.
            let is_drained = rest.is_empty() && (status.bytes_written < room || self.is_between_frames);
            if is_drained || (status.bytes_read == 0 && status.bytes_written == 0) {
                return Ok(());
            }
        }
    }

    pub(super) fn may_end(&self) -> bool {
        self.is_between_frames
    }
}

impl std::fmt::Debug for Zstd {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Zstd").field("is_between_frames", &self.is_between_frames).finish_non_exhaustive()
    }
}
