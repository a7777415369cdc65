//! Calls a model with reqwest: `client BASE_URL MODEL COUNT CA_FILE [h1|h2 [THREADS]]`.
//!
//! Prints `{"ready": ...}`, makes its calls when a line arrives on standard input, COUNT in each thread, then again for each further
//! line, and ends when standard input does.

use std::error::Error;
use std::io::Read;

use reqwest::blocking::{Client, ClientBuilder};
use serde_json::{Value, json};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, url, model, count, authority, rest @ ..] = &arguments[..] else { return Err("see the head of the source".into()) };
    let authority = reqwest::Certificate::from_pem(&std::fs::read(authority)?)?;
    let protocol = rest.first().map_or("h1", String::as_str);
    let threads: usize = rest.get(1).map_or(Ok(1), |threads| threads.parse())?;
    let count: usize = count.parse()?;
    let restrict = |builder: ClientBuilder| if protocol == "h1" { builder.http1_only() } else { builder };
    // A connection of its own for each thread.
    let client = || restrict(Client::builder()).tls_certs_only([authority.clone()]).build();
    let clients = (0..threads).map(|_| client()).collect::<Result<Vec<_>, _>>()?;
    let url = format!("{url}/v1/chat/completions");
    let body = json!({
        "model": model, "stream": true, "stream_options": { "include_usage": true },
        "messages": [{ "role": "user", "content": "Say something about bees." }],
    });
    println!("{}", json!({ "ready": std::process::id() }));
    let mut line = String::new();
    while std::io::stdin().read_line(&mut line)? > 0 {
        let answers: usize = std::thread::scope(|scope| {
            let calls: Vec<_> = clients.iter().map(|client| scope.spawn(|| call(client, &url, &body, count))).collect();
            calls.into_iter().map(|calls| calls.join().unwrap_or(0)).sum()
        });
        println!("{}", json!({ "answers": answers }));
    }
    Ok(())
}

/// How many of so many calls are answered well.
fn call(client: &Client, url: &str, body: &Value, count: usize) -> usize {
    let answered = |_: &usize| {
        let mut answer = client.post(url).json(body).send().ok()?;
        answer.read_to_end(&mut Vec::new()).ok()?;
        answer.status().is_success().then_some(())
    };
    (0..count).filter(|call| answered(call).is_some()).count()
}
