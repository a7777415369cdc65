//! The privileged helper process.

use std::os::fd::OwnedFd;

use crate::protocol::Request;
use crate::socket::Socket;

/// Runs the helper until the other side has gone.
pub(crate) fn main(socket: OwnedFd) -> ! {
    let mut socket = Socket::new(socket);
    loop {
        let mut ready = [nix::poll::PollFd::new(std::os::fd::AsFd::as_fd(&socket), nix::poll::PollFlags::POLLIN)];
        let _ = nix::poll::poll(&mut ready, nix::poll::PollTimeout::NONE);
        if socket.receive::<Request>().is_err() {
            // SAFETY: ending is always sound.
            unsafe { nix::libc::_exit(0) }
        }
    }
}
