//! `hbpf doctor`: what can be seen here, and what mends the rest.

mod machine;
mod observed;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use hbpf_host::collector::Options;
use hbpf_host::protocol::Group;
use serde::Serialize;

use super::{print, snapshot};
use crate::cli;
use crate::live;

/// Long enough for libraries to be found and probes to be attached on a busy host.
const OBSERVE: Duration = Duration::from_secs(2);

/// How a check came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Status {
    Ok,
    /// Something is not seen, or might not be.
    Warn,
    /// What hbpf is for does not work.
    Fail,
}

/// One thing looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Check {
    name: String,
    status: Status,
    /// What was found.
    detail: String,
    /// What mends it.
    advice: Option<String>,
}

impl Check {
    fn ok(name: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { name: name.into(), status: Status::Ok, detail: detail.into(), advice: None }
    }

    fn bad(status: Status, name: impl Into<String>, detail: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { name: name.into(), status, detail: detail.into(), advice: Some(advice.into()) }
    }
}

#[derive(Serialize)]
struct Report<'a> {
    checks: &'a [Check],
}

pub(crate) fn run(arguments: &cli::Doctor) -> Result<ExitCode> {
    // Files can be read only as long as the process is not confined.
    let mut checks = machine::checks(&machine::Files);
    match look() {
        Ok(snapshot) => checks.extend(observed::checks(&snapshot)),
        Err(error) => checks.push(Check {
            name: "observation".to_owned(),
            status: Status::Fail,
            detail: format!("{error:#}"),
            advice: None,
        }),
    }
    if arguments.json {
        print(&(serde_json::to_string_pretty(&Report { checks: &checks })? + "\n"))?;
    } else {
        print(&lines(&checks))?;
    }
    let failed = checks.iter().any(|check| check.status == Status::Fail);
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Tries it out: attaches everything and looks for a moment.
fn look() -> Result<std::sync::Arc<hbpf_core::snapshot::Snapshot>> {
    let session = live::Session::begin()?;
    let (sender, updates) = std::sync::mpsc::channel();
    let options = Options { groups: Group::ALL.to_vec(), window: OBSERVE, interval: None };
    let control = session.start(options, move |update| {
        // After the last frame nobody listens.
        let _ = sender.send(update);
    })?;
    snapshot::one(&updates, control.as_ref(), OBSERVE)
}

/// One line a check, what mends it below.
fn lines(checks: &[Check]) -> String {
    let width = checks.iter().map(|check| check.name.chars().count()).max().unwrap_or(0);
    let mut out = String::new();
    let mut counts = [0_usize; 3];
    for check in checks {
        let (mark, place) = match check.status {
            Status::Ok => ("ok  ", 0),
            Status::Warn => ("warn", 1),
            Status::Fail => ("FAIL", 2),
        };
        counts[place] += 1;
        out += &format!("{mark}  {:<width$}  {}\n", check.name, check.detail);
        if let Some(advice) = &check.advice {
            out += &format!("{:6}{:width$}  -> {advice}\n", "", "");
        }
    }
    let [ok, warnings, failures] = counts;
    out + &format!("\n{ok} ok, {warnings} to look at, {failures} failed\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checks_line_up_and_advice_stands_below() {
        let checks = [
            Check::ok("kernel", "6.18.0 x86_64"),
            Check::bad(Status::Fail, "privileges", "no CAP_BPF", "run it with sudo"),
            Check::bad(Status::Warn, "btf", "not there", "build it in"),
        ];
        let expected = [
            "ok    kernel      6.18.0 x86_64",
            "FAIL  privileges  no CAP_BPF",
            "                  -> run it with sudo",
            "warn  btf         not there",
            "                  -> build it in",
            "",
            "1 ok, 1 to look at, 1 failed",
            "",
        ];
        assert_eq!(lines(&checks), expected.join("\n"));
    }
}
