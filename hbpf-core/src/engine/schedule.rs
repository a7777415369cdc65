//! Which connections have to be looked at, so that those that are idle cost nothing.

use std::collections::{BTreeSet, HashSet};
use std::time::Duration;

use crate::chunk::{ConnectionKey, Pid, Source};
use crate::time::Nanos;

use super::connection::Connection;

/// How long a connection without an exchange in flight is remembered. Its next message begins afresh anyway; a WebSocket's does
/// not, and is remembered for as long as an exchange is.
const IDLE_CONNECTION: Duration = Duration::from_secs(120);

/// How long an exchange may be silent before it is given up: its end was lost, or its peer vanished. Longer than the
/// half hour for which some vendors hold a call. A client that has ended its half of the connection waits no less.
const SILENT_EXCHANGE: Duration = Duration::from_secs(45 * 60);

/// A connection that was looked at is not due again at once.
const MIN_POSTPONED: Duration = Duration::from_nanos(1);

/// Connections by when and why they are looked at.
#[derive(Default)]
pub(super) struct Schedule {
    /// Every connection, at a time before which it need not be looked at for its silence.
    due: BTreeSet<(Nanos, ConnectionKey)>,
    /// Those that wait for a hole to be filled.
    waiting: HashSet<ConnectionKey, foldhash::fast::RandomState>,
    /// Those in the memory of processes, by process.
    of_processes: BTreeSet<ConnectionKey>,
}

/// What is to be done with a connection for its silence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Silence {
    /// Nothing yet.
    Short,
    /// Its exchanges are given up.
    OfExchange,
    /// It is forgotten.
    OfConnection,
}

impl Silence {
    pub(super) fn of(connection: &Connection, now: Nanos) -> Self {
        let silence = now.since(connection.last_heard());
        match connection.is_busy() {
            true if silence >= SILENT_EXCHANGE => Self::OfExchange,
            false if silence >= patience(connection) => Self::OfConnection,
            _ => Self::Short,
        }
    }
}

/// How long a connection may be silent.
fn patience(connection: &Connection) -> Duration {
    if connection.is_busy() || connection.is_patient() { SILENT_EXCHANGE } else { IDLE_CONNECTION }
}

impl Schedule {
    pub(super) fn add(&mut self, key: ConnectionKey, connection: &mut Connection, now: Nanos) {
        connection.noted.due = now.after(IDLE_CONNECTION);
        self.due.insert((connection.noted.due, key));
        if key.source != Source::Tcp {
            self.of_processes.insert(key);
        }
    }

    pub(super) fn remove(&mut self, key: ConnectionKey, connection: &Connection) {
        self.due.remove(&(connection.noted.due, key));
        self.of_processes.remove(&key);
        if connection.noted.is_waiting {
            self.waiting.remove(&key);
        }
    }

    /// Notes whether the connection waits for a hole to be filled.
    pub(super) fn note_waiting(&mut self, key: ConnectionKey, connection: &mut Connection) {
        let is_waiting = connection.is_waiting();
        if is_waiting == connection.noted.is_waiting {
            return;
        }
        connection.noted.is_waiting = is_waiting;
        if is_waiting {
            self.waiting.insert(key);
        } else {
            self.waiting.remove(&key);
        }
    }

    /// The connection is looked at again, when it can have been silent for long enough.
    pub(super) fn postpone(&mut self, key: ConnectionKey, connection: &mut Connection, now: Nanos) {
        // An exchange that has ended meanwhile leaves an idle connection.
        let due = connection
            .last_heard()
            .after(patience(connection))
            .min(now.after(IDLE_CONNECTION))
            .max(now.after(MIN_POSTPONED));
        connection.noted.due = due;
        self.due.insert((due, key));
    }

    /// Takes out the next connection that is due.
    pub(super) fn next_due(&mut self, now: Nanos) -> Option<ConnectionKey> {
        if self.due.first()?.0 > now {
            return None;
        }
        self.due.pop_first().map(|(_, key)| key)
    }

    /// The connections that wait for holes to be filled.
    pub(super) fn waiting(&self) -> Vec<ConnectionKey> {
        self.waiting.iter().copied().collect()
    }

    /// The connections in the memory of a process, and its standard input.
    pub(super) fn of_process(&self, pid: Pid) -> Vec<ConnectionKey> {
        let key = |source, handle, generation| ConnectionKey { source, pid: pid.0, handle, generation };
        let of = |source| self.of_processes.range(key(source, 0, 0)..=key(source, u64::MAX, u64::MAX)).copied();
        of(Source::Tls).chain(of(Source::Stdio)).collect()
    }
}
