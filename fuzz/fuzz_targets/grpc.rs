//! Runs `hbpf_fuzz::grpc`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| hbpf_fuzz::grpc::run(data));
