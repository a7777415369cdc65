//! The Helm chart: what it renders is what Kubernetes and the agent take.

use std::collections::BTreeMap;
use std::fs;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use hbpf_e2e::{DEADLINE, curl, full, host, installed, programs, script, skip};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::Deserialize;

/// What a rendered chart tells an agent.
#[derive(Deserialize, PartialEq)]
struct Rendered {
    values: String,
    helm: String,
    kubernetes: String,
    arguments: Vec<String>,
    variables: BTreeMap<String, String>,
    files: BTreeMap<String, String>,
}

/// Where the chart puts files.
const PLACE: &str = "/etc/hbpf";

/// Starts an agent so, and ends it when it answers.
fn start(told: &Rendered) {
    let directory = tempfile::tempdir().unwrap();
    let place = directory.path().display().to_string();
    for (name, text) in &told.files {
        fs::write(directory.path().join(name), text.replace(PLACE, &place)).unwrap();
    }
    let socket = directory.path().join("agent.sock");
    let errors = directory.path().join("errors");
    let mut command = Command::new(&programs().hbpf);
    command.args(told.arguments.iter().map(|argument| argument.replace(PLACE, &place)));
    command.args(["--config", &format!("{place}/config.toml"), "--listen", &format!("unix:{}", socket.display())]);
    command.envs(&told.variables).stdin(Stdio::null()).stdout(Stdio::null()).stderr(fs::File::create(&errors).unwrap());
    let mut agent = command.spawn().expect("hbpf starts");
    let said = || format!("{} by {}: {}", told.values, told.helm, fs::read_to_string(&errors).unwrap_or_default());
    let give_up = Instant::now() + DEADLINE;
    loop {
        let mut ask = Command::new("curl");
        ask.arg("--unix-socket").arg(&socket).arg("http://localhost/metrics");
        let (status, body) = curl(ask);
        if status == 200 {
            let text = String::from_utf8(body).unwrap();
            let is_told = told.files["config.toml"].contains("honeybeepf_metrics = true");
            assert_eq!(text.contains("honeybeepf_active_probes"), is_told, "{}", said());
            break;
        }
        assert!(agent.try_wait().unwrap().is_none() && Instant::now() < give_up, "it does not answer: {}", said());
        thread::sleep(Duration::from_millis(100));
    }
    kill(Pid::from_raw(agent.id().cast_signed()), Signal::SIGTERM).unwrap();
    assert!(agent.wait().unwrap().success(), "{}", said());
    // That no collector is there is said; nothing else is.
    let text = fs::read_to_string(&errors).unwrap();
    assert!(text.lines().all(|line| line.contains("not exported")), "{}", said());
    assert!(!text.contains("CANARYHEADER"), "{}", said());
}

#[test]
fn what_the_chart_renders_is_taken_by_kubernetes_and_by_the_agent() {
    if !full() {
        return;
    }
    let Some(_host) = host() else { return };
    let python = installed("venv-sdks/bin/python");
    let helms = ["helm3", "helm4"].map(|name| installed("helm").join(name));
    if !python.exists() || helms.iter().any(|helm| !helm.exists()) {
        return skip(
            "HBPF_REQUIRE_CLIENTS",
            "there is no helm: `cargo xtask setup --full` fetches it, and what reads what it writes",
        );
    }
    let output = Command::new(python).arg(script("charts/render.py")).args(&helms).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let rendered: Vec<Rendered> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let count = |of: fn(&Rendered) -> &String| {
        let all: std::collections::BTreeSet<_> = rendered.iter().map(of).collect();
        all.len()
    };
    let values = fs::read_dir(script("../charts/honeybeepf/ci")).unwrap().count();
    assert_eq!((count(|it| &it.values), count(|it| &it.helm), count(|it| &it.kubernetes)), (values, 2, 2));
    // One that is told the same as another need not be started.
    let mut started: Vec<&Rendered> = Vec::new();
    for told in &rendered {
        let is_same = |other: &&Rendered| {
            (&other.arguments, &other.variables, &other.files) == (&told.arguments, &told.variables, &told.files)
        };
        if !started.iter().any(is_same) {
            start(told);
            started.push(told);
        }
    }
    // What it may do is told to Kubernetes alone.
    assert_eq!(started.len(), values - 1);
}
