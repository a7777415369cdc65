//! xAI's own SDK and a server of its service, which speak gRPC: plain, and over the BoringSSL that Python's gRPC has inside.

use std::path::Path;
use std::process::Command;

use hbpf_core::exchange::{Dialect, Protocol, Role};
use hbpf_e2e::{Client, Observer, Server, Sums, host, python_with, script};

/// Tokens of an answer, beside the one for reasoning.
const TOKENS: u64 = 12;

fn server(python: &Path, gzip: bool, certificates: Option<&Server>) -> (Client, u16) {
    let mut command = Command::new(python);
    command.arg(script("clients/xai_server.py")).args(gzip.then_some("--gzip"));
    if let Some(made_by) = certificates {
        command.arg("--tls").args(["server.pem", "server-key.pem"].map(|name| made_by.certificate(name)));
    }
    let server = Client::start(&mut command);
    let port = server.ready["port"].as_u64().and_then(|port| port.try_into().ok()).expect("it says where it listens");
    (server, port)
}

fn client(python: &Path, port: u16, gzip: bool, certificates: Option<&Server>, arguments: &[&str]) -> Client {
    let mut command = Command::new(python);
    command.arg(script("clients/xai.py")).args(["--host", &format!("127.0.0.1:{port}")]).args(arguments);
    if let Some(made_by) = certificates {
        command.arg("--ca").arg(made_by.certificate("ca.pem"));
    }
    Client::start(command.args(gzip.then_some("--gzip")))
}

fn exact_totals(gzip: bool, tls: bool) {
    let Some(_host) = host() else { return };
    let Some(python) = python_with("xai_sdk") else { return };
    let certificates = tls.then(|| Server::start(&[]));
    let (server, port) = server(&python, gzip, certificates.as_ref());
    let mut observer = Observer::start();
    let model = format!("demo-{TOKENS}");
    let arguments = ["--model", &model, "--streamed", "20", "--plain", "10"];
    let mut client = client(&python, port, gzip, certificates.as_ref(), &arguments);
    let said = client.run();
    let calls = 30;
    assert_eq!((said["answers"].as_u64(), said["errors"].as_array().map(Vec::len)), (Some(calls), Some(0)), "{said}");
    assert_eq!((&said["input"], &said["completion"]), (&(calls * 3 * TOKENS).into(), &(calls * TOKENS).into()));
    let truth = |seen: &Sums| {
        assert_eq!((seen.requests, seen.completed, seen.status["200"]), (calls, calls, calls));
        // Reasoning is a part of the output, which it is not in the SDK's own count.
        assert_eq!((seen.input, seen.output), (calls * 3 * TOKENS, calls * (TOKENS + 1)));
        assert_eq!((seen.cached, seen.reasoning, seen.estimated), (calls * 2, calls, 0));
    };
    truth(&observer.until_ended(port, 30));
    let frame = observer.until("both ends have seen all", |frame| {
        let ends = [Sums::of_client(frame, client.pid()), Sums::of_server(frame, server.pid())];
        ends.iter().all(|end| end.ended() >= calls)
    });
    truth(&Sums::of_client(&frame, client.pid()));
    truth(&Sums::of_server(&frame, server.pid()));
    truth(&Sums::at_port(&frame, port));
    let endpoint = frame.endpoints.iter().find(|endpoint| endpoint.port == Some(port)).expect("it is there");
    assert_eq!((endpoint.protocol, endpoint.tls), (Some(Protocol::Grpc), Some(tls)));
    for role in [Role::Client, Role::Server] {
        let rows = observer.until_rows(role, port, 30);
        for row in &rows {
            let names = [&row.model, &row.response_model, &row.finish_reason];
            let names = names.map(|name| name.as_ref().map_or("", |name| name.as_str()));
            assert_eq!(names, [model.as_str(), &format!("{model}-dated"), "REASON_STOP"], "{row:?}");
            assert_eq!(
                (row.dialect, row.provider.as_str(), row.bytes_missed),
                (Dialect::XaiGrpc, "x_ai", 0),
                "{row:?}"
            );
            assert_eq!(row.time_to_first_token_seconds.is_some(), row.stream == Some(true), "{row:?}");
            assert_eq!(row.cost_usd, Some(0.0025), "the server says so: {row:?}");
        }
        assert_eq!(rows.iter().filter(|row| row.stream == Some(true)).count(), 20);
    }
    observer.assert_nothing_lost();
    observer.stop();
}

#[test]
fn xai_sdk() {
    exact_totals(false, false);
}

#[test]
fn xai_sdk_with_compressed_messages() {
    exact_totals(true, false);
}

#[test]
fn xai_sdk_over_tls() {
    exact_totals(false, true);
}

#[test]
fn xai_sdk_is_refused() {
    let Some(_host) = host() else { return };
    let Some(python) = python_with("xai_sdk") else { return };
    let (server, port) = server(&python, true, None);
    let mut observer = Observer::start();
    for (model, ended) in [("limited-3", 4), ("limited-later-3", 8)] {
        let mut client = client(&python, port, true, None, &["--model", model, "--streamed", "4", "--plain", "0"]);
        let said = client.run();
        assert_eq!(said["errors"], serde_json::Value::from(vec!["RESOURCE_EXHAUSTED"; 4]), "{said}");
        let seen = observer.until_ended(port, ended);
        assert_eq!((seen.failed, seen.status["200"]), (ended as u64, ended as u64), "{model}");
        for row in observer.until_rows(Role::Client, port, ended) {
            assert_eq!(row.error_type.as_ref().map(|error| error.as_str()), Some("RESOURCE_EXHAUSTED"), "{row:?}");
        }
        observer.until("what was over quota", |frame| frame.totals.rate_limited_total == ended as u64);
    }
    drop(server);
    observer.stop();
}
