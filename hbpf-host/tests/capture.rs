//! The committed programs at work: real sockets and real TLS, records as they come out of the ring.

mod support;

#[path = "support/kernel.rs"]
mod kernel;
#[path = "capture/passing.rs"]
mod passing;
#[path = "capture/segments.rs"]
mod segments;

#[path = "support/place.rs"]
mod place;

use std::mem::offset_of;
use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream},
    os::fd::{AsFd, AsRawFd},
    process::{Child, Command, Stdio},
    thread,
};

use hbpf_ebpf::{
    BEGINNING_BYTES, DEFERRED_HANDLE, EVENTS_RING_BYTES, EVENTS_URGENT_BYTES, REQUEST_HEAD_BYTES, RecordHeader,
    SealedReport, TAIL_BYTES, action, counter, direction, flags, kind, limit, source,
};
use hbpf_host::btf::Places;
use kernel::{Kernel, Record};
use nix::mount::{MsFlags, mount};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::MsgFlags;
use place::Place;

const MODEL_PATH: &str = "/v1/chat/completions";

/// What the TLS pair sends besides the call to a model: a health check, and the same answer to both.
const HEALTH: &[u8] = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n";
const JOB: &[u8] = b"POST /jobs HTTP/1.1\r\nHost: localhost\r\n\r\n";
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";

/// A connection over loopback, both ends in this process.
fn connection(address: SocketAddr) -> (TcpStream, TcpStream, u16) {
    let listener = TcpListener::bind(address).expect("a loopback address can be bound");
    let address = listener.local_addr().expect("a bound socket has an address");
    let client = TcpStream::connect(address).expect("loopback connects");
    let (server, _) = listener.accept().expect("loopback accepts");
    client.set_nodelay(true).expect("a TCP option");
    server.set_nodelay(true).expect("a TCP option");
    (client, server, address.port())
}

/// Sends and waits until the other end has all of it, so that the records are in the ring.
fn transfer(from: &mut TcpStream, to: &mut TcpStream, bytes: &[u8]) {
    let mut reader = to.try_clone().expect("a descriptor");
    let len = bytes.len();
    let received = thread::spawn(move || {
        let mut received = vec![0; len];
        reader.read_exact(&mut received).expect("loopback delivers");
        received
    });
    from.write_all(bytes).expect("loopback takes");
    assert_eq!(received.join().expect("the reader ends"), bytes, "a program has changed or refused a packet");
}

fn request(path: &str, body: &[u8]) -> Vec<u8> {
    let head = format!("POST {path}?key=1 HTTP/1.1\r\nHost: test\r\nContent-Length: {}\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}

/// The payload of records of one direction, put where their offsets say, beginning at the first. Those without any only
/// tell what a socket has received.
fn stream(records: &[&Record], direction: u8) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut first = None;
    let has_bytes = |record: &&&Record| record.header.kind == kind::DATA && !record.payload.is_empty();
    for record in records.iter().filter(has_bytes).filter(|record| record.header.direction == direction) {
        let first = *first.get_or_insert(record.header.offset);
        let at = usize::try_from(record.header.offset - first).expect("offsets grow");
        bytes.resize(bytes.len().max(at + record.payload.len()), b'?');
        bytes[at..at + record.payload.len()].copy_from_slice(&record.payload);
    }
    bytes
}

#[test]
fn a_model_call_is_seen_whole_from_both_ends() {
    let Some(mut kernel) = Kernel::load() else { return };
    kernel.target(MODEL_PATH);
    kernel.attach_tcp();
    for address in [SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), SocketAddr::from((Ipv6Addr::LOCALHOST, 0))] {
        let (mut client, mut server, port) = connection(address);
        let request = request(&format!("/proxy{MODEL_PATH}"), b"{\"model\":\"m\"}");
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";
        transfer(&mut client, &mut server, &request);
        transfer(&mut server, &mut client, &answer[..20]);
        transfer(&mut server, &mut client, &answer[20..]);
        drop(client);
        let mut rest = Vec::new();
        server.read_to_end(&mut rest).expect("the client has closed");
        drop(server);

        let records = kernel.records_of_port(port);
        let handles = kernel::handles(&records);
        assert_eq!(handles.len(), 2, "client and server have a socket each");
        for records in handles {
            let is_client = records[0].header.remote_port == port;
            let (requests, answers) =
                if is_client { (direction::SENT, direction::RECEIVED) } else { (direction::RECEIVED, direction::SENT) };
            assert_eq!(stream(&records, requests), request);
            assert_eq!(stream(&records, answers), answer);
            let first = &records[0].header;
            assert_eq!(first.source, source::TCP);
            assert_eq!(first.address_family, if address.is_ipv4() { 4 } else { 6 });
            assert_eq!(first.pid, std::process::id());
            assert_eq!(first.flags & flags::INHERITED_OWNER != 0, !is_client, "an accepted socket has an heir's owner");
            assert_eq!(first.flags & (flags::BEGIN | flags::CAPTURE), flags::BEGIN | flags::CAPTURE);
            assert_eq!(records.iter().filter(|record| record.header.flags & flags::BEGIN != 0).count(), 1);
            assert!(records.iter().all(|record| record.header.message == 1));
            let fins = records.iter().filter(|record| record.header.flags & flags::FIN != 0).count();
            let expected = if is_client { 1 } else { 2 };
            assert_eq!(fins, expected, "each end closes, and of a closed connection nothing more is told");
            assert!(records.last().is_some_and(|record| record.is_close()));
            assert_eq!(records.iter().filter(|record| record.is_close()).count(), 1);
            let whole = if address.is_ipv4() { 4 } else { 16 };
            let expected: Vec<u8> = match address {
                SocketAddr::V4(_) => Ipv4Addr::LOCALHOST.octets().to_vec(),
                SocketAddr::V6(_) => Ipv6Addr::LOCALHOST.octets().to_vec(),
            };
            assert_eq!(first.local_address[..whole], expected);
            assert_eq!(first.remote_address[..whole], expected);
        }
    }
}

#[test]
fn of_other_messages_only_the_beginning_leaves_the_kernel() {
    let Some(mut kernel) = Kernel::load() else { return };
    kernel.target(MODEL_PATH);
    kernel.attach_tcp();
    let (mut client, mut server, port) = connection((Ipv4Addr::LOCALHOST, 0).into());
    let other = request("/upload", &[b'x'; 5000]);
    let model = request(MODEL_PATH, b"{}");
    let answer = b"HTTP/1.1 204 No Content\r\n\r\n";
    transfer(&mut client, &mut server, &other);
    transfer(&mut server, &mut client, answer);
    transfer(&mut client, &mut server, &model);
    transfer(&mut server, &mut client, answer);

    let records = kernel.records_of_port(port);
    for records in kernel::handles(&records) {
        let of =
            |message| records.iter().copied().filter(|record| record.header.message == message).collect::<Vec<_>>();
        let first: usize = of(1).iter().map(|record| record.payload.len()).sum();
        assert_eq!(first, BEGINNING_BYTES as usize);
        assert!(of(1).iter().all(|record| record.header.flags & flags::CAPTURE == 0));
        assert!(of(1).iter().all(|record| record.payload != answer), "an answer nobody asked for has left the kernel");
        let (requests, answers) = match of(2)[0].header.direction {
            direction::SENT => (direction::SENT, direction::RECEIVED),
            _ => (direction::RECEIVED, direction::SENT),
        };
        assert_eq!(stream(&of(2), requests), model);
        assert_eq!(stream(&of(2), answers), answer);
    }
}

#[test]
fn what_calls_no_model_stays_in_the_kernel_unless_it_ends_a_call() {
    let Some(mut kernel) = Kernel::load() else { return };
    kernel.target(MODEL_PATH);
    kernel.attach_tcp();
    let (mut client, mut server, port) = connection((Ipv4Addr::LOCALHOST, 0).into());
    let answer = b"HTTP/1.1 204 No Content\r\n\r\n";
    let model = request(MODEL_PATH, b"{}");
    let unknown = request("/unknown", b"{}");
    // Each with whether it leaves the kernel: after a call, and after what may be one, the next message does.
    let messages = [
        (HEALTH, false),
        (HEALTH, false),
        (&model, true),
        (HEALTH, true),
        (HEALTH, false),
        (&unknown, true),
        (HEALTH, true),
        (b"PUT /x HTTP/1.1\r\nContent-Length: 0\r\n\r\n", false),
        // There may be another behind it.
        (&[HEALTH, &model].concat(), true),
    ];
    for (number, (message, leaves)) in messages.into_iter().enumerate() {
        transfer(&mut client, &mut server, message);
        let begun: Vec<Record> = kernel.records_of_port(port);
        let begun: Vec<&Record> = begun.iter().filter(|record| record.header.flags & flags::BEGIN != 0).collect();
        assert_eq!(begun.len(), if leaves { 2 } else { 0 }, "message {number} at both ends");
        assert!(begun.iter().all(|record| record.header.message == number as u32 + 1));
        if leaves && message == HEALTH {
            begun.iter().for_each(|record| kernel.verdict(&record.header, action::IGNORE));
        }
        transfer(&mut server, &mut client, answer);
    }
}

#[test]
fn verdicts_are_obeyed_for_their_message_only() {
    let Some(mut kernel) = Kernel::load() else { return };
    kernel.attach_tcp();
    let (mut client, mut server, port) = connection((Ipv4Addr::LOCALHOST, 0).into());
    for (message, action, expected) in [(1, action::IGNORE, 0), (2, action::CAPTURE, 1), (3, action::OPAQUE, 0)] {
        transfer(&mut client, &mut server, &request("/unknown", b""));
        let begun = kernel.records_of_port(port);
        assert_eq!(begun.len(), 2, "message {message} is shown at both ends");
        for record in &begun {
            assert_eq!(record.header.message, message);
            kernel.verdict(&record.header, action);
        }
        transfer(&mut server, &mut client, b"HTTP/1.1 204 No Content\r\n\r\n");
        assert_eq!(kernel.records_of_port(port).len(), 2 * expected, "after action {action}");
    }
    // Others' messages are counted, too.
    assert!(kernel.counter(counter::MESSAGES_IGNORED) >= 2);
    transfer(&mut client, &mut server, &request("/unknown", b""));
    assert_eq!(kernel.records_of_port(port).len(), 0, "an opaque flow is never looked at again");
}

#[test]
fn a_connection_that_is_upgraded_is_copied_whole_in_both_directions() {
    const OWN_PATH: &str = "/v1/socket/own";
    let Some(mut kernel) = Kernel::load() else { return };
    kernel.target(OWN_PATH);
    kernel.attach_tcp();
    let (mut client, mut server, port) = connection((Ipv4Addr::LOCALHOST, 0).into());
    let asks = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: test\r\nUpgrade: websocket\r\n\r\n").into_bytes();
    // Of others nothing leaves the kernel.
    transfer(&mut client, &mut server, &asks("/v1/socket/other"));
    transfer(&mut server, &mut client, b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n");
    assert_eq!(kernel.records_of_port(port).len(), 0);
    let mut said = [asks(OWN_PATH), b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n".to_vec()];
    transfer(&mut client, &mut server, &said[0]);
    transfer(&mut server, &mut client, &said[1]);
    // A first message is here before the verdict, and more of it than of a request would be copied.
    let message: Vec<u8> = (0..100_000_u32).map(|n| 0x80 | (n % 101) as u8).collect();
    transfer(&mut client, &mut server, &message);
    said[0].extend_from_slice(&message);
    let mut records = kernel.records_of_port(port);
    for records in kernel::handles(&records) {
        kernel.verdict(&records[0].header, action::STREAM);
    }
    // Bytes that look like requests, behind masks that are random, are none.
    let like_requests: [&[u8]; 3] =
        [&[b"GET / HTTP/1.1\r\n\r\n", &message[..]].concat(), b"G", &[0, 0, 9, 1, 4, 0, 0, 0, 1, 2, 3]];
    for bytes in like_requests {
        transfer(&mut client, &mut server, bytes);
        transfer(&mut server, &mut client, bytes);
        said.iter_mut().for_each(|said| said.extend_from_slice(bytes));
    }
    records.extend(kernel.records_of_port(port));
    for records in kernel::handles(&records) {
        let (requests, answers) = match records[0].header.direction {
            direction::SENT => (direction::SENT, direction::RECEIVED),
            _ => (direction::RECEIVED, direction::SENT),
        };
        assert!(stream(&records, requests) == said[0] && stream(&records, answers) == said[1]);
        assert_eq!(records.iter().filter(|record| record.header.flags & flags::BEGIN != 0).count(), 1);
        assert!(records.iter().all(|record| record.header.message == 2));
    }
}

#[test]
fn of_a_long_request_head_and_tails_are_copied() {
    // Other tests run meanwhile, and the counters of these programs are of all that matches.
    const OWN_PATH: &str = "/v1/long/own";
    let Some(mut kernel) = Kernel::load() else { return };
    kernel.target(OWN_PATH);
    kernel.attach_tcp();
    let (mut client, mut server, port) = connection((Ipv4Addr::LOCALHOST, 0).into());
    let body: Vec<u8> = (0..300_000_u32).map(|n| b'a' + (n % 23) as u8).collect();
    let long = request(OWN_PATH, &body);
    transfer(&mut client, &mut server, &long);

    let records = kernel.records_of_port(port);
    let mut copied = 0;
    for records in kernel::handles(&records) {
        let way = records[0].header.direction;
        let seen = stream(&records, way);
        assert_eq!(seen.len(), long.len(), "the last piece's tail is there");
        assert_eq!(seen[..REQUEST_HEAD_BYTES as usize], long[..REQUEST_HEAD_BYTES as usize]);
        let tail = long.len() - TAIL_BYTES as usize;
        let unseen = seen.iter().zip(&long).filter(|(seen, sent)| seen != sent).count();
        assert!(seen.iter().zip(&long).all(|(seen, sent)| seen == sent || *seen == b'?'));
        assert!(unseen > 0, "nothing was left out");
        assert_eq!(seen[tail..], long[tail..]);
        assert!(records.iter().any(|record| record.header.flags & flags::THINNED != 0));
        copied += seen.len() - unseen;
    }
    // On a busy machine TCP repeats segments, and what is left out of them counts again.
    let accounted = copied as u64 + kernel.counter(counter::THINNED_BYTES);
    assert!(accounted >= 2 * long.len() as u64, "every byte is accounted for: {accounted}");
}

/// Stream bytes that the records of one direction stand for, and those that are there.
fn lengths(records: &[&Record], direction: u8) -> (usize, usize) {
    let of_way = records.iter().filter(|record| !record.is_close() && record.header.direction == direction);
    of_way.fold((0, 0), |(original, captured), record| {
        (original + record.header.original_len as usize, captured + record.header.captured_len as usize)
    })
}

#[test]
fn over_the_byte_budget_messages_begin_and_the_rest_is_known_by_time_and_length() {
    // Other tests run meanwhile, and the counters of these programs are of all that matches.
    const OWN_PATH: &str = "/v1/budget/own";
    let Some(mut kernel) = Kernel::load() else { return };
    kernel.target(OWN_PATH);
    kernel.attach_tcp();
    kernel.limit(limit::BYTES_PER_SECOND, 1);
    let (mut client, mut server, port) = connection((Ipv4Addr::LOCALHOST, 0).into());
    let request = request(OWN_PATH, &[b'x'; 500]);
    let head = b"HTTP/1.1 200 OK\r\nContent-Length: 30000\r\n\r\n";
    // A second's worth may be in hand, which is used up by the first call.
    for call in 0..2 {
        // SDKs send head and body apart.
        let (its_head, its_body) = request.split_at(request.len() - 500);
        transfer(&mut client, &mut server, its_head);
        transfer(&mut client, &mut server, its_body);
        transfer(&mut server, &mut client, head);
        for _ in 0..100 {
            transfer(&mut server, &mut client, &[b'y'; 300]);
        }
        let records = kernel.records_of_port(port);
        if call == 0 {
            continue;
        }
        for records in kernel::handles(&records) {
            let way = records[0].header.direction;
            assert_eq!(stream(&records, way), request, "a message's beginning comes whole");
            // A bare acknowledgement is a record, too.
            let is_answer = |record: &&&Record| record.header.direction != way && record.header.original_len > 0;
            let answers: Vec<_> = records.iter().filter(is_answer).collect();
            assert_eq!(answers[0].payload, head, "so does its answer's");
            let (original, captured) = lengths(&records, 1 - way);
            assert!(original >= head.len() + 30_000, "every byte is told of: {original}");
            let is_marked = |record: &&&&Record| record.header.flags & flags::TIMING_ONLY != 0;
            let marked = answers.iter().filter(is_marked).count();
            let is_end = |record: &&&&Record| record.payload == b"yyyyyyyy" && record.header.flags & flags::LAST != 0;
            assert_eq!(answers.iter().filter(is_end).count(), marked, "of each piece, its last bytes");
            assert_eq!((answers.len() - 1, captured - head.len()), (marked, 8 * marked));
            assert!(records.iter().all(|record| record.header.timestamp_ns > 0));
            assert!(answers.windows(2).all(|pair| pair[0].header.timestamp_ns <= pair[1].header.timestamp_ns));
        }
    }
    assert!(kernel.counter(counter::TIMING_ONLY_CHUNKS) >= 200);
    assert!(kernel.counter(counter::TIMING_ONLY_BYTES) >= 2 * 30_000);
}

#[test]
fn bulk_leaves_room_in_the_ring_for_streams() {
    // Other tests run meanwhile, and the counters of these programs are of all that matches.
    const OWN_PATH: &str = "/v1/bulk/own";
    let Some(mut kernel) = Kernel::load() else { return };
    kernel.target(OWN_PATH);
    kernel.attach_tcp();
    let (mut client, mut server, _) = connection((Ipv4Addr::LOCALHOST, 0).into());
    transfer(&mut client, &mut server, &request(OWN_PATH, b"{}"));
    let head = b"HTTP/1.1 200 OK\r\n\r\n";
    transfer(&mut server, &mut client, head);
    // Nobody reads the ring: both ends' copies of this would fill it more than twice.
    transfer(&mut server, &mut client, &vec![b'y'; EVENTS_RING_BYTES as usize]);
    let marked = kernel.counter(counter::TIMING_ONLY_CHUNKS);
    assert!(marked > 0, "bulk has given way");

    let (mut client, mut server, port) = connection((Ipv4Addr::LOCALHOST, 0).into());
    let request = request(OWN_PATH, b"{}");
    transfer(&mut client, &mut server, &request);
    transfer(&mut server, &mut client, head);
    let event: Vec<u8> = (0..250).collect();
    for _ in 0..1000 {
        transfer(&mut server, &mut client, &event);
    }
    let all = kernel.records();
    let of_port: Vec<&Record> =
        all.iter().filter(|record| record.header.local_port == port || record.header.remote_port == port).collect();
    for way in [direction::SENT, direction::RECEIVED] {
        let (original, captured) = lengths(&of_port, way);
        assert_eq!(captured, original, "nothing of the stream is missing");
        assert!(captured >= request.len() + head.len() + 1000 * event.len());
    }
    let bulk = all.iter().filter(|record| record.header.flags & flags::TIMING_ONLY != 0);
    let is_end = |record: &Record| record.payload == [b'y'; 256] && record.header.flags & flags::LAST != 0;
    assert!(bulk.clone().all(|record| is_end(record) && record.header.original_len > 1024));
    assert!(bulk.count() > 0);
    assert_eq!(kernel.counter(counter::RING_FULL_CHUNKS), 0);
}

#[test]
fn a_ring_that_fills_wakes_its_reader() {
    // Other tests run meanwhile, and the counters of these programs are of all that matches.
    const OWN_PATH: &str = "/v1/bell/own";
    let Some(mut kernel) = Kernel::load() else { return };
    kernel.target(OWN_PATH);
    kernel.attach_tcp();
    let bell = kernel.bell();
    let fd = bell.as_fd();
    let rings_within = |timeout| poll(&mut [PollFd::new(fd, PollFlags::POLLIN)], timeout) == Ok(1);
    let rings = || rings_within(PollTimeout::ZERO);
    let (mut client, mut server, _) = connection((Ipv4Addr::LOCALHOST, 0).into());
    transfer(&mut client, &mut server, &request(OWN_PATH, b"{}"));
    transfer(&mut server, &mut client, b"HTTP/1.1 200 OK\r\n\r\n");
    assert!(!rings(), "a call is not much");
    let bulk = vec![b'y'; EVENTS_URGENT_BYTES as usize];
    thread::scope(|scope| {
        // Somebody who sleeps is woken.
        let sleeper = scope.spawn(|| rings_within(PollTimeout::from(10_000_u16)));
        transfer(&mut server, &mut client, &bulk);
        assert!(sleeper.join().expect("no panic"));
    });
    bell.answer();
    assert!(!rings());
    transfer(&mut server, &mut client, &bulk[..4096]);
    assert!(rings(), "nobody has read");
    bell.answer();
    kernel.records();
    transfer(&mut server, &mut client, &bulk[..4096]);
    assert!(!rings());
}

#[test]
fn ends_come_through_a_ring_that_is_full() {
    // Other tests run meanwhile, and the counters of these programs are of all that matches.
    const OWN_PATH: &str = "/v1/full/own";
    let Some(mut kernel) = Kernel::load() else { return };
    kernel.target(OWN_PATH);
    kernel.attach_tcp();
    let (mut client, mut server, port) = connection((Ipv4Addr::LOCALHOST, 0).into());
    transfer(&mut client, &mut server, &request(OWN_PATH, b"{}"));
    let event = [b'e'; 200];
    let mut sent = 0_u32;
    // Nobody reads the ring: small pieces fill it, too.
    while kernel.counter(counter::RING_FULL_CHUNKS) < 100 {
        transfer(&mut server, &mut client, &event);
        sent += event.len() as u32;
        assert!(sent < EVENTS_RING_BYTES, "it is never full");
    }
    drop(server);
    client.read_to_end(&mut Vec::new()).expect("the server has closed");
    drop(client);
    for records in kernel::handles(&kernel.records_of_port(port)) {
        let is_client = records[0].header.remote_port == port;
        let way = if is_client { direction::RECEIVED } else { direction::SENT };
        let of_answer = |record: &&&Record| record.header.direction == way;
        let first = records.iter().filter(of_answer).find(|record| !record.payload.is_empty()).expect("it has begun");
        let fin = records.iter().filter(of_answer).find(|record| record.header.flags & flags::FIN != 0);
        let fin = fin.expect("the end is told");
        assert_eq!((fin.header.offset as u32).wrapping_sub(first.header.offset as u32), sent, "where the stream ends");
        assert!(records.iter().any(|record| record.is_close()));
        let (_, captured) = lengths(&records, way);
        assert!(captured < sent as usize, "something was lost");
    }
}

#[test]
fn who_writes_the_answer_is_the_owner() {
    let Some(mut kernel) = Kernel::load() else { return };
    if Places::read().socket_owned_at.is_none() {
        support::skip("the kernel does not tell which process a packet comes from");
        return;
    }
    kernel.target(MODEL_PATH);
    kernel.attach_tcp();
    let (mut client, mut server, port) = connection((Ipv4Addr::LOCALHOST, 0).into());
    transfer(&mut client, &mut server, &request(MODEL_PATH, b"{}"));
    let mut command = Command::new("printf");
    command.arg(r"HTTP/1.1 204 No Content\r\n\r\n").stdout(Stdio::from(std::os::fd::OwnedFd::from(server)));
    let mut worker = command.spawn().expect("printf is in coreutils");
    // It holds the socket, too.
    drop(command);
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).expect("the worker ends");
    assert_eq!(answer, b"HTTP/1.1 204 No Content\r\n\r\n");
    let records = kernel.records_of_port(port);
    let at_server = |way| {
        let mut records = records.iter().filter(|record| record.header.local_port == port);
        let record = records.find(|record| record.header.direction == way && !record.payload.is_empty());
        record.expect("both directions were seen").header
    };
    let (asked, answered) = (at_server(direction::RECEIVED), at_server(direction::SENT));
    let is_inherited = |header: &RecordHeader| header.flags & flags::INHERITED_OWNER != 0;
    assert!(is_inherited(&asked) && !is_inherited(&answered));
    assert_eq!((asked.pid, answered.pid), (std::process::id(), worker.id()));
    worker.wait().expect("it is a child of ours");
}

/// A process that does nothing but run.
struct Busy(Child);

impl Busy {
    fn new() -> Self {
        Self(Command::new("sh").args(["-c", "while :; do :; done"]).spawn().expect("there is a shell"))
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn whoever_runs_while_a_timer_sends_an_answer_has_not_written_it() {
    let Some(mut kernel) = Kernel::load() else { return };
    kernel.target(MODEL_PATH);
    kernel.attach_tcp();
    let (mut client, mut server, port) = connection((Ipv4Addr::LOCALHOST, 0).into());
    transfer(&mut client, &mut server, &request(MODEL_PATH, b"{}"));
    // Some process is running wherever the timer strikes.
    let busy: Vec<Busy> =
        (0..2 * thread::available_parallelism().map_or(2, usize::from)).map(|_| Busy::new()).collect();
    let (head, body) = (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n", b"{}");
    // What is announced to be followed by more waits for that, 0.2 s at most.
    let sent = nix::sys::socket::send(server.as_raw_fd(), head, MsgFlags::from_bits_retain(nix::libc::MSG_MORE))
        .expect("loopback takes");
    assert_eq!(sent, head.len());
    let mut answer = vec![0; head.len()];
    client.read_exact(&mut answer).expect("loopback delivers");
    transfer(&mut server, &mut client, body);
    drop(busy);
    let records = kernel.records_of_port(port);
    let answers = records
        .iter()
        .filter(|record| record.header.local_port == port && record.header.direction == direction::SENT)
        .filter(|record| !record.payload.is_empty());
    let [head, body] = answers.map(|record| record.header).collect::<Vec<_>>()[..] else { panic!("two were sent") };
    assert_eq!((head.pid, body.pid), (std::process::id(), std::process::id()));
    let is_inherited = |header: &RecordHeader| header.flags & flags::INHERITED_OWNER != 0;
    assert_eq!((is_inherited(&head), is_inherited(&body)), (true, Places::read().socket_owned_at.is_none()));
}

#[test]
fn a_compressed_request_and_a_long_answer_are_copied_whole() {
    // Other tests run meanwhile, and the counters of these programs are of all that matches.
    const OWN_PATH: &str = "/v1/compressed/own";
    let Some(mut kernel) = Kernel::load() else { return };
    kernel.target(OWN_PATH);
    kernel.attach_tcp();
    let (mut client, mut server, port) = connection((Ipv4Addr::LOCALHOST, 0).into());
    let mut body = vec![7; 200_000];
    body[..2].copy_from_slice(&[0x1f, 0x8b]);
    body[2] = 8;
    let long = request(OWN_PATH, &body);
    let head = long.len() - body.len();
    transfer(&mut client, &mut server, &long[..head]);
    transfer(&mut client, &mut server, &long[head..]);
    let answer = vec![b'z'; 200_000];
    transfer(&mut server, &mut client, &answer);
    let records = kernel.records_of_port(port);
    for records in kernel::handles(&records) {
        let way = records[0].header.direction;
        assert_eq!(stream(&records, way), long);
        assert_eq!(stream(&records, 1 - way), answer);
    }
    assert_eq!(kernel.counter(counter::THINNED_BYTES), 0);
}

#[test]
fn of_a_tls_connection_only_the_hello_leaves_the_kernel_and_how_it_is_used() {
    let Some(mut kernel) = Kernel::load() else { return };
    kernel.target(MODEL_PATH);
    kernel.attach_tcp();
    let (mut client, mut server, port) = connection((Ipv4Addr::LOCALHOST, 0).into());
    // With a key that makes it long.
    let mut hello = vec![0x16, 3, 1, 6, 0xa0, 1];
    hello.resize(1701, 9);
    transfer(&mut client, &mut server, &hello);
    transfer(&mut server, &mut client, &[0x16, 3, 3, 0, 1, 2]);
    // The end of the handshake is no request, nor is what the server says then an answer.
    transfer(&mut client, &mut server, &[0x17; 74]);
    transfer(&mut server, &mut client, &[0x17; 500]);
    let records = kernel.records_of_port(port);
    assert_eq!(records.len(), 2, "one at each end");
    for record in &records {
        assert_eq!(record.header.flags & flags::TLS_HELLO, flags::TLS_HELLO);
        assert_eq!(record.payload, hello);
    }

    let ask = |client: &mut TcpStream, server: &mut TcpStream| {
        transfer(client, server, &[0x17; 200]);
        transfer(client, server, &[0x42; 5000]);
        transfer(server, client, &[0x17; 3000]);
        transfer(server, client, &[0x42; 3000]);
    };
    ask(&mut client, &mut server);
    ask(&mut client, &mut server);
    let reports = |kernel: &mut Kernel| -> Vec<(bool, u64, u64)> {
        let records = kernel.records_of_port(port);
        assert!(records.iter().all(|record| record.header.kind == kind::SEALED), "nothing of what is said");
        let number = |record: &Record, at: usize| u64::from_ne_bytes(record.payload[at..at + 8].try_into().unwrap());
        let report = |record: &Record| {
            let asked = number(record, offset_of!(SealedReport, asked_ns));
            assert!(asked < record.header.timestamp_ns && asked > record.header.timestamp_ns - 1_000_000_000);
            let [sent, received] = [offset_of!(SealedReport, sent), offset_of!(SealedReport, received)];
            (record.header.local_port == port, number(record, sent), number(record, received))
        };
        records.iter().map(report).collect()
    };
    let mut seen = reports(&mut kernel);
    seen.sort_unstable();
    let (asked, answered) = (5200, 6000);
    let of_client = |times: u64| (false, 1701 + 74 + times * asked, 6 + 500 + (times - 1) * answered);
    let of_server = |times: u64| (true, 6 + 500 + (times - 1) * answered + 3000, 1701 + 74 + times * asked);
    assert_eq!(seen, [of_client(1), of_client(2), of_server(1), of_server(2)], "when an answer begins");
    for handle in kernel::handles(&records) {
        // User space does not care for it.
        kernel.verdict(&handle[0].header, action::IGNORE);
    }
    ask(&mut client, &mut server);
    ask(&mut client, &mut server);
    assert_eq!(reports(&mut kernel), []);
}

#[test]
fn a_connection_that_is_older_than_the_programs_is_picked_up_at_its_next_message() {
    let Some(mut kernel) = Kernel::load() else { return };
    kernel.target(MODEL_PATH);
    let (mut client, mut server, port) = connection((Ipv4Addr::LOCALHOST, 0).into());
    let request = request(MODEL_PATH, b"{}");
    transfer(&mut client, &mut server, &request);
    kernel.attach_tcp();
    transfer(&mut server, &mut client, b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    assert_eq!(kernel.records_of_port(port).len(), 0, "the rest of a message whose beginning nobody has seen");
    transfer(&mut client, &mut server, &request);
    let records = kernel.records_of_port(port);
    for records in kernel::handles(&records) {
        assert_eq!(stream(&records, records[0].header.direction), request);
        // Each end has sent something by now.
        let owner = if Places::read().socket_owned_at.is_some() { std::process::id() } else { 0 };
        assert_eq!(records[0].header.pid, owner, "who made the socket was not seen");
    }
}

#[test]
fn a_request_that_arrives_before_its_server_accepts_is_one_connection_with_its_answer() {
    let Some(mut kernel) = Kernel::load() else { return };
    kernel.target(MODEL_PATH);
    kernel.attach_tcp();
    for address in [SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), SocketAddr::from((Ipv6Addr::LOCALHOST, 0))] {
        let listener = TcpListener::bind(address).expect("a loopback address can be bound");
        kernel::defer_accept(&listener);
        let address = listener.local_addr().expect("a bound socket has an address");
        let mut client = TcpStream::connect(address).expect("loopback connects");
        let request = request(MODEL_PATH, &[b'x'; 20_000]);
        let (head, body) = request.split_at(9000);
        client.write_all(head).expect("loopback takes");
        let (mut server, _) = listener.accept().expect("the request lets the server accept");
        let mut received = vec![0; head.len()];
        server.read_exact(&mut received).expect("loopback delivers");
        assert_eq!(received, head);
        transfer(&mut client, &mut server, body);
        let answer = b"HTTP/1.1 204 No Content\r\n\r\n";
        transfer(&mut server, &mut client, answer);
        transfer(&mut client, &mut server, &request);
        drop(server);
        let mut rest = Vec::new();
        client.read_to_end(&mut rest).expect("the server has closed");

        let records = kernel.records_of_port(address.port());
        let of_server: Vec<_> = kernel::handles(&records)
            .into_iter()
            .filter(|records| records.iter().any(|record| record.header.local_port == address.port()))
            .collect();
        assert_eq!(of_server.len(), 1, "one connection throughout");
        let records = &of_server[0];
        let first = &records[0].header;
        assert_ne!(first.handle & DEFERRED_HANDLE, 0);
        assert_eq!(
            first.flags & (flags::LISTENER | flags::BEGIN | flags::CAPTURE),
            flags::LISTENER | flags::BEGIN | flags::CAPTURE
        );
        assert_eq!((first.pid, first.message, first.direction), (0, 1, direction::RECEIVED));
        assert_eq!(first.remote_port, client.local_addr().expect("it is connected").port());
        let here = match address {
            SocketAddr::V4(_) => [&Ipv4Addr::LOCALHOST.octets()[..], &[0; 12]].concat(),
            SocketAddr::V6(_) => Ipv6Addr::LOCALHOST.octets().to_vec(),
        };
        assert_eq!((&first.local_address[..], &first.remote_address[..]), (&here[..], &here[..]));
        let accepted = records.iter().position(|record| record.header.kind == kind::ACCEPTED).expect("it is accepted");
        assert!(records[..accepted].iter().all(|record| record.header.flags & flags::LISTENER != 0));
        assert!(records[accepted..].iter().all(|record| record.header.flags & flags::LISTENER == 0));
        assert_eq!(records[accepted].header.pid, std::process::id());
        let of =
            |message| records.iter().copied().filter(|record| record.header.message == message).collect::<Vec<_>>();
        // Of the request's middle nothing is wanted.
        assert_eq!(stream(&of(1), direction::RECEIVED).len(), request.len());
        assert_eq!(stream(&of(1), direction::RECEIVED)[..9000], *head);
        assert_eq!(stream(&of(1), direction::SENT), answer);
        assert_eq!(stream(&of(2), direction::RECEIVED).len(), request.len());
        assert_eq!(records.iter().filter(|record| record.is_close()).count(), 1);
    }
}

/// Has a TLS client and a server talk in one Python process, and says which that was.
fn tls_pair(python: Command) -> u32 {
    run_tls(python, "tls_pair.py", &[])
}

/// Runs a program of ours with a certificate and gives its number.
fn run_tls(mut python: Command, script: &str, arguments: &[&std::path::Path]) -> u32 {
    let places = tempfile::tempdir().expect("a temporary directory");
    let (key, certificate) = (places.path().join("key"), places.path().join("certificate"));
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost", "-keyout"])
        .arg(&key)
        .arg("-out")
        .arg(&certificate)
        .stderr(Stdio::null())
        .status();
    assert!(made.is_ok_and(|status| status.success()), "openssl makes a certificate");
    let script = std::path::Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support")).join(script);
    let output = python.arg(script).arg(&certificate).arg(&key).args(arguments).output().expect("python runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).expect("text");
    let mut lines = text.lines();
    lines.next().and_then(|line| line.parse().ok()).expect("the pid")
}

#[test]
fn calls_within_calls_count_each_for_its_own_connection() {
    let Some(mut kernel) = Kernel::load() else { return };
    let Some((python, library)) = kernel::python_with_shared_openssl() else { return };
    kernel.target(MODEL_PATH);
    kernel.attach_tls_places(&library);
    let pid = run_tls(Command::new(python), "tls_in_tls.py", &[&library]);

    let records: Vec<Record> = kernel.records().into_iter().filter(|record| record.header.pid == pid).collect();
    let call = request(MODEL_PATH, b"{\"model\":\"m\"}");
    let flows = kernel::handles(&records);
    assert_eq!(flows.len(), 2, "client and server; what the inner connection carries is no request");
    for records in flows {
        let way = records[0].header.direction;
        assert_eq!(stream(&records, way), call);
        assert_eq!(stream(&records, 1 - way), ANSWER);
    }
}

#[test]
fn tls_is_seen_at_the_library_with_requests_read_byte_by_byte() {
    let Some(mut kernel) = Kernel::load() else { return };
    let Some((python, library)) = kernel::python_with_shared_openssl() else { return };
    kernel.target(MODEL_PATH);
    kernel.attach_tls(&library);
    let pid = tls_pair(Command::new(python));

    let records: Vec<Record> = kernel.records().into_iter().filter(|record| record.header.pid == pid).collect();
    let call = request(MODEL_PATH, b"{\"model\":\"m\"}");
    let flows = kernel::handles(&records);
    assert_eq!(flows.len(), 2, "client and server");
    for records in flows {
        let first = &records[0].header;
        assert_eq!((first.source, first.generation != 0), (source::TLS, true));
        let of =
            |message| records.iter().copied().filter(|record| record.header.message == message).collect::<Vec<_>>();
        let way = first.direction;
        // No model is called with GET; but what of it is read byte by byte is not known to be alone.
        let seen = if way == direction::SENT { b"" } else { HEALTH };
        assert_eq!(stream(&of(1), way), seen);
        assert_eq!(stream(&of(2), way), JOB);
        assert!(of(2).iter().all(|record| record.header.direction == way), "an answer nobody asked for");
        assert_eq!(stream(&of(3), way), call);
        assert_eq!(stream(&of(3), 1 - way), ANSWER);
        let begins: Vec<_> = records.iter().filter(|record| record.header.flags & flags::BEGIN != 0).collect();
        assert_eq!(begins.len(), if seen.is_empty() { 2 } else { 3 });
        assert!(
            of(3).iter().filter(|record| !record.is_close()).all(|record| record.header.flags & flags::CAPTURE != 0)
        );
        // The server reads heads a byte at a time. The request line up to its target was held back, and the byte behind
        // it let it go; from there on each line is one record.
        if way == direction::RECEIVED {
            let sizes = |message| {
                let of_request = of(message).into_iter().filter(|record| record.header.direction == way);
                of_request.map(|record| record.payload.len()).collect::<Vec<_>>()
            };
            assert_eq!(sizes(2), [10, 1, 10, 17, 2]);
            assert_eq!(sizes(3), [25, 1, 16, 12, 20, 2, 13]);
        }
        assert_eq!(records.iter().filter(|record| record.is_close()).count(), 1, "the connection object is freed");
        assert!(records.windows(2).all(|pair| pair[0].header.timestamp_ns <= pair[1].header.timestamp_ns));
    }
}

#[test]
fn a_first_byte_that_is_read_by_itself_is_told_with_the_rest() {
    let Some(mut kernel) = Kernel::load() else { return };
    let Some((python, library)) = kernel::python_with_shared_openssl() else { return };
    kernel.target(MODEL_PATH);
    kernel.attach_tls_places(&library);
    let pid = run_tls(Command::new(python), "tls_pair.py", &[std::path::Path::new("first-alone")]);
    let records: Vec<Record> = kernel.records().into_iter().filter(|record| record.header.pid == pid).collect();
    let call = request(MODEL_PATH, b"{\"model\":\"m\"}");
    for records in kernel::handles(&records) {
        let way = records[0].header.direction;
        let of_call: Vec<_> = records.iter().copied().filter(|record| record.header.message == 3).collect();
        assert_eq!(stream(&of_call, way), call);
        assert_eq!(stream(&of_call, 1 - way), ANSWER);
    }
}

#[test]
fn probes_twice_in_one_file_count_each_call_once() {
    let Some((python, library)) = kernel::python_with_shared_openssl() else { return };
    let Some(mut kernel) = Kernel::load() else { return };
    // An overlay over one directory: two files by their numbers, one underneath.
    let places = Place::new();
    let [below, other, point] = ["below", "other", "point"].map(|name| places.path().join(name));
    [&below, &other, &point].into_iter().for_each(|place| std::fs::create_dir(place).expect("a directory"));
    let options = format!("lowerdir={}:{}", other.display(), below.display());
    mount(Some("overlay"), &point, Some("overlay"), MsFlags::empty(), Some(options.as_str())).expect("it mounts");
    let name = library.file_name().expect("a library has a name");
    std::fs::copy(&library, below.join(name)).expect("a copy");
    kernel.target(MODEL_PATH);
    kernel.attach_tls(&below.join(name));
    kernel.attach_tls(&point.join(name));

    for directory in [&below, &point] {
        let mut python = Command::new(python);
        python.env("LD_LIBRARY_PATH", directory);
        let pid = tls_pair(python);
        let records: Vec<Record> = kernel.records().into_iter().filter(|record| record.header.pid == pid).collect();
        let flows = kernel::handles(&records);
        assert_eq!(flows.len(), 2, "client and server, through {}", directory.display());
        for records in flows {
            // A record for each of two hits would have offsets behind those of its twin.
            let end = |way| {
                let of_way = records.iter().filter(|record| !record.is_close() && record.header.direction == way);
                of_way.map(|record| record.header.offset + record.payload.len() as u64).max()
            };
            let way = records[0].header.direction;
            let call = request(MODEL_PATH, b"{\"model\":\"m\"}");
            assert_eq!(end(way), Some((HEALTH.len() + JOB.len() + call.len()) as u64));
            assert_eq!(end(1 - way), Some(3 * ANSWER.len() as u64));
        }
    }
}

#[test]
fn a_process_ends_with_its_last_thread() {
    let Some(mut kernel) = Kernel::load() else { return };
    let Some(mut ends) = kernel.watch_ends() else { return };
    // The first thread ends by itself; the second does when its input closes.
    let program = "import ctypes, os, sys, threading\n\
                   def wait():\n    print(os.getpid(), flush=True)\n    sys.stdin.read()\n    os._exit(0)\n\
                   threading.Thread(target=wait).start()\n\
                   ctypes.CDLL(None).syscall(60 if os.uname().machine == 'x86_64' else 93, 0)\n";
    let mut child = Command::new("python3")
        .args(["-c", program])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("python runs");
    let mut line = String::new();
    BufReader::new(child.stdout.take().expect("a pipe")).read_line(&mut line).expect("it prints its number");
    let pid: u32 = line.trim().parse().expect("a number");
    let state = || std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("it lives");
    // The first thread is a zombie once it has ended.
    while !state().contains(") Z ") {
        thread::yield_now();
    }
    let mut ended =
        || std::iter::from_fn(|| ends.next().map(|event| event[4..8].to_vec())).any(|of| of == pid.to_ne_bytes());
    assert!(!ended(), "its second thread goes on");
    drop(child.stdin.take());
    child.wait().expect("it ends");
    assert!(ended());
}
