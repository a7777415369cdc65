//! Rules over the snapshots of a stream: what deserves attention and shows only over time.
//!
//! [`Rules::look`] is to be called with each snapshot in turn, live or of a recording, and adds its findings to it.

use std::collections::{BTreeMap, VecDeque};

use jiff::{SignedDuration, Timestamp};

use crate::exchange::Phase;
use crate::label::{Label, Text};
use crate::snapshot::{Finding, Lost, Model, Severity, Snapshot};

/// Over how long failures and losses are counted, in seconds.
const WINDOW: f64 = 60.0;

/// How far apart what is remembered of the stream lies, in seconds.
const STEP: f64 = 5.0;

/// How much of it is remembered: five minutes.
const MARKS: usize = 60;

/// A stream that says nothing for longer than this has stalled, in seconds. A model that thinks aloud is never silent for so long,
/// and one that does not has sent no token yet.
const SILENCE: f64 = 10.0;

/// So many refusals within a minute are told, or fewer where they are so large a part of all.
const REFUSALS: u64 = 3;
const REFUSED_SHARE: f64 = 0.1;

/// So many failures within a minute, if they are so large a part of what ended, are a burst; from the second share on nothing works.
const FAILURES: u64 = 5;
const FAILED_SHARE: f64 = 0.1;
const BROKEN_SHARE: f64 = 0.5;

/// A first token that takes so many times as long as before, while so many times as many requests are in flight, waits for these.
const RISE: f64 = 2.0;

/// Less than this is within what comes and goes: seconds, requests, and answers from which the seconds are.
const MIN_RISE_SECONDS: f64 = 0.2;
const MIN_RISE_IN_FLIGHT: f64 = 4.0;
const MIN_ANSWERS: u64 = 5;

/// From so much of the time before on it can be told how it was.
const MIN_BEFORE: usize = 6;

/// Losses of other causes than a full ring that are told; some always come with connections that were open before.
const LOSSES: u64 = 20;

/// What is remembered of a stream.
#[derive(Debug, Default)]
pub struct Rules {
    marks: VecDeque<Mark>,
    /// Since when what is found holds, by rule and subject.
    since: BTreeMap<(Label, Label), Timestamp>,
}

/// What was counted by then.
#[derive(Clone, Debug, Default)]
struct Mark {
    /// Seconds that were observed.
    at: f64,
    endpoints: BTreeMap<Label, Counts>,
    models: BTreeMap<Label, Load>,
    lost: Lost,
}

/// Requests of an endpoint since the beginning.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    ended: u64,
    failed: u64,
    refused: u64,
}

/// How a model does.
#[derive(Clone, Copy, Debug)]
struct Load {
    first_token: Option<f64>,
    in_flight: f64,
}

impl Rules {
    /// Adds what is found in a snapshot to it; those before it have been looked at in their order.
    pub fn look(&mut self, snapshot: &mut Snapshot) {
        let mark = Mark::of(snapshot);
        if self.marks.back().is_some_and(|last| last.at > mark.at) {
            // Another stream.
            *self = Self::default();
        }
        let before = self.before(&mark);
        let mut found = stalled(snapshot);
        // Of snapshots that are further apart nobody knows what was within a minute.
        if mark.at - before.at <= 2.0 * WINDOW {
            found.extend(failing(snapshot, &mark, &before));
            found.extend(losing(snapshot, &mark.lost, &before.lost));
        }
        found.extend(self.rising(snapshot));
        self.remember_since(&mut found);
        snapshot.findings.append(&mut found);
        if self.marks.back().is_none_or(|last| mark.at - last.at >= STEP) {
            self.marks.push_back(mark);
        }
        if self.marks.len() > MARKS {
            self.marks.pop_front();
        }
    }

    /// What was counted a minute ago, or when that was first looked at.
    fn before(&self, now: &Mark) -> Mark {
        let old = self.marks.iter().rev().find(|mark| now.at - mark.at >= WINDOW);
        // All counts began at nothing.
        let beginning = || (now.at <= WINDOW).then(Mark::default);
        old.cloned().or_else(beginning).unwrap_or_else(|| self.marks.front().unwrap_or(now).clone())
    }

    /// What has been found before is as old as it was then.
    fn remember_since(&mut self, found: &mut [Finding]) {
        let before = std::mem::take(&mut self.since);
        for finding in found {
            let key = (finding.id.clone(), finding.subject.clone());
            finding.since = before.get(&key).copied().unwrap_or(finding.since);
            self.since.insert(key, finding.since);
        }
    }

    /// Models whose first tokens come later the more requests there are.
    fn rising(&self, snapshot: &Snapshot) -> Vec<Finding> {
        let median = |mut values: Vec<f64>| {
            values.sort_by(f64::total_cmp);
            (values.len() >= MIN_BEFORE).then(|| values[values.len() / 2])
        };
        let now = snapshot.observed_seconds;
        let rise = |model: &Model| {
            let times = model.stats.latency.window.time_to_first_token_seconds.as_ref()?;
            let (seconds, in_flight) = (times.p50, model.stats.requests_in_flight? as f64);
            let name = model_name(model);
            let of_it = || {
                let marks = self.marks.iter().filter(|mark| now - mark.at >= WINDOW);
                marks.filter_map(|mark| mark.models.get(&name))
            };
            let seconds_before = median(of_it().filter_map(|load| load.first_token).collect())?;
            let in_flight_before = median(of_it().map(|load| load.in_flight).collect())?;
            let is_slower = seconds >= RISE * seconds_before && seconds - seconds_before >= MIN_RISE_SECONDS;
            let is_fuller = in_flight >= RISE * in_flight_before && in_flight - in_flight_before >= MIN_RISE_IN_FLIGHT;
            (times.count >= MIN_ANSWERS && is_slower && is_fuller).then(|| Finding {
                id: "ttft_rising".into(),
                severity: Severity::Warning,
                title: Text::new(&format!(
                    "{name}: first tokens take {seconds:.2} s, {seconds_before:.2} s before, with {in_flight} requests in \
                     flight, {in_flight_before} before"
                )),
                subject: name,
                evidence: evidence([
                    ("time_to_first_token_p50_seconds", seconds),
                    ("time_to_first_token_p50_seconds_before", seconds_before),
                    ("requests_in_flight", in_flight),
                    ("requests_in_flight_before", in_flight_before),
                ]),
                advice: "requests wait for each other: fewer at once, or more replicas; a server's own queue is under \
                         inference servers, its GPU under GPUs"
                    .into(),
                since: snapshot.captured_at,
            })
        };
        snapshot.models.iter().filter_map(rise).collect()
    }
}

impl Mark {
    fn of(snapshot: &Snapshot) -> Self {
        let mut endpoints: BTreeMap<Label, Counts> = BTreeMap::new();
        for endpoint in &snapshot.endpoints {
            let stats = &endpoint.stats;
            let counts = endpoints.entry(endpoint.name()).or_default();
            counts.ended += stats.completed_total + stats.failed_total + stats.abandoned_total;
            counts.failed += stats.failed_total;
            counts.refused += stats.rate_limited_total;
        }
        let load = |model: &Model| {
            let first_token = model.stats.latency.window.time_to_first_token_seconds.as_ref();
            let in_flight = model.stats.requests_in_flight? as f64;
            Some((model_name(model), Load { first_token: first_token.map(|times| times.p50), in_flight }))
        };
        Self {
            at: snapshot.observed_seconds,
            endpoints,
            models: snapshot.models.iter().filter_map(load).collect(),
            lost: snapshot.capture.lost.clone(),
        }
    }
}

/// Streams that stand still, by endpoint.
fn stalled(snapshot: &Snapshot) -> Vec<Finding> {
    let mut silent: BTreeMap<&Label, (u64, f64)> = BTreeMap::new();
    for request in snapshot.requests.in_flight.iter().filter(|request| request.phase == Phase::Streaming) {
        if let Some(seconds) = request.time_since_last_token_seconds.filter(|seconds| *seconds >= SILENCE) {
            let (streams, longest) = silent.entry(&request.endpoint).or_default();
            *streams += 1;
            *longest = longest.max(seconds);
        }
    }
    let finding = |(endpoint, (streams, longest)): (&Label, (u64, f64))| {
        let stand = if streams == 1 { "stream stands" } else { "streams stand" };
        Finding {
            id: "stalled_stream".into(),
            severity: Severity::Warning,
            subject: endpoint.clone(),
            title: Text::new(&format!("{endpoint}: {streams} {stand} still, no token for {longest:.0} s")),
            evidence: evidence([("streams", streams as f64), ("longest_silence_seconds", longest)]),
            advice:
                "requests that idle are under requests; if the server is on this machine its own queue, its GPU and \
                     what its process waits for say more"
                    .into(),
            since: snapshot.captured_at.saturating_sub(SignedDuration::from_secs_f64(longest)).unwrap_or_default(),
        }
    };
    silent.into_iter().map(finding).collect()
}

/// Endpoints that refuse requests, or fail, within the last minute.
fn failing(snapshot: &Snapshot, now: &Mark, before: &Mark) -> Vec<Finding> {
    let mut found = Vec::new();
    for (endpoint, counts) in &now.endpoints {
        let old = before.endpoints.get(endpoint).copied().unwrap_or_default();
        let ended = counts.ended.saturating_sub(old.ended);
        let refused = counts.refused.saturating_sub(old.refused);
        // Refusals count as failures, too, and have a finding of their own.
        let failed = counts.failed.saturating_sub(old.failed).saturating_sub(refused);
        let share = |part: u64| part as f64 / ended.max(part).max(1) as f64;
        if refused >= REFUSALS || (refused > 0 && share(refused) >= REFUSED_SHARE) {
            found.push(Finding {
                id: "rate_limited".into(),
                severity: Severity::Warning,
                subject: endpoint.clone(),
                title: Text::new(&format!("{endpoint} refuses requests: {refused} of {ended} in a minute")),
                evidence: evidence([("refused", refused as f64), ("ended", ended as f64)]),
                advice:
                    "a quota is used up: fewer calls at once, or a larger quota; under failures stand what is left \
                         and when to try again"
                        .into(),
                since: snapshot.captured_at,
            });
        }
        if failed >= FAILURES && share(failed) >= FAILED_SHARE {
            let severity = if share(failed) >= BROKEN_SHARE { Severity::Critical } else { Severity::Warning };
            found.push(Finding {
                id: "error_burst".into(),
                severity,
                subject: endpoint.clone(),
                title: Text::new(&format!("{endpoint}: {failed} of {ended} requests failed in a minute")),
                evidence: evidence([("failed", failed as f64), ("ended", ended as f64)]),
                advice: "which errors these are is under failures, each request with its id for the provider".into(),
                since: snapshot.captured_at,
            });
        }
    }
    found
}

/// What was not seen within the last minute. What is left out on purpose is told by those who do.
fn losing(snapshot: &Snapshot, now: &Lost, before: &Lost) -> Option<Finding> {
    let grown = |of: fn(&Lost) -> u64| of(now).saturating_sub(of(before));
    let ring = grown(|lost| lost.ring_full.chunks);
    let causes = [
        ("ring_full", ring),
        ("read_fault", grown(|lost| lost.read_fault)),
        ("map_full", grown(|lost| lost.map_full)),
        ("missed_runs", grown(|lost| lost.missed_runs)),
        ("reports", grown(|lost| lost.reports)),
        ("desync", grown(|lost| lost.desync)),
    ];
    let all: u64 = causes.iter().map(|(_, count)| count).sum();
    (ring > 0 || all >= LOSSES).then(|| Finding {
        id: "capture_loss".into(),
        severity: Severity::Warning,
        subject: "capture".into(),
        title: Text::new(&format!("{all} pieces of traffic were lost in a minute: some numbers are too low")),
        evidence: evidence(
            causes.into_iter().filter(|(_, count)| *count > 0).map(|(name, count)| (name, count as f64)),
        ),
        advice:
            "watch less at once (fewer --groups), or give hbpf more of the machine: on a busy one it is not scheduled in time"
                .into(),
        since: snapshot.captured_at,
    })
}

fn model_name(model: &Model) -> Label {
    match &model.model {
        Some(name) => Label::new(&format!("{name} at {}", model.provider)),
        None => model.provider.clone(),
    }
}

fn evidence(numbers: impl IntoIterator<Item = (&'static str, f64)>) -> BTreeMap<Label, f64> {
    numbers.into_iter().map(|(name, value)| (name.into(), value)).collect()
}
