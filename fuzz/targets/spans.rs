//! Fuzz target: bytes as a chunk table of batches or inflate states, and the blob that it describes.
#![no_main]

use libfuzzer_sys::fuzz_target;
use parsers_fuzz::spans;
use rafs_format_fuzz::seeds;

fuzz_target!(init: seeds::write("spans", spans::seeds), |data: &[u8]| spans::try_bytes(data));
