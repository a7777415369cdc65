//! The unprivileged side's end of the conversation.

use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::Duration;

use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;

use crate::protocol::{FlowVerdict, MAX_PROCESSES, MAX_VERDICTS, Reply, Request};
use crate::socket::{Socket, SocketError};

/// Requests that may wait for a helper that does not read. It answers within milliseconds: this many mean that it hangs.
const MAX_BACKLOG: usize = 4096;

/// From so many on the helper does not keep up.
const MUCH_BACKLOG: usize = 64;

/// How long to wait for the helper's end: detaching many probes takes the kernel some tenths of a second.
const END_TIMEOUT: Duration = Duration::from_secs(5);

/// The connection to the privileged helper. Dropping it ends the helper, which detaches everything.
pub struct HelperClient {
    /// `None` only while dropping.
    socket: Option<Socket>,
    /// For verdicts, which the helper carries out while it is busy with other things.
    lane: Socket,
    helper: Pid,
    /// To wait for the helper's end with a time limit; `None` on kernels before 5.3.
    pidfd: Option<OwnedFd>,
}

impl HelperClient {
    pub(crate) fn new(socket: OwnedFd, lane: OwnedFd, helper: Pid) -> Self {
        // SAFETY: the call takes two integers and returns a new descriptor or an error.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, helper.as_raw(), 0) };
        // SAFETY: a descriptor that is not negative has just been made for us.
        let pidfd = i32::try_from(fd).ok().filter(|fd| *fd >= 0).map(|fd| unsafe { OwnedFd::from_raw_fd(fd) });
        Self { socket: Some(Socket::new(socket)), lane: Socket::new(lane), helper, pidfd }
    }

    /// Sends a request without blocking. Lists beyond the protocol's limits are sent as several requests, except that
    /// [`Request::Sample`] names at most [`MAX_PROCESSES`] processes: the rest is left out.
    pub fn send(&mut self, request: Request) -> Result<(), SocketError> {
        match request {
            Request::Servers(list) => self.send_parts(&list, MAX_VERDICTS, Request::Servers),
            Request::Describe(list) => self.send_parts(&list, MAX_PROCESSES, Request::Describe),
            Request::FindOwners(list) => self.send_parts(&list, MAX_PROCESSES, Request::FindOwners),
            Request::Sample { sequence, mut closely, others } => {
                closely.truncate(MAX_PROCESSES);
                self.send_one(&Request::Sample { sequence, closely, others })
            }
            other => self.send_one(&other),
        }
    }

    /// Sends judgements of connections, which do not wait for requests that were sent before. Where the helper does not take them
    /// they are dropped, for what they are about is over by then; what is not captured for it is counted where it is missed.
    pub fn judge(&mut self, verdicts: &[FlowVerdict]) {
        if self.lane.backlog() >= MAX_BACKLOG {
            self.lane.forget();
        }
        for part in verdicts.chunks(MAX_VERDICTS) {
            if self.lane.send(&part, None).is_err() {
                return;
            }
        }
    }

    /// Whether the helper takes what it is sent. Putting probes in and taking them out can keep it for seconds: what grows
    /// with the traffic is better gathered meanwhile.
    pub fn keeps_up(&self) -> bool {
        self.socket().backlog() < MUCH_BACKLOG
    }

    /// Whether requests wait for room in the socket: poll it for writing too, then [`flush`](Self::flush).
    pub fn wants_write(&self) -> bool {
        self.socket().backlog() > 0
    }

    /// Whether judgements wait: [`flush`](Self::flush) is to be called again soon.
    pub fn has_judgements_waiting(&self) -> bool {
        self.lane.backlog() > 0
    }

    /// Sends what waits, as far as there is room.
    pub fn flush(&mut self) -> Result<(), SocketError> {
        // Where the helper's thread for it has gone, the helper's own socket says so.
        let _ = self.lane.flush();
        self.socket_mut().flush()
    }

    /// The next reply, if one is there, and the descriptor that came with it ([`Reply::Ring`], [`Reply::Bell`]).
    ///
    /// A second [`Reply::Ring`] replaces the first: everything was detached meanwhile and has been loaded anew.
    pub fn try_recv(&mut self) -> Result<Option<(Reply, Option<OwnedFd>)>, SocketError> {
        self.socket_mut().receive()
    }

    /// The helper's process.
    pub fn helper_pid(&self) -> u32 {
        self.helper.as_raw().unsigned_abs()
    }

    fn send_parts<T: Clone>(
        &mut self,
        list: &[T],
        limit: usize,
        request: impl Fn(Vec<T>) -> Request,
    ) -> Result<(), SocketError> {
        list.chunks(limit).try_for_each(|part| self.send_one(&request(part.to_vec())))
    }

    fn send_one(&mut self, request: &Request) -> Result<(), SocketError> {
        if self.socket().backlog() >= MAX_BACKLOG {
            return Err(SocketError::Stuck);
        }
        self.socket_mut().send(request, None)
    }

    fn socket(&self) -> &Socket {
        self.socket.as_ref().expect("there until dropped")
    }

    fn socket_mut(&mut self) -> &mut Socket {
        self.socket.as_mut().expect("there until dropped")
    }
}

impl AsFd for HelperClient {
    /// To poll for replies.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket().as_fd()
    }
}

impl Drop for HelperClient {
    fn drop(&mut self) {
        // The end of the stream is what tells the helper to end.
        self.socket = None;
        let flags = match &self.pidfd {
            Some(pidfd) => {
                let timeout = PollTimeout::try_from(END_TIMEOUT).unwrap_or(PollTimeout::MAX);
                let _ = poll(&mut [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)], timeout);
                WaitPidFlag::WNOHANG
            }
            None => WaitPidFlag::empty(),
        };
        let _ = waitpid(self.helper, Some(flags));
    }
}
