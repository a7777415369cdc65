//! Gemini's `generateContent`, as the Gemini API and Vertex AI serve it, and Interactions.
//!
//! The path names the model and whether the answer is streamed. An answer and an event of a stream look the same. A stream is
//! server-sent events where the query asks for that (`alt=sse`), else one array, sent element by element.

use std::sync::LazyLock;

use super::definition::{
    Count, Counts, DEFAULT, Definition, Estimate, EventKind, NO_REQUEST, Paths, Proof, Slot, Target,
};
use super::shape::Shape;
use crate::exchange::{Api, Dialect, Usage};
use crate::json::{PathSet, Want};

static RESPONSE: LazyLock<PathSet<Slot>> = LazyLock::new(|| {
    PathSet::new(&[
        ("modelVersion", Want::Scalar, Slot::Model),
        ("responseId", Want::Scalar, Slot::ResponseId),
        ("candidates[]", Want::Length, Slot::Choice),
        ("candidates[].finishReason", Want::Scalar, Slot::LastReason),
        // A prompt that is refused has no candidates.
        ("promptFeedback.blockReason", Want::Scalar, Slot::LastReason),
        // A part is reasoning where it says so, before or behind its text. Signatures are no output.
        ("candidates[].content.parts[]", Want::Length, Slot::Part),
        ("candidates[].content.parts[].thought", Want::Scalar, Slot::IsReasoning),
        ("candidates[].content.parts[].text", Want::Length, Slot::Delta),
        ("candidates[].content.parts[].functionCall", Want::Length, Slot::Visible),
        ("candidates[].content.parts[].inlineData", Want::Length, Slot::Visible),
        ("candidates[].content.parts[].executableCode", Want::Length, Slot::Visible),
        ("candidates[].content.parts[].codeExecutionResult", Want::Length, Slot::Visible),
        ("usageMetadata.promptTokenCount", Want::Scalar, Slot::Count(Count::Input)),
        ("usageMetadata.toolUsePromptTokenCount", Want::Scalar, Slot::Count(Count::ToolInput)),
        ("usageMetadata.cachedContentTokenCount", Want::Scalar, Slot::Count(Count::CacheRead)),
        ("usageMetadata.candidatesTokenCount", Want::Scalar, Slot::Count(Count::Output)),
        ("usageMetadata.thoughtsTokenCount", Want::Scalar, Slot::Count(Count::Reasoning)),
        ("usageMetadata.totalTokenCount", Want::Scalar, Slot::Count(Count::Total)),
        ("usageMetadata.serviceTier", Want::Scalar, Slot::Tier),
        // Vertex AI.
        ("usageMetadata.trafficType", Want::Scalar, Slot::Tier),
        ("error", Want::Length, Slot::Error),
        ("error.status", Want::Scalar, Slot::ErrorType),
        ("error.code", Want::Scalar, Slot::ErrorCode),
        // Where a stream was asked for, an error is the only element of an array.
        ("[].error", Want::Length, Slot::Error),
        ("[].error.status", Want::Scalar, Slot::ErrorType),
        ("[].error.code", Want::Scalar, Slot::ErrorCode),
    ])
});

/// What stands before a model's name. Of one that is tuned or deployed on Vertex AI there is a number only.
const MODELS: &[&str] = &["/models/", "/tunedModels/", "/endpoints/"];

/// GenerateContent and StreamGenerateContent; vectors, which the Gemini API does not count.
pub(super) static GENERATE: Definition = Definition {
    dialect: Dialect::GeminiGenerate,
    targets: &[
        Target { suffix: ":generateContent", api: Api::GenerateContent, proof: Proof::ModelBehind(MODELS) },
        Target { suffix: ":streamGenerateContent", api: Api::GenerateContent, proof: Proof::ModelBehind(MODELS) },
        Target { suffix: ":embedContent", api: Api::Embeddings, proof: Proof::ModelBehind(MODELS) },
        Target { suffix: ":batchEmbedContents", api: Api::Embeddings, proof: Proof::ModelBehind(MODELS) },
    ],
    request: Paths::Lazy(&NO_REQUEST),
    response: Paths::Lazy(&RESPONSE),
    estimate: Estimate::FromBytes,
    usage,
    ..DEFAULT
};

const INTERACTION: [(&str, Want, Slot); 9] = [
    ("id", Want::Scalar, Slot::ResponseId),
    ("model", Want::Scalar, Slot::Model),
    ("status", Want::Scalar, Slot::Status),
    ("usage.total_input_tokens", Want::Scalar, Slot::Count(Count::Input)),
    ("usage.total_tool_use_tokens", Want::Scalar, Slot::Count(Count::ToolInput)),
    ("usage.total_cached_tokens", Want::Scalar, Slot::Count(Count::CacheRead)),
    ("usage.total_output_tokens", Want::Scalar, Slot::Count(Count::Output)),
    ("usage.total_thought_tokens", Want::Scalar, Slot::Count(Count::Reasoning)),
    ("usage.total_tokens", Want::Scalar, Slot::Count(Count::Total)),
];

static INTERACTIONS_RESPONSE: LazyLock<PathSet<Slot>> = LazyLock::new(|| {
    let events = [
        ("event_type", Want::Scalar, Slot::EventType),
        // `step.delta`. Signatures, annotations and results of tools are no output.
        ("delta.text", Want::Length, Slot::Visible),
        ("delta.arguments", Want::Length, Slot::Visible),
        ("delta.data", Want::Length, Slot::Visible),
        ("delta.content", Want::Length, Slot::Reasoning),
        ("error", Want::Length, Slot::Error),
        ("error.status", Want::Scalar, Slot::ErrorType),
        ("error.code", Want::Scalar, Slot::ErrorCode),
    ];
    PathSet::new(&INTERACTION).and_within("", &events).and_within("interaction", &INTERACTION)
});

/// Interactions: of the Gemini API only.
pub(super) static INTERACTIONS: Definition = Definition {
    dialect: Dialect::GeminiInteractions,
    targets: &[Target { suffix: "/interactions", api: Api::GenerateContent, proof: Proof::Body(is_interaction) }],
    response: Paths::Lazy(&INTERACTIONS_RESPONSE),
    estimate: Estimate::FromBytes,
    usage,
    event_kind,
    ..DEFAULT
};

fn is_interaction(shape: &Shape) -> bool {
    (shape.model || shape.agent) && shape.input
}

fn event_kind(name: &[u8]) -> EventKind {
    match name {
        b"interaction.created" => EventKind::Created,
        b"interaction.completed" => EventKind::Ended,
        b"error" => EventKind::Error,
        _ => EventKind::Other,
    }
}

/// The candidates' tokens leave out thoughts, but with some models they have them inside: the total tells.
fn usage(counts: &Counts) -> Usage {
    let input = counts.sum(&[Count::Input, Count::ToolInput]);
    let (candidates, thoughts) = (counts.get(Count::Output), counts.get(Count::Reasoning));
    let has_thoughts_inside =
        counts.get(Count::Total).is_some_and(|total| counts.sum(&WITHOUT_THOUGHTS) == Some(total));
    let output = match (candidates, thoughts) {
        (Some(candidates), Some(thoughts)) if !has_thoughts_inside => Some(candidates.saturating_add(thoughts)),
        // Without candidates there were thoughts only.
        (candidates, thoughts) => candidates.or(thoughts),
    };
    let cached_input = counts.get(Count::CacheRead);
    Usage { input, output, cached_input, reasoning: thoughts, ..Usage::default() }
}

const WITHOUT_THOUGHTS: [Count; 3] = [Count::Input, Count::ToolInput, Count::Output];
