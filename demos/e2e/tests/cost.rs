//! What observing costs is kept within bounds, and what was given up for that is said. (What is copied is tested in
//! `hbpf-host/tests/capture.rs`, and what is made of it in `hbpf-core/tests/engine`.)

use std::process::{Child, Command};

use hbpf_core::snapshot::{OverheadLevel, ProbeState, Snapshot};
use hbpf_e2e::{Observer, Server, full, host, python};

fn finding<'a>(frame: &'a Snapshot, id: &str) -> Option<&'a hbpf_core::snapshot::Finding> {
    frame.findings.iter().find(|finding| finding.id.as_str() == id)
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
    // Answers at once, to who calls the library for each byte: what both do is mostly TLS.
    let server = Server::start(&["--ttft", "0", "--rate", "100000", "--tokens", "1"]);
    // Where hbpf's own processes are most of what it costs, nothing is given up; without optimisation they may be.
    let mut observer = Observer::start_rarely_looking(&["--max-overhead", "0.001"]);
    let program = "import http.client, ssl, sys\n\
        context = ssl.create_default_context(cafile=sys.argv[2])\n\
        connection = http.client.HTTPSConnection('127.0.0.1', int(sys.argv[1]), context=context)\n\
        request = f'GET {sys.argv[6]} HTTP/1.1\\r\\nHost: here\\r\\n\\r\\n'.encode()\n\
        while True:\n\
        \x20   connection.request(sys.argv[3], sys.argv[4], sys.argv[5])\n\
        \x20   connection.getresponse().read()\n\
        \x20   for _ in range(20):\n\
        \x20       for at in range(len(request)):\n\
        \x20           connection.sock.send(request[at:at + 1])\n\
        \x20       response = http.client.HTTPResponse(connection.sock)\n\
        \x20       response.begin()\n\
        \x20       response.read()\n";
    let call = |first: [&str; 3], then: &str| {
        let mut command = Command::new(&python);
        command.args(["-c", program, &server.tls.port().to_string()]).arg(server.certificate("ca.pem"));
        Caller(command.args(first).arg(then).spawn().expect("Python starts"))
    };
    let health = call(["GET", "/health", ""], "/health");
    let excluded = observer.until("a process is left out", |frame| frame.capture.overhead.excluded_processes > 0);
    assert_eq!(excluded.capture.overhead.level, OverheadLevel::Excluded);
    assert!(finding(&excluded, "overhead_excluded").is_some() && finding(&excluded, "overhead_detached").is_none());
    drop(health);

    let chat = r#"{"model":"demo-1","messages":[]}"#;
    // Who has called a model once is not left out; while others are, it may call before its library is probed, and so calls
    // again. Files cost calls of the library, and hbpf's own processes nearly nothing.
    let file = "/static/bundle.js?bytes=1000000";
    let chats = [(); 2].map(|()| call(["POST", "/v1/chat/completions", chat], file));
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
