//! `build-ebpf`: the eBPF objects that are committed, so that users need no eBPF toolchain.

use std::{
    collections::BTreeMap,
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// What `dist/` holds objects for: they differ in where a register set keeps a function's arguments.
const ARCHITECTURES: [&str; 2] = ["x86_64", "aarch64"];

const TARGET: &str = "bpfel-unknown-none";

/// The flags that decide the objects' bytes, besides the path mappings. Part of the source hash.
///
/// Every kernel with a BPF ring buffer (5.8) runs v3; the linker wants debug information to make BTF of.
const RUSTFLAGS: [&str; 4] = ["-Clinker=bpf-linker", "-Clink-arg=--btf", "-Ctarget-cpu=v3", "-Cdebuginfo=2"];

/// The packages whose versions in Cargo.lock are part of the source hash.
const LOCKED: [&str; 4] = ["aya-ebpf", "aya-ebpf-bindings", "aya-ebpf-cty", "aya-ebpf-macros"];

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Only compare the committed objects and sources with the manifest.
    #[arg(long, conflicts_with = "verify")]
    check: bool,
    /// Rebuild elsewhere and compare with what is committed.
    #[arg(long)]
    verify: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    if arguments.check {
        check()?;
        println!("the eBPF objects match their sources");
    } else if arguments.verify {
        let outcome = verify()?;
        println!("{outcome}");
    } else {
        let toolchain = Toolchain::find(committed_manifest().ok().as_ref().map(|manifest| &manifest.toolchain))?;
        let manifest = build(&toolchain, &dist())?;
        println!("built with {}", manifest.toolchain);
        for (name, hash) in &manifest.objects {
            println!("{hash}  {name}");
        }
    }
    Ok(())
}

/// What `dist/manifest.json` says.
#[derive(Debug, Serialize, Deserialize)]
struct Manifest {
    /// Over everything that the objects are made from.
    source_sha256: String,
    toolchain: ToolchainVersions,
    /// SHA-256 of each object by file name.
    objects: BTreeMap<String, String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct ToolchainVersions {
    rustc: String,
    bpf_linker: String,
    llvm: String,
}

impl std::fmt::Display for ToolchainVersions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}, LLVM {}, {}", self.rustc, self.llvm, self.bpf_linker)
    }
}

/// What [`verify`] found.
#[derive(Debug)]
pub(crate) enum Verified {
    /// Rebuilt with the recorded toolchain: the bytes are the same.
    SameBytes,
    /// Rebuilt with another toolchain: the objects at this place are to be loaded and tested instead of compared.
    OtherToolchain {
        /// Where the rebuilt objects lie.
        objects: PathBuf,
        /// The toolchain that was found.
        found: String,
        /// The toolchain that the manifest names.
        recorded: String,
    },
}

impl std::fmt::Display for Verified {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::SameBytes => write!(f, "rebuilt with the recorded toolchain: the same bytes"),
            Self::OtherToolchain { objects, found, recorded } => write!(
                f,
                "rebuilt with {found}, while {recorded} is recorded: bytes not compared, the objects to load are in {}",
                objects.display()
            ),
        }
    }
}

/// Compares sources and objects with the manifest. Cheap: nothing is built.
pub(crate) fn check() -> Result<()> {
    let manifest = committed_manifest()?;
    ensure!(
        manifest.source_sha256 == source_hash()?,
        "the eBPF sources have changed since dist/ was built: run `cargo xtask build-ebpf`"
    );
    for architecture in ARCHITECTURES {
        let name = object_name(architecture);
        let object = dist().join(&name);
        let hash = sha256(&fs::read(&object).with_context(|| format!("reading {}", object.display()))?);
        ensure!(
            manifest.objects.get(&name) == Some(&hash),
            "{name} is not the object that the manifest names: run `cargo xtask build-ebpf`"
        );
    }
    Ok(())
}

/// Rebuilds at a separate place. With the recorded toolchain the bytes must match.
pub(crate) fn verify() -> Result<Verified> {
    check()?;
    let recorded = committed_manifest()?;
    let toolchain = Toolchain::find(Some(&recorded.toolchain))?;
    let objects = root().join("target/ebpf/verify");
    let rebuilt = build(&toolchain, &objects)?;
    if rebuilt.toolchain != recorded.toolchain {
        return Ok(Verified::OtherToolchain {
            objects,
            found: rebuilt.toolchain.to_string(),
            recorded: recorded.toolchain.to_string(),
        });
    }
    for (name, hash) in &recorded.objects {
        ensure!(
            rebuilt.objects.get(name) == Some(hash),
            "{name} rebuilt with the recorded toolchain has other bytes than the committed one"
        );
    }
    Ok(Verified::SameBytes)
}

/// A compiler that can build for [`TARGET`].
struct Toolchain {
    rustc: PathBuf,
    /// No precompiled `core`: build it from rust-src.
    builds_core: bool,
    versions: ToolchainVersions,
}

impl Toolchain {
    /// The recorded toolchain where it is installed, else the first that can build.
    fn find(recorded: Option<&ToolchainVersions>) -> Result<Self> {
        let bpf_linker = command_output(Command::new("bpf-linker").arg("--version"))
            .context("no bpf-linker: install it with `cargo install bpf-linker --version 0.13.0`")?;
        let mut found = Vec::new();
        for (rustc, builds_core) in candidates() {
            let about = command_output(Command::new(&rustc).arg("-vV"))?;
            let field = |name: &str| about.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
            let versions = ToolchainVersions {
                rustc: about.lines().next().unwrap_or_default().to_owned(),
                bpf_linker: bpf_linker.clone(),
                llvm: field("LLVM version: ").to_owned(),
            };
            found.push(Self { rustc, builds_core, versions });
        }
        let preferred = found.iter().position(|toolchain| Some(&toolchain.versions) == recorded).unwrap_or(0);
        if found.is_empty() {
            bail!(
                "no compiler for {TARGET}: install Debian's rustc-web with libstd-rust-web-dev-bpf, \
                 or `rustup toolchain install nightly --component rust-src`"
            );
        }
        Ok(found.swap_remove(preferred))
    }
}

/// Compilers with a precompiled `core` for [`TARGET`], then a nightly that can build it.
fn candidates() -> Vec<(PathBuf, bool)> {
    let mut candidates = Vec::new();
    let places = env::var_os("PATH").unwrap_or_default();
    for rustc in env::split_paths(&places).map(|place| place.join("rustc")).filter(|rustc| rustc.is_file()) {
        let libraries = command_output(Command::new(&rustc).args(["--print", "target-libdir", "--target", TARGET]));
        let has_core = |directory: &str| {
            fs::read_dir(directory).is_ok_and(|entries| {
                entries.flatten().any(|entry| entry.file_name().to_string_lossy().starts_with("libcore-"))
            })
        };
        if libraries.is_ok_and(|directory| has_core(&directory)) {
            candidates.push((rustc, false));
        }
    }
    if let Ok(sysroot) = command_output(Command::new("rustup").args(["run", "nightly", "rustc", "--print", "sysroot"]))
    {
        let sysroot = Path::new(&sysroot);
        if sysroot.join("lib/rustlib/src/rust/library/core").is_dir() {
            candidates.push((sysroot.join("bin/rustc"), true));
        }
    }
    candidates
}

/// Builds every object and writes it and the manifest to `destination`.
fn build(toolchain: &Toolchain, destination: &Path) -> Result<Manifest> {
    fs::create_dir_all(destination)?;
    let mut objects = BTreeMap::new();
    for architecture in ARCHITECTURES {
        let bytes = build_object(toolchain, architecture)?;
        let name = object_name(architecture);
        fs::write(destination.join(&name), &bytes)?;
        objects.insert(name, sha256(&bytes));
    }
    let manifest = Manifest { source_sha256: source_hash()?, toolchain: toolchain.versions.clone(), objects };
    fs::write(destination.join("manifest.json"), serde_json::to_string_pretty(&manifest)? + "\n")?;
    Ok(manifest)
}

fn build_object(toolchain: &Toolchain, architecture: &str) -> Result<Vec<u8>> {
    // One directory for each, so that switching architectures does not rebuild everything.
    let target = root().join("target/ebpf").join(architecture);
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command
        .current_dir(root())
        .args(["build", "--locked", "--package", "hbpf-ebpf", "--bin", "hbpf", "--features", "programs"])
        .args(["--profile", "ebpf", "--target", TARGET, "--target-dir"])
        .arg(&target)
        .env("RUSTC", &toolchain.rustc)
        // `asm!` for BPF is unstable, and stable compilers that ship a BPF `core` exist.
        .env("RUSTC_BOOTSTRAP", "1")
        .env("AYA_BPF_TARGET_ARCH", architecture)
        .env("CARGO_ENCODED_RUSTFLAGS", rustflags(toolchain)?.join("\x1f"))
        .env_remove("RUSTC_WRAPPER")
        .env_remove("RUSTC_WORKSPACE_WRAPPER");
    if toolchain.builds_core {
        command.args(["-Z", "build-std=core"]);
    }
    let status = command.status().context("running cargo")?;
    ensure!(status.success(), "building the eBPF object for {architecture} failed");
    let object = target.join(TARGET).join("ebpf/hbpf");
    fs::read(&object).with_context(|| format!("reading {}", object.display()))
}

/// [`RUSTFLAGS`] and mappings that keep the places of tree, registry and compiler out of the debug information.
fn rustflags(toolchain: &Toolchain) -> Result<Vec<String>> {
    let cargo_home = env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| env::home_dir().map(|home| home.join(".cargo")))
        .context("neither CARGO_HOME nor a home directory is known")?;
    let sysroot = command_output(Command::new(&toolchain.rustc).args(["--print", "sysroot"]))?;
    let mut flags: Vec<String> = RUSTFLAGS.map(str::to_owned).into();
    let mut places = vec![(root(), "hbpf"), (PathBuf::from(sysroot), "rust")];
    // Where packages are unpacked depends on the registry that they came from, too.
    let unpacked = cargo_home.join("registry/src");
    places.push((cargo_home, "cargo"));
    for registry in fs::read_dir(unpacked).into_iter().flatten().flatten() {
        places.push((registry.path(), "packages"));
    }
    for (place, name) in places {
        flags.push(format!("--remap-path-prefix={}={name}", place.display()));
    }
    Ok(flags)
}

/// Over everything in this tree that decides the objects' bytes.
fn source_hash() -> Result<String> {
    let root = root();
    let mut files = vec![root.join("hbpf-ebpf/Cargo.toml")];
    let sources = root.join("hbpf-ebpf/src");
    for entry in fs::read_dir(&sources).with_context(|| format!("reading {}", sources.display()))? {
        files.push(entry?.path());
    }
    files.sort();
    let mut hash = Sha256::new();
    let mut add = |name: &str, content: &[u8]| {
        hash.update(name);
        hash.update([0]);
        hash.update(u64::try_from(content.len()).unwrap_or(u64::MAX).to_le_bytes());
        hash.update(content);
    };
    for file in files {
        let name = file.strip_prefix(&root)?.to_string_lossy().into_owned();
        add(&name, &fs::read(&file)?);
    }
    add("RUSTFLAGS", RUSTFLAGS.join(" ").as_bytes());
    for package in LOCKED {
        add(package, locked(&fs::read_to_string(root.join("Cargo.lock"))?, package)?.as_bytes());
    }
    Ok(hex(&hash.finalize()))
}

/// Version and checksum of `package` in the text of a Cargo.lock.
fn locked(lock: &str, package: &str) -> Result<String> {
    let name = format!("name = \"{package}\"");
    lock.split("[[package]]")
        .find(|entry| entry.lines().any(|line| line == name))
        .map(|entry| {
            let telling = |line: &&str| line.starts_with("version") || line.starts_with("checksum");
            entry.lines().filter(telling).collect::<Vec<_>>().join("\n")
        })
        .with_context(|| format!("Cargo.lock names no {package}"))
}

fn committed_manifest() -> Result<Manifest> {
    let path = dist().join("manifest.json");
    let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("reading {}", path.display()))
}

fn object_name(architecture: &str) -> String {
    format!("hbpf.{architecture}.o")
}

fn dist() -> PathBuf {
    root().join("hbpf-ebpf/dist")
}

/// The workspace's root.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the workspace").to_owned()
}

fn command_output(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("running {command:?}"))?;
    ensure!(output.status.success(), "{command:?} failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::locked;

    #[test]
    fn locked_packages_are_found_by_their_whole_name() {
        let lock = "[[package]]\nname = \"aya-ebpf-cty\"\nversion = \"1\"\n\n\
                    [[package]]\nname = \"aya-ebpf\"\nversion = \"2\"\nchecksum = \"ab\"\ndependencies = [\n]\n";
        assert_eq!(locked(lock, "aya-ebpf").unwrap(), "version = \"2\"\nchecksum = \"ab\"");
        assert!(locked(lock, "aya").is_err());
    }
}
