//! What a machine's memory holds when it starts: an archive as in the kernel's
//! `Documentation/driver-api/early-userspace/buffer-format.rst`.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::Path;

use anyhow::{Context, Result};

use super::Architecture;

const DIRECTORY: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const CONSOLE: u32 = 0o020_600;
/// Major and minor number of `/dev/console`, to which the first process writes.
const CONSOLE_DEVICE: [u32; 2] = [5, 1];

/// The name that ends an archive.
const TRAILER: &str = "TRAILER!!!";

/// Writes the archive: our programs of this directory, and OpenSSL's client out of another.
pub(super) fn write(to: &Path, architecture: Architecture, programs: &Path, openssl: &Path) -> Result<()> {
    let triplet = architecture.triplet();
    // Where programs look for what loads their libraries is written in them.
    let loader = match architecture {
        Architecture::X86_64 => "lib64/ld-linux-x86-64.so.2",
        Architecture::Aarch64 => "lib/ld-linux-aarch64.so.1",
    };
    let libraries = format!("usr/lib/{triplet}");
    let mut archive = Archive { to: BufWriter::new(File::create(to)?), written: 0, files: 0 };
    for directory in ["bin", "dev", "lib", "lib64", "usr", "usr/bin", "usr/lib", &libraries] {
        archive.entry(directory, DIRECTORY, [0, 0], &[])?;
    }
    archive.entry("dev/console", CONSOLE, CONSOLE_DEVICE, &[])?;
    archive.file("init", &programs.join("hbpf-kernels"))?;
    for name in ["hbpf", "hbpf-demo-server"] {
        archive.file(&format!("bin/{name}"), &programs.join(name))?;
    }
    archive.file("usr/bin/openssl", &openssl.join("usr/bin/openssl"))?;
    for name in ["libssl.so.3", "libcrypto.so.3"] {
        archive.file(&format!("{libraries}/{name}"), &openssl.join(&libraries).join(name))?;
    }
    let (_, name) = loader.rsplit_once('/').context("it is in a directory")?;
    for (place, name) in [(format!("{libraries}/libc.so.6"), "libc.so.6"), (loader.to_owned(), name)] {
        archive.file(&place, &openssl.join(format!("lib/{triplet}")).join(name))?;
    }
    archive.entry(TRAILER, 0, [0, 0], &[])?;
    archive.to.flush()?;
    Ok(())
}

struct Archive {
    to: BufWriter<File>,
    written: usize,
    files: u32,
}

impl Archive {
    fn file(&mut self, name: &str, from: &Path) -> Result<()> {
        let content = fs::read(from).with_context(|| format!("cannot read {}", from.display()))?;
        self.entry(name, PROGRAM, [0, 0], &content).with_context(|| format!("{name} for the machine"))
    }

    fn entry(&mut self, name: &str, mode: u32, device: [u32; 2], content: &[u8]) -> Result<()> {
        self.files += 1;
        let (size, name_size) = (u32::try_from(content.len())?, u32::try_from(name.len() + 1)?);
        // Inode, mode, user, group, links, time, size, device of the file, device that it is, length of its name, no checksum.
        let numbers = [self.files, mode, 0, 0, 1, 0, size, 0, 0, device[0], device[1], name_size, 0];
        let numbers: String = numbers.iter().map(|number| format!("{number:08x}")).collect();
        self.write(format!("070701{numbers}{name}\0").as_bytes())?;
        self.write(content)
    }

    /// Writes bytes, and zeros up to where the next may begin.
    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let end = (self.written + bytes.len()).next_multiple_of(4);
        self.to.write_all(bytes)?;
        self.to.write_all(&[0; 3][..end - self.written - bytes.len()])?;
        self.written = end;
        Ok(())
    }
}
