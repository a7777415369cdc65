//! Whatever happens in whatever order, tables and totals agree and nothing decreases.

use proptest::prelude::*;

use super::*;

/// One thing that happens to one exchange. What makes no sense at that point is left out.
#[derive(Clone, Debug)]
enum Step {
    Open { id: u64, pid: u32, port: u16, told: bool, mirror: bool },
    Sent { id: u64, model: u8 },
    Headers { id: u64, status: u16 },
    Output { id: u64, tokens: u64 },
    End { id: u64, phase: Phase, input: Option<u64>, output: Option<u64> },
    Exit { pid: u32 },
}

fn step() -> impl Strategy<Value = Step> {
    let id = || 0u64..6;
    let phase = prop_oneof![Just(Phase::Done), Just(Phase::Failed), Just(Phase::Abandoned)];
    let usage = || prop::option::of(0u64..50);
    prop_oneof![
        3 => (id(), 1u32..4, 1u16..3, any::<bool>(), any::<bool>())
            .prop_map(|(id, pid, port, told, mirror)| Step::Open { id, pid, port, told, mirror }),
        3 => (id(), 0u8..3).prop_map(|(id, model)| Step::Sent { id, model }),
        3 => (id(), 200u16..203).prop_map(|(id, status)| Step::Headers { id, status }),
        9 => (id(), 1u64..4).prop_map(|(id, tokens)| Step::Output { id, tokens }),
        3 => (id(), phase, usage(), usage())
            .prop_map(|(id, phase, input, output)| Step::End { id, phase, input, output }),
        1 => (1u32..4).prop_map(|pid| Step::Exit { pid }),
    ]
}

/// Exchanges that ran take the ids 0 to 5 in turns: the aggregator must see a new id each time.
#[derive(Default)]
struct Ids {
    current: BTreeMap<u64, u64>,
    next: u64,
}

/// What the totals must come to, kept in the plainest way.
#[derive(Default)]
struct Expected {
    requests: u64,
    ended: u64,
    input: Option<u64>,
    output: Option<u64>,
    estimated: u64,
}

fn plus(sum: &mut Option<u64>, value: Option<u64>) {
    if let Some(value) = value {
        *sum = Some(sum.unwrap_or(0) + value);
    }
}

fn apply(bench: &mut Bench, ids: &mut Ids, expected: &mut Expected, seconds: f64, step: &Step) {
    let current = |id: &u64| ids.current.get(id).copied();
    match step {
        Step::Open { id, pid, port, told, mirror } if current(id).is_none() => {
            ids.next += 1;
            ids.current.insert(*id, ids.next);
            expected.requests += u64::from(!mirror);
            bench.open(seconds, ids.next, |exchange| {
                exchange.pid = Some(Pid(*pid));
                exchange.endpoint.port = Some(*port);
                exchange.provider = if *told { "openai" } else { "unknown" }.into();
                exchange.is_mirror = *mirror;
                exchange.role = if *mirror { Role::Server } else { Role::Client };
            });
        }
        Step::Sent { id, model } => {
            if let Some(id) = current(id).filter(|id| bench.live[id].phase == Phase::Sending) {
                bench.sent(seconds, id, &format!("m{model}"));
            }
        }
        Step::Headers { id, status } => {
            if let Some(id) = current(id).filter(|id| bench.live[id].headers_at.is_none()) {
                bench.live.get_mut(&id).unwrap().provider = "vllm".into();
                bench.headers(seconds, id, *status);
            }
        }
        Step::Output { id, tokens } => {
            if let Some(id) = current(id) {
                bench.output(seconds, id, *tokens);
            }
        }
        Step::End { id, phase, input, output } => {
            let Some(id) = ids.current.remove(id) else { return };
            let exchange = &bench.live[&id];
            if !exchange.is_mirror {
                let estimate = Some(exchange.estimated_output).filter(|tokens| output.is_none() && *tokens > 0);
                expected.ended += 1;
                plus(&mut expected.input, *input);
                plus(&mut expected.output, output.or(estimate));
                expected.estimated += estimate.unwrap_or(0);
            }
            bench.end(seconds, id, *phase, |exchange| {
                (exchange.usage.input, exchange.usage.output) = (*input, *output);
            });
        }
        Step::Exit { pid } => bench.aggregator.process_exited(Pid(*pid), at(seconds)),
        Step::Open { .. } => {}
    }
}

/// All that must never decrease.
fn counters(stats: &LlmStats) -> Vec<u64> {
    let TokenTotals { input, output, cached_input, cache_creation_input, reasoning } = &stats.tokens;
    let maps = stats.status.values().chain(stats.error_types.values()).sum();
    let mut counters = vec![
        stats.requests_total,
        stats.completed_total,
        stats.failed_total,
        stats.abandoned_total,
        stats.retries_total,
        stats.stalls_total,
        stats.rate_limited_total,
        stats.requests_without_usage,
        stats.tokens_estimated.output,
        maps,
    ];
    // Known is more than unknown.
    let tokens = [input, output, cached_input, cache_creation_input, reasoning];
    counters.extend(tokens.map(|count| count.map_or(0, |count| count + 1)));
    let latency = &stats.latency.since_start;
    counters
        .extend([&latency.duration_seconds, &latency.inter_token_seconds].map(|d| d.as_ref().map_or(0, |d| d.count)));
    counters
}

/// The counters of every row, by a name for it.
fn all_counters(frame: &Snapshot) -> BTreeMap<String, Vec<u64>> {
    let mut rows = BTreeMap::from([("totals".to_owned(), counters(&frame.totals))]);
    for row in &frame.models {
        rows.insert(format!("{} {:?}", row.provider, row.model), counters(&row.stats));
    }
    for row in &frame.endpoints {
        rows.insert(format!("port {:?}", row.port), counters(&row.stats));
    }
    for row in frame.processes.iter().filter(|row| !row.exited) {
        let sides = [("client", &row.as_client), ("server", &row.as_server)];
        for (side, stats) in sides.into_iter().filter_map(|(side, stats)| Some((side, stats.as_ref()?))) {
            rows.insert(format!("{side} {}", row.pid), counters(stats));
        }
    }
    rows
}

fn sum<'a>(rows: impl Iterator<Item = &'a LlmStats> + Clone) -> (u64, u64, u64, Option<u64>, Option<u64>, u64, f64) {
    let mut tokens = TokenTotals::default();
    for row in rows.clone() {
        plus(&mut tokens.input, row.tokens.input);
        plus(&mut tokens.output, row.tokens.output);
    }
    let of = |value: fn(&LlmStats) -> u64| rows.clone().map(value).sum::<u64>();
    (
        of(|row| row.requests_total),
        of(|row| row.requests_in_flight.expect("probes are in place")),
        of(|row| row.completed_total + row.failed_total + row.abandoned_total),
        tokens.input,
        tokens.output,
        of(|row| row.tokens_in_progress.output.expect("probes are in place")),
        rows.clone().filter_map(|row| row.tokens_per_second.output).sum(),
    )
}

fn check(frame: &Snapshot, bench: &Bench, expected: &Expected) -> Result<(), TestCaseError> {
    let totals = &frame.totals;
    let running = || bench.live.values().filter(|exchange| !exchange.is_mirror);
    prop_assert_eq!(totals.requests_total, expected.requests);
    prop_assert_eq!(totals.requests_in_flight, Some(running().count() as u64));
    prop_assert_eq!(totals.completed_total + totals.failed_total + totals.abandoned_total, expected.ended);
    prop_assert_eq!(totals.status.values().sum::<u64>(), expected.ended);
    prop_assert_eq!((totals.tokens.input, totals.tokens.output), (expected.input, expected.output));
    prop_assert_eq!(totals.tokens_estimated.output, expected.estimated);

    let models = sum(frame.models.iter().map(|row| &row.stats));
    let endpoints = sum(frame.endpoints.iter().map(|row| &row.stats));
    let all = sum(std::iter::once(totals));
    for (table, sums) in [("models", models), ("endpoints", endpoints)] {
        // Only what has not been sent, or not been answered, may be missing from a table.
        let untold = all.0 - sums.0;
        let early = running().filter(|exchange| exchange.headers_at.is_none() && exchange.output_events == 0).count();
        prop_assert!(untold <= early as u64, "{}: {} of {}", table, untold, early);
        prop_assert_eq!(all.1 - sums.1, untold, "{}", table);
        prop_assert_eq!((all.2, all.3, all.4, all.5), (sums.2, sums.3, sums.4, sums.5), "{}", table);
        prop_assert!((all.6 - sums.6).abs() < 1e-6, "{}: {} and {} tokens/s", table, all.6, sums.6);
    }
    let rates = [totals.tokens_per_second.output, totals.tokens_per_second.input, totals.requests_per_second];
    for rate in rates.into_iter().flatten() {
        prop_assert!(rate >= 0.0 && rate.is_finite(), "{}", rate);
    }
    let share = totals.tokens_per_second.estimated_share;
    prop_assert!(share.is_none_or(|share| (0.0..=1.0).contains(&share)), "{:?}", share);
    Ok(())
}

proptest! {
    // Each case takes a frame after every step.
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn tables_agree_and_nothing_decreases(steps in prop::collection::vec((step(), 0u32..400), 1..150)) {
        let mut bench = Bench::new();
        let (mut ids, mut expected, mut seconds) = (Ids::default(), Expected::default(), 0.0);
        let mut before: BTreeMap<String, Vec<u64>> = BTreeMap::new();
        for (number, (step, pause)) in steps.iter().enumerate() {
            seconds += f64::from(*pause) / 1000.0;
            apply(&mut bench, &mut ids, &mut expected, seconds, step);
            let frame = bench.frame(seconds);
            check(&frame, &bench, &expected)?;
            bench.facts.processes = frame.processes.iter().filter(|row| !row.exited).cloned().collect();
            for process in &mut bench.facts.processes {
                (process.as_client, process.as_server) = (None, None);
                process.visibility.bytes_missed = 0;
            }
            let after = all_counters(&frame);
            for (row, counters) in &before {
                // An exit ends a row's time as the one that runs under its pid.
                if matches!(step, Step::Exit { .. }) && (row.starts_with("client") || row.starts_with("server")) {
                    continue;
                }
                let Some(now) = after.get(row) else { continue };
                let decreased = std::iter::zip(now, counters).any(|(now, before)| now < before);
                prop_assert!(!decreased, "step {}: {} went from {:?} to {:?}", number, row, counters, now);
            }
            before = after;
        }
        // What flowed in and stays in flight is all that remains once everything has ended.
        for id in ids.current.into_values() {
            bench.end(seconds, id, Phase::Abandoned, |_| {});
        }
        let frame = bench.frame(seconds + 30.0);
        prop_assert_eq!(frame.totals.requests_in_flight, Some(0));
        prop_assert_eq!(frame.totals.tokens_per_second.output, Some(0.0));
        let models: u64 = frame.models.iter().map(|row| row.stats.requests_total).sum();
        prop_assert_eq!(models, frame.totals.requests_total);
    }
}
