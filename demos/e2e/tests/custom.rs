//! APIs that a user describes.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use hbpf_core::exchange::{Dialect, Phase, Role};
use hbpf_core::snapshot::TokensSource;
use hbpf_e2e::{Observer, host, programs, python, script};

const CONFIG: &str = r#"
[[providers]]
name = "acme"
hosts = ["127.0.0.1"]
paths = ["/v2/ask"]
[providers.request]
model = "engine"
[providers.response]
framing = "ndjson"
model = "model"
finish_reason = "choices[].why"
output = ["choices[].text"]
input_tokens = "usage.in"
output_tokens = "usage.out"
cached_input_tokens = "usage.cached"
"#;

#[test]
fn an_api_of_ones_own_is_read_at_both_ends() {
    let Some(_host) = host() else { return };
    let Some(python) = python() else { return };
    let directory = tempfile::tempdir().unwrap();
    let config = directory.path().join("config.toml");
    fs::write(&config, CONFIG).unwrap();
    let mut server =
        Command::new(python).arg(script("clients/own_api.py")).stdout(Stdio::piped()).spawn().expect("it starts");
    let mut port = String::new();
    BufReader::new(server.stdout.as_mut().unwrap()).read_line(&mut port).unwrap();
    let port: u16 = port.trim().parse().unwrap();
    let mut observer = Observer::start_with(&["--max-overhead", "off", "--config", config.to_str().unwrap()]);
    for words in [3, 40] {
        let body = format!(r#"{{"question":"CANARY","engine":"e","options":{{"words":{words}}}}}"#);
        let url = format!("http://127.0.0.1:{port}/eu/v2/ask");
        let done = Command::new("curl").args(["-sS", "-o", "/dev/null", &url, "-d", &body]).status().unwrap();
        assert!(done.success());
    }
    for role in [Role::Client, Role::Server] {
        let rows = observer.until_rows(role, port, 2);
        for (row, words) in rows.iter().zip([3, 40]) {
            assert_eq!((row.provider.as_str(), row.dialect, row.phase), ("acme", Dialect::Custom, Phase::Done));
            assert_eq!((row.model.as_deref(), row.response_model.as_deref()), (Some("e"), Some("e-2026")));
            assert_eq!([row.tokens.input, row.tokens.output], [Some(21), Some(words + 1)]);
            assert_eq!((row.tokens.cached_input, row.tokens_source), (Some(4), TokensSource::Reported));
            assert!(
                row.time_to_first_token_seconds.is_some() && row.finish_reason.as_deref() == Some("enough"),
                "{row:?}"
            );
        }
    }
    assert!(observer.raw.iter().all(|line| !line.contains("CANARY")));
    observer.assert_nothing_lost();
    observer.stop();
    server.kill().unwrap();
    server.wait().unwrap();
}

#[test]
fn a_mistake_is_one_line_that_names_its_place() {
    let directory = tempfile::tempdir().unwrap();
    let config = directory.path().join("config.toml");
    fs::write(&config, CONFIG.replace("paths", "path")).unwrap();
    for arguments in [&["snapshot", "--json"][..], &["top", "--batch", "-n", "1"], &["check", "requests<1"]] {
        let output = Command::new(&programs().hbpf).args(arguments).arg("--config").arg(&config).output().unwrap();
        let errors = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), errors.lines().count()), (Some(2), 1), "{errors}");
        assert!(errors.contains("config.toml: line 5: unknown field `path`"), "{errors}");
    }
}
