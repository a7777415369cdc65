//! `demo`: a stand-in model server, real clients, and hbpf looking at them.
//!
//! Every process started here holds the reading end of a pipe of ours as its standard input and ends when that closes, so
//! nothing is left behind even if we are killed.

use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use serde_json::Value;

use crate::privilege::Privilege;
use crate::setup;
use crate::tools::{cargo, root, run, target_directory, works};

/// Frames of a real run of this demo, for where probes cannot be loaded.
const RECORDING: &str = "demos/recording.ndjson";
/// Models asked for; their names tell the server how to answer.
const MODELS: [&str; 4] =
    ["demo-fast-90tps-150ms", "demo-steady-50tps-350ms", "demo-slow-15tps-900ms-40tok", "demo-thinks-12think"];
/// Calls of one curl: each process is a row for a while, and the table should not be all curl.
const CALLS_PER_CURL: usize = 6;
/// Requests that a shared recording keeps in a frame: more than a screen shows, and a tenth of what there is.
const SHARED_REQUESTS: usize = 24;
/// Digits behind the first that numbers of a shared recording keep.
const SHARED_DIGITS: usize = 3;
/// How long without `--seconds` when there is no terminal to draw on.
const DEFAULT_SECONDS: u64 = 10;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Print a snapshot at the end instead of opening the live view
    #[arg(long)]
    no_ui: bool,
    /// How long to watch; the live view lasts until it is left
    #[arg(long, value_name = "N")]
    seconds: Option<u64>,
    /// Build without optimisation: sooner ready, but hbpf's own cost is then no measure
    #[arg(long)]
    dev: bool,
    /// Play the bundled recording even where probes could be loaded
    #[arg(long)]
    recording: bool,
    /// Write frames of this run, one a second, to a file instead of opening the live view
    #[arg(long, value_name = "FILE", conflicts_with = "recording")]
    record: Option<PathBuf>,
}

impl Arguments {
    /// For so many seconds, or the recording, without a terminal.
    pub(crate) fn for_test(seconds: Option<u64>) -> Self {
        Self { no_ui: true, seconds, dev: true, recording: seconds.is_none(), record: None }
    }
}

pub(crate) fn run_chore(arguments: &Arguments) -> Result<()> {
    let programs = build(arguments.dev)?;
    let with_ui = !arguments.no_ui && arguments.record.is_none() && std::io::stdout().is_terminal();
    if arguments.recording {
        return play(&programs, with_ui, "as asked for");
    }
    let Some(privileged) = Privilege::find(with_ui) else {
        return play(&programs, with_ui, "loading probes needs root, and there is no sudo to become it");
    };
    if !privileged.can_probe(&programs.hbpf) {
        return play(
            &programs,
            with_ui,
            "`hbpf doctor` says that probes cannot be loaded here; run it for the reasons",
        );
    }

    let load = Load::start(&programs)?;
    for line in &load.about {
        println!("demo: {line}");
    }
    let seconds = arguments.seconds.unwrap_or(DEFAULT_SECONDS);
    let mut hbpf = privileged.command(&programs.hbpf);
    if let Some(file) = &arguments.record {
        hbpf.args(["snapshot", "--json", "--interval", "1s", "--count", &seconds.to_string()]);
        return record(&mut hbpf, file);
    } else if with_ui {
        hbpf.arg("top");
    } else {
        hbpf.args(["snapshot", "--duration", &format!("{seconds}s")]);
    }
    // The demo is all that this machine is for: on one of two processors that is busy besides, its load is at the edge of what hbpf allows
    // itself by default, and who looks for the first time would see probes being switched off. What it costs is shown all the same.
    run(hbpf.args(["--max-overhead", "off"]))
}

/// Writes the frames that a command prints to a file, without what tells of the machine they were taken on.
fn record(hbpf: &mut Command, file: &Path) -> Result<()> {
    let mut out = BufWriter::new(File::create(file).with_context(|| format!("cannot write {}", file.display()))?);
    let mut child = hbpf.stdout(Stdio::piped()).spawn().context("cannot run hbpf")?;
    for line in BufReader::new(child.stdout.take().context("its output is piped")?).lines() {
        let mut frame: Value = serde_json::from_str(&line?)?;
        make_shareable(&mut frame);
        serde_json::to_writer(&mut out, &frame)?;
        out.write_all(b"\n")?;
    }
    let status = child.wait()?;
    ensure!(status.success(), "hbpf ended with {status}");
    Ok(out.flush()?)
}

/// Leaves out processes that have nothing to do with the demo, and names of host, users and directories.
fn make_shareable(frame: &mut Value) {
    frame["host"]["hostname"] = "demo".into();
    let processes = frame["processes"].as_array_mut().map(std::mem::take).unwrap_or_default();
    let talks = |process: &Value| !(process["as_client"].is_null() && process["as_server"].is_null());
    frame["processes"] = processes.into_iter().filter(talks).map(without_places).collect();
    for left_out in ["errors", "workloads"] {
        frame[left_out] = Value::Array(Vec::new());
    }
    frame["requests"]["finished"] = Value::Array(Vec::new());
    if let Some(recent) = frame["requests"]["recent"].as_array_mut() {
        recent.truncate(SHARED_REQUESTS);
    }
    // The page of models and endpoints shows percentiles only.
    for rows in ["models", "endpoints"] {
        for row in frame[rows].as_array_mut().into_iter().flatten() {
            without_buckets(&mut row["stats"]["latency"]);
        }
    }
    rounded(frame);
}

/// Floating point numbers to [`SHARED_DIGITS`] digits: all that a view shows.
fn rounded(value: &mut Value) {
    match value {
        Value::Object(members) => members.values_mut().for_each(rounded),
        Value::Array(items) => items.iter_mut().for_each(rounded),
        Value::Number(number) if number.is_f64() => {
            let short = number.as_f64().and_then(|number| format!("{number:.SHARED_DIGITS$e}").parse::<f64>().ok());
            *value = short.into();
        }
        _ => {}
    }
}

fn without_buckets(value: &mut Value) {
    match value {
        Value::Object(members) => {
            members.remove("buckets").map(|_| members.insert("buckets".to_owned(), Value::Array(Vec::new())));
            members.values_mut().for_each(without_buckets);
        }
        Value::Array(items) => items.iter_mut().for_each(without_buckets),
        _ => {}
    }
}

fn without_places(mut process: Value) -> Value {
    let name = process["executable"].as_str().and_then(|path| path.rsplit('/').next());
    process["executable"] = name.map_or(Value::Null, |name| format!("/usr/bin/{name}").into());
    for place in ["user", "uid", "workload", "unit", "container", "cgroup"] {
        process[place] = Value::Null;
    }
    process
}

/// What was built.
struct Programs {
    hbpf: PathBuf,
    server: PathBuf,
}

fn build(dev: bool) -> Result<Programs> {
    let profile = if dev { "dev" } else { "release" };
    println!("demo: building hbpf and the stand-in server ({profile})");
    run(&mut cargo(&[
        "build",
        "--quiet",
        "--package",
        "hbpf-tui",
        "--package",
        "hbpf-demo-server",
        "--profile",
        profile,
    ]))?;
    let directory = target_directory(dev);
    Ok(Programs { hbpf: directory.join("hbpf"), server: directory.join("hbpf-demo-server") })
}

/// Plays the bundled recording.
fn play(programs: &Programs, with_ui: bool, why: &str) -> Result<()> {
    println!("demo: playing a recording of an earlier run, not this machine: {why}");
    let mut hbpf = Command::new(&programs.hbpf);
    hbpf.arg("top");
    if !with_ui {
        hbpf.args(["--batch", "-n", "1"]);
    }
    run(hbpf.arg("--replay").arg(root().join(RECORDING)))
}

/// A server and its clients, which end when this is dropped.
struct Load {
    /// What was started, for people.
    about: Vec<String>,
    children: Vec<Child>,
    over: Arc<AtomicBool>,
    curl: Option<JoinHandle<()>>,
}

/// The server's first line.
#[derive(Deserialize)]
struct Ready {
    plain: String,
    tls: String,
}

impl Load {
    fn start(programs: &Programs) -> Result<Self> {
        let over = Arc::new(AtomicBool::new(false));
        let mut load = Self { about: Vec::new(), children: Vec::new(), over, curl: None };
        let directory = root().join("target/demo");
        std::fs::create_dir_all(&directory)?;
        let mut server = Command::new(&programs.server);
        server.args(["--stop-with-stdin", "--ttft", "300", "--rate", "40", "--fault-share", "0.03", "--certificates"]);
        server.arg(&directory).stdout(Stdio::piped());
        let output = load.spawn(&mut server)?.stdout.take().context("the server's output is piped")?;
        let mut line = String::new();
        BufReader::new(output).read_line(&mut line)?;
        let ready: Ready = serde_json::from_str(&line).context("the stand-in server did not start")?;
        load.say("stand-in server: OpenAI, Anthropic and Ollama APIs, plain and over TLS; about 3 of 100 calls fail");
        load.clients(&ready, &directory.join("ca.pem"))?;
        Ok(load)
    }

    fn clients(&mut self, ready: &Ready, ca: &Path) -> Result<()> {
        let plain = format!("http://{}", ready.plain);
        // The certificate names localhost as well as the address.
        let tls = format!("https://{}", ready.tls);
        let sdk_python = setup::python(&root().join("target/venv"));
        let python = if sdk_python.is_file() { sdk_python } else { PathBuf::from("python3") };
        if works(Command::new(&python).args(["-c", "import ssl"])) {
            for (url, path, threads) in
                [(&tls, "/v1/chat/completions", "4"), (&tls, "/v1/messages", "3"), (&plain, "/api/chat", "2")]
            {
                let mut client = Command::new(&python);
                client.arg(root().join("demos/clients/stdlib.py")).args(["--go", "--base-url", url, "--path", path]);
                client.arg("--ca").arg(ca).args(["--threads", threads]);
                client.args(MODELS.iter().flat_map(|model| ["--model", *model])).stdout(Stdio::null());
                self.spawn(&mut client)?;
            }
            self.say("Python's standard library: chat and messages over TLS, Ollama plain; 9 connections kept alive");
        } else {
            self.say("no python3 here: its clients are left out");
        }
        for sdk in ["openai", "anthropic"] {
            if works(Command::new(&python).args(["-c", &format!("import {sdk}")])) {
                let mut client = Command::new(&python);
                client.arg(root().join("demos/clients/sdk.py")).args(["--api", sdk, "--mode", "async", "--base-url"]);
                client.arg(&tls).arg("--ca").arg(ca).args([
                    "--concurrency",
                    "4",
                    "--retries",
                    "2",
                    "--go",
                    "--endless",
                ]);
                client.args(["--model", MODELS[1]]).stdout(Stdio::null());
                self.spawn(&mut client)?;
                self.say(&format!("the {sdk} Python SDK over TLS, asyncio"));
            }
        }
        if works(Command::new("curl").arg("--version")) {
            self.curl = Some(curl_loop(&tls, ca, Arc::clone(&self.over)));
            self.say(&format!("curl over TLS, a new process for every {CALLS_PER_CURL} calls"));
        }
        ensure!(self.children.len() > 1 || self.curl.is_some(), "neither python3 nor curl is here to be a client");
        Ok(())
    }

    fn spawn(&mut self, command: &mut Command) -> Result<&mut Child> {
        let program = command.get_program().to_string_lossy().into_owned();
        let child = command
            .stdin(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| format!("cannot start {program}"))?;
        self.children.push(child);
        self.children.last_mut().context("it was just added")
    }

    fn say(&mut self, line: &str) {
        self.about.push(line.to_owned());
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        // Clients first: they were started last.
        for child in self.children.iter_mut().rev() {
            // An error means that it has ended already.
            let _ = child.kill();
            let _ = child.wait();
        }
        if let Some(curl) = self.curl.take() {
            // The server is gone, so curl ends.
            let _ = curl.join();
        }
    }
}

/// Calls with curl, one after the other.
fn curl_loop(url: &str, ca: &Path, over: Arc<AtomicBool>) -> JoinHandle<()> {
    let (url, ca) = (format!("{url}/v1/chat/completions"), ca.to_owned());
    thread::spawn(move || {
        for model in MODELS.iter().cycle() {
            if over.load(Ordering::Relaxed) {
                break;
            }
            let body = format!(
                r#"{{"model":"{model}","stream":true,"stream_options":{{"include_usage":true}},"messages":[{{"role":"user","content":"Say something about bees."}}]}}"#
            );
            let mut curl = Command::new("curl");
            curl.args(["--silent", "--no-buffer", "--max-time", "120", "--data", &body, "--cacert"])
                .arg(&ca)
                .args([&url; CALLS_PER_CURL]);
            if !works(&mut curl) {
                // A call that was told to fail; without a pause a server that is gone would make this spin.
                thread::sleep(Duration::from_millis(200));
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::make_shareable;

    #[test]
    fn a_shared_frame_says_nothing_of_the_machine_and_of_others() {
        let mut frame = json!({
            "host": {"hostname": "SECRET", "cpu_percent": 12.345_678},
            "processes": [
                {"command": "python", "executable": "/home/SECRET/bin/python3", "user": "SECRET", "as_client": {}},
                {"command": "SECRET", "as_client": null, "as_server": null},
            ],
            "models": [{"stats": {"latency": {"window": {"x": {"p50": 1.0, "buckets": [[1, 2]]}}}}}],
            "requests": {"finished": ["SECRET"], "recent": ["kept"]},
            "errors": [{"message": "SECRET"}],
        });
        make_shareable(&mut frame);
        assert!(!frame.to_string().contains("SECRET"), "{frame}");
        assert_eq!(frame["processes"][0]["executable"], "/usr/bin/python3");
        assert_eq!(frame["host"]["cpu_percent"], 12.35);
        assert_eq!(frame["models"][0]["stats"]["latency"]["window"]["x"], json!({"p50": 1.0, "buckets": []}));
        assert_eq!(frame["requests"]["recent"], json!(["kept"]));
    }
}
