//! What a machine needs before anything can run on it, and its end.

use std::fs;
use std::os::fd::AsRawFd;

use anyhow::{Context, Result, ensure};
use nix::libc;
use nix::mount::{MsFlags, mount};
use nix::sys::reboot::{RebootMode, reboot};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket};

/// File systems that every host has. cgroup v2 and tracefs are not among them: hbpf does without mounts of theirs.
const MOUNTS: [(&str, &str); 4] = [("proc", "/proc"), ("sysfs", "/sys"), ("devtmpfs", "/dev"), ("tmpfs", "/tmp")];

/// The loopback interface of every machine.
const LOOPBACK: i32 = 1;

/// Mounts what every host has mounted, switches loopback on, and says which kernel this is.
pub(crate) fn prepare() -> Result<String> {
    for (kind, place) in MOUNTS {
        fs::create_dir_all(place)?;
        mount(Some(kind), place, Some(kind), MsFlags::empty(), None::<&str>)
            .with_context(|| format!("mounting {place}"))?;
    }
    switch_on(LOOPBACK).context("switching loopback on")?;
    let release = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    Ok(format!("{} {}", release.trim(), std::env::consts::ARCH))
}

/// Whether the kernel was started so that nobody may read its memory, which most programs have to.
pub(crate) fn is_locked_down() -> bool {
    fs::read_to_string("/proc/cmdline").is_ok_and(|options| options.contains("lockdown=confidentiality"))
}

/// Brings a network interface up, by a message as in the kernel's `Documentation/userspace-api/netlink/intro.rst`.
fn switch_on(interface: i32) -> Result<()> {
    const MESSAGE_BYTES: u32 = 32;
    const HEADER_BYTES: usize = 16;
    let netlink = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkRoute)?;
    let mut message = Vec::new();
    // `struct nlmsghdr`
    message.extend(MESSAGE_BYTES.to_ne_bytes());
    message.extend(libc::RTM_NEWLINK.to_ne_bytes());
    message.extend(((libc::NLM_F_REQUEST | libc::NLM_F_ACK) as u16).to_ne_bytes());
    message.extend([0; 8]);
    // `struct ifinfomsg`: of any family and type, this interface, its flag, and that this flag is meant.
    message.extend([0; 4]);
    message.extend(interface.to_ne_bytes());
    message.extend((libc::IFF_UP as u32).to_ne_bytes());
    message.extend((libc::IFF_UP as u32).to_ne_bytes());
    send(netlink.as_raw_fd(), &message, MsgFlags::empty())?;
    let mut answer = [0; 1024];
    let length = recv(netlink.as_raw_fd(), &mut answer, MsgFlags::empty())?;
    // `struct nlmsgerr`, which says 0 where all is well.
    let error = answer[..length].get(HEADER_BYTES..).and_then(|error| error.first_chunk());
    let error = i32::from_ne_bytes(*error.context("the kernel's answer is too short")?);
    ensure!(error == 0, std::io::Error::from_raw_os_error(-error));
    Ok(())
}

/// The end. Whoever started the machine waits for it.
pub(crate) fn switch_off() -> ! {
    // Should the machine have no switch, its first process ends, which ends it as well.
    let _ = reboot(RebootMode::RB_POWER_OFF);
    std::process::exit(0)
}
