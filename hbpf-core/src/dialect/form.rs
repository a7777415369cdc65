//! The model that a form names: requests with files in them are `multipart/form-data`.

use super::reading::set_label;
use crate::label::Label;

/// How the part with the model is announced: RFC 7578, section 4.2, as all who make forms write it. A file may be called so, too.
const NAME: &[u8] = b"form-data; name=\"model\"";

/// What ends the head of a part.
const END_OF_HEAD: &[u8] = b"\r\n\r\n";

/// Longest head of the part, behind the name, and longest name of a model that is looked at.
const MAX_BYTES: usize = 512;

/// Looks for the model in a form, whatever stands before it, without keeping more than half a KiB.
#[derive(Debug, Default)]
pub(super) struct Form {
    /// What of the name has come, if the bytes so far end in it, or all of the part behind the name.
    held: Vec<u8>,
    is_in_part: bool,
    is_done: bool,
}

impl Form {
    pub(super) fn push(&mut self, mut bytes: &[u8], model: &mut Option<Label>) {
        while !self.is_done && !bytes.is_empty() {
            bytes = if self.is_in_part { self.part(bytes, model) } else { self.search(bytes) };
        }
    }

    /// Bytes are missing: what was begun is given up.
    pub(super) fn gap(&mut self) {
        self.held.clear();
        self.is_in_part = false;
    }

    pub(super) fn memory(&self) -> usize {
        self.held.capacity()
    }

    /// Looks for the name, and gives what is behind it.
    fn search<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        // It may have begun before these bytes.
        if !self.held.is_empty() {
            let before = self.held.len();
            self.held.extend(&bytes[..bytes.len().min(NAME.len())]);
            if let Some(at) = memchr::memmem::find(&self.held, NAME) {
                self.enter();
                return &bytes[at + NAME.len() - before..];
            }
            self.held.truncate(before);
        }
        if let Some(at) = memchr::memmem::find(bytes, NAME) {
            self.enter();
            return &bytes[at + NAME.len()..];
        }
        self.held.extend(&bytes[bytes.len().saturating_sub(NAME.len() - 1)..]);
        let excess = self.held.len().saturating_sub(NAME.len() - 1);
        self.held.drain(..excess);
        &[]
    }

    fn enter(&mut self) {
        self.held.clear();
        self.is_in_part = true;
    }

    fn part<'a>(&mut self, bytes: &'a [u8], model: &mut Option<Label>) -> &'a [u8] {
        let (taken, rest) = bytes.split_at(bytes.len().min(MAX_BYTES - self.held.len()));
        self.held.extend(taken);
        let content = memchr::memmem::find(&self.held, END_OF_HEAD).map(|at| &self.held[at + END_OF_HEAD.len()..]);
        let value = content.and_then(|content| Some(&content[..memchr::memchr(b'\r', content)?]));
        if let Some(value) = value {
            set_label(model, value);
        }
        if value.is_some() || self.held.len() == MAX_BYTES {
            self.held = Vec::new();
            self.is_done = true;
        }
        rest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BODY: &str = "--b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"model\"\r\n\
        Content-Type: audio/wav\r\n\r\nRIFF form-data; name=\"mode form-data; name=\"mo\r\n--b\r\n\
        Content-Disposition: form-data; name=\"model\"\r\n\r\nwhisper-1\r\n--b\r\n\
        Content-Disposition: form-data; name=\"prompt\"\r\n\r\nCANARY\r\n--b--\r\n";

    fn model(pieces: &[&[u8]]) -> Option<Label> {
        let (mut form, mut model) = (Form::default(), None);
        for piece in pieces {
            form.push(piece, &mut model);
            assert!(form.memory() <= 2 * MAX_BYTES);
        }
        model
    }

    #[test]
    fn the_model_is_found_at_every_split() {
        let bytes = BODY.as_bytes();
        for at in 0..=bytes.len() {
            assert_eq!(model(&[&bytes[..at], &bytes[at..]]), Some("whisper-1".into()), "split at {at}");
        }
        assert_eq!(model(&bytes.chunks(1).collect::<Vec<_>>()), Some("whisper-1".into()));
    }

    #[test]
    fn nothing_is_found_where_there_is_none_and_nothing_grows() {
        assert_eq!(model(&[BODY.replace("\"model\"", "\"other\"").as_bytes()]), None);
        assert_eq!(model(&[NAME, &[b'x'; 5000], b"\r\n\r\nm\r\n"]), None, "a head that does not end");
    }

    #[test]
    fn a_gap_gives_up_what_was_begun() {
        let (mut form, mut model) = (Form::default(), None);
        form.push(&[NAME, b"\r\n\r\nwhis"].concat(), &mut model);
        form.gap();
        form.push(b"ers and more\r\n", &mut model);
        assert_eq!(model, None);
        form.push(BODY.as_bytes(), &mut model);
        assert_eq!(model, Some("whisper-1".into()));
    }
}
