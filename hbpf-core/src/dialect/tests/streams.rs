//! Answers in the shapes that servers and SDKs exchange, with made-up content.

use crate::exchange::Dialect;

/// An answer and what must be read from it. Text that must never show up contains `CANARY`.
pub(super) struct Case {
    pub(super) name: &'static str,
    pub(super) dialect: Dialect,
    pub(super) request: &'static str,
    pub(super) status: u16,
    pub(super) content_type: Option<&'static str>,
    /// As text; [`Case::bytes`] has it as it travels.
    pub(super) body: &'static str,
    pub(super) expected: Expected<'static>,
}

impl Case {
    /// The body. Of an event stream each line is a message: `[event] payload`, `[chunk] document` where it is embedded, and
    /// `![exception] payload`.
    pub(super) fn bytes(&self) -> Vec<u8> {
        if self.content_type == EVENT_STREAM {
            self.body.lines().flat_map(event_stream_message).collect()
        } else {
            self.body.into()
        }
    }
}

fn event_stream_message(line: &str) -> Vec<u8> {
    let (name, payload) = line.split_once("] ").expect("a name in brackets");
    let (kind, header, name) = match name.strip_prefix("![") {
        Some(name) => ("exception", ":exception-type", name),
        None => ("event", ":event-type", &name[1..]),
    };
    let payload = match name {
        "chunk" => format!(r#"{{"bytes":"{}","p":"abcdefghijk"}}"#, base64(payload.as_bytes())),
        _ => payload.to_owned(),
    };
    let mut headers = Vec::new();
    for (name, value) in [(header, name), (":content-type", "application/json"), (":message-type", kind)] {
        headers.extend([&[name.len() as u8], name.as_bytes(), &[7, 0, value.len() as u8], value.as_bytes()].concat());
    }
    let lengths = [(16 + headers.len() + payload.len()) as u32, headers.len() as u32].map(u32::to_be_bytes).concat();
    let prelude = [&lengths[..], &crc32fast::hash(&lengths).to_be_bytes()].concat();
    let message = [&prelude[..], &headers, payload.as_bytes()].concat();
    [&message[..], &crc32fast::hash(&message).to_be_bytes()].concat()
}

fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let group = |group: &[u8]| {
        let bits = group.iter().chain([0, 0].iter()).take(3).fold(0, |bits, byte| bits << 8 | u32::from(*byte));
        let character = |at: u32| match at as usize > group.len() {
            true => '=',
            false => char::from(ALPHABET[(bits >> (18 - 6 * at) & 63) as usize]),
        };
        [0, 1, 2, 3].map(character)
    };
    bytes.chunks(3).flat_map(group).collect()
}

#[derive(Debug, PartialEq)]
pub(super) struct Expected<'a> {
    pub(super) model: Option<&'a str>,
    pub(super) response_model: Option<&'a str>,
    pub(super) id: Option<&'a str>,
    pub(super) stream: Option<bool>,
    /// Input, output, cached, cache creation, reasoning.
    pub(super) usage: [Option<u64>; 5],
    pub(super) finish: Option<&'a str>,
    pub(super) error: Option<&'a str>,
    pub(super) is_error: bool,
    pub(super) finished: bool,
    pub(super) missed: u64,
    pub(super) provider: Option<&'a str>,
    /// Tokens and visibility of each output event.
    pub(super) outputs: &'a [(u64, bool)],
}

const ASKS: &str = r#"{"model":"m","stream":true,"messages":[{"role":"user","content":"CANARY prompt"}]}"#;
const ASKS_PLAIN: &str = r#"{"model":"m","messages":[{"role":"user","content":"CANARY prompt"}]}"#;
const ASKS_INPUT: &str = r#"{"model":"m","input":"CANARY prompt","stream":true}"#;
const CALLS_TOOL: &str = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"look_up","arguments":{"name":"CANARY","q":"CANARY"},"_meta":{"progressToken":1}}}"#;
const CONVERSE: &str = r#"{"messages":[{"role":"user","content":[{"text":"CANARY prompt"}]}]}"#;
const GENERATES: &str = r#"{"contents":[{"role":"user","parts":[{"text":"CANARY prompt"}]}]}"#;
const SSE: Option<&str> = Some("text/event-stream");
const JSON: Option<&str> = Some("application/json");
const EVENT_STREAM: Option<&str> = Some("application/vnd.amazon.eventstream");
const UNKNOWN: [Option<u64>; 5] = [None; 5];

/// A finished stream of model `m` that says nothing of itself.
const STREAMED: Expected<'static> = Expected {
    model: Some("m"),
    response_model: None,
    id: None,
    stream: Some(true),
    usage: UNKNOWN,
    finish: None,
    error: None,
    is_error: false,
    finished: true,
    missed: 0,
    provider: None,
    outputs: &[],
};

/// Likewise, in one document.
const PLAIN: Expected<'static> = Expected { stream: Some(false), ..STREAMED };

/// One event a token.
const VISIBLE: (u64, bool) = (1, true);
const REASONING: (u64, bool) = (1, false);

pub(super) const ALL: &[Case] = &[
    Case {
        name: "OpenAI chat stream with usage",
        dialect: Dialect::OpenaiChat,
        request: ASKS,
        status: 200,
        content_type: SSE,
        body: r#"data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,"model":"m-2026","choices":[{"index":0,"delta":{"role":"assistant","content":"","refusal":null},"finish_reason":null}],"usage":null,"obfuscation":"CANARY"}

data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,"model":"m-2026","choices":[{"index":0,"delta":{"content":"CANARY \"}]}"},"finish_reason":null}],"usage":null}

data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,"model":"m-2026","choices":[{"index":0,"delta":{"content":"\u0043ANARY"},"finish_reason":null}],"usage":null}

data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,"model":"m-2026","choices":[{"index":0,"delta":{},"finish_reason":"stop"}],"usage":null}

data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,"model":"m-2026","choices":[],"usage":{"prompt_tokens":1009,"completion_tokens":2,"total_tokens":1011,"prompt_tokens_details":{"cached_tokens":1000,"audio_tokens":0,"cache_write_tokens":5},"completion_tokens_details":{"reasoning_tokens":0}}}

data: [DONE]

"#,
        expected: Expected {
            response_model: Some("m-2026"),
            id: Some("chatcmpl-1"),
            usage: [Some(1009), Some(2), Some(1000), Some(5), Some(0)],
            finish: Some("stop"),
            outputs: &[VISIBLE, VISIBLE],
            ..STREAMED
        },
    },
    Case {
        name: "llama-cpp-python: no usage in the stream, role in an event of its own",
        dialect: Dialect::OpenaiChat,
        request: ASKS,
        status: 200,
        content_type: SSE,
        body: r#": ping - 2026-11-22 10:00:00

data: {"id": "chatcmpl-2", "model": "m", "choices": [{"index": 0, "delta": {"role": "assistant"}, "logprobs": null, "finish_reason": null}]}

data: {"id": "chatcmpl-2", "model": "m", "choices": [{"index": 0, "delta": {"content": "CANARY"}, "logprobs": null, "finish_reason": null}]}

data: {"id": "chatcmpl-2", "model": "m", "choices": [{"index": 0, "delta": {}, "logprobs": null, "finish_reason": "length"}]}

data: [DONE]

"#,
        expected: Expected {
            response_model: Some("m"),
            id: Some("chatcmpl-2"),
            finish: Some("length"),
            outputs: &[VISIBLE],
            ..STREAMED
        },
    },
    Case {
        name: "vLLM: reasoning, then an empty token, then text, counted along",
        dialect: Dialect::OpenaiChat,
        request: ASKS,
        status: 200,
        content_type: Some("text/event-stream; charset=utf-8"),
        body: r#"data: {"id":"c","model":"q","choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}],"usage":{"prompt_tokens":7,"total_tokens":7,"completion_tokens":0}}

data: {"id":"c","model":"q","choices":[{"index":0,"delta":{"reasoning":"CANARY"},"finish_reason":null}],"usage":{"prompt_tokens":7,"total_tokens":9,"completion_tokens":2}}

data: {"id":"c","model":"q","choices":[{"index":0,"delta":{"content":""},"finish_reason":null}],"usage":{"prompt_tokens":7,"total_tokens":10,"completion_tokens":3}}

data: {"id":"c","model":"q","choices":[{"index":0,"delta":{"content":"CANARY"},"finish_reason":"stop"}],"usage":{"prompt_tokens":7,"total_tokens":12,"completion_tokens":5}}

data: {"id":"c","model":"q","choices":[],"usage":{"prompt_tokens":7,"total_tokens":12,"completion_tokens":5}}

data: [DONE]

"#,
        expected: Expected {
            response_model: Some("q"),
            id: Some("c"),
            usage: [Some(7), Some(5), None, None, None],
            finish: Some("stop"),
            outputs: &[(2, false), VISIBLE, (2, true)],
            ..STREAMED
        },
    },
    Case {
        name: "several choices, interleaved and together",
        dialect: Dialect::OpenaiChat,
        request: ASKS,
        status: 200,
        content_type: SSE,
        body: r#"data: {"choices":[{"index":0,"delta":{"content":"CANARY"}}]}

data: {"choices":[{"index":1,"delta":{"content":"CANARY"}}]}

data: {"choices":[{"index":0,"delta":{"content":"CANARY"}},{"index":1,"delta":{"reasoning_content":"CANARY"}},{"index":2,"delta":{"role":"assistant","content":""}}]}

data: [DONE]

"#,
        expected: Expected { outputs: &[VISIBLE, VISIBLE, (2, true)], ..STREAMED },
    },
    Case {
        name: "nothing but tool calls",
        dialect: Dialect::OpenaiChat,
        request: ASKS,
        status: 200,
        content_type: SSE,
        body: r#"data: {"choices":[{"index":0,"delta":{"role":"assistant","content":null,"tool_calls":[]}}]}

data: {"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"id":"call_1","type":"function","function":{"name":"CANARY","arguments":""}}]}}]}

data: {"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"function":{"arguments":"{\"CANARY\":"}}]}}]}

data: {"choices":[{"index":0,"delta":{},"finish_reason":"tool_calls"}]}

data: [DONE]

"#,
        expected: Expected { finish: Some("tool_calls"), outputs: &[VISIBLE, VISIBLE], ..STREAMED },
    },
    Case {
        name: "Groq, DeepSeek-like reasoning, keep-alive comments",
        dialect: Dialect::OpenaiChat,
        request: ASKS,
        status: 200,
        content_type: SSE,
        body: r#": keep-alive

: keep-alive

data: {"id":"g","model":"l","x_groq":{"id":"req_1"},"choices":[{"index":0,"delta":{"role":"assistant","content":""}}]}

data: {"id":"g","model":"l","choices":[{"index":0,"delta":{"reasoning_content":"CANARY"}}]}

data: {"id":"g","model":"l","choices":[{"index":0,"delta":{"content":"CANARY"}}]}

data: {"id":"g","model":"l","choices":[{"index":0,"delta":{},"finish_reason":"stop"}],"x_groq":{"id":"req_1","usage":{"queue_time":0.01,"prompt_tokens":11,"completion_tokens":2,"total_tokens":13}}}

data: [DONE]

"#,
        expected: Expected {
            response_model: Some("l"),
            id: Some("g"),
            usage: [Some(11), Some(2), None, None, None],
            finish: Some("stop"),
            provider: Some("groq"),
            outputs: &[REASONING, VISIBLE],
            ..STREAMED
        },
    },
    Case {
        name: "an error in a stream under 200",
        dialect: Dialect::OpenaiChat,
        request: ASKS,
        status: 200,
        content_type: SSE,
        body: r#"data: {"choices":[{"index":0,"delta":{"content":"CANARY"}}],"error":null}

data: {"error":{"message":"CANARY","type":"server_error","param":null,"code":500}}

data: [DONE]

"#,
        expected: Expected { error: Some("server_error"), is_error: true, outputs: &[VISIBLE], ..STREAMED },
    },
    Case {
        name: "a stream that is cut amid an event",
        dialect: Dialect::OpenaiChat,
        request: ASKS,
        status: 200,
        content_type: SSE,
        body: r#"data: {"choices":[{"index":0,"delta":{"content":"CANARY"}}]}

data: {"choices":[{"index":0,"delta":{"content":"CAN"#,
        expected: Expected { finished: false, missed: 1, outputs: &[VISIBLE], ..STREAMED },
    },
    Case {
        name: "chunk framing that strayed into an event",
        dialect: Dialect::OpenaiChat,
        request: ASKS,
        status: 200,
        content_type: SSE,
        body: "data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\n\r\n1f\r\ndata: {\"choices\":[{\"delta\":{\"content\":\"CAN\r\n2a\r\nARY\"}}]}\n\ndata: {\"choices\":[{\"delta\":{\"content\":\"c\"}}]}\n\n",
        expected: Expected { finished: false, missed: 1, outputs: &[VISIBLE, VISIBLE], ..STREAMED },
    },
    Case {
        name: "llama.cpp: timings instead of usage",
        dialect: Dialect::OpenaiChat,
        request: ASKS,
        status: 200,
        content_type: SSE,
        body: r#"data: {"choices":[{"finish_reason":null,"index":0,"delta":{"role":"assistant","content":null}}],"system_fingerprint":"b1-abc"}

data: {"choices":[{"finish_reason":null,"index":0,"delta":{"content":"CANARY"}}]}

data: {"choices":[{"finish_reason":"stop","index":0,"delta":{}}],"timings":{"cache_n":30,"prompt_n":5,"prompt_ms":10.5,"predicted_n":2,"predicted_ms":20.25}}

data: [DONE]

"#,
        expected: Expected {
            usage: [Some(35), Some(2), Some(30), None, None],
            finish: Some("stop"),
            provider: Some("llama.cpp"),
            outputs: &[VISIBLE],
            ..STREAMED
        },
    },
    Case {
        name: "OpenAI chat in one document",
        dialect: Dialect::OpenaiChat,
        request: ASKS_PLAIN,
        status: 200,
        content_type: JSON,
        body: r#"

{
  "id": "chatcmpl-3", "object": "chat.completion", "model": "m-2026",
  "choices": [{"index": 0, "message": {"role": "assistant", "content": "CANARY", "usage": {"prompt_tokens": 99999}}, "finish_reason": "stop"}],
  "usage": {"prompt_tokens": 9, "completion_tokens": 12, "total_tokens": 21, "completion_tokens_details": {"reasoning_tokens": 4}}
}
"#,
        expected: Expected {
            response_model: Some("m-2026"),
            id: Some("chatcmpl-3"),
            usage: [Some(9), Some(12), None, None, Some(4)],
            finish: Some("stop"),
            ..PLAIN
        },
    },
    Case {
        name: "DeepSeek: hits and misses make the prompt",
        dialect: Dialect::OpenaiChat,
        request: ASKS_PLAIN,
        status: 200,
        content_type: JSON,
        body: r#"{"choices":[],"usage":{"prompt_cache_hit_tokens":64,"prompt_cache_miss_tokens":6,"completion_tokens":3}}"#,
        expected: Expected { usage: [Some(70), Some(3), Some(64), None, None], ..PLAIN },
    },
    Case {
        name: "xAI: reasoning beside the completion",
        dialect: Dialect::OpenaiChat,
        request: ASKS_PLAIN,
        status: 200,
        content_type: JSON,
        body: r#"{"usage":{"prompt_tokens":10,"completion_tokens":5,"total_tokens":115,"completion_tokens_details":{"reasoning_tokens":100},"cost_in_usd_ticks":12345}}"#,
        expected: Expected { usage: [Some(10), Some(105), None, None, Some(100)], provider: Some("x_ai"), ..PLAIN },
    },
    Case {
        name: "counts that are none",
        dialect: Dialect::OpenaiChat,
        request: ASKS_PLAIN,
        status: 200,
        content_type: JSON,
        body: r#"{"usage":{"prompt_tokens":-3,"completion_tokens":1.5,"total_tokens":1e300,"prompt_tokens_details":{"cached_tokens":"7"}},"system_fingerprint":"fp_ollama"}"#,
        expected: Expected { provider: Some("ollama"), ..PLAIN },
    },
    Case {
        name: "OpenAI Responses stream",
        dialect: Dialect::OpenaiResponses,
        request: ASKS,
        status: 200,
        content_type: SSE,
        body: r#"event: response.created
data: {"type":"response.created","sequence_number":0,"response":{"id":"resp_1","object":"response","status":"in_progress","error":null,"incomplete_details":null,"instructions":"CANARY","model":"m-2026","output":[],"tools":[{"type":"function","name":"CANARY"}],"usage":null}}

event: response.in_progress
data: {"type":"response.in_progress","sequence_number":1,"response":{"id":"resp_1","object":"response","status":"in_progress","model":"m-2026","usage":null}}

event: response.output_item.added
data: {"type":"response.output_item.added","sequence_number":2,"output_index":0,"item":{"id":"rs_1","type":"reasoning","summary":[],"status":"in_progress"}}

event: response.reasoning_summary_text.delta
data: {"type":"response.reasoning_summary_text.delta","sequence_number":3,"item_id":"rs_1","output_index":0,"summary_index":0,"delta":"CANARY","obfuscation":"x8Q"}

event: response.output_text.delta
data: {"content_index":0,"delta":"CANARY","item_id":"msg_1","logprobs":[],"output_index":1,"sequence_number":4,"type":"response.output_text.delta"}

event: response.output_text.delta
data: {"type":"response.output_text.delta","sequence_number":5,"item_id":"msg_1","output_index":1,"content_index":0,"delta":""}

event: response.function_call_arguments.delta
data: {"type":"response.function_call_arguments.delta","sequence_number":6,"item_id":"fc_1","output_index":2,"delta":"{\"CANARY\":"}

event: response.code_interpreter_call_code.done
data: {"type":"response.code_interpreter_call_code.done","sequence_number":7,"item_id":"ci_1","output_index":3,"code":"CANARY"}

event: response.output_text.done
data: {"type":"response.output_text.done","sequence_number":8,"item_id":"msg_1","text":"CANARY"}

event: response.completed
data: {"type":"response.completed","sequence_number":9,"response":{"id":"resp_1","object":"response","status":"completed","error":null,"incomplete_details":null,"model":"m-2026","output":[{"type":"message","status":"completed","content":[{"type":"output_text","text":"CANARY","usage":{"input_tokens":99999}}]}],"usage":{"input_tokens":1009,"input_tokens_details":{"cached_tokens":1000,"cache_write_tokens":5},"output_tokens":7,"output_tokens_details":{"reasoning_tokens":4},"total_tokens":1016}}}

"#,
        expected: Expected {
            response_model: Some("m-2026"),
            id: Some("resp_1"),
            usage: [Some(1009), Some(7), Some(1000), Some(5), Some(4)],
            finish: Some("completed"),
            outputs: &[REASONING, VISIBLE, VISIBLE],
            ..STREAMED
        },
    },
    Case {
        name: "OpenAI Responses: cut off, and a marker of others",
        dialect: Dialect::OpenaiResponses,
        request: ASKS,
        status: 200,
        content_type: SSE,
        body: r#"data: {"type":"response.refusal.delta","delta":"CANARY"}

data: {"type":"response.incomplete","response":{"id":"resp_2","status":"incomplete","incomplete_details":{"reason":"max_output_tokens"},"usage":{"input_tokens":3,"output_tokens":1}}}

data: [DONE]

"#,
        expected: Expected {
            id: Some("resp_2"),
            usage: [Some(3), Some(1), None, None, None],
            finish: Some("max_output_tokens"),
            outputs: &[VISIBLE],
            ..STREAMED
        },
    },
    Case {
        name: "OpenAI Responses: failed under 200",
        dialect: Dialect::OpenaiResponses,
        request: ASKS,
        status: 200,
        content_type: SSE,
        body: r#"data: {"type":"response.created","response":{"id":"resp_3","status":"in_progress","usage":null}}

data: {"type":"response.failed","response":{"id":"resp_3","status":"failed","error":{"code":"server_error","message":"CANARY"},"usage":null}}

"#,
        expected: Expected {
            id: Some("resp_3"),
            finish: Some("failed"),
            error: Some("server_error"),
            is_error: true,
            ..STREAMED
        },
    },
    Case {
        name: "OpenAI Responses: an error in the stream, whose code may be a text in other events",
        dialect: Dialect::OpenaiResponses,
        request: ASKS,
        status: 200,
        content_type: SSE,
        body: "event: error\ndata: {\"type\":\"error\",\"code\":\"CANARY\",\"message\":\"CANARY\",\"param\":null,\"sequence_number\":1}\n\n",
        expected: Expected { is_error: true, finished: false, ..STREAMED },
    },
    Case {
        name: "OpenAI Responses in one document",
        dialect: Dialect::OpenaiResponses,
        request: ASKS_PLAIN,
        status: 200,
        content_type: JSON,
        body: r#"{
  "id": "resp_4", "object": "response", "created_at": 1, "status": "completed", "background": false, "error": null,
  "incomplete_details": null, "instructions": "CANARY", "model": "m-2026",
  "output": [{"id": "msg_1", "type": "message", "status": "completed", "content": [{"type": "output_text", "text": "CANARY"}]}],
  "usage": {"input_tokens": 9, "input_tokens_details": {"cached_tokens": 0}, "output_tokens": 12, "output_tokens_details": {"reasoning_tokens": 0}, "total_tokens": 21},
  "user": null, "metadata": {}
}"#,
        expected: Expected {
            response_model: Some("m-2026"),
            id: Some("resp_4"),
            usage: [Some(9), Some(12), Some(0), None, Some(0)],
            finish: Some("completed"),
            ..PLAIN
        },
    },
    Case {
        name: "OpenAI Responses: queued, to be asked for later",
        dialect: Dialect::OpenaiResponses,
        request: ASKS_PLAIN,
        status: 200,
        content_type: JSON,
        body: r#"{"id":"resp_5","object":"response","status":"queued","model":"m-2026","output":[],"usage":null}"#,
        expected: Expected { response_model: Some("m-2026"), id: Some("resp_5"), ..PLAIN },
    },
    Case {
        name: "OpenAI Responses: a 400",
        dialect: Dialect::OpenaiResponses,
        request: ASKS,
        status: 400,
        content_type: JSON,
        body: r#"{"error":{"message":"CANARY","type":"invalid_request_error","param":"input","code":null}}"#,
        expected: Expected { error: Some("invalid_request_error"), is_error: true, ..STREAMED },
    },
    Case {
        name: "vLLM's Responses: an error without an object around it",
        dialect: Dialect::OpenaiResponses,
        request: ASKS,
        status: 404,
        content_type: JSON,
        body: r#"{"object":"error","message":"CANARY","type":"NotFoundError","param":null,"code":404}"#,
        expected: Expected { error: Some("NotFoundError"), is_error: true, ..STREAMED },
    },
    Case {
        name: "a 429 of OpenAI",
        dialect: Dialect::OpenaiChat,
        request: ASKS,
        status: 429,
        content_type: JSON,
        body: r#"{"error":{"message":"CANARY","type":"insufficient_quota","param":null,"code":"rate_limit_exceeded"}}"#,
        expected: Expected { error: Some("insufficient_quota"), is_error: true, ..STREAMED },
    },
    Case {
        name: "an error with a code only",
        dialect: Dialect::OpenaiChat,
        request: ASKS,
        status: 404,
        content_type: JSON,
        body: r#"{"error":{"code":404,"message":"CANARY"}}"#,
        expected: Expected { error: Some("404"), is_error: true, ..STREAMED },
    },
    Case {
        name: "an error without an error object",
        dialect: Dialect::OpenaiChat,
        request: ASKS,
        status: 400,
        content_type: JSON,
        body: r#"{"object":"error","message":"CANARY","type":"BadRequestError","param":null,"code":400}"#,
        expected: Expected { error: Some("BadRequestError"), is_error: true, ..STREAMED },
    },
    Case {
        name: "TGI is overloaded",
        dialect: Dialect::OpenaiChat,
        request: ASKS,
        status: 429,
        content_type: JSON,
        body: r#"{"error":"CANARY","error_type":"overloaded"}"#,
        expected: Expected { error: Some("overloaded"), is_error: true, ..STREAMED },
    },
    Case {
        name: "a gateway's error page",
        dialect: Dialect::OpenaiChat,
        request: ASKS,
        status: 502,
        content_type: Some("text/html"),
        body: "<html>CANARY</html>",
        expected: Expected { is_error: true, finished: false, missed: 1, ..STREAMED },
    },
    Case {
        name: "legacy completions, streamed",
        dialect: Dialect::OpenaiCompletions,
        request: r#"{"model":"m","prompt":"CANARY","stream":true}"#,
        status: 200,
        content_type: SSE,
        body: r#"data: {"id":"cmpl-1","object":"text_completion","model":"m","choices":[{"text":"CANARY","index":0,"finish_reason":null}]}

data: {"id":"cmpl-1","object":"text_completion","model":"m","choices":[{"text":"","index":0,"finish_reason":null}]}

data: {"id":"cmpl-1","object":"text_completion","model":"m","choices":[{"text":"","index":0,"finish_reason":"length"}]}

data: {"id":"cmpl-1","object":"text_completion","model":"m","choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2,"total_tokens":5}}

data: [DONE]

"#,
        expected: Expected {
            response_model: Some("m"),
            id: Some("cmpl-1"),
            usage: [Some(3), Some(2), None, None, None],
            finish: Some("length"),
            outputs: &[VISIBLE, VISIBLE],
            ..STREAMED
        },
    },
    Case {
        name: "embeddings",
        dialect: Dialect::OpenaiEmbeddings,
        request: r#"{"model":"m","input":["CANARY","CANARY"]}"#,
        status: 200,
        content_type: JSON,
        body: r#"{"object":"list","data":[{"object":"embedding","index":0,"embedding":[0.1,-2e-3]},{"object":"embedding","index":1,"embedding":"CANARY=="}],"model":"e","usage":{"prompt_tokens":8,"total_tokens":8}}"#,
        expected: Expected { response_model: Some("e"), usage: [Some(8), None, None, None, None], ..PLAIN },
    },
    Case {
        name: "Anthropic stream: thinking, text, a tool, padding",
        dialect: Dialect::AnthropicMessages,
        request: ASKS,
        status: 200,
        content_type: SSE,
        body: r#"event: message_start
data: {"type":"message_start","message":{"id":"msg_1","type":"message","role":"assistant","model":"claude-x","content":[],"stop_reason":null,"usage":{"input_tokens":13,"cache_creation_input_tokens":100,"cache_read_input_tokens":2000,"output_tokens":2,"service_tier":"standard"}}   }

event: content_block_start
data: {"type":"content_block_start","index":0,"content_block":{"type":"thinking","thinking":"CANARY","signature":""}}

event: ping
data: {"type": "ping"}

event: content_block_delta
data: {"type":"content_block_delta","index":0,"delta":{"type":"thinking_delta","thinking":"CANARY"}      }

event: content_block_delta
data: {"type":"content_block_delta","index":0,"delta":{"type":"signature_delta","signature":"CANARY"}}

event: content_block_stop
data: {"type":"content_block_stop","index":0}

event: content_block_delta
data: {"type":"content_block_delta","index":1,"delta":{"type":"text_delta","text":"CANARY, twenty bytes."}}

event: content_block_delta
data: {"type":"content_block_delta","index":2,"delta":{"type":"input_json_delta","partial_json":""}}

event: content_block_delta
data: {"type":"content_block_delta","index":2,"delta":{"type":"input_json_delta","partial_json":"{\"a\":1}"}}

event: message_delta
data: {"type":"message_delta","delta":{"stop_reason":"tool_use","stop_sequence":null},"usage":{"input_tokens":13,"cache_creation_input_tokens":100,"cache_read_input_tokens":2000,"output_tokens":57,"output_tokens_details":{"thinking_tokens":40}}  }

event: message_stop
data: {"type":"message_stop"       }

"#,
        expected: Expected {
            response_model: Some("claude-x"),
            id: Some("msg_1"),
            usage: [Some(2113), Some(57), Some(2000), Some(100), Some(40)],
            finish: Some("tool_use"),
            // 6 bytes, then 21, then 7: running totals 1, 6 and 8.
            outputs: &[(1, false), (5, true), (2, true)],
            ..STREAMED
        },
    },
    Case {
        name: "an Anthropic stream cut before its counts",
        dialect: Dialect::AnthropicMessages,
        request: ASKS,
        status: 200,
        content_type: SSE,
        body: r#"event: message_start
data: {"type":"message_start","message":{"id":"msg_2","model":"claude-x","usage":{"input_tokens":13,"output_tokens":2}}}

event: content_block_delta
data: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"CANARY"}}

event: error
data: {"type":"error","error":{"type":"overloaded_error","message":"CANARY"}}

"#,
        expected: Expected {
            response_model: Some("claude-x"),
            id: Some("msg_2"),
            usage: [Some(13), None, None, None, None],
            error: Some("overloaded_error"),
            is_error: true,
            finished: false,
            outputs: &[VISIBLE],
            ..STREAMED
        },
    },
    Case {
        name: "Anthropic in one document",
        dialect: Dialect::AnthropicMessages,
        request: ASKS_PLAIN,
        status: 200,
        content_type: JSON,
        body: r#"{"id":"msg_3","type":"message","role":"assistant","model":"claude-x","content":[{"type":"text","text":"CANARY"}],"stop_reason":"end_turn","stop_sequence":null,"usage":{"input_tokens":5,"cache_read_input_tokens":null,"cache_creation":{"ephemeral_5m_input_tokens":7,"ephemeral_1h_input_tokens":3},"output_tokens":9}}"#,
        expected: Expected {
            response_model: Some("claude-x"),
            id: Some("msg_3"),
            usage: [Some(15), Some(9), None, Some(10), None],
            finish: Some("end_turn"),
            ..PLAIN
        },
    },
    Case {
        name: "an error of Anthropic",
        dialect: Dialect::AnthropicMessages,
        request: ASKS,
        status: 529,
        content_type: JSON,
        body: r#"{"type":"error","error":{"type":"overloaded_error","message":"CANARY"},"request_id":"req_1"}"#,
        expected: Expected { error: Some("overloaded_error"), is_error: true, ..STREAMED },
    },
    Case {
        name: "Ollama chat: thinking, text, a tool",
        dialect: Dialect::Ollama,
        request: ASKS_PLAIN,
        status: 200,
        content_type: Some("application/x-ndjson"),
        body: r#"{"model":"llama3.2","created_at":"2026-01-01T00:00:00Z","message":{"role":"assistant","content":"","thinking":"CANARY"},"done":false}
{"model":"llama3.2","message":{"role":"assistant","content":"CANARY"},"done":false}
{"model":"llama3.2","message":{"role":"assistant","content":"","tool_calls":[{"function":{"name":"CANARY"}}]},"done":false}
{"model":"llama3.2","message":{"role":"assistant","content":""},"done":true,"done_reason":"stop","total_duration":812000000,"prompt_eval_count":26,"eval_count":3}
"#,
        expected: Expected {
            response_model: Some("llama3.2"),
            usage: [Some(26), Some(3), None, None, None],
            finish: Some("stop"),
            outputs: &[REASONING, VISIBLE, VISIBLE],
            ..STREAMED
        },
    },
    Case {
        name: "Ollama generate, and an error in the stream",
        dialect: Dialect::Ollama,
        request: r#"{"model":"m","prompt":"CANARY"}"#,
        status: 200,
        content_type: Some("application/x-ndjson"),
        body: "{\"model\":\"o\",\"response\":\"CANARY\",\"done\":false}\n{\"error\":\"CANARY\"}\n",
        expected: Expected {
            response_model: Some("o"),
            error: Some("error"),
            is_error: true,
            finished: false,
            outputs: &[VISIBLE],
            ..STREAMED
        },
    },
    Case {
        name: "Ollama in one document",
        dialect: Dialect::Ollama,
        request: r#"{"model":"m","stream":false,"prompt":"CANARY"}"#,
        status: 200,
        content_type: JSON,
        body: r#"{"model":"o","response":"CANARY","done":true,"done_reason":"length","context":[1,2,3],"eval_count":9}"#,
        expected: Expected {
            response_model: Some("o"),
            usage: [None, Some(9), None, None, None],
            finish: Some("length"),
            ..PLAIN
        },
    },
    Case {
        name: "Ollama embed",
        dialect: Dialect::Ollama,
        request: r#"{"model":"m","input":"CANARY"}"#,
        status: 200,
        content_type: JSON,
        body: r#"{"model":"o","embeddings":[[0.1,0.2]],"total_duration":14143917,"load_duration":1019500,"prompt_eval_count":8}"#,
        expected: Expected { response_model: Some("o"), usage: [Some(8), None, None, None, None], ..PLAIN },
    },
    Case {
        name: "Ollama does not know the model",
        dialect: Dialect::Ollama,
        request: ASKS_PLAIN,
        status: 404,
        content_type: JSON,
        body: r#"{"error":"model 'CANARY' not found"}"#,
        expected: Expected { error: Some("error"), is_error: true, ..STREAMED },
    },
    Case {
        name: "Bedrock ConverseStream: reasoning, text, a tool, cached input",
        dialect: Dialect::BedrockConverse,
        request: CONVERSE,
        status: 200,
        content_type: EVENT_STREAM,
        body: r#"[messageStart] {"p":"abcdefghij","role":"assistant"}
[contentBlockDelta] {"contentBlockIndex":0,"delta":{"reasoningContent":{"text":"CANARY 1"}},"p":"abcd"}
[contentBlockDelta] {"contentBlockIndex":0,"delta":{"reasoningContent":{"signature":"CANARY"}},"p":"abcd"}
[contentBlockStop] {"contentBlockIndex":0,"p":"abcdef"}
[contentBlockDelta] {"contentBlockIndex":1,"delta":{"text":"CANARY of a text that is longer than any token"},"p":"ab"}
[contentBlockStart] {"contentBlockIndex":2,"start":{"toolUse":{"name":"CANARY","toolUseId":"t"}}}
[contentBlockDelta] {"contentBlockIndex":2,"delta":{"toolUse":{"input":""}}}
[contentBlockDelta] {"contentBlockIndex":2,"delta":{"toolUse":{"input":"{\"CANARY\":1}"}}}
[contentBlockStop] {"contentBlockIndex":2}
[messageStop] {"p":"abcdefghijklmnop","stopReason":"tool_use"}
[metadata] {"metrics":{"latencyMs":321},"p":"abc","usage":{"cacheReadInputTokens":100,"cacheWriteInputTokens":20,"inputTokens":9,"outputTokens":17,"totalTokens":146},"trace":{"promptRouter":{"invokedModelId":"anthropic.x-v1:0"}}}
"#,
        expected: Expected {
            model: None,
            response_model: Some("anthropic.x-v1:0"),
            usage: [Some(129), Some(17), Some(100), Some(20), None],
            finish: Some("tool_use"),
            outputs: &[(2, false), (11, true), (3, true)],
            ..STREAMED
        },
    },
    Case {
        name: "Bedrock ConverseStream that is throttled amid the stream",
        dialect: Dialect::BedrockConverse,
        request: CONVERSE,
        status: 200,
        content_type: EVENT_STREAM,
        body: r#"[messageStart] {"role":"assistant"}
[contentBlockDelta] {"contentBlockIndex":0,"delta":{"text":"CANARY"}}
![throttlingException] {"message":"CANARY"}
"#,
        expected: Expected {
            model: None,
            error: Some("ThrottlingException"),
            is_error: true,
            finished: false,
            outputs: &[VISIBLE],
            ..STREAMED
        },
    },
    Case {
        name: "Bedrock Converse",
        dialect: Dialect::BedrockConverse,
        request: CONVERSE,
        status: 200,
        content_type: JSON,
        body: r#"{"metrics":{"latencyMs":551},"output":{"message":{"content":[{"text":"CANARY"}],"role":"assistant"}},"stopReason":"end_turn","usage":{"inputTokens":30,"outputTokens":628,"totalTokens":658}}"#,
        expected: Expected {
            model: None,
            usage: [Some(30), Some(628), None, None, None],
            finish: Some("end_turn"),
            ..PLAIN
        },
    },
    Case {
        name: "Bedrock InvokeModelWithResponseStream of Anthropic",
        dialect: Dialect::BedrockInvoke,
        request: r#"{"anthropic_version":"bedrock-2023-05-31","max_tokens":9,"messages":[{"role":"user","content":"CANARY"}]}"#,
        status: 200,
        content_type: EVENT_STREAM,
        body: r#"[chunk] {"type":"message_start","message":{"id":"msg_bdrk_1","type":"message","role":"assistant","model":"claude-x","content":[],"stop_reason":null,"usage":{"input_tokens":13,"cache_creation_input_tokens":5,"cache_read_input_tokens":7,"output_tokens":2}}}
[chunk] {"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}
[chunk] {"type":"content_block_delta","index":0,"delta":{"type":"thinking_delta","thinking":"CANARY"}}
[chunk] {"type":"content_block_delta","index":1,"delta":{"type":"text_delta","text":"CANARY, at some length \u2026"}}
[chunk] {"type":"content_block_stop","index":1}
[chunk] {"type":"message_delta","delta":{"stop_reason":"end_turn","stop_sequence":null},"usage":{"output_tokens":11}}
[chunk] {"type":"message_stop","amazon-bedrock-invocationMetrics":{"inputTokenCount":13,"outputTokenCount":11,"invocationLatency":551,"firstByteLatency":401,"cacheReadInputTokenCount":7,"cacheWriteInputTokenCount":5}}
"#,
        expected: Expected {
            model: None,
            response_model: Some("claude-x"),
            id: Some("msg_bdrk_1"),
            usage: [Some(25), Some(11), Some(7), Some(5), None],
            finish: Some("end_turn"),
            outputs: &[(1, false), (7, true)],
            ..STREAMED
        },
    },
    Case {
        name: "Bedrock InvokeModelWithResponseStream of a model whose events are not known, and its end",
        dialect: Dialect::BedrockInvoke,
        request: r#"{"prompt":"CANARY"}"#,
        status: 200,
        content_type: EVENT_STREAM,
        body: r#"[chunk] {"words":"CANARY"}
[chunk] {"words":"","amazon-bedrock-invocationMetrics":{"inputTokenCount":4,"outputTokenCount":6,"invocationLatency":55,"firstByteLatency":40}}
"#,
        expected: Expected { model: None, usage: [Some(4), Some(6), None, None, None], ..STREAMED },
    },
    Case {
        name: "Bedrock InvokeModelWithResponseStream whose model failed",
        dialect: Dialect::BedrockInvoke,
        request: r#"{"prompt":"CANARY"}"#,
        status: 200,
        content_type: EVENT_STREAM,
        body: r#"![modelStreamErrorException] {"message":"CANARY","originalStatusCode":500,"originalMessage":"CANARY"}
"#,
        expected: Expected {
            model: None,
            error: Some("ModelStreamErrorException"),
            is_error: true,
            finished: false,
            ..STREAMED
        },
    },
    Case {
        name: "Bedrock InvokeModel of Anthropic",
        dialect: Dialect::BedrockInvoke,
        request: r#"{"anthropic_version":"bedrock-2023-05-31","max_tokens":9,"messages":[{"role":"user","content":"CANARY"}]}"#,
        status: 200,
        content_type: JSON,
        body: r#"{"model":"claude-x","id":"msg_bdrk_2","type":"message","role":"assistant","content":[{"type":"text","text":"CANARY"}],"stop_reason":"max_tokens","stop_sequence":null,"usage":{"input_tokens":13,"output_tokens":9}}"#,
        expected: Expected {
            model: None,
            response_model: Some("claude-x"),
            id: Some("msg_bdrk_2"),
            usage: [Some(13), Some(9), None, None, None],
            finish: Some("max_tokens"),
            ..PLAIN
        },
    },
    Case {
        name: "Bedrock does not let them",
        dialect: Dialect::BedrockConverse,
        request: CONVERSE,
        status: 403,
        content_type: JSON,
        body: r#"{"message":"CANARY"}"#,
        expected: Expected { model: None, is_error: true, ..PLAIN },
    },
    Case {
        name: "Gemini: thoughts, text and a call, as events",
        dialect: Dialect::GeminiGenerate,
        request: GENERATES,
        status: 200,
        content_type: SSE,
        body: r#"data: {"candidates":[{"content":{"parts":[{"text":"CANARY thinks","thought":true}],"role":"model"},"index":0}],"usageMetadata":{"promptTokenCount":40,"totalTokenCount":40,"promptTokensDetails":[{"modality":"TEXT","tokenCount":40}]},"modelVersion":"gemini-x","responseId":"r1"}

data: {"candidates":[{"content":{"parts":[{"text":"CANARY"},{"thoughtSignature":"CANARY"}],"role":"model"},"index":0}],"usageMetadata":{"promptTokenCount":40,"candidatesTokenCount":2,"thoughtsTokenCount":7,"totalTokenCount":49},"modelVersion":"gemini-x","responseId":"r1"}

data: {"candidates":[{"content":{"parts":[{"functionCall":{"name":"CANARY","args":{"thought":true}}}],"role":"model"},"finishReason":"STOP","index":0}],"usageMetadata":{"promptTokenCount":40,"toolUsePromptTokenCount":5,"cachedContentTokenCount":30,"candidatesTokenCount":6,"thoughtsTokenCount":7,"totalTokenCount":58},"modelVersion":"gemini-x","responseId":"r1"}

"#,
        expected: Expected {
            model: None,
            response_model: Some("gemini-x"),
            id: Some("r1"),
            usage: [Some(45), Some(13), Some(30), None, Some(7)],
            finish: Some("STOP"),
            outputs: &[(3, false), (1, true), (4, true)],
            ..STREAMED
        },
    },
    Case {
        name: "Gemini: an array, sent element by element",
        dialect: Dialect::GeminiGenerate,
        request: GENERATES,
        status: 200,
        content_type: JSON,
        body: r#"[{
  "candidates": [{"content": {"parts": [{"text": "CANARY ]},{[ \""}], "role": "model"}, "index": 0}],
  "usageMetadata": {"promptTokenCount": 4, "candidatesTokenCount": 1, "totalTokenCount": 5},
  "modelVersion": "gemini-x", "responseId": "r1"
}
,
{
  "candidates": [{"content": {"parts": [{"text": "CANARY"}], "role": "model"}, "finishReason": "MAX_TOKENS", "index": 0}],
  "usageMetadata": {"promptTokenCount": 4, "candidatesTokenCount": 9, "thoughtsTokenCount": 3, "totalTokenCount": 13},
  "modelVersion": "gemini-x", "responseId": "r1"
}
]"#,
        expected: Expected {
            model: None,
            response_model: Some("gemini-x"),
            id: Some("r1"),
            // The total says that the thoughts are inside.
            usage: [Some(4), Some(9), None, None, Some(3)],
            finish: Some("MAX_TOKENS"),
            outputs: &[(1, true), (8, true)],
            ..STREAMED
        },
    },
    Case {
        name: "Gemini: an error where an array was asked for",
        dialect: Dialect::GeminiGenerate,
        request: GENERATES,
        status: 429,
        content_type: JSON,
        body: r#"[{"error":{"code":429,"message":"CANARY","status":"RESOURCE_EXHAUSTED","details":[{"@type":"x","retryDelay":"3s"}]}}]"#,
        expected: Expected { model: None, error: Some("RESOURCE_EXHAUSTED"), is_error: true, ..STREAMED },
    },
    Case {
        name: "Gemini: a prompt that is refused",
        dialect: Dialect::GeminiGenerate,
        request: GENERATES,
        status: 200,
        content_type: JSON,
        body: r#"{"promptFeedback":{"blockReason":"SAFETY"},"usageMetadata":{"promptTokenCount":8,"totalTokenCount":8},"modelVersion":"gemini-x"}"#,
        expected: Expected {
            model: None,
            response_model: Some("gemini-x"),
            usage: [Some(8), None, None, None, None],
            finish: Some("SAFETY"),
            ..PLAIN
        },
    },
    Case {
        name: "Cohere: a plan, a call and text",
        dialect: Dialect::CohereChat,
        request: ASKS,
        status: 200,
        content_type: SSE,
        body: r#"event: message-start
data: {"id":"c-1","type":"message-start","delta":{"message":{"role":"assistant","content":[],"tool_plan":"","tool_calls":[],"citations":[]}}}

event: tool-plan-delta
data: {"type":"tool-plan-delta","delta":{"message":{"tool_plan":"CANARY"}}}

event: tool-call-start
data: {"type":"tool-call-start","index":0,"delta":{"message":{"tool_calls":{"id":"x","type":"function","function":{"name":"CANARY","arguments":""}}}}}

event: content-start
data: {"type":"content-start","index":0,"delta":{"message":{"content":{"type":"text","text":""}}}}

event: content-delta
data: {"type":"content-delta","index":0,"delta":{"message":{"content":{"text":"CANARY"}}}}

event: content-end
data: {"type":"content-end","index":0}

event: message-end
data: {"type":"message-end","delta":{"finish_reason":"COMPLETE","usage":{"billed_units":{"input_tokens":3,"output_tokens":4},"tokens":{"input_tokens":71.0,"output_tokens":9},"cached_tokens":64}}}

data: [DONE]

"#,
        expected: Expected {
            id: Some("c-1"),
            usage: [Some(71), Some(9), Some(64), None, None],
            finish: Some("COMPLETE"),
            outputs: &[VISIBLE, VISIBLE, VISIBLE],
            ..STREAMED
        },
    },
    Case {
        name: "Cohere: vectors",
        dialect: Dialect::CohereChat,
        request: ASKS_PLAIN,
        status: 200,
        content_type: JSON,
        body: r#"{"id":"e-1","embeddings":{"float":[[0.1,0.2]]},"texts":["CANARY"],"meta":{"api_version":{"version":"2"},"billed_units":{"input_tokens":5}}}"#,
        expected: Expected { id: Some("e-1"), usage: [Some(5), None, None, None, None], ..PLAIN },
    },
    Case {
        name: "A ranking by vLLM",
        dialect: Dialect::CohereChat,
        request: r#"{"model":"m","query":"CANARY","documents":["CANARY"]}"#,
        status: 200,
        content_type: JSON,
        body: r#"{"id":"rerank-1","model":"bge","usage":{"prompt_tokens":9,"total_tokens":9},"results":[{"index":0,"document":{"text":"CANARY"},"relevance_score":0.5}]}"#,
        expected: Expected {
            id: Some("rerank-1"),
            response_model: Some("bge"),
            usage: [Some(9), None, None, None, None],
            ..PLAIN
        },
    },
    Case {
        name: "Cohere: an error has a text only",
        dialect: Dialect::CohereChat,
        request: ASKS_PLAIN,
        status: 401,
        content_type: JSON,
        body: r#"{"id":"x","message":"CANARY"}"#,
        expected: Expected { id: Some("x"), is_error: true, ..PLAIN },
    },
    Case {
        name: "Gemini: an error amid a stream, without a field's name",
        dialect: Dialect::GeminiGenerate,
        request: GENERATES,
        status: 200,
        content_type: SSE,
        body: "data: {\"candidates\":[{\"content\":{\"parts\":[{\"text\":\"CANARY\"}]}}]}\n\n{\n  \"error\": {\n    \"code\": 429,\n    \"message\": \"CANARY\",\n    \"status\": \"RESOURCE_EXHAUSTED\"\n  }\n}\n",
        expected: Expected {
            model: None,
            error: Some("RESOURCE_EXHAUSTED"),
            is_error: true,
            finished: false,
            outputs: &[VISIBLE],
            ..STREAMED
        },
    },
    Case {
        name: "Gemini interaction: a thought, text and a call, as events",
        dialect: Dialect::GeminiInteractions,
        request: ASKS_INPUT,
        status: 200,
        content_type: SSE,
        body: r#"event: interaction.created
data: {"event_type":"interaction.created","interaction":{"id":"int_1","status":"in_progress","model":"gemini-x","steps":[{"type":"text","text":"CANARY"}]}}

data: {"event_type":"step.start","index":0,"step":{"type":"thought"}}

data: {"event_type":"step.delta","index":0,"delta":{"type":"thought_summary","content":{"type":"text","text":"CANARY"}}}

data: {"event_type":"step.delta","index":0,"delta":{"type":"thought_signature","signature":"CANARY"}}

data: {"event_type":"step.delta","index":1,"delta":{"type":"text","text":"CANARY of a text"}}

data: {"event_type":"step.delta","index":2,"delta":{"type":"arguments_delta","arguments":"{\"CANARY\":1}"}}

data: {"event_type":"interaction.completed","interaction":{"id":"int_1","status":"requires_action","model":"gemini-x","usage":{"total_input_tokens":40,"total_tool_use_tokens":2,"total_cached_tokens":5,"total_output_tokens":9,"total_thought_tokens":7,"total_tokens":58}}}

"#,
        expected: Expected {
            response_model: Some("gemini-x"),
            id: Some("int_1"),
            usage: [Some(42), Some(16), Some(5), None, Some(7)],
            finish: Some("requires_action"),
            outputs: &[REASONING, (3, true), (3, true)],
            ..STREAMED
        },
    },
    Case {
        name: "Gemini interaction in one document",
        dialect: Dialect::GeminiInteractions,
        request: r#"{"model":"m","input":"CANARY"}"#,
        status: 200,
        content_type: JSON,
        body: r#"{"id":"int_2","status":"completed","model":"gemini-x","steps":[{"type":"text","text":"CANARY"}],"usage":{"total_input_tokens":4,"total_output_tokens":2,"total_tokens":6}}"#,
        expected: Expected {
            response_model: Some("gemini-x"),
            id: Some("int_2"),
            usage: [Some(4), Some(2), None, None, None],
            finish: Some("completed"),
            ..PLAIN
        },
    },
    Case {
        name: "Gemini interaction that fails amid its stream",
        dialect: Dialect::GeminiInteractions,
        request: ASKS_INPUT,
        status: 200,
        content_type: SSE,
        body: "data: {\"event_type\":\"error\",\"error\":{\"code\":\"resource_exhausted\",\"message\":\"CANARY\"}}\n\n",
        expected: Expected { error: Some("resource_exhausted"), is_error: true, finished: false, ..STREAMED },
    },
    Case {
        name: "Images: one that appears bit by bit",
        dialect: Dialect::OpenaiImages,
        request: r#"{"model":"m","prompt":"CANARY","stream":true,"partial_images":1}"#,
        status: 200,
        content_type: SSE,
        body: r#"event: image_generation.partial_image
data: {"type":"image_generation.partial_image","b64_json":"CANARY","partial_image_index":0}

event: image_generation.completed
data: {"type":"image_generation.completed","b64_json":"CANARY","usage":{"total_tokens":100,"input_tokens":50,"output_tokens":50,"input_tokens_details":{"text_tokens":10,"image_tokens":40}}}

"#,
        expected: Expected { usage: [Some(50), Some(50), None, None, None], ..STREAMED },
    },
    Case {
        name: "Images in one document",
        dialect: Dialect::OpenaiImages,
        request: r#"{"model":"m","prompt":"CANARY"}"#,
        status: 200,
        content_type: JSON,
        body: r#"{"created":1,"data":[{"b64_json":"CANARY"}],"usage":{"input_tokens":8,"output_tokens":272,"total_tokens":280}}"#,
        expected: Expected { usage: [Some(8), Some(272), None, None, None], ..PLAIN },
    },
    Case {
        name: "A transcript, as events",
        dialect: Dialect::OpenaiAudio,
        request: r#"{"model":"m"}"#,
        status: 200,
        content_type: SSE,
        body: r#"data: {"type":"transcript.text.delta","delta":"CANARY"}

data: {"type":"transcript.text.delta","delta":" CANARY"}

data: {"type":"transcript.text.done","text":"CANARY CANARY","usage":{"type":"tokens","input_tokens":14,"input_token_details":{"text_tokens":0,"audio_tokens":14},"output_tokens":45,"total_tokens":59}}

"#,
        expected: Expected { usage: [Some(14), Some(45), None, None, None], outputs: &[VISIBLE, VISIBLE], ..STREAMED },
    },
    Case {
        name: "A transcript that is billed by the second",
        dialect: Dialect::OpenaiAudio,
        request: r#"{"model":"m"}"#,
        status: 200,
        content_type: JSON,
        body: r#"{"text":"CANARY","usage":{"type":"duration","seconds":7}}"#,
        expected: PLAIN,
    },
    Case {
        name: "Speech",
        dialect: Dialect::OpenaiAudio,
        request: r#"{"model":"m","input":"CANARY","voice":"v"}"#,
        status: 200,
        content_type: Some("audio/mpeg"),
        body: "\u{1}ID3 CANARY",
        expected: Expected { finished: false, ..PLAIN },
    },
    Case {
        name: "Mistral conversation: text and a call, as events",
        dialect: Dialect::MistralConversations,
        request: r#"{"model":"m","inputs":"CANARY","stream":true}"#,
        status: 200,
        content_type: SSE,
        body: r#"event: conversation.response.started
data: {"type":"conversation.response.started","conversation_id":"conv_1"}

event: message.output.delta
data: {"type":"message.output.delta","id":"msg_1","output_index":0,"content_index":0,"model":"mistral-x","role":"assistant","content":"CANARY"}

event: function.call.delta
data: {"type":"function.call.delta","id":"fc_1","name":"CANARY","tool_call_id":"t","arguments":"{\"CANARY\":1}"}

event: conversation.response.done
data: {"type":"conversation.response.done","usage":{"prompt_tokens":20,"completion_tokens":5,"total_tokens":31,"connector_tokens":6}}

"#,
        expected: Expected {
            response_model: Some("mistral-x"),
            id: Some("conv_1"),
            usage: [Some(26), Some(5), None, None, None],
            outputs: &[VISIBLE, VISIBLE],
            ..STREAMED
        },
    },
    Case {
        name: "Mistral conversation that fails amid its stream",
        dialect: Dialect::MistralConversations,
        request: r#"{"model":"m","inputs":"CANARY","stream":true}"#,
        status: 200,
        content_type: SSE,
        body: "data: {\"type\":\"conversation.response.error\",\"message\":\"CANARY\",\"code\":500}\n\n",
        expected: Expected { is_error: true, finished: false, ..STREAMED },
    },
    Case {
        name: "TGI stream with details",
        dialect: Dialect::Tgi,
        request: r#"{"model":"m","inputs":"CANARY","parameters":{"details":true},"stream":true}"#,
        status: 200,
        content_type: SSE,
        body: r#"data: {"index":1,"token":{"id":1,"text":"CANARY","logprob":-0.1,"special":false},"generated_text":null,"details":null}

data: {"index":2,"token":{"id":2,"text":"","logprob":-0.1,"special":false},"generated_text":null,"details":null}

data: {"index":3,"token":{"id":3,"text":"</s>","logprob":-0.1,"special":true},"generated_text":"CANARY","details":{"finish_reason":"eos_token","generated_tokens":3,"input_length":11,"seed":null}}

"#,
        expected: Expected {
            usage: [Some(11), Some(3), None, None, None],
            finish: Some("eos_token"),
            outputs: &[VISIBLE, VISIBLE, VISIBLE],
            ..STREAMED
        },
    },
    Case {
        name: "TGI in one document, in an array",
        dialect: Dialect::Tgi,
        request: r#"{"model":"m","inputs":"CANARY"}"#,
        status: 200,
        content_type: JSON,
        body: r#"[{"generated_text":"CANARY","details":{"finish_reason":"length","generated_tokens":20,"seed":1}}]"#,
        expected: Expected { usage: [None, Some(20), None, None, None], finish: Some("length"), ..PLAIN },
    },
    Case {
        name: "TGI has too much to do",
        dialect: Dialect::Tgi,
        request: r#"{"model":"m","inputs":"CANARY","stream":true}"#,
        status: 429,
        content_type: JSON,
        body: r#"{"error":"CANARY","error_type":"overloaded"}"#,
        expected: Expected { error: Some("overloaded"), is_error: true, ..STREAMED },
    },
    Case {
        name: "SGLang stream: all the text so far, and running counts",
        dialect: Dialect::Sglang,
        request: r#"{"model":"m","text":"CANARY","sampling_params":{"max_new_tokens":4},"stream":true}"#,
        status: 200,
        content_type: SSE,
        body: r#"data: {"text":"CANARY","meta_info":{"id":"r1","finish_reason":null,"prompt_tokens":6,"completion_tokens":1,"cached_tokens":2}}

data: {"text":"CANARY CANARY","meta_info":{"id":"r1","finish_reason":null,"prompt_tokens":6,"completion_tokens":3,"cached_tokens":2}}

data: {"text":"CANARY CANARY C","meta_info":{"id":"r1","finish_reason":{"type":"length","length":4},"prompt_tokens":6,"completion_tokens":4,"cached_tokens":2,"e2e_latency":0.1}}

data: [DONE]

"#,
        expected: Expected {
            id: Some("r1"),
            usage: [Some(6), Some(4), Some(2), None, None],
            finish: Some("length"),
            outputs: &[VISIBLE, (2, true), VISIBLE],
            ..STREAMED
        },
    },
    Case {
        name: "SGLang: several prompts, in one document",
        dialect: Dialect::Sglang,
        request: r#"{"model":"m","text":["CANARY 1","CANARY 2"],"sampling_params":{}}"#,
        status: 200,
        content_type: JSON,
        body: r#"[{"text":"CANARY","meta_info":{"id":"r1","finish_reason":{"type":"stop"},"prompt_tokens":6,"completion_tokens":4,"cached_tokens":2}},{"text":"CANARY","meta_info":{"id":"r1","finish_reason":{"type":"stop"},"prompt_tokens":7,"completion_tokens":9,"cached_tokens":0}}]"#,
        expected: Expected {
            id: Some("r1"),
            usage: [Some(13), Some(13), Some(2), None, None],
            finish: Some("stop"),
            ..PLAIN
        },
    },
    Case {
        name: "SGLang: several prompts, as events",
        dialect: Dialect::Sglang,
        request: r#"{"model":"m","text":["CANARY 1","CANARY 2"],"sampling_params":{},"stream":true}"#,
        status: 200,
        content_type: SSE,
        body: r#"data: {"text":"CANARY","index":0,"meta_info":{"id":"r1","finish_reason":null,"prompt_tokens":6,"completion_tokens":1}}

data: {"text":"CANARY","index":1,"meta_info":{"id":"r1","finish_reason":{"type":"stop"},"prompt_tokens":7,"completion_tokens":1}}

data: {"text":"CANARY CANARY","index":0,"meta_info":{"id":"r1","finish_reason":{"type":"stop"},"prompt_tokens":6,"completion_tokens":2}}

data: [DONE]

"#,
        expected: Expected { id: Some("r1"), finish: Some("stop"), outputs: &[VISIBLE, VISIBLE, VISIBLE], ..STREAMED },
    },
    Case {
        name: "llama.cpp stream with timings",
        dialect: Dialect::LlamaCpp,
        request: r#"{"model":"m","prompt":"CANARY","n_predict":2,"stream":true}"#,
        status: 200,
        content_type: SSE,
        body: r#"data: {"index":0,"content":"","tokens":[],"stop":false,"id_slot":-1,"tokens_predicted":0,"tokens_evaluated":9,"prompt_progress":{"total":9,"cache":0,"processed":9,"time_ms":1}}

data: {"index":0,"content":"CANARY","tokens":[5],"stop":false,"id_slot":0,"tokens_predicted":1,"tokens_evaluated":9}

data: {"index":0,"content":" CANARY","tokens":[6],"stop":false,"id_slot":0,"tokens_predicted":2,"tokens_evaluated":9}

data: {"index":0,"content":"","tokens":[],"id_slot":0,"stop":true,"model":"llama-x","tokens_predicted":2,"tokens_evaluated":9,"generation_settings":{"n_predict":2,"grammar":"CANARY"},"prompt":"<s> CANARY","has_new_line":false,"truncated":false,"stop_type":"limit","stopping_word":"","tokens_cached":10,"timings":{"cache_n":4,"prompt_n":5,"prompt_ms":1.5,"predicted_n":2,"predicted_ms":9.5}}

"#,
        expected: Expected {
            response_model: Some("llama-x"),
            usage: [Some(9), Some(2), Some(4), None, None],
            finish: Some("limit"),
            outputs: &[VISIBLE, VISIBLE],
            ..STREAMED
        },
    },
    Case {
        name: "llama.cpp in one document",
        dialect: Dialect::LlamaCpp,
        request: r#"{"model":"m","prompt":"CANARY"}"#,
        status: 200,
        content_type: JSON,
        body: r#"{"index":0,"content":"CANARY","stop":true,"model":"llama-x","tokens_predicted":7,"tokens_evaluated":9,"prompt":"CANARY","stop_type":"eos","tokens_cached":16,"timings":{"cache_n":0,"prompt_n":9,"predicted_n":7}}"#,
        expected: Expected {
            response_model: Some("llama-x"),
            usage: [Some(9), Some(7), Some(0), None, None],
            finish: Some("eos"),
            ..PLAIN
        },
    },
    Case {
        name: "llama.cpp: a prompt that does not fit, told in the stream",
        dialect: Dialect::LlamaCpp,
        request: r#"{"model":"m","prompt":"CANARY","stream":true}"#,
        status: 200,
        content_type: SSE,
        body: "data: {\"error\":{\"code\":400,\"message\":\"CANARY\",\"type\":\"exceed_context_size_error\"}}\n\n",
        expected: Expected { error: Some("exceed_context_size_error"), is_error: true, finished: false, ..STREAMED },
    },
    Case {
        name: "LM Studio: a model that is loaded first, as events",
        dialect: Dialect::LmStudio,
        request: ASKS_INPUT,
        status: 200,
        content_type: SSE,
        body: r#"event: chat.start
data: {"type":"chat.start","model_instance_id":"lm-x"}

event: model_load.progress
data: {"type":"model_load.progress","model_instance_id":"lm-x","progress":0.5}

event: reasoning.delta
data: {"type":"reasoning.delta","content":"CANARY"}

event: message.delta
data: {"type":"message.delta","content":"CANARY"}

event: chat.end
data: {"type":"chat.end","result":{"model_instance_id":"lm-x","output":[{"type":"message","content":"CANARY"}],"stats":{"input_tokens":12,"total_output_tokens":2,"reasoning_output_tokens":1,"tokens_per_second":40.5},"response_id":"resp_9"}}

"#,
        expected: Expected {
            response_model: Some("lm-x"),
            id: Some("resp_9"),
            usage: [Some(12), Some(2), None, None, Some(1)],
            outputs: &[REASONING, VISIBLE],
            ..STREAMED
        },
    },
    Case {
        name: "LM Studio in one document",
        dialect: Dialect::LmStudio,
        request: r#"{"model":"m","input":"CANARY"}"#,
        status: 200,
        content_type: JSON,
        body: r#"{"model_instance_id":"lm-x","output":[{"type":"message","content":"CANARY"}],"stats":{"input_tokens":12,"total_output_tokens":2,"reasoning_output_tokens":0},"response_id":"resp_8"}"#,
        expected: Expected {
            response_model: Some("lm-x"),
            id: Some("resp_8"),
            usage: [Some(12), Some(2), None, None, Some(0)],
            ..PLAIN
        },
    },
    Case {
        name: "Triton's generate, as events",
        dialect: Dialect::Triton,
        request: r#"{"text_input":"CANARY","parameters":{"stream":true}}"#,
        status: 200,
        content_type: SSE,
        body: "data: {\"model_name\":\"t\",\"model_version\":\"1\",\"text_output\":\"CANARY\"}\n\ndata: {\"model_name\":\"t\",\"model_version\":\"1\",\"text_output\":\"CANARY\"}\n\n",
        expected: Expected {
            model: None,
            response_model: Some("t"),
            finished: false,
            outputs: &[VISIBLE, VISIBLE],
            ..STREAMED
        },
    },
    Case {
        name: "Triton's generate fails behind its head",
        dialect: Dialect::Triton,
        request: r#"{"text_input":"CANARY"}"#,
        status: 200,
        content_type: SSE,
        body: "data: {\"error\":\"CANARY\"}\n\n",
        expected: Expected { model: None, error: Some("error"), is_error: true, finished: false, ..STREAMED },
    },
    Case {
        name: "KServe's infer in tensors",
        dialect: Dialect::Triton,
        request: r#"{"inputs":[{"name":"x","shape":[1],"datatype":"FP32","data":[1.0]}]}"#,
        status: 200,
        content_type: Some("application/octet-stream"),
        body: "\u{1}CANARY",
        expected: Expected { model: None, finished: false, ..PLAIN },
    },
    Case {
        name: "Groq says for how long a request has waited",
        dialect: Dialect::OpenaiChat,
        request: ASKS_PLAIN,
        status: 200,
        content_type: JSON,
        body: r#"{"id":"g","model":"l","choices":[{"message":{"content":"CANARY"},"finish_reason":"stop"}],"usage":{"queue_time":0.25,"prompt_tokens":11,"completion_tokens":2,"total_tokens":13},"x_groq":{"id":"req_1"}}"#,
        expected: Expected {
            response_model: Some("l"),
            id: Some("g"),
            usage: [Some(11), Some(2), None, None, None],
            finish: Some("stop"),
            provider: Some("groq"),
            ..PLAIN
        },
    },
    Case {
        name: "Groq says in the type which limit is reached",
        dialect: Dialect::OpenaiChat,
        request: ASKS_PLAIN,
        status: 429,
        content_type: JSON,
        body: r#"{"error":{"message":"CANARY","type":"tokens","code":"rate_limit_exceeded"}}"#,
        expected: Expected { is_error: true, error: Some("rate_limit_exceeded"), ..PLAIN },
    },
    Case {
        name: "MCP: a tool that tells how far it is, as events",
        dialect: Dialect::Mcp,
        request: CALLS_TOOL,
        status: 200,
        content_type: SSE,
        body: r#"event: message
data: {"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":1,"progress":0.5,"message":"CANARY"}}

event: message
data: {"jsonrpc":"2.0","id":1,"result":{"content":[{"type":"text","text":"CANARY"}],"isError":false}}

"#,
        expected: Expected { model: None, finished: false, ..STREAMED },
    },
    Case {
        name: "MCP: a tool that fails",
        dialect: Dialect::Mcp,
        request: CALLS_TOOL,
        status: 200,
        content_type: JSON,
        body: r#"{"jsonrpc":"2.0","id":1,"result":{"content":[{"type":"text","text":"CANARY"}],"isError":true}}"#,
        expected: Expected { model: None, error: Some("tool_error"), is_error: true, ..PLAIN },
    },
    Case {
        name: "MCP: no such tool",
        dialect: Dialect::Mcp,
        request: CALLS_TOOL,
        status: 200,
        content_type: JSON,
        body: r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32602,"message":"CANARY"}}"#,
        expected: Expected { model: None, error: Some("-32602"), is_error: true, ..PLAIN },
    },
    Case {
        name: "MCP: a server introduces itself",
        dialect: Dialect::Mcp,
        request: r#"{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-11-25","clientInfo":{"name":"CANARY","version":"1"}}}"#,
        status: 200,
        content_type: JSON,
        body: r#"{"jsonrpc":"2.0","id":0,"result":{"protocolVersion":"2025-11-25","serverInfo":{"name":"weather","version":"1"},"instructions":"CANARY"}}"#,
        expected: Expected { model: None, response_model: Some("weather"), ..PLAIN },
    },
    Case {
        name: "Mistral reasons in parts of the content",
        dialect: Dialect::OpenaiChat,
        request: ASKS,
        status: 200,
        content_type: SSE,
        body: r#"data: {"id":"m","model":"l","choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}]}

data: {"id":"m","model":"l","choices":[{"index":0,"delta":{"content":[{"type":"thinking","thinking":[{"type":"text","text":"CANARY"}]}]},"finish_reason":null}]}

data: {"id":"m","model":"l","choices":[{"index":0,"delta":{"content":[{"type":"text","text":"CANARY"}]},"finish_reason":null}]}

data: {"id":"m","model":"l","choices":[{"index":0,"delta":{"content":"CANARY"},"finish_reason":"stop"}],"usage":{"prompt_tokens":11,"total_tokens":14,"completion_tokens":3,"prompt_tokens_details":{"cached_tokens":4}}}

data: [DONE]

"#,
        expected: Expected {
            response_model: Some("l"),
            id: Some("m"),
            usage: [Some(11), Some(3), Some(4), None, None],
            finish: Some("stop"),
            outputs: &[REASONING, VISIBLE, VISIBLE],
            ..STREAMED
        },
    },
];

/// gRPC's messages as xAI's SDK writes them (protobuf for Python): a request, a streamed answer and one that is not.
pub(super) const XAI_REQUEST: &str = "00000000210a130a0f0a0d43414e4152592070726f6d70741001120667726f6b2d7838324001";
pub(super) const XAI_CHUNKS: [&str; 5] = [
    // A role; reasoning with counts; two choices; a tool's call; the end with counts.
    "00000000230a03722d3112040a0210021a060880f7c4d506220867726f6b2d782d312a0466705f31",
    "000000003b0a03722d3112100a0e220c43414e415259207468696e6b1a060880f7c4d506220867726f6b2d782d312a0466705f31320a1009180b200930023804",
    "00000000370a03722d31120a0a080a0643414e415259120c0a080a0643414e41525920011a060880f7c4d506220867726f6b2d782d312a0466705f31",
    "000000003e0a03722d31121f0a1d1a1b0a016352160a0643414e415259120c7b2243414e415259223a317d1a060880f7c4d506220867726f6b2d782d312a0466705f31",
    "00000000330a03722d31120218031a060880f7c4d506220867726f6b2d782d312a0466705f31321008051009181020093002380458c0c407",
];
pub(super) const XAI_WHOLE: &str = "00000000360a03722d32121508011a110a0d43414e41525920616e7377657210022a060880f7c4d506320867726f6b2d782d314a060807100c1813";

pub(super) fn from_hex(hex: &str) -> Vec<u8> {
    let digit = |digit: u8| char::from(digit).to_digit(16).expect("a hexadecimal digit") as u8;
    hex.as_bytes().chunks(2).map(|pair| digit(pair[0]) << 4 | digit(pair[1])).collect()
}
