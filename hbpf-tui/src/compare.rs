//! Two sets of exchanges beside each other.

use hbpf_core::snapshot::{Distribution, LlmStats};

use crate::change::Change;
use crate::format;
use crate::list::{Key, List, Row};
use crate::rows::{self, Span};
use crate::table::{Align, Cell, Column, Tone};

/// What two sets have in numbers: over the window, or since the start where they say so or the user has chosen that for times.
fn changes(both: [&LlmStats; 2], span: Span) -> Vec<Change> {
    let change = |measure, of: &dyn Fn(&LlmStats) -> Option<f64>, text| Change::new("", measure, both.map(of), text);
    let count = |measure, of: fn(&LlmStats) -> u64| change(measure, &|stats| Some(of(stats) as f64), whole);
    let time = |measure, distribution: fn(&LlmStats, Span) -> Option<&Distribution>, of: fn(&Distribution) -> f64| {
        change(measure, &|stats| distribution(stats, span).map(of), format::seconds)
    };
    let rate_is_estimate = both.map(|stats| stats.tokens_per_second.estimated_share.is_some_and(|share| share > 0.0));
    let cost_is_estimate = both.map(|stats| stats.cost_is_estimate);
    vec![
        time("first token p50", first_token, |times| times.p50),
        time("first token p99", first_token, |times| times.p99),
        time("inter-token p50", inter_token, |times| times.p50),
        time("inter-token p99", inter_token, |times| times.p99),
        time("request p50", duration, |times| times.p50),
        time("request p99", duration, |times| times.p99),
        change("requests/s", &|stats| stats.requests_per_second, format::rate),
        change("in flight", &|stats| stats.requests_in_flight.map(|count| count as f64), whole),
        change("tokens out/s", &|stats| stats.tokens_per_second.output, format::rate).estimated(rate_is_estimate),
        change("tokens in/s", &|stats| stats.tokens_per_second.input, format::rate),
        change("prompt tokens p50", &|stats| span.of(stats).input_tokens.as_ref().map(|all| all.p50), whole),
        change("$/h", &|stats| stats.cost_usd_per_hour, format::dollars).estimated(cost_is_estimate),
        count("since start: requests", |stats| stats.requests_total),
        change("since start: failed %", &failed_percent, format::percent),
        count("since start: refused", |stats| stats.rate_limited_total),
        count("since start: retries", |stats| stats.retries_total),
        count("since start: stalls", |stats| stats.stalls_total),
        change("since start: cached %", &|stats| rows::cached_share(stats).map(|share| share * 100.0), format::percent),
        change("since start: $ per 1000", &cost_of_requests, format::dollars).estimated(cost_is_estimate),
    ]
}

fn whole(count: f64) -> String {
    format::count(count.round().max(0.0) as u64)
}

fn first_token(stats: &LlmStats, span: Span) -> Option<&Distribution> {
    rows::first_token(span.of(stats))
}

fn inter_token(stats: &LlmStats, span: Span) -> Option<&Distribution> {
    rows::inter_token(span.of(stats))
}

fn duration(stats: &LlmStats, span: Span) -> Option<&Distribution> {
    rows::duration(span.of(stats))
}

fn ended(stats: &LlmStats) -> u64 {
    stats.completed_total.saturating_add(stats.failed_total).saturating_add(stats.abandoned_total)
}

fn failed_percent(stats: &LlmStats) -> Option<f64> {
    let ended = ended(stats);
    (ended > 0).then(|| 100.0 * stats.failed_total as f64 / ended as f64)
}

/// Those that ended and have a price.
fn cost_of_requests(stats: &LlmStats) -> Option<f64> {
    let priced = ended(stats).saturating_sub(stats.cost_unknown_requests);
    stats.cost_usd.filter(|_| priced > 0).map(|cost| 1000.0 * cost / priced as f64)
}

/// The comparison, in a row for each number.
pub(crate) fn list(both: Option<[&LlmStats; 2]>, span: Span) -> List {
    let columns = vec![
        Column::flexible("MEASURE", 14, 26, 100),
        Column::fixed("A", Align::Right, 10, 99),
        Column::fixed("B", Align::Right, 10, 98),
        Column::fixed("B TO A", Align::Right, 8, 97),
    ];
    let row = |change: Change| {
        let name = Cell::new(change.measure, Tone::Plain);
        let cells = std::iter::once(name).chain(change.cells()).collect();
        Row::new(Key::Row(change.measure.to_owned()), cells)
    };
    List { columns, rows: both.into_iter().flat_map(|both| changes(both, span)).map(row).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;
    use crate::table::Rank;

    #[test]
    fn what_is_not_known_of_either_is_not_compared() {
        let a = fixture::rich().totals;
        let mut b = a.clone();
        b.requests_per_second = a.requests_per_second.map(|rate| rate * 3.0);
        b.cost_usd_per_hour = None;
        let list = list(Some([&a, &b]), Span::Window);
        let row = |measure: &str| {
            let row = list.rows.iter().find(|row| row.cells[0].text == measure).expect("such a row");
            row.cells.iter().map(|cell| cell.text.as_str()).collect::<Vec<_>>()
        };
        assert_eq!(row("requests/s")[3], "x3.0");
        assert_eq!(row("since start: requests")[3], "same");
        assert_eq!(row("$/h")[2..], ["-", "-"]);
        let change = list.rows.iter().find(|row| row.cells[0].text == "requests/s").expect("such a row").cells[3].rank;
        assert_eq!(change, Rank::Number(Some(3.0)), "what is exported, and picked by");
        assert!(super::list(None, Span::Window).rows.is_empty());
    }
}
