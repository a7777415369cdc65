//! `hbpf trace`: a line for each exchange that ends.

use std::collections::BTreeSet;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, bail};
use hbpf_core::exchange::{Phase, Role};
use hbpf_core::label::Text;
use hbpf_core::snapshot::Request;
use hbpf_host::collector::Options;
use jiff::{SignedDuration, Timestamp};
use unicode_width::UnicodeWidthStr as _;

use super::print;
use super::snapshot::in_place;
use crate::cli::{End, MIN_WINDOW, Sources, TraceArgs};
use crate::feed::Update;
use crate::format::{self, known};
use crate::live;
use crate::prices;
use crate::rows::{self, RequestColumn};
use crate::table::{self, Align, Cell, Column, Placed, Tone};
use crate::text;

/// How often those that have ended are looked at: a reader takes them for told at once.
const PACE: Duration = Duration::from_millis(500);

pub(crate) fn run(arguments: &TraceArgs) -> Result<ExitCode> {
    let groups = arguments.probes.chosen();
    let options = Options {
        groups: groups.clone(),
        window: MIN_WINDOW,
        interval: Some(PACE),
        max_overhead: arguments.bounds.max_overhead.0,
        max_bytes_per_second: arguments.bounds.max_bytes_per_second,
        engines: false,
        // While files can still be opened.
        prices: prices::load(arguments.prices.as_deref())?,
    };
    let lines = Lines::new(text::terminal_width());
    // Nothing else is told, so nothing else is looked at.
    let sources = Sources { nvml_library: None, no_engines: true, prices: None };
    let session = live::Session::begin(&sources)?;
    let (sender, updates) = std::sync::mpsc::channel();
    let _control = session.start(options, move |update| {
        // After the last line nobody listens.
        let _ = sender.send(update);
    })?;
    let mut told = BTreeSet::new();
    let mut is_in_place = false;
    let mut left = arguments.count;
    if !arguments.json {
        print(&lines.head())?;
    }
    loop {
        let snapshot = match updates.recv() {
            Ok(Update::Snapshot(snapshot)) => snapshot,
            Ok(Update::Ended(why)) => bail!("collection has ended: {why}"),
            Err(_) => bail!("collection has ended"),
        };
        if super::is_blind(&snapshot, &groups) {
            bail!("nothing can be seen: {}", super::why_blind(&snapshot));
        }
        if !is_in_place && in_place(&snapshot, &groups) {
            is_in_place = true;
            eprintln!("hbpf: the probes are in place");
        }
        for error in &snapshot.errors {
            if told.insert(error.message.clone()) {
                eprintln!("hbpf: {}: {}", error.source, Text::new(error.message.as_str()));
            }
        }
        let mut written = String::new();
        for request in snapshot.requests.finished.iter().filter(|request| is_wanted(arguments, request)) {
            if left == Some(0) {
                break;
            }
            left = left.map(|left| left - 1);
            written += &if arguments.json { serde_json::to_string(request)? + "\n" } else { lines.line(request) };
        }
        print(&written)?;
        if snapshot.requests.finished_omitted > 0 {
            eprintln!("hbpf: {} more have ended in that moment than are kept", snapshot.requests.finished_omitted);
        }
        if left == Some(0) {
            return Ok(ExitCode::SUCCESS);
        }
    }
}

fn is_wanted(arguments: &TraceArgs, request: &Request) -> bool {
    let is_of_process = arguments.pids.is_empty() || request.pid.is_some_and(|pid| arguments.pids.contains(&pid));
    let is_of_model = arguments.model.as_ref().is_none_or(|wanted| {
        let mut models = [&request.model, &request.response_model].into_iter().flatten();
        models.any(|model| model.as_str().to_ascii_lowercase().contains(&wanted.to_ascii_lowercase()))
    });
    let is_of_end = match arguments.role {
        None => true,
        Some(End::Client) => request.role == Role::Client,
        Some(End::Server) => request.role == Role::Server,
    };
    is_of_process && is_of_model && is_of_end && (!arguments.failed || request.phase != Phase::Done)
}

/// Lays out lines that stand below each other, of which none is known before it comes.
struct Lines {
    columns: Vec<Column>,
    placed: Vec<Placed>,
    /// Nobody reads it on a terminal: nothing is cut, and the day is told, too.
    is_log: bool,
}

/// Columns stand below each other in a log up to this width; what is longer moves the rest of its line.
const LOG_WIDTH: usize = 180;

/// When it was over; what is behind is what a table of requests has.
const BEFORE: [RequestColumn; 7] = [
    RequestColumn::Pid,
    RequestColumn::Command,
    RequestColumn::Role,
    RequestColumn::Model,
    RequestColumn::Status,
    RequestColumn::FirstToken,
    RequestColumn::Age,
];
const BEHIND: [RequestColumn; 3] = [RequestColumn::Tokens, RequestColumn::Endpoint, RequestColumn::Error];

impl Lines {
    fn new(width: Option<usize>) -> Self {
        let time = if width.is_some() { "00:00:00.000" } else { "0000-00-00T00:00:00.000Z" };
        let mut columns = vec![Column::fixed("ENDED", Align::Left, time.len(), 99)];
        columns.extend(BEFORE.map(|column| match column.column() {
            column if column.title == "AGE" => Column { title: "TOTAL", ..column },
            column => column,
        }));
        columns.push(Column::fixed("TOK IN", Align::Right, 6, 65));
        columns.extend(BEHIND.map(RequestColumn::column));
        columns.push(Column::fixed("COST $", Align::Right, 7, 52));
        let placed = table::fit(&columns, width.unwrap_or(LOG_WIDTH));
        Self { columns, placed, is_log: width.is_none() }
    }

    fn head(&self) -> String {
        self.laid_out(&|index| Cell::new(self.columns[index].title, Tone::Plain))
    }

    fn line(&self, request: &Request) -> String {
        let mut cells = vec![Cell::new(self.when(request), Tone::Plain)];
        cells.extend(BEFORE.map(|column| column.cell(request)));
        cells.push(Cell::number(known(request.tokens.input, format::count)));
        cells.extend(BEHIND.map(|column| column.cell(request)));
        cells.push(Cell::number(rows::cost_of(request)));
        self.laid_out(&|index| cells[index].clone())
    }

    fn when(&self, request: &Request) -> String {
        let took = SignedDuration::try_from_secs_f64(request.age_seconds).unwrap_or_default();
        let ended: Timestamp = request.started_at.checked_add(took).unwrap_or(request.started_at);
        let text = format!("{ended:.3}");
        if self.is_log { text } else { text.chars().skip("0000-00-00T".len()).take("00:00:00.000".len()).collect() }
    }

    fn laid_out(&self, cell: &dyn Fn(usize) -> Cell) -> String {
        let mut line = String::new();
        for placed in &self.placed {
            let Cell { text, .. } = cell(placed.index);
            let align = self.columns[placed.index].align;
            let width = if self.is_log { placed.width.max(text.width()) } else { placed.width };
            line += &table::fill(&text, width, align, '+');
            line.push(' ');
        }
        line.truncate(line.trim_end().len());
        line + "\n"
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::{Cli, Command};
    use crate::fixture;

    fn arguments(options: &[&str]) -> TraceArgs {
        match Cli::try_parse_from(["hbpf", "trace"].iter().chain(options)).unwrap().command {
            Some(Command::Trace(arguments)) => arguments,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn only_what_is_asked_for() {
        let requests = fixture::rich().requests.recent;
        let chosen = |options: &[&str]| {
            let arguments = arguments(options);
            requests.iter().filter(|request| is_wanted(&arguments, request)).count()
        };
        assert_eq!(chosen(&[]), requests.len());
        let count = |holds: &dyn Fn(&Request) -> bool| requests.iter().filter(|request| holds(request)).count();
        let failed = count(&|request| request.phase != Phase::Done);
        assert!(failed > 0 && chosen(&["--failed"]) == failed);
        let clients = count(&|request| request.role == Role::Client);
        assert_eq!((chosen(&["--role", "client"]), chosen(&["--role", "server"])), (clients, requests.len() - clients));
        assert_eq!(chosen(&["--pid", "1291"]), count(&|request| request.pid == Some(1291)));
        assert_eq!((chosen(&["--model", "no such"]), chosen(&["--pid", "1"])), (0, 0));
        let model = requests[0].model.as_ref().unwrap().to_string();
        assert!(chosen(&["--model", &model[1..].to_ascii_uppercase()]) > 0);
    }

    fn lines(width: Option<usize>) -> String {
        let lines = Lines::new(width);
        let requests = fixture::rich().requests.recent;
        lines.head() + &requests.iter().map(|request| lines.line(request)).collect::<String>()
    }

    #[test]
    fn lines_of_a_terminal() {
        insta::assert_snapshot!(lines(Some(120)));
        assert!(lines(Some(40)).lines().all(|line| line.width() <= 40));
    }

    #[test]
    fn lines_of_a_log_are_whole() {
        insta::assert_snapshot!(lines(None));
    }
}
