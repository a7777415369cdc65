//! Must-show 5 of "a road that can be trusted": canaries planted in everything that passes by appear in no output of any
//! command, and names that would control a terminal arrive harmless in all of them. Looked for on raw bytes.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use hbpf_core::label::Label;
use hbpf_core::snapshot::Request;
use hbpf_e2e::{Client, Observer, Server, Terminal, full, host, programs, python, script, without_sequences};

/// Stands in every canary, also in those on command lines.
const CANARY: &str = "CANARY";

/// Of the hostile names, in this form or escaped: what must be left of them where they are shown.
const HARMLESS: &str = "[31337m";

/// What none of a terminal's own sequences are made of: C1 controls, bidirectional and invisible characters, in UTF-8.
const HIDDEN: [char; 8] = ['\u{9b}', '\u{9d}', '\u{202e}', '\u{2066}', '\u{200b}', '\u{200f}', '\u{feff}', '\u{85}'];

/// Names in a request, as its ends have sent them. (Hosts and request ids that are not plain are not taken at all.)
type Name = fn(&Request) -> &Option<Label>;

const NAMES: [(&str, Name); 3] = [
    ("model", |request| &request.model),
    ("model in the answer", |request| &request.response_model),
    ("finish reason", |request| &request.finish_reason),
];

/// Keys that lead through every view, one after the other.
const KEYS: &str = "\r?\u{1b}e\u{1b}m\tj\r\u{1b}m\u{1b}\tkawr><rss\r\u{1b}v\u{1b}t\u{1b}f\u{1b}c\u{1b}d\u{1b}p\u{1b}yMjM\u{1b}:\u{1b}o\u{1b}";

#[test]
fn what_is_private_or_hostile_comes_out_of_no_command() {
    let Some(_host) = host() else { return };
    let Some(python) = python() else { return };
    let certificates = Server::start(&[]);
    let directory = tempfile::tempdir().unwrap();
    // A program in a place, and under a name, that are hostile.
    let place = directory.path().join(OsString::from_vec(b"\x1b[31337m\xe2\x80\xae\xff<script>".to_vec()));
    std::fs::create_dir(&place).unwrap();
    let program = place.join("a\u{1b}[31337m,\"=b");
    std::fs::copy("/bin/sleep", &program).unwrap();
    let mut sleeper = Command::new(&program).arg0("x\u{1b}]2;t\u{7}").args(["1000"]).spawn().unwrap();

    let mut observer = Observer::start();
    let mut client = Client::start(
        Command::new(&python)
            .arg(script("clients/hostile.py"))
            .args(["--api-key", "CANARYARGUMENT", "https://CANARYUSER:CANARYPASSWORD@host/CANARYPATH?CANARYQUERY"])
            .env("HBPF_CANARY", "xyz")
            .env("HBPF_CERTIFICATE", certificates.certificate("server.pem"))
            .env("HBPF_KEY", certificates.certificate("server-key.pem")),
    );
    observer.until_tls_of(client.pid());
    client.go();
    let pid = client.pid();
    let frame = observer.until("calls of all forms were seen at both ends over both ways", |frame| {
        let process = frame.processes.iter().find(|process| process.pid == pid);
        let seen = |requests: u64| requests >= 30;
        process.is_some_and(|process| {
            process.as_client.as_ref().is_some_and(|stats| seen(stats.requests_total))
                && process.as_server.as_ref().is_some_and(|stats| seen(stats.requests_total))
                && frame.endpoints.iter().filter(|endpoint| seen(endpoint.stats.requests_total)).count() >= 2
        })
    });
    assert!(frame.totals.error_types.keys().any(|kind| kind.contains(HARMLESS)), "{:?}", frame.totals.error_types);
    let requests = frame.requests.recent.iter();
    let has = |label: &Option<Label>| label.as_ref().is_some_and(|label| label.contains(HARMLESS));
    for (what, of) in NAMES {
        assert!(requests.clone().any(|request| has(of(request))), "no hostile {what} was seen: nothing was tested");
    }

    let mut outputs: Vec<(String, Vec<u8>)> = Vec::new();
    for line in &observer.raw {
        outputs.push(("stream of snapshots".into(), line.clone().into_bytes()));
    }
    let file = directory.path().join("snapshot.json");
    let path = file.to_str().unwrap();
    for arguments in [
        &["snapshot", "--duration"][..],
        &["snapshot", "--json", "-o", path, "--duration"],
        &["top", "--batch", "--interval", "1s", "-n"],
    ] {
        outputs.extend(seeing(arguments, &file));
        if let Ok(written) = std::fs::read(&file) {
            outputs.push(("a file".into(), written));
        }
    }
    for arguments in [&["doctor"][..], &["doctor", "--json"]] {
        outputs.extend(run(arguments));
    }
    for (what, bytes) in &outputs {
        let text = check_text(what, bytes);
        if text.starts_with('{') {
            serde_json::from_str::<serde_json::Value>(text).unwrap_or_else(|error| panic!("{what}: {error}"));
        }
    }
    watch_terminal();
    sleeper.kill().unwrap();
    sleeper.wait().unwrap();
    observer.stop();
}

/// What a command writes when it has been given so many seconds or frames that it saw a hostile name.
fn seeing(arguments: &[&str], file: &Path) -> Vec<(String, Vec<u8>)> {
    for long in ["3", "10", "40"] {
        let _ = std::fs::remove_file(file);
        let outputs = run(&[arguments, &[long]].concat());
        let written = std::fs::read(file).unwrap_or_default();
        if outputs.iter().any(|(_, bytes)| contains(bytes, HARMLESS.as_bytes()))
            || contains(&written, HARMLESS.as_bytes())
        {
            return outputs;
        }
    }
    panic!("{arguments:?} shows no hostile name: nothing was tested")
}

/// What a command writes to its outputs.
fn run(arguments: &[&str]) -> Vec<(String, Vec<u8>)> {
    let output = Command::new(&programs().hbpf).args(arguments).output().expect("hbpf runs");
    let what = arguments.join(" ");
    vec![(what.clone(), output.stdout), (format!("standard error of {what}"), output.stderr)]
}

/// What goes to files and pipes has no control characters but line breaks.
fn check_text<'a>(what: &str, bytes: &'a [u8]) -> &'a str {
    let text = std::str::from_utf8(bytes).unwrap_or_else(|error| panic!("{what}: {error}"));
    // No more of the text is shown: it would be the leak.
    let canary =
        text.find(CANARY).map(|at| text[at..].chars().take_while(char::is_ascii_alphabetic).collect::<String>());
    assert_eq!(canary, None, "a canary is in the output of {what}");
    let control = text.chars().find(|c| c.is_control() && *c != '\n');
    assert_eq!(control, None, "{what}");
    assert_eq!(text.chars().find(|c| HIDDEN.contains(c)), None, "{what}");
    for escaped in ["\\u001b", "\\u009b", "\\u202e", "\\ud800", "\u{301}\u{301}\u{301}\u{301}\u{301}"] {
        assert!(!text.contains(escaped), "{escaped:?} is in the output of {what}");
    }
    text
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

/// The live view, in terminals of several sizes, with every view opened.
fn watch_terminal() {
    let mut top = Command::new(&programs().hbpf);
    top.args(["top", "--interval", "200ms"]).env("TERM", "xterm-256color").env("LANG", "C.UTF-8");
    let mut terminal = Terminal::start(&mut top, (50, 200));
    terminal.until_seen(HARMLESS);
    let sizes = [(50, 200), (10, 30), (24, 80), (2, 5), (50, 160)];
    for size in sizes.into_iter().take(if full() { sizes.len() } else { 2 }) {
        terminal.resize(size);
        terminal.step();
        for key in KEYS.chars() {
            terminal.press(&key.to_string());
            terminal.step();
            // What follows an escape at once is a key with Alt.
            if key == '\u{1b}' {
                terminal.read_for(Duration::from_millis(50));
            }
        }
    }
    leave(terminal);
}

/// Leaves, and looks at every byte that came.
fn leave(mut terminal: Terminal) {
    terminal.press("q");
    terminal.finish();
    // A resized view is drawn whole, so that no name is drawn in pieces only.
    assert!(!without_sequences(&terminal.raw).contains(CANARY), "a canary was drawn");
    // Titles, clipboard and links; bells; and what the names began with.
    for sequence in [&b"\x1b]"[..], b"\x07", b"\x1b[31337m", b"\x1bP", b"\x1b_", b"\x1b^"] {
        assert!(!contains(&terminal.raw, sequence), "{sequence:?} went to the terminal");
    }
    let text = String::from_utf8(std::mem::take(&mut terminal.raw)).expect("it draws in UTF-8");
    assert_eq!(text.chars().find(|c| HIDDEN.contains(c)), None);
}
