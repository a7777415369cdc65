//! wrk on nginx: plain HTTP of a server that has nothing to do with models.

use std::fmt::Write as _;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use super::{Context, Outcome};
use crate::compare::{Arm, Better, in_turns};
use crate::empty::Empty;
use crate::hbpf::Hbpf;
use crate::report::{Section, Table};
use crate::tool;

/// How long nginx may take to listen.
const PATIENCE: Duration = Duration::from_secs(10);
/// Connections that wrk keeps busy: enough that nginx always has something to do.
const CONNECTIONS: &str = "16";
/// Bytes of the answer: a small page.
const BODY_BYTES: usize = 1024;
/// What a server with keep-alive may lose, in percent.
const AIM_PERCENT: f64 = 2.0;

pub(super) fn run(context: &Context) -> Result<Outcome> {
    let (Some(nginx), Some(wrk)) = (tool::find("nginx"), tool::find("wrk")) else {
        return Ok(Outcome::Skipped("needs nginx and wrk: `apt-get install nginx-light wrk`".into()));
    };
    let nginx = Nginx::start(&nginx)?;
    let seconds = context.effort.seconds;
    let [kept, fresh] = in_turns(context.effort.rounds, &[Arm::Without, Arm::With, Arm::Empty], |arm| {
        let _hbpf = (arm == Arm::With).then(Hbpf::start).transpose()?;
        let _empty = (arm == Arm::Empty).then(Empty::at_packets).transpose()?;
        Ok([
            requests_per_second(&wrk, &nginx.url, seconds, true)?,
            requests_per_second(&wrk, &nginx.url, seconds, false)?,
        ])
    })?;
    let mut section = Section::default();
    let mut table =
        Table::new(&["requests per second", "without hbpf", "with", "cost (middle half)", "empty programs", "noise"]);
    for (what, rounds) in [("keep-alive", &kept), ("a connection per request", &fresh)] {
        table.row([
            what.to_owned(),
            format!("{:.0}", rounds.median(Arm::Without)),
            format!("{:.0}", rounds.median(Arm::With)),
            rounds.cost(Arm::With, Better::More).to_string(),
            rounds.cost(Arm::Empty, Better::More).to_string(),
            format!("{:.1} %", rounds.noise()),
        ]);
    }
    section.table(
        &format!(
            "One worker, {CONNECTIONS} connections, answers of {BODY_BYTES} bytes. wrk runs on the same machine, so \
                  hbpf looks at both ends of each connection. Empty programs are at the packets, too."
        ),
        table,
    );
    let cost = kept.cost(Arm::With, Better::More);
    let verdict = kept.verdict(Arm::With, Better::More, AIM_PERCENT);
    section.aim(&format!("keep-alive: below {AIM_PERCENT} %"), cost.to_string(), verdict);
    Ok(Outcome::Done(section))
}

/// An nginx of our own, beside whatever the system runs.
struct Nginx {
    child: Child,
    url: String,
    _directory: tempfile::TempDir,
}

impl Nginx {
    fn start(program: &Path) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        // Free a moment ago, and so most likely now.
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let place = directory.path().display();
        let mut configuration = format!(
            "daemon off;\nmaster_process off;\nworker_processes 1;\npid {place}/pid;\nerror_log {place}/error.log;\n\
             events {{ worker_connections 1024; }}\nhttp {{\n  access_log off;\n  keepalive_requests 1000000000;\n"
        );
        for kind in ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"] {
            writeln!(configuration, "  {kind}_temp_path {place}/{kind};")?;
        }
        let body = "x".repeat(BODY_BYTES);
        writeln!(configuration, "  server {{ listen 127.0.0.1:{port}; location / {{ return 200 {body}; }} }}\n}}")?;
        let file = directory.path().join("nginx.conf");
        std::fs::write(&file, configuration)?;
        let child = Command::new(program)
            .args(["-e", "stderr", "-p"])
            .arg(directory.path())
            .arg("-c")
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("cannot start nginx")?;
        let nginx = Self { child, url: format!("http://127.0.0.1:{port}/"), _directory: directory };
        let give_up = Instant::now() + PATIENCE;
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            ensure!(Instant::now() < give_up, "nginx does not listen");
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(nginx)
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // An error means that it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn requests_per_second(wrk: &Path, url: &str, seconds: f64, keep_alive: bool) -> Result<f64> {
    // wrk takes whole seconds.
    let duration = format!("{:.0}s", seconds.max(1.0));
    let mut command = Command::new(wrk);
    command.args(["--threads", "1", "--connections", CONNECTIONS, "--duration", &duration]);
    if !keep_alive {
        command.args(["--header", "Connection: close"]);
    }
    let output = command.arg(url).output().context("cannot run wrk")?;
    ensure!(output.status.success(), "wrk ended with {}", output.status);
    rate(&String::from_utf8_lossy(&output.stdout)).context("wrk says no rate")
}

fn rate(said: &str) -> Option<f64> {
    said.lines().find_map(|line| line.trim().strip_prefix("Requests/sec:")?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::rate;

    #[test]
    fn the_rate_is_found() {
        assert_eq!(rate("  2 threads\nRequests/sec:  52312.25\nTransfer/sec: 9MB\n"), Some(52312.25));
        assert_eq!(rate("unable to connect"), None);
    }
}
