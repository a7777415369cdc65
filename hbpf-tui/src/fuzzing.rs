//! The parsers of this crate, laid open to the fuzz targets.

use std::fs::File;
use std::io::{Cursor, Seek, Write};
use std::time::Duration;

use hbpf_core::snapshot::Snapshot;
use nix::sys::memfd::{MFdFlags, memfd_create};

use crate::cli;
use crate::commands::{diff, report};
use crate::period::{self, Period};
use crate::recording::{Lines, Timeline};
use crate::remote;

/// Reads a recording to its end or to its first mistake; gives the frames before that.
pub fn recording(bytes: &[u8]) -> Vec<Snapshot> {
    let Ok(mut lines) = Lines::new(Cursor::new(bytes.to_vec())) else { return Vec::new() };
    std::iter::from_fn(|| lines.next().ok().flatten()).collect()
}

/// Opens bytes as a file that is a recording, looks at each of the frames that are there at once, some of which may be damaged, and
/// makes a report of what can be read; says how long that is.
///
/// # Errors
///
/// If there is nothing to report.
pub fn report(bytes: &[u8]) -> anyhow::Result<usize> {
    let mut file = File::from(memfd_create(c"recording", MFdFlags::MFD_CLOEXEC)?);
    file.write_all(bytes)?;
    let (mut timeline, _) = Timeline::open(file.try_clone()?)?;
    let readable = timeline.range().filter(|number| timeline.get(*number).is_ok()).count();
    anyhow::ensure!(readable > 0 || timeline.range().is_empty(), "all of it is damaged");
    file.rewind()?;
    let period = Period::of(&mut period::read(file)?, None, None)?;
    Ok(report::html(&period).len() + report::markdown(&period).len() + diff::compare(&period, &period).len())
}

/// What is made of a metrics server's answers, a line for each query.
pub fn fleet(answers: &[u8]) -> Snapshot {
    remote::of_answers(answers)
}

/// Reads a limit as `--max-overhead` and `--max-bytes-per-second` take it; says whether it is one.
pub fn limit(text: &str) -> bool {
    cli::overhead(text).is_ok() | cli::bytes_per_second(text).is_ok()
}

/// Reads a duration as `--interval` takes it.
pub fn interval(text: &str) -> Option<Duration> {
    cli::interval(text).ok()
}
