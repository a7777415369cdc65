//! `hbpf doctor`: what can be seen here, and what mends the rest.

use std::fmt::Write as _;
use std::process::ExitCode;

use anyhow::{Result, bail};
use hbpf_core::label::Label;
use hbpf_core::snapshot::TlsVisibility;
use hbpf_host::doctor::{self, Blind, Doctor, Explained, LibraryUse, Named, Outcome};
use unicode_width::UnicodeWidthStr;

use super::print;
use crate::cli;
use crate::{table, text};

/// Most processes named under one heading; the rest are counted, and `--json` lists them.
const MAX_NAMED: usize = 8;

/// Blanks in front of what belongs to the line above.
const INDENT: usize = 4;

/// Where the text begins of what is said of one process.
const EXPLAINED_INDENT: usize = 13;

/// Fewer columns than this make no text; lines are broken by the terminal then.
const MIN_TEXT: usize = 20;

pub(crate) fn run(arguments: &cli::Doctor) -> Result<ExitCode> {
    if let Some(pid) = arguments.pid {
        return explain(pid, arguments.json);
    }
    // Here, before anything else and without any thread, and with the privileges that it is to try out.
    let found = doctor::run()?;
    if arguments.json {
        print(&(serde_json::to_string_pretty(&found)? + "\n"))?;
    } else {
        print(&render(&found, text::terminal_width()))?;
    }
    Ok(if found.worst() == Outcome::Fail { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Explains one process.
fn explain(pid: u32, json: bool) -> Result<ExitCode> {
    let Some(found) = doctor::explain(pid)? else {
        bail!("there is no process {pid} (a thread's number is none, nor is that of a kernel thread)");
    };
    if json {
        print(&(serde_json::to_string_pretty(&found)? + "\n"))?;
    } else {
        print(&render_one(&found, text::terminal_width()))?;
    }
    Ok(if found.tls == TlsVisibility::Blind { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn render_one(found: &Explained, width: Option<usize>) -> String {
    let mut out = String::new();
    let tls = match found.tls {
        TlsVisibility::Attached => "is read at the calls of its library",
        TlsVisibility::Partial => "is read in part",
        TlsVisibility::Blind => "cannot be read",
        TlsVisibility::None => "no TLS library is loaded; what it loads later is probed then",
    };
    let known = |label: &Option<Label>| label.as_ref().map_or("not known", Label::as_str).to_owned();
    let mut line = |name: &str, text: &str| {
        let mut body = String::new();
        paragraph(&mut body, EXPLAINED_INDENT, text, width);
        out += &format!("  {name:<0$}", EXPLAINED_INDENT - 2);
        out += body.trim_start_matches(' ');
    };
    line("process", &format!("{} {}", found.process.pid, found.process.command));
    line("program", &known(&found.executable));
    line("user", &known(&found.user));
    if let Some(container) = &found.container {
        line("container", container);
    }
    line("plain", "HTTP/1.1 and HTTP/2 are read on its sockets");
    line("TLS", tls);
    if let Some(reason) = &found.reason {
        line("why", reason);
    }
    for library in &found.libraries {
        let version = library.version.as_ref().map_or(String::new(), |version| format!(" ({version})"));
        let _ = writeln!(out, "\n  {}{version}", library.path);
        for place in &library.places {
            let kind = if place.internal { " (what does its work)" } else { "" };
            let cost = if place.emulated { "emulated" } else { "stepped over" };
            let _ = writeln!(out, "{:INDENT$}{:#010x}  {}{kind}, {cost}", "", place.offset, place.function);
        }
    }
    out
}

/// For people. `width` None: nothing is broken or cut.
fn render(found: &Doctor, width: Option<usize>) -> String {
    let mut out = checks(found, width);
    if !found.libraries.is_empty() {
        out += "\nTLS libraries that can be probed\n";
        for library in &found.libraries {
            paragraph(&mut out, 2, &about(library), width);
            processes(&mut out, &library.users.iter().collect::<Vec<_>>(), width);
        }
    }
    if !found.blind.is_empty() {
        out += "\nProcesses whose TLS traffic would not be seen\n";
        for (wholly, reason, users) in by_reason(&found.blind) {
            let text = format!("{}{reason}", if wholly { "" } else { "in part only: " });
            paragraph(&mut out, 2, &text, width);
            processes(&mut out, &users, width);
        }
    }
    let count = |outcome| found.checks.iter().filter(|check| check.outcome == outcome).count();
    let (ok, warn, fail) = (count(Outcome::Ok), count(Outcome::Warn), count(Outcome::Fail));
    out + &format!("\n{ok} ok, {warn} to look at, {fail} failed\n")
}

/// One line a check, what mends it below.
fn checks(found: &Doctor, width: Option<usize>) -> String {
    let names = found.checks.iter().map(|check| check.name.width()).max().unwrap_or(0);
    let mut out = String::new();
    for check in &found.checks {
        let mark = match check.outcome {
            Outcome::Ok => "ok  ",
            Outcome::Warn => "warn",
            Outcome::Fail => "FAIL",
        };
        let head = format!("{mark}  {:<names$}  ", check.name);
        let mut body = String::new();
        paragraph(&mut body, head.len(), &check.detail, width);
        if let Some(advice) = &check.advice {
            paragraph(&mut body, head.len(), &format!("-> {advice}"), width);
        }
        out += &head;
        // Its first line stands behind the head.
        out += body.trim_start_matches(' ');
    }
    out
}

fn about(library: &LibraryUse) -> String {
    let version = library.version.as_ref().map_or(String::new(), |version| format!("version {version}, "));
    let unused = if library.users.is_empty() { ", nobody uses it now" } else { "" };
    format!("{} ({version}{} functions{unused})", library.path, library.functions)
}

/// Processes that cannot be seen into for the same reason, in the order in which the reasons come up.
fn by_reason(blind: &[Blind]) -> Vec<(bool, &str, Vec<&Named>)> {
    let mut groups: Vec<(bool, &str, Vec<&Named>)> = Vec::new();
    for Blind { process, wholly, reason } in blind {
        match groups.iter_mut().find(|(w, r, _)| (w, *r) == (wholly, reason.as_str())) {
            Some((_, _, users)) => users.push(process),
            None => groups.push((*wholly, reason, vec![process])),
        }
    }
    groups
}

fn processes(out: &mut String, list: &[&Named], width: Option<usize>) {
    for Named { pid, command } in list.iter().take(MAX_NAMED) {
        let line = format!("{:INDENT$}{pid:>7}  {command}", "");
        // Writing to a String cannot fail.
        let _ = match width {
            Some(width) if line.width() > width => writeln!(out, "{}", table::cut(&line, width, '+')),
            _ => writeln!(out, "{line}"),
        };
    }
    if let more @ 1.. = list.len().saturating_sub(MAX_NAMED) {
        let _ = writeln!(out, "{:INDENT$}and {more} more", "");
    }
}

/// Text with blanks in front, broken between words so that it fits.
fn paragraph(out: &mut String, indent: usize, text: &str, width: Option<usize>) {
    let width = width.map_or(usize::MAX, |width| width.saturating_sub(indent).max(MIN_TEXT));
    for line in table::wrap(text, width) {
        let _ = writeln!(out, "{:indent$}{line}", "");
    }
}

#[cfg(test)]
mod tests {
    use hbpf_host::doctor::{Check, ExplainedLibrary, ExplainedPlace};

    use super::*;

    fn check(name: &'static str, outcome: Outcome, detail: &str, advice: Option<&str>) -> Check {
        Check { name, outcome, detail: detail.into(), advice: advice.map(Into::into) }
    }

    fn named(pid: u32, command: &str) -> Named {
        Named { pid, command: command.into() }
    }

    fn rich() -> Doctor {
        let exclusive = "attached to the root of cgroup v2 without letting others beside them: egress meter (id 7)";
        let share = "plain HTTP is not seen while they are attached; have their owner attach them with \
            BPF_F_ALLOW_MULTI";
        let blind =
            |pid, command, wholly, reason: &str| Blind { process: named(pid, command), wholly, reason: reason.into() };
        let mut list = vec![blind(3310, "litellm", false, "NSS is loaded, which hbpf does not probe")];
        list.extend((0..10).map(|n| blind(61100 + n, "guard", true, "hbpf may not read its memory map")));
        let long = format!("python3 serve.py --model {}", "m".repeat(100));
        Doctor {
            checks: vec![
                check("kernel", Outcome::Ok, "Linux 6.18.0 on x86_64", None),
                check("BTF", Outcome::Warn, "no /sys/kernel/btf/vmlinux", Some("use another kernel")),
                check("other programs", Outcome::Fail, exclusive, Some(share)),
            ],
            libraries: vec![
                LibraryUse {
                    path: "/usr/lib/x86_64-linux-gnu/libssl.so.3".into(),
                    version: Some("3".into()),
                    functions: 8,
                    users: vec![named(812, "curl"), named(4_194_304, &long)],
                },
                LibraryUse {
                    path: "/opt/venv/libssl-1a2b3c4d.so.1.1".into(),
                    version: None,
                    functions: 7,
                    users: vec![],
                },
            ],
            blind: list,
        }
    }

    #[test]
    fn it_fits_a_terminal_of_80_columns() {
        let text = render(&rich(), Some(80));
        assert!(text.lines().all(|line| line.width() <= 80), "{text}");
        insta::assert_snapshot!(text);
    }

    #[test]
    fn one_process_is_explained() {
        let places = vec![
            ExplainedPlace { function: "SSL_read_ex", offset: 0x31a40, internal: true, emulated: true },
            ExplainedPlace { function: "SSL_write", offset: 0x31b80, internal: false, emulated: false },
        ];
        let path = "/usr/lib/x86_64-linux-gnu/libssl.so.3".into();
        let reason = "NSS is loaded, which hbpf does not probe";
        let found = Explained {
            process: named(3310, "litellm"),
            executable: Some("/usr/bin/python3.13".into()),
            user: None,
            container: Some("docker 0123456789ab".into()),
            tls: TlsVisibility::Partial,
            reason: Some(reason.into()),
            libraries: vec![ExplainedLibrary { path, version: Some("3".into()), places }],
        };
        let text = render_one(&found, Some(80));
        assert!(text.lines().all(|line| line.width() <= 80), "{text}");
        insta::assert_snapshot!(text);
    }

    #[test]
    fn where_nothing_limits_it_each_thing_is_one_line() {
        let text = render(&rich(), None);
        assert!(text.contains("without letting others beside them: egress meter (id 7)\n"), "{text}");
        assert!(text.contains(&"m".repeat(100)), "{text}");
        // A terminal that says it has one column gets lines that it breaks itself.
        assert!(render(&rich(), Some(1)).contains("1 ok, 1 to look at, 1 failed"));
    }

    #[test]
    fn names_from_outside_do_not_control_the_terminal() {
        let mut found = rich();
        found.checks[0].detail = "a\u{1b}[2Jb".into();
        found.blind[0].reason = "/tmp/\u{9b}x\n is gone".into();
        assert!(render(&found, Some(80)).chars().all(|c| c == '\n' || !c.is_control()));
    }

    #[test]
    fn json_says_it_all() {
        let json = serde_json::to_value(rich()).unwrap();
        assert_eq!(json["checks"][2]["outcome"], "fail");
        assert_eq!(json["checks"][0]["advice"], serde_json::Value::Null);
        assert_eq!(json["libraries"][0]["users"][0]["pid"], 812);
        assert_eq!(json["blind"].as_array().unwrap().len(), 11);
        assert_eq!((&json["blind"][0]["pid"], &json["blind"][0]["wholly"]), (&3310.into(), &false.into()));
    }
}
