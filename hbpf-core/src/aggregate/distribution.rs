//! Distributions of latencies and sizes, over the window and since the start, in bounded memory.

use std::time::Duration;

use hdrhistogram::{Counter, Histogram};

use super::exponential::{self, Buckets, MAX_BUCKETS, Width};
use crate::snapshot::{Distribution, Latency, LatencyPair};
use crate::time::Nanos;

/// Precision of percentiles: one part in a hundred.
const SIGNIFICANT_FIGURES: u8 = 2;

/// The largest value that percentiles tell apart, in a metric's own unit: 71 minutes in microseconds. Larger ones are
/// counted here; minimum, maximum and sum are exact all the same.
const HIGHEST: u64 = u32::MAX as u64;

/// Counts of a histogram that reaches to [`HIGHEST`]: 256 for the first octaves together and 128 for each of 24 more
/// are 3328; growing doubles its space, so that it may own up to the next power of two.
const HISTOGRAM_COUNTS: usize = 4096;

/// A window is kept in this many rotating parts, each a quarter of its length: the oldest goes when a new one begins, so
/// that what is shown spans the window and at most a quarter more.
const WINDOW_PARTS: u64 = 5;

/// What is measured of exchanges; see [`Latency`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Metric {
    Duration,
    TimeToHeaders,
    TimeToFirstToken,
    TimeToFirstVisibleToken,
    InterToken,
    OutputTokensPerSecond,
    InputTokens,
    OutputTokens,
}

const METRICS: usize = 8;

impl Metric {
    /// Histogram steps per unit: percentiles are no finer than one step.
    fn steps(self) -> f64 {
        match self {
            Self::Duration
            | Self::TimeToHeaders
            | Self::TimeToFirstToken
            | Self::TimeToFirstVisibleToken
            | Self::InterToken => 1e6,
            Self::OutputTokensPerSecond => 100.0,
            Self::InputTokens | Self::OutputTokens => 1.0,
        }
    }
}

/// A measured value, with what all keys that record it need computed once.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sample {
    metric: Metric,
    value: f64,
    times: u64,
    step: u64,
    index: i32,
}

impl Sample {
    /// `value`, measured `times` times.
    pub(super) fn new(metric: Metric, value: f64, times: u64) -> Self {
        // The conversion saturates.
        let step = ((value * metric.steps()).round() as u64).min(HIGHEST);
        Self { metric, value, times, step, index: exponential::index_of(value) }
    }
}

/// Counts narrow enough to hold many.
trait Narrow: Counter {
    const MAX: u64;
    fn narrow(count: u64) -> Self;
}

impl Narrow for u16 {
    const MAX: u64 = u16::MAX as u64;

    fn narrow(count: u64) -> Self {
        Self::try_from(count).unwrap_or(Self::MAX)
    }
}

impl Narrow for u32 {
    const MAX: u64 = u32::MAX as u64;

    fn narrow(count: u64) -> Self {
        Self::try_from(count).unwrap_or(Self::MAX)
    }
}

/// A set of values of one metric.
#[derive(Debug)]
struct Values<H: Counter, B> {
    count: u64,
    sum: f64,
    min: f64,
    max: f64,
    histogram: Histogram<H>,
    buckets: Buckets<B>,
}

fn empty_histogram<H: Counter>() -> Histogram<H> {
    let mut histogram = Histogram::new(SIGNIFICANT_FIGURES).expect("two is a valid number of significant figures");
    histogram.auto(true);
    histogram
}

impl<H: Narrow, B: Width> Values<H, B> {
    fn new() -> Self {
        Self {
            count: 0,
            sum: 0.0,
            min: f64::INFINITY,
            max: f64::NEG_INFINITY,
            histogram: empty_histogram(),
            buckets: Buckets::new(),
        }
    }

    fn record(&mut self, sample: &Sample) {
        self.count += sample.times;
        self.sum += sample.value * sample.times as f64;
        self.min = self.min.min(sample.value);
        self.max = self.max.max(sample.value);
        self.buckets.record(sample.index, sample.times);
        // A count must never reach its limit, or the percentiles would stand still: from time to time all are halved.
        let times = sample.times.min(H::MAX / 2);
        if self.histogram.len() + times > H::MAX {
            self.halve();
        }
        self.histogram.record_n(sample.step, H::narrow(times)).expect("the histogram grows up to HIGHEST");
    }

    fn halve(&mut self) {
        let mut halved = empty_histogram();
        for point in self.histogram.iter_recorded() {
            let count = H::narrow(point.count_at_value().as_u64() / 2);
            halved.record_n(point.value_iterated_to(), count).expect("the histogram grows up to HIGHEST");
        }
        self.histogram = halved;
    }

    fn clear(&mut self) {
        self.count = 0;
        self.sum = 0.0;
        self.min = f64::INFINITY;
        self.max = f64::NEG_INFINITY;
        self.histogram.reset();
        self.buckets.clear();
    }

    fn heap_bytes(&self) -> usize {
        // The library does not tell its capacity: assume what growing by doubling can leave.
        self.histogram.distinct_values().next_power_of_two() * size_of::<H>() + self.buckets.heap_bytes()
    }
}

/// What a [`Distribution`] is made from.
struct Summary<'a, H: Counter> {
    metric: Metric,
    count: u64,
    sum: f64,
    min: f64,
    max: f64,
    histogram: &'a Histogram<H>,
    buckets: Vec<(i32, u64)>,
}

impl<H: Counter> Summary<'_, H> {
    fn distribution(self) -> Option<Distribution> {
        if self.count == 0 {
            return None;
        }
        let mut percentiles = self.histogram.value_at_quantiles([0.5, 0.9, 0.95, 0.99]).map(|step| {
            let middle = self.histogram.median_equivalent(step);
            (middle as f64 / self.metric.steps()).clamp(self.min, self.max)
        });
        let mut next = || percentiles.next().unwrap_or(self.max);
        Some(Distribution {
            count: self.count,
            sum: self.sum,
            min: self.min,
            mean: self.sum / self.count as f64,
            p50: next(),
            p90: next(),
            p95: next(),
            p99: next(),
            max: self.max,
            scale: exponential::SCALE,
            buckets: self.buckets,
        })
    }
}

/// One part of a window.
#[derive(Debug)]
struct Part {
    number: u64,
    values: Values<u16, u32>,
}

/// One metric of one key.
#[derive(Debug)]
pub(super) struct Recorder {
    since_start: Values<u32, u64>,
    window: [Option<Box<Part>>; WINDOW_PARTS as usize],
}

impl Recorder {
    fn new() -> Self {
        Self { since_start: Values::new(), window: Default::default() }
    }

    fn record(&mut self, number: u64, sample: &Sample) {
        self.since_start.record(sample);
        let part = self.window[(number % WINDOW_PARTS) as usize]
            .get_or_insert_with(|| Box::new(Part { number, values: Values::new() }));
        // A late value finds its part gone and goes into the one that took its place.
        if part.number < number {
            part.values.clear();
            part.number = number;
        }
        part.values.record(sample);
    }

    fn since_start(&self, metric: Metric) -> Option<Distribution> {
        let Values { count, sum, min, max, ref histogram, ref buckets } = self.since_start;
        Summary { metric, count, sum, min, max, histogram, buckets: buckets.sparse().collect() }.distribution()
    }

    fn window(&self, metric: Metric, current: u64, scratch: &mut Histogram<u32>) -> Option<Distribution> {
        scratch.reset();
        let (mut count, mut sum, mut min, mut max) = (0, 0.0, f64::INFINITY, f64::NEG_INFINITY);
        let mut buckets = Vec::new();
        let parts = self.window.iter().flatten();
        for part in parts.filter(|part| part.values.count > 0 && part.number + WINDOW_PARTS > current) {
            let values = &part.values;
            count += values.count;
            sum += values.sum;
            min = values.min.min(min);
            max = values.max.max(max);
            let sparse: Vec<_> = values.buckets.sparse().collect();
            buckets = if buckets.is_empty() { sparse } else { exponential::merge(&buckets, &sparse) };
            for point in values.histogram.iter_recorded() {
                let count = u32::from(point.count_at_value());
                scratch.record_n(point.value_iterated_to(), count).expect("the histogram grows up to HIGHEST");
            }
        }
        Summary { metric, count, sum, min, max, histogram: scratch, buckets }.distribution()
    }
}

/// One metric of one key, of all values since the start: percentiles are as exact as the buckets are narrow.
#[derive(Debug)]
pub(super) struct BucketRecorder {
    count: u64,
    sum: f64,
    min: f64,
    max: f64,
    buckets: Buckets<u64>,
}

impl BucketRecorder {
    fn new() -> Self {
        Self { count: 0, sum: 0.0, min: f64::INFINITY, max: f64::NEG_INFINITY, buckets: Buckets::new() }
    }

    fn record(&mut self, sample: &Sample) {
        self.count += sample.times;
        self.sum += sample.value * sample.times as f64;
        self.min = self.min.min(sample.value);
        self.max = self.max.max(sample.value);
        self.buckets.record(sample.index, sample.times);
    }

    fn since_start(&self) -> Option<Distribution> {
        let Self { count, sum, min, max, ref buckets } = *self;
        let buckets: Vec<_> = buckets.sparse().collect();
        let [p50, p90, p95, p99] =
            [0.5, 0.9, 0.95, 0.99].map(|part| exponential::quantile(&buckets, part).unwrap_or(max).max(min).min(max));
        let mean = sum / count as f64;
        let scale = exponential::SCALE;
        (count > 0).then_some(Distribution { count, sum, min, mean, p50, p90, p95, p99, max, scale, buckets })
    }
}

/// All distributions of one key.
///
/// Nothing is allocated until a metric has its first value. The bound is [`LatencyRecorder::MAX_BYTES`], 568 KiB, with
/// all eight metrics spread over their whole range and every part of the window filled; a key that serves ordinary
/// streams takes about 90 KiB.
#[derive(Debug)]
pub(super) enum LatencyRecorder {
    /// Of the window as well.
    Whole([Option<Box<Recorder>>; METRICS]),
    /// At most 28 KiB with all eight spread over their whole range, and some 3 KiB for ordinary streams.
    Buckets([Option<Box<BucketRecorder>>; METRICS]),
}

impl LatencyRecorder {
    /// The most memory that the distributions of one key can take.
    pub(super) const MAX_BYTES: usize = METRICS
        * (size_of::<Recorder>()
            + HISTOGRAM_COUNTS * size_of::<u32>()
            + MAX_BUCKETS.next_power_of_two() * size_of::<u64>()
            + WINDOW_PARTS as usize
                * (size_of::<Part>()
                    + HISTOGRAM_COUNTS * size_of::<u16>()
                    + MAX_BUCKETS.next_power_of_two() * size_of::<u32>()));

    pub(super) fn new() -> Self {
        Self::Whole(Default::default())
    }

    pub(super) fn of_buckets() -> Self {
        Self::Buckets(Default::default())
    }

    pub(super) fn record(&mut self, parts: &PartClock, when: Nanos, sample: &Sample) {
        let metric = sample.metric as usize;
        match self {
            Self::Whole(metrics) => {
                metrics[metric].get_or_insert_with(|| Box::new(Recorder::new())).record(parts.number(when), sample)
            }
            Self::Buckets(metrics) => {
                metrics[metric].get_or_insert_with(|| Box::new(BucketRecorder::new())).record(sample);
            }
        }
    }

    /// The frame at `now`.
    pub(super) fn frame(&self, parts: &PartClock, now: Nanos, scratch: &mut Scratch) -> LatencyPair {
        let current = parts.number(now);
        match self {
            Self::Whole(metrics) => {
                let recorder = |metric: Metric| metrics[metric as usize].as_deref();
                LatencyPair {
                    window: latency(|metric| recorder(metric)?.window(metric, current, &mut scratch.0)),
                    since_start: latency(|metric| recorder(metric)?.since_start(metric)),
                }
            }
            Self::Buckets(metrics) => LatencyPair {
                window: Latency::default(),
                since_start: latency(|metric| metrics[metric as usize].as_deref()?.since_start()),
            },
        }
    }

    pub(super) fn heap_bytes(&self) -> usize {
        let recorder = |recorder: &Recorder| {
            let parts = recorder.window.iter().flatten();
            size_of::<Recorder>()
                + recorder.since_start.heap_bytes()
                + parts.map(|part| size_of::<Part>() + part.values.heap_bytes()).sum::<usize>()
        };
        match self {
            Self::Whole(metrics) => metrics.iter().flatten().map(|metric| recorder(metric)).sum(),
            Self::Buckets(metrics) => {
                let of = |metric: &BucketRecorder| size_of::<BucketRecorder>() + metric.buckets.heap_bytes();
                metrics.iter().flatten().map(|metric| of(metric)).sum()
            }
        }
    }
}

fn latency(mut of: impl FnMut(Metric) -> Option<Distribution>) -> Latency {
    Latency {
        duration_seconds: of(Metric::Duration),
        time_to_headers_seconds: of(Metric::TimeToHeaders),
        time_to_first_token_seconds: of(Metric::TimeToFirstToken),
        time_to_first_visible_token_seconds: of(Metric::TimeToFirstVisibleToken),
        inter_token_seconds: of(Metric::InterToken),
        output_tokens_per_second: of(Metric::OutputTokensPerSecond),
        input_tokens: of(Metric::InputTokens),
        output_tokens: of(Metric::OutputTokens),
    }
}

/// Numbers the parts of windows.
#[derive(Clone, Copy, Debug)]
pub(super) struct PartClock {
    part_nanos: u64,
}

impl PartClock {
    pub(super) fn new(window: Duration) -> Self {
        let nanos = u64::try_from(window.as_nanos()).unwrap_or(u64::MAX);
        Self { part_nanos: (nanos / (WINDOW_PARTS - 1)).max(1) }
    }

    fn number(&self, when: Nanos) -> u64 {
        when.0 / self.part_nanos
    }
}

/// A histogram in which the parts of a window are put together, used again and again.
#[derive(Debug)]
pub(super) struct Scratch(Histogram<u32>);

impl Scratch {
    pub(super) fn new() -> Self {
        Self(empty_histogram())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const WINDOW: Duration = Duration::from_secs(4);

    fn at(seconds: f64) -> Nanos {
        Nanos((seconds * 1e9) as u64)
    }

    fn recorder(values: &[(f64, f64, u64)], metric: Metric) -> LatencyRecorder {
        let mut recorder = LatencyRecorder::new();
        for (when, value, times) in values {
            recorder.record(&PartClock::new(WINDOW), at(*when), &Sample::new(metric, *value, *times));
        }
        recorder
    }

    fn frame(recorder: &LatencyRecorder, now: f64) -> LatencyPair {
        recorder.frame(&PartClock::new(WINDOW), at(now), &mut Scratch::new())
    }

    /// The value below or at which that part of the values lies, found by sorting.
    fn oracle(values: &[(f64, f64, u64)], quantile: f64) -> f64 {
        let each = |(_, value, times): &(f64, f64, u64)| std::iter::repeat_n(*value, *times as usize);
        let mut sorted: Vec<f64> = values.iter().flat_map(each).collect();
        sorted.sort_by(f64::total_cmp);
        let rank = (quantile * sorted.len() as f64).ceil() as usize;
        sorted[rank.clamp(1, sorted.len()) - 1]
    }

    proptest! {
        #[test]
        fn percentiles_are_within_one_part_in_a_hundred(
            values in prop::collection::vec((0.0f64..4.0, -13.0f64..8.0, 1u64..5), 1..400),
        ) {
            let values: Vec<_> = values.into_iter().map(|(when, octave, times)| (when, octave.exp2(), times)).collect();
            let pair = frame(&recorder(&values, Metric::TimeToFirstToken), 4.5);
            let since_start = pair.since_start.time_to_first_token_seconds.unwrap();
            let window = pair.window.time_to_first_token_seconds.unwrap();
            let count: u64 = values.iter().map(|(_, _, times)| times).sum();
            let sum: f64 = values.iter().map(|(_, value, times)| value * *times as f64).sum();
            for d in [since_start, window] {
                prop_assert_eq!(d.count, count);
                prop_assert!((d.sum - sum).abs() <= 1e-9 * sum && (d.mean - sum / count as f64).abs() <= 1e-9 * sum);
                prop_assert_eq!((d.min, d.max), (oracle(&values, 0.0), oracle(&values, 1.0)));
                for (quantile, value) in [(0.5, d.p50), (0.9, d.p90), (0.95, d.p95), (0.99, d.p99)] {
                    let exact = oracle(&values, quantile);
                    // One part in a hundred, and the microsecond that is the histogram's step.
                    prop_assert!((value - exact).abs() <= exact * 0.01 + 1e-6, "{}: {} for {}", quantile, value, exact);
                }
                prop_assert_eq!(d.scale, 3);
                prop_assert_eq!(d.buckets.iter().map(|(_, count)| count).sum::<u64>(), count);
                for (_, value, _) in &values {
                    let index = exponential::index_of(*value);
                    prop_assert!(d.buckets.iter().any(|(bucket, _)| *bucket == index));
                }
            }
        }
    }

    #[test]
    fn the_window_forgets_and_the_start_does_not() {
        let values = [(0.5, 1.0, 1), (2.5, 2.0, 1), (4.5, 3.0, 1)];
        let recorder = recorder(&values, Metric::Duration);
        for (now, expected) in
            [(4.5, Some(3)), (5.5, Some(2)), (6.9, Some(2)), (7.5, Some(1)), (8.9, Some(1)), (9.0, None)]
        {
            let pair = frame(&recorder, now);
            assert_eq!(pair.window.duration_seconds.map(|d| d.count), expected, "at {now}");
            assert_eq!(pair.since_start.duration_seconds.unwrap().count, 3);
        }
    }

    #[test]
    fn a_part_that_comes_round_again_begins_empty() {
        let pair = frame(&recorder(&[(4.5, 3.0, 1), (9.5, 5.0, 2)], Metric::Duration), 9.5);
        let window = pair.window.duration_seconds.unwrap();
        assert_eq!((window.count, window.min, window.p50, window.sum), (2, 5.0, 5.0, 10.0));
        assert_eq!(window.buckets, [(exponential::index_of(5.0), 2)]);
    }

    #[test]
    fn values_beyond_what_percentiles_tell_apart_still_have_their_extremes() {
        for (metric, value) in [(Metric::Duration, 90_000.0), (Metric::InterToken, 0.0), (Metric::InputTokens, 1e12)] {
            let pair = frame(&recorder(&[(1.0, value, 1)], metric), 1.0);
            let latency = pair.since_start;
            let all = [latency.duration_seconds, latency.inter_token_seconds, latency.input_tokens];
            let d = all.into_iter().flatten().next().unwrap();
            assert_eq!((d.min, d.p50, d.p99, d.max, d.sum), (value, value, value, value, value));
        }
    }

    #[test]
    fn narrow_counts_neither_wrap_nor_stand_still() {
        let mut values = Values::<u16, u32>::new();
        let sample = |value, times| Sample::new(Metric::InterToken, value, times);
        for _ in 0..3 {
            values.record(&sample(0.010, 40_000));
        }
        for _ in 0..30 {
            values.record(&sample(0.020, 40_000));
        }
        assert_eq!((values.count, values.max), (1_320_000, 0.020));
        let median = values.histogram.value_at_quantile(0.5);
        assert!((19_900..20_200).contains(&median), "the newer and greater part decides: {median}");
        assert!(values.histogram.len() <= u64::from(u16::MAX));
        values.clear();
        values.record(&sample(0.5, 1));
        assert_eq!((values.count, values.min, values.histogram.len()), (1, 0.5, 1));
    }

    #[test]
    fn nothing_is_allocated_before_the_first_value() {
        assert_eq!(LatencyRecorder::new().heap_bytes(), 0);
        let one = recorder(&[(1.0, 0.1, 1)], Metric::Duration).heap_bytes();
        assert!((1..LatencyRecorder::MAX_BYTES / METRICS).contains(&one), "{one}");
    }
}
