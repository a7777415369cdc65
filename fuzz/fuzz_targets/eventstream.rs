//! Runs `hbpf_fuzz::eventstream`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| hbpf_fuzz::eventstream::run(data));
