//! `hbpf check`: whether something is too slow, too dear or failing, as an exit code.

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use hbpf_core::label::Text;
use hbpf_core::snapshot::Snapshot;
use hbpf_host::collector::Options;
use unicode_width::UnicodeWidthStr as _;

use super::measured::{Measured, Waits};
use super::print;
use super::snapshot::{PATIENCE, PLACING, PLACING_PACE};
use super::subjects::{Subject, subjects};
use super::watch::Watch;
use crate::cli::{CheckArgs, MAX_WINDOW, MIN_WINDOW, Sources};
use crate::condition::{Condition, Measure};
use crate::feed::{Control, Update};
use crate::live;
use crate::prices;

/// A condition holds.
const HOLDS: u8 = 1;
/// It cannot be told.
const UNKNOWN: u8 = 3;

/// How often is looked at what is seen and who waits: a group that is switched off to save its cost stays off for longer.
const PACE: Duration = Duration::from_secs(1);

pub(crate) fn run(arguments: &CheckArgs) -> ExitCode {
    match checked(arguments) {
        Ok(code) => code,
        Err(error) => {
            super::complain(&error);
            ExitCode::from(UNKNOWN)
        }
    }
}

fn checked(arguments: &CheckArgs) -> Result<ExitCode> {
    let chosen = arguments.probes.chosen();
    let groups = super::traffic_groups(&chosen)?;
    let options = Options {
        groups: chosen,
        window: arguments.duration.clamp(MIN_WINDOW, MAX_WINDOW),
        interval: None,
        max_overhead: arguments.bounds.max_overhead.0,
        max_bytes_per_second: arguments.bounds.max_bytes_per_second,
        engines: false,
        // While files can still be opened.
        prices: prices::load(arguments.pricing.prices.as_deref())?,
        series: false,
    };
    // Nothing else is asked after, so nothing else is looked at.
    let sources = Sources { nvml_library: None, no_engines: true };
    let session = live::Session::begin(&sources)?;
    let (sender, updates) = std::sync::mpsc::channel();
    let control = session.start(options, move |update| {
        // After the last look nobody listens.
        let _ = sender.send(update);
    })?;
    let mut seen = Seen { watch: Watch::new(&groups), waits: Waits::default(), lines: Vec::new() };
    let snapshot = observe(&updates, control.as_ref(), arguments.duration, &mut seen)?;
    if super::is_blind(&snapshot, &groups) {
        bail!("nothing can be seen: {}", super::why_blind(&snapshot));
    }
    let subjects = subjects(&snapshot, arguments, &groups, &seen.waits);
    for line in seen.lines.iter().chain(subjects.iter().filter_map(|subject| subject.unseen.as_ref())) {
        eprintln!("hbpf: {}", Text::new(line));
    }
    let verdicts = verdicts(&subjects, &arguments.conditions, seen.watch.is_whole());
    print(&told(&verdicts))?;
    let any = |wanted: fn(&Verdict) -> bool| verdicts.iter().any(wanted);
    Ok(match () {
        () if any(|verdict| verdict.holds == Some(true)) => ExitCode::from(HOLDS),
        () if any(|verdict| verdict.holds.is_none()) || verdicts.is_empty() => ExitCode::from(UNKNOWN),
        () => ExitCode::SUCCESS,
    })
}

/// What has come of looking.
struct Seen {
    watch: Watch,
    waits: Waits,
    /// What is to be said of it. Not before the end: a standard error that nobody reads would hold the looking up.
    lines: Vec<String>,
}

impl Seen {
    fn look(&mut self, snapshot: &Snapshot) {
        self.lines.extend(self.watch.look(snapshot));
        self.waits.look(snapshot);
    }
}

/// Lets the time pass, from when the probes are in place, and looks on; gives the snapshot of its end.
fn observe(
    updates: &Receiver<Update>,
    control: &dyn Control,
    duration: Duration,
    seen: &mut Seen,
) -> Result<Arc<Snapshot>> {
    let placed_by = Instant::now() + PLACING;
    let mut until = None;
    // The first comes unasked.
    loop {
        let Some(snapshot) = next(updates, PATIENCE)? else { bail!("nothing could be collected: no answer") };
        seen.look(&snapshot);
        let now = Instant::now();
        if until.is_none() && (seen.watch.is_settled() || now >= placed_by) {
            until = Some(now + duration);
        } else if until.is_some_and(|until| now >= until) {
            seen.lines.extend(seen.watch.rest_of_losses());
            if !seen.watch.is_settled() {
                seen.lines.push(seen.watch.in_place());
            }
            return Ok(snapshot);
        }
        let pause = until.map_or(PLACING_PACE, |until| until.saturating_duration_since(now).min(PACE));
        if let Some(snapshot) = next(updates, pause)? {
            // It was late, and another was asked for meanwhile.
            seen.look(&snapshot);
        }
        control.take_now();
    }
}

/// The next snapshot, if one comes in time.
fn next(updates: &Receiver<Update>, patience: Duration) -> Result<Option<Arc<Snapshot>>> {
    match updates.recv_timeout(patience) {
        Ok(Update::Snapshot(snapshot)) => Ok(Some(snapshot)),
        // What was seen before would pass for what is.
        Ok(Update::Ended(why)) => bail!(why),
        Err(RecvTimeoutError::Disconnected) => bail!("collection has ended"),
        Err(RecvTimeoutError::Timeout) => Ok(None),
    }
}

/// What has come of one condition for one set of exchanges.
#[derive(Debug, PartialEq)]
struct Verdict {
    condition: String,
    /// Whose exchanges; empty for all.
    subject: String,
    /// The value, for people.
    value: String,
    /// `None` where the value is not known.
    holds: Option<bool>,
}

/// `is_whole`: all of the traffic was seen.
fn verdicts(subjects: &[Subject<'_>], conditions: &[Condition], is_whole: bool) -> Vec<Verdict> {
    let judge = |condition| subjects.iter().map(move |subject| verdict(condition, subject, is_whole));
    conditions.iter().flat_map(judge).collect()
}

fn verdict(condition: &Condition, subject: &Subject<'_>, is_whole: bool) -> Verdict {
    let is_whole = is_whole && subject.unseen.is_none();
    let measure = condition.measure;
    let mut measured = subject.exchanges.measured(condition);
    if let Some(measured) = measured.as_mut().filter(|_| !is_whole && measure.only_grows()) {
        measured.range.most = f64::INFINITY;
    }
    let holds = measured.as_ref().and_then(|measured| condition.holds(measured.range));
    Verdict {
        condition: condition.to_string(),
        subject: subject.name.clone(),
        value: shown(measure, measured.as_ref(), is_whole),
        // What was not seen may be beyond the limit, too; what was seen to be stays so.
        holds: holds.filter(|holds| *holds || is_whole || measure.only_grows()),
    }
}

fn shown(measure: Measure, measured: Option<&Measured>, is_whole: bool) -> String {
    let Some(Measured { range, of, note }) = measured else { return "unknown: nothing was measured".to_owned() };
    let (least, most) = (measure.shown(range.least), measure.shown(range.most));
    let mut text = match range.most {
        bound if bound.is_infinite() => format!("at least {least}"),
        // They may differ by less than is shown.
        _ if least == most => least,
        _ => format!("{least} to {most}"),
    };
    if let Some(of) = of {
        text += &format!(" of {of}");
    }
    let unseen = (!is_whole).then_some("not all was seen");
    for note in note.as_deref().into_iter().chain(unseen) {
        text += &format!(", {note}");
    }
    text
}

/// A line for each.
fn told(verdicts: &[Verdict]) -> String {
    let width = verdicts.iter().map(|verdict| verdict.condition.width()).max().unwrap_or(0);
    let line = |verdict: &Verdict| {
        let word = match verdict.holds {
            Some(true) => "HOLDS",
            Some(false) => "ok",
            None => "?",
        };
        let subject = if verdict.subject.is_empty() { String::new() } else { format!("  {}", verdict.subject) };
        format!("{word:<5}  {:<width$}  {}{subject}\n", verdict.condition, verdict.value)
    };
    verdicts.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::sync::mpsc;

    use clap::Parser as _;
    use hbpf_core::exchange::Phase;
    use hbpf_core::snapshot::{LlmStats, Lost, ProbeState};
    use hbpf_host::protocol::Group;

    use super::*;
    use crate::cli::{Cli, Command};
    use crate::fixture;

    /// All that a snapshot says, when it has been looked at once.
    fn judge(snapshot: &Snapshot, options: &[&str]) -> Vec<Verdict> {
        let arguments = match Cli::try_parse_from(["hbpf", "check"].iter().chain(options)).unwrap().command {
            Some(Command::Check(arguments)) => arguments,
            other => panic!("{other:?}"),
        };
        let mut seen = Seen { watch: Watch::new(&Group::LLM), waits: Waits::default(), lines: Vec::new() };
        seen.look(snapshot);
        let subjects = subjects(snapshot, &arguments, &Group::LLM, &seen.waits);
        verdicts(&subjects, &arguments.conditions, seen.watch.is_whole())
    }

    fn holds(snapshot: &Snapshot, options: &[&str]) -> Vec<Option<bool>> {
        judge(snapshot, options).iter().map(|verdict| verdict.holds).collect()
    }

    /// Nothing was lost, and nobody waits for long.
    fn whole() -> Snapshot {
        let mut snapshot = fixture::rich();
        snapshot.capture.lost = Lost::default();
        snapshot.requests.in_flight[2].age_seconds = 0.1;
        snapshot
    }

    fn judged(options: &[&str]) -> (String, Vec<Option<bool>>) {
        (told(&judge(&whole(), options)), holds(&whole(), options))
    }

    #[test]
    fn values_are_those_of_the_snapshot() {
        let snapshot = whole();
        let slowest = snapshot.totals.latency.since_start.time_to_first_token_seconds.unwrap().p99;
        let (below, above) = (format!("ttft_p99>{}", slowest * 0.99), format!("ttft_p99>{}", slowest * 1.01));
        assert_eq!(judged(&[&below, &above]).1, [Some(true), Some(false)]);
        let requests = snapshot.totals.requests_total;
        let exactly =
            [format!("requests>={requests}"), format!("requests<={requests}"), format!("requests>{requests}")];
        assert_eq!(judged(&exactly.each_ref().map(String::as_str)).1, [Some(true), Some(true), Some(false)]);
        assert_eq!(judged(&["cost_per_hour>0"]).1.len(), 1);
    }

    #[test]
    fn lines_say_what_was_found() {
        let options = ["ttft_p99>2s", "itl_mean>1ms", "errors>1%", "in_flight>1000", "tokens_per_second<1"];
        let text = [&options[..], &[]].concat();
        insta::assert_snapshot!(
            [judged(&text).0, judged(&["errors>50%", "--model", "GPT"]).0, judged(&["failed>0", "--pid", "1291"]).0]
                .join("\n")
        );
        assert_eq!(judged(&["ttft_p50>1s", "--pid", "1"]).1, [None]);
        assert_eq!(judged(&["ttft_p50>1s", "--model", "no such"]).1, [None]);
    }

    #[test]
    fn what_was_not_seen_whole_is_not_well_and_what_was_seen_to_be_wrong_stays_so() {
        let mut failed = whole();
        for probe in failed.capture.probes.iter_mut().filter(|probe| probe.group == "llm-tls") {
            probe.state = ProbeState::Failed;
        }
        let mut partial = whole();
        partial.capture.probes[0].state = ProbeState::Failed;
        let mut lossy = whole();
        lossy.capture.lost.parse_gap = 1;
        let mut excluded = whole();
        excluded.capture.overhead.excluded_processes = 1;
        let conditions =
            ["failed>0", "failed>100000", "errors>1%", "errors>50%", "ttft_p50<1ms", "requests<1", "in_flight<1"];
        let seen = [true, false, true, false, false, false, false].map(Some);
        assert_eq!(holds(&whole(), &conditions), seen);
        for snapshot in [failed, partial, lossy, excluded] {
            let verdicts = judge(&snapshot, &conditions);
            let holds: Vec<_> = verdicts.iter().map(|verdict| verdict.holds).collect();
            // More requests than were seen are not fewer than one.
            assert_eq!(holds, [Some(true), None, Some(true), None, None, Some(false), None]);
            assert_eq!(verdicts[1].value, "at least 102, not all was seen");
        }
    }

    #[test]
    fn a_cost_that_is_known_in_part_is_the_least_that_it_is() {
        let mut snapshot = whole();
        let stats = &mut snapshot.totals;
        (stats.cost_usd, stats.cost_usd_per_hour, stats.cost_unknown_requests) = (Some(0.1), Some(2.0), 1000);
        let conditions = ["cost_per_hour>1", "cost_per_hour>10", "cost_per_hour<1", "cost_per_hour<10"];
        assert_eq!(holds(&snapshot, &conditions), [Some(true), None, Some(false), None]);
        assert_eq!(judge(&snapshot, &conditions)[1].value, "at least $2.00, the cost of 1000 is not known");
        (snapshot.totals.cost_usd, snapshot.totals.cost_usd_per_hour) = (None, None);
        assert_eq!(holds(&snapshot, &conditions), [None; 4]);
        snapshot.totals = LlmStats { cost_usd_per_hour: Some(2.0), cost_unknown_requests: 0, ..snapshot.totals };
        assert_eq!(holds(&snapshot, &conditions), [true, false, false, true].map(Some));
        snapshot.totals = LlmStats::default();
        assert_eq!(holds(&snapshot, &["cost_per_hour>10"]), [Some(false)], "nobody has called");
    }

    #[test]
    fn of_whom_nothing_is_seen_there_is_nothing_where_all_was_seen() {
        let counts = ["requests<1", "failed>0", "tokens_per_second<5", "in_flight>0", "stalls>0", "cost_per_hour<1"];
        let none = [true, false, true, false, false, true].map(Some);
        for subject in [["--model", "no such"], ["--pid", "901"], ["--pid", "77"]] {
            assert_eq!(holds(&whole(), &[&counts[..], &subject].concat()), none, "{subject:?}");
            assert_eq!(holds(&whole(), &[&["ttft_p50>1s", "errors>1%"][..], &subject].concat()), [None, None]);
            let mut lossy = whole();
            lossy.capture.lost.ring_full.chunks = 1;
            assert_eq!(holds(&lossy, &[&counts[..], &subject].concat()), [None; 6]);
        }
        // It is blind, and talks to a host of models.
        assert_eq!(holds(&whole(), &["requests<1", "failed>0", "--pid", "61100"]), [None, None]);
        let mut nameless = whole();
        nameless.models[0].model = None;
        assert_eq!(holds(&nameless, &["requests<1", "--model", "no such"]), [None], "it may be that one");
    }

    #[test]
    fn what_hangs_counts_for_as_long_as_it_has_hung() {
        let mut snapshot = whole();
        let mut hung = snapshot.requests.in_flight[0].clone();
        (hung.phase, hung.age_seconds, hung.stream) = (Phase::Waiting, 40.0, Some(true));
        (hung.model, hung.provider) = (Some("new".into()), "unknown".into());
        let hung = (0..50).map(|number| {
            let mut request = hung.clone();
            request.id = format!("h{number}").into();
            request
        });
        snapshot.requests.in_flight = hung.collect();
        let options = ["duration_max>30s", "duration_p50>30s", "duration_max>50s", "requests<1", "--model", "new"];
        assert_eq!(holds(&snapshot, &options), [Some(true), Some(true), None, Some(false)]);
        assert_eq!(judge(&snapshot, &options)[0].value, "at least 40.0s of 50, 50 of them still running");
        // Among 400 that were faster, 50 are more than 5 in a hundred.
        let options = ["duration_p95>30s", "duration_p50>30s", "duration_max>30s"];
        assert_eq!(holds(&snapshot, &options), [Some(true), Some(false), Some(true)]);
    }

    /// Answers `take_now` with snapshots in order; the last one again and again.
    struct Answers(mpsc::Sender<Update>, RefCell<Vec<Snapshot>>);

    impl Control for Answers {
        fn set_group(&self, _: Group, _: bool) {}

        fn take_now(&self) {
            let mut left = self.1.borrow_mut();
            let next = if left.len() > 1 { left.remove(0) } else { left[0].clone() };
            self.0.send(Update::Snapshot(Arc::new(next))).unwrap();
        }
    }

    fn observed(snapshots: Vec<Snapshot>, duration: Duration) -> (u64, Seen) {
        let (sender, updates) = mpsc::channel();
        let control = Answers(sender, RefCell::new(snapshots));
        control.take_now();
        let mut seen = Seen { watch: Watch::new(&Group::LLM), waits: Waits::default(), lines: Vec::new() };
        let snapshot = observe(&updates, &control, duration, &mut seen).unwrap();
        (snapshot.sequence, seen)
    }

    #[test]
    fn a_group_that_was_off_for_a_while_is_not_forgotten() {
        let mut off = whole();
        off.capture.probes[2].state = ProbeState::Off;
        let frames = [fixture::empty(), whole(), off, whole()];
        let frames = (0..).zip(frames).map(|(sequence, frame)| Snapshot { sequence, ..frame }).collect::<Vec<_>>();
        let (last, seen) = observed(frames.clone(), PACE + Duration::from_millis(100));
        assert_eq!((last, seen.watch.is_whole()), (3, false));
        assert_eq!(seen.lines.len(), 2, "off, and on again: {:?}", seen.lines);
        let (last, seen) = observed(frames[..2].to_vec(), Duration::from_millis(1));
        assert_eq!((last, seen.watch.is_whole(), seen.lines.len()), (1, true, 0));
    }

    #[test]
    fn an_end_of_the_collection_is_no_verdict() {
        let (sender, updates) = mpsc::channel();
        let control = Answers(sender, RefCell::new(vec![fixture::empty()]));
        control.take_now();
        control.0.send(Update::Ended("gone".to_owned())).unwrap();
        let mut seen = Seen { watch: Watch::new(&Group::LLM), waits: Waits::default(), lines: Vec::new() };
        let error = observe(&updates, &control, PATIENCE, &mut seen).unwrap_err();
        assert_eq!(error.to_string(), "gone");
    }
}
