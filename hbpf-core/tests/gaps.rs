//! Recorded streams of every dialect with chunks lost, cut everywhere and reordered: no number is ever too high, what is
//! missing is marked, and the next message is read right.

use hbpf_core::chunk::Direction;
use hbpf_core::exchange::{self, Dialect, Exchange, Phase};
use proptest::prelude::*;

mod recorded;
#[path = "../src/dialect/tests/streams.rs"]
#[expect(dead_code, reason = "what travels over HTTP/2 only")]
mod streams;

use recorded::{Coding, Framing, Message, Piece, Seen, connection, message, observe};
use streams::ALL;

const CODINGS: [Coding; 5] = [Coding::Identity, Coding::Gzip, Coding::Deflate, Coding::Brotli, Coding::Zstd];

/// Reported counts and the estimate, for comparison.
fn numbers(exchange: &Exchange) -> [Option<u64>; 5] {
    let usage = exchange.usage;
    [usage.input, usage.output, usage.cached_input, usage.cache_creation_input, usage.reasoning]
}

/// What one exchange comes to, apart from times.
fn essence(exchange: &Exchange) -> impl PartialEq + std::fmt::Debug + use<> {
    (
        exchange.model.clone(),
        exchange.response_model.clone(),
        exchange.status,
        exchange.phase,
        exchange.error_type.clone(),
        exchange.finish_reason.clone(),
        exchange.stream,
        numbers(exchange),
        (exchange.estimated_output, exchange.output_events, exchange.bytes_seen, exchange.bytes_missed),
    )
}

/// Which cases travel, and how.
#[derive(Clone, Debug)]
struct Plan {
    messages: Vec<(usize, Framing, Coding)>,
    sizes: Vec<usize>,
    pipelined: bool,
}

fn plan() -> impl Strategy<Value = Plan> {
    let framing = prop_oneof![(1..200_usize).prop_map(Framing::Chunked), Just(Framing::Length)];
    // Calls of tools name no model, by which answers are found again here.
    let calls = ALL.iter().enumerate().filter(|(_, case)| case.dialect != Dialect::Mcp).map(|(index, _)| index);
    let one = (prop::sample::select(calls.collect::<Vec<_>>()), framing, prop::sample::select(&CODINGS[..]));
    let sizes = prop_oneof![prop::collection::vec(1..60_usize, 1..8), prop::collection::vec(50..2000_usize, 1..4)];
    (prop::collection::vec(one, 1..5), sizes, prop::bool::weighted(0.2)).prop_map(|(messages, sizes, pipelined)| Plan {
        messages,
        sizes,
        pipelined,
    })
}

fn model(number: usize) -> String {
    format!("m-{number}")
}

impl Plan {
    fn messages(&self) -> Vec<Message> {
        let of = |(number, (case, framing, coding)): (usize, &(usize, Framing, Coding))| {
            message(&ALL[*case], &model(number), *framing, *coding)
        };
        self.messages.iter().enumerate().map(of).collect()
    }

    fn pieces(&self) -> Vec<Piece> {
        connection(&self.messages(), &self.sizes, self.pipelined)
    }
}

/// What each message says when it is seen whole, on a connection of its own.
fn truths(messages: &[Message]) -> Vec<Exchange> {
    let truth = |message: &Message| {
        let seen = observe(&connection(std::slice::from_ref(message), &[usize::MAX], false));
        assert_eq!(seen.ended.len(), 1);
        seen.ended[0].clone()
    };
    messages.iter().map(truth).collect()
}

fn sum(exchanges: &[Exchange], number: impl Fn(&Exchange) -> u64) -> u64 {
    exchanges.iter().map(number).sum()
}

/// No total is higher than the truth's.
fn nothing_is_too_high(seen: &Seen, truths: &[Exchange]) {
    assert!(seen.ended.len() <= truths.len());
    assert_eq!(seen.ended.len(), seen.opened);
    for index in 0..5 {
        let count = |exchange: &Exchange| numbers(exchange)[index].unwrap_or(0);
        assert!(sum(&seen.ended, count) <= sum(truths, count), "count {index}");
    }
    // A count that was reported of an answer whose end was lost may not be its last word: it becomes an estimate.
    let most = |exchange: &Exchange| exchange.estimated_output.max(exchange.usage.output.unwrap_or(0));
    assert!(sum(&seen.ended, |exchange| exchange.estimated_output) <= sum(truths, most));
    assert!(sum(&seen.ended, |exchange| exchange.output_events) <= sum(truths, |exchange| exchange.output_events));
}

/// Message for message: what was seen whole is right, and what was not is lower and says so.
fn each_is_right_or_marked(seen: &Seen, truths: &[Exchange], pieces: &[Piece], lost: &[bool]) {
    for (number, truth) in truths.iter().enumerate() {
        let of_message = |piece: &Piece| piece.of == number;
        let is_whole = pieces.iter().zip(lost).all(|(piece, lost)| !of_message(piece) || !lost);
        let Some(exchange) = seen.by_model(&model(number)) else {
            assert!(!is_whole, "message {number} was seen whole and is missing");
            continue;
        };
        if is_whole {
            // What is missing between two answers may be the end of one or the beginning of the other.
            let before_lacks =
                pieces.iter().zip(lost).any(|(piece, lost)| *lost && number.checked_sub(1) == Some(piece.of));
            let missed = if before_lacks { exchange.bytes_missed } else { 0 };
            let truth = Exchange { bytes_missed: missed, ..truth.clone() };
            assert_eq!(essence(exchange), essence(&truth), "message {number}");
        }
        for (seen, true_count) in numbers(exchange).into_iter().zip(numbers(truth)) {
            assert!(seen.is_none() || seen <= true_count, "message {number}: {seen:?} of {true_count:?}");
        }
        // Nothing comes behind the last piece that would show that it is missing.
        let last = pieces.iter().zip(lost).rposition(|(_, lost)| !lost).unwrap_or(0);
        // Nor is it noticed that a request lacks its end if it was refused: the server need not have waited for it.
        let is_refused = truth.status.is_some_and(|status| status >= 400);
        let matters = |piece: &Piece| of_message(piece) && !(is_refused && piece.direction == Direction::Sent);
        // Where the first answer of a connection begins is not known, nor the one behind an answer whose end was lost, and empty
        // lines before it are no surprise.
        let is_blank = pieces.iter().zip(lost).all(|(piece, lost)| {
            *lost || !of_message(piece) || piece.direction == Direction::Sent || piece.bytes.trim_ascii().is_empty()
        });
        let before_lacks = pieces.iter().zip(lost).any(|(piece, lost)| *lost && piece.of + 1 == number);
        if is_blank && (number == 0 || before_lacks) {
            continue;
        }
        let is_noticed = pieces[..last].iter().zip(lost).any(|(piece, lost)| *lost && matters(piece));
        if is_noticed {
            assert!(exchange.bytes_missed > 0, "message {number} lacks bytes and does not say so");
            assert!(exchange.phase != Phase::Failed || truth.phase == Phase::Failed, "unknown is no failure");
        }
    }
}

fn with_loss(plan: &Plan, lost: impl Fn(usize, &Piece) -> bool) {
    let (messages, pieces) = (plan.messages(), plan.pieces());
    let truths = truths(&messages);
    let lost: Vec<bool> = pieces.iter().enumerate().map(|(index, piece)| lost(index, piece)).collect();
    let seen = observe(pieces.iter().zip(&lost).filter(|(_, lost)| !**lost).map(|(piece, _)| piece));
    nothing_is_too_high(&seen, &truths);
    // Which answer belongs to which of several waiting requests cannot be known behind a gap.
    if !plan.pipelined || !lost.contains(&true) {
        each_is_right_or_marked(&seen, &truths, &pieces, &lost);
    }
}

/// One pseudo-random number for each piece: cheap, and the same when a case is run again.
fn is_lost(seed: u64, index: usize, percent: u64) -> bool {
    let mut x = seed ^ (index as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (x ^ (x >> 31)) % 100 < percent
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: if std::env::var_os("HBPF_FULL").is_some() { 5_000 } else { 400 },
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn chunks_lost_at_random_make_nothing_too_high(plan in plan(), seed in any::<u64>(), percent in prop::sample::select(&[1, 10, 50][..])) {
        with_loss(&plan, |index, _| is_lost(seed, index, percent));
    }

    #[test]
    fn one_hole_anywhere_costs_one_message(plan in plan(), from in 0.0..1.0, length in 0.0..0.3) {
        let pieces = plan.pieces().len() as f64;
        let (from, to) = ((pieces * from) as usize, (pieces * (from + length)) as usize);
        with_loss(&plan, |index, _| (from..=to).contains(&index));
    }

    #[test]
    fn without_loss_any_pieces_are_right(plan in plan()) {
        with_loss(&plan, |_, _| false);
    }

    #[test]
    fn a_message_without_its_beginning_is_not_taken_for_another(plan in plan(), seed in any::<u64>()) {
        with_loss(&plan, |index, piece| piece.begins && is_lost(seed, index, 50));
    }
}

#[test]
fn every_split_of_a_message_means_the_same() {
    for case in ALL {
        for framing in [Framing::Chunked(64), Framing::Length] {
            let message = message(case, "m-0", framing, Coding::Identity);
            let truth = essence(&truths(std::slice::from_ref(&message))[0]);
            for at in 1..message.request.len().max(message.answer.len()) {
                let cut = |direction, bytes: &[u8]| {
                    let (first, second) = bytes.split_at(at.min(bytes.len()));
                    let piece = |offset, bytes: &[u8], begins| Piece {
                        direction,
                        offset,
                        bytes: bytes.to_vec(),
                        of: 0,
                        message: 1,
                        begins,
                    };
                    let begins = direction == Direction::Sent;
                    [piece(0, first, begins), piece(first.len() as u64, second, false)]
                };
                let pieces =
                    [cut(Direction::Sent, &message.request), cut(Direction::Received, &message.answer)].concat();
                let seen = observe(pieces.iter().filter(|piece| !piece.bytes.is_empty()));
                assert_eq!(essence(&seen.ended[0]), truth, "{} split at {at}", case.name);
            }
        }
    }
}

/// An answer that was not seen to its end, to a request whose end was lost.
#[test]
fn a_lost_end_of_a_request_shows_in_an_answer_that_is_cut() {
    let plan = Plan { messages: vec![(22, Framing::Chunked(6), Coding::Gzip)], sizes: vec![143], pipelined: false };
    with_loss(&plan, |index, _| ![0, 2].contains(&index));
}

/// Answers to requests of several dialects that were sent at once: behind a gap one could be read as another.
#[test]
fn behind_a_gap_no_answer_is_read_as_that_to_another_request() {
    let messages =
        [(15, 12, Coding::Deflate), (1, 13, Coding::Brotli), (27, 22, Coding::Deflate), (22, 51, Coding::Gzip)];
    let messages = messages.map(|(case, chunk, coding)| (case, Framing::Chunked(chunk), coding)).to_vec();
    let plan = Plan { messages, sizes: vec![13], pipelined: true };
    for hole in 0..plan.pieces().len() {
        with_loss(&plan, |index, _| index == hole);
    }
}

/// Found by `one_hole_anywhere_costs_one_message`: the hole begins behind an event whose blank line is in it, and ends behind
/// the next request.
#[test]
fn a_hole_behind_an_event_is_no_failure() {
    let messages = vec![(5, Framing::Chunked(120), Coding::Identity), (22, Framing::Length, Coding::Gzip)];
    let plan = Plan { messages, sizes: vec![19, 18], pipelined: false };
    let pieces = plan.pieces();
    let is_answer = |piece: &Piece| piece.of == 0 && piece.direction == Direction::Received;
    let ends_an_event = |piece: &Piece| is_answer(piece) && piece.bytes.windows(4).any(|bytes| bytes == b"}]}\n");
    let next_answer = pieces.iter().position(|piece| piece.of == 1 && piece.direction == Direction::Received).unwrap();
    for (from, _) in pieces.iter().enumerate().filter(|(_, piece)| ends_an_event(piece)) {
        with_loss(&plan, |index, _| (from + 1..next_answer).contains(&index));
    }
}

/// Found by `chunks_lost_at_random_make_nothing_too_high`: of a request the end is missing, and of its answer all but the
/// beginning of the head.
#[test]
fn a_request_without_its_end_that_is_answered_says_so() {
    let plan =
        Plan { messages: vec![(26, Framing::Chunked(4), Coding::Identity)], sizes: vec![57, 48], pipelined: false };
    let pieces = plan.pieces();
    let answer = pieces.iter().position(|piece| piece.direction == Direction::Received).unwrap();
    with_loss(&plan, |index, _| index + 1 == answer || index > answer);
}

/// Found by `chunks_lost_at_random_make_nothing_too_high`.
#[test]
fn an_answer_that_cannot_be_read_says_so() {
    let (ends, length) = (|piece: &Piece| piece.bytes.ends_with(b"0\r\n\r\n"), Framing::Length);
    let plan = Plan {
        messages: vec![(0, Framing::Chunked(94), Coding::Identity), (28, length, Coding::Identity)],
        sizes: vec![51, 29, 29, 42],
        pipelined: false,
    };
    let pieces = plan.pieces();
    let is_answer = |piece: &Piece, of: usize| piece.of == of && piece.direction == Direction::Received;
    // The end of one answer and the beginning of the next.
    let begins = pieces.iter().position(|piece| is_answer(piece, 1)).unwrap();
    with_loss(&plan, |index, piece| (is_answer(piece, 0) && ends(piece)) || index == begins);
    // The end of an answer's head, and all of the next exchange but its beginning.
    let head = pieces.iter().position(|piece| is_answer(piece, 0)).unwrap();
    with_loss(&plan, |index, piece| index > head && !(piece.begins && piece.of == 1));
}
