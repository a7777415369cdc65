//! What `hbpf check` looks for: `ttft_p99>2s`.

use std::fmt;
use std::str::FromStr;

use crate::format;

/// A measure beyond a limit.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Condition {
    pub(crate) measure: Measure,
    relation: Relation,
    /// Seconds, percent or a number, as the measure has it.
    limit: f64,
    /// As it was written.
    text: String,
}

/// What is measured of a set of exchanges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Measure {
    /// A statistic of a time.
    Time(Time, Statistic),
    /// Failed exchanges among those that have ended.
    ErrorPercent,
    /// Exchanges opened.
    Requests,
    /// Those that have failed.
    Failed,
    /// Those that their client has left.
    Abandoned,
    /// Those that failed because a quota is used up.
    RateLimited,
    /// Gaps between tokens that were too long.
    Stalls,
    /// Exchanges that run.
    InFlight,
    /// Output tokens per second.
    OutputRate,
    /// US dollars an hour.
    CostPerHour,
}

/// A time that every exchange has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Time {
    FirstToken,
    InterToken,
    Duration,
}

/// One number for many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Statistic {
    Mean,
    P50,
    P90,
    P95,
    P99,
    Max,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Relation {
    Above,
    AtLeast,
    Below,
    AtMost,
}

/// The longer first: what begins with one is not taken for the other.
const RELATIONS: [(&str, Relation); 4] =
    [(">=", Relation::AtLeast), ("<=", Relation::AtMost), (">", Relation::Above), ("<", Relation::Below)];

const TIMES: [(&str, Time); 3] = [("ttft", Time::FirstToken), ("itl", Time::InterToken), ("duration", Time::Duration)];

const STATISTICS: [(&str, Statistic); 6] = [
    ("mean", Statistic::Mean),
    ("p50", Statistic::P50),
    ("p90", Statistic::P90),
    ("p95", Statistic::P95),
    ("p99", Statistic::P99),
    ("max", Statistic::Max),
];

const OTHERS: [(&str, Measure); 9] = [
    ("errors", Measure::ErrorPercent),
    ("requests", Measure::Requests),
    ("failed", Measure::Failed),
    ("abandoned", Measure::Abandoned),
    ("rate_limited", Measure::RateLimited),
    ("stalls", Measure::Stalls),
    ("in_flight", Measure::InFlight),
    ("tokens_per_second", Measure::OutputRate),
    ("cost_per_hour", Measure::CostPerHour),
];

/// Between what a value lies that is not known in full, both included.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Range {
    pub(crate) least: f64,
    /// Infinite where nothing bounds it.
    pub(crate) most: f64,
}

impl Range {
    pub(crate) fn exactly(value: f64) -> Self {
        Self { least: value, most: value }
    }

    pub(crate) fn at_least(value: f64) -> Self {
        Self { least: value, most: f64::INFINITY }
    }
}

impl Condition {
    /// Whether it holds of a value; `None` where it does of a part of what the value may be.
    pub(crate) fn holds(&self, value: Range) -> Option<bool> {
        let holds = |value: f64| match self.relation {
            Relation::Above => value > self.limit,
            Relation::AtLeast => value >= self.limit,
            Relation::Below => value < self.limit,
            Relation::AtMost => value <= self.limit,
        };
        // Where the ends agree, so does what lies between them.
        let (least, most) = (holds(value.least), holds(value.most));
        (least == most).then_some(least)
    }

    pub(crate) fn limit(&self) -> f64 {
        self.limit
    }
}

impl FromStr for Condition {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text: String = text.chars().filter(|c| !c.is_whitespace()).collect();
        let at = text.find(['<', '>']).ok_or("write it as ttft_p99>2s: a measure, < or >, and a limit")?;
        let (name, rest) = text.split_at(at);
        let found = RELATIONS.iter().find_map(|(sign, relation)| Some((*relation, rest.strip_prefix(sign)?)));
        let (relation, limit) = found.ok_or("write <, <=, > or >=")?;
        let measure = measure(name)?;
        let limit = measure.parse(limit)?;
        Ok(Self { measure, relation, limit, text })
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

fn measure(name: &str) -> Result<Measure, String> {
    if let Some((_, measure)) = OTHERS.iter().find(|(other, _)| *other == name) {
        return Ok(*measure);
    }
    let time = name.rsplit_once('_').and_then(|(time, statistic)| {
        let (_, time) = TIMES.iter().find(|(name, _)| *name == time)?;
        let (_, statistic) = STATISTICS.iter().find(|(name, _)| *name == statistic)?;
        Some(Measure::Time(*time, *statistic))
    });
    time.ok_or_else(|| {
        let times = TIMES.map(|(time, _)| format!("{time}_p99")).join(", ");
        let statistics = STATISTICS.map(|(statistic, _)| statistic).join(", ");
        format!("there are {times} (or {statistics}), {}", OTHERS.map(|(name, _)| name).join(", "))
    })
}

impl Measure {
    fn parse(self, text: &str) -> Result<f64, String> {
        let number = |text: &str| text.parse::<f64>().ok().filter(|number| number.is_finite() && *number >= 0.0);
        match self {
            Self::Time(..) => number(text)
                .or_else(|| humantime::parse_duration(text).ok().map(|time| time.as_secs_f64()))
                .ok_or_else(|| "write the limit as 500ms or 2s".to_owned()),
            Self::ErrorPercent => number(text.strip_suffix('%').unwrap_or(text))
                .filter(|percent| *percent <= 100.0)
                .ok_or_else(|| "write the limit in percent, as 5%".to_owned()),
            _ => number(text.strip_prefix('$').unwrap_or(text)).ok_or_else(|| "write the limit as a number".to_owned()),
        }
    }

    /// Whether what is not seen can only add to it.
    pub(crate) fn only_grows(self) -> bool {
        match self {
            Self::Time(_, statistic) => statistic == Statistic::Max,
            // An end that is not seen leaves a request among those that run.
            Self::ErrorPercent | Self::InFlight => false,
            Self::Requests
            | Self::Failed
            | Self::Abandoned
            | Self::RateLimited
            | Self::Stalls
            | Self::OutputRate
            | Self::CostPerHour => true,
        }
    }

    /// A value as people read it.
    pub(crate) fn shown(self, value: f64) -> String {
        match self {
            Self::Time(..) => format::seconds(value),
            Self::ErrorPercent => format::percent(value) + "%",
            Self::OutputRate => format::rate(value),
            Self::CostPerHour => format!("${}", format::dollars(value)),
            _ => format::count(value as u64),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_are_read() {
        let holds = |text: &str, value: f64| text.parse::<Condition>().unwrap().holds(Range::exactly(value)).unwrap();
        assert!(holds("ttft_p99>2s", 2.1) && !holds("ttft_p99>2s", 2.0));
        assert!(holds("itl_max >= 500ms", 0.5) && holds("duration_mean<1m", 59.9) && holds("ttft_p50<=0.25", 0.25));
        assert!(holds("errors>5%", 5.1) && !holds("errors>5", 5.0));
        assert!(holds("cost_per_hour>$12.50", 13.0) && holds("requests<1", 0.0));
        let measure = |text: &str| text.parse::<Condition>().unwrap().measure;
        assert_eq!(measure("rate_limited>0"), Measure::RateLimited);
        assert_eq!(measure("duration_p95>1s"), Measure::Time(Time::Duration, Statistic::P95));
    }

    #[test]
    fn of_a_value_that_is_known_in_part_only_that_is_said_which_all_of_it_has_in_common() {
        let holds = |text: &str, range: Range| text.parse::<Condition>().unwrap().holds(range);
        for (text, ranges) in [
            ("requests>5", [Some(true), None, Some(false)]),
            ("requests>=6", [Some(true), None, Some(false)]),
            ("requests<6", [Some(false), None, Some(true)]),
            ("requests<=5", [Some(false), None, Some(true)]),
        ] {
            let of = [Range::at_least(6.0), Range::at_least(5.0), Range { least: 0.0, most: 5.0 }];
            assert_eq!(of.map(|range| holds(text, range)), ranges, "{text}");
        }
    }

    #[test]
    fn mistakes_say_what_to_write() {
        let error = |text: &str| text.parse::<Condition>().unwrap_err();
        assert_eq!(error("ttft_p99"), "write it as ttft_p99>2s: a measure, < or >, and a limit");
        assert!(error("ttft_p75>1s").starts_with("there are ttft_p99, itl_p99, duration_p99 (or mean, p50"));
        assert!(error(">1s").starts_with("there are"));
        assert_eq!(error("ttft_p99>soon"), "write the limit as 500ms or 2s");
        assert_eq!(error("ttft_p99>"), "write the limit as 500ms or 2s");
        assert_eq!(error("errors>200%"), "write the limit in percent, as 5%");
        for limit in ["-1", "NaN", "inf", "many", "1e999"] {
            assert_eq!(error(&format!("requests>{limit}")), "write the limit as a number", "{limit}");
        }
    }
}
