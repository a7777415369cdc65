//! What servers' metrics mean: a table of names, and what is made of the values.

use std::collections::BTreeMap;

use super::EngineKind;
use super::exposition::{Line, Lines, Sample};
use crate::label::Label;

/// Most replicas of one server that are told apart. What is beyond counts in the whole alone.
const MAX_REPLICAS: usize = 32;

/// Most models of one server that are named; LiteLLM may have hundreds.
const MAX_MODELS: usize = 32;

/// Greatest value that is believed: a thousand years of nanoseconds. Sums of those that are stay numbers.
const MOST: f64 = 1e20;

/// Most buckets of one histogram. Servers have up to 30.
const MAX_BUCKETS: usize = 48;

/// A value of the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Gauge {
    Running,
    Waiting,
    Swapped,
    /// A part of the whole, 0 to 1.
    KvCache,
    KvBlocksUsed,
    KvBlocksMost,
    /// A part of the whole, 0 to 1.
    PrefixHitRate,
    ContextTokens,
}

/// A count since the server started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Counter {
    Preemptions,
    /// Requests that ended as they should; with [`Self::Failed`] all that ended.
    Finished,
    Failed,
    Input,
    /// Prompt tokens from a cache, which are not in [`Self::Input`].
    InputCached,
    Output,
    PrefixQueries,
    PrefixHits,
}

/// A histogram of times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Times {
    FirstToken,
    PerToken,
    /// The mean of each request; stands for [`Self::PerToken`] where there is no other.
    PerTokenOfRequest,
    /// Gaps between tokens; likewise.
    Gap,
    Request,
    Queue,
}

const GAUGES: usize = 8;
const COUNTERS: usize = 8;
const HISTOGRAMS: usize = 6;

/// What a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Meaning {
    Gauge(Gauge),
    Counter(Counter),
    /// The sum of a histogram, which is a counter.
    SumOf(Counter),
    Times(Times),
}

/// The metrics that are read, without the suffix `_total`. From the sources of vLLM (0.6 to 0.33), SGLang 0.5, TGI 3, llama.cpp,
/// Triton with its TensorRT-LLM backend, and LiteLLM 1.110. What stands twice for one server is of different versions.
const NAMES: &[(EngineKind, &str, Meaning)] = {
    use EngineKind::{LiteLlm, LlamaCpp, SgLang, Tgi, Triton, Vllm};
    use Meaning::{Counter as C, Gauge as G, SumOf, Times as T};
    &[
        (Vllm, "vllm:num_requests_running", G(Gauge::Running)),
        (Vllm, "vllm:num_requests_waiting", G(Gauge::Waiting)),
        (Vllm, "vllm:num_requests_swapped", G(Gauge::Swapped)),
        (Vllm, "vllm:kv_cache_usage_perc", G(Gauge::KvCache)),
        (Vllm, "vllm:gpu_cache_usage_perc", G(Gauge::KvCache)),
        (Vllm, "vllm:gpu_prefix_cache_hit_rate", G(Gauge::PrefixHitRate)),
        (Vllm, "vllm:prefix_cache_queries", C(Counter::PrefixQueries)),
        (Vllm, "vllm:prefix_cache_hits", C(Counter::PrefixHits)),
        (Vllm, "vllm:gpu_prefix_cache_queries", C(Counter::PrefixQueries)),
        (Vllm, "vllm:gpu_prefix_cache_hits", C(Counter::PrefixHits)),
        (Vllm, "vllm:num_preemptions", C(Counter::Preemptions)),
        (Vllm, "vllm:request_success", C(Counter::Finished)),
        (Vllm, "vllm:prompt_tokens", C(Counter::Input)),
        (Vllm, "vllm:generation_tokens", C(Counter::Output)),
        (Vllm, "vllm:time_to_first_token_seconds", T(Times::FirstToken)),
        (Vllm, "vllm:time_per_output_token_seconds", T(Times::PerToken)),
        (Vllm, "vllm:request_time_per_output_token_seconds", T(Times::PerTokenOfRequest)),
        (Vllm, "vllm:inter_token_latency_seconds", T(Times::Gap)),
        (Vllm, "vllm:e2e_request_latency_seconds", T(Times::Request)),
        (Vllm, "vllm:request_queue_time_seconds", T(Times::Queue)),
        (SgLang, "sglang:num_running_reqs", G(Gauge::Running)),
        (SgLang, "sglang:num_queue_reqs", G(Gauge::Waiting)),
        (SgLang, "sglang:token_usage", G(Gauge::KvCache)),
        (SgLang, "sglang:cache_hit_rate", G(Gauge::PrefixHitRate)),
        (SgLang, "sglang:context_len", G(Gauge::ContextTokens)),
        (SgLang, "sglang:num_retracted_requests", C(Counter::Preemptions)),
        (SgLang, "sglang:num_requests", C(Counter::Finished)),
        (SgLang, "sglang:prompt_tokens", C(Counter::Input)),
        (SgLang, "sglang:cached_tokens", C(Counter::PrefixHits)),
        (SgLang, "sglang:generation_tokens", C(Counter::Output)),
        (SgLang, "sglang:time_to_first_token_seconds", T(Times::FirstToken)),
        (SgLang, "sglang:time_per_output_token_seconds", T(Times::PerToken)),
        (SgLang, "sglang:request_time_per_output_token_seconds", T(Times::PerTokenOfRequest)),
        (SgLang, "sglang:inter_token_latency_seconds", T(Times::Gap)),
        (SgLang, "sglang:e2e_request_latency_seconds", T(Times::Request)),
        (SgLang, "sglang:queue_time_seconds", T(Times::Queue)),
        (Tgi, "tgi_batch_current_size", G(Gauge::Running)),
        (Tgi, "tgi_queue_size", G(Gauge::Waiting)),
        (Tgi, "tgi_request_success", C(Counter::Finished)),
        (Tgi, "tgi_request_input_length", SumOf(Counter::Input)),
        (Tgi, "tgi_request_generated_tokens", SumOf(Counter::Output)),
        (Tgi, "tgi_request_mean_time_per_token_duration", T(Times::PerTokenOfRequest)),
        (Tgi, "tgi_request_duration", T(Times::Request)),
        (Tgi, "tgi_request_queue_duration", T(Times::Queue)),
        (LlamaCpp, "llamacpp:requests_processing", G(Gauge::Running)),
        (LlamaCpp, "llamacpp:requests_deferred", G(Gauge::Waiting)),
        (LlamaCpp, "llamacpp:kv_cache_usage_ratio", G(Gauge::KvCache)),
        (LlamaCpp, "llamacpp:prompt_tokens", C(Counter::Input)),
        (LlamaCpp, "llamacpp:prompt_tokens_cached", C(Counter::InputCached)),
        (LlamaCpp, "llamacpp:tokens_predicted", C(Counter::Output)),
        (Triton, "nv_inference_pending_request_count", G(Gauge::Waiting)),
        (Triton, "nv_inference_request_success", C(Counter::Finished)),
        (Triton, "nv_trt_llm_request_metrics", G(Gauge::Running)),
        (Triton, "nv_trt_llm_kv_cache_block_metrics", G(Gauge::KvCache)),
        (Triton, "nv_llm_input_token_len", SumOf(Counter::Input)),
        (Triton, "nv_llm_output_token_len", SumOf(Counter::Output)),
        (LiteLlm, "litellm_in_flight_requests", G(Gauge::Running)),
        (LiteLlm, "litellm_proxy_total_requests_metric", C(Counter::Finished)),
        (LiteLlm, "litellm_proxy_failed_requests_metric", C(Counter::Failed)),
        (LiteLlm, "litellm_input_tokens_metric", C(Counter::Input)),
        (LiteLlm, "litellm_output_tokens_metric", C(Counter::Output)),
        (LiteLlm, "litellm_llm_api_time_to_first_token_metric", T(Times::FirstToken)),
        (LiteLlm, "litellm_request_total_latency_metric", T(Times::Request)),
        (LiteLlm, "litellm_request_queue_time_seconds", T(Times::Queue)),
    ]
};

/// What is before the names of each kind of server: other lines are not looked at.
const PREFIXES: [&str; 6] = ["vllm:", "sglang:", "tgi_", "llamacpp:", "nv_", "litellm_"];

/// Labels that name a model. Of the others no value is kept: LiteLLM's name teams and users.
const MODEL_LABELS: [&str; 2] = ["model_name", "model"];

/// One answer, read as it comes.
#[derive(Debug, Default)]
pub(super) struct Reader {
    lines: Lines,
    reading: Reading,
}

#[derive(Debug, Default)]
struct Reading {
    kind: Option<EngineKind>,
    models: Vec<Label>,
    replicas: BTreeMap<Label, Values>,
    rest: Values,
    /// What has values or was declared.
    declared: [bool; COUNTERS],
}

/// What a server says of itself.
#[derive(Clone, Debug, PartialEq)]
pub struct Metrics {
    /// Which server it is.
    pub kind: EngineKind,
    /// The models that its metrics name.
    pub models: Vec<Label>,
    /// All of it.
    pub whole: Values,
    /// Its replicas by their labels, at least two or none.
    pub replicas: BTreeMap<Label, Values>,
    /// Whether [`Counter::Input`] has all prompt tokens, those from a cache too.
    pub counts_whole_prompts: bool,
}

/// The values of a server or of one of its replicas; unknown is `None`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Values {
    gauges: [Option<f64>; GAUGES],
    counters: [Option<f64>; COUNTERS],
    times: [Option<Histogram>; HISTOGRAMS],
}

/// How many times were at most so long.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Histogram {
    /// Bound in seconds and how many lie at or below it, ascending; infinity comes last.
    pub(super) buckets: Vec<(f64, f64)>,
    pub(super) count: f64,
    pub(super) sum: Option<f64>,
}

impl Reader {
    /// The next bytes of the answer.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        let Self { lines, reading } = self;
        lines.push(bytes, &mut |line| reading.line(line));
    }

    /// The answer is over; `None` where it is of no server that is known here.
    pub(super) fn end(mut self) -> Option<Metrics> {
        let Self { lines, reading } = &mut self;
        lines.end(&mut |line| reading.line(line));
        self.reading.finish()
    }
}

impl Reading {
    fn line(&mut self, line: &[u8]) {
        match Line::parse(line) {
            Some(Line::Sample(sample)) if is_of_interest(sample.name) => self.sample(&sample),
            Some(Line::Declared(name)) if is_of_interest(name) => {
                for (kind, _, meaning) in meanings(without_total(name)) {
                    self.recognise(kind);
                    if let Meaning::Counter(counter) = meaning {
                        self.declared[counter as usize] = true;
                    }
                }
            }
            _ => {}
        }
    }

    fn recognise(&mut self, kind: EngineKind) {
        // Triton shows the metrics of the vLLM within it beside its own.
        if self.kind != Some(EngineKind::Triton) {
            self.kind = Some(kind);
        }
    }

    fn sample(&mut self, sample: &Sample<'_>) {
        let (name, part) = match sample.name {
            name if name.ends_with("_bucket") => (&name[..name.len() - "_bucket".len()], Part::Bucket),
            name if name.ends_with("_sum") => (&name[..name.len() - "_sum".len()], Part::Sum),
            name if name.ends_with("_count") && meanings(name).next().is_none() => {
                (&name[..name.len() - "_count".len()], Part::Count)
            }
            name => (without_total(name), Part::Value),
        };
        for (kind, _, meaning) in meanings(name) {
            let is_whole = part == Part::Value;
            let fits = match meaning {
                Meaning::Gauge(_) | Meaning::Counter(_) => is_whole,
                Meaning::SumOf(_) | Meaning::Times(_) => !is_whole,
            };
            if fits {
                self.recognise(kind);
                self.take(kind, meaning, part, sample);
            }
        }
    }

    fn take(&mut self, kind: EngineKind, meaning: Meaning, part: Part, sample: &Sample<'_>) {
        for name in MODEL_LABELS.iter().filter_map(|label| sample.label(label)) {
            let name = Label::new(&name);
            if !name.is_empty() && self.models.len() < MAX_MODELS && !self.models.contains(&name) {
                self.models.push(name);
            }
        }
        let value = sample.value;
        if value > MOST {
            return;
        }
        let Some(values) = self.values_of(kind, sample) else { return };
        match (meaning, part) {
            (Meaning::Gauge(gauge), _) => {
                let Some((gauge, value)) = gauge_of(kind, gauge, value, sample) else { return };
                values.set_gauge(gauge, value);
            }
            // Counters do not go below zero; a server that says so means something else.
            (Meaning::Counter(counter), _) if value >= 0.0 => values.add(counter, value),
            (Meaning::SumOf(counter), Part::Sum) if value >= 0.0 => values.add(counter, value),
            (Meaning::Times(times), part) if value >= 0.0 => {
                let histogram = values.times[times as usize].get_or_insert_default();
                match part {
                    Part::Bucket => histogram.add(sample.label("le").as_deref(), value),
                    Part::Sum => *histogram.sum.get_or_insert_default() += value,
                    Part::Count | Part::Value => histogram.count += value,
                }
            }
            _ => {}
        }
    }

    /// Where a sample counts; `None` where another one says the same.
    fn values_of(&mut self, kind: EngineKind, sample: &Sample<'_>) -> Option<&mut Values> {
        let label = match kind {
            EngineKind::Vllm => "engine",
            EngineKind::SgLang => {
                // All ranks of a replica work on the same requests, and what is of one priority is in the sum of all.
                let is_first = |label| sample.label(label).is_none_or(|rank| rank == "0");
                let is_of_all = sample.label("priority").is_none_or(|priority| priority.is_empty());
                if !is_first("tp_rank") || !is_first("pp_rank") || !is_of_all {
                    return None;
                }
                "dp_rank"
            }
            _ => return Some(&mut self.rest),
        };
        let Some(label) = sample.label(label).map(|label| Label::new(&label)) else { return Some(&mut self.rest) };
        if self.replicas.len() >= MAX_REPLICAS && !self.replicas.contains_key(&label) {
            return Some(&mut self.rest);
        }
        Some(self.replicas.entry(label).or_default())
    }

    fn finish(mut self) -> Option<Metrics> {
        let kind = self.kind?;
        let mut whole = self.rest;
        for values in self.replicas.values() {
            whole.merge(values);
        }
        for values in self.replicas.values_mut().chain([&mut whole]) {
            values.settle(kind);
        }
        for values in self.replicas.values_mut() {
            // Nobody asks for these of a replica, and there may be many.
            values.times[Times::Request as usize] = None;
            values.times[Times::Queue as usize] = None;
        }
        // One that exists and has no values yet has counted nothing yet.
        for (counter, declared) in whole.counters.iter_mut().zip(self.declared) {
            *counter = counter.or(declared.then_some(0.0));
        }
        whole.finish(kind, self.models.len());
        let counts_whole_prompts = kind != EngineKind::LlamaCpp || whole.counter(Counter::InputCached).is_some();
        if self.replicas.len() < 2 {
            self.replicas.clear();
        }
        Some(Metrics { kind, models: self.models, whole, replicas: self.replicas, counts_whole_prompts })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Value,
    Bucket,
    Sum,
    Count,
}

fn is_of_interest(name: &str) -> bool {
    PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

fn without_total(name: &str) -> &str {
    name.strip_suffix("_total").unwrap_or(name)
}

fn meanings(name: &str) -> impl Iterator<Item = (EngineKind, &'static str, Meaning)> {
    NAMES.iter().filter(move |(_, known, _)| *known == name).copied()
}

/// What a gauge's sample says: Triton's stand for different things by their labels.
fn gauge_of(kind: EngineKind, gauge: Gauge, value: f64, sample: &Sample<'_>) -> Option<(Gauge, f64)> {
    let gauge = match (kind, gauge) {
        (EngineKind::Triton, Gauge::Running) => match sample.label("request_type")?.as_ref() {
            "scheduled" => Gauge::Running,
            "waiting" => Gauge::Waiting,
            _ => return None,
        },
        (EngineKind::Triton, Gauge::KvCache) => match sample.label("kv_cache_block_type")?.as_ref() {
            "fraction" => Gauge::KvCache,
            "used" => Gauge::KvBlocksUsed,
            "max" => Gauge::KvBlocksMost,
            _ => return None,
        },
        (_, gauge) => gauge,
    };
    // LiteLLM counts every request in flight, the one that asks for this among them.
    let value = if kind == EngineKind::LiteLlm { (value - 1.0).max(0.0) } else { value };
    // vLLM says -1 of a cache that is switched off.
    (value >= 0.0).then_some((gauge, value))
}

impl Values {
    pub(super) fn gauge(&self, gauge: Gauge) -> Option<f64> {
        self.gauges[gauge as usize]
    }

    pub(super) fn counter(&self, counter: Counter) -> Option<f64> {
        self.counters[counter as usize]
    }

    pub(super) fn times(&self, times: Times) -> Option<&Histogram> {
        self.times[times as usize].as_ref()
    }

    /// Whether a count is lower than it was: the server has begun anew.
    pub(super) fn has_fallen_since(&self, before: &Self) -> bool {
        let falls = |now: &Option<f64>, before: &Option<f64>| matches!((now, before), (Some(now), Some(before)) if now < before);
        self.counters.iter().zip(&before.counters).any(|(now, before)| falls(now, before))
    }

    fn add(&mut self, counter: Counter, value: f64) {
        *self.counters[counter as usize].get_or_insert_default() += value;
    }

    fn set_gauge(&mut self, gauge: Gauge, value: f64) {
        let place = &mut self.gauges[gauge as usize];
        *place = Some(match *place {
            None => value,
            Some(before) => joined(gauge, before, value),
        });
    }

    /// Adds what another replica has.
    fn merge(&mut self, other: &Self) {
        for (index, value) in other.gauges.iter().enumerate().filter_map(|(index, value)| Some((index, (*value)?))) {
            self.set_gauge(ALL_GAUGES[index], value);
        }
        for (sum, value) in self.counters.iter_mut().zip(other.counters) {
            if let Some(value) = value {
                *sum.get_or_insert_default() += value;
            }
        }
        for (sum, histogram) in self.times.iter_mut().zip(&other.times) {
            if let Some(histogram) = histogram {
                sum.get_or_insert_default().merge(histogram);
            }
        }
    }

    /// Brings what servers tell in their own ways into one form.
    fn settle(&mut self, kind: EngineKind) {
        if let (None, Some(used), Some(most)) = (
            self.gauge(Gauge::KvCache),
            self.gauge(Gauge::KvBlocksUsed),
            self.gauge(Gauge::KvBlocksMost).filter(|most| *most > 0.0),
        ) {
            self.gauges[Gauge::KvCache as usize] = Some(used / most);
        }
        let others = [Times::PerTokenOfRequest, Times::Gap].map(|times| self.times[times as usize].take());
        let per_token = &mut self.times[Times::PerToken as usize];
        *per_token = per_token.take().or_else(|| others.into_iter().flatten().next());
        if kind == EngineKind::SgLang && self.counter(Counter::PrefixHits).is_some() {
            self.counters[Counter::PrefixQueries as usize] = self.counter(Counter::Input);
        }
    }

    fn finish(&mut self, kind: EngineKind, models: usize) {
        let counted = |counter: Counter| self.counters[counter as usize];
        let changes: &[(Counter, Option<f64>)] = match kind {
            EngineKind::LlamaCpp => {
                let (read, cached) = (counted(Counter::Input), counted(Counter::InputCached));
                let all = read.zip(cached).map(|(read, cached)| read + cached);
                &[(Counter::Input, all.or(read)), (Counter::PrefixQueries, all), (Counter::PrefixHits, cached)]
            }
            EngineKind::LiteLlm => {
                let failed = counted(Counter::Failed).unwrap_or_default();
                &[(Counter::Finished, counted(Counter::Finished).map(|ended| (ended - failed).max(0.0)))]
            }
            // A request to an ensemble is one to each of its parts as well.
            EngineKind::Triton if models > 1 => &[(Counter::Finished, None)],
            _ => &[],
        };
        for (counter, value) in changes {
            self.counters[*counter as usize] = *value;
        }
    }
}

const ALL_GAUGES: [Gauge; GAUGES] = [
    Gauge::Running,
    Gauge::Waiting,
    Gauge::Swapped,
    Gauge::KvCache,
    Gauge::KvBlocksUsed,
    Gauge::KvBlocksMost,
    Gauge::PrefixHitRate,
    Gauge::ContextTokens,
];

/// One value for two: requests add up, of parts of a whole the largest counts.
fn joined(gauge: Gauge, one: f64, other: f64) -> f64 {
    match gauge {
        Gauge::KvCache | Gauge::PrefixHitRate | Gauge::ContextTokens => one.max(other),
        Gauge::Running | Gauge::Waiting | Gauge::Swapped | Gauge::KvBlocksUsed | Gauge::KvBlocksMost => one + other,
    }
}

impl Histogram {
    fn add(&mut self, bound: Option<&str>, count: f64) {
        let bound = bound.and_then(|bound| bound.parse::<f64>().ok()).filter(|bound| !bound.is_nan());
        if let Some(bound) = bound {
            self.add_bucket(bound, count);
        }
    }

    fn add_bucket(&mut self, bound: f64, count: f64) {
        let at = self.buckets.partition_point(|(other, _)| *other < bound);
        if let Some((_, sum)) = self.buckets.get_mut(at).filter(|(other, _)| *other == bound) {
            *sum += count;
        } else if self.buckets.len() < MAX_BUCKETS {
            self.buckets.insert(at, (bound, count));
        }
    }

    fn merge(&mut self, other: &Self) {
        for (bound, count) in &other.buckets {
            self.add_bucket(*bound, *count);
        }
        self.count += other.count;
        if let Some(sum) = other.sum {
            *self.sum.get_or_insert_default() += sum;
        }
    }

    /// What has come since then.
    pub(super) fn since(&self, before: Option<&Self>) -> Self {
        let Some(before) = before else { return self.clone() };
        let counted =
            |bound: f64| before.buckets.iter().find(|(other, _)| *other == bound).map_or(0.0, |(_, count)| *count);
        Self {
            buckets: self.buckets.iter().map(|(bound, count)| (*bound, (count - counted(*bound)).max(0.0))).collect(),
            count: (self.count - before.count).max(0.0),
            sum: self.sum.zip(before.sum).map(|(sum, before)| (sum - before).max(0.0)),
        }
    }

    /// The value below which so many parts of the whole lie, in proportion within its bucket; beyond the last bound that.
    pub(super) fn quantile(&self, part: f64) -> Option<f64> {
        if self.count <= 0.0 {
            return None;
        }
        let target = part * self.count;
        let (mut below, mut counted) = (0.0, 0.0);
        for (bound, count) in &self.buckets {
            if *count >= target {
                return if bound.is_infinite() {
                    (below > 0.0).then_some(below)
                } else if *count > counted {
                    Some(below + (target - counted) / (count - counted) * (bound - below))
                } else {
                    Some(*bound)
                };
            }
            if bound.is_finite() {
                below = *bound;
            }
            counted = *count;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(text: &str) -> Option<Metrics> {
        let mut reader = Reader::default();
        reader.push(text.as_bytes());
        reader.end()
    }

    #[test]
    fn places_of_values_are_their_own() {
        for (index, gauge) in ALL_GAUGES.into_iter().enumerate() {
            assert_eq!(gauge as usize, index);
        }
        assert_eq!((Counter::PrefixHits as usize + 1, Times::Queue as usize + 1), (COUNTERS, HISTOGRAMS));
    }

    #[test]
    fn what_is_no_server_of_these_is_none() {
        for text in ["", "up 1\n", "<html>\n<body>vllm</body>", "vllm:unheard_of 1\n", "python_gc_objects_total 5"] {
            assert_eq!(read(text), None, "{text}");
        }
        assert_eq!(read("# TYPE vllm:prompt_tokens_total counter\n").unwrap().kind, EngineKind::Vllm);
    }

    #[test]
    fn a_counter_without_values_has_counted_nothing_and_a_gauge_is_unknown() {
        let text = "# TYPE litellm_input_tokens_metric_total counter\n# TYPE litellm_in_flight_requests gauge\n";
        let metrics = read(text).unwrap();
        assert_eq!(metrics.whole.counter(Counter::Input), Some(0.0));
        assert_eq!(metrics.whole.counter(Counter::Output), None);
        assert_eq!(metrics.whole.gauge(Gauge::Running), None);
    }

    #[test]
    fn sums_stay_numbers() {
        let lines = (0..1000).map(|i| format!("vllm:num_requests_running{{engine=\"{i}\"}} 1e308\n"));
        let metrics = read(&lines.collect::<String>()).unwrap();
        assert_eq!(metrics.whole.gauge(Gauge::Running), None);
    }

    #[test]
    fn what_cannot_be_is_not_taken() {
        let metrics =
            read("vllm:num_requests_running NaN\nvllm:prompt_tokens_total -5\nvllm:gpu_prefix_cache_hit_rate -1\n")
                .unwrap();
        assert_eq!(metrics.whole, Values::default());
    }

    #[test]
    fn numbers_of_replicas_models_and_buckets_are_bounded() {
        let lines = (0..1000).map(|i| {
            format!(
                "vllm:prompt_tokens_total{{engine=\"{i}\",model_name=\"m{i}\"}} 1\n\
                vllm:time_to_first_token_seconds_bucket{{engine=\"0\",le=\"{i}\"}} 1\n"
            )
        });
        let metrics = read(&lines.collect::<String>()).unwrap();
        assert_eq!((metrics.replicas.len(), metrics.models.len()), (MAX_REPLICAS, MAX_MODELS));
        assert_eq!(metrics.whole.counter(Counter::Input), Some(1000.0), "nothing is lost in the whole");
        assert_eq!(metrics.whole.times(Times::FirstToken).unwrap().buckets.len(), MAX_BUCKETS);
    }

    #[test]
    fn percentiles_are_those_of_prometheus() {
        let histogram = |buckets: &[(f64, f64)]| Histogram {
            buckets: buckets.to_vec(),
            count: buckets.last().map_or(0.0, |(_, count)| *count),
            sum: None,
        };
        let infinity = f64::INFINITY;
        let times = histogram(&[(0.1, 10.0), (0.2, 30.0), (1.0, 39.0), (infinity, 40.0)]);
        // 20 of 40: half of the way through the second bucket.
        assert!((times.quantile(0.5).unwrap() - 0.15).abs() < 1e-9);
        assert_eq!(times.quantile(0.25), Some(0.1));
        assert_eq!(times.quantile(1.0), Some(1.0), "beyond the last bound");
        assert_eq!(histogram(&[(infinity, 3.0)]).quantile(0.5), None);
        assert_eq!(histogram(&[]).quantile(0.5), None);
        let later = histogram(&[(0.1, 10.0), (0.2, 40.0), (1.0, 49.0), (infinity, 50.0)]);
        assert!((later.since(Some(&times)).quantile(0.5).unwrap() - 0.15).abs() < 1e-9);
        assert_eq!(times.since(Some(&later)).count, 0.0, "never below nothing");
    }

    proptest! {
        #[test]
        fn percentiles_grow_and_stay_within_the_bounds(
            counts in prop::collection::vec(0..50_u32, 1..20), parts in [0.0..1.0, 0.0..1.0_f64],
        ) {
            let mut sum = 0.0;
            let buckets: Vec<(f64, f64)> = counts.iter().enumerate().map(|(bound, count)| {
                sum += f64::from(*count);
                (bound as f64 + 1.0, sum)
            }).collect();
            let last = buckets.len() as f64;
            let histogram = Histogram { buckets, count: sum, sum: None };
            let [low, high] = if parts[0] < parts[1] { parts } else { [parts[1], parts[0]] };
            if sum > 0.0 {
                let (low, high) = (histogram.quantile(low).unwrap(), histogram.quantile(high).unwrap());
                prop_assert!((0.0..=last).contains(&low) && low <= high + 1e-9 && high <= last);
            } else {
                prop_assert_eq!(histogram.quantile(low), None);
            }
        }
    }
}
