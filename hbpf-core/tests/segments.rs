//! One streamed answer as TCP segments: late, repeated, broken, never seen. What is told of it is exact or marked.

use hbpf_core::chunk::{Capture, Close, ConnectionKey, Direction, Origin, Pid, Segment, Source, Verdict};
use hbpf_core::engine::{Engine, Observer};
use hbpf_core::exchange::{Exchange, ExchangeEvent};
use hbpf_core::time::Nanos;
use proptest::prelude::*;

const KEY: ConnectionKey = ConnectionKey { source: Source::Tcp, pid: 0, handle: 5, generation: 0 };
const REQUEST: &str = "POST /v1/chat/completions HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\n\
    Content-Length: 57\r\n\r\n{\"model\":\"m\",\"stream\":true,\"messages\":[{\"content\":\"hi\"}]}";
const INPUT: u64 = 12;

#[derive(Default)]
struct Ended(Vec<Exchange>);

impl Observer for Ended {
    fn exchange(&mut self, _: Nanos, exchange: &Exchange, event: ExchangeEvent) {
        if event == ExchangeEvent::Ended {
            self.0.push(exchange.clone());
        }
    }
    fn verdict(&mut self, _: Verdict) {}
    fn learned(&mut self, _: &str) {}
    fn owner_wanted(&mut self, _: ConnectionKey, _: &Origin) {}
}

/// A streamed answer of so many tokens that ends with its usage.
fn answer(tokens: u64) -> Vec<u8> {
    let mut body = String::new();
    let mut add = |event: String| body += &format!("{:x}\r\ndata: {event}\n\n\r\n", event.len() + 8);
    for token in 0..tokens {
        add(format!("{{\"model\":\"m\",\"choices\":[{{\"delta\":{{\"content\":\" bee{token}\"}}}}]}}"));
    }
    let total = tokens + INPUT;
    add(format!(
        "{{\"model\":\"m\",\"choices\":[],\"usage\":{{\"prompt_tokens\":{INPUT},\"completion_tokens\":{tokens},\"total_tokens\":{total}}}}}"
    ));
    add("[DONE]".into());
    let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
    format!("{head}{body}0\r\n\r\n").into_bytes()
}

/// One segment on its way.
#[derive(Clone, Debug)]
struct Travel {
    len: usize,
    late: usize,
    again: usize,
    /// It comes broken first.
    broken: bool,
    /// The record of it does not reach us.
    is_lost_to_us: bool,
}

fn travel() -> impl Strategy<Value = Travel> {
    let chance = |percent: u32| any::<u32>().prop_map(move |number| number % 100 < percent);
    (1..300_usize, 0..12_usize, 0..3_usize, chance(10), chance(10))
        .prop_map(|(len, late, again, broken, is_lost_to_us)| Travel { len, late, again, broken, is_lost_to_us })
}

/// Client's end of a connection, as the kernel side tells of it.
struct Wire {
    engine: Engine,
    ended: Ended,
    origin: Origin,
    now: u64,
}

impl Wire {
    fn segment(&mut self, direction: Direction, sequence: u32, acknowledgement: u32, bytes: &[u8], begins: bool) {
        self.now += 1_000_000;
        let segment = Segment {
            when: Nanos(self.now),
            connection: KEY,
            origin: &self.origin,
            direction,
            sequence,
            acknowledgement,
            original_len: bytes.len() as u32,
            bytes,
            message: 1,
            begins_message: begins,
            capture: Capture::Positive,
            follows_thinning: false,
            fin: false,
            rst: false,
        };
        self.engine.segment(&segment, &mut self.ended);
    }
}

/// Lets an answer travel so, and returns what is told of the exchange.
fn exchange(start: u32, tokens: u64, travels: &[Travel]) -> Exchange {
    let stream = answer(tokens);
    let mut arrivals = Vec::new();
    let (mut from, mut index) = (0, 0);
    while from < stream.len() {
        let travel = &travels[index % travels.len()];
        let to = (from + travel.len).min(stream.len());
        arrivals.extend(travel.broken.then_some((index + travel.late, from, to, travel, true)));
        for copy in 0..=travel.again {
            arrivals.push((index + travel.late + 5 * copy, from, to, travel, false));
        }
        (from, index) = (to, index + 1);
    }
    arrivals.sort_by_key(|(at, ..)| *at);

    let origin = Origin { pid: Some(Pid(7)), owner_is_certain: true, ..Origin::default() };
    let mut wire = Wire { engine: Engine::new(), ended: Ended::default(), origin, now: 0 };
    wire.segment(Direction::Sent, 1, start, REQUEST.as_bytes(), true);
    // What TCP has taken, and what waits there for its turn.
    let (mut taken, mut waiting) = (0, Vec::new());
    for (_, from, to, travel, broken) in arrivals {
        let at = |offset: usize| start.wrapping_add(offset as u32);
        let mut bytes = stream[from..to].to_vec();
        if broken {
            bytes[0] ^= 1;
        }
        if !travel.is_lost_to_us {
            wire.segment(Direction::Received, at(from), at(taken), &bytes, false);
        }
        if !broken {
            waiting.push((from, to));
            while let Some((_, to)) = waiting.iter().find(|(from, to)| (*from..*to).contains(&taken)) {
                taken = *to;
            }
        }
        wire.segment(Direction::Sent, 1 + REQUEST.len() as u32, at(taken), b"", false);
    }
    let now = Nanos(wire.now);
    wire.engine.close(KEY, Close::Released, now, &mut wire.ended);
    assert_eq!(wire.ended.0.len(), 1, "one exchange, which ends once");
    wire.ended.0.remove(0)
}

proptest! {
    #[test]
    fn what_is_told_is_exact_or_marked(
        start in 1..u32::MAX,
        tokens in 1..60_u64,
        travels in prop::collection::vec(travel(), 1..40),
    ) {
        // A broken copy would be believed if the whole one did not reach us: nothing contradicts it then.
        let loses = travels.iter().any(|travel| travel.is_lost_to_us);
        let travels: Vec<Travel> =
            travels.into_iter().map(|travel| Travel { broken: travel.broken && !loses, ..travel }).collect();
        let seen = exchange(start, tokens, &travels);
        let told = (seen.usage.input, seen.usage.output);
        if seen.bytes_missed == 0 {
            prop_assert_eq!(told, (Some(INPUT), Some(tokens)));
        }
        prop_assert!(seen.usage.output.is_none_or(|output| output == tokens), "reported as it was, or not at all");
        prop_assert!(seen.output_events <= tokens);
        if !loses && travels.iter().all(|travel| !travel.broken) {
            prop_assert_eq!(seen.bytes_missed, 0);
        }
    }
}
