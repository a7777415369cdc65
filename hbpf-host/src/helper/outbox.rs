//! What the helper says, and what it leaves unsaid while nobody listens.

use std::collections::{HashMap, HashSet};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use hbpf_core::label::{Label, Text};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::probes::Ring;
use crate::protocol::{ProbeStatus, Reply, Request, Status};
use crate::socket::{Socket, SocketError};

/// Processes described in one message: their strings are bounded, and so this many stay below the message limit. With four
/// bytes a character one takes up to 6.8 KB.
pub(super) const PROCESSES_PER_MESSAGE: usize = 9;

/// Processes in one message of details, likewise: one takes up to 2.8 KB.
pub(super) const DETAILS_PER_MESSAGE: usize = 20;

/// Counts in one message, likewise: one takes up to 690 bytes, most of them a device's name.
pub(super) const COUNTED_PER_MESSAGE: usize = 80;

/// Servers in one message, likewise: one takes up to 530 bytes.
pub(super) const SERVERS_PER_MESSAGE: usize = 64;

/// Messages that may wait before the dispensable ones are dropped and no more requests are taken.
const MAX_WAITING: usize = 256;

/// Most places in one status: their labels are bounded, and so this many stay below the message limit.
const MAX_PROBES: usize = 128;

/// Most different errors that are told within [`TELL_AGAIN`]: each is one line that the user sees.
const MAX_ERRORS: usize = 200;

/// An error that goes on is told again after this long; the other side drops those it is not told of any more.
const TELL_AGAIN: Duration = Duration::from_secs(60);

/// What a user is told when something is dropped for the first time.
const NOT_TAKEN: &str = "this machine is too busy for hbpf to take all that its helper tells: samples and starts of processes \
                         are missing (capture.lost.reports counts them)";

/// The helper's end of the conversation.
pub(super) struct Outbox {
    socket: Socket,
    /// When each error was told last.
    told: HashMap<String, Instant>,
    /// What was dropped.
    unsaid: u64,
    /// The latest state of the probes, while the other side does not read: those before it are of no interest any more.
    status: Option<Box<Status>>,
}

impl Outbox {
    pub(super) fn new(socket: Socket) -> Self {
        Self { socket, told: HashMap::new(), unsaid: 0, status: None }
    }

    pub(super) fn wants_write(&self) -> bool {
        self.socket.backlog() > 0
    }

    /// Whether the other side has not read for so long that nothing more is taken from it.
    pub(super) fn is_full(&self) -> bool {
        self.socket.backlog() >= MAX_WAITING
    }

    /// Whether the other side has gone, without reading what it has sent.
    pub(super) fn is_hung_up(&self) -> bool {
        let mut ready = [PollFd::new(self.socket.as_fd(), PollFlags::empty())];
        poll(&mut ready, PollTimeout::ZERO).is_ok()
            && ready[0].revents().is_some_and(|events| events.intersects(PollFlags::POLLHUP | PollFlags::POLLERR))
    }

    pub(super) fn receive(&mut self) -> Result<Option<Request>, SocketError> {
        // A descriptor that comes with a request is none that we asked for; it is closed here.
        Ok(self.socket.receive()?.map(|(request, _)| request))
    }

    pub(super) fn flush(&mut self) -> Result<(), SocketError> {
        self.socket.flush()?;
        if let Some(status) = self.status.take_if(|_| self.socket.backlog() < MAX_WAITING) {
            self.send_always(&Reply::Status(status), None);
        }
        Ok(())
    }

    /// Sends what may be dropped while the other side does not read: it is told anew, or is of the moment.
    pub(super) fn send(&mut self, reply: Reply) {
        if self.is_full() {
            self.unsaid += 1;
            if self.unsaid == 1 {
                self.error("helper", NOT_TAKEN);
            }
            return;
        }
        self.send_always(&reply, None);
    }

    /// What was dropped so far.
    pub(super) fn unsaid(&self) -> u64 {
        self.unsaid
    }

    /// Sends the state of the probes, cut to what fits a message.
    pub(super) fn send_status(&mut self, mut status: Status) {
        if status.probes.len() > MAX_PROBES {
            status.probes = summarised(status.probes);
            status.probes.truncate(MAX_PROBES);
        }
        let status = Box::new(status);
        if self.is_full() {
            self.status = Some(status);
        } else {
            // One that waits must not overtake it.
            self.status = None;
            self.send_always(&Reply::Status(status), None);
        }
    }

    /// Hands over the ring of captured records.
    pub(super) fn send_ring(&mut self, ring: Ring) {
        self.send_always(&Reply::Ring { bytes: ring.bytes }, Some(ring.fd));
        self.send_always(&Reply::Bell, Some(ring.bell));
    }

    /// All errors are to be told as if for the first time: their causes are found out anew.
    pub(super) fn tell_again(&mut self) {
        self.told.clear();
    }

    /// Tells an error, each one once a while.
    pub(super) fn error(&mut self, source: &str, message: &str) {
        // Verifier and loader write several lines; each would become a mark of something replaced.
        let message = Text::new(&message.split_whitespace().collect::<Vec<_>>().join(" "));
        let now = Instant::now();
        self.told.retain(|_, last| now.duration_since(*last) < TELL_AGAIN);
        let what = format!("{source}: {message}");
        if self.told.len() >= MAX_ERRORS || self.told.contains_key(&what) {
            return;
        }
        self.told.insert(what, now);
        self.send_always(&Reply::Error { source: source.into(), message }, None);
    }

    /// Sends what would be lost otherwise.
    pub(super) fn send_always(&mut self, reply: &Reply, descriptor: Option<OwnedFd>) {
        // That the other side has gone is found out when reading from it.
        if let Err(SocketError::Malformed(why)) = self.socket.send(reply, descriptor) {
            self.error("helper", &format!("a reply was too long: {why}"));
        }
    }
}

/// One entry per program and one per library: what a library's probes have in common is said once. Programs come first,
/// so that no group is cut off.
fn summarised(probes: Vec<ProbeStatus>) -> Vec<ProbeStatus> {
    let (mut of_programs, mut of_places) = (Vec::new(), Vec::new());
    let mut places: HashSet<String> = HashSet::new();
    let mut programs: HashSet<Label> = HashSet::new();
    for probe in probes {
        let new_place = places.insert(probe.attached_to.to_string());
        if programs.insert(probe.program.clone()) {
            of_programs.push(probe);
        } else if probe.failed || new_place {
            of_places.push(probe);
        }
    }
    of_programs.append(&mut of_places);
    of_programs
}

impl AsFd for Outbox {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use hbpf_core::aggregate::WorkloadFacts;
    use hbpf_core::inference::EngineKind;
    use hbpf_core::snapshot::{
        Cgroup, Container, Gpu, GpuInstance, GpuProcess, HottestThread, TlsVisibility, WorkloadKind,
    };

    use super::*;
    use crate::gpu;
    use crate::protocol::{Counted, Event, Group, Held, Listener, MAX_LISTENERS, ProcessDetail, ProcessInfo, Server};
    use crate::socket;

    fn outbox() -> (Outbox, Socket) {
        let (ours, theirs) = socket::pair().unwrap();
        (Outbox::new(Socket::new(ours)), Socket::new(theirs))
    }

    fn all(outbox: &mut Outbox, other: &mut Socket) -> Vec<Reply> {
        let mut seen = Vec::new();
        loop {
            match other.receive().unwrap() {
                Some((reply, _)) => seen.push(reply),
                None if outbox.wants_write() => outbox.flush().unwrap(),
                None => return seen,
            }
        }
    }

    #[test]
    fn samples_are_dropped_but_the_ring_and_the_status_are_not() {
        let (mut outbox, mut other) = outbox();
        let mut sent = 0;
        while !outbox.is_full() {
            outbox.send(Reply::SampleEnd { sequence: sent, rounds: 0 });
            sent += 1;
        }
        outbox.send(Reply::SampleEnd { sequence: u64::MAX, rounds: 0 });
        for _ in 0..1000 {
            outbox.send_status(Status::default());
        }
        let (reader, writer) = std::io::pipe().unwrap();
        outbox.send_ring(Ring { fd: reader.into(), bytes: 4096, bell: writer.into() });
        let seen = all(&mut outbox, &mut other);
        assert!(!seen.contains(&Reply::SampleEnd { sequence: u64::MAX, rounds: 0 }));
        assert_eq!(seen.iter().filter(|reply| matches!(reply, Reply::SampleEnd { .. })).count() as u64, sent);
        assert!(seen.iter().any(|reply| matches!(reply, Reply::Error { .. })), "the loss is told");
        assert!(seen.contains(&Reply::Ring { bytes: 4096 }));
        let states = seen.iter().filter(|reply| matches!(reply, Reply::Status(_))).count();
        assert_eq!(states, 1, "the latest is enough");
    }

    #[test]
    fn an_error_is_told_once() {
        let (mut outbox, mut other) = outbox();
        for _ in 0..3 {
            outbox.error("a", "x");
            outbox.error("a", "y");
        }
        assert_eq!(all(&mut outbox, &mut other).len(), 2);
    }

    #[test]
    fn processes_with_the_longest_names_fit_a_message() {
        let label = || Label::new(&"\u{1F41D}".repeat(Label::MAX_CHARS));
        let text = || Text::new(&"\u{1F41D}".repeat(Text::MAX_CHARS));
        // What stands in a control group's name is ASCII, and no longer than these.
        let container = Container {
            runtime: "systemd-nspawn".into(),
            id: Label::new(&"a".repeat(128)),
            pod_uid: Some(Label::new(&"a".repeat(36))),
            ..Container::default()
        };
        let info = ProcessInfo {
            pid: u32::MAX,
            start_time_ns: u64::MAX,
            parent_pid: u32::MAX,
            command: label(),
            executable: Some(label()),
            uid: u32::MAX,
            user: Some(label()),
            container: Some(container),
            unit: Some(label()),
            workload: WorkloadFacts { key: label(), name: label(), kind: WorkloadKind::Container },
            tls: TlsVisibility::Blind,
            tls_reason: Some(text()),
            tls_library: Some(label()),
        };
        let cgroup = Cgroup {
            path: text(),
            cpu_limit_cores: Some(1.0),
            cpu_percent: Some(1.0),
            throttled_percent: Some(1.0),
            memory_limit_bytes: Some(u64::MAX),
            memory_bytes: Some(u64::MAX),
        };
        let detail = ProcessDetail {
            pid: u32::MAX,
            start_time_ns: u64::MAX,
            hottest_thread: Some(HottestThread { name: label(), cpu_percent: 1.0 }),
            run_queue_seconds_per_second: Some(1.0),
            voluntary_switches_per_second: Some(1.0),
            involuntary_switches_per_second: Some(1.0),
            resident_bytes: Some(u64::MAX),
            shared_bytes: Some(u64::MAX),
            swap_bytes: Some(u64::MAX),
            disk_read_bytes_per_second: Some(1.0),
            disk_write_bytes_per_second: Some(1.0),
            cgroup: Some(cgroup),
        };
        let user = GpuProcess {
            pid: u32::MAX,
            instance: Some("4294967295".into()),
            sm_percent: Some(1.0),
            memory_bytes: Some(u64::MAX),
        };
        let gpu = Gpu {
            name: label(),
            uuid: label(),
            throttle_reasons: vec![label(); 16],
            instances: vec![GpuInstance { profile: label(), ..GpuInstance::default() }; 7],
            processes: vec![user; gpu::MAX_PROCESSES],
            problem: Some(text()),
            ..Gpu::default()
        };
        let listener =
            Listener { address: "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535".parse().unwrap(), expected: true };
        let server = Server {
            pid: u32::MAX,
            start_time_ns: u64::MAX,
            kind: Some(EngineKind::LiteLlm),
            namespace: u64::MAX,
            listeners: vec![listener; MAX_LISTENERS],
        };
        let counted = Counted {
            pid: u32::MAX,
            event: Event::Opened,
            device: label(),
            slot: u16::MAX,
            count: u64::MAX,
            nanoseconds: u64::MAX,
            bytes: u64::MAX,
        };
        let held = Held { pid: u32::MAX, device: label(), open: Some(u32::MAX), closed: Some(u64::MAX) };
        let (mut outbox, mut other) = outbox();
        outbox.send(Reply::Counted(vec![counted; COUNTED_PER_MESSAGE]));
        outbox.send(Reply::Held(vec![held; COUNTED_PER_MESSAGE]));
        outbox.send(Reply::Servers(vec![server; SERVERS_PER_MESSAGE]));
        outbox.send(Reply::Processes(vec![info; PROCESSES_PER_MESSAGE]));
        outbox.send(Reply::Details(vec![detail; DETAILS_PER_MESSAGE]));
        outbox.send(Reply::Gpu(Box::new(gpu)));
        let replies = all(&mut outbox, &mut other);
        assert_eq!(replies.len(), 6);
        assert!(!replies.iter().any(|reply| matches!(reply, Reply::Error { .. })), "{replies:?}");
    }

    #[test]
    fn a_status_of_many_libraries_fits_a_message() {
        let (mut outbox, mut other) = outbox();
        let probes = (0..400).flat_map(|library| {
            (0..11).map(move |program| ProbeStatus {
                group: Group::LlmTls,
                program: format!("ssl_{program}").into(),
                attached_to: Label::new(&format!("/{library}/{}", "é".repeat(Label::MAX_CHARS))),
                off_because: None,
                failed: false,
                runs: Some(u64::MAX),
                run_time_ns: Some(u64::MAX),
                missed: Some(u64::MAX),
                trap: None,
            })
        });
        let plain = ProbeStatus {
            group: Group::LlmPlain,
            program: "tcp_egress".into(),
            attached_to: Label::new("/sys/fs/cgroup"),
            off_because: None,
            failed: false,
            runs: None,
            run_time_ns: None,
            missed: None,
            trap: None,
        };
        let probes = probes.chain([plain.clone()]).collect();
        outbox.send_status(Status { probes, ..Status::default() });
        let replies = all(&mut outbox, &mut other);
        let [Reply::Status(status)] = &replies[..] else { panic!("{replies:?}") };
        assert_eq!(status.probes.len(), MAX_PROBES);
        let programs: HashSet<_> = status.probes.iter().map(|probe| &probe.program).collect();
        assert_eq!(programs.len(), 12);
        assert!(status.probes.contains(&plain), "the last group is there as well");
    }
}
