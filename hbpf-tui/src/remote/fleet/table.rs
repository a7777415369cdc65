//! Exchanges of a table's rows, from the answers to its queries.

use std::collections::BTreeMap;

use hbpf_core::label::Label;
use hbpf_core::snapshot::{Distribution, Latency, LlmStats};

use super::answer::Sample;
use super::query::PART;

/// A part of what is known of exchanges: one query each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Requests,
    InFlight,
    Ended,
    Errors,
    RateLimited,
    Tokens,
    TokensEstimated,
    Cost,
    CostUnknown,
    /// Counts of a distribution's values up to its bounds, and their sum.
    Buckets(Times),
    Sum(Times),
}

/// A distribution that is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Times {
    Duration,
    FirstToken,
    InterToken,
}

impl Times {
    fn of(self, latency: &mut Latency) -> &mut Option<Distribution> {
        match self {
            Self::Duration => &mut latency.duration_seconds,
            Self::FirstToken => &mut latency.time_to_first_token_seconds,
            Self::InterToken => &mut latency.inter_token_seconds,
        }
    }
}

impl Part {
    /// Those of every table.
    pub(super) const COUNTS: [Self; 9] = [
        Self::Requests,
        Self::InFlight,
        Self::Ended,
        Self::Errors,
        Self::RateLimited,
        Self::Tokens,
        Self::TokensEstimated,
        Self::Cost,
        Self::CostUnknown,
    ];

    /// Those of tables with waiting times.
    pub(super) const TIMES: [Self; 6] = [
        Self::Buckets(Times::Duration),
        Self::Sum(Times::Duration),
        Self::Buckets(Times::FirstToken),
        Self::Sum(Times::FirstToken),
        Self::Buckets(Times::InterToken),
        Self::Sum(Times::InterToken),
    ];

    /// The one that a sample is of.
    pub(super) fn of(sample: &Sample) -> Option<Self> {
        Self::COUNTS.into_iter().find(|part| part.metric().0 == sample.label(PART))
    }

    /// The end of the metric's name, and the label that tells its own series apart.
    pub(super) fn metric(self) -> (&'static str, Option<&'static str>) {
        match self {
            Self::Requests => ("requests_total", None),
            Self::InFlight => ("requests_in_flight", None),
            Self::Ended => ("requests_ended_total", Some("outcome")),
            Self::Errors => ("errors_total", Some("error_type")),
            Self::RateLimited => ("rate_limited_total", None),
            Self::Tokens => ("tokens_total", Some("type")),
            Self::TokensEstimated => ("tokens_estimated_total", Some("type")),
            Self::Cost => ("cost_usd_total", None),
            Self::CostUnknown => ("requests_without_cost_total", None),
            Self::Buckets(Times::Duration) => ("request_duration_seconds_bucket", Some("le")),
            Self::Buckets(Times::FirstToken) => ("time_to_first_token_seconds_bucket", Some("le")),
            Self::Buckets(Times::InterToken) => ("inter_token_seconds_bucket", Some("le")),
            Self::Sum(Times::Duration) => ("request_duration_seconds_sum", None),
            Self::Sum(Times::FirstToken) => ("time_to_first_token_seconds_sum", None),
            Self::Sum(Times::InterToken) => ("inter_token_seconds_sum", None),
        }
    }
}

/// What a row is told apart by, in the order of its table's labels.
pub(super) type Key = Vec<String>;

/// Rows that are put together.
#[derive(Default)]
pub(super) struct Rows {
    rows: BTreeMap<Key, Row>,
}

#[derive(Default)]
struct Row {
    stats: LlmStats,
    estimated_output: f64,
    output: f64,
    /// Counts up to bounds, by distribution.
    buckets: BTreeMap<Times, Vec<(f64, f64)>>,
    sums: BTreeMap<Times, f64>,
}

impl Rows {
    /// Takes one answer in; `range` in seconds.
    pub(super) fn take<'a>(
        &mut self,
        part: Part,
        labels: &[&str],
        samples: impl IntoIterator<Item = &'a Sample>,
        range: f64,
    ) {
        for sample in samples {
            let key: Key = labels.iter().map(|label| sample.label(label).to_owned()).collect();
            match self.rows.get_mut(&key) {
                Some(row) => row.take(part, sample, range),
                // Which rows there are is said by these.
                None if matches!(part, Part::Requests | Part::InFlight) => {
                    self.rows.entry(key).or_default().take(part, sample, range);
                }
                None => {}
            }
        }
    }

    /// All rows, as they were put together.
    pub(super) fn finish(self) -> BTreeMap<Key, LlmStats> {
        self.rows.into_iter().map(|(key, row)| (key, row.finish())).collect()
    }
}

/// More than any fleet counts; what is answered is not believed beyond, so that sums stay numbers.
const MAX_COUNT: f64 = 1e15;

/// A count; increases are reckoned from samples and need not be whole.
fn count(value: f64) -> u64 {
    value.clamp(0.0, MAX_COUNT).round() as u64
}

impl Row {
    fn take(&mut self, part: Part, sample: &Sample, range: f64) {
        let (stats, value) = (&mut self.stats, sample.value);
        let add = |to: &mut Option<u64>| *to = Some(to.unwrap_or(0) + count(value));
        match part {
            Part::Requests => {
                stats.requests_total += count(value);
                *stats.requests_per_second.get_or_insert(0.0) += value.max(0.0) / range;
            }
            Part::InFlight => add(&mut stats.requests_in_flight),
            Part::Ended => match sample.label("outcome") {
                "completed" => stats.completed_total += count(value),
                "failed" => stats.failed_total += count(value),
                "abandoned" => stats.abandoned_total += count(value),
                _ => {}
            },
            Part::Errors => {
                let errors = stats.error_types.entry(Label::new(sample.label("error_type"))).or_default();
                *errors += count(value);
            }
            Part::RateLimited => stats.rate_limited_total += count(value),
            Part::Tokens => match sample.label("type") {
                "input" => {
                    add(&mut stats.tokens.input);
                    *stats.tokens_per_second.input.get_or_insert(0.0) += value.max(0.0) / range;
                }
                "output" => {
                    add(&mut stats.tokens.output);
                    *stats.tokens_per_second.output.get_or_insert(0.0) += value.max(0.0) / range;
                    self.output += value;
                }
                "cached_input" => add(&mut stats.tokens.cached_input),
                "cache_creation_input" => add(&mut stats.tokens.cache_creation_input),
                "reasoning" => add(&mut stats.tokens.reasoning),
                _ => {}
            },
            Part::TokensEstimated => match sample.label("type") {
                "input" => stats.tokens_estimated.input += count(value),
                "output" => {
                    stats.tokens_estimated.output += count(value);
                    self.estimated_output += value;
                }
                _ => {}
            },
            Part::Cost => {
                *stats.cost_usd.get_or_insert(0.0) += value.max(0.0);
                *stats.cost_usd_per_hour.get_or_insert(0.0) += value.max(0.0) * 3600.0 / range;
                // Of which part is not told by this counter; list prices are the rule.
                stats.cost_is_estimate = true;
            }
            Part::CostUnknown => stats.cost_unknown_requests += count(value),
            Part::Buckets(times) => {
                if let Ok(bound) = sample.label("le").parse() {
                    self.buckets.entry(times).or_default().push((bound, value));
                }
            }
            Part::Sum(times) => *self.sums.entry(times).or_default() += value,
        }
    }

    fn finish(mut self) -> LlmStats {
        if self.output > 0.0 {
            self.stats.tokens_per_second.estimated_share = Some((self.estimated_output / self.output).clamp(0.0, 1.0));
        }
        for (times, bounds) in self.buckets {
            let sum = self.sums.get(&times).copied();
            let found = distribution(bounds, sum);
            let latency = &mut self.stats.latency;
            // There is one range, which is both.
            times.of(&mut latency.window).clone_from(&found);
            *times.of(&mut latency.since_start) = found;
        }
        self.stats
    }
}

/// A distribution from counts of values up to bounds that are powers of two, as hbpf's are. The smallest and the largest value are
/// known as far as bounds tell them.
fn distribution(mut bounds: Vec<(f64, f64)>, sum: Option<f64>) -> Option<Distribution> {
    bounds.retain(|(bound, _)| *bound > 0.0);
    bounds.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut buckets: Vec<(i32, u64)> = Vec::new();
    let (mut below, mut last) = (0.0, 0);
    for (bound, up_to) in
        bounds.chunk_by(|a, b| a.0 == b.0).map(|same| (same[0].0, same.iter().map(|it| it.1).sum::<f64>()))
    {
        // What is beyond the last bound is taken to be just beyond.
        let index = if bound.is_finite() { bound.log2().round() as i32 - 1 } else { last + 1 };
        // Increases of neighbours are each rounded, and may contradict each other by a little.
        let within = count(up_to - below);
        match buckets.last_mut() {
            // Bounds that are not hbpf's may lie between the same two powers.
            Some((same, count)) if *same == index => *count = count.saturating_add(within),
            _ if within > 0 => buckets.push((index, within)),
            _ => {}
        }
        below = up_to.max(below);
        last = index;
    }
    let (first, last) = (buckets.first()?.0, buckets.last()?.0);
    let count = buckets.iter().fold(0_u64, |sum, (_, count)| sum.saturating_add(*count));
    let quantile = |part: f64| quantile(&buckets, part * count as f64);
    let [p50, p90, p95, p99] = [0.5, 0.9, 0.95, 0.99].map(quantile);
    let middle = |index: i32| (f64::from(index) + 0.5).exp2();
    let by_buckets = || buckets.iter().map(|(index, count)| middle(*index) * *count as f64).sum();
    let sum = sum.unwrap_or_else(by_buckets);
    let (min, max) = (f64::from(first).exp2(), f64::from(last + 1).exp2());
    Some(Distribution { count, sum, min, mean: sum / count as f64, p50, p90, p95, p99, max, scale: 0, buckets })
}

/// The value of this rank, where those of a bucket are spread evenly on a logarithmic scale.
fn quantile(buckets: &[(i32, u64)], rank: f64) -> f64 {
    let mut left = rank;
    let mut value = 0.0;
    for (index, count) in buckets {
        let count = *count as f64;
        value = (f64::from(*index) + (left / count).min(1.0)).exp2();
        if left <= count {
            break;
        }
        left -= count;
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(labels: &[(&str, &str)], value: f64) -> Sample {
        let labels = labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Sample { labels, value }
    }

    #[test]
    fn rows_are_those_that_were_asked_for_and_unknown_is_not_zero() {
        let mut rows = Rows::default();
        let host = |name, value| sample(&[("instance", name)], value);
        rows.take(Part::Requests, &["instance"], &[host("a", 120.4), host("b", 0.0)], 60.0);
        rows.take(Part::Cost, &["instance"], &[host("a", 1.0), host("c", 5.0)], 60.0);
        let tokens = [sample(&[("instance", "a"), ("type", "output")], 600.0)];
        rows.take(Part::Tokens, &["instance"], &tokens, 60.0);
        let estimated = [sample(&[("instance", "a"), ("type", "output")], 300.0)];
        rows.take(Part::TokensEstimated, &["instance"], &estimated, 60.0);
        let rows = rows.finish();
        assert_eq!(rows.keys().map(|key| key[0].as_str()).collect::<Vec<_>>(), ["a", "b"]);
        let (a, b) = (&rows[&vec!["a".to_owned()]], &rows[&vec!["b".to_owned()]]);
        assert_eq!((a.requests_total, a.cost_usd_per_hour), (120, Some(60.0)));
        assert_eq!((a.tokens_per_second.output, a.tokens_per_second.estimated_share), (Some(10.0), Some(0.5)));
        assert_eq!((b.cost_usd, b.tokens.output, b.latency.window.duration_seconds.is_none()), (None, None, true));
    }

    #[test]
    fn a_distribution_is_as_exact_as_its_bounds() {
        let bounds = vec![(0.5, 10.0), (1.0, 30.0), (2.0, 40.0), (f64::INFINITY, 40.0), (0.25, 0.0)];
        let found = distribution(bounds, Some(30.0)).unwrap();
        assert_eq!((found.count, found.mean, found.min, found.max), (40, 0.75, 0.25, 2.0));
        assert_eq!(found.buckets, [(-2, 10), (-1, 20), (0, 10)]);
        // Half of those between 0.5 and 1.
        assert!((found.p50 - 0.5_f64.sqrt()).abs() < 1e-9, "{}", found.p50);
        assert!(found.p99 > 1.0 && found.p99 <= 2.0);
        let between = distribution(vec![(0.9, 10.0), (1.0, 20.0), (1.1, 30.0)], None).unwrap();
        assert!(between.buckets == [(-1, 30)] && between.p50 < between.p99, "{between:?}");
        assert_eq!(distribution(vec![(1.0, 0.0), (f64::INFINITY, 0.0)], None), None);
        assert_eq!(distribution(Vec::new(), None), None);
    }

    proptest::proptest! {
        #[test]
        fn whatever_is_answered_makes_no_nonsense(bounds in proptest::collection::vec(
            (proptest::num::f64::ANY, proptest::num::f64::ANY), 0..20)) {
            if let Some(found) = distribution(bounds.into_iter().filter(|(a, b)| !a.is_nan() && b.is_finite()).collect(), None) {
                proptest::prop_assert!(found.p50 <= found.p99 && found.count > 0);
            }
        }
    }
}
