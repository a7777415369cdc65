//! The Linux side of hbpf: probes, processes, TLS libraries, and the privileged helper.

pub mod discover;
pub mod process;
pub mod protocol;
