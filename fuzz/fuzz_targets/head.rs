//! Runs `hbpf_fuzz::head`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| hbpf_fuzz::head::run(data));
