//! Tools that are called through the SDK of the Model Context Protocol.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use hbpf_core::snapshot::{Request, Snapshot};
use hbpf_e2e::{Client, Observer, host, installed, script, skip};
use serde_json::json;

/// Calls that succeed.
const COUNT: u64 = 20;

struct Server(Child, u16);

impl Server {
    fn start(python: &std::path::Path, arguments: &[&str]) -> Self {
        let mut command = Command::new(python);
        command.arg(script("clients/mcp_server.py")).args(arguments).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().expect("it starts");
        let mut port = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut port).unwrap();
        let port = port.trim().parse().expect("it prints its port");
        // It tells the port before it listens there.
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        Self(child, port)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn exact_counts(arguments: &[&str]) {
    let Some(_host) = host() else { return };
    let python = installed("venv-sdks/bin/python");
    if !python.exists() {
        return skip("HBPF_REQUIRE_CLIENTS", "there is no SDK of MCP: `cargo xtask setup --full` installs it");
    }
    let server = Server::start(&python, arguments);
    let mut observer = Observer::start();
    let url = format!("http://127.0.0.1:{}/mcp", server.1);
    let mut client = Client::start(Command::new(&python).arg(script("clients/mcp_client.py")).args([
        "--url",
        &url,
        "--count",
        &COUNT.to_string(),
    ]));
    let said = client.run();
    assert_eq!(said, json!({"tools": 2, "look_up": COUNT, "fail": 2, "errors": 2}));
    let calls = |frame: &Snapshot, tool: &str| {
        let row = frame.tools.iter().find(|row| row.tool.as_deref() == Some(tool))?.clone();
        Some((row.server.to_string(), row.method.to_string(), row.calls_total, row.errors_total, row.duration_seconds))
    };
    let frame = observer.until("all calls have ended", |frame| {
        calls(frame, "fail").is_some_and(|row| row.2 == 2) && calls(frame, "look_up").is_some_and(|row| row.2 == COUNT)
    });
    let (server_name, method, _, errors, times) = calls(&frame, "look_up").unwrap();
    assert_eq!((server_name.as_str(), method.as_str(), errors), ("weather", "tools/call", 0));
    // The tool takes 50 ms; and each call counts once, although it is seen at both its ends.
    let times = times.unwrap();
    assert!(times.count == COUNT && times.min >= 0.05 && times.p50 < 1.0, "{times:?}");
    assert_eq!(calls(&frame, "fail").unwrap().3, 2);
    assert!(frame.tools.iter().any(|row| row.method == "tools/list"), "{:?}", frame.tools);
    let port = format!(":{}", server.1);
    let is_there = |request: &Request| request.endpoint.as_str().ends_with(&port);
    assert!(!observer.finished.iter().any(is_there), "no model was called");
    assert!(observer.raw.iter().all(|line| !line.contains("CANARY")));
    observer.assert_nothing_lost();
    observer.stop();
}

#[test]
fn tools_answer_in_events() {
    exact_counts(&[]);
}

#[test]
fn tools_answer_in_documents() {
    exact_counts(&["--json"]);
}
