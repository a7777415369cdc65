//! One end of the socket pair: whole messages, with at most one descriptor, never blocking.

use std::collections::VecDeque;
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::cmsg_space;
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg, sendmsg, setsockopt,
    socketpair, sockopt,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::protocol::MAX_MESSAGE_BYTES;

/// Wanted size of each side's send buffer: some messages of the greatest length. The kernel may grant less.
const SEND_BUFFER_BYTES: usize = 8 * MAX_MESSAGE_BYTES;

/// Most descriptors that the kernel passes with one message (`SCM_MAX_FD`). One is wanted; there is room for all, as those
/// without room would stay open unknown.
const MAX_DESCRIPTORS: usize = 253;

/// Two connected ends.
pub(crate) fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let (a, b) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags)?;
    for end in [&a, &b] {
        // A smaller buffer only means that more waits in our own queue.
        let _ = setsockopt(end, sockopt::SndBuf, &SEND_BUFFER_BYTES);
    }
    Ok((a, b))
}

/// What can go wrong with the socket.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// The other side has gone.
    #[error("the other process has ended")]
    Closed,
    /// A message that is none of the protocol's, or too long.
    #[error("a message could not be understood: {0}")]
    Malformed(String),
    /// The other side has not read for long.
    #[error("the other process does not answer")]
    Stuck,
    /// The operating system's error.
    #[error("socket: {0}")]
    Io(#[from] io::Error),
}

/// A message that waits for room in the socket.
struct Waiting {
    bytes: Vec<u8>,
    descriptor: Option<OwnedFd>,
}

/// One end of the socket pair with the queue of what could not be sent yet.
pub(crate) struct Socket {
    fd: OwnedFd,
    waiting: VecDeque<Waiting>,
    buffer: Box<[u8]>,
}

impl Socket {
    pub(crate) fn new(fd: OwnedFd) -> Self {
        Self { fd, waiting: VecDeque::new(), buffer: vec![0; MAX_MESSAGE_BYTES].into() }
    }

    /// Messages that wait for room.
    pub(crate) fn backlog(&self) -> usize {
        self.waiting.len()
    }

    /// Drops the messages that wait for room.
    pub(crate) fn forget(&mut self) {
        self.waiting.clear();
    }

    /// Queues a message and sends as much of the queue as the socket takes.
    pub(crate) fn send<M: Serialize>(&mut self, message: &M, descriptor: Option<OwnedFd>) -> Result<(), SocketError> {
        let bytes = postcard::to_stdvec(message).map_err(|error| SocketError::Malformed(error.to_string()))?;
        if bytes.len() > MAX_MESSAGE_BYTES {
            return Err(SocketError::Malformed(format!("{} bytes are too long to send", bytes.len())));
        }
        self.waiting.push_back(Waiting { bytes, descriptor });
        self.flush()
    }

    /// Sends as much of the queue as the socket takes.
    pub(crate) fn flush(&mut self) -> Result<(), SocketError> {
        while let Some(next) = self.waiting.front() {
            let raw = next.descriptor.as_ref().map(|fd| [fd.as_raw_fd()]);
            let rights = raw.as_ref().map(|raw| ControlMessage::ScmRights(raw));
            let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
            match sendmsg::<()>(self.fd.as_raw_fd(), &[IoSlice::new(&next.bytes)], rights.as_slice(), flags, None) {
                Ok(_) => {
                    self.waiting.pop_front();
                }
                Err(Errno::EINTR) => {}
                // ENOBUFS: the other side has not taken what it has; room comes when it does.
                Err(Errno::EAGAIN | Errno::ENOBUFS) => return Ok(()),
                Err(Errno::EPIPE | Errno::ECONNRESET) => return Err(SocketError::Closed),
                Err(error) => return Err(io::Error::from(error).into()),
            }
        }
        Ok(())
    }

    /// The next message, if one is there.
    pub(crate) fn receive<M: DeserializeOwned>(&mut self) -> Result<Option<(M, Option<OwnedFd>)>, SocketError> {
        let mut control = cmsg_space!([RawFd; MAX_DESCRIPTORS]);
        let mut iov = [IoSliceMut::new(&mut self.buffer)];
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC;
        let received = loop {
            match recvmsg::<()>(self.fd.as_raw_fd(), &mut iov, Some(&mut control), flags) {
                Ok(received) => break received,
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return Ok(None),
                Err(Errno::ECONNRESET) => return Err(SocketError::Closed),
                Err(error) => return Err(io::Error::from(error).into()),
            }
        };
        let mut descriptor = None;
        for message in received.cmsgs().map_err(io::Error::from)? {
            if let ControlMessageOwned::ScmRights(fds) = message {
                for fd in fds {
                    // SAFETY: the kernel has just made this descriptor for us, and nobody else knows it.
                    descriptor = Some(unsafe { OwnedFd::from_raw_fd(fd) });
                }
            }
        }
        if received.flags.intersects(MsgFlags::MSG_TRUNC | MsgFlags::MSG_CTRUNC) {
            return Err(SocketError::Malformed("it was cut".into()));
        }
        let length = received.bytes;
        // No message is empty, so this is the end of the stream.
        if length == 0 {
            return Err(SocketError::Closed);
        }
        match postcard::take_from_bytes(&self.buffer[..length]) {
            Ok((message, [])) => Ok(Some((message, descriptor))),
            Ok(_) => Err(SocketError::Malformed("bytes are left over".into())),
            Err(error) => Err(SocketError::Malformed(error.to_string())),
        }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{Others, Reply, Request};

    fn ends() -> (Socket, Socket) {
        let (a, b) = pair().unwrap();
        (Socket::new(a), Socket::new(b))
    }

    #[test]
    fn messages_and_descriptors_arrive_in_order() {
        let (mut a, mut b) = ends();
        let (reader, writer) = std::io::pipe().unwrap();
        a.send(&Reply::Ring { bytes: 4096 }, Some(writer.into())).unwrap();
        a.send(&Reply::SampleEnd { sequence: 7, rounds: 1 }, None).unwrap();
        let (ring, descriptor) = b.receive::<Reply>().unwrap().unwrap();
        assert_eq!(ring, Reply::Ring { bytes: 4096 });
        let mut writer = std::fs::File::from(descriptor.unwrap());
        std::io::Write::write_all(&mut writer, b"x").unwrap();
        drop(writer);
        assert_eq!(std::io::read_to_string(reader).unwrap(), "x");
        let (end, none) = b.receive::<Reply>().unwrap().unwrap();
        assert_eq!(end, Reply::SampleEnd { sequence: 7, rounds: 1 });
        assert!(none.is_none());
        assert!(b.receive::<Reply>().unwrap().is_none());
    }

    #[test]
    fn nothing_is_lost_while_the_other_side_does_not_read() {
        let (mut a, mut b) = ends();
        let count = 5000;
        for sequence in 0..count {
            a.send(&Request::Sample { sequence, closely: vec![1; 100], others: Others::InTurn }, None).unwrap();
        }
        assert!(a.backlog() > 0, "the socket took all: the test proves nothing");
        let mut seen = 0;
        while seen < count {
            match b.receive::<Request>().unwrap() {
                Some((Request::Sample { sequence, .. }, _)) => {
                    assert_eq!(sequence, seen);
                    seen += 1;
                }
                Some(other) => panic!("{other:?}"),
                None => a.flush().unwrap(),
            }
        }
        assert_eq!(a.backlog(), 0);
    }

    #[test]
    fn the_end_of_the_other_side_is_told() {
        let (mut a, b) = ends();
        drop(b);
        assert!(matches!(a.receive::<Request>(), Err(SocketError::Closed)));
        assert!(matches!(a.send(&Request::Shutdown, None), Err(SocketError::Closed)));
    }

    #[test]
    fn what_is_no_message_is_refused() {
        let (a, mut b) = ends();
        for bytes in [&[0xff; 40][..], &[postcard::to_stdvec(&Request::Shutdown).unwrap()[0], 0][..]] {
            nix::sys::socket::send(a.as_fd().as_raw_fd(), bytes, MsgFlags::empty()).unwrap();
            assert!(matches!(b.receive::<Request>(), Err(SocketError::Malformed(_))));
        }
    }
}
