//! Between the kernel side's records, the engine, and what is to be asked of the helper.

use std::collections::HashSet;

use hbpf_core::aggregate::Aggregator;
use hbpf_core::chunk::{Action, ConnectionKey, Origin, Source, Verdict};
use hbpf_core::engine::Observer;
use hbpf_core::exchange::{Exchange, ExchangeEvent};
use hbpf_core::inference::Traffic;
use hbpf_core::sealed::Sealed;
use hbpf_core::time::Nanos;
use hbpf_ebpf::{RecordHeader, action, source};

use crate::decode;

use crate::protocol::{FlowVerdict, MAX_LEARNED_TARGETS, MAX_TARGET_BYTES, SocketQuery};

/// Judgements of processes kept while the helper is busy: it looks at fewer.
const MAX_SERVERS_WAITING: usize = 1024;

/// What the engine reports to.
pub(super) struct EngineSink {
    pub(super) aggregator: Aggregator,
    /// What local servers serve, apart from the rest.
    pub(super) traffic: Traffic,
    /// TLS connections as sockets show them.
    pub(super) sealed: Sealed,
    /// Of connections.
    pub(super) verdicts: Vec<FlowVerdict>,
    /// Processes, and whether they serve tools on standard input and output.
    pub(super) servers: Vec<(u32, bool)>,
    pub(super) learned: Vec<String>,
    /// Everything that was ever learned: the helper remembers it, too.
    told: HashSet<String>,
    pub(super) owners: Vec<SocketQuery>,
    /// Connections whose owner cannot even be asked for.
    pub(super) ownerless: Vec<ConnectionKey>,
}

impl EngineSink {
    pub(super) fn new(aggregator: Aggregator) -> Self {
        Self {
            aggregator,
            traffic: Traffic::default(),
            sealed: Sealed::default(),
            verdicts: Vec::new(),
            servers: Vec::new(),
            learned: Vec::new(),
            told: HashSet::new(),
            owners: Vec::new(),
            ownerless: Vec::new(),
        }
    }
}

impl EngineSink {
    /// Takes from a record what it says of a TLS connection as its socket shows it.
    pub(super) fn look_outside(&mut self, header: &RecordHeader, bytes: &[u8]) {
        if let Some(verdict) = decode::look_outside(&mut self.sealed, header, bytes) {
            self.verdict(verdict);
        }
    }
}

impl Observer for EngineSink {
    fn exchange(&mut self, when: Nanos, exchange: &Exchange, event: ExchangeEvent) {
        if event == ExchangeEvent::Opened {
            self.sealed.exchange(exchange);
        }
        self.traffic.observe(exchange, event);
        self.aggregator.observe(when, exchange, event);
    }

    fn verdict(&mut self, verdict: Verdict) {
        let Verdict { connection, message, action } = verdict;
        let source = match connection.source {
            Source::Tls => source::TLS,
            Source::Tcp => source::TCP,
            Source::Stdio => {
                if self.servers.len() < MAX_SERVERS_WAITING {
                    self.servers.push((connection.pid, action != Action::Opaque));
                }
                return;
            }
        };
        self.verdicts.push(FlowVerdict {
            source,
            pid: connection.pid,
            handle: connection.handle,
            generation: connection.generation,
            message,
            action: match action {
                Action::Ignore => action::IGNORE,
                Action::Capture => action::CAPTURE,
                Action::ThinResponse => action::THIN_RESPONSE,
                Action::Opaque => action::OPAQUE,
                Action::Stream => action::STREAM,
            },
        });
    }

    fn learned(&mut self, path: &str) {
        let fits = path.len() <= MAX_TARGET_BYTES && self.told.len() < MAX_LEARNED_TARGETS;
        if fits && self.told.insert(path.to_owned()) {
            self.learned.push(path.to_owned());
        }
    }

    fn owner_wanted(&mut self, connection: ConnectionKey, origin: &Origin) {
        match (origin.local, origin.remote) {
            (Some(local), Some(remote)) => self.owners.push(SocketQuery {
                cookie: connection.handle,
                hint: origin.pid.map_or(0, |pid| pid.0),
                local: local.into(),
                remote: remote.into(),
            }),
            _ => self.ownerless.push(connection),
        }
    }
}
