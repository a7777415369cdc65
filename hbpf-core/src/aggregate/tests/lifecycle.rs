//! Single exchanges and what each step of theirs adds.

use super::*;
use crate::snapshot::Request;

fn close_to(value: Option<f64>, expected: f64) -> bool {
    value.is_some_and(|value| (value - expected).abs() <= expected.abs() * 0.02)
}

#[test]
fn a_long_stream_shows_its_rate_while_it_runs_and_its_true_count_when_it_ends() {
    let mut bench = Bench::new();
    bench.open(0.0, 1, |_| {});
    bench.sent(0.1, 1, "m");
    bench.headers(0.2, 1, 200);
    for event in 0..3000 {
        bench.output(0.5 + f64::from(event) * 0.02, 1, 1);
        if event % 500 == 499 {
            let frame = bench.frame(0.5 + f64::from(event) * 0.02 + 0.01);
            let process = frame.processes[0].as_client.as_ref().unwrap();
            for stats in [&frame.totals, &frame.models[0].stats, &frame.endpoints[0].stats, process] {
                assert!(close_to(stats.tokens_per_second.output, 50.0), "{:?}", stats.tokens_per_second);
                assert_eq!(stats.tokens_per_second.estimated_share, Some(1.0));
                assert_eq!(stats.tokens_in_progress.output, Some(u64::from(event as u32) + 1));
                assert_eq!(stats.tokens, TokenTotals::default(), "a live estimate is no total");
            }
        }
    }
    // Each event had two tokens: the rate of the window is set right, and no token of before the window comes into it.
    bench.done(60.5, 1, 7, 6000);
    let totals = bench.frame(60.5).totals;
    assert!(close_to(totals.tokens_per_second.output, 100.0), "{:?}", totals.tokens_per_second);
    assert_eq!(totals.tokens_per_second.estimated_share, Some(0.0));
    assert_eq!(totals.tokens_per_second.input, Some(7.0 / 5.0));
    assert_eq!((totals.tokens.input, totals.tokens.output), (Some(7), Some(6000)));
    assert_eq!((totals.tokens_in_progress.output, totals.tokens_estimated.output), (Some(0), 0));
    assert_eq!(bench.frame(66.0).totals.tokens_per_second.output, Some(0.0));
}

#[test]
fn rates_are_unknown_until_something_was_observed_and_then_over_what_was() {
    let mut bench = Bench::new();
    bench.open(0.1, 1, |_| {});
    let totals = bench.frame(0.4).totals;
    assert_eq!((totals.requests_per_second, totals.tokens_per_second), (None, TokenRates::default()));
    assert_eq!(bench.frame(1.0).totals.requests_per_second, Some(1.0));
    assert_eq!(bench.frame(2.0).totals.requests_per_second, Some(0.5));
    assert_eq!(bench.frame(4.9).totals.tokens_per_second.estimated_share, None);
    assert_eq!(bench.frame(6.0).totals.requests_per_second, Some(0.0));
}

#[test]
fn what_nobody_watches_is_unknown_and_rates_begin_anew_with_the_probes() {
    let mut bench = Bench::new();
    for (id, seconds) in [(1, 0.5), (2, 1.0)] {
        bench.open(seconds, id, |_| {});
    }
    assert_eq!(bench.frame(2.0).totals.requests_in_flight, Some(2));
    bench.facts.watching_since = None;
    let totals = bench.frame(10.0).totals;
    assert_eq!((totals.requests_in_flight, totals.requests_per_second), (None, None));
    assert_eq!(totals.tokens_in_progress.output, None);
    assert_eq!((totals.tokens_per_second, totals.requests_total), (TokenRates::default(), 2), "totals stay");
    bench.facts.watching_since = Some(at(20.0));
    assert_eq!(bench.frame(20.1).totals.requests_per_second, None);
    bench.open(21.0, 3, |_| {});
    let totals = bench.frame(22.0).totals;
    assert_eq!((totals.requests_in_flight, totals.requests_per_second), (Some(3), Some(0.5)));
    assert_eq!(totals.tokens_in_progress.output, Some(0));
    // Out and in again within the window: what came before is of another time.
    bench.facts.watching_since = Some(at(23.0));
    assert_eq!(bench.frame(24.0).totals.requests_per_second, Some(0.0));
}

#[test]
fn of_what_was_only_seen_where_there_are_no_probes_now_nothing_is_known() {
    let mut bench = Bench::new();
    for (id, tls) in [(1, false), (2, true)] {
        bench.open(0.5, id, |exchange| (exchange.tls, exchange.pid) = (tls, Some(Pid(id as u32))));
    }
    bench.facts.unwatched.plain = true;
    let frame = bench.frame(2.0);
    let in_flight = |pid| {
        let process = frame.processes.iter().find(|process| process.pid == pid).unwrap();
        let stats = process.as_client.as_ref().unwrap();
        (stats.requests_in_flight, stats.requests_per_second)
    };
    assert_eq!([in_flight(1), in_flight(2)], [(None, None), (Some(1), Some(0.5))]);
    assert_eq!(frame.totals.requests_in_flight, Some(2), "some of it is watched");
    bench.facts.unwatched.tls = true;
    assert_eq!(bench.frame(2.0).totals.requests_in_flight, None);
    bench.facts.unwatched = Unwatched::default();
    assert_eq!(bench.frame(2.0).totals.requests_in_flight, Some(2));
}

#[test]
fn an_answer_in_one_piece_counts_when_it_ends() {
    let mut bench = Bench::new();
    bench.call(6.0, 1, "m", |_| {});
    let totals = bench.frame(8.0).totals;
    assert_eq!(
        totals.tokens_per_second,
        TokenRates { input: Some(2.0), output: Some(4.0), estimated_share: Some(0.0) }
    );
    assert_eq!(totals.latency.since_start.output_tokens_per_second, None, "nothing flowed");
}

#[test]
fn what_was_never_reported_is_estimated_once_it_is_final() {
    let mut bench = Bench::new();
    bench.open(1.0, 1, |_| {});
    bench.sent(1.0, 1, "m");
    bench.output(2.0, 1, 3);
    bench.output(2.5, 1, 4);
    bench.end(3.0, 1, Phase::Abandoned, |exchange| exchange.error_type = Some("client_cancelled".into()));
    bench.open(3.0, 2, |_| {});
    bench.end(3.1, 2, Phase::Failed, |_| {});
    let totals = bench.frame(4.0).totals;
    assert_eq!((totals.tokens.input, totals.tokens.output, totals.tokens_estimated.output), (None, Some(7), 7));
    assert_eq!((totals.completed_total, totals.failed_total, totals.abandoned_total), (0, 1, 1));
    assert_eq!((totals.requests_without_usage, totals.cost_unknown_requests), (2, 2));
    assert_eq!(totals.status, BTreeMap::from([("none".into(), 2)]));
    assert_eq!(totals.error_types, BTreeMap::from([("client_cancelled".into(), 1), ("unknown".into(), 1)]));
    assert_eq!(totals.tokens_per_second.estimated_share, Some(1.0));
    assert_eq!(totals.tokens_per_second.output, Some(7.0 / 4.0), "counted once, as it flowed");
}

#[test]
fn what_exchanges_cost_adds_up_and_refusals_alone_are_no_sum() {
    let mut bench = Bench::new();
    let costs = |stats: &LlmStats| (stats.cost_usd, stats.cost_is_estimate, stats.cost_unknown_requests);
    let refused = |bench: &mut Bench, seconds: f64, id: u64, model: &str| {
        bench.open(seconds, id, |_| {});
        bench.sent(seconds, id, model);
        bench.headers(seconds, id, 429);
        bench.end(seconds, id, Phase::Failed, |_| {});
    };
    refused(&mut bench, 1.0, 1, "gpt-4o");
    assert_eq!(costs(&bench.frame(2.0).totals), (Some(0.0), false, 0));
    bench.call(2.0, 2, "nobody's", |_| {});
    let totals = bench.frame(4.0).totals;
    assert_eq!((costs(&totals), totals.cost_usd_per_hour), ((None, false, 1), None), "which is not nothing");
    // 10 * 2.5 + 20 * 10 of a million.
    bench.call(4.0, 3, "gpt-4o", |_| {});
    bench.call(4.5, 4, "gpt-4o", |exchange| exchange.cost_reported_usd = Some(1.0));
    let totals = bench.frame(6.0).totals;
    assert_eq!(costs(&totals), (Some(1.000_225), true, 1));
    let per_hour = totals.cost_usd_per_hour.unwrap();
    assert!((per_hour - 1.000_225 / 5.0 * 3600.0).abs() < 1e-6, "{per_hour}");
    // What was not waited for has cost what had come of it: 10 * 2.5 + 4 * 10.
    bench.open(6.0, 5, |_| {});
    bench.sent(6.0, 5, "gpt-4o");
    bench.output(6.2, 5, 4);
    bench.end(6.3, 5, Phase::Abandoned, |exchange| exchange.usage.input = Some(10));
    let told = bench.frame(6.5).requests.recent;
    let told: Vec<_> = told.iter().map(|request| (request.cost_usd, request.cost_is_estimate)).collect();
    assert_eq!(
        told,
        [(Some(0.000_065), true), (Some(1.0), false), (Some(0.000_225), true), (None, false), (Some(0.0), false)]
    );
}

#[test]
fn statuses_retries_stalls_and_cached_tokens_add_up() {
    let mut bench = Bench::new();
    bench.call(0.0, 1, "m", |_| {});
    bench.open(1.0, 2, |exchange| exchange.attempt = Some(0));
    bench.sent(1.0, 2, "m");
    bench.headers(1.5, 2, 429);
    bench.end(1.5, 2, Phase::Failed, |exchange| exchange.error_type = Some("rate_limit_error".into()));
    bench.open(2.0, 3, |exchange| exchange.attempt = Some(1));
    bench.sent(2.0, 3, "m");
    bench.headers(2.5, 3, 200);
    bench.output(3.0, 3, 1);
    bench.output(6.0, 3, 1);
    assert_eq!(bench.frame(6.0).totals.stalls_total, 1, "a stall counts when it is seen");
    bench.end(6.5, 3, Phase::Done, |exchange| {
        exchange.usage =
            Usage { input: Some(5), output: Some(2), cached_input: Some(3), reasoning: Some(1), ..Usage::default() };
    });
    let totals = bench.frame(7.0).totals;
    assert_eq!(totals.status, BTreeMap::from([("200".into(), 2), ("429".into(), 1)]));
    assert_eq!(totals.error_types, BTreeMap::from([("rate_limit_error".into(), 1)]));
    assert_eq!((totals.retries_total, totals.stalls_total, totals.requests_without_usage), (1, 1, 1));
    assert_eq!(
        totals.tokens,
        TokenTotals {
            input: Some(15),
            output: Some(22),
            cached_input: Some(3),
            cache_creation_input: None,
            reasoning: Some(1)
        }
    );
}

#[test]
fn both_ends_on_one_host_count_once_except_in_their_own_rows() {
    let mut bench = Bench::new();
    bench.call(0.0, 1, "m", |_| {});
    bench.call(0.0, 2, "m", |exchange| {
        exchange.pid = Some(Pid(200));
        exchange.role = Role::Server;
        exchange.is_mirror = true;
        exchange.other_end = Some(ExchangeId(1));
    });
    bench.open(1.2, 4, |_| {});
    bench.open(1.5, 3, |exchange| {
        exchange.is_mirror = true;
        exchange.other_end = Some(ExchangeId(4));
    });
    bench.open(1.6, 5, |_| {});
    let frame = bench.frame(2.0);
    let hops = |rows: &[Request]| rows.iter().map(|row| (row.sequence, row.hop.is_some())).collect::<Vec<_>>();
    assert_eq!(hops(&frame.requests.recent), [(2, true), (1, true)], "the first had ended before the second came");
    assert_eq!(hops(&frame.requests.in_flight), [(4, true), (3, true), (5, false)]);
    assert_eq!((frame.totals.requests_total, frame.totals.requests_in_flight), (3, Some(2)));
    assert_eq!((frame.models.len(), frame.models[0].stats.requests_total), (1, 1));
    assert_eq!((frame.endpoints.len(), frame.endpoints[0].stats.requests_total), (1, 1));
    assert_eq!(frame.totals.latency.since_start.duration_seconds.unwrap().count, 1);
    let [client, server] = frame.processes.as_slice() else { panic!("{:?}", frame.processes) };
    assert_eq!((client.pid, server.pid), (100, 200));
    assert_eq!((client.as_client.as_ref().unwrap().requests_total, &client.as_server), (4, &None));
    let served = server.as_server.as_ref().unwrap();
    assert_eq!((served.requests_total, served.tokens.output, &server.as_client), (1, Some(20), &None));
    assert_eq!(frame.requests.recent.len(), 2, "rows keep their own view");
}

#[test]
fn a_model_counts_when_its_provider_is_known_for_good() {
    let mut bench = Bench::new();
    let names = |frame: &Snapshot| -> Vec<(String, u64)> {
        frame.models.iter().map(|row| (row.provider.to_string(), row.stats.requests_total)).collect()
    };
    bench.open(0.0, 1, |exchange| exchange.provider = "unknown".into());
    bench.sent(0.0, 1, "m");
    assert_eq!(names(&bench.frame(1.0)), []);
    bench.live.get_mut(&1).unwrap().provider = "vllm".into();
    bench.headers(1.0, 1, 200);
    assert_eq!(names(&bench.frame(1.0)), [("vllm".to_owned(), 1)]);
    // The endpoint is known from now on: the next one need not wait for its answer.
    bench.open(1.0, 2, |exchange| exchange.provider = "unknown".into());
    bench.sent(1.0, 2, "m");
    let frame = bench.frame(1.0);
    assert_eq!((names(&frame), frame.models[0].stats.requests_in_flight), (vec![("vllm".to_owned(), 2)], Some(2)));
    // Elsewhere nobody tells: then it is unknown.
    bench.open(1.0, 3, |exchange| {
        exchange.provider = "unknown".into();
        exchange.endpoint.port = Some(8000);
    });
    bench.sent(1.0, 3, "m");
    bench.end(2.0, 3, Phase::Failed, |_| {});
    assert_eq!(names(&bench.frame(2.0)), [("vllm".to_owned(), 2), ("unknown".to_owned(), 1)]);
}

#[test]
fn a_key_once_chosen_is_kept() {
    let mut bench = Bench::new();
    bench.open(0.0, 1, |exchange| exchange.pid = None);
    bench.live.get_mut(&1).unwrap().pid = Some(Pid(5));
    bench.sent(0.0, 1, "m");
    let exchange = bench.live.get_mut(&1).unwrap();
    (exchange.provider, exchange.endpoint.port) = ("azure.ai.openai".into(), None);
    (exchange.model, exchange.pid) = (Some("n".into()), Some(Pid(6)));
    bench.headers(1.0, 1, 200);
    bench.done(1.0, 1, 1, 1);
    let frame = bench.frame(2.0);
    assert_eq!((frame.models.len(), frame.endpoints.len(), frame.processes.len()), (1, 1, 1));
    assert_eq!((frame.models[0].provider.as_str(), frame.processes[0].pid), ("openai", 5));
    assert_eq!(frame.models[0].stats.completed_total, 1);
}

#[test]
fn events_outside_an_exchange_are_left_out() {
    let mut bench = Bench::new();
    bench.open(0.0, 1, |_| {});
    bench.open(0.0, 1, |_| {});
    bench.done(1.0, 1, 1, 1);
    let mut late = exchange(1);
    late.phase = Phase::Done;
    bench.aggregator.observe(at(1.0), &late, ExchangeEvent::Ended);
    bench.aggregator.observe(at(1.0), &late, ExchangeEvent::Output { tokens: 5, gap_seconds: None });
    let totals = bench.frame(2.0).totals;
    assert_eq!((totals.requests_total, totals.completed_total, totals.tokens.output), (1, 1, Some(1)));
}

#[test]
fn latencies_are_recorded_when_they_become_known() {
    let mut bench = Bench::new();
    bench.open(0.0, 1, |_| {});
    bench.sent(0.5, 1, "m");
    bench.headers(0.75, 1, 200);
    bench.output(1.0, 1, 1);
    let latency = bench.frame(1.0).totals.latency.window;
    let first = |distribution: &Option<snapshot::Distribution>| distribution.as_ref().map(|d| (d.count, d.p50));
    assert_eq!(first(&latency.time_to_headers_seconds), Some((1, 0.25)));
    assert_eq!(first(&latency.time_to_first_token_seconds), Some((1, 0.5)));
    assert_eq!(first(&latency.time_to_first_visible_token_seconds), Some((1, 0.5)));
    assert_eq!((latency.inter_token_seconds, latency.duration_seconds), (None, None));
    // Four tokens in one event, half a second after the first, stand for four gaps.
    bench.output(1.5, 1, 4);
    bench.done(2.0, 1, 12, 9);
    let frame = bench.frame(2.0);
    let latency = frame.totals.latency.since_start.clone();
    assert_eq!(first(&latency.inter_token_seconds), Some((4, 0.125)));
    assert_eq!(first(&latency.duration_seconds), Some((1, 2.0)));
    assert_eq!(first(&latency.input_tokens), Some((1, 12.0)));
    assert_eq!(first(&latency.output_tokens_per_second), Some((1, 16.0)));
    assert_eq!(frame.totals.latency.window, latency, "all of it lies within the window");
    assert_eq!(frame.models[0].stats.latency.since_start, latency);
    assert_eq!(
        bench.frame(10.0).totals.latency,
        snapshot::LatencyPair { window: snapshot::Latency::default(), since_start: latency }
    );
}

#[test]
fn durations_without_an_answer_do_not_count() {
    for (status, phase, counts) in [
        (Some(200), Phase::Done, true),
        (Some(500), Phase::Failed, true),
        (Some(200), Phase::Abandoned, false),
        (None, Phase::Failed, false),
    ] {
        let mut bench = Bench::new();
        bench.open(0.0, 1, |exchange| {
            exchange.status = status;
            exchange.headers_at = status.map(|_| exchange.opened_at);
        });
        bench.end(1.0, 1, phase, |_| {});
        let duration = bench.frame(1.0).totals.latency.since_start.duration_seconds;
        assert_eq!(duration.is_some(), counts, "{status:?} {phase:?}");
    }
}

#[test]
fn quota_is_the_latest_word_of_an_endpoint() {
    let mut bench = Bench::new();
    let limited = |remaining| RateLimit { remaining_tokens: Some(remaining), ..RateLimit::default() };
    for (id, limit) in [(1, limited(900)), (2, limited(800)), (3, RateLimit::default())] {
        bench.open(id as f64, id, |_| {});
        bench.sent(id as f64, id, "m");
        bench.live.get_mut(&id).unwrap().rate_limit = limit;
        bench.headers(id as f64, id, 200);
    }
    let limit = bench.frame(4.0).endpoints[0].rate_limit.clone().unwrap();
    assert_eq!((limit.remaining_tokens, limit.remaining_requests, limit.model), (Some(800), None, Some("m".into())));
    assert_eq!(limit.observed_at.to_string(), "2026-11-22T12:00:02Z");
}

#[test]
fn a_quota_that_is_used_up_counts_wherever_it_is_told() {
    let mut bench = Bench::new();
    let cases = [
        (200, Phase::Failed, "ThrottlingException", true),
        (200, Phase::Failed, "RESOURCE_EXHAUSTED", true),
        (429, Phase::Failed, "ThrottlingException", true),
        (429, Phase::Failed, "429", true),
        (200, Phase::Failed, "overloaded_error", false),
        (503, Phase::Failed, "503", false),
        (200, Phase::Abandoned, "client_cancelled", false),
    ];
    for (id, (status, phase, error, _)) in cases.into_iter().enumerate() {
        let (id, seconds) = (id as u64, id as f64);
        bench.open(seconds, id, |_| {});
        bench.headers(seconds, id, status);
        bench.end(seconds, id, phase, |exchange| exchange.error_type = Some(error.into()));
    }
    let expected = cases.iter().filter(|(.., counts)| *counts).count();
    assert_eq!(bench.frame(9.0).totals.rate_limited_total, expected as u64);
}
