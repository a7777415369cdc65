//! Which processes may be inference servers, and where they listen.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::net::SocketAddr;
use std::os::linux::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use hbpf_core::inference::EngineKind;

use super::budget::Budget;
use super::owners::{MAX_DESCRIPTORS, socket_inode};
use super::stat::Stat;
use super::{command, command_of, diag, executable, files};
use crate::protocol::{Listener, MAX_LISTENERS, MAX_PROCESSES, Server, Suspect};

/// Sockets whose descriptors are remembered.
const MAX_REMEMBERED: usize = 1024;

/// Names of programs, scripts and modules. Of a module what lies below counts, too, and of a program what is appended: vLLM
/// calls the process that answers `VLLM::APIServer` and TGI's has its backend behind its name.
const NAMES: [(&str, EngineKind); 9] = [
    ("vllm", EngineKind::Vllm),
    ("VLLM::APIServer", EngineKind::Vllm),
    ("sglang", EngineKind::SgLang),
    ("text-generation-router", EngineKind::Tgi),
    ("text-generation-launcher", EngineKind::Tgi),
    ("llama-server", EngineKind::LlamaCpp),
    ("ollama", EngineKind::Ollama),
    ("tritonserver", EngineKind::Triton),
    ("litellm", EngineKind::LiteLlm),
];

/// Subcommands of those programs that are no servers, or none that is asked: Ollama's runners answer to Ollama.
const OTHERS: [&str; 2] = ["runner", "bench"];

/// The ports at which each tells of itself unless it is told otherwise.
fn usual_ports(kind: EngineKind) -> &'static [u16] {
    match kind {
        EngineKind::Vllm => &[8000],
        EngineKind::SgLang => &[30000],
        // Its own, that of its image, and one for metrics alone.
        EngineKind::Tgi => &[3000, 80, 9000],
        EngineKind::LlamaCpp => &[8080],
        EngineKind::Ollama => &[11434],
        // For metrics alone; those for requests are others.
        EngineKind::Triton => &[8002],
        EngineKind::LiteLlm => &[4000],
    }
}

/// What a process is by the words under which it is shown.
fn kind_of(shown: &str) -> Option<EngineKind> {
    let mut words = shown.split(' ');
    let is = |word: &str, name: &str| {
        let rest = word.strip_prefix(name);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '_', '-', ':']))
    };
    let kind = words.find_map(|word| NAMES.iter().find(|(name, _)| is(word, name)).map(|(_, kind)| *kind))?;
    (!words.any(|word| OTHERS.contains(&word))).then_some(kind)
}

/// Whether it is worth the while to read the command line: of most processes what they run says that they are none of these.
/// (That line is in the process's own memory, which may be a file whose owner never lets anybody read on.)
fn may_be_server(comm: &[u8], executable: Option<&[u8]>) -> bool {
    let program = executable.and_then(|path| path.rsplit(|byte| *byte == b'/').next()).unwrap_or_default();
    [comm, program].into_iter().map(String::from_utf8_lossy).any(|name| {
        let has_interpreter = INTERPRETERS.iter().any(|interpreter| name.starts_with(interpreter));
        has_interpreter || kind_of(&name).is_some()
    })
}

/// What runs servers that are no programs of their own.
const INTERPRETERS: [&str; 2] = ["python", "pypy"];

/// Whether an argument of a command line names a port: `8000`, `--port=8000` or `0.0.0.0:8000`.
fn names_port(command_line: &[u8], port: u16) -> bool {
    let port = port.to_string();
    command_line.split(|byte| *byte == 0).any(|argument| {
        let before = argument.strip_suffix(port.as_bytes());
        before.is_some_and(|before| before.last().is_none_or(|byte| matches!(byte, b'=' | b':')))
    })
}

/// CPU time that may be spent at once, and the share of all time in the long run. A process takes some 30 us, one with many
/// descriptors milliseconds.
const BURST: Duration = Duration::from_millis(500);
const SHARE: f64 = 0.05;

/// What looking at suspects has come to.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub(crate) servers: Vec<Server>,
    /// There was no time left for them.
    pub(crate) not_looked_at: Vec<u32>,
}

/// The bound on what looking may cost is reached.
#[derive(Debug)]
pub(crate) struct Spent;

/// Looks for servers, and remembers under which descriptors they hold their sockets.
#[derive(Debug)]
pub(super) struct Listeners {
    /// By process and inode.
    descriptors: HashMap<(u32, u64), u32>,
    budget: Budget,
}

impl Default for Listeners {
    fn default() -> Self {
        Self { descriptors: HashMap::new(), budget: Budget::new(SHARE, BURST) }
    }
}

impl Listeners {
    /// Those of the suspects that have the name of a server, or serve.
    pub(super) fn find(&mut self, root: &Path, suspects: &[Suspect]) -> Found {
        self.budget.begin();
        let mut found = Found::default();
        for suspect in suspects.iter().take(MAX_PROCESSES) {
            match self.look(root, *suspect) {
                Ok(server) => found.servers.extend(server),
                Err(Spent) => found.not_looked_at.push(suspect.pid),
            }
        }
        self.budget.end();
        found
    }

    fn look(&self, root: &Path, suspect: Suspect) -> Result<Option<Server>, Spent> {
        self.has_time()?;
        let Suspect { pid, serves } = suspect;
        let directory = files::process(root, pid);
        let Some(stat) = Stat::read_in(&directory).filter(|stat| !stat.kernel_thread) else { return Ok(None) };
        let executable = executable(&directory);
        if !serves && !may_be_server(&stat.comm, executable.as_deref()) {
            return Ok(None);
        }
        let shown = command_of(&directory, &stat, executable.as_deref());
        let kind = kind_of(&shown);
        if kind.is_none() && !serves {
            return Ok(None);
        }
        let listening = diag::listening(root, pid);
        let held = self.held(root, pid, &listening.iter().map(|(_, inode)| *inode).collect())?;
        let is_held = |(address, inode): (SocketAddr, u64)| held.contains_key(&inode).then_some(address);
        let mut listeners: Vec<SocketAddr> = listening.into_iter().filter_map(is_held).collect();
        listeners.sort_unstable();
        listeners.dedup();
        let is_only_one = listeners.len() == 1;
        let line = files::read(&directory.join("cmdline"), command::MAX_COMMAND_LINE_BYTES).map(|file| file.bytes);
        let line = line.unwrap_or_default();
        let is_expected = |port: u16| {
            kind.is_some_and(|kind| is_only_one || usual_ports(kind).contains(&port) || names_port(&line, port))
        };
        let mut listeners: Vec<Listener> =
            listeners.into_iter().map(|address| Listener { address, expected: is_expected(address.port()) }).collect();
        // Of too many those that are of use.
        listeners.sort_by_key(|listener| !listener.expected);
        listeners.truncate(MAX_LISTENERS);
        let server = |namespace| Server { pid, start_time_ns: stat.start_time_ns(), kind, namespace, listeners };
        Ok(namespace(root, pid).map(server))
    }

    /// Which of these sockets the process holds, with its descriptors. How many sockets and descriptors there are is up to
    /// others: so each descriptor is read once for all sockets, and only while there is time.
    fn held(&self, root: &Path, pid: u32, sockets: &HashSet<u64>) -> Result<HashMap<u64, u32>, Spent> {
        let mut held = HashMap::new();
        let entries = fs::read_dir(files::process(root, pid).join("fd")).into_iter().flatten().flatten();
        for entry in entries.take(MAX_DESCRIPTORS) {
            if held.len() == sockets.len() {
                break;
            }
            self.has_time()?;
            let number = files::number(entry.file_name().as_encoded_bytes());
            let inode = inode_of(&entry.path()).filter(|inode| sockets.contains(inode));
            held.extend(inode.zip(number));
        }
        Ok(held)
    }

    fn has_time(&self) -> Result<(), Spent> {
        if self.budget.is_left() { Ok(()) } else { Err(Spent) }
    }

    /// Whether this very process listens there, in its own network namespace.
    pub(super) fn listens(&mut self, root: &Path, pid: u32, address: SocketAddr) -> Result<bool, Spent> {
        self.budget.begin();
        let listens = self.try_listens(root, pid, address);
        self.budget.end();
        listens
    }

    fn try_listens(&mut self, root: &Path, pid: u32, address: SocketAddr) -> Result<bool, Spent> {
        self.has_time()?;
        let there = diag::listening(root, pid).into_iter().filter(|(other, _)| *other == address);
        let there: HashSet<u64> = there.map(|(_, inode)| inode).collect();
        let directory = files::process(root, pid).join("fd");
        let is_still_held = |inode: &u64| {
            let number = self.descriptors.get(&(pid, *inode));
            number.is_some_and(|number| inode_of(&directory.join(number.to_string())) == Some(*inode))
        };
        if there.iter().any(is_still_held) {
            return Ok(true);
        }
        let Some((inode, number)) = self.held(root, pid, &there)?.into_iter().next() else { return Ok(false) };
        if self.descriptors.len() >= MAX_REMEMBERED {
            self.descriptors.clear();
        }
        self.descriptors.insert((pid, inode), number);
        Ok(true)
    }
}

/// The socket that a descriptor stands for.
fn inode_of(descriptor: &Path) -> Option<u64> {
    socket_inode(fs::read_link(descriptor).ok()?.as_os_str().as_encoded_bytes())
}

/// The number of a process's network namespace.
fn namespace(root: &Path, pid: u32) -> Option<u64> {
    fs::metadata(files::process(root, pid).join("ns/net")).ok().map(|namespace| namespace.st_ino())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::super::stat::tests::line;
    use super::*;

    #[test]
    fn servers_are_known_by_what_they_are_shown_as() {
        let table = [
            ("vllm serve", Some(EngineKind::Vllm)),
            ("python3.11 vllm serve", Some(EngineKind::Vllm)),
            ("python3 -m vllm.entrypoints.openai.api_server", Some(EngineKind::Vllm)),
            ("VLLM::APIServer_0", Some(EngineKind::Vllm)),
            ("VLLM::EngineCore_0", None),
            ("vllm bench", None),
            ("python3 -m sglang.launch_server", Some(EngineKind::SgLang)),
            ("sglang::scheduler", Some(EngineKind::SgLang)),
            ("text-generation-router", Some(EngineKind::Tgi)),
            ("llama-server", Some(EngineKind::LlamaCpp)),
            ("ollama serve", Some(EngineKind::Ollama)),
            ("ollama runner", None),
            ("tritonserver", Some(EngineKind::Triton)),
            ("python3 litellm", Some(EngineKind::LiteLlm)),
            ("gunicorn litellm.proxy.proxy_server:app", Some(EngineKind::LiteLlm)),
            ("python3 -m llama_cpp.server", None),
            ("vllmish", None),
            ("my-ollama", None),
            ("python3 app.py", None),
            ("", None),
        ];
        for (shown, kind) in table {
            assert_eq!(kind_of(shown), kind, "{shown}");
        }
    }

    #[test]
    fn command_lines_are_read_of_those_that_may_be_servers() {
        for (comm, program, expected) in [
            ("vllm", None, true),
            ("uvicorn", Some("/opt/venv/bin/python3.12"), true),
            ("ollama", Some("/usr/bin/ollama"), true),
            ("main", Some("/opt/llama.cpp/build/bin/llama-server"), true),
            ("postgres", Some("/usr/lib/postgresql/16/bin/postgres"), false),
            ("bash", None, false),
            ("", Some(""), false),
        ] {
            let found = may_be_server(comm.as_bytes(), program.map(str::as_bytes));
            assert_eq!(found, expected, "{comm} {program:?}");
        }
    }

    #[test]
    fn ports_are_named_in_several_ways() {
        let line = b"vllm\0serve\0--port\x008001\0--other=8002\0--listen\x000.0.0.0:8003\0--seed\x0018004\0-p8005\0";
        let named: Vec<u16> = (8000..8007).filter(|port| names_port(line, *port)).collect();
        assert_eq!(named, [8001, 8002, 8003]);
        assert!(!names_port(b"", 80));
    }

    /// A process that holds these sockets, in a namespace in which the others listen as well.
    #[cfg(target_endian = "little")]
    fn process(root: &Path, pid: u32, command_line: &str, held: &[u64], listening: &[(u16, u64)]) {
        let dir = root.join(pid.to_string());
        for part in ["fd", "net", "ns"] {
            fs::create_dir_all(dir.join(part)).unwrap();
        }
        let program = command_line.split('\0').next().and_then(|path| path.rsplit('/').next()).unwrap_or_default();
        fs::write(dir.join("stat"), line(pid, program, 1, 0, 100, 4096)).unwrap();
        fs::write(dir.join("cmdline"), command_line).unwrap();
        fs::write(dir.join("ns/net"), "").unwrap();
        for (number, inode) in (10..).zip(held) {
            symlink(format!("socket:[{inode}]"), dir.join(format!("fd/{number}"))).unwrap();
        }
        let lines =
            listening.iter().map(|(port, inode)| format!("0: 0100007F:{port:04X} 0:0 0A 0:0 0:0 0 0 0 {inode} 1\n"));
        fs::write(dir.join("net/tcp"), format!("sl\n{}", lines.collect::<String>())).unwrap();
    }

    #[cfg(target_endian = "little")]
    fn look(root: &Path, pid: u32, serves: bool) -> Option<Vec<(u16, bool)>> {
        let found = Listeners::default().find(root, &[Suspect { pid, serves }]);
        let of = |listener: &Listener| (listener.address.port(), listener.expected);
        found.servers.first().map(|server| server.listeners.iter().map(of).collect())
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn what_others_listen_at_is_not_told_nor_connected_to() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        process(root, 7, "vllm\0serve\0", &[1, 2], &[(8000, 1), (9999, 2), (22, 3)]);
        assert_eq!(look(root, 7, false), Some(vec![(8000, true), (9999, false)]));
        let mut listeners = Listeners::default();
        let at = |port: u16| SocketAddr::from(([127, 0, 0, 1], port));
        let mut listens = |address| listeners.listens(root, 7, address).unwrap();
        assert!(listens(at(9999)));
        assert!(!listens(at(22)), "another process does");
        assert!(!listens(at(80)));
        assert!(!listens(SocketAddr::from(([10, 0, 0, 1], 8000))));
        // It has closed its socket since, and somebody else has it.
        fs::remove_file(root.join("7/fd/11")).unwrap();
        assert!(!listens(at(9999)));
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn once_the_time_for_it_is_spent_nobody_is_looked_at_and_that_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        process(root, 7, "vllm\0serve\0", &[1], &[(8000, 1)]);
        let mut listeners = Listeners::default();
        listeners.budget.spend();
        let found = listeners.find(root, &[Suspect { pid: 7, serves: true }]);
        assert!(found.servers.is_empty() && found.not_looked_at == [7]);
        listeners.budget.spend();
        assert!(listeners.listens(root, 7, SocketAddr::from(([127, 0, 0, 1], 8000))).is_err());
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn many_descriptors_and_many_listeners_of_others_cost_no_more_than_there_is_time_for() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        let held: Vec<u64> = (1..=2000).chain([10_000]).collect();
        let listening: Vec<(u16, u64)> = (0..1000).map(|number| (number, 5000 + u64::from(number))).collect();
        process(root, 7, "vllm\0serve\0", &held, &[&listening[..], &[(8000, 10_000)]].concat());
        let before = files::cpu_time();
        assert_eq!(look(root, 7, false), Some(vec![(8000, true)]));
        assert!(files::cpu_time() - before < Duration::from_secs(1), "{:?}", files::cpu_time() - before);
        let mut listeners = Listeners { budget: Budget::new(0.0, Duration::from_millis(1)), ..Listeners::default() };
        let found = listeners.find(root, &[Suspect { pid: 7, serves: false }]);
        assert!(found.servers.is_empty() && found.not_looked_at == [7]);
        listeners.budget = Budget::new(0.0, Duration::from_millis(1));
        assert!(listeners.listens(root, 7, SocketAddr::from(([127, 0, 0, 1], 999))).is_err());
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn the_only_place_is_the_one_and_processes_of_other_names_are_looked_at_if_they_serve() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        process(root, 7, "/usr/bin/ollama\0serve\0", &[1], &[(12345, 1), (22, 3)]);
        assert_eq!(look(root, 7, false), Some(vec![(12345, true)]));
        process(root, 8, "llama-server\0--port\x005000\0", &[1, 2], &[(5000, 1), (5001, 2)]);
        assert_eq!(look(root, 8, false), Some(vec![(5000, true), (5001, false)]));
        process(root, 9, "python3\0app.py\0", &[1], &[(8000, 1)]);
        assert_eq!(look(root, 9, false), None);
        assert_eq!(look(root, 9, true), Some(vec![(8000, false)]));
        assert_eq!(look(root, 10, true), None);
        let ports: Vec<(u16, u64)> =
            (0..40).map(|port| (10_000 + port, u64::from(port))).chain([(30_000, 99)]).collect();
        process(root, 11, "sglang\0serve\0", &ports.iter().map(|(_, inode)| *inode).collect::<Vec<_>>(), &ports);
        let found = look(root, 11, false).unwrap();
        assert_eq!((found.len(), found[0]), (MAX_LISTENERS, (30_000, true)));
    }
}
