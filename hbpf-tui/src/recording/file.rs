//! Writes recordings, and finds the blocks of one.

use std::borrow::Borrow;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;

use hbpf_core::snapshot::Snapshot;
use zstd::stream::read::Decoder;

use super::block::{Block, Effort, FULL_SNAPSHOTS};
use super::lines::ZSTD;
use super::sample::Sample;

/// What a skippable frame begins with: one of sixteen that are for whoever wants them.
const SKIPPABLE: [u8; 4] = 0x184d_2a5b_u32.to_le_bytes();

/// What stands behind that and the frame's length in ours, and at its end.
const MARK: [u8; 4] = *b"hbpf";

/// The version of what this writes. Another one is another way to cut a file into blocks; snapshots have a schema of their own.
const VERSION: u16 = 1;

/// Bytes in front of a trailer's samples: the frame's head, mark, version, two of no meaning yet, and the block's length.
const HEAD: usize = 4 + 4 + 4 + 2 + 2 + 8;

/// Bytes behind them: the whole frame's length again, so that it is found from its end, and the mark.
const FOOT: usize = 4 + 4;

/// Longest trailer that is read, and most bytes that its samples take when decompressed.
const MAX_TRAILER: usize = 4 << 20;
const MAX_SAMPLES: u64 = 32 << 20;

/// Compression of samples, of which there are a few kilobytes.
const LEVEL: i32 = 3;

/// How much of a file is looked at at once in search of its last whole block.
const STEP: usize = 1 << 20;

/// What stands behind a block: how long it is, and the samples of its snapshots.
fn trailer(block: usize, samples: &[Sample]) -> io::Result<Vec<u8>> {
    let samples = zstd::encode_all(&serde_json::to_vec(samples)?[..], LEVEL)?;
    let whole = u32::try_from(HEAD + samples.len() + FOOT).map_err(io::Error::other)?;
    let mut frame = Vec::with_capacity(whole as usize);
    frame.extend(SKIPPABLE);
    frame.extend((whole - 8).to_le_bytes());
    frame.extend(MARK);
    frame.extend(VERSION.to_le_bytes());
    frame.extend([0; 2]);
    frame.extend((block as u64).to_le_bytes());
    frame.extend(samples);
    frame.extend(whole.to_le_bytes());
    frame.extend(MARK);
    Ok(frame)
}

/// Writes a recording.
pub(crate) struct Writer<W: Write> {
    output: W,
    block: Block,
    /// Bytes of the block that were written.
    written: usize,
}

impl<W: Write> Writer<W> {
    pub(crate) fn new(output: W) -> io::Result<Self> {
        Ok(Self { output, block: Block::new(Effort::Thorough)?, written: 0 })
    }

    pub(crate) fn get_ref(&self) -> &W {
        &self.output
    }

    /// Adds a snapshot. When this returns, it is in the file.
    pub(crate) fn push(&mut self, snapshot: &Snapshot) -> io::Result<()> {
        self.block.push(snapshot)?;
        if self.block.is_full() {
            return self.end_block();
        }
        self.output.write_all(&self.block.bytes()[self.written..])?;
        self.written = self.block.bytes().len();
        self.output.flush()
    }

    /// Ends the recording.
    pub(crate) fn finish(mut self) -> io::Result<W> {
        if !self.block.samples().is_empty() {
            self.end_block()?;
        }
        Ok(self.output)
    }

    fn end_block(&mut self) -> io::Result<()> {
        let (bytes, samples) = std::mem::replace(&mut self.block, Block::new(Effort::Thorough)?).finish()?;
        let written = std::mem::take(&mut self.written);
        write_block(&mut self.output, written, &bytes, &samples)
    }
}

/// Writes a block, but for the first `written` bytes, and its trailer.
pub(super) fn write_block(
    output: &mut impl Write,
    written: usize,
    bytes: &[u8],
    samples: &[impl Borrow<Sample>],
) -> io::Result<()> {
    let samples: Vec<Sample> = samples.iter().map(|sample| sample.borrow().clone()).collect();
    output.write_all(&bytes[written..])?;
    output.write_all(&trailer(bytes.len(), &samples)?)?;
    output.flush()
}

/// A block of a file.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) offset: u64,
    pub(super) bytes: u64,
    pub(super) samples: Vec<Sample>,
}

/// The whole blocks that a file begins with, and where they end. None, if it is no recording or not one that can be read in
/// parts.
pub(super) fn blocks(file: &File) -> io::Result<Option<(Vec<Place>, u64)>> {
    let mut begin = [0; ZSTD.len()];
    let length = file.metadata()?.len();
    if file.read_exact_at(&mut begin, 0).is_err() || begin != ZSTD {
        return Ok(None);
    }
    let mut end = length;
    while let Some(candidate) = last_foot(file, end)? {
        match chain(file, candidate)? {
            Ok(places) => return Ok(Some((places, candidate))),
            // What ends between reaches no further.
            Err(broken) => end = broken.min(candidate - 1),
        }
    }
    Ok(None)
}

/// Where the last mark ends that lies before `end` whole.
fn last_foot(file: &File, end: u64) -> io::Result<Option<u64>> {
    let mut upper = end;
    while upper >= MARK.len() as u64 {
        let lower = upper.saturating_sub(STEP as u64);
        let mut bytes = vec![0; (upper - lower) as usize];
        file.read_exact_at(&mut bytes, lower)?;
        if let Some(at) = memchr::memmem::rfind(&bytes, &MARK) {
            return Ok(Some(lower + (at + MARK.len()) as u64));
        }
        if lower == 0 {
            break;
        }
        // A mark may lie across.
        upper = lower + MARK.len() as u64 - 1;
    }
    Ok(None)
}

/// The blocks up to the trailer that ends here, if they reach back to where the file begins, or how far they do.
fn chain(file: &File, mut end: u64) -> io::Result<Result<Vec<Place>, u64>> {
    let mut places = Vec::new();
    while end > 0 {
        let Some(place) = block_before(file, end)? else { return Ok(Err(end)) };
        end = place.offset;
        places.push(place);
    }
    places.reverse();
    Ok(Ok(places))
}

/// The block whose trailer ends here.
fn block_before(file: &File, end: u64) -> io::Result<Option<Place>> {
    let mut foot = [0; FOOT];
    let Some(at) = end.checked_sub(FOOT as u64) else { return Ok(None) };
    file.read_exact_at(&mut foot, at)?;
    let [length, mark] = [&foot[..4], &foot[4..]];
    let length = length.try_into().map_or(0, u32::from_le_bytes) as usize;
    let begin = end.checked_sub(length as u64);
    let (Some(begin), HEAD..=MAX_TRAILER, true) = (begin, length.saturating_sub(FOOT), mark == MARK) else {
        return Ok(None);
    };
    let mut frame = vec![0; length];
    file.read_exact_at(&mut frame, begin)?;
    let head = [&SKIPPABLE[..], &(length as u32 - 8).to_le_bytes(), &MARK, &VERSION.to_le_bytes(), &[0; 2]].concat();
    let Some(bytes) = frame.strip_prefix(&head[..]).and_then(|rest| rest.first_chunk()) else { return Ok(None) };
    let bytes = u64::from_le_bytes(*bytes);
    let Some(offset) = begin.checked_sub(bytes).filter(|_| bytes > 0) else { return Ok(None) };
    let Some(samples) = samples(&frame[HEAD..length - FOOT]) else { return Ok(None) };
    Ok(Some(Place { offset, bytes, samples }))
}

fn samples(compressed: &[u8]) -> Option<Vec<Sample>> {
    let mut json = Vec::new();
    Decoder::with_buffer(compressed).ok()?.take(MAX_SAMPLES).read_to_end(&mut json).ok()?;
    let samples: Vec<Sample> = serde_json::from_slice(&json).ok()?;
    (1..=FULL_SNAPSHOTS).contains(&samples.len()).then_some(samples)
}
