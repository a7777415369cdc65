//! Who is asked what, and when. No I/O, and no clock but the one that it is told.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::Duration;

use hbpf_core::chunk::Pid;
use hbpf_core::inference::{Answer, EngineKind, NoMatch, Place, Served, Traffic, Watch, compare};
use hbpf_core::label::{Label, Text};
use hbpf_core::snapshot::{CollectionError, Engine};
use hbpf_core::time::Nanos;
use jiff::{SignedDuration, Timestamp};

use super::reader::{Failure, Job, Outcome};
use crate::protocol::{MAX_PROCESSES, MAX_QUESTIONS, Question, Refusal, Request, Server, Suspect};

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

/// Time between two lots of processes that are looked at, of [`MAX_PROCESSES`] each: at the beginning all are new. At 30 us a
/// process it keeps looking within 4 % of a core.
const BETWEEN_LOTS: Duration = Duration::from_millis(100);

/// Before those are looked at again for whom there was no time.
const LATER: Duration = Duration::from_secs(5);

/// How often servers that do not listen yet are looked at, and after so many times how often: a large model is loaded for
/// minutes, and some processes of a server's name never listen.
const UNTIL_LISTENING: Duration = Duration::from_secs(2);
const SOON_LISTENING: u32 = 60;

/// For which nobody is asked when the helper has no time for questions. Whoever has waited longest comes first then.
const WHILE_BUSY: Duration = Duration::from_millis(500);

/// Who is asked so much later than he should be is told of.
const LATE: Duration = Duration::from_secs(4);

/// The helper and the reader take some seconds at most over a question.
const GIVEN_UP: Duration = Duration::from_secs(30);

/// How often it is looked where servers listen.
const WHILE_LISTENING: Duration = Duration::from_secs(30);

/// Places that are asked, and so rows. A host has a handful of servers; anyone may listen at many. What is remembered of one
/// takes up to half a megabyte, where it tells of as many replicas as are believed.
const MAX_DOORS: usize = 64;

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
    /// How many places there were no room for.
    left_out: usize,
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
    /// The question that is open to it.
    open: Option<u64>,
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
struct Open {
    at: At,
    /// Through which of those that listen there.
    process: (u64, u32),
    place: Place,
    /// What it had served when the question was put.
    served: Option<Served>,
    since: Nanos,
}

/// All that may be asked.
#[derive(Debug, Default)]
pub(super) struct Schedule {
    suspects: HashMap<u32, Suspected>,
    /// When which process is looked at next.
    looks: BTreeSet<(Nanos, u32)>,
    next_lot: Nanos,
    doors: BTreeMap<At, Door>,
    open: HashMap<u64, Open>,
    next_ticket: u64,
    /// The helper has had no time; until then nobody is asked.
    busy_until: Option<Nanos>,
    /// Places that are due for [`LATE`] for want of it.
    late: usize,
}

impl Schedule {
    /// When there is next something to do.
    pub(super) fn due(&self) -> Option<Nanos> {
        let look = self.looks.first().map(|(when, _)| self.next_lot.max(*when));
        let question = self.doors.values().filter_map(Door::due).min().filter(|_| self.open.len() < MAX_QUESTIONS);
        let question = question.max(self.busy_until.filter(|_| question.is_some()));
        let given_up = self.open.values().map(|open| open.since.after(GIVEN_UP)).min();
        look.into_iter().chain(question).chain(given_up).min()
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
        let is_shown = door.process() == Some((start_time_ns, pid));
        door.processes.remove(&(start_time_ns, pid));
        if door.processes.is_empty() {
            self.doors.remove(&at);
        } else if is_shown {
            // What the one before has said is nothing of the next.
            let processes = std::mem::take(&mut door.processes);
            *door = Door { processes, ..Door::new(door.kind) };
        }
    }

    /// What is due by now.
    pub(super) fn requests(&mut self, now: Nanos, traffic: Option<&Traffic>) -> Vec<Request> {
        self.give_up(now);
        let mut requests = Vec::new();
        let suspects = self.due_looks(now);
        if !suspects.is_empty() {
            requests.push(Request::FindServers(suspects));
        }
        // Who waits longest comes first: anybody may have many places that take long to answer.
        let due = self.doors.iter().filter_map(|(at, door)| Some((door.due().filter(|due| *due <= now)?, *at)));
        let mut due: Vec<(Nanos, At)> = due.collect();
        due.sort_unstable();
        if self.busy_until.is_some_and(|until| now < until) {
            // Who was never asked is so next.
            let is_late = |due: Nanos| due > Nanos(0) && now.since(due) >= LATE;
            self.late = due.iter().filter(|(due, _)| is_late(*due)).count();
            return requests;
        }
        (self.busy_until, self.late) = (None, 0);
        due.truncate(MAX_QUESTIONS.saturating_sub(self.open.len()));
        for (_, at) in &due {
            let Some(door) = self.doors.get_mut(at) else { continue };
            let Some((place, (start_time_ns, pid))) = door.next_place().zip(door.process()) else { continue };
            let ticket = self.next_ticket;
            self.next_ticket += 1;
            door.open = Some(ticket);
            let served = traffic.and_then(|traffic| door.served(traffic, at.address.port()));
            self.open.insert(ticket, Open { at: *at, process: (start_time_ns, pid), place, served, since: now });
            requests.push(Request::Ask(Question { ticket, pid, start_time_ns, address: at.address, place }));
        }
        requests
    }

    /// Questions that are open for longer than any takes: whoever had them in hand is not there any more.
    fn give_up(&mut self, now: Nanos) {
        let is_lost = |open: &Open| now.since(open.since) >= GIVEN_UP;
        let lost: Vec<u64> = self.open.iter().filter(|(_, open)| is_lost(open)).map(|(ticket, _)| *ticket).collect();
        for ticket in lost {
            self.answered(now, ticket, Err(Failure::Lost), None);
        }
    }

    fn due_looks(&mut self, now: Nanos) -> Vec<Suspect> {
        let mut due = Vec::new();
        if now < self.next_lot {
            return due;
        }
        while due.len() < MAX_PROCESSES
            && let Some((_, pid)) = self.looks.first().copied().filter(|(when, _)| *when <= now)
        {
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
        if !due.is_empty() {
            self.next_lot = now.after(BETWEEN_LOTS);
        }
        due
    }

    /// The helper had no time for these processes.
    pub(super) fn not_looked_at(&mut self, now: Nanos, pids: &[u32]) {
        for pid in pids {
            if let Some(suspect) = self.suspects.get_mut(pid) {
                suspect.looks = suspect.looks.saturating_sub(1);
                self.look_at(*pid, now.after(LATER));
            }
        }
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
        let serves: Vec<u16> = suspect.ports.iter().copied().collect();
        let left: Vec<At> = suspect.doors.iter().copied().filter(|door| !doors.contains(door)).collect();
        for door in left {
            self.leave(door, start_time_ns, pid);
        }
        let (mut open, wanted) = (Vec::with_capacity(doors.len()), doors.len());
        for at in doors {
            if self.make_room(at, serves.contains(&at.address.port())) {
                self.doors.entry(at).or_insert_with(|| Door::new(kind)).join((start_time_ns, pid));
                open.push(at);
            }
        }
        if let Some(suspect) = self.suspects.get_mut(&pid) {
            suspect.left_out = wanted - open.len();
            suspect.doors = open;
        }
        self.look_at(pid, now.after(pace));
    }

    /// Whether there is room for this place. Where model traffic was seen it takes that of one that has told nothing.
    fn make_room(&mut self, at: At, serves: bool) -> bool {
        if self.doors.len() < MAX_DOORS || self.doors.contains_key(&at) {
            return true;
        }
        let has_told_nothing = |(_, door): &(&At, &Door)| !door.watch.is_engine() && door.problem.is_some();
        let Some((worst, _)) = self.doors.iter().rfind(has_told_nothing).filter(|_| serves) else { return false };
        let worst = *worst;
        for (_, pid) in self.doors.remove(&worst).map(|door| door.processes).unwrap_or_default() {
            if let Some(suspect) = self.suspects.get_mut(&pid) {
                suspect.doors.retain(|door| *door != worst);
                suspect.left_out += 1;
            }
        }
        true
    }

    /// The place that a question was put to, if that still waits for its answer: its process may have ended meanwhile, or
    /// another have taken its part.
    fn resolve(&mut self, ticket: u64, at: At) -> Option<&mut Door> {
        let door = self.doors.get_mut(&at)?;
        door.open.take_if(|open| *open == ticket).map(|_| door)
    }

    /// The helper has asked, or not.
    pub(super) fn asked(&mut self, now: Nanos, ticket: u64, answer: Result<OwnedFd, Refusal>) -> Option<Job> {
        let Open { at, process: (start_time_ns, pid), place, .. } = *self.open.get(&ticket)?;
        let refusal = match answer {
            Ok(answer) => return Some(Job { ticket, answer, place }),
            Err(refusal) => refusal,
        };
        self.open.remove(&ticket);
        let door = self.resolve(ticket, at)?;
        match refusal {
            // No fault of the server's.
            Refusal::Busy => self.busy_until = Some(now.after(WHILE_BUSY)),
            Refusal::NotThere => {
                self.leave(at, start_time_ns, pid);
                self.look_at(pid, now.after(UNTIL_LISTENING));
            }
            Refusal::Failed(why) => door.failed(now, place, why),
        }
        None
    }

    /// What has come of a question.
    pub(super) fn answered(&mut self, now: Nanos, ticket: u64, outcome: Outcome, traffic: Option<&Traffic>) {
        let Some(Open { at, place, served, .. }) = self.open.remove(&ticket) else { return };
        let Some(door) = self.resolve(ticket, at) else { return };
        match outcome {
            Ok(answer) => {
                let now_served = traffic.map(|traffic| door.served(traffic, at.address.port()));
                let both = served.zip(now_served.flatten()).map(|(before, after)| [before, after]);
                door.take(now, place, answer, both);
            }
            // FastAPI's servers mount their metrics below the path that has a slash.
            Err(Failure::NoMatch(NoMatch::Redirect(_))) if place == Place::Metrics => {
                door.replace(Place::Metrics, Place::MetricsSlash);
            }
            Err(failure) => door.failed(now, place, Text::new(&failure.to_string())),
        }
    }

    /// The processes that answer.
    pub(super) fn pids(&self) -> impl Iterator<Item = u32> {
        self.engines().filter_map(|(_, door)| Some(door.process()?.1))
    }

    /// Of a process that answers at several places the first.
    fn engines(&self) -> impl Iterator<Item = (&At, &Door)> {
        let mut seen = BTreeSet::new();
        let answering = self.doors.iter().filter(|(_, door)| door.watch.is_engine());
        answering.filter(move |(_, door)| seen.insert(door.process()))
    }

    /// What is known of those that answer.
    pub(super) fn frame(&self, now: Nanos, booted_at: Timestamp) -> Vec<Engine> {
        let of = |(at, door): (&At, &Door)| {
            let (start_time_ns, pid) = door.process()?;
            let since_boot = SignedDuration::try_from(Duration::from_nanos(start_time_ns)).ok()?;
            let said = door.watch.frame(now);
            Some(Engine {
                pid,
                start_time: booted_at.checked_add(since_boot).ok(),
                endpoint: Label::new(&at.address.to_string()),
                problem: door.problem.as_ref().map(|(_, why)| why.clone()).or(said.problem.clone()),
                ..said
            })
        };
        let mut engines: Vec<Engine> = self.engines().filter_map(of).collect();
        compare(&mut engines);
        engines
    }

    /// Those that should answer by their name and do not.
    pub(super) fn errors(&self) -> Vec<CollectionError> {
        let of = |(at, door): (&At, &Door)| {
            let (kind, (_, why)) = door.kind.zip(door.problem.as_ref()).filter(|_| door.has_tried_all())?;
            let (_, pid) = door.process()?;
            let message = Text::new(&format!("{} (pid {pid}) tells nothing at {}: {why}", kind.name(), at.address));
            Some(CollectionError { source: "engines".into(), message, last_at: None })
        };
        let silent = self.doors.iter().filter(|(_, door)| !door.watch.is_engine()).filter_map(of).take(MAX_ERRORS);
        let left_out: usize = self.suspects.values().map(|suspect| suspect.left_out).sum();
        let too_many = (left_out > 0).then(|| CollectionError {
            source: "engines".into(),
            message: Text::new(&format!("{left_out} more places may be inference servers; {MAX_DOORS} are asked")),
            last_at: None,
        });
        let late = (self.late > 0).then(|| CollectionError {
            source: "engines".into(),
            message: Text::new(&format!(
                "{} inference servers are asked less often than they should be: it takes too long here to see where they \
                 listen",
                self.late
            )),
            last_at: None,
        });
        silent.chain(too_many).chain(late).collect()
    }
}

impl Door {
    fn new(kind: Option<EngineKind>) -> Self {
        let mut door = Self {
            processes: BTreeSet::new(),
            kind,
            watch: Watch::new(kind),
            places: Vec::new(),
            open: None,
            has_looked_away: false,
            problem: None,
        };
        door.add_places(kind.map_or(&[Place::Metrics], EngineKind::places));
        door
    }

    /// The one that is asked and shown.
    fn process(&self) -> Option<(u64, u32)> {
        self.processes.first().copied()
    }

    /// This process listens there, too. If it is the one to ask from now on, what another has said is nothing of it.
    fn join(&mut self, process: (u64, u32)) {
        let before = self.process();
        self.processes.insert(process);
        if before.is_some() && self.process() != before {
            let processes = std::mem::take(&mut self.processes);
            *self = Self { processes, ..Self::new(self.kind) };
        }
    }

    /// They are asked for at once.
    fn add_places(&mut self, places: &[Place]) {
        for place in places {
            let is_known =
                |asked: &Asked| asked.place == *place || (asked.place, *place) == (Place::MetricsSlash, Place::Metrics);
            if !self.places.iter().any(is_known) {
                self.places.push(Asked { place: *place, next: Nanos(0), failures: 0, answers: 0 });
            }
        }
    }

    fn due(&self) -> Option<Nanos> {
        self.places.iter().map(|asked| asked.next).min().filter(|_| self.open.is_none())
    }

    /// What is asked for next: of several that are due, the one that is so for longest.
    fn next_place(&self) -> Option<Place> {
        self.places.iter().min_by_key(|asked| asked.next).map(|asked| asked.place)
    }

    fn asked(&mut self, place: Place) -> Option<&mut Asked> {
        self.places.iter_mut().find(|asked| asked.place == place)
    }

    fn served(&self, traffic: &Traffic, port: u16) -> Option<Served> {
        let mut sum = Served::default();
        for (_, pid) in &self.processes {
            sum += traffic.served(Pid(*pid), port)?;
        }
        Some(sum)
    }

    fn take(&mut self, now: Nanos, place: Place, answer: Answer, served: Option<[Served; 2]>) {
        let served = served.filter(|_| !std::mem::take(&mut self.has_looked_away));
        self.watch.take(now, answer, served);
        // Nor is it one any more that it does not have all that it might have.
        let places = &self.places;
        let has_answered = |place| places.iter().any(|asked| asked.place == place && asked.answers > 0);
        self.problem.take_if(|(of, _)| *of == place || !has_answered(*of));
        let pace = self.pace(place);
        if let Some(asked) = self.asked(place) {
            asked.failures = 0;
            asked.answers += 1;
            asked.next = now.after(if asked.answers == 1 { pace.min(SOON) } else { pace });
        }
        // Whatever its name said, or did not.
        if let Some(kind) = self.watch.kind() {
            self.add_places(kind.places());
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
        // That a server does not have all that it might have is none. Of several the first is told.
        let is_problem = asked.answers > 0 || !is_engine;
        if is_problem && self.problem.as_ref().is_none_or(|(of, _)| *of == place) {
            self.problem = Some((place, why));
        }
    }

    /// Whether there is no place left at which it might answer yet.
    fn has_tried_all(&self) -> bool {
        self.places.iter().all(|asked| asked.failures > 0 || asked.answers > 0)
    }

    fn replace(&mut self, place: Place, other: Place) {
        if let Some(asked) = self.asked(place) {
            *asked = Asked { place: other, next: Nanos(0), failures: 0, answers: 0 };
        }
    }
}

fn is_metrics(place: Place) -> bool {
    matches!(place, Place::Metrics | Place::MetricsSlash)
}

#[cfg(test)]
mod tests {
    use hbpf_core::inference::{Fetch, Loaded};
    use hbpf_core::snapshot::EngineModel;

    use super::*;
    use crate::protocol::Listener;

    const SECOND: Duration = Duration::from_secs(1);

    fn at(seconds: f64) -> Nanos {
        Nanos(1_000_000_000_000).after(Duration::from_secs_f64(seconds))
    }

    fn address(port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    fn server(pid: u32, kind: Option<EngineKind>, ports: &[(u16, bool)]) -> Server {
        let listener = |(port, expected): &(u16, bool)| Listener { address: address(*port), expected: *expected };
        let listeners = ports.iter().map(listener).collect();
        Server { pid, start_time_ns: u64::from(pid), kind, namespace: 1, listeners }
    }

    /// A schedule that knows of these processes, and has been told so of them.
    fn schedule(servers: &[Server]) -> Schedule {
        let mut schedule = Schedule::default();
        for server in servers {
            schedule.see(at(0.0), server.pid, server.start_time_ns);
        }
        schedule.requests(at(0.0), None);
        for server in servers {
            schedule.found(at(0.0), server.clone());
        }
        schedule
    }

    fn looks(requests: &[Request]) -> Vec<Suspect> {
        let of = |request: &Request| match request {
            Request::FindServers(suspects) => suspects.clone(),
            _ => Vec::new(),
        };
        requests.iter().flat_map(of).collect()
    }

    fn questions(requests: &[Request]) -> Vec<Question> {
        let of = |request: &Request| match request {
            Request::Ask(question) => Some(*question),
            _ => None,
        };
        requests.iter().filter_map(of).collect()
    }

    fn pipe() -> OwnedFd {
        std::fs::File::open("/dev/null").unwrap().into()
    }

    /// Puts what is due by then, and gives each question the outcome for its place. What was asked for.
    fn ask(schedule: &mut Schedule, now: Nanos, outcome: &dyn Fn(Place) -> Outcome) -> Vec<(u32, Place)> {
        let questions = questions(&schedule.requests(now, None));
        let mut asked = Vec::new();
        for question in questions {
            let job = schedule.asked(now, question.ticket, Ok(pipe())).unwrap();
            assert_eq!(job.place, question.place);
            asked.push((question.pid, job.place));
            schedule.answered(now, job.ticket, outcome(job.place), None);
        }
        asked
    }

    fn metrics(text: &str) -> Outcome {
        let mut fetch = Fetch::new(Place::Metrics);
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{text}", text.len());
        Ok(fetch.push(answer.as_bytes()).unwrap().unwrap())
    }

    fn status(status: u16) -> Outcome {
        Err(NoMatch::Status(status).into())
    }

    fn vllm(_: Place) -> Outcome {
        metrics("vllm:num_requests_running 3\n")
    }

    /// When the next question is due, in seconds after this moment.
    fn next_question(schedule: &Schedule, now: Nanos) -> f64 {
        let due = schedule.doors.values().filter_map(Door::due).min().unwrap();
        (due - now).as_secs_f64()
    }

    #[test]
    fn a_server_is_found_and_asked_at_a_pace() {
        let mut schedule = Schedule::default();
        assert_eq!(schedule.due(), None, "nobody is there");
        schedule.see(at(0.0), 7, 7);
        assert_eq!(schedule.due(), Some(at(0.0)));
        let requests = schedule.requests(at(0.0), None);
        assert_eq!(looks(&requests), [Suspect { pid: 7, serves: false }]);
        schedule.found(at(0.1), server(7, Some(EngineKind::Vllm), &[(8000, true), (5555, false)]));
        let mut times = Vec::new();
        let mut now = at(0.1);
        while schedule.due().unwrap() < at(9.0) {
            // What is due at once is so since ever.
            now = now.max(schedule.due().unwrap());
            times.extend(ask(&mut schedule, now, &vllm).iter().map(|_| (now - at(0.0)).as_secs_f64()));
        }
        assert_eq!(times, [0.1, 1.1, 3.1, 5.1, 7.1]);
        let frame = schedule.frame(at(9.1), Timestamp::UNIX_EPOCH);
        let [engine] = &frame[..] else { panic!("{frame:?}") };
        assert_eq!((engine.pid, engine.kind.as_str(), engine.endpoint.as_str()), (7, "vllm", "127.0.0.1:8000"));
        assert_eq!((engine.requests_running, engine.stale_seconds), (Some(3.0), Some(2.0)));
        assert_eq!(engine.start_time, Some("1970-01-01T00:00:00.000000007Z".parse().unwrap()));
        schedule.exited(7);
        assert!(schedule.frame(at(9.0), Timestamp::UNIX_EPOCH).is_empty());
        assert_eq!((schedule.due(), schedule.looks.len()), (None, 0));
    }

    #[test]
    fn who_is_no_server_is_looked_at_three_times_and_who_serves_again() {
        let mut schedule = Schedule::default();
        schedule.see(at(0.0), 7, 7);
        let mut times = Vec::new();
        while let Some(now) = schedule.due() {
            assert_eq!(looks(&schedule.requests(now, None)).len(), 1);
            times.push((now - at(0.0)).as_secs());
        }
        assert_eq!(times, [0, 2, 32]);
        schedule.see(at(50.0), 7, 7);
        assert_eq!(schedule.due(), None, "it is the same");
        schedule.serves(at(60.0), 7, 9000);
        assert_eq!(looks(&schedule.requests(at(60.0), None)), [Suspect { pid: 7, serves: true }]);
        // Where it serves, and nowhere else.
        schedule.found(at(60.0), server(7, None, &[(9000, false), (9001, false)]));
        assert_eq!(ask(&mut schedule, at(60.0), &|_| status(404)), [(7, Place::Metrics)]);
        assert!(schedule.errors().is_empty(), "nothing says that it should answer");
        schedule.executed(at(70.0), 7);
        assert_eq!((schedule.due(), schedule.doors.len()), (Some(at(71.0)), 0));
        schedule.see(at(80.0), 7, 8);
        assert_eq!(looks(&schedule.requests(at(80.0), None)), [Suspect { pid: 7, serves: false }], "another process");
    }

    #[test]
    fn many_are_looked_at_in_lots_and_those_that_were_left_out_again() {
        let mut schedule = Schedule::default();
        for pid in 1..=300 {
            schedule.see(at(0.0), pid, 1);
        }
        let lots: Vec<usize> = (0..4)
            .map(|_| {
                let now = schedule.due().unwrap();
                looks(&schedule.requests(now, None)).len()
            })
            .collect();
        assert_eq!(lots, [128, 128, 44, 128], "and then the first again");
        let mut schedule = Schedule::default();
        schedule.see(at(0.0), 7, 1);
        let mut times = Vec::new();
        while let Some(now) = schedule.due() {
            assert_eq!(looks(&schedule.requests(now, None)).len(), 1);
            times.push((now - at(0.0)).as_secs());
            if times.len() == 1 {
                schedule.not_looked_at(now, &[7, 8]);
            }
        }
        assert_eq!(times, [0, 5, 7, 37], "that one did not count");
    }

    #[test]
    fn what_does_not_match_is_tried_seldom_and_told() {
        let mut schedule = schedule(&[server(7, Some(EngineKind::LiteLlm), &[(4000, true)])]);
        let mut now = at(0.0);
        for pause in [10.0, 60.0, 600.0, 600.0] {
            assert_eq!(ask(&mut schedule, now, &|_| status(401)).len(), 1);
            assert_eq!(next_question(&schedule, now), pause);
            now = now.after(Duration::from_secs_f64(pause));
        }
        assert!(schedule.frame(now, Timestamp::UNIX_EPOCH).is_empty() && schedule.pids().count() == 0);
        let errors: Vec<String> = schedule.errors().iter().map(|error| error.message.to_string()).collect();
        assert_eq!(errors, ["litellm (pid 7) tells nothing at 127.0.0.1:4000: it answers 401"]);
        ask(&mut schedule, now, &|_| metrics("litellm_in_flight_requests 1\n"));
        assert!(schedule.errors().is_empty() && schedule.pids().eq([7]));
    }

    #[test]
    fn one_that_has_answered_is_waited_for_and_its_numbers_grow_old() {
        let mut schedule = schedule(&[server(7, Some(EngineKind::Vllm), &[(8000, true)])]);
        ask(&mut schedule, at(0.0), &vllm);
        let mut now = at(1.0);
        for pause in [2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 64.0] {
            assert_eq!(ask(&mut schedule, now, &|_| Err(Failure::Late)).len(), 1);
            assert_eq!(next_question(&schedule, now), pause);
            now = now.after(Duration::from_secs_f64(pause));
        }
        let engine = schedule.frame(now, Timestamp::UNIX_EPOCH).remove(0);
        assert_eq!(engine.problem.as_deref(), Some("it does not answer within 2 s"));
        assert_eq!((engine.requests_running, engine.stale_seconds), (Some(3.0), Some((now - at(0.0)).as_secs_f64())));
        ask(&mut schedule, now, &vllm);
        assert_eq!(schedule.frame(now, Timestamp::UNIX_EPOCH).remove(0).problem, None);
        assert_eq!(next_question(&schedule, now), 2.0);
    }

    #[test]
    fn of_llama_cpp_what_there_is() {
        let mut schedule = schedule(&[server(7, Some(EngineKind::LlamaCpp), &[(8080, true)])]);
        let slots = |place| match place {
            Place::Slots => {
                let mut fetch = Fetch::new(Place::Slots);
                let body = r#"[{"id":0,"is_processing":true}]"#;
                let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
                Ok(fetch.push(answer.as_bytes()).unwrap().unwrap())
            }
            _ => status(501),
        };
        let places: Vec<Place> =
            (0..3).flat_map(|_| ask(&mut schedule, at(0.0), &slots)).map(|(_, place)| place).collect();
        assert_eq!(places, [Place::Metrics, Place::Slots, Place::Props]);
        assert!(schedule.errors().is_empty());
        let engine = schedule.frame(at(0.0), Timestamp::UNIX_EPOCH).remove(0);
        assert_eq!((engine.requests_running, engine.problem), (Some(1.0), None), "what it does not have is no problem");
        assert_eq!(ask(&mut schedule, at(1.0), &slots), [(7, Place::Slots)]);
        assert_eq!(next_question(&schedule, at(1.0)), 2.0, "there is nothing else that moves");
    }

    #[test]
    fn a_kind_that_nobody_knew_is_asked_for_the_rest() {
        let mut schedule = schedule(&[server(7, None, &[])]);
        schedule.serves(at(0.0), 7, 8080);
        schedule.found(at(0.0), server(7, None, &[(8080, false)]));
        ask(&mut schedule, at(0.0), &|_| metrics("llamacpp:requests_processing 0\n"));
        assert_eq!(ask(&mut schedule, at(0.0), &|_| status(501)), [(7, Place::Slots)]);
    }

    #[test]
    fn silence_is_told_once_all_places_were_tried() {
        let mut schedule = schedule(&[server(7, Some(EngineKind::LlamaCpp), &[(8080, true)])]);
        for _ in 0..2 {
            ask(&mut schedule, at(0.0), &|_| status(501));
            assert!(schedule.errors().is_empty());
        }
        ask(&mut schedule, at(0.0), &|_| status(404));
        assert_eq!(schedule.errors()[0].message, "llama.cpp (pid 7) tells nothing at 127.0.0.1:8080: it answers 501");
    }

    #[test]
    fn metrics_below_the_path_with_a_slash_are_asked_for_there() {
        let mut schedule = schedule(&[server(7, Some(EngineKind::LiteLlm), &[(4000, true)])]);
        let answer = |place| match place {
            Place::Metrics => Err(NoMatch::Redirect(307).into()),
            _ => metrics("litellm_in_flight_requests 1\n"),
        };
        assert_eq!(ask(&mut schedule, at(0.0), &answer), [(7, Place::Metrics)]);
        assert_eq!(ask(&mut schedule, at(0.0), &answer), [(7, Place::MetricsSlash)]);
        assert_eq!(ask(&mut schedule, at(1.0), &answer), [(7, Place::MetricsSlash)]);
        let endless = |_| Err(NoMatch::Redirect(307).into());
        assert_eq!(ask(&mut schedule, at(3.0), &endless), [(7, Place::MetricsSlash)]);
        assert!(ask(&mut schedule, at(3.1), &endless).is_empty(), "a redirect is followed to one place that is known");
    }

    #[test]
    fn processes_that_share_a_socket_are_one_server() {
        let kind = Some(EngineKind::Vllm);
        let mut schedule = schedule(&[server(9, kind, &[(8000, true)]), server(7, kind, &[(8000, true)])]);
        let mut elsewhere = server(8, kind, &[(8000, true)]);
        elsewhere.namespace = 2;
        schedule.see(at(0.0), 8, 8);
        schedule.found(at(0.0), elsewhere);
        let asked = ask(&mut schedule, at(0.0), &vllm);
        assert_eq!(asked, [(7, Place::Metrics), (8, Place::Metrics)], "the oldest, and the one in another namespace");
        // What the one has said, or is about to, the next has not.
        let question = questions(&schedule.requests(at(1.0), None))[0];
        schedule.exited(7);
        schedule.asked(at(1.0), question.ticket, Ok(pipe()));
        schedule.answered(at(1.0), question.ticket, vllm(Place::Metrics), None);
        assert!(schedule.pids().eq([8]));
        assert_eq!(ask(&mut schedule, at(1.0), &vllm), [(9, Place::Metrics)]);
        assert!(schedule.pids().eq([9, 8]));
    }

    #[test]
    fn an_older_process_that_joins_during_a_question_is_asked_from_then_on() {
        let kind = Some(EngineKind::Vllm);
        let mut schedule = schedule(&[server(9, kind, &[(8000, true)])]);
        let question = questions(&schedule.requests(at(0.0), None))[0];
        schedule.see(at(0.1), 7, 7);
        schedule.found(at(0.1), server(7, kind, &[(8000, true)]));
        schedule.asked(at(0.2), question.ticket, Ok(pipe()));
        schedule.answered(at(0.2), question.ticket, vllm(Place::Metrics), None);
        assert_eq!(schedule.pids().count(), 0, "what the other has said is nothing of it");
        assert_eq!(ask(&mut schedule, at(0.3), &vllm), [(7, Place::Metrics)]);
        // A younger one changes nothing.
        let question = questions(&schedule.requests(at(1.3), None))[0];
        schedule.see(at(1.3), 8, 8);
        schedule.found(at(1.3), server(8, kind, &[(8000, true)]));
        schedule.asked(at(1.4), question.ticket, Ok(pipe()));
        schedule.answered(at(1.4), question.ticket, vllm(Place::Metrics), None);
        assert_eq!(ask(&mut schedule, at(3.5), &vllm), [(7, Place::Metrics)]);
    }

    #[test]
    fn that_the_helper_is_busy_is_no_fault_of_the_server() {
        let mut schedule = schedule(&[server(7, Some(EngineKind::Vllm), &[(8000, true)])]);
        let mut now = at(0.0);
        for _ in 0..5 {
            let question = questions(&schedule.requests(now, None))[0];
            assert!(schedule.asked(now, question.ticket, Err(Refusal::Busy)).is_none());
            assert_eq!(schedule.due(), Some(now.after(WHILE_BUSY)));
            assert!(questions(&schedule.requests(now, None)).is_empty());
            now = now.after(WHILE_BUSY);
        }
        assert!(schedule.errors().is_empty(), "nothing is amiss with it");
        assert_eq!(ask(&mut schedule, now, &vllm).len(), 1);
    }

    #[test]
    fn where_the_helper_has_little_time_each_has_his_turn_and_that_is_told() {
        let servers: Vec<Server> =
            (1..=40).map(|pid| server(pid, Some(EngineKind::Vllm), &[(pid as u16, true)])).collect();
        let mut schedule = schedule(&servers);
        let mut asked: BTreeMap<u32, u32> = BTreeMap::new();
        let mut now = at(0.0);
        while now < at(100.0) {
            for (count, question) in questions(&schedule.requests(now, None)).into_iter().enumerate() {
                if count >= 3 {
                    schedule.asked(now, question.ticket, Err(Refusal::Busy));
                    continue;
                }
                *asked.entry(question.pid).or_default() += 1;
                schedule.asked(now, question.ticket, Ok(pipe()));
                schedule.answered(now, question.ticket, vllm(Place::Metrics), None);
            }
            schedule.requests(now, None);
            now = schedule.due().unwrap();
        }
        let (least, most) = (asked.values().min().unwrap(), asked.values().max().unwrap());
        assert!(asked.len() == 40 && most - least <= 2, "{asked:?}");
        let errors: Vec<String> = schedule.errors().iter().map(|error| error.message.to_string()).collect();
        assert!(errors.iter().any(|error| error.contains("less often")), "{errors:?}");
    }

    #[test]
    fn a_question_that_nobody_resolves_is_given_up() {
        let mut schedule = schedule(&[server(7, Some(EngineKind::Vllm), &[(8000, true)])]);
        ask(&mut schedule, at(0.0), &vllm);
        let question = questions(&schedule.requests(at(1.0), None))[0];
        schedule.asked(at(1.0), question.ticket, Ok(pipe()));
        // News of the listening comes meanwhile.
        let given_up = at(1.0).after(GIVEN_UP);
        while let Some(now) = schedule.due().filter(|due| *due < given_up) {
            assert!(questions(&schedule.requests(now, None)).is_empty());
        }
        assert_eq!(schedule.due(), Some(given_up));
        schedule.requests(given_up, None);
        let engine = schedule.frame(given_up, Timestamp::UNIX_EPOCH).remove(0);
        assert_eq!(engine.problem.as_deref(), Some("its answer was lost"));
        assert_eq!(ask(&mut schedule, given_up.after(PACE), &vllm).len(), 1);
    }

    #[test]
    fn of_many_that_are_slow_each_has_its_turn() {
        let servers: Vec<Server> =
            (1..=MAX_DOORS as u32).map(|pid| server(pid, Some(EngineKind::Vllm), &[(pid as u16, true)])).collect();
        let mut schedule = schedule(&servers);
        let mut asked: BTreeMap<u32, u32> = BTreeMap::new();
        let mut now = at(0.0);
        for _ in 0..100 {
            let questions = questions(&schedule.requests(now, None));
            assert!(questions.len() <= MAX_QUESTIONS);
            now = now.after(Duration::from_millis(1900));
            for question in questions {
                *asked.entry(question.pid).or_default() += 1;
                schedule.asked(now, question.ticket, Ok(pipe()));
                schedule.answered(now, question.ticket, vllm(Place::Metrics), None);
            }
        }
        let (least, most) = (asked.values().min().unwrap(), asked.values().max().unwrap());
        assert!(asked.len() == MAX_DOORS && most - least <= 1, "{asked:?}");
    }

    #[test]
    fn who_finds_no_room_is_counted_and_who_serves_takes_that_of_one_that_tells_nothing() {
        let many: Vec<(u16, bool)> = (1..=MAX_DOORS as u16 + 5).map(|port| (port, true)).collect();
        let mut schedule = schedule(&[server(7, Some(EngineKind::Vllm), &many), server(8, None, &[])]);
        let last = |schedule: &Schedule| schedule.errors().last().unwrap().message.to_string();
        assert_eq!(last(&schedule), format!("5 more places may be inference servers; {MAX_DOORS} are asked"));
        schedule.serves(at(0.0), 8, 9000);
        schedule.found(at(0.0), server(8, None, &[(9000, false)]));
        assert_eq!(last(&schedule), format!("6 more places may be inference servers; {MAX_DOORS} are asked"));
        while !ask(&mut schedule, at(0.0), &|_| status(404)).is_empty() {}
        schedule.found(at(1.0), server(8, None, &[(9000, false)]));
        assert_eq!(ask(&mut schedule, at(1.0), &vllm), [(8, Place::Metrics)]);
        assert_eq!(schedule.doors.len(), MAX_DOORS);
    }

    #[test]
    fn at_two_places_it_is_still_one_server() {
        let mut schedule = schedule(&[server(7, Some(EngineKind::Tgi), &[(3000, true), (9000, true)])]);
        assert_eq!(ask(&mut schedule, at(0.0), &|_| metrics("tgi_queue_size 1\n")).len(), 2);
        assert_eq!(schedule.frame(at(0.0), Timestamp::UNIX_EPOCH).len(), 1);
    }

    #[test]
    fn who_does_not_listen_any_more_is_left_and_looked_for() {
        let mut schedule = schedule(&[server(7, Some(EngineKind::Vllm), &[(8000, true)])]);
        ask(&mut schedule, at(0.0), &vllm);
        let question = questions(&schedule.requests(at(1.0), None))[0];
        assert!(schedule.asked(at(1.0), question.ticket, Err(Refusal::NotThere)).is_none());
        assert!(schedule.doors.is_empty() && schedule.open.is_empty());
        assert_eq!(looks(&schedule.requests(at(3.0), None)).len(), 1);
        schedule.found(at(3.0), server(7, Some(EngineKind::Vllm), &[(8001, true)]));
        let question = questions(&schedule.requests(at(3.0), None))[0];
        assert_eq!(question.address.port(), 8001);
        schedule.asked(at(3.0), question.ticket, Err(Refusal::Failed("no memory".into())));
        assert_eq!(schedule.errors()[0].message, "vllm (pid 7) tells nothing at 127.0.0.1:8001: no memory");
        // It listens elsewhere by the next look.
        schedule.found(at(4.0), server(7, Some(EngineKind::Vllm), &[(8002, true)]));
        assert_eq!(schedule.doors.keys().map(|at| at.address.port()).collect::<Vec<_>>(), [8002]);
    }

    #[test]
    fn a_server_that_loads_its_model_is_awaited() {
        let mut schedule = schedule(&[server(7, Some(EngineKind::Vllm), &[])]);
        let mut looked = 1;
        while schedule.due().unwrap() < at(300.0) {
            let now = schedule.due().unwrap();
            looked += looks(&schedule.requests(now, None)).len();
            schedule.found(now, server(7, Some(EngineKind::Vllm), &[]));
        }
        assert!((60..75).contains(&looked), "every two seconds at first: {looked}");
        schedule.found(at(300.0), server(7, Some(EngineKind::Vllm), &[(8000, true)]));
        assert_eq!(ask(&mut schedule, at(300.0), &vllm).len(), 1);
    }

    #[test]
    fn one_question_at_a_time_and_not_too_many_in_all() {
        let many: Vec<Server> =
            (1..=200).map(|pid| server(pid, Some(EngineKind::LlamaCpp), &[(8000 + pid as u16, true)])).collect();
        let mut schedule = schedule(&many);
        assert_eq!(schedule.doors.len(), MAX_DOORS);
        let open = questions(&schedule.requests(at(0.0), None));
        assert_eq!(open.len(), MAX_QUESTIONS);
        assert!(questions(&schedule.requests(at(20.0), None)).is_empty());
        assert!(schedule.due().is_none_or(|due| due > at(0.0)), "or the collector would turn in circles");
        let job = schedule.asked(at(20.0), open[0].ticket, Ok(pipe())).unwrap();
        schedule.answered(at(20.0), job.ticket, Err(Failure::Late), None);
        assert_eq!(questions(&schedule.requests(at(20.0), None)).len(), 1);
        for pid in 1..=200 {
            schedule.exited(pid);
        }
        // Of those who have gone meanwhile nothing comes, nor stays.
        for question in &open[1..] {
            schedule.asked(at(60.0), question.ticket, Err(Refusal::NotThere));
        }
        assert!(schedule.doors.is_empty() && schedule.suspects.is_empty() && schedule.looks.is_empty());
        assert!(schedule.errors().is_empty());
    }

    #[test]
    fn while_nobody_watches_counts_are_not_compared() {
        let counted = |tokens: u32| {
            metrics(&format!(
                "llamacpp:prompt_tokens_total 0\nllamacpp:prompt_tokens_cached_total 0\nllamacpp:tokens_predicted_total {tokens}\n"
            ))
        };
        let traffic = Traffic::default();
        let agreement = |looks_away: bool| {
            let mut schedule = schedule(&[server(7, Some(EngineKind::LlamaCpp), &[(8080, true)])]);
            for (second, tokens) in (0..8_u32).map(|second| (second, if second < 4 { 0 } else { 500 })) {
                let now = at(f64::from(second) * 20.0);
                for question in questions(&schedule.requests(now, Some(&traffic))) {
                    let job = schedule.asked(now, question.ticket, Ok(pipe())).unwrap();
                    let outcome = if job.place == Place::Metrics { counted(tokens) } else { status(501) };
                    schedule.answered(now, job.ticket, outcome, Some(&traffic));
                }
                for _ in 0..2 {
                    for question in questions(&schedule.requests(now, Some(&traffic))) {
                        schedule.asked(now, question.ticket, Ok(pipe()));
                        schedule.answered(now, question.ticket, status(501), Some(&traffic));
                    }
                }
                if looks_away && second == 3 {
                    schedule.look_away();
                }
            }
            schedule.frame(at(0.0), Timestamp::UNIX_EPOCH).remove(0).agreement_percent
        };
        assert_eq!(agreement(false), Some(0.0), "hbpf has seen nothing of it");
        assert_eq!(agreement(true), None);
    }

    #[test]
    fn a_loaded_model_makes_it_ollama() {
        let mut schedule = schedule(&[server(7, Some(EngineKind::Ollama), &[(11434, true)])]);
        let loaded = || {
            let model = EngineModel { name: "llama3".into(), memory_bytes: Some(1 << 30), ..EngineModel::default() };
            Ok(Answer::Loaded(Loaded { models: vec![model] }))
        };
        assert_eq!(ask(&mut schedule, at(0.0), &|_| loaded()), [(7, Place::Loaded)]);
        let engine = schedule.frame(at(0.0).after(SECOND), Timestamp::UNIX_EPOCH).remove(0);
        assert_eq!((engine.kind.as_str(), engine.loaded_models.len()), ("ollama", 1));
    }
}
