//! GPUs, by the real library binding over a stand-in for NVIDIA's library. No probes are needed, nor root.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use hbpf_core::snapshot::{Gpu, Snapshot, WorkloadKind};
use hbpf_e2e::{Observer, children, programs, python_with, script};
use serde_json::{Value, json};

/// Where the stand-in looks for what GPUs there are.
const VARIABLE: &str = "HBPF_DEMO_NVML";

/// A process that only is there.
struct Sleeper(Child);

impl Sleeper {
    fn start() -> Self {
        // It ends with its standard input, which is ours.
        Self(Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().expect("cat starts"))
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A machine with GPUs, and hbpf looking at it.
struct Machine {
    directory: tempfile::TempDir,
    profile: Value,
    observer: Observer,
    user: Sleeper,
}

impl Machine {
    /// As the file with this name describes it; a process of ours is in the place of the one that it names.
    fn start(name: &str) -> Self {
        Self::start_with(name, &programs().nvml, |_| {})
    }

    /// The same, where every call takes two seconds at first.
    fn start_hanging(name: &str) -> Self {
        Self::start_with(name, &programs().nvml, |profile| profile["gpus"][0]["hang_seconds"] = json!(2))
    }

    fn start_with(name: &str, library: &Path, change: impl FnOnce(&mut Value)) -> Self {
        let text = fs::read_to_string(script(&format!("nvml/profiles/{name}.json"))).expect("a profile");
        let mut profile: Value = serde_json::from_str(&text).expect("JSON");
        let user = Sleeper::start();
        for gpu in profile["gpus"].as_array_mut().expect("GPUs") {
            gpu["processes"][0]["pid"] = json!(user.0.id());
        }
        change(&mut profile);
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("gpus.json");
        fs::write(&file, profile.to_string()).expect("it can be written");
        // hbpf reads it as an ordinary user.
        open_to_all(directory.path());
        let arguments = ["--no-tls", "--no-plain", "--nvml-library", library.to_str().expect("a plain path")];
        let observer = Observer::spawn(&arguments, &[(VARIABLE, &file)]);
        Self { directory, profile, observer, user }
    }

    /// Has something happen to the GPUs.
    fn change(&mut self, change: impl FnOnce(&mut Value)) {
        change(&mut self.profile);
        // In one step: what is half written is not read.
        let (new, file) = (self.directory.path().join("new"), self.directory.path().join("gpus.json"));
        fs::write(&new, self.profile.to_string()).expect("it can be written");
        fs::rename(new, file).expect("it can be renamed");
    }

    fn until(&mut self, what: &str, mut holds: impl FnMut(&[Gpu]) -> bool) -> Snapshot {
        self.observer.until(what, |frame| holds(&frame.gpus))
    }
}

fn open_to_all(path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("it is ours");
}

fn labels(labels: &[hbpf_core::label::Label]) -> Vec<&str> {
    labels.iter().map(|label| label.as_str()).collect()
}

#[test]
fn one_gpu_with_all_its_numbers() {
    let mut machine = Machine::start("h100");
    let pid = machine.user.0.id();
    let frame = machine.observer.until("the process is known to use the GPU", |frame| {
        // A busy machine may be late with a reading, and says so.
        frame.workloads.iter().any(|workload| workload.pids.contains(&pid))
            && frame.gpus.iter().all(|gpu| gpu.stale_seconds.is_none())
    });
    let [gpu] = &frame.gpus[..] else { panic!("{:?}", frame.gpus) };
    assert_eq!((gpu.index, gpu.name.as_str(), gpu.vendor.as_str()), (0, "NVIDIA H100 80GB HBM3", "nvidia"));
    assert_eq!(gpu.uuid.as_str(), "GPU-00000000-1111-2222-3333-444444444444");
    assert_eq!(gpu.driver.as_deref(), Some("570.124.06"));
    assert_eq!(gpu.pci_bus_id.as_deref(), Some("00000000:19:00.0"));
    assert_eq!((gpu.utilization_percent, gpu.memory_utilization_percent), (Some(87.0), Some(46.0)));
    assert_eq!((gpu.memory_used_bytes, gpu.memory_total_bytes), (Some(75_161_927_680), Some(85_520_809_984)));
    assert_eq!((gpu.power_watts, gpu.power_limit_watts), (Some(512.3), Some(700.0)));
    assert_eq!((gpu.temperature_celsius, gpu.sm_clock_mhz, gpu.memory_clock_mhz), (Some(61.0), Some(1755), Some(2619)));
    assert_eq!(labels(&gpu.throttle_reasons), ["sw_power_cap"]);
    assert_eq!((gpu.pcie_rx_bytes_per_second, gpu.pcie_tx_bytes_per_second), (Some(1.25e9), Some(3.1e8)));
    assert_eq!((gpu.ecc_uncorrected_total, gpu.xid_errors_total, gpu.last_xid), (Some(0), Some(0), None));
    assert_eq!((gpu.stale_seconds, gpu.problem.as_ref(), gpu.instances.len()), (None, None, 0));
    let energy = gpu.energy_joules_total.unwrap();
    let [user] = &gpu.processes[..] else { panic!("{:?}", gpu.processes) };
    assert_eq!((user.pid, user.sm_percent, user.memory_bytes), (pid, Some(85.0), Some(74_088_185_856)));

    // The same beside the process, and in its workload, which talks to no model.
    let process = frame.processes.iter().find(|process| process.pid == pid).unwrap();
    let [of_process] = &process.gpu[..] else { panic!("{process:?}") };
    assert_eq!((of_process.index, of_process.sm_percent, &of_process.uuid), (0, Some(85.0), &gpu.uuid));
    let workload = frame.workloads.iter().find(|workload| workload.pids.contains(&pid)).unwrap();
    assert_eq!(process.workload.as_ref(), Some(&workload.key));
    assert_eq!((workload.gpu_percent, workload.gpu_power_watts), (Some(85.0), Some(512.3)));
    assert_eq!((&workload.as_client, &workload.as_server), (&None, &None));
    assert_ne!(workload.kind, WorkloadKind::Pod);

    // Joules are what watts make of seconds. Both frames are the first with their reading, so that they are about as far
    // apart as the readings.
    let joules = |frame: &Snapshot| frame.gpus[0].energy_joules_total.unwrap();
    let first = machine.until("the next reading", |gpus| gpus[0].energy_joules_total.unwrap() > energy);
    let last =
        machine.until("some energy is used", |gpus| gpus[0].energy_joules_total.unwrap() > joules(&first) + 1000.0);
    let watts = (joules(&last) - joules(&first)) / last.captured_at.duration_since(first.captured_at).as_secs_f64();
    assert!((watts / 512.3).ln().abs() < 0.7, "{watts} W: a busy machine hands frames out late");
}

#[test]
fn numbers_are_those_of_nvidias_own_binding() {
    let Some(python) = python_with("pynvml") else { return };
    let mut machine = Machine::start("h200x8");
    let frame = machine.until("eight GPUs are read", |gpus| gpus.len() == 8);
    // It looks for the library by its name only.
    let libraries = tempfile::tempdir().unwrap();
    fs::copy(&programs().nvml, libraries.path().join("libnvidia-ml.so.1")).unwrap();
    let code = "import json, pynvml as n\nn.nvmlInit()\nout = []\n\
        for i in range(n.nvmlDeviceGetCount()):\n h = n.nvmlDeviceGetHandleByIndex(i)\n u = n.nvmlDeviceGetUtilizationRates(h)\n\
        \u{20}p = n.nvmlDeviceGetComputeRunningProcesses(h)\n\
        \u{20}out.append([n.nvmlDeviceGetUUID(h), n.nvmlDeviceGetName(h), u.gpu, u.memory, n.nvmlDeviceGetMemoryInfo(h).used, \
        n.nvmlDeviceGetMemoryInfo(h).total, n.nvmlDeviceGetPowerUsage(h), n.nvmlDeviceGetEnforcedPowerLimit(h), \
        n.nvmlDeviceGetTemperature(h, 0), n.nvmlDeviceGetClockInfo(h, n.NVML_CLOCK_SM), \
        n.nvmlDeviceGetClockInfo(h, n.NVML_CLOCK_MEM), [[x.pid, x.usedGpuMemory] for x in p]])\nprint(json.dumps(out))";
    let output = Command::new(python)
        .args(["-c", code])
        .env("LD_LIBRARY_PATH", libraries.path())
        .env(VARIABLE, machine.directory.path().join("gpus.json"))
        .stderr(Stdio::inherit())
        .output()
        .unwrap();
    let theirs: Value = serde_json::from_slice(&output.stdout).unwrap();
    let ours: Vec<Value> = frame.gpus.iter().map(as_told_by_the_binding).collect();
    assert_eq!(Value::from(ours), theirs);
}

fn as_told_by_the_binding(gpu: &Gpu) -> Value {
    let whole = |value: Option<f64>| value.map(|value| value.round() as u64);
    let thousandth = |value: Option<f64>| whole(value.map(|value| value * 1e3));
    let processes: Vec<_> = gpu.processes.iter().map(|process| json!([process.pid, process.memory_bytes])).collect();
    json!([
        gpu.uuid.as_str(),
        gpu.name.as_str(),
        whole(gpu.utilization_percent),
        whole(gpu.memory_utilization_percent),
        gpu.memory_used_bytes,
        gpu.memory_total_bytes,
        thousandth(gpu.power_watts),
        thousandth(gpu.power_limit_watts),
        whole(gpu.temperature_celsius),
        gpu.sm_clock_mhz,
        gpu.memory_clock_mhz,
        processes
    ])
}

#[test]
fn parts_of_a_gpu_have_their_own_memory_and_processes() {
    let mut machine = Machine::start("mig");
    let pid = machine.user.0.id();
    let frame = machine.until("the GPU is read", |gpus| !gpus.is_empty());
    let gpu = &frame.gpus[0];
    assert_eq!(
        (gpu.utilization_percent, gpu.memory_used_bytes),
        (None, Some(75_161_927_680)),
        "a GPU in parts tells none"
    );
    let instances: Vec<_> =
        gpu.instances.iter().map(|it| (it.id.as_str(), it.profile.as_str(), it.memory_used_bytes)).collect();
    assert_eq!(instances, [("7", "1g.10gb", Some(2_147_483_648)), ("8", "1g.10gb", Some(4_294_967_296))]);
    let user = &gpu.processes[0];
    assert_eq!((user.pid, user.instance.as_deref(), user.sm_percent), (pid, Some("7"), None));
}

/// The library of an old driver: one that does not have these functions at all.
fn old_library(directory: &Path, functions: &[&str]) -> PathBuf {
    let mut bytes = fs::read(&programs().nvml).unwrap();
    for function in functions {
        let name = format!("\0{function}\0").into_bytes();
        let places: Vec<usize> =
            bytes.windows(name.len()).enumerate().filter(|(_, at)| *at == name).map(|(at, _)| at).collect();
        assert!(!places.is_empty(), "{function} is exported");
        // A loader that looks for the name finds another.
        places.into_iter().for_each(|at| bytes[at + 1] = b'x');
    }
    let path = directory.join("libold.so");
    fs::write(&path, bytes).unwrap();
    open_to_all(&path);
    path
}

#[test]
fn an_old_driver_tells_what_it_can() {
    let directory = tempfile::tempdir().unwrap();
    open_to_all(directory.path());
    let lacking = [
        "nvmlDeviceGetMemoryInfo_v2",
        "nvmlDeviceGetComputeRunningProcesses_v3",
        "nvmlDeviceGetGraphicsRunningProcesses_v3",
        "nvmlDeviceGetTotalEnergyConsumption",
        "nvmlDeviceGetProcessUtilization",
        "nvmlDeviceGetMigMode",
        "nvmlEventSetCreate",
    ];
    let mut machine = Machine::start_with("h100", &old_library(directory.path(), &lacking), |_| {});
    let frame = machine.until("the GPU is read", |gpus| !gpus.is_empty());
    let gpu = &frame.gpus[0];
    assert_eq!(gpu.memory_used_bytes, Some(75_161_927_680), "by the first version of the function");
    assert_eq!((gpu.power_watts, gpu.energy_joules_total, gpu.xid_errors_total), (Some(512.3), None, None));
    let user = &gpu.processes[0];
    assert_eq!((user.memory_bytes, user.sm_percent), (Some(74_088_185_856), None));
    assert_eq!(gpu.problem, None);
}

#[test]
fn a_gpu_that_falls_off_the_bus_keeps_its_name_and_comes_back() {
    let mut machine = Machine::start("h200x8");
    machine.until("eight GPUs are read", |gpus| gpus.len() == 8);
    machine.change(|profile| {
        profile["gpus"][3]["xid"] = json!([79]);
    });
    machine.until("the error is told", |gpus| gpus[3].last_xid == Some(79) && gpus[3].xid_errors_total == Some(1));
    machine.change(|profile| profile["gpus"][3]["lost"] = json!(true));
    let frame = machine.until("it is lost", |gpus| gpus[3].problem.is_some());
    let lost = &frame.gpus[3];
    assert!(lost.problem.as_ref().unwrap().contains("fallen off the bus"), "{lost:?}");
    assert_eq!((lost.index, lost.name.as_str(), lost.last_xid), (3, "NVIDIA H200", Some(79)));
    assert_eq!((lost.utilization_percent, lost.power_watts, lost.processes.len()), (None, None, 0));
    assert!(frame.gpus.iter().filter(|gpu| gpu.index != 3).all(|gpu| gpu.power_watts.is_some()), "the others go on");
    machine.change(|profile| profile["gpus"][3]["lost"] = json!(false));
    machine.until("it is back", |gpus| gpus[3].problem.is_none() && gpus[3].power_watts == Some(630.0));
}

#[test]
fn a_call_that_hangs_makes_the_gpus_stale_and_nothing_else() {
    let mut machine = Machine::start("h100");
    machine.until("the GPU is read", |gpus| !gpus.is_empty());
    // For longer than anything here waits: if frames waited for the GPU there would be none.
    machine.change(|profile| profile["gpus"][0]["hang_seconds"] = json!(600));
    machine.until("it is stale", |gpus| gpus[0].stale_seconds.is_some_and(|age| age > 3.0));
    let frame = machine.until("it is staler", |gpus| gpus[0].stale_seconds.is_some_and(|age| age > 4.0));
    assert_eq!(frame.gpus[0].power_watts, Some(512.3), "of before");
    assert!(frame.host.cpu_percent.is_some() && !frame.processes.is_empty());
    // It ends in spite of it, at once, and so does the process that hangs.
    let processes = children(machine.observer.pid());
    assert_eq!(processes.len(), 2, "the helper, and the one that reads GPUs");
    let began = Instant::now();
    machine.observer.stop();
    assert!(began.elapsed() < Duration::from_secs(4));
    let is_there = |pid: &u32| fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "));
    while processes.iter().any(is_there) {
        assert!(began.elapsed() < Duration::from_secs(4), "{processes:?} are still there");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_driver_that_takes_its_time_is_waited_for_aloud() {
    let mut machine = Machine::start_hanging("h100");
    let frame = machine.observer.until("it is said that the driver is silent", |frame| {
        frame.errors.iter().any(|error| error.source == "gpu" && error.message.contains("not answered so far"))
    });
    assert!(frame.gpus.is_empty() && frame.host.cpu_count > 0);
    machine.change(|profile| profile["gpus"][0]["hang_seconds"] = json!(0));
    let frame = machine.until("the GPU is read at last", |gpus| !gpus.is_empty());
    assert!(frame.errors.iter().all(|error| error.source != "gpu"), "{:?}", frame.errors);
}

#[test]
fn a_library_that_is_none_is_told_in_one_line() {
    // A program: its file is of the right kind, and the loader refuses it.
    let program = fs::canonicalize("/proc/self/exe").unwrap();
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), fs::read(program).unwrap()).unwrap();
    open_to_all(file.path());
    let arguments = ["--no-tls", "--no-plain", "--nvml-library", file.path().to_str().unwrap()];
    let mut observer = Observer::spawn(&arguments, &[]);
    let frame = observer.until("the error is told", |frame| {
        frame.errors.iter().any(|error| error.source == "gpu" && !error.message.contains("not answered so far"))
    });
    let errors: Vec<_> = frame.errors.iter().filter(|error| error.source == "gpu").collect();
    assert!(errors.len() == 1 && errors[0].message.contains("cannot be loaded"), "{errors:?}");
    assert!(frame.gpus.is_empty() && frame.host.cpu_count > 0);
    observer.stop();
    // What cannot be one is the user's mistake.
    let text = tempfile::NamedTempFile::new().unwrap();
    fs::write(text.path(), "not a library").unwrap();
    for (path, why) in [("/nonexistent.so", "cannot be opened"), (text.path().to_str().unwrap(), "is no library")] {
        let refused = Command::new(&programs().hbpf).args(["snapshot", "--nvml-library", path]).output().unwrap();
        let error = String::from_utf8(refused.stderr).unwrap();
        let begins = format!("hbpf: --nvml-library {path}: {why}");
        assert!(!refused.status.success() && error.starts_with(&begins) && error.lines().count() == 1, "{error}");
    }
}
