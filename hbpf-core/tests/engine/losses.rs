//! What was not seen, or cannot be read.

use hbpf_core::chunk::{Capture, Chunk, Close, Direction};
use hbpf_core::engine::Engine;
use hbpf_core::exchange::{Exchange, ExchangeEvent, Phase};
use hbpf_core::time::Nanos;

use crate::wire::{DONE_JSON, Log, MS, SSE_HEAD, Wire, chat, chunked, json, post, token};

#[test]
fn a_thinned_prompt_still_gives_the_model() {
    let (mut engine, mut log) = (Engine::new(), Log::default());
    let mut wire = Wire::tls(7, Direction::Sent);
    let prompt = "p".repeat(300_000);
    let body = format!(r#"{{"messages":[{{"role":"user","content":"{prompt}"}}],"model":"m-late","stream":false}}"#);
    let request = post("/v1/chat/completions", &body);
    let (head, tail) = (&request[..16_384], &request[request.len() - 4096..]);
    wire.request(&mut engine, &mut log, head);
    let chunk = Chunk {
        when: Nanos(wire.now),
        connection: wire.key,
        origin: &wire.origin,
        direction: Direction::Sent,
        offset: (request.len() - 4096) as u64,
        original_len: 4096,
        bytes: tail.as_bytes(),
        message: 1,
        begins_message: false,
        capture: Capture::Positive,
        follows_thinning: true,
        ends_stream: false,
    };
    engine.chunk(&chunk, &mut log);
    wire.answer(&mut engine, &mut log, &json("200 OK", DONE_JSON));
    let exchange = log.ended()[0];
    assert_eq!(exchange.model.as_ref().unwrap().as_str(), "m-late");
    assert_eq!((exchange.phase, exchange.bytes_missed), (Phase::Done, 0));
    assert_eq!(engine.counters().parse_gaps, 0);
}

#[test]
fn an_answer_with_a_gap_whose_end_is_lost_has_not_failed() {
    let (mut engine, mut log) = (Engine::new(), Log::default());
    let mut wire = Wire::tls(7, Direction::Sent);
    wire.request(&mut engine, &mut log, &chat(true));
    wire.answer(&mut engine, &mut log, SSE_HEAD);
    // A gap across the framing; then tokens are seen again, and the end is lost.
    wire.offsets[1] += 1000;
    wire.answer(&mut engine, &mut log, &token("a"));
    wire.answer(&mut engine, &mut log, &token("b"));
    wire.request(&mut engine, &mut log, &chat(false));
    let first = log.ended()[0];
    assert_eq!((first.phase, first.error_type.clone()), (Phase::Done, None));
    assert!(first.bytes_missed > 0 && first.output_events > 0);
}

#[test]
fn bytes_of_an_answer_that_were_not_seen_have_come_all_the_same() {
    let (mut engine, mut log) = (Engine::new(), Log::default());
    let mut wire = Wire::tls(7, Direction::Sent);
    wire.request(&mut engine, &mut log, &chat(true));
    wire.answer(&mut engine, &mut log, SSE_HEAD);
    let phase = |engine: &Engine| engine.in_flight().next().map(|exchange| exchange.phase);
    assert_eq!(phase(&engine), Some(Phase::Waiting));
    wire.answer_of_length(&mut engine, &mut log, &token("a"), 0);
    assert_eq!(phase(&engine), Some(Phase::Streaming));
    // Its end is all that comes of the last piece.
    wire.answer(&mut engine, &mut log, "0\r\n\r\n");
    assert_eq!((phase(&engine), log.ended()[0].phase), (None, Phase::Done));
}

#[test]
fn a_request_that_was_cut_and_never_answered_is_not_done() {
    let (mut engine, mut log) = (Engine::new(), Log::default());
    let mut wire = Wire::tls(7, Direction::Sent);
    let request = chat(true);
    // Of the body a part is missing.
    let at = request.len() - 10;
    wire.request(&mut engine, &mut log, &request[..at]);
    wire.offsets[0] += 10;
    wire.close(&mut engine, &mut log, Close::Released);
    assert_ne!(log.ended()[0].phase, Phase::Done);
}

#[test]
fn a_lost_piece_is_counted_and_the_next_message_is_read() {
    let (mut engine, mut log) = (Engine::new(), Log::default());
    let mut wire = Wire::tls(7, Direction::Sent);
    wire.request(&mut engine, &mut log, &chat(true));
    wire.answer(&mut engine, &mut log, SSE_HEAD);
    wire.answer(&mut engine, &mut log, &token("a"));
    // Lost: tokens, usage and the end of the answer.
    wire.offsets[1] += 1000;
    wire.request(&mut engine, &mut log, &chat(false));
    wire.answer(&mut engine, &mut log, &json("200 OK", DONE_JSON));
    let ended = log.ended();
    assert_eq!(ended.len(), 2, "{ended:#?}");
    let whole = ended.iter().find(|exchange| exchange.usage.output == Some(3)).expect("the second is read right");
    assert_eq!(whole.phase, Phase::Done);
    assert_eq!(engine.counters().parse_gaps, 1);
}

#[test]
fn of_bytes_known_by_time_and_length_only_times_stay_true_and_tokens_a_lower_bound() {
    let (mut engine, mut log) = (Engine::new(), Log::default());
    let mut wire = Wire::tls(7, Direction::Sent);
    let body: String = ["a", "b", "c", "d"].map(token).concat();
    for missing in [0, 1, 2] {
        wire.request(&mut engine, &mut log, &chat(true));
        wire.answer(&mut engine, &mut log, SSE_HEAD);
        for (index, text) in ["a", "b", "c", "d"].into_iter().enumerate() {
            // Longer than any stall.
            wire.now += if index == missing { 5000 * MS } else { 0 };
            wire.answer_of_length(&mut engine, &mut log, &token(text), if index == missing { 0 } else { usize::MAX });
        }
        wire.answer(&mut engine, &mut log, "0\r\n\r\n");
        let exchange = log.ended().last().copied().cloned().unwrap();
        assert_eq!(exchange.phase, Phase::Done);
        assert_eq!(exchange.bytes_missed as usize, body.len() / 4);
        // The event behind a gap may be a part of one that began in it.
        assert!((2..=3).contains(&exchange.output_events), "{}", exchange.output_events);
        assert_eq!(exchange.stalls, 0, "nothing is made of what was not seen");
        assert_eq!(exchange.ended_at, Some(Nanos(wire.now)));
        assert_eq!(exchange.time_to_first_token_seconds().is_none(), missing == 0, "{missing}");
        let gaps = |(_, of, event): &(_, Exchange, ExchangeEvent)| match event {
            ExchangeEvent::Output { gap_seconds, .. } if of.id == exchange.id => *gap_seconds,
            _ => None,
        };
        let gaps: Vec<f64> = log.events.iter().filter_map(gaps).collect();
        assert!(gaps.iter().all(|gap| *gap < 1.0), "{gaps:?}");
    }
    wire.request(&mut engine, &mut log, &chat(false));
    wire.answer(&mut engine, &mut log, &json("200 OK", DONE_JSON));
    let next = log.ended().last().copied().cloned().unwrap();
    assert_eq!((next.usage.output, next.bytes_missed), (Some(3), 0), "the next message is read right");
}

#[test]
fn a_document_cut_down_to_its_ends_still_tells_what_it_has_cost() {
    let (mut engine, mut log) = (Engine::new(), Log::default());
    let mut wire = Wire::tls(7, Direction::Sent);
    let long = DONE_JSON.replace("hello", &"words ".repeat(5000));
    let answer = json("200 OK", &long);
    wire.request(&mut engine, &mut log, &chat(false));
    wire.answer_of_length(&mut engine, &mut log, &answer[..answer.len() - 256], 1024);
    wire.answer(&mut engine, &mut log, &answer[answer.len() - 256..]);
    let ended = log.ended();
    assert_eq!((ended[0].phase, ended[0].status), (Phase::Done, Some(200)));
    assert_eq!((ended[0].usage.input, ended[0].usage.output), (Some(9), Some(3)));
    assert_eq!(ended[0].bytes_missed as usize, answer.len() - 256 - 1024);
    assert_eq!(ended[0].time_to_first_token_seconds(), None);
}

#[test]
fn a_client_that_leaves_behind_a_lost_answer_has_not_given_up() {
    let (mut engine, mut log) = (Engine::new(), Log::default());
    let mut wire = Wire::tls(42, Direction::Sent);
    wire.request(&mut engine, &mut log, &chat(true));
    wire.offsets[Direction::Received.index()] += SSE_HEAD.len() as u64;
    wire.answer(&mut engine, &mut log, &token("a"));
    wire.close(&mut engine, &mut log, Close::ProcessExited);
    let ended = log.ended();
    assert_eq!((ended.len(), ended[0].phase, ended[0].status), (1, Phase::Done, None));
    assert!(ended[0].bytes_missed > 0);
}

#[test]
fn an_answer_that_cannot_be_read_is_counted_and_says_so() {
    let unreadable = [
        ("HTTP/1.1 200 O\x01K\r\nContent-Length: 2\r\n\r\n{}", 1),
        ("HTTP/1.1 \x1b[2J\r\n\r\n", 1),
        // Of a first answer the beginning may not have been seen, which is no fault.
        ("\0\0\0\0", 0),
    ];
    for (answer, desyncs) in unreadable {
        let (mut engine, mut log) = (Engine::new(), Log::default());
        let mut wire = Wire::tls(7, Direction::Sent);
        wire.request(&mut engine, &mut log, &chat(false));
        wire.answer(&mut engine, &mut log, answer);
        wire.request(&mut engine, &mut log, &chat(false));
        wire.answer(&mut engine, &mut log, &json("200 OK", DONE_JSON));
        let ended = log.ended();
        assert_eq!((ended.len(), engine.counters().desyncs), (2, desyncs), "{answer:?}");
        assert_eq!((ended[0].phase, ended[0].status, ended[0].bytes_missed), (Phase::Done, None, 1), "{answer:?}");
        assert_eq!((ended[1].phase, ended[1].usage.output), (Phase::Done, Some(3)), "{answer:?}");
    }
}

#[test]
fn an_answer_of_two_lengths_is_read_as_chunked_and_counted() {
    let (mut engine, mut log) = (Engine::new(), Log::default());
    let mut wire = Wire::tls(7, Direction::Sent);
    wire.request(&mut engine, &mut log, &chat(false));
    let head =
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 9\r\nTransfer-Encoding: chunked\r\n\r\n";
    wire.answer(&mut engine, &mut log, &format!("{head}{}0\r\n\r\n", chunked(DONE_JSON)));
    let exchange = log.ended()[0];
    assert_eq!((exchange.usage.output, exchange.bytes_missed, engine.counters().desyncs), (Some(3), 1, 1));
}

#[test]
fn a_body_with_a_wrong_checksum_gives_no_numbers() {
    use std::io::Write;
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(DONE_JSON.as_bytes()).unwrap();
    let good = encoder.finish().unwrap();
    let mut bad = good.clone();
    let checksum = bad.len() - 8;
    bad[checksum] ^= 1;
    for (body, output) in [(good, Some(3)), (bad, None)] {
        let (mut engine, mut log) = (Engine::new(), Log::default());
        let mut wire = Wire::tls(7, Direction::Sent);
        wire.request(&mut engine, &mut log, &chat(false));
        let head = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Encoding: gzip\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        wire.send(&mut engine, &mut log, Direction::Received, &[head.as_bytes(), &body].concat(), false);
        let exchange = log.ended()[0];
        assert_eq!((exchange.phase, exchange.usage.output), (Phase::Done, output));
        assert_eq!((exchange.bytes_missed > 0, engine.counters().parse_gaps > 0), (output.is_none(), output.is_none()));
    }
}
