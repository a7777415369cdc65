//! Calls a model with reqwest: `hbpf-demo-reqwest BASE_URL MODEL COUNT CA_FILE`.
//!
//! Prints `{"ready": ...}`, begins when a line arrives on standard input, and stays until standard input is closed.

use std::error::Error;
use std::io::Read;

use serde_json::json;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, url, model, count, authority] = &arguments[..] else { return Err("see the head of the source".into()) };
    let authority = reqwest::Certificate::from_pem(&std::fs::read(authority)?)?;
    let client = reqwest::blocking::Client::builder().tls_certs_only([authority]).build()?;
    let body = json!({
        "model": model, "stream": true, "stream_options": { "include_usage": true },
        "messages": [{ "role": "user", "content": "Say something about bees." }],
    });
    println!("{}", json!({ "ready": std::process::id() }));
    let mut line = String::new();
    if std::io::stdin().read_line(&mut line)? == 0 {
        return Ok(());
    }
    let mut answers = 0;
    for _ in 0..count.parse::<usize>()? {
        let mut answer = client.post(format!("{url}/v1/chat/completions")).json(&body).send()?;
        let status = answer.status();
        answer.read_to_end(&mut Vec::new())?;
        answers += usize::from(status.is_success());
    }
    println!("{}", json!({ "answers": answers }));
    std::io::stdin().read_line(&mut line)?;
    Ok(())
}
