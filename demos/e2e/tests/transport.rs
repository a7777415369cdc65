//! TCP connections as they are: translated addresses, halves that end before the other, resets, ports that are used again.

use std::net::IpAddr;
use std::process::Command;

use hbpf_core::exchange::{Phase, Role};
use hbpf_e2e::{
    Client, End, Faults, Namespace, Network, Observer, Server, Sums, exact_or_marked, host_with_networks, python,
    script,
};

const FAST: [&str; 4] = ["--ttft", "20", "--rate", "400"];

/// A client with sockets of its own making.
fn client(namespace: &Namespace, server: &Server, how: &str, model: &str) -> Option<Client> {
    let mut command = Command::new(python()?);
    let address = server.plain;
    command.arg(script("clients/tcp.py")).args(["--how", how, "--model", model]);
    command.args(["--host", &address.ip().to_string(), "--port", &address.port().to_string()]);
    Some(namespace.run(|| Client::start(&mut command)))
}

/// Runs such a client over a network that wraps sequence numbers early, and sums up what became of its calls.
fn run(how: &str, model: &str, calls: usize, v6: bool) -> Option<(Sums, Sums)> {
    let network = Network::new(Faults { wrap_after: Some(2000), ..Faults::default() }, 1);
    let server = Server::start_in(network.at(End::Server), End::Server.address(v6), &FAST);
    let mut observer = Observer::start();
    let mut client = client(network.at(End::Client), &server, how, model)?;
    client.run();
    let seen = observer.until_ended(server.plain.port(), calls);
    let truth = server.truth(calls);
    for role in [Role::Client, Role::Server] {
        let rows = observer.until_rows(role, server.plain.port(), calls);
        assert!(rows.iter().all(|row| row.bytes_missed == 0), "{how}: {rows:?}");
    }
    observer.assert_nothing_lost();
    observer.stop();
    Some((seen, truth))
}

#[test]
fn a_client_may_end_its_half_and_wait_for_the_answer() {
    let Some(_host) = host_with_networks() else { return };
    for v6 in [false, true] {
        let Some((seen, truth)) = run("half-close", "demo", 1, v6) else { return };
        assert_eq!(seen, truth);
        assert_eq!(seen.completed, 1);
    }
}

#[test]
fn a_reset_amid_an_answer_ends_it() {
    let Some(_host) = host_with_networks() else { return };
    let Some((seen, truth)) = run("reset", "demo-2000tok", 1, false) else { return };
    assert_eq!((seen.abandoned, truth.abandoned), (1, 1));
    assert_eq!((seen.input, seen.output), (0, seen.estimated), "no usage was sent");
}

#[test]
fn a_port_that_is_used_again_is_another_connection() {
    let Some(_host) = host_with_networks() else { return };
    let Some((seen, truth)) = run("reuse", "demo", 4, false) else { return };
    assert_eq!(seen, truth);
    assert_eq!(seen.completed, 4);
}

/// Client, router and server; the router rewrites where packets go to and where they come from.
#[test]
fn translated_addresses_pair_the_ends() {
    let Some(_host) = host_with_networks() else { return };
    let Some(python) = python() else { return };
    if Command::new("nft").arg("--version").output().is_err() {
        return hbpf_e2e::skip("HBPF_REQUIRE_CLIENTS", "there is no nft (Debian has it in the package nftables)");
    }
    const CALLS: usize = 12;
    const PUBLIC_PORT: u16 = 8000;
    let (outside, router, inside) = (Namespace::new(), Namespace::new(), Namespace::new());
    router.connect("public", &outside, "path");
    router.connect("private", &inside, "path");
    for (namespace, device, address) in [
        (&outside, "path", "10.78.1.2/24"),
        (&router, "public", "10.78.1.1/24"),
        (&router, "private", "10.78.2.1/24"),
        (&inside, "path", "10.78.2.2/24"),
    ] {
        namespace.set_up(&format!("ip address add {address} dev {device}"));
    }
    router.set("ipv4/ip_forward", "1");
    let server = Server::start_in(&inside, IpAddr::from([10, 78, 2, 2]), &FAST);
    router.set_up("nft add table ip nat");
    router.set_up("nft add chain ip nat in { type nat hook prerouting priority -100 ; }");
    router.set_up("nft add chain ip nat out { type nat hook postrouting priority 100 ; }");
    router.set_up(&format!("nft add rule ip nat in tcp dport {PUBLIC_PORT} dnat to {}", server.plain));
    router.set_up("nft add rule ip nat out oifname private masquerade");

    let mut observer = Observer::start();
    let mut command = Command::new(python);
    command.arg(script("clients/stdlib.py")).args(["--threads", "3", "--count", "4"]);
    command.args(["--base-url", &format!("http://10.78.1.1:{PUBLIC_PORT}")]);
    let mut client = outside.run(|| Client::start(&mut command));
    client.run();
    let record = server.record_of(CALLS);
    for (role, port) in [(Role::Client, PUBLIC_PORT), (Role::Server, server.plain.port())] {
        let rows = observer.until_rows(role, port, CALLS);
        assert_eq!(exact_or_marked(&rows.iter().collect::<Vec<_>>(), &record), CALLS);
        assert!(rows.iter().all(|row| row.phase == Phase::Done));
    }
    // Host totals count an exchange at the end that was seen first, and the two ends have different addresses.
    let frame = observer.next_frame();
    let at = |port| Sums::at_port(&frame, port);
    let (public, private) = (at(PUBLIC_PORT), at(server.plain.port()));
    assert_eq!(public.requests + private.requests, CALLS as u64);
    assert_eq!(public.output + private.output, Sums::of_record(&record).output);
    observer.assert_nothing_lost();
    observer.stop();
}
