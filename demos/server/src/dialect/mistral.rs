//! Mistral's chat: OpenAI's shape, but usage comes unasked, with the end of the text.

use serde_json::{Value, json};

use super::{Answer, CREATED, Call, Piece, events, gemini, sse, text};
use crate::behaviour::Behaviour;

/// The answer without faults.
pub(super) fn answer(call: &Call, behaviour: &Behaviour) -> Answer {
    let (content_type, pieces) = if call.stream {
        ("text/event-stream; charset=utf-8", stream(call, behaviour))
    } else {
        let said = content(behaviour, 0, behaviour.output);
        let message = json!({"role": "assistant", "content": said, "tool_calls": null});
        let choice = json!({"index": 0, "message": message, "finish_reason": "stop"});
        let mut body = common(call, "chat.completion", &choice);
        body["usage"] = usage(behaviour);
        ("application/json", vec![Piece::Output(behaviour.output, body.to_string().into_bytes())])
    };
    // Numbered as Gemini's, for the same reason.
    Answer { content_type, headers: gemini::headers(call.id), pieces }
}

/// There is no object around it, and the code is a number.
pub(super) fn error(status: u16) -> Value {
    let (kind, code) = match status {
        429 => ("rate_limited", "1300"),
        500.. => ("internal_server_error", "1000"),
        _ => ("invalid_request_error", "1500"),
    };
    let message = "The stand-in server was told to fail.";
    json!({"object": "error", "message": message, "type": kind, "param": null, "code": code, "raw_status_code": status})
}

fn common(call: &Call, object: &str, choice: &Value) -> Value {
    json!({
        "id": format!("demo{}", call.id), "object": object, "created": CREATED, "model": call.model, "choices": [choice],
    })
}

/// A text, or parts where there are thoughts, which come first.
fn content(behaviour: &Behaviour, from: u32, to: u32) -> Value {
    let thought_to = to.min(behaviour.reasoning.max(from));
    if thought_to == from {
        return text(behaviour, from, to).into();
    }
    let thought = json!({"type": "text", "text": text(behaviour, from, thought_to)});
    let mut parts = vec![json!({"type": "thinking", "thinking": [thought]})];
    if to > thought_to {
        parts.push(json!({"type": "text", "text": text(behaviour, thought_to, to)}));
    }
    Value::from(parts)
}

/// How much was thought it does not say.
fn usage(behaviour: &Behaviour) -> Value {
    json!({
        "prompt_tokens": behaviour.input, "total_tokens": behaviour.input + behaviour.output,
        "completion_tokens": behaviour.output, "num_cached_tokens": behaviour.cached,
        "prompt_tokens_details": {"cached_tokens": behaviour.cached},
    })
}

fn stream(call: &Call, behaviour: &Behaviour) -> Vec<Piece> {
    let chunk = |delta: Value, is_last: bool| {
        let finish = if is_last { Value::from("stop") } else { Value::Null };
        let choice = json!({"index": 0, "delta": delta, "finish_reason": finish});
        let mut chunk = common(call, "chat.completion.chunk", &choice);
        if is_last {
            chunk["usage"] = usage(behaviour);
        }
        sse(None, &chunk)
    };
    let mut pieces = vec![Piece::Lead(chunk(json!({"role": "assistant", "content": ""}), false))];
    for (at, count, _) in events(behaviour) {
        let end = at + count;
        let delta = json!({"content": content(behaviour, at, end)});
        pieces.push(Piece::Output(count, chunk(delta, end == behaviour.output)));
    }
    pieces.push(Piece::Tail(b"data: [DONE]\n\n".to_vec()));
    pieces
}
