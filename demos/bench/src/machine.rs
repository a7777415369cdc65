//! The machine that numbers come from.

use std::fs;
use std::path::Path;
use std::process::Command;

use nix::sys::utsname::uname;

/// One line: processor, cores, virtualised or not, kernel, date, commit.
pub(crate) fn describe(root: &Path) -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let cpu = field(&info, "model name").unwrap_or_else(|| std::env::consts::ARCH.to_owned());
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let virtualised = match info.lines().find(|line| line.starts_with("flags")) {
        Some(flags) if flags.split_whitespace().any(|flag| flag == "hypervisor") => "virtualised",
        Some(_) => "bare metal",
        None => "virtualised or not is not known",
    };
    let kernel = uname().map(|name| name.release().to_string_lossy().into_owned()).unwrap_or_default();
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kilobytes = field(&memory, "MemTotal").and_then(|line| line.split(' ').next()?.parse::<f64>().ok());
    let memory = kilobytes.map_or(String::new(), |kilobytes| format!(", {:.0} GiB", kilobytes / 1024.0 / 1024.0));
    let date = jiff::Timestamp::now().strftime("%Y-%m-%d");
    format!("{cpu}, {cores} cores ({virtualised}){memory}, Linux {kernel}, {date}, hbpf {}", commit(root))
}

fn field(text: &str, name: &str) -> Option<String> {
    let line = text.lines().find(|line| line.starts_with(name))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

fn commit(root: &Path) -> String {
    let git = |arguments: &[&str]| {
        let output = Command::new("git").current_dir(root).args(arguments).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let Some(commit) = git(&["rev-parse", "--short=10", "HEAD"]) else { return "of an unknown commit".to_owned() };
    let changed = git(&["status", "--porcelain", "--untracked-files=no"]).is_none_or(|changes| !changes.is_empty());
    if changed { format!("{commit} with changes") } else { commit }
}

#[cfg(test)]
mod tests {
    use super::field;

    #[test]
    fn fields_of_proc_files() {
        let text = "processor\t: 0\nmodel name\t: A: CPU\nMemTotal:       1048576 kB\n";
        assert_eq!(field(text, "model name").as_deref(), Some("A: CPU"));
        assert_eq!(field(text, "MemTotal").as_deref(), Some("1048576 kB"));
        assert_eq!(field(text, "flags"), None);
    }
}
