//! Which messages are model calls.

use hbpf_core::chunk::{Action, Capture, Chunk, Close, Direction};
use hbpf_core::dialect::JUDGE_BYTES;
use hbpf_core::engine::Engine;
use hbpf_core::exchange::{Dialect, Phase};
use hbpf_core::time::Nanos;

use crate::wire::{DONE_JSON, Log, MS, Wire, chat, json, post};

#[test]
fn other_traffic_is_ignored_message_by_message() {
    let (mut engine, mut log) = (Engine::new(), Log::default());
    let mut wire = Wire::tls(7, Direction::Sent);
    for _ in 0..3 {
        wire.capture = Capture::Awaiting;
        wire.request(&mut engine, &mut log, "GET /health HTTP/1.1\r\nHost: x\r\n\r\n");
        // The kernel copies nothing of the answer; were it to, it would be dropped.
        wire.offsets[1] += 5000;
        wire.capture = Capture::Positive;
        wire.request(&mut engine, &mut log, &chat(false));
        wire.answer(&mut engine, &mut log, &json("200 OK", DONE_JSON));
    }
    assert_eq!(log.actions(), [Action::Ignore; 3]);
    assert_eq!(log.verdicts.iter().map(|verdict| verdict.message).collect::<Vec<_>>(), [1, 3, 5]);
    let ended = log.ended();
    assert_eq!(ended.len(), 3);
    assert!(ended.iter().all(|exchange| exchange.phase == Phase::Done && exchange.usage.output == Some(3)));
    assert!(ended.iter().all(|exchange| exchange.bytes_missed == 0));
    assert_eq!(engine.counters(), Default::default());
}

#[test]
fn an_unknown_path_is_recognised_by_its_body_and_learned() {
    let (mut engine, mut log) = (Engine::new(), Log::default());
    let mut wire = Wire::tls(7, Direction::Sent);
    wire.capture = Capture::Awaiting;
    let body = r#"{"model":"m-1","messages":[{"role":"user","content":"x"}]}"#;
    let request = post("/internal/llm?key=secret", body);
    let (head, rest) = request.split_at(request.find("\r\n\r\n").unwrap() + 4);
    wire.request(&mut engine, &mut log, head);
    assert!(log.verdicts.is_empty());
    wire.send(&mut engine, &mut log, Direction::Sent, rest.as_bytes(), false);
    assert_eq!(log.actions(), [Action::Capture]);
    assert_eq!(log.learned, ["/internal/llm"]);
    wire.answer(&mut engine, &mut log, &json("200 OK", DONE_JSON));
    let exchange = log.ended()[0];
    assert_eq!((exchange.dialect, exchange.usage.input), (Dialect::OpenaiChat, Some(9)));
    assert_eq!(exchange.model.as_ref().unwrap().as_str(), "m-1");
}

#[test]
fn of_a_long_call_to_an_unknown_path_one_kib_is_enough() {
    const COPIED: usize = 1024;
    for cut_is_told in [true, false] {
        let (mut engine, mut log) = (Engine::new(), Log::default());
        let mut wire = Wire::tls(7, Direction::Sent);
        let prompt = "p".repeat(5000);
        let body = format!(r#"{{"model":"m-1","messages":[{{"role":"user","content":"{prompt}"}}]}}"#);
        let request = post("/internal/llm", &body);
        wire.capture = Capture::Awaiting;
        wire.now += MS;
        wire.message = 1;
        let chunk = Chunk {
            when: Nanos(wire.now),
            connection: wire.key,
            origin: &wire.origin,
            direction: Direction::Sent,
            offset: 0,
            // What a later call has written is not even mentioned.
            original_len: if cut_is_told { request.len() as u64 } else { COPIED as u64 },
            bytes: &request.as_bytes()[..COPIED],
            message: 1,
            begins_message: true,
            capture: Capture::Awaiting,
            follows_thinning: false,
            ends_stream: false,
        };
        engine.chunk(&chunk, &mut log);
        assert_eq!(log.actions(), [Action::Capture], "cut is told: {cut_is_told}");
        assert_eq!(log.learned, ["/internal/llm"]);
        wire.offsets[0] = request.len() as u64;
        wire.answer(&mut engine, &mut log, &json("200 OK", DONE_JSON));
        let ended = log.ended();
        assert_eq!((ended[0].phase, ended[0].usage.input), (Phase::Done, Some(9)));
        assert_eq!(ended[0].model.as_ref().unwrap().as_str(), "m-1");
        assert_eq!(ended[0].bytes_missed, if cut_is_told { (request.len() - COPIED) as u64 } else { 1 });

        // Learned, it is captured from the first byte, and nothing more is to be told.
        wire.capture = Capture::Positive;
        wire.request(&mut engine, &mut log, &request);
        wire.answer(&mut engine, &mut log, &json("200 OK", DONE_JSON));
        assert_eq!((log.actions().len(), log.learned.len(), log.ended().len()), (1, 1, 2));
    }
}

#[test]
fn what_lies_behind_the_judged_beginning_is_read_too() {
    let (mut engine, mut log) = (Engine::new(), Log::default());
    let mut wire = Wire::tls(7, Direction::Sent);
    let prompt = "p".repeat(40_000);
    let body = format!(r#"{{"messages":[{{"role":"user","content":"{prompt}"}}],"model":"m-late","stream":false}}"#);
    let request =
        post("/internal/llm", &body).replace("\r\n\r\n", &format!("\r\nCookie: {}\r\n\r\n", "c".repeat(2000)));
    // A long head and some bytes of the body, and then all the rest at once.
    let (first, rest) = request.split_at(request.len() - body.len() + 30);
    wire.request(&mut engine, &mut log, first);
    wire.send(&mut engine, &mut log, Direction::Sent, rest.as_bytes(), false);
    wire.answer(&mut engine, &mut log, &json("200 OK", DONE_JSON));
    let exchange = log.ended()[0];
    assert_eq!(exchange.model.as_ref().unwrap().as_str(), "m-late");
    assert_eq!((exchange.stream, exchange.bytes_missed), (Some(false), 0));
}

#[test]
fn a_call_whose_head_is_too_long_is_lost_and_counted() {
    let (mut engine, mut log) = (Engine::new(), Log::default());
    let mut wire = Wire::tls(42, Direction::Sent);
    wire.request(&mut engine, &mut log, "POST /v1/chat/completions HTTP/1.1\r\nX-Long: aaaa");
    wire.offsets[Direction::Sent.index()] += 50_000;
    wire.send(&mut engine, &mut log, Direction::Sent, b"aaaa\r\nContent-Length: 2\r\n\r\n{}", false);
    assert_eq!(engine.counters().parse_gaps, 1);
    wire.answer(&mut engine, &mut log, &json("200 OK", DONE_JSON));
    wire.request(&mut engine, &mut log, &chat(false));
    wire.answer(&mut engine, &mut log, &json("200 OK", DONE_JSON));
    assert_eq!((log.ended().len(), log.ended()[0].phase), (1, Phase::Done));

    // Of what nobody knows, too little is copied for a long head: that is no loss.
    let mut other = Wire::tls(43, Direction::Sent);
    other.capture = Capture::Awaiting;
    other.request(&mut engine, &mut log, "GET /page HTTP/1.1\r\nCookie: aaaa");
    other.offsets[Direction::Sent.index()] += 50_000;
    other.send(&mut engine, &mut log, Direction::Sent, b"aaaa\r\n\r\n", false);
    assert_eq!(engine.counters().parse_gaps, 1);
}

#[test]
fn a_head_longer_than_what_is_copied_of_the_unknown_is_judged_by_what_there_is() {
    let request = |line: &str| format!("{line} HTTP/1.1\r\nHost: x\r\nCookie: {}\r\n", "a".repeat(JUDGE_BYTES));
    let gaps = |line: &str, cuts: &[usize]| {
        let (mut engine, mut log) = (Engine::new(), Log::default());
        let mut wire = Wire::tls(42, Direction::Sent);
        wire.capture = Capture::Awaiting;
        let text = request(line);
        let mut from = 0;
        for to in cuts.iter().copied().chain([JUDGE_BYTES]) {
            wire.send(&mut engine, &mut log, Direction::Sent, &text.as_bytes()[from..to], from == 0);
            from = to;
        }
        assert_eq!(log.actions(), [Action::Ignore]);
        assert!(log.ended().is_empty());
        engine.counters().parse_gaps
    };
    assert_eq!(gaps("POST /ask", &[]), 1, "it may have been a call");
    assert_eq!(gaps("POST /ask", &[1, 7, 100, 1000]), 1);
    assert_eq!(gaps(&format!("POST /ask?{}", "a".repeat(2000)), &[]), 1);
    assert_eq!(gaps("GET /page", &[]), 0);
    assert_eq!(gaps(&format!("GET /page?{}", "a".repeat(2000)), &[100]), 0);
}

#[test]
fn a_target_recognised_late_needs_no_verdict() {
    let (mut engine, mut log) = (Engine::new(), Log::default());
    let mut wire = Wire::tls(42, Direction::Sent);
    let text = chat(false);
    wire.capture = Capture::Awaiting;
    wire.send(&mut engine, &mut log, Direction::Sent, &text.as_bytes()[..11], true);
    wire.capture = Capture::Positive;
    wire.send(&mut engine, &mut log, Direction::Sent, &text.as_bytes()[11..], false);
    wire.answer(&mut engine, &mut log, &json("200 OK", DONE_JSON));
    assert_eq!((log.ended().len(), log.actions().len()), (1, 0));
}

#[test]
fn an_answer_faster_than_the_verdict_is_lost_and_counted() {
    for close in [Close::Released, Close::ProcessExited] {
        let (mut engine, mut log) = (Engine::new(), Log::default());
        let mut wire = Wire::tls(42, Direction::Sent);
        wire.capture = Capture::Awaiting;
        let body = r#"{"model":"m-1","messages":[{"role":"user","content":"x"}]}"#;
        wire.request(&mut engine, &mut log, &post("/ask", body));
        // Its answer was not copied. That of the next call is, and it is no answer to the first.
        wire.request(&mut engine, &mut log, &post("/ask", body));
        wire.answer(&mut engine, &mut log, &json("200 OK", DONE_JSON));
        wire.request(&mut engine, &mut log, &post("/ask", body));
        wire.close(&mut engine, &mut log, close);
        let seen: Vec<_> = log
            .ended()
            .iter()
            .map(|exchange| (exchange.phase, exchange.status, exchange.usage.output, exchange.bytes_missed))
            .collect();
        let unheard = (Phase::Done, None, None, 1);
        assert_eq!(seen, [unheard, (Phase::Done, Some(200), Some(3), 0), unheard]);
        assert_eq!(engine.counters().parse_gaps, 2);
    }
}

#[test]
fn an_upgraded_connection_is_left_alone() {
    let (mut engine, mut log) = (Engine::new(), Log::default());
    let mut wire = Wire::tls(7, Direction::Sent);
    wire.request(
        &mut engine,
        &mut log,
        &chat(true).replacen("Host:", "Upgrade: other\r\nConnection: upgrade\r\nHost:", 1),
    );
    wire.answer(
        &mut engine,
        &mut log,
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: other\r\nConnection: upgrade\r\n\r\n",
    );
    log.events.clear();
    assert_eq!(log.actions(), [Action::Opaque]);
    wire.request(&mut engine, &mut log, &chat(false));
    assert!(log.events.is_empty());
}
