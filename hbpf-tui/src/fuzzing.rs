//! The parsers of this crate, laid open to the fuzz targets.

use std::time::Duration;

use hbpf_core::snapshot::Snapshot;

use crate::{cli, replay};

/// Reads a recording to its end or to its first mistake; gives the frames before that.
pub fn recording(mut bytes: &[u8]) -> Vec<Snapshot> {
    let mut line_number = 0;
    std::iter::from_fn(|| replay::next(&mut bytes, &mut line_number).ok().flatten()).collect()
}

/// Reads a limit as `--max-overhead` and `--max-bytes-per-second` take it; says whether it is one.
pub fn limit(text: &str) -> bool {
    cli::overhead(text).is_ok() | cli::bytes_per_second(text).is_ok()
}

/// Reads a duration as `--interval` takes it.
pub fn interval(text: &str) -> Option<Duration> {
    cli::interval(text).ok()
}
