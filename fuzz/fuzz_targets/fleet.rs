//! Runs `hbpf_fuzz::fleet`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| hbpf_fuzz::fleet::run(data));
