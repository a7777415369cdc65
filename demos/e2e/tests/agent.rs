//! `hbpf agent` with a real Prometheus, and with those who mean it no good.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use hbpf_core::snapshot::{LlmStats, Series, SeriesRole};
use hbpf_e2e::{
    Agent, Client, DEADLINE, Prometheus, Server, children, curl, free_port, host, loaded_programs, prometheus_tool,
    python, script,
};
use nix::sys::resource::{Resource, setrlimit};
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
    let Some(promtool) = prometheus_tool("promtool") else { return };
    let server = Server::start(&["--ttft", "20", "--rate", "400", "--word", "CANARYANSWER"]);
    let agent = Agent::start(&[]);
    let Some(classic) = Prometheus::start(&[agent.metrics_port()], &[]) else { return };
    let Some(native) = Prometheus::start(&[agent.metrics_port()], &["--enable-feature=native-histograms"]) else {
        return;
    };
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

/// Expressions of a dashboard's panels, those in rows too.
fn expressions(dashboard: &Value) -> Vec<String> {
    let panels = dashboard["panels"].as_array().cloned().unwrap_or_default();
    let own = |panel: &Value| {
        let targets = panel["targets"].as_array().cloned().unwrap_or_default();
        targets.iter().filter_map(|target| target["expr"].as_str().map(str::to_owned)).collect::<Vec<_>>()
    };
    panels.iter().flat_map(|panel| [own(panel), expressions(panel)].concat()).collect()
}

/// Names of hbpf's metrics in a text.
fn names(text: &str) -> BTreeSet<&str> {
    let words = text.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
    words.filter(|word| word.starts_with("hbpf_")).collect()
}

#[test]
fn dashboards_and_alerts_ask_for_what_is_there() {
    let Some(_host) = host() else { return };
    let Some(python) = python() else { return };
    let server = Server::start(&["--ttft", "20", "--rate", "400"]);
    let agent = Agent::start(&["--groups", "all", "--interval", "1s"]);
    let Some(prometheus) = Prometheus::start(&[agent.metrics_port()], &[]) else { return };
    let mut client = client(&server, &python);
    client.run();
    prometheus.until("sum(hbpf_host_llm_requests_ended_total)", CALLS as f64);
    // Rates want two scrapes.
    thread::sleep(Duration::from_secs(3));
    let text = agent.get_metrics("text/plain");
    let there = names(&text);
    let mut asked = 0;
    for entry in fs::read_dir(script("../deploy/grafana")).unwrap() {
        let path = entry.unwrap().path();
        let dashboard: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
        for expression in expressions(&dashboard) {
            let filled = ["$instance", "$workload", "$model", "$namespace"]
                .into_iter()
                .fold(expression.clone(), |it, of| it.replace(of, ".*"));
            let filled = filled.replace("$__rate_interval", "30s").replace("$__range", "30s");
            // It fails where Prometheus does not understand it.
            let rows = prometheus.query(&filled);
            // Of what this host has not, GPUs and inference servers, there is nothing.
            let has_all = names(&filled).iter().all(|name| there.contains(name));
            assert!(!rows.is_empty() || !has_all, "{}: {expression} gives nothing", path.display());
            asked += usize::from(!rows.is_empty());
        }
    }
    assert!(asked > 40, "{asked}");
    let give_up = Instant::now() + DEADLINE;
    let rules = loop {
        let groups = prometheus.get("/api/v1/rules")["data"]["groups"].as_array().cloned().unwrap_or_default();
        let rules: Vec<Value> =
            groups.iter().flat_map(|group| group["rules"].as_array().cloned().unwrap_or_default()).collect();
        if !rules.is_empty() && rules.iter().all(|rule| rule["health"] != "unknown") {
            break rules;
        }
        assert!(Instant::now() < give_up, "rules are not evaluated: {rules:?}");
        thread::sleep(Duration::from_millis(250));
    };
    for rule in rules {
        assert_eq!(rule["health"], "ok", "{rule}");
    }
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
    // The kernel lets go of them when nobody can be running them any more.
    let give_up = Instant::now() + DEADLINE;
    while !loaded_programs().is_subset(&before) {
        assert!(Instant::now() < give_up, "programs are left in the kernel");
        thread::sleep(Duration::from_millis(100));
    }

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

fn is_served(port: u16) -> bool {
    let mut command = Command::new("curl");
    command.arg(format!("http://127.0.0.1:{port}/healthz"));
    curl(command).0 == 200
}

/// Connections that are held at once.
const HELD: u64 = 10_000;

/// Who sends a byte now and then is let go of, and neither that nor who does not read keeps others waiting.
#[test]
fn slow_clients_keep_nobody_waiting() {
    const SENDERS: usize = 60;
    const READERS: usize = 40;
    let Some(_host) = host() else { return };
    let agent = Agent::start(&["--no-tls"]);
    let port = agent.metrics_port();
    let before = resident(children(agent.pid()).into_iter());
    let request = format!("GET /metrics HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n");
    let readers: Vec<TcpStream> = (0..READERS)
        .map(|_| {
            let mut stream = sends(port, request.as_bytes()).expect("it listens");
            stream.set_nonblocking(true).unwrap();
            // Until it takes no more.
            while stream.write_all(request.as_bytes()).is_ok() {}
            stream
        })
        .collect();
    let mut senders: Vec<TcpStream> =
        (0..SENDERS).map(|_| sends(port, b"GET /metrics HTTP/1.1\r\nX: ").expect("it listens")).collect();
    let give_up = Instant::now() + DEADLINE;
    while !senders.is_empty() {
        assert!(is_served(port));
        assert!(Instant::now() < give_up, "{} of those that send slowly are still there", senders.len());
        senders.retain_mut(|stream| stream.write_all(b"x").is_ok());
        thread::sleep(Duration::from_millis(200));
    }
    let after = resident(children(agent.pid()).into_iter());
    assert!(after < before + 64 * 1024, "{before} KiB before, {after} after");
    drop(readers);
    assert!(agent.stop().0.success());
}

#[test]
fn a_listener_that_is_abused_goes_on() {
    let Some(_host) = host() else { return };
    let agent = Agent::start(&["--no-tls"]);
    let port = agent.metrics_port();
    let before = resident(children(agent.pid()).into_iter());
    // Requests that are none, and those that are refused. Who has hung up before the answer gets none.
    for (bytes, is_whole) in [
        (&b"\x00\x01\x02"[..], false),
        (b"GET / HTTP/9.9\r\n\r\n", false),
        (b"POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello", true),
        (b"GET /nothing HTTP/1.1\r\nHost: localhost\r\n\r\n", true),
    ] {
        let mut answer = [0; 64];
        let mut stream = sends(port, bytes).expect("it listens");
        if !is_whole {
            let _ = stream.shutdown(std::net::Shutdown::Write);
        }
        let read = stream.read(&mut answer).unwrap_or(0);
        let answer = String::from_utf8_lossy(&answer[..read]).into_owned();
        assert!(read == 0 && !is_whole || answer.starts_with("HTTP/1.1 4"), "{answer}");
    }
    // A head that never ends.
    if let Some(mut stream) = sends(port, b"GET /metrics HTTP/1.1\r\n") {
        while stream.write_all(&[b'x'; 1000]).is_ok() {}
    }
    // Many that say nothing hold all places; what is more is closed, until theirs is over.
    setrlimit(Resource::RLIMIT_NOFILE, 2 * HELD, 2 * HELD).expect("root may open more files");
    let held: Vec<_> = (0..HELD).map(|_| sends(port, b"GET /met").expect("it listens")).collect();
    let give_up = Instant::now() + DEADLINE;
    while !is_served(port) {
        assert!(Instant::now() < give_up, "nobody is served any more");
        thread::sleep(Duration::from_millis(500));
    }
    drop(held);
    let text = agent.get_metrics("text/plain");
    let number = |name: &str| {
        let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("{name} in {text}"));
        line.rsplit_once(' ').unwrap().1.parse::<f64>().unwrap()
    };
    assert!(number("hbpf_agent_connections_refused_total ") >= HELD as f64 / 2.0);
    assert!(number(r#"hbpf_agent_http_requests_total{path="other",status="404"}"#) >= 1.0);
    // Who calls it by another's name is a page in a browser, for all that is known.
    assert!(number(r#"hbpf_agent_http_requests_total{path="/metrics",status="421"}"#) >= 1.0);
    let after = resident(children(agent.pid()).into_iter());
    assert!(after < before + 64 * 1024, "{before} KiB before, {after} after");
    let said = agent.said();
    let of = |what: &str| said.iter().filter(|line| line.contains(what)).count();
    assert!((1..=3).contains(&of("what is more is closed")), "{said:?}");
    assert!(said.len() < 20, "{said:?}");
    assert!(agent.stop().0.success());
}
