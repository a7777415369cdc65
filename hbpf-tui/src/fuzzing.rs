//! The parsers of this crate, laid open to the fuzz targets.

use std::fs::File;
use std::io::Cursor;
use std::time::Duration;

use hbpf_core::snapshot::Snapshot;

use crate::cli;
use crate::recording::{Lines, Timeline};

/// Reads a recording to its end or to its first mistake; gives the frames before that.
pub fn recording(bytes: &[u8]) -> Vec<Snapshot> {
    let Ok(mut lines) = Lines::new(Cursor::new(bytes.to_vec())) else { return Vec::new() };
    std::iter::from_fn(|| lines.next().ok().flatten()).collect()
}

/// Opens a file as a recording and looks at each of the frames that are there at once, some of which may be damaged; gives how
/// many can be read.
///
/// # Errors
///
/// If it cannot be opened.
pub fn timeline(file: File) -> anyhow::Result<usize> {
    let (mut timeline, _) = Timeline::open(file)?;
    Ok(timeline.range().filter(|number| timeline.get(*number).is_ok()).count())
}

/// Reads a limit as `--max-overhead` and `--max-bytes-per-second` take it; says whether it is one.
pub fn limit(text: &str) -> bool {
    cli::overhead(text).is_ok() | cli::bytes_per_second(text).is_ok()
}

/// Reads a duration as `--interval` takes it.
pub fn interval(text: &str) -> Option<Duration> {
    cli::interval(text).ok()
}
