//! The text in which servers expose their metrics: Prometheus' format, and OpenMetrics', which differs in what is skipped here.
//!
//! Crates that read it build a document of everything and have no bounds; of the thousands of lines of a server a few dozen
//! are wanted here, and the server may be anybody's.

use std::borrow::Cow;

use memchr::memchr;

/// Longest line that is looked at. LiteLLM writes a dozen labels with names of teams and users; nothing longer has been seen
/// than 2 KiB.
const MAX_LINE_BYTES: usize = 8 * 1024;

/// Most labels of one sample that are looked at.
const MAX_LABELS: usize = 32;

/// Cuts what comes in pieces into lines; those that are too long are left out whole.
#[derive(Debug, Default)]
pub struct Lines {
    /// The beginning of a line whose end has not come.
    begun: Vec<u8>,
    /// The line under way is too long.
    skipping: bool,
}

impl Lines {
    /// The next bytes.
    pub fn push(&mut self, mut bytes: &[u8], line: &mut impl FnMut(&[u8])) {
        while let Some(end) = memchr(b'\n', bytes) {
            let (rest, after) = (&bytes[..end], &bytes[end + 1..]);
            if self.begun.is_empty() && !self.skipping {
                if rest.len() <= MAX_LINE_BYTES {
                    line(rest);
                }
            } else {
                self.keep(rest);
                self.end(line);
            }
            bytes = after;
        }
        self.keep(bytes);
    }

    /// The text is over.
    pub fn end(&mut self, line: &mut impl FnMut(&[u8])) {
        if !std::mem::take(&mut self.skipping) && !self.begun.is_empty() {
            line(&self.begun);
        }
        self.begun.clear();
    }

    fn keep(&mut self, bytes: &[u8]) {
        if self.skipping || self.begun.len() + bytes.len() > MAX_LINE_BYTES {
            self.skipping = true;
            self.begun.clear();
        } else {
            self.begun.extend_from_slice(bytes);
        }
    }
}

/// What a line says.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Line<'a> {
    /// A value.
    Sample(Sample<'a>),
    /// A metric exists, whether or not it has values: `# TYPE NAME KIND`.
    Declared(&'a str),
}

/// One value of one metric.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample<'a> {
    /// Its name, with suffixes such as `_total` and `_bucket`.
    pub name: &'a str,
    /// Neither infinite nor NaN.
    pub value: f64,
    labels: &'a str,
}

impl<'a> Line<'a> {
    /// Reads a line; `None` for what is neither a sample nor a declaration. `NAME[{LABELS}] VALUE [TIMESTAMP] [# EXEMPLAR]`
    pub fn parse(line: &'a [u8]) -> Option<Self> {
        let line = std::str::from_utf8(line).ok()?.trim_ascii();
        if let Some(comment) = line.strip_prefix('#') {
            let mut words = comment.split_ascii_whitespace();
            return (words.next()? == "TYPE").then(|| words.next()).flatten().map(Self::Declared);
        }
        let length = line.bytes().take_while(|byte| is_of_name(*byte)).count();
        let (name, rest) = line.split_at(length);
        if name.is_empty() {
            return None;
        }
        let rest = rest.trim_ascii_start();
        let (labels, rest) = match rest.strip_prefix('{') {
            Some(rest) => {
                let end = end_of_labels(rest)?;
                (&rest[..end], &rest[end + 1..])
            }
            None => ("", rest),
        };
        let value = rest.split_ascii_whitespace().next()?.parse().ok().filter(|value: &f64| value.is_finite())?;
        Some(Self::Sample(Sample { name, value, labels }))
    }
}

impl<'a> Sample<'a> {
    /// The value of a label.
    pub fn label(&self, wanted: &str) -> Option<Cow<'a, str>> {
        self.labels().find(|(name, _)| *name == wanted).map(|(_, value)| unescaped(value))
    }

    /// Names and values as they are written.
    fn labels(&self) -> impl Iterator<Item = (&'a str, &'a str)> {
        let mut rest = self.labels;
        let next = move || {
            let (name, after) = rest.split_once('=')?;
            let after = after.trim_ascii_start().strip_prefix('"')?;
            let end = end_of_text(after)?;
            let (value, after) = (&after[..end], &after[end + 1..]);
            rest = after.trim_ascii_start().strip_prefix(',').unwrap_or(after);
            Some((name.trim_ascii(), value))
        };
        std::iter::from_fn(next).take(MAX_LABELS)
    }
}

fn is_of_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b':')
}

/// Where the closing brace stands that is in no label's value.
fn end_of_labels(text: &str) -> Option<usize> {
    let mut at = 0;
    while let Some(found) = text[at..].find(['"', '}']) {
        at += found;
        if text.as_bytes()[at] == b'}' {
            return Some(at);
        }
        at += 1;
        at += end_of_text(&text[at..])? + 1;
    }
    None
}

/// Where the closing quotation mark stands.
fn end_of_text(text: &str) -> Option<usize> {
    let mut escaped = false;
    text.bytes().position(|byte| {
        let is_end = byte == b'"' && !escaped;
        escaped = byte == b'\\' && !escaped;
        is_end
    })
}

fn unescaped(value: &str) -> Cow<'_, str> {
    if !value.contains('\\') {
        return value.into();
    }
    let mut out = String::with_capacity(value.len());
    let mut escaped = false;
    for c in value.chars() {
        match (escaped, c) {
            (false, '\\') => escaped = true,
            (false, c) => out.push(c),
            (true, c) => {
                out.push(if c == 'n' { '\n' } else { c });
                escaped = false;
            }
        }
    }
    out.into()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sample(line: &str) -> Option<(&str, f64)> {
        match Line::parse(line.as_bytes()) {
            Some(Line::Sample(sample)) => Some((sample.name, sample.value)),
            _ => None,
        }
    }

    #[test]
    fn lines_of_all_kinds() {
        let table: &[(&str, Option<(&str, f64)>)] = &[
            ("a 1", Some(("a", 1.0))),
            ("vllm:x_total{} 1.5e+06", Some(("vllm:x_total", 1.5e6))),
            ("a{b=\"c\"} 2 1395066363000", Some(("a", 2.0))),
            ("a{b=\"c\",} 2", Some(("a", 2.0))),
            ("a{ b = \"c\" , d=\"e\" }  -2.5\r", Some(("a", -2.5))),
            ("a_bucket{le=\"0.1\"} 7 # {trace_id=\"x\"} 0.05 1.2", Some(("a_bucket", 7.0))),
            ("a{b=\"}\\\"}\"} 3", Some(("a", 3.0))),
            ("a{b=\"c\\\\\"} 4", Some(("a", 4.0))),
            ("  a\t5", Some(("a", 5.0))),
            ("a NaN", None),
            ("a +Inf", None),
            ("a -Inf", None),
            ("a", None),
            ("a{b=\"c\"", None),
            ("a{b=\"c} 1", None),
            ("{\"quoted.name\"} 1", None),
            ("a 0x10", None),
            ("a one", None),
            ("# HELP a 1", None),
            ("# EOF", None),
            ("", None),
            ("<html> 1", None),
        ];
        for (line, expected) in table {
            assert_eq!(sample(line), *expected, "{line}");
        }
        assert_eq!(Line::parse(b"# TYPE a:b_total counter"), Some(Line::Declared("a:b_total")));
        assert_eq!(Line::parse(b"# TYPE"), None);
        assert_eq!(Line::parse(b"a\xff 1"), None);
    }

    #[test]
    fn labels_are_read_as_they_were_meant() {
        let Some(Line::Sample(sample)) =
            Line::parse(br#"m{engine="0", model_name="a\"b\\c\nd",le="+Inf",empty="",} 1"#)
        else {
            panic!()
        };
        let all: Vec<_> = sample.labels().map(|(name, _)| name).collect();
        assert_eq!(all, ["engine", "model_name", "le", "empty"]);
        assert_eq!(sample.label("model_name").as_deref(), Some("a\"b\\c\nd"));
        assert_eq!(sample.label("empty").as_deref(), Some(""));
        assert_eq!(sample.label("engin"), None);
    }

    fn lines(pieces: &[&[u8]]) -> Vec<Vec<u8>> {
        let (mut reader, mut seen) = (Lines::default(), Vec::new());
        for piece in pieces {
            reader.push(piece, &mut |line| seen.push(line.to_vec()));
        }
        reader.end(&mut |line| seen.push(line.to_vec()));
        seen
    }

    #[test]
    fn a_line_that_is_too_long_is_left_out_and_the_next_is_read() {
        let long = vec![b'x'; MAX_LINE_BYTES + 1];
        let text = [b"a 1\n", &long[..], b"\nb 2\n", &long[1..], b"\nc 3"].concat();
        let expected: Vec<Vec<u8>> = vec![b"a 1".to_vec(), b"b 2".to_vec(), long[1..].to_vec(), b"c 3".to_vec()];
        assert_eq!(lines(&[&text]), expected);
        assert_eq!(lines(&text.chunks(7).collect::<Vec<_>>()), expected);
        let mut reader = Lines::default();
        for _ in 0..1000 {
            reader.push(&long, &mut |_| panic!());
            assert!(reader.begun.capacity() <= 2 * MAX_LINE_BYTES);
        }
    }

    proptest! {
        #[test]
        fn any_line_is_read_without_harm(line in "[a-z:_{}=\"\\\\, 0-9.#+-]{0,60}") {
            if let Some(Line::Sample(sample)) = Line::parse(line.as_bytes()) {
                prop_assert!(sample.value.is_finite());
                prop_assert!(sample.labels().count() <= MAX_LABELS);
                sample.label("a");
            }
        }

        #[test]
        fn what_is_written_is_read(value in any::<f64>(), name in "[a-zA-Z_:][a-zA-Z0-9_:]{0,20}", label in "[^\r\n]{0,20}") {
            let escaped = label.replace('\\', "\\\\").replace('"', "\\\"");
            let line = format!("{name}{{x=\"y\",l=\"{escaped}\"}} {value}");
            match Line::parse(line.as_bytes()) {
                Some(Line::Sample(sample)) => {
                    prop_assert_eq!((sample.name, sample.value), (name.as_str(), value));
                    prop_assert_eq!(sample.label("l").unwrap().into_owned(), label);
                }
                other => prop_assert!(!value.is_finite(), "{:?}", other),
            }
        }

        #[test]
        fn pieces_mean_the_same(text in prop::collection::vec(prop::sample::select(b"ab\n".to_vec()), 0..60), size in 1..9usize) {
            prop_assert_eq!(lines(&text.chunks(size).collect::<Vec<_>>()), lines(&[&text]));
        }
    }
}
