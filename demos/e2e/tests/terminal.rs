//! The live view as people use it: keys typed into a terminal while models are called, and what a terminal may do to it.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use hbpf_core::snapshot::Snapshot;
use hbpf_e2e::{
    Client, Server, Sums, Terminal, Tmux, children, full, host, programs, python, script, without_sequences,
};

/// Calls that never end, of several models, one of which fails.
fn load(server: &Server, python: &Path) -> Client {
    let mut command = Command::new(python);
    command.arg(script("clients/stdlib.py")).args(["--base-url", &server.plain_url(), "--threads", "3"]);
    command.args(["--model", "quick", "--model", "demo-429err", "--model", "other"]);
    Client::start(&mut command)
}

/// The only file in a directory whose name ends so.
fn only(directory: &Path, end: &str) -> Option<String> {
    let files = fs::read_dir(directory).expect("a directory").filter_map(Result::ok);
    let mut names = files.filter(|file| file.file_name().to_string_lossy().ends_with(end));
    let file = names.next()?;
    assert!(names.next().is_none(), "one of them");
    fs::read_to_string(file.path()).ok().filter(|text| !text.is_empty())
}

#[test]
fn an_incident_is_followed_with_keys_from_the_overview_to_a_file() {
    let Some(_host) = host() else { return };
    let (Some(python), Some(tmux)) = (python(), Tmux::start((120, 40))) else { return };
    let server = Server::start(&["--ttft", "150", "--rate", "60"]);
    let mut client = load(&server, &python);
    let pid = client.pid().to_string();
    tmux.type_text(&format!(
        "{} top --max-overhead off --interval 500ms; echo en''ded with $?",
        programs().hbpf.display()
    ));
    tmux.press(&["Enter"]);
    tmux.until("the probes are in", |screen| screen.contains("LIVE") && screen.contains("1●llm-tls 2●llm-plain"));
    client.go();
    let is_client = |line: &&str| line.trim_start().starts_with(&pid) && line.contains(" cli ");
    tmux.until("the client has tokens", |screen| {
        let line = screen.lines().find(is_client).unwrap_or_default();
        line.contains("~") && line.contains("ms")
    });

    // To the process, one of its requests, and back the same way.
    tmux.type_text(&format!("/pid:{pid}"));
    tmux.press(&["Enter"]);
    tmux.until("only the client is listed", |screen| screen.contains(&format!("1 of /pid:{pid}:")));
    tmux.press(&["Enter"]);
    tmux.until("the client's page", |screen| screen.contains("First token") && screen.contains("as client"));
    tmux.press(&["Enter"]);
    tmux.until("a request's page", |screen| screen.contains("endpoint") && screen.contains("first token after"));
    tmux.press(&["Escape", "Escape", "Escape"]);
    tmux.until("the overview, with all of it", |screen| screen.contains("Totals") && !screen.contains("of /pid:"));

    // What failed, found by its name; the errors stand there.
    tmux.type_text(":failu");
    tmux.until("the command is found", |screen| screen.contains("which errors where"));
    tmux.press(&["Enter"]);
    tmux.until("failures", |screen| screen.contains("rate_limit") && screen.contains("demo-429err"));
    tmux.type_text("e");
    tmux.until("the finding of it", |screen| screen.contains("refuses requests"));
    tmux.type_text("v");
    tmux.until("over time", |screen| screen.contains("tokens out/s") && screen.contains("Time to first token"));
    tmux.type_text("m");
    tmux.until("models", |screen| screen.contains("quick") && screen.contains("other"));

    // Two models beside each other.
    tmux.type_text("b");
    tmux.type_text("quick");
    tmux.press(&["Enter"]);
    tmux.type_text("M");
    tmux.until("one is marked", |screen| screen.contains("A is quick"));
    tmux.press(&["F3"]);
    tmux.press(&["C-u"]);
    tmux.type_text("other");
    tmux.press(&["Enter"]);
    tmux.type_text("M");
    tmux.until("both are compared", |screen| screen.contains("A quick at ") && screen.contains("| B other at "));

    // Frozen, numbers stand while others come.
    tmux.press(&["Escape", "Escape"]);
    tmux.press(&["Space"]);
    let numbers = |screen: &str| screen.lines().find(|line| line.contains(" requests ")).unwrap_or_default().to_owned();
    let frozen = numbers(&tmux.until("it is frozen", |screen| screen.contains("FROZEN") && screen.contains("newer")));
    let later = tmux.until("others have come", |screen| screen.contains("FROZEN 3") || screen.contains(" 6 newer"));
    assert_eq!(numbers(&later), frozen);
    // Made-up names in what is handed on.
    tmux.type_text("P");
    tmux.type_text("x");
    tmux.until("what can be handed on", |screen| {
        screen.contains("snapshot, as JSON") && screen.contains("made-up names")
    });
    tmux.press(&["Enter"]);
    tmux.until("the file is there", |screen| screen.contains("written: "));
    let text = only(&tmux.directory(), "-snapshot.json").expect("a snapshot");
    let snapshot: Snapshot = serde_json::from_str(&text).expect("a snapshot");
    assert!(snapshot.totals.failed_total > 0 && !text.contains("stdlib.py"), "made-up names");
    tmux.type_text("l");
    tmux.until("it is live", |screen| screen.contains("LIVE"));
    tmux.type_text("q");
    let screen = tmux.until("the shell is back", |screen| screen.contains("ended with"));
    assert!(screen.contains("ended with 0") && !screen.contains("Totals"), "{screen}");
    assert!(!tmux.directory().join("core").exists());
}

/// Memory of a process and its helpers, in bytes.
fn memory(pid: u32) -> u64 {
    let of = |pid: u32| {
        let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let line = text.lines().find(|line| line.starts_with("VmRSS:")).unwrap_or_default();
        line.split_whitespace().nth(1).and_then(|kilobytes| kilobytes.parse::<u64>().ok()).unwrap_or(0) * 1024
    };
    of(pid) + children(pid).into_iter().map(of).sum::<u64>()
}

fn top(directory: &Path) -> Command {
    let mut top = Command::new(&programs().hbpf);
    top.args(["top", "--max-overhead", "off", "--interval", "100ms"]).current_dir(directory);
    top.env("TERM", "xterm-256color").env("LC_ALL", "C.UTF-8");
    top
}

#[test]
fn a_terminal_that_stops_reading_costs_frames_and_no_data() {
    let Some(_host) = host() else { return };
    let Some(python) = python() else { return };
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start(&["--ttft", "5", "--rate", "2000"]);
    let mut terminal = Terminal::start(&mut top(directory.path()), (60, 200));
    terminal.until_seen("1●llm-tls 2●llm-plain");
    let mut command = Command::new(python);
    command.arg(script("clients/stdlib.py")).args(["--base-url", &server.plain_url(), "--threads", "2"]);
    let calls: usize = if full() { 2000 } else { 400 };
    command.args(["--count", &(calls / 2).to_string(), "--model", "demo"]);
    let mut client = Client::start(&mut command);
    // Its row is there, and there alone, before anything has been asked.
    terminal.press(&format!("/pid:{}\r", client.pid()));
    terminal.until_seen("stdlib.py");
    let before = memory(terminal.pid());
    terminal.hold(true);
    // Until it has run into the terminal that takes no more.
    let is_stuck = || {
        let call = fs::read_to_string(format!("/proc/{}/syscall", terminal.pid())).unwrap_or_default();
        ["1 0x1 ", "64 0x1 "].iter().any(|write| call.starts_with(write))
    };
    client.run();
    let began = std::time::Instant::now();
    while !is_stuck() {
        assert!(began.elapsed() < hbpf_e2e::DEADLINE, "it goes on writing, and nobody reads");
        std::thread::sleep(Duration::from_millis(100));
    }
    std::thread::sleep(Duration::from_secs(if full() { 30 } else { 3 }));
    assert!(is_stuck());
    let grown = memory(terminal.pid()).saturating_sub(before);
    assert!(grown < 64 << 20, "{grown} bytes more");
    // It goes on where things stand now, and everything was counted meanwhile.
    terminal.hold(false);
    terminal.press("x\r");
    terminal.until_seen("written: ");
    let text = only(directory.path(), "-snapshot.json").expect("a snapshot");
    let snapshot: Snapshot = serde_json::from_str(&text).expect("a snapshot");
    let lost = &snapshot.capture.lost;
    assert_eq!((lost.ring_full.chunks, lost.reports), (0, 0));
    assert_eq!(Sums::of_client(&snapshot, client.pid()), server.truth(calls));
    terminal.press("q");
    assert!(terminal.finish().success());
}

#[test]
fn no_size_and_no_number_of_changes_is_too_much() {
    let Some(_host) = host() else { return };
    let directory = tempfile::tempdir().unwrap();
    let mut terminal = Terminal::start(&mut top(directory.path()), (24, 80));
    terminal.until_seen("LIVE");
    let sizes = [(1, 1), (200, 500), (2, 3), (24, 80), (1, 500), (200, 1), (0, 0), (60, 200), (10, 20)];
    for size in sizes.into_iter().cycle().take(if full() { 300 } else { 60 }) {
        terminal.resize(size);
        terminal.read_for(Duration::ZERO);
    }
    // What stays of it is a view as ever.
    terminal.resize((24, 80));
    terminal.press("?");
    terminal.until_seen("move the selection");
    terminal.press("q");
    assert!(terminal.finish().success(), "{}", without_sequences(&terminal.raw));
}

#[test]
fn a_terminal_without_unicode_gets_none() {
    let Some(_host) = host() else { return };
    let directory = tempfile::tempdir().unwrap();
    for locale in ["C", "de_DE.ISO-8859-1"] {
        let mut terminal = Terminal::start(top(directory.path()).env("LC_ALL", locale), (40, 120));
        terminal.until_seen("LIVE");
        for (key, word) in
            [("m", "PROVIDER"), ("v", "requests/s"), ("p", "PROGRAM"), ("e", "SEVERITY"), ("?", "move the selection")]
        {
            terminal.press(key);
            terminal.until_seen(word);
        }
        terminal.press("q");
        assert!(terminal.finish().success());
        let strange: Vec<u8> = terminal.raw.iter().copied().filter(|byte| !byte.is_ascii()).collect();
        assert_eq!(String::from_utf8_lossy(&strange), "", "{locale}");
    }
}
