//! What is asked of MCP servers, by server, method and tool.

use std::collections::HashMap;

use super::keyed::{Key, Keyed};
use super::rates::Flow;
use super::requests::endpoint_label;
use super::stats::{Group, OTHER, Pool, final_samples};
use crate::exchange::{Endpoint, Exchange, Protocol};
use crate::label::Label;
use crate::snapshot::Tool;
use crate::time::Nanos;

/// The answer that says that the answer comes elsewhere.
const ACCEPTED: u16 = 202;

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct ToolKey {
    server: Label,
    method: Label,
    tool: Option<Label>,
}

impl Key for ToolKey {
    const GROUP: Group = Group::Tools;
    const CAP: usize = 512;

    fn other(&self) -> Self {
        Self { server: OTHER.into(), method: OTHER.into(), tool: None }
    }
}

/// Servers that have told their names, and what was asked.
#[derive(Debug)]
pub(super) struct Tools {
    rows: Keyed<ToolKey, ()>,
    /// `None` for a place at which several have told theirs.
    names: HashMap<Endpoint, Option<Label>>,
}

/// Servers whose names are remembered.
const MAX_NAMES: usize = 512;

impl Tools {
    pub(super) fn new() -> Self {
        Self { rows: Keyed::new(), names: HashMap::new() }
    }

    /// A call is over. Of one that is seen from both ends, one end counts.
    pub(super) fn ended(&mut self, when: Nanos, exchange: &Exchange, pool: &mut Pool) {
        let Some(call) = exchange.tool_call.as_ref().filter(|_| !exchange.is_mirror) else { return };
        let own_name = exchange.response_model.as_ref();
        if let Some(name) = own_name.filter(|_| exchange.protocol != Protocol::Stdio) {
            self.learn(&exchange.endpoint, name);
        }
        let learned = || self.names.get(&exchange.endpoint)?.as_ref();
        let server = match own_name.or_else(learned) {
            Some(name) => name.clone(),
            // Where it has no address, it is known by its program.
            None if exchange.protocol == Protocol::Stdio => exchange.comm.clone(),
            None => endpoint_label(exchange),
        };
        let key = ToolKey { server, method: call.method.clone(), tool: call.name.clone() };
        let stats = self.rows.resolve(key, pool, when).stats;
        pool.attach(stats, when, exchange);
        if exchange.status != Some(ACCEPTED) {
            for sample in final_samples(exchange) {
                pool.record(std::iter::once(stats), when, &sample);
            }
        }
        pool.finish(std::iter::once(stats), when, exchange, &Flow::default(), 0, None);
    }

    fn learn(&mut self, endpoint: &Endpoint, name: &Label) {
        let has_room = self.names.len() < MAX_NAMES;
        match self.names.get_mut(endpoint) {
            Some(known) if known.as_ref() == Some(name) => {}
            Some(known) => *known = None,
            None if has_room => {
                self.names.insert(endpoint.clone(), Some(name.clone()));
            }
            None => {}
        }
    }

    /// Those that were called most first.
    pub(super) fn frame(&self, pool: &mut Pool, now: Nanos) -> Vec<Tool> {
        let mut rows: Vec<_> = self.rows.iter().map(|(key, row)| (key.clone(), row.stats)).collect();
        rows.sort_by(|(a, of_a), (b, of_b)| pool[*of_b].requests().cmp(&pool[*of_a].requests()).then_with(|| a.cmp(b)));
        let row = |(key, stats): (ToolKey, _)| {
            let stats = pool.frame(stats, now);
            Tool {
                server: key.server,
                method: key.method,
                tool: key.tool,
                calls_total: stats.requests_total,
                errors_total: stats.failed_total,
                duration_seconds: stats.latency.since_start.duration_seconds,
            }
        };
        rows.into_iter().map(row).collect()
    }
}
