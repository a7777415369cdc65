//! The engine from pieces of streams to exchanges: the states in which exchanges end, judgement, gaps, both ends.

use hbpf_core::chunk::{
    Action, Capture, Chunk, Close, ConnectionKey, Direction, Origin, Pid, Segment, Source, Verdict,
};
use hbpf_core::dialect::JUDGE_BYTES;
use hbpf_core::engine::{Engine, Observer};
use hbpf_core::exchange::{Dialect, Exchange, ExchangeEvent, Phase, Role};
use hbpf_core::time::Nanos;
use std::time::Duration;

const MS: u64 = 1_000_000;
const CANARY: &str = "xyzzy-canary-text";

#[derive(Default)]
struct Log {
    events: Vec<(Nanos, Exchange, ExchangeEvent)>,
    verdicts: Vec<Verdict>,
    learned: Vec<String>,
    owners_wanted: Vec<ConnectionKey>,
}

impl Observer for Log {
    fn exchange(&mut self, when: Nanos, exchange: &Exchange, event: ExchangeEvent) {
        self.events.push((when, exchange.clone(), event));
    }
    fn verdict(&mut self, verdict: Verdict) {
        self.verdicts.push(verdict);
    }
    fn learned(&mut self, path: &str) {
        self.learned.push(path.to_owned());
    }
    fn owner_wanted(&mut self, connection: ConnectionKey, _: &Origin) {
        self.owners_wanted.push(connection);
    }
}

impl Log {
    fn ended(&self) -> Vec<&Exchange> {
        self.events
            .iter()
            .filter(|(_, _, event)| *event == ExchangeEvent::Ended)
            .map(|(_, exchange, _)| exchange)
            .collect()
    }

    fn actions(&self) -> Vec<Action> {
        self.verdicts.iter().map(|verdict| verdict.action).collect()
    }
}

/// One endpoint that feeds the engine as the kernel side would.
struct Wire {
    key: ConnectionKey,
    origin: Origin,
    request: Direction,
    offsets: [u64; 2],
    message: u32,
    capture: Capture,
    now: u64,
}

impl Wire {
    fn tls(pid: u32, request: Direction) -> Self {
        let key = ConnectionKey { source: Source::Tls, pid, handle: 0x7000, generation: 1 };
        let origin = Origin {
            pid: Some(Pid(pid)),
            owner_is_certain: true,
            comm: *b"python3\0\0\0\0\0\0\0\0\0",
            ..Origin::default()
        };
        Self { key, origin, request, offsets: [0; 2], message: 0, capture: Capture::Positive, now: 1000 * MS }
    }

    fn send(&mut self, engine: &mut Engine, log: &mut Log, direction: Direction, bytes: &[u8], begins: bool) {
        self.send_part(engine, log, direction, bytes, bytes.len(), begins);
    }

    /// Sends `bytes`, of which only the first `copied` are seen.
    fn send_part(
        &mut self,
        engine: &mut Engine,
        log: &mut Log,
        direction: Direction,
        bytes: &[u8],
        copied: usize,
        begins: bool,
    ) {
        self.now += MS;
        if begins {
            self.message += 1;
        }
        let chunk = Chunk {
            when: Nanos(self.now),
            connection: self.key,
            origin: &self.origin,
            direction,
            offset: self.offsets[direction.index()],
            original_len: bytes.len() as u64,
            bytes: &bytes[..copied],
            message: self.message,
            begins_message: begins,
            capture: self.capture,
            follows_thinning: false,
            ends_stream: false,
        };
        engine.chunk(&chunk, log);
        self.offsets[direction.index()] += bytes.len() as u64;
    }

    fn request(&mut self, engine: &mut Engine, log: &mut Log, text: &str) {
        self.send(engine, log, self.request, text.as_bytes(), true);
    }

    fn answer(&mut self, engine: &mut Engine, log: &mut Log, text: &str) {
        self.send(engine, log, self.request.opposite(), text.as_bytes(), false);
    }

    fn answer_of_length(&mut self, engine: &mut Engine, log: &mut Log, text: &str, copied: usize) {
        let copied = copied.min(text.len());
        self.send_part(engine, log, self.request.opposite(), text.as_bytes(), copied, false);
    }

    /// The stream of that direction is over.
    fn end(&mut self, engine: &mut Engine, log: &mut Log, direction: Direction) {
        self.now += MS;
        let chunk = Chunk {
            when: Nanos(self.now),
            connection: self.key,
            origin: &self.origin,
            direction,
            offset: self.offsets[direction.index()],
            original_len: 0,
            bytes: &[],
            message: self.message,
            begins_message: false,
            capture: self.capture,
            follows_thinning: false,
            ends_stream: true,
        };
        engine.chunk(&chunk, log);
    }

    fn close(&mut self, engine: &mut Engine, log: &mut Log, how: Close) {
        self.now += MS;
        engine.close(self.key, how, Nanos(self.now), log);
    }
}

fn post(path: &str, body: &str) -> String {
    format!(
        "POST {path} HTTP/1.1\r\nHost: llm.example:8443\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

fn chat(stream: bool) -> String {
    let body = format!(r#"{{"model":"m-1","messages":[{{"role":"user","content":"{CANARY}"}}],"stream":{stream}}}"#);
    post("/v1/chat/completions", &body)
}

fn json(status: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

fn chunked(text: &str) -> String {
    format!("{:x}\r\n{text}\r\n", text.len())
}

const SSE_HEAD: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";

fn token(text: &str) -> String {
    chunked(&format!(
        "data: {{\"object\":\"chat.completion.chunk\",\"model\":\"m-1-x\",\"choices\":[{{\"index\":0,\"delta\":{{\"content\":\"{text}\"}}}}]}}\n\n"
    ))
}

const DONE_JSON: &str = r#"{"object":"chat.completion","model":"m-1-x","choices":[{"index":0,"message":{"role":"assistant","content":"hello"},"finish_reason":"stop"}],"usage":{"prompt_tokens":9,"completion_tokens":3,"total_tokens":12,"prompt_tokens_details":{"cached_tokens":4}}}"#;

#[test]
fn a_streamed_call_is_timed_and_counted() {
    let (mut engine, mut log) = (Engine::new(), Log::default());
    let mut wire = Wire::tls(7, Direction::Sent);
    wire.request(&mut engine, &mut log, &chat(true));
    wire.answer(&mut engine, &mut log, SSE_HEAD);
    for _ in 0..3 {
        wire.answer(&mut engine, &mut log, &token("hi"));
    }
    assert_eq!(engine.in_flight().count(), 1);
    let usage = "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":9,\"completion_tokens\":3}}\n\ndata: [DONE]\n\n";
    wire.answer(&mut engine, &mut log, &chunked(usage));
    wire.answer(&mut engine, &mut log, "0\r\n\r\n");
    let ended = log.ended();
    assert_eq!(ended.len(), 1);
    let exchange = ended[0];
    assert_eq!(exchange.phase, Phase::Done);
    assert_eq!((exchange.role, exchange.pid), (Role::Client, Some(Pid(7))));
    assert_eq!(exchange.model.as_ref().unwrap().as_str(), "m-1");
    assert_eq!(exchange.response_model.as_ref().unwrap().as_str(), "m-1-x");
    assert_eq!(exchange.endpoint.host.as_ref().unwrap().as_str(), "llm.example");
    assert_eq!(exchange.endpoint.port, Some(8443));
    assert_eq!(exchange.stream, Some(true));
    assert_eq!((exchange.usage.input, exchange.usage.output), (Some(9), Some(3)));
    assert_eq!(exchange.output_events, 3);
    let body = chat(true).len() as u64;
    assert!(exchange.bytes_seen > body, "the answer's body counts too: {}", exchange.bytes_seen);
    assert!((exchange.time_to_first_token_seconds().unwrap() - 0.002).abs() < 1e-9);
    assert!((exchange.time_to_headers_seconds().unwrap() - 0.001).abs() < 1e-9);
    assert_eq!(engine.in_flight().count(), 0);
    let kinds: Vec<_> = log.events.iter().map(|(_, _, event)| std::mem::discriminant(event)).collect();
    assert_eq!(kinds.len(), 7, "opened, request sent, headers, three outputs, ended");
    assert!(!format!("{:?}", log.events).contains(CANARY));
    assert!(log.verdicts.is_empty(), "the kernel captured it already");
}

#[test]
fn a_plain_call_reports_usage() {
    let (mut engine, mut log) = (Engine::new(), Log::default());
    let mut wire = Wire::tls(7, Direction::Received);
    wire.request(&mut engine, &mut log, &chat(false));
    wire.answer(&mut engine, &mut log, &json("200 OK", DONE_JSON));
    let exchange = log.ended()[0];
    assert_eq!((exchange.phase, exchange.role), (Phase::Done, Role::Server));
    assert_eq!((exchange.usage.input, exchange.usage.output, exchange.usage.cached_input), (Some(9), Some(3), Some(4)));
    assert_eq!(exchange.finish_reason.as_ref().unwrap().as_str(), "stop");
    assert_eq!(exchange.first_token_at, None);
}

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
    engine.set_owner(wire.key, Some(Pid(99)), &mut log);
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

#[test]
fn an_upgraded_or_http2_connection_is_left_alone() {
    let (mut engine, mut log) = (Engine::new(), Log::default());
    let mut wire = Wire::tls(7, Direction::Sent);
    wire.capture = Capture::Awaiting;
    wire.request(&mut engine, &mut log, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    assert_eq!(log.actions(), [Action::Opaque]);
    wire.request(&mut engine, &mut log, &chat(false));
    assert!(log.events.is_empty());
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

#[test]
fn an_answer_that_cannot_be_read_is_counted_and_says_so() {
    let unreadable = ["HTTP/1.1 200 O\x01K\r\nContent-Length: 2\r\n\r\n{}", "HTTP/1.1 \x1b[2J\r\n\r\n", "\0\0\0\0"];
    for answer in unreadable {
        let (mut engine, mut log) = (Engine::new(), Log::default());
        let mut wire = Wire::tls(7, Direction::Sent);
        wire.request(&mut engine, &mut log, &chat(false));
        wire.answer(&mut engine, &mut log, answer);
        wire.request(&mut engine, &mut log, &chat(false));
        wire.answer(&mut engine, &mut log, &json("200 OK", DONE_JSON));
        let ended = log.ended();
        assert_eq!((ended.len(), engine.counters().desyncs), (2, 1), "{answer:?}");
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
