//! Clients that get ready, begin when told, say what they did, and stay until let go.

use std::io::{BufRead, BufReader, Lines, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde_json::Value;

/// A client process. It ends with this value.
pub struct Client {
    child: Child,
    input: Option<ChildStdin>,
    output: Lines<BufReader<ChildStdout>>,
    /// What it said when it was ready.
    pub ready: Value,
}

impl Client {
    /// Starts one and waits until it is ready: everything loaded, its TLS library too.
    pub fn start(command: &mut Command) -> Self {
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("the client's program starts");
        let input = child.stdin.take();
        let mut output = BufReader::new(child.stdout.take().expect("its output is piped")).lines();
        let ready = next(&mut output);
        Self { child, input, output, ready }
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Lets it begin.
    pub fn go(&mut self) {
        self.send("go");
    }

    /// Tells it something and waits for the answer.
    pub fn tell(&mut self, line: &str) -> Value {
        self.send(line);
        self.result()
    }

    fn send(&mut self, line: &str) {
        let input = self.input.as_mut().expect("a client begins before it is let go");
        input.write_all(format!("{line}\n").as_bytes()).expect("the client waits for this line");
    }

    /// What it says it did, when it has done it. It stays.
    pub fn result(&mut self) -> Value {
        next(&mut self.output)
    }

    /// Lets it begin and waits until it is done.
    pub fn run(&mut self) -> Value {
        self.go();
        self.result()
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        // It ends when nobody holds its input; killing is for one that is stuck in a failed test.
        drop(self.input.take());
        if std::thread::panicking() {
            let _ = self.child.kill();
        }
        let _ = self.child.wait();
    }
}

fn next(output: &mut Lines<BufReader<ChildStdout>>) -> Value {
    let line = output.next().expect("the client says what it does until it ends").expect("its output can be read");
    serde_json::from_str(&line).expect("clients speak JSON")
}
