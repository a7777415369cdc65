//! What a scanner finds.

/// A value at a wanted path.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value<'a> {
    /// A string, escapes decoded, cut to what a label can hold.
    Text(&'a [u8]),
    /// The length in bytes of a string that is not captured, escapes counted as what they stand for.
    Length(u64),
    /// A number.
    Number(f64),
    /// `true` or `false`.
    Bool(bool),
    /// `null`.
    Null,
    /// The end of an object or array.
    Container {
        /// It had no members or elements.
        is_empty: bool,
    },
}

impl Value<'_> {
    /// The number as a count. Negative, fractional and absurdly large numbers are none.
    pub fn as_count(&self) -> Option<u64> {
        // Beyond 2^53 a double no longer tells neighbours apart: no count of anything is that large.
        const LARGEST: f64 = 9_007_199_254_740_992.0;
        match *self {
            Self::Number(number) if (0.0..=LARGEST).contains(&number) && number.fract() == 0.0 => Some(number as u64),
            _ => None,
        }
    }
}

/// What begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A string.
    Text,
    /// An object or array.
    Container,
}

/// Receives what was found.
pub trait Visitor<S> {
    /// A string, object or array begins at a wanted path. Its value follows at its end, which may be far away.
    fn begin(&mut self, slot: S, kind: Kind) {
        let _ = (slot, kind);
    }

    /// A value at a wanted path is complete. Where a key is repeated the last one counts.
    fn value(&mut self, slot: S, value: Value<'_>);
}

/// What came of a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing but white space.
    Empty,
    /// A whole value.
    Complete,
    /// It stopped before the value's end.
    Incomplete,
    /// It is no JSON.
    Malformed,
}
