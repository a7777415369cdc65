//! `test`: everything that is checked, in one command.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Instant;
use std::{env, fs};

use anyhow::{Context, Result, bail, ensure};

use crate::kernels::{KERNELS, Tried};
use crate::tools::{cargo, is_root, root, run, works};
use crate::{bench, build_ebpf, demo, kernels, setup};

/// How long the soak's smoke test lasts: it shows that the soak works, and finds great leaks.
const SOAK: &str = "2m";
/// How long the demo's smoke test lasts.
const DEMO_SECONDS: u64 = 5;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Also rebuild the eBPF objects, run the long suites and check licences; installs what these need into target/
    #[arg(long)]
    full: bool,
    /// Try hbpf on other kernels in virtual machines, which takes QEMU and, the first time, Debian's archive; by itself, or after
    /// all else with --full. With a part of a kernel's name, such as 6.12, on those only
    #[arg(long, value_name = "NAME", num_args = 0..=1, default_missing_value = "")]
    kernels: Option<String>,
}

/// What a step came to, if it did not fail.
enum Outcome {
    Passed,
    /// It cannot run here, and why.
    Skipped(String),
}

type Step = (&'static str, Box<dyn Fn() -> Result<Outcome>>);

/// What this run is to cover.
#[derive(Clone, Copy)]
struct Scope {
    full: bool,
    /// On a CI machine what should run must run.
    ci: bool,
}

pub(crate) fn run_chore(arguments: &Arguments) -> Result<ExitCode> {
    let ci = env::var("CI").is_ok_and(|value| value == "true");
    let scope = Scope { full: arguments.full, ci };
    let (mut passed, mut failed, mut skipped) = (0, 0, 0);
    let mut lines = Vec::new();
    let mut steps = if arguments.kernels.is_some() && !arguments.full { Vec::new() } else { steps(scope) };
    if let Some(name) = &arguments.kernels {
        let before = steps.len();
        steps.extend(kernels(scope, name));
        ensure!(steps.len() > before, "no kernel is called {name}");
    }
    for (name, step) in steps {
        println!("==> {name}");
        let started = Instant::now();
        let said = match step() {
            Ok(Outcome::Passed) => {
                passed += 1;
                "passed".to_owned()
            }
            Ok(Outcome::Skipped(why)) => {
                skipped += 1;
                format!("skipped: {why}")
            }
            Err(error) => {
                failed += 1;
                format!("FAILED: {error:#}")
            }
        };
        let line = format!("{name}: {said} ({:.0} s)", started.elapsed().as_secs_f64());
        println!("    {line}");
        lines.push(line);
    }
    println!("\n{}", lines.join("\n"));
    println!("{passed} passed, {failed} failed, {skipped} skipped");
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn steps(scope: Scope) -> Vec<Step> {
    let mut steps: Vec<Step> = vec![
        ("format", Box::new(|| command(&mut cargo(&["fmt", "--all", "--check"])))),
        ("eBPF objects match their sources", Box::new(|| build_ebpf::check().map(|()| Outcome::Passed))),
        (
            "lints",
            Box::new(|| {
                command(&mut cargo(&["clippy", "--quiet", "--workspace", "--all-targets", "--", "-D", "warnings"]))
            }),
        ),
        ("unit and integration tests", Box::new(move || tests(scope, &["--workspace", "--exclude", "hbpf-e2e"]))),
        (
            "documentation",
            Box::new(|| {
                let mut doc = cargo(&["doc", "--quiet", "--workspace", "--no-deps", "--document-private-items"]);
                command(doc.env("RUSTDOCFLAGS", "-D warnings -A rustdoc::private-intra-doc-links"))
            }),
        ),
    ];
    if scope.full {
        steps.push(("licences and duplicate versions", Box::new(deny)));
        steps.push(("fuzz targets", Box::new(fuzz_targets)));
        steps.push(("eBPF objects rebuilt", Box::new(move || rebuilt(scope))));
    }
    if scope.full || scope.ci {
        steps.push((
            "clients for the end-to-end tests",
            Box::new(move || setup::environment(scope.full).map(|()| Outcome::Passed)),
        ));
    }
    steps.push(("end-to-end tests", Box::new(move || end_to_end(scope))));
    steps.push(("demo", Box::new(|| demo(Some(DEMO_SECONDS)))));
    steps.push(("bundled recording", Box::new(|| demo(None))));
    steps.push(("release scripts", Box::new(move || release_scripts(scope))));
    if scope.full {
        steps.push(("soak", Box::new(move || soak(scope))));
    }
    steps
}

/// One step for each kernel that has this in its name.
fn kernels(scope: Scope, name: &str) -> impl Iterator<Item = Step> {
    KERNELS.iter().filter(move |kernel| kernel.title.contains(name)).map(move |kernel| {
        let step = move || match kernels::try_out(kernel)? {
            Tried::Passed => Ok(Outcome::Passed),
            // Whoever asks for kernels on a CI machine has seen to it that they can be had.
            Tried::CannotBeHad(why) if scope.ci => bail!(why),
            Tried::CannotBeHad(why) => Ok(Outcome::Skipped(why)),
        };
        (kernel.title, Box::new(step) as Box<dyn Fn() -> Result<Outcome>>)
    })
}

fn command(command: &mut Command) -> Result<Outcome> {
    run(command).map(|()| Outcome::Passed)
}

/// Shows the demo for so long, or the recording, without a terminal.
fn demo(seconds: Option<u64>) -> Result<Outcome> {
    demo::run_chore(&demo::Arguments::for_test(seconds)).map(|()| Outcome::Passed)
}

/// Those in `deploy/`, and CI's own. What makes a release is not run: it builds for two architectures.
fn release_scripts(scope: Scope) -> Result<Outcome> {
    run(&mut Command::new(root().join("deploy/test-install.sh")))?;
    if !scope.ci && !works(Command::new("shellcheck").arg("--version")) {
        return Ok(Outcome::Skipped("no shellcheck; install.sh was tried, and passes".into()));
    }
    let scripts = [".ci/run", "deploy/install.sh", "deploy/publish.sh", "deploy/test-install.sh"];
    command(Command::new("shellcheck").args(scripts))
}

fn soak(scope: Scope) -> Result<Outcome> {
    if !is_root() && !scope.ci {
        return Ok(Outcome::Skipped("loading probes needs root".into()));
    }
    bench::run_soak(&bench::SoakArguments::for_test(SOAK)).map(|()| Outcome::Passed)
}

fn tests(scope: Scope, what: &[&str]) -> Result<Outcome> {
    let mut test = cargo(&["test", "--quiet", "--no-fail-fast"]);
    test.args(what);
    if scope.ci {
        test.env("HBPF_REQUIRE_BPF", "1");
    }
    command(&mut test)
}

fn end_to_end(scope: Scope) -> Result<Outcome> {
    if !is_root() && !scope.ci {
        return Ok(Outcome::Skipped("loading probes needs root: run `sudo -E cargo xtask test`".into()));
    }
    if !setup::python(&root().join("target/venv")).is_file() {
        println!("    without Python SDK clients, as there is no target/venv: `cargo xtask setup` makes it");
    }
    let mut test = cargo(&["test", "--quiet", "--no-fail-fast", "--package", "hbpf-e2e"]);
    if scope.ci {
        test.env("HBPF_REQUIRE_BPF", "1").env("HBPF_REQUIRE_CLIENTS", "1");
    }
    if scope.full {
        test.env("HBPF_FULL", "1");
    }
    command(&mut test)
}

/// Rebuilds the objects. With another toolchain than the recorded one the bytes differ; then what was built has to pass
/// the tests that load objects.
fn rebuilt(scope: Scope) -> Result<Outcome> {
    if !scope.ci && !works(Command::new("bpf-linker").arg("--version")) {
        return Ok(Outcome::Skipped("no eBPF toolchain: CONTRIBUTING.md says how to install one".into()));
    }
    let verified = build_ebpf::verify()?;
    println!("    {verified}");
    let build_ebpf::Verified::OtherToolchain { objects, .. } = verified else { return Ok(Outcome::Passed) };
    if !is_root() && !scope.ci {
        return Ok(Outcome::Skipped("rebuilt with another toolchain, and loading the objects needs root".into()));
    }
    load_rebuilt(&objects).context("the rebuilt objects do not pass")
}

/// Runs the tests that load objects with the rebuilt ones in the place of the committed ones.
fn load_rebuilt(objects: &Path) -> Result<Outcome> {
    let _committed = Replaced::with(objects)?;
    command(cargo(&["test", "--quiet", "--package", "hbpf-host", "--package", "hbpf-e2e"]).env("HBPF_REQUIRE_BPF", "1"))
}

/// Committed objects that others stand in for; they come back when this is dropped.
struct Replaced(Vec<(PathBuf, Vec<u8>)>);

impl Replaced {
    fn with(objects: &Path) -> Result<Self> {
        let mut replaced = Self(Vec::new());
        for entry in fs::read_dir(objects)? {
            let rebuilt = entry?.path();
            let committed = root().join("hbpf-ebpf/dist").join(rebuilt.file_name().context("a file has a name")?);
            if rebuilt.extension().is_some_and(|extension| extension == "o") {
                replaced.0.push((committed.clone(), fs::read(&committed)?));
                fs::copy(&rebuilt, &committed)?;
            }
        }
        Ok(replaced)
    }
}

impl Drop for Replaced {
    fn drop(&mut self) {
        for (path, bytes) in &self.0 {
            if let Err(error) = fs::write(path, bytes) {
                eprintln!("{} could not be put back ({error}): `git checkout` it", path.display());
            }
        }
    }
}

/// The targets around the functions that the ordinary tests replay.
fn fuzz_targets() -> Result<Outcome> {
    let arguments =
        ["clippy", "--quiet", "--package", "hbpf-fuzz", "--features", "libfuzzer", "--bins", "--", "-D", "warnings"];
    command(&mut cargo(&arguments))
}

fn deny() -> Result<Outcome> {
    if !works(cargo(&["deny", "--version"]).stdin(std::process::Stdio::null())) {
        return Ok(Outcome::Skipped("cargo-deny is not installed: `cargo install --locked cargo-deny`".into()));
    }
    // The crates for other systems, too, which no build here has fetched.
    run(&mut cargo(&["fetch", "--locked", "--quiet"]))?;
    // Advisories need a database from the network; they are checked where there is one.
    command(&mut cargo(&["deny", "--offline", "check", "bans", "licenses", "sources"]))
}
