//! The unprivileged side's worker: reads the ring, runs the engine, asks the helper for samples, hands out snapshots.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender, TryRecvError};
use std::thread::JoinHandle;
use std::time::Duration;

use hbpf_core::aggregate::{Aggregator, AggregatorConfig};
use hbpf_core::chunk::{Action, ConnectionKey, Origin, Pid, Source, Verdict};
use hbpf_core::engine::{Engine, Observer};
use hbpf_core::exchange::{Exchange, ExchangeEvent};
use hbpf_core::label::Text;
use hbpf_core::snapshot::{CollectionError, Snapshot};
use hbpf_core::time::{Nanos, WallClock};
use hbpf_ebpf::{RecordHeader, action, flags, lifecycle, source};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::time::{ClockId, clock_gettime};

use crate::decode::{self, Record};
use crate::facts::Facts;
use crate::privsep::{HelperClient, SocketError};
use crate::protocol::{FlowVerdict, Group, Reply, Request, SocketQuery};
use crate::ring::EventRing;

/// How long records may gather before they are read: at high rates one wake-up serves many, and nobody sees 5 ms.
const GATHER: Duration = Duration::from_millis(5);

/// How often the engine is told the time.
const TICK: Duration = Duration::from_millis(100);

/// How long the helper may take over a sample before the snapshot goes out without it.
const SAMPLE_PATIENCE: Duration = Duration::from_secs(3);

/// What a snapshot without a fresh sample says. Loading the probes can keep the helper that long on a slow machine.
const LATE_SAMPLE: &str = "the helper is busy; CPU and memory are those of the sample before";

/// Most distinct collection errors kept; each is a line that a user reads.
const MAX_ERRORS: usize = 32;

/// How to collect.
#[derive(Clone, Debug)]
pub struct Options {
    /// Probe groups to attach at the start.
    pub groups: Vec<Group>,
    /// What rates and window distributions are over.
    pub window: Duration,
    /// Time between snapshots; `None` delivers one only when [`Collector::take_now`] asks for it.
    pub interval: Option<Duration>,
}

/// What the collector delivers.
#[derive(Clone, Debug)]
pub enum Update {
    /// A frame.
    Snapshot(Arc<Snapshot>),
    /// Nothing more will come, and why.
    Ended(String),
}

/// A running collection. Dropping it ends the collection and the helper.
pub struct Collector {
    commands: Sender<Command>,
    wake: Arc<EventFd>,
    thread: Option<JoinHandle<()>>,
}

enum Command {
    SetGroup(Group, bool),
    TakeNow,
    Stop,
}

impl Collector {
    /// Starts the worker thread. `deliver` is called on it.
    pub fn start(
        helper: HelperClient,
        options: Options,
        deliver: impl FnMut(Update) + Send + 'static,
    ) -> std::io::Result<Self> {
        let (commands, receiver) = mpsc::channel();
        let wake = Arc::new(EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)?);
        let mut worker = Worker::new(helper, &options, receiver, Arc::clone(&wake), Box::new(deliver));
        let thread = std::thread::Builder::new().name("collector".into()).spawn(move || {
            let why = match worker.run(&options.groups) {
                Ok(()) => "stopped".to_owned(),
                Err(error) => error.to_string(),
            };
            (worker.deliver)(Update::Ended(why));
        })?;
        Ok(Self { commands, wake, thread: Some(thread) })
    }

    /// Attaches or detaches a group.
    pub fn set_group(&self, group: Group, on: bool) {
        self.command(Command::SetGroup(group, on));
    }

    /// Asks for a snapshot as soon as the helper has taken a sample.
    pub fn take_now(&self) {
        self.command(Command::TakeNow);
    }

    fn command(&self, command: Command) {
        // A worker that has ended has said so.
        let _ = self.commands.send(command);
        let _ = self.wake.write(1);
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.command(Command::Stop);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Why a collection ended.
#[derive(Debug, thiserror::Error)]
enum CollectError {
    #[error("the privileged helper has gone: {0}")]
    Helper(#[from] SocketError),
    #[error("waiting for events: {0}")]
    Poll(#[from] nix::Error),
}

struct Worker {
    helper: HelperClient,
    ring: Option<EventRing>,
    engine: Engine,
    sink: EngineSink,
    facts: Facts,
    errors: Vec<CollectionError>,
    commands: Receiver<Command>,
    wake: Arc<EventFd>,
    deliver: Box<dyn FnMut(Update) + Send>,
    interval: Option<Duration>,
    next_sample: Option<Nanos>,
    sampling: Option<Sampling>,
    sequence: u64,
    next_tick: Nanos,
    /// Records gather until then. `None`: the ring was found empty, and is polled.
    gathering_until: Option<Nanos>,
    /// Polling has found something in the ring.
    ring_is_ready: bool,
}

/// A sample under way.
struct Sampling {
    sequence: u64,
    since: Nanos,
}

/// What the engine reports to.
struct EngineSink {
    aggregator: Aggregator,
    verdicts: Vec<FlowVerdict>,
    learned: Vec<String>,
    owners: Vec<SocketQuery>,
    /// Connections whose owner cannot even be asked for.
    ownerless: Vec<ConnectionKey>,
}

impl Observer for EngineSink {
    fn exchange(&mut self, when: Nanos, exchange: &Exchange, event: ExchangeEvent) {
        self.aggregator.observe(when, exchange, event);
    }

    fn verdict(&mut self, verdict: Verdict) {
        let Verdict { connection, message, action } = verdict;
        self.verdicts.push(FlowVerdict {
            source: match connection.source {
                Source::Tls => source::TLS,
                Source::Tcp => source::TCP,
            },
            pid: connection.pid,
            handle: connection.handle,
            generation: connection.generation,
            message,
            action: match action {
                Action::Ignore => action::IGNORE,
                Action::Capture => action::CAPTURE,
                Action::ThinResponse => action::THIN_RESPONSE,
                Action::Opaque => action::OPAQUE,
            },
        });
    }

    fn learned(&mut self, path: &str) {
        self.learned.push(path.to_owned());
    }

    fn owner_wanted(&mut self, connection: ConnectionKey, origin: &Origin) {
        match (origin.local, origin.remote) {
            (Some(local), Some(remote)) => self.owners.push(SocketQuery {
                cookie: connection.handle,
                hint: origin.pid.map_or(0, |pid| pid.0),
                local: local.into(),
                remote: remote.into(),
            }),
            _ => self.ownerless.push(connection),
        }
    }
}

impl Worker {
    fn new(
        helper: HelperClient,
        options: &Options,
        commands: Receiver<Command>,
        wake: Arc<EventFd>,
        deliver: Box<dyn FnMut(Update) + Send>,
    ) -> Self {
        let now = now();
        let config = AggregatorConfig { window: options.window };
        Self {
            facts: Facts::new(helper.helper_pid()),
            helper,
            ring: None,
            engine: Engine::new(),
            sink: EngineSink {
                aggregator: Aggregator::new(config, now),
                verdicts: Vec::new(),
                learned: Vec::new(),
                owners: Vec::new(),
                ownerless: Vec::new(),
            },
            errors: Vec::new(),
            commands,
            wake,
            deliver,
            interval: options.interval,
            next_sample: options.interval.map(|_| now),
            sampling: None,
            sequence: 0,
            next_tick: now,
            gathering_until: None,
            ring_is_ready: false,
        }
    }

    fn run(&mut self, groups: &[Group]) -> Result<(), CollectError> {
        // The first sample comes before the probes: CPU and memory are there at once, and it is what the second is
        // compared with.
        self.request_sample(now())?;
        if !groups.is_empty() {
            self.helper.send(Request::Attach(groups.to_vec()))?;
        }
        loop {
            self.wait()?;
            if self.obey()? {
                return Ok(());
            }
            self.receive()?;
            self.read_ring();
            let now = now();
            if now >= self.next_tick {
                self.engine.tick(now, &mut self.sink);
                self.next_tick = now.after(TICK);
            }
            self.flush_requests()?;
            self.keep_pace(now)?;
        }
    }

    /// Waits for something to do.
    fn wait(&mut self) -> Result<(), CollectError> {
        let now = now();
        let ticking = !self.engine.is_idle() || self.sampling.is_some();
        // While a sample is under way the next one is not due, however late that is; `ticking` watches over its patience.
        let next_sample = self.next_sample.filter(|_| self.sampling.is_none());
        let until = [ticking.then_some(self.next_tick), self.gathering_until, next_sample];
        let until = until.into_iter().flatten().min();
        let helper_events =
            if self.helper.wants_write() { PollFlags::POLLIN | PollFlags::POLLOUT } else { PollFlags::POLLIN };
        let mut fds =
            vec![PollFd::new(self.wake.as_fd(), PollFlags::POLLIN), PollFd::new(self.helper.as_fd(), helper_events)];
        if let Some(ring) = &self.ring
            && self.gathering_until.is_none()
        {
            fds.push(PollFd::new(ring.as_fd(), PollFlags::POLLIN));
        }
        let timeout = until.map_or(PollTimeout::NONE, |until| {
            let millis = i32::try_from((until - now).as_micros().div_ceil(1000)).unwrap_or(i32::MAX);
            PollTimeout::try_from(millis).unwrap_or(PollTimeout::MAX)
        });
        let polled = poll(&mut fds, timeout);
        self.ring_is_ready = polled.is_ok() && fds.get(2).and_then(PollFd::any).unwrap_or(false);
        match polled {
            Ok(_) | Err(nix::Error::EINTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Carries out commands; `true` to stop.
    fn obey(&mut self) -> Result<bool, CollectError> {
        let _ = self.wake.read();
        loop {
            match self.commands.try_recv() {
                Ok(Command::SetGroup(group, true)) => self.helper.send(Request::Attach(vec![group]))?,
                Ok(Command::SetGroup(group, false)) => self.helper.send(Request::Detach(vec![group]))?,
                Ok(Command::TakeNow) => self.request_sample(now())?,
                Ok(Command::Stop) | Err(TryRecvError::Disconnected) => return Ok(true),
                Err(TryRecvError::Empty) => return Ok(false),
            }
        }
    }

    fn receive(&mut self) -> Result<(), CollectError> {
        self.helper.flush()?;
        while let Some((reply, fd)) = self.helper.try_recv()? {
            match reply {
                Reply::Ring { bytes } => match fd.map(|fd| EventRing::from_fd(fd, bytes)) {
                    Some(Ok(ring)) => self.ring = Some(ring),
                    Some(Err(error)) => self.note_error("ring", error.to_string()),
                    None => self.note_error("ring", "the helper sent no descriptor"),
                },
                Reply::Lifecycle { kind, pid, timestamp_ns, .. } => {
                    if kind == lifecycle::EXIT {
                        // What the process did last may still be in the ring.
                        self.drain_ring();
                        self.engine.process_exited(Pid(pid), Nanos(timestamp_ns), &mut self.sink);
                        self.sink.aggregator.process_exited(Pid(pid), Nanos(timestamp_ns));
                        self.facts.exited(pid);
                    }
                }
                Reply::Owners(owners) => {
                    for (cookie, pid) in owners {
                        let key = ConnectionKey { source: Source::Tcp, pid: 0, handle: cookie, generation: 0 };
                        self.engine.set_owner(key, Some(Pid(pid)), &mut self.sink);
                    }
                }
                Reply::Error { source, message } => self.note_error(&source, message),
                Reply::SampleEnd { sequence } => {
                    if self.sampling.as_ref().is_some_and(|sampling| sampling.sequence == sequence) {
                        self.sampling = None;
                        self.facts.sample_complete();
                        self.describe_unknown()?;
                        self.hand_out(None);
                    }
                }
                Reply::Processes(processes) => self.facts.describe(processes),
                Reply::Host(host) => self.facts.host = Some(*host),
                Reply::Samples(samples) => self.facts.sample(samples),
                Reply::Status(status) => {
                    let before = Group::ALL.map(|group| self.facts.is_on(group));
                    self.facts.status(*status, now());
                    for (group, was_on) in Group::ALL.into_iter().zip(before) {
                        if was_on && !self.facts.is_on(group) {
                            self.lose_sight(group);
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// A group's probes have been taken out: nothing more will be heard of what they showed.
    fn lose_sight(&mut self, group: Group) {
        self.drain_ring();
        let source = match group {
            Group::LlmTls => Source::Tls,
            Group::LlmPlain => Source::Tcp,
        };
        self.engine.lose_sight(source, now(), &mut self.sink);
    }

    fn note_error(&mut self, source: &str, message: impl Into<Text>) {
        let message = message.into();
        let known = self.errors.iter().any(|error| error.message == message);
        if !known && self.errors.len() < MAX_ERRORS {
            self.errors.push(CollectionError { source: source.into(), message });
        }
    }

    /// Reads a batch, and lets the next one gather unless there is more already. Without traffic nothing is read, and
    /// nothing wakes us.
    fn read_ring(&mut self) {
        let Some(ring) = &mut self.ring else { return };
        let now = now();
        if !self.gathering_until.map_or(self.ring_is_ready, |until| now >= until) {
            return;
        }
        let (engine, sink) = (&mut self.engine, &mut self.sink);
        let batch = ring.read(&mut |header, bytes| take_record(engine, sink, header, bytes));
        // A ring that is ready and gives nothing holds a record that is being written: polling would turn in circles.
        let gathers = !batch.more && (batch.records > 0 || self.ring_is_ready);
        self.gathering_until = gathers.then(|| now.after(GATHER));
    }

    fn drain_ring(&mut self) {
        let Some(ring) = &mut self.ring else { return };
        let (engine, sink) = (&mut self.engine, &mut self.sink);
        // A ring that fills faster than it is read does not keep us here for ever.
        for _ in 0..64 {
            if !ring.read(&mut |header, bytes| take_record(engine, sink, header, bytes)).more {
                break;
            }
        }
    }

    fn flush_requests(&mut self) -> Result<(), CollectError> {
        let sink = &mut self.sink;
        if !sink.verdicts.is_empty() {
            self.helper.send(Request::Verdicts(std::mem::take(&mut sink.verdicts)))?;
        }
        for path in sink.learned.drain(..) {
            self.helper.send(Request::Learn(path))?;
        }
        if !sink.owners.is_empty() {
            self.helper.send(Request::FindOwners(std::mem::take(&mut sink.owners)))?;
        }
        for key in std::mem::take(&mut sink.ownerless) {
            self.engine.set_owner(key, None, &mut self.sink);
        }
        Ok(())
    }

    /// Asks for the next sample when it is due, and does not wait for ever for the one under way.
    fn keep_pace(&mut self, now: Nanos) -> Result<(), CollectError> {
        if let Some(sampling) = &self.sampling {
            if now.since(sampling.since) >= SAMPLE_PATIENCE {
                self.sampling = None;
                let late = CollectionError { source: "helper".into(), message: LATE_SAMPLE.into() };
                self.hand_out(Some(late));
            }
        } else if let (Some(next), Some(interval)) = (self.next_sample, self.interval)
            && now >= next
        {
            // After a delay the pace starts anew: samples close to each other say nothing.
            let due = next.after(interval);
            self.next_sample = Some(if due > now { due } else { now.after(interval) });
            self.request_sample(now)?;
        }
        Ok(())
    }

    fn request_sample(&mut self, now: Nanos) -> Result<(), CollectError> {
        self.sequence += 1;
        let pids = vec![std::process::id()];
        self.helper.send(Request::Sample { sequence: self.sequence, pids, all: true })?;
        self.sampling = Some(Sampling { sequence: self.sequence, since: now });
        Ok(())
    }

    /// Asks who the processes are that will be shown; they have their names from the next snapshot on.
    fn describe_unknown(&mut self) -> Result<(), CollectError> {
        let unknown = self.facts.unknown(self.sink.aggregator.pids().map(|pid| pid.0));
        if !unknown.is_empty() {
            self.helper.send(Request::Describe(unknown))?;
        }
        Ok(())
    }

    /// `passing` is an error of this frame only.
    fn hand_out(&mut self, passing: Option<CollectionError>) {
        self.drain_ring();
        let now = now();
        let clock = WallClock { monotonic: now, wall: jiff::Timestamp::now() };
        let counters = self.engine.counters();
        let malformed = self.ring.as_ref().map_or(0, EventRing::malformed);
        let errors = self.errors.iter().cloned().chain(passing).collect();
        let talking = self.sink.aggregator.pids().map(|pid| pid.0);
        let facts = self.facts.host_facts(&clock, talking, counters, malformed, errors);
        let snapshot = self.sink.aggregator.snapshot(now, &clock, self.engine.in_flight(), facts);
        (self.deliver)(Update::Snapshot(Arc::new(snapshot)));
    }
}

fn take_record(engine: &mut Engine, sink: &mut EngineSink, header: &RecordHeader, bytes: &[u8]) {
    // A handshake names what a process talks to; it is no message.
    if header.flags & flags::TLS_HELLO != 0 {
        return;
    }
    let origin = decode::origin(header);
    match decode::classify(header) {
        Some(Record::Tls) => {
            if let Some(chunk) = decode::chunk(header, &origin, bytes) {
                engine.chunk(&chunk, sink);
            }
        }
        Some(Record::Tcp) => {
            if let Some(segment) = decode::segment(header, &origin, bytes) {
                engine.segment(&segment, sink);
            }
        }
        Some(Record::Waiting) => {
            if let Some(segment) = decode::segment(header, &origin, bytes) {
                engine.waiting_segment(&segment);
            }
        }
        Some(Record::Accepted) => engine.accepted(decode::connection(header), &origin, sink),
        Some(Record::Close(how)) => {
            let connection = decode::connection(header);
            if let Some(pid) = decode::closer(header) {
                // Whoever has closed it last has served it; nobody need be asked who holds it.
                sink.owners.retain(|query| query.cookie != connection.handle);
                engine.set_owner(connection, Some(pid), sink);
            }
            engine.close(connection, how, Nanos(header.timestamp_ns), sink);
        }
        None => {}
    }
}

/// The clock that stamps records.
fn now() -> Nanos {
    let time = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("every Linux has this clock");
    Nanos(Duration::from(time).as_nanos() as u64)
}
