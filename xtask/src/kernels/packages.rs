//! Packages of Debian, of other releases and architectures than this machine's too. Nothing is installed: apt has a
//! configuration of its own, whose state lies in `target/`, and packages are unpacked there.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::Architecture;
use crate::tools::run;

/// Which releases there are packages of, and whether in the archive of security updates. Each kernel series is in one of
/// them; which one is not asked.
const SUITES: [(&str, Archive); 6] = [
    ("bullseye-security", Archive::Security),
    ("bookworm", Archive::Main),
    ("bookworm-security", Archive::Security),
    ("trixie", Archive::Main),
    ("trixie-backports", Archive::Main),
    ("sid", Archive::Main),
];

/// The release that OpenSSL comes from: one whose packages need no others than these.
const OPENSSL_SUITE: &str = "bookworm";
const OPENSSL: [&str; 3] = ["openssl", "libssl3", "libc6"];

/// Debian signs its archives with these keys.
const KEYS: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// How long the lists of packages are good for: what they name is replaced, and gone, in weeks.
const LISTS_LAST: Duration = Duration::from_secs(24 * 60 * 60);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Archive {
    Main,
    Security,
}

/// Where a kernel of this series lies, the newest of it; downloaded if it is not there. `None`: of the newest series.
pub(super) fn kernel(directory: &Path, architecture: Architecture, series: Option<&str>) -> Result<PathBuf> {
    let place = directory.join(architecture.name()).join(series.unwrap_or("newest"));
    let kernel = place.join("vmlinuz");
    if kernel.is_file() {
        return Ok(kernel);
    }
    let apt = Apt::open(directory)?;
    let names = apt.names()?;
    let name = newest(names.lines(), architecture, series).with_context(|| {
        format!("Debian has no kernel {} for {}", series.unwrap_or("at all"), architecture.in_debian())
    })?;
    let unpacked = apt.unpack(&[format!("{name}:{}", architecture.in_debian())], &place.join("package"))?;
    let found = find_kernel(&unpacked).with_context(|| format!("there is no kernel in {name}"))?;
    // It is whole when it has its name.
    fs::rename(found, &kernel)?;
    fs::remove_dir_all(unpacked)?;
    println!("    {name} is in {}", place.display());
    Ok(kernel)
}

/// Where OpenSSL's client and what it needs is unpacked; downloaded if it is not there.
pub(super) fn openssl(directory: &Path, architecture: Architecture) -> Result<PathBuf> {
    let place = directory.join(architecture.name()).join("openssl");
    if place.is_dir() {
        return Ok(place);
    }
    let apt = Apt::open(directory)?;
    let packages = OPENSSL.map(|name| format!("{name}:{}/{OPENSSL_SUITE}", architecture.in_debian()));
    let unpacked = apt.unpack(&packages, &place.with_extension("new"))?;
    fs::rename(unpacked, &place)?;
    Ok(place)
}

/// Unpacks programs into this directory; downloaded if they are not there. `state`: where apt has what it knows.
pub(super) fn programs(state: &Path, packages: &[&str], place: &Path) -> Result<()> {
    if place.is_dir() {
        return Ok(());
    }
    let apt = Apt::open(state)?;
    let packages: Vec<String> = packages.iter().map(|name| (*name).to_owned()).collect();
    let unpacked = apt.unpack(&packages, &place.with_extension("new"))?;
    fs::rename(unpacked, place)?;
    Ok(())
}

/// The package with the newest kernel of a series, of these.
fn newest<'a>(
    names: impl Iterator<Item = &'a str>,
    architecture: Architecture,
    series: Option<&str>,
) -> Option<&'a str> {
    let suffix = format!("-cloud-{}", architecture.in_debian());
    let kernels = names.filter_map(|name| {
        // The kernel itself has been in the second one since both are apart.
        let kinds = ["linux-image-", "linux-binary-"];
        let (kind, rest) =
            kinds.iter().enumerate().find_map(|(kind, prefix)| Some((kind, name.strip_prefix(prefix)?)))?;
        let version = rest.strip_suffix(&suffix)?;
        let is_wanted = series.is_none_or(|series| {
            version.strip_prefix(series).is_some_and(|rest| rest.starts_with('.') && rest.len() > 1)
        });
        let numbers: Vec<u32> = version.split(|c: char| !c.is_ascii_digit()).filter_map(|n| n.parse().ok()).collect();
        // Others than these (`unsigned-...`, `6.1`) are no kernels by a number.
        let is_kernel = version.starts_with(|c: char| c.is_ascii_digit()) && numbers.len() >= 3;
        (is_wanted && is_kernel).then_some((numbers, kind, name))
    });
    kernels.max().map(|(_, _, name)| name)
}

/// The one file that is called `vmlinuz` and something.
fn find_kernel(directory: &Path) -> Option<PathBuf> {
    let entries = fs::read_dir(directory).ok()?.flatten();
    entries.map(|entry| entry.path()).find_map(|path| {
        let is_link = path.is_symlink();
        let name = path.file_name()?.to_str()?;
        match path.is_dir() && !is_link {
            true => find_kernel(&path),
            false => (name.starts_with("vmlinuz") && !is_link).then(|| path.clone()),
        }
    })
}

/// apt with other sources than this machine's.
struct Apt {
    configuration: PathBuf,
}

impl Apt {
    /// Reads the lists of packages, where that is not done.
    fn open(directory: &Path) -> Result<Self> {
        let state = directory.join("apt");
        let apt = Self { configuration: state.join("apt.conf") };
        let updated = state.join("updated");
        let age = fs::metadata(&updated).and_then(|marker| marker.modified()).ok().and_then(|at| at.elapsed().ok());
        if age.is_some_and(|age| age < LISTS_LAST) {
            return Ok(apt);
        }
        let main = source("Debian").context(
            "this machine's apt has no source of Debian's: other kernels come from the archive that it names",
        )?;
        let security = source("Debian-Security").unwrap_or_else(|| format!("{}-security", main.trim_end_matches('/')));
        for part in ["lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(state.join(part))?;
        }
        let debian = [Architecture::X86_64, Architecture::Aarch64].map(Architecture::in_debian);
        let line = |(suite, archive): &(&str, Archive)| {
            let place = if *archive == Archive::Main { &main } else { &security };
            format!("deb [signed-by={KEYS}] {place} {suite} main\n")
        };
        fs::write(state.join("sources.list"), SUITES.iter().map(line).collect::<String>())?;
        fs::write(state.join("status"), "")?;
        let at = |part: &str| state.join(part).display().to_string();
        let configuration = format!(
            "Dir::State \"{}\";\nDir::State::Lists \"{}\";\nDir::State::Status \"{}\";\nDir::Cache \"{}\";\n\
             Dir::Etc::SourceList \"{}\";\nDir::Etc::SourceParts \"/dev/null\";\nDir::Etc::PreferencesParts \"/dev/null\";\n\
             Dir::Etc::Preferences \"/dev/null\";\nAPT::Architectures {{ \"{}\"; \"{}\"; }};\nAcquire::Languages \"none\";\n\
             Acquire::IndexTargets::deb::DEP-11::DefaultEnabled \"false\";\nAPT::Sandbox::User \"\";\n",
            at(""),
            at("lists"),
            at("status"),
            at("cache"),
            at("sources.list"),
            debian[0],
            debian[1],
        );
        fs::write(&apt.configuration, configuration)?;
        // A release that is archived by now fails; what it had is missed where it is wanted.
        let _ = run(apt.command("apt-get").args(["update", "-qq"]));
        ensure!(!apt.names()?.is_empty(), "apt-get update got no lists of packages");
        fs::write(updated, "")?;
        Ok(apt)
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.arg("-c").arg(&self.configuration);
        command
    }

    /// All packages' names, one a line.
    fn names(&self) -> Result<String> {
        let output = self.command("apt-cache").args(["pkgnames", "linux-"]).output().context("cannot run apt-cache")?;
        ensure!(output.status.success(), "apt-cache pkgnames: {}", String::from_utf8_lossy(&output.stderr).trim());
        Ok(String::from_utf8(output.stdout)?)
    }

    /// Downloads packages and unpacks them into this directory, which is emptied before.
    fn unpack(&self, packages: &[String], directory: &Path) -> Result<PathBuf> {
        let downloads = directory.with_extension("download");
        for place in [directory, &downloads] {
            let _ = fs::remove_dir_all(place);
            fs::create_dir_all(place)?;
        }
        let status =
            self.command("apt-get").args(["download", "-qq"]).args(packages).current_dir(&downloads).status()?;
        ensure!(status.success(), "apt-get download {} ended with {status}", packages.join(" "));
        for entry in fs::read_dir(&downloads)? {
            run(Command::new("dpkg").arg("-x").arg(entry?.path()).arg(directory))?;
        }
        fs::remove_dir_all(&downloads)?;
        Ok(directory.to_owned())
    }
}

/// Where this machine has a part of Debian from, by the label that the archive has.
fn source(label: &str) -> Option<String> {
    let format = ["indextargets", "--format", "$(LABEL) $(REPO_URI)", "Created-By: Packages"];
    let output = Command::new("apt-get").args(format).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    text.lines().find_map(|line| line.strip_prefix(label)?.strip_prefix(' ').map(str::to_owned))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_kernel_of_a_series_is_chosen_by_its_numbers() {
        let names = [
            "linux-image-5.10.0-9-cloud-amd64",
            "linux-image-5.10.0-46-cloud-amd64",
            "linux-image-5.10.0-47-cloud-arm64",
            "linux-image-5.10.0-48-cloud-amd64-dbg",
            "linux-image-5.10.0-48-cloud-amd64-unsigned",
            "linux-image-6.1-cloud-amd64",
            "linux-image-6.1.0-0.deb11.52-cloud-amd64",
            "linux-image-6.1.0-50-cloud-amd64",
            "linux-image-6.12.107+deb13-cloud-amd64",
            "linux-image-7.3.4+deb13-cloud-amd64",
            "linux-binary-7.3.4+deb13-cloud-amd64",
            "linux-binary-unsigned-7.3.5+deb13-cloud-amd64",
            "linux-binary-7.2.13+deb14-cloud-amd64",
            "linux-image-cloud-amd64",
        ];
        let of = |architecture, series| newest(names.into_iter(), architecture, series);
        assert_eq!(of(Architecture::X86_64, Some("5.10")), Some("linux-image-5.10.0-46-cloud-amd64"));
        assert_eq!(of(Architecture::Aarch64, Some("5.10")), Some("linux-image-5.10.0-47-cloud-arm64"));
        assert_eq!(of(Architecture::X86_64, Some("6.1")), Some("linux-image-6.1.0-50-cloud-amd64"));
        assert_eq!(of(Architecture::X86_64, None), Some("linux-binary-7.3.4+deb13-cloud-amd64"));
        assert_eq!(of(Architecture::X86_64, Some("6.18")), None);
    }
}
