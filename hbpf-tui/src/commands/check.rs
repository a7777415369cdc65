//! `hbpf check`: whether something is too slow, too dear or failing, as an exit code.

use std::process::ExitCode;

use anyhow::{Result, bail};
use hbpf_core::snapshot::{Distribution, LlmStats, Snapshot};
use hbpf_host::collector::Options;
use unicode_width::UnicodeWidthStr as _;

use super::print;
use super::snapshot::{in_place, one};
use crate::cli::{CheckArgs, MAX_WINDOW, MIN_WINDOW, Sources};
use crate::condition::{Condition, Measure, Statistic, Time};
use crate::live;
use crate::prices;

/// A condition holds.
const HOLDS: u8 = 1;
/// It cannot be told.
const UNKNOWN: u8 = 3;

pub(crate) fn run(arguments: &CheckArgs) -> ExitCode {
    match checked(arguments) {
        Ok(code) => code,
        Err(error) => {
            super::complain(&error);
            ExitCode::from(UNKNOWN)
        }
    }
}

fn checked(arguments: &CheckArgs) -> Result<ExitCode> {
    let groups = arguments.probes.chosen();
    let options = Options {
        groups: groups.clone(),
        window: arguments.duration.clamp(MIN_WINDOW, MAX_WINDOW),
        interval: None,
        max_overhead: arguments.bounds.max_overhead.0,
        max_bytes_per_second: arguments.bounds.max_bytes_per_second,
        engines: false,
        // While files can still be opened.
        prices: prices::load(arguments.prices.as_deref())?,
    };
    // Nothing else is asked after, so nothing else is looked at.
    let sources = Sources { nvml_library: None, no_engines: true, prices: None };
    let session = live::Session::begin(&sources)?;
    let (sender, updates) = std::sync::mpsc::channel();
    let control = session.start(options, move |update| {
        // After the last look nobody listens.
        let _ = sender.send(update);
    })?;
    let snapshot = one(&updates, control.as_ref(), &groups, arguments.duration)?;
    if !in_place(&snapshot, &groups) || super::is_blind(&snapshot, &groups) {
        bail!("nothing can be seen: {}", super::why_blind(&snapshot));
    }
    let verdicts = verdicts(&snapshot, arguments);
    print(&told(&verdicts))?;
    let any = |wanted: fn(&Verdict) -> bool| verdicts.iter().any(wanted);
    Ok(match () {
        () if any(|verdict| verdict.holds == Some(true)) => ExitCode::from(HOLDS),
        () if any(|verdict| verdict.holds.is_none()) || verdicts.is_empty() => ExitCode::from(UNKNOWN),
        () => ExitCode::SUCCESS,
    })
}

/// What has come of one condition for one set of exchanges.
#[derive(Debug, PartialEq)]
struct Verdict {
    condition: String,
    /// Whose exchanges; empty for all.
    subject: String,
    /// The value, for people.
    value: String,
    /// `None` where the value is not known.
    holds: Option<bool>,
}

fn verdicts(snapshot: &Snapshot, arguments: &CheckArgs) -> Vec<Verdict> {
    let subjects = subjects(snapshot, arguments);
    let judge = |condition: &Condition| {
        let judged = subjects.iter().map(|(subject, stats)| {
            let found = stats.and_then(|stats| value(stats, condition.measure));
            Verdict {
                condition: condition.to_string(),
                subject: subject.clone(),
                value: found.map_or_else(
                    || "unknown: nothing was measured".to_owned(),
                    |(value, count)| match count {
                        Some(count) => format!("{} of {count}", condition.measure.shown(value)),
                        None => condition.measure.shown(value),
                    },
                ),
                holds: found.map(|(value, _)| condition.holds(value)),
            }
        });
        judged.collect::<Vec<_>>()
    };
    arguments.conditions.iter().flat_map(judge).collect()
}

/// The exchanges that are looked at, and what they are called.
fn subjects<'a>(snapshot: &'a Snapshot, arguments: &CheckArgs) -> Vec<(String, Option<&'a LlmStats>)> {
    if let Some(pid) = arguments.pid {
        let process = snapshot.processes.iter().find(|process| process.pid == pid);
        let ends = process.map(|process| [("client", &process.as_client), ("server", &process.as_server)]);
        let ends = ends.into_iter().flatten().filter_map(|(end, stats)| Some((end, stats.as_ref()?)));
        let subjects: Vec<_> = ends.map(|(end, stats)| (format!("process {pid} as {end}"), Some(stats))).collect();
        return if subjects.is_empty() { vec![(format!("process {pid}"), None)] } else { subjects };
    }
    let Some(wanted) = &arguments.model else { return vec![(String::new(), Some(&snapshot.totals))] };
    let is_wanted = |name: &str| name.to_ascii_lowercase().contains(&wanted.to_ascii_lowercase());
    let named = snapshot.models.iter().filter_map(|model| Some((model.model.as_ref()?.as_str(), model)));
    let models = named.filter(|(name, _)| is_wanted(name));
    let subjects: Vec<_> =
        models.map(|(name, model)| (format!("{name} of {}", model.provider), Some(&model.stats))).collect();
    if subjects.is_empty() { vec![(wanted.clone(), None)] } else { subjects }
}

/// The value of a measure, and of how many it is where that says how far it goes.
fn value(stats: &LlmStats, measure: Measure) -> Option<(f64, Option<u64>)> {
    let all = &stats.latency.since_start;
    let ended = stats.completed_total + stats.failed_total + stats.abandoned_total;
    let count = |count: u64| Some((count as f64, None));
    match measure {
        Measure::Time(time, statistic) => {
            let found = match time {
                Time::FirstToken => &all.time_to_first_token_seconds,
                Time::InterToken => &all.inter_token_seconds,
                Time::Duration => &all.duration_seconds,
            };
            found.as_ref().map(|found| (statistic_of(found, statistic), Some(found.count)))
        }
        Measure::ErrorPercent => (ended > 0).then(|| (100.0 * stats.failed_total as f64 / ended as f64, Some(ended))),
        Measure::Requests => count(stats.requests_total),
        Measure::Failed => count(stats.failed_total),
        Measure::Abandoned => count(stats.abandoned_total),
        Measure::RateLimited => count(stats.rate_limited_total),
        Measure::Stalls => count(stats.stalls_total),
        Measure::InFlight => stats.requests_in_flight.map(|running| (running as f64, None)),
        Measure::OutputRate => stats.tokens_per_second.output.map(|rate| (rate, None)),
        Measure::CostPerHour => stats.cost_usd_per_hour.map(|cost| (cost, None)),
    }
}

fn statistic_of(found: &Distribution, statistic: Statistic) -> f64 {
    match statistic {
        Statistic::Mean => found.mean,
        Statistic::P50 => found.p50,
        Statistic::P90 => found.p90,
        Statistic::P95 => found.p95,
        Statistic::P99 => found.p99,
        Statistic::Max => found.max,
    }
}

/// A line for each.
fn told(verdicts: &[Verdict]) -> String {
    let width = verdicts.iter().map(|verdict| verdict.condition.width()).max().unwrap_or(0);
    let line = |verdict: &Verdict| {
        let word = match verdict.holds {
            Some(true) => "HOLDS",
            Some(false) => "ok",
            None => "?",
        };
        let subject = if verdict.subject.is_empty() { String::new() } else { format!("  {}", verdict.subject) };
        format!("{word:<5}  {:<width$}  {}{subject}\n", verdict.condition, verdict.value)
    };
    verdicts.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::{Cli, Command};
    use crate::fixture;

    fn judged(options: &[&str]) -> (String, Vec<Option<bool>>) {
        let arguments = match Cli::try_parse_from(["hbpf", "check"].iter().chain(options)).unwrap().command {
            Some(Command::Check(arguments)) => arguments,
            other => panic!("{other:?}"),
        };
        let verdicts = verdicts(&fixture::rich(), &arguments);
        (told(&verdicts), verdicts.iter().map(|verdict| verdict.holds).collect())
    }

    #[test]
    fn values_are_those_of_the_snapshot() {
        let snapshot = fixture::rich();
        let slowest = snapshot.totals.latency.since_start.time_to_first_token_seconds.unwrap().p99;
        let (below, above) = (format!("ttft_p99>{}", slowest * 0.99), format!("ttft_p99>{}", slowest * 1.01));
        assert_eq!(judged(&[&below, &above]).1, [Some(true), Some(false)]);
        let requests = snapshot.totals.requests_total;
        let exactly =
            [format!("requests>={requests}"), format!("requests<={requests}"), format!("requests>{requests}")];
        assert_eq!(judged(&exactly.each_ref().map(String::as_str)).1, [Some(true), Some(true), Some(false)]);
        assert_eq!(judged(&["cost_per_hour>0"]).1.len(), 1);
    }

    #[test]
    fn lines_say_what_was_found() {
        let options = ["ttft_p99>2s", "itl_mean>1ms", "errors>1%", "in_flight>1000", "tokens_per_second<1"];
        let text = [&options[..], &[]].concat();
        insta::assert_snapshot!(
            [judged(&text).0, judged(&["errors>50%", "--model", "GPT"]).0, judged(&["failed>0", "--pid", "1291"]).0]
                .join("\n")
        );
        assert_eq!(judged(&["ttft_p50>1s", "--pid", "1"]).1, [None]);
        assert_eq!(judged(&["ttft_p50>1s", "--model", "no such"]).1, [None]);
    }
}
