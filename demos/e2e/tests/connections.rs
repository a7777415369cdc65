//! The ways in which servers come by their connections, and clients write to them: each request is counted once, whole,
//! and as that process's which answered it.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;

use hbpf_e2e::{Client, Observer, Sums, host, python, script};

/// What the server says of each answer.
const INPUT: u64 = 3;
const OUTPUT: u64 = 2;

/// A server of that kind, and where it listens.
fn server(way: &str) -> Option<(Client, SocketAddr)> {
    let server = Client::start(Command::new(python()?).arg(script("clients/servers.py")).arg(way));
    let port = u16::try_from(server.ready["port"].as_u64().unwrap()).unwrap();
    Some((server, SocketAddr::from(([127, 0, 0, 1], port))))
}

/// A request like no other, so that its two ends are found to be one.
fn request(number: usize, closes: bool) -> Vec<u8> {
    let body = format!(r#"{{"model": "demo", "messages": [{{"role": "user", "content": "{number}"}}]}}"#);
    let connection = if closes { "close" } else { "keep-alive" };
    let length = body.len();
    format!(
        "POST /v1/chat/completions HTTP/1.1\r\nHost: demo\r\nX-Number: {number}\r\nConnection: {connection}\r\n\
         Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
    )
    .into_bytes()
}

/// Reads one answer and says which process it came from.
fn answered_by(stream: &mut TcpStream) -> u32 {
    let mut answer = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let length = stream.read(&mut buffer).expect("loopback delivers");
        assert!(length > 0, "the answer was cut");
        answer.extend_from_slice(&buffer[..length]);
        let text = String::from_utf8_lossy(&answer);
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let header =
            |name: &str| head.lines().find_map(|line| line.strip_prefix(name)).expect("a header").trim().to_owned();
        if body.len() == header("Content-Length:").parse::<usize>().unwrap() {
            return header("X-Pid:").parse().unwrap();
        }
    }
}

/// A connection for each request: who answered how many.
fn one_each(address: SocketAddr, count: usize) -> BTreeMap<u32, u64> {
    let mut answered = BTreeMap::new();
    for number in 0..count {
        let mut stream = TcpStream::connect(address).expect("loopback connects");
        stream.write_all(&request(number, true)).expect("loopback takes");
        *answered.entry(answered_by(&mut stream)).or_default() += 1;
    }
    answered
}

/// Waits until each process has as many exchanges as it answered, with all their tokens.
fn expect(observer: &mut Observer, port: u16, answered: &BTreeMap<u32, u64>) {
    let count = answered.values().sum::<u64>();
    let of = |frame: &_, pid: u32| Sums::of_server(frame, pid);
    let seen = observer.until_ended(port, usize::try_from(count).unwrap());
    assert_eq!((seen.requests, seen.completed, seen.input, seen.output), (count, count, count * INPUT, count * OUTPUT));
    let frame = observer.until("the servers' ends have seen all", |frame| {
        let servers = frame.processes.iter().map(|process| of(frame, process.pid).ended());
        servers.sum::<u64>() >= count
    });
    let by_server: BTreeMap<u32, u64> = answered.keys().map(|pid| (*pid, of(&frame, *pid).ended())).collect();
    assert_eq!(by_server, *answered, "who answered is not who is shown");
    for (pid, count) in answered {
        let sums = of(&frame, *pid);
        assert_eq!((sums.completed, sums.input, sums.output), (*count, count * INPUT, count * OUTPUT));
    }
    observer.assert_nothing_lost();
}

/// Requests on a connection of their own each, to a server of this kind.
fn served(way: &str) {
    let Some(_host) = host() else { return };
    let mut observer = Observer::start();
    let Some((_server, address)) = server(way) else { return };
    let answered = one_each(address, 12);
    expect(&mut observer, address.port(), &answered);
    observer.stop();
}

#[test]
fn a_server_that_accepts_when_the_request_is_there() {
    served("deferred");
}

#[test]
fn workers_that_share_a_listening_socket() {
    served("prefork");
}

#[test]
fn workers_that_listen_on_one_port() {
    served("reuseport");
}

#[test]
fn workers_that_are_passed_their_connections() {
    served("passed");
}

#[test]
fn a_process_for_each_connection() {
    served("forking");
}

#[test]
fn a_program_that_inherits_its_listening_socket() {
    served("executed");
}

#[test]
fn servers_that_were_there_before() {
    let Some(_host) = host() else { return };
    for way in ["deferred", "prefork"] {
        let Some((_server, address)) = server(way) else { return };
        let mut observer = Observer::start();
        let answered = one_each(address, 12);
        expect(&mut observer, address.port(), &answered);
        observer.stop();
    }
}

#[test]
fn requests_written_in_pieces() {
    let Some(_host) = host() else { return };
    let mut observer = Observer::start();
    let Some((_server, address)) = server("alone") else { return };
    let mut answered = BTreeMap::new();
    let mut stream = TcpStream::connect(address).expect("loopback connects");
    stream.set_nodelay(true).expect("a TCP option");
    // Within the method, the target and the head; then byte by byte.
    let cuts: [&[usize]; 5] = [&[2], &[11], &[11, 29], &[60], &[]];
    for (number, cuts) in cuts.iter().enumerate() {
        let request = request(number, false);
        let mut from = 0;
        let each: Vec<usize> = if cuts.is_empty() { (1..request.len()).collect() } else { cuts.to_vec() };
        for to in each.into_iter().chain([request.len()]) {
            stream.write_all(&request[from..to]).expect("loopback takes");
            from = to;
        }
        *answered.entry(answered_by(&mut stream)).or_default() += 1;
    }
    expect(&mut observer, address.port(), &answered);
    observer.stop();
}
