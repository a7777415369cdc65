//! How a streamed body is cut into documents: server-sent events, one document per line, the elements of an array, or messages
//! that say how long they are.
//!
//! Nothing is buffered here: a document's bytes go on as they come.

mod array;
mod embedded;
mod eventstream;
mod grpc;
mod ndjson;
mod sse;

pub use array::Array;
pub use embedded::Embedded;
pub use eventstream::{EventStream, MessageKind};
pub use grpc::Grpc;
pub use ndjson::Ndjson;
pub use sse::Sse;

/// Receives the documents of a stream, piece by piece.
pub trait Documents {
    /// More bytes of the current document.
    fn bytes(&mut self, bytes: &[u8]);

    /// The framing says so of the current document, which ends next. Few framings say anything.
    fn named(&mut self, _kind: MessageKind, _name: &[u8]) {}

    /// The next bytes of the current document, so many, were not seen, and more of it may come. Returns whether it can be read
    /// on; if not, it is given up.
    fn missing(&mut self, _len: u64) -> bool {
        false
    }

    /// The current document is over. The next bytes belong to another.
    fn end(&mut self);

    /// The rest of the current document was not seen.
    fn abort(&mut self);
}
