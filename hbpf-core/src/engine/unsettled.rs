//! Connections whose owner is being looked up, and what has ended on them meanwhile.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use crate::chunk::ConnectionKey;
use crate::time::Nanos;

use super::tracked::Tracked;

/// How long an exchange waits to learn its process before it is reported with the one that is presumed.
const OWNER_PATIENCE: Duration = Duration::from_millis(500);

/// Connections with events held back until their owner is known.
#[derive(Default)]
pub(super) struct Unsettled {
    connections: HashMap<ConnectionKey, Waiting>,
    /// In the order in which they began to wait; some are settled already.
    order: VecDeque<(Nanos, ConnectionKey)>,
    memory: usize,
}

struct Waiting {
    since: Nanos,
    /// Exchanges that have ended.
    ended: Vec<Tracked>,
}

impl Unsettled {
    pub(super) fn is_empty(&self) -> bool {
        self.connections.is_empty()
    }

    /// Memory of what has ended, in bytes.
    pub(super) fn memory(&self) -> usize {
        self.memory
    }

    /// The connection waits from now on; `false` if it does already.
    pub(super) fn begin(&mut self, key: ConnectionKey, now: Nanos) -> bool {
        if self.connections.contains_key(&key) {
            return false;
        }
        self.connections.insert(key, Waiting { since: now, ended: Vec::new() });
        self.order.push_back((now, key));
        true
    }

    /// Keeps an exchange that has ended, if its connection waits.
    pub(super) fn keep(&mut self, key: ConnectionKey, tracked: Tracked) {
        if let Some(waiting) = self.connections.get_mut(&key) {
            let tracked = tracked.without_readers();
            self.memory += tracked.memory();
            waiting.ended.push(tracked);
        }
    }

    /// The connection waits no longer: gives what has ended on it.
    pub(super) fn take(&mut self, key: ConnectionKey) -> Option<Vec<Tracked>> {
        let waiting = self.connections.remove(&key)?;
        self.memory -= waiting.ended.iter().map(Tracked::memory).sum::<usize>();
        Some(waiting.ended)
    }

    /// The next connection that has waited long enough, or with `all` the next at all.
    pub(super) fn next_overdue(&mut self, now: Nanos, all: bool) -> Option<ConnectionKey> {
        while let Some((since, key)) = self.order.front().copied() {
            let is_settled = self.connections.get(&key).is_none_or(|waiting| waiting.since != since);
            if !is_settled && !all && now.since(since) < OWNER_PATIENCE {
                return None;
            }
            self.order.pop_front();
            if !is_settled {
                return Some(key);
            }
        }
        None
    }
}
