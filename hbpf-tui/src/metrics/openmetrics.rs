//! Metrics as text: OpenMetrics 1.0, and the form that Prometheus had before it.
//!
//! <https://prometheus.io/docs/specs/om/open_metrics_spec/>,
//! <https://prometheus.io/docs/instrumenting/exposition_formats/#text-based-format>

use std::fmt::Write as _;

use hbpf_core::snapshot::Distribution;

use super::exemplars::{self, Exemplar};
use super::{Family, Kind, Point, Value};

/// Which of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Text {
    OpenMetrics,
    Prometheus,
}

/// All of it.
pub(crate) fn text(families: &[Family], form: Text) -> String {
    let mut text = String::new();
    for family in families.iter().filter(|family| !family.points.is_empty()) {
        write_family(&mut text, family, form);
    }
    if form == Text::OpenMetrics {
        text += "# EOF\n";
    }
    text
}

fn write_family(text: &mut String, family: &Family, form: Text) {
    let name = family.name();
    let suffix = match family.definition.kind {
        Kind::Counter => "_total",
        Kind::Info => "_info",
        Kind::Gauge | Kind::Histogram(..) => "",
    };
    let (kind, shown) = match (family.definition.kind, form) {
        (Kind::Counter, _) => ("counter", suffix),
        (Kind::Gauge, _) => ("gauge", suffix),
        (Kind::Histogram(..), _) => ("histogram", suffix),
        (Kind::Info, Text::OpenMetrics) => ("info", suffix),
        (Kind::Info, Text::Prometheus) => ("gauge", suffix),
    };
    // OpenMetrics calls a family by its name, the older form by that of its samples.
    let shown = if form == Text::Prometheus { shown } else { "" };
    _ = writeln!(text, "# HELP {name}{shown} {}", family.definition.help);
    _ = writeln!(text, "# TYPE {name}{shown} {kind}");
    if let Some(unit) = family.definition.unit().filter(|_| form == Text::OpenMetrics) {
        _ = writeln!(text, "# UNIT {name} {unit}");
    }
    for point in &family.points {
        match (&point.value, family.definition.kind) {
            (Value::Number(value), _) => {
                write_sample(text, (&name, suffix), point, None, *value);
                text.push('\n');
            }
            (Value::Histogram(values), Kind::Histogram(first, last)) => {
                let bounds = (first..=last).map(|exponent| (f64::from(exponent).exp2(), below(values, exponent)));
                let mut above = f64::NEG_INFINITY;
                for (bound, count) in bounds.chain([(f64::INFINITY, values.count)]) {
                    write_sample(text, (&name, "_bucket"), point, Some(bound), count as f64);
                    // The older form has none.
                    if form == Text::OpenMetrics {
                        write_exemplar(text, exemplars::within(point, above, bound));
                    }
                    text.push('\n');
                    above = bound;
                }
                for (suffix, value) in [("_sum", values.sum), ("_count", values.count as f64)] {
                    write_sample(text, (&name, suffix), point, None, value);
                    text.push('\n');
                }
            }
            (Value::Histogram(_), _) => {}
        }
    }
}

/// How many values are no larger than that power of two.
pub(crate) fn below(values: &Distribution, exponent: i32) -> u64 {
    // The bucket `index` ends at 2^((index + 1) / 2^scale).
    let end = |index: i32| (f64::from(index) + 1.0) * (-f64::from(values.scale)).exp2();
    values.buckets.iter().take_while(|(index, _)| end(*index) <= f64::from(exponent)).map(|(_, count)| count).sum()
}

fn write_sample(text: &mut String, (name, suffix): (&str, &str), point: &Point, le: Option<f64>, value: f64) {
    _ = write!(text, "{name}{suffix}");
    let mut separator = '{';
    for (name, value) in point.labels() {
        _ = write!(text, "{separator}{name}=\"");
        escape(text, value);
        text.push('"');
        separator = ',';
    }
    if let Some(bound) = le {
        _ = write!(text, "{separator}le=\"{}\"", Number(bound));
        separator = ',';
    }
    if separator == ',' {
        text.push('}');
    }
    _ = write!(text, " {}", Number(value));
}

fn write_exemplar(text: &mut String, exemplar: Option<&Exemplar>) {
    let Some(Exemplar { trace_id, value, at }) = exemplar else { return };
    text.push_str(" # {trace_id=\"");
    escape(text, trace_id);
    _ = write!(text, "\"}} {} {}", Number(*value), Number(at.as_millisecond() as f64 / 1e3));
}

/// A label has neither line ends nor other control characters.
fn escape(text: &mut String, value: &str) {
    for character in value.chars() {
        if matches!(character, '"' | '\\') {
            text.push('\\');
        }
        text.push(character);
    }
}

/// A number as both forms write it.
struct Number(f64);

impl std::fmt::Display for Number {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            value if value.is_nan() => formatter.write_str("NaN"),
            f64::INFINITY => formatter.write_str("+Inf"),
            f64::NEG_INFINITY => formatter.write_str("-Inf"),
            value => write!(formatter, "{value:?}"),
        }
    }
}
