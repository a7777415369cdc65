//! Runs `hbpf_fuzz::label`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| hbpf_fuzz::label::run(data));
