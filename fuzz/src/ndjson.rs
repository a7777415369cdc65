//! One document a line.

use hbpf_core::framing::Ndjson;

use crate::framing;

/// As [`framing::run`] says.
pub fn run(data: &[u8]) {
    framing::run::<Ndjson>(data);
}
