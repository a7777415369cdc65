//! Connections whose owner is being looked up, and what has ended on them meanwhile.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use crate::chunk::ConnectionKey;
use crate::time::Nanos;

use super::tracked::Tracked;

/// How long it is waited for the connection itself to tell its owner before anybody is asked. Many answers come within
/// that time; and a process that accepts connections for others has let go of them by then.
const ASK_AFTER: Duration = Duration::from_millis(100);

/// How long an exchange waits to learn its process before it is reported with the one that is presumed.
const OWNER_PATIENCE: Duration = Duration::from_millis(500);

/// Connections with events held back until their owner is known.
#[derive(Default)]
pub(super) struct Unsettled {
    connections: HashMap<ConnectionKey, Waiting>,
    /// In the order in which they began to wait; some are settled already.
    order: VecDeque<(Nanos, ConnectionKey)>,
    /// The same, but for those that were asked about.
    unasked: VecDeque<(Nanos, ConnectionKey)>,
    memory: usize,
}

struct Waiting {
    since: Nanos,
    /// Its owner was asked for.
    is_asked: bool,
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

    /// The connection waits from now on, if it does not already.
    pub(super) fn begin(&mut self, key: ConnectionKey, now: Nanos) {
        if let Entry::Vacant(entry) = self.connections.entry(key) {
            entry.insert(Waiting { since: now, is_asked: false, ended: Vec::new() });
            self.order.push_back((now, key));
            self.unasked.push_back((now, key));
        }
    }

    /// The next connection whose owner has to be asked for.
    pub(super) fn next_to_ask(&mut self, now: Nanos) -> Option<ConnectionKey> {
        let key = next(&mut self.unasked, &self.connections, now, ASK_AFTER)?;
        if let Some(waiting) = self.connections.get_mut(&key) {
            waiting.is_asked = true;
        }
        Some(key)
    }

    /// Whether the connection waits, and its owner was asked for since it does.
    pub(super) fn is_asked(&self, key: ConnectionKey) -> bool {
        self.connections.get(&key).is_some_and(|waiting| waiting.is_asked)
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
        let patience = if all { Duration::ZERO } else { OWNER_PATIENCE };
        next(&mut self.order, &self.connections, now, patience)
    }
}

/// Takes the next connection out of the queue that has waited for so long and still waits.
fn next(
    queue: &mut VecDeque<(Nanos, ConnectionKey)>,
    connections: &HashMap<ConnectionKey, Waiting>,
    now: Nanos,
    patience: Duration,
) -> Option<ConnectionKey> {
    while let Some((since, key)) = queue.front().copied() {
        let is_settled = connections.get(&key).is_none_or(|waiting| waiting.since != since);
        if !is_settled && now.since(since) < patience {
            return None;
        }
        queue.pop_front();
        if !is_settled {
            return Some(key);
        }
    }
    None
}
