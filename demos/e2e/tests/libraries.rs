//! TLS libraries as containers and package managers leave them, under real clients.
//!
//! Mounts are made in a mount namespace of the test's thread, from which its clients start, and nothing of them outlives
//! it. hbpf stays outside.

#[path = "../../../hbpf-host/tests/support/place.rs"]
mod place;

use std::ffi::OsStr;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use hbpf_core::snapshot::{ProbeState, Process, Snapshot, TlsVisibility};
use hbpf_e2e::{Client, DEADLINE, Observer, Server, Sums, host, python, script};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use place::Place;

const FAST: [&str; 4] = ["--ttft", "20", "--rate", "400"];

fn directory(root: &Path, name: &str) -> PathBuf {
    let path = root.join(name);
    fs::create_dir_all(&path).expect("a directory in a temporary one");
    path
}

/// A directory with the TLS library that `python` uses, and the library's name. On the host, and nothing is mounted in it.
fn image(python: &Path) -> (tempfile::TempDir, String) {
    let program = "import ssl; print(next((l.split()[-1] for l in open('/proc/self/maps') if '/libssl' in l), ''))";
    let output = Command::new(python).args(["-c", program]).output().expect("Python runs");
    let path = String::from_utf8(output.stdout).expect("a path is text here");
    assert!(!path.trim().is_empty(), "Python uses a shared libssl");
    let image = tempfile::tempdir().expect("a temporary directory");
    let name = Path::new(path.trim()).file_name().and_then(OsStr::to_str).expect("a library has a name").to_owned();
    fs::copy(path.trim(), image.path().join(&name)).expect("a copy");
    (image, name)
}

/// What a container runtime does with an image.
fn container(root: &Path, name: &str, image: &Path) -> PathBuf {
    let point = directory(root, name);
    let [upper, work] = ["upper", "work"].map(|part| directory(root, &format!("{name}.{part}")));
    let options = format!("lowerdir={},upperdir={},workdir={}", image.display(), upper.display(), work.display());
    mount(Some("overlay"), &point, Some("overlay"), MsFlags::empty(), Some(options.as_str())).expect("it mounts");
    point
}

/// A client that loads its TLS library from this directory, behind these words of a command.
fn client_of(server: &Server, python: &Path, libraries: &Path, wrapper: &[&str], arguments: &[&str]) -> Client {
    let mut command = match wrapper {
        [] => Command::new(python),
        [program, rest @ ..] => {
            let mut command = Command::new(program);
            command.args(rest).arg(python);
            command
        }
    };
    command.env("LD_LIBRARY_PATH", libraries).arg(script("clients/stdlib.py"));
    command.args(["--base-url", &server.tls_url()]).arg("--ca").arg(server.certificate("ca.pem"));
    Client::start(command.args(arguments))
}

/// Where the probes of SSL_free are, of which each library has one.
fn probed(frame: &Snapshot) -> Vec<String> {
    let probes = frame.capture.probes.iter().filter(|probe| probe.program.as_str() == "ssl_free");
    let on = probes.filter(|probe| probe.state == ProbeState::On);
    on.map(|probe| probe.attached_to.as_str().to_owned()).collect()
}

fn below(frame: &Snapshot, directory: &Path) -> usize {
    probed(frame).iter().filter(|path| Path::new(path).starts_with(directory)).count()
}

fn process(frame: &Snapshot, pid: u32) -> Option<&Process> {
    frame.processes.iter().find(|process| process.pid == pid)
}

fn is_attached(frame: &Snapshot, pid: u32) -> bool {
    process(frame, pid).is_some_and(|process| process.visibility.tls == TlsVisibility::Attached)
}

#[test]
fn one_image_in_two_containers_is_probed_and_counted_once() {
    let Some(_host) = host() else { return };
    let Some(python) = python() else { return };
    let server = Server::start(&FAST);
    let mut observer = Observer::start();
    let (image, name) = image(&python);
    let place = Place::new();
    let containers = ["one", "two", "three"].map(|name| container(place.path(), name, image.path()));
    // The third container has written to the library: it has a copy of its own.
    fs::set_permissions(containers[2].join(name), PermissionsExt::from_mode(0o755)).expect("it is ours");
    let arguments = ["--model", "demo-7", "--model", "demo-12", "--count", "6"];
    let mut clients = containers.each_ref().map(|libraries| client_of(&server, &python, libraries, &[], &arguments));
    for client in &clients {
        observer.until("the client's library is probed", |frame| is_attached(frame, client.pid()));
    }
    clients.iter_mut().for_each(|client| drop(client.run()));
    let seen = observer.until_ended(server.tls.port(), 18);
    assert_eq!(seen, server.truth(18));
    let frame = observer.next_frame();
    assert_eq!(below(&frame, place.path()), 2, "the image's file and the copy: {:?}", probed(&frame));
    let of_clients = clients.iter().map(|client| Sums::of_client(&frame, client.pid()));
    let (requests, output): (Vec<u64>, Vec<u64>) = of_clients.map(|sums| (sums.requests, sums.output)).unzip();
    assert_eq!((requests, output.iter().sum()), (vec![6; 3], seen.output));
    observer.assert_nothing_lost();
    drop(clients);
    observer.stop();
}

#[test]
fn a_library_upgraded_or_deleted_under_a_running_client_is_still_seen() {
    let Some(_host) = host() else { return };
    let Some(python) = python() else { return };
    let server = Server::start(&FAST);
    let mut observer = Observer::start();
    let (image, name) = image(&python);
    let (path, next) = (image.path().join(&name), image.path().join("next"));
    let arguments = ["--model", "demo-7", "--count", "4"];
    let mut old = client_of(&server, &python, image.path(), &[], &arguments);
    // As a package manager does it.
    fs::copy(&path, &next).and_then(|_| fs::rename(&next, &path)).expect("it is replaced");
    let mut new = client_of(&server, &python, image.path(), &[], &arguments);
    fs::remove_file(&path).expect("it is deleted");
    for client in [&old, &new] {
        observer.until("the client's library is probed", |frame| is_attached(frame, client.pid()));
    }
    old.run();
    new.run();
    assert_eq!(observer.until_ended(server.tls.port(), 8), server.truth(8));
    assert_eq!(below(&observer.next_frame(), image.path()), 2);
    observer.assert_nothing_lost();
    drop((old, new));
    observer.stop();
}

/// A control group below others, gone with this value.
struct ControlGroup {
    top: PathBuf,
    deepest: PathBuf,
}

impl ControlGroup {
    fn new() -> Option<Self> {
        let mounted = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"].into_iter().map(Path::new);
        let root = mounted.into_iter().find(|root| root.join("cgroup.controllers").exists())?;
        let top = root.join(format!("hbpf-e2e-{}", std::process::id()));
        let deepest = directory(&top, "pod/container");
        Some(Self { top, deepest })
    }
}

impl Drop for ControlGroup {
    fn drop(&mut self) {
        let mut group = self.deepest.as_path();
        // The kernel takes a moment to let the last process go.
        let give_up = Instant::now() + DEADLINE;
        while group.starts_with(&self.top) {
            match fs::remove_dir(group) {
                Err(error) if error.kind() == ErrorKind::ResourceBusy && Instant::now() < give_up => {
                    std::thread::yield_now();
                }
                _ => group = group.parent().expect("it lies below the root"),
            }
        }
    }
}

#[test]
fn a_client_in_namespaces_of_its_own_is_seen_by_its_pid_on_the_host() {
    let Some(_host) = host() else { return };
    let Some(python) = python() else { return };
    let mut observer = Observer::start();
    let (image, name) = image(&python);
    let place = Place::new();
    // The server is in the client's network.
    unshare(CloneFlags::CLONE_NEWNET).expect("root may have a network namespace");
    let up = Command::new("ip").args(["link", "set", "lo", "up"]).status();
    assert!(up.is_ok_and(|status| status.success()), "ip sets the loopback device up");
    let server = Server::start(&FAST);
    // A root directory of its own, as a container has one, with the host's files in it, to be read only.
    let root = directory(place.path(), "root");
    mount::<str, _, str, str>(Some("/"), &root, None, MsFlags::MS_BIND | MsFlags::MS_REC, None).expect("it mounts");
    let read_only = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
    mount::<str, _, str, str>(None, &root, None, read_only, None).expect("it becomes read-only");
    let group = ControlGroup::new();
    let group_path = group.as_ref().map_or(Path::new("/nowhere"), |group| &group.deepest);
    let enter = "echo $$ > \"$0/cgroup.procs\"; exec \"$@\"";
    // Mount, PID, IPC, host name and control group namespaces, a /proc of its own, and another root directory.
    let inside = "mount -t proc proc \"$0/proc\" && exec chroot \"$0\" \"$@\"";
    let wrapper = ["sh", "-c", enter, group_path.to_str().expect("a path is text here"), "unshare", "--mount", "--pid"];
    let wrapper =
        [&wrapper[..], &["--fork", "--ipc", "--uts", "--cgroup", "--kill-child", "sh", "-c", inside]].concat();
    let root = root.to_str().expect("a temporary directory's name is text");
    let wrapper = [&wrapper[..], &[root]].concat();
    let mut client = client_of(&server, &python, image.path(), &wrapper, &["--model", "demo-7", "--count", "4"]);
    // What was started is `unshare`, which has forked.
    let pid = *hbpf_e2e::children(client.pid()).first().expect("the client lives");
    if group.is_some() {
        let of_client = fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("the client lives");
        assert!(of_client.contains("/pod/container"), "{of_client}");
    }
    observer.until("the client's library is probed", |frame| is_attached(frame, pid));
    client.run();
    let truth = server.truth(4);
    assert_eq!(observer.until_ended(server.tls.port(), 4), truth);
    let frame = observer.next_frame();
    assert_eq!(Sums::of_client(&frame, pid), truth);
    let library = process(&frame, pid).and_then(|process| process.visibility.library.clone());
    let expected = image.path().join(name);
    assert_eq!(library.map(|path| path.as_str().to_owned()).as_deref(), expected.to_str(), "as it is seen inside");
    observer.assert_nothing_lost();
    drop(client);
    observer.stop();
}
