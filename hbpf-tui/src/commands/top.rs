//! `hbpf top`: the live view, plain frames, or a recording.

use std::fs::File;
use std::process::ExitCode;
use std::sync::{Arc, mpsc};
use std::thread;

use anyhow::{Context, Result, bail};
use hbpf_core::prices::Prices;
use hbpf_core::snapshot::Snapshot;
use hbpf_host::collector::Options;
use hbpf_host::privsep::Scribe;
use hbpf_host::protocol::Group;

use super::{each_frame, open_recordings, print};
use crate::cli::Top;
use crate::feed::{Control, Update};
use crate::live;
use crate::prices;
use crate::recording::{END, Keep, Lines, Timeline};
use crate::remote;
use crate::text;
use crate::ui::{self, Settings, Sink, Source};

pub(crate) fn run(arguments: &Top, mut settings: Settings) -> Result<ExitCode> {
    if !arguments.batch && !ui::is_terminal() {
        bail!("standard output is no terminal; `hbpf top --batch` prints plain frames");
    }
    if !arguments.batch && std::env::var("TERM").is_ok_and(|kind| kind == "dumb") {
        bail!("this terminal cannot be drawn on (TERM is dumb); `hbpf top --batch` prints plain frames");
    }
    let scribe = scribe(arguments)?;
    let start = source(arguments)?;
    if arguments.batch {
        return batch(start, arguments.count);
    }
    settings.theme = arguments.theme.unwrap_or(settings.theme);
    settings.ascii |= arguments.ascii;
    show(start, scribe, &settings)
}

/// What delivers the frames, ready to be started. All that needs privileges or files is done.
enum Start<'a> {
    Live(live::Session, Arc<Prices>, &'a Top),
    Elsewhere(remote::Session, &'a Top),
    Recording(File),
}

/// Makes files for the live view, which plain frames have no need of. Before privileges go, and any thread starts.
fn scribe(arguments: &Top) -> Result<Option<Scribe>> {
    let scribe = (!arguments.batch).then(Scribe::start).transpose();
    scribe.context("cannot start")
}

fn source(arguments: &Top) -> Result<Start<'_>> {
    if let Some(session) = remote::Session::begin(&arguments.elsewhere, Some(arguments.interval))? {
        return Ok(Start::Elsewhere(session, arguments));
    }
    match &arguments.replay {
        None => {
            // While files can still be opened.
            let prices = prices::load(arguments.pricing.prices.as_deref())?;
            Ok(Start::Live(live::Session::begin(&arguments.sources)?, prices, arguments))
        }
        Some(path) => {
            let file = open_recordings(&[path])?.pop().context("cannot open it")?;
            Ok(Start::Recording(file))
        }
    }
}

fn options(arguments: &Top, prices: Arc<Prices>) -> Options {
    Options {
        groups: arguments.probes.chosen(),
        window: arguments.window,
        interval: Some(arguments.interval),
        max_overhead: arguments.bounds.max_overhead.0,
        max_bytes_per_second: arguments.bounds.max_bytes_per_second,
        engines: !arguments.sources.no_engines,
        prices,
        series: false,
    }
}

fn show(start: Start<'_>, scribe: Option<Scribe>, settings: &Settings) -> Result<ExitCode> {
    let ended = match start {
        Start::Live(session, prices, arguments) => {
            let timeline = Timeline::new(Keep::WATCHED)?;
            let options = options(arguments, prices);
            ui::run(Source::Live, timeline, scribe, settings, |sink| {
                session.start(options, move |update| sink.deliver(update))
            })?
            .map(|why| bail!(why))
        }
        Start::Elsewhere(session, arguments) => {
            let timeline = Timeline::new(Keep::WATCHED)?;
            let is_fleet = arguments.elsewhere.prometheus.is_some();
            let source = if is_fleet { Source::Fleet } else { Source::Remote };
            ui::run(source, timeline, scribe, settings, |sink| session.start(move |update| sink.deliver(update)))?
                .map(|why| bail!(why))
        }
        Start::Recording(file) => {
            let (timeline, rest) = Timeline::open(file).context("cannot read the recording")?;
            ui::run(Source::Replay, timeline, scribe, settings, |sink| read(rest, sink))?.map(|_| Ok(()))
        }
    };
    ended.transpose().map(|_: Option<()>| ExitCode::SUCCESS)
}

/// Reads what is left of a recording, on a thread of its own.
fn read(mut rest: Lines, sink: Sink) -> Result<Box<dyn Control>> {
    let read = move || {
        let ended = loop {
            match rest.next() {
                Ok(Some(snapshot)) => sink.deliver(Update::Snapshot(Arc::new(snapshot))),
                Ok(None) => break END.to_owned(),
                Err(error) => break format!("{error:#}"),
            }
        };
        sink.deliver(Update::Ended(ended));
    };
    thread::Builder::new().name("reader".to_owned()).spawn(read)?;
    Ok(Box::new(Recorded))
}

/// Control of a recording: there is nothing to control.
struct Recorded;

impl Control for Recorded {
    fn set_group(&self, _: Group, _: bool) {}

    fn take_now(&self) {}
}

fn batch(start: Start<'_>, count: Option<u64>) -> Result<ExitCode> {
    let width = text::terminal_width();
    let show = |snapshot: &Snapshot| print(&(text::render(snapshot, width) + "\n"));
    match start {
        Start::Live(session, prices, arguments) => {
            let (sender, updates) = mpsc::channel();
            // Control is kept: dropping it would end the collection.
            let _control = session.start(options(arguments, prices), move |update| {
                // After the last frame nobody listens.
                let _ = sender.send(update);
            })?;
            each_frame(&updates, arguments.interval, count, |snapshot| show(snapshot))?;
        }
        Start::Elsewhere(session, arguments) => {
            let (sender, updates) = mpsc::channel();
            // As above.
            let _control = session.start(move |update| _ = sender.send(update))?;
            each_frame(&updates, arguments.interval, count, |snapshot| show(snapshot))?;
        }
        // Who reads plain frames wants them all, not at their pace.
        Start::Recording(file) => {
            let mut lines = Lines::new(file).context("cannot read the recording")?;
            let mut left = count.unwrap_or(u64::MAX);
            while left > 0
                && let Some(snapshot) = lines.next()?
            {
                show(&snapshot)?;
                left -= 1;
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}
