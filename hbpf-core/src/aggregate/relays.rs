//! Exchanges that are passed on: a gateway asks another server on its client's behalf, and both exchanges are seen.
//!
//! Such a pair has no id in common. It is told by the process: one that calls a model while it serves a call passes it on, the
//! oldest first. In the totals the call counts that is nearest to the model, with one exception: what Ollama asks of the server
//! that it has started itself, which knows the model by a file's name only.

use std::collections::{HashMap, HashSet, VecDeque};
use std::net::IpAddr;

use crate::chunk::Pid;
use crate::exchange::{Api, Endpoint, Exchange, ExchangeId, Role};
use crate::time::Nanos;

/// Most gateways that are remembered. Those beyond are only told anew with each call.
const MAX_GATEWAYS: usize = 1024;

/// Calls of one process that are remembered for what it serves and is not known for yet: who serves a connection may be learned
/// when it answers.
const MAX_CALLS: usize = 64;

/// Processes whose calls are remembered so.
const MAX_CALLERS: usize = 1024;

/// Whether another exchange stands for this one in the totals, or counts in its stead.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Relay {
    #[default]
    No,
    /// It has been passed on.
    PassedOn,
    /// It is what a server asks of the one that does its work.
    Backend,
}

/// An exchange that a process serves.
#[derive(Clone, Copy, Debug)]
pub(super) struct Served {
    pub(super) id: ExchangeId,
    /// Its other end, where that stands for both.
    pub(super) other: Option<ExchangeId>,
    api: Api,
}

/// A call that nothing is known to be passed on by.
#[derive(Clone, Copy, Debug)]
struct Call {
    api: Api,
    opened_at: Nanos,
}

/// Where gateways listen.
type Place = (Option<IpAddr>, Option<u16>);

fn place(endpoint: &Endpoint) -> Place {
    (endpoint.address, endpoint.port)
}

/// Calls that are being served, and who is known to pass them on.
#[derive(Debug, Default)]
pub(super) struct Relays {
    /// Of each process those that it has neither passed on nor begun to answer, the oldest first.
    waiting: HashMap<Pid, VecDeque<Served>>,
    calls: HashMap<Pid, VecDeque<Call>>,
    gateways: HashSet<Place>,
}

impl Relays {
    /// A process has begun to call a model. Gives what it passes on, if anything.
    pub(super) fn calls(&mut self, exchange: &Exchange) -> Option<Served> {
        let (pid, api) = (exchange.pid?, exchange.api);
        if let Some(served) = self.take(pid, |waiting| same_kind(waiting.api, api)) {
            return Some(served);
        }
        if self.calls.len() >= MAX_CALLERS && !self.calls.contains_key(&pid) {
            // Ends of processes were not told. What goes is of use only where it is learned late who serves.
            self.calls.clear();
        }
        let calls = self.calls.entry(pid).or_default();
        if calls.len() >= MAX_CALLS {
            calls.pop_front();
        }
        calls.push_back(Call { api, opened_at: exchange.opened_at });
        None
    }

    /// A process is known to serve a call, which is given if it has passed it on already.
    pub(super) fn serves(&mut self, exchange: &Exchange) -> Option<Served> {
        let (pid, id, api) = (exchange.pid?, exchange.id, exchange.api);
        let served = Served { id, other: exchange.other_end.filter(|_| exchange.is_mirror), api };
        let made_for_it = |call: &Call| call.opened_at >= exchange.opened_at && same_kind(call.api, api);
        if let Some(calls) = self.calls.get_mut(&pid)
            && let Some(position) = calls.iter().position(made_for_it)
        {
            calls.remove(position);
            return Some(served);
        }
        self.waiting.entry(pid).or_default().push_back(served);
        None
    }

    /// A server has begun to answer, or the exchange is over: it will not be passed on any more.
    pub(super) fn answered(&mut self, exchange: &Exchange) {
        if let Some(pid) = exchange.pid.filter(|_| exchange.role == Role::Server) {
            self.take(pid, |waiting| waiting.id == exchange.id);
        }
    }

    fn take(&mut self, pid: Pid, is_it: impl Fn(&Served) -> bool) -> Option<Served> {
        let waiting = self.waiting.get_mut(&pid)?;
        let served = waiting.iter().position(is_it).and_then(|position| waiting.remove(position));
        if waiting.is_empty() {
            self.waiting.remove(&pid);
        }
        served
    }

    pub(super) fn process_exited(&mut self, pid: Pid) {
        self.calls.remove(&pid);
    }

    /// Calls to this place are passed on.
    pub(super) fn learn(&mut self, address: Option<IpAddr>, port: Option<u16>) {
        if self.gateways.len() < MAX_GATEWAYS && port.is_some() {
            self.gateways.insert((address, port));
        }
    }

    /// Whether calls to this place have been passed on before.
    pub(super) fn is_gateway(&self, endpoint: &Endpoint) -> bool {
        self.gateways.contains(&place(endpoint))
    }
}

/// Whether one call may be made to answer the other: who chats may look up something by its vector first.
fn same_kind(one: Api, other: Api) -> bool {
    let generates = |api| !matches!(api, Api::Embeddings | Api::Rerank);
    one == other || (generates(one) && generates(other))
}

/// Whether what a server asks is asked of the server that it has started itself.
pub(super) fn is_backend(exchange: &Exchange) -> bool {
    exchange.comm.as_str() == "ollama" && exchange.endpoint.address.is_some_and(|address| address.is_loopback())
}
