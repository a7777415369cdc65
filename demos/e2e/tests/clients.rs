//! Other clients, and the ways in which exchanges come and end.

use std::path::PathBuf;
use std::process::Command;

use hbpf_core::exchange::{Phase, Role};
use hbpf_e2e::{Client, Observer, Outcome, Server, Sums, host, python, script, skip};

const FAST: [&str; 4] = ["--ttft", "20", "--rate", "400"];

/// A client of Python's standard library.
fn stdlib(server: &Server, url: &str, arguments: &[&str]) -> Option<Client> {
    let python = python()?;
    Some(Client::start(
        Command::new(python)
            .arg(script("clients/stdlib.py"))
            .args(["--base-url", url])
            .arg("--ca")
            .arg(server.certificate("ca.pem"))
            .args(arguments),
    ))
}

#[test]
fn plain_http_of_every_dialect() {
    let Some(_host) = host() else { return };
    let server = Server::start(&FAST);
    let mut observer = Observer::start();
    let paths =
        ["/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages", "/api/chat", "/api/generate"];
    let paths: Vec<&str> = paths.iter().flat_map(|path| ["--path", path]).collect();
    let arguments = [&paths[..], &["--count", "10", "--threads", "2", "--model", "demo-5think"]].concat();
    let Some(mut client) = stdlib(&server, &server.plain_url(), &arguments) else { return };
    client.run();
    let seen = observer.until_ended(server.plain.port(), 20);
    let truth = server.truth(20);
    assert_eq!(seen, truth);

    // Both ends are here: each keeps its own view, and the sum above counts each exchange once.
    let frame = observer.until("both ends have seen all", |frame| {
        let ends = [Sums::of_client(frame, client.pid()), Sums::of_server(frame, server.pid())];
        ends.iter().all(|end| end.ended() >= truth.requests)
    });
    assert_eq!(Sums::of_client(&frame, client.pid()), truth);
    assert_eq!(Sums::of_server(&frame, server.pid()), truth);
    assert_eq!(Sums::at_port(&frame, server.plain.port()), truth, "the second end was counted again");
    observer.assert_nothing_lost();
    observer.stop();
}

#[test]
fn embeddings_and_compressed_answers() {
    let Some(_host) = host() else { return };
    let server = Server::start(&FAST);
    let mut observer = Observer::start();
    let url = server.plain_url();
    let call = |path: &str, body: &str| {
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--fail", "--compressed", "--output", "/dev/null", "--data", body]);
        assert!(curl.arg(format!("{url}{path}")).status().is_ok_and(|status| status.success()));
    };
    if Command::new("curl").arg("--version").output().is_err() {
        return skip("HBPF_REQUIRE_CLIENTS", "there is no curl");
    }
    call("/v1/embeddings", r#"{"model": "demo", "input": ["a", "b", "c"]}"#);
    call("/v1/chat/completions", r#"{"model": "demo-gzip"}"#);
    call(
        "/v1/chat/completions",
        r#"{"model": "demo-gzip", "stream": true, "stream_options": {"include_usage": true}}"#,
    );
    call("/v1/messages", r#"{"model": "demo-gzip", "stream": true}"#);
    assert_eq!(observer.until_ended(server.plain.port(), 4), server.truth(4));
    observer.assert_nothing_lost();
    observer.stop();
}

#[test]
fn curl_over_tls() {
    let Some(_host) = host() else { return };
    let server = Server::start(&FAST);
    let mut observer = Observer::start();
    // Nobody uses the library yet: it is probed because it is installed, or quick clients would go unseen.
    observer.until_library("libssl");
    let body = r#"{"model": "demo", "stream": true, "stream_options": {"include_usage": true}}"#;
    for _ in 0..5 {
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--fail", "--no-buffer", "--output", "/dev/null", "--data", body, "--cacert"]);
        curl.arg(server.certificate("ca.pem")).arg(format!("{}/v1/chat/completions", server.tls_url()));
        match curl.status() {
            Ok(status) => assert!(status.success(), "{status}"),
            Err(_) => return skip("HBPF_REQUIRE_CLIENTS", "there is no curl"),
        }
    }
    assert_eq!(observer.until_ended(server.tls.port(), 5), server.truth(5));
    observer.stop();
}

#[test]
fn wget_over_gnutls() {
    let Some(_host) = host() else { return };
    let server = Server::start(&FAST);
    let mut observer = Observer::start();
    observer.until_library("libgnutls");
    for model in ["demo", "demo-64tok", "demo-500err"] {
        let body = format!(r#"{{"model": "{model}", "stream": true, "stream_options": {{"include_usage": true}}}}"#);
        let mut wget = Command::new("wget");
        wget.args(["--quiet", "--tries=1", "--output-document=/dev/null", "--header=Content-Type: application/json"]);
        wget.arg("--post-data").arg(body).arg("--ca-certificate").arg(server.certificate("ca.pem"));
        match wget.arg(format!("{}/v1/chat/completions", server.tls_url())).status() {
            Ok(status) => assert_eq!(status.success(), !model.contains("err"), "{status}"),
            Err(_) => return skip("HBPF_REQUIRE_CLIENTS", "there is no wget"),
        }
    }
    assert_eq!(observer.until_ended(server.tls.port(), 3), server.truth(3));
    observer.assert_nothing_lost();
    observer.stop();
}

fn libcurl(library: &str) {
    let Some(_host) = host() else { return };
    let Some(python) = python() else { return };
    let server = Server::start(&FAST);
    let mut observer = Observer::start();
    let mut client = Command::new(python);
    client.arg(script("clients/libcurl.py")).arg(library);
    client.arg(format!("{}/v1/chat/completions", server.tls_url())).args(["demo-64tok", "5", "h1"]);
    let output = client.output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    if error.contains("cannot open shared object file") {
        return skip("HBPF_REQUIRE_CLIENTS", &format!("there is no libcurl over it (Debian: libcurl3-{library})"));
    }
    assert!(output.status.success(), "{error}");
    let said: serde_json::Value = serde_json::from_slice(&output.stdout).expect("it says what came through");
    assert_eq!(said["answers"], 5);
    assert_eq!(observer.until_ended(server.tls.port(), 5), server.truth(5));
    observer.assert_nothing_lost();
    observer.stop();
}

#[test]
fn libcurl_over_gnutls() {
    libcurl("gnutls");
}

#[test]
fn libcurl_over_nss() {
    libcurl("nss");
}

#[test]
fn node_over_tls() {
    let Some(_host) = host() else { return };
    if Command::new("node").arg("--version").output().is_err() {
        return skip("HBPF_REQUIRE_NODE", "there is no node");
    }
    let server = Server::start(&FAST);
    let mut observer = Observer::start();
    let mut client = Client::start(
        Command::new("node")
            .arg(script("clients/fetch.mjs"))
            .args([&server.tls_url(), "demo", "8"])
            .env("NODE_EXTRA_CA_CERTS", server.certificate("ca.pem")),
    );
    observer.until_tls_of(client.pid());
    assert_eq!(client.run()["answers"], 8);
    assert_eq!(observer.until_ended(server.tls.port(), 8), server.truth(8));
    observer.stop();
}

#[test]
fn tls_seen_from_both_ends_is_counted_once() {
    let Some(_host) = host() else { return };
    let Some(python) = python() else { return };
    let (rust_server, server, port) = openssl_server(python);
    let mut observer = Observer::start();
    let arguments = ["--model", "demo-7", "--model", "demo-12", "--count", "6"];
    let Some(mut client) = stdlib(&rust_server, &format!("https://127.0.0.1:{port}"), &arguments) else { return };
    observer.until_tls_of(server.pid());
    observer.until_tls_of(client.pid());
    client.run();
    let seen = observer.until_ended(port, 6);
    assert_eq!((seen.requests, seen.completed, seen.input, seen.output), (6, 6, 57, 57));
    let frame = observer.until("the server's end has seen all", |frame| {
        Sums::of_server(frame, server.pid()).ended() == 6 && Sums::of_client(frame, client.pid()).ended() == 6
    });
    assert_eq!(Sums::of_server(&frame, server.pid()).output, 57);
    assert_eq!(Sums::of_client(&frame, client.pid()).output, 57);
    assert_eq!(Sums::at_port(&frame, port).requests, 6);
    observer.stop();
}

/// A server whose TLS has probes, and one that has made its certificate.
fn openssl_server(python: PathBuf) -> (Server, Client, u16) {
    let certificates = Server::start(&[]);
    let server = Client::start(
        Command::new(python)
            .arg(script("clients/tls_server.py"))
            .args([certificates.certificate("server.pem"), certificates.certificate("server-key.pem")]),
    );
    let port = u16::try_from(server.ready["port"].as_u64().unwrap()).unwrap();
    (certificates, server, port)
}

#[test]
fn of_an_answer_too_long_for_one_call_the_server_s_end_says_what_is_missing() {
    let Some(_host) = host() else { return };
    let Some(python) = python() else { return };
    let (certificates, server, port) = openssl_server(python.clone());
    let mut observer = Observer::start();
    // Of prompts so long the middle is left out on purpose, also of one that the server reads after such an answer.
    let mut client = Client::start(
        Command::new(python)
            .arg(script("clients/stdlib.py"))
            .args(["--base-url", &format!("https://127.0.0.1:{port}"), "--plain", "--model", "demo-7", "--count", "2"])
            .arg("--ca")
            .arg(certificates.certificate("ca.pem"))
            .env("HBPF_DEMO_PROMPT", "bee ".repeat(25_000)),
    );
    observer.until_tls_of(server.pid());
    observer.until_tls_of(client.pid());
    client.run();
    let seen = observer.until_ended(port, 2);
    assert_eq!((seen.completed, seen.input, seen.output), (2, 14, 14), "the end is there, and what it has cost");
    for (role, missed) in [(Role::Server, 200_000 - 128 * 1024..100_000), (Role::Client, 0..1)] {
        for row in observer.until_rows(role, port, 2) {
            assert!(missed.contains(&row.bytes_missed), "{row:?}");
        }
    }
    // The kernel's counters come with the next sample.
    observer.until("both are counted", |frame| {
        let lost = &frame.capture.lost;
        lost.over_budget >= 2 && lost.over_budget_bytes > 2 * (200_000 - 128 * 1024)
    });
    observer.stop();
}

#[test]
fn a_long_answer_begins_when_its_server_begins_to_write_it() {
    const PAUSE: f64 = 3.0;
    let Some(_host) = host() else { return };
    let Some(python) = python() else { return };
    let (certificates, server, port) = openssl_server(python);
    let mut observer = Observer::start();
    let arguments = ["--plain", "--model", "large-7", "--count", "1", "--pause", &PAUSE.to_string()];
    let Some(mut client) = stdlib(&certificates, &format!("https://127.0.0.1:{port}"), &arguments) else { return };
    observer.until_tls_of(server.pid());
    client.run();
    let row = observer.until_rows(Role::Server, port, 1).remove(0);
    let (headers, duration) = (row.time_to_headers_seconds.unwrap(), row.duration_seconds.unwrap());

    assert!(headers < PAUSE / 2.0 && duration > PAUSE * 0.9, "{headers} {duration}");
    observer.stop();
}

/// Every model call on a connection that carries other things too is counted, and of the others nothing is copied
/// beyond their beginnings.
fn mixed_connection(tls: bool) {
    const CALLS: usize = 10;
    const STATIC_BYTES: u64 = 1 << 20;
    let Some(_host) = host() else { return };
    let server = Server::start(&FAST);
    let mut observer = Observer::start();
    let (url, port) =
        if tls { (server.tls_url(), server.tls.port()) } else { (server.plain_url(), server.plain.port()) };
    let (calls, bytes) = (CALLS.to_string(), STATIC_BYTES.to_string());
    let arguments = ["--between", "--static-bytes", &bytes, "--count", &calls];
    let Some(mut client) = stdlib(&server, &url, &arguments) else { return };
    if tls {
        observer.until_tls_of(client.pid());
    }
    let before = observer.next_frame().capture.bytes_total;
    client.run();
    assert_eq!(observer.until_ended(port, CALLS), server.truth(CALLS));
    let copied = observer.next_frame().capture.bytes_total - before;
    // Had one static file in ten been copied, it would be more than this; the calls themselves are far below.
    assert!(copied < STATIC_BYTES, "{copied} bytes were copied");
    assert!(copied > 0, "nothing was copied, so nothing was measured");
    observer.assert_nothing_lost();
    observer.stop();
}

#[test]
fn other_traffic_between_calls_over_tls() {
    mixed_connection(true);
}

#[test]
fn other_traffic_between_calls_plain() {
    mixed_connection(false);
}

/// A connection that was there before hbpf is picked up at its next message.
fn older_connection(tls: bool) {
    let Some(_host) = host() else { return };
    let server = Server::start(&FAST);
    let (url, port) =
        if tls { (server.tls_url(), server.tls.port()) } else { (server.plain_url(), server.plain.port()) };
    // Two connections with a call on each, and then four calls on each.
    let Some(mut client) = stdlib(&server, &url, &["--before", "--threads", "2", "--count", "4"]) else { return };
    assert_eq!(server.record_of(2).len(), 2);
    let mut observer = Observer::start();
    if tls {
        observer.until_tls_of(client.pid());
    }
    client.run();
    let seen = observer.until_ended(port, 8);
    let record = server.record_of(10);
    assert!(record.iter().map(|entry| entry.connection).max() < Some(2), "the client opened other connections");
    assert_eq!(seen, Sums::of_record(&record[2..]));
    observer.stop();
}

#[test]
fn older_connections_over_tls() {
    older_connection(true);
}

#[test]
fn older_connections_plain() {
    older_connection(false);
}

#[test]
fn ends_of_every_kind() {
    let Some(_host) = host() else { return };
    let server = Server::start(&["--ttft", "20", "--rate", "100"]);
    let mut observer = Observer::start();
    // How the client is told to behave, what becomes of the exchange, and its error type.
    let cases: [(&str, &[&str], Phase, Option<&str>); 5] = [
        ("demo-64tok", &[], Phase::Done, None),
        ("demo-429err", &[], Phase::Failed, Some("rate_limit_error")),
        ("demo-500err", &[], Phase::Failed, Some("server_error")),
        ("demo-64tok-3errafter", &[], Phase::Failed, Some("server_error")),
        ("demo-900tok", &["--leave-after", "4"], Phase::Abandoned, None),
    ];
    for (number, (model, arguments, phase, error_type)) in cases.into_iter().enumerate() {
        for (url, port) in
            [(server.tls_url(), server.tls.port()), (server.plain_url(), server.plain.port())].into_iter()
        {
            let arguments = [&["--model", model, "--count", "1"], arguments].concat();
            let Some(mut client) = stdlib(&server, &url, &arguments) else { return };
            if port == server.tls.port() {
                observer.until_tls_of(client.pid());
            }
            client.run();
            observer.until_ended(port, number + 1);
            let request = observer.finished.iter().rfind(|request| request.pid == Some(client.pid()));
            let request = request.unwrap_or_else(|| panic!("{model}: no finished request of the client"));
            assert_eq!((request.phase, request.tls), (phase, port == server.tls.port()), "{model}");
            if error_type.is_some() {
                assert_eq!(request.error_type.as_ref().map(|kind| kind.as_str()), error_type, "{model}");
            }
        }
    }
    let outcomes: Vec<Outcome> = server.record_of(10).iter().map(|entry| entry.outcome).collect();
    assert_eq!(outcomes.iter().filter(|outcome| **outcome == Outcome::ClientGone).count(), 2);
    observer.stop();
}

#[test]
fn an_answer_cut_by_the_server_has_failed() {
    let Some(_host) = host() else { return };
    let server = Server::start(&FAST);
    let mut observer = Observer::start();
    let arguments = ["--model", "demo-64tok-3cutafter", "--threads", "2", "--count", "1"];
    let Some(mut client) = stdlib(&server, &server.plain_url(), &arguments) else { return };
    client.run();
    let seen = observer.until_ended(server.plain.port(), 2);
    assert_eq!((seen.requests, seen.failed), (2, 2));
    observer.stop();
}
