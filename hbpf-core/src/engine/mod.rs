//! From pieces of streams to exchanges: follows every connection, judges each client message, and reports what happens
//! to each model call.

mod connection;
mod messages;
mod pairing;
mod tracked;
mod waiting;

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::time::Duration;

use crate::chunk::{Chunk, Close, ConnectionKey, Origin, Pid, Segment, Source, Verdict};
use crate::exchange::{Exchange, ExchangeEvent, ExchangeId};
use crate::time::Nanos;

use connection::Connection;
use pairing::Pairing;
use tracked::Tracked;
use waiting::Waiting;

/// Most connections followed at a time. An idle one holds no buffers; this bounds their bookkeeping to some 100 MB.
const MAX_CONNECTIONS: usize = 65_536;

/// How long a connection without an exchange in flight is remembered. Its next message begins afresh anyway.
const IDLE_CONNECTION: Duration = Duration::from_secs(120);

/// How long an exchange may be silent before it is given up: its end was lost, or its peer vanished. Longer than the
/// half hour for which some vendors hold a call.
const SILENT_EXCHANGE: Duration = Duration::from_secs(45 * 60);

/// The same once its client has ended its half of the connection: few clients do so and go on to wait.
const HALF_CLOSED_EXCHANGE: Duration = Duration::from_secs(60);

/// How long an exchange waits to learn its process before it is reported with the one that is presumed.
const OWNER_PATIENCE: Duration = Duration::from_millis(500);

/// Who is told what the engine finds out.
pub trait Observer {
    /// Something happened to an exchange at `when`.
    fn exchange(&mut self, when: Nanos, exchange: &Exchange, event: ExchangeEvent);
    /// The kernel side shall treat a message so.
    fn verdict(&mut self, verdict: Verdict);
    /// A model was called at this request-target (path without query), which no pattern of the kernel side covers.
    fn learned(&mut self, path: &str);
    /// A model call was found on a connection whose owner is uncertain: [`Engine::set_owner`] is awaited.
    fn owner_wanted(&mut self, connection: ConnectionKey, origin: &Origin);
}

/// What the engine could not follow. The numbers only grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Gaps in the bytes of model calls that were not left out on purpose.
    pub parse_gaps: u64,
    /// Bytes that contradict those already seen, or that are no HTTP where a message should begin.
    pub desyncs: u64,
    /// Connections that were not followed because there were too many.
    pub connections_refused: u64,
    /// Exchanges given up because nothing was heard of them for long.
    pub exchanges_given_up: u64,
}

/// Follows connections. See the module's documentation.
#[derive(Default)]
pub struct Engine {
    connections: HashMap<ConnectionKey, Connection>,
    waiting: Waiting,
    shared: Shared,
}

/// What connections have in common.
#[derive(Default)]
struct Shared {
    next_exchange: u64,
    pairing: Pairing,
    counters: Counters,
    /// Connections with events held back until their owner is known, and since when.
    unsettled: HashMap<ConnectionKey, Unsettled>,
}

struct Unsettled {
    since: Nanos,
    /// Exchanges that have ended meanwhile.
    ended: Vec<Tracked>,
}

impl Shared {
    fn next_id(&mut self) -> ExchangeId {
        self.next_exchange += 1;
        ExchangeId(self.next_exchange)
    }
}

impl Engine {
    /// An engine that has seen nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes a piece that is in stream order.
    pub fn chunk(&mut self, chunk: &Chunk<'_>, observer: &mut dyn Observer) {
        if let Some(connection) = self.connection(chunk.connection, chunk.when) {
            connection.0.chunk(chunk, connection.1, observer);
        }
    }

    /// Takes a TCP segment, in whatever order it came.
    pub fn segment(&mut self, segment: &Segment<'_>, observer: &mut dyn Observer) {
        if let Some(connection) = self.connection(segment.connection, segment.when) {
            connection.0.segment(segment, connection.1, observer);
        }
    }

    /// Takes a TCP segment for a connection that its server has not accepted yet. It is kept until that has happened.
    pub fn waiting_segment(&mut self, segment: &Segment<'_>) {
        self.waiting.keep(segment);
    }

    /// A connection of which [segments were waiting](Self::waiting_segment) has been accepted.
    pub fn accepted(&mut self, key: ConnectionKey, origin: &Origin, observer: &mut dyn Observer) {
        let Some(segments) = self.waiting.take(key) else {
            // It took too long, or there were too many: the request is lost.
            self.shared.counters.parse_gaps += 1;
            return;
        };
        for held in segments {
            let origin = held.origin(origin);
            self.segment(&held.segment(key, &origin), observer);
        }
    }

    /// A connection has ended.
    pub fn close(&mut self, key: ConnectionKey, how: Close, now: Nanos, observer: &mut dyn Observer) {
        if let Some(mut connection) = self.connections.remove(&key) {
            connection.close(how, now, &mut self.shared, observer);
        }
    }

    /// A process has ended: so have the TLS connections in its memory. (Sockets tell of their own end.)
    pub fn process_exited(&mut self, pid: Pid, now: Nanos, observer: &mut dyn Observer) {
        let of_process = |key: &ConnectionKey| key.pid == pid.0;
        for (_, mut connection) in self.connections.extract_if(|key, _| of_process(key)) {
            connection.close(Close::ProcessExited, now, &mut self.shared, observer);
        }
    }

    /// Nothing more will be heard of connections seen there: their exchanges are given up.
    pub fn lose_sight(&mut self, source: Source, now: Nanos, observer: &mut dyn Observer) {
        if source == Source::Tcp {
            self.waiting = Waiting::default();
        }
        for (_, mut connection) in self.connections.extract_if(|key, _| key.source == source) {
            connection.give_up(now, &mut self.shared, observer);
        }
    }

    /// The owner of a connection is known now; `None` says that nobody could be found.
    pub fn set_owner(&mut self, key: ConnectionKey, pid: Option<Pid>, observer: &mut dyn Observer) {
        let Some(unsettled) = self.shared.unsettled.remove(&key) else { return };
        for mut tracked in unsettled.ended {
            tracked.settle(pid, observer);
        }
        if let Some(connection) = self.connections.get_mut(&key) {
            connection.settle(pid, observer);
        }
    }

    /// Lets time pass: holes that will not be filled, owners that will not be found, silence. Call it about once a
    /// tenth of a second.
    pub fn tick(&mut self, now: Nanos, observer: &mut dyn Observer) {
        let overdue = |unsettled: &Unsettled| now.since(unsettled.since) >= OWNER_PATIENCE;
        let overdue: Vec<_> =
            self.shared.unsettled.iter().filter(|(_, unsettled)| overdue(unsettled)).map(|(key, _)| *key).collect();
        for key in overdue {
            self.set_owner(key, None, observer);
        }
        for connection in self.connections.values_mut() {
            connection.tick(now, &mut self.shared, observer);
        }
        let shared = &mut self.shared;
        self.connections.retain(|_, connection| {
            let silence = now.since(connection.last_heard());
            if connection.is_busy() {
                let patience = if connection.is_half_closed() { HALF_CLOSED_EXCHANGE } else { SILENT_EXCHANGE };
                if silence >= patience {
                    connection.give_up(now, shared, observer);
                }
                true
            } else {
                silence < IDLE_CONNECTION
            }
        });
        self.shared.pairing.expire(now);
        self.waiting.expire(now);
    }

    /// Exchanges that have not ended, in no order.
    pub fn in_flight(&self) -> impl Iterator<Item = &Exchange> {
        self.connections.values().flat_map(Connection::in_flight)
    }

    /// Whether time may pass without [`tick`](Self::tick).
    pub fn is_idle(&self) -> bool {
        self.connections.is_empty() && self.waiting.is_empty() && self.shared.unsettled.is_empty()
    }

    /// What could not be followed.
    pub fn counters(&self) -> Counters {
        self.shared.counters
    }

    fn connection(&mut self, key: ConnectionKey, now: Nanos) -> Option<(&mut Connection, &mut Shared)> {
        if self.connections.len() >= MAX_CONNECTIONS && !self.connections.contains_key(&key) {
            self.shared.counters.connections_refused += 1;
            return None;
        }
        let connection = match self.connections.entry(key) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => entry.insert(Connection::new(key, now)),
        };
        Some((connection, &mut self.shared))
    }
}
