//! OpenAI Responses.

use serde_json::{Value, json};

use super::{Answer, CREATED, Call, Piece, events, openai, sse, text};
use crate::behaviour::Behaviour;

/// The answer without faults.
pub(super) fn answer(call: &Call, behaviour: &Behaviour) -> Answer {
    let (content_type, pieces) = if call.stream {
        ("text/event-stream; charset=utf-8", stream(call, behaviour))
    } else {
        let body = response(call, "completed", output(behaviour), usage(behaviour));
        ("application/json", vec![Piece::Output(behaviour.output, body.to_string().into_bytes())])
    };
    Answer { content_type, headers: openai::headers(call.id), pieces }
}

/// What a stream says when it breaks off with an error.
pub(super) fn stream_error() -> Vec<u8> {
    let error = json!({"code": "server_error", "message": "The stand-in server was told to fail."});
    let response = json!({"object": "response", "status": "failed", "error": error, "usage": null});
    event(&json!({"type": "response.failed", "response": response}))
}

fn event(data: &Value) -> Vec<u8> {
    sse(data["type"].as_str(), data)
}

fn usage(behaviour: &Behaviour) -> Value {
    json!({
        "input_tokens": behaviour.input,
        "input_tokens_details": {"cached_tokens": behaviour.cached, "cache_write_tokens": behaviour.cache_written},
        "output_tokens": behaviour.output,
        "output_tokens_details": {"reasoning_tokens": behaviour.reasoning},
        "total_tokens": behaviour.input + behaviour.output,
    })
}

fn output(behaviour: &Behaviour) -> Value {
    let said = json!({"type": "output_text", "text": text(behaviour, behaviour.reasoning, behaviour.output), "annotations": []});
    let message =
        json!({"id": "msg_demo", "type": "message", "role": "assistant", "status": "completed", "content": [said]});
    if behaviour.reasoning == 0 {
        return json!([message]);
    }
    let thought = json!({"type": "summary_text", "text": text(behaviour, 0, behaviour.reasoning)});
    json!([{"id": "rs_demo", "type": "reasoning", "summary": [thought]}, message])
}

fn response(call: &Call, status: &str, output: Value, usage: Value) -> Value {
    json!({
        "id": format!("resp_demo{}", call.id), "object": "response", "created_at": CREATED, "status": status, "error": null,
        "incomplete_details": null, "instructions": null, "model": call.model, "output": output, "parallel_tool_calls": true,
        "tool_choice": "auto", "tools": [], "usage": usage,
    })
}

fn stream(call: &Call, behaviour: &Behaviour) -> Vec<Piece> {
    let mut sequence = 0;
    let mut next = |mut data: Value| {
        data["sequence_number"] = sequence.into();
        sequence += 1;
        event(&data)
    };
    let begun = response(call, "in_progress", json!([]), Value::Null);
    let item = |kind: &str, index: u32| {
        let item = json!({"id": format!("{kind}_demo"), "type": kind, "status": "in_progress"});
        json!({"type": "response.output_item.added", "output_index": index, "item": item})
    };
    let mut pieces = vec![
        Piece::Lead(next(json!({"type": "response.created", "response": begun}))),
        Piece::Lead(next(json!({"type": "response.in_progress", "response": begun}))),
    ];
    let mut last = None;
    for (at, count, thinking) in events(behaviour) {
        let (kind, index) = if thinking { ("reasoning", 0) } else { ("message", u32::from(behaviour.reasoning > 0)) };
        let mut bytes = Vec::new();
        if last.replace(thinking) != Some(thinking) {
            bytes.extend(next(item(kind, index)));
        }
        let said = text(behaviour, at, at + count);
        let mut delta = json!({"item_id": format!("{kind}_demo"), "output_index": index, "delta": said});
        if thinking {
            (delta["type"], delta["summary_index"]) = ("response.reasoning_summary_text.delta".into(), 0.into());
        } else {
            (delta["type"], delta["content_index"]) = ("response.output_text.delta".into(), 0.into());
            delta["logprobs"] = json!([]);
        }
        bytes.extend(next(delta));
        pieces.push(Piece::Output(count, bytes));
    }
    let done = response(call, "completed", output(behaviour), usage(behaviour));
    pieces.push(Piece::Tail(next(json!({"type": "response.completed", "response": done}))));
    pieces
}
