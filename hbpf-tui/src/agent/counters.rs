//! What an agent counts of itself.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

use hyper::StatusCode;
use jiff::Timestamp;

use super::otlp::Outcome;
use crate::metrics::{self, AgentNumbers, ExportNumbers, Family};

/// What was asked of it, and what came of it.
#[derive(Default)]
pub(super) struct Counters {
    answered: RefCell<BTreeMap<(&'static str, u16), u64>>,
    refused: Cell<u64>,
    malformed: Cell<u64>,
}

impl Counters {
    pub(super) fn answered(&self, path: &str, status: StatusCode) {
        // Whoever asks chooses the path.
        let path = ["/metrics", "/healthz", "/readyz", "/snapshot"].into_iter().find(|known| *known == path);
        *self.answered.borrow_mut().entry((path.unwrap_or("other"), status.as_u16())).or_default() += 1;
    }

    pub(super) fn refused(&self) {
        self.refused.set(self.refused.get() + 1);
    }

    pub(super) fn malformed(&self) {
        self.malformed.set(self.malformed.get() + 1);
    }

    /// Adds them to other families.
    pub(super) fn collect(&self, exports: &[(&'static str, Outcome)], since: Timestamp, families: &mut Vec<Family>) {
        let answered = self.answered.borrow();
        let numbers = AgentNumbers {
            answered: answered.iter().map(|((path, status), count)| (*path, *status, *count)).collect(),
            connections_refused: self.refused.get(),
            requests_malformed: self.malformed.get(),
            exports: exports.iter().map(|(signal, outcome)| (*signal, numbers(outcome))).collect(),
        };
        metrics::collect_agent(&numbers, since, families);
    }
}

fn numbers(outcome: &Outcome) -> ExportNumbers {
    let Outcome { exported, failed, rejected, unconfirmed, dropped, missed_snapshots, problem } = outcome;
    ExportNumbers {
        exported: *exported,
        failed: *failed,
        rejected: *rejected,
        unconfirmed: *unconfirmed,
        dropped: *dropped,
        missed_snapshots: *missed_snapshots,
        is_well: problem.is_none(),
    }
}
