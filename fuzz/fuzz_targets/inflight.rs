//! See `vhost_user_zbd::fuzzing::inflight`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| vhost_user_zbd::fuzzing::inflight(input));
