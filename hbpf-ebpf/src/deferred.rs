//! Connections whose first bytes come before their server has accepted them.
//!
//! With TCP_DEFER_ACCEPT, SYN cookies, fast open, or where the last packet of a handshake is lost, a request arrives at the
//! listening socket, and only its answer leaves from a socket of the connection's own. Its flow begins here, under a
//! handle that no socket has, and goes on at the accepted socket under the same one. Whoever sends segments to a listener
//! can begin such a flow, so user space believes none before the record that says that the connection was accepted.

use core::mem::offset_of;

use aya_ebpf::{
    bindings::{__sk_buff, BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB, bpf_sock_ops},
    helpers::{bpf_ktime_get_ns, generated::bpf_get_socket_cookie},
    macros::sock_ops,
    programs::SockOpsContext,
};
use hbpf_ebpf::{DEFERRED_HANDLE, FlowKey, counter, source};

use crate::{
    emit,
    flow::EMITTED,
    maps::{DEFERRED, SOCKETS},
    packet::{self, Headers, field},
    tcp::{OutsidePackets, Socket},
};

/// What the kernel calls when a connection is accepted lets everything go its way.
const PASS: u32 = 1;

const AF_INET: u32 = 2;

/// A connection that is not accepted yet, told apart from all others at all times by the numbers of its streams.
#[repr(C)]
pub struct DeferredKey {
    /// The sequence number after the server's SYN; for what comes with a SYN, that after the client's.
    number: u32,
    /// The client's address, or the end of it.
    remote_address: u32,
    remote_port: u32,
    local_port: u32,
}

/// A template to insert: on the stack it would exceed what a program may have.
// SAFETY: integers throughout.
static NEW_SOCKET: Socket = unsafe { core::mem::zeroed() };

/// What is remembered of the connection that a segment at a listening socket belongs to.
#[inline(always)]
pub fn waiting(skb: *mut __sk_buff, headers: &Headers) -> Option<*mut Socket> {
    let key = DeferredKey {
        number: if headers.is_syn { headers.sequence } else { headers.acknowledgement },
        remote_address: packet::source_address(skb)?,
        remote_port: headers.source_port.into(),
        local_port: packet::local_port(skb).into(),
    };
    if let Some(found) = DEFERRED.get_ptr_mut(&key) {
        return Some(found);
    }
    if DEFERRED.insert(&key, &NEW_SOCKET, 0).is_err() {
        emit::count(counter::MAP_FULL, 1);
        return None;
    }
    let new = DEFERRED.get_ptr_mut(&key)?;
    // SAFETY: a helper without arguments.
    let now = unsafe { bpf_ktime_get_ns() };
    let handle = DEFERRED_HANDLE | now << 16 | u64::from(headers.source_port);
    // SAFETY: the segments of a connection that is not accepted yet come one at a time.
    let socket = unsafe { &mut *new };
    socket.flow.key = FlowKey { handle, generation: 0, pid: 0, source: source::TCP.into() };
    socket.waiting_port = headers.source_port;
    Some(new)
}

/// Called at some moments of a connection's life; here the one at which a listener's connection gets its own socket.
#[sock_ops]
pub fn tcp_accepted(ctx: SockOpsContext) -> u32 {
    if ctx.op() == BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB {
        try_accepted(&ctx);
    }
    PASS
}

/// Hands the flow that has begun at the listener over to the socket.
#[inline(always)]
fn try_accepted(ctx: &SockOpsContext) -> Option<()> {
    const REMOTE_V4: usize = offset_of!(bpf_sock_ops, remote_ip4);
    // Of an IPv4 address within IPv6 it is that address.
    const REMOTE_END: usize = offset_of!(bpf_sock_ops, remote_ip6) + 12;
    let v4 = field::<REMOTE_V4, _>(ctx.ops);
    let v6 = field::<REMOTE_END, _>(ctx.ops);
    let mut key = DeferredKey {
        number: field::<{ offset_of!(bpf_sock_ops, snd_nxt) }, _>(ctx.ops),
        remote_address: if ctx.family() == AF_INET { v4 } else { v6 },
        // This port, unlike the local one, is in network order and in the upper half.
        remote_port: u32::from_be(ctx.remote_port()) & 0xffff,
        local_port: ctx.local_port(),
    };
    let found = match DEFERRED.get_ptr_mut(&key) {
        Some(found) => found,
        None => {
            key.number = field::<{ offset_of!(bpf_sock_ops, rcv_nxt) }, _>(ctx.ops);
            DEFERRED.get_ptr_mut(&key)?
        }
    };
    // SAFETY: the context; the verifier wants its socket checked.
    let child = unsafe { (*ctx.ops).__bindgen_anon_2.sk };
    if child.is_null() {
        return None;
    }
    let Some(socket) = SOCKETS.get_or_create(child) else {
        emit::count(counter::MAP_FULL, 1);
        return None;
    };
    // SAFETY: the connection sends and receives nothing else during this call; of the entry nobody knows any more.
    let (socket, waiting) = unsafe { (&mut *socket, &*found) };
    // SAFETY: the context of this kind of program is what the helper takes.
    socket.cookie = unsafe { bpf_get_socket_cookie(ctx.ops.cast()) };
    socket.flow = waiting.flow;
    socket.next = waiting.next;
    socket.known = waiting.known;
    socket.turned_at = waiting.turned_at;
    socket.turned_message = waiting.turned_message;
    socket.released = 0;
    socket.head = waiting.head;
    if socket.flow.marks & EMITTED != 0 {
        emit::emit_accepted(OutsidePackets, socket);
    }
    // Failure means that the entry is gone already.
    let _ = DEFERRED.remove(&key);
    Some(())
}
