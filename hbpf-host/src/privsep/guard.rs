//! What the helper may still do: load and attach probes, and read files.
//!
//! It has capabilities to read what is others', and reads what others have written, so it is held as well: it runs no
//! program, writes no file, mounts, renames and deletes nothing, signals and traces nobody, and talks to nobody over a
//! network. That it writes no file is, beyond this list, because it is an ordinary user whose capabilities are for reading.
//! Landlock is not for it: a process under Landlock may look into no other process.

use nix::libc;

use super::filter::{Argument, ConfineError, Filter};

/// Commands of `bpf` that are needed. Pinning is not among them, nor taking hold of other programs' maps.
const BPF_COMMANDS: &[u64] = &[
    0,  // MAP_CREATE
    1,  // MAP_LOOKUP_ELEM
    2,  // MAP_UPDATE_ELEM
    3,  // MAP_DELETE_ELEM
    4,  // MAP_GET_NEXT_KEY
    5,  // PROG_LOAD
    10, // PROG_TEST_RUN
    11, // PROG_GET_NEXT_ID
    13, // PROG_GET_FD_BY_ID
    15, // OBJ_GET_INFO_BY_FD
    16, // PROG_QUERY
    17, // RAW_TRACEPOINT_OPEN
    18, // BTF_LOAD
    22, // MAP_FREEZE
    25, // MAP_LOOKUP_AND_DELETE_BATCH
    28, // LINK_CREATE
    29, // LINK_UPDATE
    32, // ENABLE_STATS
    34, // LINK_DETACH
    35, // PROG_BIND_MAP
];

/// `PERF_EVENT_IOC_ENABLE`, `_DISABLE`, `_RESET` and `_SET_BPF`.
const PERF_IOCTLS: &[u64] = &[0x2400, 0x2401, 0x2403, 0x4004_2408];

/// `FSCONFIG_CMD_CREATE`: with no parameters set before, the file system itself.
const FSCONFIG_CMD_CREATE: u64 = 6;

/// `KCMP_FILE`: compares descriptors.
const KCMP_FILE: u64 = 0;

/// Holds all threads of this process, present and future, to what the helper needs; with `asks` it may also ask
/// servers on this machine.
pub(super) fn guard(asks: bool) -> Result<(), ConfineError> {
    let mut filter = filter();
    if asks {
        allow_asking(&mut filter);
    }
    filter.install()
}

/// Where to lies in memory, where no filter looks; `helper/ask.rs` sees to it. Nothing can be listened for.
fn allow_asking(filter: &mut Filter) {
    use Argument::{Is, Masked};
    let stream = Masked(1, 0xf, libc::SOCK_STREAM as u64);
    for family in [libc::AF_INET, libc::AF_INET6] {
        filter.allow_if(libc::SYS_socket, &[Is(0, family as u64), stream]);
    }
    filter.allow(&[libc::SYS_bind, libc::SYS_connect]);
    filter.allow_values(libc::SYS_setns, 1, &[libc::CLONE_NEWNET as u64]);
}

/// The same for a process that is going to give up its privileges and to confine itself further.
pub(super) fn guard_leaving() -> Result<(), ConfineError> {
    let mut filter = filter();
    filter.allow(LEAVING);
    let commands = [libc::PR_CAPBSET_DROP, libc::PR_CAP_AMBIENT, libc::PR_SET_NO_NEW_PRIVS, libc::PR_SET_DUMPABLE];
    filter.allow_values(libc::SYS_prctl, 0, &commands.map(|command| command as u64));
    filter.allow_if(libc::SYS_prlimit64, &[Argument::Is(0, 0), Argument::Is(1, u64::from(libc::RLIMIT_CORE))]);
    filter.install()
}

/// Giving up user, groups and capabilities, and putting further filters on.
const LEAVING: &[i64] = &[
    libc::SYS_setgroups,
    libc::SYS_setresgid,
    libc::SYS_setresuid,
    libc::SYS_getresgid,
    libc::SYS_getresuid,
    libc::SYS_capset,
    libc::SYS_seccomp,
    libc::SYS_landlock_create_ruleset,
    libc::SYS_landlock_add_rule,
    libc::SYS_landlock_restrict_self,
];

fn filter() -> Filter {
    use Argument::{Is, Null, Without};
    let mut filter = Filter::common();
    filter.allow(READING);
    filter.allow(OLD_READING);
    let writing = (libc::O_WRONLY | libc::O_RDWR | libc::O_CREAT | libc::O_TRUNC | libc::O_APPEND) as u64;
    filter.allow_if(libc::SYS_openat, &[Without(2, writing)]);
    #[cfg(target_arch = "x86_64")]
    filter.allow_if(libc::SYS_open, &[Without(1, writing)]);
    // Its flags lie in memory, where no filter looks; see above.
    filter.allow(&[libc::SYS_openat2]);
    // Looking at paths, where the common list has open descriptors only.
    filter.allow(&[libc::SYS_newfstatat, libc::SYS_statx]);
    // Probes.
    filter.allow_values(libc::SYS_bpf, 0, BPF_COMMANDS);
    filter.allow(&[libc::SYS_perf_event_open]);
    filter.allow_values(libc::SYS_ioctl, 1, PERF_IOCTLS);
    // The loader library raises the limit on locked memory where kernels before 5.11 demand it; of this process only.
    filter.allow_if(libc::SYS_prlimit64, &[Is(0, 0), Is(1, u64::from(libc::RLIMIT_MEMLOCK))]);
    filter.allow(&[libc::SYS_capget]);
    // Mounts of cgroup v2 and tracefs that nobody sees.
    filter.allow(&[libc::SYS_fsopen, libc::SYS_fsmount]);
    filter.allow_if(libc::SYS_fsconfig, &[Is(1, FSCONFIG_CMD_CREATE), Null(2), Null(3)]);
    filter.allow_values(libc::SYS_setns, 1, &[libc::CLONE_NEWCGROUP as u64]);
    // Whether two descriptors are one opening, of one process.
    filter.allow_if(libc::SYS_kcmp, &[Is(2, KCMP_FILE)]);
    // Whose socket it is: the kernel's diagnosis.
    filter.allow_if(libc::SYS_socket, &[Is(0, libc::AF_NETLINK as u64), Is(2, libc::NETLINK_SOCK_DIAG as u64)]);
    filter
}

/// Looking at files.
const READING: &[i64] = &[
    libc::SYS_readlinkat,
    libc::SYS_getdents64,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_fstatfs,
    libc::SYS_statfs,
    libc::SYS_fadvise64,
    libc::SYS_getcwd,
    libc::SYS_inotify_init1,
    libc::SYS_inotify_add_watch,
    libc::SYS_inotify_rm_watch,
];

/// Older forms that this architecture has besides.
#[cfg(target_arch = "x86_64")]
const OLD_READING: &[i64] = &[libc::SYS_stat, libc::SYS_lstat, libc::SYS_readlink, libc::SYS_access];

/// Older forms that this architecture has besides.
#[cfg(not(target_arch = "x86_64"))]
const OLD_READING: &[i64] = &[];
