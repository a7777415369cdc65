//! Where a request's time goes: its stages below each other, along one axis.

use hbpf_core::snapshot::{OutputPace, Request};

use super::chart;
use super::paint::{Painter, Piece};
use crate::format;
use crate::table::Tone;

/// Width of the names, with a gap behind.
const NAME: usize = 12;

/// Width of the times, with a gap before.
const TIME: usize = 9;

/// Narrower than this and bars say nothing.
const MIN_BARS: usize = 10;

/// A stage, in seconds from where the axis begins.
#[derive(Clone, Debug, PartialEq)]
struct Stage {
    name: &'static str,
    begin: f64,
    end: f64,
    tone: Tone,
}

/// The stages of a request as far as they are known, in order, each beginning where the one before ends. What comes before the
/// request's first byte belongs to its connection, and only to that one's first request.
fn stages(request: &Request) -> Vec<Stage> {
    let mut stages = Vec::new();
    let mut at = 0.0;
    let mut until = |name, end: f64, tone| {
        // Clocks of different probes may disagree by a little.
        let end = end.max(at);
        stages.push(Stage { name, begin: at, end, tone });
        at = end;
    };
    let known = |seconds: Option<f64>| seconds.filter(|seconds| seconds.is_finite() && *seconds >= 0.0);
    let (connect, tls) = (known(request.connect_seconds), known(request.tls_seconds));
    let zero = connect.unwrap_or(0.0) + tls.unwrap_or(0.0);
    connect.into_iter().for_each(|connect| until("connect", connect, Tone::Dim));
    tls.into_iter().for_each(|_| until("tls", zero, Tone::Dim));
    let end = known(request.duration_seconds).or(known(Some(request.age_seconds))).unwrap_or(0.0);
    let headers = known(request.time_to_headers_seconds).map(|seconds| seconds.min(end));
    let first = known(request.time_to_first_token_seconds).map(|seconds| seconds.min(end));
    if let Some(queue) = known(request.queue_seconds) {
        // It says how long, not when: before all else.
        until("queue", zero + queue.min(headers.or(first).unwrap_or(end)), Tone::Warn);
    }
    until("wait", zero + headers.or(first).unwrap_or(end), Tone::Accent);
    match first {
        Some(first) => {
            if headers.is_some() {
                until("first token", zero + first, Tone::Accent);
            }
            let idle =
                known(request.time_since_last_token_seconds).filter(|_| !request.phase.is_final()).unwrap_or(0.0);
            until("stream", zero + (end - idle).max(first), Tone::Good);
            if idle > 0.0 {
                until("since token", zero + end, Tone::Bad);
            }
        }
        None if headers.is_some() => until("answer", zero + end, Tone::Good),
        None => {}
    }
    stages
}

/// Stages with how long all of them took, and how wide their bars may be; None, where there is no room, or nothing took any time.
fn drawable(request: &Request, width: usize) -> Option<(Vec<Stage>, f64, usize)> {
    let stages = stages(request);
    let whole = stages.last().map_or(0.0, |stage| stage.end);
    let bars = width.saturating_sub(1 + NAME + TIME);
    (bars >= MIN_BARS && whole > 0.0).then_some((stages, whole, bars))
}

/// When tokens came, as one bar for each cell: the most of the parts that lie in it, from where the axis has its zero.
fn ticks(pace: &OutputPace, first: f64, whole: f64, bars: usize) -> Vec<Option<f64>> {
    let mut values: Vec<Option<f64>> = vec![None; bars];
    let cell = |seconds: f64| (seconds / whole * bars as f64).clamp(0.0, bars as f64);
    for (part, tokens) in pace.tokens.iter().enumerate().filter(|(_, tokens)| **tokens > 0) {
        let begin = first + part as f64 * pace.part_seconds;
        // Where parts are shorter than cells some share one.
        let from = (cell(begin) as usize).min(bars - 1);
        let to = (cell(begin + pace.part_seconds).ceil() as usize).clamp(from + 1, bars);
        for value in &mut values[from..to] {
            *value = Some(value.unwrap_or(0.0).max(f64::from(*tokens)));
        }
    }
    values
}

/// Where the first token stands on the axis, and what is known of those behind it.
fn paced(request: &Request) -> Option<(f64, &OutputPace)> {
    let pace = request.output_pace.as_ref().filter(|pace| pace.part_seconds > 0.0 && !pace.tokens.is_empty())?;
    let first = request.time_to_first_token_seconds.filter(|first| first.is_finite() && *first >= 0.0)?;
    let before: f64 = [request.connect_seconds, request.tls_seconds].into_iter().flatten().filter(|s| *s >= 0.0).sum();
    Some((before + first, pace))
}

/// How many lines there are.
pub(crate) fn height(request: &Request, width: usize) -> usize {
    drawable(request, width).map_or(0, |(stages, ..)| stages.len() + 1 + usize::from(paced(request).is_some()))
}

/// The lines, with how long each stage took, and a blank one behind.
pub(crate) fn lines(painter: &Painter<'_>, request: &Request, width: usize) -> Vec<Vec<Piece>> {
    let Some((stages, whole, bars)) = drawable(request, width) else { return Vec::new() };
    let full = painter.theme.symbols.bars[8].to_string();
    let cell = |seconds: f64| ((seconds / whole * bars as f64).round() as usize).min(bars);
    let line = |stage: &Stage| {
        // What took little is still seen.
        let from = cell(stage.begin).min(bars - 1);
        let to = cell(stage.end).max(from + 1);
        vec![
            painter.piece(format!(" {:<NAME$}", stage.name), Tone::Dim),
            painter.piece(" ".repeat(from), Tone::Plain),
            painter.piece(full.repeat(to - from), stage.tone),
            painter.piece(" ".repeat(bars - to), Tone::Plain),
            painter.piece(format!("{:>TIME$}", format::seconds(stage.end - stage.begin)), Tone::Plain),
        ]
    };
    let tokens = paced(request).map(|(first, pace)| {
        let values = ticks(pace, first, whole, bars);
        let text = chart::bars(&values, 1, &painter.theme.symbols.bars).remove(0);
        vec![
            painter.piece(format!(" {:<NAME$}", "tokens"), Tone::Dim),
            Piece { text, style: painter.theme.spark() },
            painter.piece(
                format!(
                    "{:>TIME$}",
                    format::estimated(format::count(pace.tokens.iter().map(|n| u64::from(*n)).sum()), true)
                ),
                Tone::Plain,
            ),
        ]
    });
    stages.iter().map(line).chain(tokens).chain([Vec::new()]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;

    fn spans(request: &Request) -> Vec<(&'static str, f64, f64)> {
        stages(request).iter().map(|stage| (stage.name, stage.begin, stage.end)).collect()
    }

    #[test]
    fn a_stage_begins_where_the_one_before_ends() {
        let snapshot = fixture::rich();
        let mut request = snapshot.requests.recent[0].clone();
        request.connect_seconds = Some(0.5);
        request.tls_seconds = Some(0.25);
        request.queue_seconds = Some(0.25);
        request.time_to_headers_seconds = Some(1.0);
        request.time_to_first_token_seconds = Some(2.0);
        request.duration_seconds = Some(6.0);
        let whole = [
            ("connect", 0.0, 0.5),
            ("tls", 0.5, 0.75),
            ("queue", 0.75, 1.0),
            ("wait", 1.0, 1.75),
            ("first token", 1.75, 2.75),
            ("stream", 2.75, 6.75),
        ];
        assert_eq!(spans(&request), whole);
        // Of what is not known there is no stage.
        request.connect_seconds = None;
        request.tls_seconds = None;
        request.queue_seconds = None;
        request.time_to_first_token_seconds = None;
        assert_eq!(spans(&request), [("wait", 0.0, 1.0), ("answer", 1.0, 6.0)]);
        request.time_to_headers_seconds = None;
        request.duration_seconds = None;
        request.age_seconds = 3.0;
        assert_eq!(spans(&request), [("wait", 0.0, 3.0)]);
        request.age_seconds = f64::NAN;
        assert_eq!(spans(&request), [("wait", 0.0, 0.0)]);
    }

    #[test]
    fn tokens_stand_where_they_came() {
        let pace = OutputPace { part_seconds: 1.0, tokens: vec![4, 0, 2] };
        let drawn = |bars| ticks(&pace, 2.0, 10.0, bars);
        let mut expected = vec![None; 10];
        (expected[2], expected[4]) = (Some(4.0), Some(2.0));
        assert_eq!(drawn(10), expected);
        assert_eq!(drawn(2), [Some(4.0), None], "the most of those that share a cell");
        assert_eq!(drawn(20).iter().flatten().count(), 4);
        // What no recording of ours has.
        let absurd = OutputPace { part_seconds: f64::MAX, tokens: vec![u32::MAX; 99] };
        assert_eq!(ticks(&absurd, 1e300, 1e-300, 5).len(), 5);
    }

    #[test]
    fn a_stream_that_stands_still_shows_since_when() {
        let snapshot = fixture::rich();
        let mut request =
            snapshot.requests.in_flight.iter().find(|one| one.time_since_last_token_seconds.is_some()).unwrap().clone();
        request.age_seconds = 10.0;
        request.time_to_headers_seconds = None;
        request.time_to_first_token_seconds = Some(1.0);
        request.time_since_last_token_seconds = Some(4.0);
        assert_eq!(spans(&request), [("wait", 0.0, 1.0), ("stream", 1.0, 6.0), ("since token", 6.0, 10.0)]);
    }
}
