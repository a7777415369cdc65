//! gRPC's messages in the body of an HTTP/2 stream (grpc/doc/PROTOCOL-HTTP2.md).
//!
//! ```text
//! u8 whether it is compressed | u32 length | message
//! ```

use super::Documents;
use crate::body::{BodyDecoder, Coding};

/// What stands before a message.
const PREFIX_BYTES: usize = 5;

/// Decoded bytes of one body, as of one that is compressed as a whole: messages are small, and many small bombs are no better
/// than a large one.
const MAX_DECODED: u64 = BodyDecoder::MAX_OUTPUT;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Before a message; so many bytes of what stands before it have come.
    Prefix([u8; PREFIX_BYTES], usize),
    /// In one; so many bytes are to come.
    Message { left: u32, how: How },
    /// Where the next one begins is not known.
    Lost,
    /// This is something else.
    Broken,
}

/// How a message is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum How {
    Plain,
    Compressed,
    /// Not at all: it was given up.
    Not,
}

const BETWEEN: State = State::Prefix([0; PREFIX_BYTES], 0);

/// Cuts a body into messages, freed from their compression.
///
/// Each is compressed by itself, or not. Where bytes are missing, and it is known how many, the messages behind them are read
/// on; otherwise one is looked for at the beginning of each later piece, where senders have them, and believed if nothing but
/// whole messages are in that piece.
#[derive(Debug)]
pub struct Grpc {
    coding: Coding,
    state: State,
    /// Of the current message.
    decoder: Option<Box<BodyDecoder>>,
    decoded: u64,
}

impl Grpc {
    /// At the beginning of a body whose head names this coding (`grpc-encoding`).
    pub fn new(coding: Coding) -> Self {
        Self { coding, state: BETWEEN, decoder: None, decoded: 0 }
    }

    /// Memory that it holds beyond its own size, in bytes.
    pub fn memory(&self) -> usize {
        self.decoder.as_ref().map_or(0, |decoder| size_of::<BodyDecoder>() + decoder.memory())
    }

    /// Lets go of what it holds: a compressed message that is under way is given up. Returns whether there was one.
    pub fn shed(&mut self, out: &mut impl Documents) -> bool {
        let has_decoder = self.decoder.take().is_some();
        if let State::Message { left, .. } = self.state
            && has_decoder
        {
            self.state = State::Message { left, how: How::Not };
            out.abort();
        }
        has_decoder
    }

    /// The next bytes.
    pub fn push(&mut self, mut bytes: &[u8], out: &mut impl Documents) {
        if self.state == State::Lost && is_whole_messages(bytes) {
            self.state = BETWEEN;
        }
        while !bytes.is_empty() {
            let taken = match self.state {
                State::Prefix(prefix, seen) => self.prefix(prefix, seen, bytes, out),
                State::Message { left, how } => self.message(left, how, bytes, out),
                State::Lost | State::Broken => return,
            };
            bytes = &bytes[taken..];
        }
    }

    /// Bytes were not seen, so many if that is known.
    pub fn gap(&mut self, len: Option<u64>, out: &mut impl Documents) {
        match (self.state, len.and_then(|len| u32::try_from(len).ok())) {
            (State::Message { left, how }, Some(len)) if len <= left => {
                let left = left - len;
                let is_read_on = how == How::Plain && left > 0 && out.missing(len.into());
                if !is_read_on && how != How::Not {
                    self.decoder = None;
                    out.abort();
                }
                self.state = match (left, is_read_on) {
                    (0, _) => BETWEEN,
                    (left, true) => State::Message { left, how },
                    (left, false) => State::Message { left, how: How::Not },
                };
            }
            (state, _) => {
                self.decoder = None;
                self.state = State::Lost;
                if !matches!(state, State::Message { how: How::Not, .. }) {
                    out.abort();
                }
            }
        }
    }

    /// The body is over. A message that is not whole is none.
    pub fn end(&mut self, out: &mut impl Documents) {
        self.decoder = None;
        match std::mem::replace(&mut self.state, BETWEEN) {
            BETWEEN | State::Message { how: How::Not, .. } | State::Lost | State::Broken => {}
            State::Prefix(..) | State::Message { .. } => out.abort(),
        }
    }

    fn prefix(&mut self, mut prefix: [u8; PREFIX_BYTES], seen: usize, bytes: &[u8], out: &mut impl Documents) -> usize {
        let taken = bytes.len().min(PREFIX_BYTES - seen);
        prefix[seen..seen + taken].copy_from_slice(&bytes[..taken]);
        self.state = State::Prefix(prefix, seen + taken);
        if seen + taken < PREFIX_BYTES {
            return taken;
        }
        let (flag, left) = read_prefix(prefix);
        let how = match flag {
            0 => How::Plain,
            1 => How::Compressed,
            _ => {
                self.state = State::Broken;
                out.abort();
                return taken;
            }
        };
        if how == How::Compressed {
            // Said to be compressed in no way is an error, and no plain message either.
            let coding = if self.coding == Coding::Identity { Coding::Unknown } else { self.coding };
            self.decoder = Some(Box::new(BodyDecoder::new(coding)));
        }
        self.state = State::Message { left, how };
        if left == 0 {
            self.message(0, how, &[], out);
        }
        taken
    }

    /// Takes what there is of the current message.
    fn message(&mut self, left: u32, how: How, bytes: &[u8], out: &mut impl Documents) -> usize {
        let taken = usize::try_from(left).map_or(bytes.len(), |left| left.min(bytes.len()));
        let left = left - taken as u32;
        let (bytes, mut how) = (&bytes[..taken], how);
        match how {
            How::Plain if !bytes.is_empty() => out.bytes(bytes),
            How::Compressed if !self.decompress(bytes, left == 0, out) => {
                self.decoder = None;
                out.abort();
                how = How::Not;
            }
            _ => {}
        }
        self.state = State::Message { left, how };
        if left == 0 {
            self.decoder = None;
            self.state = BETWEEN;
            if how != How::Not {
                out.end();
            }
        }
        taken
    }

    /// Returns whether it could be.
    fn decompress(&mut self, bytes: &[u8], is_last: bool, out: &mut impl Documents) -> bool {
        let Self { decoder: Some(decoder), decoded, .. } = self else { return false };
        let mut hand_on = |bytes: &[u8]| {
            *decoded += bytes.len() as u64;
            out.bytes(bytes);
        };
        // A message without a byte may be sent as nothing at all.
        let result = decoder.push(bytes, &mut hand_on);
        let result = if is_last { result.and_then(|()| decoder.end(&mut hand_on)) } else { result };
        result.is_ok() && self.decoded <= MAX_DECODED
    }
}

/// Whether it is compressed, and its length.
fn read_prefix([flag, length @ ..]: [u8; PREFIX_BYTES]) -> (u8, u32) {
    (flag, u32::from_be_bytes(length))
}

/// Whether a piece is nothing but whole messages.
fn is_whole_messages(piece: &[u8]) -> bool {
    let mut rest = piece;
    let mut has_content = false;
    while let Some((prefix, behind)) = rest.split_first_chunk() {
        let (flag, length) = read_prefix(*prefix);
        let Some(behind) = usize::try_from(length).ok().and_then(|length| behind.get(length..)) else { return false };
        if flag > 1 {
            return false;
        }
        has_content |= length > 0;
        rest = behind;
    }
    rest.is_empty() && has_content
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::{GzEncoder, ZlibEncoder};
    use proptest::prelude::*;

    use super::super::Documents;
    use super::{Coding, Grpc, MAX_DECODED};

    #[derive(Default)]
    struct Collect {
        current: Vec<u8>,
        messages: Vec<Vec<u8>>,
        aborted: usize,
        reads_on: bool,
        /// Bytes that were missing within messages.
        missing: u64,
        only_counts: bool,
        most: u64,
    }

    impl Documents for Collect {
        fn bytes(&mut self, bytes: &[u8]) {
            self.most += bytes.len() as u64;
            if !self.only_counts {
                self.current.extend_from_slice(bytes);
            }
        }

        fn missing(&mut self, len: u64) -> bool {
            self.missing += if self.reads_on { len } else { 0 };
            self.reads_on
        }

        fn end(&mut self) {
            self.messages.push(std::mem::take(&mut self.current));
        }

        fn abort(&mut self) {
            self.current.clear();
            self.aborted += 1;
        }
    }

    fn compress(coding: Coding, message: &[u8]) -> Vec<u8> {
        let level = Compression::default();
        match coding {
            Coding::Gzip => {
                let mut encoder = GzEncoder::new(Vec::new(), level);
                encoder.write_all(message).unwrap();
                encoder.finish().unwrap()
            }
            Coding::Deflate => {
                let mut encoder = ZlibEncoder::new(Vec::new(), level);
                encoder.write_all(message).unwrap();
                encoder.finish().unwrap()
            }
            Coding::Zstd => zstd::encode_all(message, 3).unwrap(),
            _ => message.to_vec(),
        }
    }

    fn frame(flag: u8, message: &[u8]) -> Vec<u8> {
        [&[flag], &(message.len() as u32).to_be_bytes()[..], message].concat()
    }

    fn read(coding: Coding, pieces: &[&[u8]]) -> (Vec<Vec<u8>>, usize) {
        let (mut grpc, mut out) = (Grpc::new(coding), Collect::default());
        for piece in pieces {
            grpc.push(piece, &mut out);
        }
        grpc.end(&mut out);
        assert_eq!(grpc.memory(), 0);
        (out.messages, out.aborted)
    }

    const CODINGS: [Coding; 4] = [Coding::Identity, Coding::Gzip, Coding::Deflate, Coding::Zstd];

    #[test]
    fn messages_at_every_split() {
        let messages = [&b"one"[..], b"", &[7; 300], b"\x1f\x8b\x08 which is not compressed", b"\0\0\0\0\x01x"];
        for coding in CODINGS {
            let is_compressed = coding != Coding::Identity;
            for mixed in [false, true] {
                let frames = messages.iter().enumerate().map(|(number, message)| match is_compressed {
                    true if !mixed || number % 2 == 0 => frame(1, &compress(coding, message)),
                    _ => frame(0, message),
                });
                let bytes = frames.collect::<Vec<_>>().concat();
                for at in 0..=bytes.len() {
                    let found = read(coding, &[&bytes[..at], &bytes[at..]]);
                    assert_eq!(found, (messages.map(<[u8]>::to_vec).to_vec(), 0), "{coding:?} split at {at}");
                }
                let single: Vec<&[u8]> = bytes.chunks(1).collect();
                assert_eq!(read(coding, &single).0, messages);
            }
        }
    }

    #[test]
    fn what_cannot_be_read_is_given_up_and_counted_once() {
        let fine = frame(0, b"fine");
        let cases: &[(&str, Coding, Vec<u8>, usize, usize)] = &[
            ("compressed, and nobody says how", Coding::Identity, [frame(1, b"xyz"), fine.clone()].concat(), 1, 1),
            ("compressed in a way that is not known", Coding::Unknown, [frame(1, b"xyz"), fine.clone()].concat(), 1, 1),
            ("not what it says", Coding::Gzip, [frame(1, b"xyz"), fine.clone()].concat(), 1, 1),
            ("nothing where something is compressed", Coding::Gzip, [frame(1, b""), fine.clone()].concat(), 2, 0),
            (
                "a compressed message that stops short",
                Coding::Gzip,
                [frame(1, &compress(Coding::Gzip, b"hello")[..12]), fine.clone()].concat(),
                1,
                1,
            ),
            ("no such flag", Coding::Gzip, [frame(2, b"xyz"), fine.clone()].concat(), 0, 1),
            ("text", Coding::Identity, b"<html>".to_vec(), 0, 1),
            ("cut in a message", Coding::Identity, [&fine[..], &fine[..7]].concat(), 1, 1),
            ("cut before one", Coding::Identity, [&fine[..], &fine[..3]].concat(), 1, 1),
            ("longer than all that comes", Coding::Identity, [0, 255, 255, 255, 255, 1].to_vec(), 0, 1),
        ];
        for (name, coding, bytes, messages, aborted) in cases {
            let (found, given_up) = read(*coding, &[bytes]);
            assert_eq!((found.len(), given_up), (*messages, *aborted), "{name}");
            let single: Vec<&[u8]> = bytes.chunks(1).collect();
            let (found, given_up) = read(*coding, &single);
            assert_eq!((found.len(), given_up), (*messages, *aborted), "{name}, byte by byte");
        }
    }

    #[test]
    fn many_bombs_are_no_better_than_one() {
        let bomb = frame(1, &compress(Coding::Gzip, &vec![0; 8 << 20]));
        let (mut grpc, mut out) = (Grpc::new(Coding::Gzip), Collect { only_counts: true, ..Collect::default() });
        let mut most_memory = 0;
        for _ in 0..20 {
            for piece in bomb.chunks(1000) {
                grpc.push(piece, &mut out);
                most_memory = most_memory.max(grpc.memory());
            }
        }
        assert_eq!((out.messages.len() as u64, out.aborted), (MAX_DECODED >> 23, 20 - (MAX_DECODED as usize >> 23)));
        assert!(out.most < MAX_DECODED + (13 << 20) && most_memory < 128 * 1024, "{} {most_memory}", out.most);
    }

    #[test]
    fn shedding_costs_the_compressed_message_that_is_under_way() {
        let message = frame(1, &compress(Coding::Gzip, &[1; 100]));
        let (mut grpc, mut out) = (Grpc::new(Coding::Gzip), Collect::default());
        grpc.push(&message[..10], &mut out);
        assert!(grpc.memory() > 0);
        assert!(grpc.shed(&mut out));
        assert_eq!((grpc.memory(), out.aborted), (0, 1));
        grpc.push(&message[10..], &mut out);
        grpc.push(&message, &mut out);
        assert!(!grpc.shed(&mut out));
        grpc.end(&mut out);
        assert_eq!((out.messages.len(), out.aborted), (1, 1));
    }

    #[test]
    fn behind_a_gap_of_unknown_length_only_whole_messages_are_believed() {
        let [one, two, three] = ["one", "two", "three"].map(|text| frame(0, text.as_bytes()));
        let (mut grpc, mut out) = (Grpc::new(Coding::Identity), Collect::default());
        grpc.push(&[&one[..], &two[..6]].concat(), &mut out);
        grpc.gap(None, &mut out);
        for piece in [&b"wo"[..], &two[..7], &[&two[..], b"\0"].concat(), &[0; 10], &[]] {
            grpc.push(piece, &mut out);
        }
        grpc.push(&[&two[..], &three].concat(), &mut out);
        grpc.push(&one[..4], &mut out);
        grpc.push(&one[4..], &mut out);
        grpc.end(&mut out);
        assert_eq!(out.messages, [&b"one"[..], b"two", b"three", b"one"]);
        assert_eq!(out.aborted, 1);
    }

    fn message() -> impl Strategy<Value = (bool, Vec<u8>)> {
        (any::<bool>(), prop::collection::vec(any::<u8>(), 0..100))
    }

    proptest! {
        #[test]
        fn a_gap_of_known_length_costs_the_messages_that_it_touches(
            coding in prop::sample::select(&CODINGS[1..]),
            messages in prop::collection::vec(message(), 1..6),
            which in any::<prop::sample::Index>(),
            from in 0.0..1.0,
            length in 0.0..1.0,
            reads_on in any::<bool>(),
        ) {
            let frames: Vec<Vec<u8>> = messages
                .iter()
                .map(|(is_compressed, message)| match is_compressed {
                    true => frame(1, &compress(coding, message)),
                    false => frame(0, message),
                })
                .collect();
            let which = which.index(frames.len());
            let hurt = &frames[which];
            let from = 5 + ((hurt.len() - 5) as f64 * from) as usize;
            let to = from + ((hurt.len() - from) as f64 * length) as usize;
            let (mut grpc, mut out) = (Grpc::new(coding), Collect { reads_on, ..Collect::default() });
            frames[..which].iter().for_each(|frame| grpc.push(frame, &mut out));
            grpc.push(&hurt[..from], &mut out);
            if to > from {
                grpc.gap(Some((to - from) as u64), &mut out);
            }
            grpc.push(&hurt[to..], &mut out);
            frames[which + 1..].iter().for_each(|frame| grpc.push(frame, &mut out));
            grpc.end(&mut out);
            let mut expected: Vec<Vec<u8>> = messages.iter().map(|(_, message)| message.clone()).collect();
            let (is_compressed, message) = &messages[which];
            if to > from && reads_on && !is_compressed && to < hurt.len() {
                prop_assert_eq!(out.missing, (to - from) as u64);
                expected[which] = [&message[..from - 5], &message[to - 5..]].concat();
            } else if to > from {
                expected.remove(which);
            }
            prop_assert_eq!(out.aborted, messages.len() - expected.len());
            prop_assert_eq!(out.messages, expected);
        }
    }
}
