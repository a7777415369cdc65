//! A span for each exchange that has ended: what it was and how it went, nothing of what was said.
//!
//! <https://github.com/open-telemetry/semantic-conventions-genai/blob/main/docs/gen-ai/gen-ai-spans.md>

use std::collections::VecDeque;
use std::time::Duration;

use hbpf_core::exchange::{Phase, Role};
use hbpf_core::label::Label;
use hbpf_core::snapshot::{Request, Snapshot};
use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
use opentelemetry_proto::tonic::common::v1::{AnyValue, ArrayValue, KeyValue};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span, Status};
use sha2::{Digest, Sha256};

use super::encode::{any, nanoseconds, operation, resource, scope, text};
use super::settings::Settings;

/// Spans that wait.
pub(super) struct Spans {
    settings: Settings,
    resource: Option<Resource>,
    /// Number of the snapshot taken last.
    sequence: Option<u64>,
    queue: VecDeque<Span>,
    /// How many of the first were given out last.
    given: usize,
}

impl Spans {
    pub(super) fn new(settings: &Settings) -> Self {
        Self { settings: settings.clone(), resource: None, sequence: None, queue: VecDeque::new(), given: 0 }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Whether there are enough for an export.
    pub(super) fn is_full(&self) -> bool {
        self.queue.len() >= self.settings.spans.batch
    }

    /// How many snapshots should have come between the one before and this.
    pub(super) fn missed_before(&self, snapshot: &Snapshot) -> u64 {
        self.sequence.map_or(0, |last| snapshot.sequence.saturating_sub(last + 1))
    }

    /// Takes what has ended since the snapshot before; gives how many had no place.
    pub(super) fn take(&mut self, snapshot: &Snapshot) -> u64 {
        self.resource.get_or_insert_with(|| resource(&self.settings, snapshot));
        self.sequence = Some(snapshot.sequence);
        let mut dropped = snapshot.requests.finished_omitted;
        for request in &snapshot.requests.finished {
            let ids = Ids::of(request, snapshot);
            if !ids.is_sampled(self.settings.spans.ratio) {
                continue;
            }
            if self.queue.len() >= self.settings.spans.queue {
                dropped += 1;
                continue;
            }
            self.queue.push_back(span(request, snapshot, &ids));
        }
        dropped
    }

    /// The next to send. If they are, [`Self::confirm`] is to be called.
    pub(super) fn batch(&mut self) -> Option<Vec<ResourceSpans>> {
        self.given = self.queue.len().min(self.settings.spans.batch);
        if self.given == 0 {
            return None;
        }
        let spans = self.queue.range(..self.given).cloned().collect();
        Some(vec![ResourceSpans {
            resource: self.resource.clone(),
            scope_spans: vec![ScopeSpans { scope: Some(scope()), spans, ..ScopeSpans::default() }],
            ..ResourceSpans::default()
        }])
    }

    /// Those given out last have been sent.
    pub(super) fn confirm(&mut self) {
        self.queue.drain(..self.given);
        self.given = 0;
    }
}

struct Ids {
    trace: [u8; 16],
    span: [u8; 8],
}

impl Ids {
    /// The trace that the exchange belongs to, if it says so, and otherwise one of its own.
    fn of(request: &Request, snapshot: &Snapshot) -> Self {
        let mut hash = Sha256::new();
        for part in [snapshot.host.hostname.as_str(), &snapshot.observation_started_at.to_string(), &request.id] {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        let own: [u8; 32] = hash.finalize().into();
        let mut trace = [0; 16];
        trace.copy_from_slice(&own[..16]);
        let mut span = [0; 8];
        span.copy_from_slice(&own[16..24]);
        let told = request.trace_id.as_ref().and_then(|id| u128::from_str_radix(id, 16).ok()).filter(|id| *id != 0);
        Self { trace: told.map_or(trace, u128::to_be_bytes), span }
    }

    /// As all that see the same trace decide, by its last seven bytes:
    /// <https://opentelemetry.io/docs/specs/otel/trace/tracestate-probability-sampling/>
    fn is_sampled(&self, ratio: f64) -> bool {
        let [.., a, b, c, d, e, f, g] = self.trace;
        let number = u64::from_be_bytes([0, a, b, c, d, e, f, g]);
        number as f64 >= (1.0 - ratio) * (1_u64 << 56) as f64
    }
}

fn span(request: &Request, snapshot: &Snapshot, ids: &Ids) -> Span {
    let operation = operation(request.api);
    let model = request.model.as_ref();
    let start = nanoseconds(request.started_at);
    let took = Duration::try_from_secs_f64(request.duration_seconds.unwrap_or(request.age_seconds)).unwrap_or_default();
    let status = match request.phase {
        Phase::Failed | Phase::Abandoned => Status {
            code: StatusCode::Error.into(),
            message: request.error_type.as_ref().map(ToString::to_string).unwrap_or_default(),
        },
        _ => Status::default(),
    };
    Span {
        trace_id: ids.trace.to_vec(),
        span_id: ids.span.to_vec(),
        name: model.map_or_else(|| operation.to_owned(), |model| format!("{operation} {model}")),
        kind: match request.role {
            Role::Client => SpanKind::Client,
            Role::Server => SpanKind::Server,
        }
        .into(),
        start_time_unix_nano: start,
        end_time_unix_nano: start.saturating_add(u64::try_from(took.as_nanos()).unwrap_or_default()),
        attributes: attributes(request, snapshot, operation),
        status: Some(status),
        ..Span::default()
    }
}

fn attributes(request: &Request, snapshot: &Snapshot, operation: &str) -> Vec<KeyValue> {
    let process = snapshot.processes.iter().find(|process| {
        Some(process.pid) == request.pid && (request.start_time.is_none() || process.start_time == request.start_time)
    });
    let container = process.and_then(|process| process.container.as_ref());
    let workload = process.and_then(|process| process.workload.as_ref());
    let workload = workload.and_then(|key| snapshot.workloads.iter().find(|workload| workload.key == *key));
    let (address, port) = match request.endpoint.rsplit_once(':') {
        Some((host, port)) => (host.trim_matches(['[', ']']), port.parse::<i64>().ok()),
        None => (request.endpoint.as_str(), None),
    };
    let label = |key: &str, value: Option<&Label>| value.map(|value| text(key, value));
    let count = |key: &str, value: Option<u64>| Some(any(key, Any::IntValue(i64::try_from(value?).ok()?)));
    let number = |key: &str, value: Option<f64>| value.map(|value| any(key, Any::DoubleValue(value)));
    let reasons = request.finish_reason.as_ref().map(|reason| {
        let reason = AnyValue { value: Some(Any::StringValue(reason.to_string())) };
        any("gen_ai.response.finish_reasons", Any::ArrayValue(ArrayValue { values: vec![reason] }))
    });
    let tokens = &request.tokens;
    [
        Some(text("gen_ai.operation.name", operation)),
        Some(text("gen_ai.provider.name", &request.provider)),
        label("gen_ai.request.model", request.model.as_ref()),
        label("gen_ai.response.model", request.response_model.as_ref()),
        reasons,
        count("gen_ai.usage.input_tokens", tokens.input),
        count("gen_ai.usage.output_tokens", tokens.output),
        count("gen_ai.usage.cache_read.input_tokens", tokens.cached_input),
        count("gen_ai.usage.cache_creation.input_tokens", tokens.cache_creation_input),
        count("gen_ai.usage.reasoning.output_tokens", tokens.reasoning),
        Some(text("server.address", address)),
        port.map(|port| any("server.port", Any::IntValue(port))),
        count("http.response.status_code", request.status.map(u64::from)),
        label("error.type", request.error_type.as_ref()),
        count("process.pid", request.pid.map(u64::from)),
        label("k8s.namespace.name", container.and_then(|it| it.namespace.as_ref())),
        label("k8s.pod.name", container.and_then(|it| it.pod.as_ref())),
        label("k8s.container.name", container.and_then(|it| it.name.as_ref())),
        label("hbpf.workload", workload.map(|it| &it.name)),
        number("hbpf.time_to_first_token", request.time_to_first_token_seconds),
        number("hbpf.cost_usd", request.cost_usd),
        Some(any("hbpf.cost_is_estimate", Any::BoolValue(request.cost_is_estimate)))
            .filter(|_| request.cost_usd.is_some()),
    ]
    .into_iter()
    .flatten()
    .collect()
}
