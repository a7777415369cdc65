//! Local inference servers: what they say of themselves.
//!
//! vLLM, SGLang, TGI, llama.cpp, Ollama, Triton and LiteLLM tell at an endpoint of their own how many requests run and wait,
//! how full their cache is and how many tokens they have counted. Here is everything about it that is no I/O: which of
//! their paths may be asked ([`Place`]), the request and what comes of its answer ([`Fetch`]), and what follows from
//! several answers ([`Watch`]).
//!
//! What answers may be anybody: lines, labels, models, replicas and the length of an answer are bounded, and of JSON
//! only named places are looked at, so that the prompts in llama.cpp's list of slots are never stored.

mod documents;
pub mod exposition;
mod fetch;
mod metrics;
mod served;
#[cfg(test)]
mod tests;
mod watch;

use serde::{Deserialize, Serialize};

pub use documents::{Loaded, Props, Slots};
pub use fetch::{Fetch, MAX_ANSWER_BYTES, NoMatch};
pub use metrics::Metrics;
pub use served::{Served, Traffic};
pub use watch::{Watch, compare};

/// The kinds of servers that are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum EngineKind {
    /// vLLM.
    Vllm,
    /// SGLang.
    SgLang,
    /// Hugging Face's text-generation-inference.
    Tgi,
    /// llama.cpp's own server.
    LlamaCpp,
    /// Ollama.
    Ollama,
    /// NVIDIA's Triton inference server.
    Triton,
    /// LiteLLM's proxy, which computes nothing itself.
    LiteLlm,
}

impl EngineKind {
    /// All of them.
    pub const ALL: [Self; 7] =
        [Self::Vllm, Self::SgLang, Self::Tgi, Self::LlamaCpp, Self::Ollama, Self::Triton, Self::LiteLlm];

    /// The name users see.
    pub fn name(self) -> &'static str {
        match self {
            Self::Vllm => "vllm",
            Self::SgLang => "sglang",
            Self::Tgi => "tgi",
            Self::LlamaCpp => "llama.cpp",
            Self::Ollama => "ollama",
            Self::Triton => "triton",
            Self::LiteLlm => "litellm",
        }
    }

    /// Where a server of this kind is asked, the most telling place first.
    pub fn places(self) -> &'static [Place] {
        match self {
            Self::Vllm | Self::SgLang | Self::Tgi | Self::Triton | Self::LiteLlm => &[Place::Metrics],
            Self::LlamaCpp => &[Place::Metrics, Place::Slots, Place::Props],
            Self::Ollama => &[Place::Loaded],
        }
    }
}

/// The paths that are asked for. There are no others: each only reads, and none needs credentials where it is open at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Place {
    /// Prometheus' metrics.
    Metrics,
    /// The same with a slash behind it, where a server sends those on who leave it out.
    MetricsSlash,
    /// Ollama's list of loaded models.
    Loaded,
    /// llama.cpp's slots.
    Slots,
    /// llama.cpp's properties.
    Props,
}

impl Place {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Metrics, Self::MetricsSlash, Self::Loaded, Self::Slots, Self::Props];

    /// Its path.
    pub fn path(self) -> &'static str {
        match self {
            Self::Metrics => "/metrics",
            Self::MetricsSlash => "/metrics/",
            Self::Loaded => "/api/ps",
            Self::Slots => "/slots",
            Self::Props => "/props",
        }
    }
}

/// What a server has answered.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// Its metrics.
    Metrics(Box<Metrics>),
    /// Its loaded models.
    Loaded(Loaded),
    /// Its slots.
    Slots(Slots),
    /// Its properties.
    Props(Props),
}
