//! Labels.

use hbpf_core::label::Label;

/// Bytes from anywhere.
pub fn run(data: &[u8]) {
    let label = Label::from_bytes(data);
    crate::head::check(&label);
    assert_eq!(Label::new(label.as_str()), label, "made safe once, it stays as it is");
    let json = serde_json::to_string(&label).expect("a string can be written");
    assert_eq!(serde_json::from_str::<Label>(&json).expect("and read"), label);
    let hidden = |c: char| matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200b}'..='\u{200f}');
    assert!(!label.as_str().contains(hidden));
}
