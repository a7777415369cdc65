//! Running other processes and waiting for what they say, never for time to pass.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// After this long a test has failed: far more than anything takes on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A process whose lines are read, and which is killed when the test ends.
pub(crate) struct Talker {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
    /// All that it has said so far, for whoever must understand a failure.
    said: Vec<String>,
}

impl Talker {
    pub(crate) fn start(command: &mut Command) -> Self {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("start");
        let (sender, lines) = channel();
        let stdout = BufReader::new(child.stdout.take().expect("piped"));
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Self { stdin: child.stdin.take(), child, lines, said: Vec::new() }
    }

    /// The process under test.
    pub(crate) fn subject(options: &[&str]) -> Self {
        let program = std::env::current_exe().expect("own path");
        Self::start(Command::new(program).arg(super::subject::ARGUMENT).args(options))
    }

    /// The same, where this has been mounted before: what `mount` is told, one line for each.
    pub(crate) fn subject_with_mounts(mounts: &[&str]) -> Self {
        let program = std::env::current_exe().expect("own path");
        let mounts: String = mounts.iter().map(|arguments| format!("mount {arguments} && ")).collect();
        let script = format!("{mounts}exec \"$0\" \"$@\"");
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", &script]).arg(program).arg(super::subject::ARGUMENT);
        Self::start(&mut command)
    }

    /// A Python program of this folder.
    pub(crate) fn python(script: &str, arguments: &[&str]) -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/privileged").join(script);
        Self::start(Command::new("python3").arg("-u").arg(path).args(arguments))
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn tell(&mut self, line: &str) {
        writeln!(self.stdin.as_mut().expect("open"), "{line}").expect("it reads");
    }

    /// The next line that passes, which must come; those before it are gone.
    pub(crate) fn expect(&mut self, what: &str, passes: impl Fn(&str) -> bool) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    self.said.push(line.clone());
                    if passes(&line) {
                        return line;
                    }
                }
                Err(RecvTimeoutError::Timeout) => panic!("{what} did not come; last lines: {:#?}", self.last_lines()),
                Err(RecvTimeoutError::Disconnected) => {
                    panic!("ended before {what}; last lines: {:#?}", self.last_lines())
                }
            }
        }
    }

    pub(crate) fn expect_start(&mut self, start: &str) -> String {
        let line = self.expect(start, |line| line.starts_with(start));
        line[start.len()..].trim().to_owned()
    }

    /// Ends the process's input and waits for its end.
    pub(crate) fn finish(&mut self) -> Vec<String> {
        self.stdin = None;
        while let Ok(line) = self.lines.recv_timeout(PATIENCE) {
            self.said.push(line);
        }
        self.child.wait().expect("wait");
        std::mem::take(&mut self.said)
    }

    pub(crate) fn said(&self) -> &[String] {
        &self.said
    }

    fn last_lines(&self) -> &[String] {
        &self.said[self.said.len().saturating_sub(30)..]
    }
}

impl Drop for Talker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Asks again and again until it is so. The state asked for has no event to wait for.
pub(crate) fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "{what}: not after {PATIENCE:?}");
        std::thread::yield_now();
    }
}
