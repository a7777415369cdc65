//! Socket inodes, from the kernel's socket diagnosis or from the tables under `/proc/PID/net`.

use std::collections::HashMap;
use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::thread;

use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket};

use super::files;
use crate::namespace;

/// Longest table that is read, at 150 bytes a connection.
const MAX_TABLE_BYTES: usize = 16 * 1024 * 1024;

/// As much of a table as is read for what listens, which the kernel tells before all connections: more than a thousand.
const MAX_LISTENING_BYTES: usize = 256 * 1024;

/// Listening sockets that are taken of what the kernel tells.
const MAX_LISTENING: usize = 4096;

/// `TCP_LISTEN`: a look-up that finds no connection answers with the listener.
const LISTEN: u8 = 10;

/// A cookie that is not compared.
pub(super) const ANY_COOKIE: u64 = 0;

/// Both ends of a connection, this side first. IPv4 within IPv6 is written as IPv4.
pub(super) type Ends = (SocketAddr, SocketAddr);

pub(super) fn ends(local: SocketAddr, remote: SocketAddr) -> Ends {
    let plain = |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
    (plain(local), plain(remote))
}

/// A question to the kernel about one connection in this process's network namespace.
#[derive(Debug)]
pub(super) struct Diag(OwnedFd);

impl Diag {
    pub(super) fn open() -> Option<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        socket(AddressFamily::Netlink, SockType::Datagram, flags, SockProtocol::NetlinkSockDiag).ok().map(Self)
    }

    /// Inode of the connection's socket.
    pub(super) fn inode(&self, ends: Ends, cookie: u64) -> Option<u64> {
        // What answers an earlier question that was given up is not for this one.
        let mut buffer = [0; 1024];
        let fd = self.0.as_raw_fd();
        while recv(fd, &mut buffer, MsgFlags::MSG_DONTWAIT).is_ok() {}
        send(fd, &request(ends, cookie), MsgFlags::MSG_DONTWAIT).ok()?;
        // The kernel answers within the call above.
        let length = recv(fd, &mut buffer, MsgFlags::MSG_DONTWAIT).ok()?;
        response(buffer.get(..length)?, cookie)
    }

    /// Where is listened in the network namespace that it was opened in, with the inodes of the sockets; `None` where the
    /// kernel does not tell.
    fn listening(&self) -> Option<Vec<(SocketAddr, u64)>> {
        let fd = self.0.as_raw_fd();
        let mut found = Vec::new();
        let mut buffer = vec![0; 32 * 1024];
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            send(fd, &dump_request(family), MsgFlags::MSG_DONTWAIT).ok()?;
            loop {
                // The kernel prepares the next part within the call that fetches this one.
                let length = recv(fd, &mut buffer, MsgFlags::MSG_DONTWAIT).ok()?;
                if read_dump(buffer.get(..length)?, &mut found)? {
                    break;
                }
            }
        }
        Some(found)
    }
}

/// Who is at the other end of a socket of a pair, in this process's network namespace.
#[derive(Debug)]
pub(crate) struct Peers(Diag);

/// `None` where the kernel does not tell.
pub(crate) fn open_peers() -> Option<Peers> {
    Diag::open().map(Peers)
}

impl Peers {
    /// Inode of the socket that this one is connected to.
    pub(crate) fn peer(&self, inode: u64) -> Option<u64> {
        let mut buffer = [0; 1024];
        let fd = self.0.0.as_raw_fd();
        while recv(fd, &mut buffer, MsgFlags::MSG_DONTWAIT).is_ok() {}
        send(fd, &peer_request(inode)?, MsgFlags::MSG_DONTWAIT).ok()?;
        let length = recv(fd, &mut buffer, MsgFlags::MSG_DONTWAIT).ok()?;
        peer_of(buffer.get(..length)?, inode)
    }
}

const HEADER_BYTES: usize = 16;
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_DUMP: u16 = 0x300;
const NLMSG_DONE: u16 = 3;

/// Of `nlmsghdr` and `inet_diag_req_v2`.
const REQUEST_BYTES: usize = HEADER_BYTES + 56;

/// The beginning of a question about sockets in these states, up to their addresses.
fn begin_request(flags: u16, family: AddressFamily, states: u32) -> Vec<u8> {
    let mut message = Vec::with_capacity(REQUEST_BYTES);
    message.extend((REQUEST_BYTES as u32).to_ne_bytes());
    message.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    message.extend(flags.to_ne_bytes());
    message.extend([0; 8]);
    message.extend([family as u8, SockProtocol::Tcp as u8, 0, 0]);
    message.extend(states.to_ne_bytes());
    message
}

/// About all that listen.
fn dump_request(family: AddressFamily) -> Vec<u8> {
    let mut message = begin_request(NLM_F_REQUEST | NLM_F_DUMP, family, 1 << LISTEN);
    message.resize(REQUEST_BYTES, 0);
    message
}

/// About one connection, of whatever state.
fn request((local, remote): Ends, cookie: u64) -> Vec<u8> {
    let family = if local.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let mut message = begin_request(NLM_F_REQUEST, family, u32::MAX);
    message.extend(local.port().to_be_bytes());
    message.extend(remote.port().to_be_bytes());
    message.extend(address(local.ip()));
    message.extend(address(remote.ip()));
    message.extend([0; 4]);
    // What the kernel takes for any.
    let cookie = if cookie == ANY_COOKIE { u64::MAX } else { cookie };
    message.extend((cookie as u32).to_ne_bytes());
    message.extend(((cookie >> 32) as u32).to_ne_bytes());
    message
}

fn address(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(ip) => {
            let mut bytes = [0; 16];
            bytes[..4].copy_from_slice(&ip.octets());
            bytes
        }
        IpAddr::V6(ip) => ip.octets(),
    }
}

/// `nlmsghdr` and `inet_diag_msg`
fn response(message: &[u8], cookie: u64) -> Option<u64> {
    let word = |at: usize| Some(u32::from_ne_bytes(message.get(at..at + 4)?.try_into().ok()?));
    let kind = u16::from_ne_bytes(message.get(4..6)?.try_into().ok()?);
    let state = *message.get(HEADER_BYTES + 1)?;
    if kind != SOCK_DIAG_BY_FAMILY || state == LISTEN {
        return None;
    }
    let (low, high) = (word(HEADER_BYTES + 44)?, word(HEADER_BYTES + 48)?);
    let is_it = cookie == ANY_COOKIE || cookie == u64::from(low) | u64::from(high) << 32;
    let inode = u64::from(word(HEADER_BYTES + 68)?);
    // A connection that nobody holds any more has none.
    (is_it && inode != 0).then_some(inode)
}

/// `UDIAG_SHOW_PEER`, and the attribute in which the peer is.
const SHOW_PEER: u32 = 4;
const UNIX_DIAG_PEER: u16 = 2;

/// Of `unix_diag_req` and `unix_diag_msg`, behind an `nlmsghdr`.
const UNIX_REQUEST_BYTES: usize = HEADER_BYTES + 24;
const UNIX_RESPONSE_BYTES: usize = HEADER_BYTES + 16;

/// About one socket of any state: `nlmsghdr` and `unix_diag_req`
fn peer_request(inode: u64) -> Option<Vec<u8>> {
    let mut message = Vec::with_capacity(UNIX_REQUEST_BYTES);
    message.extend((UNIX_REQUEST_BYTES as u32).to_ne_bytes());
    message.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    message.extend(NLM_F_REQUEST.to_ne_bytes());
    message.extend([0; 8]);
    message.extend([AddressFamily::Unix as u8, 0, 0, 0]);
    message.extend(u32::MAX.to_ne_bytes());
    message.extend(u32::try_from(inode).ok()?.to_ne_bytes());
    message.extend(SHOW_PEER.to_ne_bytes());
    // Any cookie.
    message.extend([0xff; 8]);
    Some(message)
}

/// `nlmsghdr`, `unix_diag_msg` and attributes
fn peer_of(message: &[u8], inode: u64) -> Option<u64> {
    let word = |bytes: &[u8]| Some(u32::from_ne_bytes(*bytes.first_chunk()?));
    let half = |bytes: &[u8]| Some(u16::from_ne_bytes(*bytes.first_chunk()?));
    let is_it =
        half(message.get(4..)?)? == SOCK_DIAG_BY_FAMILY && u64::from(word(message.get(HEADER_BYTES + 4..)?)?) == inode;
    let mut attributes = message.get(UNIX_RESPONSE_BYTES..).filter(|_| is_it)?;
    loop {
        let (length, kind) = (usize::from(half(attributes)?), half(attributes.get(2..)?)?);
        let value = attributes.get(4..length)?;
        if kind == UNIX_DIAG_PEER {
            return word(value).filter(|peer| *peer != 0).map(u64::from);
        }
        attributes = attributes.get(length.next_multiple_of(4)..)?;
    }
}

/// Takes what listens from one part of an answer; `true` for the last. `None` where it is none.
fn read_dump(mut part: &[u8], found: &mut Vec<(SocketAddr, u64)>) -> Option<bool> {
    while part.len() >= HEADER_BYTES {
        let length = u32::from_ne_bytes(*part.first_chunk()?) as usize;
        let kind = u16::from_ne_bytes(part.get(4..6)?.try_into().ok()?);
        let message = part.get(..length).filter(|message| message.len() >= HEADER_BYTES)?;
        match kind {
            NLMSG_DONE => return Some(true),
            SOCK_DIAG_BY_FAMILY if found.len() < MAX_LISTENING => found.extend(listening_socket(message)),
            SOCK_DIAG_BY_FAMILY => {}
            // An error.
            _ => return None,
        }
        part = part.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Some(false)
}

/// Address and inode of what listens: `nlmsghdr` and `inet_diag_msg`
fn listening_socket(message: &[u8]) -> Option<(SocketAddr, u64)> {
    let (family, state) = (*message.get(HEADER_BYTES)?, *message.get(HEADER_BYTES + 1)?);
    let port = u16::from_be_bytes(message.get(HEADER_BYTES + 4..HEADER_BYTES + 6)?.try_into().ok()?);
    let bytes: [u8; 16] = message.get(HEADER_BYTES + 8..HEADER_BYTES + 24)?.try_into().ok()?;
    let ip = if i32::from(family) == AddressFamily::Inet as i32 {
        IpAddr::V4(Ipv4Addr::from(*bytes.first_chunk()?))
    } else {
        IpAddr::from(bytes).to_canonical()
    };
    let inode = u32::from_ne_bytes(message.get(HEADER_BYTES + 68..HEADER_BYTES + 72)?.try_into().ok()?);
    (state == LISTEN && inode != 0).then(|| (SocketAddr::new(ip, port), inode.into()))
}

/// All connections in the network namespace of a process that are asked for, with their inodes.
pub(super) fn from_tables(root: &Path, pid: u32, wanted: &mut HashMap<Ends, Option<u64>>) {
    for table in ["tcp", "tcp6"] {
        let path = files::process(root, pid).join("net").join(table);
        let Ok(contents) = files::read(&path, MAX_TABLE_BYTES) else { continue };
        for (ends, inode) in files::lines(&contents.bytes).filter_map(connection) {
            if let Some(place) = wanted.get_mut(&ends) {
                *place = Some(inode);
            }
        }
    }
}

/// `NUMBER: LOCAL REMOTE STATE QUEUES TIMER RETRANSMITS USER TIMEOUT INODE ..`
fn connection(line: &[u8]) -> Option<(Ends, u64)> {
    let mut fields = files::fields(line);
    let (local, remote) = (end(fields.nth(1)?)?, end(fields.next()?)?);
    let listens = fields.next()? == b"0A";
    let inode = fields.nth(5).and_then(files::number)?;
    (!listens && inode != 0).then(|| (ends(local, remote), inode))
}

/// Where is listened in the network namespace of a process, with the inodes of the sockets.
///
/// The kernel is asked, which goes through what listens alone. For its tables it goes through all places for connections that
/// the machine has room for, which takes milliseconds.
pub(super) fn listening(root: &Path, pid: u32) -> Vec<(SocketAddr, u64)> {
    let told = File::open(files::process(root, pid).join("ns/net")).ok().and_then(|namespace| {
        let ask = || {
            namespace::enter_network(&namespace).ok()?;
            Diag::open()?.listening()
        };
        // In which namespace a thread is, is its own affair.
        if namespace::is_own_network(&namespace) {
            ask()
        } else {
            thread::scope(|scope| scope.spawn(ask).join().ok()?)
        }
    });
    told.unwrap_or_else(|| listening_by_tables(root, pid))
}

/// The same, where the kernel does not tell (`CONFIG_INET_DIAG`).
fn listening_by_tables(root: &Path, pid: u32) -> Vec<(SocketAddr, u64)> {
    let mut found = Vec::new();
    for table in ["tcp", "tcp6"] {
        let path = files::process(root, pid).join("net").join(table);
        let Ok(contents) = files::read(&path, MAX_LISTENING_BYTES) else { continue };
        // Of a line that was cut the number may be another one.
        let whole = if contents.truncated { contents.bytes.iter().rposition(|byte| *byte == b'\n') } else { None };
        let bytes = &contents.bytes[..whole.unwrap_or(contents.bytes.len())];
        // The first line names the columns, and behind the last one come connections.
        found.extend(files::lines(bytes).skip(1).map_while(listener));
    }
    found
}

/// As [`connection`], of what listens.
fn listener(line: &[u8]) -> Option<(SocketAddr, u64)> {
    let mut fields = files::fields(line);
    let local = end(fields.nth(1)?)?;
    let listens = fields.nth(1)? == b"0A";
    let inode = fields.nth(5).and_then(files::number)?;
    listens.then(|| (SocketAddr::new(local.ip().to_canonical(), local.port()), inode))
}

/// Reads the bytes as an answer of the kernel, and as a table of sockets.
#[cfg(feature = "fuzzing")]
pub(super) fn parse_as_all(bytes: &[u8]) {
    response(bytes, 0);
    read_dump(bytes, &mut Vec::new());
    let _ = files::lines(bytes).filter_map(connection).count();
    let _ = files::lines(bytes).filter_map(listener).count();
}

/// Address and port in hexadecimal; the address in words of the machine's own byte order.
fn end(field: &[u8]) -> Option<SocketAddr> {
    let colon = field.iter().position(|byte| *byte == b':')?;
    let hexadecimal = |digits: &[u8]| u32::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok();
    let word = |at: usize| Some(hexadecimal(field.get(at..at + 8)?)?.to_ne_bytes());
    let port = u16::try_from(hexadecimal(&field[colon + 1..])?).ok()?;
    let ip = match colon {
        8 => IpAddr::V4(Ipv4Addr::from(word(0)?)),
        32 => {
            let words = [word(0)?, word(8)?, word(16)?, word(24)?];
            IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(words.as_flattened()).ok()?))
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_endian = "little")]
    fn table_lines_are_read() {
        let four =
            b"   3: 0100007F:1F90 0200000A:C350 01 00000000:00000000 00:00000000 00000000  1000        0 4711 1 0 20 4";
        let (local, remote) = ("127.0.0.1:8080".parse().unwrap(), "10.0.0.2:50000".parse().unwrap());
        assert_eq!(connection(four), Some(((local, remote), 4711)));
        let mapped =
            b"1: 0000000000000000FFFF00000100007F:1F90 0000000000000000FFFF00000200000A:C350 01 0:0 0:0 0 0 0 4712 1";
        assert_eq!(connection(mapped), Some(((local, remote), 4712)), "IPv4 within IPv6");
        let six =
            b"1: 00000000000000000000000001000000:1F90 00000000000000000000000001000000:C350 01 0:0 0:0 0 0 0 4713 1";
        assert_eq!(connection(six), Some((("[::1]:8080".parse().unwrap(), "[::1]:50000".parse().unwrap()), 4713)));
        let listener = b"3: 0100007F:1F90 00000000:0000 0A 0:0 0:0 0 0 0 4711 1";
        let time_wait = b"3: 0100007F:1F90 0200000A:C350 06 0:0 0:0 0 0 0 0 1";
        let junk: [&[u8]; 6] = [listener, time_wait, b"", b"a: b c d", b"1: :1 :2 01 0 0 0 0 0 5", &[0xff; 300]];
        for line in junk {
            assert_eq!(connection(line), None, "{}", String::from_utf8_lossy(line));
        }
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn what_listens_is_told_before_connections() {
        let dir = tempfile::tempdir().unwrap();
        let net = dir.path().join("7/net");
        std::fs::create_dir_all(&net).unwrap();
        let tcp = "  sl  local_address rem_address   st\n\
            0: 0100007F:1F90 00000000:0000 0A 0:0 0:0 0 0 0 4711 1\n\
            1: 0100007F:1F91 0100007F:C350 01 0:0 0:0 0 0 0 4712 1\n\
            2: 0100007F:1F92 00000000:0000 0A 0:0 0:0 0 0 0 4713 1\n";
        std::fs::write(net.join("tcp"), tcp).unwrap();
        let tcp6 = "  sl\n0: 00000000000000000000000000000000:1F40 00000000000000000000000000000000:0000 0A 0:0 0:0 0 0 0 4714 1\n";
        std::fs::write(net.join("tcp6"), tcp6).unwrap();
        let expected = [("127.0.0.1:8080".parse().unwrap(), 4711), ("[::]:8000".parse().unwrap(), 4714)];
        assert_eq!(listening(dir.path(), 7), expected);
        assert_eq!(listening(dir.path(), 8), []);
    }

    #[test]
    fn the_kernel_and_its_tables_tell_the_same_of_what_listens() {
        let listeners: Vec<std::net::TcpListener> = ["127.0.0.1:0", "127.1.2.3:0", "[::1]:0", "[::]:0"]
            .iter()
            .filter_map(|address| std::net::TcpListener::bind(address).ok())
            .collect();
        let ours: Vec<SocketAddr> = listeners.iter().map(|listener| listener.local_addr().unwrap()).collect();
        let of_ours = |found: Vec<(SocketAddr, u64)>| {
            let mut found: Vec<_> = found.into_iter().filter(|(address, _)| ours.contains(address)).collect();
            found.sort_unstable();
            found
        };
        let Some(told) = Diag::open().and_then(|diag| diag.listening()) else {
            eprintln!("skipped: this kernel does not tell of sockets");
            return;
        };
        let told = of_ours(told);
        assert_eq!(told.len(), listeners.len());
        let (root, own) = (Path::new("/proc"), std::process::id());
        assert_eq!(of_ours(listening_by_tables(root, own)), told);
        assert_eq!(of_ours(listening(root, own)), told);
    }

    #[test]
    fn the_kernel_tells_who_is_at_the_other_end_of_a_pair() {
        use std::os::unix::fs::MetadataExt;
        let (one, other) = std::os::unix::net::UnixStream::pair().unwrap();
        let inode = |socket: &std::os::unix::net::UnixStream| {
            std::fs::metadata(format!("/proc/self/fd/{}", socket.as_raw_fd())).unwrap().ino()
        };
        let peers = open_peers().unwrap();
        assert_eq!(peers.peer(inode(&one)), Some(inode(&other)));
        assert_eq!(peers.peer(inode(&other)), Some(inode(&one)));
        let alone = inode(&one);
        drop(other);
        assert_eq!(peers.peer(alone), None, "nobody is there");
        assert_eq!(peers.peer(u64::MAX), None);
        for cut in 0..UNIX_RESPONSE_BYTES + 8 {
            assert_eq!(peer_of(&vec![20; cut], 0), None);
        }
    }

    #[test]
    fn an_error_or_a_short_answer_is_none() {
        for length in [0, 4, 16, 20, 80, 84] {
            assert_eq!(response(&vec![0; length], 0), None);
            assert_eq!(response(&vec![0xff; length], 0), None);
        }
    }
}
