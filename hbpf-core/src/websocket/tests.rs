//! Connections made by independent encoders, whole, split, cut and with holes.

use flate2::{Compress, Compression, FlushCompress};
use proptest::prelude::*;
use tungstenite::protocol::frame::Frame;
use tungstenite::protocol::frame::coding::{Control, Data, OpCode};

use super::{Deflate, Extensions, SocketSink, WebSocket};
use crate::http1::Side;
use crate::time::Nanos;

/// What was reported of one message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Seen {
    text: Vec<u8>,
    /// Bytes on the wire that were missed.
    missed: u64,
    is_broken: bool,
    /// Its payload on the wire.
    len: Option<u64>,
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Log {
    /// By side.
    messages: [Vec<Seen>; 2],
    lost: u64,
    closed: [bool; 2],
    desyncs: usize,
}

impl Log {
    fn last(&mut self, side: Side) -> &mut Seen {
        let seen = self.messages[side as usize].last_mut().expect("a message has begun");
        assert_eq!(seen.len, None, "it has not ended");
        seen
    }

    fn texts(&self, side: Side) -> Vec<&[u8]> {
        let whole = self.messages[side as usize].iter().filter(|seen| !seen.is_broken && seen.len.is_some());
        whole.map(|seen| &seen.text[..]).collect()
    }
}

impl SocketSink for Log {
    fn message_begins(&mut self, side: Side, _: Nanos) {
        self.messages[side as usize].push(Seen::default());
    }
    fn message_bytes(&mut self, side: Side, bytes: &[u8]) {
        let seen = self.last(side);
        assert!(!seen.is_broken);
        seen.text.extend_from_slice(bytes);
    }
    fn message_broken(&mut self, side: Side, len: u64, _: bool) {
        let seen = self.last(side);
        seen.is_broken = true;
        seen.missed += len;
    }
    fn message_ends(&mut self, side: Side, _: Nanos, len: u64) {
        self.last(side).len = Some(len);
    }
    fn lost(&mut self, _: Side, len: u64) {
        self.lost = self.lost.saturating_add(len);
    }
    fn closed(&mut self, side: Side, _: Nanos) {
        assert!(!self.closed[side as usize], "once");
        self.closed[side as usize] = true;
    }
    fn desync(&mut self, _: Side) {
        self.desyncs += 1;
    }
}

/// One side's sender.
struct Sender {
    side: Side,
    deflate: Option<Compress>,
    has_context: bool,
    masks: u32,
}

impl Sender {
    fn new(side: Side, extensions: Extensions) -> Self {
        let has_context = extensions.deflate.is_some_and(|deflate| match side {
            Side::Request => !deflate.client_no_context_takeover,
            Side::Response => !deflate.server_no_context_takeover,
        });
        let deflate = extensions.deflate.map(|_| Compress::new(Compression::default(), false));
        Self { side, deflate, has_context, masks: 1 }
    }

    fn frame(&mut self, mut frame: Frame) -> Vec<u8> {
        if self.side == Side::Request {
            self.masks = self.masks.wrapping_mul(0x9e37_79b1);
            frame.header_mut().mask = Some(self.masks.to_be_bytes());
        }
        let mut bytes = Vec::new();
        frame.format(&mut bytes).expect("memory takes all bytes");
        bytes
    }

    /// A message in frames of at most `size` bytes with pings between them.
    fn message(&mut self, text: &[u8], size: usize, compresses: bool) -> Vec<u8> {
        let mut payload = text.to_vec();
        let is_deflated = compresses && self.deflate.is_some();
        if is_deflated && let Some(deflate) = &mut self.deflate {
            if !self.has_context {
                deflate.reset();
            }
            payload = Vec::with_capacity(2 * text.len() + 64);
            deflate.compress_vec(text, &mut payload, FlushCompress::Sync).unwrap();
            assert!(payload.ends_with(&[0, 0, 0xff, 0xff]));
            payload.truncate(payload.len() - 4);
        }
        let parts: Vec<&[u8]> = if payload.is_empty() { vec![&[]] } else { payload.chunks(size).collect() };
        let mut bytes = Vec::new();
        for (number, part) in parts.iter().enumerate() {
            let kind = if number == 0 { Data::Text } else { Data::Continue };
            let mut frame = Frame::message(part.to_vec(), OpCode::Data(kind), number + 1 == parts.len());
            frame.header_mut().rsv1 = is_deflated && number == 0;
            bytes.extend(self.frame(frame));
            if number + 1 < parts.len() {
                bytes.extend(self.frame(Frame::ping(vec![b'p'; number % 126])));
            }
        }
        bytes
    }
}

const PLAIN: Extensions = Extensions { deflate: None };

fn deflate(client_no_context_takeover: bool, server_no_context_takeover: bool) -> Extensions {
    Extensions { deflate: Some(Deflate { client_no_context_takeover, server_no_context_takeover }) }
}

const BOTH: [Side; 2] = [Side::Request, Side::Response];

fn read(extensions: Extensions, side: Side, pieces: &[&[u8]]) -> Log {
    let (mut socket, mut log) = (WebSocket::new(extensions), Log::default());
    pieces.iter().for_each(|piece| socket.push(side, Nanos(1), piece, &mut log));
    log
}

#[test]
fn the_messages_of_the_specification() {
    // RFC 6455, 5.7, and RFC 7692, 7.2.3.
    let cases: &[(Side, &[u8])] = &[
        (Side::Response, &[0x81, 0x05, 0x48, 0x65, 0x6c, 0x6c, 0x6f]),
        (Side::Request, &[0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58]),
        (Side::Response, &[0x01, 0x03, 0x48, 0x65, 0x6c, 0x80, 0x02, 0x6c, 0x6f]),
        (Side::Response, &[0xc1, 0x07, 0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00]),
        (Side::Response, &[0x41, 0x03, 0xf2, 0x48, 0xcd, 0x80, 0x04, 0xc9, 0xc9, 0x07, 0x00]),
        // Without compression, with a block that ends its stream, and in two blocks.
        (Side::Response, &[0xc1, 0x0b, 0x00, 0x05, 0x00, 0xfa, 0xff, 0x48, 0x65, 0x6c, 0x6c, 0x6f, 0x00]),
        (Side::Response, &[0xc1, 0x08, 0xf3, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00, 0x00]),
        (Side::Response, &[0xc1, 0x0d, 0xf2, 0x48, 0x05, 0x00, 0x00, 0x00, 0xff, 0xff, 0xca, 0xc9, 0xc9, 0x07, 0x00]),
    ];
    for (side, bytes) in cases {
        for at in 0..=bytes.len() {
            let log = read(deflate(false, false), *side, &[&bytes[..at], &bytes[at..]]);
            assert_eq!(log.texts(*side), [b"Hello"], "{bytes:?} split at {at}");
            assert_eq!((log.desyncs, log.lost), (0, 0));
        }
    }
    // Twice the same: the second time it refers to the first.
    let twice = [0xc1, 0x07, 0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00, 0xc1, 0x05, 0xf2, 0x00, 0x11, 0x00, 0x00];
    assert_eq!(read(deflate(false, false), Side::Response, &[&twice]).texts(Side::Response), [b"Hello"; 2]);
    // Whose window is not kept cannot say so.
    let alone = read(deflate(false, true), Side::Response, &[&twice]);
    assert_ne!(alone.texts(Side::Response), [b"Hello"; 2]);
}

#[test]
fn a_stream_that_a_sender_has_ended_may_be_referred_to() {
    let ended = [0xc1, 0x08, 0xf3, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00, 0x00];
    let again = [0xc1, 0x07, 0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00];
    let bytes = [&ended[..], &again].concat();
    // So what comes after is not known, unless it cannot refer to anything.
    let log = read(deflate(false, false), Side::Response, &[&bytes]);
    assert_eq!(log.texts(Side::Response), [b"Hello"]);
    assert!(log.messages[1][1].is_broken);
    assert_eq!(read(deflate(false, true), Side::Response, &[&bytes]).texts(Side::Response), [b"Hello"; 2]);
}

#[test]
fn what_no_frame_begins_with() {
    for (side, bytes) in [
        (Side::Response, &b"HTTP/1.1 200 OK\r\n"[..]),
        (Side::Request, b"GET / HTTP/1.1\r\n"),
        (Side::Response, &[0x83, 0]),
        // A server that masks, a client that does not, compression that was not agreed on.
        (Side::Response, &[0x81, 0x81, 1, 2, 3, 4, 5]),
        (Side::Request, &[0x81, 0x01, 5]),
        (Side::Response, &[0xc1, 0x01, 5]),
        // A message within a message.
        (Side::Response, &[0x01, 0x01, 5, 0x81, 0x01, 5]),
    ] {
        let log = read(PLAIN, side, &[bytes, b"and what comes then"]);
        assert_eq!(log.desyncs, 1, "{bytes:?}");
        assert!(log.texts(side).is_empty());
    }
    // What is not compressed as it should be.
    let log = read(deflate(false, false), Side::Response, &[&[0xc1, 0x03, 0xff, 0xff, 0xff, 0x81, 0x02, b'h', b'i']]);
    assert_eq!((log.desyncs, log.texts(Side::Response)), (0, vec![&b"hi"[..]]));
    assert!(log.messages[1][0].is_broken);
}

#[test]
fn a_message_that_ends_amid_what_is_compressed_is_not_whole() {
    // A block without compression, of whose two lengths one has come.
    let log = read(deflate(false, false), Side::Response, &[&[0xc1, 0x03, 0x00, 0x03, 0x00]]);
    let expected = Seen { missed: 1, is_broken: true, len: Some(3), ..Seen::default() };
    assert_eq!(log.messages[1], [expected]);
}

#[test]
fn nothing_is_said_behind_a_close() {
    let mut sender = Sender::new(Side::Response, PLAIN);
    let bytes = [sender.message(b"one", 9, false), sender.frame(Frame::close(None)), sender.message(b"two", 9, false)];
    let log = read(PLAIN, Side::Response, &[&bytes.concat()]);
    assert_eq!((log.texts(Side::Response), log.closed), (vec![&b"one"[..]], [false, true]));
    let control = Frame::from_payload(
        tungstenite::protocol::frame::FrameHeader {
            opcode: OpCode::Control(Control::Pong),
            ..tungstenite::protocol::frame::FrameHeader::default()
        },
        Vec::new().into(),
    );
    assert!(read(PLAIN, Side::Response, &[&sender.frame(control)]).messages[1].is_empty());
}

#[test]
fn a_bomb_does_not_go_off() {
    let mut sender = Sender::new(Side::Response, deflate(false, false));
    let bomb = sender.message(&vec![b'x'; 65 << 20], usize::MAX, true);
    assert!(bomb.len() < 100_000);
    let (mut socket, mut count) = (WebSocket::new(deflate(false, false)), Count::default());
    socket.push(Side::Response, Nanos(1), &bomb, &mut count);
    assert!(count.bytes <= 64 << 20 && count.is_broken && count.ended == 1);
    assert_eq!(socket.memory(), 0);
}

#[test]
fn many_bombs_are_no_better_than_one() {
    const FREE: usize = 64 << 20;
    for has_no_context in [false, true] {
        let extensions = deflate(false, has_no_context);
        let bomb = Sender::new(Side::Response, extensions).message(&vec![b'x'; 8 << 20], usize::MAX, true);
        let (mut socket, mut count) = (WebSocket::new(extensions), Count::default());
        let mut most_memory = 0;
        for _ in 0..20 {
            for piece in bomb.chunks(1000) {
                socket.push(Side::Response, Nanos(1), piece, &mut count);
                most_memory = most_memory.max(socket.memory());
            }
        }
        // The first ten, if that.
        assert!(count.bytes > FREE && count.bytes <= FREE + 150 * 10 * bomb.len(), "{}", count.bytes);
        assert_eq!((count.ended, count.broken_anew), (20, 1), "it is news once");
        assert!(most_memory < 100_000 && socket.memory() == 0, "{most_memory}");
        // What is compressed is not read any more, whatever else is missed. What is not, is.
        let before = count.bytes;
        let mut sender = Sender::new(Side::Response, extensions);
        socket.gap(Side::Response, Nanos(1), 1, &mut count);
        socket.push(Side::Response, Nanos(1), &sender.message(b"compressed", 99, true), &mut count);
        assert_eq!(count.bytes, before);
        socket.push(Side::Response, Nanos(1), &sender.message(b"plain", 99, false), &mut count);
        assert_eq!(count.bytes, before + 5);
        // The other side is another's.
        let question = Sender::new(Side::Request, extensions).message(b"question", 99, true);
        socket.push(Side::Request, Nanos(1), &question, &mut count);
        assert_eq!((count.bytes, count.broken_anew), (before + 13, 1));
    }
}

#[test]
fn a_history_that_is_said_again_and_again_is_read_on() {
    let mut random = 1_u64;
    let history: String = (0..1000)
        .map(|_| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            format!("{{\"text\":{}}},", random >> 33)
        })
        .collect();
    let mut sender = Sender::new(Side::Request, deflate(false, false));
    let first = sender.message(history.as_bytes(), usize::MAX, true);
    // Each refers to the one before in the same way.
    let again = sender.message(history.as_bytes(), usize::MAX, true);
    let (mut socket, mut count) = (WebSocket::new(deflate(false, false)), Count::default());
    socket.push(Side::Request, Nanos(1), &first, &mut count);
    let times = (80 << 20) / history.len();
    for _ in 0..times {
        socket.push(Side::Request, Nanos(1), &again, &mut count);
    }
    assert!(history.len() / again.len() > 50, "{} of {}", again.len(), history.len());
    assert_eq!((count.bytes, count.ended), (history.len() * (times + 1), times + 1));
    assert!(!count.is_broken);
}

/// How much comes out, without keeping it.
#[derive(Default)]
struct Count {
    bytes: usize,
    is_broken: bool,
    broken_anew: usize,
    ended: usize,
}

impl SocketSink for Count {
    fn message_begins(&mut self, _: Side, _: Nanos) {}
    fn message_bytes(&mut self, _: Side, bytes: &[u8]) {
        self.bytes += bytes.len();
    }
    fn message_broken(&mut self, _: Side, _: u64, is_news: bool) {
        self.is_broken = true;
        self.broken_anew += usize::from(is_news);
    }
    fn message_ends(&mut self, _: Side, _: Nanos, _: u64) {
        self.ended += 1;
    }
    fn lost(&mut self, _: Side, _: u64) {}
    fn closed(&mut self, _: Side, _: Nanos) {}
    fn desync(&mut self, _: Side) {}
}

#[test]
fn memory_is_that_of_windows_and_can_be_let_go() {
    for (extensions, is_kept) in [(PLAIN, false), (deflate(false, false), true), (deflate(true, true), false)] {
        let (mut socket, mut log) = (WebSocket::new(extensions), Log::default());
        for side in BOTH {
            let mut sender = Sender::new(side, extensions);
            for _ in 0..3 {
                socket.push(side, Nanos(1), &sender.message(b"some text", 4, true), &mut log);
            }
        }
        assert_eq!(socket.memory() > 0, is_kept);
        assert!(socket.memory() < 100_000);
        assert_eq!(log.texts(Side::Request).len() + log.texts(Side::Response).len(), 6);
        socket.shed(&mut log);
        assert_eq!(socket.memory(), 0);
        for side in BOTH {
            let text = Sender::new(side, extensions).message(b"some text", 4, true);
            socket.push(side, Nanos(1), &text, &mut log);
            let expected = if is_kept { 3 } else { 4 };
            assert_eq!(log.texts(side).len(), expected);
        }
    }
}

#[test]
fn debug_output_keeps_secrets() {
    let (mut socket, mut log) = (WebSocket::new(deflate(false, false)), Log::default());
    socket.push(Side::Response, Nanos(1), &[0x81, 20, b'c', b'a', b'n', b'a', b'r', b'y'], &mut log);
    socket.push(Side::Request, Nanos(1), b"\x81\x94cana", &mut log);
    let debug = format!("{socket:?}");
    assert!(!debug.contains("99, 97") && !debug.contains("can"), "{debug}");
}

/// Messages, how they are cut into frames and whether they are compressed.
fn messages() -> impl Strategy<Value = Vec<(Vec<u8>, usize, bool)>> {
    let text = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..200),
        "(hello |world |[a-z]{1,9} ){0,60}".prop_map(String::into_bytes),
        (120_usize..70_000).prop_map(|length| b"{\"a\":1}".repeat(length / 7)),
    ];
    let size = prop_oneof![1_usize..20, 100_usize..140, Just(65_536), Just(usize::MAX)];
    // So that no message has thousands of frames.
    let message = (text, size, any::<bool>()).prop_map(|(text, size, compresses)| {
        let size = size.max(text.len() / 50).max(1);
        (text, size, compresses)
    });
    prop::collection::vec(message, 1..8)
}

proptest! {
    #[test]
    fn messages_come_out_as_they_were(
        messages in messages(),
        kind in 0..4,
        is_client: bool,
        cuts in prop::collection::vec(1_usize..3000, 1..20),
    ) {
        let extensions = [PLAIN, deflate(false, false), deflate(true, false), deflate(true, true)][kind as usize];
        let side = BOTH[usize::from(!is_client)];
        let mut sender = Sender::new(side, extensions);
        let bytes: Vec<u8> =
            messages.iter().flat_map(|(text, size, compresses)| sender.message(text, *size, *compresses)).collect();
        let expected: Vec<&[u8]> = messages.iter().map(|(text, ..)| &text[..]).collect();
        let whole = read(extensions, side, &[&bytes]);
        prop_assert_eq!(whole.texts(side), expected);
        let (mut rest, mut pieces) = (&bytes[..], Vec::new());
        for cut in cuts.iter().cycle() {
            let (piece, behind) = rest.split_at(rest.len().min(*cut));
            pieces.push(piece);
            rest = behind;
            if rest.is_empty() {
                break;
            }
        }
        prop_assert_eq!(read(extensions, side, &pieces), whole);
    }

    /// A hole costs the messages that it touches, and where messages refer to each other those behind it. What comes out was
    /// said.
    #[test]
    fn with_a_hole_nothing_comes_out_that_was_not_said(
        messages in messages(),
        kind in 0..4,
        is_client: bool,
        from in 0.0..1.0,
        len in 0.0..0.5,
    ) {
        let extensions = [PLAIN, deflate(false, false), deflate(true, false), deflate(true, true)][kind as usize];
        let side = BOTH[usize::from(!is_client)];
        let mut sender = Sender::new(side, extensions);
        // Each message with a number, so that they differ; a piece each.
        let texts: Vec<Vec<u8>> = (messages.iter().enumerate())
            .map(|(number, (text, ..))| [format!("message {number} ").as_bytes(), text].concat())
            .collect();
        let pieces: Vec<Vec<u8>> = (texts.iter().zip(&messages))
            .map(|(text, (_, size, compresses))| sender.message(text, *size, *compresses))
            .collect();
        let total: usize = pieces.iter().map(Vec::len).sum();
        let from = (total as f64 * from) as usize;
        let to = (from + 1 + ((total - from) as f64 * len) as usize).min(total);
        let (mut socket, mut log, mut at, mut touched) = (WebSocket::new(extensions), Log::default(), 0, Vec::new());
        for (number, piece) in pieces.iter().enumerate() {
            let end = at + piece.len();
            let before = &piece[..from.clamp(at, end) - at];
            let behind = &piece[to.clamp(at, end) - at..];
            socket.push(side, Nanos(1), before, &mut log);
            if at <= from && from < end {
                socket.gap(side, Nanos(1), (to - from) as u64, &mut log);
            }
            socket.push(side, Nanos(1), behind, &mut log);
            if at < to && from < end {
                touched.push(number);
            }
            at = end;
        }
        prop_assert_eq!(log.desyncs, 0);
        let said = log.texts(side);
        for text in &said {
            prop_assert!(texts.iter().any(|known| known == text));
        }
        let has_context = extensions.deflate.is_some_and(|deflate| match side {
            Side::Request => !deflate.client_no_context_takeover,
            Side::Response => !deflate.server_no_context_takeover,
        });
        let (first, last) = (touched[0], touched[touched.len() - 1]);
        for (number, text) in texts.iter().enumerate() {
            let is_readable = number < first || !has_context || !messages[number].2;
            // In several frames it is none that the search would believe.
            let is_found = number < first || (number > last && messages[last + 1].1 > texts[last + 1].len() + 64);
            if is_readable && is_found && !touched.contains(&number) {
                prop_assert!(said.contains(&&text[..]), "message {} of {:?}", number, touched);
            }
        }
    }

    #[test]
    fn any_bytes_are_harmless(
        pieces in prop::collection::vec((any::<bool>(), 0_u8..8, prop::collection::vec(any::<u8>(), 0..60)), 0..12),
    ) {
        let (mut socket, mut log) = (WebSocket::new(deflate(false, true)), Log::default());
        for (is_client, act, piece) in &pieces {
            let side = BOTH[usize::from(!is_client)];
            match act {
                0 => socket.gap(side, Nanos(1), piece.len() as u64, &mut log),
                1 => socket.gap(side, Nanos(1), u64::MAX, &mut log),
                2 => socket.shed(&mut log),
                3 => socket.push(side, Nanos(1), &Sender::new(side, PLAIN).message(piece, 20, false), &mut log),
                _ => socket.push(side, Nanos(1), piece, &mut log),
            }
            prop_assert!(socket.memory() <= 100_000);
        }
    }
}
