#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| sw_fuzz::check("filter_rules", data));
