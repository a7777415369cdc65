//! The text of prompts and answers, keys and query strings never come out.

use std::process::Command;

use hbpf_e2e::{Client, Observer, Server, Tracer, host, programs, python, script};

const PROMPT: &str = "CANARYPROMPT";
const ANSWER: &str = "CANARYANSWER";
const KEY: &str = "CANARYKEY";
const QUERY: &str = "CANARYQUERY";

#[test]
fn no_text_comes_out() {
    let Some(_host) = host() else { return };
    let Some(python) = python() else { return };
    let server = Server::start(&["--ttft", "20", "--rate", "100", "--tokens", "60", "--word", ANSWER]);
    let mut observer = Observer::start();
    let mut clients: Vec<Client> = [server.tls_url(), server.plain_url()]
        .iter()
        .map(|url| {
            let paths = ["/v1/chat/completions", "/v1/completions", "/v1/messages", "/api/chat", "/unknown/path"];
            Client::start(
                Command::new(&python)
                    .arg(script("clients/stdlib.py"))
                    .args(["--base-url", url, "--count", "15", "--query", &format!("key={QUERY}")])
                    .args(paths.iter().flat_map(|path| ["--path", path]))
                    .args(["--model", "demo", "--model", "demo-429err", "--model", "demo-2errafter"])
                    .arg("--ca")
                    .arg(server.certificate("ca.pem"))
                    .env("HBPF_DEMO_PROMPT", PROMPT)
                    .env("HBPF_DEMO_KEY", KEY),
            )
        })
        .collect();
    observer.until_tls_of(clients[0].pid());
    // Forms for people take another way out.
    let trace = Tracer::start(&["-n", "30"]);
    clients.iter_mut().for_each(Client::go);
    let text = Command::new(&programs().hbpf).args(["snapshot", "--duration", "1s"]).output().unwrap();
    assert!(text.status.success());
    clients.iter_mut().for_each(|client| drop(client.result()));
    for port in [server.tls.port(), server.plain.port()] {
        // What is asked for at a path that nobody knows has a model call's body, so it is one, if a failed one.
        let seen = observer.until_ended(port, 15);
        assert_eq!(seen.requests, 15, "it must have been seen for its absence to mean anything");
    }
    let (lines, said) = trace.finish();
    assert!(lines.len() > 30, "with their head");
    let out = [text.stdout, text.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    for (number, piece) in observer.raw.iter().chain(&out).chain(&lines).chain([&said]).enumerate() {
        for canary in [PROMPT, ANSWER, KEY, QUERY] {
            // The piece is not shown: it would be the leak.
            assert!(!piece.contains(canary), "{canary} is in output {number}");
        }
    }
    observer.stop();
}
