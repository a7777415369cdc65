//! `hbpf top`: the live view, plain frames, or a recording.

use std::fs::File;
use std::io::BufRead;
use std::process::ExitCode;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use hbpf_core::prices::Prices;
use hbpf_host::collector::Options;
use hbpf_host::privsep::{self, SplitOptions};

use super::{each_frame, print};
use crate::cli::Top;
use crate::feed::Update;
use crate::live;
use crate::prices;
use crate::recording;
use crate::replay::{self, Recording};
use crate::rows::ProcessColumn;
use crate::text::{self, Style};
use crate::ui::{self, Source};

pub(crate) fn run(arguments: &Top) -> Result<ExitCode> {
    if !arguments.batch && !ui::is_terminal() {
        bail!("standard output is no terminal; `hbpf top --batch` prints plain frames");
    }
    let start = source(arguments)?;
    if arguments.batch { batch(start, arguments.count) } else { show(start) }
}

/// What delivers the frames, ready to be started. All that needs privileges or files is done.
enum Start<'a> {
    Live(live::Session, Arc<Prices>, &'a Top),
    Recording(Box<dyn BufRead + Send>),
}

fn source(arguments: &Top) -> Result<Start<'_>> {
    match &arguments.replay {
        None => {
            // While files can still be opened.
            let prices = prices::load(arguments.pricing.prices.as_deref())?;
            Ok(Start::Live(live::Session::begin(&arguments.sources)?, prices, arguments))
        }
        Some(path) => {
            let renounce = || privsep::renounce(&SplitOptions::default()).context("cannot start");
            let open = || File::open(path).with_context(|| format!("cannot open {}", path.display()));
            // Root may read every file anyway; who only has capabilities reads with their own rights.
            let file = if nix::unistd::geteuid().is_root() {
                let file = open()?;
                renounce()?;
                file
            } else {
                renounce()?;
                open()?
            };
            // A recording is from outside as well.
            privsep::confine().context("cannot start")?;
            let lines = recording::lines(file).with_context(|| format!("cannot read {}", path.display()))?;
            Ok(Start::Recording(lines))
        }
    }
}

impl Start<'_> {
    fn start(self, mut deliver: impl FnMut(Update) + Send + 'static) -> Result<Box<dyn crate::feed::Control>> {
        match self {
            Self::Live(session, prices, arguments) => {
                let options = Options {
                    groups: arguments.probes.chosen(),
                    window: arguments.window,
                    interval: Some(arguments.interval),
                    max_overhead: arguments.bounds.max_overhead.0,
                    max_bytes_per_second: arguments.bounds.max_bytes_per_second,
                    engines: !arguments.sources.no_engines,
                    prices,
                };
                session.start(options, deliver)
            }
            Self::Recording(input) => {
                let name = "replay".to_owned();
                thread::Builder::new().name(name).spawn(move || replay::play(input, thread::sleep, &mut deliver))?;
                Ok(Box::new(Recording))
            }
        }
    }
}

fn show(start: Start<'_>) -> Result<ExitCode> {
    let source = if matches!(start, Start::Live(..)) { Source::Live } else { Source::Replay };
    let ended = ui::run(source.clone(), |sink| start.start(move |update| sink.deliver(update)))?;
    match ended {
        Some(why) if source == Source::Live => bail!("collection has ended: {why}"),
        _ => Ok(ExitCode::SUCCESS),
    }
}

fn batch(start: Start<'_>, count: Option<u64>) -> Result<ExitCode> {
    let is_recording = matches!(start, Start::Recording(_));
    // A recording is shown as it is.
    let interval = match start {
        Start::Live(_, _, arguments) => arguments.interval,
        Start::Recording(_) => Duration::ZERO,
    };
    let (sender, updates) = mpsc::channel();
    // Control is kept: dropping it would end the collection.
    let _control = start.start(move |update| {
        // After the last frame nobody listens.
        let _ = sender.send(update);
    })?;
    let style = Style { width: text::terminal_width(), sort: ProcessColumn::OutputRate };
    let result = each_frame(&updates, interval, count, |snapshot| print(&(text::render(snapshot, style) + "\n")));
    match result {
        // A recording has an end; to reach it is what was asked for.
        Err(error) if is_recording && error.to_string().ends_with(replay::END) => Ok(ExitCode::SUCCESS),
        result => result.map(|()| ExitCode::SUCCESS),
    }
}
