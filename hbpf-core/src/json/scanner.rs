//! One JSON document at a time, in pieces of any size.

use std::fmt;

use memchr::memchr2;

use super::paths::{NOWHERE, PathSet, ROOT, Want};
use super::repeat::{Learning, Repeat};
use super::runs::{name_run, quiet_run, text_run};
use super::value::{Kind, Outcome, Value, Visitor};
use crate::label::Label;

/// Longest captured scalar, in bytes: what a label can hold. The rest of a longer one is dropped.
const CAPTURE_BYTES: usize = Label::MAX_CHARS * 4;

/// Containers that lie on a wanted path are tracked one by one. No API nests what matters deeper than half of this.
const TRACKED_DEPTH: usize = 12;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// A value must begin.
    BeforeValue,
    /// After `[`: a value or the end.
    FirstElement,
    /// After `{`: a key or the end.
    FirstKey,
    /// After `,` in an object.
    BeforeKey,
    Key,
    AfterKey,
    Text,
    /// A number, `true`, `false` or `null`.
    Bare,
    AfterValue,
    /// Inside a container that nobody asked for.
    Skip,
    /// Inside a string within such a container.
    SkipText,
    Done,
    Failed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Escape {
    None,
    Backslash,
    Unicode { digits: u8, code: u16 },
}

/// What happens to a string's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Keep {
    Bytes,
    Length,
    Nothing,
}

#[derive(Clone, Copy, Debug)]
struct Frame {
    node: u16,
    is_array: bool,
    is_empty: bool,
}

/// Where a scanner stands, between two tokens.
#[derive(Clone, Copy)]
pub(super) struct Place {
    state: State,
    node: u16,
    frames: [Frame; TRACKED_DEPTH],
    depth: usize,
    seen_anything: bool,
}

/// The scanner. [`Scanner::begin`], any number of [`Scanner::push`], [`Scanner::end`]; then again.
pub struct Scanner<S: 'static> {
    paths: &'static PathSet<S>,
    state: State,
    escape: Escape,
    keep: Keep,
    /// The first half of a surrogate pair.
    high_surrogate: Option<u16>,
    /// Where the value that is read or expected stands.
    node: u16,
    frames: [Frame; TRACKED_DEPTH],
    depth: usize,
    skip_depth: u64,
    text_len: u64,
    captured: usize,
    capture: [u8; CAPTURE_BYTES],
    seen_anything: bool,
    /// A document has ended: what comes now is a stream of them.
    follows_another: bool,
    repeat: Option<Box<Repeat<S>>>,
}

impl<S> fmt::Debug for Scanner<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // What was captured stays out: a key that was just read may be anybody's.
        f.debug_struct("Scanner").field("state", &self.state).field("depth", &self.depth).finish_non_exhaustive()
    }
}

impl<S: Copy> Scanner<S> {
    /// A scanner that is ready for its first document.
    pub fn new(paths: &'static PathSet<S>) -> Self {
        Self {
            paths,
            state: State::BeforeValue,
            escape: Escape::None,
            keep: Keep::Nothing,
            high_surrogate: None,
            node: ROOT,
            frames: [Frame { node: NOWHERE, is_array: false, is_empty: true }; TRACKED_DEPTH],
            depth: 0,
            skip_depth: 0,
            text_len: 0,
            captured: 0,
            capture: [0; CAPTURE_BYTES],
            seen_anything: false,
            follows_another: false,
            repeat: None,
        }
    }

    /// Memory that it holds beyond its own size, in bytes.
    pub fn memory(&self) -> usize {
        self.repeat.as_ref().map_or(0, |repeat| size_of::<Repeat<S>>() + repeat.memory())
    }

    /// Gives up what it holds beyond its own size: it costs time to do without, and nothing else.
    pub fn shed(&mut self) {
        self.repeat = None;
    }

    /// The bytes that it remembers of documents.
    #[cfg(test)]
    pub(super) fn remembered(&self) -> &[u8] {
        self.repeat.as_ref().map_or(&[], |repeat| repeat.bytes())
    }

    /// Starts a document; what was left of the one before is forgotten.
    pub fn begin(&mut self) {
        self.begin_at(ROOT);
    }

    /// Starts with the value that stands at the top-level member `key` of a document.
    pub(super) fn begin_member(&mut self, key: &[u8]) {
        self.begin_at(self.paths.member(ROOT, key));
    }

    fn begin_at(&mut self, node: u16) {
        self.node = node;
        self.state = State::BeforeValue;
        self.escape = Escape::None;
        self.high_surrogate = None;
        self.depth = 0;
        self.captured = 0;
        self.seen_anything = false;
    }

    /// The next bytes of the document.
    pub fn push(&mut self, mut bytes: &[u8], visitor: &mut impl Visitor<S>) {
        if self.follows_another && !self.seen_anything && self.node == ROOT {
            bytes = &bytes[spaces(bytes)..];
            if !bytes.is_empty() {
                bytes = &bytes[self.repeated(bytes, visitor)..];
            }
        }
        while !bytes.is_empty() && self.state != State::Failed {
            bytes = &bytes[self.step(bytes, visitor)..];
        }
    }

    /// Goes over what the document before has said in the same place without looking at it again, and learns what this one
    /// says from where it differs. Returns how many bytes that took.
    fn repeated(&mut self, bytes: &[u8], visitor: &mut impl Visitor<S>) -> usize {
        let mut repeat = self.repeat.take().unwrap_or_else(|| Box::new(Repeat::new()));
        let (mut at, mut passed, mut is_between) = (0, 0, true);
        while is_between && let Some((length, place)) = repeat.pass(passed, &bytes[at..], visitor) {
            self.stand_at(place);
            passed += 1;
            at += length;
            let (taken, has_ended) = self.whole_value(&bytes[at..], visitor);
            at += taken;
            is_between = has_ended;
        }
        if is_between && repeat.miss(passed, &bytes[at..]) {
            at += self.learn(&bytes[at..], &mut repeat, visitor);
        }
        self.repeat = Some(repeat);
        at
    }

    fn learn(&mut self, bytes: &[u8], repeat: &mut Repeat<S>, visitor: &mut impl Visitor<S>) -> usize {
        let mut at = 0;
        loop {
            let start = at;
            while at < bytes.len()
                && repeat.has_room(at - start)
                && !matches!(self.state, State::Done | State::Failed)
                && !self.is_before_unwanted(bytes[at])
            {
                at += self.step(&bytes[at..], &mut Learning { repeat: &mut *repeat, visitor: &mut *visitor });
            }
            let is_whole =
                self.state == State::Done || bytes.get(at).is_some_and(|byte| self.is_before_unwanted(*byte));
            if at == start || !is_whole || !repeat.has_room(at - start) {
                repeat.forget_unfinished();
                return at;
            }
            repeat.keep(&bytes[start..at], self.place());
            let (taken, has_ended) = self.whole_value(&bytes[at..], visitor);
            at += taken;
            if !has_ended {
                return at;
            }
        }
    }

    fn place(&self) -> Place {
        let Self { state, node, frames, depth, seen_anything, .. } = *self;
        Place { state, node, frames, depth, seen_anything }
    }

    fn stand_at(&mut self, place: Place) {
        let Place { state, node, frames, depth, seen_anything } = place;
        (self.state, self.node, self.frames, self.depth, self.seen_anything) =
            (state, node, frames, depth, seen_anything);
    }

    /// Whether a value that began with this byte would be one that is only counted, or not even that. Names such as `null`
    /// are too short to be worth it.
    fn is_before_unwanted(&self, byte: u8) -> bool {
        matches!(self.state, State::BeforeValue | State::FirstElement)
            && match byte {
                b'"' => !matches!(self.paths.leaf(self.node), Some((Want::Scalar, _))),
                b'-' | b'0'..=b'9' => self.paths.leaf(self.node).is_none(),
                b'{' | b'[' => !self.is_tracked(),
                _ => false,
            }
    }

    /// Takes the value that is expected here, or what there is of it. Returns how many bytes that are, and whether it has ended
    /// and the scanner stands behind it, rather than in a container that began or ended instead.
    fn whole_value(&mut self, bytes: &[u8], visitor: &mut impl Visitor<S>) -> (usize, bool) {
        use State::{Bare, BeforeValue, FirstElement, Skip, SkipText, Text};
        let depth = self.depth;
        let mut at = 0;
        while at < bytes.len() && matches!(self.state, BeforeValue | FirstElement | Text | Bare | Skip | SkipText) {
            at += self.step(&bytes[at..], visitor);
        }
        (at, self.state == State::AfterValue && self.depth == depth)
    }

    /// Whether a container that begins here has places of its own that are looked at.
    fn is_tracked(&self) -> bool {
        self.node != NOWHERE && self.depth < TRACKED_DEPTH
    }

    /// Takes one token, or what there is of it, and returns how many bytes that are.
    fn step(&mut self, bytes: &[u8], visitor: &mut impl Visitor<S>) -> usize {
        match self.state {
            State::BeforeValue | State::FirstElement => self.before_value(bytes, visitor),
            State::FirstKey | State::BeforeKey => self.before_key(bytes, visitor),
            State::Key | State::Text => self.text(bytes, visitor),
            State::AfterKey => self.after_key(bytes),
            State::Bare => self.bare(bytes, visitor),
            State::AfterValue => self.after_value(bytes, visitor),
            State::Skip => self.skip(bytes),
            State::SkipText => self.skip_text(bytes),
            State::Done => self.done(bytes),
            State::Failed => bytes.len(),
        }
    }

    /// The document is over.
    pub fn end(&mut self, visitor: &mut impl Visitor<S>) -> Outcome {
        if self.state == State::Bare && self.depth == 0 {
            self.end_bare(bare_value(&self.capture[..self.captured]), visitor);
        }
        let outcome = match self.state {
            State::Done => Outcome::Complete,
            State::Failed => Outcome::Malformed,
            State::BeforeValue if !self.seen_anything => Outcome::Empty,
            _ => Outcome::Incomplete,
        };
        self.capture[..self.captured].fill(0);
        self.follows_another = true;
        self.begin();
        outcome
    }

    /// Whether the value has ended: only white space may follow.
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    fn fail(&mut self) -> usize {
        self.state = State::Failed;
        1
    }

    fn before_value(&mut self, bytes: &[u8], visitor: &mut impl Visitor<S>) -> usize {
        let byte = bytes[0];
        if is_space(byte) {
            return spaces(bytes);
        }
        if !self.seen_anything && matches!(byte, 0xef | 0xbb | 0xbf) {
            return 1; // A byte order mark.
        }
        self.seen_anything = true;
        if byte == b']' && self.state == State::FirstElement {
            self.close(visitor);
            return 1;
        }
        if let Some(frame) = self.depth.checked_sub(1).and_then(|top| self.frames.get_mut(top)) {
            frame.is_empty = false;
        }
        match byte {
            b'"' => {
                self.keep = match self.paths.leaf(self.node) {
                    Some((want, slot)) => {
                        visitor.begin(slot, Kind::Text);
                        if want == Want::Scalar { Keep::Bytes } else { Keep::Length }
                    }
                    None => Keep::Nothing,
                };
                self.begin_text(State::Text);
                return 1 + self.text(&bytes[1..], visitor);
            }
            b'{' | b'[' => self.open(byte == b'[', visitor),
            b'-' | b'0'..=b'9' | b't' | b'f' | b'n' => {
                self.captured = 0;
                self.state = State::Bare;
                return self.bare(bytes, visitor);
            }
            _ => return self.fail(),
        }
        1
    }

    fn open(&mut self, is_array: bool, visitor: &mut impl Visitor<S>) {
        if !self.is_tracked() {
            self.skip_depth = 1;
            self.state = State::Skip;
            return;
        }
        if let Some((_, slot)) = self.paths.leaf(self.node) {
            visitor.begin(slot, Kind::Container);
        }
        self.frames[self.depth] = Frame { node: self.node, is_array, is_empty: true };
        self.depth += 1;
        if is_array {
            self.node = self.paths.element(self.node);
            self.state = State::FirstElement;
        } else {
            self.state = State::FirstKey;
        }
    }

    fn close(&mut self, visitor: &mut impl Visitor<S>) {
        self.depth -= 1;
        let frame = self.frames[self.depth];
        if let Some((_, slot)) = self.paths.leaf(frame.node) {
            visitor.value(slot, Value::Container { is_empty: frame.is_empty });
        }
        self.value_ended();
    }

    fn value_ended(&mut self) {
        self.state = if self.depth == 0 { State::Done } else { State::AfterValue };
    }

    fn before_key(&mut self, bytes: &[u8], visitor: &mut impl Visitor<S>) -> usize {
        match bytes[0] {
            b'"' => {
                self.frames[self.depth - 1].is_empty = false;
                let name = &bytes[1..];
                let run = name_run(name);
                if name[run..].starts_with(b"\":") {
                    // The usual case: the whole key lies in this piece, and its colon.
                    self.node = self.paths.member(self.frames[self.depth - 1].node, &name[..run]);
                    self.state = State::BeforeValue;
                    return 1 + run + 2;
                }
                self.keep = Keep::Bytes;
                self.begin_text(State::Key);
                1
            }
            b'}' if self.state == State::FirstKey => {
                self.close(visitor);
                1
            }
            byte if is_space(byte) => spaces(bytes),
            _ => self.fail(),
        }
    }

    fn after_key(&mut self, bytes: &[u8]) -> usize {
        match bytes[0] {
            b':' => {
                self.state = State::BeforeValue;
                1
            }
            byte if is_space(byte) => spaces(bytes),
            _ => self.fail(),
        }
    }

    fn after_value(&mut self, bytes: &[u8], visitor: &mut impl Visitor<S>) -> usize {
        let frame = self.frames[self.depth - 1];
        match bytes[0] {
            b',' if frame.is_array => {
                self.node = self.paths.element(frame.node);
                self.state = State::BeforeValue;
            }
            b',' => self.state = State::BeforeKey,
            b']' if frame.is_array => self.close(visitor),
            b'}' if !frame.is_array => self.close(visitor),
            byte if is_space(byte) => return spaces(bytes),
            _ => return self.fail(),
        }
        1
    }

    fn done(&mut self, bytes: &[u8]) -> usize {
        if is_space(bytes[0]) { spaces(bytes) } else { self.fail() }
    }

    fn begin_text(&mut self, state: State) {
        self.state = state;
        self.captured = 0;
        self.text_len = 0;
        self.high_surrogate = None;
    }

    fn text(&mut self, bytes: &[u8], visitor: &mut impl Visitor<S>) -> usize {
        if self.escape != Escape::None {
            self.escaped(bytes[0]);
            return 1;
        }
        let run = if self.keep == Keep::Bytes { name_run(bytes) } else { text_run(bytes) };
        if self.keep == Keep::Bytes && run > 0 {
            self.high_surrogate = None;
        }
        match bytes.get(run) {
            Some(b'"') if self.keep == Keep::Bytes && self.captured == 0 => {
                // The usual case: the whole string lies in this piece and need not be copied.
                let whole = &bytes[..run.min(CAPTURE_BYTES)];
                if self.state == State::Key {
                    self.finish_key(whole);
                } else {
                    if let Some((_, slot)) = self.paths.leaf(self.node) {
                        visitor.value(slot, Value::Text(whole));
                    }
                    self.value_ended();
                }
                run + 1
            }
            Some(b'"') => {
                self.keep_run(&bytes[..run]);
                self.finish_text(visitor);
                run + 1
            }
            Some(b'\\') => {
                self.keep_run(&bytes[..run]);
                self.escape = Escape::Backslash;
                run + 1
            }
            // A raw control character is no part of a name: it is framing that was taken for content.
            Some(_) => self.fail(),
            None => {
                self.keep_run(bytes);
                run
            }
        }
    }

    fn keep_run(&mut self, run: &[u8]) {
        match self.keep {
            Keep::Bytes => {
                // Of a key no more is needed than tells it from all wanted ones.
                let cap = if self.state == State::Key { self.paths.longest_key() + 1 } else { CAPTURE_BYTES };
                let room = cap.min(CAPTURE_BYTES).saturating_sub(self.captured).min(run.len());
                self.capture[self.captured..self.captured + room].copy_from_slice(&run[..room]);
                self.captured += room;
            }
            Keep::Length => self.text_len += run.len() as u64,
            Keep::Nothing => {}
        }
    }

    fn escaped(&mut self, byte: u8) {
        match self.escape {
            Escape::Backslash if byte == b'u' => self.escape = Escape::Unicode { digits: 0, code: 0 },
            Escape::Backslash => {
                self.escape = Escape::None;
                let decoded = match byte {
                    b'n' => b'\n',
                    b't' => b'\t',
                    b'r' => b'\r',
                    b'b' => 8,
                    b'f' => 12,
                    b'"' | b'\\' | b'/' => byte,
                    _ => {
                        self.state = State::Failed;
                        return;
                    }
                };
                self.high_surrogate = None;
                self.keep_run(&[decoded]);
            }
            Escape::Unicode { digits, code } => {
                let Some(digit) = char::from(byte).to_digit(16) else {
                    self.state = State::Failed;
                    return;
                };
                let code = code << 4 | digit as u16;
                if digits < 3 {
                    self.escape = Escape::Unicode { digits: digits + 1, code };
                } else {
                    self.escape = Escape::None;
                    self.keep_unit(code);
                }
            }
            Escape::None => {}
        }
    }

    /// Keeps one UTF-16 code unit.
    fn keep_unit(&mut self, unit: u16) {
        let high = self.high_surrogate.take();
        let decoded = match (high, unit) {
            (_, 0xd800..=0xdbff) => {
                self.high_surrogate = Some(unit);
                return;
            }
            (Some(high), 0xdc00..=0xdfff) => {
                let code = 0x10000 + ((u32::from(high) - 0xd800) << 10 | (u32::from(unit) - 0xdc00));
                char::from_u32(code)
            }
            _ => char::from_u32(u32::from(unit)),
        };
        let mut utf8 = [0; 4];
        let character = decoded.unwrap_or(char::REPLACEMENT_CHARACTER);
        self.keep_run(character.encode_utf8(&mut utf8).as_bytes());
    }

    fn finish_text(&mut self, visitor: &mut impl Visitor<S>) {
        let length = self.captured;
        if self.state == State::Key {
            let frame = self.frames[self.depth - 1];
            self.node = self.paths.member(frame.node, &self.capture[..length]);
            self.state = State::AfterKey;
            return;
        }
        if let Some((want, slot)) = self.paths.leaf(self.node) {
            let value = match want {
                Want::Scalar => Value::Text(&self.capture[..length]),
                Want::Length => Value::Length(self.text_len),
            };
            visitor.value(slot, value);
        }
        self.value_ended();
    }

    fn finish_key(&mut self, key: &[u8]) {
        let frame = self.frames[self.depth - 1];
        self.node = self.paths.member(frame.node, key);
        self.state = State::AfterKey;
    }

    fn bare(&mut self, bytes: &[u8], visitor: &mut impl Visitor<S>) -> usize {
        let run = bytes.iter().position(|byte| !is_bare(*byte)).unwrap_or(bytes.len());
        if self.captured == 0 && (1..bytes.len().min(CAPTURE_BYTES + 1)).contains(&run) {
            // The usual case: the whole of it lies in this piece and need not be copied.
            self.end_bare(bare_value(&bytes[..run]), visitor);
            return run;
        }
        let room = CAPTURE_BYTES.saturating_sub(self.captured).min(run);
        self.capture[self.captured..self.captured + room].copy_from_slice(&bytes[..room]);
        self.captured += room;
        if run < bytes.len() {
            self.end_bare(bare_value(&self.capture[..self.captured]), visitor);
            if run == 0 && self.state != State::Failed {
                // The delimiter belongs to what follows: hand it on at once, so that every step takes a byte.
                return match self.state {
                    State::Done => self.done(bytes),
                    _ => self.after_value(bytes, visitor),
                };
            }
        }
        run.max(1)
    }

    fn end_bare(&mut self, value: Option<Value<'_>>, visitor: &mut impl Visitor<S>) {
        let Some(value) = value else {
            self.state = State::Failed;
            return;
        };
        if let Some((_, slot)) = self.paths.leaf(self.node) {
            visitor.value(slot, value);
        }
        self.value_ended();
    }

    fn skip(&mut self, bytes: &[u8]) -> usize {
        let mut at = 0;
        loop {
            at += quiet_run(&bytes[at..]);
            match bytes.get(at) {
                None => return bytes.len(),
                Some(b'"') => {
                    self.state = State::SkipText;
                    return at + 1;
                }
                Some(b'{' | b'[') => self.skip_depth += 1,
                Some(b'}' | b']') => {
                    self.skip_depth -= 1;
                    if self.skip_depth == 0 {
                        self.value_ended();
                        return at + 1;
                    }
                }
                Some(_) => {}
            }
            at += 1;
        }
    }

    fn skip_text(&mut self, bytes: &[u8]) -> usize {
        let mut at = 0;
        if self.escape != Escape::None {
            self.escape = Escape::None;
            at = 1;
        }
        loop {
            match memchr2(b'"', b'\\', &bytes[at..]) {
                None => return bytes.len(),
                Some(run) if bytes[at + run] == b'"' => {
                    self.state = State::Skip;
                    return at + run + 1;
                }
                Some(run) => at += run + 2,
            }
            if at > bytes.len() {
                self.escape = Escape::Backslash;
                return bytes.len();
            }
        }
    }
}

fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r')
}

fn spaces(bytes: &[u8]) -> usize {
    bytes.iter().position(|byte| !is_space(*byte)).unwrap_or(bytes.len())
}

fn is_bare(byte: u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'-' | b'+' | b'.' | b'a'..=b'z' | b'A'..=b'Z')
}

/// A number, `true`, `false` or `null`; `None` for anything else.
fn bare_value(text: &[u8]) -> Option<Value<'static>> {
    Some(match text {
        b"true" => Value::Bool(true),
        b"false" => Value::Bool(false),
        b"null" => Value::Null,
        digits => Value::Number(parse_number(digits)?),
    })
}

fn parse_number(digits: &[u8]) -> Option<f64> {
    /// So many digits are always an integer that a double holds.
    const EXACT_DIGITS: usize = 15;
    if digits.len() <= EXACT_DIGITS && digits.iter().all(u8::is_ascii_digit) && !digits.is_empty() {
        return Some(digits.iter().fold(0, |number: u64, digit| number * 10 + u64::from(digit - b'0')) as f64);
    }
    // Rust also takes "inf", "nan" and a leading plus, which JSON does not have.
    if !digits.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E')) || digits[0] == b'+' {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}
