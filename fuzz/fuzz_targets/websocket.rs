//! Runs `hbpf_fuzz::websocket`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| hbpf_fuzz::websocket::run(data));
