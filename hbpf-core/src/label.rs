//! Strings that came from outside: from captured bytes, process names or files.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A short string from outside, safe to hand to any output that escapes for its own syntax.
///
/// It holds at most [`Label::MAX_CHARS`] characters; control characters, bidirectional and other invisible formatting
/// characters are replaced by U+FFFD, as is what is not UTF-8. Cloning is cheap.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Label(Arc<str>);

impl Label {
    /// Longest label, in characters: long enough for any model id or ARN seen, short enough for a table.
    pub const MAX_CHARS: usize = 160;

    /// Sanitises a string.
    pub fn new(text: &str) -> Self {
        let harmless = |c| if is_harmless(c) { c } else { char::REPLACEMENT_CHARACTER };
        Self(text.chars().take(Self::MAX_CHARS).map(harmless).collect::<String>().into())
    }

    /// Sanitises bytes that should be UTF-8.
    pub fn from_bytes(bytes: &[u8]) -> Self {
        // A character has at most four bytes: what lies beyond cannot be in the label.
        let bytes = &bytes[..bytes.len().min(Self::MAX_CHARS * 4)];
        Self::new(&String::from_utf8_lossy(bytes))
    }

    /// The sanitised text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Whether a character neither controls a terminal nor reorders or hides the text around it.
fn is_harmless(c: char) -> bool {
    !c.is_control()
        && !matches!(c,
            '\u{ad}' | '\u{61c}' | '\u{180e}'
            | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
            | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

impl Default for Label {
    fn default() -> Self {
        Self::new("")
    }
}

impl From<&str> for Label {
    fn from(text: &str) -> Self {
        Self::new(text)
    }
}

impl Borrow<str> for Label {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl Serialize for Label {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Label {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(|text| Self::new(&text))
    }
}

impl schemars::JsonSchema for Label {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Label".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "string", "maxLength": Label::MAX_CHARS })
    }
}

#[cfg(test)]
mod tests {
    use super::Label;

    #[test]
    fn control_and_bidirectional_characters_are_replaced() {
        assert_eq!(Label::new("a\x1b]52;c;x\x07b").as_str(), "a\u{fffd}]52;c;x\u{fffd}b");
        assert_eq!(Label::new("gpt\u{202e}4\u{2066}o\u{200b}").as_str(), "gpt\u{fffd}4\u{fffd}o\u{fffd}");
        assert_eq!(Label::from_bytes(b"m\xff\n").as_str(), "m\u{fffd}\u{fffd}");
    }

    #[test]
    fn length_is_capped_in_characters() {
        assert_eq!(Label::new(&"é".repeat(1000)).as_str().chars().count(), Label::MAX_CHARS);
        assert_eq!(Label::from_bytes("é".repeat(1000).as_bytes()).as_str().chars().count(), Label::MAX_CHARS);
    }

    #[test]
    fn reading_back_sanitises_again() {
        let label: Label = serde_json::from_str(r#""a\u001b[2J""#).unwrap();
        assert_eq!(label.as_str(), "a\u{fffd}[2J");
    }
}
