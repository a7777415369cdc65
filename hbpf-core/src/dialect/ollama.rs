//! Ollama's own API.

use std::sync::LazyLock;

use super::definition::{Count, Counts, DEFAULT, Definition, Paths, Proof, Slot, Target};
use crate::exchange::{Api, Dialect, Usage};
use crate::json::{PathSet, Want};

static RESPONSE: LazyLock<PathSet<Slot>> = LazyLock::new(|| {
    PathSet::new(&[
        ("model", Want::Scalar, Slot::Model),
        ("message.content", Want::Length, Slot::Visible),
        ("message.tool_calls", Want::Length, Slot::Visible),
        ("message.thinking", Want::Length, Slot::Reasoning),
        ("response", Want::Length, Slot::Visible),
        ("thinking", Want::Length, Slot::Reasoning),
        ("done", Want::Scalar, Slot::Done),
        ("done_reason", Want::Scalar, Slot::FinishReason),
        ("prompt_eval_count", Want::Scalar, Slot::Count(Count::Input)),
        ("eval_count", Want::Scalar, Slot::Count(Count::Output)),
        // A plain text.
        ("error", Want::Length, Slot::Error),
    ])
});

/// Chat, generate and embed.
pub(super) static NATIVE: Definition = Definition {
    dialect: Dialect::Ollama,
    // Web applications have such paths of their own, but their bodies name no model.
    targets: &[
        Target { suffix: "/api/chat", api: Api::Chat, proof: Proof::Model },
        Target { suffix: "/api/generate", api: Api::TextCompletion, proof: Proof::Model },
        Target { suffix: "/api/embed", api: Api::Embeddings, proof: Proof::Model },
        Target { suffix: "/api/embeddings", api: Api::Embeddings, proof: Proof::Model },
    ],
    response: Paths::Lazy(&RESPONSE),
    stream_default: true,
    streams_lines: true,
    // The last line has empty content.
    usage,
    ..DEFAULT
};

/// Fields that would be zero are left out, and what a cache saved is not told: absent is unknown.
fn usage(counts: &Counts) -> Usage {
    Usage { input: counts.get(Count::Input), output: counts.get(Count::Output), ..Usage::default() }
}
