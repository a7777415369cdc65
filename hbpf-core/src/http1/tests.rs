mod properties;

use super::{Http1, HttpSink, MAX_HEAD, MAX_WAITING, RequestHead, ResponseHead, Side};
use crate::time::Nanos;

/// What a connection reported, one line per event; body bytes that follow one another are one line.
#[derive(Debug, Default, PartialEq, Eq)]
struct Log {
    lines: Vec<String>,
    body: Option<(u64, &'static str)>,
}

impl Log {
    fn line(&mut self, line: String) {
        self.body = None;
        self.lines.push(line);
    }

    fn body(&mut self, exchange: u64, side: &'static str, bytes: &[u8]) {
        let text: String = bytes.escape_ascii().to_string();
        match self.lines.last_mut() {
            Some(last) if self.body == Some((exchange, side)) => last.push_str(&text),
            _ => {
                self.lines.push(format!("{exchange} {side} body {text}"));
                self.body = Some((exchange, side));
            }
        }
    }
}

impl HttpSink for Log {
    fn request_head(&mut self, exchange: u64, _: Nanos, _: Nanos, head: &RequestHead<'_>) {
        self.line(format!("{exchange} request {} {}", head.method, head.path().escape_ascii()));
    }
    fn request_body(&mut self, exchange: u64, _: Nanos, bytes: &[u8]) {
        self.body(exchange, "request", bytes);
    }
    fn request_body_gap(&mut self, exchange: u64, len: Option<u64>) {
        self.line(format!("{exchange} request gap {len:?}"));
    }
    fn request_end(&mut self, exchange: u64, _: Nanos, complete: bool) {
        self.line(format!("{exchange} request end {complete}"));
    }
    fn response_head(&mut self, exchange: u64, _: Nanos, head: &ResponseHead<'_>) {
        self.line(format!("{exchange} response {}", head.status.unwrap()));
    }
    fn response_body(&mut self, exchange: u64, _: Nanos, bytes: &[u8]) {
        self.body(exchange, "response", bytes);
    }
    fn response_body_gap(&mut self, exchange: u64, len: Option<u64>) {
        self.line(format!("{exchange} response gap {len:?}"));
    }
    fn response_end(&mut self, exchange: u64, _: Nanos, complete: bool) {
        self.line(format!("{exchange} response end {complete}"));
    }
    fn upgraded(&mut self, exchange: u64, _: Nanos, _: &ResponseHead<'_>) {
        self.line(format!("{exchange} upgraded"));
    }
    fn response_cut(&mut self, exchange: u64) {
        self.line(format!("{exchange} response cut"));
    }

    fn desync(&mut self, side: Side) {
        self.line(format!("desync {side:?}"));
    }
}

/// What happens to a connection under test.
#[derive(Clone, Copy, Debug)]
enum Act {
    Request(&'static str),
    Response(&'static str),
    RequestGap(u64),
    ResponseGap(u64),
    RequestEnd,
    ResponseEnd,
    Begins,
}
use Act::{Begins, Request, RequestEnd, RequestGap, Response, ResponseEnd, ResponseGap};

fn perform(acts: &[Act]) -> Vec<String> {
    let mut http = Http1::new();
    let mut log = Log::default();
    for (act, when) in acts.iter().zip(1..) {
        let when = Nanos(when);
        match *act {
            Request(text) => http.push(Side::Request, when, text.as_bytes(), &mut log),
            Response(text) => http.push(Side::Response, when, text.as_bytes(), &mut log),
            RequestGap(len) => http.gap(Side::Request, when, len, &mut log),
            ResponseGap(len) => http.gap(Side::Response, when, len, &mut log),
            RequestEnd => http.end(Side::Request, when, &mut log),
            ResponseEnd => http.end(Side::Response, when, &mut log),
            Begins => http.message_begins(when, &mut log),
        }
    }
    log.lines
}

const GET: Act = Request("GET /a HTTP/1.1\r\nHost: h\r\n\r\n");
const POST_5: Act = Request("POST /p HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello");
const OK_2: Act = Response("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
const CHUNKED: Act = Response("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nab\n\n\r\n");

/// Exchanges that need no gaps to be understood. Each is also cut at every byte.
const WHOLE: &[(&str, &[Act], &[&str])] = &[
    (
        "keep-alive",
        &[POST_5, OK_2, Begins, GET, OK_2],
        &[
            "0 request POST /p",
            "0 request body hello",
            "0 request end true",
            "0 response 200",
            "0 response body ok",
            "0 response end true",
            "1 request GET /a",
            "1 request end true",
            "1 response 200",
            "1 response body ok",
            "1 response end true",
        ],
    ),
    (
        "pipelining",
        &[
            Request("GET /a HTTP/1.1\r\n\r\nHEAD /b HTTP/1.1\r\n\r\nGET /c HTTP/1.1\r\n\r\n"),
            Response(
                "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nAHTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nHTTP/1.1 404 \r\nContent-Length: 0\r\n\r\n",
            ),
        ],
        &[
            "0 request GET /a",
            "0 request end true",
            "1 request HEAD /b",
            "1 request end true",
            "2 request GET /c",
            "2 request end true",
            "0 response 200",
            "0 response body A",
            "0 response end true",
            "1 response 200",
            "1 response end true",
            "2 response 404",
            "2 response end true",
        ],
    ),
    (
        "chunked both ways, with extension and trailer, and a status line without reason",
        &[
            Request(
                "POST /p HTTP/1.1\r\ntransfer-encoding: gzip, chunked\r\n\r\n3;x=y\r\nabc\r\n2\r\nde\r\n0\r\nT: v\r\n\r\n",
            ),
            Response("HTTP/1.1 200 \r\nTransfer-Encoding: chunked\r\n\r\nA\r\n0123456789\r\n0\r\n\r\n"),
            GET,
            Response("HTTP/1.1 204\r\n\r\n"),
        ],
        &[
            "0 request POST /p",
            "0 request body abcde",
            "0 request end true",
            "0 response 200",
            "0 response body 0123456789",
            "0 response end true",
            "1 request GET /a",
            "1 request end true",
            "1 response 204",
            "1 response end true",
        ],
    ),
    (
        "until close, HTTP/1.0",
        &[
            Request("GET http://h:80/a?key=1 HTTP/1.0\r\n\r\n"),
            Response("HTTP/1.0 200 OK\r\n\r\nall of it"),
            ResponseEnd,
        ],
        &[
            "0 request GET /a",
            "0 request end true",
            "0 response 200",
            "0 response body all of it",
            "0 response end true",
        ],
    ),
    (
        "100-continue with the body behind it",
        &[
            Request("POST /p HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n"),
            Response("HTTP/1.1 100 Continue\r\n\r\n"),
            Request("hi"),
            OK_2,
        ],
        &[
            "0 request POST /p",
            "0 request body hi",
            "0 request end true",
            "0 response 200",
            "0 response body ok",
            "0 response end true",
        ],
    ),
    (
        "no body in answer to HEAD nor with 304",
        &[
            Request("HEAD / HTTP/1.1\r\n\r\n"),
            Response("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"),
            GET,
            Response("HTTP/1.1 304 Not Modified\r\nContent-Length: 7\r\n\r\n"),
            GET,
            OK_2,
        ],
        &[
            "0 request HEAD /",
            "0 request end true",
            "0 response 200",
            "0 response end true",
            "1 request GET /a",
            "1 request end true",
            "1 response 304",
            "1 response end true",
            "2 request GET /a",
            "2 request end true",
            "2 response 200",
            "2 response body ok",
            "2 response end true",
        ],
    ),
    (
        "upgrade, then silence",
        &[
            Request("GET /ws HTTP/1.1\r\nUpgrade: websocket\r\n\r\n"),
            Response("HTTP/1.1 101 Switching Protocols\r\n\r\n\u{1}\u{2}GET / HTTP/1.1\r\n\r\n"),
            Request("anything"),
            ResponseEnd,
        ],
        &["0 request GET /ws", "0 request end true", "0 upgraded"],
    ),
    (
        "tunnel",
        &[
            Request("CONNECT h:443 HTTP/1.1\r\n\r\n"),
            Response("HTTP/1.1 407 No\r\nContent-Length: 1\r\n\r\nx"),
            Request("CONNECT h:443 HTTP/1.1\r\n\r\n"),
            Response("HTTP/1.1 200 OK\r\n\r\n\u{16}\u{3}"),
            Request("\u{16}\u{3}"),
        ],
        &[
            "0 request CONNECT h:443",
            "0 request end true",
            "0 response 407",
            "0 response body x",
            "0 response end true",
            "1 request CONNECT h:443",
            "1 request end true",
            "1 response 200",
            "1 upgraded",
        ],
    ),
    (
        "bare line feeds, folded lines, empty lines between messages, bad lines",
        &[
            Request(
                "\r\nPOST /p HTTP/1.1\nX: a\r\n  folded\r\nContent-Length: 1\nbad line\n\nx\r\n\r\nGET /a HTTP/1.1\n\n",
            ),
            Response(
                "HTTP/1.1 200 OK\r\nX: a\r\n\tfolded\r\nContent-Length: 1, 1\r\n\r\nyHTTP/1.1 200 OK\nContent-Length: 0\n\n",
            ),
        ],
        &[
            "0 request POST /p",
            "0 request body x",
            "0 request end true",
            "1 request GET /a",
            "1 request end true",
            "0 response 200",
            "0 response body y",
            "0 response end true",
            "1 response 200",
            "1 response end true",
        ],
    ),
    (
        "what is received is seen a little later than what is sent",
        &[GET, Response("{\"left\": 1}"), GET, OK_2],
        &[
            "0 request GET /a",
            "0 request end true",
            "0 response cut",
            "1 request GET /a",
            "1 request end true",
            "0 response end false",
            "1 response 200",
            "1 response body ok",
            "1 response end true",
        ],
    ),
    (
        "lengths that contradict each other",
        &[
            Request("POST /p HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab"),
            Response("HTTP/1.1 400 Bad\r\nContent-Length: x\r\n\r\n"),
            Begins,
            GET,
            OK_2,
        ],
        &[
            "0 request POST /p",
            "0 request end false",
            "desync Request",
            "0 response 400",
            "0 response end false",
            "desync Response",
            "1 request GET /a",
            "1 request end true",
            "1 response 200",
            "1 response body ok",
            "1 response end true",
        ],
    ),
    (
        "answered before the request is over",
        &[Request("POST /p HTTP/1.1\r\nContent-Length: 9\r\n\r\nabc"), OK_2, Request("defghi"), GET, OK_2],
        &[
            "0 request POST /p",
            "0 request body abc",
            "0 response 200",
            "0 response body ok",
            "0 response end true",
            "0 request body defghi",
            "0 request end true",
            "1 request GET /a",
            "1 request end true",
            "1 response 200",
            "1 response body ok",
            "1 response end true",
        ],
    ),
    (
        "cut by the ends of both streams",
        &[Request("POST /p HTTP/1.1\r\nContent-Length: 9\r\n\r\nabc"), RequestEnd, CHUNKED, ResponseEnd],
        &[
            "0 request POST /p",
            "0 request body abc",
            "0 request end false",
            "0 response 200",
            "0 response body ab\\n\\n",
            "0 response end false",
        ],
    ),
    (
        "never answered",
        &[GET, GET, Response("HTTP/1.1 20"), ResponseEnd, GET],
        &[
            "0 request GET /a",
            "0 request end true",
            "1 request GET /a",
            "1 request end true",
            "0 response end false",
            "1 response end false",
            "2 request GET /a",
            "2 response end false",
            "2 request end true",
        ],
    ),
    (
        "other protocols",
        &[Request("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), Response("\u{0}\u{0}\u{6}")],
        &["desync Request"],
    ),
    (
        "an answer to a request that was not seen",
        &[Response("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nab"), Response("cd"), Begins, GET, OK_2],
        &["0 request GET /a", "0 request end true", "0 response 200", "0 response body ok", "0 response end true"],
    ),
];

#[test]
fn an_upgrade_that_nobody_asked_for_ends_the_request_that_is_being_sent() {
    let acts = [
        Request("POST /p HTTP/1.1\r\nContent-Length: 9\r\n\r\nabc"),
        OK_2,
        Response("HTTP/1.1 101 Switching Protocols\r\n\r\n"),
        Request("defghi"),
    ];
    let log = perform(&acts);
    assert_eq!(log.last().map(String::as_str), Some("0 request end false"), "{log:?}");
}

#[test]
fn whole_streams() {
    for (name, acts, expected) in WHOLE {
        assert_eq!(perform(acts), *expected, "{name}");
    }
}

fn bytewise(acts: &[Act]) -> Vec<Act> {
    let mut cut = Vec::new();
    for act in acts {
        match *act {
            Request(text) => cut.extend((0..text.len()).map(|at| Request(&text[at..=at]))),
            Response(text) => cut.extend((0..text.len()).map(|at| Response(&text[at..=at]))),
            other => cut.push(other),
        }
    }
    cut
}

#[test]
fn streams_byte_by_byte() {
    for (name, acts, expected) in WHOLE {
        assert_eq!(perform(&bytewise(acts)), *expected, "{name}");
    }
}

#[test]
fn gaps() {
    let cases: &[(&str, &[Act], &[&str])] = &[
        (
            "in a body of known length",
            &[
                Request("POST /p HTTP/1.1\r\nContent-Length: 9\r\n\r\nabc"),
                RequestGap(4),
                Request("hiGET /b HTTP/1.1\r\n\r\n"),
            ],
            &[
                "0 request POST /p",
                "0 request body abc",
                "0 request gap Some(4)",
                "0 request body hi",
                "0 request end true",
                "1 request GET /b",
                "1 request end true",
            ],
        ),
        (
            "to and beyond the end of a body",
            &[
                Request("POST /p HTTP/1.1\r\nContent-Length: 9\r\n\r\nabc"),
                RequestGap(60),
                Request("k HTTP/1.1\r\n\r\n"),
                Begins,
                GET,
            ],
            &[
                "0 request POST /p",
                "0 request body abc",
                "0 request gap Some(6)",
                "0 request end true",
                "1 request GET /a",
                "1 request end true",
            ],
        ),
        (
            "within one chunk",
            &[
                GET,
                Response("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\na"),
                ResponseGap(4),
                Response("\r\n1\r\nf\r\n0\r\n\r\n"),
            ],
            &[
                "0 request GET /a",
                "0 request end true",
                "0 response 200",
                "0 response body a",
                "0 response gap Some(4)",
                "0 response body f",
                "0 response end true",
            ],
        ),
        (
            "across chunks: raw until the last chunk",
            &[GET, CHUNKED, ResponseGap(8), Response("cd\n\n\r\n4\r\nef\n\n\r\n0\r"), Response("\n\r\n"), GET, OK_2],
            &[
                "0 request GET /a",
                "0 request end true",
                "0 response 200",
                "0 response body ab\\n\\n",
                "0 response gap None",
                "0 response body cd\\n\\n\\r\\n4\\r\\nef\\n\\n\\r\\n0\\r\\n\\r\\n",
                "0 response end true",
                "1 request GET /a",
                "1 request end true",
                "1 response 200",
                "1 response body ok",
                "1 response end true",
            ],
        ),
        (
            "across chunks: raw until the next request",
            &[GET, CHUNKED, ResponseGap(8), Response("cd"), ResponseGap(9), Begins, GET, OK_2],
            &[
                "0 request GET /a",
                "0 request end true",
                "0 response 200",
                "0 response body ab\\n\\n",
                "0 response gap None",
                "0 response body cd",
                "0 response gap None",
                // The end is missing, too.
                "0 response gap None",
                "0 response end false",
                "1 request GET /a",
                "1 request end true",
                "1 response 200",
                "1 response body ok",
                "1 response end true",
            ],
        ),
        (
            "across a request's chunks: raw until its answer",
            &[
                Request("POST /p HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n99\r\nab"),
                RequestGap(500),
                Request("yz\r\n"),
                OK_2,
                Begins,
                GET,
                OK_2,
            ],
            &[
                "0 request POST /p",
                "0 request body ab",
                "0 request gap None",
                "0 request body yz\\r\\n",
                "0 request end true",
                "0 response 200",
                "0 response body ok",
                "0 response end true",
                "1 request GET /a",
                "1 request end true",
                "1 response 200",
                "1 response body ok",
                "1 response end true",
            ],
        ),
        (
            "in a response's head",
            &[GET, Response("HTTP/1.1 200 OK\r\nContent-"), ResponseGap(9), Response("\r\nok"), Begins, GET, OK_2],
            &[
                "0 request GET /a",
                "0 request end true",
                "0 response end false",
                "1 request GET /a",
                "1 request end true",
                "1 response 200",
                "1 response body ok",
                "1 response end true",
            ],
        ),
        (
            "in a request's head",
            &[Request("GET /a HTT"), RequestGap(9), Request("rest\r\n\r\n"), OK_2, Begins, GET, OK_2],
            &["0 request GET /a", "0 request end true", "0 response 200", "0 response body ok", "0 response end true"],
        ),
        (
            "over a whole response, seen only behind the next request",
            &[GET, Begins, Request("GET /b HTTP/1.1\r\n\r\n"), ResponseGap(100), OK_2],
            &[
                "0 request GET /a",
                "0 request end true",
                "1 request GET /b",
                "1 request end true",
                "0 response end false",
                "1 response 200",
                "1 response body ok",
                "1 response end true",
            ],
        ),
        (
            "over a whole response, seen before the next request",
            &[GET, ResponseGap(10), Response("of something"), Begins, GET, OK_2],
            &[
                "0 request GET /a",
                "0 request end true",
                "0 response end false",
                "1 request GET /a",
                "1 request end true",
                "1 response 200",
                "1 response body ok",
                "1 response end true",
            ],
        ),
        (
            "before the response, whose head comes in pieces",
            &[GET, ResponseGap(10), Response("HT"), Response("TP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx")],
            &["0 request GET /a", "0 request end true", "0 response 200", "0 response body x", "0 response end true"],
        ),
        (
            "in a body until close",
            &[GET, Response("HTTP/1.1 200 OK\r\n\r\nab"), ResponseGap(7), Response("cd"), ResponseEnd],
            &[
                "0 request GET /a",
                "0 request end true",
                "0 response 200",
                "0 response body ab",
                "0 response gap Some(7)",
                "0 response body cd",
                "0 response end true",
            ],
        ),
    ];
    for (name, acts, expected) in cases {
        assert_eq!(perform(acts), *expected, "{name}");
    }
}

#[test]
fn beginnings_are_believed_only_where_nothing_better_is_known() {
    let cases: &[(&str, &[Act], &[&str])] = &[
        (
            "not amid a body",
            &[Request("POST /p HTTP/1.1\r\nContent-Length: 9\r\n\r\nabc"), Begins, Request("GET / ")],
            &["0 request POST /p", "0 request body abcGET / ", "0 request end true"],
        ),
        (
            "amid a body that the answer has made pointless",
            &[
                Request("POST /p HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 9\r\n\r\n"),
                OK_2,
                Begins,
                GET,
                OK_2,
            ],
            &[
                "0 request POST /p",
                "0 response 200",
                "0 response body ok",
                "0 response end true",
                "0 request end false",
                "1 request GET /a",
                "1 request end true",
                "1 response 200",
                "1 response body ok",
                "1 response end true",
            ],
        ),
        (
            "against the length of an answer to a request that was not seen, which may have been HEAD",
            &[Response("HTTP/1.1 200 OK\r\nContent-Length: 4000\r\n\r\n"), Begins, GET, OK_2],
            &["0 request GET /a", "0 request end true", "0 response 200", "0 response body ok", "0 response end true"],
        ),
    ];
    for (name, acts, expected) in cases {
        assert_eq!(perform(acts), *expected, "{name}");
    }
}

#[test]
fn times_are_those_of_the_completing_piece() {
    #[derive(Default)]
    struct Times(Vec<(&'static str, u64)>);
    impl HttpSink for Times {
        fn request_head(&mut self, _: u64, when: Nanos, started: Nanos, _: &RequestHead<'_>) {
            self.0.extend([("started", started.0), ("request", when.0)]);
        }
        fn request_body(&mut self, _: u64, _: Nanos, _: &[u8]) {}
        fn request_body_gap(&mut self, _: u64, _: Option<u64>) {}
        fn request_end(&mut self, _: u64, when: Nanos, _: bool) {
            self.0.push(("request end", when.0));
        }
        fn response_head(&mut self, _: u64, when: Nanos, _: &ResponseHead<'_>) {
            self.0.push(("response", when.0));
        }
        fn response_body(&mut self, _: u64, when: Nanos, _: &[u8]) {
            self.0.push(("body", when.0));
        }
        fn response_body_gap(&mut self, _: u64, _: Option<u64>) {}
        fn response_end(&mut self, _: u64, when: Nanos, _: bool) {
            self.0.push(("response end", when.0));
        }
        fn upgraded(&mut self, _: u64, _: Nanos, _: &ResponseHead<'_>) {}
        fn desync(&mut self, _: Side) {}
    }
    let mut times = Times::default();
    let mut http = Http1::new();
    let mut push = |side, when, text: &str| http.push(side, Nanos(when), text.as_bytes(), &mut times);
    push(Side::Request, 10, "POST / HT");
    push(Side::Request, 11, "TP/1.1\r\nContent-Length: 3\r\n\r\n");
    push(Side::Request, 12, "abc");
    push(Side::Response, 20, "HTTP/1.1 200 OK\r\n");
    push(Side::Response, 21, "Content-Length: 2\r\n\r\n");
    push(Side::Response, 22, "a");
    http.gap(Side::Response, Nanos(90), 1, &mut times);
    assert_eq!(
        times.0,
        [("started", 10), ("request", 11), ("request end", 12), ("response", 21), ("body", 22), ("response end", 22)]
    );
}

#[test]
fn memory_is_bounded() {
    let mut http = Http1::new();
    let mut log = Log::default();
    http.push(Side::Request, Nanos(1), b"GET / HTTP/1.1\r\nX: ", &mut log);
    for _ in 0..100 {
        http.push(Side::Request, Nanos(2), &[b'x'; 1000], &mut log);
    }
    assert_eq!(log.lines, ["desync Request"]);
    let mut log = Log::default();
    let mut http = Http1::new();
    for _ in 0..10_000 {
        http.push(Side::Request, Nanos(1), b"GET / HTTP/1.1\r\n\r\n", &mut log);
        assert!(http.waiting.len() <= MAX_WAITING);
    }
    assert!(size_of::<Http1>() < 512 && MAX_HEAD == 64 * 1024);
}

#[test]
fn bodies_are_not_copied() {
    struct Within(std::ops::Range<*const u8>, usize);
    impl HttpSink for Within {
        fn request_head(&mut self, _: u64, _: Nanos, _: Nanos, _: &RequestHead<'_>) {}
        fn request_body(&mut self, _: u64, _: Nanos, bytes: &[u8]) {
            assert!(self.0.contains(&bytes.as_ptr()));
            self.1 += bytes.len();
        }
        fn request_body_gap(&mut self, _: u64, _: Option<u64>) {}
        fn request_end(&mut self, _: u64, _: Nanos, _: bool) {}
        fn response_head(&mut self, _: u64, _: Nanos, _: &ResponseHead<'_>) {}
        fn response_body(&mut self, _: u64, _: Nanos, _: &[u8]) {}
        fn response_body_gap(&mut self, _: u64, _: Option<u64>) {}
        fn response_end(&mut self, _: u64, _: Nanos, _: bool) {}
        fn upgraded(&mut self, _: u64, _: Nanos, _: &ResponseHead<'_>) {}
        fn desync(&mut self, _: Side) {}
    }
    let text = b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n";
    let mut within = Within(text.as_ptr_range(), 0);
    Http1::new().push(Side::Request, Nanos(1), text, &mut within);
    assert_eq!(within.1, 5);
}
