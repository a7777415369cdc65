//! What the documents of a stream say again and again.

use super::scanner::Place;
use super::value::{Kind, Value, Visitor};

// The longest events that real servers repeat have 300 bytes, of which ten values are wanted and five are not.

/// Most bytes that are remembered.
const MOST_BYTES: usize = 512;

/// Most findings in what is remembered.
const MOST_FINDINGS: usize = 24;

/// Most segments that are remembered.
const MOST_SEGMENTS: usize = 16;

/// After so many documents in a row that were not as those before nothing new is learned: there is no end to the differences.
const MOST_MISSES: u8 = 8;

/// A document of the stream without the values that nobody wants to know, and what was found in it: segments, each from the
/// end of such a value to the beginning of the next.
///
/// Servers say id, model and the like in every event, ten times as much as the token that it brings. Where the same bytes
/// come again in the same place, the same follows from them. Text that is only counted or not wanted is in no segment; the names
/// of members are.
pub(super) struct Repeat<S> {
    bytes: Vec<u8>,
    findings: Vec<(S, Finding)>,
    /// Texts that were found.
    texts: Vec<u8>,
    segments: Vec<Segment>,
    misses: u8,
}

/// Where a segment's bytes, findings and texts end, and where the scanner stands behind it.
#[derive(Clone, Copy)]
struct Segment {
    bytes: usize,
    findings: usize,
    texts: usize,
    place: Place,
}

enum Finding {
    Begin(Kind),
    /// So many bytes of the texts, behind those of the findings before.
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
        Self { bytes: Vec::new(), findings: Vec::new(), texts: Vec::new(), segments: Vec::new(), misses: 0 }
    }

    #[cfg(test)]
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Memory on the heap, in bytes.
    pub(super) fn memory(&self) -> usize {
        self.bytes.capacity()
            + self.texts.capacity()
            + self.findings.capacity() * size_of::<(S, Finding)>()
            + self.segments.capacity() * size_of::<Segment>()
    }

    /// How many segments, findings and so on there are before segment `index`.
    fn before(&self, index: usize) -> (usize, usize, usize) {
        let before = index.checked_sub(1).and_then(|before| self.segments.get(before));
        before.map_or((0, 0, 0), |segment| (segment.bytes, segment.findings, segment.texts))
    }

    /// If segment `index` comes next: tells what was found in it, and gives its length in bytes and where the scanner stands
    /// behind it.
    pub(super) fn pass(&mut self, index: usize, rest: &[u8], visitor: &mut impl Visitor<S>) -> Option<(usize, Place)> {
        let segment = self.segments.get(index)?;
        let (bytes, findings, texts) = self.before(index);
        let bytes = &self.bytes[bytes..segment.bytes];
        if !rest.starts_with(bytes) {
            return None;
        }
        let mut texts = &self.texts[texts..segment.texts];
        for (slot, finding) in &self.findings[findings..segment.findings] {
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
        if index + 1 == self.segments.len() {
            self.misses = 0;
        }
        Some((bytes.len(), segment.place))
    }

    /// Segment `index` should have come next, but `rest` came: from there on nothing is remembered any more. `true` if it is
    /// worth learning anew. Where `rest` is only too short to tell, nothing is changed.
    pub(super) fn miss(&mut self, index: usize, rest: &[u8]) -> bool {
        let wanted = self.segments.get(index).map_or(1, |segment| segment.bytes - self.before(index).0);
        if rest.len() < wanted || self.misses == MOST_MISSES {
            return false;
        }
        self.misses += 1;
        self.segments.truncate(index);
        self.forget_unfinished();
        true
    }

    /// Whether there is room for more, with so many bytes in the segment that is being learned.
    pub(super) fn has_room(&self, bytes: usize) -> bool {
        self.bytes.len() + bytes <= MOST_BYTES
            && self.texts.len() <= MOST_BYTES
            && self.findings.len() < MOST_FINDINGS
            && self.segments.len() < MOST_SEGMENTS
    }

    /// Remembers a segment whose findings it has been told.
    pub(super) fn keep(&mut self, bytes: &[u8], place: Place) {
        self.bytes.extend_from_slice(bytes);
        let (bytes, findings, texts) = (self.bytes.len(), self.findings.len(), self.texts.len());
        self.segments.push(Segment { bytes, findings, texts, place });
    }

    /// Forgets what belongs to no segment.
    pub(super) fn forget_unfinished(&mut self) {
        let (bytes, findings, texts) = self.before(self.segments.len());
        self.bytes.truncate(bytes);
        self.findings.truncate(findings);
        self.texts.truncate(texts);
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
            Value::Length(_) => {
                debug_assert!(false, "a segment ends before a text that is counted");
                return self.visitor.value(slot, value);
            }
        };
        self.repeat.findings.push((slot, finding));
        self.visitor.value(slot, value);
    }
}
