//! hbpf on another kernel.
//!
//! `cargo xtask test --kernels` boots kernels in virtual machines with this program as their first process. It loads and attaches
//! every eBPF program, has the real `hbpf` watch a real request in plain text and one inside TLS, compares what that says
//! with what the stand-in server wrote down, and writes one line a check to the console. Then it switches the machine off.

mod client;
mod machine;
mod observed;
mod programs;
mod report;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use report::{Outcome, Report};

/// Where the machine's programs lie.
const PROGRAMS: &str = "/bin";

type Check = fn(&mut Report);

fn main() -> anyhow::Result<()> {
    if let Some(client::COMMAND) = std::env::args().nth(1).as_deref() {
        return client::run(&std::env::args().nth(2).unwrap_or_default());
    }
    // On a running machine this would mount, observe and switch off.
    anyhow::ensure!(
        std::process::id() == 1,
        "this is the first process of a virtual machine: `cargo xtask test --kernels`"
    );
    let mut report = Report::default();
    let release = match machine::prepare() {
        Ok(release) => release,
        Err(error) => {
            report.line(Outcome::Failed, "machine", &format!("{error:#}"));
            machine::switch_off();
        }
    };
    report.line(Outcome::Passed, "kernel", &release);
    hbpf_e2e::use_programs_in(Path::new(PROGRAMS));
    // The tools of the end-to-end tests panic where something is not as it should be.
    for (name, check) in [("programs", programs::check as Check), ("hbpf", observed::check)] {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| check(&mut report))) {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("it panicked");
            report.line(Outcome::Failed, name, text);
        }
    }
    report.end();
    machine::switch_off();
}
