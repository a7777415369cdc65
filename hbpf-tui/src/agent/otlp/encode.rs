//! Metrics as OpenTelemetry has them: those of hbpf under its own names, and those of the conventions for generative AI.
//!
//! <https://github.com/open-telemetry/semantic-conventions-genai/blob/main/docs/gen-ai/gen-ai-metrics.md>,
//! <https://opentelemetry.io/docs/specs/otel/metrics/data-model/>

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashMap, VecDeque};

use hbpf_core::aggregate::exponential;
use hbpf_core::exchange::Api;
use hbpf_core::label::Label;
use hbpf_core::snapshot::{Distribution, Latency, Series, SeriesRole, Snapshot};
use jiff::{SignedDuration, Timestamp};
use opentelemetry_proto::tonic::common::v1::any_value::Value as AnyValueOf;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::metrics::v1::exponential_histogram_data_point::Buckets;
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::number_data_point::Value as NumberOf;
use opentelemetry_proto::tonic::metrics::v1::{
    AggregationTemporality, ExponentialHistogram, ExponentialHistogramDataPoint, Gauge, Histogram, HistogramDataPoint,
    Metric, NumberDataPoint, ResourceMetrics, ScopeMetrics, Sum,
};
use opentelemetry_proto::tonic::resource::v1::Resource;
use prost::Message;

use super::settings::{Settings, Temporality};
use crate::metrics::{self, Family, Kind, Value};

/// What the data are by.
const SCOPE: &str = "hbpf";

/// Bytes of a message, unless one metric has more: a collector takes 4 MiB over gRPC, if it is not told otherwise.
const MAX_MESSAGE: usize = 1 << 20;

/// How long what was sent of a point that comes no more is remembered.
const REMEMBERED: SignedDuration = SignedDuration::from_secs(3600);

/// What points are told apart by.
pub(super) type Attributes = Vec<(&'static str, Label)>;

/// Turns snapshots into what is sent, and remembers what was.
pub(super) struct Encoder {
    resource: Resource,
    temporality: Temporality,
    exponential: bool,
    /// What had been sent of each counter and histogram: that is left out next time, if each time is for itself.
    sent: HashMap<(String, Attributes), Sent>,
    /// The same, as it will be when what is being sent has been: by message.
    sending: VecDeque<HashMap<(String, Attributes), Sent>>,
}

/// What was sent of a point.
#[derive(Clone)]
struct Sent {
    at: Timestamp,
    since: Timestamp,
    value: SentValue,
}

#[derive(Clone)]
enum SentValue {
    Number(f64),
    Values(Distribution),
}

/// A metric before it is written.
struct Instrument {
    name: String,
    description: String,
    unit: &'static str,
    kind: Kind,
    points: Vec<Measured>,
}

struct Measured {
    attributes: Attributes,
    since: Timestamp,
    value: Value,
}

impl Encoder {
    pub(super) fn new(settings: &Settings, snapshot: &Snapshot) -> Self {
        Self {
            resource: resource(settings, snapshot),
            temporality: settings.temporality,
            exponential: settings.exponential,
            sent: HashMap::new(),
            sending: VecDeque::new(),
        }
    }

    /// What there is to send, as messages. For each that is, in their order, [`Self::confirm`] is to be called.
    pub(super) fn encode(&mut self, snapshot: &Snapshot, families: Vec<Family>) -> Vec<Vec<ResourceMetrics>> {
        self.sending.clear();
        let at = snapshot.captured_at;
        let own = families.into_iter().map(own);
        let instruments = own.chain(conventions(snapshot)).filter(|it| !it.points.is_empty());
        let (mut messages, mut bytes) = (Vec::<Vec<Metric>>::new(), 0);
        for instrument in instruments {
            self.sending.push_back(HashMap::new());
            let metric = self.metric(instrument, at);
            bytes += metric.encoded_len();
            match messages.last_mut() {
                Some(message) if bytes <= MAX_MESSAGE => {
                    message.push(metric);
                    let of_metric = self.sending.pop_back().unwrap_or_default();
                    self.sending.back_mut().expect("a message has begun").extend(of_metric);
                }
                _ => {
                    bytes = metric.encoded_len();
                    messages.push(vec![metric]);
                }
            }
        }
        let message = |metrics| {
            vec![ResourceMetrics {
                resource: Some(self.resource.clone()),
                scope_metrics: vec![ScopeMetrics { scope: Some(scope()), metrics, schema_url: String::new() }],
                schema_url: String::new(),
            }]
        };
        messages.into_iter().map(message).collect()
    }

    /// The next of the messages that were encoded last has been sent. What was not among it this time, as a number that could not be
    /// read, is remembered for a while.
    pub(super) fn confirm(&mut self) {
        let Some(sending) = self.sending.pop_front() else { return };
        let now = sending.values().map(|sent| sent.at).max();
        self.sent.retain(|_, sent| now.is_none_or(|now| now.duration_since(sent.at) < REMEMBERED));
        self.sent.extend(sending);
    }

    /// The next of them was refused.
    pub(super) fn skip(&mut self) {
        self.sending.pop_front();
    }

    /// All of them have been, by somebody else.
    pub(super) fn confirm_all(&mut self) {
        while !self.sending.is_empty() {
            self.confirm();
        }
    }

    fn metric(&mut self, instrument: Instrument, at: Timestamp) -> Metric {
        let Instrument { name, description, unit, kind, points } = instrument;
        let temporality = match self.temporality {
            Temporality::Cumulative => AggregationTemporality::Cumulative,
            Temporality::Delta => AggregationTemporality::Delta,
        };
        let data = match kind {
            Kind::Gauge | Kind::Info => Data::Gauge(Gauge {
                data_points: points.iter().filter_map(|point| number(point, point.since, at, None)).collect(),
            }),
            Kind::Counter => {
                let data_points = points.iter().filter_map(|point| self.sum(&name, point, at)).collect();
                Data::Sum(Sum { data_points, aggregation_temporality: temporality.into(), is_monotonic: true })
            }
            Kind::Histogram(first, last) => {
                let values: Vec<_> = points.iter().filter_map(|point| self.values(&name, point, at)).collect();
                if self.exponential {
                    let data_points = values.into_iter().map(|values| values.exponential(at)).collect();
                    Data::ExponentialHistogram(ExponentialHistogram {
                        data_points,
                        aggregation_temporality: temporality.into(),
                    })
                } else {
                    let data_points = values.into_iter().map(|values| values.explicit(first, last, at)).collect();
                    Data::Histogram(Histogram { data_points, aggregation_temporality: temporality.into() })
                }
            }
        };
        Metric { name, description, unit: unit.to_owned(), metadata: Vec::new(), data: Some(data) }
    }

    /// What was sent of a point, if it is still the same that counts.
    fn before(&self, name: &str, point: &Measured) -> Option<&Sent> {
        let sent = self.sent.get(&(name.to_owned(), point.attributes.clone()))?;
        (self.temporality == Temporality::Delta && sent.since == point.since).then_some(sent)
    }

    fn keep(&mut self, name: &str, point: &Measured, at: Timestamp, value: SentValue) {
        if self.temporality == Temporality::Delta {
            let key = (name.to_owned(), point.attributes.clone());
            let sending = self.sending.back_mut().expect("a message is written");
            sending.insert(key, Sent { at, since: point.since, value });
        }
    }

    fn sum(&mut self, name: &str, point: &Measured, at: Timestamp) -> Option<NumberDataPoint> {
        let Value::Number(value) = point.value else { return None };
        let before = self.before(name, point).and_then(|sent| match sent.value {
            SentValue::Number(before) if before <= value => Some((sent.at, before)),
            _ => None,
        });
        self.keep(name, point, at, SentValue::Number(value));
        let since = before.map_or(point.since, |(at, _)| at);
        number(point, since, at, before.map(|(_, before)| before))
    }

    fn values<'a>(&mut self, name: &str, point: &'a Measured, at: Timestamp) -> Option<Values<'a>> {
        let Value::Histogram(values) = &point.value else { return None };
        let before = self.before(name, point).and_then(|sent| match &sent.value {
            SentValue::Values(before) => {
                let buckets = exponential::subtract(&values.buckets, &before.buckets)?;
                let (count, sum) = (values.count.checked_sub(before.count)?, values.sum - before.sum);
                // Of a part neither the least nor the greatest is known.
                Some(Values {
                    attributes: &point.attributes,
                    since: sent.at,
                    count,
                    sum,
                    extent: None,
                    scale: values.scale,
                    buckets,
                })
            }
            SentValue::Number(_) => None,
        });
        self.keep(name, point, at, SentValue::Values(values.clone()));
        Some(before.unwrap_or_else(|| Values {
            attributes: &point.attributes,
            since: point.since,
            count: values.count,
            sum: values.sum,
            extent: Some((values.min, values.max)),
            scale: values.scale,
            buckets: values.buckets.clone(),
        }))
    }
}

fn number(point: &Measured, since: Timestamp, at: Timestamp, before: Option<f64>) -> Option<NumberDataPoint> {
    let Value::Number(value) = point.value else { return None };
    Some(NumberDataPoint {
        attributes: attributes(&point.attributes),
        start_time_unix_nano: nanoseconds(since),
        time_unix_nano: nanoseconds(at),
        value: Some(NumberOf::AsDouble(value - before.unwrap_or(0.0))),
        ..NumberDataPoint::default()
    })
}

/// Values by size, of which what was sent before has been taken.
struct Values<'a> {
    attributes: &'a Attributes,
    since: Timestamp,
    count: u64,
    sum: f64,
    extent: Option<(f64, f64)>,
    scale: i32,
    buckets: Vec<(i32, u64)>,
}

impl Values<'_> {
    fn exponential(self, at: Timestamp) -> ExponentialHistogramDataPoint {
        let first = self.buckets.first().map_or(0, |(index, _)| *index);
        let last = self.buckets.last().map_or(first - 1, |(index, _)| *index);
        let mut counts = vec![0; usize::try_from(last - first + 1).unwrap_or_default()];
        for (index, count) in &self.buckets {
            counts[(index - first) as usize] = *count;
        }
        ExponentialHistogramDataPoint {
            attributes: attributes(self.attributes),
            start_time_unix_nano: nanoseconds(self.since),
            time_unix_nano: nanoseconds(at),
            count: self.count,
            sum: Some(self.sum),
            scale: self.scale,
            positive: Some(Buckets { offset: first, bucket_counts: counts }),
            min: self.extent.map(|(min, _)| min),
            max: self.extent.map(|(_, max)| max),
            ..ExponentialHistogramDataPoint::default()
        }
    }

    fn explicit(self, first: i32, last: i32, at: Timestamp) -> HistogramDataPoint {
        let values = Distribution { buckets: self.buckets, scale: self.scale, ..Distribution::default() };
        let mut below = 0;
        let mut bucket_counts: Vec<u64> = (first..=last)
            .map(|exponent| {
                let up_to = metrics::below(&values, exponent);
                up_to - std::mem::replace(&mut below, up_to)
            })
            .collect();
        bucket_counts.push(self.count.saturating_sub(below));
        HistogramDataPoint {
            attributes: attributes(self.attributes),
            start_time_unix_nano: nanoseconds(self.since),
            time_unix_nano: nanoseconds(at),
            count: self.count,
            sum: Some(self.sum),
            bucket_counts,
            explicit_bounds: (first..=last).map(|exponent| f64::from(exponent).exp2()).collect(),
            min: self.extent.map(|(min, _)| min),
            max: self.extent.map(|(_, max)| max),
            ..HistogramDataPoint::default()
        }
    }
}

pub(super) fn scope() -> InstrumentationScope {
    InstrumentationScope {
        name: SCOPE.to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        ..InstrumentationScope::default()
    }
}

pub(super) fn nanoseconds(at: Timestamp) -> u64 {
    u64::try_from(at.as_nanosecond()).unwrap_or_default()
}

pub(super) fn text(key: &str, value: &str) -> KeyValue {
    any(key, AnyValueOf::StringValue(value.to_owned()))
}

pub(super) fn any(key: &str, value: AnyValueOf) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() }
}

fn attributes(of: &Attributes) -> Vec<KeyValue> {
    of.iter()
        .map(|(key, value)| match value.parse() {
            // By the conventions a number.
            Ok(number) if matches!(*key, PORT | STATUS) => any(key, AnyValueOf::IntValue(number)),
            _ => text(key, value),
        })
        .collect()
}

pub(super) fn resource(settings: &Settings, snapshot: &Snapshot) -> Resource {
    let host = &snapshot.host;
    let arch = match host.arch.as_str() {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let own = [
        ("service.version", env!("CARGO_PKG_VERSION")),
        ("service.instance.id", host.hostname.as_str()),
        ("host.name", host.hostname.as_str()),
        ("host.arch", arch),
        ("os.type", "linux"),
        ("os.version", host.kernel.as_str()),
    ];
    let is_told = |name: &str| settings.resource.iter().any(|(told, _)| told == name);
    let told = settings.resource.iter().map(|(name, value)| text(name, value));
    let attributes = told.chain(own.iter().filter(|(name, _)| !is_told(name)).map(|(name, value)| text(name, value)));
    Resource { attributes: attributes.collect(), ..Resource::default() }
}

/// One of hbpf's own: `hbpf_llm_tokens` is `hbpf.llm.tokens`, and its labels go by the names of the conventions.
fn own(family: Family) -> Instrument {
    const UNITS: [(&str, &str); 8] = [
        ("_seconds", "s"),
        ("_bytes", "By"),
        ("_ratio", "1"),
        ("_usd", "{USD}"),
        ("_watts", "W"),
        ("_joules", "J"),
        ("_celsius", "Cel"),
        ("_hertz", "Hz"),
    ];
    let name = format!("{}{}", family.prefix.replace('_', "."), family.definition.name);
    let unit = UNITS.into_iter().find(|(suffix, _)| name.ends_with(suffix)).map_or("", |(_, unit)| unit);
    let points = family.points.into_iter().map(|point| {
        let named = point.labels().flat_map(|(name, value)| attribute(name, value));
        Measured { attributes: named.collect(), since: point.since, value: point.value }
    });
    Instrument {
        name: name.trim_end_matches('.').to_owned(),
        description: family.definition.help.to_owned(),
        unit,
        kind: family.definition.kind,
        points: points.collect(),
    }
}

const PORT: &str = "server.port";
const STATUS: &str = "http.response.status_code";

fn attribute(name: &'static str, value: &Label) -> Vec<(&'static str, Label)> {
    let key = match name {
        "namespace" => "k8s.namespace.name",
        "pod" => "k8s.pod.name",
        "container" => "k8s.container.name",
        "workload" => "hbpf.workload",
        "role" => "hbpf.role",
        "provider" => "gen_ai.provider.name",
        "model" => "gen_ai.request.model",
        "api" => "hbpf.api",
        "endpoint" => return endpoint(value),
        "error_type" => "error.type",
        "status" => STATUS,
        other => other,
    };
    vec![(key, value.clone())]
}

/// `host:port`, apart.
fn endpoint(name: &Label) -> Vec<(&'static str, Label)> {
    match name.rsplit_once(':') {
        Some((host, port)) if port.parse::<u16>().is_ok() => {
            vec![("server.address", Label::new(host.trim_matches(['[', ']']))), (PORT, Label::new(port))]
        }
        _ => vec![("server.address", name.clone())],
    }
}

/// A metric of the conventions: its name, unit, what it is, whose, and where its values are.
struct Convention {
    name: &'static str,
    unit: &'static str,
    description: &'static str,
    kind: Kind,
    of_client: bool,
    token_type: Option<&'static str>,
    values: fn(&Latency) -> &Option<Distribution>,
}

const TIMES: Kind = Kind::Histogram(-10, 9);
const GAPS: Kind = Kind::Histogram(-12, 3);
const SIZES: Kind = Kind::Histogram(0, 20);

const TOKEN_USAGE: &str = "gen_ai.client.token.usage";

const CONVENTIONS: [Convention; 7] = [
    Convention {
        name: TOKEN_USAGE,
        unit: "{token}",
        description: "Tokens of an operation.",
        kind: SIZES,
        of_client: true,
        token_type: Some("input"),
        values: |latency| &latency.input_tokens,
    },
    Convention {
        name: TOKEN_USAGE,
        unit: "{token}",
        description: "Tokens of an operation.",
        kind: SIZES,
        of_client: true,
        token_type: Some("output"),
        values: |latency| &latency.output_tokens,
    },
    Convention {
        name: "gen_ai.client.operation.duration",
        unit: "s",
        description: "How long an operation took.",
        kind: TIMES,
        of_client: true,
        token_type: None,
        values: |latency| &latency.duration_seconds,
    },
    Convention {
        name: "gen_ai.client.operation.time_to_first_chunk",
        unit: "s",
        description: "From a request to the first output.",
        kind: TIMES,
        of_client: true,
        token_type: None,
        values: |latency| &latency.time_to_first_token_seconds,
    },
    Convention {
        name: "gen_ai.server.request.duration",
        unit: "s",
        description: "From a request to the last output.",
        kind: TIMES,
        of_client: false,
        token_type: None,
        values: |latency| &latency.duration_seconds,
    },
    Convention {
        name: "gen_ai.server.time_to_first_token",
        unit: "s",
        description: "From a request to the first token.",
        kind: TIMES,
        of_client: false,
        token_type: None,
        values: |latency| &latency.time_to_first_token_seconds,
    },
    Convention {
        name: "gen_ai.server.time_per_output_token",
        unit: "s",
        description: "Between tokens of an answer.",
        kind: GAPS,
        of_client: false,
        token_type: None,
        values: |latency| &latency.inter_token_seconds,
    },
];

fn conventions(snapshot: &Snapshot) -> Vec<Instrument> {
    let rows = || snapshot.series.iter().flat_map(|series| &series.rows);
    let mut instruments: Vec<Instrument> = Vec::new();
    for convention in &CONVENTIONS {
        // What is internal has both ends.
        let not = if convention.of_client { SeriesRole::Server } else { SeriesRole::Client };
        let is_of = |row: &&Series| row.role != not;
        // The conventions tell less apart than series do: what has the same attributes is one.
        let mut sums: BTreeMap<Attributes, (Timestamp, Distribution)> = BTreeMap::new();
        for row in rows().filter(is_of) {
            let Some(values) = (convention.values)(&row.stats.latency.since_start) else { continue };
            let mut attributes = of_operation(row);
            attributes.extend(convention.token_type.map(|kind| ("gen_ai.token.type", Label::from(kind))));
            match sums.entry(attributes) {
                Entry::Vacant(entry) => _ = entry.insert((row.since, values.clone())),
                Entry::Occupied(mut entry) => {
                    let (since, sum) = entry.get_mut();
                    *since = row.since.min(*since);
                    (sum.count, sum.sum) = (sum.count + values.count, sum.sum + values.sum);
                    (sum.min, sum.max) = (sum.min.min(values.min), sum.max.max(values.max));
                    sum.buckets = exponential::merge(&sum.buckets, &values.buckets);
                }
            }
        }
        let points = sums.into_iter().map(|(attributes, (since, values))| Measured {
            attributes,
            since,
            value: Value::Histogram(values),
        });
        // The two kinds of tokens are points of one metric.
        match instruments.last_mut().filter(|last| last.name == convention.name) {
            Some(last) => last.points.extend(points),
            None => instruments.push(Instrument {
                name: convention.name.to_owned(),
                description: convention.description.to_owned(),
                unit: convention.unit,
                kind: convention.kind,
                points: points.collect(),
            }),
        }
    }
    instruments
}

fn of_operation(row: &Series) -> Attributes {
    let container = row.container.as_ref();
    let mut attributes = vec![
        ("gen_ai.operation.name", Label::from(operation(row.api))),
        ("gen_ai.provider.name", row.provider.clone()),
        ("hbpf.workload", row.workload.clone()),
    ];
    attributes.extend(row.model.clone().map(|model| ("gen_ai.request.model", model)));
    attributes.extend(endpoint(&row.endpoint));
    attributes.extend(container.and_then(|it| it.namespace.clone()).map(|it| ("k8s.namespace.name", it)));
    attributes.extend(container.and_then(|it| it.pod.clone()).map(|it| ("k8s.pod.name", it)));
    attributes.extend(container.and_then(|it| it.name.clone()).map(|it| ("k8s.container.name", it)));
    attributes
}

/// The conventions' name of what is asked for; those that they do not have go by ours.
pub(super) fn operation(api: Api) -> &'static str {
    match api {
        Api::Chat | Api::Responses | Api::Messages => "chat",
        other => crate::sets::api_text(other),
    }
}
