//! Streams as real servers send them, read whole, split at every byte, and with holes.

use proptest::prelude::*;

use super::*;
use crate::exchange::{Api, Dialect};

mod grpc;
mod money;
mod recognising;
mod sessions;
mod streams;

use streams::{ALL, Case, Expected};

/// What a reader of bodies has said in the end, in a form that can be compared.
#[derive(Debug, PartialEq, Clone)]
struct Said {
    facts: Facts,
    /// Tokens and visibility of each output event.
    outputs: Vec<(u64, bool)>,
}

/// Behind the request, of which Gemini's path says whether the answer is streamed.
fn begin(case: &Case) -> Interpreter {
    let stream = case.expected.stream.filter(|_| case.dialect == Dialect::GeminiGenerate);
    let (dialect, api, provider) = (case.dialect, Api::Chat, "unknown".into());
    let call =
        Recognised { definition: definition(dialect), dialect, api, provider, model: None, stream, known_target: true };
    let mut interpreter = Interpreter::for_call(&call);
    interpreter.request_bytes(case.request.as_bytes());
    interpreter.request_end();
    interpreter
}

fn answer(case: &Case, pieces: &[&[u8]]) -> Said {
    let mut interpreter = begin(case);
    let mut outputs = Vec::new();
    let mut out = |output: Output| outputs.push((output.tokens, output.visible));
    interpreter.response_begins(Some(case.status), case.content_type.map(str::as_bytes));
    for (when, piece) in pieces.iter().enumerate() {
        interpreter.response_bytes(Nanos(when as u64), piece, &mut out);
    }
    interpreter.response_end(Nanos(1 << 40), &mut out);
    let debug = format!("{interpreter:?}");
    assert!(!debug.contains("CANARY"), "{}: {debug}", case.name);
    Said { facts: interpreter.facts().clone(), outputs }
}

fn check(case: &Case, said: &Said) {
    fn text(label: &Option<Label>) -> Option<&str> {
        label.as_ref().map(Label::as_str)
    }
    let facts = &said.facts;
    let usage = facts.usage;
    let found = Expected {
        model: text(&facts.model),
        response_model: text(&facts.response_model),
        id: text(&facts.response_id),
        stream: facts.stream,
        usage: [usage.input, usage.output, usage.cached_input, usage.cache_creation_input, usage.reasoning],
        finish: text(&facts.finish_reason),
        error: text(&facts.error_type),
        is_error: facts.is_error,
        finished: facts.finished,
        missed: facts.missed_events,
        provider: text(&facts.provider),
        outputs: &said.outputs,
    };
    assert_eq!(found, case.expected, "{}", case.name);
}

#[test]
fn every_dialect_has_a_row() {
    let schema = serde_json::to_value(schemars::schema_for!(Dialect)).unwrap();
    let words = schema["oneOf"].as_array().unwrap().iter().map(|word| word["const"].clone());
    let all: Vec<Dialect> = words.map(|word| serde_json::from_value(word).unwrap()).collect();
    // A user's has none.
    assert_eq!(all.len(), DEFINITIONS.len() + 1);
    for dialect in all {
        assert_eq!(definition(dialect).dialect, dialect);
    }
}

#[test]
fn answers_at_every_split() {
    for case in ALL {
        let bytes = &case.bytes()[..];
        let whole = answer(case, &[bytes]);
        check(case, &whole);
        for at in 0..=bytes.len() {
            assert_eq!(answer(case, &[&bytes[..at], &bytes[at..]]), whole, "{} split at {at}", case.name);
        }
        let single: Vec<&[u8]> = bytes.chunks(1).collect();
        assert_eq!(answer(case, &single), whole, "{} byte by byte", case.name);
    }
}

#[test]
fn line_ends_and_padding_do_not_matter() {
    for case in ALL.iter().filter(|case| case.content_type == Some("text/event-stream")) {
        let whole = answer(case, &[&case.bytes()]);
        for body in [
            case.body.replace('\n', "\r\n"),
            case.body.replace('\n', "\r"),
            case.body.replace("data: ", "data:"),
            format!("\u{feff}: keep-alive\n\n{}", case.body),
            case.body.trim_end().to_owned(),
        ] {
            assert_eq!(answer(case, &[body.as_bytes()]), whole, "{}", case.name);
        }
    }
}

#[test]
fn an_event_is_stamped_when_it_is_complete() {
    let mut interpreter = Interpreter::new(Dialect::OpenaiChat);
    interpreter.response_begins(Some(200), Some(b"text/event-stream; charset=utf-8"));
    let mut times = Vec::new();
    let mut out = |output: Output| times.push(output.when.0);
    interpreter.response_bytes(Nanos(1), b"data: {\"choices\":[{\"delta\":{\"con", &mut out);
    interpreter.response_bytes(Nanos(2), b"tent\":\"a\"}}]}\n", &mut out);
    interpreter.response_bytes(Nanos(3), b"\ndata: {\"choices\":[{\"delta\":{\"content\":\"b\"}}]}", &mut out);
    interpreter.response_end(Nanos(9), &mut out);
    // The last one was never ended by a blank line: it was complete when its bytes came, not when the stream closed.
    assert_eq!(times, [3, 3]);
}

#[test]
fn without_a_head_the_first_byte_tells() {
    for case in ALL.iter().filter(|case| case.status == 200 && !case.body.starts_with('<')) {
        let mut interpreter = begin(case);
        let mut outputs = 0;
        interpreter.response_bytes(Nanos(1), &case.bytes(), &mut |_| outputs += 1);
        interpreter.response_end(Nanos(2), &mut |_| outputs += 1);
        assert_eq!(outputs, case.expected.outputs.len(), "{}", case.name);
        assert_eq!(interpreter.facts().usage, answer(case, &[&case.bytes()]).facts.usage, "{}", case.name);
    }
}

#[test]
fn requests_say_model_and_stream() {
    let prompt = "CANARY ".repeat(3000);
    // Dialect, request, bytes at each end that were seen (all if `None`), model, stream, usage wanted.
    type Row<'a> = (Dialect, String, Option<(usize, usize)>, Option<&'a str>, Option<bool>, Option<bool>);
    #[rustfmt::skip]
    let cases: &[Row<'_>] = &[
        (Dialect::OpenaiChat, r#"{"model":"m","messages":[]}"#.into(), None, Some("m"), Some(false), None),
        (Dialect::OpenaiChat, r#"{"messages":[],"model":"m","stream":true,"stream_options":{"include_usage":true}}"#.into(), None, Some("m"), Some(true), Some(true)),
        (Dialect::Ollama, r#"{"model":"m","messages":[]}"#.into(), None, Some("m"), Some(true), None),
        (Dialect::Ollama, r#"{"model":"m","stream":false}"#.into(), None, Some("m"), Some(false), None),
        (Dialect::AnthropicMessages, r#"{"model":"m","max_tokens":5,"stream":true}"#.into(), None, Some("m"), Some(true), None),
        (Dialect::OpenaiResponses, r#"{"model":"m","input":"CANARY","reasoning":{"effort":"low"}}"#.into(), None, Some("m"), Some(false), None),
        (Dialect::OpenaiChat, r#"{"model":null,"stream":null}"#.into(), None, None, Some(false), None),
        (Dialect::OpenaiChat, r#"{"model":"m","messages":["#.into(), None, Some("m"), None, None),
        (Dialect::OpenaiChat, String::new(), None, None, None, None),
        (Dialect::OpenaiChat, "not json".into(), None, None, None, None),
        // A prompt whose middle was not seen, members on either side of it, and on both.
        (Dialect::OpenaiChat, format!(r#"{{"model":"m","stream":true,"messages":[{{"content":"{prompt}"}}]}}"#), Some((4096, 4096)), Some("m"), Some(true), None),
        (Dialect::OpenaiChat, format!(r#"{{"messages":[{{"content":"{prompt}"}}],"model":"m","stream":true,"stream_options":{{"include_usage":true}}}}"#), Some((4096, 4096)), Some("m"), Some(true), Some(true)),
        (Dialect::OpenaiChat, format!(r#"{{"messages":[{{"content":"{prompt}"}}],"model":"m"}}"#), Some((0, 100)), Some("m"), None, None),
        (Dialect::OpenaiChat, format!(r#"{{"model":"m","messages":[{{"content":"{prompt}"}}],"stream":true}}"#), Some((20, 16)), Some("m"), Some(true), None),
        // The text at the end imitates what is looked for, and the model stands before it.
        (Dialect::OpenaiChat, format!(r#"{{"model":"m","messages":[{{"content":"{prompt}\",\"model\":\"fake\",\"stream\":true}}"}}]}}"#), Some((100, 500)), Some("m"), None, None),
        (Dialect::OpenaiChat, format!(r#"{{"messages":[{{"content":"{prompt}"}}],"model":"m","stream":true}}"#), Some((100, 0)), None, None, None),
    ];
    for (dialect, request, seen, model, stream, usage) in cases {
        let mut interpreter = Interpreter::new(*dialect);
        match seen {
            None => request.as_bytes().chunks(3).for_each(|piece| interpreter.request_bytes(piece)),
            Some((head, tail)) => {
                interpreter.request_bytes(&request.as_bytes()[..*head]);
                interpreter.request_gap();
                // Thinned pieces: the tail of one in the middle, which says nothing, then that of the last one.
                interpreter.request_bytes(&request.as_bytes()[request.len() / 2..][..50]);
                interpreter.request_gap();
                interpreter.request_bytes(&request.as_bytes()[request.len() - tail..]);
            }
        }
        assert!(!format!("{interpreter:?}").contains("CANARY"));
        interpreter.request_end();
        let facts = interpreter.facts();
        let name = &request[..request.len().min(80)];
        assert_eq!(facts.model.as_ref().map(Label::as_str), *model, "{name}");
        assert_eq!((facts.stream, facts.usage_requested), (*stream, *usage), "{name}");
    }
}

#[test]
fn a_long_answer_with_a_hole_still_tells_its_usage() {
    let vectors = "0.0123456789,".repeat(20_000);
    let body = format!(
        r#"{{"object":"list","model":"e-1","data":[{{"embedding":[{vectors}0]}}],"usage":{{"prompt_tokens":8,"total_tokens":8}}}}"#
    );
    let mut interpreter = Interpreter::new(Dialect::OpenaiEmbeddings);
    interpreter.response_begins(Some(200), Some(b"application/json"));
    interpreter.response_bytes(Nanos(1), &body.as_bytes()[..1000], &mut |_| {});
    for middle in [50_000, 100_000] {
        interpreter.response_gap();
        interpreter.response_bytes(Nanos(2), &body.as_bytes()[middle..middle + 4096], &mut |_| {});
    }
    interpreter.response_gap();
    interpreter.response_bytes(Nanos(3), &body.as_bytes()[body.len() - 4096..], &mut |_| {});
    interpreter.response_end(Nanos(4), &mut |_| panic!("no output event in a single document"));
    let facts = interpreter.facts();
    assert_eq!((facts.usage.input, facts.finished), (Some(8), true));
    assert_eq!(facts.response_model.as_ref().map(Label::as_str), Some("e-1"));
}

#[test]
fn a_cut_answer_keeps_what_it_had_said_and_is_not_finished() {
    let mut interpreter = Interpreter::new(Dialect::AnthropicMessages);
    interpreter.response_begins(Some(200), Some(b"application/json"));
    let body = br#"{"type":"message","model":"c","usage":{"input_tokens":5,"output_tokens":12"#;
    interpreter.response_bytes(Nanos(1), body, &mut |_| {});
    interpreter.response_end(Nanos(2), &mut |_| {});
    let facts = interpreter.facts();
    // The last number may have had more digits.
    assert_eq!((facts.usage.input, facts.usage.output, facts.finished), (Some(5), None, false));
}

#[test]
fn running_counts_make_tokens_exact() {
    let event = |text: &str, count: u64| {
        format!(
            "data: {{\"choices\":[{{\"delta\":{{\"content\":\"{text}\"}}}}],\"usage\":{{\"prompt_tokens\":4,\"completion_tokens\":{count}}}}}\n\n"
        )
    };
    // The last of them leaps where nothing counts along.
    let body = [event("a", 3), event("b", 4), event("c", 9), event("d", 1 << 53)].concat();
    let mut interpreter = Interpreter::new(Dialect::OpenaiChat);
    interpreter.response_begins(Some(200), Some(b"text/event-stream"));
    let mut tokens = Vec::new();
    interpreter.response_bytes(Nanos(1), body.as_bytes(), &mut |output| tokens.push(output.tokens));
    assert_eq!(tokens, [3, 1, 5, 1]);
    assert_eq!(interpreter.facts().usage.output, Some(1 << 53), "what is reported is reported");
}

/// The answer with a hole, as the sequence of what each reading of it may at most say.
fn answer_with_hole(case: &Case, from: usize, to: usize) -> Said {
    let bytes = &case.bytes()[..];
    let mut interpreter = begin(case);
    let mut outputs = Vec::new();
    let mut out = |output: Output| outputs.push((output.tokens, output.visible));
    interpreter.response_begins(Some(case.status), case.content_type.map(str::as_bytes));
    interpreter.response_bytes(Nanos(1), &bytes[..from], &mut out);
    if to > from {
        interpreter.response_gap();
    }
    interpreter.response_bytes(Nanos(2), &bytes[to..], &mut out);
    interpreter.response_end(Nanos(3), &mut out);
    assert!(!format!("{interpreter:?}").contains("CANARY"), "{}", case.name);
    Said { facts: interpreter.facts().clone(), outputs }
}

proptest! {
    #[test]
    fn with_a_hole_nothing_is_ever_too_high(index in 0..ALL.len(), from in 0.0..1.0, len in 0.0..1.0) {
        let case = &ALL[index];
        let from = (case.bytes().len() as f64 * from) as usize;
        let to = from + ((case.bytes().len() - from) as f64 * len) as usize;
        let said = answer_with_hole(case, from, to);
        let whole = answer(case, &[&case.bytes()]);
        let tokens = |said: &Said| said.outputs.iter().map(|(tokens, _)| tokens).sum::<u64>();
        prop_assert!(tokens(&said) <= tokens(&whole), "{}", case.name);
        prop_assert!(said.outputs.len() <= whole.outputs.len(), "{}", case.name);
        let fields = |said: &Said| {
            let usage = said.facts.usage;
            [usage.input, usage.output, usage.cached_input, usage.cache_creation_input, usage.reasoning]
        };
        for (part, all) in fields(&said).into_iter().zip(fields(&whole)) {
            prop_assert!(part.is_none() || part <= all, "{}: {:?} of {:?}", case.name, part, all);
        }
        if said.facts.response_model.is_some() {
            prop_assert_eq!(said.facts.response_model, whole.facts.response_model);
        }
    }

    #[test]
    fn any_bytes_are_harmless(dialect in 0..DEFINITIONS.len(), pieces in prop::collection::vec((any::<bool>(), prop::collection::vec(any::<u8>(), 0..60)), 0..8)) {
        let mut interpreter = Interpreter::new(DEFINITIONS[dialect].dialect);
        for (is_gap, piece) in &pieces {
            if *is_gap {
                interpreter.request_gap();
                interpreter.response_gap();
            }
            interpreter.request_bytes(piece);
            interpreter.response_bytes(Nanos(1), piece, &mut |_| {});
        }
        interpreter.request_end();
        interpreter.response_end(Nanos(2), &mut |_| {});
    }

    #[test]
    fn a_stream_with_bytes_changed_is_harmless(index in 0..ALL.len(), changes in prop::collection::vec((0.0..1.0, any::<u8>()), 1..5)) {
        let case = &ALL[index];
        let mut bytes = case.bytes();
        for (at, byte) in changes {
            let at = (bytes.len() as f64 * at) as usize;
            bytes[at] = byte;
        }
        answer(case, &[&bytes]);
    }
}
