//! Runs `hbpf_fuzz::json`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| hbpf_fuzz::json::run(data));
