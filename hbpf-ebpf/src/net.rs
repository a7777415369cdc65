//! How TCP connections come about and how they fare.

use aya_ebpf::{
    bindings::{
        BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB, BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB, BPF_SOCK_OPS_RETRANS_CB,
        BPF_SOCK_OPS_RETRANS_CB_FLAG, BPF_SOCK_OPS_STATE_CB, BPF_SOCK_OPS_STATE_CB_FLAG, BPF_SOCK_OPS_TCP_CONNECT_CB,
        BPF_TCP_CLOSE, BPF_TCP_CLOSE_WAIT, BPF_TCP_ESTABLISHED, BPF_TCP_SYN_SENT, bpf_sock_ops,
    },
    helpers::bpf_ktime_get_ns,
    macros::sock_ops,
    programs::SockOpsContext,
};
use hbpf_ebpf::{Tally, TallyKey, counter, slot, tally};

use crate::{count, emit, maps::SOCKETS, packet::field, tcp::Socket};

/// What the kernel calls at moments of a connection's life lets everything go its way.
const PASS: u32 = 1;

/// The moments of a connection that have to be asked for: a segment is sent again, and any change of state.
const MOMENTS: u32 = BPF_SOCK_OPS_RETRANS_CB_FLAG | BPF_SOCK_OPS_STATE_CB_FLAG;

/// Connections that were there before are not asked for, and so not counted.
#[sock_ops]
pub fn net_connection(ctx: SockOpsContext) -> u32 {
    try_connection(&ctx);
    PASS
}

#[inline(always)]
fn try_connection(ctx: &SockOpsContext) -> Option<()> {
    match ctx.op() {
        // In the call of the process that connects.
        BPF_SOCK_OPS_TCP_CONNECT_CB => {
            // SAFETY: nothing else uses a socket that is being connected.
            let socket = unsafe { &mut *socket(ctx)? };
            // SAFETY: a helper without arguments.
            socket.connecting_since = unsafe { bpf_ktime_get_ns() };
            ask(ctx);
        }
        BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB => {
            ask(ctx);
            took(ctx, tally::CONNECTED)?;
        }
        BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB => ask(ctx),
        BPF_SOCK_OPS_RETRANS_CB => {
            let segments = argument::<1>(ctx);
            happened(ctx, tally::RETRANSMITTED, segments.into())?;
        }
        BPF_SOCK_OPS_STATE_CB if argument::<1>(ctx) == BPF_TCP_CLOSE => match argument::<0>(ctx) {
            BPF_TCP_SYN_SENT => took(ctx, tally::CONNECT_FAILED)?,
            // A connection that both sides have ended goes through other states.
            BPF_TCP_ESTABLISHED | BPF_TCP_CLOSE_WAIT => happened(ctx, tally::RESET, 1)?,
            _ => {}
        },
        _ => {}
    }
    Some(())
}

/// One of the numbers that come with some moments; see `bpf.h`.
#[inline(always)]
fn argument<const NUMBER: usize>(ctx: &SockOpsContext) -> u32 {
    match NUMBER {
        0 => field::<{ core::mem::offset_of!(bpf_sock_ops, __bindgen_anon_1) }, _>(ctx.ops),
        _ => field::<{ core::mem::offset_of!(bpf_sock_ops, __bindgen_anon_1) + 4 }, _>(ctx.ops),
    }
}

/// Has this connection's moments told. Others may have asked for some of theirs.
#[inline(always)]
fn ask(ctx: &SockOpsContext) {
    // Only a socket that is none any more refuses.
    let _ = ctx.set_cb_flags((ctx.cb_flags() | MOMENTS) as i32);
}

/// What is remembered of the connection's socket.
#[inline(always)]
fn socket(ctx: &SockOpsContext) -> Option<*mut Socket> {
    // SAFETY: the context; the verifier wants its socket checked.
    let socket = unsafe { (*ctx.ops).__bindgen_anon_2.sk };
    if socket.is_null() {
        return None;
    }
    let found = SOCKETS.get_or_create(socket);
    if found.is_none() {
        emit::count(counter::MAP_FULL, 1);
    }
    found
}

/// The wait for a connection is over.
#[inline(always)]
fn took(ctx: &SockOpsContext, kind: u16) -> Option<()> {
    // SAFETY: nothing else happens to a socket that is being connected.
    let socket = unsafe { &mut *socket(ctx)? };
    let since = socket.connecting_since;
    if since == 0 {
        return None;
    }
    socket.connecting_since = 0;
    // SAFETY: a helper without arguments.
    let took = unsafe { bpf_ktime_get_ns() }.saturating_sub(since);
    let key = TallyKey { pid: socket.owner(), device: 0, slot: slot::of(took), kind };
    count::add(&key, &Tally { count: 1, nanoseconds: took, bytes: 0 });
    Some(())
}

#[inline(always)]
fn happened(ctx: &SockOpsContext, kind: u16, times: u64) -> Option<()> {
    // SAFETY: whole words are read.
    let socket = unsafe { &*socket(ctx)? };
    let key = TallyKey { pid: socket.owner(), device: 0, slot: 0, kind };
    count::add(&key, &Tally { count: times, nanoseconds: 0, bytes: 0 });
    Some(())
}
