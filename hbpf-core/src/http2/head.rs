//! Heads of HTTP/2 messages in the form that HTTP/1 has for them.

use super::hpack::Field;
use crate::http1::{RequestHead, ResponseHead};

/// Stands for a path that is not known. No request with a body has it.
const UNKNOWN_PATH: &[u8] = b"*";

/// The fields of a header block that are of interest.
#[derive(Default)]
pub(super) struct Head {
    method: Option<Vec<u8>>,
    path: Option<Vec<u8>>,
    authority: Option<Vec<u8>>,
    status: Option<u16>,
    /// The others, as lines.
    lines: Vec<u8>,
}

impl Head {
    pub(super) fn add(&mut self, field: Field<'_>) {
        let Field::Known(name, value) = field else { return };
        match name.as_str() {
            ":method" => self.method = Some(value.to_vec()),
            ":path" => self.path = Some(value.to_vec()),
            ":authority" => self.authority = Some(value.to_vec()),
            ":status" => self.status = std::str::from_utf8(value).ok().and_then(|status| status.parse().ok()),
            name => {
                write_line(&mut self.lines, name.as_bytes(), value);
            }
        }
    }

    /// Whether it is that of an interim answer.
    pub(super) fn is_interim(&self) -> bool {
        self.status.is_some_and(|status| (100..200).contains(&status))
    }

    /// Hands it over as a request's, if it is one as far as it is known. What is not known is left out, except for the
    /// method of a request with a body.
    pub(super) fn request(&self, has_body: bool, out: &mut dyn FnMut(&RequestHead<'_>)) {
        let method = self.method.as_deref().unwrap_or(if has_body { b"POST" } else { b"GET" });
        let path = self.path.as_deref().filter(|path| path.iter().all(u8::is_ascii_graphic)).unwrap_or(UNKNOWN_PATH);
        let mut text = [method, b" ", path, b" HTTP/1.1\r\n"].concat();
        if let Some(authority) = &self.authority {
            write_line(&mut text, b"host", authority);
        }
        text.extend_from_slice(&self.lines);
        text.extend_from_slice(b"\r\n");
        if let Ok(Some((head, _))) = RequestHead::parse(&text) {
            out(&head);
        }
    }

    /// Hands it over as an answer's.
    pub(super) fn response(&self, out: &mut dyn FnMut(&ResponseHead<'_>)) {
        let text = [b"HTTP/1.1 200\r\n", &self.lines[..], b"\r\n"].concat();
        if let Ok(Some((mut head, _))) = ResponseHead::parse(&text) {
            head.status = self.status;
            out(&head);
        }
    }
}

fn write_line(text: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    for part in [name, b": ", value, b"\r\n"] {
        text.extend_from_slice(part);
    }
}
