//! OpenAI's images and audio, as OpenAI, Azure, Groq, Mistral, vLLM and others serve them.
//!
//! What is spoken and drawn is not read. Usage is there where the server reports it: speech has none, and transcripts may be
//! billed by their length.

use std::sync::LazyLock;

use super::definition::{Count, DEFAULT, Definition, EventKind, Paths, Proof, Slot, Target};
use crate::exchange::{Api, Dialect};
use crate::json::{PathSet, Want};

static RESPONSE: LazyLock<PathSet<Slot>> = LazyLock::new(|| {
    PathSet::new(&[
        ("type", Want::Scalar, Slot::EventType),
        // Output, of the events that have some.
        ("delta", Want::Length, Slot::Delta),
        ("model", Want::Scalar, Slot::Model),
        ("usage.input_tokens", Want::Scalar, Slot::Count(Count::Input)),
        ("usage.output_tokens", Want::Scalar, Slot::Count(Count::Output)),
        ("usage.input_token_details.audio_tokens", Want::Scalar, Slot::Count(Count::AudioInput)),
        ("usage.input_tokens_details.image_tokens", Want::Scalar, Slot::Count(Count::ImageInput)),
        ("usage.output_tokens_details.image_tokens", Want::Scalar, Slot::Count(Count::ImageOutput)),
        // Mistral.
        ("usage.prompt_tokens", Want::Scalar, Slot::Count(Count::Input)),
        ("usage.completion_tokens", Want::Scalar, Slot::Count(Count::Output)),
        // Images, and how long a transcript's sound was: by OpenAI where that is what is paid, or in a transcript with times, and by
        // Mistral.
        ("data[]", Want::Length, Slot::Image),
        ("usage.seconds", Want::Scalar, Slot::AudioSeconds),
        ("usage.prompt_audio_seconds", Want::Scalar, Slot::AudioSeconds),
        ("duration", Want::Scalar, Slot::AudioSeconds),
        ("x_groq", Want::Length, Slot::Vendor("groq")),
        ("error", Want::Length, Slot::Error),
        ("error.type", Want::Scalar, Slot::ErrorType),
        ("error.code", Want::Scalar, Slot::ErrorCode),
    ])
});

/// Images.
pub(super) static IMAGES: Definition = Definition {
    dialect: Dialect::OpenaiImages,
    targets: &[
        Target { suffix: "/images/generations", api: Api::Image, proof: Proof::Model },
        Target { suffix: "/images/edits", api: Api::Image, proof: Proof::Model },
        Target { suffix: "/images/variations", api: Api::Image, proof: Proof::Model },
    ],
    response: Paths::Lazy(&RESPONSE),
    event_kind,
    may_be_opaque: true,
    ..DEFAULT
};

/// Speech, transcripts and translations.
pub(super) static AUDIO: Definition = Definition {
    dialect: Dialect::OpenaiAudio,
    targets: &[
        Target { suffix: "/audio/speech", api: Api::Audio, proof: Proof::Model },
        Target { suffix: "/audio/transcriptions", api: Api::Audio, proof: Proof::Model },
        Target { suffix: "/audio/translations", api: Api::Audio, proof: Proof::Model },
    ],
    ..IMAGES
};

/// Pictures and sound are no tokens.
fn event_kind(name: &[u8]) -> EventKind {
    match name {
        b"transcript.text.delta" => EventKind::Output,
        b"error" => EventKind::Error,
        b"transcript.text.done" | b"speech.audio.done" => EventKind::Ended,
        _ if name.starts_with(b"image_") && name.ends_with(b".completed") => EventKind::Ended,
        _ => EventKind::Other,
    }
}
