//! AWS Bedrock: Converse, which is the same for all models, and InvokeModel, whose bodies are in the model's own dialect.
//!
//! Streams are AWS's event streams. Those of Converse have an event's JSON in each message; those of InvokeModel have a
//! native event's in base64 within it. Of native dialects Anthropic's is read, and what Bedrock adds to all of them.

use std::borrow::Cow;
use std::sync::LazyLock;

use super::anthropic;
use super::definition::{
    Count, Counts, DEFAULT, Definition, Estimate, NO_REQUEST, Paths, Proof, Slot, Target, counts_of_headers,
};
use crate::exchange::{Api, Dialect};
use crate::http1::ResponseHead;
use crate::json::{PathSet, Want};
use crate::label::Label;

static CONVERSE_ANSWER: LazyLock<PathSet<Slot>> = LazyLock::new(|| {
    PathSet::new(&[
        // `contentBlockDelta`. Signatures and citations are no output.
        ("delta.text", Want::Length, Slot::Visible),
        ("delta.toolUse.input", Want::Length, Slot::Visible),
        ("delta.toolResult", Want::Length, Slot::Visible),
        ("delta.image", Want::Length, Slot::Visible),
        ("delta.reasoningContent.text", Want::Length, Slot::Reasoning),
        ("delta.reasoningContent.redactedContent", Want::Length, Slot::Reasoning),
        // `messageStop` and `metadata`, and a whole answer.
        ("stopReason", Want::Scalar, Slot::FinishReason),
        ("usage.inputTokens", Want::Scalar, Slot::Count(Count::Input)),
        ("usage.outputTokens", Want::Scalar, Slot::Count(Count::Output)),
        ("usage.cacheReadInputTokens", Want::Scalar, Slot::Count(Count::CacheRead)),
        ("usage.cacheWriteInputTokens", Want::Scalar, Slot::Count(Count::CacheWrite)),
        ("usage.cacheDetails[]", Want::Length, Slot::CacheDetail),
        ("usage.cacheDetails[].ttl", Want::Scalar, Slot::CacheTime),
        ("usage.cacheDetails[].inputTokens", Want::Scalar, Slot::CacheTokens),
        ("serviceTier.type", Want::Scalar, Slot::Tier),
        // Where a router has chosen one.
        ("trace.promptRouter.invokedModelId", Want::Scalar, Slot::Model),
    ])
});

static INVOKE_ANSWER: LazyLock<PathSet<Slot>> = LazyLock::new(|| {
    let own = [
        ("amazon-bedrock-invocationMetrics", Want::Length, Slot::Last),
        ("amazon-bedrock-invocationMetrics.inputTokenCount", Want::Scalar, Slot::Count(Count::Input)),
        ("amazon-bedrock-invocationMetrics.outputTokenCount", Want::Scalar, Slot::Count(Count::Output)),
        ("amazon-bedrock-invocationMetrics.cacheReadInputTokenCount", Want::Scalar, Slot::Count(Count::CacheRead)),
        ("amazon-bedrock-invocationMetrics.cacheWriteInputTokenCount", Want::Scalar, Slot::Count(Count::CacheWrite)),
    ];
    PathSet::new(&[&anthropic::ANSWER[..], &own].concat())
});

/// Converse and ConverseStream.
pub(super) static CONVERSE: Definition = Definition {
    dialect: Dialect::BedrockConverse,
    targets: &[
        Target { suffix: "/converse", api: Api::Chat, proof: Proof::ModelBehind(&["/model/"]) },
        Target { suffix: "/converse-stream", api: Api::Chat, proof: Proof::ModelBehind(&["/model/"]) },
    ],
    // A model in the body is not the one that is called.
    request: Paths::Lazy(&NO_REQUEST),
    response: Paths::Lazy(&CONVERSE_ANSWER),
    // Behind `messageStop`, with the usage.
    final_type: Some("metadata"),
    estimate: Estimate::FromBytes,
    // As Anthropic's, the counts leave out of the input what came from or went to the cache.
    usage: anthropic::usage,
    ..DEFAULT
};

/// InvokeModel and InvokeModelWithResponseStream.
pub(super) static INVOKE: Definition = Definition {
    dialect: Dialect::BedrockInvoke,
    // What kind of call it is depends on the model: [`api`].
    targets: &[
        Target { suffix: "/invoke", api: Api::Chat, proof: Proof::ModelBehind(&["/model/"]) },
        Target { suffix: "/invoke-with-response-stream", api: Api::Chat, proof: Proof::ModelBehind(&["/model/"]) },
    ],
    // A model in the body is not the one that is called.
    request: Paths::Lazy(&NO_REQUEST),
    response: Paths::Lazy(&INVOKE_ANSWER),
    final_type: anthropic::MESSAGES.final_type,
    estimate: Estimate::FromBytes,
    // As Anthropic's, the counts leave out of the input what came from or went to the cache.
    usage: anthropic::usage,
    head_counts,
    ..DEFAULT
};

/// What kind of call InvokeModel is, by the model's id. A profile's name need not tell.
pub(super) fn api(model: Option<&Label>) -> Api {
    let says = |word: &str| model.is_some_and(|model| model.as_str().contains(word));
    if says("embed") {
        Api::Embeddings
    } else if says("anthropic") {
        Api::Messages
    } else {
        Api::Chat
    }
}

/// A model's id as a path has it: `us.anthropic.claude-x-v1%3A0`.
pub(super) fn model(encoded: &[u8]) -> Label {
    /// An encoded character has up to four bytes of three characters each.
    const MAX_ENCODED: usize = Label::MAX_CHARS * 12;
    let digit = |at: Option<&u8>| at.and_then(|byte| char::from(*byte).to_digit(16));
    let mut rest = &encoded[..encoded.len().min(MAX_ENCODED)];
    let mut decoded = Vec::new();
    while let Some((byte, after)) = rest.split_first() {
        rest = after;
        decoded.push(match (byte, digit(after.first()), digit(after.get(1))) {
            (b'%', Some(high), Some(low)) => {
                rest = &after[2..];
                (high << 4 | low) as u8
            }
            _ => *byte,
        });
    }
    Label::from_bytes(&decoded)
}

/// The counts in the head of an answer by InvokeModel.
fn head_counts(head: &ResponseHead<'_>) -> Option<Counts> {
    const NAMES: [(&str, Count); 4] = [
        ("x-amzn-bedrock-input-token-count", Count::Input),
        ("x-amzn-bedrock-output-token-count", Count::Output),
        ("x-amzn-bedrock-cache-read-input-token-count", Count::CacheRead),
        ("x-amzn-bedrock-cache-write-input-token-count", Count::CacheWrite),
    ];
    counts_of_headers(head, &NAMES)
}

/// An error's name. A head has `ThrottlingException:http://...` or `namespace#ThrottlingException`, a stream
/// `throttlingException` for the same.
pub(super) fn error_type(name: &[u8]) -> Cow<'_, [u8]> {
    let name = name.split(|byte| *byte == b':').next().unwrap_or_default();
    let name = name.rsplit(|byte| *byte == b'#').next().unwrap_or_default().trim_ascii();
    match name.first() {
        Some(first) if first.is_ascii_lowercase() => {
            let mut capital = name.to_vec();
            capital[0].make_ascii_uppercase();
            Cow::Owned(capital)
        }
        _ => Cow::Borrowed(name),
    }
}
