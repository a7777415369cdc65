//! What the tables show of inference servers, in their own words.

use std::net::SocketAddr;

use hbpf_core::label::Label;
use hbpf_core::snapshot::{Engine, EngineLatency, EngineModel, EngineReplica, Process, Snapshot};

use crate::format::{self, UNKNOWN, known};
use crate::list::{Key, List, Row};
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
const PARTS: [Part; 21] = {
    use Align::{Left, Right};
    use Line::{Replica, Whole};
    [
        (Column::fixed("ENGINE", Left, 9, 100), true, |line| match line {
            Whole(engine) => Cell::new(engine.kind.as_str(), Tone::Strong),
            Replica(replica) => Cell::new(format!("  {}", replica.label), Tone::Dim),
        }),
        (Column::fixed("PID", Right, 7, 97), true, |line| {
            whole(line, |engine| Cell::number(Some(engine.pid), |pid| pid.to_string()))
        }),
        (Column::flexible(ENDPOINT, 14, 24, 89), true, |line| {
            whole(line, |engine| Cell::new(engine.endpoint.as_str(), Tone::Plain))
        }),
        // Where there is no room for whole endpoints, and all are on this machine's own addresses, their ports have to do.
        (Column::flexible(PORT, 6, 6, 89).extra(), true, |line| {
            whole(line, |engine| Cell::name(local_port(engine).map(|port| format!(":{port}")), Tone::Plain))
        }),
        (Column::flexible("MODEL", 12, 36, 90), true, |line| whole(line, models)),
        (Column::fixed("RUN", Right, 5, 99), true, |line| match line {
            Whole(engine) => Cell::written(engine.requests_running, running(engine)),
            Replica(replica) => Cell::number(replica.requests_running, count),
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
        (Column::fixed("HIT%", Right, 5, 86), false, |line| Cell::number(hits(line), format::percent)),
        (Column::fixed("PREEMPT", Right, 7, 80), false, |line| {
            let preempted = either(line, |engine| engine.preemptions_total, |replica| replica.preemptions_total);
            alarming(preempted.map(|times| times as f64))
        }),
        (Column::fixed("REQ/S", Right, 5, 70), false, |line| {
            Cell::number(either(line, |it| it.requests_per_second, |it| it.requests_per_second), format::rate)
        }),
        (Column::fixed("REQ%", Right, 5, 45), false, |line| match line {
            Whole(_) => Cell::default(),
            Replica(replica) => Cell::number(replica.requests_share_percent, format::percent),
        }),
        (Column::fixed("IN/S", Right, 6, 78), false, |line| {
            Cell::number(either(line, |it| it.input_tokens_per_second, |it| it.input_tokens_per_second), format::rate)
        }),
        (Column::fixed("OUT/S", Right, 6, 95), true, |line| {
            Cell::number(either(line, |it| it.output_tokens_per_second, |it| it.output_tokens_per_second), format::rate)
        }),
        (Column::fixed("TTFT95", Right, 6, 88).seconds().called("ttft"), false, |line| match line {
            Whole(engine) => p95(&engine.time_to_first_token_seconds),
            Replica(replica) => p95(&replica.time_to_first_token_seconds),
        }),
        (Column::fixed("TPOT95", Right, 6, 84).seconds(), false, |line| match line {
            Whole(engine) => p95(&engine.time_per_output_token_seconds),
            Replica(replica) => p95(&replica.time_per_output_token_seconds),
        }),
        (Column::fixed("E2E95", Right, 6, 58).seconds(), false, |line| {
            whole(line, |engine| p95(&engine.request_seconds))
        }),
        (Column::fixed("QUE95", Right, 6, 62).seconds(), false, |line| {
            whole(line, |engine| p95(&engine.queue_seconds))
        }),
        (Column::fixed("TRUST", Right, 6, 92), false, |line| whole(line, trust)),
        (Column::flexible("STATE", 11, 44, 94), true, |line| whole(line, state)),
    ]
};

const ENDPOINT: &str = "ENDPOINT";

const PORT: &str = "PORT";

/// The running requests of a server, or of one of its replicas, lately, as bars.
pub(crate) type Trend<'a> = dyn Fn(&Engine, Option<&EngineReplica>) -> String + 'a;

/// Servers with their replicas below them, for a screen of this width if it is known. Of what no server here tells there is no
/// column.
pub(crate) fn list(engines: &[Engine], width: Option<usize>, trend: Option<&Trend<'_>>) -> List {
    let mut columns: Vec<Column> = PARTS.iter().map(|(column, ..)| *column).collect();
    // Before the last one, which is as wide as there is room.
    let trend_at = columns.len() - 1;
    if trend.is_some() {
        columns.insert(trend_at, Column::fixed("RUN LATELY", Align::Left, TREND, 48));
    }
    let row = |engine: &Engine, replica: Option<&EngineReplica>| {
        let line = replica.map_or(Line::Whole(engine), Line::Replica);
        let mut cells: Vec<Cell> = PARTS.iter().map(|(.., cell)| cell(line)).collect();
        if let Some(trend) = trend {
            cells.insert(trend_at, Cell::new(trend(engine, replica), Tone::Plain));
        }
        let label = replica.map(|replica| replica.label.as_str());
        let key = Key::Row(format!("{} {} {label:?}", engine.pid, engine.endpoint));
        let opens = Some(Key::Process((engine.pid, engine.start_time)));
        Row { opens, is_part: replica.is_some(), ..Row::new(key, cells) }
    };
    let rows: Vec<Row> = engines
        .iter()
        .flat_map(|engine| {
            let replicas = engine.replicas.iter().map(Some);
            std::iter::once(None).chain(replicas).map(|replica| row(engine, replica)).collect::<Vec<_>>()
        })
        .collect();
    for (index, column) in columns.iter_mut().enumerate() {
        let is_always = PARTS.iter().any(|(part, is_always, _)| part.title == column.title && *is_always);
        let is_told = || rows.iter().any(|row| !matches!(row.cells[index].text.as_str(), "" | UNKNOWN));
        *column = column.if_any(is_always || is_told());
    }
    let mut list = List { columns, rows };
    if let (Some(width), Some(endpoint), Some(port)) = (width, list.column(ENDPOINT), list.column(PORT)) {
        let shown = table::fit(&list.columns, &table::usual(&list.columns), width);
        let has_room = shown.iter().any(|placed| placed.index == endpoint);
        if !has_room && engines.iter().all(|engine| local_port(engine).is_some()) {
            (list.columns[endpoint].is_extra, list.columns[port].is_extra) = (true, false);
        }
    }
    list
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

/// What is said of a server only as a whole.
fn whole(line: Line<'_>, of: fn(&Engine) -> Cell) -> Cell {
    match line {
        Line::Whole(engine) => of(engine),
        Line::Replica(_) => Cell::default(),
    }
}

fn count(value: f64) -> String {
    format::short_count(value as u64)
}

/// What is better at none.
fn alarming(value: Option<f64>) -> Cell {
    Cell::alarming(value, count, Tone::Warn)
}

fn cache(percent: Option<f64>) -> Cell {
    let cell = Cell::number(percent, format::percent);
    if percent.is_some_and(|percent| percent >= FULL_CACHE) { cell.with_tone(Tone::Warn) } else { cell }
}

/// Lately, or else since the server started.
fn hits(line: Line<'_>) -> Option<f64> {
    let recent = either(line, |it| it.prefix_cache_hit_recent_percent, |it| it.prefix_cache_hit_recent_percent);
    recent.or(either(line, |it| it.prefix_cache_hit_percent, |it| it.prefix_cache_hit_percent))
}

fn p95(times: &Option<EngineLatency>) -> Cell {
    Cell::number(times.as_ref().and_then(|times| times.p95), format::seconds)
}

/// Requests that run, of as many as there are places for.
fn running(engine: &Engine) -> String {
    match (engine.requests_running.map(count), engine.slots_total) {
        (Some(running), Some(slots)) => format!("{running}/{}", format::short_count(slots)),
        (running, _) => running.unwrap_or_else(|| UNKNOWN.to_owned()),
    }
}

/// Its model, and how many others.
fn models(engine: &Engine) -> Cell {
    let name = match &engine.models[..] {
        [] => None,
        [model] => Some(model.to_string()),
        [model, others @ ..] => Some(format!("{model} +{}", others.len())),
    };
    Cell::name(name, Tone::Accent)
}

/// How far the two counts agree; it only reads as all where they are equal.
fn trust(engine: &Engine) -> Cell {
    let percent = engine.agreement_percent;
    let cell = Cell::number(percent, |percent| format!("{}%", (percent * 10.0).floor() / 10.0));
    if percent.is_some_and(|percent| percent < DOUBTFUL) { cell.with_tone(Tone::Warn) } else { cell }
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

/// Models that servers have loaded, with what they take.
pub(crate) fn loaded_models(engines: &[Engine]) -> List {
    use Align::{Left, Right};
    let columns = vec![
        Column::fixed("ENGINE", Left, 9, 90),
        Column::fixed("PID", Right, 7, 60),
        Column::flexible("MODEL", 16, 48, 100),
        Column::fixed("MEM", Right, 6, 99).bytes(),
        Column::fixed("GPUMEM", Right, 6, 98).bytes(),
        Column::fixed("CONTEXT", Right, 7, 70),
        Column::fixed("KEPT UNTIL", Left, 20, 50),
    ];
    let row = |engine: &Engine, model: &EngineModel| {
        let until = model.expires_at.map(|time| time.strftime("%Y-%m-%d %H:%M:%S").to_string());
        let cells = vec![
            Cell::new(engine.kind.as_str(), Tone::Plain),
            Cell::number(Some(engine.pid), |pid| pid.to_string()),
            Cell::new(model.name.as_str(), Tone::Accent),
            Cell::number(model.memory_bytes, format::bytes),
            Cell::number(model.gpu_memory_bytes, format::bytes),
            Cell::number(model.context_tokens, format::short_count),
            Cell::name(until, Tone::Dim),
        ];
        let opens = Some(Key::Process((engine.pid, engine.start_time)));
        Row { opens, ..Row::new(Key::Row(format!("{} {}", engine.pid, model.name)), cells) }
    };
    let rows = engines.iter().flat_map(|engine| engine.loaded_models.iter().map(move |model| row(engine, model)));
    List { columns, rows: rows.collect() }
}

/// The server that a process is, if it is one that tells.
pub(crate) fn of<'a>(snapshot: &'a Snapshot, process: &Process) -> Option<&'a Engine> {
    let is_it = |engine: &&Engine| {
        let same_start = engine.start_time.is_none() || engine.start_time == process.start_time;
        engine.pid == process.pid && same_start && !process.exited
    };
    snapshot.engines.iter().find(is_it)
}

/// Requests that run and that wait, in short; ranked by how many these are together.
pub(crate) fn queue(engines: &[&Engine]) -> Cell {
    let sum = |of: fn(&Engine) -> Option<f64>| engines.iter().filter_map(|engine| of(engine)).reduce(|a, b| a + b);
    let (running, waiting) = (sum(|engine| engine.requests_running), sum(|engine| engine.requests_waiting));
    let text = match (running, waiting) {
        (Some(running), Some(waiting)) => format!("{}+{}", count(running), count(waiting)),
        (Some(running), None) => count(running),
        (None, Some(waiting)) => format!("{UNKNOWN}+{}", count(waiting)),
        (None, None) => UNKNOWN.to_owned(),
    };
    let all = running.into_iter().chain(waiting).reduce(|a, b| a + b);
    Cell::written(all, text)
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
        list(engines, None, None).columns.iter().filter(|column| !column.is_extra).map(|column| column.title).collect()
    }

    #[test]
    fn of_what_no_server_tells_there_is_no_column() {
        let all = fixture::engines();
        let [vllm, ollama, ..] = &all[..] else { panic!() };
        assert_eq!(titles(std::slice::from_ref(vllm)).len(), PARTS.len() - 1, "all but the port alone");
        assert_eq!(
            titles(std::slice::from_ref(ollama)),
            ["ENGINE", "PID", "ENDPOINT", "MODEL", "RUN", "WAIT", "OUT/S", "STATE"]
        );
        let trend = |_: &Engine, _: Option<&EngineReplica>| "x".to_owned();
        let List { columns, rows } = list(&all, None, Some(&trend));
        assert_eq!(columns.len(), PARTS.len() + 1);
        assert!(rows.iter().all(|row| row.cells.len() == columns.len()));
        let replicas: usize = all.iter().map(|engine| engine.replicas.len()).sum();
        assert_eq!((rows.len(), replicas), (all.len() + 2, 2));
        assert!(list(&[], None, None).rows.is_empty());
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
        let shown = |engines: &[Engine]| table::plain(&list(engines, Some(80), None), Some(80));
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
        assert_eq!((running(&engine), queue(&[&engine]).text), ("1".to_owned(), "1".to_owned()));
        (engine.slots_total, engine.requests_waiting) = (Some(4), Some(2.0));
        assert_eq!((running(&engine), queue(&[&engine, &engine]).text), ("1/4".to_owned(), "2+4".to_owned()));
        assert_eq!((running(&Engine::default()), queue(&[]).text), ("-".to_owned(), "-".to_owned()));
    }
}
