//! Calls that are made again.

use super::*;

/// A call that is refused, or answered.
fn try_at(bench: &mut Bench, seconds: f64, id: u64, attempt: u32, status: u16) {
    bench.open(seconds, id, |exchange| exchange.attempt = Some(attempt));
    bench.sent(seconds, id, "m");
    bench.headers(seconds + 0.1, id, status);
    let phase = if status < 400 { Phase::Done } else { Phase::Failed };
    bench.end(seconds + 0.1, id, phase, |exchange| exchange.status = Some(status));
}

fn links(frame: &Snapshot) -> BTreeMap<u64, Option<String>> {
    let all = frame.requests.in_flight.iter().chain(&frame.requests.recent);
    all.map(|request| (request.sequence, request.retry_of.as_ref().map(Label::to_string))).collect()
}

#[test]
fn a_retry_says_what_it_repeats() {
    let mut bench = Bench::new();
    try_at(&mut bench, 0.0, 1, 0, 429);
    try_at(&mut bench, 0.2, 2, 0, 429);
    // That of another process repeats its own, which was not seen.
    bench.open(0.4, 3, |exchange| (exchange.attempt, exchange.pid) = (Some(1), Some(Pid(8))));
    bench.sent(0.4, 3, "m");
    try_at(&mut bench, 0.5, 4, 1, 503);
    try_at(&mut bench, 0.8, 5, 1, 200);
    try_at(&mut bench, 1.0, 6, 2, 200);
    // All that has failed is repeated; what has not failed is not.
    try_at(&mut bench, 1.2, 7, 1, 200);
    let links = links(&bench.frame(2.0));
    let expected = [(1, None), (2, None), (3, None), (4, Some("2")), (5, Some("1")), (6, Some("4")), (7, None)];
    assert_eq!(links, expected.map(|(id, of)| (id, of.map(str::to_owned))).into());
    assert_eq!(bench.frame(2.0).totals.retries_total, 5);
}

#[test]
fn who_does_little_but_repeat_is_found() {
    let mut bench = Bench::new();
    for number in 0..9_u32 {
        try_at(&mut bench, f64::from(number), 100 + u64::from(number), u32::from(number > 0), 429);
    }
    assert_eq!(bench.frame(9.0).findings, [], "too few");
    for number in 0..4_u32 {
        try_at(&mut bench, 10.0 + f64::from(number), 200 + u64::from(number), 1, 429);
    }
    let found = bench.frame(15.0).findings;
    assert_eq!(found.len(), 1);
    assert_eq!((found[0].id.as_str(), found[0].subject.as_str()), ("retry_storm", "python3 (100)"));
    assert_eq!(found[0].title.as_str(), "python3 (100) repeats calls that fail: 12 of 13 requests in a minute");
    assert_eq!(bench.frame(20.0).findings[0].since, found[0].since, "it is the same storm");
    // As many that are not repeated beside it are none.
    for number in 0..20_u32 {
        try_at(&mut bench, 21.0 + f64::from(number) / 10.0, 300 + u64::from(number), 0, 200);
    }
    assert_eq!(bench.frame(24.0).findings, []);
    for number in 0..40_u32 {
        try_at(&mut bench, 25.0 + f64::from(number) / 10.0, 400 + u64::from(number), 1, 429);
    }
    assert_eq!(bench.frame(30.0).findings.len(), 1);
    assert_eq!(bench.frame(120.0).findings, [], "and it passes");
}
