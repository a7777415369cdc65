//! What the tables show of inference servers, in their own words.

use std::net::SocketAddr;

use hbpf_core::label::Label;
use hbpf_core::snapshot::{Engine, EngineLatency, EngineModel, EngineReplica, Process, Snapshot};

use crate::format::{self, UNKNOWN, known};
use crate::table::{self, Align, Cell, Column, Tone};

/// A cache that is so full holds requests up, or soon will.
const FULL_CACHE: f64 = 90.0;

/// Replicas that share the work so unevenly are worth a look.
const UNEVEN: f64 = 50.0;

/// Below this the two counts of tokens do not agree.
const DOUBTFUL: f64 = 98.0;

/// Older than this and the numbers are not of now: three readings have failed, or not come.
const STALE_SECONDS: f64 = 7.0;

/// What is said of a server with which nothing is wrong.
const OK: &str = "ok";

/// Columns of the trend.
pub(crate) const TREND: usize = 12;

/// A line of the table: a server, or one of its replicas.
#[derive(Clone, Copy)]
enum Line<'a> {
    Whole(&'a Engine),
    Replica(&'a EngineReplica),
}

/// A column, whether it stands although nothing is known for it, and its cell of a line.
type Part = (Column, bool, fn(Line<'_>) -> Cell);

/// What tells rows apart stays longer than what can be read in a process's details as well: the pid longest, for servers in
/// containers may all listen at one and the same address, each of its own network.
const PARTS: [Part; 20] = {
    use Align::{Left, Right};
    use Line::{Replica, Whole};
    [
        (Column::fixed("ENGINE", Left, 9, 100), true, |line| match line {
            Whole(engine) => Cell::new(engine.kind.as_str(), Tone::Strong),
            Replica(replica) => Cell::new(format!("  {}", replica.label), Tone::Dim),
        }),
        (Column::fixed("PID", Right, 7, 97), true, |line| whole(line, |engine| Some(engine.pid.to_string()))),
        (Column::flexible(ENDPOINT, 14, 24, 89), true, |line| match line {
            Whole(engine) => Cell::new(engine.endpoint.as_str(), Tone::Plain),
            Replica(_) => Cell::default(),
        }),
        (Column::flexible("MODEL", 12, 36, 90), true, |line| match line {
            Whole(engine) => Cell::new(models(engine), Tone::Accent),
            Replica(_) => Cell::default(),
        }),
        (Column::fixed("RUN", Right, 5, 99), true, |line| match line {
            Whole(engine) => Cell::number(running(engine)),
            Replica(replica) => number(replica.requests_running.map(count)),
        }),
        (Column::fixed("WAIT", Right, 4, 98), true, |line| {
            alarming(either(line, |engine| engine.requests_waiting, |replica| replica.requests_waiting))
        }),
        (Column::fixed("SWAP", Right, 4, 50), false, |line| {
            alarming(either(line, |engine| engine.requests_swapped, |replica| replica.requests_swapped))
        }),
        (Column::fixed("KV%", Right, 5, 96), false, |line| {
            cache(either(line, |engine| engine.kv_cache_percent, |replica| replica.kv_cache_percent))
        }),
        (Column::fixed("HIT%", Right, 5, 86), false, |line| number(hits(line).map(format::percent))),
        (Column::fixed("PREEMPT", Right, 7, 80), false, |line| {
            let preempted = either(line, |engine| engine.preemptions_total, |replica| replica.preemptions_total);
            alarming(preempted.map(|times| times as f64))
        }),
        (Column::fixed("REQ/S", Right, 5, 70), false, |line| {
            number(either(line, |it| it.requests_per_second, |it| it.requests_per_second).map(format::rate))
        }),
        (Column::fixed("REQ%", Right, 5, 45), false, |line| match line {
            Whole(_) => Cell::default(),
            Replica(replica) => number(replica.requests_share_percent.map(format::percent)),
        }),
        (Column::fixed("IN/S", Right, 6, 78), false, |line| {
            number(either(line, |it| it.input_tokens_per_second, |it| it.input_tokens_per_second).map(format::rate))
        }),
        (Column::fixed("OUT/S", Right, 6, 95), true, |line| {
            number(either(line, |it| it.output_tokens_per_second, |it| it.output_tokens_per_second).map(format::rate))
        }),
        (Column::fixed("TTFT95", Right, 6, 88), false, |line| match line {
            Whole(engine) => p95(&engine.time_to_first_token_seconds),
            Replica(replica) => p95(&replica.time_to_first_token_seconds),
        }),
        (Column::fixed("TPOT95", Right, 6, 84), false, |line| match line {
            Whole(engine) => p95(&engine.time_per_output_token_seconds),
            Replica(replica) => p95(&replica.time_per_output_token_seconds),
        }),
        (Column::fixed("E2E95", Right, 6, 58), false, |line| match line {
            Whole(engine) => p95(&engine.request_seconds),
            Replica(_) => Cell::default(),
        }),
        (Column::fixed("QUE95", Right, 6, 62), false, |line| match line {
            Whole(engine) => p95(&engine.queue_seconds),
            Replica(_) => Cell::default(),
        }),
        (Column::fixed("TRUST", Right, 6, 92), false, |line| match line {
            Whole(engine) => trust(engine),
            Replica(_) => Cell::default(),
        }),
        (Column::flexible("STATE", 11, 44, 94), true, |line| match line {
            Whole(engine) => state(engine),
            Replica(_) => Cell::default(),
        }),
    ]
};

const ENDPOINT: &str = "ENDPOINT";

/// Where there is no room for whole endpoints, and all are on this machine's own addresses, their ports have to do.
const PORT: Column = Column::flexible("PORT", 6, 6, 89);

/// The running requests of a server, or of one of its replicas, lately, as bars.
pub(crate) type Trend<'a> = dyn Fn(&Engine, Option<&EngineReplica>) -> String + 'a;

/// Servers with their replicas below them: columns and rows, for a screen of this width if it is known. Of what no server
/// here tells there is no column.
pub(crate) fn table(
    engines: &[Engine],
    width: Option<usize>,
    trend: Option<&Trend<'_>>,
) -> (Vec<Column>, Vec<Vec<Cell>>) {
    let mut lines: Vec<(&Engine, Option<&EngineReplica>)> = Vec::new();
    for engine in engines {
        lines.push((engine, None));
        lines.extend(engine.replicas.iter().map(|replica| (engine, Some(replica))));
    }
    let cells = |(engine, replica): &(&Engine, Option<&EngineReplica>)| {
        let line = replica.map_or(Line::Whole(engine), Line::Replica);
        PARTS.iter().map(|(.., cell)| cell(line)).collect::<Vec<_>>()
    };
    let mut rows: Vec<Vec<Cell>> = lines.iter().map(cells).collect();
    let is_told =
        |index: &usize| PARTS[*index].1 || rows.iter().any(|row| !matches!(row[*index].text.as_str(), "" | UNKNOWN));
    let told: Vec<usize> = (0..PARTS.len()).filter(is_told).collect();
    let mut columns: Vec<Column> = told.iter().map(|index| PARTS[*index].0).collect();
    rows.iter_mut().for_each(|row| *row = told.iter().map(|index| std::mem::take(&mut row[*index])).collect());
    if let Some(trend) = trend {
        // Before the last one, which is as wide as there is room.
        let at = columns.len() - 1;
        columns.insert(at, Column::fixed("RUN LATELY", Align::Left, TREND, 48));
        for (row, (engine, replica)) in rows.iter_mut().zip(&lines) {
            row.insert(at, Cell::new(trend(engine, *replica), Tone::Plain));
        }
    }
    if let (Some(width), Some(at)) = (width, columns.iter().position(|column| column.title == ENDPOINT)) {
        let has_room = table::fit(&columns, width).iter().any(|placed| placed.index == at);
        let ports: Option<Vec<u16>> = engines.iter().map(local_port).collect();
        if let (false, Some(ports)) = (has_room, ports) {
            columns[at] = PORT;
            let of_servers = rows.iter_mut().zip(&lines).filter(|(_, (_, replica))| replica.is_none());
            for ((row, _), port) in of_servers.zip(ports) {
                row[at].text = format!(":{port}");
            }
        }
    }
    (columns, rows)
}

/// The port of a server that listens at the loopback or at every address.
fn local_port(engine: &Engine) -> Option<u16> {
    let address: SocketAddr = engine.endpoint.as_str().parse().ok()?;
    (address.ip().is_loopback() || address.ip().is_unspecified()).then_some(address.port())
}

fn either<T>(line: Line<'_>, of: fn(&Engine) -> Option<T>, of_replica: fn(&EngineReplica) -> Option<T>) -> Option<T> {
    match line {
        Line::Whole(engine) => of(engine),
        Line::Replica(replica) => of_replica(replica),
    }
}

fn whole(line: Line<'_>, of: fn(&Engine) -> Option<String>) -> Cell {
    match line {
        Line::Whole(engine) => number(of(engine)),
        Line::Replica(_) => Cell::default(),
    }
}

fn number(text: Option<String>) -> Cell {
    Cell::number(text.unwrap_or_else(|| UNKNOWN.to_owned()))
}

fn count(value: f64) -> String {
    format::short_count(value as u64)
}

/// What is better at none.
fn alarming(value: Option<f64>) -> Cell {
    match value {
        Some(value) if value > 0.0 => Cell::new(count(value), Tone::Warn),
        value => number(value.map(count)),
    }
}

fn cache(percent: Option<f64>) -> Cell {
    match percent {
        Some(percent) if percent >= FULL_CACHE => Cell::new(format::percent(percent), Tone::Warn),
        percent => number(percent.map(format::percent)),
    }
}

/// Lately, or else since the server started.
fn hits(line: Line<'_>) -> Option<f64> {
    let recent = either(line, |it| it.prefix_cache_hit_recent_percent, |it| it.prefix_cache_hit_recent_percent);
    recent.or(either(line, |it| it.prefix_cache_hit_percent, |it| it.prefix_cache_hit_percent))
}

fn p95(times: &Option<EngineLatency>) -> Cell {
    number(times.as_ref().and_then(|times| times.p95).map(format::seconds))
}

/// Requests that run, of as many as there are places for.
fn running(engine: &Engine) -> String {
    match (engine.requests_running.map(count), engine.slots_total) {
        (Some(running), Some(slots)) => format!("{running}/{}", format::short_count(slots)),
        (running, _) => running.unwrap_or_else(|| UNKNOWN.to_owned()),
    }
}

/// Its model, and how many others.
fn models(engine: &Engine) -> String {
    match &engine.models[..] {
        [] => UNKNOWN.to_owned(),
        [model] => model.to_string(),
        [model, others @ ..] => format!("{model} +{}", others.len()),
    }
}

/// How far the two counts agree; it only reads as all where they are equal.
fn trust(engine: &Engine) -> Cell {
    let text = |percent: f64| format!("{}%", (percent * 10.0).floor() / 10.0);
    match engine.agreement_percent {
        Some(percent) if percent < DOUBTFUL => Cell::new(text(percent), Tone::Warn),
        percent => number(percent.map(text)),
    }
}

/// What keeps its numbers, or itself, from their best.
fn state(engine: &Engine) -> Cell {
    let age = engine.stale_seconds.unwrap_or_default();
    let old = || format!("{} old", format::chosen_seconds(age.round()));
    match (&engine.problem, engine.replica_imbalance_percent) {
        (Some(problem), _) => Cell::new(format!("{}: {problem}", old()), Tone::Bad),
        (None, _) if age >= STALE_SECONDS => Cell::new(old(), Tone::Warn),
        (None, Some(percent)) if percent >= UNEVEN => Cell::new(format!("uneven {percent:.0}%"), Tone::Warn),
        _ => Cell::new(OK, Tone::Dim),
    }
}

/// Columns of the table of loaded models.
pub(crate) fn model_columns() -> [Column; 7] {
    use Align::{Left, Right};
    [
        Column::fixed("ENGINE", Left, 9, 90),
        Column::fixed("PID", Right, 7, 60),
        Column::flexible("MODEL", 16, 48, 100),
        Column::fixed("MEM", Right, 6, 99),
        Column::fixed("GPUMEM", Right, 6, 98),
        Column::fixed("CONTEXT", Right, 7, 70),
        Column::fixed("KEPT UNTIL", Left, 20, 50),
    ]
}

/// Models that servers have loaded, with what they take.
pub(crate) fn model_rows(engines: &[Engine]) -> Vec<Vec<Cell>> {
    let row = |engine: &Engine, model: &EngineModel| {
        vec![
            Cell::new(engine.kind.as_str(), Tone::Plain),
            Cell::new(engine.pid.to_string(), Tone::Plain),
            Cell::new(model.name.as_str(), Tone::Accent),
            number(model.memory_bytes.map(format::bytes)),
            number(model.gpu_memory_bytes.map(format::bytes)),
            number(model.context_tokens.map(format::short_count)),
            Cell::new(known(model.expires_at, |time| time.strftime("%Y-%m-%d %H:%M:%S").to_string()), Tone::Dim),
        ]
    };
    engines.iter().flat_map(|engine| engine.loaded_models.iter().map(move |model| row(engine, model))).collect()
}

/// The server that a process is, if it is one that tells.
pub(crate) fn of<'a>(snapshot: &'a Snapshot, process: &Process) -> Option<&'a Engine> {
    let is_it = |engine: &&Engine| {
        let same_start = engine.start_time.is_none() || engine.start_time == process.start_time;
        engine.pid == process.pid && same_start && !process.exited
    };
    snapshot.engines.iter().find(is_it)
}

/// Requests that run and that wait, in short.
pub(crate) fn queue(engines: &[&Engine]) -> String {
    let sum = |of: fn(&Engine) -> Option<f64>| engines.iter().filter_map(|engine| of(engine)).reduce(|a, b| a + b);
    match (sum(|engine| engine.requests_running), sum(|engine| engine.requests_waiting)) {
        (Some(running), Some(waiting)) => format!("{}+{}", count(running), count(waiting)),
        (Some(running), None) => count(running),
        (None, Some(waiting)) => format!("{UNKNOWN}+{}", count(waiting)),
        (None, None) => UNKNOWN.to_owned(),
    }
}

/// The fullest cache.
pub(crate) fn fullest(engines: &[&Engine]) -> Cell {
    cache(engines.iter().filter_map(|engine| engine.kv_cache_percent).reduce(f64::max))
}

/// What a process's page says of the server that it is: lines of names, values and their tones.
pub(crate) fn facts(engine: &Engine) -> [Vec<(&'static str, String, Tone)>; 2] {
    let plain = |name, text: String| (name, text, Tone::Plain);
    let percent = |value| known(value, |percent| format::percent(percent) + "%");
    let tokens = |total, rate| format!("{} at {}/s", known(total, format::count), known(rate, format::rate));
    let mut load = vec![
        ("engine", format!("{} at {}", engine.kind, engine.endpoint), Tone::Strong),
        plain("running", running(engine)),
        ("waiting", known(engine.requests_waiting, count), alarming(engine.requests_waiting).tone),
        ("cache", percent(engine.kv_cache_percent), cache(engine.kv_cache_percent).tone),
        plain("hits", percent(hits(Line::Whole(engine)))),
        plain("preempted", known(engine.preemptions_total, format::count)),
    ];
    let Cell { text, tone, .. } = state(engine);
    if text != OK {
        load.push(("state", text, tone));
    }
    let Cell { text, tone, .. } = trust(engine);
    let over = known(engine.agreement_tokens, |tokens| format!("{text} of {}", format::count(tokens)));
    let mut counts = vec![
        plain("own tokens out", tokens(engine.output_tokens_total, engine.output_tokens_per_second)),
        plain("in", tokens(engine.input_tokens_total, engine.input_tokens_per_second)),
        ("trust", over, tone),
    ];
    let times = [("first token p95", &engine.time_to_first_token_seconds), ("queue p95", &engine.queue_seconds)];
    let told = times.into_iter().filter_map(|(name, times)| Some((name, times.as_ref()?.p95?)));
    counts.extend(told.map(|(name, seconds)| plain(name, format::seconds(seconds))));
    if !engine.models.is_empty() {
        counts.push(plain("models", engine.models.iter().map(Label::as_str).collect::<Vec<_>>().join(" ")));
    }
    [load, counts]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;

    fn titles(engines: &[Engine]) -> Vec<&'static str> {
        table(engines, None, None).0.iter().map(|column| column.title).collect()
    }

    #[test]
    fn of_what_no_server_tells_there_is_no_column() {
        let all = fixture::engines();
        let [vllm, ollama, ..] = &all[..] else { panic!() };
        assert_eq!(titles(std::slice::from_ref(vllm)).len(), PARTS.len());
        assert_eq!(
            titles(std::slice::from_ref(ollama)),
            ["ENGINE", "PID", "ENDPOINT", "MODEL", "RUN", "WAIT", "OUT/S", "STATE"]
        );
        let trend = |_: &Engine, _: Option<&EngineReplica>| "x".to_owned();
        let (columns, rows) = table(&all, None, Some(&trend));
        assert_eq!(columns.len(), PARTS.len() + 1);
        assert!(rows.iter().all(|row| row.len() == columns.len()));
        let replicas: usize = all.iter().map(|engine| engine.replicas.len()).sum();
        assert_eq!((rows.len(), replicas), (all.len() + 2, 2));
        assert!(table(&[], None, None).1.is_empty());
    }

    #[test]
    fn replicas_of_one_model_can_be_told_apart_in_80_columns() {
        let one = fixture::engines().remove(0);
        let server = |port: u16| Engine {
            pid: u32::from(port),
            endpoint: Label::new(&format!("0.0.0.0:{port}")),
            replicas: Vec::new(),
            ..one.clone()
        };
        let shown = |engines: &[Engine]| {
            let (columns, rows) = table(engines, Some(80), None);
            table::plain(&columns, &rows, Some(80))
        };
        let mut engines: Vec<Engine> = (8000..8020).map(server).collect();
        let lines = shown(&engines);
        assert!(lines[0].contains("PID") && lines[1].contains(" 8000 :8000 "), "{lines:#?}");
        engines[7].endpoint = "10.0.0.5:8000".into();
        let lines = shown(&engines);
        assert!(lines[0].contains("PID") && !lines[0].contains("PORT"), "a port alone would mislead: {lines:#?}");
    }

    #[test]
    fn what_is_wrong_is_told_the_worst_first() {
        let text = |engine: &Engine| state(engine).text;
        let mut engine = Engine { stale_seconds: Some(1.5), ..Engine::default() };
        assert_eq!(text(&engine), "ok");
        engine.replica_imbalance_percent = Some(80.0);
        assert_eq!(text(&engine), "uneven 80%");
        engine.stale_seconds = Some(12.2);
        assert_eq!(text(&engine), "12s old");
        engine.problem = Some("it answers 503".into());
        assert_eq!(state(&engine), Cell::new("12s old: it answers 503", Tone::Bad));
    }

    #[test]
    fn counts_that_differ_never_read_as_equal() {
        let text = |percent| trust(&Engine { agreement_percent: Some(percent), ..Engine::default() }).text;
        assert_eq!([100.0, 99.99, 98.0, 7.25].map(text), ["100%", "99.9%", "98%", "7.2%"]);
    }

    #[test]
    fn places_that_are_taken_stand_beside_all() {
        let mut engine = Engine { requests_running: Some(1.0), ..Engine::default() };
        assert_eq!((running(&engine), queue(&[&engine])), ("1".to_owned(), "1".to_owned()));
        (engine.slots_total, engine.requests_waiting) = (Some(4), Some(2.0));
        assert_eq!((running(&engine), queue(&[&engine, &engine])), ("1/4".to_owned(), "2+4".to_owned()));
        assert_eq!((running(&Engine::default()), queue(&[])), ("-".to_owned(), "-".to_owned()));
    }
}
