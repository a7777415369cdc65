//! OpenAI chat completions, legacy completions and embeddings, as OpenAI, Azure, most vendors, vLLM, SGLang, TGI,
//! llama.cpp, LM Studio and Ollama serve them.

use std::sync::LazyLock;

use super::definition::{Choice, Count, Counts, DEFAULT, Definition, Paths, Proof, Slot, Target};
use crate::exchange::{Api, Dialect, Usage};
use crate::json::{PathSet, Want};

type Path = (&'static str, Want, Slot);

/// What all three APIs answer with, errors included.
const COMMON: [Path; 43] = [
    ("id", Want::Scalar, Slot::ResponseId),
    ("model", Want::Scalar, Slot::Model),
    ("usage.prompt_tokens", Want::Scalar, Slot::Count(Count::Input)),
    ("usage.completion_tokens", Want::Scalar, Slot::Count(Count::Output)),
    ("usage.total_tokens", Want::Scalar, Slot::Count(Count::Total)),
    ("usage.prompt_tokens_details.cached_tokens", Want::Scalar, Slot::Count(Count::CacheRead)),
    ("usage.prompt_tokens_details.cache_write_tokens", Want::Scalar, Slot::Count(Count::CacheWrite)),
    ("usage.prompt_tokens_details.created_cache_tokens", Want::Scalar, Slot::Count(Count::CacheWrite)),
    ("usage.created_cache_tokens", Want::Scalar, Slot::Count(Count::CacheWrite)),
    ("usage.completion_tokens_details.reasoning_tokens", Want::Scalar, Slot::Count(Count::Reasoning)),
    ("usage.prompt_tokens_details.audio_tokens", Want::Scalar, Slot::Count(Count::AudioInput)),
    ("usage.completion_tokens_details.audio_tokens", Want::Scalar, Slot::Count(Count::AudioOutput)),
    ("usage.reasoning_tokens", Want::Scalar, Slot::Count(Count::Reasoning)),
    ("usage.prompt_cache_hit_tokens", Want::Scalar, Slot::Count(Count::CacheHit)),
    ("usage.prompt_cache_miss_tokens", Want::Scalar, Slot::Count(Count::CacheMiss)),
    ("usage.cost_in_usd_ticks", Want::Scalar, Slot::Ticks),
    // OpenRouter.
    ("usage.cost", Want::Scalar, Slot::Dollars),
    ("usage.is_byok", Want::Scalar, Slot::OwnKey),
    ("usage.cost_details.upstream_inference_cost", Want::Scalar, Slot::UpstreamDollars),
    ("service_tier", Want::Scalar, Slot::Tier),
    // Mistral.
    ("usage.service_tier", Want::Scalar, Slot::Tier),
    ("x_groq.usage.prompt_tokens", Want::Scalar, Slot::Count(Count::Input)),
    ("x_groq.usage.completion_tokens", Want::Scalar, Slot::Count(Count::Output)),
    ("x_groq.usage.total_tokens", Want::Scalar, Slot::Count(Count::Total)),
    ("x_groq.usage.prompt_tokens_details.cached_tokens", Want::Scalar, Slot::Count(Count::CacheRead)),
    ("x_groq.usage.completion_tokens_details.reasoning_tokens", Want::Scalar, Slot::Count(Count::Reasoning)),
    ("usage.queue_time", Want::Scalar, Slot::QueueSeconds),
    ("x_groq.usage.queue_time", Want::Scalar, Slot::QueueSeconds),
    ("x_groq.error", Want::Length, Slot::Error),
    ("x_groq", Want::Length, Slot::Vendor("groq")),
    ("timings.cache_n", Want::Scalar, Slot::Count(Count::TimingsCached)),
    ("timings.prompt_n", Want::Scalar, Slot::Count(Count::TimingsPrompt)),
    ("timings.predicted_n", Want::Scalar, Slot::Count(Count::TimingsOutput)),
    ("timings", Want::Length, Slot::Vendor("llama.cpp")),
    // vLLM, where it is told to.
    ("metrics.queue_time_ms", Want::Scalar, Slot::QueueMilliseconds),
    // LM Studio.
    ("stats.tokens_per_second", Want::Scalar, Slot::Vendor("lm_studio")),
    ("system_fingerprint", Want::Scalar, Slot::Fingerprint),
    ("error", Want::Length, Slot::Error),
    ("error.type", Want::Scalar, Slot::ErrorType),
    ("error.code", Want::Scalar, Slot::ErrorCode),
    // TGI has its errors' type beside the text, Mistral and older vLLM have no error object around it.
    ("error_type", Want::Scalar, Slot::ErrorType),
    ("type", Want::Scalar, Slot::Type),
    ("code", Want::Scalar, Slot::TopCode),
];

fn with_common(own: &[Path]) -> PathSet<Slot> {
    PathSet::new(&[&COMMON, own].concat())
}

static CHAT_RESPONSE: LazyLock<PathSet<Slot>> = LazyLock::new(|| {
    with_common(&[
        ("choices[]", Want::Length, Slot::Choice),
        ("choices[].finish_reason", Want::Scalar, Slot::FinishReason),
        ("choices[].delta.role", Want::Scalar, Slot::Role),
        ("choices[].delta.content", Want::Length, Slot::Content),
        // Mistral, while a model reasons.
        ("choices[].delta.content[].text", Want::Length, Slot::Visible),
        ("choices[].delta.content[].thinking[].text", Want::Length, Slot::Reasoning),
        ("choices[].delta.refusal", Want::Length, Slot::Visible),
        ("choices[].delta.tool_calls", Want::Length, Slot::Visible),
        ("choices[].delta.function_call", Want::Length, Slot::Visible),
        ("choices[].delta.audio.data", Want::Length, Slot::Visible),
        ("choices[].delta.audio.transcript", Want::Length, Slot::Visible),
        ("choices[].delta.reasoning", Want::Length, Slot::Reasoning),
        ("choices[].delta.reasoning_content", Want::Length, Slot::Reasoning),
    ])
});

static COMPLETIONS_RESPONSE: LazyLock<PathSet<Slot>> = LazyLock::new(|| {
    with_common(&[
        ("choices[]", Want::Length, Slot::Choice),
        ("choices[].finish_reason", Want::Scalar, Slot::FinishReason),
        ("choices[].text", Want::Length, Slot::Visible),
    ])
});

static EMBEDDINGS_RESPONSE: LazyLock<PathSet<Slot>> = LazyLock::new(|| with_common(&[]));

const VERTEX: Proof = Proof::ModelBehind(&["/publishers/mistralai/models/", "/publishers/ai21/models/"]);

/// Chat completions.
pub(super) static CHAT: Definition = Definition {
    dialect: Dialect::OpenaiChat,
    targets: &[
        Target { suffix: "/chat/completions", api: Api::Chat, proof: Proof::Path },
        // Vertex AI, of vendors whose models are asked as they ask for it themselves.
        Target { suffix: ":rawPredict", api: Api::Chat, proof: VERTEX },
        Target { suffix: ":streamRawPredict", api: Api::Chat, proof: VERTEX },
        // Mistral: what stands between two texts, and agents, who know their model.
        Target { suffix: "/fim/completions", api: Api::TextCompletion, proof: Proof::Model },
        Target {
            suffix: "/agents/completions",
            api: Api::Chat,
            proof: Proof::Body(|shape| shape.agent_id && shape.messages),
        },
    ],
    response: Paths::Lazy(&CHAT_RESPONSE),
    // The first event announces the role with empty content; without a role, empty content is a token.
    blank_is_output: |choice: &Choice| !choice.has_role,
    usage,
    ..DEFAULT
};

/// Legacy completions.
pub(super) static COMPLETIONS: Definition = Definition {
    dialect: Dialect::OpenaiCompletions,
    targets: &[
        Target { suffix: "/v1/completions", api: Api::TextCompletion, proof: Proof::Path },
        // Azure has the deployment before it, DeepSeek `/beta`; editors' completion services look the same.
        Target { suffix: "/completions", api: Api::TextCompletion, proof: Proof::Model },
    ],
    response: Paths::Lazy(&COMPLETIONS_RESPONSE),
    // The last event of a choice has no text but a reason.
    blank_is_output: |choice: &Choice| !choice.has_finish_reason,
    usage,
    ..DEFAULT
};

/// Embeddings.
pub(super) static EMBEDDINGS: Definition = Definition {
    dialect: Dialect::OpenaiEmbeddings,
    targets: &[
        Target { suffix: "/v1/embeddings", api: Api::Embeddings, proof: Proof::Path },
        Target { suffix: "/embeddings", api: Api::Embeddings, proof: Proof::Model },
    ],
    response: Paths::Lazy(&EMBEDDINGS_RESPONSE),
    usage,
    ..DEFAULT
};

/// Prompt and completion counts include what was cached and what was reasoning; vendors add their own names.
pub(super) fn usage(counts: &Counts) -> Usage {
    let get = |count| counts.get(count);
    let cached = get(Count::CacheRead).or(get(Count::CacheHit)).or(get(Count::TimingsCached));
    let input = get(Count::Input)
        .or_else(|| Some(get(Count::CacheHit)?.saturating_add(get(Count::CacheMiss)?)))
        .or_else(|| Some(get(Count::TimingsPrompt)?.saturating_add(get(Count::TimingsCached).unwrap_or(0))));
    let output = get(Count::Output).map(|output| output.saturating_add(reasoning_outside(counts, output)));
    Usage {
        input,
        output: output.or(get(Count::TimingsOutput)),
        cached_input: cached,
        cache_creation_input: get(Count::CacheWrite),
        cache_creation_long: get(Count::CacheWriteLong),
        reasoning: get(Count::Reasoning),
        audio_input: get(Count::AudioInput),
        audio_output: get(Count::AudioOutput),
        ..Usage::default()
    }
}

/// xAI counts reasoning beside the completion, not in it: the total gives it away.
fn reasoning_outside(counts: &Counts, output: u64) -> u64 {
    let outside = || {
        let (input, reasoning) = (counts.get(Count::Input)?, counts.get(Count::Reasoning)?);
        let apart = input.checked_add(output)?.checked_add(reasoning)?;
        (counts.get(Count::Total)? == apart).then_some(reasoning)
    };
    outside().unwrap_or(0)
}
