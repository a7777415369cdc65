//! Workloads: tokens and the machine behind them in one row, by real processes in control groups of their own.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use hbpf_core::snapshot::{LlmStats, Snapshot, Workload};
use hbpf_e2e::{Observer, Server, host, programs, python, script};
use serde_json::{Value, json};

/// A control group without limits.
struct ControlGroup(PathBuf);

impl ControlGroup {
    fn make(name: &str) -> Self {
        let mounts = std::fs::read_to_string("/proc/self/mounts").expect("there are mounts");
        let root = mounts.lines().find_map(|line| {
            let fields: Vec<&str> = line.split(' ').collect();
            (fields.get(2) == Some(&"cgroup2")).then(|| PathBuf::from(fields[1]))
        });
        let path = root.expect("cgroup v2 is mounted").join(format!("hbpf-e2e-{name}-{}", std::process::id()));
        std::fs::create_dir(&path).expect("root makes control groups");
        Self(path)
    }

    fn take(&self, pid: u32) {
        std::fs::write(self.0.join("cgroup.procs"), pid.to_string()).expect("the process lives");
    }
}

impl Drop for ControlGroup {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir(&self.0);
    }
}

/// Calls the server for ever, with streams.
struct Caller(Child);

impl Caller {
    fn start(server: &Server) -> Option<Self> {
        let mut command = Command::new(python()?);
        command.arg(script("clients/stdlib.py")).args(["--go", "--base-url", &server.plain_url()]);
        command.args(["--path", "/v1/chat/completions", "--threads", "2"]);
        Some(Self(
            command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it starts"),
        ))
    }
}

impl Drop for Caller {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn of(frame: &Snapshot, pid: u32) -> Option<&Workload> {
    frame.workloads.iter().find(|workload| workload.pids.contains(&pid))
}

fn output(stats: &Option<LlmStats>) -> Option<u64> {
    stats.as_ref()?.tokens.output
}

#[test]
fn tokens_and_the_gpu_behind_them_stand_in_one_row() {
    let Some(_host) = host() else { return };
    let (servers, clients) = (ControlGroup::make("servers"), ControlGroup::make("clients"));
    let server = Server::start(&["--ttft", "20", "--rate", "200"]);
    servers.take(server.pid());
    let Some(caller) = Caller::start(&server) else { return };
    clients.take(caller.0.id());

    let text = std::fs::read_to_string(script("nvml/profiles/h100.json")).unwrap();
    let mut profile: Value = serde_json::from_str(&text).unwrap();
    // A quarter of what is computed is somebody else's.
    profile["gpus"][0]["processes"] = json!([
        { "pid": server.pid(), "memory": 60_000_000_000_u64, "sm": 60 },
        { "pid": std::process::id(), "memory": 1_000_000_000, "sm": 20 },
    ]);
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("gpus.json");
    std::fs::write(&file, profile.to_string()).unwrap();
    // hbpf reads it as an ordinary user.
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let library = programs().nvml.to_str().unwrap().to_owned();
    let prices = directory.path().join("prices.tsv");
    std::fs::write(&prices, "gpu\t*\t4\n").unwrap();
    let arguments = ["--max-overhead", "off", "--nvml-library", &library, "--prices", prices.to_str().unwrap()];
    let mut observer = Observer::spawn(&arguments, &[("HBPF_DEMO_NVML", &file)]);

    let mut used = Vec::new();
    let frame = observer.until("the server's row has tokens and joules", |frame| {
        let cpu = of(frame, server.pid()).and_then(|row| row.cpu_percent);
        used.extend(cpu.map(|percent| (frame.observed_seconds, percent)));
        let is_served = |row: &Workload| row.tokens_per_joule.is_some() && output(&row.as_server) > Some(200);
        of(frame, server.pid()).is_some_and(is_served) && of(frame, caller.0.id()).is_some()
    });
    let row = of(&frame, server.pid()).unwrap();
    let process = frame.processes.iter().find(|process| process.pid == server.pid()).unwrap();
    assert_eq!((row.pids.as_slice(), row.within.as_ref()), (&[server.pid()][..], None));
    assert_eq!((row.gpu_percent, row.gpu_memory_bytes), (Some(60.0), Some(60_000_000_000)));
    let watts = row.gpu_power_watts.unwrap();
    assert!((watts - 512.3 * 60.0 / 80.0).abs() < 1e-6, "its part of the power: {watts}");
    let rate = row.as_server.as_ref().unwrap().tokens_per_second.output.unwrap();
    // Numbers lose their last digit on the way through JSON.
    let is_about = |told: Option<f64>, right: f64| (told.unwrap() - right).abs() <= 1e-9 * right;
    assert!(is_about(row.tokens_per_joule, rate / watts), "{row:?}");
    assert!(is_about(row.tokens_per_second_per_gpu, rate), "{row:?}");
    assert!(is_about(row.gpu_cost_usd_per_hour, 3.0), "three quarters of what one costs: {row:?}");
    assert!(is_about(row.gpu_cost_usd_per_million_tokens, 3.0 / 3600.0 / rate * 1e6), "{row:?}");
    // CPU and tokens are over the same window.
    let is_of_window = |seconds: f64| frame.observed_seconds - seconds < frame.window_seconds;
    let used: Vec<f64> = used.iter().filter(|(when, _)| is_of_window(*when)).map(|(_, percent)| *percent).collect();
    let cpu = used.iter().sum::<f64>() / used.len() as f64;
    assert!(is_about(row.cpu_seconds_per_1k_tokens, cpu / 100.0 / rate * 1000.0), "{used:?} {row:?}");
    assert_eq!(row.cpu_percent, process.cpu_percent);

    // The client is another workload, without a GPU, and the two agree on what went between them.
    let client = of(&frame, caller.0.id()).unwrap();
    assert_eq!((client.gpu_percent, client.tokens_per_joule, &client.as_server), (None, None, &None));
    drop(caller);
    let calls = observer.until("all calls have ended", |frame| frame.totals.requests_in_flight == Some(0));
    let key = &row.key;
    let last = observer.until("the server's row has settled", |frame| {
        let row = frame.workloads.iter().find(|row| row.key == *key).and_then(|row| row.as_server.as_ref());
        row.is_some_and(|stats| stats.requests_total >= calls.totals.requests_total)
    });
    let served = last.workloads.iter().find(|row| row.key == *key).unwrap().as_server.as_ref().unwrap();
    let of_process =
        last.processes.iter().find(|process| process.pid == server.pid()).unwrap().as_server.as_ref().unwrap();
    assert_eq!((served.requests_total, &served.tokens), (of_process.requests_total, &of_process.tokens));
}
