//! What the fuzz targets do with their input: one module for each parser.
//!
//! The targets proper (`fuzz_targets/`) are one line each around these functions, so that what libFuzzer finds can be
//! replayed by an ordinary test with stable Rust: seeds and everything in `regressions/`.
//!
//! Each function panics where a promise of the parser is broken, not only where the parser panics by itself: that
//! pieces of any size mean the same, that a gap makes no number larger, that memory is bounded.

pub mod body;
pub mod chunked;
pub mod dialect;
pub mod durations;
pub mod elf;
pub mod engine;
pub mod eventstream;
pub mod fleet;
mod framing;
pub mod grpc;
pub mod head;
pub mod http1;
pub mod http2;
pub mod inference;
mod input;
pub mod json;
pub mod judge;
pub mod label;
pub mod ndjson;
mod observe;
pub mod proc;
pub mod protocol;
pub mod reassembly;
pub mod recording;
pub mod records;
pub mod sse;
pub mod websocket;

pub use input::with_controls;

/// A target's function.
pub type Target = fn(&[u8]);

/// Every target, by name.
pub const TARGETS: [(&str, Target); 24] = [
    ("body", body::run),
    ("chunked", chunked::run),
    ("dialect", dialect::run),
    ("durations", durations::run),
    ("elf", elf::run),
    ("engine", engine::run),
    ("eventstream", eventstream::run),
    ("fleet", fleet::run),
    ("grpc", grpc::run),
    ("head", head::run),
    ("http1", http1::run),
    ("http2", http2::run),
    ("inference", inference::run),
    ("json", json::run),
    ("judge", judge::run),
    ("label", label::run),
    ("ndjson", ndjson::run),
    ("proc", proc::run),
    ("protocol", protocol::run),
    ("reassembly", reassembly::run),
    ("recording", recording::run),
    ("records", records::run),
    ("sse", sse::run),
    ("websocket", websocket::run),
];
