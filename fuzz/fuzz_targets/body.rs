//! Runs `hbpf_fuzz::body`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| hbpf_fuzz::body::run(data));
