//! Facts about processes and the machine, from `/proc`.

pub(crate) mod files;
pub(crate) mod stat;

use std::path::PathBuf;

use hbpf_core::snapshot::Host;

use crate::protocol::{ProcessInfo, ProcessSample, SocketQuery};

/// What is known of processes.
#[derive(Debug)]
pub struct Table {
    proc_root: PathBuf,
}

impl Table {
    /// Knows nothing yet. `proc_root` is `/proc`, but in tests.
    pub fn new(proc_root: PathBuf) -> Self {
        Self { proc_root }
    }

    /// What the process is; `None` where there is no such process or it is a kernel thread. The TLS fields are left
    /// empty: [`crate::discover::Libraries::visibility`] knows them.
    pub fn describe(&mut self, _pid: u32) -> Option<ProcessInfo> {
        let _ = &self.proc_root;
        None
    }

    /// The process has executed a program: what is known of it is no longer true.
    pub fn note_exec(&mut self, _pid: u32) {}

    /// The process has ended.
    pub fn note_exit(&mut self, _pid: u32) {}

    /// Use of the machine by these processes, and with `all` by all others but kernel threads.
    pub fn sample(&mut self, _pids: &[u32], _all: bool) -> Vec<ProcessSample> {
        Vec::new()
    }

    /// The machine.
    pub fn host_sample(&mut self) -> Host {
        Host::default()
    }

    /// Finds the processes that hold these sockets: pairs of cookie and process, for those that were found.
    pub fn find_owners(&mut self, _queries: &[SocketQuery]) -> Vec<(u64, u32)> {
        Vec::new()
    }
}

/// CPU seconds used by this process since its start, and its resident bytes.
pub fn self_usage() -> (f64, u64) {
    (0.0, 0)
}
