//! Vendors' SDKs over TLS, many requests at a time: totals equal the server's own record, and nothing is lost.

use std::process::Command;

use hbpf_e2e::{Client, Observer, Server, Sums, full, host, python_with, script};

/// Answers that come fast, so that many take little time; the pace is another test's business.
const SERVER: [&str; 4] = ["--ttft", "20", "--rate", "400"];

fn exact_totals(sdk: &str, mode: &str) {
    let Some(_host) = host() else { return };
    let module = if sdk == "responses" { "openai" } else { sdk };
    let Some(python) = python_with(module) else { return };
    let (streamed, plain) = if full() { (200, 100) } else { (40, 20) };
    let server = Server::start(&SERVER);
    let mut observer = Observer::start();
    let mut client = Client::start(
        Command::new(python)
            .arg(script("clients/sdk.py"))
            .args(["--api", sdk, "--mode", mode, "--base-url", &server.tls_url(), "--concurrency", "16"])
            .args(["--streamed", &streamed.to_string(), "--plain", &plain.to_string()])
            .arg("--ca")
            .arg(server.certificate("ca.pem")),
    );
    observer.until_tls_of(client.pid());

    let said = client.run();
    let calls = streamed + plain;
    assert_eq!((said["answers"].as_u64(), said["errors"].as_u64()), (Some(calls as u64), Some(0)));
    let seen = observer.until_ended(server.tls.port(), calls);
    let truth = server.truth(calls);
    assert_eq!(seen, truth);
    assert_eq!(said["input"], truth.input, "the stand-in server and the SDK disagree");
    assert_eq!(said["output"], truth.output, "the stand-in server and the SDK disagree");

    let frame = observer
        .until("the client's row has all", |frame| Sums::of_client(frame, client.pid()).ended() >= truth.requests);
    assert_eq!(Sums::of_client(&frame, client.pid()), truth);
    observer.assert_nothing_lost();
    let incomplete = observer.finished.iter().filter(|request| request.bytes_missed > 0).count();
    assert_eq!(incomplete, 0, "requests with missing bytes");
    observer.stop();
}

#[test]
fn openai_sync() {
    exact_totals("openai", "sync");
}

#[test]
fn openai_async() {
    exact_totals("openai", "async");
}

#[test]
fn openai_responses_sync() {
    exact_totals("responses", "sync");
}

#[test]
fn openai_responses_async() {
    exact_totals("responses", "async");
}

#[test]
fn anthropic_sync() {
    exact_totals("anthropic", "sync");
}

#[test]
fn anthropic_async() {
    exact_totals("anthropic", "async");
}
