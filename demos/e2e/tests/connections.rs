//! The ways in which servers come by their connections, and clients write to them: each request is counted once, whole,
//! and as that process's which answered it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::process::{Command, Stdio};

use hbpf_core::exchange::{Phase, Role};
use hbpf_e2e::{Client, Observer, Sums, host, python, script, skip};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockType, SockaddrIn, connect, sendto, setsockopt, socket, sockopt,
};
use nix::unistd::Pid;

/// What the server says of each answer.
const INPUT: u64 = 3;
const OUTPUT: u64 = 2;

/// A server of that kind, and where it listens.
fn server(way: &str) -> Option<(Client, SocketAddr)> {
    let server = Client::start(Command::new(python()?).arg(script("clients/servers.py")).arg(way));
    let port = u16::try_from(server.ready["port"].as_u64().unwrap()).unwrap();
    Some((server, SocketAddr::from(([127, 0, 0, 1], port))))
}

/// One in a network namespace of its own with these settings, and the port that it listens on.
fn isolated(way: &str, settings: &str) -> Option<(Client, u16)> {
    let inner = format!("ip link set lo up && {settings} exec \"$0\" \"$@\"");
    let mut command = Command::new("unshare");
    command.args(["--net", "sh", "-c", &inner]).arg(python()?).arg(script("clients/servers.py")).args([way, "::"]);
    let server = Client::start(&mut command);
    let port = u16::try_from(server.ready["port"].as_u64().unwrap()).unwrap();
    Some((server, port))
}

/// One of the numbers that the kernel counts in the network namespace of a process.
fn network_counter(pid: u32, name: &str) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/net/netstat")).expect("the process lives");
    let lines: Vec<&str> = text.lines().filter(|line| line.starts_with("TcpExt:")).collect();
    let mut columns = lines[0].split(' ').zip(lines[1].split(' '));
    columns.find(|(column, _)| *column == name).and_then(|(_, value)| value.parse().ok()).expect("the kernel counts it")
}

/// Does something in the network namespace of a process.
fn within<T: Send>(pid: u32, act: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let namespace = File::open(format!("/proc/{pid}/ns/net")).expect("the process lives");
            setns(namespace, CloneFlags::CLONE_NEWNET).expect("root enters namespaces");
            act()
        });
        thread.join().expect("no panic")
    })
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
        answered.keys().map(|pid| of(frame, *pid).ended()).sum::<u64>() >= count
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
fn workers_that_are_passed_a_connection_for_each_request() {
    let Some(_host) = host() else { return };
    let mut observer = Observer::start();
    let Some((_server, address)) = server("rotated") else { return };
    let mut stream = TcpStream::connect(address).expect("loopback connects");
    let answered: Vec<u32> = (0..9)
        .map(|number| {
            stream.write_all(&request(number, false)).expect("loopback takes");
            answered_by(&mut stream)
        })
        .collect();
    let mut rows = observer.until_rows(Role::Server, address.port(), answered.len());
    rows.sort_by_key(|row| row.started_at);
    let told: Vec<u32> = rows.iter().map(|row| row.pid.expect("a process")).collect();
    // Nothing says of the second that the connection will be passed on; and where an answer takes longer than usual, who holds
    // the connection is asked for meanwhile.
    let wrong = told.iter().zip(&answered).filter(|(told, answered)| told != answered).count();
    assert!(told[0] == answered[0] && wrong <= 3, "{told:?} {answered:?}");
    observer.assert_nothing_lost();
    observer.stop();
}

#[test]
fn a_client_whose_parent_has_connected() {
    let Some(_host) = host() else { return };
    let mut observer = Observer::start();
    let Some((_server, address)) = server("alone") else { return };
    let mut stream = TcpStream::connect(address).expect("loopback connects");
    // Nothing to do with models, and the parent's.
    stream.write_all(b"GET /health HTTP/1.1\r\nHost: demo\r\n\r\n").expect("loopback takes");
    answered_by(&mut stream);
    let sent = tempfile::NamedTempFile::new().expect("a temporary file");
    std::fs::write(sent.path(), request(1, false)).expect("it can be written");
    let mut child = Command::new("cat");
    child.arg(sent.path()).stdout(std::os::fd::OwnedFd::from(stream.try_clone().expect("a descriptor")));
    let mut child = child.spawn().expect("cat is in coreutils");
    child.wait().expect("it is a child of ours");
    answered_by(&mut stream);
    let rows = observer.until_rows(Role::Client, address.port(), 1);
    assert_eq!(rows[0].pid, Some(child.id()));
    observer.stop();
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
fn a_server_that_answers_a_flood_with_cookies() {
    let Some(_host) = host() else { return };
    let mut observer = Observer::start();
    let cookies = "echo 2 > /proc/sys/net/ipv4/tcp_syncookies &&";
    let Some((server, port)) = isolated("deferred", cookies) else { return };
    let answered = within(server.pid(), || one_each(SocketAddr::from(([127, 0, 0, 1], port)), 12));
    expect(&mut observer, port, &answered);
    // One that a busy machine sends again is counted again.
    assert!(network_counter(server.pid(), "SyncookiesRecv") >= 12);
    observer.stop();
}

#[test]
fn first_bytes_that_come_with_the_first_packet() {
    let Some(_host) = host() else { return };
    let mut observer = Observer::start();
    // For client and server, and both without the cookies that the first connection would be there to get.
    let Some((server, port)) = isolated("fast-open", "echo 0x607 > /proc/sys/net/ipv4/tcp_fastopen &&") else { return };
    let answered = within(server.pid(), || {
        let mut answered = BTreeMap::new();
        for number in 0..6 {
            let mut stream = connect_with(&request(number, true), port);
            *answered.entry(answered_by(&mut stream)).or_default() += 1;
        }
        answered
    });
    expect(&mut observer, port, &answered);
    assert_eq!(network_counter(server.pid(), "TCPFastOpenPassive"), 6);
    observer.stop();
}

#[test]
fn nginx_that_accepts_when_the_request_is_there() {
    const CALLS: usize = 8;
    let Some(_host) = host() else { return };
    if Command::new("nginx").arg("-v").output().is_err() {
        return skip("HBPF_REQUIRE_CLIENTS", "there is no nginx (Debian has it in the package nginx-light)");
    }
    let mut observer = Observer::start();
    let places = tempfile::tempdir().expect("a temporary directory");
    let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a loopback address can be bound");
    let address = free.local_addr().expect("it is bound");
    drop(free);
    let configuration = places.path().join("nginx.conf");
    let answer = r#"{"object":"chat.completion","model":"demo","choices":[{"index":0,"finish_reason":"stop","message":{"content":"x"}}],"usage":{"prompt_tokens":3,"completion_tokens":2}}"#;
    let text = format!(
        "daemon off; user root; worker_processes 2; pid {0}/pid; error_log {0}/error;\n\
         events {{ worker_connections 64; }}\n\
         http {{ access_log off; client_body_temp_path {0}/body; server {{ listen {address} deferred;\n\
         location / {{ default_type application/json; add_header X-Pid $pid; return 200 '{answer}'; }} }} }}\n",
        places.path().display()
    );
    std::fs::write(&configuration, text).expect("it can be written");
    let mut nginx =
        Command::new("nginx").arg("-c").arg(&configuration).stderr(Stdio::null()).spawn().expect("it starts");
    while TcpStream::connect(address).is_err() {
        assert!(nginx.try_wait().is_ok_and(|status| status.is_none()), "nginx ended");
        std::thread::yield_now();
    }
    let answered = one_each(address, CALLS);
    expect(&mut observer, address.port(), &answered);
    // Killed otherwise, it would leave its workers behind.
    kill(Pid::from_raw(i32::try_from(nginx.id()).unwrap()), Signal::SIGTERM).expect("it is ours");
    nginx.wait().expect("it ends");
    observer.stop();
}

/// Sends the first bytes with the SYN.
fn connect_with(bytes: &[u8], port: u16) -> TcpStream {
    /// Linux's flag of `sendto` that connects.
    const MSG_FASTOPEN: i32 = 0x2000_0000;
    let socket = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).expect("a socket");
    let address = SockaddrIn::new(127, 0, 0, 1, port);
    let sent =
        sendto(socket.as_raw_fd(), bytes, &address, MsgFlags::from_bits_retain(MSG_FASTOPEN)).expect("loopback takes");
    assert_eq!(sent, bytes.len());
    socket.into()
}

#[test]
fn workers_in_another_network_namespace_whose_connections_stay() {
    let Some(_host) = host() else { return };
    let mut observer = Observer::start();
    let Some((server, port)) = isolated("prefork", "") else { return };
    // From a third namespace, by way of a cable; both in the same addresses as anyone's.
    let (answered, streams) = std::thread::scope(|scope| {
        let client = scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("root makes namespaces");
            let run = |line: &str| {
                let mut words = line.split(' ');
                let status = Command::new(words.next().expect("a program")).args(words).status();
                assert!(status.is_ok_and(|status| status.success()), "{line}");
            };
            let pid = server.pid();
            run(&format!("ip link add c type veth peer name s netns {pid}"));
            run("ip addr add 10.99.0.1/24 dev c");
            run("ip link set c up");
            run(&format!("nsenter --net=/proc/{pid}/ns/net ip addr add 10.99.0.2/24 dev s"));
            run(&format!("nsenter --net=/proc/{pid}/ns/net ip link set s up"));
            // As many as there are workers, with two requests on each.
            let mut streams = Vec::new();
            let mut answered: BTreeMap<u32, u64> = BTreeMap::new();
            for number in 0..3 {
                let mut stream = TcpStream::connect((Ipv4Addr::new(10, 99, 0, 2), port)).expect("the cable holds");
                for part in 0..2 {
                    stream.write_all(&request(10 * number + part, false)).expect("the cable holds");
                    *answered.entry(answered_by(&mut stream)).or_default() += 1;
                }
                streams.push(stream);
            }
            (answered, streams)
        });
        client.join().expect("no panic")
    });
    expect(&mut observer, port, &answered);
    assert_eq!(answered.len(), 3, "each worker has a connection");
    drop(streams);
    observer.stop();
}

#[test]
fn a_stream_that_another_process_goes_on_with() {
    const CALLS: u64 = 6;
    let Some(_host) = host() else { return };
    let mut observer = Observer::start();
    let Some((_server, address)) = server("halves") else { return };
    for number in 0..CALLS {
        let mut stream = TcpStream::connect(address).expect("loopback connects");
        stream.write_all(&request(usize::try_from(number).unwrap(), true)).expect("loopback takes");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("loopback delivers");
        assert!(answer.ends_with("data: [DONE]\n\n"), "{answer}");
    }
    let seen = observer.until_ended(address.port(), usize::try_from(CALLS).unwrap());
    assert_eq!((seen.requests, seen.completed, seen.input, seen.output), (CALLS, CALLS, CALLS * INPUT, CALLS * OUTPUT));
    observer.assert_nothing_lost();
    observer.stop();
}

#[test]
fn a_server_that_lets_go_before_its_answer_is_out() {
    const CALLS: u64 = 4;
    let Some(_host) = host() else { return };
    let mut observer = Observer::start();
    let Some((_server, address)) = server("long") else { return };
    for number in 0..CALLS {
        let socket = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).expect("a socket");
        // So that most of the answer has to wait at the server's end.
        setsockopt(&socket, sockopt::RcvBuf, &32_768).expect("a socket option");
        connect(socket.as_raw_fd(), &SockaddrIn::new(127, 0, 0, 1, address.port())).expect("loopback connects");
        let mut stream = TcpStream::from(socket);
        stream.write_all(&request(usize::try_from(number).unwrap(), true)).expect("loopback takes");
        let client = stream.local_addr().expect("it is connected").port();
        while !is_nobodys_and_unsent(address.port(), client) {
            std::thread::yield_now();
        }
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("loopback delivers");
        assert!(answer.len() > 1_000_000);
    }
    let seen = observer.until_ended(address.port(), usize::try_from(CALLS).unwrap());
    assert_eq!((seen.completed, seen.failed, seen.input, seen.output), (CALLS, 0, CALLS * INPUT, CALLS * OUTPUT));
    let rows = observer.until_rows(Role::Server, address.port(), usize::try_from(CALLS).unwrap());
    // On a machine that is full the ring is, too: then bulk is left out, which is counted.
    let is_full = observer.latest.as_ref().is_some_and(|frame| frame.capture.lost.over_budget > 0);
    for row in rows {
        assert_eq!((row.phase, row.tokens.output), (Phase::Done, Some(OUTPUT)), "{row:?}");
        assert!(row.bytes_missed == 0 || is_full, "{row:?}");
    }
    observer.stop();
}

/// Whether the server's end of a connection is in FIN-WAIT-1, and no process holds it.
fn is_nobodys_and_unsent(server: u16, client: u16) -> bool {
    let table = std::fs::read_to_string("/proc/net/tcp").expect("the kernel has TCP");
    let (local, remote) = (format!(":{server:04X}"), format!(":{client:04X}"));
    table.lines().any(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        fields.len() > 9
            && fields[1].ends_with(&local)
            && fields[2].ends_with(&remote)
            && fields[3] == "04"
            && fields[9] == "0"
    })
}

#[test]
fn clients_that_end_their_half_and_wait() {
    let Some(_host) = host() else { return };
    let mut observer = Observer::start();
    for way in ["alone", "deferred"] {
        let Some((_server, address)) = server(way) else { return };
        let mut answered = BTreeMap::new();
        for number in 0..6 {
            let mut stream = TcpStream::connect(address).expect("loopback connects");
            stream.write_all(&request(number, false)).expect("loopback takes");
            stream.shutdown(Shutdown::Write).expect("it is connected");
            *answered.entry(answered_by(&mut stream)).or_default() += 1;
        }
        expect(&mut observer, address.port(), &answered);
    }
    observer.stop();
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
