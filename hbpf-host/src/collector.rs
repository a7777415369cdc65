//! The unprivileged side's worker: reads the ring, runs the engine, asks the helper for samples, hands out snapshots.

mod records;
mod sink;
mod switches;

use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender, TryRecvError};
use std::thread::JoinHandle;
use std::time::Duration;

use hbpf_core::aggregate::{Aggregator, AggregatorConfig};
use hbpf_core::chunk::{ConnectionKey, Pid, Source};
use hbpf_core::engine::Engine;
use hbpf_core::findings;
use hbpf_core::label::{Label, Text};
use hbpf_core::prices::Prices;
use hbpf_core::rules::Rules;
use hbpf_core::snapshot::{CollectionError, Overhead, Snapshot};
use hbpf_core::time::{Nanos, WallClock};
use hbpf_ebpf::{lifecycle, source};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::time::{ClockId, clock_gettime};

use crate::cost::{OwnTime, index};
use crate::decode;
use crate::engines::Engines;
use crate::facts::Facts;
use crate::governor::{Budget, Governor, Observation, Share, Step};
use crate::privsep::{HelperClient, SocketError};
use crate::protocol::{Group, Lifecycle, Limits, Others, Refusal, Reply, Request, Status};
use crate::ring::{Batch, Bell, EventRing};
use records::Records;
use sink::EngineSink;
use switches::Switches;

/// How often the engine is told the time.
const TICK: Duration = Duration::from_millis(100);

/// How long the helper may take over a sample before the snapshot goes out without it.
const SAMPLE_PATIENCE: Duration = Duration::from_secs(3);

/// What a snapshot without a fresh sample says. Loading the probes can keep the helper that long on a slow machine.
const LATE_SAMPLE: &str = "the helper is busy; CPU and memory are those of the sample before";

/// What a snapshot without GPUs says while their driver has yet to answer for the first time.
const AWAITED_GPUS: &str = "no GPU is read yet: the driver has not answered so far";

/// Most distinct collection errors kept; each is a line that a user reads.
const MAX_ERRORS: usize = 32;

/// How long an error is shown after it was last told. What goes on is told again every minute.
const ERROR_KEPT: Duration = Duration::from_secs(600);

/// How often the state of the kernel side is asked for between samples that are farther apart: what it costs is judged by
/// the second.
const STATUS_INTERVAL: Duration = Duration::from_secs(1);

/// How to collect.
#[derive(Clone, Debug)]
pub struct Options {
    /// Probe groups to attach at the start.
    pub groups: Vec<Group>,
    /// What rates and window distributions are over.
    pub window: Duration,
    /// Time between snapshots; `None` delivers one only when [`Collector::take_now`] asks for it.
    pub interval: Option<Duration>,
    /// What observing may cost, in percent of all CPUs together; `None` for as much as it takes.
    pub max_overhead: Option<f64>,
    /// Payload bytes that may be copied out of the kernel per second; 0 for as many as come.
    pub max_bytes_per_second: u64,
    /// Whether inference servers on this machine are asked about themselves.
    pub engines: bool,
    /// What tokens cost.
    pub prices: Arc<Prices>,
    /// Whether snapshots have series, for metrics systems.
    pub series: bool,
}

impl Options {
    /// In percent of all CPUs: little enough not to be missed.
    pub const MAX_OVERHEAD: f64 = 2.0;

    /// Room for 100,000 events a second of 300 bytes, each seen at both its ends; what is more than that is bulk, of which
    /// little is needed.
    pub const MAX_BYTES_PER_SECOND: u64 = 64 * 1024 * 1024;
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
        worker.engines = options.engines.then(|| Engines::start(Arc::clone(&wake))).transpose()?;
        let thread = std::thread::Builder::new().name("collector".into()).spawn(move || {
            let why = match worker.run(&options.groups) {
                Ok(()) => "stopped".to_owned(),
                Err(error) => error.to_string(),
            };
            (worker.deliver)(Update::Ended(format!("collection has ended: {why}")));
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

/// How often judgements are sent again for which the socket had no room.
const JUDGEMENTS_PACE: Duration = Duration::from_millis(10);

struct Worker {
    helper: HelperClient,
    records: Records,
    engine: Engine,
    sink: EngineSink,
    facts: Facts,
    /// `None` where none are asked.
    engines: Option<Engines>,
    /// With the time when each was last told.
    errors: Vec<(CollectionError, Nanos)>,
    governor: Governor,
    rules: Rules,
    next_status: Nanos,
    switches: Switches,
    commands: Receiver<Command>,
    wake: Arc<EventFd>,
    deliver: Box<dyn FnMut(Update) + Send>,
    interval: Option<Duration>,
    next_sample: Option<Nanos>,
    sampling: Option<Sampling>,
    sequence: u64,
    next_tick: Nanos,
    /// CPU time that reading each group's records has taken, shared out by their number. What follows from them, verdicts
    /// and the like, is little beside and not in it.
    reading: [Duration; Group::ALL.len()],
}

/// A sample under way.
struct Sampling {
    sequence: u64,
    since: Nanos,
    others: Others,
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
        let config =
            AggregatorConfig { window: options.window, prices: Arc::clone(&options.prices), series: options.series };
        Self {
            facts: Facts::new(helper.helper_pid()),
            helper,
            records: Records::default(),
            engine: Engine::new(),
            sink: EngineSink::new(Aggregator::new(config, now)),
            engines: None,
            errors: Vec::new(),
            rules: Rules::default(),
            governor: Governor::new(Budget {
                percent: options.max_overhead,
                bytes_per_second: options.max_bytes_per_second,
            }),
            next_status: now.after(STATUS_INTERVAL),
            switches: Switches::default(),
            commands,
            wake,
            deliver,
            interval: options.interval,
            // The first is asked for at once, outside of the pace.
            next_sample: options.interval.map(|interval| now.after(interval)),
            sampling: None,
            sequence: 0,
            next_tick: now,
            reading: [Duration::ZERO; Group::ALL.len()],
        }
    }

    fn run(&mut self, groups: &[Group]) -> Result<(), CollectError> {
        // The first sample comes before the probes: CPU and memory are there at once, and it is what the second is
        // compared with.
        self.request_sample(Others::All, now())?;
        if !groups.is_empty() {
            self.helper.send(Request::Limit(Limits { bytes_per_second: self.governor.bytes_per_second() }))?;
            self.send_switch(Request::Attach(groups.to_vec()))?;
        }
        loop {
            self.wait()?;
            if self.obey()? {
                return Ok(());
            }
            self.receive()?;
            self.switch()?;
            // Before what is read: what comes later may still be in the ring.
            let now = now();
            self.read_ring();
            if now >= self.next_tick {
                self.engine.tick(self.records.read_until(now), &mut self.sink);
                self.next_tick = now.after(TICK);
            }
            self.ask_engines(now)?;
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
        let next_status = self.is_governed().then_some(self.next_status);
        let engines = self.engines.as_ref().and_then(Engines::due);
        let judgements = self.helper.has_judgements_waiting().then(|| now.after(JUDGEMENTS_PACE));
        let until =
            [ticking.then_some(self.next_tick), self.records.due_at(), next_sample, next_status, engines, judgements];
        let until = until.into_iter().flatten().min();
        let helper_events =
            if self.helper.wants_write() { PollFlags::POLLIN | PollFlags::POLLOUT } else { PollFlags::POLLIN };
        let mut fds =
            vec![PollFd::new(self.wake.as_fd(), PollFlags::POLLIN), PollFd::new(self.helper.as_fd(), helper_events)];
        if let Some(records) = self.records.awaited() {
            fds.push(PollFd::new(records, PollFlags::POLLIN));
        }
        let timeout = until.map_or(PollTimeout::NONE, |until| {
            let millis = i32::try_from((until - now).as_micros().div_ceil(1000)).unwrap_or(i32::MAX);
            PollTimeout::try_from(millis).unwrap_or(PollTimeout::MAX)
        });
        let polled = poll(&mut fds, timeout);
        let is_ready = polled.is_ok() && fds.get(2).and_then(PollFd::any).unwrap_or(false);
        self.records.polled(is_ready);
        match polled {
            Ok(_) | Err(nix::Error::EINTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Takes commands; `true` to stop.
    fn obey(&mut self) -> Result<bool, CollectError> {
        let _ = self.wake.read();
        loop {
            match self.commands.try_recv() {
                Ok(Command::SetGroup(group, on)) => self.switches.want(group, on),
                // One that is under way is of now as well; whoever asks again and again must not keep it from its end.
                Ok(Command::TakeNow) if self.sampling.as_ref().is_some_and(|it| it.others == Others::All) => {}
                Ok(Command::TakeNow) => self.request_sample(Others::All, now())?,
                Ok(Command::Stop) | Err(TryRecvError::Disconnected) => return Ok(true),
                Err(TryRecvError::Empty) => return Ok(false),
            }
        }
    }

    /// Switches the groups that the user wants switched.
    fn switch(&mut self) -> Result<(), CollectError> {
        while let Some((group, on)) = self.switches.next() {
            // Switched off and on again before it was taken out. (What has failed is tried again.)
            if on && self.facts.is_whole(group) {
                continue;
            }
            let step = self.governor.switched(group, now());
            self.carry_out(step)?;
            // What was wrong with it is found out anew.
            self.errors.retain(|(error, _)| error.source.as_str() != group.name());
            self.send_switch(if on { Request::Attach(vec![group]) } else { Request::Detach(vec![group]) })?;
        }
        Ok(())
    }

    /// Sends a request to attach or to detach.
    fn send_switch(&mut self, request: Request) -> Result<(), CollectError> {
        self.switches.sent();
        self.helper.send(request)?;
        Ok(())
    }

    fn receive(&mut self) -> Result<(), CollectError> {
        self.helper.flush()?;
        while let Some((reply, fd)) = self.helper.try_recv()? {
            match reply {
                Reply::Ring { bytes } => match fd.map(|fd| EventRing::from_fd(fd, bytes)) {
                    Some(Ok(ring)) => self.records.set_ring(ring),
                    Some(Err(error)) => self.note_error("ring", error.to_string()),
                    None => self.note_error("ring", "the helper sent no descriptor"),
                },
                Reply::Bell => match fd.map(Bell::from_fd) {
                    Some(Ok(bell)) => self.records.set_bell(bell),
                    Some(Err(error)) => self.note_error("bell", error.to_string()),
                    None => self.note_error("bell", "the helper sent no descriptor"),
                },
                Reply::Lifecycle(events) => {
                    for event in events {
                        self.lifecycle(event)?;
                    }
                }
                Reply::Owners(owners) => {
                    for (cookie, pid) in owners {
                        let key = ConnectionKey { source: Source::Tcp, pid: 0, handle: cookie, generation: 0 };
                        self.engine.owner_found(key, Pid(pid), &mut self.sink);
                    }
                }
                Reply::Servers(servers) => {
                    if let Some(engines) = &mut self.engines {
                        engines.found(now(), servers);
                    }
                }
                Reply::NotLookedAt(pids) => {
                    if let Some(engines) = &mut self.engines {
                        engines.not_looked_at(now(), &pids);
                    }
                }
                Reply::Asked { ticket, refused } => {
                    let answer = match (fd, refused) {
                        (Some(fd), None) => Ok(fd),
                        (_, Some(refused)) => Err(refused),
                        (None, None) => Err(Refusal::Failed("the helper sent no descriptor".into())),
                    };
                    if let Some(engines) = &mut self.engines {
                        engines.asked(now(), ticket, answer);
                    }
                }
                Reply::Error { source, message } => self.note_error(&source, message),
                Reply::SampleEnd { sequence, rounds } => {
                    if self.sampling.as_ref().is_some_and(|sampling| sampling.sequence == sequence) {
                        self.sampling = None;
                        for pid in self.facts.sample_complete(rounds) {
                            self.process_ended(pid, Label::default(), now())?;
                        }
                        if let Some(engines) = &mut self.engines {
                            engines.see_traffic(now(), &self.sink.traffic);
                        }
                        self.describe_unknown()?;
                        self.hand_out(None);
                    }
                }
                Reply::Processes(processes) => self.facts.describe(processes),
                Reply::Host(host) => self.facts.begin_sample(*host),
                Reply::Samples(samples) => {
                    if let Some(engines) = &mut self.engines {
                        engines.see(now(), &samples);
                    }
                    self.facts.sample(samples);
                }
                Reply::Details(details) => self.facts.detail(details),
                Reply::Gpu(gpu) => self.facts.gpu(*gpu),
                Reply::Counted(counted) => self.facts.count(counted),
                Reply::Held(held) => self.facts.hold(held),
                Reply::Status(status) => {
                    self.take_status(*status)?;
                }
            }
        }
        Ok(())
    }

    fn lifecycle(&mut self, event: Lifecycle) -> Result<(), CollectError> {
        let Lifecycle { kind, pid, timestamp_ns, comm } = event;
        if kind == lifecycle::EXEC {
            // Its memory is gone, and what it had to say over TLS with it.
            self.drain_ring();
            self.engine.process_executed(Pid(pid), Nanos(timestamp_ns), &mut self.sink);
            if let Some(engines) = &mut self.engines {
                engines.executed(now(), pid);
            }
        }
        if kind == lifecycle::EXIT {
            self.process_ended(pid, comm, Nanos(timestamp_ns))?;
        }
        Ok(())
    }

    fn process_ended(&mut self, pid: u32, name: Label, when: Nanos) -> Result<(), CollectError> {
        // What the process did last may still be in the ring.
        self.drain_ring();
        self.engine.process_exited(Pid(pid), when, &mut self.sink);
        let talked = self.sink.aggregator.knows(Pid(pid));
        self.sink.aggregator.process_exited(Pid(pid), when);
        self.facts.exited(pid, name, talked);
        self.sink.traffic.process_exited(Pid(pid));
        self.sink.sealed.process_exited(when, Pid(pid));
        if let Some(engines) = &mut self.engines {
            engines.exited(pid);
        }
        let step = self.governor.exited(pid);
        self.carry_out(step)
    }

    fn take_status(&mut self, status: Status) -> Result<(), CollectError> {
        let now = now();
        self.switches.handled(status.switches);
        let before = Group::ALL.map(|group| self.facts.is_on(group));
        self.facts.status(status, OwnTime { total: own_cpu_time(), reading: self.reading }, now);
        self.next_status = now.after(STATUS_INTERVAL);
        let has_changed = Group::ALL.map(|group| self.facts.is_on(group)) != before;
        for (group, was_on) in Group::ALL.into_iter().zip(before) {
            if was_on != self.facts.is_on(group) {
                // Putting probes in and taking them out has a cost of its own, which passes.
                self.governor.probes_changed(now);
                self.facts.meter.start_over();
            }
            if was_on && !self.facts.is_on(group) {
                self.lose_sight(group);
            }
        }
        let step = self.observation().and_then(|seen| self.governor.observe(now, &seen));
        self.carry_out(step)?;
        // Who has pressed a key wants to see that it is done.
        if has_changed && self.interval.is_some() && self.sampling.is_none() {
            self.request_sample(Others::InTurn, now)?;
        }
        Ok(())
    }

    /// What the kernel side and hbpf's processes cost now, as parts of the whole machine.
    fn observation(&self) -> Option<Observation> {
        let (meter, cpus) = (&self.facts.meter, self.facts.cpus()?);
        let (idle_callers, calls_per_second) = meter.idle_callers();
        Some(Observation {
            percent: meter.latest_percent()? / cpus,
            groups: Group::ALL.map(|group| {
                let share = self.facts.is_on(group).then(|| meter.share(group))?;
                Some(Share { outside: share.outside_percent() / cpus, reading: share.reading_percent / cpus })
            }),
            bytes_per_second: meter.bytes_per_second(),
            idle_callers,
            calls_per_second,
        })
    }

    /// Does what has been decided about the cost.
    fn carry_out(&mut self, step: Option<Step>) -> Result<(), CollectError> {
        let Some(step) = step else { return Ok(()) };
        if !matches!(step, Step::Limit(_)) {
            self.governor.probes_changed(now());
        }
        match step {
            Step::Limit(bytes_per_second) => self.helper.send(Request::Limit(Limits { bytes_per_second }))?,
            Step::Exclude(pids) => self.helper.send(Request::Exclude(pids))?,
            Step::Detach(group) => {
                self.switches.given_up(group);
                self.send_switch(Request::Detach(vec![group]))?;
            }
            Step::Attach(group) => self.send_switch(Request::Attach(vec![group]))?,
        }
        Ok(())
    }

    /// Whether there is anything whose cost is to be kept in bounds.
    fn is_governed(&self) -> bool {
        let is_on = |group| self.facts.is_on(group);
        let is_any_on = Group::ALL.into_iter().any(is_on);
        self.governor.budget_percent().is_some() && (is_any_on || self.governor.may_attach())
    }

    /// A group's probes have been taken out: nothing more will be heard of what they showed.
    fn lose_sight(&mut self, group: Group) {
        let source = match group {
            Group::LlmTls => Source::Tls,
            Group::LlmPlain => Source::Tcp,
            Group::Tools => Source::Stdio,
            // They show nobody's traffic.
            Group::Block | Group::Net | Group::Device => return,
        };
        self.drain_ring();
        if let Some(engines) = &mut self.engines {
            engines.look_away();
        }
        if source == Source::Tcp {
            self.sink.sealed.look_away();
        }
        if self.switches.is_off_by_choice(group) {
            self.engine.look_away(source, now(), &mut self.sink);
        } else {
            self.engine.lose_sight(source, now(), &mut self.sink);
        }
    }

    fn note_error(&mut self, source: &str, message: impl Into<Text>) {
        let message = message.into();
        let now = now();
        let last_at = Some(jiff::Timestamp::now());
        let error = CollectionError { source: source.into(), message, last_at };
        self.errors.retain(|(known, _)| (&known.source, &known.message) != (&error.source, &error.message));
        if self.errors.len() >= MAX_ERRORS {
            // The one that was told longest ago.
            self.errors.remove(0);
        }
        self.errors.push((error, now));
    }

    /// Reads a batch if it is time to.
    fn read_ring(&mut self) {
        let now = now();
        if self.records.is_due(now) {
            let batch = self.read_batch();
            self.records.gather(batch, now);
        }
    }

    fn drain_ring(&mut self) {
        // A ring that fills faster than it is read does not keep us here for ever.
        for _ in 0..64 {
            if !self.read_batch().more {
                break;
            }
        }
    }

    /// Reads what is in the ring, a batch at most, and shares the time that takes out among the groups.
    fn read_batch(&mut self) -> Batch {
        let (engine, sink) = (&mut self.engine, &mut self.sink);
        let began = thread_cpu_time();
        let mut records = [0_u32; Group::ALL.len()];
        let batch = self.records.read(&mut |header, bytes| {
            let group = match header.source {
                source::TLS => Group::LlmTls,
                source::STDIO => Group::Tools,
                _ => Group::LlmPlain,
            };
            records[index(group)] += 1;
            sink.look_outside(header, bytes);
            decode::feed(engine, sink, header, bytes);
        });
        let all = records.iter().sum::<u32>();
        let took = thread_cpu_time().saturating_sub(began);
        for (sum, records) in self.reading.iter_mut().zip(records).filter(|(_, records)| *records > 0) {
            *sum += took * records / all;
        }
        batch
    }

    fn flush_requests(&mut self) -> Result<(), CollectError> {
        let sink = &mut self.sink;
        self.helper.judge(&sink.verdicts);
        sink.verdicts.clear();
        if self.helper.keeps_up() {
            if !sink.servers.is_empty() {
                self.helper.send(Request::Servers(std::mem::take(&mut sink.servers)))?;
            }
            for path in std::mem::take(&mut sink.learned) {
                self.helper.send(Request::Learn(path))?;
            }
        }
        if !sink.owners.is_empty() {
            self.helper.send(Request::FindOwners(std::mem::take(&mut sink.owners)))?;
        }
        for key in std::mem::take(&mut sink.ownerless) {
            self.engine.set_owner(key, None, &mut self.sink);
        }
        Ok(())
    }

    /// Asks inference servers what is due.
    fn ask_engines(&mut self, now: Nanos) -> Result<(), CollectError> {
        let Some(engines) = &mut self.engines else { return Ok(()) };
        // What they count is held against what passes in plain.
        let traffic = self.facts.is_on(Group::LlmPlain).then_some(&self.sink.traffic);
        for request in engines.step(now, traffic) {
            self.helper.send(request)?;
        }
        Ok(())
    }

    /// Asks for the next sample when it is due, and does not wait for ever for the one under way.
    fn keep_pace(&mut self, now: Nanos) -> Result<(), CollectError> {
        if let Some(sampling) = &self.sampling {
            if now.since(sampling.since) >= SAMPLE_PATIENCE {
                self.sampling = None;
                let late = CollectionError { source: "helper".into(), message: LATE_SAMPLE.into(), last_at: None };
                self.hand_out(Some(late));
            }
        } else if self.is_governed() && now >= self.next_status {
            self.next_status = now.after(STATUS_INTERVAL);
            self.helper.send(Request::Status)?;
        }
        if self.sampling.is_none()
            && let (Some(next), Some(interval)) = (self.next_sample, self.interval)
            && now >= next
        {
            self.next_sample = Some(next.after(interval));
            self.request_sample(Others::InTurn, now)?;
        }
        Ok(())
    }

    fn request_sample(&mut self, others: Others, now: Nanos) -> Result<(), CollectError> {
        self.sequence += 1;
        let closely = self.facts.choose_closely(self.of_interest().into_iter());
        self.helper.send(Request::Sample { sequence: self.sequence, closely, others })?;
        self.sampling = Some(Sampling { sequence: self.sequence, since: now, others });
        Ok(())
    }

    /// Processes that talk to models or are known to serve them.
    fn of_interest(&self) -> Vec<u32> {
        let engines = self.engines.iter().flat_map(Engines::pids);
        let talking = self.sink.aggregator.pids().chain(self.sink.sealed.pids());
        talking.map(|pid| pid.0).chain(engines).collect()
    }

    /// Asks who the processes are that will be shown; they have their names from the next snapshot on.
    fn describe_unknown(&mut self) -> Result<(), CollectError> {
        let unknown = self.facts.unknown(self.of_interest().into_iter());
        if !unknown.is_empty() {
            self.helper.send(Request::Describe(unknown))?;
        }
        Ok(())
    }

    /// `passing` is an error of this frame only.
    fn hand_out(&mut self, passing: Option<CollectionError>) {
        self.drain_ring();
        let now = now();
        self.next_sample = self.next_sample.zip(self.interval).map(|(next, interval)| pace(next, interval, now));
        let clock = WallClock { monotonic: now, wall: jiff::Timestamp::now() };
        let counters = self.engine.counters();
        let malformed = self.records.malformed();
        self.errors.retain(|(_, last)| now.since(*last) < ERROR_KEPT);
        let awaited = self.facts.gpus_are_awaited().then(|| CollectionError {
            source: "gpu".into(),
            message: AWAITED_GPUS.into(),
            last_at: None,
        });
        let of_engines = self.engines.as_ref().map(Engines::errors).unwrap_or_default();
        let lasting = self.errors.iter().map(|(error, _)| error.clone()).chain(of_engines);
        let errors = lasting.chain(passing).chain(awaited).collect();
        self.facts.findings = self.governor.findings(&clock);
        self.facts.overhead = self.overhead();
        let booted_at = self.facts.booted_at(&clock);
        self.facts.engines = self.engines.as_ref().map(|engines| engines.frame(now, booted_at)).unwrap_or_default();
        let facts = self.facts.host_facts(&clock, self.of_interest().into_iter(), counters, malformed, errors);
        let mut snapshot = self.sink.aggregator.snapshot(now, &clock, self.engine.in_flight(), facts);
        snapshot.capture.lost.map_full += self.sink.sealed.refused();
        snapshot.encrypted = self.sink.sealed.frame(now, &clock, &mut snapshot.processes);
        snapshot.findings.extend(findings::unread(&snapshot.encrypted, &snapshot.processes));
        self.rules.look(&mut snapshot);
        (self.deliver)(Update::Snapshot(Arc::new(snapshot)));
    }

    fn overhead(&self) -> Overhead {
        let percent = self.facts.meter.percent().zip(self.facts.cpus()).map(|(percent, cpus)| percent / cpus);
        Overhead {
            percent,
            budget_percent: self.governor.budget_percent(),
            level: self.governor.level(),
            bytes_per_second_limit: Some(self.governor.bytes_per_second()).filter(|limit| *limit > 0),
            excluded_processes: self.governor.excluded() as u32,
        }
    }
}

/// When the next sample is due after a frame at `now`. One that came very late, as while the helper puts probes in, starts
/// the pace anew: frames close to each other say nothing.
fn pace(next: Nanos, interval: Duration, now: Nanos) -> Nanos {
    let soonest = now.after(interval / 2);
    if next < soonest { now.after(interval) } else { next }
}

/// CPU time of this process, all its threads.
fn own_cpu_time() -> Duration {
    clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID).map(Duration::from).unwrap_or_default()
}

/// CPU time of the thread that asks.
fn thread_cpu_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map(Duration::from).unwrap_or_default()
}

/// The clock that stamps records.
fn now() -> Nanos {
    let time = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("every Linux has this clock");
    Nanos(Duration::from(time).as_nanos() as u64)
}

#[cfg(test)]
mod tests {
    use hbpf_core::chunk::{Capture, Chunk, Direction, Origin};

    use super::*;
    use crate::protocol::ProbeStatus;
    use crate::socket::{self, Socket};

    /// A worker, where it takes its commands from, and the helper's end of their socket.
    #[expect(clippy::zombie_processes, reason = "the client waits for its end")]
    fn worker() -> (Worker, Sender<Command>, Socket) {
        let (ours, theirs) = socket::pair().unwrap();
        // Stands for the helper.
        let process = std::process::Command::new("true").spawn().unwrap();
        let (lane, _) = socket::pair().unwrap();
        let helper = HelperClient::new(ours, lane, nix::unistd::Pid::from_raw(process.id().cast_signed()));
        let options = Options {
            groups: Vec::new(),
            window: Duration::from_secs(5),
            interval: None,
            max_overhead: None,
            max_bytes_per_second: 0,
            engines: false,
            prices: Arc::default(),
            series: false,
        };
        let (commands, receiver) = mpsc::channel();
        let wake = Arc::new(EventFd::from_flags(EfdFlags::EFD_NONBLOCK).unwrap());
        let worker = Worker::new(helper, &options, receiver, wake, Box::new(|_| {}));
        (worker, commands, Socket::new(theirs))
    }

    /// What a round of the worker's loop asks of the helper.
    fn round(worker: &mut Worker, helper: &mut Socket) -> Vec<Request> {
        assert!(!worker.obey().unwrap());
        worker.receive().unwrap();
        worker.switch().unwrap();
        std::iter::from_fn(|| helper.receive().unwrap().map(|(request, _)| request)).collect()
    }

    fn status(switches: u64, is_on: bool) -> Reply {
        let probe = ProbeStatus {
            group: Group::LlmTls,
            program: "ssl_read".into(),
            attached_to: "libssl".into(),
            off_because: (!is_on).then(|| "off".into()),
            failed: false,
            runs: None,
            run_time_ns: None,
            missed: None,
            trap: None,
        };
        Reply::Status(Box::new(Status { switches, probes: vec![probe], ..Status::default() }))
    }

    #[test]
    fn of_many_switches_only_the_last_of_each_group_reaches_the_helper() {
        let (mut worker, commands, mut helper) = worker();
        let press = |on: &[bool]| {
            on.iter().for_each(|on| commands.send(Command::SetGroup(Group::LlmTls, *on)).unwrap());
        };
        let (attach, detach) = (Request::Attach(vec![Group::LlmTls]), Request::Detach(vec![Group::LlmTls]));
        press(&[true, false, true]);
        assert_eq!(round(&mut worker, &mut helper), [attach]);
        // While the helper is at work.
        press(&[false, true, false]);
        assert_eq!(round(&mut worker, &mut helper), []);
        helper.send(&status(0, false), None).unwrap();
        assert_eq!(round(&mut worker, &mut helper), [], "this status was on its way already");
        helper.send(&status(1, true), None).unwrap();
        assert_eq!(round(&mut worker, &mut helper), [detach]);
        helper.send(&status(2, false), None).unwrap();
        press(&[true]);
        assert_eq!(round(&mut worker, &mut helper).len(), 1);
        press(&[false, true]);
        helper.send(&status(3, true), None).unwrap();
        assert_eq!(round(&mut worker, &mut helper), [], "it is on");
    }

    /// A model call that is answered later.
    fn call(worker: &mut Worker) {
        let bytes = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 25\r\n\r\n{\"model\":\"m\",\"stream\":1}";
        let chunk = Chunk {
            when: now(),
            connection: ConnectionKey { source: Source::Tls, pid: 7, handle: 1, generation: 1 },
            origin: &Origin { pid: Some(Pid(7)), owner_is_certain: true, ..Origin::default() },
            direction: Direction::Sent,
            offset: 0,
            original_len: bytes.len() as u64,
            bytes,
            message: 1,
            begins_message: true,
            capture: Capture::Positive,
            follows_thinning: false,
            ends_stream: false,
        };
        worker.engine.chunk(&chunk, &mut worker.sink);
        assert_eq!(worker.engine.in_flight().count(), 1);
    }

    #[test]
    fn what_the_user_switches_off_is_no_loss_and_what_is_given_up_is() {
        let lost = |by_user: bool| {
            let (mut worker, commands, mut helper) = worker();
            helper.send(&status(0, true), None).unwrap();
            round(&mut worker, &mut helper);
            call(&mut worker);
            if by_user {
                commands.send(Command::SetGroup(Group::LlmTls, false)).unwrap();
            } else {
                worker.carry_out(Some(Step::Detach(Group::LlmTls))).unwrap();
            }
            assert_eq!(round(&mut worker, &mut helper), [Request::Detach(vec![Group::LlmTls])]);
            helper.send(&status(1, false), None).unwrap();
            round(&mut worker, &mut helper);
            assert_eq!(worker.engine.in_flight().count(), 0);
            worker.engine.counters().parse_gaps
        };
        assert_eq!((lost(true), lost(false)), (0, 1));
    }

    #[test]
    fn a_late_frame_is_not_followed_by_another_at_once() {
        const SECOND: Duration = Duration::from_secs(1);
        let at = |millis: u64| Nanos(millis * 1_000_000);
        assert_eq!(pace(at(1000), SECOND, at(5)), at(1000), "a sample takes some milliseconds: the pace is kept");
        assert_eq!(pace(at(2000), SECOND, at(1500)), at(2000));
        assert_eq!(pace(at(2000), SECOND, at(1501)), at(2501));
        assert_eq!(pace(at(2000), SECOND, at(2950)), at(3950), "after attaching");
    }
}
