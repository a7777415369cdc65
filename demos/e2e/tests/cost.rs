//! What observing costs is kept within bounds, and what was given up for that is said.

use std::process::{Child, Command};

use hbpf_core::snapshot::{OverheadLevel, ProbeState, Snapshot};
use hbpf_e2e::{Client, Observer, Server, full, host, python, script};

const FAST: [&str; 4] = ["--ttft", "20", "--rate", "400"];

fn finding<'a>(frame: &'a Snapshot, id: &str) -> Option<&'a hbpf_core::snapshot::Finding> {
    frame.findings.iter().find(|finding| finding.id.as_str() == id)
}

#[test]
fn over_the_byte_budget_every_call_is_counted_and_tokens_are_a_lower_bound() {
    let Some(_host) = host() else { return };
    let Some(python) = python() else { return };
    let server = Server::start(&FAST);
    // So little that a second's worth is less than one event of a stream.
    let mut observer = Observer::start_with(&["--max-bytes-per-second", "100", "--max-overhead", "off"]);
    let mut client = Client::start(Command::new(&python).arg(script("clients/stdlib.py")).args([
        "--base-url",
        &server.plain_url(),
        "--model",
        "demo-40",
        "--count",
        "4",
    ]));
    client.run();
    let seen = observer.until_ended(server.plain.port(), 4);
    let truth = server.truth(4);
    assert_eq!((seen.requests, seen.completed), (truth.requests, truth.completed));
    assert_eq!(seen.status, truth.status, "heads come whatever the budget");
    assert!(seen.output < truth.output && seen.input <= truth.input, "{seen:?} of {truth:?}");
    let frame = observer.next_frame();
    assert!(frame.capture.lost.over_budget > 0 && frame.capture.lost.over_budget_bytes > 0);
    assert_eq!(frame.capture.overhead.bytes_per_second_limit, Some(100));
    let of_server = |request: &&hbpf_core::snapshot::Request| {
        request.endpoint.as_str().ends_with(&format!(":{}", server.plain.port()))
    };
    let finished: Vec<_> = observer.finished.iter().filter(of_server).collect();
    assert!(!finished.is_empty() && finished.iter().all(|request| request.bytes_missed > 0), "each is marked");
    assert!(finished.iter().all(|request| request.duration_seconds.is_some_and(|seconds| seconds > 0.0)));
    observer.stop();
}

/// A program that calls without end, until it is dropped.
struct Caller(Child);

impl Drop for Caller {
    fn drop(&mut self) {
        // An error means that it has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Some twenty seconds of waiting for decisions that are made by the second.
#[test]
fn beyond_the_overhead_processes_without_models_are_left_out_then_groups_are_switched_off() {
    if !full() {
        return;
    }
    let Some(_host) = host() else { return };
    let Some(python) = python() else { return };
    // Answers at once: what its callers do is mostly TLS.
    let server = Server::start(&["--ttft", "0", "--rate", "100000", "--tokens", "1"]);
    let mut observer = Observer::start_with(&["--max-overhead", "0.001"]);
    let program = "import http.client, ssl, sys\n\
        context = ssl.create_default_context(cafile=sys.argv[2])\n\
        connection = http.client.HTTPSConnection('127.0.0.1', int(sys.argv[1]), context=context)\n\
        while True:\n\
        \x20   connection.request(sys.argv[3], sys.argv[4], sys.argv[5])\n\
        \x20   connection.getresponse().read()\n";
    let call = |what: [&str; 3]| {
        let mut command = Command::new(&python);
        command.args(["-c", program, &server.tls.port().to_string()]).arg(server.certificate("ca.pem")).args(what);
        Caller(command.spawn().expect("Python starts"))
    };
    let health = call(["GET", "/health", ""]);
    let excluded = observer.until("a process is left out", |frame| frame.capture.overhead.excluded_processes > 0);
    assert_eq!(excluded.capture.overhead.level, OverheadLevel::Excluded);
    assert!(finding(&excluded, "overhead_excluded").is_some() && finding(&excluded, "overhead_detached").is_none());
    drop(health);

    let chat = r#"{"model":"demo-1","messages":[]}"#;
    let chats = [(); 2].map(|()| call(["POST", "/v1/chat/completions", chat]));
    let frame =
        observer.until("a group is switched off", |frame| frame.capture.overhead.level == OverheadLevel::Detached);
    drop(chats);
    let detached = finding(&frame, "overhead_detached").expect("it is said");
    let number =
        |name: &str| detached.evidence.iter().find(|(label, _)| label.as_str() == name).map(|(_, value)| *value);
    assert!(number("overhead_percent") > number("budget_percent"), "{detached:?}");
    assert!(detached.advice.as_str().contains("--max-overhead"), "{detached:?}");
    let group = detached.subject.clone();
    let off = observer.until("its probes are out", |frame| {
        let mut probes = frame.capture.probes.iter().filter(|probe| probe.group == group);
        probes.all(|probe| probe.state == ProbeState::Off)
    });
    assert!(off.capture.groups.iter().any(|cost| cost.group == group && cost.state == ProbeState::Off));
    observer.stop();
}
