//! `hbpf trace`: a line for each exchange that ends.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, bail};
use hbpf_core::exchange::{Phase, Role};
use hbpf_core::snapshot::{Request, Snapshot};
use hbpf_host::collector::Options;
use hbpf_host::protocol::Group;
use jiff::{SignedDuration, Timestamp};
use unicode_width::UnicodeWidthStr as _;

use super::backlog::{self, Inlet, News, Outlet};
use super::print;
use super::watch::Watch;
use crate::cli::{End, MIN_WINDOW, Sources, TraceArgs};
use crate::feed::Update;
use crate::live;
use crate::prices;
use crate::rows::RequestColumn;
use crate::table::{self, Align, Cell, Column, Placed, Tone};
use crate::text;

/// How often those that have ended are looked at: a reader takes them for told at once.
const PACE: Duration = Duration::from_millis(500);

/// Exchanges that are written at once where many wait.
const MOST_AT_ONCE: usize = 256;

pub(crate) fn run(arguments: &TraceArgs) -> Result<ExitCode> {
    let groups = arguments.probes.chosen();
    super::traffic_groups(&groups)?;
    let options = Options {
        groups: groups.clone(),
        window: MIN_WINDOW,
        interval: Some(PACE),
        max_overhead: arguments.bounds.max_overhead.0,
        max_bytes_per_second: arguments.bounds.max_bytes_per_second,
        engines: false,
        // While files can still be opened.
        prices: prices::load(arguments.pricing.prices.as_deref())?,
        series: false,
    };
    let lines = Lines::new(text::terminal_width());
    // Nothing else is told, so nothing else is looked at.
    let sources = Sources { nvml_library: None, no_engines: true };
    let session = live::Session::begin(&sources)?;
    let (inlet, outlet) = backlog::backlog(backlog::MAX_WAITING);
    let mut sieve = Sieve { arguments: arguments.clone(), watch: Watch::new(&groups), groups, inlet };
    let control = session.start(options, move |update| sieve.take(&update))?;
    if !arguments.json {
        print(&lines.head())?;
    }
    let written = write_news(arguments, &lines, &outlet);
    // It ends, and says what it has not said yet.
    drop(control);
    while let Some(news) = outlet.next() {
        if let News::Notice(line) = news {
            eprintln!("hbpf: {line}");
        }
    }
    written.map(|()| ExitCode::SUCCESS)
}

/// Writes exchanges as they end, until there were as many as asked for.
fn write_news(arguments: &TraceArgs, lines: &Lines, outlet: &Outlet) -> Result<()> {
    let mut left = arguments.count;
    while left != Some(0) {
        let first = outlet.wait().unwrap_or_else(|| News::Ended("collection has ended".to_owned()));
        let mut written = String::new();
        for news in std::iter::once(first).chain(std::iter::from_fn(|| outlet.next())).take(MOST_AT_ONCE) {
            match news {
                News::Exchange(request) if arguments.json => written += &(serde_json::to_string(&request)? + "\n"),
                News::Exchange(request) => written += &lines.line(&request),
                News::Notice(line) => {
                    eprintln!("hbpf: {line}");
                    continue;
                }
                News::Ended(why) => {
                    print(&written)?;
                    bail!(why);
                }
            }
            left = left.map(|left| left - 1);
            if left == Some(0) {
                break;
            }
        }
        print(&written)?;
    }
    Ok(())
}

/// Takes what is to be told out of the snapshots, on the collector's thread, which waits for nobody.
struct Sieve {
    arguments: TraceArgs,
    groups: Vec<Group>,
    watch: Watch,
    inlet: Inlet,
}

impl Sieve {
    fn take(&mut self, update: &Update) {
        match update {
            Update::Snapshot(snapshot) => self.look(snapshot),
            Update::Ended(why) => {
                if let Some(line) = self.watch.rest_of_losses() {
                    self.inlet.notice(line);
                }
                self.inlet.end(why.clone());
            }
        }
    }

    fn look(&mut self, snapshot: &Snapshot) {
        if super::is_blind(snapshot, &self.groups) {
            return self.inlet.end(format!("nothing can be seen: {}", super::why_blind(snapshot)));
        }
        let was_settled = self.watch.is_settled();
        let mut lines = self.watch.look(snapshot);
        lines.extend(self.watch.losses(snapshot));
        if !was_settled && self.watch.is_settled() {
            lines.push(self.watch.in_place());
        }
        lines.into_iter().for_each(|line| self.inlet.notice(line));
        let Self { arguments, inlet, .. } = self;
        let requests = &snapshot.requests;
        requests.finished.iter().filter(|request| is_wanted(arguments, request)).for_each(|one| inlet.exchange(one));
        if requests.finished_omitted > 0 {
            inlet.notice(format!("{} more have ended in that moment than are kept", requests.finished_omitted));
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
            column if column.title == "AGE" => column.titled("TOTAL"),
            column => column,
        }));
        columns.push(Column::fixed("TOK IN", Align::Right, 6, 65));
        columns.extend(BEHIND.map(RequestColumn::column));
        columns.push(Column::fixed("COST $", Align::Right, 7, 52));
        let all: Vec<usize> = (0..columns.len()).collect();
        let placed = table::fit(&columns, &all, width.unwrap_or(LOG_WIDTH));
        Self { columns, placed, is_log: width.is_none() }
    }

    fn head(&self) -> String {
        self.laid_out(&|index| Cell::new(self.columns[index].title, Tone::Plain))
    }

    fn line(&self, request: &Request) -> String {
        let mut cells = vec![Cell::new(self.when(request), Tone::Plain)];
        cells.extend(BEFORE.map(|column| column.cell(request)));
        cells.push(RequestColumn::InputTokens.cell(request));
        cells.extend(BEHIND.map(|column| column.cell(request)));
        cells.push(RequestColumn::Cost.cell(request));
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
    use std::sync::Arc;

    use clap::Parser as _;
    use hbpf_core::snapshot::{Lost, ProbeState};

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

    /// What is to be written after these snapshots, exchanges by their ids.
    fn news(snapshots: &[Snapshot]) -> Vec<String> {
        let (inlet, outlet) = backlog::backlog(backlog::MAX_WAITING);
        let groups = Group::LLM.to_vec();
        let mut sieve = Sieve { arguments: arguments(&["--json"]), watch: Watch::new(&groups), groups, inlet };
        snapshots.iter().for_each(|snapshot| sieve.take(&Update::Snapshot(Arc::new(snapshot.clone()))));
        sieve.take(&Update::Ended("stopped".to_owned()));
        let shown = |news| match news {
            News::Exchange(request) => request.id.to_string(),
            News::Notice(line) | News::Ended(line) => line,
        };
        std::iter::from_fn(|| outlet.next()).map(shown).collect()
    }

    #[test]
    fn what_is_not_seen_is_told_between_the_lines() {
        let mut whole = fixture::rich();
        whole.capture.lost = Lost::default();
        let mut later = whole.clone();
        later.requests.finished = later.requests.recent[..2].to_vec();
        later.requests.finished_omitted = 5;
        let mut off = whole.clone();
        off.capture.probes[2].state = ProbeState::Off;
        off.findings = vec![fixture::findings().remove(1)];
        off.capture.lost.ring_full.chunks = 3;
        let mut back = whole.clone();
        back.capture.lost.ring_full.chunks = 4;
        insta::assert_snapshot!(news(&[fixture::empty(), whole, later, off.clone(), off, back]).join("\n"));
    }

    #[test]
    fn one_group_of_two_is_in_place_and_that_is_said() {
        let mut snapshot = fixture::unprivileged();
        snapshot.capture.probes[1].state = ProbeState::On;
        let lines = news(&[snapshot.clone()]);
        assert!(lines[0].starts_with("llm-tls is not seen: loading"), "{lines:?}");
        assert!(lines.contains(&"the probes are in place, but for llm-tls".to_owned()), "{lines:?}");
        assert_eq!(news(&[fixture::unprivileged()])[0], "nothing can be seen: loading BPF programs needs root");
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
