//! What held processes must not be able to do, tried.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixDatagram;
use std::process::Command;

use nix::errno::Errno;
use nix::libc;

/// Tries a system call; its name if it is allowed after all. Whatever is not on a list gives EPERM.
fn tried(name: &'static str, number: i64, arguments: [i64; 5]) -> Option<&'static str> {
    let [a, b, c, d, e] = arguments;
    // SAFETY: every pointer among the arguments is null or a literal that lives for ever; a call that is allowed after all
    // fails for its arguments or makes a descriptor that nobody uses.
    let result = Errno::result(unsafe { libc::syscall(number, a, b, c, d, e) });
    (result != Err(Errno::EPERM)).then_some(name)
}

/// What neither process may do.
fn allowed_to_both() -> Vec<&'static str> {
    let path = c"/proc/self/status".as_ptr() as i64;
    let program = c"/bin/true".as_ptr() as i64;
    let at = i64::from(libc::AT_FDCWD);
    let inet = i64::from(libc::AF_INET);
    let stream = i64::from(libc::SOCK_STREAM);
    let writing = i64::from(libc::O_WRONLY | libc::O_CREAT);
    let executable = i64::from(libc::PROT_READ | libc::PROT_EXEC);
    let writable_too = executable | i64::from(libc::PROT_WRITE);
    let anonymous = i64::from(libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    let child = i64::from(libc::SIGCHLD);
    // SAFETY: the parent's id has no preconditions.
    let other = i64::from(unsafe { libc::getppid() });
    let own = i64::from(std::process::id());
    let limit = libc::RLIMIT_NOFILE as i64;
    let mut list = vec![
        tried("openat for writing", libc::SYS_openat, [at, path, writing, 0o600, 0]),
        tried("unlinkat", libc::SYS_unlinkat, [at, path, 0, 0, 0]),
        tried("renameat2", libc::SYS_renameat2, [at, path, at, path, 0]),
        tried("mkdirat", libc::SYS_mkdirat, [at, path, 0, 0, 0]),
        tried("symlinkat", libc::SYS_symlinkat, [path, at, path, 0, 0]),
        tried("fchmodat", libc::SYS_fchmodat, [at, path, 0, 0, 0]),
        tried("truncate", libc::SYS_truncate, [path, 0, 0, 0, 0]),
        tried("mount", libc::SYS_mount, [path, path, path, 0, 0]),
        tried("chroot", libc::SYS_chroot, [path, 0, 0, 0, 0]),
        tried("execve", libc::SYS_execve, [program, 0, 0, 0, 0]),
        tried("execveat", libc::SYS_execveat, [at, program, 0, 0, 0]),
        tried("clone a process", libc::SYS_clone, [child, 0, 0, 0, 0]),
        tried("clone a namespace", libc::SYS_clone, [i64::from(libc::CLONE_THREAD | libc::CLONE_NEWNS), 0, 0, 0, 0]),
        tried("unshare", libc::SYS_unshare, [0, 0, 0, 0, 0]),
        tried("memfd_create", libc::SYS_memfd_create, [path, 0, 0, 0, 0]),
        tried("mmap executable", libc::SYS_mmap, [0, 4096, executable, anonymous, -1]),
        tried("mmap writable and executable", libc::SYS_mmap, [0, 4096, writable_too, anonymous, -1]),
        tried("mprotect executable", libc::SYS_mprotect, [0, 4096, executable, 0, 0]),
        tried("pkey_mprotect", libc::SYS_pkey_mprotect, [0, 4096, executable, -1, 0]),
        tried("shmat", libc::SYS_shmat, [0, 0, 0, 0, 0]),
        tried("personality", libc::SYS_personality, [0xffff_ffff, 0, 0, 0, 0]),
        tried("socket", libc::SYS_socket, [inet, stream, 0, 0, 0]),
        tried("socket unix", libc::SYS_socket, [i64::from(libc::AF_UNIX), stream, 0, 0, 0]),
        tried("socket packet", libc::SYS_socket, [i64::from(libc::AF_PACKET), stream, 0, 0, 0]),
        tried("connect", libc::SYS_connect, [0, 0, 0, 0, 0]),
        tried("listen", libc::SYS_listen, [0, 0, 0, 0, 0]),
        tried("ptrace", libc::SYS_ptrace, [0, 0, 0, 0, 0]),
        tried("process_vm_readv", libc::SYS_process_vm_readv, [other, 0, 0, 0, 0]),
        tried("process_vm_writev", libc::SYS_process_vm_writev, [other, 0, 0, 0, 0]),
        tried("kill", libc::SYS_kill, [other, 0, 0, 0, 0]),
        tried("kill itself", libc::SYS_kill, [own, 0, 0, 0, 0]),
        tried("tkill", libc::SYS_tkill, [other, 0, 0, 0, 0]),
        tried("tgkill", libc::SYS_tgkill, [other, other, 0, 0, 0]),
        tried("pidfd_send_signal", libc::SYS_pidfd_send_signal, [0, 0, 0, 0, 0]),
        tried("rt_sigqueueinfo", libc::SYS_rt_sigqueueinfo, [other, 0, 0, 0, 0]),
        tried("fcntl F_SETOWN", libc::SYS_fcntl, [0, i64::from(libc::F_SETOWN), other, 0, 0]),
        tried("fcntl F_SETSIG", libc::SYS_fcntl, [0, 10, 9, 0, 0]),
        tried("fcntl F_SETLEASE", libc::SYS_fcntl, [0, i64::from(libc::F_SETLEASE), 0, 0, 0]),
        tried("ioctl TIOCSTI", libc::SYS_ioctl, [0, libc::TIOCSTI as i64, c"x".as_ptr() as i64, 0, 0]),
        tried("ioctl TIOCLINUX", libc::SYS_ioctl, [0, 0x541c, path, 0, 0]),
        tried("prctl dumpable", libc::SYS_prctl, [i64::from(libc::PR_SET_DUMPABLE), 1, 0, 0, 0]),
        tried("prlimit of another", libc::SYS_prlimit64, [other, limit, 0, 0, 0]),
        tried("setting a limit", libc::SYS_prlimit64, [0, limit, path, 0, 0]),
        tried("capset", libc::SYS_capset, [0, 0, 0, 0, 0]),
        tried("setuid", libc::SYS_setuid, [0, 0, 0, 0, 0]),
        tried("seccomp", libc::SYS_seccomp, [0, 0, 0, 0, 0]),
        tried("bpf pinning", libc::SYS_bpf, [6, 0, 0, 0, 0]),
        tried("keyctl", libc::SYS_keyctl, [0, 0, 0, 0, 0]),
        tried("userfaultfd", libc::SYS_userfaultfd, [0, 0, 0, 0, 0]),
        tried("io_uring_setup", libc::SYS_io_uring_setup, [1, 0, 0, 0, 0]),
        tried("init_module", libc::SYS_init_module, [0, 0, 0, 0, 0]),
        tried("reboot", libc::SYS_reboot, [0, 0, 0, 0, 0]),
    ];
    list.push(Command::new("/bin/true").spawn().is_ok().then_some("running a program"));
    list.push(std::fs::write("/tmp/hbpf-must-not-be-there", "").is_ok().then_some("writing a file"));
    list.push(TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], 22))).is_ok().then_some("connecting"));
    list.push(TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).is_ok().then_some("listening"));
    list.push(UnixDatagram::unbound().is_ok().then_some("a socket"));
    list.into_iter().flatten().collect()
}

/// What the unprivileged side must not be able to do, but can.
pub(crate) fn allowed_to_parser() -> Vec<&'static str> {
    let (unix, datagrams) = (i64::from(libc::AF_UNIX), i64::from(libc::SOCK_DGRAM));
    let path = c"/proc/self/status".as_ptr() as i64;
    let at = i64::from(libc::AT_FDCWD);
    let stream = i64::from(libc::SOCK_STREAM);
    let mut list = allowed_to_both();
    let more = [
        tried("openat", libc::SYS_openat, [at, path, 0, 0, 0]),
        tried("openat2", libc::SYS_openat2, [at, path, 0, 0, 0]),
        tried("inotify_init1", libc::SYS_inotify_init1, [0, 0, 0, 0, 0]),
        tried("statx of a path", libc::SYS_statx, [at, path, 0, 0, 0]),
        tried("readlinkat", libc::SYS_readlinkat, [at, path, 0, 0, 0]),
        tried("getdents64", libc::SYS_getdents64, [0, 0, 0, 0, 0]),
        tried("socketpair", libc::SYS_socketpair, [i64::from(libc::AF_INET), stream, 0, 0, 0]),
        tried("socketpair of datagrams", libc::SYS_socketpair, [unix, datagrams, 0, 0, 0]),
        tried("sendto an address", libc::SYS_sendto, [0, 0, 0, 0, path]),
        tried("bind", libc::SYS_bind, [0, 0, 0, 0, 0]),
        tried("bpf", libc::SYS_bpf, [0, 0, 0, 0, 0]),
        tried("perf_event_open", libc::SYS_perf_event_open, [0, 0, 0, 0, 0]),
        tried("setns", libc::SYS_setns, [0, 0, 0, 0, 0]),
        tried("pidfd_open", libc::SYS_pidfd_open, [1, 0, 0, 0, 0]),
        tried("pidfd_getfd", libc::SYS_pidfd_getfd, [0, 0, 0, 0, 0]),
        std::fs::read("/proc/version").is_ok().then_some("reading a file"),
        std::fs::read_dir("/").is_ok().then_some("reading a directory"),
    ];
    list.extend(more.into_iter().flatten());
    list
}

/// What the helper must not be able to do, but can.
pub(crate) fn allowed_to_helper() -> Vec<&'static str> {
    let raw = i64::from(libc::SOCK_RAW);
    let mut list = allowed_to_both();
    let more = [
        tried("setns of mounts", libc::SYS_setns, [0, i64::from(libc::CLONE_NEWNS), 0, 0, 0]),
        tried("setns of the network", libc::SYS_setns, [0, i64::from(libc::CLONE_NEWNET), 0, 0, 0]),
        tried("socket for routes", libc::SYS_socket, [i64::from(libc::AF_NETLINK), raw, 0, 0, 0]),
        tried("bind", libc::SYS_bind, [0, 0, 0, 0, 0]),
        tried("setsockopt", libc::SYS_setsockopt, [0, 0, 0, 0, 0]),
        tried("pidfd_open", libc::SYS_pidfd_open, [1, 0, 0, 0, 0]),
        tried("pidfd_getfd", libc::SYS_pidfd_getfd, [0, 0, 0, 0, 0]),
        tried("sched_setaffinity", libc::SYS_sched_setaffinity, [0, 0, 0, 0, 0]),
        tried("bpf taking another's map", libc::SYS_bpf, [14, 0, 0, 0, 0]),
        tried("fsconfig with a parameter", libc::SYS_fsconfig, [0, 1, c"x".as_ptr() as i64, 0, 0]),
        tried("move_mount", libc::SYS_move_mount, [0, 0, 0, 0, 0]),
        tried("open_tree", libc::SYS_open_tree, [0, 0, 0, 0, 0]),
        openat2_for_writing().then_some("openat2 for writing a file of root's"),
        // What it is there for must not be on the list.
        std::fs::read("/proc/version").is_err().then_some("NOT reading a file"),
    ];
    list.extend(more.into_iter().flatten());
    list
}

/// Its flags are out of a filter's sight, so it is who the helper is that must keep it from this.
fn openat2_for_writing() -> bool {
    use nix::fcntl::{AT_FDCWD, OFlag, OpenHow, openat2};
    // There on every Linux, and root's.
    openat2(AT_FDCWD, "/proc/sys/kernel/hostname", OpenHow::new().flags(OFlag::O_WRONLY)).is_ok()
}
