//! The process under test: the unprivileged side, which does as its standard input says and tells what it sees.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::io::{Read, Write as _};
use std::os::fd::AsFd;

use hbpf_ebpf::{RecordHeader, source};
use hbpf_host::privsep::{HelperClient, SocketError, SplitOptions, confine, renounce, split};
use hbpf_host::protocol::{Group, Reply, Request};
use hbpf_host::ring::EventRing;
use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::kernel::{held_by, status};

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
    let client = split(&SplitOptions::default()).unwrap();
    say(&format!("helper {}", client.helper_pid()));
    if options.iter().any(|option| option == "confined") {
        confine().unwrap();
        say(&format!("allowed {:?}", forbidden_but_allowed()));
        let thread = std::thread::Builder::new().name("worker".into()).spawn(|| 6 * 7).unwrap();
        say(&format!("thread {}", thread.join().unwrap()));
    }
    Subject { client, ring: None, answered: HashSet::new() }.run();
}

fn examine() {
    let found = hbpf_host::doctor::examine();
    for check in &found.checks {
        say(&format!("check {:?} {}: {} {:?}", check.outcome, check.name, check.detail, check.advice));
    }
    for library in &found.libraries {
        for user in &library.users {
            say(&format!("user {} of {} with {} functions", user.pid, library.path, library.functions));
        }
    }
    say(&format!("programs left {}", held_by(std::process::id()).programs.len()));
    say(&format!("worst {:?}", found.worst()));
    renounce(&SplitOptions::default()).unwrap();
    let privileged = status(std::process::id(), "CapEff") != "0000000000000000";
    say(&format!("still {privileged} {}", nix::unistd::geteuid().is_root()));
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
            _ => Group::ALL.to_vec(),
        };
        let request = match word {
            "attach" => Request::Attach(groups()),
            "detach" => Request::Detach(groups()),
            "learn" => Request::Learn(rest.to_owned()),
            "sample" => Request::Sample { sequence: rest.parse().unwrap(), pids: vec![], all: true },
            "describe" => Request::Describe(vec![rest.parse().unwrap()]),
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
                Reply::Status(status) => {
                    let on: Vec<_> = status.probes.iter().filter(|probe| probe.off_because.is_none()).collect();
                    let names: HashSet<_> = on.iter().map(|probe| probe.program.clone()).collect();
                    let runs: u64 = on.iter().filter_map(|probe| probe.runs).sum();
                    say(&format!(
                        "status programs={} places={} counted={} runs={runs}",
                        names.len(),
                        on.len(),
                        status.counters.is_some()
                    ));
                    for probe in status.probes.iter().filter(|probe| probe.failed) {
                        say(&format!("probe-failed {probe:?}"));
                    }
                }
                Reply::Processes(list) => {
                    for process in list {
                        say(&format!("process {} {:?} {}", process.pid, process.tls, process.command));
                    }
                }
                Reply::Lifecycle { kind, pid, comm, .. } => say(&format!("lifecycle {kind} {pid} {comm}")),
                Reply::Samples(list) => say(&format!("samples {}", list.len())),
                Reply::Host(host) => say(&format!("host {:?}", host.hostname)),
                Reply::SampleEnd { sequence } => say(&format!("sample-end {sequence}")),
                Reply::Owners(owners) => say(&format!("owners {owners:?}")),
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

fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    // The test may have gone.
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

fn stdin_is_readable() -> bool {
    let stdin = std::io::stdin();
    let mut ready = [PollFd::new(stdin.as_fd(), PollFlags::POLLIN)];
    poll(&mut ready, PollTimeout::ZERO).unwrap() > 0
}

/// What a confined process must not be able to do, but can.
fn forbidden_but_allowed() -> Vec<&'static str> {
    let call = |name: &'static str, number: i64, arguments: [i64; 4]| {
        // SAFETY: every pointer among the arguments is null or a literal that lives for ever; a call that is allowed
        // after all fails for its arguments or makes a descriptor that nobody uses.
        let result =
            Errno::result(unsafe { libc::syscall(number, arguments[0], arguments[1], arguments[2], arguments[3]) });
        (result != Err(Errno::EPERM)).then_some(name)
    };
    let path = c"/proc/self/status".as_ptr() as i64;
    let at = i64::from(libc::AT_FDCWD);
    let inet = i64::from(libc::AF_INET);
    let stream = i64::from(libc::SOCK_STREAM);
    let executable = i64::from(libc::PROT_READ | libc::PROT_EXEC);
    let anonymous = i64::from(libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    let parent = i64::from(libc::SIGCHLD);
    // SAFETY: the parent's id has no preconditions.
    let other = i64::from(unsafe { libc::getppid() });
    let mut list = vec![
        call("openat", libc::SYS_openat, [at, path, 0, 0]),
        call("execve", libc::SYS_execve, [c"/bin/true".as_ptr() as i64, 0, 0, 0]),
        call("socket", libc::SYS_socket, [inet, stream, 0, 0]),
        call("socket unix", libc::SYS_socket, [i64::from(libc::AF_UNIX), stream, 0, 0]),
        call("socketpair", libc::SYS_socketpair, [inet, stream, 0, 0]),
        call("connect", libc::SYS_connect, [0, 0, 0, 0]),
        call("bpf", libc::SYS_bpf, [0, 0, 0, 0]),
        call("ptrace", libc::SYS_ptrace, [0, 0, 0, 0]),
        call("process_vm_readv", libc::SYS_process_vm_readv, [other, 0, 0, 0]),
        call("kill", libc::SYS_kill, [other, 0, 0, 0]),
        call("tgkill", libc::SYS_tgkill, [other, other, 0, 0]),
        call("setuid", libc::SYS_setuid, [0, 0, 0, 0]),
        call("clone a process", libc::SYS_clone, [parent, 0, 0, 0]),
        call("perf_event_open", libc::SYS_perf_event_open, [0, 0, 0, 0]),
        call("mmap executable", libc::SYS_mmap, [0, 4096, executable, anonymous]),
        call("mprotect executable", libc::SYS_mprotect, [0, 4096, executable, 0]),
        call("ioctl TIOCSTI", libc::SYS_ioctl, [0, libc::TIOCSTI as i64, c"x".as_ptr() as i64, 0]),
        call("prctl dumpable", libc::SYS_prctl, [i64::from(libc::PR_SET_DUMPABLE), 1, 0, 0]),
        call("unlinkat", libc::SYS_unlinkat, [at, path, 0, 0]),
        call("statx of a path", libc::SYS_statx, [at, path, 0, 0]),
        call("unshare", libc::SYS_unshare, [0, 0, 0, 0]),
        call("io_uring_setup", libc::SYS_io_uring_setup, [1, 0, 0, 0]),
    ];
    list.push(std::fs::read("/etc/passwd").is_ok().then_some("reading a file"));
    list.push(std::process::Command::new("/bin/true").spawn().is_ok().then_some("running a program"));
    list.into_iter().flatten().collect()
}
