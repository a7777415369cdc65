//! A number of two things, or of one at two times, and how far apart they are.

use serde::Serialize;

use crate::format::{UNKNOWN, estimated, known};
use crate::table::{Cell, Rank, Tone};

/// Smaller changes are within what comes and goes.
const MIN_CHANGE: f64 = 0.02;

/// A number of both.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Change {
    /// What it is of: `all`, or a model or endpoint.
    pub(crate) of: String,
    pub(crate) measure: &'static str,
    pub(crate) before: Option<f64>,
    pub(crate) after: Option<f64>,
    /// The second by the first; null where the first is 0 or either is not known.
    ratio: Option<f64>,
    /// Whether each is an estimate, at least in part.
    before_is_estimate: bool,
    after_is_estimate: bool,
    #[serde(skip)]
    text: fn(f64) -> String,
}

impl Change {
    pub(crate) fn new(of: &str, measure: &'static str, pair: [Option<f64>; 2], text: fn(f64) -> String) -> Self {
        let [before, after] = pair.map(|value| value.filter(|value| value.is_finite()));
        let ratio = before.zip(after).filter(|(before, _)| *before > 0.0).map(|(before, after)| after / before);
        Self {
            of: of.to_owned(),
            measure,
            before,
            after,
            ratio,
            before_is_estimate: false,
            after_is_estimate: false,
            text,
        }
    }

    /// The same of numbers each of which is an estimate, or not.
    pub(crate) fn estimated(self, [before_is_estimate, after_is_estimate]: [bool; 2]) -> Self {
        Self { before_is_estimate, after_is_estimate, ..self }
    }

    /// Both numbers, and how far apart they are.
    pub(crate) fn cells(&self) -> [Cell; 3] {
        let number =
            |value: Option<f64>, is_estimate| Cell::written(value, estimated(known(value, self.text), is_estimate));
        let tone = if self.is_change() { Tone::Strong } else { Tone::Dim };
        [
            number(self.before, self.before_is_estimate),
            number(self.after, self.after_is_estimate),
            Cell { rank: Rank::Number(self.ratio), ..Cell::new(self.words(), tone) },
        ]
    }

    /// How much it has changed: by which power, whichever way.
    pub(crate) fn size(&self) -> f64 {
        match (self.before, self.after, self.ratio) {
            (_, _, Some(ratio)) if ratio > 0.0 => ratio.ln().abs(),
            // There was none, or there is none any more.
            (Some(before), Some(after), _) if before != after => f64::MAX,
            _ => 0.0,
        }
    }

    pub(crate) fn is_change(&self) -> bool {
        self.size() >= MIN_CHANGE
    }

    pub(crate) fn words(&self) -> String {
        match (self.before, self.after, self.ratio) {
            (Some(before), Some(after), None) if after > before => "new".to_owned(),
            (_, _, Some(ratio)) if !self.is_change() && ratio > 0.0 => "same".to_owned(),
            (_, _, Some(ratio)) if ratio >= 2.0 => format!("x{ratio:.1}"),
            (_, _, Some(ratio)) => format!("{:+.0}%", (ratio - 1.0) * 100.0),
            (Some(_), Some(_), None) => "same".to_owned(),
            _ => UNKNOWN.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format;

    fn change(before: Option<f64>, after: Option<f64>) -> Change {
        Change::new("all", "x", [before, after], format::rate)
    }

    #[test]
    fn changes_are_told_as_people_tell_them() {
        let words = |before, after| change(before, after).words();
        assert_eq!(words(Some(100.0), Some(131.0)), "+31%");
        assert_eq!(words(Some(100.0), Some(50.0)), "-50%");
        assert_eq!(words(Some(100.0), Some(350.0)), "x3.5");
        assert_eq!(words(Some(100.0), Some(0.0)), "-100%");
        assert_eq!(words(Some(0.0), Some(1.0)), "new");
        assert_eq!(words(Some(0.0), Some(0.0)), "same");
        assert_eq!(words(Some(100.0), Some(101.0)), "same");
        assert_eq!(words(None, Some(1.0)), "-");
        assert_eq!(words(Some(f64::NAN), Some(1.0)), "-");
    }

    #[test]
    fn what_changed_most_is_the_largest_whichever_way() {
        let size = |before, after| change(Some(before), Some(after)).size();
        assert!(size(1.0, 4.0) > size(2.0, 1.0) && size(4.0, 1.0) > size(1.0, 2.0));
        assert!(size(0.0, 1.0) > size(1.0, 1e9) && size(1.0, 0.0) > size(1.0, 1e9));
        assert_eq!(change(None, Some(5.0)).size(), 0.0);
    }
}
