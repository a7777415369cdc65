//! The root of cgroup v2, at which plain traffic is seen, and who else is there.

use std::collections::BTreeMap;
use std::os::fd::AsFd;

use super::{Check, Outcome};
use crate::probes::cgroup::{self, CgroupError};
use crate::probes::on_cgroup;
use crate::probes::raw::{self, Attached};

/// Hooks of a control group at which hbpf attaches: `enum bpf_attach_type` and a name.
const HOOKS: [(u32, &str); 8] = [
    (0, "ingress"),
    (1, "egress"),
    (2, "sock_create"),
    (34, "sock_release"),
    (10, "connect4"),
    (11, "connect6"),
    (3, "sock_ops"),
    (6, "device"),
];

const NAME: &str = "cgroup v2";

/// Whether the host's root can be had, proven by opening it.
pub(super) fn reach(may_probe: bool) -> Check {
    judge_reach(cgroup::open_root().map(|root| root.place.to_string()), may_probe, is_known_to_kernel())
}

fn judge_reach(root: Result<String, CgroupError>, may_probe: bool, is_known: bool) -> Check {
    match root {
        Ok(place) => Check::new(NAME, Outcome::Ok, format!("the host's root: {place}")),
        Err(CgroupError::Unavailable(_)) if !is_known => {
            Check::new(NAME, Outcome::Fail, "the kernel has none, so plain HTTP stays unseen")
                .advise("use a kernel with CONFIG_CGROUPS and CONFIG_CGROUP_BPF")
        }
        Err(CgroupError::Unavailable(_)) if !may_probe => {
            Check::new(NAME, Outcome::Warn, "the host's root is not mounted where it is seen; opening it needs root")
                .advise("sudo hbpf doctor")
        }
        Err(error @ CgroupError::Unavailable(_)) => Check::new(NAME, Outcome::Fail, error.to_string())
            .advise("plain HTTP is not seen without it; boot with systemd.unified_cgroup_hierarchy=1"),
        // It says itself what mends it.
        Err(error @ CgroupError::NotRoot) => Check::new(NAME, Outcome::Fail, error.to_string()),
    }
}

fn is_known_to_kernel() -> bool {
    // Where the list cannot be read, the error of opening the root says more.
    std::fs::read_to_string("/proc/filesystems")
        .map_or(true, |list| list.lines().any(|line| line.ends_with("\tcgroup2")))
}

/// Programs of others at the root. One that does not share keeps ours out.
pub(super) fn others() -> Check {
    let Ok(root) = cgroup::open_root() else {
        return judge_others(&[], &BTreeMap::new());
    };
    let names = aya::programs::loaded_programs()
        .flatten()
        .map(|program| (program.id(), program.name_as_str().unwrap_or_default().to_owned()))
        .collect();
    let ask = |(hook, name)| raw::attached(root.fd.as_fd(), hook).ok().map(|attached| (name, attached));
    judge_others(&HOOKS.into_iter().filter_map(ask).collect::<Vec<_>>(), &names)
}

fn judge_others(hooks: &[(&str, Attached)], names: &BTreeMap<u32, String>) -> Check {
    const NAME: &str = "other programs";
    let name = |id| names.get(id).filter(|name| !name.is_empty()).map_or("unnamed", String::as_str);
    let (mut sharing, mut exclusive, mut ours) = (Vec::new(), Vec::new(), 0);
    for (hook, attached) in hooks {
        for id in &attached.programs {
            let text = format!("{hook} {} (id {id})", name(id));
            match attached.shared {
                false => exclusive.push(text),
                true if on_cgroup::is_ours(name(id)) => ours += 1,
                true => sharing.push(text),
            }
        }
    }
    if !exclusive.is_empty() {
        let list = exclusive.join(", ");
        let detail = format!("attached to the root of cgroup v2 without letting others beside them: {list}");
        return Check::new(NAME, Outcome::Fail, detail).advise(
            "plain HTTP is not seen while they are attached; have their owner attach them with BPF_F_ALLOW_MULTI",
        );
    }
    if ours > 0 {
        sharing.push(format!("{ours} of an hbpf that runs now"));
    }
    let detail = match sharing.as_slice() {
        [] => "none at the root of cgroup v2".into(),
        list => format!("at the root of cgroup v2, letting others beside them: {}", list.join(", ")),
    };
    Check::new(NAME, Outcome::Ok, detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_does_not_share_the_root_is_named() {
        let names = BTreeMap::from([(7, "meter".to_owned()), (8, String::new())]);
        let at = |programs: &[u32], shared| Attached { programs: programs.to_vec(), shared };
        assert_eq!(judge_others(&[], &names).detail, "none at the root of cgroup v2");
        // The kernel says of a hook without programs that it is not shared.
        assert_eq!(judge_others(&[("egress", at(&[], false))], &names).outcome, Outcome::Ok);
        let shared = judge_others(&[("egress", at(&[7, 8], true))], &names);
        assert_eq!(shared.outcome, Outcome::Ok);
        assert!(shared.detail.ends_with("egress meter (id 7), egress unnamed (id 8)"), "{shared:?}");
        let names = BTreeMap::from([(7, "tcp_egress".to_owned()), (8, "meter".to_owned())]);
        let own = judge_others(&[("egress", at(&[7, 8], true)), ("ingress", at(&[7], true))], &names);
        assert!(own.detail.ends_with(": egress meter (id 8), 2 of an hbpf that runs now"), "{own:?}");
        let both = judge_others(&[("egress", at(&[8], true)), ("connect4", at(&[7], false))], &names);
        assert_eq!(both.outcome, Outcome::Fail);
        assert!(both.detail.ends_with(": connect4 tcp_egress (id 7)") && both.advice.is_some(), "{both:?}");
    }

    #[test]
    fn an_unreachable_root_says_whether_kernel_privileges_or_place_are_at_fault() {
        let refused = || Err(CgroupError::Unavailable(std::io::ErrorKind::PermissionDenied.into()));
        assert_eq!(judge_reach(Ok("/sys/fs/cgroup".into()), true, true).outcome, Outcome::Ok);
        assert_eq!(judge_reach(refused(), true, true).outcome, Outcome::Fail);
        assert_eq!(judge_reach(refused(), false, true).outcome, Outcome::Warn);
        assert_eq!(judge_reach(refused(), false, false).outcome, Outcome::Fail);
        assert!(judge_reach(Err(CgroupError::NotRoot), true, true).detail.contains("run hbpf on the host"));
    }
}
