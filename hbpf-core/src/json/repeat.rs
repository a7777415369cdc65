//! What the documents of a stream begin with, again and again.

use super::scanner::Place;
use super::value::{Kind, Value, Visitor};

/// Longest beginning that is remembered, in bytes.
const MOST_BYTES: usize = 512;

/// Most findings in a beginning that is remembered.
const MOST_FINDINGS: usize = 24;

/// After so many documents in a row that began otherwise it is not tried any more.
const MOST_MISSES: u8 = 8;

/// The beginning of the document before, up to its first text that is only counted, and what was found in it.
///
/// Servers say id, model and the like in every event of a stream, ten times as much as the token that it brings. Where the
/// same bytes come again, the same follows from them.
pub(super) struct Repeat<S> {
    bytes: Vec<u8>,
    findings: Vec<(S, Finding)>,
    /// Texts that were found.
    texts: Vec<u8>,
    /// Where the scanner stood behind it; `None`: nothing is remembered.
    place: Option<Place>,
    misses: u8,
}

enum Finding {
    Begin(Kind),
    /// So many bytes of the texts that follow those of the findings before.
    Text(usize),
    Number(f64),
    Bool(bool),
    Null,
    Container {
        is_empty: bool,
    },
}

impl<S: Copy> Repeat<S> {
    pub(super) fn new() -> Self {
        Self { bytes: Vec::new(), findings: Vec::new(), texts: Vec::new(), place: None, misses: 0 }
    }

    /// Memory on the heap, in bytes.
    pub(super) fn memory(&self) -> usize {
        self.bytes.capacity() + self.texts.capacity() + self.findings.capacity() * size_of::<(S, Finding)>()
    }

    /// If the document begins as the one before: says what was found there, and how many bytes that are and where the scanner
    /// stands behind them.
    pub(super) fn pass(&mut self, document: &[u8], visitor: &mut impl Visitor<S>) -> Option<(usize, Place)> {
        let place = self.place.filter(|_| document.starts_with(&self.bytes))?;
        self.misses = 0;
        let mut texts = self.texts.as_slice();
        for (slot, finding) in &self.findings {
            let value = match *finding {
                Finding::Begin(kind) => {
                    visitor.begin(*slot, kind);
                    continue;
                }
                Finding::Text(length) => {
                    let (text, rest) = texts.split_at(length);
                    texts = rest;
                    Value::Text(text)
                }
                Finding::Number(number) => Value::Number(number),
                Finding::Bool(is_true) => Value::Bool(is_true),
                Finding::Null => Value::Null,
                Finding::Container { is_empty } => Value::Container { is_empty },
            };
            visitor.value(*slot, value);
        }
        Some((self.bytes.len(), place))
    }

    /// Forgets what it knows; `false` if it is of no use to learn anew.
    pub(super) fn begin(&mut self) -> bool {
        self.place = None;
        self.findings.clear();
        self.texts.clear();
        self.misses = self.misses.saturating_add(1);
        self.misses <= MOST_MISSES
    }

    /// Whether there is room for what may follow.
    pub(super) fn has_room(&self, bytes: usize) -> bool {
        bytes <= MOST_BYTES && self.texts.len() <= MOST_BYTES && self.findings.len() < MOST_FINDINGS
    }

    /// Remembers the beginning whose findings it has been told.
    pub(super) fn keep(&mut self, beginning: &[u8], place: Place) {
        self.bytes.clear();
        self.bytes.extend_from_slice(beginning);
        self.place = Some(place);
    }
}

/// Passes findings on and notes them.
pub(super) struct Learning<'a, S, V> {
    pub(super) repeat: &'a mut Repeat<S>,
    pub(super) visitor: &'a mut V,
}

impl<S: Copy, V: Visitor<S>> Visitor<S> for Learning<'_, S, V> {
    fn begin(&mut self, slot: S, kind: Kind) {
        self.repeat.findings.push((slot, Finding::Begin(kind)));
        self.visitor.begin(slot, kind);
    }

    fn value(&mut self, slot: S, value: Value<'_>) {
        let finding = match value {
            Value::Text(text) => {
                self.repeat.texts.extend_from_slice(text);
                Finding::Text(text.len())
            }
            Value::Number(number) => Finding::Number(number),
            Value::Bool(is_true) => Finding::Bool(is_true),
            Value::Null => Finding::Null,
            Value::Container { is_empty } => Finding::Container { is_empty },
            // A beginning ends before the first text that is counted.
            Value::Length(_) => return self.visitor.value(slot, value),
        };
        self.repeat.findings.push((slot, finding));
        self.visitor.value(slot, value);
    }
}
