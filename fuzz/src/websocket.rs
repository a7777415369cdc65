//! One WebSocket: both sides, in any pieces, with gaps.

use hbpf_core::http1::Side;
use hbpf_core::time::Nanos;
use hbpf_core::websocket::{Deflate, Extensions, SocketSink, WebSocket};

use crate::input::Input;

/// Two windows of decompressors.
const MOST_MEMORY: usize = 128 * 1024;

/// The first control byte says which of two things is tried, and what was agreed on.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let kind = input.byte();
    let deflate = Deflate { client_no_context_takeover: kind & 4 != 0, server_no_context_takeover: kind & 8 != 0 };
    let extensions = Extensions { deflate: (kind & 2 == 0).then_some(deflate) };
    if kind & 1 == 0 { pieces_mean_the_same(input, extensions) } else { operations(input, extensions) }
}

/// What was reported, in a form that can be compared: adjacent pieces of a message are one.
#[derive(Clone, Debug, PartialEq)]
enum Said {
    Begins(Side),
    Bytes(Side, Vec<u8>),
    Broken(Side, u64),
    Ends(Side, u64),
    Lost(Side),
    Closed(Side),
    Desync(Side),
}

#[derive(Default)]
struct Log {
    said: Vec<Said>,
    /// By side: in a message, and in one that is broken.
    is_within: [bool; 2],
    is_broken: [bool; 2],
    is_closed: [bool; 2],
}

impl Log {
    fn within(&self, side: Side) {
        assert!(self.is_within[side as usize] && !self.is_closed[side as usize], "a message has begun");
    }
}

impl SocketSink for Log {
    fn message_begins(&mut self, side: Side, started: Nanos) {
        assert!(started > Nanos(0) && !self.is_within[side as usize] && !self.is_closed[side as usize]);
        (self.is_within[side as usize], self.is_broken[side as usize]) = (true, false);
        self.said.push(Said::Begins(side));
    }
    fn message_bytes(&mut self, side: Side, bytes: &[u8]) {
        self.within(side);
        assert!(!self.is_broken[side as usize], "nothing comes out behind what is missing");
        match self.said.last_mut() {
            Some(Said::Bytes(of, text)) if *of == side => text.extend_from_slice(bytes),
            _ => self.said.push(Said::Bytes(side, bytes.to_vec())),
        }
    }
    fn message_broken(&mut self, side: Side, len: u64, _: bool) {
        self.within(side);
        self.is_broken[side as usize] = true;
        match self.said.last_mut() {
            Some(Said::Broken(of, missed)) if *of == side => *missed = missed.saturating_add(len),
            _ => self.said.push(Said::Broken(side, len)),
        }
    }
    fn message_ends(&mut self, side: Side, _: Nanos, len: u64) {
        self.within(side);
        self.is_within[side as usize] = false;
        self.said.push(Said::Ends(side, len));
    }
    fn lost(&mut self, side: Side, _: u64) {
        self.is_within[side as usize] = false;
        self.said.push(Said::Lost(side));
    }
    fn closed(&mut self, side: Side, _: Nanos) {
        assert!(!self.is_closed[side as usize]);
        (self.is_closed[side as usize], self.is_within[side as usize]) = (true, false);
        self.said.push(Said::Closed(side));
    }
    fn desync(&mut self, side: Side) {
        self.is_within[side as usize] = false;
        self.said.push(Said::Desync(side));
    }
}

/// What a client says and then what a server says, whole and in pieces: up to the first surprise, both say the same. Behind one
/// it matters where pieces begin: that is where a frame is looked for.
fn pieces_mean_the_same(mut input: Input<'_>, extensions: Extensions) {
    let length = input.number() as usize % (input.payload.len() + 1);
    let sides = [(Side::Request, input.take(length)), (Side::Response, input.payload)];
    for (side, bytes) in sides {
        let whole = read(extensions, side, &mut [bytes].into_iter());
        let split = read(extensions, side, &mut input.with_payload(bytes).pieces());
        let surprise = |said: &[Said]| said.iter().position(|said| matches!(said, Said::Desync(_) | Said::Broken(..)));
        match surprise(&whole).into_iter().chain(surprise(&split)).min() {
            // What came out before it is cut where pieces are.
            Some(at) => {
                let known = at.saturating_sub(1);
                assert_eq!(split.get(..known), whole.get(..known));
            }
            None => assert_eq!(split, whole),
        }
    }
}

fn read(extensions: Extensions, side: Side, pieces: &mut dyn Iterator<Item = &[u8]>) -> Vec<Said> {
    let (mut socket, mut log) = (WebSocket::new(extensions), Log::default());
    for piece in pieces {
        socket.push(side, Nanos(1), piece, &mut log);
        assert!(socket.memory() <= MOST_MEMORY);
    }
    log.said
}

fn operations(mut input: Input<'_>, extensions: Extensions) {
    let (mut socket, mut log, mut now) = (WebSocket::new(extensions), Log::default(), 0);
    while let Some(operation) = input.control() {
        now += 1;
        let side = if operation & 1 == 0 { Side::Request } else { Side::Response };
        match operation >> 1 & 7 {
            0 => socket.gap(side, Nanos(now), input.number().into(), &mut log),
            1 => socket.gap(side, Nanos(now), u64::MAX, &mut log),
            2 => socket.shed(&mut log),
            _ => {
                let length = input.number() as usize % 4096;
                socket.push(side, Nanos(now), input.take(length), &mut log);
            }
        }
        assert!(socket.memory() <= MOST_MEMORY);
    }
    socket.push(Side::Response, Nanos(now + 1), input.payload, &mut log);
    assert!(socket.memory() <= MOST_MEMORY);
}
