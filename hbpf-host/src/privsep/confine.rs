//! The system-call filter of the unprivileged side.
//!
//! What is not on the list fails with EPERM instead of killing the process: a library that tries something optional falls
//! back, and the terminal is restored in any case.

use std::collections::BTreeMap;

use nix::libc;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch, apply_filter_all_threads,
};

/// Why the filter could not be installed.
#[derive(Debug, thiserror::Error)]
#[error("installing the system-call filter: {0}")]
pub struct ConfineError(String);

/// Confines all threads of this process, present and future, to what reading the ring, computing and drawing need.
///
/// From here on no file can be opened and no program run; no socket but a pair of unix ones can be made. What needs files
/// (configuration, time zone, terminal description, output files) must be open or read before.
pub fn confine() -> Result<(), ConfineError> {
    let fail = |error: &dyn std::fmt::Display| ConfineError(error.to_string());
    for program in [no_clone3().map_err(|e| fail(&e))?, allowed().map_err(|e| fail(&e))?] {
        apply_filter_all_threads(&program).map_err(|error| fail(&error))?;
    }
    Ok(())
}

/// A filter cannot read what `clone3` points to; told that it does not exist, the C library uses `clone`.
fn no_clone3() -> Result<BpfProgram, seccompiler::BackendError> {
    let errno = SeccompAction::Errno(libc::ENOSYS as u32);
    let rules = BTreeMap::from([(libc::SYS_clone3, vec![])]);
    SeccompFilter::new(rules, SeccompAction::Allow, errno, architecture()?)?.try_into()
}

fn allowed() -> Result<BpfProgram, seccompiler::BackendError> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    for call in ALWAYS.iter().chain(ONLY_HERE) {
        rules.insert(*call, vec![]);
    }
    for (call, alternatives) in conditional()? {
        rules.insert(call, alternatives);
    }
    let errno = SeccompAction::Errno(libc::EPERM as u32);
    SeccompFilter::new(rules, errno, SeccompAction::Allow, architecture()?)?.try_into()
}

fn architecture() -> Result<TargetArch, seccompiler::BackendError> {
    std::env::consts::ARCH.try_into()
}

/// Allowed whatever the arguments.
const ALWAYS: &[i64] = &[
    // Descriptors that are open.
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_pread64,
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_pwrite64,
    libc::SYS_lseek,
    libc::SYS_close,
    libc::SYS_fstat,
    libc::SYS_fcntl,
    libc::SYS_dup,
    libc::SYS_dup3,
    libc::SYS_fsync,
    libc::SYS_fdatasync,
    libc::SYS_sendmsg,
    libc::SYS_recvmsg,
    libc::SYS_sendto,
    libc::SYS_recvfrom,
    libc::SYS_shutdown,
    libc::SYS_getsockopt,
    // Waiting.
    libc::SYS_ppoll,
    libc::SYS_pselect6,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_eventfd2,
    libc::SYS_pipe2,
    libc::SYS_timerfd_create,
    libc::SYS_timerfd_settime,
    libc::SYS_timerfd_gettime,
    libc::SYS_wait4,
    libc::SYS_waitid,
    // Memory; mmap and mprotect are below.
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_brk,
    // Threads; clone, prctl and tgkill are below.
    libc::SYS_clone3,
    libc::SYS_futex,
    libc::SYS_set_robust_list,
    libc::SYS_get_robust_list,
    libc::SYS_rseq,
    libc::SYS_set_tid_address,
    libc::SYS_membarrier,
    libc::SYS_sched_yield,
    libc::SYS_sched_getaffinity,
    libc::SYS_getcpu,
    libc::SYS_exit,
    libc::SYS_exit_group,
    // Signals.
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_rt_sigsuspend,
    libc::SYS_rt_sigtimedwait,
    libc::SYS_sigaltstack,
    libc::SYS_restart_syscall,
    // Time, chance, and who we are.
    libc::SYS_clock_gettime,
    libc::SYS_clock_getres,
    libc::SYS_clock_nanosleep,
    libc::SYS_nanosleep,
    libc::SYS_gettimeofday,
    libc::SYS_getrandom,
    libc::SYS_getpid,
    libc::SYS_getppid,
    libc::SYS_gettid,
    libc::SYS_getuid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getegid,
    libc::SYS_getrusage,
    libc::SYS_times,
    libc::SYS_uname,
    libc::SYS_sysinfo,
];

/// Older forms that this architecture has besides.
#[cfg(target_arch = "x86_64")]
const ONLY_HERE: &[i64] = &[
    libc::SYS_poll,
    libc::SYS_select,
    libc::SYS_epoll_create,
    libc::SYS_epoll_wait,
    libc::SYS_dup2,
    libc::SYS_pipe,
    libc::SYS_time,
];

/// Older forms that this architecture has besides.
#[cfg(not(target_arch = "x86_64"))]
const ONLY_HERE: &[i64] = &[];

/// Allowed with certain arguments only.
fn conditional() -> Result<Vec<(i64, Vec<SeccompRule>)>, seccompiler::BackendError> {
    use SeccompCmpOp::{Eq, MaskedEq};
    let is = |argument: u8, wide: SeccompCmpArgLen, operator: SeccompCmpOp, value: u64| {
        SeccompRule::new(vec![SeccompCondition::new(argument, wide, operator, value)?])
    };
    let word = || SeccompCmpArgLen::Dword;
    let long = || SeccompCmpArgLen::Qword;
    let executable = libc::PROT_EXEC as u64;
    let empty_path = libc::AT_EMPTY_PATH as u64;
    let thread = libc::CLONE_THREAD as u64;
    // Reading and setting the terminal's modes and size; not TIOCSTI, which would type into the user's shell.
    // rustix, and new C libraries, use the second form of the calls and do not fall back from EPERM.
    let old = [libc::TCGETS, libc::TCSETS, libc::TCSETSW, libc::TCSETSF];
    let new = [libc::TCGETS2, libc::TCSETS2, libc::TCSETSW2, libc::TCSETSF2];
    let terminal = old.into_iter().chain(new).chain([libc::TIOCGWINSZ, libc::FIONBIO, libc::FIONREAD]);
    Ok(vec![
        (libc::SYS_ioctl, terminal.map(|call| is(1, word(), Eq, call)).collect::<Result<_, _>>()?),
        (libc::SYS_mmap, vec![is(2, long(), MaskedEq(executable), 0)?]),
        (libc::SYS_mprotect, vec![is(2, long(), MaskedEq(executable), 0)?]),
        (libc::SYS_clone, vec![is(0, long(), MaskedEq(thread), thread)?]),
        (libc::SYS_prctl, vec![is(0, word(), Eq, libc::PR_SET_NAME as u64)?, is(0, word(), Eq, PR_SET_VMA)?]),
        (libc::SYS_tgkill, vec![is(0, word(), Eq, u64::from(std::process::id()))?]),
        (libc::SYS_prlimit64, vec![is(2, long(), Eq, 0)?]),
        (libc::SYS_socketpair, vec![is(0, word(), Eq, libc::AF_UNIX as u64)?]),
        // How the C library and std ask about an open descriptor.
        (libc::SYS_newfstatat, vec![is(3, word(), MaskedEq(empty_path), empty_path)?]),
        (libc::SYS_statx, vec![is(2, word(), MaskedEq(empty_path), empty_path)?]),
    ])
}

/// Naming memory regions, which the C library does for its own.
const PR_SET_VMA: u64 = 0x5356_4d41;
