//! A front end in the wrong hands: what it sends to a real helper.

use std::os::fd::{AsFd, AsRawFd};

use hbpf_core::inference::Place;
use hbpf_host::privsep::{HelperClient, SocketError, SplitOptions, split};
use hbpf_host::protocol::{MAX_MESSAGE_BYTES, Others, Question, Reply, Request, Suspect};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{ControlMessage, MsgFlags, send, sendmsg};

use crate::subject::say;

/// Messages of one run.
const MESSAGES: u64 = 3000;

/// The number of the sample that is asked for at the end.
const LAST: u64 = u64::MAX;

/// Sends nonsense and then a request, which must be answered.
pub(crate) fn run(seed: u64) {
    let mut client = split(&SplitOptions::default()).unwrap();
    say(&format!("helper {}", client.helper_pid()));
    let mut dice = Dice(seed);
    let mut answered = 0_u64;
    for _ in 0..MESSAGES {
        push(&mut client, &nonsense(&mut dice), &mut answered);
    }
    for _ in 0..2000 {
        send_with_descriptors(&mut client, &mut answered);
    }
    client.send(Request::Sample { sequence: LAST, closely: vec![u32::MAX; 500], others: Others::InTurn }).unwrap();
    while answered < LAST {
        let room = if client.wants_write() { PollFlags::POLLOUT } else { PollFlags::empty() };
        wait(&client, PollFlags::POLLIN | room);
        client.flush().unwrap();
        drain(&mut client, &mut answered);
    }
    say("still answering");
    // So that others can look at the helper.
    let _ = std::io::Read::read_to_end(&mut std::io::stdin(), &mut Vec::new());
}

/// Random bytes, messages with bytes changed or cut off, lists and strings beyond all limits. Nothing that asks to attach
/// or to end, whole, is among them: that would be obeyed.
fn nonsense(dice: &mut Dice) -> Vec<u8> {
    let long = (dice.next() % (MAX_MESSAGE_BYTES as u64 / 4)) as usize;
    let mut bytes = match dice.next() % 8 {
        7 => encoded(&Request::Ask(Question {
            ticket: dice.next(),
            // Nobody's, this very process, or any.
            pid: [u32::MAX, std::process::id(), dice.next() as u32 % 5000][dice.next() as usize % 3],
            start_time_ns: dice.next(),
            address: ([dice.byte(), 0, 0, 1], dice.next() as u16).into(),
            place: Place::Metrics,
        })),
        0 => (0..dice.next() % 200).map(|_| dice.byte()).collect(),
        1 => vec![dice.byte(); MAX_MESSAGE_BYTES + 1 + long],
        2 => encoded(&Request::Describe((0..long as u32 / 4).collect())),
        3 => encoded(&Request::Learn("/\u{1b}]52;c;x\u{7}".repeat(long / 16))),
        4 => {
            encoded(&Request::Sample { sequence: dice.next() >> 1, closely: vec![0; long / 2], others: Others::InTurn })
        }
        5 => encoded(&Request::FindServers(vec![Suspect { pid: std::process::id(), serves: true }; long / 8])),
        _ => encoded(&Request::Exclude(vec![1; long / 2])),
    };
    if dice.next().is_multiple_of(3) {
        bytes.truncate((dice.next() % (bytes.len() as u64 + 1)) as usize);
    }
    for _ in 0..dice.next() % 4 {
        let at = (dice.next() % (bytes.len() as u64 + 1)) as usize;
        if let Some(byte) = bytes.get_mut(at) {
            *byte = dice.byte();
        }
    }
    let obeyed =
        matches!(postcard::from_bytes(&bytes), Ok(Request::Shutdown | Request::Attach(_) | Request::Detach(_)));
    // An empty message is none: it would be the end of the stream.
    if obeyed || bytes.is_empty() { vec![u8::MAX] } else { bytes }
}

fn encoded(request: &Request) -> Vec<u8> {
    postcard::to_stdvec(request).unwrap()
}

/// Sends past the client's own checks, and takes what is answered, as the helper stops listening to one who does not read.
fn push(client: &mut HelperClient, bytes: &[u8], answered: &mut u64) {
    loop {
        match send(client.as_fd().as_raw_fd(), bytes, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL) {
            // What does not fit a socket buffer at all never arrives.
            Ok(_) | Err(Errno::EMSGSIZE) => return,
            Err(Errno::EAGAIN | Errno::ENOBUFS) => {
                wait(client, PollFlags::POLLIN | PollFlags::POLLOUT);
                drain(client, answered);
            }
            Err(error) => panic!("the helper has gone: {error}"),
        }
    }
}

/// More descriptors than the helper takes, and it wants none.
fn send_with_descriptors(client: &mut HelperClient, answered: &mut u64) {
    let fds = [0, 0, 0];
    let message = encoded(&Request::Describe(vec![1]));
    let rights = [ControlMessage::ScmRights(&fds)];
    let part = [std::io::IoSlice::new(&message)];
    let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
    while sendmsg::<()>(client.as_fd().as_raw_fd(), &part, &rights, flags, None) == Err(Errno::EAGAIN) {
        wait(client, PollFlags::POLLIN | PollFlags::POLLOUT);
        drain(client, answered);
    }
}

fn wait(client: &HelperClient, events: PollFlags) {
    poll(&mut [PollFd::new(client.as_fd(), events)], PollTimeout::NONE).unwrap();
}

fn drain(client: &mut HelperClient, answered: &mut u64) {
    loop {
        match client.try_recv() {
            Ok(Some((Reply::SampleEnd { sequence, .. }, _))) => *answered = sequence.max(*answered),
            Ok(Some((Reply::Error { source, message }, _))) => say(&format!("error {source}: {message}")),
            Ok(Some(_)) => {}
            Ok(None) => return,
            Err(SocketError::Closed) => panic!("the helper has gone"),
            Err(error) => panic!("{error}"),
        }
    }
}

/// Numbers that depend on the seed alone (splitmix64).
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    fn byte(&mut self) -> u8 {
        self.next() as u8
    }
}
