//! The Model Context Protocol over streamable HTTP: JSON-RPC, a request in each `POST`, whose answer is one document or a stream
//! of events with the answer among them. What tools are given and give back is not read.
//!
//! Revisions 2025-03-26 to 2026-07-28; of 2024-11-05 the answers come on another connection.

use std::sync::LazyLock;

use super::definition::{DEFAULT, Definition, Paths, Proof, RequestSlot, Slot, Target};
use super::shape::Shape;
use crate::exchange::{Api, Dialect};
use crate::json::{PathSet, Want};

static REQUEST: LazyLock<PathSet<RequestSlot>> = LazyLock::new(|| {
    PathSet::new(&[
        ("method", Want::Scalar, RequestSlot::Method),
        // Of tools and prompts. A resource is named by an address, which may say more than its name.
        ("params.name", Want::Scalar, RequestSlot::Name),
    ])
});

static ANSWER: LazyLock<PathSet<Slot>> = LazyLock::new(|| {
    PathSet::new(&[
        // The server's own name, of those that introduce themselves.
        ("result.serverInfo.name", Want::Scalar, Slot::Model),
        ("result.isError", Want::Scalar, Slot::ToolFailed),
        ("error", Want::Length, Slot::Error),
        ("error.code", Want::Scalar, Slot::ErrorCode),
    ])
    // Likewise, since the revision of 2026-07-28.
    .and_at(&["result", "_meta", "io.modelcontextprotocol/serverInfo", "name"], Want::Scalar, Slot::Model)
});

/// Calls of tools, and what else clients ask.
pub(super) static RPC: Definition = Definition {
    dialect: Dialect::Mcp,
    targets: &[Target { suffix: "/mcp", api: Api::Tool, proof: Proof::Body(is_call) }],
    request: Paths::Lazy(&REQUEST),
    response: Paths::Lazy(&ANSWER),
    ..DEFAULT
};

/// Whether a body asks for something, rather than tells or answers.
pub(super) fn is_call(shape: &Shape) -> bool {
    shape.jsonrpc && shape.mcp_method
}

/// Whether a method is MCP's own, and asks. What others call `initialize` and `ping` is told apart by the path.
pub(super) fn is_method(method: &[u8]) -> bool {
    const FAMILIES: [&[u8]; 5] = [b"tools/", b"resources/", b"prompts/", b"completion/", b"logging/"];
    const METHODS: [&[u8]; 4] = [b"initialize", b"ping", b"server/discover", b"subscriptions/listen"];
    FAMILIES.iter().any(|family| method.starts_with(family)) || METHODS.contains(&method)
}
