//! Clients that stay, and clients that come and go: some end as they should, some are killed.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use hbpf_e2e::Server;

use super::check::Killed;
use crate::load::clock;
use crate::tool;

/// Between two clients that come.
const PACE: Duration = Duration::from_secs(4);
/// Those that come stay until so many others have come.
const GUESTS: usize = 4;

/// All clients of a soak.
pub(super) struct Clients {
    residents: Vec<Child>,
    guests: Vec<Child>,
    next: Instant,
    /// How many have come.
    number: usize,
    killed: Killed,
    python: PathBuf,
    /// Vendors' SDKs that are here.
    sdks: Vec<&'static str>,
}

impl Clients {
    /// Starts those that stay: as in the demo.
    pub(super) fn start(server: &Server) -> Result<Self> {
        let python = tool::python_with("ssl").context("needs python3 with its module ssl")?;
        let sdks = ["openai", "anthropic"].into_iter().filter(|sdk| tool::python_with(sdk).is_some()).collect();
        let (residents, guests) = (Vec::new(), Vec::new());
        let (next, killed) = (Instant::now(), Killed::default());
        let mut clients = Self { residents, guests, next, number: 0, killed, python, sdks };
        let (tls, plain) = (server.tls_url(), server.plain_url());
        for (url, path, threads) in
            [(&tls, "/v1/chat/completions", "4"), (&tls, "/v1/messages", "3"), (&plain, "/api/chat", "2")]
        {
            let client = clients.stdlib(server, url, path, threads)?;
            clients.residents.push(client);
        }
        for sdk in clients.sdks.clone() {
            let client = clients.sdk(server, sdk, "async")?;
            clients.residents.push(client);
        }
        Ok(clients)
    }

    /// Lets one come and another go, when it is time to.
    pub(super) fn churn(&mut self, server: &Server) -> Result<()> {
        if Instant::now() < self.next {
            return Ok(());
        }
        self.next = Instant::now() + PACE;
        self.number += 1;
        let (tls, plain) = (server.tls_url(), server.plain_url());
        let guest = match (self.number % 4, self.sdks.as_slice()) {
            (0, [sdk, ..]) => self.sdk(server, sdk, "sync")?,
            (0 | 1, _) => self.stdlib(server, &tls, "/v1/chat/completions", "2")?,
            (2, _) => self.stdlib(server, &plain, "/api/chat", "2")?,
            _ => self.stdlib(server, &plain, "/v1/messages", "2")?,
        };
        self.guests.push(guest);
        if self.guests.len() > GUESTS {
            let guest = self.guests.remove(0);
            self.kill(guest);
        }
        Ok(())
    }

    /// Those that should have stayed and have ended by themselves.
    pub(super) fn deserters(&mut self) -> usize {
        let all = self.residents.iter_mut().chain(&mut self.guests);
        all.filter_map(|client| client.try_wait().ok().flatten()).count()
    }

    /// Ends all of them.
    pub(super) fn end(&mut self) {
        for client in self.residents.drain(..).chain(self.guests.drain(..)).collect::<Vec<_>>() {
            self.kill(client);
        }
    }

    /// Those that were killed, and when.
    pub(super) fn killed(&self) -> &Killed {
        &self.killed
    }

    fn kill(&mut self, mut client: Child) {
        self.killed.push(client.id(), clock());
        // An error means that it has ended already.
        let _ = client.kill();
        let _ = client.wait();
    }

    fn stdlib(&self, server: &Server, url: &str, path: &str, threads: &str) -> Result<Child> {
        let mut command = Command::new(&self.python);
        command.arg(hbpf_e2e::script("clients/stdlib.py")).args(["--go", "--base-url", url, "--path", path]);
        command.args(["--threads", threads, "--between"]);
        spawn(command.arg("--ca").arg(server.certificate("ca.pem")))
    }

    fn sdk(&self, server: &Server, sdk: &str, mode: &str) -> Result<Child> {
        let mut command = Command::new(&self.python);
        command.arg(hbpf_e2e::script("clients/sdk.py")).args(["--api", sdk, "--mode", mode, "--go", "--endless"]);
        command.args(["--concurrency", "4", "--retries", "2", "--base-url", &server.tls_url()]);
        spawn(command.arg("--ca").arg(server.certificate("ca.pem")))
    }
}

impl Drop for Clients {
    fn drop(&mut self) {
        self.end();
    }
}

/// Its standard input is a pipe of ours: it ends when we do, however we do.
fn spawn(command: &mut Command) -> Result<Child> {
    let child = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    child.context("cannot start a client")
}
