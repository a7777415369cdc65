//! The built object for this architecture.

#[cfg(target_arch = "x86_64")]
pub(super) static BYTES: &[u8] =
    aya::include_bytes_aligned!(concat!(env!("CARGO_MANIFEST_DIR"), "/../hbpf-ebpf/dist/hbpf.x86_64.o"));

#[cfg(target_arch = "aarch64")]
pub(super) static BYTES: &[u8] =
    aya::include_bytes_aligned!(concat!(env!("CARGO_MANIFEST_DIR"), "/../hbpf-ebpf/dist/hbpf.aarch64.o"));

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
compile_error!("the eBPF programs are built for x86_64 and aarch64 only");
