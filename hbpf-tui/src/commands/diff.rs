//! `hbpf diff`: what is different between two recordings, or before and after a time in one.

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use jiff::Timestamp;

use super::{open_recordings, print};
use crate::change::Change;
use crate::cli::DiffArgs;
use crate::format;
use crate::list::{Key, List, Row};
use crate::period::{self, Period, Times, Work};
use crate::recording::Timeline;
use crate::summary;
use crate::table::{self, Align, Cell, Column, Tone};
use crate::text;
use crate::when;

/// Fewer requests in both and a set's rates and times are accidents.
const MIN_REQUESTS: u64 = 5;

/// Sets of a kind that are compared.
const MAX_SETS: usize = 20;

pub(crate) fn run(arguments: &DiffArgs) -> Result<ExitCode> {
    let paths: Vec<&Path> = std::iter::once(&*arguments.before).chain(arguments.after.as_deref()).collect();
    let named = |file, path: &Path| period::read(file).with_context(|| path.display().to_string());
    let mut files = open_recordings(&paths)?.into_iter();
    let mut first = named(files.next().context("it is not open")?, &arguments.before)?;
    let second = files.next().zip(arguments.after.as_deref()).map(|(file, path)| named(file, path)).transpose()?;
    let (before, after) = match (second, &arguments.at) {
        (Some(mut second), None) => (Period::of(&mut first, None, None)?, Period::of(&mut second, None, None)?),
        (None, Some(at)) => {
            let at = moment(&first, at)?;
            let before = Period::of(&mut first, None, Some(at)).context("before that time")?;
            (before, Period::of(&mut first, Some(at), None).context("after that time")?)
        }
        _ => bail!("name a second recording, or with --at TIME where the one is to be cut in two"),
    };
    let changes = changes(&before, &after);
    let text = if arguments.json { json(&before, &after, &changes)? } else { plain(&before, &after, &changes) };
    print(&text)?;
    Ok(ExitCode::SUCCESS)
}

/// The comparison as text.
#[cfg(feature = "fuzzing")]
pub(crate) fn compare(before: &Period, after: &Period) -> String {
    plain(before, after, &changes(before, after))
}

/// A time of a recording as people write it.
pub(super) fn moment(timeline: &Timeline, text: &str) -> Result<Timestamp> {
    let range = timeline.range();
    let at = |number| timeline.sample(number).map(|sample| sample.at);
    let extent = at(range.start).zip(range.end.checked_sub(1).and_then(at)).context("there is no snapshot in it")?;
    when::moment(text, extent).map_err(anyhow::Error::msg)
}

/// All that is compared: of all exchanges in a fixed order, then of models and endpoints what has changed most first.
fn changes(before: &Period, after: &Period) -> Vec<Change> {
    let both = [before, after];
    let mut all = of_work("all", both.map(|period| (period, Some(&period.totals))));
    let of_all = |measure, of: &dyn Fn(&Period) -> Option<f64>, text| Change::new("all", measure, both.map(of), text);
    all.push(of_all("in flight", &|period| period.mean(|sample| sample.in_flight.map(|n| n as f64)), format::rate));
    all.push(of_all("cpu %", &|period| period.mean(|sample| sample.cpu_percent), format::percent));
    let gpus = after.last.gpus.iter().map(|gpu| gpu.index);
    for index in gpus {
        let of = format!("gpu {index}");
        all.push(Change::new(
            &of,
            "util %",
            both.map(|period| period.mean(|sample| sample.gpu(index))),
            format::percent,
        ));
    }
    all.sort_by(|one, other| other.size().total_cmp(&one.size()));
    let mut sets = Vec::new();
    for of in [|period: &Period| period.models.clone(), |period: &Period| period.endpoints.clone()] {
        let [old, new] = both.map(of);
        let names = new.iter().chain(&old).map(|(name, _)| name);
        let names: Vec<&String> = names.collect();
        let mut seen = std::collections::BTreeSet::new();
        for name in names.into_iter().filter(|name| seen.insert(*name)).take(MAX_SETS) {
            let find =
                |sets: &'_ [(String, Work)]| sets.iter().find(|(known, _)| known == name).map(|(_, work)| work.clone());
            let (old, new) = (find(&old), find(&new));
            let requests =
                old.as_ref().map_or(0, |work| work.requests).max(new.as_ref().map_or(0, |work| work.requests));
            if requests >= MIN_REQUESTS {
                sets.extend(of_work(name, [(before, old.as_ref()), (after, new.as_ref())]));
            }
        }
    }
    sets.retain(Change::is_change);
    sets.sort_by(|one, other| other.size().total_cmp(&one.size()));
    all.extend(sets);
    all
}

fn of_work(of: &str, both: [(&Period, Option<&Work>); 2]) -> Vec<Change> {
    let change = |measure, get: &dyn Fn(&Period, &Work) -> Option<f64>, text: fn(f64) -> String| {
        // A set that is not there had no requests, of which nothing else is known.
        let pair = both.map(|(period, work)| match work {
            // None is not the same as none seen.
            _ if !summary::sees_traffic(&period.last) => None,
            Some(work) => get(period, work),
            None => get(period, &Work::default()).filter(|value| *value == 0.0),
        });
        Change::new(of, measure, pair, text)
    };
    let rate = |period: &Period, count: u64| period.rate(Some(count));
    let time = |times: &Option<Times>, of: fn(&Times) -> f64| times.as_ref().map(of);
    let is_estimate = |of: fn(&Work) -> bool| both.map(|(_, work)| work.is_some_and(of));
    vec![
        change("requests/s", &|period, work| rate(period, work.requests), format::rate),
        change("failed %", &|_, work| work.failed_percent(), format::percent),
        change("refused/s", &|period, work| rate(period, work.rate_limited), format::rate),
        change("retries/s", &|period, work| rate(period, work.retries), format::rate),
        change("stalls/s", &|period, work| rate(period, work.stalls), format::rate),
        change("tokens out/s", &|period, work| period.rate(work.output), format::rate)
            .estimated(is_estimate(|work| work.output_is_estimate)),
        change("tokens in/s", &|period, work| period.rate(work.input), format::rate)
            .estimated(is_estimate(|work| work.input_is_estimate)),
        change("$/h", &|period, work| work.cost_usd.map(|cost| cost * 3600.0 / period.seconds()), format::dollars)
            .estimated(is_estimate(|work| work.cost_is_estimate)),
        change("first token p50", &|_, work| time(&work.first_token, |times| times.p50), format::seconds),
        change("first token p99", &|_, work| time(&work.first_token, |times| times.p99), format::seconds),
        change("inter-token p50", &|_, work| time(&work.inter_token, |times| times.p50), format::seconds),
        change("inter-token p99", &|_, work| time(&work.inter_token, |times| times.p99), format::seconds),
        change("request p50", &|_, work| time(&work.duration, |times| times.p50), format::seconds),
        change("request p99", &|_, work| time(&work.duration, |times| times.p99), format::seconds),
    ]
}

fn when(period: &Period) -> String {
    format!("{:.0} to {:.0}, {}", period.from, period.to, format::chosen_seconds(period.seconds().round()))
}

fn plain(before: &Period, after: &Period, changes: &[Change]) -> String {
    let columns = vec![
        Column::flexible("WHAT", 8, 60, 90),
        Column::flexible("MEASURE", 15, 15, 100),
        Column::fixed("BEFORE", Align::Right, 8, 99),
        Column::fixed("AFTER", Align::Right, 8, 98),
        Column::fixed("CHANGE", Align::Right, 7, 97),
    ];
    let row = |change: &Change| {
        let names = [change.of.as_str(), change.measure].map(|name| Cell::new(name, Tone::Plain));
        let cells = names.into_iter().chain(change.cells()).collect();
        Row::new(Key::Row(format!("{} {}", change.of, change.measure)), cells)
    };
    let list = List {
        columns,
        rows: changes.iter().filter(|change| change.before.or(change.after).is_some()).map(row).collect(),
    };
    let notes = [("before", before), ("after", after)];
    let mut lines: Vec<String> = notes.iter().map(|(name, period)| format!("{name:<7} {}", when(period))).collect();
    let anew = notes.iter().filter(|(_, period)| period.began_anew);
    lines.extend(anew.map(|(name, _)| format!("{name:<7} hbpf was started anew meanwhile: counts are since then")));
    lines.push(String::new());
    lines.extend(table::plain(&list, text::terminal_width()));
    lines.join("\n") + "\n"
}

fn json(before: &Period, after: &Period, changes: &[Change]) -> Result<String> {
    let period = |period: &Period| {
        serde_json::json!({
            "from": period.from,
            "to": period.to,
            "seconds": period.seconds(),
            "began_anew": period.began_anew,
        })
    };
    let all = serde_json::json!({ "before": period(before), "after": period(after), "changes": changes });
    Ok(serde_json::to_string_pretty(&all)? + "\n")
}
