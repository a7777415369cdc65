//! Calls that are passed on count once.

use std::net::IpAddr;

use super::*;
use crate::snapshot::{Hop, Snapshot};

const GATEWAY: Pid = Pid(7);

fn local(port: u16) -> Endpoint {
    Endpoint { host: None, address: Some(IpAddr::from([127, 0, 0, 1])), port: Some(port) }
}

/// A client's end of a call to the gateway.
fn asks(exchange: &mut Exchange) {
    (exchange.endpoint, exchange.provider) = (local(4000), "litellm".into());
}

/// The gateway's end of it, which somebody else may have the other of.
fn serves(exchange: &mut Exchange) {
    asks(exchange);
    (exchange.role, exchange.pid) = (Role::Server, Some(GATEWAY));
}

fn mirrors(of: u64) -> impl Fn(&mut Exchange) {
    move |exchange| (exchange.is_mirror, exchange.other_end) = (true, Some(ExchangeId(of)))
}

fn passes_on(exchange: &mut Exchange) {
    exchange.pid = Some(GATEWAY);
}

fn counted(frame: &Snapshot) -> (u64, Option<u64>, Option<u64>) {
    (frame.totals.requests_total, frame.totals.tokens.input, frame.totals.tokens.output)
}

fn hops(frame: &Snapshot) -> Vec<(u64, Option<Hop>)> {
    let all = frame.requests.in_flight.iter().chain(&frame.requests.recent);
    let mut hops: Vec<_> = all.map(|request| (request.sequence, request.hop)).collect();
    hops.sort_by_key(|(id, _)| *id);
    hops
}

#[test]
fn the_call_behind_the_gateway_counts() {
    let mut bench = Bench::new();
    for (call, start) in [(0, 0.0), (10, 5.0)] {
        bench.open(start, call + 1, serves);
        bench.sent(start + 0.1, call + 1, "gpt-4o");
        let before = bench.frame(start + 0.2);
        assert_eq!(before.totals.requests_in_flight, Some(1), "known to be a gateway's or not");
        bench.open(start + 0.3, call + 2, passes_on);
        bench.sent(start + 0.4, call + 2, "gpt-4o");
        assert_eq!(bench.frame(start + 0.5).totals.requests_in_flight, Some(1));
        for id in [call + 2, call + 1] {
            bench.headers(start + 1.0, id, 200);
            bench.output(start + 1.1, id, 1);
            bench.done(start + 2.0, id, 10, 20);
        }
    }
    let frame = bench.frame(8.0);
    // The first of the gateway's was counted before it was known for one.
    assert_eq!(counted(&frame), (3, Some(20), Some(40)));
    assert_eq!(hops(&frame), [(1, Some(Hop::Gateway)), (2, None), (11, Some(Hop::Gateway)), (12, None)]);
    let of = |provider: &str| frame.models.iter().find(|row| row.provider == *provider).unwrap().stats.tokens.output;
    assert_eq!((of("litellm"), of("openai")), (Some(40), Some(40)), "each has its row");
    let cost = frame.totals.cost_usd.unwrap();
    let upstream = frame.models.iter().find(|row| row.provider == "openai").unwrap().stats.cost_usd.unwrap();
    assert!((cost - upstream).abs() < 1e-12, "{cost} {upstream}");
}

#[test]
fn both_ends_of_a_call_to_a_gateway_are_known_for_it() {
    let mut bench = Bench::new();
    for (call, start) in [(0, 0.0), (10, 5.0)] {
        bench.open(start, call + 1, asks);
        bench.open(start, call + 2, |exchange| {
            serves(exchange);
            mirrors(call + 1)(exchange);
        });
        bench.sent(start + 0.1, call + 1, "m");
        bench.sent(start + 0.1, call + 2, "m");
        bench.open(start + 0.2, call + 3, passes_on);
        bench.sent(start + 0.3, call + 3, "m");
        for id in [call + 3, call + 2, call + 1] {
            bench.done(start + 1.0, id, 10, 20);
        }
    }
    let frame = bench.frame(8.0);
    assert_eq!(counted(&frame), (3, Some(20), Some(40)));
    let gateway = Some(Hop::Gateway);
    assert_eq!(hops(&frame), [(1, gateway), (2, gateway), (3, None), (11, gateway), (12, gateway), (13, None)]);
}

#[test]
fn who_serves_may_be_known_late() {
    let mut bench = Bench::new();
    bench.open(0.0, 1, asks);
    bench.open(0.0, 2, |exchange| {
        serves(exchange);
        mirrors(1)(exchange);
        exchange.pid = None;
    });
    bench.sent(0.1, 1, "m");
    bench.sent(0.1, 2, "m");
    bench.call(0.2, 3, "m", passes_on);
    bench.event(1.5, 2, ExchangeEvent::Headers, |exchange| exchange.pid = Some(GATEWAY));
    bench.headers(1.5, 1, 200);
    bench.done(1.6, 2, 10, 20);
    bench.done(1.6, 1, 10, 20);
    let frame = bench.frame(2.0);
    assert_eq!(counted(&frame), (2, Some(10), Some(20)));
    // A call that was made before is for something else.
    bench.call(3.0, 4, "m", passes_on);
    bench.call(5.0, 5, "m", serves);
    assert_eq!(counted(&bench.frame(7.0)), (4, Some(30), Some(60)));
}

#[test]
fn what_a_gateway_answers_itself_counts() {
    let mut bench = Bench::new();
    bench.open(0.0, 1, serves);
    bench.sent(0.0, 1, "m");
    bench.open(0.1, 2, passes_on);
    bench.done(1.0, 2, 1, 1);
    bench.done(1.0, 1, 1, 1);
    // From its cache.
    bench.call(2.0, 3, "m", serves);
    // Refused.
    bench.open(4.0, 4, serves);
    bench.sent(4.0, 4, "m");
    bench.headers(4.1, 4, 429);
    bench.end(4.2, 4, Phase::Failed, |exchange| exchange.status = Some(429));
    let frame = bench.frame(5.0);
    assert_eq!(counted(&frame), (4, Some(11), Some(21)));
    assert_eq!((frame.totals.failed_total, frame.totals.completed_total), (1, 2));
}

#[test]
fn a_gateway_that_sends_its_head_first_is_one_all_the_same() {
    let mut bench = Bench::new();
    for (call, start) in [(0, 0.0), (10, 5.0)] {
        bench.open(start, call + 1, serves);
        bench.sent(start, call + 1, "m");
        bench.headers(start + 0.1, call + 1, 200);
        bench.open(start + 0.2, call + 2, passes_on);
        bench.sent(start + 0.2, call + 2, "m");
        for id in [call + 2, call + 1] {
            bench.output(start + 0.5, id, 1);
            bench.done(start + 1.0, id, 10, 20);
        }
    }
    assert_eq!(counted(&bench.frame(8.0)), (3, Some(20), Some(40)));
    // Who speaks already does not pass on what it is saying.
    bench.open(10.0, 21, serves);
    bench.sent(10.0, 21, "m");
    bench.output(10.1, 21, 1);
    bench.call(10.2, 22, "m", passes_on);
    bench.done(12.0, 21, 10, 20);
    let frame = bench.frame(13.0);
    assert_eq!(counted(&frame), (5, Some(40), Some(80)));
    assert_eq!(hops(&frame)[4..], [(21, None), (22, None)]);
}

#[test]
fn each_call_passes_on_one_and_of_its_kind() {
    let mut bench = Bench::new();
    bench.open(0.0, 1, serves);
    bench.open(0.1, 2, serves);
    // Who chats looks something up first.
    bench.open(0.2, 3, |exchange| {
        passes_on(exchange);
        exchange.api = Api::Embeddings;
    });
    bench.open(0.3, 4, passes_on);
    assert_eq!(hops(&bench.frame(0.4)), [(1, Some(Hop::Gateway)), (2, None), (3, None), (4, None)]);
    // Another process has nothing to do with it.
    bench.open(0.5, 5, |exchange| exchange.pid = Some(Pid(8)));
    bench.open(0.6, 6, passes_on);
    let frame = bench.frame(0.7);
    assert_eq!(hops(&frame)[1], (2, Some(Hop::Gateway)));
    assert_eq!(frame.totals.requests_in_flight, Some(4));
}

#[test]
fn what_ollama_asks_of_its_own_server_counts_under_the_processes() {
    let backend = |exchange: &mut Exchange| {
        (exchange.endpoint, exchange.provider) = (local(40_123), "llama.cpp".into());
        (exchange.comm, exchange.pid) = ("ollama".into(), Some(GATEWAY));
    };
    let works = |exchange: &mut Exchange| {
        backend(exchange);
        (exchange.comm, exchange.role, exchange.pid) = ("llama-server".into(), Role::Server, Some(Pid(9)));
    };
    // Whichever end is seen first.
    for ends in [[2, 3], [3, 2]] {
        let mut bench = Bench::new();
        bench.open(0.0, 1, |exchange| {
            serves(exchange);
            (exchange.comm, exchange.endpoint) = ("ollama".into(), local(11_434));
        });
        bench.sent(0.1, 1, "llama3.2");
        for (number, end) in ends.into_iter().enumerate() {
            bench.open(0.2, end, |exchange| {
                if end == 2 {
                    backend(exchange)
                } else {
                    works(exchange)
                }
                if number == 1 {
                    mirrors(ends[0])(exchange);
                }
            });
        }
        for id in ends {
            bench.sent(0.3, id, "/blobs/sha256-1");
            bench.done(1.0, id, 10, 20);
        }
        bench.done(1.0, 1, 10, 20);
        let frame = bench.frame(2.0);
        let requests = 1 + u64::from(ends[0] == 3);
        assert_eq!(counted(&frame), (requests, Some(10), Some(20)));
        let models: Vec<_> = frame.models.iter().map(|row| row.model.clone().unwrap()).collect();
        assert_eq!(models, ["llama3.2"]);
        assert_eq!(hops(&frame), [(1, None), (2, Some(Hop::Backend)), (3, Some(Hop::Backend))]);
    }
    // The command line's own calls are its user's.
    let mut bench = Bench::new();
    bench.call(0.0, 1, "llama3.2", backend);
    assert_eq!(counted(&bench.frame(2.0)), (1, Some(10), Some(20)));
}
