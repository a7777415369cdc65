//! Asking a server over HTTP: bounded in bytes and time, whoever answers.

use std::io::Read;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use flate2::read::GzDecoder;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::header::{ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE, HeaderValue, USER_AGENT};
use hyper::{Method, Request, StatusCode, Uri};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use tokio::time::timeout;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use crate::pem;

/// For a connection, TLS included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// For a whole answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);

/// Longest token that is sent: those of some clouds have kilobytes.
const MAX_TOKEN: usize = 16 * 1024;

/// What an answer that is no success says of itself, as far as it is shown.
const MAX_COMPLAINT: usize = 200;

/// Where to ask: a scheme, a host, and a path if there is one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Url {
    /// As it is shown.
    text: String,
    uri: Uri,
}

impl Url {
    /// Reads a URL; without a scheme it is one of HTTPS.
    ///
    /// # Errors
    ///
    /// Says how to write one.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let whole = if text.contains("://") { text.to_owned() } else { format!("https://{text}") };
        let uri: Uri = whole.parse().map_err(|_| "write HOST:PORT or a URL such as https://node1:9465".to_owned())?;
        if !matches!(uri.scheme_str(), Some("http" | "https")) {
            return Err("only http:// and https:// can be asked".to_owned());
        }
        let authority = uri.authority().map(hyper::http::uri::Authority::as_str).unwrap_or_default();
        if authority.contains('@') {
            return Err("a name and a password do not go into the URL, where every user can read them".to_owned());
        }
        let behind = authority.rsplit_once(']').map_or(authority, |(_, behind)| behind);
        if behind.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_err()) {
            return Err("a port is a number from 0 to 65535".to_owned());
        }
        if uri.query().is_some() {
            return Err("a URL without a query is wanted".to_owned());
        }
        let path = uri.path().trim_end_matches('/');
        let text = format!("{}://{authority}{path}", uri.scheme_str().unwrap_or_default());
        let uri = text.parse().map_err(|_| "this is no URL".to_owned())?;
        Ok(Self { text, uri })
    }

    /// Whether what is said to it can be read on its way by others.
    pub(super) fn is_open(&self) -> bool {
        let host = self.uri.host().unwrap_or_default().trim_matches(['[', ']']);
        let is_here = host == "localhost" || host.parse().is_ok_and(|address: std::net::IpAddr| address.is_loopback());
        self.uri.scheme_str() == Some("http") && !is_here
    }
}

impl std::fmt::Display for Url {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.text.trim_start_matches("https://"))
    }
}

/// Why nothing was learned.
#[derive(Clone, Debug)]
pub(super) struct Failure {
    pub(super) status: Option<StatusCode>,
    pub(super) why: String,
}

impl Failure {
    fn new(why: String) -> Self {
        Self { status: None, why }
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.why)
    }
}

/// A way to a server.
pub(super) struct Http {
    url: Url,
    authorization: Option<HeaderValue>,
    token: Option<Token>,
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
}

impl Http {
    /// To be called while files can be read.
    pub(super) fn new(url: &Url, token_file: Option<&Path>, ca: Option<&Path>) -> Result<Self> {
        let roots = if url.uri.scheme_str() == Some("https") { pem::roots(ca)? } else { RootCertStore::empty() };
        let tls = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(CONNECT_TIMEOUT));
        let connector = HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1();
        let token = token_file.map(|path| Token::read(path).with_context(|| path.display().to_string())).transpose()?;
        let authorization = token.as_ref().map(Token::header).transpose()?;
        let client = Client::builder(TokioExecutor::new()).build(connector.wrap_connector(tcp));
        Ok(Self { url: url.clone(), authorization, token, client })
    }

    /// What is at this path, of so many bytes at most.
    pub(super) async fn get(&self, path: &str, most: usize) -> Result<Vec<u8>, Failure> {
        self.ask(Method::GET, path, None, most).await
    }

    /// What is answered to a form.
    pub(super) async fn post(&self, path: &str, form: &[(&str, &str)], most: usize) -> Result<Vec<u8>, Failure> {
        let quoted = |text| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
        let pairs = form.iter().map(|(name, value)| format!("{name}={}", quoted(value)));
        self.ask(Method::POST, path, Some(pairs.collect::<Vec<_>>().join("&")), most).await
    }

    async fn ask(&self, method: Method, path: &str, form: Option<String>, most: usize) -> Result<Vec<u8>, Failure> {
        let mut request = Request::new(Full::new(Bytes::new()));
        *request.method_mut() = method;
        let uri = format!("{}{path}", self.url.text).parse();
        *request.uri_mut() = uri.map_err(|_| Failure::new("this cannot be asked for".to_owned()))?;
        let headers = request.headers_mut();
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("gzip"));
        headers.insert(USER_AGENT, HeaderValue::from_static(concat!("hbpf/", env!("CARGO_PKG_VERSION"))));
        if let Some(authorization) = &self.authorization {
            headers.insert(AUTHORIZATION, authorization.clone());
        }
        if let Some(form) = form {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
            *request.body_mut() = Full::new(form.into());
        }
        let exchange = async {
            let answer = self.client.request(request).await.map_err(|error| Failure::new(chain(&error)))?;
            let (head, body) = answer.into_parts();
            let body = Limited::new(body, most).collect().await;
            let body = body.map_err(|error| Failure::new(chain(&*error)))?.to_bytes();
            let is_packed = head.headers.get(CONTENT_ENCODING).is_some_and(|coding| coding == "gzip");
            let body = if is_packed { unpacked(&body, most).map_err(Failure::new)? } else { body.to_vec() };
            // Whoever repeats it would have it shown.
            if self.token.as_ref().is_some_and(|token| token.is_in(&body)) {
                let why = format!("{}: the answer has the token in it, and is not shown", head.status);
                return Err(Failure { status: Some(head.status), why });
            }
            if head.status.is_success() {
                return Ok(body);
            }
            let said = String::from_utf8_lossy(&body[..body.len().min(MAX_COMPLAINT)]).trim().to_owned();
            let why = if said.is_empty() { head.status.to_string() } else { format!("{}: {said}", head.status) };
            Err(Failure { status: Some(head.status), why })
        };
        match timeout(ANSWER_TIMEOUT, exchange).await {
            Ok(answer) => answer,
            Err(_) => Err(Failure::new("no answer in time".to_owned())),
        }
    }
}

fn unpacked(body: &[u8], most: usize) -> Result<Vec<u8>, String> {
    let mut unpacked = Vec::new();
    let read = GzDecoder::new(body).take(most as u64 + 1).read_to_end(&mut unpacked);
    match read {
        Err(error) => Err(error.to_string()),
        Ok(_) if unpacked.len() > most => Err(format!("the answer has more than {most} bytes")),
        Ok(_) => Ok(unpacked),
    }
}

/// What tells a server who asks. It is sent, and nothing else.
struct Token(String);

impl Token {
    fn read(path: &Path) -> Result<Self> {
        let text = String::from_utf8(pem::read(path)?).context("is no text")?;
        let token = text.trim();
        ensure!(!token.is_empty() && token.len() <= MAX_TOKEN, "has no token in it");
        Ok(Self(token.to_owned()))
    }

    fn header(&self) -> Result<HeaderValue> {
        let Ok(mut value) = HeaderValue::try_from(format!("Bearer {}", self.0)) else { bail!("the token is none") };
        value.set_sensitive(true);
        Ok(value)
    }

    fn is_in(&self, bytes: &[u8]) -> bool {
        memchr::memmem::find(bytes, self.0.as_bytes()).is_some()
    }
}

fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut why = error.to_string();
    let mut source = error.source();
    while let Some(of) = source {
        why = format!("{why}: {of}");
        source = of.source();
    }
    why
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_written_short_or_whole_and_hold_no_secrets() {
        let shown = |text| Url::parse(text).map(|url| url.to_string());
        assert_eq!(shown("node1:9465").unwrap(), "node1:9465");
        assert_eq!(shown("https://node1:9465/").unwrap(), "node1:9465");
        assert_eq!(shown("http://[::1]:9090/prometheus/").unwrap(), "http://[::1]:9090/prometheus");
        for wrong in ["", "ftp://node1", "https://", "https://me:secret@node1", "node1:port", "https://node1/?a=b"] {
            assert!(shown(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_others_can_read_is_told_from_what_they_cannot() {
        let is_open = |text| Url::parse(text).unwrap().is_open();
        assert!(is_open("http://node1:9465") && is_open("http://10.0.0.1:1"));
        assert!(!["node1:9465", "http://localhost:1", "http://127.0.0.1:1", "http://[::1]:1"].into_iter().any(is_open));
    }

    #[test]
    fn what_unpacks_to_more_than_is_wanted_is_refused() {
        use std::io::Write;
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        encoder.write_all(&vec![0; 1 << 20]).unwrap();
        let packed = encoder.finish().unwrap();
        assert!(packed.len() < 4096);
        assert_eq!(unpacked(&packed, 1 << 20).unwrap().len(), 1 << 20);
        assert!(unpacked(&packed, (1 << 20) - 1).is_err());
        assert!(unpacked(b"no gzip", 100).is_err());
    }
}
