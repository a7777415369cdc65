//! Anthropic Messages.

use serde_json::{Value, json};

use super::{Answer, Call, Piece, events, sse, text};
use crate::behaviour::Behaviour;

/// What `message_start` says of the output, before there is any.
const FIRST_OUTPUT_TOKENS: u32 = 1;

/// The answer without faults.
pub(super) fn answer(call: &Call, behaviour: &Behaviour) -> Answer {
    let (content_type, pieces) = if call.stream {
        let event = |data: Value| sse(data["type"].as_str(), &data);
        ("text/event-stream; charset=utf-8", stream(call, behaviour, event))
    } else {
        let body = whole(call, behaviour).to_string();
        ("application/json", vec![Piece::Output(behaviour.output, body.into_bytes())])
    };
    Answer { content_type, headers: headers(call.id), pieces }
}

pub(super) fn headers(id: u64) -> Vec<(&'static str, String)> {
    vec![
        ("request-id", format!("req_demo{id:08}")),
        ("anthropic-ratelimit-requests-limit", "4000".into()),
        ("anthropic-ratelimit-requests-remaining", "3999".into()),
        ("anthropic-ratelimit-tokens-remaining", "399000".into()),
    ]
}

pub(super) fn error(status: u16) -> Value {
    let kind = match status {
        429 => "rate_limit_error",
        529 => "overloaded_error",
        500.. => "api_error",
        _ => "invalid_request_error",
    };
    json!({"type": "error", "error": {"type": kind, "message": "The stand-in server was told to fail."}})
}

/// Anthropic's `input_tokens` leave the cached ones out.
fn usage(behaviour: &Behaviour, output: u32) -> Value {
    json!({
        "input_tokens": behaviour.input - behaviour.cached - behaviour.cache_written,
        "cache_creation_input_tokens": behaviour.cache_written,
        "cache_read_input_tokens": behaviour.cached,
        "output_tokens": output,
        "output_tokens_details": {"thinking_tokens": behaviour.reasoning.min(output)},
        "service_tier": "standard",
    })
}

fn message(call: &Call, content: Value, stop_reason: Value, usage: Value) -> Value {
    json!({
        "id": format!("msg_demo{}", call.id), "type": "message", "role": "assistant", "model": call.model,
        "content": content, "stop_reason": stop_reason, "stop_sequence": null, "usage": usage,
    })
}

/// The answer in one document.
pub(super) fn whole(call: &Call, behaviour: &Behaviour) -> Value {
    message(call, content(behaviour), "end_turn".into(), usage(behaviour, behaviour.output))
}

fn content(behaviour: &Behaviour) -> Value {
    let said = json!({"type": "text", "text": text(behaviour, behaviour.reasoning, behaviour.output)});
    if behaviour.reasoning == 0 {
        return json!([said]);
    }
    let thought = text(behaviour, 0, behaviour.reasoning);
    json!([{"type": "thinking", "thinking": thought, "signature": ""}, said])
}

/// The answer in events, each written as `event` has it.
pub(super) fn stream(call: &Call, behaviour: &Behaviour, event: impl Fn(Value) -> Vec<u8>) -> Vec<Piece> {
    let open = |index: u32, thinking: bool| {
        let block = if thinking {
            json!({"type": "thinking", "thinking": "", "signature": ""})
        } else {
            json!({"type": "text", "text": ""})
        };
        event(json!({"type": "content_block_start", "index": index, "content_block": block}))
    };
    let close = |index: u32| event(json!({"type": "content_block_stop", "index": index}));

    let start = message(call, json!([]), Value::Null, usage(behaviour, FIRST_OUTPUT_TOKENS));
    let mut block = 0;
    let mut thinking_block = behaviour.reasoning > 0;
    let mut pieces = vec![
        Piece::Lead(event(json!({"type": "message_start", "message": start}))),
        Piece::Lead(event(json!({"type": "ping"}))),
        Piece::Lead(open(block, thinking_block)),
    ];
    for (at, count, thinking) in events(behaviour) {
        let mut bytes = Vec::new();
        if thinking_block && !thinking {
            bytes.extend(close(block));
            block += 1;
            bytes.extend(open(block, false));
            thinking_block = false;
        }
        let said = text(behaviour, at, at + count);
        let delta = if thinking {
            json!({"type": "thinking_delta", "thinking": said})
        } else {
            json!({"type": "text_delta", "text": said})
        };
        bytes.extend(event(json!({"type": "content_block_delta", "index": block, "delta": delta})));
        pieces.push(Piece::Output(count, bytes));
    }
    let delta = json!({"stop_reason": "end_turn", "stop_sequence": null});
    pieces.push(Piece::Tail(close(block)));
    let usage = usage(behaviour, behaviour.output);
    pieces.push(Piece::Tail(event(json!({"type": "message_delta", "delta": delta, "usage": usage}))));
    pieces.push(Piece::Tail(event(json!({"type": "message_stop"}))));
    pieces
}
