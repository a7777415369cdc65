//! hbpf itself, as its users run it.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Instant;

use hbpf_core::exchange::Role;
use hbpf_core::snapshot::{LlmStats, ProbeState, Request, Snapshot};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::truth::Sums;
use crate::{DEADLINE, programs};

/// Time between frames: short, as tests wait for frames.
const INTERVAL: &str = "200ms";

/// A running `hbpf snapshot`.
pub struct Observer {
    child: Child,
    lines: Receiver<String>,
    errors: tempfile::NamedTempFile,
    /// Every line so far.
    pub raw: Vec<String>,
    /// Every request that has ended so far.
    pub finished: Vec<Request>,
    /// The latest frame.
    pub latest: Option<Snapshot>,
}

impl Observer {
    /// Starts hbpf and waits until its probes on plain traffic are attached.
    pub fn start() -> Self {
        // What other tests do at the same time shall not switch off what this one looks at.
        Self::start_with(&["--max-overhead", "off"])
    }

    /// The same with further arguments.
    pub fn start_with(arguments: &[&str]) -> Self {
        Self::spawn(arguments, &[]).attached()
    }

    /// The same where frames are to cost next to nothing.
    pub fn start_rarely_looking(arguments: &[&str]) -> Self {
        Self::spawn_every("1s", arguments, &[]).attached()
    }

    fn attached(mut self) -> Self {
        self.until("the probes on plain traffic are attached", |frame| {
            frame.capture.probes.iter().any(|probe| probe.group == "llm-plain" && probe.state == ProbeState::On)
        });
        self
    }

    /// Starts hbpf with these variables in its environment, and waits for nothing.
    pub fn spawn(arguments: &[&str], environment: &[(&str, &Path)]) -> Self {
        Self::spawn_every(INTERVAL, arguments, environment)
    }

    fn spawn_every(interval: &str, arguments: &[&str], environment: &[(&str, &Path)]) -> Self {
        let errors = tempfile::NamedTempFile::new().expect("a temporary file can be made");
        let mut child = Command::new(&programs().hbpf)
            .args(["snapshot", "--json", "--interval", interval])
            .args(arguments)
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(File::create(errors.path()).expect("it can be written to"))
            .spawn()
            .expect("hbpf starts");
        let output = child.stdout.take().expect("its output is piped");
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        Self { child, lines, errors, raw: Vec::new(), finished: Vec::new(), latest: None }
    }

    /// hbpf's process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits for the TLS library of this process to be probed.
    pub fn until_tls_of(&mut self, pid: u32) {
        let library = tls_library(pid);
        let name = library.file_name().expect("a library has a name").to_string_lossy().into_owned();
        self.until_library(&name);
    }

    /// Waits for a TLS library with this in its name to be probed.
    pub fn until_library(&mut self, name: &str) {
        self.until(&format!("{name} is probed"), |frame| {
            let mut probes = frame.capture.probes.iter().filter(|probe| probe.group == "llm-tls");
            probes.any(|probe| probe.state == ProbeState::On && probe.attached_to.as_str().contains(name))
        });
    }

    /// Waits until so many exchanges with the server at this port have ended, and sums them up.
    pub fn until_ended(&mut self, port: u16, count: usize) -> Sums {
        let count = u64::try_from(count).expect("a number of requests");
        let what = format!("{count} exchanges with port {port} have ended");
        let frame = self.until(&what, |frame| Sums::at_port(frame, port).ended() >= count);
        Sums::at_port(&frame, port)
    }

    /// Waits until so many requests have ended at this end of connections to this port, and hands over what is told of
    /// each.
    pub fn until_rows(&mut self, role: Role, port: u16, count: usize) -> Vec<Request> {
        let port = format!(":{port}");
        let is_asked = |request: &&Request| request.role == role && request.endpoint.as_str().ends_with(&port);
        let give_up = Instant::now() + DEADLINE;
        while self.finished.iter().filter(is_asked).count() < count {
            assert!(
                Instant::now() < give_up,
                "not in time: {count} requests at the {role:?} of {port}\n{}",
                self.about()
            );
            self.next_frame();
        }
        self.finished.iter().filter(is_asked).cloned().collect()
    }

    /// Reads frames until one is as it should be.
    pub fn until(&mut self, what: &str, mut holds: impl FnMut(&Snapshot) -> bool) -> Snapshot {
        let give_up = Instant::now() + DEADLINE;
        if let Some(frame) = self.latest.as_ref().filter(|frame| holds(frame)) {
            return frame.clone();
        }
        loop {
            match self.lines.recv_timeout(give_up.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    let frame = self.take(line);
                    if holds(&frame) {
                        return frame;
                    }
                }
                Err(RecvTimeoutError::Timeout) => panic!("not in time: {what}\n{}", self.about()),
                Err(RecvTimeoutError::Disconnected) => panic!("hbpf ended before: {what}\n{}", self.about()),
            }
        }
    }

    /// A frame that was taken after this call.
    pub fn next_frame(&mut self) -> Snapshot {
        // What has been written while nobody read.
        while let Ok(line) = self.lines.try_recv() {
            self.take(line);
        }
        let before = self.latest.as_ref().map(|frame| frame.sequence);
        // One frame may have been on its way already.
        let frame = self.until("a further frame", |frame| Some(frame.sequence) > before);
        let on_its_way = Some(frame.sequence);
        self.until("a further frame", |frame| Some(frame.sequence) > on_its_way)
    }

    /// Panics unless nothing was lost.
    pub fn assert_nothing_lost(&self) {
        let frame = self.latest.as_ref().expect("there is a frame");
        let lost = &frame.capture.lost;
        assert_eq!((lost.ring_full.chunks, lost.map_full), (0, 0), "{lost:?}");
    }

    /// Sends a signal to hbpf.
    pub fn signal(&self, signal: Signal) {
        send(self.child.id(), signal);
    }

    /// Ends hbpf and checks that it ends for that reason. (SIGINT is ignored by what runs in the background of a shell.)
    pub fn stop(mut self) {
        self.signal(Signal::SIGTERM);
        let status = self.child.wait().expect("hbpf ends");
        let terminated = status.signal() == Some(Signal::SIGTERM as i32);
        assert!(status.success() || terminated, "hbpf ended with {status}\n{}", self.about());
    }

    fn take(&mut self, line: String) -> Snapshot {
        let frame: Snapshot = serde_json::from_str(&line).expect("hbpf writes snapshots");
        self.raw.push(line);
        self.finished.extend(frame.requests.finished.iter().cloned());
        self.latest = Some(frame.clone());
        frame
    }

    /// What helps to understand a failure.
    fn about(&self) -> String {
        let errors = std::fs::read_to_string(self.errors.path()).unwrap_or_default();
        let Some(frame) = &self.latest else { return format!("no frame came; standard error:\n{errors}") };
        let capture = &frame.capture;
        let not_on: Vec<_> = capture.probes.iter().filter(|probe| probe.state != ProbeState::On).collect();
        let requests = |stats: &Option<LlmStats>| stats.as_ref().map(|stats| stats.requests_total);
        let talking =
            frame.processes.iter().filter(|process| process.as_client.is_some() || process.as_server.is_some());
        let rows: Vec<_> = talking.map(|row| (row.pid, requests(&row.as_client), requests(&row.as_server))).collect();
        // Whose each end was told as.
        let ends: Vec<_> = self.finished.iter().map(|row| (row.role, row.pid, row.endpoint.as_str())).collect();
        let part = |value: Result<String, serde_json::Error>| value.unwrap_or_default();
        format!(
            "standard error:\n{errors}\nprobes: {}\n{} chunks, {} bytes, {} messages ignored, lost: {:?}\nendpoints: {}\n\
             processes (pid, as client, as server): {rows:?}\nended: {ends:?}\nin flight: {}\ncost: {:?} {:?} {:?}\nerrors: {}",
            part(serde_json::to_string(&not_on)),
            capture.chunks_total,
            capture.bytes_total,
            capture.messages_ignored_total,
            capture.lost,
            part(serde_json::to_string(&frame.endpoints)),
            part(serde_json::to_string(&frame.requests.in_flight)),
            capture.overhead,
            capture.self_cost,
            capture.groups,
            part(serde_json::to_string(&frame.errors)),
        )
    }
}

impl Drop for Observer {
    fn drop(&mut self) {
        if self.child.try_wait().is_ok_and(|status| status.is_none()) {
            self.signal(Signal::SIGTERM);
            let _ = self.child.wait();
        }
    }
}

/// Sends a signal to a process of ours.
fn send(pid: u32, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(pid).expect("a process id"));
    kill(pid, signal).expect("the process is ours and lives");
}

/// The ids of all BPF programs in the kernel.
pub fn loaded_programs() -> BTreeSet<u32> {
    // One that goes away while it is asked for is an error, and not loaded.
    aya::programs::loaded_programs().flatten().map(|program| program.id()).collect()
}

/// The file with the TLS library of a process: a shared libssl, or the program itself.
fn tls_library(pid: u32) -> PathBuf {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).expect("the client lives");
    let mut files = maps.lines().filter_map(|line| line.split_once('/').map(|(_, path)| format!("/{path}")));
    match files.find(|path| path.contains("/libssl")) {
        Some(path) => PathBuf::from(path),
        None => std::fs::read_link(format!("/proc/{pid}/exe")).expect("the client lives"),
    }
}
