//! `bench` and `soak`: what hbpf costs, and whether it stays that way. The work is that of `demos/bench`, which is built
//! here with what it measures.

use std::path::PathBuf;
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::privilege::Privilege;
use crate::tools::{cargo, run, target_directory};

/// The package with the core's benches, and their name.
const CORE: (&str, &str) = ("hbpf-core", "streams");

#[derive(clap::Args)]
pub(crate) struct BenchArguments {
    /// What to measure (--list says what there is); everything without a name
    names: Vec<String>,
    /// Say what can be measured, and measure nothing
    #[arg(long)]
    list: bool,
    /// Few short rounds: shows that all of it works, and no numbers worth keeping
    #[arg(long)]
    quick: bool,
    /// Write the tables into docs/performance.md, too
    #[arg(long)]
    write: bool,
    /// Build without optimisation: sooner ready, and its numbers say nothing
    #[arg(long, conflicts_with = "write")]
    dev: bool,
}

#[derive(clap::Args)]
pub(crate) struct SoakArguments {
    /// How long, such as 2m or 1h
    #[arg(long = "for", value_name = "DURATION", default_value = "1h")]
    duration: String,
    /// Build without optimisation: sooner ready
    #[arg(long)]
    dev: bool,
}

impl SoakArguments {
    /// So long, with programs as the tests have them.
    pub(crate) fn for_test(duration: &str) -> Self {
        Self { duration: duration.to_owned(), dev: true }
    }
}

pub(crate) fn run_bench(arguments: &BenchArguments) -> Result<()> {
    let program = build(arguments.dev)?;
    let privilege = Privilege::find(true).context("loading probes needs root, and there is no sudo to become it")?;
    let mut bench = privilege.command(&program);
    if arguments.list {
        return run(bench.args(["bench", "--list"]));
    }
    bench.arg("bench").args(&arguments.names);
    if arguments.names.is_empty() || arguments.names.iter().any(|name| name == "core") {
        bench.arg("--core-bench").arg(build_core_benches(arguments.dev)?);
    }
    if arguments.quick {
        bench.arg("--quick");
    }
    if arguments.write {
        bench.arg("--write");
    }
    run(&mut bench)
}

pub(crate) fn run_soak(arguments: &SoakArguments) -> Result<()> {
    let program = build(arguments.dev)?;
    let privilege = Privilege::find(true).context("loading probes needs root, and there is no sudo to become it")?;
    run(privilege.command(&program).args(["soak", "--for", &arguments.duration]))
}

/// Builds the benches and what they measure.
fn build(dev: bool) -> Result<PathBuf> {
    let profile = if dev { "dev" } else { "release" };
    println!("building hbpf, the stand-in server and what measures them ({profile})");
    let packages = ["hbpf-tui", "hbpf-demo-server", "hbpf-bench"];
    let mut build = cargo(&["build", "--quiet", "--profile", profile]);
    run(build.args(packages.iter().flat_map(|package| ["--package", *package])))?;
    Ok(target_directory(dev).join("hbpf-bench"))
}

/// Builds the core's benches and says where they are.
fn build_core_benches(dev: bool) -> Result<String> {
    let mut build = cargo(&["bench", "--quiet", "--package", CORE.0, "--bench", CORE.1, "--no-run"]);
    build.args(["--message-format", "json", "--profile", if dev { "dev" } else { "bench" }]);
    let output = build.stderr(Stdio::inherit()).output().context("cannot run cargo")?;
    ensure!(output.status.success(), "the benches of {} do not build", CORE.0);
    executable(&String::from_utf8_lossy(&output.stdout)).context("cargo does not say where the benches are")
}

/// Where the benches are, by what cargo says of each thing that it has built.
fn executable(messages: &str) -> Option<String> {
    let built = messages.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let mut ours = built.filter(|message| message["target"]["name"] == CORE.1);
    ours.find_map(|message| Some(message["executable"].as_str()?.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::executable;

    #[test]
    fn the_built_benches_are_found() {
        let messages = concat!(
            r#"{"reason":"compiler-artifact","target":{"name":"hbpf_core"},"executable":null}"#,
            "\n",
            r#"{"reason":"compiler-artifact","target":{"name":"streams"},"executable":"/t/streams-1"}"#,
            "\nnot json\n",
        );
        assert_eq!(executable(messages).as_deref(), Some("/t/streams-1"));
        assert_eq!(executable("{}"), None);
    }
}
