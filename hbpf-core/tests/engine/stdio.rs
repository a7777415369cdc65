//! Calls of MCP servers over standard input and output.

use hbpf_core::chunk::{Action, Direction, Pid, Source};
use hbpf_core::engine::Engine;
use hbpf_core::exchange::{Api, Dialect, Exchange, Phase, Protocol, Role};
use proptest::prelude::*;

use crate::wire::{CANARY, Log, Wire};

const IN: Direction = Direction::Received;
const OUT: Direction = Direction::Sent;

/// A server's standard input and output.
struct Stdio {
    wire: Wire,
    engine: Engine,
    log: Log,
}

impl Stdio {
    fn new() -> Self {
        let mut wire = Wire::tls(7, IN);
        wire.key.source = Source::Stdio;
        Self { wire, engine: Engine::new(), log: Log::default() }
    }

    fn push(&mut self, direction: Direction, bytes: &[u8]) {
        self.wire.send(&mut self.engine, &mut self.log, direction, bytes, false);
    }

    fn line(&mut self, direction: Direction, line: &str) {
        self.push(direction, format!("{line}\n").as_bytes());
    }

    fn lose(&mut self, direction: Direction, bytes: u64) {
        self.wire.offsets[direction.index()] += bytes;
    }

    fn ended(&self) -> Vec<Told> {
        self.log.ended().into_iter().map(told).collect()
    }
}

type Told = (String, Option<String>, Phase, Option<String>);

fn told(exchange: &Exchange) -> Told {
    let call = exchange.tool_call.as_deref().expect("a tool is called");
    let text = |label: &hbpf_core::label::Label| label.to_string();
    (text(&call.method), call.name.as_ref().map(text), exchange.phase, exchange.error_type.as_ref().map(text))
}

fn call(id: u32, tool: &str) -> String {
    format!(
        r#"{{"method":"tools/call","params":{{"name":"{tool}","arguments":{{"text":"{CANARY}\n"}}}},"jsonrpc":"2.0","id":{id}}}"#
    )
}

fn result(id: u32) -> String {
    format!(
        r#"{{"jsonrpc":"2.0","id":{id},"result":{{"content":[{{"type":"text","text":"{CANARY}"}}],"isError":false}}}}"#
    )
}

fn failure(id: u32) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{"content":[],"isError":true}}}}"#)
}

fn done(tool: &str) -> Told {
    ("tools/call".into(), Some(tool.into()), Phase::Done, None)
}

#[test]
fn calls_are_exchanges_of_the_server() {
    let mut stdio = Stdio::new();
    stdio.line(IN, r#"{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-06-18"}}"#);
    stdio.line(OUT, r#"{"jsonrpc":"2.0","id":0,"result":{"serverInfo":{"name":"files","version":"1"}}}"#);
    stdio.line(IN, r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#);
    stdio.line(IN, &call(1, "read"));
    stdio.line(IN, &call(2, "write"));
    stdio.line(OUT, r#"{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":1,"progress":1}}"#);
    stdio.line(OUT, r#"{"jsonrpc":"2.0","id":1,"method":"sampling/createMessage","params":{}}"#);
    stdio.line(IN, r#"{"jsonrpc":"2.0","id":1,"result":{}}"#);
    stdio.line(OUT, &failure(2));
    stdio.line(OUT, "a line that a library prints");
    stdio.line(OUT, &result(1));
    let write = ("tools/call".into(), Some("write".into()), Phase::Failed, Some("tool_error".into()));
    assert_eq!(stdio.ended(), [("initialize".into(), None, Phase::Done, None), write, done("read")]);
    let read = stdio.log.ended()[2];
    assert_eq!(
        (read.role, read.api, read.dialect, read.protocol),
        (Role::Server, Api::Tool, Dialect::Mcp, Protocol::Stdio)
    );
    assert_eq!(read.response_model.as_deref(), Some("files"), "it has said so once");
    assert!(!read.tls && read.bytes_missed == 0);
    assert_eq!(
        (read.request_sent_at, read.ended_at),
        (Some(read.opened_at), Some(hbpf_core::time::Nanos(stdio.wire.now)))
    );
    assert!(!format!("{:?}", stdio.log.events).contains(CANARY));
    assert_eq!(stdio.log.actions(), [Action::Capture], "it is told once that they speak MCP");
}

#[test]
fn an_error_is_named_by_its_code() {
    let mut stdio = Stdio::new();
    stdio.line(IN, &call(1, "read"));
    stdio.line(OUT, &format!(r#"{{"jsonrpc":"2.0","id":1,"error":{{"code":-32602,"message":"{CANARY}"}}}}"#));
    assert_eq!(stdio.ended(), [("tools/call".into(), Some("read".into()), Phase::Failed, Some("-32602".into()))]);
}

#[test]
fn a_call_ends_with_its_client_or_its_server() {
    let mut stdio = Stdio::new();
    stdio.line(IN, &call(1, "slow"));
    stdio.line(IN, r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":1}}"#);
    stdio.line(IN, &call(2, "deadly"));
    let now = hbpf_core::time::Nanos(stdio.wire.now);
    stdio.engine.process_exited(Pid(7), now, &mut stdio.log);
    let ended: Vec<_> =
        stdio.ended().into_iter().map(|(_, name, phase, error)| (name.unwrap(), phase, error.unwrap())).collect();
    assert_eq!(
        ended,
        [
            ("slow".into(), Phase::Abandoned, "client_cancelled".into()),
            ("deadly".into(), Phase::Failed, "server_exited".into())
        ]
    );
}

#[test]
fn what_was_lost_spoils_its_own_line_alone() {
    let mut stdio = Stdio::new();
    stdio.line(IN, &call(1, "one"));
    stdio.line(IN, &call(2, "two"));
    stdio.push(OUT, &result(1).as_bytes()[..24]);
    stdio.lose(OUT, 30);
    stdio.line(OUT, &result(1)[54..]);
    stdio.line(OUT, &result(2));
    // Of an answer that is not read to its end the beginning says whose it is.
    assert_eq!(stdio.ended(), [done("one"), done("two")]);
    assert!(stdio.log.ended()[0].bytes_missed >= 30 && stdio.log.ended()[1].bytes_missed >= 30);
    stdio.lose(IN, 100);
    stdio.line(IN, "the end of a line");
    stdio.line(IN, &call(1, "three"));
    stdio.line(IN, &call(1, "four"));
    assert_eq!(stdio.ended()[2..], [done("three")], "an id that is used again has its answer");
    // Where not even that was seen it is the answer to the only call.
    stdio.lose(OUT, 500_000);
    stdio.line(OUT, "\"}]}}");
    assert_eq!(stdio.ended()[3..], [done("four")]);
    assert_eq!(stdio.log.actions(), [Action::Capture]);
}

#[test]
fn a_new_program_under_the_same_number_is_another_server() {
    let mut stdio = Stdio::new();
    stdio.line(IN, "no JSON");
    assert_eq!(stdio.log.actions(), [Action::Opaque]);
    let now = hbpf_core::time::Nanos(stdio.wire.now);
    stdio.engine.process_executed(Pid(7), now, &mut stdio.log);
    stdio.wire.key.generation = now.0 + 1;
    stdio.wire.offsets = [0; 2];
    stdio.line(IN, &call(1, "read"));
    stdio.line(OUT, &result(1));
    assert_eq!(stdio.ended(), [done("read")]);
}

#[test]
fn who_speaks_something_else_is_left_alone() {
    for foreign in ["Content-Length: 120\r", "go", "{\"cmd\":1}", "\u{80}\0"] {
        let mut stdio = Stdio::new();
        stdio.line(IN, foreign);
        assert_eq!(stdio.log.actions(), [Action::Opaque], "{foreign}");
        stdio.line(IN, &call(1, "read"));
        assert!(stdio.log.events.is_empty());
    }
    let mut other_rpc = Stdio::new();
    for id in 0..20 {
        other_rpc.line(IN, &format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"textDocument/hover"}}"#));
    }
    assert_eq!(other_rpc.log.actions(), [Action::Opaque]);
    let mut talker = Stdio::new();
    for _ in 0..300 {
        talker.push(OUT, &[b'x'; 8192]);
    }
    assert_eq!(talker.log.actions(), [Action::Opaque]);
    assert!(talker.engine.memory() < 100_000);
}

#[test]
fn calls_without_answers_are_bounded() {
    let mut stdio = Stdio::new();
    for id in 0..10_000 {
        stdio.line(IN, &call(id, "read"));
    }
    assert!(stdio.engine.in_flight().count() <= 64);
    assert!(stdio.engine.memory() < 1_000_000, "{}", stdio.engine.memory());
}

proptest! {
    #[test]
    fn any_pieces_say_the_same(cuts in prop::collection::vec(0_usize..2000, 0..40)) {
        let script = [
            (IN, call(1, "one")), (IN, String::new()), (IN, call(2, "two")), (OUT, result(2)), (OUT, failure(1)),
            (IN, call(3, "three\\u00e9")), (OUT, result(3)),
        ];
        let mut stdio = Stdio::new();
        for (direction, line) in script {
            let bytes = format!("{line}\r\n").into_bytes();
            let mut places: Vec<usize> = cuts.iter().copied().filter(|cut| *cut < bytes.len()).collect();
            places.extend([0, bytes.len()]);
            places.sort_unstable();
            for part in places.windows(2) {
                stdio.push(direction, &bytes[part[0]..part[1]]);
            }
        }
        let failed = ("tools/call".into(), Some("one".into()), Phase::Failed, Some("tool_error".into()));
        prop_assert_eq!(stdio.ended(), vec![done("two"), failed, done("three\u{e9}")]);
    }
}
