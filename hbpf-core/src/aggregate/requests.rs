//! Rows of single exchanges: running, recent, and ended since the frame before.

use std::collections::VecDeque;

use jiff::Timestamp;

use super::Running;
use super::processes::{ProcessId, Processes};
use super::stats::FinalOutput;
use crate::exchange::{Exchange, ExchangeId, Phase};
use crate::label::Label;
use crate::prices::Cost;
use crate::snapshot::{Hop, OutputPace, Request, Requests, TokenTotals, TokensSource};
use crate::time::{Nanos, WallClock};

/// Running exchanges in a frame: more than a screen shows, few enough that a frame stays small.
pub(super) const MAX_IN_FLIGHT: usize = 200;

/// Ended exchanges that every frame repeats, for views that begin late.
pub(super) const MAX_RECENT: usize = 100;

/// Those among all that ended which did not end well: what went wrong is asked for when others have long pushed it out.
pub(super) const MAX_FAILED: usize = 30;

/// Ended exchanges kept until the next frame, for those that want each one; about 1 KiB each.
pub(super) const MAX_FINISHED: usize = 1000;

/// An exchange that has ended.
#[derive(Clone, Debug)]
struct Ended {
    exchange: Exchange,
    process: Option<ProcessId>,
    hop: Option<Hop>,
    retry_of: Option<ExchangeId>,
    cost: Option<Cost>,
    /// Start time and command of its process, once they are known.
    identity: Option<(Option<Timestamp>, Label)>,
}

/// An exchange that runs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Live<'a> {
    pub(super) exchange: &'a Exchange,
    pub(super) process: Option<ProcessId>,
    pub(super) hop: Option<Hop>,
    pub(super) retry_of: Option<ExchangeId>,
}

/// The exchanges that ended last.
#[derive(Debug)]
pub(super) struct EndedRing {
    /// Oldest first.
    kept: VecDeque<Ended>,
    /// Likewise, of those that did not end well.
    failed: VecDeque<Ended>,
    /// How many have ended since the frame before, kept or not.
    since_frame: usize,
}

impl EndedRing {
    pub(super) fn new() -> Self {
        Self { kept: VecDeque::new(), failed: VecDeque::new(), since_frame: 0 }
    }

    pub(super) fn push(&mut self, exchange: &Exchange, process: Option<ProcessId>, running: &Running) {
        if self.kept.len() >= MAX_FINISHED {
            self.kept.pop_front();
        }
        let ended = Ended {
            exchange: exchange.clone(),
            process,
            hop: running.hop(),
            retry_of: running.retry_of,
            cost: running.cost,
            identity: None,
        };
        // Of both ends one is enough.
        if matches!(exchange.phase, Phase::Failed | Phase::Abandoned) && !exchange.is_mirror {
            if self.failed.len() >= MAX_FAILED {
                self.failed.pop_front();
            }
            self.failed.push_back(ended.clone());
        }
        self.kept.push_back(ended);
        self.since_frame += 1;
    }

    /// The other end of an exchange that has ended is observed, too.
    pub(super) fn note_internal(&mut self, id: ExchangeId) {
        for list in [&mut self.kept, &mut self.failed] {
            if let Some(ended) = list.iter_mut().rev().find(|ended| ended.exchange.id == id) {
                ended.hop.get_or_insert(Hop::Internal);
            }
        }
    }

    /// The rows of a frame; the next one's `finished` begins here.
    pub(super) fn frame(
        &mut self,
        mut live: Vec<Live<'_>>,
        processes: &Processes,
        now: Nanos,
        clock: &WallClock,
    ) -> Requests {
        live.sort_by_key(|live| (live.exchange.opened_at, live.exchange.id));
        let in_flight_omitted = live.len().saturating_sub(MAX_IN_FLIGHT) as u64;
        live.truncate(MAX_IN_FLIGHT);
        let running = |live: &Live<'_>| {
            let identity = live.process.and_then(|process| processes.identity(process));
            Request {
                hop: live.hop,
                retry_of: live.retry_of.map(id_label),
                ..row(live.exchange, identity.as_ref(), now, clock)
            }
        };

        for ended in self.kept.iter_mut().chain(&mut self.failed) {
            // A process that is gone tells nothing more: what was known in time stays with the exchange.
            if ended.identity.is_none() {
                ended.identity = ended.process.and_then(|process| processes.identity(process));
            }
        }
        let over = |ended: &Ended| Request {
            hop: ended.hop,
            retry_of: ended.retry_of.map(id_label),
            cost_usd: ended.cost.map(|cost| cost.usd),
            cost_is_estimate: ended.cost.is_some_and(|cost| cost.is_estimate),
            ..row(&ended.exchange, ended.identity.as_ref(), now, clock)
        };
        let finished = self.since_frame.min(self.kept.len());
        let requests = Requests {
            in_flight: live.iter().map(running).collect(),
            in_flight_omitted,
            recent: self.kept.iter().rev().take(MAX_RECENT).map(over).collect(),
            failed: self.failed.iter().rev().map(over).collect(),
            finished: self.kept.range(self.kept.len() - finished..).map(over).collect(),
            finished_omitted: (self.since_frame - finished) as u64,
        };
        self.since_frame = 0;
        self.kept.drain(..self.kept.len().saturating_sub(MAX_RECENT));
        requests
    }
}

/// Output tokens of a running exchange as they stand: the greater of estimate and what was reported so far.
pub(super) fn output_so_far(exchange: &Exchange) -> u64 {
    exchange.estimated_output.max(exchange.usage.output.unwrap_or(0))
}

fn row(exchange: &Exchange, identity: Option<&(Option<Timestamp>, Label)>, now: Nanos, clock: &WallClock) -> Request {
    let (start_time, command) = match identity {
        Some((start_time, command)) => (*start_time, command.clone()),
        None => (None, exchange.comm.clone()),
    };
    let (output, tokens_source) = output_and_source(exchange);
    let until = exchange.ended_at.unwrap_or(now);
    Request {
        id: id_label(exchange.id),
        sequence: exchange.id.0,
        pid: exchange.pid.map(|pid| pid.0),
        start_time,
        command,
        role: exchange.role,
        hop: None,
        provider: exchange.provider.clone(),
        api: exchange.api,
        dialect: exchange.dialect,
        model: exchange.model.clone(),
        response_model: exchange.response_model.clone(),
        endpoint: endpoint_label(exchange),
        tls: exchange.tls,
        protocol: exchange.protocol,
        stream: exchange.stream,
        phase: exchange.phase,
        started_at: clock.at(exchange.opened_at),
        age_seconds: until.seconds_since(exchange.opened_at),
        status: exchange.status,
        error_type: exchange.error_type.clone(),
        finish_reason: exchange.finish_reason.clone(),
        request_id: exchange.request_id.clone(),
        trace_id: exchange.trace_id.clone(),
        attempt: exchange.attempt,
        retry_of: None,
        time_to_headers_seconds: exchange.time_to_headers_seconds(),
        time_to_first_token_seconds: exchange.time_to_first_token_seconds(),
        time_to_first_visible_token_seconds: exchange.time_to_first_visible_token_seconds(),
        time_since_last_token_seconds: exchange
            .last_token_at
            .filter(|_| !exchange.phase.is_final() && !exchange.output_missed.since_latest)
            .map(|last| now.seconds_since(last)),
        queue_seconds: exchange.queue_seconds,
        connect_seconds: None,
        tls_seconds: None,
        duration_seconds: exchange.duration_seconds(),
        stalls: exchange.stalls,
        longest_gap_seconds: exchange.longest_gap_seconds,
        output_pace: (exchange.output_events > 0).then(|| OutputPace {
            part_seconds: exchange.pace.part_seconds(),
            tokens: exchange.pace.tokens().to_vec(),
        }),
        tokens: TokenTotals {
            input: exchange.usage.input,
            output,
            cached_input: exchange.usage.cached_input,
            cache_creation_input: exchange.usage.cache_creation_input,
            reasoning: exchange.usage.reasoning,
        },
        tokens_source,
        cost_usd: None,
        cost_is_estimate: false,
        bytes_missed: exchange.bytes_missed,
    }
}

fn output_and_source(exchange: &Exchange) -> (Option<u64>, TokensSource) {
    let running = !exchange.phase.is_final();
    match FinalOutput::of(exchange) {
        FinalOutput::Reported(reported) if running && exchange.estimated_output > reported => {
            (Some(exchange.estimated_output), TokensSource::Estimated)
        }
        FinalOutput::Reported(reported) => (Some(reported), TokensSource::Reported),
        FinalOutput::Estimated(estimate) => (Some(estimate), TokensSource::Estimated),
        // Embeddings have no output to report.
        FinalOutput::Unknown if exchange.usage.input.is_some() => (None, TokensSource::Reported),
        FinalOutput::Unknown => (None, TokensSource::Unknown),
    }
}

fn id_label(id: ExchangeId) -> Label {
    id.0.to_string().into()
}

/// Host or address, with the port where it is known.
pub(super) fn endpoint_label(exchange: &Exchange) -> Label {
    let endpoint = &exchange.endpoint;
    let text = match (&endpoint.host, endpoint.address, endpoint.port) {
        (Some(host), _, Some(port)) => format!("{host}:{port}"),
        (Some(host), _, None) => return host.clone(),
        (None, Some(address), Some(port)) => std::net::SocketAddr::new(address, port).to_string(),
        (None, Some(address), None) => address.to_string(),
        (None, None, Some(port)) => format!(":{port}"),
        (None, None, None) => return "unknown".into(),
    };
    Label::new(&text)
}
