//! Anthropic Messages, as Anthropic, Vertex AI, OpenRouter, vLLM, SGLang, llama.cpp, LM Studio and Ollama serve it.

use std::sync::LazyLock;

use super::definition::{Count, Counts, DEFAULT, Definition, Estimate, Paths, Proof, Slot, Target};
use crate::exchange::{Api, Dialect, Usage};
use crate::json::{PathSet, Want};

/// What answers say, wherever they are served.
pub(super) const ANSWER: [(&str, Want, Slot); 32] = [
    ("type", Want::Scalar, Slot::Type),
    // A whole answer.
    ("id", Want::Scalar, Slot::ResponseId),
    ("model", Want::Scalar, Slot::Model),
    ("stop_reason", Want::Scalar, Slot::FinishReason),
    // `message_start`. Its count of output tokens is a start value that later events replace: a stream that is
    // cut before they come has not reported its output.
    ("message.id", Want::Scalar, Slot::ResponseId),
    ("message.model", Want::Scalar, Slot::Model),
    ("message.usage.input_tokens", Want::Scalar, Slot::Count(Count::Input)),
    ("message.usage.cache_read_input_tokens", Want::Scalar, Slot::Count(Count::CacheRead)),
    ("message.usage.cache_creation_input_tokens", Want::Scalar, Slot::Count(Count::CacheWrite)),
    ("message.usage.cache_creation.ephemeral_5m_input_tokens", Want::Scalar, Slot::Count(Count::CacheWriteShort)),
    ("message.usage.cache_creation.ephemeral_1h_input_tokens", Want::Scalar, Slot::Count(Count::CacheWriteLong)),
    ("message.usage.service_tier", Want::Scalar, Slot::Tier),
    ("message.usage.speed", Want::Scalar, Slot::Speed),
    // `content_block_delta`. Signatures and citations are no output.
    ("delta.text", Want::Length, Slot::Visible),
    ("delta.partial_json", Want::Length, Slot::Visible),
    ("delta.thinking", Want::Length, Slot::Reasoning),
    // `message_delta`, and a whole answer's usage.
    ("delta.stop_reason", Want::Scalar, Slot::FinishReason),
    ("usage.input_tokens", Want::Scalar, Slot::Count(Count::Input)),
    ("usage.output_tokens", Want::Scalar, Slot::Count(Count::Output)),
    ("usage.cache_read_input_tokens", Want::Scalar, Slot::Count(Count::CacheRead)),
    ("usage.cache_creation_input_tokens", Want::Scalar, Slot::Count(Count::CacheWrite)),
    ("usage.cache_creation.ephemeral_5m_input_tokens", Want::Scalar, Slot::Count(Count::CacheWriteShort)),
    ("usage.cache_creation.ephemeral_1h_input_tokens", Want::Scalar, Slot::Count(Count::CacheWriteLong)),
    ("usage.service_tier", Want::Scalar, Slot::Tier),
    ("usage.speed", Want::Scalar, Slot::Speed),
    ("usage.output_tokens_details.thinking_tokens", Want::Scalar, Slot::Count(Count::Reasoning)),
    // OpenRouter.
    ("usage.cost", Want::Scalar, Slot::Dollars),
    ("usage.is_byok", Want::Scalar, Slot::OwnKey),
    ("usage.cost_details.upstream_inference_cost", Want::Scalar, Slot::UpstreamDollars),
    ("error", Want::Length, Slot::Error),
    ("error.type", Want::Scalar, Slot::ErrorType),
    ("error.code", Want::Scalar, Slot::ErrorCode),
];

static RESPONSE: LazyLock<PathSet<Slot>> = LazyLock::new(|| PathSet::new(&ANSWER));

const VERTEX: Proof = Proof::ModelBehind(&["/publishers/anthropic/models/"]);

/// Messages.
pub(super) static MESSAGES: Definition = Definition {
    dialect: Dialect::AnthropicMessages,
    // `/messages` alone is any chat program's path.
    targets: &[
        Target { suffix: "/v1/messages", api: Api::Messages, proof: Proof::Model },
        // Vertex AI.
        Target { suffix: ":rawPredict", api: Api::Messages, proof: VERTEX },
        Target { suffix: ":streamRawPredict", api: Api::Messages, proof: VERTEX },
    ],
    response: Paths::Lazy(&RESPONSE),
    final_type: Some("message_stop"),
    estimate: Estimate::FromBytes,
    usage,
    ..DEFAULT
};

/// `input_tokens` leaves out what came from or went to the cache.
pub(super) fn usage(counts: &Counts) -> Usage {
    let cache_write =
        counts.get(Count::CacheWrite).or_else(|| counts.sum(&[Count::CacheWriteShort, Count::CacheWriteLong]));
    let cache_read = counts.get(Count::CacheRead);
    let input = counts
        .get(Count::Input)
        .map(|uncached| uncached.saturating_add(cache_read.unwrap_or(0)).saturating_add(cache_write.unwrap_or(0)));
    Usage {
        input,
        output: counts.get(Count::Output),
        cached_input: cache_read,
        cache_creation_input: cache_write,
        cache_creation_long: counts.get(Count::CacheWriteLong),
        reasoning: counts.get(Count::Reasoning),
        ..Usage::default()
    }
}
