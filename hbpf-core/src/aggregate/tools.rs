//! What is asked of MCP servers, by server, method and tool.

use std::collections::HashMap;

use super::keyed::{Key, Keyed};
use super::rates::Flow;
use super::requests::endpoint_label;
use super::stats::{Group, OTHER, Pool, final_samples};
use crate::chunk::Pid;
use crate::exchange::{Endpoint, Exchange, Protocol};
use crate::label::Label;
use crate::snapshot::{Process, Tool};
use crate::time::Nanos;

/// The answer that says that the answer comes elsewhere.
const ACCEPTED: u16 = 202;

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct ToolKey {
    server: Server,
    method: Label,
    tool: Option<Label>,
}

impl Key for ToolKey {
    const GROUP: Group = Group::Tools;
    const CAP: usize = 512;

    fn other(&self) -> Self {
        Self { server: Server::Called(OTHER.into()), method: OTHER.into(), tool: None }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Server {
    /// By itself, or by its place.
    Called(Label),
    /// By its program, since it has no place: the one of [`Programs::labels`] with that number.
    Program(usize),
}

/// Processes that serve tools on standard input and have not told their names.
#[derive(Debug, Default)]
struct Programs {
    by_pid: HashMap<Pid, usize>,
    /// The thread's name, until the host side tells the command.
    labels: Vec<Label>,
}

impl Programs {
    fn server(&mut self, exchange: &Exchange) -> Server {
        let Some(pid) = exchange.pid else { return Server::Called(exchange.comm.clone()) };
        if let Some(at) = self.by_pid.get(&pid) {
            return Server::Program(*at);
        }
        if self.labels.len() >= MAX_NAMES {
            return Server::Called(exchange.comm.clone());
        }
        let at = self.labels.len();
        self.labels.push(exchange.comm.clone());
        self.by_pid.insert(pid, at);
        Server::Program(at)
    }

    /// A process is called so. Several that are called alike are one from now on.
    fn name(&mut self, pid: Pid, command: &Label) {
        let Some(at) = self.by_pid.get_mut(&pid) else { return };
        match self.labels.iter().position(|label| label == command) {
            Some(known) => *at = known,
            None => self.labels[*at].clone_from(command),
        }
    }
}

/// Servers that have told their names, and what was asked.
#[derive(Debug)]
pub(super) struct Tools {
    rows: Keyed<ToolKey, ()>,
    /// `None` for a place at which several have told theirs.
    names: HashMap<Endpoint, Option<Label>>,
    programs: Programs,
}

/// Servers whose names are remembered, and servers that have none.
const MAX_NAMES: usize = 512;

impl Tools {
    pub(super) fn new() -> Self {
        Self { rows: Keyed::new(), names: HashMap::new(), programs: Programs::default() }
    }

    /// A call is over. Of one that is seen from both ends, one end counts.
    pub(super) fn ended(&mut self, when: Nanos, exchange: &Exchange, pool: &mut Pool) {
        let Some(call) = exchange.tool_call.as_ref().filter(|_| !exchange.is_mirror) else { return };
        let own_name = exchange.response_model.as_ref();
        if let Some(name) = own_name.filter(|_| exchange.protocol != Protocol::Stdio) {
            self.learn(&exchange.endpoint, name);
        }
        let learned = || self.names.get(&exchange.endpoint)?.as_ref();
        let server = match own_name.or_else(learned) {
            Some(name) => Server::Called(name.clone()),
            None if exchange.protocol == Protocol::Stdio => self.programs.server(exchange),
            None => Server::Called(endpoint_label(exchange)),
        };
        let key = ToolKey { server, method: call.method.clone(), tool: call.name.clone() };
        let stats = self.rows.resolve(key, pool, when).stats;
        pool.attach(stats, when, exchange);
        if exchange.status != Some(ACCEPTED) {
            for sample in final_samples(exchange) {
                pool.record(std::iter::once(stats), when, &sample);
            }
        }
        pool.finish(std::iter::once(stats), when, exchange, &Flow::default(), None);
    }

    fn learn(&mut self, endpoint: &Endpoint, name: &Label) {
        let has_room = self.names.len() < MAX_NAMES;
        match self.names.get_mut(endpoint) {
            Some(known) if known.as_ref() == Some(name) => {}
            Some(known) => *known = None,
            None if has_room => {
                self.names.insert(endpoint.clone(), Some(name.clone()));
            }
            None => {}
        }
    }

    /// The processes that the host side should know.
    pub(super) fn pids(&self) -> impl Iterator<Item = Pid> {
        self.programs.by_pid.keys().copied()
    }

    /// The process has ended: its number may be another's.
    pub(super) fn process_exited(&mut self, pid: Pid) {
        self.programs.by_pid.remove(&pid);
    }

    /// Learns from the host side what processes are called.
    pub(super) fn reconcile(&mut self, facts: &[Process]) {
        if self.programs.by_pid.is_empty() {
            return;
        }
        for process in facts.iter().filter(|process| !process.exited && !process.command.is_empty()) {
            self.programs.name(Pid(process.pid), &process.command);
        }
    }

    /// Those that were called most first.
    pub(super) fn frame(&self, pool: &mut Pool, now: Nanos) -> Vec<Tool> {
        let mut rows: Vec<_> = self.rows.iter().map(|(key, row)| (key.clone(), row.stats)).collect();
        rows.sort_by(|(a, of_a), (b, of_b)| pool[*of_b].requests().cmp(&pool[*of_a].requests()).then_with(|| a.cmp(b)));
        let row = |(key, stats): (ToolKey, _)| {
            let stats = pool.frame(stats, now);
            Tool {
                server: match key.server {
                    Server::Called(name) => name,
                    Server::Program(at) => self.programs.labels[at].clone(),
                },
                method: key.method,
                tool: key.tool,
                calls_total: stats.requests_total,
                errors_total: stats.failed_total,
                duration_seconds: stats.latency.since_start.duration_seconds,
            }
        };
        rows.into_iter().map(row).collect()
    }
}
