//! Durations and limits on the command line.

use std::time::Duration;

/// The text of an option.
pub fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    hbpf_tui::fuzzing::limit(text);
    if let Some(interval) = hbpf_tui::fuzzing::interval(text) {
        assert!((Duration::from_millis(100)..=Duration::from_secs(3600)).contains(&interval));
    }
}
