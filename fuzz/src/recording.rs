//! Recordings: one snapshot a line.

/// A file.
pub fn run(data: &[u8]) {
    // Of most there is nothing to report.
    let _ = hbpf_tui::fuzzing::report(data);
    for snapshot in hbpf_tui::fuzzing::recording(data) {
        let text = serde_json::to_string(&snapshot).expect("a snapshot can be written");
        assert_eq!(hbpf_tui::fuzzing::recording(text.as_bytes()).len(), 1, "what is written can be read");
    }
}
