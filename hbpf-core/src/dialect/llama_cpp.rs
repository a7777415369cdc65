//! llama.cpp's own API.
//!
//! Each event of a stream counts along; the last one repeats the prompt.

use std::sync::LazyLock;

use super::definition::{Count, Counts, DEFAULT, Definition, Paths, Proof, RequestSlot, Slot, Target, one_or_several};
use super::shape::Shape;
use crate::exchange::{Api, Dialect, Usage};
use crate::json::{PathSet, Want};

static REQUEST: LazyLock<PathSet<RequestSlot>> = LazyLock::new(|| {
    PathSet::new(&[
        ("model", Want::Scalar, RequestSlot::Model),
        ("stream", Want::Scalar, RequestSlot::Stream),
        ("prompt[]", Want::Length, RequestSlot::Prompt),
        ("n_cmpl", Want::Scalar, RequestSlot::Answers),
    ])
});

const ANSWER: [(&str, Want, Slot); 9] = [
    ("content", Want::Length, Slot::Visible),
    ("model", Want::Scalar, Slot::Model),
    ("stop", Want::Scalar, Slot::Done),
    ("stop_type", Want::Scalar, Slot::FinishReason),
    ("tokens_evaluated", Want::Scalar, Slot::Count(Count::Input)),
    ("tokens_predicted", Want::Scalar, Slot::Count(Count::Output)),
    ("timings.cache_n", Want::Scalar, Slot::Count(Count::TimingsCached)),
    ("timings.prompt_n", Want::Scalar, Slot::Count(Count::TimingsPrompt)),
    ("timings.predicted_n", Want::Scalar, Slot::Count(Count::TimingsOutput)),
];

static RESPONSE: LazyLock<PathSet<Slot>> = LazyLock::new(|| one_or_several(&ANSWER));

/// `/completion`, `/infill` and `/embedding`. Of vectors nothing is counted.
pub(super) static COMPLETION: Definition = Definition {
    dialect: Dialect::LlamaCpp,
    targets: &[
        Target { suffix: "/completion", api: Api::TextCompletion, proof: Proof::Body(is_completion) },
        // With a model it is OpenAI's.
        Target { suffix: "/completions", api: Api::TextCompletion, proof: Proof::Body(is_completion) },
        Target { suffix: "/infill", api: Api::TextCompletion, proof: Proof::Body(|shape| shape.input_prefix) },
        Target { suffix: "/embedding", api: Api::Embeddings, proof: Proof::Body(is_embedding) },
    ],
    request: Paths::Lazy(&REQUEST),
    response: Paths::Lazy(&RESPONSE),
    usage,
    ..DEFAULT
};

/// Web applications have such paths of their own, but not at the root.
fn is_completion(shape: &Shape) -> bool {
    shape.prompt && (shape.is_whole_path || shape.n_predict)
}

fn is_embedding(shape: &Shape) -> bool {
    shape.own_content && shape.is_whole_path
}

/// `tokens_cached` is not what came from the cache, but all that is in it now.
fn usage(counts: &Counts) -> Usage {
    let get = |count| counts.get(count);
    let read = || Some(get(Count::TimingsPrompt)?.saturating_add(get(Count::TimingsCached).unwrap_or(0)));
    Usage {
        input: get(Count::Input).or_else(read),
        output: get(Count::Output).or(get(Count::TimingsOutput)),
        cached_input: get(Count::TimingsCached),
        ..Usage::default()
    }
}
