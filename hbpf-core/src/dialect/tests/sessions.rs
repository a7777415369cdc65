//! Messages of connections that carry many answers.

use super::super::*;
use crate::exchange::Dialect;

const ASKS: &str = r#"{"type":"response.create","event_id":"e-1","model":"m","stream_id":"s","instructions":"CANARY","input":[{"type":"other","model":"CANARY","content":"CANARY"}]}"#;

fn asks(session: &mut Session, pieces: &[&[u8]]) -> Option<Asked> {
    session.client_aborts();
    pieces.iter().for_each(|piece| session.client_bytes(piece));
    let debug = format!("{session:?}");
    assert!(!debug.contains("CANARY"), "{debug}");
    session.client_ends()
}

#[test]
fn what_a_client_asks_for_at_every_split() {
    let mut session = Session::new(Dialect::OpenaiResponses);
    let bytes = ASKS.as_bytes();
    let whole = asks(&mut session, &[bytes]).expect("it asks");
    assert_eq!(whole.model.as_ref().map(Label::as_str), Some("m"));
    assert!(whole.stream.is_some() && whole.message.is_some());
    for at in 0..=bytes.len() {
        assert_eq!(asks(&mut session, &[&bytes[..at], &bytes[at..]]), Some(whole.clone()), "split at {at}");
    }
    for other in [
        r#"{"type":"input_audio_buffer.append","audio":"CANARY"}"#,
        r#"{"type":"response.cancel"}"#,
        r#"{"item":{"type":"response.create"}}"#,
        r#"{"type":"response.create","model":"m"#,
        r#"{"type":"response.create"}}"#,
        r#"["response.create"]"#,
        "",
    ] {
        assert_eq!(asks(&mut session, &[other.as_bytes()]), None, "{other}");
    }
    // Nothing is left of what came before.
    let least = asks(&mut session, &[br#"{"type":"response.create"}"#]);
    assert_eq!(least, Some(Asked::default()));
}

#[test]
fn what_a_server_says() {
    let mut session = Session::new(Dialect::OpenaiRealtime);
    // Message; subject, whether it says which answer, the model, tokens of output.
    type Row<'a> = (&'a str, Subject, bool, Option<&'a str>, u64);
    let cases: &[Row<'_>] = &[
        (r#"{"type":"session.created","session":{"model":"m"}}"#, Subject::GoesOn, false, Some("m"), 0),
        (r#"{"type":"response.created","response":{"id":"r","model":"n"}}"#, Subject::Begins, true, Some("n"), 0),
        (r#"{"type":"response.output_text.delta","response_id":"r","delta":"CANARY"}"#, Subject::GoesOn, true, None, 1),
        (r#"{"delta":"CANARY","response_id":"r","type":"response.audio.delta"}"#, Subject::GoesOn, true, None, 1),
        (
            r#"{"type":"conversation.item.input_audio_transcription.delta","delta":"CANARY"}"#,
            Subject::GoesOn,
            false,
            None,
            0,
        ),
        (r#"{"type":"response.done","response":{"id":"r","output":["CANARY"]}}"#, Subject::Ends, true, None, 0),
        (r#"{"type":"error","error":{"code":"c","message":"CANARY"}}"#, Subject::Error, false, None, 0),
    ];
    for (message, subject, is_of_answer, model, tokens) in cases {
        let bytes = message.as_bytes();
        for at in 0..=bytes.len() {
            session.server_begins();
            session.server_bytes(&bytes[..at]);
            session.server_bytes(&bytes[at..]);
            let said = session.server_ends().expect("it is a document");
            assert_eq!((said.subject(), said.response().is_some()), (*subject, *is_of_answer), "{message}");
            assert_eq!(said.model().map(Label::as_str), *model, "{message}");
            let (mut interpreter, mut seen) = (Interpreter::new(Dialect::OpenaiRealtime), 0);
            interpreter.said(Nanos(1), &said, &mut |output| seen += output.tokens);
            assert_eq!((seen, interpreter.facts().finished), (*tokens, *subject == Subject::Ends), "{message}");
            assert!(!format!("{interpreter:?} {session:?}").contains("CANARY"));
        }
    }
    for broken in ["", "{", r#"{"type":"response.done""#, "not json", r#"{"type":"error"}}"#] {
        session.server_begins();
        session.server_bytes(broken.as_bytes());
        assert!(session.server_ends().is_none(), "{broken}");
    }
}
