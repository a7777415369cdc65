//! Numbers of many frames along an axis of time.

use std::time::Duration;

use jiff::Timestamp;

use crate::format;
use crate::recording::{Sample, row_begins};

/// How much time is shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Reach {
    Minute,
    #[default]
    FiveMinutes,
    HalfHour,
    All,
}

impl Reach {
    pub(crate) fn next(self) -> Self {
        match self {
            Self::Minute => Self::FiveMinutes,
            Self::FiveMinutes => Self::HalfHour,
            Self::HalfHour => Self::All,
            Self::All => Self::Minute,
        }
    }

    /// None: all there is.
    pub(crate) fn time(self) -> Option<Duration> {
        match self {
            Self::Minute => Some(Duration::from_secs(60)),
            Self::FiveMinutes => Some(Duration::from_secs(300)),
            Self::HalfHour => Some(Duration::from_secs(1800)),
            Self::All => None,
        }
    }
}

/// What is taken from a frame and the one before.
type Number = dyn Fn(&Sample, Option<&Sample>) -> Option<f64>;

/// A number of each frame.
pub(crate) struct Line {
    pub(crate) name: String,
    /// Of a frame, and of the one before.
    of: Box<Number>,
    /// How those of one column are put together.
    merged: fn(f64, f64) -> f64,
    /// What the bars are scaled to; None: the largest.
    pub(crate) full: Option<f64>,
    pub(crate) text: fn(f64) -> String,
}

/// What is drawn of such frames.
pub(crate) fn lines(samples: &[&Sample]) -> Vec<Line> {
    let peak = |name: &str, of: fn(&Sample) -> Option<f64>, text| Line {
        name: name.to_owned(),
        of: Box::new(move |sample, _| of(sample)),
        // Peaks survive.
        merged: f64::max,
        full: None,
        text,
    };
    // Where nothing is seen of requests, nothing is known of those that fail.
    let failed = |sample: &Sample, before: Option<&Sample>| {
        sample.in_flight?;
        Some(sample.failed.saturating_sub(before?.failed) as f64)
    };
    let mut lines = vec![
        peak("tokens out/s", |sample| sample.output, format::rate),
        peak("tokens in/s", |sample| sample.input, format::rate),
        peak("requests/s", |sample| sample.requests_per_second, format::rate),
        peak("in flight", |sample| sample.in_flight.map(|count| count as f64), |count| format::count(count as u64)),
        Line {
            name: "failed, given up".to_owned(),
            of: Box::new(failed),
            merged: |a, b| a + b,
            full: None,
            text: |count| format::count(count as u64),
        },
        peak("first token p99", |sample| sample.ttft_p99, format::seconds),
        Line { full: Some(100.0), ..peak("cpu %", |sample| sample.cpu_percent, format::percent) },
    ];
    let gpus = samples.last().map(|sample| sample.gpus.iter().map(|(index, _)| *index)).into_iter().flatten();
    lines.extend(gpus.map(|index| Line {
        name: format!("gpu {index} %"),
        of: Box::new(move |sample, _| sample.gpu(index)),
        merged: f64::max,
        full: Some(100.0),
        text: format::percent,
    }));
    lines
}

/// Frames side by side: which of them share a column.
pub(crate) struct Axis {
    pub(crate) from: Timestamp,
    pub(crate) to: Timestamp,
    pub(crate) columns: usize,
}

impl Axis {
    /// An axis over all samples, or the last part of them. Frames that come evenly have a column each, or share one with their
    /// neighbours; where none came there is a gap.
    pub(crate) fn new(samples: &[&Sample], reach: Reach, width: usize) -> Option<Self> {
        let (first, to) = (samples.first()?.at, samples.last()?.at);
        let from = reach.time().map_or(first, |time| to.saturating_sub(time).map_or(first, |from| from.max(first)));
        let mut steps: Vec<f64> = samples.windows(2).map(|pair| seconds(pair[0].at, pair[1].at)).collect();
        steps.sort_by(f64::total_cmp);
        let step = steps.get(steps.len() / 2).copied().filter(|step| *step > 0.0).unwrap_or(1.0);
        let columns = (seconds(from, to) / step).round() as usize + 1;
        Some(Self { from, to, columns: columns.min(width) })
    }

    fn column(&self, at: Timestamp) -> Option<usize> {
        let whole = seconds(self.from, self.to);
        let place = if whole > 0.0 { seconds(self.from, at) / whole } else { 1.0 };
        let last = self.columns.checked_sub(1)?;
        (at >= self.from).then(|| ((place * last as f64).round() as usize).min(last))
    }

    /// A line's number in each column; None where it is not known.
    pub(crate) fn values(&self, samples: &[&Sample], line: &Line) -> Vec<Option<f64>> {
        let mut values: Vec<Option<f64>> = vec![None; self.columns];
        for (index, sample) in samples.iter().enumerate() {
            let before = index.checked_sub(1).map(|before| samples[before]);
            let value = (line.of)(sample, before).filter(|value| value.is_finite());
            if let (Some(column), Some(value)) = (self.column(sample.at), value) {
                values[column] = Some(values[column].map_or(value, |other| (line.merged)(other, value)));
            }
        }
        values
    }

    /// Waiting times: for each of so many rows, from the longest down, with where it begins in seconds, how many there were in
    /// each column.
    pub(crate) fn heat(&self, samples: &[&Sample], rows: usize) -> Vec<(f64, Vec<u64>)> {
        let seen = samples.iter().filter(|sample| sample.at >= self.from).flat_map(|sample| &sample.heat);
        let (Some(low), Some(high)) = (seen.clone().map(|(row, _)| *row).min(), seen.map(|(row, _)| *row).max()) else {
            return Vec::new();
        };
        // So many share a line that all have one.
        let span = (i64::from(high) - i64::from(low) + 1) as usize;
        let share = span.div_ceil(rows.max(1)).max(1) as i64;
        let count = span.div_ceil(share as usize);
        let mut grid = vec![vec![0_u64; self.columns]; count];
        for sample in samples {
            let Some(column) = self.column(sample.at) else { continue };
            for (row, count) in &sample.heat {
                let line = (i64::from(*row) - i64::from(low)) / share;
                if let Some(cell) = usize::try_from(line).ok().and_then(|line| grid.get_mut(line)?.get_mut(column)) {
                    *cell = cell.saturating_add(*count);
                }
            }
        }
        let begins = |line: usize| row_begins((i64::from(low) + line as i64 * share) as i32);
        grid.into_iter().enumerate().map(|(line, cells)| (begins(line), cells)).rev().collect()
    }
}

fn seconds(from: Timestamp, to: Timestamp) -> f64 {
    to.duration_since(from).as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(second: i64, output: Option<f64>) -> Sample {
        Sample { at: Timestamp::from_second(second).unwrap(), output, ..Sample::default() }
    }

    fn drawn(samples: &[Sample], reach: Reach, width: usize) -> Vec<Option<f64>> {
        let samples: Vec<&Sample> = samples.iter().collect();
        let axis = Axis::new(&samples, reach, width).unwrap();
        axis.values(&samples, &lines(&samples)[0])
    }

    #[test]
    fn peaks_survive_and_gaps_are_gaps() {
        let mut all: Vec<Sample> = (0..1000).map(|second| sample(second, Some(1.0))).collect();
        all[333].output = Some(99.0);
        all.drain(500..750);
        let values = drawn(&all, Reach::All, 100);
        assert_eq!(values.len(), 100);
        assert_eq!(values.iter().flatten().copied().fold(0.0, f64::max), 99.0);
        let gaps = values.iter().filter(|value| value.is_none()).count();
        assert!((24..=26).contains(&gaps), "{gaps}");
        assert_eq!(drawn(&all, Reach::Minute, 100).len(), 61, "a column for each frame");
        assert_eq!(drawn(&all[..1], Reach::All, 100), [Some(1.0)]);
    }

    #[test]
    fn failures_of_a_column_are_summed() {
        let samples: Vec<Sample> = (0..100)
            .map(|second| Sample { failed: second, in_flight: Some(1), ..sample(second as i64, None) })
            .collect();
        let samples: Vec<&Sample> = samples.iter().collect();
        let axis = Axis::new(&samples, Reach::All, 10).unwrap();
        let failed = lines(&samples).into_iter().find(|line| line.name.starts_with("failed")).unwrap();
        let sum: f64 = axis.values(&samples, &failed).into_iter().flatten().sum();
        assert_eq!(sum, 99.0);
    }

    #[test]
    fn every_waiting_time_has_its_place_however_few_lines_there_are() {
        let heat: Vec<(i32, u64)> = vec![(-14, 3), (0, 5), (9, 1)];
        let samples: Vec<Sample> =
            (0..50).map(|second| Sample { heat: heat.clone(), ..sample(second, None) }).collect();
        let samples: Vec<&Sample> = samples.iter().collect();
        let axis = Axis::new(&samples, Reach::All, 20).unwrap();
        for rows in 1..40 {
            let grid = axis.heat(&samples, rows);
            assert!(grid.len() <= rows, "{rows}");
            assert_eq!(grid.iter().flat_map(|(_, cells)| cells).sum::<u64>(), 50 * 9);
            assert!(grid.windows(2).all(|pair| pair[0].0 > pair[1].0));
        }
        // What no recording of ours has.
        let hostile = Sample { heat: vec![(i32::MIN, 1), (i32::MAX, u64::MAX)], ..sample(50, None) };
        let grid = axis.heat(&[&hostile, &hostile], 3);
        assert!(grid.len() <= 3);
    }
}
