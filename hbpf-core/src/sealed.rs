//! TLS connections with known model hosts, as they are seen from outside: who has them, how many bytes pass, and how long
//! answers take.
//!
//! What is said in them is seen at the calls of a TLS library, if the process has one that is probed. So for a process with
//! such connections and without exchanges the library is another one: it is blind, and this is what can be told of it.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use crate::aggregate::exponential;
use crate::chunk::{Action, ConnectionKey, Direction, Origin, Pid, Verdict};
use crate::dialect::provider_of_host;
use crate::exchange::{Exchange, Role};
use crate::hello::server_name;
use crate::label::Label;
use crate::snapshot::{EncryptedTraffic, Process, TlsVisibility};
use crate::time::{Nanos, WallClock};
use crate::timings::Timings;

/// Connections known at a time, most of them idle. Beyond, new ones are not told of.
const MAX_CONNECTIONS: usize = 16_384;

/// Pairs of a process and a host. The one that was idle longest makes room.
const MAX_ROWS: usize = 512;

/// Hosts learned from exchanges, besides those that are known by name. Beyond, they are learned anew: those that are still called.
const MAX_LEARNED: usize = 1024;

/// Ends of exchanges that are remembered, likewise.
const MAX_READERS: usize = 4096;

/// How long a connection may take from its first piece to its server's first answer; before that it may be nobody's.
const ACCEPTING: std::time::Duration = std::time::Duration::from_secs(30);

/// For so long after an answer an exchange may still come to light: records wait to be read.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(2);

/// How long the row of a process stands after it has ended and its last connection with it.
const KEEP: std::time::Duration = std::time::Duration::from_secs(60);

/// Ports on which nothing but a model is served, by default.
const KNOWN_PORTS: [u16; 1] = [11_434];

/// The beginning of a connection.
#[derive(Clone, Copy, Debug)]
pub struct Hello<'a> {
    /// When it passed.
    pub when: Nanos,
    /// The connection.
    pub connection: ConnectionKey,
    /// As [`Segment::message`](crate::chunk::Segment::message).
    pub message: u32,
    /// What is known of the endpoint.
    pub origin: &'a Origin,
    /// Which way it goes: the client sends it.
    pub direction: Direction,
    /// What was copied of it.
    pub bytes: &'a [u8],
    /// There is a connection. Before that, anyone can send such a piece.
    pub is_accepted: bool,
}

/// What the kernel side tells of a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Bytes that the socket has sent so far, TLS's own included.
    pub sent: u64,
    /// Bytes that it has received so far.
    pub received: u64,
    /// An answer has begun, so many nanoseconds after the last bytes of what it answers.
    pub answered_after: Option<u64>,
}

/// The connections, and what they add up to.
#[derive(Debug, Default)]
pub struct Sealed {
    connections: HashMap<ConnectionKey, Connection>,
    rows: HashMap<RowKey, Row>,
    /// Who has called a model inside TLS, where it was read: exchanges may come to light before who serves them is known here.
    read: HashSet<Reader>,
    /// Hosts at which a model was called.
    learned: HashSet<Label>,
    refused: u64,
}

/// An end of exchanges that were read.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Reader {
    pid: Option<Pid>,
    role: Role,
    /// `None`: the exchange named none, and may be about any.
    host: Option<Label>,
}

#[derive(Debug)]
struct Connection {
    row: RowKey,
    provider: Label,
    /// Its row counts it.
    is_counted: bool,
    sent: u64,
    received: u64,
    last_at: Nanos,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct RowKey {
    pid: Option<Pid>,
    role: Role,
    host: Option<Label>,
    /// Only where there is no name.
    address: Option<IpAddr>,
    port: Option<u16>,
}

#[derive(Debug)]
struct Row {
    comm: Label,
    provider: Label,
    connections: u64,
    open: u64,
    sent: u64,
    received: u64,
    answers: u64,
    first_byte: Timings,
    first_answer_at: Option<Nanos>,
    first_at: Nanos,
    last_at: Nanos,
    exited_at: Option<Nanos>,
}

impl Sealed {
    /// Takes the beginning of a connection. Says whether the kernel side shall tell more.
    pub fn hello(&mut self, hello: &Hello<'_>) -> Verdict {
        let Hello { when, connection: key, message, origin, direction, bytes, is_accepted } = *hello;
        let host = server_name(bytes);
        let (role, server) = match direction {
            Direction::Sent => (Role::Client, origin.remote),
            Direction::Received => (Role::Server, origin.local),
        };
        let (address, port) = server.unzip();
        let known = host.as_ref().and_then(|host| provider_of_host(host.as_str()));
        let is_known = known.is_some()
            || host.as_ref().is_some_and(|host| self.learned.contains(host))
            || port.is_some_and(|port| KNOWN_PORTS.contains(&port));
        // What was under this key is over.
        self.close(when, key);
        let action = if is_known { Action::Capture } else { Action::Ignore };
        if is_known {
            self.make_room(when);
            let address = address.filter(|_| host.is_none());
            let row = RowKey { pid: origin.pid, role, host, address, port };
            let provider = Label::new(known.unwrap_or("unknown"));
            let connection = Connection { row, provider, is_counted: false, sent: 0, received: 0, last_at: when };
            self.connections.insert(key, connection);
            // Who serves is known once it has answered: what comes of it is reported then.
            if is_accepted && origin.owner_is_certain {
                self.count(when, key, origin);
            }
        }
        Verdict { connection: key, message, action }
    }

    /// Takes what the kernel side tells of a connection.
    pub fn report(&mut self, when: Nanos, key: ConnectionKey, origin: &Origin, report: Report) {
        self.count(when, key, origin);
        let Some(connection) = self.connections.get_mut(&key) else { return };
        let Some(row) = self.rows.get_mut(&connection.row) else { return };
        // Both only grow; what is told late is less than what is known.
        row.sent = row.sent.saturating_add(report.sent.saturating_sub(connection.sent));
        row.received = row.received.saturating_add(report.received.saturating_sub(connection.received));
        connection.last_at = connection.last_at.max(when);
        connection.sent = connection.sent.max(report.sent);
        connection.received = connection.received.max(report.received);
        row.last_at = row.last_at.max(when);
        if let Some(nanoseconds) = report.answered_after {
            row.answers += 1;
            row.first_answer_at.get_or_insert(when);
            // The steps of the times are those of distributions, counted from the first.
            let step = exponential::index_of(nanoseconds as f64 * 1e-9) - exponential::MIN_INDEX;
            row.first_byte.add(step as u16, 1, nanoseconds);
        }
    }

    /// Makes room for another connection. What was never accepted goes first (anyone can send what begins one), then what is idle
    /// longest, whose end may have been lost.
    fn make_room(&mut self, now: Nanos) {
        if self.connections.len() < MAX_CONNECTIONS {
            return;
        }
        self.connections.retain(|_, connection| connection.is_counted || now.since(connection.last_at) < ACCEPTING);
        if self.connections.len() < MAX_CONNECTIONS {
            return;
        }
        let mut idle: Vec<_> = self.connections.iter().map(|(key, it)| (it.is_counted, it.last_at, *key)).collect();
        idle.sort_unstable_by_key(|(is_counted, last_at, _)| (*is_counted, *last_at));
        // A sixteenth at once: this looks at all of them.
        for (_, _, key) in idle.into_iter().take(MAX_CONNECTIONS / 16) {
            self.close(now, key);
            self.refused += 1;
        }
    }

    /// Connections with known hosts of which nothing more is told, because there were too many.
    pub fn refused(&self) -> u64 {
        self.refused
    }

    /// Has the connection's row count it, if it does not, for whom it belongs to now.
    fn count(&mut self, when: Nanos, key: ConnectionKey, origin: &Origin) {
        let Some(connection) = self.connections.get_mut(&key).filter(|connection| !connection.is_counted) else {
            return;
        };
        connection.is_counted = true;
        connection.row.pid = origin.pid.or(connection.row.pid);
        let (row_key, provider) = (connection.row.clone(), connection.provider.clone());
        if !self.rows.contains_key(&row_key) && self.rows.len() >= MAX_ROWS {
            let idle = self.rows.iter().filter(|(_, row)| row.open == 0).min_by_key(|(_, row)| row.last_at);
            match idle.map(|(key, _)| key.clone()) {
                Some(idle) => drop(self.rows.remove(&idle)),
                None => {
                    self.connections.remove(&key);
                    return;
                }
            }
        }
        let row = self.rows.entry(row_key).or_insert_with(|| Row {
            comm: comm(&origin.comm),
            provider,
            connections: 0,
            open: 0,
            sent: 0,
            received: 0,
            answers: 0,
            first_byte: Timings::default(),
            first_answer_at: None,
            first_at: when,
            last_at: when,
            exited_at: None,
        });
        row.connections += 1;
        row.open += 1;
        row.last_at = when;
        row.exited_at = None;
    }

    /// A connection has ended.
    pub fn close(&mut self, when: Nanos, key: ConnectionKey) {
        let Some(connection) = self.connections.remove(&key).filter(|connection| connection.is_counted) else { return };
        if let Some(row) = self.rows.get_mut(&connection.row) {
            row.open = row.open.saturating_sub(1);
            row.last_at = row.last_at.max(when);
        }
    }

    /// A model was called: seen inside TLS, which says that its process can be read, and of its host that it serves models.
    pub fn exchange(&mut self, exchange: &Exchange) {
        if !exchange.tls {
            return;
        }
        let host = exchange.endpoint.host.as_ref().map(|host| Label::new(&host.as_str().to_ascii_lowercase()));
        if self.read.len() >= MAX_READERS {
            self.read.clear();
        }
        self.read.insert(Reader { pid: exchange.pid, role: exchange.role, host: host.clone() });
        if let Some(host) = host {
            if self.learned.len() >= MAX_LEARNED {
                self.learned.clear();
            }
            self.learned.insert(host);
        }
    }

    /// Whether exchanges of a process with a host were read. An address has no name to compare, nor has an exchange that names
    /// no host.
    fn is_read(&self, key: &RowKey) -> bool {
        let reader = |host: &Option<Label>| Reader { pid: key.pid, role: key.role, host: host.clone() };
        match &key.host {
            Some(_) => self.read.contains(&reader(&key.host)) || self.read.contains(&reader(&None)),
            None => self.read.iter().any(|read| (read.pid, read.role) == (key.pid, key.role)),
        }
    }

    /// Whether there were answers of which nothing came to light.
    fn is_unread(&self, key: &RowKey, row: &Row, now: Nanos) -> bool {
        row.first_answer_at.is_some_and(|at| now.since(at) >= PATIENCE) && !self.is_read(key)
    }

    /// The process has ended.
    pub fn process_exited(&mut self, when: Nanos, pid: Pid) {
        for (_, row) in self.rows.iter_mut().filter(|(key, _)| key.pid == Some(pid)) {
            row.exited_at.get_or_insert(when);
        }
    }

    /// Nothing more will be heard of connections.
    pub fn look_away(&mut self) {
        self.connections.clear();
        self.rows.values_mut().for_each(|row| row.open = 0);
    }

    /// The processes that have such connections and may still run.
    pub fn pids(&self) -> impl Iterator<Item = Pid> {
        self.rows.iter().filter(|(_, row)| row.exited_at.is_none()).filter_map(|(key, _)| key.pid)
    }

    /// What there is to show, those that cannot be read first, and what it means for what can be seen of these processes.
    pub fn frame(&mut self, now: Nanos, clock: &WallClock, processes: &mut [Process]) -> Vec<EncryptedTraffic> {
        let is_over = |row: &Row| row.open == 0 && row.exited_at.is_some_and(|_| now.since(row.last_at) >= KEEP);
        self.rows.retain(|_, row| !is_over(row));
        let mut rows: Vec<_> = self.rows.iter().collect();
        rows.sort_by_key(|(key, row)| {
            (std::cmp::Reverse((self.is_unread(key, row, now), row.answers)), (*key).clone())
        });
        let mut traffic = Vec::with_capacity(rows.len());
        for (key, row) in rows {
            let process = processes.iter_mut().find(|process| Some(Pid(process.pid)) == key.pid && !process.exited);
            let process = process.filter(|_| row.exited_at.is_none());
            let command = process.as_ref().map(|process| process.command.clone());
            let start_time = process.as_ref().and_then(|process| process.start_time);
            let is_unread = self.is_unread(key, row, now);
            if let Some(process) = process.filter(|_| is_unread) {
                note_unread(process, key.host.as_ref());
            }
            traffic.push(EncryptedTraffic {
                pid: key.pid.map(|pid| pid.0),
                start_time,
                command: command.unwrap_or_else(|| row.comm.clone()),
                role: key.role,
                host: key.host.clone(),
                address: key.address,
                port: key.port,
                provider: row.provider.clone(),
                read: self.is_read(key).then_some(true).or(is_unread.then_some(false)),
                connections_total: row.connections,
                connections_open: row.open,
                bytes_sent_total: row.sent,
                bytes_received_total: row.received,
                requests_estimated_total: row.answers,
                time_to_first_byte_seconds: row.first_byte.distribution(),
                first_at: clock.at(row.first_at),
                last_at: clock.at(row.last_at),
            });
        }
        traffic
    }
}

/// Says of a process that it cannot be read, or not all of it.
fn note_unread(process: &mut Process, host: Option<&Label>) {
    let host = host.map_or("a model", Label::as_str);
    let visibility = &mut process.visibility;
    match visibility.tls {
        TlsVisibility::None => {
            visibility.tls = TlsVisibility::Blind;
            let why = format!("it speaks TLS with {host}, and no TLS library that hbpf knows is in it");
            visibility.reason = Some(crate::label::Text::new(&why));
        }
        TlsVisibility::Attached => {
            visibility.tls = TlsVisibility::Partial;
            let why = format!("its TLS with {host} does not pass through the library that is probed");
            visibility.reason = Some(crate::label::Text::new(&why));
        }
        TlsVisibility::Partial | TlsVisibility::Blind => {}
    }
}

fn comm(comm: &[u8; 16]) -> Label {
    let len = comm.iter().position(|byte| *byte == 0).unwrap_or(comm.len());
    Label::from_bytes(&comm[..len])
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::chunk::Source;
    use crate::hello::tests::{hello, named};

    const SECOND: u64 = 1_000_000_000;

    fn at(seconds: u64) -> Nanos {
        Nanos(seconds * SECOND)
    }

    fn clock() -> WallClock {
        WallClock { monotonic: Nanos(0), wall: Timestamp::UNIX_EPOCH }
    }

    fn key(handle: u64) -> ConnectionKey {
        ConnectionKey { source: Source::Tcp, pid: 0, handle, generation: 0 }
    }

    fn origin(pid: u32) -> Origin {
        let remote = Some(("192.0.2.7".parse().unwrap(), 443));
        Origin {
            pid: Some(Pid(pid)),
            owner_is_certain: true,
            comm: *b"codex\0\0\0\0\0\0\0\0\0\0\0",
            remote,
            ..Origin::default()
        }
    }

    /// Begins a connection of a process with a host.
    fn begin(sealed: &mut Sealed, handle: u64, pid: u32, host: &str, is_accepted: bool) -> Action {
        let bytes = hello(&[(0, &named(host.as_bytes()))]);
        let hello = Hello {
            when: at(1),
            connection: key(handle),
            message: 1,
            origin: &origin(pid),
            direction: Direction::Sent,
            bytes: &bytes,
            is_accepted,
        };
        let verdict = sealed.hello(&hello);
        assert_eq!((verdict.connection, verdict.message), (key(handle), 1));
        verdict.action
    }

    fn answer(sealed: &mut Sealed, handle: u64, pid: u32, sent: u64, received: u64) {
        let report = Report { sent, received, answered_after: Some(SECOND / 4) };
        sealed.report(at(2), key(handle), &origin(pid), report);
    }

    fn process(pid: u32, tls: TlsVisibility) -> Process {
        let mut process = Process { pid, command: "codex exec".into(), ..Process::default() };
        process.visibility.tls = tls;
        process
    }

    #[test]
    fn connections_with_known_hosts_are_told_of_and_no_others() {
        let mut sealed = Sealed::default();
        assert_eq!(begin(&mut sealed, 1, 7, "example.org", true), Action::Ignore);
        assert_eq!(begin(&mut sealed, 2, 7, "api.openai.com", true), Action::Capture);
        assert_eq!(begin(&mut sealed, 3, 7, "API.OpenAI.com", true), Action::Capture);
        answer(&mut sealed, 2, 7, 1000, 5000);
        answer(&mut sealed, 2, 7, 1500, 9000);
        answer(&mut sealed, 3, 7, 10, 20);
        sealed.close(at(3), key(3));
        let mut processes = [process(7, TlsVisibility::None)];
        let [row] = &sealed.frame(at(5), &clock(), &mut processes)[..] else { panic!("one row") };
        assert_eq!((row.pid, row.command.as_str(), row.provider.as_str()), (Some(7), "codex exec", "openai"));
        assert_eq!((row.host.as_deref(), row.address, row.port), (Some("api.openai.com"), None, Some(443)));
        assert_eq!((row.connections_total, row.connections_open, row.requests_estimated_total), (2, 1, 3));
        assert_eq!((row.bytes_sent_total, row.bytes_received_total), (1510, 9020));
        let first_byte = row.time_to_first_byte_seconds.as_ref().unwrap();
        assert_eq!((first_byte.count, first_byte.p50), (3, 0.25));
    }

    #[test]
    fn what_is_never_seen_inside_makes_its_process_blind() {
        for (before, after) in [
            (TlsVisibility::None, TlsVisibility::Blind),
            (TlsVisibility::Attached, TlsVisibility::Partial),
            (TlsVisibility::Blind, TlsVisibility::Blind),
        ] {
            let mut sealed = Sealed::default();
            begin(&mut sealed, 2, 7, "api.openai.com", true);
            let mut processes = [process(6, before), process(7, before)];
            let mut frame = |sealed: &mut Sealed, seconds| {
                let rows = sealed.frame(at(seconds), &clock(), &mut processes);
                (rows[0].read, processes[1].visibility.tls)
            };
            assert_eq!(frame(&mut sealed, 9), (None, before), "nobody has asked for anything yet");
            answer(&mut sealed, 2, 7, 1, 1);
            assert_eq!(frame(&mut sealed, 3), (None, before), "it may come to light yet");
            assert_eq!(frame(&mut sealed, 5), (Some(false), after));
            assert_eq!(processes[0].visibility.tls, before, "another process");
        }
    }

    #[test]
    fn what_comes_before_a_connection_is_accepted_counts_for_nothing() {
        let mut sealed = Sealed::default();
        begin(&mut sealed, 2, 7, "api.openai.com", false);
        assert!(sealed.frame(at(3), &clock(), &mut []).is_empty());
        sealed.close(at(3), key(2));
        begin(&mut sealed, 3, 7, "api.openai.com", false);
        answer(&mut sealed, 3, 8, 1, 1);
        assert_eq!(sealed.frame(at(3), &clock(), &mut [])[0].pid, Some(8), "who has accepted it");
    }

    /// An exchange of process 7 inside TLS, which it serves.
    fn served(host: Option<&str>) -> Exchange {
        let mut exchange = crate::aggregate::tests::exchange(1);
        (exchange.pid, exchange.role) = (Some(Pid(7)), Role::Server);
        exchange.endpoint.host = host.map(Label::new);
        exchange
    }

    #[test]
    fn what_is_read_is_not_blind_whenever_that_comes_to_light() {
        for (host, of_exchange) in
            [("api.openai.com", Some("API.openai.com")), ("api.openai.com", None), ("", Some("localhost"))]
        {
            for is_before in [true, false] {
                let mut sealed = Sealed::default();
                let extensions = named(host.as_bytes());
                let bytes = if host.is_empty() { hello(&[]) } else { hello(&[(0, &extensions)]) };
                let local = Some(("192.0.2.7".parse().unwrap(), KNOWN_PORTS[0]));
                let begun = Hello {
                    when: at(1),
                    connection: key(2),
                    message: 1,
                    origin: &Origin { local, owner_is_certain: false, ..origin(7) },
                    direction: Direction::Received,
                    bytes: &bytes,
                    is_accepted: true,
                };
                assert_eq!(sealed.hello(&begun).action, Action::Capture);
                if is_before {
                    sealed.exchange(&served(of_exchange));
                }
                answer(&mut sealed, 2, 7, 1, 1);
                if !is_before {
                    sealed.exchange(&served(of_exchange));
                }
                let mut processes = [process(7, TlsVisibility::Attached)];
                let rows = sealed.frame(at(50), &clock(), &mut processes);
                assert_eq!((rows[0].read, processes[0].visibility.tls), (Some(true), TlsVisibility::Attached));
            }
        }
    }

    #[test]
    fn what_is_never_accepted_takes_nobodys_place() {
        let mut sealed = Sealed::default();
        for handle in 0..2 * MAX_CONNECTIONS as u64 {
            assert_eq!(begin(&mut sealed, handle, 0, "api.openai.com", false), Action::Capture);
        }
        assert!(sealed.connections.len() <= MAX_CONNECTIONS);
        assert_eq!(begin(&mut sealed, u64::MAX, 7, "api.openai.com", true), Action::Capture);
        assert_eq!(sealed.frame(at(3), &clock(), &mut [])[0].connections_open, 1);
        assert!(sealed.refused() > 0);
        // The same key again: its end was lost.
        begin(&mut sealed, u64::MAX, 7, "api.openai.com", true);
        let row = &sealed.frame(at(3), &clock(), &mut [])[0];
        assert_eq!((row.connections_total, row.connections_open), (2, 1));
    }

    #[test]
    fn numbers_that_lie_do_no_harm() {
        let mut sealed = Sealed::default();
        for handle in 1..4 {
            begin(&mut sealed, handle, 7, "api.openai.com", true);
            answer(&mut sealed, handle, 7, u64::MAX, u64::MAX);
        }
        assert_eq!(sealed.frame(at(3), &clock(), &mut [])[0].bytes_sent_total, u64::MAX);
    }

    #[test]
    fn rows_of_the_departed_expire_and_memory_is_bounded() {
        let mut sealed = Sealed::default();
        begin(&mut sealed, 2, 7, "api.openai.com", true);
        sealed.process_exited(at(2), Pid(7));
        assert_eq!(sealed.pids().count(), 0);
        assert_eq!(sealed.frame(at(100), &clock(), &mut []).len(), 1, "its connection has not ended");
        sealed.close(at(101), key(2));
        assert_eq!(sealed.frame(at(102), &clock(), &mut [])[0].command.as_str(), "codex");
        assert!(sealed.frame(at(200), &clock(), &mut []).is_empty());
        for handle in 0..3 * MAX_CONNECTIONS as u64 {
            begin(&mut sealed, handle, handle as u32, "api.openai.com", true);
            if handle % 2 == 0 {
                sealed.close(at(1), key(handle));
            }
        }
        assert!(sealed.connections.len() <= MAX_CONNECTIONS && sealed.rows.len() <= MAX_ROWS);
    }
}
