//! Fuzz target: bytes as the bitmap of a cache's map.
#![no_main]

use libfuzzer_sys::fuzz_target;
use parsers_fuzz::ready_map;
use rafs_format_fuzz::seeds;

fuzz_target!(init: seeds::write("ready_map", ready_map::seeds), |data: &[u8]| ready_map::try_bytes(data));
