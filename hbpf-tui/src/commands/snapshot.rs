//! `hbpf snapshot`: one look, or a stream of them.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use hbpf_core::snapshot::Snapshot;
use hbpf_host::collector::Options;
use hbpf_host::privsep;
use hbpf_host::protocol::Group;

use super::{each_frame, print, write};
use crate::cli::{Format, MAX_WINDOW, MIN_WINDOW, SnapshotArgs};
use crate::feed::{Control, Update};
use crate::live;
use crate::prices;
use crate::remote;
use crate::summary::{self, GroupState};
use crate::text;

/// What rates of a stream are over, unless its frames are farther apart.
const STREAM_WINDOW: Duration = Duration::from_secs(5);

/// How long to wait for the probes before the time counts without them. Seconds, where many libraries are loaded.
pub(super) const PLACING: Duration = Duration::from_secs(30);

/// How often is asked whether they are in.
pub(super) const PLACING_PACE: Duration = Duration::from_millis(100);

/// How long before its end processes are looked at: whom it is worth the while to look at closely shows by the first look, and
/// what their threads do lies between two. No more often, for each look goes through all processes.
const LOOKS: [Duration; 2] = [Duration::from_secs(2), Duration::from_secs(1)];

/// How long the collector may take to answer: it answers in milliseconds, unless it hangs.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) fn run(arguments: &SnapshotArgs) -> Result<ExitCode> {
    if arguments.schema {
        print(&(serde_json::to_string_pretty(&schemars::schema_for!(Snapshot))? + "\n"))?;
        return Ok(ExitCode::SUCCESS);
    }
    let window = arguments.interval.map_or(arguments.duration, |interval| interval.max(STREAM_WINDOW));
    let groups = arguments.probes.chosen();
    let options = Options {
        groups: groups.clone(),
        window: window.clamp(MIN_WINDOW, MAX_WINDOW),
        interval: arguments.interval,
        max_overhead: arguments.bounds.max_overhead.0,
        max_bytes_per_second: arguments.bounds.max_bytes_per_second,
        engines: !arguments.sources.no_engines,
        // While files can still be opened, as below.
        prices: prices::load(arguments.pricing.prices.as_deref())?,
        series: false,
    };
    let file = arguments.output.as_deref().filter(|path| *path != Path::new("-"));
    let mut output = file.map(privsep::create_output).transpose()?;
    let width = if output.is_some() { None } else { text::terminal_width() };
    let (sender, updates) = std::sync::mpsc::channel();
    // After the last frame nobody listens.
    let deliver = move |update| _ = sender.send(update);
    let elsewhere = remote::Session::begin(&arguments.elsewhere, arguments.interval)?;
    let is_elsewhere = elsewhere.is_some();
    let control = match elsewhere {
        Some(session) => session.start(deliver)?,
        None => live::Session::begin(&arguments.sources)?.start(options, deliver)?,
    };
    let mut told = false;
    let mut emit = |snapshot: &Arc<Snapshot>| {
        let mut snapshot = Snapshot::clone(snapshot);
        let missing = keep(&mut snapshot, &arguments.pids);
        if !missing.is_empty() && !told {
            told = true;
            let missing: Vec<String> = missing.iter().map(u32::to_string).collect();
            eprintln!("hbpf: no such process: {}", missing.join(", "));
        }
        let text = written(&snapshot, arguments.format(), arguments.interval.is_some(), width)?;
        match &mut output {
            Some(file) => write(file, &text),
            None => print(&text),
        }
    };
    match arguments.interval {
        Some(interval) => each_frame(&updates, interval, arguments.count, emit)?,
        None if is_elsewhere => match updates.recv_timeout(remote::PATIENCE) {
            Ok(Update::Snapshot(snapshot)) => emit(&snapshot)?,
            Ok(Update::Ended(why)) => bail!(why),
            Err(_) => bail!("no answer"),
        },
        None => emit(&one(&updates, control.as_ref(), &groups, arguments.duration)?)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Lets the time pass, from when the probes are in place, and takes a snapshot at its end.
fn one(
    updates: &Receiver<Update>,
    control: &dyn Control,
    groups: &[Group],
    duration: Duration,
) -> Result<Arc<Snapshot>> {
    let mut progress = Progress::Placing { until: Instant::now() + PLACING };
    loop {
        let patience = match progress {
            Progress::Waiting { .. } => PLACING_PACE,
            Progress::Observing { until, looking: false } => {
                let left = until.saturating_duration_since(Instant::now());
                LOOKS.iter().find_map(|look| left.checked_sub(*look)).unwrap_or(left)
            }
            Progress::Observing { looking: true, .. } => PATIENCE,
            Progress::Placing { .. } | Progress::Asked => PATIENCE,
        };
        match (updates.recv_timeout(patience), &progress) {
            (Ok(Update::Snapshot(snapshot)), Progress::Asked) => return Ok(snapshot),
            (Ok(Update::Snapshot(snapshot)), Progress::Placing { until }) => {
                let now = Instant::now();
                if in_place(&snapshot, groups) || now >= *until {
                    progress = Progress::Observing { until: now + duration, looking: false };
                } else {
                    progress = Progress::Waiting { until: *until };
                }
            }
            (Ok(Update::Snapshot(_)), Progress::Observing { until, .. }) => {
                progress = Progress::Observing { until: *until, looking: false };
            }
            (Ok(Update::Snapshot(_)), Progress::Waiting { .. }) => {}
            // What was seen before would pass for what is.
            (Ok(Update::Ended(why)), _) => bail!(why),
            (Err(RecvTimeoutError::Disconnected), _) => bail!("collection has ended"),
            (Err(RecvTimeoutError::Timeout), Progress::Waiting { until }) => {
                progress = Progress::Placing { until: *until };
                control.take_now();
            }
            (Err(RecvTimeoutError::Timeout), Progress::Observing { until, looking: false }) => {
                let is_over = Instant::now() >= *until;
                progress = if is_over { Progress::Asked } else { Progress::Observing { until: *until, looking: true } };
                control.take_now();
            }
            (Err(RecvTimeoutError::Timeout), _) => bail!("nothing could be collected: no answer"),
        }
    }
}

/// How far a single snapshot has got.
enum Progress {
    /// The probes are being put in, and a snapshot will say how far that is. A first one comes at once.
    Placing { until: Instant },
    /// They are not all in; a moment passes until that is asked again.
    Waiting { until: Instant },
    /// The time passes. While `looking`, a snapshot is on its way that nobody will see.
    Observing { until: Instant, looking: bool },
    /// The snapshot was asked for.
    Asked,
}

/// Whether these groups of probes are in, or what stands in their way is known.
fn in_place(snapshot: &Snapshot, groups: &[Group]) -> bool {
    let waiting = |group: &Group| {
        matches!(summary::group_state(&snapshot.capture, *group), GroupState::Waiting | GroupState::Off)
    };
    !groups.iter().any(waiting)
}

/// Leaves only what is about these processes, if any are named; returns those that are not there.
fn keep(snapshot: &mut Snapshot, pids: &[u32]) -> Vec<u32> {
    if pids.is_empty() {
        return Vec::new();
    }
    let wanted = |pid: &u32| pids.contains(pid);
    snapshot.processes.retain(|process| wanted(&process.pid));
    snapshot.workloads.retain(|workload| workload.pids.iter().any(wanted));
    snapshot.engines.retain(|engine| wanted(&engine.pid));
    let requests = &mut snapshot.requests;
    for list in [&mut requests.in_flight, &mut requests.recent, &mut requests.failed, &mut requests.finished] {
        list.retain(|request| request.pid.as_ref().is_some_and(wanted));
    }
    pids.iter().copied().filter(|pid| snapshot.processes.iter().all(|process| process.pid != *pid)).collect()
}

/// A snapshot as it is written; the frames of a stream are one line of JSON each.
fn written(snapshot: &Snapshot, format: Format, is_stream: bool, width: Option<usize>) -> Result<String> {
    Ok(match (format, is_stream) {
        (Format::Json, true) => serde_json::to_string(snapshot)? + "\n",
        (Format::Json, false) => serde_json::to_string_pretty(snapshot)? + "\n",
        (Format::Text, is_stream) => {
            let text = text::render(snapshot, width);
            if is_stream { text + "\n" } else { text }
        }
    })
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::sync::mpsc;

    use hbpf_core::snapshot::ProbeState;

    use super::*;
    use crate::fixture;

    #[test]
    fn only_the_processes_asked_for_are_kept() {
        let mut snapshot = fixture::rich();
        let totals = snapshot.totals.clone();
        assert_eq!(keep(&mut snapshot, &[1291, 77]), [77]);
        assert_eq!(snapshot.processes.iter().map(|p| p.pid).collect::<Vec<_>>(), [1291]);
        let requests = snapshot.requests.in_flight.iter().chain(&snapshot.requests.recent);
        assert_eq!(requests.map(|r| r.pid).collect::<Vec<_>>(), [Some(1291); 2]);
        assert_eq!(snapshot.totals, totals, "totals stay those of the host");
        let mut whole = fixture::rich();
        assert!(keep(&mut whole, &[]).is_empty());
        assert_eq!(whole, fixture::rich());
    }

    #[test]
    fn a_stream_is_one_line_a_frame_and_reads_back() {
        let json = written(&fixture::rich(), Format::Json, true, None).unwrap();
        assert_eq!(json.lines().count(), 1);
        let back: Snapshot = serde_json::from_str(&json).unwrap();
        assert_eq!(back.requests, fixture::rich().requests);
        assert_eq!(back.capture, fixture::rich().capture);
    }

    /// Answers `take_now` with snapshots in order; the last one again and again.
    struct Answers(mpsc::Sender<Update>, RefCell<Vec<Snapshot>>);

    impl Answers {
        /// The first snapshot is there already.
        fn new(snapshots: Vec<Snapshot>) -> (Self, Receiver<Update>) {
            let (sender, updates) = mpsc::channel();
            let answers = Self(sender, RefCell::new(snapshots));
            answers.take_now();
            (answers, updates)
        }
    }

    impl Control for Answers {
        fn set_group(&self, _: Group, _: bool) {}

        fn take_now(&self) {
            let mut left = self.1.borrow_mut();
            let next = if left.len() > 1 { left.remove(0) } else { left[0].clone() };
            self.0.send(Update::Snapshot(Arc::new(next))).unwrap();
        }
    }

    const SHORT: Duration = Duration::from_millis(1);

    #[test]
    fn the_snapshot_is_that_of_the_end_not_one_of_those_before() {
        let (control, updates) = Answers::new(vec![fixture::empty(), Snapshot { sequence: 42, ..fixture::empty() }]);
        assert_eq!(one(&updates, &control, &[], SHORT).unwrap().sequence, 42);
    }

    #[test]
    fn the_time_counts_from_when_the_probes_are_in_place() {
        let mut off = fixture::rich();
        for probe in &mut off.capture.probes {
            probe.state = ProbeState::Off;
        }
        let failed = fixture::unprivileged();
        let asked_for = |settled: Snapshot| {
            let frames = [fixture::empty(), off.clone(), settled.clone(), settled];
            let frames = (0..).zip(frames).map(|(sequence, snapshot)| Snapshot { sequence, ..snapshot });
            let (control, updates) = Answers::new(frames.collect());
            one(&updates, &control, &Group::LLM, SHORT).unwrap().sequence
        };
        assert_eq!(asked_for(fixture::rich()), 3, "two without probes, one that says they are in, one at the end");
        assert_eq!(asked_for(failed), 3, "nothing more to wait for");
    }

    #[test]
    fn processes_are_looked_at_before_the_end() {
        let frames = (0..6).map(|sequence| Snapshot { sequence, ..fixture::empty() });
        let (control, updates) = Answers::new(frames.collect());
        let duration = LOOKS[1] + Duration::from_millis(10);
        assert_eq!(one(&updates, &control, &[], duration).unwrap().sequence, 2, "one at once, a look, one at the end");
    }

    #[test]
    fn an_early_end_is_no_snapshot() {
        let (control, updates) = Answers::new(vec![fixture::empty()]);
        control.0.send(Update::Ended("gone".to_owned())).unwrap();
        let error = one(&updates, &control, &[], PATIENCE).unwrap_err();
        assert_eq!(error.to_string(), "gone");
    }
}
