use crate::maps::SOCKETS;
use aya_ebpf::{bindings::bpf_sock, macros::*, programs::*};
#[repr(C)]
pub struct Socket {
    pub a: [u64; 80],
}
#[cgroup_skb]
pub fn tcp_egress(ctx: SkBuffContext) -> i32 {
    f(&ctx);
    1
}
#[cgroup_skb]
pub fn tcp_ingress(ctx: SkBuffContext) -> i32 {
    f(&ctx);
    1
}
#[inline(always)]
fn f(ctx: &SkBuffContext) {
    let sk: *mut bpf_sock = unsafe { (*ctx.skb.skb).__bindgen_anon_2.sk };
    if sk.is_null() {
        return;
    }
    let sk = unsafe { aya_ebpf::helpers::bpf_sk_fullsock(sk) };
    if sk.is_null() {
        return;
    }
    if let Some(s) = SOCKETS.get_or_create(sk) {
        unsafe {
            (*s).a[0] += 1;
        }
    }
}
#[cgroup_sock(sock_create)]
pub fn sock_create(ctx: SockContext) -> i32 {
    if let Some(s) = SOCKETS.get_or_create(ctx.sock) {
        unsafe {
            (*s).a[1] += 1;
        }
    }
    1
}
#[cgroup_sock(sock_release)]
pub fn sock_release(_ctx: SockContext) -> i32 {
    1
}
#[cgroup_sock_addr(connect4)]
pub fn connect4(ctx: SockAddrContext) -> i32 {
    let sk = unsafe { (*ctx.sock_addr).__bindgen_anon_1.sk };
    if !sk.is_null() {
        if let Some(s) = SOCKETS.get_or_create(sk) {
            unsafe {
                (*s).a[1] += 1;
            }
        }
    }
    1
}
#[cgroup_sock_addr(connect6)]
pub fn connect6(_ctx: SockAddrContext) -> i32 {
    1
}
