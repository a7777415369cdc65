//! Real clients over a network that is unkind: totals are exact or marked, and never too high.

use std::process::Command;
use std::sync::Mutex;
use std::thread;
use std::time::Duration;

use hbpf_core::exchange::Role;
use hbpf_core::snapshot::Request;
use hbpf_e2e::{
    Client, End, Faults, Network, Observer, Server, Sums, exact_or_marked, full, host_with_networks, python_with,
    script,
};

/// Answers that come fast, so that many take little time.
const SERVER: [&str; 4] = ["--ttft", "20", "--rate", "400"];

/// Tries of a client to connect: a lost SYN is sent again after a second, and SDKs wait for five.
const RETRIES: &str = "10";

/// Networks at a time.
const AT_A_TIME: usize = 3;

/// One kind of network.
struct Case {
    name: &'static str,
    faults: Faults,
    v6: bool,
    tls: bool,
    sdk: &'static str,
    mode: &'static str,
}

const KIND: Faults =
    Faults { lost: 0.0, repeated: 0.0, overtaken: 0.0, jitter: Duration::ZERO, broken: 0.0, wrap_after: None };

const ALL: Faults = Faults {
    lost: 0.05,
    repeated: 0.1,
    overtaken: 0.25,
    jitter: Duration::from_millis(100),
    broken: 0.0,
    wrap_after: Some(20_000),
};

/// Broken packets besides.
const BROKEN: Faults = Faults { broken: 0.02, ..ALL };

fn plain(name: &'static str, faults: Faults, sdk: &'static str) -> Case {
    Case { name, faults, v6: false, tls: false, sdk, mode: "async" }
}

/// Runs an SDK's calls over such a network. Returns how many of them each end saw exactly, client first.
fn calls_over(case: &Case, streamed: usize, whole: usize) -> Option<[usize; 2]> {
    let python = python_with(case.sdk)?;
    let network = Network::new(case.faults, 1);
    let server = Server::start_in(network.at(End::Server), End::Server.address(case.v6), &SERVER);
    let mut observer = Observer::start();
    let (url, port) =
        if case.tls { (server.tls_url(), server.tls.port()) } else { (server.plain_url(), server.plain.port()) };
    let mut command = Command::new(python);
    command
        .arg(script("clients/sdk.py"))
        .args(["--api", case.sdk, "--mode", case.mode, "--base-url", &url, "--concurrency", "16"])
        .args(["--streamed", &streamed.to_string(), "--plain", &whole.to_string(), "--retries", RETRIES])
        .arg("--ca")
        .arg(server.certificate("ca.pem"));
    let mut client = network.at(End::Client).run(|| Client::start(&mut command));
    if case.tls {
        observer.until_tls_of(client.pid());
    }
    let said = client.run();
    let calls = streamed + whole;
    assert_eq!((said["answers"].as_u64(), said["errors"].as_u64()), (Some(calls as u64), Some(0)));
    let record = server.record_of(calls);
    let truth = Sums::of_record(&record);
    let seen = observer.until_ended(port, calls);
    assert_eq!((seen.requests, seen.ended()), (truth.requests, truth.requests), "{}: each call once", case.name);
    assert!(seen.input <= truth.input && seen.output <= truth.output, "{}: {seen:?} {truth:?}", case.name);
    // The stand-in server's TLS has no probes.
    let roles = if case.tls { &[Role::Client][..] } else { &[Role::Client, Role::Server] };
    let exact = roles.iter().map(|role| {
        let rows = observer.until_rows(*role, port, calls);
        exact_or_marked(&rows.iter().collect::<Vec<&Request>>(), &record)
    });
    let exact: Vec<usize> = exact.collect();
    eprintln!(
        "{}{}{}: {} packets harmed; of {calls} calls exact at the client {}, at the server {:?}; {} gaps, {} desyncs",
        case.name,
        if case.v6 { ", IPv6" } else { "" },
        if case.tls { ", TLS" } else { "" },
        network.harmed(),
        exact[0],
        exact.get(1),
        observer.latest.as_ref().map_or(0, |frame| frame.capture.lost.parse_gap),
        observer.latest.as_ref().map_or(0, |frame| frame.capture.lost.desync),
    );
    observer.assert_nothing_lost();
    observer.stop();
    Some([exact[0], exact.get(1).copied().unwrap_or(calls)])
}

#[test]
fn a_kind_network_is_exact() {
    let Some(_host) = host_with_networks() else { return };
    for v6 in [false, true] {
        let Some(exact) = calls_over(&Case { v6, ..plain("kind", KIND, "openai") }, 8, 4) else { return };
        assert_eq!(exact, [12, 12]);
    }
}

#[test]
fn totals_are_exact_or_marked() {
    let Some(_host) = host_with_networks() else { return };
    let mut cases = vec![
        plain("5 % lost", Faults { lost: 0.05, ..KIND }, "openai"),
        plain("all at once", ALL, "anthropic"),
        Case { tls: true, ..plain("all at once", BROKEN, "openai") },
    ];
    if full() {
        let single = [
            ("1 % lost", Faults { lost: 0.01, ..KIND }),
            // Of more, now and then a segment is lost so often that TCP waits for minutes.
            ("15 % lost", Faults { lost: 0.15, ..KIND }),
            ("25 % overtaken", Faults { overtaken: 0.25, ..KIND }),
            ("10 % repeated", Faults { repeated: 0.1, ..KIND }),
            ("100 ms of jitter", Faults { jitter: Duration::from_millis(100), ..KIND }),
            ("wrapping sequence numbers", Faults { wrap_after: Some(1000), ..KIND }),
            ("all at once", ALL),
        ];
        for (name, faults) in single {
            cases.push(plain(name, faults, "openai"));
            cases.push(Case { v6: true, mode: "sync", ..plain(name, faults, "anthropic") });
            cases.push(Case { tls: true, ..plain(name, faults, "openai") });
        }
    }
    let (streamed, whole) = if full() { (40, 20) } else { (16, 8) };
    // They wait most of the time.
    let waiting = Mutex::new(cases.into_iter());
    let next = || waiting.lock().unwrap().next();
    thread::scope(|threads| {
        for _ in 0..AT_A_TIME {
            threads.spawn(|| {
                while let Some(case) = next() {
                    let Some(exact) = calls_over(&case, streamed, whole) else { return };
                    if case.tls {
                        let all = streamed + whole;
                        assert_eq!(exact[0], all, "{}: a TLS library sees what TCP has put in order", case.name);
                    }
                }
            });
        }
    });
}
