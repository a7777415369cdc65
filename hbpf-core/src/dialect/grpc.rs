//! Dialects whose bodies are gRPC's: protobuf messages, one or several, and an outcome behind them.
//!
//! A service is data: which fields matter, by method. The rest of its [`Definition`](super::definition::Definition) is as
//! everybody's.

use std::sync::LazyLock;

use super::definition::{RequestSlot, Slot};
use super::reading::{Events, Fields, Reading};
use super::{Facts, Output, xai};
use crate::body::Coding;
use crate::exchange::Dialect;
use crate::framing::{Documents, Grpc};
use crate::http1::{RequestHead, ResponseHead};
use crate::json::Visitor;
use crate::protobuf::{FieldSet, Scanner};
use crate::time::Nanos;

/// The messages of a service's calls.
pub(super) struct Service {
    pub(super) request: &'static LazyLock<FieldSet<RequestSlot>>,
    /// Of an answer that is one message.
    pub(super) whole: &'static LazyLock<FieldSet<Slot>>,
    /// Of each message of a streamed answer.
    pub(super) chunk: &'static LazyLock<FieldSet<Slot>>,
}

/// The messages of a dialect, if they are gRPC's.
pub(super) fn service(dialect: Dialect) -> Option<&'static Service> {
    match dialect {
        Dialect::XaiGrpc => Some(&xai::SERVICE),
        _ => None,
    }
}

/// Whether a content type is gRPC's over HTTP/2, whatever its messages are written in.
pub(super) fn is_grpc(content_type: &[u8]) -> bool {
    const NAME: &[u8] = b"application/grpc";
    let (name, rest) = content_type.split_at(content_type.len().min(NAME.len()));
    name.eq_ignore_ascii_case(NAME) && matches!(rest.first(), None | Some(b'+' | b';' | b' '))
}

/// The name of a status (grpc/doc/statuscodes.md), or its number where it has none; `None` if all went well.
fn error_type(status: &[u8]) -> Option<&[u8]> {
    const NAMES: [&str; 17] = [
        "OK",
        "CANCELLED",
        "UNKNOWN",
        "INVALID_ARGUMENT",
        "DEADLINE_EXCEEDED",
        "NOT_FOUND",
        "ALREADY_EXISTS",
        "PERMISSION_DENIED",
        "RESOURCE_EXHAUSTED",
        "FAILED_PRECONDITION",
        "ABORTED",
        "OUT_OF_RANGE",
        "UNIMPLEMENTED",
        "INTERNAL",
        "UNAVAILABLE",
        "DATA_LOSS",
        "UNAUTHENTICATED",
    ];
    let number: Option<usize> = std::str::from_utf8(status).ok().and_then(|status| status.trim().parse().ok());
    match number {
        Some(0) => None,
        Some(number) => Some(NAMES.get(number).map_or(status, |name| name.as_bytes())),
        None => Some(b"UNKNOWN"),
    }
}

/// How the messages under this head are compressed, those that are.
fn coding(value: Option<&[u8]>) -> Coding {
    Coding::from_name(value.unwrap_or_default().trim_ascii())
}

/// Reads a request's messages.
pub(super) struct RequestMessages {
    framing: Grpc,
    scanner: Scanner<RequestSlot>,
}

impl RequestMessages {
    pub(super) fn new(service: &'static Service) -> Self {
        Self { framing: Grpc::new(Coding::Identity), scanner: Scanner::new(service.request) }
    }

    pub(super) fn head(&mut self, head: &RequestHead<'_>) {
        self.framing = Grpc::new(coding(head.header("grpc-encoding")));
    }

    pub(super) fn memory(&self) -> usize {
        size_of::<Self>() + self.framing.memory()
    }

    /// Returns whether that cost anything.
    pub(super) fn shed(&mut self, visitor: &mut impl Visitor<RequestSlot>) -> bool {
        let (framing, mut into) = self.parts(visitor);
        framing.shed(&mut into)
    }

    pub(super) fn push(&mut self, bytes: &[u8], visitor: &mut impl Visitor<RequestSlot>) {
        let (framing, mut into) = self.parts(visitor);
        framing.push(bytes, &mut into);
    }

    pub(super) fn gap(&mut self, len: Option<u64>, visitor: &mut impl Visitor<RequestSlot>) {
        let (framing, mut into) = self.parts(visitor);
        framing.gap(len, &mut into);
    }

    pub(super) fn end(&mut self, visitor: &mut impl Visitor<RequestSlot>) {
        let (framing, mut into) = self.parts(visitor);
        framing.end(&mut into);
    }

    fn parts<'a, V>(&'a mut self, visitor: &'a mut V) -> (&'a mut Grpc, Into<'a, V>) {
        let Self { framing, scanner } = self;
        (framing, Into { scanner, visitor })
    }
}

/// A request's message on its way to whoever looks for values in it.
struct Into<'a, V> {
    scanner: &'a mut Scanner<RequestSlot>,
    visitor: &'a mut V,
}

impl<V: Visitor<RequestSlot>> Documents for Into<'_, V> {
    fn bytes(&mut self, bytes: &[u8]) {
        self.scanner.push(bytes, self.visitor);
    }

    fn missing(&mut self, len: u64) -> bool {
        self.scanner.missing(len)
    }

    fn end(&mut self) {
        let _ = self.scanner.end();
    }

    fn abort(&mut self) {
        self.scanner.begin();
    }
}

/// Reads an answer's messages.
pub(super) struct AnswerMessages {
    framing: Grpc,
    scanner: Scanner<Slot>,
    is_stream: bool,
}

impl AnswerMessages {
    pub(super) fn new(service: &'static Service, is_stream: bool) -> Self {
        let fields = if is_stream { service.chunk } else { service.whole };
        Self { framing: Grpc::new(Coding::Identity), scanner: Scanner::new(fields), is_stream }
    }

    pub(super) fn head(&mut self, head: &ResponseHead<'_>) {
        self.framing = Grpc::new(coding(head.header("grpc-encoding")));
    }

    pub(super) fn memory(&self) -> usize {
        size_of::<Self>() + self.framing.memory()
    }

    /// Returns whether that cost anything.
    pub(super) fn shed(&mut self, reading: &mut Reading, facts: &mut Facts) -> bool {
        self.read(reading, facts, Nanos::default(), &mut |_| {}, |framing, fields| framing.shed(fields))
    }

    pub(super) fn push(&mut self, bytes: &[u8], events: Events<'_>) {
        let Events { reading, facts, when, out } = events;
        self.read(reading, facts, when, out, |framing, fields| framing.push(bytes, fields));
    }

    pub(super) fn gap(&mut self, len: Option<u64>, reading: &mut Reading, facts: &mut Facts) {
        self.read(reading, facts, Nanos::default(), &mut |_| {}, |framing, fields| framing.gap(len, fields));
    }

    pub(super) fn end(&mut self, events: Events<'_>) {
        let Events { reading, facts, when, out } = events;
        self.read(reading, facts, when, out, |framing, fields| framing.end(fields));
    }

    fn read<T>(
        &mut self,
        reading: &mut Reading,
        facts: &mut Facts,
        when: Nanos,
        out: &mut dyn FnMut(Output),
        act: impl FnOnce(&mut Grpc, &mut Fields<'_>) -> T,
    ) -> T {
        let Self { framing, scanner, is_stream } = self;
        let events = Events { reading, facts, when, out };
        act(framing, &mut Fields { scanner, is_stream: *is_stream, events })
    }
}

/// What the end of an answer says of its outcome, if anything: trailers, or a head with nothing behind it.
pub(super) fn outcome<'a>(head: &ResponseHead<'a>) -> Option<Result<(), &'a [u8]>> {
    head.header("grpc-status").map(|status| error_type(status).map_or(Ok(()), Err))
}
