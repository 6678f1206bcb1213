//! See `vhost_user_zbd::fuzzing::request`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| vhost_user_zbd::fuzzing::request(input));
