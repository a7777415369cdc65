//! What the control groups of a process say of where it belongs: a container, a pod, a systemd unit.
//!
//! `/proc/PID/cgroup` has a line per hierarchy, `NUMBER:CONTROLLERS:PATH`; the one of cgroup v2 is `0::PATH`. Where runtimes
//! put containers is seen from the paths of docker, containerd (also under Kubernetes), CRI-O, podman and LXC, with the
//! drivers `systemd` and `cgroupfs`, on both versions. Where one is nested in another (kind, docker in docker), the innermost
//! is meant.

use hbpf_core::label::Label;
use hbpf_core::snapshot::Container;

use super::files;

/// Longest file that is read: 13 hierarchies of paths up to 1,000 bytes, and no path that says anything is that long.
pub(super) const MAX_BYTES: usize = 16 * 1024;

/// Ids of containers have 64 hexadecimal digits, in most runtimes; some are names.
const ID_DIGITS: usize = 64;

/// Shortest id in hexadecimal digits: some write a prefix.
const MIN_ID_DIGITS: usize = 12;

/// Scopes that systemd makes for a container, and whose runtime makes them. Tried in this order.
const SCOPES: [(&str, &str); 7] = [
    ("cri-containerd-", "containerd"),
    ("docker-", "docker"),
    ("crio-", "cri-o"),
    ("libpod-", "podman"),
    ("nerdctl-", "containerd"),
    ("machine-", "systemd-nspawn"),
    ("lxc-", "lxc"),
];

/// Processes that look after a container stand beside it, in a scope of its name.
const MONITORS: [&str; 2] = ["libpod-conmon-", "crio-conmon-"];

/// Directories whose children are containers, by the driver `cgroupfs`, and whose runtime makes them.
const PARENTS: [(&str, &str); 3] = [("docker", "docker"), ("default", "containerd"), ("k8s.io", "containerd")];

/// A process's groups, by hierarchy.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Paths<'a> {
    lines: Vec<(&'a [u8], &'a str)>,
}

impl<'a> Paths<'a> {
    /// Lines that make no sense are passed over.
    pub(super) fn parse(bytes: &'a [u8]) -> Self {
        let line = |line: &'a [u8]| {
            let mut parts = line.splitn(3, |byte| *byte == b':');
            let (_, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
            let path = std::str::from_utf8(path).ok()?;
            // Seen from within a cgroup namespace, what lies outside of it is above its root.
            let is_plain = path.starts_with('/') && path.split('/').all(|part| part != "..");
            is_plain.then_some((controllers, path))
        };
        Self { lines: files::lines(bytes).filter_map(line).collect() }
    }

    /// The path in cgroup v2.
    pub(super) fn unified(&self) -> Option<&'a str> {
        self.of(|controllers| controllers.is_empty())
    }

    /// The path in the hierarchy of v1 that has this controller.
    pub(super) fn of_controller(&self, controller: &str) -> Option<&'a str> {
        self.of(|controllers| controllers.split(|byte| *byte == b',').any(|name| name == controller.as_bytes()))
    }

    fn of(&self, is_meant: impl Fn(&[u8]) -> bool) -> Option<&'a str> {
        self.lines.iter().find(|(controllers, _)| is_meant(controllers)).map(|(_, path)| *path)
    }

    /// The container. With cgroup v1 beside v2 some runtimes leave a container's processes where they were in v2.
    pub(super) fn container(&self) -> Option<Container> {
        self.lines.iter().find_map(|(_, path)| container(path))
    }

    /// The innermost systemd unit, of the user's manager where that runs it.
    pub(super) fn unit(&self) -> Option<Unit> {
        let named = self.of(|controllers| controllers == b"name=systemd");
        [named, self.unified()].into_iter().flatten().find_map(Unit::of)
    }
}

/// A systemd unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Unit {
    /// `NAME.service` or `NAME.scope`
    pub(super) name: Label,
    /// Whose manager runs it, if not the system's: names are told apart within one manager only.
    pub(super) user: Option<u32>,
}

impl Unit {
    fn of(path: &str) -> Option<Self> {
        let is_unit = |part: &&str| part.ends_with(".service") || part.ends_with(".scope");
        let mut outward = path.rsplit('/').skip_while(|part| !is_unit(part));
        let name = Label::new(outward.next()?);
        let user = outward.find_map(|part| part.strip_prefix("user@")?.strip_suffix(".service")?.parse().ok());
        Some(Self { name, user })
    }
}

fn container(path: &str) -> Option<Container> {
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    if parts.iter().any(|part| MONITORS.iter().any(|monitor| part.starts_with(monitor))) {
        return None;
    }
    let place = (0..parts.len()).rev().find_map(|place| Some((place, runtime_and_id(&parts, place)?)));
    let (place, (runtime, id)) = place?;
    let pod_uid = parts[..=place].iter().rev().find_map(|part| pod_uid(part));
    Some(Container {
        runtime: runtime.into(),
        id: Label::new(id),
        pod_uid: pod_uid.map(Label::from),
        ..Container::default()
    })
}

/// Of the part at this place, if that is a container.
fn runtime_and_id<'a>(parts: &[&'a str], place: usize) -> Option<(&'static str, &'a str)> {
    let part = parts[place];
    if let Some(scope) = part.strip_suffix(".scope") {
        return SCOPES.iter().find_map(|(prefix, runtime)| Some((*runtime, name(scope.strip_prefix(prefix)?)?)));
    }
    // systemd's way of naming, taken by a containerd that makes its directories itself.
    if let Some((_, rest)) = part.split_once(".slice:") {
        let (runtime, id) = rest.split_once(':')?;
        return Some((if runtime == "crio" { "cri-o" } else { "containerd" }, name(id)?));
    }
    if let Some(id) = part.strip_prefix("crio-").and_then(hexadecimal) {
        return Some(("cri-o", id));
    }
    if let Some(id) = part.strip_prefix("libpod-").and_then(hexadecimal) {
        return Some(("podman", id));
    }
    if let Some(id) = part.strip_prefix("lxc.payload.").and_then(name) {
        return Some(("lxc", id));
    }
    let parent = place.checked_sub(1).map_or("", |above| parts[above]);
    if parent == "lxc" {
        return Some(("lxc", name(part)?));
    }
    let id = hexadecimal(part)?;
    if let Some((_, runtime)) = PARENTS.iter().find(|(name, _)| *name == parent) {
        return Some((*runtime, id));
    }
    let is_whole = id.len() == ID_DIGITS;
    // Under Kubernetes without systemd nothing says which runtime it drives; docker is gone from there.
    is_whole.then_some((if pod_uid(parent).is_some() { "containerd" } else { "unknown" }, id))
}

/// An id in hexadecimal.
fn hexadecimal(part: &str) -> Option<&str> {
    let is_id = part.len() >= MIN_ID_DIGITS
        && part.len() <= ID_DIGITS
        && part.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
    is_id.then_some(part)
}

/// A name as runtimes allow it.
fn name(part: &str) -> Option<&str> {
    let is_name = !part.is_empty()
        && part.len() <= 2 * ID_DIGITS
        && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.-\\".contains(&byte));
    is_name.then_some(part)
}

/// `podUID`, or as systemd's slice `kubepods-QOS-podUID.slice` with `_` for `-`.
fn pod_uid(part: &str) -> Option<String> {
    let slice = part.split_once(".slice").map(|(slice, _)| slice);
    let uid = match slice {
        Some(slice) => slice.rsplit_once("-pod")?.1,
        None => part.strip_prefix("pod")?,
    };
    // Those of static pods are hashes without dashes.
    let uid = uid.replace('_', "-");
    let is_uid =
        (uid.len() == 36 || uid.len() == 32) && uid.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-');
    is_uid.then_some(uid)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "3f1c0c7a6bd24ac4b5ee2d5b8c8ad2b9d7c1a4e0f6b35b7f42cbd12aa09f11ce";
    const OUTER: &str = "aaaa0c7a6bd24ac4b5ee2d5b8c8ad2b9d7c1a4e0f6b35b7f42cbd12aa09f11ce";
    const UID: &str = "5f0e9a1b-63d5-4c0b-9d3a-0f5b0a1c2d3e";
    const UID_OF_SLICE: &str = "5f0e9a1b_63d5_4c0b_9d3a_0f5b0a1c2d3e";
    const UID_OF_STATIC: &str = "d2b1f6f4a3c5e7890123456789abcdef";

    /// With these in place of their names.
    fn filled(text: &str) -> String {
        let names =
            [("OUTER", OUTER), ("UIDSLICE", UID_OF_SLICE), ("UIDSTATIC", UID_OF_STATIC), ("UID", UID), ("ID", ID)];
        names.iter().fold(text.to_owned(), |text, (name, value)| text.replace(name, value))
    }

    fn container_at(path: &str) -> Option<(String, String, Option<String>)> {
        let file = filled(&format!("0::{path}\n"));
        let found = Paths::parse(file.as_bytes()).container()?;
        Some((found.runtime.to_string(), found.id.to_string(), found.pod_uid.map(|uid| uid.to_string())))
    }

    /// Paths as the runtimes make them: what runs there, its id, and its pod.
    const CONTAINERS: [(&str, &str, &str, Option<&str>); 27] = [
        ("/docker/ID", "docker", ID, None),
        ("/system.slice/docker-ID.scope", "docker", ID, None),
        ("/system.slice/docker-ID.scope/init.scope", "docker", ID, None),
        ("/system.slice/nerdctl-ID.scope", "containerd", ID, None),
        ("/default/ID", "containerd", ID, None),
        ("/k8s.io/ID", "containerd", ID, None),
        ("/kubepods/burstable/podUID/ID", "containerd", ID, Some(UID)),
        ("/kubepods/podUID/ID", "containerd", ID, Some(UID)),
        ("/kubepods/besteffort/podUIDSTATIC/ID", "containerd", ID, Some(UID_OF_STATIC)),
        (
            "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podUIDSLICE.slice/cri-containerd-ID.scope",
            "containerd",
            ID,
            Some(UID),
        ),
        ("/kubepods.slice/kubepods-podUIDSLICE.slice/cri-containerd-ID.scope", "containerd", ID, Some(UID)),
        (
            "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-podUIDSLICE.slice/crio-ID.scope",
            "cri-o",
            ID,
            Some(UID),
        ),
        (
            "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-podUIDSLICE.slice/crio-ID.scope/container",
            "cri-o",
            ID,
            Some(UID),
        ),
        ("/kubepods/burstable/podUID/crio-ID", "cri-o", ID, Some(UID)),
        (
            "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podUIDSLICE.slice/docker-ID.scope",
            "docker",
            ID,
            Some(UID),
        ),
        (
            "/system.slice/containerd.service/kubepods-burstable-podUIDSLICE.slice:cri-containerd:ID",
            "containerd",
            ID,
            Some(UID),
        ),
        ("/system.slice/crio.service/kubepods-podUIDSLICE.slice:crio:ID", "cri-o", ID, Some(UID)),
        ("/machine.slice/libpod-ID.scope/container", "podman", ID, None),
        ("/libpod_parent/libpod-ID", "podman", ID, None),
        ("/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-ID.scope/container", "podman", ID, None),
        // kind, with either driver, and docker in docker.
        ("/docker/OUTER/kubelet/kubepods/burstable/podUID/ID", "containerd", ID, Some(UID)),
        (
            "/system.slice/docker-OUTER.scope/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-podUIDSLICE.slice/cri-containerd-ID.scope",
            "containerd",
            ID,
            Some(UID),
        ),
        ("/system.slice/docker-OUTER.scope/docker/ID", "docker", ID, None),
        ("/ecs/1234/ID", "unknown", ID, None),
        ("/lxc/web-1", "lxc", "web-1", None),
        ("/lxc.payload.web-1/system.slice/nginx.service", "lxc", "web-1", None),
        ("/machine.slice/machine-debian.scope", "systemd-nspawn", "debian", None),
    ];

    #[test]
    fn containers_are_found_where_runtimes_put_them() {
        for (path, runtime, id, pod) in CONTAINERS {
            let found = container_at(path).unwrap_or_else(|| panic!("{path}"));
            assert_eq!((found.0.as_str(), found.1.as_str(), found.2.as_deref()), (runtime, id, pod), "{path}");
        }
    }

    #[test]
    fn what_is_no_container_is_none() {
        let paths = [
            "/",
            "",
            "/init.scope",
            "/user.slice/user-0.slice/session-3.scope",
            "/system.slice/docker.service",
            "/system.slice/containerd.service",
            "/machine.slice/libpod-conmon-ID.scope",
            "/docker",
            "/docker/xyz",
            "/kubepods/burstable/podUID",
            "/system.slice/docker-.scope",
            "/lxc",
            "/process_api/56c88441de5f236e95eb6968212b89ac",
            "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podUIDSLICE.slice/crio-conmon-ID.scope",
            "/../../docker/ID",
            "/system.slice/docker-a b.scope",
            ":::",
            "/a.slice:b",
            "/a.slice:b:",
        ];
        for path in paths {
            assert_eq!(container_at(path), None, "{path}");
        }
    }

    #[test]
    fn version_one_tells_what_version_two_does_not() {
        let file = filled(
            "12:memory:/docker/ID\n4:cpu,cpuacct:/docker/ID\n1:name=systemd:/docker/ID\n0::/system.slice/containerd.service\nbroken\n\n",
        );
        let paths = Paths::parse(file.as_bytes());
        assert_eq!(paths.container().unwrap().id.as_str(), ID);
        assert_eq!(paths.unified(), Some("/system.slice/containerd.service"));
        assert_eq!(paths.of_controller("cpu"), Some(filled("/docker/ID").as_str()));
        assert_eq!(paths.of_controller("cpuacct"), paths.of_controller("cpu"));
        assert_eq!(paths.of_controller("cpuset"), None);
    }

    #[test]
    fn the_innermost_unit_is_meant() {
        let cases = [
            ("0::/system.slice/vllm.service", Some("vllm.service")),
            ("0::/system.slice/system-vllm.slice/vllm@7.service/worker", Some("vllm@7.service")),
            ("0::/user.slice/user-1000.slice/user@1000.service/app.slice/ollama.service", Some("ollama.service")),
            ("0::/user.slice/user-0.slice/session-3.scope", Some("session-3.scope")),
            ("1:name=systemd:/system.slice/a.service\n0::/system.slice/b.service", Some("a.service")),
            ("1:name=systemd:/\n0::/system.slice/b.service", Some("b.service")),
            ("0::/", None),
            ("0::/a.slice", None),
            ("5:cpu:/system.slice/a.service", None),
        ];
        for (file, unit) in cases {
            let found = Paths::parse(file.as_bytes()).unit();
            assert_eq!(found.as_ref().map(|unit| unit.name.as_str()), unit, "{file}");
            let is_of_user = file.contains("user@1000");
            assert_eq!(found.and_then(|unit| unit.user), is_of_user.then_some(1000), "{file}");
        }
    }
}
