//! Text Generation Inference's own API.
//!
//! A stream has one token in each event, and no end but its last event's text of all. Counts are in the body where the request
//! asks for details, and else in the head, unless the answer is streamed.

use std::sync::LazyLock;

use super::definition::{Count, Counts, DEFAULT, Definition, Paths, Proof, Slot, Target, counts_of_headers};
use super::shape::Shape;
use crate::exchange::{Api, Dialect};
use crate::http1::ResponseHead;
use crate::json::{PathSet, Want};

const ANSWER: [(&str, Want, Slot); 3] = [
    ("details.generated_tokens", Want::Scalar, Slot::Count(Count::Output)),
    ("details.input_length", Want::Scalar, Slot::Count(Count::Input)),
    ("details.finish_reason", Want::Scalar, Slot::FinishReason),
];

static RESPONSE: LazyLock<PathSet<Slot>> = LazyLock::new(|| {
    PathSet::new(&ANSWER)
        // The compatible API's answer is one in an array.
        .and_within("[]", &ANSWER)
        .and_within("[]", &[("", Want::Length, Slot::Answer)])
        .and_within("token", &[("text", Want::Length, Slot::Visible)])
        .and_within(
            "",
            &[
                ("generated_text", Want::Length, Slot::LastText),
                ("error", Want::Length, Slot::Error),
                ("error_type", Want::Scalar, Slot::ErrorType),
            ],
        )
});

/// `/generate` and `/generate_stream`.
pub(super) static GENERATE: Definition = Definition {
    dialect: Dialect::Tgi,
    targets: &[
        Target { suffix: "/generate", api: Api::TextCompletion, proof: Proof::Body(has_inputs) },
        Target { suffix: "/generate_stream", api: Api::TextCompletion, proof: Proof::Body(has_inputs) },
    ],
    response: Paths::Lazy(&RESPONSE),
    // A token may be half a character, and have no text.
    blank_is_output: |_| true,
    head_counts,
    ..DEFAULT
};

fn has_inputs(shape: &Shape) -> bool {
    shape.inputs_text
}

fn head_counts(head: &ResponseHead<'_>) -> Option<Counts> {
    counts_of_headers(head, &[("x-prompt-tokens", Count::Input), ("x-generated-tokens", Count::Output)])
}
