//! Tells when both ends of one exchange are observed.

use std::collections::HashMap;
use std::time::Duration;

use crate::exchange::Role;
use crate::time::Nanos;

/// How far apart the two ends may see the same request head. Both are on this host: it lies in the kernel's buffers at
/// most until a busy server reads it.
const WINDOW: Duration = Duration::from_secs(10);

/// Most request heads remembered at a time; beyond it an exchange may count twice, so it is far above what a host opens
/// within the window.
const MAX_HEADS: usize = 65_536;

/// Request heads seen at one end only, by fingerprint of their bytes.
///
/// Addresses cannot pair the ends: NAT rewrites them, and at a TLS library there are none. The bytes of the head are
/// the same at both ends. Where several identical heads are under way it does not matter which pairs with which: each
/// end pairs once, so every exchange counts once.
#[derive(Default)]
pub(super) struct Pairing {
    /// Heads waiting for their other end, oldest first. One fingerprint waits for one role at a time.
    waiting: HashMap<u64, Waiting>,
    heads: usize,
}

struct Waiting {
    seen_by: Role,
    since: Vec<Nanos>,
}

impl Pairing {
    /// Notes a request head; `true` if it is the other end of an exchange that is already known.
    pub(super) fn is_mirror(&mut self, fingerprint: u64, role: Role, now: Nanos) -> bool {
        if let Some(waiting) = self.waiting.get_mut(&fingerprint)
            && waiting.seen_by != role
        {
            let fresh = waiting.since.iter().position(|since| distance(*since, now) < WINDOW);
            if let Some(index) = fresh {
                waiting.since.remove(index);
                self.heads -= 1;
                if waiting.since.is_empty() {
                    self.waiting.remove(&fingerprint);
                }
                return true;
            }
            self.heads -= waiting.since.len();
            self.waiting.remove(&fingerprint);
        }
        if self.heads < MAX_HEADS {
            let waiting = self.waiting.entry(fingerprint).or_insert(Waiting { seen_by: role, since: Vec::new() });
            waiting.since.push(now);
            self.heads += 1;
        }
        false
    }

    /// Forgets heads whose other end will not come.
    pub(super) fn expire(&mut self, now: Nanos) {
        let heads = &mut self.heads;
        self.waiting.retain(|_, waiting| {
            let before = waiting.since.len();
            waiting.since.retain(|since| distance(*since, now) < WINDOW);
            *heads -= before - waiting.since.len();
            !waiting.since.is_empty()
        });
    }
}

/// Records of different CPUs are not strictly in order of time.
fn distance(a: Nanos, b: Nanos) -> Duration {
    a.since(b).max(b.since(a))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn each_end_pairs_once() {
        let mut pairing = Pairing::default();
        assert!(!pairing.is_mirror(1, Role::Client, Nanos(0)));
        assert!(!pairing.is_mirror(1, Role::Client, Nanos(1)));
        assert!(pairing.is_mirror(1, Role::Server, Nanos(2)));
        assert!(pairing.is_mirror(1, Role::Server, Nanos(3)));
        assert!(!pairing.is_mirror(1, Role::Server, Nanos(4)));
        assert!(pairing.is_mirror(1, Role::Client, Nanos(5)), "the server's record may come first");
        assert_eq!(pairing.heads, 0);
    }

    #[test]
    fn different_requests_and_old_ones_do_not_pair() {
        let mut pairing = Pairing::default();
        assert!(!pairing.is_mirror(1, Role::Client, Nanos(0)));
        assert!(!pairing.is_mirror(2, Role::Server, Nanos(0)));
        assert!(!pairing.is_mirror(1, Role::Server, Nanos(60 * SECOND)));
        pairing.expire(Nanos(200 * SECOND));
        assert_eq!(pairing.heads, 0);
        assert!(pairing.waiting.is_empty());
    }
}
