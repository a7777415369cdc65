//! Server-sent events.

use hbpf_core::framing::{Documents, Sse};

use crate::input::Input;

/// The documents that have ended.
#[derive(Default)]
pub(crate) struct Log {
    current: Vec<u8>,
    pub(crate) documents: Vec<Vec<u8>>,
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
    }
}

/// Whether `part` is `whole` with some left out.
pub(crate) fn is_part(part: &[Vec<u8>], whole: &[Vec<u8>]) -> bool {
    let mut rest = whole.iter();
    part.iter().all(|wanted| rest.any(|document| document == wanted))
}

/// The first controls say where a gap lies, the others choose the pieces.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let (from, length) = (input.number() as usize, input.number() as usize);
    let whole = read(std::iter::once(input.payload));
    assert_eq!(read(input.pieces()), whole, "pieces mean what the whole means");
    let from = from % (input.payload.len() + 1);
    let to = (from + length % 4096 + 1).min(input.payload.len());
    if from >= to {
        return;
    }
    let (mut sse, mut log) = (Sse::new(), Log::default());
    sse.push(&input.payload[..from], &mut log);
    sse.gap(&mut log);
    sse.push(&input.payload[to..], &mut log);
    sse.end(&mut log);
    assert!(is_part(&log.documents, &whole), "a gap makes up no events");
}

fn read<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Vec<Vec<u8>> {
    let (mut sse, mut log) = (Sse::new(), Log::default());
    pieces.for_each(|piece| sse.push(piece, &mut log));
    sse.end(&mut log);
    log.documents
}
