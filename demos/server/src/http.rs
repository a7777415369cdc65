//! HTTP/1.1, as much as a stand-in server needs.

use std::io::{self, Read, Write};

use flate2::Compression;
use flate2::write::GzEncoder;

/// Longest request head. Real servers allow 8 to 64 KiB.
const MAX_HEAD: usize = 64 * 1024;
/// Most headers of a request.
const MAX_HEADERS: usize = 100;
/// Longest request body: room for prompts with images.
const MAX_BODY: usize = 64 * 1024 * 1024;
/// How much is read at a time.
const READ_BYTES: usize = 16 * 1024;

/// One request.
#[derive(Debug, Default)]
pub(crate) struct Request {
    /// Method.
    pub method: String,
    /// Target without query.
    pub path: String,
    /// What stood behind the `?`.
    pub query: String,
    /// Names in lower case.
    headers: Vec<(String, String)>,
    /// Framing removed.
    pub body: Vec<u8>,
    /// The client wants the connection to go on.
    pub keep_alive: bool,
}

impl Request {
    /// The value of a header; the name in lower case.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(have, _)| have == name).map(|(_, value)| value.as_str())
    }

    /// Whether the client takes gzip.
    pub(crate) fn accepts_gzip(&self) -> bool {
        self.header("accept-encoding").is_some_and(|value| value.contains("gzip"))
    }

    fn is_chunked(&self) -> bool {
        self.header("transfer-encoding").is_some_and(|value| value.eq_ignore_ascii_case("chunked"))
    }
}

/// One connection, with what was read beyond the current request.
pub(crate) struct Connection<S> {
    stream: S,
    unread: Vec<u8>,
}

impl<S: Read + Write> Connection<S> {
    /// Takes a stream that is ready for plaintext.
    pub(crate) fn new(stream: S) -> Self {
        Self { stream, unread: Vec::new() }
    }

    /// The next request, or nothing when the client is done.
    pub(crate) fn request(&mut self) -> io::Result<Option<Request>> {
        let (mut request, head_len) = loop {
            if let Some(parsed) = parse_head(&self.unread)? {
                break parsed;
            }
            if self.unread.len() > MAX_HEAD {
                return Err(invalid("request head is too long"));
            }
            if !self.fill()? {
                return if self.unread.is_empty() { Ok(None) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
            }
        };
        self.unread.drain(..head_len);
        if request.header("expect").is_some_and(|value| value.eq_ignore_ascii_case("100-continue")) {
            self.write(b"HTTP/1.1 100 Continue\r\n\r\n")?;
        }
        request.body = if request.is_chunked() {
            self.chunked_body()?
        } else {
            let len = request.header("content-length").map_or(Ok(0), str::parse).map_err(|_| invalid("bad length"))?;
            self.take(len)?
        };
        Ok(Some(request))
    }

    /// Writes at once.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)?;
        self.stream.flush()
    }

    fn fill(&mut self) -> io::Result<bool> {
        let have = self.unread.len();
        self.unread.resize(have + READ_BYTES, 0);
        let result = self.stream.read(&mut self.unread[have..]);
        self.unread.truncate(have + *result.as_ref().unwrap_or(&0));
        Ok(result? > 0)
    }

    fn take(&mut self, len: usize) -> io::Result<Vec<u8>> {
        if len > MAX_BODY {
            return Err(invalid("request body is too long"));
        }
        while self.unread.len() < len {
            if !self.fill()? {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(self.unread.drain(..len).collect())
    }

    fn chunked_body(&mut self) -> io::Result<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let (start, len) = loop {
                match httparse::parse_chunk_size(&self.unread).map_err(|_| invalid("bad chunk size"))? {
                    httparse::Status::Complete((start, len)) => break (start, len),
                    httparse::Status::Partial if self.unread.len() > MAX_HEAD => return Err(invalid("bad chunk size")),
                    httparse::Status::Partial => {
                        if !self.fill()? {
                            return Err(io::ErrorKind::UnexpectedEof.into());
                        }
                    }
                }
            };
            self.unread.drain(..start);
            let len = usize::try_from(len).map_err(|_| invalid("chunk is too long"))?;
            if body.len().saturating_add(len) > MAX_BODY {
                return Err(invalid("request body is too long"));
            }
            body.extend(self.take(len)?);
            // Trailers are not expected of any client of this server.
            if self.take(2)? != b"\r\n" {
                return Err(invalid("chunk does not end where it should"));
            }
            if len == 0 {
                return Ok(body);
            }
        }
    }
}

/// How the body of an answer is written.
pub(crate) struct Body {
    encoder: Option<GzEncoder<Vec<u8>>>,
}

impl Body {
    /// A body in pieces, compressed or not.
    pub(crate) fn new(gzip: bool) -> Self {
        Self { encoder: gzip.then(|| GzEncoder::new(Vec::new(), Compression::fast())) }
    }

    /// One piece, as one chunk: streams are flushed per event, as real servers do.
    pub(crate) fn chunk(&mut self, bytes: &[u8]) -> io::Result<Vec<u8>> {
        match &mut self.encoder {
            None => Ok(frame(bytes)),
            Some(encoder) => {
                encoder.write_all(bytes)?;
                encoder.flush()?;
                Ok(frame(&std::mem::take(encoder.get_mut())))
            }
        }
    }

    /// What ends the body.
    pub(crate) fn end(self) -> io::Result<Vec<u8>> {
        let mut out = match self.encoder {
            None => Vec::new(),
            Some(encoder) => frame(&encoder.finish()?),
        };
        out.extend_from_slice(b"0\r\n\r\n");
        Ok(out)
    }
}

/// The whole of a body, compressed.
pub(crate) fn gzip(bytes: &[u8]) -> io::Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes)?;
    encoder.finish()
}

/// Status line and headers.
pub(crate) fn head(status: u16, headers: &[(&str, String)]) -> Vec<u8> {
    let reason = match status {
        200 => "OK",
        400 => "Bad Request",
        404 => "Not Found",
        429 => "Too Many Requests",
        500 => "Internal Server Error",
        _ => "",
    };
    let mut out = format!("HTTP/1.1 {status} {reason}\r\n").into_bytes();
    for (name, value) in headers {
        out.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
    }
    out.extend_from_slice(b"\r\n");
    out
}

fn frame(bytes: &[u8]) -> Vec<u8> {
    // A chunk of no bytes would end the body.
    if bytes.is_empty() {
        return Vec::new();
    }
    let mut out = format!("{:x}\r\n", bytes.len()).into_bytes();
    out.extend_from_slice(bytes);
    out.extend_from_slice(b"\r\n");
    out
}

fn parse_head(bytes: &[u8]) -> io::Result<Option<(Request, usize)>> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut parsed = httparse::Request::new(&mut headers);
    let httparse::Status::Complete(len) = parsed.parse(bytes).map_err(|_| invalid("not an HTTP request"))? else {
        return Ok(None);
    };
    let target = parsed.path.unwrap_or("/");
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let mut request = Request {
        method: parsed.method.unwrap_or_default().to_owned(),
        path: path.to_owned(),
        query: query.to_owned(),
        ..Request::default()
    };
    for header in parsed.headers.iter() {
        let value = String::from_utf8_lossy(header.value).into_owned();
        request.headers.push((header.name.to_ascii_lowercase(), value));
    }
    let connection = request.header("connection").unwrap_or_default().to_ascii_lowercase();
    request.keep_alive =
        if parsed.version == Some(0) { connection.contains("keep-alive") } else { !connection.contains("close") };
    Ok(Some((request, len)))
}

fn invalid(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads from a script a few bytes at a time, and keeps what is written.
    struct Script {
        input: Vec<u8>,
        step: usize,
        output: Vec<u8>,
    }

    impl Read for Script {
        fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
            let len = self.step.min(self.input.len()).min(into.len());
            into[..len].copy_from_slice(&self.input[..len]);
            self.input.drain(..len);
            Ok(len)
        }
    }

    impl Write for Script {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.output.extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn requests_are_read_however_they_are_split() {
        let input = b"POST /a?k=v HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc\
            POST /b HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nxy\r\n1\r\nz\r\n0\r\n\r\n\
            GET /c HTTP/1.1\r\nConnection: close\r\n\r\n";
        for step in 1..input.len() {
            let mut connection = Connection::new(Script { input: input.to_vec(), step, output: Vec::new() });
            let mut next = || connection.request().unwrap().unwrap();
            let (a, b, c) = (next(), next(), next());
            assert_eq!((a.path.as_str(), a.query.as_str(), a.body.as_slice()), ("/a", "k=v", &b"abc"[..]));
            assert_eq!((b.path.as_str(), b.body.as_slice(), b.keep_alive), ("/b", &b"xyz"[..], true));
            assert_eq!((c.path.as_str(), c.keep_alive), ("/c", false));
            assert!(connection.request().unwrap().is_none());
        }
    }

    #[test]
    fn expectations_are_met_before_the_body_is_read() {
        let input = b"POST / HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\nx".to_vec();
        let mut connection = Connection::new(Script { input, step: 10, output: Vec::new() });
        assert_eq!(connection.request().unwrap().unwrap().body, b"x");
        assert_eq!(connection.stream.output, b"HTTP/1.1 100 Continue\r\n\r\n");
    }

    #[test]
    fn a_cut_request_is_an_error_and_no_request() {
        let input = b"POST / HTTP/1.1\r\nContent-Length: 9\r\n\r\nx".to_vec();
        let mut connection = Connection::new(Script { input, step: 100, output: Vec::new() });
        assert!(connection.request().is_err());
    }
}
