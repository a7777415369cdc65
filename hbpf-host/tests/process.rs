//! Facts about real processes, and the owners of real sockets.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{PoisonError, RwLock, RwLockReadGuard};
use std::time::{Duration, Instant};

use hbpf_host::process::{Samples, Table};
use hbpf_host::protocol::{Others, ProcessSample, SocketQuery};

fn table() -> Table {
    Table::new(PathBuf::from("/proc"))
}

/// Looked at closely.
fn sample(table: &mut Table, pid: u32) -> Option<ProcessSample> {
    table.sample(&[pid], Others::InTurn).processes.into_iter().find(|sample| sample.pid == pid)
}

fn own_pid() -> u32 {
    std::process::id()
}

/// Held while a process is started: until it executes its program it has the sockets of this one, too.
static STARTING: RwLock<()> = RwLock::new(());

/// No process is being started while this is kept.
fn nobody_starts() -> RwLockReadGuard<'static, ()> {
    STARTING.read().unwrap_or_else(PoisonError::into_inner)
}

/// A Python process with which lines are exchanged.
struct Python {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Python {
    fn start(script: &str) -> Option<Self> {
        let mut command = Command::new("python3");
        command.args(["-c", script]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let starting = STARTING.write().unwrap_or_else(PoisonError::into_inner);
        let mut child = command.spawn().inspect_err(|error| eprintln!("skipped: python3: {error}")).ok()?;
        drop(starting);
        let (input, output) = (child.stdin.take()?, BufReader::new(child.stdout.take()?));
        Some(Self { child, input, output })
    }

    fn read(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        line.trim().to_owned()
    }

    fn go(&mut self) {
        self.input.write_all(b"go\n").unwrap();
    }
}

impl Drop for Python {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_child_is_described_until_it_executes_another_program() {
    let script = "import sys, os\nprint('ready', flush=True); sys.stdin.readline()\nos.execv('/bin/sh', ['sh', '-c', 'echo there; read x'])";
    let Some(mut python) = Python::start(script) else { return };
    assert_eq!(python.read(), "ready");
    let (mut table, pid) = (table(), python.child.id());
    let before = table.describe(pid).unwrap();
    assert!(before.command.as_str().starts_with("python3") && before.command.as_str().ends_with(" -c"), "{before:?}");
    assert_eq!((before.pid, before.parent_pid, before.uid), (pid, own_pid(), nix::unistd::geteuid().as_raw()));
    let user = nix::unistd::User::from_uid(nix::unistd::geteuid()).unwrap().map(|user| user.name);
    assert_eq!(before.user.map(|user| user.as_str().to_owned()), user);

    python.go();
    assert_eq!(python.read(), "there");
    let after = table.describe(pid).unwrap();
    assert_eq!((after.command.as_str(), after.start_time_ns), ("sh -c", before.start_time_ns));
    assert_ne!(after.executable, before.executable);

    drop(python);
    assert_eq!(table.describe(pid), None);
    assert!(sample(&mut table, pid).is_none());
}

#[test]
fn kernel_threads_and_nobody_are_not_described() {
    let mut table = table();
    assert_eq!(table.describe(0), None);
    assert_eq!(table.describe(u32::MAX), None);
    let samples = table.sample(&[own_pid(), own_pid(), u32::MAX], Others::All).processes;
    assert_eq!(samples.iter().filter(|sample| sample.pid == own_pid()).count(), 1);
    assert!(samples.iter().all(|sample| sample.cpu_percent.is_none()), "first sample");
}

#[test]
fn cpu_percent_is_what_the_child_itself_counts() {
    let script = "import os, sys\ncpu = lambda: sum(os.times()[:2])\nstart = cpu(); print(start, flush=True); sys.stdin.readline()\n\
                  while cpu() < start + 0.5: pass\nprint(cpu(), flush=True); sys.stdin.readline()";
    let Some(mut python) = Python::start(script) else { return };
    let (mut table, pid) = (table(), python.child.id());
    let idle: f64 = python.read().parse().unwrap();

    let outer = Instant::now();
    assert_eq!(sample(&mut table, pid).unwrap().cpu_percent, None);
    let inner = Instant::now();
    python.go();
    let busy: f64 = python.read().parse().unwrap();
    let inner = inner.elapsed().as_secs_f64();
    let seen = sample(&mut table, pid).unwrap();
    let outer = outer.elapsed().as_secs_f64();

    // The time between the two samples is only known to lie between these two; ticks are 10 ms.
    let percent = seen.cpu_percent.unwrap();
    let (least, most) = (percent / 100.0 * inner - 0.05, percent / 100.0 * outer + 0.05);
    assert!(
        (least..=most).contains(&(busy - idle)),
        "{percent} % of {inner}..{outer} s, {} s by its own count",
        busy - idle
    );
    assert!(seen.resident_bytes > 1_000_000 && seen.threads == 1);
    assert_eq!(sample(&mut table, pid).unwrap().cpu_percent, Some(percent), "too soon for another");
}

/// A control group of our own, with these limits; `None` where none can be made.
struct ControlGroup(Vec<PathBuf>);

impl ControlGroup {
    /// A fifth of a core and 64 MB.
    fn limited() -> Option<Self> {
        let name = format!("hbpf-test-{}", own_pid());
        let (one, two) = (PathBuf::from("/sys/fs/cgroup/cpu"), PathBuf::from("/sys/fs/cgroup"));
        let made = if one.join("cgroup.procs").exists() {
            // As a runtime does it: in every hierarchy, of which two may be one.
            let at = |hierarchy: &str| PathBuf::from("/sys/fs/cgroup").join(hierarchy).join(&name);
            let cpu = Self::make(&at("cpu"), &[("cpu.cfs_period_us", "100000"), ("cpu.cfs_quota_us", "20000")]);
            let memory = Self::make(&at("memory"), &[("memory.limit_in_bytes", "67108864")]);
            let accounting = if at("cpuacct").exists() { Ok(at("cpu")) } else { Self::make(&at("cpuacct"), &[]) };
            [cpu, memory, accounting].into_iter().collect()
        } else {
            std::fs::write(two.join("cgroup.subtree_control"), "+cpu +memory")
                .and_then(|()| Self::make(&two.join(&name), &[("cpu.max", "20000 100000"), ("memory.max", "67108864")]))
                .map(|group| vec![group])
        };
        made.map(Self).inspect_err(|error| eprintln!("skipped: cannot make a control group: {error}")).ok()
    }

    fn make(path: &Path, limits: &[(&str, &str)]) -> std::io::Result<PathBuf> {
        std::fs::create_dir(path)?;
        limits.iter().try_for_each(|(name, value)| std::fs::write(path.join(name), value))?;
        Ok(path.to_owned())
    }

    fn take(&self, pid: u32) {
        self.0.iter().for_each(|path| std::fs::write(path.join("cgroup.procs"), pid.to_string()).unwrap());
    }
}

impl Drop for ControlGroup {
    fn drop(&mut self) {
        self.0.iter().for_each(|path| _ = std::fs::remove_dir(path));
    }
}

#[test]
fn limits_and_throttling_are_those_of_a_real_control_group() {
    let Some(group) = ControlGroup::limited() else { return };
    let script =
        "import sys\nprint('ready', flush=True); sys.stdin.readline()\nkept = b'x' * (20 << 20)\nwhile True: pass";
    let Some(mut python) = Python::start(script) else { return };
    python.read();
    let (mut table, pid) = (table(), python.child.id());
    group.take(pid);
    python.go();
    let detail = |table: &mut Table| table.sample(&[pid], Others::InTurn).details.pop().unwrap();
    let before = detail(&mut table).cgroup.unwrap();
    assert!(before.path.ends_with(&format!("hbpf-test-{}", own_pid())), "{before:?}");
    assert_eq!((before.cpu_limit_cores, before.memory_limit_bytes), (Some(0.2), Some(64 << 20)));
    assert_eq!((before.cpu_percent, before.throttled_percent), (None, None));
    std::thread::sleep(Duration::from_secs(2));
    let seen = detail(&mut table);
    let after = seen.cgroup.unwrap();
    assert!((12.0..28.0).contains(&after.cpu_percent.unwrap()), "{after:?}");
    assert!(after.throttled_percent.unwrap() > 50.0, "it wants five times as much: {after:?}");
    assert!((20 << 20..64 << 20).contains(&after.memory_bytes.unwrap()), "{after:?}");
    assert!((12.0..28.0).contains(&seen.hottest_thread.unwrap().cpu_percent));
    drop(python);
}

#[test]
fn threads_are_as_their_process_has_them() {
    let script = "import ctypes, sys, threading, time\n\
        def named(name):\n ctypes.CDLL(None).prctl(15, name)\n\
        def spin():\n named(b'spins')\n while True: pass\n\
        def switch():\n named(b'switches')\n while True: time.sleep(0.005)\n\
        named(b'idle')\n[threading.Thread(target=f, daemon=True).start() for f in (spin, switch)]\n\
        print('ready', flush=True); sys.stdin.readline()";
    let Some(mut python) = Python::start(script) else { return };
    python.read();
    let (mut table, pid) = (table(), python.child.id());
    table.sample(&[pid], Others::InTurn);
    std::thread::sleep(Duration::from_secs(2));
    let seen = table.sample(&[pid], Others::InTurn);
    let process = seen.processes.iter().find(|sample| sample.pid == pid).unwrap();
    let detail = &seen.details[0];
    assert_eq!(process.threads, 3);
    let hottest = detail.hottest_thread.as_ref().unwrap();
    assert_eq!(hottest.name.as_str(), "spins");
    // The rest of the process's time is the other thread's.
    assert!(hottest.cpu_percent <= process.cpu_percent.unwrap() + 5.0, "{hottest:?} of {process:?}");
    // It sleeps 200 times a second, and for each time must get the interpreter's lock.
    assert!(detail.voluntary_switches_per_second.unwrap() > 20.0, "{detail:?}");
    assert!(detail.run_queue_seconds_per_second.is_some() && detail.involuntary_switches_per_second.is_some());
    assert!((1..process.resident_bytes).contains(&detail.shared_bytes.unwrap()), "{detail:?} of {process:?}");
}

/// Writes so many MiB to a file, not into memory as /tmp may be.
fn writing(directory: &tempfile::TempDir, mebibytes: u32) -> String {
    let file = directory.path().join("written");
    format!(
        "f = open({file:?}, 'wb')\n[f.write(bytes(1 << 20)) for _ in range({mebibytes})]; f.flush(); os.fsync(f.fileno())\n"
    )
}

#[test]
fn what_is_written_to_a_disk_is_told() {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let script = format!(
        "import os, sys\nprint('ready', flush=True); sys.stdin.readline()\n{}print('done', flush=True); sys.stdin.readline()",
        writing(&directory, 64)
    );
    let Some(mut python) = Python::start(&script) else { return };
    python.read();
    let (mut table, pid) = (table(), python.child.id());
    let outer = Instant::now();
    table.sample(&[pid], Others::InTurn);
    let inner = Instant::now();
    python.go();
    python.read();
    // So that enough time has passed for another look.
    std::thread::sleep(Duration::from_millis(150));
    let inner = inner.elapsed().as_secs_f64();
    let rate = table.sample(&[pid], Others::InTurn).details.pop().unwrap().disk_write_bytes_per_second.unwrap();
    let outer = outer.elapsed().as_secs_f64();
    let own: f64 = std::fs::read_to_string(format!("/proc/{pid}/io"))
        .unwrap()
        .lines()
        .find_map(|line| line.strip_prefix("write_bytes: ")?.parse().ok())
        .unwrap();
    if own == 0.0 {
        eprintln!("skipped: the file system here counts no writes to disks");
        return;
    }
    // The time between the two looks is only known to lie between these two.
    assert!((rate * inner * 0.99..=rate * outer * 1.01).contains(&own), "{rate} B/s for {inner} to {outer} s, {own} B");
}

#[test]
fn what_a_child_did_in_its_life_is_not_its_parents_doing_now() {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let script = format!(
        "import os, sys\nprint('ready', flush=True); sys.stdin.readline()\nif os.fork() == 0:\n {}os._exit(0)\n\
         else: os.wait()\nprint('done', flush=True); sys.stdin.readline()",
        writing(&directory, 8).replace('\n', "\n ")
    );
    let Some(mut python) = Python::start(&script) else { return };
    python.read();
    let (mut table, pid) = (table(), python.child.id());
    let rate =
        |table: &mut Table| table.sample(&[pid], Others::InTurn).details.pop().unwrap().disk_write_bytes_per_second;
    assert_eq!(rate(&mut table), None, "it takes two looks");
    python.go();
    python.read();
    std::thread::sleep(Duration::from_millis(150));
    assert_eq!(rate(&mut table), None);
    std::thread::sleep(Duration::from_millis(150));
    assert_eq!(rate(&mut table), Some(0.0));
}

#[test]
fn of_many_processes_some_are_sampled_in_turn_and_ends_are_told() {
    let Some(python) = Python::start("import sys; print('ready', flush=True); sys.stdin.readline()") else { return };
    let (mut table, pid) = (table(), python.child.id());
    let has = |samples: &Samples| samples.processes.iter().any(|sample| sample.pid == pid);
    let first = table.sample(&[], Others::InTurn);
    assert!(has(&first) && first.rounds == 1, "the first time all of them");
    drop(python);
    let mut rounds = first.rounds;
    while rounds < 4 {
        let next = table.sample(&[], Others::InTurn);
        assert!(!has(&next) && next.rounds >= rounds);
        rounds = next.rounds;
    }
}

#[test]
fn the_machine_has_shares_from_the_second_sample_on() {
    let mut table = table();
    let first = table.host_sample();
    assert_eq!((first.cpu_percent, first.cores_percent.len()), (None, 0));
    // Ticks only pass with time: as long as this takes.
    let second = loop {
        let host = table.host_sample();
        if host.cpu_percent.is_some() {
            break host;
        }
        std::thread::yield_now();
    };
    assert_eq!(second.cores_percent.len(), second.cpu_count as usize);
    assert!(second.cores_percent.iter().chain(&second.cpu_percent).all(|percent| (0.0..=100.0).contains(percent)));
}

fn cookie(socket: &impl AsFd) -> u64 {
    let mut cookie = 0u64;
    let mut length = size_of::<u64>() as nix::libc::socklen_t;
    let fd = std::os::fd::AsRawFd::as_raw_fd(&socket.as_fd());
    // SAFETY: both pointers are to locals of the sizes that SO_COOKIE and the length argument ask for.
    let result = unsafe {
        nix::libc::getsockopt(
            fd,
            nix::libc::SOL_SOCKET,
            nix::libc::SO_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    assert_eq!(result, 0);
    cookie
}

fn query(socket: &TcpStream, hint: u32) -> SocketQuery {
    let (local, remote) = (socket.local_addr().unwrap(), socket.peer_addr().unwrap());
    SocketQuery { cookie: cookie(socket), hint, local, remote }
}

#[test]
fn both_ends_of_a_connection_have_owners() {
    let _nobody = nobody_starts();
    for address in ["127.0.0.1:0", "[::1]:0"] {
        let Ok(listener) = TcpListener::bind(address) else {
            eprintln!("skipped: cannot listen at {address}");
            continue;
        };
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (server, _) = listener.accept().unwrap();
        for socket in [&client, &server] {
            for hint in [own_pid(), 0, 1] {
                let query = query(socket, hint);
                assert_eq!(table().find_owners(&[query]), [(query.cookie, own_pid())], "{address}, hint {hint}");
            }
        }
        // Of connections that are over nothing can be told; who has closed them is told with their end.
        let over = |socket| SocketQuery { remote: "127.0.0.1:1".parse().unwrap(), ..query(socket, 0) };
        assert_eq!(table().find_owners(&[over(&client), over(&server)]), [], "{address}");
    }
}

#[test]
fn an_ipv4_connection_to_an_ipv6_socket_has_owners() {
    let _nobody = nobody_starts();
    let Ok(listener) = TcpListener::bind("[::]:0") else {
        eprintln!("skipped: no IPv6");
        return;
    };
    let port = listener.local_addr().unwrap().port();
    let Ok(client) = TcpStream::connect(("127.0.0.1", port)) else {
        eprintln!("skipped: IPv6 sockets take no IPv4 here");
        return;
    };
    let (server, _) = listener.accept().unwrap();
    assert!(server.peer_addr().unwrap().is_ipv6());
    let mapped = query(&server, 0);
    let plain = |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
    let unmapped = SocketQuery { local: plain(mapped.local), remote: plain(mapped.remote), ..mapped };
    for query in [mapped, unmapped, query(&client, 0)] {
        assert_eq!(table().find_owners(&[query]), [(query.cookie, own_pid())]);
    }
}

/// A server that hands each connection to a child; `parent_closes` says whether it then lets go of it itself.
fn forking_server(parent_closes: bool) -> Option<(Python, u16)> {
    let close = if parent_closes { "c.close()" } else { "pass" };
    let script = format!(
        "import os, socket, sys\ns = socket.create_server(('127.0.0.1', 0)); print(s.getsockname()[1], flush=True)\n\
         c, _ = s.accept()\npid = os.fork()\nif pid == 0:\n    print(os.getpid(), flush=True); os.read(0, 1); os._exit(0)\n\
         {close}\nos.waitpid(pid, 0)"
    );
    let mut python = Python::start(&script)?;
    let port = python.read().parse().unwrap();
    Some((python, port))
}

#[test]
fn a_forked_child_owns_what_was_accepted_for_it() {
    for parent_closes in [true, false] {
        let Some((mut server, port)) = forking_server(parent_closes) else { return };
        let client = TcpStream::connect(("127.0.0.1", port)).unwrap();
        let child: u32 = server.read().parse().unwrap();
        let (local, remote) = (client.peer_addr().unwrap(), client.local_addr().unwrap());
        let query = SocketQuery { cookie: 0, hint: server.child.id(), local, remote };
        assert_eq!(table().find_owners(&[query]), [(0, child)], "parent closes: {parent_closes}");
        // Lets the child end, and then the parent.
        server.go();
        server.child.wait().unwrap();
    }
}

#[test]
fn a_closed_connection_has_no_owner_and_a_list_is_answered_as_one() {
    let _nobody = nobody_starts();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let pairs: Vec<_> = (0..20).map(|_| (TcpStream::connect(address).unwrap(), listener.accept().unwrap().0)).collect();
    let mut queries: Vec<SocketQuery> =
        pairs.iter().flat_map(|(client, server)| [query(client, 0), query(server, own_pid())]).collect();
    queries
        .insert(7, SocketQuery { cookie: 1, hint: own_pid(), local: address, remote: "127.0.0.1:1".parse().unwrap() });
    let mut table = table();
    let mut owners = table.find_owners(&queries);
    owners.sort_unstable();
    let mut expected: Vec<(u64, u32)> =
        queries.iter().filter(|query| query.cookie != 1).map(|q| (q.cookie, own_pid())).collect();
    expected.sort_unstable();
    assert_eq!(owners, expected);
    drop(pairs);
    assert_eq!(table.find_owners(&queries), []);
}
