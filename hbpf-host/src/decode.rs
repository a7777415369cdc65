//! From the kernel's records to the core's pieces of streams.
//!
//! The integers of a record are untrusted: what makes no sense is no record.

use std::mem::offset_of;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hbpf_core::chunk::{Capture, Chunk, Close, ConnectionKey, Direction, Origin, Pid, Segment, Source, Verdict};
use hbpf_core::engine::{Engine, Observer};
use hbpf_core::sealed::{Hello, Report, Sealed};
use hbpf_core::time::Nanos;
use hbpf_ebpf::{RecordHeader, SealedReport, direction, flags, kind, source};

/// What a record says.
enum Record {
    /// Stream bytes of a TLS connection, or of standard input or output.
    InOrder,
    /// A TCP segment.
    Tcp,
    /// A TCP segment for a connection that is not accepted yet.
    Waiting,
    /// That connection has been accepted.
    Accepted,
    /// The connection has ended.
    Close(Close),
}

/// Sorts a record; `None` if it is none that we know.
fn classify(header: &RecordHeader) -> Option<Record> {
    // A handshake names what a process talks to (see [`look_outside`]); it is no message.
    if header.flags & flags::TLS_HELLO != 0 {
        return None;
    }
    match (header.kind, header.source) {
        (kind::CLOSE, source::TLS | source::TCP | source::STDIO) => Some(Record::Close(Close::Released)),
        (kind::DATA, source::TLS | source::STDIO) => Some(Record::InOrder),
        (kind::DATA, source::TCP) if header.flags & flags::LISTENER != 0 => Some(Record::Waiting),
        (kind::DATA, source::TCP) => Some(Record::Tcp),
        (kind::ACCEPTED, source::TCP) => Some(Record::Accepted),
        _ => None,
    }
}

/// Takes from a record what it says of a TLS connection on a socket, if it says anything. (That of a socket's end may be about
/// one.) The verdict is the kernel side's.
pub(crate) fn look_outside(sealed: &mut Sealed, header: &RecordHeader, bytes: &[u8]) -> Option<Verdict> {
    if header.source != source::TCP {
        return None;
    }
    let (when, connection, origin) = (Nanos(header.timestamp_ns), connection(header), origin(header));
    match header.kind {
        kind::DATA if header.flags & flags::TLS_HELLO != 0 => {
            let hello = Hello {
                when,
                connection,
                message: header.message,
                origin: &origin,
                direction: side(header)?,
                bytes,
                is_accepted: header.flags & flags::LISTENER == 0,
            };
            return Some(sealed.hello(&hello));
        }
        kind::SEALED => {
            let number = |at: usize| Some(u64::from_ne_bytes(*bytes.get(at..)?.first_chunk()?));
            let asked_ns = number(offset_of!(SealedReport, asked_ns))?;
            let report = Report {
                sent: number(offset_of!(SealedReport, sent))?,
                received: number(offset_of!(SealedReport, received))?,
                answered_after: (asked_ns != 0).then(|| header.timestamp_ns.saturating_sub(asked_ns)),
            };
            sealed.report(when, connection, &origin, report);
        }
        kind::CLOSE => sealed.close(when, connection),
        _ => {}
    }
    None
}

/// Hands a record to the engine; one that is none is passed over.
pub(crate) fn feed(engine: &mut Engine, observer: &mut dyn Observer, header: &RecordHeader, bytes: &[u8]) {
    if header.flags & flags::LAST != 0 {
        let [before, last] = halves(header);
        feed(engine, observer, &before, &[]);
        return feed(engine, observer, &last, bytes);
    }
    let origin = origin(header);
    match classify(header) {
        Some(Record::InOrder) => {
            if let Some(chunk) = chunk(header, &origin, bytes) {
                engine.chunk(&chunk, observer);
            }
        }
        Some(Record::Tcp) => {
            if let Some(segment) = segment(header, &origin, bytes) {
                engine.segment(&segment, observer);
            }
        }
        Some(Record::Waiting) => {
            if let Some(segment) = segment(header, &origin, bytes) {
                engine.waiting_segment(&segment);
            }
        }
        Some(Record::Accepted) => engine.accepted(connection(header), &origin, observer),
        Some(Record::Close(how)) => {
            let key = connection(header);
            if let Some(pid) = closer(header) {
                // Whoever has closed it last has most likely served it, and nobody holds it any more.
                engine.set_owner(key, Some(pid), observer);
            }
            engine.close(key, how, Nanos(header.timestamp_ns), observer);
        }
        None => {}
    }
}

/// The gap and the payload of a record whose payload stands last.
fn halves(header: &RecordHeader) -> [RecordHeader; 2] {
    let gap = header.original_len.saturating_sub(header.captured_len);
    let flags = header.flags & !flags::LAST;
    let before = RecordHeader { flags, original_len: gap, captured_len: 0, ..*header };
    let offset = header.offset.wrapping_add(gap.into());
    [before, RecordHeader { flags: flags & !flags::BEGIN, offset, original_len: header.captured_len, ..*header }]
}

/// The connection that a record belongs to.
fn connection(header: &RecordHeader) -> ConnectionKey {
    let source = match header.source {
        source::TLS => Source::Tls,
        source::STDIO => Source::Stdio,
        _ => Source::Tcp,
    };
    let pid = if source == Source::Tcp { 0 } else { header.pid };
    ConnectionKey { source, pid, handle: header.handle, generation: header.generation }
}

/// What a record says of its endpoint.
fn origin(header: &RecordHeader) -> Origin {
    let end = |address: &[u8; 16], port: u16| Some((ip(address, header.address_family)?, port));
    Origin {
        pid: (header.pid != 0).then_some(Pid(header.pid)),
        owner_is_certain: header.pid != 0
            && header.flags & (flags::INHERITED_OWNER | flags::CLOSER | flags::PASSED_ON) == 0,
        is_passed_on: header.flags & flags::PASSED_ON != 0,
        comm: header.comm,
        local: end(&header.local_address, header.local_port),
        remote: end(&header.remote_address, header.remote_port),
    }
}

/// The process that has closed a socket of which it is not known for certain who owns it.
fn closer(header: &RecordHeader) -> Option<Pid> {
    (header.pid != 0 && header.flags & flags::CLOSER != 0).then_some(Pid(header.pid))
}

fn ip(bytes: &[u8; 16], family: u8) -> Option<IpAddr> {
    match family {
        4 => Some(Ipv4Addr::new(bytes[0], bytes[1], bytes[2], bytes[3]).into()),
        // An IPv4 peer of a dual-stack socket is shown as what it is.
        6 => Some(Ipv6Addr::from(*bytes).to_canonical()),
        _ => None,
    }
}

/// A record of [`Record::InOrder`].
fn chunk<'a>(header: &RecordHeader, origin: &'a Origin, bytes: &'a [u8]) -> Option<Chunk<'a>> {
    Some(Chunk {
        when: Nanos(header.timestamp_ns),
        connection: connection(header),
        origin,
        direction: side(header)?,
        offset: header.offset,
        original_len: u64::from(header.original_len),
        bytes,
        message: header.message,
        begins_message: header.flags & flags::BEGIN != 0,
        capture: capture(header),
        follows_thinning: header.flags & flags::THINNED != 0,
        ends_stream: header.flags & flags::FIN != 0,
    })
}

/// A record of [`Record::Tcp`].
fn segment<'a>(header: &RecordHeader, origin: &'a Origin, bytes: &'a [u8]) -> Option<Segment<'a>> {
    Some(Segment {
        when: Nanos(header.timestamp_ns),
        connection: connection(header),
        origin,
        direction: side(header)?,
        // The kernel side counts on from where a segment begins, and numbers wrap.
        sequence: header.offset as u32,
        acknowledgement: header.ack,
        original_len: header.original_len,
        bytes,
        message: header.message,
        begins_message: header.flags & flags::BEGIN != 0,
        capture: capture(header),
        follows_thinning: header.flags & flags::THINNED != 0,
        fin: header.flags & flags::FIN != 0,
        rst: header.flags & flags::RST != 0,
    })
}

fn side(header: &RecordHeader) -> Option<Direction> {
    match header.direction {
        direction::SENT => Some(Direction::Sent),
        direction::RECEIVED => Some(Direction::Received),
        _ => None,
    }
}

fn capture(header: &RecordHeader) -> Capture {
    if header.flags & flags::CAPTURE != 0 { Capture::Positive } else { Capture::Awaiting }
}
