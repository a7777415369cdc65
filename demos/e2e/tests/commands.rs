//! `hbpf trace`, `hbpf check` and `hbpf record`, as scripts use them.

use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

use hbpf_core::exchange::{Phase, Role};
use hbpf_core::snapshot::Request;
use hbpf_e2e::{Client, Server, Tracer, full, host, programs, python, script, tool};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Half of them fail.
fn client(server: &Server, python: &Path, calls: u64) -> Client {
    let mut command = Command::new(python);
    command.arg(script("clients/stdlib.py")).args(["--base-url", &server.plain_url(), "--threads", "2"]);
    command.args(["--count", &(calls / 2).to_string(), "--model", "demo", "--model", "demo-429err"]);
    Client::start(&mut command)
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

/// Without the right to see TLS.
fn without_tls() -> Option<Command> {
    let setpriv = tool("setpriv", "--version", &["setpriv".into()])?;
    let mut command = Command::new(setpriv);
    command.arg("--bounding-set=-sys_admin").arg(&programs().hbpf);
    Some(command)
}

#[test]
fn where_one_group_has_failed_nothing_is_said_to_be_well() {
    let Some(_host) = host() else { return };
    let Some(python) = python() else { return };
    let server = Server::start(&["--ttft", "200", "--rate", "400"]);
    let mut client = client(&server, &python, 240);
    client.go();
    let check = |conditions: &[&str]| {
        let mut command = without_tls()?;
        command.args(["check", "--max-overhead", "off", "--for", "2s", "--pid", &client.pid().to_string()]);
        let output = command.args(conditions).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        eprintln!("{}{said}", String::from_utf8_lossy(&output.stdout));
        assert!(said.contains("llm-tls is not seen: ") && said.contains("CAP_SYS_ADMIN"), "{said}");
        output.status.code()
    };
    if without_tls().is_none() {
        return;
    }
    assert_eq!(check(&["failed>100000"]), Some(3), "there may be more over TLS");
    assert_eq!(check(&["failed>100000", "failed>0"]), Some(1), "those that were seen have failed");
}

/// Some twenty seconds: requests hang that were sent when the probes were in place, and have hung for a while.
/// What was recorded until somebody stopped it is what was seen, and is shown without privileges.
#[test]
fn a_recording_has_what_was_seen() {
    let Some(_host) = host() else { return };
    let Some(python) = python() else { return };
    let server = Server::start(&["--ttft", "20", "--rate", "400"]);
    let mut client = client(&server, &python, CALLS);
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("recording.hbpf");
    let hbpf = &programs().hbpf;
    let mut recorder =
        Command::new(hbpf).args(["record", "--interval", "500ms", "-o"]).arg(&file).spawn().expect("hbpf starts");
    let lines = || {
        let output = Command::new(hbpf).args(["top", "--batch", "--replay"]).arg(&file).output().expect("hbpf starts");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    // It can be read while it is written.
    let wait_for = |text: &str| {
        for _ in 0..100 {
            if lines().contains(text) {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(200));
        }
        panic!("{text} is not in {}", lines());
    };
    wait_for("llm-plain on");
    client.run();
    wait_for(" demo-429err ");
    kill(Pid::from_raw(i32::try_from(recorder.id()).unwrap()), Signal::SIGTERM).expect("it is ours");
    assert!(recorder.wait().expect("it is our child").success());
    let truth = server.truth(CALLS as usize);
    let last = lines();
    let frames = last.matches("llm-plain on").count();
    assert!(frames > 2, "{last}");
    assert!(last.contains(&format!("{} failed", truth.failed)), "{last}");
    // Cut off anywhere, it is what it was before.
    let bytes = std::fs::read(&file).expect("it is ours");
    std::fs::write(&file, &bytes[..bytes.len() * 2 / 3]).expect("it is ours");
    let frames_before = lines().matches("llm-plain on").count();
    assert!((1..frames).contains(&frames_before), "{frames_before} of {frames}");
}

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
