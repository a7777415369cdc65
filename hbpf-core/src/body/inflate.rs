//! gzip and deflate.

use flate2::{Crc, Decompress, FlushDecompress, Status};

use super::{BodyError, Coding, Output};

/// Memory of a decompressor: its window of 32 KiB and its tables.
pub(crate) const STATE_BYTES: usize = 44 * 1024;

/// Inflates what it can of `bytes`; gives how many it took and whether the compressed data ended.
fn inflate(
    decompress: &mut Decompress,
    coding: Coding,
    bytes: &[u8],
    output: &mut Output,
    out: &mut dyn FnMut(&[u8]),
) -> Result<(usize, bool), BodyError> {
    let mut used = 0;
    loop {
        let (read, written) = (decompress.total_in(), decompress.total_out());
        let status = decompress
            .decompress(&bytes[used..], output.space(), FlushDecompress::None)
            .map_err(|_| BodyError::Malformed(coding))?;
        // Both differences are bounded by the lengths of the slices.
        let (read, written) = ((decompress.total_in() - read) as usize, (decompress.total_out() - written) as usize);
        used += read;
        output.give(written, out)?;
        if status == Status::StreamEnd {
            return Ok((used, true));
        }
        if read == 0 && written == 0 {
            return Ok((used, false));
        }
    }
}

/// deflate: by its definition with the zlib wrapper, by some senders without.
#[derive(Debug, Default)]
pub(super) struct Deflate {
    first: Option<u8>,
    decompress: Option<Decompress>,
    has_ended: bool,
}

impl Deflate {
    pub(super) fn push(
        &mut self,
        bytes: &[u8],
        output: &mut Output,
        out: &mut dyn FnMut(&[u8]),
    ) -> Result<(), BodyError> {
        let mut rest = bytes;
        if self.decompress.is_none() {
            let Some((&byte, more)) = rest.split_first() else { return Ok(()) };
            let Some(first) = self.first else {
                self.first = Some(byte);
                return self.push(more, output, out);
            };
            let mut decompress = Decompress::new(is_zlib_header(first, byte));
            inflate(&mut decompress, Coding::Deflate, &[first], output, out)?;
            self.decompress = Some(decompress);
            rest = bytes;
        }
        if let Some(decompress) = &mut self.decompress
            && !self.has_ended
        {
            self.has_ended = inflate(decompress, Coding::Deflate, rest, output, out)?.1;
        }
        Ok(())
    }

    pub(super) fn may_end(&self) -> bool {
        self.has_ended || self.first.is_none()
    }
}

fn is_zlib_header(method: u8, flags: u8) -> bool {
    method & 0x0f == 8 && method >> 4 <= 7 && u16::from_be_bytes([method, flags]).is_multiple_of(31)
}

/// gzip (RFC 1952), of any number of members.
#[derive(Debug)]
pub(super) struct Gzip {
    state: GzipState,
    decompress: Decompress,
    /// Over what the member has decoded to.
    sum: Crc,
    members: u64,
}

#[derive(Clone, Copy, Debug)]
enum GzipState {
    /// In the fixed part of a member's header.
    Fixed {
        seen: u8,
        flags: u8,
    },
    /// In the optional parts that `flags` still announces.
    ExtraLength {
        low: Option<u8>,
        flags: u8,
    },
    Extra {
        left: u16,
        flags: u8,
    },
    Text {
        flags: u8,
    },
    Checksum {
        seen: u8,
    },
    /// In compressed data.
    Data,
    /// In checksum and size, of which so much has come.
    Trailer {
        seen: u8,
        value: u64,
    },
    /// Behind the last member.
    Padding,
}

/// Bits of the header's flags.
mod flag {
    pub(super) const CHECKSUM: u8 = 1 << 1;
    pub(super) const EXTRA: u8 = 1 << 2;
    pub(super) const NAME: u8 = 1 << 3;
    pub(super) const COMMENT: u8 = 1 << 4;
}

impl Default for Gzip {
    fn default() -> Self {
        Self {
            state: GzipState::Fixed { seen: 0, flags: 0 },
            decompress: Decompress::new(false),
            sum: Crc::new(),
            members: 0,
        }
    }
}

impl Gzip {
    pub(super) fn push(
        &mut self,
        bytes: &[u8],
        output: &mut Output,
        out: &mut dyn FnMut(&[u8]),
    ) -> Result<(), BodyError> {
        let mut rest = bytes;
        while let Some((&byte, more)) = rest.split_first() {
            rest = match self.state {
                GzipState::Data => {
                    let Self { decompress, sum, .. } = self;
                    let (used, has_ended) = inflate(decompress, Coding::Gzip, rest, output, &mut |decoded| {
                        sum.update(decoded);
                        out(decoded);
                    })?;
                    if has_ended {
                        self.state = GzipState::Trailer { seen: 0, value: 0 };
                    }
                    &rest[used..]
                }
                GzipState::Padding => return Ok(()),
                _ => {
                    self.state = self.framing_byte(byte)?;
                    more
                }
            };
        }
        Ok(())
    }

    pub(super) fn may_end(&self) -> bool {
        matches!(self.state, GzipState::Fixed { seen: 0, .. } | GzipState::Padding)
    }

    /// One byte of header or trailer.
    fn framing_byte(&mut self, byte: u8) -> Result<GzipState, BodyError> {
        Ok(match self.state {
            GzipState::Fixed { seen, flags } => match (seen, byte) {
                (0, 0x1f) | (1, 0x8b) | (2, 8) | (4..=8, _) => GzipState::Fixed { seen: seen + 1, flags },
                (3, flags) => GzipState::Fixed { seen: 4, flags },
                (9, _) => self.header_part(flags),
                // Some senders pad the last member with zeros or worse.
                (0, _) if self.members > 0 => GzipState::Padding,
                _ => return Err(BodyError::Malformed(Coding::Gzip)),
            },
            GzipState::ExtraLength { low: None, flags } => GzipState::ExtraLength { low: Some(byte), flags },
            GzipState::ExtraLength { low: Some(low), flags } => match u16::from_le_bytes([low, byte]) {
                0 => self.header_part(flags),
                left => GzipState::Extra { left, flags },
            },
            GzipState::Extra { left: 1, flags } => self.header_part(flags),
            GzipState::Extra { left, flags } => GzipState::Extra { left: left - 1, flags },
            GzipState::Text { flags } if byte == 0 => self.header_part(flags),
            GzipState::Checksum { seen: 1 } => self.header_part(0),
            GzipState::Checksum { seen } => GzipState::Checksum { seen: seen + 1 },
            GzipState::Trailer { seen, value } => {
                let value = value | u64::from(byte) << (8 * seen);
                if seen < 7 {
                    return Ok(GzipState::Trailer { seen: seen + 1, value });
                }
                if value != u64::from(self.sum.amount()) << 32 | u64::from(self.sum.sum()) {
                    return Err(BodyError::Malformed(Coding::Gzip));
                }
                self.members += 1;
                GzipState::Fixed { seen: 0, flags: 0 }
            }
            state @ (GzipState::Text { .. } | GzipState::Data | GzipState::Padding) => state,
        })
    }

    /// The part of the header that comes next, by what `flags` still announces.
    fn header_part(&mut self, flags: u8) -> GzipState {
        if flags & flag::EXTRA != 0 {
            GzipState::ExtraLength { low: None, flags: flags & !flag::EXTRA }
        } else if flags & flag::NAME != 0 {
            GzipState::Text { flags: flags & !flag::NAME }
        } else if flags & flag::COMMENT != 0 {
            GzipState::Text { flags: flags & !flag::COMMENT }
        } else if flags & flag::CHECKSUM != 0 {
            GzipState::Checksum { seen: 0 }
        } else {
            self.decompress.reset(false);
            self.sum.reset();
            GzipState::Data
        }
    }
}
