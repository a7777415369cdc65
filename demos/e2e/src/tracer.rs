//! `hbpf trace`, as its users run it.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, ChildStderr, Command, Stdio};

use crate::programs;

/// A running `hbpf trace`, whose probes are in place.
pub struct Tracer {
    child: Child,
    errors: BufReader<ChildStderr>,
}

impl Tracer {
    /// Starts it with these arguments.
    pub fn start(arguments: &[&str]) -> Self {
        let mut child = Command::new(&programs().hbpf)
            .args(["trace", "--max-overhead", "off"])
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("hbpf starts");
        let mut errors = BufReader::new(child.stderr.take().expect("its standard error is piped"));
        let mut said = String::new();
        while !said.contains("in place") {
            said.clear();
            let read = errors.read_line(&mut said).expect("it can be read");
            assert!(read > 0, "hbpf trace has ended");
        }
        Self { child, errors }
    }

    /// Waits until it has printed as many lines as it was told to; gives those, and what it has said besides.
    pub fn finish(mut self) -> (Vec<String>, String) {
        let mut said = String::new();
        self.errors.read_to_string(&mut said).expect("it can be read");
        let output = self.child.wait_with_output().expect("it has ended");
        assert!(output.status.success(), "{said}");
        let lines = String::from_utf8(output.stdout).expect("it is text");
        (lines.lines().map(str::to_owned).collect(), said)
    }
}
