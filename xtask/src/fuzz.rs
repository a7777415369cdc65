//! `fuzz`: runs the fuzz targets and shows what came of each in a table.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use std::{env, thread};

use anyhow::{Context, Result, bail, ensure};

use crate::tools::{cargo, root, run, works};

/// Longest input that is tried: more than any limit on a single head or line of what is parsed.
const MAX_INPUT_BYTES: u32 = 128 * 1024;

/// An input that takes longer is a finding. A hundred times what the slowest seed takes with a busy machine.
const SECONDS_PER_INPUT: u32 = 25;

/// Memory beyond which a target is stopped, in MiB: the decoders' windows and outputs take a quarter of it.
const MEMORY_MIB: u32 = 1024;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Targets to run; all of them if none is named
    #[arg(value_name = "TARGET")]
    targets: Vec<String>,
    /// How long to run each target, e.g. 30s or 30m
    #[arg(long = "for", value_name = "DURATION", default_value = "60s", value_parser = humantime::parse_duration)]
    duration: Duration,
    /// How many targets to run at a time
    #[arg(long, value_name = "N", default_value_t = 1)]
    jobs: usize,
    /// Only show the targets' names
    #[arg(long)]
    list: bool,
}

/// What came of a target.
#[derive(Default)]
struct Outcome {
    seconds: u64,
    executions: u64,
    coverage: u64,
    corpus: u64,
    peak_mib: u64,
    crashes: Vec<PathBuf>,
}

pub(crate) fn run_chore(arguments: &Arguments) -> Result<()> {
    let known = targets()?;
    if arguments.list {
        println!("{}", known.join("\n"));
        return Ok(());
    }
    if let Some(unknown) = arguments.targets.iter().find(|target| !known.contains(target)) {
        bail!("there is no target {unknown}; there are {}", known.join(", "));
    }
    let chosen = if arguments.targets.is_empty() { known } else { arguments.targets.clone() };
    ensure!(works(&mut cargo(&["fuzz", "--version"])), "cargo-fuzz is missing: `cargo install --locked cargo-fuzz`");
    let directory = root().join("target/fuzz");
    build(&directory)?;
    run(cargo(&["run", "--quiet", "--package", "hbpf-fuzz", "--example", "seeds"]).arg(directory.join("seeds")))?;
    let outcomes = run_all(&chosen, arguments, &directory)?;
    println!("\n{}", table(&outcomes));
    let crashes: Vec<_> = outcomes.iter().flat_map(|(_, outcome)| &outcome.crashes).collect();
    for path in &crashes {
        println!("{}", path.display());
    }
    ensure!(crashes.is_empty(), "mend them, and move them to fuzz/regressions/TARGET/ so that they stay so");
    Ok(())
}

/// The targets, by the files that make them.
fn targets() -> Result<Vec<String>> {
    let directory = root().join("fuzz/fuzz_targets");
    let mut names = Vec::new();
    for entry in fs::read_dir(&directory).with_context(|| format!("cannot read {}", directory.display()))? {
        names.extend(entry?.path().file_stem().map(|name| name.to_string_lossy().into_owned()));
    }
    names.sort_unstable();
    Ok(names)
}

/// Builds all targets with the sanitizers that they need: those are for nightly compilers, or for any that is told so.
fn build(directory: &Path) -> Result<()> {
    let nightly = works(Command::new("rustup").args(["run", "nightly", "rustc", "--version"]));
    let mut build = Command::new("cargo");
    if nightly {
        build.arg("+nightly");
    } else {
        build.env("RUSTC_BOOTSTRAP", "1");
    }
    // The workspace's release profile is for what is shipped.
    build.env("CARGO_PROFILE_RELEASE_LTO", "off").env_remove("CARGO").env_remove("RUSTUP_TOOLCHAIN");
    build.args(["fuzz", "build", "--features", "libfuzzer", "--target-dir"]).arg(directory.join("build"));
    run(&mut build).context("the targets do not build")
}

fn run_all(targets: &[String], arguments: &Arguments, directory: &Path) -> Result<Vec<(String, Outcome)>> {
    let (next, outcomes) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        for _ in 0..arguments.jobs.clamp(1, targets.len()) {
            scope.spawn(|| {
                while let Some(target) = targets.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let outcome = run_one(target, arguments.duration, directory);
                    if let Ok(outcome) = &outcome {
                        println!("{target}: {} executions, {} crashes", outcome.executions, outcome.crashes.len());
                    }
                    outcomes.lock().expect("no thread panics with it").push((target.clone(), outcome));
                }
            });
        }
    });
    let mut outcomes = outcomes.into_inner().expect("no thread panics with it");
    outcomes.sort_by(|one, other| one.0.cmp(&other.0));
    outcomes.into_iter().map(|(target, outcome)| Ok((target, outcome?))).collect()
}

fn run_one(target: &str, duration: Duration, directory: &Path) -> Result<Outcome> {
    let place = |kind: &str| directory.join(kind).join(target);
    let (corpus, crashes) = (place("corpus"), place("crashes"));
    for directory in [&corpus, &crashes] {
        fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
    }
    let before = files(&crashes)?;
    let log = directory.join(format!("{target}.log"));
    let program = directory.join("build").join(format!("{}-unknown-linux-gnu/release", env::consts::ARCH)).join(target);
    let mut fuzz = Command::new(&program);
    fuzz.arg(&corpus).arg(place("seeds"));
    let regressions = root().join("fuzz/regressions").join(target);
    if regressions.is_dir() {
        fuzz.arg(regressions);
    }
    let dictionary = root().join("fuzz/dictionaries").join(format!("{target}.dict"));
    if dictionary.is_file() {
        fuzz.arg(format!("-dict={}", dictionary.display()));
    }
    fuzz.arg(format!("-max_total_time={}", duration.as_secs().max(1)))
        .arg(format!("-artifact_prefix={}/", crashes.display()))
        .arg(format!("-max_len={MAX_INPUT_BYTES}"))
        .arg(format!("-timeout={SECONDS_PER_INPUT}"))
        // By the clock, and so of every input that a busy machine was slow with: no finding before that limit.
        .arg(format!("-report_slow_units={SECONDS_PER_INPUT}"))
        .arg(format!("-rss_limit_mb={MEMORY_MIB}"))
        .arg("-print_final_stats=1")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(File::create(&log).with_context(|| format!("cannot write {}", log.display()))?);
    let status = fuzz.status().with_context(|| format!("cannot run {}", program.display()))?;
    let said = String::from_utf8_lossy(&fs::read(&log)?).into_owned();
    let mut outcome = outcome(&said);
    outcome.crashes = files(&crashes)?.into_iter().filter(|path| !before.contains(path)).collect();
    ensure!(status.success() || !outcome.crashes.is_empty(), "{target} ended with {status}: see {}", log.display());
    Ok(outcome)
}

fn files(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut files = fs::read_dir(directory)?.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    files.sort_unstable();
    Ok(files)
}

/// Reads what libFuzzer says at its end, and on its last line of progress.
fn outcome(said: &str) -> Outcome {
    let stat = |name: &str| {
        let line = said.lines().find_map(|line| line.strip_prefix(&format!("stat::{name}:")))?;
        line.trim().parse().ok()
    };
    let progress = said.lines().rfind(|line| line.contains(" cov: ")).unwrap_or_default();
    let number_behind = |name: &str| -> Option<u64> {
        let rest = progress.split_once(name)?.1.trim_start();
        rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
    };
    let seconds =
        said.lines().find_map(|line| line.strip_prefix("Done ")?.split_once(" runs in ")?.1.split(' ').next());
    Outcome {
        seconds: seconds.and_then(|seconds| seconds.parse().ok()).unwrap_or(0),
        executions: stat("number_of_executed_units").unwrap_or(0),
        coverage: number_behind("cov:").unwrap_or(0),
        corpus: number_behind("corp:").unwrap_or(0),
        peak_mib: stat("peak_rss_mb").unwrap_or(0),
        crashes: Vec::new(),
    }
}

fn table(outcomes: &[(String, Outcome)]) -> String {
    let mut lines = vec![
        "| target | seconds | executions | executions/s | coverage | corpus | peak MiB | crashes |".to_owned(),
        "|---|---:|---:|---:|---:|---:|---:|---:|".to_owned(),
    ];
    lines.extend(outcomes.iter().map(|(target, outcome)| {
        let Outcome { seconds, executions, coverage, corpus, peak_mib, crashes } = outcome;
        let rate = executions / seconds.max(&1);
        let crashes = crashes.len();
        format!("| {target} | {seconds} | {executions} | {rate} | {coverage} | {corpus} | {peak_mib} | {crashes} |")
    }));
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::outcome;

    #[test]
    fn what_libfuzzer_says_is_read() {
        let said = "INFO: seed corpus: files: 3\n#2\tINITED cov: 10 ft: 11 corp: 1/1b exec/s: 0 rss: 30Mb\n\
            #4096\tREDUCE cov: 345 ft: 678 corp: 56/7890b lim: 4 exec/s: 2048 rss: 41Mb L: 3/9 MS: 1 EraseBytes-\n\
            #5000\tDONE   cov: 346 ft: 680 corp: 57/7900b lim: 4 exec/s: 2500 rss: 42Mb\n\
            Done 5000 runs in 31 second(s)\nstat::number_of_executed_units: 5000\nstat::peak_rss_mb:              42\n";
        let found = outcome(said);
        assert_eq!((found.seconds, found.executions, found.coverage), (31, 5000, 346));
        assert_eq!((found.corpus, found.peak_mib), (57, 42));
        assert_eq!(outcome("").executions, 0);
    }
}
