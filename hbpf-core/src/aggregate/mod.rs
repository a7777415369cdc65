//! What happens to exchanges, added up: rates, distributions and totals for the host and for each process, model and
//! endpoint, handed out as [`Snapshot`]s.
//!
//! # When an exchange counts where
//!
//! What is counted under a key is never moved to another, so that no total ever decreases; a key is therefore chosen
//! only when it is known for good:
//! - host totals: at `Opened`; of a call to a gateway, which may be passed on, with the first of its output;
//! - the process's own view: at the first event that shows a pid, commonly `Opened`;
//! - the endpoint: at the event after `Opened`, commonly `RequestSent`;
//! - provider and model: at `RequestSent`, when the request has been read, if the provider is known by then (or this
//!   endpoint's provider is, from an earlier answer); otherwise at the next event, commonly `Headers`, since answers name
//!   providers that requests do not.
//!
//! So the sums over models and over endpoints lag behind the totals by exchanges that are still being sent, or
//! answered for the first time by an unknown server, and are equal otherwise. Exchanges whose other end is observed as
//! well and stands for both ([`Exchange::is_mirror`]) count under their process only. Of those that are passed on from one
//! server to another, see [`relays`], one counts in the totals. Of the first that goes through a gateway the totals have the
//! request, since nothing is known of it before, but neither tokens nor cost.
//!
//! What is asked of MCP servers is no call of a model: it counts by server, method and tool when it has ended, and nowhere else.
//!
//! # Memory
//!
//! Bounded by caps on the rows of each table, on kept exchanges and on the keys that have distributions
//! ([`Aggregator::MAX_DISTRIBUTION_BYTES`]), and by the number of exchanges in flight, which the engine bounds.

pub mod exponential;

mod distribution;
mod keyed;
mod processes;
mod rates;
mod relays;
mod requests;
mod retries;
mod series;
mod stats;
#[cfg(test)]
pub(crate) mod tests;
mod tools;
mod workloads;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use self::distribution::{Metric, PartClock, Sample};
use self::keyed::{EndpointKey, Keyed, ModelKey};
use self::processes::{ProcessId, Processes};
use self::rates::{Flow, SlotClock};
use self::relays::{Relay, Relays, Served};
use self::requests::{EndedRing, Live};
use self::retries::Retries;
use self::stats::{Clocks, Group, Pool, StatsId};
use self::tools::Tools;
use self::workloads::{Standing, Workloads};
use crate::chunk::Pid;
use crate::exchange::{Api, Exchange, ExchangeEvent, ExchangeId, RateLimit, Role};
use crate::label::Label;
use crate::prices::{Cost, Prices};
use crate::snapshot::{
    self, Capture, CollectionError, EndpointRateLimit, EndpointStats, Engine, Finding, Gpu, Hop, Host, Model, Process,
    Snapshot,
};
use crate::time::{Nanos, WallClock};

pub use self::workloads::WorkloadFacts;

/// The provider of exchanges of which only the shape was recognised.
const UNKNOWN_PROVIDER: &str = "unknown";

/// Shortest window: with less, a slot would be shorter than the gaps between tokens.
const MIN_WINDOW: Duration = Duration::from_secs(1);

/// Longest window: with more, rates would no longer be of now.
const MAX_WINDOW: Duration = Duration::from_secs(600);

/// What can be chosen about the aggregation.
#[derive(Clone, Debug)]
pub struct AggregatorConfig {
    /// What rates and window distributions are over; held between a second and ten minutes.
    pub window: Duration,
    /// What tokens cost.
    pub prices: Arc<Prices>,
    /// Whether series are kept for metrics systems, see [`Snapshot::series`]. They take up to 1 MiB beside what else is kept,
    /// and 28 MiB if values are spread over all that can be measured.
    pub series: bool,
}

impl Default for AggregatorConfig {
    fn default() -> Self {
        Self { window: Duration::from_secs(5), prices: Arc::clone(Prices::built_in()), series: false }
    }
}

/// What the host side knows at the moment of a frame.
#[derive(Clone, Debug, Default)]
pub struct HostFacts {
    /// The machine.
    pub host: Host,
    /// Its processes, at the least those of [`Aggregator::pids`] that run; `as_client` and `as_server` are filled in
    /// here.
    pub processes: Vec<Process>,
    /// What those workloads are that they name.
    pub workloads: Vec<WorkloadFacts>,
    /// GPUs; whose processes are among `processes`.
    pub gpus: Vec<Gpu>,
    /// Local inference servers.
    pub engines: Vec<Engine>,
    /// Since when there are probes in place, of any group; `None` while there are none: what is in flight, and how much
    /// of it a second, is unknown then.
    pub watching_since: Option<Nanos>,
    /// What is out of sight although something is watched.
    pub unwatched: Unwatched,
    /// Probes, losses and own cost.
    pub capture: Capture,
    /// What deserves attention.
    pub findings: Vec<Finding>,
    /// What could not be collected, and why.
    pub errors: Vec<CollectionError>,
}

/// Places at which no probes are, while there are some at others: what is in flight of traffic that was only ever seen there,
/// and how much of it a second, is unknown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unwatched {
    /// TLS libraries.
    pub tls: bool,
    /// Sockets.
    pub plain: bool,
}

/// Adds up the events of exchanges and hands out frames.
#[derive(Debug)]
pub struct Aggregator {
    window: Duration,
    prices: Arc<Prices>,
    sequence: u64,
    /// The time of day at which it began, by the first frame's clock: later ones say it a little differently.
    began: Option<Timestamp>,
    pool: Pool,
    totals: StatsId,
    processes: Processes,
    models: Keyed<ModelKey, ()>,
    endpoints: Keyed<EndpointKey, EndpointExtra>,
    workloads: Workloads,
    relays: Relays,
    retries: Retries,
    tools: Tools,
    /// Looked up with every output.
    running: HashMap<ExchangeId, Running, foldhash::fast::RandomState>,
    ended: EndedRing,
}

/// What is known of an endpoint besides its numbers.
#[derive(Debug, Default)]
struct EndpointExtra {
    rate_limit: Option<(RateLimit, Option<Label>, Nanos)>,
    /// Who serves there, once an answer has told.
    provider: Option<Label>,
}

/// Where a running exchange is counted, and what has been counted of it.
#[derive(Debug, Default)]
struct Running {
    totals: Option<StatsId>,
    process: Option<(ProcessId, StatsId)>,
    model: Option<StatsId>,
    /// Who serves it, once that is known.
    provider: Option<Label>,
    endpoint: Option<(StatsId, EndpointKey)>,
    workload: Standing,
    headers_timed: bool,
    first_token_timed: bool,
    first_visible_token_timed: bool,
    stalls: u32,
    flow: Flow,
    /// The exchange that it repeats.
    retry_of: Option<ExchangeId>,
    /// What it has cost, once it has ended and that is known.
    cost: Option<Cost>,
    /// Its other end is observed, too.
    is_internal: bool,
    relay: Relay,
    /// Whether the totals count it is not known yet.
    is_undecided: bool,
    /// That end.
    other: Option<ExchangeId>,
    /// The process at that end, once it has ended.
    other_process: Option<ProcessId>,
}

impl Running {
    fn ids(&self) -> impl Iterator<Item = StatsId> + use<> {
        let process = self.process.map(|(_, stats)| stats);
        let endpoint = self.endpoint.as_ref().map(|(stats, _)| *stats);
        [self.totals, process, self.model, endpoint].into_iter().flatten().chain(self.workload.ids())
    }

    fn hop(&self) -> Option<Hop> {
        match self.relay {
            Relay::PassedOn => Some(Hop::Gateway),
            Relay::Backend => Some(Hop::Backend),
            Relay::No => self.is_internal.then_some(Hop::Internal),
        }
    }

    /// Who serves it, as far as is known.
    fn provider(&self, exchange: &Exchange) -> Label {
        self.provider.clone().unwrap_or_else(|| exchange.provider.clone())
    }

    /// Does not count it in the totals any longer.
    fn pass_on(&mut self) {
        self.relay = Relay::PassedOn;
        (self.totals, self.is_undecided) = (None, false);
    }

    /// Does not count it but under its process.
    fn leave_to_server(&mut self) {
        self.relay = Relay::Backend;
        (self.totals, self.is_undecided) = (None, false);
        (self.model, self.endpoint) = (None, None);
    }

    fn process_id(&self) -> Option<ProcessId> {
        self.process.map(|(process, _)| process)
    }

    /// The times of the answer that have been recorded.
    fn times(&self, exchange: &Exchange) -> impl Iterator<Item = Sample> + use<> {
        let times = [
            (self.headers_timed, Metric::TimeToHeaders, exchange.time_to_headers_seconds()),
            (self.first_token_timed, Metric::TimeToFirstToken, exchange.time_to_first_token_seconds()),
            (
                self.first_visible_token_timed,
                Metric::TimeToFirstVisibleToken,
                exchange.time_to_first_visible_token_seconds(),
            ),
        ];
        times
            .into_iter()
            .filter_map(|(timed, metric, seconds)| Some(Sample::new(metric, seconds.filter(|_| timed)?, 1)))
    }

    /// Records the times of the answer that have become known.
    fn time(&mut self, pool: &mut Pool, when: Nanos, exchange: &Exchange) {
        let times = [
            (&mut self.headers_timed, Metric::TimeToHeaders, exchange.time_to_headers_seconds()),
            (&mut self.first_token_timed, Metric::TimeToFirstToken, exchange.time_to_first_token_seconds()),
            (
                &mut self.first_visible_token_timed,
                Metric::TimeToFirstVisibleToken,
                exchange.time_to_first_visible_token_seconds(),
            ),
        ];
        let mut samples = [None; 3];
        for (sample, (timed, metric, seconds)) in samples.iter_mut().zip(times) {
            if let (false, Some(seconds)) = (*timed, seconds) {
                *timed = true;
                *sample = Some(Sample::new(metric, seconds, 1));
            }
        }
        for sample in samples.iter().flatten() {
            pool.record(self.ids(), when, sample);
        }
    }
}

impl Aggregator {
    /// The most memory that distributions can take, whatever is observed: 41 MiB. See [`Self::distribution_bytes`].
    pub const MAX_DISTRIBUTION_BYTES: usize = Pool::MAX_DISTRIBUTION_BYTES;

    /// An aggregator whose totals count from `started`.
    pub fn new(config: AggregatorConfig, started: Nanos) -> Self {
        let window = config.window.clamp(MIN_WINDOW, MAX_WINDOW);
        let clocks = Clocks {
            slots: SlotClock::new(started, window),
            parts: PartClock::new(window),
            unwatched: Unwatched::default(),
        };
        let mut pool = Pool::new(clocks);
        let totals = pool.insert(Group::Totals, started);
        Self {
            window,
            prices: config.prices,
            sequence: 0,
            began: None,
            pool,
            totals,
            processes: Processes::new(),
            models: Keyed::new(),
            endpoints: Keyed::new(),
            workloads: Workloads::new(config.series),
            relays: Relays::default(),
            retries: Retries::default(),
            tools: Tools::new(),
            running: HashMap::default(),
            ended: EndedRing::new(),
        }
    }

    /// Takes note of an event.
    ///
    /// Every exchange begins with `Opened` and ends with `Ended`, once each: events outside these are left out, and an
    /// exchange that never ends is counted as running for good.
    pub fn observe(&mut self, when: Nanos, exchange: &Exchange, event: ExchangeEvent) {
        if exchange.api == Api::Tool {
            if event == ExchangeEvent::Ended {
                self.tools.ended(when, exchange, &mut self.pool);
            }
            return;
        }
        match event {
            ExchangeEvent::Opened => self.open(when, exchange),
            ExchangeEvent::Ended => self.end(when, exchange),
            ExchangeEvent::RequestSent => {
                self.settle(when, exchange, false);
                let repeated = self.retries.sent(when, exchange);
                if let Some(running) = self.running.get_mut(&exchange.id) {
                    running.retry_of = repeated;
                }
            }
            ExchangeEvent::Headers => self.headers(when, exchange),
            ExchangeEvent::Output { tokens, gap_seconds } => self.output(when, exchange, tokens, gap_seconds),
            ExchangeEvent::Stalled { .. } => {
                if let Some(running) = self.running.get_mut(&exchange.id) {
                    running.stalls += 1;
                    self.pool.stalled(running.ids());
                }
            }
        }
    }

    /// The process has ended: its row stays for a while; a later exchange under the same pid is another process.
    pub fn process_exited(&mut self, pid: Pid, when: Nanos) {
        self.processes.exited(pid, when);
        self.relays.process_exited(pid);
        self.tools.process_exited(pid);
    }

    /// Whether a process with exchanges has this pid now.
    pub fn knows(&self, pid: Pid) -> bool {
        self.processes.knows(pid)
    }

    /// The processes that have exchanges, or serve tools, and may still run: facts about them are wanted in every frame.
    pub fn pids(&self) -> impl Iterator<Item = Pid> {
        self.processes.pids().chain(self.tools.pids())
    }

    fn open(&mut self, when: Nanos, exchange: &Exchange) {
        if self.running.contains_key(&exchange.id) {
            return;
        }
        let mut running = Running::default();
        if exchange.role == Role::Client
            && let Some(served) = self.relays.calls(exchange)
        {
            if relays::is_backend(exchange) {
                running.leave_to_server();
            } else {
                self.pass_on(served);
            }
        }
        if exchange.is_mirror || running.relay == Relay::Backend {
            // Its other end counts, or what it is made for.
        } else if self.relays.is_gateway(&exchange.endpoint) {
            running.is_undecided = true;
        } else {
            self.pool.attach(self.totals, when, exchange);
            running.totals = Some(self.totals);
        }
        running.process = find_process(&mut self.processes, &mut self.pool, when, exchange);
        running.is_internal = exchange.is_mirror;
        running.other = exchange.other_end;
        match exchange.other_end.map(|other| (other, self.running.get_mut(&other))) {
            Some((_, Some(other))) => {
                (other.is_internal, other.other) = (true, Some(exchange.id));
                match (running.relay, other.relay) {
                    (Relay::Backend, _) => other.leave_to_server(),
                    (_, relay) => running.relay = relay,
                }
            }
            Some((other, None)) => {
                self.ended.note_internal(other);
                self.workloads.note_internal(other, running.process_id());
            }
            None => {}
        }
        let is_known = running.process.is_some();
        self.running.insert(exchange.id, running);
        if is_known {
            self.serve(exchange);
        }
    }

    /// Who serves an exchange, if it is served, is known.
    fn serve(&mut self, exchange: &Exchange) {
        if exchange.role == Role::Server
            && let Some(served) = self.relays.serves(exchange)
        {
            self.pass_on(served);
        }
    }

    /// A call that is served is passed on.
    fn pass_on(&mut self, served: Served) {
        for id in [Some(served.id), served.other].into_iter().flatten() {
            let Some(running) = self.running.get_mut(&id) else { continue };
            running.pass_on();
            if let Some((_, key)) = &running.endpoint {
                self.relays.learn(key.address, key.port);
            }
        }
    }

    /// Output has come, or will not: nobody passes the call on any more. (A head may be sent before anybody is asked.)
    fn decide(&mut self, when: Nanos, exchange: &Exchange) {
        if let Some(running) = self.running.get_mut(&exchange.id).filter(|running| running.is_undecided) {
            running.is_undecided = false;
            running.totals = Some(self.totals);
            self.pool.attach(self.totals, when, exchange);
        }
    }

    /// Chooses the keys that are known for good by now; all of them if `answered`.
    fn settle(&mut self, when: Nanos, exchange: &Exchange, answered: bool) {
        if self.running.get(&exchange.id).is_some_and(|running| running.process.is_none()) {
            let process = find_process(&mut self.processes, &mut self.pool, when, exchange);
            if let Some(running) = self.running.get_mut(&exchange.id).filter(|_| process.is_some()) {
                running.process = process;
                self.serve(exchange);
            }
        }
        let Self { running, pool, models, endpoints, .. } = self;
        let Some(running) = running.get_mut(&exchange.id) else { return };
        if exchange.is_mirror || running.relay == Relay::Backend {
            return;
        }
        let endpoint = running.endpoint.get_or_insert_with(|| {
            let key = EndpointKey::of(exchange);
            let stats = endpoints.resolve(key.clone(), pool, when).stats;
            pool.attach(stats, when, exchange);
            (stats, key)
        });
        if running.model.is_none() {
            let provider = if exchange.provider.as_str() != UNKNOWN_PROVIDER {
                exchange.provider.clone()
            } else if let Some(told) = endpoints.get(&endpoint.1).and_then(|row| row.extra.provider.clone()) {
                told
            } else if answered {
                exchange.provider.clone()
            } else {
                return;
            };
            running.provider = Some(provider.clone());
            let stats = models.resolve(ModelKey { provider, model: exchange.model.clone() }, pool, when).stats;
            pool.attach(stats, when, exchange);
            running.model = Some(stats);
        }
    }

    /// Chooses the workload, if it is known by now.
    fn settle_workload(&mut self, when: Nanos, exchange: &Exchange) {
        if !self.running.get(&exchange.id).is_some_and(|running| running.workload == Standing::Undecided) {
            return;
        }
        let Self { workloads, running, processes, pool, .. } = self;
        let standing = workloads.place(when, exchange, running, processes, pool);
        if let (Some(running), Some(standing)) = (running.get_mut(&exchange.id), standing) {
            running.workload = standing;
        }
    }

    fn headers(&mut self, when: Nanos, exchange: &Exchange) {
        self.settle(when, exchange, true);
        self.settle_workload(when, exchange);
        let Some(running) = self.running.get_mut(&exchange.id) else { return };
        running.time(&mut self.pool, when, exchange);
        if let Some((stats, key)) = &running.endpoint {
            // Beyond the cap many ends share a row: one's word does not hold for the others.
            if let Some(row) = self.endpoints.get_mut(key).filter(|row| row.stats == *stats) {
                if !exchange.rate_limit.is_empty() {
                    row.extra.rate_limit = Some((exchange.rate_limit, exchange.model.clone(), when));
                }
                if exchange.provider.as_str() != UNKNOWN_PROVIDER {
                    row.extra.provider = Some(exchange.provider.clone());
                }
            }
        }
    }

    fn output(&mut self, when: Nanos, exchange: &Exchange, tokens: u64, gap_seconds: Option<f64>) {
        self.settle(when, exchange, true);
        self.decide(when, exchange);
        self.settle_workload(when, exchange);
        let Some(running) = self.running.get_mut(&exchange.id) else { return };
        if exchange.role == Role::Server && running.flow.total() == 0 && running.relay == Relay::No {
            self.relays.answered(exchange);
        }
        running.flow.add(self.pool.clocks().slots.at(when), tokens);
        self.pool.output(running.ids(), when, tokens);
        running.time(&mut self.pool, when, exchange);
        if let Some(gap) = gap_seconds {
            // An event with several tokens stands for as many gaps, each its part of the whole.
            let times = tokens.max(1);
            let sample = Sample::new(Metric::InterToken, gap / times as f64, times);
            self.pool.record(running.ids(), when, &sample);
        }
    }

    fn end(&mut self, when: Nanos, exchange: &Exchange) {
        self.settle(when, exchange, true);
        self.decide(when, exchange);
        self.relays.answered(exchange);
        self.retries.ended(exchange);
        self.settle_workload(when, exchange);
        let Some(mut running) = self.running.remove(&exchange.id) else { return };
        running.time(&mut self.pool, when, exchange);
        for sample in stats::final_samples(exchange) {
            self.pool.record(running.ids(), when, &sample);
        }
        running.cost = self.prices.cost(exchange);
        self.pool.finish(running.ids(), when, exchange, &running.flow, running.cost);
        let process = running.process.map(|(process, _)| process);
        if let Some(process) = process {
            self.processes.count_ended(process, exchange);
        }
        match running.other.map(|other| (other, self.running.get_mut(&other))) {
            Some((_, Some(other))) => other.other_process = process,
            Some((other, None)) => self.workloads.note_internal(other, process),
            None => {}
        }
        self.ended.push(exchange, process, &running);
        if running.workload == Standing::Undecided {
            self.workloads.wait(when, exchange, running, &self.processes, &mut self.pool);
        }
    }

    /// One frame. `live` are the exchanges in flight. `facts` come from the host side.
    pub fn snapshot<'a>(
        &mut self,
        now: Nanos,
        clock: &WallClock,
        live: impl Iterator<Item = &'a Exchange>,
        facts: HostFacts,
    ) -> Snapshot {
        let sequence = self.sequence;
        self.sequence += 1;
        self.processes.reconcile(&facts.processes, &mut self.pool, now);
        self.tools.reconcile(&facts.processes);
        self.pool.begin_frame(facts.watching_since, facts.unwatched);
        self.workloads.settle(facts.workloads, now, &self.processes, &mut self.pool);
        let live = self.count_live(live);
        let slots = self.pool.clocks().slots;
        let mut findings = facts.findings;
        findings.extend(self.retries.storms(now, clock));
        let requests = self.ended.frame(live, &self.processes, now, clock);
        let processes = self.processes.frame(facts.processes, &mut self.pool, now);
        Snapshot {
            schema: snapshot::SCHEMA.into(),
            hbpf_version: env!("CARGO_PKG_VERSION").into(),
            captured_at: clock.at(now),
            observation_started_at: *self.began.get_or_insert_with(|| slots.started_at(clock)),
            observed_seconds: slots.observed_seconds(now),
            window_seconds: self.window.as_secs_f64(),
            sequence,
            host: facts.host,
            totals: self.pool.frame(self.totals, now),
            requests,
            workloads: self.workloads.frame(&processes, &facts.gpus, &mut self.pool, &self.prices, (now, self.window)),
            series: self.workloads.series_frame(&mut self.pool, now, clock),
            processes,
            models: self.model_rows(now),
            endpoints: self.endpoint_rows(now, clock),
            // What is seen from outside is added by who sees it.
            encrypted: Vec::new(),
            tools: self.tools.frame(&mut self.pool, now),
            gpus: facts.gpus,
            engines: facts.engines,
            capture: facts.capture,
            findings,
            errors: facts.errors,
        }
    }

    /// Counts what runs under its keys, and says which process each belongs to.
    fn count_live<'a>(&mut self, live: impl Iterator<Item = &'a Exchange>) -> Vec<Live<'a>> {
        self.processes.begin_frame();
        let mut rows = Vec::new();
        for exchange in live.filter(|exchange| exchange.api != Api::Tool) {
            let running = self.running.get(&exchange.id);
            let process = running.and_then(|running| running.process).map(|(process, _)| process);
            if let Some(running) = running {
                let undecided = running.is_undecided.then_some(self.totals);
                self.pool.in_flight(running.ids().chain(undecided), requests::output_so_far(exchange));
            }
            if let Some(process) = process {
                self.processes.count_running(process, exchange);
            }
            let (hop, retry_of) = running.map_or((None, None), |running| (running.hop(), running.retry_of));
            rows.push(Live { exchange, process, hop, retry_of });
        }
        rows
    }

    fn model_rows(&mut self, now: Nanos) -> Vec<Model> {
        let mut rows: Vec<_> = self.models.iter().map(|(key, row)| (key.clone(), row.stats)).collect();
        // The busiest first, and an order that does not change from frame to frame among equals.
        rows.sort_by_key(|(key, stats)| {
            (std::cmp::Reverse(self.pool[*stats].requests()), key.provider.clone(), key.model.clone())
        });
        let row = |(key, stats): (ModelKey, _)| Model {
            provider: key.provider,
            model: key.model,
            stats: self.pool.frame(stats, now),
        };
        rows.into_iter().map(row).collect()
    }

    fn endpoint_rows(&mut self, now: Nanos, clock: &WallClock) -> Vec<EndpointStats> {
        let rate_limit = |extra: &EndpointExtra| {
            let (limit, model, when) = extra.rate_limit.clone()?;
            Some(EndpointRateLimit {
                model,
                remaining_requests: limit.remaining_requests,
                remaining_tokens: limit.remaining_tokens,
                remaining_fraction: limit.remaining_fraction,
                reset_seconds: limit.reset_seconds,
                retry_after_seconds: limit.retry_after_seconds,
                observed_at: clock.at(when),
            })
        };
        let rows = self.endpoints.iter().map(|(key, row)| (key.clone(), row.stats, rate_limit(&row.extra)));
        let mut rows: Vec<_> = rows.collect();
        rows.sort_by_key(|(key, stats, _)| (std::cmp::Reverse(self.pool[*stats].requests()), key.clone()));
        let row = |(key, stats, rate_limit): (EndpointKey, _, _)| EndpointStats {
            host: key.host,
            address: key.address,
            port: key.port,
            api: key.api,
            tls: Some(key.tls),
            protocol: Some(key.protocol),
            stats: self.pool.frame(stats, now),
            rate_limit,
        };
        rows.into_iter().map(row).collect()
    }

    /// Memory that distributions take now, in bytes.
    pub fn distribution_bytes(&self) -> usize {
        self.pool.distribution_bytes()
    }
}

fn find_process(
    processes: &mut Processes,
    pool: &mut Pool,
    when: Nanos,
    exchange: &Exchange,
) -> Option<(ProcessId, StatsId)> {
    let (process, stats) = processes.resolve(exchange.pid?, exchange, pool, when);
    pool.attach(stats, when, exchange);
    Some((process, stats))
}
