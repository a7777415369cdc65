//! Which frame is looked at: the newest, an earlier one, or those of a recording one after the other.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hbpf_core::snapshot::Snapshot;
use jiff::{SignedDuration, Timestamp};

use crate::recording::{EngineKey, Sample, Timeline};

/// Frames behind the shown one of which charts are drawn: one column each, more than any terminal is wide.
const CHARTED: usize = 512;

/// Longest wait between two frames that are played: a recording with a hole should not look as if playback hung.
const MAX_WAIT: Duration = Duration::from_secs(5);

/// How often the view is drawn at most, however fast frames are played.
const SHORTEST_TURN: Duration = Duration::from_millis(50);

/// Speeds are powers of two, these at the ends.
const SPEEDS: std::ops::RangeInclusive<i32> = -3..=8;

/// Where the snapshots come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// This machine, now.
    Live,
    /// Another machine, now.
    Remote,
    /// Many machines, now.
    Fleet,
    /// A recording.
    Replay,
}

impl Source {
    /// Whether what comes is of now.
    pub(crate) fn is_live(self) -> bool {
        self != Self::Replay
    }
}

/// A move through time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Jump {
    /// So many frames on, or back.
    Frames(i64),
    /// So much time.
    By(SignedDuration),
    To(Timestamp),
    /// To the first frame, the last, or between.
    Part(f64),
    /// To where a request failed or something was found, on or back.
    Event {
        on: bool,
    },
    /// To the newest frame and on with it.
    Live,
}

/// What came of a jump.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Jumped {
    Yes,
    /// There is nothing to jump to.
    Nowhere,
}

/// Frames, and which one is shown.
pub(crate) struct Time {
    source: Source,
    timeline: Arc<Mutex<Timeline>>,
    /// Number of the frame that stands, or plays; None: the newest.
    at: Option<u64>,
    playing: bool,
    /// Power of two of the speed.
    speed: i32,
    /// Recorded time since the frame that plays.
    since: Duration,
    shown: Option<Shown>,
    /// Why a frame cannot be shown.
    pub(crate) trouble: Option<String>,
}

struct Shown {
    number: u64,
    snapshot: Arc<Snapshot>,
    samples: Vec<Arc<Sample>>,
}

/// What charts are drawn from: the shown frame's sample last.
#[derive(Clone, Copy)]
pub(crate) struct History<'a>(&'a [Arc<Sample>]);

impl<'a> History<'a> {
    /// The last `count` of one of the numbers, oldest first.
    pub(crate) fn last(self, count: usize, of: impl Fn(&Sample) -> Option<f64>) -> Vec<Option<f64>> {
        self.samples(count).iter().map(|sample| of(sample)).collect()
    }

    /// The last `count` samples, oldest first.
    pub(crate) fn samples(self, count: usize) -> &'a [Arc<Sample>] {
        &self.0[self.0.len().saturating_sub(count)..]
    }

    /// The last `count` values of a GPU's utilization in percent, since it was first there.
    pub(crate) fn gpu(self, index: u32, count: usize) -> Vec<Option<f64>> {
        let is_there = |sample: &Sample| sample.gpus.iter().any(|(of, _)| *of == index);
        self.since(count, is_there, |sample| sample.gpu(index))
    }

    /// The last `count` numbers of requests that ran on a server, or on one of its replicas, since it was first there.
    pub(crate) fn engine(self, key: &EngineKey, count: usize) -> Vec<Option<f64>> {
        let is_there = |sample: &Sample| sample.engines.iter().any(|(of, _)| of == key);
        self.since(count, is_there, |sample| sample.engine(key))
    }

    fn since(
        self,
        count: usize,
        is_there: impl Fn(&Sample) -> bool,
        of: impl Fn(&Sample) -> Option<f64>,
    ) -> Vec<Option<f64>> {
        self.samples(count).iter().skip_while(|sample| !is_there(sample)).map(|sample| of(sample)).collect()
    }
}

impl Time {
    pub(crate) fn new(source: Source, timeline: Arc<Mutex<Timeline>>) -> Self {
        let is_replay = source == Source::Replay;
        let at = is_replay.then_some(0);
        Self { source, timeline, at, playing: is_replay, speed: 0, since: Duration::ZERO, shown: None, trouble: None }
    }

    pub(crate) fn timeline(&self) -> MutexGuard<'_, Timeline> {
        // What was half done leaves no frame half written.
        self.timeline.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn snapshot(&self) -> Option<&Snapshot> {
        self.shown.as_ref().map(|shown| &*shown.snapshot)
    }

    pub(crate) fn history(&self) -> History<'_> {
        History(self.shown.as_ref().map_or(&[], |shown| &shown.samples))
    }

    /// The samples of the shown frame and of those before it, so far back or all there are.
    pub(crate) fn samples(&self, time: Option<Duration>) -> Vec<Arc<Sample>> {
        let Some(shown) = &self.shown else { return Vec::new() };
        let timeline = self.timeline();
        let from = time.and_then(|time| shown.snapshot.captured_at.checked_sub(time).ok());
        let first = from.map_or(timeline.range().start, |from| timeline.at(from));
        timeline
            .samples_to(shown.number, usize::try_from((shown.number + 1).saturating_sub(first)).unwrap_or(usize::MAX))
    }

    /// Whether an earlier frame stands while newer ones come.
    pub(crate) fn is_frozen(&self) -> bool {
        self.source.is_live() && self.at.is_some()
    }

    /// How fast frames of a recording are played, if they are.
    pub(crate) fn speed(&self) -> Option<f64> {
        self.playing.then(|| f64::from(self.speed).exp2())
    }

    /// How many frames there are behind the shown one.
    pub(crate) fn newer(&self) -> u64 {
        let end = self.timeline().range().end;
        self.shown.as_ref().map_or(0, |shown| end.saturating_sub(shown.number + 1))
    }

    /// Between which times there are frames.
    pub(crate) fn extent(&self) -> Option<(Timestamp, Timestamp)> {
        let timeline = self.timeline();
        let range = timeline.range();
        let at = |number| timeline.sample(number).map(|sample| sample.at);
        Some((at(range.start)?, at(range.end.checked_sub(1)?)?))
    }

    /// Freezes and goes on.
    pub(crate) fn toggle(&mut self) {
        let range = self.timeline().range();
        match self.source {
            Source::Live | Source::Remote | Source::Fleet => {
                self.at = if self.at.is_some() { None } else { self.shown.as_ref().map(|shown| shown.number) }
            }
            // From its end it plays anew.
            Source::Replay if self.at.is_some_and(|at| at + 1 >= range.end) && self.playing => {
                (self.at, self.since) = (Some(range.start), Duration::ZERO);
            }
            Source::Replay => self.playing = !self.playing,
        }
    }

    /// Plays twice or half as fast.
    pub(crate) fn change_speed(&mut self, by: i32) {
        if self.source == Source::Replay {
            self.speed = (self.speed + by).clamp(*SPEEDS.start(), *SPEEDS.end());
        }
    }

    pub(crate) fn jump(&mut self, jump: Jump) -> Jumped {
        if jump == Jump::Live && self.source.is_live() {
            self.at = None;
            return Jumped::Yes;
        }
        let Some(to) = self.target(jump) else { return Jumped::Nowhere };
        self.at = Some(to);
        self.since = Duration::ZERO;
        // Who steps wants to look.
        self.playing &= !matches!(jump, Jump::Frames(_) | Jump::Event { .. });
        Jumped::Yes
    }

    fn target(&self, jump: Jump) -> Option<u64> {
        let shown = self.shown.as_ref()?;
        let timeline = self.timeline();
        let range = timeline.range();
        let last = range.end.checked_sub(1)?;
        let here = shown.number;
        Some(match jump {
            Jump::Frames(count) => here.saturating_add_signed(count).clamp(range.start, last),
            Jump::By(time) => {
                let wanted = shown.snapshot.captured_at.checked_add(time).ok()?;
                let to = timeline.at(wanted);
                // Over a hole, rather than not at all.
                match time.is_negative() {
                    true => to.min(here.saturating_sub(1)).max(range.start),
                    false => to.max(here + 1).min(last),
                }
            }
            Jump::To(time) => timeline.at(time),
            Jump::Part(part) => range.start + ((last - range.start) as f64 * part).round() as u64,
            Jump::Event { on } => {
                let is_event = |number: &u64| {
                    let sample = |number: u64| timeline.sample(number);
                    let (Some(before), Some(now)) = (number.checked_sub(1).and_then(sample), sample(*number)) else {
                        return false;
                    };
                    now.failed > before.failed || now.found > before.found
                };
                match on {
                    true => (here + 1..range.end).find(is_event)?,
                    false => (range.start..here.min(range.end)).rev().find(is_event)?,
                }
            }
            Jump::Live => last,
        })
    }

    /// Time has passed while frames play.
    pub(crate) fn elapsed(&mut self, time: Duration) {
        let Some(speed) = self.speed() else { return };
        self.since += time.mul_f64(speed);
        while let Some(wait) = self.wait().filter(|wait| *wait <= self.since) {
            self.since -= wait;
            self.at = self.at.map(|at| at + 1);
        }
        if self.wait().is_none() {
            self.since = Duration::ZERO;
        }
    }

    /// Recorded time between the frame that plays and the next.
    fn wait(&self) -> Option<Duration> {
        let timeline = self.timeline();
        let at = self.at?.max(timeline.range().start);
        let (now, next) = (timeline.sample(at)?.at, timeline.sample(at + 1)?.at);
        Some(Duration::try_from(next.duration_since(now)).unwrap_or_default().min(MAX_WAIT))
    }

    /// When the next frame is to be shown, if one is played.
    pub(crate) fn due(&self) -> Option<Duration> {
        let speed = self.speed()?;
        Some(self.wait()?.saturating_sub(self.since).div_f64(speed).max(SHORTEST_TURN))
    }

    /// Brings the shown frame up to date.
    pub(crate) fn look(&mut self) {
        let range = self.timeline().range();
        let Some(last) = range.end.checked_sub(1).filter(|last| *last >= range.start) else { return };
        let number = self.at.unwrap_or(last);
        // What stands may stand longer than it is kept.
        if self.shown.as_ref().is_some_and(|shown| shown.number == number) {
            return;
        }
        let number = number.clamp(range.start, last);
        self.at = self.at.map(|_| number);
        let got = self.timeline().get(number);
        match got {
            Ok(Some(snapshot)) => {
                let samples = self.timeline().samples_to(number, CHARTED);
                self.shown = Some(Shown { number, snapshot, samples });
                self.trouble = None;
            }
            Ok(None) => {}
            Err(error) => self.trouble = Some(format!("{error:#}")),
        }
    }
}
