//! `hbpf trace`, `hbpf check` and `hbpf record`, as scripts use them.

use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::thread;
use std::time::Duration;

use hbpf_core::exchange::{Phase, Role};
use hbpf_core::snapshot::Request;
use hbpf_e2e::{Client, Server, Tracer, full, host, programs, python, script, tool};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Half of them fail.
fn client_command(python: &Path, calls: u64) -> Command {
    let mut command = Command::new(python);
    command.arg(script("clients/stdlib.py")).args(["--threads", "2"]);
    command.args(["--count", &(calls / 2).to_string(), "--model", "demo", "--model", "demo-429err"]);
    command
}

fn client(server: &Server, python: &Path, calls: u64) -> Client {
    Client::start(client_command(python, calls).args(["--base-url", &server.plain_url()]))
}

const CALLS: u64 = 20;

const NOBODY: u32 = 65534;

#[test]
fn every_exchange_has_one_line() {
    let Some(_host) = host() else { return };
    let Some(python) = python() else { return };
    let server = Server::start(&["--ttft", "20", "--rate", "400"]);
    let mut client = client(&server, &python, CALLS);
    let pid = client.pid().to_string();
    let everything = Tracer::start(&["--json", "--pid", &pid, "-n", &CALLS.to_string()]);
    let failed = Tracer::start(&["--failed", "--role", "server", "--model", "429", "-n", &(CALLS / 2).to_string()]);
    client.run();
    let (lines, _) = everything.finish();
    let requests: Vec<Request> = lines.iter().map(|line| serde_json::from_str(line).expect("a request")).collect();
    let truth = server.truth(CALLS as usize);
    let sum = |of: fn(&Request) -> Option<u64>| requests.iter().filter_map(of).sum::<u64>();
    assert_eq!(requests.len() as u64, truth.requests);
    assert_eq!(sum(|request| request.tokens.output), truth.output);
    assert_eq!(sum(|request| request.tokens.input), truth.input);
    assert_eq!(requests.iter().filter(|request| request.phase == Phase::Failed).count() as u64, truth.failed);
    assert!(requests.iter().all(|request| request.role == Role::Client && request.pid == Some(client.pid())));

    let (lines, _) = failed.finish();
    let [head, lines @ ..] = &lines[..] else { panic!("nothing was printed") };
    assert!(head.starts_with("ENDED "), "{head}");
    assert_eq!(lines.len() as u64, truth.failed);
    for line in lines {
        assert!(line.contains(" srv ") && line.contains(" demo-429err ") && line.contains(" 429 "), "{line}");
    }
}

#[test]
fn conditions_are_told_by_the_exit_code() {
    let Some(_host) = host() else { return };
    let Some(python) = python() else { return };
    let server = Server::start(&["--ttft", "200", "--rate", "400"]);
    let mut client = client(&server, &python, 240);
    let pid = client.pid().to_string();
    client.go();
    let check = |conditions: &[&str]| {
        let mut command = Command::new(&programs().hbpf);
        command.args(["check", "--max-overhead", "off", "--for", "2s", "--pid", &pid]).args(conditions);
        let output = command.output().unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        eprintln!("{said}{}", String::from_utf8_lossy(&output.stderr));
        (output.status.code(), said)
    };
    let (code, said) = check(&["ttft_p50>100ms", "ttft_p50>100s", "errors>=1%"]);
    let words: Vec<_> = said.lines().filter_map(|line| line.split_whitespace().next()).collect();
    assert_eq!((code, &words[..]), (Some(1), &["HOLDS", "ok", "HOLDS"][..]));
    assert_eq!(check(&["ttft_p50>100s", "requests<1"]).0, Some(0));
    client.result();
    assert_eq!(check(&["ttft_p50>100ms"]).0, Some(3), "nobody has asked anything since");
    assert_eq!(check(&["requests<1", "failed>0"]).0, Some(1), "which is a number, too");
}

/// Without the right to see plain traffic.
fn without_plain() -> Option<Command> {
    let setpriv = tool("setpriv", "--version", &["setpriv".into()])?;
    let mut command = Command::new(setpriv);
    command.arg("--bounding-set=-net_admin").arg(&programs().hbpf);
    Some(command)
}

#[test]
fn where_one_group_has_failed_nothing_is_said_to_be_well() {
    let Some(_host) = host() else { return };
    let Some(python) = python() else { return };
    let server = Server::start(&["--ttft", "200", "--rate", "400"]);
    let mut command = client_command(&python, 240);
    command.args(["--base-url", &server.tls_url(), "--ca"]).arg(server.certificate("ca.pem"));
    let mut client = Client::start(&mut command);
    client.go();
    let check = |conditions: &[&str]| {
        let mut command = without_plain()?;
        command.args(["check", "--max-overhead", "off", "--for", "2s", "--pid", &client.pid().to_string()]);
        let output = command.args(conditions).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        eprintln!("{}{said}", String::from_utf8_lossy(&output.stdout));
        assert!(said.contains("llm-plain is not seen: ") && said.contains("CAP_NET_ADMIN"), "{said}");
        output.status.code()
    };
    if without_plain().is_none() {
        return;
    }
    assert_eq!(check(&["failed>100000"]), Some(3), "there may be more in plain text");
    assert_eq!(check(&["failed>100000", "failed>0"]), Some(1), "those that were seen have failed");
}

/// `hbpf record` into a file of its own.
struct Recorder {
    child: Child,
    file: PathBuf,
    _directory: tempfile::TempDir,
}

impl Recorder {
    fn start(arguments: &[&str]) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("recording.hbpf");
        let mut command = Command::new(&programs().hbpf);
        command.arg("record").args(arguments).arg("-o").arg(&file);
        Self { child: command.spawn().expect("hbpf starts"), file, _directory: directory }
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.child.id()).unwrap()), signal).expect("it is ours");
    }

    /// Ends it as one does who stops it.
    fn stop(&mut self) {
        self.signal(Signal::SIGTERM);
        assert!(self.child.wait().expect("it is our child").success());
    }

    /// The frames that are in the file by now, as text.
    fn shown(&self) -> String {
        let output =
            Command::new(&programs().hbpf).args(["top", "--batch", "--replay"]).arg(&self.file).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Waits for a text in the file, which can be read while it is written.
    fn wait_for(&self, text: &str) {
        wait_until(&format!("{text} in the file"), || self.shown().contains(text));
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    for _ in 0..100 {
        if is_so() {
            return;
        }
        thread::sleep(Duration::from_millis(200));
    }
    panic!("in vain: {what}");
}

fn frames(shown: &str) -> usize {
    shown.matches("llm-plain ").count()
}

/// What was recorded until somebody stopped it is what was seen, and is shown without privileges.
#[test]
fn a_recording_has_what_was_seen() {
    let Some(_host) = host() else { return };
    let Some(python) = python() else { return };
    let server = Server::start(&["--ttft", "20", "--rate", "400"]);
    let mut client = client(&server, &python, CALLS);
    let mut recorder = Recorder::start(&["--interval", "500ms"]);
    recorder.wait_for("llm-plain on");
    client.run();
    let truth = server.truth(CALLS as usize);
    recorder.wait_for(&format!("done {}  failed {} ", truth.requests - truth.failed, truth.failed));
    recorder.stop();
    let shown = recorder.shown();
    assert!(frames(&shown) > 2 && shown.contains(" demo-429err "), "{shown}");
    // Cut off anywhere, it is what it was before.
    let bytes = fs::read(&recorder.file).expect("it is ours");
    fs::write(&recorder.file, &bytes[..bytes.len() * 2 / 3]).expect("it is ours");
    let before = frames(&recorder.shown());
    assert!((1..frames(&shown)).contains(&before), "{before} of {}", frames(&shown));
}

/// The minutes before an alarm are there when it comes, once and again, and when the recorder ends.
#[test]
fn a_flight_recorder_writes_when_it_is_asked() {
    let Some(_host) = host() else { return };
    let mut recorder = Recorder::start(&["--interval", "200ms", "--last", "2s"]);
    // Before it is ready, it ignores the signal or ends; its file is there from the start.
    wait_until("the file is made", || recorder.file.exists());
    thread::sleep(Duration::from_secs(5));
    assert_eq!(fs::metadata(&recorder.file).unwrap().len(), 0);
    recorder.signal(Signal::SIGUSR1);
    recorder.wait_for("llm-plain on");
    let first = frames(&recorder.shown());
    recorder.signal(Signal::SIGUSR1);
    wait_until("what came since is there", || frames(&recorder.shown()) > first);
    recorder.stop();
    assert!(frames(&recorder.shown()) > first);
}

/// However long it runs, there are two files, and each can be read.
#[test]
fn a_recording_that_is_full_goes_on_anew() {
    const LIMIT: u64 = 16_000;
    let Some(_host) = host() else { return };
    let mut recorder = Recorder::start(&["--interval", "100ms", "--rotate", "16k"]);
    let full = recorder.file.with_extension("hbpf.1");
    wait_until("the first file is full", || fs::metadata(&full).is_ok_and(|file| file.len() >= LIMIT));
    // Of what is in the file now, none was there before.
    recorder.wait_for("llm-plain on");
    recorder.stop();
    assert!(frames(&recorder.shown()) > 0);
    recorder.file = full;
    assert!(frames(&recorder.shown()) > 0);
    assert_eq!(fs::read_dir(recorder.file.parent().unwrap()).unwrap().count(), 2);
}

/// Some twenty seconds: requests hang that were sent when the probes were in place, and have hung for a while.
#[test]
fn a_server_that_hangs_is_slow() {
    if !full() {
        return;
    }
    let Some(_host) = host() else { return };
    let Some(python) = python() else { return };
    let server = Server::start(&["--rate", "400"]);
    let mut command = Command::new(python);
    command.arg(script("clients/stdlib.py")).args(["--base-url", &server.plain_url(), "--threads", "4"]);
    // Eight seconds of calls that are answered come before: long enough for the probes.
    command.args(["--model", "demo-200ms-2tok"].repeat(40)).args(["--model", "demo-600000ms"]);
    let mut client = Client::start(&mut command);
    client.go();
    let conditions = ["ttft_p99>3s", "duration_max>3s", "duration_p50>3s"];
    let mut command = Command::new(&programs().hbpf);
    command.args(["check", "--max-overhead", "off", "--for", "14s", "--pid", &client.pid().to_string()]);
    let output = command.args(conditions).output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    eprintln!("{said}{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(1));
    let words: Vec<_> = said.lines().filter_map(|line| line.split_whitespace().next()).collect();
    assert_eq!(words, ["HOLDS", "HOLDS", "ok"]);
    assert!(said.contains("still running"));
}

#[test]
fn who_may_see_nothing_is_told_so() {
    let Some(_host) = host() else { return };
    for (arguments, code) in [(&["trace"][..], 1), (&["check", "failed>0"], 3)] {
        let mut command = Command::new(&programs().hbpf);
        let output = command.args(arguments).uid(NOBODY).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{said}");
        assert!(said.contains("nothing can be seen"), "{said}");
    }
}
