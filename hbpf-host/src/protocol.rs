//! What the unprivileged side and the privileged helper say to each other over their socket pair.
//!
//! Each message is one `SOCK_SEQPACKET` datagram of at most [`MAX_MESSAGE_BYTES`], postcard-encoded. Whatever arrives is
//! untrusted: the helper bounds every list and string of a [`Request`] before acting on it.

use std::net::SocketAddr;

use hbpf_core::aggregate::WorkloadFacts;
use hbpf_core::inference::{EngineKind, Place};
use hbpf_core::label::{Label, Text};
use hbpf_core::snapshot::{Cgroup, Container, Gpu, Host, HottestThread, TlsVisibility};
use hbpf_ebpf::LifecycleEvent;
use serde::{Deserialize, Serialize};

/// Longest message in either direction.
pub const MAX_MESSAGE_BYTES: usize = 64 * 1024;

/// Most verdicts in one request.
pub const MAX_VERDICTS: usize = 512;

/// Most process ids in one request, and most processes in one reply (longer lists take several replies).
pub const MAX_PROCESSES: usize = 128;

/// Most questions to servers that are open at a time. Each takes the helper a thread, and both sides a descriptor.
pub const MAX_QUESTIONS: usize = 32;

/// Most places in [`Server::listeners`].
pub const MAX_LISTENERS: usize = 16;

/// Most learned request-targets that the helper accepts in its life: a hostile client must not fill the map.
pub const MAX_LEARNED_TARGETS: usize = 1024;

/// Longest learned request-target, in bytes; longer paths are not matched in the kernel either.
pub const MAX_TARGET_BYTES: usize = 200;

/// Most processes in [`Status::tls_users`]: those with most calls are what a judgement about cost is about.
pub const MAX_TLS_USERS: usize = 32;

/// A set of probes that is switched on and off as one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Group {
    /// Uprobes on TLS libraries.
    LlmTls,
    /// Plain TCP at the root of cgroup v2.
    LlmPlain,
    /// Uprobes at what MCP servers read and write on standard input and output.
    Tools,
    /// Requests to block devices.
    Block,
    /// How TCP connections come about and fare.
    Net,
    /// Who opens accelerators' devices.
    Device,
}

impl Group {
    /// All groups, in the order in which they are shown.
    pub const ALL: [Self; 6] = [Self::LlmTls, Self::LlmPlain, Self::Tools, Self::Block, Self::Net, Self::Device];

    /// Those that show model traffic.
    pub const LLM: [Self; 2] = [Self::LlmTls, Self::LlmPlain];

    /// Those that are on where nothing else was asked for.
    pub const DEFAULT: [Self; 3] = [Self::LlmTls, Self::LlmPlain, Self::Tools];

    /// The name users see.
    pub fn name(self) -> &'static str {
        match self {
            Self::LlmTls => "llm-tls",
            Self::LlmPlain => "llm-plain",
            Self::Tools => "tools",
            Self::Block => "block",
            Self::Net => "net",
            Self::Device => "device",
        }
    }
}

/// From the unprivileged side to the helper.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Request {
    /// Load what is needed and attach these groups. Answered with [`Reply::Status`], whatever came of it.
    Attach(Vec<Group>),
    /// Detach these groups. Answered likewise.
    Detach(Vec<Group>),
    /// Processes, at most [`MAX_VERDICTS`], and whether they serve tools on standard input and output. (Judgements of connections
    /// go over a socket of their own, as lists of no more.)
    Servers(Vec<(u32, bool)>),
    /// A request-target (path without query) at which a model answered: capture it from its first byte from now on.
    Learn(String),
    /// Take a sample: [`Reply::Host`], [`Reply::Samples`], [`Reply::Details`], [`Reply::Gpu`], [`Reply::Counted`],
    /// [`Reply::Held`], then [`Reply::Status`] and last [`Reply::SampleEnd`].
    Sample {
        /// Echoed in [`Reply::SampleEnd`].
        sequence: u64,
        /// Processes to look at closely, at most [`MAX_PROCESSES`]. They are in the sample in any case.
        closely: Vec<u32>,
        /// Which others are in it.
        others: Others,
    },
    /// Look these processes up now and answer with [`Reply::Processes`]; at most [`MAX_PROCESSES`].
    Describe(Vec<u32>),
    /// Find the processes that hold these sockets; at most [`MAX_PROCESSES`]. Answered with [`Reply::Owners`].
    FindOwners(Vec<SocketQuery>),
    /// Look whether these processes are inference servers, and where they listen; at most [`MAX_PROCESSES`]. Answered with
    /// [`Reply::Servers`].
    FindServers(Vec<Suspect>),
    /// Ask a process where it listens. Answered with [`Reply::Asked`].
    Ask(Question),
    /// How much may be copied from now on.
    Limit(Limits),
    /// The TLS probes shall not be in these processes, at most [`MAX_PROCESSES`], and in all others they shall. An empty
    /// list puts them into all again.
    Exclude(Vec<u32>),
    /// Answer with [`Reply::Counted`] and [`Reply::Status`].
    Status,
    /// Detach everything and exit. Closing the socket does the same.
    Shutdown,
}

/// Which processes are sampled besides those that are looked at closely. Kernel threads never are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Others {
    /// As many as one percent of a core suffices for, in turn; the first time all of them.
    InTurn,
    /// All, whatever it takes.
    All,
}

/// What the kernel side may spend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Payload bytes copied per second, over all flows; 0 for as many as come.
    pub bytes_per_second: u64,
}

/// A judgement, as the kernel's map takes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowVerdict {
    /// `hbpf_ebpf::source`.
    pub source: u8,
    /// Process, for TLS.
    pub pid: u32,
    /// Connection object or socket cookie.
    pub handle: u64,
    /// Generation of the connection object.
    pub generation: u64,
    /// Message judged.
    pub message: u32,
    /// `hbpf_ebpf::action`.
    pub action: u32,
}

/// A socket whose owner is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SocketQuery {
    /// Socket cookie, echoed.
    pub cookie: u64,
    /// The process that is thought to own it (a listener's creator); 0 where none is known.
    pub hint: u32,
    /// This side.
    pub local: SocketAddr,
    /// The peer.
    pub remote: SocketAddr,
}

/// A process that may be an inference server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Suspect {
    /// Thread-group id.
    pub pid: u32,
    /// It has been seen to serve model traffic, whatever it is called.
    pub serves: bool,
}

/// A question to a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Question {
    /// Echoed.
    pub ticket: u64,
    /// The process that listens.
    pub pid: u32,
    /// As in [`ProcessInfo`]: no other process is meant.
    pub start_time_ns: u64,
    /// Where it listens. Nobody else is connected to.
    pub address: SocketAddr,
    /// What it is asked for.
    pub place: Place,
}

/// A process executed a program, or ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Lifecycle {
    /// `hbpf_ebpf::lifecycle`.
    pub kind: u32,
    /// Process.
    pub pid: u32,
    /// Monotonic nanoseconds.
    pub timestamp_ns: u64,
    /// Name at that moment.
    pub comm: Label,
}

impl Lifecycle {
    /// As the kernel tells it.
    pub(crate) fn of(event: &LifecycleEvent) -> Self {
        let LifecycleEvent { kind, pid, timestamp_ns, comm } = *event;
        let length = comm.iter().position(|byte| *byte == 0).unwrap_or(comm.len());
        Self { kind, pid, timestamp_ns, comm: Label::from_bytes(&comm[..length]) }
    }
}

/// From the helper to the unprivileged side.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Reply {
    /// The `EVENTS` ring's descriptor comes with this message.
    Ring {
        /// Size of its data area, in bytes.
        bytes: u32,
    },
    /// The `BELL` ring's descriptor comes with this message.
    Bell,
    /// Processes that executed a program or ended, in that order.
    Lifecycle(Vec<Lifecycle>),
    /// What is known of processes; also sent unasked for those that execute a program or load a TLS library.
    Processes(Vec<ProcessInfo>),
    /// The machine.
    Host(Box<Host>),
    /// Use of the machine by processes.
    Samples(Vec<ProcessSample>),
    /// The same, of those that are looked at closely.
    Details(Vec<ProcessDetail>),
    /// A GPU; at each [`Request::Sample`] all of them.
    Gpu(Box<Gpu>),
    /// What the programs have counted since the time before; at each [`Request::Sample`] and [`Request::Status`].
    Counted(Vec<Counted>),
    /// Devices that processes hold open; at each [`Request::Sample`], of those that have been looked at for it.
    Held(Vec<Held>),
    /// State of the probes; at each [`Request::Sample`] and whenever it changes.
    Status(Box<Status>),
    /// The sample is complete.
    SampleEnd {
        /// Of the request.
        sequence: u64,
        /// How often all processes have been gone through by now: those that miss some have ended.
        rounds: u64,
    },
    /// Owners of sockets, as far as they were found: cookie and process.
    Owners(Vec<(u64, u32)>),
    /// Those of the suspects that have the name of an inference server, or serve.
    Servers(Vec<Server>),
    /// Suspects that were not looked at, for there is a bound to what that may cost; at most [`MAX_PROCESSES`].
    NotLookedAt(Vec<u32>),
    /// The descriptor of a pipe with the answer comes with this message, unless it was refused.
    Asked {
        /// Of the request.
        ticket: u64,
        /// Why there is none.
        refused: Option<Refusal>,
    },
    /// Something that did not work, for the user to see.
    Error {
        /// Which part.
        source: Label,
        /// One line: what failed and what mends it.
        message: Text,
    },
}

/// Why a process was not asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Refusal {
    /// The process has ended, or does not listen there.
    NotThere,
    /// The helper has too much to do; the process was not spoken to.
    Busy,
    /// It did not work.
    Failed(Text),
}

/// A process that may be asked about itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Server {
    /// Thread-group id.
    pub pid: u32,
    /// As in [`ProcessInfo`].
    pub start_time_ns: u64,
    /// What its name says it is.
    pub kind: Option<EngineKind>,
    /// Its network namespace.
    pub namespace: u64,
    /// Where it listens, at most [`MAX_LISTENERS`].
    pub listeners: Vec<Listener>,
}

/// Where a process listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listener {
    /// Address and port.
    pub address: SocketAddr,
    /// Whether this is where such a server answers questions: its usual port, one that its command line names, or the only
    /// one that it has.
    pub expected: bool,
}

/// What a process is. Stays the same until it executes another program.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProcessInfo {
    /// Thread-group id.
    pub pid: u32,
    /// Start, in nanoseconds since boot (CLOCK_BOOTTIME, clock-tick resolution).
    pub start_time_ns: u64,
    /// Parent.
    pub parent_pid: u32,
    /// Name and redacted first arguments.
    pub command: Label,
    /// Path of the program.
    pub executable: Option<Label>,
    /// User's number.
    pub uid: u32,
    /// User's name.
    pub user: Option<Label>,
    /// The container it runs in.
    pub container: Option<Container>,
    /// The systemd unit it belongs to.
    pub unit: Option<Label>,
    /// What it belongs to together with others.
    pub workload: WorkloadFacts,
    /// What can be seen of its TLS traffic.
    pub tls: TlsVisibility,
    /// Why not all of it.
    pub tls_reason: Option<Text>,
    /// The probed library.
    pub tls_library: Option<Label>,
}

/// A process's use of the machine since the sample before.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProcessSample {
    /// Thread-group id.
    pub pid: u32,
    /// As in [`ProcessInfo`].
    pub start_time_ns: u64,
    /// 100 is one core; `None` at its first sample.
    pub cpu_percent: Option<f64>,
    /// Threads.
    pub threads: u32,
    /// Faults that had to wait for a disk; `None` at its first sample.
    pub major_faults_per_second: Option<f64>,
    /// Resident memory, give or take some hundred KiB: the kernel leaves out what its CPUs have yet to add up.
    pub resident_bytes: u64,
}

/// A process's use of the machine, as far as it takes a look at each of its threads and at its control group. What is
/// `None` the kernel does not tell, or needs two looks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProcessDetail {
    /// Thread-group id.
    pub pid: u32,
    /// As in [`ProcessInfo`].
    pub start_time_ns: u64,
    /// The thread that used most CPU; `None` also where none used any.
    pub hottest_thread: Option<HottestThread>,
    /// Time that its threads spent ready to run without a CPU.
    pub run_queue_seconds_per_second: Option<f64>,
    /// A thread waited for something.
    pub voluntary_switches_per_second: Option<f64>,
    /// A thread had to make way.
    pub involuntary_switches_per_second: Option<f64>,
    /// Resident memory, exact.
    pub resident_bytes: Option<u64>,
    /// Resident memory that is files or shared.
    pub shared_bytes: Option<u64>,
    /// Swapped memory.
    pub swap_bytes: Option<u64>,
    /// From disks.
    pub disk_read_bytes_per_second: Option<f64>,
    /// To disks, when pages are made dirty.
    pub disk_write_bytes_per_second: Option<f64>,
    /// Its control group; `None` in the root.
    pub cgroup: Option<Cgroup>,
}

/// Something that has happened in the kernel a number of times, in a process, to a device, within a time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counted {
    /// Thread-group id; 0 where it is not known.
    pub pid: u32,
    /// What.
    pub event: Event,
    /// The device's name; empty where it is about none.
    pub device: Label,
    /// `hbpf_ebpf::slot` of how long each took; 0 where nothing was timed.
    pub slot: u16,
    /// How often.
    pub count: u64,
    /// How long, all together.
    pub nanoseconds: u64,
    /// Bytes, all together.
    pub bytes: u64,
}

/// What the programs count: `hbpf_ebpf::tally`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Event {
    /// A read from a block device.
    DiskRead,
    /// A write to a block device.
    DiskWrite,
    /// Something else that a block device was asked for.
    DiskOther,
    /// A TCP connection was established.
    Connected,
    /// One was not.
    ConnectFailed,
    /// A segment was sent again.
    Retransmitted,
    /// A connection ended without a FIN.
    Reset,
    /// A device was opened.
    Opened,
}

impl Event {
    /// Whether it is about a block device.
    pub fn is_of_disk(self) -> bool {
        matches!(self, Self::DiskRead | Self::DiskWrite | Self::DiskOther)
    }
}

/// A number that stands for no event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no event has the number {0}")]
pub struct UnknownEvent(u16);

impl TryFrom<u16> for Event {
    type Error = UnknownEvent;

    fn try_from(kind: u16) -> Result<Self, UnknownEvent> {
        use hbpf_ebpf::tally;
        Ok(match kind {
            tally::DISK_READ => Self::DiskRead,
            tally::DISK_WRITE => Self::DiskWrite,
            tally::DISK_OTHER => Self::DiskOther,
            tally::CONNECTED => Self::Connected,
            tally::CONNECT_FAILED => Self::ConnectFailed,
            tally::RETRANSMITTED => Self::Retransmitted,
            tally::RESET => Self::Reset,
            tally::OPENED => Self::Opened,
            other => return Err(UnknownEvent(other)),
        })
    }
}

/// Openings of a device that a process holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// Thread-group id.
    pub pid: u32,
    /// The device's name.
    pub device: Label,
    /// How many, each once however many descriptors there are of it; `None` where it cannot be looked at.
    pub open: Option<u32>,
    /// How many are over; `None` where it is not known what the process held before, or holds now.
    pub closed: Option<u64>,
}

/// State of the kernel side.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Requests to attach or detach that have been handled: of a later one this says nothing yet.
    pub switches: u64,
    /// Every program at every place.
    pub probes: Vec<ProbeStatus>,
    /// Samples, starts and descriptions of processes that were left unsaid, since the other side did not take them.
    pub unsaid: u64,
    /// `hbpf_ebpf::counter`, summed over CPUs; `None` while nothing is loaded.
    pub counters: Option<[u64; hbpf_ebpf::counter::COUNT as usize]>,
    /// CPU of the helper process, and of the one that reads GPUs, since their start, in seconds.
    pub helper_cpu_seconds: f64,
    /// The process that reads GPUs, if there is one.
    pub gpu_reader_pid: Option<u32>,
    /// It has not read them yet, nor said why not.
    pub gpus_awaited: bool,
    /// Processes that have made TLS calls while probed, those with most calls first, at most [`MAX_TLS_USERS`].
    pub tls_users: Vec<TlsUser>,
    /// What a trap costs on this machine; `None` before it has been measured.
    pub trap_cost: Option<TrapCost>,
}

/// What a process has made of its TLS library since the probes were put in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TlsUser {
    /// Thread-group id.
    pub pid: u32,
    /// Calls that moved bytes or tried to.
    pub calls: u64,
    /// Client messages that began as model calls.
    pub model_messages: u64,
}

/// What the traps of uprobes cost the process that runs into them, besides the programs: measured with empty ones.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrapCost {
    /// At instructions that the kernel emulates.
    pub emulated: TrapTimes,
    /// At instructions that the kernel must single-step; `None` where that could not be measured.
    pub stepped: Option<TrapTimes>,
}

/// Nanoseconds per hit.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrapTimes {
    /// Of a probe at an instruction.
    pub entry_ns: f64,
    /// Of a probe at a return: its trap at the entry, which replaces the return address, and that at the return.
    pub return_ns: f64,
}

/// One program at one place.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProbeStatus {
    /// Its group.
    pub group: Group,
    /// Program name.
    pub program: Label,
    /// File, cgroup or hook.
    pub attached_to: Label,
    /// `None` while attached; else why not.
    pub off_because: Option<Text>,
    /// Whether `off_because` is a failure rather than a choice.
    pub failed: bool,
    /// Runs of the program, summed over all its places, where the kernel counts them.
    pub runs: Option<u64>,
    /// Time in the program, likewise.
    pub run_time_ns: Option<u64>,
    /// How often it was to run and did not, likewise (Linux 5.12): another program ran on that CPU, or one of its maps was
    /// being read.
    pub missed: Option<u64>,
    /// What leads to the program here; `None` where it is called without a trap (control groups, tracepoints).
    pub trap: Option<Trap>,
}

/// The trap that leads to a uprobe's program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trap {
    /// Where it is.
    pub kind: TrapKind,
    /// Whether the kernel must single-step the instruction that the probe has taken the place of.
    pub stepped: bool,
}

/// Where a trap is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TrapKind {
    /// At an instruction.
    Entry,
    /// At a return, after one at the function's first instruction that is there for this alone.
    Return,
    /// At a return; the trap at the function's first instruction is that of a probe that sits there anyway.
    ReturnBesideEntry,
}

impl TrapCost {
    /// Nanoseconds per hit; `None` where that could not be measured.
    pub fn of(&self, trap: Trap) -> Option<f64> {
        let times = if trap.stepped { self.stepped? } else { self.emulated };
        Some(match trap.kind {
            TrapKind::Entry => times.entry_ns,
            TrapKind::Return => times.return_ns,
            TrapKind::ReturnBesideEntry => (times.return_ns - times.entry_ns).max(0.0),
        })
    }
}
