//! What follows from several answers of one server: rates, times over the last minute, and whether its count of tokens is
//! ours.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use super::metrics::{Counter, Gauge, Histogram, Times, Values};
use super::{Answer, EngineKind, Loaded, Metrics, Props, Served, Slots};
use crate::label::Label;
use crate::snapshot::{Engine, EngineLatency, EngineReplica};
use crate::time::Nanos;

/// What times and the recent part of cache hits are over, or a little more.
const WINDOW: Duration = Duration::from_secs(60);

/// Readings kept for the window lie this far apart: finer ones would make it no better and take memory. A reading with 32
/// replicas takes up to 55 KiB.
const SPACING: Duration = Duration::from_secs(10);

/// Rates over less are noise.
const MIN_RATE_TIME: Duration = Duration::from_millis(200);

/// The most that passes for the whole.
const MOST_PART: f64 = 1.01;

/// Tokens that a server must have counted before its count is held against ours: with fewer, one token is much.
const MIN_AGREEMENT_TOKENS: f64 = 100.0;

/// All that is known of one server.
#[derive(Clone, Debug, Default)]
pub struct Watch {
    kind: Option<EngineKind>,
    /// The latest readings of metrics, and before them those of the window, the oldest first.
    latest: Option<Reading>,
    previous: Option<Reading>,
    window: VecDeque<Reading>,
    slots: Option<Slots>,
    props: Option<Props>,
    loaded: Option<Loaded>,
    answered_at: Option<Nanos>,
    agreement: Agreement,
}

#[derive(Clone, Debug)]
struct Reading {
    when: Nanos,
    metrics: Metrics,
}

impl Watch {
    /// A server of which nothing is known but what it may be.
    pub fn new(hint: Option<EngineKind>) -> Self {
        Self { kind: hint, ..Self::default() }
    }

    /// What kind of server it is, as far as it is known.
    pub fn kind(&self) -> Option<EngineKind> {
        self.kind
    }

    /// Whether it has ever answered as a server that is known.
    pub fn is_engine(&self) -> bool {
        self.answered_at.is_some()
    }

    /// Takes an answer. `served` is what hbpf had seen of its traffic when the question was put, and when the answer was there;
    /// `None` while hbpf does not watch.
    pub fn take(&mut self, now: Nanos, answer: Answer, served: Option<[Served; 2]>) {
        self.answered_at = Some(now);
        match answer {
            Answer::Metrics(metrics) => self.take_metrics(now, *metrics, served),
            Answer::Slots(slots) => self.slots = Some(slots),
            Answer::Props(props) => self.props = Some(props),
            Answer::Loaded(loaded) => {
                self.kind = Some(EngineKind::Ollama);
                self.loaded = Some(loaded);
            }
        }
    }

    fn take_metrics(&mut self, now: Nanos, metrics: Metrics, served: Option<[Served; 2]>) {
        self.kind = Some(metrics.kind);
        let has_fallen =
            self.latest.as_ref().is_some_and(|latest| metrics.whole.has_fallen_since(&latest.metrics.whole));
        if has_fallen {
            (self.latest, self.previous) = (None, None);
            self.window.clear();
            self.agreement = Agreement::default();
        }
        self.agreement.take(&metrics, served);
        let reading = Reading { when: now, metrics };
        if self.window.back().is_none_or(|last| now.since(last.when) >= SPACING) {
            self.window.push_back(reading.clone());
        }
        // The oldest that is kept is the latest of those that are older than the window, if there is one.
        while self.window.get(1).is_some_and(|second| now.since(second.when) >= WINDOW) {
            self.window.pop_front();
        }
        self.previous = self.latest.replace(reading);
    }

    /// What is known now. Which process it is, where it listens and why it does not answer is left to the caller.
    pub fn frame(&self, now: Nanos) -> Engine {
        let mut engine = Engine {
            kind: self.kind.map_or("unknown", EngineKind::name).into(),
            stale_seconds: self.answered_at.map(|when| now.seconds_since(when)),
            agreement_percent: self.agreement.latest.map(|(percent, _)| percent),
            agreement_tokens: self.agreement.latest.map(|(_, tokens)| tokens),
            ..Engine::default()
        };
        self.put_metrics(&mut engine);
        self.put_documents(&mut engine);
        if self.latest.is_some() && says_nothing(&engine) {
            engine.problem = Some("none of its numbers can be read".into());
        }
        engine
    }

    fn put_metrics(&self, engine: &mut Engine) {
        let Some(latest) = &self.latest else { return };
        let Metrics { whole, models, replicas, .. } = &latest.metrics;
        let counted = |counter| whole.counter(counter).map(|value| value as u64);
        let side = self.side(whole, |reading| Some(&reading.metrics.whole));
        engine.models = models.clone();
        engine.requests_running = whole.gauge(Gauge::Running);
        engine.requests_waiting = whole.gauge(Gauge::Waiting);
        engine.requests_swapped = whole.gauge(Gauge::Swapped);
        engine.context_tokens = whole.gauge(Gauge::ContextTokens).map(|value| value as u64);
        engine.kv_cache_percent = percent(whole.gauge(Gauge::KvCache));
        engine.prefix_cache_hit_percent = hits(whole);
        engine.prefix_cache_hit_recent_percent = side.recent_hits;
        engine.preemptions_total = counted(Counter::Preemptions);
        engine.requests_finished_total = counted(Counter::Finished);
        engine.input_tokens_total = counted(Counter::Input);
        engine.output_tokens_total = counted(Counter::Output);
        engine.requests_per_second = side.requests_per_second;
        engine.input_tokens_per_second = side.input_per_second;
        engine.output_tokens_per_second = side.output_per_second;
        let [first_token, per_token, request, queue] = side.times;
        engine.time_to_first_token_seconds = first_token;
        engine.time_per_output_token_seconds = per_token;
        engine.request_seconds = request;
        engine.queue_seconds = queue;
        engine.replicas = replicas.iter().map(|(label, values)| self.replica(label, values)).collect();
        let ended: Vec<f64> = engine.replicas.iter().filter_map(|replica| replica.requests_per_second).collect();
        let all = ended.iter().sum::<f64>();
        if all > 0.0 {
            for replica in &mut engine.replicas {
                replica.requests_share_percent = replica.requests_per_second.map(|rate| rate / all * 100.0);
            }
        }
        let loads = replicas.values().map(|values| [values.gauge(Gauge::Running), values.gauge(Gauge::Waiting)]);
        engine.replica_imbalance_percent = imbalance(loads);
    }

    fn replica(&self, label: &Label, values: &Values) -> EngineReplica {
        let side = self.side(values, |reading| reading.metrics.replicas.get(label));
        let [first_token, per_token, ..] = side.times;
        EngineReplica {
            label: label.clone(),
            requests_running: values.gauge(Gauge::Running),
            requests_waiting: values.gauge(Gauge::Waiting),
            requests_swapped: values.gauge(Gauge::Swapped),
            kv_cache_percent: percent(values.gauge(Gauge::KvCache)),
            prefix_cache_hit_percent: hits(values),
            prefix_cache_hit_recent_percent: side.recent_hits,
            preemptions_total: values.counter(Counter::Preemptions).map(|value| value as u64),
            requests_per_second: side.requests_per_second,
            requests_share_percent: None,
            input_tokens_per_second: side.input_per_second,
            output_tokens_per_second: side.output_per_second,
            time_to_first_token_seconds: first_token,
            time_per_output_token_seconds: per_token,
        }
    }

    /// What follows from earlier readings of the whole or of one replica.
    fn side(&self, values: &Values, of: impl Fn(&Reading) -> Option<&Values>) -> Side {
        let Some(latest) = &self.latest else { return Side::default() };
        let previous = self.previous.as_ref().filter(|previous| latest.when.since(previous.when) >= MIN_RATE_TIME);
        let before = previous.and_then(|previous| Some((of(previous)?, latest.when.seconds_since(previous.when))));
        let rate = |counter| {
            let (before, seconds) = before.as_ref()?;
            let counted = values.counter(counter)? - before.counter(counter)?;
            (counted >= 0.0).then_some(counted / seconds)
        };
        let base = self.window.front().filter(|base| base.when < latest.when).and_then(&of);
        let times = [Times::FirstToken, Times::PerToken, Times::Request, Times::Queue].map(|times| {
            let base = base?;
            latency(&values.times(times)?.since(base.times(times)))
        });
        let recent_hits = base.and_then(|base| {
            let since = |counter| Some(values.counter(counter)? - base.counter(counter)?);
            part(since(Counter::PrefixHits)?, since(Counter::PrefixQueries)?)
        });
        Side {
            requests_per_second: rate(Counter::Finished),
            input_per_second: rate(Counter::Input),
            output_per_second: rate(Counter::Output),
            recent_hits: recent_hits.or_else(|| percent(values.gauge(Gauge::PrefixHitRate))),
            times,
        }
    }

    fn put_documents(&self, engine: &mut Engine) {
        if let Some(slots) = &self.slots {
            engine.slots_total = Some(slots.total);
            engine.context_tokens = engine.context_tokens.or(slots.context_tokens);
            // Of servers whose metrics are switched off.
            engine.requests_running = engine.requests_running.or(Some(slots.busy as f64));
        }
        if let Some(props) = &self.props {
            engine.slots_total = engine.slots_total.or(props.slots_total);
            engine.context_tokens = engine.context_tokens.or(props.context_tokens);
            if engine.models.is_empty() {
                engine.models.extend(props.model.clone());
            }
        }
        if let Some(loaded) = &self.loaded {
            engine.models = loaded.models.iter().map(|model| model.name.clone()).collect();
            engine.loaded_models = loaded.models.clone();
        }
    }
}

/// Whether a server's metrics have told nothing, though their names are those of one.
fn says_nothing(engine: &Engine) -> bool {
    let gauges = [engine.requests_running, engine.requests_waiting, engine.requests_swapped, engine.kv_cache_percent];
    let counters = [engine.requests_finished_total, engine.input_tokens_total, engine.output_tokens_total];
    gauges.iter().all(Option::is_none) && counters.iter().all(Option::is_none) && engine.slots_total.is_none()
}

#[derive(Debug, Default)]
struct Side {
    requests_per_second: Option<f64>,
    input_per_second: Option<f64>,
    output_per_second: Option<f64>,
    recent_hits: Option<f64>,
    times: [Option<EngineLatency>; 4],
}

/// A part of the whole in percent; servers round it, and may say a little more than all. Much more is none.
fn percent(part: Option<f64>) -> Option<f64> {
    part.filter(|part| (0.0..=MOST_PART).contains(part)).map(|part| (part * 100.0).min(100.0))
}

fn part(of: f64, whole: f64) -> Option<f64> {
    (whole > 0.0 && of >= 0.0).then(|| (of / whole * 100.0).min(100.0))
}

fn hits(values: &Values) -> Option<f64> {
    part(values.counter(Counter::PrefixHits)?, values.counter(Counter::PrefixQueries)?)
}

/// `None` where nothing was measured.
fn latency(histogram: &Histogram) -> Option<EngineLatency> {
    (histogram.count > 0.0).then(|| EngineLatency {
        count: histogram.count as u64,
        mean: histogram.sum.map(|sum| sum / histogram.count),
        p50: histogram.quantile(0.5),
        p95: histogram.quantile(0.95),
        p99: histogram.quantile(0.99),
    })
}

/// Holds servers of one kind that serve the same models against each other: they are replicas of each other, whether or not
/// one endpoint speaks for all of them.
pub fn compare(engines: &mut [Engine]) {
    let mut alike: HashMap<(Label, Vec<Label>), Vec<usize>> = HashMap::new();
    for (index, engine) in engines.iter().enumerate() {
        // Of one that does not answer nothing is of now.
        let is_of_now = engine.problem.is_none();
        if engine.replicas.is_empty() && !engine.models.is_empty() && is_of_now {
            alike.entry((engine.kind.clone(), engine.models.clone())).or_default().push(index);
        }
    }
    for indices in alike.into_values() {
        let loads = indices.iter().map(|index| [engines[*index].requests_running, engines[*index].requests_waiting]);
        let percent = imbalance(loads);
        indices.into_iter().for_each(|index| engines[index].replica_imbalance_percent = percent);
    }
}

/// How far the busiest of these, by their running and waiting requests, lies above the mean, in percent of that. Where some
/// tell who waits and others do not, they cannot be compared.
fn imbalance(loads: impl Iterator<Item = [Option<f64>; 2]>) -> Option<f64> {
    let loads: Vec<[Option<f64>; 2]> = loads.collect();
    let waiting = loads.iter().filter(|[_, waiting]| waiting.is_some()).count();
    if waiting > 0 && waiting < loads.len() {
        return None;
    }
    let all = |[running, waiting]: &[Option<f64>; 2]| Some((*running)? + waiting.unwrap_or_default());
    let loads: Vec<f64> = loads.iter().map(all).collect::<Option<_>>()?;
    let mean = loads.iter().sum::<f64>() / loads.len() as f64;
    let most = loads.iter().copied().fold(0.0, f64::max);
    (loads.len() > 1 && mean > 0.0).then(|| (most / mean - 1.0) * 100.0)
}

/// Holds the server's count of tokens against ours.
///
/// A server counts tokens as they come, hbpf when they are reported, and either may be a moment late. So only quiet moments
/// are compared: nothing to do for the server, nothing in flight for hbpf, and both counts as at the reading before.
#[derive(Clone, Debug, Default)]
struct Agreement {
    /// At the first quiet moment.
    base: Option<Moment>,
    /// At the reading before.
    previous: Option<Moment>,
    /// In percent, and over how many tokens of the server's.
    latest: Option<(f64, u64)>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Moment {
    input: Option<f64>,
    output: f64,
    served: Served,
}

impl Agreement {
    fn take(&mut self, metrics: &Metrics, served: Option<[Served; 2]>) {
        let (Some([before, after]), Some(output)) = (served, metrics.whole.counter(Counter::Output)) else {
            // What passes while nobody watches is missing for ever.
            *self = Self::default();
            return;
        };
        let input = metrics.whole.counter(Counter::Input).filter(|_| metrics.counts_whole_prompts);
        let moment = Moment { input, output, served: after };
        let load = [Gauge::Running, Gauge::Waiting].map(|gauge| metrics.whole.gauge(gauge).unwrap_or_default());
        let is_quiet = load == [0.0; 2] && before == after && after.in_flight == 0;
        let is_settled = self.previous.replace(moment) == Some(moment);
        if !(is_quiet && is_settled) {
            return;
        }
        let Some(base) = self.base else {
            self.base = Some(moment);
            return;
        };
        // A row of ours that was given up, or a count that has come in between.
        let Some((theirs, ours)) = moment.counted_since(&base) else {
            (self.base, self.latest) = (Some(moment), None);
            return;
        };
        if theirs >= MIN_AGREEMENT_TOKENS {
            let percent = if theirs.max(ours) > 0.0 { theirs.min(ours) / theirs.max(ours) * 100.0 } else { 100.0 };
            self.latest = Some((percent, theirs as u64));
        }
    }
}

impl Moment {
    /// Tokens since then, by the server's count and by ours.
    fn counted_since(&self, base: &Self) -> Option<(f64, f64)> {
        let since = |now: u64, before: u64| now.checked_sub(before).map(|tokens| tokens as f64);
        let output = (self.output - base.output, since(self.served.output, base.served.output)?);
        let input = match (self.input, base.input) {
            (Some(now), Some(before)) => (now - before, since(self.served.input, base.served.input)?),
            (None, None) => (0.0, 0.0),
            _ => return None,
        };
        let both = (output.0 + input.0, output.1 + input.1);
        (output.0 >= 0.0 && input.0 >= 0.0).then_some(both)
    }
}
