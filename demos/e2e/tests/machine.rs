//! Processes and the machine, beside what top and ps say of them. No probes are needed, nor root.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use hbpf_core::snapshot::{Process, Snapshot};
use hbpf_e2e::{Observer, skip};

/// A process with a thread that works without end, and others that sleep.
struct Worker(Child);

impl Worker {
    fn start() -> Option<Self> {
        let script = "import ctypes, threading, time, sys\n\
            def spin():\n ctypes.CDLL(None).prctl(15, b'tokenizer')\n while True: pass\n\
            for f in (spin, *[lambda: time.sleep(1000)] * 5): threading.Thread(target=f, daemon=True).start()\n\
            print('ready', flush=True); sys.stdin.read()";
        let mut command = Command::new("python3");
        command.args(["-c", script]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let Ok(mut child) = command.spawn() else {
            skip("HBPF_REQUIRE_CLIENTS", "there is no python3");
            return None;
        };
        let mut ready = String::new();
        BufReader::new(child.stdout.take().expect("it is piped")).read_line(&mut ready).expect("it is ready");
        Some(Self(child))
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What a tool says, as lines; `None` (and said) where there is none.
fn lines_of(program: &str, arguments: &[&str]) -> Option<Vec<String>> {
    let output =
        Command::new(program).args(arguments).env("LC_ALL", "C").env("COLUMNS", "200").stdin(Stdio::null()).output();
    let Ok(output) =
        output.inspect_err(|_| skip("HBPF_REQUIRE_CLIENTS", &format!("there is no {program} (Debian: procps)")))
    else {
        return None;
    };
    Some(String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect())
}

/// The last line of top's second round that is of this process or thread: RES and SHR in bytes, %CPU, COMMAND.
fn of_top(lines: &[String], is_meant: impl Fn(&[&str]) -> bool) -> (u64, u64, f64, String) {
    let fields = lines.iter().rev().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let row = fields.into_iter().find(|row| row.len() >= 12 && is_meant(row)).expect("top shows it");
    let bytes = |text: &str| text.parse::<u64>().expect("KiB, as it is small") * 1024;
    (bytes(row[5]), bytes(row[6]), row[8].parse().expect("a number"), row[11].to_owned())
}

fn of(frame: &Snapshot, pid: u32) -> Option<&Process> {
    frame.processes.iter().find(|process| process.pid == pid)
}

#[test]
fn figures_are_those_of_top_and_ps() {
    let Some(worker) = Worker::start() else { return };
    let pid = worker.0.id();
    let text = pid.to_string();
    let mut observer = Observer::spawn(&["--no-tls", "--no-plain"], &[]);
    observer.until("the worker is looked at closely", |frame| {
        of(frame, pid).is_some_and(|row| row.hottest_thread.is_some())
    });
    // Two rounds a second apart: the second is of what lies between.
    let Some(whole) = lines_of("top", &["-b", "-d", "1", "-n", "2", "-p", &text]) else { return };
    let Some(threads) = lines_of("top", &["-b", "-H", "-d", "1", "-n", "2", "-p", &text]) else { return };
    let Some(count) = lines_of("ps", &["-o", "nlwp=", "-p", &text]) else { return };
    let frame = observer.next_frame();
    let process = of(&frame, pid).expect("it runs");

    let (resident, shared, cpu, _) = of_top(&whole, |row| row[0] == text);
    let (.., hottest, name) = of_top(&threads, |row| row[11] == "tokenizer");
    assert_eq!(process.threads, count[0].trim().parse().ok());
    assert_eq!(process.resident_bytes, Some(resident));
    assert_eq!(process.shared_bytes, Some(shared));
    let thread = process.hottest_thread.as_ref().expect("it spins");
    assert_eq!(thread.name.as_str(), name);
    // They are of moments a second or two apart, and others want CPUs, too.
    let is_alike = |ours: f64, theirs: f64| (ours - theirs).abs() <= 15.0 + 0.4 * theirs;
    assert!(is_alike(process.cpu_percent.expect("two samples"), cpu), "{:?} beside {cpu}", process.cpu_percent);
    assert!(is_alike(thread.cpu_percent, hottest), "{thread:?} beside {hottest}");
}
