//! Which process holds a socket.
//!
//! The kernel says which process created a socket, and for an accepted one that is the listener's creator: with a
//! prefork server not the process that answers. The descriptor tables under `/proc/PID/fd` know better while the socket is
//! open; the kernel side tells who has closed it.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::time::{Duration, Instant};

use hbpf_ebpf::DEFERRED_HANDLE;

use super::budget::Budget;
use super::diag::{self, Diag, Ends};
use super::files;
use super::stat::Stat;
use crate::protocol::{MAX_PROCESSES, SocketQuery};

/// Descriptors looked at per process, at about 2 us each. Proxies have tens of thousands.
pub(super) const MAX_DESCRIPTORS: usize = 65_536;

/// Network namespaces looked through for a connection that nobody is known for.
const MAX_NAMESPACES: usize = 32;

/// How long an answer, and the tree of processes, is taken for true.
const FRESH: Duration = Duration::from_secs(1);

/// Answers kept.
const MAX_ANSWERS: usize = 4096;

/// CPU time that may be spent at once, and the share of all time in the long run: what is not found within it is not
/// found. A server with thousands of connections a second must not make the helper a load of its own.
const BURST: Duration = Duration::from_millis(500);
const SHARE: f64 = 0.05;

#[derive(Debug)]
pub(super) struct Owners {
    /// Open from the start: what hbpf holds shall not depend on what it has met.
    diag: Option<Diag>,
    answers: HashMap<u64, Answer>,
    tree: Option<(Instant, HashMap<u32, Vec<u32>>)>,
    budget: Budget,
}

#[derive(Debug)]
struct Answer {
    pid: u32,
    start_ticks: u64,
    when: Instant,
}

impl Answer {
    /// The process, if it is still the same and the answer not old.
    fn if_true(&self, root: &Path) -> Option<u32> {
        let is_fresh = self.when.elapsed() < FRESH;
        (is_fresh && Stat::read(root, self.pid)?.start_ticks == self.start_ticks).then_some(self.pid)
    }
}

/// A socket that is looked for.
struct Wanted {
    cookie: u64,
    hint: u32,
    inode: u64,
}

impl Default for Owners {
    fn default() -> Self {
        Self { diag: Diag::open(), answers: HashMap::new(), tree: None, budget: Budget::new(SHARE, BURST) }
    }
}

impl Owners {
    pub(super) fn find(&mut self, root: &Path, queries: &[SocketQuery]) -> Vec<(u64, u32)> {
        self.budget.begin();
        let queries = &queries[..queries.len().min(MAX_PROCESSES)];
        let mut owners = HashMap::new();
        let mut open = Vec::new();
        for wanted in self.inodes(root, queries) {
            match self.remembered(root, wanted.inode) {
                Some(pid) => _ = owners.insert(wanted.cookie, pid),
                None => open.push(wanted),
            }
        }
        // First where it is likely: with the hint and its descendants, then with anyone.
        let mut holders = HashMap::new();
        let families: HashSet<u32> = open.iter().map(|wanted| wanted.hint).filter(|hint| *hint != 0).collect();
        for hint in families {
            let inodes = open.iter().filter(|wanted| wanted.hint == hint).map(|wanted| wanted.inode).collect();
            let family = self.family(root, hint);
            self.search(root, &family, &inodes, &mut holders);
        }
        let missing: HashSet<u64> =
            open.iter().map(|wanted| wanted.inode).filter(|inode| !holders.contains_key(inode)).collect();
        if !missing.is_empty() {
            self.search(root, &files::pids(root), &missing, &mut holders);
        }
        for wanted in open {
            let held_by = holders.get(&wanted.inode).map_or(&[][..], Vec::as_slice);
            if let Some((pid, start_ticks)) = choose(root, wanted.hint, held_by) {
                owners.insert(wanted.cookie, pid);
                self.remember(wanted.inode, Answer { pid, start_ticks, when: Instant::now() });
            }
        }
        self.budget.end();
        owners.into_iter().collect()
    }

    /// Sockets that have an inode, which is to say: that someone holds.
    fn inodes(&mut self, root: &Path, queries: &[SocketQuery]) -> Vec<Wanted> {
        let mut found = Vec::new();
        let mut elsewhere: Vec<(&SocketQuery, Ends)> = Vec::new();
        for query in queries {
            let ends = diag::ends(query.local, query.remote);
            let cookie = if query.cookie & DEFERRED_HANDLE == 0 { query.cookie } else { diag::ANY_COOKIE };
            match self.diag.as_ref().and_then(|diag| diag.inode(ends, cookie)) {
                Some(inode) => found.push(Wanted { cookie: query.cookie, hint: query.hint, inode }),
                None => elsewhere.push((query, ends)),
            }
        }
        // Socket diagnosis speaks for one network namespace; the others are asked through a process within.
        let namespaces = if elsewhere.is_empty() {
            Vec::new()
        } else {
            let hints: Vec<u32> = elsewhere.iter().map(|(query, _)| query.hint).collect();
            self.namespaces(root, &hints, hints.contains(&0))
        };
        for (pid, everyone) in namespaces {
            if !self.budget.is_left() {
                break;
            }
            let asked = |query: &SocketQuery| everyone || query.hint == pid;
            let mut wanted: HashMap<Ends, Option<u64>> =
                elsewhere.iter().filter(|(query, _)| asked(query)).map(|(_, ends)| (*ends, None)).collect();
            diag::from_tables(root, pid, &mut wanted);
            elsewhere.retain(|(query, ends)| {
                let Some(inode) = wanted.get(ends).copied().flatten().filter(|_| asked(query)) else { return true };
                found.push(Wanted { cookie: query.cookie, hint: query.hint, inode });
                false
            });
        }
        found
    }

    /// One process in each network namespace to look in, and whether for everything that is asked or only for what it
    /// is itself the hint of: the same addresses can be in use in two namespaces.
    fn namespaces(&mut self, root: &Path, hints: &[u32], everyone: bool) -> Vec<(u32, bool)> {
        let hints: HashSet<u32> = hints.iter().copied().filter(|hint| *hint != 0).collect();
        let mut places: Vec<(u32, bool)> = hints.into_iter().map(|hint| (hint, false)).collect();
        if everyone {
            let mut seen = HashSet::new();
            for pid in files::pids(root) {
                if seen.len() == MAX_NAMESPACES || !self.budget.is_left() {
                    break;
                }
                let namespace = std::fs::read_link(files::process(root, pid).join("ns/net"));
                if namespace.is_ok_and(|namespace| seen.insert(namespace)) {
                    places.push((pid, true));
                }
            }
        }
        places
    }

    fn remembered(&self, root: &Path, inode: u64) -> Option<u32> {
        self.answers.get(&inode)?.if_true(root)
    }

    fn remember(&mut self, inode: u64, answer: Answer) {
        if self.answers.len() >= MAX_ANSWERS {
            self.answers.retain(|_, answer| answer.when.elapsed() < FRESH);
            if self.answers.len() >= MAX_ANSWERS {
                self.answers.clear();
            }
        }
        self.answers.insert(inode, answer);
    }

    /// A process and all its descendants.
    fn family(&mut self, root: &Path, pid: u32) -> Vec<u32> {
        if self.tree.as_ref().is_none_or(|(when, _)| when.elapsed() >= FRESH) {
            let mut tree: HashMap<u32, Vec<u32>> = HashMap::new();
            for pid in files::pids(root) {
                if !self.budget.is_left() {
                    break;
                }
                if let Some(stat) = Stat::read(root, pid) {
                    tree.entry(stat.parent_pid).or_default().push(pid);
                }
            }
            self.tree = Some((Instant::now(), tree));
        }
        let mut family = vec![pid];
        // A tree read while it changes could hold a circle.
        let mut seen = HashSet::from([pid]);
        let mut next = 0;
        while let Some(parent) = family.get(next).copied() {
            let children = self.tree.as_ref().and_then(|(_, tree)| tree.get(&parent)).into_iter().flatten();
            family.extend(children.filter(|child| seen.insert(**child)));
            next += 1;
        }
        family
    }

    /// Adds, for each of these inodes, those of these processes that hold it.
    fn search(&mut self, root: &Path, pids: &[u32], inodes: &HashSet<u64>, holders: &mut HashMap<u64, Vec<u32>>) {
        for pid in pids {
            if !self.budget.is_left() {
                return;
            }
            let Ok(entries) = std::fs::read_dir(files::process(root, *pid).join("fd")) else { continue };
            let links =
                entries.take(MAX_DESCRIPTORS).flatten().filter_map(|entry| std::fs::read_link(entry.path()).ok());
            for inode in links.filter_map(|link| socket_inode(link.as_os_str().as_encoded_bytes())) {
                let held_by = if inodes.contains(&inode) { holders.entry(inode).or_default() } else { continue };
                // A process can hold it under two numbers.
                if !held_by.contains(pid) {
                    held_by.push(*pid);
                }
            }
        }
    }
}

/// `socket:[INODE]`
pub(super) fn socket_inode(link: &[u8]) -> Option<u64> {
    files::number(link.strip_prefix(b"socket:[")?.strip_suffix(b"]")?)
}

/// Of those that hold a socket, the one that works with it.
///
/// Where a hint is given it made the listener: whoever else holds the connection got it by being its child, and the
/// youngest got it last. Where none is given, the oldest has it of its own, and others inherited it.
fn choose(root: &Path, hint: u32, held_by: &[u32]) -> Option<(u32, u64)> {
    let started = held_by.iter().filter_map(|pid| Some((*pid, Stat::read(root, *pid)?.start_ticks)));
    if hint == 0 {
        return started.min_by_key(|(pid, start)| (*start, *pid));
    }
    started.max_by_key(|(pid, start)| (*pid != hint, *start, *pid))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::stat::tests::line;
    use super::*;

    fn process(root: &Path, pid: u32, parent: u32, start: u64, sockets: &[u64]) {
        let dir = root.join(pid.to_string());
        fs::create_dir_all(dir.join("fd")).unwrap();
        fs::write(dir.join("stat"), line(pid, "x", parent, 0, start, 1)).unwrap();
        for (fd, inode) in sockets.iter().enumerate() {
            std::os::unix::fs::symlink(format!("socket:[{inode}]"), dir.join("fd").join(fd.to_string())).unwrap();
        }
    }

    fn table(root: &Path, pid: u32, lines: &str) {
        fs::create_dir_all(root.join(pid.to_string()).join("net")).unwrap();
        fs::write(root.join(pid.to_string()).join("net/tcp"), lines).unwrap();
    }

    fn query(hint: u32) -> SocketQuery {
        // A cookie that no socket of the machine has, so that only the tables answer.
        let cookie = u64::MAX - 1;
        SocketQuery {
            cookie,
            hint,
            local: "127.0.0.1:8080".parse().unwrap(),
            remote: "10.0.0.2:50000".parse().unwrap(),
        }
    }

    #[cfg(target_endian = "little")]
    const CONNECTION: &str = "junk\n 1: 0100007F:1F90 0200000A:C350 01 0:0 0:0 0 0 0 4711 1\n";

    fn owner(root: &Path, hint: u32) -> Option<u32> {
        let found = Owners::default().find(root, &[query(hint)]);
        found.first().map(|(cookie, pid)| (*cookie == u64::MAX - 1).then_some(*pid).unwrap())
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn of_several_holders_the_youngest_child_of_the_hint_is_meant() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        process(root, 10, 1, 100, &[1, 4711]);
        table(root, 10, CONNECTION);
        assert_eq!(owner(root, 10), Some(10), "the hint alone");
        process(root, 11, 10, 200, &[4711, 4711]);
        process(root, 12, 11, 300, &[2, 4711]);
        process(root, 13, 1, 400, &[4711]);
        assert_eq!(owner(root, 10), Some(12), "a grandchild");
        fs::create_dir_all(root.join("10/ns")).unwrap();
        std::os::unix::fs::symlink("net:[1]", root.join("10/ns/net")).unwrap();
        assert_eq!(owner(root, 0), Some(10), "without a hint the oldest");
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn a_stranger_can_hold_it_and_circles_end() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        process(root, 10, 11, 100, &[]);
        process(root, 11, 10, 100, &[]);
        process(root, 50, 1, 100, &[4711]);
        table(root, 10, CONNECTION);
        assert_eq!(owner(root, 10), Some(50));
        assert_eq!(owner(root, 99), None, "a hint that is gone");
    }

    #[test]
    fn links_are_sockets_or_not() {
        assert_eq!(socket_inode(b"socket:[4711]"), Some(4711));
        for link in
            ["socket:[]", "socket:[x]", "socket:[+1]", "pipe:[1]", "/tmp/socket:[1]", "socket:[99999999999999999999]"]
        {
            assert_eq!(socket_inode(link.as_bytes()), None, "{link}");
        }
    }

    #[test]
    fn a_spent_budget_finds_nothing_more() {
        let dir = tempfile::tempdir().unwrap();
        process(dir.path(), 10, 1, 100, &[4711]);
        let mut owners = Owners::default();
        owners.budget.spend();
        let mut holders = HashMap::new();
        owners.search(dir.path(), &[10], &HashSet::from([4711]), &mut holders);
        assert!(holders.is_empty());
    }
}
