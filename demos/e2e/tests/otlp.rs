//! What `hbpf agent` sends to an OpenTelemetry collector, as a receiver of the official protocol's messages has it.

use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use hbpf_e2e::{
    Agent, Client, DEADLINE, Prometheus, Server, children, free_port, host, installed, python, script, skip,
};
use serde_json::Value;

const CALLS: u64 = 12;

/// The receiver, told what to do by lines.
struct Receiver(Client);

impl Receiver {
    fn start() -> Option<Self> {
        let python = installed("venv-sdks/bin/python");
        let has_it = || {
            let mut command = Command::new(&python);
            command.args(["-c", "import grpc, opentelemetry.proto"]).status().is_ok_and(|status| status.success())
        };
        if !python.exists() || !has_it() {
            skip("HBPF_REQUIRE_CLIENTS", "there is no receiver's package: `cargo xtask setup --full` installs it");
            return None;
        }
        Some(Self(Client::start(Command::new(python).arg(script("receivers/otlp.py")))))
    }

    fn endpoint(&self, protocol: &str) -> String {
        let port = if protocol == "grpc" { "grpc" } else { "http" };
        format!("http://127.0.0.1:{}", self.0.ready[port])
    }

    fn exports(&mut self) -> Vec<Value> {
        self.0.tell("metrics").as_array().cloned().unwrap_or_default()
    }

    /// Points of a metric in an export: attributes and themselves.
    fn points(export: &Value, name: &str) -> Vec<Value> {
        let metrics = export["resourceMetrics"][0]["scopeMetrics"][0]["metrics"].as_array().unwrap();
        let Some(metric) = metrics.iter().find(|metric| metric["name"] == name) else { return Vec::new() };
        let data = ["sum", "gauge", "histogram", "exponentialHistogram"]
            .into_iter()
            .find_map(|kind| metric.get(kind))
            .unwrap();
        data["dataPoints"].as_array().unwrap().clone()
    }

    fn attribute<'a>(point: &'a Value, name: &str) -> Option<&'a str> {
        let all = point["attributes"].as_array()?;
        let value = &all.iter().find(|pair| pair["key"] == name)?["value"];
        value["stringValue"].as_str()
    }

    /// The sum of a counter's points of exchanges within the test's tree of processes, over exports.
    fn sum(exports: &[Value], name: &str, more: (&str, &str)) -> f64 {
        let points = exports.iter().flat_map(|export| Self::points(export, name));
        points
            .filter(|point| {
                Self::attribute(point, "hbpf.role") == Some("internal")
                    && Self::attribute(point, more.0) == Some(more.1)
            })
            .map(|point| point["asDouble"].as_f64().unwrap_or(0.0))
            .sum()
    }

    fn until(&mut self, what: &str, holds: impl Fn(&[Value]) -> bool) -> Vec<Value> {
        let give_up = Instant::now() + DEADLINE;
        loop {
            let exports = self.exports();
            if holds(&exports) {
                return exports;
            }
            assert!(Instant::now() < give_up, "not in time: {what}, after {} exports", exports.len());
            thread::sleep(Duration::from_millis(200));
        }
    }
}

fn client(server: &Server, python: &Path) -> Client {
    let mut command = Command::new(python);
    command.arg(script("clients/stdlib.py")).args(["--base-url", &server.plain_url(), "--threads", "1"]);
    command.args(["--count", &CALLS.to_string(), "--model", "demo"]);
    command.env("HBPF_DEMO_PROMPT", "CANARYPROMPT").env("HBPF_DEMO_KEY", "CANARYKEY");
    Client::start(&mut command)
}

const OUTPUT: (&str, &str) = ("type", "output");

fn arrives(protocol: &str) {
    let Some(_host) = host() else { return };
    let Some(python) = python() else { return };
    let Some(mut receiver) = Receiver::start() else { return };
    let server = Server::start(&["--ttft", "20", "--rate", "400", "--word", "CANARYANSWER"]);
    let endpoint = receiver.endpoint(protocol);
    let arguments = ["--no-tls", "--otlp-endpoint", &endpoint, "--otlp-protocol", protocol, "--otlp-spans"];
    let agent = Agent::start_with(
        &arguments,
        &[
            ("OTEL_METRIC_EXPORT_INTERVAL", "500"),
            ("OTEL_BSP_SCHEDULE_DELAY", "200"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "x-secret=CANARY-header"),
            ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip"),
            ("OTEL_RESOURCE_ATTRIBUTES", "k8s.node.name=n1"),
            ("OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION", "base2_exponential_bucket_histogram"),
        ],
    );
    // While the collector is away, and with an answer that is none: nothing is told twice, and nothing is missing at the end.
    receiver.0.tell("refuse 3");
    let mut client = client(&server, &python);
    client.run();
    let truth = server.truth(CALLS as usize);
    let exports = receiver.until("all output was told", |exports| {
        exports.last().is_some_and(|last| {
            Receiver::sum(std::slice::from_ref(last), "hbpf.llm.tokens", OUTPUT) == truth.output as f64
        })
    });
    let last = exports.last().unwrap();
    let usage = Receiver::points(last, "gen_ai.client.token.usage");
    let output: Vec<_> =
        usage.iter().filter(|point| Receiver::attribute(point, "gen_ai.token.type") == Some("output")).collect();
    let [output] = &output[..] else { panic!("{usage:?}") };
    assert_eq!(output["count"], CALLS.to_string(), "as text, by protobuf's JSON");
    assert_eq!(output["sum"].as_f64(), Some(truth.output as f64));
    assert_eq!(output["scale"], 3);
    assert_eq!(Receiver::attribute(output, "gen_ai.operation.name"), Some("chat"));
    assert_eq!(Receiver::attribute(output, "gen_ai.request.model"), Some("demo"));
    assert_eq!(Receiver::attribute(output, "server.address"), Some("127.0.0.1"));
    let of_server = Receiver::points(last, "gen_ai.server.time_to_first_token");
    assert_eq!(of_server[0]["count"], CALLS.to_string());
    let resource = last["resourceMetrics"][0]["resource"]["attributes"].to_string();
    assert!(
        resource.contains("service.name") && resource.contains("k8s.node.name") && resource.contains("host.name"),
        "{resource}"
    );
    let headers = receiver.0.tell("headers");
    assert!(headers.to_string().contains("CANARY-header"));
    // A span for each end of each call.
    let give_up = Instant::now() + DEADLINE;
    let spans = loop {
        let spans = receiver.0.tell("spans").as_array().cloned().unwrap_or_default();
        if spans.len() as u64 >= 2 * CALLS {
            break spans;
        }
        assert!(Instant::now() < give_up, "{} spans", spans.len());
        thread::sleep(Duration::from_millis(200));
    };
    assert_eq!(spans.len() as u64, 2 * CALLS);
    assert!(
        spans
            .iter()
            .all(|span| span["name"] == "chat demo" && span["traceId"].as_str().is_some_and(|id| id.len() == 24))
    );
    let kinds = |kind: &str| spans.iter().filter(|span| span["kind"] == kind).count() as u64;
    assert_eq!((kinds("SPAN_KIND_CLIENT"), kinds("SPAN_KIND_SERVER")), (CALLS, CALLS));
    let text = Value::Array(exports).to_string() + &Value::Array(spans).to_string();
    assert!(!text.contains("CANARY"), "text of requests or answers was sent");
    assert!(
        !agent.get_metrics("text/plain").contains("CANARY") && agent.said().iter().all(|line| !line.contains("CANARY"))
    );
    // What is asked of it after is said: the collector refuses a part.
    receiver.0.tell("partial");
    let mut agent = agent;
    agent.until("it counts", |agent| {
        agent.get_metrics("text/plain").contains("hbpf_agent_otlp_rejected_total{signal=\"metrics\"} 1.0")
    });
    let (status, _) = agent.stop();
    assert!(status.success());
}

#[test]
fn it_arrives_over_grpc() {
    arrives("grpc");
}

#[test]
fn it_arrives_over_http() {
    arrives("http/protobuf");
}

/// With a server that is not there at first.
#[test]
fn it_arrives_at_a_real_server() {
    let Some(_host) = host() else { return };
    let Some(python) = python() else { return };
    let server = Server::start(&["--ttft", "20", "--rate", "400"]);
    let port = free_port();
    let endpoint = format!("http://127.0.0.1:{port}/opentelemetry");
    let mut agent =
        Agent::spawn(&["--no-tls", "--otlp-endpoint", &endpoint], &[("OTEL_METRIC_EXPORT_INTERVAL", "500")]);
    agent.until("it watches", |agent| String::from_utf8_lossy(&agent.get("/readyz").1).contains("llm-plain: on"));
    let mut client = client(&server, &python);
    client.run();
    let truth = server.truth(CALLS as usize);
    let failures = |agent: &Agent| {
        let text = agent.get_metrics("text/plain");
        let line =
            text.lines().find_map(|line| line.strip_prefix("hbpf_agent_otlp_failures_total{signal=\"metrics\"} "));
        line.and_then(|value| value.parse().ok()).unwrap_or(0.0)
    };
    agent.until("it is counted that nobody takes them", |agent| failures(agent) >= 3.0);
    assert_eq!(agent.get("/readyz").0, 503, "nobody takes what it exports");
    let Some(victoria) = Prometheus::start_victoria(port, &[]) else { return };
    let of = |name: &str, more: &str| format!(r#"sum({{__name__="{name}","hbpf.role"="internal"{more}}})"#);
    victoria.until(&of("hbpf.llm.requests_ended", ""), truth.requests as f64);
    victoria.until(&of("hbpf.llm.tokens", r#","type"="output""#), truth.output as f64);
    agent.until("all is well", |agent| agent.get("/readyz").0 == 200);
    // It hangs, and the agent is to end.
    victoria.stop();
    let began = Instant::now();
    assert!(agent.stop().0.success());
    assert!(began.elapsed() < DEADLINE / 2, "{:?}", began.elapsed());
}

#[test]
fn differences_add_up_whatever_happens_on_the_way() {
    let Some(_host) = host() else { return };
    let Some(python) = python() else { return };
    let Some(mut receiver) = Receiver::start() else { return };
    let server = Server::start(&["--ttft", "20", "--rate", "400", "--word", "CANARYANSWER"]);
    let endpoint = receiver.endpoint("http/protobuf");
    let agent = Agent::start_with(
        &["--no-tls", "--otlp-endpoint", &endpoint],
        &[
            ("OTEL_METRIC_EXPORT_INTERVAL", "400"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "1000"),
            ("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "delta"),
        ],
    );
    let mut client = client(&server, &python);
    client.go();
    // Refused, then taken without a word: the one is told again, the other is not.
    receiver.0.tell("refuse 2");
    thread::sleep(Duration::from_secs(1));
    receiver.0.tell("hang");
    client.result();
    let truth = server.truth(CALLS as usize);
    let name = "hbpf.llm.tokens";
    receiver.until("all output was told", |exports| Receiver::sum(exports, name, OUTPUT) >= truth.output as f64);
    let mut agent = agent;
    agent.until("all three are counted", |agent| {
        let text = agent.get_metrics("text/plain");
        let is = |what: &str| text.contains(&format!("hbpf_agent_otlp_{what}\n"));
        is("failures_total{signal=\"metrics\"} 3.0") && is("unconfirmed_total{signal=\"metrics\"} 1.0")
    });
    // Another publisher tells what has come since, and not all of it again.
    let publisher = *children(agent.pid()).last().unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(publisher.cast_signed()), nix::sys::signal::Signal::SIGKILL)
        .unwrap();
    agent.until("another one answers", |agent| {
        agent.get("/healthz").0 == 200 && !children(agent.pid()).contains(&publisher)
    });
    let (status, _) = agent.stop();
    assert!(status.success());
    let exports = receiver.exports();
    assert_eq!(Receiver::sum(&exports, name, OUTPUT), truth.output as f64, "each token once, the last export included");
    let ended: f64 = Receiver::sum(&exports, "hbpf.llm.requests_ended", ("outcome", "completed"));
    assert_eq!(ended, truth.requests as f64);
}
