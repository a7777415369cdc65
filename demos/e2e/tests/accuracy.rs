//! Times: what hbpf says of waiting for tokens, against the server's own stamps.

use std::process::Command;

use hbpf_core::snapshot::{Distribution, Snapshot};
use hbpf_e2e::{Client, Entry, Observer, Server, host, percentile, python, script};

/// Of the pace that is checked: 50 tokens a second.
const SERVER: [&str; 6] = ["--ttft", "250", "--rate", "50", "--tokens", "100"];
const THREADS: usize = 3;
const CALLS_PER_THREAD: usize = 2;
/// What a time may be off: so much, or so much of it.
const TOLERANCE_SECONDS: f64 = 0.005;
const TOLERANCE_SHARE: f64 = 0.02;
/// Server, client and hbpf may each have to wait for a CPU between what is stamped and the stamp, which is no error of
/// hbpf's: on a loaded machine it may take some tries until none of them had to.
const TRIES: usize = 5;

fn close(seen: f64, truth: f64) -> bool {
    (seen - truth).abs() <= TOLERANCE_SECONDS.max(truth * TOLERANCE_SHARE)
}

fn seconds(from: u64, to: u64) -> f64 {
    to.saturating_sub(from) as f64 / 1e9
}

/// Says what is off, if anything.
fn compare(observer: &Observer, frame: &Snapshot, port: u16, record: &[Entry]) -> Result<(), String> {
    let mut compared = 0;
    for entry in record {
        let id = format!("req_demo{:08}", entry.id);
        let of_this = |request: &&hbpf_core::snapshot::Request| {
            request.request_id.as_ref().is_some_and(|have| have.as_str() == id)
        };
        let truth = seconds(entry.request_end_ns, entry.token_ns[0]);
        for request in observer.finished.iter().filter(of_this) {
            let seen = request.time_to_first_token_seconds.ok_or(format!("{id}: no time to first token"))?;
            if !close(seen, truth) {
                return Err(format!("{id}: time to first token is {seen}, the server says {truth}"));
            }
            compared += 1;
        }
    }
    if compared < record.len() {
        return Err(format!("{compared} of {} requests could be compared", record.len()));
    }
    let gaps_of = |entry: &Entry| entry.token_ns.windows(2).map(|pair| seconds(pair[0], pair[1])).collect::<Vec<_>>();
    let mut gaps: Vec<f64> = record.iter().flat_map(gaps_of).collect();
    let endpoint = frame.endpoints.iter().find(|endpoint| endpoint.port == Some(port)).ok_or("no such endpoint")?;
    let seen: &Distribution =
        endpoint.stats.latency.since_start.inter_token_seconds.as_ref().ok_or("no gaps between tokens")?;
    if seen.count != gaps.len() as u64 {
        return Err(format!("{} gaps were seen, the server made {}", seen.count, gaps.len()));
    }
    for (percent, seen) in [(50.0, seen.p50), (99.0, seen.p99)] {
        let truth = percentile(&mut gaps, percent);
        if !close(seen, truth) {
            return Err(format!("p{percent} between tokens is {seen}, the server says {truth}"));
        }
    }
    Ok(())
}

fn accurate(tls: bool) {
    let Some(_host) = host() else { return };
    let Some(python) = python() else { return };
    let mut result = Ok(());
    for _ in 0..TRIES {
        let server = Server::start(&SERVER);
        let mut observer = Observer::start();
        let (url, port) =
            if tls { (server.tls_url(), server.tls.port()) } else { (server.plain_url(), server.plain.port()) };
        let mut client = Client::start(
            Command::new(&python)
                .arg(script("clients/stdlib.py"))
                .args(["--base-url", &url, "--threads", &THREADS.to_string(), "--count", &CALLS_PER_THREAD.to_string()])
                .arg("--ca")
                .arg(server.certificate("ca.pem")),
        );
        if tls {
            observer.until_tls_of(client.pid());
        }
        client.run();
        let calls = THREADS * CALLS_PER_THREAD;
        observer.until_ended(port, calls);
        let frame = observer.next_frame();
        result = compare(&observer, &frame, port, &server.record_of(calls));
        observer.stop();
        if result.is_ok() {
            break;
        }
    }
    result.unwrap();
}

#[test]
fn times_over_tls() {
    accurate(true);
}

#[test]
fn times_plain() {
    accurate(false);
}
