//! Times as they are typed.

use jiff::civil::{Date, DateTime, Time};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

/// A time as it was typed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum When {
    At(Timestamp),
    /// So far on, or back.
    By(SignedDuration),
    /// A part of all there is, from 0 to 1.
    Part(f64),
}

/// What is said of what is none.
const NO_TIME: &str = "no time: 14:05, 14:05:30 (UTC), -5m, +30s, 50%, or a date and time";

/// Reads a time: of the day, from here on or back, a part of all there is, or a full one. `extent`: between which times there are
/// frames; of the days on which it is that time, the last one is meant on which there are any.
pub(crate) fn parse(text: &str, extent: (Timestamp, Timestamp)) -> Result<When, String> {
    let text = text.trim();
    let is_relative = text.starts_with(['+', '-']);
    let jump = match text.strip_suffix('%') {
        Some(percent) => percent.parse().ok().filter(|p| (0.0..=100.0).contains(p)).map(|p: f64| When::Part(p / 100.0)),
        None if is_relative => text.parse().ok().map(|time: SignedDuration| When::By(time)),
        None => time_of(text, extent).map(When::At),
    };
    jump.ok_or_else(|| NO_TIME.to_owned())
}

/// The same as a time: what is back or on counts from the last, or the first.
pub(crate) fn moment(text: &str, extent: (Timestamp, Timestamp)) -> Result<Timestamp, String> {
    let (first, last) = extent;
    let whole = last.duration_since(first);
    Ok(match parse(text, extent)? {
        When::At(time) => time,
        When::By(time) if time.is_negative() => last.checked_add(time).unwrap_or(first),
        When::By(time) => first.checked_add(time).unwrap_or(last),
        When::Part(part) => first + SignedDuration::from_secs_f64(whole.as_secs_f64() * part),
    })
}

fn time_of(text: &str, (first, last): (Timestamp, Timestamp)) -> Option<Timestamp> {
    let utc = |when: DateTime| when.to_zoned(TimeZone::UTC).ok().map(|zoned| zoned.timestamp());
    if let Ok(when) = text.parse::<Timestamp>() {
        return Some(when);
    }
    // A date alone is a time as well, but of no use here.
    if text.contains(['-', 'T', ' ']) {
        return text.parse::<DateTime>().ok().and_then(utc);
    }
    let time: Time = text.parse().ok()?;
    let on = |day: Date| utc(day.to_datetime(time));
    let last_day = last.to_zoned(TimeZone::UTC).date();
    let today = on(last_day)?;
    let yesterday = on(last_day.yesterday().ok()?)?;
    Some(if today > last && yesterday >= first { yesterday } else { today })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_people_write_them() {
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let extent = (at("2026-11-21T22:00:00Z"), at("2026-11-22T19:30:00Z"));
        let read = |text| parse(text, extent);
        assert_eq!(read("14:05"), Ok(When::At(at("2026-11-22T14:05:00Z"))));
        assert_eq!(read(" 14:05:30 "), Ok(When::At(at("2026-11-22T14:05:30Z"))));
        assert_eq!(read("22:10"), Ok(When::At(at("2026-11-21T22:10:00Z"))));
        assert_eq!(read("20:10"), Ok(When::At(at("2026-11-22T20:10:00Z"))), "it will be the last");
        assert_eq!(read("2026-11-22 10:00"), Ok(When::At(at("2026-11-22T10:00:00Z"))));
        assert_eq!(read("2026-11-22T10:00:00+02:00"), Ok(When::At(at("2026-11-22T08:00:00Z"))));
        assert_eq!(read("-5m"), Ok(When::By(SignedDuration::from_mins(-5))));
        assert_eq!(read("+1h30m"), Ok(When::By(SignedDuration::from_mins(90))));
        assert_eq!(read("50%"), Ok(When::Part(0.5)));
        for wrong in ["", "x", "101%", "-1%", "25:00", "+", "5", "2026-11-22T"] {
            assert_eq!(read(wrong), Err(NO_TIME.to_owned()), "{wrong}");
        }
    }
}
