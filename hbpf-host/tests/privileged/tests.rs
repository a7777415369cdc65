//! The tests.

use std::path::PathBuf;
use std::process::Command;

use crate::driver::{Talker, eventually};
use crate::kernel::{Held, held_by, is_dead, still_loaded};

/// A request-target that the built-in patterns know.
const TARGET: &str = "/v1/chat/completions";

pub(crate) type Test = (&'static str, fn());

pub(crate) const ALL: &[Test] = &[
    ("plaintext_of_tls_is_seen_at_both_ends", plaintext_of_tls_is_seen_at_both_ends),
    ("a_library_loaded_late_is_probed", a_library_loaded_late_is_probed),
    ("processes_left_out_are_not_seen_and_all_others_are", processes_left_out_are_not_seen_and_all_others_are),
    ("plain_http_is_seen_from_both_ends", plain_http_is_seen_from_both_ends),
    ("no_packet_is_refused", no_packet_is_refused),
    ("detaching_leaves_nothing", detaching_leaves_nothing),
    ("groups_come_and_go_separately", groups_come_and_go_separately),
    ("a_killed_helper_leaves_nothing", a_killed_helper_leaves_nothing),
    ("a_killed_front_end_leaves_nothing", a_killed_front_end_leaves_nothing),
    ("the_terminal_signals_end_only_the_front_end", the_terminal_signals_end_only_the_front_end),
    ("samples_are_complete", samples_are_complete),
    ("servers_in_other_namespaces_are_asked_and_nobody_else", servers_in_other_namespaces_are_asked_and_nobody_else),
];

/// A process that has a TLS library loaded.
pub(crate) fn tls_user() -> Talker {
    let mut user = Talker::python("peer.py", &["client"]);
    user.tell("import");
    user.expect_start("imported");
    user
}

/// The process under test with its groups attached, and its helper.
pub(crate) fn attached(groups: &str) -> (Talker, u32) {
    attach(Talker::subject(&[]), groups)
}

/// The same with a subject of its own.
pub(crate) fn attach(mut subject: Talker, groups: &str) -> (Talker, u32) {
    let helper = subject.expect_start("helper ").parse().unwrap();
    subject.tell(&format!("attach {groups}"));
    subject.expect_start("ring");
    // A status that counts comes when all groups have been dealt with.
    subject.expect("status", |line| line.starts_with("status") && !line.contains("programs=0"));
    subject.tell("sample 1");
    subject.expect_start("sample-end 1");
    let trouble: Vec<_> =
        subject.said().iter().filter(|line| line.starts_with("error") || line.starts_with("probe-failed")).collect();
    assert!(trouble.is_empty(), "{trouble:#?}");
    (subject, helper)
}

fn certificate() -> (tempfile::TempDir, PathBuf, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let (certificate, key) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
    let arguments =
        ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=localhost", "-keyout"];
    let output = Command::new("openssl").args(arguments).arg(&key).arg("-out").arg(&certificate).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    (folder, certificate, key)
}

pub(crate) fn secure_server() -> (tempfile::TempDir, Talker, String) {
    let (folder, certificate, key) = certificate();
    let mut server = Talker::python("peer.py", &["server", certificate.to_str().unwrap(), key.to_str().unwrap()]);
    let port = server.expect_start("port ");
    (folder, server, port)
}

pub(crate) fn plain_server() -> (Talker, String) {
    let mut server = Talker::python("peer.py", &["server"]);
    let port = server.expect_start("port ");
    (server, port)
}

/// Does a request and returns the client's port.
pub(crate) fn request(client: &mut Talker, scheme: &str, port: &str, size: usize) -> String {
    client.tell(&format!("{scheme} {port} {TARGET} {size}"));
    client.expect_start("done intact")
}

fn plaintext_of_tls_is_seen_at_both_ends() {
    let (_folder, mut server, port) = secure_server();
    let mut client = tls_user();
    let (mut subject, _) = attached("tls");
    request(&mut client, "https", &port, 100);
    let marks = [
        (client.pid(), 0, "POST /v1/chat/completions"),
        (server.pid(), 1, "POST /v1/chat/completions"),
        (client.pid(), 1, "answer-to-client"),
        (server.pid(), 0, "answer-to-client"),
    ];
    for_all(
        &mut subject,
        &marks.map(|(pid, direction, text)| {
            (format!("record tls kind=1 direction={direction} pid={pid} "), text.to_owned())
        }),
    );
    // The server has cut the connection: both are told of an end, the client while its connection object lives on.
    let end = format!("record tls kind=1 direction=1 pid={} ", client.pid());
    if !subject.said().iter().any(|line| line.starts_with(&end) && line.ends_with("text=")) {
        subject.expect("the end of the stream", |line| line.starts_with(&end) && line.ends_with("text="));
    }
    client.finish();
    server.finish();
}

fn a_library_loaded_late_is_probed() {
    let (mut subject, _) = attached("tls");
    let (_folder, _server, port) = secure_server();
    // It starts without TLS; hbpf must notice when it loads the library.
    let mut client = Talker::python("peer.py", &["client"]);
    client.expect_start("ready");
    let pid = client.pid();
    subject.expect("its start", |line| line.starts_with(&format!("lifecycle 1 {pid} ")));
    client.tell("import");
    client.expect_start("imported");
    subject.expect("its library", |line| line.starts_with(&format!("process {pid} Attached")));
    request(&mut client, "https", &port, 100);
    for_all(&mut subject, &[(format!("record tls kind=1 direction=0 pid={pid} "), TARGET.to_owned())]);
    client.finish();
    subject.expect("its end", |line| line.starts_with(&format!("lifecycle 2 {pid} ")));
}

/// A copy of the TLS library that Python uses, which nobody else uses, and the folder that it is in.
fn own_library() -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let program = "import ssl; print(next(l.split()[-1] for l in open('/proc/self/maps') if '/libssl' in l))";
    let output = Command::new("python3").args(["-c", program]).output().unwrap();
    let path = PathBuf::from(String::from_utf8(output.stdout).unwrap().trim());
    std::fs::copy(&path, folder.path().join(path.file_name().expect("python3 uses a shared libssl"))).unwrap();
    let text = folder.path().to_str().unwrap().to_owned();
    (folder, text)
}

fn processes_left_out_are_not_seen_and_all_others_are() {
    let (_library, directory) = own_library();
    let (_folder, _server, port) = secure_server();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/privileged/peer.py");
    let user = || {
        let mut command = Command::new("python3");
        let mut user = Talker::start(command.env("LD_LIBRARY_PATH", &directory).args(["-u", script, "client"]));
        user.tell("import");
        user.expect_start("imported");
        user
    };
    let (mut spared, mut probed) = (user(), user());
    let (mut subject, _) = attached("tls");
    let sent = |pid| (format!("record tls kind=1 direction=0 pid={pid} "), TARGET.to_owned());
    // What is asked for is done in order.
    subject.tell(&format!("exclude {}", spared.pid()));
    subject.tell("sample 2");
    subject.expect_start("sample-end 2");
    request(&mut spared, "https", &port, 100);
    request(&mut probed, "https", &port, 100);
    for_all(&mut subject, &[sent(probed.pid())]);

    // One that comes later has its probes when it is told of.
    let mut later = user();
    subject.expect("its library", |line| line.starts_with(&format!("process {} Attached", later.pid())));
    request(&mut later, "https", &port, 100);
    for_all(&mut subject, &[sent(later.pid())]);
    let of_spared = format!("pid={} ", spared.pid());
    assert!(!subject.said().iter().any(|line| line.starts_with("record ") && line.contains(&of_spared)));

    subject.tell("exclude");
    subject.tell("sample 3");
    subject.expect_start("sample-end 3");
    request(&mut spared, "https", &port, 100);
    for_all(&mut subject, &[sent(spared.pid())]);
    subject.tell("sample 4");
    for user in [&spared, &probed, &later] {
        subject.expect("its calls", |line| {
            let calls =
                line.strip_prefix(&format!("user {} calls=", user.pid())).and_then(|rest| rest.split(' ').next());
            line.ends_with(" models=1") && calls.is_some_and(|calls| calls.parse::<u64>().unwrap() > 1)
        });
        subject.tell("sample 4");
    }
}

fn plain_http_is_seen_from_both_ends() {
    let (_server, port) = plain_server();
    let (mut subject, _) = attached("plain");
    let mut client = Talker::python("peer.py", &["client"]);
    let mine = request(&mut client, "http", &port, 100);
    let wanted = [
        (0, &mine, &port, TARGET),
        (1, &port, &mine, TARGET),
        (1, &mine, &port, "answer-to"),
        (0, &port, &mine, "answer-to"),
    ];
    let wanted = wanted.map(|(direction, local, remote, text)| {
        (format!("record tcp kind=1 direction={direction} "), format!(" local={local} remote={remote} "), text)
    });
    let mut missing: Vec<_> = wanted.iter().collect();
    while !missing.is_empty() {
        let line = subject.expect(&format!("{missing:?}"), |line| line.starts_with("record tcp kind=1"));
        missing
            .retain(|(start, ports, text)| !(line.starts_with(start) && line.contains(ports) && line.contains(text)));
    }
}

/// Waits until for each pair there was a line with that start and that text.
pub(crate) fn for_all(subject: &mut Talker, wanted: &[(String, String)]) {
    let mut missing: Vec<_> = wanted.iter().collect();
    while !missing.is_empty() {
        let line = subject.expect(&format!("{missing:?}"), |line| line.starts_with("record "));
        missing.retain(|(start, text)| !(line.starts_with(start.as_str()) && line.contains(text.as_str())));
    }
}

fn no_packet_is_refused() {
    let (_server, port) = plain_server();
    let (_folder, _secure, secure_port) = secure_server();
    let (mut subject, _) = attached("all");
    let mut client = Talker::python("peer.py", &["client"]);
    for _ in 0..3 {
        request(&mut client, "http", &port, 16 << 20);
        request(&mut client, "https", &secure_port, 16 << 20);
    }
    subject.tell("sample 9");
    subject.expect_start("sample-end 9");
    assert!(!subject.said().iter().any(|line| line.starts_with("malformed")));
}

fn detaching_leaves_nothing() {
    let _user = tls_user();
    let (mut subject, helper) = attached("all");
    let held = held_by(helper);
    assert!(held.programs.len() > 8 && held.links > 8, "{held:?}");
    assert_eq!(still_loaded(&held.programs), held.programs);
    subject.tell("detach all");
    subject.expect("status", |line| line.starts_with("status programs=0") && line.contains("counted=false"));
    // They are taken out beside everything else.
    eventually("the helper holds nothing", || held_by(helper) == Held::default());
    eventually("programs go", || still_loaded(&held.programs).is_empty());
    // And all of it can be put back.
    subject.tell("attach all");
    subject.expect_start("ring");
    subject.expect("status", |line| line.starts_with("status") && line.contains("counted=true"));
    assert_eq!(held_by(helper).programs.len(), held.programs.len());
}

fn groups_come_and_go_separately() {
    let _user = tls_user();
    let (mut subject, helper) = attached("plain");
    let plain = held_by(helper);
    subject.tell("attach tls");
    subject.tell("sample 2");
    subject.expect_start("sample-end 2");
    let both = held_by(helper);
    assert!(both.programs.is_superset(&plain.programs) && both.programs.len() > plain.programs.len(), "{both:?}");
    subject.tell("detach plain");
    subject.tell("sample 3");
    subject.expect_start("sample-end 3");
    let tls = held_by(helper);
    // Starts and ends of processes are watched by either.
    assert_eq!(tls.programs.len(), both.programs.len() - plain.programs.len() + 2);
    subject.tell("detach tls");
    subject.expect("status", |line| line.starts_with("status programs=0"));
    // They are taken out beside everything else.
    eventually("the helper holds nothing", || held_by(helper) == Held::default());
}

fn a_killed_helper_leaves_nothing() {
    let _user = tls_user();
    let (mut subject, helper) = attached("all");
    let held = held_by(helper);
    kill(helper);
    subject.expect_start("closed");
    eventually("programs go", || still_loaded(&held.programs).is_empty());
}

fn a_killed_front_end_leaves_nothing() {
    let _user = tls_user();
    let (subject, helper) = attached("all");
    let held = held_by(helper);
    kill(subject.pid());
    eventually("the helper ends", || is_dead(helper));
    eventually("programs go", || still_loaded(&held.programs).is_empty());
}

fn the_terminal_signals_end_only_the_front_end() {
    let _user = tls_user();
    let (mut subject, helper) = attached("all");
    for signal in [nix::sys::signal::SIGINT, nix::sys::signal::SIGTERM, nix::sys::signal::SIGHUP] {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(helper as i32), signal).unwrap();
    }
    subject.tell("sample 4");
    subject.expect_start("sample-end 4");
    let held = held_by(helper);
    // Its orderly end waits for the helper's, unless that takes long.
    subject.tell("quit");
    subject.finish();
    eventually("the helper ends", || is_dead(helper));
    eventually("programs go", || still_loaded(&held.programs).is_empty());
}

fn samples_are_complete() {
    let (mut subject, _) = attached("all");
    // A start and an end of a process, so that a program has run on a machine where nothing else happens.
    assert!(std::process::Command::new("true").status().unwrap().success());
    subject.tell("sample 6");
    subject.expect_start("host ");
    let count: usize = subject.expect_start("samples ").parse().unwrap();
    assert!(count > 0);
    let status = subject.expect_start("status ");
    assert!(!status.contains("runs=0"), "the kernel counts runs while groups are on: {status}");
    subject.expect_start("sample-end 6");
}

fn kill(pid: u32) {
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid as i32), nix::sys::signal::SIGKILL).unwrap();
}

fn servers_in_other_namespaces_are_asked_and_nobody_else() {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/privileged/peer.py");
    let inside = format!("ip link set lo up && exec python3 -u {script} server");
    let mut server = Talker::start(Command::new("unshare").args(["--net", "sh", "-c", &inside]));
    let port = server.expect_start("port ");
    let address = format!("127.0.0.1:{port}");
    assert!(std::net::TcpStream::connect(&address).is_err(), "the port is taken in this namespace, too");
    let mut subject = Talker::subject(&["engines"]);
    let helper: u32 = subject.expect_start("helper ").parse().unwrap();
    let pid = server.pid();
    subject.tell(&format!("servers {pid}"));
    let found = subject.expect_start(&format!("server {pid} "));
    let (start, addresses) = found.split_once(' ').unwrap();
    assert_eq!(addresses, address);
    subject.tell(&format!("ask {pid} {start} {address}"));
    let answer = subject.expect_start("answer 7 ");
    assert!(answer.contains("HTTP/1.1 200 OK") && answer.contains("answer-to-client"), "{answer}");
    let later: u64 = start.parse::<u64>().unwrap() + 10_000_000;
    let wrong = [
        format!("ask {pid} {later} {address}"),
        format!("ask {pid} {start} 127.0.0.1:1"),
        format!("ask {pid} {start} 127.0.0.2:{port}"),
        // Nobody else listens for this test, least of all its own process.
        format!("ask {} {start} {address}", std::process::id()),
    ];
    for command in wrong {
        subject.tell(&command);
        assert_eq!(subject.expect_start("refused 7 "), "NotThere", "{command}");
    }
    let namespace = |pid: u32| std::fs::read_link(format!("/proc/{pid}/ns/net")).unwrap();
    assert_eq!(namespace(helper), namespace(std::process::id()), "the helper is where it was");
    let names = || {
        let threads = std::fs::read_dir(format!("/proc/{helper}/task")).unwrap().flatten();
        threads.filter_map(|thread| std::fs::read_to_string(thread.path().join("comm")).ok()).collect::<Vec<_>>()
    };
    eventually("the question's thread ends", || !names().contains(&"question\n".to_owned()));
    drop(subject);
    // One that was not started for it cannot.
    let mut subject = Talker::subject(&[]);
    subject.expect_start("helper ");
    subject.tell(&format!("ask {pid} {start} {address}"));
    let refused = subject.expect_start("refused 7 ");
    assert!(refused.starts_with("Failed") && refused.contains("not permitted"), "{refused}");
    server.finish();
}
