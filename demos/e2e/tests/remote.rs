//! `--connect` and `--prometheus`: other hosts, whose answers are not trusted.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Output};
use std::thread;
use std::time::Duration;

use hbpf_core::snapshot::{Snapshot, WorkloadKind};
use hbpf_e2e::{Agent, Client, Prometheus, Server, Tmux, free_port, host, programs, python, script};

const TOKEN: &str = "0123456789abcdef0123456789abcdef";
/// Nobody's: looking elsewhere needs no privileges.
const NOBODY: u32 = 65_534;

/// Runs hbpf as a user without privileges.
fn hbpf(arguments: &[&str]) -> Output {
    let mut command = Command::new(&programs().hbpf);
    command.args(arguments).uid(NOBODY).gid(NOBODY).current_dir("/");
    command.output().expect("hbpf starts")
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn snapshot(output: &Output) -> Snapshot {
    assert!(output.status.success(), "{}", said(output));
    serde_json::from_slice(&output.stdout).expect("it is a snapshot")
}

/// The live view in a terminal.
fn top(arguments: &[&str]) -> Option<Tmux> {
    let view = Tmux::start((120, 40))?;
    view.type_text(&format!("{} top {}", programs().hbpf.display(), arguments.join(" ")));
    view.press(&["Enter"]);
    Some(view)
}

fn calls(url: &str, python: &Path, count: usize) -> Client {
    let mut command = Command::new(python);
    command.arg(script("clients/stdlib.py")).args(["--base-url", url, "--threads", "2"]);
    Client::start(command.args(["--count", &(count / 2).to_string()]))
}

/// Files that nobody may read, too.
fn readable(directory: &tempfile::TempDir) {
    use std::os::unix::fs::PermissionsExt;
    for path in [directory.path().to_owned()]
        .into_iter()
        .chain(fs::read_dir(directory.path()).unwrap().map(|it| it.unwrap().path()))
    {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }
}

#[test]
fn one_host_is_looked_at_through_its_agent() {
    let Some(_host) = host() else { return };
    let Some(python) = python() else { return };
    let server = Server::start(&["--ttft", "20", "--rate", "400"]);
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str| directory.path().join(name).display().to_string();
    fs::write(file("token"), format!("{TOKEN}\n")).unwrap();
    fs::write(file("other-token"), "another-token-that-is-long-enough").unwrap();
    for name in ["ca.pem", "server.pem", "server-key.pem"] {
        fs::copy(server.certificate(name), file(name)).unwrap();
    }
    readable(&directory);
    let port = free_port();
    let address = format!("127.0.0.1:{port}");
    let agent = Agent::start(&[
        "--listen",
        &address,
        "--token-file",
        &file("token"),
        "--tls-cert",
        &file("server.pem"),
        "--tls-key",
        &file("server-key.pem"),
    ]);
    let mut client = calls(&server.plain_url(), &python, 10);
    client.run();
    let truth = server.truth(10);
    let (token, ca) = (file("token"), file("ca.pem"));
    let by = ["--token-file", &token, "--ca", &ca];
    let connect = |more: &[&str]| hbpf(&[&["snapshot", "--json", "--connect", &address][..], &by, more].concat());
    let seen = snapshot(&connect(&[]));
    assert_eq!(seen.host.hostname, agent.snapshot().host.hostname);
    let endpoint = seen.endpoints.iter().find(|it| it.port == Some(server.plain.port())).expect("it has been called");
    assert_eq!(endpoint.stats.completed_total, truth.requests);
    assert_eq!(endpoint.stats.tokens.output, Some(truth.output));
    // A stream of them, and the live view.
    let frames = connect(&["--interval", "600ms", "--count", "3"]);
    let sequences: Vec<u64> = String::from_utf8_lossy(&frames.stdout)
        .lines()
        .map(|line| serde_json::from_str::<Snapshot>(line).expect("it is a snapshot").sequence)
        .collect();
    assert!(sequences.len() == 3 && sequences.is_sorted_by(|a, b| a < b), "{sequences:?} {}", said(&frames));
    let Some(view) = top(&[&["--connect", &address][..], &by].concat()) else { return };
    view.until("the other host is shown", |screen| screen.contains(" REMOTE ") && screen.contains(" demo "));
    view.press(&["1"]);
    view.until("its probes are left alone", |screen| screen.contains("the agents decide what is probed"));
    drop(view);
    // What is wrong is said in a line.
    let refusals: [(&[&str], &str); 5] = [
        (&["--connect", &address, "--token-file", &file("other-token"), "--ca", &ca], "it wants another token"),
        (&["--connect", &address, "--token-file", &token], "whoever vouches for it is not known here"),
        (&["--connect", &format!("127.0.0.2:{port}"), "--token-file", &token, "--ca", &ca], "127.0.0.2"),
        (&["--connect", &format!("http://127.0.0.1:{}", agent.metrics_port())], "no agent's /snapshot"),
        (&["--connect", "http://192.0.2.1:9465"], "without TLS"),
    ];
    for (arguments, why) in refusals {
        let output = hbpf(&[&["snapshot", "--json"], arguments].concat());
        let text = said(&output);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {text}");
        assert!(text.contains(why) && text.lines().count() == 1 && output.stdout.is_empty(), "{arguments:?}: {text}");
        assert!(!text.contains(TOKEN), "{text}");
    }
    let (status, _) = agent.stop();
    assert!(status.success());
    let gone = connect(&[]);
    assert!(gone.status.code() == Some(1) && said(&gone).contains("refused"), "{}", said(&gone));
}

/// Answers every connection with the same, whatever it is asked.
fn liar(answer: impl Fn(&mut TcpStream, &[u8]) + Send + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut request = [0; 4096];
            let length = stream.read(&mut request).unwrap_or(0);
            answer(&mut stream, &request[..length]);
        }
    });
    url
}

fn body(stream: &mut TcpStream, body: &[u8]) {
    let head = format!("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n", body.len());
    let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body));
}

#[test]
fn who_answers_is_not_trusted() {
    let Some(_host) = host() else { return };
    let endless = |stream: &mut TcpStream, _: &[u8]| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
        let chunk = [b"10000\r\n".to_vec(), vec![b' '; 0x10000], b"\r\n".to_vec()].concat();
        while stream.write_all(&chunk).is_ok() {}
    };
    let directory = tempfile::tempdir().unwrap();
    let token = directory.path().join("token").display().to_string();
    fs::write(&token, TOKEN).unwrap();
    readable(&directory);
    let deep = "[".repeat(1 << 20);
    for option in ["--connect", "--prometheus"] {
        let deep = deep.clone();
        let liars = [
            liar(endless),
            liar(|stream, _| body(stream, b"no JSON \x1b[31m\x1b]0;title\x07")),
            liar(|stream, _| body(stream, br#"{"schema":"hbpf.snapshot/99"}"#)),
            liar(move |stream, _| body(stream, deep.as_bytes())),
            liar(|stream, _| _ = stream.write_all(b"SSH-2.0-OpenSSH_9.2\r\n")),
            liar(|stream, _| {
                _ = stream.write_all(b"HTTP/1.1 500 \x1b[31m\r\nContent-Length: 8\r\n\r\n\x1b]0;a\x07\n\n")
            }),
            liar(|_, _| {}),
            // What it was asked with, as pages of errors may show it.
            liar(body),
        ];
        for (number, url) in liars.iter().enumerate() {
            let output = hbpf(&["snapshot", "--json", option, url, "--token-file", &token]);
            let text = said(&output);
            assert_eq!(output.status.code(), Some(1), "{option} {number}: {text}");
            assert!(!text.contains(TOKEN), "{option} {number}: {text}");
            assert!(
                text.lines().count() == 1 && !text.contains('\x1b') && text.len() < 1000,
                "{option} {number}: {text}"
            );
        }
    }
}

#[test]
fn an_agent_that_goes_away_is_told_and_its_numbers_are_told_to_be_old() {
    let Some(_host) = host() else { return };
    let directory = tempfile::tempdir().unwrap();
    let token = directory.path().join("token").display().to_string();
    fs::write(&token, TOKEN).unwrap();
    readable(&directory);
    let address = format!("127.0.0.1:{}", free_port());
    let agent = Agent::start(&["--listen", &address, "--token-file", &token]);
    let url = format!("http://{address}");
    let Some(view) = top(&["--connect", &url, "--token-file", &token, "--interval", "500ms"]) else { return };
    view.until("the agent is shown", |screen| screen.contains(" REMOTE "));
    agent.stop();
    view.until("it is told to be gone", |screen| screen.contains("what is shown is") && screen.contains("old"));
    let agent = Agent::start(&["--listen", &address, "--token-file", &token]);
    view.until("it is back", |screen| !screen.contains("what is shown is"));
    agent.stop();
}

#[test]
fn many_hosts_are_looked_at_through_a_real_prometheus() {
    let Some(_host) = host() else { return };
    let Some(python) = python() else { return };
    const CALLS: usize = 60;
    let server = Server::start(&["--ttft", "20", "--rate", "400"]);
    // Two agents of one host are two hosts to a Prometheus.
    let agents = [Agent::start(&["--interval", "1s"]), Agent::start(&["--interval", "1s"])];
    let ports = [agents[0].metrics_port(), agents[1].metrics_port()];
    let Some(prometheus) = Prometheus::start(&ports, &[]) else { return };
    // A counter's first value is no increase.
    calls(&server.plain_url(), &python, 2).run();
    prometheus.until("sum(hbpf_host_llm_requests_ended_total)", 4.0);
    thread::sleep(Duration::from_secs(5));
    calls(&server.plain_url(), &python, CALLS).run();
    prometheus.until("sum(hbpf_host_llm_requests_ended_total)", (2 * (CALLS + 2)) as f64);
    thread::sleep(Duration::from_secs(3));
    let url = prometheus.url();
    let names = ports.map(|port| format!("127.0.0.1:{port}"));
    prometheus.until("count(hbpf:fleet_hosts:increase2m{hbpf_part=\"requests_total\"})", 2.0);
    // Asked for, and as rules have recorded it.
    for range in ["1m", "2m"] {
        let seen = snapshot(&hbpf(&["snapshot", "--json", "--prometheus", &url, "--range", range]));
        assert_eq!((seen.host.hostname.as_str(), seen.errors.len()), ("2 hosts", 0), "{:?}", seen.errors);
        let near = |count: u64, truth: usize| (0.8..1.5).contains(&(count as f64 / truth as f64));
        assert!(near(seen.totals.requests_total, 2 * CALLS), "{}", seen.totals.requests_total);
        let hosts: Vec<_> = seen.workloads.iter().filter(|row| row.kind == WorkloadKind::Host).collect();
        assert!(hosts.len() == 2 && hosts.iter().all(|row| names.iter().any(|name| *name == row.name.as_str())));
        for host in hosts {
            let stats = host.as_server.as_ref().expect("it serves");
            assert!(near(stats.requests_total, CALLS), "{}", stats.requests_total);
            let times = stats.latency.window.time_to_first_token_seconds.as_ref().expect("it was measured");
            assert!((0.01..0.2).contains(&times.p50), "{}", times.p50);
            assert!(host.cpu_percent.is_some() && host.resident_bytes.is_some());
        }
        let model = seen.models.iter().find(|row| row.model.as_deref() == Some("demo")).expect("it was called");
        assert!(near(model.stats.requests_total, 2 * CALLS), "{}", model.stats.requests_total);
        assert!(seen.endpoints.iter().any(|row| row.port == Some(server.plain.port()) && row.protocol.is_none()));
        let of_test = seen.workloads.iter().filter(|row| row.kind != WorkloadKind::Host).count();
        assert!(of_test >= 2, "{of_test}");
    }
    let Some(view) = top(&["--prometheus", &url, "--range", "1m", "--interval", "2s"]) else { return };
    view.until("the hosts are shown", |screen| {
        screen.contains(" FLEET ") && names.iter().all(|name| screen.contains(name.as_str()))
    });
    drop(view);
    // Nothing is asked for that is not there.
    let none = hbpf(&["snapshot", "--json", "--prometheus", &url, "--matching", "cluster=\"prod\""]);
    assert!(
        none.status.code() == Some(1) && said(&none).contains("no metrics of an `hbpf agent` with cluster"),
        "{}",
        said(&none)
    );
    let wrong = hbpf(&["snapshot", "--json", "--prometheus", &url, "--matching", "cluster=prod"]);
    assert!(wrong.status.code() == Some(1) && said(&wrong).lines().count() == 1, "{}", said(&wrong));
    // The same from another server with its API.
    if let Some(victoria) = Prometheus::start_victoria(free_port(), &ports) {
        victoria.until("count(hbpf_build_info)", 2.0);
        thread::sleep(Duration::from_secs(3));
        let seen = snapshot(&hbpf(&["snapshot", "--json", "--prometheus", &victoria.url(), "--range", "1m"]));
        assert_eq!((seen.host.hostname.as_str(), seen.errors.len()), ("2 hosts", 0), "{:?}", seen.errors);
        assert_eq!(seen.workloads.iter().filter(|row| row.kind == WorkloadKind::Host).count(), 2);
    }
    let [gone, stays] = agents;
    gone.stop();
    prometheus.until("count(hbpf_build_info)", 1.0);
    let seen = snapshot(&hbpf(&["snapshot", "--json", "--prometheus", &url]));
    let finding = seen.findings.iter().find(|finding| finding.id.as_str() == "hosts_gone").expect("it is told");
    assert!(finding.title.as_str().contains("127.0.0.1:"), "{finding:?}");
    stays.stop();
}
