//! Single exchanges, and exchanges by model, endpoint and tool.

use std::net::IpAddr;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Distribution, LlmStats, TokenTotals};
use crate::exchange::{Api, Dialect, Phase, Protocol, Role};
use crate::label::Label;

/// One model of one provider.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Model {
    /// Who serves.
    pub provider: Label,
    /// As asked for; null where the request did not show it.
    pub model: Option<Label>,
    /// Its exchanges, each once.
    pub stats: LlmStats,
}

/// One serving end.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct EndpointStats {
    /// From the Host header.
    pub host: Option<Label>,
    /// Of the serving end.
    pub address: Option<IpAddr>,
    /// Of the serving end.
    pub port: Option<u16>,
    /// What is called.
    pub api: Api,
    /// Inside TLS; null where that was not told, as of many hosts at once.
    pub tls: Option<bool>,
    /// Carrying protocol; null likewise.
    pub protocol: Option<Protocol>,
    /// Its exchanges, each once.
    pub stats: LlmStats,
    /// Latest word on quota.
    pub rate_limit: Option<EndpointRateLimit>,
}

impl EndpointStats {
    /// Host, or address where no name is known, with the port; `-` stands for what is not known.
    pub fn name(&self) -> Label {
        endpoint_name(self.host.as_ref(), self.address, self.port)
    }
}

/// What an endpoint is called: `host:port`, or its address where it was not asked by a name.
pub fn endpoint_name(host: Option<&Label>, address: Option<IpAddr>, port: Option<u16>) -> Label {
    let address = address.map(|address| match address {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => format!("[{address}]"),
    });
    let name = host.map(Label::to_string).or(address).unwrap_or_else(|| "-".to_owned());
    match port {
        Some(port) => Label::new(&format!("{name}:{port}")),
        None => Label::new(&name),
    }
}

/// The latest quota headers of an endpoint.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct EndpointRateLimit {
    /// The model they were about.
    pub model: Option<Label>,
    /// Requests left.
    pub remaining_requests: Option<u64>,
    /// Tokens left.
    pub remaining_tokens: Option<u64>,
    /// What is left of a quota that is counted in neither, from 0 to 1: a subscription's.
    pub remaining_fraction: Option<f64>,
    /// Seconds until the quota is whole again, when observed.
    pub reset_seconds: Option<f64>,
    /// Seconds to wait, when observed.
    pub retry_after_seconds: Option<f64>,
    /// When.
    pub observed_at: Timestamp,
}

/// Calls of one MCP tool.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Tool {
    /// The MCP server.
    pub server: Label,
    /// JSON-RPC method.
    pub method: Label,
    /// Tool name.
    pub tool: Option<Label>,
    /// Calls.
    pub calls_total: u64,
    /// Failed calls.
    pub errors_total: u64,
    /// Request to answer.
    pub duration_seconds: Option<Distribution>,
}

/// When the output of an exchange came, as far as events tell: estimates, as tokens are while an answer runs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct OutputPace {
    /// How long a part of the time is.
    pub part_seconds: f64,
    /// Tokens in each part since the first token, at most 24.
    pub tokens: Vec<u32>,
}

/// Single exchanges.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Requests {
    /// Oldest first, capped.
    pub in_flight: Vec<Request>,
    /// How many the cap left out.
    pub in_flight_omitted: u64,
    /// Ended, newest first, capped.
    pub recent: Vec<Request>,
    /// The latest of those that failed or were given up by their clients, newest first, capped.
    #[serde(default)]
    pub failed: Vec<Request>,
    /// Those that ended since the previous frame of the stream, capped.
    pub finished: Vec<Request>,
    /// How many the cap left out.
    pub finished_omitted: u64,
}

/// One exchange.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Request {
    /// Unique within the observation.
    pub id: Label,
    /// Order of opening.
    pub sequence: u64,
    /// The observed process.
    pub pid: Option<u32>,
    /// Of that process.
    pub start_time: Option<Timestamp>,
    /// Of that process.
    pub command: Label,
    /// Which end it is.
    pub role: Role,
    /// What kind of leg it is, where a call has several: see [`Hop`].
    pub hop: Option<Hop>,
    /// Who serves.
    pub provider: Label,
    /// What is called.
    pub api: Api,
    /// How it is read.
    pub dialect: Dialect,
    /// Asked for.
    pub model: Option<Label>,
    /// Answered.
    pub response_model: Option<Label>,
    /// Host or address, with port where known.
    pub endpoint: Label,
    /// Inside TLS.
    pub tls: bool,
    /// Carrying protocol.
    pub protocol: Protocol,
    /// Streamed.
    pub stream: Option<bool>,
    /// Where it stands.
    pub phase: Phase,
    /// First byte of the request.
    pub started_at: Timestamp,
    /// Since then, to now or to the end.
    pub age_seconds: f64,
    /// HTTP status.
    pub status: Option<u16>,
    /// Error type.
    pub error_type: Option<Label>,
    /// Why generation ended.
    pub finish_reason: Option<Label>,
    /// The server's id.
    pub request_id: Option<Label>,
    /// Of a traceparent header.
    pub trace_id: Option<Label>,
    /// Which try, from 0.
    pub attempt: Option<u32>,
    /// The `id` of the request that this one repeats, where that was seen.
    #[serde(default)]
    pub retry_of: Option<Label>,
    /// See `Latency`.
    pub time_to_headers_seconds: Option<f64>,
    /// See `Latency`.
    pub time_to_first_token_seconds: Option<f64>,
    /// See `Latency`.
    pub time_to_first_visible_token_seconds: Option<f64>,
    /// While streaming.
    pub time_since_last_token_seconds: Option<f64>,
    /// Waiting inside the server, where it says so.
    pub queue_seconds: Option<f64>,
    /// TCP connect.
    pub connect_seconds: Option<f64>,
    /// TLS handshake.
    pub tls_seconds: Option<f64>,
    /// When ended.
    pub duration_seconds: Option<f64>,
    /// Gaps beyond the threshold.
    pub stalls: u32,
    /// The longest time without output amid a stream, in seconds; null where no two events with output were seen.
    pub longest_gap_seconds: Option<f64>,
    /// When its output came; null where none was seen.
    #[serde(default)]
    pub output_pace: Option<OutputPace>,
    /// So far.
    pub tokens: TokenTotals,
    /// Where the counts come from.
    pub tokens_source: TokensSource,
    /// US dollars, once it has ended.
    pub cost_usd: Option<f64>,
    /// By a list price, not by what the server said.
    #[serde(default)]
    pub cost_is_estimate: bool,
    /// Bytes of it that were lost.
    pub bytes_missed: u64,
}

/// What kind of leg an exchange is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Hop {
    /// Between two processes of this host: both ends are observed, and each has a row.
    Internal,
    /// A gateway of this host has passed it on: the call that it made for it counts in the totals instead.
    Gateway,
    /// What a server asks of the one that it has started to do its work (Ollama): it counts under the processes only.
    Backend,
}

/// Where token counts come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TokensSource {
    /// The server said so.
    Reported,
    /// Counted from output events.
    Estimated,
    /// Not known.
    #[default]
    Unknown,
}
