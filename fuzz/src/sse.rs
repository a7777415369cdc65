//! Server-sent events.

use hbpf_core::framing::Sse;

use crate::framing;

/// As [`framing::run`] says.
pub fn run(data: &[u8]) {
    framing::run::<Sse>(data);
}
