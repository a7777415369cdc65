//! One connection, from its first request to its end.

use std::io::{self, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::behaviour::{Behaviour, Defaults, Fault, Wishes};
use crate::dialect::{self, Answer, Api, Call, Piece};
use crate::http::{self, Body, Connection, Request};
use crate::record::{Entry, Outcome, Record, now};

/// Most bytes of one static file.
const MAX_STATIC_BYTES: usize = 16 * 1024 * 1024;

/// What all connections share.
pub(crate) struct Server {
    /// From the command line.
    pub defaults: Defaults,
    /// Where exchanges are written down.
    pub record: Record,
    exchanges: AtomicU64,
}

/// Whether the connection is to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    Request,
    Close,
}

impl Server {
    /// A server that has served nothing yet.
    pub(crate) fn new(defaults: Defaults, record: Record) -> Arc<Self> {
        Arc::new(Self { defaults, record, exchanges: AtomicU64::new(0) })
    }

    /// Serves one connection to its end. An error is the connection's, not the server's.
    pub(crate) fn serve<S: Read + Write>(&self, stream: S, connection: u64, tls: bool) -> anyhow::Result<()> {
        let mut wire = Connection::new(stream);
        while let Some(request) = wire.request()? {
            let received = Instant::now();
            let entry = self.entry(&request, connection, tls);
            let api = Api::of_target(&request.path, &request.query).filter(|_| request.method == "POST");
            let next = match api {
                Some(api) => self.model_call(&mut wire, &request, api, received, entry)?,
                None => self.other(&mut wire, &request, entry)?,
            };
            if next == Next::Close || !request.keep_alive {
                break;
            }
        }
        Ok(())
    }

    fn entry(&self, request: &Request, connection: u64, tls: bool) -> Entry {
        Entry {
            id: self.exchanges.fetch_add(1, Ordering::Relaxed),
            connection,
            tls,
            path: request.path.clone(),
            model_call: false,
            model: None,
            stream: false,
            attempt: request.header("x-stainless-retry-count").and_then(|n| n.parse().ok()).unwrap_or(0),
            status: 200,
            outcome: Outcome::Done,
            request_end_ns: now(),
            response_head_ns: 0,
            token_ns: Vec::new(),
            end_ns: 0,
            usage_sent: false,
            input: 0,
            cached_input: 0,
            cache_creation_input: 0,
            output: 0,
            reasoning: 0,
            gzip: false,
            request_body_bytes: request.body.len(),
            response_body_bytes: 0,
        }
    }

    /// Health checks, static files and whatever else is no call to a model.
    fn other<S: Read + Write>(
        &self,
        wire: &mut Connection<S>,
        request: &Request,
        entry: Entry,
    ) -> anyhow::Result<Next> {
        let (status, content_type, body) = match request.path.as_str() {
            "/health" => (200, "application/json", br#"{"status":"ok"}"#.to_vec()),
            "/v1/models" => {
                let models = json!({"object": "list", "data": [{"id": "demo", "object": "model", "owned_by": "hbpf"}]});
                (200, "application/json", models.to_string().into_bytes())
            }
            path if path.starts_with("/static/") => {
                let bytes = request.query.strip_prefix("bytes=").and_then(|n| n.parse().ok()).unwrap_or(1024);
                (200, "application/octet-stream", vec![b'.'; bytes.min(MAX_STATIC_BYTES)])
            }
            _ => (404, "application/json", br#"{"detail":"Not Found"}"#.to_vec()),
        };
        self.whole(wire, request, entry, status, vec![("content-type", content_type.into())], body, false)
    }

    fn model_call<S: Read + Write>(
        &self,
        wire: &mut Connection<S>,
        request: &Request,
        api: Api,
        received: Instant,
        mut entry: Entry,
    ) -> anyhow::Result<Next> {
        entry.model_call = true;
        let Ok(call) = Call::parse(api, entry.id, &request.path, &request.body) else {
            return self.failure(wire, request, entry, api, 400, None);
        };
        let mut behaviour = self.defaults.behaviour(call.id, &Wishes::of_model(&call.model), &call.wishes, call.limits);
        dialect::leave_out_unsayable(api, &mut behaviour);
        entry.model = Some(call.model.clone());
        entry.stream = call.stream;
        if let Fault::Status { status, attempts } = behaviour.fault
            && entry.attempt < attempts
        {
            return self.failure(wire, request, entry, api, status, behaviour.retry_after);
        }

        let answer = dialect::answer(&call, &behaviour);
        if call.stream {
            let gzip = behaviour.gzip && request.accepts_gzip();
            entry.gzip = gzip;
            let first = received + behaviour.ttft;
            let mut stream = Stream { wire, body: Body::new(gzip), entry: &mut entry, held: Held::default() };
            let outcome = stream.run(&call, answer, &behaviour, first, gzip)?;
            if outcome == Outcome::Done {
                note_usage(&mut entry, &call, &behaviour, call.usage_is_sent());
            }
            entry.outcome = outcome;
            entry.end_ns = now();
            self.record.add(&entry)?;
            let goes_on = matches!(outcome, Outcome::Done | Outcome::StreamError);
            return Ok(if goes_on { Next::Request } else { Next::Close });
        }

        let generation = behaviour.gap * behaviour.output.saturating_sub(1).div_ceil(behaviour.per_event);
        sleep_until(received + behaviour.ttft + if behaviour.output > 0 { generation } else { Duration::ZERO });
        if let Fault::CutAfter(_) | Fault::ErrorAfter(_) = behaviour.fault {
            entry.outcome = Outcome::Cut;
            entry.end_ns = now();
            self.record.add(&entry)?;
            return Ok(Next::Close);
        }
        note_usage(&mut entry, &call, &behaviour, true);
        entry.output = behaviour.output;
        let mut headers = answer.headers;
        headers.push(("content-type", answer.content_type.into()));
        let body = answer.pieces.into_iter().flat_map(|piece| match piece {
            Piece::Lead(bytes) | Piece::Output(_, bytes) | Piece::Tail(bytes) => bytes,
        });
        self.whole(wire, request, entry, 200, headers, body.collect(), behaviour.gzip)
    }

    fn failure<S: Read + Write>(
        &self,
        wire: &mut Connection<S>,
        request: &Request,
        mut entry: Entry,
        api: Api,
        status: u16,
        retry_after: Option<u32>,
    ) -> anyhow::Result<Next> {
        let (body, mut headers) = dialect::error(api, entry.id, status);
        headers.push(("content-type", "application/json".into()));
        headers.extend(retry_after.map(|seconds| ("retry-after", seconds.to_string())));
        entry.outcome = Outcome::Error;
        self.whole(wire, request, entry, status, headers, body.to_string().into_bytes(), false)
    }

    /// An answer with a length.
    #[expect(clippy::too_many_arguments, reason = "each is a different part of one answer")]
    fn whole<S: Read + Write>(
        &self,
        wire: &mut Connection<S>,
        request: &Request,
        mut entry: Entry,
        status: u16,
        mut headers: Vec<(&str, String)>,
        body: Vec<u8>,
        gzip: bool,
    ) -> anyhow::Result<Next> {
        entry.status = status;
        entry.response_body_bytes = body.len();
        let gzip = gzip && request.accepts_gzip();
        entry.gzip = gzip;
        if gzip {
            headers.push(("content-encoding", "gzip".into()));
        }
        let body = if gzip { http::gzip(&body)? } else { body };
        headers.push(("content-length", body.len().to_string()));
        headers.push(("connection", if request.keep_alive { "keep-alive" } else { "close" }.into()));
        let mut bytes = http::head(status, &headers);
        if request.method != "HEAD" {
            bytes.extend(body);
        }
        entry.response_head_ns = now();
        if wire.write(&bytes).is_err() {
            entry.outcome = Outcome::ClientGone;
        }
        entry.end_ns = now();
        let next = if entry.outcome == Outcome::ClientGone { Next::Close } else { Next::Request };
        self.record.add(&entry)?;
        Ok(next)
    }
}

/// A streamed answer on its way.
struct Stream<'a, S> {
    wire: &'a mut Connection<S>,
    body: Body,
    entry: &'a mut Entry,
    held: Held,
}

/// Output that goes out with the next write.
#[derive(Default)]
struct Held {
    bytes: Vec<u8>,
    events: usize,
    tokens: u32,
}

impl<S: Read + Write> Stream<'_, S> {
    fn run(
        &mut self,
        call: &Call,
        answer: Answer,
        behaviour: &Behaviour,
        first: Instant,
        gzip: bool,
    ) -> io::Result<Outcome> {
        let mut headers = answer.headers;
        headers.push(("content-type", answer.content_type.into()));
        headers.push(("cache-control", "no-cache".into()));
        headers.push(("transfer-encoding", "chunked".into()));
        if gzip {
            headers.push(("content-encoding", "gzip".into()));
        }
        self.entry.response_head_ns = now();
        if self.wire.write(&http::head(200, &headers)).is_err() {
            return Ok(Outcome::ClientGone);
        }
        let (mut due, mut event) = (first, 0);
        for piece in answer.pieces {
            let sent = match piece {
                Piece::Lead(bytes) | Piece::Tail(bytes) => self.send(&bytes)?,
                Piece::Output(tokens, bytes) => {
                    // The schedule is absolute: a late event does not make all later ones late.
                    if self.held.events == 0 {
                        sleep_until(due);
                    }
                    due += behaviour.gap;
                    match behaviour.fault {
                        Fault::CutAfter(after) if event >= after => return Ok(Outcome::Cut),
                        Fault::ErrorAfter(after) if event >= after => {
                            let sent = self.send(&dialect::stream_error(call.api))? && self.end()?;
                            return Ok(if sent { Outcome::StreamError } else { Outcome::ClientGone });
                        }
                        _ => {}
                    }
                    event += 1;
                    self.hold(tokens, &bytes)?;
                    self.held.events < behaviour.at_once || self.flush()
                }
            };
            if !sent {
                return Ok(Outcome::ClientGone);
            }
        }
        Ok(if self.end()? { Outcome::Done } else { Outcome::ClientGone })
    }

    /// Whether the client took it, and what was held before it.
    fn send(&mut self, bytes: &[u8]) -> io::Result<bool> {
        if !self.flush() {
            return Ok(false);
        }
        self.entry.response_body_bytes += bytes.len();
        let chunk = self.body.chunk(bytes)?;
        Ok(self.wire.write(&chunk).is_ok())
    }

    fn hold(&mut self, tokens: u32, bytes: &[u8]) -> io::Result<()> {
        self.entry.response_body_bytes += bytes.len();
        self.held.bytes.extend(self.body.chunk(bytes)?);
        self.held.events += 1;
        self.held.tokens += tokens;
        Ok(())
    }

    /// Writes what is held; whether the client took it.
    fn flush(&mut self) -> bool {
        let held = std::mem::take(&mut self.held);
        if held.events == 0 {
            return true;
        }
        let events_before = self.entry.token_ns.len();
        self.entry.token_ns.extend(std::iter::repeat_n(now(), held.events));
        let sent = self.wire.write(&held.bytes).is_ok();
        if sent {
            self.entry.output += held.tokens;
        } else {
            self.entry.token_ns.truncate(events_before);
        }
        sent
    }

    fn end(&mut self) -> io::Result<bool> {
        if !self.flush() {
            return Ok(false);
        }
        let end = std::mem::replace(&mut self.body, Body::new(false)).end()?;
        Ok(self.wire.write(&end).is_ok())
    }
}

fn note_usage(entry: &mut Entry, call: &Call, behaviour: &Behaviour, sent: bool) {
    entry.usage_sent = sent;
    entry.input = behaviour.input;
    entry.cached_input = behaviour.cached;
    entry.cache_creation_input = behaviour.cache_written;
    entry.reasoning = if call.reasoning_is_told() { behaviour.reasoning } else { 0 };
}

fn sleep_until(when: Instant) {
    thread::sleep(when.saturating_duration_since(Instant::now()));
}
