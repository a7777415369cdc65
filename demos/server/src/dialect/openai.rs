//! OpenAI: chat completions, legacy completions, embeddings.

use serde_json::{Value, json};

use super::{Answer, Api, CREATED, Call, Piece, events, sse, text};
use crate::behaviour::Behaviour;

/// Numbers in one vector. Real models have a thousand and more; this is enough for `usage` to stand far back.
const DIMENSIONS: u32 = 256;

/// The answer without faults.
pub(super) fn answer(call: &Call, behaviour: &Behaviour) -> Answer {
    let (content_type, pieces) = if call.stream {
        ("text/event-stream; charset=utf-8", stream(call, behaviour))
    } else {
        let body = if call.api == Api::Embeddings { vectors(call, behaviour) } else { whole(call, behaviour) };
        ("application/json", vec![Piece::Output(behaviour.output, body.to_string().into_bytes())])
    };
    Answer { content_type, headers: headers(call.id), pieces }
}

pub(super) fn headers(id: u64) -> Vec<(&'static str, String)> {
    vec![
        ("x-request-id", format!("req_demo{id:08}")),
        ("openai-processing-ms", "1".into()),
        ("x-ratelimit-limit-requests", "10000".into()),
        ("x-ratelimit-remaining-requests", "9999".into()),
        ("x-ratelimit-remaining-tokens", "1999000".into()),
        ("x-ratelimit-reset-requests", "6ms".into()),
    ]
}

pub(super) fn error(status: u16) -> Value {
    let (kind, code) = match status {
        429 => ("rate_limit_error", "rate_limit_exceeded"),
        500.. => ("server_error", "server_error"),
        _ => ("invalid_request_error", "invalid_request"),
    };
    json!({"error": {"message": "The stand-in server was told to fail.", "type": kind, "param": null, "code": code}})
}

fn usage(behaviour: &Behaviour) -> Value {
    json!({
        "prompt_tokens": behaviour.input,
        "completion_tokens": behaviour.output,
        "total_tokens": behaviour.input + behaviour.output,
        "prompt_tokens_details": {"cached_tokens": behaviour.cached, "cache_write_tokens": behaviour.cache_written},
        "completion_tokens_details": {"reasoning_tokens": behaviour.reasoning},
    })
}

fn whole(call: &Call, behaviour: &Behaviour) -> Value {
    let said = text(behaviour, behaviour.reasoning, behaviour.output);
    let (object, choice) = match call.api {
        Api::Completions => {
            ("text_completion", json!({"index": 0, "text": said, "logprobs": null, "finish_reason": "stop"}))
        }
        _ => {
            let mut message = json!({"role": "assistant", "content": said, "refusal": null});
            if behaviour.reasoning > 0 {
                message["reasoning_content"] = text(behaviour, 0, behaviour.reasoning).into();
            }
            ("chat.completion", json!({"index": 0, "message": message, "finish_reason": "stop"}))
        }
    };
    json!({
        "id": format!("chatcmpl-demo{}", call.id), "object": object, "created": CREATED, "model": call.model,
        "choices": [choice], "usage": usage(behaviour), "system_fingerprint": null,
    })
}

fn vectors(call: &Call, behaviour: &Behaviour) -> Value {
    let vector: Vec<f64> = (0..DIMENSIONS).map(|i| f64::from(i) / f64::from(DIMENSIONS)).collect();
    let data: Vec<Value> =
        (0..call.inputs).map(|i| json!({"object": "embedding", "index": i, "embedding": vector})).collect();
    let tokens = behaviour.input;
    json!({
        "object": "list", "data": data, "model": call.model,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    })
}

fn stream(call: &Call, behaviour: &Behaviour) -> Vec<Piece> {
    let chat = call.api == Api::Chat;
    let chunk = |choices: Value, usage: Value| {
        let mut chunk = json!({
            "id": format!("chatcmpl-demo{}", call.id),
            "object": if chat { "chat.completion.chunk" } else { "text_completion" },
            "created": CREATED, "model": call.model, "choices": choices,
        });
        if call.include_usage {
            chunk["usage"] = usage;
        }
        sse(None, &chunk)
    };
    let choice = |delta: Value, finish: Value| {
        if chat {
            json!([{"index": 0, "delta": delta, "logprobs": null, "finish_reason": finish}])
        } else {
            json!([{"index": 0, "text": delta, "logprobs": null, "finish_reason": finish}])
        }
    };

    let mut pieces = Vec::new();
    if chat {
        let role = json!({"role": "assistant", "content": ""});
        pieces.push(Piece::Lead(chunk(choice(role, Value::Null), Value::Null)));
    }
    for (at, count, thinking) in events(behaviour) {
        let said = Value::from(text(behaviour, at, at + count));
        let delta = match (chat, thinking) {
            (false, _) => said,
            (true, false) => json!({"content": said}),
            (true, true) => json!({"reasoning_content": said}),
        };
        pieces.push(Piece::Output(count, chunk(choice(delta, Value::Null), Value::Null)));
    }
    let nothing = if chat { json!({}) } else { json!("") };
    pieces.push(Piece::Tail(chunk(choice(nothing, "stop".into()), Value::Null)));
    if call.include_usage {
        pieces.push(Piece::Tail(chunk(json!([]), usage(behaviour))));
    }
    pieces.push(Piece::Tail(b"data: [DONE]\n\n".to_vec()));
    pieces
}
