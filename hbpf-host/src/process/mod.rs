//! Facts about processes and the machine, from `/proc`.

mod budget;
mod cgroup;
mod cgroup_path;
mod command;
mod container_names;
pub(crate) mod diag;
mod drm;
pub(crate) mod files;
mod held;
mod io;
mod listeners;
mod machine;
pub(crate) mod mountinfo;
mod owners;
mod sampler;
pub(crate) mod stat;
mod status;
mod threads;
mod users;
mod workload;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use hbpf_core::aggregate::WorkloadFacts;
use hbpf_core::label::Label;
use hbpf_core::snapshot::{Host, TlsVisibility};

use crate::protocol::{Held, Others, ProcessInfo, SocketQuery, Suspect};
use budget::Budget;
use cgroup_path::Paths;
use container_names::ContainerNames;
use listeners::{Found, Listeners};
use machine::Machine;
use owners::Owners;
use sampler::Sampler;
use stat::{Image, Stat};
use status::Status;
use users::Users;

pub(crate) use drm::DrmUse;
pub(crate) use listeners::Spent;
pub use machine::self_cpu_seconds;
pub use sampler::Samples;

/// Processes remembered at a time.
const MAX_REMEMBERED: usize = 32_768;

/// How long a description holds: programs set their titles soon after they start.
const DESCRIPTION_HOLDS: Duration = Duration::from_secs(10);

/// CPU time for describing those that begin to run a program: a part of one core, and so much at once, which is enough for a
/// thousand.
const STARTING_SHARE: f64 = 0.01;
const STARTING_BURST: Duration = Duration::from_millis(250);

/// What is known of processes.
#[derive(Debug)]
pub struct Table {
    proc_root: PathBuf,
    users: Users,
    machine: Machine,
    owners: Owners,
    container_names: ContainerNames,
    listeners: Listeners,
    described: HashMap<u32, Described>,
    starting: Budget,
    sampler: Sampler,
    drm: drm::Clients,
    held: held::Holdings,
}

#[derive(Debug)]
struct Described {
    image: Image,
    when: Instant,
    info: ProcessInfo,
}

impl Table {
    /// Knows nothing yet. `proc_root` is `/proc`, but in tests.
    pub fn new(proc_root: PathBuf) -> Self {
        let host = container_names::root(&proc_root);
        Self {
            sampler: Sampler::new(proc_root.clone()),
            drm: drm::Clients::new(proc_root.clone()),
            held: held::Holdings::new(proc_root.clone()),
            users: Users::new(host.join("etc/passwd")),
            machine: Machine::default(),
            owners: Owners::default(),
            container_names: ContainerNames::new(host),
            proc_root,
            listeners: Listeners::default(),
            described: HashMap::new(),
            starting: Budget::new(STARTING_SHARE, STARTING_BURST),
        }
    }

    /// As [`Self::describe`], of a process that has just begun to run a program: while there is time for that. Where very many
    /// begin, most end before anybody wants to know what they were; who is shown is described when he is.
    pub fn describe_started(&mut self, pid: u32) -> Option<ProcessInfo> {
        self.starting.begin();
        let info = if self.starting.is_left() { self.describe(pid) } else { None };
        self.starting.end();
        info
    }

    /// What the process is; `None` where there is no such process or it is a kernel thread. The TLS fields are left
    /// empty: [`crate::discover::Libraries::visibility`] knows them.
    pub fn describe(&mut self, pid: u32) -> Option<ProcessInfo> {
        let stat = Stat::read(&self.proc_root, pid).filter(|stat| !stat.kernel_thread)?;
        let start_time_ns = stat.start_time_ns();
        if let Some(known) = self.described.get(&pid) {
            let same = known.image == stat.image && known.info.start_time_ns == start_time_ns;
            if same && known.when.elapsed() < DESCRIPTION_HOLDS {
                return Some(known.info.clone());
            }
        }
        let directory = files::process(&self.proc_root, pid);
        let read = |name, limit| files::read(&directory.join(name), limit).map(|file| file.bytes).unwrap_or_default();
        let uid = Status::read(&directory)?.effective_uid?;
        let executable = executable(&directory);
        let command = command_of(&directory, &stat, executable.as_deref());
        let groups = read("cgroup", cgroup_path::MAX_BYTES);
        let groups = Paths::parse(&groups);
        let (mut container, unit) = (groups.container(), groups.unit());
        container.iter_mut().for_each(|container| self.container_names.name(container));
        let workload = workload::of_groups(container.as_ref(), unit.as_ref()).unwrap_or_else(|| self.tree_of(pid));
        let info = ProcessInfo {
            pid,
            start_time_ns,
            parent_pid: stat.parent_pid,
            command,
            executable: executable.as_deref().map(Label::from_bytes),
            uid,
            user: self.users.name(uid),
            container,
            unit: unit.map(|unit| unit.name),
            workload,
            tls: TlsVisibility::None,
            tls_reason: None,
            tls_library: None,
        };
        if self.described.len() >= MAX_REMEMBERED {
            self.described.retain(|_, known| known.when.elapsed() < DESCRIPTION_HOLDS);
            if self.described.len() >= MAX_REMEMBERED {
                self.described.clear();
            }
        }
        self.described.insert(pid, Described { image: stat.image, when: Instant::now(), info: info.clone() });
        Some(info)
    }

    /// The tree that a process belongs to which nothing else holds together with others.
    fn tree_of(&self, pid: u32) -> WorkloadFacts {
        let root = workload::root(&self.proc_root, pid);
        let directory = files::process(&self.proc_root, root);
        // It may have ended this moment.
        let stat = Stat::read_in(&directory);
        let command = stat.as_ref().map(|stat| command_of(&directory, stat, executable(&directory).as_deref()));
        workload::tree(root, stat.map_or(0, |stat| stat.start_ticks), command.unwrap_or_default())
    }

    /// The process has executed a program: what is known of it is no longer true.
    pub fn note_exec(&mut self, pid: u32) {
        self.described.remove(&pid);
    }

    /// The process has ended.
    pub fn note_exit(&mut self, pid: u32) {
        self.described.remove(&pid);
        self.sampler.note_exit(pid);
    }

    /// Use of the machine by processes: a close look at these, and a glance at others.
    pub fn sample(&mut self, closely: &[u32], others: Others) -> Samples {
        self.sampler.sample(closely, others)
    }

    /// CPU time of a process since its start.
    pub(crate) fn cpu_time(&self, pid: u32) -> Option<Duration> {
        Some(Duration::from_nanos(Stat::read(&self.proc_root, pid)?.cpu_ns()))
    }

    /// What GPUs are used for whose drivers tell it in /proc, by their place on the bus.
    pub(crate) fn drm_sample(&mut self) -> HashMap<String, DrmUse> {
        self.drm.sample()
    }

    /// From now on it is told who opens accelerators' devices.
    pub(crate) fn begin_watching_devices(&mut self) {
        self.held.begin();
    }

    /// A process has opened a device so many times.
    pub(crate) fn device_opened(&mut self, pid: u32, device: u32, count: u64) {
        self.held.opened(pid, device, count);
    }

    /// What processes hold of the devices that they have opened.
    pub(crate) fn devices_held(&mut self) -> Vec<Held> {
        self.held.look()
    }

    /// The machine.
    pub fn host_sample(&mut self) -> Host {
        self.machine.sample(&self.proc_root)
    }

    /// Finds the processes that hold these sockets: pairs of cookie and process, for those that were found. With a
    /// cookie of 0 only the addresses are compared.
    pub fn find_owners(&mut self, queries: &[SocketQuery]) -> Vec<(u64, u32)> {
        self.owners.find(&self.proc_root, queries)
    }

    /// Those of the suspects that may be inference servers, and where they listen.
    pub(crate) fn find_servers(&mut self, suspects: &[Suspect]) -> Found {
        self.listeners.find(&self.proc_root, suspects)
    }

    /// Whether this process listens there, in its own network namespace.
    pub(crate) fn listens(&mut self, pid: u32, address: SocketAddr) -> Result<bool, Spent> {
        self.listeners.listens(&self.proc_root, pid, address)
    }

    /// Start of a process, in nanoseconds since boot.
    pub(crate) fn start_time_ns(&self, pid: u32) -> Option<u64> {
        Some(Stat::read(&self.proc_root, pid)?.start_time_ns())
    }
}

/// The path of a process's program.
fn executable(directory: &Path) -> Option<Vec<u8>> {
    let path = std::fs::read_link(directory.join("exe")).ok()?.into_os_string().into_encoded_bytes();
    Some(path.strip_suffix(b" (deleted)").map(<[u8]>::to_vec).unwrap_or(path))
}

/// Its name and redacted first arguments.
fn command_of(directory: &Path, stat: &Stat, executable: Option<&[u8]>) -> Label {
    let line = files::read(&directory.join("cmdline"), command::MAX_COMMAND_LINE_BYTES).map(|file| file.bytes);
    command::command(&stat.comm, &line.unwrap_or_default(), executable)
}

/// Reads the bytes as each of the files that are read here.
#[cfg(feature = "fuzzing")]
pub(crate) fn parse_as_all(bytes: &[u8]) {
    if let Some(stat) = Stat::parse(bytes) {
        stat.start_time_ns();
    }
    Status::parse(bytes);
    io::Io::parse(bytes);
    threads::parse_as_all(bytes);
    let groups = Paths::parse(bytes);
    groups.container();
    groups.unit();
    cgroup::parse_as_all(bytes);
    drm::parse_as_all(bytes);
    let (comm, rest) = bytes.split_at(bytes.len().min(16));
    let label = command::command(comm, rest, None);
    assert!(label.as_str().chars().count() <= Label::MAX_CHARS);
    users::parse(bytes);
    diag::parse_as_all(bytes);
    machine::parse_as_all(bytes);
}
