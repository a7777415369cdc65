//! Inference servers in their own words: stand-ins that say what a test wants, and real servers.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hbpf_core::exchange::{Dialect, Phase, Role};
use hbpf_core::snapshot::{Engine, EngineLatency, Hop, Snapshot, TokensSource};
use hbpf_e2e::{Client, DEADLINE, Namespace, Observer, Sums, full, host, programs, python, python_with, script, skip};
use serde_json::{Value, json};

/// Every hbpf asks every server, so one test runs at a time.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// No probes are needed to ask a server.
const ALONE: [&str; 2] = ["--no-tls", "--no-plain"];

const PLAIN: &str = "vllm:num_requests_running 3\n";

/// A stand-in with a server's name.
struct StandIn {
    client: Client,
    directory: tempfile::TempDir,
    port: u16,
}

impl StandIn {
    /// `None` where there is no Python.
    fn start(name: &str, answers: &Value) -> Option<Self> {
        Self::start_with(name, answers, &[])
    }

    fn start_with(name: &str, answers: &Value, arguments: &[&str]) -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let program = directory.path().join(name);
        fs::copy(script("engines/stand_in.py"), &program).unwrap();
        write_answers(directory.path(), answers);
        let client = Client::start(Command::new(python()?).arg(program).arg("serve").args(arguments));
        let port = client.ready["port"].as_u64().and_then(|port| u16::try_from(port).ok()).expect("it says its port");
        Some(Self { client, directory, port })
    }

    fn answer(&self, answers: &Value) {
        write_answers(self.directory.path(), answers);
    }

    /// What it was asked so far.
    fn asked(&self) -> Vec<Value> {
        let text = fs::read_to_string(self.directory.path().join("asked.ndjson")).unwrap_or_default();
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    fn asked_at(&self, path: &str) -> usize {
        self.asked().iter().filter(|asked| asked["path"] == path).count()
    }

    fn pid(&self) -> u32 {
        self.client.pid()
    }

    fn of<'a>(&self, frame: &'a Snapshot) -> Option<&'a Engine> {
        frame.engines.iter().find(|engine| engine.pid == self.pid())
    }

    /// What hbpf says of it once it is as it should be.
    fn until(&self, observer: &mut Observer, what: &str, holds: impl Fn(&Engine) -> bool) -> Engine {
        let frame = observer.until(what, |frame| self.of(frame).is_some_and(&holds));
        self.of(&frame).cloned().expect("it was there")
    }

    /// Why it tells nothing, once that is said.
    fn refusal(&self, observer: &mut Observer) -> String {
        let pid = format!("(pid {})", self.pid());
        let of = |frame: &Snapshot| {
            let errors = frame.errors.iter().filter(|error| error.source == "engines");
            errors.map(|error| error.message.to_string()).find(|message| message.contains(&pid))
        };
        let frame = observer.until("it is said why the server tells nothing", |frame| of(frame).is_some());
        assert!(self.of(&frame).is_none());
        of(&frame).expect("it was said")
    }
}

fn write_answers(directory: &Path, answers: &Value) {
    // In one step: what is half written is not read.
    let new = directory.join("new");
    fs::write(&new, answers.to_string()).unwrap();
    fs::rename(new, directory.join("answers.json")).unwrap();
}

fn metrics(body: &str) -> Value {
    json!({"/metrics": {"body": body}})
}

#[test]
fn servers_are_asked_little_and_nothing_that_changes_them() {
    let _alone = alone();
    let Some(vllm) = StandIn::start("vllm", &metrics(PLAIN)) else { return };
    let slots =
        r#"[{"id":0,"n_ctx":256,"is_processing":true,"prompt":"CANARYPROMPT","next_token":{"x":"CANARYTEXT"}}]"#;
    let props = r#"{"total_slots":1,"model_path":"/home/CANARYUSER/tiny.gguf","chat_template":"CANARYTEMPLATE"}"#;
    let of_llama = json!({"/metrics": {"status": 501}, "/slots": {"body": slots}, "/props": {"body": props}});
    let llama = StandIn::start("llama-server", &of_llama).unwrap();
    let loaded = r#"{"models":[{"name":"llama3:8b","size":4000000000,"size_vram":3000000000,"context_length":8192,
        "expires_at":"2030-01-01T00:00:00Z"}]}"#;
    let ollama = StandIn::start("ollama", &json!({"/api/ps": {"body": loaded}})).unwrap();
    let mut observer = Observer::spawn(&ALONE, &[]);
    let engine = vllm.until(&mut observer, "the vLLM answers", |engine| engine.requests_running == Some(3.0));
    assert_eq!((engine.kind.as_str(), engine.endpoint.as_str()), ("vllm", &*format!("127.0.0.1:{}", vllm.port)));
    let engine = llama.until(&mut observer, "llama.cpp tells slots and model", |engine| !engine.models.is_empty());
    assert_eq!((engine.requests_running, engine.slots_total, engine.context_tokens), (Some(1.0), Some(1), Some(256)));
    assert_eq!((engine.kind.as_str(), engine.models[0].as_str(), engine.problem), ("llama.cpp", "tiny.gguf", None));
    let engine = ollama.until(&mut observer, "Ollama tells its models", |engine| !engine.loaded_models.is_empty());
    let model = &engine.loaded_models[0];
    assert_eq!((model.name.as_str(), model.memory_bytes), ("llama3:8b", Some(4_000_000_000)));
    assert_eq!((model.gpu_memory_bytes, model.context_tokens), (Some(3_000_000_000), Some(8192)));
    assert_eq!(model.expires_at, Some("2030-01-01T00:00:00Z".parse().unwrap()));
    // Its row says who it is, although it has served nobody.
    let frame = observer.until("the process has a row", |frame| {
        frame.processes.iter().any(|process| process.pid == vllm.pid() && process.command.contains("vllm"))
    });
    let process = frame.processes.iter().find(|process| process.pid == vllm.pid()).unwrap();
    assert_eq!(process.start_time, vllm.of(&frame).unwrap().start_time);

    let began = (Instant::now(), vllm.asked_at("/metrics"));
    while vllm.asked_at("/metrics") < began.1 + 3 {
        observer.next_frame();
    }
    assert!(began.0.elapsed() > Duration::from_secs(3), "three questions are two pauses of two seconds");
    let text = Command::new(&programs().hbpf).args(["snapshot", "--duration", "2s"]).args(ALONE).output().unwrap();
    let text = String::from_utf8(text.stdout).unwrap();
    assert!(text.contains("\nInference servers\n") && text.contains("\nLoaded models\n"), "{text}");
    assert!(text.contains("llama3:8b") && text.contains("tiny.gguf"), "{text}");
    for piece in observer.raw.iter().chain([&text]) {
        assert!(!piece.contains("CANARY"), "text of a prompt is in the output");
    }
    for asked in [&vllm, &llama, &ollama].iter().flat_map(|server| server.asked()) {
        let headers: Vec<&str> = asked["headers"].as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(
            (asked["method"].as_str(), headers),
            (Some("GET"), vec!["Accept", "Connection", "Host", "User-Agent"])
        );
        assert!(["/metrics", "/slots", "/props", "/api/ps"].contains(&asked["path"].as_str().unwrap()), "{asked}");
    }
    observer.stop();
}

#[test]
fn switched_off_nobody_is_asked() {
    let _alone = alone();
    let Some(vllm) = StandIn::start("vllm", &metrics(PLAIN)) else { return };
    let mut off = Observer::spawn(&[&ALONE[..], &["--no-engines"]].concat(), &[]);
    // Another one that asks shows when there was time enough.
    off.next_frame();
    let mut on = Observer::spawn(&ALONE, &[]);
    vllm.until(&mut on, "it answers another hbpf", |_| true);
    on.stop();
    let asked = vllm.asked().len();
    assert!(asked > 0);
    for _ in 0..20 {
        assert!(off.next_frame().engines.is_empty());
    }
    assert_eq!(vllm.asked().len(), asked);
    off.stop();
}

#[test]
fn who_does_not_want_to_tell_is_left_alone_and_nobody_is_sent_elsewhere() {
    let _alone = alone();
    let Some(elsewhere) = StandIn::start("stand_in.py", &metrics(PLAIN)) else { return };
    let refusing = StandIn::start("litellm", &json!({"/metrics": {"status": 401, "body": PLAIN}})).unwrap();
    let away = format!("http://127.0.0.1:{}/metrics", elsewhere.port);
    let moved = json!({"status": 307, "headers": {"Location": away}});
    let sending = StandIn::start("vllm", &json!({"/metrics": moved, "/metrics/": moved})).unwrap();
    let slash =
        json!({"/metrics": {"status": 307, "headers": {"Location": "/metrics/"}}, "/metrics/": {"body": PLAIN}});
    let mounted = StandIn::start("vllm", &slash).unwrap();
    let endless = json!({"/metrics": {"endless": true, "body": "vllm:num_requests_running 3\n".repeat(1000)}});
    let endless = StandIn::start("vllm", &endless).unwrap();
    let web = StandIn::start("ollama", &json!({"/api/ps": {"body": "<html>ollama</html>"}})).unwrap();
    let mut observer = Observer::spawn(&ALONE, &[]);
    let mut says = |server: &StandIn, why: &str| {
        let refusal = server.refusal(&mut observer);
        assert!(refusal.ends_with(why), "{refusal}");
    };
    says(&refusing, "it answers 401");
    says(&sending, "it answers 307, a redirect");
    says(&endless, "its answer is longer than 1 MiB");
    says(&web, "its answer is none of a known inference server");
    mounted.until(&mut observer, "one below a path with a slash answers", |engine| {
        engine.requests_running == Some(3.0) && engine.output_tokens_per_second.is_none()
    });
    let asked = mounted.asked_at("/metrics/");
    while mounted.asked_at("/metrics/") < asked + 2 {
        observer.next_frame();
    }
    assert_eq!((refusing.asked().len(), mounted.asked_at("/metrics")), (1, 1), "it is asked again, but not so soon");
    assert!(elsewhere.asked().is_empty(), "a redirect was followed");
    observer.stop();
}

#[test]
fn one_that_hangs_costs_nobody_anything() {
    let _alone = alone();
    let Some(hanging) = StandIn::start("vllm", &json!({"/metrics": {"hang": true}})) else { return };
    let fine = StandIn::start("vllm", &metrics(PLAIN)).unwrap();
    // It accepts by its backlog and never reads.
    let mut observer = Observer::spawn(&ALONE, &[]);
    fine.until(&mut observer, "the other one answers", |_| true);
    assert!(hanging.refusal(&mut observer).ends_with("it does not answer within 2 s"));
    let frame = observer.next_frame();
    let fine = fine.of(&frame).expect("the other one is there");
    assert!(fine.problem.is_none() && fine.stale_seconds.is_some_and(|age| age < 30.0), "{fine:?}");

    // One that has answered keeps its numbers, and they grow old.
    let turning = StandIn::start("vllm", &metrics(PLAIN)).unwrap();
    turning.until(&mut observer, "it answers", |_| true);
    turning.answer(&json!({"/metrics": {"status": 503}}));
    let engine = turning.until(&mut observer, "its numbers grow old", |engine| {
        engine.problem.is_some() && engine.stale_seconds.is_some_and(|age| age > 3.0)
    });
    assert_eq!((engine.requests_running, engine.problem.as_deref()), (Some(3.0), Some("it answers 503")));
    turning.answer(&metrics("vllm:num_requests_running 4\n"));
    turning.until(&mut observer, "it answers again", |engine| {
        engine.problem.is_none() && engine.requests_running == Some(4.0)
    });
    let (port, pid) = (turning.port.to_string(), turning.pid());
    drop(turning);
    let next = StandIn::start_with("vllm", &metrics(PLAIN), &["--port", &port]).unwrap();
    assert_ne!(next.pid(), pid);
    let frame = observer.until("its successor is there, and it is not", |frame| {
        next.of(frame).is_some() && frame.engines.iter().all(|engine| engine.pid != pid)
    });
    assert_eq!(next.of(&frame).unwrap().requests_running, Some(3.0));
    observer.stop();
}

#[test]
fn servers_in_other_networks_are_asked_within() {
    let _alone = alone();
    let Some(_host) = host() else { return };
    let namespaces = [Namespace::new(), Namespace::new()];
    let start = |running: u32| metrics(&format!("vllm:num_requests_running {running}\n"));
    // The same address in each, and one in ours.
    let Some(ours) = StandIn::start("vllm", &start(1)) else { return };
    let port = ours.port.to_string();
    let inside: Vec<StandIn> = namespaces
        .iter()
        .zip(2..)
        .map(|(namespace, running)| {
            namespace
                .run(|| StandIn::start_with("vllm", &start(running), &["--host", "0.0.0.0", "--port", &port]))
                .unwrap()
        })
        .collect();
    let mut observer = Observer::spawn(&ALONE, &[]);
    for (server, running) in std::iter::once(&ours).chain(&inside).zip(1..) {
        server.until(&mut observer, "it answers with its own numbers", |engine| {
            engine.requests_running == Some(f64::from(running))
        });
    }
    let frame = observer.latest.as_ref().unwrap();
    assert_eq!(inside[0].of(frame).unwrap().endpoint.as_str(), format!("0.0.0.0:{port}"));
    observer.stop();
}

#[test]
fn what_hbpf_asks_is_no_traffic() {
    let _alone = alone();
    let Some(_host) = host() else { return };
    let Some(vllm) = StandIn::start("vllm", &metrics(PLAIN)) else { return };
    let mut observer = Observer::start();
    while vllm.asked().len() < 4 {
        observer.next_frame();
    }
    let frame = observer.next_frame();
    assert!(vllm.of(&frame).is_some());
    let process = frame.processes.iter().find(|process| process.pid == vllm.pid()).expect("it has a row");
    assert!(
        process.as_server.is_none() && process.as_client.is_none() && process.visibility.bytes_seen == 0,
        "{process:?}"
    );
    assert_eq!(Sums::at_port(&frame, vllm.port), Sums::default());
    let own: Vec<u32> = std::iter::once(observer.pid()).chain(hbpf_e2e::children(observer.pid())).collect();
    let is_own = |pid: &u32| own.contains(pid);
    let of_own = frame.processes.iter().filter(|process| is_own(&process.pid));
    assert!(of_own.into_iter().all(|process| process.as_client.is_none()));
    assert!(observer.finished.iter().all(|request| !request.pid.as_ref().is_some_and(is_own)));
    observer.stop();
}

/// A monitor of vLLM servers, by its lines of JSON.
struct Htop {
    child: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
}

impl Htop {
    fn start(python: &Path, port: u16) -> Self {
        let url = format!("http://127.0.0.1:{port}");
        let arguments = ["-m", "vllm_htop", "--output", "json", "--interval", "1", "--no-gpu-detect", "--url"];
        let mut command = Command::new(python);
        command.args(arguments).arg(url).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    /// The first line that is as it should be.
    fn until(&mut self, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
        let give_up = Instant::now() + DEADLINE;
        loop {
            assert!(Instant::now() < give_up, "vllm-htop: not in time: {what}");
            let line = self.lines.next().expect("it goes on").unwrap();
            let line: Value = serde_json::from_str(&line).expect("it writes JSON");
            if holds(&line) {
                return line;
            }
        }
    }
}

impl Drop for Htop {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A vLLM's metrics by their published names, with `scale` times as much counted; of one engine for each load.
fn vllm(scale: u32, loads: &[u32]) -> String {
    let mut text = String::new();
    let mut family = |name: &str, kind: &str, of: &dyn Fn(usize, u32) -> Vec<(&'static str, String)>| {
        text += &format!("# HELP {name} As vLLM says.\n# TYPE {name} {kind}\n");
        for (engine, load) in loads.iter().enumerate() {
            for (suffix, value) in of(engine, *load) {
                let (suffix, more) = suffix.split_once('{').unwrap_or((suffix, ""));
                text += &format!("{name}{suffix}{{{more}engine=\"{engine}\",model_name=\"org/model-8B\"}} {value}\n");
            }
        }
    };
    let one = |value: String| vec![("", value)];
    family("vllm:num_requests_running", "gauge", &|_, load| one(format!("{load}.0")));
    family("vllm:num_requests_waiting", "gauge", &|_, load| one(format!("{}.0", load / 3)));
    family("vllm:num_requests_swapped", "gauge", &|engine, _| one(format!("{engine}.0")));
    family("vllm:kv_cache_usage_perc", "gauge", &|_, load| one(format!("0.{load}25")));
    let counted = |per: u32| move |_: usize, load: u32| one(format!("{}.0", scale * load * per));
    family("vllm:prompt_tokens_total", "counter", &counted(410));
    family("vllm:generation_tokens_total", "counter", &counted(163));
    family("vllm:prefix_cache_queries_total", "counter", &counted(410));
    family("vllm:prefix_cache_hits_total", "counter", &|_, load| one(format!("{}.0", scale * scale * load * 100)));
    family("vllm:num_preemptions_total", "counter", &counted(1));
    family("vllm:request_success_total", "counter", &|_, load| {
        let ended = |part: u32| format!("{}.0", scale * load * part);
        vec![("{finished_reason=\"stop\",", ended(3)), ("{finished_reason=\"length\",", ended(1))]
    });
    let times = |shape: [u32; 3]| {
        move |_: usize, load: u32| {
            let [a, b, c] = shape.map(|part| part * load * scale * scale);
            vec![
                ("_bucket{le=\"0.05\",", format!("{a}.0")),
                ("_bucket{le=\"0.25\",", format!("{}.0", a + b)),
                ("_bucket{le=\"2.5\",", format!("{}.0", a + b + c)),
                ("_bucket{le=\"+Inf\",", format!("{}.0", a + b + c)),
                ("_sum", format!("{}.5", b + c)),
                ("_count", format!("{}.0", a + b + c)),
            ]
        }
    };
    family("vllm:time_to_first_token_seconds", "histogram", &times([5, 80, 15]));
    family("vllm:time_per_output_token_seconds", "histogram", &times([90, 8, 2]));
    family("vllm:e2e_request_latency_seconds", "histogram", &times([1, 9, 90]));
    family("vllm:request_queue_time_seconds", "histogram", &times([60, 30, 10]));
    text
}

fn assert_close(ours: Option<f64>, theirs: &Value, what: &str) {
    let theirs = theirs.as_f64();
    let is_close = ours.zip(theirs).is_some_and(|(ours, theirs)| (ours - theirs).abs() <= 1e-4 * theirs.abs().max(1.0));
    assert!(is_close, "{what}: hbpf says {ours:?}, vllm-htop {theirs:?}");
}

fn keys(value: &Value) -> Vec<&str> {
    value.as_object().expect("an object").keys().map(String::as_str).collect()
}

/// Each of its percentiles against ours.
fn assert_times(ours: &Option<EngineLatency>, theirs: &Value, what: &str) {
    let ours = ours.as_ref().unwrap_or_else(|| panic!("hbpf has no times: {what}"));
    for (name, value) in theirs.as_object().unwrap() {
        let of_ours = match name.as_str() {
            "p50" => ours.p50,
            "p95" | "p95_60s" => ours.p95,
            "p99" => ours.p99,
            other => panic!("vllm-htop has something new: {other}"),
        };
        assert_close(of_ours, value, &format!("{what} {name}"));
    }
}

#[test]
fn every_number_of_vllm_htop_is_there_and_equal() {
    let _alone = alone();
    let Some(python) = python_with("vllm_htop") else { return };
    let server = StandIn::start("vllm", &metrics(&vllm(1, &[6]))).unwrap();
    let mut observer = Observer::spawn(&ALONE, &[]);
    let mut htop = Htop::start(&python, server.port);
    // Both have read it twice, so that both compare with the same reading from now on.
    server.until(&mut observer, "hbpf has a rate", |engine| engine.output_tokens_per_second == Some(0.0));
    htop.until("vllm-htop has a rate", |line| line["replicas"][0]["throughput"]["gen_tokens_per_s"] == 0.0);
    server.answer(&metrics(&vllm(2, &[7])));
    let line = htop.until("vllm-htop sees the second state", |line| line["replicas"][0]["running"] == 7.0);
    let engine = server.until(&mut observer, "hbpf sees it", |engine| engine.requests_running == Some(7.0));
    let theirs = &line["replicas"][0];
    for key in keys(theirs) {
        match key {
            "model" => assert_eq!(theirs["model"].as_str(), engine.models.first().map(|model| model.as_str())),
            "running" => assert_close(engine.requests_running, &theirs[key], key),
            "waiting" => assert_close(engine.requests_waiting, &theirs[key], key),
            "swapped" => assert_close(engine.requests_swapped, &theirs[key], key),
            "kv_pct" => assert_close(engine.kv_cache_percent, &theirs[key], key),
            "prefix_cache_hit_pct_window" => {
                assert_close(engine.prefix_cache_hit_recent_percent, &theirs[key], key);
            }
            "prefix_cache_hit_pct_lifetime" => assert_close(engine.prefix_cache_hit_percent, &theirs[key], key),
            "lifetime" => {
                let whole = |value: Option<u64>| value.map(|value| value as f64);
                let lifetime = &theirs[key];
                assert_close(whole(engine.input_tokens_total), &lifetime["prompt_tokens_total"], "prompt tokens");
                assert_close(whole(engine.output_tokens_total), &lifetime["gen_tokens_total"], "generated tokens");
                assert_close(whole(engine.requests_finished_total), &lifetime["requests_total"], "requests");
            }
            "latency_seconds" => {
                assert_eq!(keys(&theirs[key]), ["e2e", "queue", "tpot", "ttft"]);
                assert_times(&engine.time_to_first_token_seconds, &theirs[key]["ttft"], "first token");
                assert_times(&engine.time_per_output_token_seconds, &theirs[key]["tpot"], "per token");
                assert_times(&engine.request_seconds, &theirs[key]["e2e"], "request");
                assert_times(&engine.queue_seconds, &theirs[key]["queue"], "queue");
            }
            "throughput" => {
                assert_eq!(keys(&theirs[key]), ["gen_tokens_per_s", "prompt_tokens_per_s", "requests_per_s"])
            }
            // Who it is, whether it answers, and the largest numbers since the monitor was started.
            "name" | "url" | "engine" | "status" | "session" => {}
            other => panic!("vllm-htop has something new: {other}"),
        }
    }
    assert_eq!(engine.preemptions_total, Some(14), "which vllm-htop does not tell");

    // Rates are over different times, so they are held against counts that grow with time.
    let growing = vllm(3, &[7])
        .replace(
            "vllm:prompt_tokens_total{engine=\"0\",model_name=\"org/model-8B\"} 8610.0",
            "vllm:prompt_tokens_total{engine=\"0\",model_name=\"org/model-8B\"} @9000@",
        )
        .replace(
            "vllm:generation_tokens_total{engine=\"0\",model_name=\"org/model-8B\"} 3423.0",
            "vllm:generation_tokens_total{engine=\"0\",model_name=\"org/model-8B\"} @4000@",
        );
    assert_eq!(growing.matches('@').count(), 4);
    server.answer(&metrics(&growing));
    let is_rate = |rate: Option<f64>, of: f64| rate.is_some_and(|rate| (rate / of - 1.0).abs() < 0.02);
    htop.until("vllm-htop has the rates", |line| {
        let rates = &line["replicas"][0]["throughput"];
        is_rate(rates["prompt_tokens_per_s"].as_f64(), 9000.0) && is_rate(rates["gen_tokens_per_s"].as_f64(), 4000.0)
    });
    server.until(&mut observer, "hbpf has the same", |engine| {
        is_rate(engine.input_tokens_per_second, 9000.0) && is_rate(engine.output_tokens_per_second, 4000.0)
    });
    observer.stop();
}

#[test]
fn every_column_of_its_replicas_is_there_and_equal() {
    let _alone = alone();
    let Some(python) = python_with("vllm_htop") else { return };
    let server = StandIn::start("vllm", &metrics(&vllm(1, &[4, 4]))).unwrap();
    let mut observer = Observer::spawn(&ALONE, &[]);
    let mut htop = Htop::start(&python, server.port);
    server.until(&mut observer, "hbpf has a rate", |engine| engine.output_tokens_per_second == Some(0.0));
    htop.until("vllm-htop has a rate", |line| line["replicas"][1]["throughput"]["gen_tokens_per_s"] == 0.0);
    server.answer(&metrics(&vllm(2, &[8, 3])));
    let line = htop.until("vllm-htop sees the second state", |line| line["replicas"][0]["running"] == 8.0);
    let engine = server.until(&mut observer, "hbpf sees it", |engine| engine.requests_running == Some(11.0));
    assert_eq!((line["replicas"].as_array().map(Vec::len), engine.replicas.len()), (Some(2), 2));
    let requests = |replica: &Value| replica["throughput"]["requests_per_s"].as_f64().unwrap();
    let all: f64 = line["replicas"].as_array().unwrap().iter().map(requests).sum();
    for (ours, theirs) in engine.replicas.iter().zip(line["replicas"].as_array().unwrap()) {
        assert_eq!(theirs["engine"].as_str(), Some(ours.label.as_str()));
        assert_close(ours.requests_running, &theirs["running"], "Run");
        assert_close(ours.requests_waiting, &theirs["waiting"], "Wait");
        assert_close(ours.requests_swapped, &theirs["swapped"], "Swap");
        assert_close(ours.kv_cache_percent, &theirs["kv_pct"], "KV%");
        assert_close(ours.prefix_cache_hit_recent_percent, &theirs["prefix_cache_hit_pct_window"], "Cache%");
        assert_close(ours.prefix_cache_hit_percent, &theirs["prefix_cache_hit_pct_lifetime"], "Cache% of all time");
        // It takes the times of one answer's replicas one after the other, so that their rates are over slightly different times.
        let shares = (ours.requests_share_percent.unwrap(), requests(theirs) / all * 100.0);
        assert!((shares.0 - shares.1).abs() < 1.0, "Req%: {shares:?}");
        assert_times(&ours.time_to_first_token_seconds, &theirs["latency_seconds"]["ttft"], "TTFT");
        assert_times(&ours.time_per_output_token_seconds, &theirs["latency_seconds"]["tpot"], "TPOT");
        let rates = [ours.requests_per_second, ours.input_tokens_per_second, ours.output_tokens_per_second];
        assert!(rates.iter().all(|rate| rate.is_some_and(|rate| rate > 0.0)), "{rates:?}");
    }
    let aggregate = &line["aggregate"];
    for key in keys(aggregate) {
        match key {
            "running_total" => assert_close(engine.requests_running, &aggregate[key], key),
            "waiting_total" => assert_close(engine.requests_waiting, &aggregate[key], key),
            "swapped_total" => assert_close(engine.requests_swapped, &aggregate[key], key),
            "kv_pct_max" => assert_close(engine.kv_cache_percent, &aggregate[key], key),
            "latency_ttft_p95_seconds" => {
                assert_close(engine.time_to_first_token_seconds.as_ref().unwrap().p95, &aggregate[key], key);
            }
            "latency_tpot_p95_seconds" => {
                assert_close(engine.time_per_output_token_seconds.as_ref().unwrap().p95, &aggregate[key], key);
            }
            "latency_e2e_p95_seconds" => {
                assert_close(engine.request_seconds.as_ref().unwrap().p95, &aggregate[key], key)
            }
            "up" | "total" | "prompt_tokens_per_s_total" | "gen_tokens_per_s_total" => {}
            other => panic!("vllm-htop has something new: {other}"),
        }
    }
    // With those that wait 10 and 4, where 7 would be even.
    assert_close(engine.replica_imbalance_percent, &json!(300.0 / 7.0), "imbalance");
    observer.stop();
}

/// A program of a real server.
struct Real(Child);

impl Drop for Real {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Real {
    /// Starts it and waits until it says, in its log, that it is ready.
    fn start(command: &mut Command, ready: &str) -> Self {
        let log = tempfile::NamedTempFile::new().unwrap();
        let out = || fs::File::options().append(true).open(log.path()).unwrap();
        let child = command.stdin(Stdio::null()).stdout(out()).stderr(out()).spawn().unwrap();
        let mut real = Self(child);
        let give_up = Instant::now() + 2 * DEADLINE;
        while !fs::read_to_string(log.path()).unwrap_or_default().contains(ready) {
            let has_ended = real.0.try_wait().unwrap().is_some();
            let log = || fs::read_to_string(log.path()).unwrap_or_default();
            assert!(!has_ended && Instant::now() < give_up, "the server did not start:\n{}", log());
            std::thread::sleep(Duration::from_millis(50));
        }
        real
    }

    fn pid(&self) -> u32 {
        self.0.id()
    }
}

/// A port that was free a moment ago: these servers take a number, not a listener.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// What `cargo xtask setup --full` installs; `None` (and said) where it is not there or the long suites do not run.
fn installed(path: &str) -> Option<PathBuf> {
    if !full() {
        return None;
    }
    let found = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target").join(path);
    if !found.is_file() {
        skip("HBPF_REQUIRE_CLIENTS", &format!("there is no target/{path}: `cargo xtask setup --full` makes it"));
        return None;
    }
    Some(found)
}

/// llama.cpp's own server with a tiny model of random weights.
fn llama_server(directory: &Path) -> Option<(Real, u16)> {
    let server = installed("llama-server/llama-server")?;
    let python = python_with("gguf")?;
    let model = directory.join("tiny.gguf");
    let made = Command::new(&python).arg(script("tiny_model.py")).arg(&model).status().unwrap();
    assert!(made.success(), "the tiny model could not be made");
    let port = free_port();
    let mut command = Command::new(server);
    command.arg("--model").arg(&model).args(["--host", "127.0.0.1", "--port", &port.to_string()]);
    command.args(["--metrics", "--slots", "--parallel", "2", "--threads", "1", "--ctx-size", "512"]);
    Some((Real::start(&mut command, "listening on http"), port))
}

fn sdk(python: &Path, port: u16, model: &str, [plain, streamed]: [usize; 2]) -> Value {
    let mut client = Client::start(
        Command::new(python)
            .arg(script("clients/sdk.py"))
            .args(["--api", "openai", "--mode", "async", "--base-url", &format!("http://127.0.0.1:{port}")])
            .args(["--streamed", &streamed.to_string(), "--plain", &plain.to_string(), "--model", model])
            .args(["--concurrency", "2", "--max-tokens", "20"]),
    );
    client.run()
}

#[test]
fn a_real_llama_cpp_and_hbpf_count_the_same_tokens() {
    let _alone = alone();
    let Some(_host) = host() else { return };
    let directory = tempfile::tempdir().unwrap();
    let Some((llama, port)) = llama_server(directory.path()) else { return };
    let Some(python) = python_with("openai") else { return };
    let mut observer = Observer::start();
    let of = |frame: &Snapshot| frame.engines.iter().find(|engine| engine.pid == llama.pid()).cloned();
    // Two readings without work are what the rest is compared with.
    observer.until("it is read twice, and its slots and properties", |frame| {
        of(frame).is_some_and(|it| {
            it.output_tokens_per_second.is_some() && it.slots_total.is_some() && !it.models.is_empty()
        })
    });
    let said = sdk(&python, port, "tiny", [12, 12]);
    assert_eq!(said["answers"].as_u64(), Some(24));
    let frame = observer.until("the counts have been compared", |frame| {
        of(frame).is_some_and(|engine| engine.agreement_tokens.is_some_and(|tokens| tokens > 400))
    });
    let engine = of(&frame).unwrap();
    assert_eq!(engine.agreement_percent, Some(100.0), "{engine:?}");
    assert_eq!(
        (engine.input_tokens_total, engine.output_tokens_total),
        (said["input"].as_u64(), said["output"].as_u64())
    );
    assert_eq!((engine.kind.as_str(), engine.models[0].as_str()), ("llama.cpp", "tiny.gguf"));
    assert_eq!((engine.slots_total, engine.requests_running, engine.requests_waiting), (Some(2), Some(0.0), Some(0.0)));
    assert!(engine.prefix_cache_hit_percent.is_some_and(|percent| percent > 0.0), "the prompt is always the same");
    // Nothing of what hbpf asked is among what it served.
    assert_eq!(Sums::of_server(&frame, llama.pid()).requests, 24);
    observer.stop();
}

#[test]
fn a_real_llama_cpp_is_read_in_its_own_dialect() {
    let _alone = alone();
    let Some(_host) = host() else { return };
    let directory = tempfile::tempdir().unwrap();
    let Some((_llama, port)) = llama_server(directory.path()) else { return };
    let mut observer = Observer::start();
    let call = |path: &str, body: &Value| {
        let url = format!("http://127.0.0.1:{port}{path}");
        let output = Command::new("curl").args(["-sSN", &url, "-d", &body.to_string()]).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let prompt = "the quick brown fox jumps over the lazy dog";
    let ask = |stream: bool| json!({"prompt": prompt, "n_predict": 24, "stream": stream, "ignore_eos": true});
    let counts = |answer: &str| {
        let answer: Value = serde_json::from_str(answer).unwrap_or_else(|error| panic!("{error}: {answer}"));
        ["tokens_evaluated", "tokens_predicted"].map(|name| answer[name].as_u64())
    };
    let whole = counts(&call("/completion", &ask(false)));
    let events = call("/completion", &ask(true));
    let last = events.lines().rfind(|line| line.starts_with("data: ")).unwrap();
    let streamed = counts(last.trim_start_matches("data: "));
    let infill = json!({"input_prefix": "fn main() {", "input_suffix": "}", "n_predict": 5});
    // A model that knows no infilling refuses it.
    let refusal: Value = serde_json::from_str(&call("/infill", &infill)).unwrap();
    let many = json!({"prompt": [prompt, "a b c"], "n_predict": 7, "ignore_eos": true});
    let many: Value = serde_json::from_str(&call("/completion", &many)).unwrap();
    let sum = |name: &str| many.as_array().unwrap().iter().map(|answer| answer[name].as_u64().unwrap()).sum::<u64>();
    let sums = [Some(sum("tokens_evaluated")), Some(sum("tokens_predicted"))];

    let rows = observer.until_rows(Role::Client, port, 4);
    for (row, expected, stream) in [(0, whole, false), (1, streamed, true), (3, sums, false)] {
        let row = &rows[row];
        assert_eq!([row.tokens.input, row.tokens.output], expected, "{row:?}");
        assert_eq!((row.dialect, row.provider.as_str(), row.stream), (Dialect::LlamaCpp, "llama.cpp", Some(stream)));
        assert_eq!((row.phase, row.tokens_source), (Phase::Done, TokensSource::Reported));
    }
    assert!(rows[1].time_to_first_token_seconds.is_some() && rows[1].response_model.is_some(), "{:?}", rows[1]);
    let error = &refusal["error"]["type"];
    assert_eq!((rows[2].phase, rows[2].error_type.as_deref()), (Phase::Failed, error.as_str()), "{refusal}");
    observer.assert_nothing_lost();
    observer.stop();
}

#[test]
fn a_real_litellm_tells_what_passes_through_it() {
    let _alone = alone();
    let Some(_host) = host() else { return };
    let directory = tempfile::tempdir().unwrap();
    let Some(litellm) = installed("venv-engines/bin/litellm") else { return };
    let Some((llama, upstream)) = llama_server(directory.path()) else { return };
    let Some(python) = python_with("openai") else { return };
    let config = directory.path().join("config.yaml");
    let mut file = fs::File::create(&config).unwrap();
    write!(
        file,
        "model_list:\n  - model_name: tiny\n    litellm_params:\n      model: openai/tiny\n      \
         api_base: http://127.0.0.1:{upstream}/v1\n      api_key: none\nlitellm_settings:\n  callbacks: [\"prometheus\"]\n"
    )
    .unwrap();
    let port = free_port();
    let mut command = Command::new(litellm);
    command.arg("--config").arg(&config).args(["--host", "127.0.0.1", "--port", &port.to_string()]);
    command.env("LITELLM_LOCAL_MODEL_COST_MAP", "True");
    // Without a key of its own it asks nobody for one.
    command.env("LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY", "true");
    let proxy = Real::start(&mut command, "Uvicorn running");
    let mut observer = Observer::start();
    let of = |frame: &Snapshot, pid| frame.engines.iter().find(|engine| engine.pid == pid).cloned();
    observer.until("both are read twice", |frame| {
        [proxy.pid(), llama.pid()]
            .iter()
            .all(|pid| of(frame, *pid).is_some_and(|it| it.output_tokens_per_second.is_some()))
    });
    let said = sdk(&python, port, "tiny", [12, 0]);
    assert_eq!(said["answers"].as_u64(), Some(12));
    let frame = observer.until("the proxy has counted all", |frame| {
        of(frame, proxy.pid()).is_some_and(|engine| engine.requests_finished_total == Some(12))
    });
    let engine = of(&frame, proxy.pid()).unwrap();
    assert_eq!((engine.kind.as_str(), engine.models[0].as_str()), ("litellm", "tiny"));
    assert_eq!(
        (engine.input_tokens_total, engine.output_tokens_total),
        (said["input"].as_u64(), said["output"].as_u64())
    );
    assert_eq!(engine.requests_running, Some(0.0), "the one in flight was hbpf's own");
    let frame = observer.until("the counts of the proxy have been compared", |frame| {
        of(frame, proxy.pid()).is_some_and(|engine| engine.agreement_tokens.is_some_and(|tokens| tokens > 200))
    });
    assert_eq!(of(&frame, proxy.pid()).unwrap().agreement_percent, Some(100.0));
    // Each call is seen at three places: the client's, the proxy's on either side, and llama.cpp's. It counts once.
    let totals = &frame.totals;
    assert_eq!((totals.tokens.input, totals.tokens.output), (said["input"].as_u64(), said["output"].as_u64()));
    // Two were under way before it was known for a gateway.
    assert!((12..=14).contains(&totals.requests_total), "{} requests", totals.requests_total);
    let hops: Vec<_> = frame.requests.recent.iter().map(|request| (request.command.as_str(), request.hop)).collect();
    assert_eq!(hops.iter().filter(|(_, hop)| *hop == Some(Hop::Gateway)).count(), 24, "both ends of each: {hops:?}");
    observer.stop();
}
