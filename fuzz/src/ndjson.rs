//! One document a line.

use hbpf_core::framing::Ndjson;

use crate::input::Input;
use crate::sse::{Log, is_part};

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
    let (mut lines, mut log) = (Ndjson::new(), Log::default());
    lines.push(&input.payload[..from], &mut log);
    lines.gap(&mut log);
    lines.push(&input.payload[to..], &mut log);
    lines.end(&mut log);
    assert!(is_part(&log.documents, &whole), "a gap makes up no lines");
}

fn read<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Vec<Vec<u8>> {
    let (mut lines, mut log) = (Ndjson::new(), Log::default());
    pieces.for_each(|piece| lines.push(piece, &mut log));
    lines.end(&mut log);
    log.documents
}
