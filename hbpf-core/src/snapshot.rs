//! The snapshot: the one serialisable model that every view, recording and exporter is made from.
//!
//! Unknown is `null`, never 0. Units are in the names; times are RFC 3339 or seconds; 100 percent of CPU is one core.
//! Every string from outside is a [`Label`].

use std::collections::BTreeMap;
use std::net::IpAddr;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::exchange::{Api, Dialect, Phase, Protocol, Role};
use crate::label::{Label, Text};

/// The contract's name and version, as each frame carries it.
pub const SCHEMA: &str = "hbpf.snapshot/1";

/// One frame of the model: everything the views, recordings and exporters are made from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
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
    /// MCP calls.
    pub tools: Vec<Tool>,
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

/// Distributions over the window and since the start. At most 16 models, 16 endpoints and 32 processes have some at a time;
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

/// A process that talks to models, or whose use of the machine matters.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Process {
    /// Thread-group id in the host's initial PID namespace.
    pub pid: u32,
    /// When it started; together with `pid` its identity.
    pub start_time: Option<Timestamp>,
    /// Its parent.
    pub parent_pid: Option<u32>,
    /// Process name and redacted first arguments.
    pub command: Label,
    /// Path of its program.
    pub executable: Option<Label>,
    /// Name of its user.
    pub user: Option<Label>,
    /// Number of its user.
    pub uid: Option<u32>,
    /// It has ended; its numbers stand for a while.
    pub exited: bool,
    /// Key of its workload.
    pub workload: Option<Label>,
    /// Its systemd unit.
    pub unit: Option<Label>,
    /// Its container.
    pub container: Option<Container>,
    /// 100 is one core; null until two samples exist.
    pub cpu_percent: Option<f64>,
    /// How many threads.
    pub threads: Option<u32>,
    /// The thread that uses most CPU.
    pub hottest_thread: Option<HottestThread>,
    /// Time spent runnable but not running.
    pub run_queue_seconds_per_second: Option<f64>,
    /// Voluntary and involuntary.
    pub context_switches_per_second: Option<f64>,
    /// Resident memory.
    pub resident_bytes: Option<u64>,
    /// Swapped memory.
    pub swap_bytes: Option<u64>,
    /// Faults that read from disk.
    pub major_faults_per_second: Option<f64>,
    /// Block I/O.
    pub disk: Option<Disk>,
    /// TCP.
    pub network: Option<Network>,
    /// Limits and throttling.
    pub cgroup: Option<Cgroup>,
    /// Its share of GPUs.
    pub gpu: Vec<ProcessGpu>,
    /// Exchanges in which it sent the request.
    pub as_client: Option<LlmStats>,
    /// Exchanges in which it received the request.
    pub as_server: Option<LlmStats>,
    /// What hbpf can see of it.
    pub visibility: Visibility,
}

/// The container a process runs in.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Container {
    /// docker, containerd, cri-o, podman.
    pub runtime: Label,
    /// Container id.
    pub id: Label,
    /// Kubernetes pod.
    pub pod_uid: Option<Label>,
    /// Pod name.
    pub pod: Option<Label>,
    /// Kubernetes namespace.
    pub namespace: Option<Label>,
    /// Container name.
    pub name: Option<Label>,
}

/// A thread.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct HottestThread {
    /// Its name.
    pub name: Label,
    /// 100 is one core.
    pub cpu_percent: f64,
}

/// Block I/O of a process.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Disk {
    /// Reads.
    pub read_bytes_per_second: Option<f64>,
    /// Writes.
    pub write_bytes_per_second: Option<f64>,
    /// Issue to completion.
    pub latency_seconds: Option<Distribution>,
}

/// TCP of a process.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Network {
    /// SYN to established.
    pub connect_seconds: Option<Distribution>,
    /// Segments sent again.
    pub retransmits_total: Option<u64>,
    /// Resets.
    pub resets_total: Option<u64>,
}

/// Limits of the control group.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Cgroup {
    /// In the hierarchy.
    pub path: Label,
    /// CPU quota.
    pub cpu_limit_cores: Option<f64>,
    /// Share of periods throttled.
    pub throttled_percent: Option<f64>,
    /// Memory limit.
    pub memory_limit_bytes: Option<u64>,
    /// Memory in use.
    pub memory_bytes: Option<u64>,
}

/// A process's share of one GPU.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ProcessGpu {
    /// The GPU.
    pub index: u32,
    /// The GPU.
    pub uuid: Label,
    /// MIG instance.
    pub instance: Option<Label>,
    /// 100 is one GPU.
    pub sm_percent: Option<f64>,
    /// GPU memory.
    pub memory_bytes: Option<u64>,
}

/// What hbpf can see of a process's TLS traffic, and why not the rest.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Visibility {
    /// The state.
    pub tls: TlsVisibility,
    /// Why it is partial or blind.
    pub reason: Option<Text>,
    /// The TLS library that is probed.
    pub library: Option<Label>,
    /// Plaintext bytes of model traffic seen, TLS or not.
    pub bytes_seen: u64,
    /// Bytes of model traffic lost.
    pub bytes_missed: u64,
}

/// Whether the plaintext of a process's TLS traffic can be seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TlsVisibility {
    /// No TLS library that hbpf knows is loaded.
    #[default]
    None,
    /// Probes are on its library.
    Attached,
    /// Some of its libraries are probed, or probes came after the traffic began.
    Partial,
    /// It speaks TLS in a way that hbpf cannot read.
    Blind,
}

/// Processes that belong together.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Workload {
    /// Identifies the workload.
    pub key: Label,
    /// What holds it together.
    pub kind: WorkloadKind,
    /// Its processes.
    pub pids: Vec<u32>,
    /// 100 is one core.
    pub cpu_percent: Option<f64>,
    /// 100 is one GPU.
    pub gpu_percent: Option<f64>,
    /// GPU memory.
    pub gpu_memory_bytes: Option<u64>,
    /// Its share of GPU power.
    pub gpu_power_watts: Option<f64>,
    /// As in [`Process`].
    pub as_client: Option<LlmStats>,
    /// As in [`Process`].
    pub as_server: Option<LlmStats>,
    /// Output tokens per joule of GPU energy.
    pub tokens_per_joule: Option<f64>,
    /// CPU seconds per thousand output tokens.
    pub cpu_seconds_per_1k_tokens: Option<f64>,
}

/// What holds a workload together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum WorkloadKind {
    /// A Kubernetes pod.
    Pod,
    /// A container.
    Container,
    /// A systemd unit.
    Unit,
    /// A process and its descendants.
    Tree,
}

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
    /// Inside TLS.
    pub tls: bool,
    /// Carrying protocol.
    pub protocol: Protocol,
    /// Its exchanges, each once.
    pub stats: LlmStats,
    /// Latest word on quota.
    pub rate_limit: Option<EndpointRateLimit>,
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

/// Single exchanges.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Requests {
    /// Oldest first, capped.
    pub in_flight: Vec<Request>,
    /// How many the cap left out.
    pub in_flight_omitted: u64,
    /// Ended, newest first, capped.
    pub recent: Vec<Request>,
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
    /// `internal` where both ends are processes of this host: the other one has a row of its own.
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
    /// See [`Latency`].
    pub time_to_headers_seconds: Option<f64>,
    /// See [`Latency`].
    pub time_to_first_token_seconds: Option<f64>,
    /// See [`Latency`].
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
    /// So far.
    pub tokens: TokenTotals,
    /// Where the counts come from.
    pub tokens_source: TokensSource,
    /// US dollars.
    pub cost_usd: Option<f64>,
    /// Bytes of it that were lost.
    pub bytes_missed: u64,
}

/// What kind of leg an exchange is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Hop {
    /// Between two processes of this host: both ends are observed, and each has a row.
    Internal,
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

/// One GPU.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Gpu {
    /// Index.
    pub index: u32,
    /// Identity.
    pub uuid: Label,
    /// Product.
    pub name: Label,
    /// nvidia, amd, intel.
    pub vendor: Label,
    /// Driver version.
    pub driver: Option<Label>,
    /// 100 is one GPU.
    pub utilization_percent: Option<f64>,
    /// Memory bus.
    pub memory_utilization_percent: Option<f64>,
    /// Memory in use.
    pub memory_used_bytes: Option<u64>,
    /// Memory.
    pub memory_total_bytes: Option<u64>,
    /// Power.
    pub power_watts: Option<f64>,
    /// Limit.
    pub power_limit_watts: Option<f64>,
    /// Energy counter.
    pub energy_joules_total: Option<f64>,
    /// Temperature.
    pub temperature_celsius: Option<f64>,
    /// Clock.
    pub sm_clock_mhz: Option<u32>,
    /// Memory clock.
    pub memory_clock_mhz: Option<u32>,
    /// Why clocks are low.
    pub throttle_reasons: Vec<Label>,
    /// To the GPU.
    pub pcie_rx_bytes_per_second: Option<f64>,
    /// From the GPU.
    pub pcie_tx_bytes_per_second: Option<f64>,
    /// Uncorrected memory errors.
    pub ecc_uncorrected_total: Option<u64>,
    /// MIG instances.
    pub instances: Vec<GpuInstance>,
    /// Who uses it.
    pub processes: Vec<GpuProcess>,
    /// Age of the numbers where the driver does not answer.
    pub stale_seconds: Option<f64>,
}

/// A MIG instance.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct GpuInstance {
    /// Identity.
    pub id: Label,
    /// For example 1g.10gb.
    pub profile: Label,
    /// Memory in use.
    pub memory_used_bytes: Option<u64>,
    /// Memory.
    pub memory_total_bytes: Option<u64>,
}

/// A process on a GPU.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct GpuProcess {
    /// Process.
    pub pid: u32,
    /// MIG instance.
    pub instance: Option<Label>,
    /// 100 is one GPU.
    pub sm_percent: Option<f64>,
    /// GPU memory.
    pub memory_bytes: Option<u64>,
}

/// A local inference server's own word.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Engine {
    /// Process.
    pub pid: u32,
    /// vllm, sglang, llama.cpp ...
    pub kind: Label,
    /// Where it was asked.
    pub endpoint: Label,
    /// Loaded models.
    pub models: Vec<Label>,
    /// Running.
    pub requests_running: Option<f64>,
    /// Waiting.
    pub requests_waiting: Option<f64>,
    /// KV cache in use.
    pub kv_cache_percent: Option<f64>,
    /// Prefix cache hits.
    pub prefix_cache_hit_percent: Option<f64>,
    /// Preempted requests.
    pub preemptions_total: Option<u64>,
    /// Its own count.
    pub input_tokens_total: Option<u64>,
    /// Its own count.
    pub output_tokens_total: Option<u64>,
    /// hbpf's count against its own.
    pub agreement_percent: Option<f64>,
    /// Age of the numbers.
    pub stale_seconds: Option<f64>,
}

/// The machine.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Host {
    /// Name.
    pub hostname: Label,
    /// Kernel release.
    pub kernel: Label,
    /// Architecture.
    pub arch: Label,
    /// Online CPUs.
    pub cpu_count: u32,
    /// All cores together, 100 is all of them busy; null until two samples exist.
    pub cpu_percent: Option<f64>,
    /// Per core.
    pub cores_percent: Vec<f64>,
    /// Load average.
    pub load_1m: Option<f64>,
    /// Memory.
    pub memory_total_bytes: Option<u64>,
    /// Total minus available.
    pub memory_used_bytes: Option<u64>,
    /// Swap.
    pub swap_used_bytes: Option<u64>,
    /// PSI.
    pub pressure: Pressure,
}

/// Pressure stall information, percent over 10 s.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Pressure {
    /// CPU.
    pub cpu_some_percent: Option<f64>,
    /// I/O.
    pub io_some_percent: Option<f64>,
    /// Memory.
    pub memory_some_percent: Option<f64>,
}

/// Probes, losses and own cost.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Capture {
    /// Each program and where it is attached.
    pub probes: Vec<Probe>,
    /// Pieces of streams that reached user space.
    pub chunks_total: u64,
    /// Their bytes.
    pub bytes_total: u64,
    /// Client messages judged not to be model calls.
    pub messages_ignored_total: u64,
    /// What was lost, by cause.
    pub lost: Lost,
    /// What each group of probes costs.
    #[serde(default)]
    pub groups: Vec<GroupCost>,
    /// What all of it costs, and what it may.
    #[serde(default)]
    pub overhead: Overhead,
    /// What hbpf itself uses.
    #[serde(rename = "self")]
    pub self_cost: SelfCost,
}

/// What a group of probes costs, over the last seconds; null where it is not known.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct GroupCost {
    /// llm-tls, llm-plain, ...
    pub group: Label,
    /// On where any of its probes is.
    pub state: ProbeState,
    /// Its eBPF programs; 100 is one core.
    pub kernel_cpu_percent: Option<f64>,
    /// The traps that lead to them, estimated; 100 is one core. 0 where there are none.
    pub trap_cpu_percent_estimated: Option<f64>,
}

/// The cost of observing: eBPF programs, the traps that lead to them (estimated), and hbpf's own processes, over the last
/// seconds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Overhead {
    /// 100 is all cores of the machine; null until it is known.
    pub percent: Option<f64>,
    /// What it may be; null where nothing was set.
    pub budget_percent: Option<f64>,
    /// What was given up for it.
    pub level: OverheadLevel,
    /// Payload bytes that may be copied per second; null where as many are copied as come.
    pub bytes_per_second_limit: Option<u64>,
    /// Processes without model traffic that TLS probes were taken out of.
    pub excluded_processes: u32,
}

/// What is given up to keep the overhead within its budget; each includes what comes before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OverheadLevel {
    /// Nothing.
    #[default]
    Full,
    /// TLS probes in processes that make many calls and no model calls.
    Excluded,
    /// Bytes: what is beyond a lowered limit is known by time and length only.
    Thinned,
    /// A group of probes.
    Detached,
}

/// One eBPF program at one place.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Probe {
    /// llm-tls, llm-plain, ...
    pub group: Label,
    /// Program name.
    pub program: Label,
    /// File, cgroup or hook.
    pub attached_to: Label,
    /// On, off or failed.
    pub state: ProbeState,
    /// Why it is off or failed.
    pub reason: Option<Text>,
    /// Runs, where the kernel counts them.
    pub runs_total: Option<u64>,
    /// Time in the program.
    pub run_seconds_total: Option<f64>,
    /// Time in the trap that leads to it, estimated; 0 where there is none. Like the two numbers above it is that of the
    /// program at all its places, and stands at each of them.
    pub trap_seconds_estimated: Option<f64>,
}

/// State of a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ProbeState {
    /// Attached.
    On,
    /// Switched off.
    Off,
    /// Could not be loaded or attached.
    Failed,
}

/// Losses by cause. Each counts occurrences, unless it says otherwise.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Lost {
    /// The ring was full.
    pub ring_full: LostRecords,
    /// Memory or packet could not be read.
    pub read_fault: u64,
    /// A kernel map was full.
    pub map_full: u64,
    /// More than may be copied, of one call or per second.
    pub over_budget: u64,
    /// Bytes that were not copied for that reason: of them only times and lengths are known.
    #[serde(default)]
    pub over_budget_bytes: u64,
    /// Gaps that the parsers met, whatever has made them: what counts above may count here, too.
    pub parse_gap: u64,
    /// Segments that contradict what was seen, lie where no segment can, were never taken, or had no room while they waited
    /// for one that was lost.
    pub desync: u64,
}

/// Lost records.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct LostRecords {
    /// Records.
    pub chunks: u64,
    /// Stream bytes.
    pub bytes: u64,
}

/// What hbpf itself uses.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SelfCost {
    /// Both processes; 100 is one core.
    pub cpu_percent: Option<f64>,
    /// Its eBPF programs.
    pub kernel_cpu_percent: Option<f64>,
    /// Both processes.
    pub resident_bytes: Option<u64>,
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

#[cfg(test)]
mod tests;
