//! What happened between two frames: the counts of the later one without those of the earlier one.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use hbpf_core::aggregate::exponential;
use hbpf_core::label::Label;
use hbpf_core::snapshot::{Distribution, EndpointStats, Finding, LlmStats, Lost, LostRecords, Request, Snapshot};
use jiff::{SignedDuration, Timestamp};

use crate::list::Key;
use crate::recording::{Sample, Timeline};
use crate::sets;

/// Findings and failed requests that are kept of a period.
const MAX_LISTED: usize = 50;

/// Other findings that are counted.
const MAX_OTHERS: usize = 10_000;

/// Starts of the observation that are further apart are two.
const SAME_START: SignedDuration = SignedDuration::from_secs(2);

/// Exchanges of a set within a period.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Work {
    pub(crate) requests: u64,
    pub(crate) completed: u64,
    pub(crate) failed: u64,
    pub(crate) abandoned: u64,
    pub(crate) rate_limited: u64,
    pub(crate) retries: u64,
    pub(crate) stalls: u64,
    pub(crate) input: Option<u64>,
    pub(crate) output: Option<u64>,
    /// Whether any of the tokens are estimates.
    pub(crate) input_is_estimate: bool,
    pub(crate) output_is_estimate: bool,
    pub(crate) cost_usd: Option<f64>,
    pub(crate) cost_is_estimate: bool,
    pub(crate) errors: BTreeMap<Label, u64>,
    pub(crate) first_token: Option<Times>,
    pub(crate) inter_token: Option<Times>,
    pub(crate) duration: Option<Times>,
}

/// Times within a period, in seconds: as far as they are told apart by their buckets, some ten percent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Times {
    pub(crate) count: u64,
    pub(crate) mean: f64,
    pub(crate) p50: f64,
    pub(crate) p90: f64,
    pub(crate) p99: f64,
}

impl Times {
    fn between(before: Option<&Distribution>, after: Option<&Distribution>) -> Option<Self> {
        let after = after?;
        let none = Distribution { scale: after.scale, ..Distribution::default() };
        let before = before.filter(|before| before.scale == after.scale).unwrap_or(&none);
        let buckets = exponential::subtract(&after.buckets, &before.buckets)?;
        let count: u64 = buckets.iter().map(|(_, count)| count).sum();
        if count == 0 {
            return None;
        }
        let sum = (after.sum - before.sum).max(0.0);
        // A recording may say anything.
        let at =
            |part: f64| exponential::quantile(&buckets, part).map_or(after.max, |it| it.max(after.min).min(after.max));
        Some(Self { count, mean: sum / count as f64, p50: at(0.5), p90: at(0.9), p99: at(0.99) })
    }
}

impl Work {
    fn between(before: Option<&LlmStats>, after: &LlmStats) -> Self {
        let nothing = LlmStats::default();
        let before = before.unwrap_or(&nothing);
        let count = |of: fn(&LlmStats) -> u64| of(after).saturating_sub(of(before));
        let known = |of: fn(&LlmStats) -> Option<u64>| Some(of(after)?.saturating_sub(of(before).unwrap_or(0)));
        let times = |of: fn(&LlmStats) -> Option<&Distribution>| Times::between(of(before), of(after));
        let errors = after.error_types.iter().filter_map(|(error, count)| {
            let count = count.saturating_sub(before.error_types.get(error).copied().unwrap_or(0));
            (count > 0).then(|| (error.clone(), count))
        });
        Self {
            requests: count(|stats| stats.requests_total),
            completed: count(|stats| stats.completed_total),
            failed: count(|stats| stats.failed_total),
            abandoned: count(|stats| stats.abandoned_total),
            rate_limited: count(|stats| stats.rate_limited_total),
            retries: count(|stats| stats.retries_total),
            stalls: count(|stats| stats.stalls_total),
            input: known(|stats| stats.tokens.input),
            output: known(|stats| stats.tokens.output),
            input_is_estimate: count(|stats| stats.tokens_estimated.input) > 0,
            output_is_estimate: count(|stats| stats.tokens_estimated.output) > 0,
            cost_usd: after.cost_usd.map(|cost| (cost - before.cost_usd.unwrap_or(0.0)).max(0.0)),
            cost_is_estimate: after.cost_is_estimate,
            errors: errors.collect(),
            first_token: times(|stats| stats.latency.since_start.time_to_first_token_seconds.as_ref()),
            inter_token: times(|stats| stats.latency.since_start.inter_token_seconds.as_ref()),
            duration: times(|stats| stats.latency.since_start.duration_seconds.as_ref()),
        }
    }

    /// The part of those that ended that failed, of 100.
    pub(crate) fn failed_percent(&self) -> Option<f64> {
        let ended = self.completed.saturating_add(self.failed).saturating_add(self.abandoned);
        (ended > 0).then(|| 100.0 * self.failed as f64 / ended as f64)
    }
}

/// What happened in a while.
pub(crate) struct Period {
    pub(crate) from: Timestamp,
    pub(crate) to: Timestamp,
    pub(crate) samples: Vec<Arc<Sample>>,
    /// Its last frame.
    pub(crate) last: Arc<Snapshot>,
    /// What was not seen in it.
    pub(crate) lost: Lost,
    /// Whether hbpf was started anew meanwhile: then counts are those since then.
    pub(crate) began_anew: bool,
    pub(crate) totals: Work,
    /// By name, those with most requests first.
    pub(crate) models: Vec<(String, Work)>,
    pub(crate) endpoints: Vec<(String, Work)>,
    pub(crate) listed: Listed,
}

/// What is named of a period one by one.
#[derive(Default)]
pub(crate) struct Listed {
    /// The first of each kind and subject.
    pub(crate) findings: Vec<Finding>,
    /// How many more there were.
    pub(crate) findings_omitted: u64,
    /// The latest first.
    pub(crate) failed: Vec<Request>,
}

impl Period {
    /// Seconds from its first frame to its last.
    pub(crate) fn seconds(&self) -> f64 {
        self.to.duration_since(self.from).as_secs_f64()
    }

    /// Per second.
    pub(crate) fn rate(&self, count: Option<u64>) -> Option<f64> {
        let seconds = self.seconds();
        count.filter(|_| seconds > 0.0).map(|count| count as f64 / seconds)
    }

    /// The mean over its frames, or those that know it.
    pub(crate) fn mean(&self, of: impl Fn(&Sample) -> Option<f64>) -> Option<f64> {
        let known: Vec<f64> = self.samples.iter().filter_map(|sample| of(sample)).collect();
        (!known.is_empty()).then(|| known.iter().sum::<f64>() / known.len() as f64)
    }

    /// That between two times of a recording, or where it begins and ends.
    pub(crate) fn of(timeline: &mut Timeline, from: Option<Timestamp>, to: Option<Timestamp>) -> Result<Self> {
        let range = timeline.range();
        ensure!(!range.is_empty(), "there is no snapshot in it");
        let first = from.map_or(range.start, |from| timeline.at(from));
        let last = to.map_or(range.end - 1, |to| timeline.at(to));
        if last <= first {
            bail!("there are fewer than two snapshots in that time");
        }
        let (before, after) = (frame(timeline, first)?, frame(timeline, last)?);
        // It is reckoned from another clock for each snapshot.
        let apart = after.observation_started_at.duration_since(before.observation_started_at);
        let began_anew = apart.abs() > SAME_START;
        let before = (!began_anew).then_some(before);
        let samples = timeline.samples_to(last, usize::try_from(last - first + 1).unwrap_or(usize::MAX));
        let model_name = |provider: &Label, model: Option<&Label>| match model {
            Some(model) => format!("{model} at {provider}"),
            None => provider.to_string(),
        };
        let models = after.models.iter().map(|model| {
            let same = |other: &&hbpf_core::snapshot::Model| {
                (&other.provider, &other.model) == (&model.provider, &model.model)
            };
            let old = before.as_ref().and_then(|before| before.models.iter().find(same));
            let work = Work::between(old.map(|old| &old.stats), &model.stats);
            (model_name(&model.provider, model.model.as_ref()), work)
        });
        let endpoints = after.endpoints.iter().map(|endpoint| {
            let key = sets::endpoint_key(endpoint);
            let is_it = |old: &&EndpointStats| sets::endpoint_key(old) == key;
            let old = before.as_ref().and_then(|before| before.endpoints.iter().find(is_it));
            (endpoint_name(&after, endpoint), Work::between(old.map(|old| &old.stats), &endpoint.stats))
        });
        let busiest_first = |sets: &mut Vec<(String, Work)>| {
            sets.retain(|(_, work)| work.requests > 0);
            sets.sort_by(|one, other| other.1.requests.cmp(&one.1.requests).then_with(|| one.0.cmp(&other.0)));
        };
        let (mut models, mut endpoints): (Vec<_>, Vec<_>) = (models.collect(), endpoints.collect());
        busiest_first(&mut models);
        busiest_first(&mut endpoints);
        // What was not counted is no time in which nothing happened.
        let began = frame(timeline, first)?.captured_at;
        let began = if began_anew { began.max(after.observation_started_at) } else { began };
        let none = Lost::default();
        let lost = lost_between(before.as_ref().map_or(&none, |before| &before.capture.lost), &after.capture.lost);
        let totals = Work::between(before.as_ref().map(|before| &before.totals), &after.totals);
        let listed = listed(timeline, first, last)?;
        Ok(Self {
            from: began,
            to: after.captured_at,
            samples,
            last: after,
            lost,
            began_anew,
            totals,
            models,
            endpoints,
            listed,
        })
    }
}

/// As its row calls it, with its address where others are called so, too.
fn endpoint_name(snapshot: &Snapshot, endpoint: &EndpointStats) -> String {
    let name = |endpoint: &EndpointStats| match sets::endpoint_key(endpoint) {
        Key::Endpoint(name, _) => name,
        _ => endpoint.name().to_string(),
    };
    let own = name(endpoint);
    let is_alone = snapshot.endpoints.iter().filter(|other| name(other) == own).count() < 2;
    match endpoint.address.filter(|_| !is_alone) {
        Some(address) => format!("{own} ({address})"),
        None => own,
    }
}

fn lost_between(before: &Lost, after: &Lost) -> Lost {
    let grown = |of: fn(&Lost) -> u64| of(after).saturating_sub(of(before));
    Lost {
        ring_full: LostRecords {
            chunks: grown(|lost| lost.ring_full.chunks),
            bytes: grown(|lost| lost.ring_full.bytes),
        },
        read_fault: grown(|lost| lost.read_fault),
        map_full: grown(|lost| lost.map_full),
        over_budget: grown(|lost| lost.over_budget),
        over_budget_bytes: grown(|lost| lost.over_budget_bytes),
        parse_gap: grown(|lost| lost.parse_gap),
        missed_runs: grown(|lost| lost.missed_runs),
        reports: grown(|lost| lost.reports),
        desync: grown(|lost| lost.desync),
    }
}

fn frame(timeline: &mut Timeline, number: u64) -> Result<Arc<Snapshot>> {
    timeline.get(number)?.context("a snapshot is gone")
}

/// Findings that began in these frames or before, and requests that failed. Frames in which neither is new are not read.
fn listed(timeline: &mut Timeline, first: u64, last: u64) -> Result<Listed> {
    let Listed { mut findings, mut failed, .. } = Listed::default();
    // What else was found: a recording may have anything, so that these are bounded as well.
    let mut others: BTreeSet<u64> = BTreeSet::new();
    for number in first..=last {
        let before = number.checked_sub(1).and_then(|before| timeline.sample(before)).cloned();
        let Some(now) = timeline.sample(number).cloned() else { continue };
        let is_new = before.is_none_or(|before| now.found > before.found || now.failed > before.failed);
        if !is_new && number != first && number != last {
            continue;
        }
        let frame = frame(timeline, number)?;
        for finding in &frame.findings {
            let same = |known: &Finding| (&known.id, &known.subject) == (&finding.id, &finding.subject);
            match findings.iter().position(same) {
                // As it was at its worst.
                Some(at) if finding.severity > findings[at].severity => findings[at] = finding.clone(),
                Some(_) => {}
                None if findings.len() < MAX_LISTED => findings.push(finding.clone()),
                None if others.len() < MAX_OTHERS => {
                    let mut hasher = DefaultHasher::new();
                    (&finding.id, &finding.subject).hash(&mut hasher);
                    others.insert(hasher.finish());
                }
                None => {}
            }
        }
        for request in frame.requests.failed.iter().rev() {
            let age = SignedDuration::try_from_secs_f64(request.age_seconds).unwrap_or_default();
            let ended = request.started_at.checked_add(age).unwrap_or(request.started_at);
            let is_of_it = ended >= timeline.sample(first).map_or(ended, |sample| sample.at);
            if is_of_it
                && !failed.iter().any(|known| (&known.id, known.started_at) == (&request.id, request.started_at))
            {
                failed.push(request.clone());
            }
        }
        // The latest.
        failed.drain(..failed.len().saturating_sub(MAX_LISTED));
    }
    failed.reverse();
    Ok(Listed { findings, findings_omitted: others.len() as u64, failed })
}

/// Reads a recording, all of it.
pub(crate) fn read(file: File) -> Result<Timeline> {
    let (mut timeline, mut rest) = Timeline::open(file).context("cannot read the recording")?;
    while let Some(snapshot) = rest.next()? {
        timeline.push(Arc::new(snapshot))?;
    }
    Ok(timeline)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;
    use crate::recording::Keep;

    /// Frames a second apart in which the counts go up.
    fn timeline(frames: u64) -> Timeline {
        let mut timeline = Timeline::new(Keep::STREAM).unwrap();
        for number in 0..frames {
            let mut snapshot = fixture::rich();
            snapshot.captured_at += SignedDuration::from_secs(number as i64);
            for stats in [&mut snapshot.totals, &mut snapshot.models[0].stats, &mut snapshot.endpoints[0].stats] {
                stats.requests_total += 10 * number;
                stats.completed_total += 9 * number;
                stats.failed_total += number;
                stats.tokens.output = Some(1000 * number);
            }
            let times = (0..400 + number * 10).map(|n| if n < 400 { 0.1 } else { 3.0 }).collect();
            snapshot.totals.latency.since_start.time_to_first_token_seconds = fixture::distribution(times);
            timeline.push(Arc::new(snapshot)).unwrap();
        }
        timeline
    }

    #[test]
    fn a_period_has_what_came_in_it_and_nothing_else() {
        let mut timeline = timeline(101);
        let all = Period::of(&mut timeline, None, None).unwrap();
        assert_eq!((all.totals.requests, all.totals.failed, all.totals.output), (1000, 100, Some(100_000)));
        assert_eq!((all.seconds(), all.rate(all.totals.output)), (100.0, Some(1000.0)));
        assert_eq!(all.totals.failed_percent(), Some(10.0));
        let times = all.totals.first_token.unwrap();
        assert_eq!(times.count, 1000);
        assert!((2.7..3.3).contains(&times.p50) && (2.7..3.3).contains(&times.p99), "none of before: {times:?}");
        assert_eq!((all.models.len(), all.endpoints.len()), (1, 1), "those that did something");
        let from = all.from + SignedDuration::from_secs(90);
        let end = Period::of(&mut timeline, Some(from), None).unwrap();
        assert_eq!(end.totals.requests, 100);
        assert!(Period::of(&mut timeline, Some(all.to), None).is_err());
        assert!(Period::of(&mut Timeline::new(Keep::STREAM).unwrap(), None, None).is_err());
    }

    #[test]
    fn a_new_start_counts_from_there() {
        let mut timeline = timeline(3);
        let mut later = fixture::rich();
        later.captured_at += SignedDuration::from_secs(60);
        later.observation_started_at = later.captured_at - SignedDuration::from_secs(30);
        later.totals.requests_total = 7;
        timeline.push(Arc::new(later)).unwrap();
        let period = Period::of(&mut timeline, None, None).unwrap();
        assert!(period.began_anew);
        assert_eq!(period.totals.requests, 7);
    }
}
