//! Messages by another encoder, whole, split at every byte and with holes.

use std::sync::LazyLock;

use proptest::prelude::*;
use prost::Message;

use super::{FieldSet, Scanner, Want};
use crate::json::{Outcome, Value, Visitor};

#[derive(Clone, PartialEq, Message)]
struct Inner {
    #[prost(string, tag = "1")]
    text: String,
    #[prost(int32, tag = "2")]
    number: i32,
    #[prost(message, repeated, tag = "300")]
    within: Vec<Inner>,
}

#[derive(Clone, PartialEq, Message)]
struct Outer {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, repeated, tag = "2")]
    inner: Vec<Inner>,
    #[prost(uint64, tag = "3")]
    count: u64,
    #[prost(int32, tag = "4")]
    kind: i32,
    #[prost(double, tag = "5")]
    double: f64,
    #[prost(fixed32, tag = "6")]
    fixed: u32,
    #[prost(bytes = "vec", tag = "7")]
    bytes: Vec<u8>,
    #[prost(string, tag = "19999")]
    last: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Slot {
    Name,
    Count,
    Kind,
    Inner,
    Text,
    Number,
    Bytes,
    Last,
}

static FIELDS: LazyLock<FieldSet<Slot>> = LazyLock::new(|| {
    FieldSet::new(&[
        (&[1], Want::Scalar, Slot::Name),
        (&[2], Want::Length, Slot::Inner),
        (&[2, 1], Want::Length, Slot::Text),
        (&[2, 2], Want::Scalar, Slot::Number),
        (&[3], Want::Scalar, Slot::Count),
        (&[4], Want::Name(&["", "STOP"]), Slot::Kind),
        (&[7], Want::Length, Slot::Bytes),
        (&[19999], Want::Scalar, Slot::Last),
    ])
});

#[derive(Default)]
struct Log(Vec<(Slot, String)>);

impl Visitor<Slot> for Log {
    fn value(&mut self, slot: Slot, value: Value<'_>) {
        let value = match value {
            Value::Text(text) => String::from_utf8_lossy(text).into_owned(),
            other => format!("{other:?}"),
        };
        self.0.push((slot, value));
    }
}

fn scan(pieces: &[&[u8]]) -> (Vec<(Slot, String)>, Outcome) {
    let (mut scanner, mut log) = (Scanner::new(&*FIELDS), Log::default());
    pieces.iter().for_each(|piece| scanner.push(piece, &mut log));
    let outcome = scanner.end();
    (log.0, outcome)
}

/// What must be found in it, in the order in which it is written.
fn expected(outer: &Outer) -> Vec<(Slot, String)> {
    let mut all = Vec::new();
    let mut add = |slot, value: String| all.push((slot, value));
    if !outer.name.is_empty() {
        add(Slot::Name, outer.name.clone());
    }
    for inner in &outer.inner {
        if !inner.text.is_empty() {
            add(Slot::Text, format!("Length({})", inner.text.len()));
        }
        if inner.number != 0 {
            add(Slot::Number, format!("Number({:?})", f64::from(inner.number)));
        }
        add(Slot::Inner, format!("Container {{ is_empty: {} }}", inner.encoded_len() == 0));
    }
    if outer.count != 0 {
        add(Slot::Count, format!("Number({:?})", outer.count as f64));
    }
    match outer.kind {
        0 => {}
        1 => add(Slot::Kind, "STOP".to_owned()),
        // As an unsigned number of 64 bits, which is how it is written.
        other => add(Slot::Kind, (i64::from(other) as u64).to_string()),
    }
    if !outer.bytes.is_empty() {
        add(Slot::Bytes, format!("Length({})", outer.bytes.len()));
    }
    if !outer.last.is_empty() {
        add(Slot::Last, outer.last.clone());
    }
    all
}

fn sample() -> Outer {
    let deep = Inner { text: "CANARY".into(), number: 7, within: vec![Inner::default()] };
    Outer {
        name: "model".into(),
        inner: vec![
            Inner { text: "CANARY text".into(), number: -3, within: vec![deep.clone(), deep] },
            Inner::default(),
            Inner { number: 300, ..Inner::default() },
        ],
        count: 1 << 40,
        kind: 1,
        double: 1.5,
        fixed: 9,
        bytes: vec![0xff; 200],
        last: "l".repeat(100),
    }
}

#[test]
fn a_message_at_every_split() {
    let outer = sample();
    let bytes = outer.encode_to_vec();
    for at in 0..=bytes.len() {
        assert_eq!(scan(&[&bytes[..at], &bytes[at..]]), (expected(&outer), Outcome::Complete), "split at {at}");
        let (found, outcome) = scan(&[&bytes[..at]]);
        assert!(expected(&outer).starts_with(&found), "cut at {at}");
        assert_ne!(outcome, Outcome::Malformed, "cut at {at}");
    }
    assert_eq!(scan(&[]), (Vec::new(), Outcome::Complete), "everything has its default");
}

#[test]
fn nonsense_is_told() {
    let cases: &[(&str, &[u8])] = &[
        ("field 0", &[0x00, 1]),
        ("a group", &[0x0b, 0x0c]),
        ("wire type 6", &[0x0e]),
        ("wire type 7", &[0x0f]),
        ("a number without end", &[0x18, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1]),
        ("a text longer than its message", &[0x12, 3, 0x0a, 9, b'x']),
        ("a number across its message's end", &[0x12, 2, 0x10, 0x80, 1]),
        ("fixed bytes across its message's end", &[0x12, 2, 0x1d, 0, 0, 0, 0]),
        ("a field's beginning alone", &[0x12, 1, 0x10, 0]),
    ];
    for (name, bytes) in cases {
        assert_eq!(scan(&[bytes]).1, Outcome::Malformed, "{name}");
    }
    // A length beyond all that is sent is only that of something that does not come.
    assert_eq!(scan(&[&[0x3a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f, 1, 2]]).1, Outcome::Incomplete);
}

#[test]
fn what_is_too_long_is_cut_and_numbers_without_a_name_are_told() {
    let outer = Outer { name: "n".repeat(2000), kind: 9, ..Outer::default() };
    let bytes = outer.encode_to_vec();
    for pieces in [vec![&bytes[..]], bytes.chunks(7).collect()] {
        let (found, outcome) = scan(&pieces);
        assert_eq!((found[0].1.len(), outcome), (640, Outcome::Complete));
        assert_eq!(found[1], (Slot::Kind, "9".to_owned()));
    }
}

#[test]
fn bytes_may_be_missing_where_they_do_not_matter() {
    let outer = sample();
    let bytes = outer.encode_to_vec();
    let (mut read_on, whole) = (0, scan(&[&bytes]));
    for from in 0..bytes.len() {
        for to in from + 1..=bytes.len() {
            let (mut scanner, mut log) = (Scanner::new(&*FIELDS), Log::default());
            scanner.push(&bytes[..from], &mut log);
            let goes_on = scanner.missing((to - from) as u64);
            scanner.push(&bytes[to..], &mut log);
            let outcome = scanner.end();
            if goes_on {
                read_on += 1;
                assert_eq!((&log.0, outcome), (&whole.0, whole.1), "{from} to {to}");
            } else {
                assert_eq!(outcome, Outcome::Malformed, "{from} to {to}");
            }
        }
    }
    assert!(read_on > 1000, "{read_on}");
}

/// Counts what it is told, and the bytes of that.
#[derive(Default)]
struct Count(usize, usize);

impl Visitor<Slot> for Count {
    fn value(&mut self, _: Slot, value: Value<'_>) {
        self.0 += 1;
        self.1 += if let Value::Text(text) = value { text.len() } else { 0 };
    }
}

#[test]
fn numbers_without_a_name_are_told_as_such_and_cost_no_memory() {
    for kind in [0_u64, 2, 9, 10, 1234567890, u64::MAX - 1, u64::MAX] {
        let mut bytes = vec![4 << 3];
        prost::encoding::encode_varint(kind, &mut bytes);
        let text = if kind == 0 { String::new() } else { kind.to_string() };
        assert_eq!(scan(&[&bytes]), (vec![(Slot::Kind, text.clone())], Outcome::Complete));
        let (mut scanner, mut count) = (Scanner::new(&*FIELDS), Count::default());
        let cost = allocation_counter::measure(|| {
            scanner.push(&bytes, &mut count);
            assert_eq!(scanner.end(), Outcome::Complete);
        });
        assert_eq!((count.0, count.1, cost.count_total), (1, text.len(), 0), "{kind}");
    }
}

#[test]
fn no_text_shows_in_what_is_printed() {
    let bytes = Outer { name: "CANARY".into(), ..sample() }.encode_to_vec();
    let mut scanner = Scanner::new(&*FIELDS);
    for byte in &bytes {
        scanner.push(&[*byte], &mut Log::default());
        assert!(!format!("{scanner:?}").contains("CANARY"));
    }
}

fn inner(depth: u32) -> BoxedStrategy<Inner> {
    let plain = (".{0,8}", any::<i32>()).prop_map(|(text, number)| Inner { text, number, within: Vec::new() });
    plain
        .prop_recursive(depth, 6, 2, |within| {
            (".{0,8}", any::<i32>(), prop::collection::vec(within, 0..3)).prop_map(|(text, number, within)| Inner {
                text,
                number,
                within,
            })
        })
        .boxed()
}

proptest! {
    #[test]
    fn what_another_encodes_is_read_however_it_is_cut(
        name in ".{0,10}",
        inner in prop::collection::vec(inner(3), 0..4),
        count in 0..1_u64 << 50,
        kind in -2..4,
        bytes in prop::collection::vec(any::<u8>(), 0..20),
        last in "[a-z]{0,10}",
        sizes in prop::collection::vec(1..9_usize, 1..6),
    ) {
        let outer = Outer { name, inner, count, kind, double: 0.5, fixed: 1, bytes, last };
        let encoded = outer.encode_to_vec();
        let (mut rest, mut pieces, mut sizes) = (&encoded[..], Vec::new(), sizes.iter().cycle());
        while !rest.is_empty() {
            let (piece, more) = rest.split_at((*sizes.next().unwrap()).min(rest.len()));
            pieces.push(piece);
            rest = more;
        }
        prop_assert_eq!(scan(&pieces), (expected(&outer), Outcome::Complete));
    }

    #[test]
    fn any_bytes_mean_the_same_in_pieces(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
        let single: Vec<&[u8]> = bytes.chunks(1).collect();
        prop_assert_eq!(scan(&[&bytes]), scan(&single));
    }
}
