//! gRPC's messages and the protobuf in them, compressed or not, in any pieces, with a gap.

use std::sync::LazyLock;

use hbpf_core::body::Coding;
use hbpf_core::framing::{Documents, Grpc};
use hbpf_core::json::{Kind, Outcome, Value, Visitor};
use hbpf_core::label::Label;
use hbpf_core::protobuf::{FieldSet, Scanner, Want};

use crate::input::Input;

const CODINGS: [Coding; 5] = [Coding::Identity, Coding::Gzip, Coding::Deflate, Coding::Zstd, Coding::Unknown];

/// As much as a decoder takes with the largest window, and then some.
const MOST_MEMORY: usize = 32 * 1024 * 1024;

/// Numbers as xAI's answers have them, among others.
static FIELDS: LazyLock<FieldSet<u8>> = LazyLock::new(|| {
    FieldSet::new(&[
        (&[1], Want::Scalar, 1),
        (&[2], Want::Length, 2),
        (&[2, 1, 1], Want::Length, 3),
        (&[2, 1, 3], Want::Length, 4),
        (&[2, 3], Want::Name(&["", "max_len", "max_context", "stop"]), 5),
        (&[4], Want::Scalar, 6),
        (&[6], Want::Length, 7),
        (&[6, 1], Want::Scalar, 8),
        (&[6, 2], Want::Scalar, 9),
    ])
});

/// What a message says: how it ended, and the values with how they were kinds of what.
type Said = (Outcome, Vec<(u8, String)>);

#[derive(Default)]
struct Values(Vec<(u8, String)>);

impl Visitor<u8> for Values {
    fn begin(&mut self, _: u8, _: Kind) {}

    fn value(&mut self, slot: u8, value: Value<'_>) {
        if let Value::Text(text) = value {
            assert!(text.len() <= Label::MAX_CHARS * 4, "no more is kept than a label can hold");
        }
        self.0.push((slot, format!("{value:?}")));
    }
}

struct Log {
    scanner: Scanner<u8>,
    values: Values,
    messages: Vec<Said>,
    aborted: usize,
}

impl Log {
    fn new() -> Self {
        Self { scanner: Scanner::new(&FIELDS), values: Values::default(), messages: Vec::new(), aborted: 0 }
    }
}

impl Documents for Log {
    fn bytes(&mut self, bytes: &[u8]) {
        self.scanner.push(bytes, &mut self.values);
    }

    fn missing(&mut self, len: u64) -> bool {
        self.scanner.missing(len)
    }

    fn end(&mut self) {
        let outcome = self.scanner.end();
        self.messages.push((outcome, std::mem::take(&mut self.values.0)));
    }

    fn abort(&mut self) {
        self.scanner.begin();
        self.values = Values::default();
        self.aborted += 1;
    }
}

fn read<'a>(coding: Coding, pieces: impl Iterator<Item = &'a [u8]>) -> (Vec<Said>, usize) {
    let (mut grpc, mut log) = (Grpc::new(coding), Log::new());
    for piece in pieces {
        grpc.push(piece, &mut log);
        assert!(grpc.memory() <= MOST_MEMORY);
    }
    grpc.end(&mut log);
    assert_eq!(grpc.memory(), 0);
    (log.messages, log.aborted)
}

/// Controls: coding, where a gap lies, whether its length is known, then the pieces.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let coding = CODINGS[usize::from(input.byte()) % CODINGS.len()];
    let (from, length, is_known) = (input.number() as usize, input.number() as usize, input.byte().is_multiple_of(2));
    let bytes = input.payload;
    let whole = read(coding, std::iter::once(bytes));
    assert_eq!(read(coding, input.pieces()), whole, "pieces mean what the whole means");

    let from = from % (bytes.len() + 1);
    let to = (from + length % 4096 + 1).min(bytes.len());
    let (mut grpc, mut log) = (Grpc::new(coding), Log::new());
    grpc.push(&bytes[..from], &mut log);
    grpc.gap(is_known.then_some((to - from) as u64), &mut log);
    grpc.push(&bytes[to..], &mut log);
    grpc.shed(&mut log);
    grpc.end(&mut log);
    // A gap within one message costs that message, if anything. (What was read of compressed ones counts, too.)
    if is_known && to > from && lie_in_one_message(bytes, from, to) && coding == Coding::Identity {
        assert!(log.messages.len() + 1 >= whole.0.len() && log.messages.len() <= whole.0.len());
        let mut rest = whole.0.iter();
        let is_part = log.messages.iter().all(|wanted| rest.any(|message| message == wanted));
        assert!(is_part, "a gap makes up no messages");
    }
}

/// Whether both places are behind the same message's length, or at its end.
fn lie_in_one_message(bytes: &[u8], from: usize, to: usize) -> bool {
    let mut at = 0;
    while let Some([flag, length @ ..]) = bytes.get(at..).and_then(|rest| rest.first_chunk::<5>()) {
        let end = (at + 5).saturating_add(u32::from_be_bytes(*length) as usize);
        if *flag > 1 || end > bytes.len() || from < at + 5 {
            return false;
        }
        if from < end {
            return to <= end;
        }
        at = end;
    }
    false
}
