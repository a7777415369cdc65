//! Exchanges by all that metrics systems tell them apart by, at once.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Container, LlmStats, WorkloadKind};
use crate::exchange::Api;
use crate::label::Label;

/// All series, and what has none.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SeriesTable {
    /// In an order that does not change from frame to frame.
    pub rows: Vec<Series>,
    /// Exchanges that were counted under "other", since there were as many rows as there may be.
    pub folded_total: u64,
}

/// Exchanges of one workload's container, as one side, with one model by one API at one endpoint.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Series {
    /// What people call the workload; `other` for all that have no row of their own.
    pub workload: Label,
    /// What holds it together.
    pub workload_kind: WorkloadKind,
    /// Where it runs.
    pub container: Option<Container>,
    /// How the workload takes part.
    pub role: SeriesRole,
    /// As in [`Request::provider`](super::Request::provider).
    pub provider: Label,
    /// The model that was asked for.
    pub model: Option<Label>,
    /// What was asked for.
    pub api: Api,
    /// The serving end, `host:port`.
    pub endpoint: Label,
    /// Since when its totals count.
    pub since: Timestamp,
    /// Its numbers. Distributions are since then, not of the window.
    pub stats: LlmStats,
}

/// How a workload takes part in exchanges.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SeriesRole {
    /// It asks.
    Client,
    /// It answers.
    Server,
    /// Both ends are of it; counted once.
    Internal,
}
