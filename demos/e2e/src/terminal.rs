//! Programs in a terminal: one whose bytes are counted and can be left unread, and one of tmux's, whose screen can be read.

use std::fs::File;
use std::io::{Read, Write};
use std::num::NonZero;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use nix::pty::{Winsize, openpty};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, ttyname};

use crate::{DEADLINE, tool};

/// A program in a terminal of its own.
pub struct Terminal {
    keyboard: File,
    /// To ask for and set its size.
    slave: Option<OwnedFd>,
    child: Child,
    output: Receiver<Vec<u8>>,
    /// Whether nobody reads what it writes.
    is_held: Arc<(Mutex<bool>, Condvar)>,
    /// What it has written, as far as it was taken.
    pub raw: Vec<u8>,
    /// What of it is seen.
    screen: vt100::Parser,
}

impl Terminal {
    /// Starts a program in a terminal of this size.
    pub fn start(command: &mut Command, (rows, columns): (u16, u16)) -> Self {
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        let pty = openpty(&size, None).expect("a pseudo-terminal");
        let end = || Stdio::from(pty.slave.try_clone().expect("a descriptor"));
        let child = command.stdin(end()).stdout(end()).stderr(end()).spawn().expect("the program starts");
        let keyboard = File::from(pty.master);
        let mut reader = keyboard.try_clone().expect("a descriptor");
        let (sender, output) = channel();
        let is_held = Arc::new((Mutex::new(false), Condvar::new()));
        let gate = Arc::clone(&is_held);
        thread::spawn(move || {
            let mut buffer = [0; 65536];
            while let Ok(length @ 1..) = reader.read(&mut buffer) {
                if sender.send(buffer[..length].to_vec()).is_err() {
                    break;
                }
                let held = gate.0.lock().unwrap_or_else(PoisonError::into_inner);
                drop(gate.1.wait_while(held, |held| *held).unwrap_or_else(PoisonError::into_inner));
            }
        });
        Self {
            keyboard,
            slave: Some(pty.slave),
            child,
            output,
            is_held,
            raw: Vec::new(),
            screen: vt100::Parser::new(at_least_one(rows), at_least_one(columns), 0),
        }
    }

    /// The program's process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Stops reading what the program writes, or goes on.
    pub fn hold(&self, is_held: bool) {
        *self.is_held.0.lock().unwrap_or_else(PoisonError::into_inner) = is_held;
        self.is_held.1.notify_all();
    }

    /// Takes what the program writes next.
    pub fn step(&mut self) {
        let bytes = self.output.recv_timeout(DEADLINE).expect("it goes on drawing");
        self.take(&bytes);
    }

    fn take(&mut self, bytes: &[u8]) {
        self.raw.extend(bytes);
        self.screen.process(bytes);
    }

    /// What stands on the screen.
    pub fn screen(&self) -> String {
        self.screen.screen().contents()
    }

    /// Takes all that comes for so long; how many bytes that were.
    pub fn read_for(&mut self, time: Duration) -> usize {
        let (before, end) = (self.raw.len(), Instant::now() + time);
        loop {
            match self.output.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(bytes) => self.take(&bytes),
                Err(RecvTimeoutError::Timeout) => break,
                // It is gone, and the time passes all the same.
                Err(RecvTimeoutError::Disconnected) => {
                    break thread::sleep(end.saturating_duration_since(Instant::now()));
                }
            }
        }
        self.raw.len() - before
    }

    /// Reads until this stands on the screen.
    pub fn until_seen(&mut self, text: &str) {
        let give_up = Instant::now() + DEADLINE;
        while !self.screen().contains(text) {
            assert!(Instant::now() < give_up, "{text:?} is not seen in time:\n{}", self.screen());
            self.step();
        }
    }

    /// Presses keys.
    pub fn press(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).expect("it reads keys");
    }

    /// Gives the terminal another size and says so.
    pub fn resize(&mut self, size: (u16, u16)) {
        let name = ttyname(self.slave.as_ref().expect("open until the end").as_fd()).expect("a terminal has a name");
        let (rows, columns) = (size.0.to_string(), size.1.to_string());
        let status = Command::new("stty").arg("-F").arg(name).args(["rows", &rows, "cols", &columns]).status();
        assert!(status.expect("stty runs").success());
        // It is nobody's controlling terminal, so that the kernel tells nobody.
        kill(Pid::from_raw(self.child.id().cast_signed()), Signal::SIGWINCH).expect("it runs");
        self.screen.screen_mut().set_size(at_least_one(size.0), at_least_one(size.1));
    }

    /// Waits until the program has ended, and takes the rest of what it has written.
    pub fn finish(&mut self) -> ExitStatus {
        self.hold(false);
        // The last end of the terminal that is not the program's.
        self.slave = None;
        let mut status = None;
        let give_up = Instant::now() + DEADLINE;
        loop {
            match self.output.recv_timeout(Duration::from_millis(100)) {
                Ok(bytes) => self.take(&bytes),
                Err(_) if status.is_some() => break,
                Err(_) => {}
            }
            status = status.or(self.child.try_wait().expect("it can be waited for"));
            assert!(Instant::now() < give_up, "it does not end");
        }
        status.expect("it has ended")
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // An error means that it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.hold(false);
    }
}

fn at_least_one(cells: u16) -> NonZero<u16> {
    NonZero::new(cells).unwrap_or(NonZero::<u16>::MIN)
}

/// What was drawn, without the sequences that move the cursor and set colours.
pub fn without_sequences(bytes: &[u8]) -> String {
    let mut text = Vec::with_capacity(bytes.len());
    let mut rest = bytes.iter();
    while let Some(byte) = rest.next() {
        if *byte != 0x1b {
            text.push(*byte);
            continue;
        }
        match rest.next() {
            // Up to the letter that ends it.
            Some(b'[') => drop(rest.by_ref().find(|byte| (0x40..=0x7e).contains(*byte))),
            // A title or the like, up to a bell or the escape of what ends it otherwise.
            Some(b']') => drop(rest.by_ref().find(|byte| matches!(byte, 0x07 | 0x1b))),
            // A set of characters.
            Some(b'(' | b')') => drop(rest.next()),
            _ => {}
        }
    }
    String::from_utf8_lossy(&text).into_owned()
}

/// A shell in tmux, in a directory of its own.
pub struct Tmux {
    program: PathBuf,
    directory: tempfile::TempDir,
}

impl Tmux {
    /// A shell in a window of this size; `None` (and said) where there is no tmux.
    pub fn start((columns, rows): (u16, u16)) -> Option<Self> {
        let program = tool("tmux", "-V", &["tmux".into()])?;
        let directory = tempfile::tempdir().expect("a temporary directory can be made");
        let tmux = Self { program, directory };
        let (columns, rows) = (columns.to_string(), rows.to_string());
        let mut start = tmux.command();
        start.args(["-f", "/dev/null", "new-session", "-d", "-x", &columns, "-y", &rows, "sh"]);
        let status = start.env("PS1", "$ ").env("LC_ALL", "C.UTF-8").current_dir(tmux.directory.path()).status();
        assert!(status.is_ok_and(|status| status.success()), "tmux does not start");
        Some(tmux)
    }

    /// Where the shell is.
    pub fn directory(&self) -> PathBuf {
        self.directory.path().to_owned()
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("-S").arg(self.directory.path().join(".tmux"));
        command
    }

    /// Presses keys, by tmux's names of them.
    pub fn press(&self, keys: &[&str]) {
        for key in keys {
            let status = self.command().args(["send-keys", key]).status();
            assert!(status.is_ok_and(|status| status.success()), "tmux takes no keys");
            // What follows an escape within a moment is a key with Alt.
            if *key == "Escape" {
                thread::sleep(Duration::from_millis(100));
            }
        }
    }

    /// Types a text.
    pub fn type_text(&self, text: &str) {
        let status = self.command().args(["send-keys", "-l", text]).status();
        assert!(status.is_ok_and(|status| status.success()), "tmux takes no keys");
    }

    /// What stands on the screen.
    pub fn screen(&self) -> String {
        let output = self.command().args(["capture-pane", "-p"]).output().expect("tmux answers");
        String::from_utf8(output.stdout).expect("the screen is in UTF-8")
    }

    /// The screen, once this holds of it.
    pub fn until(&self, what: &str, mut holds: impl FnMut(&str) -> bool) -> String {
        let give_up = Instant::now() + DEADLINE;
        loop {
            let screen = self.screen();
            if holds(&screen) {
                return screen;
            }
            assert!(Instant::now() < give_up, "{what}: not in time\n{screen}");
            thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Tmux {
    fn drop(&mut self) {
        let _ = self.command().arg("kill-server").status();
    }
}
