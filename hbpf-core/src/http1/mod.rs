//! HTTP/1 seen passively: both sides of a connection, whole or with gaps.

mod head;

pub use head::{NotHttp, RequestHead, ResponseHead};

use crate::time::Nanos;

/// A side of a connection by role: who sends requests and who answers them, whichever of them is observed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Side {
    /// What the client sends.
    Request,
    /// What the server sends.
    Response,
}

/// What happens on a connection, in stream order per side.
///
/// `exchange` numbers the requests of the connection 0, 1, 2 and so on; a response carries the number of the request
/// that it answers. A response may end before its request does (a refused upload).
pub trait HttpSink {
    /// A request's head is complete; `started` is when its first byte came.
    fn request_head(&mut self, exchange: u64, when: Nanos, started: Nanos, head: &RequestHead<'_>);
    /// Bytes of a request's body, freed from chunk framing, still compressed.
    fn request_body(&mut self, exchange: u64, when: Nanos, bytes: &[u8]);
    /// Bytes of a request's body are missing; how many may be unknown.
    fn request_body_gap(&mut self, exchange: u64, len: Option<u64>);
    /// The request has ended. `complete` is false where it was cut short.
    fn request_end(&mut self, exchange: u64, when: Nanos, complete: bool);
    /// A final response's head is complete. Interim responses (1xx) are not reported.
    fn response_head(&mut self, exchange: u64, when: Nanos, head: &ResponseHead<'_>);
    /// Bytes of a response's body, freed from chunk framing, still compressed.
    fn response_body(&mut self, exchange: u64, when: Nanos, bytes: &[u8]);
    /// Bytes of a response's body are missing; how many may be unknown.
    fn response_body_gap(&mut self, exchange: u64, len: Option<u64>);
    /// The response has ended, or will never come. `complete` is false where it did not end as its framing said.
    fn response_end(&mut self, exchange: u64, when: Nanos, complete: bool);
    /// The connection speaks another protocol from here on (101, or CONNECT accepted). Nothing more is reported.
    fn upgraded(&mut self, exchange: u64, when: Nanos);
    /// Bytes that are no HTTP where a message should begin, or framing that contradicts itself.
    fn desync(&mut self, side: Side);
}

/// One HTTP/1 connection.
#[derive(Debug, Default)]
pub struct Http1 {}

impl Http1 {
    /// A connection of which nothing has been seen yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// The next bytes of one side.
    pub fn push(&mut self, side: Side, when: Nanos, bytes: &[u8], sink: &mut dyn HttpSink) {
        let _ = (side, when, bytes, sink);
    }

    /// `len` bytes of one side were not seen.
    pub fn gap(&mut self, side: Side, when: Nanos, len: u64, sink: &mut dyn HttpSink) {
        let _ = (side, when, len, sink);
    }

    /// The side's sender has ended its stream: completes a body that lasts until then, cuts any other.
    pub fn end(&mut self, side: Side, when: Nanos, sink: &mut dyn HttpSink) {
        let _ = (side, when, sink);
    }

    /// The kernel side holds the next bytes of [`Side::Request`] for the beginning of a message.
    pub fn message_begins(&mut self, when: Nanos, sink: &mut dyn HttpSink) {
        let _ = (when, sink);
    }
}
