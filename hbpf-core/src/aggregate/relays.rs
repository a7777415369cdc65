//! Exchanges that are passed on: a gateway asks another server on its client's behalf, and both exchanges are seen.
//!
//! Such a pair has no id in common. It is told by the process: one that calls a model while it serves a call passes it on, the
//! oldest first. In the totals the call counts that is nearest to the model, with one exception: what Ollama asks of the server
//! that it has started itself, which knows the model by a file's name only.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use crate::chunk::Pid;
use crate::exchange::{Api, Endpoint, Exchange, ExchangeId, Role};

/// Most gateways that are remembered. Those beyond are only told anew with each call.
const MAX_GATEWAYS: usize = 1024;

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
    is_passed_on: bool,
}

/// Where gateways listen.
type Place = (Option<IpAddr>, Option<u16>);

fn place(endpoint: &Endpoint) -> Place {
    (endpoint.address, endpoint.port)
}

/// Calls that are being served, and who is known to pass them on.
#[derive(Debug, Default)]
pub(super) struct Relays {
    serving: HashMap<Pid, Vec<Served>>,
    gateways: HashSet<Place>,
}

impl Relays {
    /// An exchange has begun. Gives the one that it passes on, if any, which is learned as a gateway's.
    pub(super) fn opened(&mut self, exchange: &Exchange) -> Option<Served> {
        let pid = exchange.pid?;
        match exchange.role {
            Role::Server => {
                let (id, api) = (exchange.id, exchange.api);
                let other = exchange.other_end.filter(|_| exchange.is_mirror);
                self.serving.entry(pid).or_default().push(Served { id, other, api, is_passed_on: false });
                None
            }
            Role::Client => {
                let served = self.serving.get_mut(&pid)?;
                let oldest = served.iter_mut().find(|it| !it.is_passed_on && same_kind(it.api, exchange.api))?;
                oldest.is_passed_on = true;
                Some(*oldest)
            }
        }
    }

    pub(super) fn ended(&mut self, exchange: &Exchange) {
        let Some(pid) = exchange.pid.filter(|_| exchange.role == Role::Server) else { return };
        if let Some(served) = self.serving.get_mut(&pid) {
            served.retain(|it| it.id != exchange.id);
            if served.is_empty() {
                self.serving.remove(&pid);
            }
        }
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
