//! Connections: their segments, their owners, and both their ends.

use std::time::Duration;

use hbpf_core::chunk::{Capture, ConnectionKey, Direction, Origin, Pid, Segment, Source};
use hbpf_core::engine::Engine;
use hbpf_core::exchange::{Phase, Role};
use hbpf_core::time::Nanos;

use crate::wire::{DONE_JSON, Log, MS, Wire, chat, json};

/// A segment of a connection that its server has not accepted yet, under a number of its own.
fn knock(engine: &mut Engine, handle: u64, when: u64, bytes: &[u8]) -> (ConnectionKey, Origin) {
    let key = ConnectionKey { source: Source::Tcp, pid: 0, handle, generation: 0 };
    let end = |port| Some((std::net::Ipv4Addr::LOCALHOST.into(), port));
    let origin = Origin { local: end(80), remote: end(50_000), ..Origin::default() };
    engine.waiting_segment(&segment(key, &origin, when, Direction::Received, bytes, true));
    (key, origin)
}

fn segment<'a>(
    connection: ConnectionKey,
    origin: &'a Origin,
    when: u64,
    direction: Direction,
    bytes: &'a [u8],
    begins_message: bool,
) -> Segment<'a> {
    Segment {
        when: Nanos(when),
        connection,
        origin,
        direction,
        sequence: 1,
        acknowledgement: 0,
        original_len: u32::try_from(bytes.len()).unwrap(),
        bytes,
        message: 1,
        begins_message,
        capture: Capture::Positive,
        follows_thinning: false,
        fin: false,
        rst: false,
    }
}

#[test]
fn a_request_counts_once_its_connection_is_accepted() {
    let (mut engine, mut log) = (Engine::new(), Log::default());
    let (key, origin) = knock(&mut engine, 1 << 63, 1000 * MS, chat(false).as_bytes());
    // Nobody need ever accept this one.
    knock(&mut engine, 1 << 63 | 1, 1000 * MS, chat(false).as_bytes());
    assert!(log.events.is_empty(), "anyone can knock");
    assert!(!engine.is_idle(), "what waits must expire");

    let server = Origin { pid: Some(Pid(7)), owner_is_certain: true, ..Origin::default() };
    engine.accepted(key, &server, &mut log);
    let answer = json("200 OK", DONE_JSON);
    // The answer shows that the request was taken.
    let acknowledgement = 1 + u32::try_from(chat(false).len()).unwrap();
    let answer = segment(key, &origin, 1500 * MS, Direction::Sent, answer.as_bytes(), false);
    engine.segment(&Segment { acknowledgement, ..answer }, &mut log);
    let ended = log.ended();
    assert_eq!((ended.len(), ended[0].phase, ended[0].role), (1, Phase::Done, Role::Server));
    assert_eq!((ended[0].pid, ended[0].opened_at), (Some(Pid(7)), Nanos(1000 * MS)), "since the request came");
    assert_eq!(ended[0].endpoint.port, Some(80));
    assert_eq!(engine.counters().parse_gaps, 0);

    engine.tick(Nanos(1000 * MS).after(Duration::from_secs(60)), &mut log);
    let late = ConnectionKey { handle: 1 << 63 | 1, ..key };
    engine.accepted(late, &server, &mut log);
    assert_eq!((log.ended().len(), engine.counters().parse_gaps), (1, 1), "accepted too late");
}

#[test]
fn both_ends_of_one_exchange_count_once() {
    let (mut engine, mut log) = (Engine::new(), Log::default());
    let mut client = Wire::tls(7, Direction::Sent);
    let mut server = Wire::tls(8, Direction::Received);
    for _ in 0..2 {
        client.request(&mut engine, &mut log, &chat(false));
        server.request(&mut engine, &mut log, &chat(false));
        server.answer(&mut engine, &mut log, &json("200 OK", DONE_JSON));
        client.answer(&mut engine, &mut log, &json("200 OK", DONE_JSON));
    }
    let ended = log.ended();
    assert_eq!(ended.len(), 4);
    assert_eq!(ended.iter().filter(|exchange| !exchange.is_mirror).count(), 2);
    assert!(ended.iter().all(|exchange| exchange.is_mirror == (exchange.role == Role::Server)));
}

#[test]
fn an_uncertain_owner_is_asked_for_before_anything_is_reported() {
    let (mut engine, mut log) = (Engine::new(), Log::default());
    let mut wire = Wire::tls(7, Direction::Received);
    wire.origin.owner_is_certain = false;
    wire.request(&mut engine, &mut log, &chat(false));
    wire.answer(&mut engine, &mut log, &json("200 OK", DONE_JSON));
    engine.tick(Nanos(wire.now + 50 * MS), &mut log);
    assert!(log.owners_wanted.is_empty(), "the connection may tell it by itself");
    engine.tick(Nanos(wire.now + 150 * MS), &mut log);
    engine.tick(Nanos(wire.now + 250 * MS), &mut log);
    assert_eq!(log.owners_wanted, [wire.key]);
    assert!(log.events.is_empty());
    engine.owner_found(wire.key, Pid(99), &mut log);
    assert_eq!(log.events.len(), 4);
    assert!(log.events.iter().all(|(_, exchange, _)| exchange.pid == Some(Pid(99))));
    wire.request(&mut engine, &mut log, &chat(false));
    assert_eq!((log.owners_wanted.len(), log.events.len()), (1, 6), "once per connection");

    let mut nobody = Wire::tls(8, Direction::Received);
    nobody.key.handle = 0x8000;
    nobody.origin.owner_is_certain = false;
    nobody.request(&mut engine, &mut log, &chat(false));
    assert_eq!(log.events.len(), 6);
    engine.tick(Nanos(nobody.now + 600 * MS), &mut log);
    assert_eq!(log.events.len(), 8, "nobody was found in time: reported with the presumed owner");
    assert_eq!(log.events[7].1.pid, Some(Pid(8)));
}

#[test]
fn an_owner_that_the_answer_tells_need_not_be_asked_for() {
    let (mut engine, mut log) = (Engine::new(), Log::default());
    let mut wire = Wire::tls(7, Direction::Received);
    wire.origin.owner_is_certain = false;
    wire.request(&mut engine, &mut log, &chat(false));
    assert!(log.events.is_empty());
    wire.origin = Origin { pid: Some(Pid(99)), owner_is_certain: true, ..wire.origin };
    wire.answer(&mut engine, &mut log, &json("200 OK", DONE_JSON));
    wire.request(&mut engine, &mut log, &chat(false));
    assert_eq!(log.events.len(), 6);
    assert!(log.events.iter().all(|(_, exchange, _)| exchange.pid == Some(Pid(99))));
    engine.tick(Nanos(wire.now + 600 * MS), &mut log);
    assert!(log.owners_wanted.is_empty());
}

#[test]
fn it_is_never_too_late_to_learn_whose_an_exchange_is() {
    let (mut engine, mut log) = (Engine::new(), Log::default());
    let mut wire = Wire::tls(7, Direction::Received);
    wire.origin = Origin { pid: None, owner_is_certain: false, ..wire.origin };
    wire.request(&mut engine, &mut log, &chat(false));
    engine.tick(Nanos(wire.now + 600 * MS), &mut log);
    assert!(log.events.iter().all(|(_, exchange, _)| exchange.pid.is_none()) && !log.events.is_empty());
    wire.origin = Origin { pid: Some(Pid(99)), owner_is_certain: true, ..wire.origin };
    wire.answer(&mut engine, &mut log, &json("200 OK", DONE_JSON));
    assert_eq!(log.ended()[0].pid, Some(Pid(99)));
}

#[test]
fn a_late_answer_is_not_about_the_next_message() {
    let (mut engine, mut log) = (Engine::new(), Log::default());
    let mut wire = Wire::tls(7, Direction::Received);
    let passed_on = |wire: &mut Wire| {
        wire.origin = Origin { owner_is_certain: false, is_passed_on: true, ..wire.origin };
    };
    passed_on(&mut wire);
    wire.request(&mut engine, &mut log, &chat(false));
    engine.tick(Nanos(wire.now + 150 * MS), &mut log);
    assert_eq!(log.owners_wanted, [wire.key]);
    wire.origin = Origin { pid: Some(Pid(8)), owner_is_certain: true, is_passed_on: false, ..wire.origin };
    wire.answer(&mut engine, &mut log, &json("200 OK", DONE_JSON));
    passed_on(&mut wire);
    wire.request(&mut engine, &mut log, &chat(false));
    engine.owner_found(wire.key, Pid(8), &mut log);
    wire.origin = Origin { pid: Some(Pid(9)), owner_is_certain: true, is_passed_on: false, ..wire.origin };
    wire.answer(&mut engine, &mut log, &json("200 OK", DONE_JSON));
    let told: Vec<Option<Pid>> = log.ended().iter().map(|exchange| exchange.pid).collect();
    assert_eq!(told, [Some(Pid(8)), Some(Pid(9))]);
}

#[test]
fn of_an_endpoint_that_is_passed_on_each_answer_tells_whose_it_is() {
    let (mut engine, mut log) = (Engine::new(), Log::default());
    let mut wire = Wire::tls(7, Direction::Received);
    let certain = |wire: &mut Wire, pid| {
        wire.origin = Origin { pid: Some(Pid(pid)), owner_is_certain: true, is_passed_on: false, ..wire.origin };
    };
    for (number, pid) in [7, 8, 9, 8].into_iter().enumerate() {
        let before = log.events.len();
        if number > 1 {
            wire.origin = Origin { owner_is_certain: false, is_passed_on: true, ..wire.origin };
        }
        wire.request(&mut engine, &mut log, &chat(false));
        assert_eq!(log.events.len() > before, number < 2, "from the second on it is known to be passed on");
        certain(&mut wire, pid);
        wire.answer(&mut engine, &mut log, &json("200 OK", DONE_JSON));
    }
    let told: Vec<Option<Pid>> = log.ended().iter().map(|exchange| exchange.pid).collect();
    // The second was told before anything said that it is another's, and stays so.
    assert_eq!(told, [7, 7, 9, 8].map(|pid| Some(Pid(pid))));
}

#[test]
fn tcp_segments_out_of_order_make_the_same_exchange() {
    let (mut engine, mut log) = (Engine::new(), Log::default());
    let key = ConnectionKey { source: Source::Tcp, pid: 0, handle: 5, generation: 0 };
    let remote = ("127.0.0.1".parse().unwrap(), 8000);
    let origin = Origin { pid: Some(Pid(7)), owner_is_certain: true, remote: Some(remote), ..Origin::default() };
    let mut now = 1000 * MS;
    let mut segment = |engine: &mut Engine, direction, sequence: u32, bytes: &[u8], begins| {
        now += MS;
        let segment = Segment {
            when: Nanos(now),
            connection: key,
            origin: &origin,
            direction,
            sequence,
            acknowledgement: 0,
            original_len: bytes.len() as u32,
            bytes,
            message: 1,
            begins_message: begins,
            capture: Capture::Positive,
            follows_thinning: false,
            fin: false,
            rst: false,
        };
        engine.segment(&segment, &mut log);
    };
    let start = u32::MAX - 20;
    let request = chat(false);
    segment(&mut engine, Direction::Sent, start, request.as_bytes(), true);
    let answer = json("200 OK", DONE_JSON);
    let (first, second) = answer.as_bytes().split_at(50);
    segment(&mut engine, Direction::Received, start, &first[..10], false);
    segment(&mut engine, Direction::Received, start.wrapping_add(50), second, false);
    segment(&mut engine, Direction::Received, start.wrapping_add(10), &first[10..], false);
    segment(&mut engine, Direction::Received, start, first, false);
    let exchange = log.ended()[0];
    assert_eq!((exchange.phase, exchange.usage.input), (Phase::Done, Some(9)));
    assert_eq!(exchange.endpoint.port, Some(8000));
    assert!(!exchange.tls);
}
