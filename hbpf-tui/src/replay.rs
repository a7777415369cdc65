//! Plays a recording: snapshots, a line each, at the pace at which they were taken.

use std::io::{BufRead, Read};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use hbpf_core::snapshot::{SCHEMA, Snapshot};
use hbpf_host::protocol::Group;

use crate::feed::{Control, Update};

/// Longest line that is read: a snapshot of several thousand processes and requests is far below it, and a file that
/// is no recording is not read into memory whole.
const MAX_LINE_BYTES: u64 = 32 << 20;

/// Longest pause between two frames: a recording with a hole should not look as if playback hung.
const MAX_PAUSE: Duration = Duration::from_secs(5);

/// What is said when all was played.
pub(crate) const END: &str = "end of the recording";

/// What is said where a file ends amid a snapshot.
pub(crate) const CUT: &str = "the recording was cut off here";

/// Reads the next snapshot; None at the end.
pub(crate) fn next(input: &mut impl BufRead, line_number: &mut u64) -> Result<Option<Snapshot>> {
    let mut line = String::new();
    loop {
        line.clear();
        *line_number += 1;
        let read = input.by_ref().take(MAX_LINE_BYTES).read_line(&mut line).context("cannot read the recording")?;
        if read == 0 {
            return Ok(None);
        }
        ensure!((read as u64) < MAX_LINE_BYTES, "line {line_number} is too long for a snapshot");
        if !line.trim().is_empty() {
            break;
        }
    }
    let parsed = serde_json::from_str(&line);
    if *line_number > 1 && !line.ends_with('\n') && parsed.is_err() {
        bail!("{CUT}");
    }
    let snapshot: Snapshot = parsed.with_context(|| {
        format!("line {line_number} is not a snapshot, such as `hbpf record` and `hbpf snapshot --json --interval 1s` write them")
    })?;
    if snapshot.schema != SCHEMA {
        bail!("line {line_number} has schema {:?}; this hbpf reads {SCHEMA}", snapshot.schema);
    }
    Ok(Some(snapshot))
}

/// How long to wait between two frames.
fn pause(before: &Snapshot, after: &Snapshot) -> Duration {
    let between = after.captured_at.duration_since(before.captured_at);
    Duration::try_from(between).unwrap_or_default().min(MAX_PAUSE)
}

/// Plays to the end, handing each frame over when it is due; `wait` lets the time pass.
pub(crate) fn play(mut input: impl BufRead, mut wait: impl FnMut(Duration), mut deliver: impl FnMut(Update)) {
    let mut line_number = 0;
    let mut before: Option<Arc<Snapshot>> = None;
    let end = loop {
        match next(&mut input, &mut line_number) {
            Ok(Some(snapshot)) => {
                if let Some(before) = &before {
                    wait(pause(before, &snapshot));
                }
                let snapshot = Arc::new(snapshot);
                before = Some(Arc::clone(&snapshot));
                deliver(Update::Snapshot(snapshot));
            }
            Ok(None) if before.is_none() => break "the recording is empty".to_owned(),
            Ok(None) => break END.to_owned(),
            Err(error) => break format!("{error:#}"),
        }
    };
    deliver(Update::Ended(end));
}

/// Control of a recording: there is nothing to control.
pub(crate) struct Recording;

impl Control for Recording {
    fn set_group(&self, _: Group, _: bool) {}

    fn take_now(&self) {}
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use jiff::SignedDuration;

    use super::*;
    use crate::fixture;

    fn line(seconds_later: i64) -> String {
        let mut snapshot = fixture::rich();
        snapshot.captured_at += SignedDuration::from_secs(seconds_later);
        serde_json::to_string(&snapshot).unwrap() + "\n"
    }

    fn played(recording: &str) -> Vec<String> {
        let log = RefCell::new(Vec::new());
        let note = |entry: String| log.borrow_mut().push(entry);
        play(
            recording.as_bytes(),
            |pause| note(format!("wait {}s", pause.as_secs_f64())),
            |update| {
                note(match update {
                    Update::Snapshot(snapshot) => format!("frame of {}", snapshot.captured_at),
                    Update::Ended(why) => why,
                });
            },
        );
        log.into_inner()
    }

    #[test]
    fn frames_come_at_the_recorded_pace_and_holes_are_shortened() {
        let recording = [line(0), "\n".to_owned(), line(1), line(100), line(90)].concat();
        assert_eq!(
            played(&recording),
            [
                "frame of 2026-11-22T19:30:00Z",
                "wait 1s",
                "frame of 2026-11-22T19:30:01Z",
                "wait 5s",
                "frame of 2026-11-22T19:31:40Z",
                "wait 0s",
                "frame of 2026-11-22T19:31:30Z",
                "end of the recording",
            ]
        );
    }

    #[test]
    fn what_is_no_recording_is_refused_with_its_line() {
        assert_eq!(played(""), ["the recording is empty"]);
        let broken = played(&(line(0) + "{\"schema\": 1}\n"));
        assert!(broken[1].starts_with("line 2 is not a snapshot"), "{broken:?}");
        let later = line(0).replace(SCHEMA, "hbpf.snapshot/9");
        assert_eq!(played(&later), ["line 1 has schema \"hbpf.snapshot/9\"; this hbpf reads hbpf.snapshot/1"]);
    }

    #[test]
    fn a_line_without_end_is_not_read_into_memory() {
        let endless = std::io::BufReader::new(std::io::repeat(b'x'));
        let mut log = Vec::new();
        play(endless, |_| (), |update| log.push(format!("{update:?}")));
        assert_eq!(log, ["Ended(\"line 1 is too long for a snapshot\")"]);
    }
}
