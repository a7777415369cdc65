//! Ollama's own API: one JSON object per line.

use serde_json::{Value, json};

use super::{Answer, Api, Call, Piece, events, ndjson, text};
use crate::behaviour::Behaviour;

/// Numbers in one vector.
const DIMENSIONS: usize = 256;

/// The answer without faults.
pub(super) fn answer(call: &Call, behaviour: &Behaviour) -> Answer {
    let mut pieces = Vec::new();
    if call.api == Api::OllamaEmbed {
        pieces.push(Piece::Output(0, vectors(call, behaviour).to_string().into_bytes()));
    } else if call.stream {
        for (at, count, thinking) in events(behaviour) {
            let said = text(behaviour, at, at + count);
            let line = if thinking { line(call, "", &said, false) } else { line(call, &said, "", false) };
            pieces.push(Piece::Output(count, ndjson(&line)));
        }
        pieces.push(Piece::Tail(ndjson(&last(call, behaviour, "", ""))));
    } else {
        let [thought, said] = [(0, behaviour.reasoning), (behaviour.reasoning, behaviour.output)]
            .map(|(from, to)| text(behaviour, from, to));
        let body = last(call, behaviour, &said, &thought);
        pieces.push(Piece::Output(behaviour.output, body.to_string().into_bytes()));
    }
    let content_type = if call.stream { "application/x-ndjson" } else { "application/json; charset=utf-8" };
    Answer { content_type, headers: headers(call.id), pieces }
}

/// Ollama itself numbers nothing; a gateway before it does, and so exchanges can be told apart in tests.
pub(super) fn headers(id: u64) -> Vec<(&'static str, String)> {
    vec![("x-request-id", format!("req_demo{id:08}"))]
}

pub(super) fn error() -> Value {
    json!({"error": "The stand-in server was told to fail."})
}

fn vectors(call: &Call, behaviour: &Behaviour) -> Value {
    json!({
        "model": call.model, "embeddings": vec![vec![0.25; DIMENSIONS]; call.inputs],
        "total_duration": 14_143_917, "load_duration": 1_019_500, "prompt_eval_count": behaviour.input,
    })
}

fn line(call: &Call, said: &str, thought: &str, done: bool) -> Value {
    let mut line = json!({"model": call.model, "created_at": "2026-09-21T14:13:20Z", "done": done});
    let message = match call.api {
        Api::OllamaGenerate => {
            line["response"] = said.into();
            &mut line
        }
        _ => {
            line["message"] = json!({"role": "assistant", "content": said});
            &mut line["message"]
        }
    };
    if !thought.is_empty() {
        message["thinking"] = thought.into();
    }
    line
}

/// How much was thought it does not say.
fn last(call: &Call, behaviour: &Behaviour, said: &str, thought: &str) -> Value {
    let mut line = line(call, said, thought, true);
    line["done_reason"] = "stop".into();
    line["prompt_eval_count"] = behaviour.input.into();
    line["eval_count"] = behaviour.output.into();
    line
}
