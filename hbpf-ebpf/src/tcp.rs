//! TCP payload at the cgroup hooks of sockets.
//!
//! The hooks lie below TCP: segments can be repeated, come in another order, or be forged. What is decided here is only
//! what to copy; user space puts the bytes in order. No program here ever refuses a packet or a call.

use aya_ebpf::{
    bindings::{__sk_buff, bpf_sock},
    helpers::{
        bpf_get_current_pid_tgid,
        generated::{bpf_get_socket_cookie, bpf_sk_fullsock, bpf_skb_load_bytes, bpf_skc_to_tcp_sock, bpf_tcp_sock},
    },
    macros::{cgroup_skb, cgroup_sock, cgroup_sock_addr},
    programs::{SkBuffContext, SockAddrContext, SockContext},
};
use hbpf_ebpf::{FlowKey, HEAD_BYTES, RecordHeader, counter, direction, flags, source};

use crate::{
    deferred, emit,
    flow::{self, Flow, Piece, Source, State},
    maps::SOCKETS,
    number::forgotten,
    packet::{Ends, Headers},
    sealed,
};

/// What lets a packet or a call pass, as every program here does.
const PASS: i32 = 1;

const AF_INET: u32 = 2;
const AF_INET6: u32 = 10;
const SOCK_STREAM: u32 = 1;

/// `enum` of `bpf.h`: states of a TCP socket.
const TCP_ESTABLISHED: u32 = 1;
const TCP_FIN_WAIT1: u32 = 4;
const TCP_CLOSE_WAIT: u32 = 8;
const TCP_LAST_ACK: u32 = 9;
const TCP_LISTEN: u32 = 10;
const TCP_CLOSING: u32 = 11;

/// See [`hbpf_ebpf::SOCKET_OWNED_AT`]. Where it is 0, the verifier does not look at what needs it.
#[unsafe(no_mangle)]
static SOCKET_OWNED_AT: u32 = 0;

/// How far what was seen can lie beyond what TCP has taken: segments wait while a process works with their socket.
/// More than the largest receive window that Linux gives by default (6 MB).
const MOST_AHEAD: u32 = 16 << 20;

/// What is remembered of a socket. Accepted sockets begin with a copy of their listener's.
#[repr(C)]
pub struct Socket {
    pub flow: Flow,
    /// Cookie of the socket that this is about. 0: a connection that its server has not accepted yet.
    pub cookie: u64,
    /// Cookie of the socket that `owner` and `comm` are those of: the socket itself or its listener. 0: not known.
    owned: u64,
    owner: u32,
    /// The process that has closed the descriptor.
    closer: u32,
    /// Per direction, the sequence number after the last byte seen in order.
    pub next: [u32; 2],
    /// Where the peer's latest turn begins.
    pub turned_at: u32,
    /// The messages that had begun before that.
    pub turned_message: u32,
    /// What the socket has taken, as user space knows it.
    told: u32,
    /// Per direction, whether `next` means anything.
    pub known: [u8; 2],
    /// The descriptor is closed, while what it has sent may still be on its way.
    pub released: u8,
    /// The FIN of this side has left.
    fin_sent: u8,
    /// More than one process has worked with it since it was connected.
    is_passed_on: u8,
    zero: [u8; 5],
    /// The client's port, where `cookie` is 0.
    pub waiting_port: u16,
    comm: [u8; 16],
    /// When its connection was asked for; 0 at all other times. See [`crate::net`].
    pub connecting_since: u64,
    pub head: [u8; HEAD_BYTES],
}

/// Segments that a socket sends.
#[cgroup_skb]
pub fn tcp_egress(ctx: SkBuffContext) -> i32 {
    try_segment(&ctx, direction::SENT);
    PASS
}

/// Segments that a socket receives.
#[cgroup_skb]
pub fn tcp_ingress(ctx: SkBuffContext) -> i32 {
    try_segment(&ctx, direction::RECEIVED);
    PASS
}

/// Whether TCP believes a received reset: one with any other sequence number is forged, or overtaken, or comes while what was
/// sent before waits for the socket. The last is told of by the socket's end.
#[inline(always)]
fn may_end(sequence: u32, expected: u32, state: u32) -> bool {
    match expected.wrapping_sub(sequence) {
        0 => true,
        // The sender of a FIN may reset with the number of that.
        1 => matches!(state, TCP_CLOSE_WAIT | TCP_LAST_ACK | TCP_CLOSING),
        _ => false,
    }
}

/// The process whose call this packet leaves in; 0 where it leaves in nobody's, or that is not known.
///
/// A process that works with a socket owns its lock, and nothing but its call sends meanwhile (what others have written before
/// included: whoever shares a socket may be told for the other). What a timer sends, or a peer's acknowledgement sets
/// free, leaves while just any process is running.
#[inline(always)]
fn writer(socket: *mut bpf_sock) -> u32 {
    // SAFETY: a static; volatile, since its value here is not what it will be.
    let owned_at = unsafe { core::ptr::read_volatile(&raw const SOCKET_OWNED_AT) };
    if owned_at == 0 {
        return 0;
    }
    // SAFETY: the caller has checked the socket. What comes back is a kernel's `struct tcp_sock`, which begins with a
    // `struct sock`; the verifier has its own types to see to it that the place is within.
    let is_owned = unsafe {
        let kernels = bpf_skc_to_tcp_sock(socket.cast());
        !kernels.is_null() && kernels.cast::<u8>().add(owned_at as usize).cast::<u32>().read() != 0
    };
    if is_owned { (bpf_get_current_pid_tgid() >> 32) as u32 } else { 0 }
}

/// A socket is created: its creator owns it, and what it accepts.
#[cgroup_sock(sock_create)]
pub fn sock_create(ctx: SockContext) -> i32 {
    // SAFETY: the context is a socket.
    let (kind, family) = unsafe { ((*ctx.sock).type_, (*ctx.sock).family) };
    if kind == SOCK_STREAM && matches!(family, AF_INET | AF_INET6) {
        // SAFETY: the context of this kind of program is what the helper takes.
        own(ctx.sock, unsafe { bpf_get_socket_cookie(ctx.sock.cast()) });
    }
    PASS
}

/// A socket's descriptor is closed for the last time.
#[cgroup_sock(sock_release)]
pub fn sock_release(ctx: SockContext) -> i32 {
    try_release(&ctx);
    PASS
}

/// A socket connects: who does that owns it, even if another process has created it.
#[cgroup_sock_addr(connect4)]
pub fn connect4(ctx: SockAddrContext) -> i32 {
    try_connect(&ctx);
    PASS
}

/// As [`connect4`], to an IPv6 address.
#[cgroup_sock_addr(connect6)]
pub fn connect6(ctx: SockAddrContext) -> i32 {
    try_connect(&ctx);
    PASS
}

#[inline(always)]
fn try_connect(ctx: &SockAddrContext) -> Option<()> {
    // SAFETY: the context is a socket address; the verifier wants its socket checked.
    let (kind, socket) = unsafe { ((*ctx.sock_addr).type_, (*ctx.sock_addr).__bindgen_anon_1.sk) };
    if kind == SOCK_STREAM && !socket.is_null() {
        // SAFETY: the context of this kind of program is what the helper takes.
        own(socket, unsafe { bpf_get_socket_cookie(ctx.sock_addr.cast()) });
    }
    Some(())
}

/// Makes the process that is running the socket's owner.
#[inline(always)]
fn own(socket: *mut bpf_sock, cookie: u64) {
    let Some(found) = SOCKETS.get_or_create(socket) else { return emit::count(counter::MAP_FULL, 1) };
    // SAFETY: nothing else uses a socket that is being created or connected.
    let found = unsafe { &mut *found };
    found.owned = cookie;
    found.owner = (bpf_get_current_pid_tgid() >> 32) as u32;
    emit::write_comm(&mut found.comm);
}

#[inline(always)]
fn try_release(ctx: &SockContext) -> Option<()> {
    let found = SOCKETS.get(ctx.sock)?;
    // SAFETY: fields that are written here are read as whole bytes elsewhere.
    let socket = unsafe { &mut *found };
    if socket.flow.marks & flow::EMITTED == 0 {
        return None;
    }
    socket.closer = (bpf_get_current_pid_tgid() >> 32) as u32;
    socket.released = 1;
    // SAFETY: the context is a socket.
    let state = unsafe { (*ctx.sock).state };
    // In these, what has been written and not sent yet follows, and then a FIN or a reset, which is where the flow ends.
    let may_follow = match state {
        TCP_ESTABLISHED | TCP_CLOSE_WAIT => true,
        // The process has ended its stream before it let go of the socket.
        TCP_FIN_WAIT1 | TCP_CLOSING | TCP_LAST_ACK => socket.fin_sent == 0,
        _ => false,
    };
    if !may_follow {
        emit::emit_close(OutsidePackets, socket);
        socket.be_over();
    }
    Some(())
}

#[inline(always)]
fn try_segment(ctx: &SkBuffContext, direction: u8) -> Option<()> {
    let skb = ctx.skb.skb;
    let headers = Headers::read(skb)?;
    let is_bare = headers.payload_len == 0 && headers.ends == 0;
    if is_bare && direction == direction::RECEIVED {
        return None;
    }
    // SAFETY: the context is a packet; the verifier wants its socket checked.
    let socket = unsafe { (*skb).__bindgen_anon_2.sk };
    if socket.is_null() {
        return None;
    }
    // SAFETY: checked above.
    let socket = unsafe { bpf_sk_fullsock(socket) };
    if socket.is_null() {
        return None;
    }
    // Raw sockets send TCP that they made up, and receive copies of all that comes.
    // SAFETY: checked above.
    if unsafe { (*socket).type_ } != SOCK_STREAM {
        return None;
    }
    if is_bare {
        return tell_taken(skb, socket, &headers);
    }
    let mut piece = Piece::new(headers.sequence.into(), headers.payload_len, direction);
    piece.ack = headers.acknowledgement;
    piece.payload_at = headers.payload_at;
    // SAFETY: checked above.
    if unsafe { (*socket).state } == TCP_LISTEN {
        if headers.payload_len > 0 && direction == direction::RECEIVED {
            let waiting = deferred::waiting(skb, &headers)?;
            piece.ack = 0;
            // SAFETY: the segments of a connection that is not accepted yet come one at a time.
            look_at(skb, unsafe { &mut *waiting }, &mut piece, headers.sequence, 0);
        }
        return None;
    }
    let found = if headers.payload_len > 0 { SOCKETS.get_or_create(socket) } else { SOCKETS.get(socket) };
    let Some(found) = found else {
        if headers.payload_len > 0 {
            emit::count(counter::MAP_FULL, 1);
        }
        return None;
    };
    // SAFETY: the two directions of a socket can be looked at on two CPUs at once; at worst that misplaces a
    // beginning, and clients and servers take turns. In HTTP/2 they do not, and only the connection has a beginning.
    let found = unsafe { &mut *found };
    // SAFETY: the context of this kind of program is what the helper takes.
    let cookie = unsafe { bpf_get_socket_cookie(skb.cast()) };
    if found.cookie != cookie {
        found.begin(cookie);
    }
    let (mut expected, mut ends) = (headers.sequence, headers.ends);
    if direction == direction::RECEIVED {
        // SAFETY: checked above.
        let tcp = unsafe { bpf_tcp_sock(socket) };
        if tcp.is_null() {
            return None;
        }
        // SAFETY: checked above.
        let sent = found.sent(unsafe { (*tcp).snd_nxt });
        // TCP refuses what acknowledges more than was ever sent (but for a reset, which need not acknowledge anything).
        let is_unfounded = headers.acknowledgement.wrapping_sub(sent) as i32 > 0;
        if is_unfounded && ends & flags::RST == 0 {
            return None;
        }
        // SAFETY: checked above.
        expected = unsafe { (*tcp).rcv_nxt };
        // What the peer acknowledges is its word; what this socket does is the truth.
        piece.ack = expected;
        // SAFETY: checked above.
        if !may_end(headers.sequence, expected, unsafe { (*socket).state }) {
            ends &= !flags::RST;
        }
    } else if headers.payload_len > 0 && (found.owned != cookie || found.flow.may_begin_with(&piece)) {
        found.note_writer(socket);
    }
    if found.flow.mode == flow::SEALED {
        if piece.len > 0 && !found.is_next(&piece, expected) {
            piece.len = 0;
        }
        sealed::pass(skb, socket, found, &mut piece, ends.into());
        end(skb, found, &mut piece, ends);
        return None;
    }
    look_at(skb, found, &mut piece, expected, ends);
    Some(())
}

/// Tells what the socket has taken when it sends an acknowledgement and nothing else: the peer may be silent for long, and
/// what it has sent counts only then.
#[inline(always)]
fn tell_taken(skb: *mut __sk_buff, socket: *mut bpf_sock, headers: &Headers) -> Option<()> {
    // SAFETY: what the socket sends is looked at under its lock.
    let found = unsafe { &mut *SOCKETS.get(socket)? };
    if found.flow.mode == flow::CAPTURE && found.told != headers.acknowledgement {
        found.told = headers.acknowledgement;
        emit::emit_end(Segment(skb), found, flags::CAPTURE, direction::SENT, headers.sequence.into());
    }
    None
}

/// `expected` is the sequence number that the socket waits for.
#[inline(always)]
fn look_at(skb: *mut __sk_buff, socket: &mut Socket, piece: &mut Piece, expected: u32, ends: u16) {
    // The verifier would follow every way of getting here through all that comes now.
    let ends = forgotten(ends.into(), piece.offset) as u16;
    piece.forget();
    socket.told = piece.ack;
    if piece.len > 0 {
        socket.take_back_refused(piece, expected);
        let is_next = socket.is_next(piece, expected);
        if is_next && piece.direction == direction::RECEIVED && socket.flow.turns_to(piece) {
            socket.turned_at = piece.offset as u32;
            socket.turned_message = socket.flow.message;
        }
        flow::observe(Segment(skb), socket, piece, is_next);
    }
    end(skb, socket, piece, ends);
}

/// Looks at the ends of streams that a segment tells.
#[inline(never)]
fn end(skb: *mut __sk_buff, socket: &mut Socket, piece: &mut Piece, ends: u16) {
    if ends == 0 {
        return;
    }
    if piece.direction == direction::SENT {
        socket.fin_sent = 1;
    }
    if socket.flow.mode == flow::CAPTURE {
        let offset = piece.offset + u64::from(piece.len);
        emit::emit_end(Segment(skb), socket, ends | flags::CAPTURE, piece.direction, offset);
    }
    let over = socket.released != 0 && (piece.direction == direction::SENT || ends & flags::RST != 0);
    if over && socket.flow.marks & flow::EMITTED != 0 {
        emit::emit_close(Segment(skb), socket);
        socket.be_over();
    }
}

impl Socket {
    /// The process that the socket is thought to belong to; 0 where none is known.
    #[inline(always)]
    pub fn owner(&self) -> u32 {
        self.owner
    }

    /// First sight of this socket: what it has inherited of a flow is its listener's.
    #[inline(always)]
    fn begin(&mut self, cookie: u64) {
        self.flow = Flow::new(FlowKey { handle: cookie, generation: 0, pid: 0, source: source::TCP.into() });
        self.cookie = cookie;
        self.known = [0; 2];
        self.released = 0;
        self.fin_sent = 0;
        self.is_passed_on = 0;
    }

    /// User space knows of the end: what still comes, such as the peer's own, would begin the connection anew there.
    #[inline(always)]
    fn be_over(&mut self) {
        self.flow.marks &= !flow::EMITTED;
        self.flow.mode = flow::OPAQUE;
    }

    /// Whether the piece follows what was seen of its direction; takes note of the bytes that it adds.
    ///
    /// Not so: what repeats bytes, what came before its turn, and what is forged. What the socket expects is the truth
    /// about what it receives, though it may lag behind; nobody else can say what it sends.
    #[inline(always)]
    pub fn is_next(&mut self, piece: &Piece, expected: u32) -> bool {
        let way = usize::from(piece.direction & 1);
        let sequence = piece.offset as u32;
        let is_known = self.known[way] != 0 && self.next[way].wrapping_sub(expected) <= MOST_AHEAD;
        let next = if is_known { self.next[way] } else { expected };
        let behind = next.wrapping_sub(sequence);
        self.next[way] = if behind < piece.len { sequence.wrapping_add(piece.len) } else { next };
        self.known[way] = 1;
        behind == 0
    }

    /// Up to where the socket has sent, given its own word for it, which it notes when a segment has left: over loopback the
    /// peer may have answered by then.
    #[inline(always)]
    fn sent(&self, noted: u32) -> u32 {
        let way = usize::from(direction::SENT);
        let seen = self.next[way].wrapping_add(self.fin_sent.into());
        if self.known[way] != 0 && seen.wrapping_sub(noted) <= MOST_AHEAD { seen } else { noted }
    }

    /// Forgets what was seen from the piece's place on, if TCP still waits for that: it was broken, or forged, or has
    /// overtaken the piece. The peer's turn, and a message, may have seemed to begin with it.
    #[inline(always)]
    fn take_back_refused(&mut self, piece: &Piece, expected: u32) {
        let way = usize::from(direction::RECEIVED);
        let is_its_place = piece.direction == direction::RECEIVED && piece.offset as u32 == expected;
        if !is_its_place || self.known[way] == 0 || self.next[way] == expected {
            return;
        }
        self.next[way] = expected;
        if self.turned_at.wrapping_sub(expected) <= MOST_AHEAD {
            self.flow.take_back_turn(self.turned_message);
        }
    }

    /// Notes who writes, if that is known: it owns the socket from now on, whoever did before.
    #[inline(always)]
    fn note_writer(&mut self, socket: *mut bpf_sock) {
        let writer = writer(socket);
        if writer != 0 {
            if self.owned == self.cookie && self.owner != writer {
                self.is_passed_on = 1;
                // It was the other's.
                self.comm = [0; 16];
            }
            self.owner = writer;
            self.owned = self.cookie;
        }
    }

    #[inline(always)]
    fn describe_owner(&self, header: &mut RecordHeader) {
        header.pid = self.owner;
        header.comm = self.comm;
        if self.is_passed_on != 0 && self.flow.is_asked() {
            header.flags |= flags::PASSED_ON;
        }
        if self.owner != 0 && self.owned == self.cookie {
            return;
        }
        if self.released != 0 {
            // The process that closes a socket is more likely to have served it than whoever created its listener.
            header.pid = self.closer;
            header.flags |= flags::CLOSER;
        } else if self.owner != 0 {
            header.flags |= flags::INHERITED_OWNER;
        }
    }
}

impl State for Socket {
    #[inline(always)]
    fn flow(&mut self) -> &mut Flow {
        &mut self.flow
    }

    #[inline(always)]
    fn begin_sealed(&mut self, first: &Piece) {
        sealed::begin(self, first);
    }

    #[inline(always)]
    fn taken(&self) -> u32 {
        self.told
    }

    #[inline(always)]
    fn head(&mut self) -> *mut u8 {
        self.head.as_mut_ptr()
    }
}

/// The payload of a packet.
#[derive(Clone, Copy)]
pub struct Segment(pub *mut __sk_buff);

/// A socket that is accepted or released, outside of any packet.
#[derive(Clone, Copy)]
pub struct OutsidePackets;

impl Source for Segment {
    type State = Socket;
    type Held = Self;
    const TCP: bool = true;
    const MOST_RECORDS: u32 = flow::RECORDS_PER_PIECE;

    #[inline(always)]
    fn read(self, piece: &Piece, from: u32, to: *mut u8, len: u64) -> bool {
        read_payload(self.0, piece, from, to, len)
    }

    #[inline(always)]
    fn held(_state: &mut Socket) -> Self {
        Self(core::ptr::null_mut())
    }

    /// Addresses are the socket's: those in the packet may be translated ones. A listener has no peer, and often no
    /// address, but what it receives is not translated any more.
    #[inline(always)]
    fn describe(self, state: &mut Socket, header: &mut RecordHeader) {
        let ends = if state.cookie == 0 {
            header.flags |= flags::LISTENER;
            header.pid = 0;
            header.comm = [0; 16];
            Ends::of_received_packet(self.0, state.waiting_port)
        } else {
            state.describe_owner(header);
            Ends::of_socket(self.0)
        };
        header.address_family = ends.family;
        header.local_address = from_words(ends.local_address);
        header.local_port = ends.local_port;
        header.remote_address = from_words(ends.remote_address);
        header.remote_port = ends.remote_port;
    }
}

impl Source for OutsidePackets {
    type State = Socket;
    type Held = Self;
    const TCP: bool = true;
    const MOST_RECORDS: u32 = flow::RECORDS_PER_PIECE;

    #[inline(always)]
    fn read(self, _piece: &Piece, _from: u32, _to: *mut u8, _len: u64) -> bool {
        false
    }

    #[inline(always)]
    fn held(_state: &mut Socket) -> Self {
        Self
    }

    #[inline(always)]
    fn describe(self, state: &mut Socket, header: &mut RecordHeader) {
        state.describe_owner(header);
        header.address_family = 0;
        header.local_port = 0;
        header.remote_port = 0;
        header.local_address = [0; 16];
        header.remote_address = [0; 16];
    }
}

#[inline(always)]
pub fn read_payload(skb: *mut __sk_buff, piece: &Piece, from: u32, to: *mut u8, len: u64) -> bool {
    // SAFETY: the helper checks the packet's end; the caller has room for `len` bytes.
    unsafe { bpf_skb_load_bytes(skb.cast(), piece.payload_at + from, to.cast(), len as u32) == 0 }
}

#[inline(always)]
fn from_words(words: [u32; 4]) -> [u8; 16] {
    // SAFETY: both are sixteen bytes without padding.
    unsafe { core::mem::transmute(words) }
}
