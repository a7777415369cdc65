//! OpenAI Responses, as OpenAI, Azure, xAI, OpenRouter, vLLM, SGLang, llama.cpp, LM Studio and Ollama serve them; and Realtime,
//! whose answers are much the same.
//!
//! Streams are events that name themselves. Over WebSocket the same events are messages, see [`Session`](super::Session).

use std::sync::LazyLock;

use super::definition::{Count, DEFAULT, Definition, EventKind, Paths, Proof, Slot, Target};
use crate::exchange::{Api, Dialect};
use crate::json::{PathSet, Want};

/// The status of an answer that has failed.
pub(super) const FAILED: &str = "failed";

/// An error event's `code` is not among them: events of another kind have a program there that the model has written.
static RESPONSE: LazyLock<PathSet<Slot>> = LazyLock::new(|| {
    PathSet::new(&[
        ("type", Want::Scalar, Slot::EventType),
        // Output, of the events that have some.
        ("delta", Want::Length, Slot::Delta),
        // Which of several answers an event is about.
        ("response_id", Want::Scalar, Slot::Response),
        ("stream_id", Want::Scalar, Slot::Stream),
        // A whole answer.
        ("id", Want::Scalar, Slot::ResponseId),
        ("model", Want::Scalar, Slot::Model),
        ("status", Want::Scalar, Slot::Status),
        ("incomplete_details.reason", Want::Scalar, Slot::FinishReason),
        ("usage.input_tokens", Want::Scalar, Slot::Count(Count::Input)),
        ("usage.output_tokens", Want::Scalar, Slot::Count(Count::Output)),
        ("usage.input_tokens_details.cached_tokens", Want::Scalar, Slot::Count(Count::CacheRead)),
        ("usage.input_tokens_details.cache_write_tokens", Want::Scalar, Slot::Count(Count::CacheWrite)),
        (
            "usage.input_tokens_details.cache_write_tokens_details.ttl_12h_tokens",
            Want::Scalar,
            Slot::Count(Count::CacheWriteLong),
        ),
        ("usage.output_tokens_details.reasoning_tokens", Want::Scalar, Slot::Count(Count::Reasoning)),
        ("service_tier", Want::Scalar, Slot::Tier),
        ("usage.cost_in_usd_ticks", Want::Scalar, Slot::Ticks),
        ("usage.cost", Want::Scalar, Slot::Dollars),
        ("usage.is_byok", Want::Scalar, Slot::OwnKey),
        ("usage.cost_details.upstream_inference_cost", Want::Scalar, Slot::UpstreamDollars),
        // The events that begin and end an answer.
        ("response.usage.cost_in_usd_ticks", Want::Scalar, Slot::Ticks),
        ("response.usage.cost", Want::Scalar, Slot::Dollars),
        ("response.usage.is_byok", Want::Scalar, Slot::OwnKey),
        ("response.usage.cost_details.upstream_inference_cost", Want::Scalar, Slot::UpstreamDollars),
        ("response.service_tier", Want::Scalar, Slot::Tier),
        ("response.id", Want::Scalar, Slot::Response),
        ("response.model", Want::Scalar, Slot::Model),
        ("response.status", Want::Scalar, Slot::Status),
        ("response.incomplete_details.reason", Want::Scalar, Slot::FinishReason),
        ("response.usage.input_tokens", Want::Scalar, Slot::Count(Count::Input)),
        ("response.usage.output_tokens", Want::Scalar, Slot::Count(Count::Output)),
        ("response.usage.input_tokens_details.cached_tokens", Want::Scalar, Slot::Count(Count::CacheRead)),
        ("response.usage.input_tokens_details.cache_write_tokens", Want::Scalar, Slot::Count(Count::CacheWrite)),
        (
            "response.usage.input_tokens_details.cache_write_tokens_details.ttl_12h_tokens",
            Want::Scalar,
            Slot::Count(Count::CacheWriteLong),
        ),
        ("response.usage.output_tokens_details.reasoning_tokens", Want::Scalar, Slot::Count(Count::Reasoning)),
        ("response.error", Want::Length, Slot::Error),
        ("response.error.type", Want::Scalar, Slot::ErrorType),
        ("response.error.code", Want::Scalar, Slot::ErrorCode),
        // Realtime.
        ("response.usage.input_token_details.cached_tokens", Want::Scalar, Slot::Count(Count::CacheRead)),
        ("response.usage.input_token_details.audio_tokens", Want::Scalar, Slot::Count(Count::AudioInput)),
        ("response.usage.input_token_details.image_tokens", Want::Scalar, Slot::Count(Count::ImageInput)),
        ("response.usage.output_token_details.audio_tokens", Want::Scalar, Slot::Count(Count::AudioOutput)),
        ("response.status_details.reason", Want::Scalar, Slot::FinishReason),
        ("response.status_details.error.type", Want::Scalar, Slot::ErrorType),
        ("response.status_details.error.code", Want::Scalar, Slot::ErrorCode),
        ("session.model", Want::Scalar, Slot::Model),
        ("error.event_id", Want::Scalar, Slot::Cause),
        // Errors.
        ("error", Want::Length, Slot::Error),
        ("error.type", Want::Scalar, Slot::ErrorType),
        ("error.code", Want::Scalar, Slot::ErrorCode),
    ])
});

/// Responses.
pub(super) static RESPONSES: Definition = Definition {
    dialect: Dialect::OpenaiResponses,
    targets: &[
        Target { suffix: "/v1/responses", api: Api::Responses, proof: Proof::Model },
        // Azure has other things before it, and ChatGPT; forms and surveys have responses, too.
        Target { suffix: "/responses", api: Api::Responses, proof: Proof::Model },
        Target { suffix: "/responses/compact", api: Api::Responses, proof: Proof::Model },
        Target { suffix: "/v1/decisions", api: Api::Responses, proof: Proof::Model },
    ],
    response: Paths::Lazy(&RESPONSE),
    event_kind,
    ..DEFAULT
};

/// Realtime. By `POST` nothing but a description of a medium comes there.
pub(super) static REALTIME: Definition = Definition {
    dialect: Dialect::OpenaiRealtime,
    targets: &[
        Target { suffix: "/v1/realtime", api: Api::Realtime, proof: Proof::Model },
        Target { suffix: "/openai/realtime", api: Api::Realtime, proof: Proof::Model },
    ],
    ..RESPONSES
};

/// What an event of that name is.
fn event_kind(name: &[u8]) -> EventKind {
    match name {
        b"response.created" => EventKind::Created,
        b"response.completed" | b"response.incomplete" | b"response.cancelled" | b"response.done" => EventKind::Ended,
        b"response.failed" => EventKind::Failed,
        b"error" => EventKind::Error,
        _ if name.starts_with(b"response.reasoning") && name.ends_with(b".delta") => EventKind::Reasoning,
        // What a program has written that the model had run.
        b"response.shell_call_output_content.delta" => EventKind::Other,
        // Of transcripts of what a user says, the name begins otherwise.
        _ if name.starts_with(b"response.") && name.ends_with(b".delta") => EventKind::Output,
        _ => EventKind::Other,
    }
}

/// A status that an answer keeps.
pub(super) fn final_status(status: &[u8]) -> Option<&'static str> {
    // The last two are those of Gemini's Interactions.
    const FINAL: [&str; 6] = ["completed", FAILED, "incomplete", "cancelled", "requires_action", "budget_exceeded"];
    FINAL.into_iter().find(|known| known.as_bytes() == status)
}
