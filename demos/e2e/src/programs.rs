//! The programs that the tests run.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

/// What is tested, as built by the cargo that runs the tests.
pub struct Programs {
    /// `hbpf`.
    pub hbpf: PathBuf,
    /// `hbpf-demo-server`.
    pub server: PathBuf,
    /// The stand-in for `libnvidia-ml.so.1`.
    pub nvml: PathBuf,
}

impl Programs {
    fn in_directory(directory: &Path) -> Self {
        Self {
            hbpf: directory.join("hbpf"),
            server: directory.join("hbpf-demo-server"),
            nvml: directory.join("libhbpf_demo_nvml.so"),
        }
    }
}

static PROGRAMS: OnceLock<Programs> = OnceLock::new();

/// Takes the programs that lie in this directory, instead of building them.
pub fn use_programs_in(directory: &Path) {
    let programs = Programs::in_directory(directory);
    assert!(PROGRAMS.set(programs).is_ok(), "the programs are chosen before they are used");
}

/// Builds the programs once per test binary: cargo hands a package the binaries of its own only.
pub fn programs() -> &'static Programs {
    PROGRAMS.get_or_init(|| {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        // The whole workspace, so that features are those of `cargo test --workspace` and nothing is built twice.
        let built = Command::new(cargo).args(["build", "--quiet", "--workspace"]).current_dir(root()).status();
        assert!(built.is_ok_and(|status| status.success()), "the programs under test do not build");
        // Tests lie in target/debug/deps.
        let own = std::env::current_exe().expect("a test knows where it lies");
        let directory = own.parent().and_then(Path::parent).expect("tests lie two directories below the target");
        Programs::in_directory(directory)
    })
}

/// A client script.
pub fn script(name: &str) -> PathBuf {
    root().join("demos").join(name)
}

/// Python, the environment that `cargo xtask setup` makes before any other; `None` (and said) where there is none.
pub fn python() -> Option<PathBuf> {
    python_with("ssl")
}

/// Python that has this module.
pub fn python_with(module: &str) -> Option<PathBuf> {
    let found = [root().join("target/venv/bin/python"), PathBuf::from("python3")].into_iter().find(|python| {
        let mut command = Command::new(python);
        command.args(["-c", &format!("import {module}")]).stdin(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    });
    if found.is_none() {
        let why = format!("there is no Python with the module {module}: `cargo xtask setup` installs it");
        crate::skip("HBPF_REQUIRE_CLIENTS", &why);
    }
    found
}

/// Whether the long suites are to run.
pub fn full() -> bool {
    std::env::var_os("HBPF_FULL").is_some_and(|value| value == "1")
}

/// The first of these programs that says its version when asked so; `None` (and said) where there is none.
pub fn tool(name: &str, question: &str, candidates: &[PathBuf]) -> Option<PathBuf> {
    let answers = |path: &&PathBuf| {
        let mut command = Command::new(path);
        command.arg(question).stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    };
    let found = candidates.iter().find(answers).cloned();
    if found.is_none() {
        let why = format!("there is no {name}: `cargo xtask setup --full` or the distribution has it");
        crate::skip("HBPF_REQUIRE_CLIENTS", &why);
    }
    found
}

/// What `cargo xtask setup` has put there.
pub fn installed(path: &str) -> PathBuf {
    root().join("target").join(path)
}

/// A recent Go.
pub fn go() -> Option<PathBuf> {
    tool("Go", "version", &[package("go/bin/go")])
}

/// A Go program, built in this way.
pub fn go_program(go: &Path, source: &str, arguments: &[&str], to: &Path) -> PathBuf {
    let program = to.join(source.trim_end_matches(".go"));
    let root = go.parent().and_then(Path::parent).filter(|root| root.join("src").exists());
    let mut build = Command::new(go);
    build.arg("build").args(arguments).arg("-o").arg(&program).arg(script(&format!("clients/{source}")));
    build.env("GOCACHE", installed("go-cache")).env("GOTOOLCHAIN", "local").env("GOFLAGS", "");
    if let Some(root) = root {
        build.env("GOROOT", root);
    }
    let status = build.status().expect("go runs");
    assert!(status.success(), "{source} does not build");
    program
}

/// A program in Rust that `cargo xtask setup --full` has built; `None` (and said) where it has not.
pub fn rust_program(path: &str) -> Option<PathBuf> {
    let program = installed("rust").join(path);
    if program.exists() {
        return Some(program);
    }
    crate::skip("HBPF_REQUIRE_CLIENTS", "there are no programs in Rust: `cargo xtask setup --full` builds them");
    None
}

/// A program that came with a package of the tests' Python environment.
pub fn package(path: &str) -> PathBuf {
    let pythons = std::fs::read_dir(installed("venv/lib")).into_iter().flatten().flatten();
    let found = pythons.map(|python| python.path().join("site-packages").join(path)).find(|program| program.exists());
    found.unwrap_or_default()
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}
