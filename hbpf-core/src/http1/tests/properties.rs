//! What holds for every way of cutting, ordering and spoiling streams.

use proptest::prelude::*;

use super::super::{Http1, MAX_WAITING, Side};
use super::Act::{self, Request, Response};
use super::{Log, WHOLE, perform};
use crate::time::Nanos;

/// The same acts with each text cut into pieces, lengths taken from `sizes` in turn.
fn cut(acts: &[Act], sizes: &[usize]) -> Vec<Act> {
    let mut sizes = sizes.iter().cycle();
    let mut pieces = Vec::new();
    for act in acts {
        let (mut rest, make): (&'static str, fn(&'static str) -> Act) = match *act {
            Request(text) => (text, Request),
            Response(text) => (text, Response),
            other => {
                pieces.push(other);
                continue;
            }
        };
        while !rest.is_empty() {
            let (piece, more) = rest.split_at((*sizes.next().unwrap()).min(rest.len()));
            pieces.push(make(piece));
            rest = more;
        }
    }
    pieces
}

proptest! {
    #[test]
    fn cutting_changes_nothing(
        case in 0..WHOLE.len(),
        sizes in prop::collection::vec(1..40_usize, 1..20),
    ) {
        let (_, acts, expected) = WHOLE[case];
        prop_assert_eq!(perform(&cut(acts, &sizes)), expected);
    }

    /// Requests may run ahead of responses in any way that keeps each side's order, if the request is there in time.
    #[test]
    fn sides_may_interleave(order in prop::collection::vec(any::<bool>(), 0..40)) {
        let request = "POST /p HTTP/1.1\r\nContent-Length: 5\r\n\r\nhelloGET /q HTTP/1.1\r\n\r\n";
        let response = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\nHTTP/1.1 404 \r\nContent-Length: 2\r\n\r\nno";
        let mut acts = vec![Request(&request[..40])];
        let (mut sent, mut answered) = (40, 0);
        for is_request in order {
            if is_request && sent < request.len() {
                acts.push(Request(&request[sent..=sent]));
                sent += 1;
            } else if !is_request && answered < 66 {
                acts.push(Response(&response[answered..answered + 3]));
                answered += 3;
            }
        }
        acts.extend([Request(&request[sent..]), Response(&response[answered..])]);
        let mut lines = perform(&acts);
        lines.sort();
        // A body in two places of the log is two lines; joined again they are the same text.
        let side = |kind: &str| -> String {
            lines.iter().filter_map(|line| line.strip_prefix(kind)).collect()
        };
        prop_assert_eq!(side("0 response body ").len() + side("1 response body ").len(), 4);
        for line in ["0 request end true", "1 request end true", "0 response end true", "1 response end true"] {
            prop_assert_eq!(lines.iter().filter(|have| *have == line).count(), 1, "{}", line);
        }
    }

    /// Whatever comes, nothing panics, and of every exchange that begins each side ends at most once.
    #[test]
    fn anything_may_come(
        acts in prop::collection::vec((0..10_u8, 0..WHOLE.len(), 0..6_usize, any::<u16>(), prop::collection::vec(any::<u8>(), 0..60)), 0..40),
    ) {
        let mut http = Http1::new();
        let mut log = Log::default();
        for ((kind, case, act, number, noise), when) in acts.into_iter().zip(1..) {
            let when = Nanos(when);
            let acts = WHOLE[case].1;
            match (kind, acts[act % acts.len()]) {
                (0..=4, Request(text)) => {
                    let from = usize::from(number) % text.len();
                    http.push(Side::Request, when, &text.as_bytes()[if kind == 0 { from } else { 0 }..], &mut log);
                }
                (0..=4, Response(text)) => {
                    let to = usize::from(number) % text.len();
                    http.push(Side::Response, when, &text.as_bytes()[..if kind == 0 { to } else { text.len() }], &mut log);
                }
                (5, _) => http.push(Side::Request, when, &noise, &mut log),
                (6, _) => http.push(Side::Response, when, &noise, &mut log),
                (7, _) => http.gap(Side::Request, when, u64::from(number), &mut log),
                (8, _) => http.gap(Side::Response, when, u64::from(number), &mut log),
                (9, _) if number % 8 == 0 => http.end(Side::Response, when, &mut log),
                _ => http.message_begins(when, &mut log),
            }
            prop_assert!(http.waiting.len() <= MAX_WAITING);
        }
        http.end(Side::Request, Nanos(1000), &mut log);
        http.end(Side::Response, Nanos(1000), &mut log);
        let upgraded = log.lines.iter().any(|line| line.ends_with("upgraded"));
        for exchange in 0..http.next_exchange {
            for side in ["request", "response"] {
                let end = format!("{exchange} {side} end");
                let ends = log.lines.iter().filter(|line| line.starts_with(&end)).count();
                prop_assert!(ends == 1 || (ends == 0 && upgraded), "{end}: {ends}");
            }
        }
    }
}
