//! Runs `hbpf_fuzz::proc`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| hbpf_fuzz::proc::run(data));
