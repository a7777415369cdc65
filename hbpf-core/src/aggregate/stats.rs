//! Counters, rates and distributions of one key, and the pool in which those of all keys lie.

use std::collections::BTreeMap;
use std::ops::{Index, IndexMut};
use std::time::Duration;

use super::Unwatched;
use super::distribution::{LatencyRecorder, Metric, PartClock, Sample, Scratch};
use super::rates::{Flow, RateRing, Rates, SlotClock};
use crate::exchange::{Exchange, Phase, Usage};
use crate::label::Label;
use crate::prices::Cost;
use crate::snapshot::{LatencyPair, LlmStats, TokenRates, TokenTotals, TokensEstimated, TokensInProgress};
use crate::time::Nanos;

/// Distinct HTTP statuses and distinct error types that one key tells apart; more than real servers use, and few enough
/// that a hostile one cannot fill memory or a screen with them. The rest counts as [`OTHER`].
pub(super) const MAX_KINDS: usize = 40;

/// What takes in everything beyond a cap.
pub(super) const OTHER: &str = "other";

/// A key that has distributions gives them up to one that has none after being idle for so long, however much more it was
/// called than that.
const LATENCY_IDLE: Duration = Duration::from_secs(60);

pub(super) const SECONDS_PER_HOUR: f64 = 3600.0;

/// Which table a key belongs to. Each has distributions for a number of its busiest keys only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Group {
    Totals,
    Processes,
    Models,
    Endpoints,
    Workloads,
    Tools,
    /// Each key has distributions, but of all values since the start alone.
    Series,
}

impl Group {
    const WHOLE: [Self; 6] =
        [Self::Totals, Self::Processes, Self::Models, Self::Endpoints, Self::Workloads, Self::Tools];

    /// How many keys of the table may have distributions: 73 in all, and those of series.
    pub(super) const fn max_latency(self) -> usize {
        match self {
            Self::Totals => 1,
            Self::Processes => 24,
            Self::Models | Self::Endpoints => 16,
            Self::Workloads | Self::Tools => 8,
            Self::Series => usize::MAX,
        }
    }
}

/// How an output token count came about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FinalOutput {
    Reported(u64),
    Estimated(u64),
    Unknown,
}

impl FinalOutput {
    pub(super) fn of(exchange: &Exchange) -> Self {
        match (exchange.usage.output, exchange.estimated_output) {
            (Some(reported), _) => Self::Reported(reported),
            (None, 0) => Self::Unknown,
            (None, estimate) => Self::Estimated(estimate),
        }
    }
}

/// The numbers of one key.
#[derive(Debug)]
pub(super) struct Stats {
    group: Group,
    requests: u64,
    completed: u64,
    failed: u64,
    abandoned: u64,
    retries: u64,
    stalls: u64,
    rate_limited: u64,
    /// By HTTP status, 0 standing for none.
    status: BTreeMap<u16, u64>,
    other_status: u64,
    error_types: BTreeMap<Label, u64>,
    without_usage: u64,
    tokens: TokenTotals,
    estimated_output: u64,
    /// Of exchanges whose price is known.
    cost: Option<f64>,
    cost_is_estimate: bool,
    cost_unknown: u64,
    rates: RateRing,
    latency: Option<LatencyRecorder>,
    /// Exchanges counted here that have not ended.
    open: u64,
    /// Where its exchanges were seen: at TLS libraries, at sockets.
    seen: Unwatched,
    last_active: Nanos,
    /// Of the frame being made.
    in_flight: u64,
    in_progress: u64,
}

impl Stats {
    fn new(group: Group, now: Nanos) -> Self {
        Self {
            group,
            requests: 0,
            completed: 0,
            failed: 0,
            abandoned: 0,
            retries: 0,
            stalls: 0,
            rate_limited: 0,
            status: BTreeMap::new(),
            other_status: 0,
            error_types: BTreeMap::new(),
            without_usage: 0,
            tokens: TokenTotals::default(),
            estimated_output: 0,
            cost: None,
            cost_is_estimate: false,
            cost_unknown: 0,
            rates: RateRing::new(),
            latency: None,
            open: 0,
            seen: Unwatched::default(),
            last_active: now,
            in_flight: 0,
            in_progress: 0,
        }
    }

    pub(super) fn requests(&self) -> u64 {
        self.requests
    }

    /// Since when nothing has happened; `None` while an exchange is running.
    pub(super) fn idle_since(&self) -> Option<Nanos> {
        (self.open == 0).then_some(self.last_active)
    }

    /// An exchange is counted under this key from now on.
    fn attach(&mut self, clocks: &Clocks, when: Nanos, exchange: &Exchange) {
        self.requests += 1;
        self.open += 1;
        self.seen.tls |= exchange.tls;
        self.seen.plain |= !exchange.tls;
        self.retries += u64::from(exchange.attempt.is_some_and(|attempt| attempt > 0));
        self.rates.add_request(clocks.slots.at(when));
        self.last_active = self.last_active.max(when);
    }

    fn record(&mut self, parts: &PartClock, when: Nanos, sample: &Sample) {
        if let Some(latency) = &mut self.latency {
            latency.record(parts, when, sample);
        }
    }

    /// An exchange counted under this key has ended.
    fn finish(&mut self, clocks: &Clocks, when: Nanos, exchange: &Exchange, flow: &Flow, cost: Option<Cost>) {
        self.open = self.open.saturating_sub(1);
        self.last_active = self.last_active.max(when);
        match exchange.phase {
            Phase::Failed => self.failed += 1,
            Phase::Abandoned => self.abandoned += 1,
            Phase::Done | Phase::Sending | Phase::Waiting | Phase::Streaming => self.completed += 1,
        }
        self.count_status(exchange.status);
        self.rate_limited += u64::from(exchange.is_rate_limited());
        if matches!(exchange.phase, Phase::Failed | Phase::Abandoned) {
            self.count_error(exchange.error_type.as_ref());
        }
        self.count_tokens(&exchange.usage);
        let slot = clocks.slots.at(when);
        match FinalOutput::of(exchange) {
            FinalOutput::Reported(tokens) if flow.total() > 0 => self.rates.settle(flow, tokens),
            FinalOutput::Reported(tokens) => self.rates.add_reported(slot, tokens),
            FinalOutput::Estimated(tokens) => {
                add(&mut self.tokens.output, Some(tokens));
                self.estimated_output += tokens;
                self.rates.add_estimated(slot, tokens.saturating_sub(flow.total()));
            }
            FinalOutput::Unknown => {}
        }
        if let Some(input) = exchange.usage.input {
            self.rates.add_input(slot, input);
        }
        match cost {
            Some(cost) => {
                self.cost = Some(self.cost.unwrap_or(0.0) + cost.usd);
                self.cost_is_estimate |= cost.is_estimate;
                self.rates.add_cost(slot, cost.usd);
            }
            None => self.cost_unknown += 1,
        }
    }

    fn count_status(&mut self, status: Option<u16>) {
        let status = status.unwrap_or(0);
        if self.status.len() < MAX_KINDS || self.status.contains_key(&status) {
            *self.status.entry(status).or_default() += 1;
        } else {
            self.other_status += 1;
        }
    }

    fn count_error(&mut self, error_type: Option<&Label>) {
        let name = error_type.map_or("unknown", Label::as_str);
        let name = if self.error_types.contains_key(name) || self.error_types.len() < MAX_KINDS { name } else { OTHER };
        if let Some(count) = self.error_types.get_mut(name) {
            *count += 1;
        } else {
            self.error_types.insert(Label::new(name), 1);
        }
    }

    fn count_tokens(&mut self, usage: &Usage) {
        if usage.input.is_none() && usage.output.is_none() {
            self.without_usage += 1;
        }
        add(&mut self.tokens.input, usage.input);
        add(&mut self.tokens.output, usage.output);
        add(&mut self.tokens.cached_input, usage.cached_input);
        add(&mut self.tokens.cache_creation_input, usage.cache_creation_input);
        add(&mut self.tokens.reasoning, usage.reasoning);
    }

    /// Takes over the totals of a key that is given up. Its rates have run out, its distributions go with it.
    pub(super) fn absorb(&mut self, given_up: &Self) {
        self.requests += given_up.requests;
        self.seen.tls |= given_up.seen.tls;
        self.seen.plain |= given_up.seen.plain;
        self.completed += given_up.completed;
        self.failed += given_up.failed;
        self.abandoned += given_up.abandoned;
        self.retries += given_up.retries;
        self.stalls += given_up.stalls;
        self.rate_limited += given_up.rate_limited;
        self.without_usage += given_up.without_usage;
        self.estimated_output += given_up.estimated_output;
        self.other_status += given_up.other_status;
        self.cost = given_up.cost.map(|cost| self.cost.unwrap_or(0.0) + cost).or(self.cost);
        self.cost_is_estimate |= given_up.cost_is_estimate;
        self.cost_unknown += given_up.cost_unknown;
        for (status, count) in &given_up.status {
            if self.status.len() < MAX_KINDS || self.status.contains_key(status) {
                *self.status.entry(*status).or_default() += count;
            } else {
                self.other_status += count;
            }
        }
        for (name, count) in &given_up.error_types {
            let known = self.error_types.len() < MAX_KINDS || self.error_types.contains_key(name);
            *self.error_types.entry(if known { name.clone() } else { Label::new(OTHER) }).or_default() += count;
        }
        add(&mut self.tokens.input, given_up.tokens.input);
        add(&mut self.tokens.output, given_up.tokens.output);
        add(&mut self.tokens.cached_input, given_up.tokens.cached_input);
        add(&mut self.tokens.cache_creation_input, given_up.tokens.cache_creation_input);
        add(&mut self.tokens.reasoning, given_up.tokens.reasoning);
    }

    /// Whether there are no probes where its exchanges were seen, any of them.
    fn is_out_of_sight(&self, unwatched: Unwatched) -> bool {
        let Unwatched { tls, plain } = self.seen;
        (tls || plain) && (!tls || unwatched.tls) && (!plain || unwatched.plain)
    }

    fn frame(&self, clocks: &Clocks, now: Nanos, scratch: &mut Scratch) -> LlmStats {
        // Of what runs nothing is known while nobody watches.
        let is_watching = clocks.slots.is_watching() && !self.is_out_of_sight(clocks.unwatched);
        let rates = if is_watching { self.rates.rates(&clocks.slots, now) } else { Rates::default() };
        let if_watching = |value| is_watching.then_some(value);
        let named = |(status, count): (&u16, &u64)| match status {
            0 => ("none".into(), *count),
            status => (status.to_string().into(), *count),
        };
        let mut status: BTreeMap<Label, _> = self.status.iter().map(named).collect();
        if self.other_status > 0 {
            status.insert(OTHER.into(), self.other_status);
        }
        // Beside others whose price is not known, what refusals have cost, which is nothing, would pass for all of it.
        let cost = self.cost.filter(|usd| *usd > 0.0 || self.cost_unknown == 0);
        LlmStats {
            requests_total: self.requests,
            requests_in_flight: if_watching(self.in_flight),
            requests_per_second: rates.requests,
            completed_total: self.completed,
            failed_total: self.failed,
            abandoned_total: self.abandoned,
            retries_total: self.retries,
            stalls_total: self.stalls,
            rate_limited_total: self.rate_limited,
            status,
            error_types: self.error_types.clone(),
            requests_without_usage: self.without_usage,
            tokens: self.tokens.clone(),
            // Nothing estimates prompt tokens.
            tokens_estimated: TokensEstimated { input: 0, output: self.estimated_output },
            tokens_in_progress: TokensInProgress { output: if_watching(self.in_progress) },
            tokens_per_second: TokenRates {
                input: rates.input,
                output: rates.output,
                estimated_share: rates.estimated_share,
            },
            cost_usd: cost,
            cost_usd_per_hour: cost.and(rates.cost).map(|per_second| per_second * SECONDS_PER_HOUR),
            cost_is_estimate: self.cost_is_estimate,
            cost_unknown_requests: self.cost_unknown,
            latency: self
                .latency
                .as_ref()
                .map_or_else(LatencyPair::default, |latency| latency.frame(&clocks.parts, now, scratch)),
        }
    }
}

/// Adds a count to a total; the total is unknown until the first count is known.
fn add(total: &mut Option<u64>, count: Option<u64>) {
    if let Some(count) = count {
        *total = Some(total.unwrap_or(0).saturating_add(count));
    }
}

/// Names the numbers of one key in the [`Pool`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct StatsId(usize);

/// How time is cut up.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clocks {
    pub(super) slots: SlotClock,
    pub(super) parts: PartClock,
    /// Of the frame being made.
    pub(super) unwatched: Unwatched,
}

/// The numbers of all keys.
#[derive(Debug)]
pub(super) struct Pool {
    clocks: Clocks,
    entries: Vec<Option<Box<Stats>>>,
    free: Vec<usize>,
    scratch: Scratch,
}

impl Pool {
    /// As many keys as may have distributions, each with the most that it can take.
    pub(super) const MAX_DISTRIBUTION_BYTES: usize = {
        let (mut keys, mut group) = (0, 0);
        while group < Group::WHOLE.len() {
            keys += Group::WHOLE[group].max_latency();
            group += 1;
        }
        keys * LatencyRecorder::MAX_BYTES
    };

    pub(super) fn new(clocks: Clocks) -> Self {
        Self { clocks, entries: Vec::new(), free: Vec::new(), scratch: Scratch::new() }
    }

    pub(super) fn clocks(&self) -> &Clocks {
        &self.clocks
    }

    pub(super) fn insert(&mut self, group: Group, now: Nanos) -> StatsId {
        let stats = Some(Box::new(Stats::new(group, now)));
        match self.free.pop() {
            Some(position) => {
                self.entries[position] = stats;
                StatsId(position)
            }
            None => {
                self.entries.push(stats);
                StatsId(self.entries.len() - 1)
            }
        }
    }

    /// Takes a key's numbers out. Nothing that runs may still be counted under it.
    pub(super) fn remove(&mut self, id: StatsId) -> Option<Box<Stats>> {
        let stats = self.entries[id.0].take()?;
        self.free.push(id.0);
        Some(stats)
    }

    /// Begins to count an exchange under a key.
    pub(super) fn attach(&mut self, id: StatsId, when: Nanos, exchange: &Exchange) {
        if self[id].latency.is_none() {
            self.grant_latency(id, when);
        }
        let clocks = self.clocks;
        self[id].attach(&clocks, when, exchange);
    }

    /// Begins to count an exchange under a key when part of its answer has come already.
    pub(super) fn attach_late(&mut self, id: StatsId, when: Nanos, exchange: &Exchange, flow: &Flow, stalls: u64) {
        self.attach(id, when, exchange);
        let stats = &mut self[id];
        stats.rates.add_flow(flow);
        stats.stalls += stalls;
    }

    /// Gives a key distributions if its table has some left, or another key of it has long been idle, or is idle and was
    /// called far less often: names that come once would keep those that are busy without.
    fn grant_latency(&mut self, id: StatsId, now: Nanos) {
        let group = self[id].group;
        if group == Group::Series {
            self[id].latency = Some(LatencyRecorder::of_buckets());
            return;
        }
        let holders = || {
            let all = self.entries.iter().enumerate();
            all.filter_map(|(position, stats)| Some((position, stats.as_deref()?)))
                .filter(|(_, stats)| stats.group == group && stats.latency.is_some())
        };
        if holders().count() >= group.max_latency() {
            let idle =
                || holders().filter_map(|(position, stats)| Some((stats.idle_since()?, stats.requests, position)));
            let longest = idle().min().filter(|(since, ..)| now.since(*since) >= LATENCY_IDLE);
            let requests = self[id].requests;
            let rarest = || idle().min_by_key(|(_, requests, _)| *requests);
            // Twice as many, so that keys that are about equally busy do not take them from each other.
            let given_up = longest.or_else(|| rarest().filter(|(_, rarest, _)| rarest.saturating_mul(2) <= requests));
            let Some((.., position)) = given_up else { return };
            self[StatsId(position)].latency = None;
        }
        self[id].latency = Some(LatencyRecorder::new());
    }

    pub(super) fn record(&mut self, ids: impl Iterator<Item = StatsId>, when: Nanos, sample: &Sample) {
        let parts = self.clocks.parts;
        for id in ids {
            self[id].record(&parts, when, sample);
        }
    }

    /// Output has come, estimated at `tokens`.
    pub(super) fn output(&mut self, ids: impl Iterator<Item = StatsId>, when: Nanos, tokens: u64) {
        let slot = self.clocks.slots.at(when);
        for id in ids {
            let stats = &mut self[id];
            stats.rates.add_estimated(slot, tokens);
            stats.last_active = stats.last_active.max(when);
        }
    }

    pub(super) fn finish(
        &mut self,
        ids: impl Iterator<Item = StatsId>,
        when: Nanos,
        exchange: &Exchange,
        flow: &Flow,
        cost: Option<Cost>,
    ) {
        let clocks = self.clocks;
        for id in ids {
            self[id].finish(&clocks, when, exchange, flow, cost);
        }
    }

    /// Output was awaited for too long.
    pub(super) fn stalled(&mut self, ids: impl Iterator<Item = StatsId>) {
        for id in ids {
            self[id].stalls += 1;
        }
    }

    /// Forgets what was counted for the frame before. See [`HostFacts`](super::HostFacts) for what is watched.
    pub(super) fn begin_frame(&mut self, watching_since: Option<Nanos>, unwatched: Unwatched) {
        self.clocks.unwatched = unwatched;
        self.clocks.slots.watch_since(watching_since);
        for stats in self.entries.iter_mut().flatten() {
            stats.in_flight = 0;
            stats.in_progress = 0;
        }
    }

    /// Counts a running exchange for the frame being made.
    pub(super) fn in_flight(&mut self, ids: impl Iterator<Item = StatsId>, tokens: u64) {
        for id in ids {
            self[id].in_flight += 1;
            self[id].in_progress += tokens;
        }
    }

    pub(super) fn frame(&mut self, id: StatsId, now: Nanos) -> LlmStats {
        let stats = self.entries[id.0].as_deref().expect(STALE);
        stats.frame(&self.clocks, now, &mut self.scratch)
    }

    /// Memory that distributions take.
    pub(super) fn distribution_bytes(&self) -> usize {
        let latency = self.entries.iter().flatten().filter_map(|stats| stats.latency.as_ref());
        latency.map(LatencyRecorder::heap_bytes).sum()
    }
}

/// A key is removed only when no exchange is counted under it, so no id outlives its numbers.
const STALE: &str = "an id in use names numbers in the pool";

impl Index<StatsId> for Pool {
    type Output = Stats;

    fn index(&self, id: StatsId) -> &Stats {
        self.entries[id.0].as_deref().expect(STALE)
    }
}

impl IndexMut<StatsId> for Pool {
    fn index_mut(&mut self, id: StatsId) -> &mut Stats {
        self.entries[id.0].as_deref_mut().expect(STALE)
    }
}

/// The samples that are known when an exchange has ended, whatever came of it.
pub(super) fn final_samples(exchange: &Exchange) -> impl Iterator<Item = Sample> {
    // A duration without an answer, or up to the moment the client lost patience, says nothing of the server.
    let answered = exchange.headers_at.is_some() && exchange.phase != Phase::Abandoned;
    let duration = exchange.duration_seconds().filter(|_| answered);
    let input = exchange.usage.input.map(|tokens| tokens as f64);
    let output = exchange.output_tokens().map(|tokens| tokens as f64);
    [
        duration.map(|value| Sample::new(Metric::Duration, value, 1)),
        output_tokens_per_second(exchange).map(|value| Sample::new(Metric::OutputTokensPerSecond, value, 1)),
        input.map(|value| Sample::new(Metric::InputTokens, value, 1)),
        output.map(|value| Sample::new(Metric::OutputTokens, value, 1)),
    ]
    .into_iter()
    .flatten()
}

/// Tokens after the first, over the time from the first to the last. With bytes missing neither is known.
fn output_tokens_per_second(exchange: &Exchange) -> Option<f64> {
    if exchange.bytes_missed > 0 {
        return None;
    }
    let after_first = exchange.output_tokens()?.checked_sub(1)?;
    let seconds = exchange.last_token_at?.seconds_since(exchange.first_token_at?);
    (after_first > 0 && seconds > 0.0).then(|| after_first as f64 / seconds)
}
