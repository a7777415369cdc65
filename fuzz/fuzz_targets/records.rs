//! Runs `hbpf_fuzz::records`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| hbpf_fuzz::records::run(data));
