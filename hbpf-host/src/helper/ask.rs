//! Questions to inference servers, within their own network namespaces.
//!
//! The other side may have been taken over, and must reach nothing through us. So it names a process and one of a few questions;
//! we ask it and pass on what is answered, through a pipe, without looking at it. The process must be the one that is meant and
//! hold a listening socket with that address, and the address must be one of the namespace's own: a process may listen at any
//! address (`IP_FREEBIND`), and what is not there would be looked for outside.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{self, Sender};
use std::thread;
use std::time::{Duration, Instant};

use hbpf_core::inference::{Fetch, MAX_ANSWER_BYTES, Place};
use hbpf_core::label::Text;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrStorage, bind, connect, socket};
use nix::unistd::pipe2;

use crate::namespace;
use crate::process::{Spent, Table};
use crate::protocol::{MAX_QUESTIONS, Question, Refusal};

/// After this long a conversation is over, whatever has come of it: a little longer than the other side waits, which then
/// knows that it was late.
const DEADLINE: Duration = Duration::from_millis(2500);

/// Passed on at once.
const BUFFER_BYTES: usize = 16 * 1024;

/// Stack of a thread that does nothing but pass on, its buffer included.
const STACK_BYTES: usize = 128 * 1024;

/// Why there is no conversation.
#[derive(Debug, thiserror::Error)]
pub(super) enum AskError {
    #[error("the process has ended")]
    Gone,
    #[error("the process does not listen there")]
    NotListening,
    #[error("too many questions are open")]
    TooMany,
    #[error("too much is asked")]
    TooMuch,
    #[error("its network namespace cannot be entered: {0}")]
    Namespace(io::Error),
    #[error("cannot connect: {0}")]
    Connect(Errno),
    #[error("cannot ask: {0}")]
    Io(#[from] io::Error),
}

impl From<Spent> for AskError {
    fn from(Spent: Spent) -> Self {
        Self::TooMuch
    }
}

impl From<AskError> for Refusal {
    fn from(error: AskError) -> Self {
        match error {
            AskError::Gone | AskError::NotListening => Self::NotThere,
            AskError::TooMany | AskError::TooMuch => Self::Busy,
            error => Self::Failed(Text::new(&error.to_string())),
        }
    }
}

/// Asks. Each conversation is a thread of its own, for in which namespace a thread is, is its own affair: the others stay
/// where they are.
#[derive(Debug, Default)]
pub(super) struct Asker {
    /// Held by each conversation under way as well.
    open: Arc<()>,
}

impl Asker {
    /// The end of the pipe from which the answer can be read, as it comes.
    pub(super) fn ask(&self, root: &Path, processes: &mut Table, question: &Question) -> Result<OwnedFd, AskError> {
        let Question { pid, start_time_ns, address, place, .. } = *question;
        let is_meant = |processes: &Table| processes.start_time_ns(pid) == Some(start_time_ns);
        if !is_meant(processes) {
            return Err(AskError::Gone);
        }
        let namespace = File::open(root.join(pid.to_string()).join("ns/net")).map_err(AskError::Namespace)?;
        if !processes.listens(pid, address)? {
            return Err(AskError::NotListening);
        }
        // What was opened and read above is that process's, if it is still there.
        if !is_meant(processes) {
            return Err(AskError::Gone);
        }
        if Arc::strong_count(&self.open) > MAX_QUESTIONS {
            return Err(AskError::TooMany);
        }
        let (answer, out) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK).map_err(io::Error::from)?;
        let (connected, begun) = mpsc::channel();
        let open = Arc::clone(&self.open);
        let converse = move || {
            converse(&namespace, address, place, out, &connected);
            drop(open);
        };
        thread::Builder::new().name("question".into()).stack_size(STACK_BYTES).spawn(converse)?;
        // Entering a namespace and beginning to connect wait for nobody.
        begun.recv().unwrap_or(Err(AskError::Connect(Errno::ECANCELED)))?;
        Ok(answer)
    }
}

/// Connects, says whether that works, asks, and passes the answer on.
fn converse(
    namespace: &File,
    address: SocketAddr,
    place: Place,
    out: OwnedFd,
    connected: &Sender<Result<(), AskError>>,
) {
    let deadline = Instant::now() + DEADLINE;
    let entered = namespace::enter_network(namespace).map_err(AskError::Namespace);
    let connection = entered.and_then(|()| connect_to(address).map_err(AskError::Connect));
    let (connection, begun) = match connection {
        Ok(connection) => (Some(connection), Ok(())),
        Err(error) => (None, Err(error)),
    };
    let _ = connected.send(begun);
    if let Some(connection) = connection {
        // Whatever goes wrong, the answer ends there, and whoever reads it sees that it is not whole.
        let _ = pass_on(connection.into(), out.into(), &Fetch::request(place, &address.to_string()), deadline);
    }
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

/// Sends the request and passes on what is answered, until it ends, is too long, or time is up.
fn pass_on(mut connection: TcpStream, mut out: File, request: &str, deadline: Instant) -> io::Result<()> {
    write_all(&mut connection, request.as_bytes(), deadline)?;
    let mut buffer = [0; BUFFER_BYTES];
    let mut passed = 0;
    // One byte more than is allowed is passed on, so that the reader knows.
    while passed <= MAX_ANSWER_BYTES {
        wait(&connection, PollFlags::POLLIN, deadline)?;
        match connection.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(length) => {
                write_all(&mut out, &buffer[..length], deadline)?;
                passed += length;
            }
            Err(error) if is_passing(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn write_all(out: &mut (impl Write + AsFd), mut bytes: &[u8], deadline: Instant) -> io::Result<()> {
    while !bytes.is_empty() {
        wait(out, PollFlags::POLLOUT, deadline)?;
        match out.write(bytes) {
            Ok(written) => bytes = &bytes[written..],
            Err(error) if is_passing(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn is_passing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

fn wait(fd: &impl AsFd, events: PollFlags, deadline: Instant) -> io::Result<()> {
    let left = deadline.saturating_duration_since(Instant::now());
    let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO);
    match poll(&mut [PollFd::new(fd.as_fd(), events)], timeout) {
        Ok(0) => Err(io::ErrorKind::TimedOut.into()),
        Ok(_) | Err(Errno::EINTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::path::PathBuf;

    use super::*;

    const PROC: &str = "/proc";

    fn table() -> Table {
        Table::new(PathBuf::from(PROC))
    }

    fn question(address: SocketAddr) -> Question {
        let pid = std::process::id();
        let start_time_ns = table().start_time_ns(pid).unwrap();
        Question { ticket: 1, pid, start_time_ns, address, place: Place::Slots }
    }

    fn asked(question: &Question) -> Result<OwnedFd, AskError> {
        Asker::default().ask(Path::new(PROC), &mut table(), question)
    }

    fn read_all(answer: OwnedFd) -> Vec<u8> {
        let mut answer = File::from(answer);
        let mut all = Vec::new();
        loop {
            poll(&mut [PollFd::new(answer.as_fd(), PollFlags::POLLIN)], PollTimeout::NONE).unwrap();
            match answer.read_to_end(&mut all) {
                Ok(_) => return all,
                Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
            }
        }
    }

    #[test]
    fn what_a_process_listens_at_is_asked_and_its_answer_comes_whole() {
        for address in ["127.0.0.1:0", "0.0.0.0:0", "127.8.8.8:0", "[::1]:0", "[::]:0"] {
            // Not every machine has IPv6.
            let Ok(listener) = TcpListener::bind(address) else { continue };
            let address = listener.local_addr().unwrap();
            let answer = asked(&question(address)).unwrap();
            let (mut theirs, peer) = listener.accept().unwrap();
            assert_eq!(peer.ip(), theirs.local_addr().unwrap().ip(), "from the address itself");
            let expected = Fetch::request(Place::Slots, &address.to_string());
            let mut request = vec![0; expected.len()];
            theirs.read_exact(&mut request).unwrap();
            assert_eq!(String::from_utf8(request).unwrap(), expected);
            // More than a pipe holds.
            let text = b"0123456789".repeat(50_000);
            let sent = text.clone();
            let server = thread::spawn(move || theirs.write_all(&sent).unwrap());
            assert_eq!(read_all(answer), text);
            server.join().unwrap();
        }
    }

    #[test]
    fn an_answer_is_cut_where_it_is_too_long_or_nobody_reads_it_any_more() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let question = question(listener.local_addr().unwrap());
        let endless = |listener: &TcpListener| {
            let (mut theirs, _) = listener.accept().unwrap();
            thread::spawn(move || while theirs.write_all(&[b'x'; 65_536]).is_ok() {})
        };
        let answer = asked(&question).unwrap();
        let server = endless(&listener);
        let length = read_all(answer).len();
        assert!((MAX_ANSWER_BYTES + 1..MAX_ANSWER_BYTES + BUFFER_BYTES + 1).contains(&length), "{length}");
        server.join().unwrap();
        let asker = Asker::default();
        drop(asker.ask(Path::new(PROC), &mut table(), &question).unwrap());
        endless(&listener).join().unwrap();
        while Arc::strong_count(&asker.open) > 1 {
            thread::yield_now();
        }
    }

    #[test]
    fn one_that_says_nothing_is_waited_for_so_long_and_not_many_at_a_time() {
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        let (asker, question, began) = (Asker::default(), question(silent.local_addr().unwrap()), Instant::now());
        let ask = || asker.ask(Path::new(PROC), &mut table(), &question);
        let answers: Vec<OwnedFd> = (0..MAX_QUESTIONS).map(|_| ask().unwrap()).collect();
        assert!(matches!(ask(), Err(AskError::TooMany)));
        for answer in answers {
            assert!(read_all(answer).is_empty());
        }
        assert!(began.elapsed() >= DEADLINE);
    }

    #[test]
    fn nobody_else_is_asked() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let right = question(listener.local_addr().unwrap());
        let error = |wanted| asked(&wanted).unwrap_err();
        assert!(matches!(error(Question { start_time_ns: right.start_time_ns + 10_000_000, ..right }), AskError::Gone));
        assert!(matches!(error(Question { pid: u32::MAX, ..right }), AskError::Gone));
        let other = SocketAddr::from(([127, 0, 0, 2], right.address.port()));
        assert!(matches!(error(Question { address: other, ..right }), AskError::NotListening));
        // A connection's own port is none that is listened at.
        let connection = TcpStream::connect(right.address).unwrap();
        let address = connection.local_addr().unwrap();
        assert!(matches!(error(Question { address, ..right }), AskError::NotListening));
        // Another process of ours does not listen where we do.
        let mut child = std::process::Command::new("cat").stdin(std::process::Stdio::piped()).spawn().unwrap();
        let start_time_ns = table().start_time_ns(child.id()).unwrap();
        assert!(matches!(error(Question { pid: child.id(), start_time_ns, ..right }), AskError::NotListening));
        drop(child.stdin.take());
        child.wait().unwrap();
        drop(listener);
        assert!(matches!(error(right), AskError::NotListening));
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
        let error = asked(&question(address)).unwrap_err();
        assert!(matches!(error, AskError::Connect(Errno::EADDRNOTAVAIL)), "{error}");
    }
}
