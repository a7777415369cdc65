//! One HTTP/2 connection: both sides, in any pieces, with gaps.

use hbpf_core::http1::Side;
use hbpf_core::http2::{Http2, PREFACE};
use hbpf_core::time::Nanos;

use crate::http1::{Log, Pieces, Said, pieces_mean_the_same};
use crate::input::Input;

/// A header block and two tables, each bounded by itself, and what is remembered of streams.
const MOST_MEMORY: usize = 256 * 1024;

/// The first control byte says which of two things is tried.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    if input.byte().is_multiple_of(2) { pieces_mean_the_same(input, dialogue) } else { operations(input) }
}

fn dialogue(requests: Pieces<'_, '_>, answers: Pieces<'_, '_>) -> Vec<Said> {
    let (mut http, mut log) = (Http2::new(), Log::default());
    http.push(Side::Request, Nanos(1), PREFACE, &mut log);
    for piece in requests {
        http.push(Side::Request, Nanos(1), piece, &mut log);
    }
    for piece in answers {
        http.push(Side::Response, Nanos(1), piece, &mut log);
    }
    log.0
}

fn operations(mut input: Input<'_>) {
    let (mut http, mut log, mut now) = (Http2::new(), Log::default(), 0);
    while let Some(operation) = input.control() {
        now += 1;
        let side = if operation & 1 == 0 { Side::Request } else { Side::Response };
        match operation >> 1 & 7 {
            0 => http.gap(side, Nanos(now), input.number().into(), &mut log),
            1 => http.gap(side, Nanos(now), u64::MAX, &mut log),
            2 => http.shed(),
            3 => http.push(side, Nanos(now), PREFACE, &mut log),
            _ => {
                let length = input.number() as usize % 4096;
                http.push(side, Nanos(now), input.take(length), &mut log);
            }
        }
        assert!(http.memory() <= MOST_MEMORY);
    }
    http.push(Side::Response, Nanos(now), input.payload, &mut log);
    assert!(http.memory() <= MOST_MEMORY);
}
