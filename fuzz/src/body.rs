//! Content codings: any of them, in any pieces, with a gap.

use hbpf_core::body::{BodyDecoder, BodyError, Coding};

use crate::input::Input;

const CODINGS: [Coding; 6] =
    [Coding::Identity, Coding::Gzip, Coding::Deflate, Coding::Brotli, Coding::Zstd, Coding::Unknown];

/// The first control byte chooses the coding, the others the pieces; 0 among them is a gap.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let coding = CODINGS[usize::from(input.byte()) % CODINGS.len()];
    let whole = decode(coding, std::iter::once(input.payload));
    let pieces = decode(coding, input.pieces());
    if whole.1.is_ok() {
        assert!(pieces == whole, "{coding:?}: pieces are decoded like the whole");
    }
    with_gap(coding, input);
}

fn decode<'a>(coding: Coding, pieces: impl Iterator<Item = &'a [u8]>) -> (Vec<u8>, Result<(), BodyError>) {
    let mut decoder = BodyDecoder::new(coding);
    let mut decoded = Vec::new();
    let mut out = |bytes: &[u8]| decoded.extend_from_slice(bytes);
    let mut result = Ok(());
    for piece in pieces {
        result = result.and(decoder.push(piece, &mut out));
    }
    let result = result.and(decoder.end(&mut out));
    assert!(decoded.len() as u64 <= BodyDecoder::MAX_OUTPUT);
    (decoded, result)
}

fn with_gap(coding: Coding, mut input: Input<'_>) {
    let mut decoder = BodyDecoder::new(coding);
    let mut total = 0;
    while let Some(length) = input.control() {
        if length == 0 {
            let effect = decoder.gap();
            let failed = decoder.push(b"x", &mut |bytes| total += bytes.len() as u64).is_err();
            assert_eq!(effect == hbpf_core::body::GapEffect::Undecodable, failed);
        }
        let _ = decoder.push(input.take(length.into()), &mut |bytes| total += bytes.len() as u64);
    }
    let _ = decoder.end(&mut |bytes| total += bytes.len() as u64);
    assert!(total <= BodyDecoder::MAX_OUTPUT);
}
