//! Calls over WebSocket.

use flate2::{Compress, Compression, FlushCompress};
use hbpf_core::chunk::{Action, Capture, Close, Direction};
use hbpf_core::engine::Engine;
use hbpf_core::exchange::{Api, Dialect, Exchange, Phase, Protocol, ServiceTier};
use hbpf_core::time::Nanos;
use proptest::prelude::*;

use crate::wire::{CANARY, Log, MS, Wire};

const TEXT: u8 = 0x81;
const CLOSE: u8 = 0x88;
const PING: u8 = 0x89;

/// A frame of a server.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![first];
    match payload.len() {
        short @ 0..126 => frame.push(short as u8),
        long => frame.extend([126, (long >> 8) as u8, long as u8]),
    }
    frame.extend_from_slice(payload);
    frame
}

/// A frame of a client.
fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
    let mask = [0x5a, payload.len() as u8, 0x0f, first];
    let clear = frame(first, payload);
    let header = clear.len() - payload.len();
    let mut frame = clear[..header].to_vec();
    frame[1] |= 0x80;
    frame.extend(mask);
    frame.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    frame
}

/// Both ends of a connection, seen from one.
struct Ws {
    wire: Wire,
    engine: Engine,
    log: Log,
    /// There where messages are compressed.
    deflate: Option<[Compress; 2]>,
}

impl Ws {
    /// A connection for which its client has asked.
    fn asked(path: &str) -> Self {
        Self::asked_of(Wire::tls(7, Direction::Sent), Engine::new(), Log::default(), path)
    }

    fn asked_of(wire: Wire, engine: Engine, log: Log, path: &str) -> Self {
        let mut ws = Self { wire, engine, log, deflate: None };
        let head = format!(
            "GET {path} HTTP/1.1\r\nHost: llm.example:8443\r\nAuthorization: {CANARY}\r\nConnection: Upgrade\r\n\
             Upgrade: websocket\r\nSec-WebSocket-Key: {CANARY}==\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n\r\n"
        );
        ws.wire.request(&mut ws.engine, &mut ws.log, &head);
        ws
    }

    fn agree(&mut self, extensions: &str, behind: &[u8]) {
        let head = format!(
            "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: WebSocket\r\n{extensions}\r\n"
        );
        self.received(&[head.as_bytes(), behind].concat());
    }

    fn opened(path: &str) -> Self {
        let mut ws = Self::asked(path);
        ws.agree("", &[]);
        ws
    }

    fn compressed() -> Self {
        let mut ws = Self::asked(RESPONSES);
        ws.agree("Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits=15\r\n", &[]);
        ws.compresses();
        ws
    }

    fn compresses(&mut self) {
        self.deflate = Some([(); 2].map(|()| Compress::new(Compression::default(), false)));
    }

    fn message(&mut self, side: usize, text: &str) -> (u8, Vec<u8>) {
        let Some(deflate) = &mut self.deflate else { return (TEXT, text.as_bytes().to_vec()) };
        let mut out = Vec::with_capacity(text.len() + 64);
        deflate[side].compress_vec(text.as_bytes(), &mut out, FlushCompress::Sync).unwrap();
        assert!(out.ends_with(&[0, 0, 0xff, 0xff]));
        out.truncate(out.len() - 4);
        (TEXT | 0x40, out)
    }

    fn sent(&mut self, bytes: &[u8]) {
        let direction = self.wire.request;
        self.wire.send(&mut self.engine, &mut self.log, direction, bytes, false);
    }

    fn received(&mut self, bytes: &[u8]) {
        let direction = self.wire.request.opposite();
        self.wire.send(&mut self.engine, &mut self.log, direction, bytes, false);
    }

    fn say(&mut self, text: &str) {
        let (first, payload) = self.message(0, text);
        self.sent(&masked(first, &payload));
    }

    fn answer(&mut self, text: &str) {
        let (first, payload) = self.message(1, text);
        self.received(&frame(first, &payload));
    }

    /// A whole answer of so many tokens.
    fn answers(&mut self, id: &str, output: u64) {
        self.answer(&created(id));
        (0..output).for_each(|_| self.answer(&delta()));
        self.answer(&completed(id, output));
    }

    fn ended(&self) -> Vec<&Exchange> {
        self.log.ended()
    }

    fn gaps(&self) -> u64 {
        self.engine.counters().parse_gaps
    }
}

const RESPONSES: &str = "/v1/responses";

fn create(model: &str) -> String {
    format!(
        r#"{{"type":"response.create","model":"{model}","instructions":"{CANARY}","input":[{{"role":"user","content":"{CANARY}"}}]}}"#
    )
}

fn created(id: &str) -> String {
    format!(
        r#"{{"type":"response.created","sequence_number":0,"response":{{"id":"{id}","object":"response","status":"in_progress","model":"m-2026","instructions":"{CANARY}","usage":null}}}}"#
    )
}

fn delta() -> String {
    format!(
        r#"{{"type":"response.output_text.delta","sequence_number":4,"item_id":"msg_1","output_index":0,"content_index":0,"delta":"{CANARY}"}}"#
    )
}

fn completed(id: &str, output: u64) -> String {
    ended("completed", id, output, "null")
}

fn ended(how: &str, id: &str, output: u64, details: &str) -> String {
    format!(
        r#"{{"type":"response.{how}","sequence_number":9,"response":{{"id":"{id}","object":"response","status":"{how}","model":"m-2026","output":[{{"content":"{CANARY}"}}],"incomplete_details":{details},"error":null,"usage":{{"input_tokens":9,"input_tokens_details":{{"cached_tokens":4,"cache_write_tokens":2}},"output_tokens":{output},"output_tokens_details":{{"reasoning_tokens":1}},"total_tokens":10}}}}}}"#
    )
}

/// Model asked for, output reported, output seen, finish reason, phase.
type Row = (Option<String>, Option<u64>, u64, Option<String>, Phase);

fn rows(ws: &Ws) -> Vec<Row> {
    let text = |label: &Option<hbpf_core::label::Label>| label.as_ref().map(ToString::to_string);
    ws.ended()
        .iter()
        .map(|exchange| {
            (
                text(&exchange.model),
                exchange.usage.output,
                exchange.output_events,
                text(&exchange.finish_reason),
                exchange.phase,
            )
        })
        .collect()
}

fn row(model: &str, output: u64) -> Row {
    (Some(model.to_owned()), Some(output), output, Some("completed".to_owned()), Phase::Done)
}

#[test]
fn an_answers_tier_and_cost_are_its_own() {
    let mut ws = Ws::opened(RESPONSES);
    for (id, tier, ticks) in [("resp_1", "priority", 5_000_000_000_u64), ("resp_2", "default", 0)] {
        ws.say(&create("m"));
        ws.answer(&created(id));
        let usage = format!(r#""usage":{{"cost_in_usd_ticks":{ticks},"#);
        let response = format!(r#""response":{{"service_tier":"{tier}","#);
        ws.answer(&completed(id, 1).replace(r#""usage":{"#, &usage).replace(r#""response":{"#, &response));
    }
    let told: Vec<_> = ws.ended().iter().map(|exchange| (exchange.tier, exchange.cost_reported_usd)).collect();
    assert_eq!(told, [(Some(ServiceTier::Priority), Some(0.5)), (Some(ServiceTier::Standard), Some(0.0))]);
}

#[test]
fn calls_on_one_connection_one_after_the_other() {
    for mut ws in [Ws::opened(RESPONSES), Ws::compressed()] {
        for (number, output) in [(1, 3), (2, 1), (3, 40)] {
            ws.say(&create(&format!("m-{number}")));
            assert_eq!(ws.engine.in_flight().count(), 1);
            ws.answers(&format!("resp_{number}"), output);
        }
        assert_eq!(rows(&ws), [row("m-1", 3), row("m-2", 1), row("m-3", 40)]);
        let exchange = ws.ended()[0];
        assert_eq!((exchange.protocol, exchange.api), (Protocol::Websocket, Api::Responses));
        assert_eq!((exchange.dialect, exchange.tls), (Dialect::OpenaiResponses, true));
        assert_eq!(exchange.endpoint.host.as_ref().unwrap().as_str(), "llm.example");
        assert_eq!((exchange.endpoint.port, exchange.bytes_missed, exchange.stream), (Some(8443), 0, Some(true)));
        assert_eq!(exchange.response_model.as_ref().unwrap().as_str(), "m-2026");
        let usage = exchange.usage;
        assert_eq!((usage.input, usage.cached_input, usage.cache_creation_input), (Some(9), Some(4), Some(2)));
        assert_eq!(usage.reasoning, Some(1));
        // Created, then the first token: two messages behind the one that asked.
        assert!((exchange.time_to_first_token_seconds().unwrap() - 0.002).abs() < 1e-9);
        assert!(!format!("{:?}", ws.log.events).contains(CANARY));
        assert_eq!(ws.log.actions(), [Action::Stream]);
        let counters = ws.engine.counters();
        assert_eq!((ws.engine.in_flight().count(), counters.parse_gaps, counters.desyncs), (0, 0, 0));
    }
}

#[test]
fn pieces_of_any_size_and_what_lies_between() {
    let mut whole = Ws::asked(RESPONSES);
    whole.agree("", &[]);
    let question = create("m-1");
    let (one, other) = question.as_bytes().split_at(30);
    let asks = [masked(0x01, one), masked(PING, b"hello"), masked(0x80, other)].concat();
    let answer = created("r");
    let (one, other) = answer.as_bytes().split_at(9);
    let says = [
        frame(PING, b""),
        frame(0x01, one),
        frame(0x8a, b"hello"),
        frame(0x00, other),
        frame(0x80, b""),
        frame(TEXT, delta().as_bytes()),
        frame(TEXT, completed("r", 1).as_bytes()),
    ]
    .concat();
    for size in [1, 2, 3, 7, 1000] {
        let mut ws = Ws::opened(RESPONSES);
        asks.chunks(size).for_each(|piece| ws.sent(piece));
        says.chunks(size).for_each(|piece| ws.received(piece));
        assert_eq!(rows(&ws), [row("m-1", 1)], "{size} bytes a piece");
        assert_eq!((ws.gaps(), ws.engine.counters().desyncs), (0, 0));
    }
    // The first message of a server may come with its head.
    let mut ws = Ws::asked(RESPONSES);
    ws.agree("", &says);
    assert_eq!((rows(&ws)[0].1, ws.ended()[0].model.as_ref()), (Some(1), None));
}

#[test]
fn how_answers_end() {
    let error = |error: &str| format!(r#"{{"type":"error","status":400,"error":{error}}}"#);
    let failed = format!(
        r#"{{"type":"response.failed","response":{{"id":"r","status":"failed","error":{{"code":"server_error","message":"{CANARY}"}},"usage":null}}}}"#
    );
    // What the server says; finish reason, error type, phase.
    let cases = [
        (
            ended("incomplete", "r", 5, r#"{"reason":"max_output_tokens"}"#),
            Some("max_output_tokens"),
            None,
            Phase::Done,
        ),
        (ended("cancelled", "r", 5, "null"), Some("cancelled"), None, Phase::Done),
        (failed, Some("failed"), Some("server_error"), Phase::Failed),
        (
            error(r#"{"type":"invalid_request_error","code":"previous_response_not_found","message":"x"}"#),
            None,
            Some("invalid_request_error"),
            Phase::Failed,
        ),
        (r#"{"type":"error","code":"x","message":"y","param":null}"#.into(), None, Some("error"), Phase::Failed),
    ];
    for has_begun in [true, false] {
        for (says, finish, error, phase) in &cases {
            let mut ws = Ws::opened(RESPONSES);
            ws.say(&create("m"));
            if has_begun {
                ws.answer(&created("r"));
            }
            ws.answer(says);
            let exchange = ws.ended()[0];
            assert_eq!(exchange.finish_reason.as_ref().map(|label| label.as_str()), *finish, "{says}");
            assert_eq!(exchange.error_type.as_ref().map(|label| label.as_str()), *error, "{says}");
            assert_eq!((exchange.phase, ws.engine.in_flight().count()), (*phase, 0), "{says}");
            ws.say(&create("m-2"));
            ws.answers("r-2", 1);
            assert_eq!(rows(&ws)[1], row("m-2", 1));
            assert_eq!(ws.ended().len(), 2);
        }
    }
}

#[test]
fn who_goes_away() {
    let reason = |how: &dyn Fn(&mut Ws)| {
        let mut ws = Ws::opened(RESPONSES);
        ws.say(&create("m"));
        ws.answer(&created("r"));
        how(&mut ws);
        let exchange = ws.ended()[0];
        assert_eq!(ws.ended().len(), 1);
        (exchange.phase, exchange.error_type.as_ref().unwrap().to_string())
    };
    let left = (Phase::Abandoned, "client_cancelled".to_owned());
    assert_eq!(reason(&|ws| ws.sent(&masked(CLOSE, &[3, 232]))), left);
    assert_eq!(reason(&|ws| ws.wire.close(&mut ws.engine, &mut ws.log, Close::Released)), left);
    let closed = (Phase::Failed, "connection_closed".to_owned());
    assert_eq!(reason(&|ws| ws.received(&frame(CLOSE, &[3, 243]))), closed);
}

#[test]
fn what_crosses_a_close_on_its_way_is_no_other_call() {
    for mut ws in [Ws::opened(RESPONSES), Ws::compressed()] {
        ws.say(&create("m-1"));
        ws.answer(&created("r-1"));
        ws.answer(&delta());
        ws.sent(&masked(CLOSE, &[3, 232]));
        ws.answer(&delta());
        ws.answer(&completed("r-1", 2));
        ws.received(&frame(CLOSE, &[3, 232]));
        assert_eq!((ws.ended().len(), ws.ended()[0].phase), (1, Phase::Abandoned));
        assert_eq!((ws.engine.in_flight().count(), ws.gaps(), ws.engine.counters().desyncs), (0, 0, 0));
        // Nor is a question that is on its way to a server that has closed.
        let mut ws = Ws::opened(RESPONSES);
        ws.received(&frame(CLOSE, &[3, 232]));
        ws.say(&create("m-1"));
        assert_eq!((ws.ended().len(), ws.engine.in_flight().count()), (0, 0));
    }
}

#[test]
fn a_close_lets_go_of_what_both_sides_hold() {
    let mut ws = Ws::compressed();
    ws.say(&create("m-1"));
    ws.answers("r-1", 2);
    let held = ws.engine.memory();
    ws.sent(&masked(CLOSE, &[3, 232]));
    assert!(held - ws.engine.memory() > 2 * 32 * 1024, "{held}, then {}", ws.engine.memory());
}

fn with(stream: &str, text: &str) -> String {
    text.replacen('{', &format!(r#"{{"stream_id":"{stream}","#), 1)
}

#[test]
fn conversations_side_by_side() {
    let mut ws = Ws::opened(RESPONSES);
    ws.say(&with("a", &create("m-a")));
    ws.say(&with("b", &create("m-b")));
    ws.answer(&with("b", &created("r-b")));
    ws.answer(&with("a", &created("r-a")));
    ws.answer(&with("a", &delta()));
    ws.answer(&with("b", &delta()));
    ws.answer(&with("b", &delta()));
    ws.answer(&with("a", &completed("r-a", 1)));
    ws.answer(&with("b", &delta()));
    ws.answer(&with("b", &completed("r-b", 3)));
    assert_eq!(rows(&ws), [row("m-a", 1), row("m-b", 3)]);
}

#[test]
fn what_a_close_tells_of_conversations_side_by_side() {
    // Streams in which is asked; whether bytes of the answers go missing before; of which calls is known that bytes are missing.
    let cases: [(&[&str], bool, &[bool]); 4] = [
        (&["a", "b"], false, &[false, false]),
        (&["a", "b", "a"], false, &[true, false, false]),
        (&["a", "a"], false, &[true, false]),
        (&["a", "b"], true, &[true, true]),
    ];
    for (streams, has_gap, expected) in cases {
        for by_client in [true, false] {
            let mut ws = Ws::opened(RESPONSES);
            for (number, stream) in streams.iter().enumerate() {
                ws.say(&with(stream, &create(&format!("m-{number}"))));
            }
            ws.answer(&with(streams[0], &created("r-0")));
            ws.answer(&with(streams[0], &delta()));
            ws.wire.offsets[1] += if has_gap { 50 } else { 0 };
            ws.received(&frame(PING, b""));
            if by_client {
                ws.sent(&masked(CLOSE, &[3, 232]));
            } else {
                ws.received(&frame(CLOSE, &[3, 232]));
            }
            let missed: Vec<_> = ws.ended().iter().map(|exchange| exchange.bytes_missed > 0).collect();
            assert_eq!(missed, expected, "{streams:?}, closed by the client: {by_client}");
            // What is not known to be over was cut.
            for (exchange, is_missed) in ws.ended().iter().zip(expected) {
                let phase = if by_client { Phase::Abandoned } else { Phase::Failed };
                assert_eq!(exchange.phase, if *is_missed && by_client { Phase::Done } else { phase }, "{streams:?}");
            }
        }
    }
}

#[test]
fn questions_that_wait_for_their_turn() {
    let mut ws = Ws::opened(RESPONSES);
    ws.say(&create("m-1"));
    ws.say(&create("m-2"));
    ws.say(&create("m-3"));
    ws.answers("r-1", 2);
    ws.answer(&created("r-2"));
    ws.answer(&delta());
    ws.answer(r#"{"type":"error","error":{"type":"server_error"}}"#);
    ws.answers("r-3", 1);
    // One that comes of what was said meanwhile.
    ws.answers("r-4", 3);
    let seen = rows(&ws);
    assert_eq!((&seen[0], &seen[2]), (&row("m-1", 2), &row("m-3", 1)));
    assert_eq!((seen[1].0.as_deref(), seen[1].2, seen[1].4), (Some("m-2"), 1, Phase::Failed));
    assert_eq!((seen[3].0.as_deref(), seen[3].1, seen.len()), (None, Some(3), 4));
}

#[test]
fn a_session_that_answers_by_itself() {
    let mut ws = Ws::opened("/v1/realtime?key=x&model=gpt-realtime");
    ws.answer(
        r#"{"type":"session.created","event_id":"e","session":{"model":"gpt-realtime-2026","instructions":"x"}}"#,
    );
    ws.say(&format!(r#"{{"type":"input_audio_buffer.append","audio":"{CANARY}"}}"#));
    ws.answer(r#"{"type":"input_audio_buffer.committed","item_id":"i"}"#);
    // Somebody has stopped speaking; then text is asked for; then a message is refused that asks for nothing.
    let realtime = |ws: &mut Ws, id: &str| {
        ws.answer(&format!(r#"{{"type":"response.created","response":{{"id":"{id}","status":"in_progress"}}}}"#));
        let transcript =
            r#"{"type":"conversation.item.input_audio_transcription.delta","item_id":"i","delta":"what was said"}"#;
        ws.answer(transcript);
        ws.answer(&format!(
            r#"{{"type":"response.output_audio_transcript.delta","response_id":"{id}","delta":"{CANARY}"}}"#
        ));
        ws.answer(
            r#"{"type":"error","event_id":"e","error":{"type":"invalid_request_error","code":"x","event_id":"other"}}"#,
        );
        ws.answer(&format!(
            r#"{{"type":"response.done","response":{{"id":"{id}","status":"cancelled","status_details":{{"type":"cancelled","reason":"turn_detected"}},"usage":{{"total_tokens":12,"input_tokens":10,"output_tokens":2,"input_token_details":{{"text_tokens":1,"audio_tokens":9,"cached_tokens":8}},"output_token_details":{{"text_tokens":1,"audio_tokens":1}}}}}}}}"#
        ));
    };
    realtime(&mut ws, "r-1");
    ws.say(r#"{"event_id":"ask","type":"response.create","response":{"conversation":"none"}}"#);
    realtime(&mut ws, "r-2");
    let seen: Vec<_> = ws
        .ended()
        .iter()
        .map(|exchange| {
            let usage = exchange.usage;
            let timed = exchange.time_to_first_token_seconds().is_some();
            (usage.input, usage.output, usage.cached_input, exchange.output_events, exchange.phase, timed)
        })
        .collect();
    let row = |timed| (Some(10), Some(2), Some(8), 1, Phase::Done, timed);
    assert_eq!(seen, [row(false), row(true)], "when a question ended that was spoken is not known");
    let exchange = ws.ended()[0];
    assert_eq!((exchange.api, exchange.dialect), (Api::Realtime, Dialect::OpenaiRealtime));
    assert_eq!(exchange.model.as_ref().unwrap().as_str(), "gpt-realtime-2026");
    assert_eq!(exchange.finish_reason.as_ref().unwrap().as_str(), "turn_detected");
    // One that asks for an answer is refused.
    ws.say(r#"{"event_id":"again","type":"response.create"}"#);
    ws.answer(r#"{"type":"error","error":{"type":"invalid_request_error","code":"conversation_already_has_active_response","event_id":"again"}}"#);
    let exchange = ws.ended()[2];
    assert_eq!(
        (exchange.phase, exchange.error_type.as_ref().unwrap().as_str()),
        (Phase::Failed, "invalid_request_error")
    );
    assert!(!format!("{:?}", ws.log.events).contains(CANARY));
}

/// A thread that writes may be heard of after the one that reads the answer.
#[test]
fn a_question_that_is_heard_of_late() {
    let mut ws = Ws::opened(RESPONSES);
    ws.answer(&created("r-1"));
    ws.say(&create("m-1"));
    ws.answer(&delta());
    ws.answer(&completed("r-1", 1));
    ws.answers("r-2", 2);
    ws.say(&create("m-2"));
    assert_eq!(ws.engine.in_flight().count(), 0);
    ws.say(&create("m-3"));
    ws.answers("r-3", 3);
    let seen = rows(&ws);
    assert_eq!((&seen[0], &seen[2]), (&row("m-1", 1), &row("m-3", 3)));
    assert_eq!((seen[1].0.as_ref(), seen[1].1, seen.len()), (None, Some(2), 3));
    let timed: Vec<_> = ws.ended().iter().map(|exchange| exchange.time_to_first_token_seconds().is_some()).collect();
    assert_eq!(timed, [false, false, true]);
    // Much later it is another one.
    ws.answer(&created("r-4"));
    ws.wire.now += 2000 * MS;
    ws.say(&create("m-5"));
    assert_eq!(ws.engine.in_flight().count(), 2);
}

#[test]
fn both_ends_on_one_host_are_one_call() {
    let mut engine = Engine::new();
    let mut log = Log::default();
    for role in [Direction::Sent, Direction::Received] {
        let wire = Wire::tls(7 + role.index() as u32, role);
        let mut ws = Ws::asked_of(wire, engine, log, RESPONSES);
        ws.agree("", &[]);
        for number in 0..3 {
            ws.say(&create("m"));
            ws.answers(&format!("r-{number}"), 2);
        }
        (engine, log) = (ws.engine, ws.log);
    }
    let mirrors: Vec<_> = log.ended().iter().map(|exchange| exchange.is_mirror).collect();
    assert_eq!(mirrors, [false, false, false, true, true, true]);
}

/// An upgrade that is asked for behind a call, without waiting for its answer.
#[test]
fn a_call_before_keeps_its_answer() {
    let asked = || {
        let wire = Wire::tls(7, Direction::Sent);
        let mut ws = Ws { wire, engine: Engine::new(), log: Log::default(), deflate: None };
        ws.wire.request(&mut ws.engine, &mut ws.log, &crate::wire::chat(false));
        let head = "GET /v1/responses HTTP/1.1\r\nHost: llm.example\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                    Sec-WebSocket-Key: x==\r\nSec-WebSocket-Version: 13\r\n\r\n";
        ws.sent(head.as_bytes());
        ws.wire.answer(&mut ws.engine, &mut ws.log, &crate::wire::json("200 OK", crate::wire::DONE_JSON));
        let exchange = ws.ended()[0];
        assert_eq!((exchange.status, exchange.usage.output, exchange.phase), (Some(200), Some(3), Phase::Done));
        assert!(exchange.headers_at.is_some());
        ws
    };
    let mut ws = asked();
    ws.agree("", &[]);
    ws.say(&create("m-1"));
    ws.answers("r-1", 2);
    assert_eq!((&rows(&ws)[1], ws.log.actions(), ws.gaps()), (&row("m-1", 2), vec![Action::Stream], 0));
    // The answer to the upgrade itself says no.
    let mut ws = asked();
    ws.wire.answer(&mut ws.engine, &mut ws.log, &crate::wire::json("401 Unauthorized", "{}"));
    assert_eq!((ws.ended().len(), ws.log.actions(), ws.gaps()), (1, vec![Action::Ignore], 0));
}

#[test]
fn what_was_wanted_is_forgotten_where_the_server_chooses_http2() {
    // The stream of what was asked is reset: a connection without calls holds the same, whatever it was before.
    const RESET: &[u8] = &[0, 0, 4, 3, 0, 0, 0, 0, 1, 0, 0, 0, 8];
    let switching = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n";
    let mut ws = Ws::asked(RESPONSES);
    ws.received(&[switching, RESET].concat());
    let wire = Wire::tls(7, Direction::Sent);
    let mut call = Ws { wire, engine: Engine::new(), log: Log::default(), deflate: None };
    call.wire.request(&mut call.engine, &mut call.log, &crate::wire::chat(false));
    call.received(&[switching, RESET].concat());
    assert_eq!((call.ended().len(), ws.log.events.len()), (1, 0));
    assert_eq!(ws.engine.memory(), call.engine.memory());
}

#[test]
fn what_is_no_such_connection() {
    // Not agreed: an ordinary answer, and the connection goes on.
    let mut ws = Ws::asked(RESPONSES);
    ws.wire.answer(&mut ws.engine, &mut ws.log, &crate::wire::json("401 Unauthorized", "{}"));
    assert_eq!(ws.log.actions(), [Action::Ignore]);
    ws.wire.request(&mut ws.engine, &mut ws.log, &crate::wire::chat(false));
    ws.wire.answer(&mut ws.engine, &mut ws.log, &crate::wire::json("200 OK", crate::wire::DONE_JSON));
    assert_eq!(ws.ended().len(), 1);
    // Another protocol than was asked for.
    let mut ws = Ws::asked(RESPONSES);
    ws.received(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: other\r\n\r\nxyz");
    assert_eq!(ws.log.actions(), [Action::Opaque]);
    // Another path; one that is judged only when its beginning is past is learned.
    let ws = Ws::asked("/chat");
    assert_eq!(ws.log.actions(), [Action::Ignore]);
    let wire = Wire { capture: Capture::Awaiting, ..Wire::tls(9, Direction::Sent) };
    let ws = Ws::asked_of(wire, Engine::new(), Log::default(), RESPONSES);
    assert_eq!((ws.log.actions(), ws.log.learned.len()), (vec![Action::Ignore], 1));
}

#[test]
fn a_gap_costs_what_it_touches() {
    // Amid an event of a server that does not compress.
    let mut ws = Ws::opened(RESPONSES);
    ws.say(&create("m-1"));
    ws.answer(&created("r-1"));
    let event = frame(TEXT, delta().as_bytes());
    ws.wire.send_part(&mut ws.engine, &mut ws.log, Direction::Received, &event, 20, false);
    ws.answer(&delta());
    ws.answer(&completed("r-1", 2));
    let exchange = ws.ended()[0];
    assert_eq!(
        (exchange.usage.output, exchange.output_events, exchange.bytes_missed),
        (Some(2), 1, event.len() as u64 - 20)
    );
    assert_eq!((exchange.time_to_first_token_seconds(), ws.gaps()), (None, 1));

    // Across events: the next piece that consists of frames is one.
    ws.say(&create("m-2"));
    ws.answer(&created("r-2"));
    ws.wire.offsets[1] += 500;
    ws.received(&delta().as_bytes()[3..]);
    ws.answer(&delta());
    ws.answer(&completed("r-2", 9));
    assert_eq!((rows(&ws)[1].1, ws.gaps()), (Some(9), 2));
    assert!(ws.ended()[1].bytes_missed >= 500);

    // The end of an answer: what comes next says that it is over.
    ws.say(&create("m-3"));
    ws.answer(&created("r-3"));
    ws.wire.offsets[1] += 500;
    ws.say(&create("m-4"));
    ws.answers("r-4", 1);
    let exchange = ws.ended()[2];
    assert_eq!((exchange.phase, exchange.usage.output), (Phase::Done, None));
    assert!(exchange.bytes_missed > 0);
    assert_eq!(rows(&ws)[3], row("m-4", 1));

    // A question: what it costs is known all the same.
    let question = masked(TEXT, create("m-5").as_bytes());
    ws.wire.send_part(&mut ws.engine, &mut ws.log, Direction::Sent, &question, 30, false);
    ws.answers("r-5", 2);
    let exchange = ws.ended()[4];
    assert_eq!((exchange.usage.output, exchange.model.as_ref(), exchange.output_events), (Some(2), None, 2));
    assert_eq!((exchange.time_to_first_token_seconds(), ws.gaps()), (None, 4));
}

#[test]
fn behind_a_gap_what_is_compressed_is_unknown_and_not_zero() {
    let mut ws = Ws::compressed();
    ws.say(&create("m-1"));
    ws.answers("r-1", 2);
    ws.say(&create("m-2"));
    ws.answer(&created("r-2"));
    let (first, payload) = ws.message(1, &delta());
    let event = frame(first, &payload);
    ws.wire.send_part(&mut ws.engine, &mut ws.log, Direction::Received, &event, 5, false);
    ws.answer(&completed("r-2", 7));
    ws.say(&create("m-3"));
    ws.answers("r-3", 3);
    assert_eq!(ws.engine.in_flight().count(), 1);
    ws.wire.close(&mut ws.engine, &mut ws.log, Close::Released);
    let seen: Vec<_> = ws.ended().iter().map(|exchange| (exchange.usage.output, exchange.bytes_missed > 0)).collect();
    assert_eq!(seen, [(Some(2), false), (None, true), (None, true)]);
    assert_eq!(ws.gaps(), 1, "one gap, whatever it costs");
}

#[test]
fn it_outlasts_silence_and_gives_way_to_others() {
    let mut ws = Ws::compressed();
    ws.say(&create("m-1"));
    ws.answers("r-1", 2);
    let held = ws.engine.memory();
    assert!(held > 2 * 32 * 1024, "{held}");
    for _ in 0..30 {
        ws.wire.now += 60_000 * MS;
        ws.engine.tick(Nanos(ws.wire.now), &mut ws.log);
    }
    ws.say(&create("m-2"));
    ws.answers("r-2", 3);
    assert_eq!(rows(&ws), [row("m-1", 2), row("m-2", 3)]);
    for _ in 0..60 {
        ws.wire.now += 60_000 * MS;
        ws.engine.tick(Nanos(ws.wire.now), &mut ws.log);
    }
    assert_eq!((ws.engine.memory(), ws.engine.is_idle()), (0, true));
    // Too little room for its windows: what refers to them is lost, and said to be.
    let wire = Wire::tls(8, Direction::Sent);
    let mut ws = Ws::asked_of(wire, Engine::with_memory(64 * 1024), Log::default(), RESPONSES);
    ws.agree("Sec-WebSocket-Extensions: permessage-deflate\r\n", &[]);
    ws.compresses();
    for number in 0..4 {
        ws.say(&create("m"));
        ws.answers(&format!("r-{number}"), 2);
        assert!(ws.engine.memory() <= 64 * 1024, "{}", ws.engine.memory());
    }
    assert!(ws.engine.counters().over_budget > 0);
}

/// Connections as PyPI's `websockets` has them on both sides, handshake and all.
const CAPTURED: &str = include_str!("websockets.hex");

/// The first piece is the request; of the pieces, the one at `index` comes in two.
fn replay(pieces: &[Piece], index: usize, cut: usize) -> Ws {
    let (wire, engine, log) = (Wire::tls(7, Direction::Sent), Engine::new(), Log::default());
    let mut ws = Ws { wire, engine, log, deflate: None };
    for (number, (direction, bytes)) in pieces.iter().enumerate() {
        let (one, other) = bytes.split_at(if number == index { cut } else { 0 });
        for (part, begins) in [(one, number == 0), (other, number == 0 && one.is_empty())] {
            if !part.is_empty() {
                ws.wire.send(&mut ws.engine, &mut ws.log, *direction, part, begins);
            }
        }
    }
    ws
}

/// What was written at once, and which way.
type Piece = (Direction, Vec<u8>);

/// What each is called, and its pieces.
fn sessions() -> Vec<(&'static str, Vec<Piece>)> {
    let byte = |digits: &[u8]| u8::from_str_radix(std::str::from_utf8(digits).unwrap(), 16).unwrap();
    let piece = |line: &str| {
        let (who, digits) = line.split_once(' ').unwrap();
        let direction = if who == "C" { Direction::Sent } else { Direction::Received };
        (direction, digits.as_bytes().chunks(2).map(byte).collect::<Vec<u8>>())
    };
    let sections = CAPTURED.split("# ").filter(|section| section.contains("\nC "));
    let sections = sections.map(|section| section.split_once('\n').unwrap());
    sections.map(|(name, lines)| (name, lines.lines().map(piece).collect())).collect()
}

#[test]
fn connections_of_a_real_library_cut_at_every_point() {
    assert_eq!(sessions().len(), 3);
    for (name, pieces) in sessions() {
        for (index, (_, bytes)) in pieces.iter().enumerate() {
            for cut in 0..bytes.len() {
                let ws = replay(&pieces, index, cut);
                let place = format!("{name}: piece {index} cut at {cut}");
                assert_eq!(rows(&ws), [row("m-1", 1), row("m-2", 2), row("m-3", 3)], "{place}");
                let usage = ws.ended()[2].usage;
                assert_eq!((usage.input, usage.cached_input, usage.reasoning), (Some(30), Some(3), Some(0)), "{place}");
                let counters = ws.engine.counters();
                assert_eq!((counters.parse_gaps, counters.desyncs), (0, 0), "{place}");
                assert_eq!(ws.log.actions(), [Action::Stream], "{place}");
                if cut == 0 {
                    assert!(!format!("{:?}", ws.log.events).contains("CANARY"), "{place}");
                    assert_eq!(ws.engine.in_flight().count(), 0);
                }
            }
        }
    }
}

proptest! {
    /// Bytes of one direction are missing: nothing is told that was not so, and what is not known is said to be.
    #[test]
    fn with_a_hole_nothing_is_too_high(session in 0..3_usize, is_client: bool, from in 0.0..1.0, len in 0.0..0.3) {
        let (_, pieces) = sessions().swap_remove(session);
        let direction = if is_client { Direction::Sent } else { Direction::Received };
        let of_direction = pieces.iter().filter(|(of, _)| *of == direction).map(|(_, bytes)| bytes);
        // Behind the handshake, and before what shows that there is a hole, if that is in time: both end with a close.
        const CLOSE_BYTES: usize = 8;
        let (first, total) = (of_direction.clone().next().unwrap().len(), of_direction.map(Vec::len).sum::<usize>() - CLOSE_BYTES);
        let from = first + ((total - first) as f64 * from) as usize;
        let to = (from + 1 + (total as f64 * len) as usize).min(total);
        let (wire, engine, log) = (Wire::tls(7, Direction::Sent), Engine::new(), Log::default());
        let mut ws = Ws { wire, engine, log, deflate: None };
        let mut at = 0;
        for (number, (of, bytes)) in pieces.iter().enumerate() {
            let mut parts = vec![(0, bytes.len())];
            if *of == direction {
                let within = |place: usize| place.clamp(at, at + bytes.len()) - at;
                parts = vec![(0, within(from)), (within(to), bytes.len())];
                at += bytes.len();
            }
            let mut passed = 0;
            for (start, end) in parts {
                ws.wire.offsets[of.index()] += (start - passed) as u64;
                passed = end;
                if end > start {
                    ws.wire.send(&mut ws.engine, &mut ws.log, *of, &bytes[start..end], number == 0 && start == 0);
                }
            }
            ws.wire.offsets[of.index()] += (bytes.len() - passed) as u64;
        }
        ws.wire.close(&mut ws.engine, &mut ws.log, Close::Released);
        prop_assert_eq!((ws.engine.in_flight().count(), ws.engine.counters().desyncs), (0, 0));
        let ended = ws.ended();
        prop_assert!(ended.len() >= 2, "{} calls of three", ended.len());
        let (mut reported, mut seen) = (Vec::new(), 0);
        for exchange in &ended {
            reported.extend(exchange.usage.output);
            seen += exchange.output_events;
            prop_assert!(exchange.usage.output.is_some() || exchange.bytes_missed > 0, "{:?}", exchange);
            prop_assert_eq!(exchange.phase, Phase::Done);
        }
        prop_assert!(seen <= 6 && reported.windows(2).all(|pair| pair[0] < pair[1]) && reported.iter().all(|output| *output <= 3));
        if is_client {
            prop_assert_eq!(reported, [1, 2, 3]);
        }
    }
}
