//! Tells when both ends of one exchange are observed.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use crate::exchange::{ExchangeId, Role};
use crate::time::Nanos;

/// How far apart the two ends may see the same request head. Both are on this host, but the way between them need not be: a
/// connection whose first packets are lost tries again after 1, 3, 7 and 15 seconds.
const WINDOW: Duration = Duration::from_secs(30);

/// Most request heads remembered at a time. Beyond it the oldest are forgotten: an exchange whose other end comes that late
/// counts twice.
const MAX_HEADS: usize = 65_536;

/// Most heads remembered in the order in which they came, those that have found their other end included.
const MAX_ORDER: usize = 4 * MAX_HEADS;

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
    /// What waits, and some that waits no longer, in the order of coming.
    order: VecDeque<(Nanos, u64)>,
}

struct Waiting {
    seen_by: Role,
    heads: VecDeque<(Nanos, ExchangeId)>,
}

impl Pairing {
    /// Notes a request head; gives the exchange that is its other end, if that is known already.
    pub(super) fn other_end(&mut self, fingerprint: u64, role: Role, now: Nanos, id: ExchangeId) -> Option<ExchangeId> {
        if let Some(waiting) = self.waiting.get_mut(&fingerprint)
            && waiting.seen_by != role
        {
            let fresh = waiting.heads.iter().position(|(since, _)| distance(*since, now) < WINDOW);
            if let Some(index) = fresh {
                let other = waiting.heads.remove(index).map(|(_, other)| other);
                self.heads -= 1;
                if waiting.heads.is_empty() {
                    self.waiting.remove(&fingerprint);
                }
                return other;
            }
            self.heads -= waiting.heads.len();
            self.waiting.remove(&fingerprint);
        }
        // The other end is heard of within moments, if at all: who has waited longest makes room.
        while self.heads >= MAX_HEADS || self.order.len() >= MAX_ORDER {
            let Some((since, fingerprint)) = self.order.pop_front() else { break };
            self.forget(fingerprint, |when| when <= since);
        }
        {
            let waiting = self.waiting.entry(fingerprint).or_insert(Waiting { seen_by: role, heads: VecDeque::new() });
            waiting.heads.push_back((now, id));
            self.heads += 1;
            self.order.push_back((now, fingerprint));
        }
        None
    }

    /// Forgets heads whose other end will not come.
    pub(super) fn expire(&mut self, now: Nanos) {
        while let Some((since, fingerprint)) = self.order.front().copied()
            && now.since(since) >= WINDOW
        {
            self.order.pop_front();
            self.forget(fingerprint, |when| now.since(when) >= WINDOW);
        }
    }

    /// Forgets the oldest heads with this fingerprint that are as old as that.
    fn forget(&mut self, fingerprint: u64, is_old: impl Fn(Nanos) -> bool) {
        let Some(waiting) = self.waiting.get_mut(&fingerprint) else { return };
        while waiting.heads.front().is_some_and(|(since, _)| is_old(*since)) {
            waiting.heads.pop_front();
            self.heads -= 1;
        }
        if waiting.heads.is_empty() {
            self.waiting.remove(&fingerprint);
        }
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
        let mut other_end = |role, now, id| pairing.other_end(1, role, Nanos(now), ExchangeId(id));
        assert_eq!(other_end(Role::Client, 0, 10), None);
        assert_eq!(other_end(Role::Client, 1, 11), None);
        assert_eq!(other_end(Role::Server, 2, 12), Some(ExchangeId(10)));
        assert_eq!(other_end(Role::Server, 3, 13), Some(ExchangeId(11)));
        assert_eq!(other_end(Role::Server, 4, 14), None);
        assert_eq!(other_end(Role::Client, 5, 15), Some(ExchangeId(14)), "the server's record may come first");
        assert_eq!(pairing.heads, 0);
    }

    #[test]
    fn both_ends_pair_at_any_rate() {
        let mut pairing = Pairing::default();
        for number in 0..2 * MAX_ORDER as u64 {
            let now = Nanos(number * SECOND / 10_000);
            assert_eq!(pairing.other_end(number, Role::Client, now, ExchangeId(number)), None);
            assert_eq!(pairing.other_end(number, Role::Server, now, ExchangeId(0)), Some(ExchangeId(number)));
            // Some others are seen at one end only.
            pairing.other_end(u64::MAX - number, Role::Client, now, ExchangeId(number));
            assert!(pairing.heads <= MAX_HEADS && pairing.order.len() <= MAX_ORDER);
        }
    }

    #[test]
    fn different_requests_and_old_ones_do_not_pair() {
        let mut pairing = Pairing::default();
        let id = ExchangeId(1);
        assert_eq!(pairing.other_end(1, Role::Client, Nanos(0), id), None);
        assert_eq!(pairing.other_end(2, Role::Server, Nanos(0), id), None);
        assert_eq!(pairing.other_end(1, Role::Server, Nanos(60 * SECOND), id), None);
        pairing.expire(Nanos(65 * SECOND));
        assert_eq!(pairing.heads, 1, "not yet");
        pairing.expire(Nanos(200 * SECOND));
        assert_eq!(pairing.heads, 0);
        assert!(pairing.waiting.is_empty() && pairing.order.is_empty());
    }
}
