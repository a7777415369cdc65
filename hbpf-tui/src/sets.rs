//! What the tables show of models and endpoints: sets of exchanges with their statistics.

use hbpf_core::exchange::{Api, Phase, Protocol};
use hbpf_core::label::Label;
use hbpf_core::snapshot::{EndpointStats, LlmStats, Model, Request, Snapshot, Tool};
use jiff::Timestamp;

use crate::format::{self, UNKNOWN, known};
use crate::rows;
use crate::table::{Align, Cell, Column, Tone};

/// Columns about a set of exchanges, behind those that name the set.
fn stats_columns() -> [Column; 11] {
    use Align::Right;
    [
        Column::fixed("REQUESTS", Right, 8, 60),
        Column::fixed("REQ/S", Right, 5, 70),
        Column::fixed("FLY", Right, 4, 40),
        Column::fixed("ERR", Right, 4, 80),
        Column::fixed("TOK/S", Right, 6, 90),
        Column::fixed("TOK IN", Right, 6, 50),
        Column::fixed("CACHE", Right, 5, 48),
        Column::fixed("TOKOUT", Right, 6, 55),
        Column::fixed("COST $", Right, 6, 58),
        Column::fixed("$/H", Right, 5, 54),
        Column::fixed("TTFT50", Right, 6, 75),
    ]
}

fn stats_cells(stats: &LlmStats) -> [Cell; 11] {
    [
        format::count(stats.requests_total),
        known(stats.requests_per_second, format::rate),
        known(stats.requests_in_flight, format::short_count),
        format::short_count(stats.failed_total),
        rows::output_rate(stats),
        rows::input_total(stats),
        known(rows::cached_share(stats), format::share),
        rows::output_total(stats),
        rows::cost(stats),
        rows::cost_rate(stats),
        known(rows::first_token(&stats.latency.since_start).map(|d| d.p50), format::seconds),
    ]
    .map(Cell::number)
}

/// Columns of the model table.
pub(crate) fn model_columns() -> Vec<Column> {
    let names = [Column::flexible("PROVIDER", 10, 20, 65), Column::flexible("MODEL", 20, 48, 100)];
    names.into_iter().chain(stats_columns()).collect()
}

/// A model's row.
pub(crate) fn model_cells(model: &Model) -> Vec<Cell> {
    let name = known(model.model.as_ref(), Label::to_string);
    let names = [Cell::new(model.provider.as_str(), Tone::Plain), Cell::new(name, Tone::Accent)];
    names.into_iter().chain(stats_cells(&model.stats)).collect()
}

/// Columns of the endpoint table. What tells its rows apart is there in 80 columns.
pub(crate) fn endpoint_columns() -> Vec<Column> {
    let names = [
        Column::flexible("ENDPOINT", 22, 48, 100),
        Column::flexible("API", 10, 16, 95),
        Column::fixed("PROTO", Align::Left, 5, 94),
        Column::fixed("LEFT", Align::Right, 6, 20),
    ];
    names.into_iter().chain(stats_columns()).collect()
}

/// An endpoint's row.
pub(crate) fn endpoint_cells(endpoint: &EndpointStats) -> Vec<Cell> {
    let names = [
        Cell::new(endpoint_name(endpoint), Tone::Strong),
        Cell::new(api_text(endpoint.api), Tone::Plain),
        Cell::new(protocol_text(endpoint.protocol, endpoint.tls), Tone::Plain),
        Cell::number(left(endpoint)),
    ];
    names.into_iter().chain(stats_cells(&endpoint.stats)).collect()
}

/// Columns of the table of errors.
pub(crate) fn error_columns() -> Vec<Column> {
    use Align::{Left, Right};
    vec![
        Column::flexible("ERROR", 18, 36, 100),
        Column::flexible("ENDPOINT", 22, 48, 95),
        Column::flexible("API", 10, 16, 40),
        Column::fixed("PROTO", Left, 5, 30),
        Column::fixed("COUNT", Right, 6, 98),
        Column::fixed("SHARE", Right, 5, 90),
        Column::fixed("LEFT", Right, 6, 60),
        Column::fixed("RETRY", Right, 6, 70),
    ]
}

/// What went wrong at which endpoint, the most frequent first.
pub(crate) fn error_rows(snapshot: &Snapshot) -> Vec<Vec<Cell>> {
    let of_endpoint = |endpoint: &'_ EndpointStats| {
        let errors = endpoint.stats.error_types.iter().map(|(error, count)| (error.clone(), *count));
        errors.collect::<Vec<_>>()
    };
    let mut all: Vec<_> = snapshot
        .endpoints
        .iter()
        .flat_map(|endpoint| of_endpoint(endpoint).into_iter().map(move |(error, count)| (count, error, endpoint)))
        .collect();
    all.sort_by(|(one, of_one, _), (other, of_other, _)| other.cmp(one).then_with(|| of_one.cmp(of_other)));
    let now = snapshot.captured_at;
    all.into_iter().map(|(count, error, endpoint)| error_cells(&error, count, endpoint, now)).collect()
}

fn error_cells(error: &str, count: u64, endpoint: &EndpointStats, now: Timestamp) -> Vec<Cell> {
    // A client that leaves is nobody's error, and may be a sign of one.
    let tone = if error.starts_with("client_") { Tone::Warn } else { Tone::Bad };
    let stats = &endpoint.stats;
    let ended = stats.completed_total + stats.failed_total + stats.abandoned_total;
    let share = count as f64 / ended.max(count) as f64;
    // What is left of what was told.
    let retry = endpoint.rate_limit.as_ref().and_then(|limit| {
        let passed = now.duration_since(limit.observed_at).as_secs_f64();
        limit.retry_after_seconds.map(|seconds| seconds - passed).filter(|left| *left > 0.0)
    });
    vec![
        Cell::new(error, tone),
        Cell::new(endpoint_name(endpoint), Tone::Strong),
        Cell::new(api_text(endpoint.api), Tone::Plain),
        Cell::new(protocol_text(endpoint.protocol, endpoint.tls), Tone::Plain),
        Cell::number(format::short_count(count)),
        Cell::number(format::share(share)),
        Cell::number(left(endpoint)),
        Cell::number(known(retry, format::seconds)),
    ]
}

/// Columns of the table of requests that did not end well.
pub(crate) fn failed_columns() -> Vec<Column> {
    use Align::{Left, Right};
    vec![
        Column::fixed("ENDED", Right, 6, 100),
        Column::flexible("ERROR", 16, 30, 99),
        Column::fixed("HTTP", Right, 4, 98),
        Column::flexible("MODEL", 12, 36, 90),
        Column::flexible("ENDPOINT", 14, 40, 80),
        Column::fixed("PID", Right, 7, 85),
        Column::flexible("COMMAND", 8, 40, 70),
        Column::fixed("TOOK", Right, 6, 75),
        Column::fixed("TOKOUT", Right, 6, 40),
        Column::fixed("TRY", Right, 3, 45),
        Column::flexible("REQUEST ID", 12, 36, 30),
        Column::fixed("ROLE", Left, 4, 20),
    ]
}

/// The latest requests that did not end well: those that are kept for it, or, in recordings that have none, among the recent ones.
pub(crate) fn failed_rows(snapshot: &Snapshot) -> Vec<Vec<Cell>> {
    let requests = &snapshot.requests;
    let did_not_end_well = |request: &&Request| matches!(request.phase, Phase::Failed | Phase::Abandoned);
    let recent = requests.recent.iter().filter(did_not_end_well);
    if requests.failed.is_empty() {
        return recent.map(|request| failed_cells(request, snapshot.captured_at)).collect();
    }
    requests.failed.iter().map(|request| failed_cells(request, snapshot.captured_at)).collect()
}

fn failed_cells(request: &Request, now: Timestamp) -> Vec<Cell> {
    let ago = now.duration_since(request.started_at).as_secs_f64() - request.age_seconds;
    let tone = if request.phase == Phase::Failed { Tone::Bad } else { Tone::Warn };
    let error = request.error_type.as_ref().map_or_else(|| rows::phase(request.phase).0.to_owned(), Label::to_string);
    let label = |label: Option<&Label>| known(label, Label::to_string);
    let attempt = request.attempt.map(|attempt| attempt + 1);
    vec![
        Cell::number(format::seconds(ago.max(0.0))),
        Cell::new(error, tone),
        Cell::number(known(request.status, |status| status.to_string())),
        Cell::new(label(request.model.as_ref()), Tone::Accent),
        Cell::new(request.endpoint.as_str(), Tone::Plain),
        Cell::number(known(request.pid, |pid| pid.to_string())),
        Cell::new(request.command.as_str(), Tone::Plain),
        Cell::number(format::seconds(request.age_seconds)),
        Cell::number(known(request.tokens.output, format::count)),
        Cell::number(known(attempt, |attempt| attempt.to_string())),
        Cell::new(label(request.request_id.as_ref()), Tone::Dim),
        Cell::new(rows::role_text(request.role), Tone::Dim),
    ]
}

/// Columns of the table of tools.
pub(crate) fn tool_columns() -> Vec<Column> {
    use Align::{Left, Right};
    vec![
        Column::flexible("SERVER", 12, 40, 90),
        Column::fixed("METHOD", Left, 16, 70),
        Column::flexible("TOOL", 16, 48, 100),
        Column::fixed("CALLS", Right, 7, 95),
        Column::fixed("ERR", Right, 5, 94),
        Column::fixed("P50", Right, 6, 85),
        Column::fixed("P99", Right, 6, 84),
        Column::fixed("MAX", Right, 6, 60),
    ]
}

/// A tool's row.
pub(crate) fn tool_cells(tool: &Tool) -> Vec<Cell> {
    let times = tool.duration_seconds.as_ref();
    let seconds = |value: Option<f64>| Cell::number(known(value, format::seconds));
    let errors = format::short_count(tool.errors_total);
    vec![
        Cell::new(tool.server.as_str(), Tone::Plain),
        Cell::new(tool.method.as_str(), Tone::Dim),
        Cell::new(known(tool.tool.as_ref(), Label::to_string), Tone::Accent),
        Cell::number(format::count(tool.calls_total)),
        if tool.errors_total > 0 { Cell::new(errors, Tone::Bad) } else { Cell::number(errors) },
        seconds(times.map(|times| times.p50)),
        seconds(times.map(|times| times.p99)),
        seconds(times.map(|times| times.max)),
    ]
}

/// What the quota leaves: tokens, or requests where nothing is said of these, or a share.
fn left(endpoint: &EndpointStats) -> String {
    let Some(limit) = &endpoint.rate_limit else { return UNKNOWN.to_owned() };
    match (limit.remaining_tokens, limit.remaining_requests, limit.remaining_fraction) {
        (Some(tokens), _, _) => format::count(tokens),
        (None, Some(requests), _) => format::short_count(requests) + "r",
        (None, None, Some(fraction)) => format!("{:.0}%", fraction * 100.0),
        (None, None, None) => UNKNOWN.to_owned(),
    }
}

/// The API's name as in a snapshot.
fn api_text(api: Api) -> &'static str {
    match api {
        Api::Chat => "chat",
        Api::TextCompletion => "text_completion",
        Api::Responses => "responses",
        Api::Messages => "messages",
        Api::Embeddings => "embeddings",
        Api::GenerateContent => "generate_content",
        Api::Rerank => "rerank",
        Api::Audio => "audio",
        Api::Image => "image",
        Api::Realtime => "realtime",
        Api::Infer => "infer",
        Api::Tool => "tool",
    }
}

/// The protocol and whether it goes over TLS, in one word.
fn protocol_text(protocol: Protocol, tls: bool) -> &'static str {
    match (protocol, tls) {
        (Protocol::Http1, false) => "http",
        (Protocol::Http1, true) => "https",
        (Protocol::H2, false) => "h2c",
        (Protocol::H2, true) => "h2",
        (Protocol::Websocket, false) => "ws",
        (Protocol::Websocket, true) => "wss",
        (Protocol::Grpc, false) => "grpc",
        (Protocol::Grpc, true) => "grpcs",
        (Protocol::Stdio, _) => "stdio",
    }
}

/// Host, or address where no name is known, with the port.
fn endpoint_name(endpoint: &EndpointStats) -> String {
    let address = endpoint.address.map(|address| match address {
        std::net::IpAddr::V4(address) => address.to_string(),
        std::net::IpAddr::V6(address) => format!("[{address}]"),
    });
    let name = endpoint.host.as_ref().map(Label::to_string).or(address).unwrap_or_else(|| UNKNOWN.to_owned());
    match endpoint.port {
        Some(port) => format!("{name}:{port}"),
        None => name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{fixture, table};

    /// Every API over every protocol, at one place with one set of numbers.
    fn alike() -> Vec<EndpointStats> {
        let one = fixture::rich().endpoints.remove(0);
        let apis = [
            Api::Chat,
            Api::TextCompletion,
            Api::Responses,
            Api::Messages,
            Api::Embeddings,
            Api::GenerateContent,
            Api::Rerank,
            Api::Audio,
            Api::Image,
            Api::Realtime,
            Api::Infer,
            Api::Tool,
        ];
        let protocols = [Protocol::Http1, Protocol::H2, Protocol::Websocket, Protocol::Grpc];
        let ways = protocols.into_iter().flat_map(|protocol| [false, true].map(|tls| (protocol, tls)));
        let all = apis.into_iter().flat_map(|api| ways.clone().map(move |(protocol, tls)| (api, protocol, tls)));
        all.map(|(api, protocol, tls)| EndpointStats { api, protocol, tls, ..one.clone() }).collect()
    }

    #[test]
    fn no_two_endpoints_look_the_same_in_80_columns() {
        let rows: Vec<_> = alike().iter().map(endpoint_cells).collect();
        let mut lines = table::plain(&endpoint_columns(), &rows, Some(80));
        assert!(lines.iter().all(|line| line.len() <= 80), "{lines:#?}");
        let all = lines.len();
        lines.sort();
        lines.dedup();
        assert_eq!(lines.len(), all, "{lines:#?}");
    }

    #[test]
    fn apis_are_named_as_in_a_snapshot() {
        for endpoint in alike() {
            assert_eq!(serde_json::to_value(endpoint.api).unwrap(), api_text(endpoint.api));
        }
    }
}
