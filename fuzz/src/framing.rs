//! What ways of cutting a stream have in common: documents that end, in any pieces, with a gap.

use hbpf_core::framing::{Documents, EventStream, Ndjson, Sse};

use crate::input::Input;

/// A stream cut into documents.
pub(crate) trait Framing {
    fn new() -> Self;
    fn push(&mut self, bytes: &[u8], documents: &mut Log);
    fn gap(&mut self, documents: &mut Log);
    fn end(&mut self, documents: &mut Log);
}

macro_rules! framing {
    ($kind:ty) => {
        impl Framing for $kind {
            fn new() -> Self {
                Self::new()
            }
            fn push(&mut self, bytes: &[u8], documents: &mut Log) {
                self.push(bytes, documents);
            }
            fn gap(&mut self, documents: &mut Log) {
                self.gap(documents);
            }
            fn end(&mut self, documents: &mut Log) {
                self.end(documents);
            }
        }
    };
}

framing!(Sse);
framing!(Ndjson);
framing!(EventStream);

/// The documents that have ended.
#[derive(Default)]
pub(crate) struct Log {
    current: Vec<u8>,
    documents: Vec<Vec<u8>>,
    has_aborted: bool,
}

impl Documents for Log {
    fn bytes(&mut self, bytes: &[u8]) {
        self.current.extend_from_slice(bytes);
    }

    fn end(&mut self) {
        self.documents.push(std::mem::take(&mut self.current));
    }

    fn abort(&mut self) {
        self.current.clear();
        self.has_aborted = true;
    }
}

/// The first controls say where a gap lies, the others choose the pieces.
pub(crate) fn run<F: Framing>(data: &[u8]) {
    let mut input = Input::new(data);
    let (from, length) = (input.number() as usize, input.number() as usize);
    let whole = read::<F>(std::iter::once(input.payload));
    assert_eq!(read::<F>(input.pieces()), whole, "pieces mean what the whole means");
    let from = from % (input.payload.len() + 1);
    let to = (from + length % 4096 + 1).min(input.payload.len());
    // What is malformed may hide something that is not.
    if from >= to || whole.1 {
        return;
    }
    let (mut framing, mut log) = (F::new(), Log::default());
    framing.push(&input.payload[..from], &mut log);
    framing.gap(&mut log);
    framing.push(&input.payload[to..], &mut log);
    framing.end(&mut log);
    let mut rest = whole.0.iter();
    let is_part = log.documents.iter().all(|wanted| rest.any(|document| document == wanted));
    assert!(is_part, "a gap makes up no documents");
}

/// The documents, and whether there was something else.
fn read<'a, F: Framing>(pieces: impl Iterator<Item = &'a [u8]>) -> (Vec<Vec<u8>>, bool) {
    let (mut framing, mut log) = (F::new(), Log::default());
    pieces.for_each(|piece| framing.push(piece, &mut log));
    framing.end(&mut log);
    (log.documents, log.has_aborted)
}
