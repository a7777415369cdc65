//! Cohere's own API: chat (v2) and embed.

use serde_json::{Value, json};

use super::{Answer, Api, Call, Piece, events, sse, text};
use crate::behaviour::Behaviour;

/// Numbers in one vector.
const DIMENSIONS: usize = 256;

/// The answer without faults.
pub(super) fn answer(call: &Call, behaviour: &Behaviour) -> Answer {
    let (content_type, pieces) = if call.stream {
        ("text/event-stream", stream(call, behaviour))
    } else {
        let body = if call.api == Api::CohereEmbed { vectors(call, behaviour) } else { whole(call, behaviour) };
        ("application/json", vec![Piece::Output(behaviour.output, body.to_string().into_bytes())])
    };
    Answer { content_type, headers: headers(call.id), pieces }
}

/// Cohere's ids are in its bodies; a gateway before it numbers, and so exchanges can be told apart in tests.
pub(super) fn headers(id: u64) -> Vec<(&'static str, String)> {
    vec![("x-request-id", format!("req_demo{id:08}"))]
}

/// A text is all that an error has.
pub(super) fn error() -> Value {
    json!({"id": "demo", "message": "The stand-in server was told to fail."})
}

/// What a stream says when it breaks off.
pub(super) fn stream_error() -> Vec<u8> {
    let delta = json!({"finish_reason": "ERROR", "error": "The stand-in server was told to fail."});
    event(&json!({"type": "message-end", "delta": delta}))
}

fn event(data: &Value) -> Vec<u8> {
    sse(data["type"].as_str(), data)
}

/// What stands around a prompt is read, but not billed; how much was thought is not said. Counts are fractions by their type.
fn usage(behaviour: &Behaviour) -> Value {
    let count = f64::from;
    json!({
        "billed_units": {"input_tokens": count(behaviour.input - behaviour.input / 10), "output_tokens": count(behaviour.output)},
        "tokens": {"input_tokens": count(behaviour.input), "output_tokens": count(behaviour.output)},
        "cached_tokens": count(behaviour.cached),
    })
}

fn whole(call: &Call, behaviour: &Behaviour) -> Value {
    let mut said = Vec::new();
    if behaviour.reasoning > 0 {
        said.push(json!({"type": "thinking", "thinking": text(behaviour, 0, behaviour.reasoning)}));
    }
    said.push(json!({"type": "text", "text": text(behaviour, behaviour.reasoning, behaviour.output)}));
    json!({
        "id": format!("chat-demo{}", call.id), "message": {"role": "assistant", "content": said},
        "finish_reason": "COMPLETE", "usage": usage(behaviour),
    })
}

fn vectors(call: &Call, behaviour: &Behaviour) -> Value {
    let vectors = vec![vec![0.25; DIMENSIONS]; call.inputs];
    json!({
        "id": format!("embed-demo{}", call.id), "embeddings": {"float": vectors}, "texts": vec!["demo"; call.inputs],
        "meta": {"api_version": {"version": "2"}, "billed_units": {"input_tokens": behaviour.input}},
        "response_type": "embeddings_by_type",
    })
}

fn stream(call: &Call, behaviour: &Behaviour) -> Vec<Piece> {
    let begun = json!({"role": "assistant", "content": [], "tool_plan": "", "tool_calls": [], "citations": []});
    let start = json!({"type": "message-start", "id": format!("chat-demo{}", call.id), "delta": {"message": begun}});
    let mut pieces = vec![Piece::Lead(event(&start))];
    let mut index = 0;
    let mut was_thinking = None;
    for (at, count, thinking) in events(behaviour) {
        let kind = if thinking { "thinking" } else { "text" };
        let content = |step: &str, index: u32, content: Value| {
            event(&json!({"type": step, "index": index, "delta": {"message": {"content": content}}}))
        };
        let mut bytes = Vec::new();
        if was_thinking.replace(thinking) != Some(thinking) {
            if at > 0 {
                bytes.extend(event(&json!({"type": "content-end", "index": index})));
                index += 1;
            }
            bytes.extend(content("content-start", index, json!({"type": kind, kind: ""})));
        }
        bytes.extend(content("content-delta", index, json!({kind: text(behaviour, at, at + count)})));
        pieces.push(Piece::Output(count, bytes));
    }
    let end = json!({"type": "message-end", "delta": {"finish_reason": "COMPLETE", "usage": usage(behaviour)}});
    pieces.push(Piece::Tail(event(&json!({"type": "content-end", "index": 0}))));
    pieces.push(Piece::Tail(event(&end)));
    pieces
}
