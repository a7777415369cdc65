//! Disks and connections, beside what those say of them who use them.

use std::process::{Command, Stdio};
use std::time::Duration;

use hbpf_core::snapshot::{Process, Snapshot};
use hbpf_e2e::{Client, End, Faults, Network, Observer, host, host_with_networks, python, script, skip};
use serde_json::Value;

/// Within so much of an independent measurement.
const TOLERANCE: f64 = 0.1;

fn observer(group: &str) -> Observer {
    let mut observer = Observer::spawn(&["--groups", group, "--max-overhead", "off"], &[]);
    observer.until("the group is on", |frame| {
        frame.capture.groups.iter().any(|cost| cost.group == group && cost.state == hbpf_core::snapshot::ProbeState::On)
    });
    observer
}

fn of(frame: &Snapshot, pid: u32) -> Option<&Process> {
    frame.processes.iter().find(|process| process.pid == pid)
}

fn is_alike(ours: f64, theirs: f64) -> bool {
    (ours - theirs).abs() <= TOLERANCE * theirs
}

#[test]
fn times_of_a_disk_are_those_of_fio() {
    let Some(_host) = host() else { return };
    if !Command::new("fio").arg("--version").stdout(Stdio::null()).status().is_ok_and(|status| status.success()) {
        return skip("HBPF_REQUIRE_CLIENTS", "there is no fio (Debian: fio)");
    }
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let mut observer = observer("block");
    // One request at a time, which fio times from when it is made, too; so large that what the process does before and
    // after is little beside, and small enough for one request.
    let arguments = [
        "--name=reads",
        "--thread",
        "--rw=randread",
        "--bs=512k",
        "--direct=1",
        "--ioengine=libaio",
        "--iodepth=1",
        "--size=64M",
        "--io_size=512M",
        "--lat_percentiles=1",
        "--clat_percentiles=1",
        "--percentile_list=50",
        "--output-format=json",
    ];
    let fio = Command::new("fio")
        .args(arguments)
        .current_dir(directory.path())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let pid = fio.id();
    let output = fio.wait_with_output().unwrap();
    assert!(output.status.success());
    let said: Value = serde_json::from_slice(&output.stdout).expect("fio speaks JSON");
    let said = &said["jobs"][0]["read"];
    let (reads, bytes) = (said["total_ios"].as_u64().unwrap(), said["io_bytes"].as_u64().unwrap());
    // A request is done when the device says so, whoever has the CPU then; some hosts keep BPF programs from running in their
    // first process.
    let most = |count: u64| count - count / 100;
    // News of its end may come before the last of its counts.
    let frame = observer.until("all reads", |frame| {
        let process = of(frame, pid).filter(|process| process.exited);
        let devices =
            process.and_then(|process| process.disk.as_ref()).map(|disk| &disk.devices[..]).unwrap_or_default();
        devices.iter().map(|device| device.read_bytes_total).sum::<u64>() >= most(bytes)
    });
    let disk = of(&frame, pid).and_then(|process| process.disk.as_ref()).expect("it has read");
    let [device] = &disk.devices[..] else { panic!("one disk: {:?}", disk.devices) };
    // fio lays its file out first, which the kernel writes later, and reads nothing else but its own program.
    assert!(device.read_bytes_total < bytes + (16 << 20), "{bytes}: {device:?}");
    assert!(device.reads_total >= most(reads), "{device:?}");
    let ours = device.read_latency_seconds.as_ref().expect("it was timed").p50;
    // From when the request is made, and from when fio begins to make it; until fio has a CPU to see that it is done, which
    // moves the mean on a busy machine.
    let [least, most] = ["clat_ns", "lat_ns"].map(|name| said[name]["percentile"]["50.000000"].as_f64().unwrap() / 1e9);
    let [us, from, to] = [ours, least, most].map(|seconds| seconds * 1e6);
    eprintln!("half of the reads took {us:.1} us or less, by fio's word {from:.1} to {to:.1}");
    assert!(ours >= least && ours <= most || is_alike(ours, least) || is_alike(ours, most));
    observer.assert_nothing_lost();
    observer.stop();
}

#[test]
fn times_of_connections_are_those_of_who_connects() {
    let Some(_host) = host_with_networks() else { return };
    let Some(python) = python() else { return };
    let network = Network::new(Faults { jitter: Duration::from_millis(40), ..Faults::default() }, 1);
    let mut observer = observer("net");
    for v6 in [false, true] {
        let address = End::Server.address(v6).to_string();
        let command = || Command::new(&python);
        let server = network
            .at(End::Server)
            .run(|| Client::start(command().arg(script("clients/connect.py")).args(["--listen", &address])));
        let mut client = network.at(End::Client).run(|| Client::start(command().arg(script("clients/connect.py"))));
        let said = client.tell(&format!("{address} {} 60 1", server.ready["port"]));
        let seconds: Vec<f64> = said["seconds"].as_array().unwrap().iter().map(|took| took.as_f64().unwrap()).collect();
        let pid = client.pid();
        let connects = |frame: &Snapshot| of(frame, pid)?.network.as_ref()?.connect_seconds.clone();
        let frame = observer.until("all connections", |frame| connects(frame).is_some_and(|all| all.count >= 60));
        let ours = connects(&frame).expect("it has connected");
        let theirs = seconds.iter().sum::<f64>() / seconds.len() as f64;
        eprintln!("IPv{}: {:.2} ms, by the client's word {:.2}", if v6 { 6 } else { 4 }, ours.mean * 1e3, theirs * 1e3);
        assert_eq!(ours.count, seconds.len() as u64);
        assert!(is_alike(ours.mean, theirs), "{ours:?} beside {theirs}");
    }
    observer.assert_nothing_lost();
    observer.stop();
}

#[test]
fn segments_sent_again_are_those_that_the_kernel_counts() {
    let Some(_host) = host_with_networks() else { return };
    let Some(python) = python() else { return };
    let network = Network::new(Faults { lost: 0.05, ..Faults::default() }, 1);
    let mut observer = observer("net");
    let address = End::Server.address(false).to_string();
    let command = || Command::new(&python);
    let server = network
        .at(End::Server)
        .run(|| Client::start(command().arg(script("clients/connect.py")).args(["--listen", &address])));
    let mut client = network.at(End::Client).run(|| Client::start(command().arg(script("clients/connect.py"))));
    let said = client.tell(&format!("{address} {} 20 100000", server.ready["port"]));
    let theirs = said["retransmits"].as_u64().unwrap();
    assert!(theirs > 0, "{} packets were lost", network.harmed());
    let pid = client.pid();
    let frame = observer.next_frame();
    let ours = of(&frame, pid).and_then(|process| process.network.clone()).expect("it has connected");
    assert_eq!(ours.retransmits_total, Some(theirs));
    assert_eq!((ours.connects_failed_total, ours.resets_total), (0, Some(0)));
    observer.stop();
}

#[test]
fn a_process_that_is_over_at_once_is_told_with_its_numbers() {
    let Some(_host) = host() else { return };
    let Some(python) = python() else { return };
    let mut observer = observer("net");
    // The port is nobody's.
    let script = "import socket\nfor _ in range(3): print(socket.socket().connect_ex(('127.0.0.1', 1)))";
    let child = Command::new(python).args(["-c", script]).stdout(Stdio::piped()).spawn().unwrap();
    let pid = child.id();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let failed = |frame: &Snapshot| of(frame, pid)?.network.as_ref().map(|network| network.connects_failed_total);
    let frame = observer.until("its end", |frame| failed(frame) == Some(3));
    assert!(of(&frame, pid).is_some_and(|process| process.exited && process.command.as_str().contains("python")));
    observer.stop();
}
