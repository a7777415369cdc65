//! The real `hbpf` on this kernel: all its groups, one request in plain text, one inside TLS, and its end.

use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use hbpf_core::exchange::Role;
use hbpf_core::snapshot::{ProbeState, Request, Snapshot, TokensSource};
use hbpf_e2e::{Client, DEADLINE, Entry, Observer, Outcome as Served, Server, loaded_programs};
use hbpf_host::protocol::Group;

use crate::report::{Outcome, Report};
use crate::{client, machine};

/// How the stand-in server is to answer: numbers that nothing else here has. It answers slowly enough that its socket is there to
/// be asked whose it is, on kernels whose packets do not tell.
const PLAIN_MODEL: &str = "demo-131in-23tok-300ms";
const TLS_MODEL: &str = "demo-211in-37tok-50tps";

/// How often it is looked at what is left.
const LOOK: Duration = Duration::from_millis(100);

pub(crate) fn check(report: &mut Report) {
    let locked = machine::is_locked_down();
    doctor(report, locked);
    let server = Server::start(&[]);
    let mut observer = Observer::spawn(&["--groups", "all", "--max-overhead", "off"], &[]);
    groups(report, &mut observer, locked);
    plain(report, &mut observer, &server);
    if !locked {
        tls(report, &mut observer, &server);
    }
    observer.assert_nothing_lost();
    report.line(Outcome::Passed, "nothing lost", "");
    drop(server);
    observer.stop();
    nothing_left(report);
}

/// `hbpf doctor` finds nothing that keeps a group from working, where the kernel is not locked down.
fn doctor(report: &mut Report, locked: bool) {
    let output = Command::new(&hbpf_e2e::programs().hbpf).arg("doctor").output().expect("hbpf starts");
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    let outcome = if output.status.code() == Some(locked.into()) { Outcome::Passed } else { Outcome::Failed };
    report.line(outcome, "doctor", &format!("{}: {text}", output.status));
}

/// All groups are in place; under lockdown those whose programs do without reading the kernel's memory, and the others say why
/// they are not.
fn groups(report: &mut Report, observer: &mut Observer, locked: bool) {
    let of = |frame: &Snapshot, group: Group| {
        let probes = frame.capture.probes.iter().filter(|probe| probe.group == group.name());
        probes.cloned().collect::<Vec<_>>()
    };
    // The library's probes come last.
    let frame = observer.until("all groups are on or have failed", |frame| {
        let settled = |group: &Group| {
            let probes = of(frame, *group);
            !probes.is_empty() && probes.iter().all(|probe| probe.state != ProbeState::Off)
        };
        Group::ALL.iter().all(settled)
    });
    for group in Group::ALL {
        let probes = of(&frame, group);
        let failed: Vec<String> = probes
            .iter()
            .filter(|probe| probe.state == ProbeState::Failed)
            .map(|probe| format!("{} {}", probe.program, probe.reason.as_deref().unwrap_or_default()))
            .collect();
        let on: Vec<&str> = probes.iter().map(|probe| probe.program.as_str()).collect();
        let check = format!("group {}", group.name());
        let must_be_on = !locked || [Group::LlmPlain, Group::Net].contains(&group);
        match (failed.is_empty(), must_be_on) {
            (true, true) => report.line(Outcome::Passed, &check, &on.join(" ")),
            (true, false) => report.line(Outcome::Failed, &check, "on, although this kernel is locked down"),
            (false, true) => report.line(Outcome::Failed, &check, &failed.join("; ")),
            (false, false) => report.line(Outcome::Absent, &check, &failed.join("; ")),
        }
    }
}

/// The kernel takes all programs out once hbpf's helper has ended, which is not our child.
fn nothing_left(report: &mut Report) {
    let give_up = Instant::now() + DEADLINE;
    let left = loop {
        let left = loaded_programs().len();
        if left == 0 || Instant::now() > give_up {
            break left;
        }
        sleep(LOOK);
    };
    let outcome = if left == 0 { Outcome::Passed } else { Outcome::Failed };
    report.line(outcome, "nothing left behind", &format!("{left} programs"));
}

/// A request that both ends of are seen.
fn plain(report: &mut Report, observer: &mut Observer, server: &Server) {
    let arguments = format!("{} {PLAIN_MODEL}", server.plain);
    let mut client = Client::start(Command::new("/proc/self/exe").args([client::COMMAND, &arguments]));
    let answer = client.run();
    let port = server.plain.port();
    let entry = only(server.record_of(1), |entry| !entry.tls);
    assert_eq!(answer["usage"]["completion_tokens"], entry.output, "the server wrote down what it said");
    for (role, pid) in [(Role::Client, client.pid()), (Role::Server, server.pid())] {
        let seen = observer.until_rows(role, port, 1);
        compare(report, &format!("plain as {role:?}").to_lowercase(), &seen, &entry, pid);
    }
    let pid = client.pid();
    observer.until("the client's connection is counted", |frame| {
        let process = frame.processes.iter().find(|process| process.pid == pid);
        let network = process.and_then(|process| process.network.as_ref());
        network.and_then(|network| network.connect_seconds.as_ref()).is_some_and(|times| times.count == 1)
    });
    report.line(Outcome::Passed, "connection counted", "");
}

/// A streamed request through a shared OpenSSL, of which the client's end can be seen: the server has another library.
fn tls(report: &mut Report, observer: &mut Observer, server: &Server) {
    observer.until_library("libssl");
    let mut client = Openssl::start(server);
    let answer = client.run(&client::request(&server.tls.to_string(), TLS_MODEL, true));
    assert!(answer.contains("[DONE]"), "the answer has come to its end: {answer}");
    let entry = only(server.record_of(2), |entry| entry.tls);
    let seen = observer.until_rows(Role::Client, server.tls.port(), 1);
    compare(report, "tls as client", &seen, &entry, client.child.id());
}

fn only(record: Vec<Entry>, is_it: impl Fn(&Entry) -> bool) -> Entry {
    let mut found: Vec<Entry> = record.into_iter().filter(|entry| is_it(entry)).collect();
    assert_eq!(found.len(), 1, "the server was called once so");
    found.remove(0)
}

/// What hbpf says is what the server wrote down.
fn compare(report: &mut Report, check: &str, seen: &[Request], truth: &Entry, pid: u32) {
    assert_eq!((truth.outcome, truth.usage_sent), (Served::Done, true), "{truth:?}");
    let [row] = seen else {
        return report.line(Outcome::Failed, check, &format!("{} requests instead of one: {seen:?}", seen.len()));
    };
    let told = (row.pid, row.status, row.tokens.input, row.tokens.output, row.tokens_source, row.bytes_missed, row.tls);
    let is =
        (Some(pid), Some(truth.status), Some(truth.input), Some(truth.output), TokensSource::Reported, 0, truth.tls);
    let detail = format!("process, status, tokens in and out, source, bytes missed, TLS: {told:?}, truly {is:?}");
    report.line(if told == is { Outcome::Passed } else { Outcome::Failed }, check, &detail);
}

/// OpenSSL's own client.
struct Openssl {
    child: Child,
}

impl Openssl {
    fn start(server: &Server) -> Self {
        let child = Command::new("/usr/bin/openssl")
            .args(["s_client", "-quiet", "-verify_quiet", "-verify_return_error", "-connect", &server.tls.to_string()])
            .arg("-CAfile")
            .arg(server.certificate("ca.pem"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .expect("openssl starts");
        Self { child }
    }

    /// Sends a request, and reads until the server closes the connection.
    fn run(&mut self, request: &[u8]) -> String {
        // What is written before the connection stands waits for it.
        self.child.stdin.as_mut().expect("its input is piped").write_all(request).expect("it reads");
        let mut answer = String::new();
        self.child.stdout.take().expect("its output is piped").read_to_string(&mut answer).expect("it answers in text");
        answer
    }
}

impl Drop for Openssl {
    fn drop(&mut self) {
        // An error means that it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
