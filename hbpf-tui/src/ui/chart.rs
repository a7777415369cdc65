//! Sparklines and histograms: numbers to rows of bar characters.

use hbpf_core::snapshot::Distribution;

/// Values as bars, `height` rows of text from top to bottom, scaled from 0 to the largest. The unknown is blank, and
/// what is above nothing shows at least as the lowest bar.
pub(crate) fn bars(values: &[Option<f64>], height: usize, symbols: &[char; 9]) -> Vec<String> {
    let max = values.iter().flatten().copied().filter(|value| value.is_finite()).fold(0.0, f64::max);
    bars_up_to(values, max, height, symbols)
}

/// The same, scaled from 0 to `max`.
pub(crate) fn bars_up_to(values: &[Option<f64>], max: f64, height: usize, symbols: &[char; 9]) -> Vec<String> {
    let steps = symbols.len() - 1;
    let levels: Vec<usize> = values
        .iter()
        .map(|value| match value {
            Some(value) if *value > 0.0 && max > 0.0 => {
                ((value / max * (steps * height) as f64).round() as usize).max(1).min(steps * height)
            }
            _ => 0,
        })
        .collect();
    let row = |row: usize| {
        let below = (height - 1 - row) * steps;
        levels.iter().map(|level| symbols[level.saturating_sub(below).min(steps)]).collect()
    };
    (0..height).map(row).collect()
}

/// A histogram's columns with the bounds of its axis.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Histogram {
    /// How many values fall into each column.
    pub(crate) columns: Vec<f64>,
    /// Where the axis begins.
    pub(crate) low: f64,
    /// Where it ends.
    pub(crate) high: f64,
}

/// Largest magnitude of a bucket index or a scale that is believed: beyond it lies no duration, and a hostile
/// recording must not make us allocate or overflow.
const MAX_INDEX: i32 = 1 << 20;

/// At most so many columns show one bucket.
const MAX_COLUMNS_PER_BUCKET: usize = 4;

/// The columns of a histogram, in buckets of a scale.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Axis {
    scale: i32,
    low: i32,
    high: i32,
    count: usize,
}

impl Histogram {
    /// A distribution's buckets on a logarithmic axis of at most `width` columns; None where it has no usable ones.
    pub(crate) fn new(distribution: &Distribution, width: usize) -> Option<Self> {
        Self::axis(&[Some(distribution)], width)?.histogram(distribution)
    }

    /// An axis with room for all of these, of at most `width` columns; None where there is nothing usable, or they are of
    /// different scales.
    pub(crate) fn axis(distributions: &[Option<&Distribution>], width: usize) -> Option<Axis> {
        let all = || distributions.iter().flatten();
        let scale = all().next()?.scale;
        let buckets = || all().flat_map(|distribution| &distribution.buckets).filter(|(_, count)| *count > 0);
        let believed = |index: i32| (-MAX_INDEX..=MAX_INDEX).contains(&index);
        let is_usable = (-10..=20).contains(&scale) && buckets().all(|(index, _)| believed(*index));
        if width == 0 || !is_usable || all().any(|distribution| distribution.scale != scale) {
            return None;
        }
        let low = buckets().map(|(index, _)| *index).min()?;
        let high = buckets().map(|(index, _)| *index).max()? + 1;
        // A few buckets stretched over a wide screen would look like more than was measured.
        Some(Axis { scale, low, high, count: width.min((high - low) as usize * MAX_COLUMNS_PER_BUCKET) })
    }

    /// The column in which a value lies.
    pub(crate) fn column_of(&self, value: f64) -> Option<usize> {
        let last = self.columns.len().checked_sub(1)?;
        if value.is_nan() || value <= 0.0 || self.high <= self.low {
            return None;
        }
        let place = (value.log2() - self.low.log2()) / (self.high.log2() - self.low.log2());
        Some(((place.clamp(0.0, 1.0) * self.columns.len() as f64) as usize).min(last))
    }

    /// Its columns, for [`bars`].
    pub(crate) fn values(&self) -> Vec<Option<f64>> {
        self.columns.iter().map(|value| Some(*value)).collect()
    }
}

impl Axis {
    /// A distribution's buckets on it; None where there are none.
    pub(crate) fn histogram(&self, distribution: &Distribution) -> Option<Histogram> {
        let span = (self.high - self.low) as usize;
        let mut columns = vec![0.0; self.count];
        for (index, values) in distribution.buckets.iter().filter(|(_, count)| *count > 0) {
            let from = (index - self.low) as f64 * self.count as f64 / span as f64;
            let to = (index - self.low + 1) as f64 * self.count as f64 / span as f64;
            let mut column = from as usize;
            while (column as f64) < to && column < self.count {
                let overlap = to.min(column as f64 + 1.0) - from.max(column as f64);
                columns[column] += *values as f64 * (overlap / (to - from)).max(0.0);
                column += 1;
            }
        }
        let (low, high) = self.bounds();
        columns.iter().any(|column| *column > 0.0).then_some(Histogram { columns, low, high })
    }

    /// Where it begins and ends.
    pub(crate) fn bounds(&self) -> (f64, f64) {
        let bound = |index: i32| (f64::from(index) * (-f64::from(self.scale)).exp2()).exp2();
        (bound(self.low), bound(self.high))
    }

    /// How many columns it has.
    pub(crate) fn width(&self) -> usize {
        self.count
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;

    const BARS: [char; 9] = [' ', '1', '2', '3', '4', '5', '6', '7', '8'];

    #[test]
    fn bars_scale_to_the_largest_and_leave_the_unknown_blank() {
        let values = [Some(0.0), None, Some(0.001), Some(4.0), Some(8.0), Some(f64::NAN)];
        assert_eq!(bars(&values, 1, &BARS), ["  148 "]);
        assert_eq!(bars(&values, 2, &BARS), ["    8 ", "  188 "]);
        assert_eq!(bars(&[Some(0.0), None], 1, &BARS), ["  "]);
        assert!(bars(&values, 0, &BARS).is_empty());
    }

    fn distribution(buckets: &[(i32, u64)], scale: i32) -> Distribution {
        Distribution { count: 1, scale, buckets: buckets.to_vec(), ..Distribution::default() }
    }

    #[test]
    fn every_value_is_drawn_once_at_any_width() {
        let d = fixture::distribution((1..500).map(|i| f64::from(i) * 0.003).collect()).unwrap();
        for width in 1..200 {
            let histogram = Histogram::new(&d, width).unwrap();
            assert!(histogram.columns.len() <= width);
            let drawn: f64 = histogram.columns.iter().sum();
            assert!((drawn - d.count as f64).abs() < 1e-6, "{width}: {drawn}");
            assert!(histogram.low <= d.min && histogram.high >= d.max, "{histogram:?}");
        }
    }

    #[test]
    fn buckets_are_spread_evenly() {
        // Scale 0: (1, 2], (2, 4], (4, 8].
        let histogram = Histogram::new(&distribution(&[(0, 2), (2, 6)], 0), 6).unwrap();
        assert_eq!(histogram, Histogram { columns: vec![1.0, 1.0, 0.0, 0.0, 3.0, 3.0], low: 1.0, high: 8.0 });
        assert_eq!([1.5, 3.0, 7.0, 100.0].map(|v| histogram.column_of(v)), [Some(1), Some(3), Some(5), Some(5)]);
        assert_eq!(
            Histogram::new(&distribution(&[(0, 8)], 0), 100).unwrap().columns,
            [2.0; 4],
            "one bucket stays narrow"
        );
        assert_eq!([0.0, -1.0, f64::NAN].map(|v| histogram.column_of(v)), [None; 3]);
    }

    #[test]
    fn two_on_one_axis_have_their_columns_below_each_other() {
        let (early, late) = (distribution(&[(0, 4)], 0), distribution(&[(2, 2)], 0));
        let axis = Histogram::axis(&[Some(&early), Some(&late)], 6).unwrap();
        assert_eq!((axis.bounds(), axis.width()), ((1.0, 8.0), 6));
        assert_eq!(axis.histogram(&early).unwrap().columns, [2.0, 2.0, 0.0, 0.0, 0.0, 0.0]);
        assert_eq!(axis.histogram(&late).unwrap().columns, [0.0, 0.0, 0.0, 0.0, 1.0, 1.0]);
        assert!(axis.histogram(&distribution(&[], 0)).is_none());
        assert!(Histogram::axis(&[Some(&early), None], 6).is_some());
        assert!(Histogram::axis(&[Some(&early), Some(&distribution(&[(0, 1)], 3))], 6).is_none(), "other scales");
        assert!(Histogram::axis(&[None, None], 6).is_none());
    }

    #[test]
    fn what_makes_no_sense_is_not_drawn() {
        assert_eq!(Histogram::new(&distribution(&[], 3), 10), None);
        assert_eq!(Histogram::new(&distribution(&[(0, 0)], 3), 10), None);
        assert_eq!(Histogram::new(&distribution(&[(i32::MAX, 1)], 3), 10), None);
        assert_eq!(Histogram::new(&distribution(&[(0, 1)], i32::MIN), 10), None);
        assert_eq!(Histogram::new(&distribution(&[(0, 1)], 3), 0), None);
    }
}
