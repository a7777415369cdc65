//! The helper and its probes as they really run: forked, with root's privileges, in this kernel.
//!
//! This is a program of its own instead of a test harness, for the process under test is this program again: it must fork
//! before any thread starts. Tests skip, saying why, where the privileges are missing; with `HBPF_REQUIRE_BPF=1` they fail.

mod attempts;
mod counts;
mod driver;
mod hostile;
mod kernel;
mod privileges;
mod subject;
mod tests;

use std::process::ExitCode;

/// All tests.
fn all() -> impl Iterator<Item = &'static tests::Test> {
    tests::ALL.iter().chain(counts::ALL).chain(privileges::ALL)
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.first().is_some_and(|first| first == subject::ARGUMENT) {
        subject::run(&arguments[1..]);
        return ExitCode::SUCCESS;
    }
    let filter: Vec<&String> = arguments.iter().filter(|argument| !argument.starts_with('-')).collect();
    let wanted = |name: &str| filter.is_empty() || filter.iter().any(|part| name.contains(part.as_str()));
    if arguments.iter().any(|argument| argument == "--list") {
        all().for_each(|(name, _)| println!("{name}: test"));
        return ExitCode::SUCCESS;
    }
    if let Some(why) = kernel::cannot_test() {
        println!("skipped: {why}");
        let required = std::env::var_os("HBPF_REQUIRE_BPF").is_some_and(|value| value == "1");
        return if required { ExitCode::FAILURE } else { ExitCode::SUCCESS };
    }
    let mut failed = Vec::new();
    for (name, test) in all().filter(|(name, _)| wanted(name)) {
        println!("test {name} ...");
        if std::panic::catch_unwind(test).is_err() {
            failed.push(*name);
        }
    }
    println!("{} failed {failed:?}", failed.len());
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
