//! Recordings: the snapshots of a stream in one file, compressed, and safe against being cut off.
//!
//! A file is blocks. A block is a Zstandard frame with the snapshots of some time, one JSON object a line, and behind it a
//! skippable frame that says what is in it: `zstd -dc FILE` gives the lines. Each snapshot is flushed when it is written, so a
//! file that was cut off anywhere has all of them up to the cut; and nothing that was written is written again, so it may go
//! through a pipe.

use std::io::{self, BufRead, BufReader, Read, Write};

use hbpf_core::snapshot::Snapshot;
use zstd::stream::read::Decoder;
use zstd::stream::write::Encoder;

/// What a skippable frame begins with: one of sixteen that are for whoever wants them.
const SKIPPABLE: u32 = 0x184d_2a5b;

/// What stands behind that in ours.
const MARK: [u8; 4] = *b"hbpf";

/// The version of what this writes. Another one is another way to cut a file into blocks; snapshots have a schema of their own.
const VERSION: u16 = 1;

/// Snapshots of a block. What one repeats of the one before takes next to nothing, so a block is long; and to get at its last one
/// all of it is decompressed, so it is not too long.
const BLOCK_SNAPSHOTS: u32 = 60;

/// As far as Zstandard looks back, as a power of two: to the snapshot before, and that may be a large one.
const WINDOW_LOG: u32 = 23;

/// Zstandard's own default, at which a snapshot takes a millisecond or two.
const LEVEL: i32 = 3;

/// What a Zstandard frame begins with.
const ZSTD: [u8; 4] = 0xfd2f_b528_u32.to_le_bytes();

/// What is in a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Contents {
    /// Compressed bytes.
    bytes: u64,
    /// When the first and the last snapshot was taken, in milliseconds since 1970.
    first: i64,
    last: i64,
    snapshots: u32,
}

impl Contents {
    fn to_bytes(self) -> Vec<u8> {
        let mut body = MARK.to_vec();
        body.extend(VERSION.to_le_bytes());
        body.extend([0; 2]);
        body.extend(self.snapshots.to_le_bytes());
        body.extend(self.bytes.to_le_bytes());
        body.extend(self.first.to_le_bytes());
        body.extend(self.last.to_le_bytes());
        let length = u32::try_from(body.len()).expect("it is short");
        [&SKIPPABLE.to_le_bytes()[..], &length.to_le_bytes(), &body].concat()
    }
}

/// Writes a recording.
pub(crate) struct Writer<W: Write> {
    /// `None` between two blocks, and once it is finished.
    block: Option<Block<W>>,
    output: Option<Counted<W>>,
}

struct Block<W: Write> {
    encoder: Encoder<'static, Counted<W>>,
    began: u64,
    first: i64,
    last: i64,
    snapshots: u32,
}

/// Counts what is written.
struct Counted<W> {
    inner: W,
    bytes: u64,
}

impl<W: Write> Write for Counted<W> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(buffer)?;
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

impl<W: Write> Writer<W> {
    pub(crate) fn new(output: W) -> Self {
        Self { block: None, output: Some(Counted { inner: output, bytes: 0 }) }
    }

    /// Adds a snapshot. When this returns, it is in the file.
    pub(crate) fn push(&mut self, snapshot: &Snapshot) -> io::Result<()> {
        let when = snapshot.captured_at.as_millisecond();
        if self.block.is_none() {
            self.block = Some(self.begin(when)?);
        }
        let Some(block) = &mut self.block else { return Ok(()) };
        serde_json::to_writer(&mut block.encoder, snapshot)?;
        block.encoder.write_all(b"\n")?;
        block.encoder.flush()?;
        block.last = when;
        block.snapshots += 1;
        if block.snapshots >= BLOCK_SNAPSHOTS { self.end_block() } else { Ok(()) }
    }

    /// Ends the recording.
    pub(crate) fn finish(mut self) -> io::Result<()> {
        self.end_block()
    }

    fn begin(&mut self, first: i64) -> io::Result<Block<W>> {
        let output = self.output.take().ok_or_else(|| io::Error::other("an earlier block could not be written"))?;
        let began = output.bytes;
        let mut encoder = Encoder::new(output, LEVEL)?;
        encoder.window_log(WINDOW_LOG)?;
        encoder.include_checksum(true)?;
        Ok(Block { encoder, began, first, last: first, snapshots: 0 })
    }

    fn end_block(&mut self) -> io::Result<()> {
        let Some(Block { encoder, began, first, last, snapshots }) = self.block.take() else { return Ok(()) };
        let mut output = encoder.finish()?;
        let contents = Contents { bytes: output.bytes - began, first, last, snapshots };
        output.write_all(&contents.to_bytes())?;
        output.flush()?;
        self.output = Some(output);
        Ok(())
    }
}

/// The lines of a file that is a recording, or has snapshots as they are, a line each.
pub(crate) fn lines(file: impl Read + Send + 'static) -> io::Result<Box<dyn BufRead + Send>> {
    let mut input = BufReader::new(file);
    let is_compressed = input.fill_buf()?.starts_with(&ZSTD);
    if !is_compressed {
        return Ok(Box::new(input));
    }
    let mut decoder = Decoder::with_buffer(input)?;
    decoder.window_log_max(WINDOW_LOG)?;
    Ok(Box::new(BufReader::new(UpToTheCut { decoder, is_over: false })))
}

/// What can be decompressed. Where a file was cut off, that is its end.
struct UpToTheCut<R> {
    decoder: R,
    is_over: bool,
}

impl<R: Read> Read for UpToTheCut<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.is_over {
            return Ok(0);
        }
        match self.decoder.read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                self.is_over = true;
                Ok(0)
            }
            result => result,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use jiff::SignedDuration;

    use super::*;
    use crate::fixture;
    use crate::replay;

    fn snapshots(count: i64) -> Vec<Snapshot> {
        let snapshot = |seconds: i64| {
            let mut snapshot = fixture::rich();
            snapshot.captured_at += SignedDuration::from_secs(seconds);
            snapshot.sequence = seconds.unsigned_abs();
            snapshot
        };
        (0..count).map(snapshot).collect()
    }

    fn recorded(snapshots: &[Snapshot]) -> Vec<u8> {
        let mut file = Vec::new();
        let mut writer = Writer::new(&mut file);
        snapshots.iter().for_each(|snapshot| writer.push(snapshot).unwrap());
        writer.finish().unwrap();
        file
    }

    /// What tells the snapshots of a file from each other.
    fn read(file: &[u8]) -> Vec<(u64, jiff::Timestamp)> {
        let mut lines = lines(Cursor::new(file.to_vec())).unwrap();
        let mut number = 0;
        let next = || replay::next(&mut lines, &mut number).ok().flatten();
        of(&std::iter::from_fn(next).collect::<Vec<_>>())
    }

    fn of(snapshots: &[Snapshot]) -> Vec<(u64, jiff::Timestamp)> {
        snapshots.iter().map(|snapshot| (snapshot.sequence, snapshot.captured_at)).collect()
    }

    #[test]
    fn what_is_written_is_read() {
        let all = snapshots(i64::from(2 * BLOCK_SNAPSHOTS + 5));
        let file = recorded(&all);
        assert_eq!(read(&file), of(&all));
        let lines: Vec<u8> =
            all.iter().flat_map(|one| serde_json::to_vec(one).unwrap().into_iter().chain(*b"\n")).collect();
        assert_eq!(read(&lines), of(&all), "a line each, as they are");
        assert!(file.len() * 20 < lines.len(), "{} of {}", file.len(), lines.len());
        assert_eq!(read(&recorded(&[])), []);
    }

    #[test]
    fn a_block_says_what_is_in_it() {
        let all = snapshots(3);
        let file = recorded(&all);
        let place = memchr::memmem::find(&file, &SKIPPABLE.to_le_bytes()).unwrap();
        let contents = Contents {
            bytes: place as u64,
            first: all[0].captured_at.as_millisecond(),
            last: all[2].captured_at.as_millisecond(),
            snapshots: 3,
        };
        assert_eq!(file[place..], contents.to_bytes());
    }

    #[test]
    fn a_file_that_was_cut_off_opens_up_to_the_cut() {
        let all = snapshots(4);
        let mut file = Vec::new();
        let mut ends = Vec::new();
        let mut writer = Writer::new(Shared(std::rc::Rc::default()));
        for snapshot in &all {
            writer.push(snapshot).unwrap();
            ends.push(writer.block.as_ref().unwrap().encoder.get_ref().bytes);
        }
        file.extend(writer.block.as_ref().unwrap().encoder.get_ref().inner.0.borrow().iter());
        for cut in (0..file.len()).step_by(97).chain([file.len()]) {
            let whole = ends.iter().filter(|end| **end <= cut as u64).count();
            let seen = read(&file[..cut]);
            assert!(seen.len() >= whole && seen == of(&all)[..seen.len()], "{} of {whole} at {cut}", seen.len());
        }
    }

    #[derive(Clone)]
    struct Shared(std::rc::Rc<std::cell::RefCell<Vec<u8>>>);

    impl Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.borrow_mut().extend(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
}
