//! SGLang's own API.
//!
//! An event of a stream has all the text so far, and what was counted so far. Nothing says which model it is.

use std::sync::LazyLock;

use super::definition::{Count, DEFAULT, Definition, Paths, Proof, RequestSlot, Slot, Target, one_or_several};
use super::shape::Shape;
use crate::exchange::{Api, Dialect};
use crate::json::{PathSet, Want};

static REQUEST: LazyLock<PathSet<RequestSlot>> = LazyLock::new(|| {
    PathSet::new(&[
        ("model", Want::Scalar, RequestSlot::Model),
        ("stream", Want::Scalar, RequestSlot::Stream),
        ("text[]", Want::Length, RequestSlot::Prompt),
        ("input_ids[]", Want::Length, RequestSlot::Prompt),
        ("sampling_params.n", Want::Scalar, RequestSlot::Answers),
    ])
});

const ANSWER: [(&str, Want, Slot); 8] = [
    ("text", Want::Length, Slot::Visible),
    // Where the server has no tokenizer.
    ("output_ids", Want::Length, Slot::Visible),
    ("meta_info.id", Want::Scalar, Slot::ResponseId),
    ("meta_info.prompt_tokens", Want::Scalar, Slot::Count(Count::Input)),
    ("meta_info.completion_tokens", Want::Scalar, Slot::Count(Count::Output)),
    ("meta_info.cached_tokens", Want::Scalar, Slot::Count(Count::CacheRead)),
    ("meta_info.reasoning_tokens", Want::Scalar, Slot::Count(Count::Reasoning)),
    ("meta_info.finish_reason.type", Want::Scalar, Slot::FinishReason),
];

static RESPONSE: LazyLock<PathSet<Slot>> = LazyLock::new(|| one_or_several(&ANSWER));

/// `/generate`.
pub(super) static GENERATE: Definition = Definition {
    dialect: Dialect::Sglang,
    targets: &[Target { suffix: "/generate", api: Api::TextCompletion, proof: Proof::Body(has_prompt) }],
    request: Paths::Lazy(&REQUEST),
    response: Paths::Lazy(&RESPONSE),
    ..DEFAULT
};

/// Text alone may be for anything, say, to be spoken. What says more may stand behind a long one.
fn has_prompt(shape: &Shape) -> bool {
    shape.input_ids || (shape.text && (shape.sampling_params || (shape.is_cut && shape.is_whole_path)))
}
