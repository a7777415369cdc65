//! One JSON document per line.

use memchr::memchr;

use super::Documents;

/// Cuts a stream at line feeds. Blank lines are no documents.
#[derive(Clone, Debug, Default)]
pub struct Ndjson {
    /// The current line has content.
    has_content: bool,
    /// After a gap: the rest of the line belongs to nothing.
    resync: bool,
}

impl Ndjson {
    /// At the beginning of a stream.
    pub fn new() -> Self {
        Self::default()
    }

    /// The next bytes.
    pub fn push(&mut self, mut bytes: &[u8], out: &mut impl Documents) {
        while !bytes.is_empty() {
            let run = memchr(b'\n', bytes);
            let line = &bytes[..run.unwrap_or(bytes.len())];
            // White space before the document is none of it, however it is cut.
            let content = if self.has_content { line } else { line.trim_ascii_start() };
            if !self.resync && (self.has_content || !content.is_empty()) {
                self.has_content = true;
                out.bytes(content);
            }
            let Some(run) = run else { return };
            self.resync = false;
            if std::mem::take(&mut self.has_content) {
                out.end();
            }
            bytes = &bytes[run + 1..];
        }
    }

    /// Some bytes were not seen: the line that they cut is given up, and the rest of the one that they end in.
    pub fn gap(&mut self, out: &mut impl Documents) {
        out.abort();
        self.has_content = false;
        self.resync = true;
    }

    /// The stream is over; the last line need not be ended.
    pub fn end(&mut self, out: &mut impl Documents) {
        if std::mem::take(&mut self.has_content) {
            out.end();
        }
        self.resync = false;
    }
}

#[cfg(test)]
mod tests {
    use super::super::Documents;
    use super::Ndjson;

    #[derive(Default)]
    struct Collect {
        current: Vec<u8>,
        lines: Vec<String>,
    }

    impl Documents for Collect {
        fn bytes(&mut self, bytes: &[u8]) {
            self.current.extend_from_slice(bytes);
        }

        fn end(&mut self) {
            self.lines.push(String::from_utf8(std::mem::take(&mut self.current)).unwrap());
        }

        fn abort(&mut self) {
            self.current.clear();
        }
    }

    #[test]
    fn lines_at_every_split() {
        let stream = b"{\"a\":1}\n\r\n\n{\"b\":2}\r\n{\"c\":3}";
        for at in 0..=stream.len() {
            let (mut lines, mut out) = (Ndjson::new(), Collect::default());
            lines.push(&stream[..at], &mut out);
            lines.push(&stream[at..], &mut out);
            lines.end(&mut out);
            let trimmed: Vec<&str> = out.lines.iter().map(|line| line.trim()).collect();
            assert_eq!(trimmed, ["{\"a\":1}", "{\"b\":2}", "{\"c\":3}"], "split at {at}");
        }
    }

    #[test]
    fn a_gap_costs_the_lines_that_it_touches() {
        let (mut lines, mut out) = (Ndjson::new(), Collect::default());
        lines.push(b"one\ntw", &mut out);
        lines.gap(&mut out);
        lines.push(b"ree\nfour\n", &mut out);
        lines.end(&mut out);
        assert_eq!(out.lines, ["one", "four"]);
    }
}
