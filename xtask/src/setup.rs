//! `setup`: what only some tests need, and nobody needs to build or run hbpf: Python clients and a real inference server.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::tools::{root, run};

/// Clients: the vendors' SDKs.
const REQUIREMENTS: &str = "demos/requirements.txt";
/// A real inference server, which is built from source.
const REQUIREMENTS_FULL: &str = "demos/requirements-full.txt";
/// The server's native part for any CPU of the architecture, without what serving text needs not.
const LLAMA_CMAKE_ARGS: &str = "-DGGML_NATIVE=OFF -DGGML_OPENMP=OFF -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF \
    -DLLAMA_BUILD_TOOLS=OFF -DMTMD_BUILD=OFF";

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Also build a real inference server (about 5 minutes on two cores; needs a C++ compiler)
    #[arg(long)]
    full: bool,
}

pub(crate) fn run_chore(arguments: &Arguments) -> Result<()> {
    environment(arguments.full)
}

/// Makes `target/venv` with what the requirement files name, if it is not there already.
pub(crate) fn environment(full: bool) -> Result<()> {
    let venv = root().join("target/venv");
    if !python(&venv).is_file() {
        run(Command::new("python3").args(["-m", "venv"]).arg(&venv))
            .context("cannot make a Python environment (Debian has it in the package python3-venv)")?;
    }
    install(&venv, REQUIREMENTS)?;
    if full {
        install(&venv, REQUIREMENTS_FULL)?;
    }
    println!("clients for the end-to-end tests are in {}", venv.display());
    Ok(())
}

/// The interpreter of an environment.
pub(crate) fn python(venv: &Path) -> PathBuf {
    venv.join("bin/python")
}

fn install(venv: &Path, requirements: &str) -> Result<()> {
    let wanted =
        fs::read_to_string(root().join(requirements)).with_context(|| format!("cannot read {requirements}"))?;
    let stamp = venv.join(Path::new(requirements).file_name().context("requirements have a name")?);
    if fs::read_to_string(&stamp).is_ok_and(|have| have == wanted) {
        return Ok(());
    }
    let mut command = Command::new(python(venv));
    command.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--requirement", requirements]);
    command.env("CMAKE_ARGS", LLAMA_CMAKE_ARGS);
    run(&mut command).with_context(|| format!("cannot install {requirements}"))?;
    fs::write(&stamp, wanted)?;
    Ok(())
}
