//! Bodies freed from their content coding, as they come.

mod brotli;
mod inflate;
#[cfg(test)]
mod tests;
mod zstd;

pub(crate) use inflate::STATE_BYTES as DEFLATE_STATE_BYTES;

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
    /// It needs a larger window than [`BodyDecoder::MAX_WINDOW`].
    #[error("window of the compressed body too large")]
    WindowTooLarge,
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
///
/// Memory: the window of the coding (gzip and deflate 32 KiB, the others at most [`BodyDecoder::MAX_WINDOW`], allocated
/// only when the body asks for it) and one output buffer; [`BodyDecoder::memory`] says how much it is.
#[derive(Debug)]
pub struct BodyDecoder {
    stage: Stage,
    output: Output,
}

#[derive(Debug)]
enum Stage {
    /// Said to be plain; its first bytes will tell. Keeps what has come of them.
    Sniffing(Vec<u8>),
    Plain,
    Compressed(Decompressor),
    Failed(BodyError),
}

/// One function per coding, each in its own file.
#[derive(Debug)]
enum Decompressor {
    Gzip(Box<inflate::Gzip>),
    Deflate(Box<inflate::Deflate>),
    Brotli(Box<brotli::Brotli>),
    Zstd(Box<zstd::Zstd>),
}

/// First bytes of bodies that are compressed although nobody says so. No JSON or event stream begins like this.
const MAGIC: [(&[u8], Coding); 2] = [(b"\x1f\x8b", Coding::Gzip), (b"\x28\xb5\x2f\xfd", Coding::Zstd)];

impl BodyDecoder {
    /// Decoded bytes of one body: more than any real exchange has, little enough to bound the work a bomb can cause.
    pub const MAX_OUTPUT: u64 = 64 * 1024 * 1024;

    /// The largest window accepted: what RFC 9659 allows zstd on the web. Brotli's format has twice as much, for bodies
    /// that are larger than this.
    pub const MAX_WINDOW: usize = 8 * 1024 * 1024;

    /// For a body of this coding. Bodies said to be plain are decoded all the same if they begin like gzip or zstd.
    pub fn new(coding: Coding) -> Self {
        let stage = match coding {
            Coding::Identity => Stage::Sniffing(Vec::new()),
            Coding::Unknown => Stage::Failed(BodyError::UnknownCoding),
            coding => Stage::compressed(coding),
        };
        Self { stage, output: Output::default() }
    }

    /// The next bytes of the body. After an error, every call gives that error.
    pub fn push(&mut self, bytes: &[u8], out: &mut dyn FnMut(&[u8])) -> Result<(), BodyError> {
        match &mut self.stage {
            Stage::Sniffing(first) => match sniff(first, bytes) {
                Sniffed::Undecided => {
                    first.extend_from_slice(bytes);
                    Ok(())
                }
                Sniffed::Settled(stage) => {
                    let first = std::mem::take(first);
                    self.stage = stage;
                    if !first.is_empty() {
                        self.push(&first, out)?;
                    }
                    self.push(bytes, out)
                }
            },
            Stage::Plain => {
                if !bytes.is_empty() {
                    out(bytes);
                }
                Ok(())
            }
            Stage::Compressed(decompressor) => {
                let result = decompressor.push(bytes, &mut self.output, out);
                if let Err(error) = result {
                    self.fail(error);
                }
                result
            }
            Stage::Failed(error) => Err(*error),
        }
    }

    /// Bytes of the body are missing here. Whatever follows a gap in a compressed body is [`BodyError::Gap`].
    pub fn gap(&mut self) -> GapEffect {
        match &self.stage {
            // At most three bytes are kept back, and never of text; they come out with the next ones.
            Stage::Sniffing(_) | Stage::Plain => GapEffect::PassThrough,
            Stage::Compressed(_) => {
                self.fail(BodyError::Gap);
                GapEffect::Undecodable
            }
            Stage::Failed(_) => GapEffect::Undecodable,
        }
    }

    /// Memory that it holds now, in bytes.
    pub fn memory(&self) -> usize {
        let decompressor = match &self.stage {
            Stage::Sniffing(first) => first.capacity(),
            Stage::Plain | Stage::Failed(_) => 0,
            Stage::Compressed(decompressor) => decompressor.memory(),
        };
        decompressor + self.output.buffer.capacity()
    }

    /// The body has ended.
    pub fn end(&mut self, out: &mut dyn FnMut(&[u8])) -> Result<(), BodyError> {
        match &self.stage {
            Stage::Sniffing(first) => {
                if !first.is_empty() {
                    out(first);
                }
                self.stage = Stage::Plain;
                Ok(())
            }
            Stage::Plain => Ok(()),
            Stage::Compressed(decompressor) if decompressor.may_end() => Ok(()),
            Stage::Compressed(_) => Err(BodyError::Truncated),
            Stage::Failed(error) => Err(*error),
        }
    }
}

impl BodyDecoder {
    /// Nothing more will come out: what was needed for it goes.
    fn fail(&mut self, error: BodyError) {
        self.stage = Stage::Failed(error);
        self.output = Output::default();
    }
}

impl Stage {
    fn compressed(coding: Coding) -> Self {
        let decompressor = match coding {
            Coding::Gzip => Decompressor::Gzip(Box::default()),
            Coding::Deflate => Decompressor::Deflate(Box::default()),
            Coding::Brotli => Decompressor::Brotli(Box::default()),
            Coding::Zstd => match zstd::Zstd::new() {
                Ok(zstd) => Decompressor::Zstd(Box::new(zstd)),
                Err(error) => return Self::Failed(error),
            },
            Coding::Identity => return Self::Plain,
            Coding::Unknown => return Self::Failed(BodyError::UnknownCoding),
        };
        Self::Compressed(decompressor)
    }
}

impl Decompressor {
    fn push(&mut self, bytes: &[u8], output: &mut Output, out: &mut dyn FnMut(&[u8])) -> Result<(), BodyError> {
        match self {
            Self::Gzip(gzip) => gzip.push(bytes, output, out),
            Self::Deflate(deflate) => deflate.push(bytes, output, out),
            Self::Brotli(brotli) => brotli.push(bytes, output, out),
            Self::Zstd(zstd) => zstd.push(bytes, output, out),
        }
    }

    /// Memory that it holds, in bytes.
    fn memory(&self) -> usize {
        match self {
            Self::Gzip(_) => size_of::<inflate::Gzip>() + inflate::STATE_BYTES,
            Self::Deflate(_) => size_of::<inflate::Deflate>() + inflate::STATE_BYTES,
            Self::Brotli(brotli) => brotli.memory(),
            Self::Zstd(zstd) => zstd.memory(),
        }
    }

    /// Whether a body may end here: at a boundary of its coding, or before it has begun.
    fn may_end(&self) -> bool {
        match self {
            Self::Gzip(gzip) => gzip.may_end(),
            Self::Deflate(deflate) => deflate.may_end(),
            Self::Brotli(brotli) => brotli.may_end(),
            Self::Zstd(zstd) => zstd.may_end(),
        }
    }
}

enum Sniffed {
    Undecided,
    Settled(Stage),
}

fn sniff(first: &[u8], more: &[u8]) -> Sniffed {
    let mut seen = first.iter().chain(more);
    if seen.clone().next().is_none() {
        return Sniffed::Undecided;
    }
    for (magic, coding) in MAGIC {
        if seen.clone().zip(magic).all(|(seen, magic)| seen == magic) {
            let is_whole = seen.nth(magic.len() - 1).is_some();
            return if is_whole { Sniffed::Settled(Stage::compressed(coding)) } else { Sniffed::Undecided };
        }
    }
    Sniffed::Settled(Stage::Plain)
}

/// Where decompressors write to, and how much they have written.
#[derive(Default)]
struct Output {
    buffer: Vec<u8>,
    total: u64,
}

impl Output {
    /// The largest slice handed over: a buffer that stays in the second-level cache.
    const SLICE: usize = 16 * 1024;

    /// The buffer to write to, allocated on first use: most bodies are plain.
    fn space(&mut self) -> &mut [u8] {
        self.buffer.resize(Self::SLICE, 0);
        &mut self.buffer
    }

    /// Hands over the first `len` bytes of the buffer.
    fn give(&mut self, len: usize, out: &mut dyn FnMut(&[u8])) -> Result<(), BodyError> {
        if len > 0 {
            self.total += len as u64;
            if self.total > BodyDecoder::MAX_OUTPUT {
                return Err(BodyError::TooLarge);
            }
            out(&self.buffer[..len]);
        }
        Ok(())
    }
}

impl std::fmt::Debug for Output {
    /// The buffer holds decoded text.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Output").field("total", &self.total).finish_non_exhaustive()
    }
}
