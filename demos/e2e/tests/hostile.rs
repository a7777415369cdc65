//! Must-show 5 of "a road that can be trusted": canaries planted in everything that passes by appear in no output of any
//! command, and names that would control a terminal arrive harmless in all of them. Looked for on raw bytes.

use std::ffi::OsString;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Instant;

use hbpf_e2e::{Client, DEADLINE, Observer, Server, host, programs, python, script};
use nix::pty::{Winsize, openpty};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, ttyname};

/// Stands in every canary, also in those on command lines.
const CANARY: &str = "CANARY";

/// Of the hostile names, in this form or escaped: what must be left of them where they are shown.
const HARMLESS: &str = "[31337m";

/// What none of a terminal's own sequences are made of: C1 controls, bidirectional and invisible characters, in UTF-8.
const HIDDEN: [char; 8] = ['\u{9b}', '\u{9d}', '\u{202e}', '\u{2066}', '\u{200b}', '\u{200f}', '\u{feff}', '\u{85}'];

/// Keys that lead through every view, one after the other.
const KEYS: &str = "\r?\u{1b}e\u{1b}m\tj\r\u{1b}m\u{1b}\tkawr><rss\r\u{1b}";

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
    let has = |label: &Option<hbpf_core::label::Label>| label.as_ref().is_some_and(|label| label.contains(HARMLESS));
    assert!(requests.clone().any(|request| has(&request.model)) && requests.clone().any(|r| has(&r.response_model)));
    assert!(requests.clone().any(|request| has(&request.finish_reason)) && requests.clone().any(|r| has(&r.request_id)));

    let mut outputs: Vec<(String, Vec<u8>)> = Vec::new();
    for line in &observer.raw {
        outputs.push(("stream of snapshots".into(), line.clone().into_bytes()));
    }
    let file = directory.path().join("snapshot.json");
    let path = file.to_str().unwrap();
    let sleeping = sleeper.id().to_string();
    for arguments in [
        &["snapshot", "--duration", "1s"][..],
        &["snapshot", "--json", "--duration", "1s"],
        &["snapshot", "--json", "--duration", "1s", "--pid", &sleeping],
        &["snapshot", "--json", "--duration", "1s", "-o", path],
        &["top", "--batch", "-n", "2", "--interval", "500ms"],
        &["doctor"],
        &["doctor", "--json"],
    ] {
        let output = Command::new(&programs().hbpf).args(arguments).output().unwrap();
        outputs.push((arguments.join(" "), output.stdout));
        outputs.push((arguments.join(" "), output.stderr));
    }
    outputs.push(("a file".into(), std::fs::read(&file).unwrap()));
    for (what, bytes) in &outputs {
        let text = check_text(what, bytes);
        if text.starts_with('{') {
            serde_json::from_str::<serde_json::Value>(text).unwrap_or_else(|error| panic!("{what}: {error}"));
        }
    }
    for wanted in ["snapshot --duration", "snapshot --json --duration 1s", "top --batch", "a file", "stream"] {
        let hostile = |(what, bytes): &&(String, Vec<u8>)| what.starts_with(wanted) && contains(bytes, HARMLESS.as_bytes());
        assert!(outputs.iter().any(|output| hostile(&output)), "no hostile name is in the output of {wanted}: nothing was tested");
    }

    watch_terminal();
    sleeper.kill().unwrap();
    sleeper.wait().unwrap();
    observer.stop();
}

/// What goes to files and pipes has no control characters but line breaks.
fn check_text<'a>(what: &str, bytes: &'a [u8]) -> &'a str {
    let text = std::str::from_utf8(bytes).unwrap_or_else(|error| panic!("{what}: {error}"));
    // The text is not shown: it would be the leak.
    assert!(!text.contains(CANARY), "a canary is in the output of {what}");
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
    let mut terminal = Terminal::start(50, 200);
    terminal.until_drawn(HARMLESS);
    for (rows, columns) in [(50, 200), (24, 80), (10, 30), (2, 5), (50, 160)] {
        terminal.resize(rows, columns);
        for key in KEYS.chars() {
            terminal.press(key);
        }
    }
    terminal.finish();
}

/// `hbpf top` in a terminal.
struct Terminal {
    keyboard: File,
    /// To ask for and set its size.
    slave: Option<OwnedFd>,
    child: Child,
    output: Receiver<Vec<u8>>,
    raw: Vec<u8>,
}

impl Terminal {
    fn start(rows: u16, columns: u16) -> Self {
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        let pty = openpty(&size, None).expect("a pseudo-terminal");
        let end = || Stdio::from(pty.slave.try_clone().expect("a descriptor"));
        let child = Command::new(&programs().hbpf)
            .args(["top", "--interval", "200ms"])
            .env("TERM", "xterm-256color")
            .env("LANG", "C.UTF-8")
            .stdin(end())
            .stdout(end())
            .stderr(end())
            .spawn()
            .expect("hbpf starts");
        let keyboard = File::from(pty.master);
        let mut reader = keyboard.try_clone().expect("a descriptor");
        let (sender, output) = channel();
        std::thread::spawn(move || {
            let mut buffer = [0; 65536];
            while let Ok(length @ 1..) = reader.read(&mut buffer) {
                if sender.send(buffer[..length].to_vec()).is_err() {
                    break;
                }
            }
        });
        Self { keyboard, slave: Some(pty.slave), child, output, raw: Vec::new() }
    }

    /// Takes what is drawn next.
    fn step(&mut self) {
        let bytes = self.output.recv_timeout(DEADLINE).expect("it goes on drawing");
        self.raw.extend(&bytes);
    }

    fn until_drawn(&mut self, text: &str) {
        let give_up = Instant::now() + DEADLINE;
        while !without_sequences(&self.raw).contains(text) {
            assert!(Instant::now() < give_up, "{text:?} was not drawn in time");
            self.step();
        }
    }

    fn press(&mut self, key: char) {
        self.keyboard.write_all(key.to_string().as_bytes()).expect("it reads keys");
        self.step();
    }

    fn resize(&mut self, rows: u16, columns: u16) {
        let name = ttyname(self.slave.as_ref().expect("open until the end")).expect("a terminal has a name");
        let (rows, columns) = (rows.to_string(), columns.to_string());
        let status = Command::new("stty").arg("-F").arg(name).args(["rows", &rows, "cols", &columns]).status();
        assert!(status.expect("stty runs").success());
        // It is nobody's controlling terminal, so that the kernel tells nobody.
        kill(Pid::from_raw(self.child.id().cast_signed()), Signal::SIGWINCH).expect("it runs");
        self.step();
    }

    /// Leaves, and looks at every byte that came.
    fn finish(&mut self) {
        self.keyboard.write_all(b"q").expect("it reads keys");
        // The last end of the terminal that is not hbpf's.
        self.slave = None;
        self.child.wait().expect("it ends");
        while let Ok(bytes) = self.output.recv_timeout(DEADLINE) {
            self.raw.extend(&bytes);
        }
        // A resized view is drawn whole, so that no name is drawn in pieces only.
        assert!(!without_sequences(&self.raw).contains(CANARY), "a canary was drawn");
        // Titles, clipboard and links; bells; and what the names began with.
        for sequence in [&b"\x1b]"[..], b"\x07", b"\x1b[31337m", b"\x1bP", b"\x1b_", b"\x1b^"] {
            assert!(!contains(&self.raw, sequence), "{sequence:?} went to the terminal");
        }
        let text = String::from_utf8(std::mem::take(&mut self.raw)).expect("it draws in UTF-8");
        assert_eq!(text.chars().find(|c| HIDDEN.contains(c)), None);
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let _ = self.child.kill();
        }
    }
}

/// What was drawn, without the sequences that move the cursor and set colours.
fn without_sequences(bytes: &[u8]) -> String {
    let mut text = Vec::with_capacity(bytes.len());
    let mut rest = bytes.iter();
    while let Some(byte) = rest.next() {
        if *byte != 0x1b {
            text.push(*byte);
        } else if rest.next() == Some(&b'[') {
            // Up to the letter that ends it.
            rest.by_ref().find(|byte| (0x40..=0x7e).contains(*byte));
        }
    }
    String::from_utf8_lossy(&text).into_owned()
}
