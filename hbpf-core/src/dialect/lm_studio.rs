//! LM Studio's own API.

use std::sync::LazyLock;

use super::definition::{Count, DEFAULT, Definition, EventKind, Paths, Proof, Slot, Target};
use super::shape::Shape;
use crate::exchange::{Api, Dialect};
use crate::json::{PathSet, Want};

const ANSWER: [(&str, Want, Slot); 5] = [
    ("model_instance_id", Want::Scalar, Slot::Model),
    ("response_id", Want::Scalar, Slot::ResponseId),
    ("stats.input_tokens", Want::Scalar, Slot::Count(Count::Input)),
    ("stats.total_output_tokens", Want::Scalar, Slot::Count(Count::Output)),
    ("stats.reasoning_output_tokens", Want::Scalar, Slot::Count(Count::Reasoning)),
];

static RESPONSE: LazyLock<PathSet<Slot>> = LazyLock::new(|| {
    PathSet::new(&ANSWER)
        .and_within(
            "",
            &[
                ("type", Want::Scalar, Slot::EventType),
                // Output, of the events that have some.
                ("content", Want::Length, Slot::Delta),
                ("error", Want::Length, Slot::Error),
                ("error.type", Want::Scalar, Slot::ErrorType),
                ("error.code", Want::Scalar, Slot::ErrorCode),
            ],
        )
        // The last event has the whole answer.
        .and_within("result", &ANSWER)
});

/// `/api/v1/chat`. `/api/v0` is OpenAI's.
pub(super) static CHAT: Definition = Definition {
    dialect: Dialect::LmStudio,
    targets: &[Target { suffix: "/api/v1/chat", api: Api::Chat, proof: Proof::Body(is_chat) }],
    response: Paths::Lazy(&RESPONSE),
    event_kind,
    ..DEFAULT
};

/// Others have chats at such a path, but no input.
fn is_chat(shape: &Shape) -> bool {
    shape.model && shape.input
}

fn event_kind(name: &[u8]) -> EventKind {
    match name {
        b"chat.start" => EventKind::Created,
        b"message.delta" => EventKind::Output,
        b"reasoning.delta" => EventKind::Reasoning,
        b"chat.end" => EventKind::Ended,
        b"error" => EventKind::Error,
        _ => EventKind::Other,
    }
}
