//! Facts about processes and the machine, from `/proc`.

mod command;
mod diag;
pub(crate) mod files;
mod machine;
mod owners;
pub(crate) mod stat;
mod users;

use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use hbpf_core::label::Label;
use hbpf_core::snapshot::{Host, TlsVisibility};

use crate::protocol::{ProcessInfo, ProcessSample, SocketQuery};
use machine::Machine;
use owners::Owners;
use stat::{Image, Stat};
use users::Users;

pub use machine::self_usage;

/// Processes remembered at a time.
const MAX_REMEMBERED: usize = 32_768;

/// How long a description holds: programs set their titles soon after they start.
const DESCRIPTION_HOLDS: Duration = Duration::from_secs(30);

/// Longest part read of `/proc/PID/status`; user and group stand in its beginning.
const MAX_STATUS_BYTES: usize = 4096;

/// What is known of processes.
#[derive(Debug)]
pub struct Table {
    proc_root: PathBuf,
    users: Users,
    machine: Machine,
    owners: Owners,
    described: HashMap<u32, Described>,
    usage: HashMap<u32, Usage>,
}

#[derive(Debug)]
struct Described {
    image: Image,
    when: Instant,
    info: ProcessInfo,
}

/// CPU time at the sample before.
#[derive(Debug)]
struct Usage {
    start_ticks: u64,
    cpu_ticks: u64,
    when: Instant,
    percent: Option<f64>,
}

impl Table {
    /// Knows nothing yet. `proc_root` is `/proc`, but in tests.
    pub fn new(proc_root: PathBuf) -> Self {
        Self {
            proc_root,
            users: Users::new(PathBuf::from("/etc/passwd")),
            machine: Machine::default(),
            owners: Owners::default(),
            described: HashMap::new(),
            usage: HashMap::new(),
        }
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
        let uid = effective_uid(&read("status", MAX_STATUS_BYTES))?;
        let executable = std::fs::read_link(directory.join("exe")).ok().map(|path| {
            let path = path.into_os_string().into_encoded_bytes();
            path.strip_suffix(b" (deleted)").map(<[u8]>::to_vec).unwrap_or(path)
        });
        let command_line = read("cmdline", command::MAX_COMMAND_LINE_BYTES);
        let info = ProcessInfo {
            pid,
            start_time_ns,
            parent_pid: stat.parent_pid,
            command: command::command(&stat.comm, &command_line, executable.as_deref()),
            executable: executable.as_deref().map(Label::from_bytes),
            uid,
            user: self.users.name(uid),
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

    /// The process has executed a program: what is known of it is no longer true.
    pub fn note_exec(&mut self, pid: u32) {
        self.described.remove(&pid);
    }

    /// The process has ended.
    pub fn note_exit(&mut self, pid: u32) {
        self.described.remove(&pid);
        self.usage.remove(&pid);
    }

    /// Use of the machine by these processes, and with `all` by all others but kernel threads. Ascending by pid.
    pub fn sample(&mut self, pids: &[u32], all: bool) -> Vec<ProcessSample> {
        let mut wanted: BTreeSet<u32> = pids.iter().copied().take(MAX_REMEMBERED).collect();
        if all {
            wanted.extend(files::pids(&self.proc_root).into_iter().take(MAX_REMEMBERED));
        }
        let samples = wanted.iter().filter_map(|pid| self.sample_one(*pid)).collect();
        if all {
            self.usage.retain(|pid, _| wanted.contains(pid));
        } else if self.usage.len() > 2 * MAX_REMEMBERED {
            self.usage.retain(|pid, _| pids.contains(pid));
        }
        samples
    }

    fn sample_one(&mut self, pid: u32) -> Option<ProcessSample> {
        let stat = Stat::read(&self.proc_root, pid).filter(|stat| !stat.kernel_thread)?;
        let now = Instant::now();
        let before = self.usage.get(&pid).filter(|before| before.start_ticks == stat.start_ticks);
        let elapsed = before.map(|before| now.duration_since(before.when));
        let percent = match (before, elapsed) {
            (Some(before), Some(elapsed)) if elapsed < machine::SHORTEST => before.percent,
            (Some(before), Some(elapsed)) => {
                let ticks = stat.cpu_ticks.saturating_sub(before.cpu_ticks);
                let seconds = ticks as f64 / procfs::ticks_per_second().max(1) as f64;
                Some(100.0 * seconds / elapsed.as_secs_f64())
            }
            _ => None,
        };
        if elapsed.is_none_or(|elapsed| elapsed >= machine::SHORTEST) {
            let Stat { start_ticks, cpu_ticks, .. } = stat;
            self.usage.insert(pid, Usage { start_ticks, cpu_ticks, when: now, percent });
        }
        Some(ProcessSample {
            pid,
            start_time_ns: stat.start_time_ns(),
            cpu_percent: percent,
            threads: stat.threads,
            resident_bytes: stat.resident_pages.saturating_mul(procfs::page_size()),
        })
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
}

/// Reads the bytes as each of the files that are read here.
#[cfg(feature = "fuzzing")]
pub(crate) fn parse_as_all(bytes: &[u8]) {
    if let Some(stat) = Stat::parse(bytes) {
        stat.start_time_ns();
    }
    effective_uid(bytes);
    let (comm, rest) = bytes.split_at(bytes.len().min(16));
    let label = command::command(comm, rest, None);
    assert!(label.as_str().chars().count() <= Label::MAX_CHARS);
    users::parse(bytes);
    diag::parse_as_all(bytes);
    machine::parse_as_all(bytes);
}

/// `Uid: REAL EFFECTIVE SAVED FILE-SYSTEM`
fn effective_uid(status: &[u8]) -> Option<u32> {
    let line = files::lines(status).find_map(|line| line.strip_prefix(b"Uid:"))?;
    files::fields(line).nth(1).and_then(files::number)
}
