//! Bodies of requests and answers, in every dialect, with holes.

use hbpf_core::dialect::{Interpreter, Output, all};
use hbpf_core::exchange::Usage;
use hbpf_core::time::Nanos;

use crate::input::Input;

const KINDS: [Option<&[u8]>; 6] = [
    None,
    Some(b"text/event-stream"),
    Some(b"application/json"),
    Some(b"application/x-ndjson"),
    Some(b"application/vnd.amazon.eventstream"),
    Some(b"application/grpc"),
];

/// Controls: dialect, content type, status, length of the request, then pieces of the answer, 0 for a lost one.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let at = usize::from(input.byte()) % all().len();
    let dialect = all().nth(at).expect("it is below their number");
    let kind = KINDS[usize::from(input.byte()) % KINDS.len()];
    let status = if input.byte() % 4 == 3 { 500 } else { 200 };
    let length = input.number() as usize % (input.payload.len() + 1);
    let request = input.take(length);
    let begin = || {
        let mut interpreter = Interpreter::new(dialect);
        interpreter.request_bytes(request);
        interpreter.request_end();
        interpreter.response_begins(Some(status), kind);
        interpreter
    };
    let (mut interpreter, mut most) = (begin(), Most::default());
    let mut outputs = 0;
    for (index, byte) in input.payload.iter().enumerate() {
        interpreter.response_bytes(Nanos(index as u64), &[*byte], &mut |output| outputs += check(output));
        most.note(&interpreter.facts().usage);
    }
    interpreter.response_end(Nanos(u64::MAX), &mut |output| outputs += check(output));
    most.note(&interpreter.facts().usage);
    let whole = (interpreter.facts().clone(), outputs);

    let body = input.payload;
    let (mut interpreter, mut outputs) = (begin(), 0);
    for piece in input.pieces() {
        interpreter.response_bytes(Nanos(1), piece, &mut |output| outputs += check(output));
    }
    interpreter.response_end(Nanos(2), &mut |output| outputs += check(output));
    assert_eq!((interpreter.facts().clone(), outputs), whole, "pieces mean what the whole means");

    // A document that turns out to be malformed counts for nothing, unless that part of it is lost; nor does a body that
    // begins like another kind than it says or is, unless its beginning is lost.
    let first = body.iter().find(|byte| !byte.is_ascii_whitespace());
    let is_what_it_says = match kind {
        Some(b"application/json") => matches!(first, Some(b'{' | b'[')) && whole.0.finished,
        said => said.is_some(),
    };
    if whole.0.missed_events == 0 && is_what_it_says {
        with_gaps(begin(), input, &most);
    }
}

/// An event counts, and so do its tokens.
fn check(output: Output) -> u64 {
    output.tokens.saturating_add(1)
}

/// The highest counts that were ever reported. What is reported last counts, and a hostile server may count down.
#[derive(Default)]
struct Most([u64; 5]);

fn counts(usage: &Usage) -> [Option<u64>; 5] {
    [usage.input, usage.output, usage.cached_input, usage.cache_creation_input, usage.reasoning]
}

impl Most {
    fn note(&mut self, usage: &Usage) {
        for (most, count) in self.0.iter_mut().zip(counts(usage)) {
            *most = (*most).max(count.unwrap_or(0));
        }
    }

    /// The counts of one answer may stand in several events, and totals are sums over some of them.
    fn check(&self, usage: &Usage) {
        let [input, output, cached, created, reasoning] = self.0;
        let limits = [
            input.saturating_add(cached).saturating_add(created),
            output.saturating_add(reasoning),
            cached,
            created,
            reasoning,
        ];
        for (count, limit) in counts(usage).into_iter().zip(limits) {
            assert!(count.is_none_or(|count| count <= limit), "{usage:?} of at most {:?}", self.0);
        }
    }
}

fn with_gaps(mut interpreter: Interpreter, mut input: Input<'_>, most: &Most) {
    let mut outputs = 0;
    while let Some(length) = input.control() {
        if length < 128 {
            input.take(usize::from(length) + 1);
            interpreter.response_gap();
        } else {
            let piece = input.take(usize::from(length - 127));
            interpreter.response_bytes(Nanos(1), piece, &mut |output| outputs += check(output));
        }
    }
    interpreter.response_bytes(Nanos(2), input.payload, &mut |output| outputs += check(output));
    interpreter.response_end(Nanos(3), &mut |output| outputs += check(output));
    most.check(&interpreter.facts().usage);
}
