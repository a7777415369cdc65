//! What the tests of the eBPF objects share.

use std::{env, path::PathBuf};

use aya::{Ebpf, EbpfLoader};

/// The object for an architecture: the committed one, or one at the place that `HBPF_EBPF_OBJECTS` names.
pub(crate) fn object(architecture: &str) -> Vec<u8> {
    let path = env::var_os("HBPF_EBPF_OBJECTS")
        .map_or_else(|| PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../hbpf-ebpf/dist")), PathBuf::from)
        .join(format!("hbpf.{architecture}.o"));
    std::fs::read(&path).unwrap_or_else(|error| panic!("reading {}: {error}", path.display()))
}

/// The maps of an object, and its programs as the helper loads them.
pub(crate) fn create_maps(object: &[u8]) -> Ebpf {
    let socket_owned_at = hbpf_host::btf::Places::read().socket_owned_at.unwrap_or(0);
    let mut loader = EbpfLoader::new();
    loader.override_global(hbpf_ebpf::SOCKET_OWNED_AT, &socket_owned_at, true);
    loader.load(object).expect("the maps are created")
}

/// Whether programs can be loaded at all; says why not, unless the run insists.
pub(crate) fn can_load() -> bool {
    nix::unistd::geteuid().is_root() || skip("loading eBPF programs needs root").is_some()
}

/// Says why a test does not run, unless it has to.
pub(crate) fn skip(reason: &str) -> Option<()> {
    assert!(env::var_os("HBPF_REQUIRE_BPF").is_none(), "{reason}");
    eprintln!("skipped: {reason}");
    None
}
