//! Base-2 exponential buckets as OpenTelemetry defines them, at one fixed scale.
//!
//! With base = 2^(2^-scale), bucket `i` holds the values in (base^i, base^(i+1)].

use std::collections::BTreeMap;

/// The scale of every distribution: 8 buckets an octave, 9 % wide each.
pub const SCALE: i32 = 3;

/// Buckets per octave at [`SCALE`].
const PER_OCTAVE: i32 = 1 << SCALE;

/// The lowest bucket. It begins at 2^-30: in seconds just under the nanosecond that clocks can tell. Values of zero and
/// below have no bucket in this form and lie here as well, so that counts stay whole.
pub const MIN_INDEX: i32 = -30 * PER_OCTAVE;

/// The highest bucket. It ends at 2^24: half a year in seconds, sixteen million tokens. Larger values lie here as well.
pub const MAX_INDEX: i32 = 24 * PER_OCTAVE - 1;

/// The most buckets that one set of values can fill.
pub const MAX_BUCKETS: usize = (MAX_INDEX - MIN_INDEX + 1) as usize;

/// The bucket that holds `value`.
pub fn index_of(value: f64) -> i32 {
    if value > 0.0 {
        // The conversion saturates, and so do infinities.
        ((value.log2() * f64::from(PER_OCTAVE)).ceil() as i32).saturating_sub(1).clamp(MIN_INDEX, MAX_INDEX)
    } else {
        MIN_INDEX
    }
}

/// The bounds of bucket `index`: above the first, up to and including the second.
pub fn bounds(index: i32) -> (f64, f64) {
    let bound = |index: i32| (f64::from(index) / f64::from(PER_OCTAVE)).exp2();
    (bound(index), bound(index + 1))
}

/// The buckets of two sets of values together.
pub fn merge(one: &[(i32, u64)], other: &[(i32, u64)]) -> Vec<(i32, u64)> {
    let mut sum: BTreeMap<i32, u64> = one.iter().copied().collect();
    for &(index, count) in other {
        *sum.entry(index).or_default() += count;
    }
    sum.into_iter().collect()
}

/// What came to `earlier` to make it `later`; `None` if `later` does not contain `earlier`.
pub fn subtract(later: &[(i32, u64)], earlier: &[(i32, u64)]) -> Option<Vec<(i32, u64)>> {
    let mut rest: BTreeMap<i32, u64> = later.iter().copied().collect();
    for &(index, count) in earlier.iter().filter(|(_, count)| *count > 0) {
        let left = rest.get_mut(&index)?;
        *left = left.checked_sub(count)?;
    }
    rest.retain(|_, count| *count > 0);
    Some(rest.into_iter().collect())
}

/// The value below or at which that part of the values lies, as if those of a bucket lay evenly in it; none of no values.
pub fn quantile(buckets: &[(i32, u64)], part: f64) -> Option<f64> {
    let all: f64 = buckets.iter().map(|(_, count)| *count as f64).sum();
    let wanted = (part * all).ceil().max(1.0);
    let mut below = 0.0;
    for &(index, count) in buckets {
        let count = count as f64;
        if below + count >= wanted {
            let (low, high) = bounds(index);
            return Some(low + (high - low) * (wanted - below) / count);
        }
        below += count;
    }
    None
}

/// How wide a bucket's count is: narrow for a part of a window, wide for a whole observation.
pub(super) trait Width: Copy + Default + Into<u64> {
    /// The sum, held at the most that fits.
    fn plus(self, count: u64) -> Self;
}

impl Width for u32 {
    fn plus(self, count: u64) -> Self {
        self.saturating_add(u32::try_from(count).unwrap_or(u32::MAX))
    }
}

impl Width for u64 {
    fn plus(self, count: u64) -> Self {
        self.saturating_add(count)
    }
}

/// Counts by bucket, dense over the octaves that were met.
#[derive(Debug)]
pub(super) struct Buckets<C> {
    first: i32,
    counts: Vec<C>,
}

impl<C: Width> Buckets<C> {
    pub(super) const fn new() -> Self {
        Self { first: 0, counts: Vec::new() }
    }

    /// Counts `count` values in the bucket `index`, which [`index_of`] gave.
    pub(super) fn record(&mut self, index: i32, count: u64) {
        self.reach(index);
        let slot = &mut self.counts[(index - self.first) as usize];
        *slot = slot.plus(count);
    }

    /// Makes room for `index` in whole octaves, so that room is made a few times only.
    fn reach(&mut self, index: i32) {
        let octave = index.div_euclid(PER_OCTAVE) * PER_OCTAVE;
        if self.counts.is_empty() {
            self.first = octave;
        }
        if octave < self.first {
            let missing = (self.first - octave) as usize;
            self.counts.splice(0..0, std::iter::repeat_n(C::default(), missing));
            self.first = octave;
        }
        let needed = (octave + PER_OCTAVE - self.first) as usize;
        if self.counts.len() < needed {
            self.counts.resize(needed, C::default());
        }
    }

    pub(super) fn clear(&mut self) {
        self.counts.fill(C::default());
    }

    /// Index and count of the buckets that hold something, ascending.
    pub(super) fn sparse(&self) -> impl Iterator<Item = (i32, u64)> {
        (self.first..).zip(&self.counts).map(|(index, &count)| (index, count.into())).filter(|(_, count)| *count > 0)
    }

    pub(super) fn heap_bytes(&self) -> usize {
        self.counts.capacity() * size_of::<C>()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_bucket_excludes_its_lower_bound_and_includes_its_upper() {
        // Powers of two are exact: 1 is the upper bound of bucket -1, 2 that of bucket 7.
        for (value, index) in [(1.0, -1), (1.0 + 1e-9, 0), (2.0, 7), (2.0 + 1e-9, 8), (0.5, -9), (0.25, -17)] {
            assert_eq!(index_of(value), index, "{value}");
        }
    }

    #[test]
    fn values_without_a_bucket_of_their_own_lie_at_the_ends() {
        for value in [0.0, -1.0, f64::NAN, f64::MIN_POSITIVE, f64::NEG_INFINITY] {
            assert_eq!(index_of(value), MIN_INDEX, "{value}");
        }
        for value in [f64::MAX, f64::INFINITY] {
            assert_eq!(index_of(value), MAX_INDEX, "{value}");
        }
        assert_eq!(index_of(1e-9), MIN_INDEX, "a nanosecond is the least a clock can tell");
    }

    fn sparse(values: &[f64]) -> Vec<(i32, u64)> {
        let mut buckets = Buckets::<u64>::new();
        for value in values {
            buckets.record(index_of(*value), 1);
        }
        buckets.sparse().collect()
    }

    proptest! {
        #[test]
        fn every_value_lies_within_the_bounds_of_its_bucket(value in 1e-8f64..1e7) {
            let (low, high) = bounds(index_of(value));
            prop_assert!(low * (1.0 - 1e-12) < value && value <= high * (1.0 + 1e-12), "{low} < {value} <= {high}");
        }

        #[test]
        fn merging_is_recording_both_and_subtracting_undoes_it(
            one in prop::collection::vec(-1.0f64..1e4, 0..200), other in prop::collection::vec(-1.0f64..1e4, 0..200),
        ) {
            let both = sparse(&[one.clone(), other.clone()].concat());
            let (one, other) = (sparse(&one), sparse(&other));
            prop_assert_eq!(&merge(&one, &other), &both);
            prop_assert_eq!(&merge(&other, &one), &both);
            prop_assert_eq!(subtract(&both, &one), Some(other));
            prop_assert!(both.is_sorted());
        }
    }

    #[test]
    fn only_a_part_can_be_subtracted() {
        assert_eq!(subtract(&[(1, 2)], &[(1, 3)]), None);
        assert_eq!(subtract(&[(1, 2)], &[(2, 1)]), None);
        assert_eq!(subtract(&[(1, 2)], &[(1, 2)]), Some(vec![]));
    }

    #[test]
    fn any_values_fill_a_bounded_number_of_buckets() {
        let mut buckets = Buckets::<u32>::new();
        for exponent in -400..400 {
            buckets.record(index_of(2f64.powi(exponent)), u64::MAX);
            buckets.record(index_of(1.01 * 2f64.powi(-exponent)), 1);
        }
        assert_eq!(buckets.counts.len(), MAX_BUCKETS);
        assert_eq!(buckets.sparse().map(|(_, count)| count).max(), Some(u64::from(u32::MAX)), "counts do not wrap");
    }
}
