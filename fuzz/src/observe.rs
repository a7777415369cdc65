//! An observer of an engine that believes nothing.

use std::collections::{HashMap, HashSet};

use hbpf_core::chunk::{ConnectionKey, Origin, Verdict};
use hbpf_core::engine::{Counters, Engine, Observer};
use hbpf_core::exchange::{Exchange, ExchangeEvent, ExchangeId};
use hbpf_core::time::Nanos;

/// Checks what an engine reports.
#[derive(Default)]
pub(crate) struct Watch {
    open: HashMap<ExchangeId, u64>,
    ended: HashSet<ExchangeId>,
    pub(crate) wanted: Vec<ConnectionKey>,
    counters: Counters,
}

impl Observer for Watch {
    fn exchange(&mut self, _when: Nanos, exchange: &Exchange, event: ExchangeEvent) {
        assert!(!self.ended.contains(&exchange.id), "nothing happens after the end");
        match event {
            ExchangeEvent::Opened => {
                assert!(self.open.insert(exchange.id, 0).is_none(), "opened once");
            }
            ExchangeEvent::Ended => {
                assert!(exchange.phase.is_final());
                assert!(self.open.remove(&exchange.id).is_some(), "opened before it ends");
                self.ended.insert(exchange.id);
            }
            ExchangeEvent::Output { tokens, .. } => {
                let told = self.open.get_mut(&exchange.id).expect("opened before there is output");
                *told += tokens;
                assert!(*told <= exchange.estimated_output, "the parts are no more than the whole");
            }
            ExchangeEvent::RequestSent | ExchangeEvent::Headers | ExchangeEvent::Stalled { .. } => {
                assert!(self.open.contains_key(&exchange.id))
            }
        }
    }

    fn verdict(&mut self, _verdict: Verdict) {}

    fn learned(&mut self, _path: &str) {}

    fn owner_wanted(&mut self, connection: ConnectionKey, _origin: &Origin) {
        self.wanted.push(connection);
    }
}

impl Watch {
    /// The counters only grow.
    pub(crate) fn check(&mut self, engine: &Engine) {
        let (before, now) = (std::mem::replace(&mut self.counters, engine.counters()), engine.counters());
        assert!(now.parse_gaps >= before.parse_gaps && now.desyncs >= before.desyncs);
        assert!(now.exchanges_given_up >= before.exchanges_given_up);
        assert!(now.connections_refused >= before.connections_refused);
    }

    /// Every exchange that was opened has ended.
    pub(crate) fn finish(&self) {
        assert!(self.open.is_empty(), "{} exchanges never ended", self.open.len());
    }
}
