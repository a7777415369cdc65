//! AWS's `application/vnd.amazon.eventstream`: messages with a length, headers, a payload and checksums.
//!
//! ```text
//! u32 length of all | u32 length of the headers | u32 CRC of these 8 bytes | headers | payload | u32 CRC of all before
//! header: u8 length of the name, name, u8 type, value
//! ```
//!
//! Numbers are big-endian, checksums are zlib's CRC-32 (Smithy's "Amazon Event Stream" specification; vectors were checked
//! with botocore).

use crc32fast::Hasher;
use memchr::memchr2;

use super::Documents;

/// The two lengths and their checksum.
const PRELUDE_BYTES: usize = 12;

/// A message's own checksum, at its end.
const CHECKSUM_BYTES: u32 = 4;

/// What a message has beside headers and payload.
const FRAME_BYTES: u32 = PRELUDE_BYTES as u32 + CHECKSUM_BYTES;

/// Most bytes of headers that AWS's own clients accept.
const MAX_HEADER_BYTES: u32 = 128 * 1024;

/// The longest payload that they accept. It bounds what a wrong length can hide.
const MAX_PAYLOAD_BYTES: u32 = 24 * 1024 * 1024;

/// The first byte of the length of a message that is as long as may be. Those of others are not larger.
const LARGEST_FIRST_BYTE: u8 = ((FRAME_BYTES + MAX_HEADER_BYTES + MAX_PAYLOAD_BYTES) >> 24) as u8;

const _: () = assert!(LARGEST_FIRST_BYTE == 1, "what is looked for is this byte, or 0");

/// Names of headers that matter are not longer; of longer ones no more is kept than tells them from these.
const NAME_BYTES: usize = 16;

/// Values of headers that matter, names of events and exceptions, are half as long.
const VALUE_BYTES: usize = 64;

/// What a message of an event stream is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MessageKind {
    /// An event of the named type.
    Event,
    /// An exception of the named type, which ends the stream.
    Exception,
    /// An error with the named code that no model of the service knows, which ends the stream.
    Error,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Before a message, or where one is looked for; so many bytes of the window are known.
    Prelude(usize),
    Headers(Header),
    Payload,
    /// So many bytes of the message's checksum have come.
    Checksum(u32),
}

/// What of a header is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Header {
    NameLength,
    Name {
        left: u8,
    },
    Type,
    /// Of a value that says its own length, which has two bytes.
    ValueLength {
        first: Option<u8>,
    },
    Value {
        left: u16,
    },
    /// Headers that make no sense: nothing is read until the payload.
    Unreadable,
}

/// Which header it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Meaning {
    /// `:message-type`.
    Kind,
    /// What event, exception or error it is.
    Name,
    Other,
}

/// Up to `MOST` bytes of a text, and how many there would be.
#[derive(Clone, Copy)]
struct Short<const MOST: usize> {
    bytes: [u8; MOST],
    len: usize,
}

impl<const MOST: usize> Short<MOST> {
    const EMPTY: Self = Self { bytes: [0; MOST], len: 0 };

    fn push(&mut self, bytes: &[u8]) {
        let start = self.len.min(MOST);
        let kept = bytes.len().min(MOST - start);
        self.bytes[start..start + kept].copy_from_slice(&bytes[..kept]);
        self.len += bytes.len();
    }

    /// What is kept; nothing where that is not all.
    fn text(&self) -> &[u8] {
        if self.len <= MOST { &self.bytes[..self.len] } else { b"" }
    }
}

/// Cuts a stream into the payloads of its messages.
///
/// A message whose checksum is wrong is no document. Where bytes are missing, or no message begins where one should, the next
/// one is found by the checksum of its lengths.
#[derive(Clone)]
pub struct EventStream {
    state: State,
    /// The bytes that may be a prelude.
    window: [u8; PRELUDE_BYTES],
    /// The window may lie anywhere: a message is looked for.
    is_lost: bool,
    /// Bytes were missing: framing of what carries the stream may lie between messages.
    had_gap: bool,
    header_left: u32,
    payload_left: u32,
    checksum: Hasher,
    expected: u32,
    meaning: Meaning,
    header_name: Short<NAME_BYTES>,
    value: Short<VALUE_BYTES>,
    kind: MessageKind,
    name: Short<VALUE_BYTES>,
}

impl std::fmt::Debug for EventStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // What is in the window may be anybody's where it lies anywhere.
        f.debug_struct("EventStream")
            .field("state", &self.state)
            .field("is_lost", &self.is_lost)
            .finish_non_exhaustive()
    }
}

impl Default for EventStream {
    fn default() -> Self {
        Self::new()
    }
}

impl EventStream {
    /// At the beginning of a stream.
    pub fn new() -> Self {
        Self {
            state: State::Prelude(0),
            window: [0; PRELUDE_BYTES],
            is_lost: false,
            had_gap: false,
            header_left: 0,
            payload_left: 0,
            checksum: Hasher::new(),
            expected: 0,
            meaning: Meaning::Other,
            header_name: Short::EMPTY,
            value: Short::EMPTY,
            kind: MessageKind::Event,
            name: Short::EMPTY,
        }
    }

    /// The next bytes.
    pub fn push(&mut self, mut bytes: &[u8], out: &mut impl Documents) {
        while !bytes.is_empty() {
            let taken = match self.state {
                State::Prelude(seen) => self.prelude(seen, bytes, out),
                State::Headers(header) => self.headers(header, bytes),
                State::Payload => self.payload(bytes, out),
                State::Checksum(seen) => self.checksum(seen, bytes[0], out),
            };
            bytes = &bytes[taken..];
        }
    }

    /// Some bytes were not seen: the message that they cut is given up, and another is looked for.
    pub fn gap(&mut self, out: &mut impl Documents) {
        out.abort();
        (self.is_lost, self.had_gap) = (true, true);
        self.state = State::Prelude(0);
    }

    /// The stream is over. A message that is not whole is none.
    pub fn end(&mut self, out: &mut impl Documents) {
        match self.state {
            State::Prelude(0) => {}
            // Where one was looked for, what was missed is known to be.
            State::Prelude(_) if self.is_lost || self.had_gap => {}
            _ => out.abort(),
        }
        *self = Self::new();
    }

    /// Fills the window, and once it is full, has a message begin or the window go on to where one may.
    fn prelude(&mut self, seen: usize, bytes: &[u8], out: &mut impl Documents) -> usize {
        if self.is_lost && seen == 0 {
            let Some(run) = memchr2(0, LARGEST_FIRST_BYTE, bytes) else { return bytes.len() };
            if run > 0 {
                return run;
            }
        }
        let taken = bytes.len().min(PRELUDE_BYTES - seen);
        self.window[seen..seen + taken].copy_from_slice(&bytes[..taken]);
        self.state = State::Prelude(seen + taken);
        if seen + taken == PRELUDE_BYTES && !self.begin_message() {
            if !std::mem::replace(&mut self.is_lost, true) && !self.had_gap {
                out.abort();
            }
            let next =
                self.window[1..].iter().position(|byte| *byte <= LARGEST_FIRST_BYTE).map_or(PRELUDE_BYTES, |at| at + 1);
            self.window.copy_within(next.., 0);
            self.state = State::Prelude(PRELUDE_BYTES - next);
        }
        taken
    }

    /// Returns whether a message begins with the window.
    fn begin_message(&mut self) -> bool {
        let number = |at: usize| u32::from_be_bytes([0, 1, 2, 3].map(|byte| self.window[at + byte]));
        let (all, headers) = (number(0), number(4));
        let payload = all.checked_sub(FRAME_BYTES).and_then(|rest| rest.checked_sub(headers));
        let Some(payload) = payload.filter(|payload| *payload <= MAX_PAYLOAD_BYTES) else { return false };
        if headers > MAX_HEADER_BYTES || crc32fast::hash(&self.window[..8]) != number(8) {
            return false;
        }
        self.is_lost = false;
        self.checksum = Hasher::new();
        self.checksum.update(&self.window);
        (self.header_left, self.payload_left) = (headers, payload);
        (self.kind, self.name, self.expected) = (MessageKind::Event, Short::EMPTY, 0);
        self.go_on(Header::NameLength);
        true
    }

    /// Goes on to a part of the headers, or what follows them where there are no more.
    fn go_on(&mut self, header: Header) {
        self.state = match (self.header_left, self.payload_left) {
            (1.., _) => State::Headers(header),
            (0, 1..) => State::Payload,
            (0, 0) => State::Checksum(0),
        };
    }

    fn headers(&mut self, header: Header, bytes: &[u8]) -> usize {
        let left = usize::try_from(self.header_left).unwrap_or(usize::MAX);
        let bytes = &bytes[..bytes.len().min(left)];
        let byte = bytes[0];
        let (taken, next) = match header {
            Header::NameLength => {
                self.header_name = Short::EMPTY;
                (1, if byte == 0 { Header::Unreadable } else { Header::Name { left: byte } })
            }
            Header::Name { left } => {
                let taken = bytes.len().min(left.into());
                self.header_name.push(&bytes[..taken]);
                let left = left - taken as u8;
                (taken, if left > 0 { Header::Name { left } } else { Header::Type })
            }
            Header::Type => (1, self.value_of(byte)),
            Header::ValueLength { first: None } => (1, Header::ValueLength { first: Some(byte) }),
            Header::ValueLength { first: Some(first) } => {
                let left = u16::from_be_bytes([first, byte]);
                if left == 0 {
                    self.end_value();
                }
                (1, Header::value(left))
            }
            Header::Value { left } => {
                let taken = bytes.len().min(left.into());
                if self.meaning != Meaning::Other {
                    self.value.push(&bytes[..taken]);
                }
                let left = left - taken as u16;
                if left == 0 {
                    self.end_value();
                }
                (taken, Header::value(left))
            }
            Header::Unreadable => (bytes.len(), Header::Unreadable),
        };
        self.checksum.update(&bytes[..taken]);
        self.header_left -= taken as u32;
        self.go_on(next);
        taken
    }

    /// What follows a header's type.
    fn value_of(&mut self, kind: u8) -> Header {
        const TEXT: u8 = 7;
        self.value = Short::EMPTY;
        self.meaning = match self.header_name.text() {
            b":message-type" if kind == TEXT => Meaning::Kind,
            b":event-type" | b":exception-type" | b":error-code" if kind == TEXT => Meaning::Name,
            _ => Meaning::Other,
        };
        match kind {
            // True and false have no value, numbers of four sizes, bytes and text say how long they are, then a time and a UUID.
            0 | 1 => Header::NameLength,
            2 => Header::Value { left: 1 },
            3 => Header::Value { left: 2 },
            4 => Header::Value { left: 4 },
            5 | 8 => Header::Value { left: 8 },
            6 | TEXT => Header::ValueLength { first: None },
            9 => Header::Value { left: 16 },
            _ => Header::Unreadable,
        }
    }

    fn end_value(&mut self) {
        match (self.meaning, self.value.text()) {
            (Meaning::Kind, b"exception") => self.kind = MessageKind::Exception,
            (Meaning::Kind, b"error") => self.kind = MessageKind::Error,
            (Meaning::Name, _) => self.name = self.value,
            _ => {}
        }
    }

    fn payload(&mut self, bytes: &[u8], out: &mut impl Documents) -> usize {
        let left = usize::try_from(self.payload_left).unwrap_or(usize::MAX);
        let bytes = &bytes[..bytes.len().min(left)];
        self.checksum.update(bytes);
        self.payload_left -= bytes.len() as u32;
        out.bytes(bytes);
        self.go_on(Header::NameLength);
        bytes.len()
    }

    fn checksum(&mut self, seen: u32, byte: u8, out: &mut impl Documents) -> usize {
        self.expected = self.expected << 8 | u32::from(byte);
        if seen + 1 < CHECKSUM_BYTES {
            self.state = State::Checksum(seen + 1);
            return 1;
        }
        self.state = State::Prelude(0);
        if self.checksum.clone().finalize() == self.expected {
            out.named(self.kind, self.name.text());
            out.end();
        } else {
            out.abort();
        }
        1
    }
}

impl Header {
    /// In a value of which so much is to come.
    fn value(left: u16) -> Self {
        if left > 0 { Self::Value { left } } else { Self::NameLength }
    }
}

#[cfg(test)]
mod tests {
    use aws_smithy_eventstream::frame::write_message_to;
    use aws_smithy_types::event_stream::{Header as SmithyHeader, HeaderValue, Message};
    use proptest::prelude::*;

    use super::super::{Documents, Embedded};
    use super::{EventStream, MAX_HEADER_BYTES, MAX_PAYLOAD_BYTES, MessageKind};

    /// Of wire captures: checked with botocore.
    const VECTOR: &str = "0000009400000057b4ab9aee0b3a6576656e742d74797065070011636f6e74656e74426c6f636b44656c7461\
        0d3a636f6e74656e742d747970650700106170706c69636174696f6e2f6a736f6e0d3a6d6573736167652d74\
        7970650700056576656e747b22636f6e74656e74426c6f636b496e646578223a302c2264656c7461223a7b22\
        74657874223a224869227d7d1f944657";

    type Said = (MessageKind, String, Vec<u8>);

    #[derive(Default)]
    struct Collect {
        name: Option<(MessageKind, String)>,
        current: Vec<u8>,
        messages: Vec<Said>,
        aborted: usize,
    }

    impl Documents for Collect {
        fn bytes(&mut self, bytes: &[u8]) {
            self.current.extend_from_slice(bytes);
        }

        fn named(&mut self, kind: MessageKind, name: &[u8]) {
            self.name = Some((kind, String::from_utf8_lossy(name).into()));
        }

        fn end(&mut self) {
            let (kind, name) = self.name.take().unwrap();
            self.messages.push((kind, name, std::mem::take(&mut self.current)));
        }

        fn abort(&mut self) {
            self.current.clear();
            self.aborted += 1;
        }
    }

    fn read(pieces: &[&[u8]]) -> Collect {
        let (mut stream, mut out) = (EventStream::new(), Collect::default());
        for piece in pieces {
            stream.push(piece, &mut out);
        }
        stream.end(&mut out);
        out
    }

    /// A message by AWS's own encoder.
    fn message(headers: &[(&str, HeaderValue)], payload: &[u8]) -> Vec<u8> {
        let mut message = Message::new(payload.to_vec());
        for (name, value) in headers {
            message = message.add_header(SmithyHeader::new((*name).to_owned(), value.clone()));
        }
        let mut bytes = Vec::new();
        write_message_to(&message, &mut bytes).unwrap();
        bytes
    }

    fn text(value: &str) -> HeaderValue {
        HeaderValue::String(value.to_owned().into())
    }

    fn event(name: &str, payload: &str) -> Vec<u8> {
        let json = text("application/json");
        let headers = [(":event-type", text(name)), (":content-type", json), (":message-type", text("event"))];
        message(&headers, payload.as_bytes())
    }

    fn said(kind: MessageKind, name: &str, payload: &str) -> Said {
        (kind, name.to_owned(), payload.as_bytes().to_vec())
    }

    fn bytes_of(hex: &str) -> Vec<u8> {
        let digits: Vec<u8> = hex.bytes().filter_map(|digit| char::from(digit).to_digit(16)).map(|d| d as u8).collect();
        digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
    }

    #[test]
    fn messages_at_every_split() {
        let every_type = [
            ("a", HeaderValue::Bool(true)),
            ("b", HeaderValue::Bool(false)),
            ("c", HeaderValue::Byte(-1)),
            ("d", HeaderValue::Int16(2)),
            ("e", HeaderValue::Int32(3)),
            ("f", HeaderValue::Int64(4)),
            ("g", HeaderValue::ByteArray(b"\0\0\0\x10".to_vec().into())),
            ("h", HeaderValue::Timestamp(aws_smithy_types::DateTime::from_secs(5))),
            ("i", HeaderValue::Uuid(6)),
            ("j", text("")),
            (":event-type", HeaderValue::Int32(7)),
            (":message-type", text("event")),
            (":event-type", text("late")),
            ("a name that is longer than any that matters, and begins with none", text("x")),
        ];
        let exception =
            [(":message-type", text("exception")), (":exception-type", text("throttlingException")), ("x", text("y"))];
        let error = [(":message-type", text("error")), (":error-code", text("InternalFailure"))];
        let long = "n".repeat(100);
        let stream = [
            event("messageStart", r#"{"role":"assistant"}"#),
            bytes_of(VECTOR),
            event("ping", ""),
            message(&every_type, b"{}"),
            message(&[], b"[]"),
            message(&[], b""),
            event(&long, "x"),
            message(&exception, br#"{"message":"slow down"}"#),
            message(&error, b""),
        ];
        let expected = [
            said(MessageKind::Event, "messageStart", r#"{"role":"assistant"}"#),
            said(MessageKind::Event, "contentBlockDelta", r#"{"contentBlockIndex":0,"delta":{"text":"Hi"}}"#),
            said(MessageKind::Event, "ping", ""),
            said(MessageKind::Event, "late", "{}"),
            said(MessageKind::Event, "", "[]"),
            said(MessageKind::Event, "", ""),
            said(MessageKind::Event, "", "x"),
            said(MessageKind::Exception, "throttlingException", r#"{"message":"slow down"}"#),
            said(MessageKind::Error, "InternalFailure", ""),
        ];
        let bytes = stream.concat();
        for at in 0..=bytes.len() {
            let out = read(&[&bytes[..at], &bytes[at..]]);
            assert_eq!((out.messages, out.aborted), (expected.to_vec(), 0), "split at {at}");
        }
        let single: Vec<&[u8]> = bytes.chunks(1).collect();
        assert_eq!(read(&single).messages, expected);
    }

    #[test]
    fn a_message_with_any_byte_changed_is_none_and_the_next_is_found() {
        let [first, second, third] = ["one", "two", "three"].map(|name| event(name, r#"{"delta":{"text":"x"}}"#));
        for at in 0..second.len() {
            for bit in [1, 0x80] {
                let mut changed = second.clone();
                changed[at] ^= bit;
                let stream = [&first[..], &changed, &third].concat();
                let out = read(&[&stream]);
                let names: Vec<&str> = out.messages.iter().map(|(_, name, _)| name.as_str()).collect();
                assert_eq!((names, out.aborted), (vec!["one", "three"], 1), "byte {at}");
            }
        }
    }

    #[test]
    fn what_is_no_message_is_passed_over_and_counts_once() {
        let [first, second] = ["one", "two"].map(|name| event(name, "{}"));
        for junk in [&b"\r\n94\r\n"[..], b"x", &[0; 100], &[0xff; 12], b"data: {}\n\n"] {
            let stream = [&first[..], junk, &second].concat();
            for at in 0..=stream.len() {
                let out = read(&[&stream[..at], &stream[at..]]);
                assert_eq!((out.messages.len(), out.aborted), (2, 1), "{junk:?} split at {at}");
            }
        }
        // Chunk framing that is no longer told apart.
        let (mut stream, mut out) = (EventStream::new(), Collect::default());
        stream.push(&first[..10], &mut out);
        stream.gap(&mut out);
        let rest = [b"x\r\n", &b"7a\r\n"[..], &first, b"\r\n7a\r\n", &second, b"\r\n0\r\n\r\n"].concat();
        stream.push(&rest, &mut out);
        stream.end(&mut out);
        assert_eq!((out.messages.len(), out.aborted), (2, 1));
        let out = read(&[&first, b"\0\0"]);
        assert_eq!((out.messages.len(), out.aborted), (1, 1), "cut within the lengths");
    }

    #[test]
    fn lengths_beyond_all_that_is_sent_are_not_believed() {
        let prelude = |all: u32, headers: u32| {
            let lengths = [all.to_be_bytes(), headers.to_be_bytes()].concat();
            [&lengths[..], &crc32fast::hash(&lengths).to_be_bytes()].concat()
        };
        let next = event("next", "{}");
        let lying = [
            (0, 0),
            (15, 0),
            (16, 1),
            (u32::MAX, 0),
            (u32::MAX, u32::MAX),
            (MAX_PAYLOAD_BYTES + 17, 0),
            (MAX_HEADER_BYTES + 17, MAX_HEADER_BYTES + 1),
        ];
        for (all, headers) in lying {
            let out = read(&[&prelude(all, headers), &next]);
            assert_eq!((out.messages.len(), out.aborted), (1, 1), "{all} {headers}");
        }
        // One that is as long as may be, and never comes, is no message.
        let out = read(&[&prelude(MAX_PAYLOAD_BYTES + 16, 0), &next]);
        assert_eq!((out.messages.len(), out.aborted), (0, 1));
    }

    #[test]
    fn nothing_of_a_stream_shows_in_what_is_printed() {
        let canary = event("CANARY", r#"{"delta":{"text":"CANARY"}}"#);
        let (mut stream, mut out) = (EventStream::new(), Collect::default());
        for byte in &canary {
            stream.push(&[*byte], &mut out);
            assert!(!format!("{stream:?}").contains("CANARY"));
        }
    }

    const EMBEDDED: [(&str, Option<&str>); 18] = [
        (r#"{"bytes":"eyJ0eXBlIjoieCJ9","p":"abc"}"#, Some(r#"{"type":"x"}"#)),
        (r#" { "p" : "abc" , "bytes" : "eyJ0eXBlIjoieCJ9" } "#, Some(r#"{"type":"x"}"#)),
        (r#"{"bytes":"YQ=="}"#, Some("a")),
        (r#"{"bytes":"YQ"}"#, Some("a")),
        (r#"{"bytes":"YQ\u003d\u003D"}"#, Some("a")),
        (r#"{"bytes":"YWI="}"#, Some("ab")),
        (r#"{"bytes":"Pz8\/"}"#, Some("???")),
        (r#"{"bytes":"Pz8_"}"#, Some("???")),
        (r#"{"\u0062ytes":"YQ"}"#, Some("a")),
        (r#"{"bytes":""}"#, Some("")),
        // Values and members of others that have the name.
        (r#"{"p":"bytes","q":"YQ"}"#, Some("")),
        (r#"{"p":{"bytes":"YQ"},"q":["bytes"]}"#, Some("")),
        (r#"{"bytesx":"YQ","byte":"YQ","\bytes":"YQ"}"#, Some("")),
        (r#"{"message":"slow down"}"#, Some("")),
        ("", Some("")),
        // What is no base64.
        (r#"{"bytes":"Y"}"#, None),
        (r#"{"bytes":"Y!=="}"#, None),
        (r#"{"bytes":"YQ==YQ"}"#, None),
    ];

    #[test]
    fn embedded_documents_at_every_split() {
        for (outer, inner) in EMBEDDED {
            for at in 0..=outer.len() {
                let mut embedded = Embedded::default();
                let mut out = Collect { name: Some((MessageKind::Event, String::new())), ..Collect::default() };
                let mut within = embedded.within(&mut out);
                within.bytes(&outer.as_bytes()[..at]);
                within.bytes(&outer.as_bytes()[at..]);
                within.end();
                drop(within);
                let found = out.messages.first().map(|(_, _, document)| String::from_utf8(document.clone()).unwrap());
                assert_eq!(found.as_deref(), inner, "{outer} split at {at}");
            }
        }
    }

    fn any_message() -> impl Strategy<Value = (MessageKind, String, Vec<u8>)> {
        let kind = prop::sample::select(vec![MessageKind::Event, MessageKind::Exception, MessageKind::Error]);
        (kind, "[a-zA-Z]{1,40}", prop::collection::vec(any::<u8>(), 0..300))
    }

    fn encode((kind, name, payload): &Said) -> Vec<u8> {
        let (kind, header) = match kind {
            MessageKind::Event => ("event", ":event-type"),
            MessageKind::Exception => ("exception", ":exception-type"),
            MessageKind::Error => ("error", ":error-code"),
        };
        message(&[(":message-type", text(kind)), (header, text(name)), ("trace", HeaderValue::Int64(9))], payload)
    }

    proptest! {
        #[test]
        fn what_aws_encodes_is_read_however_it_is_cut(
            messages in prop::collection::vec(any_message(), 0..6),
            sizes in prop::collection::vec(1..200_usize, 1..8),
        ) {
            let bytes = messages.iter().flat_map(encode).collect::<Vec<u8>>();
            let (mut rest, mut pieces, mut sizes) = (&bytes[..], Vec::new(), sizes.iter().cycle());
            while !rest.is_empty() {
                let (piece, more) = rest.split_at((*sizes.next().unwrap()).min(rest.len()));
                pieces.push(piece);
                rest = more;
            }
            let out = read(&pieces);
            prop_assert_eq!((out.messages, out.aborted), (messages, 0));
        }

        #[test]
        fn a_gap_costs_the_messages_that_it_touches_and_no_more(
            messages in prop::collection::vec(any_message(), 1..6),
            from in 0.0..1.0,
            length in 0.0..1.0,
        ) {
            let encoded: Vec<Vec<u8>> = messages.iter().map(encode).collect();
            let bytes = encoded.concat();
            let from = (bytes.len() as f64 * from) as usize;
            let to = (from + 1 + ((bytes.len() - from) as f64 * length) as usize).min(bytes.len());
            let mut begins = 0;
            let mut expected = Vec::new();
            for (message, encoded) in messages.iter().zip(&encoded) {
                let ends = begins + encoded.len();
                if ends <= from || begins >= to {
                    expected.push(message.clone());
                }
                begins = ends;
            }
            let (mut stream, mut out) = (EventStream::new(), Collect::default());
            stream.push(&bytes[..from], &mut out);
            stream.gap(&mut out);
            stream.push(&bytes[to..], &mut out);
            stream.end(&mut out);
            prop_assert_eq!((out.messages, out.aborted), (expected, 1));
        }
    }
}
