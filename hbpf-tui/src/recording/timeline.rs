//! Frames by their number: of a recording, or the latest of what is watched.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::ops::Range;
use std::os::unix::fs::{FileExt, FileTypeExt};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use hbpf_core::snapshot::Snapshot;
use jiff::Timestamp;

use super::block::{Block, Effort, Opened};
use super::file;
use super::lines::Lines;
use super::sample::Sample;

/// How much is kept in memory. What is older goes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Keep {
    /// At least so much time, if there is room.
    pub(crate) time: Duration,
    /// Compressed bytes, at most, but for the newest block.
    pub(crate) bytes: usize,
    pub(crate) effort: Effort,
}

impl Keep {
    /// Of what is watched.
    pub(crate) const WATCHED: Self = Self { time: Duration::from_secs(600), bytes: 64 << 20, effort: Effort::Quick };

    /// Of a stream, or of a file that cannot be read in parts.
    pub(crate) const STREAM: Self = Self { time: Duration::MAX, bytes: 512 << 20, effort: Effort::Quick };
}

/// The frames of a recording, or the latest ones of what is watched. Each has a number, counted from the first there ever was.
pub(crate) struct Timeline {
    keep: Keep,
    /// What the parts that are in the file are read from.
    file: Option<File>,
    parts: VecDeque<Part>,
    /// Compressed bytes of those in memory.
    bytes: usize,
    /// What comes is added to this.
    block: Block,
    samples: VecDeque<Arc<Sample>>,
    /// Number of the first frame that is still there.
    first: u64,
    newest: Option<Arc<Snapshot>>,
    /// The block looked at last, and the number of its first frame.
    opened: Opened,
    opened_first: Option<u64>,
}

/// A block.
struct Part {
    frames: usize,
    data: Data,
}

enum Data {
    Memory(Vec<u8>),
    File { offset: u64, bytes: u64 },
}

impl Timeline {
    pub(crate) fn new(keep: Keep) -> io::Result<Self> {
        Ok(Self {
            keep,
            file: None,
            parts: VecDeque::new(),
            bytes: 0,
            block: Block::new(keep.effort)?,
            samples: VecDeque::new(),
            first: 0,
            newest: None,
            opened: Opened::new()?,
            opened_first: None,
        })
    }

    /// Opens a recording: what of it is there at once, and what is to be read and pushed behind that.
    pub(crate) fn open(mut file: File) -> Result<(Self, Lines)> {
        let mut timeline = Self::new(Keep::STREAM)?;
        let kind = file.metadata()?.file_type();
        ensure!(!kind.is_dir() && !kind.is_block_device(), "it is no file");
        if kind.is_file() {
            let (places, end) = file::blocks(&file)?.unwrap_or_default();
            for place in places {
                let data = Data::File { offset: place.offset, bytes: place.bytes };
                timeline.parts.push_back(Part { frames: place.samples.len(), data });
                timeline.samples.extend(place.samples.into_iter().map(Arc::new));
            }
            timeline.file = Some(file.try_clone()?);
            file.seek(SeekFrom::Start(end))?;
        }
        Ok((timeline, Lines::new(file)?))
    }

    /// Adds a frame. Fails only where there is no memory.
    pub(crate) fn push(&mut self, snapshot: Arc<Snapshot>) -> io::Result<()> {
        self.block.push(&snapshot)?;
        self.samples.extend(self.block.samples().last().cloned().map(Arc::new));
        self.newest = Some(snapshot);
        // It has grown.
        let grown = self.first + self.in_parts() as u64;
        self.opened_first.take_if(|first| *first == grown);
        if self.block.is_full() {
            let (bytes, samples) = std::mem::replace(&mut self.block, Block::new(self.keep.effort)?).finish()?;
            self.bytes += bytes.len();
            self.parts.push_back(Part { frames: samples.len(), data: Data::Memory(bytes) });
        }
        self.forget();
        Ok(())
    }

    fn forget(&mut self) {
        while let Some(Part { frames, data: Data::Memory(bytes) }) = self.parts.front() {
            let age = match (self.samples.get(*frames), self.samples.back()) {
                (Some(next), Some(last)) => last.at.duration_since(next.at),
                _ => break,
            };
            let is_old = Duration::try_from(age).is_ok_and(|age| age >= self.keep.time);
            if !is_old && self.bytes <= self.keep.bytes {
                break;
            }
            self.bytes -= bytes.len();
            self.samples.drain(..frames);
            self.first += *frames as u64;
            self.parts.pop_front();
        }
    }

    /// Frames in parts that are whole.
    fn in_parts(&self) -> usize {
        self.samples.len() - self.block.samples().len()
    }

    /// Whether the frames that are there are of less time than was to be kept.
    pub(crate) fn is_short(&self) -> bool {
        let ends = self.samples.front().zip(self.samples.back());
        let time = ends.map(|(first, last)| last.at.duration_since(first.at)).unwrap_or_default();
        Duration::try_from(time).unwrap_or_default() < self.keep.time
    }

    /// The numbers of the frames that are there.
    pub(crate) fn range(&self) -> Range<u64> {
        self.first..self.first + self.samples.len() as u64
    }

    /// The frame that came last, if one has come since this was opened.
    pub(crate) fn newest(&self) -> Option<Arc<Snapshot>> {
        self.newest.clone()
    }

    pub(crate) fn sample(&self, number: u64) -> Option<&Arc<Sample>> {
        self.samples.get(usize::try_from(number.checked_sub(self.first)?).ok()?)
    }

    /// The samples of up to `count` frames, the last of which is `last`.
    pub(crate) fn samples_to(&self, last: u64, count: usize) -> Vec<Arc<Sample>> {
        let end = usize::try_from((last + 1).saturating_sub(self.first)).unwrap_or(usize::MAX).min(self.samples.len());
        self.samples.range(end.saturating_sub(count)..end).cloned().collect()
    }

    /// The last frame that is no younger than this, or the first.
    pub(crate) fn at(&self, time: Timestamp) -> u64 {
        let after = self.samples.partition_point(|sample| sample.at <= time);
        self.first + after.saturating_sub(1) as u64
    }

    /// A frame; None, if it is no longer there, or not yet.
    ///
    /// # Errors
    ///
    /// If the file cannot be read, or is damaged there.
    pub(crate) fn get(&mut self, number: u64) -> Result<Option<Arc<Snapshot>>> {
        if !self.range().contains(&number) {
            return Ok(None);
        }
        if let Some(newest) = self.newest.as_ref().filter(|_| number + 1 == self.range().end) {
            return Ok(Some(Arc::clone(newest)));
        }
        let mut first = self.first;
        let part = self.parts.iter().find(|part| {
            let is_before = first + part.frames as u64 <= number;
            first += if is_before { part.frames as u64 } else { 0 };
            !is_before
        });
        if self.opened_first != Some(first) {
            // Until it is whole.
            self.opened_first = None;
            let read;
            let bytes = match part.map(|part| &part.data) {
                None => self.block.bytes(),
                Some(Data::Memory(bytes)) => bytes,
                Some(Data::File { offset, bytes }) => {
                    read = self.read(*offset, *bytes)?;
                    &read
                }
            };
            self.opened.open(bytes)?;
            self.opened_first = Some(first);
        }
        let snapshot = self.opened.snapshot((number - first) as usize);
        snapshot.with_context(|| format!("frame {number} is damaged")).map(|snapshot| Some(Arc::new(snapshot)))
    }

    fn read(&self, offset: u64, length: u64) -> Result<Vec<u8>> {
        let file = self.file.as_ref().context("there is no file")?;
        let mut bytes = vec![0; usize::try_from(length)?];
        file.read_exact_at(&mut bytes, offset).context("cannot read the recording")?;
        Ok(bytes)
    }

    /// Writes the frames as a recording.
    pub(crate) fn write(&mut self, output: &mut impl Write) -> io::Result<()> {
        let mut next = 0;
        let samples = self.samples.make_contiguous();
        for part in &self.parts {
            let samples = &samples[next..next + part.frames];
            next += part.frames;
            if let Data::Memory(bytes) = &part.data {
                file::write_block(output, 0, bytes, samples)?;
            }
        }
        if next < samples.len() {
            let (bytes, of_block) = std::mem::replace(&mut self.block, Block::new(self.keep.effort)?).finish()?;
            file::write_block(output, 0, &bytes, &of_block)?;
            self.bytes += bytes.len();
            self.parts.push_back(Part { frames: of_block.len(), data: Data::Memory(bytes) });
        }
        Ok(())
    }
}
