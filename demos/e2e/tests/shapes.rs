//! APIs that the stand-in server does not speak, called through their vendors' SDKs and answered always the same: what the SDK reads of
//! tokens is what hbpf reads, at both ends.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use hbpf_core::exchange::{Api, Dialect, Phase, Role};
use hbpf_e2e::{Client, Observer, host, installed, python, python_with, script, skip};

/// The kind of call, the model that is asked, and whether the answer is streamed.
type Call = (Api, Option<&'static str>, Option<bool>);

struct Canned(Child, u16);

impl Canned {
    fn start() -> Option<Self> {
        let mut command = Command::new(python()?);
        command.arg(script("clients/canned.py")).stdout(Stdio::piped());
        let mut child = command.spawn().expect("Python starts");
        let mut port = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut port).unwrap();
        Some(Self(child, port.trim().parse().expect("it prints its port")))
    }
}

impl Drop for Canned {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn further_sdks() -> Option<PathBuf> {
    let python = installed("venv-sdks/bin/python");
    if !python.exists() {
        skip("HBPF_REQUIRE_CLIENTS", "there are no further SDKs for Python: `cargo xtask setup --full` installs them");
        return None;
    }
    Some(python)
}

fn exact(python: Option<PathBuf>, sdk: &str, dialect: fn(Api) -> Dialect, provider: &str, calls: &[Call]) {
    let (Some(_host), Some(python), Some(server)) = (host(), python, Canned::start()) else { return };
    let mut observer = Observer::start();
    let url = format!("http://127.0.0.1:{}", server.1);
    let mut command = Command::new(python);
    let mut client = Client::start(command.arg(script("clients/shapes.py")).args(["--sdk", sdk, "--base-url", &url]));
    let said = client.run();
    let said: Vec<[Option<u64>; 2]> = serde_json::from_value(said.clone()).unwrap_or_else(|_| panic!("{said}"));
    assert_eq!(said.len(), calls.len());
    for role in [Role::Client, Role::Server] {
        let rows = observer.until_rows(role, server.1, calls.len());
        assert_eq!(rows.len(), calls.len());
        for ((row, (api, model, stream)), tokens) in rows.iter().zip(calls).zip(&said) {
            assert_eq!([row.tokens.input, row.tokens.output], *tokens, "{row:?}");
            assert_eq!((row.api, row.dialect, row.provider.as_str()), (*api, dialect(*api), provider), "{row:?}");
            assert_eq!((row.model.as_deref(), row.stream, row.phase), (*model, *stream, Phase::Done), "{row:?}");
            let speaks = *stream == Some(true);
            assert_eq!(row.time_to_first_token_seconds.is_some(), speaks, "{row:?}");
        }
    }
    assert!(observer.raw.iter().all(|line| !line.contains("CANARY")));
    observer.assert_nothing_lost();
    observer.stop();
}

#[test]
fn openais_images_and_audio() {
    let dialect = |api| if api == Api::Image { Dialect::OpenaiImages } else { Dialect::OpenaiAudio };
    let calls = [
        (Api::Image, Some("gpt-image-x"), Some(false)),
        // Forms, each with a file of 120 kB.
        (Api::Image, Some("gpt-image-x"), Some(false)),
        (Api::Audio, Some("whisper-x"), Some(false)),
        (Api::Audio, Some("whisper-x"), Some(true)),
        // Sound is not read.
        (Api::Audio, Some("tts-x"), Some(false)),
    ];
    exact(python_with("openai"), "openai", dialect, "unknown", &calls);
}

#[test]
fn geminis_interactions() {
    let calls = [false, true].map(|stream| (Api::GenerateContent, Some("gemini-x"), Some(stream)));
    exact(python_with("google.genai"), "google", |_| Dialect::GeminiInteractions, "gcp.gemini", &calls);
}

#[test]
fn mistrals_conversations() {
    let calls = [false, true].map(|stream| (Api::Chat, Some("mistral-x"), Some(stream)));
    exact(further_sdks(), "mistral", |_| Dialect::MistralConversations, "mistral_ai", &calls);
}

#[test]
fn tgi_through_hugging_faces_client() {
    let calls = [false, true].map(|stream| (Api::TextCompletion, None, Some(stream)));
    exact(further_sdks(), "huggingface", |_| Dialect::Tgi, "tgi", &calls);
}

#[test]
fn tensors_through_tritons_client() {
    let calls = [(Api::Infer, Some("tensors"), Some(false))];
    exact(further_sdks(), "triton", |_| Dialect::Triton, "unknown", &calls);
}
