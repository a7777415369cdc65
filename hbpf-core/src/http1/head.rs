//! Heads of HTTP/1 messages: what they say, and which body follows them.

use std::hash::Hasher;

use crate::body::Coding;
use crate::http2::Name;
use crate::websocket::Extensions;

/// Header lines kept of one head. Servers and SDKs refuse more than about 100.
const MAX_HEADERS: usize = 128;

/// The bytes are no HTTP/1 head.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an HTTP/1 head")]
pub struct NotHttp;

/// The head of a request. Borrows the bytes that it was parsed from.
#[derive(Clone)]
pub struct RequestHead<'a> {
    /// The method as written.
    pub method: &'a str,
    /// The target as on the wire, query included.
    pub target: &'a [u8],
    headers: Headers<'a>,
    raw: &'a [u8],
}

/// The head of a response. Borrows the bytes that it was parsed from.
#[derive(Clone, Debug)]
pub struct ResponseHead<'a> {
    /// The status code; `None` where it came as a reference to something that was not seen (HTTP/2).
    pub status: Option<u16>,
    headers: Headers<'a>,
}

/// How many bytes of body follow a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    /// None at all.
    Empty,
    /// So many.
    Length(u64),
    /// As the chunks say.
    Chunked,
    /// All until the sender ends its stream.
    UntilClose,
}

impl<'a> RequestHead<'a> {
    /// Parses a head at the beginning of `bytes`; gives it and its length, or `None` if it is not complete yet.
    pub fn parse(bytes: &'a [u8]) -> Result<Option<(Self, usize)>, NotHttp> {
        let mut headers = Headers::EMPTY;
        let mut request = httparse::Request::new(&mut headers.lines);
        let status = lenient().parse_request(&mut request, bytes).map_err(|_| NotHttp)?;
        let httparse::Status::Complete(length) = status else { return Ok(None) };
        let (Some(method), Some(target)) = (request.method, request.path) else { return Err(NotHttp) };
        headers.count = request.headers.len();
        Ok(Some((Self { method, target: target.as_bytes(), headers, raw: &bytes[..length] }, length)))
    }

    /// The value of the first header of that name, in any case.
    pub fn header(&self, name: &str) -> Option<&'a [u8]> {
        self.headers.first(name)
    }

    /// The path: without query, and without scheme and host where the target is an absolute URL.
    pub fn path(&self) -> &'a [u8] {
        let target = self.target.split(|byte| matches!(byte, b'?' | b'#')).next().unwrap_or_default();
        if target.starts_with(b"/") {
            return target;
        }
        let Some(authority) = target.windows(3).position(|window| window == b"://") else { return target };
        let rest = &target[authority + 3..];
        rest.iter().position(|byte| *byte == b'/').map_or(b"/", |slash| &rest[slash..])
    }

    /// How the body is compressed.
    pub fn content_coding(&self) -> Coding {
        self.headers.content_coding()
    }

    /// A hash of the head's bytes, the same at both ends of one exchange.
    pub fn fingerprint(&self) -> u64 {
        // Keyed with constants, so the same in every process that observes.
        let mut hasher = std::hash::DefaultHasher::new();
        hasher.write(self.raw);
        hasher.finish()
    }

    /// The head's bytes, to the empty line.
    pub fn as_bytes(&self) -> &'a [u8] {
        self.raw
    }

    /// Whether the client waits for `100 Continue` before it sends the body.
    pub fn expects_continue(&self) -> bool {
        self.headers.all("expect").any(|value| value.eq_ignore_ascii_case(b"100-continue"))
    }

    /// Whether the client asks to go on as a WebSocket (RFC 6455, 4.1).
    pub fn asks_for_websocket(&self) -> bool {
        self.headers.list("upgrade").any(|to| to.eq_ignore_ascii_case(b"websocket"))
    }

    /// Whether it states the length of its body in two ways: receivers do not agree on which of them counts.
    pub(super) fn contradicts_itself(&self) -> bool {
        self.headers.contradicts_itself()
    }

    /// Which body follows. An error means that lengths contradict each other.
    pub(super) fn framing(&self) -> Result<Framing, NotHttp> {
        match self.headers.transfer() {
            Transfer::Chunked => Ok(Framing::Chunked),
            // A server could not find the end of such a request either: it refuses it.
            Transfer::Other => Err(NotHttp),
            Transfer::Absent => Ok(self.headers.content_length()?.map_or(Framing::Empty, Framing::of_length)),
        }
    }
}

impl<'a> ResponseHead<'a> {
    /// Parses a head at the beginning of `bytes`; gives it and its length, or `None` if it is not complete yet.
    pub fn parse(bytes: &'a [u8]) -> Result<Option<(Self, usize)>, NotHttp> {
        let mut headers = Headers::EMPTY;
        let mut response = httparse::Response::new(&mut headers.lines);
        let status = lenient().parse_response(&mut response, bytes).map_err(|_| NotHttp)?;
        let httparse::Status::Complete(length) = status else { return Ok(None) };
        let Some(status) = response.code else { return Err(NotHttp) };
        headers.count = response.headers.len();
        Ok(Some((Self { status: Some(status), headers }, length)))
    }

    /// The value of the first header of that name, in any case.
    pub fn header(&self, name: &str) -> Option<&'a [u8]> {
        self.headers.first(name)
    }

    /// How the body is compressed.
    pub fn content_coding(&self) -> Coding {
        self.headers.content_coding()
    }

    /// The body's length where the head states one, whether or not a body follows (`HEAD`).
    pub fn content_length(&self) -> Option<u64> {
        self.headers.content_length().ok().flatten()
    }

    /// What a WebSocket's sides have agreed on.
    pub fn websocket_extensions(&self) -> Extensions {
        Extensions::parse(self.headers.all("sec-websocket-extensions"))
    }

    /// Whether the body comes in chunks.
    pub fn is_chunked(&self) -> bool {
        self.headers.transfer() == Transfer::Chunked
    }

    /// As [`RequestHead::contradicts_itself`].
    pub(super) fn contradicts_itself(&self) -> bool {
        self.headers.contradicts_itself()
    }

    /// Which body follows in answer to a request that is no `HEAD` or `CONNECT`.
    pub(super) fn framing(&self) -> Result<Framing, NotHttp> {
        if matches!(self.status, Some(100..=199 | 204 | 304)) {
            return Ok(Framing::Empty);
        }
        match self.headers.transfer() {
            Transfer::Chunked => Ok(Framing::Chunked),
            Transfer::Other => Ok(Framing::UntilClose),
            Transfer::Absent => Ok(self.headers.content_length()?.map_or(Framing::UntilClose, Framing::of_length)),
        }
    }
}

impl Framing {
    fn of_length(length: u64) -> Self {
        if length == 0 { Self::Empty } else { Self::Length(length) }
    }
}

/// What passes for a head in the field: a bad line is skipped instead of costing the whole exchange.
fn lenient() -> httparse::ParserConfig {
    let mut config = httparse::ParserConfig::default();
    config
        .allow_obsolete_multiline_headers_in_responses(true)
        .allow_spaces_after_header_name_in_responses(true)
        .allow_multiple_spaces_in_response_status_delimiters(true)
        .allow_multiple_spaces_in_request_line_delimiters(true)
        .ignore_invalid_headers_in_responses(true)
        .ignore_invalid_headers_in_requests(true);
    config
}

#[derive(Clone)]
struct Headers<'a> {
    lines: [httparse::Header<'a>; MAX_HEADERS],
    count: usize,
}

/// What `Transfer-Encoding` says.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Transfer {
    Absent,
    Chunked,
    Other,
}

impl<'a> Headers<'a> {
    const EMPTY: Self = Self { lines: [httparse::EMPTY_HEADER; MAX_HEADERS], count: 0 };

    /// The first of that name. What is not in HTTP/2's list would never be found there.
    fn first(&self, name: &str) -> Option<&'a [u8]> {
        /// HTTP/2 has other means.
        const HTTP1_ONLY: [&str; 1] = ["upgrade"];
        debug_assert!(
            Name::of(name.as_bytes()).is_some() || HTTP1_ONLY.contains(&name),
            "{name} is not read in HTTP/2"
        );
        self.all(name).next()
    }

    fn all(&self, name: &str) -> impl Iterator<Item = &'a [u8]> {
        self.lines[..self.count].iter().filter(move |line| line.name.eq_ignore_ascii_case(name)).map(|line| line.value)
    }

    /// The elements of a header that is a list, over all its lines.
    fn list(&self, name: &str) -> impl Iterator<Item = &'a [u8]> {
        self.all(name)
            .flat_map(|value| value.split(|byte| *byte == b','))
            .map(<[u8]>::trim_ascii)
            .filter(|element| !element.is_empty())
    }

    fn content_coding(&self) -> Coding {
        let mut coding = Coding::Identity;
        for name in self.list("content-encoding") {
            coding = match (coding, Coding::from_name(name)) {
                (coding, Coding::Identity) => coding,
                (Coding::Identity, named) => named,
                // Two layers: nobody in this field does that.
                _ => Coding::Unknown,
            };
        }
        coding
    }

    /// Equal repetitions are one length (RFC 9112, 6.3); anything else that is not one number is an error.
    fn content_length(&self) -> Result<Option<u64>, NotHttp> {
        let mut length = None;
        for element in self.list("content-length") {
            let value = decimal(element).ok_or(NotHttp)?;
            if length.replace(value).is_some_and(|earlier| earlier != value) {
                return Err(NotHttp);
            }
        }
        Ok(length)
    }

    fn contradicts_itself(&self) -> bool {
        self.transfer() != Transfer::Absent && self.all("content-length").next().is_some()
    }

    fn transfer(&self) -> Transfer {
        match self.list("transfer-encoding").last() {
            None => Transfer::Absent,
            Some(last) if last.eq_ignore_ascii_case(b"chunked") => Transfer::Chunked,
            Some(last) if last.eq_ignore_ascii_case(b"identity") => Transfer::Absent,
            Some(_) => Transfer::Other,
        }
    }
}

impl std::fmt::Debug for RequestHead<'_> {
    /// The target may carry a key in its query.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RequestHead")
            .field("method", &self.method)
            .field("headers", &self.headers)
            .finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Headers<'_> {
    /// Values are secrets more often than not.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.lines[..self.count].iter().map(|line| line.name)).finish()
    }
}

fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    digits.iter().try_fold(0_u64, |value, digit| value.checked_mul(10)?.checked_add(u64::from(digit - b'0')))
}

#[cfg(test)]
mod tests {
    use super::{Framing, NotHttp, RequestHead, ResponseHead};
    use crate::body::Coding;

    fn request(text: &str) -> RequestHead<'_> {
        RequestHead::parse(text.as_bytes()).unwrap().unwrap().0
    }

    fn response(text: &str) -> ResponseHead<'_> {
        ResponseHead::parse(text.as_bytes()).unwrap().unwrap().0
    }

    #[test]
    fn paths_have_no_query_and_no_host() {
        for (target, path) in [
            ("/v1/chat/completions", "/v1/chat/completions"),
            ("/v1beta/models/m:generateContent?key=secret", "/v1beta/models/m:generateContent"),
            ("http://host:8000/v1/messages?beta=true", "/v1/messages"),
            ("http://host", "/"),
            ("http://host?x=/y", "/"),
            ("/proxy?to=http://host/v1", "/proxy"),
            ("*", "*"),
            ("host:443", "host:443"),
        ] {
            let text = format!("GET {target} HTTP/1.1\r\n\r\n");
            assert_eq!(String::from_utf8_lossy(request(&text).path()), path);
            assert_eq!(request(&text).target, target.as_bytes());
        }
    }

    #[test]
    fn headers_are_found_in_any_case() {
        let head = request("POST / HTTP/1.1\r\nHost: a\r\nhOST: b\r\nDATE:\r\nCONTENT-ENCODING: GZIP\r\n\r\n");
        assert_eq!(head.header("host"), Some(&b"a"[..]));
        assert_eq!(head.header("date"), Some(&b""[..]));
        assert_eq!(head.header("server"), None);
        assert_eq!(head.content_coding(), Coding::Gzip);
    }

    #[test]
    fn codings() {
        for (value, coding) in [
            ("identity", Coding::Identity),
            ("br", Coding::Brotli),
            ("identity, zstd", Coding::Zstd),
            ("gzip, br", Coding::Unknown),
            ("", Coding::Identity),
        ] {
            let text = format!("HTTP/1.1 200 OK\r\nContent-Encoding: {value}\r\n\r\n");
            assert_eq!(response(&text).content_coding(), coding, "{value}");
        }
    }

    #[test]
    fn framing_follows_rfc_9112() {
        let cases = [
            ("204 No Content\r\nContent-Length: 5", Ok(Framing::Empty)),
            ("200 OK", Ok(Framing::UntilClose)),
            ("200 OK\r\nContent-Length: 5", Ok(Framing::Length(5))),
            ("200 OK\r\nContent-Length: 0", Ok(Framing::Empty)),
            ("200 OK\r\nContent-Length: 5\r\nContent-Length: 5", Ok(Framing::Length(5))),
            ("200 OK\r\nContent-Length: 5\r\nContent-Length: 6", Err(NotHttp)),
            ("200 OK\r\nContent-Length: -1", Err(NotHttp)),
            ("200 OK\r\nContent-Length: 99999999999999999999", Err(NotHttp)),
            ("200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: Chunked", Ok(Framing::Chunked)),
            ("200 OK\r\nTransfer-Encoding: chunked, gzip", Ok(Framing::UntilClose)),
            ("200 OK\r\nTransfer-Encoding:\r\n chunked", Ok(Framing::Chunked)),
        ];
        for (lines, framing) in cases {
            assert_eq!(response(&format!("HTTP/1.1 {lines}\r\n\r\n")).framing(), framing, "{lines}");
        }
        assert_eq!(request("POST / HTTP/1.1\r\n\r\n").framing(), Ok(Framing::Empty));
        assert_eq!(request("POST / HTTP/1.1\r\nTransfer-Encoding: gzip\r\n\r\n").framing(), Err(NotHttp));
    }

    #[test]
    fn too_many_headers_are_no_head() {
        let text = format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(super::MAX_HEADERS + 1));
        assert_eq!(RequestHead::parse(text.as_bytes()).unwrap_err(), NotHttp);
    }

    #[test]
    fn debug_output_keeps_secrets() {
        let head = request("GET /a?key=canary HTTP/1.1\r\nAuthorization: canary\r\n\r\n");
        assert!(!format!("{head:?}").contains("canary"));
        assert_eq!(
            head.fingerprint(),
            request("GET /a?key=canary HTTP/1.1\r\nAuthorization: canary\r\n\r\n").fingerprint()
        );
        assert_ne!(
            head.fingerprint(),
            request("GET /a?key=canary HTTP/1.1\r\nAuthorization: other\r\n\r\n").fingerprint()
        );
    }
}
