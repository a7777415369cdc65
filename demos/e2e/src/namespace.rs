//! Network namespaces of a test's own.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::process::Command;
use std::thread;

use nix::sched::{CloneFlags, setns, unshare};

/// A network namespace. It has no name anywhere, so it ends with this value and the processes in it.
pub struct Namespace(File);

impl Namespace {
    /// A new one, with nothing but its loopback interface.
    pub fn new() -> Self {
        let made = on_a_thread(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("root may make network namespaces");
            File::open("/proc/thread-self/ns/net").expect("a thread has a network namespace")
        });
        let namespace = Self(made);
        namespace.set_up("ip link set lo up");
        namespace
    }

    /// Does this in the namespace: sockets that are opened and processes that are started meanwhile are in it.
    pub fn run<T: Send>(&self, act: impl FnOnce() -> T + Send) -> T {
        on_a_thread(|| {
            setns(&self.0, CloneFlags::CLONE_NEWNET).expect("root may enter network namespaces");
            act()
        })
    }

    /// Lays a cable to another namespace; its ends have these names here and there.
    pub fn connect(&self, here: &str, other: &Self, there: &str) {
        // Where `ip` finds a namespace that has no name.
        let path = format!("/proc/{}/fd/{}", std::process::id(), other.0.as_raw_fd());
        self.set_up(&format!("ip link add {here} type veth peer name {there} netns {path}"));
        self.set_up(&format!("ip link set {here} up"));
        other.set_up(&format!("ip link set {there} up"));
    }

    /// Runs one of the system's own commands in the namespace, and panics if it fails.
    pub fn set_up(&self, command: &str) {
        let mut words = command.split(' ');
        let mut process = Command::new(words.next().unwrap_or_default());
        process.args(words);
        let status = self.run(|| process.status());
        assert!(status.as_ref().is_ok_and(std::process::ExitStatus::success), "`{command}` failed: {status:?}");
    }

    /// Writes a setting of the namespace's network.
    pub fn set(&self, setting: &str, value: &str) {
        let path = format!("/proc/sys/net/{setting}");
        self.run(|| std::fs::write(&path, value)).unwrap_or_else(|error| panic!("{path}: {error}"));
    }
}

impl Default for Namespace {
    fn default() -> Self {
        Self::new()
    }
}

/// Which namespace a thread is in is the thread's own affair: one that ends afterwards leaves the others where they are.
fn on_a_thread<T: Send>(act: impl FnOnce() -> T + Send) -> T {
    let joined = thread::scope(|scope| scope.spawn(act).join());
    joined.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}
