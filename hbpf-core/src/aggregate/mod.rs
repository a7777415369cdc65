//! What happens to exchanges, added up: rates, distributions and totals for the host and for each process, model and
//! endpoint, handed out as [`Snapshot`]s.

use std::time::Duration;

use crate::chunk::Pid;
use crate::exchange::{Exchange, ExchangeEvent};
use crate::snapshot::{self, Capture, CollectionError, Host, LlmStats, Process, Requests, Snapshot};
use crate::time::{Nanos, WallClock};

/// What can be chosen about the aggregation.
#[derive(Clone, Debug)]
pub struct AggregatorConfig {
    /// What rates and window distributions are over.
    pub window: Duration,
}

impl Default for AggregatorConfig {
    fn default() -> Self {
        Self { window: Duration::from_secs(5) }
    }
}

/// What the host side knows at the moment of a frame.
#[derive(Clone, Debug, Default)]
pub struct HostFacts {
    /// The machine.
    pub host: Host,
    /// Its processes; `as_client` and `as_server` are filled in by the aggregator.
    pub processes: Vec<Process>,
    /// Probes, losses and own cost.
    pub capture: Capture,
    /// What could not be collected, and why.
    pub errors: Vec<CollectionError>,
}

/// Adds up the events of exchanges and hands out frames.
#[derive(Debug)]
pub struct Aggregator {
    config: AggregatorConfig,
    started: Nanos,
    sequence: u64,
    totals: LlmStats,
}

impl Aggregator {
    /// An aggregator whose totals count from `started`.
    pub fn new(config: AggregatorConfig, started: Nanos) -> Self {
        Self { config, started, sequence: 0, totals: LlmStats::default() }
    }

    /// Takes note of an event. The engine owes every exchange that opened an `Ended`.
    pub fn observe(&mut self, _when: Nanos, exchange: &Exchange, event: ExchangeEvent) {
        if event == ExchangeEvent::Opened && !exchange.is_mirror {
            self.totals.requests_total += 1;
        }
    }

    /// The process has ended: its row stays for a while; a later exchange under the same pid is another process.
    pub fn process_exited(&mut self, _pid: Pid, _when: Nanos) {}

    /// One frame. `live` are the exchanges in flight. `facts` come from the host side.
    pub fn snapshot<'a>(
        &mut self,
        now: Nanos,
        clock: &WallClock,
        live: impl Iterator<Item = &'a Exchange>,
        facts: HostFacts,
    ) -> Snapshot {
        let sequence = self.sequence;
        self.sequence += 1;
        self.totals.requests_in_flight = live.filter(|exchange| !exchange.is_mirror).count() as u64;
        Snapshot {
            schema: snapshot::SCHEMA.to_owned(),
            hbpf_version: env!("CARGO_PKG_VERSION").to_owned(),
            captured_at: clock.at(now),
            observation_started_at: clock.at(self.started),
            observed_seconds: now.seconds_since(self.started),
            window_seconds: self.config.window.as_secs_f64(),
            sequence,
            host: facts.host,
            totals: self.totals.clone(),
            processes: facts.processes,
            workloads: Vec::new(),
            models: Vec::new(),
            endpoints: Vec::new(),
            tools: Vec::new(),
            requests: Requests::default(),
            gpus: Vec::new(),
            engines: Vec::new(),
            capture: facts.capture,
            findings: Vec::new(),
            errors: facts.errors,
        }
    }
}
