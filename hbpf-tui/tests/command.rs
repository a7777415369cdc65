//! The built `hbpf` as a user runs it: exit codes, what goes to which stream, and the terminal it gives back.

use std::fs::File;
use std::io::{BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::pty::{Winsize, openpty};
use nix::sys::signal::{Signal, kill};
use nix::sys::termios::{SetArg, Termios, tcgetattr, tcsetattr};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

/// A recording of two frames, ten milliseconds apart.
const RECORDING: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/two-frames.ndjson");

fn hbpf(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hbpf"));
    command.args(arguments).env("LANG", "C.UTF-8").env_remove("LC_ALL").env_remove("NO_COLOR").stdin(Stdio::null());
    command
}

fn output(arguments: &[&str]) -> Output {
    hbpf(arguments).output().expect("hbpf runs")
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("UTF-8")
}

#[test]
fn without_arguments_it_explains_itself() {
    let output = output(&[]);
    assert!(output.status.success());
    assert!(text(&output.stdout).contains("Usage: hbpf") && output.stderr.is_empty());
}

#[test]
fn a_mistake_is_bad_usage_and_leaves_standard_output_alone() {
    for arguments in [
        &["top", "--interval", "0"][..],
        &["snapshot", "--format", "xml"],
        &["snapshot", "-n", "0"],
        &["tpo"],
        &["snapshot", "-n", "3", "--duration", "1s"],
        &["snapshot", "--groups", "llm-tls", "--no-tls"],
    ] {
        let output = output(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(output.stdout.is_empty() && text(&output.stderr).starts_with("error: "), "{arguments:?}");
    }
}

#[test]
fn the_schema_needs_nothing() {
    let output = output(&["snapshot", "--schema"]);
    assert!(output.status.success());
    assert!(text(&output.stdout).contains("\"tokens_in_progress\""));
}

#[test]
fn batch_plays_a_recording_as_plain_text() {
    let output = output(&["top", "--batch", "--replay", RECORDING]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let frames = text(&output.stdout);
    assert_eq!(frames.matches("\nProcesses").count(), 2);
    assert!(!frames.contains('\u{1b}'), "no terminal control");
    let one = self::output(&["top", "--batch", "-n", "1", "--replay", RECORDING]);
    assert_eq!(text(&one.stdout).matches("\nProcesses").count(), 1);
}

#[test]
fn what_cannot_be_played_is_an_error() {
    let output = output(&["top", "--batch", "--replay", "/nonexistent"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).starts_with("hbpf: cannot open /nonexistent"), "{}", text(&output.stderr));
    let mut file = tempfile::NamedTempFile::new().expect("a file");
    file.write_all(b"{}\n").expect("written");
    let path = file.path().to_str().expect("a path");
    let output = self::output(&["top", "--batch", "--replay", path]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("line 1: not a snapshot"), "{}", text(&output.stderr));
}

#[test]
fn the_live_view_wants_a_terminal_and_says_what_to_use_without() {
    let output = output(&["top", "--replay", RECORDING]);
    assert_eq!(output.status.code(), Some(1));
    assert!(output.stdout.is_empty() && text(&output.stderr).contains("--batch"));
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let mut child = hbpf(&["top", "--batch", "--replay", RECORDING])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("hbpf runs");
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("hbpf ends");
    assert!(output.status.success(), "{:?}", output.status);
    assert_eq!(text(&output.stderr), "");
}

#[test]
fn the_doctor_fails_exactly_where_a_check_does() {
    let output = output(&["doctor", "--json"]);
    let found: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON and nothing else");
    let checks = found["checks"].as_array().expect("checks");
    let failed = checks.iter().any(|check| check["outcome"] == "fail");
    assert_eq!(output.status.code(), Some(i32::from(failed)), "{checks:#?}");
    assert!(checks.iter().any(|check| check["name"] == "kernel"));
    assert_eq!(text(&output.stderr), "");
}

/// A terminal with `hbpf` on it.
struct Session {
    child: std::process::Child,
    screen: BufReader<File>,
    keyboard: File,
    /// Kept open, so that the terminal outlives its user.
    terminal: OwnedFd,
    before: Termios,
}

impl Session {
    fn start() -> Self {
        Self::start_in(Path::new("."))
    }

    /// The same in another directory.
    fn start_in(directory: &Path) -> Self {
        let size = Winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 };
        let pty = openpty(Some(&size), None).expect("a pseudo terminal");
        for end in [&pty.master, &pty.slave] {
            // Not for those that other tests start meanwhile: their end would be waited for.
            fcntl(end, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).expect("it is ours");
        }
        let before = tcgetattr(&pty.slave).expect("its modes");
        let end = || Stdio::from(pty.slave.try_clone().expect("a descriptor"));
        let mut command = hbpf(&["top", "--replay", RECORDING]);
        // A process group of its own, as a shell with job control gives: without, the kernel may not let it be stopped.
        command.stdin(end()).stdout(end()).stderr(end()).process_group(0).current_dir(directory);
        let child = command.spawn().expect("hbpf runs");
        let keyboard = File::from(pty.master.try_clone().expect("a descriptor"));
        let screen = BufReader::new(File::from(pty.master));
        let mut session = Self { child, screen, keyboard, terminal: pty.slave, before };
        session.read_until("end of the recording");
        assert_ne!(tcgetattr(&session.terminal).expect("modes"), session.before, "raw mode is on");
        session
    }

    /// Reads what is drawn up to a text, and no further.
    fn read_until(&mut self, wanted: &str) {
        let mut seen = Vec::new();
        while !seen.ends_with(wanted.as_bytes()) {
            let mut byte = [0];
            self.screen.read_exact(&mut byte).expect("the terminal is open, and what is wanted comes");
            seen.extend(byte);
        }
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id() as i32)
    }

    fn modes(&self) -> Termios {
        tcgetattr(&self.terminal).expect("its modes")
    }

    /// Has it go on after it was stopped, and waits until it has drawn itself anew.
    fn goes_on(&mut self) {
        kill(self.pid(), Signal::SIGCONT).expect("a signal");
        self.read_until("\u{1b}[?1049h");
        self.read_until("end of the recording");
        // It takes the terminal once by itself and once because it was continued, and lets go of it in between.
        let give_up = Instant::now() + Duration::from_secs(10);
        while self.modes() == self.before {
            assert!(Instant::now() < give_up, "raw mode is on again");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Waits for the end, and checks that the terminal is as it was.
    fn ended(mut self) -> ExitStatus {
        let status = self.child.wait().expect("it ends");
        assert_eq!(tcgetattr(&self.terminal).expect("modes"), self.before, "the modes are restored");
        drop(self.terminal);
        // With its last user gone, reading ends (with an error, on Linux) behind what was written.
        let mut rest = Vec::new();
        let _ = self.screen.read_to_end(&mut rest);
        let rest = String::from_utf8_lossy(&rest).into_owned();
        let left = rest.rfind("\u{1b}[?1049l").expect("the alternate screen is left");
        assert!(rest[left..].contains("\u{1b}[?25h"), "the cursor is back: {rest:?}");
        status
    }
}

#[test]
fn the_terminal_is_given_back_when_the_user_leaves() {
    for key in [&b"q"[..], b"\x03"] {
        let mut session = Session::start();
        session.keyboard.write_all(key).expect("a key");
        assert_eq!(session.ended().code(), Some(0));
    }
}

#[test]
fn the_terminal_is_given_back_on_signals() {
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGQUIT] {
        let session = Session::start();
        kill(session.pid(), signal).expect("a signal");
        let status = session.ended();
        assert_eq!((status.signal(), status.code()), (None, Some(0)), "{signal}");
    }
}

#[test]
fn the_terminal_is_given_back_while_stopped() {
    let by_key = |session: &mut Session| session.keyboard.write_all(b"\x1a").expect("a key");
    let by_signal = |session: &mut Session| kill(session.pid(), Signal::SIGTSTP).expect("a signal");
    for suspend in [by_key as fn(&mut Session), by_signal] {
        let mut session = Session::start();
        // More than once: the signal is ours again afterwards.
        for _ in 0..2 {
            suspend(&mut session);
            let stopped = waitpid(session.pid(), Some(WaitPidFlag::WUNTRACED)).expect("it stops");
            assert_eq!(stopped, WaitStatus::Stopped(session.pid(), Signal::SIGTSTP));
            assert_eq!(session.modes(), session.before, "the modes are restored");
            session.read_until("\u{1b}[?1049l");
            session.read_until("\u{1b}[?25h");
            session.goes_on();
        }
        session.keyboard.write_all(b"q").expect("a key");
        assert_eq!(session.ended().code(), Some(0));
    }
}

/// SIGSTOP is told to nobody; a shell has set its own modes when it goes on.
#[test]
fn what_others_did_to_the_terminal_meanwhile_is_undone() {
    let mut session = Session::start();
    kill(session.pid(), Signal::SIGSTOP).expect("a signal");
    waitpid(session.pid(), Some(WaitPidFlag::WUNTRACED)).expect("it stops");
    tcsetattr(&session.terminal, SetArg::TCSANOW, &session.before).expect("modes");
    session.goes_on();
    session.keyboard.write_all(b"q").expect("a key");
    assert_eq!(session.ended().code(), Some(0));
}

/// Takes a snapshot without probes into a file.
fn snapshot_to(path: &Path, as_sudo_user: Option<&str>) -> Output {
    let path = path.to_str().expect("UTF-8");
    let mut command = hbpf(&["snapshot", "--json", "--duration", "100ms", "--no-tls", "--no-plain", "-o", path]);
    command.env_remove("SUDO_UID").env_remove("SUDO_GID");
    if let Some(user) = as_sudo_user {
        command.env("SUDO_UID", user).env("SUDO_GID", user);
    }
    command.output().expect("hbpf runs")
}

#[test]
fn a_snapshot_to_a_dash_goes_to_standard_output() {
    let output = snapshot_to(Path::new("-"), None);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(text(&output.stdout).starts_with('{') && !Path::new("-").exists());
}

#[test]
fn a_snapshot_goes_to_a_new_file_for_its_owner_alone() {
    use std::os::unix::fs::{MetadataExt, symlink};
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("snapshot.json");
    let output = snapshot_to(&path, None);
    assert!(output.status.success() && output.stdout.is_empty(), "{}", text(&output.stderr));
    let written = std::fs::read(&path).unwrap();
    assert!(text(&written).contains("\"schema\": \"hbpf.snapshot/1\""));
    assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);

    let link = directory.path().join("link");
    symlink(directory.path().join("elsewhere"), &link).unwrap();
    for taken in [&path, &link] {
        let output = snapshot_to(taken, None);
        assert_eq!(output.status.code(), Some(1));
        let said = text(&output.stderr);
        assert!(said.starts_with("hbpf: ") && said.contains("is there already") && said.lines().count() == 1, "{said}");
    }
    assert_eq!(std::fs::read(&path).unwrap(), written);
    assert!(!directory.path().join("elsewhere").exists());
}

#[test]
fn under_sudo_a_file_is_the_users_and_where_the_user_may_write() {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
    const USER: u32 = 12345;
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: only root can be behind sudo");
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    std::fs::set_permissions(directory.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let (theirs, roots) = (directory.path().join("theirs"), directory.path().join("roots"));
    for place in [&theirs, &roots] {
        std::fs::create_dir(place).unwrap();
    }
    chown(&theirs, Some(USER), Some(USER)).unwrap();
    let user = USER.to_string();
    let output = snapshot_to(&theirs.join("out"), Some(&user));
    assert!(output.status.success(), "{}", text(&output.stderr));
    let metadata = std::fs::metadata(theirs.join("out")).unwrap();
    assert_eq!((metadata.uid(), metadata.gid(), metadata.mode() & 0o7777), (USER, USER, 0o600));
    let output = snapshot_to(&roots.join("out"), Some(&user));
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("Permission denied"), "{}", text(&output.stderr));
    assert!(!roots.join("out").exists());
}

/// A terminal that is gone without a signal, as for a process that ignores it, does not keep the view running.
#[test]
fn the_view_ends_with_its_terminal() {
    let session = Session::start();
    let Session { mut child, screen, keyboard, terminal, .. } = session;
    drop((screen, keyboard, terminal));
    let give_up = Instant::now() + Duration::from_secs(20);
    while child.try_wait().expect("it is ours").is_none() {
        assert!(Instant::now() < give_up, "it goes on without a terminal");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_terminal_that_cannot_be_drawn_on_is_told_so() {
    let size = Winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 };
    let pty = openpty(Some(&size), None).expect("a pseudo terminal");
    let mut command = hbpf(&["top", "--replay", RECORDING]);
    command.env("TERM", "dumb").stdin(Stdio::from(pty.slave.try_clone().expect("a descriptor")));
    command.stdout(Stdio::from(pty.slave)).stderr(Stdio::piped());
    let output = command.spawn().expect("hbpf runs").wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(1));
    let said = text(&output.stderr);
    assert!(said.contains("TERM is dumb") && said.contains("--batch") && said.lines().count() == 1, "{said}");
}

#[test]
fn a_configuration_is_begun_and_judged() {
    let begun = output(&["config", "init"]);
    assert!(begun.status.success());
    let mut file = tempfile::NamedTempFile::new().expect("a file");
    file.write_all(&begun.stdout).expect("written");
    let path = file.path().to_str().expect("a path").to_owned();
    let path = path.as_str();
    let judged = output(&["--config", path, "config", "validate"]);
    assert_eq!((judged.status.code(), text(&judged.stdout)), (Some(0), format!("{path} is right\n").as_str()));
    file.write_all(b"[[providers]]\n").expect("written");
    let judged = output(&["--config", path, "config", "validate"]);
    assert_eq!(judged.status.code(), Some(2));
    assert!(text(&judged.stderr).contains(": line "), "{}", text(&judged.stderr));
    assert_eq!(
        text(&output(&["--config", path, "config", "path"]).stdout),
        "",
        "a wrong file is told whatever is asked"
    );
}

/// What is seen is handed on as files, which the view itself, confined as it is, could not make.
#[test]
fn what_is_seen_is_handed_on() {
    let directory = tempfile::tempdir().expect("a directory");
    let Session { mut child, mut screen, mut keyboard, terminal, .. } = Session::start_in(directory.path());
    let drawn = std::thread::spawn(move || {
        let mut drawn = Vec::new();
        // With its last user gone, reading ends (with an error, on Linux).
        let _ = screen.read_to_end(&mut drawn);
        drawn
    });
    for (keys, ends_with, begins_with) in [
        ("x\r", "snapshot.json", "{\n  \"schema\": \"hbpf.snapshot/1\""),
        ("xj\r", "processes.csv", "PID,"),
        ("xjj\r", "screen.txt", " hbpf "),
        ("xjjj\r", "screen.svg", "<svg "),
        ("xjjjj\r", "view.toml", "# A view of hbpf as it was left"),
    ] {
        keyboard.write_all(keys.as_bytes()).expect("a keyboard");
        let is_there = || {
            let files = std::fs::read_dir(directory.path()).expect("it is ours").flatten().map(|file| file.path());
            files.into_iter().find(|path| path.to_string_lossy().ends_with(ends_with))
        };
        let give_up = Instant::now() + Duration::from_secs(20);
        let file = loop {
            // All of it is there at once, or nearly.
            match is_there().filter(|path| path.metadata().is_ok_and(|file| file.len() > 0)) {
                Some(file) => break file,
                None => assert!(Instant::now() < give_up, "{ends_with} is not there"),
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        assert_eq!(file.metadata().expect("it is ours").mode() & 0o777, 0o600, "for its owner alone");
        let content = std::fs::read_to_string(&file).expect("text");
        assert!(content.starts_with(begins_with), "{}", &content[..content.len().min(200)]);
    }
    // The row goes to the terminal.
    keyboard.write_all(b"xG\rq").expect("a keyboard");
    assert!(child.wait().expect("it ends").success());
    drop(terminal);
    let drawn = String::from_utf8_lossy(&drawn.join().expect("a thread")).into_owned();
    assert!(drawn.contains("\u{1b}]52;c;"), "{drawn}");
}

/// Whoever replays as root is not root while the recording is read.
#[test]
fn a_recording_is_read_without_privileges() {
    /// It lasts for some seconds.
    const LONG: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../demos/recording.ndjson");
    if !nix::unistd::geteuid().is_root() {
        return eprintln!("skipped: only root has privileges to lose");
    }
    let mut child = hbpf(&["top", "--batch", "--replay", LONG]).stdout(Stdio::piped()).spawn().expect("hbpf runs");
    // Something is written once reading has begun.
    let mut first = [0];
    child.stdout.as_mut().expect("it is piped").read_exact(&mut first).expect("a frame");
    let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).expect("it plays");
    child.kill().and_then(|()| child.wait()).expect("it is ours");
    let field = |name: &str| -> Vec<&str> {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("a field of /proc");
        line.split_whitespace().collect()
    };
    assert!(field("Uid:").iter().all(|uid| *uid != "0"), "{status}");
    for set in ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"] {
        assert_eq!(field(set), ["0000000000000000"], "{set}");
    }
    assert_eq!((field("NoNewPrivs:"), field("Seccomp:")), (vec!["1"], vec!["2"]));
}
