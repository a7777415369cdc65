//! Some snapshots in a row, compressed together.

use std::io::{self, Read, Write};
use std::ops::Range;

use hbpf_core::snapshot::Snapshot;
use zstd::stream::read::Decoder;
use zstd::stream::write::Encoder;

use super::lines::{MAX_LINE_BYTES, parse};
use super::sample::Sample;

/// Most snapshots of a block. What one repeats of the one before takes next to nothing, so a block is long; and to get at its
/// last one all of it is decompressed, so it is not too long.
pub(super) const MAX_SNAPSHOTS: usize = 60;

/// From so many bytes of JSON on a block is full, for the same reason: this much is decompressed in some ten milliseconds.
const FULL_BYTES: u64 = 16 << 20;

/// Most bytes of JSON in a block: full but for one byte, and another snapshot.
const MAX_BYTES: u64 = FULL_BYTES + MAX_LINE_BYTES;

/// As far as Zstandard looks back, as a power of two: to the snapshot before, and that may be a large one.
pub(super) const WINDOW_LOG: u32 = 23;

/// Zstandard's own default, at which a snapshot takes a millisecond or two.
const LEVEL: i32 = 3;

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
    pub(super) fn new() -> io::Result<Self> {
        let mut encoder = Encoder::new(Vec::new(), LEVEL)?;
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
        self.samples.len() >= MAX_SNAPSHOTS || self.size >= FULL_BYTES
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

/// A block that was decompressed.
pub(super) struct Opened {
    text: Vec<u8>,
    lines: Vec<Range<usize>>,
}

impl Opened {
    /// Decompresses a block, or as much of it as there is.
    pub(super) fn new(block: &[u8]) -> io::Result<Self> {
        let mut decoder = Decoder::with_buffer(block)?;
        decoder.window_log_max(WINDOW_LOG)?;
        let mut text = Vec::new();
        let room = MAX_BYTES + 1;
        match decoder.take(room).read_to_end(&mut text) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {}
            Err(error) => return Err(error),
            Ok(read) if read as u64 == room => return Err(io::Error::other("a block of it is too large")),
            Ok(_) => {}
        }
        let ends = memchr::memchr_iter(b'\n', &text);
        let lines = ends.scan(0, |begin, end| Some(std::mem::replace(begin, end + 1)..end)).collect();
        Ok(Self { text, lines })
    }

    /// One of its snapshots.
    pub(super) fn snapshot(&self, index: usize) -> anyhow::Result<Snapshot> {
        let line = self.lines.get(index).cloned().unwrap_or_default();
        parse(&self.text[line])
    }
}
