//! What is asked of MCP servers.

use super::*;
use crate::exchange::ToolCall;

fn call(
    bench: &mut Bench,
    seconds: f64,
    id: u64,
    method: &str,
    name: Option<&str>,
    change: impl FnOnce(&mut Exchange),
) {
    bench.open(seconds, id, |exchange| (exchange.api, exchange.dialect) = (Api::Tool, Dialect::Mcp));
    bench.event(seconds, id, ExchangeEvent::RequestSent, |exchange| {
        exchange.tool_call = Some(Box::new(ToolCall { method: method.into(), name: name.map(Into::into) }));
    });
    bench.headers(seconds + 0.5, id, 200);
    bench.end(seconds + 0.5, id, Phase::Done, change);
}

#[test]
fn calls_count_by_server_method_and_tool_and_nowhere_else() {
    let mut bench = Bench::new();
    call(&mut bench, 0.0, 1, "tools/list", None, |_| {});
    call(&mut bench, 1.0, 2, "initialize", None, |exchange| exchange.response_model = Some("weather".into()));
    for id in 3..6 {
        call(&mut bench, id as f64, id, "tools/call", Some("look_up"), |_| {});
    }
    call(&mut bench, 6.0, 6, "tools/call", Some("look_up"), |exchange| {
        (exchange.phase, exchange.error_type) = (Phase::Failed, Some("tool_error".into()));
    });
    // Its other end.
    call(&mut bench, 7.0, 7, "tools/call", Some("look_up"), |exchange| exchange.is_mirror = true);
    // The answer comes elsewhere.
    call(&mut bench, 8.0, 8, "tools/call", Some("slow"), |exchange| exchange.status = Some(202));
    bench.open(9.0, 9, |exchange| exchange.api = Api::Tool);
    let frame = bench.frame(10.0);
    let rows: Vec<_> = frame
        .tools
        .iter()
        .map(|row| {
            let timed = row.duration_seconds.as_ref().map(|times| times.count);
            (row.server.as_str(), row.method.as_str(), row.tool.as_deref(), row.calls_total, row.errors_total, timed)
        })
        .collect();
    let expected = [
        ("weather", "tools/call", Some("look_up"), 4, 1, Some(4)),
        ("api.example:443", "tools/list", None, 1, 0, Some(1)),
        ("weather", "initialize", None, 1, 0, Some(1)),
        ("weather", "tools/call", Some("slow"), 1, 0, None),
    ];
    assert_eq!(rows, expected);
    assert_eq!((frame.totals.requests_total, frame.totals.requests_in_flight), (0, Some(0)));
    assert!(frame.models.is_empty() && frame.endpoints.is_empty() && frame.requests.recent.is_empty());
    assert!(frame.requests.in_flight.is_empty());
}

#[test]
fn of_two_servers_at_one_place_neither_has_the_others_calls() {
    let mut bench = Bench::new();
    for (id, name) in [(1, "weather"), (2, "files")] {
        call(&mut bench, id as f64, id, "initialize", None, |exchange| exchange.response_model = Some(name.into()));
    }
    call(&mut bench, 5.0, 5, "tools/call", Some("list"), |_| {});
    let frame = bench.frame(10.0);
    let rows: Vec<_> = frame.tools.iter().map(|row| (row.server.as_str(), row.method.as_str())).collect();
    assert_eq!(rows, [("api.example:443", "tools/call"), ("files", "initialize"), ("weather", "initialize")]);
}
