//! Many at once: short commands, and connections with many requests on each.

use std::process::{Command, Stdio};

use hbpf_e2e::{Client, Nginx, Observer, Server, Sums, full, go, go_program, host, skip};

/// Commands of the storm, and how many run at a time.
const COMMANDS: usize = 500;
const AT_A_TIME: usize = 50;

#[test]
fn a_storm_of_short_commands_is_counted() {
    let Some(_host) = host() else { return };
    if Command::new("curl").arg("--version").output().is_err() {
        return skip("HBPF_REQUIRE_CLIENTS", "there is no curl");
    }
    let server = Server::start(&["--ttft", "1", "--rate", "5000"]);
    let mut observer = Observer::start();
    observer.until_library("libssl");
    let body = r#"{"model": "demo-5tok", "stream": true, "stream_options": {"include_usage": true}}"#;
    for _ in 0..COMMANDS / AT_A_TIME {
        let start = |_| {
            let mut curl = Command::new("curl");
            curl.args(["--silent", "--fail", "--output", "/dev/null", "--data", body, "--cacert"]);
            curl.arg(server.certificate("ca.pem")).arg(format!("{}/v1/chat/completions", server.tls_url()));
            curl.stderr(Stdio::null()).spawn().expect("curl starts")
        };
        let commands: Vec<_> = (0..AT_A_TIME).map(start).collect();
        for mut command in commands {
            assert!(command.wait().is_ok_and(|status| status.success()));
        }
    }
    let truth = server.truth(COMMANDS);
    // What is missed is counted as such: the wait is for as many as there are at the least.
    let enough = COMMANDS * 99 / 100;
    observer.until_ended(server.tls.port(), enough);
    let frame = observer.next_frame();
    let seen = Sums::at_port(&frame, server.tls.port());
    let lost = &frame.capture.lost;
    let missed = lost.ring_full.chunks + lost.map_full + lost.read_fault + lost.missed_runs + lost.parse_gap;
    eprintln!("{} of {COMMANDS} commands were seen, {missed} losses counted", seen.completed);
    assert!(seen.requests <= truth.requests && seen.output <= truth.output, "{seen:?} {truth:?}");
    assert!(seen == truth || missed > 0, "missed without a word: {seen:?} {truth:?}");
    observer.stop();
}

#[test]
fn a_thousand_connections_with_requests_side_by_side() {
    const CONNECTIONS: usize = 1000;
    const STREAMS: usize = 4;
    const THREADS: usize = 16;
    let Some(_host) = host() else { return };
    if !full() {
        return skip("HBPF_FULL", "a thousand connections take a while");
    }
    let Some(go) = go() else { return };
    let server = Server::start(&["--ttft", "5", "--rate", "1000"]);
    let Some(nginx) = Nginx::start(&server) else { return };
    let directory = tempfile::tempdir().expect("a temporary directory");
    let program = go_program(&go, "load.go", &[], directory.path());
    let numbers = [CONNECTIONS, STREAMS, THREADS].map(|number| number.to_string());
    let mut command = Command::new(&program);
    command.arg(format!("https://localhost:{}", nginx.tls)).arg("demo-4tok").args(&numbers);
    command.arg(server.certificate("ca.pem"));
    let mut observer = Observer::start();
    observer.until_tls_of(nginx.worker());
    let mut client = Client::start(&mut command);
    observer.until_library(program.file_name().and_then(|name| name.to_str()).expect("a name"));
    let calls = CONNECTIONS * STREAMS;
    assert_eq!(client.run()["answers"], calls);
    let truth = server.truth(calls);
    let frame = observer.until("both ends have seen all", |frame| {
        let ends = [Sums::of_client(frame, client.pid()), Sums::of_server(frame, nginx.worker())];
        ends.iter().all(|end| end.ended() >= truth.requests)
    });
    let lost = &frame.capture.lost;
    assert_eq!(Sums::of_client(&frame, client.pid()), truth, "at the clients' end: {lost:?}");
    assert_eq!(Sums::of_server(&frame, nginx.worker()), truth, "at the proxy's end: {lost:?}");
    assert_eq!(Sums::at_port(&frame, nginx.tls), truth, "each once: {lost:?}");
    observer.assert_nothing_lost();
    observer.stop();
}
