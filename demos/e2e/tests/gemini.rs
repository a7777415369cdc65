//! Google's own SDK calls the stand-in server, and a stream is asked for as an array, too: totals equal the server's own record.

use std::process::Command;

use hbpf_core::exchange::{Api, Dialect};
use hbpf_e2e::{Client, Observer, Server, Sums, host, python_with, script};

const FAST: [&str; 4] = ["--ttft", "20", "--rate", "400"];

/// Calls of each way; there are three ways.
const COUNT: usize = 10;

fn client(server: &Server, url: &str, arguments: &[&str]) -> Option<Client> {
    let mut command = Command::new(python_with("google.genai")?);
    command.arg(script("clients/gemini.py")).args(["--base-url", url]).args(arguments);
    Some(Client::start(command.arg("--ca").arg(server.certificate("ca.pem"))))
}

fn exact_totals(tls: bool) {
    let Some(_host) = host() else { return };
    let server = Server::start(&FAST);
    let mut observer = Observer::start();
    let (url, port) =
        if tls { (server.tls_url(), server.tls.port()) } else { (server.plain_url(), server.plain.port()) };
    let model = "demo-20think";
    let arguments = ["--model", model, "--count", &COUNT.to_string()];
    let Some(mut client) = client(&server, &url, &arguments) else { return };
    if tls {
        observer.until_tls_of(client.pid());
    }
    let said = client.run();
    let calls = 3 * COUNT;
    assert_eq!((said["answers"].as_u64(), &said["errors"]), (Some(calls as u64), &serde_json::json!([])), "{said}");
    let seen = observer.until_ended(port, calls);
    let truth = server.truth(calls);
    assert_eq!(seen, truth);
    assert_eq!((&said["input"], &said["output"]), (&truth.input.into(), &truth.output.into()), "the SDK disagrees");
    let frame = observer
        .until("the client's row has all", |frame| Sums::of_client(frame, client.pid()).ended() >= truth.requests);
    assert_eq!(Sums::of_client(&frame, client.pid()), truth);
    let rows: Vec<_> = observer.finished.iter().filter(|row| row.pid == Some(client.pid())).collect();
    assert_eq!(rows.len(), calls);
    assert_eq!(rows.iter().filter(|row| row.stream == Some(true)).count(), 2 * COUNT);
    for row in rows {
        assert_eq!((row.dialect, row.api), (Dialect::GeminiGenerate, Api::GenerateContent), "{row:?}");
        assert_eq!(row.model.as_ref().map(|model| model.as_str()), Some(model), "{row:?}");
        assert_eq!((row.provider.as_str(), row.bytes_missed), ("gcp.gemini", 0), "{row:?}");
        assert_eq!(row.time_to_first_token_seconds.is_some(), row.stream == Some(true), "{row:?}");
    }
    observer.assert_nothing_lost();
    observer.stop();
}

#[test]
fn google_genai_over_tls() {
    exact_totals(true);
}

#[test]
fn google_genai_plain() {
    exact_totals(false);
}

#[test]
fn google_genai_is_refused() {
    let Some(_host) = host() else { return };
    let server = Server::start(&FAST);
    let mut observer = Observer::start();
    let url = server.plain_url();
    for (ended, (model, name)) in
        [("demo-429err", "RESOURCE_EXHAUSTED"), ("demo-503err", "UNAVAILABLE")].into_iter().enumerate()
    {
        let Some(mut client) = client(&server, &url, &["--count", "2", "--model", model]) else { return };
        let said = client.run();
        assert_eq!(said["errors"], serde_json::Value::from(vec![name; 6]), "{model}: {said}");
        observer.until_ended(server.plain.port(), 6 * (ended + 1));
        let rows = observer.finished.iter().filter(|row| row.pid == Some(client.pid()));
        let names: Vec<_> = rows.filter_map(|row| row.error_type.as_ref()).map(|name| name.as_str()).collect();
        assert_eq!(names, [name; 6], "{model}");
    }
    assert_eq!(observer.next_frame().totals.rate_limited_total, 6);
    observer.stop();
}
