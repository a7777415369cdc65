//! Metrics and spans to an OpenTelemetry collector.
//!
//! Metrics are encoded anew each time, so that nothing waits while the collector is away: the next export has all of it. Counts
//! since the last export are since the last that arrived. Of one that may have arrived or not, they are taken to have: nothing is
//! told twice, and that something may be missing is counted.

mod encode;
mod send;
mod settings;
mod spans;

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::broadcast::error::{RecvError, TryRecvError};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use self::encode::Encoder;
use self::send::{Failure, Sender};
use self::settings::Temporality;
pub(super) use self::settings::{Options, Settings};
use self::spans::Spans;
use super::listener::Shared;
use super::publisher::{Frame, ended};
use crate::metrics;

/// After a failure, until it is tried again; doubled each time up to the most.
const FIRST_RETRY: Duration = Duration::from_secs(1);
const MAX_RETRY: Duration = Duration::from_secs(30);

/// At the end, for what is left.
const LAST_EXPORT: Duration = Duration::from_secs(5);

/// How the exports go.
#[derive(Default)]
pub(super) struct Progress(RefCell<Vec<(&'static str, Outcome)>>);

/// How those of one signal go.
#[derive(Clone, Default)]
pub(super) struct Outcome {
    pub(super) exported: u64,
    pub(super) failed: u64,
    /// Points or spans that the collector refused.
    pub(super) rejected: u64,
    /// Exports of which it is not known whether they arrived.
    pub(super) unconfirmed: u64,
    /// Spans that had no place in the queue.
    pub(super) dropped: u64,
    /// Snapshots that did not come, with as many spans as they may have had.
    pub(super) missed_snapshots: u64,
    /// Why the last one failed, if it did.
    pub(super) problem: Option<String>,
}

impl Progress {
    fn note(&self, signal: &'static str, note: impl FnOnce(&mut Outcome)) {
        let mut outcomes = self.0.borrow_mut();
        let at = outcomes.iter().position(|(of, _)| *of == signal).unwrap_or_else(|| {
            outcomes.push((signal, Outcome::default()));
            outcomes.len() - 1
        });
        note(&mut outcomes[at].1);
    }

    pub(super) fn outcomes(&self) -> Vec<(&'static str, Outcome)> {
        self.0.borrow().clone()
    }
}

const METRICS: &str = "metrics";
const TRACES: &str = "traces";

/// What is to be done, with connections that are made when they are needed.
#[derive(Clone)]
pub(super) struct Exporter {
    settings: Settings,
    metrics: Option<Sender>,
    traces: Option<Sender>,
}

impl Exporter {
    /// To be called while files can be read.
    ///
    /// # Errors
    ///
    /// If certificates cannot be used.
    pub(super) fn new(settings: Settings) -> anyhow::Result<Self> {
        let metrics = settings.metrics.as_ref().map(Sender::new).transpose()?;
        let traces = settings.traces.as_ref().map(Sender::new).transpose()?;
        Ok(Self { settings, metrics, traces })
    }

    /// Exports until `ending`, and what is left then. `is_first`: nobody has exported what this collector says before.
    pub(super) async fn run(self, shared: Rc<Shared>, ending: watch::Receiver<bool>, is_first: bool) {
        let Self { settings, metrics, traces } = self;
        let metrics = async {
            if let Some(sender) = metrics {
                export_metrics(&settings, sender, &shared, ending.clone(), is_first).await;
            }
        };
        let traces = async {
            if let Some(sender) = traces {
                export_spans(&settings, sender, &shared, ending.clone()).await;
            }
        };
        tokio::join!(metrics, traces);
    }
}

/// The end, from which on little time is left, whatever is being sent just then.
struct End {
    ending: watch::Receiver<bool>,
    deadline: Option<Instant>,
}

impl End {
    fn new(ending: watch::Receiver<bool>) -> Self {
        Self { ending, deadline: None }
    }

    async fn in_time<T>(&mut self, sending: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
        let no_time_is_left = async {
            ended(&mut self.ending).await;
            sleep_until(*self.deadline.get_or_insert_with(|| Instant::now() + LAST_EXPORT)).await;
        };
        tokio::select! {
            sent = sending => sent,
            () = no_time_is_left => Err(Failure::unconfirmed("no time is left")),
        }
    }
}

async fn export_metrics(
    settings: &Settings,
    mut sender: Sender,
    shared: &Shared,
    mut ending: watch::Receiver<bool>,
    is_first: bool,
) {
    let mut encoder = None;
    // What another publisher has told is not told again; what it had not, nobody knows.
    let mut is_told = !is_first && settings.temporality == Temporality::Delta;
    // A collector that wants to be left alone is.
    let mut not_before = Instant::now();
    let mut retry = FIRST_RETRY;
    let mut next = Instant::now() + settings.interval;
    let mut is_ending = false;
    let mut end = End::new(ending.clone());
    while !is_ending {
        tokio::select! {
            () = sleep_until(next) => {}
            () = ended(&mut ending) => is_ending = true,
        }
        let frame = if is_ending { shared.current.latest() } else { shared.current.fresh().await };
        let Some(frame) = frame else { continue };
        let encoder = encoder.get_or_insert_with(|| Encoder::new(settings, &frame.snapshot));
        let mut families = metrics::collect(&frame.snapshot);
        shared.collect_own(&frame, &mut families);
        let encoded = encoder.encode(&frame.snapshot, families);
        next = (next + settings.interval).max(Instant::now());
        if std::mem::take(&mut is_told) {
            encoder.confirm_all();
            shared.progress.note(METRICS, |outcome| outcome.unconfirmed += 1);
            continue;
        }
        if Instant::now() < not_before && !is_ending {
            continue;
        }
        for message in encoded {
            match end.in_time(sender.metrics(message)).await {
                Ok(rejected) => {
                    encoder.confirm();
                    retry = FIRST_RETRY;
                    note_sent(shared, METRICS, &rejected);
                }
                Err(failure) => {
                    note_failure(shared, METRICS, &failure);
                    if !failure.is_retried && !failure.is_unconfirmed {
                        // Others may be taken all the same.
                        encoder.skip();
                        continue;
                    }
                    if failure.is_unconfirmed {
                        // As if it had arrived.
                        encoder.confirm();
                    } else {
                        not_before = Instant::now() + failure.after.unwrap_or(retry);
                        // Sooner than it would be, but no sooner than it may.
                        next = next.min(not_before);
                        retry = (retry * 2).min(MAX_RETRY);
                    }
                    // The rest has more to tell the next time.
                    break;
                }
            }
        }
    }
}

async fn export_spans(settings: &Settings, mut sender: Sender, shared: &Shared, mut ending: watch::Receiver<bool>) {
    let mut spans = Spans::new(settings);
    let mut retry = FIRST_RETRY;
    let mut next = Instant::now() + settings.spans.delay;
    let mut not_before = Instant::now();
    let mut is_ending = false;
    let mut end = End::new(ending.clone());
    let mut frames = shared.current.subscribe();
    while !is_ending {
        tokio::select! {
            () = sleep_until(next), if !spans.is_empty() => {}
            frame = frames.recv() => {
                match frame {
                    Ok(frame) => take(&mut spans, &frame, shared),
                    Err(RecvError::Lagged(missed)) => note_missed(shared, missed),
                    Err(RecvError::Closed) => is_ending = true,
                }
                if !is_ending && (!spans.is_full() || Instant::now() < not_before) {
                    continue;
                }
            }
            () = ended(&mut ending) => is_ending = true,
        }
        if is_ending {
            loop {
                match frames.try_recv() {
                    Ok(frame) => take(&mut spans, &frame, shared),
                    Err(TryRecvError::Lagged(missed)) => note_missed(shared, missed),
                    Err(TryRecvError::Empty | TryRecvError::Closed) => break,
                }
            }
        }
        while let Some(batch) = spans.batch() {
            match end.in_time(sender.spans(batch)).await {
                Ok(rejected) => {
                    spans.confirm();
                    retry = FIRST_RETRY;
                    note_sent(shared, TRACES, &rejected);
                }
                Err(failure) => {
                    if !failure.is_retried || failure.is_unconfirmed {
                        spans.confirm();
                    }
                    note_failure(shared, TRACES, &failure);
                    not_before = Instant::now() + failure.after.unwrap_or(retry);
                    retry = (retry * 2).min(MAX_RETRY);
                    break;
                }
            }
        }
        next = not_before.max(Instant::now() + settings.spans.delay);
    }
}

/// Requests that ended in snapshots that did not come have no spans: how many, nobody knows.
fn note_missed(shared: &Shared, snapshots: u64) {
    shared.progress.note(TRACES, |outcome| outcome.missed_snapshots += snapshots);
    shared.log.say("spans", &format!("{snapshots} snapshots were missed, and the requests that ended in them"));
}

fn take(spans: &mut Spans, frame: &Frame, shared: &Shared) {
    let missed = spans.missed_before(&frame.snapshot);
    if missed > 0 {
        note_missed(shared, missed);
    }
    let dropped = spans.take(&frame.snapshot);
    if dropped > 0 {
        shared.progress.note(TRACES, |outcome| outcome.dropped += dropped);
    }
}

fn note_sent(shared: &Shared, signal: &'static str, rejected: &Option<(u64, String)>) {
    shared.progress.note(signal, |outcome| {
        outcome.exported += 1;
        outcome.problem = None;
        outcome.rejected += rejected.as_ref().map_or(0, |(count, _)| *count);
    });
    if let Some((count, why)) = rejected {
        shared.log.say("rejected", &format!("the collector refused {count} of the {signal}: {why}"));
    }
}

fn note_failure(shared: &Shared, signal: &'static str, failure: &Failure) {
    shared.progress.note(signal, |outcome| {
        outcome.failed += 1;
        outcome.unconfirmed += u64::from(failure.is_unconfirmed);
        outcome.problem = Some(failure.why.clone());
    });
    shared.log.say("export", &format!("{signal} were not exported: {}", failure.why));
}
