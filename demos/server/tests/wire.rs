//! The server as a client meets it: real sockets, the real binary.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};

struct Server {
    child: Child,
    plain: String,
    directory: tempfile::TempDir,
}

impl Server {
    fn start(arguments: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_hbpf-demo-server"))
            .args(["--ttft", "1", "--rate", "1000"])
            .args(arguments)
            .arg("--record")
            .arg(directory.path().join("record.jsonl"))
            .arg("--certificates")
            .arg(directory.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut ready = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut ready).unwrap();
        let ready: Value = serde_json::from_str(&ready).unwrap();
        Self { child, plain: ready["plain"].as_str().unwrap().to_owned(), directory }
    }

    /// Sends one request and reads until the server closes.
    fn ask(&self, path: &str, body: &Value) -> String {
        let mut stream = TcpStream::connect(&self.plain).unwrap();
        let body = body.to_string();
        let request =
            format!("POST {path} HTTP/1.1\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    fn record(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(self.directory.path().join("record.jsonl")).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The JSON of each `data:` line, as chunk framing leaves these lines whole here.
fn data(answer: &str) -> Vec<Value> {
    answer.lines().filter_map(|line| serde_json::from_str(line.strip_prefix("data: ")?).ok()).collect()
}

#[test]
fn usage_ends_an_openai_stream_only_if_asked_for() {
    let server = Server::start(&[]);
    let mut body = json!({"model": "x-5tok-40in-8cached-2think", "stream": true});
    let without = server.ask("/v1/chat/completions", &body);
    assert!(without.contains("data: [DONE]") && !without.contains("usage"));
    body["stream_options"] = json!({"include_usage": true});
    let with = data(&server.ask("/v1/chat/completions", &body));
    let usage = &with.last().unwrap()["usage"];
    assert_eq!((&usage["prompt_tokens"], &usage["completion_tokens"]), (&json!(40), &json!(5)));
    assert_eq!(usage["prompt_tokens_details"]["cached_tokens"], 8);
    assert_eq!(usage["completion_tokens_details"]["reasoning_tokens"], 2);
}

#[test]
fn anthropic_counts_leave_cached_input_out_and_the_record_does_not() {
    let server = Server::start(&[]);
    let body = json!({"model": "x-4tok-40in-8cached-3written", "stream": true});
    let events = data(&server.ask("/v1/messages", &body));
    let usage = &events.iter().find(|event| event["type"] == "message_delta").unwrap()["usage"];
    assert_eq!(usage["input_tokens"], 29);
    assert_eq!(usage["output_tokens"], 4);
    let entry = &server.record()[0];
    assert_eq!((&entry["input"], &entry["cached_input"], &entry["output"]), (&json!(40), &json!(8), &json!(4)));
    assert_eq!(entry["token_ns"].as_array().unwrap().len(), 4);
}

#[test]
fn responses_tell_their_usage_unasked() {
    let server = Server::start(&[]);
    let mut body = json!({"model": "x-4tok-40in-8cached-3written-1think", "input": "x", "stream": true});
    let events = data(&server.ask("/v1/responses", &body));
    let kinds: Vec<&str> = events.iter().filter_map(|event| event["type"].as_str()).collect();
    assert_eq!((kinds[0], kinds[kinds.len() - 1]), ("response.created", "response.completed"));
    assert_eq!(kinds.iter().filter(|kind| kind.ends_with(".delta")).count(), 4);
    let streamed = events.last().unwrap()["response"]["usage"].clone();
    assert_eq!((&streamed["input_tokens"], &streamed["output_tokens"]), (&json!(40), &json!(4)));
    assert_eq!(streamed["input_tokens_details"], json!({"cached_tokens": 8, "cache_write_tokens": 3}));
    assert_eq!(streamed["output_tokens_details"]["reasoning_tokens"], 1);
    body["stream"] = json!(false);
    let answer = server.ask("/v1/responses", &body);
    let whole: Value = serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap();
    assert_eq!((&whole["status"], &whole["usage"]), (&json!("completed"), &streamed));
    body["model"] = json!("x-5tok-2errafter");
    body["stream"] = json!(true);
    let failed = data(&server.ask("/v1/responses", &body));
    assert_eq!(failed.last().unwrap()["type"], "response.failed");
}

/// The JSON behind an answer's head.
fn body(answer: &str) -> Value {
    serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap()
}

#[test]
fn cohere_bills_less_than_it_reads() {
    let server = Server::start(&[]);
    let mut asked = json!({"model": "x-4tok-40in-8cached-2think", "stream": true});
    let events = data(&server.ask("/v2/chat", &asked));
    let kinds: Vec<&str> = events.iter().filter_map(|event| event["type"].as_str()).collect();
    assert_eq!((kinds[0], kinds[kinds.len() - 1]), ("message-start", "message-end"));
    assert_eq!(kinds.iter().filter(|kind| **kind == "content-delta").count(), 4);
    assert_eq!(kinds.iter().filter(|kind| **kind == "content-start").count(), 2);
    let streamed = events.last().unwrap()["delta"]["usage"].clone();
    assert_eq!(streamed["tokens"], json!({"input_tokens": 40.0, "output_tokens": 4.0}));
    assert_eq!((&streamed["billed_units"]["input_tokens"], &streamed["cached_tokens"]), (&json!(36.0), &json!(8.0)));
    asked["stream"] = json!(false);
    assert_eq!(body(&server.ask("/v2/chat", &asked))["usage"], streamed);
    let vectors = body(&server.ask("/v2/embed", &json!({"model": "x-40in", "texts": ["a", "b"]})));
    assert_eq!(vectors["embeddings"]["float"].as_array().unwrap().len(), 2);
    assert_eq!(vectors["meta"]["billed_units"]["input_tokens"], 40);
    let vectors = body(&server.ask("/api/embed", &json!({"model": "x-40in", "input": "a"})));
    assert_eq!((vectors["embeddings"].as_array().unwrap().len(), &vectors["prompt_eval_count"]), (1, &json!(40)));
}

#[test]
fn mistral_and_groq_tell_their_usage_unasked() {
    let server = Server::start(&[]);
    let asked = json!({"model": "x-4tok-40in-8cached-2think", "stream": true});
    let chunks = data(&server.ask("/mistral/v1/chat/completions", &asked));
    let last = chunks.last().unwrap();
    assert_eq!((&last["choices"][0]["finish_reason"], &last["usage"]["prompt_tokens"]), (&json!("stop"), &json!(40)));
    assert_eq!(chunks[1]["choices"][0]["delta"]["content"][0]["type"], "thinking");
    assert!(last["choices"][0]["delta"]["content"].is_string());
    let chunks = data(&server.ask("/openai/v1/chat/completions", &asked));
    let last = chunks.last().unwrap();
    assert!(last["usage"].is_null());
    let usage = &last["x_groq"]["usage"];
    assert_eq!((&usage["completion_tokens"], &usage["queue_time"]), (&json!(4), &json!(0.25)));
    assert_eq!(usage["completion_tokens_details"]["reasoning_tokens"], 2);
    let failed = json!({"model": "x-429err"});
    assert_eq!(body(&server.ask("/mistral/v1/chat/completions", &failed))["type"], "rate_limited");
    assert_eq!(body(&server.ask("/openai/v1/chat/completions", &failed))["error"]["type"], "tokens");
}

#[test]
fn tokens_come_when_they_were_due_and_no_sooner() {
    let server = Server::start(&[]);
    server.ask("/v1/chat/completions", &json!({"model": "x-5tok-30ms-100tps", "stream": true}));
    let entry = &server.record()[0];
    let at = |value: &Value| value.as_u64().unwrap();
    let tokens: Vec<u64> = entry["token_ns"].as_array().unwrap().iter().map(at).collect();
    // One may be late on a busy machine, and those behind it are due when they were.
    let after = |token: usize| tokens[token] - at(&entry["request_end_ns"]);
    assert!(after(0) >= 29_000_000 && after(4) >= 69_000_000, "{tokens:?}");
}

#[test]
fn events_written_at_once_are_all_there() {
    let server = Server::start(&[]);
    let answer = server.ask("/v1/chat/completions", &json!({"model": "x-7tok-3atonce", "stream": true}));
    assert_eq!(data(&answer).iter().filter(|event| event["choices"][0]["delta"]["content"] != Value::Null).count(), 8);
    let entry = &server.record()[0];
    let stamps: std::collections::BTreeSet<_> =
        entry["token_ns"].as_array().unwrap().iter().filter_map(Value::as_u64).collect();
    assert_eq!((entry["output"].as_u64(), stamps.len()), (Some(7), 3));
}

#[test]
fn faults_are_what_was_asked_for() {
    let server = Server::start(&[]);
    let ask = |model: &str| server.ask("/v1/chat/completions", &json!({"model": model, "stream": true}));
    assert!(ask("x-429err").starts_with("HTTP/1.1 429 "));
    assert!(ask("x-5tok-2errafter").contains("server_error"));
    assert!(!ask("x-5tok-2cutafter").contains("[DONE]"));
    let outcomes: Vec<Value> = server.record().iter().map(|entry| entry["outcome"].clone()).collect();
    assert_eq!(outcomes, ["error", "stream_error", "cut"]);
}

#[test]
fn a_body_that_is_no_json_is_refused() {
    let server = Server::start(&[]);
    assert!(server.ask("/v1/chat/completions", &json!(7)).starts_with("HTTP/1.1 400 "));
}

#[test]
fn same_seed_same_numbers() {
    let numbers = |seed: &str| {
        let server = Server::start(&["--seed", seed]);
        for _ in 0..3 {
            server.ask("/v1/chat/completions", &json!({"model": "demo"}));
        }
        let pick = |entry: &Value| (entry["input"].clone(), entry["output"].clone(), entry["cached_input"].clone());
        server.record().iter().map(pick).collect::<Vec<_>>()
    };
    assert_eq!(numbers("5"), numbers("5"));
    assert_ne!(numbers("5"), numbers("6"));
}

#[test]
fn certificates_are_written_for_clients_and_other_servers() {
    let server = Server::start(&[]);
    for (name, holds) in
        [("ca.pem", "BEGIN CERTIFICATE"), ("server.pem", "BEGIN CERTIFICATE"), ("server-key.pem", "PRIVATE KEY")]
    {
        assert!(std::fs::read_to_string(server.directory.path().join(name)).unwrap().contains(holds), "{name}");
    }
}
