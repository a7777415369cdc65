//! Gemini's `generateContent`. A stream is server-sent events or one array, as the query says.

use serde_json::{Value, json};

use super::{Answer, Call, Piece, events, sse, text};
use crate::behaviour::Behaviour;

/// The model that a path names.
pub(super) fn model(path: &str) -> Option<String> {
    let (_, rest) = path.rsplit_once("/models/")?;
    let (model, _) = rest.split_once(':')?;
    Some(model.to_owned())
}

/// The answer without faults.
pub(super) fn answer(call: &Call, behaviour: &Behaviour, as_events: bool) -> Answer {
    let headers = headers(call.id);
    if !call.stream {
        let body = json!({
            "candidates": [candidate(&parts(behaviour, 0, behaviour.output), true)],
            "usageMetadata": usage(behaviour, behaviour.output), "modelVersion": call.model, "responseId": id(call),
        });
        let pieces = vec![Piece::Output(behaviour.output, body.to_string().into_bytes())];
        return Answer { content_type: JSON, headers, pieces };
    }
    let mut documents: Vec<(u32, Value)> = Vec::new();
    for (at, count, _) in events(behaviour) {
        let end = at + count;
        let candidate = candidate(&parts(behaviour, at, end), end == behaviour.output);
        documents.push((
            count,
            json!({
                "candidates": [candidate], "usageMetadata": usage(behaviour, end),
                "modelVersion": call.model, "responseId": id(call),
            }),
        ));
    }
    let is_empty = documents.is_empty();
    let piece = |(index, (count, document)): (usize, (u32, Value))| {
        let bytes = match (as_events, index == 0) {
            (true, _) => sse(None, &document),
            (false, true) => format!("[{document:#}").into_bytes(),
            (false, false) => format!("\r\n,\r\n{document:#}").into_bytes(),
        };
        Piece::Output(count, bytes)
    };
    let mut pieces: Vec<Piece> = documents.into_iter().enumerate().map(piece).collect();
    if !as_events {
        pieces.push(Piece::Tail(if is_empty { b"[]".to_vec() } else { b"\r\n]\r\n".to_vec() }));
    }
    Answer { content_type: if as_events { "text/event-stream" } else { JSON }, headers, pieces }
}

const JSON: &str = "application/json; charset=UTF-8";

fn id(call: &Call) -> String {
    format!("resp_demo{:08}", call.id)
}

/// Thoughts come first, as parts that say so.
fn parts(behaviour: &Behaviour, from: u32, to: u32) -> Vec<Value> {
    let thought_to = to.min(behaviour.reasoning.max(from));
    let mut parts = Vec::new();
    if thought_to > from {
        parts.push(json!({"text": text(behaviour, from, thought_to), "thought": true}));
    }
    if to > thought_to {
        parts.push(json!({"text": text(behaviour, thought_to, to)}));
    }
    parts
}

fn candidate(parts: &[Value], is_last: bool) -> Value {
    let mut candidate = json!({"content": {"parts": parts, "role": "model"}, "index": 0});
    if is_last {
        candidate["finishReason"] = "STOP".into();
    }
    candidate
}

/// So far: the counts grow with the stream, and the prompt's has what was cached.
fn usage(behaviour: &Behaviour, output: u32) -> Value {
    let thoughts = output.min(behaviour.reasoning);
    let mut usage = json!({
        "promptTokenCount": behaviour.input, "candidatesTokenCount": output - thoughts, "totalTokenCount": behaviour.input + output,
        "promptTokensDetails": [{"modality": "TEXT", "tokenCount": behaviour.input}],
    });
    // What would be 0 is left out.
    for (name, count) in [("thoughtsTokenCount", thoughts), ("cachedContentTokenCount", behaviour.cached)] {
        if count > 0 {
            usage[name] = count.into();
        }
    }
    usage
}

/// Gemini numbers nothing in its headers; a gateway before it does, and so exchanges can be told apart in tests.
pub(super) fn headers(id: u64) -> Vec<(&'static str, String)> {
    vec![("x-request-id", format!("req_demo{id:08}"))]
}

pub(super) fn error(status: u16) -> Value {
    let name = match status {
        429 => "RESOURCE_EXHAUSTED",
        503 => "UNAVAILABLE",
        500.. => "INTERNAL",
        _ => "INVALID_ARGUMENT",
    };
    json!({"error": {"code": status, "message": "The stand-in server was told to fail.", "status": name}})
}
