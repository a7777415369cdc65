//! Recordings: the snapshots of a stream in one file, compressed, safe against being cut off, and open to any place of it.
//!
//! A file is blocks. A block is a Zstandard frame with the snapshots of some time, one JSON object a line, and behind it a
//! skippable frame, the trailer, that says how long the block is and has a few numbers of each of its snapshots, from which
//! charts are drawn: `zstd -dc FILE` gives the lines. Each snapshot is flushed when it is written, so a file that was cut off
//! anywhere has all of them up to the cut; and nothing that was written is written again, so it may go through a pipe. Who opens
//! one reads trailers, from the last one back; what lies behind the last is read through.

mod block;
mod file;
mod lines;
mod sample;
mod timeline;

pub(crate) use block::Effort;
pub(crate) use file::Writer;
pub(crate) use lines::{END, Lines};
pub(crate) use sample::{EngineKey, Sample, engine_key, row_begins};
pub(crate) use timeline::{Keep, Timeline};

#[cfg(test)]
mod tests;
