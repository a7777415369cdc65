//! Tests of the aggregator as a whole, with a clock that they set.

mod lifecycle;
mod properties;
mod relays;
mod retries;
mod rows;
mod rules;
mod series;
mod tools;
mod workloads;

use std::collections::BTreeMap;

use super::*;
use crate::exchange::{Api, Dialect, Endpoint, OutputMissed, Pace, Phase, Protocol, Role, Usage};
use crate::snapshot::{LlmStats, TokenRates, TokenTotals};

/// Ten minutes after boot.
const START: Nanos = Nanos(600_000_000_000);

const WALL: &str = "2026-11-22T12:00:00Z";

/// The moment `seconds` after the start.
fn at(seconds: f64) -> Nanos {
    START.after(Duration::from_secs_f64(seconds))
}

pub(crate) fn exchange(id: u64) -> Exchange {
    Exchange {
        id: ExchangeId(id),
        pid: Some(Pid(100)),
        comm: "python3".into(),
        role: Role::Client,
        is_mirror: false,
        other_end: None,
        provider: "openai".into(),
        api: Api::Chat,
        dialect: Dialect::OpenaiChat,
        model: None,
        response_model: None,
        tool_call: None,
        endpoint: Endpoint { host: Some("api.example".into()), address: None, port: Some(443) },
        tls: true,
        protocol: Protocol::Http1,
        stream: None,
        phase: Phase::Sending,
        opened_at: START,
        request_sent_at: None,
        headers_at: None,
        first_token_at: None,
        first_visible_token_at: None,
        last_token_at: None,
        output_missed: OutputMissed::default(),
        ended_at: None,
        status: None,
        error_type: None,
        finish_reason: None,
        request_id: None,
        trace_id: None,
        attempt: None,
        usage: Usage::default(),
        estimated_output: 0,
        output_events: 0,
        pace: Pace::default(),
        stalls: 0,
        longest_gap_seconds: None,
        tier: None,
        cost_reported_usd: None,
        queue_seconds: None,
        rate_limit: RateLimit::default(),
        bytes_seen: 0,
        bytes_missed: 0,
    }
}

/// An aggregator and the exchanges that run, driven as the engine drives it.
struct Bench {
    aggregator: Aggregator,
    live: BTreeMap<u64, Exchange>,
    facts: HostFacts,
}

impl Bench {
    fn new() -> Self {
        let aggregator = Aggregator::new(AggregatorConfig::default(), START);
        Self {
            aggregator,
            live: BTreeMap::new(),
            facts: HostFacts { watching_since: Some(START), ..HostFacts::default() },
        }
    }

    fn open(&mut self, seconds: f64, id: u64, change: impl FnOnce(&mut Exchange)) {
        let mut exchange = exchange(id);
        exchange.opened_at = at(seconds);
        change(&mut exchange);
        self.aggregator.observe(at(seconds), &exchange, ExchangeEvent::Opened);
        self.live.insert(id, exchange);
    }

    fn event(&mut self, seconds: f64, id: u64, event: ExchangeEvent, change: impl FnOnce(&mut Exchange)) {
        let exchange = self.live.get_mut(&id).unwrap();
        change(exchange);
        self.aggregator.observe(at(seconds), exchange, event);
        if event == ExchangeEvent::Ended {
            self.live.remove(&id);
        }
    }

    fn sent(&mut self, seconds: f64, id: u64, model: &str) {
        self.event(seconds, id, ExchangeEvent::RequestSent, |exchange| {
            exchange.model = Some(model.into());
            exchange.request_sent_at = Some(at(seconds));
            exchange.phase = Phase::Waiting;
        });
    }

    fn headers(&mut self, seconds: f64, id: u64, status: u16) {
        self.event(seconds, id, ExchangeEvent::Headers, |exchange| {
            exchange.status = Some(status);
            exchange.headers_at = Some(at(seconds));
        });
    }

    fn output(&mut self, seconds: f64, id: u64, tokens: u64) {
        let gap_seconds = self.live[&id].last_token_at.map(|last| at(seconds).seconds_since(last));
        if let Some(gap) = gap_seconds.filter(|gap| *gap > Exchange::STALL.as_secs_f64()) {
            self.event(seconds, id, ExchangeEvent::Stalled { seconds: gap }, |exchange| exchange.stalls += 1);
        }
        self.event(seconds, id, ExchangeEvent::Output { tokens, gap_seconds }, |exchange| {
            exchange.phase = Phase::Streaming;
            exchange.first_token_at.get_or_insert(at(seconds));
            exchange.first_visible_token_at.get_or_insert(at(seconds));
            exchange.last_token_at = Some(at(seconds));
            exchange.estimated_output += tokens;
            exchange.output_events += 1;
        });
    }

    fn end(&mut self, seconds: f64, id: u64, phase: Phase, change: impl FnOnce(&mut Exchange)) {
        self.event(seconds, id, ExchangeEvent::Ended, |exchange| {
            exchange.phase = phase;
            exchange.ended_at = Some(at(seconds));
            change(exchange);
        });
    }

    /// Ends as it should, with that usage.
    fn done(&mut self, seconds: f64, id: u64, input: u64, output: u64) {
        self.end(seconds, id, Phase::Done, |exchange| {
            exchange.usage = Usage { input: Some(input), output: Some(output), ..Usage::default() };
        });
    }

    /// A whole exchange without a stream, a second long.
    fn call(&mut self, seconds: f64, id: u64, model: &str, change: impl FnOnce(&mut Exchange)) {
        self.open(seconds, id, change);
        self.sent(seconds, id, model);
        self.headers(seconds + 1.0, id, 200);
        self.done(seconds + 1.0, id, 10, 20);
    }

    fn frame(&mut self, seconds: f64) -> Snapshot {
        let clock = WallClock { monotonic: START, wall: WALL.parse().unwrap() };
        self.aggregator.snapshot(at(seconds), &clock, self.live.values(), self.facts.clone())
    }
}
