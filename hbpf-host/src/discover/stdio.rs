//! Finds processes whose standard input and output lead to who has started them, as those of MCP servers do, and the C library
//! through which they read and write.
//!
//! A process is looked at by its descriptors: what it reads, an ancestor writes, and the other way round. Pipes tell that by
//! their inodes, socket pairs (node's children have them) by the kernel's word on who the peer is. Whether they speak MCP is
//! for those to find out who see what passes; most that look so do not.

use std::collections::HashMap;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hbpf_core::label::Label;
use hbpf_ebpf::direction;
use object::read::elf::ElfFile64;
use object::{NativeEndian, Object, ObjectSegment, ObjectSymbol};

use super::mapped::Opener;
use super::maps::{Mapping, Maps};
use crate::process::diag::{Peers, open_peers};
use crate::process::files;
use crate::process::stat::Stat;

/// CPU time per call after which the rest is left to the next: requests wait for the helper meanwhile.
const CPU_PER_SCAN: Duration = Duration::from_millis(5);

/// How far up ancestors are looked at: an agent, a package runner, a shell, the server.
const MAX_ANCESTORS: usize = 6;

/// Descriptors that are looked at of a process. Agents have some hundred.
const MAX_DESCRIPTORS: usize = 1024;

/// Processes of which is remembered that they were looked at.
const MAX_KNOWN: usize = 65_536;

/// A process that is not known to speak MCP and makes so many system calls a second to read and write pays more for being looked
/// at than it may.
const MAX_UNPROVEN_CALLS: f64 = 1000.0;

/// Seconds over which that counts: a server in node reads some thousand files before it is asked anything.
const UNPROVEN_SECONDS: f64 = 10.0;

/// Largest C library; glibc's has 2 MB.
const MAX_LIBRARY_BYTES: u64 = 32 * 1024 * 1024;

/// C libraries of one process.
const MAX_C_LIBRARIES: usize = 4;

/// Libraries of which is remembered where their functions are: as many as there are images of containers.
const MAX_LIBRARIES: usize = 256;

/// What is wanted of a C library, and by which names; of several the first that is there.
const FUNCTIONS: [(&str, &[&str]); 7] = [
    ("fcntl", &["fcntl64", "fcntl"]),
    ("dup2", &["dup2"]),
    ("dup3", &["dup3"]),
    ("close", &["close"]),
    ("read", &["read"]),
    ("write", &["write"]),
    ("writev", &["writev"]),
];

/// Functions that are wanted of a library, and where in its file they begin.
pub(crate) type Functions = Arc<Vec<(&'static str, u64)>>;

/// What tells a library's file from others, and from itself when it was another: device, inode, length, time of change.
type FileKey = (u64, u64, u64, i64);

/// A process that may serve tools.
#[derive(Debug)]
pub(crate) struct StdioServer {
    pub(crate) pid: u32,
    /// Its descriptors that lead to who has started it, with bits `1 << direction` for which way bytes may go.
    pub(crate) descriptors: Vec<(u32, u8)>,
    /// The C library's files.
    pub(crate) libraries: Vec<StdioLibrary>,
}

/// A C library of a process.
#[derive(Debug)]
pub(crate) struct StdioLibrary {
    pub(crate) file: File,
    /// Its path as the process sees it.
    pub(crate) path: Label,
    pub(crate) functions: Functions,
}

/// Who was looked at.
#[derive(Debug)]
pub(crate) struct StdioServers {
    proc_root: PathBuf,
    /// By number, when it was started: by number alone a new process would be taken for the one before it.
    known: HashMap<u32, Known>,
    peers: Option<Peers>,
    libraries: HashMap<FileKey, Functions>,
}

#[derive(Clone, Debug)]
struct Known {
    start_ticks: u64,
    state: State,
    /// System calls to read and write, and when that was counted.
    calls: Option<(u64, Instant)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    /// It looks like none, so far.
    Other,
    /// It looks like a server, whose ends were there.
    Found(Vec<(u32, u8)>),
    /// It is known to be one.
    Proven(Vec<(u32, u8)>),
    /// It is known to be none.
    Refuted,
}

/// What a descriptor leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum End {
    Pipe(u64),
    Socket(u64),
}

#[derive(Clone, Copy, Debug)]
struct Descriptor {
    number: u32,
    end: End,
    can: u8,
}

const READS: u8 = 1 << direction::RECEIVED;
const WRITES: u8 = 1 << direction::SENT;

impl StdioServers {
    pub(crate) fn new(proc_root: PathBuf) -> Self {
        Self { proc_root, known: HashMap::new(), peers: open_peers(), libraries: HashMap::new() }
    }

    /// Whether a process that has just begun has its standard input and output where one would find out more. Costs two readings.
    pub(crate) fn may_be_server(&self, pid: u32) -> bool {
        let leads_to_somebody = |number: u32| {
            let link = fs::read_link(files::process(&self.proc_root, pid).join(format!("fd/{number}")));
            link.is_ok_and(|link| end(link.as_os_str().as_bytes()).is_some())
        };
        leads_to_somebody(0) && leads_to_somebody(1)
    }

    /// Looks at a process that has started not long ago. Gives it if it was not found before, or has moved its ends since.
    pub(crate) fn look(&mut self, pid: u32) -> Option<StdioServer> {
        self.look_within(pid, &mut Descriptors::new(&self.proc_root.clone()))
    }

    fn look_within(&mut self, pid: u32, descriptors: &mut Descriptors) -> Option<StdioServer> {
        let stat = Stat::read(&self.proc_root, pid)?;
        let known = self.known.get(&pid).filter(|known| known.start_ticks == stat.start_ticks).cloned();
        let (before, calls) = known.map_or((None, None), |known| (Some(known.state), known.calls));
        if before == Some(State::Refuted) {
            return None;
        }
        let state = match (self.server_ends(pid, &stat, descriptors), &before) {
            (Some(ends), Some(State::Proven(_))) => State::Proven(ends),
            (Some(ends), _) => State::Found(ends),
            // Where the parent has ended, the pipes are what they were.
            (None, before) => before.clone().unwrap_or(State::Other),
        };
        let is_news = before.as_ref() != Some(&state);
        let server = match &state {
            State::Found(ends) | State::Proven(ends) if is_news => {
                let libraries = self.libraries(pid);
                let is_ready = !libraries.is_empty();
                is_ready.then(|| StdioServer { pid, descriptors: ends.clone(), libraries })
            }
            _ => None,
        };
        // On a busy machine the loader may not have come to the C library yet: it is found when it has.
        let state = if is_news && server.is_none() { before.unwrap_or(State::Other) } else { state };
        if self.known.len() < MAX_KNOWN || self.known.contains_key(&pid) {
            self.known.insert(pid, Known { start_ticks: stat.start_ticks, state, calls });
        }
        server
    }

    /// Looks at some of the processes: at those that were found, whether they have moved their ends, and at those that have not
    /// been looked at. Says, too, whether there are more of these.
    pub(crate) fn scan(&mut self) -> (Vec<StdioServer>, bool) {
        let pids = files::pids(&self.proc_root);
        self.known.retain(|pid, _| pids.binary_search(pid).is_ok());
        let is_found = |known: &Known| matches!(known.state, State::Found(_) | State::Proven(_));
        let found: Vec<u32> = self.known.iter().filter(|(_, known)| is_found(known)).map(|(pid, _)| *pid).collect();
        let unknown: Vec<u32> = pids.into_iter().filter(|pid| !self.known.contains_key(pid)).collect();
        let mut descriptors = Descriptors::new(&self.proc_root);
        let mut news = Vec::new();
        let end = files::cpu_time() + CPU_PER_SCAN;
        for pid in found.into_iter().chain(unknown) {
            if files::cpu_time() > end {
                return (news, true);
            }
            news.extend(self.look_within(pid, &mut descriptors));
        }
        (news, false)
    }

    /// Processes that are looked at in vain and pay for it; they are none from now on.
    pub(crate) fn give_up_busy(&mut self) -> Vec<u32> {
        let now = Instant::now();
        let mut busy = Vec::new();
        for (pid, known) in &mut self.known {
            if !matches!(known.state, State::Found(_)) {
                continue;
            }
            let Some(calls) = system_calls(&files::process(&self.proc_root, *pid)) else { continue };
            let (before, when) = *known.calls.get_or_insert((calls, now));
            let seconds = now.saturating_duration_since(when).as_secs_f64();
            if calls.saturating_sub(before) as f64 > MAX_UNPROVEN_CALLS * seconds.max(UNPROVEN_SECONDS) {
                known.state = State::Refuted;
                busy.push(*pid);
            } else if seconds >= UNPROVEN_SECONDS {
                known.calls = Some((calls, now));
            }
        }
        busy
    }

    /// The process speaks something else.
    pub(crate) fn refute(&mut self, pid: u32) {
        if let Some(known) = self.known.get_mut(&pid) {
            known.state = State::Refuted;
        }
    }

    /// The process does speak MCP.
    pub(crate) fn prove(&mut self, pid: u32) {
        if let Some(known) = self.known.get_mut(&pid)
            && let State::Found(ends) = &known.state
        {
            known.state = State::Proven(ends.clone());
        }
    }

    /// The process has ended, or executes another program.
    pub(crate) fn forget(&mut self, pid: u32) {
        self.known.remove(&pid);
    }

    /// All are to be looked at again.
    pub(crate) fn forget_all(&mut self) {
        self.known.clear();
    }

    /// A process's standard input and output, if their other ends are an ancestor's.
    fn server_ends(&self, pid: u32, stat: &Stat, descriptors: &mut Descriptors) -> Option<Vec<(u32, u8)>> {
        let is_hbpf = [std::process::id(), std::os::unix::process::parent_id()].contains(&pid);
        if stat.kernel_thread || stat.parent_pid <= 1 || is_hbpf {
            return None;
        }
        // Most are told by these already.
        let has_moved = has_moved(&self.proc_root, pid);
        if !has_moved && !self.may_be_server(pid) {
            return None;
        }
        let own = descriptors.of(pid);
        let mut ancestor = stat.parent_pid;
        for _ in 0..MAX_ANCESTORS {
            let ends = self.ends(has_moved, &own, &descriptors.of(ancestor));
            if !ends.is_empty() {
                return Some(ends);
            }
            ancestor = Stat::read(&self.proc_root, ancestor)?.parent_pid;
            if ancestor <= 1 {
                return None;
            }
        }
        None
    }

    /// Those of a process's descriptors that are its standard input and output, if the other ends are an ancestor's.
    fn ends(&self, has_moved: bool, own: &[Descriptor], theirs: &[Descriptor]) -> Vec<(u32, u8)> {
        let of_number = |number: u32| own.iter().find(|descriptor| descriptor.number == number);
        let goes = |descriptor: &Descriptor| self.goes_to(descriptor, own, theirs);
        let chosen: Vec<End> = if has_moved {
            // A server may have moved them out of the way of what its own code prints, as Python's SDK does.
            let errors = of_number(2).map(|descriptor| descriptor.end);
            let mut ends: Vec<End> = own
                .iter()
                .filter(|descriptor| Some(descriptor.end) != errors && goes(descriptor) != 0)
                .map(|descriptor| descriptor.end)
                .collect();
            ends.sort_unstable();
            ends.dedup();
            // Where there are more, it cannot be told which they are.
            if ends.len() <= 2 { ends } else { Vec::new() }
        } else {
            match (of_number(0), of_number(1)) {
                (Some(input), Some(output)) if goes(input) & READS != 0 && goes(output) & WRITES != 0 => {
                    vec![input.end, output.end]
                }
                _ => Vec::new(),
            }
        };
        let chosen: Vec<(u32, u8)> = own
            .iter()
            .filter(|descriptor| chosen.contains(&descriptor.end))
            .map(|descriptor| (descriptor.number, goes(descriptor)))
            .filter(|(_, can)| *can != 0)
            .collect();
        let all = chosen.iter().fold(0, |all, (_, can)| all | can);
        if all == READS | WRITES { chosen } else { Vec::new() }
    }

    /// Which ways bytes can go through a descriptor to or from one of theirs.
    fn goes_to(&self, descriptor: &Descriptor, own: &[Descriptor], theirs: &[Descriptor]) -> u8 {
        match descriptor.end {
            End::Pipe(_) => {
                let ways = |of: &[Descriptor]| {
                    of.iter().filter(|other| other.end == descriptor.end).fold(0, |can, other| can | other.can)
                };
                // A pipe that the process could talk to itself through is not how it talks to others.
                if ways(own) == READS | WRITES {
                    return 0;
                }
                let can = ways(theirs);
                // What one reads the other writes.
                descriptor.can & crossed(can & WRITES != 0, can & READS != 0)
            }
            End::Socket(inode) => {
                let peer = self.peers.as_ref().and_then(|peers| peers.peer(inode)).map(End::Socket);
                let is_theirs = peer.is_some() && theirs.iter().any(|other| Some(other.end) == peer);
                u8::from(is_theirs) * (READS | WRITES)
            }
        }
    }

    /// Where a process's `read` and `write` are. In glibc before 2.34 a library for threads had its own.
    fn libraries(&mut self, pid: u32) -> Vec<StdioLibrary> {
        let Ok(maps) = Maps::read(&self.proc_root, pid) else { return Vec::new() };
        let root = self.proc_root.clone();
        let mut opener = Opener::new(&root);
        let mut seen: Vec<&[u8]> = Vec::new();
        let mut found = Vec::new();
        for mapping in maps.executable.iter().filter(|mapping| is_c_library(mapping)) {
            if seen.contains(&mapping.path.as_slice()) || seen.len() >= MAX_C_LIBRARIES {
                continue;
            }
            seen.push(&mapping.path);
            if let Ok(mapped) = opener.open(pid, mapping) {
                let functions = self.functions(&mapped.file);
                found.push(StdioLibrary { file: mapped.file, path: Label::from_bytes(&mapping.path), functions });
            }
        }
        found
    }

    /// Where the functions of a library are; none where it is no library.
    fn functions(&mut self, file: &File) -> Functions {
        let Ok(metadata) = file.metadata() else { return Arc::default() };
        let key = (metadata.dev(), metadata.ino(), metadata.len(), metadata.mtime_nsec() ^ metadata.mtime());
        if let Some(known) = self.libraries.get(&key) {
            return Arc::clone(known);
        }
        if self.libraries.len() >= MAX_LIBRARIES {
            self.libraries.clear();
        }
        let functions = Arc::new(functions_in(file, metadata.len()).unwrap_or_default());
        self.libraries.insert(key, Arc::clone(&functions));
        functions
    }
}

/// Descriptors of processes, each looked at once: of several servers the ancestors are the same.
struct Descriptors {
    root: PathBuf,
    known: HashMap<u32, Arc<Vec<Descriptor>>>,
}

impl Descriptors {
    fn new(root: &Path) -> Self {
        Self { root: root.to_owned(), known: HashMap::new() }
    }

    fn of(&mut self, pid: u32) -> Arc<Vec<Descriptor>> {
        let look = || Arc::new(descriptors(&self.root, pid));
        Arc::clone(self.known.entry(pid).or_insert_with(look))
    }
}

/// `syscr` and `syscw` of `/proc/PID/io`.
fn system_calls(directory: &Path) -> Option<u64> {
    let contents = files::read(&directory.join("io"), 1024).ok()?;
    let value = |name: &[u8]| -> Option<u64> {
        let line = files::lines(&contents.bytes).find_map(|line| line.strip_prefix(name))?;
        files::number(line.trim_ascii())
    };
    Some(value(b"syscr:")?.saturating_add(value(b"syscw:")?))
}

/// Where the functions are in the file. It is read, and not mapped: one that shrinks would kill us.
fn functions_in(file: &File, length: u64) -> Option<Vec<(&'static str, u64)>> {
    let length = usize::try_from(length).ok().filter(|length| *length as u64 <= MAX_LIBRARY_BYTES)?;
    let mut bytes = vec![0; length];
    file.read_exact_at(&mut bytes, 0).ok()?;
    let library = ElfFile64::<NativeEndian>::parse(&*bytes).ok()?;
    let place = |name: &str| {
        let symbol = library.dynamic_symbols().find(|symbol| symbol.is_definition() && symbol.name() == Ok(name))?;
        let address = symbol.address();
        library.segments().find_map(|segment| {
            let within = address.checked_sub(segment.address()).filter(|within| *within < segment.size())?;
            segment.file_range().0.checked_add(within)
        })
    };
    Some(
        FUNCTIONS
            .iter()
            .filter_map(|(what, names)| Some((*what, names.iter().find_map(|name| place(name))?)))
            .collect(),
    )
}

/// Whether standard input leads nowhere, and standard output to where errors go.
fn has_moved(root: &Path, pid: u32) -> bool {
    let link = |number: u32| fs::read_link(files::process(root, pid).join(format!("fd/{number}"))).ok();
    link(0).is_some_and(|input| input.as_os_str() == "/dev/null") && link(1).is_some() && link(1) == link(2)
}

/// The ways that there are.
fn crossed(reads: bool, writes: bool) -> u8 {
    u8::from(reads) * READS + u8::from(writes) * WRITES
}

/// The pipes and sockets that a process has open.
fn descriptors(root: &Path, pid: u32) -> Vec<Descriptor> {
    let Ok(entries) = fs::read_dir(files::process(root, pid).join("fd")) else { return Vec::new() };
    let descriptor = |entry: fs::DirEntry| {
        let number = files::number(entry.file_name().as_bytes())?;
        let end = end(fs::read_link(entry.path()).ok()?.as_os_str().as_bytes())?;
        let mode = entry.metadata().ok()?.permissions().mode();
        Some(Descriptor { number, end, can: crossed(mode & 0o400 != 0, mode & 0o200 != 0) })
    };
    entries.take(MAX_DESCRIPTORS).flatten().filter_map(descriptor).collect()
}

/// `pipe:[123]` or `socket:[123]`
fn end(link: &[u8]) -> Option<End> {
    let inode = |kind: &[u8]| files::number(link.strip_prefix(kind)?.strip_prefix(b":[")?.strip_suffix(b"]")?);
    inode(b"pipe").map(End::Pipe).or_else(|| inode(b"socket").map(End::Socket))
}

fn is_c_library(mapping: &Mapping) -> bool {
    const NAMES: [&[u8]; 5] = [b"libc.so.", b"libc-2.", b"libpthread.so.", b"libpthread-2.", b"ld-musl-"];
    let name = mapping.path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
    NAMES.iter().any(|known| name.starts_with(known))
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;
    use std::os::unix::net::UnixStream;
    use std::process::{Child, Command, Stdio};

    use super::*;

    fn found(child: &Child) -> Option<StdioServer> {
        StdioServers::new("/proc".into()).look(child.id())
    }

    fn end_it(mut child: Child) {
        child.kill().unwrap();
        child.wait().unwrap();
    }

    fn waits(program: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", program]);
        command
    }

    /// Once the shell has done what stands before `sleep`.
    fn settle(child: &Child) {
        // By its name alone it may not have been loaded yet.
        let asleep =
            || fs::read_to_string(format!("/proc/{}/stat", child.id())).is_ok_and(|stat| stat.contains("(sleep) S"));
        for _ in 0..500 {
            if asleep() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        panic!("it does not sleep");
    }

    #[test]
    fn pipes_to_the_parent_are_found() {
        let child = waits("exec sleep 60").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        settle(&child);
        let server = found(&child).expect("it is found");
        assert_eq!(server.descriptors, [(0, READS), (1, WRITES)]);
        let paths: Vec<_> = server.libraries.iter().map(|library| library.path.as_str()).collect();
        let functions: Vec<_> =
            server.libraries.iter().flat_map(|library| library.functions.iter()).map(|(name, _)| *name).collect();
        assert!(FUNCTIONS.iter().all(|(name, _)| functions.contains(name)), "{functions:?}");
        assert!(paths.iter().any(|path| path.contains("libc.so.6") || path.contains("musl")), "{paths:?}");
        let mut servers = StdioServers::new("/proc".into());
        assert!(servers.look(child.id()).is_some());
        assert!(servers.look(child.id()).is_none(), "once");
        assert!(servers.scan().0.iter().all(|server| server.pid != child.id()));
        servers.forget(child.id());
        assert!(servers.scan().0.iter().any(|server| server.pid == child.id()));
        servers.forget(child.id());
        servers.look(child.id());
        servers.refute(child.id());
        assert!(servers.look(child.id()).is_none());
        end_it(child);
    }

    #[test]
    fn one_that_is_not_loaded_yet_is_found_when_it_is() {
        use std::os::unix::process::CommandExt;

        use nix::libc;

        let mut command = waits("exec sleep 60");
        // SAFETY: the call touches no memory. The child stops when it has executed the program, before its loader runs.
        unsafe {
            command.pre_exec(|| {
                libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0);
                Ok(())
            })
        };
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let pid = child.id().cast_signed();
        let mut status = 0;
        // SAFETY: `status` is ours.
        assert_eq!(unsafe { libc::waitpid(pid, &mut status, 0) }, pid);
        assert!(libc::WIFSTOPPED(status), "{status}");
        let mut servers = StdioServers::new("/proc".into());
        assert!(servers.look(child.id()).is_none(), "it has no C library yet");
        // SAFETY: the child is stopped and ours to let go.
        unsafe { libc::ptrace(libc::PTRACE_DETACH, pid, 0, 0) };
        settle(&child);
        assert!(servers.look(child.id()).is_some());
        end_it(child);
    }

    #[test]
    fn a_socket_pair_is_found() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (ours_too, theirs_too) = UnixStream::pair().unwrap();
        let child = waits("exec sleep 60")
            .stdin(OwnedFd::from(theirs))
            .stdout(OwnedFd::from(theirs_too))
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        settle(&child);
        let server = found(&child).expect("it is found");
        assert_eq!(server.descriptors, [(0, READS | WRITES), (1, READS | WRITES)]);
        end_it(child);
        drop((ours, ours_too));
    }

    #[test]
    fn ends_that_a_server_has_moved_are_found() {
        let moved = "exec 5<&0 6>&1 </dev/null >&2; exec sleep 60";
        let child = waits(moved).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        settle(&child);
        assert_eq!(found(&child).expect("it is found").descriptors, [(5, READS), (6, WRITES)]);
        end_it(child);
    }

    #[test]
    fn who_was_started_by_a_package_runner_is_found() {
        let nested = "sh -c 'sh -c \"exec sleep 60\"; true'; true";
        let child = waits(nested).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let innermost = || {
            let mut pid = child.id();
            for _ in 0..2 {
                let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
                pid = children.split_whitespace().next()?.parse().ok()?;
            }
            fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm == "sleep\n").then_some(pid)
        };
        let pid = (0..500).find_map(|_| {
            std::thread::sleep(std::time::Duration::from_millis(10));
            innermost()
        });
        let pid = pid.expect("it sleeps");
        let server = StdioServers::new("/proc".into()).look(pid).expect("it is found");
        assert_eq!(server.descriptors, [(0, READS), (1, WRITES)]);
        // SAFETY: a signal to a process of this test.
        unsafe { nix::libc::kill(pid as i32, nix::libc::SIGKILL) };
        end_it(child);
    }

    #[test]
    fn those_of_a_pipeline_or_a_terminal_are_not() {
        let child = waits("exec sleep 60").stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        settle(&child);
        assert!(found(&child).is_none(), "it reads nothing");
        end_it(child);
        assert!(StdioServers::new("/proc".into()).look(u32::MAX).is_none());
    }

    #[test]
    fn links_are_ends_or_not() {
        assert_eq!(end(b"pipe:[12]"), Some(End::Pipe(12)));
        assert_eq!(end(b"socket:[7]"), Some(End::Socket(7)));
        for other in [&b"/dev/null"[..], b"pipe:[x]", b"pipe:[", b"anon_inode:[eventfd]", b"socket:[1"] {
            assert_eq!(end(other), None);
        }
    }

    #[test]
    fn who_reads_and_writes_without_end_is_given_up_and_a_quiet_one_is_not() {
        /// It would not end by itself.
        struct Killed(Child);
        impl Drop for Killed {
            fn drop(&mut self) {
                let _ = self.0.kill();
                let _ = self.0.wait();
            }
        }
        let spawn = |program: &str| {
            let mut command = Command::new(program);
            Killed(command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap())
        };
        let quiet = spawn("cat");
        let mut loud = spawn("yes");
        let mut said = loud.0.stdout.take().unwrap();
        let reader = std::thread::spawn(move || std::io::copy(&mut said, &mut std::io::sink()));
        let mut servers = StdioServers::new("/proc".into());
        let give_up = Instant::now() + Duration::from_secs(30);
        for Killed(child) in [&quiet, &loud] {
            while servers.look(child.id()).is_none() {
                assert!(Instant::now() < give_up, "it looks like a server");
            }
        }
        let mut busy = Vec::new();
        while busy.is_empty() && Instant::now() < give_up {
            busy = servers.give_up_busy();
        }
        let expected = loud.0.id();
        drop((quiet, loud));
        reader.join().unwrap().unwrap();
        assert_eq!(busy, [expected]);
    }
}
