//! What files say of the kernel and of this process.

use std::path::Path;

use super::{Check, Status};

/// Oldest kernel with the ring buffer.
const OLDEST: (u32, u32) = (5, 8);
/// Oldest kernel that hbpf was tried on.
const OLDEST_TRIED: (u32, u32) = (5, 10);

/// `linux/capability.h`: what probes need, and what each is needed for.
const CAPABILITIES: [(u32, &str); 4] =
    [(39, "CAP_BPF"), (38, "CAP_PERFMON"), (12, "CAP_NET_ADMIN"), (19, "CAP_SYS_PTRACE")];
/// It stands for the first two.
const SYS_ADMIN: u32 = 21;

/// Where libraries of the NVIDIA driver are found.
const NVML: [&str; 5] = [
    "/usr/lib/x86_64-linux-gnu/libnvidia-ml.so.1",
    "/usr/lib/aarch64-linux-gnu/libnvidia-ml.so.1",
    "/usr/lib64/libnvidia-ml.so.1",
    "/usr/lib/libnvidia-ml.so.1",
    "/usr/local/nvidia/lib64/libnvidia-ml.so.1",
];

/// The file system, as far as it is looked at.
pub(super) trait Look {
    fn read(&self, path: &str) -> Option<String>;
    fn exists(&self, path: &str) -> bool;
}

/// The real one.
pub(super) struct Files;

impl Look for Files {
    fn read(&self, path: &str) -> Option<String> {
        std::fs::read_to_string(path).ok()
    }

    fn exists(&self, path: &str) -> bool {
        Path::new(path).exists()
    }
}

/// All checks that need no probes.
pub(super) fn checks(files: &impl Look) -> Vec<Check> {
    let mut checks = vec![kernel(files), privileges(files), uprobes(files), cgroup(files), btf(files)];
    checks.extend(lockdown(files));
    checks.push(gpu(files));
    checks
}

fn kernel(files: &impl Look) -> Check {
    let release = files.read("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned();
    let detail = format!("Linux {release} {}", std::env::consts::ARCH);
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map_while(|part| part.parse::<u32>().ok());
    match (numbers.next(), numbers.next()) {
        (Some(major), Some(minor)) if (major, minor) < OLDEST => {
            Check::bad(Status::Fail, "kernel", detail, "hbpf needs Linux 5.8 or newer")
        }
        (Some(major), Some(minor)) if (major, minor) < OLDEST_TRIED => {
            Check::bad(Status::Warn, "kernel", detail, "hbpf was tried on Linux 5.10 and newer only")
        }
        (Some(_), Some(_)) => Check::ok("kernel", detail),
        _ => Check::bad(
            Status::Warn,
            "kernel",
            format!("{detail}: version not understood"),
            "check that it is 5.8 or newer",
        ),
    }
}

fn privileges(files: &impl Look) -> Check {
    let status = files.read("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let Some(effective) = line.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()) else {
        return Check::bad(Status::Warn, "privileges", "cannot tell", "run `sudo hbpf doctor`");
    };
    let has = |capability: u32| effective & (1 << capability) != 0;
    let missing = CAPABILITIES.iter().filter(|(capability, _)| {
        let implied = matches!(capability, 38 | 39) && has(SYS_ADMIN);
        !has(*capability) && !implied
    });
    let missing: Vec<&str> = missing.map(|(_, name)| *name).collect();
    if missing.is_empty() {
        Check::ok("privileges", "all that probes need")
    } else {
        Check::bad(
            Status::Fail,
            "privileges",
            format!("without {}", missing.join(", ")),
            "run it as root: `sudo hbpf doctor`, `sudo hbpf top`",
        )
    }
}

fn uprobes(files: &impl Look) -> Check {
    let tracefs = match mounted(files, "tracefs") {
        Some(place) => format!("tracefs at {place}"),
        None => "tracefs not mounted (not needed)".to_owned(),
    };
    if files.exists("/sys/bus/event_source/devices/uprobe/type") {
        Check::ok("uprobes", format!("supported; {tracefs}"))
    } else {
        Check::bad(
            Status::Fail,
            "uprobes",
            format!("the kernel offers none; {tracefs}"),
            "TLS traffic stays unseen: the kernel needs CONFIG_UPROBE_EVENTS",
        )
    }
}

fn cgroup(files: &impl Look) -> Check {
    let known =
        files.read("/proc/filesystems").is_some_and(|list| list.lines().any(|line| line.ends_with("\tcgroup2")));
    match (known, mounted(files, "cgroup2")) {
        (_, Some(place)) => Check::ok("cgroup2", format!("mounted at {place}")),
        (true, None) => Check::ok("cgroup2", "not mounted; hbpf opens it itself"),
        (false, None) => Check::bad(
            Status::Fail,
            "cgroup2",
            "the kernel has none",
            "plain traffic stays unseen: the kernel needs CONFIG_CGROUPS and CONFIG_CGROUP_BPF",
        ),
    }
}

fn btf(files: &impl Look) -> Check {
    if files.exists("/sys/kernel/btf/vmlinux") {
        Check::ok("btf", "/sys/kernel/btf/vmlinux")
    } else {
        let advice = "socket storage may be refused: the kernel needs CONFIG_DEBUG_INFO_BTF";
        Check::bad(Status::Warn, "btf", "the kernel does not describe its types", advice)
    }
}

fn lockdown(files: &impl Look) -> Option<Check> {
    let modes = files.read("/sys/kernel/security/lockdown")?;
    let mode = modes.split('[').nth(1)?.split(']').next()?;
    Some(match mode {
        "confidentiality" => Check::bad(
            Status::Fail,
            "lockdown",
            "confidentiality: BPF programs may not read memory",
            "boot with lockdown=integrity, or without",
        ),
        mode => Check::ok("lockdown", mode),
    })
}

fn gpu(files: &impl Look) -> Check {
    let library = NVML.into_iter().find(|path| files.exists(path));
    match (files.exists("/proc/driver/nvidia/version"), library) {
        (false, _) => Check::ok("gpu", "no NVIDIA driver is loaded"),
        (true, Some(path)) => Check::ok("gpu", path),
        (true, None) => {
            let advice = "install the driver's libnvidia-ml.so.1";
            Check::bad(Status::Warn, "gpu", "the NVIDIA driver is loaded, its library was not found", advice)
        }
    }
}

/// Where a file system of a type is mounted first.
fn mounted(files: &impl Look, kind: &str) -> Option<String> {
    let mounts = files.read("/proc/self/mounts")?;
    let mut lines = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    // The path is escaped by the kernel: no control characters come through.
    lines.find_map(|fields| (fields.get(2) == Some(&kind)).then(|| fields[1].to_owned()))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

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
    fn kernels() {
        let status = |release| kernel(&fake(&[("/proc/sys/kernel/osrelease", release)])).status;
        assert_eq!(status("5.4.0-150-generic\n"), Status::Fail);
        assert_eq!(status("5.8.18\n"), Status::Warn);
        assert_eq!(status("5.10.0-30-amd64\n"), Status::Ok);
        assert_eq!(status("6.18.44-custom\n"), Status::Ok);
        assert_eq!(status("unknown\n"), Status::Warn);
        assert_eq!(kernel(&fake(&[])).status, Status::Warn);
    }

    #[test]
    fn privileges_are_named_where_they_are_missing() {
        let check = |mask| privileges(&fake(&[("/proc/self/status", mask)]));
        assert_eq!(check("Name:\thbpf\nCapEff:\t000001ffffffffff\n").status, Status::Ok);
        let none = check("CapEff:\t0000000000000000\n");
        assert_eq!((none.status, none.detail.contains("CAP_BPF, CAP_PERFMON, CAP_NET_ADMIN")), (Status::Fail, true));
        // CAP_SYS_ADMIN, CAP_SYS_PTRACE and CAP_NET_ADMIN, as before Linux 5.8.
        assert_eq!(check("CapEff:\t0000000000281000\n").status, Status::Ok);
    }

    #[test]
    fn a_bare_kernel_says_what_it_lacks() {
        let checks = checks(&fake(&[("/sys/kernel/security/lockdown", "none integrity [confidentiality]\n")]));
        let failed: Vec<&str> = checks.iter().filter(|c| c.status == Status::Fail).map(|c| c.name.as_str()).collect();
        assert_eq!(failed, ["uprobes", "cgroup2", "lockdown"]);
        assert!(checks.iter().all(|check| (check.status == Status::Ok) == check.advice.is_none()));
    }

    #[test]
    fn mounts_are_found_by_type() {
        let files = fake(&[(
            "/proc/self/mounts",
            "proc /proc proc rw 0 0\ncgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\nx /a tmpfs cgroup2 0 0\n",
        )]);
        assert_eq!(cgroup(&files).detail, "mounted at /sys/fs/cgroup/unified");
        assert_eq!(mounted(&files, "tracefs"), None);
    }
}
