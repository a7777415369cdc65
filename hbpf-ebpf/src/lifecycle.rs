//! Processes that begin a program or end.

use aya_ebpf::{
    helpers::{bpf_get_current_pid_tgid, bpf_ktime_get_ns},
    macros::raw_tracepoint,
    programs::RawTracePointContext,
};
use hbpf_ebpf::{LifecycleEvent, counter, lifecycle};

use crate::{
    emit,
    maps::{LIFECYCLE, TLS_CALLS, TLS_USERS},
};

/// `sched_process_exec(struct task_struct *p, pid_t old_pid, struct linux_binprm *bprm)`
#[raw_tracepoint(tracepoint = "sched_process_exec")]
pub fn process_exec(_ctx: RawTracePointContext) -> i32 {
    emit_event(lifecycle::EXEC);
    0
}

/// `clone()` flags: the new task is a thread, or the parent waits until it has executed a program (which tells by itself).
const CLONE_THREAD: u64 = 0x0001_0000;
const CLONE_VFORK: u64 = 0x4000;

/// `task_newtask(struct task_struct *task, unsigned long clone_flags)`
#[raw_tracepoint(tracepoint = "task_newtask")]
pub fn process_fork(ctx: RawTracePointContext) -> i32 {
    let flags: u64 = ctx.arg(1);
    if flags & (CLONE_THREAD | CLONE_VFORK) == 0 {
        emit_event(lifecycle::FORK);
    }
    0
}

/// `sched_process_exit(struct task_struct *p, bool group_dead)`, Linux 6.16
///
/// The kernel refuses to attach it where the tracepoint has no second argument.
#[raw_tracepoint(tracepoint = "sched_process_exit")]
pub fn process_end(ctx: RawTracePointContext) -> i32 {
    let group_dead: u64 = ctx.arg(1);
    // Of a bool only the lowest byte is its own.
    exit(group_dead as u8 != 0)
}

/// `sched_process_exit(struct task_struct *p)`, before that
///
/// Which thread is the last cannot be told without knowing the kernel's structures; the first thread's end stands for the
/// process's. Where it ends before others (rare), user space finds the others still in /proc.
#[raw_tracepoint(tracepoint = "sched_process_exit")]
pub fn process_exit(_ctx: RawTracePointContext) -> i32 {
    let thread = bpf_get_current_pid_tgid();
    exit(thread as u32 == (thread >> 32) as u32)
}

#[inline(always)]
fn exit(of_process: bool) -> i32 {
    let thread = bpf_get_current_pid_tgid();
    // A thread that is killed inside a call never returns from it. Most threads have no entry.
    let _ = TLS_CALLS.remove(&thread);
    if of_process {
        let _ = TLS_USERS.remove(&((thread >> 32) as u32));
        emit_event(lifecycle::EXIT);
    }
    0
}

#[inline(always)]
fn emit_event(kind: u32) {
    let Some(mut entry) = LIFECYCLE.reserve::<LifecycleEvent>(0) else {
        // User space looks through /proc on a timer as well, for starts and for ends.
        emit::count(counter::RING_FULL_CHUNKS, 1);
        return;
    };
    // SAFETY: the entry is memory for an event, every field of which is written.
    let event = unsafe { &mut *entry.as_mut_ptr() };
    event.kind = kind;
    event.pid = (bpf_get_current_pid_tgid() >> 32) as u32;
    event.timestamp_ns = unsafe { bpf_ktime_get_ns() };
    emit::write_comm(&mut event.comm);
    entry.submit(0);
}
