//! `hbpf agent` with a real Prometheus, and with those who mean it no good.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use hbpf_core::snapshot::{LlmStats, Series, SeriesRole};
use hbpf_e2e::{
    Agent, Client, DEADLINE, Server, children, curl, free_port, host, installed, loaded_programs, python, script, skip,
};
use nix::sys::signal::Signal;
use serde_json::Value;

const CALLS: u64 = 24;

/// Some succeed, some are refused.
fn client(server: &Server, python: &Path) -> Client {
    let mut command = Command::new(python);
    command.arg(script("clients/stdlib.py")).args(["--base-url", &server.plain_url(), "--threads", "2"]);
    command.args(["--count", &(CALLS / 2).to_string(), "--model", "demo", "--model", "demo-429err"]);
    command.env("HBPF_DEMO_PROMPT", "CANARYPROMPT").env("HBPF_DEMO_KEY", "CANARYKEY");
    Client::start(&mut command)
}

/// A Prometheus of Debian's.
struct Prometheus {
    child: Child,
    port: u16,
    _directory: tempfile::TempDir,
}

fn prometheus(name: &str) -> Option<PathBuf> {
    let program = installed("prometheus/usr/bin").join(name);
    if !program.exists() {
        skip("HBPF_REQUIRE_CLIENTS", "there is no Prometheus: `cargo xtask setup --full` fetches it");
        return None;
    }
    Some(program)
}

impl Prometheus {
    fn start(agent: &Agent, features: &[&str]) -> Option<Self> {
        let program = prometheus("prometheus")?;
        let directory = tempfile::tempdir().unwrap();
        let port = free_port();
        let configuration = format!(
            "global: {{ scrape_interval: 1s, scrape_timeout: 1s }}\nscrape_configs:\n- job_name: hbpf\n  honor_labels: true\n  \
             static_configs: [{{ targets: ['127.0.0.1:{}'] }}]\n",
            agent.metrics_port()
        );
        let file = directory.path().join("prometheus.yml");
        fs::write(&file, configuration).unwrap();
        let mut command = Command::new(program);
        command.arg(format!("--config.file={}", file.display()));
        command.arg(format!("--storage.tsdb.path={}", directory.path().join("data").display()));
        command.arg(format!("--web.listen-address=127.0.0.1:{port}")).args(features);
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        Some(Self { child, port, _directory: directory })
    }

    /// What an expression gives now: of each series its labels and value.
    fn query(&self, expression: &str) -> Vec<(Value, f64)> {
        let mut command = Command::new("curl");
        command.args(["-G", "--data-urlencode"]).arg(format!("query={expression}"));
        command.arg(format!("http://127.0.0.1:{}/api/v1/query", self.port));
        let (status, body) = curl(command);
        if status == 0 {
            // It starts.
            return Vec::new();
        }
        let answer: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(answer["status"], "success", "{expression}: {answer}");
        let rows = answer["data"]["result"].as_array().cloned().unwrap_or_default();
        rows.iter().map(|row| (row["metric"].clone(), row["value"][1].as_str().unwrap().parse().unwrap())).collect()
    }

    /// How it gets on with what it asks.
    fn targets(&self) -> String {
        let mut command = Command::new("curl");
        command.arg(format!("http://127.0.0.1:{}/api/v1/targets", self.port));
        String::from_utf8_lossy(&curl(command).1).into_owned()
    }

    /// Its one value.
    fn value(&self, expression: &str) -> Option<f64> {
        self.query(expression).first().map(|(_, value)| *value)
    }

    fn until(&self, expression: &str, wanted: f64) {
        let give_up = Instant::now() + DEADLINE;
        while self.value(expression) != Some(wanted) {
            let about = || (self.value(expression), self.value("up"), self.value("scrape_duration_seconds"));
            assert!(Instant::now() < give_up, "{expression} is not {wanted}: {:?}, {}", about(), self.targets());
            thread::sleep(Duration::from_millis(250));
        }
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The one series of a side of the stand-in server's model.
fn series(agent: &Agent, role: SeriesRole, model: &str) -> Series {
    let rows = agent.snapshot().series.expect("an agent has series").rows;
    let is_it = |row: &&Series| row.role == role && row.model.as_deref() == Some(model);
    let found: Vec<_> = rows.iter().filter(is_it).cloned().collect();
    assert_eq!(
        found.len(),
        1,
        "{:?}",
        rows.iter().map(|row| (&row.workload, row.role, &row.model)).collect::<Vec<_>>()
    );
    found[0].clone()
}

fn close(one: f64, other: f64) -> bool {
    (one - other).abs() <= 1e-9 * one.abs().max(1.0)
}

#[test]
fn a_real_prometheus_has_the_numbers_of_the_snapshot() {
    let Some(_host) = host() else { return };
    let Some(python) = python() else { return };
    let Some(promtool) = prometheus("promtool") else { return };
    let server = Server::start(&["--ttft", "20", "--rate", "400", "--word", "CANARYANSWER"]);
    let agent = Agent::start(&[]);
    let Some(classic) = Prometheus::start(&agent, &[]) else { return };
    let Some(native) = Prometheus::start(&agent, &["--enable-feature=native-histograms"]) else { return };
    let mut client = client(&server, &python);
    client.run();
    let truth = server.truth(CALLS as usize);
    for one in [&classic, &native] {
        // Both ends are of the test's tree of processes, and counted once.
        one.until(r#"sum(hbpf_llm_requests_ended_total{role="internal"})"#, truth.requests as f64);
        one.until(r#"hbpf_llm_requests_in_flight{role="internal",model="demo"}"#, 0.0);
        one.until(r#"sum(hbpf_llm_tokens_total{role="internal",type="output"})"#, truth.output as f64);
        one.until(r#"sum(hbpf_llm_tokens_total{role="internal",type="input"})"#, truth.input as f64);
        one.until(r#"sum(hbpf_llm_rate_limited_total{role="internal"})"#, truth.failed as f64);
        one.until("sum(hbpf_host_llm_requests_total)", truth.requests as f64);
    }
    let row = series(&agent, SeriesRole::Internal, "demo");
    let LlmStats { latency, .. } = &row.stats;
    let times = latency.since_start.time_to_first_token_seconds.as_ref().expect("it has streamed");
    let of = r#"{role="internal",model="demo"}"#;
    let ask = |one: &Prometheus, question: &str| one.value(&question.replace("OF", of)).unwrap_or(f64::NAN);
    assert_eq!(ask(&classic, "hbpf_llm_time_to_first_token_seconds_countOF"), times.count as f64);
    assert!(close(ask(&classic, "hbpf_llm_time_to_first_token_seconds_sumOF"), times.sum));
    assert_eq!(ask(&native, "histogram_count(hbpf_llm_time_to_first_token_secondsOF)"), times.count as f64);
    assert!(close(ask(&native, "histogram_sum(hbpf_llm_time_to_first_token_secondsOF)"), times.sum));
    // Within the classic bucket, a doubling, and within the native one, nine percent.
    let classic_p50 = ask(&classic, "histogram_quantile(0.5, hbpf_llm_time_to_first_token_seconds_bucketOF)");
    let native_p50 = ask(&native, "histogram_quantile(0.5, hbpf_llm_time_to_first_token_secondsOF)");
    assert!((0.5..2.0).contains(&(classic_p50 / times.p50)), "{classic_p50} {}", times.p50);
    assert!((0.9..1.1).contains(&(native_p50 / times.p50)), "{native_p50} {}", times.p50);
    // What is checked by Prometheus's own tool.
    let text = agent.get_metrics("text/plain");
    let mut check =
        Command::new(promtool).args(["check", "metrics"]).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    check.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = check.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(!text.contains("CANARY") && !agent.get_metrics("application/openmetrics-text").contains("CANARY"));
    let (status, said) = agent.stop();
    assert!(status.success() && said.is_empty(), "{said:?}");
}

#[test]
fn it_ends_in_order_and_reads_its_files_again() {
    let Some(_host) = host() else { return };
    let before = loaded_programs();
    let directory = tempfile::tempdir().unwrap();
    let (token, config) = (directory.path().join("token"), directory.path().join("config.toml"));
    fs::write(&token, "0123456789abcdef0123456789abcdef\n").unwrap();
    let port = free_port();
    let settings = |more: &str| format!("[agent]\ntoken_file = {:?}\n{more}", token.display().to_string());
    fs::write(&config, settings("")).unwrap();
    let mut agent = Agent::start(&["--config", config.to_str().unwrap()]);
    assert!(!loaded_programs().is_subset(&before));
    let ask = |token: &str, host: &str| {
        let mut command = Command::new("curl");
        command.args(["-H", &format!("Authorization: Bearer {token}"), "-H", &format!("Host: {host}")]);
        command.arg(format!("http://127.0.0.1:{port}/snapshot"));
        curl(command).0
    };
    let [first, second] = ["0123456789abcdef0123456789abcdef", "another-token-that-is-long-enough"];
    // By the command line only a socket was asked for; what the file adds is a listener of its own.
    fs::write(&config, settings("interval = \"1y\"\n")).unwrap();
    agent.signal(Signal::SIGHUP);
    agent
        .until("it complains", |agent| agent.said().iter().any(|line| line.contains("not reloaded, all is as it was")));
    assert_eq!(agent.get("/healthz").0, 200);
    fs::write(&config, settings(&format!("metrics_listen = [\"127.0.0.1:{port}\"]\n"))).unwrap();
    agent.signal(Signal::SIGHUP);
    agent.until("it says so", |agent| agent.said().iter().any(|line| line.ends_with("reloaded")));
    assert_eq!(ask(first, "localhost"), 0, "the option on the command line holds");
    // A publisher that dies is replaced, and the collection goes on.
    let began = agent.snapshot().observation_started_at;
    let publisher = *children(agent.pid()).last().unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(publisher.cast_signed()), Signal::SIGKILL).unwrap();
    agent.until("another one answers", |agent| {
        agent.get("/healthz").0 == 200 && !children(agent.pid()).contains(&publisher)
    });
    assert_eq!(agent.snapshot().observation_started_at, began, "it has not begun anew");
    let (status, _) = agent.stop();
    assert!(status.success());
    assert!(loaded_programs().is_subset(&before), "programs are left in the kernel");

    // The token over TCP, and another one after a reload.
    let mut command = Command::new(&hbpf_e2e::programs().hbpf);
    command.args(["agent", "--no-tls", "--listen", &format!("127.0.0.1:{port}"), "--token-file"]).arg(&token);
    let mut child = command.stderr(Stdio::null()).spawn().unwrap();
    let until = |what: &str, holds: &dyn Fn() -> bool| {
        let give_up = Instant::now() + DEADLINE;
        while !holds() {
            assert!(Instant::now() < give_up, "not in time: {what}");
            thread::sleep(Duration::from_millis(100));
        }
    };
    until("it answers", &|| ask(first, "localhost") == 200);
    assert_eq!((ask(second, "localhost"), ask(first, "evil.example")), (401, 421));
    fs::write(&token, second).unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(child.id().cast_signed()), Signal::SIGHUP).unwrap();
    until("the new token holds", &|| ask(second, "localhost") == 200);
    assert_eq!(ask(first, "localhost"), 401);
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(child.id().cast_signed()), Signal::SIGTERM).unwrap();
    assert!(child.wait().unwrap().success());
}

#[test]
fn what_is_not_safe_is_refused_in_one_line() {
    let token = tempfile::NamedTempFile::new().unwrap();
    fs::write(token.path(), "0123456789abcdef").unwrap();
    fs::set_permissions(token.path(), fs::Permissions::from_mode(0o600)).unwrap();
    let token = token.path().to_str().unwrap();
    for (arguments, why) in [
        (vec!["--listen", "127.0.0.1:0"], "needs --token-file"),
        (vec!["--listen", "0.0.0.0:0", "--token-file", token], "needs --tls-cert and --tls-key, or --insecure"),
        (vec!["--token-file", "/none"], "cannot open /none"),
        (vec!["--listen", "nowhere"], "write unix:/a/path, ADDRESS:PORT or :PORT"),
        (vec!["--otlp-endpoint", "ftp://x"], "begins with neither http:// nor https://"),
    ] {
        let output = Command::new(&hbpf_e2e::programs().hbpf).arg("agent").args(&arguments).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && said.contains(why), "{arguments:?}: {said}");
    }
}

/// Opens a connection and sends that.
fn sends(port: u16, bytes: &[u8]) -> Option<TcpStream> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(DEADLINE)).ok()?;
    stream.write_all(bytes).ok()?;
    Some(stream)
}

fn resident(pids: impl Iterator<Item = u32>) -> u64 {
    let of = |pid| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let line =
            status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?.trim().trim_end_matches(" kB").to_owned();
        line.parse::<u64>().ok()
    };
    pids.filter_map(of).sum()
}

#[test]
fn a_listener_that_is_abused_goes_on() {
    let Some(_host) = host() else { return };
    let agent = Agent::start(&["--no-tls"]);
    let port = agent.metrics_port();
    let before = resident(children(agent.pid()).into_iter());
    // Requests that are none.
    for bytes in [
        &b"\x00\x01\x02"[..],
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello",
        b"GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n",
    ] {
        let mut answer = [0; 64];
        let mut stream = sends(port, bytes).expect("it listens");
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let read = stream.read(&mut answer).unwrap_or(0);
        let answer = String::from_utf8_lossy(&answer[..read]).into_owned();
        assert!(read == 0 || answer.starts_with("HTTP/1.1 4"), "{answer}");
    }
    // A head that never ends.
    if let Some(mut stream) = sends(port, b"GET /metrics HTTP/1.1\r\n") {
        while stream.write_all(&[b'x'; 1000]).is_ok() {}
    }
    // Many that say nothing hold all places; what is more is closed, until theirs is over.
    let held: Vec<_> = (0..10_000).filter_map(|_| sends(port, b"GET /met")).take(2000).collect();
    let give_up = Instant::now() + DEADLINE;
    while curl({
        let mut command = Command::new("curl");
        command.arg(format!("http://127.0.0.1:{port}/healthz"));
        command
    })
    .0 != 200
    {
        assert!(Instant::now() < give_up, "nobody is served any more");
        thread::sleep(Duration::from_millis(500));
    }
    drop(held);
    let text = agent.get_metrics("text/plain");
    let number = |name: &str| {
        let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("{name} in {text}"));
        line.rsplit_once(' ').unwrap().1.parse::<f64>().unwrap()
    };
    assert!(number("hbpf_agent_connections_refused_total ") >= 1000.0);
    assert!(number(r#"hbpf_agent_http_requests_total{path="other",status="404"}"#) >= 1.0);
    let after = resident(children(agent.pid()).into_iter());
    assert!(after < before + 64 * 1024, "{before} KiB before, {after} after");
    let said = agent.said();
    let of = |what: &str| said.iter().filter(|line| line.contains(what)).count();
    assert!((1..=3).contains(&of("what is more is closed")), "{said:?}");
    assert!(said.len() < 20, "{said:?}");
    assert!(agent.stop().0.success());
}
