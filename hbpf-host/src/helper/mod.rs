//! The privileged helper: the process that owns everything in the kernel and reads what only root may read.
//!
//! It parses no captured bytes. It is one thread, but for questions to inference servers ([`ask`]) and for taking probes out, that waits for requests, starts and ends of processes, and the clock, and
//! ends when the other side has gone; the kernel then takes all probes out, for they are descriptors of this process.

mod ask;
mod endings;
mod judge;
mod outbox;
mod rescan;

use std::collections::HashMap;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use hbpf_core::label::Text;
use hbpf_ebpf::{LifecycleEvent, lifecycle};
use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

use crate::devices::{self, Names};
use crate::discover::{Changes, Libraries, StdioServer, StdioServers, system_directories};
use crate::gpu::{GpuReader, Gpus};
use crate::privsep::{self, SplitOptions};
use crate::probes::{ProbeError, Probes};
use crate::process::{Samples, Table, self_cpu_seconds};
use crate::protocol::{
    Counted, Event, Group, Lifecycle, MAX_PROCESSES, MAX_VERDICTS, Others, ProcessInfo, Reply, Request, Status,
};
use crate::socket::{Socket, SocketError};
use ask::Asker;
use endings::Endings;
use outbox::Outbox;
use rescan::Rescans;

const PROC: &str = "/proc";

/// Time between two rounds through all processes in search of new TLS libraries: of those that were loaded late.
const SCAN_INTERVAL: Duration = Duration::from_secs(5);

/// The same just after switching on: a scan looks at a bounded number of new processes, and at first all are new. It
/// doubles with each scan.
const FIRST_SCAN_INTERVAL: Duration = Duration::from_millis(250);

/// Time between scans while processes are probed one by one and they fork: one takes about 5 ms of CPU.
const FORK_SCAN_INTERVAL: Duration = Duration::from_millis(50);

/// The same while a scan has left processes to the next. At 10 ms a scan it keeps all scans within 1 % of a core.
const NEXT_SCAN_INTERVAL: Duration = Duration::from_secs(1);

/// Scans made at once when switching on: a tenth of a second, within which all processes of most hosts are looked at.
const SCANS_AT_ATTACH: usize = 10;

/// Starts and ends of processes handled before requests are looked at again.
const LIFECYCLE_BATCH: usize = 64;

/// How long they are left to gather. Where a thousand programs a second begin, to wake up for each would take a part of a core that
/// is missed; and most of them end before they could be looked at.
const LIFECYCLE_GATHERS: Duration = Duration::from_millis(2);

/// Requests handled before starts and ends of processes are looked at again.
const REQUEST_BATCH: usize = 64;

/// Runs the helper until the other side has gone.
///
/// `lane` is the socket for verdicts, `gpus` the process that reads GPUs.
pub(crate) fn main(socket: OwnedFd, lane: OwnedFd, gpus: Option<GpuReader>, options: &SplitOptions) -> ! {
    detach_from_terminal();
    let ours = [&socket, &lane].into_iter().chain(gpus.as_ref().map(|reader| &reader.socket));
    close_others(&ours.map(AsRawFd::as_raw_fd).collect::<Vec<_>>());
    raise_descriptor_limit();
    let mut outbox = Outbox::new(Socket::new(socket));
    if let Err(error) = privsep::hold_helper(options) {
        outbox.error("helper", &error.to_string());
        // SAFETY: as below.
        unsafe { libc::_exit(1) }
    }
    // A panic must reach the user, who sees nothing of this process's standard error.
    let place = std::sync::Arc::new(std::sync::Mutex::new(String::new()));
    let seen = place.clone();
    std::panic::set_hook(Box::new(move |panic| {
        if let (Ok(mut place), Some(location)) = (seen.lock(), panic.location()) {
            *place = location.to_string();
        }
    }));
    let ended = catch_unwind(AssertUnwindSafe(|| {
        let mut helper = Helper::new(&mut outbox, gpus);
        if let Err(error) = judge::start(lane, helper.probes.verdicts()) {
            helper.outbox.error("helper", &format!("starting a thread: {error}"));
        }
        helper.run();
    }));
    if ended.is_err() {
        let place = place.lock().map(|place| place.clone()).unwrap_or_default();
        outbox.error("helper", &format!("the helper process failed at {place}; please report it"));
    }
    // SAFETY: this process has nothing to clean up that the kernel does not clean up, other threads included.
    unsafe { libc::_exit(i32::from(ended.is_err())) }
}

/// The terminal's signals and its output are the other side's business.
pub(crate) fn detach_from_terminal() {
    let _ = nix::unistd::setsid();
    let ignore = SigAction::new(SigHandler::SigIgn, SaFlags::empty(), SigSet::empty());
    for signal in [
        Signal::SIGINT,
        Signal::SIGTERM,
        Signal::SIGHUP,
        Signal::SIGQUIT,
        Signal::SIGUSR1,
        Signal::SIGTSTP,
        Signal::SIGPIPE,
    ] {
        // SAFETY: ignoring a signal runs no code of ours.
        let _ = unsafe { sigaction(signal, &ignore) };
    }
    if let Ok(null) = std::fs::File::options().read(true).write(true).open("/dev/null") {
        // A held pipe would keep its reader waiting for our end.
        let _ = nix::unistd::dup2_stdin(&null);
        let _ = nix::unistd::dup2_stdout(&null);
        let _ = nix::unistd::dup2_stderr(&null);
    }
}

/// What the other side has open, such as a file to write to, is none of ours.
pub(crate) fn close_others(ours: &[RawFd]) {
    let open = std::fs::read_dir("/proc/self/fd").into_iter().flatten().flatten();
    let open: Vec<i32> = open.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    for fd in open.into_iter().filter(|fd| *fd > libc::STDERR_FILENO && !ours.contains(fd)) {
        // SAFETY: whoever owned the descriptor is in the other process; the copies here are never used or dropped.
        unsafe { libc::close(fd) };
    }
}

/// Loading programs takes some 15 MiB for a moment, which the C library would keep for good.
fn give_back_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it gives back what is not in use.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Each probe in a library takes descriptors: the usual soft limit of 1,024 is enough for some forty libraries.
fn raise_descriptor_limit() {
    // Where it cannot be raised, the library for which there is no descriptor says so.
    let _ = getrlimit(Resource::RLIMIT_NOFILE).and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
}

/// State of the helper.
struct Helper<'a> {
    outbox: &'a mut Outbox,
    probes: Probes,
    /// Requests to attach or detach that have been handled.
    switches: u64,
    libraries: Libraries,
    stdio: StdioServers,
    processes: Table,
    asker: Asker,
    gpus: Gpus,
    device_names: Names,
    rescans: Rescans,
    endings: Endings,
    /// Until when starts and ends of processes are left to gather.
    next_lifecycle: Instant,
    next_scan: Instant,
    last_scan: Instant,
    scan_interval: Duration,
    next_server_scan: Instant,
    /// What takes a while, and is needed for what may never come, has been done.
    is_prepared: bool,
}

impl<'a> Helper<'a> {
    fn new(outbox: &'a mut Outbox, gpus: Option<GpuReader>) -> Self {
        Self {
            outbox,
            probes: Probes::new(),
            switches: 0,
            libraries: Libraries::new(PathBuf::from(PROC)),
            stdio: StdioServers::new(PathBuf::from(PROC)),
            processes: Table::new(PathBuf::from(PROC)),
            asker: Asker::default(),
            gpus: Gpus::new(gpus),
            device_names: Names::new(devices::PROC.into()),
            rescans: Rescans::default(),
            endings: Endings::default(),
            next_lifecycle: Instant::now(),
            next_scan: Instant::now(),
            last_scan: Instant::now(),
            scan_interval: SCAN_INTERVAL,
            next_server_scan: Instant::now(),
            is_prepared: false,
        }
    }

    fn run(&mut self) {
        loop {
            self.wait();
            match self.handle_requests() {
                Ok(true) => {}
                Ok(false) | Err(SocketError::Closed) => return,
                Err(error) => {
                    self.outbox.error("helper", &error.to_string());
                    return;
                }
            }
            self.handle_lifecycle(Instant::now());
            for problem in self.gpus.receive() {
                self.outbox.error("gpu", &problem);
            }
            self.handle_time(Instant::now());
            if matches!(self.outbox.flush(), Err(SocketError::Closed)) {
                return;
            }
        }
    }

    /// Waits until there is something to do.
    fn wait(&mut self) {
        let now = Instant::now();
        let scans = self.next_scan.min(self.next_server_scan);
        let gathering = (self.next_lifecycle > now).then_some(self.next_lifecycle);
        let wakes = [Some(scans), self.rescans.next(), self.endings.next(), gathering];
        let wake = wakes.into_iter().flatten().min().unwrap_or(now);
        // Rounded up: a millisecond too early would make us turn in circles until it has passed.
        let left = wake.saturating_duration_since(now) + Duration::from_millis(1);
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        let mut wanted = PollFlags::empty();
        wanted.set(PollFlags::POLLIN, !self.outbox.is_full());
        wanted.set(PollFlags::POLLOUT, self.outbox.wants_write());
        let mut ready = vec![PollFd::new(self.outbox.as_fd(), wanted)];
        let lifecycle = self.probes.lifecycle_fd().filter(|_| !self.outbox.is_full() && gathering.is_none());
        ready.extend(lifecycle.map(|fd| PollFd::new(fd, PollFlags::POLLIN)));
        ready.extend(self.libraries.news_fd().map(|fd| PollFd::new(fd, PollFlags::POLLIN)));
        ready.extend(self.gpus.fd().map(|fd| PollFd::new(fd, PollFlags::POLLIN)));
        match poll(&mut ready, timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => panic!("poll: {error}"),
        }
    }

    /// Handles what has been asked for; `false` when we are to end.
    fn handle_requests(&mut self) -> Result<bool, SocketError> {
        for _ in 0..REQUEST_BATCH {
            // While the other side does not read, what it asks for waits in the socket, and then with it.
            if self.outbox.is_full() {
                return Ok(!self.outbox.is_hung_up());
            }
            match self.outbox.receive() {
                Ok(None) => return Ok(true),
                Ok(Some(Request::Shutdown)) => return Ok(false),
                Ok(Some(request)) => self.handle(request),
                // Each message stands for itself: one that makes no sense spoils no other.
                Err(error @ SocketError::Malformed(_)) => self.outbox.error("helper", &error.to_string()),
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    fn handle(&mut self, request: Request) {
        match request {
            Request::Attach(groups) => self.attach(&groups),
            Request::Detach(groups) => {
                // What was counted goes with the last group.
                self.send_counted();
                groups.iter().take(Group::ALL.len()).for_each(|group| self.probes.detach(*group));
                self.switches += 1;
                self.send_status();
            }
            Request::Servers(judged) => {
                for (pid, is_server) in judged.into_iter().take(MAX_VERDICTS) {
                    if is_server {
                        self.stdio.prove(pid);
                    } else {
                        self.stdio.refute(pid);
                        self.probes.refute_server(pid);
                    }
                }
            }
            Request::Learn(path) => {
                let result = self.probes.learn(&path);
                self.report(result);
            }
            Request::Sample { sequence, closely, others } => self.sample(sequence, &closely, others),
            Request::Describe(pids) => self.describe(pids.into_iter().take(MAX_PROCESSES)),
            Request::FindOwners(mut queries) => {
                queries.truncate(MAX_PROCESSES);
                let owners = self.processes.find_owners(&queries);
                self.outbox.send(Reply::Owners(owners));
            }
            Request::FindServers(suspects) => {
                let found = self.processes.find_servers(&suspects);
                // Who is told of in neither is not looked at again.
                for part in found.servers.chunks(outbox::SERVERS_PER_MESSAGE) {
                    self.outbox.send_always(&Reply::Servers(part.to_vec()), None);
                }
                if !found.not_looked_at.is_empty() {
                    self.outbox.send_always(&Reply::NotLookedAt(found.not_looked_at), None);
                }
            }
            Request::Ask(question) => {
                let (answer, refused) = match self.asker.ask(Path::new(PROC), &mut self.processes, &question) {
                    Ok(answer) => (Some(answer), None),
                    Err(error) => (None, Some(error.into())),
                };
                self.outbox.send_always(&Reply::Asked { ticket: question.ticket, refused }, answer);
            }
            Request::Limit(limits) => {
                let result = self.probes.limit(limits);
                self.report(result);
            }
            Request::Exclude(mut pids) => {
                pids.truncate(MAX_PROCESSES);
                self.probes.exclude(pids.into_iter().collect());
                self.settle();
                self.send_status();
            }
            Request::Status => {
                self.send_counted();
                self.send_status();
            }
            Request::Shutdown => {}
        }
    }

    fn attach(&mut self, groups: &[Group]) {
        self.outbox.tell_again();
        if groups.contains(&Group::LlmTls) && privsep::lack(Group::LlmTls).is_none() {
            let changes = self.libraries.scan_installed(&system_directories());
            self.apply(changes);
            for _ in 0..SCANS_AT_ATTACH {
                let changes = self.libraries.scan();
                self.apply(changes);
                if !self.libraries.is_midway() {
                    break;
                }
            }
            self.scan_interval = FIRST_SCAN_INTERVAL;
            self.next_scan = Instant::now() + self.scan_interval;
        }
        if groups.contains(&Group::Device) && !self.probes.is_on(Group::Device) {
            // What is opened between the look and the first count is taken for held before, and not for closed.
            self.processes.begin_watching_devices();
        }
        for group in groups.iter().take(Group::ALL.len()) {
            match self.probes.attach(*group) {
                Ok(None) => {}
                Ok(Some(ring)) => self.outbox.send_ring(ring),
                Err(error) => self.outbox.error(group.name(), &error.to_string()),
            }
        }
        self.report_library_errors();
        if groups.contains(&Group::Tools) {
            self.stdio.forget_all();
            self.is_prepared = false;
            (0..SCANS_AT_ATTACH).for_each(|_| self.scan_servers(Instant::now()));
        }
        self.switches += 1;
        self.send_status();
        give_back_memory();
    }

    /// Looks for MCP servers among the processes that have not been looked at.
    fn scan_servers(&mut self, now: Instant) {
        let mut is_midway = false;
        if self.probes.is_on(Group::Tools) {
            let (found, more) = self.stdio.scan();
            is_midway = more;
            self.add_servers(found);
            for pid in self.stdio.give_up_busy() {
                self.probes.remove_server(pid);
            }
        }
        self.next_server_scan = now + if is_midway { NEXT_SCAN_INTERVAL } else { SCAN_INTERVAL };
    }

    fn add_servers(&mut self, found: Vec<StdioServer>) {
        for server in found {
            if !self.probes.add_server(&server) {
                // There may be room for it later.
                self.stdio.forget(server.pid);
            }
        }
        for error in self.probes.take_server_errors() {
            self.outbox.error(Group::Tools.name(), &error.to_string());
        }
    }

    fn sample(&mut self, sequence: u64, closely: &[u32], others: Others) {
        self.outbox.send(Reply::Host(Box::new(self.processes.host_sample())));
        let Samples { processes, details, rounds } = self.processes.sample(closely, others);
        for part in processes.chunks(MAX_PROCESSES) {
            self.outbox.send(Reply::Samples(part.to_vec()));
        }
        for part in details.chunks(outbox::DETAILS_PER_MESSAGE) {
            self.outbox.send(Reply::Details(part.to_vec()));
        }
        self.send_gpus();
        self.send_counted();
        self.send_held();
        self.send_status();
        self.outbox.send(Reply::SampleEnd { sequence, rounds });
    }

    fn send_gpus(&mut self) {
        // Looking through everybody's descriptors is for machines where that says something.
        let mut in_proc = if self.gpus.tell_in_proc() { self.processes.drm_sample() } else { HashMap::new() };
        for mut gpu in self.gpus.now() {
            if let Some(used) = gpu.pci_bus_id.as_deref().and_then(|place| in_proc.remove(place)) {
                gpu.processes = used.processes;
                gpu.utilization_percent = gpu.utilization_percent.or(used.utilization_percent);
            }
            self.outbox.send(Reply::Gpu(Box::new(gpu)));
        }
    }

    /// Passes on what the programs have counted. While the other side does not read, it stays where it is.
    fn send_counted(&mut self) {
        if self.outbox.is_full() {
            return;
        }
        let (tallies, result) = self.probes.take_tallies();
        if let Err(error) = result {
            self.outbox.error("probes", &error.to_string());
        }
        let mut counted = Vec::with_capacity(tallies.len());
        for (key, tally) in tallies {
            // The programs know no others.
            let Ok(event) = Event::try_from(key.kind) else { continue };
            if event == Event::Opened {
                self.processes.device_opened(key.pid, key.device, tally.count);
            }
            counted.push(Counted {
                pid: key.pid,
                event,
                device: self.device_names.of_event(event, key.device),
                slot: key.slot,
                count: tally.count,
                nanoseconds: tally.nanoseconds,
                bytes: tally.bytes,
            });
        }
        for part in counted.chunks(outbox::COUNTED_PER_MESSAGE) {
            self.outbox.send_always(&Reply::Counted(part.to_vec()), None);
        }
    }

    fn send_held(&mut self) {
        if self.probes.is_on(Group::Device) {
            let held = self.processes.devices_held();
            for part in held.chunks(outbox::COUNTED_PER_MESSAGE) {
                self.outbox.send(Reply::Held(part.to_vec()));
            }
        }
    }

    fn send_status(&mut self) {
        let gpu_reader_pid = self.gpus.reader_pid();
        let reader = gpu_reader_pid.and_then(|pid| self.processes.cpu_time(pid)).unwrap_or_default();
        let status = Status {
            switches: self.switches,
            unsaid: self.outbox.unsaid(),
            probes: self.probes.status(),
            counters: self.probes.counters(),
            helper_cpu_seconds: self_cpu_seconds() + reader.as_secs_f64(),
            gpu_reader_pid,
            gpus_awaited: self.gpus.is_awaited(),
            tls_users: self.probes.tls_users(),
            trap_cost: self.probes.trap_cost(),
        };
        self.outbox.send_status(status);
    }

    fn describe(&mut self, pids: impl Iterator<Item = u32>) {
        let found = pids.filter_map(|pid| {
            let info = self.processes.describe(pid)?;
            Some(self.with_visibility(info))
        });
        let found = found.collect();
        self.send_processes(found);
    }

    fn with_visibility(&self, info: ProcessInfo) -> ProcessInfo {
        let (tls, reason, tls_library) = self.libraries.visibility(info.pid);
        ProcessInfo { tls, tls_reason: reason.map(Text::from), tls_library, ..info }
    }

    fn send_processes(&mut self, mut processes: Vec<ProcessInfo>) {
        while !processes.is_empty() {
            let rest = processes.split_off(processes.len().min(outbox::PROCESSES_PER_MESSAGE));
            self.outbox.send(Reply::Processes(processes));
            processes = rest;
        }
    }

    fn handle_lifecycle(&mut self, now: Instant) {
        // While the other side does not read, they wait in their ring.
        if now < self.next_lifecycle || self.outbox.is_full() {
            return;
        }
        let mut events = self.probes.read_lifecycle(LIFECYCLE_BATCH);
        // A whole batch leaves more behind it.
        if (1..LIFECYCLE_BATCH).contains(&events.len()) {
            self.next_lifecycle = now + LIFECYCLE_GATHERS;
        }
        if !self.probes.ends_are_certain() {
            let of_process = |event: LifecycleEvent| match event.kind {
                lifecycle::EXIT => self.endings.first_thread(event, now, Path::new(PROC)),
                _ => Some(event),
            };
            events = events.into_iter().filter_map(of_process).collect();
        }
        self.handle_events(&events);
    }

    fn handle_events(&mut self, events: &[LifecycleEvent]) {
        let told = events.iter().filter(|event| event.kind != lifecycle::FORK).map(Lifecycle::of).collect::<Vec<_>>();
        if !told.is_empty() {
            self.outbox.send(Reply::Lifecycle(told));
        }
        let mut started = Vec::new();
        events.iter().for_each(|event| self.handle_event(event, &mut started));
        let found = started.into_iter().filter_map(|pid| {
            let info = self.processes.describe_started(pid)?;
            Some(self.with_visibility(info))
        });
        let found = found.collect();
        self.send_processes(found);
    }

    fn handle_event(&mut self, event: &LifecycleEvent, started: &mut Vec<u32>) {
        let pid = event.pid;
        match event.kind {
            // Who it is comes with the next scan, which looks at new processes first.
            lifecycle::FORK => self.next_scan = self.next_scan.min(self.last_scan + FORK_SCAN_INTERVAL),
            lifecycle::EXEC => {
                self.processes.note_exec(pid);
                self.forget_server(pid);
                // Who serves tools begins with being asked who it is.
                let may_be_server = self.probes.is_on(Group::Tools) && self.stdio.may_be_server(pid);
                self.rescans.started(pid, Instant::now(), self.probes.excludes_any() || may_be_server);
                started.push(pid);
            }
            lifecycle::EXIT => {
                self.processes.note_exit(pid);
                self.libraries.forget(pid);
                self.forget_server(pid);
                self.rescans.ended(pid);
                if self.probes.excludes_any() {
                    self.probes.process_ended(pid);
                    self.settle();
                }
                started.retain(|other| *other != pid);
            }
            _ => {}
        }
    }

    fn forget_server(&mut self, pid: u32) {
        self.stdio.forget(pid);
        self.probes.remove_server(pid);
    }

    fn handle_time(&mut self, now: Instant) {
        // A probe in a file that has been written over does harm.
        let news = self.libraries.take_news();
        self.apply(news);
        let failed = self.probes.take_verdict_error().map_or(Ok(()), Err);
        self.report(failed);
        let ended = self.endings.due(now, Path::new(PROC));
        self.handle_events(&ended);
        // Without uprobes there is no hurry to find libraries; attaching scans them all.
        let (tls, tools) = (self.probes.is_on(Group::LlmTls), self.probes.is_on(Group::Tools));
        let due = self.rescans.due(now);
        if tools {
            // First, since a new library may take a while.
            let found = due.iter().filter_map(|pid| self.stdio.look(*pid)).collect();
            self.add_servers(found);
        }
        if tls {
            for pid in due {
                let changes = self.libraries.scan_pid(pid);
                self.apply(changes);
            }
        }
        if now >= self.next_server_scan {
            self.scan_servers(now);
        }
        if now >= self.next_scan {
            if tls {
                let changes = self.libraries.scan();
                self.apply(changes);
            }
            let longest = if self.libraries.is_midway() { NEXT_SCAN_INTERVAL } else { SCAN_INTERVAL };
            if self.scan_interval == longest && !std::mem::replace(&mut self.is_prepared, true) {
                // Not while the first samples are waited for.
                self.probes.prepare_for_servers();
                give_back_memory();
            }
            self.scan_interval = (self.scan_interval * 2).min(longest);
            self.last_scan = now;
            self.next_scan = now + self.scan_interval;
        }
    }

    fn apply(&mut self, changes: Changes) {
        let Changes { added, removed, processes } = changes;
        let other_probes = !(added.is_empty() && removed.is_empty());
        // First those that go: a file that has been written over is in both lists.
        removed.into_iter().for_each(|id| self.probes.remove_library(id));
        added.into_iter().for_each(|library| self.probes.add_library(library));
        if self.probes.excludes_any() && (other_probes || !processes.is_empty()) {
            self.settle();
        }
        self.report_library_errors();
        self.describe(processes.into_iter());
        if other_probes {
            self.send_status();
        }
    }

    /// Has the TLS probes in the processes in which they shall be.
    fn settle(&mut self) {
        let libraries = &self.libraries;
        self.probes.settle(&|id| libraries.users(&id).collect());
        self.report_library_errors();
    }

    fn report_library_errors(&mut self) {
        for error in self.probes.take_library_errors() {
            self.outbox.error(Group::LlmTls.name(), &error.to_string());
        }
    }

    fn report(&mut self, result: Result<(), ProbeError>) {
        if let Err(error) = result {
            self.outbox.error("probes", &error.to_string());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::socket;

    #[test]
    fn a_status_says_how_many_switches_it_follows() {
        let (ours, theirs) = socket::pair().unwrap();
        let (mut outbox, mut other) = (Outbox::new(Socket::new(ours)), Socket::new(theirs));
        let mut helper = Helper::new(&mut outbox, None);
        let mut switches = |request| {
            helper.handle(request);
            let (reply, _) = other.receive().unwrap().unwrap();
            let Reply::Status(status) = reply else { panic!("{reply:?}") };
            status.switches
        };
        assert_eq!(switches(Request::Status), 0);
        assert_eq!(switches(Request::Detach(vec![Group::LlmPlain])), 1);
        assert_eq!(switches(Request::Status), 1);
        assert_eq!(switches(Request::Attach(Vec::new())), 2, "whatever comes of it");
    }
}
