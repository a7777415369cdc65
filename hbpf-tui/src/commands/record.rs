//! `hbpf record`: the snapshots of a stream into a file, to be looked at later.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Seek, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Sender};
use std::thread;

use anyhow::{Context, Result};
use hbpf_core::snapshot::Snapshot;
use hbpf_host::collector::Options;
use hbpf_host::privsep;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1};
use signal_hook::iterator::Signals;

use super::each_frame;
use crate::cli::{MAX_WINDOW, MIN_WINDOW, RecordArgs};
use crate::feed::Update;
use crate::format;
use crate::live;
use crate::prices;
use crate::recording::{Effort, Keep, Timeline, Writer};

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
        series: false,
    };
    let mut output = Output::begin(arguments)?;
    let session = live::Session::begin(&arguments.sources)?;
    let (sender, updates) = mpsc::channel();
    let is_asked = Arc::new(AtomicBool::new(false));
    listen_to_signals(sender.clone(), Arc::clone(&is_asked), arguments.last.is_some())?;
    // Control is kept: dropping it would end the collection.
    let _control = session.start(options, move |update| {
        // After the last frame nobody listens.
        let _ = sender.send(update);
    })?;
    let frames = arguments.duration.map(|whole| whole.div_duration_f64(arguments.interval).ceil().max(1.0) as u64);
    let mut pushed = 0_u64;
    let ended = each_frame(&updates, arguments.interval, frames, |snapshot| {
        pushed += 1;
        output.push(snapshot, is_asked.swap(false, Ordering::SeqCst)).context("cannot write")
    });
    let is_short = output.is_short(pushed);
    let (kept, bytes) = output.finish(pushed).context("cannot write")?;
    match ended {
        Err(error) if !error.to_string().ends_with(STOPPED) => return Err(error),
        _ => {}
    }
    let note = if is_short { "; they reach back less far, as more does not fit into its memory" } else { "" };
    eprintln!("hbpf: {kept} snapshots, {}, in {}{note}", format::bytes(bytes), arguments.output.display());
    Ok(ExitCode::SUCCESS)
}

/// Where snapshots go.
enum Output {
    File(Writer<File>),
    Rotated {
        /// `None` only after an error.
        writer: Option<Writer<File>>,
        before: File,
        limit: u64,
        /// Snapshots in each, the file's own last.
        snapshots: [u64; 2],
    },
    /// Into memory first.
    Last(Box<Timeline>, File),
}

impl Output {
    /// To be called while files can still be made.
    fn begin(arguments: &RecordArgs) -> Result<Self> {
        // First the one that is more likely to be there from before.
        let older = arguments.rotate.map(|_| privsep::create_output(&before(&arguments.output))).transpose()?;
        let file = privsep::create_output(&arguments.output)?;
        if let Some(time) = arguments.last {
            let keep = Keep { time, effort: Effort::Thorough, ..Keep::STREAM };
            return Ok(Self::Last(Box::new(Timeline::new(keep)?), file));
        }
        let writer = Writer::new(file).context("cannot write")?;
        Ok(match arguments.rotate.zip(older) {
            None => Self::File(writer),
            Some((limit, before)) => Self::Rotated { writer: Some(writer), before, limit, snapshots: [0; 2] },
        })
    }

    /// Adds a snapshot. `is_asked`: what is kept is to be written.
    fn push(&mut self, snapshot: &Arc<Snapshot>, is_asked: bool) -> io::Result<()> {
        match self {
            Self::File(writer) => writer.push(snapshot),
            Self::Rotated { writer: slot, before, limit, snapshots } => {
                let Some(mut writer) = slot.take() else {
                    return Err(io::Error::other("it could not be written before"));
                };
                writer.push(snapshot)?;
                snapshots[1] += 1;
                if writer.get_ref().metadata()?.len() >= *limit {
                    let mut file = writer.finish()?;
                    move_over(&mut file, before)?;
                    *snapshots = [snapshots[1], 0];
                    writer = Writer::new(file)?;
                }
                *slot = Some(writer);
                Ok(())
            }
            Self::Last(timeline, file) => {
                timeline.push(Arc::clone(snapshot))?;
                if is_asked && let Err(error) = write_anew(timeline, file) {
                    // It has the minutes still, and there may be room when it is asked again.
                    eprintln!("hbpf: cannot write what is kept: {error}");
                }
                Ok(())
            }
        }
    }

    /// Whether what is kept reaches back less far than was asked for, though there was more: it takes too much memory.
    fn is_short(&self, pushed: u64) -> bool {
        let Self::Last(timeline, _) = self else { return false };
        let range = timeline.range();
        range.end - range.start < pushed && timeline.is_short()
    }

    /// Ends the recording, for which there were so many snapshots; gives how many are in it, and its bytes.
    fn finish(self, pushed: u64) -> io::Result<(u64, u64)> {
        match self {
            Self::File(writer) => Ok((pushed, writer.finish()?.metadata()?.len())),
            Self::Rotated { writer, before, snapshots, .. } => {
                let file = writer.map(Writer::finish).transpose()?;
                let bytes = file.map_or(Ok(0), |file| file.metadata().map(|metadata| metadata.len()))?;
                Ok((snapshots.iter().sum(), bytes + before.metadata()?.len()))
            }
            Self::Last(mut timeline, mut file) => {
                write_anew(&mut timeline, &mut file)?;
                let range = timeline.range();
                Ok((range.end - range.start, file.metadata()?.len()))
            }
        }
    }
}

/// Where a file's content goes once that is full.
fn before(path: &Path) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(".1");
    name.into()
}

/// Moves what is in a file to another, in place of what was there. Copied rather than renamed: files cannot be made any more.
/// Until all of it is there, the first has it.
fn move_over(from: &mut File, to: &mut File) -> io::Result<()> {
    empty(to)?;
    let mut buffer = vec![0; 1 << 20];
    let mut at = 0;
    loop {
        match from.read_at(&mut buffer, at)? {
            0 => break,
            read => to.write_all(&buffer[..read])?,
        }
        at = to.stream_position()?;
    }
    to.sync_data()?;
    empty(from)
}

fn write_anew(timeline: &mut Timeline, file: &mut File) -> io::Result<()> {
    empty(file)?;
    timeline.write(file)?;
    file.sync_data()
}

fn empty(file: &mut File) -> io::Result<()> {
    file.set_len(0)?;
    file.rewind()
}

/// A signal that would end us ends the recording instead, and that ends us. `is_kept`: another one asks for what is kept.
fn listen_to_signals(sender: Sender<Update>, is_asked: Arc<AtomicBool>, is_kept: bool) -> Result<()> {
    // Without anything kept it asks for nothing, and is not the end either: it may be meant for another recorder.
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP, SIGUSR1]).context("cannot listen to signals")?;
    thread::Builder::new().name("signals".to_owned()).spawn(move || {
        for signal in signals.forever() {
            if signal != SIGUSR1 {
                let _ = sender.send(Update::Ended(STOPPED.to_owned()));
                break;
            }
            is_asked.store(is_kept, Ordering::SeqCst);
        }
    })?;
    Ok(())
}
