//! Which requests are model calls, and what headers tell.

use super::super::*;
use crate::exchange::{Api, RateLimit};
use crate::http1::{RequestHead, ResponseHead};
use crate::time::Nanos;

fn judged(head: &str, port: Option<u16>, body: &str, complete: bool) -> Judgement {
    let text = format!("{}\r\n\r\n", head.trim().replace('\n', "\r\n"));
    let (head, _) = RequestHead::parse(text.as_bytes()).unwrap().unwrap();
    judge(&head, port, body.as_bytes(), if complete { Extent::Whole } else { Extent::Beginning })
}

/// Dialect, API, provider, model and whether the kernel knows the path; or what else.
fn summary(judgement: &Judgement) -> String {
    let said = |call: &Recognised| {
        let model = call.model.as_ref().map_or("-", Label::as_str);
        let known = if call.known_target { "known" } else { "new" };
        format!("{:?} {:?} {} {model} {known}", call.dialect, call.api, call.provider)
    };
    match judgement {
        Judgement::ModelCall(call) => said(call),
        Judgement::ModelSocket(call) => format!("socket {}", said(call)),
        Judgement::NotModel => "no".to_owned(),
        Judgement::NeedBody => "more".to_owned(),
    }
}

#[test]
fn judgements() {
    let long = format!(r#"{{"messages":[{{"role":"user","content":"{}"#, "x".repeat(1100));
    let vercel = format!(r#"{{"id":"1","messages":[{{"role":"user","content":"{}"#, "x".repeat(1100));
    // Head, body, whether it is complete, verdict.
    let cases: &[(&str, &str, bool, &str)] = &[
        // The path alone.
        ("POST /v1/chat/completions HTTP/1.1\nHost: api.openai.com", "", false, "OpenaiChat Chat openai - known"),
        (
            "POST /litellm/v1/chat/completions?key=CANARY HTTP/1.1\nHost: localhost:4000",
            "",
            false,
            "OpenaiChat Chat unknown - known",
        ),
        (
            "POST http://api.groq.com/openai/v1/chat/completions HTTP/1.1\nHost: api.groq.com",
            "",
            false,
            "OpenaiChat Chat groq - known",
        ),
        ("POST /chat/completions/ HTTP/1.1\nHost: API.DeepSeek.com:443", "", false, "OpenaiChat Chat deepseek - new"),
        (
            "POST /v1/completions HTTP/1.1\nHost: [::1]:8000",
            "",
            false,
            "OpenaiCompletions TextCompletion unknown - known",
        ),
        ("POST /v1/embeddings HTTP/1.1\nHost: x", "", false, "OpenaiEmbeddings Embeddings unknown - known"),
        (
            "POST /openai/deployments/my-gpt/chat/completions?api-version=2026-01-01 HTTP/1.1\nHost: r.openai.azure.com",
            "",
            false,
            "OpenaiChat Chat azure.ai.openai my-gpt known",
        ),
        (
            "POST /openai/deployments/e/embeddings HTTP/1.1\nHost: r.services.ai.azure.com",
            "",
            false,
            "OpenaiEmbeddings Embeddings azure.ai.openai e known",
        ),
        (
            "POST /v1/messages HTTP/1.1\nHost: api.anthropic.com\nanthropic-version: 2026-10-21",
            "",
            false,
            "AnthropicMessages Messages anthropic - known",
        ),
        // A path that names the model.
        (
            "POST /model/us.anthropic.claude-x-v1%3A0/converse-stream HTTP/1.1\nHost: bedrock-runtime.us-east-1.amazonaws.com",
            "",
            false,
            "BedrockConverse Chat aws.bedrock us.anthropic.claude-x-v1:0 known",
        ),
        (
            "POST /model/amazon.nova-v1:0/converse HTTP/1.1\nHost: localhost",
            "",
            false,
            "BedrockConverse Chat aws.bedrock amazon.nova-v1:0 known",
        ),
        (
            "POST /bedrock/model/arn%3Aaws%3Abedrock%3Aus-east-1%3A1%3Ainference-profile%2Fx/invoke HTTP/1.1\nHost: x",
            "",
            false,
            "BedrockInvoke Chat aws.bedrock arn:aws:bedrock:us-east-1:1:inference-profile/x known",
        ),
        (
            "POST /model/arn:aws:bedrock:us-east-1:1:inference-profile/anthropic.x/invoke-with-response-stream HTTP/1.1\nHost: x",
            "",
            false,
            "BedrockInvoke Messages aws.bedrock arn:aws:bedrock:us-east-1:1:inference-profile/anthropic.x known",
        ),
        (
            "POST /model/amazon.titan-embed-text-v2%3A0/invoke HTTP/1.1\nHost: x",
            "",
            false,
            "BedrockInvoke Embeddings aws.bedrock amazon.titan-embed-text-v2:0 known",
        ),
        (
            "POST /v1beta/models/gemini-x:streamGenerateContent?alt=sse HTTP/1.1\nHost: generativelanguage.googleapis.com",
            "",
            false,
            "GeminiGenerate GenerateContent gcp.gemini gemini-x known",
        ),
        (
            "POST /v1beta1/projects/p/locations/l/publishers/google/models/gemini-x:generateContent HTTP/1.1\nHost: us-central1-aiplatform.googleapis.com",
            "",
            false,
            "GeminiGenerate GenerateContent gcp.vertex_ai gemini-x known",
        ),
        (
            "POST /v1beta/tunedModels/my-x:generateContent HTTP/1.1\nHost: localhost:8000",
            "",
            false,
            "GeminiGenerate GenerateContent gcp.gemini my-x known",
        ),
        (
            "POST /v1/projects/p/locations/l/endpoints/123:generateContent HTTP/1.1\nHost: us-central1-aiplatform.googleapis.com",
            "",
            false,
            "GeminiGenerate GenerateContent gcp.vertex_ai 123 known",
        ),
        (
            "POST /v1/projects/p/locations/l/publishers/anthropic/models/claude-x@20260101:streamRawPredict HTTP/1.1\nHost: aiplatform.googleapis.com",
            "",
            false,
            "AnthropicMessages Messages gcp.vertex_ai claude-x@20260101 known",
        ),
        (
            "POST /v1/projects/p/locations/l/publishers/mistralai/models/mistral-x:rawPredict HTTP/1.1\nHost: aiplatform.googleapis.com",
            "",
            false,
            "OpenaiChat Chat gcp.vertex_ai mistral-x known",
        ),
        (
            "POST /v1/projects/p/locations/l/publishers/anthropic/models/count-tokens:rawPredict HTTP/1.1\nHost: aiplatform.googleapis.com",
            r#"{"model":"claude-x","messages":[]}"#,
            true,
            "no",
        ),
        (
            "POST /v1/projects/p/locations/l/publishers/own/models/x:rawPredict HTTP/1.1\nHost: aiplatform.googleapis.com",
            "{}",
            true,
            "no",
        ),
        (
            "POST /v1/models/gemini-x:generateContent HTTP/1.1\nHost: x",
            "",
            false,
            "GeminiGenerate GenerateContent gcp.gemini gemini-x known",
        ),
        (
            "POST /v1/publishers/google/models/gemini-x:generateContent HTTP/1.1\nHost: x",
            "",
            false,
            "GeminiGenerate GenerateContent gcp.gen_ai gemini-x known",
        ),
        (
            "POST /v1beta/models/embed-x:batchEmbedContents HTTP/1.1\nHost: x",
            "",
            false,
            "GeminiGenerate Embeddings gcp.gemini embed-x known",
        ),
        (
            "POST /v2/chat HTTP/1.1\nHost: api.cohere.com",
            r#"{"model":"command-x","messages":[]}"#,
            true,
            "CohereChat Chat cohere - known",
        ),
        (
            "POST /v2/rerank HTTP/1.1\nHost: localhost",
            r#"{"model":"rerank-x","query":"x"}"#,
            true,
            "CohereChat Rerank unknown - known",
        ),
        ("POST /v2/chat HTTP/1.1\nHost: localhost", r#"{"text":"x"}"#, true, "no"),
        ("POST /v1beta/models/gemini-x:countTokens HTTP/1.1\nHost: x", "{}", true, "no"),
        ("POST /v1beta/:generateContent HTTP/1.1\nHost: x", "{}", true, "no"),
        ("POST /model/100%/invoke HTTP/1.1\nHost: x", "", false, "BedrockInvoke Chat aws.bedrock 100% known"),
        // Others have such ends, too.
        ("POST /guardrail-checks/invoke HTTP/1.1\nHost: x", r#"{"source":"INPUT"}"#, true, "no"),
        ("POST /chain/invoke HTTP/1.1\nHost: x", r#"{"input":{"question":"x"}}"#, true, "no"),
        ("POST /model//invoke HTTP/1.1\nHost: x", "{}", true, "no"),
        ("POST /model/a/b/invoke HTTP/1.1\nHost: x", "{}", true, "no"),
        ("POST /model/x/count-tokens HTTP/1.1\nHost: x", r#"{"input":{"converse":{"messages":[]}}}"#, true, "no"),
        ("POST /async-invoke HTTP/1.1\nHost: x", r#"{"modelId":"m","modelInput":{}}"#, true, "no"),
        // The path and a model.
        ("POST /v1/messages HTTP/1.1\nHost: x", "", false, "more"),
        ("POST /v1/messages HTTP/1.1\nHost: x", r#"{"max_tokens":1,"#, false, "more"),
        (
            "POST /v1/messages HTTP/1.1\nHost: x",
            r#"{"max_tokens":1,"model":"m","#,
            false,
            "AnthropicMessages Messages unknown - known",
        ),
        ("POST /v1/messages HTTP/1.1\nHost: x", r#"{"to":"a","text":"b"}"#, true, "no"),
        ("POST /api/chat HTTP/1.1\nHost: localhost:11434", r#"{"model":"m""#, false, "Ollama Chat ollama - known"),
        ("POST /api/chat HTTP/1.1\nHost: localhost:11434", &long, false, "Ollama Chat ollama - known"),
        ("POST /api/chat HTTP/1.1\nHost: app.example", &vercel, false, "no"),
        ("POST /api/chat HTTP/1.1\nHost: app.example", r#"{"messages":[]}"#, true, "no"),
        (
            "POST /api/generate HTTP/1.1\nHost: x\nContent-Type: application/x-www-form-urlencoded",
            r#" {"model":"m","#,
            false,
            "Ollama TextCompletion ollama - known",
        ),
        ("POST /api/generate HTTP/1.1\nHost: x", "name=value&model=x", false, "no"),
        ("POST /api/embed HTTP/1.1\nHost: x", r#"{"model":"m","input":"#, false, "Ollama Embeddings ollama - known"),
        (
            "POST /api/embeddings HTTP/1.1\nHost: x",
            r#"{"model":"m","prompt":"#,
            false,
            "Ollama Embeddings ollama - known",
        ),
        (
            "POST /beta/completions HTTP/1.1\nHost: api.deepseek.com",
            r#"{"model":"m","#,
            false,
            "OpenaiCompletions TextCompletion deepseek - known",
        ),
        ("POST /ide/completions HTTP/1.1\nHost: x", r#"{"cursor":3}"#, true, "no"),
        (
            "POST /v1/responses HTTP/1.1\nHost: api.openai.com",
            r#"{"input":"a","model":"m"}"#,
            true,
            "OpenaiResponses Responses openai - known",
        ),
        ("POST /v1/responses HTTP/1.1\nHost: x", r#"{"input":"a","#, false, "more"),
        (
            "POST /v1/responses HTTP/1.1\nHost: x",
            r#"{"prompt":{"id":"pmpt_1"}}"#,
            true,
            "OpenaiResponses Responses unknown - known",
        ),
        (
            "POST /backend-api/codex/responses HTTP/1.1\nHost: chatgpt.com",
            r#"{"model":"m","#,
            false,
            "OpenaiResponses Responses openai - known",
        ),
        (
            "POST /v1/responses/compact HTTP/1.1\nHost: x",
            r#"{"model":"m","#,
            false,
            "OpenaiResponses Responses unknown - known",
        ),
        ("POST /survey/7/responses HTTP/1.1\nHost: x", r#"{"answers":[1,2]}"#, true, "no"),
        ("POST /v1/responses/resp_1/cancel HTTP/1.1\nHost: x", "", true, "no"),
        ("POST /v1/responses/input_tokens HTTP/1.1\nHost: x", r#"{"model":"m","input":"a"}"#, true, "no"),
        ("POST /v1/realtime?model=m HTTP/1.1\nHost: x\nContent-Type: application/sdp", "v=0", true, "no"),
        // A WebSocket.
        (
            "GET /v1/responses HTTP/1.1\nHost: api.openai.com\nConnection: Upgrade\nUpgrade: websocket",
            "",
            true,
            "socket OpenaiResponses Responses openai - known",
        ),
        (
            "GET /v1/realtime?key=CANARY&model=gpt-realtime HTTP/1.1\nHost: x\nUpgrade: other, WebSocket",
            "",
            true,
            "socket OpenaiRealtime Realtime unknown gpt-realtime known",
        ),
        (
            "GET /openai/realtime?api-version=1&deployment=d HTTP/1.1\nHost: r.openai.azure.com\nUpgrade: websocket",
            "",
            true,
            "socket OpenaiRealtime Realtime azure.ai.openai - known",
        ),
        ("GET /v1/chat/completions HTTP/1.1\nHost: x\nUpgrade: websocket", "", true, "no"),
        ("GET /realtime/v1/websocket HTTP/1.1\nHost: x\nUpgrade: websocket", "", true, "no"),
        ("GET /v1/responses HTTP/1.1\nHost: x\nUpgrade: h2c", "", true, "no"),
        ("GET /v1/responses HTTP/1.1\nHost: x", "", true, "no"),
        // The shape alone.
        ("POST /ask HTTP/1.1\nHost: x\nContent-Type: application/json", "", false, "more"),
        ("POST /ask HTTP/1.1\nHost: x\nContent-Type: application/json", r#"{"model":"m","mess"#, false, "more"),
        (
            "POST /ask HTTP/1.1\nHost: x\nContent-Type: application/json",
            r#"{"model":"m","messages":[]}"#,
            true,
            "OpenaiChat Chat unknown - new",
        ),
        ("POST /ask HTTP/1.1\nHost: x\nContent-Type: application/json", &long, false, "OpenaiChat Chat unknown - new"),
        (
            "POST /ask HTTP/1.1\nHost: x\nanthropic-version: 2023-06-01",
            r#"{"model":"m","messages":["#,
            false,
            "AnthropicMessages Messages unknown - new",
        ),
        (
            "POST /ask HTTP/1.1\nHost: x",
            r#"{"model":"m","max_tokens":9,"system":"s","messages":[]}"#,
            true,
            "AnthropicMessages Messages unknown - new",
        ),
        ("POST /ask HTTP/1.1\nHost: x", r#"{"model":"m","prompt":"p","max_tokens":9"#, false, "more"),
        (
            "POST /ask HTTP/1.1\nHost: x",
            r#"{"model":"m","prompt":"p","max_tokens":9}"#,
            true,
            "OpenaiCompletions TextCompletion unknown - new",
        ),
        (
            "POST /embed-it HTTP/1.1\nHost: x",
            r#"{"model":"m","input":["a"]}"#,
            true,
            "OpenaiEmbeddings Embeddings unknown - new",
        ),
        ("POST /draw HTTP/1.1\nHost: x", r#"{"model":"m","prompt":"p","n":1}"#, true, "no"),
        // Images and audio, as JSON and as forms.
        (
            "POST /v1/images/generations HTTP/1.1\nHost: x",
            r#"{"model":"m","prompt":"p","n":1}"#,
            true,
            "OpenaiImages Image unknown - known",
        ),
        ("POST /images/generations HTTP/1.1\nHost: x", r#"{"prompt":{"id":null}}"#, true, "no"),
        (
            "POST /v1/audio/transcriptions HTTP/1.1\nHost: api.groq.com\nContent-Type: Multipart/Form-Data; boundary=x",
            "--x",
            false,
            "OpenaiAudio Audio groq - known",
        ),
        (
            "POST /v1/embeddings HTTP/1.1\nHost: x\nContent-Type: multipart/form-data; boundary=x",
            "--x",
            true,
            "OpenaiEmbeddings Embeddings unknown - known",
        ),
        ("POST /a/embeddings HTTP/1.1\nHost: x\nContent-Type: multipart/form-data; boundary=x", "--x", true, "no"),
        // Servers' own APIs, some of which share a path.
        ("POST /generate HTTP/1.1\nHost: x", r#"{"inputs":"a"}"#, true, "Tgi TextCompletion tgi - known"),
        ("POST /generate_stream HTTP/1.1\nHost: x", r#"{"inputs":"a"}"#, true, "Tgi TextCompletion tgi - known"),
        (
            "POST /generate HTTP/1.1\nHost: x",
            r#"{"text":"a","sampling_params":{}}"#,
            true,
            "Sglang TextCompletion sglang - known",
        ),
        ("POST /generate HTTP/1.1\nHost: x", r#"{"input_ids":[1]}"#, true, "Sglang TextCompletion sglang - known"),
        // The model may stand behind the prompt.
        ("POST /completions HTTP/1.1\nHost: x", r#"{"prompt":"a","#, false, "more"),
        ("POST /generate HTTP/1.1\nHost: x", r#"{"text":"speak"#, false, "more"),
        ("POST /generate HTTP/1.1\nHost: x", r#"{"text":"speak this"}"#, true, "no"),
        ("POST /generate HTTP/1.1\nHost: x", r#"{"prompt":"a picture"}"#, true, "no"),
        (
            "POST /router/x HTTP/1.1\nHost: x",
            r#"{"inputs":"a","parameters":{"max_new_tokens":5}}"#,
            true,
            "Tgi TextCompletion tgi - new",
        ),
        (
            "POST /v2/models/m%20x/versions/3/generate_stream HTTP/1.1\nHost: x",
            "",
            false,
            "Triton TextCompletion triton m x known",
        ),
        ("POST /v2/models/m/infer HTTP/1.1\nHost: x", "", false, "Triton Infer unknown m known"),
        // What others do at such paths.
        ("POST /tts/generate HTTP/1.1\nHost: x", &format!(r#"{{"text":"{}"}}"#, "speak ".repeat(500)), true, "no"),
        ("POST /reports/generate HTTP/1.1\nHost: x", r#"{"inputs":{"year":2026}}"#, true, "no"),
        (
            "POST /crm/interactions HTTP/1.1\nHost: x",
            &format!(r#"{{"agent_id":42,"transcript":"{}"}}"#, "hello ".repeat(500)),
            true,
            "no",
        ),
        ("POST /shop/images/edits HTTP/1.1\nHost: x\nContent-Type: multipart/form-data; boundary=x", "--x", true, "no"),
        (
            "POST /v1/embedding HTTP/1.1\nHost: x",
            r#"{"model":"m","input":"a"}"#,
            true,
            "OpenaiEmbeddings Embeddings unknown - new",
        ),
        ("POST /x/generate HTTP/1.1\nHost: x", r#"{"model":"m","messages":[]}"#, true, "OpenaiChat Chat unknown - new"),
        ("POST /rules/infer HTTP/1.1\nHost: x", r#"{"a":1}"#, true, "no"),
        ("POST /completion HTTP/1.1\nHost: x", r#"{"prompt":"a"}"#, true, "LlamaCpp TextCompletion llama.cpp - known"),
        ("POST /api/completion HTTP/1.1\nHost: x", r#"{"prompt":"a"}"#, true, "no"),
        (
            "POST /llm/completion HTTP/1.1\nHost: x",
            r#"{"prompt":"a","n_predict":5}"#,
            true,
            "LlamaCpp TextCompletion llama.cpp - known",
        ),
        ("POST /completions HTTP/1.1\nHost: x", r#"{"prompt":"a"}"#, true, "LlamaCpp TextCompletion llama.cpp - known"),
        (
            "POST /completions HTTP/1.1\nHost: x",
            r#"{"model":"m","prompt":"a"}"#,
            true,
            "OpenaiCompletions TextCompletion unknown - known",
        ),
        (
            "POST /infill HTTP/1.1\nHost: x",
            r#"{"input_prefix":"a"}"#,
            true,
            "LlamaCpp TextCompletion llama.cpp - known",
        ),
        (
            "POST /api/v1/chat HTTP/1.1\nHost: x",
            r#"{"model":"m","input":"a"}"#,
            true,
            "LmStudio Chat lm_studio - known",
        ),
        (
            "POST /v1beta/interactions HTTP/1.1\nHost: x",
            r#"{"model":"m","input":"a"}"#,
            true,
            "GeminiInteractions GenerateContent gcp.gemini - known",
        ),
        ("POST /shop/interactions HTTP/1.1\nHost: x", r#"{"model":"T"}"#, true, "no"),
        (
            "POST /v1/conversations HTTP/1.1\nHost: x",
            r#"{"inputs":"a","agent_id":"ag"}"#,
            true,
            "MistralConversations Chat mistral_ai - known",
        ),
        ("POST /v1/conversations HTTP/1.1\nHost: x", r#"{"members":[1]}"#, true, "no"),
        // MCP: what asks, wherever it is served; what tells, and what others say in JSON-RPC, is none.
        (
            "POST /mcp HTTP/1.1\nHost: x",
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/call""#,
            false,
            "Mcp Tool mcp - known",
        ),
        (
            "POST /tools HTTP/1.1\nHost: x",
            r#"{"method":"initialize","params":{"protocolVersion":"2025-11-25"},"jsonrpc":"2.0","id":0}"#,
            true,
            "Mcp Tool mcp - new",
        ),
        ("POST /mcp HTTP/1.1\nHost: x", r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#, true, "no"),
        ("POST /mcp HTTP/1.1\nHost: x", r#"{"jsonrpc":"2.0","id":1,"result":{"roots":[]}}"#, true, "no"),
        ("POST /rpc HTTP/1.1\nHost: x", r#"{"jsonrpc":"2.0","id":1,"method":"eth_blockNumber"}"#, true, "no"),
        ("POST /rpc HTTP/1.1\nHost: x", r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#, true, "no"),
        ("POST /rpc HTTP/1.1\nHost: x", r#"{"jsonrpc":"2.0","id":1,"method":"resources/create"}"#, true, "no"),
        ("POST /a/mcp HTTP/1.1\nHost: x", r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#, true, "Mcp Tool mcp - known"),
        (
            "POST /v1/fim/completions HTTP/1.1\nHost: x",
            r#"{"model":"m","prompt":"a"}"#,
            true,
            "OpenaiChat TextCompletion unknown - known",
        ),
        ("POST /v1/messages/count_tokens HTTP/1.1\nHost: x", r#"{"model":"m","messages":[]}"#, true, "no"),
        ("POST /chat HTTP/1.1\nHost: x", r#"{"messages":[{"id":1,"text":"hello"}]}"#, true, "no"),
        ("POST /orders HTTP/1.1\nHost: x", r#"{"model":"T","year":1908}"#, true, "no"),
        // What can never be one.
        ("GET /v1/chat/completions HTTP/1.1\nHost: x", "", true, "no"),
        ("GET /health HTTP/1.1\nHost: x", "", true, "no"),
        ("POST /upload HTTP/1.1\nHost: x\nContent-Type: multipart/form-data; boundary=x", "", false, "no"),
        ("POST /x HTTP/1.1\nHost: x\nContent-Type: application/json", "[1,2]", false, "no"),
        ("POST /x HTTP/1.1\nHost: x\nContent-Type: application/json", "", true, "no"),
        ("POST /x HTTP/1.1\nHost: x\nContent-Type: application/json", "{{{{", false, "no"),
    ];
    for (head, body, complete, expected) in cases {
        let found = summary(&judged(head, Some(443), body, *complete));
        assert_eq!(found, *expected, "{head}\n\n{:.80}", body);
    }
}

#[test]
fn a_beginning_of_the_stated_length_is_always_enough() {
    let bodies = [
        format!(r#"{{"a":"{}"#, "x".repeat(JUDGE_BYTES)),
        format!(r#"{{"model":"m","prompt":"{}"#, "x".repeat(JUDGE_BYTES)),
        format!(r#"{{"messages":[{{"content":"{}"#, "x".repeat(JUDGE_BYTES)),
        " ".repeat(JUDGE_BYTES),
    ];
    for path in ["/x", "/api/chat", "/v1/messages", "/completions", "/v1/chat/completions"] {
        for body in &bodies {
            let head = format!("POST {path} HTTP/1.1\nHost: x");
            assert_ne!(judged(&head, None, body, false), Judgement::NeedBody, "{path} {}", &body[..20]);
            // However little it is: nothing more would come.
            let text = format!("POST {path} HTTP/1.1\r\nHost: x\r\n\r\n");
            let (head, _) = RequestHead::parse(text.as_bytes()).unwrap().unwrap();
            for length in 0..40 {
                let cut = judge(&head, None, &body.as_bytes()[..length], Extent::Cut);
                assert_ne!(cut, Judgement::NeedBody, "{path} {}", &body[..length]);
            }
        }
    }
}

#[test]
fn the_kernel_can_find_every_pattern() {
    for pattern in target_patterns() {
        // The short ones are confirmed by the rest of the path, `/v2/chat` and `/infill` by the body.
        let is_long = pattern.len() >= 8 || ["/invoke", "/infer", "/infill", "/mcp"].contains(pattern);
        assert!(pattern.starts_with(['/', ':']) && is_long, "{pattern}");
    }
    assert!(target_patterns().contains(&"/chat/completions"));
}

fn request_of(lines: &str) -> RequestHeaderFacts {
    let text = format!("POST /x HTTP/1.1\r\n{}\r\n\r\n", lines.replace('\n', "\r\n"));
    request_facts(&RequestHead::parse(text.as_bytes()).unwrap().unwrap().0)
}

fn response_of(lines: &str) -> ResponseHeaderFacts {
    let text = format!("HTTP/1.1 429 \r\n{}\r\n\r\n", lines.replace('\n', "\r\n"));
    response_facts(&ResponseHead::parse(text.as_bytes()).unwrap().unwrap().0)
}

#[test]
fn request_headers() {
    let facts = request_of(
        "Host: api.example.com:8443\nx-stainless-retry-count: 2\ntraceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\nAuthorization: CANARY",
    );
    assert_eq!(facts.host.as_ref().map(Label::as_str), Some("api.example.com"));
    assert_eq!(facts.attempt, Some(2));
    assert_eq!(facts.trace_id.as_ref().map(Label::as_str), Some("0af7651916cd43dd8448eb211c80319c"));
    assert!(!format!("{facts:?}").contains("CANARY"));
    let userinfo = ["CANARY@h", "CANARY:CANARY@h", "CANARY:CANARY@h:80", "[CANARY]CANARY@h"].map(|host| (host, None));
    let hosts =
        [("[::1]:80", Some("::1")), ("a b", None), ("", None), ("x/../y", None), ("h", Some("h")), ("h:1", Some("h"))];
    for (host, expected) in hosts.into_iter().chain(userinfo) {
        assert_eq!(request_of(&format!("Host: {host}")).host.as_ref().map(Label::as_str), expected, "{host}");
    }
    for invalid in [
        "00-00000000000000000000000000000000-b7ad6b7169203331-01",
        "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
        "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-extra",
        "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "00-short-b7ad6b7169203331-01",
        "CANARY",
    ] {
        assert_eq!(request_of(&format!("traceparent: {invalid}")), RequestHeaderFacts::default(), "{invalid}");
    }
    assert_eq!(request_of("x-stainless-retry-count: -1").attempt, None);
    assert_eq!(request_of("amz-sdk-request: ttl=20261129T190000Z; attempt=3; max=5").attempt, Some(2));
    for none in ["attempt=0", "attempt=x", "max=5", "attempt="] {
        assert_eq!(request_of(&format!("amz-sdk-request: {none}")).attempt, None, "{none}");
    }
}

#[test]
fn what_is_left_of_a_subscription_is_a_share() {
    let of = |lines: &str| response_of(lines).rate_limit;
    let lines = "date: Sun, 22 Nov 2026 10:00:00 GMT\nanthropic-ratelimit-unified-5h-utilization: 0.75\n\
        anthropic-ratelimit-unified-7d-utilization: 0.5\nanthropic-ratelimit-unified-reset: 1795341900";
    let expected = RateLimit { remaining_fraction: Some(0.25), reset_seconds: Some(300.0), ..RateLimit::default() };
    assert_eq!(of(lines), expected);
    assert_eq!(of("anthropic-ratelimit-unified-7d-utilization: 1.02").remaining_fraction, Some(0.0), "over it");
    for none in ["NaN", "much", ""] {
        let lines = format!("anthropic-ratelimit-unified-5h-utilization: {none}");
        assert_eq!(of(&lines).remaining_fraction, None, "{none}");
    }
}

#[test]
fn response_headers() {
    // Headers; request id, requests, tokens, reset, retry after, provider.
    type Row<'a> = (&'a str, Option<&'a str>, Option<u64>, Option<u64>, Option<f64>, Option<f64>, Option<&'a str>);
    #[rustfmt::skip]
    let cases: &[Row<'_>] = &[
        ("x-request-id: req_1\nopenai-processing-ms: 12\nx-ratelimit-remaining-requests: 9\nx-ratelimit-remaining-tokens: 1000\nx-ratelimit-reset-requests: 132ms\nx-ratelimit-reset-tokens: 6m0.5s\nretry-after: 20\nretry-after-ms: 1500",
            Some("req_1"), Some(9), Some(1000), Some(360.5), Some(1.5), Some("openai")),
        ("request-id: req_011\ndate: Sun, 22 Nov 2026 10:00:00 GMT\nanthropic-ratelimit-requests-remaining: 49\nanthropic-ratelimit-tokens-remaining: 5000\nanthropic-ratelimit-requests-reset: 2026-11-22T10:00:01Z\nanthropic-ratelimit-tokens-reset: 2026-11-22T10:00:42Z\nretry-after: Sun, 22 Nov 2026 10:01:00 GMT",
            Some("req_011"), Some(49), Some(5000), Some(42.0), Some(60.0), Some("anthropic")),
        // Without a date of the server's own, its times cannot be told from ours.
        ("anthropic-ratelimit-input-tokens-remaining: 7\nanthropic-ratelimit-tokens-reset: 2026-11-22T10:00:42Z\nretry-after: Sun, 22 Nov 2026 10:01:00 GMT",
            None, None, Some(7), None, None, None),
        ("date: Sun, 22 Nov 2026 10:00:00 GMT\nretry-after: Sun, 22 Nov 2026 09:00:00 GMT", None, None, None, None, Some(0.0), None),
        ("apim-request-id: 8f5d\nopenai-processing-ms: 1", Some("8f5d"), None, None, None, None, Some("azure.ai.openai")),
        ("server: llama.cpp", None, None, None, None, None, Some("llama.cpp")),
        ("x-litellm-call-id: 1\nopenai-version: 2020", None, None, None, None, None, Some("litellm")),
        ("x-ratelimit-remaining-requests: many\nx-ratelimit-reset-tokens: soon\nretry-after: -5\nx-request-id: with space", None, None, None, None, None, None),
        ("x-ratelimit-reset-tokens: 1h2m3s\nretry-after: 1e3", None, None, None, Some(3723.0), None, None),
    ];
    for (lines, id, requests, tokens, reset, retry, provider) in cases {
        let facts = response_of(lines);
        assert_eq!(facts.request_id.as_ref().map(Label::as_str), *id, "{lines}");
        assert_eq!(facts.provider.as_ref().map(Label::as_str), *provider, "{lines}");
        let expected = RateLimit {
            remaining_requests: *requests,
            remaining_tokens: *tokens,
            remaining_fraction: None,
            reset_seconds: *reset,
            retry_after_seconds: *retry,
        };
        assert_eq!(facts.rate_limit, expected, "{lines}");
    }
    let gateway = |cost: &str| response_of(&format!("x-litellm-response-cost: {cost}")).cost_usd;
    assert_eq!(["0.25", "1e-6", "-1", "inf", "free"].map(gateway), [Some(0.25), Some(1e-6), None, None, None]);
    assert_eq!(response_of("x-queue-time: 250").queue_seconds, Some(0.25));
    assert_eq!(response_of("x-amzn-bedrock-service-tier: flex").tier, Some(ServiceTier::Flex));
    assert_eq!(response_of("x-gemini-service-tier: standard").tier, Some(ServiceTier::Standard));
}

#[test]
fn what_the_path_tells_reaches_the_facts() {
    let call = |head: &str, body: &str| match judged(head, None, body, false) {
        Judgement::ModelCall(call) => call,
        other => panic!("{other:?}"),
    };
    let azure = call("POST /openai/deployments/d/chat/completions HTTP/1.1\nHost: r.openai.azure.com", "");
    let mut interpreter = Interpreter::for_call(&azure);
    interpreter.request_bytes(br#"{"messages":[]}"#);
    interpreter.request_end();
    assert_eq!(interpreter.facts().model.as_ref().map(Label::as_str), Some("d"));
    // Embeddings are never streamed, though Ollama streams by default.
    let embed = call("POST /api/embed HTTP/1.1\nHost: x", r#"{"model":"m","#);
    assert_eq!((embed.api, embed.dialect), (Api::Embeddings, Dialect::Ollama));
    let mut interpreter = Interpreter::for_call(&embed);
    interpreter.request_bytes(br#"{"model":"m","input":"x"}"#);
    interpreter.request_end();
    assert_eq!(interpreter.facts().stream, Some(false));
}

#[test]
fn what_is_asked_of_a_server_of_tools() {
    let asked = |body: &str| {
        let mut interpreter = Interpreter::new(Dialect::Mcp);
        body.as_bytes().chunks(3).for_each(|piece| interpreter.request_bytes(piece));
        interpreter.request_end();
        let call = interpreter.facts().tool_call.as_ref()?;
        Some((call.method.to_string(), call.name.as_ref().map(Label::to_string)))
    };
    let call = r#"{"id":1,"params":{"arguments":{"name":"CANARY"},"name":"look_up"},"method":"tools/call"}"#;
    assert_eq!(asked(call), Some(("tools/call".into(), Some("look_up".into()))));
    let read = r#"{"id":1,"method":"resources/read","params":{"uri":"file:///CANARY","name":"CANARY"}}"#;
    assert_eq!(asked(read), Some(("resources/read".into(), None)));
    assert_eq!(asked("[]"), None);
    // A name in what is left of a request whose middle was not seen.
    let mut interpreter = Interpreter::new(Dialect::Mcp);
    interpreter.request_bytes(br#"{"id":1,"method":"resources/read","params":{"a":""#);
    interpreter.request_gap();
    interpreter.request_bytes(br#"x","name":"CANARY"}}"#);
    interpreter.request_end();
    assert_eq!(interpreter.facts().tool_call.as_ref().and_then(|call| call.name.clone()), None);
}

#[test]
fn what_only_the_head_of_an_answer_tells() {
    let facts = |dialect: Dialect, head: &str, body: &str| {
        let head = format!("HTTP/1.1 {head}\r\n\r\n").replace('\n', "\r\n").replace("\r\r", "\r");
        let mut interpreter = Interpreter::new(dialect);
        interpreter.response_head(&ResponseHead::parse(head.as_bytes()).unwrap().unwrap().0);
        interpreter.response_bytes(Nanos(1), body.as_bytes(), &mut |_| {});
        interpreter.response_end(Nanos(2), &mut |_| {});
        interpreter.facts().clone()
    };
    let counted = "200 OK\nContent-Type: application/json\nX-Amzn-Bedrock-Input-Token-Count: 10\n\
        X-Amzn-Bedrock-Output-Token-Count: 7\nX-Amzn-Bedrock-Cache-Read-Input-Token-Count: 100\n\
        X-Amzn-Bedrock-Cache-Write-Input-Token-Count: 5";
    let usage = |facts: &Facts| [facts.usage.input, facts.usage.output, facts.usage.cached_input];
    let told = facts(Dialect::BedrockInvoke, counted, r#"{"generation":"CANARY"}"#);
    assert_eq!((usage(&told), told.finished), ([Some(115), Some(7), Some(100)], true));
    let twice = facts(Dialect::BedrockInvoke, counted, r#"{"usage":{"input_tokens":10,"output_tokens":8}}"#);
    assert_eq!(usage(&twice), [Some(115), Some(8), Some(100)]);
    assert_eq!(usage(&facts(Dialect::OpenaiChat, counted, "{}")), [None; 3], "others count otherwise");
    let tgi = "200 OK\nContent-Type: application/json\nx-prompt-tokens: 4\nx-generated-tokens: 9";
    assert_eq!(usage(&facts(Dialect::Tgi, tgi, r#"{"generated_text":"CANARY"}"#)), [Some(4), Some(9), None]);
    for (head, name) in [
        ("429 X\nx-amzn-ErrorType: ThrottlingException:http://internal.amazon.com/coral/", "ThrottlingException"),
        ("400 X\nx-amzn-ErrorType: com.amazon#ValidationException", "ValidationException"),
        ("500 X\nx-amzn-ErrorType: internalServerException", "InternalServerException"),
    ] {
        let facts = facts(Dialect::BedrockConverse, head, r#"{"message":"CANARY"}"#);
        assert_eq!((facts.error_type.as_ref().map(Label::as_str), facts.is_error), (Some(name), true), "{head}");
    }
    let fine = facts(Dialect::BedrockConverse, "200 OK\nx-amzn-ErrorType: x", "{}");
    assert_eq!((fine.error_type, fine.is_error), (None, false));
}
