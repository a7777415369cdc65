//! The stand-in server, started for one test.

use std::io::{BufRead, BufReader};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use serde::Deserialize;

use crate::truth::{Entry, Sums};
use crate::{DEADLINE, Namespace, programs};

/// A running stand-in server. It ends with this value.
pub struct Server {
    child: Child,
    /// Where plain HTTP is served.
    pub plain: SocketAddr,
    /// Where TLS is served.
    pub tls: SocketAddr,
    directory: tempfile::TempDir,
}

#[derive(Deserialize)]
struct Ready {
    plain: SocketAddr,
    tls: SocketAddr,
}

impl Server {
    /// Starts one with these arguments.
    pub fn start(arguments: &[&str]) -> Self {
        Self::start_at(IpAddr::from([127, 0, 0, 1]), arguments)
    }

    /// Starts one in a network namespace, at this address.
    pub fn start_in(namespace: &Namespace, address: IpAddr, arguments: &[&str]) -> Self {
        namespace.run(|| Self::start_at(address, arguments))
    }

    fn start_at(address: IpAddr, arguments: &[&str]) -> Self {
        let any_port = SocketAddr::new(address, 0).to_string();
        let directory = tempfile::tempdir().expect("a temporary directory can be made");
        let mut child = Command::new(&programs().server)
            .args(arguments)
            .args(["--plain", &any_port, "--tls", &any_port])
            .arg("--stop-with-stdin")
            .arg("--record")
            .arg(directory.path().join("record.jsonl"))
            .arg("--certificates")
            .arg(directory.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the stand-in server starts");
        let mut line = String::new();
        let output = child.stdout.take().expect("its output is piped");
        BufReader::new(output).read_line(&mut line).expect("it says where it listens");
        let ready: Ready = serde_json::from_str(&line).expect("it says so in JSON");
        Self { child, plain: ready.plain, tls: ready.tls, directory }
    }

    /// Base URL of plain HTTP.
    pub fn plain_url(&self) -> String {
        format!("http://{}", self.plain)
    }

    /// Base URL of TLS.
    pub fn tls_url(&self) -> String {
        format!("https://{}", self.tls)
    }

    /// One of `ca.pem`, `server.pem` and `server-key.pem`.
    pub fn certificate(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The server's process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has written down so far about calls to models.
    pub fn record(&self) -> Vec<Entry> {
        let text = std::fs::read_to_string(self.directory.path().join("record.jsonl")).expect("there is a record");
        // The last line may be on its way.
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        let entries = whole.lines().map(|line| serde_json::from_str(line).expect("records are JSON"));
        entries.filter(|entry: &Entry| entry.model_call).collect()
    }

    /// The record once it holds so many calls to models: an entry is written just after its answer's last byte.
    pub fn record_of(&self, calls: usize) -> Vec<Entry> {
        let give_up = Instant::now() + DEADLINE;
        loop {
            let record = self.record();
            if record.len() >= calls {
                assert_eq!(record.len(), calls, "the server saw more calls than the test made");
                return record;
            }
            assert!(Instant::now() < give_up, "the server saw {} of {calls} calls", record.len());
            std::thread::yield_now();
        }
    }

    /// Totals of the calls after the first ones, once there are so many.
    pub fn truth_after(&self, first: usize, calls: usize) -> Sums {
        Sums::of_record(&self.record_of(first + calls)[first..])
    }

    /// Totals of so many calls.
    pub fn truth(&self, calls: usize) -> Sums {
        Sums::of_record(&self.record_of(calls))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // An error means that it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
