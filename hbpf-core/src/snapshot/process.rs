//! Processes, and what holds them together.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Distribution, LlmStats, ProcessGpu};
use crate::exchange::Role;
use crate::label::{Label, Text};

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
    /// The thread that uses most CPU. This, switches and time in the run queue are known of processes that are looked at
    /// closely: those that talk to models or use a GPU, and the busiest others. Threads that ended between two looks are in
    /// none of them; null where no other used any CPU.
    pub hottest_thread: Option<HottestThread>,
    /// Time that its threads, together, spent ready to run without a CPU; above 1 where several wait at once. Time in which its
    /// control group had spent its limit is in it: `cgroup.throttled_percent` tells the two apart.
    pub run_queue_seconds_per_second: Option<f64>,
    /// Voluntary and involuntary, of all threads.
    pub context_switches_per_second: Option<f64>,
    /// Those of them where a thread had to make way for another.
    #[serde(default)]
    pub involuntary_context_switches_per_second: Option<f64>,
    /// Resident memory.
    pub resident_bytes: Option<u64>,
    /// The part of it that is files and shared memory.
    #[serde(default)]
    pub shared_bytes: Option<u64>,
    /// Swapped memory, without that which is shared.
    pub swap_bytes: Option<u64>,
    /// Faults that read from disk.
    pub major_faults_per_second: Option<f64>,
    /// Block I/O.
    pub disk: Option<Disk>,
    /// TCP; null where the group `net` has seen nothing of it.
    pub network: Option<Network>,
    /// Accelerators' devices that it has opened; empty where the group `device` has seen none.
    #[serde(default)]
    pub devices: Vec<DeviceUse>,
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

impl Process {
    /// Whether anything was counted of its disks, connections or devices.
    pub fn is_counted(&self) -> bool {
        let has_disks = self.disk.as_ref().is_some_and(|disk| !disk.devices.is_empty());
        has_disks || self.network.is_some() || !self.devices.is_empty()
    }
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
    /// Read from disks: what was in the page cache is not in it.
    pub read_bytes_per_second: Option<f64>,
    /// Written, when it is handed to the page cache that will write it to disks.
    pub write_bytes_per_second: Option<f64>,
    /// From a request for the device to its completion: reads, writes, and others such as discards, on all devices; null where
    /// the group `block` has seen none.
    pub latency_seconds: Option<Distribution>,
    /// The same by device.
    #[serde(default)]
    pub devices: Vec<DiskDevice>,
}

/// Requests of a process to a block device, since the group `block` was first put in. What was written to the page cache
/// is written to the device by a kernel thread, and is not in it; [`Disk::write_bytes_per_second`] is of that.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct DiskDevice {
    /// nvme0n1, vda ...
    pub device: Label,
    /// Reads that are done.
    pub reads_total: u64,
    /// What they have read.
    pub read_bytes_total: u64,
    /// Writes that are done.
    pub writes_total: u64,
    /// What they have written.
    pub written_bytes_total: u64,
    /// From a request to read to its completion.
    pub read_latency_seconds: Option<Distribution>,
    /// From a request to write to its completion.
    pub write_latency_seconds: Option<Distribution>,
}

/// TCP of a process, since the group `net` was first put in. Connections that were there before have no part in it, and
/// one that a server has accepted counts with the process that listens.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Network {
    /// SYN to established, of connections that it asked for, IPv4 and IPv6.
    pub connect_seconds: Option<Distribution>,
    /// Connections that it asked for and that were refused or not answered.
    #[serde(default)]
    pub connects_failed_total: u64,
    /// Segments sent again.
    pub retransmits_total: Option<u64>,
    /// Established connections that ended without a FIN: reset by either side, or given up.
    pub resets_total: Option<u64>,
}

/// An accelerator's device (NVIDIA, DRI, KFD) that a process has opened, since the group `device` was first put in.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct DeviceUse {
    /// nvidia0, dri/renderD128 ...
    pub device: Label,
    /// How often it was opened. An attempt counts as well, as does a question whether it may be opened (`access`).
    pub opens_total: u64,
    /// How many of its openings are over, by the time of the latest look at what it holds; null where what it held before is
    /// not known.
    pub closes_total: Option<u64>,
    /// Openings that it holds now, or shares with others. Descriptors that were made of one another count as one.
    pub open: Option<u32>,
}

/// Limits of the control group, and how far they are used. A limit may be set on any group above, too: the tightest is
/// meant, and the use is that of the group which has it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Cgroup {
    /// In the hierarchy.
    pub path: Text,
    /// CPU quota; null without one.
    pub cpu_limit_cores: Option<f64>,
    /// CPU that the group with the quota uses, or the process's own group; 100 is one core.
    #[serde(default)]
    pub cpu_percent: Option<f64>,
    /// Part of the quota's periods, since the sample before, in which it was used up; null without a quota.
    pub throttled_percent: Option<f64>,
    /// Memory limit; null without one.
    pub memory_limit_bytes: Option<u64>,
    /// Memory in use, page cache included, by the group with the limit, or the process's own group.
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

/// TLS connections of a process with a host that is known for models, as seen from outside: from their server names, the
/// sizes and the times of what passes. Most of it is there for what cannot be read; for the rest it is a check.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct EncryptedTraffic {
    /// Who has the connections; null where that is not known.
    pub pid: Option<u32>,
    /// With `pid`, its identity.
    pub start_time: Option<Timestamp>,
    /// Its name.
    pub command: Label,
    /// Which end it is.
    pub role: Role,
    /// The server's name in the handshake; null where the client sent none.
    pub host: Option<Label>,
    /// The server's address, where it has no name.
    pub address: Option<std::net::IpAddr>,
    /// The server's port.
    pub port: Option<u16>,
    /// Who serves at that host.
    pub provider: Label,
    /// Whether exchanges with this host were seen inside TLS; null before there was time to.
    pub read: Option<bool>,
    /// Connections that began since hbpf looks.
    pub connections_total: u64,
    /// Those that have not ended.
    pub connections_open: u64,
    /// Bytes that the process has sent in them, TLS's own included.
    pub bytes_sent_total: u64,
    /// Bytes that it has received.
    pub bytes_received_total: u64,
    /// Answers that have begun: an estimate of requests, from who sends when. Requests that overlap on one connection are
    /// fewer than they are, what else travels in both directions is more.
    pub requests_estimated_total: u64,
    /// From the last bytes of a client's turn to the first that answer.
    pub time_to_first_byte_seconds: Option<Distribution>,
    /// When the first of them was seen.
    pub first_at: Timestamp,
    /// When the latest was seen of them.
    pub last_at: Timestamp,
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

/// Processes that belong together, and what they do for models or with GPUs. Others are no workload.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Workload {
    /// Identifies the workload.
    pub key: Label,
    /// What people call it.
    #[serde(default)]
    pub name: Label,
    /// What holds it together.
    pub kind: WorkloadKind,
    /// Those of its processes that are in this frame and run. What follows is of them.
    pub pids: Vec<u32>,
    /// 100 is one core.
    pub cpu_percent: Option<f64>,
    /// Resident memory; what is shared counts with each process.
    #[serde(default)]
    pub resident_bytes: Option<u64>,
    /// 100 is one GPU.
    pub gpu_percent: Option<f64>,
    /// GPU memory.
    pub gpu_memory_bytes: Option<u64>,
    /// Its share of GPU power.
    pub gpu_power_watts: Option<f64>,
    /// Exchanges in which one of its processes sent the request to another workload, or out of the host.
    pub as_client: Option<LlmStats>,
    /// Exchanges in which one of its processes received the request from another workload, or from elsewhere.
    pub as_server: Option<LlmStats>,
    /// Exchanges between two of its processes, each once: those of a router with the backends beside it, which are not in
    /// `as_client` and `as_server`.
    #[serde(default)]
    pub within: Option<LlmStats>,
    /// Output tokens per second over the window, for each GPU that it uses; like the two that follow of `as_server`, or
    /// where it has served nobody of `within`, or else of `as_client`. Null where no tokens flow.
    #[serde(default)]
    pub tokens_per_second_per_gpu: Option<f64>,
    /// Output tokens per second over `gpu_power_watts`: tokens per joule at the window's pace.
    pub tokens_per_joule: Option<f64>,
    /// US dollars an hour for its share of the GPUs, where a table of prices says what each costs.
    #[serde(default)]
    pub gpu_cost_usd_per_hour: Option<f64>,
    /// The same over its output tokens at the window's pace, per million.
    #[serde(default)]
    pub gpu_cost_usd_per_million_tokens: Option<f64>,
    /// CPU seconds per thousand output tokens, both over the window.
    pub cpu_seconds_per_1k_tokens: Option<f64>,
}

/// What holds a workload together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum WorkloadKind {
    /// A Kubernetes pod.
    Pod,
    /// A container.
    Container,
    /// A systemd unit.
    Unit,
    /// A process and its descendants.
    #[default]
    Tree,
    /// A whole host, where a snapshot is of many.
    Host,
}
