//! Runs `hbpf_fuzz::dialect`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| hbpf_fuzz::dialect::run(data));
