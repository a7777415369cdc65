//! A network that is unkind: two network namespaces, and between them a relay of our own that loses, repeats, holds
//! back and breaks packets.
//!
//! The relay is a thread that owns a TUN device in either namespace. The kernel's own netem could do most of this, but
//! many kernels lack it, it cannot rewrite sequence numbers, and packets could not be forged in between.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::EventFd;
use tun_rs::{DeviceBuilder, SyncDevice};

use crate::DEADLINE;
use crate::namespace::Namespace;
use crate::packet::Packet;

/// The device in either namespace.
const DEVICE: &str = "path";

/// The packets' size: that of most networks.
const MTU: u16 = 1500;

/// A packet that is to be overtaken waits up to so long: more than lies between the events of the streams in tests.
const OVERTAKEN: Duration = Duration::from_millis(30);

/// One end of a [`Network`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum End {
    /// Where tests put the client.
    Client,
    /// Where tests put the server.
    Server,
}

impl End {
    /// Its address.
    pub fn address(self, v6: bool) -> IpAddr {
        let host = self as u16 + 1;
        if v6 { IpAddr::from([0xfd77, 0, 0, 0, 0, 0, 0, host]) } else { IpAddr::from([10, 77, 0, host as u8]) }
    }

    /// The other end.
    pub fn other(self) -> Self {
        if self == Self::Client { Self::Server } else { Self::Client }
    }
}

/// What befalls packets. Shares are of all packets, between 0 and 1.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// Share that is lost.
    pub lost: f64,
    /// Share that comes twice.
    pub repeated: f64,
    /// Share that is overtaken by later ones.
    pub overtaken: f64,
    /// Each packet takes a time of its own, up to this.
    pub jitter: Duration,
    /// Share of those with payload that have a byte of it changed, so that the checksum is wrong.
    pub broken: f64,
    /// Sequence numbers in both directions are shifted so that they wrap after so many bytes.
    pub wrap_after: Option<u32>,
}

/// Two namespaces and the path between them. All ends with this value.
pub struct Network {
    ends: [Namespace; 2],
    relay: Arc<Relay>,
    thread: Option<JoinHandle<()>>,
}

impl Network {
    /// A path on which this happens, the same each time for the same seed and the same packets.
    pub fn new(faults: Faults, seed: u64) -> Self {
        let ends = [Namespace::new(), Namespace::new()];
        let devices = [End::Client, End::Server].map(|end| device(&ends[end as usize], end));
        let state = State { faults, dice: fastrand::Rng::with_seed(seed), ..State::default() };
        let stop = EventFd::new().expect("an event descriptor can be had");
        let relay = Arc::new(Relay { devices, state: Mutex::new(state), news: Condvar::new(), stop });
        let thread = std::thread::spawn({
            let relay = Arc::clone(&relay);
            move || relay.run()
        });
        Self { ends, relay, thread: Some(thread) }
    }

    /// The namespace at one end.
    pub fn at(&self, end: End) -> &Namespace {
        &self.ends[end as usize]
    }

    /// From now on this happens.
    pub fn set_faults(&self, faults: Faults) {
        self.relay.state().faults = faults;
    }

    /// How many packets were lost, repeated, overtaken or broken so far.
    pub fn harmed(&self) -> u64 {
        self.relay.state().harmed
    }

    /// The latest segment of this end in a connection with the server at this port that was passed on to the other, once
    /// there is one that does not end where the one `before` did.
    pub fn next(&self, from: End, server_port: u16, before: Option<u32>) -> Packet {
        let is_asked = |(sender, packet): &(&End, &Packet)| {
            let server = if from == End::Server { packet.source() } else { packet.destination() };
            **sender == from && server.port() == server_port && !packet.tcp.syn && Some(packet.end()) != before
        };
        let find = |state: &State| {
            let mut latest = state.latest.iter().map(|((sender, ..), packet)| (sender, packet));
            latest.find(is_asked).map(|(_, packet)| packet.clone())
        };
        let state = self.relay.state();
        let waited = self.relay.news.wait_timeout_while(state, DEADLINE, |state| find(state).is_none());
        let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        find(&state).expect("the connection goes on")
    }

    /// Gives a forged packet to this end, as if it came from the other. It is not harmed.
    pub fn inject(&self, to: End, packet: &Packet) {
        self.relay.send(to, &packet.to_bytes());
    }

    /// The same with a checksum that is wrong.
    pub fn inject_broken(&self, to: End, packet: &Packet) {
        let mut bytes = packet.to_bytes();
        if let Some(last) = bytes.last_mut() {
            *last ^= 1;
        }
        self.relay.send(to, &bytes);
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        let _ = self.relay.stop.write(1);
        if let Some(Err(panic)) = self.thread.take().map(JoinHandle::join)
            && !std::thread::panicking()
        {
            std::panic::resume_unwind(panic);
        }
    }
}

fn device(namespace: &Namespace, end: End) -> SyncDevice {
    let device = namespace.run(|| DeviceBuilder::new().name(DEVICE).mtu(MTU).build_sync());
    let device = device.expect("root may make a TUN device");
    device.set_nonblocking(true).expect("a device can be asked without waiting");
    namespace.set_up(&format!("ip address add {}/24 dev {DEVICE}", end.address(false)));
    namespace.set_up(&format!("ip address add {}/64 dev {DEVICE} nodad", end.address(true)));
    namespace.set_up(&format!("ip link set {DEVICE} up"));
    device
}

struct Relay {
    devices: [SyncDevice; 2],
    state: Mutex<State>,
    /// A segment has come by.
    news: Condvar,
    stop: EventFd,
}

/// When, in which order of coming, to whom, and the packet.
type Due = (Instant, u64, End, Vec<u8>);

#[derive(Default)]
struct State {
    faults: Faults,
    dice: fastrand::Rng,
    harmed: u64,
    /// Packets that wait, by when they are due; those that are due at once, in the order in which they came.
    waiting: BinaryHeap<Reverse<Due>>,
    accepted: u64,
    /// By who has sent it, from where and to where.
    latest: HashMap<(End, SocketAddr, SocketAddr), Packet>,
    /// By how much sequence numbers are shifted, by who sends to whom.
    shifts: HashMap<(SocketAddr, SocketAddr), u32>,
}

impl Relay {
    fn run(&self) {
        loop {
            let timeout = self.forward_due();
            let descriptors = [self.devices[0].as_fd(), self.devices[1].as_fd(), self.stop.as_fd()];
            let mut events = descriptors.map(|descriptor| PollFd::new(descriptor, PollFlags::POLLIN));
            // An interrupted wait is one that ends early.
            let _ = poll(&mut events, timeout);
            if events[2].any() == Some(true) {
                return;
            }
            for end in [End::Client, End::Server] {
                self.take_all(end);
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn send(&self, to: End, packet: &[u8]) {
        // What a full queue or an interface that is going down refuses is one more packet lost.
        let _ = self.devices[to as usize].send(packet);
    }

    /// Sends what has waited long enough, and says how long the next one has to.
    fn forward_due(&self) -> PollTimeout {
        let mut state = self.state();
        let now = Instant::now();
        while state.waiting.peek().is_some_and(|Reverse((due, ..))| *due <= now) {
            let Some(Reverse((_, _, to, bytes))) = state.waiting.pop() else { break };
            self.send(to, &bytes);
            if let Some(packet) = Packet::parse(&bytes) {
                state.latest.insert((to.other(), packet.source(), packet.destination()), packet);
                self.news.notify_all();
            }
        }
        let next = state.waiting.peek().map(|Reverse((due, ..))| *due - now);
        // Rounded up, so as not to wake too early again and again.
        next.map_or(PollTimeout::NONE, |wait| {
            PollTimeout::try_from(wait + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX)
        })
    }

    fn take_all(&self, from: End) {
        let mut buffer = [0; MTU as usize];
        while let Ok(length) = self.devices[from as usize].recv(&mut buffer) {
            self.state().take(from, &buffer[..length]);
        }
    }
}

impl State {
    fn take(&mut self, from: End, bytes: &[u8]) {
        let mut bytes = bytes.to_vec();
        let mut payload = 0;
        if let Some(mut packet) = Packet::parse(&bytes) {
            if self.shift(&mut packet) {
                bytes = packet.to_bytes();
            }
            payload = packet.payload.len();
        }
        let faults = self.faults;
        if self.falls(faults.lost) {
            return;
        }
        if payload > 0 && self.falls(faults.broken) {
            let at = bytes.len() - 1 - self.dice.usize(..payload);
            bytes[at] ^= 1 << self.dice.u32(..8);
        }
        let copies = 1 + u32::from(self.falls(faults.repeated));
        for _ in 0..copies {
            let mut wait = faults.jitter.mul_f64(self.dice.f64());
            if self.falls(faults.overtaken) {
                wait += OVERTAKEN.mul_f64(self.dice.f64());
            }
            self.accepted += 1;
            self.waiting.push(Reverse((Instant::now() + wait, self.accepted, from.other(), bytes.clone())));
        }
    }

    /// Throws the dice.
    fn falls(&mut self, share: f64) -> bool {
        let falls = self.dice.f64() < share;
        self.harmed += u64::from(falls);
        falls
    }

    /// Shifts the sequence numbers of a connection, if that is asked for; each end takes the other to have begun
    /// elsewhere than it did.
    fn shift(&mut self, packet: &mut Packet) -> bool {
        let Some(wrap_after) = self.faults.wrap_after else { return false };
        let (from, to) = (packet.source(), packet.destination());
        if packet.tcp.syn {
            packet.refuse_selective_acknowledgements();
            let shift = 0_u32.wrapping_sub(wrap_after).wrapping_sub(packet.tcp.sequence_number);
            self.shifts.insert((from, to), shift);
        }
        let shift = |way| self.shifts.get(&way).copied().unwrap_or(0);
        packet.tcp.sequence_number = packet.tcp.sequence_number.wrapping_add(shift((from, to)));
        if packet.tcp.ack {
            packet.tcp.acknowledgment_number = packet.tcp.acknowledgment_number.wrapping_sub(shift((to, from)));
        }
        true
    }
}
