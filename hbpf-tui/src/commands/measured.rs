//! What a measure comes to for a set of exchanges, as far as that is known.

use std::collections::HashMap;

use hbpf_core::aggregate::exponential;
use hbpf_core::exchange::Phase;
use hbpf_core::label::Label;
use hbpf_core::snapshot::{Distribution, LlmStats, Request, Snapshot};

use crate::condition::{Condition, Measure, Range, Statistic, Time};

/// The value of a measure.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Measured {
    pub(super) range: Range,
    /// Of how many exchanges or gaps it is, where that says how far it goes.
    pub(super) of: Option<u64>,
    /// What is odd about it, for people.
    pub(super) note: Option<String>,
}

impl Measured {
    fn exactly(value: f64) -> Self {
        Self { range: Range::exactly(value), of: None, note: None }
    }

    fn count(count: u64) -> Self {
        Self::exactly(count as f64)
    }
}

/// Exchanges that a condition is about.
pub(super) struct Exchanges<'a> {
    /// `None` where none were seen.
    stats: Option<&'a LlmStats>,
    /// Those that run.
    running: Vec<Running>,
    /// How many others may run, each for as long as the youngest of all that are told.
    omitted: (u64, f64),
}

/// For how long an exchange has been waited for that runs.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Running {
    age: f64,
    /// `None` where its first token has come, or it will have none.
    first_token: Option<Range>,
    since_last_token: Option<f64>,
}

/// Since when requests have waited for their first token: of one that runs, a snapshot has only the time since its first byte,
/// and the clock starts with its last.
#[derive(Debug, Default)]
pub(super) struct Waits {
    /// By the request, how old it was when it was first seen to wait.
    since: HashMap<Label, f64>,
}

impl Waits {
    /// Takes note of those that wait.
    pub(super) fn look(&mut self, snapshot: &Snapshot) {
        let before = std::mem::take(&mut self.since);
        let waiting = snapshot.requests.in_flight.iter().filter(|request| request.phase == Phase::Waiting);
        let since = |request: &Request| before.get(&request.id).copied().unwrap_or(request.age_seconds);
        self.since = waiting.map(|request| (request.id.clone(), since(request))).collect();
    }

    fn running(&self, request: &Request) -> Running {
        // Its first token may be among the bytes that were lost.
        let waits = request.phase == Phase::Waiting && request.stream == Some(true) && request.bytes_missed == 0;
        let age = request.age_seconds;
        let least = self.since.get(&request.id).map_or(0.0, |since| age - since);
        Running {
            age,
            first_token: waits.then_some(Range { least, most: age }),
            since_last_token: request.time_since_last_token_seconds,
        }
    }
}

impl<'a> Exchanges<'a> {
    /// Those with these numbers, and these that run.
    pub(super) fn new<'b>(
        stats: Option<&'a LlmStats>,
        running: impl Iterator<Item = &'b Request>,
        snapshot: &Snapshot,
        waits: &Waits,
    ) -> Self {
        let requests = &snapshot.requests;
        let youngest = requests.in_flight.last().map_or(0.0, |request| request.age_seconds);
        Self {
            stats,
            running: running.map(|request| waits.running(request)).collect(),
            omitted: (requests.in_flight_omitted, youngest),
        }
    }

    /// What the measure of a condition comes to; `None` where nothing is known of it.
    pub(super) fn measured(&self, condition: &Condition) -> Option<Measured> {
        let running = self.running.len() as u64;
        let nobody = LlmStats { requests_in_flight: Some(running), ..LlmStats::default() };
        let stats = self.stats.unwrap_or(&nobody);
        Some(match condition.measure {
            Measure::Time(time, statistic) => return self.time(stats, time, statistic, condition.limit()),
            Measure::ErrorPercent => {
                let ended = ended(stats);
                let percent = (ended > 0).then(|| 100.0 * stats.failed_total as f64 / ended as f64)?;
                Measured { of: Some(ended), ..Measured::exactly(percent) }
            }
            // Of one whose provider is not known yet no model's row has heard.
            Measure::Requests => Measured::count(stats.requests_total.max(running)),
            Measure::Failed => Measured::count(stats.failed_total),
            Measure::Abandoned => Measured::count(stats.abandoned_total),
            Measure::RateLimited => Measured::count(stats.rate_limited_total),
            Measure::Stalls => Measured::count(stats.stalls_total),
            Measure::InFlight => Measured::count(stats.requests_in_flight?),
            Measure::OutputRate if self.stats.is_none() => Measured::count(0),
            Measure::OutputRate => Measured::exactly(stats.tokens_per_second.output?),
            Measure::CostPerHour => return cost_per_hour(stats),
        })
    }

    /// A statistic of a time, over those that have had it and those that run and have taken more than the limit already. Of
    /// one that has not yet, nobody knows on which side of the limit it will be.
    fn time(&self, stats: &LlmStats, time: Time, statistic: Statistic, limit: f64) -> Option<Measured> {
        let all = &stats.latency.since_start;
        let seen = match time {
            Time::FirstToken => &all.time_to_first_token_seconds,
            Time::InterToken => &all.inter_token_seconds,
            Time::Duration => &all.duration_seconds,
        };
        // Those of a row without distributions say nothing beside those that run.
        let has_distributions = all.duration_seconds.is_some() || ended(stats) == 0;
        let times = self.running.iter().filter_map(|running| running.time(time, statistic)).collect::<Vec<_>>();
        let beyond: Vec<f64> = times.iter().map(|time| time.least).filter(|least| *least > limit).collect();
        let (omitted, age) = self.omitted;
        let perhaps =
            times.iter().filter(|time| time.most > limit).count() as u64 + if age > limit { omitted } else { 0 };
        if (seen.is_none() && beyond.is_empty()) || !has_distributions {
            return None;
        }
        let samples = Samples { seen: seen.as_ref(), beyond: &beyond, perhaps };
        let still = beyond.len();
        Some(Measured {
            range: samples.statistic(statistic),
            of: Some(seen.as_ref().map_or(0, |seen| seen.count) + still as u64),
            note: (still > 0).then(|| format!("{still} of them still running")),
        })
    }
}

impl Running {
    fn time(self, time: Time, statistic: Statistic) -> Option<Range> {
        match time {
            Time::FirstToken => self.first_token,
            // What comes next may be several tokens, which share the gap; and among the gaps of all, one that goes on is few.
            Time::InterToken => {
                self.since_last_token.filter(|_| statistic == Statistic::Max).map(|most| Range { least: 0.0, most })
            }
            Time::Duration => Some(Range::exactly(self.age)),
        }
    }
}

fn ended(stats: &LlmStats) -> u64 {
    stats.completed_total + stats.failed_total + stats.abandoned_total
}

/// The known part of the cost is the least that it is.
fn cost_per_hour(stats: &LlmStats) -> Option<Measured> {
    let unknown = stats.cost_unknown_requests;
    if unknown > 0 {
        let note = Some(format!("the cost of {unknown} is not known"));
        return Some(Measured { range: Range::at_least(stats.cost_usd_per_hour.unwrap_or(0.0)), of: None, note });
    }
    let cost = stats.cost_usd_per_hour.or((ended(stats) == 0).then_some(0.0));
    cost.map(Measured::exactly)
}

/// Times that were measured, and those of exchanges that run.
struct Samples<'a> {
    seen: Option<&'a Distribution>,
    /// The least that they will be, beyond the limit already.
    beyond: &'a [f64],
    /// How many may be beyond the limit, those among them.
    perhaps: u64,
}

impl Samples<'_> {
    fn statistic(&self, statistic: Statistic) -> Range {
        let seen = |of: fn(&Distribution) -> f64| self.seen.map(of);
        match statistic {
            Statistic::Mean => Range::exactly(self.mean()),
            Statistic::P50 => self.quantile(0.5, seen(|seen| seen.p50)),
            Statistic::P90 => self.quantile(0.9, seen(|seen| seen.p90)),
            Statistic::P95 => self.quantile(0.95, seen(|seen| seen.p95)),
            Statistic::P99 => self.quantile(0.99, seen(|seen| seen.p99)),
            Statistic::Max => {
                let longest = self.beyond.iter().copied().fold(seen(|seen| seen.max).unwrap_or(0.0), f64::max);
                if self.perhaps > 0 { Range::at_least(longest) } else { Range::exactly(longest) }
            }
        }
    }

    /// Of those that run what they have taken so far: it is the least that it will be.
    fn mean(&self) -> f64 {
        let (count, sum) = self.seen.map_or((0, 0.0), |seen| (seen.count, seen.sum));
        let (count, sum) = (count + self.beyond.len() as u64, sum + self.beyond.iter().sum::<f64>());
        sum / count.max(1) as f64
    }

    /// `measured` is that of the times that were measured alone.
    fn quantile(&self, quantile: f64, measured: Option<f64>) -> Range {
        let beyond = self.beyond.iter().map(|time| (*time, 1)).collect::<Vec<_>>();
        let least = self.quantile_with(quantile, measured, &beyond);
        let most = self.quantile_with(quantile, measured, &[(f64::INFINITY, self.perhaps)]);
        Range { least, most: most.max(least) }
    }

    /// A quantile of what was measured and of these times, each with its number. Where in its bucket a time lies is not known, so
    /// that buckets say only by how much those move it.
    fn quantile_with(&self, quantile: f64, measured: Option<f64>, more: &[(f64, u64)]) -> f64 {
        let buckets = self.seen.iter().flat_map(|seen| seen.buckets.iter().map(|bucket| (*seen, *bucket)));
        let buckets: Vec<Stretch> = buckets
            .map(|(seen, (index, count))| {
                let (from, to) = exponential::bounds(index);
                Stretch { from: from.max(seen.min), to: to.min(seen.max), count }
            })
            .collect();
        let more = more.iter().map(|(time, count)| Stretch { from: *time, to: *time, count: *count });
        let all: Vec<Stretch> = buckets.iter().copied().chain(more).collect();
        let moved = at_quantile(all, quantile);
        match (self.seen, measured) {
            (Some(seen), Some(measured)) if moved <= seen.max => {
                (measured + (moved - at_quantile(buckets, quantile)).max(0.0)).min(seen.max)
            }
            _ => moved,
        }
    }
}

/// Values that are spread evenly.
#[derive(Clone, Copy, Debug)]
struct Stretch {
    from: f64,
    to: f64,
    count: u64,
}

/// The value at this part of the way through all values.
fn at_quantile(mut values: Vec<Stretch>, quantile: f64) -> f64 {
    values.retain(|stretch| stretch.count > 0);
    values.sort_by(|one, other| one.to.total_cmp(&other.to));
    let mut rank = values.iter().map(|stretch| stretch.count as f64).sum::<f64>() * quantile;
    for Stretch { from, to, count } in &values {
        if rank <= *count as f64 {
            return if from < to { from + (to - from) * rank / *count as f64 } else { *to };
        }
        rank -= *count as f64;
    }
    values.last().map_or(0.0, |stretch| stretch.to)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;

    fn condition(text: &str) -> Condition {
        text.parse().unwrap()
    }

    /// So many fast first tokens, and these requests that wait: since how long, and how old they were when they were first seen
    /// to.
    fn first_token(fast: usize, waiting: &[(f64, f64)], text: &str) -> Option<bool> {
        let mut stats = LlmStats { completed_total: fast as u64, ..LlmStats::default() };
        let all = &mut stats.latency.since_start;
        all.time_to_first_token_seconds = fixture::distribution(vec![0.1; fast]);
        all.duration_seconds = fixture::distribution(vec![1.0; fast]);
        let mut snapshot = fixture::empty();
        let mut waits = Waits::default();
        let request = fixture::rich().requests.in_flight[2].clone();
        assert_eq!(request.phase, Phase::Waiting);
        snapshot.requests.in_flight = (0..waiting.len())
            .map(|number| {
                let mut request = request.clone();
                (request.id, request.age_seconds) = (format!("{number}").into(), waiting[number].1);
                request
            })
            .collect();
        waits.look(&snapshot);
        for (request, (age, _)) in snapshot.requests.in_flight.iter_mut().zip(waiting) {
            request.age_seconds = *age;
        }
        waits.look(&snapshot);
        let exchanges = Exchanges::new(Some(&stats), snapshot.requests.in_flight.iter(), &snapshot, &waits);
        let condition = condition(text);
        condition.holds(exchanges.measured(&condition)?.range)
    }

    #[test]
    fn requests_that_wait_longer_than_the_limit_count() {
        let hung = [(20.0, 0.5); 50];
        assert_eq!(first_token(3, &hung, "ttft_p99>2s"), Some(true));
        assert_eq!(first_token(3, &hung, "ttft_p50>2s"), Some(true));
        assert_eq!(first_token(3, &hung, "ttft_max>2s"), Some(true));
        assert_eq!(first_token(3, &hung, "ttft_mean>2s"), Some(true));
        assert_eq!(first_token(0, &hung, "ttft_p99>2s"), Some(true));
        assert_eq!(first_token(10_000, &hung, "ttft_p99>2s"), Some(false), "they are half of a hundredth");
        assert_eq!(first_token(10_000, &hung, "ttft_max>2s"), Some(true));
        assert_eq!(first_token(3, &hung, "ttft_p99<2s"), Some(false));
    }

    #[test]
    fn few_that_wait_move_a_percentile_by_little() {
        let values: Vec<f64> = (1..=1000).map(|number| f64::from(number) / 100.0).collect();
        let seen = fixture::distribution(values).unwrap();
        for (quantile, measured) in [(0.5, seen.p50), (0.9, seen.p90), (0.99, seen.p99)] {
            let at = |beyond: &[f64]| {
                let samples = Samples { seen: Some(&seen), beyond, perhaps: beyond.len() as u64 };
                samples.quantile(quantile, Some(measured)).least
            };
            assert_eq!(at(&[]), measured);
            let moved = at(&[50.0; 5]) - measured;
            assert!((0.0..0.1).contains(&moved), "{quantile}: {moved}");
            assert_eq!(at(&[50.0; 200_000]), 50.0);
        }
    }

    #[test]
    fn requests_that_have_not_waited_for_so_long_say_nothing() {
        let young = [(1.0, 0.5); 50];
        assert_eq!(first_token(3, &young, "ttft_p99>2s"), Some(false));
        assert_eq!(first_token(0, &young, "ttft_p99>2s"), None);
        // When its last byte was sent is known to lie between two looks only.
        let old_when_first_seen = [(3.0, 2.5)];
        assert_eq!(first_token(3, &old_when_first_seen, "ttft_p99>2s"), None);
        assert_eq!(first_token(3, &old_when_first_seen, "ttft_p50>2s"), Some(false), "whatever it has waited");
    }

    #[test]
    fn only_streams_have_a_first_token_to_wait_for() {
        let snapshot = fixture::rich();
        let mut request = snapshot.requests.in_flight[2].clone();
        let waits = Waits::default();
        assert!(waits.running(&request).first_token.is_some());
        request.stream = Some(false);
        assert_eq!(waits.running(&request).first_token, None);
        (request.stream, request.phase) = (Some(true), Phase::Sending);
        assert_eq!(waits.running(&request).first_token, None);
    }

    #[test]
    fn a_gap_between_tokens_that_goes_on_leaves_the_longest_open() {
        let stats = LlmStats::default();
        let snapshot = fixture::rich();
        let latency = snapshot.totals.latency.clone();
        let stats = LlmStats { latency, ..stats };
        let longest = stats.latency.since_start.inter_token_seconds.as_ref().unwrap().max;
        let mut request = snapshot.requests.in_flight[0].clone();
        let mut holds = |silent, text: &str| {
            request.time_since_last_token_seconds = Some(silent);
            let running = std::iter::once(&request);
            let exchanges = Exchanges::new(Some(&stats), running, &snapshot, &Waits::default());
            let condition = condition(text);
            condition.holds(exchanges.measured(&condition).unwrap().range)
        };
        assert!(longest < 5.0);
        assert_eq!((holds(0.1, "itl_max>5s"), holds(30.0, "itl_max>5s")), (Some(false), None));
        assert_eq!((holds(30.0, "itl_p99>5s"), holds(30.0, "itl_mean>5s")), (Some(false), Some(false)));
    }

    #[test]
    fn those_that_a_snapshot_leaves_out_may_hang_too_if_the_youngest_that_it_has_does() {
        let mut snapshot = fixture::rich();
        let stats = snapshot.totals.clone();
        snapshot.requests.in_flight.truncate(1);
        let mut holds = |age, omitted| {
            snapshot.requests.in_flight[0].age_seconds = age;
            snapshot.requests.in_flight_omitted = omitted;
            let running = snapshot.requests.in_flight.iter();
            let exchanges = Exchanges::new(Some(&stats), running, &snapshot, &Waits::default());
            let condition = condition("duration_p90>60s");
            condition.holds(exchanges.measured(&condition).unwrap().range)
        };
        assert_eq!([holds(100.0, 0), holds(100.0, 400), holds(10.0, 400)], [Some(false), None, Some(false)]);
    }

    #[test]
    fn without_distributions_those_that_run_are_not_all() {
        let stats = LlmStats { completed_total: 100, ..LlmStats::default() };
        let mut snapshot = fixture::rich();
        snapshot.requests.in_flight[0].age_seconds = 100.0;
        let exchanges = Exchanges::new(Some(&stats), snapshot.requests.in_flight.iter(), &snapshot, &Waits::default());
        assert_eq!(exchanges.measured(&condition("duration_p99>2s")), None);
    }
}
