//! Header blocks of HTTP/2 (RFC 7541), read by somebody who may have come late.
//!
//! A block refers to fields of earlier ones by how many were entered since. So whoever knows the last so many entries
//! can resolve references to those, and never takes one for another: what is older is unknown, whatever the sender has
//! dropped in the meantime. No size of the table need be known for that.
//!
//! Of most fields nobody reads the value, and many values are secrets. Those are let go at once; an entry stays that
//! says nothing.

use std::collections::VecDeque;

use httlib_huffman::DecoderSpeed;

use super::fields::{self, Name};

/// Entries that are remembered. The default size of a table, 4,096 bytes, has room for 128 of the shortest.
const MAX_ENTRIES: usize = 256;

/// Longest value that is remembered, or handed over: paths have been seen of 2 KiB.
const MAX_VALUE: usize = 4 * 1024;

/// Bytes of values that are remembered.
const MAX_BYTES: usize = 16 * 1024;

/// The block is none: nothing that comes after it can be read with certainty.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed header block")]
pub(super) struct Malformed;

/// The fields that one side has entered into its table lately.
#[derive(Default)]
pub(super) struct Table {
    /// The newest first.
    entries: VecDeque<Entry>,
    /// Bytes of their values.
    bytes: usize,
    /// Where strings are decoded.
    scratch: Vec<u8>,
}

/// A field of a table.
enum Entry {
    /// One that nobody reads.
    Unread,
    /// One whose name was not known when it was entered.
    Unknown,
    /// One that is read; its value is not there where it is too long, or no text.
    Read(Name, Option<Box<[u8]>>),
}

/// What a field of a block came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Field<'a> {
    /// A field that somebody reads.
    Known(Name, &'a [u8]),
    /// A field whose name may be anything, or whose value is not known.
    Unknown(Option<Name>),
}

impl Table {
    /// Entries may have been made that were not seen: none of those known can be told from the others any more.
    pub(super) fn forget(&mut self) {
        self.entries = VecDeque::new();
        self.bytes = 0;
    }

    /// Memory that it holds, in bytes.
    pub(super) fn memory(&self) -> usize {
        self.entries.capacity() * size_of::<Entry>() + self.bytes + self.scratch.capacity()
    }

    /// Reads a whole block. Fields that are known, and that nobody reads, are not handed over.
    pub(super) fn read(&mut self, block: &[u8], out: &mut dyn FnMut(Field<'_>)) -> Result<(), Malformed> {
        let mut rest = block;
        let result = loop {
            if rest.is_empty() {
                break Ok(());
            }
            if let Err(error) = self.read_field(&mut rest, out) {
                self.forget();
                break Err(error);
            }
        };
        // What was decoded last may be a secret, and blocks are rare.
        self.scratch = Vec::new();
        result
    }

    /// The values that it remembers.
    #[cfg(test)]
    pub(super) fn values(&self) -> impl Iterator<Item = &[u8]> {
        self.entries
            .iter()
            .filter_map(|entry| if let Entry::Read(_, Some(value)) = entry { Some(&**value) } else { None })
    }

    fn read_field(&mut self, rest: &mut &[u8], out: &mut dyn FnMut(Field<'_>)) -> Result<(), Malformed> {
        let first = *rest.first().ok_or(Malformed)?;
        match first {
            0x80.. => {
                let index = integer(rest, 7)?;
                self.refer(index, out)
            }
            0x40.. => self.literal(rest, 6, true, out),
            // The table's new size says nothing of what is in it that a reference would not.
            0x20.. => integer(rest, 5).map(|_| ()),
            // Not entered, and never to be.
            _ => self.literal(rest, 4, false, out),
        }
    }

    /// A field that is in a table already.
    fn refer(&self, index: usize, out: &mut dyn FnMut(Field<'_>)) -> Result<(), Malformed> {
        match index.checked_sub(fields::STATIC.len() + 1) {
            Some(dynamic) => match self.entries.get(dynamic) {
                Some(Entry::Read(name, Some(value))) => out(Field::Known(*name, value)),
                Some(Entry::Read(name, None)) => out(Field::Unknown(Some(*name))),
                Some(Entry::Unread) => {}
                Some(Entry::Unknown) | None => out(Field::Unknown(None)),
            },
            None => {
                let (name, value) = fields::STATIC.get(index.wrapping_sub(1)).ok_or(Malformed)?;
                if let Some(name) = Name::of(name.as_bytes()) {
                    out(Field::Known(name, value.as_bytes()));
                }
            }
        }
        Ok(())
    }

    /// A field whose value is spelled out, and perhaps its name.
    fn literal(
        &mut self,
        rest: &mut &[u8],
        prefix: u32,
        is_entered: bool,
        out: &mut dyn FnMut(Field<'_>),
    ) -> Result<(), Malformed> {
        let index = integer(rest, prefix)?;
        // `None`: it may be any.
        let name = match index.checked_sub(fields::STATIC.len() + 1) {
            None if index == 0 => {
                self.scratch.clear();
                string(rest, &mut self.scratch)?;
                Some(Name::of(&self.scratch))
            }
            None => Some(Name::of(fields::STATIC[index - 1].0.as_bytes())),
            Some(dynamic) => match self.entries.get(dynamic) {
                Some(Entry::Read(name, _)) => Some(Some(*name)),
                Some(Entry::Unread) => Some(None),
                Some(Entry::Unknown) | None => None,
            },
        };
        self.scratch.clear();
        string(rest, &mut self.scratch)?;
        let entry = match name {
            Some(Some(name)) => {
                let value = name.readable_part(&self.scratch);
                // Only text, so that nothing in it can be taken for the end of a line.
                let is_text = value.iter().all(|byte| !matches!(byte, 0 | b'\r' | b'\n'));
                let value = (is_text && value.len() <= MAX_VALUE).then_some(value);
                out(value.map_or(Field::Unknown(Some(name)), |value| Field::Known(name, value)));
                Entry::Read(name, value.filter(|_| is_entered).map(Box::from))
            }
            Some(None) => Entry::Unread,
            None => {
                out(Field::Unknown(None));
                Entry::Unknown
            }
        };
        if is_entered {
            self.enter(entry);
        }
        Ok(())
    }

    fn enter(&mut self, entry: Entry) {
        self.bytes += entry.len();
        self.entries.push_front(entry);
        while self.entries.len() > MAX_ENTRIES || self.bytes > MAX_BYTES {
            let Some(oldest) = self.entries.pop_back() else { break };
            self.bytes -= oldest.len();
        }
    }
}

impl Entry {
    fn len(&self) -> usize {
        if let Self::Read(_, Some(value)) = self { value.len() } else { 0 }
    }
}

/// A number whose first bits are the last `prefix` bits of a byte (RFC 7541, 5.1).
fn integer(rest: &mut &[u8], prefix: u32) -> Result<usize, Malformed> {
    let (first, mut bytes) = rest.split_first().ok_or(Malformed)?;
    let most = (1_usize << prefix) - 1;
    let mut value = usize::from(*first) & most;
    if value == most {
        let mut shift = 0;
        loop {
            let (byte, others) = bytes.split_first().ok_or(Malformed)?;
            bytes = others;
            // Four groups are 28 bits: more than any frame is long.
            if shift > 21 {
                return Err(Malformed);
            }
            value += usize::from(byte & 0x7f) << shift;
            shift += 7;
            if byte & 0x80 == 0 {
                break;
            }
        }
    }
    *rest = bytes;
    Ok(value)
}

/// Decodes a string (RFC 7541, 5.2).
fn string(rest: &mut &[u8], out: &mut Vec<u8>) -> Result<(), Malformed> {
    let is_huffman = rest.first().is_some_and(|first| first & 0x80 != 0);
    let length = integer(rest, 7)?;
    let (bytes, others) = rest.split_at_checked(length).ok_or(Malformed)?;
    *rest = others;
    if is_huffman {
        httlib_huffman::decode(bytes, out, DecoderSpeed::FiveBits).map_err(|_| Malformed)
    } else {
        out.extend_from_slice(bytes);
        Ok(())
    }
}

impl std::fmt::Debug for Table {
    /// Values are nobody's business.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Table").field("entries", &self.entries.len()).finish_non_exhaustive()
    }
}
