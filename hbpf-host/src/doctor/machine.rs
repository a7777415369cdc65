//! The kernel, how it is set up, and what this process may do.

use std::path::Path;

use super::{Check, Outcome};
use crate::privsep::{Capabilities, Purpose};
use crate::protocol::Group;

/// The first kernel with ring buffers.
const OLDEST: (u32, u32) = (5, 8);

/// The oldest kernel that hbpf was tried on.
const OLDEST_TRIED: (u32, u32) = (5, 10);

/// The file system, as far as it is looked at.
pub(super) trait Look {
    fn read(&self, path: &str) -> Option<String>;
    fn exists(&self, path: &str) -> bool;
}

/// The real one.
pub(super) struct Disk;

impl Look for Disk {
    fn read(&self, path: &str) -> Option<String> {
        std::fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
    }

    fn exists(&self, path: &str) -> bool {
        Path::new(path).exists()
    }
}

/// How the kernel is set up.
pub(super) fn checks(files: &impl Look) -> Vec<Check> {
    let mut checks = vec![btf(files)];
    checks.extend(lockdown(files));
    checks.extend([uprobes(files), unprivileged_bpf(files), tracefs(files)]);
    checks
}

pub(super) fn kernel(files: &impl Look) -> Check {
    let release = files.read("/proc/sys/kernel/osrelease").unwrap_or_else(|| "unknown".into());
    let detail = format!("Linux {release} on {}", std::env::consts::ARCH);
    let needed = format!("hbpf needs Linux {}.{} or newer", OLDEST.0, OLDEST.1);
    match version(&release) {
        Some(version) if version < OLDEST => Check::new("kernel", Outcome::Fail, detail).advise(needed),
        Some(version) if version < OLDEST_TRIED => Check::new("kernel", Outcome::Warn, detail)
            .advise(format!("hbpf was tried on Linux {}.{} and newer only", OLDEST_TRIED.0, OLDEST_TRIED.1)),
        Some(_) => Check::new("kernel", Outcome::Ok, detail),
        None => Check::new("kernel", Outcome::Warn, detail).advise(needed),
    }
}

fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|number| number.parse().ok());
    Some((numbers.next()??, numbers.next()??))
}

pub(super) fn privileges(held: Option<Capabilities>) -> Check {
    const NAME: &str = "privileges";
    const ADVICE: &str = "sudo hbpf doctor; docs/security.md says how to do with less than root";
    let Some(held) = held else {
        return Check::new(NAME, Outcome::Fail, "the kernel does not say what this process may do").advise(ADVICE);
    };
    let mut lost = Vec::new();
    for group in Group::ALL {
        let missing = held.missing(Purpose::Probes(group));
        if !missing.is_empty() {
            lost.push(format!("without {} no {}", missing.join(", "), group.name()));
        }
    }
    let outcome = if lost.is_empty() { Outcome::Warn } else { Outcome::Fail };
    let others = [
        (Purpose::OtherUsers, "not all that processes of other users hold is seen"),
        (Purpose::OtherNetworks, "inference servers in containers are not asked"),
        (Purpose::RunTimes, "what probes cost is not known"),
    ];
    for (purpose, consequence) in others {
        let missing = held.missing(purpose);
        if !missing.is_empty() {
            lost.push(format!("without {} {consequence}", missing.join(", ")));
        }
    }
    match lost.as_slice() {
        [] => Check::new(NAME, Outcome::Ok, "all that hbpf has a use for"),
        lost => Check::new(NAME, outcome, lost.join("; ")).advise(ADVICE),
    }
}

fn btf(files: &impl Look) -> Check {
    let path = "/sys/kernel/btf/vmlinux";
    if files.exists(path) {
        return Check::new("BTF", Outcome::Ok, path);
    }
    Check::new("BTF", Outcome::Warn, format!("no {path}; socket storage may be refused"))
        .advise("use a kernel with CONFIG_DEBUG_INFO_BTF")
}

fn lockdown(files: &impl Look) -> Option<Check> {
    let modes = files.read("/sys/kernel/security/lockdown")?;
    let mode = modes.split('[').nth(1)?.split(']').next()?;
    Some(match mode {
        "confidentiality" => Check::new("lockdown", Outcome::Fail, "confidentiality: BPF programs may not read memory")
            .advise("boot with lockdown=integrity, or without"),
        mode => Check::new("lockdown", Outcome::Ok, mode),
    })
}

fn uprobes(files: &impl Look) -> Check {
    if files.exists("/sys/bus/event_source/devices/uprobe/type") {
        return Check::new("uprobes", Outcome::Ok, "the kernel offers them");
    }
    Check::new("uprobes", Outcome::Fail, "the kernel offers none, so TLS traffic stays unseen")
        .advise("use a kernel with CONFIG_UPROBE_EVENTS")
}

fn unprivileged_bpf(files: &impl Look) -> Check {
    let name = "unprivileged BPF";
    match files.read("/proc/sys/kernel/unprivileged_bpf_disabled").as_deref() {
        Some("0") => Check::new(name, Outcome::Warn, "any user may load BPF programs; hbpf does not need that")
            .advise("sysctl kernel.unprivileged_bpf_disabled=2"),
        Some(_) => Check::new(name, Outcome::Ok, "disabled, as it should be; hbpf does not need it"),
        None => Check::new(name, Outcome::Ok, "not known here; hbpf does not need it"),
    }
}

fn tracefs(files: &impl Look) -> Check {
    let detail = match mounted(files, "tracefs") {
        Some(place) => format!("mounted at {place}; not needed"),
        None => "not mounted; not needed".into(),
    };
    Check::new("tracefs", Outcome::Ok, detail)
}

/// Where a file system of a type is mounted first.
fn mounted(files: &impl Look, kind: &str) -> Option<String> {
    let mounts = files.read("/proc/self/mounts")?;
    let mut lines = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    lines.find_map(|fields| (fields.get(2) == Some(&kind)).then(|| fields[1].to_owned()))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::privsep::Capability;

    struct Fake(BTreeMap<&'static str, &'static str>);

    impl Look for Fake {
        fn read(&self, path: &str) -> Option<String> {
            self.0.get(path).map(|text| (*text).to_owned())
        }

        fn exists(&self, path: &str) -> bool {
            self.0.contains_key(path)
        }
    }

    fn fake(files: &[(&'static str, &'static str)]) -> Fake {
        Fake(files.iter().copied().collect())
    }

    #[test]
    fn versions_of_distributions_are_read() {
        assert_eq!(version("6.18.44-fc-v669"), Some((6, 18)));
        assert_eq!(version("5.4.0-150-generic"), Some((5, 4)));
        assert_eq!(version("6.1-rc3"), Some((6, 1)));
        assert_eq!(version("unknown"), None);
    }

    #[test]
    fn old_kernels_are_refused_and_untried_ones_pointed_out() {
        let outcome = |release| kernel(&fake(&[("/proc/sys/kernel/osrelease", release)])).outcome;
        assert_eq!(outcome("5.4.0-150-generic"), Outcome::Fail);
        assert_eq!(outcome("5.8.18"), Outcome::Warn);
        assert_eq!(outcome("5.10.0-30-amd64"), Outcome::Ok);
        assert_eq!(outcome("6.18.44-custom"), Outcome::Ok);
        assert_eq!(kernel(&fake(&[])).outcome, Outcome::Warn);
    }

    #[test]
    fn a_bare_kernel_says_what_it_lacks() {
        let checks = checks(&fake(&[("/sys/kernel/security/lockdown", "none integrity [confidentiality]")]));
        let outcomes: Vec<_> = checks.iter().map(|check| (check.name, check.outcome)).collect();
        assert_eq!(
            outcomes,
            [
                ("BTF", Outcome::Warn),
                ("lockdown", Outcome::Fail),
                ("uprobes", Outcome::Fail),
                ("unprivileged BPF", Outcome::Ok),
                ("tracefs", Outcome::Ok)
            ]
        );
        assert!(checks.iter().all(|check| (check.outcome == Outcome::Ok) == check.advice.is_none()));
    }

    #[test]
    fn missing_privileges_are_named() {
        let with = |effective: &[Capability]| privileges(Some(Capabilities::with(effective, true)));
        assert_eq!(privileges(Some(Capabilities::all())).outcome, Outcome::Ok);
        let none = with(&[]);
        assert_eq!(none.outcome, Outcome::Fail);
        assert!(none.detail.contains("without CAP_BPF, CAP_PERFMON, CAP_NET_ADMIN no llm-plain"), "{none:?}");
        // Both, as before Linux 5.8.
        let no_ptrace = with(&[Capability::SysAdmin, Capability::NetAdmin]);
        assert_eq!(no_ptrace.outcome, Outcome::Warn);
        assert!(no_ptrace.detail.starts_with("without CAP_SYS_PTRACE, CAP_DAC_READ_SEARCH not all"), "{no_ptrace:?}");
        // What there is instead of CAP_SYS_ADMIN is enough for one group only, on kernels that ask for more.
        let no_admin = with(&[Capability::Bpf, Capability::Perfmon, Capability::NetAdmin]);
        assert_eq!(no_admin.outcome, Outcome::Fail);
        assert!(no_admin.detail.starts_with("without CAP_SYS_ADMIN no llm-tls; "), "{no_admin:?}");
        assert_eq!(privileges(None).outcome, Outcome::Fail);
    }

    #[test]
    fn mounts_are_found_by_type() {
        let mounts = "proc /proc proc rw 0 0\ntracefs /sys/kernel/tracing tracefs rw 0 0\nx /a tmpfs cgroup2 0 0";
        let files = fake(&[("/proc/self/mounts", mounts)]);
        assert_eq!(mounted(&files, "tracefs").as_deref(), Some("/sys/kernel/tracing"));
        assert_eq!(mounted(&files, "cgroup2"), None);
        assert_eq!(tracefs(&files).detail, "mounted at /sys/kernel/tracing; not needed");
    }
}
