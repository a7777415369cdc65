//! AWS's event streams, and documents embedded in their messages.

use hbpf_core::framing::{Embedded, EventStream};

use crate::framing::{self, Framing, Log};

/// As [`framing::run`] says, of what messages hold and of what is embedded in that.
pub fn run(data: &[u8]) {
    framing::run::<EventStream>(data);
    framing::run::<Embedding>(data);
}

struct Embedding {
    stream: EventStream,
    embedded: Embedded,
}

impl Framing for Embedding {
    fn new() -> Self {
        Self { stream: EventStream::new(), embedded: Embedded::default() }
    }

    fn push(&mut self, bytes: &[u8], documents: &mut Log) {
        self.stream.push(bytes, &mut self.embedded.within(documents));
    }

    fn gap(&mut self, documents: &mut Log) {
        self.stream.gap(&mut self.embedded.within(documents));
    }

    fn end(&mut self, documents: &mut Log) {
        self.stream.end(&mut self.embedded.within(documents));
    }
}
