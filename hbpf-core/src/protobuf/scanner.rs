//! One message at a time, in pieces of any size.

use std::fmt;

use super::fields::{FieldSet, MAX_DEPTH, NOWHERE, ROOT, Want};
use crate::json::{Kind, Outcome, Value, Visitor};
use crate::label::Label;

/// Longest captured text, in bytes: what a label can hold. The rest of a longer one is dropped.
const CAPTURE_BYTES: usize = Label::MAX_CHARS * 4;

/// Bits of a number of variable length. What has more is none.
const VARINT_BITS: u32 = 64;

/// Digits of the largest number.
const MAX_DIGITS: usize = 20;

/// Wire types (protobuf's encoding guide). Groups, 3 and 4, went with the second version.
const VARINT: u8 = 0;
const FIXED64: u8 = 1;
const LENGTH: u8 = 2;
const FIXED32: u8 = 5;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// In what says which field comes, or between two.
    Tag(Varint),
    /// In a number.
    Number(Varint),
    /// In the length of a text or message.
    Length(Varint),
    /// In a value of known length.
    Bytes {
        left: u64,
        keep: Keep,
    },
    Failed,
}

/// A number of variable length, and how many bits of it have come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Varint {
    value: u64,
    bits: u32,
}

/// What happens to a value's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Keep {
    Bytes,
    /// Only how many they are, all together.
    Length(u64),
    Nothing,
}

/// A message within another that lies on a wanted path.
#[derive(Clone, Copy)]
struct Frame {
    node: u16,
    /// The position behind it.
    end: u64,
    is_empty: bool,
}

const BETWEEN: State = State::Tag(Varint { value: 0, bits: 0 });

/// The scanner. Any number of [`Scanner::push`], [`Scanner::end`]; then again.
pub struct Scanner<S: 'static> {
    fields: &'static FieldSet<S>,
    state: State,
    /// Bytes of the message so far.
    position: u64,
    /// Of the field that is read.
    node: u16,
    frames: [Frame; MAX_DEPTH],
    depth: usize,
    captured: usize,
    capture: [u8; CAPTURE_BYTES],
}

impl<S> fmt::Debug for Scanner<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scanner").field("state", &self.state).field("depth", &self.depth).finish_non_exhaustive()
    }
}

impl<S: Copy> Scanner<S> {
    /// A scanner that is ready for its first message.
    pub fn new(fields: &'static FieldSet<S>) -> Self {
        Self {
            fields,
            state: BETWEEN,
            position: 0,
            node: ROOT,
            frames: [Frame { node: NOWHERE, end: 0, is_empty: true }; MAX_DEPTH],
            depth: 0,
            captured: 0,
            capture: [0; CAPTURE_BYTES],
        }
    }

    /// Starts a message; what was left of the one before is forgotten.
    pub fn begin(&mut self) {
        self.capture[..self.captured].fill(0);
        self.captured = 0;
        (self.state, self.position, self.depth) = (BETWEEN, 0, 0);
    }

    /// The next bytes of the message.
    pub fn push(&mut self, mut bytes: &[u8], visitor: &mut impl Visitor<S>) {
        while !bytes.is_empty() && self.state != State::Failed {
            bytes = &bytes[self.step(bytes, visitor)..];
        }
    }

    /// The next bytes of the message, so many, were not seen. Returns whether it can be read on: they were none that matter.
    pub fn missing(&mut self, len: u64) -> bool {
        match &mut self.state {
            State::Bytes { left, keep: Keep::Nothing | Keep::Length(_) } if len < *left => {
                *left -= len;
                self.position = self.position.saturating_add(len);
                true
            }
            _ => {
                self.state = State::Failed;
                false
            }
        }
    }

    /// The message is over. One without a byte is whole: all its fields have their defaults.
    pub fn end(&mut self) -> Outcome {
        let outcome = match self.state {
            State::Failed => Outcome::Malformed,
            BETWEEN if self.depth == 0 => Outcome::Complete,
            _ => Outcome::Incomplete,
        };
        self.begin();
        outcome
    }

    fn fail(&mut self) {
        self.state = State::Failed;
    }

    /// Takes some bytes, and returns how many these are.
    fn step(&mut self, bytes: &[u8], visitor: &mut impl Visitor<S>) -> usize {
        if let State::Bytes { left, keep } = self.state {
            return self.bytes(left, keep, bytes, visitor);
        }
        self.position = self.position.saturating_add(1);
        let byte = bytes[0];
        let is_beyond = self.depth > 0 && self.position > self.frames[self.depth - 1].end;
        let (State::Tag(varint) | State::Number(varint) | State::Length(varint)) = self.state else { return 1 };
        if is_beyond || varint.bits >= VARINT_BITS {
            self.fail();
            return 1;
        }
        let value = varint.value | u64::from(byte & 0x7f) << varint.bits;
        let is_last = byte & 0x80 == 0;
        let varint = Varint { value, bits: varint.bits + 7 };
        match &mut self.state {
            State::Tag(_) if is_last => self.tag(value),
            State::Number(_) if is_last => self.number(value, visitor),
            State::Length(_) if is_last => self.length(value, visitor),
            State::Tag(so_far) | State::Number(so_far) | State::Length(so_far) => *so_far = varint,
            State::Bytes { .. } | State::Failed => {}
        }
        1
    }

    fn tag(&mut self, tag: u64) {
        let parent = match self.depth.checked_sub(1) {
            Some(top) => {
                self.frames[top].is_empty = false;
                self.frames[top].node
            }
            None => ROOT,
        };
        // Protobuf has field numbers of 29 bits, and none is 0.
        let Some(number) = u32::try_from(tag >> 3).ok().filter(|number| *number > 0) else { return self.fail() };
        self.node = self.fields.field(parent, number);
        let nothing = Varint { value: 0, bits: 0 };
        match (tag & 7) as u8 {
            VARINT => self.state = State::Number(nothing),
            LENGTH => self.state = State::Length(nothing),
            FIXED64 => self.state = State::Bytes { left: 8, keep: Keep::Nothing },
            FIXED32 => self.state = State::Bytes { left: 4, keep: Keep::Nothing },
            _ => self.fail(),
        }
    }

    fn number(&mut self, value: u64, visitor: &mut impl Visitor<S>) {
        match self.fields.leaf(self.node) {
            // Negative ones are written as if they were very large.
            Some((Want::Scalar, slot)) => visitor.value(slot, Value::Number(value.cast_signed() as f64)),
            Some((Want::Name(names), slot)) => {
                let name = usize::try_from(value).ok().and_then(|at| names.get(at));
                match name {
                    Some(name) => visitor.value(slot, Value::Text(name.as_bytes())),
                    None => visitor.value(slot, Value::Text(decimal(value, &mut [0; MAX_DIGITS]))),
                }
            }
            Some((Want::Length, _)) | None => {}
        }
        self.field_ended(visitor);
    }

    fn length(&mut self, length: u64, visitor: &mut impl Visitor<S>) {
        let end = self.position.saturating_add(length);
        if self.depth > 0 && end > self.frames[self.depth - 1].end {
            return self.fail();
        }
        let leaf = self.fields.leaf(self.node);
        if self.fields.is_message(self.node) {
            if let Some((_, slot)) = leaf {
                visitor.begin(slot, Kind::Container);
            }
            self.frames[self.depth] = Frame { node: self.node, end, is_empty: true };
            self.depth += 1;
            self.state = BETWEEN;
            return self.close_ended(visitor);
        }
        let keep = match leaf {
            Some((want @ (Want::Scalar | Want::Length), slot)) => {
                visitor.begin(slot, Kind::Text);
                if want == Want::Scalar { Keep::Bytes } else { Keep::Length(length) }
            }
            _ => Keep::Nothing,
        };
        self.captured = 0;
        self.state = State::Bytes { left: length, keep };
        if length == 0 {
            self.bytes(0, keep, &[], visitor);
        }
    }

    /// Takes what there is of a value of known length.
    fn bytes(&mut self, left: u64, keep: Keep, bytes: &[u8], visitor: &mut impl Visitor<S>) -> usize {
        let taken = usize::try_from(left).map_or(bytes.len(), |left| left.min(bytes.len()));
        self.position = self.position.saturating_add(taken as u64);
        let left = left - taken as u64;
        let value = &bytes[..taken];
        let is_apart = left > 0 || self.captured > 0;
        if keep == Keep::Bytes && is_apart {
            let room = (CAPTURE_BYTES - self.captured).min(taken);
            self.capture[self.captured..self.captured + room].copy_from_slice(&value[..room]);
            self.captured += room;
        }
        if left > 0 {
            self.state = State::Bytes { left, keep };
            return taken;
        }
        if let Some((_, slot)) = self.fields.leaf(self.node) {
            match keep {
                // The usual case: the whole text lies in this piece and need not be copied.
                Keep::Bytes if !is_apart => visitor.value(slot, Value::Text(&value[..taken.min(CAPTURE_BYTES)])),
                Keep::Bytes => visitor.value(slot, Value::Text(&self.capture[..self.captured])),
                Keep::Length(length) => visitor.value(slot, Value::Length(length)),
                Keep::Nothing => {}
            }
        }
        self.field_ended(visitor);
        taken
    }

    fn field_ended(&mut self, visitor: &mut impl Visitor<S>) {
        self.state = BETWEEN;
        self.close_ended(visitor);
    }

    /// Closes messages that end here.
    fn close_ended(&mut self, visitor: &mut impl Visitor<S>) {
        while let Some(top) = self.depth.checked_sub(1)
            && self.position >= self.frames[top].end
        {
            let frame = self.frames[top];
            if self.position > frame.end {
                return self.fail();
            }
            self.depth = top;
            if let Some((_, slot)) = self.fields.leaf(frame.node) {
                visitor.value(slot, Value::Container { is_empty: frame.is_empty });
            }
        }
    }
}

/// A number as text.
fn decimal(mut value: u64, digits: &mut [u8; MAX_DIGITS]) -> &[u8] {
    let mut start = MAX_DIGITS;
    loop {
        start -= 1;
        digits[start] = b'0' + (value % 10) as u8;
        value /= 10;
        if value == 0 {
            return &digits[start..];
        }
    }
}
