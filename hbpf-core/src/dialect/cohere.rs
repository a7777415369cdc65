//! Cohere's own API: chat (v2), embed and rerank, the last two of which vLLM and others serve, too.

use std::sync::LazyLock;

use super::definition::{Count, Counts, DEFAULT, Definition, Paths, Proof, Slot, Target};
use crate::exchange::{Api, Dialect, Usage};
use crate::json::{PathSet, Want};

static RESPONSE: LazyLock<PathSet<Slot>> = LazyLock::new(|| {
    PathSet::new(&[
        ("type", Want::Scalar, Slot::Type),
        ("id", Want::Scalar, Slot::ResponseId),
        ("finish_reason", Want::Scalar, Slot::FinishReason),
        // `content-delta`, `tool-plan-delta`, `tool-call-start` and `tool-call-delta`.
        ("delta.message.content.text", Want::Length, Slot::Visible),
        ("delta.message.content.thinking", Want::Length, Slot::Reasoning),
        ("delta.message.tool_plan", Want::Length, Slot::Visible),
        ("delta.message.tool_calls", Want::Length, Slot::Visible),
        // `message-end`.
        ("delta.finish_reason", Want::Scalar, Slot::FinishReason),
        ("delta.usage.tokens.input_tokens", Want::Scalar, Slot::Count(Count::Input)),
        ("delta.usage.tokens.output_tokens", Want::Scalar, Slot::Count(Count::Output)),
        ("delta.usage.billed_units.input_tokens", Want::Scalar, Slot::Count(Count::BilledInput)),
        ("delta.usage.billed_units.output_tokens", Want::Scalar, Slot::Count(Count::BilledOutput)),
        ("delta.usage.cached_tokens", Want::Scalar, Slot::Count(Count::CacheRead)),
        ("delta.error", Want::Length, Slot::Error),
        // A whole answer.
        ("usage.tokens.input_tokens", Want::Scalar, Slot::Count(Count::Input)),
        ("usage.tokens.output_tokens", Want::Scalar, Slot::Count(Count::Output)),
        ("usage.billed_units.input_tokens", Want::Scalar, Slot::Count(Count::BilledInput)),
        ("usage.billed_units.output_tokens", Want::Scalar, Slot::Count(Count::BilledOutput)),
        ("usage.cached_tokens", Want::Scalar, Slot::Count(Count::CacheRead)),
        // Vectors and rankings. Of rankings nothing is counted but searches.
        ("meta.tokens.input_tokens", Want::Scalar, Slot::Count(Count::Input)),
        ("meta.tokens.output_tokens", Want::Scalar, Slot::Count(Count::Output)),
        ("meta.billed_units.input_tokens", Want::Scalar, Slot::Count(Count::BilledInput)),
        ("meta.billed_units.output_tokens", Want::Scalar, Slot::Count(Count::BilledOutput)),
        ("meta.billed_units.search_units", Want::Scalar, Slot::Count(Count::Searches)),
        // Rankings by others: vLLM, Jina, llama.cpp.
        ("usage.prompt_tokens", Want::Scalar, Slot::Count(Count::Input)),
        ("usage.total_tokens", Want::Scalar, Slot::Count(Count::Total)),
        ("model", Want::Scalar, Slot::Model),
    ])
});

/// Chat, embed and rerank.
pub(super) static CHAT: Definition = Definition {
    dialect: Dialect::CohereChat,
    targets: &[
        Target { suffix: "/v2/chat", api: Api::Chat, proof: Proof::Model },
        Target { suffix: "/v2/embed", api: Api::Embeddings, proof: Proof::Model },
        Target { suffix: "/v2/rerank", api: Api::Rerank, proof: Proof::Model },
        Target { suffix: "/v1/embed", api: Api::Embeddings, proof: Proof::Model },
        Target { suffix: "/v1/rerank", api: Api::Rerank, proof: Proof::Model },
    ],
    response: Paths::Lazy(&RESPONSE),
    final_type: Some("message-end"),
    usage,
    ..DEFAULT
};

/// Not all that is read is billed: of chat, what Cohere puts around a prompt is not. Where vectors say nothing but what is
/// billed, that is what was read; in others' rankings all is.
fn usage(counts: &Counts) -> Usage {
    Usage {
        input: [Count::Input, Count::BilledInput, Count::Total].into_iter().find_map(|count| counts.get(count)),
        output: counts.get(Count::Output),
        cached_input: counts.get(Count::CacheRead),
        billed_input: counts.get(Count::BilledInput),
        billed_output: counts.get(Count::BilledOutput),
        searches: counts.get(Count::Searches),
        ..Usage::default()
    }
}
