//! What the tables show of models and endpoints: sets of exchanges with their statistics.

use hbpf_core::exchange::{Api, Phase, Protocol};
use hbpf_core::label::Label;
use hbpf_core::snapshot::{EndpointStats, LlmStats, Model, Request, Snapshot, Tool};
use jiff::Timestamp;

use crate::format::{self, known};
use crate::list::{Key, List, Row};
use crate::rows;
use crate::table::{Align, Cell, Column, Tone};

/// Columns about a set of exchanges, behind those that name the set.
fn stats_columns() -> [Column; 11] {
    use Align::Right;
    [
        Column::fixed("REQUESTS", Right, 8, 60),
        Column::fixed("REQ/S", Right, 5, 70),
        Column::fixed("FLY", Right, 4, 40).called("inflight"),
        Column::fixed("ERR", Right, 4, 80).called("errors"),
        Column::fixed("TOK/S", Right, 6, 90),
        Column::fixed("TOK IN", Right, 6, 50),
        Column::fixed("CACHE", Right, 5, 48),
        Column::fixed("TOKOUT", Right, 6, 55),
        Column::fixed("COST $", Right, 6, 58),
        Column::fixed("$/H", Right, 5, 54),
        Column::fixed("TTFT50", Right, 6, 75).seconds().called("ttft"),
    ]
}

fn stats_cells(stats: &LlmStats) -> [Cell; 11] {
    [
        Cell::number(Some(stats.requests_total), format::count),
        Cell::number(stats.requests_per_second, format::rate),
        Cell::number(stats.requests_in_flight, format::short_count),
        Cell::number(Some(stats.failed_total), format::short_count),
        rows::output_rate(Some(stats)),
        rows::input_total(Some(stats)),
        share(rows::cached_share(stats)),
        rows::output_total(Some(stats)),
        rows::cost(Some(stats)),
        rows::cost_rate(Some(stats)),
        Cell::number(rows::first_token(&stats.latency.since_start).map(|d| d.p50), format::seconds),
    ]
}

/// A part of a whole, ranked in percent.
fn share(share: Option<f64>) -> Cell {
    Cell::written(share.map(|share| share * 100.0), known(share, format::share))
}

/// What is known of each model.
pub(crate) fn models(snapshot: &Snapshot) -> List {
    let names = [Column::flexible("PROVIDER", 10, 20, 65), Column::flexible("MODEL", 20, 48, 100)];
    let row = |model: &Model| {
        let name = Cell::name(model.model.as_ref().map(Label::as_str), Tone::Accent);
        let names = [Cell::new(model.provider.as_str(), Tone::Plain), name];
        let cells = names.into_iter().chain(stats_cells(&model.stats)).collect();
        Row::new(Key::Model(model.provider.clone(), model.model.clone()), cells)
    };
    List {
        columns: names.into_iter().chain(stats_columns()).collect(),
        rows: snapshot.models.iter().map(row).collect(),
    }
}

/// What is known of each endpoint. What tells its rows apart is there in 80 columns.
pub(crate) fn endpoints(snapshot: &Snapshot) -> List {
    let names = [
        Column::flexible("ENDPOINT", 22, 48, 100),
        Column::flexible("API", 10, 16, 95),
        Column::fixed("PROTO", Align::Left, 5, 94),
        Column::fixed("LEFT", Align::Right, 6, 20),
    ];
    List {
        columns: names.into_iter().chain(stats_columns()).collect(),
        rows: snapshot.endpoints.iter().map(endpoint_row).collect(),
    }
}

fn endpoint_row(endpoint: &EndpointStats) -> Row {
    let names = [
        Cell::new(endpoint.name().as_str(), Tone::Strong),
        Cell::new(api_text(endpoint.api), Tone::Plain),
        Cell::new(carried_by(endpoint), Tone::Plain),
        left(endpoint),
    ];
    Row::new(endpoint_key(endpoint), names.into_iter().chain(stats_cells(&endpoint.stats)).collect())
}

/// What tells an endpoint from others.
pub(crate) fn endpoint_key(endpoint: &EndpointStats) -> Key {
    let protocol = carried_by(endpoint);
    Key::Endpoint(format!("{} {} {protocol}", endpoint.name(), api_text(endpoint.api)), endpoint.address)
}

/// Whether a request is one of a process, model, endpoint or workload.
pub(crate) fn is_of(snapshot: &Snapshot, request: &Request, key: &Key) -> bool {
    match key {
        Key::Process((pid, start)) => {
            // Where the start is not known on either side, the pid has to do.
            let is_same = request.start_time.is_none() || start.is_none() || request.start_time == *start;
            request.pid == Some(*pid) && is_same
        }
        Key::Request(id) => request.id == *id,
        Key::Model(provider, model) => request.provider == *provider && request.model == *model,
        Key::Endpoint(..) => snapshot.endpoints.iter().any(|endpoint| {
            endpoint_key(endpoint) == *key && request.endpoint == endpoint.name() && request.api == endpoint.api
        }),
        Key::Workload(key, _) => {
            let workload = snapshot.workloads.iter().find(|workload| workload.key == *key);
            workload.is_some_and(|workload| request.pid.is_some_and(|pid| workload.pids.contains(&pid)))
        }
        Key::Gpu(_) | Key::Row(_) => false,
    }
}

/// What went wrong at which endpoint, the most frequent first.
pub(crate) fn errors(snapshot: &Snapshot) -> List {
    use Align::{Left, Right};
    let columns = vec![
        Column::flexible("ERROR", 18, 36, 100),
        Column::flexible("ENDPOINT", 22, 48, 95),
        Column::flexible("API", 10, 16, 40),
        Column::fixed("PROTO", Left, 5, 30),
        Column::fixed("COUNT", Right, 6, 98),
        Column::fixed("SHARE", Right, 5, 90),
        Column::fixed("LEFT", Right, 6, 60),
        Column::fixed("RETRY", Right, 6, 70).seconds(),
    ];
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
    List {
        columns,
        rows: all.into_iter().map(|(count, error, endpoint)| error_row(&error, count, endpoint, now)).collect(),
    }
}

fn error_row(error: &str, count: u64, endpoint: &EndpointStats, now: Timestamp) -> Row {
    // A client that leaves is nobody's error, and may be a sign of one.
    let tone = if error.starts_with("client_") { Tone::Warn } else { Tone::Bad };
    let stats = &endpoint.stats;
    let ended = stats.completed_total + stats.failed_total + stats.abandoned_total;
    // What is left of what was told.
    let retry = endpoint.rate_limit.as_ref().and_then(|limit| {
        let passed = now.duration_since(limit.observed_at).as_secs_f64();
        limit.retry_after_seconds.map(|seconds| seconds - passed).filter(|left| *left > 0.0)
    });
    let cells = vec![
        Cell::new(error, tone),
        Cell::new(endpoint.name().as_str(), Tone::Strong),
        Cell::new(api_text(endpoint.api), Tone::Plain),
        Cell::new(carried_by(endpoint), Tone::Plain),
        Cell::number(Some(count), format::short_count),
        share(Some(count as f64 / ended.max(count) as f64)),
        left(endpoint),
        Cell::number(retry, format::seconds),
    ];
    let key = endpoint_key(endpoint);
    Row { opens: Some(key.clone()), ..Row::new(Key::Row(format!("{error} {key:?}")), cells) }
}

/// The latest requests that did not end well: those that are kept for it, or, in recordings that have none, among the recent ones.
pub(crate) fn failed(snapshot: &Snapshot) -> List {
    use Align::{Left, Right};
    let columns = vec![
        Column::fixed("ENDED", Right, 6, 100).seconds(),
        Column::flexible("ERROR", 16, 30, 99),
        Column::fixed("HTTP", Right, 4, 98).status().called("status"),
        Column::flexible("MODEL", 12, 36, 90),
        Column::flexible("ENDPOINT", 14, 40, 80),
        Column::fixed("PID", Right, 7, 85),
        Column::flexible("COMMAND", 8, 40, 70),
        Column::fixed("TOOK", Right, 6, 75).seconds(),
        Column::fixed("TOKOUT", Right, 6, 40),
        Column::fixed("TRY", Right, 3, 45),
        Column::flexible("REQUEST ID", 12, 36, 30),
        Column::fixed("ROLE", Left, 4, 20),
    ];
    let requests = &snapshot.requests;
    let did_not_end_well = |request: &&Request| matches!(request.phase, Phase::Failed | Phase::Abandoned);
    let row = |request: &Request| failed_row(request, snapshot.captured_at);
    let rows = match requests.failed.is_empty() {
        true => requests.recent.iter().filter(did_not_end_well).map(row).collect(),
        false => requests.failed.iter().map(row).collect(),
    };
    List { columns, rows }
}

fn failed_row(request: &Request, now: Timestamp) -> Row {
    let ago = now.duration_since(request.started_at).as_secs_f64() - request.age_seconds;
    let tone = if request.phase == Phase::Failed { Tone::Bad } else { Tone::Warn };
    let error = request.error_type.as_ref().map_or_else(|| rows::phase(request.phase).0.to_owned(), Label::to_string);
    let cells = vec![
        Cell::number(Some(ago.max(0.0)), format::seconds),
        Cell::new(error, tone),
        Cell::number(request.status, |status| status.to_string()),
        Cell::name(request.model.as_ref().map(Label::as_str), Tone::Accent),
        Cell::new(request.endpoint.as_str(), Tone::Plain),
        Cell::number(request.pid, |pid| pid.to_string()),
        Cell::new(request.command.as_str(), Tone::Plain),
        Cell::number(Some(request.age_seconds), format::seconds),
        Cell::number(request.tokens.output, format::count),
        Cell::number(request.attempt.map(|attempt| attempt + 1), |attempt| attempt.to_string()),
        Cell::name(request.request_id.as_ref().map(Label::as_str), Tone::Dim),
        Cell::new(rows::role_text(request.role), Tone::Dim),
    ];
    Row::new(Key::Request(request.id.clone()), cells)
}

/// What is asked of MCP servers.
pub(crate) fn tools(snapshot: &Snapshot) -> List {
    use Align::{Left, Right};
    let columns = vec![
        Column::flexible("SERVER", 12, 40, 90),
        Column::fixed("METHOD", Left, 16, 70),
        Column::flexible("TOOL", 16, 48, 100),
        Column::fixed("CALLS", Right, 7, 95),
        Column::fixed("ERR", Right, 5, 94).called("errors"),
        Column::fixed("P50", Right, 6, 85).seconds(),
        Column::fixed("P99", Right, 6, 84).seconds(),
        Column::fixed("MAX", Right, 6, 60).seconds(),
    ];
    List { columns, rows: snapshot.tools.iter().map(tool_row).collect() }
}

fn tool_row(tool: &Tool) -> Row {
    let times = tool.duration_seconds.as_ref();
    let name = tool.tool.as_ref().map(Label::as_str);
    let cells = vec![
        Cell::new(tool.server.as_str(), Tone::Plain),
        Cell::new(tool.method.as_str(), Tone::Dim),
        Cell::name(name, Tone::Accent),
        Cell::number(Some(tool.calls_total), format::count),
        Cell::alarming(Some(tool.errors_total), format::short_count, Tone::Bad),
        Cell::number(times.map(|times| times.p50), format::seconds),
        Cell::number(times.map(|times| times.p99), format::seconds),
        Cell::number(times.map(|times| times.max), format::seconds),
    ];
    Row::new(Key::Row(format!("{} {} {name:?}", tool.server, tool.method)), cells)
}

/// What the quota leaves: tokens, or requests where nothing is said of these, or a share. It is ranked by that number.
fn left(endpoint: &EndpointStats) -> Cell {
    let limit = endpoint.rate_limit.as_ref();
    let Some(limit) = limit else { return Cell::number(None::<u64>, format::count) };
    match (limit.remaining_tokens, limit.remaining_requests, limit.remaining_fraction) {
        (Some(tokens), _, _) => Cell::number(Some(tokens), format::count),
        (None, Some(requests), _) => Cell::number(Some(requests), |n| format::short_count(n) + "r"),
        (None, None, fraction) => Cell::number(fraction.map(|part| part * 100.0), |percent| format!("{percent:.0}%")),
    }
}

/// The API's name as in a snapshot.
pub(crate) fn api_text(api: Api) -> &'static str {
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

/// What carries an endpoint's traffic, as far as it is known.
fn carried_by(endpoint: &EndpointStats) -> &'static str {
    endpoint.protocol.zip(endpoint.tls).map_or("", |(protocol, tls)| protocol_text(protocol, tls))
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
        all.map(|(api, protocol, tls)| EndpointStats { api, protocol: Some(protocol), tls: Some(tls), ..one.clone() })
            .collect()
    }

    #[test]
    fn no_two_endpoints_look_the_same_in_80_columns() {
        let endpoints = endpoints(&Snapshot { endpoints: alike(), ..fixture::rich() });
        let mut lines = table::plain(&endpoints, Some(80));
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
