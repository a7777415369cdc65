//! Measuring the same thing with and without hbpf, in turns.
//!
//! Only ratios within one run mean anything: machines differ, and one machine differs from hour to hour. So rounds with and
//! without take turns, the order is turned round each time, and a round is compared with its neighbours.

use std::collections::BTreeMap;
use std::fmt;

use anyhow::Result;

use crate::report::Verdict;

/// What is there while something is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Arm {
    /// Nothing.
    Without,
    /// hbpf.
    With,
    /// Programs that do nothing at the same places: what traps and hooks cost whatever is done in them.
    Empty,
}

/// Whether more is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Better {
    /// Throughput.
    More,
    /// Time.
    Less,
}

/// Measured values of one kind, by arm and in the order of rounds.
#[derive(Debug, Default)]
pub(crate) struct Rounds(BTreeMap<Arm, Vec<f64>>);

/// By how much an arm is worse than none, in percent: the median over rounds, and the middle half of them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Cost {
    /// Median.
    pub(crate) median: f64,
    /// A quarter of the rounds lies below.
    pub(crate) low: f64,
    /// A quarter of the rounds lies above.
    pub(crate) high: f64,
}

impl fmt::Display for Cost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { median, low, high } = self;
        write!(f, "{median:+.1} % ({low:+.1} to {high:+.1})")
    }
}

/// The standard error of a median is that of a mean times this.
const MEDIAN_ERROR: f64 = 1.25;

/// Runs so many rounds. In each, `measure` is called once for each arm and says its values by name.
pub(crate) fn in_turns<const N: usize>(
    rounds: usize,
    arms: &[Arm],
    mut measure: impl FnMut(Arm) -> Result<[f64; N]>,
) -> Result<[Rounds; N]> {
    let mut all = std::array::from_fn(|_| Rounds::default());
    for round in 0..rounds {
        let mut order = arms.to_vec();
        if round % 2 == 1 {
            order.reverse();
        }
        for arm in order {
            for (rounds, value) in all.iter_mut().zip(measure(arm)?) {
                rounds.0.entry(arm).or_default().push(value);
            }
        }
    }
    Ok(all)
}

impl Rounds {
    /// The median of an arm.
    pub(crate) fn median(&self, arm: Arm) -> f64 {
        quantile(self.0.get(&arm).map_or(&[], Vec::as_slice), 0.5)
    }

    /// What an arm costs, round by round.
    pub(crate) fn cost(&self, arm: Arm, better: Better) -> Cost {
        let values = |arm| self.0.get(&arm).map_or(&[][..], Vec::as_slice);
        let pairs = values(Arm::Without).iter().zip(values(arm));
        let costs: Vec<f64> = pairs.map(|(without, with)| percent(*without, *with, better)).collect();
        Cost { median: quantile(&costs, 0.5), low: quantile(&costs, 0.25), high: quantile(&costs, 0.75) }
    }

    /// By how much rounds without hbpf differ from their neighbours, in percent: what a cost has to exceed to be one.
    pub(crate) fn noise(&self) -> f64 {
        let values = self.0.get(&Arm::Without).map_or(&[][..], Vec::as_slice);
        let steps: Vec<f64> = values.windows(2).map(|pair| percent(pair[0], pair[1], Better::Less).abs()).collect();
        quantile(&steps, 0.5)
    }
}

impl Rounds {
    /// Whether an arm costs less than so many percent, as far as the noise lets that be said.
    pub(crate) fn verdict(&self, arm: Arm, better: Better, aim: f64) -> Verdict {
        let median = self.cost(arm, better).median;
        let margin = self.margin();
        if median + margin < aim {
            Verdict::Met
        } else if median - margin > aim {
            Verdict::Missed
        } else {
            Verdict::Noise
        }
    }

    /// Whether an arm costs nothing that stands out from the noise.
    pub(crate) fn is_noise(&self, arm: Arm, better: Better) -> Verdict {
        if self.cost(arm, better).median <= self.margin() { Verdict::Met } else { Verdict::Missed }
    }

    /// What the median of rounds may be off by, in percent: two standard errors.
    fn margin(&self) -> f64 {
        let rounds = self.0.get(&Arm::Without).map_or(0, Vec::len) as f64;
        2.0 * self.noise() * MEDIAN_ERROR / rounds.sqrt()
    }
}

fn percent(without: f64, with: f64, better: Better) -> f64 {
    let change = (with - without) / without * 100.0;
    match better {
        Better::More => -change,
        Better::Less => change,
    }
}

/// The value below which that share of all lies, between neighbours by interpolation; not a number without values.
pub(crate) fn quantile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let Some(last) = sorted.len().checked_sub(1) else { return f64::NAN };
    let place = share * last as f64;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an index into the values")]
    let below = (place as usize).min(last);
    let above = (below + 1).min(last);
    sorted[below] + (sorted[above] - sorted[below]) * (place - below as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_take_turns_and_turn_round() {
        let mut order = Vec::new();
        in_turns(3, &[Arm::Without, Arm::With], |arm| {
            order.push(arm);
            Ok([1.0])
        })
        .unwrap();
        let expected = [Arm::Without, Arm::With, Arm::With, Arm::Without, Arm::Without, Arm::With];
        assert_eq!(order, expected);
    }

    #[test]
    fn a_cost_is_compared_round_by_round() {
        // The machine gets twice as slow half-way; hbpf costs 10 % all the time.
        let mut round = 0.0;
        let [rounds] = in_turns(8, &[Arm::Without, Arm::With], |arm| {
            round += 0.5;
            let speed = if round > 4.0 { 50.0 } else { 100.0 };
            Ok([if arm == Arm::With { speed * 0.9 } else { speed }])
        })
        .unwrap();
        let cost = rounds.cost(Arm::With, Better::More);
        assert!((cost.median - 10.0).abs() < 1e-9 && (cost.high - 10.0).abs() < 1e-9, "{cost}");
        assert_eq!(rounds.noise(), 0.0);
        assert_eq!(rounds.verdict(Arm::With, Better::More, 11.0), Verdict::Met);
        assert_eq!(rounds.verdict(Arm::With, Better::More, 9.0), Verdict::Missed);
        assert_eq!(rounds.is_noise(Arm::With, Better::More), Verdict::Missed);
        assert_eq!(rounds.cost(Arm::With, Better::Less).median, -cost.median);
    }

    #[test]
    fn noise_is_not_taken_for_a_result() {
        let rounds = Rounds(BTreeMap::from([
            (Arm::Without, vec![100.0, 120.0, 90.0, 110.0]),
            (Arm::With, vec![95.0, 130.0, 85.0, 112.0]),
        ]));
        assert_eq!(rounds.verdict(Arm::With, Better::More, 2.0), Verdict::Noise);
        assert_eq!(rounds.is_noise(Arm::With, Better::More), Verdict::Met);
        assert_eq!(rounds.verdict(Arm::With, Better::More, 50.0), Verdict::Met);
    }

    #[test]
    fn quantiles() {
        assert_eq!(quantile(&[3.0, 1.0, 2.0], 0.5), 2.0);
        assert_eq!(quantile(&[1.0, 2.0], 0.5), 1.5);
        assert_eq!(quantile(&[1.0, 2.0, 3.0, 4.0, 5.0], 1.0), 5.0);
        assert!(quantile(&[], 0.5).is_nan());
    }
}
