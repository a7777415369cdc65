//! A snapshot as metrics: families of points, whatever the form in which they are handed on.
//!
//! Names and units follow Prometheus's conventions; what is unknown has no point.

mod exemplars;
mod families;
mod honeybeepf;
mod openmetrics;
mod protobuf;
#[cfg(test)]
mod reference;

use std::rc::Rc;

use hbpf_core::label::Label;
use hbpf_core::snapshot::Distribution;
use jiff::Timestamp;

use self::exemplars::Exemplar;

pub(crate) use families::{AgentNumbers, ExportNumbers, collect, collect_agent, severity};
pub(crate) use honeybeepf::Honeybeepf;
pub(crate) use openmetrics::{Text, below, text};
pub(crate) use protobuf::protobuf;

/// How the values of a family are to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Never decreases while hbpf runs.
    Counter,
    /// Of now.
    Gauge,
    /// Values by size, since the start. Classic buckets are bounded by powers of two, from the first exponent to the last: those
    /// are bounds of the exponential buckets as well, so that counts are exact in both.
    Histogram(i32, i32),
    /// Of value 1: what counts are its labels.
    Info,
}

/// What a family is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Definition {
    /// Its name behind the prefix of its group, without `_total` or `_info`.
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    /// A label that its points have besides those of the group.
    pub(crate) label: Option<&'static str>,
    pub(crate) help: &'static str,
}

/// Name and value.
type Pair = (&'static str, Label);

/// A family and its points.
#[derive(Debug)]
pub(crate) struct Family {
    pub(crate) prefix: &'static str,
    pub(crate) definition: Definition,
    pub(crate) points: Vec<Point>,
}

/// A value of a family.
#[derive(Debug)]
pub(crate) struct Point {
    /// Those of its row, which many points share.
    row: Rc<[Pair]>,
    own: Option<Pair>,
    pub(crate) value: Value,
    /// Since when it counts, if it does.
    pub(crate) since: Timestamp,
    /// Requests that it counts.
    exemplars: Vec<Exemplar>,
}

#[derive(Debug)]
pub(crate) enum Value {
    Number(f64),
    Histogram(Distribution),
}

impl Family {
    /// Its name without a suffix.
    pub(crate) fn name(&self) -> String {
        let name = format!("{}{}", self.prefix, self.definition.name);
        name.trim_end_matches('_').to_owned()
    }
}

impl Definition {
    /// The unit that ends its name, in OpenMetrics' sense.
    fn unit(&self) -> Option<&'static str> {
        const UNITS: [&str; 8] = ["seconds", "bytes", "ratio", "usd", "watts", "joules", "celsius", "hertz"];
        UNITS.into_iter().find(|unit| self.name.strip_suffix(unit).is_some_and(|rest| rest.ends_with('_')))
    }
}

impl Point {
    /// Its labels; none is empty.
    pub(crate) fn labels(&self) -> impl Iterator<Item = &Pair> {
        self.row.iter().chain(&self.own)
    }
}

#[cfg(test)]
mod tests;
