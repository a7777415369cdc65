//! Tables of numbers by key, with a cap: what lies beyond it folds into one row named "other", so that a table's sum
//! still equals the totals.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;
use std::time::Duration;

use super::stats::{Group, OTHER, Pool, StatsId};
use crate::exchange::{Api, Exchange, Protocol};
use crate::label::Label;
use crate::time::Nanos;

/// A full table gives up the row that has been idle longest, if it has been so for this long: its totals go to "other".
const FOLD_IDLE: Duration = Duration::from_secs(600);

/// What rows of a table are told apart by.
pub(super) trait Key: Clone + Eq + Hash {
    /// Which table it is.
    const GROUP: Group;
    /// Rows besides "other". A row takes about 2 KiB without distributions.
    const CAP: usize;
    /// Whether the totals of a row that is given up go to "other".
    const IS_ABSORBED: bool = true;
    /// The key that stands for this one beyond the cap.
    fn other(&self) -> Self;
}

/// A provider's model.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct ModelKey {
    pub(super) provider: Label,
    pub(super) model: Option<Label>,
}

impl Key for ModelKey {
    const GROUP: Group = Group::Models;
    const CAP: usize = 512;

    fn other(&self) -> Self {
        Self { provider: OTHER.into(), model: Some(OTHER.into()) }
    }
}

/// A serving end.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct EndpointKey {
    pub(super) host: Option<Label>,
    pub(super) address: Option<IpAddr>,
    pub(super) port: Option<u16>,
    pub(super) api: Api,
    pub(super) tls: bool,
    pub(super) protocol: Protocol,
}

impl EndpointKey {
    pub(super) fn of(exchange: &Exchange) -> Self {
        Self {
            host: exchange.endpoint.host.clone(),
            address: exchange.endpoint.address,
            port: exchange.endpoint.port,
            api: exchange.api,
            tls: exchange.tls,
            protocol: exchange.protocol,
        }
    }
}

impl Key for EndpointKey {
    const GROUP: Group = Group::Endpoints;
    const CAP: usize = 1024;

    /// One row for each combination of the rest, so that what it says of them stays true: there are 80.
    fn other(&self) -> Self {
        Self { host: Some(OTHER.into()), address: None, port: None, ..*self }
    }
}

/// A row: where its numbers are, and what else is known of its key.
#[derive(Debug)]
pub(super) struct Row<X> {
    pub(super) stats: StatsId,
    pub(super) extra: X,
}

/// A table of numbers by key.
#[derive(Debug)]
pub(super) struct Keyed<K, X> {
    rows: HashMap<K, Row<X>>,
}

impl<K: Key, X: Default> Keyed<K, X> {
    pub(super) fn new() -> Self {
        Self { rows: HashMap::new() }
    }

    pub(super) fn get(&self, key: &K) -> Option<&Row<X>> {
        self.rows.get(key)
    }

    pub(super) fn get_mut(&mut self, key: &K) -> Option<&mut Row<X>> {
        self.rows.get_mut(key)
    }

    /// The row for a key, or the one that stands for it beyond the cap.
    pub(super) fn resolve(&mut self, key: K, pool: &mut Pool, now: Nanos) -> &mut Row<X> {
        let key = if self.rows.contains_key(&key) || self.make_room(pool, now) { key } else { key.other() };
        self.insert(key, pool, now)
    }

    fn insert(&mut self, key: K, pool: &mut Pool, now: Nanos) -> &mut Row<X> {
        self.rows.entry(key).or_insert_with(|| Row { stats: pool.insert(K::GROUP, now), extra: X::default() })
    }

    /// Whether another row fits.
    fn make_room(&mut self, pool: &mut Pool, now: Nanos) -> bool {
        let own = || self.rows.iter().filter(|(key, _)| **key != key.other());
        if self.rows.len() < K::CAP || own().count() < K::CAP {
            return true;
        }
        let idle = own().filter_map(|(key, row)| Some((pool[row.stats].idle_since()?, key)));
        let longest = idle.min_by_key(|(since, _)| *since).filter(|(since, _)| now.since(*since) >= FOLD_IDLE);
        let Some(key) = longest.map(|(_, key)| key.clone()) else { return false };
        self.fold(&key, pool, now);
        true
    }

    /// Gives up a row that is idle: its totals go to "other", unless the table's do not.
    pub(super) fn fold(&mut self, key: &K, pool: &mut Pool, now: Nanos) {
        let given_up = self.rows.remove(key).and_then(|row| pool.remove(row.stats));
        if !K::IS_ABSORBED {
            return;
        }
        let other = self.insert(key.other(), pool, now).stats;
        if let Some(given_up) = given_up {
            pool[other].absorb(&given_up);
        }
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (&K, &mut Row<X>)> {
        self.rows.iter_mut()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&K, &Row<X>)> {
        self.rows.iter()
    }
}
