//! Server-sent events, as the HTML standard has them.

use memchr::memchr2;

use super::Documents;

/// Field names that matter are not longer; of longer ones no more is kept than tells them from these.
const NAME_BYTES: usize = 5;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Before the first byte: a byte order mark may come, of which so much has been seen.
    Mark(u8),
    LineStart,
    Name,
    /// After the colon of a data field: one space is no part of the value.
    DataStart,
    Data,
    /// JSON without a field's name, and at the beginning of one of its lines.
    Bare,
    BareStart,
    /// The rest of a line that does not matter: a comment, another field, or framing that strayed in.
    Ignored,
    /// After a gap, until a blank line. `blank` is whether the current line is empty so far.
    Resync {
        blank: bool,
    },
}

/// Cuts a stream into the data of its events. A document is an event's data, its lines joined by line feeds. JSON that stands where
/// an event should, without a field's name, passes for one: Google's servers tell errors so.
///
/// Event names are not looked at: every API that uses them repeats them in the data.
#[derive(Clone, Debug)]
pub struct Sse {
    state: State,
    name: [u8; NAME_BYTES],
    name_len: usize,
    /// The current event has had a data field.
    has_data: bool,
    /// The last byte was a CR that has ended a line: an LF now belongs to it.
    after_cr: bool,
}

impl Default for Sse {
    fn default() -> Self {
        Self::new()
    }
}

impl Sse {
    /// At the beginning of a stream.
    pub fn new() -> Self {
        Self { state: State::Mark(0), name: [0; NAME_BYTES], name_len: 0, has_data: false, after_cr: false }
    }

    /// The next bytes.
    pub fn push(&mut self, mut bytes: &[u8], out: &mut impl Documents) {
        while let Some(&byte) = bytes.first() {
            if std::mem::take(&mut self.after_cr) && byte == b'\n' {
                bytes = &bytes[1..];
                continue;
            }
            let taken = match self.state {
                State::Mark(seen) => self.mark(seen, byte),
                State::LineStart if matches!(byte, b'{' | b'[') && !self.has_data => {
                    self.begin_data(out);
                    self.state = State::Bare;
                    0
                }
                State::LineStart | State::Name => self.name(byte, out),
                State::BareStart => self.bare_line(byte, out),
                State::DataStart => {
                    self.state = State::Data;
                    usize::from(byte == b' ')
                }
                State::Data | State::Bare | State::Ignored | State::Resync { .. } => self.rest_of_line(bytes, out),
            };
            bytes = &bytes[taken..];
        }
    }

    /// Some bytes were not seen: the event that they cut is given up, and those up to the next blank line too.
    pub fn gap(&mut self, out: &mut impl Documents) {
        out.abort();
        self.has_data = false;
        self.after_cr = false;
        self.state = State::Resync { blank: false };
    }

    /// The stream is over. An event that no blank line has ended counts: some servers leave the last one out.
    pub fn end(&mut self, out: &mut impl Documents) {
        if std::mem::take(&mut self.has_data) {
            out.end();
        }
        self.state = State::Mark(0);
        self.after_cr = false;
    }

    fn mark(&mut self, seen: u8, byte: u8) -> usize {
        const MARK: [u8; 3] = [0xef, 0xbb, 0xbf];
        match MARK.get(usize::from(seen)) {
            Some(expected) if *expected == byte => {
                self.state = State::Mark(seen + 1);
                1
            }
            _ => {
                self.state = State::LineStart;
                0
            }
        }
    }

    fn name(&mut self, byte: u8, out: &mut impl Documents) -> usize {
        if self.state == State::LineStart {
            self.name_len = 0;
            self.state = State::Name;
        }
        match byte {
            b'\r' | b'\n' => {
                // A line without a colon is a field without a value; an empty one ends the event.
                match &self.name[..self.name_len.min(NAME_BYTES)] {
                    b"" => self.dispatch(out),
                    b"data" => self.begin_data(out),
                    _ => {}
                }
                self.line_ended(byte);
            }
            b':' if self.name[..self.name_len.min(NAME_BYTES)] == *b"data" => {
                self.begin_data(out);
                self.state = State::DataStart;
            }
            b':' => self.state = State::Ignored,
            _ => {
                if let Some(slot) = self.name.get_mut(self.name_len) {
                    *slot = byte;
                    self.name_len += 1;
                } else {
                    self.state = State::Ignored;
                }
            }
        }
        1
    }

    fn begin_data(&mut self, out: &mut impl Documents) {
        if self.has_data {
            out.bytes(b"\n");
        }
        self.has_data = true;
    }

    /// An empty line ends it, as it ends an event.
    fn bare_line(&mut self, byte: u8, out: &mut impl Documents) -> usize {
        if matches!(byte, b'\r' | b'\n') {
            self.dispatch(out);
            self.line_ended(byte);
            return 1;
        }
        out.bytes(b"\n");
        self.state = State::Bare;
        0
    }

    fn rest_of_line(&mut self, bytes: &[u8], out: &mut impl Documents) -> usize {
        let run = memchr2(b'\r', b'\n', bytes);
        let content = &bytes[..run.unwrap_or(bytes.len())];
        match &mut self.state {
            State::Data | State::Bare if !content.is_empty() => out.bytes(content),
            State::Resync { blank } if !content.is_empty() => *blank = false,
            _ => {}
        }
        let Some(run) = run else { return bytes.len() };
        match self.state {
            State::Resync { blank: false } => {
                self.after_cr = bytes[run] == b'\r';
                self.state = State::Resync { blank: true };
            }
            State::Bare => {
                self.line_ended(bytes[run]);
                self.state = State::BareStart;
            }
            _ => self.line_ended(bytes[run]),
        }
        run + 1
    }

    fn line_ended(&mut self, terminator: u8) {
        self.after_cr = terminator == b'\r';
        self.state = State::LineStart;
    }

    fn dispatch(&mut self, out: &mut impl Documents) {
        if std::mem::take(&mut self.has_data) {
            out.end();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Documents;
    use super::Sse;

    #[derive(Default)]
    struct Collect {
        current: Vec<u8>,
        events: Vec<String>,
    }

    impl Documents for Collect {
        fn bytes(&mut self, bytes: &[u8]) {
            self.current.extend_from_slice(bytes);
        }

        fn end(&mut self) {
            self.events.push(String::from_utf8(std::mem::take(&mut self.current)).unwrap());
        }

        fn abort(&mut self) {
            self.current.clear();
        }
    }

    fn events(pieces: &[&[u8]]) -> Vec<String> {
        let (mut sse, mut out) = (Sse::new(), Collect::default());
        for piece in pieces {
            sse.push(piece, &mut out);
        }
        sse.end(&mut out);
        out.events
    }

    #[test]
    fn events_at_every_split() {
        let cases: &[(&str, &[&str])] = &[
            ("data: a\n\ndata: b\n\n", &["a", "b"]),
            ("data:a\r\n\r\ndata:b\r\n\r\n", &["a", "b"]),
            ("data: a\r\rdata: b\r\r", &["a", "b"]),
            ("data:  two spaces\n\n", &[" two spaces"]),
            ("\u{feff}data: after a mark\n\n", &["after a mark"]),
            ("data: one\ndata: two\n\n", &["one\ntwo"]),
            ("data\ndata: x\n\n", &["\nx"]),
            ("data:\n\n", &[""]),
            (": comment\n\n:\n\nevent: ping\nid: 7\nretry: 1\n\ndata: x\n\n", &["x"]),
            ("event: message_start\ndata: {\"a\":1}\n\n", &["{\"a\":1}"]),
            ("data: not ended", &["not ended"]),
            ("data: not ended\r\n", &["not ended"]),
            ("dat: x\ndatas: y\ndatabase: z\ndata: w\n\n", &["w"]),
            ("1a\r\ndata: after a chunk size\n\n", &["after a chunk size"]),
            ("\n\n\n", &[]),
            ("data: a\n\n{\n  \"b\": 1\r\n}\n\ndata: c\n\n", &["a", "{\n  \"b\": 1\n}", "c"]),
            ("[1]", &["[1]"]),
            ("data: a\n{\n\n", &["a"]),
        ];
        for (stream, expected) in cases {
            let bytes = stream.as_bytes();
            for at in 0..=bytes.len() {
                assert_eq!(events(&[&bytes[..at], &bytes[at..]]), *expected, "{stream:?} split at {at}");
            }
            let single: Vec<&[u8]> = bytes.chunks(1).collect();
            assert_eq!(events(&single), *expected, "{stream:?} byte by byte");
        }
    }

    #[test]
    fn a_gap_costs_the_events_that_it_touches_and_no_more() {
        for end in ["\n", "\r\n", "\r"] {
            let stream = format!("data: a{end}{end}data: b{end}{end}data: c{end}{end}data: d{end}{end}");
            let second = stream.find('b').unwrap();
            let (mut sse, mut out) = (Sse::new(), Collect::default());
            sse.push(&stream.as_bytes()[..second], &mut out);
            sse.gap(&mut out);
            sse.push(&stream.as_bytes()[second + 1..], &mut out);
            sse.end(&mut out);
            assert_eq!(out.events, ["a", "c", "d"], "{end:?}");
        }
    }

    #[test]
    fn half_an_event_behind_a_gap_is_no_event() {
        let (mut sse, mut out) = (Sse::new(), Collect::default());
        sse.push(b"data: a\n\ndata: beg", &mut out);
        sse.gap(&mut out);
        sse.push(b"data: imitation", &mut out);
        sse.end(&mut out);
        assert_eq!(out.events, ["a"]);
    }
}
