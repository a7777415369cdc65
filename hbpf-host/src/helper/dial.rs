//! Connections to where a process listens, within its own network namespace.
//!
//! The other side asks what runs behind them, and must reach nothing else through us. So the process that it names must be the
//! one that it means and hold a listening socket with that address, and the address must be one of the namespace's own: a
//! process may listen at any address (`IP_FREEBIND`), and what is not there would be looked for outside.

use std::fs::File;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::linux::fs::MetadataExt;
use std::path::Path;
use std::thread;

use hbpf_core::label::Text;
use nix::errno::Errno;
use nix::sched::{CloneFlags, setns};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrStorage, bind, connect, socket};

use crate::process::Table;
use crate::protocol::{Dial, Refusal};

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum DialError {
    #[error("the process has ended")]
    Gone,
    #[error("the process does not listen there")]
    NotListening,
    #[error("its network namespace cannot be entered: {0}")]
    Namespace(io::Error),
    #[error("cannot connect: {0}")]
    Connect(#[from] Errno),
}

impl From<DialError> for Refusal {
    fn from(error: DialError) -> Self {
        match error {
            DialError::Gone | DialError::NotListening => Self::NotThere,
            DialError::Namespace(_) | DialError::Connect(_) => Self::Failed(Text::new(&error.to_string())),
        }
    }
}

/// A socket that is connected to where the process listens, or is about to be.
pub(super) fn dial(root: &Path, processes: &mut Table, wanted: &Dial) -> Result<OwnedFd, DialError> {
    let Dial { pid, start_time_ns, address, .. } = *wanted;
    let is_meant = |processes: &Table| processes.start_time_ns(pid) == Some(start_time_ns);
    if !is_meant(processes) {
        return Err(DialError::Gone);
    }
    let namespace = File::open(root.join(pid.to_string()).join("ns/net")).map_err(DialError::Namespace)?;
    if !processes.listens(pid, address) {
        return Err(DialError::NotListening);
    }
    // What was opened and read above is that process's, if it is still there.
    if !is_meant(processes) {
        return Err(DialError::Gone);
    }
    if is_our_own(&namespace)? {
        return Ok(connect_to(address)?);
    }
    // Which namespace a thread is in is its own affair: the others stay where they are.
    let connected = thread::scope(|scope| {
        let within = || {
            setns(&namespace, CloneFlags::CLONE_NEWNET).map_err(|error| DialError::Namespace(error.into()))?;
            Ok(connect_to(address)?)
        };
        thread::Builder::new().spawn_scoped(scope, within).map(|thread| thread.join())
    });
    match connected.map_err(DialError::Namespace)? {
        Ok(connected) => connected,
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

fn is_our_own(namespace: &File) -> Result<bool, DialError> {
    let inode =
        |metadata: io::Result<std::fs::Metadata>| metadata.map(|metadata| (metadata.st_dev(), metadata.st_ino()));
    let own = inode(std::fs::metadata("/proc/self/ns/net")).map_err(DialError::Namespace)?;
    Ok(inode(namespace.metadata()).map_err(DialError::Namespace)? == own)
}

/// Connects to one of this namespace's own addresses. `[::]` may stand for IPv4 as well, where there is no other.
fn connect_to(address: SocketAddr) -> Result<OwnedFd, Errno> {
    let port = address.port();
    let with = |ip: IpAddr| connect_from(ip, port);
    match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => with(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => {
            with(Ipv6Addr::LOCALHOST.into()).or_else(|_| with(Ipv4Addr::LOCALHOST.into()))
        }
        ip => with(ip),
    }
}

/// Connects to a port of an address from that address, which only works where that is here.
fn connect_from(ip: IpAddr, port: u16) -> Result<OwnedFd, Errno> {
    let family = if ip.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let ours = socket(family, SockType::Stream, flags, None)?;
    bind(ours.as_raw_fd(), &SockaddrStorage::from(SocketAddr::new(ip, 0)))?;
    match connect(ours.as_raw_fd(), &SockaddrStorage::from(SocketAddr::new(ip, port))) {
        Ok(()) | Err(Errno::EINPROGRESS) => Ok(ours),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::path::PathBuf;

    use super::*;

    const PROC: &str = "/proc";

    fn table() -> Table {
        Table::new(PathBuf::from(PROC))
    }

    fn wanted(address: SocketAddr) -> Dial {
        let pid = std::process::id();
        let start_time_ns = table().start_time_ns(pid).unwrap();
        Dial { ticket: 1, pid, start_time_ns, address }
    }

    fn dialed(wanted: &Dial) -> Result<OwnedFd, DialError> {
        dial(Path::new(PROC), &mut table(), wanted)
    }

    /// What is sent through the connection arrives at the listener.
    fn assert_reaches(listener: &TcpListener, connection: OwnedFd) {
        let mut ours = TcpStream::from(connection);
        let (mut theirs, peer) = listener.accept().unwrap();
        assert_eq!(peer.ip(), ours.peer_addr().unwrap().ip(), "from the address itself");
        ours.write_all(b"x").unwrap();
        let mut seen = [0];
        theirs.read_exact(&mut seen).unwrap();
        assert_eq!(seen, *b"x");
    }

    #[test]
    fn what_a_process_listens_at_is_reached() {
        for address in ["127.0.0.1:0", "0.0.0.0:0", "127.8.8.8:0", "[::1]:0", "[::]:0"] {
            // Not every machine has IPv6.
            let Ok(listener) = TcpListener::bind(address) else { continue };
            let connection = dialed(&wanted(listener.local_addr().unwrap())).unwrap();
            assert_reaches(&listener, connection);
        }
    }

    #[test]
    fn nothing_else_is() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let right = wanted(listener.local_addr().unwrap());
        let error = |wanted| dialed(&wanted).unwrap_err();
        assert!(matches!(error(Dial { start_time_ns: right.start_time_ns + 10_000_000, ..right }), DialError::Gone));
        assert!(matches!(error(Dial { pid: u32::MAX, ..right }), DialError::Gone));
        let other = SocketAddr::from(([127, 0, 0, 2], right.address.port()));
        assert!(matches!(error(Dial { address: other, ..right }), DialError::NotListening));
        // A connection's own port is none that is listened at.
        let connection = TcpStream::connect(right.address).unwrap();
        let address = connection.local_addr().unwrap();
        assert!(matches!(error(Dial { address, ..right }), DialError::NotListening));
        // Another process of ours does not listen where we do.
        let mut child = std::process::Command::new("cat").stdin(std::process::Stdio::piped()).spawn().unwrap();
        let start_time_ns = table().start_time_ns(child.id()).unwrap();
        assert!(matches!(error(Dial { pid: child.id(), start_time_ns, ..right }), DialError::NotListening));
        drop(child.stdin.take());
        child.wait().unwrap();
        drop(listener);
        assert!(matches!(error(right), DialError::NotListening));
    }

    #[test]
    fn an_address_that_is_elsewhere_is_not_connected_to() {
        use nix::sys::socket::{Backlog, listen, setsockopt, sockopt::IpFreebind};
        // A documentation address, which is nobody's.
        let address = SocketAddr::from(([192, 0, 2, 1], 8000));
        let ours = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
        setsockopt(&ours, IpFreebind, &true).unwrap();
        bind(ours.as_raw_fd(), &SockaddrStorage::from(address)).unwrap();
        listen(&ours, Backlog::new(1).unwrap()).unwrap();
        let error = dialed(&wanted(address)).unwrap_err();
        assert!(matches!(error, DialError::Connect(Errno::EADDRNOTAVAIL)), "{error}");
    }
}
