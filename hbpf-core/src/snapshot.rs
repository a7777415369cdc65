//! The snapshot: the one serialisable model that every view, recording and exporter is made from.
//!
//! Unknown is `null`, never 0. Units are in the names; times are RFC 3339 or seconds; 100 percent of CPU is one core.
//! Every string from outside is a [`Label`].

mod capture;
mod engine;
mod gpu;
mod machine;
mod process;
mod requests;
mod series;
mod stats;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::label::{Label, Text};

pub use capture::{Capture, GroupCost, Lost, LostRecords, Overhead, OverheadLevel, Probe, ProbeState, SelfCost};
pub use engine::{Engine, EngineLatency, EngineModel, EngineReplica};
pub use gpu::{Gpu, GpuInstance, GpuProcess, ProcessGpu};
pub use machine::{CpuUse, Host, Pressure};
pub use process::{
    Cgroup, Container, DeviceUse, Disk, DiskDevice, EncryptedTraffic, HottestThread, Network, Process, TlsVisibility,
    Visibility, Workload, WorkloadKind,
};
pub use requests::{
    EndpointRateLimit, EndpointStats, Hop, Model, OutputPace, Request, Requests, TokensSource, Tool, endpoint_name,
};
pub use series::{Series, SeriesRole, SeriesTable};
pub use stats::{
    Distribution, Latency, LatencyPair, LlmStats, TokenRates, TokenTotals, TokensEstimated, TokensInProgress,
};

/// The contract's name and version, as each frame carries it.
pub const SCHEMA: &str = "hbpf.snapshot/1";

/// One frame of the model: everything the views, recordings and exporters are made from.
/// The default has nothing in it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Snapshot {
    /// Always [`SCHEMA`].
    pub schema: Label,
    /// Version of the hbpf that took it.
    pub hbpf_version: Label,
    /// When it was taken.
    pub captured_at: Timestamp,
    /// Since when totals count.
    pub observation_started_at: Timestamp,
    /// Seconds since then.
    pub observed_seconds: f64,
    /// What rates and window distributions are over, in seconds.
    pub window_seconds: f64,
    /// Frame number in a stream, from 0.
    pub sequence: u64,
    /// The machine.
    pub host: Host,
    /// All exchanges, each once, also where both ends are on this host.
    pub totals: LlmStats,
    /// Processes, those that talk to models first.
    pub processes: Vec<Process>,
    /// Processes grouped by pod, container, unit or tree.
    pub workloads: Vec<Workload>,
    /// By provider and model.
    pub models: Vec<Model>,
    /// By serving end.
    pub endpoints: Vec<EndpointStats>,
    /// TLS connections with known model hosts, as seen from outside; those that cannot be read first.
    #[serde(default)]
    pub encrypted: Vec<EncryptedTraffic>,
    /// MCP calls.
    pub tools: Vec<Tool>,
    /// Exchanges as metrics systems tell them apart, where that was asked for: by the agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub series: Option<SeriesTable>,
    /// Exchanges in flight, recent and just finished.
    pub requests: Requests,
    /// GPUs.
    pub gpus: Vec<Gpu>,
    /// Local inference servers' own words.
    pub engines: Vec<Engine>,
    /// Probes, losses and own cost.
    pub capture: Capture,
    /// What deserves attention.
    pub findings: Vec<Finding>,
    /// What could not be collected, and why.
    pub errors: Vec<CollectionError>,
}

impl Snapshot {
    /// The JSON Schema of a frame, made from this very type.
    pub fn schema() -> schemars::Schema {
        schemars::schema_for!(Self)
    }
}

/// Something that could not be collected.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CollectionError {
    /// Which part of hbpf says so.
    pub source: Label,
    /// What failed and what mends it.
    pub message: Text,
    /// When it was last told. What is not told again is left out after a while.
    #[serde(default)]
    pub last_at: Option<Timestamp>,
}

/// Something that deserves attention.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Finding {
    /// The rule.
    pub id: Label,
    /// How bad.
    pub severity: Severity,
    /// What it is about.
    pub subject: Label,
    /// In one line.
    pub title: Text,
    /// The numbers behind it.
    pub evidence: BTreeMap<Label, f64>,
    /// What to do.
    pub advice: Text,
    /// Since when it holds.
    pub since: Timestamp,
}

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Good to know.
    Info,
    /// Needs a look.
    Warning,
    /// Needs action.
    Critical,
}
