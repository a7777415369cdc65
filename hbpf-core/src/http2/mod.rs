//! HTTP/2 seen passively: both sides of a connection, from its beginning or from somewhere in its middle.
//!
//! Each side is a state machine over frames. Bodies are handed over as slices of the input, by stream; only header blocks
//! are put together. Heads are handed over in the form that HTTP/1 has for them, without the fields that nobody reads.
//!
//! What happens where bytes are missing depends on where:
//!
//! - Within one frame that says nothing of heads, nothing is lost but what it said.
//! - Elsewhere nobody knows where the next frame begins. It is looked for at the beginning of each later piece, where
//!   senders have them, and believed if everything in that piece is as it should be. What the side has entered into its
//!   table meanwhile is not known: what refers to it comes out as unknown, and the more is entered anew the less does so.

mod fields;
mod frame;
mod head;
mod hpack;

pub(crate) use fields::Name;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::mem;

use crate::http1::{HttpSink, Side};
use crate::time::Nanos;
use frame::{HEADER_BYTES, Header, Kind};
use head::Head;
use hpack::{Field, Table};

/// What a client sends first (RFC 9113, 3.4).
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The stream of a request that has made an HTTP/1 connection one of HTTP/2.
pub const UPGRADED_STREAM: u64 = 1;

/// So much of it is enough to know it by.
const PREFACE_BYTES: usize = 14;

/// The longest header block that is put together, as of HTTP/1's heads.
const MAX_BLOCK: usize = 64 * 1024;

/// Streams that are remembered. Servers allow 100 to 250 at a time; whose end was missed stay until others take their place.
const MAX_STREAMS: usize = 1024;

/// One HTTP/2 connection.
///
/// Exchanges are numbered by their streams.
#[derive(Debug, Default)]
pub struct Http2 {
    request: Half,
    response: Half,
    streams: BTreeMap<u32, Stream>,
    /// The highest number of a stream that a client has opened.
    newest: u32,
}

/// One side of the connection.
#[derive(Debug, Default)]
struct Half {
    state: State,
    table: Table,
    /// A header block that is being put together.
    block: Option<Block>,
}

#[derive(Debug, Default)]
enum State {
    /// Where the next frame begins is not known.
    #[default]
    Lost,
    /// In the client's preface; so much of it has come.
    Preface(usize),
    /// Between frames, or in the header of one, of which so many bytes have come.
    Header([u8; HEADER_BYTES], usize),
    /// In a payload.
    Payload(Payload),
}

/// What is left of a frame.
#[derive(Clone, Copy, Debug)]
struct Payload {
    header: Header,
    /// All bytes to come, padding included.
    left: u32,
    /// The length of the padding is the next byte.
    has_pad_length: bool,
    /// Bytes to be skipped before what is of interest.
    preamble: u32,
    /// Bytes of padding at the end.
    padding: u32,
}

/// A header block, from the frame that begins it to the one that ends it.
#[derive(Debug)]
struct Block {
    stream: u32,
    /// When its first byte came.
    started: Nanos,
    ends_stream: bool,
    /// It belongs to a request that the server announces; only its table is of interest.
    is_promise: bool,
    /// Not all of it was seen.
    is_lost: bool,
    bytes: Vec<u8>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Stream {
    has_answer: bool,
    request_ended: bool,
}

impl Half {
    /// Nothing is known of what comes until a frame is found.
    fn lose(&mut self) {
        self.state = State::Lost;
        self.block = None;
        self.table.forget();
    }
}

const BETWEEN: State = State::Header([0; HEADER_BYTES], 0);

/// Whether a piece is a client's, and begins an HTTP/2 connection or is of one that is older: it begins with a request then.
pub fn begins_connection(piece: &[u8]) -> bool {
    piece.starts_with(&PREFACE[..PREFACE_BYTES]) || frame::begins_with_frame(piece, 0) && begins_with_request(piece)
}

/// Whether the first of a piece's frames is a head that names a method. Those of answers look the same from outside.
fn begins_with_request(piece: &[u8]) -> bool {
    let Some((bytes, rest)) = piece.split_first_chunk() else { return false };
    let mut payload = Payload::of(Header::parse(bytes));
    let rest = &rest[..rest.len().min(payload.left as usize)];
    let Ok(block) = payload.take(rest) else { return false };
    let mut names_method = false;
    let mut see =
        |field: Field<'_>| names_method |= matches!(field, Field::Known(name, _) if name.as_str() == ":method");
    // All of it need not be there.
    let _ = Table::default().read(block, &mut see);
    payload.header.kind == Kind::Headers && names_method
}

impl Http2 {
    /// A connection of which nothing has been seen yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// A connection that has begun as HTTP/1: it goes on with the answer to the request that asked for that, which is
    /// [`UPGRADED_STREAM`]'s.
    pub fn upgraded() -> Self {
        let mut http = Self { newest: 1, ..Self::default() };
        http.streams.insert(1, Stream { request_ended: true, ..Stream::default() });
        http.response.state = BETWEEN;
        http
    }

    /// Memory that it holds beyond its own size, in bytes.
    pub fn memory(&self) -> usize {
        let block = |half: &Half| half.block.as_ref().map_or(0, |block| block.bytes.capacity());
        let half = |half: &Half| half.table.memory() + block(half);
        half(&self.request) + half(&self.response) + self.streams.len() * 2 * size_of::<(u32, Stream)>()
    }

    /// Lets go of what it holds, as if that had not been seen.
    pub fn shed(&mut self) {
        for half in [&mut self.request, &mut self.response] {
            half.table.forget();
            if let Some(block) = &mut half.block {
                block.lose();
            }
        }
    }

    /// What comes next on a side does not follow what came before.
    pub fn lose(&mut self, side: Side) {
        self.half(side).lose();
    }

    /// The next bytes of one side.
    pub fn push(&mut self, side: Side, when: Nanos, bytes: &[u8], sink: &mut dyn HttpSink) {
        let mut rest = bytes;
        if matches!(self.half(side).state, State::Lost) {
            self.find_frame(side, bytes);
        }
        while !rest.is_empty() {
            let used = match mem::take(&mut self.half(side).state) {
                State::Lost => rest.len(),
                State::Preface(seen) => self.read_preface(side, seen, rest, sink),
                State::Header(bytes, seen) => self.read_header(side, when, bytes, seen, rest, sink),
                State::Payload(payload) => self.read_payload(side, when, payload, rest, sink),
            };
            rest = &rest[used..];
        }
    }

    /// `len` bytes of one side were not seen.
    pub fn gap(&mut self, side: Side, when: Nanos, len: u64, sink: &mut dyn HttpSink) {
        if len == 0 {
            return;
        }
        let half = self.half(side);
        match (mem::take(&mut half.state), u32::try_from(len)) {
            (State::Payload(payload), Ok(len)) if len <= payload.left => {
                self.skip_payload(side, when, payload, len, sink);
            }
            _ => {
                half.lose();
                for (number, stream) in &self.streams {
                    if side == Side::Response || !stream.request_ended {
                        report_gap(side, *number, None, sink);
                    }
                }
            }
        }
    }

    /// Bytes of a payload, and of nothing else, were not seen.
    fn skip_payload(&mut self, side: Side, when: Nanos, mut payload: Payload, len: u32, sink: &mut dyn HttpSink) {
        let header = payload.header;
        payload.skip(len);
        match header.kind {
            Kind::Data if self.streams.contains_key(&header.stream) => {
                report_gap(side, header.stream, Some(len.into()), sink);
            }
            Kind::Headers | Kind::PushPromise | Kind::Continuation => {
                let half = self.half(side);
                half.table.forget();
                if let Some(block) = &mut half.block {
                    block.lose();
                }
            }
            _ => {}
        }
        self.proceed(side, when, payload, sink);
    }

    /// Goes on within a payload, or behind it.
    fn proceed(&mut self, side: Side, when: Nanos, payload: Payload, sink: &mut dyn HttpSink) {
        if payload.left > 0 {
            self.half(side).state = State::Payload(payload);
        } else {
            self.half(side).state = BETWEEN;
            self.end_frame(side, when, payload.header, sink);
        }
    }

    fn half(&mut self, side: Side) -> &mut Half {
        match side {
            Side::Request => &mut self.request,
            Side::Response => &mut self.response,
        }
    }

    /// Looks for the beginning of a frame, or of the connection, at the beginning of a piece.
    fn find_frame(&mut self, side: Side, piece: &[u8]) {
        let begins = &piece[..piece.len().min(PREFACE.len())];
        if side == Side::Request && self.newest <= 1 && PREFACE.starts_with(begins) {
            self.request.state = State::Preface(0);
            if self.newest == 0 {
                // The answer was not before it.
                self.response.state = BETWEEN;
            }
        } else if frame::begins_with_frame(piece, self.newest) {
            self.half(side).state = BETWEEN;
        }
    }

    fn read_preface(&mut self, side: Side, seen: usize, bytes: &[u8], sink: &mut dyn HttpSink) -> usize {
        let used = bytes.len().min(PREFACE.len() - seen);
        if bytes[..used] != PREFACE[seen..seen + used] {
            sink.desync(side);
            return bytes.len();
        }
        let seen = seen + used;
        self.half(side).state = if seen == PREFACE.len() { BETWEEN } else { State::Preface(seen) };
        used
    }

    fn read_header(
        &mut self,
        side: Side,
        when: Nanos,
        mut bytes: [u8; HEADER_BYTES],
        seen: usize,
        rest: &[u8],
        sink: &mut dyn HttpSink,
    ) -> usize {
        let used = rest.len().min(HEADER_BYTES - seen);
        bytes[seen..seen + used].copy_from_slice(&rest[..used]);
        if seen + used < HEADER_BYTES {
            self.half(side).state = State::Header(bytes, seen + used);
            return used;
        }
        let header = Header::parse(&bytes);
        let half = self.half(side);
        // Between the parts of a header block nothing else may come.
        let is_expected = match &half.block {
            Some(block) => header.kind == Kind::Continuation && header.stream == block.stream,
            None => header.kind != Kind::Continuation,
        };
        let is_stream = header.stream != 0 || matches!(header.kind, Kind::Other(_));
        if !is_expected || !is_stream {
            half.lose();
            sink.desync(side);
            return rest.len();
        }
        if matches!(header.kind, Kind::Headers | Kind::PushPromise) {
            half.block = Some(Block::begin(&header, when));
        }
        self.proceed(side, when, Payload::of(header), sink);
        used
    }

    fn read_payload(
        &mut self,
        side: Side,
        when: Nanos,
        mut payload: Payload,
        rest: &[u8],
        sink: &mut dyn HttpSink,
    ) -> usize {
        let header = payload.header;
        let used = rest.len().min(payload.left as usize);
        let Ok(content) = payload.take(&rest[..used]) else {
            // More padding than there is payload.
            self.half(side).lose();
            sink.desync(side);
            return rest.len();
        };
        match header.kind {
            Kind::Data if !content.is_empty() && self.streams.contains_key(&header.stream) => match side {
                Side::Request => sink.request_body(header.stream.into(), when, content),
                Side::Response => sink.response_body(header.stream.into(), when, content),
            },
            Kind::Headers | Kind::PushPromise | Kind::Continuation => {
                let half = self.half(side);
                if let Some(block) = &mut half.block
                    && !block.append(content)
                {
                    half.table.forget();
                }
            }
            _ => {}
        }
        self.proceed(side, when, payload, sink);
        used
    }

    /// All of a frame has come, or is known not to come.
    fn end_frame(&mut self, side: Side, when: Nanos, header: Header, sink: &mut dyn HttpSink) {
        match header.kind {
            Kind::Data if header.ends_stream() => self.end_side(side, header.stream, when, sink),
            Kind::Headers | Kind::PushPromise | Kind::Continuation if header.ends_headers() => {
                self.end_block(side, when, sink);
            }
            Kind::ResetStream if self.streams.remove(&header.stream).is_some() => {
                sink.reset(header.stream.into(), when, side);
            }
            _ => {}
        }
    }

    /// A header block is complete.
    fn end_block(&mut self, side: Side, when: Nanos, sink: &mut dyn HttpSink) {
        let half = self.half(side);
        let Some(block) = half.block.take() else { return };
        let mut head = Head::default();
        if !block.is_lost && half.table.read(&block.bytes, &mut |field| head.add(field)).is_err() {
            head = Head::default();
            sink.desync(side);
        }
        if block.is_promise {
            return;
        }
        match side {
            Side::Request => self.request_block(&block, &head, when, sink),
            Side::Response => self.response_block(&block, &head, when, sink),
        }
        if block.ends_stream {
            self.end_side(side, block.stream, when, sink);
        }
    }

    fn request_block(&mut self, block: &Block, head: &Head, when: Nanos, sink: &mut dyn HttpSink) {
        // What comes later on a stream is trailers.
        if block.stream <= self.newest || block.stream.is_multiple_of(2) {
            return;
        }
        self.newest = block.stream;
        if self.streams.len() >= MAX_STREAMS
            && let Some((oldest, _)) = self.streams.pop_first()
        {
            sink.response_end(oldest.into(), when, false);
        }
        self.streams.insert(block.stream, Stream::default());
        head.request(!block.ends_stream, &mut |head| {
            sink.request_head(block.stream.into(), when, block.started, head);
        });
    }

    fn response_block(&mut self, block: &Block, head: &Head, when: Nanos, sink: &mut dyn HttpSink) {
        let Some(stream) = self.streams.get_mut(&block.stream) else { return };
        // Interim answers come before, and may have come without being known for such; trailers come after and are the end.
        if head.is_interim() {
            return;
        }
        if mem::replace(&mut stream.has_answer, true) && block.ends_stream {
            head.response(&mut |head| sink.response_trailers(block.stream.into(), when, head));
            return;
        }
        head.response(&mut |head| sink.response_head(block.stream.into(), when, head));
    }

    /// A side has said all on a stream.
    fn end_side(&mut self, side: Side, number: u32, when: Nanos, sink: &mut dyn HttpSink) {
        let Some(stream) = self.streams.get_mut(&number) else { return };
        match side {
            Side::Request => {
                stream.request_ended = true;
                sink.request_end(number.into(), when, true);
            }
            Side::Response => {
                self.streams.remove(&number);
                sink.response_end(number.into(), when, true);
            }
        }
    }
}

impl Payload {
    fn of(header: Header) -> Self {
        Self {
            header,
            left: header.length,
            has_pad_length: header.is_padded(),
            preamble: header.preamble(),
            padding: 0,
        }
    }

    /// What of the next bytes, which are no more than are left, is of interest.
    fn take<'a>(&mut self, bytes: &'a [u8]) -> Result<&'a [u8], ()> {
        let mut content = bytes;
        if self.has_pad_length
            && let Some((length, others)) = content.split_first()
        {
            self.has_pad_length = false;
            self.padding = u32::from(*length);
            self.left -= 1;
            content = others;
            if self.padding + self.preamble > self.left {
                return Err(());
            }
        }
        let skipped = content.len().min(self.preamble as usize);
        self.preamble -= skipped as u32;
        self.left -= skipped as u32;
        content = &content[skipped..];
        let wanted = content.len().min(self.left.saturating_sub(self.padding) as usize);
        self.left -= content.len() as u32;
        Ok(&content[..wanted])
    }

    /// The next bytes, which are no more than are left, were not seen.
    fn skip(&mut self, len: u32) {
        self.left -= len;
        // Where the length of the padding was missed, the padding passes for content.
        let front = u32::from(mem::take(&mut self.has_pad_length));
        self.preamble = self.preamble.saturating_sub(len.saturating_sub(front));
    }
}

impl Block {
    fn begin(header: &Header, when: Nanos) -> Self {
        Self {
            stream: header.stream,
            started: when,
            ends_stream: header.ends_stream(),
            is_promise: header.kind == Kind::PushPromise,
            is_lost: false,
            bytes: Vec::new(),
        }
    }

    /// Returns whether it is whole so far.
    fn append(&mut self, bytes: &[u8]) -> bool {
        if self.bytes.len() + bytes.len() > MAX_BLOCK {
            self.lose();
        }
        if !self.is_lost {
            self.bytes.extend_from_slice(bytes);
        }
        !self.is_lost
    }

    fn lose(&mut self) {
        self.is_lost = true;
        self.bytes = Vec::new();
    }
}

fn report_gap(side: Side, stream: u32, len: Option<u64>, sink: &mut dyn HttpSink) {
    match side {
        Side::Request => sink.request_body_gap(stream.into(), len),
        Side::Response => sink.response_body_gap(stream.into(), len),
    }
}
