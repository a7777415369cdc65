//! The Linux side of hbpf: probes, processes, TLS libraries, and the privileged helper.

pub mod protocol;
