//! The states in which exchanges end.

use hbpf_core::chunk::{Capture, Chunk, Close, Direction, Pid, Source};
use hbpf_core::engine::{Counters, Engine};
use hbpf_core::exchange::Phase;
use hbpf_core::time::Nanos;

use crate::wire::{DONE_JSON, Log, MS, SSE_HEAD, Wire, chat, chunked, json, token};

#[test]
fn http_errors_end_as_failed_with_the_providers_type() {
    let (mut engine, mut log) = (Engine::new(), Log::default());
    let mut wire = Wire::tls(7, Direction::Sent);
    wire.request(&mut engine, &mut log, &chat(true));
    let body = r#"{"error":{"message":"slow down","type":"rate_limit_error","code":null}}"#;
    wire.answer(&mut engine, &mut log, &json("429 Too Many Requests", body));
    wire.request(&mut engine, &mut log, &chat(true));
    wire.answer(&mut engine, &mut log, "HTTP/1.1 503 \r\nContent-Length: 0\r\n\r\n");
    let ended = log.ended();
    assert_eq!((ended[0].phase, ended[0].status), (Phase::Failed, Some(429)));
    assert_eq!(ended[0].error_type.as_ref().unwrap().as_str(), "rate_limit_error");
    assert_eq!(ended[1].error_type.as_ref().unwrap().as_str(), "503");
}

/// Runs a stream of two tokens that ends in a way of its own, and gives phase and error type.
fn ending(request: Direction, finish: impl FnOnce(&mut Wire, &mut Engine, &mut Log)) -> (Phase, Option<String>) {
    let (mut engine, mut log) = (Engine::new(), Log::default());
    let mut wire = Wire::tls(7, request);
    wire.request(&mut engine, &mut log, &chat(true));
    wire.answer(&mut engine, &mut log, SSE_HEAD);
    wire.answer(&mut engine, &mut log, &token("a"));
    wire.answer(&mut engine, &mut log, &token("b"));
    finish(&mut wire, &mut engine, &mut log);
    assert_eq!(engine.in_flight().count(), 0);
    let ended = log.ended();
    assert_eq!(ended.len(), 1);
    assert_eq!(ended[0].estimated_output, 2);
    (ended[0].phase, ended[0].error_type.as_ref().map(ToString::to_string))
}

#[test]
fn every_way_to_end_has_its_state() {
    use Direction::{Received, Sent};
    let abandoned = |reason: &str| (Phase::Abandoned, Some(reason.to_owned()));
    let failed = |reason: &str| (Phase::Failed, Some(reason.to_owned()));
    let close = |how| move |wire: &mut Wire, engine: &mut Engine, log: &mut Log| wire.close(engine, log, how);
    assert_eq!(ending(Sent, close(Close::Released)), abandoned("client_cancelled"));
    assert_eq!(ending(Sent, close(Close::Reset(Sent))), abandoned("client_cancelled"));
    assert_eq!(ending(Sent, close(Close::Reset(Received))), failed("connection_reset"));
    assert_eq!(ending(Sent, close(Close::ProcessExited)), abandoned("client_exited"));
    assert_eq!(ending(Received, close(Close::ProcessExited)), failed("server_exited"));
    let after_done = |wire: &mut Wire, engine: &mut Engine, log: &mut Log| {
        wire.answer(engine, log, &chunked("data: [DONE]\n\n"));
        wire.close(engine, log, Close::Released);
    };
    assert_eq!(ending(Sent, after_done), (Phase::Done, None));
    let in_stream_error = |wire: &mut Wire, engine: &mut Engine, log: &mut Log| {
        wire.answer(engine, log, &chunked("data: {\"error\":{\"type\":\"server_error\",\"message\":\"x\"}}\n\n"));
        wire.answer(engine, log, "0\r\n\r\n");
    };
    assert_eq!(ending(Sent, in_stream_error), failed("server_error"));
    let exit = |wire: &mut Wire, engine: &mut Engine, log: &mut Log| {
        engine.process_exited(Pid(7), Nanos(wire.now), log);
    };
    assert_eq!(ending(Sent, exit), abandoned("client_exited"));
}

#[test]
fn what_has_failed_before_it_is_lost_from_sight_misses_nothing() {
    let (mut engine, mut log) = (Engine::new(), Log::default());
    let mut wire = Wire::tls(7, Direction::Sent);
    wire.request(&mut engine, &mut log, &chat(true));
    wire.answer(&mut engine, &mut log, SSE_HEAD);
    wire.answer(&mut engine, &mut log, &chunked("data: {\"error\":{\"type\":\"server_error\"}}\n\n"));
    engine.lose_sight(Source::Tls, Nanos(wire.now + MS), &mut log);
    let ended = log.ended();
    assert_eq!((ended[0].phase, ended[0].bytes_missed), (Phase::Failed, 0));
}

#[test]
fn another_program_ends_what_the_one_before_had_under_way() {
    let (mut engine, mut log) = (Engine::new(), Log::default());
    let mut before = Wire::tls(7, Direction::Sent);
    before.request(&mut engine, &mut log, &chat(true));
    let executed = before.now + MS;
    let mut after = Wire::tls(7, Direction::Sent);
    after.key.generation = executed + MS;
    after.now = executed + MS;
    after.request(&mut engine, &mut log, &chat(true));
    // It is told late.
    engine.process_executed(Pid(7), Nanos(executed), &mut log);
    assert_eq!(log.ended().len(), 1);
    assert_eq!(log.ended()[0].opened_at, Nanos(before.now));
    assert_eq!(engine.in_flight().count(), 1);
}

#[test]
fn an_exchange_whose_end_was_lost_is_given_up_in_the_end() {
    // A client that has ended its half may wait for its answer as long as any other.
    for ends_stream in [true, false] {
        let patience = 45 * 60;
        let (mut engine, mut log) = (Engine::new(), Log::default());
        let mut wire = Wire::tls(7, Direction::Received);
        wire.request(&mut engine, &mut log, &chat(true));
        let fin = Chunk {
            when: Nanos(wire.now),
            connection: wire.key,
            origin: &wire.origin,
            direction: Direction::Received,
            offset: wire.offsets[1],
            original_len: 0,
            bytes: &[],
            message: 1,
            begins_message: false,
            capture: Capture::Positive,
            follows_thinning: false,
            ends_stream,
        };
        engine.chunk(&fin, &mut log);
        engine.tick(Nanos(wire.now + (patience - 1) * 1000 * MS), &mut log);
        assert_eq!(engine.in_flight().count(), 1);
        engine.tick(Nanos(wire.now + patience * 1000 * MS), &mut log);
        assert_eq!(engine.in_flight().count(), 0);
        is_out_of_sight(&log, wire.now);
        assert_eq!((engine.counters().exchanges_given_up, engine.counters().parse_gaps), (1, 1));
    }
}

#[test]
fn what_can_be_seen_no_longer_is_no_longer_in_flight() {
    let (mut engine, mut log) = (Engine::new(), Log::default());
    let mut tls = Wire::tls(7, Direction::Sent);
    tls.request(&mut engine, &mut log, &chat(true));
    engine.lose_sight(Source::Tcp, Nanos(tls.now), &mut log);
    assert_eq!(engine.in_flight().count(), 1);
    engine.lose_sight(Source::Tls, Nanos(tls.now), &mut log);
    assert_eq!(engine.in_flight().count(), 0);
    is_out_of_sight(&log, tls.now);
    assert!(engine.is_idle());
}

#[test]
fn what_the_user_looks_away_from_ends_likewise_and_is_no_loss() {
    let (mut engine, mut log) = (Engine::new(), Log::default());
    let mut wire = Wire::tls(7, Direction::Sent);
    wire.request(&mut engine, &mut log, &chat(true));
    engine.look_away(Source::Tls, Nanos(wire.now), &mut log);
    is_out_of_sight(&log, wire.now);
    assert!(engine.is_idle());
    assert_eq!(engine.counters(), Counters::default());
    wire.request(&mut engine, &mut log, &chat(true));
    engine.lose_sight(Source::Tls, Nanos(wire.now), &mut log);
    assert_eq!(engine.counters().parse_gaps, 1, "where nobody wanted it, it is");
}

/// How it ended is unknown, which is no failure; nor does it last until it was given up.
fn is_out_of_sight(log: &Log, last_heard: u64) {
    let exchange = log.ended()[0];
    assert_eq!((exchange.phase, exchange.error_type.clone(), exchange.status), (Phase::Done, None, None));
    assert_eq!((exchange.bytes_missed, exchange.ended_at), (1, Some(Nanos(last_heard))));
    assert_eq!(exchange.usage.output, None);
}

#[test]
fn a_client_that_has_ended_its_half_gets_its_answer_minutes_later() {
    let (mut engine, mut log) = (Engine::new(), Log::default());
    let mut wire = Wire::tls(7, Direction::Received);
    wire.request(&mut engine, &mut log, &chat(false));
    wire.end(&mut engine, &mut log, Direction::Received);
    for _ in 0..6 {
        wire.now += 60 * 1000 * MS;
        engine.tick(Nanos(wire.now), &mut log);
    }
    wire.answer(&mut engine, &mut log, &json("200 OK", DONE_JSON));
    let exchange = log.ended()[0];
    assert_eq!((exchange.phase, exchange.usage.output, exchange.bytes_missed), (Phase::Done, Some(3), 0));
}
