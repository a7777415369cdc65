use std::sync::LazyLock;

use proptest::prelude::*;
use serde_json::Value as Json;

use super::*;

#[derive(Clone, Copy, Debug, PartialEq)]
enum At {
    Model,
    Stream,
    Include,
    Count,
    Content,
    Choice,
    Error,
    ErrorType,
}

static PATHS: LazyLock<PathSet<At>> = LazyLock::new(|| {
    PathSet::new(&[
        ("model", Want::Scalar, At::Model),
        ("stream", Want::Scalar, At::Stream),
        ("stream_options.include_usage", Want::Scalar, At::Include),
        ("usage.details.cached", Want::Scalar, At::Count),
        ("choices[]", Want::Length, At::Choice),
        ("choices[].delta.content", Want::Length, At::Content),
        ("error", Want::Length, At::Error),
        ("error.type", Want::Scalar, At::ErrorType),
    ])
});

#[derive(Default, Debug, PartialEq, Clone)]
struct Findings(Vec<String>);

impl Visitor<At> for Findings {
    fn value(&mut self, at: At, value: Value<'_>) {
        let value = match value {
            Value::Text(text) => format!("{:?}", String::from_utf8_lossy(text)),
            Value::Length(length) => format!("len {length}"),
            Value::Number(number) => number.to_string(),
            Value::Bool(is) => is.to_string(),
            Value::Null => "null".to_owned(),
            Value::Container { is_empty } => if is_empty { "empty" } else { "full" }.to_owned(),
        };
        self.0.push(format!("{at:?} {value}"));
    }
}

/// The same with the beginnings of values.
#[derive(Default, Debug, PartialEq)]
struct Everything(Vec<String>);

impl Visitor<At> for Everything {
    fn begin(&mut self, at: At, kind: Kind) {
        self.0.push(format!("{at:?} begins, {kind:?}"));
    }

    fn value(&mut self, at: At, value: Value<'_>) {
        let mut findings = Findings::default();
        findings.value(at, value);
        self.0.append(&mut findings.0);
    }
}

/// What each of these documents says, read by one scanner, in two pieces each.
fn stream(scanner: &mut Scanner<At>, documents: &[(String, usize)]) -> Vec<(Vec<String>, Outcome)> {
    let read = |(document, cut): &(String, usize)| {
        let mut found = Everything::default();
        let (one, other) = document.as_bytes().split_at((*cut).min(document.len()));
        scanner.push(one, &mut found);
        scanner.push(other, &mut found);
        let outcome = scanner.end(&mut found);
        (found.0, outcome)
    };
    documents.iter().map(read).collect()
}

fn scan(pieces: &[&[u8]]) -> (Vec<String>, Outcome) {
    let mut scanner = Scanner::new(&PATHS);
    let mut findings = Findings::default();
    for piece in pieces {
        scanner.push(piece, &mut findings);
    }
    let outcome = scanner.end(&mut findings);
    (findings.0, outcome)
}

fn tail_of(bytes: &[u8]) -> (Vec<String>, bool) {
    let mut findings = Findings::default();
    let is_end = scan_tail(bytes, &PATHS, &mut findings);
    (findings.0, is_end)
}

#[test]
fn findings_at_every_split() {
    let cases: &[(&str, &[&str], Outcome)] = &[
        ("", &[], Outcome::Empty),
        ("  \r\n", &[], Outcome::Empty),
        ("{}", &[], Outcome::Complete),
        ("\u{feff}{\"model\":\"m\"}", &["Model \"m\""], Outcome::Complete),
        (r#"{"model":"gpt-4o","stream":true}"#, &["Model \"gpt-4o\"", "Stream true"], Outcome::Complete),
        (" {\t\"model\" :\r\n \"m\" , \"stream\" : false }  \n", &["Model \"m\"", "Stream false"], Outcome::Complete),
        (r#"{"\u006dodel":"a\u0041\/\"\\\n"}"#, &[r#"Model "aA/\"\\\n""#], Outcome::Complete),
        (r#"{"model":"\ud83d\ude00é\ud83d"}"#, &["Model \"😀é\""], Outcome::Complete),
        (r#"{"model":"a","model":"b"}"#, &["Model \"a\"", "Model \"b\""], Outcome::Complete),
        (r#"{"models":"x","mode":"y","messages":[{"model":"no"}],"x":{"model":"no"}}"#, &[], Outcome::Complete),
        (r#"{"usage":{"details":{"cached":12}}}"#, &["Count 12"], Outcome::Complete),
        (r#"{"usage":{"details":{"cached":1.2e1,"x":-0.5}}}"#, &["Count 12"], Outcome::Complete),
        (r#"{"usage":{"details":{"cached":null}}}"#, &["Count null"], Outcome::Complete),
        (r#"{"usage":null,"model":7}"#, &["Model 7"], Outcome::Complete),
        (r#"{"usage":[1,{"details":3}],"model":"m"}"#, &["Model \"m\""], Outcome::Complete),
        (
            r#"{"choices":[{"delta":{"content":"h\u00e9 \n\ud83d\ude00"}},{"delta":{"content":""}},{}]}"#,
            &["Content len 9", "Choice full", "Content len 0", "Choice full", "Choice empty"],
            Outcome::Complete,
        ),
        (r#"{"choices":[]}"#, &[], Outcome::Complete),
        (r#"{"error":{"type":"t"}}"#, &["ErrorType \"t\"", "Error full"], Outcome::Complete),
        (r#"{"error":"secret text"}"#, &["Error len 11"], Outcome::Complete),
        (r#"{"error":{}}"#, &["Error empty"], Outcome::Complete),
        (r#"{"a":"x\\","b":"\\\"","c":["]}",{"d":"{["}],"model":"m"}"#, &["Model \"m\""], Outcome::Complete),
        ("[1,2,{\"model\":\"no\"}]", &[], Outcome::Complete),
        ("12", &[], Outcome::Complete),
        ("\"text\"", &[], Outcome::Complete),
        (r#"{"model":"cut"#, &[], Outcome::Incomplete),
        (r#"{"model":"m","#, &["Model \"m\""], Outcome::Incomplete),
        (r#"{"stream":tru"#, &[], Outcome::Incomplete),
        (r#"{"messages":[{"content":"cut"#, &[], Outcome::Incomplete),
        (r#"{"model":"m"}x"#, &["Model \"m\""], Outcome::Malformed),
        (r#"{"model":"m",}"#, &["Model \"m\""], Outcome::Malformed),
        (r#"{"model" "m"}"#, &[], Outcome::Malformed),
        (r#"{"model":nul}"#, &[], Outcome::Malformed),
        (r#"{"model":+1}"#, &[], Outcome::Malformed),
        (r#"{"stream":truefalse}"#, &[], Outcome::Malformed),
        (r#"{"model":"\x"}"#, &[], Outcome::Malformed),
        ("{\"model\":\"a\r\n1f\r\nb\"}", &[], Outcome::Malformed),
        ("{]", &[], Outcome::Malformed),
        ("[DONE]", &[], Outcome::Malformed),
        ("<html>", &[], Outcome::Malformed),
    ];
    for (document, expected, outcome) in cases {
        let bytes = document.as_bytes();
        let expected: Vec<String> = expected.iter().map(|text| (*text).to_owned()).collect();
        for at in 0..=bytes.len() {
            let found = scan(&[&bytes[..at], &bytes[at..]]);
            assert_eq!(found, (expected.clone(), *outcome), "{document} split at {at}");
        }
        let single: Vec<&[u8]> = bytes.chunks(1).collect();
        assert_eq!(scan(&single), (expected, *outcome), "{document} byte by byte");
    }
}

#[test]
fn a_scanner_starts_afresh_after_any_end() {
    for leftover in ["{\"model\":\"x", "{\"a\":{\"b\":[\"\\", "}", "{\"model\":1", "[[[["] {
        let mut scanner = Scanner::new(&PATHS);
        scanner.push(leftover.as_bytes(), &mut Findings::default());
        scanner.end(&mut Findings::default());
        let mut findings = Findings::default();
        scanner.push(br#"{"model":"m"}"#, &mut findings);
        assert!(scanner.is_done());
        assert_eq!(scanner.end(&mut findings), Outcome::Complete);
        assert_eq!(findings.0, ["Model \"m\""], "after {leftover}");
    }
}

#[test]
fn deep_nesting_is_only_counted() {
    let deep = 100_000;
    for around in ["{\"x\":", "{\"choices\":", "{\"model\":", ""] {
        let close = if around.is_empty() { "" } else { ",\"model\":\"m\"}" };
        let document = format!("{around}{}{}{close}", "[".repeat(deep), "]".repeat(deep));
        let (found, outcome) = scan(&[document.as_bytes()]);
        assert_eq!(outcome, Outcome::Complete);
        assert_eq!(found.last().map(String::as_str), (!close.is_empty()).then_some("Model \"m\""));
    }
    assert_eq!(scan(&["{\"x\":".repeat(deep).as_bytes()]).1, Outcome::Incomplete);
}

#[test]
fn long_names_are_cut() {
    let document = format!("{{\"model\":\"{}\"}}", "m".repeat(100_000));
    for pieces in [document.as_bytes().chunks(70_000), document.as_bytes().chunks(7)] {
        let (found, _) = scan(&pieces.collect::<Vec<_>>());
        assert_eq!(found, [format!("Model \"{}\"", "m".repeat(640))]);
    }
}

#[test]
fn counts_are_whole_and_sane() {
    let cases = [
        (0.0, Some(0)),
        (7.0, Some(7)),
        (7.5, None),
        (-1.0, None),
        (f64::NAN, None),
        (9_007_199_254_740_992.0, Some(1 << 53)),
        (1e300, None),
    ];
    for (number, count) in cases {
        assert_eq!(Value::Number(number).as_count(), count, "{number}");
    }
    assert_eq!(Value::Null.as_count(), None);
}

#[test]
fn nothing_that_was_read_shows_in_debug_output() {
    let mut scanner = Scanner::new(&PATHS);
    scanner.push(br#"{"model":"canary-1","canary-2":"canary-3","#, &mut Findings::default());
    let mut tail = Tail::default();
    tail.push(b"canary-4");
    assert!(!format!("{scanner:?} {tail:?}").contains("canary"));
}

#[test]
fn the_end_of_a_document_tells_its_last_members() {
    let end = r#"of a prompt"}],"model":"m","stream":true,"stream_options":{"include_usage":true}}"#;
    let expected = ["Model \"m\"", "Stream true", "Include true"];
    for after in ["", "\n", "  \r\n", "\r\n0\r\n\r\n"] {
        let text = format!("{end}{after}");
        assert_eq!(tail_of(text.as_bytes()), (expected.map(str::to_owned).to_vec(), true), "{after:?}");
    }
    // Wherever the bytes begin, the members that are there whole are found, and never anything else.
    for start in 0..end.len() {
        let (found, is_end) = tail_of(&end.as_bytes()[start..]);
        assert!(is_end || start == end.len() - 1 || found.is_empty(), "from {start}");
        assert!(expected.ends_with(&found.iter().map(String::as_str).collect::<Vec<_>>()), "from {start}: {found:?}");
    }
}

#[test]
fn tails_that_imitate_or_are_none() {
    let none: Vec<String> = Vec::new();
    let model = vec!["Model \"real\"".to_owned()];
    let cases: &[(&str, &Vec<String>, bool)] = &[
        // Text that looks like members has its quotes escaped.
        (r#"x\",\"model\":\"fake\",\"a\":\"b"}],"model":"real"}"#, &model, true),
        (r#"x","y":"\\\",\\\"model\\\":\\\"fake\\\"}"}],"model":"real"}"#, &model, true),
        (r#" {\"model\":\"fake\"} "}],"model":"real"}"#, &model, true),
        (r#"{}[]{{ }} ]] "}],"model":"real"}"#, &model, true),
        (r#"","model":"real","messages":[{"content":"ends so: \\"}]}"#, &model, true),
        // The whole document.
        (r#"{"model":"real"}"#, &model, true),
        (" {\"model\" : \"real\" }", &model, true),
        (r#"{"model":"real","model":"real"}"#, &vec![model[0].clone(), model[0].clone()], true),
        (r#"{}"#, &none, true),
        // Cut inside a prompt that quotes JSON: not the end of this document.
        (r#"say {\"model\":\"fake\"}"#, &none, false),
        (r#"say {\"stream\":true}"#, &none, false),
        (r#"text {"model":"fake"}"#, &none, false),
        (r#"nothing of the kind"#, &none, false),
        ("", &none, false),
        ("}", &none, true),
        (r#""model":"real""#, &none, false),
        (r#"b":1 "model":"fake"}"#, &none, false),
    ];
    for (text, expected, is_end) in cases {
        assert_eq!(tail_of(text.as_bytes()), ((*expected).clone(), *is_end), "{text}");
    }
}

#[test]
fn a_tail_keeps_the_last_bytes() {
    let stream: Vec<u8> = (0..50_000_u32).map(|i| (i % 251) as u8).collect();
    for size in [1, 7, 1000, 4095, 4096, 4097, 10_000, 50_000] {
        let mut tail = Tail::default();
        for piece in stream.chunks(size) {
            tail.push(piece);
        }
        assert!(tail.bytes().len() >= 4096 && tail.bytes().len() <= 8192, "{size}");
        assert!(stream.ends_with(tail.bytes()), "{size}");
        tail.clear();
        assert!(tail.bytes().is_empty());
    }
}

/// Any JSON with the wanted names sprinkled in.
fn any_json() -> impl Strategy<Value = Json> {
    let name = prop_oneof![
        Just("model".to_owned()),
        Just("stream".to_owned()),
        Just("choices".to_owned()),
        Just("delta".to_owned()),
        Just("content".to_owned()),
        Just("error".to_owned()),
        Just("type".to_owned()),
        "[a-z\"\\\\{}é\n]{0,6}",
    ];
    let leaf = prop_oneof![
        Just(Json::Null),
        any::<bool>().prop_map(Json::from),
        any::<i32>().prop_map(Json::from),
        ".{0,12}".prop_map(Json::from),
        "[\\\\\"{}\\[\\]:,model]{0,12}".prop_map(Json::from),
    ];
    let value = leaf.prop_recursive(5, 40, 5, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Json::from),
            prop::collection::vec((name.clone(), inner), 0..5)
                .prop_map(|members| Json::Object(members.into_iter().collect())),
        ]
    });
    prop::collection::vec(("model|stream|choices|error|[a-z]{1,4}", value), 0..5)
        .prop_map(|members| Json::Object(members.into_iter().collect()))
}

/// What the scanner should find, by way of a document model.
fn expected(json: &Json) -> Vec<String> {
    fn of(at: At, json: &Json) -> String {
        let value = match json {
            Json::Null => "null".to_owned(),
            Json::Bool(is) => is.to_string(),
            Json::Number(number) => number.to_string(),
            Json::String(text) if matches!(at, At::Content | At::Choice | At::Error) => format!("len {}", text.len()),
            Json::String(text) => format!("{text:?}"),
            Json::Array(items) => if items.is_empty() { "empty" } else { "full" }.to_owned(),
            Json::Object(members) => if members.is_empty() { "empty" } else { "full" }.to_owned(),
        };
        format!("{at:?} {value}")
    }
    let mut found = Vec::new();
    for (name, value) in json.as_object().unwrap() {
        match name.as_str() {
            "model" => found.push(of(At::Model, value)),
            "stream" => found.push(of(At::Stream, value)),
            "error" => {
                found.extend(value.get("type").map(|kind| of(At::ErrorType, kind)));
                found.push(of(At::Error, value));
            }
            "choices" => {
                for choice in value.as_array().into_iter().flatten() {
                    found
                        .extend(choice.get("delta").and_then(|delta| delta.get("content")).map(|c| of(At::Content, c)));
                    found.push(of(At::Choice, choice));
                }
            }
            _ => {}
        }
    }
    found
}

#[test]
fn what_a_stream_repeats_is_gone_over_and_told_again() {
    let event = |word: &str| {
        format!(r#"{{"model":"a\u0041","x":[1],"error":{{}},"choices":[{{"delta":{{"content":"{word}"}}}}]}}"#)
    };
    let documents = ["one", "two", "three"].map(|word| (event(word), usize::MAX));
    let mut scanner = Scanner::new(&PATHS);
    let found = stream(&mut scanner, &documents);
    let beginning = ["Model begins, Text", "Model \"aA\"", "Error begins, Container", "Error empty"];
    for ((found, outcome), length) in found.iter().zip(["len 3", "len 3", "len 5"]) {
        assert_eq!(&found[..beginning.len()], beginning);
        assert!(found.contains(&format!("Content {length}")), "{found:?}");
        assert_eq!(*outcome, Outcome::Complete);
    }
    let held = scanner.memory();
    assert!((100..4096).contains(&held), "the beginning is remembered: {held} bytes");
    // One that differs is read as it is, and so is the one after it.
    let others = [event("four").replace(r"a\u0041", "b"), event("five")].map(|event| (event, usize::MAX));
    let found = stream(&mut scanner, &others);
    assert_eq!((found[0].0[1].as_str(), found[1].0[1].as_str()), ("Model \"b\"", "Model \"aA\""));
}

#[test]
fn what_is_remembered_holds_only_in_its_own_place() {
    let streams = [
        ["{}", r#"{"error":[1,2],"model":"m"}"#, r#"{"error":[],"model":"m"}"#],
        ["{}", r#"{"choices":["text",{"delta":{"content":"x"}}]}"#, r#"{"choices":[],{"delta":{"content":"x"}}]}"#],
        ["{}", r#"{"choices":["a","b"]}"#, r#"{"choices":[["a","b"]]}"#],
        ["{}", r#"{"x":"a","model":"m"}"#, r#"{"x":[],"model":"m"}"#],
        ["{}", r#" "x""#, " "],
        ["{}", " 12", " \u{feff}{}"],
        ["{}", "\u{feff}{}", "\u{feff}"],
    ];
    for documents in streams {
        let documents = documents.map(|document| (document.to_owned(), usize::MAX));
        let alone: Vec<_> = documents.iter().flat_map(alone).collect();
        assert_eq!(stream(&mut Scanner::new(&PATHS), &documents), alone, "{documents:?}");
    }
}

#[test]
fn what_differs_is_learned_anew() {
    let event = |role: &str, word: &str| {
        format!(r#"{{"model":"m","choices":[{{"delta":{{{role}"content":"{word}"}},"x":1}}],"stream":true}}"#)
    };
    let events = [event("", "a"), event(r#""role":"assistant","#, "a"), event("", "b"), event("", "c")];
    let mut scanner = Scanner::new(&PATHS);
    stream(&mut scanner, &events.map(|event| (event, usize::MAX)));
    let remembered = String::from_utf8_lossy(scanner.remembered());
    assert_eq!(remembered, r#"{"model":"m","choices":[{"delta":{"content":},"x":}],"stream":true}"#);
}

#[test]
fn text_that_is_not_wanted_is_not_remembered() {
    let event = r#"{"prompt":"canary","choices":[{"delta":{"content":"canary"},"tokens":["canary",{"canary":"canary"}]}],"model":"m","n":1}"#;
    let mut scanner = Scanner::new(&PATHS);
    stream(&mut scanner, &vec![(event.to_owned(), usize::MAX); 3]);
    let remembered = String::from_utf8_lossy(scanner.remembered());
    assert_eq!(remembered, r#"{"prompt":,"choices":[{"delta":{"content":},"tokens":}],"model":"m","n":}"#);
}

#[test]
fn what_is_remembered_of_a_stream_is_bounded() {
    let mut scanner = Scanner::new(&PATHS);
    for filling in 0..200 {
        let models = r#""model":"m","#.repeat(filling);
        let fillings = "x".repeat(filling * 100);
        let event = format!(r#"{{{models}"x":"{fillings}","choices":[{{"delta":{{"content":"a"}}}}]}}"#);
        let twice = [(event.clone(), usize::MAX), (event.clone(), usize::MAX), (event, usize::MAX)];
        let found = stream(&mut scanner, &twice);
        assert_eq!(found[0], found[2]);
        assert!(scanner.memory() < 8192, "{} bytes", scanner.memory());
    }
}

/// What a document says to a scanner that has seen no other.
fn alone(document: &(String, usize)) -> Vec<(Vec<String>, Outcome)> {
    stream(&mut Scanner::new(&PATHS), std::slice::from_ref(document))
}

/// Documents of which many begin alike.
fn any_stream() -> impl Strategy<Value = Vec<(String, usize)>> {
    let beginning = prop::sample::select(vec![
        r#"{"model":"m","#,
        r#"{"model":"n","#,
        r#"{"model":"a\nb","error":null,"usage":{"details":{"cached":1}},"#,
        r#"  {"stream":true, "error" : {"type":"t"},"#,
        r#"{"x":1,"model":"m","y":"z","stream":true,"#,
        r#"{"x":-22.5,"model":"m","y":"","stream":true,"#,
        r#"{"x":1x,"model":"m","y":"z","stream":true,"#,
        r#"{"x":{"a":[1,"}"]},"model":"m","y":"z\"","stream":true,"#,
        "{\"x\":\"\u{1}\",\"model\":\"m\",",
        "{\"x\":1,\"model\":\"\u{1}\",",
        "{",
        "[",
        r#"{"error":[1,2],"model":"m","#,
        r#"{"error":[],"model":"m","#,
        r#"{"x":[],"model":"m","y":"z","stream":true,"#,
        "\u{feff}{",
        " ",
        "12 ",
        "\"x\"",
        "[DONE]",
        r#"{"model":12.5,"#,
    ]);
    let end = prop::sample::select(vec![
        r#""choices":[{"delta":{"content":"text"}}]}"#,
        r#""choices":[{"delta":{"content":""}},{"delta":{"content":"more"}}]}"#,
        r#""choices":["text",{"delta":{"content":"x"}}]}"#,
        r#""choices":[]}"#,
        r#""choices":[],{"delta":{"content":"x"}}]}"#,
        r#""choices":["a","b"]}"#,
        r#""choices":[["a","b"]]}"#,
        r#""model":"last"}"#,
        r#""choices":[{"delta":{"content":"cut"#,
        "}",
    ]);
    let document = (beginning, end, any::<prop::sample::Index>(), any::<bool>());
    let document = document.prop_map(|(beginning, end, cut, is_cut)| {
        let document = format!("{beginning}{end}");
        let cut = if is_cut { cut.index(document.len()) } else { document.len() };
        (document, cut)
    });
    prop::collection::vec(document, 1..30)
}

proptest! {
    #[test]
    fn a_document_says_what_it_says_alone(documents in any_stream()) {
        let together = stream(&mut Scanner::new(&PATHS), &documents);
        let alone: Vec<_> = documents.iter().flat_map(alone).collect();
        prop_assert_eq!(together, alone);
    }

    #[test]
    fn finds_what_a_document_model_finds(json in any_json(), pretty: bool, sizes in prop::collection::vec(1_usize..40, 1..20)) {
        let text = if pretty { serde_json::to_string_pretty(&json) } else { serde_json::to_string(&json) }.unwrap();
        let mut pieces = Vec::new();
        let mut rest = text.as_bytes();
        for size in sizes {
            let (piece, more) = rest.split_at(size.min(rest.len()));
            pieces.push(piece);
            rest = more;
        }
        pieces.push(rest);
        let (found, outcome) = scan(&pieces);
        prop_assert_eq!(outcome, Outcome::Complete, "{}", text);
        prop_assert_eq!(&found, &expected(&json), "{}", text);
        // Read backwards it says the same.
        let (found, is_end) = tail_of(text.as_bytes());
        prop_assert!(is_end, "{}", text);
        prop_assert_eq!(found, expected(&json), "{}", text);
    }

    #[test]
    fn no_tail_of_a_document_says_what_the_document_does_not(json in any_json(), from in 0.0..1.0) {
        let text = serde_json::to_string(&json).unwrap();
        let tail = &text.as_bytes()[(text.len() as f64 * from) as usize..];
        let (found, _) = tail_of(tail);
        prop_assert!(expected(&json).ends_with(&found), "{:?} of {}", String::from_utf8_lossy(tail), text);
    }

    #[test]
    fn any_bytes_at_any_split_are_harmless(bytes in prop::collection::vec(any::<u8>(), 0..300), at in 0_usize..300) {
        let at = at.min(bytes.len());
        prop_assert_eq!(scan(&[&bytes]), scan(&[&bytes[..at], &bytes[at..]]));
        tail_of(&bytes);
    }

    #[test]
    fn json_like_bytes_at_any_split_are_harmless(text in "[\\[\\]{}\":,\\\\u0dmodelchis 1-]{0,120}", at in 0_usize..120) {
        let bytes = text.as_bytes();
        let at = at.min(bytes.len());
        prop_assert_eq!(scan(&[bytes]), scan(&[&bytes[..at], &bytes[at..]]));
        tail_of(bytes);
    }
}
