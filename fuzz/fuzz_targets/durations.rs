//! Runs `hbpf_fuzz::durations`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| hbpf_fuzz::durations::run(data));
