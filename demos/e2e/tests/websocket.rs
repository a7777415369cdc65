//! WebSocket between OpenAI's SDK and a server of another make: Responses and Realtime.

use std::collections::BTreeSet;
use std::process::Command;

use hbpf_core::exchange::{Api, Protocol, Role};
use hbpf_core::snapshot::TokensSource;
use hbpf_e2e::{Client, Observer, Server, Sums, host, python_with, script};
use serde_json::Value;

/// What a server has counted.
fn truth(said: &Value) -> Sums {
    let count = |name: &str| said[name].as_u64().expect("a server counts");
    let requests = count("answers") + count("errors");
    Sums {
        requests,
        // Answers over WebSocket have none.
        status: [("none".to_owned(), requests)].into(),
        completed: count("answers"),
        failed: count("errors"),
        input: count("input"),
        output: count("output"),
        cached: count("cached"),
        reasoning: count("reasoning"),
        ..Sums::default()
    }
}

/// Calls on several connections at a time, seen at both ends and counted once.
struct Session<'a> {
    api: Api,
    tls: bool,
    connections: usize,
    /// Of each connection, those that the server begins included.
    calls: usize,
    arguments: &'a [&'a str],
    /// The times to the first token are known: of each answer a request was seen.
    is_timed: bool,
}

impl Session<'_> {
    fn run(&self) {
        let Some(_host) = host() else { return };
        let Some(python) = python_with("websockets, openai") else { return };
        // For its certificates.
        let certificates = Server::start(&[]);
        let mut server = Client::start(
            Command::new(&python)
                .arg(script("clients/websocket_server.py"))
                .arg("--certificate")
                .arg(certificates.certificate("server.pem"))
                .arg("--key")
                .arg(certificates.certificate("server-key.pem")),
        );
        let (scheme, port) = if self.tls { ("https", "tls") } else { ("http", "plain") };
        let port = server.ready[port].as_u64().and_then(|port| u16::try_from(port).ok()).expect("a port");
        let mut observer = Observer::start();
        let mut client = Client::start(
            Command::new(&python)
                .arg(script("clients/websocket.py"))
                .args(["--base-url", &format!("{scheme}://localhost:{port}"), "--ca"])
                .arg(certificates.certificate("ca.pem"))
                .args(["--connections", &self.connections.to_string()])
                .args(self.arguments),
        );
        if self.tls {
            observer.until_tls_of(server.pid());
            observer.until_tls_of(client.pid());
        }
        let counted = client.run();
        let calls = self.connections * self.calls;
        let seen = observer.until_ended(port, calls);
        let said = truth(&server.tell("said"));
        assert_eq!(said.requests, calls as u64);
        assert_eq!((&counted["input"], &counted["output"]), (&said.input.into(), &said.output.into()));
        assert_eq!(seen, said);

        let frame = observer.until("both ends have seen all", |frame| {
            let ends = [Sums::of_client(frame, client.pid()), Sums::of_server(frame, server.pid())];
            ends.iter().all(|end| end.ended() >= said.requests)
        });
        assert_eq!(Sums::of_client(&frame, client.pid()), said);
        assert_eq!(Sums::of_server(&frame, server.pid()), said);
        assert_eq!(Sums::at_port(&frame, port), said, "the second end was counted again");
        let endpoint = frame.endpoints.iter().find(|endpoint| endpoint.port == Some(port)).expect("it is there");
        assert_eq!(
            (endpoint.protocol, endpoint.api, endpoint.tls),
            (Some(Protocol::Websocket), self.api, Some(self.tls))
        );
        for role in [Role::Client, Role::Server] {
            let rows = observer.until_rows(role, port, calls);
            let models: BTreeSet<_> = rows.iter().map(|row| row.model.as_ref().map(ToString::to_string)).collect();
            assert!(models.is_subset(&BTreeSet::from([Some("demo".to_owned()), None])), "{role:?}: {models:?}");
            assert!(rows.iter().all(|row| row.bytes_missed == 0), "{role:?}");
            let failed = rows.iter().filter(|row| row.error_type.is_some()).count() as u64;
            let reported = rows.iter().filter(|row| row.tokens_source == TokensSource::Reported).count() as u64;
            assert_eq!((failed, reported), (said.failed, said.completed), "{role:?}");
            // A question may be heard of after its answer, where a thread that writes is kept from coming back.
            let timed = rows.iter().filter(|row| row.time_to_first_token_seconds.is_some()).count();
            assert!(!self.is_timed || timed * 10 >= rows.len() * 9, "{role:?}: {timed} of {} are timed", rows.len());
        }
        observer.assert_nothing_lost();
        observer.stop();
    }
}

const RESPONSES: Session<'_> = Session {
    api: Api::Responses,
    tls: true,
    connections: 6,
    calls: 8,
    arguments: &["--calls", "8", "--compress"],
    is_timed: true,
};

#[test]
fn responses_over_tls_compressed() {
    RESPONSES.run();
}

#[test]
fn responses_over_tls_not_compressed() {
    Session { arguments: &["--calls", "8"], ..RESPONSES }.run();
}

#[test]
fn responses_plain_compressed() {
    Session { tls: false, ..RESPONSES }.run();
}

#[test]
fn responses_plain_not_compressed() {
    Session { tls: false, arguments: &["--calls", "8"], ..RESPONSES }.run();
}

/// More than is copied of a request of HTTP, and more than a segment or a record of TLS holds.
#[test]
fn long_questions_are_seen_whole() {
    for tls in [true, false] {
        let arguments = &["--calls", "4", "--compress", "--prompt-bytes", "90000"];
        Session { tls, calls: 4, arguments, ..RESPONSES }.run();
    }
}

#[test]
fn realtime_asked_and_unasked() {
    let arguments = &["--api", "realtime", "--calls", "4", "--spoken", "3", "--prompt-bytes", "4000"];
    for tls in [true, false] {
        Session { api: Api::Realtime, tls, calls: 7, arguments, is_timed: false, ..RESPONSES }.run();
    }
}
