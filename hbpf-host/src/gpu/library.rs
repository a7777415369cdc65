//! Where NVIDIA's management library is.

use std::path::{Path, PathBuf};

use crate::process::files;

const NAME: &str = "libnvidia-ml.so.1";

/// Where it lies if the loader's cache does not know it: distributions, containers, WSL, GKE's nodes, NixOS.
const FOLDERS: [&str; 8] = [
    "/usr/lib/x86_64-linux-gnu",
    "/usr/lib/aarch64-linux-gnu",
    "/usr/lib64",
    "/usr/lib",
    "/usr/local/nvidia/lib64",
    "/home/kubernetes/bin/nvidia/lib64",
    "/usr/lib/wsl/lib",
    "/run/opengl-driver/lib",
];

/// Longest loader's cache that is read: a few hundred bytes a library.
const MAX_CACHE_BYTES: usize = 16 * 1024 * 1024;

/// The library, if there is one.
pub(crate) fn find() -> Option<PathBuf> {
    let cache = files::read(Path::new("/etc/ld.so.cache"), MAX_CACHE_BYTES).map(|file| file.bytes).unwrap_or_default();
    let all = in_cache(&cache).into_iter().chain(FOLDERS.map(|folder| Path::new(folder).join(NAME)));
    all.into_iter().find(|path| path.exists())
}

/// Whether the kernel's driver is loaded.
pub(crate) fn is_driver_loaded() -> bool {
    Path::new("/proc/driver/nvidia/version").exists() || Path::new("/dev/nvidiactl").exists()
}

/// Paths of the library in the loader's cache, which holds them as strings that end in NUL. Of several those of this
/// machine's own word size come first.
fn in_cache(cache: &[u8]) -> Vec<PathBuf> {
    let ending = format!("/{NAME}");
    let strings = cache.split(|byte| *byte == 0).filter_map(|bytes| std::str::from_utf8(bytes).ok());
    let mut found: Vec<&str> = strings.filter(|text| text.starts_with('/') && text.ends_with(&ending)).collect();
    found.sort_by_key(|path| path.contains("32") || path.contains("i386"));
    found.into_iter().map(PathBuf::from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_library_is_found_in_the_loaders_cache() {
        let cache = b"glibc-ld.so.cache1.1\x05\x00\xff\xfe\0libnvidia-ml.so.1\0/lib32/libnvidia-ml.so.1\0/lib/a/libnvidia-ml.so.1\0/lib/libnvidia-ml.so.12\0";
        assert_eq!(in_cache(cache), ["/lib/a/libnvidia-ml.so.1", "/lib32/libnvidia-ml.so.1"].map(PathBuf::from));
        assert!(in_cache(b"").is_empty());
    }
}
