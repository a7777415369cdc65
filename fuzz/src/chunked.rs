//! Chunked bodies: in any pieces they decode like the whole, and like a decoder that has all bytes at hand.

use hbpf_core::http1::{Http1, Side};
use hbpf_core::time::Nanos;

use crate::http1::{Log, Said};
use crate::input::Input;

const REQUEST: &[u8] = b"POST / HTTP/1.1\r\nContent-Length: 0\r\n\r\n";
const HEAD: &[u8] = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";

/// The control bytes choose the pieces.
pub fn run(data: &[u8]) {
    let input = Input::new(data);
    let whole = body(std::iter::once(input.payload));
    assert_eq!(body(input.pieces()), whole);
    if let Some(expected) = decode(input.payload) {
        assert_eq!(whole, Some(expected));
    }
}

/// The body, if it has ended as it should and without surprise.
fn body<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Option<Vec<u8>> {
    let (mut http, mut log) = (Http1::new(), Log::default());
    http.push(Side::Request, Nanos(1), REQUEST, &mut log);
    http.push(Side::Response, Nanos(1), HEAD, &mut log);
    for piece in pieces {
        http.push(Side::Response, Nanos(1), piece, &mut log);
    }
    let mut body = Vec::new();
    for said in log.0 {
        match said {
            Said::Body(_, _, bytes) => body.extend(bytes),
            Said::End(Side::Response, _, true) => return Some(body),
            Said::Desync(_) => return None,
            _ => {}
        }
    }
    None
}

/// A decoder of the plainest chunks: size, data, an empty trailer.
fn decode(mut bytes: &[u8]) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let end = bytes.windows(2).position(|pair| pair == b"\r\n")?;
        let digits = std::str::from_utf8(&bytes[..end]).ok()?;
        if digits.starts_with('+') {
            return None;
        }
        let size = usize::from_str_radix(digits, 16).ok()?;
        bytes = &bytes[end + 2..];
        if size == 0 {
            return bytes.starts_with(b"\r\n").then_some(body);
        }
        let (data, rest) = bytes.split_at_checked(size)?;
        body.extend_from_slice(data);
        bytes = rest.strip_prefix(b"\r\n")?;
    }
}
