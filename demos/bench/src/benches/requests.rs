//! What a request of a real SDK takes longer.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};
use hbpf_e2e::{Client, Server};

use super::{Context, Outcome};
use crate::compare::{Arm, Better, Rounds, in_turns, quantile};
use crate::empty::Empty;
use crate::hbpf::Hbpf;
use crate::report::{Section, Table};
use crate::tool;

/// One kind of request.
struct Case {
    about: &'static str,
    /// Its name says how the stand-in server is to answer.
    model: &'static str,
    /// Whether the server's TLS is OpenSSL's, too.
    both_ends: bool,
    /// What the median may grow by, in percent.
    aim: f64,
    /// Divides the number of requests: slow ones are few.
    fewer: u32,
}

const CASES: [Case; 3] = [
    Case { about: "instant, both ends OpenSSL", model: "demo-16", both_ends: true, aim: 5.0, fewer: 1 },
    Case { about: "instant, server not OpenSSL", model: "demo-16tok-0ms-0tps", both_ends: false, aim: 5.0, fewer: 1 },
    Case { about: "150 ms to the first token", model: "demo-16tok-150ms-0tps", both_ends: false, aim: 1.0, fewer: 8 },
];

pub(super) fn run(context: &Context) -> Result<Outcome> {
    let Some(python) = tool::python_with("openai") else {
        return Ok(Outcome::Skipped("needs the openai package: `cargo xtask setup`".into()));
    };
    let server = Server::start(&["--ttft", "0", "--rate", "0"]);
    let mut section = Section::default();
    let heads =
        ["ms", "without p50", "p99", "with p50", "p99", "p50 cost (middle half)", "p50 empty programs", "noise"];
    let mut table = Table::new(&heads);
    for case in &CASES {
        let [median, high] = measure(context, &python, &server, case)?;
        let milliseconds = |rounds: &Rounds, arm| format!("{:.2}", rounds.median(arm) * 1e3);
        let cost = median.cost(Arm::With, Better::Less);
        table.row([
            case.about.to_owned(),
            milliseconds(&median, Arm::Without),
            milliseconds(&high, Arm::Without),
            milliseconds(&median, Arm::With),
            milliseconds(&high, Arm::With),
            cost.to_string(),
            median.cost(Arm::Empty, Better::Less).to_string(),
            format!("{:.1} %", median.noise()),
        ]);
        let verdict = median.verdict(Arm::With, Better::Less, case.aim);
        section.aim(&format!("{}: p50 below {} %", case.about, case.aim), cost.to_string(), verdict);
    }
    section.table(
        "Streamed requests of the OpenAI Python SDK over TLS, one after the other on one connection, 16 tokens each; the \
         server is on the same machine.",
        table,
    );
    Ok(Outcome::Done(section))
}

/// Median and 99th percentile of each round.
fn measure(context: &Context, python: &Path, server: &Server, case: &Case) -> Result<[Rounds; 2]> {
    let openssl_server = case.both_ends.then(|| {
        let files = ["server.pem", "server-key.pem"].map(|name| server.certificate(name));
        Client::start(Command::new(python).arg(hbpf_e2e::script("clients/tls_server.py")).args(files))
    });
    let url = match &openssl_server {
        Some(server) => format!("https://127.0.0.1:{}", server.ready["port"]),
        None => server.tls_url(),
    };
    let mut command = Command::new(python);
    command.arg(hbpf_e2e::script("clients/latency.py")).arg(url).arg(server.certificate("ca.pem")).arg(case.model);
    let mut client = Client::start(&mut command);
    let requests = (context.effort.requests / case.fewer).max(2);
    in_turns(context.effort.rounds, &[Arm::Without, Arm::With, Arm::Empty], |arm| {
        let _hbpf = (arm == Arm::With).then(Hbpf::start_unbounded).transpose()?;
        let _empty = (arm == Arm::Empty).then(Empty::in_libraries).transpose()?;
        // The first ones find cold caches.
        client.tell("2");
        let said = client.tell(&requests.to_string());
        let seconds = said.as_array().context("the client says a list")?;
        let seconds: Vec<f64> = seconds.iter().filter_map(serde_json::Value::as_f64).collect();
        Ok([quantile(&seconds, 0.5), quantile(&seconds, 0.99)])
    })
}
