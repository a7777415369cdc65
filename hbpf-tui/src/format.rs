//! Numbers as people read them in a table: short, of bounded width, with the unknown as [`UNKNOWN`].

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What stands where nothing is known. Never 0: that would be a claim.
pub(crate) const UNKNOWN: &str = "-";

/// Stands before a number that is, wholly or in part, an estimate.
pub(crate) const ESTIMATE: char = '~';

/// A formatted value, or [`UNKNOWN`].
pub(crate) fn known<T>(value: Option<T>, format: impl FnOnce(T) -> String) -> String {
    value.map_or_else(|| UNKNOWN.to_owned(), format)
}

/// The text, marked as an estimate if it is one.
pub(crate) fn estimated(text: String, is_estimate: bool) -> String {
    if is_estimate && text != UNKNOWN { format!("{ESTIMATE}{text}") } else { text }
}

/// A count: `999`, `12.3k`, `1.23M`; at most five characters below 10^15.
pub(crate) fn count(value: u64) -> String {
    if value < 1000 { value.to_string() } else { scaled(value as f64, 1000.0, &["", "k", "M", "G", "T", "P", "E"]) }
}

/// A count in a narrow column: `999`, `1.2k`, `12k`, `123k`; at most four characters below 10^15. Rounded down, so that no unit
/// is reached before its time.
pub(crate) fn short_count(value: u64) -> String {
    let (mut unit, mut scale) = (0, 1);
    while value / scale >= 1000 {
        (unit, scale) = (unit + 1, scale * 1000);
    }
    let unit = ["", "k", "M", "G", "T", "P", "E"][unit];
    match value / scale {
        whole @ 0..10 if scale > 1 => format!("{whole}.{}{unit}", value % scale / (scale / 10)),
        whole => format!("{whole}{unit}"),
    }
}

/// A rate per second: `0`, `0.25`, `12.3`, `1.23k`.
pub(crate) fn rate(value: f64) -> String {
    if !value.is_finite() {
        return UNKNOWN.to_owned();
    }
    if value <= 0.0 {
        return "0".to_owned();
    }
    if value < 0.005 {
        return "<.01".to_owned();
    }
    scaled(value, 1000.0, &["", "k", "M", "G", "T"])
}

/// US dollars in a narrow column: `0`, `<.01`, `.25`, `1.25`, `12.5`, `125`, `1.2k`.
pub(crate) fn dollars(value: f64) -> String {
    match value {
        value if !value.is_finite() => UNKNOWN.to_owned(),
        ..=0.0 => "0".to_owned(),
        ..0.005 => "<.01".to_owned(),
        ..0.995 => format!("{value:.2}").trim_start_matches('0').to_owned(),
        ..9.995 => format!("{value:.2}"),
        ..99.95 => format!("{value:.1}"),
        ..999.5 => format!("{value:.0}"),
        _ => short_count(value as u64),
    }
}

/// What sizes are counted in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Units {
    /// Powers of 1024, as in htop: K, M, G.
    #[default]
    Binary,
    /// Powers of 1000: k, M, G.
    Si,
}

/// Whether the user has asked for [`Units::Si`].
static IS_SI: AtomicBool = AtomicBool::new(false);

impl Units {
    /// Has all sizes be written and read so.
    pub(crate) fn install(self) {
        IS_SI.store(self == Self::Si, Ordering::Relaxed);
    }

    /// As the user has asked.
    fn chosen() -> Self {
        if IS_SI.load(Ordering::Relaxed) { Self::Si } else { Self::Binary }
    }

    fn base(self) -> f64 {
        match self {
            Self::Binary => 1024.0,
            Self::Si => 1000.0,
        }
    }

    /// `512B`, `38.1M`.
    fn text(self, value: u64) -> String {
        let names = match self {
            Self::Binary => ["", "K", "M", "G", "T", "P", "E"],
            Self::Si => ["", "k", "M", "G", "T", "P", "E"],
        };
        if (value as f64) < self.base() { format!("{value}B") } else { scaled(value as f64, self.base(), &names) }
    }
}

/// Of what power a size's unit is.
pub(crate) fn bytes_base() -> f64 {
    Units::chosen().base()
}

/// Bytes, in powers of 1024 unless the user has asked for others: `512B`, `38.1M`.
pub(crate) fn bytes(value: u64) -> String {
    Units::chosen().text(value)
}

/// A percentage without its sign: `0.3`, `12.5`, `340`, `12.8k`; at most five characters below 10^15. A hundred busy cores
/// are 10,000 %.
pub(crate) fn percent(value: f64) -> String {
    if !value.is_finite() {
        return UNKNOWN.to_owned();
    }
    match value {
        ..99.95 => format!("{value:.1}"),
        ..9999.5 => format!("{value:.0}"),
        _ => scaled(value, 1000.0, &["", "k", "M", "G", "T", "P", "E"]),
    }
}

/// A share from 0 to 1 as whole percent; a part that is neither nothing nor all never reads as 0 or 100.
pub(crate) fn share(value: f64) -> String {
    let percent = (value * 100.0).round().clamp(0.0, 100.0);
    match percent as u32 {
        0 if value > 0.0 => "<1%".to_owned(),
        100 if value < 1.0 => ">99%".to_owned(),
        whole => format!("{whole}%"),
    }
}

/// A duration in seconds, three digits or so: `85us`, `1.25ms`, `120ms`, `1.24s`, `2m03s`, `1h05m`, `3d04h`.
pub(crate) fn seconds(value: f64) -> String {
    if !value.is_finite() || value < 0.0 {
        return UNKNOWN.to_owned();
    }
    if value == 0.0 {
        return "0s".to_owned();
    }
    // The limits are where rounding to the digits shown would reach the next unit.
    if value < 0.999_5e-3 {
        return format!("{:.0}us", value * 1e6);
    }
    if value < 0.999_5 {
        return format!("{}ms", three_digits(value * 1e3));
    }
    if value < 59.95 {
        return format!("{}s", three_digits(value));
    }
    let whole = value.round() as u64;
    let (minutes, hours, days) = (whole / 60, whole / 3600, whole / 86_400);
    if hours == 0 {
        format!("{minutes}m{:02}s", whole % 60)
    } else if days == 0 {
        format!("{hours}h{:02}m", minutes % 60)
    } else {
        format!("{days}d{:02}h", hours % 24)
    }
}

/// A duration that was chosen rather than measured: `5s`, not `5.00s`.
pub(crate) fn chosen_seconds(value: f64) -> String {
    if value.fract() == 0.0 && (1.0..60.0).contains(&value) { format!("{value}s") } else { seconds(value) }
}

/// A duration that a user set: `1s`, `500ms`.
pub(crate) fn setting(value: Duration) -> String {
    humantime::format_duration(value).to_string()
}

/// Three significant digits without trailing zeros behind the point being cut: `1.25`, `12.3`, `123`.
fn three_digits(value: f64) -> String {
    if value < 9.995 {
        format!("{value:.2}")
    } else if value < 99.95 {
        format!("{value:.1}")
    } else {
        format!("{value:.0}")
    }
}

fn scaled(value: f64, base: f64, units: &[&str]) -> String {
    let mut value = value;
    let mut unit = 0;
    // 999.5 would print as 1000.
    while value >= base - 0.5 && unit + 1 < units.len() {
        value /= base;
        unit += 1;
    }
    format!("{}{}", three_digits(value), units[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_in_the_units_that_were_asked_for() {
        assert_eq!(
            [0, 999, 1000, 1_234_567, 42_000_000_000].map(|n| Units::Si.text(n)),
            ["0B", "999B", "1.00k", "1.23M", "42.0G"]
        );
        assert_eq!([1000, 1024, 1_234_567].map(|n| Units::Binary.text(n)), ["1000B", "1.00K", "1.18M"]);
    }

    #[test]
    fn counts_stay_short_at_every_magnitude() {
        for (value, text) in
            [(0, "0"), (999, "999"), (1000, "1.00k"), (12_345, "12.3k"), (999_999, "1.00M"), (1_234_567, "1.23M")]
        {
            assert_eq!(count(value), text);
        }
        for power in 0..15 {
            for offset in [-1_i64, 0, 1] {
                let value = 10_i64.pow(power) + offset;
                assert!(count(value as u64).len() <= 5, "{value}");
            }
        }
    }

    #[test]
    fn short_counts_fit_four_characters() {
        for (value, text) in [
            (0, "0"),
            (9, "9"),
            (999, "999"),
            (1000, "1.0k"),
            (1270, "1.2k"),
            (12_700, "12k"),
            (999_999, "999k"),
            (1_270_000, "1.2M"),
            (u64::MAX, "18E"),
        ] {
            assert_eq!(short_count(value), text);
        }
        assert!((0..15).all(|power| short_count(10_u64.pow(power) - 1).len() <= 4));
    }

    #[test]
    fn a_rate_above_zero_never_reads_as_zero() {
        for (value, text) in [(0.0, "0"), (0.001, "<.01"), (0.25, "0.25"), (12.34, "12.3"), (999.9, "1.00k")] {
            assert_eq!(rate(value), text);
        }
        assert_eq!(rate(f64::NAN), UNKNOWN);
    }

    #[test]
    fn durations_change_units_where_rounding_would_overflow() {
        for (value, text) in [
            (0.0, "0s"),
            (85e-6, "85us"),
            (999.7e-6, "1.00ms"),
            (0.0125, "12.5ms"),
            (0.12, "120ms"),
            (0.999_6, "1.00s"),
            (12.345, "12.3s"),
            (59.96, "1m00s"),
            (3599.9, "1h00m"),
            (90_061.0, "1d01h"),
        ] {
            assert_eq!(seconds(value), text);
        }
    }

    #[test]
    fn shares_keep_nothing_and_all_apart_from_almost() {
        assert_eq!(
            [share(0.0), share(0.001), share(0.5), share(0.999), share(1.0)],
            ["0%", "<1%", "50%", ">99%", "100%"]
        );
    }

    #[test]
    fn unknown_is_neither_zero_nor_an_estimate() {
        assert_eq!(known(None, count), "-");
        assert_eq!(estimated(known(None, count), true), "-");
        assert_eq!(estimated(count(5), true), "~5");
    }

    #[test]
    fn bytes_and_percent() {
        assert_eq!([bytes(512), bytes(40_000_000), bytes(1 << 40)], ["512B", "38.1M", "1.00T"]);
        assert_eq!([percent(0.34), percent(12.5), percent(340.2)], ["0.3", "12.5", "340"]);
    }

    #[test]
    fn percent_of_many_cores_keeps_to_its_column() {
        let cases = [(9999.4, "9999"), (9999.5, "10.0k"), (12_800.0, "12.8k"), (102_400.0, "102k"), (1e6, "1.00M")];
        for (value, text) in cases {
            assert_eq!(percent(value), text);
        }
        assert!((0..15).all(|power| percent(10_f64.powi(power) - 0.01).len() <= 5));
    }
}
