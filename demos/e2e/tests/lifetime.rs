//! Nothing of hbpf outlives it, however it ends.

use std::collections::BTreeSet;
use std::time::Instant;

use hbpf_e2e::{DEADLINE, Observer, children, host, loaded_programs};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// The kernel frees programs a little after the last descriptor has gone.
fn assert_gone(programs: &BTreeSet<u32>, after: &str) {
    let give_up = Instant::now() + DEADLINE;
    loop {
        let left: Vec<u32> = loaded_programs().intersection(programs).copied().collect();
        if left.is_empty() {
            return;
        }
        assert!(Instant::now() < give_up, "after {after} these programs are still in the kernel: {left:?}");
        std::thread::yield_now();
    }
}

/// Starts hbpf, and says what it brought into the kernel.
fn observed() -> (Observer, BTreeSet<u32>) {
    let before = loaded_programs();
    let observer = Observer::start();
    let brought: BTreeSet<u32> = loaded_programs().difference(&before).copied().collect();
    assert!(!brought.is_empty(), "hbpf has loaded nothing");
    (observer, brought)
}

#[test]
fn an_orderly_end_leaves_nothing() {
    let Some(_host) = host() else { return };
    let (observer, brought) = observed();
    observer.stop();
    assert_gone(&brought, "an orderly end");
}

#[test]
fn killing_the_process_that_was_started_leaves_nothing() {
    let Some(_host) = host() else { return };
    let (observer, brought) = observed();
    observer.signal(Signal::SIGKILL);
    assert_gone(&brought, "kill -9 of the process that was started");
}

#[test]
fn killing_the_other_process_leaves_nothing() {
    let Some(_host) = host() else { return };
    let (observer, brought) = observed();
    let others = children(observer.pid());
    assert_eq!(others.len(), 1, "hbpf is two processes");
    kill(Pid::from_raw(i32::try_from(others[0]).unwrap()), Signal::SIGKILL).unwrap();
    assert_gone(&brought, "kill -9 of the process that it forked");
}
