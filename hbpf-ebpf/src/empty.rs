//! Programs that do nothing: what they cost is what the traps and hooks that lead to them cost.

use aya_ebpf::{
    macros::{cgroup_skb, uprobe, uretprobe},
    programs::{ProbeContext, RetProbeContext, SkBuffContext},
};

/// At the entry of a function of our own, or of any other whose trap is to be measured.
#[uprobe]
pub fn empty_entry(_ctx: ProbeContext) -> u32 {
    0
}

/// At the return from such a function.
#[uretprobe]
pub fn empty_return(_ctx: RetProbeContext) -> u32 {
    0
}

/// At the packets of a cgroup's sockets. For the bench alone.
#[cgroup_skb]
pub fn empty_packet(_ctx: SkBuffContext) -> i32 {
    1
}
