//! `hbpf record`: the snapshots of a stream into a file, to be looked at later.

use std::process::ExitCode;
use std::sync::mpsc::{self, Sender};
use std::thread;

use anyhow::{Context, Result};
use hbpf_host::collector::Options;
use hbpf_host::privsep;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::each_frame;
use crate::cli::{MAX_WINDOW, MIN_WINDOW, RecordArgs};
use crate::feed::Update;
use crate::format;
use crate::live;
use crate::prices;
use crate::recording::Writer;

/// What ends a recording that has no end of its own.
const STOPPED: &str = "stopped";

pub(crate) fn run(arguments: &RecordArgs) -> Result<ExitCode> {
    let options = Options {
        groups: arguments.probes.chosen(),
        window: arguments.window.clamp(MIN_WINDOW, MAX_WINDOW),
        interval: Some(arguments.interval),
        max_overhead: arguments.bounds.max_overhead.0,
        max_bytes_per_second: arguments.bounds.max_bytes_per_second,
        engines: !arguments.sources.no_engines,
        // While files can still be opened, as below.
        prices: prices::load(arguments.pricing.prices.as_deref())?,
    };
    let file = privsep::create_output(&arguments.output)?;
    let size = file.try_clone().context("cannot look at what is written")?;
    let session = live::Session::begin(&arguments.sources)?;
    let (sender, updates) = mpsc::channel();
    stop_on_signals(sender.clone())?;
    // Control is kept: dropping it would end the collection.
    let _control = session.start(options, move |update| {
        // After the last frame nobody listens.
        let _ = sender.send(update);
    })?;
    let frames = arguments.duration.map(|whole| whole.div_duration_f64(arguments.interval).ceil().max(1.0) as u64);
    let mut writer = Writer::new(file).context("cannot write")?;
    let mut written = 0_u64;
    let ended = each_frame(&updates, arguments.interval, frames, |snapshot| {
        writer.push(snapshot).context("cannot write")?;
        written += 1;
        Ok(())
    });
    writer.finish().context("cannot write")?;
    match ended {
        Err(error) if !error.to_string().ends_with(STOPPED) => return Err(error),
        _ => {}
    }
    let bytes = size.metadata().map_or(0, |metadata| metadata.len());
    eprintln!("hbpf: {written} snapshots, {}, in {}", format::bytes(bytes), arguments.output.display());
    Ok(ExitCode::SUCCESS)
}

/// A signal that would end us ends the recording instead, and that ends us.
fn stop_on_signals(sender: Sender<Update>) -> Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP]).context("cannot listen to signals")?;
    thread::Builder::new().name("signals".to_owned()).spawn(move || {
        if signals.forever().next().is_some() {
            let _ = sender.send(Update::Ended(STOPPED.to_owned()));
        }
    })?;
    Ok(())
}
