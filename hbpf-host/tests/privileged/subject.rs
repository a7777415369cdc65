//! The process under test: the unprivileged side, which does as its standard input says and tells what it sees.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{Read, Write as _};
use std::os::fd::AsFd;

use hbpf_core::inference::Place;
use hbpf_ebpf::{RecordHeader, source};
use hbpf_host::privsep::{HelperClient, SocketError, SplitOptions, confine, hold_helper, split};
use hbpf_host::protocol::{Counted, Group, Others, Question, Reply, Request, Server, Suspect};
use hbpf_host::ring::EventRing;
use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::{attempts, hostile};

/// First argument of a process under test.
pub(crate) const ARGUMENT: &str = "subject";

/// Runs until standard input ends or says `quit`, or the helper has gone.
pub(crate) fn run(options: &[String]) {
    if options.iter().any(|option| option == "unprivileged") {
        let nobody = 65534;
        nix::unistd::setgroups(&[]).unwrap();
        nix::unistd::setgid(nobody.into()).unwrap();
        nix::unistd::setuid(nobody.into()).unwrap();
    }
    if options.iter().any(|option| option == "doctor") {
        return examine();
    }
    if let Some(niceness) = options.iter().find_map(|option| option.strip_prefix("nice=")) {
        // SAFETY: the call touches no memory.
        Errno::result(unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, niceness.parse().unwrap()) }).unwrap();
    }
    if let Some(list) = options.iter().find_map(|option| option.strip_prefix("with=")) {
        become_user_with(list.split(',').map(|number| number.parse().unwrap()));
    }
    if options.iter().any(|option| option == "held") {
        hold_helper(&split_options(options)).unwrap();
        say(&format!("allowed {:?}", attempts::allowed_to_helper()));
        return wait_for_end();
    }
    if let Some(seed) = options.iter().find_map(|option| option.strip_prefix("hostile=")) {
        return hostile::run(seed.parse().unwrap());
    }
    let client = split(&split_options(options)).unwrap();
    say(&format!("helper {}", client.helper_pid()));
    if options.iter().any(|option| option == "confined") {
        say(&format!("landlock {:?}", confine().unwrap().landlock));
        say(&format!("allowed {:?}", attempts::allowed_to_parser()));
        let thread = std::thread::Builder::new().name("worker".into()).spawn(|| 6 * 7).unwrap();
        say(&format!("thread {}", thread.join().unwrap()));
    }
    Subject { client, ring: None, answered: HashSet::new() }.run();
}

fn split_options(options: &[String]) -> SplitOptions {
    SplitOptions { engines: options.iter().any(|option| option == "engines"), ..SplitOptions::default() }
}

fn examine() {
    let found = hbpf_host::doctor::run().unwrap();
    for check in &found.checks {
        say(&format!("check {:?} {}: {} {:?}", check.outcome, check.name, check.detail, check.advice));
    }
    for library in &found.libraries {
        for user in &library.users {
            say(&format!("user {} of {} with {} functions", user.pid, library.path, library.functions));
        }
    }
    say(&format!("worst {:?}", found.worst()));
    say(&format!("allowed {:?}", attempts::allowed_to_parser()));
    wait_for_end();
}

/// Lets others look at this process until they have seen enough.
fn wait_for_end() {
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
}

/// Becomes an ordinary user with these capabilities, as a program with file capabilities is.
fn become_user_with(capabilities: impl Iterator<Item = u64>) {
    const USER: u32 = 12345;
    let mask = capabilities.fold(0_u64, |mask, capability| mask | 1 << capability);
    nix::sys::prctl::set_keepcaps(true).unwrap();
    nix::unistd::setgroups(&[]).unwrap();
    nix::unistd::setresgid(USER.into(), USER.into(), USER.into()).unwrap();
    nix::unistd::setresuid(USER.into(), USER.into(), USER.into()).unwrap();
    let header = [0x2008_0522_u32, 0];
    let (low, high) = (mask as u32, (mask >> 32) as u32);
    let sets = [low, low, 0, high, high, 0];
    // SAFETY: header and sets have the layout of version 3 and live for the call.
    Errno::result(unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), sets.as_ptr()) }).unwrap();
}

struct Subject {
    client: HelperClient,
    ring: Option<EventRing>,
    answered: HashSet<String>,
}

impl Subject {
    fn run(&mut self) {
        let mut typed = String::new();
        loop {
            self.wait();
            match self.replies() {
                Ok(()) => {}
                Err(SocketError::Closed) => return say("closed"),
                Err(error) => return say(&format!("failed {error}")),
            }
            self.records();
            if stdin_is_readable() {
                let mut buffer = [0; 4096];
                let length = std::io::stdin().read(&mut buffer).unwrap();
                if length == 0 {
                    return;
                }
                typed.push_str(std::str::from_utf8(&buffer[..length]).unwrap());
                while let Some(end) = typed.find('\n') {
                    let line: String = typed.drain(..=end).collect();
                    if line.trim() == "quit" {
                        return;
                    }
                    self.command(line.trim());
                }
            }
        }
    }

    fn wait(&self) {
        let stdin = std::io::stdin();
        let mut ready =
            vec![PollFd::new(self.client.as_fd(), PollFlags::POLLIN), PollFd::new(stdin.as_fd(), PollFlags::POLLIN)];
        ready.extend(self.ring.as_ref().map(|ring| PollFd::new(ring.as_fd(), PollFlags::POLLIN)));
        poll(&mut ready, PollTimeout::NONE).unwrap();
    }

    fn command(&mut self, line: &str) {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        let groups = || match rest {
            "tls" => vec![Group::LlmTls],
            "plain" => vec![Group::LlmPlain],
            "block" => vec![Group::Block],
            "net" => vec![Group::Net],
            "device" => vec![Group::Device],
            _ => Group::ALL.to_vec(),
        };
        let request = match word {
            "attach" => Request::Attach(groups()),
            "detach" => Request::Detach(groups()),
            "exclude" => Request::Exclude(rest.split_whitespace().map(|pid| pid.parse().unwrap()).collect()),
            "learn" => Request::Learn(rest.to_owned()),
            "sample" => Request::Sample { sequence: rest.parse().unwrap(), closely: vec![], others: Others::All },
            "describe" => Request::Describe(vec![rest.parse().unwrap()]),
            "servers" => Request::FindServers(vec![Suspect { pid: rest.parse().unwrap(), serves: true }]),
            "ask" => {
                let words: Vec<&str> = rest.split(' ').collect();
                let [pid, start, address] = words[..] else { panic!("{rest}") };
                let (pid, start_time_ns, address) = (pid.parse(), start.parse(), address.parse());
                Request::Ask(Question {
                    ticket: 7,
                    pid: pid.unwrap(),
                    start_time_ns: start_time_ns.unwrap(),
                    address: address.unwrap(),
                    place: Place::Metrics,
                })
            }
            other => panic!("unknown command {other}"),
        };
        self.client.send(request).unwrap();
    }

    fn replies(&mut self) -> Result<(), SocketError> {
        while let Some((reply, descriptor)) = self.client.try_recv()? {
            match reply {
                Reply::Ring { bytes } => {
                    self.ring = Some(EventRing::from_fd(descriptor.unwrap(), bytes).unwrap());
                    say("ring");
                }
                // It reads as often as it can.
                Reply::Bell => {}
                Reply::Status(status) => {
                    let on: Vec<_> = status.probes.iter().filter(|probe| probe.off_because.is_none()).collect();
                    let names: HashSet<_> = on.iter().map(|probe| probe.program.clone()).collect();
                    let runs: u64 = on.iter().filter_map(|probe| probe.runs).sum();
                    let missed: u64 = on.iter().filter_map(|probe| probe.missed).sum();
                    say(&format!(
                        "status programs={} places={} counted={} runs={runs} missed={missed}",
                        names.len(),
                        on.len(),
                        status.counters.is_some()
                    ));
                    for probe in on {
                        say(&format!("place {} {}", probe.program, probe.attached_to));
                    }
                    for user in &status.tls_users {
                        say(&format!("user {} calls={} models={}", user.pid, user.calls, user.model_messages));
                    }
                    for probe in status.probes.iter().filter(|probe| probe.failed) {
                        say(&format!("probe-failed {probe:?}"));
                    }
                }
                Reply::Processes(list) => {
                    for process in list {
                        say(&format!("process {} {:?} {}", process.pid, process.tls, process.command));
                    }
                }
                Reply::Lifecycle(list) => {
                    for event in list {
                        say(&format!("lifecycle {} {} {}", event.kind, event.pid, event.comm));
                    }
                }
                Reply::Samples(list) => say(&format!("samples {}", list.len())),
                Reply::Details(list) => say(&format!("details {}", list.len())),
                Reply::Counted(list) => {
                    for Counted { pid, event, device, count, nanoseconds, bytes, .. } in list {
                        let device = if device.is_empty() { "-" } else { device.as_str() };
                        say(&format!("counted {pid} {event:?} {device} {count} {nanoseconds} {bytes}"));
                    }
                }
                Reply::Held(list) => {
                    for held in list {
                        let open = held.open.map_or_else(|| "-".to_owned(), |open| open.to_string());
                        say(&format!("held {} {} {open} {:?}", held.pid, held.device, held.closed));
                    }
                }
                Reply::Gpu(gpu) => say(&format!("gpu {}", gpu.index)),
                Reply::Host(host) => say(&format!("host {:?}", host.hostname)),
                Reply::SampleEnd { sequence, .. } => say(&format!("sample-end {sequence}")),
                Reply::Owners(owners) => say(&format!("owners {owners:?}")),
                Reply::Servers(list) => {
                    for Server { pid, start_time_ns, listeners, .. } in list {
                        let addresses: Vec<String> = listeners.iter().map(|it| it.address.to_string()).collect();
                        say(&format!("server {pid} {start_time_ns} {}", addresses.join(" ")));
                    }
                }
                Reply::NotLookedAt(pids) => say(&format!("not looked at {pids:?}")),
                Reply::Asked { ticket, refused: Some(why) } => say(&format!("refused {ticket} {why:?}")),
                Reply::Asked { ticket, refused: None } => {
                    let mut answer = File::from(descriptor.unwrap());
                    let mut ready = [PollFd::new(answer.as_fd(), PollFlags::POLLIN)];
                    poll(&mut ready, PollTimeout::NONE).unwrap();
                    let mut buffer = [0; 1000];
                    let length = answer.read(&mut buffer).unwrap();
                    say(&format!("answer {ticket} {:?}", String::from_utf8_lossy(&buffer[..length])));
                }
                Reply::Error { source, message } => say(&format!("error {source}: {message}")),
            }
        }
        Ok(())
    }

    /// Tells all records; to those of TCP and TLS alike the test judges nothing, so what begins unknown stays at that.
    fn records(&mut self) {
        let Some(ring) = &mut self.ring else { return };
        let answered = &mut self.answered;
        ring.read(&mut |header, payload| {
            answered.insert(format!("{}:{}", header.source, header.handle));
            say(&describe(header, payload));
        });
        if ring.malformed() > 0 {
            say(&format!("malformed {}", ring.malformed()));
        }
    }
}

fn describe(header: &RecordHeader, payload: &[u8]) -> String {
    let name = if header.source == source::TLS { "tls" } else { "tcp" };
    let mut text = format!(
        "record {name} kind={} direction={} pid={} handle={:x} local={} remote={} text=",
        header.kind, header.direction, header.pid, header.handle, header.local_port, header.remote_port,
    );
    for byte in payload {
        match byte {
            b' '..=b'~' => text.push(char::from(*byte)),
            _ => write!(text, "<{byte:02x}>").unwrap(),
        }
    }
    text
}

pub(crate) fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    // The test may have gone.
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

fn stdin_is_readable() -> bool {
    let stdin = std::io::stdin();
    let mut ready = [PollFd::new(stdin.as_fd(), PollFlags::POLLIN)];
    poll(&mut ready, PollTimeout::ZERO).unwrap() > 0
}
