//! Runs `hbpf_fuzz::ndjson`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| hbpf_fuzz::ndjson::run(data));
