//! Files under /proc, parts of which processes choose.

/// The bytes, read as each of the files.
pub fn run(data: &[u8]) {
    hbpf_host::fuzzing::proc(data);
}
