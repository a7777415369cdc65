//! One signal's way to a collector.

use std::io::Write as _;
use std::time::Duration;

use anyhow::{Context, Result};
use flate2::Compression;
use flate2::write::GzEncoder;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER, USER_AGENT};
use hyper::{Method, Request, StatusCode};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_client::MetricsServiceClient;
use opentelemetry_proto::tonic::collector::metrics::v1::{ExportMetricsServiceRequest, ExportMetricsServiceResponse};
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_client::TraceServiceClient;
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use opentelemetry_proto::tonic::metrics::v1::ResourceMetrics;
use opentelemetry_proto::tonic::trace::v1::ResourceSpans;
use prost::Message;
use tokio::time::timeout;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};
use tonic::codec::CompressionEncoding;
use tonic::metadata::{KeyAndValueRef, MetadataMap};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use super::settings::{Protocol, Target};
use crate::pem;

/// Longest answer that is read.
const MAX_ANSWER: usize = 64 * 1024;

/// Longest wait that a collector may ask for.
const MAX_WAIT: Duration = Duration::from_secs(300);

/// How often a connection is tried, and how long it may take to answer.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

const AGENT: &str = concat!("hbpf/", env!("CARGO_PKG_VERSION"));

/// Why an export failed.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) why: String,
    /// Whether it can be tried again.
    pub(super) is_retried: bool,
    /// It may have arrived all the same.
    pub(super) is_unconfirmed: bool,
    /// How long the collector wants to be left alone.
    pub(super) after: Option<Duration>,
}

impl Failure {
    pub(super) fn unconfirmed(why: &str) -> Self {
        Self { why: why.to_owned(), is_retried: true, is_unconfirmed: true, after: None }
    }
}

/// How many were refused, and why; `None` if none was.
type Rejected = Option<(u64, String)>;

/// A way to a collector.
#[derive(Clone)]
pub(super) struct Sender {
    target: Target,
    headers: HeaderMap,
    connector: HttpsConnector<HttpConnector>,
    /// Made when it is needed first, for it wants a runtime.
    channel: Option<Channel>,
    client: Option<Client<HttpsConnector<HttpConnector>, Full<Bytes>>>,
}

impl Sender {
    /// To be called while files can be read.
    pub(super) fn new(target: &Target) -> Result<Self> {
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        // Sooner than the whole: who cannot be reached has surely not got it.
        tcp.set_connect_timeout(Some(target.timeout / 2));
        let builder = HttpsConnectorBuilder::new().with_tls_config(tls(target)?).https_or_http();
        let connector = match target.protocol {
            Protocol::Grpc => builder.enable_http2().wrap_connector(tcp),
            Protocol::Http => builder.enable_http1().wrap_connector(tcp),
        };
        let mut headers = HeaderMap::new();
        for (name, value) in &target.headers {
            // Its value may be a secret.
            let wrong = || format!("OTEL_EXPORTER_OTLP_HEADERS: {name:?} is no header, or its value is none");
            let name: HeaderName = name.parse().with_context(wrong)?;
            let mut value: HeaderValue = value.parse().with_context(wrong)?;
            value.set_sensitive(true);
            headers.append(name, value);
        }
        Ok(Self { target: target.clone(), headers, connector, channel: None, client: None })
    }

    pub(super) async fn metrics(&mut self, resource_metrics: Vec<ResourceMetrics>) -> Result<Rejected, Failure> {
        let message = ExportMetricsServiceRequest { resource_metrics };
        let success = match self.target.protocol {
            Protocol::Http => self.post::<_, ExportMetricsServiceResponse>(&message).await?.partial_success,
            Protocol::Grpc => {
                let mut client = MetricsServiceClient::new(self.channel()?);
                if self.target.gzip {
                    client = client.send_compressed(CompressionEncoding::Gzip);
                }
                answer(timeout(self.target.timeout, client.export(self.request(message))).await)?.partial_success
            }
        };
        Ok(success.and_then(|it| rejected(it.rejected_data_points, it.error_message)))
    }

    pub(super) async fn spans(&mut self, resource_spans: Vec<ResourceSpans>) -> Result<Rejected, Failure> {
        let message = ExportTraceServiceRequest { resource_spans };
        let success = match self.target.protocol {
            Protocol::Http => self.post::<_, ExportTraceServiceResponse>(&message).await?.partial_success,
            Protocol::Grpc => {
                let mut client = TraceServiceClient::new(self.channel()?);
                if self.target.gzip {
                    client = client.send_compressed(CompressionEncoding::Gzip);
                }
                answer(timeout(self.target.timeout, client.export(self.request(message))).await)?.partial_success
            }
        };
        Ok(success.and_then(|it| rejected(it.rejected_spans, it.error_message)))
    }

    fn channel(&mut self) -> Result<Channel, Failure> {
        if self.channel.is_none() {
            let endpoint = Endpoint::from(self.target.uri.clone()).user_agent(AGENT);
            let failed = |error: tonic::transport::Error| Failure {
                why: error.to_string(),
                is_retried: false,
                is_unconfirmed: false,
                after: None,
            };
            // A connection that is dead without a word is found out, and made anew.
            let endpoint =
                endpoint.map_err(failed)?.http2_keep_alive_interval(KEEP_ALIVE).keep_alive_timeout(KEEP_ALIVE);
            self.channel = Some(endpoint.connect_with_connector_lazy(self.connector.clone()));
        }
        Ok(self.channel.clone().expect("it was just made"))
    }

    fn request<T>(&self, message: T) -> tonic::Request<T> {
        let mut request = tonic::Request::new(message);
        let metadata = MetadataMap::from_headers(self.headers.clone());
        for pair in metadata.iter() {
            match pair {
                KeyAndValueRef::Ascii(key, value) => _ = request.metadata_mut().append(key, value.clone()),
                KeyAndValueRef::Binary(key, value) => _ = request.metadata_mut().append_bin(key, value.clone()),
            }
        }
        request
    }

    async fn post<T: Message, A: Message + Default>(&mut self, message: &T) -> Result<A, Failure> {
        let mut body = message.encode_to_vec();
        if self.target.gzip {
            let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
            let compressed = encoder.write_all(&body).and_then(|()| encoder.finish());
            body = compressed.map_err(|error| failure(&error, false))?;
        }
        let mut request = Request::new(Full::new(Bytes::from(body)));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.target.uri.clone();
        request.headers_mut().extend(self.headers.clone());
        request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/x-protobuf"));
        request.headers_mut().insert(USER_AGENT, HeaderValue::from_static(AGENT));
        if self.target.gzip {
            request.headers_mut().insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
        let client =
            self.client.get_or_insert_with(|| Client::builder(TokioExecutor::new()).build(self.connector.clone()));
        let exchange = async {
            let answer = client.request(request).await.map_err(|error| failure(&error, !error.is_connect()))?;
            let (head, body) = answer.into_parts();
            let body = Limited::new(body, MAX_ANSWER).collect().await;
            if !head.status.is_success() {
                return Err(refusal(head.status, &head.headers));
            }
            let body = body.map_err(|error| failure(&*error, true))?.to_bytes();
            // It was taken, whatever is said of it.
            Ok(A::decode(body).unwrap_or_default())
        };
        match timeout(self.target.timeout, exchange).await {
            Ok(answer) => answer,
            Err(_) => Err(Failure::unconfirmed("the collector did not answer in time")),
        }
    }
}

/// Which are retried: <https://opentelemetry.io/docs/specs/otlp/#retryable-response-codes>
fn refusal(status: StatusCode, headers: &HeaderMap) -> Failure {
    let seconds = headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
    Failure {
        why: format!("the collector answered {status}"),
        is_retried: matches!(status.as_u16(), 429 | 502 | 503 | 504),
        is_unconfirmed: false,
        after: seconds.map(Duration::from_secs).map(|wait| wait.min(MAX_WAIT)),
    }
}

fn failure(error: &(dyn std::error::Error + 'static), is_unconfirmed: bool) -> Failure {
    let mut why = error.to_string();
    let mut source = error.source();
    while let Some(of) = source {
        why = format!("{why}: {of}");
        source = of.source();
    }
    Failure { why, is_retried: true, is_unconfirmed, after: None }
}

fn answer<T>(result: Result<Result<tonic::Response<T>, Status>, tokio::time::error::Elapsed>) -> Result<T, Failure> {
    match result {
        Ok(Ok(answer)) => Ok(answer.into_inner()),
        Ok(Err(status)) => Err(of_status(&status)),
        Err(_) => Err(Failure::unconfirmed("the collector did not answer in time")),
    }
}

/// Which are retried: <https://opentelemetry.io/docs/specs/otlp/#failures>. Not that something is exhausted: it may be a message's
/// length, and the same would come again.
fn of_status(status: &Status) -> Failure {
    let source = std::error::Error::source(status).map(|source| failure(source, false).why);
    let code = status.code();
    Failure {
        why: format!("{code}: {}", source.unwrap_or_else(|| status.message().to_owned())),
        is_retried: matches!(
            code,
            Code::Cancelled
                | Code::DeadlineExceeded
                | Code::Aborted
                | Code::OutOfRange
                | Code::Unavailable
                | Code::DataLoss
        ),
        is_unconfirmed: matches!(code, Code::Cancelled | Code::DeadlineExceeded | Code::Unknown | Code::Internal),
        after: None,
    }
}

fn rejected(count: i64, why: String) -> Rejected {
    u64::try_from(count).ok().filter(|count| *count > 0).map(|count| (count, why))
}

fn tls(target: &Target) -> Result<ClientConfig> {
    let is_used = target.certificate.is_some() || target.uri.scheme_str() == Some("https");
    let roots = if is_used { pem::roots(target.certificate.as_deref())? } else { RootCertStore::empty() };
    let builder = ClientConfig::builder().with_root_certificates(roots);
    Ok(match &target.client {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => builder
            .with_client_auth_cert(pem::certificates(certificate)?, pem::key(key)?)
            .context("the client's certificate")?,
    })
}
