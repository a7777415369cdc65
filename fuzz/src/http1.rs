//! One HTTP/1 connection: both sides, in any pieces, with gaps, ends and beginnings.

use hbpf_core::http1::{Http1, HttpSink, RequestHead, ResponseHead, Side};
use hbpf_core::time::Nanos;

use crate::input::Input;

/// The first control byte says which of two things is tried.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    if input.byte().is_multiple_of(2) { pieces_mean_the_same(input, dialogue) } else { operations(input) }
}

/// What was reported, in a form that can be compared: adjacent pieces of a body are one.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Said {
    RequestHead(u64, String),
    ResponseHead(u64, Option<u16>),
    Body(Side, u64, Vec<u8>),
    Gap(Side, u64, Option<u64>),
    End(Side, u64, bool),
    Reset(Side, u64),
    Upgraded(u64),
    Desync(Side),
}

#[derive(Default)]
pub(crate) struct Log(pub(crate) Vec<Said>);

impl Log {
    fn body(&mut self, side: Side, exchange: u64, bytes: &[u8]) {
        match self.0.last_mut() {
            Some(Said::Body(last, of, body)) if (*last, *of) == (side, exchange) => body.extend_from_slice(bytes),
            _ => self.0.push(Said::Body(side, exchange, bytes.to_vec())),
        }
    }
}

impl HttpSink for Log {
    fn request_head(&mut self, exchange: u64, when: Nanos, started: Nanos, head: &RequestHead<'_>) {
        assert!(started <= when);
        self.0.push(Said::RequestHead(exchange, head.method.to_owned()));
    }
    fn request_body(&mut self, exchange: u64, _: Nanos, bytes: &[u8]) {
        self.body(Side::Request, exchange, bytes);
    }
    fn request_body_gap(&mut self, exchange: u64, len: Option<u64>) {
        self.0.push(Said::Gap(Side::Request, exchange, len));
    }
    fn request_end(&mut self, exchange: u64, _: Nanos, complete: bool) {
        self.0.push(Said::End(Side::Request, exchange, complete));
    }
    fn response_head(&mut self, exchange: u64, _: Nanos, head: &ResponseHead<'_>) {
        self.0.push(Said::ResponseHead(exchange, head.status));
    }
    fn response_body(&mut self, exchange: u64, _: Nanos, bytes: &[u8]) {
        self.body(Side::Response, exchange, bytes);
    }
    fn response_body_gap(&mut self, exchange: u64, len: Option<u64>) {
        self.0.push(Said::Gap(Side::Response, exchange, len));
    }
    fn response_end(&mut self, exchange: u64, _: Nanos, complete: bool) {
        self.0.push(Said::End(Side::Response, exchange, complete));
    }
    fn reset(&mut self, exchange: u64, _: Nanos, by: Side) {
        self.0.push(Said::Reset(by, exchange));
    }
    fn upgraded(&mut self, exchange: u64, _: Nanos, _: &ResponseHead<'_>) {
        self.0.push(Said::Upgraded(exchange));
    }
    fn desync(&mut self, side: Side) {
        self.0.push(Said::Desync(side));
    }
}

/// Pieces of one side.
pub(crate) type Pieces<'a, 'b> = &'b mut dyn Iterator<Item = &'a [u8]>;

/// All requests and then all answers, whole and in pieces: up to the first surprise, both say the same.
pub(crate) fn pieces_mean_the_same<'a>(
    mut input: Input<'a>,
    dialogue: impl Fn(Pieces<'a, '_>, Pieces<'a, '_>) -> Vec<Said>,
) {
    let request = input.number() as usize % (input.payload.len() + 1);
    let requests = input.take(request);
    let answers = input.payload;
    let whole = dialogue(&mut [requests].into_iter(), &mut [answers].into_iter());
    let pieces = |payload| input.with_payload(payload).pieces();
    let split = dialogue(&mut pieces(requests), &mut pieces(answers));
    let surprise = first_surprise(&split).into_iter().chain(first_surprise(&whole)).min();
    match surprise {
        Some(at) => assert_eq!(split.get(..at), whole.get(..at)),
        None => assert_eq!(split, whole),
    }
}

fn dialogue(requests: Pieces<'_, '_>, answers: Pieces<'_, '_>) -> Vec<Said> {
    let (mut http, mut log) = (Http1::new(), Log::default());
    for piece in requests {
        http.push(Side::Request, Nanos(1), piece, &mut log);
    }
    for piece in answers {
        http.push(Side::Response, Nanos(1), piece, &mut log);
    }
    http.end(Side::Response, Nanos(2), &mut log);
    log.0
}

/// Behind a desync, and where an answer comes that nobody has asked for, it matters where pieces begin: that is where an
/// answer is looked for.
fn first_surprise(log: &[Said]) -> Option<usize> {
    log.iter().position(|said| matches!(said, Said::Desync(_)))
}

/// A list of operations: messages end at most once, and only those that have begun.
fn operations(mut input: Input<'_>) {
    let (mut http, mut log, mut now) = (Http1::new(), Log::default(), 0);
    while let Some(operation) = input.control() {
        now += 1;
        let side = if operation & 1 == 0 { Side::Request } else { Side::Response };
        match operation >> 1 & 7 {
            0 => http.gap(side, Nanos(now), input.number().into(), &mut log),
            1 => http.end(side, Nanos(now), &mut log),
            2 => http.message_begins(Nanos(now), &mut log),
            3 => http.gap(side, Nanos(now), u64::MAX, &mut log),
            _ => {
                let length = input.number() as usize % 4096;
                http.push(side, Nanos(now), input.take(length), &mut log);
            }
        }
    }
    http.push(Side::Response, Nanos(now), input.payload, &mut log);
    check(&log.0);
}

fn check(log: &[Said]) {
    let count = |wanted: &dyn Fn(&Said) -> Option<u64>| {
        let mut seen = std::collections::BTreeMap::new();
        for exchange in log.iter().filter_map(wanted) {
            *seen.entry(exchange).or_insert(0) += 1;
        }
        seen
    };
    let begun = count(&|said| if let Said::RequestHead(exchange, _) = said { Some(*exchange) } else { None });
    let answered = count(&|said| if let Said::ResponseHead(exchange, _) = said { Some(*exchange) } else { None });
    assert!(begun.values().chain(answered.values()).all(|times| *times == 1), "one head a message");
    assert!(answered.keys().all(|exchange| begun.contains_key(exchange)));
    for side in [Side::Request, Side::Response] {
        let ended = count(&|said| match said {
            Said::End(of, exchange, _) if *of == side => Some(*exchange),
            _ => None,
        });
        assert!(ended.iter().all(|(exchange, times)| *times == 1 && begun.contains_key(exchange)), "one end a message");
    }
}
