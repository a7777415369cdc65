//! Calls that are made again: which one each repeats, and processes that do little else.
//!
//! SDKs say in a header which try of a call a request is; which call it is they do not say (but for AWS's). The try before is
//! taken to be the latest of the same process at the same place that has failed with that number.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use jiff::Timestamp;

use crate::chunk::Pid;
use crate::exchange::{Api, Endpoint, Exchange, ExchangeId, Phase, Role};
use crate::findings;
use crate::label::Label;
use crate::snapshot::Finding;
use crate::time::{Nanos, WallClock};

/// Failed tries that are remembered: SDKs wait for seconds, seldom for minutes.
const MAX_FAILED: usize = 512;

/// Processes whose retries are counted.
const MAX_PROCESSES: usize = 1024;

/// What a storm is told by: so many retries in so long, and more than so much of all requests.
const STORM_RETRIES: u64 = 10;
const STORM_SHARE: f64 = 0.5;
const STORM_WINDOW: Duration = Duration::from_secs(60);

/// The window in parts.
const PARTS: u64 = 6;

/// A try that has failed.
#[derive(Debug)]
struct Failed {
    id: ExchangeId,
    pid: Option<Pid>,
    role: Role,
    api: Api,
    endpoint: Endpoint,
    attempt: u32,
}

/// What one process has asked lately.
#[derive(Debug, Default)]
struct Recent {
    comm: Label,
    /// Number of a part, requests and retries in it, the oldest first.
    parts: VecDeque<(u64, u64, u64)>,
    storm_since: Option<Nanos>,
}

/// Tries that have failed, and who repeats how much.
#[derive(Debug, Default)]
pub(super) struct Retries {
    failed: VecDeque<Failed>,
    recent: HashMap<Pid, Recent>,
}

impl Retries {
    /// A request is under way. Gives the one that it repeats, if that was seen.
    pub(super) fn sent(&mut self, when: Nanos, exchange: &Exchange) -> Option<ExchangeId> {
        if exchange.role == Role::Client {
            self.count(when, exchange);
        }
        let before = exchange.attempt?.checked_sub(1)?;
        let is_before = |failed: &Failed| {
            failed.attempt == before
                && failed.pid == exchange.pid
                && failed.role == exchange.role
                && failed.api == exchange.api
                && failed.endpoint.host == exchange.endpoint.host
                && failed.endpoint.port == exchange.endpoint.port
        };
        let position = self.failed.iter().rposition(is_before)?;
        self.failed.remove(position).map(|failed| failed.id)
    }

    /// A request has ended.
    pub(super) fn ended(&mut self, exchange: &Exchange) {
        let Some(attempt) = exchange.attempt else { return };
        if !matches!(exchange.phase, Phase::Failed | Phase::Abandoned) {
            return;
        }
        if self.failed.len() >= MAX_FAILED {
            self.failed.pop_front();
        }
        self.failed.push_back(Failed {
            id: exchange.id,
            pid: exchange.pid,
            role: exchange.role,
            api: exchange.api,
            endpoint: exchange.endpoint.clone(),
            attempt,
        });
    }

    fn count(&mut self, when: Nanos, exchange: &Exchange) {
        let Some(pid) = exchange.pid else { return };
        if self.recent.len() >= MAX_PROCESSES && !self.recent.contains_key(&pid) {
            return;
        }
        let recent = self.recent.entry(pid).or_default();
        recent.comm = exchange.comm.clone();
        let part = part(when);
        match recent.parts.back_mut().filter(|(number, ..)| *number == part) {
            Some((_, requests, retries)) => {
                *requests += 1;
                *retries += u64::from(is_retry(exchange));
            }
            None => recent.parts.push_back((part, 1, u64::from(is_retry(exchange)))),
        }
        recent.forget(part);
    }

    /// Who does little but repeat what has failed.
    pub(super) fn storms(&mut self, now: Nanos, clock: &WallClock) -> Vec<Finding> {
        self.recent.retain(|_, recent| {
            recent.forget(part(now));
            !recent.parts.is_empty()
        });
        let mut storms: Vec<(Pid, Timestamp, Finding)> = Vec::new();
        for (pid, recent) in &mut self.recent {
            let (requests, retries) = recent.parts.iter().fold((0, 0), |sum, part| (sum.0 + part.1, sum.1 + part.2));
            if retries < STORM_RETRIES || (retries as f64) < requests as f64 * STORM_SHARE {
                recent.storm_since = None;
                continue;
            }
            let since = clock.at(*recent.storm_since.get_or_insert(now));
            storms.push((*pid, since, findings::retry_storm(since, &recent.comm, pid.0, requests, retries)));
        }
        storms.sort_by_key(|(pid, since, _)| (*since, *pid));
        storms.into_iter().map(|(.., finding)| finding).collect()
    }
}

impl Recent {
    fn forget(&mut self, now: u64) {
        while self.parts.front().is_some_and(|(part, ..)| part + PARTS < now) {
            self.parts.pop_front();
        }
    }
}

fn part(when: Nanos) -> u64 {
    when.0 / (STORM_WINDOW.as_nanos() as u64 / PARTS)
}

fn is_retry(exchange: &Exchange) -> bool {
    exchange.attempt.is_some_and(|attempt| attempt > 0)
}
