//! Verdicts, carried out on a thread of their own: an answer is captured once its call was judged, and does not wait while the
//! helper is busy with putting probes in, which can be half a second.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::thread;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::probes::Verdicts;
use crate::protocol::{FlowVerdict, MAX_VERDICTS};
use crate::socket::{Socket, SocketError};

/// Stack of a thread that passes on short messages.
const STACK_BYTES: usize = 128 * 1024;

/// Carries verdicts out that come over this socket, until the other side has gone.
pub(super) fn start(socket: OwnedFd, verdicts: Verdicts) -> io::Result<()> {
    let run = move || judge(Socket::new(socket), &verdicts);
    thread::Builder::new().name("judge".into()).stack_size(STACK_BYTES).spawn(run).map(drop)
}

fn judge(mut socket: Socket, verdicts: &Verdicts) {
    loop {
        match socket.receive::<Vec<FlowVerdict>>() {
            Ok(Some((list, _))) => list.iter().take(MAX_VERDICTS).for_each(|verdict| verdicts.carry_out(verdict)),
            // Each message stands for itself: one that makes no sense spoils no other.
            Err(SocketError::Malformed(_)) => {}
            Err(_) => return,
            Ok(None) => match poll(&mut [PollFd::new(socket.as_fd(), PollFlags::POLLIN)], PollTimeout::NONE) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(_) => return,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::socket;

    #[test]
    fn nonsense_is_passed_over_and_an_end_is_an_end() {
        let (ours, theirs) = socket::pair().unwrap();
        let mut ours = Socket::new(ours);
        let judged = thread::spawn(|| judge(Socket::new(theirs), &Verdicts::default()));
        ours.send(&"what is this", None).unwrap();
        ours.send(&vec![FlowVerdict { source: 9, pid: 0, handle: 1, generation: 2, message: 3, action: 4 }], None)
            .unwrap();
        drop(ours);
        judged.join().unwrap();
    }
}
