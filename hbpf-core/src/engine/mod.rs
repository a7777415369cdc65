//! From pieces of streams to exchanges: follows every connection, judges each client message, and reports what happens
//! to each model call.

mod connection;
mod messages;
mod pairing;
mod schedule;
mod socket;
mod stdio;
mod tracked;
mod unaccepted;
mod unsettled;

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use crate::chunk::{Chunk, Close, ConnectionKey, Origin, Pid, Segment, Source, Verdict};
use crate::exchange::{Exchange, ExchangeEvent, ExchangeId};
use crate::time::Nanos;

use connection::Connection;
use pairing::Pairing;
use schedule::{Schedule, Silence};
use unaccepted::Unaccepted;
use unsettled::Unsettled;

/// Most connections followed at a time. An idle one holds no buffers; this bounds their bookkeeping to some 100 MB.
const MAX_CONNECTIONS: usize = 65_536;

/// Memory for everything that connections hold beside that: exchanges in flight (about 6 KiB each), heads and segments
/// that are not complete, windows of decoders. Each is bounded by itself, but not times [`MAX_CONNECTIONS`]. This is
/// some ten thousand streams at a time, or several hundred compressed ones.
const MEMORY_BUDGET: usize = 64 * 1024 * 1024;

/// Who is told what the engine finds out.
pub trait Observer {
    /// Something happened to an exchange at `when`.
    fn exchange(&mut self, when: Nanos, exchange: &Exchange, event: ExchangeEvent);
    /// The kernel side shall treat a message so.
    fn verdict(&mut self, verdict: Verdict);
    /// A model was called at this request-target (path without query), which no pattern of the kernel side covers.
    fn learned(&mut self, path: &str);
    /// Model calls are held back for the owner of a connection, which has not told: [`Engine::owner_found`] is awaited.
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
    /// Exchanges given up because nothing was heard of them for long, or would be; each is a parse gap, too.
    pub exchanges_given_up: u64,
    /// Connections whose buffers were dropped because all of them together took too much memory.
    pub over_budget: u64,
}

/// Follows connections. See the module's documentation.
pub struct Engine {
    /// Looked up with every piece.
    connections: HashMap<ConnectionKey, Connection, foldhash::fast::RandomState>,
    schedule: Schedule,
    budget: usize,
    unaccepted: Unaccepted,
    shared: Shared,
}

/// What connections have in common.
#[derive(Default)]
struct Shared {
    next_exchange: u64,
    pairing: Pairing,
    counters: Counters,
    unsettled: Unsettled,
    /// Memory that connections are charged with.
    memory: usize,
}

impl Shared {
    fn next_id(&mut self) -> ExchangeId {
        self.next_exchange += 1;
        ExchangeId(self.next_exchange)
    }

    /// Charges a connection with what it holds now.
    fn charge(&mut self, connection: &mut Connection) {
        let memory = connection.memory();
        self.memory = self.memory - connection.noted.memory + memory;
        connection.noted.memory = memory;
    }

    /// Reports what has ended on a connection and waits for its owner. Returns whether the connection was waited for.
    fn settle_ended(&mut self, key: ConnectionKey, pid: Option<Pid>, observer: &mut dyn Observer) -> bool {
        let Some(ended) = self.unsettled.take(key) else { return false };
        for mut tracked in ended {
            tracked.settle(pid, observer);
        }
        true
    }

    fn memory(&self) -> usize {
        self.memory + self.unsettled.memory()
    }
}

impl Default for Engine {
    fn default() -> Self {
        Self::with_memory(MEMORY_BUDGET)
    }
}

impl Engine {
    /// An engine that has seen nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// One that holds at most so many bytes for what is under way. Beyond, the largest holders' buffers are dropped.
    pub fn with_memory(budget: usize) -> Self {
        Self {
            connections: HashMap::default(),
            schedule: Schedule::default(),
            unaccepted: Unaccepted::default(),
            budget,
            shared: Shared::default(),
        }
    }

    /// Takes a piece that is in stream order.
    pub fn chunk(&mut self, chunk: &Chunk<'_>, observer: &mut dyn Observer) {
        self.act(chunk.connection, chunk.when, observer, |connection, shared, observer| {
            connection.chunk(chunk, shared, observer);
        });
    }

    /// Takes a TCP segment, in whatever order it came.
    pub fn segment(&mut self, segment: &Segment<'_>, observer: &mut dyn Observer) {
        self.act(segment.connection, segment.when, observer, |connection, shared, observer| {
            connection.segment(segment, shared, observer);
        });
    }

    /// Takes a TCP segment for a connection that its server has not accepted yet. It is kept until that has happened.
    pub fn waiting_segment(&mut self, segment: &Segment<'_>) {
        self.unaccepted.keep(segment);
    }

    /// A connection of which [segments were waiting](Self::waiting_segment) has been accepted.
    pub fn accepted(&mut self, key: ConnectionKey, origin: &Origin, observer: &mut dyn Observer) {
        let Some(segments) = self.unaccepted.take(key) else {
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
        if let Some(mut connection) = self.remove(key) {
            connection.close(how, now, &mut self.shared, observer);
        }
    }

    /// A process has ended: so have the TLS connections in its memory and its standard input. (Sockets tell of
    /// their own end.)
    pub fn process_exited(&mut self, pid: Pid, now: Nanos, observer: &mut dyn Observer) {
        for key in self.schedule.of_process(pid) {
            self.close(key, Close::ProcessExited, now, observer);
        }
    }

    /// A process has executed another program: the TLS connections that were in its memory before that have ended.
    pub fn process_executed(&mut self, pid: Pid, now: Nanos, observer: &mut dyn Observer) {
        // Their generation is the time at which they were first seen.
        for key in self.schedule.of_process(pid).into_iter().filter(|key| key.generation < now.0) {
            self.close(key, Close::ProcessExited, now, observer);
        }
    }

    /// Nothing more will be heard of connections seen there: their exchanges are given up.
    pub fn lose_sight(&mut self, source: Source, now: Nanos, observer: &mut dyn Observer) {
        for mut connection in self.remove_all(source) {
            connection.give_up(now, &mut self.shared, observer);
        }
    }

    /// The same where the user has had the probes taken out: what is not seen for that is not lost, and not counted.
    pub fn look_away(&mut self, source: Source, now: Nanos, observer: &mut dyn Observer) {
        for mut connection in self.remove_all(source) {
            connection.look_away(now, &mut self.shared, observer);
        }
    }

    fn remove_all(&mut self, source: Source) -> Vec<Connection> {
        if source == Source::Tcp {
            self.unaccepted = Unaccepted::default();
        }
        let keys: Vec<_> = self.connections.keys().filter(|key| key.source == source).copied().collect();
        keys.into_iter().filter_map(|key| self.remove(key)).collect()
    }

    /// The answer to [`Observer::owner_wanted`]. One that comes so late that the connection waits again, for another message, is not
    /// about that.
    pub fn owner_found(&mut self, key: ConnectionKey, pid: Pid, observer: &mut dyn Observer) {
        if self.shared.unsettled.is_asked(key) {
            self.set_owner(key, Some(pid), observer);
        }
    }

    /// The owner of a connection is known now; `None` says that nobody could be found.
    pub fn set_owner(&mut self, key: ConnectionKey, pid: Option<Pid>, observer: &mut dyn Observer) {
        if self.shared.settle_ended(key, pid, observer)
            && let Some(connection) = self.connections.get_mut(&key)
        {
            connection.settle(pid, observer);
            self.shared.charge(connection);
        }
    }

    /// Lets time pass: holes that will not be filled, owners that will not be found, silence. Call it about once a
    /// tenth of a second.
    pub fn tick(&mut self, now: Nanos, observer: &mut dyn Observer) {
        while let Some(key) = self.shared.unsettled.next_overdue(now, false) {
            self.set_owner(key, None, observer);
        }
        while let Some(key) = self.shared.unsettled.next_to_ask(now) {
            if let Some(connection) = self.connections.get(&key) {
                observer.owner_wanted(key, connection.origin());
            }
        }
        for key in self.schedule.waiting() {
            self.act(key, now, observer, |connection, shared, observer| connection.tick(now, shared, observer));
        }
        while let Some(key) = self.schedule.next_due(now) {
            self.note_silence(key, now, observer);
        }
        self.shared.pairing.expire(now);
        self.unaccepted.expire(now);
    }

    /// Exchanges that have not ended, in no order.
    pub fn in_flight(&self) -> impl Iterator<Item = &Exchange> {
        self.connections.values().flat_map(Connection::in_flight)
    }

    /// Whether time may pass without [`tick`](Self::tick).
    pub fn is_idle(&self) -> bool {
        self.connections.is_empty() && self.unaccepted.is_empty() && self.shared.unsettled.is_empty()
    }

    /// What could not be followed.
    pub fn counters(&self) -> Counters {
        self.shared.counters
    }

    /// Memory for what is under way, in bytes: what connections hold beyond their bookkeeping.
    pub fn memory(&self) -> usize {
        self.shared.memory() + self.unaccepted.memory()
    }

    /// Lets a connection act, a new one if it is not known, and keeps the books.
    fn act(
        &mut self,
        key: ConnectionKey,
        now: Nanos,
        observer: &mut dyn Observer,
        act: impl FnOnce(&mut Connection, &mut Shared, &mut dyn Observer),
    ) {
        let Self { connections, schedule, shared, .. } = self;
        let is_full = connections.len() >= MAX_CONNECTIONS;
        let connection = match connections.entry(key) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(_) if is_full => {
                shared.counters.connections_refused += 1;
                return;
            }
            Entry::Vacant(entry) => {
                let connection = entry.insert(Connection::new(key, now));
                schedule.add(key, connection, now);
                connection
            }
        };
        act(connection, shared, observer);
        shared.charge(connection);
        schedule.note_waiting(key, connection);
        if shared.memory() > self.budget {
            self.shed(now, observer);
        }
    }

    fn remove(&mut self, key: ConnectionKey) -> Option<Connection> {
        let connection = self.connections.remove(&key)?;
        self.schedule.remove(key, &connection);
        self.shared.memory -= connection.noted.memory;
        Some(connection)
    }

    fn note_silence(&mut self, key: ConnectionKey, now: Nanos, observer: &mut dyn Observer) {
        let Self { connections, schedule, shared, .. } = self;
        let Some(connection) = connections.get_mut(&key) else { return };
        match Silence::of(connection, now) {
            Silence::Short => {}
            Silence::OfExchange => {
                connection.give_up(now, shared, observer);
                shared.charge(connection);
            }
            Silence::OfConnection => {
                self.remove(key);
                return;
            }
        }
        schedule.postpone(key, connection, now);
    }

    /// Makes room: what waits for owners is reported, then the largest holders lose their buffers, and if that is not
    /// enough, their exchanges.
    fn shed(&mut self, now: Nanos, observer: &mut dyn Observer) {
        // Well below the budget, so that the look at all connections is rare.
        let enough = self.budget / 4 * 3;
        while let Some(key) = self.shared.unsettled.next_overdue(now, true) {
            self.set_owner(key, None, observer);
        }
        let mut holders: Vec<_> =
            self.connections.iter().map(|(key, connection)| (connection.noted.memory, *key)).collect();
        holders.retain(|(memory, _)| *memory > 0);
        holders.sort_unstable_by(|one, other| other.cmp(one));
        for act in [Connection::shed, Connection::give_up] {
            for (_, key) in &holders {
                if self.shared.memory() <= enough {
                    return;
                }
                let Some(connection) = self.connections.get_mut(key) else { continue };
                let before = connection.noted.memory;
                act(connection, now, &mut self.shared, observer);
                self.shared.charge(connection);
                self.shared.counters.over_budget += u64::from(connection.noted.memory < before);
                self.schedule.note_waiting(*key, connection);
            }
        }
    }
}
