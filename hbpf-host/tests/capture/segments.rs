//! Segments that are forged, repeated, out of order or cut in odd places, at the committed programs.
//!
//! The forged ones are written by raw sockets, as anyone on a network could.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream},
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
};

use hbpf_ebpf::{direction, flags, kind};
use nix::libc;

use crate::kernel::{self, Kernel, Record};

/// Linux's `struct tcphdr` bits.
const RST: u8 = 1 << 2;
const PUSH: u8 = 1 << 3;
const ACK: u8 = 1 << 4;

const ANSWER: &[u8] = b"HTTP/1.1 204 No Content\r\n\r\n";

/// A connection over loopback, both ends in this process.
fn connection() -> (TcpStream, TcpStream, u16) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a loopback address can be bound");
    let address = listener.local_addr().expect("a bound socket has an address");
    let client = TcpStream::connect(address).expect("loopback connects");
    let (server, _) = listener.accept().expect("loopback accepts");
    client.set_nodelay(true).expect("a TCP option");
    (client, server, address.port())
}

fn request(path: &str) -> Vec<u8> {
    format!("POST {path} HTTP/1.1\r\nHost: test\r\nContent-Length: 2\r\n\r\n{{}}").into_bytes()
}

fn transfer(from: &mut TcpStream, to: &mut TcpStream, bytes: &[u8]) {
    from.write_all(bytes).expect("loopback takes");
    let mut received = vec![0; bytes.len()];
    to.read_exact(&mut received).expect("loopback delivers");
    assert_eq!(received, bytes, "a program has changed or refused a packet");
}

/// Records of the server's socket.
fn at_server(kernel: &mut Kernel, port: u16) -> Vec<Record> {
    kernel.records_of_port(port).into_iter().filter(|record| record.header.local_port == port).collect()
}

/// A socket for packets with headers of our own making.
fn raw_socket() -> OwnedFd {
    // SAFETY: the call takes three integers.
    let fd = unsafe { libc::socket(libc::AF_INET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, libc::IPPROTO_TCP) };
    assert!(fd >= 0, "{}", std::io::Error::last_os_error());
    // SAFETY: the descriptor is new and ours.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// Sends a segment from one loopback port to another.
fn forge(raw: &OwnedFd, from: u16, to: u16, sequence: u32, acknowledgement: u32, bits: u8, payload: &[u8]) {
    let mut segment = [&from.to_be_bytes()[..], &to.to_be_bytes(), &sequence.to_be_bytes()].concat();
    segment.extend(acknowledgement.to_be_bytes());
    segment.extend([5 << 4, bits, 0xff, 0xff, 0, 0, 0, 0]);
    segment.extend(payload);
    let sum = checksum(&segment).to_be_bytes();
    segment[16..18].copy_from_slice(&sum);
    let address = libc::sockaddr_in {
        sin_family: libc::AF_INET as u16,
        sin_port: 0,
        sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(Ipv4Addr::LOCALHOST.octets()) },
        sin_zero: [0; 8],
    };
    // SAFETY: the buffer and the address are as long as is said and outlive the call.
    let sent = unsafe {
        libc::sendto(
            raw.as_raw_fd(),
            segment.as_ptr().cast(),
            segment.len(),
            0,
            (&raw const address).cast(),
            size_of_val(&address) as libc::socklen_t,
        )
    };
    assert_eq!(usize::try_from(sent), Ok(segment.len()), "{}", std::io::Error::last_os_error());
}

/// Of a TCP segment between two loopback addresses.
fn checksum(segment: &[u8]) -> u16 {
    let length = u16::try_from(segment.len()).expect("a short segment");
    let local = Ipv4Addr::LOCALHOST.octets();
    let pseudo = [&local[..], &local, &[0, 6], &length.to_be_bytes()].concat();
    let mut sum = 0_u32;
    for part in [&pseudo, segment] {
        for pair in part.chunks(2) {
            sum += u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or_default()]));
        }
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[test]
fn forged_segments_hide_no_message_and_begin_none() {
    const OWN_PATH: &str = "/v1/forged/own";
    let Some(mut kernel) = Kernel::load() else { return };
    kernel.target(OWN_PATH);
    kernel.attach_tcp();
    let raw = raw_socket();
    let (mut client, mut server, port) = connection();
    let from = client.local_addr().expect("it is connected").port();
    transfer(&mut client, &mut server, &request(OWN_PATH));
    transfer(&mut server, &mut client, ANSWER);
    let records = at_server(&mut kernel, port);
    let first = &records[0].header;
    let (length, ack) = (request(OWN_PATH).len() as u32, first.ack);
    let next = (first.offset as u32).wrapping_add(length);

    // Ahead and behind, near and far, a message or not; TCP drops those behind, and those ahead for want of a proof.
    for away in [1 << 31, 1 << 30, 1 << 25, 100_000_u32.wrapping_neg(), 1_000_000_u32.wrapping_neg()] {
        for payload in [&b"garbage"[..], &request(OWN_PATH)] {
            forge(&raw, from, port, next.wrapping_add(away), ack, ACK | PUSH, payload);
        }
        forge(&raw, from, port, next.wrapping_add(away), 0, RST, b"");
    }
    let forged = at_server(&mut kernel, port);
    assert!(
        forged.iter().all(|record| record.header.flags & (flags::BEGIN | flags::RST) == 0),
        "a forgery was believed"
    );
    assert!(forged.iter().all(|record| record.header.message == 1 && record.header.kind == kind::DATA));

    for message in 2..4 {
        transfer(&mut client, &mut server, &request(OWN_PATH));
        transfer(&mut server, &mut client, ANSWER);
        let records = at_server(&mut kernel, port);
        let begins: Vec<_> = records.iter().filter(|record| record.header.flags & flags::BEGIN != 0).collect();
        assert_eq!(begins.len(), 1, "message {message}");
        assert_eq!((begins[0].header.message, &begins[0].payload), (message, &request(OWN_PATH)));
        assert!(records.iter().any(|record| record.header.direction == direction::SENT && record.payload == ANSWER));
    }
}

#[test]
fn raw_sockets_are_no_connections() {
    const OWN_PATH: &str = "/v1/raw/own";
    let Some(mut kernel) = Kernel::load() else { return };
    kernel.target(OWN_PATH);
    kernel.attach_tcp();
    // It receives a copy of every segment, and sends one of its own to where nobody listens.
    let raw = raw_socket();
    let (mut client, mut server, port) = connection();
    forge(&raw, 1, 1, 1, 1, ACK | PUSH, &request(OWN_PATH));
    transfer(&mut client, &mut server, &request(OWN_PATH));
    let records: Vec<_> =
        kernel.records().into_iter().filter(|record| record.payload.starts_with(b"POST /v1/raw/own")).collect();
    assert_eq!(records.len(), 2, "one at each end");
    assert!(records.iter().all(|record| [record.header.local_port, record.header.remote_port].contains(&port)));
}

#[test]
fn what_is_sent_to_a_listener_is_marked_and_never_accepted() {
    const OWN_PATH: &str = "/v1/knock/own";
    let Some(mut kernel) = Kernel::load() else { return };
    kernel.target(OWN_PATH);
    kernel.attach_tcp();
    let raw = raw_socket();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a loopback address can be bound");
    let port = listener.local_addr().expect("a bound socket has an address").port();
    forge(&raw, 9, port, 1, 1, ACK | PUSH, &request(OWN_PATH));
    let forged = at_server(&mut kernel, port);
    assert_eq!(forged.len(), 1);
    assert_eq!(forged[0].header.flags & flags::LISTENER, flags::LISTENER);

    let mut client = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).expect("loopback connects");
    let (mut server, _) = listener.accept().expect("loopback accepts");
    transfer(&mut client, &mut server, &request(OWN_PATH));
    let genuine = at_server(&mut kernel, port);
    assert!(
        genuine.iter().all(|record| record.header.kind != kind::ACCEPTED && record.header.flags & flags::LISTENER == 0)
    );
    assert!(genuine.iter().all(|record| record.header.handle != forged[0].header.handle));
}

/// Makes a connecting socket begin its stream at this sequence number.
fn connect_with_sequence(address: SocketAddrV4, sequence: u32) -> TcpStream {
    // SAFETY: the calls take integers and addresses of live values of the lengths said.
    unsafe {
        let fd = libc::socket(libc::AF_INET, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0);
        assert!(fd >= 0, "{}", std::io::Error::last_os_error());
        let set = |option: i32, value: i32| {
            let length = size_of_val(&value) as libc::socklen_t;
            let set = libc::setsockopt(fd, libc::IPPROTO_TCP, option, (&raw const value).cast(), length);
            assert_eq!(set, 0, "{}", std::io::Error::last_os_error());
        };
        const SEND_QUEUE: i32 = 2;
        set(libc::TCP_REPAIR, 1);
        set(libc::TCP_REPAIR_QUEUE, SEND_QUEUE);
        set(libc::TCP_QUEUE_SEQ, sequence as i32);
        set(libc::TCP_REPAIR, 0);
        let name = libc::sockaddr_in {
            sin_family: libc::AF_INET as u16,
            sin_port: address.port().to_be(),
            sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(address.ip().octets()) },
            sin_zero: [0; 8],
        };
        let connected = libc::connect(fd, (&raw const name).cast(), size_of_val(&name) as libc::socklen_t);
        assert_eq!(connected, 0, "{}", std::io::Error::last_os_error());
        TcpStream::from_raw_fd(fd)
    }
}

#[test]
fn sequence_numbers_wrap() {
    const OWN_PATH: &str = "/v1/wrap/own";
    let Some(mut kernel) = Kernel::load() else { return };
    kernel.target(OWN_PATH);
    kernel.attach_tcp();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a loopback address can be bound");
    let port = listener.local_addr().expect("a bound socket has an address").port();
    let mut client = connect_with_sequence(SocketAddrV4::new(Ipv4Addr::LOCALHOST, port), u32::MAX - 20);
    let (mut server, _) = listener.accept().expect("loopback accepts");
    for message in 1..4 {
        transfer(&mut client, &mut server, &request(OWN_PATH));
        transfer(&mut server, &mut client, ANSWER);
        let records = kernel.records_of_port(port);
        assert_eq!(kernel::handles(&records).len(), 2);
        for mut records in kernel::handles(&records) {
            // The others only tell what a socket has received.
            records.retain(|record| !record.payload.is_empty());
            assert_eq!(records.len(), 2, "a request and its answer");
            assert_eq!((records[0].header.message, &records[0].payload), (message, &request(OWN_PATH)));
            let offset = records[0].header.offset;
            assert_eq!(
                offset > u64::from(u32::MAX / 2),
                message == 1,
                "{offset}: the numbers have wrapped within the first"
            );
        }
    }
}

#[test]
fn a_port_used_again_at_once_is_another_connection() {
    const OWN_PATH: &str = "/v1/reused/own";
    let Some(mut kernel) = Kernel::load() else { return };
    kernel.target(OWN_PATH);
    kernel.attach_tcp();
    for deferred in [false, true] {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a loopback address can be bound");
        if deferred {
            kernel::defer_accept(&listener);
        }
        let address = listener.local_addr().expect("a bound socket has an address");
        let reserved = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a loopback address can be bound");
        let from = reserved.local_addr().expect("a bound socket has an address");
        drop(reserved);
        let mut handles = Vec::new();
        for _ in 0..3 {
            let mut client = kernel::connect_from(from, address);
            client.write_all(&request(OWN_PATH)).expect("loopback takes");
            let (mut server, _) = listener.accept().expect("loopback accepts");
            let mut received = vec![0; request(OWN_PATH).len()];
            server.read_exact(&mut received).expect("loopback delivers");
            transfer(&mut server, &mut client, ANSWER);
            // A reset leaves no trace of the connection that would keep its port.
            kernel::reset_at_close(&client);
            drop(client);
            drop(server);
            let records = kernel.records_of_port(address.port());
            let server: Vec<_> = kernel::handles(&records)
                .into_iter()
                .filter(|records| records.iter().any(|record| record.header.local_port == address.port()))
                .collect();
            assert_eq!(server.len(), 1);
            let data: Vec<_> = server[0].iter().filter(|record| !record.payload.is_empty()).collect();
            assert_eq!(data.len(), 2, "a request and its answer");
            assert!(data.iter().all(|record| record.header.message == 1));
            assert!(server[0].iter().any(|record| record.header.flags & flags::RST != 0));
            assert!(server[0].iter().any(|record| record.is_close()));
            handles.push(server[0][0].header.handle);
        }
        handles.dedup();
        assert_eq!(handles.len(), 3);
    }
}
