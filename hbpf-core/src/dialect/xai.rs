//! xAI's own API, which its Python SDK speaks: `xai_api.Chat` over gRPC. Field numbers are those of the SDK's protocol, version
//! 6.

use std::sync::LazyLock;

use super::definition::{Count, DEFAULT, Definition, NO_REQUEST, Paths, Proof, RequestSlot, Slot, Target};
use super::grpc::Service;
use super::openai;
use crate::exchange::{Api, Dialect};
use crate::protobuf::{FieldSet, Want};

/// `FinishReason`.
const FINISH_REASONS: &[&str] =
    &["", "REASON_MAX_LEN", "REASON_MAX_CONTEXT", "REASON_STOP", "REASON_TOOL_CALLS", "REASON_TIME_LIMIT"];

/// Counts that are zero are not written.
const COUNTS: &[Count] = &[Count::Input, Count::Output, Count::Total, Count::Reasoning, Count::CacheRead];

/// `GetCompletionsRequest`.
static REQUEST: LazyLock<FieldSet<RequestSlot>> =
    LazyLock::new(|| FieldSet::new(&[(&[2], Want::Scalar, RequestSlot::Model)]));

/// `GetChatCompletionResponse`.
static WHOLE: LazyLock<FieldSet<Slot>> = LazyLock::new(|| {
    FieldSet::new(&[
        (&[1], Want::Scalar, Slot::ResponseId),
        (&[2, 1], Want::Name(FINISH_REASONS), Slot::FinishReason),
        (&[6], Want::Scalar, Slot::Model),
        // `SamplingUsage`.
        (&[9], Want::Length, Slot::Counts(COUNTS)),
        (&[9, 1], Want::Scalar, Slot::Count(Count::Output)),
        (&[9, 2], Want::Scalar, Slot::Count(Count::Input)),
        (&[9, 3], Want::Scalar, Slot::Count(Count::Total)),
        (&[9, 6], Want::Scalar, Slot::Count(Count::Reasoning)),
        (&[9, 7], Want::Scalar, Slot::Count(Count::CacheRead)),
        (&[9, 11], Want::Scalar, Slot::Ticks),
    ])
});

/// `GetChatCompletionChunk`.
static CHUNK: LazyLock<FieldSet<Slot>> = LazyLock::new(|| {
    FieldSet::new(&[
        (&[1], Want::Scalar, Slot::ResponseId),
        (&[2], Want::Length, Slot::Choice),
        // `Delta`: content, tool calls, and content that is reasoning.
        (&[2, 1, 1], Want::Length, Slot::Visible),
        (&[2, 1, 3], Want::Length, Slot::Visible),
        (&[2, 1, 4], Want::Length, Slot::Reasoning),
        (&[2, 3], Want::Name(FINISH_REASONS), Slot::FinishReason),
        (&[4], Want::Scalar, Slot::Model),
        (&[6], Want::Length, Slot::Counts(COUNTS)),
        (&[6, 1], Want::Scalar, Slot::Count(Count::Output)),
        (&[6, 2], Want::Scalar, Slot::Count(Count::Input)),
        (&[6, 3], Want::Scalar, Slot::Count(Count::Total)),
        (&[6, 6], Want::Scalar, Slot::Count(Count::Reasoning)),
        (&[6, 7], Want::Scalar, Slot::Count(Count::CacheRead)),
        (&[6, 11], Want::Scalar, Slot::Ticks),
    ])
});

/// `Chat`'s calls for completions.
pub(super) static SERVICE: Service = Service { request: &REQUEST, whole: &WHOLE, chunk: &CHUNK };

/// Completions.
pub(super) static COMPLETIONS: Definition = Definition {
    dialect: Dialect::XaiGrpc,
    targets: &[
        Target { suffix: "/xai_api.Chat/GetCompletion", api: Api::Chat, proof: Proof::Grpc },
        Target { suffix: "/xai_api.Chat/GetCompletionChunk", api: Api::Chat, proof: Proof::Grpc },
    ],
    // Bodies are never JSON but those of proxies that refuse them.
    request: Paths::Lazy(&NO_REQUEST),
    // As with xAI's other API, reasoning is counted beside the completion.
    usage: openai::usage,
    ..DEFAULT
};
