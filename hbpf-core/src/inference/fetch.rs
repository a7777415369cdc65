//! One question to a server, and what comes of the answer.

use crate::body::Coding;
use crate::http1::{Http1, HttpSink, RequestHead, ResponseHead, Side};
use crate::time::Nanos;

use super::documents::{self, LoadedDocument, PropsDocument, SlotsDocument};
use super::metrics::Reader;
use super::{Answer, Place};

/// Longest answer, head and framing included. vLLM with eight replicas writes 400 KiB; more is no status any more.
pub const MAX_ANSWER_BYTES: usize = 1024 * 1024;

/// Why there is no answer to use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoMatch {
    /// Another status than 200.
    #[error("it answers {0}")]
    Status(u16),
    /// It sends elsewhere, where nobody goes.
    #[error("it answers {0}, a redirect")]
    Redirect(u16),
    /// It is not HTTP, or not of one piece.
    #[error("its answer is no whole HTTP message")]
    NotHttp,
    /// Beyond [`MAX_ANSWER_BYTES`].
    #[error("its answer is longer than 1 MiB")]
    TooLong,
    /// It compresses, though it was not asked to.
    #[error("its answer is compressed")]
    Compressed,
    /// It has closed the connection, as one does that expects TLS.
    #[error("it closes the connection without an answer")]
    Silent,
    /// It says nothing that is known here.
    #[error("its answer is none of a known inference server")]
    Unknown,
}

/// A question that was put and its answer as it comes. No I/O: the caller sends [`Fetch::request`] and hands over what it reads.
#[derive(Debug)]
pub struct Fetch {
    http: Http1,
    answer: Answering,
    received: usize,
}

impl Fetch {
    /// A question for this place.
    pub fn new(place: Place) -> Self {
        let mut fetch = Self { http: Http1::new(), answer: Answering::new(place), received: 0 };
        fetch.http.push(Side::Request, Nanos(0), Self::request(place, "localhost").as_bytes(), &mut fetch.answer);
        fetch
    }

    /// The request to send. `host` is the server's address and port. There is nothing in it that anybody should not know.
    pub fn request(place: Place, host: &str) -> String {
        let path = place.path();
        format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: hbpf\r\nAccept: */*\r\nConnection: close\r\n\r\n")
    }

    /// The next bytes of the answer; what came of it once that is known.
    pub fn push(&mut self, bytes: &[u8]) -> Option<Result<Answer, NoMatch>> {
        self.received = self.received.saturating_add(bytes.len());
        if self.received > MAX_ANSWER_BYTES {
            return Some(Err(NoMatch::TooLong));
        }
        self.http.push(Side::Response, Nanos(0), bytes, &mut self.answer);
        self.answer.outcome()
    }

    /// The server has closed the connection.
    pub fn end(mut self) -> Result<Answer, NoMatch> {
        if self.received == 0 {
            return Err(NoMatch::Silent);
        }
        self.http.end(Side::Response, Nanos(0), &mut self.answer);
        self.answer.outcome().unwrap_or(Err(NoMatch::NotHttp))
    }
}

/// Reads an answer's body.
#[derive(Debug)]
struct Answering {
    body: Option<Body>,
    refused: Option<NoMatch>,
    /// Whether it was whole.
    ended: Option<bool>,
}

#[derive(Debug)]
enum Body {
    Metrics(Box<Reader>),
    Loaded(Box<LoadedDocument>),
    Slots(Box<SlotsDocument>),
    Props(Box<PropsDocument>),
}

impl Answering {
    fn new(place: Place) -> Self {
        let body = match place {
            Place::Metrics | Place::MetricsSlash => Body::Metrics(Box::default()),
            Place::Loaded => Body::Loaded(Box::new(documents::loaded())),
            Place::Slots => Body::Slots(Box::new(documents::slots())),
            Place::Props => Body::Props(Box::new(documents::props())),
        };
        Self { body: Some(body), refused: None, ended: None }
    }

    fn outcome(&mut self) -> Option<Result<Answer, NoMatch>> {
        if let Some(refused) = self.refused {
            return Some(Err(refused));
        }
        let is_whole = self.ended?;
        let answer = match self.body.take().filter(|_| is_whole) {
            Some(Body::Metrics(reader)) => reader.end().map(|metrics| Answer::Metrics(Box::new(metrics))),
            Some(Body::Loaded(document)) => documents::end_loaded(*document).map(Answer::Loaded),
            Some(Body::Slots(document)) => documents::end_slots(*document).map(Answer::Slots),
            Some(Body::Props(document)) => documents::end_props(*document).map(Answer::Props),
            None => return Some(Err(NoMatch::NotHttp)),
        };
        Some(answer.ok_or(NoMatch::Unknown))
    }

    fn refuse(&mut self, why: NoMatch) {
        self.refused = self.refused.or(Some(why));
    }
}

impl HttpSink for Answering {
    fn request_head(&mut self, _: u64, _: Nanos, _: Nanos, _: &RequestHead<'_>) {}
    fn request_body(&mut self, _: u64, _: Nanos, _: &[u8]) {}
    fn request_body_gap(&mut self, _: u64, _: Option<u64>) {}
    fn request_end(&mut self, _: u64, _: Nanos, _: bool) {}

    fn response_head(&mut self, _: u64, _: Nanos, head: &ResponseHead<'_>) {
        match head.status {
            Some(200) if head.content_coding() == Coding::Identity => {}
            Some(200) => self.refuse(NoMatch::Compressed),
            Some(status @ 300..=399) => self.refuse(NoMatch::Redirect(status)),
            Some(status) => self.refuse(NoMatch::Status(status)),
            None => {}
        }
    }

    fn response_body(&mut self, _: u64, _: Nanos, bytes: &[u8]) {
        if self.refused.is_some() || self.ended.is_some() {
            return;
        }
        match &mut self.body {
            Some(Body::Metrics(reader)) => reader.push(bytes),
            Some(Body::Loaded(document)) => document.push(bytes),
            Some(Body::Slots(document)) => document.push(bytes),
            Some(Body::Props(document)) => document.push(bytes),
            None => {}
        }
    }

    fn response_body_gap(&mut self, _: u64, _: Option<u64>) {
        self.refuse(NoMatch::NotHttp);
    }

    fn response_end(&mut self, _: u64, _: Nanos, complete: bool) {
        self.ended = self.ended.or(Some(complete));
    }

    fn upgraded(&mut self, _: u64, _: Nanos, _: &ResponseHead<'_>) {
        self.refuse(NoMatch::NotHttp);
    }

    fn desync(&mut self, _: Side) {
        self.refuse(NoMatch::NotHttp);
    }
}
