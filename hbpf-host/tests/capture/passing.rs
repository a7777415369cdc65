//! Packets of every kind pass the programs, and arrive as they were sent.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    thread,
    time::Duration,
};

use nix::libc;

use crate::kernel::Kernel;

/// How long a packet may take over loopback on a machine that does much else.
const PATIENCE: Duration = Duration::from_secs(20);

/// Bytes like no other run of them.
fn noise(length: usize, seed: u32) -> Vec<u8> {
    let mut state = seed.wrapping_mul(2_654_435_761) | 1;
    let next = |_| {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state as u8
    };
    (0..length).map(next).collect()
}

/// What payloads begin with: what the programs look for, and what they do not.
const BEGINNINGS: [&[u8]; 5] =
    [b"", b"POST /v1/chat/completions HTTP/1.1\r\n", b"GET ", b"\x16\x03\x01\x02\x00\x01", b"PRI * HTTP/2.0"];

fn payload(length: usize, seed: u32) -> Vec<u8> {
    let mut bytes = noise(length, seed);
    let beginning = BEGINNINGS[seed as usize % BEGINNINGS.len()];
    let shown = beginning.len().min(length);
    bytes[..shown].copy_from_slice(&beginning[..shown]);
    bytes
}

fn raw_socket(family: i32, protocol: i32) -> OwnedFd {
    // SAFETY: the call takes three integers.
    let fd = unsafe { libc::socket(family, libc::SOCK_RAW | libc::SOCK_CLOEXEC, protocol) };
    assert!(fd >= 0, "{}", std::io::Error::last_os_error());
    // SAFETY: the descriptor is new and ours.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

#[test]
fn no_packet_is_refused_or_changed() {
    let Some(mut kernel) = Kernel::load() else { return };
    kernel.target("/v1/chat/completions");
    kernel.attach_tcp();
    datagrams();
    extension_headers();
    raw_protocol();
    streams();
    assert!(!kernel.records().is_empty(), "the programs have looked at none of it");
}

/// UDP of every size: the long ones in fragments.
fn datagrams() {
    for address in [SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), SocketAddr::from((Ipv6Addr::LOCALHOST, 0))] {
        let receiver = UdpSocket::bind(address).expect("a loopback address can be bound");
        receiver.set_read_timeout(Some(PATIENCE)).expect("a socket option");
        let sender = UdpSocket::bind(address).expect("a loopback address can be bound");
        let to = receiver.local_addr().expect("it is bound");
        let mut received = vec![0; 70_000];
        for seed in 0..1000_u32 {
            let sent = payload(1 + (seed as usize * 65) % 65_000, seed);
            sender.send_to(&sent, to).expect("loopback takes");
            let length = receiver.recv(&mut received).expect("it arrives");
            assert_eq!(received[..length], sent, "{seed}");
        }
    }
}

/// IPv6 with hop-by-hop and destination options before the payload, some of it in fragments.
fn extension_headers() {
    let receiver = UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)).expect("a loopback address can be bound");
    receiver.set_read_timeout(Some(PATIENCE)).expect("a socket option");
    let sender = UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)).expect("a loopback address can be bound");
    // Next header (the kernel's to fill in), length beyond eight bytes, and padding of that length.
    let options = [0_u8, 0, 1, 4, 0, 0, 0, 0];
    for option in [libc::IPV6_HOPOPTS, libc::IPV6_DSTOPTS] {
        // SAFETY: the option's value outlives the call and is as long as is said.
        let set = unsafe {
            let length = options.len() as libc::socklen_t;
            libc::setsockopt(sender.as_raw_fd(), libc::IPPROTO_IPV6, option, options.as_ptr().cast(), length)
        };
        assert_eq!(set, 0, "{}", std::io::Error::last_os_error());
        let mut received = vec![0; 70_000];
        for seed in 0..300_u32 {
            let sent = payload(1 + (seed as usize * 211) % 60_000, seed);
            sender.send_to(&sent, receiver.local_addr().expect("it is bound")).expect("loopback takes");
            let length = receiver.recv(&mut received).expect("it arrives");
            assert_eq!(received[..length], sent, "{seed}");
        }
    }
}

/// A protocol that is none of those known.
fn raw_protocol() {
    const EXPERIMENT: i32 = 253;
    let (receiver, sender) = (raw_socket(libc::AF_INET, EXPERIMENT), raw_socket(libc::AF_INET, EXPERIMENT));
    let to = libc::sockaddr_in {
        sin_family: libc::AF_INET as u16,
        sin_port: 0,
        sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(Ipv4Addr::LOCALHOST.octets()) },
        sin_zero: [0; 8],
    };
    let patience = libc::timeval { tv_sec: PATIENCE.as_secs() as i64, tv_usec: 0 };
    let mut received = vec![0_u8; 70_000];
    for seed in 0..300_u32 {
        let sent = payload(1 + (seed as usize * 97) % 20_000, seed);
        // SAFETY: buffers, option and address are live and as long as is said.
        let length = unsafe {
            let size = size_of_val(&patience) as libc::socklen_t;
            let fd = receiver.as_raw_fd();
            libc::setsockopt(fd, libc::SOL_SOCKET, libc::SO_RCVTIMEO, (&raw const patience).cast(), size);
            let size = size_of_val(&to) as libc::socklen_t;
            let taken =
                libc::sendto(sender.as_raw_fd(), sent.as_ptr().cast(), sent.len(), 0, (&raw const to).cast(), size);
            assert_eq!(usize::try_from(taken), Ok(sent.len()), "{}", std::io::Error::last_os_error());
            libc::recv(fd, received.as_mut_ptr().cast(), received.len(), 0)
        };
        let length = usize::try_from(length).expect("it arrives");
        // The IP header comes with it.
        let header = usize::from(received[0] & 15) * 4;
        assert_eq!(received[header..length], sent, "{seed}");
    }
}

/// TCP both ways at once, in pieces from one byte to what the kernel cuts up itself.
fn streams() {
    for address in [SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), SocketAddr::from((Ipv6Addr::LOCALHOST, 0))] {
        let listener = TcpListener::bind(address).expect("a loopback address can be bound");
        let client = TcpStream::connect(listener.local_addr().expect("it is bound")).expect("loopback connects");
        let (server, _) = listener.accept().expect("loopback accepts");
        client.set_nodelay(true).expect("a TCP option");
        thread::scope(|scope| {
            for (mut from, mut to) in [
                (client.try_clone().expect("a descriptor"), server.try_clone().expect("a descriptor")),
                (server, client),
            ] {
                let lengths = || (0..300_u32).map(|seed| (1 + (seed as usize * seed as usize * 7) % 200_000, seed));
                scope.spawn(move || {
                    for (length, seed) in lengths() {
                        from.write_all(&payload(length, seed)).expect("loopback takes");
                    }
                });
                scope.spawn(move || {
                    for (length, seed) in lengths() {
                        let mut received = vec![0; length];
                        to.read_exact(&mut received).expect("loopback delivers");
                        assert!(received == payload(length, seed), "{seed}");
                    }
                });
            }
        });
    }
}
