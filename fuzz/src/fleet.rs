//! Answers of a server with Prometheus' API, of which a snapshot of many hosts is made.

use serde_json::Value;

/// An answer a line.
pub fn run(data: &[u8]) {
    let snapshot = hbpf_tui::fuzzing::fleet(data);
    let value = serde_json::to_value(&snapshot).expect("a snapshot can be written");
    assert!(is_clean(&value), "what a terminal obeys has got through");
    assert_eq!(hbpf_tui::fuzzing::recording(value.to_string().as_bytes()).len(), 1, "what is written can be read");
}

/// Whether no text in it has characters that control a terminal.
fn is_clean(value: &Value) -> bool {
    match value {
        Value::String(text) => !text.contains(char::is_control),
        Value::Array(values) => values.iter().all(is_clean),
        Value::Object(fields) => fields.iter().all(|(name, value)| !name.contains(char::is_control) && is_clean(value)),
        _ => true,
    }
}
