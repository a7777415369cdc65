//! What containers are called by those who run them. A control group tells their ids only.
//!
//! - Kubernetes: the kubelet names a link for each container's log by pod, namespace, container and id, whichever runtime it has.
//! - Docker and Podman, run by root: in their own files, of which nothing but the names is kept.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use hbpf_core::label::Label;
use hbpf_core::snapshot::Container;
use serde::Deserialize;

use super::files;

/// `<pod>_<namespace>_<container>-<id>.log`
const LOGS: &str = "var/log/containers";
/// A directory for each container.
const DOCKER: &str = "var/lib/docker/containers";
/// A list of all containers.
const PODMAN: &str = "var/lib/containers/storage/overlay-containers/containers.json";

/// Largest of these files that is read. Docker's has some tens of KiB, Podman's one or two for each container.
const MAX_BYTES: usize = 4 * 1024 * 1024;

/// Most containers whose names are known: a Kubernetes node has hundreds.
const MAX_CONTAINERS: usize = 8192;

/// How long it is believed that a container has no name, and what a directory had in it.
const LOOK_AGAIN: Duration = Duration::from_secs(10);

/// How long a name is believed: containers can be renamed.
const NAME_HOLDS: Duration = Duration::from_secs(60);

/// Where the host's files are: a container with the host's processes sees them through the first of these.
pub(super) fn root(proc_root: &Path) -> PathBuf {
    let root = proc_root.join("1/root");
    // Without the right to look into other processes there is nothing to be seen.
    if fs::read_dir(root.join("var")).is_ok() { root } else { PathBuf::from("/") }
}

/// Names that have been found.
#[derive(Debug)]
pub(super) struct ContainerNames {
    root: PathBuf,
    found: HashMap<Label, Found>,
    logs_read: Option<Instant>,
}

#[derive(Debug)]
struct Found {
    names: Names,
    when: Instant,
}

#[derive(Clone, Debug, Default, PartialEq)]
struct Names {
    container: Option<Label>,
    pod: Option<Label>,
    namespace: Option<Label>,
}

impl ContainerNames {
    /// Knows none yet. `root` is `/`, but in tests.
    pub(super) fn new(root: PathBuf) -> Self {
        Self { root, found: HashMap::new(), logs_read: None }
    }

    /// Puts the names of a container to its id.
    pub(super) fn name(&mut self, container: &mut Container) {
        let holds = |found: &Found| if found.names == Names::default() { LOOK_AGAIN } else { NAME_HOLDS };
        if self.found.get(&container.id).is_none_or(|found| found.when.elapsed() >= holds(found)) {
            let names = self.look_up(container);
            self.remember(container.id.clone(), names);
        }
        if let Some(Found { names, .. }) = self.found.get(&container.id) {
            (container.name, container.pod, container.namespace) =
                (names.container.clone(), names.pod.clone(), names.namespace.clone());
        }
    }

    fn look_up(&mut self, container: &Container) -> Names {
        if container.pod_uid.is_some() {
            self.read_logs();
            // A pod's sandbox has no log.
            return self.found.get(&container.id).map(|found| found.names.clone()).unwrap_or_default();
        }
        let container = match container.runtime.as_str() {
            "docker" => self.docker(&container.id),
            "podman" => self.podman(&container.id),
            _ => None,
        };
        Names { container, ..Names::default() }
    }

    /// Takes the names of all containers that have a log.
    fn read_logs(&mut self) {
        if self.logs_read.is_some_and(|when| when.elapsed() < LOOK_AGAIN) {
            return;
        }
        self.logs_read = Some(Instant::now());
        let entries = fs::read_dir(self.root.join(LOGS)).into_iter().flatten().flatten();
        for entry in entries.take(MAX_CONTAINERS) {
            if let Some((id, names)) = entry.file_name().to_str().and_then(parse_log) {
                self.remember(id, names);
            }
        }
    }

    fn remember(&mut self, id: Label, names: Names) {
        if self.found.len() >= MAX_CONTAINERS {
            // Most of them have gone by now.
            self.found.clear();
        }
        self.found.insert(id, Found { names, when: Instant::now() });
    }

    fn docker(&self, id: &str) -> Option<Label> {
        #[derive(Deserialize)]
        struct Config {
            #[serde(rename = "Name")]
            name: String,
        }
        let config: Config = self.read(&format!("{DOCKER}/{id}/config.v2.json"))?;
        named(config.name.trim_start_matches('/'))
    }

    fn podman(&self, id: &str) -> Option<Label> {
        #[derive(Deserialize)]
        struct Entry {
            id: String,
            #[serde(default)]
            names: Vec<String>,
        }
        let entries: Vec<Entry> = self.read(PODMAN)?;
        named(entries.into_iter().find(|entry| entry.id == id)?.names.first()?)
    }

    fn read<T: for<'a> Deserialize<'a>>(&self, path: &str) -> Option<T> {
        let file = files::read(&self.root.join(path), MAX_BYTES).ok().filter(|file| !file.truncated)?;
        serde_json::from_slice(&file.bytes).ok()
    }
}

fn named(name: &str) -> Option<Label> {
    (!name.is_empty()).then(|| Label::new(name))
}

/// Names of pods and namespaces have no `_` in them, and those of containers neither.
fn parse_log(name: &str) -> Option<(Label, Names)> {
    let (names, id) = name.strip_suffix(".log")?.rsplit_once('-')?;
    let mut names = names.split('_');
    let names = Names {
        pod: Some(named(names.next()?)?),
        namespace: Some(named(names.next()?)?),
        container: Some(named(names.next()?)?),
    };
    Some((Label::new(id), names))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    fn tree() -> (ContainerNames, tempfile::TempDir) {
        let tree = tempfile::tempdir().unwrap();
        (ContainerNames::new(tree.path().to_owned()), tree)
    }

    fn write(tree: &tempfile::TempDir, path: &str, text: &str) {
        let path = tree.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn container(runtime: &str, id: &str, pod_uid: Option<&str>) -> Container {
        Container { runtime: runtime.into(), id: id.into(), pod_uid: pod_uid.map(Into::into), ..Container::default() }
    }

    fn names(names: &mut ContainerNames, mut container: Container) -> [Option<String>; 3] {
        names.name(&mut container);
        [container.name, container.pod, container.namespace].map(|name| name.map(|name| name.to_string()))
    }

    #[test]
    fn a_pod_is_named_by_its_logs() {
        let (mut found, tree) = tree();
        write(&tree, &format!("var/log/containers/vllm-7d9f6c-x2x_ml-serving_server-main-{ID}.log"), "");
        write(&tree, "var/log/containers/nonsense.log", "");
        let pod = |id| container("containerd", id, Some("11111111-2222-3333-4444-555555555555"));
        let expected = ["server-main", "vllm-7d9f6c-x2x", "ml-serving"].map(|name| Some(name.to_owned()));
        assert_eq!(names(&mut found, pod(ID)), expected);
        // One that comes later is looked for again, but not at once.
        let other = ID.replace('0', "f");
        assert_eq!(names(&mut found, pod(&other)), [None, None, None]);
        write(&tree, &format!("var/log/containers/a_b_c-{other}.log"), "");
        assert_eq!(names(&mut found, pod(&other)), [None, None, None]);
        found.found.get_mut(&Label::new(&other)).unwrap().when -= LOOK_AGAIN;
        assert_eq!(names(&mut found, pod(&other)), [None, None, None]);
        found.found.get_mut(&Label::new(&other)).unwrap().when -= LOOK_AGAIN;
        found.logs_read = None;
        assert_eq!(names(&mut found, pod(&other)), ["c", "a", "b"].map(|name| Some(name.to_owned())));
    }

    #[test]
    fn docker_and_podman_name_their_own() {
        let (mut found, tree) = tree();
        let config = r#"{"ID":"x","Config":{"Env":["OPENAI_API_KEY=canary"]},"Name":"/my-vllm","State":{}}"#;
        write(&tree, &format!("var/lib/docker/containers/{ID}/config.v2.json"), config);
        let list = format!(r#"[{{"id":"a"}},{{"id":"{ID}","names":["web","other"],"flags":{{}}}}]"#);
        write(&tree, PODMAN, &list);
        assert_eq!(names(&mut found, container("docker", ID, None))[0].as_deref(), Some("my-vllm"));
        assert!(!format!("{found:?}").contains("canary"));
        found.found.clear();
        assert_eq!(names(&mut found, container("podman", ID, None))[0].as_deref(), Some("web"));
        assert_eq!(names(&mut found, container("podman", "a", None))[0], None);
        assert_eq!(names(&mut found, container("lxc", "a", None))[0], None);
        write(&tree, "var/lib/docker/containers/bad/config.v2.json", "{\"Name\":7");
        assert_eq!(names(&mut found, container("docker", "bad", None))[0], None);
    }

    #[test]
    fn what_is_known_is_bounded() {
        let (mut found, _tree) = tree();
        for id in 0..2 * MAX_CONTAINERS {
            found.remember(Label::new(&id.to_string()), Names::default());
        }
        assert!(found.found.len() <= MAX_CONTAINERS);
    }

    proptest! {
        #[test]
        fn a_log_may_be_called_anything(name in ".{0,80}") {
            if let Some((id, _)) = parse_log(&name) {
                prop_assert!(name.len() > id.len());
            }
        }
    }
}
