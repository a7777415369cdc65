//! Programs of Rust that speak TLS by rustls over aws-lc, with symbols.

use std::process::Command;

use hbpf_e2e::{Client, Nginx, Observer, Server, Sums, full, host, rust_program, skip};

/// Calls in each of the client's threads, all at once, and how many threads.
const CALLS: usize = 6;
const THREADS: usize = 8;

/// What both ends' programs are called as libraries.
const CLIENT: &str = "/client";
const PROXY: &str = "/proxy";

fn client(url: &str, server: &Server, protocol: &str) -> Option<Client> {
    let mut command = Command::new(rust_program("rustls/client")?);
    command.args([url, "demo-40tok", &CALLS.to_string()]).arg(server.certificate("ca.pem"));
    Some(Client::start(command.args([protocol, &THREADS.to_string()])))
}

fn is_full() -> bool {
    let is_full = full();
    if !is_full {
        skip("HBPF_FULL", "the programs in Rust are built with what only the long suites need");
    }
    is_full
}

/// Keys are made in another order by each side and in each version, and known by different functions for each cipher.
#[test]
fn both_ends_are_read_whatever_the_cipher() {
    let Some(_host) = host() else { return };
    if !is_full() {
        return;
    }
    let Some(program) = rust_program("rustls/proxy") else { return };
    let server = Server::start(&["--ttft", "5", "--rate", "2000"]);
    let mut observer = Observer::start();
    let mut calls = 0;
    for suites in ["TLS13_AES_128", "TLS13_AES_256", "TLS13_CHACHA20", "ECDSA_WITH_AES", "ECDSA_WITH_CHACHA20"] {
        let mut command = Command::new(&program);
        command.arg(server.plain.to_string());
        command.arg(server.certificate("server.pem")).arg(server.certificate("server-key.pem")).arg(suites);
        let proxy = Client::start(&mut command);
        observer.until_library(PROXY);
        let url = format!("https://localhost:{}", proxy.ready["port"]);
        let Some(mut client) = client(&url, &server, "h1") else { return };
        observer.until_library(CLIENT);
        assert_eq!(client.run()["answers"], CALLS * THREADS, "{suites}");
        let truth = server.truth_after(calls, CALLS * THREADS);
        calls += CALLS * THREADS;
        let frame = observer.until("both ends have seen all", |frame| {
            let ends = [Sums::of_client(frame, client.pid()), Sums::of_server(frame, proxy.pid())];
            ends.iter().all(|end| end.ended() >= truth.requests)
        });
        assert_eq!(Sums::of_client(&frame, client.pid()), truth, "{suites}, at the client's end");
        assert_eq!(Sums::of_server(&frame, proxy.pid()), truth, "{suites}, at the proxy's end");
    }
    observer.assert_nothing_lost();
    observer.stop();
}

/// Which contexts belong together is told by the wire then: from the second exchange of each connection on, at the latest.
#[test]
fn connections_that_are_older_than_the_probes_are_read_soon() {
    let Some(_host) = host() else { return };
    if !is_full() {
        return;
    }
    let server = Server::start(&["--ttft", "5", "--rate", "2000"]);
    let Some(nginx) = Nginx::start(&server) else { return };
    for protocol in ["h1", "h2"] {
        let url = format!("https://localhost:{}", nginx.tls);
        let Some(mut client) = client(&url, &server, protocol) else { return };
        assert_eq!(client.run()["answers"], CALLS * THREADS);
        let mut observer = Observer::start();
        observer.until_library(CLIENT);
        assert_eq!(client.run()["answers"], CALLS * THREADS);
        let enough = ((CALLS - 1) * THREADS) as u64;
        let frame = observer
            .until("most of the exchanges were read", |frame| Sums::of_client(frame, client.pid()).ended() >= enough);
        let seen = Sums::of_client(&frame, client.pid());
        assert_eq!((seen.completed, seen.output), (seen.requests, 40 * seen.requests), "{protocol}: {seen:?}");
        assert!(frame.capture.lost.read_fault > 0, "what was not read is counted");
        observer.stop();
    }
}
