//! Rows of processes: which are known, under which pid, and what the host side says of them.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::stats::{Group, OTHER, Pool, StatsId};
use crate::chunk::Pid;
use crate::exchange::{Exchange, Role};
use crate::label::Label;
use crate::snapshot::{Container, Process, Visibility};
use crate::time::Nanos;

/// How long the row of a process that is gone stands after its last exchange.
const KEEP_GONE: Duration = Duration::from_secs(60);

/// A process that the host side does not know for so long has ended; it may take a frame or two to look up a new one.
const LOOK_UP: Duration = Duration::from_secs(2);

/// Rows besides "other": more processes of one host than can be looked at; a row takes about 5 KiB.
pub(super) const CAP: usize = 1024;

/// A full table gives up the row that has been idle longest, if it has been so for this long.
const GIVE_UP_IDLE: Duration = Duration::from_secs(60);

/// Start times are made from two clocks and may differ a little from reading to reading; no pid comes round so fast.
const START_TIME_JITTER: SignedDuration = SignedDuration::from_secs(1);

/// The pid of the row that takes in what lies beyond the cap; no process that talks has it.
const OTHER_PID: Pid = Pid(0);

/// Identifies a row for good; grows in the order of appearance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ProcessId(u64);

/// A process that talks to models, or did.
#[derive(Debug)]
struct Row {
    pid: Pid,
    comm: Label,
    as_client: Option<StatsId>,
    as_server: Option<StatsId>,
    /// What the host side last said of it, without anything that was measured.
    identity: Option<Box<Process>>,
    /// Since when it is known to have exited.
    exited_at: Option<Nanos>,
    /// Since when the host side no longer knows it.
    missing_since: Option<Nanos>,
    /// Of its ended exchanges.
    ended: Bytes,
    /// Of its running exchanges, at the frame being made.
    running: Bytes,
}

/// How much of a process's exchanges was seen, and how much was lost.
#[derive(Clone, Copy, Debug, Default)]
struct Bytes {
    seen: u64,
    missed: u64,
}

impl Bytes {
    fn add(&mut self, exchange: &Exchange) {
        self.seen += exchange.bytes_seen;
        self.missed += exchange.bytes_missed;
    }
}

impl Row {
    fn sides(&self) -> impl Iterator<Item = StatsId> + use<> {
        [self.as_client, self.as_server].into_iter().flatten()
    }

    /// Since when nothing has happened; `None` while an exchange is running.
    fn idle_since(&self, pool: &Pool) -> Option<Nanos> {
        let idle: Option<Vec<Nanos>> = self.sides().map(|side| pool[side].idle_since()).collect();
        idle?.into_iter().max()
    }

    fn gone_since(&self) -> Option<Nanos> {
        self.exited_at.or(self.missing_since)
    }

    /// Whether the host side may mean this process by that one.
    fn may_be(&self, process: &Process) -> bool {
        match (self.identity.as_ref().and_then(|identity| identity.start_time), process.start_time) {
            (Some(known), Some(given)) => known.duration_since(given).abs() <= START_TIME_JITTER,
            _ => self.exited_at.is_none() || process.exited,
        }
    }
}

/// The processes that talk to models.
#[derive(Debug)]
pub(super) struct Processes {
    rows: BTreeMap<ProcessId, Row>,
    current: HashMap<Pid, ProcessId>,
    next: u64,
}

impl Processes {
    pub(super) fn new() -> Self {
        Self { rows: BTreeMap::new(), current: HashMap::new(), next: 0 }
    }

    /// The row and the numbers under which an exchange of `pid` counts.
    pub(super) fn resolve(
        &mut self,
        pid: Pid,
        exchange: &Exchange,
        pool: &mut Pool,
        now: Nanos,
    ) -> (ProcessId, StatsId) {
        let id = match self.current.get(&pid).copied().or_else(|| self.exited_since(pid, exchange.opened_at)) {
            Some(id) => id,
            None if self.make_room(pool, now) => self.insert(pid, exchange.comm.clone()),
            None => match self.current.get(&OTHER_PID) {
                Some(id) => *id,
                None => self.insert(OTHER_PID, OTHER.into()),
            },
        };
        let row = self.rows.get_mut(&id).expect("the current row of a pid is in the table");
        let side = match exchange.role {
            Role::Client => &mut row.as_client,
            Role::Server => &mut row.as_server,
        };
        (id, *side.get_or_insert_with(|| pool.insert(Group::Processes, now)))
    }

    /// The process that had the pid at that moment and has ended since: news of an exit may overtake captured bytes.
    fn exited_since(&self, pid: Pid, moment: Nanos) -> Option<ProcessId> {
        let of_pid = self.rows.iter().rev().filter(|(_, row)| row.pid == pid);
        of_pid.filter(|(_, row)| row.exited_at.is_some_and(|exited| exited >= moment)).map(|(id, _)| *id).next()
    }

    fn insert(&mut self, pid: Pid, comm: Label) -> ProcessId {
        let id = ProcessId(self.next);
        self.next += 1;
        self.current.insert(pid, id);
        let row = Row {
            pid,
            comm,
            as_client: None,
            as_server: None,
            identity: None,
            exited_at: None,
            missing_since: None,
            ended: Bytes::default(),
            running: Bytes::default(),
        };
        self.rows.insert(id, row);
        id
    }

    /// Whether another row fits.
    fn make_room(&mut self, pool: &mut Pool, now: Nanos) -> bool {
        if self.rows.len() <= CAP {
            return true;
        }
        let own = self.rows.iter().filter(|(_, row)| row.pid != OTHER_PID);
        let idle = own.filter_map(|(id, row)| Some((row.idle_since(pool)?, *id)));
        let Some((_, id)) = idle.min().filter(|(since, _)| now.since(*since) >= GIVE_UP_IDLE) else { return false };
        self.remove(id, pool);
        true
    }

    fn remove(&mut self, id: ProcessId, pool: &mut Pool) {
        let Some(row) = self.rows.remove(&id) else { return };
        for side in row.sides() {
            pool.remove(side);
        }
        if self.current.get(&row.pid) == Some(&id) {
            self.current.remove(&row.pid);
        }
    }

    pub(super) fn exited(&mut self, pid: Pid, when: Nanos) {
        if let Some(row) = self.current.remove(&pid).and_then(|id| self.rows.get_mut(&id)) {
            row.exited_at = Some(when);
        }
    }

    /// An exchange of this row has ended.
    pub(super) fn count_ended(&mut self, id: ProcessId, exchange: &Exchange) {
        if let Some(row) = self.rows.get_mut(&id) {
            row.ended.add(exchange);
        }
    }

    pub(super) fn begin_frame(&mut self) {
        for row in self.rows.values_mut() {
            row.running = Bytes::default();
        }
    }

    /// An exchange of this row is running, at the frame being made.
    pub(super) fn count_running(&mut self, id: ProcessId, exchange: &Exchange) {
        if let Some(row) = self.rows.get_mut(&id) {
            row.running.add(exchange);
        }
    }

    /// Start time and command of a row's process, where the host side has told them.
    pub(super) fn identity(&self, id: ProcessId) -> Option<(Option<Timestamp>, Label)> {
        let identity = self.rows.get(&id)?.identity.as_ref()?;
        Some((identity.start_time, identity.command.clone()))
    }

    /// The workload of a row's process, where the host side has told it.
    pub(super) fn workload(&self, id: ProcessId) -> Option<&Label> {
        self.rows.get(&id)?.identity.as_ref()?.workload.as_ref()
    }

    /// The container of a row's process, likewise.
    pub(super) fn container(&self, id: ProcessId) -> Option<&Container> {
        self.rows.get(&id)?.identity.as_ref()?.container.as_ref()
    }

    pub(super) fn knows(&self, pid: Pid) -> bool {
        self.current.contains_key(&pid)
    }

    /// The processes that the host side should know, whatever else it leaves out.
    pub(super) fn pids(&self) -> impl Iterator<Item = Pid> {
        self.current.keys().copied().filter(|pid| *pid != OTHER_PID)
    }

    /// Learns from the host side who is there: finds pids in new hands and rows that nobody needs any more.
    pub(super) fn reconcile(&mut self, facts: &[Process], pool: &mut Pool, now: Nanos) {
        let facts: HashMap<u32, &Process> = facts.iter().map(|process| (process.pid, process)).collect();
        let mut taken_over = Vec::new();
        let mut expired = Vec::new();
        for (id, row) in &mut self.rows {
            // An exit that nobody told happened at some time after the last exchange.
            let last_seen = row.idle_since(pool).unwrap_or(now);
            match facts.get(&row.pid.0) {
                Some(process) if row.may_be(process) => {
                    row.missing_since = None;
                    row.identity = Some(Box::new(identity_of(process)));
                    if process.exited && row.exited_at.is_none() {
                        taken_over.push((row.pid, last_seen));
                    }
                }
                Some(_) if row.exited_at.is_none() => taken_over.push((row.pid, last_seen)),
                _ if row.pid == OTHER_PID => {}
                _ => {
                    row.missing_since.get_or_insert(now);
                }
            }
            let idle = row.idle_since(pool).filter(|since| now.since(*since) >= KEEP_GONE);
            if idle.is_some() && row.gone_since().is_some_and(|since| now.since(since) >= KEEP_GONE) {
                expired.push(*id);
            }
        }
        for (pid, when) in taken_over {
            self.exited(pid, when);
        }
        for id in expired {
            self.remove(id, pool);
        }
    }

    /// The host side's processes with their numbers, and those that it no longer knows.
    pub(super) fn frame(&self, facts: Vec<Process>, pool: &mut Pool, now: Nanos) -> Vec<Process> {
        let mut known: HashMap<u32, Process> = facts.into_iter().map(|process| (process.pid, process)).collect();
        let mut processes = Vec::with_capacity(known.len() + self.rows.len());
        // A pid's newest row comes first: if the host side speaks of anyone, then of that one.
        for row in self.rows.values().rev() {
            let known = match known.entry(row.pid.0) {
                std::collections::hash_map::Entry::Occupied(entry) if row.may_be(entry.get()) => Some(entry.remove()),
                _ => None,
            };
            let missing = row.missing_since.is_some_and(|since| now.since(since) >= LOOK_UP);
            let gone = known.is_none() && missing;
            let mut process = known.unwrap_or_else(|| match &row.identity {
                Some(identity) => (**identity).clone(),
                None => Process { pid: row.pid.0, command: row.comm.clone(), ..Process::default() },
            });
            process.exited |= gone || row.exited_at.is_some();
            process.visibility.bytes_seen = row.ended.seen + row.running.seen;
            process.visibility.bytes_missed = row.ended.missed + row.running.missed;
            process.as_client = row.as_client.map(|side| pool.frame(side, now));
            process.as_server = row.as_server.map(|side| pool.frame(side, now));
            processes.push(process);
        }
        // News of the departed is for their rows; without one they are nobody's concern, unless they bring numbers.
        processes.extend(known.into_values().filter(|process| !process.exited || process.is_counted()));
        sort(&mut processes);
        processes
    }
}

/// What identifies a process, without what was measured of it.
fn identity_of(process: &Process) -> Process {
    Process {
        pid: process.pid,
        start_time: process.start_time,
        parent_pid: process.parent_pid,
        command: process.command.clone(),
        executable: process.executable.clone(),
        user: process.user.clone(),
        uid: process.uid,
        workload: process.workload.clone(),
        unit: process.unit.clone(),
        container: process.container.clone(),
        visibility: Visibility {
            tls: process.visibility.tls,
            reason: process.visibility.reason.clone(),
            library: process.visibility.library.clone(),
            ..Visibility::default()
        },
        ..Process::default()
    }
}

/// Those that talk to models first, the busiest of them on top; then by CPU.
fn sort(processes: &mut [Process]) {
    let rank = |process: &Process| {
        let sides = || process.as_client.iter().chain(&process.as_server);
        let rate: f64 = sides().filter_map(|stats| stats.tokens_per_second.output).sum();
        let requests: u64 = sides().map(|stats| stats.requests_total).sum();
        (sides().next().is_some(), rate, requests, process.cpu_percent.unwrap_or(0.0))
    };
    processes.sort_by_cached_key(|process| {
        let (talks, rate, requests, cpu) = rank(process);
        std::cmp::Reverse((talks, Total(rate), requests, Total(cpu), std::cmp::Reverse(process.pid)))
    });
}

/// A number in the order of [`f64::total_cmp`].
#[derive(PartialEq)]
struct Total(f64);

impl Eq for Total {}

impl PartialOrd for Total {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Total {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.total_cmp(&other.0)
    }
}
