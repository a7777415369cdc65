//! APIs that a user has described. They hold for the whole process, so this is a test of its own.

use hbpf_core::dialect::{
    CustomApi, CustomBodies, CustomPlaces, Extent, Facts, Interpreter, Judgement, Output, Recognised, install,
    is_named_by_user, is_path, judge, provider_of_host, target_patterns,
};
use hbpf_core::exchange::{Api, Dialect};
use hbpf_core::http1::RequestHead;
use hbpf_core::time::Nanos;

fn recognised(host: &str, path: &str, body: &str) -> Option<Recognised> {
    let head = format!("POST {path} HTTP/1.1\r\nHost: {host}\r\n\r\n");
    let (head, _) = RequestHead::parse(head.as_bytes()).unwrap().unwrap();
    match judge(&head, Some(443), body.as_bytes(), Extent::Whole) {
        Judgement::ModelCall(call) => Some(call),
        _ => None,
    }
}

fn answer(call: &Recognised, request: &str, kind: &str, body: &str) -> (Facts, Vec<(u64, bool)>) {
    let read = |pieces: &[&[u8]]| {
        let mut interpreter = Interpreter::for_call(call);
        let mut outputs = Vec::new();
        let mut out = |output: Output| outputs.push((output.tokens, output.visible));
        interpreter.request_bytes(request.as_bytes());
        interpreter.request_end();
        interpreter.response_begins(Some(200), Some(kind.as_bytes()));
        pieces.iter().for_each(|piece| interpreter.response_bytes(Nanos(1), piece, &mut out));
        interpreter.response_end(Nanos(2), &mut out);
        assert!(!format!("{interpreter:?}").contains("CANARY"));
        (interpreter.facts().clone(), outputs)
    };
    let whole = read(&[body.as_bytes()]);
    for at in 0..=body.len() {
        assert_eq!(read(&[&body.as_bytes()[..at], &body.as_bytes()[at..]]), whole, "split at {at}");
    }
    whole
}

#[test]
fn what_a_user_has_described_is_read() {
    let places = CustomPlaces {
        request_model: Some("engine".into()),
        request_stream: Some("opts.live".into()),
        response_model: Some("by".into()),
        input_tokens: Some("count.in".into()),
        output_tokens: Some("count.out".into()),
        cached_input_tokens: Some("count.known".into()),
        error: Some("fault".into()),
        error_type: Some("fault.kind".into()),
        finish_reason: Some("why".into()),
        output: vec!["parts[].said".into()],
        reasoning: vec!["thought".into()],
        input_excludes_cached: true,
        streams_lines: true,
        ..CustomPlaces::default()
    };
    let api = |provider: &str, hosts: &[&str], paths: &[&str], bodies| CustomApi {
        provider: provider.into(),
        hosts: hosts.iter().map(|host| (*host).into()).collect(),
        paths: paths.iter().map(|path| (*path).into()).collect(),
        api: Api::Chat,
        bodies,
    };
    assert!(recognised("llm.acme", "/ask", r#"{"engine":"e"}"#).is_none());
    install(vec![
        api("acme", &["llm.acme", ".llm.acme"], &["/ask"], CustomBodies::At(Box::new(places))),
        api("gateway", &[], &["/llm/v3:run"], CustomBodies::Like(Dialect::AnthropicMessages)),
        api("named", &["models.example"], &[], CustomBodies::Like(Dialect::OpenaiChat)),
    ])
    .unwrap();
    assert!(install(Vec::new()).is_err(), "it holds for good");
    assert!(["/ask", "/llm/v3:run", "/chat/completions"].iter().all(|path| target_patterns().contains(path)));

    // Hosts and paths.
    let call = recognised("EU.llm.acme:443", "/v1/ask?x=1", "").unwrap();
    assert_eq!((call.dialect, call.provider.as_str(), call.known_target), (Dialect::Custom, "acme", true));
    for (host, path) in [("llm.acme.evil", "/ask"), ("other", "/ask"), ("llm.acme", "/asked")] {
        assert!(recognised(host, path, "{}").is_none(), "{host} {path}");
    }
    let like = recognised("anything", "/x/llm/v3:run", "").unwrap();
    assert_eq!((like.dialect, like.provider.as_str()), (Dialect::AnthropicMessages, "gateway"));
    let known = recognised("models.example", "/v1/chat/completions", "").unwrap();
    assert_eq!((known.dialect, known.provider.as_str()), (Dialect::OpenaiChat, "named"));
    assert_eq!(provider_of_host("models.example"), Some("named"));
    // Whatever the headers of an answer say: llama.cpp tells its name there, and vendors theirs.
    assert!(is_named_by_user("named") && !is_named_by_user("openai"));

    // Bodies.
    let request = r#"{"engine":"e-1","opts":{"live":true},"question":"CANARY"}"#;
    let body = "{\"by\":\"e-2\",\"thought\":\"CANARY\"}\n{\"parts\":[{\"said\":\"CANARY\"},{\"said\":\"\"}]}\n\
        {\"why\":\"done\",\"count\":{\"in\":5,\"out\":2,\"known\":3}}\n";
    let (facts, outputs) = answer(&call, request, "application/x-ndjson", body);
    let label = |label: &Option<hbpf_core::label::Label>| label.as_ref().map(|label| label.as_str().to_owned());
    assert_eq!((label(&facts.model), label(&facts.response_model)), (Some("e-1".into()), Some("e-2".into())));
    assert_eq!((facts.usage.input, facts.usage.output, facts.usage.cached_input), (Some(8), Some(2), Some(3)));
    assert_eq!((facts.stream, label(&facts.finish_reason)), (Some(true), Some("done".into())));
    assert_eq!(outputs, [(1, false), (1, true)]);
    let (facts, _) = answer(&call, request, "application/json", r#"{"fault":{"kind":"busy","text":"CANARY"}}"#);
    assert_eq!((facts.is_error, label(&facts.error_type)), (true, Some("busy".into())));
}

#[test]
fn paths_of_places() {
    for good in ["a", "usage.input", "choices[].delta.content", "[].id", "a[][].b"] {
        assert!(is_path(good), "{good}");
    }
    for bad in ["", ".", "a..b", "a[0].b", "$.a", "a.", "a]"] {
        assert!(!is_path(bad), "{bad}");
    }
}
