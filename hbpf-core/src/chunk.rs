//! What goes in: pieces of plaintext streams, in order or as TCP segments.

use std::net::IpAddr;

use crate::time::Nanos;

/// A thread-group id in the host's initial PID namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pid(pub u32);

/// Where a connection's bytes were seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Source {
    /// At the calls of a TLS library.
    Tls,
    /// On a TCP socket.
    Tcp,
    /// At a server's standard input and output.
    Stdio,
}

/// One endpoint of one connection, as the kernel side names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionKey {
    /// Where the bytes were seen.
    pub source: Source,
    /// TLS: the process, since one pointer means different things in different processes. Standard input and output: the
    /// process whose they are. TCP: 0.
    pub pid: u32,
    /// TLS: the connection object's address. TCP: the socket cookie, or a number like one. Standard input and output: a number
    /// that is the same for all.
    pub handle: u64,
    /// Tells re-uses of one `handle` apart.
    pub generation: u64,
}

/// Which way bytes go, seen from the process that owns the endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Direction {
    /// The process wrote them.
    Sent,
    /// The process read them.
    Received,
}

impl Direction {
    /// The other way.
    pub fn opposite(self) -> Self {
        match self {
            Self::Sent => Self::Received,
            Self::Received => Self::Sent,
        }
    }

    /// 0 or 1, for arrays of two.
    pub fn index(self) -> usize {
        self as usize
    }
}

/// What is known of an endpoint besides its bytes. Any part may be unknown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Origin {
    /// The owning process.
    pub pid: Option<Pid>,
    /// Whether `pid` is settled. An accepted socket shows the creator of its listener at first, who may only be the
    /// parent of the process that serves it.
    pub owner_is_certain: bool,
    /// Several processes have worked with this endpoint in turns: whoever it was before, this message may be another's.
    pub is_passed_on: bool,
    /// Name of the thread or process, NUL-padded; all zero where unknown.
    pub comm: [u8; 16],
    /// Address and port on this side.
    pub local: Option<(IpAddr, u16)>,
    /// Address and port of the peer.
    pub remote: Option<(IpAddr, u16)>,
}

/// How the kernel side looks at the message that a piece belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Capture {
    /// It looked like a model call: everything needed is copied.
    Positive,
    /// Nothing recognised it: only its beginning is copied, until a [`Verdict`] comes.
    Awaiting,
}

/// A piece of one direction of a connection, in stream order.
///
/// `offset` never decreases within a direction, except that a piece may repeat bytes already given (they are dropped).
/// Bytes between the end of one piece and the `offset` of the next are a gap.
#[derive(Clone, Copy, Debug)]
pub struct Chunk<'a> {
    /// When the kernel saw it.
    pub when: Nanos,
    /// The connection.
    pub connection: ConnectionKey,
    /// What is known of the endpoint.
    pub origin: &'a Origin,
    /// Which way the bytes go.
    pub direction: Direction,
    /// Position of the first byte in the direction's stream.
    pub offset: u64,
    /// How many bytes of the stream the piece stands for; those beyond `bytes` were not copied.
    pub original_len: u64,
    /// The bytes that were copied.
    pub bytes: &'a [u8],
    /// The number of client messages that have begun on this connection, counted by the kernel side.
    pub message: u32,
    /// Whether the kernel side holds this piece for the beginning of a client's message.
    pub begins_message: bool,
    /// How the kernel side looks at the message.
    pub capture: Capture,
    /// The kernel side left out what lies between the piece before and this one on purpose (a long body's middle).
    pub follows_thinning: bool,
    /// The sender has ended this direction with this piece (TCP FIN, end of the TLS stream).
    pub ends_stream: bool,
}

/// A TCP segment at one socket, not necessarily in order. See [`Chunk`] for the fields in common.
#[derive(Clone, Copy, Debug)]
pub struct Segment<'a> {
    /// When it passed the socket's hook.
    pub when: Nanos,
    /// The connection.
    pub connection: ConnectionKey,
    /// What is known of the endpoint.
    pub origin: &'a Origin,
    /// Which way it goes.
    pub direction: Direction,
    /// TCP sequence number of the first byte.
    pub sequence: u32,
    /// The sequence number up to which the socket has received everything, when this segment passed (TCP's `rcv_nxt`);
    /// 0 where it is not known. It is the socket's own word, whichever way the segment goes.
    pub acknowledgement: u32,
    /// Payload bytes of the segment from `sequence` on.
    pub original_len: u32,
    /// The bytes that were copied.
    pub bytes: &'a [u8],
    /// As in [`Chunk`].
    pub message: u32,
    /// As in [`Chunk`].
    pub begins_message: bool,
    /// As in [`Chunk`].
    pub capture: Capture,
    /// As in [`Chunk`].
    pub follows_thinning: bool,
    /// The segment carries FIN.
    pub fin: bool,
    /// The segment carries RST.
    pub rst: bool,
}

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Close {
    /// Its owner let go of it (socket released, connection object freed).
    Released,
    /// It was reset, by `Direction`'s sender.
    Reset(Direction),
    /// Its owner has exited.
    ProcessExited,
}

/// What the kernel side shall do with a client's message and its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Not a model call: copy nothing more of it.
    Ignore,
    /// A model call: copy the rest.
    Capture,
    /// Of each further piece of the answer only the tail is needed.
    ThinResponse,
    /// Never look at this connection again.
    Opaque,
    /// The connection carries model calls until its end, and is no longer made up of requests and answers in turns: copy both
    /// directions, and look for no beginning of a message.
    Stream,
}

/// The engine's judgement of one client message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// The connection.
    pub connection: ConnectionKey,
    /// Which message, as [`Chunk::message`].
    pub message: u32,
    /// What to do.
    pub action: Action,
}
