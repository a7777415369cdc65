//! The elements of one JSON array, sent as they are made.

use super::Documents;

/// Cuts an array at its own commas. What an element is, whoever reads it finds out.
#[derive(Clone, Debug, Default)]
pub struct Array {
    /// How many brackets and braces are open, the array's own included.
    depth: u64,
    in_text: bool,
    is_escaped: bool,
    /// The current element has content.
    has_content: bool,
    /// After a gap nothing tells what is an element.
    is_lost: bool,
}

impl Array {
    /// At the beginning of an array.
    pub fn new() -> Self {
        Self::default()
    }

    /// The next bytes.
    pub fn push(&mut self, bytes: &[u8], out: &mut impl Documents) {
        if self.is_lost {
            return;
        }
        // Where what belongs to the current element begins.
        let mut from = 0;
        for (at, byte) in bytes.iter().enumerate() {
            if self.in_text {
                let is_escaped = std::mem::take(&mut self.is_escaped);
                match byte {
                    _ if is_escaped => {}
                    b'\\' => self.is_escaped = true,
                    b'"' => self.in_text = false,
                    _ => {}
                }
                continue;
            }
            let is_between = self.depth <= 1;
            match byte {
                b'[' | b'{' => {
                    self.depth += 1;
                    if self.depth == 1 {
                        from = at + 1;
                        continue;
                    }
                }
                b']' | b'}' => {
                    self.depth = self.depth.saturating_sub(1);
                    if self.depth == 0 {
                        self.end_element(&bytes[from..at], out);
                        from = at + 1;
                        continue;
                    }
                }
                b'"' => self.in_text = true,
                b',' if is_between => {
                    self.end_element(&bytes[from..at], out);
                    from = at + 1;
                    continue;
                }
                byte if is_between && byte.is_ascii_whitespace() && !self.has_content => {
                    from = at + 1;
                    continue;
                }
                _ => {}
            }
            self.has_content |= self.depth > 0;
        }
        if self.has_content && from < bytes.len() {
            out.bytes(&bytes[from..]);
        }
    }

    fn end_element(&mut self, rest: &[u8], out: &mut impl Documents) {
        if std::mem::take(&mut self.has_content) {
            if !rest.is_empty() {
                out.bytes(rest);
            }
            out.end();
        }
    }

    /// Some bytes were not seen: the current element is given up, and what follows.
    pub fn gap(&mut self, out: &mut impl Documents) {
        if !std::mem::replace(&mut self.is_lost, true) {
            out.abort();
        }
    }

    /// The stream is over. An element that is not ended was cut.
    pub fn end(&mut self, out: &mut impl Documents) {
        if std::mem::take(&mut self.has_content) && !self.is_lost {
            out.end();
        }
    }

    /// Whether the array is closed.
    pub fn is_complete(&self) -> bool {
        !self.is_lost && self.depth == 0
    }
}

#[cfg(test)]
mod tests {
    use super::super::Documents;
    use super::Array;

    #[derive(Default)]
    struct Collect {
        current: Vec<u8>,
        elements: Vec<String>,
        aborted: usize,
    }

    impl Documents for Collect {
        fn bytes(&mut self, bytes: &[u8]) {
            self.current.extend_from_slice(bytes);
        }

        fn end(&mut self) {
            self.elements.push(String::from_utf8(std::mem::take(&mut self.current)).unwrap());
        }

        fn abort(&mut self) {
            self.current.clear();
            self.aborted += 1;
        }
    }

    #[test]
    fn elements_at_every_split() {
        let stream = br#"[{"a": "},]\"{["},
  {"b": [1, {"c": "\\"}]} , 7
,"x, \"y\""
]
"#;
        let expected = [r#"{"a": "},]\"{["}"#, r#"{"b": [1, {"c": "\\"}]}"#, "7", r#""x, \"y\"""#];
        for at in 0..=stream.len() {
            let (mut array, mut out) = (Array::new(), Collect::default());
            array.push(&stream[..at], &mut out);
            array.push(&stream[at..], &mut out);
            assert!(array.is_complete());
            array.end(&mut out);
            let trimmed: Vec<&str> = out.elements.iter().map(|element| element.trim()).collect();
            assert_eq!(trimmed, expected, "split at {at}");
        }
        let (mut array, mut out) = (Array::new(), Collect::default());
        stream.chunks(1).for_each(|byte| array.push(byte, &mut out));
        assert_eq!(out.elements.len(), expected.len());
    }

    #[test]
    fn a_gap_ends_it_and_an_empty_one_has_nothing() {
        let (mut array, mut out) = (Array::new(), Collect::default());
        array.push(br#"[{"a":1},{"b":"#, &mut out);
        array.gap(&mut out);
        array.push(br#"2},{"c":3}]"#, &mut out);
        array.gap(&mut out);
        array.end(&mut out);
        assert_eq!((out.elements, out.aborted, array.is_complete()), (vec![r#"{"a":1}"#.to_owned()], 1, false));
        let (mut array, mut out) = (Array::new(), Collect::default());
        array.push(b"[ ]", &mut out);
        array.end(&mut out);
        assert!(out.elements.is_empty());
    }
}
