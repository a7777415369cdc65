//! Metrics as the protocol buffers that Prometheus takes native histograms from.
//!
//! <https://github.com/prometheus/client_model/blob/master/io/prometheus/client/metrics.proto>: the messages below are the part of
//! it that is written here.

use hbpf_core::snapshot::Distribution;
use prost::Message;

use super::exemplars::{self, Exemplar};
use super::openmetrics::below;
use super::{Family, Kind, Point, Value};

/// Values up to here count as zero: what cannot be told from it, and what is known to be no larger.
const ZERO_THRESHOLD: f64 = 0.0;

#[derive(Clone, PartialEq, Message)]
struct MetricFamily {
    #[prost(string, optional, tag = "1")]
    name: Option<String>,
    #[prost(string, optional, tag = "2")]
    help: Option<String>,
    #[prost(enumeration = "MetricType", optional, tag = "3")]
    kind: Option<i32>,
    #[prost(message, repeated, tag = "4")]
    metric: Vec<Metric>,
    #[prost(string, optional, tag = "5")]
    unit: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
enum MetricType {
    Counter = 0,
    Gauge = 1,
    Histogram = 4,
}

#[derive(Clone, PartialEq, Message)]
struct Metric {
    #[prost(message, repeated, tag = "1")]
    label: Vec<LabelPair>,
    #[prost(message, optional, tag = "2")]
    gauge: Option<Number>,
    #[prost(message, optional, tag = "3")]
    counter: Option<Number>,
    #[prost(message, optional, tag = "7")]
    histogram: Option<Histogram>,
}

#[derive(Clone, PartialEq, Message)]
struct LabelPair {
    #[prost(string, optional, tag = "1")]
    name: Option<String>,
    #[prost(string, optional, tag = "2")]
    value: Option<String>,
}

/// Gauge and Counter alike.
#[derive(Clone, PartialEq, Message)]
struct Number {
    #[prost(double, optional, tag = "1")]
    value: Option<f64>,
}

#[derive(Clone, PartialEq, Message)]
struct Histogram {
    #[prost(uint64, optional, tag = "1")]
    sample_count: Option<u64>,
    #[prost(double, optional, tag = "2")]
    sample_sum: Option<f64>,
    #[prost(message, repeated, tag = "3")]
    bucket: Vec<Bucket>,
    #[prost(sint32, optional, tag = "5")]
    schema: Option<i32>,
    #[prost(double, optional, tag = "6")]
    zero_threshold: Option<f64>,
    #[prost(uint64, optional, tag = "7")]
    zero_count: Option<u64>,
    #[prost(message, repeated, tag = "12")]
    positive_span: Vec<BucketSpan>,
    #[prost(sint64, repeated, packed = "false", tag = "13")]
    positive_delta: Vec<i64>,
}

#[derive(Clone, PartialEq, Message)]
struct Bucket {
    #[prost(uint64, optional, tag = "1")]
    cumulative_count: Option<u64>,
    #[prost(double, optional, tag = "2")]
    upper_bound: Option<f64>,
    #[prost(message, optional, tag = "3")]
    exemplar: Option<ExemplarOf>,
}

#[derive(Clone, PartialEq, Message)]
struct ExemplarOf {
    #[prost(message, repeated, tag = "1")]
    label: Vec<LabelPair>,
    #[prost(double, optional, tag = "2")]
    value: Option<f64>,
    #[prost(message, optional, tag = "3")]
    timestamp: Option<Instant>,
}

/// `google.protobuf.Timestamp`.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
struct Instant {
    #[prost(int64, optional, tag = "1")]
    seconds: Option<i64>,
    #[prost(int32, optional, tag = "2")]
    nanos: Option<i32>,
}

#[derive(Clone, Copy, PartialEq, Eq, Message)]
struct BucketSpan {
    #[prost(sint32, optional, tag = "1")]
    offset: Option<i32>,
    #[prost(uint32, optional, tag = "2")]
    length: Option<u32>,
}

/// All of it: families with their lengths before them.
pub(crate) fn protobuf(families: &[Family]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for family in families.iter().filter(|family| !family.points.is_empty()) {
        message(family).encode_length_delimited(&mut bytes).expect("a vector grows");
    }
    bytes
}

fn message(family: &Family) -> MetricFamily {
    let (kind, suffix) = match family.definition.kind {
        Kind::Counter => (MetricType::Counter, "_total"),
        Kind::Gauge => (MetricType::Gauge, ""),
        Kind::Info => (MetricType::Gauge, "_info"),
        Kind::Histogram(..) => (MetricType::Histogram, ""),
    };
    MetricFamily {
        name: Some(family.name() + suffix),
        help: Some(family.definition.help.to_owned()),
        kind: Some(kind.into()),
        metric: family.points.iter().map(|point| metric(point, family.definition.kind)).collect(),
        unit: family.definition.unit().map(str::to_owned),
    }
}

fn metric(point: &Point, kind: Kind) -> Metric {
    let pair = |(name, value): &(&str, hbpf_core::label::Label)| LabelPair {
        name: Some((*name).to_owned()),
        value: Some(value.to_string()),
    };
    let mut metric = Metric { label: point.labels().map(pair).collect(), ..Metric::default() };
    match (&point.value, kind) {
        (Value::Number(value), Kind::Counter) => metric.counter = Some(Number { value: Some(*value) }),
        (Value::Number(value), _) => metric.gauge = Some(Number { value: Some(*value) }),
        (Value::Histogram(values), Kind::Histogram(first, last)) => {
            metric.histogram = Some(histogram(point, values, first, last));
        }
        (Value::Histogram(_), _) => {}
    }
    metric
}

fn exemplar(of: &Exemplar) -> ExemplarOf {
    let name = LabelPair { name: Some("trace_id".to_owned()), value: Some(of.trace_id.to_string()) };
    let at = Instant { seconds: Some(of.at.as_second()), nanos: Some(of.at.subsec_nanosecond()) };
    ExemplarOf { label: vec![name], value: Some(of.value), timestamp: Some(at) }
}

/// With classic buckets as well, for servers that do not take native ones.
fn histogram(point: &Point, values: &Distribution, first: i32, last: i32) -> Histogram {
    let bound = |exponent: i32| f64::from(exponent).exp2();
    let bucket = |exponent: i32| Bucket {
        cumulative_count: Some(below(values, exponent)),
        upper_bound: Some(bound(exponent)),
        exemplar: {
            let above = if exponent == first { f64::NEG_INFINITY } else { bound(exponent - 1) };
            exemplars::within(point, above, bound(exponent)).map(exemplar)
        },
    };
    let (mut spans, mut deltas): (Vec<BucketSpan>, Vec<i64>) = Default::default();
    let (mut next, mut before) = (0, 0);
    for (position, (index, count)) in values.buckets.iter().enumerate() {
        // Prometheus's bucket `i` ends at base^i, OpenTelemetry's begins there.
        let index = index + 1;
        match spans.last_mut() {
            Some(span) if position > 0 && index == next => span.length = span.length.map(|length| length + 1),
            _ => spans.push(BucketSpan { offset: Some(index - next), length: Some(1) }),
        }
        let count = i64::try_from(*count).unwrap_or(i64::MAX);
        deltas.push(count - before);
        (next, before) = (index + 1, count);
    }
    Histogram {
        sample_count: Some(values.count),
        sample_sum: Some(values.sum),
        bucket: (first..=last).map(bucket).collect(),
        schema: Some(values.scale),
        zero_threshold: Some(ZERO_THRESHOLD),
        zero_count: Some(0),
        positive_span: spans,
        positive_delta: deltas,
    }
}
