//! `test --kernels`: hbpf on other kernels than this machine's, each booted in a virtual machine of its own.
//!
//! QEMU emulates the machines (nothing here needs KVM, or root), Debian has the kernels. What runs inside is `demos/kernels`, the
//! real `hbpf` and the stand-in server, linked statically, with OpenSSL's client beside them. All that is downloaded stays in
//! `target/kernels`, so the next run asks nobody for anything; who wants newer kernels deletes that directory.

mod boot;
mod image;
mod packages;

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, ensure};

use crate::tools::{cargo, root, run, works};

/// The kernels, oldest first: the long-term series that distributions have, and the newest there is.
pub(crate) const KERNELS: [Kernel; 7] = [
    Kernel::new("Linux 5.10 on x86_64", Some("5.10"), Architecture::X86_64),
    Kernel::new("Linux 6.1 on x86_64", Some("6.1"), Architecture::X86_64),
    Kernel::new("Linux 6.12 on x86_64", Some("6.12"), Architecture::X86_64),
    Kernel::new("Linux 6.18 on x86_64", Some("6.18"), Architecture::X86_64),
    Kernel::new("the newest Linux on x86_64", None, Architecture::X86_64),
    Kernel::new("Linux 6.12 on aarch64", Some("6.12"), Architecture::Aarch64),
    // As hosts that trust nobody are: most programs are refused, and the rest has to go on.
    Kernel { locked: true, ..Kernel::new("Linux 6.12 on x86_64, locked down", Some("6.12"), Architecture::X86_64) },
];

/// What is linked for the machines. A static program runs there whatever C library this machine has.
const RUSTFLAGS: &str = "-C target-feature=+crt-static -C strip=symbols";

/// A kernel to be tried.
pub(crate) struct Kernel {
    /// As it is called in the list of steps.
    pub(crate) title: &'static str,
    /// `None`: the newest.
    series: Option<&'static str>,
    architecture: Architecture,
    /// Started so that nobody, root included, may read the kernel's memory.
    locked: bool,
}

impl Kernel {
    const fn new(title: &'static str, series: Option<&'static str>, architecture: Architecture) -> Self {
        Self { title, series, architecture, locked: false }
    }
}

/// What a machine is built of.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Architecture {
    X86_64,
    Aarch64,
}

impl Architecture {
    /// As Rust, QEMU and most others call it.
    fn name(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64",
            Self::Aarch64 => "aarch64",
        }
    }

    /// As Debian calls it.
    fn in_debian(self) -> &'static str {
        match self {
            Self::X86_64 => "amd64",
            Self::Aarch64 => "arm64",
        }
    }

    /// As compilers and the directories of libraries call it.
    fn triplet(self) -> String {
        format!("{}-linux-gnu", self.name())
    }

    /// As cargo calls it.
    fn target(self) -> String {
        format!("{}-unknown-linux-gnu", self.name())
    }

    fn qemu(self) -> String {
        format!("qemu-system-{}", self.name())
    }

    /// The linker, where it is not this machine's own.
    fn linker(self) -> Option<String> {
        (self.name() != std::env::consts::ARCH).then(|| format!("{}-gcc", self.triplet()))
    }
}

/// What a try came to, if it did not fail.
pub(crate) enum Tried {
    Passed,
    /// The machine, the kernel or a compiler is not to be had here, and why.
    CannotBeHad(String),
}

/// Boots the kernel and has hbpf tried out on it.
pub(crate) fn try_out(kernel: &Kernel) -> Result<Tried> {
    let architecture = kernel.architecture;
    if let Some(lack) = lack(architecture) {
        return Ok(Tried::CannotBeHad(lack));
    }
    let had = packages::kernel(&directory(), architecture, kernel.series)
        .and_then(|vmlinuz| Ok((vmlinuz, packages::openssl(&directory(), architecture)?)));
    let (vmlinuz, openssl) = match had {
        Ok(had) => had,
        Err(error) => return Ok(Tried::CannotBeHad(format!("{error:#}"))),
    };
    let programs = build(architecture)?;
    let image = directory().join(architecture.name()).join("initramfs");
    image::write(&image, architecture, &programs, &openssl)?;
    let machine = boot::Machine { architecture, kernel: &vmlinuz, image: &image, locked: kernel.locked };
    let series = kernel.series.unwrap_or("newest");
    let log = format!("{}-{series}{}.log", architecture.name(), if kernel.locked { "-locked" } else { "" });
    let log = directory().join(log);
    let report = machine.run(&log)?;
    let summary = report.judge(kernel.series, kernel.locked)?;
    println!("    {summary}");
    Ok(Tried::Passed)
}

/// What is missing on this machine.
fn lack(architecture: Architecture) -> Option<String> {
    let there = |program: &str| works(Command::new(program).arg("--version"));
    let mut missing = Vec::new();
    let package = if architecture == Architecture::X86_64 { "qemu-system-x86" } else { "qemu-system-arm" };
    if !there(&architecture.qemu()) {
        missing.push(format!("{} (Debian: {package})", architecture.qemu()));
    }
    if let Some(linker) = architecture.linker().filter(|linker| !there(linker)) {
        let (name, debian) = (architecture.triplet().replace('_', "-"), architecture.in_debian());
        missing.push(format!("{linker} (Debian: gcc-{name} and libc6-dev-{debian}-cross)"));
    }
    missing.extend(["apt-get", "dpkg"].iter().filter(|tool| !there(tool)).map(ToString::to_string));
    if !missing.is_empty() {
        return Some(format!("there is no {}", missing.join(", no ")));
    }
    let target = architecture.target();
    let has_library = || {
        let output = Command::new("rustc").args(["--print", "target-libdir", "--target", &target]).output();
        output.is_ok_and(|output| PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()).is_dir())
    };
    if !has_library() && !works(Command::new("rustup").args(["target", "add", &target])) {
        return Some(format!("Rust has no library for {target}, and `rustup target add {target}` does not get it"));
    }
    None
}

/// Builds what runs in the machines, and says where it lies.
fn build(architecture: Architecture) -> Result<PathBuf> {
    let target = architecture.target();
    let directory = directory().join("build");
    let packages = ["hbpf-tui", "hbpf-demo-server", "hbpf-kernels"];
    let mut build = cargo(&["build", "--quiet", "--target", &target]);
    build.arg("--target-dir").arg(&directory).args(packages.iter().flat_map(|package| ["--package", package]));
    build.env("RUSTFLAGS", RUSTFLAGS).env_remove("CARGO_ENCODED_RUSTFLAGS");
    if let Some(linker) = architecture.linker() {
        let variable = target.to_uppercase().replace('-', "_");
        build.env(format!("CARGO_TARGET_{variable}_LINKER"), linker);
    }
    run(&mut build)?;
    let programs = directory.join(&target).join("debug");
    ensure!(programs.join("hbpf").is_file(), "cargo left no hbpf in {}", programs.display());
    Ok(programs)
}

/// Unpacks programs of Debian's into this directory; downloaded if they are not there.
pub(crate) fn programs(names: &[&str], place: &Path) -> Result<()> {
    packages::programs(&directory(), names, place)
}

/// Where everything for the machines lies.
fn directory() -> PathBuf {
    root().join("target/kernels")
}
