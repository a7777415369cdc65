//! Strings that came from outside: from captured bytes, process names or files.

use std::borrow::Borrow;
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use unicode_width::UnicodeWidthChar;

/// A string from outside of at most `MAX` characters, safe to hand to any output that escapes for its own syntax.
///
/// What would control a terminal, reorder or hide the text around it is replaced by U+FFFD, as is what is not UTF-8; so
/// are marks that pile up on one character, and one that would join what stands before the string. Cloning is cheap.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bounded<const MAX: usize>(Arc<str>);

/// A name: of a model, a host, a process, a file. Long enough for any model id or ARN seen, short enough for a table.
pub type Label = Bounded<160>;

/// A sentence that may quote what is from outside: an error of the kernel's, a reason that names a file.
pub type Text = Bounded<500>;

/// Most characters without a width of their own in a row. Scripts need up to three; more are there to pile up over other
/// lines of the screen.
const MAX_MARKS: usize = 4;

impl<const MAX: usize> Bounded<MAX> {
    /// Longest string, in characters.
    pub const MAX_CHARS: usize = MAX;

    /// Sanitises a string.
    pub fn new(text: &str) -> Self {
        let mut kept = String::with_capacity(text.len().min(MAX));
        // As if there were too many already: the first must not join what others write before this string.
        let mut marks = MAX_MARKS;
        for c in text.chars().take(MAX) {
            marks = if c.width() == Some(0) { marks + 1 } else { 0 };
            if !is_harmless(c) || marks == MAX_MARKS + 1 {
                kept.push(char::REPLACEMENT_CHARACTER);
            } else if marks <= MAX_MARKS {
                kept.push(c);
            }
        }
        Self(kept.into())
    }

    /// Sanitises bytes that should be UTF-8.
    pub fn from_bytes(bytes: &[u8]) -> Self {
        // A character has at most four bytes: what lies beyond cannot be in the string.
        let bytes = &bytes[..bytes.len().min(MAX * 4)];
        Self::new(&String::from_utf8_lossy(bytes))
    }

    /// The sanitised text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Whether a character neither controls a terminal nor reorders or hides the text around it, nor is itself unseen: what
/// Unicode calls default-ignorable, and blanks that do not count as such.
fn is_harmless(c: char) -> bool {
    !c.is_control()
        && !matches!(c,
            '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}'
            | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
            | '\u{2800}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}'
            | '\u{13430}'..='\u{1343f}' | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}'
            | '\u{e0000}'..='\u{e0fff}')
}

impl<const MAX: usize> Default for Bounded<MAX> {
    fn default() -> Self {
        Self::new("")
    }
}

impl<const MAX: usize> From<&str> for Bounded<MAX> {
    fn from(text: &str) -> Self {
        Self::new(text)
    }
}

impl<const MAX: usize> From<String> for Bounded<MAX> {
    fn from(text: String) -> Self {
        Self::new(&text)
    }
}

impl<const MAX: usize> Deref for Bounded<MAX> {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl<const MAX: usize> Borrow<str> for Bounded<MAX> {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl<const MAX: usize> PartialEq<str> for Bounded<MAX> {
    fn eq(&self, other: &str) -> bool {
        &*self.0 == other
    }
}

impl<const MAX: usize> PartialEq<&str> for Bounded<MAX> {
    fn eq(&self, other: &&str) -> bool {
        &*self.0 == *other
    }
}

impl<const MAX: usize> fmt::Display for Bounded<MAX> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl<const MAX: usize> fmt::Debug for Bounded<MAX> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl<const MAX: usize> Serialize for Bounded<MAX> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de, const MAX: usize> Deserialize<'de> for Bounded<MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(|text| Self::new(&text))
    }
}

impl<const MAX: usize> schemars::JsonSchema for Bounded<MAX> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        format!("TextOf{MAX}").into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "string", "maxLength": MAX })
    }
}

#[cfg(test)]
mod tests {
    use super::{Label, MAX_MARKS, Text};

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

    #[test]
    fn what_is_not_seen_is_replaced() {
        for c in
            ['\u{200d}', '\u{2028}', '\u{3164}', '\u{fe0f}', '\u{e0041}', '\u{1d173}', '\u{85}', '\u{9b}', '\u{7f}']
        {
            assert_eq!(Label::new(&format!("a{c}b")).as_str(), "a\u{fffd}b", "{c:?}");
        }
        for kept in ["模型-7b", "naïve", "ไม้", "a=b,\"c\"<script>", "🐝"] {
            assert_eq!(Label::new(kept).as_str(), kept);
        }
    }

    #[test]
    fn marks_do_not_pile_up_nor_join_what_stands_before() {
        let piled = Label::new(&format!("a{}b", "\u{301}".repeat(100)));
        assert_eq!(piled.as_str(), format!("a{}\u{fffd}b", "\u{301}".repeat(MAX_MARKS)));
        assert_eq!(Label::new("\u{301}\u{301}a").as_str(), "\u{fffd}a");
    }

    #[test]
    fn sentences_may_be_longer_than_names() {
        let long = "x".repeat(1000);
        assert_eq!((Label::new(&long).len(), Text::new(&long).len()), (160, 500));
    }
}
