//! Snapshots, a line of JSON each.

use std::io::{self, BufRead, BufReader, Read};

use anyhow::{Context, Result, bail, ensure};
use hbpf_core::snapshot::{SCHEMA, Snapshot};
use zstd::stream::read::Decoder;

use super::block::WINDOW_LOG;

/// Longest line that is read: a snapshot of several thousand processes and requests is far below it, and a file that
/// is no recording is not read into memory whole.
pub(super) const MAX_LINE_BYTES: u64 = 32 << 20;

/// What a Zstandard frame begins with.
pub(super) const ZSTD: [u8; 4] = 0xfd2f_b528_u32.to_le_bytes();

/// What is said when all was read.
pub(crate) const END: &str = "end of the recording";

/// What is said where a file ends amid a snapshot.
const CUT: &str = "the recording was cut off here";

/// Reads snapshots from a stream, one after the other.
pub(crate) struct Lines {
    input: Box<dyn BufRead + Send>,
    number: u64,
}

impl Lines {
    /// Those of a stream, be it compressed or not.
    pub(crate) fn new(input: impl Read + Send + 'static) -> io::Result<Self> {
        let mut input = BufReader::new(input);
        let is_compressed = input.fill_buf()?.starts_with(&ZSTD);
        if !is_compressed {
            return Ok(Self { input: Box::new(input), number: 0 });
        }
        let mut decoder = Decoder::with_buffer(input)?;
        decoder.window_log_max(WINDOW_LOG)?;
        Ok(Self { input: Box::new(BufReader::new(UpToTheCut { decoder, is_over: false })), number: 0 })
    }

    /// The next one; None at the end.
    pub(crate) fn next(&mut self) -> Result<Option<Snapshot>> {
        let mut line = Vec::new();
        loop {
            line.clear();
            self.number += 1;
            let limited = &mut self.input.by_ref().take(MAX_LINE_BYTES);
            let read = limited.read_until(b'\n', &mut line).context("cannot read the recording")?;
            if read == 0 {
                return Ok(None);
            }
            ensure!((read as u64) < MAX_LINE_BYTES, "line {} is too long for a snapshot", self.number);
            if !line.trim_ascii().is_empty() {
                break;
            }
        }
        let parsed = parse(&line);
        if self.number > 1 && !line.ends_with(b"\n") && parsed.is_err() {
            bail!("{CUT}");
        }
        parsed.with_context(|| format!("line {}", self.number)).map(Some)
    }
}

/// A snapshot of a schema that this reads.
pub(super) fn parse(line: &[u8]) -> Result<Snapshot> {
    let snapshot: Snapshot = serde_json::from_slice(line)
        .context("not a snapshot, such as `hbpf record` and `hbpf snapshot --json --interval 1s` write them")?;
    ensure!(snapshot.schema == SCHEMA, "its schema is {:?}; this hbpf reads {SCHEMA}", snapshot.schema);
    Ok(snapshot)
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
