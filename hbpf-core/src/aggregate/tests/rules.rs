//! Rules over snapshots in a row.

use jiff::{SignedDuration, Timestamp};

use super::*;
use crate::exchange::{Api, Protocol};
use crate::rules::Rules;
use crate::snapshot::{Distribution, EndpointStats, LlmStats, Model, Request, Severity};

fn at(seconds: f64) -> Snapshot {
    let captured_at = Timestamp::UNIX_EPOCH + SignedDuration::from_secs_f64(1e9 + seconds);
    Snapshot { observed_seconds: seconds, captured_at, ..Bench::new().frame(0.0) }
}

fn endpoint(completed: u64, failed: u64, refused: u64) -> EndpointStats {
    EndpointStats {
        host: Some("api.example.com".into()),
        address: None,
        port: Some(443),
        api: Api::Chat,
        tls: Some(true),
        protocol: Some(Protocol::Http1),
        stats: LlmStats {
            completed_total: completed,
            failed_total: failed,
            rate_limited_total: refused,
            ..LlmStats::default()
        },
        rate_limit: None,
    }
}

/// What is found in one snapshot after the other.
fn found(rules: &mut Rules, mut snapshot: Snapshot) -> Vec<String> {
    rules.look(&mut snapshot);
    snapshot.findings.iter().map(|finding| finding.id.to_string()).collect()
}

fn failing(rules: &mut Rules, seconds: f64, counts: (u64, u64, u64)) -> Vec<String> {
    found(rules, Snapshot { endpoints: vec![endpoint(counts.0, counts.1, counts.2)], ..at(seconds) })
}

#[test]
fn failures_are_of_the_last_minute() {
    let mut rules = Rules::default();
    assert!(failing(&mut rules, 1.0, (100, 4, 0)).is_empty(), "too few");
    assert_eq!(failing(&mut rules, 2.0, (30, 5, 0)), ["error_burst"], "all since the start");
    let mut rules = Rules::default();
    assert!(failing(&mut rules, 900.0, (1000, 500, 50)).is_empty(), "nobody knows when these failed");
    assert!(failing(&mut rules, 910.0, (1100, 504, 50)).is_empty());
    assert_eq!(failing(&mut rules, 920.0, (1110, 505, 53)), ["rate_limited"], "of the failures three are refusals");
    assert_eq!(failing(&mut rules, 930.0, (1110, 530, 53)), ["rate_limited", "error_burst"]);
    assert!(failing(&mut rules, 995.0, (1210, 530, 53)).is_empty(), "it is long ago");
    assert!(failing(&mut rules, 1.0, (0, 4, 0)).is_empty(), "another stream");
}

#[test]
fn what_holds_on_is_as_old_as_it_is() {
    let mut rules = Rules::default();
    let mut look = |seconds, failed| {
        let mut snapshot = Snapshot { endpoints: vec![endpoint(0, failed, 0)], ..at(seconds) };
        rules.look(&mut snapshot);
        snapshot.findings.first().map(|finding| (finding.since, finding.severity))
    };
    let first = look(1.0, 5).expect("a burst");
    assert_eq!(first, (at(1.0).captured_at, Severity::Critical));
    assert_eq!(look(9.0, 9), Some(first));
    for seconds in 2..8 {
        look(f64::from(seconds) * 20.0, 9);
    }
    assert_eq!(look(160.0, 30).map(|(since, _)| since), Some(at(160.0).captured_at), "it was gone meanwhile");
}

#[test]
fn streams_that_stand_still_are_told_by_endpoint() {
    let mut bench = Bench::new();
    bench.open(1.0, 1, |_| {});
    let running = bench.frame(2.0).requests.in_flight.remove(0);
    let request = |phase, silence| Request {
        phase,
        endpoint: "10.0.0.1:8000".into(),
        time_since_last_token_seconds: silence,
        ..running.clone()
    };
    let mut snapshot = at(30.0);
    snapshot.requests.in_flight = vec![
        request(Phase::Streaming, Some(9.0)),
        request(Phase::Streaming, Some(12.0)),
        request(Phase::Streaming, Some(11.0)),
        request(Phase::Waiting, None),
    ];
    Rules::default().look(&mut snapshot);
    let [finding] = &snapshot.findings[..] else { panic!("{:?}", snapshot.findings) };
    assert_eq!(finding.title.as_str(), "10.0.0.1:8000: 2 streams stand still, no token for 12 s");
    assert_eq!(finding.since, at(18.0).captured_at);
}

#[test]
fn first_tokens_that_come_later_with_more_requests_are_told() {
    let model = |seconds: f64, in_flight| {
        let mut stats = LlmStats { requests_in_flight: Some(in_flight), ..LlmStats::default() };
        stats.latency.window.time_to_first_token_seconds =
            Some(Distribution { count: 20, p50: seconds, ..Distribution::default() });
        Model { provider: "vllm".into(), model: Some("m".into()), stats }
    };
    let mut rules = Rules::default();
    let mut look = |seconds, model| found(&mut rules, Snapshot { models: vec![model], ..at(seconds) });
    assert!(look(0.0, model(3.0, 40)).is_empty(), "who knows how it was");
    for step in 1..20 {
        assert!(look(f64::from(step) * 5.0, model(0.3, 3)).is_empty());
    }
    assert!(look(101.0, model(3.0, 3)).is_empty(), "slower for another reason");
    assert!(look(102.0, model(0.4, 40)).is_empty(), "it copes");
    assert_eq!(look(103.0, model(3.0, 40)), ["ttft_rising"]);
}

#[test]
fn losses_are_told_while_they_go_on() {
    let mut rules = Rules::default();
    let mut look = |seconds, chunks, desync| {
        let mut snapshot = at(seconds);
        snapshot.capture.lost.ring_full.chunks = chunks;
        snapshot.capture.lost.desync = desync;
        found(&mut rules, snapshot)
    };
    assert!(look(1.0, 0, 3).is_empty());
    assert_eq!(look(10.0, 1, 3), ["capture_loss"]);
    assert!(look(80.0, 1, 3).is_empty());
    assert_eq!(look(90.0, 1, 23), ["capture_loss"]);
}
