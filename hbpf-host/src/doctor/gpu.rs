//! Whether NVIDIA's management library is there. It is looked for, not loaded: its code runs only where GPUs are read.

use std::path::{Path, PathBuf};

use super::{Check, Outcome};

const LIBRARY: &str = "libnvidia-ml.so.1";

/// Where it lies if the loader's cache does not know it: distributions, containers, WSL.
const FOLDERS: [&str; 7] = [
    "/usr/lib/x86_64-linux-gnu",
    "/usr/lib/aarch64-linux-gnu",
    "/usr/lib64",
    "/usr/lib",
    "/usr/local/nvidia/lib64",
    "/usr/lib/wsl/lib",
    "/run/opengl-driver/lib",
];

pub(super) fn library() -> Check {
    let driver = Path::new("/proc/driver/nvidia/version").exists() || Path::new("/dev/nvidiactl").exists();
    let cache = std::fs::read("/etc/ld.so.cache").unwrap_or_default();
    let found = in_cache(&cache)
        .into_iter()
        .chain(FOLDERS.map(|folder| Path::new(folder).join(LIBRARY)))
        .find(|path| path.exists());
    match (found, driver) {
        (Some(path), true) => Check::new("GPU library", Outcome::Ok, path.display().to_string()),
        (Some(path), false) => {
            Check::new("GPU library", Outcome::Ok, format!("{}, but no driver is loaded", path.display()))
        }
        (None, false) => Check::new("GPU library", Outcome::Ok, "no NVIDIA driver is loaded"),
        (None, true) => {
            Check::new("GPU library", Outcome::Warn, format!("an NVIDIA driver is loaded, but there is no {LIBRARY}"))
                .advise("install the driver's libraries; in a container, set NVIDIA_DRIVER_CAPABILITIES=utility")
        }
    }
}

/// Paths of the library in the loader's cache, which holds them as strings that end in NUL.
fn in_cache(cache: &[u8]) -> Vec<PathBuf> {
    let ending = format!("/{LIBRARY}");
    let strings = cache.split(|byte| *byte == 0).filter_map(|bytes| std::str::from_utf8(bytes).ok());
    strings.filter(|text| text.starts_with('/') && text.ends_with(&ending)).map(PathBuf::from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_library_is_found_in_the_loaders_cache() {
        let cache = b"glibc-ld.so.cache1.1\x05\x00\xff\xfe\0libnvidia-ml.so.1\0/lib/a/libnvidia-ml.so.1\0/lib/libnvidia-ml.so.12\0";
        assert_eq!(in_cache(cache), [PathBuf::from("/lib/a/libnvidia-ml.so.1")]);
        assert!(in_cache(b"").is_empty());
    }
}
