//! What each process may do, and what it takes to do its work.

use crate::driver::Talker;
use crate::kernel::{held_by, status};
use crate::tests::{Test, for_all, plain_server, request, secure_server, tls_user};

pub(crate) const ALL: &[Test] = &[
    ("the_other_side_is_confined", the_other_side_is_confined),
    ("the_other_side_is_preferred_unless_it_was_told_otherwise", the_other_side_is_preferred),
    ("the_helper_is_held_to_what_it_needs", the_helper_is_held_to_what_it_needs),
    ("nonsense_does_not_move_the_helper", nonsense_does_not_move_the_helper),
    ("without_privileges_samples_are_taken_and_attaching_says_what_mends_it", without_privileges),
    ("three_capabilities_are_enough_for_plain_traffic", three_capabilities_are_enough_for_plain_traffic),
    ("six_capabilities_are_enough_for_everything", six_capabilities_are_enough_for_everything),
    ("libraries_are_probed_without_the_right_to_administer", libraries_are_probed_without_sys_admin),
    ("a_group_that_lacks_privileges_does_not_keep_another_out", a_group_that_lacks_privileges),
    ("the_doctor_tries_everything_and_is_confined_then", the_doctor_tries_everything),
    ("the_doctor_says_what_is_missing", the_doctor_says_what_is_missing),
];

/// Capabilities by their numbers, as the kernel counts them.
const DAC_READ_SEARCH: u64 = 2;
const NET_ADMIN: u64 = 12;
const SYS_PTRACE: u64 = 19;
const SYS_ADMIN: u64 = 21;
const PERFMON: u64 = 38;
const BPF: u64 = 39;
const CHECKPOINT_RESTORE: u64 = 40;

const NONE: &str = "0000000000000000";

fn sets(pid: u32) -> [String; 5] {
    ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"].map(|set| status(pid, set))
}

fn mask(capabilities: &[u64]) -> String {
    format!("{:016x}", capabilities.iter().fold(0_u64, |mask, capability| mask | 1 << capability))
}

/// The process under test as an ordinary user with these capabilities, and its helper.
fn user_with(capabilities: &[u64]) -> (Talker, u32) {
    let list: Vec<String> = capabilities.iter().map(u64::to_string).collect();
    let mut subject = Talker::subject(&[&format!("with={}", list.join(","))]);
    let helper = subject.expect_start("helper ").parse().unwrap();
    (subject, helper)
}

/// Attaches, and all that was not all right meanwhile.
fn attach(subject: &mut Talker, groups: &str) -> Vec<String> {
    subject.tell(&format!("attach {groups}"));
    subject.tell("sample 1");
    subject.expect_start("sample-end 1");
    let trouble = |line: &&String| line.starts_with("error") || line.starts_with("probe-failed");
    subject.said().iter().filter(trouble).cloned().collect()
}

fn the_other_side_is_confined() {
    let mut subject = Talker::subject(&["confined"]);
    let helper: u32 = subject.expect_start("helper ").parse().unwrap();
    assert_eq!(subject.expect_start("landlock "), landlock_of_this_kernel());
    assert_eq!(subject.expect_start("allowed "), "[]", "a confined process can do this");
    assert_eq!(subject.expect_start("thread "), "42");
    let pid = subject.pid();
    for (key, wanted) in [("NoNewPrivs", "1"), ("Seccomp", "2"), ("Groups", "")] {
        assert_eq!(status(pid, key), wanted, "{key}");
    }
    assert_eq!(sets(pid), [NONE; 5]);
    for ids in ["Uid", "Gid"] {
        let ids = status(pid, ids);
        assert!(ids.split(' ').all(|id| id != "0"), "{ids}");
    }
    // It still does its work: the ring is mapped and read after all of that.
    subject.tell("attach all");
    subject.expect_start("ring");
    subject.tell("sample 3");
    subject.expect_start("sample-end 3");
    // (Not before: on its way to being another user it has none for a moment.)
    assert_ne!(status(helper, "CapEff"), NONE, "the helper keeps its privileges");
    for process in [pid, helper] {
        let limits = std::fs::read_to_string(format!("/proc/{process}/limits")).unwrap();
        let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
        assert_eq!(core.split_whitespace().skip(4).take(2).collect::<Vec<_>>(), ["0", "0"], "{core}");
    }
}

fn the_other_side_is_preferred() {
    // SAFETY: the call touches no memory.
    let niceness = |pid: u32| unsafe { nix::libc::getpriority(nix::libc::PRIO_PROCESS, pid) };
    for (options, wanted) in [(&["nice=0"][..], -10), (&["nice=5"], 5), (&["nice=0", "with=39"], 0)] {
        let mut subject = Talker::subject(options);
        let helper: u32 = subject.expect_start("helper ").parse().unwrap();
        subject.tell("sample 1");
        subject.expect_start("sample-end 1");
        assert_eq!(niceness(subject.pid()), wanted, "{options:?}");
        assert_eq!(niceness(helper), wanted.max(0), "{options:?}");
    }
}

/// What Landlock is asked for came with ABI 6.
fn landlock_of_this_kernel() -> &'static str {
    const VERSION: u64 = 1;
    // SAFETY: asking for the version takes no attributes.
    let abi = unsafe { nix::libc::syscall(nix::libc::SYS_landlock_create_ruleset, 0, 0, VERSION) };
    match abi {
        6.. => "Whole",
        1.. => "Part",
        _ => "Absent",
    }
}

fn the_helper_is_held_to_what_it_needs() {
    let mut held = Talker::subject(&["held"]);
    assert_eq!(held.expect_start("allowed "), "[]", "the helper can do this");
    // What asking inference servers takes, and no more: nothing can be listened for.
    let mut dialing = Talker::subject(&["held", "engines"]);
    let allowed = dialing.expect_start("allowed ");
    assert_eq!(allowed.replace(", \"connecting\"", ""), r#"["socket", "connect", "setns of the network", "bind"]"#);
    let mut subject = Talker::subject(&[]);
    let helper: u32 = subject.expect_start("helper ").parse().unwrap();
    // It answers when it has begun, and it begins with this.
    subject.tell("sample 1");
    subject.expect_start("sample-end 1");
    let needed = [DAC_READ_SEARCH, NET_ADMIN, SYS_PTRACE, SYS_ADMIN, PERFMON, BPF, CHECKPOINT_RESTORE];
    for pid in [held.pid(), helper] {
        let [inherited, permitted, effective, bounding, ambient] = sets(pid);
        assert_eq!([permitted, effective], [mask(&needed), mask(&needed)]);
        assert_eq!([inherited, bounding, ambient], [NONE; 3]);
        assert!(status(pid, "Uid").split(' ').all(|id| id != "0"));
        assert_eq!((status(pid, "NoNewPrivs").as_str(), status(pid, "Seccomp").as_str()), ("1", "2"));
    }
}

fn nonsense_does_not_move_the_helper() {
    for seed in ["1", "2", "3"] {
        let mut subject = Talker::subject(&[&format!("hostile={seed}")]);
        let helper: u32 = subject.expect_start("helper ").parse().unwrap();
        subject.expect("an answer at the end", |line| line == "still answering");
        let said = subject.said();
        assert!(said.iter().any(|line| line.contains("could not be understood")), "nothing was refused: {said:#?}");
        assert!(said.iter().all(|line| !line.chars().any(char::is_control)), "{said:?}");
        assert_eq!(held_by(helper), Default::default(), "nothing was to be attached");
        let open = std::fs::read_dir(format!("/proc/{helper}/fd")).unwrap().count();
        assert!(open < 20, "{open} descriptors are open");
        let resident: u64 = status(helper, "VmRSS").split(' ').next().unwrap().parse().unwrap();
        assert!(resident < 64 << 10, "it takes {resident} KiB");
    }
}

fn without_privileges() {
    let mut subject = Talker::subject(&["unprivileged"]);
    subject.tell("attach all");
    let error = subject.expect_start("error llm-plain:");
    for part in ["CAP_BPF", "CAP_PERFMON", "CAP_NET_ADMIN", "sudo hbpf"] {
        assert!(error.contains(part), "{error}");
    }
    subject.tell("sample 5");
    subject.expect_start("sample-end 5");
}

fn three_capabilities_are_enough_for_plain_traffic() {
    let needed = [NET_ADMIN, PERFMON, BPF];
    let (_server, port) = plain_server();
    let (mut subject, helper) = user_with(&needed);
    assert_eq!(attach(&mut subject, "plain"), [""; 0]);
    assert_eq!(sets(helper)[2], mask(&needed));
    let [inherited, permitted, effective, _, ambient] = sets(subject.pid());
    assert_eq!([inherited, permitted, effective, ambient], [NONE; 4]);
    let mut client = Talker::python("peer.py", &["client"]);
    request(&mut client, "http", &port, 100);
    for_all(&mut subject, &[("record tcp kind=1 direction=0".into(), "POST /v1/chat/completions".into())]);
}

fn six_capabilities_are_enough_for_everything() {
    let needed = [DAC_READ_SEARCH, NET_ADMIN, SYS_PTRACE, SYS_ADMIN, PERFMON, BPF];
    let (_folder, _server, port) = secure_server();
    // Another user's process: ours is root's.
    let mut client = tls_user();
    let (mut subject, helper) = user_with(&needed);
    assert_eq!(attach(&mut subject, "all"), [""; 0]);
    assert_eq!(sets(helper)[2], mask(&needed));
    request(&mut client, "https", &port, 100);
    let of_client = format!("record tls kind=1 direction=0 pid={} ", client.pid());
    for_all(&mut subject, &[(of_client, "POST /v1/chat/completions".into())]);
}

/// Where links have many places.
fn libraries_are_probed_without_sys_admin() {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let version: Vec<u32> = release.split(['.', '-']).map_while(|part| part.parse().ok()).collect();
    if version < vec![6, 10] {
        return println!("skipped: {release} is older than 6.10");
    }
    let (_folder, _server, port) = secure_server();
    let mut client = tls_user();
    let (mut subject, helper) = user_with(&[DAC_READ_SEARCH, SYS_PTRACE, PERFMON, BPF, CHECKPOINT_RESTORE]);
    assert_eq!(attach(&mut subject, "tls"), [""; 0]);
    assert_ne!(held_by(helper), Default::default());
    request(&mut client, "https", &port, 100);
    let of_client = format!("record tls kind=1 direction=0 pid={} ", client.pid());
    for_all(&mut subject, &[(of_client, "POST /v1/chat/completions".into())]);
}

fn a_group_that_lacks_privileges() {
    let (mut subject, _) = user_with(&[SYS_ADMIN, DAC_READ_SEARCH, SYS_PTRACE]);
    let trouble = attach(&mut subject, "all");
    // All that is at the root of cgroup v2.
    let is_there = |line: &String| {
        ["plain", "LlmPlain", "net", "Net", "device", "Device"].iter().any(|group| line.contains(group))
    };
    assert!(trouble.iter().all(|line| line.contains("CAP_NET_ADMIN") && is_there(line)), "{trouble:#?}");
    assert!(!trouble.is_empty() && subject.said().iter().any(|line| line == "ring"), "{:#?}", subject.said());
}

fn the_doctor_tries_everything() {
    let user = tls_user();
    let mut doctor = Talker::subject(&["doctor"]);
    assert_eq!(doctor.expect_start("allowed "), "[]", "it has done its work, and can still do this");
    assert_eq!(held_by(doctor.pid()), Default::default(), "all is taken out again");
    assert_eq!(sets(doctor.pid()), [NONE; 5]);
    assert_eq!(status(doctor.pid(), "Seccomp"), "2");
    assert!(status(doctor.pid(), "Uid").split(' ').all(|id| id != "0"));
    let said = doctor.finish();
    let check = |name: &str| {
        said.iter().find(|line| line.starts_with("check") && line.contains(&format!(" {name}: "))).unwrap()
    };
    for name in ["kernel", "privileges", "uprobes", "cgroup v2", "llm-tls", "llm-plain", "own cost", "confinement"] {
        assert!(check(name).starts_with("check Ok"), "{}", check(name));
    }
    for name in ["BTF", "unprivileged BPF", "tracefs", "other programs", "TLS traffic", "GPU library"] {
        assert!(!check(name).contains(" Fail "), "{}", check(name));
    }
    for name in ["llm-tls", "llm-plain"] {
        let detail = check(name);
        assert!(detail.contains("tried and taken out again") && !detail.contains(" 0 probes"), "{detail}");
    }
    let of_user = format!("user {} of ", user.pid());
    assert!(said.iter().any(|line| line.starts_with(&of_user) && line.contains("libssl")), "{said:#?}");
}

fn the_doctor_says_what_is_missing() {
    let said = Talker::subject(&["doctor", "unprivileged"]).finish();
    let privileges = said.iter().find(|line| line.contains(" privileges: ")).unwrap();
    assert!(privileges.starts_with("check Fail") && privileges.contains("CAP_BPF"), "{privileges}");
    assert!(privileges.contains("sudo hbpf doctor"), "{privileges}");
    assert!(said.iter().all(|line| !line.contains(" llm-tls: ")), "nothing is tried in vain: {said:#?}");
    assert!(said.iter().any(|line| line == "worst Fail"), "{said:#?}");
}
