//! What is counted and measured of a set of exchanges.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::label::Label;

/// Counts, rates and distributions over a set of exchanges.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct LlmStats {
    /// Exchanges opened.
    pub requests_total: u64,
    /// Exchanges not yet ended; null while no probes are in place.
    pub requests_in_flight: Option<u64>,
    /// Exchanges opened per second over the window; null until the window has some length, and while no probes are in
    /// place.
    pub requests_per_second: Option<f64>,
    /// Ended as they should.
    pub completed_total: u64,
    /// Ended with an error.
    pub failed_total: u64,
    /// Left by the client before the end.
    pub abandoned_total: u64,
    /// Exchanges that were not the first try.
    pub retries_total: u64,
    /// Gaps between output events beyond the threshold.
    pub stalls_total: u64,
    /// Failed because a quota is used up: HTTP status 429, or the same told within an answer of another status.
    #[serde(default)]
    pub rate_limited_total: u64,
    /// Ended exchanges by HTTP status; `none` where no answer came.
    pub status: BTreeMap<Label, u64>,
    /// Failed and abandoned exchanges by error type.
    pub error_types: BTreeMap<Label, u64>,
    /// Ended exchanges whose tokens were never reported.
    pub requests_without_usage: u64,
    /// Reported counts plus final estimates.
    pub tokens: TokenTotals,
    /// How much of `tokens` is estimate.
    pub tokens_estimated: TokensEstimated,
    /// Live estimate of running streams, not in `tokens`.
    pub tokens_in_progress: TokensInProgress,
    /// Over the window.
    pub tokens_per_second: TokenRates,
    /// US dollars; null where no price is known.
    pub cost_usd: Option<f64>,
    /// US dollars per hour at the window's pace.
    pub cost_usd_per_hour: Option<f64>,
    /// Whether any part of the cost is estimated.
    pub cost_is_estimate: bool,
    /// Ended exchanges whose price is unknown.
    pub cost_unknown_requests: u64,
    /// Distributions.
    pub latency: LatencyPair,
}

/// Tokens of ended exchanges. They never decrease. Null where none was ever known.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TokenTotals {
    /// All prompt tokens.
    pub input: Option<u64>,
    /// All generated tokens.
    pub output: Option<u64>,
    /// Prompt tokens read from a cache, a subset of `input`.
    pub cached_input: Option<u64>,
    /// Prompt tokens written to a cache, a subset of `input`.
    pub cache_creation_input: Option<u64>,
    /// Reasoning tokens, a subset of `output`.
    pub reasoning: Option<u64>,
}

/// The estimated part of [`TokenTotals`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TokensEstimated {
    /// Prompt tokens.
    pub input: u64,
    /// Generated tokens.
    pub output: u64,
}

/// Tokens of running streams, estimated.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TokensInProgress {
    /// Generated tokens so far; null while no probes are in place.
    pub output: Option<u64>,
}

/// Tokens per second over the window; null until the window has some length, and while no probes are in place.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TokenRates {
    /// Prompt tokens, counted when usage becomes known.
    pub input: Option<f64>,
    /// Generated tokens, counted when they flow.
    pub output: Option<f64>,
    /// Part of the output rate that is estimated, 0 to 1; null without output.
    pub estimated_share: Option<f64>,
}

/// Distributions over the window and since the start. At most 16 models, 16 endpoints, 24 sides of processes
/// and 8 of workloads have some at a time;
/// another has none until one of these has been idle for a minute.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct LatencyPair {
    /// Over the window.
    pub window: Latency,
    /// Since the observation began, or since these distributions did.
    pub since_start: Latency,
}

/// Distributions of one set of exchanges; null where nothing was measured.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Latency {
    /// First byte of the request to the end of the answer.
    pub duration_seconds: Option<Distribution>,
    /// Last byte of the request to the end of the response head.
    pub time_to_headers_seconds: Option<Distribution>,
    /// Last byte of the request to the first output event.
    pub time_to_first_token_seconds: Option<Distribution>,
    /// The same, leaving out reasoning.
    pub time_to_first_visible_token_seconds: Option<Distribution>,
    /// Gaps between output events, per token.
    pub inter_token_seconds: Option<Distribution>,
    /// Per exchange, from first to last token.
    pub output_tokens_per_second: Option<Distribution>,
    /// Prompt tokens per exchange.
    pub input_tokens: Option<Distribution>,
    /// Output tokens per exchange, reported or estimated.
    #[serde(default)]
    pub output_tokens: Option<Distribution>,
}

/// A set of measured values.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Distribution {
    /// How many.
    pub count: u64,
    /// Their sum.
    pub sum: f64,
    /// The smallest.
    pub min: f64,
    /// Their mean.
    pub mean: f64,
    /// Median.
    pub p50: f64,
    /// 90th percentile.
    pub p90: f64,
    /// 95th percentile.
    pub p95: f64,
    /// 99th percentile.
    pub p99: f64,
    /// The largest.
    pub max: f64,
    /// OpenTelemetry base-2 exponential scale: bucket `i` holds (base^i, base^(i+1)] with base = 2^(2^-scale).
    pub scale: i32,
    /// Index and count, ascending, sparse.
    pub buckets: Vec<(i32, u64)>,
}
