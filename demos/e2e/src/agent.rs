//! `hbpf agent` as a child, asked by curl.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use hbpf_core::snapshot::Snapshot;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::{DEADLINE, free_port, programs};

/// An agent that runs. It is killed with this.
pub struct Agent {
    child: Child,
    directory: TempDir,
    metrics_port: u16,
    said: Arc<Mutex<Vec<String>>>,
    reading: Option<JoinHandle<()>>,
}

impl Agent {
    /// Starts one that takes no more snapshots than it is asked for, and waits until its probes are in place.
    pub fn start(arguments: &[&str]) -> Self {
        Self::start_with(arguments, &[])
    }

    /// The same with variables.
    pub fn start_with(arguments: &[&str], variables: &[(&str, &str)]) -> Self {
        let mut agent = Self::spawn(arguments, variables);
        agent.until("it is ready", |agent| agent.get("/readyz").0 == 200);
        agent
    }

    /// Starts one and waits for nothing.
    pub fn spawn(arguments: &[&str], variables: &[(&str, &str)]) -> Self {
        let directory = tempfile::tempdir().expect("a directory can be made");
        let metrics_port = free_port();
        let mut command = Command::new(&programs().hbpf);
        command
            .args(["agent", "--max-overhead", "off", "--listen"])
            .arg(format!("unix:{}", socket(&directory).display()));
        command.args(["--metrics-listen", &format!("127.0.0.1:{metrics_port}")]).args(arguments);
        command.envs(variables.iter().copied()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("hbpf starts");
        let output = child.stderr.take().expect("it is piped");
        let said = Arc::new(Mutex::new(Vec::new()));
        let lines = Arc::clone(&said);
        let reading = thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                lines.lock().unwrap().push(line);
            }
        });
        Self { child, directory, metrics_port, said, reading: Some(reading) }
    }

    /// Waits until something holds.
    pub fn until(&mut self, what: &str, holds: impl Fn(&Self) -> bool) {
        let give_up = Instant::now() + DEADLINE;
        while !holds(self) {
            let ended = self.child.try_wait().expect("it can be asked");
            assert!(ended.is_none() && Instant::now() < give_up, "not in time: {what}; it said {:?}", self.said());
            thread::sleep(std::time::Duration::from_millis(100));
        }
    }

    /// Where Prometheus asks.
    pub fn metrics_port(&self) -> u16 {
        self.metrics_port
    }

    /// Its first process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has said on standard error.
    pub fn said(&self) -> Vec<String> {
        self.said.lock().unwrap().clone()
    }

    /// A file of its own.
    pub fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Asks over the socket: status and body; status 0 where there is no answer.
    pub fn get(&self, path: &str) -> (u32, Vec<u8>) {
        let mut command = Command::new("curl");
        command.arg("--unix-socket").arg(socket(&self.directory)).arg(format!("http://localhost{path}"));
        curl(command)
    }

    /// Asks over the network.
    pub fn get_metrics(&self, accept: &str) -> String {
        let mut command = Command::new("curl");
        command
            .arg("-H")
            .arg(format!("Accept: {accept}"))
            .arg(format!("http://127.0.0.1:{}/metrics", self.metrics_port));
        let (status, body) = curl(command);
        assert_eq!(status, 200, "{}", String::from_utf8_lossy(&body));
        String::from_utf8(body).expect("metrics are text")
    }

    /// A snapshot of now.
    pub fn snapshot(&self) -> Snapshot {
        let (status, body) = self.get("/snapshot");
        assert_eq!(status, 200, "{}", String::from_utf8_lossy(&body));
        serde_json::from_slice(&body).expect("it is a snapshot")
    }

    /// Sends its first process a signal.
    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().cast_signed()), signal).expect("it lives");
    }

    /// Ends it in order.
    pub fn stop(mut self) -> (ExitStatus, Vec<String>) {
        self.signal(Signal::SIGTERM);
        let status = self.child.wait().expect("it is our child");
        // Its other processes have its standard error, too.
        let _ = self.reading.take().map(JoinHandle::join);
        assert!(!socket(&self.directory).exists(), "its socket is left behind");
        (status, self.said())
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // The others end when it has.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn socket(directory: &TempDir) -> PathBuf {
    directory.path().join("agent.sock")
}

/// Runs curl; status and body of the answer.
pub fn curl(mut command: Command) -> (u32, Vec<u8>) {
    let body = tempfile::NamedTempFile::new().expect("a file can be made");
    let output = command.args(["-s", "--max-time", "20", "-w", "%{http_code}", "-o"]).arg(body.path()).output();
    let output = output.expect("curl runs (Debian: curl)");
    let status = String::from_utf8_lossy(&output.stdout).trim().parse().unwrap_or(0);
    (status, fs::read(body.path()).unwrap_or_default())
}
