//! The pure part of hbpf: bytes and a clock go in, a model of LLM traffic comes out.
//!
//! Nothing here reads a clock, a file or a socket. The host hands over [`chunk::Chunk`]s (plaintext of one connection in
//! one direction, each stamped by the kernel) and [`chunk::Segment`]s (TCP payload, put in order here);
//! [`engine::Engine`] follows every connection, recognises model calls and tells the
//! [`aggregate::Aggregator`] what happens to each [`exchange::Exchange`]; a [`snapshot::Snapshot`] is what all views,
//! recordings and exporters are made from.
//!
//! ```text
//! Segment -> reassembly -> Chunk -> connection (http1) -> body (decoding) -> framing (sse, ndjson) -> json -> dialect
//!   -> Exchange + ExchangeEvent -> aggregate -> Snapshot
//! ```

pub mod aggregate;
pub mod body;
pub mod chunk;
pub mod dialect;
pub mod engine;
pub mod exchange;
pub mod findings;
pub mod framing;
pub mod hello;
pub mod http1;
pub mod http2;
pub mod inference;
pub mod json;
pub mod label;
pub mod prices;
pub mod protobuf;
pub mod reassembly;
pub mod rules;
pub mod sealed;
pub mod snapshot;
pub mod time;
pub mod timings;
pub mod websocket;
