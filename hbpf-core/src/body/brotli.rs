//! Brotli.

use brotli_decompressor::{BrotliDecompressStream, BrotliResult, BrotliState, StandardAlloc};

use super::{BodyDecoder, BodyError, Coding, Output};

/// Memory for the tables of a block, about what they take with all their kinds in use.
const TABLE_BYTES: usize = 64 * 1024;

pub(super) struct Brotli {
    state: BrotliState<StandardAlloc, StandardAlloc, StandardAlloc>,
    has_begun: bool,
    has_ended: bool,
}

impl Default for Brotli {
    fn default() -> Self {
        // Strict: without the windows of up to 1 GiB that the web does not use.
        let state =
            BrotliState::new_strict(StandardAlloc::default(), StandardAlloc::default(), StandardAlloc::default());
        Self { state, has_begun: false, has_ended: false }
    }
}

impl Brotli {
    pub(super) fn push(
        &mut self,
        bytes: &[u8],
        output: &mut Output,
        out: &mut dyn FnMut(&[u8]),
    ) -> Result<(), BodyError> {
        self.has_begun |= !bytes.is_empty();
        let (mut left, mut read, mut total) = (bytes.len(), 0, 0);
        while !self.has_ended {
            let space = output.space();
            let (mut room, mut written) = (space.len(), 0);
            let result = BrotliDecompressStream(
                &mut left,
                &mut read,
                bytes,
                &mut room,
                &mut written,
                space,
                &mut total,
                &mut self.state,
            );
            output.give(written, out)?;
            if self.window() > BodyDecoder::MAX_WINDOW {
                return Err(BodyError::WindowTooLarge);
            }
            match result {
                BrotliResult::ResultSuccess => self.has_ended = true,
                BrotliResult::NeedsMoreInput => break,
                BrotliResult::NeedsMoreOutput => {}
                BrotliResult::ResultFailure => return Err(BodyError::Malformed(Coding::Brotli)),
            }
        }
        Ok(())
    }

    /// What it has allocated of its window, which grows with the body.
    fn window(&self) -> usize {
        usize::try_from(self.state.ringbuffer_size).unwrap_or(0)
    }

    /// Memory that it holds, in bytes.
    pub(super) fn memory(&self) -> usize {
        size_of::<Self>() + TABLE_BYTES + self.window()
    }

    pub(super) fn may_end(&self) -> bool {
        self.has_ended || !self.has_begun
    }
}

impl std::fmt::Debug for Brotli {
    /// The state holds decoded text.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Brotli").field("has_ended", &self.has_ended).finish_non_exhaustive()
    }
}
