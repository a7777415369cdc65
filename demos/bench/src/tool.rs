//! Programs that benches need and that may be missing.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Directories of programs for administrators, which are on root's path on some systems only.
const MORE: [&str; 2] = ["/usr/sbin", "/sbin"];

/// The path of a program.
pub(crate) fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let directories = std::env::split_paths(&path).chain(MORE.map(PathBuf::from));
    directories.map(|directory| directory.join(name)).find(|program| program.is_file())
}

/// Python that has this module, the environment of `cargo xtask setup` before any other.
pub(crate) fn python_with(module: &str) -> Option<PathBuf> {
    let candidates = [crate::root().join("target/venv/bin/python"), PathBuf::from("python3")];
    candidates.into_iter().find(|python| imports(python, module))
}

fn imports(python: &Path, module: &str) -> bool {
    let mut command = Command::new(python);
    command.args(["-c", &format!("import {module}")]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}
