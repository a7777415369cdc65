//! ELF files, which may lie.

/// The bytes of a file.
pub fn run(data: &[u8]) {
    hbpf_host::fuzzing::elf(data);
}
