//! The state machine of one flow: which of its bytes leave the kernel.
//!
//! It is the same for TLS calls and TCP segments; what differs between them is behind [`Source`]. Everything that must
//! outlive a call lies in map memory, so that the frames of the programs stay small.

use aya_ebpf::helpers::bpf_ktime_get_ns;
use hbpf_ebpf::{
    BEGINNING_BYTES, COMPRESSED_REQUEST_BYTES, FlowKey, HEAD_BYTES, HELLO_BYTES, LARGEST_RECORD, REQUEST_HEAD_BYTES,
    RecordHeader, TAIL_BYTES, action, counter, direction, flags,
};

use crate::{
    emit, http2,
    maps::VERDICTS_BY_FLOW,
    number::{bounded, forgotten, masked},
    target::{self, Found},
};

/// No beginning has been seen yet.
const IDLE: u8 = 0;
/// A request line has begun and is not complete.
const BEGINNING: u8 = 1;
/// The beginning of a message that no pattern recognised has gone to user space, which has not answered yet.
const AWAITING: u8 = 2;
/// A model call: both directions are copied.
pub const CAPTURE: u8 = 3;
/// Not a model call: nothing is copied until the next message begins.
const IGNORE: u8 = 4;
/// Nothing is copied any more.
pub const OPAQUE: u8 = 5;
/// The rest cannot be read. TCP only: see [`crate::sealed`].
pub const SEALED: u8 = 8;

/// Value of [`Flow::request_side`] and [`Flow::last_side`] before the first piece.
const NO_SIDE: u8 = 0;

/// User space has seen something of this flow and waits for its end.
pub const EMITTED: u8 = 1 << 0;
/// The body of the request under way is compressed.
const COMPRESSED: u8 = 1 << 1;
/// Of the answer under way only the tail of each piece is needed.
const THIN: u8 = 1 << 2;
/// The ring had no room for something of the message under way or its answer.
pub const LOST: u8 = 1 << 3;
/// The connection is not, or no longer, made up of requests and answers in turns: HTTP/2, or what user space says to be a stream.
/// What is decided is decided of all of it.
pub const WHOLE: u8 = 1 << 4;
/// The request under way may ask for a connection over which models are called.
const MAY_UPGRADE: u8 = 1 << 5;
/// User space need not hear of the request under way unless a pattern fits.
const UNHEARD: u8 = 1 << 6;

/// A bit that [`AWAITING`] and [`CAPTURE`] have, and no other.
const HEARD: u8 = AWAITING & CAPTURE;

/// A bit that `GET` has not in its first letter, and `POST` has.
const NOT_IN_GET: u8 = 1 << 4;

const _: () = assert!(MAY_UPGRADE == NOT_IN_GET << 1 && Found::Match as u8 == 2 && (Found::None as u8) < 2);
const _: () = assert!(THIN == 1 << (action::THIN_RESPONSE - 1) && WHOLE == 1 << (action::STREAM - 1));

/// How many bytes of a request line that comes in several segments are remembered. Half the head: see [`State::head`].
const TCP_HELD_BYTES: u32 = HEAD_BYTES as u32 / 2;

/// How many bytes tell a beginning from other bytes: the longest method and its space.
const SNIFFED_BYTES: usize = 8;

/// Records of the largest class that one piece may become. What is beyond is dropped but for its tail.
pub const RECORDS_PER_PIECE: u32 = 8;

/// Bytes that may be copied of one piece.
const MOST_BYTES: u32 = RECORDS_PER_PIECE * LARGEST;

const LARGEST: u32 = LARGEST_RECORD as u32;

/// Answer pieces up to this size are copied without asking for a verdict: events of a stream are smaller.
const UNASKED_ANSWER_BYTES: u32 = 2048;

/// No piece of a request is asked about for its length: none is longer.
const UNASKED_REQUEST_BYTES: u32 = 1 << 26;

/// What is remembered of a flow. All zeros is a flow of which nothing has been seen.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Flow {
    pub key: FlowKey,
    pub mode: u8,
    /// The direction of requests, plus one.
    request_side: u8,
    /// The direction of the piece before, plus one.
    last_side: u8,
    pub marks: u8,
    /// Client messages that have begun.
    pub message: u32,
    /// Bytes of the request under way.
    request_seen: u32,
    /// Bytes of the request under way that have been emitted without a match.
    beginning_emitted: u32,
    /// Bytes of the request line that are held back until it is complete.
    held: u32,
    /// Whether the piece before the one under way went the other way: a message begins here. (Noted in the piece, the
    /// verifier would follow both cases through all that comes.)
    pub opens: u32,
    /// TLS: when the first of the held bytes was seen.
    held_since_ns: u64,
}

impl Flow {
    /// A flow of which nothing has been seen.
    pub const fn new(key: FlowKey) -> Self {
        Self {
            key,
            mode: IDLE,
            request_side: NO_SIDE,
            last_side: NO_SIDE,
            marks: 0,
            message: 0,
            request_seen: 0,
            beginning_emitted: 0,
            held: 0,
            opens: 0,
            held_since_ns: 0,
        }
    }

    /// Whether the other side has sent the piece before this one.
    #[inline(always)]
    pub fn turns_to(&self, piece: &Piece) -> bool {
        self.last_side != side(piece)
    }

    /// Whether the piece, which has been decided on, has begun within so many bytes of a request. SDKs send head and body apart.
    #[inline(always)]
    pub fn is_request_within(&self, piece: &Piece, bytes: u32) -> bool {
        self.request_side == side(piece) && self.request_seen.wrapping_sub(piece.len) < bytes
    }

    /// Whether this is the direction of requests, plus one.
    #[inline(always)]
    pub fn is_request_side(&self, side: u8) -> bool {
        self.request_side == side
    }

    /// Whether the piece begins a request that may be a call or the answer to one, for all that is known before it is looked at.
    #[inline(always)]
    pub fn may_begin_with(&self, piece: &Piece) -> bool {
        let is_ignored = self.mode == IGNORE && self.request_side != side(piece);
        self.turns_to(piece) && self.mode != OPAQUE && !is_ignored
    }

    /// Whether a request is coming in and its answer has not begun.
    #[inline(always)]
    pub fn is_asked(&self) -> bool {
        self.request_side == direction::RECEIVED + 1 && self.last_side == self.request_side
    }

    /// What was seen of this turn was not part of the stream: so many messages had begun before.
    #[inline(always)]
    pub fn take_back_turn(&mut self, message: u32) {
        self.last_side = NO_SIDE;
        self.message = message;
    }
}

/// A run of bytes that was seen at once: what one TLS call moved, or the payload of one segment.
#[repr(C)]
pub struct Piece {
    /// When it was seen, or began to be written. TCP: set once something of it leaves the kernel; most of what passes does not.
    pub timestamp_ns: u64,
    /// TLS: when a long write was through; 0 where `timestamp_ns` says that.
    pub written_ns: u64,
    /// Stream offset of the first byte.
    pub offset: u64,
    pub len: u32,
    /// TCP: acknowledgement number.
    pub ack: u32,
    /// TCP: where the payload begins in the packet.
    pub payload_at: u32,
    /// How many bytes from the first on are to be emitted.
    pub whole: u32,
    /// How many bytes up to the last are to be emitted besides.
    pub tail: u32,
    /// How many bytes the last record of `whole` stands for beyond those it holds.
    pub left_out: u32,
    /// How many bytes that the flow has held back are to be emitted first.
    pub held: u32,
    pub flags: u16,
    pub direction: u8,
    /// Whether what lies between `whole` and `tail` is missing, and not left out on purpose.
    pub is_cut: u8,
}

impl Piece {
    /// A piece of which nothing is to be emitted yet.
    pub const fn new(offset: u64, len: u32, direction: u8) -> Self {
        Self {
            timestamp_ns: 0,
            written_ns: 0,
            offset,
            len,
            ack: 0,
            payload_at: 0,
            whole: 0,
            tail: 0,
            left_out: 0,
            held: 0,
            flags: 0,
            direction,
            is_cut: 0,
        }
    }

    /// Makes another piece of it that goes the same way.
    #[inline(always)]
    pub fn renew(&mut self, timestamp_ns: u64, offset: u64, len: u32) {
        *self = Self { timestamp_ns, ..Self::new(offset, len, self.direction) };
    }

    /// When all of it was there.
    #[inline(always)]
    pub fn now(&self) -> u64 {
        if self.written_ns != 0 { self.written_ns } else { self.timestamp_ns }
    }

    /// What is emitted from here on is not the beginning: of that it is known that it has left when all had.
    #[inline(always)]
    pub fn begin_is_past(&mut self) {
        self.timestamp_ns = self.now();
    }

    /// Lets the verifier forget what it knows of the numbers: it would follow every way of deciding on them, and every
    /// number of bytes, through all that comes after.
    #[inline(always)]
    pub fn forget(&mut self) {
        let unknown = self.offset;
        self.whole = forgotten(self.whole, unknown);
        self.tail = forgotten(self.tail, unknown);
        self.len = forgotten(self.len, unknown);
        self.left_out = forgotten(self.left_out, unknown);
        self.held = forgotten(self.held, unknown);
        self.flags = forgotten(self.flags.into(), unknown) as u16;
    }
}

/// A map value that holds a flow and room for the beginning of a message.
pub trait State {
    fn flow(&mut self) -> &mut Flow;

    /// What follows cannot be read. Its head is used otherwise from here on.
    fn begin_sealed(&mut self, _first: &Piece) {}

    /// TCP: the sequence number up to which the socket has received everything, 0 where that is not known.
    fn taken(&self) -> u32 {
        0
    }

    /// Room for [`HEAD_BYTES`] and, for what is not TCP, as much again: the verifier adds up the largest place and the
    /// largest length.
    fn head(&mut self) -> *mut u8;
}

/// Where the bytes of a piece are to be had.
pub trait Source: Copy {
    type State: State;

    /// The bytes of the piece that a flow has held back, as a source.
    type Held: Source<State = Self::State>;

    /// Whether pieces are TCP segments.
    const TCP: bool;

    /// Records of the largest class that a piece may become at most. The verifier follows each of them, and takes half
    /// a second for sixteen of a segment's.
    const MOST_RECORDS: u32;

    /// Copies `len` bytes of the piece, beginning at `from`. The caller has proved to the verifier that they fit.
    fn read(self, piece: &Piece, from: u32, to: *mut u8, len: u64) -> bool;

    /// The bytes in the state's head.
    fn held(state: &mut Self::State) -> Self::Held;

    /// Fills in what the record's header says about the endpoint.
    fn describe(self, state: &mut Self::State, header: &mut RecordHeader);
}

/// Looks at a piece of a flow and emits what is to be had of it. Only the next piece in the stream's order takes the flow
/// a step further: what is repeated, forged or out of its turn changes nothing.
#[inline(always)]
pub fn observe<S: Source>(source: S, state: &mut S::State, piece: &mut Piece, is_next: bool) {
    if is_next {
        decide(source, state, piece);
    } else if state.flow().mode == CAPTURE {
        take(piece, MOST_BYTES, false);
    }
    hand_out(source, state, piece);
}

/// Emits of a piece what has been decided on.
#[inline(always)]
pub fn hand_out<S: Source>(source: S, state: &mut S::State, piece: &mut Piece) {
    if !S::TCP && piece.held > 0 {
        emit_held::<S>(state, piece);
    }
    if piece.whole + piece.tail > 0 {
        if S::TCP {
            // SAFETY: a helper without arguments.
            piece.timestamp_ns = unsafe { bpf_ktime_get_ns() };
        }
        emit::emit(source, state, piece);
    }
}

/// Emits the bytes that were held back while the request line was incomplete, stamped with the time of the first.
#[inline(always)]
fn emit_held<S: Source>(state: &mut S::State, piece: &mut Piece) {
    let held = u64::from(piece.held);
    let left_out = piece.left_out;
    core::mem::swap(&mut piece.timestamp_ns, &mut state.flow().held_since_ns);
    piece.offset -= held;
    piece.left_out = 0;
    emit::emit_held(S::held(state), state, piece);
    piece.left_out = left_out;
    piece.offset += held;
    core::mem::swap(&mut piece.timestamp_ns, &mut state.flow().held_since_ns);
}

/// Takes the flow a step further and notes in the piece what of it is to be emitted.
#[inline(never)]
pub fn decide<S: Source>(source: S, state: &mut S::State, piece: &mut Piece) {
    let flow = state.flow();
    let side = side(piece);
    let turned = flow.last_side != side;
    flow.last_side = side;
    flow.opens = turned.into();
    if flow.mode == OPAQUE {
        return;
    }
    let mut first_frame = 0;
    let may_begin = turned && flow.marks & WHOLE == 0;
    if may_begin && (flow.request_side == NO_SIDE || flow.request_side == side) {
        let sniffed = sniff(source, state, piece);
        let mut unheard = 0;
        if let Sniffed::NoCall = sniffed {
            let flow = state.flow();
            if flow.mode == AWAITING {
                obey_verdict(flow);
            }
            if flow.mode == OPAQUE {
                return;
            }
            // User space hears of a message that follows a call, or what may be one: that is over.
            unheard = (!flow.mode & HEARD) * (UNHEARD / HEARD);
            emit::count(counter::MESSAGES_IGNORED, (unheard / UNHEARD).into());
        }
        match sniffed {
            Sniffed::Request | Sniffed::NoCall => {
                let flow = state.flow();
                begin(flow, piece);
                flow.marks |= forgotten(unheard.into(), piece.offset) as u8;
            }
            Sniffed::TlsHello => begin_tls(state, piece),
            Sniffed::Http2 => {
                begin_http2(state.flow(), piece);
                first_frame = http2::PREFACE_BYTES;
            }
            Sniffed::OlderHttp2 => begin_http2(state.flow(), piece),
            Sniffed::Nothing => {}
        }
    }
    piece.forget();
    if state.flow().marks & WHOLE != 0 {
        return decide_whole(source, state, piece, forgotten(first_frame, piece.offset));
    }
    let mode = state.flow().mode;
    match mode {
        BEGINNING => read_request_line(source, state, piece),
        AWAITING => obey_verdict(state.flow()),
        CAPTURE if is_worth_asking(state.flow(), piece) => obey_verdict(state.flow()),
        _ => {}
    }
    let (mode, is_request) = (state.flow().mode, state.flow().request_side == side);
    match mode {
        BEGINNING if S::TCP && is_request => take_beginning(state.flow(), piece),
        AWAITING if is_request => take_beginning(state.flow(), piece),
        CAPTURE if is_request => take_request(source, state, piece),
        CAPTURE => take_answer(state.flow(), piece),
        _ => {}
    }
}

#[inline(always)]
fn side(piece: &Piece) -> u8 {
    piece.direction + 1
}

enum Sniffed {
    Nothing,
    /// A request that may be a model call.
    Request,
    /// A request that is none, and nothing behind it.
    NoCall,
    TlsHello,
    /// An HTTP/2 connection.
    Http2,
    /// A request on an HTTP/2 connection that is older.
    OlderHttp2,
}

/// Whether the piece looks like the beginning of a client's message.
#[inline(never)]
fn sniff<S: Source>(source: S, state: &mut S::State, piece: &Piece) -> Sniffed {
    let head = state.head();
    let len = piece.len.min(SNIFFED_BYTES as u32);
    if !source.read(piece, 0, head, bounded::<SNIFFED_BYTES>(len)) {
        emit::count(counter::READ_FAULT, 1);
        return Sniffed::Nothing;
    }
    // SAFETY: the head is room for that much and lies at a multiple of eight.
    let word = unsafe { head.cast::<u64>().read() };
    if S::TCP && target::is_client_hello(word, len) {
        Sniffed::TlsHello
    } else if http2::is_preface(word, len) {
        Sniffed::Http2
    } else if http2::is_headers(word, len) {
        Sniffed::OlderHttp2
    } else if target::is_request(word, len) {
        let is_alone = !target::may_be_call(word, len) && ends_head(source, state, piece);
        if is_alone { Sniffed::NoCall } else { Sniffed::Request }
    } else {
        Sniffed::Nothing
    }
}

/// Whether the piece ends where a head does. A client that pipelines may have put another request behind the first.
#[inline(always)]
fn ends_head<S: Source>(source: S, state: &mut S::State, piece: &Piece) -> bool {
    let head = state.head();
    if piece.len < SNIFFED_BYTES as u32 || !source.read(piece, piece.len - 4, head, 4) {
        return false;
    }
    // SAFETY: the head is room for that much and lies at a multiple of eight.
    let last = unsafe { head.cast::<u32>().read() };
    last == u32::from_le_bytes(*b"\r\n\r\n")
}

/// The piece begins a TLS handshake: user space wants its server name, and the rest is not readable.
#[inline(always)]
fn begin_tls<S: State>(state: &mut S, piece: &mut Piece) {
    state.begin_sealed(piece);
    let flow = state.flow();
    flow.mode = SEALED;
    flow.request_side = side(piece);
    flow.message = flow.message.wrapping_add(1);
    piece.flags |= flags::BEGIN | flags::TLS_HELLO;
    piece.whole = piece.len.min(HELLO_BYTES);
    piece.left_out = piece.len - piece.whole;
}

/// The piece begins an HTTP/2 connection, or what is seen of it.
#[inline(always)]
fn begin_http2(flow: &mut Flow, piece: &mut Piece) {
    // A call over HTTP/1 may have asked for this, and its answer is still to come.
    let is_captured = flow.mode == CAPTURE && flow.request_side == side(piece);
    begin(flow, piece);
    flow.marks |= WHOLE;
    flow.mode = if is_captured { CAPTURE } else { AWAITING };
    piece.flags |= flags::BEGIN;
}

/// A piece of an HTTP/2 connection, whose frames begin there, if it is the first. Once one of its requests is a model call
/// everything is copied, for requests and answers are interleaved. Before that, the beginning of each request is, with what
/// the server says meanwhile. Of a connection that has been upgraded to a stream everything is copied, too.
#[inline(never)]
fn decide_whole<S: Source>(source: S, state: &mut S::State, piece: &mut Piece, first_frame: u32) {
    if state.flow().mode == AWAITING {
        obey_verdict(state.flow());
        if state.flow().mode == IGNORE {
            // User space says that it is something else, or goes the other way.
            let flow = state.flow();
            flow.marks &= !WHOLE;
            flow.mode = IDLE;
            flow.request_side = NO_SIDE;
            return;
        }
    }
    let is_request = state.flow().request_side == side(piece);
    if state.flow().mode == AWAITING && is_request {
        if begins_with_headers(source, state, piece) {
            state.flow().beginning_emitted = 0;
        }
        if http2::calls_model(source, state, piece, first_frame) {
            state.flow().mode = CAPTURE;
        }
    }
    match state.flow().mode {
        CAPTURE => take(piece, MOST_BYTES, true),
        AWAITING => take_beginning(state.flow(), piece),
        _ => {}
    }
}

/// Whether the piece begins with the head of a request.
#[inline(always)]
fn begins_with_headers<S: Source>(source: S, state: &mut S::State, piece: &Piece) -> bool {
    let head = state.head();
    let len = piece.len.min(SNIFFED_BYTES as u32);
    // SAFETY: the head is room for that much and lies at a multiple of eight.
    source.read(piece, 0, head, bounded::<SNIFFED_BYTES>(len))
        && http2::is_headers(unsafe { head.cast::<u64>().read() }, len)
}

/// The piece begins a request, or may: it is shorter than a method.
#[inline(always)]
fn begin(flow: &mut Flow, piece: &Piece) {
    flow.mode = BEGINNING;
    flow.request_side = side(piece);
    flow.marks &= EMITTED;
    flow.message = flow.message.wrapping_add(1);
    flow.request_seen = 0;
    flow.beginning_emitted = 0;
    flow.held = 0;
    flow.held_since_ns = piece.timestamp_ns;
}

/// Adds the piece to the request line and decides once the target is complete.
///
/// Servers that read TLS byte by byte are common, and what they have read is held back until then. Over TCP only a client
/// that writes so is seen so, which is rare: there the pieces are emitted as they come.
#[inline(never)]
fn read_request_line<S: Source>(source: S, state: &mut S::State, piece: &mut Piece) {
    let flow = state.flow();
    if flow.request_side != side(piece) {
        // An answer to half a request line.
        flow.mode = IGNORE;
        return;
    }
    let held = flow.held.min(HEAD_BYTES as u32 - 1);
    let taken = append_to_head(source, state, piece, held);
    // What is known of these numbers here would make the verifier follow the search below once for each way to them.
    let (held, len) = (forgotten(held, piece.offset), forgotten(held + taken, piece.offset));
    let found = target::find(state.head(), len);
    // SAFETY: the head has a first byte.
    let method = unsafe { *state.head() };
    let flow = state.flow();
    let room = if S::TCP { TCP_HELD_BYTES } else { HEAD_BYTES as u32 };
    let is_open = found == Found::Incomplete && len < room;
    if held == 0 && S::TCP || !is_open && !S::TCP {
        piece.flags |= flags::BEGIN;
    }
    if is_open {
        flow.held = len;
        return;
    }
    // In arithmetic: the verifier would follow each way to these through all that comes after.
    let (is_match, is_unheard) = (found as u8 >> 1, flow.marks >> UNHEARD.trailing_zeros() & 1);
    let is_ignored = (1 - is_match) & is_unheard;
    flow.mode = AWAITING + is_match * (CAPTURE - AWAITING) + is_ignored * (IGNORE - AWAITING);
    flow.marks |= (!method & NOT_IN_GET) << 1;
    if !S::TCP {
        flow.request_seen = held;
        flow.beginning_emitted = held;
        piece.held = held;
    }
}

/// Copies the piece behind the bytes of the request line seen so far, and says how many bytes that adds.
#[inline(always)]
fn append_to_head<S: Source>(source: S, state: &mut S::State, piece: &Piece, held: u32) -> u32 {
    let head = state.head();
    let (taken, was_read) = if S::TCP && held > 0 {
        let taken = piece.len.min(TCP_HELD_BYTES);
        // SAFETY: `held` is less than TCP_HELD_BYTES, and twice that is room in the head.
        let place = unsafe { head.add(masked::<{ TCP_HELD_BYTES as usize }>(held) as usize) };
        (taken, source.read(piece, 0, place, bounded::<{ TCP_HELD_BYTES as usize }>(taken)))
    } else {
        let taken = piece.len.min(HEAD_BYTES as u32 - held);
        // SAFETY: `held` is less than HEAD_BYTES, and where it is not 0 there is room for as much again behind it.
        let place = unsafe { head.add(if S::TCP { 0 } else { masked::<HEAD_BYTES>(held) as usize }) };
        (taken, source.read(piece, 0, place, bounded::<HEAD_BYTES>(taken)))
    };
    if was_read {
        return taken;
    }
    emit::count(counter::READ_FAULT, 1);
    0
}

/// Whether the piece is worth asking whether its answer is needed whole, or what has become of the connection.
#[inline(always)]
fn is_worth_asking(flow: &Flow, piece: &Piece) -> bool {
    // In arithmetic: each way to the answer would be followed. A connection that may be another now is always asked about.
    let unasked = if flow.request_side != side(piece) { UNASKED_ANSWER_BYTES } else { UNASKED_REQUEST_BYTES };
    let weight = piece.len + u32::from(flow.marks & MAY_UPGRADE) * UNASKED_REQUEST_BYTES;
    weight > unasked && flow.marks & THIN == 0
}

/// The message under way is no model call.
#[inline(always)]
fn ignore(flow: &mut Flow) {
    flow.mode = IGNORE;
    emit::count(counter::MESSAGES_IGNORED, 1);
}

/// Takes the verdict about the message under way over into the flow, if there is one.
#[inline(always)]
fn obey_verdict(flow: &mut Flow) {
    // SAFETY: an entry that is replaced while it is read can only be about another message or mix two actions.
    let Some(verdict) = (unsafe { VERDICTS_BY_FLOW.get(&flow.key) }) else { return };
    if verdict.message != flow.message {
        return;
    }
    match verdict.action {
        action::IGNORE => ignore(flow),
        action::CAPTURE => flow.mode = CAPTURE,
        // The mark, THIN or WHOLE, is that of the action.
        action::THIN_RESPONSE | action::STREAM => {
            flow.mode = CAPTURE;
            flow.marks |= 1 << (verdict.action - 1);
        }
        action::OPAQUE => flow.mode = OPAQUE,
        _ => {}
    }
}

/// A piece of a message that nothing has recognised.
#[inline(always)]
fn take_beginning(flow: &mut Flow, piece: &mut Piece) {
    flow.request_seen = flow.request_seen.saturating_add(piece.len);
    let len = piece.len.min(BEGINNING_BYTES.saturating_sub(flow.beginning_emitted));
    flow.beginning_emitted += len;
    piece.whole = len;
    piece.left_out = piece.len - len;
}

/// A piece of a model call's request: whole near its beginning, then only the tail.
#[inline(never)]
fn take_request<S: Source>(source: S, state: &mut S::State, piece: &mut Piece) {
    let seen = state.flow().request_seen;
    // What completes a request line is no body, and the head still holds the bytes before it.
    let may_begin_body = seen > 0 && seen < REQUEST_HEAD_BYTES && piece.len >= 4 && piece.held == 0;
    if may_begin_body && source.read(piece, 0, state.head(), 4) {
        // SAFETY: the head is room for that much and lies at a multiple of eight.
        let magic = unsafe { state.head().cast::<u32>().read() };
        if target::is_compressed(magic) {
            state.flow().marks |= COMPRESSED;
        }
    }
    let flow = state.flow();
    flow.request_seen = seen.saturating_add(piece.len);
    // What comes behind a head that asks for an upgrade are messages of their own, before user space has said that they are.
    let (budget, most) = if flow.marks & (COMPRESSED | MAY_UPGRADE) != 0 {
        (COMPRESSED_REQUEST_BYTES, S::MOST_RECORDS * LARGEST)
    } else {
        (REQUEST_HEAD_BYTES, MOST_BYTES)
    };
    let wanted = budget.saturating_sub(seen);
    take(piece, wanted.min(most), wanted > most);
}

/// A piece of a model call's answer.
#[inline(always)]
fn take_answer(flow: &Flow, piece: &mut Piece) {
    if flow.marks & THIN != 0 {
        take(piece, 0, false);
    } else if piece.len > MOST_BYTES {
        take(piece, MOST_BYTES - TAIL_BYTES, true);
    } else {
        take(piece, piece.len, false);
    }
}

/// Emits up to `whole` bytes of the piece's beginning and the tail of what remains. What lies between is missing, or left
/// out on purpose.
#[inline(always)]
fn take(piece: &mut Piece, whole: u32, is_cut: bool) {
    piece.flags |= flags::CAPTURE;
    piece.whole = piece.len.min(whole);
    let rest = piece.len - piece.whole;
    piece.tail = rest.min(TAIL_BYTES);
    if rest <= piece.tail {
        return;
    }
    piece.is_cut = is_cut.into();
    if !is_cut {
        emit::count(counter::THINNED_BYTES, rest - piece.tail);
    }
}
