//! What the collecting process and the publishing one say to each other, over a socket that keeps messages apart.
//!
//! To the publisher: snapshots as JSON, in pieces, for a message has to fit into the socket whole. Back: that one is wanted now. The
//! publisher may be another one than has begun to read a snapshot: it waits for the next.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, recv, send, setsockopt, socketpair, sockopt};
use nix::sys::time::TimeVal;

/// Bytes of a piece.
const PIECE: usize = 64 * 1024;

/// Longest snapshot that is taken.
const MAX_SNAPSHOT: usize = 64 << 20;

/// How long a snapshot waits for a publisher that does not read.
const PATIENCE: Duration = Duration::from_secs(2);

/// What a piece begins with.
const FIRST: u8 = 1;
const MORE: u8 = 0;
const LAST: u8 = 2;

/// What is said back.
const NOW: &[u8] = b"now";

/// The collector's end, and the publisher's.
pub(crate) fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
    let patience = TimeVal::new(PATIENCE.as_secs() as i64, 0);
    setsockopt(&ours, sockopt::SendTimeout, &patience)?;
    Ok((ours, theirs))
}

/// Sends a snapshot.
///
/// # Errors
///
/// If it was not taken in time, or nobody is there.
pub(crate) fn send_snapshot(socket: impl AsFd, snapshot: &[u8]) -> io::Result<()> {
    let mut message = Vec::with_capacity(PIECE + 1);
    let pieces = snapshot.len().div_ceil(PIECE).max(1);
    for number in 0..pieces {
        let piece = &snapshot[number * PIECE..snapshot.len().min((number + 1) * PIECE)];
        message.clear();
        message.push(if number == 0 { FIRST } else { MORE } | if number + 1 == pieces { LAST } else { MORE });
        message.extend(piece);
        retry(|| send(socket.as_fd().as_raw_fd(), &message, MsgFlags::MSG_NOSIGNAL))?;
    }
    Ok(())
}

/// Says that a snapshot is wanted now. If that does not fit, enough of it has been said.
pub(crate) fn ask(socket: impl AsFd) {
    let _ = send(socket.as_fd().as_raw_fd(), NOW, MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT);
}

/// Takes what was asked; false if nobody asks any more.
pub(crate) fn take_asked(socket: impl AsFd) -> bool {
    let mut asked = [0; 16];
    retry(|| recv(socket.as_fd().as_raw_fd(), &mut asked, MsgFlags::MSG_DONTWAIT)) != Ok(0)
}

/// Waits until something is asked; false if nobody asks any more.
pub(crate) fn wait_asked(socket: impl AsFd) -> bool {
    let mut asked = [0; 16];
    retry(|| recv(socket.as_fd().as_raw_fd(), &mut asked, MsgFlags::empty())).is_ok_and(|length| length > 0)
}

/// Puts pieces together.
#[derive(Default)]
pub(crate) struct Pieces {
    snapshot: Option<Vec<u8>>,
}

impl Pieces {
    /// Waits for a piece from the socket; `None` if it is closed.
    ///
    /// # Errors
    ///
    /// The operating system's.
    pub(crate) fn receive(&mut self, socket: impl AsFd) -> io::Result<Option<Received>> {
        let mut message = vec![0; PIECE + 1];
        let length = match retry(|| recv(socket.as_fd().as_raw_fd(), &mut message, MsgFlags::empty())) {
            // Closed before it had read what it was asked.
            Err(Errno::ECONNRESET) => return Ok(None),
            result => result?,
        };
        let [kind, piece @ ..] = &message[..length] else { return Ok(None) };
        if kind & FIRST != 0 {
            self.snapshot = Some(Vec::new());
        }
        let Some(snapshot) = &mut self.snapshot else { return Ok(Some(Received::Part)) };
        snapshot.extend(piece);
        if snapshot.len() > MAX_SNAPSHOT {
            self.snapshot = None;
        }
        let whole = if kind & LAST != 0 { self.snapshot.take() } else { None };
        Ok(Some(whole.map_or(Received::Part, Received::Whole)))
    }
}

/// What came.
pub(crate) enum Received {
    /// A part of a snapshot.
    Part,
    /// The last part of one: all of it.
    Whole(Vec<u8>),
}

fn retry<T>(mut call: impl FnMut() -> nix::Result<T>) -> nix::Result<T> {
    loop {
        match call() {
            Err(Errno::EINTR) => {}
            result => return result,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(pieces: &mut Pieces, socket: &OwnedFd) -> Vec<Vec<u8>> {
        let mut snapshots = Vec::new();
        while let Ok(Some(received)) = pieces.receive(socket) {
            if let Received::Whole(snapshot) = received {
                snapshots.push(snapshot);
            }
        }
        snapshots
    }

    #[test]
    fn snapshots_of_any_length_come_whole() {
        let (ours, theirs) = pair().unwrap();
        let long: Vec<u8> = (0..150_000_u32).map(|at| at as u8).collect();
        let snapshots = [&b""[..], b"{}", &long, &long[..PIECE]];
        snapshots.iter().for_each(|snapshot| send_snapshot(&ours, snapshot).unwrap());
        drop(ours);
        assert_eq!(all(&mut Pieces::default(), &theirs), snapshots);
    }

    #[test]
    fn who_comes_later_waits_for_the_next() {
        let (ours, theirs) = pair().unwrap();
        let long = vec![7; 2 * PIECE];
        send_snapshot(&ours, &long).unwrap();
        assert!(matches!(Pieces::default().receive(&theirs), Ok(Some(Received::Part))));
        send_snapshot(&ours, b"next").unwrap();
        drop(ours);
        assert_eq!(all(&mut Pieces::default(), &theirs), [b"next"]);
    }

    #[test]
    fn asking_never_waits() {
        let (ours, theirs) = pair().unwrap();
        (0..100_000).for_each(|_| ask(&theirs));
        assert!(take_asked(&ours));
        while take_asked(&ours)
            && recv(ours.as_raw_fd(), &mut [0; 16], MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_PEEK).is_ok()
        {}
        drop(theirs);
        assert!(!take_asked(&ours));
    }
}
