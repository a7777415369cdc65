//! Forged segments change nothing.
//!
//! They reach each end as if they came from the other, with the right addresses and ports, as anyone can send them who is
//! on the way or on the host. TCP refuses every one of them; hbpf sees them before TCP does.

use std::process::Command;

use hbpf_core::exchange::Role;
use hbpf_e2e::{
    Client, End, Faults, Network, Observer, Packet, Server, Sums, exact_or_marked, full, host_with_networks, python,
    script, skip,
};

/// Slow enough that many forgeries fall amid each answer.
const SERVER: [&str; 6] = ["--ttft", "50", "--rate", "50", "--tokens", "30"];
const CALLS: usize = 3;
/// Times that everything is forged once, each after another genuine segment.
const ROUNDS: usize = 50;

/// So far ahead or behind no window reaches.
const FAR: [u32; 3] = [1 << 30, 3 << 30, 20 << 20];

/// The end of an answer that costs a fortune.
const ANSWER: &[u8] =
    b"data: {\"id\":\"x\",\"object\":\"chat.completion.chunk\",\"model\":\"forged\",\"choices\":[],\"usage\":\
    {\"prompt_tokens\":1000000,\"completion_tokens\":1000000,\"total_tokens\":2000000}}\n\ndata: [DONE]\n\n";

/// A whole request of nobody.
const REQUEST: &[u8] = b"POST /v1/chat/completions HTTP/1.1\r\nHost: forged\r\nContent-Type: application/json\r\n\
    Content-Length: 60\r\n\r\n{\"model\":\"forged\",\"messages\":[{\"role\":\"user\",\"content\":\"\"}]}";

/// `payload` as one chunk of a body.
fn chunk(payload: &[u8]) -> Vec<u8> {
    let mut chunk = format!("{:x}\r\n", payload.len()).into_bytes();
    chunk.extend_from_slice(payload);
    chunk.extend_from_slice(b"\r\n");
    chunk
}

/// Everything that TCP refuses, once, sent to one end. `genuine` is the latest segment that has come to it.
fn forge(network: &Network, to: End, genuine: &Packet) {
    let next = genuine.end();
    for payload in [REQUEST, &chunk(ANSWER)[..], ANSWER] {
        for far in FAR {
            network.inject(to, &genuine.clone().with(next.wrapping_add(far), payload));
        }
        // Where everything has been received already.
        network.inject(to, &genuine.clone().with(next.wrapping_sub(payload.len() as u32), payload));
        // In the right place, and broken.
        network.inject_broken(to, &genuine.clone().with(next, payload));
        // In the right place, and acknowledging what was never sent.
        let mut unfounded = genuine.clone().with(next, payload);
        unfounded.tcp.acknowledgment_number = unfounded.tcp.acknowledgment_number.wrapping_add(1 << 24);
        network.inject(to, &unfounded);
    }
    let not_there = [1, 5000, FAR[0], 0_u32.wrapping_sub(1), 0_u32.wrapping_sub(9), REQUEST.len() as u32];
    for sequence in not_there.map(|distance| next.wrapping_add(distance)) {
        let mut end = genuine.clone().with(sequence, b"");
        end.tcp.rst = true;
        network.inject(to, &end);
    }
    for far in FAR {
        let mut end = genuine.clone().with(next.wrapping_add(far), b"");
        end.tcp.fin = true;
        network.inject(to, &end);
    }
}

fn forged_segments_change_nothing(v6: bool) {
    let Some(_host) = host_with_networks() else { return };
    let Some(python) = python() else { return };
    let network = Network::new(Faults::default(), 1);
    let server = Server::start_in(network.at(End::Server), End::Server.address(v6), &SERVER);
    let mut observer = Observer::start();
    let mut command = Command::new(python);
    // This client, unlike the SDKs, makes all its streamed calls over one connection: beginnings in its midst count.
    command.arg(script("clients/stdlib.py")).args(["--base-url", &server.plain_url(), "--count", &CALLS.to_string()]);
    let mut client = network.at(End::Client).run(|| Client::start(&mut command));
    client.go();
    let mut before = None;
    for _ in 0..ROUNDS {
        let answer = network.next(End::Server, server.plain.port(), before);
        before = Some(answer.end());
        forge(&network, End::Client, &answer);
        forge(&network, End::Server, &network.next(End::Client, server.plain.port(), None));
    }
    assert_eq!(client.result()["statuses"]["200"], CALLS, "TCP itself was misled");
    let record = server.record_of(CALLS);
    let truth = Sums::of_record(&record);
    assert_eq!(observer.until_ended(server.plain.port(), CALLS), truth);
    assert!(record.iter().all(|entry| entry.connection == record[0].connection));
    for role in [Role::Client, Role::Server] {
        let rows = observer.until_rows(role, server.plain.port(), CALLS);
        assert_eq!(exact_or_marked(&rows.iter().collect::<Vec<_>>(), &record), CALLS, "all of them exact");
    }
    let frame = observer.next_frame();
    assert_eq!(Sums::at_port(&frame, server.plain.port()), truth, "nothing more comes of it");
    assert!(frame.capture.lost.desync > 0, "what does not belong is counted");
    observer.stop();
}

#[test]
fn forged_segments_change_nothing_over_ipv4() {
    forged_segments_change_nothing(false);
}

#[test]
fn forged_segments_change_nothing_over_ipv6() {
    if !full() {
        return skip("HBPF_FULL", "what differs from IPv4 is tested elsewhere");
    }
    forged_segments_change_nothing(true);
}
