//! Who is asked what, and when. No I/O, and no clock but the one that it is told.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::Duration;

use hbpf_core::chunk::Pid;
use hbpf_core::inference::{Answer, EngineKind, NoMatch, Place, Served, Traffic, Watch};
use hbpf_core::label::{Label, Text};
use hbpf_core::snapshot::{CollectionError, Engine};
use hbpf_core::time::Nanos;
use jiff::{SignedDuration, Timestamp};

use super::fetcher::{Failure, Job, Outcome};
use crate::protocol::{Dial, MAX_PROCESSES, Refusal, Request, Server, Suspect};

/// Time between two questions for what moves. Rates are over it, and it is what monitors of such servers use.
const PACE: Duration = Duration::from_secs(2);

/// Before the second question: then there are rates, also in a snapshot of two seconds.
const SOON: Duration = Duration::from_secs(1);

/// For what says little besides.
const SLOW_PACE: Duration = Duration::from_secs(10);

/// For what does not change, but for another model.
const SLOWEST_PACE: Duration = Duration::from_secs(60);

/// Before it is tried again where no such server has answered. It may have been about to start; what is something else stays so.
const BACK_OFF: [Duration; 3] = [Duration::from_secs(10), Duration::from_secs(60), Duration::from_secs(600)];

/// When processes of no known name are looked at, after the first time: a program may change its name soon after it has
/// started, and news of its start may be lost.
const LOOKS: [Duration; 2] = [Duration::from_secs(2), Duration::from_secs(30)];

/// A program that was executed just now needs a moment to set its name and to listen.
const AFTER_EXEC: Duration = Duration::from_secs(1);

/// How often servers that do not listen yet are looked at, and after so many times how often: a large model is loaded for
/// minutes, and some processes of a server's name never listen.
const UNTIL_LISTENING: Duration = Duration::from_secs(2);
const SOON_LISTENING: u32 = 60;

/// How often it is looked where servers listen.
const WHILE_LISTENING: Duration = Duration::from_secs(30);

/// Questions that are open at a time. Each holds a descriptor, and up to some KiB of memory.
const MAX_OPEN: usize = 32;

/// Places that are asked, and so rows. A host has a handful of servers; anyone may listen at many.
const MAX_DOORS: usize = 128;

/// Places that are told not to answer: each is a line that a user reads.
const MAX_ERRORS: usize = 8;

/// A place at which is listened, once for all processes that share it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct At {
    namespace: u64,
    address: SocketAddr,
}

/// A process that may be a server.
#[derive(Debug, Default)]
struct Suspected {
    start_time_ns: u64,
    /// How often it has been looked at.
    looks: u32,
    next_look: Option<Nanos>,
    /// Ports at which it was seen to serve model traffic.
    ports: BTreeSet<u16>,
    /// Where it is asked.
    doors: Vec<At>,
}

/// A server that is asked, or is tried.
#[derive(Debug)]
struct Door {
    /// Who listens, by start time and number: the oldest is the one that is shown.
    processes: BTreeSet<(u64, u32)>,
    /// What its name says.
    kind: Option<EngineKind>,
    watch: Watch,
    places: Vec<Asked>,
    is_open: bool,
    /// Traffic has passed unseen since the latest answer.
    has_looked_away: bool,
    /// What went wrong, and where, until that goes right.
    problem: Option<(Place, Text)>,
}

/// Something that a server is asked for.
#[derive(Clone, Copy, Debug)]
struct Asked {
    place: Place,
    next: Nanos,
    /// Since it answered last.
    failures: u32,
    answers: u64,
}

/// A question that is under way.
#[derive(Debug)]
struct Question {
    at: At,
    place: Place,
    /// What it had served when the question was put.
    served: Option<Served>,
}

/// All that may be asked.
#[derive(Debug, Default)]
pub(super) struct Schedule {
    suspects: HashMap<u32, Suspected>,
    /// When which process is looked at next.
    looks: BTreeSet<(Nanos, u32)>,
    doors: BTreeMap<At, Door>,
    open: HashMap<u64, Question>,
    next_ticket: u64,
}

impl Schedule {
    /// When there is next something to do.
    pub(super) fn due(&self) -> Option<Nanos> {
        let look = self.looks.first().map(|(when, _)| *when);
        let question = self.doors.values().filter_map(Door::due).min().filter(|_| self.open.len() < MAX_OPEN);
        look.into_iter().chain(question).min()
    }

    /// This process is there.
    pub(super) fn see(&mut self, now: Nanos, pid: u32, start_time_ns: u64) {
        match self.suspects.get(&pid) {
            Some(known) if known.start_time_ns == start_time_ns => return,
            Some(_) => self.exited(pid),
            None => {}
        }
        self.suspects.insert(pid, Suspected { start_time_ns, ..Suspected::default() });
        self.look_at(pid, now);
    }

    /// The process has executed another program, with which everything begins anew.
    pub(super) fn executed(&mut self, now: Nanos, pid: u32) {
        let Some(start_time_ns) = self.suspects.get(&pid).map(|suspect| suspect.start_time_ns) else { return };
        self.exited(pid);
        self.suspects.insert(pid, Suspected { start_time_ns, ..Suspected::default() });
        self.look_at(pid, now.after(AFTER_EXEC));
    }

    /// The process has ended.
    pub(super) fn exited(&mut self, pid: u32) {
        let Some(suspect) = self.suspects.remove(&pid) else { return };
        if let Some(next) = suspect.next_look {
            self.looks.remove(&(next, pid));
        }
        for at in suspect.doors {
            self.leave(at, suspect.start_time_ns, pid);
        }
    }

    /// The process was seen to serve model traffic at this port.
    pub(super) fn serves(&mut self, now: Nanos, pid: u32, port: u16) {
        let Some(suspect) = self.suspects.get_mut(&pid) else { return };
        if suspect.ports.insert(port) {
            suspect.looks = 0;
            self.look_at(pid, now);
        }
    }

    /// Traffic passes unseen for a while.
    pub(super) fn look_away(&mut self) {
        for door in self.doors.values_mut() {
            door.has_looked_away = true;
        }
    }

    fn look_at(&mut self, pid: u32, when: Nanos) {
        let Some(suspect) = self.suspects.get_mut(&pid) else { return };
        if let Some(before) = suspect.next_look.replace(when) {
            self.looks.remove(&(before, pid));
        }
        self.looks.insert((when, pid));
    }

    /// The process does not listen there any more.
    fn leave(&mut self, at: At, start_time_ns: u64, pid: u32) {
        let Some(door) = self.doors.get_mut(&at) else { return };
        door.processes.remove(&(start_time_ns, pid));
        if door.processes.is_empty() {
            self.doors.remove(&at);
        }
    }

    /// What is due by now.
    pub(super) fn requests(&mut self, now: Nanos, traffic: Option<&Traffic>) -> Vec<Request> {
        let mut requests = Vec::new();
        let suspects = self.due_looks(now);
        requests.extend(suspects.chunks(MAX_PROCESSES).map(|part| Request::FindServers(part.to_vec())));
        for (at, door) in &mut self.doors {
            if self.open.len() >= MAX_OPEN {
                break;
            }
            let Some(place) = door.next_place().filter(|_| door.due().is_some_and(|due| due <= now)) else { continue };
            let Some((start_time_ns, pid)) = door.processes.first().copied() else { continue };
            let ticket = self.next_ticket;
            self.next_ticket += 1;
            door.is_open = true;
            let served = traffic.map(|traffic| door.served(traffic, at.address.port()));
            self.open.insert(ticket, Question { at: *at, place, served });
            requests.push(Request::Dial(Dial { ticket, pid, start_time_ns, address: at.address }));
        }
        requests
    }

    fn due_looks(&mut self, now: Nanos) -> Vec<Suspect> {
        let mut due = Vec::new();
        while let Some((_, pid)) = self.looks.first().copied().filter(|(when, _)| *when <= now) {
            self.looks.pop_first();
            let Some(suspect) = self.suspects.get_mut(&pid) else { continue };
            suspect.next_look = None;
            due.push(Suspect { pid, serves: !suspect.ports.is_empty() });
            // One that is found to be a server has a pace of its own.
            let next = LOOKS.get(suspect.looks as usize).map(|pause| now.after(*pause));
            suspect.looks = suspect.looks.saturating_add(1);
            if let Some(next) = next {
                self.look_at(pid, next);
            }
        }
        due
    }

    /// The helper has found a server.
    pub(super) fn found(&mut self, now: Nanos, server: Server) {
        let Server { pid, start_time_ns, kind, namespace, listeners } = server;
        let Some(suspect) = self.suspects.get(&pid).filter(|suspect| suspect.start_time_ns == start_time_ns) else {
            return;
        };
        let is_asked = |port: u16, expected: bool| expected || suspect.ports.contains(&port);
        let at = |address| At { namespace, address };
        let listeners = listeners.iter().filter(|listener| is_asked(listener.address.port(), listener.expected));
        let doors: Vec<At> = listeners.map(|listener| at(listener.address)).collect();
        let pace = match (doors.is_empty(), suspect.looks < SOON_LISTENING) {
            (true, true) => UNTIL_LISTENING,
            _ => WHILE_LISTENING,
        };
        let left: Vec<At> = suspect.doors.iter().copied().filter(|door| !doors.contains(door)).collect();
        for door in left {
            self.leave(door, start_time_ns, pid);
        }
        let mut open = Vec::with_capacity(doors.len());
        for at in doors {
            if self.doors.len() < MAX_DOORS || self.doors.contains_key(&at) {
                self.doors.entry(at).or_insert_with(|| Door::new(kind, now)).processes.insert((start_time_ns, pid));
                open.push(at);
            }
        }
        if let Some(suspect) = self.suspects.get_mut(&pid) {
            suspect.doors = open;
        }
        self.look_at(pid, now.after(pace));
    }

    /// The helper has connected, or not.
    pub(super) fn dialed(&mut self, now: Nanos, ticket: u64, connection: Result<OwnedFd, Refusal>) -> Option<Job> {
        let Question { at, place, .. } = *self.open.get(&ticket)?;
        let refusal = match connection {
            Ok(connection) => return Some(Job { ticket, connection, place, host: at.address.to_string() }),
            Err(refusal) => refusal,
        };
        self.open.remove(&ticket);
        let door = self.doors.get_mut(&at)?;
        door.is_open = false;
        match refusal {
            Refusal::NotThere => {
                // Somebody else may share the place.
                let (start_time_ns, pid) = *door.processes.first()?;
                self.leave(at, start_time_ns, pid);
                self.look_at(pid, now.after(UNTIL_LISTENING));
            }
            Refusal::Failed(why) => door.failed(now, place, why),
        }
        None
    }

    /// What has come of a question.
    pub(super) fn answered(&mut self, now: Nanos, ticket: u64, outcome: Outcome, traffic: Option<&Traffic>) {
        let Some(Question { at, place, served }) = self.open.remove(&ticket) else { return };
        // Its process may have ended meanwhile.
        let Some(door) = self.doors.get_mut(&at) else { return };
        door.is_open = false;
        match outcome {
            Ok(answer) => {
                let now_served = traffic.map(|traffic| door.served(traffic, at.address.port()));
                let both = served.zip(now_served).map(|(before, after)| [before, after]);
                door.take(now, place, answer, both);
            }
            // FastAPI's servers mount their metrics below the path that has a slash.
            Err(Failure::NoMatch(NoMatch::Redirect(_))) if place == Place::Metrics => {
                door.replace(now, Place::Metrics, Place::MetricsSlash);
            }
            Err(failure) => door.failed(now, place, Text::new(&failure.to_string())),
        }
    }

    /// The processes that answer.
    pub(super) fn pids(&self) -> impl Iterator<Item = u32> {
        self.engines().filter_map(|(_, door)| Some(door.processes.first()?.1))
    }

    /// Of a process that answers at several places the first.
    fn engines(&self) -> impl Iterator<Item = (&At, &Door)> {
        let mut seen = BTreeSet::new();
        let of_its_own = move |door: &Door| seen.insert(door.processes.first().copied());
        let answering = self.doors.iter().filter(|(_, door)| door.watch.is_engine());
        let mut of_its_own = of_its_own;
        answering.filter(move |(_, door)| of_its_own(door))
    }

    /// What is known of those that answer.
    pub(super) fn frame(&self, now: Nanos, booted_at: Timestamp) -> Vec<Engine> {
        let of = |(at, door): (&At, &Door)| {
            let (start_time_ns, pid) = *door.processes.first()?;
            let since_boot = SignedDuration::try_from(Duration::from_nanos(start_time_ns)).ok()?;
            Some(Engine {
                pid,
                start_time: booted_at.checked_add(since_boot).ok(),
                endpoint: Label::new(&at.address.to_string()),
                problem: door.problem.as_ref().map(|(_, why)| why.clone()),
                ..door.watch.frame(now)
            })
        };
        self.engines().filter_map(of).collect()
    }

    /// Those that should answer by their name and do not.
    pub(super) fn errors(&self) -> Vec<CollectionError> {
        let of = |(at, door): (&At, &Door)| {
            let (kind, (_, why)) = door.kind.zip(door.problem.as_ref())?;
            let (_, pid) = door.processes.first()?;
            let message = Text::new(&format!("{} (pid {pid}) tells nothing at {}: {why}", kind.name(), at.address));
            Some(CollectionError { source: "engines".into(), message, last_at: None })
        };
        self.doors.iter().filter(|(_, door)| !door.watch.is_engine()).filter_map(of).take(MAX_ERRORS).collect()
    }
}

impl Door {
    fn new(kind: Option<EngineKind>, now: Nanos) -> Self {
        let mut door = Self {
            processes: BTreeSet::new(),
            kind,
            watch: Watch::new(kind),
            places: Vec::new(),
            is_open: false,
            has_looked_away: false,
            problem: None,
        };
        door.add_places(kind.map_or(&[Place::Metrics], EngineKind::places), now);
        door
    }

    fn add_places(&mut self, places: &[Place], now: Nanos) {
        for place in places {
            let is_known =
                |asked: &Asked| asked.place == *place || (asked.place, *place) == (Place::MetricsSlash, Place::Metrics);
            if !self.places.iter().any(is_known) {
                self.places.push(Asked { place: *place, next: now, failures: 0, answers: 0 });
            }
        }
    }

    fn due(&self) -> Option<Nanos> {
        self.places.iter().map(|asked| asked.next).min().filter(|_| !self.is_open)
    }

    /// What is asked for next: of several that are due, the one that is so for longest.
    fn next_place(&self) -> Option<Place> {
        self.places.iter().min_by_key(|asked| asked.next).map(|asked| asked.place)
    }

    fn asked(&mut self, place: Place) -> Option<&mut Asked> {
        self.places.iter_mut().find(|asked| asked.place == place)
    }

    fn served(&self, traffic: &Traffic, port: u16) -> Served {
        let mut sum = Served::default();
        for (_, pid) in &self.processes {
            sum += traffic.served(Pid(*pid), port);
        }
        sum
    }

    fn take(&mut self, now: Nanos, place: Place, answer: Answer, served: Option<[Served; 2]>) {
        let served = served.filter(|_| !std::mem::take(&mut self.has_looked_away));
        self.watch.take(now, answer, served);
        self.problem.take_if(|(of, _)| *of == place);
        let pace = self.pace(place);
        if let Some(asked) = self.asked(place) {
            asked.failures = 0;
            asked.answers += 1;
            asked.next = now.after(if asked.answers == 1 { pace.min(SOON) } else { pace });
        }
        // Whatever its name said, or did not.
        if let Some(kind) = self.watch.kind() {
            self.add_places(kind.places(), now);
        }
    }

    fn pace(&self, place: Place) -> Duration {
        let has_metrics = self.places.iter().any(|asked| is_metrics(asked.place) && asked.answers > 0);
        match place {
            Place::Metrics | Place::MetricsSlash | Place::Loaded => PACE,
            Place::Slots if has_metrics => SLOW_PACE,
            Place::Slots => PACE,
            Place::Props => SLOWEST_PACE,
        }
    }

    fn failed(&mut self, now: Nanos, place: Place, why: Text) {
        let is_engine = self.watch.is_engine();
        let Some(asked) = self.asked(place) else { return };
        let pause = if asked.answers > 0 {
            // It is there, and will be again.
            PACE * 2_u32.pow(asked.failures.min(5))
        } else {
            BACK_OFF[(asked.failures as usize).min(BACK_OFF.len() - 1)]
        };
        asked.failures = asked.failures.saturating_add(1);
        asked.next = now.after(pause);
        // That a server does not have all that it might have is no problem.
        if asked.answers > 0 || !is_engine {
            self.problem = Some((place, why));
        }
    }

    fn replace(&mut self, now: Nanos, place: Place, other: Place) {
        if let Some(asked) = self.asked(place) {
            *asked = Asked { place: other, next: now, failures: 0, answers: 0 };
        }
    }
}

fn is_metrics(place: Place) -> bool {
    matches!(place, Place::Metrics | Place::MetricsSlash)
}
