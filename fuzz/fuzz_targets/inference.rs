//! Runs `hbpf_fuzz::inference`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| hbpf_fuzz::inference::run(data));
