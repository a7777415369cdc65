//! Exchanges as metrics systems tell them apart: by workload, container, side, model, API and endpoint at once.
//!
//! Workloads go by their names here: a program that is started again and again is one of them.
//!
//! A row that is given up is gone, and does not go to "other" as the views' do: a metrics system has seen its counts, and would
//! see them come a second time.

use std::collections::HashSet;
use std::time::Duration;

use jiff::Timestamp;

use super::keyed::{EndpointKey, Key, Keyed, ModelKey};
use super::stats::{Group, OTHER, Pool, StatsId};
use super::workloads::Side;
use crate::exchange::{Api, Exchange};
use crate::label::Label;
use crate::snapshot::{Container, Series, SeriesTable, WorkloadKind, endpoint_name};
use crate::time::{Nanos, WallClock};

/// How long rows of a workload stand after its last exchange when nothing of it runs: metrics systems look back five minutes.
const KEEP_GONE: Duration = Duration::from_secs(600);

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct SeriesKey {
    /// Its name.
    workload: Label,
    /// Its name, as it is another container with each start; its id while that is not known.
    container: Option<Label>,
    side: Side,
    provider: Label,
    model: Option<Label>,
    api: Api,
    endpoint: Label,
}

impl Key for SeriesKey {
    const GROUP: Group = Group::Series;
    const CAP: usize = 1024;
    const IS_ABSORBED: bool = false;

    /// One for each combination of the rest, so that what it says of them stays true.
    fn other(&self) -> Self {
        Self {
            workload: OTHER.into(),
            container: None,
            provider: OTHER.into(),
            model: Some(OTHER.into()),
            endpoint: OTHER.into(),
            ..*self
        }
    }
}

/// What is known of a row besides its numbers.
#[derive(Debug, Default)]
struct Extra {
    since: Option<Nanos>,
    /// The same as the time of day, by the clock of the first frame that has it: those that follow are to say the same.
    began: Option<Timestamp>,
    kind: Option<WorkloadKind>,
    container: Option<Container>,
}

/// Rows, and how many exchanges had none of their own.
#[derive(Debug)]
pub(super) struct Kept {
    rows: Keyed<SeriesKey, Extra>,
    folded: u64,
}

impl Kept {
    pub(super) fn new() -> Self {
        Self { rows: Keyed::new(), folded: 0 }
    }

    /// Where an exchange of a workload counts.
    pub(super) fn place(
        &mut self,
        (workload, kind, side): (Label, WorkloadKind, Side),
        container: Option<&Container>,
        model: ModelKey,
        exchange: &Exchange,
        pool: &mut Pool,
        when: Nanos,
    ) -> StatsId {
        let EndpointKey { host, address, port, api, .. } = EndpointKey::of(exchange);
        let key = SeriesKey {
            workload,
            container: container.map(|it| it.name.clone().unwrap_or_else(|| it.id.clone())),
            side,
            provider: model.provider,
            model: model.model,
            api,
            endpoint: endpoint_name(host.as_ref(), address, port),
        };
        let row = self.rows.resolve(key.clone(), pool, when);
        row.extra.since.get_or_insert(when);
        row.extra.kind.get_or_insert(kind);
        let stats = row.stats;
        match self.rows.get_mut(&key) {
            Some(row) => row.extra.container = container.cloned(),
            None => self.folded += 1,
        }
        stats
    }

    /// Gives up rows of workloads that have ended: all but these.
    pub(super) fn forget(&mut self, running: &HashSet<Label>, pool: &mut Pool, now: Nanos) {
        let is_gone = |key: &SeriesKey, stats: StatsId| {
            let idle = pool[stats].idle_since().is_some_and(|since| now.since(since) >= KEEP_GONE);
            idle && !running.contains(&key.workload) && *key != key.other()
        };
        let gone: Vec<SeriesKey> =
            self.rows.iter().filter(|(key, row)| is_gone(key, row.stats)).map(|(key, _)| key.clone()).collect();
        gone.iter().for_each(|key| self.rows.fold(key, pool, now));
    }

    pub(super) fn frame(&mut self, pool: &mut Pool, now: Nanos, clock: &WallClock) -> SeriesTable {
        for (_, row) in self.rows.iter_mut() {
            let since = row.extra.since.unwrap_or(now);
            row.extra.began.get_or_insert_with(|| clock.at(since));
        }
        let mut rows: Vec<_> = self.rows.iter().collect();
        rows.sort_by_key(|(key, _)| *key);
        let row = |(key, row): (&SeriesKey, &super::keyed::Row<Extra>)| Series {
            workload_kind: row.extra.kind.unwrap_or(WorkloadKind::Tree),
            workload: key.workload.clone(),
            container: row.extra.container.clone(),
            role: key.side.into(),
            provider: key.provider.clone(),
            model: key.model.clone(),
            api: key.api,
            endpoint: key.endpoint.clone(),
            since: row.extra.began.unwrap_or_else(|| clock.at(now)),
            stats: pool.frame(row.stats, now),
        };
        SeriesTable { rows: rows.into_iter().map(row).collect(), folded_total: self.folded }
    }
}
