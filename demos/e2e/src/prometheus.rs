//! A real Prometheus.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::{DEADLINE, curl, free_port, installed, script, skip};

/// A Prometheus of Debian's, or a VictoriaMetrics, which has its API. It is killed with this.
pub struct Prometheus {
    child: Child,
    port: u16,
    _directory: tempfile::TempDir,
}

/// One of the programs that come with it. `None` where there is none; then the reason has been printed.
pub fn prometheus_tool(name: &str) -> Option<PathBuf> {
    let program = installed("prometheus/usr/bin").join(name);
    if !program.exists() {
        skip("HBPF_REQUIRE_CLIENTS", "there is no Prometheus: `cargo xtask setup --full` fetches it");
        return None;
    }
    Some(program)
}

impl Prometheus {
    /// Has one ask what answers at these ports, every second, and evaluate all rules as often.
    pub fn start(ports: &[u16], features: &[&str]) -> Option<Self> {
        let program = prometheus_tool("prometheus")?;
        let directory = tempfile::tempdir().unwrap();
        let port = free_port();
        let rules = fs::read_to_string(script("../deploy/prometheus/fleet-rules.yml")).unwrap();
        let every = |line: &str| {
            if line.trim().starts_with("interval:") { "    interval: 1s\n".into() } else { format!("{line}\n") }
        };
        let often = directory.path().join("fleet-rules.yml");
        fs::write(&often, rules.lines().map(every).collect::<String>()).unwrap();
        let configuration = format!(
            "global: {{ scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s }}\n\
             rule_files: ['{}', '{}']\nscrape_configs:\n- job_name: hbpf\n  honor_labels: true\n  \
             static_configs: [{{ targets: [{}] }}]\n",
            script("../deploy/prometheus/alerts.yml").display(),
            often.display(),
            ports.iter().map(|port| format!("'127.0.0.1:{port}'")).collect::<Vec<_>>().join(", ")
        );
        let file = directory.path().join("prometheus.yml");
        fs::write(&file, configuration).unwrap();
        let mut command = Command::new(program);
        command.arg(format!("--config.file={}", file.display()));
        command.arg(format!("--storage.tsdb.path={}", directory.path().join("data").display()));
        command.arg(format!("--web.listen-address=127.0.0.1:{port}")).args(features);
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        Some(Self { child, port, _directory: directory })
    }

    /// A VictoriaMetrics, which takes OTLP over HTTP, and asks what answers at these ports.
    pub fn start_victoria(port: u16, asked: &[u16]) -> Option<Self> {
        let program = installed("victoria-metrics/usr/bin/victoria-metrics");
        if !program.exists() {
            skip("HBPF_REQUIRE_CLIENTS", "there is no VictoriaMetrics: `cargo xtask setup --full` fetches it");
            return None;
        }
        let directory = tempfile::tempdir().unwrap();
        let targets = asked.iter().map(|port| format!("'127.0.0.1:{port}'")).collect::<Vec<_>>().join(", ");
        let configuration = format!(
            "global: {{ scrape_interval: 1s }}\nscrape_configs:\n- job_name: hbpf\n  honor_labels: true\n  \
             static_configs: [{{ targets: [{targets}] }}]\n"
        );
        let file = directory.path().join("scrape.yml");
        fs::write(&file, configuration).unwrap();
        let mut command = Command::new(program);
        command.arg(format!("-storageDataPath={}", directory.path().join("data").display()));
        command
            .arg(format!("-httpListenAddr=127.0.0.1:{port}"))
            .args(["-retentionPeriod=1d", "-search.latencyOffset=0s"]);
        command.arg(format!("-promscrape.config={}", file.display()));
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        Some(Self { child, port, _directory: directory })
    }

    /// Has it answer nobody any more.
    pub fn stop(&self) {
        kill(Pid::from_raw(self.child.id().cast_signed()), Signal::SIGSTOP).expect("it lives");
    }

    /// Where it answers.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// What an expression gives now: of each series its labels and value.
    pub fn query(&self, expression: &str) -> Vec<(Value, f64)> {
        let mut command = Command::new("curl");
        command.args(["-G", "--data-urlencode"]).arg(format!("query={expression}"));
        command.arg(format!("http://127.0.0.1:{}/api/v1/query", self.port));
        let (status, body) = curl(command);
        if status == 0 {
            // It starts.
            return Vec::new();
        }
        let answer: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(answer["status"], "success", "{expression}: {answer}");
        let rows = answer["data"]["result"].as_array().cloned().unwrap_or_default();
        rows.iter().map(|row| (row["metric"].clone(), row["value"][1].as_str().unwrap().parse().unwrap())).collect()
    }

    /// What it answers there; nothing while it starts.
    pub fn get(&self, path: &str) -> Value {
        let mut command = Command::new("curl");
        command.arg(format!("http://127.0.0.1:{}{path}", self.port));
        serde_json::from_slice(&curl(command).1).unwrap_or_default()
    }

    /// Its one value.
    pub fn value(&self, expression: &str) -> Option<f64> {
        self.query(expression).first().map(|(_, value)| *value)
    }

    /// Waits until that is its value.
    pub fn until(&self, expression: &str, wanted: f64) {
        let give_up = Instant::now() + DEADLINE;
        while self.value(expression) != Some(wanted) {
            let about = || (self.value(expression), self.value("up"), self.value("scrape_duration_seconds"));
            assert!(
                Instant::now() < give_up,
                "{expression} is not {wanted}: {:?}, {}",
                about(),
                self.get("/api/v1/targets")
            );
            thread::sleep(Duration::from_millis(250));
        }
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
