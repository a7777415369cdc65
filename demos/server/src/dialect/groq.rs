//! Groq's chat: OpenAI's shape with an object of its own, in which usage comes unasked.

use serde_json::{Value, json};

use super::{Answer, CREATED, Call, Piece, events, sse, text};
use crate::behaviour::Behaviour;

/// The answer without faults.
pub(super) fn answer(call: &Call, behaviour: &Behaviour) -> Answer {
    let (content_type, pieces) = if call.stream {
        ("text/event-stream", stream(call, behaviour))
    } else {
        let mut message =
            json!({"role": "assistant", "content": text(behaviour, behaviour.reasoning, behaviour.output)});
        if behaviour.reasoning > 0 {
            message["reasoning"] = text(behaviour, 0, behaviour.reasoning).into();
        }
        let choice = json!({"index": 0, "message": message, "logprobs": null, "finish_reason": "stop"});
        let mut body = common(call, "chat.completion", &json!([choice]));
        (body["usage"], body["x_groq"]) = (usage(behaviour), json!({"id": id(call)}));
        body["service_tier"] = "on_demand".into();
        ("application/json", vec![Piece::Output(behaviour.output, body.to_string().into_bytes())])
    };
    Answer { content_type, headers: headers(call.id), pieces }
}

/// OpenAI's names. Requests are counted by the day, tokens by the minute.
pub(super) fn headers(id: u64) -> Vec<(&'static str, String)> {
    vec![
        ("x-request-id", format!("req_demo{id:08}")),
        ("x-ratelimit-limit-requests", "14400".into()),
        ("x-ratelimit-limit-tokens", "18000".into()),
        ("x-ratelimit-remaining-requests", "14370".into()),
        ("x-ratelimit-remaining-tokens", "17997".into()),
        ("x-ratelimit-reset-requests", "2m59.56s".into()),
        ("x-ratelimit-reset-tokens", "7.66s".into()),
    ]
}

/// Of a quota the type says which it is, and only the code that it is used up.
pub(super) fn error(status: u16) -> Value {
    let mut error = json!({"message": "The stand-in server was told to fail.", "type": "invalid_request_error"});
    match status {
        429 => (error["type"], error["code"]) = ("tokens".into(), "rate_limit_exceeded".into()),
        500.. => error["type"] = "internal_server_error".into(),
        _ => {}
    }
    json!({"error": error})
}

fn id(call: &Call) -> String {
    format!("req_demo{:08}", call.id)
}

fn common(call: &Call, object: &str, choices: &Value) -> Value {
    json!({
        "id": format!("chatcmpl-demo{}", call.id), "object": object, "created": CREATED, "model": call.model,
        "system_fingerprint": "fp_demo", "choices": choices,
    })
}

/// Times are seconds.
fn usage(behaviour: &Behaviour) -> Value {
    json!({
        "queue_time": 0.25, "prompt_tokens": behaviour.input, "prompt_time": 0.002, "completion_tokens": behaviour.output,
        "completion_time": 0.1, "total_tokens": behaviour.input + behaviour.output, "total_time": 0.102,
        "prompt_tokens_details": {"cached_tokens": behaviour.cached},
        "completion_tokens_details": {"reasoning_tokens": behaviour.reasoning},
    })
}

fn stream(call: &Call, behaviour: &Behaviour) -> Vec<Piece> {
    let chunk = |delta: Value, own: Value, finish: Value| {
        let choice = json!({"index": 0, "delta": delta, "logprobs": null, "finish_reason": finish});
        let mut chunk = common(call, "chat.completion.chunk", &json!([choice]));
        if !own.is_null() {
            chunk["x_groq"] = own;
        }
        sse(None, &chunk)
    };
    let first = chunk(json!({"role": "assistant", "content": ""}), json!({"id": id(call)}), Value::Null);
    let mut pieces = vec![Piece::Lead(first)];
    for (at, count, thinking) in events(behaviour) {
        let said = text(behaviour, at, at + count);
        let delta = if thinking { json!({"reasoning": said}) } else { json!({"content": said}) };
        pieces.push(Piece::Output(count, chunk(delta, Value::Null, Value::Null)));
    }
    let own = json!({"id": id(call), "usage": usage(behaviour)});
    pieces.push(Piece::Tail(chunk(json!({}), own.clone(), "stop".into())));
    if call.include_usage {
        let mut last = common(call, "chat.completion.chunk", &json!([]));
        (last["usage"], last["x_groq"]) = (usage(behaviour), own);
        pieces.push(Piece::Tail(sse(None, &last)));
    }
    pieces.push(Piece::Tail(b"data: [DONE]\n\n".to_vec()));
    pieces
}
