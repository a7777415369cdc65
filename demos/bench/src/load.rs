//! Traffic to look at: the stand-in server and clients that end with this process.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use hbpf_e2e::Server;
use nix::time::{ClockId, clock_gettime};

/// Processes that are killed when this is dropped.
#[derive(Default)]
pub(crate) struct Children(Vec<Child>);

impl Children {
    /// Starts one. Its standard input is a pipe of ours, so that it can end when we do, however we do.
    pub(crate) fn spawn(&mut self, command: &mut Command) -> Result<()> {
        let program = command.get_program().to_string_lossy().into_owned();
        let child = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        self.0.push(child.with_context(|| format!("cannot start {program}"))?);
        Ok(())
    }
}

impl Drop for Children {
    fn drop(&mut self) {
        for child in &mut self.0 {
            // An error means that it has ended already.
            let _ = child.kill();
        }
        for child in &mut self.0 {
            let _ = child.wait();
        }
    }
}

/// Clients of Python's standard library, as in the demo: chat and messages over TLS, Ollama's API plain.
pub(crate) fn demo_clients(python: &Path, server: &Server) -> Result<Children> {
    let mut children = Children::default();
    let (tls, plain) = (server.tls_url(), server.plain_url());
    let clients = [(&tls, "/v1/chat/completions", "4"), (&tls, "/v1/messages", "3"), (&plain, "/api/chat", "2")];
    for (url, path, threads) in clients {
        let mut client = Command::new(python);
        client.arg(hbpf_e2e::script("clients/stdlib.py")).args(["--go", "--base-url", url, "--path", path]);
        client.arg("--ca").arg(server.certificate("ca.pem")).args(["--threads", threads, "--between"]);
        children.spawn(&mut client)?;
    }
    Ok(children)
}

/// CLOCK_MONOTONIC in nanoseconds: the clock of the server's record.
pub(crate) fn clock() -> u64 {
    let time = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("every Linux has this clock");
    u64::try_from(Duration::from(time).as_nanos()).unwrap_or(u64::MAX)
}
