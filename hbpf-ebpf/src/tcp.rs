//! TCP payload at the cgroup hooks of sockets.
//!
//! The hooks lie below TCP: segments can be repeated, come in another order, or be forged. What is decided here is only
//! what to copy; user space puts the bytes in order. No program here ever refuses a packet or a call.

use aya_ebpf::{
    bindings::{__sk_buff, bpf_sock},
    helpers::{
        bpf_get_current_pid_tgid, bpf_ktime_get_ns,
        generated::{bpf_get_socket_cookie, bpf_sk_fullsock, bpf_skb_load_bytes},
    },
    macros::{cgroup_skb, cgroup_sock, cgroup_sock_addr},
    programs::{SkBuffContext, SockAddrContext, SockContext},
};
use hbpf_ebpf::{FlowKey, HEAD_BYTES, RecordHeader, counter, direction, flags, source};

use crate::{
    emit,
    flow::{self, Flow, Piece, Source, State},
    maps::SOCKETS,
    packet::{self, Ends, Headers, is_ipv4, load},
};

/// What lets a packet or a call pass, as every program here does.
const PASS: i32 = 1;

const AF_INET: u32 = 2;
const AF_INET6: u32 = 10;
const SOCK_STREAM: u32 = 1;

/// `enum` of `bpf.h`: states of a TCP socket.
const TCP_ESTABLISHED: u32 = 1;
const TCP_CLOSE_WAIT: u32 = 8;
const TCP_LISTEN: u32 = 10;

/// A segment that begins up to this much before what was seen last repeats it. Further back (or any way forward) it is
/// taken for new: a forged sequence number then misleads until the next genuine one, not for ever.
const REPEATED_BYTES: u32 = 1 << 20;

/// What is remembered of a socket. Accepted sockets begin with a copy of their listener's.
#[repr(C)]
pub struct Socket {
    flow: Flow,
    /// Cookie of the socket that `owner` and `comm` are those of: the socket itself or its listener. 0: not known.
    owned: u64,
    owner: u32,
    /// Per direction, the sequence number after the last byte seen.
    next: [u32; 2],
    /// Per direction, whether `next` means anything.
    known: [u8; 2],
    /// The descriptor is closed, while what it has sent may still be on its way.
    released: u8,
    zero: u8,
    comm: [u8; 16],
    head: [u8; HEAD_BYTES],
}

/// What stands for a flow where the segment is seen at a listening socket, which serves many connections.
#[repr(C)]
struct Deferred {
    flow: Flow,
    head: u64,
    remote_port: u64,
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
    // SAFETY: the context is a socket.
    let state = unsafe { (*ctx.sock).state };
    if matches!(state, TCP_ESTABLISHED | TCP_CLOSE_WAIT) {
        // What has been written and not sent yet follows, and then a FIN or a reset, which is where the flow ends.
        socket.released = 1;
    } else {
        emit::emit_close(Released, socket);
        socket.flow.marks &= !flow::EMITTED;
    }
    Some(())
}

#[inline(always)]
fn try_segment(ctx: &SkBuffContext, direction: u8) -> Option<()> {
    let skb = ctx.skb.skb;
    let headers = Headers::read(skb)?;
    if headers.payload_len == 0 && headers.ends == 0 {
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
    // SAFETY: a helper without arguments.
    let now = unsafe { bpf_ktime_get_ns() };
    let mut piece = Piece::new(now, headers.sequence.into(), headers.payload_len, direction);
    piece.ack = headers.acknowledgement;
    piece.payload_at = headers.payload_at;
    // SAFETY: the context of this kind of program is what the helper takes.
    let cookie = unsafe { bpf_get_socket_cookie(skb.cast()) };
    // SAFETY: checked above.
    if unsafe { (*socket).state } == TCP_LISTEN {
        if headers.payload_len > 0 {
            look_at_deferred(skb, &mut piece, cookie, headers.remote_port);
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
    // beginning, and clients and servers take turns.
    let found = unsafe { &mut *found };
    look_at(skb, found, &mut piece, cookie, headers.ends);
    Some(())
}

#[inline(always)]
fn look_at(skb: *mut __sk_buff, socket: &mut Socket, piece: &mut Piece, cookie: u64, ends: u16) {
    if socket.flow.key.handle != cookie {
        socket.begin(cookie);
    }
    if piece.len > 0 {
        let repeated = socket.is_repeated(piece);
        flow::observe(Segment(skb), socket, piece, repeated);
    }
    if ends == 0 {
        return;
    }
    if socket.flow.mode == flow::CAPTURE {
        let offset = piece.offset + u64::from(piece.len);
        emit::emit_end(Segment(skb), socket, ends | flags::CAPTURE, piece.direction, offset);
    }
    let over = socket.released != 0 && (piece.direction == direction::SENT || ends & flags::RST != 0);
    if over && socket.flow.marks & flow::EMITTED != 0 {
        emit::emit_close(Segment(skb), socket);
        socket.flow.marks &= !flow::EMITTED;
    }
}

/// Payload for a connection that its server has not accepted yet (TCP_DEFER_ACCEPT, SYN cookies).
#[inline(never)]
fn look_at_deferred(skb: *mut __sk_buff, piece: &mut Piece, cookie: u64, remote_port: u16) {
    let key = FlowKey { handle: cookie, generation: 0, pid: 0, source: source::TCP.into() };
    let mut state = Deferred { flow: Flow::new(key), head: 0, remote_port: remote_port.into() };
    flow::observe_alone(DeferredSegment(skb), &mut state, piece);
}

impl Socket {
    /// First sight of this socket: what it has inherited of a flow is its listener's.
    #[inline(always)]
    fn begin(&mut self, cookie: u64) {
        self.flow = Flow::new(FlowKey { handle: cookie, generation: 0, pid: 0, source: source::TCP.into() });
        self.known = [0; 2];
        self.released = 0;
    }

    /// Whether the piece repeats bytes of its direction; takes note of those it adds.
    #[inline(always)]
    fn is_repeated(&mut self, piece: &Piece) -> bool {
        let way = usize::from(piece.direction & 1);
        let sequence = piece.offset as u32;
        let end = sequence.wrapping_add(piece.len);
        let behind = self.next[way].wrapping_sub(sequence);
        let repeated = self.known[way] != 0 && behind > 0 && behind < REPEATED_BYTES;
        if !repeated || behind < piece.len {
            self.next[way] = end;
        }
        self.known[way] = 1;
        repeated
    }

    #[inline(always)]
    fn describe_owner(&self, header: &mut RecordHeader) {
        header.pid = self.owner;
        header.comm = self.comm;
        if self.owner != 0 && self.owned != self.flow.key.handle {
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
    fn head(&mut self) -> *mut u8 {
        self.head.as_mut_ptr()
    }
}

impl State for Deferred {
    #[inline(always)]
    fn flow(&mut self) -> &mut Flow {
        &mut self.flow
    }

    #[inline(always)]
    fn head(&mut self) -> *mut u8 {
        (&raw mut self.head).cast()
    }
}

/// The payload of a packet at its own socket.
#[derive(Clone, Copy)]
struct Segment(*mut __sk_buff);

/// The payload of a packet at a listening socket.
#[derive(Clone, Copy)]
struct DeferredSegment(*mut __sk_buff);

/// A socket that is released, outside of any packet.
#[derive(Clone, Copy)]
struct Released;

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

    /// Addresses are the socket's: those in the packet may be translated ones.
    #[inline(always)]
    fn describe(self, state: &mut Socket, header: &mut RecordHeader) {
        state.describe_owner(header);
        let ends = Ends::of_socket(self.0);
        header.address_family = ends.family;
        header.local_address = from_words(ends.local_address);
        header.local_port = ends.local_port;
        header.remote_address = from_words(ends.remote_address);
        header.remote_port = ends.remote_port;
    }
}

impl Source for DeferredSegment {
    type State = Deferred;
    type Held = Self;
    const TCP: bool = true;
    const MOST_RECORDS: u32 = flow::RECORDS_PER_PIECE;

    #[inline(always)]
    fn read(self, piece: &Piece, from: u32, to: *mut u8, len: u64) -> bool {
        read_payload(self.0, piece, from, to, len)
    }

    #[inline(always)]
    fn held(_state: &mut Deferred) -> Self {
        Self(core::ptr::null_mut())
    }

    /// A listener has no peer, and often no address: the packet's are all there is.
    #[inline(always)]
    fn describe(self, state: &mut Deferred, header: &mut RecordHeader) {
        header.pid = 0;
        header.comm = [0; 16];
        header.flags |= flags::LISTENER;
        header.local_port = packet::local_port(self.0);
        header.remote_port = state.remote_port as u16;
        header.local_address = [0; 16];
        header.remote_address = [0; 16];
        // Where the source address lies in the header; the destination, which is this side, follows.
        if is_ipv4(self.0) {
            header.address_family = 4;
            load::<4>(self.0, 12, header.remote_address.as_mut_ptr());
            load::<4>(self.0, 16, header.local_address.as_mut_ptr());
        } else {
            header.address_family = 6;
            load::<16>(self.0, 8, header.remote_address.as_mut_ptr());
            load::<16>(self.0, 24, header.local_address.as_mut_ptr());
        }
    }
}

impl Source for Released {
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

    /// The process that closes a socket is the one that has served it, whoever has created its listener.
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
fn read_payload(skb: *mut __sk_buff, piece: &Piece, from: u32, to: *mut u8, len: u64) -> bool {
    // SAFETY: the helper checks the packet's end; the caller has room for `len` bytes.
    unsafe { bpf_skb_load_bytes(skb.cast(), piece.payload_at + from, to.cast(), len as u32) == 0 }
}

#[inline(always)]
fn from_words(words: [u32; 4]) -> [u8; 16] {
    // SAFETY: both are sixteen bytes without padding.
    unsafe { core::mem::transmute(words) }
}
