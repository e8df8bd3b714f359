#![no_main]

use cidalloc_fuzz::ranges::TARGET;

libfuzzer_sys::fuzz_target!(|input: &[u8]| (TARGET.run)(input, "").unwrap());
