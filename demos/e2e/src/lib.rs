//! What the end-to-end tests share: the programs under test, a stand-in server with its own record, clients, and hbpf
//! itself, whose frames are read as they come.
//!
//! hbpf looks at the whole host, so tests look at their own server's port only, and one test runs at a time.
//!
//! The functions here panic where a test is to fail: they are called by tests and benches only.

mod agent;
mod client;
mod namespace;
mod network;
mod nginx;
mod observer;
mod packet;
mod programs;
mod prometheus;
mod server;
mod terminal;
mod tracer;
mod truth;

pub use agent::{Agent, curl};
pub use client::Client;
pub use namespace::Namespace;
pub use network::{End, Faults, Network};
pub use nginx::{Nginx, free_port};
pub use observer::{Observer, loaded_programs};
pub use packet::Packet;
pub use programs::{
    full, go, go_program, installed, package, programs, python, python_with, rust_program, script, tool,
    use_programs_in,
};
pub use prometheus::{Prometheus, prometheus_tool};
pub use server::Server;
pub use terminal::{Terminal, Tmux, without_sequences};
pub use tracer::Tracer;
pub use truth::{Entry, Outcome, Sums, exact_or_marked, percentile};

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How long anything may take before a test gives up. Generous: a loaded machine is no failure.
pub const DEADLINE: Duration = Duration::from_secs(120);

/// Lets one test at a time observe the host. `None` where it cannot be observed; then the reason has been printed.
#[must_use]
pub fn host() -> Option<MutexGuard<'static, ()>> {
    static HOST: Mutex<()> = Mutex::new(());
    let guard = HOST.lock().unwrap_or_else(PoisonError::into_inner);
    if nix::unistd::geteuid().is_root() {
        return Some(guard);
    }
    skip("HBPF_REQUIRE_BPF", "loading probes needs root");
    None
}

/// The same for tests that make networks of their own.
#[must_use]
pub fn host_with_networks() -> Option<MutexGuard<'static, ()>> {
    let guard = host()?;
    let has_ip = Command::new("ip").arg("-V").output().is_ok_and(|output| output.status.success());
    if has_ip && Path::new("/dev/net/tun").exists() {
        return Some(guard);
    }
    skip("HBPF_REQUIRE_CLIENTS", "networks are made of TUN devices (/dev/net/tun) by ip (Debian: iproute2)");
    None
}

/// Says why a test does not run, past the test runner's capture of output. Fails it where `variable` demands that it run.
pub fn skip(variable: &str, why: &str) {
    assert!(std::env::var_os(variable).is_none_or(|value| value != "1"), "{why}, and {variable}=1");
    let test = std::thread::current().name().unwrap_or("test").to_owned();
    // Standard error may be closed; the test has no opinion on that.
    let _ = writeln!(std::io::stderr(), "{test} skipped: {why}");
}

/// The processes that `pid` has forked and that live.
pub fn children(pid: u32) -> Vec<u32> {
    let path = format!("/proc/{pid}/task/{pid}/children");
    fs::read_to_string(path).unwrap_or_default().split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}
