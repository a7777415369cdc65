//! Zstandard.

use zstd::zstd_safe::{DCtx, DParameter, InBuffer, OutBuffer};

use super::{BodyDecoder, BodyError, Coding, Output};

pub(super) struct Zstd {
    decoder: DCtx<'static>,
    is_between_frames: bool,
}

impl Zstd {
    pub(super) fn new() -> Result<Self, BodyError> {
        const MALFORMED: BodyError = BodyError::Malformed(Coding::Zstd);
        let mut decoder = DCtx::try_create().ok_or(MALFORMED)?;
        let window = DParameter::WindowLogMax(BodyDecoder::MAX_WINDOW.ilog2());
        decoder.set_parameter(window).map_err(|_| MALFORMED)?;
        Ok(Self { decoder, is_between_frames: true })
    }

    pub(super) fn push(
        &mut self,
        bytes: &[u8],
        output: &mut Output,
        out: &mut dyn FnMut(&[u8]),
    ) -> Result<(), BodyError> {
        let mut input = InBuffer::around(bytes);
        loop {
            let before = input.pos();
            let space = output.space();
            let room = space.len();
            let mut decoded = OutBuffer::around(space);
            let expected = self
                .decoder
                .decompress_stream(&mut decoded, &mut input)
                .map_err(|_| BodyError::Malformed(Coding::Zstd))?;
            let (read, written) = (input.pos() - before, decoded.pos());
            output.give(written, out)?;
            if read > 0 || written > 0 {
                self.is_between_frames = expected == 0;
            }
            // A full buffer may mean that more output waits although there is no input left.
            let is_drained = input.pos() == bytes.len() && (written < room || self.is_between_frames);
            if is_drained || (read == 0 && written == 0) {
                return Ok(());
            }
        }
    }

    /// Memory that it holds, in bytes.
    pub(super) fn memory(&self) -> usize {
        size_of::<Self>() + self.decoder.sizeof()
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
