//! Single requests behind a histogram's counts, by which their traces are found: of those whose clients sent a trace's identity.
//!
//! <https://prometheus.io/docs/specs/om/open_metrics_spec/#exemplars>

use hbpf_core::label::Label;
use hbpf_core::snapshot::{Request, Snapshot};
use jiff::{SignedDuration, Timestamp};

use super::{Family, Point, Value};
use crate::sets::api_text;

/// A request.
#[derive(Clone, Debug)]
pub(crate) struct Exemplar {
    pub(crate) trace_id: Label,
    pub(crate) value: f64,
    /// When it ended.
    pub(crate) at: Timestamp,
}

/// A value of a request.
type Measure = fn(&Request) -> Option<f64>;

/// Of which histograms: the end of their names, and their value of a request.
const MEASURED: [(&str, Measure); 2] = [
    ("request_duration_seconds", |request| request.duration_seconds),
    ("time_to_first_token_seconds", |request| request.time_to_first_token_seconds),
];

/// Gives histograms of exchanges the latest requests that they count.
pub(super) fn attach(snapshot: &Snapshot, families: &mut [Family]) {
    let requests: Vec<&Request> =
        snapshot.requests.recent.iter().filter(|request| request.trace_id.is_some()).collect();
    if requests.is_empty() {
        return;
    }
    for family in families.iter_mut().filter(|family| family.prefix.ends_with("_llm_")) {
        let Some((_, value)) = MEASURED.iter().find(|(name, _)| *name == family.definition.name) else { continue };
        for request in &requests {
            let Some(exemplar) = exemplar(request, *value) else { continue };
            let mut of_request = family.points.iter_mut().filter(|point| is_of(point, request));
            // Where it could be of several pods, it is given to none.
            if let (Some(point), None) = (of_request.next(), of_request.next()) {
                point.exemplars.push(exemplar);
            }
        }
    }
}

fn exemplar(request: &Request, value: Measure) -> Option<Exemplar> {
    let took = SignedDuration::try_from_secs_f64(request.duration_seconds?).ok()?;
    Some(Exemplar {
        trace_id: request.trace_id.clone()?,
        value: value(request)?,
        at: request.started_at.checked_add(took).ok()?,
    })
}

/// Whether a point counts a request, by all labels that both have. The host's have none, and count all.
fn is_of(point: &Point, request: &Request) -> bool {
    let role = match request.role {
        hbpf_core::exchange::Role::Client => "client",
        hbpf_core::exchange::Role::Server => "server",
    };
    matches!(point.value, Value::Histogram(_))
        && point.labels().all(|(name, value)| match *name {
            "model" => request.model.as_ref() == Some(value),
            "endpoint" => request.endpoint == *value,
            "provider" => request.provider == *value,
            "api" => api_text(request.api) == value.as_str(),
            "role" => value.as_str() == role || value.as_str() == "internal",
            _ => true,
        })
}

/// The latest of those above the first bound, up to the second.
pub(super) fn within(point: &Point, above: f64, up_to: f64) -> Option<&Exemplar> {
    let inside = point.exemplars.iter().filter(|exemplar| exemplar.value > above && exemplar.value <= up_to);
    inside.max_by_key(|exemplar| exemplar.at)
}
