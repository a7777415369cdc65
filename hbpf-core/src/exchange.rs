//! One request to a model and its answer, and what can happen to it.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::chunk::Pid;
use crate::label::Label;
use crate::time::Nanos;

/// Identifies an exchange within one observation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ExchangeId(pub u64);

/// Which end of the exchange the observed process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// It sent the request.
    Client,
    /// It received the request.
    Server,
}

/// What kind of call it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Api {
    /// OpenAI chat completions, Ollama chat and what looks like them.
    Chat,
    /// Text in, text out.
    TextCompletion,
    /// OpenAI Responses.
    Responses,
    /// Anthropic Messages.
    Messages,
    /// Vectors for texts.
    Embeddings,
    /// Gemini.
    GenerateContent,
    /// Ranking of documents.
    Rerank,
    /// Speech.
    Audio,
    /// Images.
    Image,
    /// Sessions over WebSocket.
    Realtime,
    /// Tensors in, tensors out: the Open Inference Protocol.
    Infer,
    /// A tool's, or what else is asked of an MCP server: no model answers.
    Tool,
}

/// How the bodies are to be read; who serves is the provider, which is another question.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Dialect {
    /// OpenAI chat completions (also vLLM, llama.cpp, TGI, SGLang, LM Studio and most vendors).
    OpenaiChat,
    /// OpenAI legacy completions.
    OpenaiCompletions,
    /// OpenAI embeddings.
    OpenaiEmbeddings,
    /// OpenAI Responses, over HTTP or WebSocket.
    OpenaiResponses,
    /// OpenAI Realtime, over WebSocket.
    OpenaiRealtime,
    /// Anthropic Messages.
    AnthropicMessages,
    /// Ollama's own chat, generate and embed.
    Ollama,
    /// AWS Bedrock's Converse and ConverseStream.
    BedrockConverse,
    /// AWS Bedrock's InvokeModel and InvokeModelWithResponseStream, around a body in the model's own dialect.
    BedrockInvoke,
    /// xAI's own, over gRPC.
    XaiGrpc,
    /// Gemini's `generateContent`, of the Gemini API and of Vertex AI.
    GeminiGenerate,
    /// Gemini's Interactions.
    GeminiInteractions,
    /// Cohere's chat (v2), embed and rerank.
    CohereChat,
    /// OpenAI's images.
    OpenaiImages,
    /// OpenAI's speech and transcripts.
    OpenaiAudio,
    /// Mistral's conversations.
    MistralConversations,
    /// Triton's generate, and KServe's infer.
    Triton,
    /// TGI's generate.
    Tgi,
    /// SGLang's generate.
    Sglang,
    /// llama.cpp's completion and infill.
    LlamaCpp,
    /// LM Studio's chat.
    LmStudio,
    /// The Model Context Protocol, over HTTP or standard input and output.
    Mcp,
    /// One that a user has described.
    Custom,
}

/// What is asked of an MCP server.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ToolCall {
    /// JSON-RPC's method.
    pub method: Label,
    /// The tool or prompt.
    pub name: Option<Label>,
}

/// The protocol that carries the exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, schemars::JsonSchema)]
pub enum Protocol {
    /// HTTP/1.0 or 1.1.
    #[serde(rename = "http/1.1")]
    Http1,
    /// HTTP/2.
    #[serde(rename = "h2")]
    H2,
    /// WebSocket.
    #[serde(rename = "websocket")]
    Websocket,
    /// gRPC.
    #[serde(rename = "grpc")]
    Grpc,
    /// A process's standard input and output.
    #[serde(rename = "stdio")]
    Stdio,
}

/// Where an exchange stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// The request is being written.
    Sending,
    /// The request is complete; no output has come.
    Waiting,
    /// Output has begun.
    Streaming,
    /// Ended as it should.
    Done,
    /// Ended with an HTTP error, an error in the stream, or a cut answer.
    Failed,
    /// The client went away before the end.
    Abandoned,
}

impl Phase {
    /// Whether nothing more will happen.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Done | Self::Failed | Self::Abandoned)
    }
}

/// The server's address as far as it is known.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// From the `Host` header, without port; from the TLS server name otherwise.
    pub host: Option<Label>,
    /// Address of the serving end.
    pub address: Option<IpAddr>,
    /// Port of the serving end.
    pub port: Option<u16>,
}

/// Token counts as the server *reported* them, in normal form: cache and reasoning numbers are subsets of the totals.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// All prompt tokens.
    pub input: Option<u64>,
    /// All generated tokens.
    pub output: Option<u64>,
    /// Prompt tokens read from a cache.
    pub cached_input: Option<u64>,
    /// Prompt tokens written to a cache.
    pub cache_creation_input: Option<u64>,
    /// Those of them that are kept there for long: an hour, or twelve.
    pub cache_creation_long: Option<u64>,
    /// Generated tokens that were reasoning.
    pub reasoning: Option<u64>,
    /// Prompt tokens that are paid for, where the server counts them apart.
    pub billed_input: Option<u64>,
    /// Generated tokens that are paid for, likewise.
    pub billed_output: Option<u64>,
    /// Prompt tokens that were sound, where they are told apart.
    pub audio_input: Option<u64>,
    /// Generated tokens that are sound, likewise.
    pub audio_output: Option<u64>,
    /// Prompt tokens that were images, likewise.
    pub image_input: Option<u64>,
    /// Generated tokens that are images, likewise.
    pub image_output: Option<u64>,
    /// Images that were made.
    pub images: Option<u64>,
    /// Milliseconds of sound that were listened to.
    pub audio_milliseconds: Option<u64>,
    /// Searches, in which rerankers count.
    pub searches: Option<u64>,
}

/// In which of a provider's tiers, each with prices of its own, an exchange was served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ServiceTier {
    /// The one that list prices are about.
    Standard,
    /// Later, for less.
    Flex,
    /// Much later, for less.
    Batch,
    /// Before others, for more.
    Priority,
    /// With more speed than others, for more: Anthropic's.
    Fast,
    /// One that has no list price, or is not known.
    Other,
}

impl ServiceTier {
    /// By the provider's word; `None` where that says nothing.
    pub fn of(word: &[u8]) -> Option<Self> {
        let is = |words: &[&str]| words.iter().any(|known| word.eq_ignore_ascii_case(known.as_bytes()));
        // It is in every event of some streams, and the same: nothing is copied.
        if is(&["default", "standard", "auto", "on_demand"]) {
            Some(Self::Standard)
        } else if is(&["flex", "on_demand_flex"]) {
            Some(Self::Flex)
        } else if is(&["batch"]) {
            Some(Self::Batch)
        } else if is(&["priority", "fast", "on_demand_priority"]) {
            // What OpenAI calls fast is that.
            Some(Self::Priority)
        } else if is(&["", "unspecified", "service_tier_unspecified", "traffic_type_unspecified"]) {
            None
        } else {
            Some(Self::Other)
        }
    }
}

/// What the server said of the remaining quota.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct RateLimit {
    /// Requests left in the current period.
    pub remaining_requests: Option<u64>,
    /// Tokens left in the current period.
    pub remaining_tokens: Option<u64>,
    /// What is left of a quota that is counted in neither, as a share of all: a subscription's. Of several the least.
    pub remaining_fraction: Option<f64>,
    /// Seconds until the quota is whole again.
    pub reset_seconds: Option<f64>,
    /// Seconds after which to try again.
    pub retry_after_seconds: Option<f64>,
}

impl RateLimit {
    /// Whether the answer said nothing about quota.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Where bytes of an answer are missing, so that output may have come without being seen. What is said of times takes it
/// into account: a time that is not known is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OutputMissed {
    /// Before the first output that was seen.
    pub before_first: bool,
    /// Before the first output that was seen and is not reasoning.
    pub before_first_visible: bool,
    /// Since the latest output that was seen.
    pub since_latest: bool,
}

/// All that is known of one exchange so far. The engine owns it and the aggregator reads it at each event.
#[derive(Clone, Debug)]
pub struct Exchange {
    /// Unique within the observation; grows in the order of opening.
    pub id: ExchangeId,
    /// The observed process.
    pub pid: Option<Pid>,
    /// The observed process's name at that time, for processes that are gone before they can be looked up.
    pub comm: Label,
    /// Which end the process is.
    pub role: Role,
    /// The other end of this exchange is observed as well and stands for both in the totals.
    pub is_mirror: bool,
    /// The exchange that is its other end, where that was seen first.
    pub other_end: Option<ExchangeId>,
    /// Who serves, by OpenTelemetry's well-known names; `unknown` where only the shape was recognised.
    pub provider: Label,
    /// What kind of call.
    pub api: Api,
    /// How its bodies are read.
    pub dialect: Dialect,
    /// The model asked for.
    pub model: Option<Label>,
    /// The model that answered; of an MCP server its own name.
    pub response_model: Option<Label>,
    /// What is asked of an MCP server, once that is known.
    pub tool_call: Option<Box<ToolCall>>,
    /// The serving end.
    pub endpoint: Endpoint,
    /// Whether the bytes travelled inside TLS.
    pub tls: bool,
    /// The carrying protocol.
    pub protocol: Protocol,
    /// Whether a streamed answer was asked for or is given; `None` while that is unknown.
    pub stream: Option<bool>,
    /// Where it stands.
    pub phase: Phase,
    /// First byte of the request.
    pub opened_at: Nanos,
    /// Last byte of the request.
    pub request_sent_at: Option<Nanos>,
    /// Last byte of the final (not 1xx) response head; of the server's first message about it where calls are in messages.
    pub headers_at: Option<Nanos>,
    /// First event with generated output.
    pub first_token_at: Option<Nanos>,
    /// First event with output that is not reasoning.
    pub first_visible_token_at: Option<Nanos>,
    /// Latest event with generated output.
    pub last_token_at: Option<Nanos>,
    /// Where output may have been missed.
    pub output_missed: OutputMissed,
    /// When the final phase was reached.
    pub ended_at: Option<Nanos>,
    /// HTTP status of the answer. Answers over WebSocket have none.
    pub status: Option<u16>,
    /// The provider's error type, or `client_cancelled`, `connection_reset` and the like.
    pub error_type: Option<Label>,
    /// Why generation ended.
    pub finish_reason: Option<Label>,
    /// The server's request id.
    pub request_id: Option<Label>,
    /// The trace id of a `traceparent` header.
    pub trace_id: Option<Label>,
    /// Which try of one logical call, from 0, where the client says so.
    pub attempt: Option<u32>,
    /// Token counts that the server reported; the last value of each field counts.
    pub usage: Usage,
    /// Live estimate of output tokens, from output events and their size.
    pub estimated_output: u64,
    /// Events with generated output.
    pub output_events: u64,
    /// When that came.
    pub pace: Pace,
    /// Gaps between output events longer than [`Exchange::STALL`].
    pub stalls: u32,
    /// The longest time between two events with output, or from the last to the end, in seconds; without those between which
    /// output was missed.
    pub longest_gap_seconds: Option<f64>,
    /// In which tier it was served, as the server says.
    pub tier: Option<ServiceTier>,
    /// US dollars that the server, or a gateway before it, says that it has cost.
    pub cost_reported_usd: Option<f64>,
    /// For how long the request has waited inside the server, as that says, in seconds.
    pub queue_seconds: Option<f64>,
    /// Quota headers of the answer.
    pub rate_limit: RateLimit,
    /// Bytes of its bodies and of its request's head that were seen.
    pub bytes_seen: u64,
    /// Bytes of it that were lost (not those left out on purpose).
    pub bytes_missed: u64,
}

/// How many tokens came in each part of the time since the first one. However long a stream is, it has as many parts: they become
/// twice as long when it outgrows them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pace {
    /// How often the parts have become longer.
    doubled: u8,
    tokens: [u32; Pace::PARTS],
}

impl Pace {
    /// Parts of the time.
    pub const PARTS: usize = 24;

    /// Nanoseconds of the shortest part, as a power of two: an eighth of a second.
    const SHORTEST: u32 = 27;

    /// Notes tokens that came so long after the first.
    pub fn add(&mut self, since_first: std::time::Duration, tokens: u64) {
        let nanoseconds = u64::try_from(since_first.as_nanos()).unwrap_or(u64::MAX);
        while nanoseconds >> (Self::SHORTEST + u32::from(self.doubled)) >= Self::PARTS as u64 {
            for part in 0..Self::PARTS {
                let of = |index: usize| self.tokens.get(index).copied().unwrap_or(0);
                self.tokens[part] = of(2 * part).saturating_add(of(2 * part + 1));
            }
            self.doubled += 1;
        }
        let part = &mut self.tokens[(nanoseconds >> (Self::SHORTEST + u32::from(self.doubled))) as usize];
        *part = part.saturating_add(u32::try_from(tokens).unwrap_or(u32::MAX));
    }

    /// How long a part is, in seconds.
    pub fn part_seconds(&self) -> f64 {
        (1_u64 << (Self::SHORTEST + u32::from(self.doubled))) as f64 / 1e9
    }

    /// The tokens of each part, up to the last in which there are any.
    pub fn tokens(&self) -> &[u32] {
        let count = self.tokens.iter().rposition(|tokens| *tokens > 0).map_or(0, |last| last + 1);
        &self.tokens[..count]
    }
}

impl Exchange {
    /// A gap between output events that counts as a stall.
    pub const STALL: std::time::Duration = std::time::Duration::from_secs(2);

    /// Error types that tell of a quota that is used up where the status does not: within a stream, or in gRPC.
    const QUOTA_ERRORS: [&str; 5] = [
        "RESOURCE_EXHAUSTED",
        "ServiceQuotaExceededException",
        "ThrottlingException",
        "rate_limit_error",
        "rate_limit_exceeded",
    ];

    /// Whether it failed because a quota is used up.
    pub fn is_rate_limited(&self) -> bool {
        let says = |error: &Label| Self::QUOTA_ERRORS.contains(&error.as_str());
        self.phase == Phase::Failed && (self.status == Some(429) || self.error_type.as_ref().is_some_and(says))
    }

    /// From the last byte of the request to the first output event.
    pub fn time_to_first_token_seconds(&self) -> Option<f64> {
        let first = self.first_token_at.filter(|_| !self.output_missed.before_first);
        Some(first?.seconds_since(self.request_sent_at?))
    }

    /// From the last byte of the request to the first output event that is not reasoning.
    pub fn time_to_first_visible_token_seconds(&self) -> Option<f64> {
        let first = self.first_visible_token_at.filter(|_| !self.output_missed.before_first_visible);
        Some(first?.seconds_since(self.request_sent_at?))
    }

    /// From the last byte of the request to the end of the response head, or of the first message about it.
    pub fn time_to_headers_seconds(&self) -> Option<f64> {
        Some(self.headers_at?.seconds_since(self.request_sent_at?))
    }

    /// From the first byte of the request to the end.
    pub fn duration_seconds(&self) -> Option<f64> {
        Some(self.ended_at?.seconds_since(self.opened_at))
    }

    /// Output tokens: reported if they were, else the estimate if any output was seen.
    pub fn output_tokens(&self) -> Option<u64> {
        self.usage.output.or((self.estimated_output > 0).then_some(self.estimated_output))
    }
}

/// What has just happened to an exchange. The exchange handed along already shows it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ExchangeEvent {
    /// Its request head is complete. The model may not be known yet.
    Opened,
    /// Its request is complete; model and stream flag are known if they ever will be.
    RequestSent,
    /// Its final response head is complete.
    Headers,
    /// Output has come.
    Output {
        /// Tokens in this piece of output, estimated.
        tokens: u64,
        /// Seconds since the output before, `None` for the first.
        gap_seconds: Option<f64>,
    },
    /// Nothing has come for longer than [`Exchange::STALL`] since the output before, and now something has, or it ends.
    Stalled {
        /// For so long.
        seconds: f64,
    },
    /// It has reached its final phase. Usage is final.
    Ended,
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_pace_has_every_token_however_long_the_stream_is() {
        let mut pace = Pace::default();
        assert!(pace.tokens().is_empty());
        pace.add(Duration::ZERO, 3);
        assert_eq!((pace.tokens(), pace.part_seconds()), (&[3][..], 0.134_217_728));
        pace.add(Duration::from_millis(1000), 4);
        assert_eq!(pace.tokens(), [3, 0, 0, 0, 0, 0, 0, 4]);
        for second in 0..7200 {
            pace.add(Duration::from_secs(second), 1);
        }
        assert!(pace.tokens().len() <= Pace::PARTS && pace.part_seconds() * Pace::PARTS as f64 >= 7200.0);
        assert_eq!(pace.tokens().iter().sum::<u32>(), 7207);
        pace.add(Duration::MAX, u64::MAX);
        pace.add(Duration::MAX, u64::MAX);
        assert_eq!(pace.tokens().iter().copied().max(), Some(u32::MAX), "it has no more room, and no less");
    }
}
