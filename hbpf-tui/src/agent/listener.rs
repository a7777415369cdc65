//! What an agent answers over HTTP: bounded in connections, bytes and time, whoever asks.

use std::convert::Infallible;
use std::future::Future;
use std::io::Write as _;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixListener as StdUnixListener;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{
    ACCEPT, ACCEPT_ENCODING, ALLOW, AUTHORIZATION, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, HOST, HeaderName,
    HeaderValue, VARY, WWW_AUTHENTICATE,
};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;

use super::access::{Hosts, Token};
use super::counters::Counters;
use super::log::Log;
use super::otlp::Progress;
use super::publisher::{Current, Frame, ended};
use crate::metrics::{self, Family, Text};

/// Connections at a time, of all listeners together. What is more is closed at once: Prometheus, a person and a probe of
/// Kubernetes take three.
const MAX_CONNECTIONS: usize = 128;

/// For the head of a request, and between two.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// For a TLS handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// After which a connection ends with the answer that is being given.
const MAX_AGE: Duration = Duration::from_secs(60);

/// For that answer to be taken, and for those that are being given at the end.
const LAST_ANSWER: Duration = Duration::from_secs(5);

/// Bytes of a request's head.
const MAX_HEAD: usize = 16 * 1024;

/// After an error of `accept`, such as that no descriptor is left.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// Smaller answers are not compressed.
const MIN_COMPRESSED: usize = 1024;

/// A place to be asked at.
pub(super) struct Listener {
    pub(super) socket: Socket,
    pub(super) scope: Scope,
    pub(super) tls: Option<Arc<ServerConfig>>,
}

pub(super) enum Socket {
    Unix(StdUnixListener),
    Tcp(std::net::TcpListener),
}

impl Listener {
    pub(super) fn descriptor(&self) -> RawFd {
        match &self.socket {
            Socket::Unix(socket) => socket.as_raw_fd(),
            Socket::Tcp(socket) => socket.as_raw_fd(),
        }
    }
}

/// What can be asked.
#[derive(Clone)]
pub(super) enum Scope {
    /// All, by whoever may open the socket.
    Whole,
    /// All, by who knows the token and calls it by its name.
    Guarded(Token, Hosts),
    /// Metrics and health, by anybody; on the loopback by its name only, so that no page in a browser on this host can ask.
    Metrics(Option<Hosts>),
}

/// What all connections share.
pub(super) struct Shared {
    pub(super) current: Current,
    pub(super) counters: Counters,
    pub(super) log: Log,
    pub(super) progress: Progress,
    connections: Arc<Semaphore>,
    ending: watch::Receiver<bool>,
}

impl Shared {
    pub(super) fn new(current: Current, log: Log, ending: watch::Receiver<bool>) -> Self {
        let connections = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        Self { current, counters: Counters::default(), log, progress: Progress::default(), connections, ending }
    }

    /// Adds what the agent counts of itself, and what it knows by other names.
    pub(super) fn collect_own(&self, frame: &Frame, families: &mut Vec<Family>) {
        self.current.collect_honeybeepf(&frame.snapshot, families);
        self.counters.collect(&self.progress.outcomes(), frame.snapshot.observation_started_at, families);
    }
}

/// Answers until the end; then what is being answered is finished.
///
/// # Errors
///
/// If the listener cannot be used.
pub(super) async fn serve(listener: Listener, shared: Rc<Shared>) -> std::io::Result<()> {
    let Listener { socket, scope, tls } = listener;
    let accepted = match socket {
        Socket::Unix(socket) => {
            socket.set_nonblocking(true)?;
            Accepting::Unix(UnixListener::from_std(socket)?)
        }
        Socket::Tcp(socket) => {
            socket.set_nonblocking(true)?;
            Accepting::Tcp(TcpListener::from_std(socket)?, tls.map(TlsAcceptor::from))
        }
    };
    let (mut ending, mut running) = (shared.ending.clone(), JoinSet::new());
    loop {
        tokio::select! {
            () = ended(&mut ending) => break,
            Some(_) = running.join_next(), if !running.is_empty() => {}
            result = accepted.accept(&shared, &scope) => match result {
                Ok(Some(connection)) => _ = running.spawn_local(connection),
                Ok(None) => {}
                Err(error) => {
                    shared.log.say("accept", &format!("cannot take a connection: {error}"));
                    sleep(ACCEPT_AGAIN).await;
                }
            },
        }
    }
    // Each of them knows of the end.
    while running.join_next().await.is_some() {}
    Ok(())
}

enum Accepting {
    Unix(UnixListener),
    Tcp(TcpListener, Option<TlsAcceptor>),
}

type Connection = std::pin::Pin<Box<dyn Future<Output = ()>>>;

impl Accepting {
    /// Takes a connection; `None` if there are too many.
    async fn accept(&self, shared: &Rc<Shared>, scope: &Scope) -> std::io::Result<Option<Connection>> {
        let permit = || {
            let permit = Arc::clone(&shared.connections).try_acquire_owned().ok();
            if permit.is_none() {
                shared.counters.refused();
                shared
                    .log
                    .say("connections", &format!("more than {MAX_CONNECTIONS} connections: what is more is closed"));
            }
            permit
        };
        let (shared, scope) = (Rc::clone(shared), scope.clone());
        Ok(match self {
            Self::Unix(listener) => {
                let (stream, _) = listener.accept().await?;
                permit().map(|permit| Box::pin(connection(stream, shared, scope, permit)) as Connection)
            }
            Self::Tcp(listener, None) => {
                let (stream, _) = listener.accept().await?;
                permit().map(|permit| Box::pin(connection(stream, shared, scope, permit)) as Connection)
            }
            Self::Tcp(listener, Some(tls)) => {
                let (stream, _) = listener.accept().await?;
                let tls = tls.clone();
                permit().map(|permit| {
                    let secured = async move {
                        match timeout(HANDSHAKE_TIMEOUT, tls.accept(stream)).await {
                            Ok(Ok(stream)) => connection(stream, shared, scope, permit).await,
                            Ok(Err(error)) => shared.log.say("handshake", &format!("a TLS handshake failed: {error}")),
                            Err(_) => shared.log.say("handshake", "a TLS handshake took too long"),
                        }
                    };
                    Box::pin(secured) as Connection
                })
            }
        })
    }
}

async fn connection(
    stream: impl AsyncRead + AsyncWrite + Unpin + 'static,
    shared: Rc<Shared>,
    scope: Scope,
    _permit: OwnedSemaphorePermit,
) {
    let service = service_fn(|request| {
        let (shared, scope) = (Rc::clone(&shared), scope.clone());
        async move { Ok::<_, Infallible>(answer(&request, &shared, &scope).await) }
    });
    let mut connection = pin!(
        hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .max_buf_size(MAX_HEAD)
            .half_close(false)
            .serve_connection(TokioIo::new(stream), service)
    );
    let mut ending = shared.ending.clone();
    let over = async {
        tokio::select! {
            () = sleep(MAX_AGE) => {}
            () = ended(&mut ending) => {}
        }
    };
    let result = tokio::select! {
        result = &mut connection => result,
        () = over => {
            connection.as_mut().graceful_shutdown();
            timeout(LAST_ANSWER, connection).await.unwrap_or(Ok(()))
        }
    };
    if let Err(error) = result
        && !error.is_incomplete_message()
    {
        shared.counters.malformed();
        shared.log.say("request", &format!("a request could not be read: {error}"));
    }
}

type Answer = Response<Full<Bytes>>;

async fn answer(request: &Request<Incoming>, shared: &Shared, scope: &Scope) -> Answer {
    let path = request.uri().path();
    let answer = match refuse(request, scope) {
        Some(refusal) => {
            shared.log.say("refused", &format!("a request was refused: {}", refusal.status()));
            refusal
        }
        None => match path {
            "/metrics" => with_metrics(request, shared).await,
            "/healthz" => health(shared.current.health()),
            "/readyz" => health(shared.current.readiness(&shared.progress.outcomes())),
            "/snapshot" if !matches!(scope, Scope::Metrics(_)) => with_snapshot(request, shared).await,
            _ => plain(StatusCode::NOT_FOUND, "there are /metrics, /healthz, /readyz and /snapshot\n"),
        },
    };
    shared.counters.answered(path, answer.status());
    answer
}

/// What is said to who may not ask, or not so.
fn refuse(request: &Request<Incoming>, scope: &Scope) -> Option<Answer> {
    let header = |name: HeaderName| request.headers().get(name).map(HeaderValue::as_bytes);
    if let Scope::Guarded(_, hosts) | Scope::Metrics(Some(hosts)) = scope
        && !hosts.have(header(HOST))
    {
        return Some(plain(StatusCode::MISDIRECTED_REQUEST, "this agent is not called that; see --host\n"));
    }
    if let Scope::Guarded(token, _) = scope
        && !token.is_in(header(AUTHORIZATION))
    {
        let mut refusal = plain(StatusCode::UNAUTHORIZED, "the header Authorization: Bearer TOKEN is needed\n");
        refusal.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        return Some(refusal);
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut refusal = plain(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n");
        refusal.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return Some(refusal);
    }
    None
}

fn plain(status: StatusCode, text: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(text.into()));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    answer
}

fn health((is_well, text): (bool, String)) -> Answer {
    plain(if is_well { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, text)
}

async fn with_snapshot(request: &Request<Incoming>, shared: &Shared) -> Answer {
    match shared.current.fresh().await {
        Some(frame) => body(request, "application/json", &frame, None, frame.json.clone()),
        None => plain(StatusCode::SERVICE_UNAVAILABLE, "there is no snapshot yet\n"),
    }
}

/// How metrics can be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Form {
    Protobuf,
    OpenMetrics,
    Prometheus,
}

impl Form {
    /// The one that an `Accept` header likes best; as Prometheus servers weigh them.
    fn of(accept: Option<&str>) -> Self {
        let weight = |of: &str| {
            let parameters = of.split(';').skip(1).filter_map(|parameter| parameter.trim().strip_prefix("q="));
            parameters.filter_map(|weight| weight.parse::<f64>().ok()).next().unwrap_or(1.0)
        };
        let form = |of: &str| {
            let kind = of.split(';').next().unwrap_or_default().trim();
            match kind {
                "application/vnd.google.protobuf" if of.contains("encoding=delimited") => Some(Self::Protobuf),
                "application/openmetrics-text" => Some(Self::OpenMetrics),
                "text/plain" | "text/*" | "*/*" => Some(Self::Prometheus),
                _ => None,
            }
        };
        let mut wanted: Vec<(f64, Self)> =
            accept.unwrap_or_default().split(',').filter_map(|of| Some((weight(of), form(of)?))).collect();
        // Stable: among equals the first.
        wanted.sort_by(|(a, _), (b, _)| b.total_cmp(a));
        wanted.first().map_or(Self::Prometheus, |(_, form)| *form)
    }

    fn content_type(self) -> &'static str {
        match self {
            Self::Protobuf => {
                "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited"
            }
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

async fn with_metrics(request: &Request<Incoming>, shared: &Shared) -> Answer {
    let Some(frame) = shared.current.fresh().await else {
        return plain(StatusCode::SERVICE_UNAVAILABLE, "there are no numbers yet\n");
    };
    let form = Form::of(request.headers().get(ACCEPT).and_then(|accept| accept.to_str().ok()));
    // However many ask, there is one copy of each.
    let written = frame.written(Some(form), false, || {
        let mut families = metrics::collect(&frame.snapshot);
        shared.collect_own(&frame, &mut families);
        match form {
            Form::Protobuf => metrics::protobuf(&families),
            Form::OpenMetrics => metrics::text(&families, Text::OpenMetrics).into_bytes(),
            Form::Prometheus => metrics::text(&families, Text::Prometheus).into_bytes(),
        }
    });
    body(request, form.content_type(), &frame, Some(form), written)
}

/// Compressed, if that is understood and worth it.
fn body(
    request: &Request<Incoming>,
    content_type: &'static str,
    frame: &Frame,
    form: Option<Form>,
    bytes: Bytes,
) -> Answer {
    let accepted = request.headers().get(ACCEPT_ENCODING).and_then(|accepted| accepted.to_str().ok());
    let wants_gzip = accepted.is_some_and(|accepted| accepted.split(',').any(|of| of.trim().starts_with("gzip")));
    let is_compressed = wants_gzip && bytes.len() >= MIN_COMPRESSED;
    let written = if is_compressed { frame.written(form, true, || compress(&bytes)) } else { bytes };
    let mut answer = Response::new(Full::new(written));
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(VARY, HeaderValue::from_static("accept, accept-encoding"));
    if is_compressed {
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    answer
}

fn compress(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).and_then(|()| encoder.finish()).expect("a vector grows")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_form_that_is_liked_best_is_given() {
        // What Prometheus 2.42 sends without and with native histograms.
        let plain = "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,\
            text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        let native = "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited,\
            application/openmetrics-text;version=1.0.0;q=0.8,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        assert_eq!(Form::of(Some(plain)), Form::OpenMetrics);
        assert_eq!(Form::of(Some(native)), Form::Protobuf);
        for other in [None, Some(""), Some("*/*"), Some("text/html,*/*;q=0.8"), Some("image/png"), Some(";;q=,,")] {
            assert_eq!(Form::of(other), Form::Prometheus, "{other:?}");
        }
    }
}
