//! A client of an OpenAI-like server: one request, its answer, and what that says of tokens.

use std::io::{BufRead, Read, Write, stdin};
use std::net::TcpStream;

use anyhow::{Context, Result};
use serde_json::{Value, json};

/// The argument that makes this program a client.
pub(crate) const COMMAND: &str = "client";

/// The request to the server at this address, as bytes. It closes the connection when it has answered.
pub(crate) fn request(server: &str, model: &str, stream: bool) -> Vec<u8> {
    let mut body = json!({"model": model, "messages": [{"role": "user", "content": "How do bees fly?"}]});
    if stream {
        body["stream"] = true.into();
        body["stream_options"] = json!({"include_usage": true});
    }
    let body = body.to_string();
    format!(
        "POST /v1/chat/completions HTTP/1.1\r\nHost: {server}\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

/// Says that it is ready, waits for a line, sends a request to the address, and says what the answer was.
pub(crate) fn run(arguments: &str) -> Result<()> {
    let (address, model) = arguments.split_once(' ').context("an address and a model")?;
    println!("{}", json!({"ready": std::process::id()}));
    stdin().lock().read_line(&mut String::new())?;
    let mut server = TcpStream::connect(address)?;
    server.write_all(&request(address, model, false))?;
    let mut answer = Vec::new();
    server.read_to_end(&mut answer)?;
    println!("{}", about(&answer)?);
    // To be looked at until it is let go.
    stdin().lock().read_line(&mut String::new())?;
    Ok(())
}

/// Status and usage of an answer that is one JSON document.
fn about(answer: &[u8]) -> Result<Value> {
    let text = std::str::from_utf8(answer)?;
    let (head, body) = text.split_once("\r\n\r\n").context("an answer has a head and a body")?;
    let status = head.split(' ').nth(1).context("an answer has a status")?;
    let body: Value = serde_json::from_str(body)?;
    Ok(json!({"status": status, "usage": body["usage"]}))
}
