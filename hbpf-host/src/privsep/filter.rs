//! Lists of system calls that a process may use from now on, its arguments included.
//!
//! What is not on a list fails with EPERM instead of killing the process: whoever has taken it over gains nothing by that,
//! while a library that tries something optional falls back, and the terminal is restored in any case. Calls by another
//! ABI (32-bit on a 64-bit kernel) do kill it.

use std::collections::BTreeMap;

use nix::libc;
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, apply_filter_all_threads,
};

/// Why a process could not be confined.
#[derive(Debug, thiserror::Error)]
#[error("installing the system-call filter: {0}")]
pub struct ConfineError(String);

impl ConfineError {
    pub(super) fn new(error: &dyn std::fmt::Display) -> Self {
        Self(error.to_string())
    }
}

/// What an argument must be.
#[derive(Clone, Copy)]
pub(super) enum Argument {
    /// This value, in its lower 32 bits.
    Is(u8, u64),
    /// Zero, or no pointer.
    Null(u8),
    /// None of these bits.
    Without(u8, u64),
    /// Of the bits in the first mask those in the second.
    Masked(u8, u64, u64),
}

impl Argument {
    fn condition(self) -> Result<SeccompCondition, BackendError> {
        use SeccompCmpArgLen::{Dword, Qword};
        use SeccompCmpOp::{Eq, MaskedEq};
        match self {
            Self::Is(argument, value) => SeccompCondition::new(argument, Dword, Eq, value),
            Self::Null(argument) => SeccompCondition::new(argument, Qword, Eq, 0),
            Self::Without(argument, mask) => SeccompCondition::new(argument, Qword, MaskedEq(mask), 0),
            Self::Masked(argument, mask, value) => SeccompCondition::new(argument, Qword, MaskedEq(mask), value),
        }
    }
}

/// A list being written.
#[derive(Default)]
pub(super) struct Filter {
    rules: BTreeMap<i64, Vec<Vec<Argument>>>,
}

impl Filter {
    /// A list with what both processes need.
    pub(super) fn common() -> Self {
        let mut filter = Self::default();
        filter.allow(COMMON);
        filter.allow(OLD_FORMS);
        filter.allow_common_if();
        filter
    }

    /// Allows calls whatever their arguments.
    pub(super) fn allow(&mut self, calls: &[i64]) {
        for call in calls {
            self.rules.insert(*call, Vec::new());
        }
    }

    /// Allows a call where all of these hold; said again for the same call, where these or the others hold.
    pub(super) fn allow_if(&mut self, call: i64, all_of: &[Argument]) {
        self.rules.entry(call).or_default().push(all_of.to_vec());
    }

    /// Allows a call for several values of one argument.
    pub(super) fn allow_values(&mut self, call: i64, argument: u8, values: &[u64]) {
        for value in values {
            self.allow_if(call, &[Argument::Is(argument, *value)]);
        }
    }

    /// Confines all threads of this process, present and future, to the list.
    pub(super) fn install(self) -> Result<(), ConfineError> {
        for program in
            [no_clone3().map_err(|e| ConfineError::new(&e))?, self.program().map_err(|e| ConfineError::new(&e))?]
        {
            apply_filter_all_threads(&program).map_err(|error| ConfineError::new(&error))?;
        }
        Ok(())
    }

    fn program(self) -> Result<BpfProgram, BackendError> {
        let mut rules = BTreeMap::new();
        for (call, alternatives) in self.rules {
            let rule = |all_of: Vec<Argument>| {
                SeccompRule::new(all_of.into_iter().map(Argument::condition).collect::<Result<_, _>>()?)
            };
            rules.insert(call, alternatives.into_iter().map(rule).collect::<Result<Vec<_>, _>>()?);
        }
        let errno = SeccompAction::Errno(libc::EPERM as u32);
        SeccompFilter::new(rules, errno, SeccompAction::Allow, std::env::consts::ARCH.try_into()?)?.try_into()
    }

    /// What both may do with certain arguments only.
    fn allow_common_if(&mut self) {
        use Argument::{Is, Masked, Null, Without};
        // No memory that can be written and run, not even one after the other.
        self.allow_if(libc::SYS_mmap, &[Without(2, libc::PROT_EXEC as u64)]);
        self.allow_if(libc::SYS_mprotect, &[Without(2, libc::PROT_EXEC as u64)]);
        // Threads, but no processes, and none in a namespace of its own.
        let thread = libc::CLONE_THREAD as u64;
        self.allow_if(libc::SYS_clone, &[Masked(0, thread | NEW_NAMESPACES, thread)]);
        self.allow_values(libc::SYS_prctl, 0, &[libc::PR_SET_NAME as u64, PR_SET_VMA, PR_GET_AUXV]);
        // Abort; a signal to nobody else.
        self.allow_if(libc::SYS_tgkill, &[Is(0, u64::from(std::process::id()))]);
        // Limits are asked for, and not set.
        self.allow_if(libc::SYS_prlimit64, &[Is(0, 0), Null(2)]);
        // Not F_SETOWN and F_SETSIG, which have the kernel send signals to others, nor locks and leases on files.
        let commands = [libc::F_DUPFD_CLOEXEC, libc::F_GETFD, libc::F_SETFD, libc::F_GETFL, libc::F_SETFL];
        self.allow_values(libc::SYS_fcntl, 1, &commands.map(|command| command as u64));
        // To the peer of a connected socket only.
        self.allow_if(libc::SYS_sendto, &[Null(4)]);
        // How the C library and std ask about an open descriptor.
        let empty_path = libc::AT_EMPTY_PATH as u64;
        self.allow_if(libc::SYS_newfstatat, &[Masked(3, empty_path, empty_path)]);
        self.allow_if(libc::SYS_statx, &[Masked(2, empty_path, empty_path)]);
    }
}

/// A filter cannot read what `clone3` points to; told that it does not exist, the C library uses `clone`.
fn no_clone3() -> Result<BpfProgram, BackendError> {
    let errno = SeccompAction::Errno(libc::ENOSYS as u32);
    let rules = BTreeMap::from([(libc::SYS_clone3, vec![])]);
    SeccompFilter::new(rules, SeccompAction::Allow, errno, std::env::consts::ARCH.try_into()?)?.try_into()
}

/// Flags of `clone` that make namespaces.
const NEW_NAMESPACES: u64 = (libc::CLONE_NEWNS
    | libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET) as u64;

/// Page size and the like, which libraries ask for; the file in /proc that says the same may be closed to us.
const PR_GET_AUXV: u64 = 0x4155_5856;

/// Naming memory regions, which the C library does for its own.
const PR_SET_VMA: u64 = 0x5356_4d41;

/// Allowed whatever the arguments.
const COMMON: &[i64] = &[
    // Descriptors that are open.
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_pread64,
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_lseek,
    libc::SYS_ftruncate,
    libc::SYS_close,
    libc::SYS_fstat,
    libc::SYS_dup,
    libc::SYS_dup3,
    libc::SYS_fsync,
    libc::SYS_fdatasync,
    libc::SYS_sendmsg,
    libc::SYS_recvmsg,
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
    // Memory.
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_brk,
    // Threads.
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
const OLD_FORMS: &[i64] = &[
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
const OLD_FORMS: &[i64] = &[];
