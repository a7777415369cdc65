//! The Model Context Protocol: JSON-RPC. Over streamable HTTP each `POST` is a request, whose answer is one document or a stream
//! of events with the answer among them; for [standard input and output](super::stdio) see there. What tools are given and give
//! back is not read.
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

static ANSWER: LazyLock<PathSet<Slot>> = LazyLock::new(answer);

/// What matters in answers, over HTTP or not.
pub(super) fn answer() -> PathSet<Slot> {
    PathSet::new(&[
        // The server's own name, of those that introduce themselves.
        ("result.serverInfo.name", Want::Scalar, Slot::Model),
        ("result.isError", Want::Scalar, Slot::ToolFailed),
        ("error", Want::Length, Slot::Error),
        ("error.code", Want::Scalar, Slot::ErrorCode),
    ])
    // Likewise, since the revision of 2026-07-28.
    .and_at(&["result", "_meta", "io.modelcontextprotocol/serverInfo", "name"], Want::Scalar, Slot::Model)
}

/// Calls of tools, and what else clients ask.
pub(super) static RPC: Definition = Definition {
    dialect: Dialect::Mcp,
    targets: &[Target { suffix: "/mcp", api: Api::Tool, proof: Proof::Body(is_call_at_mcp) }],
    request: Paths::Lazy(&REQUEST),
    response: Paths::Lazy(&ANSWER),
    ..DEFAULT
};

/// Whether a body asks for something, rather than tells or answers, on any path.
pub(super) fn is_call(shape: &Shape) -> bool {
    shape.jsonrpc && (shape.mcp_method || (shape.common_method && shape.protocol_version))
}

/// The same on MCP's own.
fn is_call_at_mcp(shape: &Shape) -> bool {
    shape.jsonrpc && (shape.mcp_method || shape.common_method)
}

/// Methods that are MCP's alone, and ask for something.
const METHODS: [&[u8]; 17] = [
    b"tools/list",
    b"tools/call",
    b"resources/list",
    b"resources/read",
    b"resources/templates/list",
    b"resources/subscribe",
    b"resources/unsubscribe",
    b"prompts/list",
    b"prompts/get",
    b"completion/complete",
    b"logging/setLevel",
    b"server/discover",
    b"subscriptions/listen",
    b"tasks/get",
    b"tasks/result",
    b"tasks/list",
    b"tasks/cancel",
];

pub(super) fn is_method(method: &[u8]) -> bool {
    METHODS.contains(&method)
}

pub(super) fn is_common_method(method: &[u8]) -> bool {
    matches!(method, b"initialize" | b"ping")
}

/// Whether a call of this method is about a tool or a prompt of that name. Names of other things are not kept.
pub(super) fn has_name(method: &str) -> bool {
    matches!(method, "tools/call" | "prompts/get")
}
