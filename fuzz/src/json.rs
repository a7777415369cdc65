//! The JSON scanner, forwards in pieces and backwards from the end.

use std::sync::LazyLock;

use hbpf_core::json::{Kind, Outcome, PathSet, Scanner, Value, Visitor, Want, scan_tail};

use crate::input::Input;

static PATHS: LazyLock<PathSet<u8>> = LazyLock::new(|| {
    PathSet::new(&[
        ("model", Want::Scalar, 0),
        ("usage", Want::Length, 1),
        ("usage.prompt_tokens", Want::Scalar, 2),
        ("usage.completion_tokens_details.reasoning_tokens", Want::Scalar, 3),
        ("choices[].delta.content", Want::Length, 4),
        ("choices[].finish_reason", Want::Scalar, 5),
        ("a[][].b", Want::Scalar, 6),
        ("eval_count", Want::Scalar, 7),
        ("done", Want::Scalar, 8),
    ])
});

#[derive(Clone, Debug, PartialEq)]
enum Found {
    Begin(u8, Kind),
    Text(u8, Vec<u8>),
    Other(u8, Value<'static>),
}

#[derive(Default)]
struct Log(Vec<Found>);

impl Visitor<u8> for Log {
    fn begin(&mut self, slot: u8, kind: Kind) {
        self.0.push(Found::Begin(slot, kind));
    }

    fn value(&mut self, slot: u8, value: Value<'_>) {
        let found = match value {
            Value::Text(text) => return self.0.push(Found::Text(slot, text.to_vec())),
            Value::Length(length) => Value::Length(length),
            Value::Number(number) => Value::Number(number),
            Value::Bool(value) => Value::Bool(value),
            Value::Null => Value::Null,
            Value::Container { is_empty } => Value::Container { is_empty },
        };
        self.0.push(Found::Other(slot, found));
    }
}

/// The control bytes choose the pieces.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let cut = input.number() as usize % (input.payload.len() + 1);
    let (whole, outcome) = scan(std::iter::once(input.payload));
    assert_eq!(scan(input.pieces()), (whole.clone(), outcome), "pieces mean what the whole means");
    let is_object = serde_json::from_slice::<serde_json::Map<String, serde_json::Value>>(input.payload).is_ok();
    if is_object {
        assert_eq!(outcome, Outcome::Complete, "what is JSON is read to its end");
    }
    let mut other = input.payload.to_vec();
    if let Some(byte) = other.get_mut(cut) {
        *byte ^= 1;
    }
    stream(&[input.payload, input.payload, &other, input.payload, &other, &other], cut);
    let several: Vec<&[u8]> = input.payload.split(|byte| *byte == b'\n').collect();
    stream(&several, cut);
    let mut log = Log::default();
    let read = scan_tail(&input.payload[cut..], &PATHS, &mut log);
    if is_object && read {
        let of_values = |found: &Found| !matches!(found, Found::Begin(..));
        for found in log.0.iter().filter(|found| of_values(found)) {
            assert!(whole.contains(found), "the end tells nothing that the whole does not: {found:?}");
        }
    }
}

/// What a document says does not depend on those before it.
fn stream(documents: &[&[u8]], cut: usize) {
    let mut scanner = Scanner::new(&PATHS);
    for document in documents {
        let mut log = Log::default();
        let (one, other) = document.split_at(cut.min(document.len()));
        scanner.push(one, &mut log);
        scanner.push(other, &mut log);
        let outcome = scanner.end(&mut log);
        assert_eq!((log.0, outcome), scan(std::iter::once(*document)), "a document means what it means alone");
    }
}

fn scan<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> (Vec<Found>, Outcome) {
    let (mut scanner, mut log) = (Scanner::new(&PATHS), Log::default());
    for piece in pieces {
        scanner.push(piece, &mut log);
    }
    let outcome = scanner.end(&mut log);
    (log.0, outcome)
}
