//! Which processes belong together: a pod, a container, a systemd unit, or else a process and its descendants.

use std::collections::HashSet;
use std::path::Path;

use hbpf_core::aggregate::WorkloadFacts;
use hbpf_core::label::Label;
use hbpf_core::snapshot::{Container, WorkloadKind};

use super::cgroup_path::{self, Unit};
use super::files;
use super::stat::Stat;

/// Most ancestors looked at: trees are a few deep.
const MAX_ANCESTORS: usize = 32;

/// Digits of a container's id, and of a pod's, that people use.
const SHORT_ID: usize = 12;
const SHORT_UID: usize = 8;

/// Programs that start others on somebody's behalf: what they start is a tree of its own. As the kernel has their names,
/// cut to 15 bytes.
const LAUNCHERS: [&[u8]; 33] = [
    b"sh",
    b"bash",
    b"dash",
    b"zsh",
    b"fish",
    b"ksh",
    b"mksh",
    b"csh",
    b"tcsh",
    b"ash",
    b"busybox",
    b"nu",
    b"pwsh",
    b"login",
    b"sshd",
    b"sshd-session",
    b"su",
    b"sudo",
    b"doas",
    b"runuser",
    b"tmux: server",
    b"screen",
    b"script",
    b"systemd",
    b"init",
    b"cron",
    b"crond",
    b"atd",
    b"supervisord",
    b"runsv",
    b"s6-supervise",
    b"containerd-shim",
    b"conmon",
];

/// What holds a process together with others, as far as its control groups say.
pub(super) fn of_groups(container: Option<&Container>, unit: Option<&Unit>) -> Option<WorkloadFacts> {
    if let Some(container) = container {
        if let Some(uid) = &container.pod_uid {
            let short = || format!("pod {}", uid.chars().take(SHORT_UID).collect::<String>()).into();
            let name = container.pod.clone().unwrap_or_else(short);
            return Some(WorkloadFacts { key: format!("pod/{uid}").into(), name, kind: WorkloadKind::Pod });
        }
        let key = format!("{}/{}", container.runtime, container.id).into();
        let short = || {
            let id: String = container.id.chars().take(SHORT_ID).collect();
            format!("{} {id}", container.runtime).into()
        };
        let name = container.name.clone().unwrap_or_else(short);
        return Some(WorkloadFacts { key, name, kind: WorkloadKind::Container });
    }
    // A session holds all that a user has begun after logging in.
    let Unit { name, user } = unit?;
    let is_session = name.starts_with("session-") && name.ends_with(".scope");
    if is_session || name.as_str() == "init.scope" {
        return None;
    }
    let key = match user {
        Some(uid) => format!("unit/{uid}/{name}"),
        None => format!("unit/{name}"),
    };
    let name = Label::new(name.strip_suffix(".service").unwrap_or(name));
    Some(WorkloadFacts { key: key.into(), name, kind: WorkloadKind::Unit })
}

/// The root of the tree that a process belongs to: the farthest ancestor below a launcher that is in the same groups.
pub(super) fn root(proc_root: &Path, pid: u32) -> u32 {
    let groups = |pid| {
        let path = files::process(proc_root, pid).join("cgroup");
        files::read(&path, cgroup_path::MAX_BYTES).map(|file| file.bytes).unwrap_or_default()
    };
    let own = groups(pid);
    let (mut root, mut seen) = (pid, HashSet::from([pid]));
    while let Some(stat) = Stat::read(proc_root, root).filter(|_| seen.len() <= MAX_ANCESTORS) {
        // A tree read while it changes could hold a circle.
        let parent = stat.parent_pid;
        if parent <= 1 || !seen.insert(parent) || groups(parent) != own {
            break;
        }
        let is_launcher = |parent: Stat| parent.kernel_thread || LAUNCHERS.contains(&parent.comm.as_slice());
        if Stat::read(proc_root, parent).is_none_or(is_launcher) {
            break;
        }
        root = parent;
    }
    root
}

/// A tree with this root, which was started then and is called so.
pub(super) fn tree(root: u32, start_ticks: u64, command: Label) -> WorkloadFacts {
    WorkloadFacts { key: format!("tree/{root}/{start_ticks}").into(), name: command, kind: WorkloadKind::Tree }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::cgroup_path::Paths;
    use super::super::stat::tests::line;
    use super::*;

    fn process(root: &Path, pid: u32, comm: &str, parent: u32, groups: &str) {
        let directory = files::process(root, pid);
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join("stat"), line(pid, comm, parent, 0, 1, 1)).unwrap();
        fs::write(directory.join("cgroup"), groups).unwrap();
    }

    #[test]
    fn a_tree_begins_below_a_launcher_or_another_group() {
        let dir = tempfile::tempdir().unwrap();
        let session = "0::/user.slice/user-0.slice/session-3.scope\n";
        for (pid, comm, parent, groups) in [
            (1, "systemd", 0, "0::/init.scope\n"),
            (50, "odd", 1, "0::/system.slice/odd.service\n"),
            (100, "bash", 50, session),
            (101, "vllm", 100, session),
            (102, "VLLM::EngineCor", 101, session),
            (103, "worker", 102, session),
            (200, "orphan", 1, session),
            (300, "moved", 102, "0::/elsewhere\n"),
            (400, "a", 401, session),
            (401, "b", 400, session),
        ] {
            process(dir.path(), pid, comm, parent, groups);
        }
        let roots = [101, 102, 103, 200, 300, 100, 999].map(|pid| root(dir.path(), pid));
        assert_eq!(roots, [101, 101, 101, 200, 300, 100, 999]);
        assert_eq!(root(dir.path(), 400), 401, "a circle ends");
    }

    #[test]
    fn groups_say_what_belongs_together() {
        let of = |file: &str| {
            let paths = Paths::parse(file.as_bytes());
            of_groups(paths.container().as_ref(), paths.unit().as_ref())
                .map(|facts| (facts.key.to_string(), facts.name.to_string()))
        };
        let (id, uid) = ("ab".repeat(32), "5f0e9a1b-63d5-4c0b-9d3a-0f5b0a1c2d3e");
        let some = |key: String, name: &str| Some((key, name.to_owned()));
        assert_eq!(of(&format!("0::/kubepods/pod{uid}/{id}")), some(format!("pod/{uid}"), "pod 5f0e9a1b"));
        assert_eq!(of(&format!("0::/docker/{id}")), some(format!("docker/{id}"), "docker abababababab"));
        assert_eq!(of("0::/system.slice/vllm@7.service"), some("unit/vllm@7.service".into(), "vllm@7"));
        assert_eq!(
            of("0::/user.slice/user-7.slice/user@7.service/app.slice/ollama.service"),
            some("unit/7/ollama.service".into(), "ollama")
        );
        let manager = of("0::/system.slice/session-manager.service");
        assert_eq!(manager, some("unit/session-manager.service".into(), "session-manager"));
        assert_eq!(of("0::/system.slice/run-r1.scope"), some("unit/run-r1.scope".into(), "run-r1.scope"));
        for none in ["0::/user.slice/user-0.slice/session-3.scope", "0::/init.scope", "0::/", ""] {
            assert_eq!(of(none), None, "{none}");
        }
    }
}
