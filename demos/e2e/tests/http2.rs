//! HTTP/2 between real clients and nginx, in front of the stand-in server.

use std::process::{Command, Stdio};

use hbpf_core::exchange::Protocol;
use hbpf_e2e::{Client, Nginx, Observer, Server, Sums, host, python, script};

const FAST: [&str; 4] = ["--ttft", "20", "--rate", "400"];

/// A curl that sends this body to the server so many times, side by side on one connection.
fn curl(server: &Server, url: &str, times: usize, body: &str) -> Command {
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--no-progress-meter", "--fail", "--parallel", "--parallel-max", "100"]);
    curl.args(["--data", body, "--cacert"]).arg(server.certificate("ca.pem")).stderr(Stdio::null());
    for _ in 0..times {
        curl.args(["--output", "/dev/null"]).arg(format!("{url}/v1/chat/completions"));
    }
    curl
}

const STREAMED: &str = r#"{"model": "demo", "stream": true, "stream_options": {"include_usage": true}}"#;

/// Calls on connections of their own, and if there are more than one side by side, each seen at both its ends and counted once.
fn calls_of_curl(tls: bool, calls: &[usize]) {
    let Some(_host) = host() else { return };
    let server = Server::start(&FAST);
    let Some(nginx) = Nginx::start(&server) else { return };
    let mut observer = Observer::start();
    let (url, port, version) = if tls {
        observer.until_library("libssl");
        observer.until_tls_of(nginx.worker());
        (format!("https://localhost:{}", nginx.tls), nginx.tls, "--http2")
    } else {
        (format!("http://localhost:{}", nginx.plain), nginx.plain, "--http2-prior-knowledge")
    };
    for times in calls {
        let status = curl(&server, &url, *times, STREAMED).arg(version).status().expect("there is curl");
        assert!(status.success(), "{status}");
    }
    let count = calls.iter().sum();
    let seen = observer.until_ended(port, count);
    let truth = server.truth(count);
    assert_eq!(seen, truth);
    let frame = observer.until("the proxy's own view is complete", |frame| {
        Sums::of_server(frame, nginx.worker()).ended() >= truth.requests
    });
    assert_eq!(Sums::of_server(&frame, nginx.worker()), truth);
    assert_eq!(Sums::at_port(&frame, port), truth, "the second end was counted again");
    assert_eq!(Sums::at_port(&frame, server.plain.port()), truth, "what goes on behind the proxy");
    let endpoint = frame.endpoints.iter().find(|endpoint| endpoint.port == Some(port)).expect("it is there");
    assert_eq!(endpoint.protocol, Some(Protocol::H2));
    observer.assert_nothing_lost();
    observer.stop();
}

#[test]
fn curl_over_tls() {
    calls_of_curl(true, &[1, 1, 1, 20]);
}

#[test]
fn curl_with_prior_knowledge() {
    // Debian 12's curl fails by itself where it has more than one on such a connection.
    calls_of_curl(false, &[1, 1, 1]);
}

#[test]
fn an_sdk_that_has_all_its_requests_on_one_connection() {
    let Some(_host) = host() else { return };
    let Some(python) = python() else { return };
    let server = Server::start(&FAST);
    let Some(nginx) = Nginx::start(&server) else { return };
    let mut observer = Observer::start();
    let tls = format!("https://localhost:{}", nginx.tls);
    let plain = format!("http://localhost:{}", nginx.plain);
    // (Threads that share a connection of this client write their frames in the wrong order now and then.)
    let clients = [("openai", &tls), ("anthropic", &tls), ("openai", &plain), ("anthropic", &plain)];
    for (api, url) in clients {
        let before = server.record().len();
        let mut client = Client::start(
            Command::new(&python)
                .arg(script("clients/sdk.py"))
                .args(["--api", api, "--mode", "async", "--http2", "--streamed", "40", "--plain", "20"])
                .args(["--base-url", url, "--ca"])
                .arg(server.certificate("ca.pem")),
        );
        if *url == tls {
            observer.until_tls_of(client.pid());
        }
        let counted = client.run();
        assert_eq!(counted["answers"], 60, "{counted}");
        let frame = observer.until("all has ended", |frame| Sums::of_client(frame, client.pid()).ended() >= 60);
        let truth = Sums::of_record(&server.record_of(before + 60)[before..]);
        assert_eq!(Sums::of_client(&frame, client.pid()), truth, "{api} {url}");
    }
    let record = server.record_of(240);
    assert_eq!(observer.until_ended(nginx.tls, 120), Sums::of_record(&record[..120]));
    assert_eq!(observer.until_ended(nginx.plain, 120), Sums::of_record(&record[120..]));
    observer.assert_nothing_lost();
    observer.stop();
}
