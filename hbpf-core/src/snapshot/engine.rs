//! Local inference servers, in their own words.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::label::{Label, Text};

/// A local inference server's own word: what it says of itself at its metrics or status endpoint. What a kind of server does
/// not tell is null; docs/engines.md says which tells what.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Engine {
    /// Process that listens at `endpoint`; of several that share the socket, the oldest.
    pub pid: u32,
    /// When that process started; together with `pid` its identity.
    #[serde(default)]
    pub start_time: Option<Timestamp>,
    /// `vllm`, `sglang`, `tgi`, `llama.cpp`, `ollama`, `triton` or `litellm`.
    pub kind: Label,
    /// Where it was asked: the address and port at which it listens, within its own network namespace.
    pub endpoint: Label,
    /// Names of the models that it serves or has loaded, 32 at the most.
    pub models: Vec<Label>,
    /// Memory and context of the models, where it tells them (Ollama).
    #[serde(default)]
    pub loaded_models: Vec<EngineModel>,
    /// Requests that it computes now.
    pub requests_running: Option<f64>,
    /// Requests that wait for their turn.
    pub requests_waiting: Option<f64>,
    /// Requests whose cache was moved out to the CPU's memory, of servers that do that.
    #[serde(default)]
    pub requests_swapped: Option<f64>,
    /// Requests that it can compute at once, of servers that have a fixed number of places (llama.cpp).
    #[serde(default)]
    pub slots_total: Option<u64>,
    /// Longest context of one request, in tokens.
    #[serde(default)]
    pub context_tokens: Option<u64>,
    /// KV cache in use, 0 to 100; of several replicas the fullest one's.
    pub kv_cache_percent: Option<f64>,
    /// Part of the prompt tokens looked up in the prefix cache that were found there, since the server started; 0 to 100.
    pub prefix_cache_hit_percent: Option<f64>,
    /// The same over the last minute; null where nothing was looked up.
    #[serde(default)]
    pub prefix_cache_hit_recent_percent: Option<f64>,
    /// Requests that had to give up their place and begin again, since the server started.
    pub preemptions_total: Option<u64>,
    /// Requests that ended as they should, since the server started.
    #[serde(default)]
    pub requests_finished_total: Option<u64>,
    /// Its own count of prompt tokens since it started, those from a cache included.
    pub input_tokens_total: Option<u64>,
    /// Its own count of generated tokens since it started.
    pub output_tokens_total: Option<u64>,
    /// Requests that ended per second, between hbpf's latest two readings; so are the two that follow. Null until there are
    /// two, and where a counter has begun anew.
    #[serde(default)]
    pub requests_per_second: Option<f64>,
    /// Prompt tokens per second by its own count.
    #[serde(default)]
    pub input_tokens_per_second: Option<f64>,
    /// Generated tokens per second by its own count.
    #[serde(default)]
    pub output_tokens_per_second: Option<f64>,
    /// Arrival to first token, as the server measures it, over the last minute; so are the three that follow.
    #[serde(default)]
    pub time_to_first_token_seconds: Option<EngineLatency>,
    /// Time per generated token after the first.
    #[serde(default)]
    pub time_per_output_token_seconds: Option<EngineLatency>,
    /// Whole requests.
    #[serde(default)]
    pub request_seconds: Option<EngineLatency>,
    /// Time that requests waited for their turn.
    #[serde(default)]
    pub queue_seconds: Option<EngineLatency>,
    /// Its replicas (data parallelism), where it tells of more than one.
    #[serde(default)]
    pub replicas: Vec<EngineReplica>,
    /// How far the running and waiting requests of the busiest replica lie above the mean of all replicas, in percent of that
    /// mean: 0 where all have the same, 100 where one has twice its part. Null with fewer than two, and while all are idle.
    /// Servers of one kind with the same models on this host, which tell of no replicas themselves, count as replicas of each
    /// other, and all have the same number.
    #[serde(default)]
    pub replica_imbalance_percent: Option<f64>,
    /// hbpf's own count of this server's tokens against the server's: the smaller in percent of the larger, 100 where they
    /// are equal. Over the time since both have been watching; taken only between two moments at which the server had
    /// nothing to do, hbpf saw no request to it in flight and neither count moved, since servers count tokens as they come and
    /// hbpf when they are reported. Null until the server has counted 100 tokens. Prompt and generated tokens together, or
    /// the generated ones alone where the server does not count prompts in full.
    pub agreement_percent: Option<f64>,
    /// How many tokens, by the server's count, `agreement_percent` stands on.
    #[serde(default)]
    pub agreement_tokens: Option<u64>,
    /// Age of the numbers.
    pub stale_seconds: Option<f64>,
    /// Why it could not be read the last time, if it could not. Its numbers are of before then, and count as nobody's replica.
    #[serde(default)]
    pub problem: Option<Text>,
}

/// A model that a server has loaded.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct EngineModel {
    /// Its name.
    pub name: Label,
    /// Memory that it takes, of CPU and GPU together.
    pub memory_bytes: Option<u64>,
    /// The part of it that is GPU memory.
    pub gpu_memory_bytes: Option<u64>,
    /// Context that it was loaded with, in tokens.
    pub context_tokens: Option<u64>,
    /// When it is unloaded unless it is used before.
    pub expires_at: Option<Timestamp>,
}

/// One of several engines behind one endpoint; the fields are those of [`Engine`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct EngineReplica {
    /// The server's name for it, such as `0`.
    pub label: Label,
    /// Requests that it computes now.
    pub requests_running: Option<f64>,
    /// Requests that wait for their turn.
    pub requests_waiting: Option<f64>,
    /// Requests whose cache was moved out.
    pub requests_swapped: Option<f64>,
    /// KV cache in use, 0 to 100.
    pub kv_cache_percent: Option<f64>,
    /// Part of the tokens looked up in the prefix cache that were found there, since the server started.
    pub prefix_cache_hit_percent: Option<f64>,
    /// The same over the last minute.
    pub prefix_cache_hit_recent_percent: Option<f64>,
    /// Requests that had to give up their place.
    pub preemptions_total: Option<u64>,
    /// Requests that ended per second.
    pub requests_per_second: Option<f64>,
    /// Its part of the requests that ended, 0 to 100, over the same time.
    pub requests_share_percent: Option<f64>,
    /// Prompt tokens per second.
    pub input_tokens_per_second: Option<f64>,
    /// Generated tokens per second.
    pub output_tokens_per_second: Option<f64>,
    /// Arrival to first token.
    pub time_to_first_token_seconds: Option<EngineLatency>,
    /// Time per generated token after the first.
    pub time_per_output_token_seconds: Option<EngineLatency>,
}

/// Times as a server's histogram tells them. Percentiles lie within one of its buckets, in proportion; beyond its last
/// bound they are that bound.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct EngineLatency {
    /// How many times.
    pub count: u64,
    /// Their mean; null where the server does not tell their sum.
    pub mean: Option<f64>,
    /// Median.
    pub p50: Option<f64>,
    /// 95th percentile.
    pub p95: Option<f64>,
    /// 99th percentile.
    pub p99: Option<f64>,
}
