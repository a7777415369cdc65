//! AWS Bedrock: Converse, and InvokeModel of Anthropic's models. Streams are `application/vnd.amazon.eventstream`.

use serde_json::{Value, json};

use super::{Answer, Call, Piece, anthropic, events, text};
use crate::behaviour::Behaviour;

const EVENT_STREAM: &str = "application/vnd.amazon.eventstream";

/// The model that a path names.
pub(super) fn model(path: &str) -> Option<String> {
    let (_, rest) = path.split_once("/model/")?;
    let (model, _) = rest.rsplit_once('/')?;
    // SDKs encode no more of the ids that are used here.
    Some(model.replace("%3A", ":").replace("%2F", "/"))
}

/// The answer of Converse without faults.
pub(super) fn converse(call: &Call, behaviour: &Behaviour) -> Answer {
    let headers = vec![request_id(call.id)];
    if call.stream {
        return Answer { content_type: EVENT_STREAM, headers, pieces: converse_stream(behaviour) };
    }
    let content = json!([{"text": text(behaviour, 0, behaviour.output)}]);
    let body = json!({
        "metrics": {"latencyMs": 1}, "output": {"message": {"content": content, "role": "assistant"}},
        "stopReason": "end_turn", "usage": usage(behaviour),
    });
    let pieces = vec![Piece::Output(behaviour.output, body.to_string().into_bytes())];
    Answer { content_type: "application/json", headers, pieces }
}

fn converse_stream(behaviour: &Behaviour) -> Vec<Piece> {
    let mut pieces = vec![Piece::Lead(event("messageStart", &json!({"p": "abcdefghijk", "role": "assistant"})))];
    for (at, count, _) in events(behaviour) {
        let delta = json!({"text": text(behaviour, at, at + count)});
        let said = json!({"contentBlockIndex": 0, "delta": delta, "p": "abcdefg"});
        pieces.push(Piece::Output(count, event("contentBlockDelta", &said)));
    }
    let last = [
        ("contentBlockStop", json!({"contentBlockIndex": 0, "p": "abcd"})),
        ("messageStop", json!({"p": "abcdefghijklmnop", "stopReason": "end_turn"})),
        ("metadata", json!({"metrics": {"latencyMs": 1}, "p": "ab", "usage": usage(behaviour)})),
    ];
    pieces.extend(last.map(|(name, data)| Piece::Tail(event(name, &data))));
    pieces
}

/// As Anthropic's, `inputTokens` leave the cached ones out.
fn usage(behaviour: &Behaviour) -> Value {
    json!({
        "inputTokens": uncached(behaviour),
        "outputTokens": behaviour.output,
        "totalTokens": behaviour.input + behaviour.output,
        "cacheReadInputTokens": behaviour.cached,
        "cacheWriteInputTokens": behaviour.cache_written,
    })
}

fn uncached(behaviour: &Behaviour) -> u32 {
    behaviour.input - behaviour.cached - behaviour.cache_written
}

/// The answer of InvokeModel without faults.
pub(super) fn invoke(call: &Call, behaviour: &Behaviour) -> Answer {
    let mut headers = vec![request_id(call.id)];
    if call.stream {
        headers.push(("x-amzn-bedrock-content-type", "application/json".into()));
        let metrics = json!({
            "inputTokenCount": uncached(behaviour), "outputTokenCount": behaviour.output,
            "invocationLatency": 2, "firstByteLatency": 1,
            "cacheReadInputTokenCount": behaviour.cached, "cacheWriteInputTokenCount": behaviour.cache_written,
        });
        let chunk = |mut native: Value| {
            match native["type"].as_str() {
                // Bedrock does not send them.
                Some("ping") => return Vec::new(),
                Some("message_stop") => native["amazon-bedrock-invocationMetrics"] = metrics.clone(),
                _ => {}
            }
            event("chunk", &json!({"bytes": base64(native.to_string().as_bytes()), "p": "abcdefghi"}))
        };
        let pieces = anthropic::stream(call, behaviour, chunk);
        return Answer { content_type: EVENT_STREAM, headers, pieces };
    }
    let counts = [
        ("x-amzn-bedrock-input-token-count", uncached(behaviour)),
        ("x-amzn-bedrock-output-token-count", behaviour.output),
        ("x-amzn-bedrock-cache-read-input-token-count", behaviour.cached),
        ("x-amzn-bedrock-cache-write-input-token-count", behaviour.cache_written),
    ];
    headers.extend(counts.map(|(name, count)| (name, count.to_string())));
    let body = anthropic::whole(call, behaviour).to_string();
    let pieces = vec![Piece::Output(behaviour.output, body.into_bytes())];
    Answer { content_type: "application/json", headers, pieces }
}

fn request_id(id: u64) -> (&'static str, String) {
    ("x-amzn-requestid", format!("req_demo{id:08}"))
}

pub(super) fn error() -> Value {
    json!({"message": "The stand-in server was told to fail."})
}

pub(super) fn error_headers(id: u64, status: u16) -> Vec<(&'static str, String)> {
    let kind = match status {
        429 => "ThrottlingException:http://internal.amazon.com/coral/com.amazon.bedrock/",
        503 => "ServiceUnavailableException",
        500.. => "InternalServerException",
        _ => "ValidationException",
    };
    vec![request_id(id), ("x-amzn-errortype", kind.into())]
}

/// What a stream says when it breaks off.
pub(super) fn exception() -> Vec<u8> {
    message([(":exception-type", "throttlingException"), (":message-type", "exception")], &error())
}

fn event(name: &str, data: &Value) -> Vec<u8> {
    message([(":event-type", name), (":message-type", "event")], data)
}

/// A message with headers that are strings.
fn message(headers: [(&str, &str); 2], data: &Value) -> Vec<u8> {
    const STRING: u8 = 7;
    /// Two lengths and their checksum, and the checksum of all.
    const FRAME_BYTES: usize = 16;
    let mut block = Vec::new();
    for (name, value) in [headers[0], (":content-type", "application/json"), headers[1]] {
        block.push(u8::try_from(name.len()).unwrap_or(u8::MAX));
        block.extend_from_slice(name.as_bytes());
        block.push(STRING);
        block.extend_from_slice(&u16::try_from(value.len()).unwrap_or(u16::MAX).to_be_bytes());
        block.extend_from_slice(value.as_bytes());
    }
    let payload = data.to_string();
    let mut bytes = Vec::new();
    for length in [FRAME_BYTES + block.len() + payload.len(), block.len()] {
        bytes.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes());
    }
    bytes.extend_from_slice(&crc32fast::hash(&bytes).to_be_bytes());
    bytes.extend_from_slice(&block);
    bytes.extend_from_slice(payload.as_bytes());
    bytes.extend_from_slice(&crc32fast::hash(&bytes).to_be_bytes());
    bytes
}

fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for group in bytes.chunks(3) {
        let byte = |at: usize| u32::from(group.get(at).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for at in 0..4 {
            let index = (bits >> (18 - 6 * at)) as usize & 63;
            text.push(if at <= group.len() { char::from(ALPHABET[index]) } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_those_that_aws_s_clients_read() {
        // Checked with botocore.
        const VECTOR: &str = "0000009400000057b4ab9aee0b3a6576656e742d74797065070011636f6e74656e74426c6f636b44656c7461\
            0d3a636f6e74656e742d747970650700106170706c69636174696f6e2f6a736f6e0d3a6d6573736167652d74\
            7970650700056576656e747b22636f6e74656e74426c6f636b496e646578223a302c2264656c7461223a7b22\
            74657874223a224869227d7d1f944657";
        let bytes = event("contentBlockDelta", &json!({"contentBlockIndex": 0, "delta": {"text": "Hi"}}));
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, VECTOR);
    }

    #[test]
    fn base64_is_rfc_4648_s() {
        for (text, coded) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")] {
            assert_eq!(base64(text.as_bytes()), coded);
        }
    }

    #[test]
    fn the_path_names_the_model() {
        assert_eq!(model("/model/demo-9tok-v1%3A0/converse").as_deref(), Some("demo-9tok-v1:0"));
        assert_eq!(model("/x/model/demo/invoke").as_deref(), Some("demo"));
    }
}
