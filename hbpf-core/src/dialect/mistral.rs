//! Mistral's conversations. Their chat and completions are OpenAI's.

use std::sync::LazyLock;

use super::definition::{Count, DEFAULT, Definition, EventKind, Paths, Proof, Slot, Target};
use super::shape::Shape;
use crate::exchange::{Api, Dialect, Usage};
use crate::json::{PathSet, Want};

static RESPONSE: LazyLock<PathSet<Slot>> = LazyLock::new(|| {
    PathSet::new(&[
        ("type", Want::Scalar, Slot::EventType),
        ("model", Want::Scalar, Slot::Model),
        ("conversation_id", Want::Scalar, Slot::ResponseId),
        // `message.output.delta` and `function.call.delta`.
        ("content", Want::Length, Slot::Visible),
        ("arguments", Want::Length, Slot::Visible),
        // `conversation.response.done`, and a whole answer.
        ("usage.prompt_tokens", Want::Scalar, Slot::Count(Count::Input)),
        ("usage.completion_tokens", Want::Scalar, Slot::Count(Count::Output)),
        // What tools have read on the model's behalf.
        ("usage.connector_tokens", Want::Scalar, Slot::Count(Count::ToolInput)),
        ("code", Want::Scalar, Slot::TopCode),
    ])
});

/// `/v1/conversations`, with which one begins. What is appended to one is not recognised: its path ends in an id.
pub(super) static CONVERSATIONS: Definition = Definition {
    dialect: Dialect::MistralConversations,
    targets: &[Target { suffix: "/v1/conversations", api: Api::Chat, proof: Proof::Body(is_conversation) }],
    response: Paths::Lazy(&RESPONSE),
    usage: |counts| Usage {
        input: counts.sum(&[Count::Input, Count::ToolInput]),
        output: counts.get(Count::Output),
        ..Usage::default()
    },
    event_kind,
    ..DEFAULT
};

fn is_conversation(shape: &Shape) -> bool {
    shape.inputs && (shape.model || shape.agent_id)
}

fn event_kind(name: &[u8]) -> EventKind {
    match name {
        b"conversation.response.started" => EventKind::Created,
        b"conversation.response.done" => EventKind::Ended,
        b"conversation.response.error" => EventKind::Error,
        _ => EventKind::Other,
    }
}
