//! Fuzz target: bytes as a blob whose sections are found from its end.
#![no_main]

use libfuzzer_sys::fuzz_target;
use parsers_fuzz::sections;
use rafs_format_fuzz::seeds;

fuzz_target!(init: seeds::write("sections", sections::seeds), |data: &[u8]| sections::try_bytes(data));
