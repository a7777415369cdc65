//! The kernel and how it is set up.

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::path::Path;

use aya::sys::{Stats, enable_stats};

use super::{Check, Outcome};
use crate::probes::{cgroup, raw};

/// The first kernel with ring buffers.
const OLDEST: (u32, u32) = (5, 8);

/// Hooks of a control group at which hbpf attaches: `enum bpf_attach_type` and a name.
const HOOKS: [(u32, &str); 6] =
    [(0, "ingress"), (1, "egress"), (2, "sock_create"), (34, "sock_release"), (10, "connect4"), (11, "connect6")];

pub(super) fn kernel() -> Check {
    let release = read("/proc/sys/kernel/osrelease").unwrap_or_else(|| "unknown".into());
    let detail = format!("Linux {release} on {}", std::env::consts::ARCH);
    match version(&release) {
        Some(version) if version < OLDEST => Check::new("kernel", Outcome::Fail, detail)
            .advise(format!("hbpf needs Linux {}.{} or newer", OLDEST.0, OLDEST.1)),
        Some(_) => Check::new("kernel", Outcome::Ok, detail),
        None => Check::new("kernel", Outcome::Warn, detail),
    }
}

fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|number| number.parse().ok());
    Some((numbers.next()??, numbers.next()??))
}

pub(super) fn btf() -> Check {
    if Path::new("/sys/kernel/btf/vmlinux").exists() {
        return Check::new("BTF", Outcome::Ok, "/sys/kernel/btf/vmlinux");
    }
    Check::new("BTF", Outcome::Warn, "no /sys/kernel/btf/vmlinux").advise("use a kernel with CONFIG_DEBUG_INFO_BTF")
}

pub(super) fn unprivileged_bpf() -> Check {
    let name = "unprivileged BPF";
    match read("/proc/sys/kernel/unprivileged_bpf_disabled").as_deref() {
        Some("0") => Check::new(name, Outcome::Warn, "any user may load BPF programs; hbpf does not need that")
            .advise("sysctl kernel.unprivileged_bpf_disabled=2"),
        Some(_) => Check::new(name, Outcome::Ok, "disabled, as it should be; hbpf does not need it"),
        None => Check::new(name, Outcome::Ok, "not known here; hbpf does not need it"),
    }
}

pub(super) fn tracefs() -> Check {
    let mounted = ["/sys/kernel/tracing/events", "/sys/kernel/debug/tracing/events"];
    let state = if mounted.iter().any(|path| Path::new(path).exists()) { "mounted" } else { "not mounted" };
    Check::new("tracefs", Outcome::Ok, format!("{state}; not needed"))
}

pub(super) fn statistics() -> Check {
    match enable_stats(Stats::RunTime) {
        Ok(_) => Check::new("BPF statistics", Outcome::Ok, "the cost of probes can be measured"),
        Err(error) => {
            Check::new("BPF statistics", Outcome::Warn, format!("the cost of probes is not known: {}", error.io_error))
        }
    }
}

/// Programs of others at the root of cgroup v2. One that does not share keeps ours out.
pub(super) fn others_at_the_root() -> Check {
    let name = "other programs";
    let Ok(root) = cgroup::open_root() else {
        return Check::new(name, Outcome::Warn, "the root of cgroup v2 cannot be opened");
    };
    let names: BTreeMap<u32, String> = aya::programs::loaded_programs()
        .flatten()
        .map(|program| (program.id(), program.name_as_str().unwrap_or_default().to_owned()))
        .collect();
    let (mut shared, mut exclusive) = (Vec::new(), Vec::new());
    for (hook, hook_name) in HOOKS {
        let Ok(attached) = raw::attached(root.fd.as_fd(), hook) else { continue };
        let list = if attached.shared { &mut shared } else { &mut exclusive };
        for id in attached.programs {
            list.push(format!("{hook_name}: {} (id {id})", names.get(&id).map_or("unnamed", String::as_str)));
        }
    }
    if !exclusive.is_empty() {
        let detail = format!("attached to the root of cgroup v2 without sharing it: {}", exclusive.join(", "));
        return Check::new(name, Outcome::Fail, detail).advise(
            "plain HTTP is not seen while they are attached; have their owner attach them with BPF_F_ALLOW_MULTI",
        );
    }
    let detail = if shared.is_empty() {
        "none at the root of cgroup v2".into()
    } else {
        format!("beside ours: {}", shared.join(", "))
    };
    Check::new(name, Outcome::Ok, detail)
}

fn read(path: &str) -> Option<String> {
    std::fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::version;

    #[test]
    fn versions_of_distributions_are_read() {
        assert_eq!(version("6.18.44-fc-v669"), Some((6, 18)));
        assert_eq!(version("5.4.0-150-generic"), Some((5, 4)));
        assert_eq!(version("6.1-rc3"), Some((6, 1)));
        assert_eq!(version("unknown"), None);
    }
}
