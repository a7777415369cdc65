//! Triton's generate extension, and inference by the Open Inference Protocol (KServe's v2), which has no words but tensors.
//!
//! Neither counts tokens. An event of a stream has about one.

use std::sync::LazyLock;

use super::definition::{DEFAULT, Definition, NO_REQUEST, Paths, Proof, Slot, Target};
use crate::exchange::{Api, Dialect};
use crate::json::{PathSet, Want};

static RESPONSE: LazyLock<PathSet<Slot>> = LazyLock::new(|| {
    PathSet::new(&[
        ("model_name", Want::Scalar, Slot::Model),
        ("text_output", Want::Length, Slot::Visible),
        // A plain text.
        ("error", Want::Length, Slot::Error),
    ])
});

const MODELS: Proof = Proof::ModelBehind(&["/v2/models/"]);

/// Generate, GenerateStream and infer.
pub(super) static GENERATE: Definition = Definition {
    dialect: Dialect::Triton,
    targets: &[
        Target { suffix: "/generate", api: Api::TextCompletion, proof: MODELS },
        Target { suffix: "/generate_stream", api: Api::TextCompletion, proof: MODELS },
        Target { suffix: "/infer", api: Api::Infer, proof: MODELS },
    ],
    request: Paths::Lazy(&NO_REQUEST),
    response: Paths::Lazy(&RESPONSE),
    blank_is_output: |_| true,
    // Tensors may follow a JSON head.
    may_be_opaque: true,
    ..DEFAULT
};
