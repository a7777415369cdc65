//! Some snapshots in a row, compressed together.

use std::io::{self, Read, Write};
use std::ops::Range;

use hbpf_core::snapshot::Snapshot;
use zstd::DEFAULT_COMPRESSION_LEVEL;
use zstd::bulk::Decompressor;
use zstd::stream::read::Decoder;
use zstd::stream::write::Encoder;
use zstd::zstd_safe::{CParameter, Strategy};

use super::lines::{MAX_LINE_BYTES, parse};
use super::sample::Sample;

/// With so many snapshots a block is full. What one repeats of the one before takes next to nothing, so a block is long; and to
/// get at its last one all of it is decompressed, so it is not too long.
pub(super) const FULL_SNAPSHOTS: usize = 60;

/// From so many bytes of JSON on a block is full, for the same reason: this much is decompressed in some ten milliseconds.
const FULL_BYTES: u64 = 12 << 20;

/// Most bytes of JSON in a block that is read: it was full but for one byte, and another snapshot came. Earlier versions filled
/// blocks up to 16 MiB.
const MAX_BYTES: usize = (16 << 20) + MAX_LINE_BYTES as usize;

/// As far as Zstandard looks back, as a power of two: to the snapshot before, and that may be a large one.
pub(super) const WINDOW_LOG: u32 = 23;

/// How much is done for a block to be small.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Effort {
    /// 3 ns for a byte of JSON.
    Quick,
    /// 40 ns for a byte, and some two thirds of the size. A snapshot differs from the one before in numbers here and there, which cuts it into
    /// many short matches at the same distance: what pays is to choose among those, not to look for others.
    Thorough,
}

impl Effort {
    fn parameters(self) -> Vec<CParameter> {
        match self {
            Self::Quick => vec![CParameter::CompressionLevel(3)],
            Self::Thorough => vec![
                CParameter::Strategy(Strategy::ZSTD_btopt),
                CParameter::HashLog(18),
                CParameter::ChainLog(18),
                CParameter::SearchLog(2),
                CParameter::MinMatch(6),
                CParameter::TargetLength(999),
            ],
        }
    }
}

/// A block to which snapshots are added.
pub(super) struct Block {
    encoder: Encoder<'static, Vec<u8>>,
    samples: Vec<Sample>,
    /// Bytes of JSON.
    size: u64,
    /// The snapshot that is added: one write of a megabyte is compressed much faster than many of a few bytes.
    line: Vec<u8>,
}

impl Block {
    pub(super) fn new(effort: Effort) -> io::Result<Self> {
        let mut encoder = Encoder::new(Vec::new(), DEFAULT_COMPRESSION_LEVEL)?;
        effort.parameters().into_iter().try_for_each(|parameter| encoder.set_parameter(parameter))?;
        encoder.window_log(WINDOW_LOG)?;
        encoder.include_checksum(true)?;
        Ok(Self { encoder, samples: Vec::new(), size: 0, line: Vec::new() })
    }

    /// Adds a snapshot. [`Self::bytes`] has it when this returns.
    pub(super) fn push(&mut self, snapshot: &Snapshot) -> io::Result<()> {
        self.line.clear();
        serde_json::to_writer(&mut self.line, snapshot)?;
        self.line.push(b'\n');
        self.size += self.line.len() as u64;
        self.encoder.write_all(&self.line)?;
        self.encoder.flush()?;
        self.samples.push(Sample::of(snapshot));
        Ok(())
    }

    pub(super) fn is_full(&self) -> bool {
        self.samples.len() >= FULL_SNAPSHOTS || self.size >= FULL_BYTES
    }

    /// What is there of it, compressed.
    pub(super) fn bytes(&self) -> &[u8] {
        self.encoder.get_ref()
    }

    pub(super) fn samples(&self) -> &[Sample] {
        &self.samples
    }

    /// All of it, compressed, and a sample of each of its snapshots.
    pub(super) fn finish(self) -> io::Result<(Vec<u8>, Vec<Sample>)> {
        Ok((self.encoder.finish()?, self.samples))
    }
}

/// A block that was decompressed. To open another one in its place is much faster than anew: its memory is there.
pub(super) struct Opened {
    decompressor: Decompressor<'static>,
    text: Vec<u8>,
    lines: Vec<Range<usize>>,
}

impl Opened {
    /// With nothing in it.
    pub(super) fn new() -> io::Result<Self> {
        // What is not written to is never there.
        Ok(Self { decompressor: Decompressor::new()?, text: Vec::with_capacity(MAX_BYTES), lines: Vec::new() })
    }

    /// Decompresses a block, or as much of it as there is.
    pub(super) fn open(&mut self, block: &[u8]) -> io::Result<()> {
        self.lines.clear();
        self.text.clear();
        if self.decompressor.decompress_to_buffer(block, &mut self.text).is_err() {
            self.open_part(block)?;
        }
        let ends = memchr::memchr_iter(b'\n', &self.text);
        self.lines.extend(ends.scan(0, |begin, end| Some(std::mem::replace(begin, end + 1)..end)));
        Ok(())
    }

    /// One that grows still, or was cut off, or is damaged.
    fn open_part(&mut self, block: &[u8]) -> io::Result<()> {
        let mut decoder = Decoder::with_buffer(block)?;
        decoder.window_log_max(WINDOW_LOG)?;
        self.text.clear();
        match decoder.take(MAX_BYTES as u64 + 1).read_to_end(&mut self.text) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(()),
            Err(error) => Err(error),
            Ok(read) if read > MAX_BYTES => Err(io::Error::other("a block of it is too large")),
            Ok(_) => Ok(()),
        }
    }

    /// One of its snapshots.
    pub(super) fn snapshot(&self, index: usize) -> anyhow::Result<Snapshot> {
        let line = self.lines.get(index).cloned().unwrap_or_default();
        parse(&self.text[line])
    }
}
