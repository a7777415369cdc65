//! TLS connections as they are seen from outside: how much passes, and how long answers take.
//!
//! What is said in them is read at a TLS library's calls, if its process has one that can be probed. For the others this is
//! what there is, and for all of them it tells whether the calls showed everything. The client's turn begins when bytes go
//! its way after bytes that came the other way; a turn of application data that is long enough for a request asks for
//! something, and the first bytes back answer.

use aya_ebpf::{
    bindings::{__sk_buff, bpf_sock},
    helpers::{bpf_ktime_get_ns, generated::bpf_tcp_sock},
};
use hbpf_ebpf::{HEAD_BYTES, RecordHeader, SealedReport, action, counter, direction, kind};

use crate::{
    emit, flow,
    flow::Piece,
    maps::{EVENTS, VERDICTS_BY_FLOW},
    tcp::{self, Segment, Socket},
};

/// What the records of TLS begin with that hold data of the application (RFC 8446, 5.1), as everything behind a handshake
/// of TLS 1.3 does.
const APPLICATION_DATA: u8 = 23;

/// A client's turn of so many bytes can be a request. The end of a handshake, which looks the same in TLS 1.3, has fewer (but
/// where the client has a certificate); HTTP requests have more.
const SMALLEST_REQUEST: u32 = 160;

/// How often a connection's bytes are told of at the most, but for answers.
const TELL_EVERY_NS: u64 = 1_000_000_000;

/// What is remembered of such a connection, in the place of a message's head.
#[repr(C)]
struct Sealed {
    /// Bytes sent so far.
    sent: u64,
    /// When the client's latest turn was last added to.
    asked_ns: u64,
    /// When user space was last told.
    told_ns: u64,
    /// Bytes of the client's latest turn.
    asked: u32,
    /// The first byte of that.
    asked_kind: u8,
    /// The direction of the piece before, plus one.
    last_side: u8,
    zero: [u8; 2],
}

const _: () = assert!(size_of::<Sealed>() <= HEAD_BYTES);

/// A record of it.
#[repr(C)]
struct Record {
    header: RecordHeader,
    report: SealedReport,
}

/// The connection is one from its first piece on.
#[inline(always)]
pub fn begin(socket: &mut Socket, first: &Piece) {
    // SAFETY: the head is memory of the entry, which is large enough and lies at a multiple of eight.
    let sealed = unsafe { &mut *socket.head.as_mut_ptr().cast::<Sealed>() };
    let sent = if first.direction == direction::SENT { u64::from(first.len) } else { 0 };
    *sealed = Sealed { sent, asked_ns: 0, told_ns: 0, asked: 0, asked_kind: 0, last_side: 0, zero: [0; 2] };
}

/// Looks at a segment of such a connection, of which the piece is what is new, in its turn.
#[inline(never)]
pub fn pass(skb: *mut __sk_buff, sock: *mut bpf_sock, socket: &mut Socket, piece: &mut Piece, ends: u32) {
    let is_next = piece.len > 0;
    // SAFETY: as in `begin`.
    let sealed = unsafe { &mut *socket.head.as_mut_ptr().cast::<Sealed>() };
    if piece.direction == direction::SENT {
        sealed.sent += u64::from(piece.len);
    }
    // SAFETY: a helper without arguments.
    let now = unsafe { bpf_ktime_get_ns() };
    let side = piece.direction + 1;
    let turned = is_next && sealed.last_side != side;
    let mut asked_ns = 0;
    if is_next {
        sealed.last_side = side;
        if socket.flow.is_request_side(side) {
            if turned {
                sealed.asked = 0;
                let mut first = [0_u8; 1];
                let is_read = tcp::read_payload(skb, piece, 0, first.as_mut_ptr(), 1);
                sealed.asked_kind = if is_read { first[0] } else { 0 };
            }
            sealed.asked = sealed.asked.saturating_add(piece.len);
            sealed.asked_ns = now;
        } else if turned && sealed.asked_kind == APPLICATION_DATA && sealed.asked >= SMALLEST_REQUEST {
            asked_ns = sealed.asked_ns;
        }
    }
    let is_due = now.wrapping_sub(sealed.told_ns) >= TELL_EVERY_NS;
    if asked_ns == 0 && ends == 0 && !is_due {
        return;
    }
    let sent = sealed.sent;
    sealed.told_ns = now;
    match verdict(socket) {
        action::IGNORE => socket.flow.mode = flow::OPAQUE,
        action::CAPTURE => tell(skb, sock, socket, SealedReport { sent, received: 0, asked_ns }),
        // Not judged yet: how many bytes there are is told later.
        _ if asked_ns != 0 || ends != 0 => tell(skb, sock, socket, SealedReport { sent, received: 0, asked_ns }),
        _ => {}
    }
}

/// What user space wants to know of the connection; 0 while it has not said.
#[inline(always)]
fn verdict(socket: &Socket) -> u32 {
    // SAFETY: an entry that is replaced while it is read can only mix two actions.
    let found = unsafe { VERDICTS_BY_FLOW.get(&socket.flow.key) };
    found.filter(|verdict| verdict.message == socket.flow.message).map_or(0, |verdict| verdict.action)
}

#[inline(always)]
fn tell(skb: *mut __sk_buff, sock: *mut bpf_sock, socket: &mut Socket, report: SealedReport) {
    // SAFETY: the caller has checked the socket.
    let tcp = unsafe { bpf_tcp_sock(sock) };
    if tcp.is_null() {
        return;
    }
    let Some(mut entry) = EVENTS.reserve::<Record>(0) else { return emit::count(counter::RING_FULL_CHUNKS, 1) };
    // SAFETY: the entry is memory for a record, every field of which is written.
    let record = unsafe { &mut *entry.as_mut_ptr() };
    emit::describe_mark(Segment(skb), socket, &mut record.header, kind::SEALED);
    record.header.original_len = size_of::<SealedReport>() as u32;
    record.header.captured_len = size_of::<SealedReport>() as u32;
    // SAFETY: checked above.
    record.report = SealedReport { received: unsafe { (*tcp).bytes_received }, ..report };
    entry.submit(0);
}
