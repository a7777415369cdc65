//! WebSocket seen passively: both sides of a connection from where HTTP has ended, whole or with gaps.
//!
//! Each side is a state machine over frames. Messages are handed over piece by piece as they come, without mask and
//! decompressed; nothing is put together. Control frames may lie between the frames of a message and are no part of it.
//!
//! What happens where bytes are missing depends on where:
//!
//! - Within the payload of a control frame nothing is lost.
//! - Within that of another frame the message is broken. So are, if messages refer to those before them (permessage-deflate
//!   with context takeover), all compressed ones of that side from there on: what they refer to is not known any more.
//!   Likewise where they decompress to more than real ones do, whether they refer to each other or not.
//! - Elsewhere nobody knows where the next frame begins. It is looked for at the beginning of each later piece, where
//!   senders have them, and believed if the whole piece consists of frames.

mod extensions;
mod frame;
mod inflate;
#[cfg(test)]
mod tests;

use std::mem;

use crate::http1::Side;
use crate::time::Nanos;
pub use extensions::{Deflate, Extensions};
use frame::{Header, MAX_HEADER_BYTES, Opcode, consists_of_frames};
use inflate::Inflater;

/// Masked bytes that are unmasked at a time.
const SLICE: usize = 4096;

/// What happens on a connection, in stream order per side.
///
/// A message is begun once and ended once, with its bytes between; one that is amid the way where frames are lost is ended by
/// [`SocketSink::lost`].
pub trait SocketSink {
    /// A message begins, whose first byte came at `started`.
    fn message_begins(&mut self, side: Side, started: Nanos);
    /// Bytes of the message.
    fn message_bytes(&mut self, side: Side, bytes: &[u8]);
    /// So many of its bytes on the wire were not seen, or cannot be read for what was not seen before: it is `is_news` where
    /// they were not seen. No more of its bytes is handed over.
    fn message_broken(&mut self, side: Side, len: u64, is_news: bool);
    /// The message has ended; so many bytes on the wire were its payload.
    fn message_ends(&mut self, side: Side, when: Nanos, len: u64);
    /// So many bytes were not seen, and with them what comes next: messages may be missing, and the end of the one under way.
    fn lost(&mut self, side: Side, len: u64);
    /// The side says that the connection is over. Nothing more of it is reported.
    fn closed(&mut self, side: Side, when: Nanos);
    /// Bytes that are no frame where one should begin: nothing is known of what comes.
    fn desync(&mut self, side: Side);
}

/// One connection.
#[derive(Debug)]
pub struct WebSocket {
    client: Half,
    server: Half,
}

/// One side of the connection.
#[derive(Debug)]
struct Half {
    state: State,
    /// The message under way.
    message: Option<Message>,
    /// There where messages may be compressed.
    inflater: Option<Inflater>,
}

enum State {
    /// Between frames, or in the header of one.
    Header(PartialHeader),
    /// In a payload.
    Payload(Payload),
    /// Where the next frame begins is not known.
    Lost,
    /// The side has closed.
    Closed,
}

#[derive(Clone, Copy, Default)]
struct PartialHeader {
    bytes: [u8; MAX_HEADER_BYTES],
    seen: usize,
    /// When the first of them came.
    started: Nanos,
}

/// What is left of a frame.
#[derive(Clone, Copy)]
struct Payload {
    header: Header,
    left: u64,
}

#[derive(Clone, Copy, Debug)]
struct Message {
    is_deflated: bool,
    is_broken: bool,
    /// Bytes of payload so far.
    len: u64,
}

const BETWEEN: State = State::Header(PartialHeader { bytes: [0; MAX_HEADER_BYTES], seen: 0, started: Nanos(0) });

impl WebSocket {
    /// A connection from its first frames on.
    pub fn new(extensions: Extensions) -> Self {
        let half = |takes_no_context: fn(&Deflate) -> bool| Half {
            state: BETWEEN,
            message: None,
            inflater: extensions.deflate.as_ref().map(|deflate| Inflater::new(!takes_no_context(deflate))),
        };
        Self {
            client: half(|deflate| deflate.client_no_context_takeover),
            server: half(|deflate| deflate.server_no_context_takeover),
        }
    }

    /// Memory that it holds beyond its own size, in bytes.
    pub fn memory(&self) -> usize {
        [&self.client, &self.server].map(|half| half.inflater.as_ref().map_or(0, Inflater::memory)).iter().sum()
    }

    /// Lets go of what it holds, as if that had not been seen.
    pub fn shed(&mut self, sink: &mut dyn SocketSink) {
        for side in [Side::Request, Side::Response] {
            let half = self.half(side);
            if half.inflater.as_ref().is_some_and(|inflater| inflater.memory() > 0) {
                half.break_context();
                let is_deflated = |message: &&mut Message| message.is_deflated && !message.is_broken;
                if let Some(message) = half.message.as_mut().filter(is_deflated) {
                    message.is_broken = true;
                    sink.message_broken(side, 1, true);
                }
            }
        }
    }

    /// The next bytes of one side.
    pub fn push(&mut self, side: Side, when: Nanos, bytes: &[u8], sink: &mut dyn SocketSink) {
        let half = self.half(side);
        let deflates = half.inflater.is_some();
        if matches!(half.state, State::Lost) && consists_of_frames(bytes, side, deflates) {
            half.state = BETWEEN;
        }
        let mut rest = bytes;
        while !rest.is_empty() {
            let used = match mem::replace(&mut half.state, State::Lost) {
                State::Header(partial) => half.read_header(side, when, partial, rest, sink),
                State::Payload(payload) => half.read_payload(side, when, payload, rest, sink),
                State::Lost => rest.len(),
                State::Closed => {
                    half.state = State::Closed;
                    rest.len()
                }
            };
            rest = &rest[used..];
        }
    }

    /// `len` bytes of one side were not seen.
    pub fn gap(&mut self, side: Side, when: Nanos, len: u64, sink: &mut dyn SocketSink) {
        if len == 0 {
            return;
        }
        let half = self.half(side);
        match mem::replace(&mut half.state, State::Lost) {
            State::Payload(mut payload) if len <= payload.left => {
                payload.left -= len;
                half.skipped(side, &payload, len, sink);
                half.proceed(side, when, payload, sink);
            }
            State::Header(_) | State::Payload(_) | State::Lost => {
                half.lose();
                sink.lost(side, len);
            }
            State::Closed => half.state = State::Closed,
        }
    }

    fn half(&mut self, side: Side) -> &mut Half {
        match side {
            Side::Request => &mut self.client,
            Side::Response => &mut self.server,
        }
    }
}

impl Half {
    /// Nothing is known of what comes until a frame is found.
    fn lose(&mut self) {
        self.state = State::Lost;
        self.message = None;
        self.break_context();
    }

    fn break_context(&mut self) {
        if let Some(inflater) = &mut self.inflater {
            inflater.lose();
        }
    }

    fn read_header(
        &mut self,
        side: Side,
        when: Nanos,
        mut partial: PartialHeader,
        bytes: &[u8],
        sink: &mut dyn SocketSink,
    ) -> usize {
        if partial.seen == 0 {
            partial.started = when;
        }
        let seen = partial.seen;
        let room = &mut partial.bytes[seen..];
        let taken = room.len().min(bytes.len());
        room[..taken].copy_from_slice(&bytes[..taken]);
        partial.seen += taken;
        let parsed = Header::parse(&partial.bytes[..partial.seen]);
        let Ok(Some((header, length))) = parsed else {
            if parsed.is_err() {
                return self.not_a_frame(side, bytes, sink);
            }
            self.state = State::Header(partial);
            return taken;
        };
        let is_expected = match header.opcode {
            Opcode::Text | Opcode::Binary => self.message.is_none(),
            // The beginning of its message may have been missed.
            Opcode::Continuation | Opcode::Close | Opcode::Ping | Opcode::Pong => true,
        };
        if !is_expected || !header.may_be_of(side, self.inflater.is_some()) {
            return self.not_a_frame(side, bytes, sink);
        }
        if !header.opcode.is_control() && self.message.is_none() {
            self.begin_message(side, &header, partial.started, sink);
        }
        if header.length == 0 {
            self.end_frame(side, when, &header, sink);
        } else {
            self.state = State::Payload(Payload { header, left: header.length });
        }
        length - seen
    }

    fn not_a_frame(&mut self, side: Side, bytes: &[u8], sink: &mut dyn SocketSink) -> usize {
        self.lose();
        sink.desync(side);
        bytes.len()
    }

    fn begin_message(&mut self, side: Side, header: &Header, started: Nanos, sink: &mut dyn SocketSink) {
        sink.message_begins(side, started);
        let is_readable = match &mut self.inflater {
            Some(inflater) if header.is_deflated => inflater.begin(),
            _ => true,
        };
        let is_broken = header.opcode == Opcode::Continuation || !is_readable;
        if is_broken {
            sink.message_broken(side, 0, false);
        }
        self.message = Some(Message { is_deflated: header.is_deflated, is_broken, len: 0 });
    }

    fn read_payload(
        &mut self,
        side: Side,
        when: Nanos,
        mut payload: Payload,
        bytes: &[u8],
        sink: &mut dyn SocketSink,
    ) -> usize {
        let used = usize::try_from(payload.left).unwrap_or(usize::MAX).min(bytes.len());
        if !payload.header.opcode.is_control() {
            self.unmask(side, &payload, &bytes[..used], sink);
        }
        payload.left -= used as u64;
        self.proceed(side, when, payload, sink);
        used
    }

    /// Hands over bytes of a message.
    fn unmask(&mut self, side: Side, payload: &Payload, bytes: &[u8], sink: &mut dyn SocketSink) {
        let Some(mask) = payload.header.mask else { return self.read(side, bytes, sink) };
        let mut at = (payload.header.length - payload.left) as usize;
        let mut clear = [0; SLICE];
        for part in bytes.chunks(SLICE) {
            for (clear, masked) in clear.iter_mut().zip(part) {
                *clear = masked ^ mask[at % mask.len()];
                at = at.wrapping_add(1);
            }
            self.read(side, &clear[..part.len()], sink);
        }
    }

    fn read(&mut self, side: Side, bytes: &[u8], sink: &mut dyn SocketSink) {
        let Some(message) = &mut self.message else { return };
        message.len = message.len.saturating_add(bytes.len() as u64);
        let result = match &mut self.inflater {
            _ if message.is_broken => return sink.message_broken(side, bytes.len() as u64, false),
            Some(inflater) if message.is_deflated => inflater.push(bytes, &mut |clear| sink.message_bytes(side, clear)),
            _ => {
                sink.message_bytes(side, bytes);
                Ok(())
            }
        };
        if result.is_err() {
            message.is_broken = true;
            sink.message_broken(side, bytes.len() as u64, true);
        }
    }

    /// Bytes of a payload, and of nothing else, were not seen.
    fn skipped(&mut self, side: Side, payload: &Payload, len: u64, sink: &mut dyn SocketSink) {
        if payload.header.opcode.is_control() {
            return;
        }
        let Some(message) = &mut self.message else { return };
        message.is_broken = true;
        message.len = message.len.saturating_add(len);
        if message.is_deflated {
            self.break_context();
        }
        sink.message_broken(side, len, true);
    }

    /// Goes on within a payload, or behind it.
    fn proceed(&mut self, side: Side, when: Nanos, payload: Payload, sink: &mut dyn SocketSink) {
        if payload.left > 0 {
            self.state = State::Payload(payload);
        } else {
            self.end_frame(side, when, &payload.header, sink);
        }
    }

    /// All of a frame has come, or is known not to come.
    fn end_frame(&mut self, side: Side, when: Nanos, header: &Header, sink: &mut dyn SocketSink) {
        self.state = BETWEEN;
        match header.opcode {
            Opcode::Close => {
                self.message = None;
                self.inflater = None;
                self.state = State::Closed;
                sink.closed(side, when);
            }
            Opcode::Ping | Opcode::Pong => {}
            Opcode::Text | Opcode::Binary | Opcode::Continuation if header.is_last => {
                self.end_message(side, when, sink)
            }
            Opcode::Text | Opcode::Binary | Opcode::Continuation => {}
        }
    }

    fn end_message(&mut self, side: Side, when: Nanos, sink: &mut dyn SocketSink) {
        let Some(message) = self.message.take() else { return };
        if message.is_deflated
            && !message.is_broken
            && let Some(inflater) = &mut self.inflater
            && inflater.end(&mut |clear| sink.message_bytes(side, clear)).is_err()
        {
            // One byte at the least, more cannot be told.
            sink.message_broken(side, 1, true);
        }
        sink.message_ends(side, when, message.len);
    }
}

impl std::fmt::Debug for State {
    /// Masks are nobody's business.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Header(partial) => f.debug_tuple("Header").field(&partial.seen).finish(),
            Self::Payload(payload) => f.debug_tuple("Payload").field(&payload.left).finish(),
            Self::Lost => f.write_str("Lost"),
            Self::Closed => f.write_str("Closed"),
        }
    }
}
