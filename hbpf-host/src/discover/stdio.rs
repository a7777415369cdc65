//! Finds processes whose standard input and output lead to who has started them, as those of MCP servers do, and the C library
//! through which they read and write.
//!
//! A process is looked at by its descriptors: what it reads, an ancestor writes, and the other way round. Pipes tell that by
//! their inodes, socket pairs (node's children have them) by the kernel's word on who the peer is. Whether they speak MCP is
//! for those to find out who see what passes; most that look so do not.

use std::collections::HashMap;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hbpf_core::label::Label;
use hbpf_ebpf::direction;

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

/// A process that may serve tools.
#[derive(Debug)]
pub(crate) struct StdioServer {
    pub(crate) pid: u32,
    /// Its descriptors that lead to who has started it, with bits `1 << direction` for which way bytes may go.
    pub(crate) descriptors: Vec<(u32, u8)>,
    /// The C library's files, and their paths as the process sees them.
    pub(crate) libraries: Vec<(File, Label)>,
}

/// Who was looked at.
#[derive(Debug)]
pub(crate) struct StdioServers {
    proc_root: PathBuf,
    /// By number, when it was started: by number alone a new process would be taken for the one before it.
    known: HashMap<u32, Known>,
    peers: Option<Peers>,
}

#[derive(Clone, Debug)]
struct Known {
    start_ticks: u64,
    state: State,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    /// It looks like none, so far.
    Other,
    /// It looks like a server, whose ends were there.
    Found(Vec<(u32, u8)>),
    /// It is known to be none.
    Refuted,
}

/// What a descriptor leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
        Self { proc_root, known: HashMap::new(), peers: open_peers() }
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
        let stat = Stat::read(&self.proc_root, pid)?;
        let known = self.known.get(&pid).filter(|known| known.start_ticks == stat.start_ticks);
        let before = known.map(|known| known.state.clone());
        if before == Some(State::Refuted) {
            return None;
        }
        let found = self.server(pid, &stat);
        let state = match &found {
            Some(server) => State::Found(server.descriptors.clone()),
            // Where the parent has ended, the pipes are what they were.
            None => before.clone().unwrap_or(State::Other),
        };
        let is_news = before.as_ref() != Some(&state);
        if self.known.len() < MAX_KNOWN || self.known.contains_key(&pid) {
            self.known.insert(pid, Known { start_ticks: stat.start_ticks, state });
        }
        found.filter(|_| is_news)
    }

    /// Looks at some of the processes that have not been looked at, and at those that were found.
    pub(crate) fn scan(&mut self) -> Vec<StdioServer> {
        let pids = files::pids(&self.proc_root);
        self.known.retain(|pid, _| pids.binary_search(pid).is_ok());
        let is_found = |known: &Known| matches!(known.state, State::Found(_));
        let found: Vec<u32> = self.known.iter().filter(|(_, known)| is_found(known)).map(|(pid, _)| *pid).collect();
        let mut news: Vec<StdioServer> = found.into_iter().filter_map(|pid| self.look(pid)).collect();
        let end = files::cpu_time() + CPU_PER_SCAN;
        for pid in pids {
            if !self.known.contains_key(&pid) {
                news.extend(self.look(pid));
                if files::cpu_time() > end {
                    break;
                }
            }
        }
        news
    }

    /// The process speaks something else.
    pub(crate) fn refute(&mut self, pid: u32) {
        if let Some(known) = self.known.get_mut(&pid) {
            known.state = State::Refuted;
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

    fn server(&self, pid: u32, stat: &Stat) -> Option<StdioServer> {
        let is_hbpf = [std::process::id(), std::os::unix::process::parent_id()].contains(&pid);
        if stat.kernel_thread || stat.parent_pid <= 1 || is_hbpf {
            return None;
        }
        let own = descriptors(&self.proc_root, pid);
        if own.is_empty() {
            return None;
        }
        let mut ancestor = stat.parent_pid;
        for _ in 0..MAX_ANCESTORS {
            let theirs = descriptors(&self.proc_root, ancestor);
            let descriptors = self.ends(pid, &own, &theirs);
            if !descriptors.is_empty() {
                let libraries = libraries(&self.proc_root, pid);
                return (!libraries.is_empty()).then_some(StdioServer { pid, descriptors, libraries });
            }
            ancestor = Stat::read(&self.proc_root, ancestor)?.parent_pid;
            if ancestor <= 1 {
                return None;
            }
        }
        None
    }

    /// Those of a process's descriptors that are its standard input and output, if the other ends are an ancestor's.
    fn ends(&self, pid: u32, own: &[Descriptor], theirs: &[Descriptor]) -> Vec<(u32, u8)> {
        let shared = |descriptor: &&Descriptor| self.goes_to(descriptor, theirs) != 0;
        let mut input = None;
        let mut output = None;
        for descriptor in own.iter().filter(shared) {
            let can = self.goes_to(descriptor, theirs);
            match descriptor.number {
                0 if can & READS != 0 => input = Some(descriptor.end),
                1 if can & WRITES != 0 => output = Some(descriptor.end),
                _ => {}
            }
        }
        let is_chosen: Box<dyn Fn(End) -> bool> = match (input, output) {
            (Some(input), Some(output)) => Box::new(move |end| end == input || end == output),
            // A server may have moved them out of the way of what its own code prints, as Python's SDK does.
            _ if has_moved(&self.proc_root, pid) => {
                let errors = own.iter().find(|descriptor| descriptor.number == 2).map(|descriptor| descriptor.end);
                Box::new(move |end| Some(end) != errors)
            }
            _ => return Vec::new(),
        };
        let chosen: Vec<(u32, u8)> = own
            .iter()
            .filter(|descriptor| is_chosen(descriptor.end))
            .map(|descriptor| (descriptor.number, self.goes_to(descriptor, theirs)))
            .filter(|(_, can)| *can != 0)
            .collect();
        let all = chosen.iter().fold(0, |all, (_, can)| all | can);
        if all == READS | WRITES { chosen } else { Vec::new() }
    }

    /// Which ways bytes can go through a descriptor to or from one of theirs.
    fn goes_to(&self, descriptor: &Descriptor, theirs: &[Descriptor]) -> u8 {
        match descriptor.end {
            End::Pipe(_) => {
                let others = theirs.iter().filter(|other| other.end == descriptor.end);
                let can = others.fold(0, |can, other| can | other.can);
                // What one reads the other writes.
                descriptor.can & ways(can & WRITES != 0, can & READS != 0)
            }
            End::Socket(inode) => {
                let peer = self.peers.as_ref().and_then(|peers| peers.peer(inode)).map(End::Socket);
                let is_theirs = peer.is_some() && theirs.iter().any(|other| Some(other.end) == peer);
                u8::from(is_theirs) * (READS | WRITES)
            }
        }
    }
}

/// Whether standard input leads nowhere, and standard output to where errors go.
fn has_moved(root: &Path, pid: u32) -> bool {
    let link = |number: u32| fs::read_link(files::process(root, pid).join(format!("fd/{number}"))).ok();
    link(0).is_some_and(|input| input.as_os_str() == "/dev/null") && link(1).is_some() && link(1) == link(2)
}

fn ways(reads: bool, writes: bool) -> u8 {
    u8::from(reads) * READS + u8::from(writes) * WRITES
}

/// The pipes and sockets that a process has open.
fn descriptors(root: &Path, pid: u32) -> Vec<Descriptor> {
    let Ok(entries) = fs::read_dir(files::process(root, pid).join("fd")) else { return Vec::new() };
    let descriptor = |entry: fs::DirEntry| {
        let number = files::number(entry.file_name().as_bytes())?;
        let end = end(fs::read_link(entry.path()).ok()?.as_os_str().as_bytes())?;
        let mode = entry.metadata().ok()?.permissions().mode();
        Some(Descriptor { number, end, can: ways(mode & 0o400 != 0, mode & 0o200 != 0) })
    };
    entries.take(MAX_DESCRIPTORS).flatten().filter_map(descriptor).collect()
}

/// `pipe:[123]` or `socket:[123]`
fn end(link: &[u8]) -> Option<End> {
    let inode = |kind: &[u8]| files::number(link.strip_prefix(kind)?.strip_prefix(b":[")?.strip_suffix(b"]")?);
    inode(b"pipe").map(End::Pipe).or_else(|| inode(b"socket").map(End::Socket))
}

/// Where a process's `read` and `write` are. In glibc before 2.34 a library for threads had its own.
fn libraries(root: &Path, pid: u32) -> Vec<(File, Label)> {
    let Ok(maps) = Maps::read(root, pid) else { return Vec::new() };
    let mut opener = Opener::new(root);
    let mut found = Vec::new();
    let mut seen: Vec<Vec<u8>> = Vec::new();
    for mapping in maps.executable.iter().filter(|mapping| is_c_library(mapping)) {
        if seen.contains(&mapping.path) {
            continue;
        }
        seen.push(mapping.path.clone());
        if let Ok(mapped) = opener.open(pid, mapping) {
            found.push((mapped.file, Label::from_bytes(&mapping.path)));
        }
    }
    found
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
        let asleep = || fs::read_to_string(format!("/proc/{}/comm", child.id())).is_ok_and(|comm| comm == "sleep\n");
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
        let paths: Vec<_> = server.libraries.iter().map(|(_, path)| path.as_str()).collect();
        assert!(paths.iter().any(|path| path.contains("libc.so.6") || path.contains("musl")), "{paths:?}");
        let mut servers = StdioServers::new("/proc".into());
        assert!(servers.look(child.id()).is_some());
        assert!(servers.look(child.id()).is_none(), "once");
        assert!(servers.scan().iter().all(|server| server.pid != child.id()));
        servers.forget(child.id());
        assert!(servers.scan().iter().any(|server| server.pid == child.id()));
        servers.forget(child.id());
        servers.look(child.id());
        servers.refute(child.id());
        assert!(servers.look(child.id()).is_none());
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
}
